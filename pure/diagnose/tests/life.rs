//! The life of a verdict, and what must not become one.

#![allow(clippy::unwrap_used)]

mod world;

use proptest::prelude::*;
use selvedge_diagnose::{Config, Engine, Event, Outcome, Reason};
use wire::{
    Component, ComponentObservation, Counter, Epoch, HostId, Known, LinkId, Nanos, PathId, PathObservation,
    PathRef, PlaneId, Window,
};
use world::{Fault, Illness, World, engine, fabric};

fn opened(events: &[(f64, Event)]) -> Vec<(f64, Component)> {
    events
        .iter()
        .filter_map(|(at, e)| match e {
            Event::Opened(v) => Some((*at, v.component)),
            _ => None,
        })
        .collect()
}

#[test]
fn opens_closes_and_comes_back_under_its_id() {
    let f = fabric(2, 4, 4, 4);
    let l = f.trunk_link(PlaneId(1), 0, 3, 0);
    let mut w = World::new(f.clone(), 11);
    w.faults.push(Fault::on([l], Illness::Loss(0.01), 20, 50));
    w.faults.push(Fault::on([l], Illness::Loss(0.01), 110, 140));
    let mut e = engine(&f);
    let events = w.run(&mut e, 180.0);
    let lives: Vec<(&str, u64, f64)> = events
        .iter()
        .filter_map(|(at, e)| match e {
            Event::Opened(v) => Some(("opened", v.id.0, *at)),
            Event::Closed(v) => Some(("closed", v.id.0, *at)),
            Event::Reopened(v) => Some(("reopened", v.id.0, *at)),
            Event::Updated(_) => None,
        })
        .collect();
    let words: Vec<_> = lives.iter().map(|l| (l.0, l.1)).collect();
    assert_eq!(words, [("opened", 1), ("closed", 1), ("reopened", 1), ("closed", 1)], "{lives:?}");
    assert!(lives[0].2 < 30.0 && lives[2].2 < 120.0, "{lives:?}");
    assert!(lives[1].2 < 80.0 && lives[3].2 < 170.0, "{lives:?}");
}

#[test]
fn two_faults_are_two_verdicts() {
    let f = fabric(2, 4, 4, 4);
    let a = f.trunk_link(PlaneId(0), 1, 2, 0);
    let b = f.trunk_link(PlaneId(0), 3, 2, 0).reverse();
    let mut w = World::new(f.clone(), 12);
    w.faults.push(Fault::on([a], Illness::Loss(0.02), 20, 99));
    w.faults.push(Fault::on([b], Illness::Loss(0.2), 22, 99));
    let mut e = engine(&f);
    let events = w.run(&mut e, 50.0);
    let mut components: Vec<Component> = opened(&events).iter().map(|o| o.1).collect();
    components.sort();
    let mut want = vec![Component::Link(a), Component::Link(b)];
    want.sort();
    assert_eq!(components, want);
}

#[test]
fn a_restart_continues_the_same_verdict() {
    let f = fabric(2, 4, 4, 4);
    let l = f.trunk_link(PlaneId(0), 2, 1, 0);
    let healed = f.trunk_link(PlaneId(1), 2, 1, 0);
    let mut w = World::new(f.clone(), 13);
    w.faults.push(Fault::on([l], Illness::Loss(0.02), 10, 90));
    w.faults.push(Fault::on([healed], Illness::Loss(0.02), 10, 30));
    let mut before = engine(&f);
    w.run(&mut before, 30.0);
    let known: Vec<_> = before.verdicts().cloned().collect();
    assert_eq!(known.len(), 2);
    let mut after = engine(&f);
    after.restore(&known);
    let events = w.run(&mut after, 50.0);
    assert_eq!(opened(&events), []);
    let open: Vec<_> = after.verdicts().collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open[0].component, Component::Link(l));
    assert!(known.iter().any(|k| k.id == open[0].id && k.component == open[0].component));
}

#[test]
fn unknown_paths_are_mixtures() {
    let f = fabric(2, 4, 4, 4);
    let l = f.trunk_link(PlaneId(0), 1, 2, 0);
    for (p, seed) in [(0.05, 14), (1.0, 15)] {
        let mut w = World::new(f.clone(), seed);
        w.known = Known::Mixture;
        w.faults.push(Fault::on([l], Illness::Loss(p), 20, 99));
        let mut e = engine(&f);
        let events = w.run(&mut e, 60.0);
        let said = opened(&events);
        assert_eq!(said.len(), 1, "{said:?}");
        // The links of a leaf to its spines carry the same pairs: one of them, with the others as alternatives.
        let v = e.verdicts().next().unwrap();
        let class: Vec<Component> =
            (0..4).map(|s| Component::Link(f.trunk_link(PlaneId(0), 1, s, 0))).collect();
        let named = class.contains(&v.component) && v.component == Component::Link(l)
            || v.alternatives.contains(&Component::Link(l));
        assert!(named, "{} {:?}", f.component_name(v.component), v.alternatives);
    }
}

