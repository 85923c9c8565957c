//! One session: the probes of a slot whose fate is not settled yet, and how it is settled.
//!
//! How: the sender numbers probes (n), the reflector numbers what arrives (m). Between two answered probes `(n0, m0)` and
//! `(n, m)` the reflector saw `m − m0` of `n − n0`: what is missing there died on the way out, and what it counted and
//! was not heard of died on the way back. Unsettled probes are settled from the oldest on, a block at a time: a block
//! ends with an answered probe after which no smaller `m` follows (a clean cut), and everything unanswered in it must
//! have been overtaken for a grace time, so that reordering is not taken for loss. A tail nothing overtakes is lost by
//! time-out, and then which way is not known.
//!
//! Invariants: every probe is settled exactly once, in the order sent; forward lost + backward lost + answered +
//! undecided = sent; a reflector that starts again from zero loses nothing.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use wire::Nanos;

/// Unsettled probes kept of one session; beyond it the oldest are given up as undecided.
pub(crate) const UNSETTLED_MAX: usize = 8_192;

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// There and back.
    Answered { overtaken_forward: bool, overtaken_backward: bool },
    /// Died on the way out.
    LostForward,
    /// Died on the way back.
    LostBackward,
    /// Died, and it cannot be said where.
    Lost,
}

/// A settled probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) t1: Nanos,
    pub(crate) fate: Fate,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    /// Life of the reflector and its sequence number in it: grows as the reflector counts.
    m: u64,
    /// When the answer was taken in.
    at: Nanos,
    overtaken_backward: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    t1: Nanos,
    train: u32,
    answered: Option<Answered>,
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Taken { t1: Nanos },
    NeverSent,
    Replayed,
    Duplicate,
    Late,
}

/// Times a session settles by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Nanos,
    pub(crate) grace: Nanos,
    /// How much longer a tail waits for its slot's next train, where its own train had answers.
    pub(crate) hold: Nanos,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Sequence number of the front entry.
    base: u32,
    entries: VecDeque<Entry>,
    /// `m` of the last settled probe the reflector counted.
    anchor: Option<u64>,
    /// Largest `m` ever settled: what counts no further belongs to a new life of the reflector.
    floor: Option<u64>,
    /// Largest `m` heard of.
    heard: Option<u64>,
    life: u64,
    train: u32,
    /// Train of the youngest answered probe.
    answered_train: Option<u32>,
    /// Answered entries not settled yet: something older is unanswered, or the counts are out of order.
    waiting: usize,
    /// Of the last 64 settled, bit k: the one k before `base − 1` was answered.
    recent: u64,
    pub(crate) restarts: u64,
    pub(crate) counted_more: u64,
}

impl Session {
    pub(crate) fn new(first_sequence: u32) -> Self {
        Session {
            base: first_sequence,
            entries: VecDeque::new(),
            anchor: None,
            floor: None,
            heard: None,
            life: 0,
            train: 0,
            answered_train: None,
            waiting: 0,
            recent: 0,
            restarts: 0,
            counted_more: 0,
        }
    }

    pub(crate) fn begin_train(&mut self) {
        self.train = self.train.wrapping_add(1);
    }

    /// A probe leaves; its sequence number.
    pub(crate) fn sent(&mut self, t1: Nanos, out: &mut Vec<Settled>) -> u32 {
        if self.entries.len() >= UNSETTLED_MAX {
            self.give_up_front(out);
        }
        let n = self.base.wrapping_add(self.entries.len() as u32);
        self.entries.push_back(Entry { t1, train: self.train, answered: None });
        n
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.entries.len()
    }

    /// When the oldest unsettled probe left.
    pub(crate) fn front(&self) -> Option<Nanos> {
        self.entries.front().map(|e| e.t1)
    }

    /// Whether a second look is needed soon.
    pub(crate) fn has_gap(&self) -> bool {
        self.waiting > 0
    }

    pub(crate) fn handle_answer(
        &mut self,
        now: Nanos,
        n: u32,
        m: u32,
        t1: Nanos,
        out: &mut Vec<Settled>,
    ) -> Match {
        let index = n.wrapping_sub(self.base) as i32;
        if index < 0 {
            let ago = index.unsigned_abs() - 1;
            let answered = ago < 64 && self.recent >> ago & 1 == 1;
            return if answered { Match::Duplicate } else { Match::Late };
        }
        let Some(entry) = self.entries.get_mut(index as usize) else { return Match::NeverSent };
        if entry.t1 != t1 {
            return Match::Replayed;
        }
        if entry.answered.is_some() {
            return Match::Duplicate;
        }
        // a count that falls behind what is settled, or far behind what was heard, is a reflector that began again
        let extended = |life: u64| life << 32 | u64::from(m);
        let known = self.floor.is_some_and(|f| extended(self.life) <= f)
            || self.heard.is_some_and(|h| extended(self.life) + 1_024 < h);
        if known {
            self.life += 1;
            self.restarts += 1;
        }
        let m = extended(self.life);
        let overtaken_backward = self.heard.is_some_and(|h| m < h);
        self.heard = Some(self.heard.map_or(m, |h| h.max(m)));
        entry.answered = Some(Answered { m, at: now, overtaken_backward });
        self.answered_train = Some(entry.train);
        self.waiting += 1;
        if index == 0 && self.anchor.is_none_or(|a| m == a + 1) {
            self.settle_in_order(out);
        }
        Match::Taken { t1 }
    }

