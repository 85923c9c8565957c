//! `selvedge bench tables`: what tables weigh, and how long questions take.
//!
//! How: the tables are opened in this process, as a hub does. With `--rows` so many observations are made up first: every
//! path of a fabric once a window, with delays that scatter around a base of the path's own and a few sick paths. Then
//! upkeep does what is due, each table is weighed beside the same rows as one plain Parquet file, and each question is
//! asked many times, each time about another path or time.

use crate::out;
use ::tables::arrow::array::{
    ArrayRef, AsArray, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ::tables::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use ::tables::export::{Format, file};
use ::tables::schema::{PATH_OBSERVATION, TABLES};
use ::tables::{Config, Limits, Place, Rows, Tables, TablesError};
use anyhow::{Context, ensure};
use fabric::Fabric;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// 2026-01-31T00:00:00Z: made-up rows begin there.
const T0_US: i64 = 1_769_817_600_000_000;
const WINDOW_US: i64 = 500_000;
const MINUTE_US: i64 = 60_000_000;
const DAY: Duration = Duration::from_hours(24);
/// Paths of one host.
const PER_HOST: u32 = 80;
/// Rows handed over together.
const TOGETHER: u64 = 65_536;
/// Rows of a table written as plain Parquet: more say no more.
const WEIGHED: usize = 1_000_000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Observations made up first, half a second apart on each path
    #[arg(long, default_value_t = 0)]
    rows: u64,
    /// Paths they are on
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    paths: u32,
    /// How often each question is asked
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    asks: u32,
    /// Where the tables are; a temporary directory, removed at the end, if not given
    #[arg(long, value_name = "DIR|URL")]
    data: Option<Place>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Numbers that are the same at every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Below `n`, which is not 0.
    fn below(&mut self, n: u32) -> i32 {
        i32::try_from(self.next() % u64::from(n)).unwrap_or(i32::MAX)
    }
    /// Above 0 with a long tail; the median is `median`.
    fn tail(&mut self, median: f64) -> f64 {
        let even = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        median * (1.0 - even).ln() / -std::f64::consts::LN_2
    }
}

/// The id of a path of the made-up fabric. Real ones are hashes and scatter as well.
fn path(which: u32) -> i64 {
    Numbers(u64::from(which)).next().cast_signed()
}

/// One observation of twelve probes or so.
struct Row {
    ts: i64,
    which: u32,
    sequence: i64,
    entropy: i32,
    sent: i32,
    lost: i32,
    over: i32,
    excess: i64,
    low: i64,
    median: i64,
    high: i64,
}

impl Row {
    fn new(number: u64, paths: u32, numbers: &mut Numbers) -> Row {
        let (window, which) = (number / u64::from(paths), (number % u64::from(paths)) as u32);
        // Windows of different hosts do not begin together, and never quite on time.
        let begin = window.cast_signed() * WINDOW_US + i64::from(which / PER_HOST) * 7_919 % WINDOW_US;
        let sick = which % 2_000 == 7;
        let base = 9_000.0 + f64::from(which % 97) * 130.0;
        let low = base + numbers.tail(60.0);
        let median = low + numbers.tail(350.0);
        let over = i32::from(numbers.below(60) == 0);
        Row {
            ts: T0_US + begin + i64::from(numbers.below(40)),
            which,
            sequence: (window * u64::from(PER_HOST) + u64::from(which % PER_HOST) + 1).cast_signed(),
            entropy: numbers.below(65_536),
            sent: 12 + numbers.below(3),
            lost: if sick { numbers.below(3) } else { i32::from(numbers.below(20_000) == 0) },
            over,
            excess: if over > 0 { numbers.tail(4_000.0) as i64 } else { 0 },
            low: low as i64,
            median: median as i64,
            high: (median + numbers.tail(2_500.0)) as i64,
        }
    }
}

fn batch(rows: &[Row]) -> anyhow::Result<RecordBatch> {
    let int = |f: fn(&Row) -> i32| -> ArrayRef { Arc::new(Int32Array::from_iter_values(rows.iter().map(f))) };
    let long =
        |f: fn(&Row) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(f))) };
    let text = |word: &str| -> ArrayRef { Arc::new(StringArray::from(vec![word; rows.len()])) };
    let tiny = |n: i8| -> ArrayRef { Arc::new(Int8Array::from(vec![n; rows.len()])) };
    let ts = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.ts)).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ts),
        int(|_| 500_000),
        int(|r| (r.which / PER_HOST).cast_signed()),
        long(|r| T0_US + i64::from(r.which / PER_HOST) * 1_009),
        long(|r| r.sequence),
        long(|_| 7),
        long(|r| path(r.which)),
        text("exact"),
        Arc::new(Int64Array::from(vec![None; rows.len()])),
        Arc::new(StringArray::from(vec![None::<&str>; rows.len()])),
        tiny(0),
        tiny(8),
        int(|r| r.entropy),
        int(|r| r.sent),
        int(|r| r.lost),
        int(|_| 0),
        int(|_| 0),
        text("probe"),
        text("synchronized"),
        int(|r| r.sent - r.lost),
        int(|r| r.over),
        long(|r| r.excess),
        long(|r| r.low),
        long(|r| r.median),
        long(|r| r.high),
    ];
    Ok(RecordBatch::try_new(PATH_OBSERVATION.row_schema(), columns)?)
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let temporary = std::env::temp_dir().join(format!("selvedge-tables-{}", std::process::id()));
    let place = args.data.clone().unwrap_or_else(|| temporary.clone().into());
    let outcome = measure(&args, place);
    if args.data.is_none() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    outcome
}

