//! From a batch to incidents: the one way taken by a running hub and by a replay.
//!
//! How: the engine's timeouts are run at exactly the moments it asked for, before any input that comes later.
//! Together with inputs stamped with a clock that never runs backwards this makes the verdicts a function of the
//! inputs alone, so a replay reaches the same ones.
//! Invariants: rows of a batch = stored + dropped, each drop with its reason.

use crate::book::Book;
use crate::measured::Measured;
use crate::rows::{is_of_now, is_own_component, is_own_path};
use diagnose::{Engine, Outcome, Verdict};
use fabric::Fabric;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::proto::Batch;
use wire::{Epoch, HostId, Nanos};

/// What became of the rows of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fed {
    pub stored: u64,
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Fed {
    fn drop(&mut self, reason: &'static str, rows: u64) {
        if rows > 0 {
            *self.dropped.entry(reason).or_default() += rows;
        }
    }
    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Accepted => self.stored += 1,
            Outcome::Dropped(reason) => self.drop(reason.as_str(), 1),
        }
    }
}

pub(crate) struct Diagnosis {
    pub engine: Engine,
    pub book: Book,
    pub measured: Measured,
    /// The largest `now` so far.
    pub now: Nanos,
}

impl Diagnosis {
    pub(crate) fn new(fabric: Arc<Fabric>, config: diagnose::Config, book: Book, known: &[Verdict]) -> Self {
        let mut engine = Engine::new(fabric, config);
        engine.restore(known);
        Diagnosis { engine, book, measured: Measured::default(), now: Nanos::ZERO }
    }

    /// Runs every timeout up to `now`.
    pub(crate) fn advance(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        while let Some(due) = self.engine.next_timeout().filter(|&t| t <= self.now) {
            self.engine.handle_timeout(due);
            self.settle(due);
            if self.engine.next_timeout().is_some_and(|next| next <= due) {
                break;
            }
        }
    }

    /// Takes the engine's events into the book.
    fn settle(&mut self, now: Nanos) {
        let mut any = false;
        while let Some(event) = self.engine.poll_event() {
            any = true;
            self.book.take(now, &event);
        }
        if any {
            self.book.settle();
        }
    }

    /// Takes one batch of a host.
    pub(crate) fn feed(&mut self, now: Nanos, producer: HostId, batch: &Batch) -> Fed {
        self.advance(now);
        let now = self.now;
        let mut fed = Fed::default();
        let epoch = Epoch(batch.fabric_epoch);
        if let Some(columns) = &batch.paths {
            match wire::batch::paths(columns, producer, epoch) {
                Err(_) => fed.drop("unequal_columns", columns.window_start_ns.len() as u64),
                Ok(rows) => {
                    for row in rows {
                        match row {
                            Err(_) => fed.drop("bad_row", 1),
                            Ok(o)
                                if epoch == self.engine.fabric().epoch
                                    && !is_own_path(self.engine.fabric(), producer, &o) =>
                            {
                                fed.drop("not_its_path", 1);
                            }
                            Ok(o) if !is_of_now(now, &o.window) => fed.drop("wrong_time", 1),
                            Ok(o) => {
                                let outcome = self.engine.handle_path(now, &o);
                                if outcome == Outcome::Accepted {
                                    self.measured.add(now, &o);
                                }
                                fed.take(outcome);
                            }
                        }
                    }
                }
            }
        }
        if let Some(columns) = &batch.components {
            match wire::batch::components(columns, producer, epoch) {
                Err(_) => fed.drop("unequal_columns", columns.window_start_ns.len() as u64),
                Ok(rows) => {
                    for row in rows {
                        match row {
                            Err(_) => fed.drop("bad_row", 1),
                            Ok(o) if !is_own_component(self.engine.fabric(), producer, &o) => {
                                fed.drop("not_its_component", 1)
                            }
                            Ok(o) if !is_of_now(now, &o.window) => fed.drop("wrong_time", 1),
                            Ok(o) => fed.take(self.engine.handle_component(now, &o)),
                        }
                    }
                }
            }
        }
        self.settle(now);
        fed
    }
}
