//! IPv6 routes: plain, multipath, and SRv6 (RFC 8754, 8986, and the NEXT-CSID flavour of RFC 9800).
//!
//! SRv6 actions need a real interface to hang on; one on `lo` is accepted and ignored by the kernel.

use crate::netlink::{Batch, CREATE, Message, REPLACE};
use std::net::Ipv6Addr;

const RTM_NEWROUTE: u16 = 24;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const RTM_NEWRULE: u16 = 32;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;

const LWTUNNEL_ENCAP_SEG6: u16 = 5;
const SEG6_IPTUNNEL_SRH: u16 = 1;
const SEG6_IPTUN_MODE_ENCAP_RED: i32 = 3;

const LWTUNNEL_ENCAP_SEG6_LOCAL: u16 = 7;
const SEG6_LOCAL_ACTION: u16 = 1;
const SEG6_LOCAL_TABLE: u16 = 3;
const SEG6_LOCAL_FLAVORS: u16 = 11;
const SEG6_LOCAL_ACTION_END: u32 = 1;
const SEG6_LOCAL_ACTION_END_DT6: u32 = 7;
const SEG6_LOCAL_FLV_OPERATION: u16 = 1;
const SEG6_LOCAL_FLV_LCBLOCK_BITS: u16 = 2;
const SEG6_LOCAL_FLV_LCNODE_FN_BITS: u16 = 3;
const SEG6_LOCAL_FLV_OP_NEXT_CSID: u32 = 4;

const AF_INET6: u8 = libc::AF_INET6 as u8;

/// The table that holds a host's own addresses: where a decapsulated packet for this host is looked up.
pub const TABLE_LOCAL: u32 = 255;

/// The next node of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Its link-local address.
    pub via: Ipv6Addr,
    /// The interface it is on.
    pub index: u32,
}

/// What happens to a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to a neighbour; with more than one, spread over all by the namespace's multipath hash policy.
    Via(Vec<Hop>),
    /// Encapsulated in IPv6 with these segments (reduced: a single segment needs no routing header), then out.
    Encap {
        /// Segments, in the order they are visited.
        segments: Vec<Ipv6Addr>,
        /// Interface it leaves by.
        index: u32,
    },
    /// `End` with the NEXT-CSID flavour: shift the container by one uSID and look up again.
    EndNextCsid {
        /// Bits of the block.
        block_bits: u8,
        /// Bits of a uSID.
        node_bits: u8,
        /// Any real interface of this node.
        index: u32,
    },
    /// `End.DT6`: take the inner packet out and look its destination up in a table.
    EndDt6 {
        /// The table; [`TABLE_LOCAL`] for a host's own addresses.
        table: u32,
        /// Any real interface of this node.
        index: u32,
    },
    /// Nobody is there: the sender is told so.
    Unreachable,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: Ipv6Addr,
    /// Its prefix length, 0 to 128.
    pub prefix_len: u8,
    /// Routing table; 254 is the main one.
    pub table: u32,
    /// Source address for packets of this host, where it matters.
    pub source: Option<Ipv6Addr>,
    /// What happens.
    pub action: Action,
}

