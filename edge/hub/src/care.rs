//! What people do about incidents, and what they need to know for it: who is hurt, how it went second by second, and
//! the retrospective.
//!
//! How: an act goes through the desk into the book and is answered once it is durable; who is hurt and the series are
//! questions to the tables, over the time the incident lasted.
//! Invariants: a text of a person has at most [`TEXT_MAX`] characters; a series has at most [`POINTS_MAX`] points.

use crate::api::{Api, Problem, no_incident, number};
use crate::guard::Principal;
use crate::incident::{Act, ComponentKind, Incident, Judgement};
use crate::view::{HurtView, IncidentDetail, IncidentView, time};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};
use tables::arrow::array::{Array, AsArray, RecordBatch};
use tables::arrow::datatypes::Int64Type;
use tables::{Limits, TablesError};
use utoipa::ToSchema;

const TEXT_MAX: usize = 4_000;
const NAME_MAX: usize = 100;
const POINTS_MAX: u64 = 300;
const PAIRS_SHOWN: usize = 50;
/// Shown before an incident began and after it ended.
const AROUND_NS: u64 = 30_000_000_000;
/// A page asks for these on the way: better late than never, but not for long.
const LIMITS: Limits = Limits { rows: 200_000, within: Duration::from_secs(8) };

type Answer<T> = Result<Json<T>, Problem>;
type Body<T> = Result<Json<T>, JsonRejection>;

fn text(what: &str, text: String, max: usize, may_be_empty: bool) -> Result<String, Problem> {
    let text = text.trim().to_owned();
    let problem = if text.chars().count() > max {
        format!("the {what} has more than {max} characters")
    } else if text.is_empty() && !may_be_empty {
        format!("the {what} is empty")
    } else {
        return Ok(text);
    };
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, problem))
}

async fn act(api: Api, who: Principal, id: String, act: Act) -> Answer<IncidentDetail> {
    api.metrics.requests.inc();
    let n = number(&id)?;
    if !api.keeper.published().contains_key(&n) {
        return Err(no_incident(&id));
    }
    api.guard.audit.done(&who.by(), act.word(), &format!("inc-{n}"), &act.said()).await?;
    let name = who.shown().to_owned();
    let ticket = api
        .desk
        .ask(move |desk| desk.diagnosis.book.act(crate::wall(), n, &name, act))
        .await?
        .ok_or_else(|| no_incident(&id))?;
    api.keeper.done(ticket).await;
    api.keeper.published().get(&n).map(|i| Json(IncidentDetail::new(i))).ok_or_else(|| no_incident(&id))
}

/// Nothing more to say.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Nothing {}

/// Say that you look after it.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/acknowledge", request_body = Nothing,
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = IncidentDetail)))]
pub(crate) async fn acknowledge(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<String>,
    body: Body<Nothing>,
) -> Answer<IncidentDetail> {
    let Json(Nothing {}) = body?;
    act(api, who, id, Act::Acknowledge).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct AssignRequest {
    /// Whom it is given to, at most 100 characters.
    to: String,
}

/// Give it to somebody.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/assign", request_body = AssignRequest,
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = IncidentDetail)))]
pub(crate) async fn assign(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<String>,
    body: Body<AssignRequest>,
) -> Answer<IncidentDetail> {
    let Json(AssignRequest { to }) = body?;
    act(api, who, id, Act::Assign { to: text("name", to, NAME_MAX, false)? }).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct SnoozeRequest {
    /// No alert before this time, RFC 3339.
    until: String,
}

/// Want no alert of it for some time.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/snooze", request_body = SnoozeRequest,
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = IncidentDetail)))]
pub(crate) async fn snooze(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<String>,
    body: Body<SnoozeRequest>,
) -> Answer<IncidentDetail> {
    let Json(SnoozeRequest { until }) = body?;
    let until_ns = parse_time(&until)?;
    act(api, who, id, Act::Snooze { until_ns }).await
}

