//! Upkeep: small files are merged, old days removed, and files nobody needs any more deleted.
//!
//! How: one task at a time ([`Task`]) runs beside the fold and only reads files of the tables and writes new ones; what
//! it made becomes part of a table in one short commit that the fold's own task does between two folds
//! ([`Upkeep::settle`]). So folds are never held up for longer than a commit, and no append of ours races with one.
//! Which files are merged is [`choose`]: small ones, many at a time, so that a row is rewritten a few times and not at
//! each merge; the rows of a merge are cut by time ([`cut`]) and within a part sorted by the table's `cluster`. So a day is
//! files that follow each other in time, each a few parts sorted by what questions ask for: a question about one path
//! reads a little of each part, one about ten minutes reads one part.
//! Invariants: a merge neither loses nor makes a row (counted before it is committed; rows of `path_minute` are joined
//! instead); whole days are removed, and only such whose last row is old enough; a file is deleted a day after it left
//! its table, or a day after it was written and never got there; nothing is deleted while a backup asks for that;
//! a clock that jumps ahead deletes nothing ([`Clock`]); memory is bounded by [`crate::Config::merge_bytes`].
//! Absent on purpose: the library's own optimize, because it commits by itself while we fold; its z-order, because it
//! interleaves the bits of values as they are: within a day `ts` has 37 bits and a path a few, so the order is that of
//! time alone.

use crate::delta::{Care, Delta, GROUP_ROWS, Piece, Why};
use crate::error::TablesError;
use crate::query::{cast_to, refused};
use crate::rollup::Join;
use crate::schema::{PATH_MINUTE, TABLES, Table};
use crate::store::Store;
use crate::tables::{Config, DAY_US, Shared};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::ScalarValue;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext, col, lit};
use deltalake_core::kernel::Add;
use deltalake_core::writer::DeltaWriter as _;
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A merge begins when there are so many small files, none larger than the others together.
const MERGE_FILES: usize = 16;
/// What files of tables that fill in bulk are merged to before their day is over: at two a second, some hundred thousand
/// of the size they are written in stay until then at most.
const BULK_BYTES: u64 = 4 << 20;
/// Files no longer needed are looked for so often.
const SWEEP_EVERY_US: i64 = 3_600_000_000;
/// A day is over, and its last small files are merged, when nothing came for so long.
const QUIET_US: i64 = 3_600_000_000;
/// What was written and never became part of a table is deleted after so long.
const UNUSED: Duration = Duration::from_hours(24);
/// After something failed nothing is tried for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// A clock may be ahead of what is expected by so much; one that stays ahead for longer than [`BELIEVED`] is right.
const AHEAD_US: i64 = 3_600_000_000;
const BELIEVED: Duration = Duration::from_hours(24);
/// Sorting spills here, in the store's directory.
const SPILL: &str = "spill";

/// What upkeep did since the tables were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkept {
    /// Merges.
    pub merges: u64,
    /// Files that were merged.
    pub files_merged: u64,
    /// Files they became.
    pub files_made: u64,
    /// Rows in them.
    pub rows_merged: u64,
    /// Bytes of the files that were merged.
    pub bytes_before: u64,
    /// Bytes of the files they became.
    pub bytes_after: u64,
    /// Days of tables removed because they were old.
    pub days_removed: u64,
    /// Rows in them.
    pub rows_removed: u64,
    /// Files deleted because nobody needs them any more.
    pub files_deleted: u64,
    /// Times something failed. It is tried again.
    pub failures: u64,
}

impl Upkept {
    /// All of them with their names, for whoever lists them.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("merges", self.merges),
            ("files_merged", self.files_merged),
            ("files_made", self.files_made),
            ("rows_merged", self.rows_merged),
            ("bytes_before", self.bytes_before),
            ("bytes_after", self.bytes_after),
            ("days_removed", self.days_removed),
            ("rows_removed", self.rows_removed),
            ("files_deleted", self.files_deleted),
            ("failures", self.failures),
        ]
    }
}

