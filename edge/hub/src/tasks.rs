//! What agents are asked to do once: a trace, a capture, a look at connections. Asked for over HTTP, handed to the agents on their streams, the
//! outcome kept for who asked.
//!
//! How: a board holds the tasks; a stream that is open sees the board change and sends its host's list, whole. Pieces of
//! an outcome come back on the stream, are checked ([`wire::task::Assembly`]) and acknowledged one by one.
//! Invariants: a task is written down in table audit before an agent hears of it; a board holds at most [`TASKS_MAX`]
//! tasks and [`OUTPUT_BYTES_MAX`] bytes of outcomes, and forgets ended ones after [`KEPT`]; an id is never given twice,
//! also by the hub that takes over.
//! Absent on purpose: keeping outcomes over a restart. Who asked is waiting, and asks again.

use crate::api::{Api, Problem};
use crate::guard::Principal;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use fabric::Fabric;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use utoipa::ToSchema;
use wire::proto::{
    CaptureFilter, CaptureTask, HopConfidence, LookTask, Task, TaskAck, TaskOutput, Tasks, TraceReport,
    TraceTask, task::Kind,
};
use wire::task::{Assembly, RUNNING_MAX, Taken, TaskError, check};
use wire::{HostId, Nanos, PathId};

/// Tasks remembered.
const TASKS_MAX: usize = 512;
/// Bytes of all outcomes.
const OUTPUT_BYTES_MAX: usize = 256 << 20;
/// An ended task is forgotten after this.
const KEPT: Nanos = Nanos::from_secs(1_800);
/// What a task may take beyond the time it works: until the agent hears of it, and until the last piece is here.
const GRACE: Nanos = Nanos::from_secs(60);
/// Hosts of one capture.
const HOSTS_MAX: usize = 64;

/// How a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// No piece came yet.
    Waiting,
    /// Pieces come.
    Coming,
    /// All of it is here.
    Done,
    /// It ended without, and why.
    Failed(String),
}

struct Kept {
    host: HostId,
    task: Task,
    asked_by: String,
    asked_at: Nanos,
    standing: Standing,
    assembly: Assembly,
    output: Vec<u8>,
    lost_packets: u64,
    ended_at: Option<Nanos>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    tasks: BTreeMap<u64, Kept>,
    bytes: usize,
}

