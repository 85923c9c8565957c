//! Fitting hazards to counts: expectation maximisation over the named components, the common background, and the
//! noise at the ends; and the score of a component that is not named yet.
//!
//! State is one hazard and one dead share a candidate path, and one likelihood a hurt observation; both follow
//! from the named components. See [`crate::localize`] for the search on top and [`crate::likelihood`] for the law.

use crate::likelihood::{HAZARD_MAX, binomial, burst_prior, hazard_of};
use crate::localize::{Crossing, NO_CLASS, Origin, Params, Problem};
use crate::noise::Noise;
use alloc::vec;
use alloc::vec::Vec;
use libm::{exp, log, log1p};

/// A named component.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Active {
    pub(crate) component: u32,
    /// Its own hazard; for a link in place of the background, for a group on top of it.
    pub(crate) hazard: f64,
    /// Share of observations it kills.
    pub(crate) dead: f64,
}

/// What adding or removing something would bring.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Score {
    pub(crate) gain: f64,
    pub(crate) hazard: f64,
    pub(crate) dead: f64,
}

/// Largest burst told apart by size.
const BURST_SIZES: usize = 24;
/// Losses by chance in an observation from which on they are told from its burst, and most of them that are.
const CHANCE_MIN: f64 = 0.25;
const CHANCE_MAX: usize = 256;
/// Weight of the scale-free law in the fitted one, in bursts.
const BURST_PRIOR_WEIGHT: f64 = 8.0;
/// Weight of a background or noise known from before, in losses or bursts.
const KNOWN_WEIGHT: f64 = 30.0;
/// Share of packets sent again for nothing, and of flows hurt at an end, before any were seen: healthy data centers
/// resend about one segment in ten thousand.
const BIAS_MIN: f64 = 1e-5;
const BIAS_PRIOR: f64 = 1e-4;
const RESENT_NOISE_MIN: f64 = 1e-4;

#[derive(Clone, Debug)]
pub(crate) struct Fit<'p> {
    pub(crate) problem: &'p Problem<'p>,
    pub(crate) params: Params,
    /// Candidate paths of component `c`: `paths[first[c]..first[c + 1]]`, in order.
    first: Vec<u32>,
    paths: Vec<u32>,
    /// Hazard of each candidate path, and the number of its links that are at the background.
    path_hazard: Vec<f64>,
    path_free: Vec<f64>,
    path_dead: Vec<f64>,
    path_likelihood: Vec<f64>,
    /// Likelihood of each hurt observation.
    pub(crate) likelihood: Vec<f64>,
    /// Share of observations hurt at an end: common, and of each class.
    /// Both by [`Origin`].
    pub(crate) noise: [f64; 2],
    pub(crate) classes: Noise,
    burst: [Vec<f64>; 2],
    /// Hazard of a packet of [`Origin::Resent`] that no link has.
    pub(crate) bias: f64,
    /// Probability of each hurt observation, given that there was a burst.
    burst_likelihood: Vec<f64>,
    /// Hazard of a link that is not named.
    pub(crate) background: f64,
    /// Packets times links, all of the fabric.
    exposure: f64,
    links_per_path: f64,
    pub(crate) active: Vec<Active>,
}

