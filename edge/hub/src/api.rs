//! The questions a hub answers over HTTP, and their description as OpenAPI.
//!
//! Invariants: every route is in the document at `/api/v1/openapi.json`; an error is JSON
//! `{"error": "..."}` that says what was expected; a list is limited in length.
//! Who may ask what is decided before, by the `guard`.

use crate::agents::Agents;
use crate::book::ordered;
use crate::desk::{Busy, Desk, DeskHandle};
use crate::guard::{self, Guard, Principal};
use crate::incident::{ComponentKind, Incident, Judgement};
use crate::keeper::Keeper;
use crate::measured::Measurement;
use crate::metrics::{InTable, Judged, Metrics, Name, What, Why, set};
use crate::tasks::Board;
use crate::view::{
    AgentView, FabricView, GuideView, Health, IncidentView, LinkView, MeasuredView, PathView, PathsView,
    PrecisionRow, PrecisionView, Ready, TopView, time,
};
use crate::{ask, care, map, matrix, now, pages, tasks};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use diagnose::LinkHealth;
use fabric::{Fabric, Mode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tables::Tables;
use tokio::sync::watch;
use utoipa::{IntoParams, OpenApi, ToSchema};
use wire::{Component, LinkId, NicId, PathId};

const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;
const PATHS_SHOWN_MAX: usize = 4_096;
/// Fabrics with more links are not scanned link by link for the top list; what is probed and hurt is still there.
const SCAN_MAX: u32 = 65_536;

#[derive(Clone)]
pub(crate) struct Api {
    pub fabric: Arc<Fabric>,
    pub desk: DeskHandle,
    pub keeper: Keeper,
    pub agents: Arc<Mutex<Agents>>,
    pub metrics: Arc<Metrics>,
    pub silent_after: Duration,
    pub tables: Arc<Tables>,
    pub guard: Arc<Guard>,
    pub tasks: Arc<Board>,
    pub stopping: watch::Receiver<bool>,
}

impl Api {
    /// Agents that report.
    pub(crate) fn reporting(&self) -> u64 {
        lock(&self.agents).reporting()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Selvedge hub",
        description = "Which component is sick, since when, how surely, and on what evidence."
    ),
    paths(
        incidents,
        care::incident,
        care::acknowledge,
        care::assign,
        care::snooze,
        care::close,
        care::note,
        care::label,
        guide,
        care::series,
        care::retrospective,
        fabric,
        links,
        paths,
        top,
        agents,
        precision,
        map::map,
        map::health,
        map::span,
        matrix::matrix,
        now::now,
        now::events,
        tasks::trace,
        tasks::capture,
        tasks::look,
        tasks::tasks,
        tasks::task,
        tasks::stop,
        tasks::outcome,
        ask::query,
        ask::schema,
        pages::docs,
        pages::doc_page,
        guard::login::me,
        guard::login::login,
        guard::login::logout,
        guard::oidc::sign_in,
        guard::oidc::callback,
        guard::reveal::reveal,
        guard::hook::hook,
        openapi,
        metrics,
        healthz,
        readyz
    )
)]
struct Document;

pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/incidents/{id}", get(care::incident))
        .route("/api/v1/incidents/{id}/acknowledge", post(care::acknowledge))
        .route("/api/v1/incidents/{id}/assign", post(care::assign))
        .route("/api/v1/incidents/{id}/snooze", post(care::snooze))
        .route("/api/v1/incidents/{id}/close", post(care::close))
        .route("/api/v1/incidents/{id}/note", post(care::note))
        .route("/api/v1/incidents/{id}/label", post(care::label))
        .route("/api/v1/incidents/{id}/series", get(care::series))
        .route("/api/v1/incidents/{id}/retrospective", get(care::retrospective))
        .route("/api/v1/incidents/{id}/guide", get(guide))
        .route("/api/v1/fabric", get(fabric))
        .route("/api/v1/links", get(links))
        .route("/api/v1/paths", get(paths))
        .route("/api/v1/top", get(top))
        .route("/api/v1/agents", get(agents))
        .route("/api/v1/precision", get(precision))
        .route("/api/v1/map", get(map::map))
        .route("/api/v1/health", get(map::health))
        .route("/api/v1/health/span", get(map::span))
        .route("/api/v1/matrix", get(matrix::matrix))
        .route("/api/v1/now", get(now::now))
        .route("/api/v1/events", get(now::events))
        .route("/api/v1/traces", post(tasks::trace))
        .route("/api/v1/captures", post(tasks::capture))
        .route("/api/v1/looks", post(tasks::look))
        .route("/api/v1/tasks", get(tasks::tasks))
        .route("/api/v1/tasks/{id}", get(tasks::task))
        .route("/api/v1/tasks/{id}/stop", post(tasks::stop))
        .route("/api/v1/tasks/{id}/outcome", get(tasks::outcome))
        .route("/api/v1/query", post(ask::query))
        .route("/api/v1/schema", get(ask::schema))
        .route("/api/v1/docs/index", get(pages::docs))
        .route("/api/v1/docs/page", get(pages::doc_page))
        .route("/api/v1/me", get(guard::me))
        .route("/api/v1/login", post(guard::login))
        .route("/api/v1/login/oidc", get(guard::sign_in))
        .route("/api/v1/login/callback", get(guard::callback))
        .route("/api/v1/logout", post(guard::logout))
        .route("/api/v1/reveal", post(guard::reveal))
        .route("/api/v1/hooks/{name}", post(guard::hook))
        .route("/api/v1/openapi.json", get(openapi))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(pages::page)
        .layer(axum::middleware::from_fn_with_state(api.clone(), guard::door))
        .with_state(api)
        .layer(axum::middleware::from_fn(pages::strict))
}

/// What a request got instead of an answer.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    error: String,
    login: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
struct ErrorView {
    /// What was expected, and what to do.
    error: String,
    /// Where a login is wanted: `local` or `oidc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Problem { status, error: error.into(), login: None }
    }

    /// What was said.
    pub(crate) fn said(&self) -> &str {
        &self.error
    }

    /// Says how to log in.
    pub(crate) fn wanting(self, login: &'static str) -> Self {
        Problem { login: Some(login), ..self }
    }
}
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, Json(ErrorView { error: self.error, login: self.login })).into_response();
        let (name, value) = match self.status {
            StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
            StatusCode::TOO_MANY_REQUESTS => (header::RETRY_AFTER, "60"),
            _ => return response,
        };
        response.headers_mut().insert(name, HeaderValue::from_static(value));
        response
    }
}
impl From<Busy> for Problem {
    fn from(Busy: Busy) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the hub is busy diagnosing; ask again in a second")
    }
}
impl From<QueryRejection> for Problem {
    fn from(e: QueryRejection) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, e.body_text())
    }
}
impl From<JsonRejection> for Problem {
    fn from(e: JsonRejection) -> Self {
        Problem::new(e.status(), e.body_text())
    }
}

type Answer<T> = Result<Json<T>, Problem>;
type Asked<T> = Result<Query<T>, QueryRejection>;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct IncidentQuery {
    /// `open` or `closed`; all where left out.
    state: Option<String>,
    /// Most incidents listed, default 1000, at most 10000.
    limit: Option<usize>,
}

/// Incidents: open before closed, most confident first.
#[utoipa::path(get, path = "/api/v1/incidents", params(IncidentQuery),
    responses((status = 200, body = Vec<IncidentView>), (status = 400, body = ErrorView)))]
async fn incidents(
    State(api): State<Api>,
    who: Principal,
    query: Asked<IncidentQuery>,
) -> Answer<Vec<IncidentView>> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let open = match query.state.as_deref() {
        None | Some("all") => None,
        Some("open") => Some(true),
        Some("closed") => Some(false),
        Some(other) => {
            let error = format!("state is {other:?}, expected open, closed or all");
            return Err(Problem::new(StatusCode::BAD_REQUEST, error));
        }
    };
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let published = api.keeper.published();
    let seen = |i: &&Incident| match api.fabric.component_by_name(&i.component.name) {
        Some(component) => who.sight.sees(&api.fabric, component),
        None => who.tenant.is_none(),
    };
    let wanted = published.values().filter(|i| open.is_none_or(|o| i.is_open() == o)).filter(seen);
    let shown = |i: &Incident| {
        let mut view = IncidentView::new(i);
        view.cut(&api.fabric, &who.sight);
        view
    };
    Ok(Json(ordered(wanted).into_iter().take(limit).map(shown).collect()))
}

pub(crate) fn number(id: &str) -> Result<u64, Problem> {
    id.strip_prefix("inc-").unwrap_or(id).parse().map_err(|_| {
        Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is no incident, expected one such as inc-12"))
    })
}

