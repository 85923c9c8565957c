//! The receiving half: which packets arrived, which chunks of which messages, and what to tell the sender.
//!
//! How: a ring of bits remembers which packet numbers arrived above the one everything below has; a bit per chunk
//! remembers what is placed, because a lost chunk comes again under another number. An ACK is due after so many bytes,
//! at the first packet, at the end of a message, when the sender asks, and after half a round trip at the latest; where
//! the sender does not mind, with the next data that goes the other way instead.
//! An ACK's bitmap begins at the oldest open number while that reaches what arrived. Where a slow path holds that one
//! back, it begins so that it names what is new, and every other ACK is followed by one that names a piece of the rest.
//! A trimmed header calls for a NACK at once.
//!
//! Invariants: memory is bounded by the limits of [`Config`]; a chunk is placed once; whatever has no effect is counted.
//! A trimmed packet does not raise an EV's highest number: it went ahead of the data queued before it.
//! Absent on purpose: the bytes themselves: the owner places them where [`Outcome::Place`] says.

use crate::bits::Bits;
use crate::config::{Config, grown};
use crate::event::{Counters, Event, Outcome, Reason};
use crate::window::Window;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use wire::Nanos;
use wire::transport::{
    Ack, BITMAP_BITS, BITMAP_WORDS, ConnectionId, Credit, Data, DataFlags, Ev, EvFeedback, FEEDBACK_MAX,
    Nack, NackReason, Packet, Probe, Seen, low,
};

/// Chunks a message may have: a bit each.
const CHUNKS_MAX: u64 = 1 << 20;
/// EVs of recent arrivals remembered, to answer on.
const RECENT: usize = 4;
/// Round trips without anything of what was granted, after which it is said again.
const RETELL_RTTS: u64 = 3;
/// NACKs kept until they can be sent; more are left to the ACK's bitmap.
const NACKS_MAX: usize = 1024;

/// What is known of one EV, as the receiver sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    feedback: EvFeedback,
    dirty: bool,
}

#[derive(Clone, Debug)]
struct Incoming {
    bytes: u64,
    chunk_bytes: u16,
    have: Vec<u64>,
    missing: u32,
}

#[derive(Clone, Debug)]
enum Slot {
    Unknown,
    Open(Incoming),
    Done,
}

#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    /// Every number below arrived, or the sender gave it up.
    base: u64,
    /// One above the highest number seen.
    top: u64,
    arrived: Bits,
    trimmed: Bits,
    evs: Vec<Heard>,
    dirty: [u16; FEEDBACK_MAX],
    dirty_len: usize,
    nacks: VecDeque<Nack>,
    /// Bytes since the last ACK.
    unacked: u32,
    /// The lowest and one above the highest number that arrived and was not in a bitmap yet.
    fresh: Option<(u64, u64)>,
    /// Where the rest is to be named next, and whether it is time for that.
    sweep: u64,
    sweeps: bool,
    /// Something arrived whose ACK goes with the next data of ours.
    owed: bool,
    /// Grants waited long enough.
    flush: bool,
    first: bool,
    ack_now: bool,
    probe: Option<Ev>,
    ack_at: Option<Nanos>,
    credit_at: Option<Nanos>,
    newest_at: Nanos,
    /// EVs something arrived on last, the newest first, no two alike.
    recent: [Ev; RECENT],
    recent_len: usize,
    /// When to say again what was granted, where nothing comes of it, and how often that was done.
    retell_at: Option<Nanos>,
    retells: u32,
    rtt_base: Nanos,
    messages: VecDeque<Slot>,
    message_first: u32,
    placed: u32,
    /// Senders are always bound by grants.
    always: bool,
    bdp_bytes: u64,
    /// This one is.
    binding: bool,
    /// Where the sender keeps no window, one is kept for it here: it bounds what is granted ahead.
    window: Option<Window>,
    delay_least: Option<u32>,
    /// Messages begun and not whole.
    open: u32,
    /// Bytes the sender wants granted, so far.
    wanted: u64,
    granted: u64,
    /// Granted bytes that arrived, whole or trimmed, or are known gone.
    used: u64,
    granted_told: u64,
    /// Bytes the newest open message still lacks.
    left: u64,
}

/// Packet numbers kept: all that may be on the way, and a word more, because what is above is refused by the word.
fn numbers(config: &Config) -> u64 {
    (config.numbers_max() + 64).max(u64::from(config.packets_max) * 2)
}

