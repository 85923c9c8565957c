//! What the kernel counts of each interface: state, carrier, packets, drops, addresses.
//!
//! How: two dumps over rtnetlink, of links and of addresses, in a form that recorded bytes are read by too
//! ([`Interface::decode`]).
//! Invariants: hostile bytes give fewer facts, never a panic. Absent on purpose: changing anything (see [`crate::link`]).

use crate::Result;
use crate::netlink::{Batch, DUMP, Netlink, attributes, ne16, ne32};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

/// The counters of `struct rtnl_link_stats64`, in its order. Packets, but for the bytes.
pub const COUNTERS: [&str; 25] = [
    "packets_received",
    "packets_sent",
    "bytes_received",
    "bytes_sent",
    "receive_errors",
    "send_errors",
    "receive_drops",
    "send_drops",
    "multicast_received",
    "collisions",
    "receive_length_errors",
    "receive_over_errors",
    "receive_crc_errors",
    "receive_frame_errors",
    "receive_fifo_errors",
    "receive_missed",
    "send_aborted",
    "send_carrier_errors",
    "send_fifo_errors",
    "send_heartbeat_errors",
    "send_window_errors",
    "compressed_received",
    "compressed_sent",
    "receive_no_handler",
    "receive_other_host",
];

/// An interface of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Number, unique in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Its hardware (ARPHRD_*): 1 Ethernet, 772 loopback.
    pub hardware: u16,
    /// What it is, where it is made by software: `veth`, `vlan`, `bond`.
    pub kind: String,
    /// Name of the device it belongs to (`0000:65:00.0`); empty where there is none.
    pub device: String,
    /// Its bus (`pci`).
    pub bus: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// RFC 2863: 0 unknown, 1 not present, 2 down, 3 lower layer down, 4 testing, 5 dormant, 6 up.
    pub state: u8,
    /// Whether it has a carrier; absent where the kernel does not say.
    pub carrier: Option<bool>,
    /// Times the carrier came.
    pub carrier_up: Option<u32>,
    /// Times the carrier went.
    pub carrier_down: Option<u32>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Packets its queue holds.
    pub queue_packets: u32,
    /// Queues to send.
    pub send_queues: u32,
    /// Queues to receive.
    pub receive_queues: u32,
    /// The counters named by [`COUNTERS`]; an older kernel has fewer.
    pub counters: Vec<u64>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// From the bytes of an answer after the netlink header. `None` where they are not about a named interface.
    pub fn decode(body: &[u8]) -> Option<Interface> {
        const UP: u32 = libc::IFF_UP as u32;
        let attrs = body.get(16..)?;
        let (index, hardware, up) = (ne32(body, 4), ne16(body, 2), ne32(body, 8) & UP != 0);
        let mut it = Interface { index, hardware, up, ..Interface::default() };
        for (kind, value) in attributes(attrs) {
            match kind {
                3 => it.name = text(value),
                4 => it.mtu = ne32(value, 0),
                13 => it.queue_packets = ne32(value, 0),
                16 => it.state = value.first().copied().unwrap_or(0),
                18 => {
                    it.kind =
                        attributes(value).find(|(k, _)| *k == 1).map(|(_, v)| text(v)).unwrap_or_default()
                }
                23 => {
                    let words = value.as_chunks::<8>().0.iter().map(|w| u64::from_ne_bytes(*w));
                    it.counters = words.take(COUNTERS.len()).collect();
                }
                31 => it.send_queues = ne32(value, 0),
                32 => it.receive_queues = ne32(value, 0),
                33 => it.carrier = value.first().map(|c| *c != 0),
                47 if value.len() >= 4 => it.carrier_up = Some(ne32(value, 0)),
                48 if value.len() >= 4 => it.carrier_down = Some(ne32(value, 0)),
                56 => it.device = text(value),
                57 => it.bus = text(value),
                _ => {}
            }
        }
        (!it.name.is_empty()).then_some(it)
    }

    /// A counter by its name in [`COUNTERS`].
    pub fn counter(&self, name: &str) -> Option<u64> {
        let at = COUNTERS.iter().position(|n| *n == name)?;
        self.counters.get(at).copied()
    }
}

/// The interfaces of the namespace the socket belongs to, with their addresses.
pub fn list(socket: &mut Netlink) -> Result<Vec<Interface>> {
    let mut found = Vec::new();
    let mut batch = Batch::new();
    batch.message("interfaces", 0, RTM_GETLINK, DUMP, &[0; 16]);
    socket.ask(batch, |kind, body| {
        if kind == RTM_NEWLINK {
            found.extend(Interface::decode(body));
        }
    })?;
    let mut batch = Batch::new();
    batch.message("addresses", 0, RTM_GETADDR, DUMP, &[0; 8]);
    socket.ask(batch, |kind, body| {
        if kind == RTM_NEWADDR
            && let Some((index, address)) = address(body)
            && let Some(it) = found.iter_mut().find(|it| it.index == index)
        {
            it.addresses.push(address);
        }
    })?;
    Ok(found)
}

/// The interface's number and the address of an answer about an address.
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let index = ne32(body, 4);
    let mut found = None;
    for (kind, value) in attributes(body.get(8..)?) {
        let address = match *value {
            [a, b, c, d] => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
            _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok().unwrap_or_default())),
        };
        match kind {
            // on a point-to-point link `IFA_ADDRESS` is the peer's
            IFA_LOCAL => return Some((index, address)),
            IFA_ADDRESS => found = Some(address),
            _ => {}
        }
    }
    Some((index, found?))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_string()
}
