//! The laws of the simulated fabric: conservation, order, determinism, and faults that act at the rate they say.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use fabric::{Fabric, LinkParams, Mode, Shape};
use proptest::prelude::*;
use selvedge_sim::net::{Arrival, Config, Dropped, Happened, Impairment, Net, Packet, Route, swallowed};
use selvedge_sim::rng::Rng;
use std::sync::Arc;
use wire::{Epoch, HostId, LinkId, Nanos, NicId};

fn fabric(planes: u32, leaves: u32, spines: u32, hosts_per_leaf: u32, cables: u32) -> Arc<Fabric> {
    Arc::new(Fabric {
        name: "net".into(),
        mode: Mode::Ecmp,
        shape: Shape {
            planes,
            leaves,
            spines,
            hosts: leaves * hosts_per_leaf,
            hosts_per_leaf,
            rails: 1,
            cables,
        },
        epoch: Epoch(1),
        access: LinkParams { rate_bps: 400_000_000_000, latency_ns: 500 },
        trunk: LinkParams { rate_bps: 400_000_000_000, latency_ns: 1_000 },
        parallel: cables,
        removed: vec![],
        added: vec![],
    })
}

fn packet(from: u32, to: u32, flow: u32, bytes: u32, payload: u64) -> Packet<u64> {
    Packet { route: Route::Hashed { from: NicId(from), to: NicId(to) }, flow, bytes, ect: true, payload }
}

/// Everything that arrives, and when.
fn drain(net: &mut Net<u64, ()>) -> Vec<(Nanos, Arrival<u64>)> {
    let mut out = Vec::new();
    while let Some(e) = net.next(Nanos::MAX) {
        if let Happened::Arrived(a) = e {
            out.push((net.now(), a));
        }
    }
    out
}

#[test]
fn a_lone_packet_takes_serialisation_and_latency_of_every_link() {
    let f = fabric(1, 2, 2, 2, 1);
    let mut net = Net::new(f.clone(), Config::default(), 1);
    net.send(packet(0, 3, 7, 5_000, 42));
    let got = drain(&mut net);
    // 5,000 bytes at 400 Gbit/s are 100 ns, four times; 2 x 500 + 2 x 1,000 ns of latency
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].0, got[0].1.payload), (Nanos(3_400), 42));
    assert_eq!((got[0].1.from, got[0].1.to), (NicId(0), NicId(3)));
}

