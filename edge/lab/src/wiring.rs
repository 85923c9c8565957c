//! A fabric as namespaces, veth pairs, addresses and routes.
//!
//! How: every name, number and address is a formula of the fabric, so the whole of a node's configuration is one
//! batch of netlink messages written without asking the kernel anything, and can be written again at any time (that
//! is how a link that was down gets its routes back). Neighbours are static: no packet ever waits for discovery, and
//! a lossy link does not lose them.
//!
//! Order: namespaces and their settings first (new interfaces inherit them), then all veth pairs from one socket in
//! an empty namespace, so that no interface number is taken there, then each node's addresses, neighbours and routes.
//!
//! Absent on purpose: the rates and latencies of the specification. Namespaces on one machine have neither to give;
//! `selvedge lab fault … rate` and `… delay` impose them where wanted.

use crate::{Error, Result};
use fabric::route::{BLOCK_BITS, TABLE_LOCAL, USID_BITS};
use fabric::{Device, Fabric, Mode};
use kernel::netlink::{Batch, Netlink};
use kernel::netns::{self, Netns};
use kernel::route::{Action, Hop};
use kernel::{link, route, sysctl, tc};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use wire::LinkId;

/// The most nodes of a lab. A namespace takes about half a megabyte.
pub const NODES_MAX: u32 = 4096;
/// Bytes of a packet on every link: 9,000 and room for an outer IPv6 header and trace options.
pub const MTU: u32 = 9100;
/// The IOAM namespace (RFC 9197) nodes fill traces in.
pub const IOAM_NAMESPACE: u16 = 123;
/// How long the kernel may take to notice that both ends of a cable are up.
const RUNNING_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);
/// First interface number of a node's ports.
const FIRST_INDEX: u32 = 10;

/// One end of a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The directed link it sends on.
    pub link: LinkId,
    /// Interface name.
    pub name: String,
    /// Interface number.
    pub index: u32,
}

/// A namespace of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it stands for.
    pub device: Device,
    /// Its name.
    pub netns: String,
    /// Its ports, in the order of their links.
    pub ports: Vec<Port>,
}

/// Every namespace and port of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Hosts, then switches.
    pub members: Vec<Member>,
    /// Where a directed link's sending port is: member and port, by link id.
    by_link: Vec<Option<(u32, u32)>>,
}

impl Wiring {
    /// Plans a lab. Pure: nothing is made yet.
    pub fn plan(fabric: &Fabric, lab: &str) -> Result<Wiring> {
        let (hosts, switches) = (fabric.shape.hosts, fabric.switches());
        if hosts.saturating_add(switches) > NODES_MAX {
            return Err(Error::TooLarge { hosts, switches, limit: NODES_MAX });
        }
        let mut members = Vec::with_capacity((hosts + switches) as usize);
        let mut by_link = vec![None; fabric.link_bound() as usize];
        for device in fabric.devices() {
            let mut ports = Vec::new();
            for id in fabric.ports(device) {
                let number = ports.len() as u32;
                by_link[id.index()] = Some((members.len() as u32, number));
                ports.push(Port { link: id, name: fabric.ifname(id), index: FIRST_INDEX + number });
            }
            members.push(Member { device, netns: format!("{lab}-{}", fabric.device_name(device)), ports });
        }
        Ok(Wiring { members, by_link })
    }

    /// The namespace and port that send on a directed link.
    pub fn sender(&self, id: LinkId) -> Option<(&Member, &Port)> {
        let (member, port) = (*self.by_link.get(id.index())?)?;
        let member = self.members.get(member as usize)?;
        Some((member, member.ports.get(port as usize)?))
    }

    /// The namespace and port that receive from a directed link.
    pub fn receiver(&self, id: LinkId) -> Option<(&Member, &Port)> {
        self.sender(id.reverse())
    }

    /// Interface number, in the sender's namespace, of the port that sends on a link.
    pub(crate) fn index(&self, id: LinkId) -> u32 {
        self.sender(id).map_or(0, |(_, port)| port.index)
    }
}

