//! The matrix of who loses what to whom, host by host or leaf by leaf, and the patterns in it.
//!
//! How: one question to the tables gives a cell for each pair that was measured; a pattern is where most measured cells
//! of a row, a column, both of one label, or of a block between two leaves are hurt and the rest is not.
//! Invariants: a pair that is not listed was not measured; a pattern rests on at least [`CELLS_MIN`] measured cells.

use crate::api::{Api, Problem};
use crate::guard::Principal;
use crate::view::time;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tables::Limits;
use tables::arrow::array::{Array, AsArray};
use tables::arrow::datatypes::{Float64Type, Int64Type};
use utoipa::{IntoParams, ToSchema};

const LIMITS: Limits = Limits { rows: 250_000, within: Duration::from_secs(8) };
const WINDOW_DEFAULT_S: u64 = 60;
const WINDOW_MAX_S: u64 = 3_600;
/// A pattern has at least so many cells.
const CELLS_MIN: usize = 3;
/// Share of a pattern's cells that are hurt.
const HURT_SHARE: f64 = 0.6;
/// A cell is hurt from so many lost packets on, and above this rate.
const LOST_MIN: u64 = 2;
const RATE_MIN: f64 = 1e-4;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MatrixQuery {
    /// `host` (the default) or `leaf`.
    by: Option<String>,
    /// `all` (the default) or the number of a plane.
    plane: Option<String>,
    /// Seconds looked back, default 60, at most 3600.
    window: Option<u64>,
}

/// A shape that many hurt cells make together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PatternView {
    /// `row`, `column`, `cross` or `block`.
    pub kind: String,
    /// Senders in it.
    pub from: Vec<String>,
    /// Receivers in it.
    pub to: Vec<String>,
    /// In words.
    pub text: String,
}

/// Who loses what to whom, as columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MatrixView {
    /// When.
    pub at: String,
    /// `host` or `leaf`.
    pub by: String,
    /// Names of rows and columns.
    pub labels: Vec<String>,
    /// Index of the sender.
    pub from: Vec<usize>,
    /// Index of the receiver.
    pub to: Vec<usize>,
    /// Packets sent.
    pub sent: Vec<u64>,
    /// Packets lost, on the way there.
    pub lost: Vec<u64>,
    /// Median one-way delay, nanoseconds.
    pub p50_ns: Vec<Option<i64>>,
    /// 99th percentile of the windows' medians, nanoseconds.
    pub p99_ns: Vec<Option<i64>>,
    /// Shapes recognised.
    pub patterns: Vec<PatternView>,
}

/// Who loses what to whom.
#[utoipa::path(get, path = "/api/v1/matrix", params(MatrixQuery), responses((status = 200, body = MatrixView)))]
pub(crate) async fn matrix(
    State(api): State<Api>,
    who: Principal,
    query: Result<Query<MatrixQuery>, QueryRejection>,
) -> Result<Json<MatrixView>, Problem> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let bad = |text: String| Problem::new(StatusCode::BAD_REQUEST, text);
    let by = query.by.unwrap_or_else(|| "host".to_owned());
    let (from, to) = match by.as_str() {
        "host" => ("path_from(path)", "path_to(path)"),
        "leaf" => ("path_from_leaf(path)", "path_to_leaf(path)"),
        other => return Err(bad(format!("by is {other:?}, expected host or leaf"))),
    };
    let plane = match query.plane.as_deref() {
        None | Some("all") => String::new(),
        Some(n) => match n.parse::<u8>() {
            Ok(n) => format!("and path_plane(path) = {n}"),
            Err(_) => return Err(bad(format!("plane is {n:?}, expected all or a number"))),
        },
    };
    let window = query.window.unwrap_or(WINDOW_DEFAULT_S).clamp(1, WINDOW_MAX_S);
    let now = crate::wall().0 / 1_000;
    let sql = format!(
        "select {from} as a, {to} as b, sum(sent) as sent, sum(case when path_back is null then lost else 0 end) as lost, \
         approx_percentile_cont_with_weight(cast(delay_p50_ns as double), delay_count, 0.5) as p50, \
         approx_percentile_cont_with_weight(cast(delay_p50_ns as double), delay_count, 0.99) as p99 \
         from path_observation where ts > to_timestamp_micros({}) {plane} group by 1, 2",
        now.saturating_sub(window * 1_000_000)
    );
    let mut cells: Vec<Cell> = Vec::new();
    for batch in api.tables.ask_as(&who.sight, &sql, LIMITS).await?.all().await? {
        let text = |c: usize| batch.column(c).as_string::<i32>();
        let long = |c: usize, row: usize| {
            u64::try_from(batch.column(c).as_primitive::<Int64Type>().value(row)).unwrap_or(0)
        };
        let delay = |c: usize, row: usize| {
            let column = batch.column(c).as_primitive::<Float64Type>();
            (!column.is_null(row) && column.value(row).is_finite()).then(|| column.value(row) as i64)
        };
        for row in (0..batch.num_rows()).filter(|&r| !text(0).is_null(r) && !text(1).is_null(r)) {
            cells.push(Cell {
                from: text(0).value(row).to_owned(),
                to: text(1).value(row).to_owned(),
                sent: long(2, row),
                lost: long(3, row),
                p50_ns: delay(4, row),
                p99_ns: delay(5, row),
            });
        }
    }
    let leaf_of = |name: &str| {
        let host = api.fabric.host_by_name(name)?;
        let nic = api.fabric.host_nics(host).next()?;
        Some(api.fabric.nic_leaf_port(nic).0)
    };
    let all_hosts = (by == "host").then(|| {
        let seen = |h: &wire::HostId| who.sight.sees(&api.fabric, wire::Component::Host(*h));
        let hosts = (0..api.fabric.shape.hosts).map(wire::HostId).filter(seen);
        hosts.map(|h| api.fabric.host_name(h)).collect::<Vec<String>>()
    });
    Ok(Json(view(by, all_hosts, cells, leaf_of)))
}

