//! Was the right thing found? Compares the verdicts of a run with what its scenario expects.
//!
//! How: a verdict is right for a fault where its component, or one the evidence cannot tell from it, is among the
//! fault's answers. One that names a part of what suffers (a link of a sick switch) is neither right nor wrong. Any
//! other is wrong.
//!
//! Invariants: a run is right exactly when every fault was found in time under a right name and kind, and nothing
//! wrong was ever said. Absent on purpose: mercy for a wrong verdict that was later taken back.

use crate::bound;
use crate::run::{Config, Ledger, Run};
use alloc::vec::Vec;
use diagnose::{Event, Verdict};
use fabric::{Expected, FaultKind, Scenario};
use wire::{Component, LinkId, Nanos};

/// A verdict in the light of what was expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// When it was first said under this name.
    pub at: Nanos,
    /// The verdict as it was last said.
    pub verdict: Verdict,
}

/// What became of one fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What was expected.
    pub expected: Expected,
    /// When the fault began.
    pub began: Nanos,
    /// The first right verdict, where one came.
    pub found: Option<Found>,
    /// Packets that had crossed what suffers by then and were reported to the hub; see
    /// [`crate::run::Run::crossed`].
    pub packets: u64,
    /// Whether the verdict's kind was right at some time.
    pub kind_right: bool,
}

impl Outcome {
    /// From the fault's beginning to its verdict.
    pub fn took(&self) -> Option<Nanos> {
        self.found.as_ref().map(|f| f.at.since(self.began))
    }
    /// Whether the right component was named in time, with the right kind.
    pub fn right(&self) -> bool {
        self.kind_right && self.took().is_some_and(|t| t <= self.expected.within)
    }
}

/// Sees verdicts as they come.
#[derive(Clone, Debug)]
pub struct Judge {
    outcomes: Vec<Outcome>,
    suffering: Vec<Vec<LinkId>>,
    wrong: Vec<Found>,
}

impl Judge {
    /// For a scenario whose random choices are made.
    pub fn new(scenario: &Scenario) -> Self {
        let expected = scenario.expected();
        let fault = |e: &Expected| scenario.faults.get(e.fault);
        let suffering =
            expected.iter().map(|e| fault(e).map_or(Vec::new(), |f| f.links(&scenario.fabric))).collect();
        let outcomes = expected
            .into_iter()
            .map(|expected| Outcome {
                began: scenario.faults.get(expected.fault).map_or(Nanos::ZERO, |f| f.at),
                expected,
                found: None,
                packets: 0,
                kind_right: false,
            })
            .collect();
        Judge { outcomes, suffering, wrong: Vec::new() }
    }

    /// Takes one event; `crossed` says how many packets crossed what suffers from a fault until now.
    pub fn see(&mut self, now: Nanos, event: &Event, crossed: impl Fn(usize) -> u64) {
        let v = event.verdict();
        let named = |e: &Expected| {
            core::iter::once(&v.component).chain(&v.alternatives).any(|c| e.components.contains(c))
        };
        if let Some(o) = self.outcomes.iter_mut().find(|o| o.began <= now && named(&o.expected)) {
            match &mut o.found {
                Some(found) if found.verdict.id == v.id => found.verdict = v.clone(),
                // a second verdict of the same fault adds nothing
                Some(_) => {}
                None => {
                    o.packets = crossed(o.expected.fault);
                    o.found = Some(Found { at: now, verdict: v.clone() });
                }
            }
            o.kind_right |= o.expected.kinds.contains(&v.kind.as_str());
            return;
        }
        let part = |links: &[LinkId]| match v.component {
            Component::Link(l) => links.contains(&l),
            _ => !v.links.is_empty() && v.links.iter().all(|l| links.contains(l)),
        };
        let mut faults = self.outcomes.iter().zip(&self.suffering);
        if faults.any(|(o, links)| o.began <= now && part(links)) {
            return;
        }
        match self.wrong.iter_mut().find(|f| f.verdict.id == v.id) {
            Some(f) => f.verdict = v.clone(),
            None => self.wrong.push(Found { at: now, verdict: v.clone() }),
        }
    }

    /// Whether every fault has been found, or there are none.
    pub fn all_found(&self) -> bool {
        self.outcomes.iter().all(|o| o.found.is_some())
    }
    /// One for every fault that must be found.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }
    /// Verdicts that are right for no fault.
    pub fn wrong(&self) -> &[Found] {
        &self.wrong
    }
    /// Whether everything was found in time and nothing else was said.
    pub fn right(&self) -> bool {
        self.wrong.is_empty() && self.outcomes.iter().all(Outcome::right)
    }
}

/// A whole run, judged.
#[derive(Clone, Debug)]
pub struct Report {
    /// The scenario with its random choices made.
    pub scenario: Scenario,
    /// What was found.
    pub judge: Judge,
    /// Where every packet went.
    pub ledger: Ledger,
    /// A hash of everything that happened.
    pub trace: u64,
    /// Events of the loop.
    pub events: u64,
    /// Observations the engine took.
    pub observations: u64,
}

impl Report {
    /// Runs a scenario to its end.
    pub fn of(scenario: &Scenario, seed: u64, config: Config) -> Report {
        let scenario = scenario.resolve(seed);
        let mut judge = Judge::new(&scenario);
        let mut run = Run::new(scenario, config);
        while let Some((now, event)) = run.next_event() {
            judge.see(now, &event, |fault| run.crossed(fault));
        }
        Report {
            scenario: run.scenario().clone(),
            judge,
            ledger: run.ledger(),
            trace: run.trace(),
            events: run.events(),
            observations: run.observations(),
        }
    }

    /// Packets over bound for a fault that loses packets at a rate on one link: how many crossed until the verdict
    /// against how many a test needs. `None` for other faults, and where nothing was found.
    pub fn ratio(&self, outcome: &Outcome, false_alarms_per_day: f64) -> Option<f64> {
        let fault = self.scenario.faults.get(outcome.expected.fault)?;
        let p = match fault.kind {
            FaultKind::Drop { rate } | FaultKind::Corrupt { rate } => rate,
            FaultKind::Down => 1.0,
            _ => return None,
        };
        let links = self.scenario.fabric.links().count() as u64;
        let h = bound::threshold(links, self.scenario.probe.window, false_alarms_per_day);
        outcome.found.as_ref().map(|_| outcome.packets as f64 / bound::packets(h, p))
    }
}
