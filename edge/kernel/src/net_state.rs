//! What a network namespace says about itself now: counters of its links, queues, neighbours, and the way to an address.
//!
//! How: one netlink dump each; they are asked of the namespace the socket was opened in, unlike `/sys/class/net`, which
//! shows the namespace of whoever mounted it.
//!
//! Invariants: counters run from the link's start and only their differences mean something; an attribute the kernel does
//! not have reads as 0 or none.
//! Absent on purpose: changing anything, for which see `link`, `route` and `tc`.

use crate::netlink::{Batch, DUMP, Netlink, attributes, ne32};
use crate::{Errno, Error, Result};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_STATS64: u16 = 23;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const NDA_DST: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const TCA_KIND: u16 = 1;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const RTN_BLACKHOLE: u8 = 6;
const RTN_PROHIBIT: u8 = 8;

/// A link and what it has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Interface number.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier and can send.
    pub running: bool,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Times the carrier came or went.
    pub carrier_changes: u32,
    /// Times it went.
    pub carrier_downs: u32,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received damaged: checksum, frame, length and overrun errors together.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Received and thrown away for want of room, with those the hardware missed.
    pub rx_dropped: u64,
    /// Thrown away before they were sent.
    pub tx_dropped: u64,
    /// Of the received ones, those whose frame check sequence was wrong.
    pub rx_crc_errors: u64,
}

/// A queueing discipline and what it has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Interface number.
    pub index: u32,
    /// Kind: `tbf`, `mq`, `noqueue`.
    pub kind: String,
    /// Handle.
    pub handle: u32,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets that wait now.
    pub waiting_packets: u32,
    /// Bytes that wait now.
    pub waiting_bytes: u32,
    /// Packets dropped.
    pub drops: u32,
    /// Times a packet had to wait for its turn.
    pub over_limits: u32,
}

/// What is known of a neighbour's hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It was asked for and nobody answered.
    Failed,
    /// It is being asked for.
    Incomplete,
    /// It is known, fresh or not.
    Known,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The interface it is on.
    pub index: u32,
    /// What is known.
    pub resolution: Resolution,
}

/// The way packets to an address would take now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Interface they leave by.
    pub index: u32,
    /// Next node; none where the address itself is a neighbour.
    pub via: Option<IpAddr>,
    /// Our address they would carry.
    pub source: Option<IpAddr>,
    /// Path MTU learnt or set for it, bytes; none where only the link's counts.
    pub mtu: Option<u32>,
}

/// The links of the namespace.
pub fn links(socket: &mut Netlink) -> Result<Vec<LinkState>> {
    let mut batch = Batch::new();
    batch.message("links", 0, RTM_GETLINK, DUMP, &[0; 16]);
    let mut found = Vec::new();
    socket.ask(batch, |kind, body| {
        if kind == RTM_NEWLINK {
            found.push(link(body));
        }
    })?;
    Ok(found)
}

fn link(body: &[u8]) -> LinkState {
    let flags = ne32(body, 8);
    let mut link = LinkState {
        index: ne32(body, 4),
        up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
        ..LinkState::default()
    };
    for (kind, value) in attributes(body.get(16..).unwrap_or(&[])) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = ne32(value, 0),
            IFLA_CARRIER_CHANGES => link.carrier_changes = ne32(value, 0),
            IFLA_CARRIER_DOWN_COUNT => link.carrier_downs = ne32(value, 0),
            IFLA_STATS64 => {
                let n = |at: usize| ne64(value, at * 8);
                (link.rx_packets, link.tx_packets, link.rx_bytes, link.tx_bytes) = (n(0), n(1), n(2), n(3));
                (link.rx_errors, link.tx_errors) = (n(4), n(5));
                (link.rx_dropped, link.tx_dropped) = (n(6).saturating_add(n(15)), n(7));
                link.rx_crc_errors = n(12);
            }
            _ => {}
        }
    }
    link
}

/// The queueing disciplines of the namespace.
pub fn queues(socket: &mut Netlink) -> Result<Vec<Queue>> {
    let mut batch = Batch::new();
    batch.message("queueing disciplines", 0, RTM_GETQDISC, DUMP, &[0; 20]);
    let mut found = Vec::new();
    socket.ask(batch, |kind, body| {
        if kind == RTM_NEWQDISC {
            found.push(queue(body));
        }
    })?;
    Ok(found)
}