impl<'p> Fit<'p> {
    pub(crate) fn new(problem: &'p Problem<'p>, params: Params) -> Self {
        let map = problem.map;
        let mut first = vec![0u32; map.components() + 1];
        let visit = |f: &mut dyn FnMut(usize, usize)| {
            let mut seen: Vec<u32> = Vec::new();
            for p in 0..problem.paths.len() {
                seen.clear();
                for &l in problem.links_of(p) {
                    f(l as usize, p);
                    for &g in map.groups_of(l) {
                        if !seen.contains(&g) {
                            seen.push(g);
                            f(map.links() + g as usize, p);
                        }
                    }
                }
            }
        };
        visit(&mut |c, _| first[c + 1] += 1);
        for c in 0..map.components() {
            first[c + 1] += first[c];
        }
        let mut at = first.clone();
        let mut paths = vec![0u32; first.last().map_or(0, |&n| n as usize)];
        visit(&mut |c, p| {
            paths[at[c] as usize] = p as u32;
            at[c] += 1;
        });
        let exposure = problem.exposure.unwrap_or_else(|| problem.counted_exposure());
        let paths_len = problem.paths.len();
        let links_per_path =
            if paths_len == 0 { 4.0 } else { (problem.path_links.len() as f64 / paths_len as f64).max(1.0) };
        let lost: f64 = problem.hurt.iter().map(|h| h.lost.min(2.0)).sum();
        let of: Vec<[u32; 3]> = problem.hurt.iter().map(|h| h.noise).collect();
        let mut fit = Fit {
            problem,
            params,
            first,
            paths,
            path_hazard: vec![0.0; paths_len],
            path_free: vec![0.0; paths_len],
            path_dead: vec![0.0; paths_len],
            path_likelihood: vec![0.0; paths_len],
            likelihood: vec![0.0; problem.hurt.len()],
            noise: [params.noise_min, params.resent_noise.unwrap_or(RESENT_NOISE_MIN)],
            classes: Noise::new(problem.classes.len(), &of),
            burst: [(); 2].map(|()| (1..=BURST_SIZES).map(|k| burst_prior(k as f64)).collect()),
            bias: BIAS_PRIOR,
            burst_likelihood: vec![0.0; problem.hurt.len()],
            background: 0.0,
            exposure,
            links_per_path,
            active: Vec::new(),
        };
        let resent = |h: &&crate::localize::Hurt| h.origin == Origin::Resent;
        let lost_resent: f64 = problem.hurt.iter().filter(resent).map(|h| h.lost.min(2.0)).sum();
        fit.background = fit.shrunk_background(lost - lost_resent, 0.0);
        let big = |origin| problem.hurt.iter().filter(|h| h.origin == origin && h.lost > 1.0).count() as f64;
        fit.noise = [Origin::Counted, Origin::Resent].map(|o| fit.shrunk_noise(o, 0.5 * big(o)));
        fit.bias = fit.shrunk_bias(lost_resent);
        fit.refresh();
        fit
    }

    fn shrunk_background(&self, lost: f64, without: f64) -> f64 {
        let floor = self.params.background_min / self.links_per_path;
        // What is known from before weighs as much as that many losses; the floor as much as one.
        let (weight, prior) = self.params.background.map_or((1.0, floor), |b| (KNOWN_WEIGHT, b.max(floor)));
        ((lost + weight) / ((self.exposure - without).max(0.0) + weight / prior)).max(floor)
    }

    fn shrunk_noise(&self, origin: Origin, bursts: f64) -> f64 {
        let (floor, known, observations) = match origin {
            Origin::Counted => (self.params.noise_min, self.params.noise, self.problem.observations),
            Origin::Resent => (RESENT_NOISE_MIN, self.params.resent_noise, self.problem.resent_observations),
        };
        let (weight, prior) = known.map_or((0.1, floor), |e| (KNOWN_WEIGHT, e.max(floor)));
        ((bursts + weight) / (observations + weight / prior)).clamp(floor, 0.9)
    }

    fn shrunk_bias(&self, lost: f64) -> f64 {
        if let Some(known) = self.params.resent_bias {
            return known.max(BIAS_MIN);
        }
        let (weight, prior) = (1.0, BIAS_PRIOR);
        ((lost + weight) / (self.problem.resent_packets + weight / prior)).max(BIAS_MIN)
    }

    /// Hazard of a packet that no link has.
    fn bias_of(&self, origin: Origin) -> f64 {
        if origin == Origin::Resent { self.bias } else { 0.0 }
    }

    /// Hazards up to which a component is taken to be healthy, by each account: alike, or with flows that resend more
    /// than others do.
    fn healthy_by(&self, most: f64) -> [[f64; 2]; 3] {
        let healthy = self.healthy().min(most);
        let resent = (self.params.resent_spread * self.bias).max(healthy).min(most);
        if self.problem.resent_packets <= 0.0 {
            return [[healthy; 2]; 3];
        }
        [[healthy; 2], [healthy, resent], [healthy, 0.5 * (healthy + resent)]]
    }

