//! Weighing: which spans of time to look at, what the localizer says about them, and who is a suspect.
//!
//! How: only what was hurt since the last look can have become more evident. For the components it crossed, a quick
//! upper bound of the evidence is computed over spans from half a second to the longest look back; the spans in
//! which a bound passes the threshold go to the localizer. So a quiet fabric costs nothing, and a fault is found on
//! the span that fits it: a black hole in its first windows, a faint loss after minutes.

use crate::engine::{Background, Engine, Kept, SIZES, leaf_of, unknown_at};
use crate::fan::PATHS_MAX;
use crate::localize::{self, Crossing, Finding, NO_CLASS, Origin, Params, Problem};
use crate::ring::Rings;
use crate::signal::Signal;
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use libm::{log, log1p};
use wire::{HostId, Known, Leg, LinkId, Nanos, PathObservation, PathRef};

/// Spans looked at, milliseconds.
const SPANS_MS: [u64; 22] = [
    500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 12_000, 16_000, 24_000, 32_000, 48_000, 64_000,
    96_000, 128_000, 192_000, 256_000, 384_000, 512_000, 768_000, 1_024_000,
];
/// Most spans localized in one evaluation.
const SPANS_MAX: usize = 3;
/// Most hurt observations counted, and most localized together; the newest. So many say all there is to say.
const HURT_MAX: usize = 12_000;
const LOCALIZED_MAX: usize = 2_000;
/// Links of a device that are counted one by one in many spans.
const COUNTED_MAX: usize = 64;
/// A bound this much below the threshold is worth a closer look: the localizer may charge more exactly.
const BOUND_SLACK: f64 = 1.0;
/// Most flows that sent something again localized together. Where there are more, every so-manieth stands for the others.
const FLOWS_MAX: usize = 600;
/// Packets' worth of belief that a NIC's flows send one packet in ten thousand again.
const FLOW_PRIOR_PACKETS: f64 = 1e4;
/// What choosing among the paths of a flow costs, about, nats.
const CHOICE_NATS: f64 = 4.0;
/// Seconds in a day: verdicts are weighed over windows of one second.
const WINDOWS_A_DAY: f64 = 86_400.0;
/// Hurt observations that make a moment, or a host at a moment, worth a noise class.
const MOMENT_HURTS_MIN: u32 = 4;
const HOST_HURTS_MIN: u32 = 2;

/// A component the localizer blames, on one span and signal.
pub(crate) struct Suspect {
    pub(crate) signal: Signal,
    pub(crate) number: u32,
    pub(crate) finding: Finding,
    /// Beginning of the span.
    pub(crate) since: Nanos,
    /// Observations charged to it, by place in the engine's list.
    pub(crate) hurts: Vec<u32>,
    /// Hurt observations in the span.
    pub(crate) hurts_in_span: Vec<u32>,
}

impl Suspect {
    /// Evidence beyond what was asked for.
    pub(crate) fn net(&self) -> f64 {
        self.finding.score - self.finding.price
    }
}

/// Log-likelihood gain at most, if all `k` of `n` were hurt here and `p0` is usual.
pub(crate) fn bound(k: f64, n: f64, p0: f64) -> f64 {
    let n = n.max(k);
    let p = k / n.max(1.0);
    if p <= p0 {
        return 0.0;
    }
    let rest = if p < 1.0 { (n - k) * (log1p(-p) - log1p(-p0)) } else { 0.0 };
    k * log(p / p0) + rest
}

impl Engine {
    /// Weighs what is new, opens, updates and closes verdicts.
    pub(crate) fn evaluate(&mut self) {
        let review = self.now >= self.next_review;
        if self.fresh == 0 && !review {
            return;
        }
        if review {
            self.next_review = self.now + Nanos::from_secs(1);
        }
        // Flows mean nothing before it is known what they usually send again.
        if self.now >= self.next_background || (review && self.flows_are_new()) {
            self.next_background = self.now + Nanos::from_secs(5);
            for signal in Signal::ALL {
                self.learn_background(signal);
            }
        }
        let mut suspects = Vec::new();
        for signal in Signal::ALL {
            suspects.extend(self.suspects(signal, review));
        }
        self.fresh = 0;
        self.settle(suspects);
        if review {
            self.review();
        }
    }

