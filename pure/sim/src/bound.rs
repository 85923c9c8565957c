//! How soon a fault can be known at all, to compare with how soon it was.
//!
//! A sequential test that raises at most `a` false alarms a day over `m` links weighed once a window needs the
//! evidence `h = ln(m · windows a day / a)`. A packet that crosses a link losing a share `p`, where a healthy one
//! loses `p0`, yields on average `D = p·ln(p/p0) − p + p0` of it (the divergence of two Poisson rates). So no test
//! gets by with fewer than about `h / D` packets over the sick link (Lorden, "Procedures for reacting to a change in
//! distribution", Annals of Mathematical Statistics 42, 1971).

use crate::judge::Judge;
use crate::run::{Config, Run};
use alloc::format;
use fabric::{Scenario, SpecError};
use wire::Nanos;

/// Loss of a healthy link that the bound assumes.
pub const P0: f64 = 1e-5;

/// Evidence one packet over a link that loses a share `p` yields on average, natural units.
pub fn information(p: f64, p0: f64) -> f64 {
    p * libm::log(p / p0) - p + p0
}

/// Evidence asked for over `links` links weighed every `window` at so many false alarms a day.
pub fn threshold(links: u64, window: Nanos, false_alarms_per_day: f64) -> f64 {
    let windows_per_day = 86_400.0 / window.as_secs_f64();
    libm::log(links as f64 * windows_per_day / false_alarms_per_day)
}

/// Packets that must cross the sick link, rounded up to whole ones.
pub fn packets(threshold: f64, p: f64) -> f64 {
    libm::ceil(threshold / information(p, P0))
}

/// The value below which a share `q` of the sorted values lies (nearest rank). `None` of none.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = libm::ceil(q * sorted.len() as f64) as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// One row of the table: a loss rate, and how it is probed. The slower the probing against the window, the finer the
/// measure: a window that holds many times the bound cannot come near it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Share of packets the sick link loses.
    pub p: f64,
    /// Probes a second of each host. In [`Case::scenario`]'s fabric about as many packets cross each link.
    pub packets_per_second: u32,
    /// Length of a window.
    pub window: Nanos,
}

impl Case {
    /// The rows of the table.
    pub const ALL: [Case; 5] = [
        Case { p: 1.0, packets_per_second: 5, window: Nanos::from_millis(100) },
        Case { p: 1e-1, packets_per_second: 5, window: Nanos::from_millis(100) },
        Case { p: 1e-2, packets_per_second: 60, window: Nanos::from_millis(100) },
        Case { p: 1e-3, packets_per_second: 400, window: Nanos::from_millis(500) },
        Case { p: 1e-4, packets_per_second: 1_000, window: Nanos::from_millis(500) },
    ];

    /// Packets the bound asks for in this case's fabric.
    pub fn bound(&self, scenario: &Scenario, false_alarms_per_day: f64) -> f64 {
        let links = scenario.fabric.links().count() as u64;
        packets(threshold(links, self.window, false_alarms_per_day), self.p)
    }

    /// Sixteen hosts in two planes; one random link is sick from the 15th second on.
    pub fn scenario(&self, seed: u64) -> Result<Scenario, SpecError> {
        let text = format!(
            "name = \"bound\"\n[fabric]\nplanes = 2\nleaves = 4\nspines = 4\nhosts = 16\n[probe]\n\
             packets_per_second = {}\nwindow = \"{}ms\"\ntrain = 1\n[[fault]]\ntarget = \"random-link\"\n\
             kind = \"drop {}%\"\nat = \"15s\"\n",
            self.packets_per_second,
            self.window.as_millis(),
            self.p * 100.0
        );
        let mut scenario = Scenario::parse(&text)?.resolve(seed);
        let seconds = 8.0 * self.bound(&scenario, 1.0) / f64::from(self.packets_per_second);
        scenario.duration = Nanos::from_secs(30) + Nanos::from_secs_f64(seconds);
        Ok(scenario)
    }

    /// Runs it until the sick link is named.
    pub fn sample(&self, seed: u64, config: Config) -> Result<Sample, SpecError> {
        let scenario = self.scenario(seed)?;
        let bound = self.bound(&scenario, config.engine.false_alarms_per_day);
        let mut judge = Judge::new(&scenario);
        let mut run = Run::new(scenario, config);
        while !judge.all_found()
            && let Some((now, event)) = run.next_event()
        {
            judge.see(now, &event, |fault| run.crossed(fault));
        }
        let outcome = judge.outcomes().first();
        let found = outcome.and_then(|o| {
            Some(Verdict { packets: o.packets, packets_all: run.crossed_all(0), took: o.took()? })
        });
        Ok(Sample { bound, found, wrong: judge.wrong().len() as u64 })
    }
}

/// When the sick link was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Packets that had crossed it in windows the hub had been told of; see [`Run::crossed`].
    pub packets: u64,
    /// The same with those in windows still open, whose fate nobody knew yet.
    pub packets_all: u64,
    /// Time since the fault began.
    pub took: Nanos,
}

/// One run of a [`Case`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Packets the bound asks for.
    pub bound: f64,
    /// The right verdict, if it came.
    pub found: Option<Verdict>,
    /// Wrong verdicts before it.
    pub wrong: u64,
}

impl Sample {
    /// Packets over bound; infinite where nothing was found.
    pub fn ratio(&self) -> f64 {
        self.found.map_or(f64::INFINITY, |v| v.packets as f64 / self.bound)
    }
    /// The same with the windows still open.
    pub fn ratio_all(&self) -> f64 {
        self.found.map_or(f64::INFINITY, |v| v.packets_all as f64 / self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of the published table: 100,000 links, 1 s windows, one false alarm a day.
    #[test]
    fn known_figures() {
        let h = threshold(100_000, Nanos::from_secs(1), 1.0);
        assert!((h - 22.9).abs() < 0.05, "{h}");
        assert_eq!(packets(h, 1.0), 3.0);
        assert_eq!(packets(h, 1e-2), 388.0);
        assert!((packets(h, 1e-3) - 6_300.0).abs() < 50.0, "{}", packets(h, 1e-3));
        assert!((packets(h, 1e-4) - 163_000.0).abs() < 1_000.0, "{}", packets(h, 1e-4));
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.9), Some(4.0));
        assert_eq!(quantile(&[7.0], 0.0), Some(7.0));
    }
}
