//! The rows of `docs/patterns.md`: a symptom goes in, the cause comes out. One row, one case.

#![allow(clippy::unwrap_used)]

mod world;

use selvedge_diagnose::{Event, FaultKind, Verdict};
use wire::{Component, Counter, HostId, LinkId, Nanos, NicId, PlaneId};
use world::{Fault, Illness, Random, World, engine, fabric};

/// Twenty healthy seconds, twenty with the fault: what was open at their end, and every verdict there was.
fn diagnose(world: &mut World) -> (Vec<Verdict>, usize) {
    let mut engine = engine(&world.fabric);
    let events = world.run(&mut engine, 40.0);
    let opened = events.iter().filter(|(_, e)| matches!(e, Event::Opened(_))).count();
    (engine.verdicts().cloned().collect(), opened)
}

struct Case {
    row: &'static str,
    links: Vec<LinkId>,
    illness: Illness,
    component: Component,
    /// Components that may be named in its place, because nothing tells them apart.
    or: Vec<Component>,
    kind: FaultKind,
    rate: Option<f64>,
}

#[test]
fn every_row() {
    let f = fabric(2, 4, 4, 4);
    let trunk = f.trunk_link(PlaneId(0), 1, 2, 0);
    let nic = f.nic(PlaneId(1), HostId(5), 0).unwrap();
    let up = f.access_link(nic);
    let down = up.reverse();
    let spine = f.switch(PlaneId(0), fabric::Tier::Spine, 1).unwrap();
    let leaf = f.switch(PlaneId(1), fabric::Tier::Leaf, 2).unwrap();
    let host: Vec<LinkId> = (0..2)
        .map(|p| f.access_link(f.nic(PlaneId(p), HostId(9), 0).unwrap()))
        .flat_map(|l| [l, l.reverse()])
        .collect();
    let one = |row, links: &[LinkId], illness, component, kind, rate| Case {
        row,
        links: links.to_vec(),
        illness,
        component,
        or: Vec::new(),
        kind,
        rate,
    };
    let link = Component::Link(trunk);
    let cases = [
        one("thin loss", &[trunk], Illness::Loss(0.01), link, FaultKind::Loss, Some(0.01)),
        one("heavy loss", &[trunk], Illness::Loss(0.2), link, FaultKind::Loss, Some(0.2)),
        one("nothing passes", &[trunk], Illness::Loss(1.0), link, FaultKind::Blackhole, Some(1.0)),
        one("some flows die", &[trunk], Illness::Flows(0.3), link, FaultKind::SelectiveLoss, None),
        one("damaged", &[trunk], Illness::Corrupt(0.02), link, FaultKind::Corruption, Some(0.02)),
        one("overtaken", &[trunk], Illness::Reorder(0.05), link, FaultKind::Reorder, Some(0.05)),
        one("marked", &[trunk], Illness::Ecn(0.05), link, FaultKind::EcnMarking, Some(0.05)),
        one("late", &[trunk], Illness::Delay(3_000_000), link, FaultKind::Delay, None),
        one("full queue", &[trunk], Illness::Full(3_000_000, 0.05), link, FaultKind::Congestion, Some(0.05)),
        one(
            "on and off",
            &[trunk],
            Illness::Flap { period: Nanos::from_secs(4), on: Nanos::from_secs(1) },
            link,
            FaultKind::Flap,
            None,
        ),
        Case {
            row: "both directions",
            links: vec![trunk, trunk.reverse()],
            illness: Illness::Loss(0.02),
            component: link,
            or: vec![Component::Link(trunk.reverse())],
            kind: FaultKind::Loss,
            rate: Some(0.02),
        },
        one(
            "port, one way",
            &[down],
            Illness::Loss(0.02),
            Component::Link(down),
            FaultKind::Loss,
            Some(0.02),
        ),
        one(
            "port, both ways",
            &[up, down],
            Illness::Loss(0.02),
            Component::Nic(nic),
            FaultKind::Loss,
            Some(0.02),
        ),
        one("port dead", &[up], Illness::Loss(1.0), Component::Nic(nic), FaultKind::Blackhole, Some(1.0)),
        one(
            "spine",
            &f.switch_links(spine),
            Illness::Loss(0.01),
            Component::Switch(spine),
            FaultKind::Loss,
            None,
        ),
        one(
            "part of a spine",
            &f.switch_links(spine)[..4],
            Illness::Loss(0.05),
            Component::Switch(spine),
            FaultKind::Loss,
            None,
        ),
        one(
            "leaf dead",
            &f.switch_links(leaf),
            Illness::Loss(1.0),
            Component::Switch(leaf),
            FaultKind::Blackhole,
            Some(1.0),
        ),
        one(
            "host on all planes",
            &host,
            Illness::Loss(0.05),
            Component::Host(HostId(9)),
            FaultKind::Loss,
            None,
        ),
    ];
    for c in cases {
        let mut w = World::new(f.clone(), 3);
        w.faults.push(Fault::on(c.links.clone(), c.illness, 20, 99));
        let (open, opened) = diagnose(&mut w);
        let said = |v: &Verdict| format!("{} {} {:.4}", f.component_name(v.component), v.kind, v.rate);
        let all: Vec<String> = open.iter().map(said).collect();
        // A device that is ill in part may show as a link first; one verdict is left in any case.
        let most = if c.row == "part of a spine" { 2 } else { 1 };
        assert!(open.len() == 1 && opened <= most, "{}: {opened} opened, {all:?}", c.row);
        let v = &open[0];
        assert!(v.component == c.component || c.or.contains(&v.component), "{}: {all:?}", c.row);
        assert_eq!(v.kind, c.kind, "{}: {all:?}", c.row);
        assert!(v.confidence > 0.9, "{}: confidence {}", c.row, v.confidence);
        assert!((v.rate_low..=v.rate_high).contains(&v.rate), "{}", c.row);
        if let Some(rate) = c.rate {
            assert!(v.rate_low * 0.7 <= rate && rate <= v.rate_high * 1.3, "{}: {all:?}", c.row);
        }
        assert!(World::since_start(v.first_seen) > 18.0, "{}: {}", c.row, World::since_start(v.first_seen));
        assert!(!v.evidence.exemplars.is_empty(), "{}", c.row);
        if c.kind == FaultKind::Flap {
            let flap = v.flap.unwrap();
            assert_eq!(flap.period, Nanos::from_secs(4));
            assert!((0.15..=0.4).contains(&flap.duty), "{flap:?}");
        }
        if c.row == "late" {
            assert!((2_000_000..=4_000_000).contains(&v.delay_excess_ns), "{}", v.delay_excess_ns);
        }
    }
}

