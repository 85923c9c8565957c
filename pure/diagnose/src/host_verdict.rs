//! Verdicts on hosts that rest on the hosts' own counters: one that stalls, one whose agent is silent.
//!
//! Invariant: a host has at most one open verdict of this kind, and it takes over what the localizer says about the
//! host's ports.

use crate::engine::Engine;
use crate::hosts::Stall;
use crate::track::{TELL_EVERY, Tracked};
use crate::verdict::{Event, Evidence, FaultKind, Tally, Verdict, VerdictId};
use alloc::vec;
use alloc::vec::Vec;
use wire::{Component, HostId, LinkId, Nanos};

impl Engine {
    /// A verdict on a host from its own counters; it takes over what the localizer says about the host's ports.
    pub(crate) fn host_verdict(&mut self, host: HostId, kind: FaultKind, stall: Option<Stall>) {
        let component = Component::Host(host);
        let mut links: Vec<LinkId> = crate::map::Components::host_nics(&self.fabric, host)
            .flat_map(|n| {
                let up = self.fabric.access_link(n);
                [up, up.reverse()]
            })
            .collect();
        links.sort_unstable();
        let mine = |t: &Tracked| {
            t.verdict.component == component
                || (t.open()
                    && !t.verdict.links.is_empty()
                    && t.verdict.links.iter().all(|l| links.binary_search(l).is_ok()))
        };
        let within = self.config.reopen_within;
        let found = self.tracked.iter().position(|t| t.open() && mine(t)).or_else(|| {
            self.tracked
                .iter()
                .position(|t| mine(t) && t.verdict.closed_at.is_some_and(|c| self.newest.since(c) < within))
        });
        let last = stall.map_or(self.now, |s| s.last);
        let at = match found {
            Some(at) => at,
            None => {
                self.forget_closed();
                let id = VerdictId(self.next_id);
                self.next_id += 1;
                let verdict = Verdict {
                    id,
                    component,
                    alternatives: Vec::new(),
                    links: links.clone(),
                    kind,
                    rate: 0.0,
                    rate_low: 0.0,
                    rate_high: 1.0,
                    delay_excess_ns: 0,
                    flap: None,
                    confidence: 0.0,
                    first_seen: stall.map_or(self.now, |s| s.first),
                    last_seen: last,
                    closed_at: None,
                    evidence: Evidence::default(),
                };
                self.tracked.push(Tracked {
                    verdict,
                    parts: [None; 4],
                    by_counters: true,
                    longest_gap: Nanos::ZERO,
                    told: Nanos::ZERO,
                    net: 0.0,
                    since: stall.map_or(self.now, |s| s.first),
                });
                self.tracked.len() - 1
            }
        };
        let before = self.tracked[at].verdict.clone();
        let t = &mut self.tracked[at];
        t.by_counters = true;
        let v = &mut t.verdict;
        // A host that answers nobody is not merely late.
        let gone =
            v.kind == FaultKind::AgentStopped && v.closed_at.is_none() && before.component == component;
        v.component = component;
        v.links = links;
        v.kind = if gone { FaultKind::AgentStopped } else { kind };
        v.flap = None;
        v.alternatives = vec![];
        v.last_seen = v.last_seen.max(last);
        v.confidence = 0.95;
        if let Some(s) = stall {
            v.rate = s.share;
            v.rate_low = (s.share - 0.2).max(0.0);
            v.rate_high = (s.share + 0.2).min(1.0);
            v.delay_excess_ns = s.size_ns;
            v.first_seen = v.first_seen.min(s.first);
            v.evidence.crossing_hurt = Tally { observations: s.windows as u64, sent: s.of, hurt: s.events };
            v.evidence.moments = s.windows as u32;
            v.confidence = if s.windows >= 5 { 0.95 } else { 0.85 };
        } else {
            v.rate = v.rate.max(1.0);
            v.rate_high = 1.0;
        }
        let reopened = v.closed_at.take().is_some();
        let v = v.clone();
        let now = self.now;
        let told = &mut self.tracked[at].told;
        let event = if found.is_none() {
            Event::Opened(v)
        } else if reopened {
            Event::Reopened(v)
        } else if before.component != component || before.kind != v.kind || now.since(*told) >= TELL_EVERY {
            Event::Updated(v)
        } else {
            return;
        };
        *told = now;
        self.tell(event);
    }
}
