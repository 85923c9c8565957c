//! `proc`: what makes a host look like a bad network, from the texts of `/proc` and `/sys`.
//!
//! How: whole-kernel facts ([`Proc::host`]) are read once a kernel, the counters of a network namespace
//! ([`Proc::namespace`]) once each. Every path has a root, so that recorded trees are read by the same code.
//!
//! - A control group is asked for where one is named, else that of the process itself, in the unified hierarchy where it
//!   has the controller and in the old ones elsewhere.
//! - Interfaces' devices are asked for by the names netlink gives, since a namespace's sysfs may not show them.
//!
//! Invariants: a file that is missing costs its metrics and nothing else; files are read up to [`FILE_BYTES_MAX`]; a finding
//! needs two readings; what the prober reports of its own namespace (UDP over IPv6) is not reported twice.
//! Absent on purpose: BPF, judgement.

pub mod metrics;
pub mod text;
mod watch;
pub use watch::Procs;

use crate::sensors::measure::{Before, Entity, HOST, Place, Reading, Unit, number};
use crate::sensors::nic::{entries, file_name};
use metrics::{NETSTAT, SNMP6, Wanted};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use text::Softnet;
use wire::{Counter, Nanos};

/// Longest text that is read, bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// A tick of `/proc/stat`: `USER_HZ` is 100 on every architecture the kernel shows to programs.
const TICK_NS: u64 = 10_000_000;
/// Numa nodes that are read.
const NODES_MAX: usize = 64;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/proc/thread-self/net`: of the namespace the thread is in.
    pub net: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// A control group whose limits and pressure are reported, as a directory; `None` for the process's own.
    pub cgroup: Option<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Roots { proc: "/proc".into(), net: "/proc/thread-self/net".into(), sys: "/sys".into(), cgroup: None }
    }
}

/// A device whose PCIe link and interrupts are of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name of its interface.
    pub interface: String,
    /// Its bus, as `pci`.
    pub bus: String,
    /// Its place there, as `0000:65:00.0`.
    pub device: String,
}

/// The sensor, of one kernel or of one namespace.
#[derive(Debug)]
pub struct Proc {
    roots: Roots,
    before: Before,
    last: Option<Nanos>,
    backlogs: BTreeMap<u64, Softnet>,
    /// What the backlogs did since the first reading, all processors together.
    backlog: Softnet,
}

impl Proc {
    /// Reads nothing yet.
    pub fn new(roots: Roots) -> Proc {
        Proc {
            roots,
            before: Before::default(),
            last: None,
            backlogs: BTreeMap::new(),
            backlog: Softnet::default(),
        }
    }

    fn window(&mut self, now: Nanos) -> Option<Nanos> {
        self.before.next_turn();
        self.last.replace(now).map(|last| now.since(last)).filter(|w| w.0 > 0)
    }

    /// What is not there, and what it costs the user.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if read(&self.roots.proc.join("pressure/cpu")).is_none() {
            missing.push(
                "pressure (CONFIG_PSI, or psi=1 at boot): a host short of processors is seen by its lateness only",
            );
        }
        missing
    }

    /// Facts of the whole kernel, and of `devices`.
    pub fn host(&mut self, now: Nanos, devices: &[Device]) -> Reading {
        let window = self.window(now);
        let mut reading = Reading::default();
        self.processors(&mut reading);
        self.memory(&mut reading);
        self.stalls(window, &mut reading);
        self.group(&mut reading);
        self.nodes(&mut reading);
        self.backlog(&mut reading);
        let interrupts = read(&self.roots.proc.join("interrupts")).unwrap_or_default();
        let interrupts = text::interrupts(&interrupts);
        for device in devices {
            self.device(device, &interrupts, &mut reading);
        }
        reading
    }

    /// Counters of the network namespace the thread is in.
    pub fn namespace(&mut self, now: Nanos) -> Reading {
        self.window(now);
        let mut reading = Reading::default();
        let mut grown: Vec<(Wanted, u64)> = Vec::new();
        let mut take = |before: &mut Before, reading: &mut Reading, wanted: &Wanted, value: u64| {
            if let Some(delta) = reading.counter(before, HOST, wanted.ours, Unit::Packets, value) {
                grown.push((*wanted, delta));
            }
        };
        for file in ["snmp", "netstat"] {
            let Some(all) = read(&self.roots.net.join(file)) else { continue };
            for (protocol, name, value) in text::tables(&all) {
                if let Some(w) = NETSTAT.iter().find(|w| w.protocol == protocol && w.theirs == name) {
                    take(&mut self.before, &mut reading, w, value);
                }
            }
        }
        if let Some(all) = read(&self.roots.net.join("snmp6")) {
            for (name, value) in text::pairs(&all) {
                if let Some(w) = SNMP6.iter().find(|w| w.theirs == name) {
                    take(&mut self.before, &mut reading, w, value);
                }
            }
        }
        self.conntrack(&mut reading);
        for counter in [Counter::SocketDrop, Counter::ChecksumError] {
            let sum = |of: fn(&Wanted) -> Option<Counter>| {
                let mine = grown.iter().filter(|(w, _)| of(w) == Some(counter));
                mine.map(|(_, n)| *n)
                    .fold(None, |sum: Option<u64>, n| Some(sum.unwrap_or(0).saturating_add(n)))
            };
            if let Some(delta) = sum(|w| w.counts) {
                let received = grown.iter().filter(|(w, _)| w.received).map(|(_, n)| *n);
                let of = received.fold(0, u64::saturating_add).max(delta);
                reading.finding(Place::Host, counter, delta, of);
            }
        }
        reading
    }

    fn processors(&mut self, reading: &mut Reading) {
        let Some(all) = read(&self.roots.proc.join("stat")) else { return };
        let stat = text::stat(&all);
        let mut times = |of: Entity<'_>, t: &text::Times, whole: bool| {
            let mut one = |name: &str, ticks: u64| {
                reading.counter(&mut self.before, of, name, Unit::Nanoseconds, ticks.saturating_mul(TICK_NS));
            };
            let busy = t.user.saturating_add(t.system).saturating_add(t.irq).saturating_add(t.softirq);
            one("cpu_busy", busy);
            one("cpu_softirq", t.softirq);
            one("cpu_irq", t.irq);
            one("cpu_steal", t.steal);
            if whole {
                one("cpu_user", t.user);
                one("cpu_system", t.system);
                one("cpu_idle", t.idle);
            }
        };
        times(HOST, &stat.all, true);
        for (cpu, t) in &stat.each {
            times(("cpu", &format!("cpu{cpu}")), t, false);
        }
        reading.counter(&mut self.before, HOST, "context_switches", Unit::Count, stat.switches);
        reading.counter(&mut self.before, HOST, "processes_made", Unit::Count, stat.forks);
        reading.gauge(HOST, "tasks_running", Unit::Count, signed(stat.running));
        reading.gauge(HOST, "tasks_blocked", Unit::Count, signed(stat.blocked));
        if let Some(load) = read(&self.roots.proc.join("loadavg")).as_deref().and_then(text::load) {
            for (name, value) in ["load_1m", "load_5m", "load_15m"].into_iter().zip(load) {
                reading.gauge(HOST, name, Unit::PerMille, signed(value));
            }
        }
    }

    fn memory(&mut self, reading: &mut Reading) {
        const WANTED: [(&str, &str); 6] = [
            ("MemTotal", "memory_total"),
            ("MemAvailable", "memory_available"),
            ("MemFree", "memory_free"),
            ("Dirty", "memory_dirty"),
            ("SwapFree", "swap_free"),
            ("SwapTotal", "swap_total"),
        ];
        let Some(all) = read(&self.roots.proc.join("meminfo")) else { return };
        for (theirs, ours) in WANTED {
            if let Some(kib) = text::value(&all, theirs) {
                reading.gauge(HOST, ours, Unit::Bytes, signed(kib.saturating_mul(1_024)));
            }
        }
    }

    /// Pressure of the whole host.
    fn stalls(&mut self, window: Option<Nanos>, reading: &mut Reading) {
        let folder = self.roots.proc.join("pressure");
        for resource in ["cpu", "memory", "io"] {
            let Some(all) = read(&folder.join(resource)) else { continue };
            let grown = pressed(HOST, resource, &all, &mut self.before, reading);
            if let (Some(us), Some(window), "cpu") = (grown, window, resource) {
                let of = window.0 / 1_000;
                reading.finding(Place::Host, Counter::CpuPressure, us.min(of), of);
            }
        }
    }

    /// Limits, throttling and pressure of the control group.
    fn group(&mut self, reading: &mut Reading) {
        let own = read(&self.roots.proc.join("self/cgroup")).unwrap_or_default();
        let tree = self.roots.sys.join("fs/cgroup");
        let below = |root: PathBuf, path: &str| root.join(path.trim_start_matches('/'));
        let unified = self.roots.cgroup.clone().or_else(|| {
            let path = text::unified(&own)?;
            // beside the old hierarchies the unified one has a directory of its own
            let both = tree.join("unified");
            Some(below(if both.exists() { both } else { tree.clone() }, path))
        });
        let old = |controller: &str| Some(below(tree.join(controller), text::controlled(&own, controller)?));
        let entity = ("cgroup", "own");
        for resource in ["cpu", "memory", "io"] {
            let at = unified.as_ref().map(|u| u.join(format!("{resource}.pressure")));
            if let Some(all) = at.as_deref().and_then(read) {
                pressed(entity, resource, &all, &mut self.before, reading);
            }
        }
        let stat =
            unified.as_ref().and_then(|u| read(&u.join("cpu.stat"))).filter(|s| s.contains("nr_throttled"));
        let stat = stat.or_else(|| read(&old("cpu")?.join("cpu.stat"))).unwrap_or_default();
        if let Some(n) = text::value(&stat, "nr_throttled") {
            reading.counter(&mut self.before, entity, "throttled", Unit::Count, n);
        }
        let throttled = text::value(&stat, "throttled_usec").map(|us| us.saturating_mul(1_000));
        if let Some(ns) = throttled.or_else(|| text::value(&stat, "throttled_time")) {
            reading.counter(&mut self.before, entity, "throttled_time", Unit::Nanoseconds, ns);
        }
        let first = |new: &str, old_name: &str| {
            let new = unified.as_ref().and_then(|u| number(&read(&u.join(new))?));
            new.or_else(|| number(&read(&old("memory")?.join(old_name))?))
        };
        if let Some(bytes) = first("memory.current", "memory.usage_in_bytes") {
            reading.gauge(entity, "memory_used", Unit::Bytes, signed(bytes));
        }
        // "max" is no number: no limit, no metric
        if let Some(bytes) = first("memory.max", "memory.limit_in_bytes") {
            reading.gauge(entity, "memory_limit", Unit::Bytes, signed(bytes));
        }
        let events = unified.as_ref().and_then(|u| read(&u.join("memory.events"))).unwrap_or_default();
        for (name, value) in text::pairs(&events).filter(|(n, _)| ["high", "max", "oom_kill"].contains(n)) {
            reading.counter(&mut self.before, entity, format!("memory_{name}"), Unit::Count, value);
        }
    }

    fn nodes(&mut self, reading: &mut Reading) {
        let folder = self.roots.sys.join("devices/system/node");
        let is_node = |at: &PathBuf| {
            file_name(at).strip_prefix("node").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
        };
        for node in entries(&folder).into_iter().filter(is_node).take(NODES_MAX) {
            let name = file_name(&node);
            let entity = ("numa", name.as_str());
            if let Some(list) = read(&node.join("cpulist")) {
                reading.gauge(entity, "processors", Unit::Count, signed(text::listed(&list)));
            }
            let stat = read(&node.join("numastat")).unwrap_or_default();
            for (name, value) in text::pairs(&stat) {
                if ["numa_miss", "numa_foreign", "other_node"].contains(&name) {
                    reading.counter(&mut self.before, entity, name, Unit::Count, value);
                }
            }
            // "Node 0 MemFree: 12 kB"
            for line in read(&node.join("meminfo")).unwrap_or_default().lines() {
                let rest = line.split_ascii_whitespace().skip(2).collect::<Vec<_>>();
                if let ["MemFree:", kib, ..] = rest.as_slice()
                    && let Some(kib) = number(kib)
                {
                    reading.gauge(entity, "memory_free", Unit::Bytes, signed(kib.saturating_mul(1_024)));
                }
            }
        }
    }

    /// What the processors' backlogs took and dropped.
    fn backlog(&mut self, reading: &mut Reading) {
        let Some(all) = read(&self.roots.net.join("softnet_stat")) else { return };
        let first = self.backlogs.is_empty();
        for row in text::softnet(&all) {
            // a processor that was not there before begins with what it has
            let before = self.backlogs.insert(row.cpu, row).or(first.then_some(row)).unwrap_or_default();
            let grown = row.since(&before);
            let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
            add(&mut self.backlog.taken, grown.taken);
            add(&mut self.backlog.dropped, grown.dropped);
            add(&mut self.backlog.squeezed, grown.squeezed);
            add(&mut self.backlog.flow_limited, grown.flow_limited);
        }
        let Proc { before, backlog, .. } = self;
        let mut one = |name: &str, unit, value| reading.counter(before, HOST, name, unit, value);
        let taken = one("backlog_taken", Unit::Packets, backlog.taken);
        let dropped = one("backlog_dropped", Unit::Packets, backlog.dropped);
        let limited = one("backlog_flow_limited", Unit::Packets, backlog.flow_limited);
        one("backlog_squeezed", Unit::Count, backlog.squeezed);
        if let (Some(taken), Some(dropped), Some(limited)) = (taken, dropped, limited) {
            let lost = dropped.saturating_add(limited);
            reading.finding(Place::Host, Counter::HostQueueDrop, lost, taken.saturating_add(lost));
        }
    }

    fn conntrack(&mut self, reading: &mut Reading) {
        let folder = self.roots.proc.join("sys/net/netfilter");
        for (file, name) in [("nf_conntrack_count", "conntrack_used"), ("nf_conntrack_max", "conntrack_max")]
        {
            if let Some(n) = read(&folder.join(file)).as_deref().and_then(number) {
                reading.gauge(HOST, name, Unit::Count, signed(n));
            }
        }
        let Some(all) = read(&self.roots.net.join("stat/nf_conntrack")) else { return };
        for (name, value) in text::columns(&all) {
            if ["insert_failed", "drop", "early_drop", "invalid"].contains(&name) {
                reading.counter(&mut self.before, HOST, format!("conntrack_{name}"), Unit::Packets, value);
            }
        }
    }

    /// PCIe link, errors and interrupts of an interface's device.
    fn device(&mut self, device: &Device, interrupts: &[(u32, Vec<u64>)], reading: &mut Reading) {
        let plain = |s: &str| !s.is_empty() && !s.contains('/') && s != "." && s != "..";
        if !plain(&device.bus) || !plain(&device.device) {
            return;
        }
        let at = self.roots.sys.join("bus").join(&device.bus).join("devices").join(&device.device);
        // a virtio device's interrupts are those of the PCI device it stands on
        let at = if at.join("msi_irqs").exists() { at } else { at.join("..") };
        let entity = ("interface", device.interface.as_str());
        let file = |name: &str| read(&at.join(name));
        let speeds = [("current_link_speed", "pcie_speed"), ("max_link_speed", "pcie_speed_max")];
        for (theirs, ours) in speeds {
            if let Some(n) = file(theirs).as_deref().and_then(text::transfers) {
                reading.gauge(entity, ours, Unit::Count, signed(n));
            }
        }
        for (theirs, ours) in [("current_link_width", "pcie_width"), ("max_link_width", "pcie_width_max")] {
            if let Some(n) = file(theirs).as_deref().and_then(number) {
                reading.gauge(entity, ours, Unit::Count, signed(n));
            }
        }
        if let Some(node) = file("numa_node").and_then(|t| t.trim().parse::<i64>().ok()) {
            reading.gauge(entity, "numa_node", Unit::Count, node);
        }
        let errors = [
            ("aer_dev_correctable", "TOTAL_ERR_COR", "pcie_correctable_errors"),
            ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL", "pcie_nonfatal_errors"),
            ("aer_dev_fatal", "TOTAL_ERR_FATAL", "pcie_fatal_errors"),
        ];
        for (name, total, ours) in errors {
            if let Some(n) = file(name).and_then(|t| text::value(&t, total)) {
                reading.counter(&mut self.before, entity, ours, Unit::Count, n);
            }
        }
        let mut by_processor: Vec<u64> = Vec::new();
        let mut lines = 0;
        for irq in entries(&at.join("msi_irqs")).iter().filter_map(|f| file_name(f).parse::<u32>().ok()) {
            let Some((_, counts)) = interrupts.iter().find(|(n, _)| *n == irq) else { continue };
            lines += 1;
            by_processor.resize(by_processor.len().max(counts.len()), 0);
            by_processor.iter_mut().zip(counts).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
        }
        if lines > 0 {
            let sum = by_processor.iter().copied().fold(0, u64::saturating_add);
            reading.counter(&mut self.before, entity, "interrupts", Unit::Count, sum);
            reading.gauge(entity, "interrupt_lines", Unit::Count, lines);
            let used = by_processor.iter().filter(|n| **n > 0).count();
            reading.gauge(entity, "interrupt_processors", Unit::Count, signed(used as u64));
            let most = by_processor.iter().copied().max().unwrap_or(0);
            let share = u128::from(most) * 1_000 / u128::from(sum.max(1));
            reading.gauge(entity, "interrupt_busiest_share", Unit::PerMille, share as i64);
        }
    }
}

/// The lines of a file of pressure as metrics. By how much the time in which some task waited grew, microseconds.
fn pressed(
    of: Entity<'_>,
    resource: &str,
    all: &str,
    before: &mut Before,
    reading: &mut Reading,
) -> Option<u64> {
    let mut some = None;
    for which in ["some", "full"] {
        let Some(it) = text::pressure(all, which) else { continue };
        let name = |what: &str| format!("pressure_{resource}_{which}{what}");
        // thousandths of a percent; a whole is 100,000
        reading.gauge(of, name("_10s"), Unit::PerMille, signed(it.avg10 / 100));
        reading.gauge(of, name("_60s"), Unit::PerMille, signed(it.avg60 / 100));
        let ns = it.total_us.saturating_mul(1_000);
        let grown = reading.counter(before, of, name(""), Unit::Nanoseconds, ns);
        if which == "some" {
            some = grown.map(|ns| ns / 1_000);
        }
    }
    some
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A text, where it can be read; bytes that are no text are replaced.
fn read(at: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(at).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