#[test]
fn quiet_while_nothing_is_wrong() {
    // Five minutes each of: nothing at all, a background of 1e-5 a link, hosts that lose some of what arrives, and a
    // machine that is stalled as a whole now and then.
    let f = fabric(2, 4, 4, 4);
    for (seed, background, bursts, stalls) in
        [(21, 0.0, 0.0, false), (22, 1e-5, 0.0, false), (23, 1e-5, 0.002, false), (24, 0.0, 0.0, true)]
    {
        let mut w = World::new(f.clone(), seed);
        w.background = background;
        w.bursts = bursts;
        if stalls {
            w.stalls_at = (1..60).map(|i| Nanos::from_secs(30 * i)).collect();
        }
        let mut e = engine(&f);
        let events = w.run(&mut e, 300.0);
        let said: Vec<_> = events.iter().map(|(at, e)| world::line(&f, *at, e)).collect();
        assert!(said.is_empty(), "seed {seed}: {said:#?}");
    }
}

#[test]
fn the_same_input_gives_the_same_verdicts() {
    let f = fabric(1, 3, 2, 3);
    let run = || {
        let mut w = World::new(f.clone(), 31);
        w.bursts = 0.01;
        w.faults.push(Fault::on([f.trunk_link(PlaneId(0), 0, 1, 0)], Illness::Loss(0.03), 5, 20));
        let mut e = engine(&f);
        w.run(&mut e, 40.0)
    };
    assert_eq!(run(), run());
}