/// The tasks of all hosts.
pub(crate) struct Board {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Board {
    /// An empty one. `now` makes its ids later than those of any hub before.
    pub(crate) fn new(now: Nanos) -> Self {
        Board {
            inner: Mutex::new(Inner { next: now.0 / 1_000, ..Inner::default() }),
            changed: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever a list may have changed.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// What a host is to do now.
    pub(crate) fn of(&self, now: Nanos, host: HostId) -> Tasks {
        let inner = self.lock();
        let open = inner.tasks.values().filter(|k| k.host == host && k.ended_at.is_none());
        Tasks { tasks: open.filter(|k| k.task.expires_ns > now.0).map(|k| k.task.clone()).collect() }
    }

    /// Forgets what is old and ends what is overdue.
    pub(crate) fn tidy(&self, now: Nanos) {
        let mut inner = self.lock();
        let mut freed = 0;
        inner.tasks.retain(|_, k| {
            if k.ended_at.is_none() && now > Nanos(k.task.expires_ns) + GRACE {
                k.standing = Standing::Failed("the agent did not answer in time".to_owned());
                k.ended_at = Some(now);
            }
            let keep = k.ended_at.is_none_or(|at| now.since(at) < KEPT);
            if !keep {
                freed += k.output.len();
            }
            keep
        });
        inner.bytes = inner.bytes.saturating_sub(freed);
    }

    fn add(&self, now: Nanos, host: HostId, kind: Kind, works: Nanos, by: &str) -> Result<u64, Problem> {
        self.tidy(now);
        let mut inner = self.lock();
        let busy = |text: String| Problem::new(StatusCode::TOO_MANY_REQUESTS, text);
        if inner.tasks.len() >= TASKS_MAX {
            return Err(busy(format!("{TASKS_MAX} tasks are remembered already; wait, or stop some")));
        }
        let open = inner.tasks.values().filter(|k| k.host == host && k.ended_at.is_none()).count();
        if open >= RUNNING_MAX {
            return Err(busy(format!(
                "{RUNNING_MAX} tasks are at work on {host} already; wait for one to end"
            )));
        }
        inner.next += 1;
        let id = inner.next;
        let task = Task { id, expires_ns: (now + works + GRACE).0, kind: Some(kind) };
        let task = check(now, &task).map_err(|e| unfit(&e))?;
        let kept = Kept {
            host,
            task,
            asked_by: by.to_owned(),
            asked_at: now,
            standing: Standing::Waiting,
            assembly: Assembly::new(id),
            output: Vec::new(),
            lost_packets: 0,
            ended_at: None,
        };
        inner.tasks.insert(id, kept);
        Ok(id)
    }

    /// Takes a piece from a host; what to answer.
    pub(crate) fn take(&self, now: Nanos, host: HostId, piece: &TaskOutput) -> TaskAck {
        let mut inner = self.lock();
        let room = OUTPUT_BYTES_MAX.saturating_sub(inner.bytes);
        let answer = |refused: String| TaskAck { task: piece.task, sequence: piece.sequence, refused };
        let Some(kept) = inner.tasks.get_mut(&piece.task).filter(|k| k.host == host) else {
            return answer("this hub does not know the task".to_owned());
        };
        if kept.ended_at.is_some() && piece.sequence > 0 && kept.standing != Standing::Done {
            return answer("nobody waits for it any more".to_owned());
        }
        let taken = kept.assembly.take(piece).map_err(|e| e.to_string());
        let taken = taken.and_then(|t| match t {
            Taken::New | Taken::Last if piece.chunk.len() > room => {
                Err("the hub holds as many outcomes as it may; fetch or stop some".to_owned())
            }
            t => Ok(t),
        });
        let mut added = 0;
        let refused = match taken {
            Ok(Taken::Again) => String::new(),
            Ok(new) => {
                kept.output.extend_from_slice(&piece.chunk);
                added = piece.chunk.len();
                kept.standing = Standing::Coming;
                if new == Taken::Last {
                    kept.lost_packets = piece.lost_packets;
                    kept.ended_at = Some(now);
                    kept.standing = match piece.error.as_str() {
                        "" => Standing::Done,
                        why => Standing::Failed(why.to_owned()),
                    };
                }
                String::new()
            }
            Err(why) => {
                kept.standing = Standing::Failed(why.clone());
                kept.ended_at = Some(now);
                why
            }
        };
        inner.bytes += added;
        answer(refused)
    }

    fn stop(&self, now: Nanos, id: u64) -> bool {
        let mut inner = self.lock();
        let Some(kept) = inner.tasks.get_mut(&id) else { return false };
        if kept.ended_at.is_none() {
            kept.standing = Standing::Failed("stopped by hand".to_owned());
            kept.ended_at = Some(now);
        }
        drop(inner);
        self.tell();
        true
    }

    fn views(&self, fabric: &Fabric) -> Vec<TaskView> {
        self.lock().tasks.values().map(|k| view(fabric, k)).collect()
    }

    fn outcome(&self, id: u64) -> Option<(Form, Option<Standing>, Vec<u8>)> {
        let inner = self.lock();
        let k = inner.tasks.get(&id)?;
        Some((Form::of(k), k.ended_at.map(|_| k.standing.clone()), k.output.clone()))
    }
}

/// What an outcome is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Trace,
    Capture,
    Look,
}

impl Form {
    fn of(kept: &Kept) -> Form {
        match kept.task.kind {
            Some(Kind::Trace(_)) => Form::Trace,
            Some(Kind::Look(_)) => Form::Look,
            Some(Kind::Capture(_)) | None => Form::Capture,
        }
    }
}

fn unfit(e: &TaskError) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, e.to_string())
}

