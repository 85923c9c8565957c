//! Observations summed by the minute: the rows of `path_minute`.
//!
//! How: the fold sums the very rows it is about to move into `path_observation` ([`minutes`]) and commits the sums, with
//! the same position in the log, before it commits the rows. So the log's position is the watermark: who dies between
//! the two finds the rows in the log again and the sums already there, and late rows are rows like any other, whose
//! minute gets another row of sums. Where files are merged, rows of one minute become one ([`Join`]).
//! Invariants: sums over a minute's rows are the sums over its observations; an observation is counted in the minute it
//! begins in, once.
//! Absent on purpose: a table of hours, because sums and sketches of minutes add up to it in a question; and sums of
//! what had been folded before this table came.

use crate::error::TablesError;
use crate::schema::{PATH_MINUTE, PATH_OBSERVATION, Table};
use crate::sketch;
use crate::tables::whole;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int8Array, Int64Array, PrimitiveArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{ArrowPrimitiveType, Int8Type, Int32Type, Int64Type, TimestampMicrosecondType};
use sketches_ddsketch::DDSketch;
use std::sync::Arc;

const MINUTE_US: i64 = 60_000_000;
/// Rows handed on together.
const ROWS: usize = 8192;
/// Clocks, the least trusted first.
const CLOCKS: [&str; 3] = ["free", "synchronized", "same"];

/// What makes a row of its own. In the order of the table's `cluster`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<S> {
    path: i64,
    minute_us: i64,
    class: i8,
    source: S,
    known: S,
    path_back: Option<i64>,
    fabric_epoch: i64,
}

impl<S> Key<S> {
    /// The same, its words said otherwise.
    fn with<T>(self, f: impl Fn(S) -> T) -> Key<T> {
        Key {
            path: self.path,
            minute_us: self.minute_us,
            class: self.class,
            source: f(self.source),
            known: f(self.known),
            path_back: self.path_back,
            fabric_epoch: self.fabric_epoch,
        }
    }
}

#[derive(Default)]
struct Sums {
    windows: i64,
    sent: i64,
    lost: i64,
    reordered: i64,
    ecn_marked: i64,
    delays: Option<Delays>,
}

struct Delays {
    /// Index in [`CLOCKS`].
    clock: usize,
    count: i64,
    over: i64,
    min_ns: i64,
    max_ns: i64,
    sketch: DDSketch,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.windows += other.windows;
        self.sent += other.sent;
        self.lost += other.lost;
        self.reordered += other.reordered;
        self.ecn_marked += other.ecn_marked;
        match (&mut self.delays, other.delays) {
            (Some(all), Some(more)) => {
                all.clock = all.clock.min(more.clock);
                all.count += more.count;
                all.over += more.over;
                all.min_ns = all.min_ns.min(more.min_ns);
                all.max_ns = all.max_ns.max(more.max_ns);
                // Every sketch here has the same bins, so this cannot fail.
                let _ = all.sketch.merge(&more.sketch);
            }
            (none @ None, Some(more)) => *none = Some(more),
            (_, None) => {}
        }
    }
}

fn clock(word: Option<&str>) -> usize {
    word.and_then(|w| CLOCKS.iter().position(|c| *c == w)).unwrap_or(0)
}

/// Columns of a batch by name.
struct Columns<'a>(&'a RecordBatch, &'static Table);

impl<'a> Columns<'a> {
    fn missing(&self, name: &str) -> TablesError {
        TablesError::Rows { table: self.1.name.to_owned(), reason: format!("expected a column {name}") }
    }
    fn numbers<T: ArrowPrimitiveType>(&self, name: &str) -> Result<&'a PrimitiveArray<T>, TablesError> {
        let column = self.0.column_by_name(name).and_then(|c| c.as_primitive_opt::<T>());
        column.ok_or_else(|| self.missing(name))
    }
    fn text(&self, name: &str) -> Result<&'a StringArray, TablesError> {
        let column = self.0.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        column.ok_or_else(|| self.missing(name))
    }
    fn bytes(&self, name: &str) -> Result<&'a BinaryArray, TablesError> {
        let column = self.0.column_by_name(name).and_then(|c| c.as_binary_opt::<i32>());
        column.ok_or_else(|| self.missing(name))
    }
    /// The keys of its rows.
    fn keys(&self) -> Result<impl Iterator<Item = Key<&'a str>> + use<'a>, TablesError> {
        let ts = self.numbers::<TimestampMicrosecondType>("ts")?;
        let (path, back) = (self.numbers::<Int64Type>("path")?, self.numbers::<Int64Type>("path_back")?);
        let (class, epoch) = (self.numbers::<Int8Type>("class")?, self.numbers::<Int64Type>("fabric_epoch")?);
        let (source, known) = (self.text("source")?, self.text("known")?);
        Ok((0..self.0.num_rows()).map(move |i| Key {
            path: path.value(i),
            minute_us: ts.value(i).div_euclid(MINUTE_US) * MINUTE_US,
            class: class.value(i),
            source: source.value(i),
            known: known.value(i),
            path_back: back.is_valid(i).then(|| back.value(i)),
            fabric_epoch: epoch.value(i),
        }))
    }
}

