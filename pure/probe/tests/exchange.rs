//! Sender and reflector against a network in memory that loses, copies, delays and reorders, and knows what it did.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use fabric::{Fabric, LinkParams, Mode, Shape};
use probe::{Observation, Plan, Reflector, ReflectorConfig, Reply, Request, Sender, SenderConfig, Slot};
use proptest::prelude::*;
use selvedge_probe as probe;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::{Counter, Epoch, HostId, Nanos, PathRef, PlaneId};

fn fabric() -> Arc<Fabric> {
    let params = LinkParams { rate_bps: 1, latency_ns: 1 };
    Arc::new(Fabric {
        name: "test".into(),
        mode: Mode::Srv6,
        shape: Shape { planes: 1, leaves: 2, spines: 2, hosts: 2, hosts_per_leaf: 1, rails: 1, cables: 1 },
        epoch: Epoch(1),
        access: params,
        trunk: params,
        parallel: 1,
        removed: Vec::new(),
        added: Vec::new(),
    })
}

fn plan(f: &Fabric, slots: usize) -> Plan {
    let nic = |h| f.nic(PlaneId(0), HostId(h), 0).unwrap();
    let slot = |lane| Slot {
        path: f.path(nic(0), nic(1), lane).unwrap(),
        back: f.path(nic(1), nic(0), 1 - lane),
        size: 128,
        class: 0,
    };
    Plan { slots: (0..slots as u32).map(|i| slot(i % 2)).collect(), ..Plan::default() }
}

/// What the network does with a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Act {
    lose_forward: bool,
    lose_backward: bool,
    copy: bool,
    delay_forward_us: u64,
    delay_backward_us: u64,
    hold_ms: u64,
    restart: bool,
}

#[derive(Debug, Default)]
struct Truth {
    sent: u64,
    lost_forward: u64,
    lost_backward: u64,
}

#[derive(Debug, Default)]
struct Seen {
    forward: (u64, u64),
    backward: (u64, u64),
    undecided: u64,
    reordered: (u64, u64),
    over: (u64, u64),
    stalls: BTreeMap<(u32, Counter), u64>,
}

struct World {
    f: Arc<Fabric>,
    sender: Sender,
    reflector: Reflector,
    now: Nanos,
    /// Packets under way: to the reflector, and back.
    there: BTreeMap<(Nanos, u64), (Request, Act)>,
    back: BTreeMap<(Nanos, u64), Reply>,
    n: u64,
    truth: Truth,
    seen: Seen,
}

impl World {
    fn new(slots: usize) -> World {
        let f = fabric();
        let mut sender = Sender::new(f.clone(), SenderConfig::new(HostId(0), 42));
        let now = Nanos::from_secs(1_000_000);
        sender.set_plan(now, plan(&f, slots)).unwrap();
        let reflector = Reflector::new(f.clone(), ReflectorConfig::default());
        let (there, back) = (BTreeMap::new(), BTreeMap::new());
        World { f, sender, reflector, now, there, back, n: 0, truth: Truth::default(), seen: Seen::default() }
    }

