//! What a host probes: a bounded list of slots, computed from the fabric by every host for itself.
//!
//! How: the slots of all hosts together are laid so that every link carries the same number, without anybody counting.
//! Slot `k` of the NIC on port `p` has the number `i = p * slots + k` on its leaf. It leaves by up-link `i mod U` of
//! the leaf's `U` up-links, over spine `s`, to the leaf `1 + h` further on, where `h` depends on `s` and on
//! `j = i div U` and not on the leaf: so for every `(s, j)` the leaves are shifted in a circle, and each is hit once.
//! The port there is a shift of `p` by an amount that depends on `k` only: each port is hit once for every `k`. The way
//! back takes the up-link `i + 1 + 3 j` of the leaf it starts from: again each once. One more slot per NIC stays within
//! the leaf, so that an access link is seen without any trunk.
//!
//! Invariants: at most [`PlanConfig::slots_max`] slots a plane and host, however large the fabric; every slot's paths
//! exist; the same fabric and host give the same slots.
//! Absent on purpose: anything learned. Where cables are left out the nearest path that exists is taken, and the
//! spread is even only as far as that allows.

use alloc::vec::Vec;
use fabric::{Fabric, Mode};
use wire::{HostId, Nanos, NicId, PathId, PlaneId};

/// One path to keep probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The way there. In ecmp mode the one to look for.
    pub path: PathId,
    /// The way back, where the sender chooses it (srv6 mode).
    pub back: Option<PathId>,
    /// Bytes of the STAMP packet, TLVs included, without UDP and IP headers.
    pub size: u16,
    /// DSCP of probe and answer, `0 ..= 63`.
    pub class: u8,
}

/// What a sender is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to probe. At most [`crate::sender::SLOTS_MAX`].
    pub slots: Vec<Slot>,
    /// Length of an observation's window, 100 ms to 1 s.
    pub window: Nanos,
    /// Packets a second in all, spread evenly over the slots. At least 1.
    pub packets_per_second: u32,
    /// Probes sent back to back each time a slot's turn comes. At least 1.
    pub train: u32,
    /// A probe unanswered so long is lost.
    pub timeout: Nanos,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            slots: Vec::new(),
            window: Nanos::from_millis(500),
            packets_per_second: 400,
            train: 2,
            timeout: Nanos::from_secs(1),
        }
    }
}

/// How much to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanConfig {
    /// Most slots of a host in one plane, `2 ..= 64`.
    pub slots_max: u32,
    /// Least slots of a NIC to other leaves.
    pub slots_min: u32,
    /// Forward paths that should cross every trunk link, from as many different hosts as there are.
    pub cover: u32,
    /// Bytes of the STAMP packet.
    pub size: u16,
    /// DSCP.
    pub class: u8,
}

impl Default for PlanConfig {
    fn default() -> Self {
        PlanConfig { slots_max: 64, slots_min: 8, cover: 4, size: 128, class: 0 }
    }
}

/// The slots of a host in every plane. Empty where the host does not exist or has nobody to talk to.
pub fn slots(fabric: &Fabric, host: HostId, config: &PlanConfig) -> Vec<Slot> {
    let mut out = Vec::new();
    for plane in 0..fabric.shape.planes {
        let plane = PlaneId(plane as u8);
        for rail in 0..fabric.shape.rails {
            if let Some(nic) = fabric.nic(plane, host, rail) {
                nic_slots(fabric, plane, nic, config, &mut out);
            }
        }
    }
    out
}

