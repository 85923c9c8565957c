//! Sensors against independent witnesses: what they count in a network namespace must be what the kernel's own tables,
//! and nftables, count there, exactly.
//!
//! Needs root, BTF, `ip`, `ethtool` and `nft`; says so and passes where one is missing.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use kernel::netns::Netns;
use selvedge_agent::sensors::client::Client;
use selvedge_agent::sensors::serve::{Config, serve};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::sensor::{DropRow, TcpRow};

fn can_run() -> bool {
    let missing = [
        (!kernel::process::is_root(), "root"),
        (!std::path::Path::new("/sys/kernel/btf/vmlinux").exists(), "the kernel's types (BTF)"),
        (Command::new("nft").arg("-v").output().is_err(), "nft"),
        (Command::new("ethtool").arg("--version").output().is_err(), "ethtool"),
    ];
    let missing: Vec<&str> = missing.iter().filter(|(m, _)| *m).map(|(_, what)| *what).collect();
    if !missing.is_empty() {
        eprintln!("skip: {} missing, sensors are not compared with their witnesses", missing.join(", "));
    }
    missing.is_empty()
}

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Two hosts on one cable, without offloads, and the process with the sensors.
struct Pair {
    names: [String; 2],
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Pair {
    fn up(name: &str) -> Pair {
        let names = ["a", "b"].map(|side| format!("sen-{name}-{side}"));
        let [a, b] = &names;
        sh(&format!(
            "ip netns del {a} 2>/dev/null || true; ip netns del {b} 2>/dev/null || true
             ip netns add {a}; ip netns add {b}
             ip -n {a} link add eth0 type veth peer name eth0 netns {b}
             for n in {a} {b}; do ip netns exec $n ethtool -K eth0 tso off gso off gro off tx off rx off >/dev/null
             ip -n $n link set lo up; ip -n $n link set eth0 up; done
             ip -n {a} addr add 10.9.0.1/24 dev eth0; ip -n {b} addr add 10.9.0.2/24 dev eth0"
        ));
        let socket =
            std::env::temp_dir().join(format!("selvedge-sensors-{name}-{}.sock", std::process::id()));
        let stop = Arc::new(AtomicBool::new(false));
        let config = Config { socket: socket.clone(), interval: Duration::from_millis(200) };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let ends = Arc::clone(&stop);
        let serving = std::thread::spawn(move || {
            serve(&config, |names| ready.send(names.to_vec()).unwrap(), &|| ends.load(Ordering::Relaxed))
                .unwrap();
        });
        let running = is_ready.recv_timeout(Duration::from_secs(60)).expect("the sensors run");
        assert_eq!(running, ["tcp", "drops"]);
        Pair { names, socket, stop, serving: Some(serving) }
    }

    fn inside(&self, side: usize) -> Netns {
        Netns::open(&self.names[side]).unwrap()
    }

    fn watch(&self, side: usize) -> Watch {
        let client = Client::start(self.socket.clone(), Some(self.names[side].clone())).unwrap();
        let mut watch = Watch { client, tcp: Vec::new(), drops: Vec::new(), readings: 0 };
        // From here on everything is counted.
        watch.next();
        watch.tcp.clear();
        watch.drops.clear();
        watch
    }

    /// One of the kernel's own counters of a namespace.
    fn counter(&self, side: usize, file: &str, table: &str, name: &str) -> u64 {
        let text = sh(&format!("ip netns exec {} cat /proc/net/{file}", self.names[side]));
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(&format!("{table}:"))).collect();
        let at = lines[0].split_whitespace().position(|w| w == name).unwrap();
        lines[1].split_whitespace().nth(at).unwrap().parse().unwrap()
    }