    /// Runs until `until`; `act` says what happens to the n-th probe, `None` for one not to be sent any more.
    fn run(&mut self, until: Nanos, mut act: impl FnMut(u64) -> Act) {
        while self.now < until {
            let next = [
                self.sender.next_timeout(),
                self.there.keys().next().map(|k| k.0),
                self.back.keys().next().map(|k| k.0),
            ];
            self.now = next.into_iter().flatten().min().unwrap_or(until).max(self.now).min(until);
            while let Some(e) = self.there.first_entry().filter(|e| e.key().0 <= self.now) {
                let ((t2, _), (mut request, act)) = e.remove_entry();
                request.t2 = t2;
                if act.restart {
                    self.reflector = Reflector::new(self.f.clone(), ReflectorConfig::default());
                }
                let Ok(a) = self.reflector.handle_input(t2, &request) else { panic!("refused") };
                if act.lose_backward {
                    continue;
                }
                let t3 = t2 + Nanos::from_millis(act.hold_ms);
                let t4 = t3 + Nanos::from_micros(50 + act.delay_backward_us);
                let reply = Reply {
                    ssid: a.asker.ssid,
                    from: self.f.nic_by_addr(a.from).unwrap(),
                    sequence: a.probe_sequence,
                    reflector_sequence: a.sequence,
                    t1: a.t1,
                    t2: a.t2,
                    t3,
                    t4,
                    forward_ecn: Some(2),
                    backward_ecn: 2,
                    synchronized: true,
                    forward_path: None,
                    backward_path: None,
                };
                self.n += 1;
                self.back.insert((t4, self.n), reply);
                if act.copy {
                    self.n += 1;
                    self.back.insert((t4 + Nanos(5), self.n), reply);
                }
            }
            while let Some(e) = self.back.first_entry().filter(|e| e.key().0 <= self.now) {
                let ((t4, _), reply) = e.remove_entry();
                let _ = self.sender.handle_input(t4, &reply);
            }
            while let Some(p) = self.sender.poll_output(self.now) {
                let act = act(self.truth.sent);
                self.truth.sent += 1;
                self.truth.lost_forward += u64::from(act.lose_forward);
                self.truth.lost_backward += u64::from(!act.lose_forward && act.lose_backward);
                if act.lose_forward {
                    continue;
                }
                let request = Request {
                    asker: probe::Asker { addr: self.f.nic_addr(p.from), port: 1, ssid: p.ssid },
                    to: self.f.nic_addr(p.to),
                    meant_for: None,
                    sequence: p.sequence,
                    t1: p.t1,
                    t2: p.t1,
                    traffic_class: 2,
                    flow_label: p.flow_label,
                    back_class: None,
                    back: probe::Back::Container(self.f.path_container(p.back.unwrap()).unwrap()),
                    path: None,
                    follow_up: false,
                };
                self.n += 1;
                let t2 = self.now + Nanos::from_micros(50 + act.delay_forward_us);
                self.there.insert((t2, self.n), (request, act));
            }
            self.sender.handle_timeout(self.now);
            while let Some(o) = self.sender.poll_event() {
                self.look(&o);
            }
        }
    }

    fn look(&mut self, o: &Observation) {
        let s = &mut self.seen;
        match o {
            Observation::Path(o) => {
                assert!(o.lost <= o.sent && o.reordered <= o.sent - o.lost, "{o:?}");
                let (sent, lost, reordered) = (u64::from(o.sent), u64::from(o.lost), u64::from(o.reordered));
                let over = o.delay.map_or(0, |d| u64::from(d.over));
                match o.path {
                    PathRef::RoundTrip { .. } => s.undecided += lost,
                    PathRef::OneWay(leg) => {
                        let from = self.f.nic_parts(self.f.path_parts(leg.path).unwrap().0).1;
                        let (way, r, d) = if from == HostId(0) {
                            (&mut s.forward, &mut s.reordered.0, &mut s.over.0)
                        } else {
                            (&mut s.backward, &mut s.reordered.1, &mut s.over.1)
                        };
                        *way = (way.0 + sent, way.1 + lost);
                        *r += reordered;
                        *d += over;
                    }
                }
            }
            Observation::Component(c) => {
                let wire::Component::Host(h) = c.component else { panic!("{c:?}") };
                *s.stalls.entry((h.0, c.counter)).or_default() += c.delta;
            }
        }
    }

    fn end(mut self) -> (Truth, Seen) {
        let mut idle = self.sender.plan().clone();
        let until = self.now + Nanos::from_secs(10);
        // stop sending without forgetting what is under way: one packet in a long time
        idle.packets_per_second = 1;
        idle.train = 1;
        self.sender.set_plan(self.now, idle).unwrap();
        self.run(until, |_| Act::default());
        (self.truth, self.seen)
    }
}

#[test]
fn a_healthy_network_loses_nothing() {
    let mut w = World::new(8);
    w.run(Nanos::from_secs(1_000_030), |_| Act::default());
    let sent = w.truth.sent;
    assert!((11_900..12_100).contains(&sent), "400 a second for 30 s: {sent}");
    let (truth, seen) = w.end();
    assert_eq!((seen.forward.1, seen.backward.1, seen.undecided), (0, 0, 0));
    assert!(seen.forward.0 >= sent && seen.forward.0 <= truth.sent);
    assert_eq!((seen.over, seen.reordered), ((0, 0), (0, 0)));
    assert_eq!(seen.stalls, BTreeMap::new());
}

#[test]
fn losses_are_blamed_on_the_right_way() {
    let mut w = World::new(8);
    w.run(Nanos::from_secs(1_000_030), |n| Act {
        lose_forward: n % 97 == 5,
        lose_backward: n % 31 == 7,
        ..Act::default()
    });
    let (truth, seen) = w.end();
    assert_eq!(
        (seen.forward.1, seen.backward.1, seen.undecided),
        (truth.lost_forward, truth.lost_backward, 0)
    );
}

