//! Packets as bytes: `docs/transport-wire.md` is the same in prose.
//!
//! How: a common header of [`HEADER_BYTES`] (version and type, flags, connection, number), then what the type needs,
//! then for a [`Data`] its payload, then the tag. Everything before the payload is in the clear and authenticated, so
//! that a switch or a capture can read it and a header survives trimming. Numbers are in network byte order.
//!
//! Choices. The EV's sequence number is written whole: 16 bits could be widened only by whoever keeps the last one of
//! every EV, and two bytes in 1,448 do not pay for that. What rarely is long (message length, tag, region, offset) takes
//! the shortest of four widths, named in one byte, so one message's chunks all have headers of one length and a burst
//! of them is segments of one length. The payload's length is not written: chunk length, message length and index give
//! it, also where a switch cut the payload off. The receiver's floor is the distance from the number.
//!
//! Invariants: any bytes give a packet or a [`Reject`], never a panic; each packet has one encoding (a longer one than
//! needed is refused), so what is read writes back to the same bytes.
//! Absent on purpose: keys ([`super::protection`]) and handshake ([`super::hello`]).

use super::cursor::{Cursor, least, put};
use super::{
    Ack, BITMAP_WORDS, Close, CloseReason, ConnectionId, Credit, CreditRequest, Data, DataFlags, Ev,
    EvFeedback, FEEDBACK_MAX, MessageId, Nack, NackReason, PACKET_NUMBER_END, Packet, Probe, RegionId,
    Target,
};
use alloc::vec::Vec;

/// Version of the format, `0 ..= 15`.
pub const VERSION: u8 = 1;
/// Bytes every protected packet begins with.
pub const HEADER_BYTES: usize = 12;
/// Longest header of a [`Data`], bytes.
pub const DATA_HEADER_MAX: usize = 67;
/// Longest header of a chunk of a message below 4 GiB whose sender has at most 65,535 packets on the way, bytes: what
/// is to be left for it when the chunk length is chosen.
pub const DATA_HEADER_USUAL_MAX: usize = 59;
/// Longest packet without payload (an [`Ack`] with everything in it), bytes, without its tag.
pub const CONTROL_MAX: usize = 33 + 8 * BITMAP_WORDS + 31 * FEEDBACK_MAX;
/// The flag that tells which of two keys protects a packet (RFC 9001, section 6).
pub const PHASE: u8 = 0x80;

const WIDE_FLOOR: u8 = 0x40;
const WRITE: u8 = 0x10;
const DATA_FLAGS: u8 = DataFlags::AGAIN | DataFlags::ACK_NOW | DataFlags::BLIND | DataFlags::MAY_WAIT;
const GRANTS: u8 = 0x01;
const WORDS_SHIFT: u8 = 1;
const WORDS: u8 = 0x0e;
const AHEAD: u8 = 0x10;

/// Widths of the message length, by code.
const LENGTH_WIDTHS: [usize; 4] = [1, 2, 4, 8];
/// Widths of a tag and of an offset in a region, by code.
const TARGET_WIDTHS: [usize; 4] = [0, 2, 4, 8];
/// Widths of a region's id and of immediate data, by code.
const SMALL_WIDTHS: [usize; 4] = [0, 1, 2, 4];

const HAS_MARKED: u8 = 1;
const HAS_TRIMMED: u8 = 2;
const HAS_DELAY_MAX: u8 = 4;

/// What a datagram is: the low four bits of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A chunk of a message.
    Data = 0,
    /// What arrived.
    Ack = 1,
    /// One packet to send again.
    Nack = 2,
    /// Leave to send.
    Credit = 3,
    /// Wish to send.
    CreditRequest = 4,
    /// A question to a path.
    Probe = 5,
    /// Its answer.
    ProbeAnswer = 6,
    /// The end.
    Close = 7,
    /// A piece of the handshake ([`super::hello`]).
    Hello = 8,
    /// "Prove that you receive at your address" ([`super::hello`]).
    Retry = 9,
    /// "I know no such connection" ([`super::hello`]).
    Stranger = 10,
}

