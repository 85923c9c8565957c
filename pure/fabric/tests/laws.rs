//! Laws that hold for every fabric: random shapes, rails, parallel cables, cables left out and added.
// A test may unwrap: a panic is the report.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use selvedge_fabric::route::TABLE_MAIN;
use selvedge_fabric::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv6Addr;
use wire::*;

/// A random fabric, made the way everyone makes one: from text.
fn fabrics() -> impl Strategy<Value = Fabric> {
    let shape = (1u32..=3, 1u32..=3, 1u32..=3, 1u32..=3, 1u32..=4, 1u32..=2, 1u32..=3);
    let picks = proptest::collection::vec((any::<u32>(), any::<bool>()), 0..6);
    (shape, any::<bool>(), any::<u32>(), picks).prop_map(
        |((planes, groups, spines, hosts_per_leaf, rails, parallel, spare), srv6, fewer, picks)| {
            let (leaves, rails) = (groups * rails.min(2), rails.min(2));
            let hosts = (groups * hosts_per_leaf).saturating_sub(fewer % spare).max(1);
            let mode = if srv6 { "srv6" } else { "ecmp" };
            let mut text = format!(
                "name='x'\nmode='{mode}'\nplanes={planes}\nleaves={leaves}\nspines={spines}\nhosts={hosts}\n\
                 hosts_per_leaf={hosts_per_leaf}\nrails={rails}\nparallel={parallel}\n"
            );
            let regular = Fabric::parse(&text).unwrap();
            let mut touched = BTreeSet::new();
            for (pick, add) in picks {
                let link = LinkId((pick % regular.link_bound()) & !1);
                if !touched.insert(link) {
                    continue;
                }
                let name = regular.link_name(link);
                match regular.cable_of(link) {
                    Err(_) if add => {
                        let pair = name.split('#').next().unwrap();
                        writeln!(text, "[[add]]\nlink='{pair}'").unwrap();
                    }
                    Ok(nic) if add => {
                        writeln!(text, "[[remove]]\nnic='{}'", regular.nic_name(nic)).unwrap();
                    }
                    _ => writeln!(text, "[[remove]]\nlink='{name}'").unwrap(),
                }
            }
            Fabric::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"))
        },
    )
}

