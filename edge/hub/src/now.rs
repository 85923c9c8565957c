//! Is the fabric well? One answer, made of what the diagnosis, the agents and the tables say; and the stream of events
//! that keeps pages up to date.
//!
//! How: the page *Now* asks once and then listens (server-sent events): a tick a second, an incident whenever one
//! changed, and the whole of *Now* every two seconds.
//! Invariants: a listener that is too slow to take every change gets a tick instead and asks again; the stream ends
//! when the hub stops.

use crate::api::{Api, Problem, precision_of};
use crate::desk::Desk;
use crate::guard::Principal;
use crate::view::{IncidentView, PrecisionView, time};
use axum::Json;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{Stream, unfold};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;
use tables::arrow::array::AsArray;
use tables::arrow::datatypes::Int64Type;
use tables::{Limits, TablesError};
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;
use wire::LinkId;

const LIMITS: Limits = Limits { rows: 100, within: Duration::from_secs(5) };
const CHANGES: usize = 20;
const LINKS_MAX: u32 = 65_536;
/// The whole of *Now* so often.
const NOW_EVERY: u32 = 2;

/// How one plane does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlaneView {
    /// Its number.
    pub plane: u8,
    /// Directed links.
    pub links: u64,
    /// Packets that crossed its links in ten seconds, counted once a link.
    pub sent_10s: u64,
    /// Packets charged to its links as lost.
    pub lost_10s: u64,
    /// Largest loss charged to one of its links, 0 to 1.
    pub rate_10s: f64,
    /// Links that open incidents name.
    pub sick: u64,
}

/// The agents in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentsView {
    /// Agents that report.
    pub reporting: u64,
    /// Hosts of the fabric.
    pub expected: u64,
    /// Hosts whose agents were there and cannot be heard.
    pub silent: Vec<String>,
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// When.
    pub at: String,
    /// `hub`, `agent`, `fabric` or `incident`.
    pub kind: String,
    /// What, in words.
    pub text: String,
    /// A page about it.
    pub link: Option<String>,
}

/// What comes in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IngestView {
    /// Observations a second since the last look.
    pub observations_per_s: f64,
    /// Observations taken since the hub started.
    pub stored: u64,
    /// Observations not taken.
    pub lost: u64,
}

/// Is the fabric well?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NowView {
    /// When.
    pub at: String,
    /// No incident is open, every agent reports, and what comes in is stored.
    pub well: bool,
    /// In a sentence.
    pub sentence: String,
    /// Planes.
    pub planes: Vec<PlaneView>,
    /// Agents.
    pub agents: AgentsView,
    /// What changed in the last day, newest first.
    pub changes: Vec<ChangeView>,
    /// How good past verdicts were.
    pub precision: PrecisionView,
    /// What comes in.
    pub ingest: IngestView,
}

/// Is the fabric well?
#[utoipa::path(get, path = "/api/v1/now", responses((status = 200, body = NowView)))]
pub(crate) async fn now(State(api): State<Api>) -> Result<Json<NowView>, Problem> {
    api.metrics.requests.inc();
    Ok(Json(look(&api).await?))
}

pub(crate) async fn look(api: &Api) -> Result<NowView, Problem> {
    let (open, sick, precision) = {
        let published = api.keeper.published();
        let open: Vec<IncidentView> = crate::book::ordered(published.values().filter(|i| i.is_open()))
            .into_iter()
            .map(IncidentView::new)
            .collect();
        let sick: BTreeSet<u32> = open.iter().flat_map(|i| i.links.iter().copied()).collect();
        (open, sick, precision_of(published.values()))
    };
    let stored = api.metrics.observations_stored.get();
    let look = move |desk: &mut Desk| {
        let engine = &desk.diagnosis.engine;
        let fabric = engine.fabric();
        let mut planes: BTreeMap<u8, PlaneView> = BTreeMap::new();
        if fabric.link_bound() <= LINKS_MAX {
            for l in fabric.links() {
                let plane = fabric.link_plane(l).0;
                let p = planes.entry(plane).or_insert(PlaneView { plane, ..PlaneView::default() });
                p.links += 1;
                p.sick += u64::from(sick.contains(&l.0));
                if let Some(h) = engine.link_health(LinkId(l.0)) {
                    p.sent_10s += h.sent_10s;
                    p.lost_10s += (h.rate_10s * h.sent_10s as f64).round() as u64;
                    p.rate_10s = p.rate_10s.max(h.rate_10s);
                }
            }
        }
        let silent: Vec<String> = desk.silent.iter().map(|h| fabric.host_name(*h)).collect();
        let lost: u64 = desk.lost();
        (
            desk.diagnosis.now.max(crate::wall()).0,
            planes.into_values().collect::<Vec<_>>(),
            silent,
            lost,
            desk.rate(stored),
        )
    };
    let (at, planes, silent, lost, per_s) = api.desk.ask(look).await?;
    let reporting = api.reporting();
    let expected = u64::from(api.fabric.shape.hosts);
    let trouble = api.tables.trouble();
    let sentence = match (open.as_slice(), &trouble) {
        ([one], _) => format!("{}: {}.", one.id, one.summary),
        ([first, rest @ ..], _) => {
            format!("{} incidents are open; the surest: {}.", rest.len() + 1, first.summary)
        }
        ([], Some(e)) => {
            format!("Nothing can be stored: {e}. Verdicts go on, and agents keep what they have.")
        }
        ([], None) if !silent.is_empty() => {
            format!("{} agents cannot be heard: {}.", silent.len(), short(&silent))
        }
        ([], None) if reporting < expected => {
            format!("No incident is open, but only {reporting} of {expected} agents report.")
        }
        ([], None) => {
            let links: u64 = planes.iter().map(|p| p.links).sum();
            format!("No incident is open; {expected} agents watch {links} links.")
        }
    };
    let well = open.is_empty() && trouble.is_none() && silent.is_empty() && reporting >= expected;
    // A page without the list of changes is better than no page.
    let changes = changes(api).await.unwrap_or_default();
    Ok(NowView {
        at: time(at),
        well,
        sentence,
        planes,
        agents: AgentsView { reporting, expected, silent },
        changes,
        precision,
        ingest: IngestView { observations_per_s: per_s, stored, lost },
    })
}