    pub(crate) fn paths_of(&self, component: u32) -> &[u32] {
        let at = |i: usize| self.first.get(i).map_or(0, |&n| n as usize);
        self.paths.get(at(component as usize)..at(component as usize + 1)).unwrap_or(&[])
    }

    fn is_link(&self, component: u32) -> bool {
        (component as usize) < self.problem.map.links()
    }

    /// What a component adds to the hazard of a path while it is not named.
    fn base(&self, component: u32) -> f64 {
        if self.is_link(component) { self.background } else { 0.0 }
    }

    /// Evidence that is asked for before a component is named. Not less for one more where several are named: choosing
    /// `n` of `M` costs only `ln(M / n)` for the last, but healthy links differ, and at that price some were named.
    pub(crate) fn price(&self, component: u32) -> f64 {
        let own = self.problem.map.group_of(component).map_or(0.0, |g| g.cost);
        let noisy = self.params.noise_margin * self.noisiness();
        log(self.problem.map.components().max(2) as f64) + self.params.margin + noisy + own
    }

    /// Share of the hurt observations that the noise at the ends explains, `0 ..= 1`.
    fn noisiness(&self) -> f64 {
        let bursts =
            self.noise[0] * self.problem.observations + self.noise[1] * self.problem.resent_observations;
        (bursts / (self.problem.hurt.len() as f64 + 1.0)).min(1.0)
    }

    /// The price within one window of time: to compare several names for the same fault, which all came with it.
    pub(crate) fn price_of_name(&self, component: u32) -> f64 {
        self.price(component) - (self.params.margin - 1.0).max(0.0)
    }

    /// Hazard up to which a component is taken to be healthy.
    pub(crate) fn healthy(&self) -> f64 {
        (self.params.healthy_spread * self.background).max(self.params.healthy_min)
    }

    /// Loss-free traffic across a component: packets and observations.
    pub(crate) fn crossing(&self, component: u32) -> (f64, f64) {
        let (counted, resent) = (
            self.crossing_in(&self.problem.crossing, component),
            self.crossing_in(&self.problem.resent, component),
        );
        (counted.0 + resent.0, counted.1 + resent.1)
    }

    fn crossing_in(&self, list: &[Crossing], component: u32) -> (f64, f64) {
        let one = |l: u32| list.get(l as usize).map_or((0.0, 0.0), |c| (c.packets, c.observations));
        match self.problem.map.group_of(component) {
            None => one(component),
            Some(g) => {
                let (p, o) = g.links.iter().fold((0.0, 0.0), |s, &l| {
                    let c = one(l);
                    (s.0 + c.0, s.1 + c.1)
                });
                (p / g.links_crossed, o / g.links_crossed)
            }
        }
    }

    /// Log-likelihood of the loss-free traffic across a component at hazard `more` above what it has unnamed, and
    /// hazard `dead` of being killed as a whole; against 0 and 0. Hazards are by each [`Origin`]'s account.
    fn fine(&self, component: u32, more: [f64; 2], dead: f64) -> f64 {
        let mut sum = 0.0;
        for (list, more) in [&self.problem.crossing, &self.problem.resent].into_iter().zip(more) {
            let (packets, observations) = self.crossing_in(list, component);
            sum -= packets * more + observations * dead;
        }
        if !self.problem.perhaps.is_empty() {
            let mut one = |l: u32, share: f64| {
                for p in self.problem.perhaps.get(l as usize).map_or(&[][..], |v| v) {
                    let kept = exp(-p.packets * more[p.origin as usize] - dead);
                    sum += share * p.count * log1p(p.weight * (kept - 1.0));
                }
            };
            match self.problem.map.group_of(component) {
                None => one(component, 1.0),
                Some(g) => g.links.iter().for_each(|&l| one(l, 1.0 / g.links_crossed)),
            }
        }
        sum
    }