/// `wide` moved to the nearest value with the low bits `narrow`.
pub(crate) fn widen(wide: u64, narrow: u32) -> u64 {
    let diff = narrow.wrapping_sub(wide as u32) as i32;
    wide.saturating_add_signed(i64::from(diff))
}

impl Receiver {
    pub fn new(config: &Config) -> Self {
        let numbers = numbers(config);
        Self {
            base: 0,
            top: 0,
            arrived: Bits::new(numbers),
            trimmed: Bits::new(numbers),
            evs: vec![Heard::default(); usize::from(config.evs.max(1))],
            dirty: [0; FEEDBACK_MAX],
            dirty_len: 0,
            nacks: VecDeque::new(),
            unacked: 0,
            fresh: None,
            sweep: 0,
            sweeps: false,
            owed: false,
            flush: false,
            first: true,
            ack_now: false,
            probe: None,
            ack_at: None,
            credit_at: None,
            newest_at: Nanos::ZERO,
            recent: [Ev(0); RECENT],
            recent_len: 0,
            retell_at: None,
            retells: 0,
            rtt_base: config.rtt_base,
            messages: VecDeque::new(),
            message_first: 0,
            placed: 0,
            bdp_bytes: u64::from(config.bdp_bytes()),
            always: config.control.always_grants(),
            binding: config.control.always_grants(),
            window: (!config.control.window()).then(|| Window::new(config)),
            delay_least: None,
            open: 0,
            wanted: 0,
            granted: 0,
            used: 0,
            granted_told: 0,
            left: 0,
        }
    }

    /// Moves the base up: to the sender's floor, then over everything that arrived.
    fn advance(&mut self, floor: u64, config: &Config) {
        let floor = floor.min(self.top);
        while self.base < floor || (self.base < self.top && self.arrived.get(self.base)) {
            if !self.arrived.get(self.base) && !self.trimmed.get(self.base) {
                // dropped without a trace: whatever was granted for it is spent
                self.used += u64::from(config.packet_bytes());
            }
            self.arrived.clear(self.base);
            self.trimmed.clear(self.base);
            self.base += 1;
        }
    }

    /// Checks a packet number and remembers it; `None` where it is to be taken.
    fn number(&mut self, number: u64, floor: u64, config: &Config) -> Option<Reason> {
        if number >= self.base + self.arrived.len() - 64 {
            // the floor may make room
            self.advance(floor, config);
            if floor > self.base && floor <= number {
                // nothing at all arrived of what the sender gave up
                (self.base, self.top) = (floor, floor);
            }
            if number >= self.base + self.arrived.len() - 64 {
                return Some(Reason::NumberTooHigh);
            }
        }
        if number < self.base || self.arrived.get(number) {
            return Some(Reason::Duplicate);
        }
        self.top = self.top.max(number + 1);
        None
    }

    fn arrive(&mut self, number: u64) {
        self.arrived.set(number);
        let (least, end) = self.fresh.unwrap_or((number, 0));
        self.fresh = Some((least.min(number), end.max(number + 1)));
    }

    /// Where an ACK's bitmap begins, above the base.
    fn bitmap_ahead(&mut self) -> u16 {
        let fresh = self.fresh.take().filter(|&(_, end)| end > self.base);
        if self.top.saturating_sub(self.base) <= BITMAP_BITS {
            self.sweeps = false;
            return 0;
        }
        let from = if let Some((least, end)) = fresh {
            let from = least.min(end.saturating_sub(BITMAP_BITS)).max(self.base);
            if end > from + BITMAP_BITS {
                self.fresh = Some((from + BITMAP_BITS, end));
            }
            self.sweeps = !self.sweeps;
            from
        } else {
            self.sweeps = false;
            let from = if self.sweep < self.base || self.sweep >= self.top { self.base } else { self.sweep };
            self.sweep = from + BITMAP_BITS;
            from
        };
        // the rest goes in a further ACK
        self.ack_now = self.fresh.is_some() || self.sweeps;
        u16::try_from(from - self.base).unwrap_or(0)
    }

