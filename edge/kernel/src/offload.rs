//! Offloads of an interface, by ethtool over generic netlink.
//!
//! A burst of segments crosses a veth as one packet, and a checksum is never computed between two namespaces. Where
//! something must act on each wire segment, or where a corrupted packet must be found out, both have to go off on the
//! interface that sends.

use crate::Result;
use crate::genl::Genl;
use std::os::fd::BorrowedFd;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
const NESTED: u16 = 0x8000;

/// Everything that lets one packet in the stack stand for several on the wire. Features an interface does not have are left
/// alone by the kernel.
const SEGMENTATION: [&str; 12] = [
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-udp-segmentation",
];
/// What lets a packet carry an unfinished checksum.
const CHECKSUM: &str = "tx-checksum-ip-generic";

/// Lets one write on a UDP socket be cut into datagrams of so many bytes, on the wire or as late as possible before it.
pub fn segment_udp(socket: BorrowedFd<'_>, bytes: u16) -> Result<()> {
    crate::udp::set(socket, "setsockopt(UDP_SEGMENT)", libc::SOL_UDP, libc::UDP_SEGMENT, &i32::from(bytes))
}

/// Turns segmentation and checksum offload of an interface of this thread's namespace on or off.
///
/// Without checksum offload the kernel (tried: 6.18) loses bursts of a local socket that a program at the egress hook wraps
/// into another header: take it only where damage has to be found.
pub fn set_tx_offload(index: u32, segmentation: bool, checksum: bool) -> Result<()> {
    let mut genl = Genl::open("ethtool")?;
    genl.request("offloads of link", index, ETHTOOL_MSG_FEATURES_SET, |m| {
        m.nest(ETHTOOL_A_FEATURES_HEADER | NESTED, |m| {
            m.attr(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes())
                .attr(ETHTOOL_A_HEADER_FLAGS, &ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes());
        })
        .nest(ETHTOOL_A_FEATURES_WANTED | NESTED, |m| {
            m.nest(ETHTOOL_A_BITSET_BITS | NESTED, |m| {
                let all = SEGMENTATION.iter().map(|name| (*name, segmentation));
                for (name, on) in all.chain([(CHECKSUM, checksum)]) {
                    m.nest(ETHTOOL_A_BITSET_BITS_BIT | NESTED, |m| {
                        m.text(ETHTOOL_A_BITSET_BIT_NAME, name);
                        if on {
                            m.attr(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
                        }
                    });
                }
            });
        });
    })
}
