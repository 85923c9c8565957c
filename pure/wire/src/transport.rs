//! The packets of the transport, as the values its state machine speaks.
//!
//! A message is cut into chunks of equal length (the last may be shorter); one [`Data`] carries one chunk and can be
//! placed alone. Two numbers order packets: the packet number, never reused within a connection (it is also the
//! nonce), and the sequence number within the entropy value (EV) it travels on. A path is first in, first out, so a
//! gap in the second is a loss and not a guess. A lost chunk is sent again under a new packet number.
//! [`Ack`] reports packet numbers as a bitmap and each EV by itself.
//!
//! Invariants: every value is `Copy` and of fixed size; counters named "so far" only grow and wrap at 2^32, so a lost
//! ACK loses no information; nothing here was checked against a connection, that is the state machine's work.
//! Absent on purpose here: bytes ([`packet`]), keys ([`protection`]) and handshake ([`hello`]), which have files of their
//! own; payload (it travels beside the [`Data`] that describes it); sockets.

mod cursor;
pub mod hello;
#[cfg(test)]
mod laws;
pub mod packet;
pub mod protection;
pub mod replay;

use crate::time::Nanos;

/// Packet numbers are 48 bits: `0 <= number < PACKET_NUMBER_END`. At 100 million packets a second that is a month;
/// keys and numbers are renewed before.
pub const PACKET_NUMBER_END: u64 = 1 << 48;
/// 64-bit words of an ACK's bitmap.
pub const BITMAP_WORDS: usize = 4;
/// Packet numbers an ACK's bitmap covers.
pub const BITMAP_BITS: u64 = BITMAP_WORDS as u64 * 64;
/// EVs one ACK can report on.
pub const FEEDBACK_MAX: usize = 8;

/// One connection between two hosts. Each end has its own id for it; a packet carries the receiver's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// An entropy value: an index into the sender's table of paths (flow label, source port, plane, or uSID list).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ev(pub u16);

/// A message of one connection and direction: counted from 0, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u32);

/// A region the receiver registered for one-sided writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u32);

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Two-sided: whoever receives with this tag gets it.
    Tagged {
        /// Chosen by the application.
        tag: u64,
    },
    /// One-sided: placed into a region; the receiver is told `immediate` when all of it is there.
    Write {
        /// Where to.
        region: RegionId,
        /// Of the message's first byte, from the region's beginning.
        offset: u64,
        /// Handed to the receiver on completion.
        immediate: u32,
    },
}

/// Bits of [`Data::flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataFlags(pub u8);

impl DataFlags {
    /// This chunk was sent before, under another packet number.
    pub const AGAIN: u8 = 1;
    /// The sender asks for an ACK now (last of what it may send, or a loss probe).
    pub const ACK_NOW: u8 = 2;
    /// Sent before the receiver said anything about capacity.
    pub const BLIND: u8 = 4;
    /// Nobody waits for the ACK: it may go with what the receiver sends next, or with that of later packets.
    pub const MAY_WAIT: u8 = 8;

    /// Is this bit set?
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// One chunk of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// The receiver's id of the connection.
    pub connection: ConnectionId,
    /// Packet number, `< PACKET_NUMBER_END`.
    pub number: u64,
    /// The sender still waits for nothing below this packet number: the receiver may forget it. `<= number`.
    pub floor: u64,
    /// Which message.
    pub message: MessageId,
    /// Length of the whole message, bytes.
    pub message_bytes: u64,
    /// Where this chunk begins in the message, bytes: a multiple of `chunk_bytes`.
    pub offset: u64,
    /// Payload of this packet, bytes. All chunks of a message but the last have `chunk_bytes`.
    pub bytes: u16,
    /// Length of the message's chunks, bytes, not zero.
    pub chunk_bytes: u16,
    /// What the message is for.
    pub target: Target,
    /// The EV it travels on.
    pub ev: Ev,
    /// Sequence number within the EV, counted from 0, wrapping.
    pub ev_seq: u32,
    /// Bytes on the wire that needed a grant or still do, so far (what is sent blind needs none): what the receiver
    /// may grant up to. Wraps at 2^32.
    pub demand: u32,
    /// The sender's clock when it was sent, nanoseconds, low 32 bits.
    pub sent_ns: u32,
    /// See [`DataFlags`].
    pub flags: DataFlags,
}