    /// The common case: the front is answered and its count follows on.
    fn settle_in_order(&mut self, out: &mut Vec<Settled>) {
        while let Some(Entry { t1, answered: Some(a), .. }) = self.entries.front().copied() {
            if self.anchor.is_some_and(|anchor| a.m != anchor + 1) {
                break;
            }
            self.anchor = Some(a.m);
            self.floor = self.floor.max(self.anchor);
            let fate = Fate::Answered { overtaken_forward: false, overtaken_backward: a.overtaken_backward };
            self.pop(Settled { t1, fate }, out);
        }
    }

    fn pop(&mut self, settled: Settled, out: &mut Vec<Settled>) {
        if self.entries.pop_front().is_some_and(|e| e.answered.is_some()) {
            self.waiting -= 1;
        }
        self.base = self.base.wrapping_add(1);
        self.recent = self.recent << 1 | u64::from(matches!(settled.fate, Fate::Answered { .. }));
        out.push(settled);
    }

    fn give_up_front(&mut self, out: &mut Vec<Settled>) {
        if let Some(e) = self.entries.front().copied() {
            let fate = match e.answered {
                Some(a) => {
                    Fate::Answered { overtaken_forward: false, overtaken_backward: a.overtaken_backward }
                }
                None => Fate::Lost,
            };
            self.anchor = e.answered.map(|a| a.m);
            self.floor = self.floor.max(self.anchor);
            self.pop(Settled { t1: e.t1, fate }, out);
        }
    }

    /// Settles what can be. Everything the kernel had received before `now` must have been handed in.
    pub(crate) fn handle_timeout(&mut self, now: Nanos, limits: &Limits, out: &mut Vec<Settled>) {
        if self.waiting > 0 {
            self.settle_blocks(now, limits, out);
        }
        // the tail: nothing answered after it
        while let Some(e) = self.entries.front() {
            if e.answered.is_some() {
                return;
            }
            let age = now.since(e.t1);
            let held = self.answered_train == Some(e.train);
            let limit = if held { limits.timeout + limits.hold } else { limits.timeout };
            if age < limit || self.later_answer(now, limits) {
                return;
            }
            self.give_up_front(out);
        }
    }

    /// Whether some later probe is answered, so that a block will settle the front soon.
    fn later_answer(&self, now: Nanos, limits: &Limits) -> bool {
        self.waiting > 0
            && self.entries.iter().any(|e| e.answered.is_some_and(|a| now.since(a.at) < limits.grace))
    }

    fn settle_blocks(&mut self, now: Nanos, limits: &Limits, out: &mut Vec<Settled>) {
        // everything before `end` is either answered or overtaken for long enough
        let ripe = |e: &Entry| e.answered.is_some_and(|a| now.since(a.at) >= limits.grace);
        let Some(end) = self.entries.iter().rposition(ripe).map(|i| i + 1) else { return };
        // smallest count after each entry, for clean cuts
        let mut after = Vec::with_capacity(end);
        let mut least =
            self.entries.iter().skip(end).filter_map(|e| e.answered.map(|a| a.m)).min().unwrap_or(u64::MAX);
        for e in self.entries.iter().take(end).rev() {
            after.push(least);
            if let Some(a) = e.answered {
                least = least.min(a.m);
            }
        }
        after.reverse();
        let (mut largest, mut cuts) = (0, Vec::new());
        for (i, (e, &later)) in self.entries.iter().zip(&after).enumerate() {
            if let Some(a) = e.answered {
                largest = largest.max(a.m);
                if largest < later {
                    cuts.push(i + 1);
                }
            }
        }
        let mut done = 0;
        for cut in cuts {
            self.settle_block(cut - done, out);
            done = cut;
        }
        self.settle_in_order(out);
    }

    /// Settles the first `len` entries, the last of which is answered.
    fn settle_block(&mut self, len: usize, out: &mut Vec<Settled>) {
        let block = || self.entries.iter().take(len);
        let answers = block().filter(|e| e.answered.is_some()).count() as u64;
        let largest = block().filter_map(|e| e.answered.map(|a| a.m)).max().unwrap_or(0);
        let first_m = block().find_map(|e| e.answered.map(|a| a.m)).unwrap_or(0);
        let total = len as u64;
        let same_life = self.anchor.is_some_and(|a| a >> 32 == largest >> 32 && first_m > a);
        // how many of the unanswered died on the way out, and how many on the way back; else it cannot be said
        let split = match self.anchor {
            Some(anchor) if same_life => {
                let counted = largest - anchor;
                if counted > total {
                    // the network made copies: the reflector counted more than was sent
                    self.counted_more += counted - total;
                    Some((0, total - answers))
                } else if counted < answers {
                    None
                } else {
                    Some((total - counted, counted - answers))
                }
            }
            _ => None,
        };
        // from the last entry back: whoever has a smaller count behind it was overtaken on the way out
        let mut overtaken = Vec::with_capacity(len);
        let mut least = u64::MAX;
        for e in self.entries.iter().take(len).rev() {
            let m = e.answered.map_or(u64::MAX, |a| a.m);
            overtaken.push(m != u64::MAX && m > least);
            least = least.min(m);
        }
        let mut forward = split.map_or(0, |(f, _)| f);
        for _ in 0..len {
            let Some(e) = self.entries.front().copied() else { return };
            let overtaken_forward = overtaken.pop().unwrap_or(false);
            let fate = match (e.answered, split) {
                (Some(a), _) => {
                    Fate::Answered { overtaken_forward, overtaken_backward: a.overtaken_backward }
                }
                (None, None) => Fate::Lost,
                (None, Some(_)) if forward > 0 => {
                    forward -= 1;
                    Fate::LostForward
                }
                (None, Some(_)) => Fate::LostBackward,
            };
            self.pop(Settled { t1: e.t1, fate }, out);
        }
        self.anchor = Some(largest);
        self.floor = self.floor.max(self.anchor);
    }
}
