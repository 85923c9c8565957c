//! The kind of a fault: what the hurt observations look like over time, over flows, and over the signals.
//!
//! The rows of `docs/patterns.md` are this file's; each is a test.

use crate::engine::Engine;
use crate::signal::Signal;
use crate::verdict::{FaultKind, Flap};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::{Component, Counter, HostId, Nanos, PathRef};

/// Share of what crosses that is lost when everything is.
const ALL: f64 = 0.97;
/// Share of a flow that is lost when the flow is dead.
const DEAD: f64 = 0.9;
/// Share of the losses that damaged packets must account for.
const DAMAGED_MIN: f64 = 0.3;
/// A bad spell has at least this many losses in a window, and at least this share of what crossed.
const SPELL_LOST_MIN: f64 = 3.0;
const SPELL_RATE_MIN: f64 = 0.05;
/// Share of all losses that bad spells must account for in a flap.
const SPELL_SHARE_MIN: f64 = 0.8;
/// Expected losses in a good spell, had it been a bad one: less proves nothing.
const GOOD_EXPECTED_MIN: f64 = 8.0;

impl Engine {
    /// Sets the kind of a tracked verdict from what one signal hurt across its links, and what is known of the others.
    pub(crate) fn describe(&mut self, at: usize, signal: Signal, hurts: &[u32]) {
        // What flows send again says how much, not how; where it is all there is, no windows are made of it.
        let counted: Vec<u32> = hurts.iter().copied().filter(|&i| !self.is_resent(i)).collect();
        let only_flows = counted.is_empty();
        let hurts = if only_flows { hurts } else { &counted[..] };
        let windows =
            if signal == Signal::Loss && !only_flows { self.by_window(at, hurts) } else { Vec::new() };
        let has = |signal: Signal| {
            self.tracked[at].parts[signal as usize]
                .is_some_and(|p| self.newest.since(p.at) < Nanos::from_secs(30))
        };
        let flap = if signal == Signal::Loss { self.flap(&windows) } else { self.tracked[at].verdict.flap };
        let kind = if has(Signal::Loss) {
            let queued = has(Signal::Delay) || has(Signal::Ecn);
            if signal != Signal::Loss && self.tracked[at].located.kind != FaultKind::Loss {
                // Another signal beside a loss whose kind is known: only a full queue is news.
                self.tracked[at].located.kind
            } else if signal != Signal::Loss {
                if queued { FaultKind::Congestion } else { FaultKind::Loss }
            } else if flap.is_some() {
                FaultKind::Flap
            } else {
                self.loss_kind(at, hurts, &windows, queued)
            }
        } else if has(Signal::Delay) {
            if has(Signal::Ecn) { FaultKind::Congestion } else { FaultKind::Delay }
        } else if has(Signal::Reorder) {
            FaultKind::Reorder
        } else {
            FaultKind::EcnMarking
        };
        let t = &mut self.tracked[at];
        t.located.kind = kind;
        t.verdict.kind = kind;
        t.verdict.flap = flap;
    }

    fn loss_kind(&self, at: usize, hurts: &[u32], windows: &[(u64, f64, f64)], late: bool) -> FaultKind {
        let rate = self.tracked[at].parts[Signal::Loss as usize].map_or(0.0, |p| p.rate);
        if let Component::Host(h) = self.tracked[at].located.component
            && (rate >= 0.9 || self.hosts.silent(h, self.now))
        {
            return FaultKind::AgentStopped;
        }
        // Damaged packets that arrive at the hosts behind.
        let mut receivers: Vec<HostId> = Vec::new();
        let (mut lost, mut dead, mut whole, mut sent) = (0u64, 0u64, 0usize, 0u64);
        let mut first = self.newest;
        for o in hurts.iter().filter_map(|&i| self.hurt.get(i as usize)) {
            lost += u64::from(o.lost);
            sent += u64::from(o.sent);
            first = first.min(o.window.start);
            if o.sent >= 4 && f64::from(o.lost) >= DEAD * f64::from(o.sent) {
                dead += u64::from(o.lost);
                whole += 1;
            }
            let ends = self.hosts_of(o);
            for h in ends.into_iter().flat_map(|(a, b)| match o.path {
                PathRef::OneWay(_) => [Some(b), None],
                PathRef::RoundTrip { .. } => [Some(b), Some(a)],
            }) {
                if let Some(h) = h
                    && !receivers.contains(&h)
                {
                    receivers.push(h);
                }
            }
        }
        let damaged: u64 = receivers.iter().map(|&h| self.hosts.sum(h, Counter::ChecksumError, first)).sum();
        if damaged as f64 >= DAMAGED_MIN * lost as f64 && damaged > 1 {
            return FaultKind::Corruption;
        }
        // What crossed while it was hurt.
        let (on, fine_meanwhile) = Self::meanwhile(windows);
        if on >= ALL || rate >= ALL {
            return FaultKind::Blackhole;
        }
        let flows_die = whole >= 2 && dead as f64 >= 0.8 * lost as f64 && lost as f64 >= 0.8 * sent as f64;
        if flows_die && fine_meanwhile > 0.1 {
            return FaultKind::SelectiveLoss;
        }
        if late { FaultKind::Congestion } else { FaultKind::Loss }
    }