/// What a receiver knows of one EV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvFeedback {
    /// Which.
    pub ev: Ev,
    /// Highest sequence number that arrived whole.
    pub highest: u32,
    /// Packets that arrived, trimmed ones too, so far.
    pub received: u32,
    /// Of them, those with congestion experienced (RFC 3168), so far.
    pub marked: u32,
    /// Of `received`, those a switch had trimmed to their header, so far.
    pub trimmed: u32,
    /// Shortest way here of the packets since the last report: receiver's clock minus sender's, low 32 bits.
    /// Clocks differ, so only differences mean something.
    pub delay_min_ns: u32,
    /// Longest, likewise.
    pub delay_max_ns: u32,
    /// [`Data::sent_ns`] of the newest packet reported here.
    pub echo_ns: u32,
}

/// What has arrived, and what may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The receiver's (of this ACK) id of the connection.
    pub connection: ConnectionId,
    /// Every packet number below has arrived or was given up by the sender's floor.
    pub cumulative: u64,
    /// How far above `cumulative` the bitmap begins. A slow path's oldest packet holds `cumulative` back while thousands
    /// arrive on the others.
    pub ahead: u16,
    /// Bit `i % 64` of word `i / 64`: packet number `cumulative + ahead + i` arrived.
    pub bitmap: [u64; BITMAP_WORDS],
    /// EVs reported, the first `feedback_len` of it; the newest last.
    pub feedback: [EvFeedback; FEEDBACK_MAX],
    /// `0 <= feedback_len <= FEEDBACK_MAX`.
    pub feedback_len: u8,
    /// Bytes on the wire granted so far (see [`Data::demand`]), wrapping at 2^32. Meaningless where `grants` is false.
    pub granted: u32,
    /// The receiver grants, so the sender is bound by `granted`.
    pub grants: bool,
    /// Payload bytes of new chunks that arrived, so far, wrapping at 2^32.
    pub placed: u32,
    /// How long the newest packet waited for this ACK, nanoseconds, saturating.
    pub held_ns: u32,
}

impl Ack {
    /// The EVs reported.
    pub fn reports(&self) -> &[EvFeedback] {
        self.feedback.get(..usize::from(self.feedback_len)).unwrap_or(&self.feedback)
    }

    /// One above the highest packet number it says arrived, or `cumulative`.
    pub fn end(&self) -> u64 {
        let words = self.bitmap.iter().enumerate().rev();
        let top =
            words.map(|(i, w)| (i as u64, 64 - u64::from(w.leading_zeros()))).find(|&(_, bits)| bits > 0);
        self.cumulative.saturating_add(top.map_or(0, |(i, bits)| u64::from(self.ahead) + i * 64 + bits))
    }

    /// Did this packet number arrive, as far as this ACK says? `None`: it says nothing about it.
    pub fn arrived(&self, number: u64) -> Option<bool> {
        if number < self.cumulative {
            return Some(true);
        }
        let i = (number - self.cumulative).checked_sub(u64::from(self.ahead))?;
        let word = self.bitmap.get(usize::try_from(i / 64).ok()?)?;
        Some(word >> (i % 64) & 1 == 1)
    }
}

/// Why a receiver refuses a packet it could read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum NackReason {
    /// A switch cut it to its header: congestion.
    Trimmed = 0,
    /// No such connection here; answer with the handshake.
    NoConnection = 1,
    /// The receiver has no room for another message.
    NoRoom = 2,
}

/// One packet will not be delivered and has to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The receiver's (of this NACK) id of the connection.
    pub connection: ConnectionId,
    /// Which packet.
    pub number: u64,
    /// Why.
    pub reason: NackReason,
    /// The EV it travelled on.
    pub ev: Ev,
    /// As in [`Ack::granted`].
    pub granted: u32,
    /// As in [`Ack::grants`].
    pub grants: bool,
}

/// Bytes granted, without news of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The receiver's (of this packet) id of the connection.
    pub connection: ConnectionId,
    /// As in [`Ack::granted`].
    pub granted: u32,
}

/// The sender has more to send than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditRequest {
    /// The receiver's id of the connection.
    pub connection: ConnectionId,
    /// As in [`Data::demand`].
    pub demand: u32,
    /// Bytes left of the shortest message, saturating: short ones are granted first.
    pub left: u32,
}

