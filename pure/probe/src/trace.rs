//! Which path a packet took, where the network chose it.
//!
//! How: with in-band telemetry (IOAM) a packet carries the switches it crossed; they name a path. Without it, packets
//! with the same addresses, ports and flow label and growing hop limits make every switch on the way say its name
//! ([`HopTrace`]). A slot that wants a certain path tries flow labels until one leads there ([`LabelSearch`]).
//!
//! Invariants: a path is said to be known for a window only if it was confirmed before it and nothing has contradicted
//! it since ([`Track::known`]); a list of switches that names no single path names none.
//! Absent on purpose: guessing.

use crate::collect::Way;
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use fabric::{Fabric, Tier};
use wire::{Nanos, NicId, PathId, SwitchId, Window};

/// IOAM node ids from here on are hosts: `HOST_NODES | host` (24 bits).
pub const HOST_NODES: u32 = 0x80_0000;

/// A hop as in-band telemetry tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// IOAM node id, 24 bits: switch id + 1, or a host's.
    pub node: u32,
    /// IOAM id of the interface it came in by; 0 and 0xffff mean unset. On trunks: parallel cable + 1.
    pub ingress: u16,
    /// IOAM id of the interface it went out by.
    pub egress: u16,
}

/// The path that leads over these hops, in the order crossed; hosts among them are skipped. `None` where they name no
/// single path.
pub fn path_of_hops(fabric: &Fabric, from: NicId, to: NicId, hops: &[Hop]) -> Option<PathId> {
    let is_switch = |h: &&Hop| h.node > 0 && h.node < HOST_NODES;
    let switches: Vec<&Hop> = hops.iter().filter(is_switch).collect();
    let ids: Vec<SwitchId> = switches.iter().map(|h| SwitchId(h.node - 1)).collect();
    let cable = |id: u16| (1..0xffff).contains(&id).then(|| u32::from(id) - 1);
    let cables = match switches.as_slice() {
        [_, spine, _] => (cable(spine.ingress), cable(spine.egress)),
        _ => (None, None),
    };
    path_of_switches(fabric, from, to, &ids, cables)
}

/// The path over these switches, by the given parallel cables; without them only where there is a single one.
pub fn path_of_switches(
    fabric: &Fabric,
    from: NicId,
    to: NicId,
    switches: &[SwitchId],
    cables: (Option<u32>, Option<u32>),
) -> Option<PathId> {
    let (plane, _, _) = fabric.nic_parts(from);
    let leaf = |nic| fabric.switch(plane, Tier::Leaf, fabric.nic_leaf_port(nic).0);
    if fabric.nic_parts(to).0 != plane {
        return None;
    }
    match *switches {
        [only] => {
            (Some(only) == leaf(from) && Some(only) == leaf(to)).then(|| fabric.path(from, to, 0)).flatten()
        }
        [a, spine, b] => {
            if Some(a) != leaf(from) || Some(b) != leaf(to) || spine.0 >= fabric.switches() {
                return None;
            }
            let (p, tier, number) = fabric.switch_parts(spine);
            if p != plane || tier != Tier::Spine {
                return None;
            }
            let c = fabric.shape.cables;
            let fits = |want: Option<u32>, have: u32| want.is_none_or(|w| w == have);
            let lanes = (0..c).flat_map(|up| (0..c).map(move |down| (up, down)));
            let mut found = lanes
                .filter(|&(up, down)| fits(cables.0, up) && fits(cables.1, down))
                .filter_map(|(up, down)| fabric.path(from, to, (number * c + up) * c + down))
                .filter(|&p| fabric.path_links(p).is_some());
            let first = found.next()?;
            found.next().is_none().then_some(first)
        }
        _ => None,
    }
}

/// What is known of one direction of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Track {
    path: Option<PathId>,
    /// When the first probe confirmed the path, since it last changed.
    since: Nanos,
    /// When the last did.
    confirmed: Nanos,
}

impl Track {
    /// An answer says by which path it went. Whether that is a change.
    pub(crate) fn confirm(&mut self, at: Nanos, path: Option<PathId>) -> bool {
        let changed = self.path.is_some() && path != self.path;
        if self.path.is_none() || changed {
            *self = Track { path, since: at, confirmed: at };
        }
        self.confirmed = self.confirmed.max(at);
        changed
    }

    /// The path of a window's packets: confirmed by each that was answered, and, where any was lost, confirmed before
    /// it and since then either confirmed again or at least changed nowhere.
    pub(crate) fn known(&self, window: Window, way: &Way, last_change: Nanos) -> Option<PathId> {
        let path = self.path?;
        if way.mixed || way.path.is_some_and(|p| p != path) {
            return None;
        }
        let before = self.since < window.start;
        let after = self.confirmed >= window.end() || last_change < window.start;
        let all_answered = way.path.is_some() && way.lost == 0;
        (all_answered || before && after).then_some(path)
    }
}

/// The search for a flow label that leads along a wanted path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LabelSearch {
    pub(crate) flow_label: u32,
    pub(crate) tries: u32,
}

impl LabelSearch {
    pub(crate) fn new(flow_label: u32) -> Self {
        LabelSearch { flow_label, tries: 0 }
    }

    /// Whether to try another. With `lanes` paths equally likely, eight times as many tries miss one in 3,000 times.
    pub(crate) fn next(&mut self, lanes: u32) -> bool {
        let more = self.tries < lanes.saturating_mul(8).min(1_024);
        self.tries += u32::from(more);
        more
    }
}

/// Tracing hop by hop: who answered "time exceeded" to which hop limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopTrace {
    from: NicId,
    to: NicId,
    /// Index: hop limit − 1.
    hops: [Option<SwitchId>; 3],
}

impl HopTrace {
    /// A trace of which nothing is known yet.
    pub fn new(from: NicId, to: NicId) -> Self {
        HopTrace { from, to, hops: [None; 3] }
    }
    /// Hop limits still to try, smallest first: 1 to the number of switches on the way.
    pub fn missing(&self, fabric: &Fabric) -> impl Iterator<Item = u8> + '_ {
        let far = fabric.nic_leaf_port(self.from).0 != fabric.nic_leaf_port(self.to).0;
        let hops = self.hops.iter().take(if far { 3 } else { 1 }).enumerate();
        hops.filter(|(_, h)| h.is_none()).map(|(i, _)| i as u8 + 1)
    }
    /// A switch said that a packet with this hop limit ended at it. Whether it is one of this fabric.
    pub fn answered(&mut self, fabric: &Fabric, hop_limit: u8, by: Ipv6Addr) -> bool {
        let slot = usize::from(hop_limit).checked_sub(1).and_then(|i| self.hops.get_mut(i));
        match (slot, fabric.switch_by_addr(by)) {
            (Some(slot), Some(switch)) => {
                *slot = Some(switch);
                true
            }
            _ => false,
        }
    }
    /// The path, once every switch on it has answered.
    pub fn path(&self, fabric: &Fabric) -> Option<PathId> {
        let switches: Vec<SwitchId> = self.hops.iter().map_while(|h| *h).collect();
        path_of_switches(fabric, self.from, self.to, &switches, (None, None))
    }
}
