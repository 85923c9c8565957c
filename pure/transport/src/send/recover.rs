//! What comes back: ACKs and NACKs into freed and repeated chunks, silence into probes.
//!
//! How: an ACK frees what its bitmap names; then, for each EV it reports, whatever lies before the highest that arrived
//! and has not arrived itself is lost, because a path is first in, first out. A trim is lost by NACK. What is older
//! than one and a half times the longest recent round trip is lost where something sent later arrived, and its EV is
//! assumed bad where nothing sent on it since arrived either. Where nothing at all came back, a probe goes out on the
//! next EV, more and more rarely; its answer frees the rest by the rule before.
//!
//! Invariants: `sent = acknowledged + lost + in flight`; news of what was never sent changes nothing.
//! Absent on purpose: a retransmission timer that means anything but "ask".

use super::{Fate, PROBE, Sender, Sent};
use crate::config::Config;
use crate::event::{Counters, Event, Outcome, Reason};
use crate::paths::NONE;
use crate::receive::widen;
use crate::window::DEEP;
use alloc::collections::VecDeque;
use wire::Nanos;
use wire::transport::{
    Ack, BITMAP_BITS, BITMAP_WORDS, CloseReason, Ev, EvFeedback, MessageId, Nack, NackReason, low,
};

/// Round trips over which the longest is remembered, once or twice.
const SPELL_RTTS: u64 = 8;

/// Times the wait between two probes into silence doubles.
const DOUBLINGS: u32 = 4;

/// Times the usual queue, from which that of a path is longer than most.
const LONGER: f64 = 2.0;

/// Does the network mark packets where queues grow (RFC 3168)?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// No queue was long enough to tell.
    Unknown,
    /// It does.
    Seen,
    /// A queue was long, and nothing was ever marked.
    Missing,
}

/// Why a packet is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Trimmed,
    Gap,
    Late,
}

impl Sender {
    pub(super) fn late(&self) -> Nanos {
        let unknown = self.longest[1] == Nanos::MAX;
        let longest = if unknown { self.longest[0] } else { self.longest[0].max(self.longest[1]) };
        Nanos(longest.0 + longest.0 / 2)
    }

    fn measured(&mut self, now: Nanos, rtt: Nanos, config: &Config) {
        if self.longest[1] == Nanos::MAX {
            // the first one: others may take as much longer again
            self.longest = [rtt, rtt + config.rtt_base];
        }
        self.rtt = Nanos((self.rtt.0 * 7 + rtt.0) / 8);
        if now.since(self.spell_at) >= Nanos(self.rtt.0 * SPELL_RTTS) {
            self.spell_at = now;
            self.longest = [config.rtt_base, self.longest[0]];
        }
        self.longest[0] = self.longest[0].max(rtt);
    }

    fn resolve(&mut self, number: u64, fate: Fate) -> Sent {
        let slot = self.slot(number);
        let sent = self.ring[slot];
        self.ring[slot].fate = fate;
        self.in_flight -= 1;
        self.chunks -= u64::from(sent.message != PROBE);
        self.in_flight_bytes -= u64::from(sent.wire_bytes);
        if self.paths.get(sent.ev).is_some_and(|p| p.oldest == number) {
            let mut n = sent.next;
            while n != NONE && self.sent(n).fate != Fate::InFlight {
                n = self.sent(n).next;
            }
            let since = if n == NONE { Nanos::MAX } else { self.sent(n).at };
            if let Some(p) = self.paths.get_mut(sent.ev) {
                (p.oldest, p.waits_since) = (n, since);
            }
        }
        sent
    }

    fn lose(&mut self, number: u64, why: Loss, counters: &mut Counters) {
        let sent = self.resolve(number, Fate::Lost);
        counters.lost += 1;
        match why {
            Loss::Trimmed => counters.lost_trimmed += 1,
            Loss::Gap => counters.lost_gap += 1,
            Loss::Late => {
                counters.lost_late += 1;
                if let Some(p) = self.paths.get_mut(sent.ev) {
                    p.missed = sent.ev_seq.wrapping_add(1);
                }
            }
        }
        if why != Loss::Trimmed {
            self.gone = self.gone.max(number + 1);
        }
        if sent.message != PROBE {
            self.again.push_back((sent.message, sent.chunk));
            self.backlog += u64::from(sent.wire_bytes);
            if why == Loss::Trimmed {
                // the receiver saw it and counts it among our demand itself
                self.demand_told += u64::from(sent.wire_bytes);
            }
        }
    }