fn queue(body: &[u8]) -> Queue {
    let mut queue = Queue { index: ne32(body, 4), handle: ne32(body, 8), ..Queue::default() };
    for (kind, value) in attributes(body.get(20..).unwrap_or(&[])) {
        match kind {
            TCA_KIND => queue.kind = text(value),
            TCA_STATS2 => {
                for (kind, value) in attributes(value) {
                    match kind {
                        TCA_STATS_BASIC => queue.bytes = ne64(value, 0),
                        TCA_STATS_QUEUE => {
                            (queue.waiting_packets, queue.waiting_bytes) = (ne32(value, 0), ne32(value, 4));
                            (queue.drops, queue.over_limits) = (ne32(value, 8), ne32(value, 16));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    queue
}

/// The neighbours of the namespace, of both families.
pub fn neighbours(socket: &mut Netlink) -> Result<Vec<Neighbour>> {
    let mut batch = Batch::new();
    batch.message("neighbours", 0, RTM_GETNEIGH, DUMP, &[0; 12]);
    let mut found = Vec::new();
    socket.ask(batch, |kind, body| {
        if kind == RTM_NEWNEIGH {
            found.extend(neighbour(body));
        }
    })?;
    Ok(found)
}

fn neighbour(body: &[u8]) -> Option<Neighbour> {
    const INCOMPLETE: u8 = 0x01;
    const FAILED: u8 = 0x20;
    let family = *body.first()?;
    let state = *body.get(8)?;
    let value = attributes(body.get(12..)?).find(|(kind, _)| *kind == NDA_DST)?.1;
    let resolution = match state {
        s if s & FAILED != 0 => Resolution::Failed,
        s if s & INCOMPLETE != 0 => Resolution::Incomplete,
        _ => Resolution::Known,
    };
    Some(Neighbour { address: address(family, value)?, index: ne32(body, 4), resolution })
}

/// The way to an address. Where there is none the error carries the kernel's reason: ENETUNREACH, EHOSTUNREACH, EACCES, or
/// EINVAL for a route that swallows everything.
pub fn way(socket: &mut Netlink, to: IpAddr, from: Option<IpAddr>) -> Result<Way> {
    let (family, bits) = match to {
        IpAddr::V4(_) => (libc::AF_INET as u8, 32),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, 128),
    };
    let mut batch = Batch::new();
    {
        let from_bits = if from.is_some() { bits } else { 0 };
        let header = [family, bits, from_bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut message = batch.message("way to an address", 0, RTM_GETROUTE, 0, &header);
        let mut attr = |kind: u16, a: IpAddr| {
            match a {
                IpAddr::V4(a) => message.attr(kind, &a.octets()),
                IpAddr::V6(a) => message.attr(kind, &a.octets()),
            };
        };
        attr(RTA_DST, to);
        if let Some(from) = from.filter(|f| f.is_ipv4() == to.is_ipv4()) {
            attr(RTA_SRC, from);
        }
    }
    let mut found = None;
    socket.ask(batch, |kind, body| {
        if kind == RTM_NEWROUTE {
            found = Some(route(body));
        }
    })?;
    let none = |errno: i32| Error::Netlink {
        what: "way to an address".to_string(),
        errno: Errno(errno),
        said: String::new(),
    };
    found.unwrap_or(Err(libc::ENETUNREACH)).map_err(none)
}

fn route(body: &[u8]) -> std::result::Result<Way, i32> {
    let family = body.first().copied().unwrap_or(0);
    match body.get(7).copied().unwrap_or(0) {
        RTN_BLACKHOLE => return Err(libc::EINVAL),
        RTN_PROHIBIT => return Err(libc::EACCES),
        kind if kind > RTN_BLACKHOLE => return Err(libc::EHOSTUNREACH),
        _ => {}
    }
    let mut way = Way { index: 0, via: None, source: None, mtu: None };
    for (kind, value) in attributes(body.get(12..).unwrap_or(&[])) {
        match kind {
            RTA_OIF => way.index = ne32(value, 0),
            RTA_GATEWAY => way.via = address(family, value),
            RTA_PREFSRC => way.source = address(family, value),
            RTA_METRICS => {
                let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU).map(|(_, v)| ne32(v, 0));
                way.mtu = mtu.filter(|mtu| *mtu > 0);
            }
            _ => {}
        }
    }
    Ok(way)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_string()
}

fn ne64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    match bytes.get(at..at + 8) {
        Some(b) => value.copy_from_slice(b),
        None => return 0,
    }
    u64::from_ne_bytes(value)
}

fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LOOPBACK;

    #[test]
    fn loopback_is_a_link_and_the_way_to_itself() {
        let mut socket = Netlink::route().unwrap();
        let links = links(&mut socket).unwrap();
        let lo = links.iter().find(|l| l.index == LOOPBACK).unwrap();
        assert_eq!(lo.name, "lo");
        assert!(lo.mtu > 1_000);
        if !lo.up {
            println!("skipped the rest: loopback is down here");
            return;
        }
        let before = lo.rx_packets;
        let a = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        a.send_to(&[1], a.local_addr().unwrap()).unwrap();
        a.recv(&mut [0]).unwrap();
        let after =
            super::links(&mut socket).unwrap().iter().find(|l| l.index == LOOPBACK).unwrap().rx_packets;
        assert!(after > before);
        let way = way(&mut socket, "127.0.0.1".parse().unwrap(), None).unwrap();
        assert_eq!((way.index, way.via), (LOOPBACK, None));
        queues(&mut socket).unwrap();
        neighbours(&mut socket).unwrap();
    }

    #[test]
    fn bytes_of_any_kind_are_read() {
        for len in 0..200 {
            for byte in [0, 1, 4, 0xff] {
                let noise = vec![byte; len];
                let _ = (link(&noise), queue(&noise), neighbour(&noise), route(&noise));
            }
        }
        let mut message = vec![libc::AF_INET as u8, 0, 0, 0, 2, 0, 0, 0, 0x20, 0, 0, 0];
        message.extend_from_slice(&[8, 0, 1, 0, 192, 0, 2, 9]);
        let failed = neighbour(&message).unwrap();
        assert_eq!(failed.resolution, Resolution::Failed);
        assert_eq!((failed.index, failed.address.to_string()), (2, "192.0.2.9".to_string()));
    }
}