fn given<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>, row: usize) -> Option<T::Native> {
    column.is_valid(row).then(|| column.value(row))
}

/// Columns of observations that are summed.
struct Observed<'a> {
    counts: [&'a PrimitiveArray<Int32Type>; 4],
    clock: &'a StringArray,
    delays: [&'a PrimitiveArray<Int32Type>; 2],
    delays_ns: [&'a PrimitiveArray<Int64Type>; 3],
}

impl<'a> Observed<'a> {
    fn new(c: &Columns<'a>) -> Result<Self, TablesError> {
        let int = |name| c.numbers::<Int32Type>(name);
        let long = |name| c.numbers::<Int64Type>(name);
        Ok(Observed {
            counts: [int("sent")?, int("lost")?, int("reordered")?, int("ecn_marked")?],
            clock: c.text("delay_clock")?,
            delays: [int("delay_count")?, int("delay_over")?],
            delays_ns: [long("delay_min_ns")?, long("delay_p50_ns")?, long("delay_max_ns")?],
        })
    }

    fn add_to(&self, sums: &mut Sums, row: usize) {
        let [sent, lost, reordered, ecn_marked] = self.counts.map(|c| i64::from(c.value(row)));
        sums.windows += 1;
        sums.sent += sent;
        sums.lost += lost;
        sums.reordered += reordered;
        sums.ecn_marked += ecn_marked;
        let [count, over] = self.delays.map(|c| i64::from(given(c, row).unwrap_or(0)));
        let [Some(min_ns), Some(p50_ns), Some(max_ns)] = self.delays_ns.map(|c| given(c, row)) else {
            return;
        };
        if count <= 0 {
            return;
        }
        let clock = clock(self.clock.is_valid(row).then(|| self.clock.value(row)));
        let all = sums.delays.get_or_insert_with(|| Delays {
            clock,
            count: 0,
            over: 0,
            min_ns,
            max_ns,
            sketch: sketch::empty(),
        });
        all.clock = all.clock.min(clock);
        all.count += count;
        all.over += over;
        all.min_ns = all.min_ns.min(min_ns);
        all.max_ns = all.max_ns.max(max_ns);
        if count == 1 {
            all.sketch.add(p50_ns as f64);
        } else {
            // Of two, the ends are all there is.
            all.sketch.add(min_ns as f64);
            all.sketch.add_with_count(p50_ns as f64, count.unsigned_abs() - 2);
            all.sketch.add(max_ns as f64);
        }
    }
}

/// The few words of a column of text, as numbers in their order: sorting by words took a tenth of a hub's time.
#[derive(Default)]
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn add(&mut self, column: &'a StringArray) {
        for word in (0..column.len()).map(|i| column.value(i)) {
            if self.0.last() != Some(&word) && !self.0.contains(&word) {
                self.0.push(word);
            }
        }
    }

    fn sorted(mut self) -> Self {
        self.0.sort_unstable();
        self
    }

    fn number(&self, word: &str) -> usize {
        self.0.iter().position(|w| *w == word).unwrap_or(0)
    }

    fn word(&self, number: usize) -> &'a str {
        self.0.get(number).copied().unwrap_or("")
    }
}

/// Sums of observations, sorted. A sketch is large until it is written, so only those of one batch are open at a time.
pub(crate) fn minutes(
    observations: &[RecordBatch],
) -> Result<impl Iterator<Item = Result<RecordBatch, TablesError>> + Send + use<'_>, TablesError> {
    let mut sources = Vec::with_capacity(observations.len());
    let mut rows = Vec::with_capacity(observations.iter().map(RecordBatch::num_rows).sum());
    let mut words = Words::default();
    for observed in observations {
        let c = Columns(observed, &PATH_OBSERVATION);
        words.add(c.text("source")?);
        words.add(c.text("known")?);
    }
    let words = words.sorted();
    for (batch, observed) in observations.iter().enumerate() {
        let c = Columns(observed, &PATH_OBSERVATION);
        sources.push(Observed::new(&c)?);
        rows.extend(c.keys()?.enumerate().map(|(row, key)| (key.with(|w| words.number(w)), batch, row)));
    }
    rows.sort_unstable();
    let mut rows = rows.into_iter().peekable();
    Ok(std::iter::from_fn(move || {
        let mut done: Vec<(Key<usize>, Sums)> = Vec::new();
        while let Some((key, batch, row)) =
            rows.next_if(|(key, ..)| done.len() < ROWS || done.last().is_some_and(|(last, _)| last == key))
        {
            if done.last().is_none_or(|(last, _)| *last != key) {
                done.push((key, Sums::default()));
            }
            if let (Some(source), Some((_, sums))) = (sources.get(batch), done.last_mut()) {
                source.add_to(sums, row);
            }
        }
        let named = |(key, sums): (Key<usize>, Sums)| (key.with(|n| words.word(n)), sums);
        (!done.is_empty()).then(|| write(&done.into_iter().map(named).collect::<Vec<_>>()))
    }))
}