impl Wiring {
    /// Makes every namespace and cable. `progress` is told how many of how many steps are done.
    pub fn build(&self, fabric: &Fabric, progress: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<()> {
        let cables = self.by_link.iter().flatten().count() / 2;
        let (mut done, all) = (0, 2 * self.members.len() + cables);
        let mut step = || {
            done += 1;
            progress(done, all)
        };
        let mut spaces = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let space = netns::create(&member.netns)?;
            space.run(|| settings(fabric, member.device))??;
            spaces.push(space);
            step()?;
        }
        // A socket of the root namespace would take a chosen interface number for that of one of its own.
        let mut nursery = netns::anonymous()?.run(Netlink::route)??;
        for id in fabric.links().filter(|id| id.0 & 1 == 0) {
            let (Some(a), Some(b)) = (self.end(fabric, &spaces, id), self.end(fabric, &spaces, id.reverse()))
            else {
                continue;
            };
            let mut batch = Batch::new();
            link::veth(&mut batch, a, b, MTU)?;
            nursery.apply(batch)?;
            step()?;
        }
        for (member, space) in self.members.iter().zip(&spaces) {
            space.run(|| {
                hooks(member);
                self.configure(fabric, member)?;
                rules(fabric, member.device)
            })??;
            step()?;
        }
        for member in &self.members {
            self.wait_running(member, &BTreeSet::new())?;
        }
        Ok(())
    }

