//! IPv6 packets as the prober sends them: UDP, on its own or inside an outer header whose destination is a container of
//! compressed SRv6 segments (RFC 9800), or behind a hop-by-hop header; and the part of an ICMPv6 error that says which
//! of our packets it is about.
//!
//! Invariants: a UDP checksum is always there and never zero (RFC 8200, section 8.1: IPv6 has no other), and it covers
//! the inner addresses, which no switch changes; a reader gives a value or `None`, for any bytes.
//! Absent on purpose: fragments, routing headers (one container needs none, RFC 8986 section 4.1), and checking the
//! checksums of packets the kernel has checked.

use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// Bytes of an IPv6 header.
pub const HEADER_LEN: usize = 40;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: UDP.
pub const UDP: u8 = 17;
/// Next header: IPv6.
pub const IPV6: u8 = 41;
/// ICMPv6 type: time exceeded (RFC 4443, section 3.3).
pub const TIME_EXCEEDED: u8 = 3;

/// A UDP packet to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Destination of the outer header: a container of segments. Its source is `src`. `None` for no outer header.
    pub container: Option<Ipv6Addr>,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// DSCP and ECN, on both headers.
    pub traffic_class: u8,
    /// 20 bits, on both headers.
    pub flow_label: u32,
    /// On both headers.
    pub hop_limit: u8,
    /// A whole hop-by-hop header whose next header is [`UDP`]; it goes behind the inner header.
    pub hop_by_hop: &'a [u8],
    /// What is in it. At most 65,000 bytes.
    pub payload: &'a [u8],
}

/// The ones' complement sum of the bytes as 16-bit words, not folded.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|w| u64::from(w[0]) << 8 | u64::from(w[1])).sum();
    whole + words.remainder().first().map_or(0, |b| u64::from(*b) << 8)
}

/// UDP checksum over pseudo-header, UDP header and payload (RFC 8200, section 8.1; RFC 768). Never zero.
pub fn udp_checksum(src: Ipv6Addr, dst: Ipv6Addr, src_port: u16, dst_port: u16, payload: &[u8]) -> u16 {
    let len = (UDP_LEN + payload.len()) as u64;
    let mut s = sum(&src.octets()) + sum(&dst.octets()) + 2 * len + u64::from(UDP);
    s += u64::from(src_port) + u64::from(dst_port) + sum(payload);
    while s >> 16 != 0 {
        s = (s & 0xffff) + (s >> 16);
    }
    match !(s as u16) {
        0 => 0xffff,
        c => c,
    }
}

impl Datagram<'_> {
    /// Bytes it takes.
    pub fn len(&self) -> usize {
        let outer = if self.container.is_some() { HEADER_LEN } else { 0 };
        outer + HEADER_LEN + self.hop_by_hop.len() + UDP_LEN + self.payload.len()
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where it goes next: the destination of its first header.
    pub fn first_destination(&self) -> Ipv6Addr {
        self.container.unwrap_or(self.dst)
    }

    /// Appends the packet.
    pub fn write(&self, out: &mut Vec<u8>) {
        let udp = UDP_LEN + self.payload.len();
        let inner = self.hop_by_hop.len() + udp;
        out.reserve(self.len());
        if let Some(container) = self.container {
            self.header(container, HEADER_LEN + inner, IPV6, out);
        }
        let next = if self.hop_by_hop.is_empty() { UDP } else { HOP_BY_HOP };
        self.header(self.dst, inner, next, out);
        out.extend_from_slice(self.hop_by_hop);
        let checksum = udp_checksum(self.src, self.dst, self.src_port, self.dst_port, self.payload);
        for word in [self.src_port, self.dst_port, udp as u16, checksum] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(self.payload);
    }

    /// Appends the packet with the hop-by-hop header behind the outer header, where every switch on the way reads it. Its
    /// next header must be [`IPV6`]. Without a container there is no outer header, and nothing is appended.
    pub fn write_traced_outside(&self, out: &mut Vec<u8>) {
        let Some(container) = self.container else { return };
        let inner = Datagram { container: None, hop_by_hop: &[], ..*self };
        self.header(container, self.hop_by_hop.len() + inner.len(), HOP_BY_HOP, out);
        out.extend_from_slice(self.hop_by_hop);
        inner.write(out);
    }

    fn header(&self, dst: Ipv6Addr, payload: usize, next: u8, out: &mut Vec<u8>) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&(payload as u16).to_be_bytes());
        out.extend_from_slice(&[next, self.hop_limit]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&dst.octets());
    }
}

/// What an ICMPv6 error quotes of a UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    /// Source address of the packet that ended.
    pub src: Ipv6Addr,
    /// Its destination.
    pub dst: Ipv6Addr,
    /// Its flow label.
    pub flow_label: u32,
    /// Its source port.
    pub src_port: u16,
    /// Its destination port.
    pub dst_port: u16,
    /// Its hop-by-hop header as it was by then, empty where it had none.
    pub hop_by_hop: &'a [u8],
    /// As much of its payload as is quoted.
    pub payload: &'a [u8],
}

fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The UDP packet an ICMPv6 "time exceeded in transit" is about, on its own or inside one outer header. `None` for
/// anything else.
pub fn time_exceeded(icmp: &[u8]) -> Option<Quoted<'_>> {
    let [kind, code]: [u8; 2] = array(icmp, 0)?;
    if (kind, code) != (TIME_EXCEEDED, 0) {
        return None;
    }
    quoted(icmp.get(8..)?, true)
}