pub(crate) fn no_incident(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no incident {id}; /api/v1/incidents lists them"))
}

/// What to do about an incident, step by step.
#[utoipa::path(get, path = "/api/v1/incidents/{id}/guide", params(("id" = String, Path, description = "such as inc-12")),
    responses((status = 200, body = GuideView), (status = 404, body = ErrorView)))]
async fn guide(State(api): State<Api>, Path(id): Path<String>) -> Answer<GuideView> {
    api.metrics.requests.inc();
    let n = number(&id)?;
    let published = api.keeper.published();
    let incident = published.get(&n).ok_or_else(|| no_incident(&id))?;
    Ok(Json(crate::guide::guide(&IncidentView::new(incident))))
}

/// The fabric that is watched.
#[utoipa::path(get, path = "/api/v1/fabric", responses((status = 200, body = FabricView)))]
async fn fabric(State(api): State<Api>) -> Json<FabricView> {
    api.metrics.requests.inc();
    let f = &api.fabric;
    Json(FabricView {
        name: f.name.clone(),
        mode: match f.mode {
            Mode::Srv6 => "srv6".to_owned(),
            Mode::Ecmp => "ecmp".to_owned(),
        },
        epoch: format!("{:016x}", f.epoch.0),
        planes: f.shape.planes,
        leaves: f.shape.leaves,
        spines: f.shape.spines,
        hosts: f.shape.hosts,
        nics: f.nics(),
        switches: f.switches(),
        links: f.links().count() as u64,
        toml: f.to_toml(),
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LinkQuery {
    /// Links before this id are left out; to go through a large fabric page by page.
    from_id: Option<u32>,
    /// Only this plane.
    plane: Option<u8>,
    /// Only this link, by name.
    name: Option<String>,
    /// Most links listed, default 1000, at most 10000.
    limit: Option<usize>,
}

/// Open incidents by the links they name.
fn named_links(api: &Api) -> BTreeMap<u32, Vec<String>> {
    let mut out: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for i in ordered(api.keeper.published().values().filter(|i| i.is_open())) {
        for l in links_of(i) {
            out.entry(l).or_default().push(i.id());
        }
    }
    out
}

fn links_of(i: &Incident) -> Vec<u32> {
    let mut links: Vec<u32> = i.links.iter().map(|l| l.id).collect();
    if i.component.kind == ComponentKind::Link && !links.contains(&i.component.id) {
        links.push(i.component.id);
    }
    links
}

fn link_view(fabric: &Fabric, h: &LinkHealth, named: &BTreeMap<u32, Vec<String>>) -> LinkView {
    LinkView {
        id: h.link.0,
        name: fabric.link_name(h.link),
        plane: fabric.link_plane(h.link).0,
        sent_10s: h.sent_10s,
        lost_10s: h.lost_10s,
        rate_10s: h.rate_10s,
        sent_60s: h.sent_60s,
        lost_60s: h.lost_60s,
        rate_60s: h.rate_60s,
        delay_excess_ns: h.delay_excess_ns,
        incidents: named.get(&h.link.0).cloned().unwrap_or_default(),
    }
}

/// How the directed links are doing, in the order of their ids.
#[utoipa::path(get, path = "/api/v1/links", params(LinkQuery),
    responses((status = 200, body = Vec<LinkView>), (status = 400, body = ErrorView)))]
async fn links(State(api): State<Api>, query: Asked<LinkQuery>) -> Answer<Vec<LinkView>> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let fabric = Arc::clone(&api.fabric);
    let wanted: Vec<LinkId> = match &query.name {
        Some(name) => match fabric.link_by_name(name) {
            Some(l) => vec![l],
            None => {
                let error = format!("there is no link {name:?}, expected one such as p0-leaf0:p0-spine0");
                return Err(Problem::new(StatusCode::BAD_REQUEST, error));
            }
        },
        None => (query.from_id.unwrap_or(0)..fabric.link_bound())
            .map(LinkId)
            .filter(|&l| query.plane.is_none_or(|p| fabric.link_plane(l).0 == p) && fabric.exists(l))
            .take(limit)
            .collect(),
    };
    let named = named_links(&api);
    let list = move |desk: &mut Desk| {
        let engine = &desk.diagnosis.engine;
        let health = wanted.into_iter().filter_map(|l| engine.link_health(l));
        health.map(|h| link_view(engine.fabric(), &h, &named)).collect()
    };
    Ok(Json(api.desk.ask(list).await?))
}

