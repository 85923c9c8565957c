//! Where a packet's headers end, so that nothing behind them is kept, and where its addresses are.
//!
//! Invariants: any bytes give a length within them; what is not understood is payload; tunnels are followed to a fixed depth.
//! Absent on purpose: what ICMP errors quote, and headers inside UDP (VXLAN): both are payload.

/// Kinds of links packets are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A MAC header, as on Ethernet and the loopback interface.
    Ethernet,
    /// The IP header comes first.
    Raw,
}

/// Tunnels in tunnels that are followed.
const DEPTH_MAX: usize = 4;
/// Extension headers of one IPv6 header that are followed.
const EXTENSIONS_MAX: usize = 8;

/// What is where in a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Where the last header understood ends, at most the packet's length.
    pub end: usize,
    /// Addresses: where, and 4 or 16 bytes.
    pub addresses: Vec<(usize, usize)>,
    /// Checksums that cover addresses, 2 bytes each.
    pub checksums: Vec<usize>,
}

fn be16(p: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(p.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Finds the headers of a packet.
pub fn layers(packet: &[u8], link: Link) -> Layers {
    let mut out = Layers::default();
    // a header that is cut off ends the walk; what there is of it is kept
    let _ = walk(packet, link, &mut out);
    out.end = out.end.min(packet.len());
    out
}

fn walk(p: &[u8], link: Link, out: &mut Layers) -> Option<()> {
    let mut at = 0;
    let mut kind = match link {
        Link::Ethernet => {
            out.end = 14;
            at = 14;
            be16(p, 12)?
        }
        Link::Raw => match p.first()? >> 4 {
            4 => 0x0800,
            6 => 0x86dd,
            _ => return None,
        },
    };
    for _ in 0..2 {
        if matches!(kind, 0x8100 | 0x88a8) {
            kind = be16(p, at + 2)?;
            at += 4;
            out.end = at;
        }
    }
    if kind == 0x0806 {
        // ARP for IPv4 over Ethernet: 28 bytes
        out.end = at + 28;
        out.addresses.extend([(at + 14, 4), (at + 24, 4)]);
        return None;
    }
    for _ in 0..DEPTH_MAX {
        let (protocol, behind) = match kind {
            0x0800 => v4(p, at, out)?,
            0x86dd => v6(p, at, out)?,
            _ => return None,
        };
        at = behind;
        kind = match protocol {
            4 => 0x0800,
            41 => 0x86dd,
            _ => return transport(p, at, protocol, out),
        };
    }
    None
}

/// Protocol, and where what it carries begins.
fn v4(p: &[u8], at: usize, out: &mut Layers) -> Option<(u8, usize)> {
    out.end = at + 20;
    let first = *p.get(at)?;
    let length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < 20 {
        out.end = at;
        return None;
    }
    out.end = at + length;
    out.addresses.extend([(at + 12, 4), (at + 16, 4)]);
    out.checksums.push(at + 10);
    let later_fragment = be16(p, at + 6)? & 0x1fff != 0;
    if later_fragment { None } else { Some((*p.get(at + 9)?, at + length)) }
}

fn v6(p: &[u8], at: usize, out: &mut Layers) -> Option<(u8, usize)> {
    if *p.get(at)? >> 4 != 6 {
        return None;
    }
    out.end = at + 40;
    out.addresses.extend([(at + 8, 16), (at + 24, 16)]);
    let mut next = *p.get(at + 6)?;
    let mut behind = at + 40;
    for _ in 0..EXTENSIONS_MAX {
        let length = match next {
            // hop-by-hop, routing, destination options
            0 | 43 | 60 => (usize::from(*p.get(behind + 1)?) + 1) * 8,
            44 => 8,
            _ => return Some((next, behind)),
        };
        if next == 44 && be16(p, behind + 2)? & 0xfff8 != 0 {
            out.end = behind + 8;
            return None;
        }
        if next == 43 {
            // a segment list is made of addresses: it counts as payload
            return None;
        }
        next = *p.get(behind)?;
        behind += length;
        out.end = behind;
    }
    None
}

fn transport(p: &[u8], at: usize, protocol: u8, out: &mut Layers) -> Option<()> {
    let (length, checksum) = match protocol {
        6 => (usize::from(p.get(at + 12)? >> 4).max(5) * 4, Some(16)),
        17 => (8, Some(6)),
        1 | 58 => (8, Some(2)),
        132 => (12, None),
        _ => return None,
    };
    out.end = at + length;
    out.checksums.extend(checksum.map(|c| at + c));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
        [&[2; 12][..], &kind.to_be_bytes(), rest].concat()
    }
    fn v6_packet(next: u8, rest: &[u8]) -> Vec<u8> {
        [&[0x60, 0, 0, 0, 0, 0, next, 64][..], &[1; 32], rest].concat()
    }

    #[test]
    fn headers_end_where_the_payload_begins() {
        let mut tcp = vec![0; 20];
        tcp[12] = 8 << 4;
        tcp.extend([1; 12]);
        tcp.extend(b"secret");
        let udp = [&[0; 8][..], b"secret"].concat();
        let v4 = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0][..], &[1; 8], &tcp].concat();
        let tagged = [&[0, 5, 0x08, 0][..], &v4].concat();
        let hop = [&[17, 0, 0, 0, 0, 0, 0, 0][..], &udp].concat();
        let inner = v6_packet(0, &hop);
        let cases = [
            ("tcp with options", ethernet(0x0800, &v4), 14 + 20 + 32),
            ("vlan", ethernet(0x8100, &tagged), 18 + 20 + 32),
            ("udp over v6", ethernet(0x86dd, &v6_packet(17, &udp)), 14 + 48),
            ("v6 in v6, traced", ethernet(0x86dd, &v6_packet(41, &inner)), 14 + 40 + 40 + 8 + 8),
            ("unknown protocol", ethernet(0x86dd, &v6_packet(99, b"secret")), 54),
            ("unknown link", ethernet(0x1234, b"secret"), 14),
            (
                "later fragment",
                ethernet(0x86dd, &v6_packet(44, &[&[17, 0, 1, 0, 0, 0, 0, 0][..], &udp].concat())),
                62,
            ),
            ("icmp", ethernet(0x86dd, &v6_packet(58, &[&[1; 8][..], b"quoted"].concat())), 62),
        ];
        for (what, packet, end) in cases {
            assert_eq!(layers(&packet, Link::Ethernet).end, end, "{what}");
            let cut = packet.len().min(30);
            assert_eq!(layers(&packet[..cut], Link::Ethernet).end, end.min(cut), "{what}, cut");
        }
        let l = layers(&v6_packet(17, &udp), Link::Raw);
        assert_eq!((l.end, l.addresses, l.checksums), (48, vec![(8, 16), (24, 16)], vec![46]));
        assert_eq!(layers(b"\x00", Link::Raw).end, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u16..4) {
            let l = layers(&bytes, Link::Raw);
            prop_assert!(l.end <= bytes.len());
            let framed = ethernet([0x0800, 0x86dd, 0x8100, 0x0806][usize::from(kind)], &bytes);
            prop_assert!(layers(&framed, Link::Ethernet).end <= framed.len());
        }
    }
}