    fn acknowledge(&mut self, number: u64, counters: &mut Counters, events: &mut VecDeque<Event>) -> u32 {
        let sent = self.resolve(number, Fate::Acknowledged);
        counters.acknowledged += 1;
        self.newest = self.newest.max(sent.at);
        if sent.message != PROBE {
            let at = sent.message.wrapping_sub(self.message_first) as usize;
            if let Some(m) = self.messages.get_mut(at) {
                m.acknowledged += 1;
                if m.acknowledged == m.chunks {
                    counters.messages_sent += 1;
                    events.push_back(Event::Sent(MessageId(sent.message)));
                }
            }
            while self.messages.front().is_some_and(|m| m.acknowledged >= m.chunks) {
                self.messages.pop_front();
                self.message_first = self.message_first.wrapping_add(1);
                self.cursor = self.cursor.saturating_sub(1);
            }
        }
        sent.wire_bytes
    }

    fn settle(&mut self) {
        while self.floor < self.next && self.sent(self.floor).fate != Fate::InFlight {
            self.floor += 1;
        }
    }

    /// Something came back. Where it says nothing new, a receiver repeats itself, and the silence goes on.
    fn came_back(&mut self, now: Nanos, news: bool) {
        self.unanswered = false;
        self.heard = true;
        self.heard_at = now;
        if news {
            self.news_at = now;
            self.probe_wait = 0;
            self.probe_at = None;
        }
    }

    fn grants(&mut self, now: Nanos, grants: bool, granted: u32) {
        if grants {
            self.handle_credit(now, granted);
        } else {
            self.bound = Some(false);
        }
    }

    pub fn handle_credit(&mut self, now: Nanos, granted: u32) {
        let before = self.granted;
        self.granted = before.max(widen(before, granted));
        if self.granted > before {
            self.asked = 0;
        }
        self.bound = Some(true);
        self.heard_at = now;
        self.heard = true;
    }

    pub fn handle_nack(&mut self, now: Nanos, nack: &Nack, counters: &mut Counters) -> Outcome {
        if nack.number >= self.next {
            return counters.drop(Reason::NeverSent);
        }
        self.grants(now, nack.grants, nack.granted);
        counters.nacked(nack.reason);
        self.came_back(now, true);
        if nack.number < self.floor || self.sent(nack.number).fate != Fate::InFlight {
            return counters.drop(Reason::Late);
        }
        let sent = *self.sent(nack.number);
        self.newest = self.newest.max(sent.at);
        self.longest[0] = self.longest[0].max(now.since(sent.at));
        self.lose(nack.number, Loss::Trimmed, counters);
        if nack.reason == NackReason::Trimmed {
            self.window.trimmed(sent.wire_bytes);
            self.paths.trimmed(sent.ev);
            if let Some(p) = self.paths.get_mut(sent.ev) {
                p.heard_at = now;
            }
        }
        self.settle();
        Outcome::Accepted
    }

