//! In-band telemetry: the trace options of RFC 9197, carried in an IPv6 hop-by-hop header (RFC 9486).
//!
//! How: [`TraceOption`] writes a whole hop-by-hop header with empty room for a number of nodes; every node on the way that
//! knows the namespace fills in the next entry, from the end of the room towards its beginning. [`Trace`] is a view of
//! such a header as it arrives, pre-allocated or incremental, and yields the nodes in the order crossed with every field
//! the RFC defines: short and wide ids, times, delays, queues, buffers, and the length of an opaque snapshot.
//!
//! Invariants: any bytes give a view or a [`Refused`]; the header is a multiple of eight bytes; a field a node did not
//! know (all ones, RFC 9197 section 4.4.2) is no number.
//! Absent on purpose: the other IOAM options; what an opaque snapshot or the namespace's own fields mean, which only the
//! network that writes them knows; the flags of RFC 9322 (loopback, active), which ask something of nodes, not of readers.

use alloc::vec::Vec;

/// Hop-by-hop option type of IOAM: skip if unknown, may change on the way (RFC 9486, section 5.3).
pub const OPTION_TYPE: u8 = 0x31;
/// The same option where it may not change on the way (RFC 9486, section 5.3).
pub const OPTION_TYPE_FIXED: u8 = 0x11;
/// IOAM option type: pre-allocated trace (RFC 9197, section 7.1).
pub const PREALLOCATED_TRACE: u8 = 0;
/// IOAM option type: incremental trace (RFC 9197, section 7.1): every node makes its own room, in front.
pub const INCREMENTAL_TRACE: u8 = 1;
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
    /// Nanoseconds in the node.
    pub const TRANSIT: u32 = 0x08_0000;
    /// What the namespace likes, 32 bits.
    pub const OWN: u32 = 0x04_0000;
    /// Depth of the queue it left by.
    pub const QUEUE: u32 = 0x02_0000;
    /// Keeps a checksum of a layer above right.
    pub const CHECKSUM: u32 = 0x01_0000;
    /// Hop limit (8 bits) and node id (56 bits).
    pub const NODE_WIDE: u32 = 0x00_8000;
    /// Ingress and egress interface ids (32 bits each).
    pub const INTERFACES_WIDE: u32 = 0x00_4000;
    /// What the namespace likes, 64 bits.
    pub const OWN_WIDE: u32 = 0x00_2000;
    /// Occupancy of a buffer.
    pub const BUFFER: u32 = 0x00_1000;
    /// Bits that mean nothing yet; a node writes a word of all ones for each.
    pub const UNDEFINED: u32 = 0x00_0ffc;
    /// A snapshot of a length of its own behind each node's fields.
    pub const OPAQUE: u32 = 0x00_0002;
}

/// Words of a node's fields without its opaque snapshot.
const fn fixed_words(fields: u32) -> usize {
    let wide = field::NODE_WIDE | field::INTERFACES_WIDE | field::OWN_WIDE;
    let all = fields & 0xff_fffc;
    (all.count_ones() + (all & wide).count_ones()) as usize
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
    /// There is no trace in it.
    #[error("no trace")]
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
    /// Its id, 24 bits; 0 where it wrote none or only a wide one.
    pub node: u32,
    /// Interface it came in by; 0xffff where the node does not say.
    pub ingress: u16,
    /// Interface it went out by; 0xffff where the node does not say.
    pub egress: u16,
    /// Seconds of its time stamp; 0 where it wrote none.
    pub seconds: u32,
    /// Fraction of its time stamp: microseconds on Linux; 0 where it wrote none.
    pub fraction: u32,
    /// Nanoseconds in the node; the topmost bit set means more than can be said.
    pub transit_ns: Option<u32>,
    /// Depth of the queue it left by, in the node's own unit.
    pub queue_depth: Option<u32>,
    /// Occupancy of a buffer, in the node's own unit.
    pub buffer: Option<u32>,
    /// Its wide id, 56 bits.
    pub wide_node: Option<u64>,
    /// Wide ids of the interfaces it came in and went out by.
    pub wide_interfaces: Option<(u32, u32)>,
    /// Schema (24 bits) and words of its opaque snapshot.
    pub opaque: Option<(u32, u8)>,
}