/// How the tables are kept, for people: a chapter of the reference page.
#[cfg(test)]
pub(crate) fn page() -> String {
    format!(
        "\n## Upkeep\n\nThe hub that writes the tables also keeps them in shape, beside its other work. {MERGE_FILES} small \
         files of a day are merged into one, cut into a few stretches of time and within each sorted by the columns \
         named at each table; a day that is over and saw nothing new for an hour is left with files of about 128 MiB \
         that follow each other in time. Of `flow`, which fills a hundred times faster than the others, only very small files \
         are merged before the day is over. Days \
         whose last row is older than a table's limit are removed whole. Files are deleted a day after they left \
         their table, so whoever opened a table can read it for a day; entries of a table's log go a day after a \
         checkpoint made them needless. `path_minute` keeps for 400 days what `path_observation` says in more detail \
         for 14.\n"
    )
}

/// Days kept by each table, with what the settings say otherwise.
pub(crate) fn keep_days(config: &Config) -> Result<Vec<Option<u32>>, TablesError> {
    if let Some(table) = config.keep_days.keys().find(|t| Table::by_name(t).is_none()) {
        return Err(TablesError::NoTable { table: table.clone() });
    }
    let of = |t: &&Table| config.keep_days.get(t.name).copied().unwrap_or(t.keep_days);
    Ok(TABLES.iter().map(of).collect())
}

/// Somebody waits until nothing is left to do at a moment.
pub(crate) struct Asked {
    pub now_us: i64,
    pub done: oneshot::Sender<Result<(), TablesError>>,
}

/// What a task made.
pub(crate) enum Made {
    /// Files instead of others.
    Files { table: usize, old: Vec<Piece>, new: Vec<Add>, took: Duration },
    /// Nothing: it deleted files.
    Swept { table: usize, files: u64, now_us: i64 },
}

type Outcome = Result<Made, TablesError>;

/// What the fold's task knows of it.
pub(crate) struct Upkeep {
    /// Where merges run; `None` where they cannot.
    env: Option<Arc<RuntimeEnv>>,
    task: Option<JoinHandle<Outcome>>,
    clock: Clock,
    /// By index of the table: when it was swept last.
    swept_us: Vec<Option<i64>>,
    /// The table that is looked at first next time.
    turn: usize,
    not_before: Option<Instant>,
    asked: Vec<Asked>,
}

/// The wall clock, as far as it is believed: what is old is deleted by it. It was wrong, or the hub was down for long,
/// where it runs ahead of the newest file or of the machine's own pace; the next day shows which.
struct Clock {
    last_us: i64,
    seen: Instant,
    ahead_since: Option<Instant>,
}

impl Clock {
    fn new(deltas: &[Delta]) -> Clock {
        let newest = |d: &Delta| d.pieces().ok()?.iter().map(|p| p.written_ms.saturating_mul(1000)).max();
        let last_us = deltas.iter().filter_map(newest).max().unwrap_or_else(wall_us);
        Clock { last_us, seen: Instant::now(), ahead_since: None }
    }

    /// What time it is, where the wall clock says `wall_us` and the machine's steady one `now`.
    fn at(&mut self, wall_us: i64, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.seen).as_micros();
        let expected = self.last_us.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        if wall_us > expected.saturating_add(AHEAD_US) {
            let since = *self.ahead_since.get_or_insert_with(|| {
                tracing::warn!(
                    hours = (wall_us - expected) / 3_600_000_000,
                    "the clock is ahead of the newest rows: for a day nothing is removed because it is old"
                );
                now
            });
            if now.saturating_duration_since(since) < BELIEVED {
                return expected;
            }
        }
        *self = Clock { last_us: wall_us, seen: now, ahead_since: None };
        wall_us
    }
}

fn wall_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn end_us(day: i32) -> i64 {
    (i64::from(day) + 1).saturating_mul(DAY_US)
}

/// Files of one day that are merged now; none where nothing is due.
///
/// Small is below half of `file_bytes`. Of the smallest, as many as can be are taken whose largest is not larger than
/// all others together: equal files are merged 16 at a time, what comes of that is left alone until there are others of
/// its size, and so on. Of a day that is over all small ones are taken.
fn choose(day: &[Piece], over: bool, file_bytes: u64) -> Vec<Piece> {
    let mut small: Vec<Piece> = day.iter().filter(|p| p.bytes < file_bytes / 2).cloned().collect();
    small.sort_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
    if over {
        if small.len() < 2 {
            small.clear();
        }
        return small;
    }
    let (mut sum, mut best) = (0, 0);
    for (i, p) in small.iter().enumerate() {
        if p.bytes <= sum {
            best = i + 1;
        }
        sum += p.bytes;
        if sum > file_bytes {
            break;
        }
    }
    small.truncate(if best < MERGE_FILES { 0 } else { best });
    small
}