    pub fn handle_ack(
        &mut self,
        now: Nanos,
        ack: &Ack,
        config: &Config,
        counters: &mut Counters,
        events: &mut VecDeque<Event>,
    ) -> Outcome {
        if ack.end() > self.next {
            return counters.drop(Reason::NeverSent);
        }
        self.grants(now, ack.grants, ack.granted);
        self.known = self.known.max(ack.cumulative);
        let mut bytes = 0;
        let newest_sent = ack.reports().last().and_then(|f| self.newest_of(f));
        for n in self.floor..ack.cumulative {
            if self.sent(n).fate == Fate::InFlight {
                bytes += self.acknowledge(n, counters, events);
            }
        }
        for w in 0..BITMAP_WORDS {
            let mut bits = ack.bitmap[w];
            let from = ack.cumulative + u64::from(ack.ahead) + w as u64 * 64;
            while bits != 0 {
                let n = from + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                if n >= self.floor && self.sent(n).fate == Fate::InFlight {
                    bytes += self.acknowledge(n, counters, events);
                }
            }
        }
        self.shown = self.shown.max(ack.cumulative + u64::from(ack.ahead) + BITMAP_BITS);
        if bytes == 0 {
            // all the bitmap can show may be lost; what each EV reports beyond it still says what has arrived
            for f in ack.reports() {
                self.newest = self.newest.max(self.newest_of(f).unwrap_or_default());
            }
        }
        let (mut marked, mut packets) = (0, 0);
        for f in ack.reports() {
            let (m, p) = self.report(now, f, ack, config, counters, events);
            marked += m;
            packets += p;
        }
        // an ACK that only names more of what arrived: what each EV reported before says what it overtook, unless this one
        // itself was overtaken
        let placed = widen(self.placed, ack.placed);
        if ack.reports().is_empty() && placed >= self.placed {
            for ev in (0..self.paths.len()).map(|i| Ev(i as u16)) {
                let highest = self.paths.get(ev).map_or(0, |p| p.reached).wrapping_sub(1);
                if self.gaps(ev, highest, ack, counters) > 0 {
                    self.paths.lost(ev);
                }
            }
        }
        self.placed = self.placed.max(placed);
        if let Some(sent_at) = newest_sent {
            self.measured(now, now.since(sent_at), config);
        }
        self.came_back(now, bytes > 0 || packets > 0);
        // a delay that is the host's and not a queue's does not go away with a smaller window: what arrived of late fits
        // in always, with the queue that is aimed at
        self.rate.acked(now, bytes);
        let fits = Nanos(config.rtt_base.0 + config.queue_target.0 * DEEP as u64);
        let floor = if self.marks == Marks::Missing { self.rate.bytes_in(fits) } else { 0.0 };
        self.window.acked(bytes, marked, packets.max(1), floor);
        self.settle();
        Outcome::Accepted
    }

    /// When the packet was sent that a report is about, if it is still on the way.
    fn newest_of(&self, f: &EvFeedback) -> Option<Nanos> {
        let p = self.paths.get(f.ev)?;
        let mut n = p.oldest;
        while n != NONE {
            let s = self.sent(n);
            if s.ev_seq == f.highest {
                return (s.fate == Fate::InFlight).then_some(s.at);
            }
            n = s.next;
        }
        None
    }

    /// One EV's report: its losses, its marks, its delay. Gives newly marked and newly arrived packets.
    fn report(
        &mut self,
        now: Nanos,
        f: &EvFeedback,
        ack: &Ack,
        config: &Config,
        counters: &mut Counters,
        events: &mut VecDeque<Event>,
    ) -> (u32, u32) {
        let Some(p) = self.paths.get_mut(f.ev) else {
            counters.drop(Reason::NoSuchEv);
            return (0, 0);
        };
        let received = f.received.wrapping_sub(p.received);
        if received == 0 || received > u32::MAX / 2 {
            return (0, 0);
        }
        let marked = f.marked.wrapping_sub(p.marked).min(received);
        let trimmed = f.trimmed.wrapping_sub(p.trimmed).min(received);
        (p.received, p.marked, p.trimmed) = (f.received, f.marked, f.trimmed);
        p.reach(f);
        // what is late is measured against the longest of all paths, not only of the one heard last
        let rtt = Nanos(u64::from(low(now).wrapping_sub(f.echo_ns)));
        if self.floor < self.next {
            self.longest[0] = self.longest[0].max(rtt.min(now.since(self.sent(self.floor).at)));
        }
        if self.paths.heard(f.ev, now) {
            events.push_back(Event::PathUp(f.ev));
        }
        // clocks differ, and drift: only what is above the least ever seen is the network's
        let least = match self.delay_least {
            Some(least) if (f.delay_min_ns.wrapping_sub(least) as i32) >= 0 => least,
            _ => f.delay_min_ns,
        };
        self.delay_least = Some(least);
        let queue_ns = f.delay_min_ns.wrapping_sub(least).min(1 << 30);
        self.window.sample(queue_ns);
        if let Some(p) = self.paths.get_mut(f.ev) {
            p.queue = Nanos(u64::from(queue_ns));
        }
        let (queue, target, usual) =
            (f64::from(queue_ns), config.queue_target.0 as f64, self.window.median());
        // plain queues and token buckets do not mark: there the window takes a long queue for a mark, and the balancing
        // goes by which paths have a longer one than most
        self.marks = match (self.marks, marked > 0) {
            (_, true) => Marks::Seen,
            (Marks::Unknown, false) if queue > target * DEEP => Marks::Missing,
            (before, false) => before,
        };
        let missing = self.marks == Marks::Missing;
        if marked > 0 || (missing && queue > target && queue > usual * LONGER) {
            self.paths.marked(f.ev);
        } else if trimmed == 0 && (!missing || queue <= target || queue * LONGER < usual) {
            self.paths.clean(f.ev, received);
        }
        let marked = if missing && queue > target * DEEP { received } else { marked };
        if self.gaps(f.ev, f.highest, ack, counters) > trimmed {
            self.paths.lost(f.ev);
        }
        (marked, received)
    }