    /// Packets (or observations) expected to have crossed a component loss-free on paths that are not known.
    fn perhaps_crossed(&self, component: u32, more: f64, dead: f64) -> (f64, f64) {
        let (mut packets, mut observations) = (0.0, 0.0);
        if self.problem.perhaps.is_empty() {
            return (packets, observations);
        }
        let mut one = |l: u32, share: f64| {
            for p in self.problem.perhaps.get(l as usize).map_or(&[][..], |v| v) {
                let kept = p.weight * exp(-p.packets * more - dead);
                let crossed = share * p.count * kept / (1.0 - p.weight + kept).max(1e-300);
                packets += crossed * p.packets;
                observations += crossed;
            }
        };
        match self.problem.map.group_of(component) {
            None => one(component, 1.0),
            Some(g) => g.links.iter().for_each(|&l| one(l, 1.0 / g.links_crossed)),
        }
        (packets, observations)
    }

    pub(crate) fn noise_of(&self, hurt: usize) -> f64 {
        let h = &self.problem.hurt[hurt];
        let mut e = self.noise[h.origin as usize];
        for c in h.noise {
            if c != NO_CLASS {
                e += self.classes.share.get(c as usize).copied().unwrap_or(0.0);
            }
        }
        e.min(0.95)
    }

    /// Share of bursts that are of `k` packets.
    fn burst_law(&self, origin: Origin, k: f64) -> f64 {
        let burst = &self.burst[origin as usize];
        match burst.get(k as usize - 1) {
            Some(b) => *b,
            None => {
                // Beyond the sizes told apart the law keeps the shape of the prior.
                let tail = burst.last().copied().unwrap_or(0.0) / burst_prior(BURST_SIZES as f64);
                tail.min(1.0) * burst_prior(k)
            }
        }
    }

    /// Calls `each` with every burst size that a hurt observation may have had, and the probability of that size and
    /// of the rest by chance, given that there was a burst. A long observation loses a few packets by chance
    /// besides; taken for part of the burst they would make it one of a size hardly ever seen, and proof of a fault.
    fn bursts_of(&self, i: usize, mut each: impl FnMut(usize, f64)) {
        let h = &self.problem.hurt[i];
        let all = (h.sent + 1.0) / h.sent;
        let usual = h.sent * (self.links_per_path * self.background + self.bias_of(h.origin));
        if usual < CHANCE_MIN {
            each(h.lost as usize, self.burst_law(h.origin, h.lost) * all);
            return;
        }
        // Poisson(0), Poisson(1), … of what is usual
        let mut chance = exp(-usual);
        for rest in 0..(h.lost as usize).min(CHANCE_MAX) {
            let size = h.lost - rest as f64;
            each(size as usize, self.burst_law(h.origin, size) * all * chance);
            chance *= usual / (rest as f64 + 1.0);
        }
    }

    /// Probability of what a hurt observation lost, given that there was a burst.
    pub(crate) fn burst(&self, hurt: usize) -> f64 {
        self.burst_likelihood[hurt]
    }

    fn binomial_at(&self, path: usize, hazard: f64) -> f64 {
        let h = &self.problem.hurt[self.problem.paths[path].hurt as usize];
        binomial(h.ln_choose, h.sent, h.lost, hazard)
    }

    /// Everything that follows from the named components.
    pub(crate) fn refresh(&mut self) {
        for (p, c) in self.problem.paths.iter().enumerate() {
            let bias = self.bias_of(self.problem.hurt[c.hurt as usize].origin);
            self.path_hazard[p] = f64::from(c.count) * self.background + bias;
            self.path_free[p] = f64::from(c.count);
            self.path_dead[p] = 0.0;
        }
        for i in 0..self.active.len() {
            let a = self.active[i];
            let (base, free) = (self.base(a.component), f64::from(u8::from(self.is_link(a.component))));
            let (from, to) =
                (self.first[a.component as usize] as usize, self.first[a.component as usize + 1] as usize);
            for at in from..to {
                let p = self.paths[at] as usize;
                self.path_hazard[p] += a.hazard - base;
                self.path_free[p] -= free;
                self.path_dead[p] += a.dead;
            }
        }
        for p in 0..self.path_hazard.len() {
            self.path_hazard[p] = self.path_hazard[p].max(1e-12);
            self.path_likelihood[p] = self.binomial_at(p, self.path_hazard[p]);
        }
        for i in 0..self.likelihood.len() {
            let mut burst = 0.0;
            self.bursts_of(i, |_, p| burst += p);
            self.burst_likelihood[i] = burst;
            self.likelihood[i] = self.likelihood_of(i);
        }
    }

