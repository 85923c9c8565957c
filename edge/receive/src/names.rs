//! Names of devices and ports as they call themselves, to the fabric's.
//!
//! ```toml
//! [[device]]
//! match = ["sw-a1.example", "10.0.0.*"]   # names or addresses as told; one `*` stands for anything
//! is = "p0-leaf1"                          # a switch or host of the fabric
//! [[device.interface]]
//! match = "Ethernet0"
//! to = "p0-spine0"                         # its neighbour; `#1` for the second parallel cable
//! [[device.interface]]
//! match = "Ethernet*"                      # a pattern whose `*` is a number
//! first = 8                                # the number of the first port, default 0
//! step = 8                                 # from one port to the next, default 1
//! port = 1                                 # the fabric's number of the first port, from 0; hosts first, then spines
//!
//! [[device]]
//! match = "gpu-*.example"
//! is = "host*"                             # what the star stood for
//! [[device.interface]]
//! match = "rdma*"
//! to = "p*"                                # a port by the fabric's own name, or by its neighbour's
//! ```
//!
//! How: rules are checked for every device they fit when the file is read, and enumerated, so that a device's ports
//! become one table from interface to link, made when the device is first heard of. Where no rule says otherwise a name is
//! the fabric's own, and a device may be told by an address the fabric gave it.
//! Invariants: within a device no two interfaces are on one port; what the mapping does not know is `None`, never a guess;
//! at most [`HEARD_MAX`] names of at most 200 bytes are remembered, whoever invents them, and one table of ports for each
//! device and rule.

mod file;

use crate::error::FileError;
use crate::rows::{Cabling, EntityKind, limit};
use crate::vocabulary::{self, Way};
use fabric::{Device, Fabric};
use file::Rule;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use wire::{Component, Counter, LinkId};

/// Device names remembered; beyond that all are forgotten and looked up anew.
pub const HEARD_MAX: usize = 65_536;

/// A device that was heard of: what it is, and its ports by the names it calls them.
#[derive(Debug)]
struct Heard {
    device: Device,
    /// The link out of the device for each interface.
    ports: HashMap<String, LinkId>,
}

/// Devices heard of, by themselves and the rule that named them.
type Known = HashMap<(Device, Option<usize>), Arc<Heard>>;

/// The mapping.
#[derive(Debug)]
pub struct Names {
    fabric: Arc<Fabric>,
    rules: Vec<Rule>,
    /// Names without a star, to the rule they are of.
    exact: HashMap<String, usize>,
    heard: RwLock<HashMap<String, Option<Arc<Heard>>>>,
    /// The same by device and rule: however many names a device is told by, its ports are kept once.
    known: RwLock<Known>,
}

impl Names {
    /// The mapping of a fabric whose devices and interfaces bear the fabric's names.
    pub fn identity(fabric: Arc<Fabric>) -> Names {
        Names {
            fabric,
            rules: Vec::new(),
            exact: HashMap::new(),
            heard: RwLock::default(),
            known: RwLock::default(),
        }
    }

    /// Reads a mapping and checks it against the fabric. The second value says what is left open, such as ports without an
    /// interface; it is no reason not to begin.
    pub fn parse(text: &str, fabric: Arc<Fabric>) -> Result<(Names, Vec<FileError>), FileError> {
        let (rules, findings) = file::read(text, &fabric)?;
        let mut exact = HashMap::new();
        for (n, rule) in rules.iter().enumerate() {
            let plain = rule.matches.iter().filter_map(|p| p.plain());
            exact.extend(plain.map(|name| (name.to_owned(), n)));
        }
        Ok((Names { rules, exact, ..Names::identity(fabric) }, findings))
    }

