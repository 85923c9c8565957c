//! The sending half: messages into chunks, chunks into packets on EVs.
//!
//! How: packets on the way lie in a ring by packet number, those of one EV chained in the order they were sent. Lost
//! chunks go before new ones. What may go out is bounded by the window and by what the receiver granted; before anything
//! was heard, by what may go blind. What comes back is in [`recover`].
//!
//! Invariants: a chunk is on the way at most once; the ring is bounded by `Config::packets_max`; everything sent has a
//! new packet number.
//! Absent on purpose: payload bytes.

mod recover;

use crate::config::{Config, grown};
use crate::event::{Counters, Event, Refused};
use crate::paths::{NONE, Path, Paths};
use crate::report::{PathReport, Reported, report};
use crate::window::{Rate, Window};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use wire::Nanos;
use wire::transport::{
    BITMAP_BITS, ConnectionId, CreditRequest, Data, DataFlags, Ev, MessageId, Packet, Probe, Target, low,
};

/// Round trips for which an idle sender believes that it is alone at its receiver.
const WARM_RTTS: u64 = 16;
/// A burst is at most this part of the window: else a few of them are all there is, and paths stand idle or full.
const WINDOW_SHARE: u64 = 8;
/// Where queues are long that nothing marks, this part: many paths share what is on the way, and evenly.
const PLAIN_SHARE: u64 = 32;
/// And this part of what is left to send, unless that is few.
const TAIL_SHARE: u64 = 4;
/// What "few" is.
const TAIL_SEGMENTS: u64 = 16;
/// Places in the ring at the beginning.
const RING_LEAST: u64 = 64;
/// Marks an entry that carries no chunk.
const PROBE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    Acknowledged,
    Lost,
}

/// A packet that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Nanos,
    /// The next packet of the same EV.
    next: u64,
    message: u32,
    chunk: u32,
    ev_seq: u32,
    wire_bytes: u32,
    ev: Ev,
    fate: Fate,
}

const BLANK: Sent = Sent {
    at: Nanos::ZERO,
    next: NONE,
    message: PROBE,
    chunk: 0,
    ev_seq: 0,
    wire_bytes: 0,
    ev: Ev(0),
    fate: Fate::Lost,
};

#[derive(Clone, Copy, Debug)]
struct Outgoing {
    target: Target,
    bytes: u64,
    chunks: u32,
    next: u32,
    acknowledged: u32,
    /// Nobody waits for its ACK.
    patient: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub paths: Paths,
    window: Window,
    ring: Vec<Sent>,
    floor: u64,
    next: u64,
    in_flight_bytes: u64,
    in_flight: u64,
    /// Of them, chunks.
    chunks: u64,
    messages: VecDeque<Outgoing>,
    message_first: u32,
    /// The first message with chunks never sent.
    cursor: usize,
    again: VecDeque<(u32, u32)>,
    /// Wire bytes that wait to be sent.
    backlog: u64,
    /// Wire bytes queued since the connection was last idle.
    busy: u64,
    /// Of them, sent without leave.
    blind: u64,
    /// Something came back since the connection was last idle.
    heard: bool,
    /// Does the receiver grant? Unknown before it was heard.
    bound: Option<bool>,
    granted: u64,
    used: u64,
    demand_told: u64,
    asked_at: Nanos,
    /// Requests since the last grant: each waits twice as long as the one before.
    asked: u32,
    /// Nothing came back since the last.
    unanswered: bool,
    /// One above the highest number lost without a trace, and below which the receiver knows every fate.
    gone: u64,
    known: u64,
    /// Longest round trip of this spell and of the one before.
    longest: [Nanos; 2],
    spell_at: Nanos,
    rtt: Nanos,
    delay_least: Option<u32>,
    /// When the newest packet known to have arrived was sent.
    newest: Nanos,
    /// Packet numbers below are within what an ACK's bitmap has shown: of those beyond nothing is known.
    shown: u64,
    /// Payload bytes the receiver placed so far: tells which of two ACKs is the later one.
    placed: u64,
    heard_at: Nanos,
    /// When something was heard last that was not known.
    news_at: Nanos,
    /// A probe is due since.
    probe_at: Option<Nanos>,
    /// When the last went out for want of any news.
    probed_at: Nanos,
    probe_wait: u32,
    last_at: Nanos,
    marks: recover::Marks,
    rate: Rate,
    /// The probe that is due is for nothing but to be answered.
    keeping_alive: bool,
    /// What was reported of each path so far; none where nobody asks.
    reported: Vec<Reported>,
}