    pub(crate) fn likelihood_of(&self, i: usize) -> f64 {
        let h = &self.problem.hurt[i];
        let e = self.noise_of(i);
        let mut sum = e * self.burst(i);
        for p in h.first as usize..(h.first + h.count) as usize {
            let w = self.problem.paths[p].weight;
            sum += w * ((1.0 - e) * self.path_likelihood[p] + self.path_dead[p] * h.dead);
        }
        sum.max(1e-300)
    }

    /// Log-likelihood of everything, up to a constant.
    pub(crate) fn total(&self) -> f64 {
        let hurt: f64 = self.likelihood.iter().map(|&p| log(p)).sum();
        let fine: f64 = self
            .active
            .iter()
            .map(|a| self.fine(a.component, [a.hazard - self.base(a.component); 2], -log1p(-a.dead)))
            .sum();
        let noise: f64 = self
            .classes
            .share
            .iter()
            .zip(&self.problem.classes)
            .map(|(&e, &n)| n * log1p(-e.min(0.95)))
            .sum();
        hurt + fine
            + noise
            + self.problem.observations * log1p(-self.noise[0])
            + self.problem.resent_observations * log1p(-self.noise[1])
            - self.exposure * self.background
            - self.problem.resent_packets * self.bias
    }

    /// Log-likelihood change of the hurt observations when component `c` contributes `hazard` more than now and
    /// kills `dead` more than now; hazards by each [`Origin`]'s account.
    fn hurt_change(&self, component: u32, more: [f64; 2], dead: f64) -> f64 {
        let mut sum = 0.0;
        let list = self.paths_of(component);
        let mut at = 0;
        while at < list.len() {
            let i = self.problem.paths[list[at] as usize].hurt as usize;
            let h = &self.problem.hurt[i];
            let e = self.noise_of(i);
            let more = more[h.origin as usize];
            let mut p_new = self.likelihood[i];
            while let Some(&p) = list.get(at) {
                let p = p as usize;
                let c = &self.problem.paths[p];
                if c.hurt as usize != i {
                    break;
                }
                let f = if more == 0.0 {
                    0.0
                } else {
                    self.binomial_at(p, (self.path_hazard[p] + more).max(1e-12)) - self.path_likelihood[p]
                };
                p_new += c.weight * ((1.0 - e) * f + dead * h.dead);
                at += 1;
            }
            sum += log(p_new.max(1e-300) / self.likelihood[i]);
        }
        sum
    }

    /// What naming a component that is not named would bring, at the best hazard or the best dead share.
    pub(crate) fn score(&self, component: u32) -> Score {
        let by_rate = self.score_rate(component);
        let by_flow = self.score_dead(component);
        if by_flow.gain > by_rate.gain { by_flow } else { by_rate }
    }

    /// Upper bound of [`Fit::score`], quickly: every packet lost on a crossing path was lost here.
    pub(crate) fn bound(&self, component: u32) -> f64 {
        let mut lost = 0.0;
        let mut hurts = 0.0;
        for &p in self.paths_of(component) {
            let c = &self.problem.paths[p as usize];
            lost += self.problem.hurt[c.hurt as usize].lost;
            hurts += 1.0;
        }
        if hurts < 1.0 {
            return 0.0;
        }
        let (packets, _) = self.crossing(component);
        if !self.problem.perhaps.is_empty() || lost > 4.0 * hurts {
            return f64::MAX;
        }
        let expected = (packets + lost) * self.background * self.links_per_path;
        if lost <= expected { 0.0 } else { lost * log(lost / expected) - lost + expected }
    }

