//! The sender's table of EVs: what is known of each path, and which one the next packet takes.
//!
//! How: EVs are walked from a random one with a random odd stride, so that every sender goes round its paths evenly but
//! no two go round together; a table whose neighbours begin on different links thereby loads these evenly too.
//! Penalties say how often the walk passes an EV over: a mark costs one round, a trim four, a loss eight; EVs that
//! came back clean are kept in a short queue and used again first. An EV on which something sent two round trips ago is
//! still without an answer is passed over whatever the balancing: its queue is longer than the others', and nothing
//! but that says so yet. An EV on which nothing comes back while others move is assumed bad and carries probes only,
//! until one is answered.
//!
//! Invariants: a choice takes at most one round of the table; an EV that is denied is never chosen; where every EV is
//! bad or denied, the walk goes on over the bad ones: a connection never stands still for lack of a good path.
//! Absent on purpose: what an EV means on the wire.

use crate::config::{Balancing, Config, grown};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use wire::Nanos;
use wire::transport::Ev;

/// What is believed of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathState {
    /// In use.
    #[default]
    Good,
    /// Lost a packet; used less.
    Suspect,
    /// Nothing comes back: probed, not used.
    AssumedBad,
    /// Not to be used: whoever plans the fabric says so.
    Denied,
}

/// What a sender knows of one EV. Counters wrap at 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathView {
    /// Which.
    pub ev: Ev,
    /// What is believed of it.
    pub state: PathState,
    /// Packets sent on it, chunks and probes.
    pub sent: u32,
    /// Packets of it the receiver reported.
    pub arrived: u32,
    /// Packets declared lost on it without a trim.
    pub lost: u32,
    /// Packets that arrived with congestion experienced (RFC 3168).
    pub marked: u32,
    /// Its queue at the last report: above the shortest way ever seen on any EV.
    pub queue: Nanos,
}

/// Rounds an EV is passed over for a mark.
const PENALTY_MARK: u8 = 1;
/// For a trim: the queue was full.
const PENALTY_TRIM: u8 = 4;
/// For a loss.
const PENALTY_LOSS: u8 = 8;
/// Most rounds.
const PENALTY_MAX: u8 = 15;
/// Of so many choices one goes to the next EV in turn whatever its penalty, where paths are reported: an EV that loses a
/// packet in a thousand would else be left alone for good while others come back clean, and never be found out.
const EXPLORE_EVERY: u32 = 8;
/// Clean packets of one EV that are remembered.
const CREDIT_MAX: u32 = 256;
/// Marks the absence of a packet number.
pub(crate) const NONE: u64 = u64::MAX;

/// What the sender keeps of one EV.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// Sequence number of the next packet on it.
    pub seq_next: u32,
    /// Oldest packet number on it whose fate is open or not yet looked at.
    pub oldest: u64,
    /// When that one was sent; [`Nanos::MAX`] where there is none.
    pub waits_since: Nanos,
    /// Newest packet number on it.
    pub newest: u64,
    /// Counters of the last report.
    pub received: u32,
    pub marked: u32,
    pub trimmed: u32,
    /// Packets declared lost on it without a trim.
    pub lost: u32,
    /// One above the highest sequence number known to have arrived.
    pub reached: u32,
    /// One above the highest sequence number declared lost for being late: a guess, until something proves it.
    pub missed: u32,
    /// When something sent on it was last known to have arrived.
    pub heard_at: Nanos,
    /// When it was last probed.
    pub probed_at: Nanos,
    /// Probes since it was last heard: each waits twice as long as the one before.
    pub probes: u8,
    /// Its queue at the last report: above the shortest way ever seen on any EV.
    pub queue: Nanos,
    /// Packets that came back clean and were not yet made into a burst.
    credit: u32,
    /// Rounds still to be passed over.
    pub penalty: u8,
    pub state: PathState,
}

