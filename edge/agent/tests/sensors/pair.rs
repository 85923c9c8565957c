//! Two hosts on one cable, what the sensors tell of them, and what independent witnesses count there.

use kernel::netns::Netns;
use selvedge_agent::sensors::client::Client;
use selvedge_agent::sensors::serve::{Config, serve};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Counter;
use wire::proto::SensorFinding;
use wire::sensor::{DropRow, MetricRow, PassingRow, TcpRow};

pub fn can_run() -> bool {
    let missing = [
        (!kernel::process::is_root(), "root"),
        (!std::path::Path::new("/sys/kernel/btf/vmlinux").exists(), "the kernel's types (BTF)"),
        (Command::new("nft").arg("-v").output().is_err(), "nft"),
        (Command::new("ethtool").arg("--version").output().is_err(), "ethtool"),
        (Command::new("python3").arg("--version").output().is_err(), "python3"),
        (Command::new("taskset").arg("--version").output().is_err(), "taskset"),
    ];
    let missing: Vec<&str> = missing.iter().filter(|(m, _)| *m).map(|(_, what)| *what).collect();
    if !missing.is_empty() {
        eprintln!("skip: {} missing, sensors are not compared with their witnesses", missing.join(", "));
    }
    missing.is_empty()
}

pub fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Two hosts on one cable, without offloads, and the process with the sensors.
pub struct Pair {
    pub names: [String; 2],
    socket: PathBuf,
    serving: Option<Serving>,
}

/// The process with the sensors, as a thread of this one; ended when dropped.
pub struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Pair {
    pub fn up(name: &str) -> Pair {
        let mut pair = Pair::without_sensors(name);
        pair.serving = Some(pair.serve(Duration::from_millis(200)));
        pair
    }

    pub fn without_sensors(name: &str) -> Pair {
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
        Pair { names, socket, serving: None }
    }

    /// Serves sensors, read so often.
    pub fn serve(&self, interval: Duration) -> Serving {
        let stop = Arc::new(AtomicBool::new(false));
        let sensors = selvedge_agent::sensors::chosen("all").unwrap();
        let config = Config { socket: self.socket.clone(), interval, sensors };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            serve(&config, |names| ready.send(names.to_vec()).unwrap(), &|| ends.load(Ordering::Relaxed))
                .unwrap();
        });
        let running = is_ready.recv_timeout(Duration::from_secs(60)).expect("the sensors run");
        assert_eq!(running, ["tcp", "drops", "delay", "flows", "nic", "proc"]);
        Serving { stop, thread: Some(thread) }
    }

    pub fn inside(&self, side: usize) -> Netns {
        Netns::open(&self.names[side]).unwrap()
    }

    pub fn watch(&self, side: usize) -> Watch {
        let client = Client::start(self.socket.clone(), Some(self.names[side].clone())).unwrap();
        let mut watch = Watch {
            client,
            tcp: Vec::new(),
            drops: Vec::new(),
            metrics: Vec::new(),
            findings: Vec::new(),
            flows: Vec::new(),
            costs: BTreeMap::new(),
            readings: 0,
        };
        // From here on everything is counted.
        watch.next();
        watch.tcp.clear();
        watch.drops.clear();
        watch.metrics.clear();
        watch.findings.clear();
        watch.flows.clear();
        watch
    }

    /// One of the kernel's own counters of a namespace.
    pub fn counter(&self, side: usize, file: &str, table: &str, name: &str) -> u64 {
        let text = sh(&format!("ip netns exec {} cat /proc/net/{file}", self.names[side]));
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(&format!("{table}:"))).collect();
        let at = lines[0].split_whitespace().position(|w| w == name).unwrap();
        lines[1].split_whitespace().nth(at).unwrap().parse().unwrap()
    }

    /// Packets a rule of nftables counted: the only one with a counter there is.
    pub fn nft(&self, side: usize) -> u64 {
        self.nft_counts(side)[0].0
    }

    /// Packets and bytes of every counter of nftables, in their order.
    pub fn nft_counts(&self, side: usize) -> Vec<(u64, u64)> {
        let text = sh(&format!("ip netns exec {} nft list ruleset", self.names[side]));
        let number = |t: &str| t.split_whitespace().next().unwrap().parse().unwrap();
        let counts = text.split("packets ").skip(1).filter(|t| t.contains("bytes "));
        counts.map(|t| (number(t), number(t.split("bytes ").nth(1).unwrap()))).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.serving.take());
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Everything told of one namespace.
pub struct Watch {
    pub client: Client,
    pub tcp: Vec<TcpRow>,
    pub drops: Vec<DropRow>,
    pub metrics: Vec<MetricRow>,
    pub findings: Vec<SensorFinding>,
    pub flows: Vec<PassingRow>,
    /// What each sensor said last that it costs, microseconds a second.
    pub costs: BTreeMap<String, u64>,
    readings: usize,
}

impl Watch {
    /// Waits for one more reading.
    pub fn next(&mut self) {
        let begun = Instant::now();
        let before = self.readings;
        while self.readings == before {
            assert!(begun.elapsed() < Duration::from_secs(20), "no reading comes");
            for reading in self.client.take() {
                assert_eq!(reading.readings_lost, 0);
                self.readings += 1;
                self.tcp.extend(reading.tcp.iter().flat_map(|c| wire::sensor::tcp(c).unwrap()));
                self.drops.extend(reading.drops.iter().flat_map(|c| wire::sensor::drops(c).unwrap()));
                self.metrics.extend(reading.metrics.iter().flat_map(|c| wire::sensor::metrics(c).unwrap()));
                self.flows.extend(reading.passing.iter().flat_map(|c| wire::sensor::passing(c).unwrap()));
                self.findings.extend(reading.findings.clone());
                for s in reading.sensors.iter().flat_map(|c| wire::sensor::sensors(c).unwrap()) {
                    assert_eq!((s.state, s.lost), (0, 0), "{s:?}");
                    self.costs.insert(s.sensor, s.cost_us);
                }
            }
            std::thread::yield_now();
        }
    }

    /// Takes readings until something is in them, for some seconds at most.
    pub fn until(&mut self, mut is_there: impl FnMut(&Watch) -> bool) {
        let begun = Instant::now();
        while !is_there(self) && begun.elapsed() < Duration::from_secs(30) {
            self.next();
        }
    }

    /// By how much a counter grew, over all readings.
    pub fn grew(&self, entity: &str, name: &str) -> f64 {
        let mine = |r: &&MetricRow| r.entity == entity && r.name == name && r.form == 2;
        self.metrics.iter().filter(mine).map(|r| r.value).sum()
    }

    /// Events and opportunities of a finding, over all readings, and how many there were.
    pub fn found(&self, counter: Counter) -> (u64, u64, usize) {
        let mine: Vec<_> = self.findings.iter().filter(|f| f.counter == counter as u32).collect();
        (mine.iter().map(|f| f.delta).sum(), mine.iter().map(|f| f.of).sum(), mine.len())
    }

    pub fn dropped(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for d in &self.drops {
            *sums.entry(d.reason.clone()).or_default() += d.packets;
        }
        sums
    }
}
