//! In-band telemetry: the pre-allocated trace option of RFC 9197, carried in an IPv6 hop-by-hop header (RFC 9486).
//!
//! How: [`TraceOption`] writes a whole hop-by-hop header with empty room for a number of nodes; every node on the way that
//! knows the namespace fills in the next entry, from the end of the room towards its beginning. [`Trace`] is a view of
//! such a header as it arrives, and yields the nodes in the order crossed.
//!
//! Invariants: any bytes give a view or a [`Refused`]; the header is a multiple of eight bytes.
//! Absent on purpose: the other IOAM options, and trace fields beyond the first four: extra words of a node are skipped.

use alloc::vec::Vec;

/// Hop-by-hop option type of IOAM: skip if unknown, may change on the way (RFC 9486, section 5.3).
pub const OPTION_TYPE: u8 = 0x31;
/// IOAM option type: pre-allocated trace (RFC 9197, section 7.1).
pub const PREALLOCATED_TRACE: u8 = 0;
/// Our IOAM namespace everywhere.
pub const NAMESPACE: u16 = 123;

/// What every node writes, as bits of the trace type (RFC 9197, section 4.4.1).
pub mod field {
    /// Hop limit (8 bits) and node id (24 bits).
    pub const NODE: u32 = 0x80_0000;
    /// Ingress and egress interface ids (16 bits each).
    pub const INTERFACES: u32 = 0x40_0000;
    /// Seconds of the node's time stamp.
    pub const SECONDS: u32 = 0x20_0000;
    /// Its fraction.
    pub const FRACTION: u32 = 0x10_0000;
}

/// Bytes of the hop-by-hop header before the option's namespace id: header 2, padding 2, option 2, reserved and type 2.
const BEFORE: usize = 8;
/// Bytes from the namespace id to the room: namespace 2, lengths and flags 2, trace type and reserved 4.
const TRACE_HEADER: usize = 8;

/// Why bytes are no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The hop-by-hop header or an option in it is cut off.
    #[error("a hop-by-hop header cut off at {got} bytes")]
    Truncated {
        /// Bytes there are.
        got: usize,
    },
    /// There is no pre-allocated trace in it.
    #[error("no pre-allocated trace")]
    NoTrace,
    /// The lengths in the trace contradict each other.
    #[error("nodes of {node_words} words and {left_words} words left, in {room} bytes of room")]
    Lengths {
        /// Words of a node.
        node_words: usize,
        /// Words not filled.
        left_words: usize,
        /// Bytes of room.
        room: usize,
    },
}

/// A trace to be filled on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceOption {
    /// IOAM namespace.
    pub namespace: u16,
    /// Nodes there is room for.
    pub nodes: u8,
    /// Bits of [`field`].
    pub fields: u32,
}

impl Default for TraceOption {
    /// Room for a path through three switches and the host behind them, with interfaces, without times.
    fn default() -> Self {
        TraceOption { namespace: NAMESPACE, nodes: 4, fields: field::NODE | field::INTERFACES }
    }
}

impl TraceOption {
    /// Words a node writes.
    fn node_words(&self) -> usize {
        (self.fields & 0xf0_0000).count_ones() as usize
    }

    /// Appends a hop-by-hop header; `next_header` is what follows it (17: UDP). As the option of a socket it is 0.
    /// Nodes beyond what an option of 255 bytes holds are left out.
    pub fn write(&self, next_header: u8, out: &mut Vec<u8>) {
        let words = self.node_words();
        let most = (0xff - 2 - TRACE_HEADER) / (4 * words.max(1));
        let room_words = words * usize::from(self.nodes).min(most);
        let option = 2 + TRACE_HEADER + 4 * room_words;
        let start = out.len();
        let len = (4 + 2 + option).next_multiple_of(8);
        // PadN of two bytes puts the option on a multiple of four (RFC 9486, section 5.3)
        out.extend_from_slice(&[next_header, (len / 8 - 1) as u8, 1, 0, OPTION_TYPE, option as u8]);
        out.extend_from_slice(&[0, PREALLOCATED_TRACE]);
        out.extend_from_slice(&self.namespace.to_be_bytes());
        // node length 5 bits, flags 4, words left 7
        out.extend_from_slice(&((words as u16) << 11 | room_words as u16).to_be_bytes());
        out.extend_from_slice(&((self.fields & 0xff_ffff) << 8).to_be_bytes());
        out.resize(out.len() + 4 * room_words, 0);
        if out.len() - start < len {
            out.extend_from_slice(&[1, 2, 0, 0]);
        }
    }
}

/// What a node wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeData {
    /// Hop limit as it left the node.
    pub hop_limit: u8,
    /// Its id, 24 bits.
    pub node: u32,
    /// Interface it came in by; 0xffff where the node does not say.
    pub ingress: u16,
    /// Interface it went out by; 0xffff where the node does not say.
    pub egress: u16,
    /// Seconds of its time stamp.
    pub seconds: u32,
    /// Fraction of its time stamp: microseconds on Linux.
    pub fraction: u32,
}

/// A view of a trace that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// IOAM namespace.
    pub namespace: u16,
    /// Some node found no room.
    pub overflow: bool,
    fields: u32,
    node_len: usize,
    /// The entries filled, last node first.
    filled: &'a [u8],
}

fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).and_then(|s| s.try_into().ok()).map_or(0, u16::from_be_bytes)
}
fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_be_bytes)
}