/// A task and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Its id.
    pub id: u64,
    /// trace, capture or look.
    pub kind: String,
    /// Host that does it.
    pub host: String,
    /// waiting, coming, done or failed.
    pub state: String,
    /// Why it failed; empty otherwise.
    pub error: String,
    /// Bytes of the outcome so far.
    pub bytes: u64,
    /// Packets that fitted a capture and are not in it.
    pub lost_packets: u64,
    /// Who asked.
    pub asked_by: String,
    /// When, RFC 3339.
    pub asked_at: String,
}

fn view(fabric: &Fabric, k: &Kept) -> TaskView {
    let (state, error) = match &k.standing {
        Standing::Waiting => ("waiting", ""),
        Standing::Coming => ("coming", ""),
        Standing::Done => ("done", ""),
        Standing::Failed(why) => ("failed", why.as_str()),
    };
    TaskView {
        id: k.task.id,
        kind: match Form::of(k) {
            Form::Trace => "trace",
            Form::Capture => "capture",
            Form::Look => "look",
        }
        .to_owned(),
        host: fabric.host_name(k.host),
        state: state.to_owned(),
        error: error.to_owned(),
        bytes: k.output.len() as u64,
        lost_packets: k.lost_packets,
        asked_by: k.asked_by.clone(),
        asked_at: crate::view::time(k.asked_at.0),
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceRequest {
    /// Host that traces.
    from: String,
    /// Host it traces to.
    to: String,
    /// Packets to each hop of each path, 1 to 1000.
    #[serde(default)]
    rounds: u32,
    /// DSCP of the packets, 0 to 63.
    #[serde(default)]
    class: u32,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureRequest {
    /// Hosts that capture, at once; at most 64.
    hosts: Vec<String>,
    /// Why; written down.
    reason: String,
    /// Seconds, 1 to 300.
    #[serde(default)]
    seconds: u32,
    /// Packets of each host, at most 1000000.
    #[serde(default)]
    packets: u64,
    /// Bytes of each host's file, at most 64 MiB.
    #[serde(default)]
    bytes: u64,
    /// Interfaces; none: all.
    #[serde(default)]
    interfaces: Vec<String>,
    /// A packet is taken where one of these fits; none: every packet.
    #[serde(default)]
    filters: Vec<FilterRequest>,
    /// Replace addresses by pseudonyms.
    #[serde(default)]
    pseudonyms: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilterRequest {
    /// IP protocol, such as 6 or 17.
    #[serde(default)]
    protocol: u32,
    /// An address, of either end.
    #[serde(default)]
    address: Option<String>,
    /// A port, of either end.
    #[serde(default)]
    port: u32,
}

/// Tasks that were given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GivenView {
    /// Their ids, in the order of the hosts.
    pub ids: Vec<u64>,
}

fn host(fabric: &Fabric, name: &str) -> Result<HostId, Problem> {
    fabric.host_by_name(name).ok_or_else(|| {
        let error = format!(
            "there is no host {name:?} in fabric {:?}, expected host0 to host{}",
            fabric.name,
            fabric.shape.hosts.saturating_sub(1)
        );
        Problem::new(StatusCode::NOT_FOUND, error)
    })
}

/// Trace every path and every hop from one host to another.
#[utoipa::path(post, path = "/api/v1/traces", request_body = TraceRequest, responses((status = 200, body = GivenView)))]
pub(crate) async fn trace(
    State(api): State<Api>,
    who: Principal,
    body: Result<Json<TraceRequest>, JsonRejection>,
) -> Result<Json<GivenView>, Problem> {
    api.metrics.requests.inc();
    let Json(asked) = body?;
    let (from, to) = (host(&api.fabric, &asked.from)?, host(&api.fabric, &asked.to)?);
    if from == to {
        let error = "from and to are the same host; there is no path between".to_owned();
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error));
    }
    let task = TraceTask { to_host: to.0, rounds: asked.rounds, class: asked.class, ..TraceTask::default() };
    let subject = format!("{} to {}", asked.from, asked.to);
    api.guard.audit.done(&who.by(), "trace", &subject, "").await?;
    let kind = Kind::Trace(task);
    let id = api.tasks.add(crate::wall(), from, kind, Nanos::from_secs(240), who.shown())?;
    api.tasks.tell();
    Ok(Json(GivenView { ids: vec![id] }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookRequest {
    /// Host that is asked, such as host0.
    host: String,
    /// What it is asked about: another host, a process id, ADDRESS:PORT of the other end, or ADDRESS:PORT-ADDRESS:PORT with
    /// the own end first.
    about: String,
    /// Seconds, 1 to 30; 0: 3.
    #[serde(default)]
    seconds: u32,
}

/// Looks that were begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LookView {
    /// Their ids: the host's own, and the one of the host at the other end where the fabric knows it.
    pub ids: Vec<u64>,
    /// Hosts that look, in the same order.
    pub hosts: Vec<String>,
}

/// What the host is asked, and the same question for the host at the other end where that is one of the fabric.
fn questions(
    fabric: &Fabric,
    own: HostId,
    about: &str,
) -> Result<(String, Option<(HostId, String)>), String> {
    let all = |host: HostId| {
        let addresses: Vec<String> =
            fabric.host_nics(host).map(|nic| fabric.nic_addr(nic).to_string()).collect();
        addresses.join(",")
    };
    let nic = |address: IpAddr| match address {
        IpAddr::V6(a) => fabric.nic_by_addr(a),
        IpAddr::V4(_) => None,
    };
    if let Some(peer) = fabric.host_by_name(about) {
        return Ok((all(peer), Some((peer, all(own)))));
    }
    if about.parse::<u32>().is_ok() {
        return Ok((about.to_owned(), None));
    }
    let expected = || {
        format!(
            "{about:?} is no host of the fabric and no process id, address, ADDRESS:PORT or ADDRESS:PORT-ADDRESS:PORT"
        )
    };
    let (local, remote) = match about.split_once('-') {
        Some((local, remote)) => (Some(local.parse::<SocketAddr>().map_err(|_| expected())?), remote),
        None => (None, about),
    };
    let remote: SocketAddr = match (remote.parse(), remote.parse::<IpAddr>()) {
        (Ok(end), _) => end,
        (_, Ok(address)) if local.is_none() => SocketAddr::new(address, 0),
        _ => return Err(expected()),
    };
    let there = nic(remote.ip());
    let asked = if local.is_none() && remote.port() == 0 {
        // One address of a host is asked for as its host is: connections may use any of them.
        there.map_or_else(|| remote.ip().to_string(), |n| all(fabric.nic_parts(n).1))
    } else {
        about.to_owned()
    };
    let Some(there) = there else { return Ok((asked, None)) };
    let peer = fabric.nic_parts(there).1;
    let turned = if local.is_none() && remote.port() == 0 {
        all(own)
    } else {
        // Connections stay in a plane: the own end is the host's port there, unless there are several.
        let mut here = fabric.host_nics(own).filter(|n| fabric.nic_parts(*n).0 == fabric.nic_parts(there).0);
        let here = match (here.next(), here.next()) {
            (Some(one), None) => fabric.nic_addr(one),
            _ => Ipv6Addr::UNSPECIFIED,
        };
        format!("{remote}-{}", local.unwrap_or(SocketAddr::new(IpAddr::V6(here), 0)))
    };
    Ok((asked, Some((peer, turned))))
}

/// Look at connections of a host, and of the host at the other end at the same time, to say what slows them.
#[utoipa::path(post, path = "/api/v1/looks", request_body = LookRequest, responses((status = 200, body = LookView)))]
pub(crate) async fn look(
    State(api): State<Api>,
    who: Principal,
    body: Result<Json<LookRequest>, JsonRejection>,
) -> Result<Json<LookView>, Problem> {
    api.metrics.requests.inc();
    let Json(asked) = body?;
    let own = host(&api.fabric, &asked.host)?;
    let (question, peer) = questions(&api.fabric, own, asked.about.trim())
        .map_err(|e| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, e))?;
    if peer.as_ref().is_some_and(|(peer, _)| *peer == own) {
        let error = "both ends are the same host; there is no path between".to_owned();
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error));
    }
    let mut looks = Vec::from([(own, question)]);
    looks.extend(peer);
    let tasks: Vec<(HostId, LookTask)> = looks
        .into_iter()
        .map(|(host, question)| {
            let task = LookTask { question, seconds: asked.seconds };
            wire::task::check_look(&task).map(|task| (host, task)).map_err(|e| unfit(&e))
        })
        .collect::<Result<_, _>>()?;
    api.guard.audit.done(&who.by(), "look", &format!("{} about {}", asked.host, asked.about), "").await?;
    let now = crate::wall();
    let mut view = LookView { ids: Vec::new(), hosts: Vec::new() };
    for (host, task) in tasks {
        let works = Nanos::from_secs(u64::from(task.seconds) + 10);
        match api.tasks.add(now, host, Kind::Look(task), works, who.shown()) {
            Ok(id) => view.ids.push(id),
            Err(problem) => {
                view.ids.iter().for_each(|&id| {
                    api.tasks.stop(now, id);
                });
                return Err(problem);
            }
        }
        view.hosts.push(api.fabric.host_name(host));
    }
    api.tasks.tell();
    Ok(Json(view))
}

