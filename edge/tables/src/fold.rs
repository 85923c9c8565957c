//! The fold: from the log's rows in memory into the tables.
//!
//! How: every few seconds, or when memory is half full, each table takes the rows of all segments that are durable, in
//! one commit that says up to which segment it reaches; in one step under the lock the rows then leave memory and the
//! new version of the table is the one that is read. Rows that came in files only have these made part of the table. Observations are summed by the minute on their way ([`rollup`]).
//! Between two folds [`Upkeep`] is given its turn.
//! Invariants: a commit is made only on the version whose position was read; rows at or below that position are already
//! there and are dropped; a failed fold is tried again, and said in the meantime; sums of observations are committed
//! before the observations, so that none leaves the log unsummed.

use crate::delta::Delta;
use crate::error::TablesError;
use crate::rollup;
use crate::schema::{PATH_MINUTE, PATH_OBSERVATION};
use crate::tables::Shared;
use crate::upkeep::Upkeep;
use arrow::array::RecordBatch;
use deltalake_core::kernel::Add;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn run(shared: Arc<Shared>, mut deltas: Vec<Delta>) {
    let mut upkeep = Upkeep::new(&shared, &deltas);
    loop {
        let (closing, pause) = {
            let state = shared.lock();
            let half = state.bytes > shared.config.memory_bytes / 2;
            (state.closing, if half { Duration::ZERO } else { shared.config.fold_every })
        };
        if closing {
            upkeep.stop();
        } else if !pause.is_zero() {
            let until = Instant::now() + pause;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    () = shared.wake_fold.notified() => break,
                    outcome = upkeep.ended() => {
                        upkeep.settle(&shared, &mut deltas, outcome).await;
                        upkeep.begin(&shared, &mut deltas).await;
                    }
                }
            }
        }
        let outcome = fold(&shared, &mut deltas).await;
        let failed = outcome.is_err();
        {
            let mut trouble = shared.fold_trouble.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(e) = &outcome
                && trouble.is_none()
            {
                tracing::error!(error = %e, "the tables lag behind the log; trying again every second");
            }
            *trouble = outcome.err();
        }
        shared.folds.send_modify(|f| *f += 1);
        if is_over(&shared, failed) {
            return;
        }
        if !failed && !closing {
            upkeep.begin(&shared, &mut deltas).await;
        }
        if failed || closing {
            tokio::time::sleep(if failed { RETRY } else { Duration::from_millis(10) }).await;
        }
    }
}

/// Whether there will be no further fold.
fn is_over(shared: &Shared, failed: bool) -> bool {
    let mut state = shared.lock();
    let nothing_left = state.waiting.is_empty() && state.recent.iter().all(|r| r.is_empty());
    state.fold_ended = shared.ended() || (state.closing && (nothing_left || failed));
    state.fold_ended
}

async fn fold(shared: &Shared, deltas: &mut [Delta]) -> Result<(), TablesError> {
    let upto = shared.lock().segment;
    for index in 0..deltas.len() {
        table(shared, index, deltas, upto).await?;
    }
    shared.lock().folded = upto;
    Ok(())
}

async fn table(shared: &Shared, index: usize, deltas: &mut [Delta], upto: u64) -> Result<(), TablesError> {
    let mut filed: Vec<(u64, Vec<Add>)> = Vec::new();
    let rows: Vec<(u64, RecordBatch)> = {
        let state = shared.lock();
        let recent = state.recent.get(index).into_iter().flatten().filter(|r| r.segment <= upto);
        let (files, rows): (Vec<_>, Vec<_>) = recent.partition(|r| !r.adds.is_empty());
        filed.extend(files.into_iter().map(|r| (r.segment, r.adds.clone())));
        rows.into_iter().map(|r| (r.segment, r.batch.clone())).collect()
    };
    if rows.is_empty() && filed.is_empty() {
        return Ok(());
    }
    let mut changed = Vec::with_capacity(2);
    if index == PATH_OBSERVATION.index()
        && let Some(sums) = deltas.get_mut(PATH_MINUTE.index())
    {
        let new = missing(sums, &rows).await?;
        if !new.is_empty() {
            sums.append(&shared.store, rollup::minutes(&new)?, Vec::new(), upto).await?;
            changed.push((PATH_MINUTE.index(), sums.shown().await?));
        }
    }
    let Some(delta) = deltas.get_mut(index) else { return Ok(()) };
    let new = missing(delta, &rows).await?;
    let files: Vec<Add> = missing(delta, &filed).await?.into_iter().flatten().collect();
    if !new.is_empty() || !files.is_empty() {
        delta.append(&shared.store, new.into_iter().map(Ok), files, upto).await?;
    }
    changed.push((index, delta.shown().await?));
    let mut state = shared.lock();
    let mut freed = 0;
    if let Some(recent) = state.recent.get_mut(index) {
        while let Some(first) = recent.front().filter(|r| r.segment <= upto) {
            freed += first.bytes;
            recent.pop_front();
        }
    }
    state.bytes = state.bytes.saturating_sub(freed);
    for (index, new) in changed {
        if let Some(slot) = state.shown.get_mut(index) {
            *slot = new;
        }
    }
    Ok(())
}

/// Rows or files of segments that a table does not have yet, as it stands now.
async fn missing<T: Clone>(delta: &mut Delta, rows: &[(u64, T)]) -> Result<Vec<T>, TablesError> {
    delta.refresh().await?;
    let at = delta.position().await?;
    Ok(rows.iter().filter(|(s, _)| at.is_none_or(|at| *s > at)).map(|(_, b)| b.clone()).collect())
}