    /// The fabric the names are of.
    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }

    /// The device of a name, and the rule that says so.
    fn look_up(&self, told: &str) -> Option<(Device, Option<usize>)> {
        let by_rule = |n: usize, captured: &str| {
            let rule = self.rules.get(n)?;
            Some((self.fabric.device_by_name(&rule.is.filled(captured))?, Some(n)))
        };
        let found = match self.exact.get(told) {
            Some(&n) => by_rule(n, ""),
            None => self.rules.iter().enumerate().find_map(|(n, rule)| {
                let captured = rule.matches.iter().find_map(|p| p.captured(told))?;
                by_rule(n, captured)
            }),
        };
        let by_address = || match told.parse::<IpAddr>().ok()? {
            IpAddr::V6(a) => {
                let nic = self.fabric.nic_by_addr(a).map(|nic| Device::Host(self.fabric.nic_parts(nic).1));
                nic.or_else(|| self.fabric.switch_by_addr(a).map(Device::Switch))
            }
            IpAddr::V4(_) => None,
        };
        let own = || self.fabric.device_by_name(told).or_else(by_address).map(|d| (d, None));
        found.or_else(own)
    }

    /// A device with its ports.
    fn ports_of(&self, device: Device, rule: Option<usize>) -> Arc<Heard> {
        let key = (device, rule);
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(known);
        }
        let mut ports: HashMap<String, LinkId> = HashMap::new();
        if let Some(rule) = rule.and_then(|n| self.rules.get(n)) {
            ports.extend(rule.interfaces(&self.fabric, device).into_iter().map(|i| (i.name, i.link)));
        }
        for link in self.fabric.ports(device) {
            ports.entry(self.fabric.ifname(link)).or_insert(link);
        }
        let heard = Arc::new(Heard { device, ports });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, Arc::clone(&heard));
        heard
    }

    fn heard(&self, told: &str) -> Option<Arc<Heard>> {
        if let Some(known) = self.heard.read().unwrap_or_else(PoisonError::into_inner).get(told) {
            return known.clone();
        }
        if told.len() > limit::NAME {
            return None;
        }
        let found = self.look_up(told).map(|(device, rule)| self.ports_of(device, rule));
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        if heard.len() >= HEARD_MAX {
            heard.clear();
        }
        heard.insert(told.to_owned(), found.clone());
        found
    }

    /// What a device is in the fabric.
    pub fn device(&self, told: &str) -> Option<Device> {
        self.heard(told).map(|h| h.device)
    }

    /// The link that leaves a device by an interface; what comes in there is its reverse.
    pub fn port(&self, device: &str, interface: &str) -> Option<LinkId> {
        let heard = self.heard(device)?;
        heard.ports.get(interface).copied()
    }

    /// What a number is of in the fabric: of a port the directed link (see [`crate::vocabulary`]), else the device.
    pub fn component(&self, device: &str, kind: EntityKind, entity: &str, name: &str) -> Option<Component> {
        let interface = match kind {
            EntityKind::Interface | EntityKind::Optic => entity,
            EntityKind::Queue => entity.rsplit_once("/queue").map_or(entity, |(interface, _)| interface),
            EntityKind::Host | EntityKind::Process | EntityKind::Other => {
                return Some(match self.device(device)? {
                    Device::Host(host) => Component::Host(host),
                    Device::Switch(switch) => Component::Switch(switch),
                });
            }
        };
        let out = self.port(device, interface)?;
        let word = vocabulary::lookup(name);
        if word.and_then(|w| w.meaning).is_some_and(|m| m.counter == Counter::NicOverrun) {
            // It is the host behind the port that made no room.
            return self.fabric.cable_of(out).ok().filter(|_| out.0 & 1 == 0).map(Component::Nic);
        }
        let incoming = ["in_", "rx_"].iter().any(|p| name.starts_with(p)) || name.contains("receive");
        let way = word.map_or(if incoming { Way::In } else { Way::Out }, |w| w.way);
        Some(Component::Link(if way == Way::In { out.reverse() } else { out }))
    }

    /// Whether the fabric has a told neighbour at a port. The neighbour's own port is compared where its name is known.
    pub fn cabling(&self, device: &str, interface: &str, neighbour: &str, its_port: &str) -> Cabling {
        let (Some(out), Some(there)) = (self.port(device, interface), self.heard(neighbour)) else {
            return Cabling::Unknown;
        };
        let same = self.fabric.link_device(out.reverse()) == Some(there.device)
            && there.ports.get(its_port).is_none_or(|back| *back == out.reverse());
        if same { Cabling::Same } else { Cabling::Other(self.fabric.link_name(out)) }
    }
}

#[cfg(test)]
mod tests;