    fn hear(&mut self, now: Nanos, ev: Ev, seq: u32, sent_ns: u32, seen: Seen) {
        let Some(h) = self.evs.get_mut(usize::from(ev.0)) else { return };
        if self.recent_len == 0 || self.recent[0] != ev {
            let known = self.recent.iter().take(self.recent_len).position(|e| *e == ev);
            self.recent_len = (self.recent_len + usize::from(known.is_none())).min(RECENT);
            self.recent[..=known.unwrap_or(self.recent_len - 1)].rotate_right(1);
            self.recent[0] = ev;
        }
        let delay = low(now).wrapping_sub(sent_ns);
        let f = &mut h.feedback;
        f.ev = ev;
        f.marked = f.marked.wrapping_add(u32::from(seen.marked));
        f.trimmed = f.trimmed.wrapping_add(u32::from(seen.trimmed));
        if !seen.trimmed {
            if f.received == f.trimmed || seq.wrapping_sub(f.highest) as i32 > 0 {
                f.highest = seq;
            }
            f.echo_ns = sent_ns;
            if h.dirty {
                f.delay_min_ns =
                    if (delay.wrapping_sub(f.delay_min_ns) as i32) < 0 { delay } else { f.delay_min_ns };
                f.delay_max_ns =
                    if (delay.wrapping_sub(f.delay_max_ns) as i32) > 0 { delay } else { f.delay_max_ns };
            } else {
                (f.delay_min_ns, f.delay_max_ns) = (delay, delay);
            }
        }
        f.received = f.received.wrapping_add(1);
        if !h.dirty && !seen.trimmed {
            h.dirty = true;
            if let Some(d) = self.dirty.get_mut(self.dirty_len) {
                *d = ev.0;
                self.dirty_len += 1;
            }
            // one more EV than fits would have to wait for the next ACK
            self.ack_now |= self.dirty_len == FEEDBACK_MAX;
        }
    }

    /// A packet its sender gave up too early is of no more use, but its path did deliver it. A copy of one that was heard
    /// is never above the highest of its EV.
    fn hear_late(&mut self, now: Nanos, ev: Ev, seq: u32, sent_ns: u32, seen: Seen, why: Reason) {
        let Some(h) = self.evs.get(usize::from(ev.0)) else { return };
        let f = &h.feedback;
        let first = f.received == f.trimmed || seq.wrapping_sub(f.highest) as i32 > 0;
        if why == Reason::Duplicate && !seen.trimmed && first {
            self.hear(now, ev, seq, sent_ns, seen);
        }
    }

    fn observe(&mut self, now: Nanos, sent_ns: u32, wire_bytes: u32, seen: Seen) {
        let Some(window) = &mut self.window else { return };
        if seen.trimmed {
            return window.trimmed(wire_bytes);
        }
        let delay = low(now).wrapping_sub(sent_ns);
        let least = match self.delay_least {
            Some(least) if (delay.wrapping_sub(least) as i32) >= 0 => least,
            _ => delay,
        };
        self.delay_least = Some(least);
        window.sample(delay.wrapping_sub(least).min(1 << 30));
        window.acked(wire_bytes, u32::from(seen.marked), 1, 0.0);
    }

    fn want(&mut self, demand: u32) {
        self.wanted = self.wanted.max(widen(self.wanted, demand));
    }

    pub fn handle_request(&mut self, demand: u32, left: u32) {
        self.want(demand);
        self.left = u64::from(left);
        // a grant may have been lost, or the news that none is needed
        self.ack_now = true;
    }

    pub fn handle_probe(
        &mut self,
        now: Nanos,
        p: &Probe,
        seen: Seen,
        config: &Config,
        counters: &mut Counters,
    ) -> Outcome {
        if usize::from(p.ev.0) >= self.evs.len() {
            return counters.drop(Reason::NoSuchEv);
        }
        self.want(p.demand);
        if let Some(reason) = self.number(p.number, p.floor, config) {
            self.hear_late(now, p.ev, p.ev_seq, p.sent_ns, seen, reason);
            return counters.drop(reason);
        }
        self.arrive(p.number);
        self.hear(now, p.ev, p.ev_seq, p.sent_ns, seen);
        self.newest_at = now;
        self.advance(p.floor, config);
        self.probe = Some(p.ev);
        Outcome::Accepted
    }