fn nics(f: &Fabric) -> impl Iterator<Item = NicId> + '_ {
    (0..f.nics()).map(NicId)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_text_reads_back_as_the_same_fabric(f in fabrics()) {
        prop_assert_eq!(Fabric::parse(&f.to_toml()).unwrap(), f);
    }

    #[test]
    fn names_lead_back_to_what_they_name(f in fabrics()) {
        let mut all = BTreeSet::new();
        for link in f.links() {
            let name = f.link_name(link);
            prop_assert_eq!(f.link_by_name(&name), Some(link), "{}", name);
            prop_assert_eq!(f.component_by_name(&name), Some(Component::Link(link)));
            let ends = name.split('#').next().unwrap().split_once(':').unwrap();
            let (from, to) = f.link_ends(link).unwrap();
            prop_assert_eq!(ends, (&*f.node_name(from), &*f.node_name(to)));
            prop_assert!(all.insert(name));
        }
        for s in (0..f.switches()).map(SwitchId) {
            prop_assert_eq!(f.component_by_name(&f.switch_name(s)), Some(Component::Switch(s)));
            prop_assert_eq!(f.device_by_name(&f.switch_name(s)), Some(Device::Switch(s)));
            let (plane, tier, number) = f.switch_parts(s);
            prop_assert_eq!(f.switch(plane, tier, number), Some(s));
        }
        for n in nics(&f) {
            prop_assert_eq!(f.component_by_name(&f.nic_name(n)), Some(Component::Nic(n)));
            let (plane, host, rail) = f.nic_parts(n);
            prop_assert_eq!(f.nic(plane, host, rail), Some(n));
            let (leaf, port) = f.nic_leaf_port(n);
            prop_assert_eq!(f.nic_at(plane, leaf, port), Some(n));
        }
        for h in (0..f.shape.hosts).map(HostId) {
            prop_assert_eq!(f.component_by_name(&f.host_name(h)), Some(Component::Host(h)));
        }
    }

    #[test]
    fn a_links_reverse_joins_the_same_ends(f in fabrics()) {
        prop_assert_eq!(f.links().count() % 2, 0);
        for link in f.links() {
            let (from, to) = f.link_ends(link).unwrap();
            prop_assert_eq!(f.link_ends(link.reverse()), Some((to, from)));
            prop_assert_eq!(f.link_plane(link), f.link_plane(link.reverse()));
            let leaves = |node| match node {
                Node::Switch(s) => f.switch_links(s).contains(&link),
                Node::Nic(n) => f.access_link(n) == link || f.access_link(n).reverse() == link,
            };
            prop_assert!(leaves(from) && leaves(to));
        }
        let by_device: usize = f.devices().map(|d| f.ports(d).len()).sum();
        prop_assert_eq!(by_device, f.links().count());
    }

    #[test]
    fn addresses_lead_back_and_are_nobody_elses(f in fabrics()) {
        let mut all = BTreeSet::new();
        for n in nics(&f) {
            let addr = f.nic_addr(n);
            prop_assert_eq!(f.nic_by_addr(addr), Some(n));
            prop_assert_eq!(f.switch_by_addr(addr), None);
            prop_assert!(all.insert(addr));
        }
        for s in (0..f.switches()).map(SwitchId) {
            let addr = f.switch_addr(s);
            prop_assert_eq!(f.switch_by_addr(addr), Some(s));
            prop_assert_eq!(f.nic_by_addr(addr), None);
            prop_assert!(all.insert(addr));
        }
        for link in f.links() {
            prop_assert!(all.insert(f.link_local(link)));
            prop_assert!(f.ifname(link).len() <= 15);
        }
        for device in f.devices() {
            let ports = f.ports(device);
            let names: BTreeSet<String> = ports.iter().map(|&l| f.ifname(l)).collect();
            prop_assert_eq!(names.len(), ports.len());
            prop_assert!(ports.iter().all(|&l| f.link_device(l) == Some(device)));
        }
    }

    #[test]
    fn a_path_is_its_links_and_its_container(f in fabrics()) {
        let mut seen = BTreeMap::new();
        for (a, b) in nics(&f).flat_map(|a| nics(&f).map(move |b| (a, b))) {
            for path in f.paths(a, b) {
                let links = f.path_links(path).unwrap();
                prop_assert_eq!(seen.insert(links.to_vec(), path), None);
                prop_assert_eq!(f.path_of_links(&links), Some(path));
                prop_assert_eq!(f.path(a, b, f.path_parts(path).unwrap().2), Some(path));
                let container = f.path_container(path).unwrap();
                prop_assert_eq!(f.path_by_container(a, container), Some(path));
                // the way back is the same cables, turned round
                let back = f.path_reverse(path).unwrap();
                let mut turned: Vec<LinkId> = links.iter().map(|l| l.reverse()).collect();
                turned.reverse();
                prop_assert_eq!(f.path_links(back).unwrap().to_vec(), turned);
                prop_assert_eq!(f.path_reverse(back), Some(path));
                // the links join end to end
                let nodes = f.path_nodes(path).unwrap();
                prop_assert_eq!((nodes[0], nodes[nodes.len() - 1]), (Node::Nic(a), Node::Nic(b)));
                for (i, &l) in links.iter().enumerate() {
                    prop_assert_eq!(f.link_ends(l), Some((nodes[i], nodes[i + 1])));
                }
                let spine = (links.len() == 4).then(|| match nodes[2] { Node::Switch(s) => s, _ => unreachable!() });
                prop_assert_eq!(f.path_spine(path), spine);
            }
        }
        prop_assert_eq!(seen.len() as u128, f.plan().paths);
        // and no link, chosen any way, makes a path that is not one of those
        let links: Vec<LinkId> = f.links().take(40).collect();
        for (&a, &b) in links.iter().flat_map(|a| links.iter().map(move |b| (a, b))) {
            prop_assert_eq!(f.path_of_links(&[a, b]), seen.get(&vec![a, b]).copied());
        }
    }

    #[test]
    fn hostile_numbers_are_nobody(f in fabrics(), path: u64, link: u32, addr: u128, words in "[-a-z0-9:#./]{0,24}") {
        let _ = (f.path_links(PathId(path)), f.path_reverse(PathId(path)), f.path_name(PathId(path)));
        let _ = (f.path_container(PathId(path)), f.path_nodes(PathId(path)), f.path_spine(PathId(path)));
        let _ = (f.link_ends(LinkId(link)), f.link_name(LinkId(link)), f.link_device(LinkId(link)));
        let _ = f.path_of_links(&[LinkId(link), LinkId(link / 2), LinkId(link / 3), LinkId(link ^ 1)]);
        let addr = Ipv6Addr::from(addr);
        let _ = (f.nic_by_addr(addr), f.switch_by_addr(addr), f.path_by_container(NicId(link), addr));
        let _ = (f.component_by_name(&words), Target::parse(&f, &words));
        for near in 0..64u16 {
            let addr = Ipv6Addr::new(0xfcbb, 0xbb00, near, near * 3, 0xe000 | near, near & 1, 0, 0);
            if let Some(path) = f.path_by_container(NicId(0), addr) {
                prop_assert_eq!(f.path_container(path), Some(addr));
            }
        }
    }

    /// The routes, walked as a switch would: the longest prefix wins.
    #[test]
    fn a_container_is_forwarded_along_its_path(f in fabrics()) {
        prop_assume!(f.mode == Mode::Srv6);
        let tables = Tables::of(&f);
        for (a, b) in nics(&f).flat_map(|a| nics(&f).map(move |b| (a, b))) {
            for path in f.paths(a, b) {
                let links = f.path_links(path).unwrap();
                let mut dst = f.path_container(path).unwrap();
                let mut crossed = vec![links[0]];
                let mut at = f.link_device(links[0].reverse()).unwrap();
                for _ in 0..16 {
                    match tables.lookup(at, dst) {
                        Some(Action::Via(next)) => {
                            prop_assert_eq!(next.len(), 1);
                            prop_assert_eq!(f.link_device(next[0]), Some(at));
                            crossed.push(next[0]);
                            at = f.link_device(next[0].reverse()).unwrap();
                        }
                        Some(Action::End { .. }) => {
                            let s = dst.segments();
                            dst = Ipv6Addr::new(s[0], s[1], s[3], s[4], s[5], s[6], s[7], 0);
                        }
                        Some(Action::Decapsulate { .. }) => break,
                        other => prop_assert!(false, "{at:?} {dst} {other:?}"),
                    }
                }
                prop_assert_eq!(&crossed[..], &links[..]);
                prop_assert_eq!(at, Device::Host(f.nic_parts(b).1));
                prop_assert_eq!(dst, f.nic_sid(b));
            }
        }
    }

    #[test]
    fn a_plain_packet_can_take_every_path_and_no_other(f in fabrics()) {
        let tables = Tables::of(&f);
        for (a, b) in nics(&f).flat_map(|a| nics(&f).map(move |b| (a, b))) {
            if f.link_plane(f.access_link(a)) != f.link_plane(f.access_link(b)) || !f.nic_exists(a) || a == b {
                continue;
            }
            let mut reached: Vec<Vec<LinkId>> = Vec::new();
            let mut open = vec![vec![f.access_link(a)]];
            while let Some(crossed) = open.pop() {
                prop_assert!(crossed.len() <= MAX_PATH_LINKS, "a circle: {crossed:?}");
                let at = f.link_device(crossed[crossed.len() - 1].reverse()).unwrap();
                if at == Device::Host(f.nic_parts(b).1) {
                    reached.push(crossed);
                    continue;
                }
                if let Some(Action::Via(next)) = tables.lookup(at, f.nic_addr(b)) {
                    open.extend(next.iter().map(|&l| [&crossed[..], &[l]].concat()));
                }
            }
            reached.sort();
            let mut paths: Vec<Vec<LinkId>> =
                f.paths(a, b).map(|p| f.path_links(p).unwrap().to_vec()).collect();
            paths.sort();
            prop_assert_eq!(reached, paths);
        }
    }

    #[test]
    fn switches_answer_hosts_in_their_plane(f in fabrics()) {
        let tables = Tables::of(&f);
        for (nic, switch) in nics(&f).flat_map(|n| (0..f.switches()).map(move |s| (n, SwitchId(s)))) {
            if !f.nic_exists(nic) || f.switch_parts(switch).0 != f.nic_parts(nic).0 {
                continue;
            }
            // never in a circle, whoever is asked for
            let mut at = f.link_device(f.access_link(nic).reverse()).unwrap();
            for hop in 0.. {
                prop_assert!(hop < 4);
                if at == Device::Switch(switch) { break }
                match tables.lookup(at, f.switch_addr(switch)) {
                    Some(Action::Via(next)) => at = f.link_device(next[0].reverse()).unwrap(),
                    _ => break,
                }
            }
        }
    }

    #[test]
    fn faults_read_back_and_touch_what_is_there(f in fabrics(), seed: u64) {
        for target in [
            "random-link", "random-trunk", "random-switch", "random-switch/2", "random-switch/50%",
            "random-nic", "random-host", "p0-leaf0", "p0-leaf0/1", "p0-spine0/30%", "host0",
        ] {
            let target = Target::parse(&f, target).unwrap();
            prop_assert_eq!(Target::parse(&f, &target.name(&f)), Ok(target.clone()));
            let fault = Fault::new(target, None, "drop 1%".parse().unwrap()).unwrap();
            let resolved = fault.resolve(&f, seed);
            prop_assert_eq!(&fault.resolve(&f, seed), &resolved);
            if resolved.target.is_random() {
                continue; // nothing of the kind in this fabric
            }
            prop_assert_eq!(&resolved.resolve(&f, !seed), &resolved);
            let links = resolved.links(&f);
            prop_assert!(links.iter().all(|&l| f.exists(l)));
            let some_ports = matches!(&resolved.target, Target::Ports(_, Ports::List(l)) if !l.is_empty());
            if some_ports {
                let name = resolved.target.name(&f);
                prop_assert_eq!(Target::parse(&f, &name), Ok(resolved.target.clone()), "{}", name);
            }
            let all: BTreeSet<LinkId> = resolved.links(&f).into_iter().collect();
            for direction in ["forward", "backward"] {
                let direction = direction.parse().unwrap();
                let part = Fault { direction, ..resolved.clone() }.links(&f);
                let both = Fault { direction: Direction::Both, ..resolved.clone() }.links(&f);
                prop_assert_eq!(part.len() * 2, both.len());
                prop_assert!(part.iter().all(|l| both.contains(l)));
                prop_assert!(direction == resolved.direction || all.len() != both.len() || part.iter().all(|l| all.contains(l)));
            }
            prop_assert!(links.is_empty() || !resolved.answers(&f).is_empty());
        }
    }

    #[test]
    fn a_faults_text_reads_back(
        rate in 1e-4..=1.0f64, a in 1u64..10_000_000_000, b in 0u64..10_000_000_000, bps in 8_000u64..1 << 50,
    ) {
        for kind in [
            FaultKind::Drop { rate }, FaultKind::Blackhole { share: rate }, FaultKind::Corrupt { rate },
            FaultKind::Reorder { rate, delay: Nanos(a) }, FaultKind::EcnMark { rate }, FaultKind::RateLimit { bps },
            FaultKind::Delay { delay: Nanos(a), jitter: Nanos(b) }, FaultKind::Down,
            FaultKind::Flap { period: Nanos(a), duty: rate, rate: 1.0 - rate / 2.0 },
            FaultKind::CpuStall { stopped: Nanos(a), period: Nanos(a + b + 1) }, FaultKind::AgentStop,
        ] {
            prop_assert_eq!(kind.to_string().parse(), Ok(kind), "{}", kind);
            prop_assert!(FaultKind::FORMS.iter().any(|(word, _)| *word == kind.word()));
            prop_assert!(kind.verdict_kinds().iter().all(|k| scenario::VERDICT_KINDS.contains(k)));
        }
    }

    #[test]
    fn any_text_is_a_scenario_or_an_error_with_a_place(text in "(\\[\\[?(fabric|fault|remove)\\]\\]?|[a-z_]{1,9}|=|\n|'[^'\n]{0,9}'|[0-9]{1,4}| ){0,30}") {
        if let Err(e) = Scenario::parse(&text) {
            prop_assert!(e.span.start <= text.len());
            let _ = (e.located("x"), e.excerpt(&text), e.excerpt(""));
        }
    }
}

