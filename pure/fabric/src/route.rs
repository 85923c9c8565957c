//! What every device forwards by, as data: ports with their names and addresses, and routes.
//!
//! How: next hops are links, not addresses: the neighbour on a link is reached at the link-local address of the
//! interface that sends the other way, which follows from the link's number, so nothing has to be discovered.
//! - `srv6`: a switch shifts its own uSIDs off (End with NEXT-CSID, RFC 9800), and has a /48 to each neighbour's uSID;
//!   the k-th parallel cable leads to the neighbour's k-th uSID, so a container names every cable. A leaf has a /48
//!   to each of its hosts' local uSIDs; a host takes the inner packet out (End.DT6, RFC 8986).
//! - both modes: ordinary routes between NIC and switch addresses, spread over equal cables; in `ecmp` they are all.
//!
//! Invariants: a route never names a link that does not exist; routes of a device are computed when asked for, one
//! by one, never those of all devices at once; a packet for an address nobody has is refused, not sent in circles.
//! Absent on purpose: routing protocols, and whatever a kernel calls these things.

use crate::addr::NIC_NET;
use crate::shape::{Fabric, Mode, Node, Tier};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::Ipv6Addr;
use wire::{HostId, LinkId, NicId, PlaneId, SwitchId};

/// Bits of the block in a uSID container: the `lblen` of NEXT-CSID.
pub const BLOCK_BITS: u8 = 32;
/// Bits of one uSID: the `nflen` of NEXT-CSID.
pub const USID_BITS: u8 = 16;
/// The kernel's main routing table.
pub const TABLE_MAIN: u32 = 254;
/// The kernel's table of a host's own addresses, in which End.DT6 looks the inner destination up.
pub const TABLE_LOCAL: u32 = 255;
/// First of the tables for the NICs of a host with rails; see [`Fabric::host_rules`].
pub const TABLE_RAILS: u32 = 1000;

/// A machine that is configured as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// A host.
    Host(HostId),
    /// A switch.
    Switch(SwitchId),
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The beginning; bits after the length are zero.
    pub addr: Ipv6Addr,
    /// Bits that count, `0 ..= 128`.
    pub len: u8,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// On along one of these links (they leave this device), spread by flow where there are several.
    Via(Vec<LinkId>),
    /// Shift one uSID off the container and look up again: End with NEXT-CSID, [`BLOCK_BITS`], [`USID_BITS`].
    End {
        /// The route hangs on this link's interface; any will do, a loopback will not.
        on: LinkId,
    },
    /// Take the inner packet out and look its destination up in [`TABLE_LOCAL`]: End.DT6.
    Decapsulate {
        /// The route hangs on this link's interface.
        on: LinkId,
    },
    /// Nobody is there: answer "unreachable".
    Unreachable,
}

/// One line of a routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// For which destinations.
    pub to: Prefix,
    /// In which table; [`TABLE_MAIN`] but for hosts with rails.
    pub table: u32,
    /// Source address of packets that start here, where it matters.
    pub source: Option<Ipv6Addr>,
    /// What to do.
    pub action: Action,
}

/// Packets from this address look in this table first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The source address.
    pub from: Ipv6Addr,
    /// The table.
    pub table: u32,
}

