//! Packets that cross the sick link until the verdict, against the least any test needs.

mod world;

use selvedge_diagnose::Event;
use wire::Component;
use world::{Fault, Illness, World, engine, fabric};

#[test]
fn verdicts_come_near_the_bound() {
    let f = fabric(2, 4, 4, 4);
    let links: Vec<_> = f.links().collect();
    let h = (links.len() as f64 * 86_400.0).ln();
    for p in [1e-3f64, 1e-2, 1e-1, 1.0] {
        let p0 = 1e-5f64;
        let bound = h / (p * (p / p0).ln() - p + p0);
        let mut ratios = Vec::new();
        for seed in 0..12u64 {
            let mut w = World::new(f.clone(), seed + 100);
            let l = links[(seed * 37 + 11) as usize % links.len()];
            w.faults.push(Fault::on([l], Illness::Loss(p), 10, 999));
            let mut e = engine(&f);
            assert!(w.run(&mut e, 10.0).is_empty());
            let base = w.crossed[l.index()];
            let found = loop {
                // The window that is open when the evidence suffices is not counted.
                let before = w.crossed[l.index()];
                let events = w.run(&mut e, 0.5);
                let opened = events.iter().find_map(|(_, e)| match e {
                    Event::Opened(v) => Some(v.clone()),
                    _ => None,
                });
                if let Some(v) = opened {
                    let c = Component::Link(l);
                    assert!(v.component == c || v.alternatives.contains(&c), "seed {seed} at {p}: {v:?}");
                    break before - base;
                }
                assert!(w.time < World::at(200.0), "seed {seed} at {p}: no verdict");
            };
            ratios.push(found as f64 / bound);
        }
        ratios.sort_by(f64::total_cmp);
        let median = 0.5 * (ratios[5] + ratios[6]);
        println!("rate {p}: bound {bound:.0} packets, median ratio {median:.2}, all {ratios:.2?}");
        assert!(median <= 1.5, "at {p} the median is {median:.2} bounds");
    }
}
