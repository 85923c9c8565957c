//! The facade: open, append, wait, ask, close.
//!
//! How: [`Shared`] is one lock over what waits to be written, what is in the log but not in the tables yet (`recent`),
//! and the tables as they stand; the log's thread moves rows from the first to the second, the fold from the second to
//! the third, each in one step under the lock, so that a question never sees a row twice or not at all.

use crate::delta::{Delta, Shown, Size};
use crate::error::TablesError;
use crate::fold;
use crate::log;
use crate::query::{self, Answer, Limits, Sight};
use crate::schema::{DAY, PATH_MINUTE, TABLES, Table};
use crate::segment::{Mark, Marks};
use crate::store::{Environment, Place, Store};
use crate::upkeep::{self, Asked, Upkept};
use arrow::array::{Array, ArrayRef, Date32Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use deltalake_core::kernel::Add;
use fabric::Fabric;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, oneshot, watch};

/// Microseconds of a day.
pub(crate) const DAY_US: i64 = 86_400_000_000;

const BLOCKING_THREADS: usize = 16;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where they are kept. A directory is made if it is not there.
    pub place: Place,
    /// How a bucket is reached.
    pub environment: Environment,
    /// Who writes: for people who look into the log.
    pub holder: String,
    /// The fabric names and paths are computed from.
    pub fabric: Arc<Fabric>,
    /// Most bytes of rows held in memory, queued and not yet in the tables, default 512 MiB.
    pub memory_bytes: usize,
    /// Rows are folded into the tables at least so often, default 15 s.
    pub fold_every: Duration,
    /// Segments of the log are begun no faster than this, so that what comes together is written together, default
    /// 50 ms, and half a second in a bucket, where each is paid for. An acknowledgement may wait so long.
    pub log_every: Duration,
    /// A log without a sign of life for so long may be taken over, default 6 s, and 4 s in a bucket.
    pub takeover_after: Duration,
    /// Most bytes all questions together may use, default 1 GiB.
    pub query_bytes: usize,
    /// Days the rows of a table are kept, by its name, where that is not the table's own
    /// ([`Table::keep_days`]); `None`: for ever.
    pub keep_days: BTreeMap<String, Option<u32>>,
    /// Small files are merged into such of about this size, default 128 MiB.
    pub file_bytes: u64,
    /// Most memory a merge may sort in, default 256 MiB; what does not fit waits in the directory.
    pub merge_bytes: usize,
}

impl Config {
    /// Defaults, at a place.
    pub fn new(fabric: Arc<Fabric>, place: impl Into<Place>) -> Self {
        let place = place.into();
        let log_every = Duration::from_millis(if place.directory().is_some() { 50 } else { 500 });
        // Who watches a bucket sees no lock come free, so it must be quicker to judge.
        let takeover_after = Duration::from_secs(if place.directory().is_some() { 6 } else { 4 });
        Config {
            place,
            environment: Environment::default(),
            holder: format!("process {}", std::process::id()),
            fabric,
            memory_bytes: 512 << 20,
            fold_every: Duration::from_secs(15),
            log_every,
            takeover_after,
            query_bytes: 1 << 30,
            keep_days: BTreeMap::new(),
            file_bytes: 128 << 20,
            merge_bytes: 256 << 20,
        }
    }
}

/// Rows that become durable together.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Whose they are, where they must be taken once.
    pub producer: Option<(u32, Mark)>,
    /// Tables and their rows, in the table's [`Table::row_schema`].
    pub parts: Vec<(&'static Table, RecordBatch)>,
}

/// Rows that stand in a file of their table already: see [`Tables::file`].
#[derive(Debug)]
pub struct Filed {
    pub(crate) table: &'static Table,
    pub(crate) batch: RecordBatch,
    pub(crate) adds: Vec<Add>,
}

/// Rows handed over. Done when they are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// Rows of one table in the log.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub segment: u64,
    pub batch: RecordBatch,
    pub bytes: usize,
    /// Files of the table that hold these rows and are not part of it yet; none: the fold writes them.
    pub adds: Vec<Add>,
}

