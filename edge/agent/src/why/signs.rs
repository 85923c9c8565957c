//! Signs: what the facts of one connection look like as numbers a judgement can compare.
//!
//! How: the connection is looked at in the direction in which data waits (or, where none waits, most moved). The sending
//! end's socket knows of losses, windows and round trips; the receiving end's of unread data; either may be unknown.
//!
//! Invariants: pure arithmetic; a sign whose source is missing is 0 or none and says so by its type.

use super::facts::*;
use kernel::sock_diag::{State, TcpInfo};

/// One connection: the facts of both ends, as far as known, in the direction that matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection<'a> {
    /// The end that sends, and its host.
    pub(super) sender: Option<End<'a>>,
    /// The end that receives, and its host.
    pub(super) receiver: Option<End<'a>>,
    /// The end at the host that was asked.
    pub(super) own: End<'a>,
}

/// A socket and its host.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    /// The host.
    pub(super) host: &'a EndFacts,
    /// The socket; none where the host has none for this connection.
    pub(super) socket: Option<&'a SocketFacts>,
}

impl<'a> Connection<'a> {
    /// Which of the two ends sends.
    pub(super) fn of(
        local: &'a EndFacts,
        socket: &'a SocketFacts,
        peer: Option<&'a EndFacts>,
    ) -> Connection<'a> {
        let own = End { host: local, socket: Some(socket) };
        let theirs = peer.map(|host| End {
            host,
            socket: host.sockets.iter().find(|s| s.local == socket.remote && s.remote == socket.local),
        });
        // what waits counts before what moved
        let demand = |s: &SocketFacts| (s.waiting() >= 0.5, s.moved());
        let other = theirs.and_then(|t| t.socket);
        let out = demand(socket);
        let back = other
            .map_or((false, socket.last.bytes_received.saturating_sub(socket.first.bytes_received)), demand);
        // unread data says the direction too, where the sender is not known
        let unread = other.is_none() && socket.unread_max() > 0 && !out.0;
        if out >= back && !unread || socket.state == State::SynSent {
            Connection { sender: Some(own), receiver: theirs, own }
        } else {
            Connection { sender: theirs, receiver: Some(own), own }
        }
    }
}

impl SocketFacts {
    /// Share of the samples in which written data was not yet acknowledged.
    pub(super) fn waiting(&self) -> f64 {
        self.share(|s| s.send_queue > 0)
    }
    /// Bytes that got through in the interval.
    pub(super) fn moved(&self) -> u64 {
        self.last.bytes_acked.saturating_sub(self.first.bytes_acked)
    }
    /// How full the receive buffer was in the middle sample, 0 to 1, as far as the window lets it become: the kernel
    /// keeps a part of the buffer for its own needs.
    pub(super) fn piled(&self) -> f64 {
        const WINDOW_OF_BUFFER: f64 = 0.35;
        let room = self.memory.map_or(0, |m| m.receive_max).max(1);
        (f64::from(self.median(|m| m.receive_queue)) / (f64::from(room) * WINDOW_OF_BUFFER)).min(1.0)
    }
    /// Most bytes that lay unread.
    pub(super) fn unread_max(&self) -> u32 {
        self.samples.iter().map(|s| s.receive_queue).max().unwrap_or(0)
    }
    /// Share of the samples of which something holds.
    pub(super) fn share(&self, of: impl Fn(&Sample) -> bool) -> f64 {
        share(self.samples.iter().filter(|s| of(s)).count(), self.samples.len())
    }
    /// The middle value of the samples.
    pub(super) fn median(&self, of: impl Fn(&Sample) -> u32) -> u32 {
        self.quantile(0.5, of)
    }
    /// A quantile of the samples.
    pub(super) fn quantile(&self, q: f64, of: impl Fn(&Sample) -> u32) -> u32 {
        let mut values: Vec<u32> = self.samples.iter().map(of).collect();
        values.sort_unstable();
        let at = (values.len().saturating_sub(1)) as f64 * q;
        values.get(at.round() as usize).copied().unwrap_or(0)
    }
}

fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

/// How a sender fared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sending {
    /// Segments with data sent.
    pub(super) segments: u64,
    /// Segments sent again, less those the peer said were not needed.
    pub(super) lost: u64,
    /// Segments sent again for nothing.
    pub(super) needless: u64,
    /// Times the peer's acknowledgements showed that packets overtook each other.
    pub(super) reordered: u64,
    /// Of the segments, lost.
    pub(super) loss: f64,
    /// Time-outs, by the socket's own count where the kernel has one.
    pub(super) timeouts: u64,
    /// Longest time without a new acknowledgement while something was under way, ms.
    pub(super) stall_ms: u32,
    /// Whether that lasted to the end.
    pub(super) stalled_now: bool,
    /// Silences of 150 ms and more while something was under way, which ended with a new acknowledgement.
    pub(super) silences: u32,
    /// Samples in which retransmissions were counted, of all.
    pub(super) loss_spread: f64,
    /// Share of the interval with something to send.
    pub(super) busy: f64,
    /// Of that, held up by the peer's window.
    pub(super) by_window: f64,
    /// Of that, held up by the own buffer.
    pub(super) by_buffer: f64,
    /// Share of samples in which the peer offered less than two segments.
    pub(super) shut: f64,
    /// Share of samples in which written data had not been sent yet.
    pub(super) backlog: f64,
    /// Median round trip, ms.
    pub(super) rtt_ms: f64,
    /// Low and high (10 % and 90 %) round trip, ms.
    pub(super) rtt_low_ms: f64,
    /// High.
    pub(super) rtt_high_ms: f64,
    /// Smallest round trip of the last minutes, ms.
    pub(super) rtt_min_ms: f64,
    /// Segments marked "congestion experienced", of those delivered.
    pub(super) marked: f64,
    /// Bytes a second that got through.
    pub(super) rate: f64,
}

