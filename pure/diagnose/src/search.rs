//! The search on top of the fit: add the best, fit again, drop what does not pay, exchange what another component
//! explains better, and name a device where that is shorter than naming its links.

use crate::fit::{Active, Fit, Score};
use crate::likelihood::{ln_choose, rate_of};
use crate::localize::Finding;
use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use libm::log;

/// Passes over all components, with the background fitted anew before each.
const PASSES: usize = 4;
/// Expectation-maximisation rounds after each addition, and at the end of a pass.
const ROUNDS_STEP: usize = 6;
const ROUNDS_PASS: usize = 40;
/// Nats: a device's port that is hurt in one direction only speaks against the device.
const HALF_PORT_MAX: f64 = 5.0;
const HALF_PORT_MIN: f64 = 0.3;

struct Suspect {
    gain: f64,
    component: u32,
    /// Number of named components when the gain was computed.
    as_of: usize,
}

impl PartialEq for Suspect {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Suspect {}
impl PartialOrd for Suspect {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Suspect {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.component.cmp(&self.component))
    }
}

impl Fit<'_> {
    /// Names components until nothing pays.
    pub(crate) fn run(&mut self) {
        if self.problem.hurt.is_empty() {
            return;
        }
        self.refit(ROUNDS_STEP);
        for _ in 0..PASSES {
            let before: Vec<u32> = self.active.iter().map(|a| a.component).collect();
            self.grow();
            self.refit(ROUNDS_PASS);
            self.prune();
            self.exchange();
            let after: Vec<u32> = self.active.iter().map(|a| a.component).collect();
            if before == after {
                break;
            }
        }
    }

    fn is_active(&self, component: u32) -> bool {
        self.active.iter().any(|a| a.component == component)
    }

    /// Adds the best suspect until none pays.
    fn grow(&mut self) {
        let components = self.problem.map.components() as u32;
        let mut heap = BinaryHeap::new();
        for c in 0..components {
            if self.paths_of(c).is_empty() || self.is_active(c) {
                continue;
            }
            let bound = self.bound(c);
            if bound > self.price(c) {
                heap.push(Suspect { gain: bound - self.price(c), component: c, as_of: usize::MAX });
            }
        }
        for class in 0..self.problem.classes.len() {
            if self.classes.share[class] <= 0.0 && !self.classes.hurts_of(class).is_empty() {
                heap.push(Suspect {
                    gain: f64::MAX,
                    component: components + class as u32,
                    as_of: usize::MAX,
                });
            }
        }
        let mut version = 0;
        while let Some(top) = heap.pop() {
            if top.gain <= 0.0 || self.active.len() >= self.params.findings_max {
                break;
            }
            if let Some(class) = top.component.checked_sub(components) {
                let (gain, share) = self.score_class(class as usize);
                let gain = gain - self.params.class_price;
                if gain <= 0.0 {
                    continue;
                }
                if top.as_of == version {
                    self.classes.share[class as usize] = share;
                    self.refit(ROUNDS_STEP);
                    version += 1;
                } else {
                    heap.push(Suspect { gain, component: top.component, as_of: version });
                }
                continue;
            }
            if top.as_of != version {
                let score = self.score(top.component);
                let gain = score.gain - self.price(top.component);
                if gain > 0.0 {
                    heap.push(Suspect { gain, component: top.component, as_of: version });
                }
                continue;
            }
            let s = self.score(top.component);
            self.add(top.component, s);
            self.refit(ROUNDS_STEP);
            version += 1;
        }
    }

    fn add(&mut self, component: u32, s: Score) {
        self.active.push(Active { component, hazard: s.hazard, dead: s.dead });
    }

    /// Drops what no longer pays, the least first. A device is tried with everything else fitted anew, since its
    /// links may take over what it explained.
    fn prune(&mut self) {
        loop {
            let worst = (0..self.active.len())
                .map(|i| (self.loss_without(i) - self.price(self.active[i].component), i))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            match worst {
                Some((pays, i)) if pays <= 0.0 => {
                    self.active.remove(i);
                    self.refit(ROUNDS_STEP);
                }
                _ => break,
            }
        }
        for class in 0..self.problem.classes.len() {
            if self.classes.share[class] > 0.0 && self.class_loss_without(class) <= self.params.class_price {
                self.classes.share[class] = 0.0;
                self.refit(ROUNDS_STEP);
            }
        }
        let links = self.problem.map.links() as u32;
        let mut i = 0;
        while i < self.active.len() {
            if self.active[i].component >= links {
                let mut without = self.clone();
                let gone = without.active.remove(i);
                without.refit(ROUNDS_PASS);
                if self.total() - without.total() <= self.price(gone.component) {
                    *self = without;
                    continue;
                }
            }
            i += 1;
        }
    }

    /// Exchanges a named component for one that explains its losses better.
    fn exchange(&mut self) {
        for i in 0..self.active.len() {
            let (own, rivals) = self.rivals(i);
            if let Some((gain, c, s)) = rivals.first()
                && *gain > own + 1e-6
            {
                self.active[i] = Active { component: *c, hazard: s.hazard, dead: s.dead };
                self.refit(ROUNDS_STEP);
            }
        }
    }

    /// What a named component brings, and what each other component would bring in its place, best first. Both are
    /// net of the price.
    fn rivals(&self, index: usize) -> (f64, Vec<(f64, u32, Score)>) {
        let a = self.active[index];
        let charged = self.charged(&a);
        let all: f64 = charged.iter().map(|c| c.1).sum();
        let map = self.problem.map;
        // Who shares at least half of what is charged to it.
        let mut shares: Vec<(u32, f64)> = Vec::new();
        let mut touched: Vec<u32> = Vec::new();
        for &(h, share) in &charged {
            let hurt = &self.problem.hurt[h as usize];
            touched.clear();
            for p in hurt.first..hurt.first + hurt.count {
                for &l in self.problem.links_of(p as usize) {
                    touched.push(l);
                    touched.extend(map.groups_of(l).iter().map(|&g| map.links() as u32 + g));
                }
            }
            touched.sort_unstable();
            touched.dedup();
            shares.extend(touched.iter().map(|&c| (c, share)));
        }
        shares.sort_by_key(|s| s.0);
        let mut without = self.clone();
        without.active.remove(index);
        without.refresh();
        let own = without.score(a.component).gain - self.price(a.component);
        let mut out = Vec::new();
        let mut at = 0;
        while at < shares.len() {
            let c = shares[at].0;
            let mut sum = 0.0;
            while at < shares.len() && shares[at].0 == c {
                sum += shares[at].1;
                at += 1;
            }
            if c == a.component || self.is_active(c) || sum < 0.5 * all {
                continue;
            }
            let s = without.score(c);
            out.push((s.gain - self.price(c), c, s));
        }
        out.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        (own, out)
    }

    /// The named components as findings, links exchanged for their device where that is shorter.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let map = self.problem.map;
        let mut out: Vec<Finding> = Vec::new();
        for (i, a) in self.active.iter().enumerate() {
            let (own, rivals) = self.rivals(i);
            let (low, high) = self.interval(a);
            let links = match map.group_of(a.component) {
                None => vec![a.component],
                Some(g) => g.links.clone(),
            };
            out.push(Finding {
                component: a.component,
                rate: rate_of(a.hazard),
                rate_low: rate_of(low),
                rate_high: rate_of(high),
                dead_share: a.dead,
                score: self.loss_without(i),
                price: self.price(a.component),
                rivals: rivals.iter().take(Finding::RIVALS).map(|r| (r.1, own - r.0)).collect(),
                links,
                charged: self.charged(a),
            });
        }
        self.name_devices(&mut out);
        out.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.component.cmp(&b.component)));
        out
    }

    /// Cost of naming group `g` in place of these of its links; `None` where they are too few to speak of a device.
    fn device_cost(&self, g: usize, named: &[u32]) -> Option<f64> {
        let map = self.problem.map;
        let group = map.groups().get(g)?;
        if !group.ports || named.len() < 2 {
            return None;
        }
        let component = (map.links() + g) as u32;
        let mut cables: Vec<u32> = group.links.iter().map(|&l| l.min(map.reverse(l))).collect();
        cables.sort_unstable();
        cables.dedup();
        let ports = cables.len() as f64;
        let mut hurt: Vec<u32> = named.iter().map(|&l| l.min(map.reverse(l))).collect();
        hurt.sort_unstable();
        hurt.dedup();
        if hurt.len() < 2 {
            return None;
        }
        let mut cost = self.price_of_name(component) + log(ports) + ln_choose(ports, hurt.len() as f64);
        for &l in named {
            let other = map.reverse(l);
            if named.contains(&other) || other == l {
                continue;
            }
            // How well the other direction is known to be healthy.
            let hazard = self.active.iter().find(|a| a.component == l).map_or(0.0, |a| a.hazard);
            cost += (-self.gain_at(other, 0.5 * hazard)).clamp(HALF_PORT_MIN, HALF_PORT_MAX);
        }
        Some(cost)
    }

    fn name_devices(&self, findings: &mut Vec<Finding>) {
        let map = self.problem.map;
        // A device that is named already takes its links along.
        let named: Vec<u32> = findings.iter().map(|f| f.component).collect();
        for c in named {
            if let Some(g) = map.group_of(c).filter(|_| findings.iter().any(|f| f.component == c)) {
                findings.retain(|f| f.component == c || !g.links.contains(&f.component));
            }
        }
        loop {
            let mut best: Option<(f64, usize, Vec<u32>)> = None;
            for (g, group) in map.groups().iter().enumerate() {
                if !group.ports {
                    continue;
                }
                let named: Vec<u32> =
                    findings.iter().map(|f| f.component).filter(|c| group.links.contains(c)).collect();
                let Some(cost) = self.device_cost(g, &named) else { continue };
                let apart: f64 = self.links_cost(&named);
                if cost < apart && best.as_ref().is_none_or(|b| apart - cost > b.0) {
                    best = Some((apart - cost, g, named));
                }
            }
            let Some((_, g, named)) = best else { break };
            let (parts, rest): (Vec<Finding>, Vec<Finding>) =
                findings.drain(..).partition(|f| named.contains(&f.component));
            *findings = rest;
            findings.push(self.merged((map.links() + g) as u32, parts));
        }
    }

    /// Cost of naming links one by one; both directions of one cable are little more than one.
    fn links_cost(&self, named: &[u32]) -> f64 {
        named
            .iter()
            .map(|&l| {
                let other = self.problem.map.reverse(l);
                if other < l && named.contains(&other) { 1.0 } else { self.price_of_name(l) }
            })
            .sum()
    }

    fn merged(&self, component: u32, parts: Vec<Finding>) -> Finding {
        let n = parts.len().max(1) as f64;
        let mut charged: Vec<(u32, f64)> = parts.iter().flat_map(|f| f.charged.iter().copied()).collect();
        charged.sort_by_key(|c| c.0);
        charged.dedup_by(|b, a| {
            let same = a.0 == b.0;
            if same {
                a.1 = (a.1 + b.1).min(1.0);
            }
            same
        });
        let mean = |f: fn(&Finding) -> f64| parts.iter().map(f).sum::<f64>() / n;
        Finding {
            component,
            rate: mean(|f| f.rate),
            rate_low: mean(|f| f.rate_low),
            rate_high: mean(|f| f.rate_high),
            dead_share: mean(|f| f.dead_share),
            score: parts.iter().map(|f| f.score).sum(),
            price: self.price(component),
            rivals: Vec::new(),
            links: parts.iter().flat_map(|f| f.links.iter().copied()).collect(),
            charged,
        }
    }
}