#[derive(Default)]
pub(crate) struct Waiting {
    pub marks: Marks,
    /// By index of the table.
    pub rows: Vec<Vec<RecordBatch>>,
    pub filed: Vec<Filed>,
    pub bytes: usize,
    pub ticket: u64,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.filed.is_empty() && self.rows.iter().all(Vec::is_empty)
    }
}

pub(crate) struct State {
    pub waiting: Waiting,
    pub tickets: u64,
    /// By index of the table, oldest first.
    pub recent: Vec<VecDeque<Recent>>,
    /// Bytes of rows held: waiting, being written, recent.
    pub bytes: usize,
    /// By index of the table.
    pub shown: Vec<Shown>,
    /// Durable, by producer.
    pub marks: Marks,
    /// The newest segment that is durable.
    pub segment: u64,
    /// Segments up to this one are in the tables; the log may forget them once the marks stand in a newer one.
    pub folded: u64,
    pub closing: bool,
    /// The fold has ended: what is in memory now stays in the log.
    pub fold_ended: bool,
}

/// How far the log is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub durable: u64,
    /// Why nothing is written at the moment.
    pub trouble: Option<TablesError>,
    /// It will never write again.
    pub ended: bool,
}

pub(crate) struct Shared {
    pub config: Config,
    pub store: Store,
    pub state: Mutex<State>,
    pub progress: watch::Sender<Progress>,
    /// Why the tables lag behind the log, where they do.
    pub fold_trouble: Mutex<Option<TablesError>>,
    pub wake_log: Notify,
    pub wake_fold: Notify,
    /// Folds done, for whoever waits for one.
    pub folds: watch::Sender<u64>,
    /// By index of the table.
    pub keep_days: Vec<Option<u32>>,
    pub upkept: Mutex<Upkept>,
    /// Who waits for upkeep to be done.
    pub asked: Mutex<Vec<Asked>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ended(&self) -> bool {
        self.progress.borrow().ended
    }
}

/// Everything the hub remembers.
pub struct Tables {
    shared: Arc<Shared>,
    /// Where folds and questions run, beside the hub's own work.
    handle: Handle,
    running: Mutex<Option<Running>>,
    base: query::Base,
    /// By index of the table, as they stood at the start: for writing files.
    deltas: Vec<Delta>,
}

/// What is ended by [`Tables::close`].
struct Running {
    runtime: Runtime,
    log: std::thread::JoinHandle<()>,
    fold: tokio::task::JoinHandle<()>,
}

fn runtime(threads: usize) -> Result<Runtime, TablesError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("tables")
        // Reads and writes of files wait here, each with a file's worth of memory.
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|e| TablesError::Store { what: "threads".to_owned(), reason: e.to_string() })
}