fn quoted(packet: &[u8], may_be_outer: bool) -> Option<Quoted<'_>> {
    let first = u32::from_be_bytes(array(packet, 0)?);
    if first >> 28 != 6 {
        return None;
    }
    let [mut next]: [u8; 1] = array(packet, 6)?;
    let mut rest = packet.get(HEADER_LEN..)?;
    let mut hop_by_hop: &[u8] = &[];
    if next == HOP_BY_HOP {
        let [after, len]: [u8; 2] = array(rest, 0)?;
        next = after;
        (hop_by_hop, rest) = rest.split_at_checked((usize::from(len) + 1) * 8)?;
    }
    if next == IPV6 && may_be_outer {
        let inner = quoted(rest, false)?;
        // the switches on the way wrote into the outer one, where there is one
        return Some(if hop_by_hop.is_empty() { inner } else { Quoted { hop_by_hop, ..inner } });
    }
    if next != UDP {
        return None;
    }
    Some(Quoted {
        src: Ipv6Addr::from(array::<16>(packet, 8)?),
        dst: Ipv6Addr::from(array::<16>(packet, 24)?),
        flow_label: first & 0xf_ffff,
        src_port: u16::from_be_bytes(array(rest, 0)?),
        dst_port: u16::from_be_bytes(array(rest, 2)?),
        hop_by_hop,
        payload: rest.get(UDP_LEN..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd5e, 0, 0, 1, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd5e, 0, 1, 2, 0, 0, 0, 1);

    fn datagram<'a>(payload: &'a [u8]) -> Datagram<'a> {
        Datagram {
            container: None,
            src: A,
            dst: B,
            src_port: 50_000,
            dst_port: 862,
            traffic_class: 0xb8 | 2,
            flow_label: 0x12345,
            hop_limit: 64,
            hop_by_hop: &[],
            payload,
        }
    }

    #[test]
    fn an_encapsulated_packet_byte_by_byte() {
        let outer = Ipv6Addr::new(0xfcbb, 0xbb00, 5, 2, 0xe002, 0, 0, 0);
        let container = Some(outer);
        let mut b = Vec::new();
        Datagram { container, ..datagram(&[1, 2, 3]) }.write(&mut b);
        let mut want = vec![0x6b, 0xa1, 0x23, 0x45, 0, 51, 41, 64];
        want.extend(A.octets());
        want.extend(outer.octets());
        want.extend([0x6b, 0xa1, 0x23, 0x45, 0, 11, 17, 64]);
        want.extend(A.octets());
        want.extend(B.octets());
        want.extend([0xc3, 0x50, 3, 0x5e, 0, 11]);
        want.extend(udp_checksum(A, B, 50_000, 862, &[1, 2, 3]).to_be_bytes());
        want.extend([1, 2, 3]);
        assert_eq!(b, want);
        assert_eq!(b.len(), Datagram { container, ..datagram(&[1, 2, 3]) }.len());
    }

    proptest! {
        /// A receiver sums everything, checksum included, to all ones.
        #[test]
        fn the_checksum_holds(payload in proptest::collection::vec(any::<u8>(), 0..100), port: u16) {
            let c = udp_checksum(A, B, port, 862, &payload);
            prop_assert_ne!(c, 0);
            let len = (UDP_LEN + payload.len()) as u64;
            let mut s = sum(&A.octets()) + sum(&B.octets()) + 2 * len + 17 + u64::from(port) + 862;
            s += u64::from(c) + sum(&payload);
            while s >> 16 != 0 {
                s = (s & 0xffff) + (s >> 16);
            }
            prop_assert_eq!(s, 0xffff);
        }

        #[test]
        fn an_error_quotes_what_was_sent(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            traced: bool,
            inside: bool,
        ) {
            let mut header = Vec::new();
            let container = inside.then_some(B);
            if traced {
                crate::ioam::TraceOption::default().write(UDP, &mut header);
            }
            let mut b = vec![TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0];
            Datagram { container, hop_by_hop: &header, ..datagram(&payload) }.write(&mut b);
            let q = time_exceeded(&b).unwrap();
            prop_assert_eq!((q.src, q.dst, q.flow_label), (A, B, 0x12345));
            prop_assert_eq!((q.src_port, q.dst_port, q.payload), (50_000, 862, &payload[..]));
            prop_assert_eq!(q.hop_by_hop, &header[..]);

            let mut outside = vec![TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0];
            let mut header = Vec::new();
            crate::ioam::TraceOption::default().write(IPV6, &mut header);
            let d = Datagram { container: Some(A), hop_by_hop: &header, ..datagram(&payload) };
            d.write_traced_outside(&mut outside);
            prop_assert_eq!(outside.len(), 8 + d.len());
            let q = time_exceeded(&outside).unwrap();
            prop_assert_eq!((q.dst, q.payload, q.hop_by_hop), (B, &payload[..], &header[..]));
        }

        #[test]
        fn any_bytes_are_an_outcome(mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = time_exceeded(&bytes);
            bytes.splice(0..0, [TIME_EXCEEDED, 0]);
            let _ = time_exceeded(&bytes);
        }
    }
}
