//! `nic`: what interfaces and RDMA ports say of themselves.
//!
//! How: once an interval one dump of the namespace's interfaces, then for each interface worth it the questions its driver
//! answers (ethtool netlink), the driver's own counters, and now and then its module's memory; RDMA ports from sysfs. Vendors'
//! names become ours by one table ([`names`]); [`metrics`] turns all of it into metrics and findings.
//!
//! - A question a driver does not know is not asked again for a while.
//! - Reading a module takes milliseconds on a slow bus: once a minute.
//! - sysfs has a root, so that recorded trees are read by the same code.
//!
//! Invariants: at most [`INTERFACES_MAX`] interfaces are asked, those with hardware and with addresses first; the others are
//! counted; memory is bounded by them; one interface that fails does not cost the others.
//! Absent on purpose: BPF (nothing here needs it), changing anything, and the fabric's names.

pub mod metrics;
pub mod names;
pub mod optics;
mod watch;
pub use watch::Nics;

use crate::sensors::measure::{Before, HOST, Reading, Unit, number};
use kernel::drivers::{Driver, Drivers};
use kernel::ethtool::{Channels, Ethtool, Fec, Groups, Modes, Pause, Question, Rings, State};
use kernel::interface::{self, Interface};
use kernel::netlink::Netlink;
use metrics::{Facts, Port};
use optics::{Map, Optics};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use wire::Nanos;

/// Most interfaces that are asked in one namespace.
pub const INTERFACES_MAX: usize = 64;
/// Most ports of RDMA devices that are read.
pub const PORTS_MAX: usize = 64;
/// Most counters of one port.
const PORT_COUNTERS_MAX: usize = 512;
/// Longest value in a file of sysfs that is looked at, bytes.
const FILE_BYTES_MAX: u64 = 4_096;
/// How often a module's memory is read.
const OPTICS_EVERY: Nanos = Nanos::from_secs(60);
/// After so long a driver is asked again what it did not know.
const ASK_AGAIN: Nanos = Nanos::from_secs(600);

/// The sensor in one namespace.
#[derive(Debug)]
pub struct Nic {
    sys: Option<PathBuf>,
    netlink: Netlink,
    ethtool: Option<Ethtool>,
    drivers: Option<Drivers>,
    before: Before,
    known: BTreeMap<u32, Known>,
    last: Option<Nanos>,
    /// Interfaces there were more of than are asked.
    passed_over: u64,
}

/// What is kept of an interface between readings.
#[derive(Debug, Default)]
struct Known {
    name: String,
    driver: Driver,
    names: Vec<String>,
    unknown: BTreeSet<u8>,
    unknown_since: Nanos,
    optics: Option<Optics>,
    optics_at: Option<Nanos>,
}

impl Nic {
    /// Opens the sockets in this thread's namespace; `sys` is `/sys` or a recorded tree, and `None` in a namespace whose
    /// RDMA devices it does not show. What the kernel lacks is left out; see [`Nic::missing`].
    pub fn open(sys: Option<PathBuf>) -> kernel::Result<Nic> {
        Ok(Nic {
            sys,
            netlink: Netlink::route()?,
            ethtool: Ethtool::open().ok(),
            drivers: Drivers::open().ok(),
            before: Before::default(),
            known: BTreeMap::new(),
            last: None,
            passed_over: 0,
        })
    }

