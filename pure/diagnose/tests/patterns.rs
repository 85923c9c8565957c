//! The rows of `docs/patterns.md`: a symptom goes in, the cause comes out. One row, one case.

#![allow(clippy::unwrap_used)]

mod world;

use selvedge_diagnose::{Event, FaultKind, Verdict};
use wire::{Component, HostId, LinkId, Nanos, PlaneId};
use world::{Fault, Illness, World, engine, fabric};

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
