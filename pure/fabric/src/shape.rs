//! The regular shape and its exceptions: counts, ids, and which links exist.
//!
//! Numbering, plane by plane (all numbers closed formulas):
//! - switches of a plane: leaves `0..L`, then spines `0..S`;
//! - NICs of a plane: `host * rails + rail`; a host sits on leaf `(host / hosts_per_leaf) * rails + rail`,
//!   on port `host % hosts_per_leaf`;
//! - directed links of a plane: first the access cables, two per NIC (even: host to leaf, odd: leaf to host), then
//!   the fabric cables, two per (leaf, spine, cable) (even: leaf to spine, odd: spine to leaf).

use alloc::string::String;
use alloc::vec::Vec;
use wire::{Epoch, HostId, LinkId, NicId, PlaneId, SwitchId};

/// How switches forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Static SRv6 with compressed segments (RFC 9800, NEXT-CSID): the sender chooses the exact path.
    Srv6,
    /// Equal-cost multipath: switches hash the flow label, the path is learned.
    Ecmp,
}

/// Tier of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// T0: has hosts.
    Leaf,
    /// T1: has leaves.
    Spine,
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A host, by one of its NICs.
    Nic(NicId),
    /// A switch.
    Switch(SwitchId),
}

/// What a cable can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkParams {
    /// Bits a second in each direction.
    pub rate_bps: u64,
    /// Propagation delay, nanoseconds.
    pub latency_ns: u64,
}

/// The regular part of a fabric. Every count is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Disjoint planes, `1 ..= 256`.
    pub planes: u32,
    /// Leaves in one plane; a multiple of `rails`.
    pub leaves: u32,
    /// Spines in one plane.
    pub spines: u32,
    /// Hosts in all; `<= leaves / rails * hosts_per_leaf`.
    pub hosts: u32,
    /// Host ports of a leaf.
    pub hosts_per_leaf: u32,
    /// NICs of a host in one plane, each on a leaf of its own.
    pub rails: u32,
    /// Numbers reserved for parallel cables between one leaf and one spine.
    pub cables: u32,
}

/// A planned fabric. Made by [`crate::spec`]; everything else is computed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// Name, for people; part of namespace names in the lab.
    pub name: String,
    /// How it forwards.
    pub mode: Mode,
    /// Counts.
    pub shape: Shape,
    /// Hash of the specification: ids of different epochs do not mix.
    pub epoch: Epoch,
    /// Cables between host and leaf.
    pub access: LinkParams,
    /// Cables between leaf and spine.
    pub trunk: LinkParams,
    /// Regular parallel cables of each (leaf, spine) pair, `1 ..= cables`; more exist only where `added` says so.
    pub parallel: u32,
    /// Even ids of cables left out, sorted.
    pub removed: Vec<LinkId>,
    /// Even ids of cables added beyond `parallel`, sorted.
    pub added: Vec<LinkId>,
}

impl Fabric {
    /// NICs of one plane.
    pub fn nics_per_plane(&self) -> u32 {
        self.shape.hosts * self.shape.rails
    }
    /// NICs in all.
    pub fn nics(&self) -> u32 {
        self.nics_per_plane() * self.shape.planes
    }
    /// Switches of one plane.
    pub fn switches_per_plane(&self) -> u32 {
        self.shape.leaves + self.shape.spines
    }
    /// Switches in all.
    pub fn switches(&self) -> u32 {
        self.switches_per_plane() * self.shape.planes
    }
    /// Directed link ids of one plane, existing or not.
    pub fn links_per_plane(&self) -> u32 {
        2 * (self.nics_per_plane() + self.shape.leaves * self.shape.spines * self.shape.cables)
    }
    /// Upper bound of link ids. Not every id below it exists; see [`Fabric::exists`].
    pub fn link_bound(&self) -> u32 {
        self.links_per_plane() * self.shape.planes
    }

    /// The NIC of a host in a plane and rail.
    pub fn nic(&self, plane: PlaneId, host: HostId, rail: u32) -> Option<NicId> {
        let s = &self.shape;
        (u32::from(plane.0) < s.planes && host.0 < s.hosts && rail < s.rails)
            .then(|| NicId(u32::from(plane.0) * self.nics_per_plane() + host.0 * s.rails + rail))
    }
    /// Plane, host and rail of a NIC. Meaningless past [`Fabric::nics`].
    pub fn nic_parts(&self, nic: NicId) -> (PlaneId, HostId, u32) {
        let n = self.nics_per_plane();
        let in_plane = nic.0 % n;
        (PlaneId((nic.0 / n) as u8), HostId(in_plane / self.shape.rails), in_plane % self.shape.rails)
    }
    /// The leaf (number within its plane) and the port on it of a NIC.
    pub fn nic_leaf_port(&self, nic: NicId) -> (u32, u32) {
        let (_, host, rail) = self.nic_parts(nic);
        let s = &self.shape;
        ((host.0 / s.hosts_per_leaf) * s.rails + rail, host.0 % s.hosts_per_leaf)
    }
    /// The NIC on a leaf's port, where the port has a host.
    pub fn nic_at(&self, plane: PlaneId, leaf: u32, port: u32) -> Option<NicId> {
        let s = &self.shape;
        if leaf >= s.leaves || port >= s.hosts_per_leaf {
            return None;
        }
        self.nic(plane, HostId((leaf / s.rails) * s.hosts_per_leaf + port), leaf % s.rails)
    }