/// Is this a message's length?
pub(crate) fn check(bytes: u64, config: &Config) -> Result<(), Refused> {
    let most = config.message_bytes_max.min(u64::from(config.chunk_bytes.max(1)) << 20);
    if bytes == 0 || bytes > most { Err(Refused::Length { bytes, most }) } else { Ok(()) }
}

impl Sender {
    pub fn new(config: &Config, random: u64, now: Nanos) -> Self {
        Self {
            paths: Paths::new(config, random),
            window: Window::new(config),
            ring: vec![BLANK; RING_LEAST as usize],
            floor: 0,
            next: 0,
            in_flight_bytes: 0,
            in_flight: 0,
            chunks: 0,
            messages: VecDeque::new(),
            message_first: 0,
            cursor: 0,
            again: VecDeque::new(),
            backlog: 0,
            busy: 0,
            blind: 0,
            heard: false,
            bound: config.control.always_grants().then_some(true),
            granted: 0,
            used: 0,
            demand_told: 0,
            asked_at: Nanos::ZERO,
            asked: 0,
            unanswered: false,
            gone: 0,
            known: 0,
            // nothing measured: slow to suspect
            longest: [Nanos(config.rtt_base.0 * 3), Nanos::MAX],
            spell_at: now,
            rtt: config.rtt_base,
            delay_least: None,
            newest: Nanos::ZERO,
            shown: BITMAP_BITS,
            placed: 0,
            heard_at: now,
            news_at: now,
            probe_at: None,
            probed_at: Nanos::ZERO,
            probe_wait: 0,
            last_at: Nanos::ZERO,
            marks: recover::Marks::Unknown,
            rate: Rate::new(now),
            keeping_alive: false,
            reported: Vec::new(),
        }
    }

    /// What became known of each path since the last call.
    pub fn report_paths(&mut self, events: &mut VecDeque<Event>, to: &mut dyn FnMut(PathReport)) {
        self.paths.explores = true;
        report(&self.paths, &mut self.reported, to);
        // what was lost at the end of an EV that is avoided since would never be known for sure: ask
        for ev in (0..self.paths.len()).map(|i| Ev(i as u16)) {
            if self.paths.get(ev).is_some_and(Path::is_in_doubt) && self.paths.assume_bad(ev) {
                events.push_back(Event::PathDown(ev));
            }
        }
    }

    fn slot(&self, number: u64) -> usize {
        number as usize & (self.ring.len() - 1)
    }

    fn sent(&self, number: u64) -> &Sent {
        &self.ring[self.slot(number)]
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Bytes on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Sent>()
            + self.messages.capacity() * size_of::<Outgoing>()
            + self.again.capacity() * size_of::<(u32, u32)>()
            + self.paths.memory_bytes()
    }

    /// The most these can be.
    pub fn memory_bytes_max(config: &Config) -> u64 {
        let of = |n: u64, size: usize| n * size as u64;
        let packets = config.numbers_max() + 1;
        of(packets.next_power_of_two().max(RING_LEAST), size_of::<Sent>())
            + of(grown(u64::from(config.messages_max)), size_of::<Outgoing>())
            + of(grown(packets), size_of::<(u32, u32)>())
            + Paths::memory_bytes_max(config)
    }

    pub fn window_bytes(&self) -> u64 {
        self.window.bytes() as u64
    }

    pub fn rtt(&self) -> Nanos {
        self.rtt
    }

    pub fn idle(&self) -> bool {
        self.backlog == 0 && self.chunks == 0
    }

    /// When something was last sent.
    pub fn last_at(&self) -> Nanos {
        self.last_at
    }

    /// Asks the peer whether it is there.
    pub fn keep_alive(&mut self, now: Nanos) {
        self.probe_at = Some(now);
        self.last_at = now;
        self.keeping_alive = true;
    }