    fn score_rate(&self, component: u32) -> Score {
        let base = self.base(component);
        let healthy = self.healthy();
        let (packets, _) = self.crossing(component);
        let list = self.paths_of(component);
        let (mut lost, mut kept) = (0.0, 0.0);
        for &p in list {
            let c = &self.problem.paths[p as usize];
            let h = &self.problem.hurt[c.hurt as usize];
            lost += h.lost * c.weight;
            kept += (h.sent - h.lost) * c.weight;
        }
        if lost <= 0.0 {
            return Score::default();
        }
        let mut hazard = hazard_of(lost / (lost + kept + packets)).max(2.0 * healthy);
        let mut gain_before = f64::MIN;
        let by = |hazards: [f64; 2]| {
            let more = hazards.map(|h| h - base);
            self.hurt_change(component, more, 0.0) + self.fine(component, more, 0.0)
        };
        let at = |hazard: f64| by([hazard; 2]);
        for round in 0..12 {
            let (d, s) = self.charge(component, hazard - base, hazard);
            let (more, _) = self.perhaps_crossed(component, hazard - base, 0.0);
            let next = hazard_of(d / (d + s + packets + more).max(1e-9)).clamp(1e-9, HAZARD_MAX);
            let moved = (next - hazard).abs() > 0.02 * hazard;
            hazard = next;
            if hazard < healthy && round > 3 {
                return Score::default();
            }
            if !moved {
                break;
            }
        }
        let mut gain = at(hazard);
        // The likelihood can have two hills: all bursts, or a fault. The second needs a start near its top.
        let steep = hazard_of((lost / (lost + kept + packets)).min(1.0));
        if steep > 2.0 * hazard {
            let g = at(steep);
            if g > gain {
                gain = g;
                hazard = steep;
            }
        }
        gain_before = gain_before.max(gain);
        if hazard <= healthy {
            return Score::default();
        }
        let mut nothing = 0.0f64;
        let nulls = self.healthy_by(hazard);
        for (i, null) in nulls.iter().enumerate() {
            if i == 0 || *null != nulls[0] {
                nothing = nothing.max(by(*null));
            }
        }
        Score { gain: gain_before - nothing, hazard, dead: 0.0 }
    }

    fn score_dead(&self, component: u32) -> Score {
        let list = self.paths_of(component);
        let (mut deads, mut hurts) = (0.0, 0.0);
        for &p in list {
            let c = &self.problem.paths[p as usize];
            let h = &self.problem.hurt[c.hurt as usize];
            hurts += c.weight;
            if h.lost >= h.sent && h.dead > 0.0 {
                deads += c.weight;
            }
        }
        if deads <= 0.0 {
            return Score::default();
        }
        let (_, observations) = self.crossing(component);
        let (_, perhaps) = self.perhaps_crossed(component, 0.0, 0.0);
        let dead = (deads / (observations + perhaps + hurts)).min(0.99);
        // One nat for having looked twice.
        let gain =
            self.hurt_change(component, [0.0; 2], dead) + self.fine(component, [0.0; 2], -log1p(-dead)) - 1.0;
        Score { gain, hazard: self.base(component).max(1e-9), dead }
    }

    /// Losses charged to a component with hazard `hazard`, of which `more` is not in the paths' hazards yet; and
    /// packets that survived it in hurt observations.
    fn charge(&self, component: u32, more: f64, hazard: f64) -> (f64, f64) {
        let list = self.paths_of(component);
        let (mut d, mut s) = (0.0, 0.0);
        let mut at = 0;
        while at < list.len() {
            let i = self.problem.paths[list[at] as usize].hurt as usize;
            let h = &self.problem.hurt[i];
            let e = self.noise_of(i);
            let mut p_new = self.likelihood[i];
            let (mut share_d, mut share) = (0.0, 0.0);
            while let Some(&p) = list.get(at) {
                let p = p as usize;
                let c = &self.problem.paths[p];
                if c.hurt as usize != i {
                    break;
                }
                let r = (self.path_hazard[p] + more).max(1e-12);
                let f = self.binomial_at(p, r);
                p_new += c.weight * (1.0 - e) * (f - self.path_likelihood[p]);
                share_d += c.weight * (1.0 - e) * f * (hazard / r).min(1.0);
                share += c.weight * (1.0 - e) * f;
                at += 1;
            }
            let p_new = p_new.max(1e-300);
            d += h.lost * share_d / p_new;
            s += (h.sent - h.lost) * share / p_new;
        }
        (d, s)
    }