fn bar(all: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {elapsed}");
    ProgressBar::new(all).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn measure(args: &Args, place: Place) -> anyhow::Result<ExitCode> {
    // Paths are only numbers here, so any fabric does.
    let fabric = Fabric::parse("name = \"bench\"\nplanes = 1\nleaves = 2\nspines = 1\nhosts = 2\n")
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    // Rows of any day stay, whatever day it is.
    let keep_days = TABLES.iter().map(|t| (t.name.to_owned(), None)).collect();
    let config = Config {
        keep_days,
        environment: crate::cmd::hub::environment(),
        ..Config::new(Arc::new(fabric), place)
    };
    let tables =
        Tables::open(config, || false)?.context("a hub uses these tables; restore a backup of them")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;

    let begun = Instant::now();
    let progress = if args.json { ProgressBar::hidden() } else { bar(args.rows) };
    let mut numbers = Numbers(1);
    let mut made = 0;
    while made < args.rows {
        let n = TOGETHER.min(args.rows - made);
        let rows: Vec<Row> = (made..made + n).map(|i| Row::new(i, args.paths, &mut numbers)).collect();
        tables.append_blocking(&Rows { producer: None, parts: vec![(&PATH_OBSERVATION, batch(&rows)?)] })?;
        made += n;
        progress.set_position(made);
        progress.set_message(format!("{made} rows"));
    }
    tables.durable_blocking(tables.newest())?;
    let write_s = begun.elapsed().as_secs_f64();
    progress.set_message("upkeep");
    let begun = Instant::now();
    // As a day later, when the last day is over and its files are merged.
    let later = runtime.block_on(async {
        tables.fold().await?;
        let newest = newest_us(&tables).await?;
        let later = newest.map_or(SystemTime::now(), |us| UNIX_EPOCH + Duration::from_micros(us) + DAY);
        tables.upkeep(later.max(SystemTime::now()) + Duration::from_hours(2)).await?;
        Ok::<_, TablesError>(later)
    });
    later?;
    let upkeep_s = begun.elapsed().as_secs_f64();

    progress.set_message("weighing");
    let mut weights = Vec::new();
    for (name, size) in tables.sizes().into_iter().filter(|(_, s)| s.rows > 0) {
        let sql = format!("select * from {name} order by ts limit {WEIGHED}");
        let limits = Limits { rows: WEIGHED, within: Duration::from_secs(600) };
        let rows = tables.ask_blocking(&sql, limits)?;
        let weighed: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let schema = rows.first().context("a table that has rows answered with none")?.schema();
        let plain = file(Format::Parquet, &schema, &rows)?.len() as f64 / weighed as f64;
        weights.push((name, size, size.bytes as f64 / size.rows as f64, plain));
    }

    progress.set_message("asking");
    let mut answers = Vec::new();
    if tables.sizes().iter().any(|(name, s)| *name == PATH_OBSERVATION.name && s.rows > 0) {
        for (what, question) in questions(&tables)? {
            let mut took: Vec<f64> = Vec::new();
            for _ in 0..args.asks {
                let sql = question(&mut numbers);
                let begun = Instant::now();
                let rows = tables
                    .ask_blocking(&sql, Limits { within: Duration::from_secs(600), ..Limits::default() })?;
                took.push(begun.elapsed().as_secs_f64() * 1e3);
                ensure!(rows.iter().any(|b| b.num_rows() > 0), "no rows: {sql}");
            }
            took.sort_by(f64::total_cmp);
            let at =
                |q: f64| took.get((q * (took.len() - 1) as f64).round() as usize).copied().unwrap_or(0.0);
            answers.push((what, at(0.5), at(0.95)));
        }
    }
    progress.finish_and_clear();
    let upkept = tables.upkept();
    tables.close();

    if args.json {
        let weights: Vec<_> = weights
            .iter()
            .map(|(name, size, own, plain)| {
                json!({ "table": name, "rows": size.rows, "files": size.files, "bytes": size.bytes, "bytes_a_row": own,
                    "plain_parquet_bytes_a_row": plain })
            })
            .collect();
        let answers: Vec<_> = answers
            .iter()
            .map(|(what, p50, p95)| json!({ "question": what, "p50_ms": p50, "p95_ms": p95, "asked": args.asks }))
            .collect();
        out::json(&json!({
            "made": made, "write_s": write_s, "upkeep_s": upkeep_s, "merges": upkept.merges,
            "rows_merged": upkept.rows_merged, "tables": weights, "questions": answers,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if made > 0 {
        println!("{made} rows in {write_s:.1} s ({:.0} a second), durable", made as f64 / write_s);
    }
    println!(
        "upkeep after that {upkeep_s:.1} s; {} merges of {} rows in all",
        upkept.merges, upkept.rows_merged
    );
    for (name, size, own, plain) in &weights {
        println!(
            "{name}: {} rows in {} files, {own:.2} bytes a row; plain Parquet {plain:.2} ({:.2} times)",
            size.rows,
            size.files,
            plain / own
        );
    }
    for (what, p50, p95) in &answers {
        println!("{what}: p50 {p50:.0} ms, p95 {p95:.0} ms of {}", args.asks);
    }
    Ok(ExitCode::SUCCESS)
}

async fn newest_us(tables: &Tables) -> Result<Option<u64>, TablesError> {
    let sql = "select max(ts) from path_observation";
    let rows = tables.ask(sql, Limits::default()).await?.all().await?;
    let column = rows.first().and_then(|b| b.column(0).as_primitive_opt::<TimestampMicrosecondType>());
    Ok(column.and_then(|c| c.iter().next().flatten()).and_then(|us| u64::try_from(us).ok()))
}

type Question = Box<dyn Fn(&mut Numbers) -> String>;

/// What people ask: about one path, and for the worst ones.
fn questions(tables: &Tables) -> anyhow::Result<Vec<(&'static str, Question)>> {
    let rows = tables.ask_blocking(
        "select path, min(ts), max(ts) from path_observation where path in (select path from path_observation limit 500) \
         group by path",
        Limits { within: Duration::from_secs(600), ..Limits::default() },
    )?;
    let mut known = Vec::new();
    for b in &rows {
        let paths = b.column(0).as_primitive_opt::<Int64Type>().context("paths are no numbers")?;
        let time =
            |c: usize| b.column(c).as_primitive_opt::<TimestampMicrosecondType>().context("times are none");
        let (first, last) = (time(1)?, time(2)?);
        known.extend((0..b.num_rows()).map(|i| (paths.value(i), first.value(i), last.value(i))));
    }
    ensure!(!known.is_empty(), "there are no paths");
    // Some path, and a span of time in it.
    let some = move |numbers: &mut Numbers, span: i64| {
        let at = usize::try_from(numbers.next() % known.len() as u64).unwrap_or(0);
        let (path, first, last) = known.get(at).copied().unwrap_or_default();
        let room = u64::try_from(last - first - span).unwrap_or(0).max(1);
        let from = first + (numbers.next() % room).cast_signed();
        let time = |us: i64| format!("to_timestamp_micros({us})");
        (path, format!("ts >= {} and ts < {}", time(from), time(from + span)))
    };
    let some = Arc::new(some);
    let of = |text: &'static str, minutes: i64| -> Question {
        let some = Arc::clone(&some);
        Box::new(move |numbers| {
            let (path, when) = some(numbers, minutes * MINUTE_US);
            text.replace("{path}", &path.to_string()).replace("{when}", &when)
        })
    };
    Ok(vec![
        (
            "point: ten minutes of one path, every window",
            of(
                "select ts, sent, lost, delay_p50_ns from path_observation where path = {path} and {when}",
                10,
            ),
        ),
        (
            "point: one path over all time, by the hour",
            of(
                "select date_trunc('hour', ts), sum(lost), sum(sent) from path_observation where path = {path} group by 1",
                1,
            ),
        ),
        (
            "top ten: paths by loss in ten minutes",
            of(
                "select path, sum(lost) as lost, sum(sent) from path_observation where {when} group by path order by lost \
                 desc limit 10",
                10,
            ),
        ),
        (
            "top ten: paths by loss over all time",
            of(
                "select path, sum(lost) as lost, sum(sent) from path_observation group by path order by lost desc limit 10",
                1,
            ),
        ),
        (
            "the same from the sums by the minute",
            of(
                "select path, sum(lost) as lost, sum(sent) from path_minute group by path order by lost desc limit 10",
                1,
            ),
        ),
        (
            "top ten: paths by 99th percentile of delay over all time, from the sums by the minute",
            of(
                "select path, sketch_percentile(sketch_merge(delay_sketch), 0.99) as p99 from path_minute group by path \
                 order by p99 desc limit 10",
                1,
            ),
        ),
    ])
}
