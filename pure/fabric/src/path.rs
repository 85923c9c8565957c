//! Paths as closed formulas: an id becomes its list of links, and back, without a table.
//!
//! A path goes up to one spine and down again, or only through the leaf where both NICs are on it. It is numbered
//! by plane, source NIC, destination NIC and lane, where `lane = (spine * cables + cable up) * cables + cable down`.
//! Two NICs on one leaf have the single lane 0.

use crate::shape::{Fabric, Node, Tier};
use wire::{LinkId, NicId, PathId};

/// Links of the longest path.
pub const MAX_PATH_LINKS: usize = 4;

/// The links of a path in the order a packet crosses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathLinks {
    links: [LinkId; MAX_PATH_LINKS],
    len: u8,
}

impl core::ops::Deref for PathLinks {
    type Target = [LinkId];
    fn deref(&self) -> &[LinkId] {
        &self.links[..usize::from(self.len)]
    }
}

impl Fabric {
    /// Numbers reserved for the paths of one pair of NICs on different leaves. Where cables are left out or not
    /// added some do not exist.
    pub fn lanes(&self) -> u32 {
        self.shape.spines * self.shape.cables * self.shape.cables
    }

    /// The id of a path. `None` where the NICs are in different planes or the same, or the lane is out of range.
    /// Whether the path exists is [`Fabric::path_links`]'s to say.
    pub fn path(&self, from: NicId, to: NicId, lane: u32) -> Option<PathId> {
        let n = u64::from(self.nics_per_plane());
        let (f, t) = (u64::from(from.0), u64::from(to.0));
        if from.0 >= self.nics()
            || to.0 >= self.nics()
            || f / n != t / n
            || from == to
            || lane >= self.lanes()
        {
            return None;
        }
        let pair = (f / n * n + f % n) * n + t % n;
        Some(PathId(pair * u64::from(self.lanes()) + u64::from(lane)))
    }

    /// From, to and lane of a path id. `None` where no such pair is.
    pub fn path_parts(&self, path: PathId) -> Option<(NicId, NicId, u32)> {
        let n = u64::from(self.nics_per_plane());
        let lanes = u64::from(self.lanes());
        let (pair, lane) = (path.0 / lanes, (path.0 % lanes) as u32);
        let (from, to_in_plane) = (pair / n, pair % n);
        if from >= u64::from(self.nics()) {
            return None;
        }
        let to = from / n * n + to_in_plane;
        (from != to).then_some((NicId(from as u32), NicId(to as u32), lane))
    }

    /// Spine, cable up and cable down of a lane.
    pub fn lane_parts(&self, lane: u32) -> (u32, u32, u32) {
        let c = self.shape.cables;
        (lane / c / c, lane / c % c, lane % c)
    }

    /// The links of a path that exists.
    pub fn path_links(&self, path: PathId) -> Option<PathLinks> {
        let (from, to, lane) = self.path_parts(path)?;
        let (up, down) = (self.access_link(from), self.access_link(to).reverse());
        let (leaf_up, leaf_down) = (self.nic_leaf_port(from).0, self.nic_leaf_port(to).0);
        let p = if leaf_up == leaf_down {
            if lane != 0 {
                return None;
            }
            PathLinks { links: [up, down, LinkId(0), LinkId(0)], len: 2 }
        } else {
            let plane = self.link_plane(up);
            let (spine, cable_up, cable_down) = self.lane_parts(lane);
            let a = self.trunk_link(plane, leaf_up, spine, cable_up);
            let b = self.trunk_link(plane, leaf_down, spine, cable_down).reverse();
            PathLinks { links: [up, a, b, down], len: 4 }
        };
        let regular = self.removed.is_empty() && self.parallel == self.shape.cables;
        (regular || p.iter().all(|&l| self.exists(l))).then_some(p)
    }

    /// The path whose links are these, in order.
    pub fn path_of_links(&self, links: &[LinkId]) -> Option<PathId> {
        let nic = |l: &LinkId| self.cable_of(*l).ok();
        let (from, to) = (nic(links.first()?)?, nic(links.last()?)?);
        let lane = match links {
            [_, _] => 0,
            [_, up, down, _] => {
                let (Err((_, spine, cable_up)), Err((_, _, cable_down))) =
                    (self.cable_of(*up), self.cable_of(*down))
                else {
                    return None;
                };
                (spine * self.shape.cables + cable_up) * self.shape.cables + cable_down
            }
            _ => return None,
        };
        let path = self.path(from, to, lane)?;
        (self.path_links(path)?[..] == *links).then_some(path)
    }

    /// The same cables, the other way.
    pub fn path_reverse(&self, path: PathId) -> Option<PathId> {
        let (from, to, lane) = self.path_parts(path)?;
        let (spine, up, down) = self.lane_parts(lane);
        let c = self.shape.cables;
        self.path(to, from, (spine * c + down) * c + up)
    }

    /// Every existing path from one NIC to another.
    pub fn paths(&self, from: NicId, to: NicId) -> impl Iterator<Item = PathId> + '_ {
        (0..self.lanes())
            .filter_map(move |lane| self.path(from, to, lane))
            .filter(|&p| self.path_links(p).is_some())
    }

    /// The nodes a path visits, NICs included, in order.
    pub fn path_nodes(&self, path: PathId) -> Option<alloc::vec::Vec<Node>> {
        let links = self.path_links(path)?;
        let mut out = alloc::vec![self.link_ends(links[0])?.0];
        for &l in links.iter() {
            out.push(self.link_ends(l)?.1);
        }
        Some(out)
    }

    /// The spine of a path, where it has one.
    pub fn path_spine(&self, path: PathId) -> Option<wire::SwitchId> {
        let links = self.path_links(path)?;
        if links.len() < 4 {
            return None;
        }
        self.switch(self.link_plane(links[0]), Tier::Spine, self.lane_parts(self.path_parts(path)?.2).0)
    }
}
