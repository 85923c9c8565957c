//! What a sender reports of its paths, against what the network did to every packet: over seeds, with losses both ways,
//! duplicates, marks, dead paths and paths that become so slow that their packets are given up too early.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use selvedge_transport::{Config, Connection, PathReport};
use std::collections::{BTreeMap, BinaryHeap};
use wire::Nanos;
use wire::transport::{ConnectionId, Ev, Packet, Seen, Target};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn chance(&mut self, p: f64) -> bool {
        (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < p
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Network {
    loss: f64,
    loss_back: f64,
    duplicate: f64,
    mark: f64,
    trim: f64,
    /// EVs below are dead on the way there from `from` on.
    dead: u16,
    /// The next `slow` EVs take this much longer from `from` on.
    slow: u16,
    slower_ns: u64,
    from: Nanos,
}

/// What became of the packets of one EV: lost or not, marked or not.
#[derive(Clone, Debug, Default)]
struct Truth {
    lost: Vec<bool>,
    marked: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    sent: u32,
    lost: u32,
    marked: u32,
}

struct World {
    truth: BTreeMap<u16, Truth>,
    sums: BTreeMap<u16, Sum>,
    ends: [Connection; 2],
}

fn take(sender: &mut Connection, sums: &mut BTreeMap<u16, Sum>, truth: &BTreeMap<u16, Truth>, exact: bool) {
    sender.report_paths(&mut |r: PathReport| {
        assert!(r.sent > 0 && r.lost <= r.sent && r.marked <= r.sent - r.lost, "{r:?}");
        let sum = sums.entry(r.ev.0).or_default();
        (sum.sent, sum.lost, sum.marked) = (sum.sent + r.sent, sum.lost + r.lost, sum.marked + r.marked);
        let lost = &truth[&r.ev.0].lost;
        let really = lost[..sum.sent as usize].iter().filter(|l| **l).count() as u32;
        assert!(!exact || sum.lost == really, "{r:?}: {sum:?} but {really} were lost");
    });
}

/// Sends messages one way and reports at random moments, until all are through.
fn run(config: Config, net: Network, seed: u64, messages: u64) -> World {
    let mut random = Random(seed);
    let mut ends = [
        Connection::new(config, ConnectionId(1), random.next()),
        Connection::new(config, ConnectionId(0), random.next()),
    ];
    let mut pacers = [selvedge_transport::Pacer::new(&config), selvedge_transport::Pacer::new(&config)];
    for tag in 0..messages {
        ends[0].send(Nanos::ZERO, Target::Tagged { tag }, 400_000).unwrap();
    }
    let (mut truth, mut sums) = (BTreeMap::<u16, Truth>::new(), BTreeMap::new());
    let mut way: BinaryHeap<std::cmp::Reverse<(Nanos, usize)>> = BinaryHeap::new();
    let mut store: Vec<(Packet, Seen, usize)> = Vec::new();
    let mut last: BTreeMap<(usize, u16, bool), Nanos> = BTreeMap::new();
    let (mut now, mut free) = (Nanos::ZERO, Nanos::ZERO);
    let mut sink = Vec::new();
    while now < Nanos::from_millis(400) {
        for from in 0..2 {
            while let Some(slot) = pacers[from].poll_slot(now) {
                pacers[from].grant(now, slot, &mut ends[from]);
            }
            loop {
                sink.clear();
                let control = ends[from].poll_control(now, &mut sink);
                let data = |ends: &mut [Connection; 2], sink: &mut Vec<Packet>| match free <= now {
                    true => ends[from].poll_data(now, 4, sink),
                    false => None,
                };
                let Some(Ev(ev)) = control.or_else(|| data(&mut ends, &mut sink)) else { break };
                for packet in &sink {
                    let counted = matches!(packet, Packet::Data(_) | Packet::Probe(_));
                    if counted {
                        free = free.max(now) + config.serialization(config.packet_bytes());
                    }
                    let forward = from == 0;
                    let late = now >= net.from;
                    let dead = forward && late && ev < net.dead;
                    let lost = dead || random.chance(if forward { net.loss } else { net.loss_back });
                    let trimmed = matches!(packet, Packet::Data(_)) && random.chance(net.trim);
                    let seen = Seen { marked: random.chance(net.mark), trimmed };
                    if forward && counted {
                        let t = truth.entry(ev).or_default();
                        t.lost.push(lost);
                        t.marked += u32::from(!lost && seen.marked);
                    }
                    if lost {
                        continue;
                    }
                    let slow = forward && late && (net.dead..net.dead + net.slow).contains(&ev);
                    // what is trimmed goes ahead of all that is queued
                    let queued = if trimmed { 0 } else { random.below(5_000) };
                    let delay = 6_000 + queued + if slow { net.slower_ns } else { 0 };
                    for _ in 0..1 + usize::from(random.chance(net.duplicate)) {
                        let turn = last.entry((from, ev, trimmed)).or_default();
                        *turn = (now + Nanos(delay)).max(*turn);
                        store.push((*packet, seen, 1 - from));
                        way.push(std::cmp::Reverse((*turn, store.len() - 1)));
                    }
                }
            }
            while ends[from].poll_event().is_some() {}
        }
        if random.chance(0.02) {
            take(&mut ends[0], &mut sums, &truth, net.trim == 0.0);
        }
        if ends[0].is_idle() && way.is_empty() {
            break;
        }
        let mut next = way.peek().map_or(Nanos::MAX, |r| r.0.0);
        for i in 0..2 {
            next = next.min(ends[i].next_timeout().unwrap_or(Nanos::MAX));
            next = next.min(pacers[i].next_timeout().unwrap_or(Nanos::MAX));
        }
        if free > now {
            next = next.min(free);
        }
        now = next.max(now + Nanos(1));
        while let Some(&std::cmp::Reverse((at, i))) = way.peek() {
            if at > now {
                break;
            }
            way.pop();
            let (packet, seen, to) = store[i];
            ends[to].handle_input(now, &packet, seen);
            pacers[to].handle_input(0, &mut ends[to]);
        }
        for e in &mut ends {
            if e.next_timeout().is_some_and(|t| t <= now) {
                e.handle_timeout(now);
            }
        }
    }
    assert!(ends[0].is_idle(), "seed {seed}: {net:?}");
    take(&mut ends[0], &mut sums, &truth, net.trim == 0.0);
    let none = sums.clone();
    take(&mut ends[0], &mut sums, &truth, false);
    assert_eq!(none, sums, "without news there is no report");
    World { truth, sums, ends }
}

fn sum(w: &World) -> (u64, u64) {
    w.sums.values().fold((0, 0), |(s, l), x| (s + u64::from(x.sent), l + u64::from(x.lost)))
}

#[test]
fn reports_are_what_the_network_did() {
    let mut random = Random(11);
    let mut early = 0;
    for seed in 0..400 {
        let config = Config { evs: [1, 4, 8, 32][random.below(4) as usize], ..Config::default() };
        let share = |random: &mut Random, most: f64| if random.chance(0.4) { 0.0 } else { most };
        let net = Network {
            loss: share(&mut random, 0.05),
            loss_back: share(&mut random, 0.3),
            duplicate: share(&mut random, 0.1),
            mark: share(&mut random, 0.2),
            trim: 0.0,
            dead: 0,
            slow: random.below(u64::from(config.evs)) as u16,
            slower_ns: random.below(200_000),
            from: Nanos(random.below(100_000)),
        };
        if std::env::var("SEED").is_ok_and(|s| s != seed.to_string()) {
            continue;
        }
        let w = run(config, net, seed, 4);
        let (sent, lost) = sum(&w);
        let c = w.ends[0].counters();
        // what the sender had to guess may be far from it, and none of that is in the reports
        let really: u64 = w.truth.values().flat_map(|t| &t.lost).filter(|l| **l).count() as u64;
        assert!(lost <= really && sent <= c.sent, "seed {seed}: {lost} of {really}, {sent} of {}", c.sent);
        early += u64::from(c.lost > really);
        let marked: u32 = w.sums.values().map(|s| s.marked).sum();
        assert!(marked <= w.truth.values().map(|t| t.marked).sum(), "seed {seed}");
    }
    assert!(early > 20 || std::env::var("SEED").is_ok(), "packets were given up too early in {early} runs");
}

#[test]
fn all_of_it_is_reported_where_something_arrives_at_the_end() {
    let config = Config { evs: 4, ..Config::default() };
    let net = Network { loss: 0.02, mark: 0.1, ..Network::default() };
    let w = run(config, net, 5, 20);
    for (ev, t) in &w.truth {
        let last = t.lost.iter().rposition(|l| !l).unwrap() + 1;
        let want = Sum {
            sent: last as u32,
            lost: t.lost[..last].iter().filter(|l| **l).count() as u32,
            marked: t.marked,
        };
        assert_eq!(w.sums[ev], want, "EV {ev}");
    }
}

#[test]
fn a_dead_path_is_reported_lost_though_nothing_ever_arrives_on_it() {
    for seed in 0..4 {
        let config = Config { evs: 8, ..Config::default() };
        let net = Network { dead: 1, from: Nanos(40_000), ..Network::default() };
        let w = run(config, net, seed, 800);
        let dead = w.sums[&0];
        assert!(dead.lost >= 3, "seed {seed}: {dead:?}");
        assert!(w.sums.iter().all(|(ev, s)| *ev == 0 || s.lost == 0), "seed {seed}: {:?}", w.sums);
    }
}

#[test]
fn a_trimmed_packet_is_not_lost() {
    for seed in 0..50 {
        let config = Config { evs: 4, ..Config::default() };
        let net = Network { trim: 0.2, ..Network::default() };
        let w = run(config, net, seed, 10);
        assert_eq!(sum(&w).1, 0, "seed {seed}: {:?}", w.sums);
        assert!(w.ends[0].counters().lost_trimmed > 0, "seed {seed}");
    }
}