#[test]
fn a_host_that_answers_nobody() {
    let f = fabric(2, 4, 4, 4);
    let mut w = World::new(f.clone(), 5);
    w.stopped.push((HostId(6), Nanos::from_secs(20), Nanos::from_secs(99)));
    let (open, opened) = diagnose(&mut w);
    assert_eq!(opened, 1, "{:?}", open.iter().map(|v| (v.id, v.component, v.kind)).collect::<Vec<_>>());
    assert_eq!((open[0].component, open[0].kind), (Component::Host(HostId(6)), FaultKind::AgentStopped));
}

#[test]
fn a_host_that_stalls() {
    let f = fabric(2, 4, 4, 4);
    let mut w = World::new(f.clone(), 6);
    w.stalled.push((HostId(2), Nanos::from_secs(20), Nanos::from_secs(99)));
    let (open, opened) = diagnose(&mut w);
    assert_eq!(opened, 1, "{:?}", open.iter().map(|v| (v.id, v.component, v.kind)).collect::<Vec<_>>());
    assert_eq!((open[0].component, open[0].kind), (Component::Host(HostId(2)), FaultKind::HostStall));
}

#[test]
fn one_plane_cannot_tell_a_host_from_its_port() {
    let f = fabric(1, 4, 4, 4);
    let nic = f.nic(PlaneId(0), HostId(6), 0).unwrap();
    let mut w = World::new(f.clone(), 7);
    w.stopped.push((HostId(6), Nanos::from_secs(20), Nanos::from_secs(99)));
    let (open, opened) = diagnose(&mut w);
    assert_eq!(opened, 1, "{:?}", open.iter().map(|v| (v.id, v.component, v.kind)).collect::<Vec<_>>());
    assert_eq!(open[0].component, Component::Nic(nic));
    assert!(open[0].alternatives.contains(&Component::Host(HostId(6))));
}