    /// Takes a message for sending.
    pub fn send(
        &mut self,
        now: Nanos,
        target: Target,
        bytes: u64,
        patient: bool,
        config: &Config,
    ) -> Result<MessageId, Refused> {
        let chunks = bytes.div_ceil(u64::from(config.chunk_bytes.max(1)));
        check(bytes, config)?;
        if self.messages.len() >= config.messages_max as usize {
            return Err(Refused::Full { open: self.messages.len() as u32 });
        }
        if self.idle() {
            (self.busy, self.blind) = (0, 0);
            // what was heard a moment ago still holds
            let warm = self.heard && now.since(self.heard_at) <= Nanos(self.rtt.0 * WARM_RTTS);
            if !warm || self.bound != Some(false) {
                self.heard = false;
                self.bound = config.control.always_grants().then_some(true);
            }
        }
        let wire_bytes = bytes + chunks * u64::from(config.header_bytes);
        self.backlog += wire_bytes;
        self.busy += wire_bytes;
        let id = self.message_first.wrapping_add(self.messages.len() as u32);
        // of a longer one the ACK makes room for the rest
        let patient = patient && chunks == 1;
        let chunks = chunks as u32;
        self.messages.push_back(Outgoing { target, bytes, chunks, next: 0, acknowledged: 0, patient });
        Ok(MessageId(id))
    }

    /// Bytes that may go out before anything was heard.
    fn blind_most(&self, config: &Config) -> u64 {
        let bdp = u64::from(config.bdp_bytes());
        if self.busy > 2 * bdp {
            bdp + u64::from(config.ack_every_bytes)
        } else {
            self.busy.min(u64::from(config.blind_short_bytes))
        }
    }

    fn demand(&self, config: &Config) -> u64 {
        if self.bound == Some(false) {
            return self.used + self.backlog;
        }
        let blind_left = self.blind_most(config).saturating_sub(self.blind);
        self.used + self.backlog.saturating_sub(blind_left)
    }

    /// The chunk to send next, without taking it.
    fn peek(&self) -> Option<(u32, u32)> {
        if let Some(&chunk) = self.again.front() {
            return Some(chunk);
        }
        let m = self.messages.get(self.cursor)?;
        Some((self.message_first.wrapping_add(self.cursor as u32), m.next))
    }

    fn take(&mut self) {
        if self.again.pop_front().is_some() {
            return;
        }
        if let Some(m) = self.messages.get_mut(self.cursor) {
            m.next += 1;
            if m.next >= m.chunks {
                self.cursor += 1;
            }
        }
    }

    fn chunk_len(m: &Outgoing, chunk: u32, config: &Config) -> u16 {
        let size = u64::from(config.chunk_bytes.max(1));
        m.bytes.saturating_sub(u64::from(chunk) * size).min(size) as u16
    }

    fn message(&self, id: u32) -> Option<&Outgoing> {
        self.messages.get(id.wrapping_sub(self.message_first) as usize)
    }

    /// Wire bytes of the chunk that could be sent now, and whether blind.
    fn may_send(&self, config: &Config) -> Option<(u32, bool)> {
        let (id, chunk) = self.peek()?;
        let m = self.message(id)?;
        let wire = u32::from(Self::chunk_len(m, chunk, config)) + u32::from(config.header_bytes);
        if self.next - self.floor >= u64::from(config.packets_max) {
            return None;
        }
        let blind_most = self.blind_most(config);
        let after = self.in_flight_bytes + u64::from(wire);
        let most =
            if config.control.window() { self.window.bytes() } else { f64::from(config.window_max_bytes()) };
        if after as f64 > most && self.in_flight > 0 {
            return None;
        }
        if self.bound == Some(false) || self.used + u64::from(wire) <= self.granted {
            return Some((wire, false));
        }
        (self.blind < blind_most).then_some((wire, true))
    }

    /// Could something with a number go out now?
    pub fn has_data(&self, now: Nanos, config: &Config) -> bool {
        self.probe_due(now)
            || self.may_send(config).is_some()
            || self.bad_path().is_some_and(|(at, _)| at <= now)
    }

    /// The EV assumed bad that is to be probed next, and when. An idle connection does not care.
    fn bad_path(&self) -> Option<(Nanos, Ev)> {
        if self.idle() { None } else { self.paths.to_probe(Nanos(self.late().0 * 2)) }
    }

