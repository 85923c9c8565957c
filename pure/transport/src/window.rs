//! The sender's window: how much may be on the way through the fabric.
//!
//! How: two signals, marks and delay, span four quadrants, as in NSCC (Ultra Ethernet specification 1.0). Neither: the
//! window grows by half. Delay without marks: it grows by a fixed number of packets a round trip, which is what makes
//! windows that meet at one link equal in the end. Marks without delay: it stays, the balancing will see to it. Both:
//! it gives up a part of what was marked. The delay is the median of the recent reports, because under spraying the
//! newest one speaks of one path among many (arXiv 2509.07907). A trim takes its bytes out of the window, so that
//! after a round of trims the window is what came through. A queue of several targets takes more than a mark does; where
//! the network marks nothing its owner says so by counting such queues as marks, and gives a floor: what arrived of late,
//! at best ([`Rate`]), always fits, because the delay of a host that runs late does not go away with a smaller window.
//!
//! Invariants: one packet `<= bytes <= most`: where many senders meet, the receiver's grants see to
//! it that one packet each is not too much.
//! Absent on purpose: pacing; ACKs and grants do that.

use crate::config::Config;
use wire::Nanos;

/// Reports the median is taken of.
const SAMPLES: usize = 15;
/// How much a marked byte takes out of the window, at the target delay and above.
const DECREASE: f64 = 0.1;
/// Times the target, from which a queue is one that nothing holds short but us.
pub(crate) const DEEP: f64 = 3.0;
/// Most that an acknowledged byte takes out of the window then.
const DEEP_DECREASE: f64 = 0.2;
/// What an unmarked byte adds where there is hardly a queue.
const GROW: f64 = 0.5;
/// Packets a round trip adds where there is one.
const ADD_PACKETS: f64 = 2.0;
/// Below this share of the target, a delay is hardly a queue.
const SHORT: f64 = 0.5;

/// Shortest time a rate is taken over.
const RATE_OVER: Nanos = Nanos(10_000_000);
/// How long the best rate is remembered, once or twice.
const RATE_SPELL: Nanos = Nanos(200_000_000);

/// How fast things arrived of late, at best.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    since: Nanos,
    bytes: u64,
    best: [f64; 2],
    spell_at: Nanos,
}

impl Rate {
    pub fn new(now: Nanos) -> Self {
        Self { since: now, bytes: 0, best: [0.0; 2], spell_at: now }
    }

    /// `bytes` arrived.
    pub fn acked(&mut self, now: Nanos, bytes: u32) {
        self.bytes += u64::from(bytes);
        let took = now.since(self.since);
        if took < RATE_OVER {
            return;
        }
        if now.since(self.spell_at) > RATE_SPELL {
            (self.best, self.spell_at) = ([0.0, self.best[0]], now);
        }
        self.best[0] = self.best[0].max(self.bytes as f64 / took.0 as f64);
        (self.since, self.bytes) = (now, 0);
    }

    /// Bytes that arrive in this time, at best.
    pub fn bytes_in(&self, time: Nanos) -> f64 {
        self.best[0].max(self.best[1]) * time.0 as f64
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Window {
    bytes: f64,
    most: f64,
    packet: f64,
    target: f64,
    samples: [u32; SAMPLES],
    next: usize,
    filled: usize,
    median: u32,
    stale: bool,
}

impl Window {
    pub fn new(config: &Config) -> Self {
        let packet = f64::from(config.packet_bytes());
        let most = f64::from(config.window_max_bytes()).max(packet);
        let bytes = f64::from(config.window_initial_bytes.unwrap_or(config.bdp_bytes() * 3 / 2));
        Self {
            bytes: bytes.clamp(packet, most),
            most,
            packet,
            target: (config.queue_target.0 as f64).max(1.0),
            samples: [0; SAMPLES],
            next: 0,
            filled: 0,
            median: 0,
            stale: false,
        }
    }

    pub fn bytes(&self) -> f64 {
        self.bytes
    }

    /// One report's queueing delay.
    pub fn sample(&mut self, queue_ns: u32) {
        self.samples[self.next] = queue_ns;
        self.next = (self.next + 1) % SAMPLES;
        self.filled = (self.filled + 1).min(SAMPLES);
        self.stale = true;
    }

    /// Queueing of late, nanoseconds.
    pub fn median(&mut self) -> f64 {
        if self.stale {
            let mut sorted = self.samples;
            let part = &mut sorted[..self.filled];
            part.sort_unstable();
            self.median = part.get(self.filled / 2).copied().unwrap_or(0);
            self.stale = false;
        }
        f64::from(self.median)
    }

    /// `bytes` arrived, in packets of which `marked` of `packets` were marked. Marks do not take the window below `floor`.
    pub fn acked(&mut self, bytes: u32, marked: u32, packets: u32, floor: f64) {
        let delay = self.median();
        let acked = f64::from(bytes);
        let short = delay < self.target * SHORT;
        match (marked > 0, short) {
            (false, true) => self.bytes += acked * GROW,
            (false, false) => self.bytes += ADD_PACKETS * acked * self.packet / self.bytes,
            (true, true) => {}
            (true, false) => {
                let share = f64::from(marked) / f64::from(packets.max(1));
                let gently = DECREASE * (delay / self.target).min(1.0);
                let deep = DEEP_DECREASE * (1.0 - DEEP * self.target / delay.max(1.0));
                let less = self.bytes - acked * share * gently.max(deep);
                self.bytes = less.max(floor.min(self.bytes));
            }
        }
        self.bytes = self.bytes.clamp(self.packet, self.most);
    }

    /// A packet was trimmed, or lost for want of a queue.
    pub fn trimmed(&mut self, bytes: u32) {
        self.bytes = (self.bytes - f64::from(bytes)).max(self.packet);
    }
}