#[test]
fn a_full_queue_drops_the_tail_and_counts_it() {
    let f = fabric(1, 2, 2, 2, 1);
    let mut net = Net::new(f.clone(), Config { queue_bytes: 10_000, ..Config::default() }, 1);
    for i in 0..20 {
        net.send(packet(0, 1, 0, 1_000, i));
    }
    let got = drain(&mut net);
    // ten wait and are sent, the rest found the queue full
    assert_eq!(got.iter().map(|g| g.1.payload).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(net.totals().dropped[Dropped::QueueFull as usize], 10);
    assert!(net.totals().balanced());
}

#[test]
fn impairments_act_at_their_rates() {
    let f = fabric(1, 2, 2, 2, 1);
    let n = 40_000u64;
    let link = f.access_link(NicId(0));
    let run = |what: &[Impairment]| {
        let mut net = Net::new(f.clone(), Config::default(), 5);
        net.impair(link, what);
        let mut got = Vec::new();
        for i in 0..n {
            net.send(packet(0, 3, (i % 64) as u32, 100, i));
            while let Some(e) = net.next(Nanos((i + 1) * 1_000)) {
                if let Happened::Arrived(a) = e {
                    got.push((net.now(), a));
                }
            }
            // the clock only moves with events
            net.note(Nanos((i + 1) * 1_000), ());
            assert!(net.next(Nanos((i + 1) * 1_000)).is_some());
        }
        got.extend(drain(&mut net));
        assert!(net.totals().balanced() && net.totals().in_flight == 0);
        got
    };
    let near = |got: usize, share: f64| {
        let expected = n as f64 * share;
        assert!(
            (got as f64 - expected).abs() < 5.0 * (expected * (1.0 - share)).sqrt() + 1.0,
            "{got} {expected}"
        );
    };
    assert_eq!(run(&[]).len() as u64, n);
    near(run(&[Impairment::Drop(0.1)]).len(), 0.9);
    near(run(&[Impairment::Corrupt(0.02)]).iter().filter(|g| g.1.corrupt).count(), 0.02);
    near(run(&[Impairment::Mark(0.3)]).iter().filter(|g| g.1.ce).count(), 0.3);
    assert_eq!(run(&[Impairment::Down]).len(), 0);
    near(
        run(&[Impairment::Flap {
            since: Nanos::ZERO,
            period: Nanos::from_millis(10),
            bad: Nanos::from_millis(4),
            rate: 1.0,
        }])
        .len(),
        0.6,
    );
    let reordered = run(&[Impairment::Reorder { rate: 0.05, by: Nanos::from_micros(5) }]);
    let mut highest = 0;
    let mut overtaken = 0;
    for g in &reordered {
        overtaken += usize::from(g.1.payload < highest);
        highest = highest.max(g.1.payload);
    }
    near(overtaken, 0.05);
    let late = run(&[Impairment::Delay { add: Nanos::from_micros(50), jitter: Nanos::from_micros(10) }]);
    for path in f.paths(NicId(0), NicId(3)) {
        let order: Vec<u64> = late.iter().filter(|g| g.1.path == path).map(|g| g.1.payload).collect();
        assert!(order.len() > 1_000 && order.is_sorted(), "a delay keeps the order");
    }
    assert!(late.iter().all(|g| (53_000..64_000).contains(&(g.0.0 - g.1.sent_at.0))));
    let hole = run(&[Impairment::BlackHole { share: 0.5, salt: 3 }]);
    assert!(hole.iter().all(|g| !swallowed(NicId(0), NicId(3), g.1.flow, 0.5, 3)));
    let survivors: std::collections::BTreeSet<u32> = hole.iter().map(|g| g.1.flow).collect();
    assert_eq!(hole.len() as u64, n / 64 * survivors.len() as u64, "a flow dies wholly or not at all");
}

#[test]
fn equal_cost_paths_are_used_evenly_and_a_flow_keeps_its_path() {
    let f = fabric(1, 4, 4, 2, 2);
    let net: Net<u64, ()> = Net::new(f.clone(), Config::default(), 9);
    let mut count = vec![0u32; f.lanes() as usize];
    let route = Route::Hashed { from: NicId(0), to: NicId(7) };
    for flow in 0..16_000 {
        let path = net.path_of(route, flow).unwrap();
        assert_eq!(net.path_of(route, flow), Some(path));
        count[f.path_parts(path).unwrap().2 as usize] += 1;
    }
    assert!(count.iter().all(|&c| (850..1150).contains(&c)), "{count:?}");
}

#[test]
fn equal_cost_avoids_cables_that_are_not_there() {
    let mut f = (*fabric(1, 2, 3, 2, 1)).clone();
    f.removed = vec![f.trunk_link(wire::PlaneId(0), 0, 1, 0)];
    let f = Arc::new(f);
    let net: Net<u64, ()> = Net::new(f.clone(), Config::default(), 9);
    for (from, to) in [(0, 3), (3, 0)] {
        let route = Route::Hashed { from: NicId(from), to: NicId(to) };
        let mut seen = [0; 3];
        for flow in 0..300 {
            let path = net.path_of(route, flow).unwrap();
            assert!(f.path_links(path).is_some());
            seen[f.path_parts(path).unwrap().2 as usize] += 1;
        }
        assert!(seen[1] == 0 && seen[0] > 100 && seen[2] > 100, "{seen:?}");
    }
}

#[test]
fn a_later_wake_up_does_not_replace_an_earlier_one() {
    let f = fabric(1, 2, 1, 1, 1);
    let mut net: Net<u64, ()> = Net::new(f.clone(), Config::default(), 1);
    net.wake(HostId(0), Nanos(50));
    net.wake(HostId(0), Nanos(20));
    net.wake(HostId(0), Nanos(70));
    assert_eq!((net.next(Nanos::MAX), net.now()), (Some(Happened::Woken(HostId(0))), Nanos(20)));
    assert_eq!(net.next(Nanos::MAX), None);
    net.wake(HostId(0), Nanos(60));
    assert_eq!((net.next(Nanos::MAX), net.now()), (Some(Happened::Woken(HostId(0))), Nanos(60)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Any small fabric, any faults, any traffic: every packet is accounted for, and the same again is the same.
    #[test]
    fn conservation_and_determinism(
        (planes, leaves, spines, hosts, cables) in (1u32..3, 1u32..4, 1u32..4, 1u32..4, 1u32..3),
        seed: u64,
        loss in prop_oneof![Just(0.0), Just(1e-3), Just(0.2)],
        queue in 500u32..20_000,
    ) {
        let f = fabric(planes, leaves, spines, hosts, cables);
        let run = || {
            let mut rng = Rng::new(seed, 77);
            let config = Config { background_loss: loss, queue_bytes: queue, mark_above_bytes: queue / 2 };
            let mut net: Net<u64, u8> = Net::new(f.clone(), config, seed);
            for _ in 0..rng.below(8) {
                let what = [
                    Impairment::Drop(rng.unit()),
                    Impairment::BlackHole { share: rng.unit(), salt: rng.next_u64() },
                    Impairment::Corrupt(rng.unit()),
                    Impairment::Reorder { rate: rng.unit(), by: Nanos(rng.below(5_000)) },
                    Impairment::Mark(rng.unit()),
                    Impairment::Limit { rate_bps: rng.below(2) * 1_000_000_000, wait: Nanos(rng.below(9_000)) },
                    Impairment::Delay { add: Nanos(rng.below(5_000)), jitter: Nanos(rng.below(5_000)) },
                    Impairment::Flap { since: Nanos(rng.below(900)), period: Nanos(rng.below(3_000)), bad: Nanos(500), rate: 0.7 },
                ];
                let link = LinkId(rng.below(u64::from(f.link_bound()) + 2) as u32);
                net.impair(link, &[what[rng.below(8) as usize], what[rng.below(8) as usize]]);
            }
            let nics = u64::from(f.nics()) + 1;
            for i in 0..300 {
                let p = packet(rng.below(nics) as u32, rng.below(nics) as u32, rng.next_u64() as u32, 100 + rng.below(4_000) as u32, i);
                net.send(p);
                let until = net.now() + Nanos(rng.below(400));
                net.note(until, 0);
                while net.next(until).is_some() {
                    assert!(net.totals().balanced(), "{:?}", net.totals());
                }
            }
            while net.next(Nanos::MAX).is_some() {}
            assert!(net.totals().balanced() && net.totals().in_flight == 0, "{:?}", net.totals());
            (net.trace(), *net.totals())
        };
        prop_assert_eq!(run(), run());
    }
}

/// Events a second of the bare loop: 4 KB packets between random hosts of a fabric of 1,024. Run with
/// `cargo test --release -p selvedge-sim --test net -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let f = fabric(1, 32, 32, 32, 1);
    let mut net: Net<u64, ()> = Net::new(f.clone(), Config::default(), 1);
    let mut rng = Rng::new(1, 1);
    let start = std::time::Instant::now();
    let n = 500_000;
    for i in 0..n {
        let from = rng.below(1024) as u32;
        let to = (from + 1 + rng.below(1023) as u32) % 1024;
        net.send(packet(from, to, rng.next_u64() as u32, 4_096, i));
        // 2 ns apart: about half of what the hosts could send in all, thousands in flight
        net.note(Nanos(i * 2), ());
        while net.next(Nanos(i * 2)).is_some() {}
    }
    let arrived = drain(&mut net).len();
    let s = start.elapsed().as_secs_f64();
    println!(
        "{n} packets, {} hops, {} events in {s:.2} s: {:.1} M events/s ({arrived} in the tail)",
        net.totals().hops,
        net.events(),
        net.events() as f64 / s / 1e6
    );
}
