//! The write-ahead log: who may write it, reading it after a start, and the thread that does.
//!
//! How: segments are numbered without a gap, and each is created only if no object of that number is there. So the log
//! is its own lease: a hub takes over by writing the next number, and the one before finds its own next number taken,
//! whatever it did meanwhile; nothing it was told to keep after that is acknowledged by it. A second hub waits until
//! the holder has died (a directory's lock is free), has said that it stops, or has given no sign of life.
//! Invariants: one segment is on its way at a time; a ticket is done only after its segment is synced; a segment is
//! removed only when the tables have its rows and a newer one has all marks.

use crate::error::TablesError;
use crate::schema::TABLES;
use crate::segment::{Marks, Say, Segment};
use crate::store::{Created, Store};
use crate::tables::{Config, Filed, Progress, Recent, Shared, Waiting, weight};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use object_store::path::Path as Key;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PREFIX: &str = "log";
/// A sign of life at least so often.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How often one that waits looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);
/// A segment is not held back for others once it is this large.
const SEGMENT_BYTES: usize = 8 << 20;

fn key(number: u64) -> Key {
    Key::from(format!("{PREFIX}/{number:020}"))
}

fn number(key: &Key) -> Option<u64> {
    key.filename()?.parse().ok()
}

async fn numbers(store: &Store) -> Result<Vec<u64>, TablesError> {
    Ok(store.list(PREFIX).await?.iter().filter_map(number).collect())
}

/// What was in the log when it was taken over.
pub(crate) struct Found {
    pub epoch: u64,
    pub segment: u64,
    pub marks: Marks,
    pub rows: Vec<(u64, String, RecordBatch)>,
    pub files: Vec<(u64, String, String)>,
}

async fn read(store: &Store, number: u64) -> Result<Segment, TablesError> {
    let bytes = store.read(&key(number)).await?;
    let damaged = |reason: String| TablesError::Damaged { segment: number, reason };
    let segment = Segment::decode(&bytes).map_err(damaged)?;
    if segment.number == number {
        Ok(segment)
    } else {
        Err(damaged(format!("it says it is number {}", segment.number)))
    }
}