impl<'a> Trace<'a> {
    /// Finds the trace in a hop-by-hop header (next header and length included).
    pub fn new_checked(header: &'a [u8]) -> Result<Self, Refused> {
        let cut = Refused::Truncated { got: header.len() };
        let len = header.get(1).map(|l| (usize::from(*l) + 1) * 8).ok_or(cut)?;
        let mut rest = header.get(2..len).ok_or(cut)?;
        while let Some((&kind, after)) = rest.split_first() {
            // Pad1 has no length (RFC 8200, section 4.2)
            if kind == 0 {
                rest = after;
                continue;
            }
            let (&len, after) = after.split_first().ok_or(cut)?;
            let option = after.get(..usize::from(len)).ok_or(cut)?;
            if kind == OPTION_TYPE && option.get(1) == Some(&PREALLOCATED_TRACE) {
                return Self::of_option(option);
            }
            rest = after.get(usize::from(len)..).ok_or(cut)?;
        }
        Err(Refused::NoTrace)
    }

    fn of_option(option: &'a [u8]) -> Result<Self, Refused> {
        let room = option.get(BEFORE - 6 + TRACE_HEADER..).ok_or(Refused::Truncated { got: option.len() })?;
        let lengths = be16(option, 4);
        let (node_words, left_words) = (usize::from(lengths >> 11), usize::from(lengths & 0x7f));
        let fields = be32(option, 6) >> 8;
        let bad = Refused::Lengths { node_words, left_words, room: room.len() };
        let known = (fields & 0xf0_0000).count_ones() as usize;
        let filled = room.get(left_words * 4..).ok_or(bad)?;
        if node_words < known.max(1) || filled.len() % (node_words * 4) != 0 {
            return Err(bad);
        }
        Ok(Trace {
            namespace: be16(option, 2),
            overflow: lengths & 0x400 != 0,
            fields,
            node_len: node_words * 4,
            filled,
        })
    }

    /// What the nodes wrote, in the order crossed.
    pub fn nodes(&self) -> impl Iterator<Item = NodeData> + '_ {
        self.filled.chunks_exact(self.node_len).rev().map(|entry| {
            let mut at = 0;
            let mut word = |bit: u32| {
                let there = self.fields & bit != 0;
                let value = if there { be32(entry, at) } else { 0 };
                at += if there { 4 } else { 0 };
                there.then_some(value)
            };
            let node = word(field::NODE).unwrap_or(0);
            let interfaces = word(field::INTERFACES).unwrap_or(u32::MAX);
            NodeData {
                hop_limit: (node >> 24) as u8,
                node: node & 0xff_ffff,
                ingress: (interfaces >> 16) as u16,
                egress: interfaces as u16,
                seconds: word(field::SECONDS).unwrap_or(0),
                fraction: word(field::FRACTION).unwrap_or(0),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a node does: writes at the end of what is left.
    fn fill(header: &mut [u8], node: &[u8]) {
        let words = node.len() / 4;
        let lengths = be16(header, 10);
        let left = usize::from(lengths & 0x7f) - words;
        header[10..12].copy_from_slice(&(lengths & !0x7f | left as u16).to_be_bytes());
        header[16 + left * 4..16 + left * 4 + node.len()].copy_from_slice(node);
    }

    #[test]
    fn an_empty_header_byte_by_byte() {
        let mut h = Vec::new();
        TraceOption { nodes: 1, ..Default::default() }.write(17, &mut h);
        let want = [17, 2, 1, 0, 0x31, 18, 0, 0, 0, 123, 0x10, 2, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(h, want);
    }

    #[test]
    fn nodes_come_in_the_order_crossed() {
        let mut h = Vec::new();
        TraceOption::default().write(0, &mut h);
        assert_eq!(h.len(), 48);
        assert_eq!(Trace::new_checked(&h).unwrap().nodes().count(), 0);
        fill(&mut h, &[63, 0, 0, 5, 0, 1, 0, 2]);
        fill(&mut h, &[62, 0, 0, 9, 0, 3, 0xff, 0xff]);
        let trace = Trace::new_checked(&h).unwrap();
        assert_eq!((trace.namespace, trace.overflow), (123, false));
        let nodes: Vec<NodeData> = trace.nodes().collect();
        assert_eq!(
            nodes,
            [
                NodeData { hop_limit: 63, node: 5, ingress: 1, egress: 2, ..Default::default() },
                NodeData { hop_limit: 62, node: 9, ingress: 3, egress: 0xffff, ..Default::default() },
            ]
        );
    }

    #[test]
    fn refusals() {
        assert_eq!(Trace::new_checked(&[]).err(), Some(Refused::Truncated { got: 0 }));
        assert_eq!(Trace::new_checked(&[0, 0, 1, 4, 0, 0, 0, 0]).err(), Some(Refused::NoTrace));
        assert_eq!(Trace::new_checked(&[0, 0, 5, 9, 0, 0, 0, 0]).err(), Some(Refused::Truncated { got: 8 }));
        let mut h = Vec::new();
        TraceOption::default().write(0, &mut h);
        h[11] = 0x7f;
        let bad = Refused::Lengths { node_words: 2, left_words: 0x7f, room: 32 };
        assert_eq!(Trace::new_checked(&h).err(), Some(bad));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(t) = Trace::new_checked(&bytes) {
                let _ = t.nodes().count();
            }
        }
        #[test]
        fn any_header_is_whole(nodes: u8, fields in 0u32..0x100_0000) {
            let mut h = Vec::new();
            TraceOption { namespace: 1, nodes, fields }.write(17, &mut h);
            prop_assert_eq!(h.len() % 8, 0);
            prop_assert_eq!(h.len(), (usize::from(h[1]) + 1) * 8);
        }
    }
}