fn measured_view(m: Measurement) -> MeasuredView {
    MeasuredView {
        sent: m.sent,
        lost: m.lost,
        lost_round_trip: m.lost_round_trip,
        rate: if m.sent == 0 { 0.0 } else { m.lost as f64 / m.sent as f64 },
        delay_min_ns: m.delay_ns.map(|d| d.0),
        delay_p50_ns: m.delay_ns.map(|d| d.1),
        delay_max_ns: m.delay_ns.map(|d| d.2),
    }
}

fn path_view(desk: &Desk, path: PathId, named: &BTreeMap<u32, Vec<String>>) -> Option<PathView> {
    let engine = &desk.diagnosis.engine;
    let fabric = engine.fabric();
    let health = engine.path_health(path)?;
    Some(PathView {
        id: path.0,
        name: fabric.path_name(path),
        plane: health.links.first().map_or(0, |l| fabric.link_plane(l.link).0),
        rate_10s: health.rate_10s,
        rate_60s: health.rate_60s,
        delay_excess_ns: health.delay_excess_ns,
        measured: desk.diagnosis.measured.get(desk.diagnosis.now, path).map(measured_view),
        hops: health.links.iter().map(|h| link_view(fabric, h, named)).collect(),
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PathQuery {
    /// Host or NIC, such as host0 or host0-p1.
    from: String,
    /// Host or NIC.
    to: String,
}

/// NICs behind a name: one for a NIC, all of a host's.
fn nics(fabric: &Fabric, name: &str) -> Result<Vec<NicId>, Problem> {
    let found = match fabric.component_by_name(name) {
        Some(Component::Nic(nic)) => vec![nic],
        Some(Component::Host(host)) => {
            (0..fabric.nics()).map(NicId).filter(|&n| fabric.nic_parts(n).1 == host).collect()
        }
        _ => {
            let last = fabric.shape.hosts.saturating_sub(1);
            let error =
                format!("{name:?} is no host or NIC, expected host0 to host{last}, or such as host0-p0");
            return Err(Problem::new(StatusCode::BAD_REQUEST, error));
        }
    };
    Ok(found)
}

/// All paths from one host or NIC to another, with loss and delay, hop by hop.
#[utoipa::path(get, path = "/api/v1/paths", params(PathQuery),
    responses((status = 200, body = PathsView), (status = 400, body = ErrorView)))]
async fn paths(State(api): State<Api>, query: Asked<PathQuery>) -> Answer<PathsView> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let (from, to) = (nics(&api.fabric, &query.from)?, nics(&api.fabric, &query.to)?);
    let fabric = Arc::clone(&api.fabric);
    let mut wanted: Vec<PathId> = Vec::new();
    let mut omitted = 0u64;
    for &a in &from {
        for &b in &to {
            for path in fabric.paths(a, b) {
                if wanted.len() < PATHS_SHOWN_MAX { wanted.push(path) } else { omitted += 1 }
            }
        }
    }
    if wanted.is_empty() {
        let error = format!("there is no path from {} to {}", query.from, query.to);
        return Err(Problem::new(StatusCode::BAD_REQUEST, error));
    }
    let named = named_links(&api);
    let list = move |desk: &mut Desk| wanted.into_iter().filter_map(|p| path_view(desk, p, &named)).collect();
    let paths = api.desk.ask(list).await?;
    Ok(Json(PathsView { from: query.from, to: query.to, paths, omitted }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TopQuery {
    /// Most links and paths listed, default 20, at most 1000.
    limit: Option<usize>,
}

/// The sickest links and paths right now.
#[utoipa::path(get, path = "/api/v1/top", params(TopQuery), responses((status = 200, body = TopView)))]
async fn top(State(api): State<Api>, query: Asked<TopQuery>) -> Answer<TopView> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(20).min(1_000);
    let reporting = api.reporting();
    let stored = api.metrics.observations_stored.get();
    let named = named_links(&api);
    let incidents = {
        let published = api.keeper.published();
        let open = ordered(published.values().filter(|i| i.is_open()));
        open.into_iter().take(limit).map(IncidentView::new).collect()
    };
    let answer = move |desk: &mut Desk| {
        let engine = &desk.diagnosis.engine;
        let fabric = Arc::clone(engine.fabric());
        let scanned: Vec<LinkId> = if fabric.link_bound() <= SCAN_MAX {
            fabric.links().collect()
        } else {
            named.keys().map(|&l| LinkId(l)).collect()
        };
        let mut sick: Vec<LinkHealth> = scanned
            .into_iter()
            .filter_map(|l| engine.link_health(l))
            .filter(|h| h.rate_10s > 0.0 || h.rate_60s > 0.0 || h.delay_excess_ns > 0)
            .collect();
        sick.sort_by(|a, b| {
            b.rate_10s
                .total_cmp(&a.rate_10s)
                .then(b.rate_60s.total_cmp(&a.rate_60s))
                .then(b.delay_excess_ns.cmp(&a.delay_excess_ns))
                .then(a.link.cmp(&b.link))
        });
        sick.truncate(limit);
        let worst = desk.diagnosis.measured.worst(desk.diagnosis.now, limit);
        TopView {
            at: time(desk.diagnosis.now.max(crate::wall()).0),
            incidents,
            links: sick.iter().map(|h| link_view(&fabric, h, &named)).collect(),
            paths: worst.into_iter().filter_map(|(p, _)| path_view(desk, p, &named)).collect(),
            agents_reporting: reporting,
            agents_expected: fabric.shape.hosts.into(),
            observations_stored: stored,
            packets: engine.counters().packets,
        }
    };
    Ok(Json(api.desk.ask(answer).await?))
}

fn lock(agents: &Mutex<Agents>) -> std::sync::MutexGuard<'_, Agents> {
    agents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The agents the hub has heard of.
#[utoipa::path(get, path = "/api/v1/agents", responses((status = 200, body = Vec<AgentView>)))]
async fn agents(State(api): State<Api>) -> Json<Vec<AgentView>> {
    api.metrics.requests.inc();
    let agents = lock(&api.agents);
    let silent: Vec<_> = agents.silent(crate::wall(), api.silent_after).into_iter().map(|s| s.0).collect();
    let list = agents.iter().map(|(host, a)| AgentView {
        host: api.fabric.host_name(host),
        state: if silent.contains(&host) {
            "silent"
        } else if a.is_reporting() {
            "reporting"
        } else if a.stream.is_some() {
            "connected"
        } else {
            "away"
        }
        .to_owned(),
        software: a.software.clone(),
        last_heard: time(a.last_heard.0),
        batches: a.batches,
        observations: a.observations,
        lost: a.lost,
        counters: a.counters.clone(),
    });
    Json(list.collect())
}

pub(crate) fn precision_of<'a>(incidents: impl Iterator<Item = &'a Incident>) -> PrecisionView {
    let mut rows: BTreeMap<String, PrecisionRow> = BTreeMap::new();
    let mut all = 0;
    let mut judged = 0;
    for i in incidents {
        all += 1;
        let Some(label) = &i.label else { continue };
        judged += 1;
        let kind = format!("{} {}", crate::incident::kind_word(i.component.kind), i.kind);
        for kind in ["all".to_owned(), kind] {
            let row = rows.entry(kind.clone()).or_insert(PrecisionRow {
                kind,
                right: 0,
                wrong: 0,
                partly: 0,
                precision: None,
            });
            match label.judgement {
                Judgement::Right => row.right += 1,
                Judgement::Wrong => row.wrong += 1,
                Judgement::Partly => row.partly += 1,
            }
        }
    }
    let mut rows: Vec<PrecisionRow> = rows.into_values().collect();
    for row in &mut rows {
        let judged = row.right + row.wrong + row.partly;
        row.precision = Some((row.right as f64 + 0.5 * row.partly as f64) / judged as f64);
    }
    rows.sort_by_key(|r| (r.kind != "all", r.kind.clone()));
    PrecisionView { incidents: all, judged, rows }
}

/// How good past verdicts were, as people judged them.
#[utoipa::path(get, path = "/api/v1/precision", responses((status = 200, body = PrecisionView)))]
async fn precision(State(api): State<Api>) -> Answer<PrecisionView> {
    api.metrics.requests.inc();
    Ok(Json(precision_of(api.keeper.published().values())))
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, description = "OpenAPI document")))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