    /// Waits until the ports of a node carry packets, but for those that are down on purpose at either end. The kernel
    /// notices a cable in the background, and drops what is sent before.
    pub(crate) fn wait_running(&self, member: &Member, down: &BTreeSet<LinkId>) -> Result<()> {
        let _inside = netns::enter(&member.netns)?;
        let mut socket = Netlink::route()?;
        let begin = Instant::now();
        loop {
            let links = link::list(&mut socket)?;
            let waits = |port: &&Port| {
                !down.contains(&port.link)
                    && !down.contains(&port.link.reverse())
                    && links.iter().any(|l| l.index == port.index && !l.running)
            };
            match member.ports.iter().find(waits) {
                None => return Ok(()),
                Some(port) if begin.elapsed() > RUNNING_WITHIN => {
                    return Err(Error::NoCarrier { netns: member.netns.clone(), ifname: port.name.clone() });
                }
                Some(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// The interface that sends on a link, as the kernel is asked for it.
    fn end<'a>(&'a self, fabric: &Fabric, spaces: &'a [Netns], id: LinkId) -> Option<link::End<'a>> {
        let (at, _) = (*self.by_link.get(id.index())?)?;
        let (_, port) = self.sender(id)?;
        let (netns, mac) = (spaces.get(at as usize)?.as_fd(), fabric.link_mac(id));
        Some(link::End { netns, name: &port.name, index: port.index, mac })
    }

    /// Writes everything a node needs beyond its interfaces: addresses, neighbours, routes. Run it inside the node's
    /// namespace; running it again changes nothing, or repairs.
    pub fn configure(&self, fabric: &Fabric, member: &Member) -> Result<()> {
        for (number, port) in member.ports.iter().enumerate() {
            sysctl::write(&format!("net/ipv6/conf/{}/ioam6_id", port.name), number + 1).or_else(optional)?;
        }
        let mut batch = Batch::new();
        link::set_up(&mut batch, link::LOOPBACK, true);
        for port in &member.ports {
            let back = port.link.reverse();
            link::set_up(&mut batch, port.index, true);
            link::address(&mut batch, port.index, fabric.link_local(port.link), 64);
            link::neighbour(&mut batch, port.index, fabric.link_local(back), fabric.link_mac(back));
        }
        for (on, address) in fabric.addresses(member.device) {
            link::address(&mut batch, on.map_or(link::LOOPBACK, |id| self.index(id)), address, 128);
        }
        for (number, route) in fabric.routes(member.device).enumerate() {
            route::replace(&mut batch, number as u32, &self.route(fabric, route));
        }
        Netlink::route()?.apply(batch)?;
        Ok(())
    }

    /// A route of the fabric's, with interface numbers and neighbours' addresses in place of links.
    fn route(&self, fabric: &Fabric, route: fabric::Route) -> route::Route {
        let hop = |id: LinkId| Hop { via: fabric.link_local(id.reverse()), index: self.index(id) };
        let action = match route.action {
            fabric::Action::Via(links) => Action::Via(links.into_iter().map(hop).collect()),
            fabric::Action::End { on } => {
                Action::EndNextCsid { block_bits: BLOCK_BITS, node_bits: USID_BITS, index: self.index(on) }
            }
            fabric::Action::Decapsulate { on } => {
                Action::EndDt6 { table: TABLE_LOCAL, index: self.index(on) }
            }
            fabric::Action::Unreachable => Action::Unreachable,
        };
        let fabric::Prefix { addr: to, len: prefix_len } = route.to;
        route::Route { to, prefix_len, table: route.table, source: route.source, action }
    }
}

/// Makes room for faults while the interfaces are still down. Done later it would cost packets of the other direction
/// than the one that is broken, which looks like a fault of that one.
fn hooks(member: &Member) {
    let mut batch = Batch::new();
    member.ports.iter().for_each(|port| tc::add_hook(&mut batch, port.index));
    // A kernel without the hook still forwards; faults that need it say so when they are started.
    let _ = Netlink::route().and_then(|mut socket| socket.apply(batch));
}

/// A host with several NICs in a plane answers from each through that NIC.
fn rules(fabric: &Fabric, device: Device) -> Result<()> {
    if let Device::Host(host) = device {
        let mut batch = Batch::new();
        fabric.host_rules(host).for_each(|rule| route::rule(&mut batch, rule.from, rule.table));
        Netlink::route()?.apply(batch)?;
    }
    Ok(())
}

/// A missing IOAM file is a kernel without IOAM, which the lab can do without.
fn optional(e: kernel::Error) -> kernel::Result<()> {
    match e {
        kernel::Error::File { errno, .. } if errno.0 == 2 => Ok(()),
        other => Err(other),
    }
}

/// The settings of a namespace, before it has interfaces: those inherit `default`.
fn settings(fabric: &Fabric, device: Device) -> kernel::Result<()> {
    let ipv6 = |key: &str, value: u32| sysctl::write(&format!("net/ipv6/{key}"), value);
    for scope in ["all", "default"] {
        ipv6(&format!("conf/{scope}/accept_dad"), 0)?;
        ipv6(&format!("conf/{scope}/accept_ra"), 0)?;
        ipv6(&format!("conf/{scope}/keep_addr_on_down"), 1)?;
    }
    // Link-local addresses are ours to give: 1 is "none".
    ipv6("conf/default/addr_gen_mode", 1)?;
    ipv6("conf/default/router_solicitations", 0)?;
    if fabric.mode == Mode::Srv6 {
        ipv6("conf/all/seg6_enabled", 1)?;
        ipv6("conf/default/seg6_enabled", 1)?;
    }
    // Addresses and flow label choose among equal routes.
    ipv6("fib_multipath_hash_policy", 0)?;
    let ioam_id = match device {
        Device::Switch(switch) => {
            ipv6("conf/all/forwarding", 1)?;
            // A trace asks every hop, and must not be answered at one message a second.
            ipv6("icmp/ratelimit", 0)?;
            switch.0 + 1
        }
        Device::Host(host) => 0x80_0000 | host.0,
    };
    ipv6("ioam6_id", ioam_id).or_else(optional)?;
    ipv6("conf/default/ioam6_enabled", 1).or_else(optional)?;
    match kernel::genl::add_ioam_namespace(IOAM_NAMESPACE) {
        Err(kernel::Error::NoFamily { .. }) => Ok(()),
        other => other,
    }
}
