//! Cables that wear out: ports that refuse damaged frames, or correct ever more of them, before any path is hurt.
//!
//! How: once a second the rate of every port that counted any is compared with what is usual in the fabric and, for
//! corrected blocks, with its own past, since optics differ by orders of magnitude in what they correct. Damaged frames
//! are counted over all traffic, so they show a sick cable long before a probe is lost on it.
//!
//! Invariants: such a verdict is never sure (its confidence stays below 0.7), and gives way to what paths say.
//! Absent on purpose: a forecast of when the cable will fail.

use crate::claim::Claim;
use crate::engine::Engine;
use crate::places::Excess;
use crate::verdict::{Counted, FaultKind, Tally};
use alloc::vec;
use alloc::vec::Vec;
use wire::{Component, Counter, LinkId, Nanos};

const SPAN: Nanos = Nanos::from_secs(60);
/// Seconds of the last minute in which more than usual was counted.
const SECONDS_MIN: u32 = 6;
/// Against what is usual in the fabric, and against the port's own past.
const TIMES_USUAL: f64 = 20.0;
const TIMES_BEFORE: f64 = 4.0;
/// Silence after which it is over.
const QUIET: Nanos = Nanos::from_secs(60);

impl Engine {
    /// The cable a port's counter speaks of, under the direction that arrives at a NIC.
    fn cable(&self, place: Component) -> Option<LinkId> {
        match place {
            Component::Link(l) => Some(l),
            Component::Nic(n) => Some(self.fabric.access_link(n).reverse()),
            Component::Switch(_) | Component::Host(_) => None,
        }
        .filter(|&l| self.fabric.exists(l))
    }

    fn wears(&self, place: Component, counter: Counter, now: Nanos) -> Option<Excess> {
        let e = self.places.excess(place, counter, now.since(SPAN), now)?;
        if e.seconds < SECONDS_MIN || e.rate < TIMES_USUAL * e.usual {
            return None;
        }
        if counter == Counter::FrameCorrected {
            let per_second = e.events as f64 / SPAN.as_secs_f64();
            let before = self.places.before(place, counter, now)?;
            if per_second < TIMES_BEFORE * before {
                return None;
            }
        }
        Some(e)
    }

    /// Looks for cables that wear out, once a second.
    pub(crate) fn review_wear(&mut self) {
        let now = self.now.max(self.newest);
        let mut found: Vec<(LinkId, Component, Counter, Excess)> = Vec::new();
        for counter in [Counter::FrameError, Counter::FrameCorrected] {
            for place in self.places.counting(counter) {
                if let (Some(link), Some(e)) = (self.cable(place), self.wears(place, counter, now))
                    && !found.iter().any(|f| f.0 == link || f.0 == link.reverse())
                {
                    found.push((link, place, counter, e));
                }
            }
        }
        let open = self.open_links();
        for (link, place, counter, e) in found {
            let mine = |c: Component| c == Component::Link(link) || c == Component::Link(link.reverse());
            let known = self.claimed(|t| t.verdict.kind == FaultKind::Wearing && mine(t.verdict.component));
            let blamed = [link, link.reverse()].iter().any(|l| open.binary_search(&l.0).is_ok());
            let ours = known.and_then(|at| self.tracked.get(at)).is_some_and(|t| t.open());
            if blamed && !ours {
                continue;
            }
            let weight = (100.0 * e.nats) as i32;
            let counted = Counted { component: place, counter, events: e.events, of: e.of, weight };
            let rate = if e.of > 0 { e.events as f64 / e.of as f64 } else { 0.0 };
            let claim = Claim {
                component: Component::Link(link),
                alternatives: self.fabric.cable_of(link).ok().map(Component::Nic).into_iter().collect(),
                links: vec![link],
                kind: FaultKind::Wearing,
                rate,
                spread: 0.5 * rate,
                delay_excess_ns: 0,
                confidence: if counter == Counter::FrameError { 0.65 } else { 0.5 },
                first: e.first,
                last: e.last,
                hurt: Tally { observations: u64::from(e.seconds), sent: e.of, hurt: e.events },
                moments: e.seconds,
                counters: vec![counted],
                victims: Vec::new(),
            };
            self.claim(known, claim);
        }
    }

    /// Whether a cable has been quiet long enough.
    pub(crate) fn worn_no_more(&self, last_seen: Nanos) -> bool {
        self.now.since(last_seen) >= QUIET
    }
}
