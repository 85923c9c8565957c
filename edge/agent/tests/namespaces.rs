//! Two real probers over a fabric of two leaves and two spines in network namespaces, made here by hand, with the
//! kernel's own forwarding; nftables breaks a link and counts what it took.
//!
//! Needs root, `ip`, `sysctl` and `nft`; says so and passes where one is missing.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use agent::prober::{Prober, ProberConfig, ProberHandle};
use fabric::{Device, Fabric};
use probe::{Observation, Plan};
use selvedge_agent as agent;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::{HostId, Known, LinkId, Nanos, PathRef};

/// A fabric in namespaces; gone when dropped.
struct World {
    fabric: Arc<Fabric>,
    prefix: String,
}

fn can_run() -> bool {
    let tools = ["ip", "sysctl", "nft"];
    let there = |t: &&str| {
        Command::new(t).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing: Vec<_> = tools.iter().filter(|t| !there(t)).collect();
    let root = kernel::caps::has(kernel::caps::Capability::CAP_SYS_ADMIN);
    if !missing.is_empty() || !root {
        println!("skipped: needs root (now: {root}) and {missing:?}");
    }
    missing.is_empty() && root
}

/// Runs a program with something on its standard input; what it said.
fn sh(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() || args.contains(&"-batch"),
        "{program} {args:?}: {said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    said
}

impl World {
    fn up(tag: &str, mode: &str, ioam: bool) -> World {
        let spec = format!(
            "name = \"{tag}\"\nmode = \"{mode}\"\nplanes = 1\nleaves = 2\nspines = 2\nhosts = 2\nhosts_per_leaf = 1\n\
             access = {{ rate = \"10Gbit/s\", latency = \"1us\" }}\ntrunk = {{ rate = \"10Gbit/s\", latency = \"1us\" }}\n"
        );
        let fabric = Arc::new(Fabric::parse(&spec).unwrap());
        let w = World { fabric, prefix: format!("{tag}{}-", std::process::id()) };
        let f = &w.fabric;
        for d in f.devices() {
            sh("ip", &["netns", "add", &w.netns(d)], "");
        }
        let mut links = String::new();
        for l in f.links().filter(|l| l.0 % 2 == 0) {
            let end = |l| format!("{} netns {}", f.ifname(l), w.netns(f.link_device(l).unwrap()));
            links += &format!("link add {} mtu 9000 type veth peer name {}\n", end(l), end(l.reverse()));
        }
        sh("ip", &["-batch", "-"], &links);
        for d in f.devices() {
            let ns = w.netns(d);
            let mut sysctls = f.render_sysctls(d);
            if !ioam {
                sysctls = sysctls.replace("ioam6_enabled = 1", "ioam6_enabled = 0");
            }
            sh("ip", &["netns", "exec", &ns, "sysctl", "-q", "-p", "-"], &sysctls);
            sh("ip", &["-n", &ns, "-6", "-force", "-batch", "-"], &f.render_batch(d));
        }
        w
    }

    fn netns(&self, d: Device) -> String {
        format!("{}{}", self.prefix, self.fabric.device_name(d))
    }

    fn prober(&self, host: u32) -> ProberHandle {
        let config = ProberConfig {
            netns: Some(self.netns(Device::Host(HostId(host)))),
            ..ProberConfig::new(self.fabric.clone(), HostId(host))
        };
        Prober::open(config).unwrap().spawn().unwrap()
    }

    fn plan(&self, host: u32, packets_per_second: u32) -> Plan {
        let slots = probe::plan::slots(&self.fabric, HostId(host), &Default::default());
        Plan { slots, packets_per_second, window: Nanos::from_millis(200), ..Plan::default() }
    }

    /// Drops one in `one_in` packets that arrive over a link, until told otherwise;
    fn drop_on(&self, link: LinkId, one_in: u32) {
        let at = self.fabric.link_device(link.reverse()).unwrap();
        let dev = self.fabric.ifname(link.reverse());
        let rule = format!(
            "table netdev t {{\n counter lost {{\n }}\n chain c {{\n type filter hook ingress device \"{dev}\" priority 0;\n \
             meta protocol ip6 numgen inc mod {one_in} 0 counter name lost drop\n }}\n}}\n"
        );
        sh("ip", &["netns", "exec", &self.netns(at), "nft", "-f", "-"], &rule);
    }

    fn dropped_on(&self, link: LinkId) -> u64 {
        let at = self.netns(self.fabric.link_device(link.reverse()).unwrap());
        let said = sh("ip", &["netns", "exec", &at, "nft", "list", "counter", "netdev", "t", "lost"], "");
        let after = said.split("packets ").nth(1).and_then(|s| s.split(' ').next());
        after.and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no count in {said:?}"))
    }

    fn heal(&self, link: LinkId) {
        let at = self.netns(self.fabric.link_device(link.reverse()).unwrap());
        sh("ip", &["netns", "exec", &at, "nft", "delete", "chain", "netdev", "t", "c"], "");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for d in self.fabric.devices() {
            let _ = Command::new("ip").args(["netns", "del", &self.netns(d)]).status();
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// Packets and losses by link, of ways that are known.
    by_link: BTreeMap<LinkId, (u64, u64)>,
    sent: u64,
    lost: u64,
    undecided: u64,
    mixtures: u64,
    discovered: u64,
    over: u64,
    delays: u64,
    delay_p50_ns_max: i64,
}

/// Takes in observations until `enough` of what was seen, or a minute is over.
fn watch(w: &World, handles: &[&ProberHandle], mut enough: impl FnMut(&Seen) -> bool) -> Seen {
    let (mut seen, start) = (Seen::default(), Instant::now());
    while !enough(&seen) {
        assert!(start.elapsed() < Duration::from_secs(60), "{seen:?} {:?}", handles[0].counters());
        for h in handles {
            let Ok(o) = h.observations.recv_timeout(Duration::from_millis(100)) else { continue };
            let Observation::Path(o) = o else { continue };
            if let PathRef::OneWay(leg) = o.path {
                seen.sent += u64::from(o.sent);
                seen.lost += u64::from(o.lost);
                seen.mixtures += u64::from(leg.known == Known::Mixture);
                seen.discovered += u64::from(leg.known == Known::Discovered);
                if let Some(d) = o.delay {
                    seen.delays += u64::from(d.count);
                    seen.over += u64::from(d.over);
                    seen.delay_p50_ns_max = seen.delay_p50_ns_max.max(d.p50_ns);
                }
                if leg.known != Known::Mixture {
                    for l in w.fabric.path_links(leg.path).unwrap().iter() {
                        let e = seen.by_link.entry(*l).or_default();
                        *e = (e.0 + u64::from(o.sent), e.1 + u64::from(o.lost));
                    }
                }
            } else {
                seen.undecided += u64::from(o.lost);
            }
        }
    }
    seen
}

#[test]
fn source_routed_probes_see_the_loss_of_one_direction_exactly() {
    if !can_run() {
        return;
    }
    let w = World::up("sr", "srv6", true);
    let (a, b) = (w.prober(0), w.prober(1));
    a.set_plan(w.plan(0, 1_000)).unwrap();
    b.set_plan(w.plan(1, 1_000)).unwrap();
    let seen = watch(&w, &[&a, &b], |s| s.sent > 8_000);
    assert_eq!((seen.lost, seen.undecided), (0, 0), "{seen:?}");
    assert_eq!(seen.by_link.len(), w.fabric.links().count(), "every link is crossed");
    println!("healthy: {seen:?}");

    let sick = w.fabric.link_by_name("p0-leaf0:p0-spine1").unwrap();
    w.drop_on(sick, 10);
    let mut seen = watch(&w, &[&a, &b], |s| s.sent > 8_000);
    w.heal(sick);
    let dropped = w.dropped_on(sick);
    // what was dropped before the healing is told within the time-out and a window
    let rest = watch(&w, &[&a, &b], |s| s.sent > 6_000);
    seen.lost += rest.lost;
    seen.undecided += rest.undecided;
    for (l, (_, lost)) in rest.by_link {
        seen.by_link.entry(l).or_default().1 += lost;
    }
    println!("dropped {dropped}, seen {seen:?}");
    assert_eq!(seen.lost + seen.undecided, dropped);
    assert!(seen.undecided * 20 <= dropped, "{} of {dropped} undecided", seen.undecided);
    assert_eq!(seen.by_link[&sick].1, seen.lost, "every loss is on a path over the sick link");
    assert_eq!(seen.by_link[&sick.reverse()].1, 0, "and none on a path over its other direction");
    println!("counters: {:?}", a.counters());
    a.stop();
    b.stop();
}

#[test]
fn hashed_probes_learn_their_paths_in_band() {
    learn_paths("ib", true);
}

#[test]
fn hashed_probes_learn_their_paths_hop_by_hop() {
    learn_paths("hh", false);
}

fn learn_paths(tag: &str, ioam: bool) {
    if !can_run() {
        return;
    }
    let w = World::up(tag, "ecmp", ioam);
    let (a, b) = (w.prober(0), w.prober(1));
    a.set_plan(w.plan(0, 400)).unwrap();
    b.set_plan(w.plan(1, 400)).unwrap();
    let ways: usize = if ioam { w.fabric.links().count() } else { 8 };
    watch(&w, &[&a, &b], |s| s.by_link.len() >= ways && s.discovered > 200);
    // from here on nearly nothing is a mixture, but the ways back of those who trace by hops
    let seen = watch(&w, &[&a, &b], |s| s.discovered > 400);
    println!("{tag}: {seen:?}\n{:?}", a.counters());
    assert_eq!((seen.lost, seen.undecided), (0, 0));
    assert!(!ioam || seen.mixtures * 20 < seen.discovered, "{seen:?}");
    let sick = w.fabric.link_by_name("p0-spine1:p0-leaf1").unwrap();
    w.drop_on(sick, 4);
    let named = |s: &Seen| s.by_link.get(&sick).is_some_and(|l| l.1 > 0);
    let seen = watch(&w, &[&a, &b], |s| s.lost >= 40 && named(s));
    println!("{tag} with loss: {seen:?}\n{:?}", a.counters());
    let of = |l: LinkId| seen.by_link.get(&l).copied().unwrap_or_default();
    assert!(of(sick).1 > 0 && of(sick).1 + seen.undecided + seen.mixtures >= seen.lost.min(of(sick).1));
    let other = w.fabric.link_by_name("p0-spine0:p0-leaf1").unwrap();
    assert_eq!(of(other).1, 0, "no loss on the other spine: {seen:?}");
}
