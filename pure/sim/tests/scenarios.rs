//! Every scenario of `scenarios/` in the simulator: what must be found is found, in time, and nothing else is said.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use fabric::Scenario;
use selvedge_sim::bound::Case;
use selvedge_sim::judge::Report;
use selvedge_sim::run::Config;
use std::path::PathBuf;
use wire::Nanos;

/// The scenarios by file name; those no simulator runs in seconds are left out by size.
fn all() -> Vec<Scenario> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let mut out = Vec::new();
    for f in files {
        let mut s = Scenario::parse(&std::fs::read_to_string(&f).unwrap()).unwrap();
        if s.fabric.shape.hosts > 1_024 {
            println!("{} is left out: {} hosts", s.name, s.fabric.shape.hosts);
            continue;
        }
        // the rest of the time, and the healing, are for `selvedge sim run`
        let began = s.faults.iter().map(|f| f.at).max().unwrap_or(Nanos::from_secs(5));
        s.duration = s.duration.min(began + s.expect.within.min(Nanos::from_secs(15)));
        if s.probe.packets_per_second > 1_000 {
            println!("{} is left out: `a_faint_link_is_found` is quicker", s.name);
            continue;
        }
        out.push(s);
    }
    assert!(out.len() >= 12);
    out
}

/// What went wrong in a run, in words.
fn complaints(report: &Report) -> Vec<String> {
    let f = &report.scenario.fabric;
    let mut out = Vec::new();
    let head = format!("{} seed {}", report.scenario.name, report.scenario.seed);
    for o in report.judge.outcomes().iter().filter(|o| !o.right()) {
        let wanted: Vec<_> = o.expected.components.iter().map(|&c| f.component_name(c)).collect();
        let found = o.found.as_ref().map(|v| {
            format!("{} {} at {}", f.component_name(v.verdict.component), v.verdict.kind, v.at.since(o.began))
        });
        out.push(format!("{head}: wanted {wanted:?} {:?}, found {found:?}", o.expected.kinds));
    }
    for w in report.judge.wrong() {
        let v = &w.verdict;
        let name = f.component_name(v.component);
        out.push(format!("{head}: wrong: {name} {} {:.2} at {}", v.kind, v.confidence, w.at));
    }
    if !report.ledger.balanced() {
        out.push(format!("{head}: {:?}", report.ledger));
    }
    out
}

/// Runs them two at a time.
fn run_all(jobs: &[(&Scenario, u64)]) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((s, seed)) = jobs.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let report = Report::of(s, *seed, Config::default());
                    done.lock().unwrap().extend(complaints(&report));
                }
            });
        }
    });
    done.into_inner().unwrap()
}

#[test]
fn every_scenario_is_right() {
    let scenarios = all();
    let jobs: Vec<_> = scenarios.iter().flat_map(|s| [(s, 1), (s, 4)]).collect();
    let complaints = run_all(&jobs);
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// An hour in which nothing is wrong but the loss any link has.
#[test]
fn a_quiet_hour_is_quiet() {
    let text = "name = \"hour\"\nduration = \"3600s\"\n[fabric]\nplanes = 2\nleaves = 4\nspines = 4\nhosts = 16\n\
                [probe]\npackets_per_second = 20\nwindow = \"1s\"\n";
    let ecmp = text.replace("[fabric]", "[fabric]\nmode = \"ecmp\"");
    let scenarios = [Scenario::parse(text).unwrap(), Scenario::parse(&ecmp).unwrap()];
    let mut config = Config::default();
    config.net.background_loss = 2e-6;
    let mut losses = 0;
    for s in &scenarios {
        let report = Report::of(s, 1, config);
        losses += report.ledger.net.dropped.iter().sum::<u64>();
        assert_eq!(complaints(&report), Vec::<String>::new());
    }
    assert!(losses > 10, "only {losses} losses: no test");
}

/// One packet in ten thousand.
#[test]
fn a_faint_link_is_found() {
    let case = Case::ALL.into_iter().find(|c| c.p == 1e-4).unwrap();
    let sample = case.sample(1, Config::default()).unwrap();
    assert!(sample.ratio() < 4.0 && sample.wrong == 0, "{sample:?}");
}