/// RFC 3339 as Unix nanoseconds.
pub(crate) fn parse_time(text: &str) -> Result<u64, Problem> {
    humantime::parse_rfc3339(text)
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .and_then(|d| u64::try_from(d.as_nanos()).ok())
        .ok_or_else(|| {
            let error = format!("{text:?} is no time, expected one such as 2026-01-31T03:12:08Z");
            Problem::new(StatusCode::BAD_REQUEST, error)
        })
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct CloseRequest {
    /// Why, at most 4000 characters.
    #[serde(default)]
    note: String,
}

/// Close it by hand. It stays closed while the same fault goes on, and is opened again when it comes back.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/close", request_body = CloseRequest,
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = IncidentDetail)))]
pub(crate) async fn close(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<String>,
    body: Body<CloseRequest>,
) -> Answer<IncidentDetail> {
    let Json(CloseRequest { note }) = body?;
    act(api, who, id, Act::Close { note: text("note", note, TEXT_MAX, true)? }).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct NoteRequest {
    /// What to write down, at most 4000 characters.
    text: String,
}

/// Write something down.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/note", request_body = NoteRequest,
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = IncidentDetail)))]
pub(crate) async fn note(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<String>,
    body: Body<NoteRequest>,
) -> Answer<IncidentDetail> {
    let Json(NoteRequest { text: written }) = body?;
    act(api, who, id, Act::Note { text: text("note", written, TEXT_MAX, false)? }).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct LabelRequest {
    /// Was the verdict right, wrong or partly right?
    judgement: Judgement,
    /// Free text, at most 4000 characters.
    #[serde(default)]
    note: String,
}

/// Say whether a verdict was right.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/label", request_body = LabelRequest,
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = IncidentDetail)))]
pub(crate) async fn label(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<String>,
    body: Body<LabelRequest>,
) -> Answer<IncidentDetail> {
    let Json(LabelRequest { judgement, note }) = body?;
    act(api, who, id, Act::Label { judgement, note: text("note", note, TEXT_MAX, true)? }).await
}

fn find(api: &Api, id: &str) -> Result<Incident, Problem> {
    let n = number(id)?;
    api.keeper.published().get(&n).cloned().ok_or_else(|| no_incident(id))
}

/// The time an incident lasted, with a little around it, as SQL literals.
fn span(i: &Incident) -> (u64, u64) {
    let end = i.closed_at_ns.unwrap_or(i.last_seen_ns).max(i.last_seen_ns);
    let end = if i.is_open() { crate::wall().0 } else { end + AROUND_NS };
    (i.first_seen_ns.saturating_sub(AROUND_NS), end)
}

fn between((from, to): (u64, u64)) -> String {
    format!("ts >= to_timestamp_micros({}) and ts < to_timestamp_micros({})", from / 1_000, to / 1_000)
}

/// What counts as hurt in a row of path_observation, in SQL.
fn hurt_sql(kind: &str) -> &'static str {
    match kind {
        "reorder" => "reordered",
        "ecn_marking" => "ecn_marked",
        "delay" | "congestion" => "coalesce(delay_over, 0)",
        _ => "lost",
    }
}

/// Whether a row's path crosses the component, in SQL. Names come from the fabric and have no quotes.
fn crossing_sql(i: &Incident) -> String {
    format!("path_crosses(path, '{}')", i.component.name)
}

/// One incident with its evidence, for and against, its history, and who is hurt.
#[utoipa::path(get, path = "/api/v1/incidents/{id}", params(("id" = String, Path, description = "such as inc-12")),
    responses((status = 200, body = IncidentDetail), (status = 404, description = "no such incident")))]
pub(crate) async fn incident(State(api): State<Api>, Path(id): Path<String>) -> Answer<IncidentDetail> {
    api.metrics.requests.inc();
    let incident = find(&api, &id)?;
    let mut detail = IncidentDetail::new(&incident);
    // Without an answer in time the page says what it knows.
    detail.hurt = who_is_hurt(&api, &incident).await.ok();
    Ok(Json(detail))
}

async fn who_is_hurt(api: &Api, i: &Incident) -> Result<HurtView, TablesError> {
    if i.component.kind == ComponentKind::Host && matches!(i.kind.as_str(), "host_stall" | "agent_stopped") {
        return Ok(HurtView { hosts: vec![i.component.name.clone()], ..HurtView::default() });
    }
    let (hurt, (from, to)) = (hurt_sql(&i.kind), span(i));
    let sql = format!(
        "select path_from(path) as a, path_to(path) as b, sum({hurt}) as n from path_observation \
         where {} and {hurt} > 0 and {} group by 1, 2 order by n desc, a, b",
        between((from + AROUND_NS, to)),
        crossing_sql(i)
    );
    let mut answer = api.tables.ask(&sql, LIMITS).await?;
    let mut view = HurtView::default();
    let mut hosts = BTreeSet::new();
    while let Some(batch) = answer.next().await {
        let batch = batch?;
        let (a, b) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for row in 0..batch.num_rows() {
            view.pairs += 1;
            let pair = (a.value(row).to_owned(), b.value(row).to_owned());
            hosts.insert(pair.0.clone());
            hosts.insert(pair.1.clone());
            if view.pairs_shown.len() < PAIRS_SHOWN {
                view.pairs_shown.push(pair);
            }
        }
    }
    // host2 before host10.
    view.hosts = hosts.into_iter().collect();
    view.hosts.sort_by_key(|h| (h.len(), h.clone()));
    Ok(view)
}

