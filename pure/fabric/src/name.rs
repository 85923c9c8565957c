//! Names: stable, readable, and the same in code, tables, CLI and documentation.
//!
//! `host12`, `host12-p0` (a NIC; with rails `host12-p0r1`), `p0-leaf3`, `p0-spine1`, and for a directed link the two
//! ends with a colon: `p0-leaf3:p0-spine1` (second parallel cable: `p0-leaf3:p0-spine1#1`), `host12:p0-leaf3`.

use crate::shape::{Fabric, Node, Tier};
use alloc::format;
use alloc::string::String;
use alloc::string::ToString;
use core::fmt;
use wire::{Component, HostId, LinkId, NicId, PathId, PlaneId, SwitchId};

fn number(s: &str) -> Option<u32> {
    // `01` and `+1` are not names
    let n: u32 = s.parse().ok()?;
    (n.to_string() == s).then_some(n)
}

impl Fabric {
    /// `host12`.
    pub fn host_name(&self, host: HostId) -> String {
        format!("host{}", host.0)
    }
    /// `host12-p0`, with rails `host12-p0r1`.
    pub fn nic_name(&self, nic: NicId) -> String {
        let (plane, host, rail) = self.nic_parts(nic);
        if self.shape.rails == 1 {
            format!("host{}-p{}", host.0, plane.0)
        } else {
            format!("host{}-p{}r{rail}", host.0, plane.0)
        }
    }
    /// `p0-leaf3` or `p0-spine1`.
    pub fn switch_name(&self, switch: SwitchId) -> String {
        let (plane, tier, n) = self.switch_parts(switch);
        match tier {
            Tier::Leaf => format!("p{}-leaf{n}", plane.0),
            Tier::Spine => format!("p{}-spine{n}", plane.0),
        }
    }
    /// Name of a link's end: a NIC is called by its host, since the switch at the other end says which port.
    pub fn node_name(&self, node: Node) -> String {
        match node {
            Node::Nic(nic) => self.host_name(self.nic_parts(nic).1),
            Node::Switch(s) => self.switch_name(s),
        }
    }
    /// `from:to`, with `#k` for the parallel cables after the first. A link that does not exist is called by number.
    pub fn link_name(&self, link: LinkId) -> String {
        if self.exists(link) { self.cable_name(link) } else { link.to_string() }
    }
    /// The name a link has or would have if it existed. `link` is below [`Fabric::link_bound`].
    pub(crate) fn cable_name(&self, link: LinkId) -> String {
        let mut name = String::with_capacity(32);
        // writing to a string cannot fail
        let _ = self.write_cable(&mut name, link);
        name
    }
    /// Writes a link's name; nothing is allocated, so that millions of names cost little.
    pub(crate) fn write_cable(&self, out: &mut impl fmt::Write, link: LinkId) -> fmt::Result {
        let plane = self.link_plane(link).0;
        match (self.cable_of(link), link.0 & 1) {
            (Ok(nic), way) => {
                let (_, host, _) = self.nic_parts(nic);
                let leaf = self.nic_leaf_port(nic).0;
                match way {
                    0 => write!(out, "host{}:p{plane}-leaf{leaf}", host.0),
                    _ => write!(out, "p{plane}-leaf{leaf}:host{}", host.0),
                }
            }
            (Err((leaf, spine, cable)), way) => {
                match way {
                    0 => write!(out, "p{plane}-leaf{leaf}:p{plane}-spine{spine}")?,
                    _ => write!(out, "p{plane}-spine{spine}:p{plane}-leaf{leaf}")?,
                }
                if cable > 0 { write!(out, "#{cable}") } else { Ok(()) }
            }
        }
    }
    /// The nodes joined by ` > `, in order.
    pub fn path_name(&self, path: PathId) -> String {
        match self.path_nodes(path) {
            Some(nodes) => {
                let names: alloc::vec::Vec<_> = nodes.into_iter().map(|n| self.node_name(n)).collect();
                names.join(" > ")
            }
            None => path.to_string(),
        }
    }
    /// Name of any component.
    pub fn component_name(&self, component: Component) -> String {
        match component {
            Component::Link(l) => self.link_name(l),
            Component::Switch(s) => self.switch_name(s),
            Component::Nic(n) => self.nic_name(n),
            Component::Host(h) => self.host_name(h),
        }
    }

    /// `host12` back to its id.
    pub fn host_by_name(&self, name: &str) -> Option<HostId> {
        let n = number(name.strip_prefix("host")?)?;
        (n < self.shape.hosts).then_some(HostId(n))
    }
    /// `host12-p0` back to its id.
    pub fn nic_by_name(&self, name: &str) -> Option<NicId> {
        let (host, rest) = name.split_once("-p")?;
        let (plane, rail) = match rest.split_once('r') {
            Some((p, r)) if self.shape.rails > 1 => (number(p)?, number(r)?),
            None if self.shape.rails == 1 => (number(rest)?, 0),
            _ => return None,
        };
        self.nic(PlaneId(u8::try_from(plane).ok()?), self.host_by_name(host)?, rail)
    }
    /// `p0-leaf3` or `p0-spine1` back to its id.
    pub fn switch_by_name(&self, name: &str) -> Option<SwitchId> {
        let (plane, rest) = name.strip_prefix('p')?.split_once('-')?;
        let plane = PlaneId(u8::try_from(number(plane)?).ok()?);
        if let Some(n) = rest.strip_prefix("leaf") {
            self.switch(plane, Tier::Leaf, number(n)?)
        } else {
            self.switch(plane, Tier::Spine, number(rest.strip_prefix("spine")?)?)
        }
    }
    /// `from:to` or `from:to#k` back to its id.
    pub fn link_by_name(&self, name: &str) -> Option<LinkId> {
        let (from, to) = name.split_once(':')?;
        let (to, cable) = match to.split_once('#') {
            Some((to, k)) => (to, number(k)?),
            None => (to, 0),
        };
        let access = |host: &str, leaf: &str| {
            let (plane, tier, leaf) = self.switch_parts(self.switch_by_name(leaf)?);
            if tier != Tier::Leaf || cable != 0 {
                return None;
            }
            let nic = self.nic(plane, self.host_by_name(host)?, leaf % self.shape.rails)?;
            (self.nic_leaf_port(nic).0 == leaf).then(|| self.access_link(nic))
        };
        let link = if from.starts_with("host") {
            access(from, to)?
        } else if to.starts_with("host") {
            access(to, from)?.reverse()
        } else {
            let (pa, ta, na) = self.switch_parts(self.switch_by_name(from)?);
            let (pb, tb, nb) = self.switch_parts(self.switch_by_name(to)?);
            if pa != pb || cable >= self.shape.cables {
                return None;
            }
            match (ta, tb) {
                (Tier::Leaf, Tier::Spine) => self.trunk_link(pa, na, nb, cable),
                (Tier::Spine, Tier::Leaf) => self.trunk_link(pa, nb, na, cable).reverse(),
                _ => return None,
            }
        };
        self.exists(link).then_some(link)
    }
    /// Any component by its name.
    pub fn component_by_name(&self, name: &str) -> Option<Component> {
        self.link_by_name(name)
            .map(Component::Link)
            .or_else(|| self.switch_by_name(name).map(Component::Switch))
            .or_else(|| self.nic_by_name(name).map(Component::Nic))
            .or_else(|| self.host_by_name(name).map(Component::Host))
    }
}