    pub fn handle_data(
        &mut self,
        now: Nanos,
        d: &Data,
        seen: Seen,
        config: &Config,
        counters: &mut Counters,
        events: &mut VecDeque<Event>,
    ) -> Outcome {
        if usize::from(d.ev.0) >= self.evs.len() {
            return counters.drop(Reason::NoSuchEv);
        }
        if let Err(reason) = check(d, config) {
            return counters.drop(reason);
        }
        self.want(d.demand);
        if let Some(reason) = self.number(d.number, d.floor, config) {
            // it may be a copy whose ACK was lost
            self.ack_now |= reason == Reason::Duplicate && !seen.trimmed;
            self.hear_late(now, d.ev, d.ev_seq, d.sent_ns, seen, reason);
            return counters.drop(reason);
        }
        let wire_bytes = u32::from(d.bytes) + u32::from(config.header_bytes);
        self.observe(now, d.sent_ns, wire_bytes, seen);
        if !d.flags.has(DataFlags::BLIND) && !self.trimmed.get(d.number) {
            self.used += u64::from(wire_bytes);
            if !self.binding {
                self.granted = self.granted.max(self.used);
                self.granted_told = self.granted_told.max(self.used);
            }
        }
        self.hear(now, d.ev, d.ev_seq, d.sent_ns, seen);
        if seen.trimmed {
            self.trimmed.set(d.number);
            // it will be sent again, and needs a grant for that
            self.wanted += u64::from(wire_bytes);
            self.nack(d, NackReason::Trimmed);
            self.advance(d.floor, config);
            return Outcome::Accepted;
        }
        let at = d.message.0.wrapping_sub(self.message_first);
        if (at as i32) >= 0 && at >= config.messages_max {
            // not taken: the number stays open, so that it is not acknowledged
            self.nack(d, NackReason::NoRoom);
            return counters.drop(Reason::NoRoom);
        }
        self.arrive(d.number);
        self.advance(d.floor, config);
        self.newest_at = now;
        self.retells = 0;
        self.unacked = self.unacked.saturating_add(wire_bytes);
        let patient = d.flags.has(DataFlags::MAY_WAIT);
        self.owed |= patient;
        self.ack_now |= self.unacked >= config.ack_every_bytes
            || !patient && (self.first || d.flags.has(DataFlags::ACK_NOW));
        self.first = false;
        if self.ack_at.is_none() {
            self.ack_at = Some(now + Nanos(config.rtt_base.0 / 2));
        }
        if (at as i32) < 0 {
            counters.chunks_twice += 1;
            self.ack_now = true;
            return Outcome::Accepted;
        }
        self.place(d, at as usize, counters, events)
    }

    fn place(
        &mut self,
        d: &Data,
        at: usize,
        counters: &mut Counters,
        events: &mut VecDeque<Event>,
    ) -> Outcome {
        while self.messages.len() <= at {
            self.messages.push_back(Slot::Unknown);
        }
        let Some(slot) = self.messages.get_mut(at) else { return counters.drop(Reason::NoRoom) };
        if matches!(slot, Slot::Unknown) {
            let chunks = d.message_bytes.div_ceil(u64::from(d.chunk_bytes));
            *slot = Slot::Open(Incoming {
                bytes: d.message_bytes,
                chunk_bytes: d.chunk_bytes,
                have: vec![0; chunks.div_ceil(64) as usize],
                missing: chunks as u32,
            });
            self.open += 1;
        }
        let Slot::Open(m) = slot else {
            counters.chunks_twice += 1;
            self.ack_now = true;
            return Outcome::Accepted;
        };
        if m.bytes != d.message_bytes || m.chunk_bytes != d.chunk_bytes {
            return counters.drop(Reason::BadChunk);
        }
        let chunk = d.offset / u64::from(d.chunk_bytes);
        let Some(word) = m.have.get_mut((chunk / 64) as usize) else {
            return counters.drop(Reason::BadChunk);
        };
        if *word >> (chunk % 64) & 1 == 1 {
            counters.chunks_twice += 1;
            self.ack_now = true;
            return Outcome::Accepted;
        }
        *word |= 1 << (chunk % 64);
        m.missing -= 1;
        self.left = u64::from(m.missing) * u64::from(m.chunk_bytes);
        counters.placed += 1;
        self.placed = self.placed.wrapping_add(u32::from(d.bytes));
        if m.missing == 0 {
            *slot = Slot::Done;
            self.open -= 1;
            self.ack_now |= !d.flags.has(DataFlags::MAY_WAIT);
            counters.messages_received += 1;
            events.push_back(Event::Received {
                message: d.message,
                bytes: d.message_bytes,
                target: d.target,
            });
            while matches!(self.messages.front(), Some(Slot::Done)) {
                self.messages.pop_front();
                self.message_first = self.message_first.wrapping_add(1);
            }
        }
        Outcome::Place { message: d.message, offset: d.offset, bytes: d.bytes, target: d.target }
    }