/// Makes one row of rows of the same minute that follow each other.
#[derive(Default)]
pub(crate) struct Join {
    rows: Vec<(Key<String>, Sums)>,
}

impl Join {
    /// Takes rows of `path_minute`, sorted by its `cluster`; gives what is complete.
    pub(crate) fn take(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>, TablesError> {
        let c = Columns(batch, &PATH_MINUTE);
        let long = |name| c.numbers::<Int64Type>(name);
        let (windows, sent, lost) = (long("windows")?, long("sent")?, long("lost")?);
        let (reordered, ecn) = (long("reordered")?, long("ecn_marked")?);
        let (count, over) = (long("delay_count")?, long("delay_over")?);
        let (min, max) = (long("delay_min_ns")?, long("delay_max_ns")?);
        let (clocks, sketches) = (c.text("delay_clock")?, c.bytes("delay_sketch")?);
        for (i, k) in c.keys()?.enumerate() {
            let key = k.with(str::to_owned);
            let delays = match (given(min, i), given(max, i), sketches.is_valid(i)) {
                (Some(min_ns), Some(max_ns), true) => Some(Delays {
                    clock: clock(clocks.is_valid(i).then(|| clocks.value(i))),
                    count: count.value(i),
                    over: over.value(i),
                    min_ns,
                    max_ns,
                    sketch: sketch::read(sketches.value(i)).ok_or_else(|| c.missing("delay_sketch"))?,
                }),
                _ => None,
            };
            let sums = Sums {
                windows: windows.value(i),
                sent: sent.value(i),
                lost: lost.value(i),
                reordered: reordered.value(i),
                ecn_marked: ecn.value(i),
                delays,
            };
            match self.rows.last_mut() {
                Some((last, all)) if *last == key => all.add(sums),
                _ => self.rows.push((key, sums)),
            }
        }
        if self.rows.len() <= ROWS {
            return Ok(Vec::new());
        }
        // The last one may go on in the next batch.
        let open = self.rows.pop();
        let done = self.finish();
        self.rows.extend(open);
        done
    }

    /// Gives the rest.
    pub(crate) fn finish(&mut self) -> Result<Vec<RecordBatch>, TablesError> {
        std::mem::take(&mut self.rows).chunks(ROWS).map(write).collect()
    }
}

/// Rows of the table.
fn write<S: AsRef<str>>(rows: &[(Key<S>, Sums)]) -> Result<RecordBatch, TablesError> {
    let long = |f: fn(&Key<S>, &Sums) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(k, s)| f(k, s))))
    };
    let delay = |f: fn(&Delays) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(|(_, s)| s.delays.as_ref().map(f)).collect::<Int64Array>())
    };
    let text = |f: fn(&Key<S>) -> &S| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(k, _)| f(k))))
    };
    let count = |f: fn(&Delays) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, s)| s.delays.as_ref().map_or(0, f))))
    };
    let clocks = rows.iter().map(|(_, s)| s.delays.as_ref().and_then(|d| CLOCKS.get(d.clock)));
    let sketches = rows.iter().map(|(_, s)| s.delays.as_ref().map(|d| d.sketch.to_java_bytes()));
    let ts = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(k, _)| k.minute_us));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ts.with_timezone("UTC")),
        long(|k, _| k.fabric_epoch),
        long(|k, _| k.path),
        text(|k| &k.known),
        Arc::new(rows.iter().map(|(k, _)| k.path_back).collect::<Int64Array>()),
        Arc::new(Int8Array::from_iter_values(rows.iter().map(|(k, _)| k.class))),
        text(|k| &k.source),
        long(|_, s| s.windows),
        long(|_, s| s.sent),
        long(|_, s| s.lost),
        long(|_, s| s.reordered),
        long(|_, s| s.ecn_marked),
        Arc::new(clocks.map(|c| c.copied()).collect::<StringArray>()),
        count(|d| d.count),
        count(|d| d.over),
        delay(|d| d.min_ns),
        delay(|d| d.max_ns),
        Arc::new(sketches.collect::<BinaryArray>()),
    ];
    let batch = RecordBatch::try_new(PATH_MINUTE.row_schema(), columns);
    let bad = |reason: String| TablesError::Rows { table: PATH_MINUTE.name.to_owned(), reason };
    whole(&PATH_MINUTE, batch.map_err(|e| bad(e.to_string()))?)
}
