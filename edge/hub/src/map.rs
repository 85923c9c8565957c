//! The fabric as a picture: its nodes and links once, and how the links do, now or at a time gone by.
//!
//! How: both are columns, so that a picture of ten thousand links is a few arrays. Now comes from the diagnosis, the
//! past from the table `link_health`.
//! Invariants: the map is constant for an epoch and says so (ETag); health lists only links about which something is
//! known.

use crate::api::{Api, Problem};
use crate::care::parse_time;
use crate::desk::Desk;
use crate::incident::Incident;
use crate::view::{IncidentView, time};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diagnose::LinkHealth;
use fabric::{Node, Tier};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tables::Limits;
use tables::arrow::array::AsArray;
use tables::arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use utoipa::{IntoParams, ToSchema};
use wire::{HostId, LinkId};

/// Larger fabrics are not drawn link by link.
const LINKS_MAX: u32 = 65_536;
const LIMITS: Limits = Limits { rows: LINKS_MAX as usize, within: Duration::from_secs(8) };

/// Nodes of the map, as columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodesView {
    /// Names.
    pub name: Vec<String>,
    /// `host`, `leaf` or `spine`.
    pub kind: Vec<String>,
    /// Plane; -1 for a host, which is in all.
    pub plane: Vec<i32>,
}

/// Directed links of the map, as columns. A cable is two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapLinksView {
    /// Ids.
    pub id: Vec<u32>,
    /// Names.
    pub name: Vec<String>,
    /// Index of the node it leaves.
    pub a: Vec<usize>,
    /// Index of the node it reaches.
    pub b: Vec<usize>,
    /// Plane.
    pub plane: Vec<u8>,
}

/// What there is to draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapView {
    /// Version of the fabric.
    pub epoch: String,
    /// Planes.
    pub planes: u32,
    /// Nodes.
    pub nodes: NodesView,
    /// Links.
    pub links: MapLinksView,
}

/// What is there: nodes and directed links.
#[utoipa::path(get, path = "/api/v1/map", responses((status = 200, body = MapView), (status = 304, description = "as before"),
    (status = 422, description = "too large to draw")))]
pub(crate) async fn map(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let fabric = &api.fabric;
    if fabric.link_bound() > LINKS_MAX {
        let error = format!("the fabric has more than {LINKS_MAX} directed links, too many to draw");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error));
    }
    let epoch = format!("{:016x}", fabric.epoch.0);
    let tag = format!("\"{epoch}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|t| t.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut nodes = NodesView::default();
    let mut index: BTreeMap<Node, usize> = BTreeMap::new();
    let mut hosts: BTreeMap<HostId, usize> = BTreeMap::new();
    let mut push = |name: String, kind: &str, plane: i32| {
        nodes.name.push(name);
        nodes.kind.push(kind.to_owned());
        nodes.plane.push(plane);
        nodes.name.len() - 1
    };
    let mut links = MapLinksView::default();
    for link in fabric.links() {
        let Some((a, b)) = fabric.link_ends(link) else { continue };
        let mut of = |node: Node| match node {
            Node::Nic(nic) => {
                let host = fabric.nic_parts(nic).1;
                *hosts.entry(host).or_insert_with(|| push(fabric.host_name(host), "host", -1))
            }
            Node::Switch(s) => *index.entry(node).or_insert_with(|| {
                let (plane, tier, _) = fabric.switch_parts(s);
                let kind = if tier == Tier::Leaf { "leaf" } else { "spine" };
                push(fabric.switch_name(s), kind, plane.0.into())
            }),
        };
        let (a, b) = (of(a), of(b));
        links.id.push(link.0);
        links.name.push(fabric.link_name(link));
        links.a.push(a);
        links.b.push(b);
        links.plane.push(fabric.link_plane(link).0);
    }
    let view = MapView { epoch, planes: fabric.shape.planes, nodes, links };
    Ok(([(header::ETAG, tag)], Json(view)).into_response())
}

/// How links do, as columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinksHealthView {
    /// Ids.
    pub id: Vec<u32>,
    /// Packets that crossed it in ten seconds.
    pub sent: Vec<u64>,
    /// Packets lost on paths over it.
    pub lost: Vec<u64>,
    /// Loss charged to the link itself, 0 to 1.
    pub rate: Vec<f64>,
    /// Delay above usual charged to it, nanoseconds.
    pub delay_excess_ns: Vec<u64>,
    /// Packets that crossed it in a minute: how well it is watched.
    pub probes: Vec<u64>,
}