    fn probe_due(&self, now: Nanos) -> bool {
        self.probe_at.is_some_and(|at| at <= now)
    }

    fn append(&mut self, sent: Sent, counters: &mut Counters) -> u64 {
        if self.next - self.floor >= self.ring.len() as u64 {
            let mut ring = vec![BLANK; self.ring.len() * 2];
            let mask = ring.len() - 1;
            (self.floor..self.next).for_each(|n| ring[n as usize & mask] = *self.sent(n));
            self.ring = ring;
        }
        let number = self.next;
        self.next += 1;
        let slot = self.slot(number);
        self.ring[slot] = sent;
        self.in_flight += 1;
        self.chunks += u64::from(sent.message != PROBE);
        self.in_flight_bytes += u64::from(sent.wire_bytes);
        counters.sent += 1;
        let newest = self.paths.get_mut(sent.ev).map_or(NONE, |p| {
            p.seq_next = p.seq_next.wrapping_add(1);
            let before = if p.oldest == NONE { NONE } else { p.newest };
            if p.oldest == NONE {
                p.oldest = number;
                p.waits_since = sent.at;
            }
            p.newest = number;
            before
        });
        if newest != NONE {
            let slot = self.slot(newest);
            self.ring[slot].next = number;
        }
        number
    }

    /// How many chunks go together on one EV: no more than feeds many, and fewer towards the end of what there is, so that
    /// the last of it does not wait for one path alone.
    fn burst(&mut self, segments_max: usize, config: &Config) -> usize {
        let packet = u64::from(config.packet_bytes());
        let window = if config.control.window() {
            self.window.bytes() as u64
        } else {
            u64::from(config.window_max_bytes())
        };
        let parts = if self.plain_queues(config) { PLAIN_SHARE } else { WINDOW_SHARE };
        let share = window / (parts * packet);
        let tail = (self.backlog / (TAIL_SHARE * packet)).max(TAIL_SEGMENTS);
        segments_max.min(share.min(tail) as usize).max(1)
    }

    /// The chunks of one burst: one EV, at most `segments_max`.
    pub fn poll(
        &mut self,
        now: Nanos,
        segments_max: usize,
        peer: ConnectionId,
        config: &Config,
        counters: &mut Counters,
        sink: &mut Vec<Packet>,
    ) -> Option<Ev> {
        if self.probe_due(now) {
            return Some(self.probe(now, peer, None, config, counters, sink));
        }
        if let Some((at, ev)) = self.bad_path()
            && at <= now
        {
            return Some(self.probe(now, peer, Some(ev), config, counters, sink));
        }
        let overdue = now - Nanos(self.rtt.0 * 2);
        let segments = self.burst(segments_max, config);
        self.paths.set_segments(segments);
        let mut chosen = None;
        for _ in 0..segments {
            let Some((wire_bytes, blind)) = self.may_send(config) else { break };
            let Some((id, chunk)) = self.peek() else { break };
            let Some(&m) = self.message(id) else { break };
            let ev = *chosen.get_or_insert_with(|| self.paths.choose(overdue));
            let ev_seq = self.paths.get(ev).map_or(0, |p| p.seq_next);
            let again = !self.again.is_empty();
            self.take();
            self.backlog = self.backlog.saturating_sub(u64::from(wire_bytes));
            if blind {
                self.blind += u64::from(wire_bytes);
            } else {
                self.used += u64::from(wire_bytes);
            }
            if self.in_flight == 0 {
                self.heard_at = self.heard_at.max(now);
                self.news_at = self.heard_at;
                self.probe_wait = 0;
            }
            let sent = Sent {
                at: now,
                next: NONE,
                message: id,
                chunk,
                ev_seq,
                wire_bytes,
                ev,
                fate: Fate::InFlight,
            };
            let number = self.append(sent, counters);
            self.last_at = now;
            if again {
                counters.chunks_again += 1;
            } else {
                counters.chunks_new += 1;
            }
            let demand = self.demand(config);
            self.demand_told = self.demand_told.max(demand);
            let mut flags = u8::from(again) * DataFlags::AGAIN + u8::from(blind) * DataFlags::BLIND;
            if self.backlog == 0 {
                flags |= if m.patient && !again { DataFlags::MAY_WAIT } else { DataFlags::ACK_NOW };
            }
            sink.push(Packet::Data(Data {
                connection: peer,
                number,
                floor: self.floor,
                message: MessageId(id),
                message_bytes: m.bytes,
                offset: u64::from(chunk) * u64::from(config.chunk_bytes),
                bytes: Self::chunk_len(&m, chunk, config),
                chunk_bytes: config.chunk_bytes,
                target: m.target,
                ev,
                ev_seq,
                demand: demand as u32,
                sent_ns: low(now),
                flags: DataFlags(flags),
            }));
        }
        chosen
    }