/// Capture packets on hosts at once, without what is in them.
#[utoipa::path(post, path = "/api/v1/captures", request_body = CaptureRequest, responses((status = 200, body = GivenView)))]
pub(crate) async fn capture(
    State(api): State<Api>,
    who: Principal,
    body: Result<Json<CaptureRequest>, JsonRejection>,
) -> Result<Json<GivenView>, Problem> {
    api.metrics.requests.inc();
    let Json(asked) = body?;
    let bad = |text: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    let reason = asked.reason.trim();
    if reason.is_empty() || reason.chars().count() > 1_000 {
        return Err(bad("expected a reason of 1 to 1000 characters: it is written down".to_owned()));
    }
    if asked.hosts.is_empty() || asked.hosts.len() > HOSTS_MAX {
        return Err(bad(format!("expected 1 to {HOSTS_MAX} hosts, got {}", asked.hosts.len())));
    }
    let hosts: Vec<HostId> = asked.hosts.iter().map(|h| host(&api.fabric, h)).collect::<Result<_, _>>()?;
    let filters = asked.filters.iter().map(|f| {
        let address = f.address.as_deref().map(|a| {
            let parsed: Result<IpAddr, _> = a.parse();
            parsed.map_err(|_| bad(format!("{a:?} is no address, expected one such as fd00::1 or 10.0.0.1")))
        });
        let host = match address.transpose()? {
            None => Vec::new(),
            Some(IpAddr::V4(a)) => a.octets().to_vec(),
            Some(IpAddr::V6(a)) => a.octets().to_vec(),
        };
        Ok(CaptureFilter { ip_protocol: f.protocol, host, port: f.port })
    });
    let filters: Vec<CaptureFilter> = filters.collect::<Result<_, Problem>>()?;
    let pseudonym_key = if asked.pseudonyms {
        let key = crate::guard::access::fresh_key();
        key.map_err(|e| Problem::new(StatusCode::SERVICE_UNAVAILABLE, e))?.to_vec()
    } else {
        Vec::new()
    };
    let task = CaptureTask {
        interfaces: asked.interfaces,
        filters,
        seconds: asked.seconds,
        packets: asked.packets,
        bytes: asked.bytes,
        keep: 0,
        pseudonym_key,
    };
    let task = wire::task::check_capture(&task).map_err(|e| unfit(&e))?;
    api.guard.audit.done(&who.by(), "capture", &asked.hosts.join(" "), reason).await?;
    let works = Nanos::from_secs(u64::from(task.seconds) + 30);
    let mut ids = Vec::with_capacity(hosts.len());
    let now = crate::wall();
    for host in hosts {
        match api.tasks.add(now, host, Kind::Capture(task.clone()), works, who.shown()) {
            Ok(id) => ids.push(id),
            Err(problem) => {
                // All or none: a capture that lacks a host says less than it seems to.
                ids.iter().for_each(|&id| {
                    api.tasks.stop(now, id);
                });
                return Err(problem);
            }
        }
    }
    api.tasks.tell();
    Ok(Json(GivenView { ids }))
}

