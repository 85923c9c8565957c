//! sFlow version 5 (sflow.org): samples of packets, counters of interfaces, and packets thrown away.
//!
//! How: everything is XDR, words of four bytes with lengths before what is long; a sample or record of an unknown kind is
//! stepped over by its length. A sampled packet is a flow of `sampling rate` packets of its length: the addresses come
//! from its own header, which is read here, or from a record the switch made of it.
//! Absent on purpose: records about users, URLs, transactions and hosts' processes.

use super::columns::{Address, FlowColumns, mapped};
use super::exporter::{Key, Protocol};
use super::template::long;
use super::{Beside, Bytes, Decoder, Outcome, Refused};
use crate::time::Nanos;
use alloc::vec::Vec;

/// A packet's first bytes that are kept as an example.
const EXEMPLAR_BYTES: usize = 64;

/// Packets a switch threw away ("sFlow Discarded Packet Notification Structures").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRow {
    /// When it was told, microseconds since 1970, by our clock: sFlow has no wall clock.
    pub ts_us: i64,
    /// Who tells.
    pub exporter: u32,
    /// Number of the reason; [`drop_reason`] names it.
    pub reason: u32,
    /// Interface it came in by.
    pub in_if: u32,
    /// Interface it would have left by.
    pub out_if: u32,
    /// Queue of that interface, where told.
    pub queue: Option<u32>,
    /// Packets: this one, and those no notification was sent of since the last one.
    pub packets: u64,
    /// Bytes of this one.
    pub bytes: u64,
    /// Its first bytes, at most 64, from its outermost header on.
    pub header: Vec<u8>,
}

/// Counters of an interface, since the switch started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampledCounter {
    /// When it was told, microseconds since 1970, by our clock.
    pub ts_us: i64,
    /// Who tells.
    pub exporter: u32,
    /// The interface.
    pub if_index: u32,
    /// What, in the words of table `metric`.
    pub name: &'static str,
    /// How much.
    pub value: u64,
    /// Counted since the start; else as it is now.
    pub cumulative: bool,
}

/// The words for a reason to throw a packet away: ICMP's codes below 256, then those of sFlow.
pub fn drop_reason(reason: u32) -> &'static str {
    match reason {
        0 => "net_unreachable",
        1 => "host_unreachable",
        2 => "protocol_unreachable",
        3 => "port_unreachable",
        4 => "frag_needed",
        5 => "src_route_failed",
        6 => "dst_net_unknown",
        7 => "dst_host_unknown",
        8 => "src_host_isolated",
        9 => "dst_net_prohibited",
        10 => "dst_host_prohibited",
        11 => "dst_net_tos_unreachable",
        12 => "dst_host_tos_unreachable",
        13 => "comm_admin_prohibited",
        14 => "host_precedence_violation",
        15 => "precedence_cutoff",
        256 => "unknown",
        257 => "ttl_exceeded",
        258 => "acl",
        259 => "no_buffer_space",
        260 => "red",
        261 => "traffic_shaping",
        262 => "pkt_too_big",
        263 => "src_mac_is_multicast",
        264 => "vlan_tag_mismatch",
        265 => "ingress_vlan_filter",
        266 => "ingress_spanning_tree_filter",
        267 => "port_list_is_empty",
        268 => "port_loopback_filter",
        269 => "blackhole_route",
        270 => "non_ip",
        271 => "uc_dip_over_mc_dmac",
        272 => "dip_is_loopback_address",
        273 => "sip_is_mc",
        274 => "sip_is_loopback_address",
        275 => "ip_header_corrupted",
        276 => "ipv4_sip_is_limited_bc",
        _ => "other",
    }
}

/// What a packet's header says.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    src: Option<Address>,
    dst: Option<Address>,
    src_port: Option<i32>,
    dst_port: Option<i32>,
    protocol: Option<i32>,
    tcp_flags: Option<i32>,
    traffic_class: Option<i32>,
    ttl: Option<i32>,
    flow_label: Option<i64>,
    vlan: Option<i32>,
    mpls_label: Option<i64>,
    srv6_segment: Option<Address>,
    next_hop: Option<Address>,
    src_prefix_len: Option<i32>,
    dst_prefix_len: Option<i32>,
    src_as: Option<i64>,
    dst_as: Option<i64>,
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

impl Packet {
    fn ethernet(&mut self, b: &[u8]) -> Option<()> {
        let (mut kind, mut at) = (be16(b, 12)?, 14);
        // two tags, as providers stack them; more are nobody's
        for _ in 0..4 {
            if !matches!(kind, 0x8100 | 0x88a8 | 0x9100) {
                break;
            }
            self.vlan = Some(i32::from(be16(b, at)? & 0xfff));
            kind = be16(b, at + 2)?;
            at += 4;
        }
        self.network(kind, b.get(at..)?)
    }

