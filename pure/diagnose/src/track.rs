//! The life of a verdict: opened, updated, closed, reopened, restored.
//!
//! How: suspects of one evaluation are sorted by evidence; each either belongs to a verdict that is known (the same
//! component, a component of the same links, the other direction of the same cable) or opens one. A verdict closes
//! when what crossed its links loss-free since it was last hurt would be improbable if the fault went on.
//!
//! Invariants: one open verdict a component; one observation is not evidence for two verdicts of one signal; a
//! verdict that closed keeps its id if the fault comes back within [`crate::Config::reopen_within`].

use crate::engine::{CLOSED_MAX, Engine};
use crate::evaluate::Suspect;
use crate::signal::Signal;
use crate::verdict::{Event, Evidence, FaultKind, Verdict, VerdictId};
use alloc::vec::Vec;
use wire::{Component, LinkId, Nanos};

/// Shortest silence that closes a verdict.
const QUIET_MIN: Nanos = Nanos::from_secs(3);
/// Longest silence that is waited for because the fault has come and gone before.
const QUIET_MAX: Nanos = Nanos::from_secs(24);
/// A verdict that has not changed is told again after this long.
pub(crate) const TELL_EVERY: Nanos = Nanos::from_secs(10);
/// Size and kind are taken from at most this much of a fault's life.
const SIZE_SPAN: Nanos = Nanos::from_secs(60);
/// How long a signal that is no longer found still shapes the kind.
const SIGNAL_KEPT: Nanos = Nanos::from_secs(30);

/// Distinct moments in which flows must have sent something again where nothing else speaks of a loss.
const RESENT_MOMENTS_MIN: u32 = 3;

/// What one signal says about a verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) rate: f64,
    pub(crate) rate_low: f64,
    pub(crate) rate_high: f64,
    pub(crate) at: Nanos,
}

/// What paths alone say: the verdict before counters at its places are weighed.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) component: Component,
    pub(crate) alternatives: Vec<Component>,
    pub(crate) confidence: f64,
    pub(crate) kind: FaultKind,
}

impl Located {
    pub(crate) fn of(v: &Verdict) -> Self {
        Located {
            component: v.component,
            alternatives: v.alternatives.clone(),
            confidence: v.confidence,
            kind: v.kind,
        }
    }
}

/// A verdict and what is needed to carry it on.
pub(crate) struct Tracked {
    pub(crate) verdict: Verdict,
    /// The same by paths alone.
    pub(crate) located: Located,
    /// What each signal says, by [`Signal`].
    pub(crate) parts: [Option<Part>; 4],
    /// Rests on counters of a host, not on the localizer.
    pub(crate) by_counters: bool,
    /// Longest silence seen within the fault's life.
    pub(crate) longest_gap: Nanos,
    pub(crate) told: Nanos,
    pub(crate) net: f64,
    /// Beginning of the present spell of the fault: when it was first seen since it opened or came back.
    pub(crate) since: Nanos,
}

impl Tracked {
    pub(crate) fn restored(mut v: Verdict) -> Self {
        v.links.sort_unstable();
        let part = Part { rate: v.rate, rate_low: v.rate_low, rate_high: v.rate_high, at: v.last_seen };
        let mut parts = [None; 4];
        let signal = match v.kind {
            FaultKind::Reorder => Signal::Reorder,
            FaultKind::EcnMarking => Signal::Ecn,
            FaultKind::Delay | FaultKind::HostStall | FaultKind::PfcStorm => Signal::Delay,
            _ => Signal::Loss,
        };
        parts[signal as usize] = Some(part);
        let by_counters = matches!(v.kind, FaultKind::HostStall | FaultKind::PfcStorm | FaultKind::Wearing);
        let longest_gap = v.flap.map_or(Nanos::ZERO, |f| f.period);
        Tracked {
            told: v.last_seen,
            since: v.first_seen,
            located: Located::of(&v),
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
            if done.contains(&(s.number, s.signal)) || !self.reportable(&s) || self.waits_for_storm(&s) {
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
        let resent = s.hurts.iter().all(|&i| self.is_resent(i));
        if resent && self.flows_are_new() {
            return false;
        }
        if self.moments_of(&s.hurts) < if resent { RESENT_MOMENTS_MIN } else { norm.moments_min } {
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
                    && t.verdict.kind != FaultKind::PfcStorm
                    && (open
                        || self.newest.since(t.verdict.closed_at.unwrap_or_default())
                            < self.config.reopen_within)
                    && by(&t.verdict)
            })
        };
        let located: Vec<VerdictId> =
            self.tracked.iter().filter(|t| t.located.component == component).map(|t| t.verdict.id).collect();
        let exact = |v: &Verdict| v.component == component || located.contains(&v.id);
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
            located: Located::of(&verdict),
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
        let v_kind = v.kind;
        if self.tracked[at].by_counters {
            if v_kind != FaultKind::Wearing {
                return;
            }
            // What was only wearing loses packets now.
            self.tracked[at].by_counters = false;
            self.tracked[at].net = 0.0;
        }
        let same = self.tracked[at].located.component == component;
        // The other direction of a cable that is blamed already joins it, unless it is the one the evidence is on: a
        // cable is called by its even link, and few losses do not yet say which way.
        let plain = (s.number as usize) < self.components.map.links();
        if let (Component::Link(a), Component::Link(b)) = (self.tracked[at].located.component, component)
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
            t.located.component = component;
            t.located.alternatives.clone_from(&alternatives);
            t.verdict.alternatives = alternatives;
            t.verdict.first_seen = t.verdict.first_seen.min(first);
            if let Some(evidence) = evidence {
                t.net = s.net();
                t.verdict.confidence = confidence;
                t.located.confidence = confidence;
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
        self.weigh_counters(at);
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

    /// What is done once a second: stalled and silent hosts, and verdicts whose fault is over.
    pub(crate) fn review(&mut self) {
        self.places.learn(self.now.max(self.newest));
        for stall in self.hosts.stalls(self.newest.max(self.now)) {
            self.host_verdict(stall.host, FaultKind::HostStall, Some(stall));
        }
        for host in self.hosts.silent_hosts(self.now) {
            self.host_verdict(host, FaultKind::AgentStopped, None);
        }
        self.review_pauses();
        self.review_wear();
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
            match t.verdict.kind {
                FaultKind::PfcStorm => return self.calm(t.verdict.last_seen),
                FaultKind::Wearing => return self.worn_no_more(t.verdict.last_seen),
                _ => {}
            }
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
        if self.newest.since(t.since.max(self.watching_since)) < t.quiet() {
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
    pub(crate) fn forget_closed(&mut self) {
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
}