#[derive(Clone, Debug)]
struct Cell {
    from: String,
    to: String,
    sent: u64,
    lost: u64,
    p50_ns: Option<i64>,
    p99_ns: Option<i64>,
}

impl Cell {
    fn is_hurt(&self) -> bool {
        self.lost >= LOST_MIN && self.lost as f64 > RATE_MIN * self.sent as f64
    }
}

fn view(
    by: String,
    labels: Option<Vec<String>>,
    mut cells: Vec<Cell>,
    leaf_of: impl Fn(&str) -> Option<u32>,
) -> MatrixView {
    let labels = labels.unwrap_or_else(|| {
        let names: BTreeSet<(usize, String)> =
            cells.iter().flat_map(|c| [&c.from, &c.to]).map(|n| (n.len(), n.clone())).collect();
        names.into_iter().map(|(_, n)| n).collect()
    });
    let index: BTreeMap<&str, usize> = labels.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let at = |name: &str| index.get(name).copied().unwrap_or(usize::MAX);
    cells.sort_by_key(|c| (at(&c.from), at(&c.to)));
    let patterns = patterns(&cells, leaf_of);
    let mut view = MatrixView {
        at: time(crate::wall().0),
        by,
        labels: labels.clone(),
        patterns,
        ..MatrixView::default()
    };
    for c in cells {
        let (a, b) = (at(&c.from), at(&c.to));
        if a == usize::MAX || b == usize::MAX {
            continue;
        }
        view.from.push(a);
        view.to.push(b);
        view.sent.push(c.sent);
        view.lost.push(c.lost);
        view.p50_ns.push(c.p50_ns);
        view.p99_ns.push(c.p99_ns);
    }
    view
}

fn rate_text<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let (sent, lost) = cells.fold((0u64, 0u64), |(s, l), c| (s + c.sent, l + c.lost));
    format!("{:.2} %", lost as f64 * 100.0 / sent.max(1) as f64)
}

/// Whether most of some cells are hurt, and most of what is hurt there would not be without them.
fn mostly<'a>(cells: impl Iterator<Item = &'a Cell>) -> bool {
    let (all, hurt) = cells.fold((0, 0), |(all, hurt), c| (all + 1, hurt + usize::from(c.is_hurt())));
    all >= CELLS_MIN && hurt as f64 >= HURT_SHARE * all as f64
}

fn row<'a>(cells: &'a [Cell], name: &'a str) -> impl Iterator<Item = &'a Cell> {
    cells.iter().filter(move |c| c.from == name)
}

fn column<'a>(cells: &'a [Cell], name: &'a str) -> impl Iterator<Item = &'a Cell> {
    cells.iter().filter(move |c| c.to == name)
}

