//! What the observations say about a suspect or a verdict: evidence, size, beginning, confidence, and whether the
//! fault is over.
//!
//! All of it is computed from what crossed the links and from the hurt observations that are kept; nothing here
//! changes a verdict.

use crate::engine::{Engine, SIZES, leaf_of, unknown_at};
use crate::evaluate::{Suspect, bound};
use crate::likelihood::hazard_of;
use crate::signal::Signal;
use crate::track::Part;
use crate::verdict::{Evidence, Exemplar, Tally};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use libm::{exp, log};
use wire::{Component, LinkId, Nanos};

/// Rivals closer than this cannot be told apart and are named as alternatives, nats.
pub(crate) const ALIKE_NATS: f64 = 1.5;
/// Improbability of silence, nats, at which a fault is taken to be over.
const HEALED_NATS: f64 = 6.0;
/// Spans of silence tried, seconds.
const QUIET_SECS: [u64; 16] = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256, 512];
/// Rate above which a few clean packets are not taken for the end: hurt windows may report late.
const RATE_HEAL_MAX: f64 = 0.8;
/// Most beginnings tried for a fault.
const ONSETS_MAX: usize = 64;

impl Engine {
    /// Moments asked for where the trouble is at a host: a host that does not get to its packets for a moment looks
    /// like a port that loses some. Everything lost on one port while the others are fine is no such moment.
    pub(crate) fn moments_at_host(&self, s: &Suspect) -> u32 {
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
    pub(crate) fn watched(&self, s: &Suspect) -> bool {
        let begun = self.begun.unwrap_or(self.newest);
        if self.newest.since(begun) >= self.config.look_back {
            return true;
        }
        let links = self.components.links_of(s.number);
        let from = begun.since(Nanos::from_secs(1));
        let mut all = self.crossed(&links, 1.0, from, Nanos::MAX);
        all.packets += self.crossed_by_flows(&links, 1.0, from, Nanos::MAX).packets;
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

    pub(crate) fn moments_of(&self, hurts: &[u32]) -> u32 {
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
    pub(crate) fn excess_of(&self, hurts: &[u32]) -> u64 {
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
    pub(crate) fn healed(
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
            if k == 0 || o.resent() {
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
                let by_flows = match signal {
                    Signal::Loss => self.healed_by_flows(links, &others, times, hazard, span),
                    _ => 0.0,
                };
                fine * hazard - hurt * log((hazard + usual) / usual) + by_flows >= HEALED_NATS
            })
    }

    /// What flows say for these links being well over a span, against a hazard: a flow on an unknown path for the
    /// chance that it went there, and no more.
    fn healed_by_flows(&self, links: &[u32], others: &[u32], times: f64, hazard: f64, span: Nanos) -> f64 {
        let Some(flows) = &self.flows else { return 0.0 };
        let since = self.newest.since(span);
        let usual = self.flow_rate(Signal::Loss);
        let mut nats = 0.0;
        // What was sent again, and where it is counted among the rest.
        let mut known = 0.0;
        let mut unknown: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for o in self.hurt.iter().filter(|o| o.resent() && o.lost > 0 && o.window.end() > since) {
            let (n, k) = (f64::from(o.sent), f64::from(o.lost));
            let crossed = self.hurt_links(o);
            if !crossed.iter().any(|l| links.binary_search(&l.0).is_ok()) {
                continue;
            }
            let on = |l: u32| links.binary_search(&l).is_ok();
            let weight = match &o.fan {
                Some(fan) => {
                    let ends = [o.links().first(), o.links().last()];
                    for (link, down) in ends.into_iter().flatten().zip([0, 1]) {
                        if let Some(leaf) = leaf_of(&self.fabric, *link) {
                            let sum = unknown.entry(unknown_at(leaf, down, o.sent)).or_default();
                            *sum = (sum.0 + n, sum.1 + 1.0);
                        }
                    }
                    let end = ends.into_iter().flatten().any(|l| on(l.0));
                    known += if end { n } else { 0.0 };
                    let through = fan.trunks.iter().filter(|t| end || t.iter().any(|&l| on(l))).count();
                    through as f64 / fan.trunks.len().max(1) as f64
                }
                None => {
                    known += n;
                    1.0
                }
            };
            if crossed.iter().any(|l| others.binary_search(&l.0).is_ok()) {
                continue;
            }
            let sick = exp((k * log((hazard + usual) / usual) - n * hazard).min(300.0));
            nats -= log((1.0 - weight + weight * sick).max(1e-300));
        }
        let window = flows.rings.span(since, Nanos::MAX);
        let rings = flows.unknown.as_ref().map(|r| r.span(since, Nanos::MAX));
        let mut fine = -known;
        for &l in links {
            fine += window.of(l as usize).packets / times;
            let (Some(rings), Some((first, weight))) = (&rings, self.unknown_ring(LinkId(l))) else {
                continue;
            };
            for at in first..first + SIZES {
                let hurt = unknown.get(&at).copied().unwrap_or_default();
                let c = rings.of(at);
                let (packets, count) = (c.packets - hurt.0, c.observations - hurt.1);
                if packets > 0.0 && count >= 0.5 {
                    let kept = exp(-packets / count * hazard);
                    nats -= count * log(1.0 - weight + weight * kept) / times;
                }
            }
        }
        nats + fine.max(0.0) * hazard
    }

    /// Hurt observations across a verdict's links since it began, but no longer than a while, and without those that
    /// another open verdict may have hurt.
    pub(crate) fn hurts_of(&self, links: &[LinkId], signal: Signal, since: Nanos) -> Vec<u32> {
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
    pub(crate) fn part(
        &self,
        s: &Suspect,
        links: &[LinkId],
        times: f64,
        hurts: &[u32],
        since: Nanos,
    ) -> Part {
        let numbers: Vec<u32> = links.iter().map(|l| l.0).collect();
        // Flows send more again than is lost, and mostly elsewhere: where probes say enough, they alone give the size.
        let counted: Vec<u32> = hurts.iter().copied().filter(|&i| !self.is_resent(i)).collect();
        let resent = counted.len() < hurts.len();
        let hurts = &counted[..];
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
        let (rate, rate_low, rate_high) =
            if tally.observations < 4 || (resent && 2 * tally.observations < s.hurts.len() as u64) {
                (f.rate.max(f.dead_share), f.rate_low.max(0.2 * f.dead_share), f.rate_high.max(f.dead_share))
            } else {
                (rate, rate * (1.0 - spread).max(0.2), (rate * (1.0 + spread)).min(1.0))
            };
        Part { rate, rate_low: rate_low.min(rate), rate_high: rate_high.max(rate), at: self.newest }
    }

    /// Whether a hurt observation is what a flow sent again.
    pub(crate) fn is_resent(&self, hurt: u32) -> bool {
        self.hurt.get(hurt as usize).is_some_and(crate::engine::Kept::resent)
    }

    pub(crate) fn tally(&self, hurts: &[u32], signal: Signal) -> Tally {
        let mut t = Tally::default();
        for o in hurts.iter().filter_map(|&i| self.hurt.get(i as usize)) {
            let (sent, k) = signal.counts(o);
            t.add(u64::from(sent), u64::from(k));
        }
        t
    }

    pub(crate) fn evidence(&self, s: &Suspect, links: &[u32]) -> Evidence {
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
        let times = self.links_crossed(s.number);
        let mut all = self.crossed(links, times, s.since, Nanos::MAX);
        if s.signal == Signal::Loss {
            let flows = self.crossed_by_flows(links, times, s.since, Nanos::MAX);
            all.packets += flows.packets;
            all.observations += flows.observations;
        }
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
            ..Evidence::default()
        }
    }

    /// How surely the component, or one it cannot be told from, is at fault; and which those are.
    pub(crate) fn confidence(&self, s: &Suspect, moments: u32) -> (f64, Vec<Component>) {
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

    /// When the fault began: the beginning of the hurt window from which on the evidence is strongest, so that a
    /// stray loss from before is not taken for the beginning.
    pub(crate) fn first_seen(&self, s: &Suspect) -> Nanos {
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
        let by_flows = s.hurts.iter().any(|&i| self.is_resent(i));
        for (&start, mut n) in starts.iter().zip(self.crossed_in(&links, times, &spans)) {
            if by_flows {
                n += self.crossed_by_flows(&links, times, start, self.newest).packets;
            }
            let left: f64 = hurts.iter().filter(|h| h.0 >= start).map(|h| h.1).sum();
            let b = bound(left, n, usual);
            if b > best.0 + 1e-9 {
                best = (b, start);
            }
        }
        best.1
    }

    pub(crate) fn first_seen_after(&self, s: &Suspect, after: Nanos) -> Nanos {
        let starts = s.hurts.iter().filter_map(|&i| self.hurt.get(i as usize)).map(|o| o.window.start);
        starts.filter(|&t| t >= after).min().unwrap_or(self.newest)
    }

    /// Every link of a component, sorted.
    pub(crate) fn device_links(&self, component: Component) -> Vec<LinkId> {
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
}