    /// Fits the named components, the background and the noise together.
    pub(crate) fn refit(&mut self, rounds: usize) {
        let problem = self.problem;
        for _ in 0..rounds {
            self.refresh();
            let mut change = 0.0f64;
            // Named components.
            let mut without = 0.0;
            for i in 0..self.active.len() {
                let a = self.active[i];
                let (packets, observations) = self.crossing(a.component);
                let base = self.base(a.component);
                let (d, s) = self.charge(a.component, 0.0, a.hazard);
                let (more, more_obs) = self.perhaps_crossed(a.component, a.hazard - base, -log1p(-a.dead));
                if self.is_link(a.component) {
                    without += packets + more + s + d;
                }
                let hazard = hazard_of(d / (d + s + packets + more).max(1e-9)).max(1e-9);
                let mut killed = 0.0;
                let mut hurts = 0.0;
                for &p in self.paths_of(a.component) {
                    let c = &problem.paths[p as usize];
                    let h = &problem.hurt[c.hurt as usize];
                    killed += c.weight * a.dead * h.dead / self.likelihood[c.hurt as usize];
                    hurts += c.weight;
                }
                let dead = if a.dead > 0.0 {
                    (killed / (observations + more_obs + hurts).max(1e-9)).min(0.99)
                } else {
                    0.0
                };
                change = change.max((hazard - a.hazard).abs() / a.hazard.max(1e-6));
                self.active[i].hazard = hazard;
                self.active[i].dead = if dead < 1e-9 { 0.0 } else { dead };
            }
            // Background and noise.
            let mut lost = 0.0;
            let mut biased = 0.0;
            let mut bursts = [0.0; 2];
            let mut sizes = [[0.0f64; BURST_SIZES]; 2];
            let mut class_bursts = vec![0.0; self.classes.share.len()];
            for (i, h) in problem.hurt.iter().enumerate() {
                let e = self.noise_of(i);
                let p_i = self.likelihood[i];
                for p in h.first as usize..(h.first + h.count) as usize {
                    let f = problem.paths[p].weight * (1.0 - e) * self.path_likelihood[p] / p_i;
                    lost += f
                        * h.lost
                        * (self.path_free[p] * self.background / self.path_hazard[p]).clamp(0.0, 1.0);
                    biased += f * h.lost * (self.bias_of(h.origin) / self.path_hazard[p]).clamp(0.0, 1.0);
                }
                let burst = e * self.burst(i) / p_i;
                let origin = h.origin as usize;
                bursts[origin] += burst * self.noise[origin] / e.max(1e-300);
                self.bursts_of(i, |size, p| {
                    if let Some(s) = sizes[origin].get_mut(size - 1) {
                        *s += e * p / p_i;
                    }
                });
                for c in h.noise {
                    if let Some(n) = class_bursts.get_mut(c as usize) {
                        *n += burst * self.classes.share[c as usize] / e.max(1e-300);
                    }
                }
            }
            self.background = self.shrunk_background(lost, without);
            self.noise =
                [self.shrunk_noise(Origin::Counted, bursts[0]), self.shrunk_noise(Origin::Resent, bursts[1])];
            self.bias = self.shrunk_bias(biased);
            for (c, n) in class_bursts.iter().enumerate() {
                self.classes.share[c] = (n / problem.classes[c]).min(0.95);
            }
            Self::fit_burst(&mut self.burst[0], &sizes[0]);
            Self::fit_burst(&mut self.burst[1], &sizes[1]);
            if change < 0.01 {
                break;
            }
        }
        self.refresh();
    }