    /// Whether flows have spoken, but not for long enough to say what they usually send again.
    pub(crate) fn flows_are_new(&self) -> bool {
        self.flows.as_ref().is_some_and(|f| self.newest.since(f.begun) < self.config.grace)
    }

    /// Evidence beyond the price of choosing among the components, from the false alarms allowed.
    pub(crate) fn margin(&self) -> f64 {
        log(WINDOWS_A_DAY / self.config.false_alarms_per_day.max(1e-9)).max(0.0)
    }

    fn params(&self, signal: Signal, known: bool) -> Params {
        let norm = signal.norm(&self.config);
        let background = self.background[signal as usize];
        Params {
            margin: self.margin(),
            background_min: norm.background,
            noise_min: norm.noise,
            background: known.then_some(background.hazard),
            noise: known.then_some(background.noise),
            resent_bias: background.resent.map(|r| r.bias),
            resent_noise: background.resent.filter(|_| known).map(|r| r.noise),
            ..Params::default()
        }
    }

    /// Every link a hurt observation may have crossed.
    pub(crate) fn hurt_links<'a>(&self, kept: &'a Kept) -> Cow<'a, [LinkId]> {
        if kept.known {
            return Cow::Borrowed(kept.links());
        }
        if let Some(fan) = &kept.fan {
            let ends = kept.links();
            let mut out: Vec<LinkId> = Vec::with_capacity(fan.links.len() + 2);
            out.extend(ends.first().into_iter().chain(ends.last()));
            out.extend(fan.links.iter().map(|&l| LinkId(l)));
            out.sort_unstable();
            out.dedup();
            return Cow::Owned(out);
        }
        let mut out: Vec<LinkId> = self.hurt_paths(kept).into_iter().flatten().map(LinkId).collect();
        out.sort_unstable();
        out.dedup();
        Cow::Owned(out)
    }

    fn leg_paths(&self, leg: Leg) -> Vec<Vec<u32>> {
        let numbers = |p: fabric::PathLinks| p.iter().map(|l| l.0).collect::<Vec<u32>>();
        if leg.known != Known::Mixture {
            return self.fabric.path_links(leg.path).map(numbers).into_iter().collect();
        }
        let Some((from, to, _)) = self.fabric.path_parts(leg.path) else { return Vec::new() };
        self.fabric
            .paths(from, to)
            .take(PATHS_MAX)
            .filter_map(|p| self.fabric.path_links(p).map(numbers))
            .collect()
    }

    /// The paths a hurt observation may have taken, each as its links.
    pub(crate) fn hurt_paths(&self, o: &Kept) -> Vec<Vec<u32>> {
        if let (Some(fan), [first, .., last]) = (&o.fan, o.links()) {
            return fan.trunks.iter().map(|&[up, down]| vec![first.0, up, down, last.0]).collect();
        }
        match o.path {
            PathRef::OneWay(leg) => self.leg_paths(leg),
            PathRef::RoundTrip { forward, backward } => {
                let (there, back) = (self.leg_paths(forward), self.leg_paths(backward));
                let both = |a: &[u32], b: &[u32]| [a, b].concat();
                if there.len() * back.len() <= PATHS_MAX {
                    there.iter().flat_map(|a| back.iter().map(move |b| both(a, b))).collect()
                } else {
                    there.iter().zip(back.iter().cycle()).map(|(a, b)| both(a, b)).collect()
                }
            }
        }
    }

    /// Source and destination of an observation's packets.
    pub(crate) fn hosts_of(&self, o: &PathObservation) -> Option<(HostId, HostId)> {
        let leg = match o.path {
            PathRef::OneWay(leg) => leg,
            PathRef::RoundTrip { forward, .. } => forward,
        };
        let (from, to, _) = self.fabric.path_parts(leg.path)?;
        Some((self.fabric.nic_parts(from).1, self.fabric.nic_parts(to).1))
    }

    /// Places of the hurt observations of a signal since a moment, those of flows or the others, the newest at most
    /// `most`, oldest first; and from when on none is missing.
    fn hurts_since(&self, signal: Signal, since: Nanos, most: usize, resent: bool) -> (Vec<u32>, Nanos) {
        let mut out: Vec<u32> = Vec::new();
        let mut from = since.max(self.hurt_since);
        // Whole windows only: half a window would compare its losses with all that crossed.
        let mut oldest = Nanos::MAX;
        for (i, o) in self.hurt.iter().enumerate().rev() {
            let end = o.window.end();
            if o.resent() != resent || o.explained || end <= from || signal.counts(o).1 == 0 {
                continue;
            }
            if out.len() >= most && end < oldest {
                from = end;
                continue;
            }
            oldest = oldest.min(end);
            out.push(i as u32);
        }
        out.retain(|&i| self.hurt.get(i as usize).is_some_and(|o| o.window.end() > from));
        out.reverse();
        (out, from)
    }

    /// The spans worth localizing.
    fn spans(&self, signal: Signal, review: bool) -> Vec<Nanos> {
        // What is new, and when reviewing what is recent.
        let mut fresh: Vec<u32> = Vec::new();
        let recent = self.newest.since(Nanos::from_secs(2));
        for (i, o) in self.hurt.iter().rev().enumerate() {
            if i >= self.fresh && !(review && o.window.end() >= recent) {
                if i >= self.fresh + HURT_MAX || !review {
                    break;
                }
                continue;
            }
            // Flows are many and always send something again; they are weighed once a second.
            if signal.counts(o).1 > 0 && !o.explained && (review || !o.resent()) {
                fresh.extend(self.hurt_links(o).iter().map(|l| l.0));
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        if !review {
            // What a verdict is open about is looked at once a second.
            let known: Vec<u32> = self.open_links();
            fresh.retain(|l| known.binary_search(l).is_err());
        }
        if fresh.is_empty() {
            return Vec::new();
        }
        let map = &self.components.map;
        let links = map.links() as u32;
        let mut suspects = fresh.clone();
        suspects.extend(fresh.iter().flat_map(|&l| map.groups_of(l)).map(|&g| links + g));
        suspects.sort_unstable();
        suspects.dedup();
        let spans: Vec<Nanos> = SPANS_MS
            .iter()
            .map(|&ms| Nanos::from_millis(ms))
            .filter(|&s| s <= self.config.look_back)
            .collect();
        let mut lost = vec![[0.0f64; SPANS_MS.len()]; suspects.len()];
        let (mut hurts, _) =
            self.hurts_since(signal, self.newest.since(self.config.look_back), HURT_MAX, false);
        let mut resent = vec![[Resent::default(); SPANS_MS.len()]; suspects.len()];
        let flow_rate = self.flow_rate(signal);
        if review {
            hurts
                .extend(self.hurts_since(signal, self.newest.since(self.config.look_back), HURT_MAX, true).0);
        }
        let mut crossed: Vec<u32> = Vec::new();
        for &i in &hurts {
            let o = &self.hurt[i as usize];
            let age = self.newest.since(o.window.end());
            let Some(span) = spans.iter().position(|&s| age < s) else { continue };
            crossed.clear();
            for l in self.hurt_links(o).iter() {
                crossed.push(l.0);
                crossed.extend(map.groups_of(l.0).iter().map(|&g| links + g));
            }
            crossed.sort_unstable();
            crossed.dedup();
            let (n, k) = signal.counts(o);
            let (n, k) = (f64::from(n), f64::from(k));
            let alone = if o.resent() { (bound(k, n, flow_rate) - CHOICE_NATS).max(0.0) } else { 0.0 };
            for c in &crossed {
                if let Ok(at) = suspects.binary_search(c) {
                    if o.resent() {
                        resent[at][span].lost += k;
                        resent[at][span].alone += alone;
                    } else {
                        lost[at][span] += k;
                    }
                }
            }
        }
        let p0 = self.background[signal as usize].hazard * fabric::MAX_PATH_LINKS as f64;
        let need = log(map.components().max(2) as f64) + self.margin() - BOUND_SLACK;
        let windows: Vec<_> =
            spans.iter().map(|&s| self.rings.span(self.newest.since(s), Nanos::MAX)).collect();
        let exposure: Vec<f64> =
            spans.iter().map(|&s| self.moments.between(self.newest.since(s), self.newest).1).collect();
        let links_in_all = self.components.existing;
        let mut best = vec![0.0f64; spans.len()];
        for (at, &c) in suspects.iter().enumerate() {
            let (mut k, mut flows, mut top, mut top_span) = (0.0, Resent::default(), 0.0, 0);
            for s in 0..spans.len() {
                if lost[at][s] == 0.0 && k == 0.0 && resent[at][s].lost == 0.0 && flows.lost == 0.0 {
                    continue;
                }
                k += lost[at][s];
                flows.lost += resent[at][s].lost;
                flows.alone += resent[at][s].alone;
                // Without anything crossing at all the bound is the largest; no need to count what crossed.
                if bound(k, k, p0) + bound(flows.lost, flows.lost, flow_rate) <= need {
                    continue;
                }
                let by_flows = if flows.lost == 0.0 {
                    0.0
                } else {
                    let crossed = self.flows_across(c, self.newest.since(spans[s]));
                    bound(flows.lost, crossed, flow_rate).max(flows.alone)
                };
                let n = match map.group_of(c) {
                    None => windows[s].of(c as usize).packets,
                    // A device has too many links to count here: half of what it would carry if all were alike.
                    Some(g) => 0.5 * exposure[s] * g.links.len() as f64 / (g.links_crossed * links_in_all),
                };
                let b = bound(k, n, p0) + by_flows;
                if b > top {
                    (top, top_span) = (b, s);
                }
                if b > 8.0 * need {
                    break;
                }
            }
            if top > need {
                best[top_span] = best[top_span].max(top);
            }
        }
        let mut order: Vec<usize> = (0..spans.len()).filter(|&s| best[s] > 0.0).collect();
        order.sort_by(|&a, &b| best[b].total_cmp(&best[a]));
        order.truncate(SPANS_MAX);
        order.into_iter().map(|s| spans[s]).collect()
    }

    fn suspects(&self, signal: Signal, review: bool) -> Vec<Suspect> {
        let mut out = Vec::new();
        for span in self.spans(signal, review) {
            let (problem, hurts, since) = self.problem(signal, span, review);
            let located = problem.localize(&self.params(signal, true));
            for finding in located.findings {
                let mut mine: Vec<u32> = finding
                    .charged
                    .iter()
                    .filter(|c| c.1 >= 0.5)
                    .filter_map(|c| hurts.get(c.0 as usize).copied())
                    .collect();
                mine.sort_unstable();
                out.push(Suspect {
                    signal,
                    number: finding.component,
                    hurts: mine,
                    hurts_in_span: hurts.clone(),
                    finding,
                    since,
                });
            }
        }
        out
    }

    /// What was counted over a span, as a problem for the localizer; the places of its hurt observations; and the
    /// beginning of the span, later than asked for where too much was hurt.
    fn problem(&self, signal: Signal, span: Nanos, with_flows: bool) -> (Problem<'_>, Vec<u32>, Nanos) {
        let from = self.newest.since(span);
        let (mut hurts, since) = self.hurts_since(signal, from, LOCALIZED_MAX, false);
        // Where a single window holds more than can be weighed in time, every so-manieth observation stands for the
        // others, of what was hurt and of what was fine alike.
        let stride = hurts.len().div_ceil(2 * LOCALIZED_MAX).max(1);
        hurts = hurts.into_iter().step_by(stride).collect();
        let mut parts = vec![Counts {
            origin: Origin::Counted,
            kept: 1.0 / stride as f64,
            since,
            rings: &self.rings,
            unknown: self.unknown.as_ref(),
        }];
        if let Some(flows) = self.flows.as_ref().filter(|_| with_flows && signal == Signal::Loss) {
            let (resent, since) = self.hurts_since(signal, from, HURT_MAX, true);
            let stride = resent.len().div_ceil(FLOWS_MAX).max(1);
            hurts.extend(resent.into_iter().step_by(stride));
            parts.push(Counts {
                origin: Origin::Resent,
                kept: 1.0 / stride as f64,
                since,
                rings: &flows.rings,
                unknown: flows.unknown.as_ref(),
            });
        }
        let map = &self.components.map;
        let mut problem = Problem::new(map);
        let classes = self.noise_classes(signal, &hurts, &mut problem);
        let mut touched: Vec<u32> = Vec::new();
        // What is hurt, by where it was counted.
        let mut sums: [BTreeMap<u32, Crossing>; 2] = Default::default();
        let mut unknown_sums: [BTreeMap<usize, Crossing>; 2] = Default::default();
        for (&i, class) in hurts.iter().zip(classes) {
            let o = &self.hurt[i as usize];
            let (sent, lost) = signal.counts(o);
            let known: Vec<u32>;
            let candidates: Vec<Vec<u32>>;
            let refs: Vec<&[u32]> = if o.known {
                known = o.links().iter().map(|l| l.0).collect();
                vec![&known]
            } else {
                candidates = self.hurt_paths(o);
                candidates.iter().map(|p| &p[..]).collect()
            };
            let origin = if o.resent() { Origin::Resent } else { Origin::Counted };
            problem.hurt_of(origin, u64::from(sent), u64::from(lost), &refs, class);
            touched.extend(refs.iter().copied().flatten());
            let add = |c: &mut Crossing| {
                c.packets += f64::from(o.sent);
                c.observations += 1.0;
            };
            let legs = match o.path {
                PathRef::OneWay(leg) => [Some(leg), None],
                PathRef::RoundTrip { forward, backward } => [Some(forward), Some(backward)],
            };
            for leg in legs.into_iter().flatten() {
                let Some(links) = self.links_of(leg) else { continue };
                match links[..] {
                    [first, _, _, last] if leg.known == Known::Mixture => {
                        for (link, down) in [(first, 0), (last, 1)] {
                            add(sums[origin as usize].entry(link.0).or_default());
                            if let Some(leaf) = leaf_of(&self.fabric, link) {
                                let at = unknown_at(leaf, down, o.sent);
                                add(unknown_sums[origin as usize].entry(at).or_default());
                            }
                        }
                    }
                    _ => links.iter().for_each(|l| add(sums[origin as usize].entry(l.0).or_default())),
                }
            }
        }
        // What crossed every link of every component that is hurt, less what was hurt.
        touched.sort_unstable();
        touched.dedup();
        let mut links = touched;
        let mut groups: Vec<u32> = links.iter().flat_map(|&l| map.groups_of(l)).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        for &g in &groups {
            if let Some(group) = map.groups().get(g as usize) {
                links.extend(&group.links);
            }
        }
        links.sort_unstable();
        links.dedup();
        for part in &parts {
            let window = part.rings.span(part.since, Nanos::MAX);
            let unknown = part.unknown.map(|r| r.span(part.since, Nanos::MAX));
            let less = |all: Crossing, hurt: Option<&Crossing>| {
                let hurt = hurt.copied().unwrap_or_default();
                Crossing {
                    packets: (part.kept * all.packets - hurt.packets).max(0.0),
                    observations: (part.kept * all.observations - hurt.observations).max(0.0),
                }
            };
            let (sums, unknown_sums) = (&sums[part.origin as usize], &unknown_sums[part.origin as usize]);
            for &l in &links {
                let fine = less(window.of(l as usize), sums.get(&l));
                match part.origin {
                    Origin::Counted => problem.set_crossing(l, fine),
                    Origin::Resent => problem.set_resent_crossing(l, fine),
                }
                if let Some(unknown) = &unknown
                    && let Some((first, weight)) = self.unknown_ring(LinkId(l))
                {
                    for at in first..first + SIZES {
                        let c = less(unknown.of(at), unknown_sums.get(&at));
                        if c.observations >= 0.5 * part.kept {
                            problem.fine_perhaps_of(part.origin, l, weight, c.observations, c.packets);
                        }
                    }
                }
            }
        }
        let counted = parts.first().map_or((1.0, since), |p| (p.kept, p.since));
        let (observations, mut exposure) = self.moments.between(counted.1, self.newest);
        let known = hurts.iter().filter(|&&i| !self.hurt[i as usize].resent()).count() as f64;
        problem.set_observations((counted.0 * observations).max(known));
        exposure *= counted.0;
        if let (Some(flows), Some(part)) = (&self.flows, parts.get(1)) {
            let (all, packets, crossed) = flows.between(part.since, self.newest);
            let resent = hurts.len() as f64 - known;
            problem.set_resent((part.kept * all).max(resent), part.kept * packets);
            exposure += part.kept * crossed;
        }
        problem.set_exposure(exposure);
        let since = parts.iter().map(|p| p.since).min().unwrap_or(since);
        (problem, hurts, since)
    }

    /// Packets of flows that crossed, or may have crossed, a component since a moment.
    fn flows_across(&self, component: u32, since: Nanos) -> f64 {
        let Some(flows) = &self.flows else { return 0.0 };
        let window = flows.rings.span(since, Nanos::MAX);
        let unknown = flows.unknown.as_ref().map(|r| r.span(since, Nanos::MAX));
        let links = self.components.links_of(component);
        let mut seen: Vec<usize> = Vec::new();
        let mut sum = 0.0;
        for &l in &links {
            sum += window.of(l as usize).packets;
            if let (Some(unknown), Some((first, _))) = (&unknown, self.unknown_ring(LinkId(l)))
                && !seen.contains(&first)
            {
                seen.push(first);
                sum += (first..first + SIZES).map(|at| unknown.of(at).packets).sum::<f64>();
            }
        }
        sum
    }

    /// Share of packets that flows usually send again.
    pub(crate) fn flow_rate(&self, signal: Signal) -> f64 {
        let b = &self.background[signal as usize];
        b.hazard * fabric::MAX_PATH_LINKS as f64 + b.resent.map_or(1e-4, |r| r.bias)
    }

    /// Where traffic on unknown paths is counted that may have crossed this link, and how likely it did.
    pub(crate) fn unknown_ring(&self, link: LinkId) -> Option<(usize, f64)> {
        let f = &self.fabric;
        let (leaf, ..) = f.cable_of(link).err()?;
        let plane = f.link_plane(link);
        let uplinks = (0..f.shape.spines)
            .flat_map(|s| (0..f.shape.cables).map(move |c| (s, c)))
            .filter(|&(s, c)| f.exists(f.trunk_link(plane, leaf, s, c)))
            .count();
        let index = unknown_at(u32::from(plane.0) * f.shape.leaves + leaf, link.0 & 1, 1);
        Some((index, 1.0 / uplinks.max(1) as f64))
    }

    /// Gives moments, and hosts at moments, in which much was hurt their own noise; for each hurt observation the
    /// classes it belongs to.
    fn noise_classes(&self, signal: Signal, hurts: &[u32], problem: &mut Problem<'_>) -> Vec<[u32; 3]> {
        let window = self.config.window.0.max(1);
        let moment = |o: &PathObservation| o.window.end().0.saturating_sub(1) / window;
        let mut moments: BTreeMap<u64, u32> = BTreeMap::new();
        let mut hosts: BTreeMap<(u64, HostId), u32> = BTreeMap::new();
        for &i in hurts {
            let o = &self.hurt[i as usize];
            *moments.entry(moment(o)).or_default() += 1;
            let weight = if signal.counts(o).1 > 1 { 2 } else { 1 };
            if let Some((a, b)) = self.hosts_of(o) {
                *hosts.entry((moment(o), a)).or_default() += weight;
                *hosts.entry((moment(o), b)).or_default() += weight;
            }
        }
        let begin = |m: u64| Nanos(m.saturating_mul(window));
        let mut moment_class: BTreeMap<u64, u32> = BTreeMap::new();
        for (&m, &n) in &moments {
            if n >= MOMENT_HURTS_MIN {
                let (mut all, _) = self.moments.between(begin(m), begin(m + 1));
                if let Some(flows) = self.flows.as_ref().filter(|_| signal == Signal::Loss) {
                    all += flows.between(begin(m), begin(m + 1)).0;
                }
                moment_class.insert(m, problem.noise_class(all.max(f64::from(n))));
            }
        }
        let mut host_class: BTreeMap<(u64, HostId), u32> = BTreeMap::new();
        for (&(m, host), &n) in &hosts {
            if n >= HOST_HURTS_MIN {
                let span = self.rings.span(begin(m), begin(m + 1));
                let flows = self.flows.as_ref().filter(|_| signal == Signal::Loss);
                let flows = flows.map(|f| f.rings.span(begin(m), begin(m + 1)));
                let all: f64 = crate::map::Components::host_nics(&self.fabric, host)
                    .map(|nic| {
                        let up = self.fabric.access_link(nic);
                        [Some(&span), flows.as_ref()]
                            .into_iter()
                            .flatten()
                            .map(|s| s.of(up.index()).observations + s.of(up.reverse().index()).observations)
                            .sum::<f64>()
                    })
                    .sum();
                host_class.insert((m, host), problem.noise_class(all.max(f64::from(n))));
            }
        }
        hurts
            .iter()
            .map(|&i| {
                let o = &self.hurt[i as usize];
                let m = moment(o);
                let of = |h: HostId| host_class.get(&(m, h)).copied().unwrap_or(NO_CLASS);
                let (a, b) = self.hosts_of(o).map_or((NO_CLASS, NO_CLASS), |(a, b)| (of(a), of(b)));
                [moment_class.get(&m).copied().unwrap_or(NO_CLASS), a, b]
            })
            .collect()
    }

    /// Estimates what is usual over the longest span.
    fn learn_background(&mut self, signal: Signal) {
        let bias = (signal == Signal::Loss).then(|| self.usual_of_flows()).flatten();
        if let Some(bias) = bias {
            let b = &mut self.background[signal as usize];
            b.resent = Some(localize::Resent { bias, noise: b.resent.map_or(0.0, |r| r.noise) });
        }
        let (problem, hurts, _) = self.problem(signal, self.config.look_back, true);
        let norm = signal.norm(&self.config);
        let fresh = Background {
            hazard: norm.background / fabric::MAX_PATH_LINKS as f64,
            noise: norm.noise,
            resent: bias.map(|bias| localize::Resent { bias, noise: 0.0 }),
        };
        let learned = if hurts.is_empty() {
            fresh
        } else {
            let located = problem.localize(&self.params(signal, false));
            Background {
                hazard: located.background.max(fresh.hazard),
                noise: located.noise.max(fresh.noise),
                resent: bias.map(|bias| localize::Resent { bias, noise: located.resent.noise }),
            }
        };
        self.background[signal as usize] = learned;
    }

    /// What flows send again where nothing is wrong: the lower middle of what the NICs say of the packets they sent, so
    /// that a fault which some of them suffer from is not taken for usual. `None` while no flow has spoken.
    fn usual_of_flows(&self) -> Option<f64> {
        let flows = self.flows.as_ref()?;
        let since = self.newest.since(self.config.look_back).max(self.hurt_since);
        let window = flows.rings.span(since, Nanos::MAX);
        let mut again = vec![0.0f64; self.fabric.nics() as usize];
        for o in self.hurt.iter().filter(|o| o.resent() && o.window.end() > since) {
            if let PathRef::OneWay(leg) = o.path
                && let Some((from, ..)) = self.fabric.path_parts(leg.path)
                && let Some(n) = again.get_mut(from.index())
            {
                *n += f64::from(o.lost);
            }
        }
        let mut rates: Vec<f64> = again
            .iter()
            .enumerate()
            .map(|(nic, k)| (k, window.of(self.fabric.access_link(wire::NicId(nic as u32)).index()).packets))
            .filter(|(_, n)| *n > 0.0)
            .map(|(k, n)| (k + 1.0) / (n + FLOW_PRIOR_PACKETS))
            .collect();
        rates.sort_unstable_by(f64::total_cmp);
        rates.get(rates.len() / 4).copied()
    }

    /// Packets across a set of links in each of several spans, one after the other or not. Of a device with many
    /// links the whole is counted once and shared out as the fabric's traffic was. What flows say is left out.
    pub(crate) fn crossed_in(&self, links: &[u32], times: f64, spans: &[(Nanos, Nanos)]) -> Vec<f64> {
        let each = |s: &(Nanos, Nanos)| self.crossed(links, times, s.0, s.1).packets;
        let from = spans.iter().map(|s| s.0).min().unwrap_or_default();
        let until = spans.iter().map(|s| s.1).max().unwrap_or_default().min(self.newest);
        if links.len() <= COUNTED_MAX {
            return spans.iter().map(each).collect();
        }
        let share = each(&(from, until)) / self.moments.between(from, until).1.max(1.0);
        spans.iter().map(|s| share * self.moments.between(s.0, s.1.min(self.newest)).1).collect()
    }

    /// Packets and observations across a set of links in a span, each packet counted `times` times; without what
    /// flows say.
    pub(crate) fn crossed(&self, links: &[u32], times: f64, since: Nanos, until: Nanos) -> Crossing {
        self.crossed_by(&self.rings, self.unknown.as_ref(), links, times, (since, until))
    }

    /// The same of what flows say.
    pub(crate) fn crossed_by_flows(&self, links: &[u32], times: f64, since: Nanos, until: Nanos) -> Crossing {
        self.flows.as_ref().map_or(Crossing::default(), |f| {
            self.crossed_by(&f.rings, f.unknown.as_ref(), links, times, (since, until))
        })
    }

    fn crossed_by(
        &self,
        rings: &Rings,
        unknown: Option<&Rings>,
        links: &[u32],
        times: f64,
        (since, until): (Nanos, Nanos),
    ) -> Crossing {
        let window = rings.span(since, until);
        let unknown = unknown.map(|r| r.span(since, until));
        let mut out = Crossing::default();
        for &l in links {
            let c = window.of(l as usize);
            out.packets += c.packets / times;
            out.observations += c.observations / times;
            if let Some(unknown) = &unknown
                && let Some((first, weight)) = self.unknown_ring(LinkId(l))
            {
                for at in first..first + SIZES {
                    let c = unknown.of(at);
                    out.packets += weight * c.packets / times;
                    out.observations += weight * c.observations / times;
                }
            }
        }
        out
    }
}

/// Where one origin's observations of a span are counted.
struct Counts<'e> {
    origin: Origin,
    kept: f64,
    since: Nanos,
    rings: &'e Rings,
    unknown: Option<&'e Rings>,
}

/// What flows sent again across a suspect: in all, and what single flows say by themselves, nats.
#[derive(Clone, Copy, Default)]
struct Resent {
    lost: f64,
    alone: f64,
}
