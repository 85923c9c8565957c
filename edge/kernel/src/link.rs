//! Links: veth pairs straight into two namespaces, addresses, neighbours, state.
//!
//! Interface numbers are chosen by the caller, so that everything about a new link can be written into one batch
//! without asking what number the kernel gave it.

use crate::netlink::{Batch, CREATE, Netlink, REPLACE, attributes, ne32};
use crate::{Error, Result};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWNEIGH: u16 = 28;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_PERMANENT: u32 = 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const AF_INET6: u8 = libc::AF_INET6 as u8;
const UP: u32 = libc::IFF_UP as u32;
const RUNNING: u32 = libc::IFF_RUNNING as u32;

/// The number of the loopback interface in every namespace.
pub const LOOPBACK: u32 = 1;

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The namespace it goes into.
    pub netns: BorrowedFd<'a>,
    /// Interface name, 1 to 15 bytes.
    pub name: &'a str,
    /// Interface number, free in that namespace.
    pub index: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// The kernel's rule for interface names.
pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 15 || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        return Err(Error::Name { name: name.to_string() });
    }
    Ok(())
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A veth pair with one end in each of two namespaces, both down: the kernel does not open one before the other is
/// there.
pub fn veth(batch: &mut Batch, a: End<'_>, b: End<'_>, mtu: u32) -> Result<()> {
    check_name(a.name)?;
    check_name(b.name)?;
    let end = |m: &mut crate::netlink::Message<'_>, e: &End<'_>| {
        m.text(IFLA_IFNAME, e.name)
            .attr(IFLA_ADDRESS, &e.mac)
            .attr(IFLA_MTU, &mtu.to_ne_bytes())
            .attr(IFLA_NET_NS_FD, &(e.netns.as_raw_fd() as u32).to_ne_bytes());
    };
    let mut message = batch.message("veth", a.index, RTM_NEWLINK, CREATE, &ifinfo(a.index, 0, 0));
    end(&mut message, &a);
    message.nest(IFLA_LINKINFO, |m| {
        m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.raw(&ifinfo(b.index, 0, 0));
                end(m, &b);
            });
        });
    });
    Ok(())
}

/// Takes a link up or down.
pub fn set_up(batch: &mut Batch, index: u32, up: bool) {
    let flags = if up { UP } else { 0 };
    batch.message("link state", index, RTM_NEWLINK, 0, &ifinfo(index, flags, UP));
}

/// Sets the largest packet of a link.
pub fn set_mtu(batch: &mut Batch, index: u32, mtu: u32) {
    batch
        .message("MTU of link", index, RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
        .attr(IFLA_MTU, &mtu.to_ne_bytes());
}

/// Removes a link; a veth's other end goes with it.
pub fn delete(batch: &mut Batch, index: u32) {
    batch.message("link removal", index, RTM_DELLINK, 0, &ifinfo(index, 0, 0));
}

/// Adds an address, or keeps it where it is there; no duplicate address detection.
pub fn address(batch: &mut Batch, index: u32, address: Ipv6Addr, prefix_len: u8) {
    let mut header = [AF_INET6, prefix_len, 0, 0, 0, 0, 0, 0];
    if address.is_unicast_link_local() {
        header[3] = 253; // RT_SCOPE_LINK
    }
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    batch
        .message("address on link", index, RTM_NEWADDR, REPLACE, &header)
        .attr(IFA_LOCAL, &address.octets())
        .attr(IFA_ADDRESS, &address.octets())
        .attr(IFA_FLAGS, &(IFA_F_NODAD | IFA_F_PERMANENT).to_ne_bytes());
}

/// Makes a neighbour known for good, so that nobody has to ask for it.
pub fn neighbour(batch: &mut Batch, index: u32, address: Ipv6Addr, mac: [u8; 6]) {
    let mut header = [0; 12];
    header[0] = AF_INET6;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    batch
        .message("neighbour on link", index, RTM_NEWNEIGH, REPLACE, &header)
        .attr(NDA_DST, &address.octets())
        .attr(NDA_LLADDR, &mac);
}

/// A link of this thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface number.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it can carry packets: up, its other end too, and the kernel has noticed (which it does a little later).
    pub running: bool,
}

/// The links of the namespace the socket belongs to.
pub fn list(socket: &mut Netlink) -> Result<Vec<Link>> {
    let mut batch = Batch::new();
    batch.message("links", 0, RTM_GETLINK, crate::netlink::DUMP, &ifinfo(0, 0, 0));
    let mut links = Vec::new();
    socket.ask(batch, |kind, body| {
        if kind != RTM_NEWLINK {
            return;
        }
        let name = attributes(body.get(16..).unwrap_or(&[]))
            .find(|(kind, _)| *kind == IFLA_IFNAME)
            .map(|(_, v)| String::from_utf8_lossy(v).trim_end_matches('\0').to_string());
        if let Some(name) = name {
            let flags = ne32(body, 8);
            links.push(Link {
                index: ne32(body, 4),
                name,
                up: flags & UP != 0,
                running: flags & RUNNING != 0,
            });
        }
    })?;
    Ok(links)
}

/// The name of an interface in this thread's network namespace; `None` where there is none of that number.
pub fn name_of(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: `name` has the room this call asks for and outlives it.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    let end = name.iter().position(|&b| b == 0)?;
    (!found.is_null()).then(|| String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned())
}

/// The number of an interface of this thread's namespace.
pub fn index_of(name: &str) -> Result<u32> {
    list(&mut Netlink::route()?)?
        .into_iter()
        .find(|l| l.name == name)
        .map(|l| l.index)
        .ok_or(Error::File { path: name.to_string(), errno: crate::Errno(libc::ENODEV) })
}