/// Adds the route, or replaces the one to the same prefix.
pub fn replace(batch: &mut Batch, index: u32, route: &Route) {
    let kind = if route.action == Action::Unreachable { RTN_UNREACHABLE } else { RTN_UNICAST };
    // struct rtmsg: family, lengths, tos, table (in the attribute), protocol, scope, type, flags
    let header = [AF_INET6, route.prefix_len, 0, 0, 0, RTPROT_STATIC, 0, kind, 0, 0, 0, 0];
    let mut message = batch.message("route", index, RTM_NEWROUTE, REPLACE, &header);
    message.attr(RTA_DST, &route.to.octets()).attr(RTA_TABLE, &route.table.to_ne_bytes());
    if let Some(source) = route.source {
        message.attr(RTA_PREFSRC, &source.octets());
    }
    match &route.action {
        Action::Unreachable => {}
        Action::Via(hops) => match hops.as_slice() {
            [hop] => {
                message.attr(RTA_GATEWAY, &hop.via.octets()).attr(RTA_OIF, &hop.index.to_ne_bytes());
            }
            hops => {
                message.nest(RTA_MULTIPATH, |m| hops.iter().for_each(|hop| next_hop(m, hop)));
            }
        },
        Action::Encap { segments, index } => {
            message.attr(RTA_OIF, &index.to_ne_bytes()).nest(RTA_ENCAP, |m| {
                m.attr(SEG6_IPTUNNEL_SRH, &segment_header(segments));
            });
            message.attr(RTA_ENCAP_TYPE, &LWTUNNEL_ENCAP_SEG6.to_ne_bytes());
        }
        Action::EndNextCsid { block_bits, node_bits, index } => {
            local(&mut message, *index, SEG6_LOCAL_ACTION_END, |m| {
                m.nest(SEG6_LOCAL_FLAVORS, |m| {
                    m.attr(SEG6_LOCAL_FLV_OPERATION, &(1u32 << SEG6_LOCAL_FLV_OP_NEXT_CSID).to_ne_bytes())
                        .attr(SEG6_LOCAL_FLV_LCBLOCK_BITS, &[*block_bits])
                        .attr(SEG6_LOCAL_FLV_LCNODE_FN_BITS, &[*node_bits]);
                });
            });
        }
        Action::EndDt6 { table, index } => {
            local(&mut message, *index, SEG6_LOCAL_ACTION_END_DT6, |m| {
                m.attr(SEG6_LOCAL_TABLE, &table.to_ne_bytes());
            });
        }
    }
}

/// Packets from this address look in this table first. Adding a rule that is there already is refused.
pub fn rule(batch: &mut Batch, from: Ipv6Addr, table: u32) {
    let header = [AF_INET6, 0, 128, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    batch
        .message("rule for table", table, RTM_NEWRULE, CREATE, &header)
        .attr(FRA_SRC, &from.octets())
        .attr(FRA_PRIORITY, &table.to_ne_bytes())
        .attr(FRA_TABLE, &table.to_ne_bytes());
}

/// `struct rtnexthop` and its gateway.
fn next_hop(m: &mut Message<'_>, hop: &Hop) {
    const RTNEXTHOP: u16 = 8;
    const GATEWAY: u16 = 4 + 16;
    let mut header = [0; 8];
    header[..2].copy_from_slice(&(RTNEXTHOP + GATEWAY).to_ne_bytes());
    header[4..8].copy_from_slice(&hop.index.to_ne_bytes());
    m.raw(&header).attr(RTA_GATEWAY, &hop.via.octets());
}

fn local(message: &mut Message<'_>, index: u32, action: u32, rest: impl FnOnce(&mut Message<'_>)) {
    message.attr(RTA_OIF, &index.to_ne_bytes()).nest(RTA_ENCAP, |m| {
        m.attr(SEG6_LOCAL_ACTION, &action.to_ne_bytes());
        rest(m);
    });
    message.attr(RTA_ENCAP_TYPE, &LWTUNNEL_ENCAP_SEG6_LOCAL.to_ne_bytes());
}

/// `struct seg6_iptunnel_encap`: the mode, then a segment routing header (RFC 8754 section 2) whose list is in
/// reverse order.
fn segment_header(segments: &[Ipv6Addr]) -> Vec<u8> {
    let n = segments.len() as u8;
    let mut out = SEG6_IPTUN_MODE_ENCAP_RED.to_ne_bytes().to_vec();
    out.extend_from_slice(&[0, 2 * n, 4, n.saturating_sub(1), n.saturating_sub(1), 0, 0, 0]);
    for segment in segments.iter().rev() {
        out.extend_from_slice(&segment.octets());
    }
    out
}
