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
use fabric::{Device, Fabric, Tier};
use wire::{Nanos, NicId, PathId, SwitchId, Window};

/// IOAM node ids from here on are hosts: `HOST_NODES | host` (24 bits).
pub const HOST_NODES: u32 = 0x80_0000;

/// A hop as in-band telemetry tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// IOAM node id, 24 bits: switch id + 1, or a host's.
    pub node: u32,
    /// IOAM id of the interface it came in by: its place among the device's ports, counted from 1. 0 and 0xffff mean
    /// unset.
    pub ingress: u16,
    /// IOAM id of the interface it went out by, likewise.
    pub egress: u16,
}

/// The path that leads over these hops, in the order crossed; hosts among them are skipped. `None` where they name no
/// single path.
pub fn path_of_hops(fabric: &Fabric, from: NicId, to: NicId, hops: &[Hop]) -> Option<PathId> {
    let is_switch = |h: &&Hop| h.node > 0 && h.node < HOST_NODES;
    let switches: Vec<&Hop> = hops.iter().filter(is_switch).collect();
    let ids: Vec<SwitchId> = switches.iter().map(|h| SwitchId(h.node - 1)).collect();
    // which of several parallel cables, only the spine's interfaces can say
    let cables = match switches.as_slice() {
        [_, spine, _] if fabric.shape.cables > 1 && spine.node <= fabric.switches() => {
            let ports = fabric.ports(Device::Switch(SwitchId(spine.node - 1)));
            let cable = |id: u16| {
                let port = ports.get(usize::from(id).checked_sub(1)?)?;
                fabric.cable_of(*port).err().map(|(_, _, cable)| cable)
            };
            (cable(spine.ingress), cable(spine.egress))
        }
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
    /// A packet sent then went by this path. Whether that is a change.
    pub(crate) fn confirm(&mut self, at: Nanos, path: PathId) -> bool {
        let changed = self.path.is_some_and(|p| p != path);
        if self.path.is_none() || changed {
            *self = Track { path: Some(path), since: at, confirmed: at };
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

/// What a slot knows of its paths in ecmp mode, and how it learns it.
#[derive(Clone, Debug)]
pub(crate) struct PathKnowledge {
    pub(crate) forward: Track,
    pub(crate) backward: Track,
    pub(crate) search: LabelSearch,
    /// Answers in a row that did not say by which path their probe went.
    silent: u32,
    hops: Option<HopTrace>,
    /// When hops were last asked for.
    asked: Nanos,
    /// When the trace under way was begun.
    begun: Nanos,
}

impl PathKnowledge {
    pub(crate) fn new(flow_label: u32) -> Self {
        PathKnowledge {
            forward: Track::default(),
            backward: Track::default(),
            search: LabelSearch::new(flow_label),
            silent: 0,
            hops: None,
            asked: Nanos::ZERO,
            begun: Nanos::ZERO,
        }
    }

    /// A probe sent then was answered, and the answer said this much. Whether a path changed.
    pub(crate) fn answered(&mut self, at: Nanos, forward: Option<PathId>, backward: Option<PathId>) -> bool {
        self.silent = if forward.is_some() { 0 } else { self.silent.saturating_add(1) };
        let changed = forward.is_some_and(|p| self.forward.confirm(at, p));
        backward.is_some_and(|p| self.backward.confirm(at, p)) | changed
    }

    /// The hop limits to ask for now, if the network does not say by itself: at once where nothing is known, and again
    /// from time to time.
    pub(crate) fn ask(&mut self, now: Nanos, fabric: &Fabric, from: NicId, to: NicId) -> Vec<u8> {
        if self.silent < SILENT_LEAST {
            return Vec::new();
        }
        let under_way = self.hops.is_some();
        let pause = match (under_way, self.forward.path) {
            // routers answer about once a second (RFC 4443, section 2.4 f)
            (true, _) | (_, None) => ASK_AGAIN,
            (false, Some(_)) => TRACE_AGAIN,
        };
        if self.asked > Nanos::ZERO && now.since(self.asked) < pause {
            return Vec::new();
        }
        self.asked = now;
        if !under_way {
            self.begun = now;
        }
        self.hops.get_or_insert_with(|| HopTrace::new(from, to)).missing(fabric).collect()
    }

    /// A switch answered. The path, when that was the last one missing.
    pub(crate) fn heard(&mut self, fabric: &Fabric, hop_limit: u8, by: Ipv6Addr) -> Option<(Nanos, PathId)> {
        let hops = self.hops.as_mut()?;
        hops.answered(fabric, hop_limit, by);
        if hops.missing(fabric).next().is_some() {
            return None;
        }
        let path = hops.path(fabric);
        self.hops = None;
        path.map(|p| (self.begun, p))
    }
}

/// Answers without a path before hops are asked for.
const SILENT_LEAST: u32 = 3;
/// Distance of two askings of one trace.
const ASK_AGAIN: Nanos = Nanos::from_millis(1_100);
/// Distance of two traces of a path that is known.
const TRACE_AGAIN: Nanos = Nanos::from_secs(10);

/// Says in a probe's bytes which hop limit it was sent with: in the field that must be zero and that nobody reads,
/// since such a probe never arrives (RFC 8762, section 4.2.1).
pub fn write_mark(probe: &mut [u8], ssid: u16, hop_limit: u8) {
    let [high, low] = ssid.to_be_bytes();
    if let Some(mark) = probe.get_mut(MARK_AT..MARK_AT + MARK_LEN) {
        for (to, from) in mark.iter_mut().zip(MARK.iter().chain(&[high, low, hop_limit])) {
            *to = *from;
        }
    }
}

/// SSID and hop limit of a probe written by [`write_mark`].
pub fn read_mark(probe: &[u8]) -> Option<(u16, u8)> {
    let (mark, said) = probe.get(MARK_AT..MARK_AT + MARK_LEN)?.split_at_checked(MARK.len())?;
    match (mark == MARK, said) {
        (true, &[high, low, hop_limit]) => Some((u16::from_be_bytes([high, low]), hop_limit)),
        _ => None,
    }
}

/// Among bytes that must be zero, in authenticated probes as in others.
const MARK_AT: usize = 30;
const MARK: &[u8] = b"hoplim";
const MARK_LEN: usize = MARK.len() + 3;

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