/// Counts at each step; nothing where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SideView {
    /// Packets sent.
    pub sent: Vec<Option<u64>>,
    /// Of those, hurt in the incident's way.
    pub hurt: Vec<Option<u64>>,
}

/// An incident step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeriesView {
    /// Length of a step, milliseconds.
    pub step_ms: u64,
    /// Beginning of the first, Unix milliseconds.
    pub start_ms: u64,
    /// Packets on paths over the component.
    pub crossing: SideView,
    /// All others.
    pub elsewhere: SideView,
    /// Largest delay above usual on paths over the component, nanoseconds.
    pub delay_excess_ns: Vec<Option<u64>>,
}

/// How it went, step by step: for and against.
#[utoipa::path(get, path = "/api/v1/incidents/{id}/series", params(("id" = String, Path, description = "such as inc-12")),
    responses((status = 200, body = SeriesView)))]
pub(crate) async fn series(State(api): State<Api>, Path(id): Path<String>) -> Answer<SeriesView> {
    api.metrics.requests.inc();
    let i = find(&api, &id)?;
    let (from, to) = span(&i);
    let (start_ms, end_ms) = (from / 1_000_000, to / 1_000_000);
    let step_ms = (end_ms.saturating_sub(start_ms).div_ceil(POINTS_MAX)).max(1_000).next_multiple_of(1_000);
    let points = usize::try_from(end_ms.saturating_sub(start_ms).div_ceil(step_ms)).unwrap_or(0);
    let sql = format!(
        "select (cast(ts as bigint) / 1000 - {start_ms}) / {step_ms} as step, coalesce({}, false) as crossing, \
         sum(sent) as sent, sum({}) as hurt, max(delay_excess_ns) as excess from path_observation where {} \
         group by 1, 2",
        crossing_sql(&i),
        hurt_sql(&i.kind),
        between((from, to))
    );
    let batches: Vec<RecordBatch> = api.tables.ask(&sql, LIMITS).await?.all().await?;
    let none = || vec![None; points];
    let side = || SideView { sent: none(), hurt: none() };
    let mut view =
        SeriesView { step_ms, start_ms, crossing: side(), elsewhere: side(), delay_excess_ns: none() };
    for batch in &batches {
        let long = |c: usize| batch.column(c).as_primitive::<Int64Type>();
        let crossing = batch.column(1).as_boolean();
        for row in 0..batch.num_rows() {
            let at =
                |c: usize| (!long(c).is_null(row)).then(|| u64::try_from(long(c).value(row)).unwrap_or(0));
            let Some(step) = usize::try_from(long(0).value(row)).ok().filter(|&s| s < points) else {
                continue;
            };
            let side = if crossing.value(row) { &mut view.crossing } else { &mut view.elsewhere };
            if let (Some(sent), Some(hurt)) = (side.sent.get_mut(step), side.hurt.get_mut(step)) {
                (*sent, *hurt) = (at(2), at(3));
            }
            if crossing.value(row)
                && let Some(excess) = view.delay_excess_ns.get_mut(step)
            {
                *excess = at(4);
            }
        }
    }
    Ok(Json(view))
}

/// An incident told afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetrospectiveView {
    /// The incident.
    pub id: String,
    /// The page, Markdown.
    pub markdown: String,
}

/// The page to look back with: what, when, who, on what evidence, and what people did.
#[utoipa::path(get, path = "/api/v1/incidents/{id}/retrospective",
    params(("id" = String, Path, description = "such as inc-12")), responses((status = 200, body = RetrospectiveView)))]