impl Kind {
    /// The type a datagram claims, if it is of this version.
    pub fn of(datagram: &[u8]) -> Result<Kind, Reject> {
        let &first = datagram.first().ok_or(Reject::TooShort { got: 0, least: 1 })?;
        if first >> 4 != VERSION {
            return Err(Reject::Version { got: first >> 4 });
        }
        Ok(match first & 0x0f {
            0 => Kind::Data,
            1 => Kind::Ack,
            2 => Kind::Nack,
            3 => Kind::Credit,
            4 => Kind::CreditRequest,
            5 => Kind::Probe,
            6 => Kind::ProbeAnswer,
            7 => Kind::Close,
            8 => Kind::Hello,
            9 => Kind::Retry,
            10 => Kind::Stranger,
            got => return Err(Reject::Kind { got }),
        })
    }
    /// First byte of a datagram of this type.
    pub const fn first_byte(self) -> u8 {
        VERSION << 4 | self as u8
    }
    /// Which packet numbers it draws from.
    pub const fn space(self) -> Space {
        match self {
            Kind::Data | Kind::Probe => Space::Sequenced,
            _ => Space::Control,
        }
    }
}

/// Packets draw their numbers from two spaces, so that news does not leave gaps in what it reports on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Chunks and probes: the state machine's numbers, acknowledged.
    Sequenced = 0,
    /// All others: numbered when they are sealed, never acknowledged.
    Control = 1,
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Fewer bytes than its type needs.
    #[error("{got} bytes, too few: at least {least}")]
    TooShort {
        /// Bytes there are.
        got: usize,
        /// Bytes needed, as far as is known.
        least: usize,
    },
    /// Another version of the format.
    #[error("version {got}, expected {VERSION}")]
    Version {
        /// What it says.
        got: u8,
    },
    /// No such type, or one that does not belong here.
    #[error("type {got} is not expected here")]
    Kind {
        /// What it says.
        got: u8,
    },
    /// A flag or code that must not be set.
    #[error("flags {got:#04x} of type {kind:?} are not all known")]
    Flags {
        /// Of which type.
        kind: Kind,
        /// What it says.
        got: u8,
    },
    /// A number written longer than it had to be.
    #[error("a number is not written in the shortest way")]
    NotShortest,
    /// A floor above the packet number.
    #[error("a floor {distance} below packet number {number}")]
    Floor {
        /// The packet's number.
        number: u64,
        /// What it says.
        distance: u64,
    },
    /// The payload is not as long as chunk, message and index say.
    #[error("{got} bytes of payload, expected {want}")]
    Payload {
        /// Bytes there are.
        got: usize,
        /// Bytes there should be.
        want: usize,
    },
    /// A chunk length of zero, an empty message, or a chunk beyond its message's end.
    #[error("chunk {index} of {chunk_bytes} bytes in a message of {message_bytes}")]
    Chunk {
        /// Which chunk.
        index: u64,
        /// Length of chunks.
        chunk_bytes: u16,
        /// Length of the message.
        message_bytes: u64,
    },
    /// More of something than there can be, or a reason nobody knows.
    #[error("{got} is out of range: at most {most}")]
    Range {
        /// What it says.
        got: u64,
        /// What is allowed.
        most: u64,
    },
}

/// Why a packet cannot be written: it contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unencodable {
    /// The number does not fit 48 bits.
    #[error("packet number {number} does not fit 48 bits")]
    Number {
        /// The number.
        number: u64,
    },
    /// The floor is above the number.
    #[error("floor {floor} is above packet number {number}")]
    Floor {
        /// The floor.
        floor: u64,
        /// The number.
        number: u64,
    },
    /// Offset, lengths and payload do not fit each other.
    #[error("no chunk of {bytes} bytes at {offset}: chunks of {chunk_bytes} in a message of {message_bytes}")]
    Chunk {
        /// Length of the payload.
        bytes: usize,
        /// Offset in the message.
        offset: u64,
        /// Length of chunks.
        chunk_bytes: u16,
        /// Length of the message.
        message_bytes: u64,
    },
}

/// A packet read from bytes, not yet known to be authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What it says.
    pub packet: Packet,
    /// Packet number within its [`Space`].
    pub number: u64,
    /// Its space.
    pub space: Space,
    /// Key phase.
    pub phase: bool,
    /// Length of everything before the payload, bytes.
    pub header_bytes: usize,
}

/// Bytes of a chunk's index: as few as its message's chunks can do with, so that they all have the same.
fn index_width(message_bytes: u64, chunk_bytes: u16) -> usize {
    match message_bytes.div_ceil(u64::from(chunk_bytes.max(1))) {
        0..=1 => 0,
        2..=0x1_0000 => 2,
        _ => 4,
    }
}