fn short(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c} and {} more", rest.len()),
        few => few.join(", "),
    }
}

async fn changes(api: &Api) -> Result<Vec<ChangeView>, TablesError> {
    // Agents come by the hundred at a start; each of them is in the tables, here they are one line a minute.
    let sql = format!(
        "select cast(max(ts) as bigint) as at, 'agent' as kind, '' as id, \
                case when count(*) = 1 then max(subject) || ': ' || max(text) \
                     else count(*) || ' agents ' || case what when 'began' then 'were heard of' else 'left in order' end end as text \
         from change where ts > now() - interval '1 day' and kind = 'agent' \
         group by date_bin(interval '1 minute', ts), what \
         union all select cast(ts as bigint), kind, '', text from change \
         where ts > now() - interval '1 day' and kind <> 'agent' \
         union all select at, 'incident', id, text from (select cast(ts as bigint) as at, id, state, summary, \
            case state when 'open' then 'opened: ' else 'closed: ' end || summary as text, \
            lag(state) over (partition by id order by ts) as before from incident) \
         where at > cast(now() as bigint) / 1000 - 86400000000 and state <> coalesce(before, '') and state <> 'forgotten' \
         order by at desc limit {CHANGES}"
    );
    let mut out = Vec::new();
    for batch in api.tables.ask(&sql, LIMITS).await?.all().await? {
        let text = |c: usize, row: usize| batch.column(c).as_string::<i32>().value(row).to_owned();
        let at = batch.column(0).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let id = text(2, row);
            let ns = u64::try_from(at.value(row)).unwrap_or(0).saturating_mul(1_000);
            out.push(ChangeView {
                at: time(ns),
                kind: text(1, row),
                text: if id.is_empty() { text(3, row) } else { format!("{id} {}", text(3, row)) },
                link: (!id.is_empty()).then(|| format!("/incidents/{id}")),
            });
        }
    }
    Ok(out)
}

fn event(kind: &str, data: &impl Serialize) -> Event {
    Event::default().event(kind).data(serde_json::to_string(data).unwrap_or_default())
}

#[derive(Serialize)]
struct Tick {
    at: String,
}

/// What changes, as it changes: `tick`, `incident` and `now`.
#[utoipa::path(get, path = "/api/v1/events",
    responses((status = 200, description = "text/event-stream; incident carries an IncidentView, now a NowView")))]
pub(crate) async fn events(
    State(api): State<Api>,
    who: Principal,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    api.metrics.requests.inc();
    let changed = api.keeper.changes();
    let clock = tokio::time::interval(Duration::from_secs(1));
    let stream = unfold(
        (api, who, changed, clock, 0u32),
        |(api, who, mut changed, mut clock, mut seconds)| async move {
            // Whoever logged out, or may no longer look, hears nothing more.
            if !api.guard.still_knows(&who) {
                return None;
            }
            let mut stopping = api.stopping.clone();
            let stop = async {
                let _ = stopping.wait_for(|&s| s).await;
            };
            let heard = tokio::select! {
                () = stop => return None,
                number = changed.recv() => Some(number),
                _ = clock.tick() => None,
            };
            let next = match heard {
                Some(Ok(number)) => {
                    let view = api.keeper.published().get(&number).map(IncidentView::new);
                    view.map(|v| event("incident", &v))
                }
                Some(Err(RecvError::Lagged(_))) => None,
                Some(Err(RecvError::Closed)) => return None,
                None => {
                    seconds = seconds.wrapping_add(1);
                    let whole = seconds.is_multiple_of(NOW_EVERY);
                    if whole { look(&api).await.ok().map(|n| event("now", &n)) } else { None }
                }
            };
            let next = next.unwrap_or_else(|| event("tick", &Tick { at: time(crate::wall().0) }));
            Some((Ok(next), (api, who, changed, clock, seconds)))
        },
    );
    Sse::new(stream)
}
