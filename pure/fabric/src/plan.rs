//! What a fabric amounts to: its counts, a digest of everything computed from it, and what is amiss in it.
//!
//! How: [`Fabric::plan`] walks every directed link, switch and NIC once, and folds numbers, names, ends, addresses and
//! segments into a digest; two programs that agree on the digest agree on the fabric. Paths are counted, not walked.
//! Invariant: memory does not grow with the fabric.

use crate::shape::{Fabric, Node, Tier};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::hash::Hasher;
use wire::{HostId, NicId, PlaneId, SwitchId};

/// The figures of a fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Switches of all planes.
    pub switches: u32,
    /// NICs that have their cable.
    pub nics: u32,
    /// Cables between hosts and leaves. `== nics`
    pub access_cables: u32,
    /// Cables between leaves and spines.
    pub trunk_cables: u32,
    /// Directed links: two for each cable.
    pub links: u32,
    /// Paths from a NIC to another in its plane.
    pub paths: u128,
    /// uSIDs each plane uses for its switches, of [`crate::spec::limit::USIDS`].
    pub usids: u32,
    /// Digest (FNV-1a, 64 bits) of every link's number, name and ends, every switch's address and uSIDs, and every
    /// NIC's address and segment.
    pub digest: u64,
}

/// Feeds formatted text to a hash without making the text.
struct Digest(fnv::FnvHasher);

impl fmt::Write for Digest {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.write(s.as_bytes());
        Ok(())
    }
}

impl Fabric {
    /// Computes everything once; see [`Plan`].
    pub fn plan(&self) -> Plan {
        let mut digest = Digest(fnv::FnvHasher::default());
        let (mut nics, mut trunks) = (0, 0);
        for link in self.links() {
            digest.0.write_u32(link.0);
            // a digest accepts whatever is written
            let _ = self.write_cable(&mut digest, link);
            let Some((from, to)) = self.link_ends(link) else { continue };
            for node in [from, to] {
                match node {
                    Node::Nic(nic) => digest.0.write_u32(nic.0),
                    Node::Switch(switch) => digest.0.write_u32(!switch.0),
                }
            }
            match (from, link.0 & 1) {
                (Node::Nic(nic), _) => {
                    digest.0.write(&self.nic_addr(nic).octets());
                    digest.0.write(&self.nic_sid(nic).octets());
                    nics += 1;
                }
                (Node::Switch(_), 0) => trunks += 1,
                _ => {}
            }
        }
        for switch in (0..self.switches()).map(SwitchId) {
            digest.0.write(&self.switch_addr(switch).octets());
            for cable in 0..self.shape.cables {
                digest.0.write_u16(self.switch_usid(switch, cable));
            }
        }
        Plan {
            switches: self.switches(),
            nics,
            access_cables: nics,
            trunk_cables: trunks,
            links: 2 * (nics + trunks),
            paths: self.count_paths(),
            usids: self.switches_per_plane() * self.shape.cables,
            digest: digest.0.finish(),
        }
    }

    /// Cables between a leaf and a spine that exist.
    fn width(&self, plane: PlaneId, leaf: u32, spine: u32) -> u32 {
        let cables = 0..self.shape.cables;
        cables.filter(|&k| self.exists(self.trunk_link(plane, leaf, spine, k))).count() as u32
    }

    /// Per spine: with u the NICs of a leaf times its cables to the spine, paths between different leaves are
    /// (sum of u)² − sum of u²; within a leaf there is one for each ordered pair.
    fn count_paths(&self) -> u128 {
        let s = &self.shape;
        let planes = (0..s.planes).map(|p| PlaneId(p as u8));
        planes
            .map(|plane| {
                let nics: Vec<u128> = (0..s.leaves).map(|leaf| self.nics_on(plane, leaf).into()).collect();
                let local: u128 = nics.iter().map(|n| n * n.saturating_sub(1)).sum();
                let across = (0..s.spines).map(|spine| {
                    let up = |leaf: u32| nics[leaf as usize] * u128::from(self.width(plane, leaf, spine));
                    let (sum, squares) =
                        (0..s.leaves).map(up).fold((0, 0), |(sum, sq), u| (sum + u, sq + u * u));
                    sum * sum - squares
                });
                local + across.sum::<u128>()
            })
            .sum()
    }

    /// NICs on a leaf that have their cable.
    fn nics_on(&self, plane: PlaneId, leaf: u32) -> u32 {
        let ports = (0..self.shape.hosts_per_leaf).filter_map(|port| self.nic_at(plane, leaf, port));
        ports.filter(|&nic: &NicId| self.nic_exists(nic)).count() as u32
    }

    /// Rate of a leaf's host ports and of its spine ports, bits a second, as the regular shape has it.
    pub fn leaf_rates(&self) -> (u64, u64) {
        let s = &self.shape;
        let down = u64::from(s.hosts_per_leaf).saturating_mul(self.access.rate_bps);
        (down, u64::from(s.spines * self.parallel).saturating_mul(self.trunk.rate_bps))
    }