    /// Packets a rule of nftables counted: the only one with a counter there is.
    fn nft(&self, side: usize) -> u64 {
        let text = sh(&format!("ip netns exec {} nft list ruleset", self.names[side]));
        let after = text.split("counter packets ").nth(1).unwrap();
        after.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Everything told of one namespace.
struct Watch {
    client: Client,
    tcp: Vec<TcpRow>,
    drops: Vec<DropRow>,
    readings: usize,
}

impl Watch {
    /// Waits for one more reading.
    fn next(&mut self) {
        let begun = Instant::now();
        let before = self.readings;
        while self.readings == before {
            assert!(begun.elapsed() < Duration::from_secs(20), "no reading comes");
            for reading in self.client.take() {
                assert_eq!(reading.readings_lost, 0);
                self.readings += 1;
                self.tcp.extend(reading.tcp.iter().flat_map(|c| wire::sensor::tcp(c).unwrap()));
                self.drops.extend(reading.drops.iter().flat_map(|c| wire::sensor::drops(c).unwrap()));
                for s in reading.sensors.iter().flat_map(|c| wire::sensor::sensors(c).unwrap()) {
                    assert_eq!((s.state, s.lost), (0, 0), "{s:?}");
                }
            }
            std::thread::yield_now();
        }
    }

    /// Takes readings until something is in them, for some seconds at most.
    fn until(&mut self, is_there: impl Fn(&Watch) -> bool) {
        let begun = Instant::now();
        while !is_there(self) && begun.elapsed() < Duration::from_secs(10) {
            self.next();
        }
    }

    fn dropped(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for d in &self.drops {
            *sums.entry(d.reason.clone()).or_default() += d.packets;
        }
        sums
    }
}

/// A connection from side 0 to side 1.
fn connection(pair: &Pair) -> (TcpStream, TcpStream) {
    let listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:5001")).unwrap().unwrap();
    let to: SocketAddr = "10.9.0.2:5001".parse().unwrap();
    let out = pair.inside(0).run(|| TcpStream::connect(to)).unwrap().unwrap();
    (out, listener.accept().unwrap().0)
}

#[test]
fn retransmits_are_those_the_kernel_counts_whatever_their_cause() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("retr");
    sh(&format!(
        "ip netns exec {} nft 'add table t; add chain t i {{ type filter hook input priority 0; }};
         add rule t i tcp dport 5001 numgen random mod 100 < 3 counter drop'",
        pair.names[1]
    ));
    let (mut sender, mut receiver) = (pair.watch(0), pair.watch(1));
    let (mut out, mut into) = connection(&pair);
    let bytes = 8 << 20;
    let taker = std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            left -= into.read(&mut buf).unwrap();
        }
        into
    });
    let piece = vec![7; 1 << 16];
    for _ in 0..bytes / piece.len() {
        out.write_all(&piece).unwrap();
    }
    let into = taker.join().unwrap();
    // All is acknowledged when nothing is on its way any more: the next reading has the last of it.
    let idle = |w: &Watch, of: fn(&TcpRow) -> u32| {
        w.tcp
            .iter()
            .rev()
            .find(|r| of(r) == 5_001)
            .is_some_and(|r| r.unacked == 0 && r.segs_out + r.segs_in == 0)
    };
    let all = bytes as u64;
    sender.until(|w| idle(w, |r| r.remote_port) && w.tcp.iter().map(|r| r.bytes_acked).sum::<u64>() > all);
    receiver
        .until(|w| idle(w, |r| r.local_port) && w.tcp.iter().map(|r| r.bytes_received).sum::<u64>() >= all);
    let sum = |w: &Watch, of: fn(&TcpRow) -> u64| -> u64 {
        w.tcp.iter().filter(|r| r.remote_port == 5_001 || r.local_port == 5_001).map(of).sum()
    };
    let again = sum(&sender, |r| r.retrans);
    assert!(again > 50, "only {again} were sent again");
    assert_eq!(again, pair.counter(0, "snmp", "Tcp", "RetransSegs"));
    let causes = sum(&sender, |r| r.retrans_fast + r.retrans_timeout + r.retrans_probe);
    // Kernels before 6.17 tell of no event for one whose sending failed on this host; the connection counts it.
    assert!(causes <= again && causes * 10 >= again * 6, "{causes} of {again} have a cause");
    let probes = pair.counter(0, "netstat", "TcpExt", "TCPLossProbes");
    assert!(sum(&sender, |r| r.retrans_probe) <= probes);
    assert_eq!(sum(&sender, |r| r.bytes_acked), bytes as u64 + 1, "and the SYN");
    assert_eq!(sum(&receiver, |r| r.bytes_received), bytes as u64);
    // The kernel's table counts what came together as one, the connection its segments.
    let over_holes = pair.counter(1, "netstat", "TcpExt", "TCPOFOQueue");
    assert!(over_holes > 0 && sum(&receiver, |r| r.out_of_order) >= over_holes);
    assert_eq!(receiver.dropped().get("NETFILTER_DROP").copied().unwrap_or(0), pair.nft(1));
    let rtt: Vec<&TcpRow> = sender.tcp.iter().filter(|r| r.rtt_samples > 0).collect();
    assert!(
        !rtt.is_empty() && rtt.iter().all(|r| r.rtt_min_us <= r.rtt_p50_us && r.rtt_p50_us <= r.rtt_max_us)
    );
    let row = sender.tcp.iter().rev().find(|r| r.remote_port == 5_001).unwrap();
    assert_eq!((row.pid, row.state), (std::process::id(), 1), "{row:?}");
    drop((out, into));
}

