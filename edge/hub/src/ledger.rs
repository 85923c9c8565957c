//! What was lost, where and why, on its way into the tables' ledger.
//!
//! How: whoever counts a loss adds it here; once a second the desk writes what came together as rows.
//! Invariants: at most one entry a host, stage and reason waits, so it is bounded; what could not be written waits on.
//! Absent on purpose: what a batch itself loses at ingest and in its agent's buffer, which is written with the batch,
//! so that both are durable together.

use crate::rows::{self, Loss};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tables::{Rows, Tables};
use wire::{HostId, Nanos};

/// Whose losses are no host's: those of receivers.
pub(crate) const NOBODY: HostId = HostId(u32::MAX);

type Entries = BTreeMap<(HostId, &'static str, &'static str), u64>;

#[derive(Clone, Default)]
pub(crate) struct Ledger {
    entries: Arc<Mutex<Entries>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, producer: HostId, stage: &'static str, reason: &'static str, rows: u64) {
        if rows > 0 {
            *self.lock().entry((producer, stage, reason)).or_default() += rows;
        }
    }

    /// Hands what waits to the tables.
    pub(crate) fn write(&self, now: Nanos, tables: &Tables) {
        let entries = std::mem::take(&mut *self.lock());
        if entries.is_empty() {
            return;
        }
        let losses: Vec<Loss> = entries
            .iter()
            .map(|(&(producer, stage, reason), &rows)| Loss {
                at: now,
                producer,
                producer_epoch: 0,
                stage,
                reason: reason.to_owned(),
                rows,
            })
            .collect();
        if tables.append(Rows { producer: None, parts: vec![rows::losses(&losses)] }).is_err() {
            for ((producer, stage, reason), rows) in entries {
                self.add(producer, stage, reason, rows);
            }
        }
    }
}