    fn probe(
        &mut self,
        now: Nanos,
        peer: ConnectionId,
        which: Option<Ev>,
        config: &Config,
        counters: &mut Counters,
        sink: &mut Vec<Packet>,
    ) -> Ev {
        let ev = match which {
            Some(ev) => {
                if let Some(p) = self.paths.get_mut(ev) {
                    p.probed_at = now;
                    p.probes = p.probes.saturating_add(1);
                }
                ev
            }
            None => {
                self.probe_at = None;
                self.probed_at = now;
                self.probe_wait = (self.probe_wait + 1).min(16);
                if core::mem::take(&mut self.keeping_alive) {
                    counters.keep_alives += 1;
                } else {
                    counters.silences += 1;
                }
                self.paths.choose(now - Nanos(self.rtt.0 * 2))
            }
        };
        let ev_seq = self.paths.get(ev).map_or(0, |p| p.seq_next);
        let wire_bytes = u32::from(config.header_bytes);
        let sent = Sent {
            at: now,
            next: NONE,
            message: PROBE,
            chunk: 0,
            ev_seq,
            wire_bytes,
            ev,
            fate: Fate::InFlight,
        };
        let number = self.append(sent, counters);
        counters.probes += 1;
        let demand = self.demand(config);
        self.demand_told = self.demand_told.max(demand);
        sink.push(Packet::Probe(Probe {
            connection: peer,
            number,
            floor: self.floor,
            ev,
            ev_seq,
            demand: demand as u32,
            sent_ns: low(now),
        }));
        ev
    }

    /// A request for grants, where the sender waits for some and has not said so.
    pub fn poll_request(
        &mut self,
        now: Nanos,
        peer: ConnectionId,
        config: &Config,
        counters: &mut Counters,
    ) -> Option<(Ev, Packet)> {
        if !self.request_due(now, config) {
            return None;
        }
        let demand = self.demand(config);
        self.demand_told = demand;
        self.asked_at = now;
        self.asked += 1;
        let silent = core::mem::replace(&mut self.unanswered, true) && self.asked > 2;
        let ev = self.paths.choose(now - Nanos(self.rtt.0 * 2));
        if (silent || self.known < self.gone) && self.starved(config) {
            // What was granted for the lost is held against us until the receiver hears of it: a probe says the floor.
            // And where nobody answers, a probe says which way it came, so that the answer can take the same.
            let mut sink = Vec::new();
            let ev = self.probe(now, peer, Some(ev), config, counters, &mut sink);
            return sink.pop().map(|packet| (ev, packet));
        }
        counters.credit_requests += 1;
        let left = self.backlog.min(u64::from(u32::MAX)) as u32;
        Some((ev, Packet::CreditRequest(CreditRequest { connection: peer, demand: demand as u32, left })))
    }

    /// Waiting for grants with nothing on the way that could bring them?
    fn starved(&self, config: &Config) -> bool {
        self.bound != Some(false) && self.backlog > 0 && self.chunks == 0 && self.may_send(config).is_none()
    }

    pub fn request_due(&self, now: Nanos, config: &Config) -> bool {
        if self.bound == Some(false) || self.backlog == 0 {
            return false;
        }
        let untold = self.demand(config) > self.demand_told && self.may_send(config).is_none();
        untold || (self.starved(config) && now >= self.ask_at())
    }

    fn ask_at(&self) -> Nanos {
        // every request is answered at once; a receiver that has answered knows the demand, and has others to serve
        let patience =
            if self.heard && !self.unanswered { self.asked + 1 } else { self.asked.saturating_sub(1) };
        self.asked_at.max(self.last_at) + Nanos(self.late().0 << patience.min(6))
    }
}
