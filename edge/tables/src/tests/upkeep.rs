//! Upkeep and sums by the minute, on a real directory. Rows are of the year 2100, so that what the upkeep does by itself,
//! by the wall clock, is only to merge many small files.

use super::{Dir, ask, config, ledger_at, runtime};
use crate::delta::{Care, Delta};
use crate::schema::{LOSS_LEDGER, PATH_MINUTE, PATH_OBSERVATION, TABLES, Table};
use crate::store::{Environment, Store};
use crate::tables::whole;
use crate::{Config, Limits, Rows, Tables, TablesError};
use arrow::array::{
    ArrayRef, AsArray, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use deltalake_core::writer::DeltaWriter as _;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400_000_000;
/// 2100-01-01.
const T: i64 = 47_482 * DAY;
const HOUR: Duration = Duration::from_secs(3600);

fn at(us: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us.try_into().unwrap())
}

fn open_with(config: Config) -> Tables {
    Tables::open(config, || false).unwrap().expect("nobody else writes there")
}

/// Folds only when told.
fn quiet(place: &Path) -> Config {
    Config { fold_every: Duration::from_secs(3600), ..config(place) }
}

/// The same numbers at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % n).unwrap()
    }
}

/// `n` observations of 40 paths within `span` after a moment; each third without delays, each seventh of both ways.
fn observations(seed: u64, n: usize, from: i64, span: i64) -> (&'static Table, RecordBatch) {
    let mut x = Numbers(seed);
    let mut ts: Vec<i64> = (0..n).map(|_| from + x.below(span.try_into().unwrap())).collect();
    ts.sort_unstable();
    let mut ints = |below: u64| -> Vec<i32> { (0..n).map(|_| x.below(below).try_into().unwrap()).collect() };
    let (path, sent, lost, count) = (ints(40), ints(50), ints(3), ints(20));
    let (min, mid, top) = (ints(1000), ints(9000), ints(90_000));
    let int = |v: &[i32]| -> ArrayRef { Arc::new(Int32Array::from(v.to_vec())) };
    let long = |v: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(v)) };
    let text = |v: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(v)) };
    let delays = |f: &dyn Fn(usize) -> i64| -> ArrayRef {
        Arc::new((0..n).map(|i| (i % 3 != 0).then(|| f(i))).collect::<Int64Array>())
    };
    let both = |i: usize| i.is_multiple_of(7);
    let low = |i: usize| 10_000 + i64::from(min[i]);
    let median = |i: usize| if count[i] == 0 { low(i) } else { low(i) + i64::from(mid[i]) };
    let high = |i: usize| if count[i] == 0 { low(i) } else { median(i) + i64::from(top[i]) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(ts).with_timezone("UTC")),
        int(&vec![500_000; n]),
        int(&vec![3; n]),
        long(vec![1; n]),
        long((0..n).map(|i| i64::try_from(i).unwrap()).collect()),
        long(vec![9; n]),
        long(path.iter().map(|&p| i64::from(p) * 1001).collect()),
        text((0..n).map(|i| if i % 11 == 0 { "mixture" } else { "exact" }).collect()),
        Arc::new((0..n).map(|i| both(i).then_some(77)).collect::<Int64Array>()),
        Arc::new((0..n).map(|i| both(i).then_some("exact")).collect::<StringArray>()),
        Arc::new((0..n).map(|i| Some(i8::try_from(i % 2).unwrap() * 26)).collect::<Int8Array>()),
        Arc::new(Int8Array::from(vec![7; n])),
        int(&vec![0; n]),
        int(&sent),
        int(&lost),
        int(&lost),
        int(&count),
        text((0..n).map(|i| if i % 5 == 0 { "transport" } else { "probe" }).collect()),
        Arc::new(
            (0..n)
                .map(|i| (i % 3 != 0).then_some(if i % 2 == 0 { "same" } else { "synchronized" }))
                .collect::<StringArray>(),
        ),
        Arc::new((0..n).map(|i| (i % 3 != 0).then_some(count[i] + 1)).collect::<Int32Array>()),
        Arc::new((0..n).map(|i| (i % 3 != 0).then_some(count[i] / 2)).collect::<Int32Array>()),
        delays(&|_| 0),
        delays(&low),
        delays(&median),
        delays(&high),
    ];
    (&PATH_OBSERVATION, RecordBatch::try_new(PATH_OBSERVATION.row_schema(), columns).unwrap())
}