fn header(out: &mut Vec<u8>, kind: Kind, flags: u8, connection: ConnectionId, number: u64) {
    out.extend_from_slice(&[kind.first_byte(), flags]);
    put(out, 4, u64::from(connection.0));
    put(out, 6, number);
}

/// What a [`Data`] and a [`Probe`] have in common.
fn sequenced(out: &mut Vec<u8>, ev: Ev, ev_seq: u32, sent_ns: u32, demand: u32, distance: u64) {
    put(out, 2, u64::from(ev.0));
    put(out, 4, u64::from(ev_seq));
    put(out, 4, u64::from(sent_ns));
    put(out, 4, u64::from(demand));
    put(out, if distance > 0xffff { 6 } else { 2 }, distance);
}

fn distance(number: u64, floor: u64) -> Result<u64, Unencodable> {
    if number >= PACKET_NUMBER_END {
        return Err(Unencodable::Number { number });
    }
    number.checked_sub(floor).ok_or(Unencodable::Floor { floor, number })
}

/// The length of the chunk with this index, if there is one.
fn chunk_len(index: u64, chunk_bytes: u16, message_bytes: u64) -> Option<u16> {
    let chunk = u64::from(chunk_bytes);
    let left = message_bytes.checked_sub(index.checked_mul(chunk)?)?;
    u16::try_from(left.min(chunk)).ok().filter(|n| *n > 0)
}

/// Appends everything before the payload. `control` is the number of a packet of [`Space::Control`]; others have their
/// own. On an error nothing is appended.
pub fn encode(packet: &Packet, control: u64, phase: bool, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let phase = if phase { PHASE } else { 0 };
    if control >= PACKET_NUMBER_END {
        return Err(Unencodable::Number { number: control });
    }
    match packet {
        Packet::Data(d) => encode_data(d, phase, out)?,
        Packet::Ack(a) => encode_ack(a, Kind::Ack, control, phase, out)?,
        Packet::ProbeAnswer(a) => encode_ack(a, Kind::ProbeAnswer, control, phase, out)?,
        Packet::Nack(n) => {
            if n.number >= PACKET_NUMBER_END {
                return Err(Unencodable::Number { number: n.number });
            }
            header(out, Kind::Nack, phase | if n.grants { GRANTS } else { 0 }, n.connection, control);
            put(out, 6, n.number);
            put(out, 2, u64::from(n.ev.0));
            put(out, 1, n.reason as u64);
            put(out, if n.grants { 4 } else { 0 }, u64::from(n.granted));
        }
        Packet::Credit(c) => {
            header(out, Kind::Credit, phase, c.connection, control);
            put(out, 4, u64::from(c.granted));
        }
        Packet::CreditRequest(r) => {
            header(out, Kind::CreditRequest, phase, r.connection, control);
            put(out, 4, u64::from(r.demand));
            put(out, 4, u64::from(r.left));
        }
        Packet::Probe(p) => {
            let distance = distance(p.number, p.floor)?;
            let wide = if distance > 0xffff { WIDE_FLOOR } else { 0 };
            header(out, Kind::Probe, phase | wide, p.connection, p.number);
            sequenced(out, p.ev, p.ev_seq, p.sent_ns, p.demand, distance);
        }
        Packet::Close(c) => {
            if c.number >= PACKET_NUMBER_END {
                return Err(Unencodable::Number { number: c.number });
            }
            header(out, Kind::Close, phase, c.connection, control);
            put(out, 6, c.number);
            put(out, 1, c.reason as u64);
        }
    }
    Ok(())
}

