//! The one contract in the middle: everything that crosses the fabric becomes a [`PathObservation`], everything
//! counted at one place becomes a [`ComponentObservation`]. `diagnose` knows nothing else.
//!
//! Invariants: `lost <= sent`; counts are of packets as the wire sees them (segments, not offloaded bursts);
//! a path that is not known is said to be unknown ([`Known::Mixture`]), never guessed.

use crate::id::{Component, Epoch, HostId, PathId};
use crate::time::Nanos;

/// A span of the producer's clock: `[start, start + length)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// Beginning, in the producer's wall clock (Unix nanoseconds on an edge).
    pub start: Nanos,
    /// Length, 100 ms to 1 s for probes.
    pub length: Nanos,
}

impl Window {
    /// First moment after the window.
    pub fn end(&self) -> Nanos {
        self.start + self.length
    }
}

/// How the path of a leg is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Known {
    /// Chosen by the sender (source routed).
    Exact = 0,
    /// Learned by in-band telemetry or tracing, and still believed.
    Discovered = 1,
    /// Not known: any existing path between the two NICs, equally likely. The [`PathId`] names the pair; its lane
    /// means nothing.
    Mixture = 2,
}

/// One direction of travel between two NICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leg {
    /// The path, or any path of the pair where it is a mixture.
    pub path: PathId,
    /// How it is known.
    pub known: Known,
}

/// Which links the packets of an observation crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathRef {
    /// One direction; a loss happened on it.
    OneWay(Leg),
    /// There and back, where it cannot be said on which of the two a packet died (nothing came back at all).
    RoundTrip {
        /// From the producer.
        forward: Leg,
        /// To the producer.
        backward: Leg,
    },
}

/// Who measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// STAMP probes.
    Probe = 0,
    /// The multipath transport's own packets.
    Transport = 1,
    /// A flow the kernel or a switch reported.
    Flow = 2,
}

/// How far one-way delays can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClockQuality {
    /// The two clocks have nothing to do with each other; only changes of the delay mean something.
    Free = 0,
    /// Both disciplined (NTP or better), offset within about a millisecond.
    Synchronized = 1,
    /// The same clock, or hardware PTP.
    Same = 2,
}

/// The delays of one window in one direction, against that path's own baseline.
///
/// The producer keeps the baseline (it sees every packet of the path); the diagnosis sees how many were above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelaySummary {
    /// Quality of the clocks behind the numbers.
    pub clock: ClockQuality,
    /// Packets with a measured delay. `count <= sent - lost`.
    pub count: u32,
    /// Of those, packets above the path's own 99.9 % baseline. `0 <= over <= count`.
    pub over: u32,
    /// Median of (delay − baseline median) over the packets that were over, nanoseconds; 0 if none was.
    pub excess_ns: u64,
    /// Smallest delay in the window, nanoseconds. May be negative where clocks are free.
    pub min_ns: i64,
    /// Median delay, nanoseconds.
    pub p50_ns: i64,
    /// Largest delay, nanoseconds.
    pub max_ns: i64,
}

/// What happened to the packets of one producer on one path in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathObservation {
    /// When, by the producer's clock.
    pub window: Window,
    /// Who counted.
    pub producer: HostId,
    /// The producer's running number of this observation within its epoch of life.
    pub sequence: u64,
    /// The fabric the path id belongs to.
    pub epoch: Epoch,
    /// Where the packets went.
    pub path: PathRef,
    /// DSCP of the packets (RFC 2474): a sick queue of another class is never seen by this one. `0 ..= 63`.
    pub class: u8,
    /// Packet size as the power of two that holds it: a packet of b bytes has `ceil(log2 b)`.
    pub size_log2: u8,
    /// Entropy (flow label or port) folded to a bucket: a black hole by header hash kills some buckets wholly.
    pub entropy: u16,
    /// Packets sent on the path in the window whose fate is known.
    pub sent: u32,
    /// Of those, packets that did not arrive. `0 <= lost <= sent`.
    pub lost: u32,
    /// Of those that arrived, packets that were overtaken.
    pub reordered: u32,
    /// Of those that arrived, packets with ECN CE set (RFC 3168) where it was sent ECT.
    pub ecn_marked: u32,
    /// Delays, where measured.
    pub delay: Option<DelaySummary>,
    /// Who measured.
    pub source: Source,
}