/// Every counter, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "OpenMetrics text")))]
async fn metrics(State(api): State<Api>) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], metrics_text(&api).await?).into_response())
}

/// Every counter as it is now, in OpenMetrics' text.
pub(crate) async fn metrics_text(api: &Api) -> Result<String, Problem> {
    let m = &api.metrics;
    let asked = api
        .desk
        .ask(|desk| {
            let book = &desk.diagnosis.book;
            (
                desk.diagnosis.engine.counters().clone(),
                book.forgotten_total(),
                book.changes(),
                desk.diagnosis.measured.unshown,
                desk.silent.len(),
            )
        })
        .await?;
    let (counters, forgotten, changes, unshown, silent) = asked;
    let mut open = 0;
    let mut labels: BTreeMap<(String, &'static str), i64> = BTreeMap::new();
    for i in api.keeper.published().values() {
        open += u64::from(i.is_open());
        if let Some(l) = &i.label {
            let judgement = match l.judgement {
                Judgement::Right => "right",
                Judgement::Wrong => "wrong",
                Judgement::Partly => "partly",
            };
            let kind = crate::incident::kind_word(i.component.kind).to_owned();
            *labels.entry((kind, judgement)).or_default() += 1;
        }
    }
    m.set_engine(&counters);
    m.tables_bytes_held.set(gauge(api.tables.bytes_held() as u64));
    for (table, size) in api.tables.sizes() {
        let of = |family: &Family<InTable, Gauge>, n: u64| {
            family.get_or_create(&InTable { table }).set(gauge(n));
        };
        of(&m.table_files, size.files);
        of(&m.table_rows, size.rows);
        of(&m.table_bytes, size.bytes);
    }
    for (what, n) in api.tables.upkept().named() {
        set(&m.upkeep.get_or_create(&What { what }), n);
    }
    m.incidents_open.set(gauge(open));
    set(&m.incidents_forgotten, forgotten);
    for (reason, n) in changes {
        set(&m.incident_changes.get_or_create(&Why { reason }), n);
    }
    set(&m.paths_unshown, unshown);
    m.agents_silent.set(gauge(silent as u64));
    for ((component, judgement), n) in labels {
        m.labels.get_or_create(&Judged { component, judgement }).set(n);
    }
    {
        let agents = lock(&api.agents);
        m.agents_connected.set(gauge(agents.connected()));
        m.agents_reporting.set(gauge(agents.reporting()));
        m.agents_expected.set(api.fabric.shape.hosts.into());
        let mut own: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, a) in agents.iter() {
            for (name, n) in &a.counters {
                let sum = own.entry(name).or_default();
                *sum = sum.saturating_add(*n);
            }
        }
        for (name, n) in own {
            m.agent_counters.get_or_create(&Name { name: name.to_owned() }).set(gauge(n));
        }
    }
    Ok(m.text())
}

fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReadyQuery {
    /// `all`: ready only when every host's agent reports; `connected`: when every one is connected.
    agents: Option<String>,
}

/// Whether the hub is there for agents and people.
#[utoipa::path(get, path = "/readyz", params(ReadyQuery),
    responses((status = 200, body = Ready), (status = 503, body = Ready)))]
async fn readyz(State(api): State<Api>, query: Asked<ReadyQuery>) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let (connected, reporting) = {
        let agents = lock(&api.agents);
        (agents.connected(), agents.reporting())
    };
    let expected = u64::from(api.fabric.shape.hosts);
    let mut problem = match api.desk.ask(|_| ()).await {
        Ok(()) => {
            let keeping = api.keeper.error().map(|e| e.to_string());
            keeping.or_else(|| api.tables.trouble().map(|e| format!("nothing can be stored: {e}")))
        }
        Err(Busy) => Some("the desk does not answer".to_owned()),
    };
    match query.agents.as_deref() {
        None => {}
        Some("all") if reporting < expected => {
            problem = problem.or(Some(format!("{reporting} of {expected} agents report")));
        }
        Some("connected") if connected < expected => {
            problem = problem.or(Some(format!("{connected} of {expected} agents are connected")));
        }
        Some("all" | "connected") => {}
        Some(other) => {
            let said = format!("agents is {other:?}, expected all or connected");
            return Err(Problem::new(StatusCode::BAD_REQUEST, said));
        }
    }
    let ready = Ready {
        ready: problem.is_none(),
        agents_connected: connected,
        agents_reporting: reporting,
        agents_expected: expected,
        problem,
    };
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(ready)).into_response())
}
