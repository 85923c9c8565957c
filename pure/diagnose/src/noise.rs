//! Noise classes: a moment, or a host at a moment, may hurt many observations at once (a full socket, a machine that
//! was not scheduled). Such a class is a suspect like any component, cheaper, and never reported.
//!
//! Cheap, since a stall is far likelier than a broken link; not free, since one class explains one moment only: what
//! lasts is cheaper to explain by the component it happens at.

use crate::fit::Fit;
use alloc::vec;
use alloc::vec::Vec;
use libm::{log, log1p};

/// State of the classes of one fit.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    /// Share of the class's observations that it hurts; 0 while it is not named.
    pub(crate) share: Vec<f64>,
    /// Hurt observations of class `c`: `hurts[first[c]..first[c + 1]]`.
    first: Vec<u32>,
    hurts: Vec<u32>,
}

impl Noise {
    pub(crate) fn new(classes: usize, of: &[[u32; 3]]) -> Self {
        let mut first = vec![0u32; classes + 1];
        let known = |c: &&u32| (**c as usize) < classes;
        for c in of.iter().flatten().filter(known) {
            first[*c as usize + 1] += 1;
        }
        for c in 0..classes {
            first[c + 1] += first[c];
        }
        let mut at = first.clone();
        let mut hurts = vec![0u32; first.last().map_or(0, |&n| n as usize)];
        for (i, list) in of.iter().enumerate() {
            for c in list.iter().filter(known) {
                hurts[at[*c as usize] as usize] = i as u32;
                at[*c as usize] += 1;
            }
        }
        Noise { share: vec![0.0; classes], first, hurts }
    }

    pub(crate) fn hurts_of(&self, class: usize) -> &[u32] {
        let at = |i: usize| self.first.get(i).map_or(0, |&n| n as usize);
        self.hurts.get(at(class)..at(class + 1)).unwrap_or(&[])
    }
}

impl Fit<'_> {
    /// What naming a noise class would bring, and the share of its observations it would hurt.
    pub(crate) fn score_class(&self, class: usize) -> (f64, f64) {
        let hurts = self.classes.hurts_of(class);
        let all = self.problem.classes[class].max(hurts.len() as f64);
        let fine = all - hurts.len() as f64;
        let mut share = (hurts.len() as f64 / all).min(0.9);
        let parts: Vec<(f64, f64, f64)> = hurts
            .iter()
            .map(|&i| {
                let burst = self.burst(i as usize);
                let e = self.noise_of(i as usize);
                let now = self.likelihood[i as usize];
                // What is not a burst shrinks as bursts grow.
                (now, burst, ((now - e * burst) / (1.0 - e)).max(0.0))
            })
            .collect();
        let new = |p: &(f64, f64, f64), share: f64| (p.0 + share * (p.1 - p.2)).max(1e-300);
        for _ in 0..6 {
            let bursts: f64 = parts.iter().map(|p| share * p.1 / new(p, share)).sum();
            share = (bursts / all).clamp(0.0, 0.95);
        }
        let gain: f64 = parts.iter().map(|p| log(new(p, share) / p.0)).sum::<f64>() + fine * log1p(-share);
        (gain, share)
    }

    /// What the likelihood loses when a named noise class goes.
    pub(crate) fn class_loss_without(&mut self, class: usize) -> f64 {
        let share = self.classes.share[class];
        self.classes.share[class] = 0.0;
        let hurts = self.classes.hurts_of(class);
        let all = self.problem.classes[class].max(hurts.len() as f64);
        let mut change = (all - hurts.len() as f64) * log1p(-share);
        for &i in hurts {
            change += log(self.likelihood[i as usize] / self.likelihood_of(i as usize));
        }
        self.classes.share[class] = share;
        change
    }
}