/// Tasks of the last half hour.
#[utoipa::path(get, path = "/api/v1/tasks", responses((status = 200, body = Vec<TaskView>)))]
pub(crate) async fn tasks(State(api): State<Api>) -> Json<Vec<TaskView>> {
    api.metrics.requests.inc();
    api.tasks.tidy(crate::wall());
    Json(api.tasks.views(&api.fabric))
}

fn no_task(id: u64) -> Problem {
    let error = format!(
        "there is no task {id}; it may have been asked for at another hub, or is older than half an hour"
    );
    Problem::new(StatusCode::NOT_FOUND, error)
}

/// How a task stands.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", params(("id" = u64, Path)), responses((status = 200, body = TaskView)))]
pub(crate) async fn task(State(api): State<Api>, Path(id): Path<u64>) -> Result<Json<TaskView>, Problem> {
    api.metrics.requests.inc();
    api.tasks.tidy(crate::wall());
    let found = api.tasks.lock().tasks.get(&id).map(|k| view(&api.fabric, k));
    found.map(Json).ok_or_else(|| no_task(id))
}

/// Stop a task.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/stop", params(("id" = u64, Path)), responses((status = 200, body = TaskView)))]
pub(crate) async fn stop(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<u64>,
) -> Result<Json<TaskView>, Problem> {
    api.metrics.requests.inc();
    api.guard.audit.done(&who.by(), "stop", &format!("task {id}"), "").await?;
    if !api.tasks.stop(crate::wall(), id) {
        return Err(no_task(id));
    }
    task(State(api), Path(id)).await
}