impl Route {
    fn new(to: Prefix, action: Action) -> Route {
        Route { to, table: TABLE_MAIN, source: None, action }
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The first 16-bit groups of addresses, as a prefix.
fn prefix<const N: usize>(groups: [u16; N]) -> Prefix {
    let mut all = [0; 8];
    all.iter_mut().zip(groups).for_each(|(to, from)| *to = from);
    Prefix { addr: all.into(), len: 16 * N as u8 }
}

impl Fabric {
    /// The link-local address of the interface that sends on a link, which is also the next hop of whoever is at the
    /// link's other end. It is what [`Fabric::link_mac`] makes by RFC 4291 (modified EUI-64).
    pub fn link_local(&self, link: LinkId) -> Ipv6Addr {
        let [_, b, c, d, e, f] = self.link_mac(link).map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
    /// The hardware address of the interface that sends on a link: `02:5e`, then the link's number.
    pub fn link_mac(&self, link: LinkId) -> [u8; 6] {
        let [a, b, c, d] = link.0.to_be_bytes();
        [0x02, 0x5e, a, b, c, d]
    }
    /// The name of the interface that sends on a link, on its device: `p0` on a host (`p0r1` with rails), else the
    /// neighbour: `host12`, `leaf3`, `spine1`, `spine1.2` for parallel cables after the first. At most 15 characters.
    pub fn ifname(&self, link: LinkId) -> String {
        let mut name = String::with_capacity(15);
        // writing to a string cannot fail
        let _ = match (self.cable_of(link), link.0 & 1) {
            (Ok(nic), 0) => {
                let (plane, _, rail) = self.nic_parts(nic);
                match self.shape.rails {
                    1 => write!(name, "p{}", plane.0),
                    _ => write!(name, "p{}r{rail}", plane.0),
                }
            }
            (Ok(nic), _) => write!(name, "host{}", self.nic_parts(nic).1.0),
            (Err((_, spine, _)), 0) => write!(name, "spine{spine}"),
            (Err((leaf, _, _)), _) => write!(name, "leaf{leaf}"),
        };
        if let Err((_, _, cable @ 1..)) = self.cable_of(link) {
            let _ = write!(name, ".{cable}");
        }
        name
    }

    /// Every device: hosts, then switches.
    pub fn devices(&self) -> impl Iterator<Item = Device> + '_ {
        let hosts = (0..self.shape.hosts).map(|h| Device::Host(HostId(h)));
        hosts.chain((0..self.switches()).map(|s| Device::Switch(SwitchId(s))))
    }
    /// `host12` or `p0-leaf3`.
    pub fn device_name(&self, device: Device) -> String {
        match device {
            Device::Host(host) => self.host_name(host),
            Device::Switch(switch) => self.switch_name(switch),
        }
    }
    /// A device by its name.
    pub fn device_by_name(&self, name: &str) -> Option<Device> {
        let switch = || self.switch_by_name(name).map(Device::Switch);
        self.host_by_name(name).map(Device::Host).or_else(switch)
    }
    /// The device that sends on a link that exists.
    pub fn link_device(&self, link: LinkId) -> Option<Device> {
        Some(match self.link_ends(link)?.0 {
            Node::Nic(nic) => Device::Host(self.nic_parts(nic).1),
            Node::Switch(switch) => Device::Switch(switch),
        })
    }
    /// The links that leave a device, one for each of its interfaces.
    pub fn ports(&self, device: Device) -> Vec<LinkId> {
        match device {
            Device::Host(host) => self.host_nics(host).map(|nic| self.access_link(nic)).collect(),
            Device::Switch(switch) => self.switch_links(switch).into_iter().step_by(2).collect(),
        }
    }
    /// The addresses of a device besides the link-local ones: each with the link on whose interface it is, or none
    /// for the loopback. All are /128.
    pub fn addresses(&self, device: Device) -> Vec<(Option<LinkId>, Ipv6Addr)> {
        match device {
            Device::Host(host) => {
                let nics = self.host_nics(host);
                nics.map(|nic| (Some(self.access_link(nic)), self.nic_addr(nic))).collect()
            }
            Device::Switch(switch) => alloc::vec![(None, self.switch_addr(switch))],
        }
    }
    /// The routes of a device, one by one.
    pub fn routes(&self, device: Device) -> Box<dyn Iterator<Item = Route> + '_> {
        match device {
            Device::Host(host) => Box::new(self.host_routes(host)),
            Device::Switch(switch) => Box::new(self.switch_routes(switch)),
        }
    }

    /// The routes of a host: in each plane to the plane's NICs and switches, to its segments, and its own segment.
    pub fn host_routes(&self, host: HostId) -> impl Iterator<Item = Route> + '_ {
        let mut last = None;
        self.host_nics(host).enumerate().flat_map(move |(i, nic)| {
            let plane = self.nic_parts(nic).0;
            let first = last.replace(plane) != Some(plane);
            let link = self.access_link(nic);
            let source = Some(self.nic_addr(nic));
            let via = move |to, table| Route { to, table, source, action: Action::Via(alloc::vec![link]) };
            let addresses = prefix([NIC_NET, plane.0.into()]);
            let segments = prefix(self.block(plane));
            let srv6 = self.mode == Mode::Srv6;
            let own = Prefix { addr: self.nic_sid(nic), len: 128 };
            let rails = self.shape.rails > 1;
            let table = TABLE_RAILS + i as u32;
            // rails of one plane share a prefix: the main table has the first, each rail a table of its own
            let routes = [
                first.then(|| via(addresses, TABLE_MAIN)),
                (first && srv6).then(|| via(segments, TABLE_MAIN)),
                (first && srv6).then(|| Route::new(own, Action::Decapsulate { on: link })),
                rails.then(|| via(addresses, table)),
                (rails && srv6).then(|| via(segments, table)),
            ];
            routes.into_iter().flatten()
        })
    }