/// How the links do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// When.
    pub at: String,
    /// As of now, not of a time gone by.
    pub live: bool,
    /// Links about which something is known.
    pub links: LinksHealthView,
    /// Incidents open at that time.
    pub incidents: Vec<IncidentView>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HealthQuery {
    /// A time gone by, RFC 3339; now where left out.
    at: Option<String>,
}

/// How the links do, or did.
#[utoipa::path(get, path = "/api/v1/health", params(HealthQuery), responses((status = 200, body = HealthView)))]
pub(crate) async fn health(
    State(api): State<Api>,
    query: Result<Query<HealthQuery>, QueryRejection>,
) -> Result<Json<HealthView>, Problem> {
    api.metrics.requests.inc();
    let Query(query) = query?;
    let Some(at) = query.at else { return Ok(Json(now(&api).await?)) };
    let at = parse_time(&at)?;
    let sql = format!(
        "select link, sum(sent) as sent, sum(lost) as lost, max(rate) as rate, max(delay_excess_ns) as excess \
         from link_health where ts > to_timestamp_micros({}) and ts <= to_timestamp_micros({}) \
         and fabric_epoch = {} group by link order by link",
        at.saturating_sub(10_000_000_000) / 1_000,
        at / 1_000,
        api.fabric.epoch.0.cast_signed()
    );
    let mut links = LinksHealthView::default();
    let whole = |n: i64| u64::try_from(n).unwrap_or(0);
    for batch in api.tables.ask(&sql, LIMITS).await?.all().await? {
        let long = |c: usize| batch.column(c).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let id = batch.column(0).as_primitive::<Int32Type>().value(row);
            links.id.push(u32::try_from(id).unwrap_or(0));
            links.sent.push(whole(long(1).value(row)));
            links.lost.push(whole(long(2).value(row)));
            links.rate.push(batch.column(3).as_primitive::<Float64Type>().value(row));
            links.delay_excess_ns.push(whole(long(4).value(row)));
            // Ten seconds are what is kept; a minute of them is six times as many.
            links.probes.push(whole(long(1).value(row)).saturating_mul(6));
        }
    }
    let open = |i: &&Incident| i.first_seen_ns <= at && i.closed_at_ns.is_none_or(|t| t > at);
    let incidents = api.keeper.published().values().filter(open).map(IncidentView::new).collect();
    Ok(Json(HealthView { at: time(at), live: false, links, incidents }))
}

async fn now(api: &Api) -> Result<HealthView, Problem> {
    let known = |desk: &mut Desk| -> (u64, Vec<LinkHealth>) {
        let engine = &desk.diagnosis.engine;
        let fabric = engine.fabric();
        let all: Vec<LinkId> =
            if fabric.link_bound() <= LINKS_MAX { fabric.links().collect() } else { Vec::new() };
        let known = all.into_iter().filter_map(|l| engine.link_health(l)).filter(|h| h.sent_60s > 0);
        (desk.diagnosis.now.max(crate::wall()).0, known.collect())
    };
    let (at, known) = api.desk.ask(known).await?;
    let mut links = LinksHealthView::default();
    for h in known {
        links.id.push(h.link.0);
        links.sent.push(h.sent_10s);
        links.lost.push(h.lost_10s);
        links.rate.push(h.rate_10s);
        links.delay_excess_ns.push(h.delay_excess_ns);
        links.probes.push(h.sent_60s);
    }
    let incidents = api.keeper.published().values().filter(|i| i.is_open()).map(IncidentView::new).collect();
    Ok(HealthView { at: time(at), live: true, links, incidents })
}

/// Which times may be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpanView {
    /// The earliest.
    pub from: String,
    /// The latest.
    pub to: String,
}

/// The times for which the links' health is kept.
#[utoipa::path(get, path = "/api/v1/health/span", responses((status = 200, body = SpanView)))]
pub(crate) async fn span(State(api): State<Api>) -> Result<Json<SpanView>, Problem> {
    api.metrics.requests.inc();
    let sql = "select cast(min(ts) as bigint) as a, cast(max(ts) as bigint) as b from link_health";
    let now = crate::wall().0 / 1_000;
    let (mut from, mut to) = (now, now);
    for batch in api.tables.ask(sql, LIMITS).await?.all().await? {
        use tables::arrow::array::Array;
        let at = |c: usize| {
            let column = batch.column(c).as_primitive::<Int64Type>();
            (!column.is_null(0)).then(|| u64::try_from(column.value(0)).unwrap_or(0))
        };
        (from, to) = (at(0).unwrap_or(now), at(1).unwrap_or(now));
    }
    Ok(Json(SpanView { from: time(from * 1_000), to: time(to * 1_000) }))
}
