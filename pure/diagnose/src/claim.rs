//! Verdicts that rest on counters, not on paths: how one opens, goes on and comes back.
//!
//! Invariants: a place has at most one open verdict of a kind; an id never changes.
//! Absent on purpose: when a claim is made, and when its fault is over; that is told by whoever counts.

use crate::engine::Engine;
use crate::track::{Located, TELL_EVERY, Tracked};
use crate::verdict::{Counted, Event, Evidence, FaultKind, Tally, Verdict, VerdictId};
use alloc::vec::Vec;
use wire::{Component, LinkId, Nanos};

/// What counters say is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) component: Component,
    pub(crate) alternatives: Vec<Component>,
    pub(crate) links: Vec<LinkId>,
    pub(crate) kind: FaultKind,
    /// Share of what was counted, and how far it may be off.
    pub(crate) rate: f64,
    pub(crate) spread: f64,
    pub(crate) delay_excess_ns: u64,
    pub(crate) confidence: f64,
    pub(crate) first: Nanos,
    pub(crate) last: Nanos,
    pub(crate) hurt: Tally,
    pub(crate) moments: u32,
    pub(crate) counters: Vec<Counted>,
    pub(crate) victims: Vec<Component>,
}

impl Engine {
    /// The verdict a claim belongs to: one that is open first, then one that closed not long ago.
    pub(crate) fn claimed(&self, mine: impl Fn(&Tracked) -> bool) -> Option<usize> {
        let within = self.config.reopen_within;
        let recent = |t: &Tracked| t.verdict.closed_at.is_some_and(|c| self.newest.since(c) < within);
        let open = self.tracked.iter().position(|t| t.open() && mine(t));
        open.or_else(|| self.tracked.iter().position(|t| mine(t) && recent(t)))
    }

    /// Opens a verdict, or brings the one at `found` up to what the claim says.
    pub(crate) fn claim(&mut self, found: Option<usize>, claim: Claim) {
        let at = match found {
            Some(at) => at,
            None => {
                self.forget_closed();
                let id = VerdictId(self.next_id);
                self.next_id += 1;
                let verdict = Verdict {
                    id,
                    component: claim.component,
                    alternatives: Vec::new(),
                    links: claim.links.clone(),
                    kind: claim.kind,
                    rate: 0.0,
                    rate_low: 0.0,
                    rate_high: 1.0,
                    delay_excess_ns: 0,
                    flap: None,
                    confidence: 0.0,
                    first_seen: claim.first,
                    last_seen: claim.last,
                    closed_at: None,
                    evidence: Evidence::default(),
                };
                self.tracked.push(Tracked {
                    located: Located::of(&verdict),
                    verdict,
                    parts: [None; 4],
                    by_counters: true,
                    longest_gap: Nanos::ZERO,
                    told: Nanos::ZERO,
                    net: 0.0,
                    since: claim.first,
                });
                self.tracked.len() - 1
            }
        };
        let t = &mut self.tracked[at];
        let before = (t.verdict.component, t.verdict.kind);
        t.by_counters = true;
        let v = &mut t.verdict;
        let reopened = v.closed_at.take().is_some();
        v.component = claim.component;
        v.alternatives = claim.alternatives;
        v.links = claim.links;
        v.kind = claim.kind;
        v.flap = None;
        v.last_seen = v.last_seen.max(claim.last);
        v.first_seen = v.first_seen.min(claim.first);
        v.rate = claim.rate.clamp(0.0, 1.0);
        v.rate_low = (v.rate - claim.spread).max(0.0);
        v.rate_high = (v.rate + claim.spread).min(1.0);
        v.confidence = claim.confidence;
        v.evidence.counters = claim.counters;
        v.evidence.victims = claim.victims;
        if claim.hurt.observations > 0 {
            v.delay_excess_ns = claim.delay_excess_ns;
            v.evidence.crossing_hurt = claim.hurt;
            v.evidence.moments = claim.moments;
        }
        t.located = Located::of(v);
        let v = v.clone();
        let event = if found.is_none() {
            Event::Opened(v)
        } else if reopened {
            Event::Reopened(v)
        } else if before != (v.component, v.kind) || self.now.since(t.told) >= TELL_EVERY {
            Event::Updated(v)
        } else {
            return;
        };
        t.told = self.now;
        self.tell(event);
    }
}
