//! Two ends and the network between them, driven from one event to the next, every law looked at on the way.
//!
//! How: a connection lives until everything is delivered or until one end forgets everything; then both begin another,
//! while datagrams of the one before still arrive. After the last, what is still under way arrives too, and must change
//! nothing.
//!
//! Invariants: between two moments everything that can go out has gone out; time never stands still for long.
//! Absent on purpose: what to send and what goes wrong: the plan says so.

use super::book::{Book, Wrong};
use super::guard::Sums;
use super::plan::{Life, Plan};
use super::way::{Datagram, Sent, Way};
use super::{Broken, Law, Sabotage, Tally};
use crate::rng::{Rng, mix};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use transport::{Connection, Event, Outcome, Pacer};
use wire::Nanos;
use wire::transport::packet;
use wire::transport::protection::{Cipher, Dropped, Protection, Secret};
use wire::transport::{CloseReason, ConnectionId, Ev, MessageId, Packet, Seen};

/// Moments of one exchange at which time may stand still or move: far above what the longest needs.
const MOMENTS_MAX: u64 = 1_000_000;
/// Moments in a row without time going on.
const STANDSTILL_MAX: u32 = 10_000;

/// What the judge counted at one end of one connection.
#[derive(Default)]
struct Judged {
    /// Packets with a number that went out.
    numbered: u64,
    /// Of the peer's, those the machine took whole.
    numbered_taken: u64,
    /// Chunks handed to the machine, trimmed ones too.
    chunks: u64,
    /// Of them, trimmed and taken.
    trimmed_taken: u64,
    /// Of them, without effect.
    chunks_dropped: u64,
    /// Of all, without effect.
    dropped: u64,
}

struct End {
    id: ConnectionId,
    machine: Connection,
    keys: Protection<Sums>,
    pacer: Pacer,
    book: Book,
    free: Nanos,
    judged: Judged,
    /// It restarted, and nobody is there.
    away: bool,
    closed: bool,
}

struct Exchange<'a> {
    seed: u64,
    plan: &'a Plan,
    sabotage: Option<Sabotage>,
    rng: Rng,
    way: Way<'a>,
    tally: Tally,
    now: Nanos,
    /// When the connection began, and which it is.
    began: Nanos,
    life: usize,
    trace: u64,
    sink: Vec<Packet>,
    bytes: Vec<u8>,
    moments: u64,
    /// Sabotage was done.
    spoilt: bool,
}

pub(super) fn run(seed: u64, plan: &Plan, sabotage: Option<Sabotage>) -> Result<Tally, Broken> {
    let mut x = Exchange {
        seed,
        plan,
        sabotage,
        rng: Rng::new(seed, 3),
        way: Way::new(&plan.trouble, plan.config.evs, seed),
        tally: Tally { seeds: 1, deaths: plan.trouble.deaths.len() as u64, ..Tally::default() },
        now: Nanos::ZERO,
        began: Nanos::ZERO,
        life: 0,
        trace: seed,
        sink: Vec::new(),
        bytes: Vec::new(),
        moments: 0,
        spoilt: false,
    };
    let mut ids = [ConnectionId(0); 2];
    for (i, life) in plan.lives.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| plan.lives.get(i)).and_then(|l| l.restart);
        if !before.is_some_and(|r| r.same_ids) {
            ids = [0, 1].map(|_| ConnectionId(x.rng.next_u64() as u32));
        }
        (x.life, x.began) = (i, x.now);
        let mut ends = x.begin(life, ids);
        x.live(life, &mut ends)?;
        if life.restart.is_none() {
            x.finish(&mut ends)?;
        }
        x.sum_up(&ends)?;
    }
    x.tally.trace = mix(x.trace);
    Ok(x.tally)
}

/// Where a datagram of a chunk is cut.
fn header_of(packet: &Packet, len: usize) -> Option<usize> {
    match packet {
        Packet::Data(d) => Some(len - usize::from(d.bytes) - Cipher::Aes128Gcm.tag_bytes()),
        _ => None,
    }
}