/// What a counter counts. `delta` events out of `of` opportunities (0 where there is no such number).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Counter {
    /// Probes a responder held longer than it should (T3 − T2 too long), out of probes answered: a stalled host.
    ResponderStall = 0,
    /// Times a sender's own loop ran late, out of loop turns: a stalled host.
    SenderStall = 1,
    /// Packets a host threw away for a wrong checksum, out of packets received: corruption on the way.
    ChecksumError = 2,
    /// Packets a host threw away for want of socket or queue space.
    SocketDrop = 3,
    /// Seconds an agent has not been heard from by the hub.
    AgentSilent = 4,
    /// Whether no agent can be heard of on the host since the window's start (1 of 1); or none ran in the window and one
    /// runs since its end (0 of 1), the window being empty where it turns out to have run all the time. Said by the hub,
    /// which sees streams begin and end.
    AgentAway = 5,
    /// Frames a port received damaged (FCS or symbol errors, FEC blocks that could not be corrected), out of frames
    /// received: corruption on the cable, its optics or their connectors.
    FrameError = 6,
    /// FEC blocks a port corrected, out of blocks received, 0 where they are not counted: a cable on its way to
    /// [`Counter::FrameError`].
    FrameCorrected = 7,
    /// Packets a port threw away for want of buffer space, out of packets it was to send: congestion.
    QueueDrop = 8,
    /// Packets a port marked with ECN CE (RFC 3168), out of packets sent: congestion before it loses.
    QueueMarked = 9,
    /// Pause or PFC frames (IEEE 802.1Qbb) a port sent: it asks its neighbour to wait.
    PauseSent = 10,
    /// Pause or PFC frames a port received: its neighbour asks it to wait.
    PauseReceived = 11,
    /// Nanoseconds a port was not allowed to send because of pause or PFC, out of nanoseconds of the window.
    PausedTime = 12,
    /// Times a port lost its carrier.
    CarrierLost = 13,
    /// Packets a NIC threw away because its host did not make room in time, out of packets received.
    NicOverrun = 14,
    /// Runs of the network's soft interrupts that began late, out of runs: a stalled host.
    SoftirqLate = 15,
    /// Times a thread that a packet woke waited long for a processor, out of times woken: a stalled host.
    RunQueueLate = 16,
    /// Microseconds in which some task waited for a processor (PSI, `cpu some`), out of microseconds of the window.
    CpuPressure = 17,
    /// Packets a host threw away for want of room in its own queues (backlog, qdisc), out of packets taken.
    HostQueueDrop = 18,
    /// TCP segments sent again, out of segments sent.
    TcpRetransmit = 19,
    /// Bytes waiting in a port's queue above its mark, at their most in the window; out of the queue's size.
    QueueDepth = 20,
}

impl Counter {
    /// Every counter, by its number.
    pub const ALL: [Counter; 21] = [
        Counter::ResponderStall,
        Counter::SenderStall,
        Counter::ChecksumError,
        Counter::SocketDrop,
        Counter::AgentSilent,
        Counter::AgentAway,
        Counter::FrameError,
        Counter::FrameCorrected,
        Counter::QueueDrop,
        Counter::QueueMarked,
        Counter::PauseSent,
        Counter::PauseReceived,
        Counter::PausedTime,
        Counter::CarrierLost,
        Counter::NicOverrun,
        Counter::SoftirqLate,
        Counter::RunQueueLate,
        Counter::CpuPressure,
        Counter::HostQueueDrop,
        Counter::TcpRetransmit,
        Counter::QueueDepth,
    ];

    /// Its name in tables and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::ResponderStall => "responder_stall",
            Counter::SenderStall => "sender_stall",
            Counter::ChecksumError => "checksum_error",
            Counter::SocketDrop => "socket_drop",
            Counter::AgentSilent => "agent_silent",
            Counter::AgentAway => "agent_away",
            Counter::FrameError => "frame_error",
            Counter::FrameCorrected => "frame_corrected",
            Counter::QueueDrop => "queue_drop",
            Counter::QueueMarked => "queue_marked",
            Counter::PauseSent => "pause_sent",
            Counter::PauseReceived => "pause_received",
            Counter::PausedTime => "paused_time",
            Counter::CarrierLost => "carrier_lost",
            Counter::NicOverrun => "nic_overrun",
            Counter::SoftirqLate => "softirq_late",
            Counter::RunQueueLate => "run_queue_late",
            Counter::CpuPressure => "cpu_pressure",
            Counter::HostQueueDrop => "host_queue_drop",
            Counter::TcpRetransmit => "tcp_retransmit",
            Counter::QueueDepth => "queue_depth",
        }
    }
}

/// What was counted at one place in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentObservation {
    /// When, by the producer's clock.
    pub window: Window,
    /// Who counted.
    pub producer: HostId,
    /// The fabric the component id belongs to.
    pub epoch: Epoch,
    /// Where.
    pub component: Component,
    /// What.
    pub counter: Counter,
    /// Events in the window.
    pub delta: u64,
    /// Opportunities in the window, 0 where unknown.
    pub of: u64,
    /// Median size of the event where it has one (a stall's length), nanoseconds; 0 otherwise.
    pub size_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_by_their_numbers() {
        for (n, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, n, "{}", counter.name());
        }
    }
}