#[test]
fn bad_input_is_counted_by_reason() {
    let f = fabric(1, 2, 2, 2);
    let mut e = Engine::new(f.clone(), Config::default());
    let mut good: Option<PathObservation> = None;
    let mut w = World::new(f.clone(), 1);
    let now = w.window(|_, o| {
        if let Ok(o) = o {
            good = Some(o);
        }
    });
    let good = good.unwrap();
    assert_eq!(e.handle_path(now, &good), Outcome::Accepted);
    let PathRef::OneWay(mut leg) = good.path else { panic!("{good:?}") };
    leg.path = PathId(u64::MAX);
    let table = [
        (PathObservation { epoch: Epoch(8), ..good }, Reason::WrongEpoch),
        (PathObservation { path: PathRef::OneWay(leg), ..good }, Reason::UnknownPath),
        (PathObservation { lost: good.sent + 1, ..good }, Reason::BadCounts),
        (PathObservation { sent: 0, lost: 0, ..good }, Reason::Empty),
        (
            PathObservation { window: wire::Window { start: Nanos::ZERO, ..good.window }, ..good },
            Reason::TooOld,
        ),
        (
            PathObservation { window: wire::Window { start: Nanos::MAX, ..good.window }, ..good },
            Reason::BadWindow,
        ),
    ];
    for (o, reason) in table {
        assert_eq!(e.handle_path(now, &o), Outcome::Dropped(reason));
        assert_eq!(e.counters().dropped(reason), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever arrives, in whatever order: nothing panics, memory stays bounded, and every input is accounted for.
    #[test]
    fn hostile_input_is_survived(
        inputs in prop::collection::vec(
            (0u64..200_000, 0u64..2_000, 0u32..40, 0u32..60, any::<u16>(), 0u8..3, any::<bool>()), 1..400),
    ) {
        let f = fabric(1, 2, 2, 2);
        let mut e = Engine::new(f.clone(), Config { hurt_max: 50, ..Config::default() });
        let mut now = Nanos::from_secs(1_000);
        let mut taken = 0;
        for (start, path, sent, lost, extra, known, round) in &inputs {
            let known = [Known::Exact, Known::Discovered, Known::Mixture][usize::from(*known)];
            let leg = wire::Leg { path: PathId(*path), known };
            let o = PathObservation {
                window: wire::Window {
                    start: Nanos::from_millis(900_000 + start),
                    length: Nanos::from_millis(u64::from(*extra)),
                },
                producer: HostId(u32::from(*extra)),
                sequence: 1,
                epoch: f.epoch,
                path: if *round { PathRef::RoundTrip { forward: leg, backward: leg } } else { PathRef::OneWay(leg) },
                class: 0,
                size_log2: 0,
                entropy: *extra,
                sent: *sent,
                lost: *lost,
                reordered: u32::from(*extra),
                ecn_marked: *lost,
                delay: None,
                source: wire::Source::Flow,
            };
            e.handle_path(now, &o);
            e.handle_timeout(now);
            now += Nanos::from_millis(u64::from(*extra) % 300);
            taken += 1;
        }
        while e.poll_event().is_some() {}
        let c = e.counters();
        prop_assert_eq!(c.paths + c.dropped.iter().sum::<u64>(), taken);
        prop_assert!(e.link_health(LinkId(0)).is_some());
        for v in e.verdicts() {
            prop_assert!((0.0..=1.0).contains(&v.confidence));
            prop_assert!(v.rate_low <= v.rate && v.rate <= v.rate_high);
        }
    }
}

/// What a hub says of an agent that was away since `from`.
fn presence(engine: &mut Engine, host: HostId, from: f64, at: f64, away: bool) {
    let (start, end) = (World::at(from), World::at(at));
    let o = ComponentObservation {
        window: Window { start, length: end.since(start) },
        producer: host,
        epoch: engine.fabric().epoch,
        component: Component::Host(host),
        counter: Counter::AgentAway,
        delta: u64::from(away),
        of: 1,
        size_ns: 0,
    };
    assert_eq!(engine.handle_component(end, &o), Outcome::Accepted);
}

#[test]
fn an_agent_that_is_away_hurts_nobodys_name_and_hides_no_fault() {
    let f = fabric(2, 4, 4, 4);
    let sick = f.trunk_link(PlaneId(1), 0, 3, 0);
    // Without the word of the hub, the same absence is blamed on the host.
    for told in [true, false] {
        let mut w = World::new(f.clone(), 17);
        w.stopped.push((HostId(5), Nanos::from_secs(20), Nanos::from_secs(22)));
        w.faults.push(Fault::on([sick], Illness::Loss(0.02), 18, 99));
        let mut e = engine(&f);
        let mut events = w.run(&mut e, 20.0);
        if told {
            presence(&mut e, HostId(5), 20.0, 20.0, true);
        }
        events.extend(w.run(&mut e, 2.0));
        if told {
            presence(&mut e, HostId(5), 22.0, 22.0, false);
        }
        events.extend(w.run(&mut e, 15.0));
        let blamed: Vec<Component> = opened(&events).into_iter().map(|o| o.1).collect();
        assert!(blamed.contains(&Component::Link(sick)), "{blamed:?}");
        assert_eq!(blamed.len() == 1, told, "{blamed:?}");
    }
}

#[test]
fn what_is_wrong_after_an_agent_came_back_is_found() {
    let f = fabric(2, 4, 4, 4);
    let nic = f.nic(PlaneId(0), HostId(5), 0).unwrap();
    let access = f.access_link(nic);
    let mut w = World::new(f.clone(), 18);
    w.stopped.push((HostId(5), Nanos::from_secs(20), Nanos::from_secs(22)));
    w.faults.push(Fault::on([access.reverse()], Illness::Loss(1.0), 22, 99));
    let mut e = engine(&f);
    w.run(&mut e, 20.0);
    presence(&mut e, HostId(5), 20.0, 20.0, true);
    w.run(&mut e, 2.0);
    presence(&mut e, HostId(5), 22.0, 22.0, false);
    let events = w.run(&mut e, 10.0);
    let first = opened(&events).first().copied().unwrap();
    assert!(matches!(first.1, Component::Link(_) | Component::Nic(_)), "{first:?}");
    assert!((22.0..28.0).contains(&first.0), "{first:?}");
}

#[test]
fn a_black_hole_stays_open_while_a_hub_that_restarts_waits_for_its_agents() {
    let f = fabric(2, 4, 4, 4);
    let l = f.trunk_link(PlaneId(0), 2, 1, 0);
    let mut w = World::new(f.clone(), 19);
    w.faults.push(Fault::on([l], Illness::Flows(0.4), 5, 999));
    let mut before = engine(&f);
    w.run(&mut before, 30.0);
    let known: Vec<_> = before.verdicts().cloned().collect();
    assert_eq!(known.len(), 1);
    let mut after = engine(&f);
    after.restore(&known);
    let hosts = || (0..f.shape.hosts).map(HostId);
    hosts().for_each(|h| presence(&mut after, h, 1.0, 30.0, true));
    let mut events = w.run(&mut after, 4.0);
    // They lived all along.
    hosts().for_each(|h| presence(&mut after, h, 1.0, 1.0, false));
    events.extend(w.run(&mut after, 20.0));
    assert!(events.iter().all(|(_, e)| matches!(e, Event::Updated(_))), "{events:?}");
    assert_eq!(after.verdicts().count(), 1);
}
