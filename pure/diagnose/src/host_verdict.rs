//! Verdicts on hosts that rest on the hosts' own counters: one that stalls, one whose agent is silent.
//!
//! Invariant: a host has at most one open verdict of this kind, and it takes over what the localizer says about the
//! host's ports.

use crate::claim::Claim;
use crate::engine::Engine;
use crate::hosts::Stall;
use crate::track::Tracked;
use crate::verdict::{FaultKind, Tally};
use alloc::vec::Vec;
use wire::{Component, HostId, LinkId};

impl Engine {
    /// A verdict on a host from its own counters; it takes over what the localizer says about the host's ports.
    pub(crate) fn host_verdict(&mut self, host: HostId, kind: FaultKind, stall: Option<Stall>) {
        let component = Component::Host(host);
        let links: Vec<LinkId> = self.device_links(component);
        let found = self.claimed(|t: &Tracked| {
            let other = matches!(t.verdict.kind, FaultKind::PfcStorm | FaultKind::Wearing);
            (t.verdict.component == component && !other)
                || (t.open()
                    && !other
                    && !t.verdict.links.is_empty()
                    && t.verdict.links.iter().all(|l| links.binary_search(l).is_ok()))
        });
        let known = found.and_then(|at| self.tracked.get(at)).map(|t| &t.verdict);
        // A host that answers nobody is not merely late.
        let gone = known.is_some_and(|v| {
            v.kind == FaultKind::AgentStopped && v.closed_at.is_none() && v.component == component
        });
        let first = stall.map_or(self.now, |s| s.first);
        let claim = Claim {
            component,
            alternatives: Vec::new(),
            links,
            kind: if gone { FaultKind::AgentStopped } else { kind },
            rate: stall.map_or(1.0, |s| s.share),
            spread: stall.map_or(1.0, |_| 0.2),
            delay_excess_ns: stall.map_or(0, |s| s.size_ns),
            confidence: if stall.is_some_and(|s| s.windows < 5) { 0.85 } else { 0.95 },
            first,
            last: stall.map_or(self.now, |s| s.last),
            hurt: stall.map_or(Tally::default(), |s| Tally {
                observations: s.windows as u64,
                sent: s.of,
                hurt: s.events,
            }),
            moments: stall.map_or(0, |s| s.windows as u32),
            counters: self.host_counters(host, first),
            victims: Vec::new(),
        };
        self.claim(found, claim);
    }
}