/// The outcome: JSON of a trace, a pcapng file of a capture, a look's facts as JSON. 409 while it is not there.
#[utoipa::path(get, path = "/api/v1/tasks/{id}/outcome", params(("id" = u64, Path)),
    responses((status = 200, body = TraceView), (status = 409, description = "it has not ended")))]
pub(crate) async fn outcome(
    State(api): State<Api>,
    who: Principal,
    Path(id): Path<u64>,
) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    who.may(crate::guard::Need::Act).map_err(|e| Problem::new(StatusCode::FORBIDDEN, e))?;
    let (form, standing, bytes) = api.tasks.outcome(id).ok_or_else(|| no_task(id))?;
    match standing {
        None => Err(Problem::new(StatusCode::CONFLICT, format!("task {id} has not ended"))),
        Some(Standing::Failed(why)) if bytes.is_empty() => {
            Err(Problem::new(StatusCode::BAD_GATEWAY, format!("task {id} failed: {why}")))
        }
        Some(_) if form == Form::Look => {
            Ok(([(header::CONTENT_TYPE, "application/json")], Bytes::from(bytes)).into_response())
        }
        Some(_) if form == Form::Trace => {
            let report = TraceReport::decode(bytes.as_slice());
            let report = report.map_err(|e| {
                Problem::new(StatusCode::BAD_GATEWAY, format!("the agent's report cannot be read: {e}"))
            })?;
            Ok(Json(trace_view(&api.fabric, &report)).into_response())
        }
        Some(_) => Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], Bytes::from(bytes)).into_response()),
    }
}

/// What a trace found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// Host that traced.
    pub from: String,
    /// Host it traced to.
    pub to: String,
    /// The sender chose the paths (srv6); else it looked for flow labels that lead along them.
    pub exact: bool,
    /// Packets to each hop of each path.
    pub rounds: u32,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// How long it took, seconds.
    pub took_s: f64,
    /// Packets sent in all.
    pub packets_sent: u64,
    /// Every path.
    pub paths: Vec<TracedPath>,
    /// What could not be found out.
    pub notes: Vec<String>,
}

/// One path of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TracedPath {
    /// The nodes it visits.
    pub name: String,
    /// Its plane.
    pub plane: u32,
    /// Flow label that leads along it; 0 where the sender chose the path.
    pub flow_label: u32,
    /// Whether it was found; in ecmp mode a flow label may be missing.
    pub found: bool,
    /// Whole round trips tried.
    pub sent: u32,
    /// And answered.
    pub answered: u32,
    /// Of the unanswered, those that never arrived.
    pub lost_forward: u32,
    /// And those whose answer was lost.
    pub lost_backward: u32,
    /// Smallest round trip, microseconds.
    pub rtt_min_us: f64,
    /// Median, microseconds.
    pub rtt_p50_us: f64,
    /// Largest, microseconds.
    pub rtt_max_us: f64,
    /// Its hops, in order.
    pub hops: Vec<TracedHop>,
}