/// Into how many files a merge goes, and of how many parts each is. As many parts as a part has groups of rows, so that
/// whoever asks for a time and whoever asks for a path skip alike.
fn cut(bytes: u64, rows: u64, file_bytes: u64) -> (u64, u64) {
    let files = bytes.div_ceil(file_bytes).max(1);
    let groups = rows / (files * GROUP_ROWS as u64);
    (files, groups.isqrt().max(1))
}

impl Upkeep {
    pub(crate) fn new(shared: &Shared, deltas: &[Delta]) -> Upkeep {
        let pool = Arc::new(FairSpillPool::new(shared.config.merge_bytes));
        let mut env = RuntimeEnvBuilder::new().with_memory_pool(pool);
        let mut ready = Ok(());
        // With tables in a bucket, the system's directory for such files.
        if let Some(spill) = shared.store.directory().map(|d| d.join(SPILL)) {
            // What a hub that was killed left there.
            let _ = std::fs::remove_dir_all(&spill);
            ready = std::fs::create_dir_all(&spill).map_err(|e| e.to_string());
            env = env.with_temp_file_path(spill);
        }
        let env = ready.and_then(|()| env.build_arc().map_err(|e| e.to_string()));
        if let Err(e) = &env {
            tracing::warn!(error = e, "files will not be merged: no place to sort in");
        }
        Upkeep {
            env: env.ok(),
            task: None,
            clock: Clock::new(deltas),
            swept_us: vec![None; TABLES.len()],
            turn: 0,
            not_before: None,
            asked: Vec::new(),
        }
    }

    /// Done when the task is; never, where there is none. Whoever stops waiting loses nothing.
    pub(crate) async fn ended(&mut self) -> Outcome {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let outcome = task.await;
        self.task = None;
        outcome.unwrap_or_else(|e| {
            Err(TablesError::Store { what: "upkeep of the tables".to_owned(), reason: e.to_string() })
        })
    }

    /// Makes what a task made part of its table.
    pub(crate) async fn settle(&mut self, shared: &Shared, deltas: &mut [Delta], outcome: Outcome) {
        let done = match outcome {
            Ok(Made::Files { table, old, new, took }) => files(shared, deltas, table, &old, new, took).await,
            Ok(Made::Swept { table, files, now_us }) => {
                if let Some(swept) = self.swept_us.get_mut(table) {
                    *swept = Some(now_us);
                }
                count(shared, |u| u.files_deleted += files);
                Ok(())
            }
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            self.failed(shared, &e);
        }
    }

    fn failed(&mut self, shared: &Shared, e: &TablesError) {
        tracing::warn!(error = %e, "upkeep of the tables failed; trying again in a minute");
        count(shared, |u| u.failures += 1);
        self.not_before = Some(Instant::now() + PAUSE);
        for asked in self.asked.drain(..) {
            let _ = asked.done.send(Err(e.clone()));
        }
    }

    /// Begins what is due, where nothing is under way.
    pub(crate) async fn begin(&mut self, shared: &Shared, deltas: &mut [Delta]) {
        self.asked.append(&mut shared.asked.lock().unwrap_or_else(PoisonError::into_inner));
        while self.task.is_none() && !shared.ended() {
            let now_us = match self.asked.first() {
                Some(asked) => asked.now_us,
                None if self.not_before.is_some_and(|t| Instant::now() < t) => return,
                None => self.clock.at(wall_us(), Instant::now()),
            };
            if let Err(e) = self.look(shared, deltas, now_us).await {
                return self.failed(shared, &e);
            }
            if self.task.is_none() {
                if self.asked.is_empty() {
                    return;
                }
                let _ = self.asked.remove(0).done.send(Ok(()));
            }
        }
    }

    /// Gives up what is under way. What it wrote is swept in a day.
    pub(crate) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Looks at every table, removes what is old, and begins the first task that is due.
    async fn look(&mut self, shared: &Shared, deltas: &mut [Delta], now_us: i64) -> Result<(), TablesError> {
        let held = shared.store.is_held();
        for step in 0..deltas.len() {
            let table = (self.turn + step) % deltas.len();
            let Some(delta) = deltas.get_mut(table) else { continue };
            forget(shared, delta, table, now_us).await?;
            let due = self.swept_us.get(table).copied().flatten();
            let task = if let (Some(env), Some(old)) = (&self.env, due_merge(shared, delta, now_us)?) {
                let (env, file_bytes) = (Arc::clone(env), shared.config.file_bytes);
                tokio::spawn(merge(env, delta.clone(), table, old, file_bytes))
            } else if !held && due.is_none_or(|t| now_us - t >= SWEEP_EVERY_US) {
                tokio::spawn(sweep(shared.store.clone(), delta.clone(), table, now_us))
            } else {
                continue;
            };
            self.task = Some(task);
            self.turn = table + 1;
            return Ok(());
        }
        Ok(())
    }
}