fn encode_data(d: &Data, phase: u8, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let distance = distance(d.number, d.floor)?;
    let (chunk_bytes, message_bytes) = (d.chunk_bytes, d.message_bytes);
    let bad =
        Unencodable::Chunk { bytes: usize::from(d.bytes), offset: d.offset, chunk_bytes, message_bytes };
    let chunk = u64::from(chunk_bytes.max(1));
    let index = d.offset / chunk;
    if !d.offset.is_multiple_of(chunk)
        || chunk_len(index, chunk_bytes, message_bytes) != Some(d.bytes)
        || index > 0xffff_ffff
    {
        return Err(bad);
    }
    let mut flags = phase | d.flags.0 & DATA_FLAGS;
    if distance > 0xffff {
        flags |= WIDE_FLOOR;
    }
    let length = least(LENGTH_WIDTHS, message_bytes);
    let (where_to, region, immediate) = match d.target {
        Target::Tagged { tag } => (tag, 0, 0),
        Target::Write { region, offset, immediate } => {
            flags |= WRITE;
            (offset, region.0, immediate)
        }
    };
    let place = least(TARGET_WIDTHS, where_to);
    let small = [least(SMALL_WIDTHS, u64::from(region)), least(SMALL_WIDTHS, u64::from(immediate))];
    header(out, Kind::Data, flags, d.connection, d.number);
    sequenced(out, d.ev, d.ev_seq, d.sent_ns, d.demand, distance);
    put(out, 4, u64::from(d.message.0));
    out.push(length.0 | place.0 << 2 | small[0].0 << 4 | small[1].0 << 6);
    put(out, 2, u64::from(chunk_bytes));
    put(out, length.1, message_bytes);
    put(out, index_width(message_bytes, chunk_bytes), index);
    put(out, place.1, where_to);
    put(out, small[0].1, u64::from(region));
    put(out, small[1].1, u64::from(immediate));
    Ok(())
}

fn encode_ack(a: &Ack, kind: Kind, control: u64, phase: u8, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    if a.cumulative >= PACKET_NUMBER_END {
        return Err(Unencodable::Number { number: a.cumulative });
    }
    let words = a.bitmap.iter().rposition(|w| *w != 0).map_or(0, |i| i + 1);
    let flags = phase
        | (words as u8) << WORDS_SHIFT
        | if a.grants { GRANTS } else { 0 }
        | if a.ahead != 0 { AHEAD } else { 0 };
    header(out, kind, flags, a.connection, control);
    put(out, 6, a.cumulative);
    put(out, 4, u64::from(a.placed));
    put(out, 4, u64::from(a.held_ns));
    put(out, 1, a.reports().len() as u64);
    put(out, if a.grants { 4 } else { 0 }, u64::from(a.granted));
    put(out, if a.ahead != 0 { 2 } else { 0 }, u64::from(a.ahead));
    a.bitmap.iter().take(words).for_each(|w| put(out, 8, *w));
    for f in a.reports() {
        let (marked, trimmed, longer) = (f.marked != 0, f.trimmed != 0, f.delay_max_ns != f.delay_min_ns);
        put(out, 2, u64::from(f.ev.0));
        let has = |is: bool, bit: u8| if is { bit } else { 0 };
        out.push(has(marked, HAS_MARKED) | has(trimmed, HAS_TRIMMED) | has(longer, HAS_DELAY_MAX));
        for n in [f.highest, f.received, f.delay_min_ns, f.echo_ns] {
            put(out, 4, u64::from(n));
        }
        for (is, n) in [(marked, f.marked), (trimmed, f.trimmed), (longer, f.delay_max_ns)] {
            put(out, if is { 4 } else { 0 }, u64::from(n));
        }
    }
    Ok(())
}

/// Reads a packet, whose tag of `tag_bytes` is at its end. Nothing is authentic yet.
pub fn decode(datagram: &[u8], tag_bytes: usize) -> Result<Parsed, Reject> {
    let least = HEADER_BYTES + tag_bytes;
    if datagram.len() < least {
        return Err(Reject::TooShort { got: datagram.len(), least });
    }
    let body = datagram.get(..datagram.len() - tag_bytes).unwrap_or(&[]);
    let parsed = read(body)?;
    let got = body.len() - parsed.header_bytes;
    let want = match parsed.packet {
        Packet::Data(d) => usize::from(d.bytes),
        _ => 0,
    };
    if got == want { Ok(parsed) } else { Err(Reject::Payload { got, want }) }
}

/// Reads a chunk's header where a switch cut off everything behind it. It cannot be authenticated.
pub fn decode_trimmed(header: &[u8]) -> Result<Parsed, Reject> {
    match read(header)? {
        p @ Parsed { packet: Packet::Data(_), .. } => Ok(p),
        p => Err(Reject::Kind { got: header.first().map_or(0, |b| b & 0x0f).max(p.space as u8) }),
    }
}