    /// Which table a host's packets look in by their source: one rule a NIC where there are rails, else none.
    pub fn host_rules(&self, host: HostId) -> impl Iterator<Item = Rule> + '_ {
        let rules = self
            .host_nics(host)
            .enumerate()
            .map(|(i, nic)| Rule { from: self.nic_addr(nic), table: TABLE_RAILS + i as u32 });
        rules.take(if self.shape.rails > 1 { usize::MAX } else { 0 })
    }

    /// The routes of a switch.
    pub fn switch_routes(&self, switch: SwitchId) -> impl Iterator<Item = Route> + '_ {
        let (plane, tier, number) = self.switch_parts(switch);
        let [a, b] = self.block(plane);
        let segments = (self.mode == Mode::Srv6).then(move || {
            // an End route hangs on any interface; a switch without one forwards nothing
            let on = self.ports(Device::Switch(switch)).first().copied();
            let own = on.into_iter().flat_map(move |on| {
                (0..self.shape.cables)
                    .map(move |k| Route::new(prefix([a, b, self.switch_usid(switch, k)]), Action::End { on }))
            });
            let trunks = self.trunks(plane, tier, number).map(move |(peer, cable, link)| {
                let usid = self.switch_usid(peer, cable);
                Route::new(prefix([a, b, usid]), Action::Via(alloc::vec![link]))
            });
            let hosts = self.leaf_nics(plane, tier, number).map(move |(nic, link)| {
                Route::new(prefix([a, b, self.nic_usid(nic)]), Action::Via(alloc::vec![link]))
            });
            own.chain(trunks).chain(hosts)
        });
        let net = [NIC_NET, plane.0.into()];
        let hosts = self.leaf_nics(plane, tier, number).map(move |(nic, link)| {
            let (leaf, port) = self.nic_leaf_port(nic);
            let to = prefix([net[0], net[1], leaf as u16, port as u16]);
            Route::new(to, Action::Via(alloc::vec![link]))
        });
        segments.into_iter().flatten().chain(hosts).chain(self.leaf_or_spine(plane, tier, number))
    }

    /// The ordinary routes of a switch but for a leaf's own hosts.
    fn leaf_or_spine(&self, plane: PlaneId, tier: Tier, number: u32) -> impl Iterator<Item = Route> + '_ {
        let net = [NIC_NET, plane.0.into()];
        let leaf_net = move |leaf: u32| prefix([net[0], net[1], leaf as u16]);
        let peers = match tier {
            Tier::Leaf => self.shape.spines,
            Tier::Spine => self.shape.leaves,
        };
        // every neighbour answers under its own address; a spine also has the hosts of each leaf behind it
        let neighbours = (0..peers).flat_map(move |peer| {
            let (leaf, spine, other) = match tier {
                Tier::Leaf => (number, peer, Tier::Spine),
                Tier::Spine => (peer, number, Tier::Leaf),
            };
            let links = self.cables(plane, leaf, spine, tier);
            let switch = self.switch(plane, other, peer).filter(|_| !links.is_empty());
            let answers = switch.map(|s| {
                let to = Prefix { addr: self.switch_addr(s), len: 128 };
                Route::new(to, Action::Via(links.clone()))
            });
            let behind = (tier == Tier::Spine && !links.is_empty())
                .then(|| Route::new(leaf_net(leaf), Action::Via(links.clone())));
            answers.into_iter().chain(behind)
        });
        let up: Vec<LinkId> = match tier {
            Tier::Leaf => self.trunks(plane, tier, number).map(|(_, _, link)| link).collect(),
            Tier::Spine => Vec::new(),
        };
        // a leaf that not all of the spines reach has a route of its own
        let fewer = (0..self.irregular_leaves(tier)).filter(move |&leaf| leaf != number).filter_map({
            let all = up.len();
            move |leaf| {
                let reach = |&(_, spine, _): &(SwitchId, u32, LinkId)| {
                    !self.cables(plane, leaf, spine, Tier::Leaf).is_empty()
                };
                let links: Vec<LinkId> =
                    self.spine_trunks(plane, number).filter(reach).map(|t| t.2).collect();
                let action = if links.is_empty() { Action::Unreachable } else { Action::Via(links.clone()) };
                (links.len() != all).then(|| Route::new(leaf_net(leaf), action))
            }
        });
        let own = (tier == Tier::Leaf).then(|| Route::new(leaf_net(number), Action::Unreachable));
        let rest = if up.is_empty() { Action::Unreachable } else { Action::Via(up) };
        neighbours.chain(fewer).chain(own).chain([Route::new(prefix(net), rest)])
    }

    /// How many leaves have to be looked at for missing cables: none in a regular fabric.
    fn irregular_leaves(&self, tier: Tier) -> u32 {
        if tier == Tier::Leaf && !self.removed.is_empty() { self.shape.leaves } else { 0 }
    }

    /// The cables of a leaf and a spine that exist, as links leaving the side asked for.
    fn cables(&self, plane: PlaneId, leaf: u32, spine: u32, from: Tier) -> Vec<LinkId> {
        let up = (0..self.shape.cables).map(|k| self.trunk_link(plane, leaf, spine, k));
        let existing = up.filter(|&l| self.exists(l));
        existing.map(|l| if from == Tier::Leaf { l } else { l.reverse() }).collect()
    }

    /// The existing trunks of a switch: neighbour, cable, and the link that leaves.
    fn trunks(
        &self,
        plane: PlaneId,
        tier: Tier,
        number: u32,
    ) -> impl Iterator<Item = (SwitchId, u32, LinkId)> + '_ {
        let (peers, other) = match tier {
            Tier::Leaf => (self.shape.spines, Tier::Spine),
            Tier::Spine => (self.shape.leaves, Tier::Leaf),
        };
        (0..peers).flat_map(move |peer| (0..self.shape.cables).map(move |k| (peer, k))).filter_map(
            move |(peer, cable)| {
                let link = match tier {
                    Tier::Leaf => self.trunk_link(plane, number, peer, cable),
                    Tier::Spine => self.trunk_link(plane, peer, number, cable).reverse(),
                };
                self.exists(link).then_some((self.switch(plane, other, peer)?, cable, link))
            },
        )
    }

    /// A leaf's existing trunks with the spine's number.
    fn spine_trunks(&self, plane: PlaneId, leaf: u32) -> impl Iterator<Item = (SwitchId, u32, LinkId)> + '_ {
        self.trunks(plane, Tier::Leaf, leaf).map(|(spine, _, link)| (spine, self.switch_parts(spine).2, link))
    }

    /// The NICs on a leaf, each with the link that leads to it; a spine has none.
    fn leaf_nics(
        &self,
        plane: PlaneId,
        tier: Tier,
        number: u32,
    ) -> impl Iterator<Item = (NicId, LinkId)> + '_ {
        let ports = if tier == Tier::Leaf { self.shape.hosts_per_leaf } else { 0 };
        (0..ports).filter_map(move |port| {
            let nic = self.nic_at(plane, number, port)?;
            let link = self.access_link(nic).reverse();
            self.exists(link).then_some((nic, link))
        })
    }
}