    /// Losses and crossings of the blamed links by window: `(window, crossed, lost)`, in order.
    fn by_window(&self, at: usize, hurts: &[u32]) -> Vec<(u64, f64, f64)> {
        let window = self.config.window.0.max(1);
        let mut lost: BTreeMap<u64, f64> = BTreeMap::new();
        for o in hurts.iter().filter_map(|&i| self.hurt.get(i as usize)) {
            *lost.entry(o.window.end().0.saturating_sub(1) / window).or_default() += f64::from(o.lost);
        }
        let (Some(first), Some(last)) = (lost.keys().next().copied(), lost.keys().next_back().copied())
        else {
            return Vec::new();
        };
        let v = &self.tracked[at].verdict;
        let links: Vec<u32> = v.links.iter().map(|l| l.0).collect();
        let times = if matches!(v.component, Component::Switch(_)) { 2.0 } else { 1.0 };
        // Far back the rings are coarser than a window; flaps are told from what is recent.
        let first = first.max(last.saturating_sub(120));
        let spans: Vec<(Nanos, Nanos)> =
            (first..=last).map(|w| (Nanos(w * window), Nanos((w + 1) * window))).collect();
        let crossed = self.crossed_in(&links, times, &spans);
        (first..=last)
            .zip(crossed)
            .map(|(w, n)| {
                let k = lost.get(&w).copied().unwrap_or(0.0);
                (w, n.max(k), k)
            })
            .collect()
    }

    /// Loss rate within the windows that lost anything, and the share of their packets that came through.
    fn meanwhile(windows: &[(u64, f64, f64)]) -> (f64, f64) {
        let (mut n, mut k) = (0.0, 0.0);
        // The first and last window may be partly before or after the fault.
        let inner = if windows.len() > 2 { &windows[1..windows.len() - 1] } else { windows };
        for w in inner.iter().filter(|w| w.2 > 0.0) {
            n += w.1;
            k += w.2;
        }
        if n <= 0.0 { (0.0, 0.0) } else { (k / n, 1.0 - k / n) }
    }

    /// Whether the fault comes and goes.
    fn flap(&self, windows: &[(u64, f64, f64)]) -> Option<Flap> {
        let all: f64 = windows.iter().map(|w| w.2).sum();
        let bad = |w: &(u64, f64, f64)| w.2 >= SPELL_LOST_MIN && w.2 >= SPELL_RATE_MIN * w.1;
        let (mut in_bad, mut crossed_bad) = (0.0, 0.0);
        for w in windows.iter().filter(|w| bad(w)) {
            in_bad += w.2;
            crossed_bad += w.1;
        }
        if in_bad < SPELL_SHARE_MIN * all || crossed_bad <= 0.0 {
            return None;
        }
        let rate = in_bad / crossed_bad;
        // Spells: bad windows with no convincing good spell between them belong together.
        let mut starts: Vec<u64> = Vec::new();
        let mut bad_windows = 0u64;
        let mut last_end = 0u64;
        let mut quiet = f64::MAX;
        for w in windows {
            if w.2 > 0.0 {
                if quiet >= GOOD_EXPECTED_MIN {
                    starts.push(w.0);
                }
                quiet = 0.0;
                bad_windows += 1;
                last_end = w.0 + 1;
            } else {
                quiet += rate * w.1;
            }
        }
        if starts.len() < 2 {
            return None;
        }
        let mut gaps: Vec<u64> = starts.windows(2).map(|p| p[1] - p[0]).collect();
        gaps.sort_unstable();
        let period = gaps[gaps.len() / 2];
        let span = last_end.saturating_sub(starts[0]).max(1);
        // The last spell counts with the pause that follows it.
        let whole = (period * starts.len() as u64).max(span);
        Some(Flap {
            period: Nanos(period.saturating_mul(self.config.window.0)),
            duty: (bad_windows as f64 / whole as f64).min(1.0),
        })
    }
}
