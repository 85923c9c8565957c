//! Exact paths: an EV that is a list of links and not a hash.
//!
//! How: whoever knows the fabric hands over the paths to each peer as plain data. Where it can be done, one BPF program at
//! the egress hook of the uplinks wraps what leaves for a peer with a path's flow label into an outer header that leads
//! along it (SRv6, compressed segments). Bursts stay whole. Where it cannot (no BPF, no tcx, no privilege), packets go by
//! flow label, the network chooses the path, and that is what is reported: any path of the pair.
//!
//! Invariants: a path is said to be exact only while everything sent on it is wrapped; what is at the hook goes when the
//! endpoint goes.
//! Absent on purpose: any knowledge of how a fabric numbers or addresses things.

use kernel::bpf::Object;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use wire::{Epoch, Known, Leg, PathId};

/// The compiled `steer.bpf.c`.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
const PROGRAM: &str = "steer";
const PATHS: &str = "steer_paths";
const COUNTS: &str = "steer_counts";
/// Most paths of one endpoint. Each takes about a hundred bytes of the kernel's.
pub const PATHS_MAX: usize = 65_536;
/// Bytes an outer IPv6 header takes (RFC 8200).
pub const OUTER_BYTES: usize = 40;

/// One way from an address of this host to an address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FabricPath {
    /// From.
    pub from: Ipv6Addr,
    /// To.
    pub to: Ipv6Addr,
    /// What it is called in observations.
    pub path: PathId,
    /// Flow label of what takes it, `1 ..= 0xfffff`: another one for each way to `to`.
    pub flow_label: u32,
    /// The outer destination that leads along it. `None` where the network chooses: then `path` is any of the pair.
    pub container: Option<Ipv6Addr>,
}

/// The paths an endpoint knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathTable {
    /// The fabric they belong to.
    pub epoch: Epoch,
    /// All of them.
    pub paths: Vec<FabricPath>,
    /// Interfaces they leave by.
    pub uplinks: Vec<String>,
}

/// What an EV of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub flow_label: u32,
    pub leg: Leg,
}

/// A path table in force.
#[derive(Debug)]
pub(crate) struct Steering {
    pub epoch: Epoch,
    by_pair: BTreeMap<(Ipv6Addr, Ipv6Addr), Vec<FabricPath>>,
    /// None where packets go by flow label.
    object: Option<Object>,
    /// Packets the program could not wrap, when it was last asked.
    refused: u64,
}

impl Steering {
    /// Puts a table in force for this thread's network namespace, as far as it can be.
    pub fn new(table: &PathTable) -> Steering {
        let mut by_pair: BTreeMap<_, Vec<FabricPath>> = BTreeMap::new();
        for p in &table.paths {
            by_pair.entry((p.from, p.to)).or_default().push(*p);
        }
        let object = match attach(table) {
            Ok(object) => object,
            Err(reason) => {
                tracing::warn!(%reason, "no exact paths: packets go by flow label, and their path is not known");
                None
            }
        };
        Steering { epoch: table.epoch, by_pair, object, refused: 0 }
    }

    /// Do packets take the paths their EVs name?
    pub fn is_exact(&self) -> bool {
        self.object.is_some()
    }

    /// What each EV of a connection is: EV e belongs to plane e mod n, and goes round the plane's paths from a random
    /// one. Nothing where the pair is not in the table.
    pub fn ways(&self, planes: &[(Option<Ipv6Addr>, Ipv6Addr)], evs: u16, random: u32) -> Vec<Option<Way>> {
        let n = planes.len().max(1);
        let way = |ev: usize| {
            let (from, to) = *planes.get(ev % n)?;
            let paths = self.by_pair.get(&(from?, to))?;
            let p = paths.get((ev / n + random as usize) % paths.len().max(1))?;
            let exact = self.is_exact() && p.container.is_some();
            let known = if exact { Known::Exact } else { Known::Mixture };
            // by flow label every EV has its own
            let flow_label = if exact { p.flow_label } else { 0 };
            Some(Way { flow_label, leg: Leg { path: p.path, known } })
        };
        (0..usize::from(evs)).map(way).collect()
    }

    /// Has everything been wrapped since this was last asked? Asks the kernel.
    pub fn holds(&mut self) -> bool {
        let Some(object) = &self.object else { return true };
        match object.words::<2>(COUNTS) {
            Ok([_, refused]) => refused == std::mem::replace(&mut self.refused, refused),
            Err(_) => false,
        }
    }
}

/// Loads the program, fills its map and puts it at the uplinks. None where no path has a container.
fn attach(table: &PathTable) -> Result<Option<Object>, String> {
    let exact: Vec<_> = table.paths.iter().filter_map(|p| Some((p, p.container?))).collect();
    if exact.is_empty() {
        return Ok(None);
    }
    if exact.len() > PATHS_MAX {
        return Err(format!("{} paths, at most {PATHS_MAX}: hand over those to fewer peers", exact.len()));
    }
    let said = |e: kernel::Error| e.to_string();
    let mut object = Object::load_with_room(OBJECT, PATHS, exact.len() as u32).map_err(said)?;
    for (p, container) in exact {
        let [a, b, c, d] = words(p.to);
        object.insert(PATHS, [a, b, c, d, p.flow_label & 0xf_ffff], words(container)).map_err(said)?;
    }
    for uplink in &table.uplinks {
        object.attach_egress(PROGRAM, uplink).map_err(said)?;
    }
    Ok(Some(object))
}

/// An address as it lies in memory.
fn words(addr: Ipv6Addr) -> [u32; 4] {
    let o = addr.octets();
    [0, 4, 8, 12].map(|i| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]))
}