fn patterns(cells: &[Cell], leaf_of: impl Fn(&str) -> Option<u32>) -> Vec<PatternView> {
    let mut out = Vec::new();
    if cells.is_empty() || mostly(cells.iter()) {
        // Everything is hurt, or nothing was measured: no shape in it.
        return out;
    }
    let senders: BTreeSet<&str> = cells.iter().map(|c| c.from.as_str()).collect();
    let receivers: BTreeSet<&str> = cells.iter().map(|c| c.to.as_str()).collect();
    let rows: BTreeSet<&str> = senders.iter().copied().filter(|n| mostly(row(cells, n))).collect();
    let columns: BTreeSet<&str> = receivers.iter().copied().filter(|n| mostly(column(cells, n))).collect();
    let named = |names: BTreeSet<&str>| -> Vec<String> { names.into_iter().map(str::to_owned).collect() };
    let hurt_to =
        |name: &str| named(row(cells, name).filter(|c| c.is_hurt()).map(|c| c.to.as_str()).collect());
    let hurt_from =
        |name: &str| named(column(cells, name).filter(|c| c.is_hurt()).map(|c| c.from.as_str()).collect());
    for &n in &rows {
        if columns.contains(n) {
            let rate = rate_text(row(cells, n).chain(column(cells, n)));
            out.push(PatternView {
                kind: "cross".to_owned(),
                from: vec![n.to_owned()],
                to: vec![n.to_owned()],
                text: format!("everything from and to {n} loses {rate}"),
            });
        } else {
            let text = format!("everything from {n} loses {}", rate_text(row(cells, n)));
            out.push(PatternView { kind: "row".to_owned(), from: vec![n.to_owned()], to: hurt_to(n), text });
        }
    }
    for &n in columns.iter().filter(|n| !rows.contains(*n)) {
        let text = format!("everything to {n} loses {}", rate_text(column(cells, n)));
        out.push(PatternView { kind: "column".to_owned(), from: hurt_from(n), to: vec![n.to_owned()], text });
    }
    // What rows and columns do not explain, leaf by leaf.
    let mut blocks: BTreeMap<(u32, u32), Vec<&Cell>> = BTreeMap::new();
    for c in cells.iter().filter(|c| !rows.contains(c.from.as_str()) && !columns.contains(c.to.as_str())) {
        if let (Some(a), Some(b)) = (leaf_of(&c.from), leaf_of(&c.to)) {
            blocks.entry((a, b)).or_default().push(c);
        }
    }
    for ((a, b), block) in blocks {
        if mostly(block.iter().copied()) {
            let rate = rate_text(block.iter().copied());
            out.push(PatternView {
                kind: "block".to_owned(),
                from: named(block.iter().map(|c| c.from.as_str()).collect()),
                to: named(block.iter().map(|c| c.to.as_str()).collect()),
                text: format!("from the hosts of leaf {a} to those of leaf {b}: {rate} lost"),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(hurt: impl Fn(u32, u32) -> bool) -> Vec<Cell> {
        let mut out = Vec::new();
        for a in 0..16 {
            for b in (0..16).filter(|&b| b != a) {
                out.push(Cell {
                    from: format!("host{a}"),
                    to: format!("host{b}"),
                    sent: 1_000,
                    lost: if hurt(a, b) { 10 } else { u64::from((a + b) % 5 == 0) },
                    p50_ns: None,
                    p99_ns: None,
                });
            }
        }
        out
    }

    fn said(hurt: impl Fn(u32, u32) -> bool) -> Vec<String> {
        let leaf = |n: &str| n.strip_prefix("host")?.parse::<u32>().ok().map(|h| h / 4);
        patterns(&cells(hurt), leaf).into_iter().map(|p| format!("{}: {}", p.kind, p.text)).collect()
    }

    #[test]
    fn shapes_are_recognised_and_noise_is_not() {
        assert_eq!(said(|_, _| false), [""; 0]);
        assert_eq!(said(|_, _| true), [""; 0]);
        assert_eq!(said(|a, _| a == 3), ["row: everything from host3 loses 1.00 %"]);
        assert_eq!(said(|_, b| b == 12), ["column: everything to host12 loses 1.00 %"]);
        assert_eq!(said(|a, b| a == 3 || b == 3), ["cross: everything from and to host3 loses 1.00 %"]);
        assert_eq!(
            said(|a, b| a / 4 == 1 && b / 4 == 2),
            ["block: from the hosts of leaf 1 to those of leaf 2: 1.00 % lost"]
        );
        assert_eq!(said(|a, b| (a, b) == (1, 7) || (a, b) == (9, 2)), [""; 0]);
    }

    #[test]
    fn a_cell_nobody_measured_is_not_there() {
        let v =
            view("host".to_owned(), Some(vec!["host0".into(), "host1".into()]), cells(|_, _| false), |_| {
                None
            });
        assert_eq!((v.labels.len(), v.from.len()), (2, 2), "of two labels, the two cells between them");
        let none = view("leaf".to_owned(), None, Vec::new(), |_| None);
        assert_eq!((none.labels.len(), none.from.len(), none.patterns.len()), (0, 0, 0));
    }
}