    /// Whatever lies on an EV before the highest that arrived, and did not arrive, is lost. Gives how many are.
    fn gaps(&mut self, ev: Ev, highest: u32, ack: &Ack, counters: &mut Counters) -> u32 {
        let mut gaps = 0;
        while let Some(oldest) = self.paths.get(ev).map(|p| p.oldest).filter(|&n| n != NONE) {
            let sent = *self.sent(oldest);
            if highest.wrapping_sub(sent.ev_seq) as i32 <= 0 || ack.arrived(oldest) != Some(false) {
                break;
            }
            self.lose(oldest, Loss::Gap, counters);
            self.window.trimmed(sent.wire_bytes);
            gaps += 1;
        }
        gaps
    }

    /// Are queues long, and nothing marks them?
    pub(super) fn plain_queues(&mut self, config: &Config) -> bool {
        self.marks == Marks::Missing && self.window.median() > config.queue_target.0 as f64
    }

    /// Has something arrived that was sent after the oldest packet on the way, `sent` being when that was? What no ACK
    /// could have named yet is not overtaken by anything.
    fn overtaken(&self, sent: Nanos) -> bool {
        self.newest > sent && self.floor < self.shown
    }

    pub fn next_timeout(&self, config: &Config) -> Option<Nanos> {
        let mut at: Option<Nanos> = None;
        let mut sooner = |t: Nanos| at = Some(at.map_or(t, |a| a.min(t)));
        if self.in_flight > 0 {
            let oldest = self.sent(self.floor).at;
            let late = oldest + self.late();
            // what nothing newer has overtaken is asked for, and that only after silence
            let ask =
                self.news_at.max(self.probed_at) + Nanos(self.late().0 << self.probe_wait.min(DOUBLINGS));
            sooner(if self.overtaken(oldest) { late } else { late.max(ask) });
        }
        if self.starved(config) {
            sooner(self.ask_at());
        }
        if let Some((at, _)) = self.bad_path() {
            sooner(at);
        }
        at
    }

    /// Looks at what is overdue. Some reason where the connection has to be given up.
    pub fn handle_timeout(
        &mut self,
        now: Nanos,
        config: &Config,
        counters: &mut Counters,
        events: &mut VecDeque<Event>,
    ) -> Option<CloseReason> {
        let late = self.late();
        while self.in_flight > 0 {
            let sent = *self.sent(self.floor);
            if now.since(sent.at) < late || !self.overtaken(sent.at) {
                break;
            }
            // something sent after it arrived, and it did not
            self.lose(self.floor, Loss::Late, counters);
            let silent = self.paths.get(sent.ev).is_some_and(|p| p.heard_at < sent.at);
            self.paths.lost(sent.ev);
            if silent && self.paths.assume_bad(sent.ev) {
                events.push_back(Event::PathDown(sent.ev));
            }
            self.settle();
        }
        if self.in_flight == 0 {
            return None;
        }
        let oldest = self.sent(self.floor).at;
        let silent_since = self.heard_at.max(oldest);
        let crowded = self.next - self.floor > config.numbers_max();
        if crowded || now.since(silent_since).0 >= late.0.saturating_mul(u64::from(config.give_up_rtts)) {
            counters.timeouts += 1;
            return Some(CloseReason::TimedOut);
        }
        let wait = Nanos(late.0 << self.probe_wait.min(DOUBLINGS));
        if now.since(oldest) >= late
            && now.since(self.news_at.max(self.probed_at)) >= wait
            && self.probe_at.is_none()
        {
            self.probe_at = Some(now);
        }
        None
    }
}