/// What counters beside a fault say: who counts what, and what comes of it.
struct Counted {
    row: &'static str,
    planes: u32,
    links: fn(&fabric::Fabric) -> Vec<LinkId>,
    illness: Option<Illness>,
    counts: world::Counts,
    component: fn(&fabric::Fabric) -> Component,
    kind: FaultKind,
    /// A counter the verdict must rest on.
    by: Counter,
    /// A component that counters rule out.
    not: Option<fn(&fabric::Fabric) -> Component>,
}

/// The last plane's port of host 5.
fn the_nic(f: &fabric::Fabric) -> NicId {
    f.nic(PlaneId(f.shape.planes as u8 - 1), HostId(5), 0).unwrap()
}
fn the_up(f: &fabric::Fabric) -> LinkId {
    f.access_link(the_nic(f))
}
fn the_down(f: &fabric::Fabric) -> LinkId {
    the_up(f).reverse()
}
fn the_trunk(f: &fabric::Fabric) -> LinkId {
    f.trunk_link(PlaneId(0), 1, 2, 0)
}

/// Every host, NIC and link counts nothing of this, but one place from 20 s on.
fn only(
    f: &fabric::Fabric,
    at: f64,
    counter: Counter,
    place: Component,
    delta: u64,
    of: u64,
) -> Vec<(Component, Counter, u64, u64)> {
    let places: Vec<Component> = match place {
        Component::Host(_) => (0..f.shape.hosts).map(|h| Component::Host(HostId(h))).collect(),
        Component::Nic(_) => (0..f.nics()).map(|n| Component::Nic(NicId(n))).collect(),
        _ => f.links().map(Component::Link).collect(),
    };
    let sick = |c: &Component| *c == place && at >= 20.0;
    places.into_iter().map(|c| (c, counter, if sick(&c) { delta } else { 0 }, of)).collect()
}