/// Slots of one NIC to other leaves: enough that every trunk is covered `cover` times, and such that the leaf's ports
/// together go round its up-links a whole number of times where the limit lets them.
fn slots_per_nic(fabric: &Fabric, config: &PlanConfig) -> u32 {
    let s = &fabric.shape;
    let ports = s.hosts_per_leaf.min(s.hosts).max(1);
    let ups = s.spines * fabric.parallel;
    let most = (config.slots_max / s.rails.max(1)).saturating_sub(1).max(1);
    let least = (config.cover * ups).div_ceil(ports).max(config.slots_min).min(most);
    let step = ups / gcd(ups, ports);
    let whole = least.div_ceil(step) * step;
    if whole <= most { whole } else { least }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

/// Leaves with hosts on them.
fn leaves_used(fabric: &Fabric) -> u32 {
    let s = &fabric.shape;
    (s.hosts.div_ceil(s.hosts_per_leaf) * s.rails).min(s.leaves)
}

/// The `(spine, cable)` of every up-link a leaf has, in a fixed order.
fn ups(fabric: &Fabric, plane: PlaneId, leaf: u32) -> Vec<(u32, u32)> {
    let s = &fabric.shape;
    let all = (0..s.cables).flat_map(|cable| (0..s.spines).map(move |spine| (spine, cable)));
    all.filter(|&(spine, cable)| fabric.exists(fabric.trunk_link(plane, leaf, spine, cable))).collect()
}

/// The NIC on a leaf's port, or on the next port that has one.
fn nic_near(fabric: &Fabric, plane: PlaneId, leaf: u32, port: u32, not: NicId) -> Option<NicId> {
    let ports = fabric.shape.hosts_per_leaf;
    (0..ports).find_map(|d| fabric.nic_at(plane, leaf, (port + d) % ports).filter(|&n| n != not))
}

/// A path between two NICs that takes this spine and up-cable if there is one; else this up-link's spine by another
/// cable; else any, beginning at that spine.
fn path_near(fabric: &Fabric, from: NicId, to: NicId, up: (u32, u32), down: u32) -> Option<PathId> {
    let c = fabric.shape.cables;
    let lanes = fabric.lanes();
    let (spine, cable) = up;
    let exists = |p: PathId| fabric.path_links(p).map(|_| p);
    let on_spine = (0..c).flat_map(|a| (0..c).map(move |b| (a, b))).find_map(|(a, b)| {
        let lane = (spine * c + (cable + a) % c) * c + (down + b) % c;
        exists(fabric.path(from, to, lane)?)
    });
    on_spine
        .or_else(|| (0..lanes).find_map(|d| exists(fabric.path(from, to, (spine * c * c + d) % lanes)?)))
}

/// Whether the path goes over this very up-link.
fn is_over(fabric: &Fabric, path: PathId, up: (u32, u32)) -> bool {
    let lane = |p| fabric.path_parts(p).map(|(_, _, lane)| fabric.lane_parts(lane));
    lane(path).is_some_and(|(s, a, _)| (s, a) == up)
}

fn nic_slots(fabric: &Fabric, plane: PlaneId, nic: NicId, config: &PlanConfig, out: &mut Vec<Slot>) {
    let shape = &fabric.shape;
    let (leaf, port) = fabric.nic_leaf_port(nic);
    let ports = shape.hosts_per_leaf;
    let leaves = leaves_used(fabric);
    let count = slots_per_nic(fabric, config);
    let mut push = |path: PathId, back: Option<PathId>| {
        let back = if fabric.mode == Mode::Srv6 { back } else { None };
        if fabric.mode == Mode::Srv6 && back.is_none() {
            return;
        }
        out.push(Slot { path, back, size: config.size, class: config.class });
    };

    let my_ups = ups(fabric, plane, leaf);
    let alone = leaves < 2 || my_ups.is_empty();
    // within the leaf: every port to the next; where there is nothing else, to the ones after it too
    let neighbours = if alone { count.min(ports.saturating_sub(1)) } else { 1 };
    for k in 0..neighbours {
        if let Some(to) = nic_near(fabric, plane, leaf, (port + 1 + k) % ports, nic)
            && let Some(path) = fabric.path(nic, to, 0)
        {
            push(path, fabric.path_reverse(path));
        }
    }
    if alone {
        return;
    }
    let n_ups = my_ups.len() as u32;
    for k in 0..count {
        let i = port * count + k;
        let (u, j) = (i % n_ups, i / n_ups);
        let Some(&up) = my_ups.get(u as usize) else { continue };
        // `h` must not depend on the leaf; the plane and the cable may turn it, so that planes differ
        let turn = up.0 * 5 + up.1 * 3 + j * 7 + u32::from(plane.0) * 11;
        let to_port = (port + 1 + k * 3 + u32::from(plane.0)) % ports;
        // keep the up-link where the path behind it is missing, and look for another leaf
        let found = (0..leaves - 1).find_map(|d| {
            let to_leaf = (leaf + 1 + (turn + d) % (leaves - 1)) % leaves;
            let to = nic_near(fabric, plane, to_leaf, to_port, nic)?;
            let path = path_near(fabric, nic, to, up, (up.1 + j) % shape.cables)?;
            is_over(fabric, path, up).then_some((to_leaf, to, path))
        });
        let Some((to_leaf, to, path)) = found else { continue };
        let back_ups = ups(fabric, plane, to_leaf);
        let b = (i + 1 + 3 * j) % (back_ups.len() as u32).max(1);
        let back = back_ups
            .get(b as usize)
            .and_then(|&back_up| path_near(fabric, to, nic, back_up, (back_up.1 + j) % shape.cables));
        push(path, back);
    }
}