#[test]
fn a_dead_path_is_lost_within_the_time_out_and_no_way_is_blamed() {
    let mut w = World::new(8);
    w.run(Nanos::from_secs(1_000_005), |_| Act::default());
    w.run(Nanos::from_secs(1_000_008), |_| Act { lose_forward: true, ..Act::default() });
    assert_eq!((w.seen.forward.1, w.seen.backward.1), (0, 0));
    assert!(w.seen.undecided > 500, "3 s less the time-out, at 400 a second: {}", w.seen.undecided);
}

#[test]
fn a_reflector_that_starts_again_loses_nothing() {
    let mut w = World::new(4);
    w.run(Nanos::from_secs(1_000_020), |n| Act { restart: n % 1_000 == 500, ..Act::default() });
    let (_, seen) = w.end();
    assert_eq!((seen.forward.1, seen.backward.1, seen.undecided), (0, 0, 0));
}

#[test]
fn a_reflector_that_is_away_and_starts_again_reorders_nothing() {
    // short sessions, in which a count of nothing is no great step back, and long ones
    for first in [200, 2_000, 20_000] {
        let mut w = World::new(4);
        w.run(Nanos::from_secs(1_000_080), |n| Act {
            lose_forward: (first..first + 300).contains(&n),
            restart: n == first + 300,
            ..Act::default()
        });
        let (truth, seen) = w.end();
        assert!(truth.lost_forward == 300, "{truth:?}");
        assert_eq!(seen.reordered, (0, 0));
        assert_eq!(seen.forward.1 + seen.backward.1 + seen.undecided, 300);
    }
}

#[test]
fn copies_are_counted_and_change_nothing() {
    let mut w = World::new(4);
    w.run(Nanos::from_secs(1_000_010), |n| Act { copy: n % 10 == 0, ..Act::default() });
    let duplicates = w.sender.counters().dropped(probe::Dropped::Duplicate);
    assert_eq!(duplicates, w.truth.sent.div_ceil(10));
    let (_, seen) = w.end();
    assert_eq!((seen.forward.1, seen.backward.1, seen.undecided), (0, 0, 0));
}

#[test]
fn reordering_is_no_loss_and_its_way_is_known() {
    let mut w = World::new(1);
    // the first of every train of two is late by more than the second is behind it
    w.run(Nanos::from_secs(1_000_010), |n| Act {
        delay_forward_us: if n % 20 == 0 { 500 } else { 0 },
        ..Act::default()
    });
    let (_, seen) = w.end();
    assert_eq!((seen.forward.1, seen.backward.1, seen.undecided), (0, 0, 0));
    assert!((190..=210).contains(&seen.reordered.0) && seen.reordered.1 == 0, "{:?}", seen.reordered);
    let mut w = World::new(1);
    w.run(Nanos::from_secs(1_000_010), |n| Act {
        delay_backward_us: if n % 20 == 0 { 500 } else { 0 },
        ..Act::default()
    });
    let (_, seen) = w.end();
    assert!((190..=210).contains(&seen.reordered.1) && seen.reordered.0 == 0, "{:?}", seen.reordered);
}

#[test]
fn a_host_that_holds_probes_is_no_slow_network() {
    let mut w = World::new(4);
    w.run(Nanos::from_secs(1_000_010), |_| Act::default());
    w.run(Nanos::from_secs(1_000_012), |n| Act {
        hold_ms: if n % 10 == 0 { 60 } else { 0 },
        ..Act::default()
    });
    let (_, seen) = w.end();
    assert_eq!(seen.over, (0, 0));
    let stalls = seen.stalls[&(1, Counter::ResponderStall)];
    assert!((70..=90).contains(&stalls), "{stalls}");
}

#[test]
fn an_added_delay_is_over_on_its_way() {
    let mut w = World::new(8);
    w.run(Nanos::from_secs(1_000_010), |_| Act::default());
    let before = w.truth.sent;
    // slot 3's turn is every 8th train of two
    w.run(Nanos::from_secs(1_000_014), |n| Act {
        delay_forward_us: if n / 2 % 8 == 3 { 1_000 } else { 0 },
        ..Act::default()
    });
    let sick = (w.truth.sent - before) / 8;
    let (_, seen) = w.end();
    assert!(seen.over.0 * 10 >= sick * 9, "{} of {sick}", seen.over.0);
    assert!(seen.over.1 * 10 <= sick, "{:?}", seen.over);
}