    fn nack(&mut self, d: &Data, reason: NackReason) {
        if self.nacks.len() < NACKS_MAX {
            let connection = ConnectionId::default();
            let (number, ev) = (d.number, d.ev);
            self.nacks.push_back(Nack { connection, number, reason, ev, granted: 0, grants: false });
        }
    }

    /// How many bytes may still be granted while no more than `ahead` are granted and not here.
    pub fn grantable(&self, ahead: u64) -> u64 {
        let ahead = self.window.as_ref().map_or(ahead, |w| ahead.min(w.bytes() as u64));
        self.wanted.min(self.used.saturating_add(ahead)).saturating_sub(self.granted)
    }

    /// Bytes on the heap.
    pub fn memory_bytes(&self) -> usize {
        let have = |s: &Slot| if let Slot::Open(m) = s { m.have.capacity() * 8 } else { 0 };
        (self.arrived.len() + self.trimmed.len()) as usize / 8
            + self.evs.capacity() * size_of::<Heard>()
            + self.nacks.capacity() * size_of::<Nack>()
            + self.messages.capacity() * size_of::<Slot>()
            + self.messages.iter().map(have).sum::<usize>()
    }

    /// The most these can be.
    pub fn memory_bytes_max(config: &Config) -> u64 {
        let of = |n: u64, size: usize| n * size as u64;
        let chunks = config.message_bytes_max.min(CHUNKS_MAX);
        let messages = u64::from(config.messages_max);
        2 * Bits::memory_bytes(numbers(config))
            + of(u64::from(config.evs.max(1)), size_of::<Heard>())
            + of(grown(NACKS_MAX as u64), size_of::<Nack>())
            + of(grown(messages), size_of::<Slot>())
            + messages * chunks.div_ceil(64) * 8
    }

    /// Is the sender here with a message that is not whole?
    pub fn is_receiving(&self) -> bool {
        self.open > 0 || self.wanted > self.granted
    }

    /// Senders meet here, or no longer do.
    pub fn bind(&mut self, several: bool) {
        let binding = self.always || several;
        if binding && !self.binding && self.used > 0 {
            // what the sender put on the way while it was alone needs no grant after the fact
            self.granted = self.granted.max(self.wanted.min(self.used + self.bdp_bytes));
        }
        self.binding = binding;
    }

    /// One of the EVs something arrived on last: they are alive. Every other time the newest; none where nothing has.
    pub fn alive(&self, drawn: u64) -> Option<Ev> {
        let known = self.recent.get(..self.recent_len)?;
        let any = (drawn >> 1).checked_rem(known.len() as u64)?;
        known.get(if drawn & 1 == 0 { 0 } else { any as usize }).copied()
    }

    pub fn binding(&self) -> bool {
        self.binding
    }

    /// Bytes the message that moved last still lacks.
    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn grant(&mut self, now: Nanos, bytes: u64, config: &Config) {
        self.granted += bytes;
        // while packets stream in, the next ACK is not further away than this
        let soon = now + config.serialization(config.ack_every_bytes + config.packet_bytes());
        if self.credit_at.is_none() {
            self.credit_at = Some(soon);
        }
        self.flush |= now.since(self.newest_at) > soon.since(now);
    }

    /// Data goes the other way: what is owed goes along, where it waited for half of its time.
    pub fn accompany(&mut self, now: Nanos) {
        let soon = now + Nanos(self.rtt_base.0 / 4);
        self.ack_now |= self.owed && self.ack_at.is_some_and(|at| at <= soon);
    }

    pub fn has_output(&self) -> bool {
        self.ack_now || self.probe.is_some() || !self.nacks.is_empty() || self.credit_due()
    }

    /// Grants ride on ACKs. They go by themselves where no ACK came for a while.
    fn credit_due(&self) -> bool {
        self.flush && self.granted > self.granted_told
    }