fn read(body: &[u8]) -> Result<Parsed, Reject> {
    let kind = Kind::of(body)?;
    if matches!(kind, Kind::Hello | Kind::Retry | Kind::Stranger) {
        return Err(Reject::Kind { got: kind as u8 });
    }
    let mut c = Cursor::new(body);
    let parsed = read_with(kind, &mut c);
    parsed.unwrap_or(Err(Reject::TooShort { got: body.len(), least: body.len() + 1 }))
}

/// `None` where bytes are missing.
fn read_with(kind: Kind, c: &mut Cursor<'_>) -> Option<Result<Parsed, Reject>> {
    let (_, all_flags) = (c.u8()?, c.u8()?);
    let connection = ConnectionId(c.u32()?);
    let number = c.u48()?;
    let flags = all_flags & !PHASE;
    let known = match kind {
        Kind::Data => WIDE_FLOOR | WRITE | DATA_FLAGS,
        Kind::Ack | Kind::ProbeAnswer => GRANTS | WORDS | AHEAD,
        Kind::Nack => GRANTS,
        Kind::Probe => WIDE_FLOOR,
        _ => 0,
    };
    if flags & !known != 0 {
        return Some(Err(Reject::Flags { kind, got: all_flags }));
    }
    let grants = flags & GRANTS != 0;
    let packet = match kind {
        Kind::Data => read_data(c, connection, number, flags)?,
        Kind::Ack => read_ack(c, connection, flags)?.map(Packet::Ack),
        Kind::ProbeAnswer => read_ack(c, connection, flags)?.map(Packet::ProbeAnswer),
        Kind::Nack => {
            let (number, ev, reason) = (c.u48()?, Ev(c.u16()?), c.u8()?);
            let granted = if grants { c.u32()? } else { 0 };
            match reason {
                0 => Ok(NackReason::Trimmed),
                1 => Ok(NackReason::NoConnection),
                2 => Ok(NackReason::NoRoom),
                got => Err(Reject::Range { got: u64::from(got), most: 2 }),
            }
            .map(|reason| Packet::Nack(Nack { connection, number, reason, ev, granted, grants }))
        }
        Kind::Credit => Ok(Packet::Credit(Credit { connection, granted: c.u32()? })),
        Kind::CreditRequest => {
            Ok(Packet::CreditRequest(CreditRequest { connection, demand: c.u32()?, left: c.u32()? }))
        }
        Kind::Probe => {
            let (ev, ev_seq, sent_ns, demand) = (Ev(c.u16()?), c.u32()?, c.u32()?, c.u32()?);
            let distance = c.wide(if flags & WIDE_FLOOR != 0 { 6 } else { 2 })?;
            floor(number, distance, flags)
                .map(|floor| Packet::Probe(Probe { connection, number, floor, ev, ev_seq, demand, sent_ns }))
        }
        Kind::Close => {
            let (number, reason) = (c.u48()?, c.u8()?);
            match reason {
                0 => Ok(CloseReason::Done),
                1 => Ok(CloseReason::Aborted),
                2 => Ok(CloseReason::TimedOut),
                3 => Ok(CloseReason::Protocol),
                got => Err(Reject::Range { got: u64::from(got), most: 3 }),
            }
            .map(|reason| Packet::Close(Close { connection, number, reason }))
        }
        Kind::Hello | Kind::Retry | Kind::Stranger => return Some(Err(Reject::Kind { got: kind as u8 })),
    };
    let phase = all_flags & PHASE != 0;
    Some(packet.map(|packet| Parsed { packet, number, space: kind.space(), phase, header_bytes: c.taken() }))
}

fn floor(number: u64, distance: u64, flags: u8) -> Result<u64, Reject> {
    if flags & WIDE_FLOOR != 0 && distance <= 0xffff {
        return Err(Reject::NotShortest);
    }
    number.checked_sub(distance).ok_or(Reject::Floor { number, distance })
}