#[test]
fn a_stalled_sender_says_so_and_loses_nothing() {
    let mut w = World::new(4);
    w.run(Nanos::from_secs(1_000_005), |_| Act::default());
    // nobody calls for three seconds, while answers wait in the socket
    w.now += Nanos::from_secs(3);
    w.run(Nanos::from_secs(1_000_010), |_| Act::default());
    let skipped = w.sender.counters().get("trains_skipped");
    assert!((590..=610).contains(&skipped), "{skipped}");
    let (_, seen) = w.end();
    assert_eq!((seen.forward.1, seen.backward.1, seen.undecided), (0, 0, 0));
    assert_eq!(seen.stalls.get(&(0, Counter::SenderStall)), Some(&1));
}

#[test]
fn answers_that_are_not_ours_are_counted_by_reason() {
    use probe::Dropped;
    let mut w = World::new(2);
    w.run(Nanos::from_secs(1_000_001), |_| Act::default());
    let p = loop {
        w.now = w.sender.next_timeout().unwrap();
        if let Some(p) = w.sender.poll_output(w.now) {
            break p;
        }
        w.sender.handle_timeout(w.now);
    };
    let good = Reply {
        ssid: p.ssid,
        from: p.to,
        sequence: p.sequence,
        reflector_sequence: 1_000,
        t1: p.t1,
        t2: p.t1,
        t3: p.t1,
        t4: p.t1,
        forward_ecn: None,
        backward_ecn: 0,
        synchronized: false,
        forward_path: None,
        backward_path: None,
    };
    let now = w.now;
    for (reply, reason) in [
        (Reply { ssid: p.ssid ^ 0x4000, ..good }, Dropped::WrongSession),
        (Reply { from: p.from, ..good }, Dropped::WrongPeer),
        (Reply { sequence: p.sequence + 100, ..good }, Dropped::NeverSent),
        (Reply { t1: p.t1 + Nanos(1), ..good }, Dropped::Replayed),
        (Reply { sequence: p.sequence - 1, ..good }, Dropped::Duplicate),
        (Reply { sequence: p.sequence.wrapping_sub(5_000), ..good }, Dropped::Late),
    ] {
        assert_eq!(w.sender.handle_input(now, &reply), Err(reason));
        assert_eq!(w.sender.counters().dropped(reason), 1);
    }
    assert_eq!(w.sender.handle_input(now, &good), Ok(()));
    assert_eq!(w.sender.handle_input(now, &good), Err(Dropped::Duplicate));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever the network does short of reordering, every probe ends in exactly one count, and the counts are right.
    #[test]
    fn every_probe_has_one_fate(
        slots in 1usize..6, seed: u64, forward in 0u64..600, backward in 0u64..600, train in 1u32..5,
    ) {
        let mut w = World::new(slots);
        let mut p = plan(&w.f, slots);
        p.train = train;
        w.sender.set_plan(w.now, p).unwrap();
        let mut x = seed;
        let mut die = move || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % 1_000
        };
        w.run(Nanos::from_secs(1_000_004), |_| Act {
            lose_forward: die() < forward, lose_backward: die() < backward, ..Act::default()
        });
        let (truth, seen) = w.end();
        let lost = truth.lost_forward + truth.lost_backward;
        prop_assert_eq!(seen.forward.1 + seen.backward.1 + seen.undecided, lost);
        // what is decided is decided right
        prop_assert!(seen.forward.1 <= truth.lost_forward && seen.backward.1 <= truth.lost_backward);
        // nothing is counted twice; at most the last window's probes are still out
        prop_assert!(seen.forward.0 + seen.undecided <= truth.sent);
        prop_assert!(seen.forward.0 + seen.undecided + 2 >= truth.sent);
        prop_assert_eq!(seen.backward.0, seen.forward.0 - seen.forward.1);
    }

    /// Packets overtaking each other within the grace time are never lost.
    #[test]
    fn jitter_is_no_loss(seed: u64, jitter_us in 1u64..8_000) {
        let mut w = World::new(2);
        let mut x = seed;
        let mut die = move || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % jitter_us
        };
        w.run(Nanos::from_secs(1_000_004), |_| Act {
            delay_forward_us: die(), delay_backward_us: die(), ..Act::default()
        });
        let (_, seen) = w.end();
        prop_assert_eq!((seen.forward.1, seen.backward.1, seen.undecided), (0, 0, 0));
    }
}