/// One hop of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TracedHop {
    /// From 1.
    pub hop: u32,
    /// The node.
    pub node: String,
    /// The link that leads to it.
    pub link: String,
    /// Whether the node itself was heard of.
    pub seen: bool,
    /// Packets that were to turn there.
    pub sent: u32,
    /// And did.
    pub answered: u32,
    /// Share lost on the way up to here, 0 to 1.
    pub loss_before: f64,
    /// Of that, on the link to this hop and in this node.
    pub loss_here: f64,
    /// By how much `loss_here` may be off: it is not surely above 0 unless it is above this.
    pub doubt: f64,
    /// How the loss is known: measured, bounded (no more than this), silent (the node does not answer, which is no loss)
    /// or unknown.
    pub known: String,
    /// Smallest round trip, microseconds.
    pub rtt_min_us: f64,
    /// Median, microseconds.
    pub rtt_p50_us: f64,
    /// Largest, microseconds.
    pub rtt_max_us: f64,
    /// Median time from the node before, by in-band telemetry, microseconds; null where it is not filled in.
    pub delta_p50_us: Option<f64>,
}

fn micros(ns: i64) -> f64 {
    ns as f64 / 1e3
}

fn trace_view(fabric: &Fabric, r: &TraceReport) -> TraceView {
    let name = |h: u32| {
        if h < fabric.shape.hosts {
            fabric.host_name(HostId(h))
        } else {
            format!("host {h} of another fabric")
        }
    };
    let hop = |h: &wire::proto::HopReport| TracedHop {
        hop: h.hop,
        node: h.node.clone(),
        link: h.link_name.clone(),
        seen: h.seen,
        sent: h.sent,
        answered: h.answered,
        loss_before: h.loss_before.clamp(0.0, 1.0),
        loss_here: h.loss_here.clamp(0.0, 1.0),
        doubt: h.loss_here_doubt.clamp(0.0, 1.0),
        known: match h.confidence() {
            HopConfidence::HopMeasured => "measured",
            HopConfidence::HopBounded => "bounded",
            HopConfidence::HopSilent => "silent",
            HopConfidence::HopUnknown => "unknown",
        }
        .to_owned(),
        rtt_min_us: micros(h.rtt_min_ns),
        rtt_p50_us: micros(h.rtt_p50_ns),
        rtt_max_us: micros(h.rtt_max_ns),
        delta_p50_us: (h.ioam_count > 0).then(|| micros(h.ioam_delta_p50_ns)),
    };
    let path = |p: &wire::proto::PathReport| TracedPath {
        name: fabric.path_parts(PathId(p.path)).map_or(String::new(), |_| fabric.path_name(PathId(p.path))),
        plane: p.plane,
        flow_label: p.flow_label,
        found: p.found,
        sent: p.sent,
        answered: p.answered,
        lost_forward: p.lost_forward,
        lost_backward: p.lost_backward,
        rtt_min_us: micros(p.rtt_min_ns),
        rtt_p50_us: micros(p.rtt_p50_ns),
        rtt_max_us: micros(p.rtt_max_ns),
        hops: p.hops.iter().map(hop).collect(),
    };
    TraceView {
        from: name(r.from_host),
        to: name(r.to_host),
        exact: r.exact,
        rounds: r.rounds,
        started_at: crate::view::time(r.started_ns),
        took_s: r.took_ns as f64 / 1e9,
        packets_sent: r.packets_sent,
        paths: r.paths.iter().map(path).collect(),
        notes: r.notes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos::from_secs(1_000);

    fn piece(task: u64, sequence: u64, bytes: usize, done: bool) -> TaskOutput {
        TaskOutput { task, sequence, chunk: vec![7; bytes], done, ..TaskOutput::default() }
    }

    fn given(board: &Board, host: u32) -> u64 {
        let kind = Kind::Trace(TraceTask { to_host: 1, ..TraceTask::default() });
        board.add(NOW, HostId(host), kind, Nanos::from_secs(10), "ada").unwrap()
    }

    #[test]
    fn an_outcome_is_taken_once_and_from_its_host() {
        let board = Board::new(NOW);
        let id = given(&board, 3);
        assert_eq!(board.of(NOW, HostId(3)).tasks.len(), 1);
        assert_eq!(board.of(NOW, HostId(4)).tasks, []);
        assert!(!board.take(NOW, HostId(4), &piece(id, 1, 5, false)).refused.is_empty(), "another host");
        assert_eq!(board.take(NOW, HostId(3), &piece(id, 1, 5, false)).refused, "");
        assert_eq!(board.take(NOW, HostId(3), &piece(id, 1, 5, false)).refused, "", "sent again");
        assert_eq!(board.outcome(id), Some((Form::Trace, None, vec![7; 5])));
        assert_eq!(board.take(NOW, HostId(3), &piece(id, 2, 1, true)).refused, "");
        assert_eq!(board.outcome(id), Some((Form::Trace, Some(Standing::Done), vec![7; 6])));
        assert_eq!(board.of(NOW, HostId(3)).tasks, [], "it is done");
        assert!(!board.take(NOW, HostId(3), &piece(id, 3, 1, true)).refused.is_empty());
    }

    #[test]
    fn what_nobody_answers_fails_and_is_forgotten() {
        let board = Board::new(NOW);
        let id = given(&board, 3);
        let late = NOW + Nanos::from_secs(200);
        board.tidy(late);
        assert!(matches!(board.outcome(id), Some((_, Some(Standing::Failed(_)), _))));
        assert!(!board.take(late, HostId(3), &piece(id, 1, 5, false)).refused.is_empty());
        board.tidy(late + KEPT);
        assert_eq!(board.outcome(id), None);
    }

    #[test]
    fn a_question_is_turned_around_for_the_other_end() {
        let fabric = crate::tests::a_fabric();
        let (own, peer) = (HostId(0), HostId(3));
        let first = |h: HostId| fabric.host_nics(h).next().map(|n| fabric.nic_addr(n)).unwrap();
        let (a, b) = (first(own), first(peer));
        let ask = |about: &str| questions(&fabric, own, about);
        let (asked, there) = ask("host3").unwrap();
        assert!(asked.split(',').any(|x| x.parse() == Ok(b)));
        assert!(there.is_some_and(|(h, t)| h == peer && t.split(',').any(|x| x.parse() == Ok(a))));
        assert_eq!(ask(&b.to_string()), ask("host3"), "an address of it");
        let remote = format!("[{b}]:80");
        assert_eq!(ask(&remote), Ok((remote.clone(), Some((peer, format!("[{b}]:80-[{a}]:0"))))));
        let both = format!("[{a}]:5-[{b}]:80");
        assert_eq!(ask(&both), Ok((both.clone(), Some((peer, format!("[{b}]:80-[{a}]:5"))))));
        assert_eq!(ask("4711"), Ok(("4711".to_owned(), None)));
        assert_eq!(ask("192.0.2.1:80"), Ok(("192.0.2.1:80".to_owned(), None)), "not of the fabric");
        assert!(ask("hots3").unwrap_err().contains("no host of the fabric"));
    }

    #[test]
    fn a_host_gets_so_many_at_a_time_and_ids_are_never_given_twice() {
        let board = Board::new(NOW);
        let ids: Vec<u64> = (0..RUNNING_MAX).map(|_| given(&board, 3)).collect();
        let kind = Kind::Trace(TraceTask::default());
        assert!(board.add(NOW, HostId(3), kind, Nanos::from_secs(1), "ada").is_err());
        assert!(board.stop(NOW, ids[0]) && !board.stop(NOW, 1));
        let next = given(&board, 3);
        assert!(ids.iter().all(|&id| id < next));
        assert!(given(&Board::new(NOW + Nanos::from_millis(1)), 3) > next, "a later hub");
    }
}