/// Waits for the right to write, takes it, and reads what is there.
pub(crate) async fn claim(
    store: &mut Store,
    config: &Config,
    keep_waiting: &mut impl FnMut() -> bool,
) -> Result<Option<Found>, TablesError> {
    let mut seen = (0, Instant::now());
    let mut first = None;
    let mut told = false;
    loop {
        let locked = store.lock()?;
        let newest = numbers(store).await?.last().copied().unwrap_or(0);
        if newest != seen.0 {
            seen = (newest, Instant::now());
        }
        let free = locked || newest == 0 || seen.1.elapsed() >= config.takeover_after || {
            matches!(read(store, newest).await, Ok(Segment { say: Say::Release, .. }))
        };
        if free && let Some(found) = take_over(store, config).await? {
            return Ok(Some(found));
        }
        if !told {
            told = true;
            tracing::info!(segment = newest, "another hub writes these tables; waiting to take over");
        }
        // A bucket has no lock that tells at once whether the last holder is dead.
        let may_be_dead = store.directory().is_none() && *first.get_or_insert(newest) == newest;
        if !keep_waiting() && !may_be_dead {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads the log and writes a claim behind it. `None` where somebody else was faster.
async fn take_over(store: &Store, config: &Config) -> Result<Option<Found>, TablesError> {
    let all = numbers(store).await?;
    let mut found = Found { epoch: 0, segment: 0, marks: Marks::new(), rows: Vec::new(), files: Vec::new() };
    for (i, &n) in all.iter().enumerate() {
        if i > 0 && n != found.segment + 1 {
            return Err(TablesError::Damaged {
                segment: found.segment + 1,
                reason: format!("it is not there, but number {n} is"),
            });
        }
        let segment = match read(store, n).await {
            Ok(segment) => segment,
            // The last one may be half written by a machine that lost power; nobody was told that it was kept.
            Err(TablesError::Damaged { reason, .. }) if i + 1 == all.len() => {
                tracing::warn!(
                    segment = n,
                    reason,
                    "the last segment of the log was never finished; removing it"
                );
                store.remove(&key(n)).await?;
                break;
            }
            Err(e) => return Err(e),
        };
        found.segment = n;
        found.epoch = segment.epoch;
        if segment.whole {
            found.marks = segment.marks;
        } else {
            found.marks.extend(segment.marks);
        }
        found.rows.extend(segment.rows.into_iter().map(|(table, batch)| (n, table, batch)));
        found.files.extend(segment.files.into_iter().map(|(table, add)| (n, table, add)));
    }
    found.segment += 1;
    found.epoch += 1;
    let claim = Segment {
        number: found.segment,
        epoch: found.epoch,
        say: Say::Claim,
        whole: true,
        marks: found.marks.clone(),
        ..Segment::default()
    };
    let damaged = |reason| TablesError::Damaged { segment: found.segment, reason };
    let bytes = claim.encode().map_err(damaged)?;
    match store.create(&key(found.segment), bytes).await? {
        Created::Ours => {
            tracing::info!(epoch = found.epoch, holder = config.holder, "these tables are ours to write");
            Ok(Some(found))
        }
        Created::Theirs => Ok(None),
    }
}

/// The thread that writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    epoch: u64,
    /// Oldest segment that may still be on the store.
    oldest: u64,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, epoch: u64) -> Self {
        Writer { shared, epoch, oldest: 0 }
    }

    pub(crate) fn run(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = match runtime {
            Ok(runtime) => runtime.block_on(self.write()),
            Err(e) => Err(TablesError::Store { what: "thread".to_owned(), reason: e.to_string() }),
        };
        if let Err(e) = &outcome {
            tracing::error!(error = %e, "the log has ended");
        }
        self.shared.progress.send_modify(|p| {
            p.ended = true;
            p.trouble = outcome.err();
        });
        self.shared.wake_fold.notify_one();
    }

    async fn write(&mut self) -> Result<(), TablesError> {
        let every = self.shared.config.log_every;
        let mut begun: Option<Instant> = None;
        self.oldest = numbers(&self.shared.store).await?.first().copied().unwrap_or(0);
        loop {
            let shared = Arc::clone(&self.shared);
            let (empty, closing, over, bytes) = {
                let state = shared.lock();
                let (empty, closing) = (state.waiting.is_empty(), state.closing);
                // The fold of a closing hub ends first, so the last segment is the one that gives the log up.
                (empty, closing, closing && empty && state.fold_ended, state.waiting.bytes)
            };
            let since = begun.map_or(ALIVE_EVERY, |b| b.elapsed());
            if empty && !closing && since < ALIVE_EVERY {
                let _ = tokio::time::timeout(ALIVE_EVERY - since, shared.wake_log.notified()).await;
                continue;
            }
            if !closing && since < every && bytes < SEGMENT_BYTES {
                tokio::time::sleep(every - since).await;
            }
            begun = Some(Instant::now());
            if closing && empty && !over {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            self.one(if over { Say::Release } else { Say::Alive }).await?;
            if over {
                return Ok(());
            }
        }
    }

    /// Writes what waits as one segment, and says so.
    async fn one(&mut self, say: Say) -> Result<(), TablesError> {
        let shared = Arc::clone(&self.shared);
        let (waiting, filed, folded, number, whole) = {
            let mut state = shared.lock();
            let fresh = Waiting { rows: vec![Vec::new(); TABLES.len()], ..Waiting::default() };
            let mut waiting = std::mem::replace(&mut state.waiting, fresh);
            let filed = std::mem::take(&mut waiting.filed);
            let whole = (state.folded >= self.oldest).then(|| state.marks.clone());
            (waiting, filed, state.folded, state.segment + 1, whole)
        };
        let mut segment =
            Segment { number, epoch: self.epoch, say, marks: waiting.marks.clone(), ..Segment::default() };
        if let Some(mut all) = whole {
            all.extend(std::mem::take(&mut segment.marks));
            segment.marks = all;
            segment.whole = true;
        }
        for (table, batches) in TABLES.iter().zip(&waiting.rows) {
            if !batches.is_empty() {
                let one = concat_batches(&table.schema(), batches)
                    .map_err(|e| TablesError::Rows { table: table.name.to_owned(), reason: e.to_string() })?;
                segment.rows.push((table.name.to_owned(), one));
            }
        }
        let damaged = |reason| TablesError::Damaged { segment: number, reason };
        for f in &filed {
            for add in &f.adds {
                let add = serde_json::to_string(add).map_err(|e| damaged(e.to_string()))?;
                segment.files.push((f.table.name.to_owned(), add));
            }
        }
        let bytes = segment.encode().map_err(damaged)?;
        loop {
            match shared.store.create(&key(number), bytes.clone()).await {
                Ok(Created::Ours) => break,
                Ok(Created::Theirs) => return Err(TablesError::Fenced { segment: number }),
                Err(e) => {
                    if shared.progress.borrow().trouble.is_none() {
                        tracing::error!(error = %e, "nothing can be written; trying again every second");
                    }
                    shared.progress.send_modify(|p| p.trouble = Some(e.clone()));
                    if shared.lock().closing {
                        return Err(e);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        {
            let mut state = shared.lock();
            state.segment = number;
            // What the rows weigh joined is what is held from now on.
            let mut bytes = state.bytes.saturating_sub(waiting.bytes);
            for (name, batch) in std::mem::take(&mut segment.rows) {
                let Some(index) = TABLES.iter().position(|t| t.name == name) else { continue };
                let size = weight(&batch);
                bytes += size;
                if let Some(recent) = state.recent.get_mut(index) {
                    recent.push_back(Recent { segment: number, batch, bytes: size, adds: Vec::new() });
                }
            }
            for Filed { table, batch, adds } in filed {
                let size = weight(&batch);
                bytes += size;
                if let Some(recent) = state.recent.get_mut(table.index()) {
                    recent.push_back(Recent { segment: number, batch, bytes: size, adds });
                }
            }
            state.bytes = bytes;
            state.marks.extend(waiting.marks);
        }
        let durable = waiting.ticket;
        shared.progress.send_modify(|p: &mut Progress| {
            p.durable = p.durable.max(durable);
            if p.trouble.take().is_some() {
                tracing::info!("writing again");
            }
        });
        // A backup that is being taken needs what is there.
        if segment.whole && !shared.store.is_held() {
            for old in self.oldest..=folded.min(number.saturating_sub(1)) {
                // One that stays is only in the way; its turn comes again with the next fold.
                if let Err(e) = shared.store.remove(&key(old)).await {
                    tracing::warn!(error = %e, segment = old, "a segment that is not needed any more stays");
                    break;
                }
                self.oldest = old + 1;
            }
        }
        Ok(())
    }
}
