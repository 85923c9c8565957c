//! The plan covers every link, evenly, with a bounded number of slots a host.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use fabric::{Fabric, LinkParams, Mode, Shape};
use probe::plan::{PlanConfig, slots};
use selvedge_probe as probe;
use std::collections::BTreeMap;
use wire::{Epoch, HostId, LinkId};

#[allow(clippy::too_many_arguments)]
fn fabric(
    planes: u32,
    leaves: u32,
    spines: u32,
    per_leaf: u32,
    rails: u32,
    cables: u32,
    hosts: u32,
) -> Fabric {
    let params = LinkParams { rate_bps: 1, latency_ns: 1 };
    Fabric {
        name: "test".into(),
        mode: Mode::Srv6,
        shape: Shape { planes, leaves, spines, hosts, hosts_per_leaf: per_leaf, rails, cables },
        epoch: Epoch(1),
        access: params,
        trunk: params,
        parallel: cables,
        removed: Vec::new(),
        added: Vec::new(),
    }
}

/// Slots crossing each link, there or back, if each sends as much.
fn load(f: &Fabric) -> (BTreeMap<LinkId, u32>, usize) {
    let mut load: BTreeMap<LinkId, u32> = f.links().map(|l| (l, 0)).collect();
    let mut most = 0;
    for host in 0..f.shape.hosts {
        let slots = slots(f, HostId(host), &PlanConfig::default());
        most = most.max(slots.len());
        for s in &slots {
            assert_eq!(f.nic_parts(f.path_parts(s.path).unwrap().0).1, HostId(host));
            for p in [s.path, s.back.unwrap()] {
                for l in f.path_links(p).expect("a path that exists").iter() {
                    *load.get_mut(l).expect("a link that exists") += 1;
                }
            }
        }
    }
    (load, most)
}

/// Least, most, and links with none, of a tier.
fn spread(f: &Fabric, load: &BTreeMap<LinkId, u32>, access: bool) -> (u32, u32, usize) {
    let of: Vec<u32> =
        load.iter().filter(|(l, _)| f.cable_of(**l).is_ok() == access).map(|(_, n)| *n).collect();
    let none = of.iter().filter(|n| **n == 0).count();
    (of.iter().copied().min().unwrap_or(0), of.iter().copied().max().unwrap_or(0), none)
}

#[test]
fn every_link_is_covered_and_evenly() {
    let mut out = String::new();
    for (what, f) in [
        ("2 leaves x 2 spines, 1 host each", fabric(1, 2, 2, 1, 1, 1, 2)),
        ("1 leaf, 8 hosts", fabric(1, 1, 1, 8, 1, 1, 8)),
        ("2 planes, 4 x 2, 4 hosts", fabric(2, 4, 2, 4, 1, 1, 16)),
        ("2 planes, 4 x 4, 4 hosts", fabric(2, 4, 4, 4, 1, 1, 16)),
        ("2 planes, 8 x 4, 8 hosts", fabric(2, 8, 4, 8, 1, 1, 64)),
        ("2 planes, 16 x 8, 16 hosts", fabric(2, 16, 8, 16, 1, 1, 256)),
        ("4 x 3, 5 hosts", fabric(1, 4, 3, 5, 1, 1, 20)),
        ("4 x 2 double cables", fabric(1, 4, 2, 4, 1, 2, 16)),
        ("8 x 4, 2 rails", fabric(1, 8, 4, 4, 2, 1, 16)),
        ("9 leaves, the last half full", fabric(1, 9, 4, 8, 1, 1, 68)),
        ("64 x 32, 32 hosts", fabric(1, 64, 32, 32, 1, 1, 2048)),
    ] {
        let (load, slots) = load(&f);
        let (access, trunk) = (spread(&f, &load, true), spread(&f, &load, false));
        assert!(slots <= 64 * f.shape.planes as usize, "{what}: {slots} slots");
        out += &format!("{what}: {slots} slots, access {access:?}, trunk {trunk:?}\n");
    }
    insta::assert_snapshot!(out, @r"
    2 leaves x 2 spines, 1 host each: 8 slots, access (16, 16, 0), trunk (8, 8, 0)
    1 leaf, 8 hosts: 7 slots, access (14, 14, 0), trunk (0, 0, 2)
    2 planes, 4 x 2, 4 hosts: 18 slots, access (18, 18, 0), trunk (32, 32, 0)
    2 planes, 4 x 4, 4 hosts: 18 slots, access (18, 18, 0), trunk (16, 16, 0)
    2 planes, 8 x 4, 8 hosts: 18 slots, access (18, 18, 0), trunk (32, 32, 0)
    2 planes, 16 x 8, 16 hosts: 18 slots, access (18, 18, 0), trunk (32, 32, 0)
    4 x 3, 5 hosts: 10 slots, access (20, 20, 0), trunk (30, 30, 0)
    4 x 2 double cables: 9 slots, access (18, 18, 0), trunk (16, 16, 0)
    8 x 4, 2 rails: 18 slots, access (18, 18, 0), trunk (16, 16, 0)
    9 leaves, the last half full: 9 slots, access (16, 50, 0), trunk (24, 32, 0)
    64 x 32, 32 hosts: 9 slots, access (18, 18, 0), trunk (16, 16, 0)
    ");
}

#[test]
fn cables_left_out_leave_no_other_link_uncovered() {
    for seed in 0..40u32 {
        let mut f = fabric(2, 6, 4, 4, 1, 2, 24);
        let trunks: Vec<LinkId> = f.links().filter(|l| l.0 % 2 == 0 && f.cable_of(*l).is_err()).collect();
        let mut out: Vec<LinkId> =
            (0..4).map(|i| trunks[((seed * 7 + i * 13 + seed * i) as usize) % trunks.len()]).collect();
        out.sort();
        out.dedup();
        f.removed = out;
        let (load, _) = load(&f);
        assert_eq!(spread(&f, &load, false).2, 0, "seed {seed}: {:?}", f.removed);
        assert_eq!(spread(&f, &load, true).2, 0, "seed {seed}");
    }
}

/// A fabric of 131,072 hosts: all slots of one spine's and one leaf's links would take all hosts, so one plane of 512
/// leaves is counted whole.
#[test]
fn a_plane_of_512_leaves() {
    let f = fabric(1, 512, 128, 64, 1, 1, 32_768);
    let (load, slots) = load(&f);
    insta::assert_snapshot!(
        format!("{slots} slots, access {:?}, trunk {:?}", spread(&f, &load, true), spread(&f, &load, false)),
        @"9 slots, access (18, 18, 0), trunk (8, 8, 0)"
    );
}

/// For each link, the other links on the paths that cross it: no other link may be on all of them, or the two could
/// not be told apart (except an access link's own).
#[test]
fn no_two_links_are_always_crossed_together() {
    let f = fabric(2, 4, 4, 4, 1, 1, 16);
    let mut ways: BTreeMap<LinkId, Vec<Vec<LinkId>>> = BTreeMap::new();
    for host in 0..f.shape.hosts {
        for s in slots(&f, HostId(host), &PlanConfig::default()) {
            for p in [s.path, s.back.unwrap()] {
                let links = f.path_links(p).unwrap();
                for l in links.iter() {
                    ways.entry(*l).or_default().push(links.to_vec());
                }
            }
        }
    }
    for (link, ways) in &ways {
        for other in &ways[0] {
            assert!(
                other == link || ways.iter().any(|w| !w.contains(other)),
                "{} is only crossed together with {}",
                f.link_name(*link),
                f.link_name(*other)
            );
        }
    }
}
