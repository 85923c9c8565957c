//! The parameters of a connection: few, in the units of the field, with defaults that suit a data-center fabric.
//!
//! Invariants: every value is usable: a length of zero or a limit of zero makes a slow connection, never a panic.
//! Absent on purpose: parameters nobody sets. What can be derived (the bandwidth-delay product) is derived.

use crate::event::Event;
use crate::receive::Receiver;
use crate::send::Sender;
use wire::Nanos;

/// Places a queue may have made for `most` entries: it doubles when it is full, and begins with four.
pub(crate) const fn grown(most: u64) -> u64 {
    let least = if most < 4 { 4 } else { most };
    least.next_power_of_two()
}

/// Who decides how much is on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// The sender's window; the receiver grants only while several senders meet at it.
    Sender,
    /// The receiver's grants alone.
    Receiver,
    /// Both: grants keep the last hop free, the window keeps the fabric free.
    #[default]
    Both,
}

impl Control {
    /// Does the receiver always grant, also to a sender that is alone?
    pub const fn always_grants(self) -> bool {
        !matches!(self, Control::Sender)
    }
    /// Does the sender keep a window?
    pub const fn window(self) -> bool {
        !matches!(self, Control::Receiver)
    }
}

/// How the next packet's EV is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balancing {
    /// Every EV in turn, whatever marks and trims it had.
    Oblivious,
    /// In turn, passing over those with a penalty.
    Bitmap,
    /// An EV whose packet came back clean is used again, in turn otherwise (REPS).
    Reps,
    /// One that came back clean if there is one, else in turn, passing over those with a penalty.
    #[default]
    Mixed,
}

/// Parameters of a connection. Both ends of one should have the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Speed of the host's port, bits a second.
    pub rate_bps: u64,
    /// Round trip of a full packet and its ACK through an empty fabric.
    pub rtt_base: Nanos,
    /// Payload of a full packet, bytes.
    pub chunk_bytes: u16,
    /// Headers around it on the wire, bytes.
    pub header_bytes: u16,
    /// Who decides how much is on the way.
    pub control: Control,
    /// How EVs are chosen.
    pub balancing: Balancing,
    /// EVs in use: `1 ..= 65536`.
    pub evs: u16,
    /// Window at the beginning, bytes on the wire. `None`: one bandwidth-delay product.
    pub window_initial_bytes: Option<u32>,
    /// Bytes on the wire received since the last ACK that call for one.
    pub ack_every_bytes: u32,
    /// Queueing the sender's window aims at.
    pub queue_target: Nanos,
    /// Blind bytes of a message shorter than two bandwidth-delay products: it would be over before what is
    /// heard could do anything, so a part of it waits until something was. Ten full packets.
    pub blind_short_bytes: u32,
    /// Packets one connection may have on the way.
    pub packets_max: u32,
    /// Messages one connection keeps in either direction, done ones behind an open one included.
    pub messages_max: u32,
    /// Longest message, bytes.
    pub message_bytes_max: u64,
    /// Silence of every EV after which the connection is given up, in round trips as they were last measured.
    pub give_up_rtts: u32,
    /// Quiet after which an end that has ever sent asks whether its peer is still there, so that a dead peer is noticed
    /// and whatever forgets idle flows on the way does not forget this one. An end that only received gives the
    /// connection up after four of them in silence. `None`: never.
    pub keep_alive: Option<Nanos>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate_bps: 100_000_000_000,
            rtt_base: Nanos(14_023),
            chunk_bytes: 4086,
            header_bytes: 64,
            control: Control::Both,
            balancing: Balancing::Mixed,
            evs: 64,
            window_initial_bytes: None,
            ack_every_bytes: 16_384,
            queue_target: Nanos(6_000),
            blind_short_bytes: 41_500,
            packets_max: 4096,
            messages_max: 1024,
            message_bytes_max: 1 << 32,
            give_up_rtts: 4096,
            keep_alive: None,
        }
    }
}

impl Config {
    /// Bytes that fill the fabric: rate times round trip.
    pub const fn bdp_bytes(&self) -> u32 {
        let bytes = self.rate_bps as u128 * self.rtt_base.0 as u128 / 8_000_000_000;
        if bytes > (u32::MAX / 8) as u128 { u32::MAX / 8 } else { bytes as u32 }
    }

    /// A full packet on the wire, bytes.
    pub const fn packet_bytes(&self) -> u32 {
        self.chunk_bytes as u32 + self.header_bytes as u32
    }

    /// Largest window, bytes: what fills the fabric, and half as much again for the queueing that is aimed at.
    pub const fn window_max_bytes(&self) -> u32 {
        self.bdp_bytes() / 2 * 3
    }

    /// Probes that may be on the way besides chunks: into a silence that lasts until the connection is given up, each EV
    /// is probed more and more rarely, and so is any.
    pub(crate) fn probes_max(&self) -> u64 {
        let rtts = u64::from(self.give_up_rtts);
        u64::from(self.evs) * (9 + rtts / 512) + 5 + rtts / 16
    }

    /// Packets with a number that may be on the way.
    pub(crate) fn numbers_max(&self) -> u64 {
        u64::from(self.packets_max.max(1)) + self.probes_max()
    }

    /// Most bytes of heap one end of a connection holds, payload aside: see [`crate::Connection::memory_bytes`].
    /// Nearly all of it is a bit for each chunk of each message that may be open; a peer that opens fewer or shorter
    /// ones costs less.
    pub fn memory_bytes_max(&self) -> u64 {
        // all that one call can tell: every message of the ring, every EV down and up, the end
        let events = u64::from(self.messages_max) * 2 + u64::from(self.evs) * 2 + 1;
        (size_of::<Sender>() + size_of::<Receiver>()) as u64
            + Sender::memory_bytes_max(self)
            + Receiver::memory_bytes_max(self)
            + grown(events) * size_of::<Event>() as u64
    }

    /// How long `bytes` take on the host's port.
    pub const fn serialization(&self, bytes: u32) -> Nanos {
        let rate = if self.rate_bps == 0 { 1 } else { self.rate_bps };
        Nanos((bytes as u128 * 8_000_000_000 / rate as u128) as u64)
    }
}