    /// What is not there, and what it costs the user.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.ethtool.is_none() {
            missing.push(
                "ethtool netlink (Linux 5.6): no speed, pause, FEC and standard counters, so a sick cable is seen only by its losses",
            );
        }
        if self.drivers.is_none() {
            missing.push("ethtool's drivers' counters: no PFC by priority and no vendor's counters");
        }
        if self.sys.as_ref().is_some_and(|sys| !sys.join("class/infiniband").exists()) {
            missing
                .push("RDMA devices: none on this host, so no congestion notifications and sequence errors");
        }
        missing
    }

    /// Reads everything once. Fails only where the interfaces cannot be listed.
    pub fn read(&mut self, now: Nanos) -> kernel::Result<Reading> {
        let window = self.last.map_or(Nanos(0), |last| now.since(last));
        self.last = Some(now);
        self.before.next_turn();
        let mut interfaces = interface::list(&mut self.netlink)?;
        interfaces.sort_by_key(worth);
        self.passed_over = interfaces.len().saturating_sub(INTERFACES_MAX) as u64;
        interfaces.truncate(INTERFACES_MAX);
        self.known
            .retain(|index, known| interfaces.iter().any(|it| it.index == *index && it.name == known.name));

        let mut reading = Reading::default();
        let mut ports = self.sys.as_deref().map(rdma_ports).unwrap_or_default();
        for it in interfaces {
            for address in &it.addresses {
                let address = match address {
                    IpAddr::V6(address) => *address,
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                };
                reading.addresses.push((it.index, address));
            }
            let mut facts = self.ask(it, now);
            let (mine, others) = ports.into_iter().partition(|p| p.interface == facts.interface.name);
            (facts.rdma, ports) = (mine, others);
            metrics::tell(&facts, &mut self.before, window, &mut reading);
        }
        for port in &ports {
            metrics::tell_port(port, &mut self.before, &mut reading);
        }
        let passed_over = i64::try_from(self.passed_over).unwrap_or(i64::MAX);
        reading.gauge(HOST, "interfaces_passed_over", Unit::Count, passed_over);
        Ok(reading)
    }

    /// Everything one interface says.
    fn ask(&mut self, it: Interface, now: Nanos) -> Facts {
        let known = self.known.entry(it.index).or_insert_with(|| {
            let driver = self.drivers.as_mut().and_then(|d| d.driver(&it.name).ok().flatten());
            Known { name: it.name.clone(), driver: driver.unwrap_or_default(), ..Known::default() }
        });
        if now.since(known.unknown_since) > ASK_AGAIN {
            known.unknown.clear();
            known.unknown_since = now;
        }
        let index = it.index;
        let mut answer = |question: Question| {
            let ethtool = self.ethtool.as_mut()?;
            if known.unknown.contains(&(question as u8)) {
                return None;
            }
            let answer = ethtool.ask(index, question);
            if answer == Ok(None) {
                known.unknown.insert(question as u8);
            }
            // what failed this time is asked again
            answer.ok().flatten()
        };
        let mut facts = Facts {
            modes: answer(Question::Modes).map(|b| Modes::decode(&b)),
            state: answer(Question::State).map(|b| State::decode(&b)),
            pause: answer(Question::Pause).map(|b| Pause::decode(&b)),
            fec: answer(Question::Fec).map(|b| Fec::decode(&b)),
            rings: answer(Question::Rings).map(|b| Rings::decode(&b)),
            channels: answer(Question::Channels).map(|b| Channels::decode(&b)),
            groups: answer(Question::Groups).map(|b| Groups::decode(&b)),
            driver: known.driver.clone(),
            ..Facts::default()
        };
        if let Some(drivers) = &mut self.drivers {
            facts.own = own(drivers, &it.name, &mut known.names);
        }
        // only hardware has a module
        if !it.device.is_empty() && known.optics_at.is_none_or(|at| now.since(at) >= OPTICS_EVERY) {
            known.optics_at = Some(now);
            known.optics = self.ethtool.as_mut().and_then(|e| module(e, index));
        }
        facts.optics.clone_from(&known.optics);
        facts.interface = it;
        facts
    }
}

/// Which interfaces are asked first: those with hardware, then those with a global address, then the others; loopback last.
fn worth(it: &Interface) -> (bool, bool, u32) {
    let global = |a: &IpAddr| match a {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    };
    let last = if it.index == kernel::link::LOOPBACK { u32::MAX } else { it.index };
    (it.device.is_empty(), !it.addresses.iter().any(global), last)
}