impl Exchange<'_> {
    fn broken<T>(&self, law: Law, end: usize, detail: String) -> Result<T, Broken> {
        Err(Broken { seed: self.seed, law, end, at: self.now, detail })
    }

    fn judge<T>(&self, end: usize, result: Result<T, Wrong>) -> Result<T, Broken> {
        result.or_else(|(law, detail)| self.broken(law, end, detail))
    }

    fn begin(&mut self, life: &Life, ids: [ConnectionId; 2]) -> [End; 2] {
        let generation = if self.sabotage == Some(Sabotage::OldKeys) { 0 } else { self.life as u64 };
        let mut secret = Secret([0; 32]);
        super::pattern(mix(self.seed ^ generation << 48), &mut secret.0);
        let suite = Sums { checks: self.sabotage != Some(Sabotage::NoCheck) };
        let mut ends = [0, 1].map(|i: usize| {
            let mut orders = life.orders.get(i).cloned().unwrap_or_default();
            orders.sort_by_key(|o| o.at);
            let key = mix(self.seed ^ (self.life as u64) << 8 ^ i as u64);
            let [a, b] = ids;
            End {
                id: if i == 0 { a } else { b },
                machine: Connection::new(self.plan.config, if i == 0 { b } else { a }, self.rng.next_u64()),
                keys: Protection::of_connection(suite, Cipher::Aes128Gcm, &secret, a, b, i == 0),
                pacer: Pacer::new(&self.plan.config),
                book: Book::new(orders.iter().map(|o| (o.bytes, o.write)), key),
                free: Nanos::ZERO,
                judged: Judged::default(),
                away: false,
                closed: false,
            }
        });
        let [a, b] = &mut ends;
        a.book.register(&b.book.messages);
        b.book.register(&a.book.messages);
        ends
    }

    /// One connection, until all is delivered or an end forgets everything.
    fn live(&mut self, life: &Life, ends: &mut [End; 2]) -> Result<(), Broken> {
        let mut back_at = None;
        let mut updated = false;
        let mut standstill = 0;
        let mut order_times = [0, 1].map(|i| {
            let mut at: Vec<Nanos> =
                life.orders.get(i).into_iter().flatten().map(|o| self.began + o.at).collect();
            at.sort();
            at
        });
        for at in &mut order_times {
            at.push(Nanos::MAX);
        }
        loop {
            // what the plan says
            if let Some((end, from, until)) = life.denied
                && let Some(e) = ends.get_mut(end)
            {
                let since = self.now.since(self.began);
                e.machine.deny(self.now, Ev(0), from <= since && since < until);
            }
            if !updated && life.update_at.is_some_and(|at| self.began + at <= self.now) {
                updated = true;
                self.tally.key_updates += u64::from(ends[0].keys.update(self.now));
            }
            if let Some(r) = life.restart
                && self.began + r.at <= self.now
                && back_at.is_none()
                && let Some(e) = ends.get_mut(r.end)
            {
                e.away = true;
                back_at = Some(self.now + r.away);
                self.tally.restarts += 1;
            }
            if back_at.is_some_and(|at| at <= self.now) {
                return self.abort(ends);
            }
            for (end, times) in order_times.iter().enumerate() {
                self.settle(ends, end)?;
                let Some(e) = ends.get_mut(end).filter(|e| !e.away) else { continue };
                while times.get(e.book.started).is_some_and(|at| *at <= self.now) {
                    let Some(m) = e.book.messages.get(e.book.started) else { break };
                    match e.machine.send(self.now, m.target, m.bytes.len() as u64) {
                        Ok(id) if id.0 as usize == e.book.started => e.book.started += 1,
                        Ok(id) => {
                            let want = e.book.started;
                            return self.broken(
                                Law::MessageOnce,
                                end,
                                format!("message {want} was called {}", id.0),
                            );
                        }
                        Err(transport::Refused::Full { .. }) => break,
                        Err(e) => return self.broken(Law::EndsWhenAsked, end, format!("{e}")),
                    }
                }
                self.output(ends, end)?;
                self.rest(ends, end)?;
                self.counters(ends, end)?;
            }
            let all = |e: &End, o: &End| {
                e.book.sent == e.book.messages.len() && o.book.received == e.book.messages.len()
            };
            let [a, b] = &*ends;
            if life.restart.is_none() && all(a, b) && all(b, a) {
                return Ok(());
            }
            // when something happens next
            let mut next = self.way.next().unwrap_or(Nanos::MAX);
            let mut sooner = |at: Nanos| next = next.min(at);
            if let Some(r) = life.restart {
                sooner(back_at.unwrap_or(self.began + r.at));
            }
            if let Some(at) = life.update_at.filter(|_| !updated) {
                sooner(self.began + at);
            }
            for (e, times) in ends.iter().zip(&order_times).filter(|(e, _)| !e.away) {
                if e.free > self.now && e.machine.has_data(self.now) {
                    sooner(e.free);
                }
                if let Some(at) = e.machine.next_timeout() {
                    // a port that is busy does what is due when it is free
                    sooner(if at <= self.now { e.free.max(self.now) } else { at });
                }
                e.pacer.next_timeout().into_iter().for_each(&mut sooner);
                times.get(e.book.started).into_iter().filter(|at| **at > self.now).for_each(|at| sooner(*at));
            }
            if next == Nanos::MAX || next > self.began + self.plan.end {
                return self.broken(Law::Delivered, 0, self.story(ends));
            }
            standstill = if next > self.now { 0 } else { standstill + 1 };
            self.moments += 1;
            if standstill > STANDSTILL_MAX || self.moments > MOMENTS_MAX {
                return self.broken(Law::NotBusy, 0, self.story(ends));
            }
            self.now = self.now.max(next);
            while let Some((place, mut d)) = self.way.take(self.now) {
                let done = self.deliver(life, ends, &mut d);
                self.way.give_back(place, d);
                done?;
            }
            for e in ends.iter_mut().filter(|e| !e.away) {
                if e.machine.next_timeout().is_some_and(|t| t <= self.now) {
                    e.machine.handle_timeout(self.now);
                }
            }
        }
    }

    fn story(&self, ends: &[End; 2]) -> String {
        let of = |e: &End| {
            let b = &e.book;
            format!(
                "{} of {} messages started, {} sent, {} received; in flight {}; {:?}",
                b.started,
                b.messages.len(),
                b.sent,
                b.received,
                e.machine.in_flight(),
                e.machine.counters()
            )
        };
        let [a, b] = ends;
        format!("end 0: {}; end 1: {}", of(a), of(b))
    }

    /// Everything that can go out now.
    fn output(&mut self, ends: &mut [End; 2], from: usize) -> Result<(), Broken> {
        let Some(e) = ends.get_mut(from).filter(|e| !e.away) else { return Ok(()) };
        while let Some(slot) = e.pacer.poll_slot(self.now) {
            e.pacer.grant(self.now, slot, &mut e.machine);
        }
        loop {
            self.sink.clear();
            let ev = match e.machine.poll_control(self.now, &mut self.sink) {
                None if e.free <= self.now => e.machine.poll_data(self.now, self.plan.burst, &mut self.sink),
                control => control,
            };
            let Some(Ev(ev)) = ev else { return Ok(()) };
            for packet in &self.sink {
                let payload = match packet {
                    Packet::Data(d) => {
                        e.judged.numbered += 1;
                        let config = &self.plan.config;
                        e.free = e.free.max(self.now) + config.serialization(config.packet_bytes());
                        let from = d.offset as usize;
                        let whole = e.book.messages.get(d.message.0 as usize);
                        whole.and_then(|m| m.bytes.get(from..from + usize::from(d.bytes))).unwrap_or(&[])
                    }
                    Packet::Probe(_) => {
                        e.judged.numbered += 1;
                        &[]
                    }
                    _ => &[],
                };
                self.bytes.clear();
                if let Err(error) = e.keys.seal(self.now, packet, payload, &mut self.bytes) {
                    let detail = format!("{packet:?}: {error}");
                    return Err(Broken {
                        seed: self.seed,
                        law: Law::Sealed,
                        end: from,
                        at: self.now,
                        detail,
                    });
                }
                if self.sabotage == Some(Sabotage::Miscount) && !self.spoilt {
                    self.spoilt = true;
                    e.judged.numbered += 1;
                }
                let late = self.now > self.plan.trouble.delay;
                if self.sabotage == Some(Sabotage::Silence) && late {
                    continue;
                }
                let header = header_of(packet, self.bytes.len());
                let sent = Sent { from, ev, life: self.life, bytes: &self.bytes, header };
                self.way.put(self.now, sent, &mut self.tally);
            }
        }
    }

    /// Once all is out, nothing may be due any more.
    fn rest(&mut self, ends: &mut [End; 2], end: usize) -> Result<(), Broken> {
        for _ in 0..8 {
            let Some(e) = ends.get_mut(end).filter(|e| !e.away) else { return Ok(()) };
            let due = e.machine.next_timeout().filter(|t| *t <= self.now);
            if due.is_none() || e.free > self.now {
                return Ok(());
            }
            e.machine.handle_timeout(self.now);
            self.settle(ends, end)?;
            self.output(ends, end)?;
        }
        let at = ends.get(end).and_then(|e| e.machine.next_timeout());
        self.broken(
            Law::NotBusy,
            end,
            format!("due since {at:?} and nothing comes of it: {}", self.story(ends)),
        )
    }

    fn deliver(&mut self, life: &Life, ends: &mut [End; 2], d: &mut Datagram) -> Result<(), Broken> {
        let to = d.to;
        let (book, e) = match ends {
            [a, b] if to == 0 => (&mut b.book, a),
            [a, b] => (&mut a.book, b),
        };
        self.trace = mix(self.trace ^ self.now.0 ^ (d.bytes.len() as u64) << 48 ^ (to as u64) << 47);
        let id = d.bytes.get(2..6).and_then(|b| b.first_chunk::<4>().copied()).map(u32::from_be_bytes);
        let stale = d.life != self.life;
        if e.away || id != Some(e.id.0) {
            if d.damaged {
                self.tally.refused_damaged += 1;
            } else if stale || e.away {
                self.tally.refused_stale += 1;
            } else {
                return self.broken(
                    Law::HonestTaken,
                    to,
                    format!("addressed to {id:?}, which is {:?}", e.id),
                );
            }
            return Ok(());
        }
        if d.seen.trimmed {
            if stale {
                // a receiver cannot tell: that is why a plan with trims has no ids used twice
                return self.broken(Law::StaleRefused, to, "a trimmed header under an id used twice".into());
            }
            let Ok(parsed) = packet::decode_trimmed(&d.bytes) else {
                return self.broken(Law::HonestTaken, to, "a trimmed header does not read".into());
            };
            self.tally.taken += 1;
            return self.hand(e, book, to, &parsed.packet, d.seen, &[]);
        }
        let opened = match e.keys.open(self.now, &mut d.bytes) {
            Ok(opened) => opened,
            Err(why) => {
                if d.damaged {
                    self.tally.refused_damaged += 1;
                } else if stale {
                    self.tally.refused_stale += 1;
                } else if d.twin && matches!(why, Dropped::Replayed | Dropped::TooOld) {
                    self.tally.refused_again += 1;
                } else {
                    return self.broken(Law::HonestTaken, to, format!("{why}"));
                }
                return Ok(());
            }
        };
        if d.damaged {
            return self.broken(Law::DamagedRefused, to, format!("{:?}", opened.packet));
        }
        if stale {
            return self.broken(Law::StaleRefused, to, format!("{:?}", opened.packet));
        }
        if let Packet::Data(data) = &opened.packet
            && let Some((end, from, until)) = life.unready
            && end == to
            && (self.began + from..self.began + until).contains(&self.now)
            && !e.book.is_begun(data.message)
        {
            self.tally.refused_unready += 1;
            return Ok(());
        }
        self.tally.taken += 1;
        self.hand(e, book, to, &opened.packet, d.seen, opened.payload)
    }

    fn hand(
        &mut self,
        e: &mut End,
        peer: &mut Book,
        to: usize,
        packet: &Packet,
        seen: Seen,
        payload: &[u8],
    ) -> Result<(), Broken> {
        let outcome = e.machine.handle_input(self.now, packet, seen);
        e.pacer.handle_input(0, &mut e.machine);
        let j = &mut e.judged;
        let dropped = matches!(outcome, Outcome::Dropped(_));
        j.dropped += u64::from(dropped);
        match packet {
            Packet::Data(_) => {
                j.chunks += 1;
                j.chunks_dropped += u64::from(dropped);
                j.trimmed_taken += u64::from(!dropped && seen.trimmed);
                j.numbered_taken += u64::from(!dropped && !seen.trimmed);
            }
            Packet::Probe(_) => j.numbered_taken += u64::from(!dropped),
            _ => {}
        }
        if let Outcome::Place { message, offset, bytes, target } = outcome {
            let chunk_bytes = self.plan.config.chunk_bytes;
            let spoil = self.sabotage == Some(Sabotage::PayloadBehindTheCheck) && !self.spoilt;
            let placed = if spoil {
                self.spoilt = true;
                let mut other = payload.to_vec();
                other.iter_mut().take(1).for_each(|b| *b ^= 4);
                e.book.place(&peer.messages, (message, offset, bytes, target), &other, chunk_bytes)
            } else {
                e.book.place(&peer.messages, (message, offset, bytes, target), payload, chunk_bytes)
            };
            self.judge(to, placed)?;
        }
        Ok(())
    }

    /// What the machine tells.
    fn settle(&mut self, ends: &mut [End; 2], end: usize) -> Result<(), Broken> {
        loop {
            let (e, peer) = match ends {
                [a, b] if end == 0 => (a, b),
                [a, b] => (b, a),
            };
            let Some(event) = e.machine.poll_event() else { return Ok(()) };
            let told = match event {
                Event::Received { .. } if self.sabotage == Some(Sabotage::SwallowedEvent) && !self.spoilt => {
                    self.spoilt = true;
                    Ok(())
                }
                Event::Received { message, bytes, target } => {
                    e.book.complete(&peer.book.messages, message, bytes, target)
                }
                Event::Sent(MessageId(id)) => e.book.told_sent(MessageId(id), &peer.book),
                Event::PathDown(_) => {
                    self.tally.paths_down += 1;
                    Ok(())
                }
                Event::PathUp(_) => {
                    self.tally.paths_up += 1;
                    Ok(())
                }
                Event::Closed(reason) => {
                    e.closed = true;
                    match reason {
                        CloseReason::Done | CloseReason::Aborted => Ok(()),
                        r => Err((Law::EndsWhenAsked, format!("it ended by itself: {r:?}"))),
                    }
                }
            };
            self.judge(end, told)?;
            if self.sabotage == Some(Sabotage::Amnesia)
                && !self.spoilt
                && matches!(event, Event::Received { .. })
            {
                self.spoilt = true;
                e.machine = Connection::new(self.plan.config, peer.id, 0);
            }
        }
    }

    fn counters(&mut self, ends: &[End; 2], end: usize) -> Result<(), Broken> {
        let (e, peer) = match ends {
            [a, b] if end == 0 => (a, b),
            [a, b] => (b, a),
        };
        if e.away {
            return Ok(());
        }
        let (c, j) = (e.machine.counters(), &e.judged);
        let dropped: u64 = c.dropped.iter().sum();
        let laws = [
            (
                "sent = acknowledged + lost + in flight",
                c.sent,
                c.acknowledged + c.lost + e.machine.in_flight(),
            ),
            ("sent = new + again + probes", c.sent, c.chunks_new + c.chunks_again + c.probes),
            ("lost = trimmed + gap + late", c.lost, c.lost_trimmed + c.lost_gap + c.lost_late),
            ("sent = went out", c.sent, j.numbered),
            ("messages sent", c.messages_sent, e.book.sent as u64),
            ("messages received", c.messages_received, e.book.received as u64),
            ("chunks placed", c.placed, e.book.placed),
            (
                "chunks that came = placed + twice + trimmed + dropped",
                j.chunks,
                c.placed + c.chunks_twice + j.trimmed_taken + j.chunks_dropped,
            ),
            ("dropped", dropped, j.dropped),
            ("timeouts", c.timeouts, 0),
        ];
        if let Some((what, a, b)) = laws.into_iter().find(|(_, a, b)| a != b) {
            return self.broken(Law::Counters, end, format!("{what}: {a} and {b}; {c:?}"));
        }
        if !peer.away && c.acknowledged > peer.judged.numbered_taken {
            let detail = format!("{} acknowledged, {} arrived", c.acknowledged, peer.judged.numbered_taken);
            return self.broken(Law::Counters, end, detail);
        }
        let (bytes, most) = (e.machine.memory_bytes() as u64, self.plan.config.memory_bytes_max());
        self.tally.memory_most = self.tally.memory_most.max(bytes);
        if bytes > most {
            return self.broken(Law::Memory, end, format!("{bytes} bytes held, at most {most} expected"));
        }
        Ok(())
    }

    /// One end came back and knows nothing: the other gives up what it had.
    fn abort(&mut self, ends: &mut [End; 2]) -> Result<(), Broken> {
        for end in [0, 1] {
            // something may have arrived in this very moment
            if ends.get(end).is_some_and(|e| !e.away) {
                self.settle(ends, end)?;
            }
            self.counters(ends, end)?;
            if let Some(e) = ends.get_mut(end).filter(|e| !e.away) {
                e.machine.close(CloseReason::Aborted);
                self.output(ends, end)?;
            }
        }
        Ok(())
    }

    /// All is delivered: what is still on the way changes nothing.
    fn finish(&mut self, ends: &mut [End; 2]) -> Result<(), Broken> {
        if let Some(end) = self.plan.closes {
            if let Some(e) = ends.get_mut(end) {
                e.machine.close(CloseReason::Done);
            }
            self.output(ends, end)?;
        }
        let before = [0, 1].map(|i| ends.get(i).map_or((0, 0), |e| (e.book.received, e.book.placed)));
        let life =
            Life { orders: Default::default(), restart: None, update_at: None, unready: None, denied: None };
        while let Some(at) = self.way.next() {
            self.now = self.now.max(at);
            while let Some((place, mut d)) = self.way.take(self.now) {
                let done = self.deliver(&life, ends, &mut d);
                self.way.give_back(place, d);
                done?;
            }
            for end in [0, 1] {
                self.settle(ends, end)?;
                self.counters(ends, end)?;
            }
        }
        for (end, (e, before)) in ends.iter().zip(before).enumerate() {
            if (e.book.received, e.book.placed) != before {
                return self.broken(Law::MessageOnce, end, "something was delivered after all was".into());
            }
            if !e.machine.is_idle() {
                return self.broken(Law::Delivered, end, "not idle, though all is delivered".into());
            }
            if e.closed && self.plan.closes.is_none() {
                return self.broken(Law::EndsWhenAsked, end, "closed and nobody asked".into());
            }
        }
        Ok(())
    }

    fn sum_up(&mut self, ends: &[End; 2]) -> Result<(), Broken> {
        let [a, b] = ends;
        for (end, (e, peer)) in [(a, b), (b, a)].into_iter().enumerate() {
            let clean = e.book.region_is_clean(&peer.book.messages, self.plan.config.chunk_bytes);
            self.judge(end, clean)?;
            let (writes, bytes) = e.book.whole(&peer.book.messages);
            let t = &mut self.tally;
            t.messages += e.book.received as u64;
            t.messages_cut += (peer.book.started - e.book.received) as u64;
            t.writes += writes;
            t.bytes += bytes;
            t.packets += e.machine.counters().sent;
            t.chunks_again += e.machine.counters().chunks_again;
        }
        let t = &self.tally;
        let arrived = t.taken + t.refused_damaged + t.refused_again + t.refused_stale + t.refused_unready;
        if self.way.is_empty() && t.datagrams != t.lost + t.swallowed + arrived {
            return self.broken(Law::Counters, 0, format!("datagrams on the way do not add up: {t:?}"));
        }
        Ok(())
    }
}