#[test]
fn every_row_with_counters() {
    let both = |f: &fabric::Fabric| vec![the_up(f), the_down(f)];
    let down = |f: &fabric::Fabric| vec![the_down(f)];
    let trunk = |f: &fabric::Fabric| vec![the_trunk(f)];
    let thin = Some(Illness::Loss(0.02));
    let rows = [
        Counted {
            row: "a port that receives damaged frames",
            planes: 2,
            links: down,
            illness: thin,
            counts: |f, at, _| only(f, at, Counter::FrameError, Component::Link(the_down(f)), 200, 10_000),
            component: |f| Component::Link(the_down(f)),
            kind: FaultKind::Corruption,
            by: Counter::FrameError,
            not: Some(|f| Component::Nic(the_nic(f))),
        },
        Counted {
            row: "a cable that damages frames between switches",
            planes: 2,
            links: trunk,
            illness: thin,
            counts: |f, at, _| only(f, at, Counter::FrameError, Component::Link(the_trunk(f)), 200, 10_000),
            component: |f| Component::Link(the_trunk(f)),
            kind: FaultKind::Corruption,
            by: Counter::FrameError,
            not: None,
        },
        Counted {
            row: "a NIC that throws packets away while its host and its sibling are well",
            planes: 2,
            links: down,
            illness: thin,
            counts: |f, at, _| only(f, at, Counter::NicOverrun, Component::Nic(the_nic(f)), 200, 10_000),
            component: |f| Component::Nic(the_nic(f)),
            kind: FaultKind::Loss,
            by: Counter::NicOverrun,
            not: None,
        },
        Counted {
            row: "a NIC that throws packets away because its host is late",
            planes: 2,
            links: down,
            illness: thin,
            counts: |f, at, _| {
                let mut all = only(f, at, Counter::NicOverrun, Component::Nic(the_nic(f)), 200, 10_000);
                all.extend(only(f, at, Counter::SoftirqLate, Component::Host(HostId(5)), 300, 1_000));
                all
            },
            component: |_| Component::Host(HostId(5)),
            kind: FaultKind::HostStall,
            by: Counter::SoftirqLate,
            not: None,
        },
        Counted {
            row: "one plane: sockets that are full",
            planes: 1,
            links: down,
            illness: thin,
            counts: |f, at, _| only(f, at, Counter::SocketDrop, Component::Host(HostId(5)), 50, 10_000),
            component: |_| Component::Host(HostId(5)),
            kind: FaultKind::HostStall,
            by: Counter::SocketDrop,
            not: Some(|f| Component::Link(the_down(f))),
        },
        Counted {
            row: "one plane: hosts that count themselves well",
            planes: 1,
            links: both,
            illness: thin,
            counts: |f, at, _| {
                let mut all = only(f, at, Counter::SoftirqLate, Component::Host(HostId(5)), 0, 1_000);
                all.extend(only(f, at, Counter::FrameError, Component::Link(the_down(f)), 200, 10_000));
                all
            },
            component: |f| Component::Link(the_down(f)),
            kind: FaultKind::Corruption,
            by: Counter::FrameError,
            not: Some(|_| Component::Host(HostId(5))),
        },
        Counted {
            row: "a busy host behind a cable that damages frames",
            planes: 1,
            links: down,
            illness: thin,
            counts: |f, at, _| {
                let mut all = only(f, at, Counter::CpuPressure, Component::Host(HostId(5)), 480_000, 500_000);
                all.extend(only(f, at, Counter::RunQueueLate, Component::Host(HostId(5)), 100, 500));
                all.extend(only(f, at, Counter::FrameError, Component::Link(the_down(f)), 200, 10_000));
                all
            },
            component: |f| Component::Link(the_down(f)),
            kind: FaultKind::Corruption,
            by: Counter::FrameError,
            not: Some(|_| Component::Host(HostId(5))),
        },
        Counted {
            row: "a carrier that is lost again and again",
            planes: 2,
            links: both,
            illness: Some(Illness::Loss(0.3)),
            counts: |f, at, _| {
                let now_and_then = u64::from(((2.0 * at) as u64).is_multiple_of(6));
                only(f, at, Counter::CarrierLost, Component::Nic(the_nic(f)), now_and_then, 0)
            },
            component: |f| Component::Link(the_up(f)),
            kind: FaultKind::Flap,
            by: Counter::CarrierLost,
            not: None,
        },
        Counted {
            row: "a port that throws away for want of room",
            planes: 2,
            links: trunk,
            illness: thin,
            counts: |f, at, _| {
                let port = Component::Link(the_trunk(f));
                let mut all = only(f, at, Counter::QueueDrop, port, 900, 50_000);
                all.extend(only(f, at, Counter::FrameError, port, 0, 50_000));
                all
            },
            component: |f| Component::Link(the_trunk(f)),
            kind: FaultKind::Congestion,
            by: Counter::QueueDrop,
            not: None,
        },
    ];
    for c in rows {
        let f = fabric(c.planes, 4, 4, 4);
        let mut w = World::new(f.clone(), 3);
        w.faults.extend(c.illness.map(|i| Fault::on((c.links)(&f), i, 20, 99)));
        w.counts = Some(c.counts);
        let (open, _) = diagnose(&mut w);
        let said = |v: &Verdict| {
            format!(
                "{} {} {:.2} {:?}",
                f.component_name(v.component),
                v.kind,
                v.confidence,
                v.evidence.counters
            )
        };
        let all: Vec<String> = open.iter().map(said).collect();
        assert_eq!(open.len(), 1, "{}: {all:?}", c.row);
        let v = &open[0];
        assert_eq!((v.component, v.kind), ((c.component)(&f), c.kind), "{}: {all:?}", c.row);
        assert!(v.confidence > 0.9, "{}: {all:?}", c.row);
        let by = v.evidence.counters.iter().find(|e| e.counter == c.by);
        assert!(by.is_some_and(|e| e.weight > 300 && e.events > 0), "{}: {all:?}", c.row);
        if let Some(not) = c.not {
            assert!(!v.alternatives.contains(&not(&f)), "{}: {all:?} {:?}", c.row, v.alternatives);
        }
    }
}