fn count(shared: &Shared, f: impl FnOnce(&mut Upkept)) {
    f(&mut shared.upkept.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Questions see the table as it is now.
async fn show(shared: &Shared, delta: &Delta, table: usize) -> Result<(), TablesError> {
    let new = delta.shown().await?;
    if let Some(slot) = shared.lock().shown.get_mut(table) {
        *slot = new;
    }
    Ok(())
}

/// Commits a merge.
async fn files(
    shared: &Shared,
    deltas: &mut [Delta],
    table: usize,
    old: &[Piece],
    new: Vec<Add>,
    took: Duration,
) -> Result<(), TablesError> {
    let Some(delta) = deltas.get_mut(table) else { return Ok(()) };
    let paths: Vec<String> = old.iter().map(|p| p.path.clone()).collect();
    let made = u64::try_from(new.len()).unwrap_or(0);
    let after: u64 = new.iter().filter_map(|a| u64::try_from(a.size).ok()).sum();
    if !delta.replace(&shared.store, &paths, new, Why::Merged).await? {
        // Another hub was faster. Its files are as good.
        return Ok(());
    }
    show(shared, delta, table).await?;
    let rows: u64 = old.iter().map(|p| p.rows).sum();
    let before: u64 = old.iter().map(|p| p.bytes).sum();
    tracing::debug!(
        table = delta.about.name,
        files = old.len(),
        made,
        rows,
        before,
        after,
        ms = took.as_millis(),
        "merged"
    );
    count(shared, |u| {
        u.merges += 1;
        u.files_merged += u64::try_from(old.len()).unwrap_or(0);
        u.files_made += made;
        u.rows_merged += rows;
        u.bytes_before += before;
        u.bytes_after += after;
    });
    Ok(())
}

/// Removes days whose last row is older than the table keeps them.
async fn forget(shared: &Shared, delta: &mut Delta, table: usize, now_us: i64) -> Result<(), TablesError> {
    let Some(days) = shared.keep_days.get(table).copied().flatten() else { return Ok(()) };
    let limit_us = now_us.saturating_sub(i64::from(days) * DAY_US);
    let old: Vec<Piece> = delta.pieces()?.into_iter().filter(|p| end_us(p.day) <= limit_us).collect();
    if old.is_empty() {
        return Ok(());
    }
    let paths: Vec<String> = old.iter().map(|p| p.path.clone()).collect();
    if !delta.replace(&shared.store, &paths, Vec::new(), Why::Forgotten).await? {
        return Ok(());
    }
    show(shared, delta, table).await?;
    let rows: u64 = old.iter().map(|p| p.rows).sum();
    let mut gone: Vec<i32> = old.iter().map(|p| p.day).collect();
    gone.sort_unstable();
    gone.dedup();
    tracing::info!(table = delta.about.name, days = gone.len(), rows, "removed what is older than is kept");
    count(shared, |u| {
        u.days_removed += u64::try_from(gone.len()).unwrap_or(0);
        u.rows_removed += rows;
    });
    Ok(())
}

/// Files of a table that are merged now. The newest day first: it is asked for most.
fn due_merge(shared: &Shared, delta: &Delta, now_us: i64) -> Result<Option<Vec<Piece>>, TablesError> {
    let mut days: BTreeMap<i32, Vec<Piece>> = BTreeMap::new();
    for piece in delta.pieces()? {
        days.entry(piece.day).or_default().push(piece);
    }
    let due = days.iter().rev().map(|(&day, pieces)| {
        let newest_us = pieces.iter().map(|p| p.written_ms.saturating_mul(1000)).max().unwrap_or(0);
        let over = now_us.saturating_sub(end_us(day).max(newest_us)) >= QUIET_US;
        let in_bulk = delta.about.is_bulk() && !over;
        choose(
            pieces,
            over,
            if in_bulk { BULK_BYTES.min(shared.config.file_bytes) } else { shared.config.file_bytes },
        )
    });
    Ok(due.into_iter().find(|chosen| !chosen.is_empty()))
}

/// Writes the rows of some files of one day into fewer, sorted.
async fn merge(
    env: Arc<RuntimeEnv>,
    delta: Delta,
    table: usize,
    old: Vec<Piece>,
    file_bytes: u64,
) -> Outcome {
    let begun = Instant::now();
    let about = delta.about;
    let failed = |e: &dyn std::fmt::Display| TablesError::Store {
        what: format!("merging files of {}", about.name),
        reason: e.to_string(),
    };
    // One at a time: what is left of the machine is for folds and questions.
    let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), env);
    let paths: Vec<String> = old.iter().map(|p| p.path.clone()).collect();
    let columns: Vec<_> = about.schema().fields().iter().map(|f| col(f.name())).collect();
    let frame = context.read_table(delta.some(&paths).await?).and_then(|f| f.select(columns));
    let frame = frame.map_err(|e| refused(&e))?;
    let bytes: u64 = old.iter().map(|p| p.bytes).sum();
    let expected: u64 = old.iter().map(|p| p.rows).sum();
    let (files, each) = cut(bytes, expected, file_bytes);
    let parts = parts(&frame, files * each).await.map_err(|e| refused(&e))?;
    let mut writer = delta.writer(Care::Merged)?.with_target_file_size(2 * file_bytes);
    let mut join = (about.name == PATH_MINUTE.name).then(Join::default);
    let (mut new, mut rows) = (Vec::new(), 0);
    for (part, number) in parts.into_iter().zip(1..) {
        let order = about.cluster.iter().map(|c| col(*c).sort(true, true)).collect();
        let sorted = part.sort(order).map_err(|e| refused(&e))?;
        let mut batches = sorted.execute_stream().await.map_err(|e| refused(&e))?;
        while let Some(batch) = batches.next().await {
            let batch = batch.and_then(|b| cast_to(&b, &about.schema())).map_err(|e| refused(&e))?;
            rows += u64::try_from(batch.num_rows()).unwrap_or(0);
            let ready: Vec<RecordBatch> = match &mut join {
                Some(join) => join.take(&batch)?,
                None => vec![batch],
            };
            for batch in ready {
                writer.write(batch).await.map_err(|e| failed(&e))?;
            }
        }
        for batch in join.iter_mut().map(Join::finish).collect::<Result<Vec<_>, _>>()?.concat() {
            writer.write(batch).await.map_err(|e| failed(&e))?;
        }
        if u64::is_multiple_of(number, each) {
            new.extend(writer.flush().await.map_err(|e| failed(&e))?);
        }
    }
    new.extend(writer.flush().await.map_err(|e| failed(&e))?);
    if rows != expected {
        return Err(failed(&format!("{rows} rows were read where the table says there are {expected}")));
    }
    Ok(Made::Files { table, old, new, took: begun.elapsed() })
}