    pub fn next_timeout(&self) -> Option<Nanos> {
        [self.ack_at, self.credit_at, self.retell_at].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Nanos) {
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_now = true;
        }
        if self.credit_at.is_some_and(|at| at <= now) {
            self.credit_at = None;
            self.flush = self.granted > self.granted_told;
        }
        if self.retell_at.is_some_and(|at| at <= now) {
            self.retell_at = None;
            let patience = self.patience();
            if self.granted_told <= self.used {
                self.retells = 0;
            } else if now.since(self.newest_at) < patience {
                self.retell_at = Some(self.newest_at + patience);
            } else {
                self.retells += 1;
                self.ack_now = true;
            }
        }
    }

    pub fn poll(&mut self, now: Nanos, peer: ConnectionId, counters: &mut Counters) -> Option<Packet> {
        let granted = self.granted as u32;
        if let Some(mut nack) = self.nacks.pop_front() {
            (nack.connection, nack.granted, nack.grants) = (peer, granted, self.binding);
            self.told(now);
            counters.nacks += 1;
            return Some(Packet::Nack(nack));
        }
        if self.ack_now || self.probe.is_some() {
            return Some(self.ack(now, peer, counters));
        }
        if self.credit_due() {
            if self.unacked > 0 {
                return Some(self.ack(now, peer, counters));
            }
            self.told(now);
            counters.credits += 1;
            return Some(Packet::Credit(Credit { connection: peer, granted }));
        }
        None
    }

    /// How long what was granted may come to nothing before it is said again.
    fn patience(&self) -> Nanos {
        Nanos((self.rtt_base.0 * RETELL_RTTS) << self.retells.min(6))
    }

    fn told(&mut self, now: Nanos) {
        self.granted_told = self.granted;
        if self.retell_at.is_none() && self.granted > self.used {
            self.retell_at = Some(now + self.patience());
        }
        self.flush = false;
        self.credit_at = None;
    }

    fn ack(&mut self, now: Nanos, peer: ConnectionId, counters: &mut Counters) -> Packet {
        self.ack_now = false;
        let ahead = self.bitmap_ahead();
        let mut ack = Ack {
            connection: peer,
            cumulative: self.base,
            ahead,
            bitmap: [0; BITMAP_WORDS],
            feedback_len: 0,
            granted: self.granted as u32,
            grants: self.binding,
            placed: self.placed,
            held_ns: u32::try_from(now.since(self.newest_at).0).unwrap_or(u32::MAX),
            ..Ack::default()
        };
        for (i, word) in ack.bitmap.iter_mut().enumerate() {
            let from = self.base + u64::from(ahead) + i as u64 * 64;
            if from >= self.top {
                break;
            }
            *word = self.arrived.word(from);
        }
        let probe = self.probe.take();
        // an EV that is probed is reported last, whether it has other news or not
        let evs = self.dirty.iter().take(self.dirty_len).copied().filter(|&ev| probe != Some(Ev(ev)));
        for ev in evs.chain(probe.map(|ev| ev.0)) {
            let Some(h) = self.evs.get_mut(usize::from(ev)) else { continue };
            h.dirty = false;
            // a place is kept for the probed one
            let last = probe.is_some() && probe != Some(Ev(ev));
            if usize::from(ack.feedback_len) + usize::from(last) >= FEEDBACK_MAX {
                continue;
            }
            if let Some(f) = ack.feedback.get_mut(usize::from(ack.feedback_len)) {
                *f = h.feedback;
                ack.feedback_len += 1;
            }
        }
        self.dirty_len = 0;
        self.unacked = 0;
        self.owed = false;
        self.ack_at = None;
        self.told(now);
        counters.acks += 1;
        if probe.is_some() { Packet::ProbeAnswer(ack) } else { Packet::Ack(ack) }
    }
}

/// Does a chunk lie in its message?
fn check(d: &Data, config: &Config) -> Result<(), Reason> {
    if d.chunk_bytes == 0 || d.bytes == 0 || d.message_bytes == 0 {
        return Err(Reason::BadChunk);
    }
    let chunk = u64::from(d.chunk_bytes);
    if d.message_bytes > config.message_bytes_max || d.message_bytes.div_ceil(chunk) > CHUNKS_MAX {
        return Err(Reason::MessageTooLong);
    }
    let Some(left) = d.message_bytes.checked_sub(d.offset) else { return Err(Reason::BadChunk) };
    if !d.offset.is_multiple_of(chunk) || u64::from(d.bytes) != left.min(chunk) || d.floor > d.number {
        return Err(Reason::BadChunk);
    }
    Ok(())
}
