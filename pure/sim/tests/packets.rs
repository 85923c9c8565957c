//! The packet-level simulator against first principles: times computed by hand, conservation, determinism, and every
//! message delivered once whatever is wrong with the fabric.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use selvedge_sim::packets::matrix::Matrix;
use selvedge_sim::packets::run::{Faults, Outcome, Routing, Setup, run};
use selvedge_sim::packets::topology::Topology;
use transport::{Balancing, Config, Control};

const FULL: f64 = 4150.0 * 0.08 / 1000.0;
const HEADER: f64 = 64.0 * 0.08 / 1000.0;

fn matrix(text: &str) -> Matrix {
    Matrix::parse(text).unwrap()
}

fn with(control: Control) -> Setup {
    Setup { transport: Config { control, ..Config::default() }, ..Setup::default() }
}

fn laws(o: &Outcome, flows: usize, what: &str) {
    let c = &o.counters;
    assert_eq!(c.sent, c.acknowledged + c.lost + o.in_flight, "{what}: every packet has one fate");
    assert_eq!(c.lost, c.lost_trimmed + c.lost_gap + c.lost_late, "{what}");
    assert_eq!(
        o.network.given,
        o.network.delivered + o.network.dropped() + o.inside,
        "{what}: nothing vanishes"
    );
    assert_eq!(c.timeouts, 0, "{what}");
    assert_eq!(o.delivered, flows as u64, "{what}: every message once");
    assert_eq!(c.messages_received, flows as u64, "{what}");
    assert!(o.tail_us().is_some(), "{what}: every flow done");
}

/// A message alone in the fabric: its packets leave one behind the other, each hop stores and forwards, and the time
/// is that of the last ACK's arrival.
fn alone_us(bytes: u64, hops: f64) -> f64 {
    let packets = bytes.div_ceil(4086);
    let last = (bytes - (packets - 1) * 4086 + 64) as f64 * 0.08 / 1000.0;
    // the last one waits at each hop for the full one before it, save where it is the first
    let pipeline = if packets > 1 { (hops - 1.0) * (FULL + 1.0) } else { (hops - 1.0) * (last + 1.0) };
    (packets - 1) as f64 * FULL + pipeline + last + 1.0 + hops * (1.0 + HEADER)
}

#[test]
fn a_flow_alone_takes_what_first_principles_say() {
    let far = Topology::fat_tree(16);
    for (bytes, published) in
        [(2_000_000, Some(176.2)), (40_860, Some(17.0107)), (408_600, Some(46.8907)), (100, None)]
    {
        let m = matrix(&format!("Nodes 16\n0->13 start 0 size {bytes}"));
        let o = run(&m, &far, &with(Control::Sender));
        let (got, expected) = (o.tail_us().unwrap(), alone_us(bytes, 6.0));
        assert!((got - expected).abs() < 0.01, "{bytes} bytes: {got} us, by hand {expected}");
        if let Some(p) = published {
            assert!((got - p).abs() / p < 0.001, "{bytes} bytes: {got} us, published {p}");
        }
        laws(&o, 1, "alone");
    }
    // within a leaf and within a pod
    for (to, hops) in [(1, 2.0), (2, 4.0)] {
        let m = matrix(&format!("Nodes 16\n0->{to} start 0 size 400000"));
        let got = run(&m, &far, &with(Control::Sender)).tail_us().unwrap();
        assert!((got - alone_us(400_000, hops)).abs() < 0.01, "{hops} hops: {got}");
    }
}

#[test]
fn grants_cost_a_flow_alone_less_than_one_percent() {
    let m = matrix("Nodes 16\n0->13 start 0 size 2000000");
    for control in [Control::Receiver, Control::Both] {
        let got = run(&m, &Topology::fat_tree(16), &with(control)).tail_us().unwrap();
        assert!((got - 177.368).abs() / 177.368 < 0.005, "{control:?}: {got} us, published 177.368");
    }
}