#[test]
fn counters_that_contradict_make_a_verdict_less_sure() {
    let f = fabric(2, 4, 4, 4);
    let mut confidence = Vec::new();
    for counts in [
        None,
        Some(
            (|f, at, _| only(f, at, Counter::QueueDrop, Component::Link(the_trunk(f)), 0, 50_000))
                as world::Counts,
        ),
    ] {
        let mut w = World::new(f.clone(), 3);
        w.faults.push(Fault::on([the_trunk(&f)], Illness::Full(3_000_000, 0.05), 20, 99));
        w.counts = counts;
        let (open, _) = diagnose(&mut w);
        assert_eq!(open[0].kind, FaultKind::Congestion);
        confidence.push(open[0].confidence);
        if counts.is_some() {
            assert!(open[0].evidence.counters.iter().any(|c| c.weight < 0), "{:?}", open[0].evidence);
        }
    }
    assert!(confidence[1] < 0.85 * confidence[0], "{confidence:?}");
}

/// Host 5 pauses its leaf, the leaf its spines, and those another leaf.
fn a_storm(f: &fabric::Fabric, at: f64, _: &mut Random) -> Vec<(Component, Counter, u64, u64)> {
    let window = 500_000_000u64;
    let nic = f.nic(PlaneId(0), HostId(5), 0).unwrap();
    let leaf = f.nic_leaf_port(nic).0;
    let on = u64::from(at >= 20.0);
    let mut all = only(f, at, Counter::PauseSent, Component::Nic(nic), 1_500, 0);
    let mut paused = |l: LinkId, share: u64| {
        all.push((Component::Link(l), Counter::PausedTime, on * window * share / 100, window));
    };
    paused(f.access_link(nic).reverse(), 80);
    for spine in 0..4 {
        paused(f.trunk_link(PlaneId(0), leaf, spine, 0).reverse(), 40);
        paused(f.trunk_link(PlaneId(0), 3, spine, 0), 20);
    }
    all
}

#[test]
fn a_host_that_pauses_everybody_is_the_root_of_the_storm() {
    let f = fabric(2, 4, 4, 4);
    let nic = f.nic(PlaneId(0), HostId(5), 0).unwrap();
    let leaf = f.nic_leaf(nic).unwrap();
    let mut w = World::new(f.clone(), 8);
    w.counts = Some(a_storm);
    // and packets wait all along the way
    let spines: Vec<LinkId> =
        (0..4).map(|s| f.trunk_link(PlaneId(0), f.nic_leaf_port(nic).0, s, 0).reverse()).collect();
    w.faults.push(Fault::on([f.access_link(nic).reverse()], Illness::Delay(3_000_000), 21, 99));
    w.faults.push(Fault::on(spines, Illness::Delay(2_000_000), 21, 99));
    let (open, _) = diagnose(&mut w);
    let all: Vec<_> = open.iter().map(|v| (f.component_name(v.component), v.kind)).collect();
    assert_eq!(open.len(), 1, "{all:?}");
    let v = &open[0];
    assert_eq!((v.component, v.kind), (Component::Nic(nic), FaultKind::PfcStorm), "{all:?}");
    assert!((0.7..=0.9).contains(&v.rate), "{}", v.rate);
    let victims = &v.evidence.victims;
    assert_eq!(victims.first(), Some(&Component::Switch(leaf)), "{victims:?}");
    let far = f.switch(PlaneId(0), fabric::Tier::Leaf, 3).unwrap();
    assert!(victims.contains(&Component::Switch(far)) && victims.len() == 6, "{victims:?}");
    assert!(v.evidence.counters.iter().any(|c| c.counter == Counter::PausedTime), "{:?}", v.evidence);
}