    /// What is amiss though it can be built, the worst first; at most [`FINDINGS`] of each kind.
    pub fn check(&self) -> Vec<Finding> {
        let mut out = Vec::new();
        let s = &self.shape;
        let planes = || (0..s.planes).map(|p| PlaneId(p as u8));
        if !self.removed.is_empty() {
            let hosts = (0..s.hosts).map(HostId);
            let alone = hosts.filter(|&h| self.host_nics(h).next().is_none());
            out.extend(alone.take(FINDINGS).map(Finding::HostWithoutNic));
            let cut = planes().flat_map(|plane| {
                (0..s.leaves)
                    .filter(move |&leaf| (0..s.spines).all(|spine| self.width(plane, leaf, spine) == 0))
                    .filter_map(move |leaf| self.switch(plane, Tier::Leaf, leaf))
            });
            let cut: Vec<SwitchId> = cut.take(FINDINGS).collect();
            out.extend(cut.iter().map(|&leaf| Finding::LeafCutOff(leaf)));
            out.extend(
                planes()
                    .flat_map(|p| self.apart(p))
                    .filter(|(a, b)| !cut.contains(a) && !cut.contains(b))
                    .take(FINDINGS)
                    .map(|(a, b)| Finding::LeavesApart(a, b)),
            );
            let idle = planes().flat_map(|plane| {
                (0..s.spines)
                    .filter(move |&spine| (0..s.leaves).all(|leaf| self.width(plane, leaf, spine) == 0))
                    .filter_map(move |spine| self.switch(plane, Tier::Spine, spine))
            });
            out.extend(idle.take(FINDINGS).map(Finding::SpineIdle));
            let hosts = (0..s.hosts).map(HostId);
            let fewer = hosts.filter_map(|h| match self.host_nics(h).count() as u32 {
                0 => None,
                n => (n < s.planes * s.rails).then_some(Finding::HostMissesNics(h, n)),
            });
            out.extend(fewer.take(FINDINGS));
        }
        let bare = planes().flat_map(|plane| {
            (0..s.leaves)
                .filter(move |&leaf| self.nics_on(plane, leaf) == 0)
                .filter_map(move |leaf| self.switch(plane, Tier::Leaf, leaf))
        });
        out.extend(bare.take(FINDINGS).map(Finding::LeafWithoutHosts));
        out
    }

    /// Pairs of leaves with hosts and spines, but no spine in common.
    fn apart(&self, plane: PlaneId) -> impl Iterator<Item = (SwitchId, SwitchId)> + '_ {
        let s = self.shape;
        let irregular = self.removed.iter().filter(move |&&l| self.link_plane(l) == plane);
        let mut leaves: Vec<u32> = irregular.filter_map(|&l| self.cable_of(l).err().map(|c| c.0)).collect();
        leaves.dedup();
        // a leaf with all its cables shares a spine with every leaf that has one
        let pairs =
            leaves.clone().into_iter().flat_map(move |a| leaves.clone().into_iter().map(move |b| (a, b)));
        pairs
            .filter(|(a, b)| a < b)
            .filter(move |&(a, b)| {
                !(0..s.spines).any(|spine| self.width(plane, a, spine) > 0 && self.width(plane, b, spine) > 0)
            })
            .filter_map(move |(a, b)| {
                Some((self.switch(plane, Tier::Leaf, a)?, self.switch(plane, Tier::Leaf, b)?))
            })
    }
}

/// The most findings of one kind that are listed.
pub const FINDINGS: usize = 20;

/// Something amiss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A host with no NIC at all: nobody can talk to it.
    HostWithoutNic(HostId),
    /// A leaf without a single cable to a spine: its hosts reach only each other in this plane.
    LeafCutOff(SwitchId),
    /// Two leaves with no spine in common: their hosts do not reach each other in this plane.
    LeavesApart(SwitchId, SwitchId),
    /// A spine without a single cable.
    SpineIdle(SwitchId),
    /// A host with fewer NICs than planes and rails; it has so many.
    HostMissesNics(HostId, u32),
    /// A leaf without a host.
    LeafWithoutHosts(SwitchId),
}

impl Finding {
    /// Whether some hosts cannot reach some others: worse than waste.
    pub const fn is_error(&self) -> bool {
        matches!(self, Finding::HostWithoutNic(_) | Finding::LeafCutOff(_) | Finding::LeavesApart(..))
    }
    /// The finding as a sentence with names.
    pub fn sentence(&self, fabric: &Fabric) -> String {
        use alloc::format;
        match *self {
            Finding::HostWithoutNic(h) => format!("{} has no NIC at all", fabric.host_name(h)),
            Finding::LeafCutOff(s) => {
                format!(
                    "{} has no cable to any spine: its hosts reach only each other",
                    fabric.switch_name(s)
                )
            }
            Finding::LeavesApart(a, b) => {
                let (a, b) = (fabric.switch_name(a), fabric.switch_name(b));
                format!(
                    "{a} and {b} have no spine in common: their hosts do not reach each other in this plane"
                )
            }
            Finding::SpineIdle(s) => format!("{} has no cable to any leaf", fabric.switch_name(s)),
            Finding::HostMissesNics(h, n) => {
                let all = fabric.shape.planes * fabric.shape.rails;
                format!("{} has {n} of {all} NICs", fabric.host_name(h))
            }
            Finding::LeafWithoutHosts(s) => format!("{} has no host", fabric.switch_name(s)),
        }
    }
}
