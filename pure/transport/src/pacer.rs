//! The receiver's pacer: one a host, shared by every connection that receives there.
//!
//! How: whoever wants grants stands in line. Connections whose message is nearly here go first, the one that lacks
//! least before the others; the rest take turns. Grants go out at the speed of the port, a couple of packets at a time,
//! so that what all senders together send fits the last hop. A connection is granted no more than a fixed number of
//! bytes ahead of what arrived, so that a sender that is slow for reasons of its own does not hold back the others.
//!
//! Invariants: a connection stands in line once; the line is as long as there are connections; nothing is granted that
//! was not asked for.
//! Absent on purpose: any knowledge of windows or paths.

use crate::config::Config;
use crate::connection::Connection;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use wire::Nanos;

/// Packets granted at a time.
const QUANTUM_PACKETS: u32 = 2;
/// Speed of the grants to several senders, in parts per thousand of the port's: a queue that stands at the last hop
/// drains slowly.
const PACE_SEVERAL: u64 = 998;
/// To one alone: nobody else makes up for its jitter, so that a queue has to drain sooner.
const PACE_ALONE: u64 = 993;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Away,
    /// Among the short ones, with what it lacks.
    Short(u64),
    Turn,
}

/// Grants of one host.
#[derive(Clone, Debug)]
pub struct Pacer {
    ahead: u64,
    quantum: u64,
    short_below: u64,
    /// Nanoseconds a byte, times 2^20, for several senders and for one.
    per_byte: [u64; 2],
    places: Vec<Place>,
    /// Whose peer has begun something that is not whole yet, and how many these are.
    receiving: Vec<bool>,
    senders: u32,
    short: BTreeSet<(u64, u32)>,
    turns: VecDeque<u32>,
    free_at: Nanos,
    /// Time owed below a nanosecond, times 2^20.
    fraction: u64,
}

impl Pacer {
    /// A pacer for a port of `config.rate_bps`.
    pub fn new(config: &Config) -> Self {
        let bdp = u64::from(config.bdp_bytes());
        let rate = u128::from(config.rate_bps.max(1));
        let per_byte = |pace: u64| (8_000_000_000u128 * (1000 << 20) / (rate * u128::from(pace))) as u64;
        Self {
            ahead: bdp * 3 / 2,
            quantum: u64::from(QUANTUM_PACKETS * config.packet_bytes()),
            short_below: bdp,
            per_byte: [per_byte(PACE_SEVERAL), per_byte(PACE_ALONE)],
            places: Vec::new(),
            receiving: Vec::new(),
            senders: 0,
            short: BTreeSet::new(),
            turns: VecDeque::new(),
            free_at: Nanos::ZERO,
            fraction: 0,
        }
    }

    fn leave(&mut self, slot: u32) {
        if let Some(place) = self.places.get_mut(slot as usize)
            && let Place::Short(left) = *place
        {
            self.short.remove(&(left, slot));
            *place = Place::Away;
        }
    }

    /// Looks again at what the connection kept under `slot` wants. To be called after packets were handed to it.
    pub fn handle_input(&mut self, slot: u32, connection: &mut Connection) {
        while self.places.len() <= slot as usize {
            self.places.push(Place::Away);
            self.receiving.push(false);
        }
        let receiving = connection.is_receiving();
        if let Some(before) = self.receiving.get_mut(slot as usize)
            && *before != receiving
        {
            *before = receiving;
            self.senders = if receiving { self.senders + 1 } else { self.senders - 1 };
        }
        connection.bind(self.senders > 1);
        if connection.grantable(self.ahead) == 0 {
            // one in turn is passed over when its turn comes
            self.leave(slot);
            return;
        }
        let left = connection.left_to_receive();
        let now = if left < self.short_below { Place::Short(left) } else { Place::Turn };
        let Some(place) = self.places.get_mut(slot as usize) else { return };
        if *place == now || *place == Place::Turn {
            return;
        }
        if let Place::Short(old) = *place {
            self.short.remove(&(old, slot));
        }
        *place = now;
        match now {
            Place::Short(left) => drop(self.short.insert((left, slot))),
            _ => self.turns.push_back(slot),
        }
    }

    /// Which connection may be granted something now.
    pub fn poll_slot(&mut self, now: Nanos) -> Option<u32> {
        if now < self.free_at {
            return None;
        }
        if let Some(&(_, slot)) = self.short.first() {
            return Some(slot);
        }
        self.turns.front().copied()
    }

    /// Grants to the connection that [`Pacer::poll_slot`] named. True where it now has something to send.
    pub fn grant(&mut self, now: Nanos, slot: u32, connection: &mut Connection) -> bool {
        let bytes = connection.grantable(self.ahead).min(self.quantum);
        match self.places.get(slot as usize) {
            Some(Place::Short(_)) => self.leave(slot),
            Some(Place::Turn) => {
                self.turns.pop_front();
                if let Some(p) = self.places.get_mut(slot as usize) {
                    *p = Place::Away;
                }
            }
            _ => {}
        }
        if bytes == 0 {
            return false;
        }
        connection.grant(now, bytes);
        let time = bytes * self.per_byte[usize::from(self.senders < 2)] + self.fraction;
        self.fraction = time % (1 << 20);
        self.free_at = self.free_at.max(now) + Nanos(time >> 20);
        self.handle_input(slot, connection);
        true
    }

    /// When the next grant may go out; `None` where nobody waits.
    pub fn next_timeout(&self) -> Option<Nanos> {
        (!self.short.is_empty() || !self.turns.is_empty()).then_some(self.free_at)
    }
}
