//! The room as a whole, on a real directory.

mod bulk;
mod upkeep;

use crate::backup::{backup, restore};
use crate::schema::{COUNTER, LOSS_LEDGER, TABLES, Table};
use crate::{Config, Limits, Mark, Rows, Tables, TablesError};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use fabric::Fabric;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FABRIC: &str = "name = \"t\"\nplanes = 2\nleaves = 2\nspines = 2\nhosts = 4\n";

fn fabric() -> Arc<Fabric> {
    Arc::new(Fabric::parse(FABRIC).unwrap())
}

/// A directory that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("selvedge-tables-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Dir(path)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(place: &Path) -> Config {
    Config {
        log_every: Duration::from_millis(1),
        takeover_after: Duration::from_secs(60),
        // The rows here are of a certain day; when the test runs should not matter.
        keep_days: TABLES.iter().map(|t| (t.name.to_owned(), None)).collect(),
        ..Config::new(fabric(), place)
    }
}

fn open(place: &Path) -> Tables {
    Tables::open(config(place), || false).unwrap().expect("nobody else writes there")
}

/// 2026-01-31T03:12:08Z, and a second later each row.
const T0: i64 = 1_769_829_128_000_000;

/// `rows` losses of one row each, at running times.
fn ledger(from: i64, rows: i64) -> (&'static Table, RecordBatch) {
    ledger_at(T0 + from * 1_000_000, from, rows)
}

/// The same, a second later each, from a moment on.
fn ledger_at(begin_us: i64, from: i64, rows: i64) -> (&'static Table, RecordBatch) {
    let n = usize::try_from(rows).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            TimestampMicrosecondArray::from_iter_values((0..rows).map(|i| begin_us + i * 1_000_000))
                .with_timezone("UTC"),
        ),
        Arc::new(Int32Array::from(vec![3; n])),
        Arc::new(Int64Array::from(vec![1; n])),
        Arc::new(StringArray::from(vec!["agent"; n])),
        Arc::new(StringArray::from(vec!["agent_buffer"; n])),
        Arc::new(Int64Array::from_iter_values(from..from + rows)),
    ];
    (&LOSS_LEDGER, RecordBatch::try_new(LOSS_LEDGER.row_schema(), columns).unwrap())
}

/// One row of a table, each value read from its text.
fn a_row(table: &'static Table, values: &[String]) -> RecordBatch {
    let schema = table.row_schema();
    let columns = schema.fields().iter().zip(values).map(|(f, v)| {
        let text: ArrayRef = Arc::new(StringArray::from(vec![v.as_str()]));
        arrow::compute::cast(&text, f.data_type()).unwrap()
    });
    RecordBatch::try_new(table.row_schema(), columns.collect()).unwrap()
}

fn rows(from: i64, n: i64) -> Rows {
    Rows {
        producer: Some((3, Mark { epoch: 1, sequence: from.cast_unsigned(), lost: 0 })),
        parts: vec![ledger(from, n)],
    }
}

async fn ask(tables: &Tables, sql: &str) -> String {
    let mut answer = tables.ask(sql, Limits::default()).await.unwrap();
    pretty_format_batches(&answer.all().await.unwrap()).unwrap().to_string()
}