    /// The switch of a plane by tier and number within the tier.
    pub fn switch(&self, plane: PlaneId, tier: Tier, number: u32) -> Option<SwitchId> {
        let s = &self.shape;
        let (first, count) = match tier {
            Tier::Leaf => (0, s.leaves),
            Tier::Spine => (s.leaves, s.spines),
        };
        (u32::from(plane.0) < s.planes && number < count)
            .then(|| SwitchId(u32::from(plane.0) * self.switches_per_plane() + first + number))
    }
    /// Plane, tier and number within the tier. Meaningless past [`Fabric::switches`].
    pub fn switch_parts(&self, switch: SwitchId) -> (PlaneId, Tier, u32) {
        let n = self.switches_per_plane();
        let plane = PlaneId((switch.0 / n) as u8);
        let i = switch.0 % n;
        if i < self.shape.leaves {
            (plane, Tier::Leaf, i)
        } else {
            (plane, Tier::Spine, i - self.shape.leaves)
        }
    }

    /// The directed link from a NIC to its leaf; the other direction is its reverse.
    pub fn access_link(&self, nic: NicId) -> LinkId {
        let n = self.nics_per_plane();
        LinkId((nic.0 / n) * self.links_per_plane() + 2 * (nic.0 % n))
    }
    /// The directed link from a leaf to a spine on parallel cable `cable`; the other direction is its reverse.
    /// A formula only: ask [`Fabric::exists`].
    pub fn trunk_link(&self, plane: PlaneId, leaf: u32, spine: u32, cable: u32) -> LinkId {
        let s = &self.shape;
        LinkId(
            u32::from(plane.0) * self.links_per_plane()
                + 2 * (self.nics_per_plane() + (leaf * s.spines + spine) * s.cables + cable),
        )
    }
    /// Plane of a link.
    pub fn link_plane(&self, link: LinkId) -> PlaneId {
        PlaneId((link.0 / self.links_per_plane()) as u8)
    }
    /// The cable behind a link: `Ok(nic)` for an access cable, `Err((leaf, spine, cable))` for a trunk.
    pub fn cable_of(&self, link: LinkId) -> Result<NicId, (u32, u32, u32)> {
        let plane = link.0 / self.links_per_plane();
        let cable = (link.0 % self.links_per_plane()) / 2;
        let n = self.nics_per_plane();
        if cable < n {
            return Ok(NicId(plane * n + cable));
        }
        let c = cable - n;
        let s = &self.shape;
        Err((c / s.cables / s.spines, c / s.cables % s.spines, c % s.cables))
    }
    /// Whether the link is in the fabric.
    pub fn exists(&self, link: LinkId) -> bool {
        if link.0 >= self.link_bound() {
            return false;
        }
        let even = LinkId(link.0 & !1);
        if !self.removed.is_empty() && self.removed.binary_search(&even).is_ok() {
            return false;
        }
        match self.cable_of(even) {
            Ok(_) => true,
            Err((_, _, cable)) => cable < self.parallel || self.added.binary_search(&even).is_ok(),
        }
    }
    /// Every directed link of the fabric, in the order of their ids.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        (0..self.link_bound()).map(LinkId).filter(|&l| self.exists(l))
    }
    /// From and to of a link that exists.
    pub fn link_ends(&self, link: LinkId) -> Option<(Node, Node)> {
        if !self.exists(link) {
            return None;
        }
        let plane = self.link_plane(link);
        let (low, high) = match self.cable_of(link) {
            Ok(nic) => {
                (Node::Nic(nic), Node::Switch(self.switch(plane, Tier::Leaf, self.nic_leaf_port(nic).0)?))
            }
            Err((leaf, spine, _)) => (
                Node::Switch(self.switch(plane, Tier::Leaf, leaf)?),
                Node::Switch(self.switch(plane, Tier::Spine, spine)?),
            ),
        };
        Some(if link.0 & 1 == 0 { (low, high) } else { (high, low) })
    }
    /// What the cable of a link can do.
    pub fn link_params(&self, link: LinkId) -> LinkParams {
        if self.cable_of(link).is_ok() { self.access } else { self.trunk }
    }
    /// Every existing link that leaves or enters a switch, each cable's two directions side by side, starting with
    /// the one that leaves.
    pub fn switch_links(&self, switch: SwitchId) -> Vec<LinkId> {
        let (plane, tier, number) = self.switch_parts(switch);
        let s = &self.shape;
        let mut out = Vec::new();
        let mut push = |l: LinkId| {
            if self.exists(l) {
                out.push(l);
                out.push(l.reverse());
            }
        };
        match tier {
            Tier::Leaf => {
                for port in 0..s.hosts_per_leaf {
                    if let Some(nic) = self.nic_at(plane, number, port) {
                        push(self.access_link(nic).reverse());
                    }
                }
                for spine in 0..s.spines {
                    for cable in 0..s.cables {
                        push(self.trunk_link(plane, number, spine, cable));
                    }
                }
            }
            Tier::Spine => {
                for leaf in 0..s.leaves {
                    for cable in 0..s.cables {
                        push(self.trunk_link(plane, leaf, number, cable).reverse());
                    }
                }
            }
        }
        out
    }
}
