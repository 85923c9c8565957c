//! A fabric as the localizer's map: links, and the switches, NICs and hosts they belong to.
//!
//! Invariants: component `c < link_bound` is that link; then switches, NICs, cables between switches, and (where
//! hosts have several NICs) hosts, each in the order of their ids. A cable is named by the link with the even id. With a single NIC a host and its port are hurt by the same evidence, and
//! the host is an alternative only.

use crate::localize::{Group, Map};
use alloc::vec;
use alloc::vec::Vec;
use fabric::Fabric;
use wire::{Component, HostId, LinkId, NicId, SwitchId};

/// A device is named against its links at this many nats more: it has more parts that must fail together.
const SWITCH_COST: f64 = 3.0;
/// Where nothing tells one direction from both (nothing comes back at all), it is both.
const CABLE_COST: f64 = -0.1;
const HOST_COST: f64 = 2.0;

/// The components of a fabric and their numbers.
pub(crate) struct Components {
    pub(crate) map: Map,
    /// Links that exist.
    pub(crate) existing: f64,
    links: u32,
    switches: u32,
    nics: u32,
    /// Cables between switches.
    trunks: u32,
    /// Cables of one plane: to NICs, and between switches.
    nics_per_plane: u32,
    trunks_per_plane: u32,
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
            cost: CABLE_COST,
            ports: false,
        }));
        let nics_per_plane = f.nics_per_plane();
        let trunks_per_plane = f.links_per_plane() / 2 - nics_per_plane;
        let trunks = trunks_per_plane * f.shape.planes;
        groups.extend((0..trunks).map(|t| {
            let even = Self::trunk(t, nics_per_plane, trunks_per_plane);
            Group { links: vec![even, even ^ 1], links_crossed: 1.0, cost: CABLE_COST, ports: false }
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
        let existing = (f.links().count() as f64).max(1.0);
        Components { map, existing, links, switches, nics, trunks, nics_per_plane, trunks_per_plane }
    }

    /// The even link of a cable between switches.
    fn trunk(number: u32, nics: u32, trunks: u32) -> u32 {
        let (plane, in_plane) = (number / trunks.max(1), number % trunks.max(1));
        2 * (plane * (nics + trunks) + nics + in_plane)
    }

    /// Every NIC of a host.
    pub(crate) fn host_nics(f: &Fabric, host: HostId) -> impl Iterator<Item = NicId> + '_ {
        let rails = f.shape.rails;
        (0..f.shape.planes)
            .flat_map(move |p| (0..rails).filter_map(move |r| f.nic(wire::PlaneId(p as u8), host, r)))
    }

    /// The component behind a number of the map.
    pub(crate) fn name(&self, component: u32) -> Component {
        let Some(g) = component.checked_sub(self.links) else { return Component::Link(LinkId(component)) };
        match g.checked_sub(self.switches) {
            None => Component::Switch(SwitchId(g)),
            Some(n) if n < self.nics => Component::Nic(NicId(n)),
            Some(n) if n - self.nics < self.trunks => Component::Link(LinkId(Self::trunk(
                n - self.nics,
                self.nics_per_plane,
                self.trunks_per_plane,
            ))),
            Some(n) => Component::Host(HostId(n - self.nics - self.trunks)),
        }
    }

    /// The links of a component, sorted.
    pub(crate) fn links_of(&self, component: u32) -> Vec<u32> {
        match self.map.group_of(component) {
            None => vec![component],
            Some(g) => {
                let mut links = g.links.clone();
                links.sort_unstable();
                links
            }
        }
    }
}