impl Tables {
    /// Opens the tables in a directory and takes over its log. Waits, for as long as `keep_waiting` says so, while
    /// another hub writes it. `None` where it was told to stop waiting.
    pub fn open(
        config: Config,
        mut keep_waiting: impl FnMut() -> bool,
    ) -> Result<Option<Tables>, TablesError> {
        let keep_days = upkeep::keep_days(&config)?;
        // Two at least: a merge may think for a second before it lets another task run.
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
        let runtime = runtime(threads)?;
        let mut store = Store::open(&config.place, &config.environment)?;
        let Some(found) = runtime.block_on(log::claim(&mut store, &config, &mut keep_waiting))? else {
            return Ok(None);
        };
        let mut deltas = Vec::with_capacity(TABLES.len());
        let mut shown = Vec::with_capacity(TABLES.len());
        let mut recent = Vec::with_capacity(TABLES.len());
        let mut bytes = 0;
        for about in TABLES {
            let delta = runtime.block_on(Delta::open(&store, about))?;
            let at = runtime.block_on(delta.position())?;
            if let Some(at) = at.filter(|&at| at >= found.segment) {
                // Rows of segments up to there would be taken for old ones, and lost.
                let reason = format!("table {} has its rows, and the log ends before it", about.name);
                return Err(TablesError::Damaged { segment: at, reason });
            }
            let mut rows = VecDeque::new();
            for (segment, batch) in
                found.rows.iter().filter(|(_, t, _)| *t == about.name).map(|(s, _, b)| (*s, b))
            {
                if at.is_none_or(|at| segment > at) {
                    let batch = whole(about, batch.clone())?;
                    let size = weight(&batch);
                    bytes += size;
                    rows.push_back(Recent { segment, batch, bytes: size, adds: Vec::new() });
                }
            }
            for (segment, add) in
                found.files.iter().filter(|(_, t, _)| *t == about.name).map(|(s, _, a)| (*s, a))
            {
                if at.is_none_or(|at| segment > at) {
                    let damaged = |reason| TablesError::Damaged { segment, reason };
                    let add: Add = serde_json::from_str(add).map_err(|e| damaged(e.to_string()))?;
                    let batch = whole(about, runtime.block_on(delta.read(&store, &add))?)?;
                    let size = weight(&batch);
                    bytes += size;
                    rows.push_back(Recent { segment, batch, bytes: size, adds: vec![add] });
                }
            }
            rows.make_contiguous().sort_by_key(|r| r.segment);
            shown.push(runtime.block_on(delta.shown())?);
            deltas.push(delta);
            recent.push(rows);
        }
        let base = query::Base::new(&config)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                waiting: Waiting { rows: vec![Vec::new(); TABLES.len()], ..Waiting::default() },
                tickets: 0,
                recent,
                bytes,
                shown,
                marks: found.marks,
                segment: found.segment,
                folded: 0,
                closing: false,
                fold_ended: false,
            }),
            config,
            store,
            progress: watch::Sender::default(),
            fold_trouble: Mutex::default(),
            wake_log: Notify::new(),
            wake_fold: Notify::new(),
            folds: watch::Sender::new(0),
            keep_days,
            upkept: Mutex::default(),
            asked: Mutex::default(),
        });
        let writer = log::Writer::new(Arc::clone(&shared), found.epoch);
        let log = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        let log = log.map_err(|e| TablesError::Store { what: "thread".to_owned(), reason: e.to_string() })?;
        let fold = runtime.spawn(fold::run(Arc::clone(&shared), deltas.clone()));
        let handle = runtime.handle().clone();
        Ok(Some(Tables {
            shared,
            handle,
            running: Mutex::new(Some(Running { runtime, log, fold })),
            base,
            deltas,
        }))
    }

    /// How far each producer had come when the tables were opened, and has since.
    pub fn marks(&self) -> Marks {
        self.shared.lock().marks.clone()
    }

    /// Hands over rows. Never blocks; refused where there is no room, or they are not the tables'.
    pub fn append(&self, rows: Rows) -> Result<Ticket, TablesError> {
        let mut parts = Vec::with_capacity(rows.parts.len());
        let mut bytes = 0;
        for (table, batch) in rows.parts {
            if batch.num_rows() > 0 {
                if table.name == PATH_MINUTE.name {
                    return Err(TablesError::Rows {
                        table: table.name.to_owned(),
                        reason: "they are made from path_observation, hand over those".to_owned(),
                    });
                }
                let batch = whole(table, batch)?;
                bytes += weight(&batch);
                parts.push((table.index(), batch));
            }
        }
        self.wait_in_line(bytes, |waiting| {
            if let Some((producer, mark)) = rows.producer {
                waiting.marks.insert(producer, mark);
            }
            for (table, batch) in parts {
                if let Some(rows) = waiting.rows.get_mut(table) {
                    rows.push(batch);
                }
            }
        })
    }

    /// Whether so many bytes more can be held.
    fn room<'a>(
        &self,
        state: MutexGuard<'a, State>,
        bytes: usize,
    ) -> Result<MutexGuard<'a, State>, TablesError> {
        if state.closing || self.shared.ended() {
            return Err(TablesError::Closed);
        }
        let limit = self.shared.config.memory_bytes;
        if state.bytes + bytes > limit {
            let waiting = state.bytes;
            drop(state);
            self.shared.wake_fold.notify_one();
            let trouble = self.trouble().map_or("the store is too slow".to_owned(), |e| e.to_string());
            return Err(TablesError::Full { waiting, limit, reason: trouble });
        }
        Ok(state)
    }

    /// Puts something among what the log's thread takes next.
    fn wait_in_line(&self, bytes: usize, put: impl FnOnce(&mut Waiting)) -> Result<Ticket, TablesError> {
        let mut state = self.room(self.shared.lock(), bytes)?;
        state.tickets += 1;
        let ticket = state.tickets;
        state.bytes += bytes;
        state.waiting.bytes += bytes;
        state.waiting.ticket = ticket;
        put(&mut state.waiting);
        let half = state.bytes > self.shared.config.memory_bytes / 2;
        drop(state);
        self.shared.wake_log.notify_one();
        if half {
            self.shared.wake_fold.notify_one();
        }
        Ok(Ticket(ticket))
    }

    /// Writes many rows, tens of thousands at a time, to files of their table: for what comes in bulk, which would
    /// otherwise be written twice, once to the log and once by the fold. They count once they are handed to
    /// [`Tables::append_filed`]; files that never are, upkeep removes. Blocks until they are synced; refused where there
    /// is no room.
    pub fn file(&self, table: &'static Table, batch: RecordBatch) -> Result<Filed, TablesError> {
        drop(self.room(self.shared.lock(), weight(&batch))?);
        let batch = whole(table, batch)?;
        let delta = self.deltas.get(table.index()).ok_or(TablesError::Closed)?;
        let adds = self.handle.block_on(delta.file(&self.shared.store, batch.clone()))?;
        Ok(Filed { table, batch, adds })
    }

    /// Hands over rows that stand in files. Never blocks; refused where there is no room.
    pub fn append_filed(&self, filed: Filed) -> Result<Ticket, TablesError> {
        self.wait_in_line(weight(&filed.batch), |waiting| waiting.filed.push(filed))
    }

    /// Hands over rows, and waits for room where there is none: for what a hub cannot do without. Blocks.
    pub fn append_blocking(&self, rows: &Rows) -> Result<Ticket, TablesError> {
        loop {
            match self.append(rows.clone()) {
                Err(TablesError::Full { .. }) => std::thread::sleep(Duration::from_millis(100)),
                done => return done,
            }
        }
    }

    /// Done when the rows behind a ticket, and all before it, are durable.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), TablesError> {
        wait(self.shared.progress.subscribe(), ticket).await
    }

    /// The same, for a thread that may wait.
    pub fn durable_blocking(&self, ticket: Ticket) -> Result<(), TablesError> {
        self.handle.block_on(wait(self.shared.progress.subscribe(), ticket))
    }

    /// The newest ticket.
    pub fn newest(&self) -> Ticket {
        Ticket(self.shared.lock().tickets)
    }

    /// Why nothing can be written at the moment, or the tables lag behind the log.
    pub fn trouble(&self) -> Option<TablesError> {
        let log = self.shared.progress.borrow().trouble.clone();
        log.or_else(|| self.shared.fold_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Whether another hub has taken over, or the log has ended otherwise.
    pub fn ended(&self) -> bool {
        self.shared.ended()
    }

    /// Done when the log has ended: another hub has taken over.
    pub async fn end(&self) {
        let _ = self.shared.progress.subscribe().wait_for(|p| p.ended).await;
    }

    /// Bytes of rows held in memory.
    pub fn bytes_held(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Asks. The answer comes in batches; dropping it cancels.
    pub async fn ask(&self, sql: &str, limits: Limits) -> Result<Answer, TablesError> {
        self.ask_as(&Sight::ALL, sql, limits).await
    }

    /// The same, for somebody who may not see everything.
    pub async fn ask_as(&self, sight: &Sight, sql: &str, limits: Limits) -> Result<Answer, TablesError> {
        let session = self.base.session(&self.shared, sight)?;
        let sql = sql.to_owned();
        let asked = self.handle.spawn(async move { query::ask(&session, &sql, limits).await });
        asked.await.map_err(|_| TablesError::Closed)?.map(|a| a.on(&self.handle))
    }

    /// The columns a statement would answer with.
    pub async fn columns(&self, sight: &Sight, sql: &str) -> Result<SchemaRef, TablesError> {
        let session = self.base.session(&self.shared, sight)?;
        let sql = sql.to_owned();
        let asked = self.handle.spawn(async move { query::columns(&session, &sql).await });
        asked.await.map_err(|_| TablesError::Closed)?
    }

    /// The whole answer, for a thread that may wait.
    pub fn ask_blocking(&self, sql: &str, limits: Limits) -> Result<Vec<RecordBatch>, TablesError> {
        self.handle.block_on(async { self.ask(sql, limits).await?.all().await })
    }

    /// Folds what is in the log into the tables, and returns when that is done.
    pub async fn fold(&self) -> Result<(), TablesError> {
        let mut folds = self.shared.folds.subscribe();
        // One that is under way may have looked before the newest row: the second from now has seen it.
        let wanted = *folds.borrow_and_update() + 2;
        loop {
            self.shared.wake_fold.notify_one();
            let waited = tokio::time::timeout(Duration::from_millis(200), folds.wait_for(|&f| f >= wanted));
            if let Ok(done) = waited.await {
                return match done {
                    Ok(_) => self.trouble().map_or(Ok(()), Err),
                    Err(_) => Err(TablesError::Closed),
                };
            }
            if self.ended() {
                return Err(TablesError::Closed);
            }
        }
    }

    /// What each table is made of.
    pub fn sizes(&self) -> Vec<(&'static str, Size)> {
        TABLES.iter().zip(&self.shared.lock().shown).map(|(t, s)| (t.name, s.size)).collect()
    }

    /// What upkeep did since the tables were opened.
    pub fn upkept(&self) -> Upkept {
        *self.shared.upkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what upkeep would have done by a moment, and returns when nothing is left. It goes on by itself; this is for
    /// whoever cannot wait, and for tests.
    pub async fn upkeep(&self, now: SystemTime) -> Result<(), TablesError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let (done, wait) = oneshot::channel();
        let asked = Asked { now_us: i64::try_from(now).unwrap_or(i64::MAX), done };
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        self.shared.wake_fold.notify_one();
        tokio::select! {
            done = wait => done.map_err(|_| TablesError::Closed)?,
            () = self.end() => Err(TablesError::Closed),
        }
    }

    /// Writes what waits, folds it, and gives the log up. Blocks; the second time it does nothing.
    pub fn close(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { runtime, log, fold }) = running else { return };
        self.shared.lock().closing = true;
        self.shared.wake_log.notify_one();
        self.shared.wake_fold.notify_one();
        let _ = runtime.block_on(fold);
        let _ = log.join();
        runtime.shutdown_background();
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.close();
    }
}

async fn wait(mut progress: watch::Receiver<Progress>, ticket: Ticket) -> Result<(), TablesError> {
    let done = progress.wait_for(|p| p.durable >= ticket.0 || p.ended).await;
    match done {
        Ok(p) if p.durable >= ticket.0 => Ok(()),
        Ok(p) => Err(p.trouble.clone().unwrap_or(TablesError::Closed)),
        Err(_) => Err(TablesError::Closed),
    }
}

/// Bytes of a batch's own rows. Columns that were read from the log share one buffer, which must not be counted for
/// each of them.
pub(crate) fn weight(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

/// Rows with their day, checked.
pub(crate) fn whole(table: &'static Table, batch: RecordBatch) -> Result<RecordBatch, TablesError> {
    let bad = |reason: String| TablesError::Rows { table: table.name.to_owned(), reason };
    let batch = if batch.schema().fields().len() == table.schema().fields().len() {
        batch
    } else {
        let ts = batch.column_by_name("ts");
        let ts: &TimestampMicrosecondArray = ts
            .and_then(|c| c.as_any().downcast_ref())
            .ok_or_else(|| bad("expected ts in microseconds as the first column".to_owned()))?;
        let days = ts.values().iter().map(|us| i32::try_from(us.div_euclid(DAY_US)).unwrap_or(0));
        let days = Date32Array::from_iter_values(days);
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        // Columns that came since the rows were written.
        for c in table.columns.iter().skip(columns.len()) {
            columns.push(arrow::array::new_null_array(&c.kind.arrow(), batch.num_rows()));
        }
        columns.push(Arc::new(days));
        RecordBatch::try_new(table.schema(), columns).map_err(|e| bad(e.to_string()))?
    };
    debug_assert_eq!(batch.schema().fields().last().map(|f| f.name().as_str()), Some(DAY));
    Ok(batch)
}
