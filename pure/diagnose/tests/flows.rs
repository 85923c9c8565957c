//! Passive flows: nobody knows which way they went, and what they send again is more than was lost.

#![allow(clippy::unwrap_used)]

mod world;

use fabric::Fabric;
use selvedge_diagnose::{Event, Verdict};
use wire::{Component, LinkId, PlaneId};
use world::{Fault, Illness, Passive, World, engine, fabric};

const USUAL: Passive = Passive { per_nic: 10, spurious: 2e-4, bursts: 0.002 };

/// Twenty healthy seconds, then a link that loses packets; every verdict that opened, and when.
fn opened(world: &mut World, until: f64) -> Vec<(f64, Verdict)> {
    let mut e = engine(&world.fabric);
    let events = world.run(&mut e, until);
    let mut out = Vec::new();
    for (at, event) in events {
        match event {
            Event::Opened(v) | Event::Reopened(v) => out.push((at, v)),
            Event::Updated(v) | Event::Closed(v) => {
                if let Some(o) = out.iter_mut().find(|o| o.1.id == v.id) {
                    o.1 = v;
                }
            }
        }
    }
    out
}

fn names(v: &Verdict, link: LinkId) -> bool {
    v.component == Component::Link(link) || v.alternatives.contains(&Component::Link(link))
}

fn said(f: &Fabric, all: &[(f64, Verdict)]) -> Vec<String> {
    all.iter()
        .map(|(at, v)| {
            let also: Vec<_> = v.alternatives.iter().map(|a| f.component_name(*a)).collect();
            format!(
                "{at:.1} s {} {} {:.4} confidence {:.2} or {also:?}",
                f.component_name(v.component),
                v.kind,
                v.rate,
                v.confidence
            )
        })
        .collect()
}

/// A lossy link between leaf and spine is named, or its class, by flows alone.
#[test]
fn a_lossy_link_is_named_by_flows_alone() {
    by_flows_alone(2, &[(0, 0.01), (1, 0.05)], 32.0);
}

/// The same at length.
#[test]
#[ignore = "minutes; run with --ignored"]
fn lossy_links_are_named_by_flows_alone() {
    by_flows_alone(6, &[(0, 0.01), (1, 0.05), (1, 0.01), (0, 0.2)], 40.0);
}

fn by_flows_alone(seeds: u32, faults: &[(u32, f64)], until: f64) {
    for (size, leaves, per_leaf) in [(16, 4, 4), (64, 8, 8)] {
        let f = fabric(2, leaves, 4, per_leaf);
        let (mut right, mut took) = (0, Vec::new());
        for seed in 0..seeds {
            for &(way, p) in faults {
                let l = f.trunk_link(PlaneId((seed % 2) as u8), 1 + seed % 3, seed % 4, 0);
                let l = if way == 1 { l.reverse() } else { l };
                let mut w = World::new(f.clone(), u64::from(seed) + 500);
                w.probes = false;
                w.flows = Some(USUAL);
                w.faults.push(Fault::on([l], Illness::Loss(p), 20, 999));
                let all = opened(&mut w, until);
                assert!(all.iter().all(|(at, v)| *at > 20.0 && names(v, l)), "{:?}", said(&f, &all));
                right += usize::from(all.len() == 1);
                took.extend(all.first().map(|o| o.0 - 20.0));
                if seed == 0 {
                    println!("{size} hosts, {p}: {:?}", said(&f, &all));
                }
            }
        }
        took.sort_by(f64::total_cmp);
        let runs = seeds as usize * faults.len();
        println!("{size} hosts: {right} of {runs} named, after {took:.1?} s");
        assert_eq!(right, runs);
    }
}

/// Flows always send something again, and some hosts more than others; that is nobody's fault.
#[test]
fn flows_that_send_again_for_nothing_accuse_nobody() {
    accuse_nobody(31..32, 50.0);
}

/// The same at length.
#[test]
#[ignore = "minutes; run with --ignored"]
fn flows_accuse_nobody_for_long() {
    accuse_nobody(31..33, 300.0);
}

fn accuse_nobody(seeds: std::ops::Range<u64>, until: f64) {
    let f = fabric(2, 4, 4, 4);
    let noises = [(2e-5, 0.0), (2e-4, 0.002), (2e-3, 0.02)];
    for (seed, (spurious, bursts)) in seeds.flat_map(|s| noises.map(|n| (s, n))) {
        for probes in [false, true] {
            let mut w = World::new(f.clone(), seed);
            w.probes = probes;
            w.background = 1e-6;
            w.flows = Some(Passive { per_nic: 10, spurious, bursts });
            let all = opened(&mut w, until);
            assert!(all.is_empty(), "seed {seed}, probes {probes}: {:?}", said(&f, &all));
        }
    }
}

/// With both, verdicts are what they are with probes alone, or better: the same name, and not later.
#[test]
fn flows_beside_probes_take_nothing_away() {
    let f = fabric(2, 4, 4, 4);
    for (seed, p) in [(41, 0.002), (42, 0.01), (43, 0.2), (44, 1.0)] {
        let l = f.trunk_link(PlaneId(0), 1, 2, 0);
        let mut found = Vec::new();
        for flows in [false, true] {
            let mut w = World::new(f.clone(), seed);
            w.flows = flows.then_some(USUAL);
            w.faults.push(Fault::on([l], Illness::Loss(p), 20, 999));
            let all = opened(&mut w, 45.0);
            let last = all.last().cloned().unwrap();
            println!("{p} flows {flows}: {:?}", said(&f, &all));
            assert!(all.len() == 1 && last.1.component == Component::Link(l), "{:?}", said(&f, &all));
            assert!(last.1.confidence > 0.9, "{:?}", said(&f, &all));
            assert!(last.1.rate_low * 0.7 <= p && p <= last.1.rate_high * 1.3, "{:?}", said(&f, &all));
            found.push(last.0);
        }
        // another run of chance, so a window or two either way
        assert!(found[1] <= 1.5 * (found[0] - 20.0) + 21.0, "{p}: {found:?}");
    }
}
