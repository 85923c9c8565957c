//! What a connection tells its owner, and what it counts.
//!
//! Invariants: every packet sent is acknowledged, lost or still on the way: `sent = acknowledged + lost + in flight`;
//! whatever is refused is counted under its reason.
//! Absent on purpose: text and time stamps; whoever logs adds them.

use wire::transport::{CloseReason, Ev, MessageId, NackReason, Target};

/// Something the owner of a connection wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All of a message was acknowledged.
    Sent(MessageId),
    /// All of a message is here.
    Received {
        /// Which.
        message: MessageId,
        /// Its length.
        bytes: u64,
        /// What it is for.
        target: Target,
    },
    /// An EV went silent: it carries probes only.
    PathDown(Ev),
    /// A silent EV answered.
    PathUp(Ev),
    /// The connection is over.
    Closed(CloseReason),
}

/// Why a packet or a request had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// A packet number far above all others.
    NumberTooHigh = 0,
    /// A packet number seen before, or given up by the sender.
    Duplicate = 1,
    /// An EV the table does not have.
    NoSuchEv = 2,
    /// A chunk that does not lie in its message, or contradicts what the message's others said.
    BadChunk = 3,
    /// A message longer than allowed.
    MessageTooLong = 4,
    /// More messages open than allowed.
    NoRoom = 5,
    /// News of a packet never sent.
    NeverSent = 6,
    /// News of a packet whose fate was known.
    Late = 7,
    /// The connection is over.
    Closed = 8,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = 9;
}

/// What became of a packet handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Accepted,
    /// It carried a chunk that is new: the payload is to be placed at this offset of this message.
    Place {
        /// Which message.
        message: MessageId,
        /// Offset in the message, bytes.
        offset: u64,
        /// Length, bytes.
        bytes: u16,
        /// Where the message goes.
        target: Target,
    },
    /// It had no effect; counted.
    Dropped(Reason),
}

/// Why a message was not taken for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No empty message, nor one longer than allowed.
    #[error("a message of {bytes} bytes: expected 1 to {most}")]
    Length {
        /// Asked for.
        bytes: u64,
        /// Allowed.
        most: u64,
    },
    /// Too many messages are open: wait for [`Event::Sent`].
    #[error("{open} messages are open, as many as allowed: wait until one is sent")]
    Full {
        /// How many.
        open: u32,
    },
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
}

/// What one connection counts, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets with a number sent: chunks and probes.
    pub sent: u64,
    /// Of them, chunks sent for the first time.
    pub chunks_new: u64,
    /// Of them, chunks sent again.
    pub chunks_again: u64,
    /// Of them, probes.
    pub probes: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Known lost, for any reason below.
    pub lost: u64,
    /// Lost: a switch trimmed it.
    pub lost_trimmed: u64,
    /// Lost: a later packet of its EV arrived.
    pub lost_gap: u64,
    /// Lost: too long without news while others moved.
    pub lost_late: u64,
    /// ACKs sent.
    pub acks: u64,
    /// NACKs sent.
    pub nacks: u64,
    /// Grants sent by themselves.
    pub credits: u64,
    /// Requests for grants sent.
    pub credit_requests: u64,
    /// Times every EV was silent for so long that a probe went out to learn anything at all.
    pub silences: u64,
    /// Probes of an idle connection, to hear that the peer is there.
    pub keep_alives: u64,
    /// 1 where the connection was given up because nothing came back.
    pub timeouts: u64,
    /// Chunks placed.
    pub placed: u64,
    /// Chunks that arrived again under another packet number.
    pub chunks_twice: u64,
    /// Messages received whole.
    pub messages_received: u64,
    /// Messages sent and acknowledged.
    pub messages_sent: u64,
    /// What had no effect, by [`Reason`].
    pub dropped: [u64; Reason::COUNT],
    /// NACKs received for [`NackReason::NoRoom`] and [`NackReason::NoConnection`].
    pub refused_by_peer: u64,
}

impl Counters {
    /// Counts a drop and says so.
    pub(crate) fn drop(&mut self, reason: Reason) -> Outcome {
        if let Some(n) = self.dropped.get_mut(reason as usize) {
            *n += 1;
        }
        Outcome::Dropped(reason)
    }

    /// Counts what a NACK means.
    pub(crate) fn nacked(&mut self, reason: NackReason) {
        if reason != NackReason::Trimmed {
            self.refused_by_peer += 1;
        }
    }
}
