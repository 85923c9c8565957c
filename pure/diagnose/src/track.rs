//! The life of a verdict: opened, updated, closed, reopened, restored.
//!
//! How: suspects of one evaluation are sorted by evidence; each either belongs to a verdict that is known (the same
//! component, a component of the same links, the other direction of the same cable) or opens one. A verdict closes
//! when what crossed its links loss-free since it was last hurt would be improbable if the fault went on.
//!
//! Invariants: one open verdict a component; one observation is not evidence for two verdicts of one signal; a
//! verdict that closed keeps its id if the fault comes back within [`crate::Config::reopen_within`].

use crate::engine::{CLOSED_MAX, Engine};
use crate::evaluate::{Suspect, bound};
use crate::hosts::Stall;
use crate::likelihood::hazard_of;
use crate::signal::Signal;
use crate::verdict::{Event, Evidence, Exemplar, FaultKind, Tally, Verdict, VerdictId};
use alloc::vec;
use alloc::vec::Vec;
use libm::{exp, log};
use wire::{Component, HostId, LinkId, Nanos};

/// Rivals closer than this cannot be told apart and are named as alternatives, nats.
const ALIKE_NATS: f64 = 1.5;
/// Improbability of silence, nats, at which a fault is taken to be over.
const HEALED_NATS: f64 = 6.0;
/// Shortest silence that closes a verdict.
const QUIET_MIN: Nanos = Nanos::from_secs(3);
/// Longest silence that is waited for because the fault has come and gone before.
const QUIET_MAX: Nanos = Nanos::from_secs(24);
/// Spans of silence tried, seconds.
const QUIET_SECS: [u64; 16] = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256, 512];
/// Rate above which a few clean packets are not taken for the end: hurt windows may report late.
const RATE_HEAL_MAX: f64 = 0.8;
/// A verdict that has not changed is told again after this long.
const TELL_EVERY: Nanos = Nanos::from_secs(10);
/// Size and kind are taken from at most this much of a fault's life.
const SIZE_SPAN: Nanos = Nanos::from_secs(60);
/// Most beginnings tried for a fault.
const ONSETS_MAX: usize = 64;
/// How long a signal that is no longer found still shapes the kind.
const SIGNAL_KEPT: Nanos = Nanos::from_secs(30);

/// What one signal says about a verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) rate: f64,
    pub(crate) rate_low: f64,
    pub(crate) rate_high: f64,
    pub(crate) at: Nanos,
}

/// A verdict and what is needed to carry it on.
pub(crate) struct Tracked {
    pub(crate) verdict: Verdict,
    /// What each signal says, by [`Signal`].
    pub(crate) parts: [Option<Part>; 4],
    /// Rests on counters of a host, not on the localizer.
    pub(crate) by_counters: bool,
    /// Longest silence seen within the fault's life.
    pub(crate) longest_gap: Nanos,
    told: Nanos,
    net: f64,
    /// Beginning of the present spell of the fault: when it was first seen since it opened or came back.
    since: Nanos,
}

impl Tracked {
    pub(crate) fn restored(mut v: Verdict) -> Self {
        v.links.sort_unstable();
        let part = Part { rate: v.rate, rate_low: v.rate_low, rate_high: v.rate_high, at: v.last_seen };
        let mut parts = [None; 4];
        let signal = match v.kind {
            FaultKind::Reorder => Signal::Reorder,
            FaultKind::EcnMarking => Signal::Ecn,
            FaultKind::Delay | FaultKind::HostStall => Signal::Delay,
            _ => Signal::Loss,
        };
        parts[signal as usize] = Some(part);
        let by_counters = v.kind == FaultKind::HostStall;
        let longest_gap = v.flap.map_or(Nanos::ZERO, |f| f.period);
        Tracked {
            told: v.last_seen,
            since: v.first_seen,
            verdict: v,
            parts,
            by_counters,
            longest_gap,
            net: 0.0,
        }
    }

    pub(crate) fn open(&self) -> bool {
        self.verdict.closed_at.is_none()
    }

    fn quiet(&self) -> Nanos {
        // What comes back within seconds flaps, and its pauses are no end; what comes back after a minute has healed.
        let twice = self.longest_gap + self.longest_gap;
        if twice <= QUIET_MAX { QUIET_MIN.max(twice) } else { QUIET_MIN }
    }
}

