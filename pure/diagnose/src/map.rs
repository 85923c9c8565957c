//! A fabric as the localizer's map: links, and the switches, NICs and hosts they belong to.
//!
//! Invariants: component `c < link_bound` is that link; then switches, NICs, and (where hosts have several NICs)
//! hosts, each in the order of their ids. With a single NIC a host and its port are hurt by the same evidence, and
//! the host is an alternative only.

use crate::localize::{Group, Map};
use alloc::vec;
use alloc::vec::Vec;
use fabric::{Fabric, Node};
use wire::{Component, HostId, LinkId, NicId, SwitchId};

/// A device is named against its links at this many nats more: it has more parts that must fail together.
const SWITCH_COST: f64 = 3.0;
const NIC_COST: f64 = 0.5;
const HOST_COST: f64 = 2.0;

/// The components of a fabric and their numbers.
pub(crate) struct Components {
    pub(crate) map: Map,
    links: u32,
    switches: u32,
    nics: u32,
}

impl Components {
    pub(crate) fn new(f: &Fabric) -> Self {
        let (links, switches, nics) = (f.link_bound(), f.switches(), f.nics());
        let numbers = |ids: Vec<LinkId>| ids.into_iter().map(|l| l.0).collect::<Vec<u32>>();
        let mut groups: Vec<Group> = (0..switches)
            .map(|s| Group {
                links: numbers(f.switch_links(SwitchId(s))),
                links_crossed: 2.0,
                cost: SWITCH_COST,
                ports: true,
            })
            .collect();
        let cable = |nic: u32| {
            let up = f.access_link(NicId(nic));
            vec![up.0, up.reverse().0]
        };
        groups.extend((0..nics).map(|n| Group {
            links: cable(n),
            links_crossed: 1.0,
            cost: NIC_COST,
            ports: false,
        }));
        if f.shape.planes * f.shape.rails > 1 {
            groups.extend((0..f.shape.hosts).map(|h| Group {
                links: Self::host_nics(f, HostId(h)).flat_map(|n| cable(n.0)).collect(),
                links_crossed: 1.0,
                cost: HOST_COST,
                ports: false,
            }));
        }
        let map = Map::new(links as usize, |l| l ^ 1, groups);
        Components { map, links, switches, nics }
    }

    /// Every NIC of a host.
    pub(crate) fn host_nics(f: &Fabric, host: HostId) -> impl Iterator<Item = NicId> + '_ {
        let rails = f.shape.rails;
        (0..f.shape.planes).flat_map(move |p| {
            (0..rails).filter_map(move |r| f.nic(wire::PlaneId(p as u8), host, r))
        })
    }

    /// The component behind a number of the map.
    pub(crate) fn name(&self, component: u32) -> Component {
        let Some(g) = component.checked_sub(self.links) else { return Component::Link(LinkId(component)) };
        match g.checked_sub(self.switches) {
            None => Component::Switch(SwitchId(g)),
            Some(n) if n < self.nics => Component::Nic(NicId(n)),
            Some(n) => Component::Host(HostId(n - self.nics)),
        }
    }

    /// The number of a component. `None` for a host that is only an alternative of its NIC, and past the fabric.
    pub(crate) fn number(&self, component: Component) -> Option<u32> {
        let n = match component {
            Component::Link(l) => Some(l.0).filter(|&l| l < self.links),
            Component::Switch(s) => Some(self.links + s.0).filter(|_| s.0 < self.switches),
            Component::Nic(n) => Some(self.links + self.switches + n.0).filter(|_| n.0 < self.nics),
            Component::Host(h) => (self.links + self.switches + self.nics).checked_add(h.0),
        }?;
        ((n as usize) < self.map.components()).then_some(n)
    }

    /// The links of a component.
    pub(crate) fn links_of(&self, component: u32) -> Vec<u32> {
        match self.map.group_of(component) {
            None => vec![component],
            Some(g) => g.links.clone(),
        }
    }
}

/// The hosts at either end of a link, where there are any.
pub(crate) fn host_at(f: &Fabric, link: LinkId) -> Option<HostId> {
    let (from, to) = f.link_ends(link)?;
    match (from, to) {
        (Node::Nic(n), _) | (_, Node::Nic(n)) => Some(f.nic_parts(n).1),
        _ => None,
    }
}