impl Sending {
    /// Reads them off.
    pub(super) fn of(end: End<'_>) -> Option<Sending> {
        let s = end.socket?;
        let by = |f: fn(&TcpInfo) -> u64| f(&s.last).saturating_sub(f(&s.first));
        let seconds = f64::from(end.host.interval_ms.max(1)) / 1_000.0;
        let segments = by(|t| t.data_segments_out.into());
        let again = by(|t| t.total_retransmits.into());
        let needless = by(|t| t.duplicates.into()).min(again);
        let lost = again - needless;
        let delivered = by(|t| t.delivered.into());
        let busy_us = by(|t| t.busy_us);
        let part = |n: u64, of: u64| if of == 0 { 0.0 } else { (n as f64 / of as f64).min(1.0) };
        let timeouts = if s.last.bytes >= 242 {
            by(|t| t.timeouts.into())
        } else {
            end.host.counter("TcpExt.TCPTimeouts")
        };
        let (stall_ms, stalled_now, silences) = stalls(&s.samples);
        let ms = |us: u32| f64::from(us) / 1_000.0;
        let steps = s.samples.windows(2);
        let with_loss = steps.filter(|w| w[1].retransmits > w[0].retransmits).count();
        Some(Sending {
            segments,
            lost,
            needless,
            reordered: by(|t| t.reordered.into()),
            loss: part(lost, segments),
            timeouts,
            stall_ms,
            stalled_now,
            silences,
            loss_spread: share(with_loss, s.samples.len().saturating_sub(1)),
            busy: (busy_us as f64 / (seconds * 1e6)).min(1.0),
            by_window: part(by(|t| t.window_limited_us), busy_us),
            by_buffer: part(by(|t| t.send_buffer_limited_us), busy_us),
            shut: if s.last.knows_peer_window() {
                s.share(|m| m.peer_window < 2 * s.last.send_mss.max(536))
            } else {
                0.0
            },
            backlog: s.share(|m| m.not_sent > 0),
            rtt_ms: ms(s.median(|m| m.rtt_us)),
            rtt_low_ms: ms(s.quantile(0.1, |m| m.rtt_us)),
            rtt_high_ms: ms(s.quantile(0.9, |m| m.rtt_us)),
            // u32::MAX: not measured yet
            rtt_min_ms: if s.last.min_rtt_us == u32::MAX { 0.0 } else { ms(s.last.min_rtt_us) },
            marked: part(by(|t| t.delivered_ce.into()), delivered),
            rate: s.moved() as f64 / seconds,
        })
    }

    /// Round trip beyond the smallest one, ms.
    pub(super) fn queueing_ms(&self) -> f64 {
        (self.rtt_ms - self.rtt_min_ms).max(0.0)
    }
}

/// Longest silence, whether it lasts, and how many ended.
fn stalls(samples: &[Sample]) -> (u32, bool, u32) {
    /// Shorter ones are round trips.
    const SILENCE_MS: u32 = 150;
    let (mut longest, mut ended) = (0, 0);
    let mut since: Option<u32> = None;
    for pair in samples.windows(2) {
        let (before, now) = (&pair[0], &pair[1]);
        // a peer that shut its window is no silence
        let under_way = before.unacked > 0 && now.unacked > 0;
        if under_way && now.acked == before.acked {
            let begin = *since.get_or_insert(before.at_ms);
            longest = longest.max(now.at_ms.saturating_sub(begin));
        } else if let Some(begin) = since.take() {
            ended += u32::from(before.at_ms.saturating_sub(begin) >= SILENCE_MS);
        }
    }
    let lasts =
        since.zip(samples.last()).is_some_and(|(begin, last)| last.at_ms.saturating_sub(begin) >= 500);
    (longest, lasts, ended)
}

/// How a process fared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Running {
    /// Share of the interval in which it could have run and did not: it waited for a processor or was held back by a quota.
    pub(super) kept_waiting: f64,
    /// Of that, by a quota.
    pub(super) throttled: f64,
    /// Share of the interval in which its thread ran.
    pub(super) ran: f64,
    /// Stopped by a signal or a debugger.
    pub(super) stopped: bool,
}

impl Running {
    /// The process that owns an end's socket.
    pub(super) fn of(end: End<'_>) -> Option<(Running, &ProcessFacts)> {
        let process = end.host.process(end.socket?.pid?)?;
        let interval_ns = f64::from(end.host.interval_ms.max(1)) * 1e6;
        let share = |ns: u64| (ns as f64 / interval_ns).min(1.0);
        // quotas are counted for each processor, so the time may be more than there was; the share of periods bounds it
        let periods = match process.throttled_periods {
            (_, 0) => 0.0,
            (some, all) => some as f64 / all as f64,
        };
        let throttled = share(process.throttled_ns).min(periods);
        let running = Running {
            // a kernel counts a thread that is held back as one that waits, or does not
            kept_waiting: share(process.waiter_delay_ns).max(throttled),
            throttled,
            ran: share(process.waiter_cpu_ns),
            stopped: matches!(process.state, 'T' | 't'),
        };
        Some((running, process))
    }
}