    /// The size law of bursts: the scale-free prior, moved towards what was seen.
    fn fit_burst(law: &mut [f64], sizes: &[f64; BURST_SIZES]) {
        let seen: f64 = sizes.iter().sum();
        // Neighbouring sizes lend each other weight, so that no size stays improbable between two probable ones.
        for (k, share) in law.iter_mut().enumerate().take(BURST_SIZES) {
            let left = if k > 0 { sizes[k - 1] } else { sizes[k] };
            let right = sizes.get(k + 1).copied().unwrap_or(0.0);
            let smooth = 0.25 * left + 0.5 * sizes[k] + 0.25 * right;
            *share =
                (smooth + BURST_PRIOR_WEIGHT * burst_prior(k as f64 + 1.0)) / (seen + BURST_PRIOR_WEIGHT);
        }
    }

    /// What the likelihood loses when a named component goes, all else staying as it is.
    pub(crate) fn loss_without(&self, index: usize) -> f64 {
        let a = self.active[index];
        let base = self.base(a.component);
        let now = self.fine(a.component, [a.hazard - base; 2], -log1p(-a.dead));
        let mut least = f64::MAX;
        let nulls = self.healthy_by(a.hazard);
        for (i, mut null) in nulls.into_iter().enumerate() {
            if i > 0 && null == nulls[0] {
                continue;
            }
            if !self.is_link(a.component) {
                null[0] = 0.0;
                null[1] = if i == 0 { 0.0 } else { null[1] };
            }
            // The dead share is part of the present likelihoods; removing it is adding its negative.
            let hurt = self.hurt_change(a.component, null.map(|h| h - a.hazard), -a.dead);
            let fine = self.fine(a.component, null.map(|h| h - base), 0.0) - now;
            least = least.min(-(hurt + fine));
        }
        least
    }

    /// Log-likelihood change if a component that is not named had this hazard.
    pub(crate) fn gain_at(&self, component: u32, hazard: f64) -> f64 {
        let more = hazard - self.base(component);
        self.hurt_change(component, [more; 2], 0.0) + self.fine(component, [more; 2], 0.0)
    }

    /// Share of each crossing hurt observation that is charged to a named component.
    pub(crate) fn charged(&self, a: &Active) -> Vec<(u32, f64)> {
        let mut out: Vec<(u32, f64)> = Vec::new();
        for &p in self.paths_of(a.component) {
            let c = &self.problem.paths[p as usize];
            let h = &self.problem.hurt[c.hurt as usize];
            let e = self.noise_of(c.hurt as usize);
            let by_rate = (1.0 - e)
                * self.path_likelihood[p as usize]
                * (a.hazard / self.path_hazard[p as usize]).min(1.0);
            let share = c.weight * (by_rate + a.dead * h.dead) / self.likelihood[c.hurt as usize];
            match out.last_mut() {
                Some(last) if last.0 == c.hurt => last.1 += share,
                _ => out.push((c.hurt, share)),
            }
        }
        out
    }

    /// The 95 % interval of a named component's hazard: where the likelihood has fallen by 1.92.
    pub(crate) fn interval(&self, a: &Active) -> (f64, f64) {
        let base = self.base(a.component);
        let now = self.fine(a.component, [a.hazard - base; 2], 0.0);
        let at = |hazard: f64| {
            self.hurt_change(a.component, [hazard - a.hazard; 2], 0.0)
                + self.fine(a.component, [hazard - base; 2], 0.0)
                - now
        };
        let find = |step: f64| {
            let (mut inside, mut outside) = (a.hazard, a.hazard * step);
            for _ in 0..24 {
                if at(outside) < -1.92 || !(1e-9..=HAZARD_MAX).contains(&outside) {
                    break;
                }
                inside = outside;
                outside *= step;
            }
            for _ in 0..8 {
                let mid = libm::sqrt(inside * outside);
                if at(mid) < -1.92 { outside = mid } else { inside = mid }
            }
            libm::sqrt(inside * outside)
        };
        (find(0.6).min(a.hazard), find(1.0 / 0.6).clamp(a.hazard, HAZARD_MAX))
    }
}