fn permutation(n: u32, bytes: u64) -> Matrix {
    let flows: String =
        (0..n).map(|i| format!("{i}->{} start 0 size {bytes}\n", (i + n / 2 + 1) % n)).collect();
    matrix(&format!("Nodes {n}\n{flows}"))
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_another() {
    let m = permutation(16, 300_000);
    let t = Topology::fat_tree(16);
    let go = |seed| run(&m, &t, &Setup { seed, ..with(Control::Both) });
    let (a, b, c) = (go(1), go(1), go(2));
    assert_eq!(a, b);
    assert_ne!(a.trace, c.trace);
}

#[test]
fn every_message_once_whatever_is_wrong() {
    let m = permutation(16, 200_000);
    let t = Topology::fat_tree(16);
    for seed in 0..60u64 {
        let controls = [Control::Sender, Control::Receiver, Control::Both];
        let balancings = [Balancing::Oblivious, Balancing::Bitmap, Balancing::Reps, Balancing::Mixed];
        let setup = Setup {
            transport: Config {
                control: controls[seed as usize % 3],
                balancing: balancings[seed as usize % 4],
                evs: [4, 16, 64][seed as usize % 3],
                ..Config::default()
            },
            trim: seed % 2 == 0,
            routing: if seed % 5 == 0 { Routing::Hashed } else { Routing::Exact },
            queue_packets: Some([8, 43, 190][seed as usize % 3]),
            faults: Faults {
                slow_links: (seed % 4) as u32,
                slow_share: 0.25,
                down: t.downlink((seed % 7) as u32).map(|l| (l, 20_000_000)).into_iter().collect(),
                loss: [0.0, 0.001, 0.02][seed as usize / 3 % 3],
            },
            seed,
            ..Setup::default()
        };
        let o = run(&m, &t, &setup);
        laws(&o, 16, &format!("seed {seed} {setup:?}"));
    }
}

#[test]
fn a_dead_path_costs_a_permutation_a_few_round_trips() {
    let m = permutation(128, 1_000_000);
    let t = Topology::fat_tree(128);
    let healthy = run(&m, &t, &with(Control::Both)).tail_us().unwrap();
    let down = t.downlink(0).map(|l| (l, 30_000_000)).into_iter().collect();
    let sick = run(
        &m,
        &t,
        &Setup { faults: Faults { down, slow_share: 0.25, ..Faults::default() }, ..with(Control::Both) },
    );
    laws(&sick, 128, "one core link dead");
    let cost = sick.tail_us().unwrap() - healthy;
    // a transport that knew at once would need one; measured are three to four
    assert!(cost < 5.0 * 14.023, "it cost {cost:.1} us; five round trips are 70.1");
}

#[test]
fn an_incast_keeps_the_last_hop_busy_and_loses_little() {
    let flows: String = (1..65).map(|i| format!("{i}->0 start 0 size 100000\n")).collect();
    let m = matrix(&format!("Nodes 128\n{flows}"));
    for control in [Control::Sender, Control::Receiver, Control::Both] {
        let o = run(&m, &Topology::fat_tree(128), &with(control));
        laws(&o, 64, "incast");
        // 24 full packets and one of 2,000 bytes each, over one link
        let bound = 64.0 * (24.0 * FULL + 2000.0 * 0.08 / 1000.0);
        let tail = o.tail_us().unwrap();
        assert!(tail < bound * 1.02 + 20.0, "{control:?}: {tail:.1} us, the link needs {bound:.1}");
        let again = o.counters.chunks_again as f64 / o.counters.chunks_new as f64;
        assert!(again <= 0.45, "{control:?}: {again:.2} retransmissions a packet");
    }
}

#[test]
fn triggers_start_flows_one_after_the_other() {
    let m = matrix(
        "Nodes 4\nTriggers 1\n0->1 id 1 start 0 size 40860 send_done_trigger 5\n\
         1->0 id 2 trigger 5 size 40860\ntrigger id 5 oneshot",
    );
    let o = run(&m, &Topology::fat_tree(4), &with(Control::Sender));
    let done: Vec<f64> = o.done_us.iter().flatten().copied().collect();
    assert_eq!(done.len(), 2);
    assert!((done[1] - 2.0 * done[0]).abs() < 0.02, "{done:?}");
}

#[test]
fn more_messages_than_a_connection_keeps_wait_for_their_turn() {
    let flows: String = (0..1500).map(|_| "0->1 id 1 msg start 0 size 5000\n").collect();
    let o = run(&matrix(&format!("Nodes 2\n{flows}")), &Topology::fat_tree(2), &with(Control::Both));
    laws(&o, 1500, "many messages");
}

#[test]
fn everybody_to_everybody() {
    let pairs = (0..16).flat_map(|a| (0..16).filter(move |&b| b != a).map(move |b| (a, b)));
    let flows: String = pairs.map(|(a, b)| format!("{a}->{b} start 0 size 100000\n")).collect();
    let o = run(&matrix(&format!("Nodes 16\n{flows}")), &Topology::fat_tree(16), &with(Control::Both));
    laws(&o, 240, "all to all");
    // each port carries fifteen messages in and out
    let bound = 15.0 * (24.0 * FULL + 2000.0 * 0.08 / 1000.0);
    let tail = o.tail_us().unwrap();
    assert!(tail < bound * 1.15 + 20.0, "{tail:.1} us, a port needs {bound:.1}");
}

/// Eight paths of 100 Mbit/s between two leaves, with plain queues of 50 ms, as token buckets make them.
fn eight_slow_paths() -> (Topology, Setup) {
    let mut topology = Topology::parse(
        "Nodes 32\nTiers 2\nPodsize 32\n\
         Tier 0\nDownlink_speed_Gbps 25\nRadix_Up 8\nRadix_Down 16\nDownlink_Latency_ns 5000\n\
         Tier 1\nDownlink_speed_Gbps 1\nRadix_Down 2\nDownlink_Latency_ns 5000\n",
    )
    .unwrap();
    topology.rate_bps[1] = 100_000_000;
    let transport = Config {
        chunk_bytes: 1352,
        header_bytes: 96,
        ack_every_bytes: 65_536,
        queue_target: wire::Nanos(500_000),
        ..Config::default()
    };
    let setup = Setup {
        transport,
        trim: false,
        marks: false,
        segments_max: 16,
        queue_packets: Some(430),
        ..Setup::default()
    };
    (topology, setup)
}

/// A window that waits for marks fills such queues, and bursts on EVs that came back put everything on few paths: 0.3 of
/// what the paths carry.
#[test]
fn slow_paths_that_do_not_mark_are_filled_evenly() {
    let (topology, setup) = eight_slow_paths();
    let m = matrix("Nodes 32\n0->20 start 0 size 32000000");
    for (segments_max, routing, least) in [
        (1, Routing::Exact, 0.97),
        (16, Routing::Exact, 0.97),
        (1, Routing::Hashed, 0.85),
        (16, Routing::Hashed, 0.8),
    ] {
        let what = format!("{segments_max} packets at once, {routing:?}");
        let o = run(&m, &topology, &Setup { segments_max, routing, ..setup.clone() });
        let carried = 800e6 * 1352.0 / 1448.0;
        let goodput = 32e6 * 8.0 / (o.tail_us().unwrap() / 1e6);
        assert!(goodput / carried > least, "{what}: {:.3} of what the paths carry", goodput / carried);
        laws(&o, 1, &what);
        assert_eq!(o.counters.lost, 0, "{what}");
    }
}

/// One of eight paths carries a tenth of what the others do. Its oldest packet holds back what an ACK can name from the
/// oldest open one on, while thousands arrive on the others.
#[test]
fn a_slow_path_does_not_hold_the_others() {
    let (topology, setup) = eight_slow_paths();
    let m = matrix("Nodes 32\n0->20 start 0 size 64000000");
    for (segments_max, routing, least) in [(16, Routing::Exact, 0.8), (16, Routing::Hashed, 0.7)] {
        let faults = Faults { slow_links: 2, slow_share: 0.1, ..Faults::default() };
        let o = run(&m, &topology, &Setup { segments_max, routing, faults, ..setup.clone() });
        let carried = 800e6 * 1352.0 / 1448.0;
        let goodput = 64e6 * 8.0 / (o.tail_us().unwrap() / 1e6);
        let what = format!("{routing:?}: {:.3} of what the paths carry", goodput / carried);
        println!("{what} {:?}", o.counters);
        assert!(goodput / carried > least, "{what}");
        laws(&o, 1, &what);
    }
}