#[test]
fn pauses_now_and_then_are_no_storm() {
    let f = fabric(2, 4, 4, 4);
    let mut w = World::new(f.clone(), 9);
    w.counts = Some(|f, _, random| {
        let window = 500_000_000u64;
        f.links()
            .flat_map(|l| {
                let paused = u64::from(random.unit() < 0.2) * window / 50;
                [
                    (Component::Link(l), Counter::PausedTime, paused, window),
                    (Component::Link(l), Counter::PauseSent, u64::from(random.below(12)), 0),
                ]
            })
            .collect()
    });
    let (open, opened) = diagnose(&mut w);
    assert_eq!((open.len(), opened), (0, 0));
}

#[test]
fn many_senders_at_once_are_an_incast() {
    let f = fabric(2, 4, 4, 4);
    let mut w = World::new(f.clone(), 10);
    w.flows = Some(world::Passive { per_nic: 10, spurious: 1e-4, bursts: 0.0 });
    w.faults.push(Fault::on([the_down(&f)], Illness::Full(2_000_000, 0.05), 20, 99));
    w.counts = Some(|f, at, _| {
        let mut all = only(f, at, Counter::QueueDrop, Component::Link(the_down(f)), 2_000, 40_000);
        all.extend(only(f, at, Counter::FrameError, Component::Link(the_down(f)), 0, 40_000));
        all
    });
    let (open, _) = diagnose(&mut w);
    let all: Vec<_> = open.iter().map(|v| (f.component_name(v.component), v.kind)).collect();
    assert_eq!(open.len(), 1, "{all:?}");
    assert_eq!((open[0].component, open[0].kind), (Component::Link(the_down(&f)), FaultKind::Incast));
    assert!(open[0].evidence.senders >= 4, "{:?}", open[0].evidence);
}

#[test]
fn a_cable_that_wears_out_is_told_before_it_loses() {
    let f = fabric(2, 4, 4, 4);
    // frames are damaged that no probe met
    let mut w = World::new(f.clone(), 11);
    w.counts =
        Some(|f, at, _| only(f, at, Counter::FrameError, Component::Link(the_trunk(f)), 40, 10_000_000));
    let (open, opened) = diagnose(&mut w);
    assert_eq!((open.len(), opened), (1, 1));
    let v = &open[0];
    assert_eq!((v.component, v.kind), (Component::Link(the_trunk(&f)), FaultKind::Wearing));
    assert!(v.confidence < 0.7 && v.evidence.counters[0].events > 0, "{v:?}");
    // what every port corrects, some of them a hundred times more than others, is nobody's fault; what rises is
    let mut w = World::new(f.clone(), 12);
    w.slots = 2;
    w.counts = Some(|f, at, _| {
        f.links()
            .map(|l| {
                let usual = 50 << (l.0 % 7);
                let more = if l == the_trunk(f) && at >= 150.0 { 2_000 } else { 1 };
                (Component::Link(l), Counter::FrameCorrected, usual * more, 10_000_000)
            })
            .collect()
    });
    let mut e = engine(&f);
    assert!(w.run(&mut e, 150.0).is_empty());
    w.run(&mut e, 40.0);
    let open: Vec<_> = e.verdicts().collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!((open[0].component, open[0].kind), (Component::Link(the_trunk(&f)), FaultKind::Wearing));
}

#[test]
fn counters_that_are_alike_everywhere_say_nothing() {
    let f = fabric(2, 4, 4, 4);
    let mut w = World::new(f.clone(), 13);
    w.counts = Some(|f, _, random| {
        let mut all: Vec<(Component, Counter, u64, u64)> = Vec::new();
        for l in f.links() {
            for (counter, n) in
                [(Counter::FrameError, 20), (Counter::QueueDrop, 60), (Counter::QueueMarked, 900)]
            {
                all.push((Component::Link(l), counter, n + u64::from(random.below(20)), 100_000));
            }
        }
        for h in 0..f.shape.hosts {
            let late = u64::from(random.below(120));
            all.push((Component::Host(HostId(h)), Counter::RunQueueLate, late, 1_000));
            all.push((Component::Host(HostId(h)), Counter::CpuPressure, 300_000, 500_000));
        }
        all
    });
    let (open, opened) = diagnose(&mut w);
    let all: Vec<_> = open.iter().map(|v| (f.component_name(v.component), v.kind)).collect();
    assert_eq!(opened, 0, "{all:?}");
}