impl Path {
    const NEW: Path = Path {
        seq_next: 0,
        oldest: NONE,
        waits_since: Nanos::MAX,
        newest: NONE,
        received: 0,
        marked: 0,
        trimmed: 0,
        lost: 0,
        reached: 0,
        missed: 0,
        heard_at: Nanos::ZERO,
        probed_at: Nanos::ZERO,
        probes: 0,
        queue: Nanos::ZERO,
        credit: 0,
        penalty: 0,
        state: PathState::Good,
    };

    fn usable(&self) -> bool {
        matches!(self.state, PathState::Good | PathState::Suspect)
    }

    /// Is something sent on it before this moment still without an answer?
    fn overdue(&self, before: Nanos) -> bool {
        self.waits_since < before
    }
}

/// The sender's EVs.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    paths: Vec<Path>,
    balancing: Balancing,
    at: usize,
    stride: usize,
    /// EVs with credit for a burst, each at most once.
    clean: VecDeque<u16>,
    segments: u32,
    /// EVs that are not usable.
    out: usize,
    /// Somebody wants to know of every path: none is left alone for long.
    pub explores: bool,
    turn: u32,
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Paths {
    pub fn new(config: &Config, random: u64) -> Self {
        let n = usize::from(config.evs.max(1));
        let at = (random as u32) as usize % n;
        // a stride that shares no factor with the number of EVs reaches all of them
        let mut stride = ((random >> 32) as usize % n) | 1;
        while gcd(stride, n) != 1 {
            stride += 2;
        }
        Self {
            paths: vec![Path::NEW; n],
            balancing: config.balancing,
            at,
            stride: stride % n.max(2),
            clean: VecDeque::new(),
            segments: 1,
            out: 0,
            explores: false,
            turn: 0,
        }
    }

    /// Bytes on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.paths.capacity() * size_of::<Path>() + self.clean.capacity() * size_of::<u16>()
    }

    /// The most these can be.
    pub fn memory_bytes_max(config: &Config) -> u64 {
        let evs = u64::from(config.evs.max(1));
        evs * size_of::<Path>() as u64 + grown(evs) * size_of::<u16>() as u64
    }

    pub fn get(&self, ev: Ev) -> Option<&Path> {
        self.paths.get(usize::from(ev.0))
    }

    pub fn get_mut(&mut self, ev: Ev) -> Option<&mut Path> {
        self.paths.get_mut(usize::from(ev.0))
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter()
    }

    fn step(&mut self) -> usize {
        let i = self.at;
        self.at += self.stride;
        if self.at >= self.paths.len() {
            self.at %= self.paths.len();
        }
        i
    }

    fn take_clean(&mut self, before: Nanos) -> Option<usize> {
        while let Some(ev) = self.clean.pop_front() {
            let (i, segments) = (usize::from(ev), self.segments);
            let Some(p) = self.paths.get_mut(i) else { continue };
            if !p.usable() || p.penalty > 0 || p.overdue(before) {
                p.credit = 0;
                continue;
            }
            p.credit = p.credit.saturating_sub(segments);
            if p.credit >= segments {
                self.clean.push_back(ev);
            }
            return Some(i);
        }
        None
    }

    /// The next EV in turn that is in use and not behind with its answers.
    fn walk(&mut self, before: Nanos) -> usize {
        let bad_too = self.out >= self.paths.len();
        let mut second = None;
        for _ in 0..self.paths.len() {
            let i = self.step();
            let p = &self.paths[i];
            if p.usable() || (bad_too && p.state != PathState::Denied) {
                if !p.overdue(before) {
                    return i;
                }
                second = second.or(Some(i));
            }
        }
        let Some(i) = second else { return self.step() };
        // all are behind: then the next in turn, and the one after it next time
        self.at = (i + self.stride) % self.paths.len();
        i
    }

    /// The EV of the next packet. EVs on which something sent before `before` is still without an answer are passed
    /// over while there are others.
    pub fn choose(&mut self, before: Nanos) -> Ev {
        self.turn = self.turn.wrapping_add(1);
        if self.explores && self.turn.is_multiple_of(EXPLORE_EVERY) {
            let i = self.walk(before);
            if let Some(p) = self.paths.get_mut(i) {
                p.penalty = p.penalty.saturating_sub(1);
            }
            return Ev(i as u16);
        }
        let chosen = match self.balancing {
            Balancing::Oblivious => self.walk(before),
            Balancing::Reps => match self.take_clean(before) {
                Some(i) => i,
                None => self.walk(before),
            },
            Balancing::Bitmap => self.past_penalties(before),
            Balancing::Mixed => match self.take_clean(before) {
                Some(i) => i,
                None => self.past_penalties(before),
            },
        };
        Ev(chosen as u16)
    }

    fn past_penalties(&mut self, before: Nanos) -> usize {
        for _ in 0..self.paths.len() {
            let i = self.walk(before);
            let Some(p) = self.paths.get_mut(i) else { return i };
            if p.penalty == 0 {
                return i;
            }
            p.penalty -= 1;
        }
        // every EV has a penalty: then none tells them apart
        self.walk(before)
    }

    /// Packets of this EV came back without a mark. As many go out on it again as came back: one burst for every packet
    /// would make an EV that is used be used ever more.
    pub fn clean(&mut self, ev: Ev, packets: u32) {
        if !matches!(self.balancing, Balancing::Reps | Balancing::Mixed) {
            return;
        }
        let Some(p) = self.paths.get_mut(usize::from(ev.0)) else { return };
        let queued = p.credit >= self.segments;
        p.credit = (p.credit + packets).min(CREDIT_MAX);
        if !queued && p.credit >= self.segments {
            self.clean.push_back(ev.0);
        }
    }

    /// Packets of a burst from now on.
    pub fn set_segments(&mut self, segments: usize) {
        let segments = segments.clamp(1, CREDIT_MAX as usize) as u32;
        if segments == self.segments {
            return;
        }
        self.segments = segments;
        self.clean.clear();
        let credited = self.paths.iter().enumerate().filter(|(_, p)| p.credit >= segments);
        self.clean.extend(credited.map(|(i, _)| i as u16));
    }

    fn punish(&mut self, ev: Ev, rounds: u8) {
        if let Some(p) = self.get_mut(ev) {
            p.penalty = p.penalty.saturating_add(rounds).min(PENALTY_MAX);
        }
    }

    pub fn marked(&mut self, ev: Ev) {
        self.punish(ev, PENALTY_MARK);
    }

    pub fn trimmed(&mut self, ev: Ev) {
        self.punish(ev, PENALTY_TRIM);
    }

    pub fn lost(&mut self, ev: Ev) {
        self.punish(ev, PENALTY_LOSS);
        if let Some(p) = self.get_mut(ev) {
            p.lost = p.lost.wrapping_add(1);
            if p.state == PathState::Good {
                p.state = PathState::Suspect;
            }
        }
    }

    /// Something arrived on it. True where it had been given up.
    pub fn heard(&mut self, ev: Ev, now: Nanos) -> bool {
        let Some(p) = self.paths.get_mut(usize::from(ev.0)) else { return false };
        p.heard_at = now;
        p.probes = 0;
        match p.state {
            PathState::AssumedBad => {
                p.state = PathState::Suspect;
                self.out -= 1;
                true
            }
            PathState::Suspect if p.penalty == 0 => {
                p.state = PathState::Good;
                false
            }
            _ => false,
        }
    }

    /// Nothing comes back on it. True where that is news.
    pub fn assume_bad(&mut self, ev: Ev) -> bool {
        let Some(p) = self.paths.get_mut(usize::from(ev.0)) else { return false };
        if !p.usable() {
            return false;
        }
        p.state = PathState::AssumedBad;
        self.out += 1;
        true
    }

    /// Whoever plans the fabric forbids an EV, or allows it again.
    pub fn deny(&mut self, ev: Ev, denied: bool) {
        let Some(p) = self.paths.get_mut(usize::from(ev.0)) else { return };
        match (p.state, denied) {
            (PathState::Denied, false) => {
                p.state = PathState::Good;
                self.out -= 1;
            }
            (PathState::Good | PathState::Suspect, true) => {
                p.state = PathState::Denied;
                self.out += 1;
            }
            (PathState::AssumedBad, true) => p.state = PathState::Denied,
            _ => {}
        }
    }

    /// Which EV assumed bad is to be probed next, and when: the first time `every` after the last probe, then more and
    /// more rarely.
    pub fn to_probe(&self, every: Nanos) -> Option<(Nanos, Ev)> {
        if self.out == 0 {
            return None;
        }
        let bad = self.paths.iter().enumerate().filter(|(_, p)| p.state == PathState::AssumedBad);
        bad.map(|(i, p)| (p.probed_at + Nanos(every.0 << p.probes.min(8)), Ev(i as u16)))
            .min_by_key(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(evs: u16, balancing: Balancing, random: u64) -> Paths {
        Paths::new(&Config { evs, balancing, ..Config::default() }, random)
    }

    #[test]
    fn a_walk_goes_round_every_ev_once() {
        for evs in [1, 2, 3, 8, 30, 64, 100, 128, 1000] {
            for random in [0, 7, 0x1234_5678_9abc_def0, u64::MAX] {
                let mut p = paths(evs, Balancing::Oblivious, random);
                let mut seen = vec![0u8; usize::from(evs)];
                (0..evs).for_each(|_| seen[usize::from(p.choose(Nanos::ZERO).0)] += 1);
                assert!(seen.iter().all(|&n| n == 1), "{evs} {random:x}");
            }
        }
    }

    #[test]
    fn a_denied_ev_is_never_chosen_and_bad_ones_only_where_nothing_else_is() {
        for balancing in [Balancing::Oblivious, Balancing::Bitmap, Balancing::Reps, Balancing::Mixed] {
            let mut p = paths(4, balancing, 5);
            p.clean(Ev(1), 1);
            p.deny(Ev(1), true);
            assert!(p.assume_bad(Ev(2)));
            assert!((0..40).all(|_| matches!(p.choose(Nanos::ZERO).0, 0 | 3)), "{balancing:?}");
            p.assume_bad(Ev(0));
            p.assume_bad(Ev(3));
            assert!((0..40).all(|_| p.choose(Nanos::ZERO).0 != 1), "{balancing:?}");
            assert!(p.heard(Ev(3), Nanos(1)));
            assert!((0..40).all(|_| p.choose(Nanos::ZERO).0 == 3), "{balancing:?}");
        }
    }

    #[test]
    fn a_path_that_lost_something_is_tried_again_where_paths_are_reported() {
        for (explores, tried) in [(false, 0), (true, 8)] {
            let mut p = paths(4, Balancing::Mixed, 5);
            p.explores = explores;
            p.lost(Ev(2));
            let mut n = 0;
            for _ in 0..8 * 4 * EXPLORE_EVERY {
                // the others always come back clean
                (0..4).filter(|e| *e != 2).for_each(|e| p.clean(Ev(e), 1));
                n += u32::from(p.choose(Nanos::ZERO) == Ev(2));
            }
            assert_eq!(n, tried);
            assert_eq!(p.get(Ev(2)).map(|p| p.penalty), Some(if explores { 0 } else { PENALTY_LOSS }));
        }
    }

    #[test]
    fn a_penalty_is_served_and_over() {
        let mut p = paths(4, Balancing::Bitmap, 0);
        p.trimmed(Ev(2));
        let chosen: Vec<u16> = (0..16).map(|_| p.choose(Nanos::ZERO).0).collect();
        assert_eq!(chosen.iter().filter(|&&e| e == 2).count(), 1, "{chosen:?}");
    }
}