fn read_data(
    c: &mut Cursor<'_>,
    connection: ConnectionId,
    number: u64,
    flags: u8,
) -> Option<Result<Packet, Reject>> {
    let (ev, ev_seq, sent_ns, demand) = (Ev(c.u16()?), c.u32()?, c.u32()?, c.u32()?);
    let floor = match floor(number, c.wide(if flags & WIDE_FLOOR != 0 { 6 } else { 2 })?, flags) {
        Ok(floor) => floor,
        Err(e) => return Some(Err(e)),
    };
    let (message, shape, chunk_bytes) = (MessageId(c.u32()?), c.u8()?, c.u16()?);
    let width = |widths: [usize; 4], shift: u8| widths[usize::from(shape >> shift & 3)];
    let message_bytes = c.wide(width(LENGTH_WIDTHS, 0))?;
    let index = c.wide(index_width(message_bytes, chunk_bytes))?;
    let place = c.wide(width(TARGET_WIDTHS, 2))?;
    let region = c.wide(width(SMALL_WIDTHS, 4))? as u32;
    let immediate = c.wide(width(SMALL_WIDTHS, 6))? as u32;
    let shortest = least(LENGTH_WIDTHS, message_bytes).0
        | least(TARGET_WIDTHS, place).0 << 2
        | least(SMALL_WIDTHS, u64::from(region)).0 << 4
        | least(SMALL_WIDTHS, u64::from(immediate)).0 << 6;
    if shortest != shape {
        return Some(Err(Reject::NotShortest));
    }
    let target = match flags & WRITE != 0 {
        true => Target::Write { region: RegionId(region), offset: place, immediate },
        false if region != 0 || immediate != 0 => {
            return Some(Err(Reject::Flags { kind: Kind::Data, got: flags }));
        }
        false => Target::Tagged { tag: place },
    };
    let Some(bytes) = chunk_len(index, chunk_bytes, message_bytes) else {
        return Some(Err(Reject::Chunk { index, chunk_bytes, message_bytes }));
    };
    Some(Ok(Packet::Data(Data {
        connection,
        number,
        floor,
        message,
        message_bytes,
        offset: index * u64::from(chunk_bytes),
        bytes,
        chunk_bytes,
        target,
        ev,
        ev_seq,
        demand,
        sent_ns,
        flags: DataFlags(flags & DATA_FLAGS),
    })))
}

fn read_ack(c: &mut Cursor<'_>, connection: ConnectionId, flags: u8) -> Option<Result<Ack, Reject>> {
    let (cumulative, placed, held_ns, reports) = (c.u48()?, c.u32()?, c.u32()?, c.u8()?);
    let words = usize::from((flags & WORDS) >> WORDS_SHIFT);
    for (got, most) in [(u64::from(reports), FEEDBACK_MAX), (words as u64, BITMAP_WORDS)] {
        if got > most as u64 {
            return Some(Err(Reject::Range { got, most: most as u64 }));
        }
    }
    let grants = flags & GRANTS != 0;
    let granted = if grants { c.u32()? } else { 0 };
    let ahead = if flags & AHEAD != 0 { c.u16()? } else { 0 };
    if flags & AHEAD != 0 && ahead == 0 {
        return Some(Err(Reject::NotShortest));
    }
    let mut ack = Ack {
        connection,
        cumulative,
        ahead,
        feedback_len: reports,
        granted,
        grants,
        placed,
        held_ns,
        ..Ack::default()
    };
    for word in ack.bitmap.iter_mut().take(words) {
        *word = c.u64()?;
    }
    if words > 0 && ack.bitmap.get(words - 1) == Some(&0) {
        return Some(Err(Reject::NotShortest));
    }
    for f in ack.feedback.iter_mut().take(usize::from(reports)) {
        let (ev, has) = (Ev(c.u16()?), c.u8()?);
        if has & !(HAS_MARKED | HAS_TRIMMED | HAS_DELAY_MAX) != 0 {
            return Some(Err(Reject::Flags { kind: Kind::Ack, got: has }));
        }
        let (highest, received, delay_min_ns, echo_ns) = (c.u32()?, c.u32()?, c.u32()?, c.u32()?);
        let marked = if has & HAS_MARKED != 0 { c.u32()? } else { 0 };
        let trimmed = if has & HAS_TRIMMED != 0 { c.u32()? } else { 0 };
        let delay_max_ns = if has & HAS_DELAY_MAX != 0 { c.u32()? } else { delay_min_ns };
        let idle = (has & HAS_MARKED != 0 && marked == 0)
            || (has & HAS_TRIMMED != 0 && trimmed == 0)
            || (has & HAS_DELAY_MAX != 0 && delay_max_ns == delay_min_ns);
        if idle {
            return Some(Err(Reject::NotShortest));
        }
        *f = EvFeedback { ev, highest, received, marked, trimmed, delay_min_ns, delay_max_ns, echo_ns };
    }
    Some(Ok(ack))
}