fn parts(parts: Vec<(&'static Table, RecordBatch)>) -> Rows {
    Rows { producer: None, parts }
}

/// A picture of a live store: what a hub that dies now leaves behind. A backup would not do, it stops the sweeps.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(from).unwrap().map(|e| e.unwrap()).collect();
    names.sort_by_key(|e| e.file_name());
    if from.ends_with("log") {
        // A hub removes its oldest segments first; this way round none is missing between two that are there.
        names.reverse();
    }
    for e in names {
        let to = to.join(e.file_name());
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            copy(&e.path(), &to);
        } else {
            // What was removed meanwhile was in the tables before, and those are copied after the log.
            let _ = std::fs::copy(e.path(), to);
        }
    }
}

async fn put(tables: &Tables, rows: Rows) {
    tables.durable(tables.append(rows).unwrap()).await.unwrap();
    tables.fold().await.unwrap();
}

/// Every file of a table, and those the table says are its own.
fn files(place: &Path, about: &'static Table) -> (BTreeSet<String>, BTreeSet<String>) {
    let top = place.join("tables").join(about.name);
    let mut there = BTreeSet::new();
    for day in std::fs::read_dir(&top).unwrap().map(|e| e.unwrap().path()) {
        if day.file_name().unwrap() != "_delta_log" {
            for file in std::fs::read_dir(&day).unwrap().map(|e| e.unwrap().path()) {
                there.insert(file.strip_prefix(&top).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let own = runtime().block_on(async {
        let delta =
            Delta::open(&Store::open(&place.into(), &Environment::default()).unwrap(), about).await.unwrap();
        delta.pieces().unwrap().into_iter().map(|p| p.path).collect()
    });
    (there, own)
}

/// Position in the log, by table.
fn positions(place: &Path) -> Vec<Option<u64>> {
    let store = Store::open(&place.into(), &Environment::default()).unwrap();
    let of =
        |t| runtime().block_on(async { Delta::open(&store, t).await.unwrap().position().await.unwrap() });
    TABLES.iter().map(|t| of(t)).collect()
}

/// Questions whose answers no upkeep may change.
const QUESTIONS: [&str; 5] = [
    "select count(*), count(distinct sequence), sum(sent), sum(lost), min(ts), max(ts) from path_observation",
    "select day, path, known, path_back, class, source, delay_clock, count(*), sum(sent), sum(delay_p50_ns), \
     max(delay_max_ns) from path_observation group by all order by 1, 2, 3, 4, 5, 6, 7",
    "select ts, sent, lost, delay_min_ns, sequence from path_observation where path = 7007 and \
     ts >= '2100-01-01T05:00:00Z' and ts < '2100-01-01T05:20:00Z' order by 1, 2, 3, 4, 5",
    "select day, count(*), sum(rows) from loss_ledger group by day order by day",
    "select path, sum(windows), sum(sent), sum(lost), sum(ecn_marked), sum(delay_count), min(delay_min_ns), \
     max(delay_max_ns), sketch_percentile(sketch_merge(delay_sketch), 0.9) from path_minute group by path order by path",
];

async fn answers(tables: &Tables) -> Vec<String> {
    let mut all = Vec::new();
    for sql in QUESTIONS {
        all.push(ask(tables, sql).await);
    }
    all
}

#[test]
fn a_merge_changes_no_answer_and_keeps_the_position() {
    let dir = Dir::new("merge");
    let rt = runtime();
    // Small files, and less memory than the rows need, so that there is something to cut and to spill.
    let tables =
        open_with(Config { file_bytes: 400_000, merge_bytes: 24 << 20, fold_every: HOUR, ..config(&dir.0) });
    rt.block_on(async {
        for i in 0..12_i64 {
            let from = T + i * DAY / 12;
            let some = observations(i.cast_unsigned(), 8000, from, DAY / 12);
            put(&tables, parts(vec![some, ledger_at(from, i * 10, 10)])).await;
        }
    });
    let before = rt.block_on(answers(&tables));
    let (was_at, (_, files_before)) = (positions(&dir.0), files(&dir.0, &PATH_OBSERVATION));
    assert_eq!(files_before.len(), 12);
    // The day is over, but not for an hour.
    rt.block_on(tables.upkeep(at(T + DAY))).unwrap();
    assert_eq!(files(&dir.0, &PATH_OBSERVATION).1, files_before);
    rt.block_on(tables.upkeep(at(T + DAY) + HOUR)).unwrap();
    assert_eq!(rt.block_on(answers(&tables)), before);
    assert_eq!(positions(&dir.0), was_at);
    let (_, files_after) = files(&dir.0, &PATH_OBSERVATION);
    assert!((2..8).contains(&files_after.len()), "{files_after:?}");
    assert!(files_after.is_disjoint(&files_before));
    assert_eq!(files(&dir.0, &LOSS_LEDGER).1.len(), 1);
    let upkept = tables.upkept();
    assert_eq!((upkept.failures, upkept.days_removed), (0, 0), "{upkept:?}");
    assert!(upkept.rows_merged > 96_000 && upkept.files_made < upkept.files_merged, "{upkept:?}");
    // It is done once.
    rt.block_on(tables.upkeep(at(T + DAY) + 2 * HOUR)).unwrap();
    assert_eq!(tables.upkept().merges, upkept.merges);
    // Files follow each other in time, and within one rows go by path.
    let rows = rt.block_on(async {
        let store = Store::open(&dir.0.as_path().into(), &Environment::default()).unwrap();
        let delta = Delta::open(&store, &PATH_OBSERVATION).await.unwrap();
        let mut ends = Vec::new();
        for path in &files_after {
            let context = datafusion::prelude::SessionContext::new_with_config(
                datafusion::prelude::SessionConfig::new().with_target_partitions(1),
            );
            context.register_table("t", delta.some(std::slice::from_ref(path)).await.unwrap()).unwrap();
            let rows = context.sql("select path, ts from t").await.unwrap().collect().await.unwrap();
            let all: Vec<(i64, i64)> = rows
                .iter()
                .flat_map(|b| {
                    let path = b.column(0).as_primitive::<Int64Type>().values();
                    let ts =
                        b.column(1).as_primitive::<arrow::datatypes::TimestampMicrosecondType>().values();
                    path.iter().copied().zip(ts.iter().copied()).collect::<Vec<_>>()
                })
                .collect();
            assert!(all.is_sorted());
            ends.push((
                all.iter().map(|r| r.1).min().unwrap(),
                all.iter().map(|r| r.1).max().unwrap(),
                all.len(),
            ));
        }
        ends.sort_unstable();
        assert!(ends.windows(2).all(|w| w[0].1 < w[1].0), "{ends:?}");
        ends.iter().map(|e| e.2).sum::<usize>()
    });
    assert_eq!(rows, 96_000);
    tables.close();
    let again = open_with(quiet(&dir.0));
    assert_eq!(rt.block_on(answers(&again)), before);
}

#[test]
fn whatever_the_moment_of_death_upkeep_loses_nothing_and_leaves_nothing() {
    let dir = Dir::new("upkeep-death");
    let rt = runtime();
    let live = dir.0.join("live");
    let tables = open_with(Config { file_bytes: 200_000, ..quiet(&live) });
    rt.block_on(async {
        for i in 0..15_i64 {
            let some = observations(i.cast_unsigned(), 2000, T + i * DAY / 15, DAY / 15);
            put(&tables, parts(vec![some, ledger_at(T, i * 10, 10)])).await;
        }
    });
    let before = rt.block_on(answers(&tables));
    // Pictures of the store while upkeep works are what a dead hub leaves behind.
    let over = AtomicBool::new(false);
    let images: Vec<PathBuf> = std::thread::scope(|s| {
        let camera = s.spawn(|| {
            let mut images = Vec::new();
            while images.len() < 12 && !(over.load(Ordering::Relaxed) && images.len() > 1) {
                let image = dir.0.join(format!("image{}", images.len()));
                copy(&live, &image);
                images.push(image);
            }
            images
        });
        rt.block_on(tables.upkeep(at(T + DAY) + HOUR)).unwrap();
        over.store(true, Ordering::Relaxed);
        camera.join().unwrap()
    });
    assert_eq!(tables.upkept().failures, 0);
    for image in &images {
        let again = open_with(quiet(image));
        assert_eq!(rt.block_on(answers(&again)), before, "{image:?}");
        rt.block_on(again.upkeep(at(T + 3 * DAY))).unwrap();
        assert_eq!(rt.block_on(answers(&again)), before, "{image:?} after its upkeep");
        assert_eq!(again.upkept().failures, 0);
        for table in [&PATH_OBSERVATION, &PATH_MINUTE, &LOSS_LEDGER] {
            let (there, own) = files(image, table);
            assert_eq!(there, own, "{image:?}: files of {} that are not its own", table.name);
        }
        again.close();
        std::fs::remove_dir_all(image).unwrap();
    }
}

#[test]
fn what_was_written_and_never_committed_goes_after_a_day_and_not_before() {
    let dir = Dir::new("orphan");
    let rt = runtime();
    let tables = open_with(quiet(&dir.0));
    rt.block_on(put(&tables, parts(vec![ledger_at(T, 0, 10)])));
    // Died between writing and committing, and while writing.
    rt.block_on(async {
        let store = Store::open(&dir.0.as_path().into(), &Environment::default()).unwrap();
        let delta = Delta::open(&store, &LOSS_LEDGER).await.unwrap();
        let mut writer = delta.writer(Care::Merged).unwrap();
        writer.write(whole(&LOSS_LEDGER, ledger_at(T, 10, 10).1).unwrap()).await.unwrap();
        writer.flush().await.unwrap();
    });
    let (there, own) = files(&dir.0, &LOSS_LEDGER);
    assert_eq!((there.len(), own.len()), (2, 1));
    let day = dir.0.join("tables/loss_ledger").join(Path::new(own.first().unwrap()).parent().unwrap());
    std::fs::write(day.join("part-0.parquet#1"), "half").unwrap();
    rt.block_on(tables.upkeep(SystemTime::now() + 23 * HOUR)).unwrap();
    assert_eq!(files(&dir.0, &LOSS_LEDGER).0.len(), 3, "it may be on its way");
    let hold = dir.0.join("holds/backup-1");
    std::fs::create_dir_all(hold.parent().unwrap()).unwrap();
    std::fs::write(&hold, "").unwrap();
    rt.block_on(tables.upkeep(SystemTime::now() + 25 * HOUR)).unwrap();
    assert_eq!(files(&dir.0, &LOSS_LEDGER).0.len(), 3, "a backup asks that nothing be removed");
    std::fs::remove_file(&hold).unwrap();
    rt.block_on(tables.upkeep(SystemTime::now() + 25 * HOUR)).unwrap();
    assert_eq!(files(&dir.0, &LOSS_LEDGER), (own.clone(), own));
    assert_eq!(tables.upkept().files_deleted, 2);
}

#[test]
fn whole_days_go_when_their_last_row_is_too_old_and_nothing_else() {
    let dir = Dir::new("retention");
    let rt = runtime();
    let keep = [("loss_ledger".to_owned(), Some(2)), ("path_observation".to_owned(), None)].into();
    let tables = open_with(Config { keep_days: keep, ..quiet(&dir.0) });
    let days = "select day, count(*) as n from loss_ledger group by day order by day";
    rt.block_on(async {
        for d in 0..5_i64 {
            let (from, seed) = (T + d * DAY, d.cast_unsigned());
            put(&tables, parts(vec![observations(seed, 50, from, DAY), ledger_at(from, d * 10, 10)])).await;
        }
        let last_of_second = T + 2 * DAY;
        tables.upkeep(at(last_of_second + 2 * DAY - 1)).await.unwrap();
        insta::assert_snapshot!(ask(&tables, days).await, @r#"
        +------------+----+
        | day        | n  |
        +------------+----+
        | 2100-01-02 | 10 |
        | 2100-01-03 | 10 |
        | 2100-01-04 | 10 |
        | 2100-01-05 | 10 |
        +------------+----+
        "#);
        tables.upkeep(at(last_of_second + 2 * DAY)).await.unwrap();
        insta::assert_snapshot!(ask(&tables, days).await, @r#"
        +------------+----+
        | day        | n  |
        +------------+----+
        | 2100-01-03 | 10 |
        | 2100-01-04 | 10 |
        | 2100-01-05 | 10 |
        +------------+----+
        "#);
        // What is still in memory is not touched, and what is late goes with the next round.
        let late = tables.append(parts(vec![ledger_at(T, 90, 1)])).unwrap();
        tables.durable(late).await.unwrap();
        tables.upkeep(at(last_of_second + 2 * DAY)).await.unwrap();
    });
    let upkept = tables.upkept();
    assert_eq!((upkept.days_removed, upkept.rows_removed), (3, 21), "{upkept:?}");
    let left = "select count(*) as n, min(day) as first, (select count(*) from path_observation) as o from loss_ledger";
    insta::assert_snapshot!(rt.block_on(ask(&tables, left)), @r#"
    +----+------------+-----+
    | n  | first      | o   |
    +----+------------+-----+
    | 30 | 2100-01-03 | 250 |
    +----+------------+-----+
    "#);
    tables.close();
    let again = open_with(quiet(&dir.0));
    insta::assert_snapshot!(rt.block_on(ask(&again, left)), @r#"
    +----+------------+-----+
    | n  | first      | o   |
    +----+------------+-----+
    | 30 | 2100-01-03 | 250 |
    +----+------------+-----+
    "#);
    again.close();
    let wrong = Config { keep_days: [("paths".to_owned(), Some(2))].into(), ..quiet(&dir.0) };
    let e = Tables::open(wrong, || false).map(|_| ()).unwrap_err();
    assert_eq!(e, TablesError::NoTable { table: "paths".to_owned() });
}

#[test]
fn a_reader_that_opened_before_reads_on_for_a_day() {
    let dir = Dir::new("reader");
    let rt = runtime();
    let tables = open_with(quiet(&dir.0));
    rt.block_on(async {
        for i in 0..15_i64 {
            put(&tables, parts(vec![ledger_at(T, i * 10, 10)])).await;
        }
    });
    // Whoever opened the table by its files, now and after the next fold.
    let reader = rt
        .block_on(Delta::open(
            &Store::open(&dir.0.as_path().into(), &Environment::default()).unwrap(),
            &LOSS_LEDGER,
        ))
        .unwrap();
    let read = || {
        rt.block_on(async {
            let context = datafusion::prelude::SessionContext::new();
            context.register_table("t", reader.shown().await.unwrap().provider).unwrap();
            let rows = context.sql("select rows from t").await.unwrap().collect().await?;
            Ok::<_, datafusion::error::DataFusionError>(rows.iter().map(RecordBatch::num_rows).sum::<usize>())
        })
    };
    rt.block_on(put(&tables, parts(vec![ledger_at(T, 150, 10)])));
    rt.block_on(tables.upkeep(SystemTime::now() + 2 * HOUR)).unwrap();
    assert_eq!((tables.upkept().merges, tables.upkept().files_merged), (1, 16));
    assert_eq!(files(&dir.0, &LOSS_LEDGER).1.len(), 1);
    assert_eq!(read().unwrap(), 150);
    rt.block_on(tables.upkeep(SystemTime::now() + 26 * HOUR)).unwrap();
    let (there, own) = files(&dir.0, &LOSS_LEDGER);
    assert_eq!((there.len(), own.len()), (1, 1), "the merged file and no other");
    assert!(read().is_err(), "its files are gone");
}

#[test]
fn questions_and_rows_go_on_while_files_are_merged() {
    let dir = Dir::new("meanwhile");
    let rt = runtime();
    let tables =
        open_with(Config { file_bytes: 300_000, fold_every: Duration::from_millis(20), ..config(&dir.0) });
    rt.block_on(async {
        for i in 0..10 {
            put(&tables, parts(vec![observations(i, 4000, T, DAY)])).await;
        }
    });
    let sql = "select count(*), sum(sent), (select sum(windows) from path_minute) from path_observation";
    let sum = |b: &RecordBatch| -> i64 {
        b["sent"].as_primitive::<arrow::datatypes::Int32Type>().iter().flatten().map(i64::from).sum()
    };
    let mut expected: (i64, i64) = (0..10).fold((0, 0), |(n, s), i| {
        let batch = observations(i, 4000, T, DAY).1;
        (n + 4000, s + sum(&batch))
    });
    let merges_before = tables.upkept().merges;
    let mut asked = 0;
    rt.block_on(async {
        let mut upkeep = std::pin::pin!(tables.upkeep(at(T + DAY) + HOUR));
        let mut over = false;
        for seed in 100.. {
            // Not for ever: there would always be something to merge.
            if asked < 30 {
                let (about, batch) = observations(seed, 100, T, DAY);
                expected = (expected.0 + 100, expected.1 + sum(&batch));
                tables.durable(tables.append(parts(vec![(about, batch)])).unwrap()).await.unwrap();
            }
            let batches = tables.ask(sql, Limits::default()).await.unwrap().all().await.unwrap();
            let n = |c: usize| batches[0].column(c).as_primitive::<Int64Type>().value(0);
            assert_eq!((n(0), n(1)), expected, "after {asked} questions");
            assert!(n(2) <= n(0) && n(2) >= 40_000, "sums lag behind by what is in memory at most");
            asked += 1;
            if over {
                break;
            }
            tokio::select! {
                biased;
                done = &mut upkeep => { done.unwrap(); over = true; }
                () = std::future::ready(()) => {}
            }
        }
        tables.fold().await.unwrap();
    });
    assert!(tables.upkept().merges > merges_before && tables.upkept().failures == 0, "{:?}", tables.upkept());
    let all = rt.block_on(ask(
        &tables,
        "select count(*) - (select sum(windows) from path_minute) as n from path_observation",
    ));
    assert!(all.contains("| 0 |"), "{all}");
}

#[test]
fn sums_by_the_minute_are_those_of_the_observations_each_counted_once() {
    let dir = Dir::new("rollup");
    let rt = runtime();
    let (live, died) = (dir.0.join("live"), dir.0.join("died"));
    let tables = open_with(quiet(&live));
    let of = "sum(sent) as sent, sum(lost) as lost, sum(reordered) as reordered, sum(ecn_marked) as marked, \
              coalesce(sum(delay_count), 0) as delays, coalesce(sum(delay_over), 0) as above, min(delay_min_ns) as low, \
              max(delay_max_ns) as high";
    let key = "fabric_epoch, path, known, path_back, class, source";
    let observed = format!(
        "select date_trunc('minute', ts) as minute, {key}, count(*) as windows, {of} from path_observation group by \
         minute, {key} order by 1, 2, 3, 4, 5, 6, 7"
    );
    let summed = format!(
        "select ts as minute, {key}, sum(windows) as windows, {of} from path_minute group by ts, {key} order by 1, 2, 3, 4, 5, 6, 7"
    );
    let same = |tables: &Tables, what: &str| {
        let (o, s) = rt.block_on(async { (ask(tables, &observed).await, ask(tables, &summed).await) });
        assert!(o.lines().count() > 100);
        assert_eq!(o, s, "{what}");
    };
    let minute = 60_000_000;
    rt.block_on(async {
        put(&tables, parts(vec![observations(1, 3000, T, 5 * minute)])).await;
        // Late, into the same minutes.
        put(&tables, parts(vec![observations(2, 1000, T + minute, 3 * minute)])).await;
        put(&tables, parts(vec![observations(3, 1000, T + DAY - minute, 2 * minute)])).await;
    });
    same(&tables, "folded");
    let sums = crate::rollup::minutes(&[whole(&PATH_OBSERVATION, observations(9, 9, T, minute).1).unwrap()])
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let e = tables.append(parts(vec![(&PATH_MINUTE, sums)])).unwrap_err();
    assert!(e.to_string().contains("made from path_observation"), "{e}");
    // One that dies between the commit of the sums and that of the observations.
    let ticket = tables.append(parts(vec![observations(4, 1000, T, DAY)])).unwrap();
    rt.block_on(tables.durable(ticket)).unwrap();
    copy(&live, &died);
    rt.block_on(tables.fold()).unwrap();
    same(&tables, "folded again");
    std::fs::remove_dir_all(died.join("tables/path_minute")).unwrap();
    copy(&live.join("tables/path_minute"), &died.join("tables/path_minute"));
    let again = open_with(quiet(&died));
    rt.block_on(put(&again, parts(vec![observations(5, 10, T, minute)])));
    same(&again, "after a death in between");
    again.close();
    // Merging makes one row of a minute.
    let rows = "select count(*) as n from path_minute";
    let before = rt.block_on(ask(&tables, rows));
    rt.block_on(tables.upkeep(at(T + 2 * DAY) + 2 * HOUR)).unwrap();
    same(&tables, "merged");
    assert_ne!(rt.block_on(ask(&tables, rows)), before);
    let twice = format!(
        "select count(*) as n from (select ts, {key} from path_minute group by ts, {key} having count(*) > 1)"
    );
    let twice = rt.block_on(ask(&tables, &twice));
    assert!(twice.contains("| 0 |"), "a minute stands in one row: {twice}");
    assert_eq!(tables.upkept().failures, 0);
}

#[test]
fn percentiles_of_sums_are_those_of_the_delays() {
    let dir = Dir::new("percentiles");
    let rt = runtime();
    let tables = open_with(quiet(&dir.0));
    let mut delays: Vec<f64> = Vec::new();
    rt.block_on(async {
        for i in 0..6 {
            let (about, batch) = observations(i, 3000, T, DAY);
            let long = |name: &str| batch[name].as_primitive::<Int64Type>();
            let count = batch["delay_count"].as_primitive::<arrow::datatypes::Int32Type>();
            let (low, median, high) = (long("delay_min_ns"), long("delay_p50_ns"), long("delay_max_ns"));
            for row in 0..batch.num_rows() {
                let n = count.iter().nth(row).flatten().unwrap_or(0);
                match n {
                    0 => {}
                    1 => delays.push(median.value(row) as f64),
                    n => {
                        delays.extend([low.value(row) as f64, high.value(row) as f64]);
                        delays.extend((2..n).map(|_| median.value(row) as f64));
                    }
                }
            }
            put(&tables, parts(vec![(about, batch)])).await;
        }
    });
    delays.sort_by(f64::total_cmp);
    let check = |when: &str| {
        for q in [0.0, 0.05, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let sql = format!("select sketch_percentile(sketch_merge(delay_sketch), {q}) from path_minute");
            let batches = tables.ask_blocking(&sql, Limits::default()).unwrap();
            let got = batches[0].column(0).as_primitive::<Float64Type>().value(0);
            let want = delays[(q * (delays.len() - 1) as f64) as usize];
            assert!((got - want).abs() <= 0.010_001 * want, "{when}, {q}: {got}, exact {want}");
        }
    };
    check("folded");
    rt.block_on(tables.upkeep(at(T + DAY) + HOUR)).unwrap();
    assert!(tables.upkept().merges > 0);
    check("merged");
    for (sql, said) in [
        ("select sketch_percentile(delay_sketch, 99) from path_minute", "expected 0 to 1"),
        ("select sketch_percentile(x'00ff', 0.5)", "expected a sketch"),
        ("select sketch_merge(x'00ff')", "expected a sketch"),
    ] {
        let e = tables.ask_blocking(sql, Limits::default()).unwrap_err();
        assert!(e.to_string().contains(said), "{sql}: {e}");
    }
}

#[test]
fn old_entries_of_a_log_go_and_the_position_stays() {
    let dir = Dir::new("entries");
    let rt = runtime();
    let tables = open_with(quiet(&dir.0));
    let log = dir.0.join("tables/loss_ledger/_delta_log");
    let entries = || std::fs::read_dir(&log).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    rt.block_on(async {
        for i in 0..52 {
            put(&tables, parts(vec![ledger_at(T, i, 1)])).await;
        }
    });
    assert!(entries().len() > 52);
    for path in entries() {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - 72 * HOUR).unwrap();
    }
    rt.block_on(put(&tables, parts(vec![ledger_at(T, 52, 1)])));
    assert!(entries().len() < 30, "{:?}", entries());
    let position = positions(&dir.0)[LOSS_LEDGER.index()];
    assert!(position.is_some());
    let left = "select count(*) as n, count(distinct rows) as d from loss_ledger";
    let before = rt.block_on(ask(&tables, left));
    tables.close();
    let again = open_with(quiet(&dir.0));
    assert_eq!(positions(&dir.0)[LOSS_LEDGER.index()], position);
    assert_eq!(rt.block_on(ask(&again, left)), before);
    insta::assert_snapshot!(before, @r#"
    +----+----+
    | n  | d  |
    +----+----+
    | 53 | 53 |
    +----+----+
    "#);
}