#[test]
fn drops_are_counted_by_reason_and_only_where_they_happen() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("drop");
    let (mut a, mut b) = (pair.watch(0), pair.watch(1));
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    // Nobody listens: 37 of them. The kernel answers each with an ICMP error, up to its limit, which is no drop.
    for _ in 0..37 {
        // An error of an earlier one may come back first.
        while from.send_to(&[1; 100], "10.9.0.2:7001").is_err() {}
    }
    // A full buffer: what fits is taken, the rest is thrown away.
    let full = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:7002")).unwrap().unwrap();
    let socket = socket2::SockRef::from(&full);
    socket.set_recv_buffer_size(2_048).unwrap();
    for _ in 0..200 {
        while from.send_to(&[1; 1_000], "10.9.0.2:7002").is_err() {}
    }
    // A rule that drops.
    sh(&format!(
        "ip netns exec {} nft 'add table t; add chain t i {{ type filter hook input priority 0; }};
         add rule t i udp dport 7003 counter drop'",
        pair.names[1]
    ));
    for _ in 0..53 {
        while from.send_to(&[1; 10], "10.9.0.2:7003").is_err() {}
    }
    b.until(|w| w.dropped().get("NETFILTER_DROP") >= Some(&53));
    a.next();
    let drops = b.dropped();
    assert_eq!(drops.get("NO_SOCKET"), Some(&37), "{drops:?}");
    assert_eq!(pair.counter(1, "snmp", "Udp", "NoPorts"), 37);
    let errors = pair.counter(1, "snmp", "Udp", "RcvbufErrors");
    assert!(errors > 100);
    assert_eq!(drops.get("SOCKET_RCVBUFF"), Some(&errors), "{drops:?}");
    assert_eq!(drops.get("NETFILTER_DROP"), Some(&53), "{drops:?}");
    assert_eq!(pair.nft(1), 53);
    assert_eq!(a.dropped().get("NETFILTER_DROP"), None, "the other namespace hears nothing of it");
    let row = b.drops.iter().find(|d| d.reason == "NETFILTER_DROP").unwrap();
    assert_eq!((row.device.as_str(), row.protocol), ("eth0", 0x0800));
    // IPv4, UDP, from 10.9.0.1 to 10.9.0.2 port 7003
    assert_eq!(row.exemplar[0] >> 4, 4);
    assert_eq!(row.exemplar[12..20], [10, 9, 0, 1, 10, 9, 0, 2]);
    assert_eq!(row.exemplar[22..24], 7_003u16.to_be_bytes());
    assert_ne!(row.place, "");
}

#[test]
fn connections_that_end_between_two_readings_are_not_missed() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("short");
    let mut a = pair.watch(0);
    let listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:5002")).unwrap().unwrap();
    let taker = std::thread::spawn(move || {
        for _ in 0..300 {
            let (mut s, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            s.read_to_end(&mut all).unwrap();
        }
    });
    let inside = pair.inside(0);
    for _ in 0..300 {
        let mut s = inside.run(|| TcpStream::connect("10.9.0.2:5002")).unwrap().unwrap();
        s.write_all(&[5; 10]).unwrap();
    }
    taker.join().unwrap();
    // A port nobody listens at: such connections end too.
    for _ in 0..7 {
        assert!(inside.run(|| TcpStream::connect("10.9.0.2:5999")).unwrap().is_err());
    }
    let ended = |w: &Watch, port: u32| -> (u32, u32) {
        let rows = w.tcp.iter().filter(|r| r.connections > 0 && r.remote_port == port);
        rows.fold((0, 0), |sum, r| (sum.0 + r.connections, sum.1 + r.failed))
    };
    a.until(|w| ended(w, 5_002).0 >= 300 && ended(w, 5_999).0 >= 7);
    assert_eq!((ended(&a, 5_002), ended(&a, 5_999)), ((300, 0), (7, 7)));
}