/// Cuts rows by time into parts of the same length.
async fn parts(frame: &DataFrame, n: u64) -> datafusion::error::Result<Vec<DataFrame>> {
    let ends = || frame.clone().aggregate(Vec::new(), vec![min(col("ts")), max(col("ts"))]);
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    if n == 1 {
        return Ok(vec![frame.clone()]);
    }
    let ends = ends()?.collect().await?;
    let end = |column: usize| {
        let column = ends.first()?.columns().get(column)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.iter().next().flatten()
    };
    let (Some(first), Some(last)) = (end(0), end(1)) else { return Ok(vec![frame.clone()]) };
    let step = (last - first) / n + 1;
    let at = |i: i64| lit(ScalarValue::TimestampMicrosecond(Some(first + i * step), Some("UTC".into())));
    (0..n)
        .map(|i| {
            let frame = frame.clone().filter(col("ts").gt_eq(at(i)))?;
            frame.filter(col("ts").lt(at(i + 1)))
        })
        .collect()
}

/// Deletes files of a table that nobody needs any more.
async fn sweep(store: Store, delta: Delta, table: usize, now_us: i64) -> Outcome {
    let directory = format!("tables/{}", delta.about.name);
    let mut files = 0;
    for path in delta.unused(now_us / 1000).await? {
        // What a backup that has begun still needs goes in an hour.
        if store.is_held() {
            break;
        }
        store.remove(&object_store::path::Path::from(format!("{directory}/{path}"))).await?;
        files += 1;
    }
    let now = UNIX_EPOCH + Duration::from_micros(u64::try_from(now_us).unwrap_or(0));
    files += store.sweep(&directory, now - UNUSED).await?;
    Ok(Made::Swept { table, files, now_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(sizes: &[u64]) -> Vec<Piece> {
        let piece = |(i, &bytes): (usize, &u64)| Piece {
            path: format!("{i:04}"),
            day: 1,
            bytes,
            rows: bytes,
            written_ms: 0,
        };
        sizes.iter().enumerate().map(piece).collect()
    }

    #[test]
    fn many_small_files_are_merged_and_large_ones_left_alone() {
        let chosen = |sizes: &[u64], over| choose(&day(sizes), over, 1000).len();
        let table = [
            ("none", vec![], false, 0),
            ("too few", vec![1; 15], false, 0),
            ("enough", vec![1; 16], false, 16),
            ("what came of the last merge waits", [vec![1; 15], vec![40]].concat(), false, 0),
            ("and goes with its like", [vec![1; 40], vec![40]].concat(), false, 41),
            ("one tiny file does not keep others", [vec![1], vec![100; 16]].concat(), false, 11),
            ("large ones never", vec![500; 40], false, 0),
            ("no more than one file's worth", vec![90; 40], false, 12),
            ("a day that is over", vec![1, 70], true, 2),
            ("one file is merged already", vec![1, 900], true, 0),
        ];
        for (name, sizes, over, want) in table {
            let want = if want > 0 && want < MERGE_FILES && !over { 0 } else { want };
            assert_eq!(chosen(&sizes, over), want, "{name}");
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_not_believed_for_a_day() {
        let (day, start) = (DAY_US, Instant::now());
        let after = |hours: u64| start + Duration::from_hours(hours);
        let new = || Clock { last_us: 100 * day, seen: start, ahead_since: None };
        let mut c = new();
        assert_eq!(c.at(100 * day + 5, start), 100 * day + 5, "it runs");
        assert_eq!(c.at(500 * day, after(6)), 100 * day + day / 4 + 5, "it jumped");
        assert_eq!(c.at(101 * day, after(24)), 101 * day, "and was put right");
        assert_eq!(c.at(90 * day, after(25)), 90 * day, "back is harmless");
        // A hub that was down for long.
        let mut c = new();
        assert_eq!(c.at(130 * day, after(0)), 100 * day);
        assert_eq!(c.at(131 * day - 1, after(23)), 100 * day + 23 * day / 24);
        assert_eq!(c.at(131 * day, after(24)), 131 * day, "it stayed: it is right");
        assert_eq!(c.at(132 * day, after(48)), 132 * day);
    }

    #[test]
    fn parts_are_as_many_as_their_groups() {
        let (mib, rows) = (1 << 20, GROUP_ROWS as u64);
        let table = [
            ((0, 0), (1, 1)),
            ((mib, 3 * rows), (1, 1)),
            ((30 * mib, 40 * rows), (1, 6)),
            ((128 * mib, 100 * rows), (1, 10)),
            ((129 * mib, 100 * rows), (2, 7)),
            ((1280 * mib, 1000 * rows), (10, 10)),
        ];
        for ((bytes, rows), want) in table {
            assert_eq!(cut(bytes, rows, 128 * mib), want, "{bytes} bytes, {rows} rows");
        }
    }

    /// A day of folds, 15 s apart, of every size: what is left at its end, and how often a row was rewritten.
    #[test]
    fn a_row_is_rewritten_a_few_times() {
        for each in [1, 10, 100] {
            let file_bytes = 20_000;
            let (mut files, mut written, mut most) = (Vec::new(), 0, 0);
            let folds = 5760;
            for _ in 0..folds {
                files.push(each);
                let chosen = choose(&day(&files), false, file_bytes);
                if !chosen.is_empty() {
                    let sum = chosen.iter().map(|p| p.bytes).sum();
                    for p in chosen {
                        files.remove(files.iter().position(|&f| f == p.bytes).unwrap());
                    }
                    files.push(sum);
                    written += sum;
                }
                most = most.max(files.len());
            }
            let total = folds * each;
            assert!(written <= 10 * total, "{each}: each row {} times", written / total);
            assert!(
                most < 16 + 16 + usize::try_from(total / (file_bytes / 2)).unwrap(),
                "{each}: {most} files"
            );
        }
    }
}
