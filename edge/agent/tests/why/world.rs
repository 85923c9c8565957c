//! Two hosts and a router between them, in network namespaces.
//!
//! Segmentation is off on every link: a burst that crosses a veth as one packet would be lost as one.

use kernel::echo::Echo;
use kernel::netns;
use kernel::offload::set_tx_offload;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Random numbers of a seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// From `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }
    /// The same, small ones as often as large ones.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        let (l, h) = ((low as f64).ln(), (high as f64).ln());
        let x = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        (l + x * (h - l)).exp().round() as u64
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.roll() % of.len() as u64) as usize]
    }
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
        out.status.success(),
        "{program} {args:?} {input}: {said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    said
}

/// Host a, router r, host b.
pub struct World {
    pub a: String,
    pub r: String,
    pub b: String,
    pub v6: bool,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    pub fn up(v6: bool) -> World {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("wG-{}-{n}-{end}", std::process::id());
        let w = World { a: name("a"), r: name("r"), b: name("b"), v6 };
        for ns in [&w.a, &w.r, &w.b] {
            netns::create(ns).unwrap();
        }
        let links = format!(
            "link add eth0 netns {a} type veth peer name ra netns {r}\nlink add eth0 netns {b} type veth peer name rb netns {r}\n",
            a = w.a,
            r = w.r,
            b = w.b
        );
        sh("ip", &["-batch", "-"], &links);
        for ns in [&w.a, &w.r, &w.b] {
            let _in = netns::enter(ns).unwrap();
            for key in
                ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/keep_addr_on_down"]
            {
                if *ns == w.r {
                    kernel::sysctl::write(key, 1).unwrap();
                }
            }
            // answers of the network are what is looked at: all of them
            kernel::sysctl::write("net/ipv4/icmp_ratelimit", 0).unwrap();
            kernel::sysctl::write("net/ipv6/icmp/ratelimit", 0).unwrap();
            for key in ["net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad"] {
                kernel::sysctl::write(key, 0).unwrap();
            }
        }
        let host = |n: u8| {
            format!(
                "link set lo up\naddr add 10.77.{n}.1/24 dev eth0\naddr add fd77:{n}::1/64 dev eth0 nodad\nlink set eth0 up\n\
                 route add default via 10.77.{n}.254\nroute add default via fd77:{n}::254\n"
            )
        };
        w.ip(&w.r, "link set lo up\naddr add 10.77.1.254/24 dev ra\naddr add fd77:1::254/64 dev ra nodad\n\
             addr add 10.77.2.254/24 dev rb\naddr add fd77:2::254/64 dev rb nodad\nlink set ra up\nlink set rb up\n");
        w.ip(&w.a, &host(1));
        w.ip(&w.b, &host(2));
        for (ns, link) in [(&w.a, "eth0"), (&w.b, "eth0"), (&w.r, "ra"), (&w.r, "rb")] {
            let _in = netns::enter(ns).unwrap();
            set_tx_offload(kernel::link::index_of(link).unwrap(), false, true).unwrap();
        }
        // the first packet finds its neighbours
        w.until_reached();
        w
    }

    fn until_reached(&self) {
        let _in = netns::enter(&self.a).unwrap();
        let mut echo = Echo::open(self.address_b(), None).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let mut number = 0;
        while Instant::now() < end {
            number += 1;
            // refused while the links are still coming up
            let _ = echo.send(number, 100);
            let _ = kernel::poll::readable(&[echo.as_fd()], Some(Duration::from_millis(100)));
            if echo.receive().unwrap().is_some() {
                return;
            }
        }
        panic!("the two hosts never saw each other");
    }

    /// `ip` commands in one namespace.
    pub fn ip(&self, ns: &str, commands: &str) {
        sh("ip", &["-n", ns, "-batch", "-"], commands);
    }
    /// A rule set in one namespace.
    pub fn nft(&self, ns: &str, rules: &str) {
        // a statement ends with its line
        sh("ip", &["netns", "exec", ns, "nft", "-f", "-"], &rules.replace('}', "\n}"));
    }
    pub fn tc(&self, ns: &str, arguments: &str) {
        let mut words = vec!["-n", ns];
        words.extend(arguments.split(' '));
        sh("tc", &words, "");
    }
    pub fn address_a(&self) -> IpAddr {
        if self.v6 { "fd77:1::1" } else { "10.77.1.1" }.parse().unwrap()
    }
    pub fn address_b(&self) -> IpAddr {
        if self.v6 { "fd77:2::1" } else { "10.77.2.1" }.parse().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for ns in [&self.a, &self.r, &self.b] {
            let _ = netns::delete(ns);
        }
    }
}

/// A control group with a quota; gone when dropped.
pub struct Quota(std::path::PathBuf);

impl Quota {
    /// So many percent of one processor. None where this machine's groups cannot do that.
    pub fn new(percent: u64) -> Option<Quota> {
        let name = format!("wG-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (root, v2) = if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists()
            || std::path::Path::new("/sys/fs/cgroup/cpu/cpu.shares").exists()
        {
            ("/sys/fs/cgroup/cpu", false)
        } else {
            ("/sys/fs/cgroup", true)
        };
        let at = std::path::Path::new(root).join(name);
        std::fs::create_dir(&at).ok()?;
        let quota = Quota(at);
        let period = 50_000;
        let written = if v2 {
            std::fs::write(quota.0.join("cpu.max"), format!("{} {period}", period * percent / 100))
        } else {
            std::fs::write(quota.0.join("cpu.cfs_period_us"), period.to_string()).and_then(|()| {
                std::fs::write(quota.0.join("cpu.cfs_quota_us"), (period * percent / 100).to_string())
            })
        };
        written.ok()?;
        Some(quota)
    }
    pub fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // its processes end a moment before
        for _ in 0..1_000 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}