    fn network(&mut self, kind: u16, b: &[u8]) -> Option<()> {
        match kind {
            0x0800 => self.ipv4(b),
            0x86dd => self.ipv6(b),
            0x8847 | 0x8848 => {
                let mut at = 0;
                loop {
                    let entry = be32(b, at)?;
                    self.mpls_label = self.mpls_label.or(Some(i64::from(entry >> 12)));
                    at += 4;
                    if entry & 0x100 != 0 {
                        break;
                    }
                }
                let inside = b.get(at..)?;
                match inside.first()? >> 4 {
                    4 => self.ipv4(inside),
                    6 => self.ipv6(inside),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn ipv4(&mut self, b: &[u8]) -> Option<()> {
        let words = usize::from(b.first()? & 0xf);
        self.traffic_class = Some((*b.get(1)?).into());
        self.ttl = Some((*b.get(8)?).into());
        self.src = be32(b, 12).map(mapped);
        self.dst = be32(b, 16).map(mapped);
        let first_fragment = be16(b, 6)? & 0x1fff == 0;
        let rest = b.get(words.max(5) * 4..).filter(|_| first_fragment).unwrap_or_default();
        self.transport(*b.get(9)?, rest)
    }

    fn ipv6(&mut self, b: &[u8]) -> Option<()> {
        let first = be32(b, 0)?;
        self.traffic_class = Some((first >> 20 & 0xff) as i32);
        self.flow_label = Some((first & 0xf_ffff).into());
        self.ttl = Some((*b.get(7)?).into());
        self.src = b.get(8..24)?.try_into().ok();
        self.dst = b.get(24..40)?.try_into().ok();
        let (mut next, mut at) = (*b.get(6)?, 40);
        for _ in 0..8 {
            match next {
                0 | 43 | 60 => {
                    if next == 43 && b.get(at + 2) == Some(&4) {
                        // a segment routing header (RFC 8754): the destination is the active segment
                        self.srv6_segment = self.dst;
                    }
                    let length = 8 + 8 * usize::from(*b.get(at + 1)?);
                    next = *b.get(at)?;
                    at += length;
                }
                44 => {
                    let later = be16(b, at + 2)? >> 3 != 0;
                    next = *b.get(at)?;
                    at += 8;
                    if later {
                        return self.transport(next, &[]);
                    }
                }
                _ => break,
            }
        }
        self.transport(next, b.get(at..).unwrap_or_default())
    }

    fn transport(&mut self, protocol: u8, b: &[u8]) -> Option<()> {
        self.protocol = Some(protocol.into());
        match protocol {
            6 | 17 | 132 => {
                self.src_port = Some(be16(b, 0)?.into());
                self.dst_port = Some(be16(b, 2)?.into());
                if protocol == 6 {
                    self.tcp_flags = Some((*b.get(13)?).into());
                }
            }
            // as NetFlow has it: type and code instead of the destination's port
            1 | 58 => self.dst_port = Some(be16(b, 0)?.into()),
            _ => {}
        }
        Some(())
    }
}

/// An address of sFlow: its kind, and 0, 4 or 16 bytes.
fn address(b: &mut Bytes<'_>) -> Result<Option<Address>, Refused> {
    match b.u32()? {
        0 => Ok(None),
        1 => Ok(Some(mapped(b.u32()?))),
        2 => b.take(16)?.try_into().map(Some).map_err(|_| Refused::Cut),
        _ => Err(Refused::Cut),
    }
}

/// What the records of a flow sample say.
#[derive(Default)]
struct Sampled {
    packet: Packet,
    bytes: u64,
    header: Vec<u8>,
    queue: Option<u32>,
}

impl Sampled {
    fn read(records: u32, b: &mut Bytes<'_>) -> Result<Sampled, Refused> {
        let mut s = Sampled::default();
        for _ in 0..records {
            let kind = b.u32()?;
            let length = b.u32()? as usize;
            let record = b.take(length)?;
            // A record that is not what it says tells nothing; the others still do.
            let _ = s.record(kind, &mut Bytes(record));
        }
        Ok(s)
    }

    fn record(&mut self, kind: u32, r: &mut Bytes<'_>) -> Result<(), Refused> {
        match kind {
            1 => {
                let (protocol, frame, _stripped) = (r.u32()?, r.u32()?, r.u32()?);
                let length = r.u32()? as usize;
                let header = r.take(length)?;
                self.bytes = frame.into();
                self.header = header.get(..header.len().min(EXEMPLAR_BYTES)).unwrap_or_default().to_vec();
                let _ = match protocol {
                    1 => self.packet.ethernet(header),
                    11 => self.packet.ipv4(header),
                    12 => self.packet.ipv6(header),
                    13 => self.packet.network(0x8847, header),
                    _ => None,
                };
            }
            2 => {
                let length = r.u32()?;
                self.bytes = if self.bytes == 0 { length.into() } else { self.bytes };
            }
            3 | 4 => {
                let (length, protocol) = (r.u32()?, r.u32()?);
                let p = &mut self.packet;
                if kind == 3 {
                    (p.src, p.dst) = (Some(mapped(r.u32()?)), Some(mapped(r.u32()?)));
                } else {
                    p.src = r.take(16)?.try_into().ok();
                    p.dst = r.take(16)?.try_into().ok();
                }
                p.protocol = Some(protocol as i32);
                p.src_port = Some(r.u32()? as i32);
                p.dst_port = Some(r.u32()? as i32);
                p.tcp_flags = Some(r.u32()? as i32);
                p.traffic_class = Some(r.u32()? as i32);
                self.bytes = if self.bytes == 0 { length.into() } else { self.bytes };
            }
            1001 => {
                let vlan = r.u32()?;
                self.packet.vlan = self.packet.vlan.or(Some(vlan as i32));
            }
            1002 => {
                self.packet.next_hop = address(r)?;
                self.packet.src_prefix_len = Some(r.u32()? as i32);
                self.packet.dst_prefix_len = Some(r.u32()? as i32);
            }
            1003 => {
                let hop = address(r)?;
                self.packet.next_hop = self.packet.next_hop.or(hop);
                let (own, source, _peer) = (r.u32()?, r.u32()?, r.u32()?);
                self.packet.src_as = Some(if source == 0 { own } else { source }.into());
                let mut last = None;
                for _ in 0..r.u32()? {
                    let (_kind, n) = (r.u32()?, r.u32()?);
                    for _ in 0..n {
                        last = Some(r.u32()?);
                    }
                }
                self.packet.dst_as = Some(last.unwrap_or(own).into());
            }
            1006 => {
                address(r)?;
                if r.u32()? > 0 {
                    let entry = r.u32()?;
                    self.packet.mpls_label = self.packet.mpls_label.or(Some((entry >> 12).into()));
                }
            }
            1036 => self.queue = Some(r.u32()?),
            _ => {}
        }
        Ok(())
    }
}

/// Of the generic counters of an interface: offset, length, name, and whether it only grows.
const GENERIC: [(usize, usize, &str, bool); 16] = [
    (8, 8, "speed_bps", false),
    (20, 4, "oper_status", false),
    (24, 8, "in_octets", true),
    (32, 4, "in_unicast_packets", true),
    (36, 4, "in_multicast_packets", true),
    (40, 4, "in_broadcast_packets", true),
    (44, 4, "in_discards", true),
    (48, 4, "in_errors", true),
    (52, 4, "in_unknown_protocols", true),
    (56, 8, "out_octets", true),
    (64, 4, "out_unicast_packets", true),
    (68, 4, "out_multicast_packets", true),
    (72, 4, "out_broadcast_packets", true),
    (76, 4, "out_discards", true),
    (80, 4, "out_errors", true),
    (84, 4, "promiscuous", false),
];

/// Of the Ethernet counters, words in their order.
const ETHERNET: [&str; 13] = [
    "alignment_errors",
    "fcs_errors",
    "single_collisions",
    "multiple_collisions",
    "sqe_test_errors",
    "deferred_transmissions",
    "late_collisions",
    "excessive_collisions",
    "mac_transmit_errors",
    "carrier_sense_errors",
    "frames_too_long",
    "mac_receive_errors",
    "symbol_errors",
];

impl Decoder {
    pub(super) fn sflow(
        &mut self,
        now: Nanos,
        from: Address,
        bytes: &[u8],
        flows: &mut FlowColumns,
        beside: &mut Beside,
    ) -> Result<Outcome, Refused> {
        let mut b = Bytes(bytes);
        b.take(4)?;
        let agent = address(&mut b)?.unwrap_or(from);
        let (sub_agent, sequence, _uptime, samples) = (b.u32()?, b.u32()?, b.u32()?, b.u32()?);
        let key = Key { address: agent, domain: sub_agent, protocol: Protocol::Sflow };
        let number = self.known(key)?.number;
        self.numbered(key, sequence, 1, true);
        let ts_us = long(now.0 / 1_000);
        let mut records = 0;
        for _ in 0..samples {
            let kind = b.u32()?;
            let length = b.u32()? as usize;
            let mut s = Bytes(b.take(length)?);
            let done = match kind {
                1 | 3 => self.flow_sample(kind == 3, ts_us, number, &mut s, flows).map(|()| records += 1),
                2 | 4 => counters(kind == 4, ts_us, number, &mut s, beside),
                5 => discarded(ts_us, number, &mut s, beside),
                _ => {
                    self.counts.samples_unknown += 1;
                    Ok(())
                }
            };
            if done.is_err() {
                self.counts.bad_sets += 1;
            }
        }
        self.counts.records += records as u64;
        Ok(Outcome { records, exporter: number })
    }

    fn flow_sample(
        &mut self,
        expanded: bool,
        ts_us: i64,
        number: u32,
        s: &mut Bytes<'_>,
        flows: &mut FlowColumns,
    ) -> Result<(), Refused> {
        s.take(if expanded { 12 } else { 8 })?;
        let (rate, _pool, _drops) = (s.u32()?, s.u32()?, s.u32()?);
        let mut interface = || -> Result<Option<i64>, Refused> {
            let (format, value) = if expanded {
                (s.u32()?, s.u32()?)
            } else {
                let word = s.u32()?;
                (word >> 30, word & 0x3fff_ffff)
            };
            // 0 is one interface; else it is a reason or a number of several
            Ok((format == 0).then_some(value.into()))
        };
        let (in_if, out_if) = (interface()?, interface()?);
        let sampled = Sampled::read(s.u32()?, s)?;
        let p = sampled.packet;
        let rate = rate.max(1);
        flows.ts_us.push(ts_us);
        flows.exporter.push(number.cast_signed());
        flows.packets.push(rate.into());
        flows.bytes.push(long(sampled.bytes.saturating_mul(rate.into())));
        flows.sampling.push(i32::try_from(rate).unwrap_or(i32::MAX));
        flows.src.push(p.src);
        flows.dst.push(p.dst);
        flows.src_port.push(p.src_port);
        flows.dst_port.push(p.dst_port);
        flows.protocol.push(p.protocol);
        flows.tcp_flags.push(p.tcp_flags);
        flows.traffic_class.push(p.traffic_class);
        flows.in_if.push(in_if);
        flows.out_if.push(out_if);
        flows.next_hop.push(p.next_hop);
        flows.src_as.push(p.src_as);
        flows.dst_as.push(p.dst_as);
        flows.src_prefix_len.push(p.src_prefix_len);
        flows.dst_prefix_len.push(p.dst_prefix_len);
        flows.vlan.push(p.vlan);
        flows.ttl_min.push(p.ttl);
        flows.ttl_max.push(p.ttl);
        flows.flow_label.push(p.flow_label);
        flows.mpls_label.push(p.mpls_label);
        flows.srv6_segment.push(p.srv6_segment);
        // one packet's mark, times the packets it stands for
        flows.ecn_marked.push(p.traffic_class.map(|c| if c & 3 == 3 { i64::from(rate) } else { 0 }));
        flows.level();
        Ok(())
    }
}

fn counters(
    expanded: bool,
    ts_us: i64,
    exporter: u32,
    s: &mut Bytes<'_>,
    beside: &mut Beside,
) -> Result<(), Refused> {
    s.take(4)?;
    let source = if expanded {
        s.take(4)?;
        s.u32()?
    } else {
        s.u32()? & 0xff_ffff
    };
    for _ in 0..s.u32()? {
        let kind = s.u32()?;
        let length = s.u32()? as usize;
        let r = s.take(length)?;
        let mut tell = |if_index, name, value, cumulative| {
            beside.counters.push(SampledCounter { ts_us, exporter, if_index, name, value, cumulative });
        };
        match kind {
            1 if r.len() >= 88 => {
                let if_index = be32(r, 0).unwrap_or(source);
                for (at, bytes, name, cumulative) in GENERIC {
                    let value = super::template::uint(r.get(at..at + bytes).unwrap_or_default());
                    // bit 0: set up, bit 1: running
                    let value = if name == "oper_status" { value >> 1 & 1 } else { value };
                    tell(if_index, name, value, cumulative);
                }
            }
            2 if r.len() >= 4 * ETHERNET.len() => {
                for (i, name) in ETHERNET.into_iter().enumerate() {
                    tell(source, name, be32(r, 4 * i).unwrap_or(0).into(), true);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn discarded(ts_us: i64, exporter: u32, s: &mut Bytes<'_>, beside: &mut Beside) -> Result<(), Refused> {
    s.take(12)?;
    let (unsent, in_if, out_if, reason) = (s.u32()?, s.u32()?, s.u32()?, s.u32()?);
    let sampled = Sampled::read(s.u32()?, s)?;
    beside.drops.push(DropRow {
        ts_us,
        exporter,
        reason,
        in_if,
        out_if,
        queue: sampled.queue,
        packets: 1 + u64::from(unsent),
        bytes: sampled.bytes,
        header: sampled.header,
    });
    Ok(())
}