/// How a suspect belongs to a verdict that is known.
enum Belongs {
    Open(usize),
    Closed(usize),
    No,
}

impl Engine {
    /// Every link an open verdict blames, sorted.
    pub(crate) fn open_links(&self) -> Vec<u32> {
        let mut out: Vec<u32> = self
            .tracked
            .iter()
            .filter(|t| t.open())
            .flat_map(|t| t.verdict.links.iter().map(|l| l.0))
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Takes the suspects of one evaluation into the verdicts.
    pub(crate) fn settle(&mut self, mut suspects: Vec<Suspect>) {
        suspects.sort_by(|a, b| {
            a.signal.cmp(&b.signal).then(b.net().total_cmp(&a.net())).then(a.number.cmp(&b.number))
        });
        let mut taken: Vec<(Signal, Vec<u32>)> = Vec::new();
        let mut done: Vec<(u32, Signal)> = Vec::new();
        for s in suspects {
            if done.contains(&(s.number, s.signal)) || !self.reportable(&s) {
                continue;
            }
            let spoken_for = taken.iter().any(|(signal, hurts)| {
                *signal == s.signal && {
                    let shared = s.hurts.iter().filter(|h| hurts.binary_search(h).is_ok()).count();
                    2 * shared >= s.hurts.len()
                }
            });
            if spoken_for {
                continue;
            }
            taken.push((s.signal, s.hurts.clone()));
            done.push((s.number, s.signal));
            match self.belongs(&s) {
                Belongs::Open(at) => self.update(at, &s),
                Belongs::Closed(at) => self.reopen(at, &s),
                Belongs::No => self.open(&s),
            }
        }
    }

    /// Whether a suspect is more than the localizer's opinion of the past: enough, large enough, and still going on.
    fn reportable(&self, s: &Suspect) -> bool {
        let norm = s.signal.norm(&self.config);
        let f = &s.finding;
        if s.net() <= 0.0 || s.hurts.len() < 2 {
            return false;
        }
        let known = matches!(self.belongs(s), Belongs::Open(_));
        if known {
            return true;
        }
        let low = f.rate_low.max(0.2 * f.dead_share);
        if low <= norm.rate_min {
            return false;
        }
        if self.moments_of(&s.hurts) < norm.moments_min {
            return false;
        }
        if s.signal == Signal::Loss && self.moments_of(&s.hurts) < self.moments_at_host(s) {
            return false;
        }
        if s.signal == Signal::Delay && self.excess_of(&s.hurts) < self.config.delay_excess_ns_min {
            return false;
        }
        // One direction of one observation may be anywhere; wait for what tells the rivals apart, if it comes.
        if !self.watched(s) {
            return false;
        }
        let links = self.components.links_of(s.number);
        !self.healed(s.signal, &links, self.links_crossed(s.number), low, QUIET_MIN, self.first_seen(s))
    }

    /// Moments asked for where the trouble is at a host: a host that does not get to its packets for a moment looks
    /// like a port that loses some. Everything lost on one port while the others are fine is no such moment.
    fn moments_at_host(&self, s: &Suspect) -> u32 {
        let host = match self.components.name(s.number) {
            Component::Link(l) => self.fabric.cable_of(l).ok().map(|n| self.fabric.nic_parts(n).1),
            Component::Nic(n) => Some(self.fabric.nic_parts(n).1),
            Component::Host(h) => Some(h),
            Component::Switch(_) => None,
        };
        let Some(host) = host else { return 1 };
        if s.finding.rate.max(s.finding.dead_share) >= 0.9 {
            return 1;
        }
        let mine = self.components.links_of(s.number);
        let siblings: Vec<LinkId> = crate::map::Components::host_nics(&self.fabric, host)
            .flat_map(|n| [self.fabric.access_link(n), self.fabric.access_link(n).reverse()])
            .filter(|l| mine.binary_search(&l.0).is_err() && mine.binary_search(&l.reverse().0).is_err())
            .collect();
        if siblings.is_empty() {
            return if matches!(self.components.name(s.number), Component::Host(_)) { 3 } else { 2 };
        }
        let begin = s.hurts.iter().filter_map(|&i| self.hurt.get(i as usize)).map(|o| o.window.start).min();
        let begin = begin.unwrap_or_default();
        let there = self
            .hurt
            .iter()
            .filter(|o| o.window.start >= begin && o.lost > 0)
            .filter(|o| self.hurt_links(o).iter().any(|l| siblings.contains(l)))
            .filter(|o| !self.hurt_links(o).iter().any(|l| mine.binary_search(&l.0).is_ok()))
            .count();
        if there >= 2.max(s.hurts.len() / 4) { 3 } else { 1 }
    }

    /// Whether the component has been seen well, or watched long enough to say that it never is.
    fn watched(&self, s: &Suspect) -> bool {
        let begun = self.begun.unwrap_or(self.newest);
        if self.newest.since(begun) >= self.config.look_back {
            return true;
        }
        let links = self.components.links_of(s.number);
        let all = self.crossed(&links, 1.0, begun.since(Nanos::from_secs(1)), Nanos::MAX);
        let mut hurt = 0.0;
        let mut first = self.newest;
        for o in &self.hurt {
            let (sent, k) = s.signal.counts(o);
            let crossing = self.hurt_links(o).iter().filter(|l| links.binary_search(&l.0).is_ok()).count();
            if crossing > 0 && k > 0 {
                hurt += f64::from(sent) * crossing as f64;
                first = first.min(o.window.start);
            }
        }
        all.packets > hurt + 0.5 || self.newest.since(first) >= self.config.grace
    }

    pub(crate) fn links_crossed(&self, number: u32) -> f64 {
        self.components.map.group_of(number).map_or(1.0, |g| g.links_crossed)
    }

    fn moments_of(&self, hurts: &[u32]) -> u32 {
        let window = self.config.window.0.max(1);
        let mut all: Vec<u64> = hurts
            .iter()
            .filter_map(|&i| self.hurt.get(i as usize))
            .map(|o| o.window.end().0.saturating_sub(1) / window)
            .collect();
        all.sort_unstable();
        all.dedup();
        all.len() as u32
    }

    /// Weighted median of how late the late packets were.
    fn excess_of(&self, hurts: &[u32]) -> u64 {
        let mut all: Vec<(u64, u64)> = hurts
            .iter()
            .filter_map(|&i| self.hurt.get(i as usize)?.delay)
            .filter(|d| d.over > 0)
            .map(|d| (d.excess_ns, u64::from(d.over)))
            .collect();
        all.sort_unstable();
        let half = all.iter().map(|a| a.1).sum::<u64>() / 2;
        let mut sum = 0;
        for (excess, weight) in all {
            sum += weight;
            if sum > half {
                return excess;
            }
        }
        0
    }

    /// Whether what crossed these links since some moment at least `quiet` ago would be improbable if they still hurt
    /// packets at `rate`. The fault is known to have been there from `since` on.
    fn healed(
        &self,
        signal: Signal,
        links: &[u32],
        times: f64,
        rate: f64,
        quiet: Nanos,
        since: Nanos,
    ) -> bool {
        let hazard = hazard_of(rate.clamp(1e-7, RATE_HEAL_MAX));
        let usual = 4.0 * self.background[signal as usize].hazard;
        let others: Vec<u32> =
            self.open_links().into_iter().filter(|l| links.binary_search(l).is_err()).collect();
        // (age, sent, hurt) of what was hurt on these links and on no other that is blamed.
        let mut hurts: Vec<(Nanos, f64, f64)> = Vec::new();
        for o in &self.hurt {
            let (_, k) = signal.counts(o);
            if k == 0 {
                continue;
            }
            let crossed = self.hurt_links(o);
            let here = crossed.iter().filter(|l| links.binary_search(&l.0).is_ok()).count();
            if here == 0 {
                continue;
            }
            let blamed = crossed.iter().any(|l| others.binary_search(&l.0).is_ok());
            let hurt = if blamed { 0.0 } else { f64::from(k) };
            hurts.push((self.newest.since(o.window.end()), f64::from(o.sent) * here as f64 / times, hurt));
        }
        QUIET_SECS
            .iter()
            .map(|&s| Nanos::from_secs(s))
            .filter(|&s| s >= quiet && self.newest.since(s) >= since)
            .any(|span| {
                let all = self.crossed(links, times, self.newest.since(span), Nanos::MAX).packets;
                let (mut sent, mut hurt) = (0.0, 0.0);
                for h in hurts.iter().filter(|h| h.0 < span) {
                    sent += h.1;
                    hurt += h.2;
                }
                let fine = (all - sent).max(0.0);
                fine * hazard - hurt * log((hazard + usual) / usual) >= HEALED_NATS
            })
    }

    fn belongs(&self, s: &Suspect) -> Belongs {
        let component = self.components.name(s.number);
        let links = self.components.links_of(s.number);
        let same = |v: &Verdict| {
            v.component == component
                || v.alternatives.contains(&component)
                || matches!((v.component, component), (Component::Link(a), Component::Link(b)) if a == b.reverse())
        };
        let overlaps = |v: &Verdict| v.links.iter().any(|l| links.binary_search(&l.0).is_ok());
        let find = |open: bool, by: &dyn Fn(&Verdict) -> bool| {
            self.tracked.iter().position(|t| {
                t.open() == open
                    && (open
                        || self.newest.since(t.verdict.closed_at.unwrap_or_default())
                            < self.config.reopen_within)
                    && by(&t.verdict)
            })
        };
        let exact = |v: &Verdict| v.component == component;
        // The same links under another name are the same fault, and so is a part of a device that is blamed already.
        let nested = |v: &Verdict| {
            overlaps(v)
                && (v.links.len() == 1
                    || v.links.iter().all(|l| links.binary_search(&l.0).is_ok())
                    || links.iter().all(|l| v.links.binary_search(&LinkId(*l)).is_ok()))
        };
        if let Some(at) = find(true, &exact).or_else(|| find(true, &same)).or_else(|| find(true, &nested)) {
            return Belongs::Open(at);
        }
        match find(false, &exact).or_else(|| find(false, &same)) {
            Some(at) => Belongs::Closed(at),
            None => Belongs::No,
        }
    }

    /// Hurt observations across a verdict's links since it began, but no longer than a while, and without those that
    /// another open verdict may have hurt.
    fn hurts_of(&self, links: &[LinkId], signal: Signal, since: Nanos) -> Vec<u32> {
        let others: Vec<u32> =
            self.open_links().into_iter().filter(|l| links.binary_search(&LinkId(*l)).is_err()).collect();
        let mut out = Vec::new();
        for (i, o) in self.hurt.iter().enumerate() {
            if o.window.start < since || signal.counts(o).1 == 0 {
                continue;
            }
            let crossed = self.hurt_links(o);
            if crossed.iter().any(|l| links.binary_search(l).is_ok())
                && !crossed.iter().any(|l| others.binary_search(&l.0).is_ok())
            {
                out.push(i as u32);
            }
        }
        out
    }

    /// The size of a fault, from what was hurt across its links since it began.
    fn part(&self, s: &Suspect, links: &[LinkId], times: f64, hurts: &[u32], since: Nanos) -> Part {
        let numbers: Vec<u32> = links.iter().map(|l| l.0).collect();
        let tally = self.tally(hurts, s.signal);
        let mut passed = 0.0;
        for o in hurts.iter().filter_map(|&i| self.hurt.get(i as usize)) {
            let here = self.hurt_links(o).iter().filter(|l| links.binary_search(l).is_ok()).count();
            passed += f64::from(o.sent) * here as f64 / times;
        }
        let ends = hurts.iter().filter_map(|&i| self.hurt.get(i as usize)).map(|o| o.window.end());
        let until = ends.max().unwrap_or(Nanos::MAX);
        let fine = (self.crossed(&numbers, times, since, until).packets - passed).max(0.0);
        let crossed = fine + tally.sent as f64;
        let usual = 4.0 * self.background[s.signal as usize].hazard;
        let k = (tally.hurt as f64 - usual * crossed).max(1.0);
        let rate = (k / crossed.max(1.0)).min(1.0);
        // Losses of a flow that dies come together: what counts is how many observations there were.
        let n = if s.finding.dead_share > 0.0 { hurts.len() as f64 } else { k };
        let spread = 2.0 * libm::sqrt((1.0 - rate).max(0.0) / n.max(1.0));
        let f = &s.finding;
        let (rate, rate_low, rate_high) = if tally.observations < 4 {
            (f.rate.max(f.dead_share), f.rate_low.max(0.2 * f.dead_share), f.rate_high.max(f.dead_share))
        } else {
            (rate, rate * (1.0 - spread).max(0.2), (rate * (1.0 + spread)).min(1.0))
        };
        Part { rate, rate_low: rate_low.min(rate), rate_high: rate_high.max(rate), at: self.newest }
    }

    fn tally(&self, hurts: &[u32], signal: Signal) -> Tally {
        let mut t = Tally::default();
        for o in hurts.iter().filter_map(|&i| self.hurt.get(i as usize)) {
            let (sent, k) = signal.counts(o);
            t.add(u64::from(sent), u64::from(k));
        }
        t
    }

    fn evidence(&self, s: &Suspect, links: &[u32]) -> Evidence {
        let crossing_hurt = self.tally(&s.hurts, s.signal);
        let elsewhere: Vec<u32> = s
            .hurts_in_span
            .iter()
            .copied()
            .filter(|&i| {
                self.hurt
                    .get(i as usize)
                    .is_some_and(|o| !self.hurt_links(o).iter().any(|l| links.binary_search(&l.0).is_ok()))
            })
            .collect();
        let all = self.crossed(links, self.links_crossed(s.number), s.since, Nanos::MAX);
        let mut exemplars: Vec<Exemplar> = s
            .hurts
            .iter()
            .rev()
            .filter_map(|&i| self.hurt.get(i as usize))
            .take(Evidence::EXEMPLARS)
            .map(|o| Exemplar { producer: o.producer, sequence: o.sequence })
            .collect();
        exemplars.dedup();
        let (mut sent, mut observations) = (0.0, 0.0);
        for o in s.hurts_in_span.iter().filter_map(|&i| self.hurt.get(i as usize)) {
            let here = self.hurt_links(o).iter().filter(|l| links.binary_search(&l.0).is_ok()).count() as f64;
            sent += f64::from(o.sent) * here / self.links_crossed(s.number);
            observations += here / self.links_crossed(s.number);
        }
        let fine_sent = (all.packets - sent).max(0.0) as u64;
        let fine_observations = (all.observations - observations).max(0.0) as u64;
        Evidence {
            crossing_hurt,
            crossing_fine: Tally { observations: fine_observations, sent: fine_sent, hurt: 0 },
            elsewhere_hurt: self.tally(&elsewhere, s.signal),
            moments: self.moments_of(&s.hurts),
            exemplars,
        }
    }

    /// How surely the component, or one it cannot be told from, is at fault; and which those are.
    fn confidence(&self, s: &Suspect, moments: u32) -> (f64, Vec<Component>) {
        let f = &s.finding;
        let mut alternatives = Vec::new();
        let mut against = 0.0;
        for &(rival, behind) in &f.rivals {
            if behind < ALIKE_NATS {
                alternatives.push(self.components.name(rival));
            } else {
                against += exp(-behind);
            }
        }
        let one = |c: Component, alternatives: &mut Vec<Component>| {
            if !alternatives.contains(&c) {
                alternatives.push(c);
            }
        };
        match self.components.name(s.number) {
            // A port and its cable are touched by the same paths.
            Component::Link(l) => {
                if let Ok(nic) = self.fabric.cable_of(l) {
                    one(Component::Nic(nic), &mut alternatives);
                }
            }
            Component::Nic(n) => {
                let up = self.fabric.access_link(n);
                one(Component::Link(up), &mut alternatives);
                one(Component::Link(up.reverse()), &mut alternatives);
                if self.fabric.shape.planes * self.fabric.shape.rails == 1 {
                    one(Component::Host(self.fabric.nic_parts(n).1), &mut alternatives);
                }
            }
            Component::Switch(_) | Component::Host(_) => {}
        }
        let clear = 1.0 / (1.0 + against);
        let enough = 1.0 - 0.5 * exp(-s.net() / 3.0);
        // What was seen at one moment only may still be a stall.
        let lasting = 1.0 - 0.3 * exp(-f64::from(moments) / 1.5);
        let several = 1.0 / (1.0 + 0.15 * alternatives.len().saturating_sub(3) as f64);
        ((clear * enough * lasting * several).clamp(0.0, 0.999), alternatives)
    }

    fn open(&mut self, s: &Suspect) {
        self.forget_closed();
        let id = VerdictId(self.next_id);
        self.next_id += 1;
        let verdict = Verdict {
            id,
            component: self.components.name(s.number),
            alternatives: Vec::new(),
            links: Vec::new(),
            kind: FaultKind::Loss,
            rate: 0.0,
            rate_low: 0.0,
            rate_high: 1.0,
            delay_excess_ns: 0,
            flap: None,
            confidence: 0.0,
            first_seen: self.first_seen(s),
            last_seen: Nanos::ZERO,
            closed_at: None,
            evidence: Evidence::default(),
        };
        self.tracked.push(Tracked {
            verdict,
            parts: [None; 4],
            by_counters: false,
            longest_gap: Nanos::ZERO,
            told: self.now,
            net: 0.0,
            since: self.first_seen(s),
        });
        let at = self.tracked.len() - 1;
        self.apply(at, s);
        let v = self.tracked[at].verdict.clone();
        self.tell(Event::Opened(v));
    }

    fn reopen(&mut self, at: usize, s: &Suspect) {
        let gap = self.first_seen_after(s, self.tracked[at].verdict.last_seen);
        let t = &mut self.tracked[at];
        t.longest_gap = t.longest_gap.max(gap.since(t.verdict.last_seen));
        t.verdict.closed_at = None;
        t.parts = [None; 4];
        t.net = 0.0;
        t.since = gap;
        self.apply(at, s);
        self.tracked[at].told = self.now;
        let v = self.tracked[at].verdict.clone();
        self.tell(Event::Reopened(v));
    }

    fn update(&mut self, at: usize, s: &Suspect) {
        let before = self.tracked[at].verdict.clone();
        self.apply(at, s);
        let (now, t) = (self.now, &mut self.tracked[at]);
        let v = &t.verdict;
        let changed = v.component != before.component
            || v.kind != before.kind
            || v.alternatives != before.alternatives
            || (v.confidence > 0.9) != (before.confidence > 0.9)
            || v.rate > 1.5 * before.rate
            || v.rate < before.rate / 1.5;
        if changed || now.since(t.told) >= TELL_EVERY {
            t.told = now;
            let v = v.clone();
            self.tell(Event::Updated(v));
        }
    }

    /// When the fault began: the beginning of the hurt window from which on the evidence is strongest, so that a
    /// stray loss from before is not taken for the beginning.
    fn first_seen(&self, s: &Suspect) -> Nanos {
        let mut hurts: Vec<(Nanos, f64)> = s
            .hurts
            .iter()
            .filter_map(|&i| self.hurt.get(i as usize))
            .map(|o| (o.window.start, f64::from(s.signal.counts(o).1)))
            .collect();
        hurts.sort_by_key(|h| h.0);
        let usual = 4.0 * self.background[s.signal as usize].hazard;
        let links = self.components.links_of(s.number);
        let times = self.links_crossed(s.number);
        let mut starts: Vec<Nanos> = hurts.iter().map(|h| h.0).collect();
        starts.dedup();
        starts.truncate(ONSETS_MAX);
        let spans: Vec<(Nanos, Nanos)> = starts.iter().map(|&t| (t, self.newest)).collect();
        let mut best = (f64::MIN, starts.first().copied().unwrap_or(self.newest));
        for (&start, n) in starts.iter().zip(self.crossed_in(&links, times, &spans)) {
            let left: f64 = hurts.iter().filter(|h| h.0 >= start).map(|h| h.1).sum();
            let b = bound(left, n, usual);
            if b > best.0 + 1e-9 {
                best = (b, start);
            }
        }
        best.1
    }

    fn first_seen_after(&self, s: &Suspect, after: Nanos) -> Nanos {
        let starts = s.hurts.iter().filter_map(|&i| self.hurt.get(i as usize)).map(|o| o.window.start);
        starts.filter(|&t| t >= after).min().unwrap_or(self.newest)
    }

    /// Brings a verdict up to what a suspect says.
    fn apply(&mut self, at: usize, s: &Suspect) {
        let component = self.components.name(s.number);
        let fresh = self.tracked[at].verdict.last_seen == Nanos::ZERO;
        let signal_first = self.tracked[at]
            .parts
            .iter()
            .position(|p| p.is_some_and(|p| self.newest.since(p.at) < SIGNAL_KEPT))
            .is_none_or(|first| s.signal as usize <= first);
        let ends = s.hurts.iter().filter_map(|&i| self.hurt.get(i as usize)).map(|o| o.window.end());
        let last = ends.max().unwrap_or(self.newest);
        let v = &mut self.tracked[at].verdict;
        v.last_seen = v.last_seen.max(last);
        if self.tracked[at].by_counters {
            return;
        }
        let same = self.tracked[at].verdict.component == component;
        // The other direction of a cable that is blamed already joins it, unless it is the one the evidence is on: a
        // cable is called by its even link, and few losses do not yet say which way.
        let plain = (s.number as usize) < self.components.map.links();
        if let (Component::Link(a), Component::Link(b)) = (self.tracked[at].verdict.component, component)
            && !fresh
            && plain
            && a == b.reverse()
            && !(signal_first && s.net() > self.tracked[at].net)
        {
            let v = &mut self.tracked[at].verdict;
            if !v.links.contains(&b) {
                v.links.push(b);
                v.links.sort_unstable();
            }
            return;
        }
        // Another name for the same fault needs to be the better one.
        let renamed = fresh || same || (signal_first && s.net() > self.tracked[at].net);
        if renamed {
            let v = &self.tracked[at].verdict;
            let life = v.links.clone();
            let recent = v.first_seen.max(self.newest.since(SIZE_SPAN));
            let moments = if same { self.moments_of(&self.hurts_of(&life, s.signal, recent)) } else { 0 };
            let moments = moments.max(self.moments_of(&s.hurts));
            let (confidence, mut alternatives) = self.confidence(s, moments);
            alternatives.retain(|a| *a != component);
            let mut named: Vec<LinkId> = if s.finding.links.is_empty() {
                self.components.links_of(s.number).into_iter().map(LinkId).collect()
            } else {
                s.finding.links.iter().map(|&l| LinkId(l)).collect()
            };
            let v = &self.tracked[at].verdict;
            if same && let Component::Link(c) = component {
                named.extend(v.links.iter().filter(|l| **l == c.reverse()));
            }
            named.retain(|&l| self.fabric.exists(l));
            named.sort_unstable();
            named.dedup();
            let first = if fresh { self.first_seen(s) } else { self.tracked[at].verdict.first_seen };
            let evidence = signal_first.then(|| self.evidence(s, &self.components.links_of(s.number)));
            let t = &mut self.tracked[at];
            t.verdict.links = named;
            t.verdict.component = component;
            t.verdict.alternatives = alternatives;
            t.verdict.first_seen = t.verdict.first_seen.min(first);
            if let Some(evidence) = evidence {
                t.net = s.net();
                t.verdict.confidence = confidence;
                t.verdict.evidence = evidence;
            }
        }
        if renamed && !plain {
            self.absorb(at);
        }
        // Size and kind, from the whole life of the fault as far as it is recent.
        let t = &self.tracked[at];
        let v = &t.verdict;
        let since = t.since.max(self.newest.since(SIZE_SPAN));
        let links = v.links.clone();
        let times = if matches!(v.component, Component::Switch(_)) { 2.0 } else { 1.0 };
        let hurts = self.hurts_of(&links, s.signal, since);
        let part = self.part(s, &links, times, &hurts, since);
        self.tracked[at].parts[s.signal as usize] = Some(part);
        let excess = if s.signal == Signal::Delay { self.excess_of(&hurts) } else { 0 };
        let v = &mut self.tracked[at].verdict;
        if signal_first {
            v.rate = part.rate;
            v.rate_low = part.rate_low;
            v.rate_high = part.rate_high;
        }
        if s.signal == Signal::Delay {
            v.delay_excess_ns = excess;
        }
        self.describe(at, s.signal, &hurts);
    }

    /// Closes the other verdicts on parts of a device that is now blamed as a whole.
    fn absorb(&mut self, at: usize) {
        let Some(t) = self.tracked.get(at) else { return };
        let (id, all) = (t.verdict.id, self.device_links(t.verdict.component));
        let now = self.now;
        let mut over = Vec::new();
        for t in &mut self.tracked {
            let v = &mut t.verdict;
            let part = !v.links.is_empty() && v.links.iter().all(|l| all.binary_search(l).is_ok());
            if v.closed_at.is_none() && v.id != id && !t.by_counters && part {
                v.closed_at = Some(now);
                over.push(v.clone());
            }
        }
        over.into_iter().for_each(|v| self.tell(Event::Closed(v)));
    }

    /// Every link of a component, sorted.
    fn device_links(&self, component: Component) -> Vec<LinkId> {
        let cable = |n| [self.fabric.access_link(n), self.fabric.access_link(n).reverse()];
        let mut out = match component {
            Component::Link(l) => vec![l, l.reverse()],
            Component::Nic(n) => cable(n).to_vec(),
            Component::Switch(s) => self.fabric.switch_links(s),
            Component::Host(h) => {
                crate::map::Components::host_nics(&self.fabric, h).flat_map(cable).collect()
            }
        };
        out.sort_unstable();
        out
    }

    /// What is done once a second: stalled and silent hosts, and verdicts whose fault is over.
    pub(crate) fn review(&mut self) {
        for stall in self.hosts.stalls(self.newest.max(self.now)) {
            self.host_verdict(stall.host, FaultKind::HostStall, Some(stall));
        }
        for host in self.hosts.silent_hosts(self.now) {
            self.host_verdict(host, FaultKind::AgentStopped, None);
        }
        for at in 0..self.tracked.len() {
            if self.tracked[at].open() && self.over(at) {
                let now = self.now;
                let t = &mut self.tracked[at];
                t.verdict.closed_at = Some(now);
                let v = t.verdict.clone();
                self.explain(&v);
                self.tell(Event::Closed(v));
            }
        }
    }

    /// Puts what a verdict that is over explained aside: only what comes after may speak of the same links again.
    /// Without this the longest spans would go on finding a fault that has healed.
    fn explain(&mut self, v: &Verdict) {
        let links = match v.component {
            Component::Host(_) => self.device_links(v.component),
            _ => v.links.clone(),
        };
        for i in 0..self.hurt.len() {
            let crosses = self
                .hurt
                .get(i)
                .is_some_and(|o| self.hurt_links(o).iter().any(|l| links.binary_search(l).is_ok()));
            if crosses && let Some(o) = self.hurt.get_mut(i) {
                o.explained = true;
            }
        }
        self.closed.push_back((self.now, links));
        if self.closed.len() > CLOSED_MAX {
            self.closed.pop_front();
        }
    }

    fn over(&self, at: usize) -> bool {
        let t = &self.tracked[at];
        if self.now.since(t.verdict.last_seen) < t.quiet() {
            return false;
        }
        if t.by_counters {
            if let Component::Host(h) = t.verdict.component
                && (self.hosts.silent(h, self.now)
                    || self.hosts.stalls(self.newest).iter().any(|s| s.host == h))
            {
                return false;
            }
            if t.verdict.kind == FaultKind::HostStall {
                return self.now.since(t.verdict.last_seen) >= Nanos::from_secs(8);
            }
        }
        if self.newest.since(t.since) < t.quiet() {
            return false;
        }
        let links: Vec<u32> = t.verdict.links.iter().map(|l| l.0).collect();
        let times = match t.verdict.component {
            Component::Switch(_) => 2.0,
            _ => 1.0,
        };
        let mut any = false;
        for signal in Signal::ALL {
            let Some(p) = t.parts[signal as usize] else { continue };
            any = true;
            if !self.healed(signal, &links, times, p.rate_low.max(p.rate / 3.0), t.quiet(), t.since) {
                return false;
            }
        }
        any || t.by_counters
    }

    /// Drops the closed verdicts that may no longer come back, and the oldest closed one where there are too many.
    fn forget_closed(&mut self) {
        let (now, within) = (self.newest, self.config.reopen_within);
        self.tracked.retain(|t| t.verdict.closed_at.is_none_or(|c| now.since(c) < within));
        if self.tracked.len() >= self.config.verdicts_max {
            let oldest = (0..self.tracked.len()).min_by_key(|&i| {
                let v = &self.tracked[i].verdict;
                (v.closed_at.is_none(), v.last_seen)
            });
            if let Some(i) = oldest {
                let mut gone = self.tracked.remove(i);
                if gone.open() {
                    gone.verdict.closed_at = Some(self.now);
                    self.tell(Event::Closed(gone.verdict));
                }
            }
        }
    }

    /// A verdict on a host from its own counters; it takes over what the localizer says about the host's ports.
    fn host_verdict(&mut self, host: HostId, kind: FaultKind, stall: Option<Stall>) {
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
