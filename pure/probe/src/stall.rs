//! Hosts that were slow, by window: the sender itself, and those that held its probes.
//!
//! Invariants: at most [`OPEN_MAX`] entries are open; an entry is handed out once, when its window is over.

use crate::collect::median;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::{Component, ComponentObservation, Counter, Epoch, HostId, Nanos, Window};

/// Entries open at once: some windows of all hosts a sender talks to.
const OPEN_MAX: usize = 8_192;
/// Lengths of stalls kept one by one for their median.
const SIZES_MAX: usize = 32;

#[derive(Clone, Debug, Default)]
struct Tally {
    delta: u64,
    of: u64,
    sizes: Vec<i64>,
}

/// Tallies by window, host and counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stalls {
    open: BTreeMap<(u64, HostId, Counter), Tally>,
}

impl Stalls {
    /// Something that could have stalled, and how long it did if it did. Whether it was counted.
    pub(crate) fn add(&mut self, window: u64, host: HostId, counter: Counter, size: Option<Nanos>) -> bool {
        let key = (window, host, counter);
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&key) {
            return false;
        }
        let tally = self.open.entry(key).or_default();
        tally.of += 1;
        if let Some(size) = size {
            tally.delta += 1;
            if tally.sizes.len() < SIZES_MAX {
                tally.sizes.push(i64::try_from(size.0).unwrap_or(i64::MAX));
            }
        }
        true
    }

    /// The next entry of a window before `current` in which anything stalled.
    pub(crate) fn complete(
        &mut self,
        current: u64,
        length: Nanos,
        producer: HostId,
        epoch: Epoch,
    ) -> Option<ComponentObservation> {
        loop {
            let entry = self.open.first_entry().filter(|e| e.key().0 < current)?;
            let ((index, host, counter), mut tally) = entry.remove_entry();
            if tally.delta > 0 {
                return Some(ComponentObservation {
                    window: Window { start: Nanos(index.saturating_mul(length.0)), length },
                    producer,
                    epoch,
                    component: Component::Host(host),
                    counter,
                    delta: tally.delta,
                    of: tally.of,
                    size_ns: median(&mut tally.sizes).max(0) as u64,
                });
            }
        }
    }
}