async fn count(tables: &Tables) -> (i64, i64) {
    let sql = "select count(*), count(distinct rows) from loss_ledger";
    let batches = tables.ask(sql, Limits::default()).await.unwrap().all().await.unwrap();
    let n = |c: usize| batches[0].column(c).as_any().downcast_ref::<Int64Array>().unwrap().value(0);
    (n(0), n(1))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn rows_are_seen_in_memory_in_the_tables_and_after_a_start() {
    let dir = Dir::new("seen");
    let rt = runtime();
    let sql =
        "select day, reason, count(*) as n, sum(rows) as rows from loss_ledger group by all order by day";
    let tables = open(&dir.0);
    let first = rt.block_on(async {
        assert_eq!(count(&tables).await, (0, 0));
        let ticket = tables.append(rows(0, 100_000)).unwrap();
        tables.durable(ticket).await.unwrap();
        let in_memory = ask(&tables, sql).await;
        tables.fold().await.unwrap();
        assert_eq!(tables.bytes_held(), 0);
        assert_eq!(ask(&tables, sql).await, in_memory, "in the table");
        let ticket = tables.append(rows(100_000, 10)).unwrap();
        tables.durable(ticket).await.unwrap();
        assert_eq!(count(&tables).await, (100_010, 100_010), "both as one");
        in_memory
    });
    tables.close();
    insta::assert_snapshot!(first, @r#"
    +------------+--------------+-------+------------+
    | day        | reason       | n     | rows       |
    +------------+--------------+-------+------------+
    | 2026-01-31 | agent_buffer | 74872 | 2802870756 |
    | 2026-02-01 | agent_buffer | 25128 | 2197079244 |
    +------------+--------------+-------+------------+
    "#);
    let tables = open(&dir.0);
    assert_eq!(rt.block_on(count(&tables)), (100_010, 100_010));
    assert_eq!(tables.marks()[&3], Mark { epoch: 1, sequence: 100_000, lost: 0 });
}

#[test]
fn whatever_the_moment_of_death_what_was_durable_is_there_once() {
    let dir = Dir::new("death");
    let rt = runtime();
    let tables = open(&dir.0.join("live"));
    let (mut durable, mut shared) = (0, 0);
    for round in 0..12 {
        let ticket = tables.append(rows(round * 50, 50)).unwrap();
        if round % 3 != 2 {
            rt.block_on(tables.durable(ticket)).unwrap();
            durable = (round + 1) * 50;
        }
        if round % 4 == 1 {
            rt.block_on(tables.fold()).unwrap();
        }
        // What a hub that dies at this moment leaves behind, as a backup sees it.
        let image = dir.0.join(format!("image{round}"));
        let taken = backup(&dir.0.join("live"), &dir.0.join("backups"), 2, |_, _| {}).unwrap();
        shared += taken.shared;
        restore(&taken.place, &image, |_, _| {}).unwrap();
        let again = open(&image);
        let (n, distinct) = rt.block_on(count(&again));
        assert!(
            n >= durable && n == distinct,
            "round {round}: {n} rows, {distinct} distinct, {durable} durable"
        );
        assert_eq!(n % 50, 0, "a batch is there whole or not at all");
        let mark = again.marks()[&3];
        assert_eq!(mark.sequence, (n - 50).cast_unsigned(), "the mark is that of the newest batch");
        // It goes on where the other one was.
        let ticket = again.append(rows(10_000, 1)).unwrap();
        rt.block_on(again.durable(ticket)).unwrap();
        rt.block_on(again.fold()).unwrap();
        assert_eq!(rt.block_on(count(&again)).0, n + 1);
    }
    assert!(shared > 0, "what did not change is not copied again");
    assert_eq!(std::fs::read_dir(dir.0.join("backups")).unwrap().count(), 2, "older ones go");
    assert_eq!(std::fs::read_dir(dir.0.join("live/holds")).unwrap().count(), 0, "nobody holds anything");
}

#[test]
fn a_backup_is_whole_or_refused() {
    let dir = Dir::new("backup");
    let rt = runtime();
    let live = dir.0.join("live");
    let tables = open(&live);
    rt.block_on(tables.durable(tables.append(rows(0, 50)).unwrap())).unwrap();
    rt.block_on(tables.fold()).unwrap();
    std::fs::write(live.join("address.key"), "k").unwrap();
    let mut told = (0, 0);
    let taken = backup(&live, &dir.0.join("backups"), 5, |done, all| told = (done, all)).unwrap();
    assert!(taken.files > 3 && told.0 <= taken.files, "{taken:?} {told:?}");
    let fails =
        |backup: &Path, to: &str| restore(backup, &dir.0.join(to), |_, _| {}).unwrap_err().to_string();
    assert!(fails(&taken.place, "live").contains("not empty"));
    assert!(fails(&dir.0, "new").contains("MANIFEST"));
    assert!(backup(&dir.0.join("backups"), &dir.0.join("x"), 1, |_, _| {}).is_err(), "no hub's directory");
    assert!(backup(&live, &live.join("backups"), 1, |_, _| {}).is_err(), "inside itself");
    // A segment with one bit turned.
    let log = taken.place.join("log");
    let segment = std::fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert!(fails(&taken.place, "new").contains("not what was backed up"));
    assert!(!dir.0.join("new").exists() && !dir.0.join("new.partial").exists(), "nothing is left of it");
    // A manifest that would write elsewhere.
    let manifest = taken.place.join("MANIFEST");
    std::fs::write(&manifest, "selvedge backup 1\n00000000 0 0 ../../escaped\n").unwrap();
    assert!(fails(&taken.place, "new").contains("damaged"));
}

#[test]
fn of_two_writers_the_first_finds_out() {
    let dir = Dir::new("fenced");
    let rt = runtime();
    let first = open(&dir.0);
    rt.block_on(first.durable(first.append(rows(0, 5)).unwrap())).unwrap();
    assert!(Tables::open(config(&dir.0), || false).unwrap().is_none(), "the first one lives");
    // As if it had been silent for too long.
    let impatient = Config { takeover_after: Duration::ZERO, ..config(&dir.0) };
    let second = Tables::open(impatient, || false).unwrap().unwrap();
    let lost = first.append(rows(5, 5)).unwrap();
    let e = rt.block_on(first.durable(lost)).unwrap_err();
    assert!(matches!(e, TablesError::Fenced { .. }), "{e:?}");
    assert_eq!(first.append(rows(9, 1)).unwrap_err(), TablesError::Closed);
    rt.block_on(first.end());
    rt.block_on(second.durable(second.append(rows(5, 5)).unwrap())).unwrap();
    rt.block_on(second.fold()).unwrap();
    assert_eq!(rt.block_on(count(&second)), (10, 10));
}

#[test]
fn one_that_stops_in_order_is_followed_at_once() {
    let dir = Dir::new("release");
    let rt = runtime();
    let first = open(&dir.0);
    first.append(rows(0, 5)).unwrap();
    first.close();
    let second = open(&dir.0);
    assert_eq!(rt.block_on(count(&second)), (5, 5));
}

#[test]
fn a_store_that_refuses_is_told_bounded_and_comes_back() {
    let dir = Dir::new("refuses");
    let rt = runtime();
    let tables = Tables::open(Config { memory_bytes: 1 << 20, ..config(&dir.0) }, || false).unwrap().unwrap();
    let log = dir.0.join("log");
    // Nothing can be created where a file stands in the way.
    std::fs::rename(&log, dir.0.join("aside")).unwrap();
    std::fs::write(&log, "").unwrap();
    let mut taken = 0;
    let full = loop {
        match tables.append(rows(taken, 100)) {
            Ok(_) => taken += 100,
            Err(e) => break e,
        }
        assert!(taken < 1_000_000, "memory is bounded");
    };
    assert!(matches!(full, TablesError::Full { limit: 1_048_576, .. }), "{full}");
    rt.block_on(async {
        while tables.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(tables.bytes_held() <= 1 << 20);
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(dir.0.join("aside"), &log).unwrap();
    rt.block_on(tables.durable(tables.newest())).unwrap();
    assert_eq!(tables.trouble(), None);
    assert_eq!(rt.block_on(count(&tables)), (taken, taken));
}

#[test]
fn a_damaged_log_is_told_and_a_torn_end_is_not_missed() {
    let dir = Dir::new("damaged");
    let rt = runtime();
    let tables = open(&dir.0.join("live"));
    for i in 0..4 {
        rt.block_on(tables.durable(tables.append(rows(i, 1)).unwrap())).unwrap();
    }
    let image = |name: &str| {
        let to = dir.0.join(name);
        let taken = backup(&dir.0.join("live"), &dir.0.join("backups"), 1, |_, _| {}).unwrap();
        restore(&taken.place, &to, |_, _| {}).unwrap();
        let mut segments: Vec<_> =
            std::fs::read_dir(to.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
        segments.sort();
        (to, segments)
    };
    let (torn, segments) = image("torn");
    let last = segments.last().unwrap();
    let bytes = std::fs::read(last).unwrap();
    std::fs::write(last, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(rt.block_on(count(&open(&torn))).0, 3);
    let (hole, segments) = image("hole");
    std::fs::remove_file(&segments[1]).unwrap();
    let e = Tables::open(config(&hole), || false).map(|_| ()).unwrap_err();
    assert!(matches!(e, TablesError::Damaged { .. }), "{e}");
    let (middle, segments) = image("middle");
    std::fs::write(&segments[1], "what is this").unwrap();
    let e = Tables::open(config(&middle), || false).map(|_| ()).unwrap_err();
    assert!(matches!(e, TablesError::Damaged { .. }), "{e}");
}

#[test]
fn questions_only_read_and_keep_to_their_limits() {
    let dir = Dir::new("questions");
    let rt = runtime();
    let tables = open(&dir.0);
    rt.block_on(tables.durable(tables.append(rows(0, 1_000)).unwrap())).unwrap();
    let asked = |sql: &str, limits: Limits| {
        rt.block_on(async {
            let mut answer = tables.ask(sql, limits).await?;
            let batches = answer.all().await?;
            Ok::<_, TablesError>((
                batches.iter().map(RecordBatch::num_rows).sum::<usize>(),
                answer.truncated(),
            ))
        })
    };
    for sql in [
        "drop table loss_ledger",
        "delete from loss_ledger",
        "insert into loss_ledger select * from loss_ledger",
        "create table t as select 1",
        "create view v as select 1",
        "create external table t stored as csv location '/etc/passwd'",
        "copy loss_ledger to '/tmp/x.csv'",
        "copy (select 1) to '/tmp/x.parquet'",
        "set datafusion.execution.batch_size = 1",
        "select * from '/etc/passwd'",
        "select 1; select 2",
        "prepare p as select 1",
        "explain analyze insert into loss_ledger select * from loss_ledger",
    ] {
        let e = asked(sql, Limits::default()).unwrap_err();
        // Two at once are no statement; all others are ones that do more than read.
        let expected = match sql.contains(';') {
            true => matches!(e, TablesError::Question { .. }),
            false => matches!(e, TablesError::Forbidden { .. }),
        };
        assert!(expected, "{sql}: {e:?}");
    }
    assert!(!Path::new("/tmp/x.csv").exists() && !Path::new("/tmp/x.parquet").exists());
    let some = Limits { rows: 10, ..Limits::default() };
    assert_eq!(asked("select * from loss_ledger", some).unwrap(), (10, true));
    assert_eq!(asked("select * from loss_ledger limit 10", some).unwrap(), (10, false));
    assert_eq!(asked("select * from loss_ledger where rows < 4", some).unwrap(), (4, false));
    let hurried = Limits { within: Duration::from_millis(300), ..Limits::default() };
    let endless = "select count(*) from loss_ledger a, loss_ledger b, loss_ledger c, loss_ledger d \
                   where a.rows + b.rows + c.rows + d.rows = 7";
    let begun = std::time::Instant::now();
    let e = asked(endless, hurried).unwrap_err();
    assert!(matches!(e, TablesError::Limit { .. }), "{e:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for sql in ["show tables", "describe link", "explain select 1", "show columns from link"] {
        assert!(asked(sql, Limits::default()).unwrap().0 > 0, "{sql}");
    }
}

#[test]
fn functions_know_the_fabric() {
    let dir = Dir::new("functions");
    let rt = runtime();
    let tables = open(&dir.0);
    let f = fabric();
    let nic = |name: &str| f.nic_by_name(name).unwrap();
    let path = f.paths(nic("host0-p0"), nic("host3-p0")).next().unwrap().0;
    let text = rt.block_on(ask(
        &tables,
        &format!(
            "select path_name({path}) as name, path_from({path}) as f, path_to({path}) as t, path_plane({path}) as p, path_from_leaf({path}) as fl, \
             path_crosses({path}, 'p0-spine0') as spine, path_crosses({path}, 'host3') as host, \
             path_crosses({path}, 'p1-spine0') as other, host_name(2) as h, host_name(99) as none, \
             ip_in('fd00::7', 'fd00::/16') as i, ip_in('10.1.2.3', '10.0.0.0/16') as o"
        ),
    ));
    insta::assert_snapshot!(text, @r#"
    +-------------------------------------------------+-------+-------+---+----------+-------+------+-------+-------+------+------+-------+
    | name                                            | f     | t     | p | fl       | spine | host | other | h     | none | i    | o     |
    +-------------------------------------------------+-------+-------+---+----------+-------+------+-------+-------+------+------+-------+
    | host0 > p0-leaf0 > p0-spine0 > p0-leaf1 > host3 | host0 | host3 | 0 | p0-leaf0 | true  | true | false | host2 |      | true | false |
    +-------------------------------------------------+-------+-------+---+----------+-------+------+-------+-------+------+------+-------+
    "#);
    let text = rt.block_on(ask(&tables, &format!("select unnest(path_links({path})) as link")));
    insta::assert_snapshot!(text, @r#"
    +--------------------+
    | link               |
    +--------------------+
    | host0:p0-leaf0     |
    | p0-leaf0:p0-spine0 |
    | p0-spine0:p0-leaf1 |
    | p0-leaf1:host3     |
    +--------------------+
    "#);
    for (sql, said) in [
        (format!("select path_crosses({path}, 'nothing')"), "expected a link such as"),
        ("select ip_in('10.0.0.1', 'x')".to_owned(), "expected one such as 10.0.0.0/8"),
        ("select path_name('x')".to_owned(), ""),
    ] {
        let e = rt.block_on(async { tables.ask(&sql, Limits::default()).await?.all().await }).unwrap_err();
        assert!(e.to_string().contains(said), "{e}");
    }
    for function in crate::functions::LIST {
        let sql = format!("select {}", function.example);
        let from = match function.name {
            "ip_in" => "",
            "link_name" => " from link_health",
            "address" => " from flow",
            "sketch_percentile" | "sketch_merge" => " from path_minute",
            _ => " from path_observation",
        };
        let asked =
            rt.block_on(async { tables.ask(&format!("{sql}{from}"), Limits::default()).await?.all().await });
        assert!(asked.is_ok(), "{}: {asked:?}", function.example);
    }
}

#[test]
fn rows_of_another_shape_are_refused() {
    let dir = Dir::new("shape");
    let tables = open(&dir.0);
    let (_, batch) = ledger(0, 1);
    let wrong = Rows { producer: None, parts: vec![(&COUNTER, batch)] };
    assert!(matches!(tables.append(wrong), Err(TablesError::Rows { .. })));
}
