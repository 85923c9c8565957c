//! A fabric of two leaves and two spines in network namespaces, made by hand, with the kernel's own forwarding; nftables
//! breaks a link and counts what it took.
// each test file uses its own part of it
#![allow(dead_code)]

use fabric::{Device, Fabric};
use probe::Plan;
use selvedge_agent::prober::{Prober, ProberConfig, ProberHandle};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use wire::{HostId, LinkId, Nanos};

/// A fabric in namespaces; gone when dropped.
pub struct World {
    pub fabric: Arc<Fabric>,
    prefix: String,
}

pub fn can_run() -> bool {
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
pub fn sh(program: &str, args: &[&str], input: &str) -> String {
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
    pub fn up(tag: &str, mode: &str, ioam: bool) -> World {
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

    pub fn netns(&self, d: Device) -> String {
        format!("{}{}", self.prefix, self.fabric.device_name(d))
    }

    pub fn prober(&self, host: u32) -> ProberHandle {
        self.prober_with(host, |_| {})
    }

    pub fn prober_with(&self, host: u32, change: impl FnOnce(&mut ProberConfig)) -> ProberHandle {
        let mut config = ProberConfig {
            netns: Some(self.netns(Device::Host(HostId(host)))),
            ..ProberConfig::new(self.fabric.clone(), HostId(host))
        };
        change(&mut config);
        Prober::open(config).unwrap().spawn().unwrap()
    }

    pub fn plan(&self, host: u32, packets_per_second: u32) -> Plan {
        let slots = probe::plan::slots(&self.fabric, HostId(host), &Default::default());
        Plan { slots, packets_per_second, window: Nanos::from_millis(200), ..Plan::default() }
    }

    /// Drops every `one_in`th packet that arrives over a link, until told otherwise.
    pub fn drop_on(&self, link: LinkId, one_in: u32) {
        self.drop_by(link, "inc", one_in);
    }

    /// Drops packets that arrive over a link by chance, one in so many.
    pub fn drop_randomly_on(&self, link: LinkId, one_in: u32) {
        self.drop_by(link, "random", one_in);
    }

    fn drop_by(&self, link: LinkId, how: &str, one_in: u32) {
        let at = self.fabric.link_device(link.reverse()).unwrap();
        let dev = self.fabric.ifname(link.reverse());
        let rule = format!(
            "table netdev t {{\n counter lost {{\n }}\n chain c {{\n type filter hook ingress device \"{dev}\" priority 0;\n \
             meta protocol ip6 numgen {how} mod {one_in} 0 counter name lost drop\n }}\n}}\n"
        );
        sh("ip", &["netns", "exec", &self.netns(at), "nft", "-f", "-"], &rule);
    }

    pub fn dropped_on(&self, link: LinkId) -> u64 {
        let at = self.netns(self.fabric.link_device(link.reverse()).unwrap());
        let said = sh("ip", &["netns", "exec", &at, "nft", "list", "counter", "netdev", "t", "lost"], "");
        let after = said.split("packets ").nth(1).and_then(|s| s.split(' ').next());
        after.and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no count in {said:?}"))
    }

    pub fn heal(&self, link: LinkId) {
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
