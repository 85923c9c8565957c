mod world;
use wire::*;
use world::*;
#[test]
fn explore() {
    let f = fabric(2, 4, 4, 4);
    let trunk = f.trunk_link(PlaneId(0), 1, 2, 0);
    let nic = f.nic(PlaneId(1), HostId(5), 0).unwrap();
    let acc = f.access_link(nic);
    let sw = f.switch(PlaneId(0), fabric::Tier::Spine, 1).unwrap();
    let leafsw = f.switch(PlaneId(1), fabric::Tier::Leaf, 2).unwrap();
    let cases: Vec<(&str, Vec<LinkId>, Illness)> = vec![
        ("trunk 1e-3", vec![trunk], Illness::Loss(1e-3)),
        ("trunk 1e-2", vec![trunk], Illness::Loss(1e-2)),
        ("trunk 1e-1", vec![trunk], Illness::Loss(1e-1)),
        ("trunk 1", vec![trunk], Illness::Loss(1.0)),
        ("trunk both 1e-2", vec![trunk, trunk.reverse()], Illness::Loss(1e-2)),
        ("access 1e-2", vec![acc], Illness::Loss(1e-2)),
        ("access 1", vec![acc], Illness::Loss(1.0)),
        ("nic 1e-2", vec![acc, acc.reverse()], Illness::Loss(1e-2)),
        ("nic 1", vec![acc, acc.reverse()], Illness::Loss(1.0)),
        ("spine 1e-2", f.switch_links(sw), Illness::Loss(1e-2)),
        ("spine 1", f.switch_links(sw), Illness::Loss(1.0)),
        ("leaf 1e-2", f.switch_links(leafsw), Illness::Loss(1e-2)),
        ("leaf 1", f.switch_links(leafsw), Illness::Loss(1.0)),
        ("spine half 5e-2", f.switch_links(sw)[..4].to_vec(), Illness::Loss(5e-2)),
        ("flows .3", vec![trunk], Illness::Flows(0.3)),
        ("corrupt", vec![trunk], Illness::Corrupt(0.02)),
        ("reorder", vec![trunk], Illness::Reorder(0.02)),
        ("ecn", vec![trunk], Illness::Ecn(0.05)),
        ("delay", vec![trunk], Illness::Delay(3_000_000)),
        ("full", vec![trunk], Illness::Full(3_000_000, 0.05)),
        ("flap", vec![trunk], Illness::Flap { period: Nanos::from_secs(4), on: Nanos::from_secs(1) }),
    ];
    let only = std::env::var("CASE").unwrap_or_default();
    for (name, links, ill) in cases {
        if !name.contains(&only) {
            continue;
        }
        println!("== {name}");
        let mut w = World::new(f.clone(), 1);
        w.faults.push(Fault::on(links.clone(), ill, 20, 60));
        let mut e = engine(&f);
        let begin = std::time::Instant::now();
        for (at, ev) in w.run(&mut e, 100.0) {
            println!("{}", line(&f, at, &ev));
        }
        println!("   {:?}", begin.elapsed());
    }
}

#[test]
fn bound() {
    use selvedge_diagnose::Event;
    let f = fabric(2, 4, 4, 4);
    let m = f.links().count() as f64;
    let h = (m * 86_400.0).ln();
    for p in [1e-3f64, 1e-2, 1e-1, 1.0] {
        let p0 = 1e-5f64;
        let q = p.min(1.0);
        let d = q * (q / p0).ln() - q + p0;
        let mut all = vec![];
        for seed in 0..20u64 {
            let mut w = World::new(f.clone(), seed + 100);
            let links: Vec<_> = f.links().collect();
            let l = links[(seed * 37 + 11) as usize % links.len()];
            w.faults.push(Fault::on([l], Illness::Loss(p), 20, 200));
            let mut e = engine(&f);
            w.run(&mut e, 20.0);
            let base = w.crossed[l.index()];
            let mut open_before = base;
            let mut res = None;
            while res.is_none() && w.time < World::at(150.0) {
                let before = w.crossed[l.index()];
                for (at, ev) in w.run(&mut e, 0.5) {
                    if let Event::Opened(v) = ev {
                        let right =
                            v.component == Component::Link(l) || v.alternatives.contains(&Component::Link(l));
                        res = Some((at - 20.0, right, v.confidence, f.component_name(v.component)));
                        open_before = before;
                        break;
                    }
                }
            }
            let n = (open_before - base) as f64;
            all.push((n / (h / d), res, f.component_name(Component::Link(l))));
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        println!(
            "p {p}: bound {:.0} packets, median ratio {:.2}; wrong: {:?}",
            h / d,
            all[10].0,
            all.iter().filter(|a| !a.1.as_ref().is_some_and(|r| r.1)).collect::<Vec<_>>()
        );
        println!("   ratios {:?}", all.iter().map(|a| (a.0 * 100.0).round() / 100.0).collect::<Vec<_>>());
        println!("   secs {:?}", all.iter().map(|a| a.1.as_ref().map_or(999.0, |r| r.0)).collect::<Vec<_>>());
    }
}
