//! The files of `scenarios/` read, say what they are for, and expect what their faults deserve.
// A test may unwrap: a panic is the report.
#![allow(missing_docs, clippy::unwrap_used)]

use selvedge_fabric::*;
use std::collections::BTreeMap;
use std::path::Path;

/// Every file by its name without `.toml`, with its text.
fn files() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    let toml = files.filter(|p| p.extension().is_some_and(|e| e == "toml"));
    toml.map(|p| (p.file_stem().unwrap().to_str().unwrap().into(), std::fs::read_to_string(&p).unwrap()))
        .collect()
}

fn all() -> BTreeMap<String, Scenario> {
    let parse = |(name, text): (String, String)| {
        let scenario = Scenario::parse(&text).unwrap_or_else(|e| panic!("{}", e.located(&name)));
        (name, scenario)
    };
    files().into_iter().map(parse).collect()
}

#[test]
fn every_file_reads_and_opens_with_what_it_is_for() {
    let all = all();
    assert!(all.len() >= 14, "{}", all.len());
    for (name, text) in files() {
        let comment: Vec<&str> = text.lines().take_while(|l| l.starts_with('#')).collect();
        assert!(comment.concat().len() > 80, "{name} says too little");
        let s = &all[&name];
        assert_eq!((&s.name, &s.fabric.name), (&name, &name));
        assert!(!s.description.is_empty(), "{name}");
        assert_eq!(s.fabric.check(), [], "{name}");
        assert!(s.faults.iter().all(|f| f.until.unwrap_or(f.at) < s.duration), "{name}");
    }
}

#[test]
fn every_fault_has_a_right_answer_for_every_seed() {
    for (name, s) in all() {
        assert_eq!(s.expect.nothing, s.faults.is_empty(), "{name}");
        for seed in 0..20 {
            let resolved = s.resolve(seed);
            assert_eq!(resolved, s.resolve(seed));
            for fault in &resolved.faults {
                assert!(!fault.target.is_random(), "{name} {fault:?}");
                assert_eq!(fault.links(&s.fabric).is_empty(), fault.kind.on_host(), "{name}");
            }
            let expected = resolved.expected();
            assert_eq!(expected.len(), s.faults.len());
            assert!(expected.iter().all(|e| !e.components.is_empty() && !e.kinds.is_empty()));
        }
    }
}

#[test]
fn every_kind_of_fault_and_both_modes_are_there() {
    let all = all();
    let faults: Vec<&Fault> = all.values().flat_map(|s| &s.faults).collect();
    for (word, _) in FaultKind::FORMS {
        assert!(faults.iter().any(|f| f.kind.word() == word), "no scenario with {word}");
    }
    assert!(all.values().any(|s| s.fabric.mode == Mode::Ecmp && !s.faults.is_empty()));
}

#[test]
fn seeds_differ() {
    let s = &all()["gray-link"];
    let targets: Vec<String> = (0..40).map(|seed| s.resolve(seed).faults[0].target.name(&s.fabric)).collect();
    let different: std::collections::BTreeSet<&String> = targets.iter().collect();
    assert!(different.len() > 25, "{targets:?}");
}

#[test]
fn the_largest_fabric_has_the_counts_it_is_known_for() {
    let f = &all()["largest"].fabric;
    let s = f.shape;
    assert_eq!((s.planes, s.leaves, s.spines, s.hosts, s.hosts_per_leaf), (8, 512, 256, 131_072, 256));
    assert_eq!(f.nics(), 1_048_576);
    assert_eq!(f.link_bound(), 2 * 2_097_152);
    assert_eq!(f.switches(), 8 * 768);
    let plan = f.plan();
    assert_eq!(plan.access_cables + plan.trunk_cables, 2_097_152);
    assert_eq!((plan.links, plan.nics, plan.usids), (4_194_304, 1_048_576, 768));
    // hosts of a leaf by one another's leaf, and each pair of leaves over every spine
    let (n, leaf, spines) = (131_072u128, 256u128, 256u128);
    assert_eq!(plan.paths, 8 * (n * (leaf - 1) + n * (n - leaf) * spines));
    insta::assert_snapshot!(format!("{:016x}", plan.digest), @"a762ea6a5c26d835");
    let (first, last) = (wire::NicId(7 * 131_072), wire::NicId(f.nics() - 1));
    let path = f.paths(first, last).last().unwrap();
    insta::assert_snapshot!(f.path_name(path), @"host0 > p7-leaf0 > p7-spine255 > p7-leaf511 > host131071");
    insta::assert_snapshot!(f.path_container(path).unwrap(), @"fcbb:bb07:300:200:e0ff::");
    assert_eq!(f.path_of_links(&f.path_links(path).unwrap()), Some(path));
    assert_eq!(f.path_by_container(first, f.path_container(path).unwrap()), Some(path));
}