/// Is this path alive, and what has arrived? It carries a packet number and EV sequence of its own, so what was sent
/// before it on the same EV is known to be lost when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The receiver's id of the connection.
    pub connection: ConnectionId,
    /// Packet number.
    pub number: u64,
    /// As in [`Data::floor`].
    pub floor: u64,
    /// The EV probed.
    pub ev: Ev,
    /// Sequence number within the EV.
    pub ev_seq: u32,
    /// As in [`Data::demand`].
    pub demand: u32,
    /// As in [`Data::sent_ns`].
    pub sent_ns: u32,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum CloseReason {
    /// Everything sent was acknowledged.
    Done = 0,
    /// The application gave up.
    Aborted = 1,
    /// Nothing came back on any path.
    TimedOut = 2,
    /// The peer broke the rules.
    Protocol = 3,
}

/// The sender of this sends nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The receiver's id of the connection.
    pub connection: ConnectionId,
    /// Packet number.
    pub number: u64,
    /// Why.
    pub reason: CloseReason,
}

/// Anything the transport sends. `P` carries no payload bytes: those of a [`Data`] travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Copy and short-lived: a box would cost more than the bytes
pub enum Packet {
    /// A chunk.
    Data(Data),
    /// News of what arrived.
    Ack(Ack),
    /// One packet to send again.
    Nack(Nack),
    /// Leave to send.
    Credit(Credit),
    /// Wish to send.
    CreditRequest(CreditRequest),
    /// A question to a path.
    Probe(Probe),
    /// The answer to a [`Probe`]: an ACK sent at once, whose last report is about the EV probed.
    ProbeAnswer(Ack),
    /// The end.
    Close(Close),
}

impl Packet {
    /// The receiver's id of the connection.
    pub const fn connection(&self) -> ConnectionId {
        match self {
            Packet::Data(p) => p.connection,
            Packet::Ack(p) | Packet::ProbeAnswer(p) => p.connection,
            Packet::Nack(p) => p.connection,
            Packet::Credit(p) => p.connection,
            Packet::CreditRequest(p) => p.connection,
            Packet::Probe(p) => p.connection,
            Packet::Close(p) => p.connection,
        }
    }
}

/// What the network says about a packet that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Congestion experienced (RFC 3168).
    pub marked: bool,
    /// A switch cut the payload off: the header is all there is.
    pub trimmed: bool,
}

/// The low 32 bits of a clock, as packets carry it.
pub const fn low(now: Nanos) -> u32 {
    now.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_says_what_arrived() {
        let ack = Ack { cumulative: 10, bitmap: [0b101, 0, 0, 1 << 63], ..Ack::default() };
        assert_eq!(ack.arrived(9), Some(true));
        assert_eq!(ack.arrived(10), Some(true));
        assert_eq!(ack.arrived(11), Some(false));
        assert_eq!(ack.arrived(12), Some(true));
        assert_eq!(ack.arrived(10 + 255), Some(true));
        assert_eq!(ack.arrived(10 + 256), None);
        assert_eq!(ack.arrived(u64::MAX), None);
        assert_eq!(ack.end(), 10 + 256);
        assert_eq!(Ack { cumulative: 10, bitmap: [0b101, 0, 0, 0], ..Ack::default() }.end(), 13);
        assert_eq!(Ack { cumulative: 10, ..Ack::default() }.end(), 10);
    }

    #[test]
    fn a_bitmap_further_up_says_nothing_of_what_lies_between() {
        let ack = Ack { cumulative: 10, ahead: 500, bitmap: [0b101, 0, 0, 0], ..Ack::default() };
        assert_eq!(ack.arrived(9), Some(true));
        assert_eq!(ack.arrived(10), None);
        assert_eq!(ack.arrived(509), None);
        assert_eq!(ack.arrived(510), Some(true));
        assert_eq!(ack.arrived(511), Some(false));
        assert_eq!(ack.arrived(510 + 256), None);
        assert_eq!(ack.end(), 513);
        assert_eq!(Ack { cumulative: 10, ahead: 500, ..Ack::default() }.end(), 10);
    }

    #[test]
    fn a_length_out_of_range_reports_no_more_than_there_is() {
        let ack = Ack { feedback_len: 200, ..Ack::default() };
        assert_eq!(ack.reports().len(), FEEDBACK_MAX);
    }
}