pub(crate) async fn retrospective(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<RetrospectiveView> {
    api.metrics.requests.inc();
    let incident = find(&api, &id)?;
    let hurt = who_is_hurt(&api, &incident).await.ok();
    let markdown = tell(&incident, hurt.as_ref());
    Ok(Json(RetrospectiveView { id: incident.id(), markdown }))
}

/// Text of people inside Markdown, so that it stays text.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

fn tell(i: &Incident, hurt: Option<&HurtView>) -> String {
    let view = IncidentView::new(i);
    let seconds = |from: u64, to: u64| format!("{:.1} s", to.saturating_sub(from) as f64 / 1e9);
    let mut out = format!("# {}: {}\n\n", view.id, view.summary);
    let ended = match (i.closed_at_ns, &i.care.closed_by) {
        (Some(at), Some(by)) => format!("closed by {} at {}", quoted(by), time(at)),
        (Some(at), None) => format!("found healed at {}", time(at)),
        (None, _) => "still open".to_owned(),
    };
    let rows = [
        ("Component", format!("{} `{}`", view.component.kind, view.component.name)),
        (
            "Cannot be told from it",
            match view.alternatives.len() {
                0 => "nothing else".to_owned(),
                _ => view.alternatives.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(", "),
            },
        ),
        (
            "Fault",
            format!(
                "{}, {:.3} % (95 %: {:.3} to {:.3} %)",
                i.kind,
                i.rate * 100.0,
                i.rate_low * 100.0,
                i.rate_high * 100.0
            ),
        ),
        ("Confidence", format!("{:.2}", i.confidence)),
        ("First hurt window", view.first_seen.clone()),
        (
            "Announced",
            format!("{}, {} after it began", view.opened_at, seconds(i.first_seen_ns, i.opened_at_ns)),
        ),
        (
            "Last hurt window",
            format!("{}, {} after it began", view.last_seen, seconds(i.first_seen_ns, i.last_seen_ns)),
        ),
        ("End", ended),
        (
            "Came back",
            match i.times_reopened {
                0 => "never".to_owned(),
                1 => "once".to_owned(),
                n => format!("{n} times"),
            },
        ),
    ];
    out.push_str("|  |  |\n|---|---|\n");
    for (what, text) in rows {
        out.push_str(&format!("| {what} | {text} |\n"));
    }
    out.push_str("\n## Who was hurt\n\n");
    match hurt {
        None => out.push_str("The tables did not answer in time; ask again.\n"),
        Some(h) if h.hosts.is_empty() => {
            out.push_str("No measured path over the component had hurt packets.\n")
        }
        Some(h) => {
            out.push_str(&format!("{} hosts, {} pairs: {}\n", h.hosts.len(), h.pairs, h.hosts.join(", ")));
        }
    }
    out.push_str("\n## Evidence\n\n| | observations | packets | hurt |\n|---|--:|--:|--:|\n");
    for (what, t) in [
        ("for: crossed it and were hurt", i.crossing_hurt),
        ("against: crossed it and were fine", i.crossing_fine),
        ("against: hurt elsewhere at the same time", i.elsewhere_hurt),
    ] {
        out.push_str(&format!("| {what} | {} | {} | {} |\n", t.observations, t.sent, t.hurt));
    }
    for c in &i.counters {
        let side = if c.weight >= 0 { "for" } else { "against" };
        out.push_str(&format!(
            "\n- {side}: {} of {} {} at {}\n",
            c.events, c.of, c.counter, c.component.name
        ));
    }
    out.push_str("\n## What happened\n\n");
    for e in &i.timeline {
        out.push_str(&format!("- {} {}\n", time(e.at_ns), quoted(&e.text)));
    }
    if !i.notes.is_empty() {
        out.push_str("\n## Notes\n\n");
        for n in &i.notes {
            out.push_str(&format!("- {} {}: {}\n", time(n.at_ns), quoted(&n.by), quoted(&n.text)));
        }
    }
    out.push_str("\n## Was it right?\n\n");
    match &i.label {
        None => out.push_str("Nobody judged the verdict yet.\n"),
        Some(l) => {
            let word = format!("{:?}", l.judgement).to_lowercase();
            let note = if l.note.is_empty() { String::new() } else { format!(": {}", quoted(&l.note)) };
            out.push_str(&format!("Judged {word} at {}{note}\n", time(l.at_ns)));
        }
    }
    out.push_str("\n## What we change\n\n- \n");
    out
}