/// A view of a trace that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// IOAM namespace.
    pub namespace: u16,
    /// Some node found no room.
    pub overflow: bool,
    fields: u32,
    /// Bytes of a node's fields without its opaque snapshot.
    node_len: usize,
    /// Nodes that filled an entry.
    count: usize,
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
    /// Finds the trace in a hop-by-hop or destination options header (next header and length included).
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
            if kind == OPTION_TYPE || kind == OPTION_TYPE_FIXED {
                match option.get(1) {
                    Some(&PREALLOCATED_TRACE) => return Self::of_option(option, true),
                    Some(&INCREMENTAL_TRACE) => return Self::of_option(option, false),
                    _ => {}
                }
            }
            rest = after.get(usize::from(len)..).ok_or(cut)?;
        }
        Err(Refused::NoTrace)
    }

    /// A trace from its option's bytes: reserved, IOAM option type, then the trace. Other carriers than IPv6 (NSH,
    /// Geneve) hand over the same bytes.
    pub fn of_option(option: &'a [u8], preallocated: bool) -> Result<Self, Refused> {
        let room = option.get(BEFORE - 6 + TRACE_HEADER..).ok_or(Refused::Truncated { got: option.len() })?;
        let lengths = be16(option, 4);
        let (node_words, left_words) = (usize::from(lengths >> 11), usize::from(lengths & 0x7f));
        let fields = be32(option, 6) >> 8;
        let bad = Refused::Lengths { node_words, left_words, room: room.len() };
        // What is left of an incremental trace is not in the packet yet.
        let filled = if preallocated { room.get(left_words * 4..).ok_or(bad)? } else { room };
        let opaque = fields & field::OPAQUE != 0;
        if node_words < fixed_words(fields) || (node_words == 0 && !opaque) {
            return Err(bad);
        }
        let mut trace = Trace {
            namespace: be16(option, 2),
            overflow: lengths & 0x400 != 0,
            fields,
            node_len: node_words * 4,
            count: 0,
            filled,
        };
        let mut at = 0;
        while at < filled.len() {
            at = trace.after(at).ok_or(bad)?;
            trace.count += 1;
        }
        Ok(trace)
    }

    /// Where the entry behind the one at a place begins; `None` if the one here is cut off.
    fn after(&self, at: usize) -> Option<usize> {
        let mut end = at + self.node_len;
        if self.fields & field::OPAQUE != 0 {
            let words = usize::from(*self.filled.get(end)?);
            end += 4 + words * 4;
        }
        (end <= self.filled.len()).then_some(end)
    }

    /// The entry a place after the last node's.
    fn entry(&self, n: usize) -> &'a [u8] {
        let mut at = n * self.node_len;
        if self.fields & field::OPAQUE != 0 {
            // At most 63 entries of which each is at least a word.
            at = (0..n).fold(0, |at, _| self.after(at).unwrap_or(self.filled.len()));
        }
        self.filled.get(at..).unwrap_or(&[])
    }

    /// What the nodes wrote, in the order crossed.
    pub fn nodes(&self) -> impl Iterator<Item = NodeData> + '_ {
        (0..self.count).rev().map(|n| self.node(self.entry(n)))
    }

    fn node(&self, entry: &[u8]) -> NodeData {
        let mut at = 0;
        let mut word = |bit: u32| {
            let there = self.fields & bit != 0;
            let value = if there { be32(entry, at) } else { 0 };
            at += if there { 4 } else { 0 };
            there.then_some(value)
        };
        let told = |value: Option<u32>| value.filter(|v| *v != u32::MAX);
        let node = word(field::NODE);
        let interfaces = word(field::INTERFACES).unwrap_or(u32::MAX);
        let seconds = told(word(field::SECONDS)).unwrap_or(0);
        let fraction = told(word(field::FRACTION)).unwrap_or(0);
        let transit_ns = told(word(field::TRANSIT));
        word(field::OWN);
        let queue_depth = told(word(field::QUEUE));
        word(field::CHECKSUM);
        // Two words of the same bit follow each other.
        let wide = |at: usize| u64::from(be32(entry, at)) << 32 | u64::from(be32(entry, at + 4));
        let narrow = fixed_words(self.fields & 0xff_0000) * 4;
        let has = |bit: u32| self.fields & bit != 0;
        let wide_id = has(field::NODE_WIDE).then(|| wide(narrow));
        let interfaces_at = narrow + fixed_words(self.fields & field::NODE_WIDE) * 4;
        let wide_interfaces = has(field::INTERFACES_WIDE).then(|| wide(interfaces_at));
        let buffer_at = fixed_words(self.fields & 0xff_e000) * 4;
        let buffer = told(has(field::BUFFER).then(|| be32(entry, buffer_at)));
        let snapshot = has(field::OPAQUE).then(|| be32(entry, self.node_len));
        let hop_limit = node.map(|n| n >> 24).or(wide_id.map(|w| (w >> 56) as u32));
        NodeData {
            hop_limit: hop_limit.unwrap_or(0) as u8,
            node: node.unwrap_or(0) & 0xff_ffff,
            ingress: (interfaces >> 16) as u16,
            egress: interfaces as u16,
            seconds,
            fraction,
            transit_ns,
            queue_depth,
            buffer,
            wide_node: wide_id.map(|w| w & 0xff_ffff_ffff_ffff).filter(|w| *w != 0xff_ffff_ffff_ffff),
            wide_interfaces: wide_interfaces.filter(|w| *w != u64::MAX).map(|w| ((w >> 32) as u32, w as u32)),
            opaque: snapshot.map(|s| (s & 0xff_ffff, (s >> 24) as u8)),
        }
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

    /// A hop-by-hop header with one trace option in it.
    fn header(kind: u8, node_words: u16, left: u16, fields: u32, room: &[u8]) -> Vec<u8> {
        let option = 10 + room.len();
        let len = (4 + 2 + option).next_multiple_of(8);
        let mut h = alloc::vec![17, (len / 8 - 1) as u8, 1, 0, OPTION_TYPE, option as u8, 0, kind, 0, 123];
        h.extend_from_slice(&(node_words << 11 | left).to_be_bytes());
        h.extend_from_slice(&(fields << 8).to_be_bytes());
        h.extend_from_slice(room);
        if h.len() < len {
            h.extend_from_slice(&[1, 2, 0, 0]);
        }
        h
    }

    #[test]
    fn every_field_of_rfc_9197_is_read_at_its_place() {
        let fields = 0xff_f000 | 0x00_0800;
        assert_eq!(fixed_words(fields), 16);
        let mut room = Vec::new();
        for word in [
            0x3f00_0005u32,
            0x0001_0002,
            100,
            200,
            300,
            0xdead_beef,
            7,
            0x1234_0000,
            0x3e00_0000,
            9,
            0x0001_0003,
            0x0001_0004,
            1,
            2,
            55,
            u32::MAX,
        ] {
            room.extend_from_slice(&word.to_be_bytes());
        }
        for (kind, left) in [(PREALLOCATED_TRACE, 0), (INCREMENTAL_TRACE, 9)] {
            let h = header(kind, 16, left, fields, &room);
            let trace = Trace::new_checked(&h).unwrap();
            let want = NodeData {
                hop_limit: 63,
                node: 5,
                ingress: 1,
                egress: 2,
                seconds: 100,
                fraction: 200,
                transit_ns: Some(300),
                queue_depth: Some(7),
                buffer: Some(55),
                wide_node: Some(9),
                wide_interfaces: Some((0x1_0003, 0x1_0004)),
                opaque: None,
            };
            assert_eq!(trace.nodes().collect::<Vec<_>>(), [want]);
        }
    }

    #[test]
    fn opaque_snapshots_have_lengths_of_their_own() {
        // Last node first: id 9 with a snapshot of two words, id 5 with an empty one.
        let room = [62, 0, 0, 9, 2, 0, 0, 4, 1, 1, 1, 1, 2, 2, 2, 2, 63, 0, 0, 5, 0, 0, 0, 3];
        let h = header(PREALLOCATED_TRACE, 1, 0, field::NODE | field::OPAQUE, &room);
        let nodes: Vec<_> = Trace::new_checked(&h).unwrap().nodes().map(|n| (n.node, n.opaque)).collect();
        assert_eq!(nodes, [(5, Some((3, 0))), (9, Some((4, 2)))]);
        // A snapshot that says it is longer than the room.
        let mut cut = h.clone();
        cut[16 + 4] = 6;
        assert!(matches!(Trace::new_checked(&cut), Err(Refused::Lengths { .. })));
        // Nothing but snapshots.
        let h = header(PREALLOCATED_TRACE, 0, 0, field::OPAQUE, &[0, 0, 0, 1, 1, 0, 0, 2, 9, 9, 9, 9]);
        let nodes: Vec<_> = Trace::new_checked(&h).unwrap().nodes().map(|n| n.opaque).collect();
        assert_eq!(nodes, [Some((2, 1)), Some((1, 0))]);
    }

    #[test]
    fn what_a_node_did_not_know_is_not_a_number() {
        let h = header(INCREMENTAL_TRACE, 3, 0, field::SECONDS | field::TRANSIT | field::QUEUE, &[0xff; 12]);
        let nothing = NodeData { ingress: 0xffff, egress: 0xffff, ..NodeData::default() };
        assert_eq!(Trace::new_checked(&h).unwrap().nodes().collect::<Vec<_>>(), [nothing]);
    }

    #[test]
    fn other_ioam_options_are_passed_over() {
        // End to end (3) and direct export (4, RFC 9326) hold no nodes.
        for kind in [2, 3, 4] {
            let h = header(kind, 1, 0, field::NODE, &[0; 8]);
            assert_eq!(Trace::new_checked(&h).err(), Some(Refused::NoTrace));
        }
    }

    proptest! {
        #[test]
        fn any_trace_is_an_outcome(kind in 0u8..2, words in 0u16..32, left in 0u16..0x400, fields in 0u32..0x100_0000,
                                   room in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut room = room;
            room.truncate(room.len() / 4 * 4);
            let h = header(kind, words, left, fields, &room);
            if let Ok(t) = Trace::new_checked(&h) {
                prop_assert!(t.nodes().count() <= 60);
            }
        }
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