/// The driver's own counters with their names, which are asked for again where their number has changed.
fn own(drivers: &mut Drivers, interface: &str, names: &mut Vec<String>) -> Vec<(String, u64)> {
    let mut values = Vec::new();
    if drivers.values(interface, &mut values).is_err() {
        return Vec::new();
    }
    if values.len() != names.len() {
        *names = drivers.names(interface).unwrap_or_default();
        // it may have changed between the two calls
        if values.len() != names.len() {
            return Vec::new();
        }
    }
    names.iter().cloned().zip(values).collect()
}

/// What an interface's module measures, where it has one and it can be read.
fn module(ethtool: &mut Ethtool, index: u32) -> Option<Optics> {
    const FIRST: u8 = kernel::ethtool::MODULE;
    let mut page = |address, page, offset, bytes| {
        ethtool.module_memory(index, address, page, offset, bytes).ok().flatten()
    };
    let lower = page(FIRST, 0, 0, 128)?;
    match optics::map(&lower)? {
        Map::Sfp => optics::sfp(&page(kernel::ethtool::MODULE_MEASURES, 0, 96, 24)?),
        Map::Qsfp => optics::qsfp(&lower),
        Map::Cmis { flat: true } => optics::cmis(&lower, &[], &[]),
        Map::Cmis { flat: false } => {
            let (one, eleven) = (page(FIRST, 0x01, 128, 128)?, page(FIRST, 0x11, 128, 128)?);
            optics::cmis(&lower, &one, &eleven)
        }
    }
}

/// The ports of the RDMA devices under a root of sysfs, by name. What cannot be read is left out.
pub fn rdma_ports(sys: &Path) -> Vec<Port> {
    let mut ports = Vec::new();
    for device in entries(&sys.join("class/infiniband")) {
        let driver = text(&device.join("device/uevent"))
            .and_then(|t| t.lines().find_map(|l| l.strip_prefix("DRIVER=").map(str::to_owned)))
            .unwrap_or_default();
        for at in entries(&device.join("ports")) {
            if ports.len() >= PORTS_MAX {
                return ports;
            }
            let mut port = Port {
                name: format!("{}/{}", file_name(&device), file_name(&at)),
                interface: text(&at.join("gid_attrs/ndevs/0")).unwrap_or_default(),
                driver: driver.clone(),
                // "4: ACTIVE"
                active: text(&at.join("state")).map(|t| t.starts_with("4:")),
                // "400 Gb/sec (4X NDR)"
                speed_mbit: text(&at.join("rate")).and_then(|t| gigabits(&t)),
                counters: Vec::new(),
            };
            for folder in ["counters", "hw_counters"] {
                for file in entries(&at.join(folder)) {
                    if port.counters.len() < PORT_COUNTERS_MAX
                        && let Some(value) = text(&file).as_deref().and_then(number)
                    {
                        port.counters.push((file_name(&file), value));
                    }
                }
            }
            ports.push(port);
        }
    }
    ports
}

/// Mbit/s of a text such as `2.5 Gb/sec (1X SDR)`.
fn gigabits(text: &str) -> Option<u32> {
    let (whole, rest) = text.split_once(" Gb/sec")?;
    let _ = rest;
    let (whole, tenths) = whole.split_once('.').unwrap_or((whole, "0"));
    let tenths = tenths.parse::<u32>().ok().filter(|t| *t <= 9)?;
    whole.trim().parse::<u32>().ok()?.checked_mul(1_000)?.checked_add(tenths * 100)
}

/// What is in a directory, sorted by name; nothing where it is not there.
pub(crate) fn entries(at: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(at) else { return Vec::new() };
    let mut found: Vec<PathBuf> = read.filter_map(|e| Some(e.ok()?.path())).collect();
    found.sort();
    found
}

pub(crate) fn file_name(at: &Path) -> String {
    at.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The text of a small file, without the white space around it.
pub(crate) fn text(at: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(at).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}