/// All routes of a small fabric, by device.
struct Tables(BTreeMap<Device, Vec<Route>>);

impl Tables {
    fn of(f: &Fabric) -> Tables {
        let tables: BTreeMap<_, Vec<_>> = f.devices().map(|d| (d, f.routes(d).collect::<Vec<_>>())).collect();
        for (device, routes) in &tables {
            let keys: BTreeSet<_> = routes.iter().map(|r| (r.table, r.to)).collect();
            assert_eq!(keys.len(), routes.len(), "a prefix twice on {device:?}");
            for link in routes.iter().flat_map(|r| match &r.action {
                Action::Via(links) => links.clone(),
                Action::End { on } | Action::Decapsulate { on } => vec![*on],
                Action::Unreachable => vec![],
            }) {
                assert_eq!(f.link_device(link), Some(*device));
            }
        }
        Tables(tables)
    }
    fn lookup(&self, device: Device, dst: Ipv6Addr) -> Option<&Action> {
        let covers =
            |p: Prefix| p.len == 0 || u128::from(p.addr) >> (128 - p.len) == u128::from(dst) >> (128 - p.len);
        let routes = self.0.get(&device)?.iter().filter(|r| r.table == TABLE_MAIN && covers(r.to));
        routes.max_by_key(|r| r.to.len).map(|r| &r.action)
    }
}
