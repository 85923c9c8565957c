//! Where agents connect: one bidirectional stream each, over TLS in both directions.
//!
//! How: the certificate says which host speaks; the first message must be a Hello that agrees with it and whose
//! version is understood. Then the hub sends the plan, and answers batches with an Ack for the newest that is durable,
//! or a Refusal that says what was expected. A batch goes two ways: to the desk at once, and into the tables.
//! Invariants: a batch is acknowledged after its observations are in the tables' log, or in the ledger with the reason
//! they are not; it is stored once, whichever hub it reached first; one stream a host counts, the newest; a message is
//! at most [`MESSAGE_BYTES_MAX`]. While nothing can be stored the diagnosis goes on.
//! Absent on purpose: handing decoded rows from here to the desk. Both decode (some 100 ns a row), so that a recording
//! holds what came and a slow store never holds up the diagnosis.

use crate::agents::{Agents, StreamId, Take};
use crate::desk::DeskHandle;
use crate::guard::{By, Guard, address_of};
use crate::keeper::Keeper;
use crate::metrics::{Metrics, Why};
use crate::rows::{self, Loss, Sorted};
use crate::rpc::ingest_server::Ingest;
use crate::tasks::Board;
use crate::told::Addresses;
use fabric::Fabric;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tables::{Mark, Rows, Tables, Ticket};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::HostId;
use wire::batch::{PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST, version_is_understood};
use wire::proto::agent_message::Kind;
use wire::proto::{
    Ack, AgentMessage, Batch, Hello, HubMessage, Plan, ProbeSlot, Refusal, TaskOutput, Tasks, hub_message,
};

/// Largest message an agent may send.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Sensors of one batch whose losses are written down.
const SENSORS_MAX: usize = 64;
/// A stream must begin with a Hello within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// A stream without a sign of life for so long is closed: the machine behind it is gone.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Answers waiting for a slow agent.
const ANSWERS: usize = 64;
/// Addresses of an agent's connections that are remembered with what stands for them.
const ADDRESSES: usize = 256;

/// How hosts are to probe.
#[derive(Clone, Debug)]
pub(crate) struct Probing {
    pub packets_per_second: u32,
    pub train: u32,
    pub probe_bytes: u16,
    pub window: Duration,
    pub timeout: Duration,
}

pub(crate) struct IngestService {
    pub fabric: Arc<Fabric>,
    pub probing: Probing,
    pub agents: Arc<Mutex<Agents>>,
    pub desk: DeskHandle,
    pub keeper: Keeper,
    pub metrics: Arc<Metrics>,
    pub tables: Arc<Tables>,
    pub guard: Arc<Guard>,
    pub tasks: Arc<Board>,
    pub stopping: watch::Receiver<bool>,
}

/// The plan of one host.
pub(crate) fn plan(fabric: &Fabric, host: HostId, probing: &Probing) -> Plan {
    let config = probe::PlanConfig { size: probing.probe_bytes, ..Default::default() };
    // nothing to send: nobody is probed, and agents only report what others learn
    let slots = match probing.packets_per_second {
        0 => Vec::new(),
        _ => probe::plan::slots(fabric, host, &config),
    };
    let millis = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
    Plan {
        plan_epoch: fabric.epoch.0,
        fabric_toml: fabric.to_toml(),
        slots: slots
            .iter()
            .map(|s| ProbeSlot {
                path: s.path.0,
                path_back: s.back.map_or(0, |p| p.0),
                size_bytes: s.size.into(),
                class: s.class.into(),
            })
            .collect(),
        window_ms: millis(probing.window),
        packets_per_second: probing.packets_per_second.max(1),
        train: probing.train,
        timeout_ms: millis(probing.timeout),
    }
}

/// The host a certificate names: its subject's common name.
fn certified_name(request: &Request<Streaming<AgentMessage>>) -> Result<String, Status> {
    let certs =
        request.peer_certs().ok_or_else(|| Status::unauthenticated("expected a client certificate"))?;
    let first = certs.first().ok_or_else(|| Status::unauthenticated("expected a client certificate"))?;
    let unreadable = || Status::unauthenticated("the client certificate cannot be read");
    let (_, cert) = x509_parser::parse_x509_certificate(first).map_err(|_| unreadable())?;
    let name = cert.subject().iter_common_name().next().ok_or_else(unreadable)?;
    Ok(name.as_str().map_err(|_| unreadable())?.to_owned())
}

fn refusal(reason: String, sequence: u64) -> HubMessage {
    HubMessage { kind: Some(hub_message::Kind::Refusal(Refusal { reason, sequence })) }
}

/// The newest batch that is in the tables, or on its way there.
#[derive(Clone, Copy, Debug)]
struct Newest {
    ticket: Ticket,
    ack: Ack,
}

/// Answers batches once they are durable: always the newest, which says that all before it are as well.
async fn acknowledge(mut newest: watch::Receiver<Option<Newest>>, tables: Arc<Tables>, answers: Answers) {
    while newest.changed().await.is_ok() {
        let Some(Newest { ticket, ack }) = *newest.borrow_and_update() else { continue };
        if tables.durable(ticket).await.is_err() {
            return;
        }
        let ack = HubMessage { kind: Some(hub_message::Kind::Ack(ack)) };
        if answers.send(Ok(ack)).await.is_err() {
            return;
        }
    }
}

/// One agent's stream after its Hello.
struct Conversation {
    fabric: Arc<Fabric>,
    host: HostId,
    stream: StreamId,
    inbound: Streaming<AgentMessage>,
    answers: Answers,
    durable: watch::Sender<Option<Newest>>,
    /// A batch of this stream could not be stored, so none after it may be: the agent sends all of them again when it
    /// has waited for an answer long enough.
    gap: bool,
    addresses: Addresses,
    agents: Arc<Mutex<Agents>>,
    desk: DeskHandle,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    tables: Arc<Tables>,
    tasks: Arc<Board>,
    stopping: watch::Receiver<bool>,
}

fn lock(agents: &Mutex<Agents>) -> MutexGuard<'_, Agents> {
    agents.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl Ingest for IngestService {
    type ConnectStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let address = address_of(request.remote_addr());
        let name = match certified_name(&request) {
            Ok(name) => name,
            Err(status) => {
                self.metrics.streams_refused.get_or_create(&Why { reason: "certificate" }).inc();
                self.guard.audit.refused(By { address, ..By::default() }, "connect", "agents", "certificate");
                return Err(status);
            }
        };
        let (answers, out) = mpsc::channel(ANSWERS);
        let mut inbound = request.into_inner();
        let service = Welcome {
            fabric: Arc::clone(&self.fabric),
            probing: self.probing.clone(),
            agents: Arc::clone(&self.agents),
            desk: self.desk.clone(),
            keeper: self.keeper.clone(),
            metrics: Arc::clone(&self.metrics),
            tables: Arc::clone(&self.tables),
            guard: Arc::clone(&self.guard),
            tasks: Arc::clone(&self.tasks),
            by: By { who: name.chars().take(64).collect(), role: "", auth: "certificate", address },
            stopping: self.stopping.clone(),
        };
        tokio::spawn(async move {
            let hello = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await;
            let hello = match hello {
                Ok(Ok(Some(AgentMessage { kind: Some(Kind::Hello(hello)) }))) => hello,
                Ok(Ok(Some(_))) => {
                    service
                        .refuse(&answers, "no_hello", "expected a Hello as the first message".into())
                        .await;
                    return;
                }
                _ => {
                    service.metrics.streams_refused.get_or_create(&Why { reason: "no_hello" }).inc();
                    return;
                }
            };
            if let Some(conversation) = service.welcome(&name, &hello, inbound, answers).await {
                conversation.hold().await;
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

struct Welcome {
    fabric: Arc<Fabric>,
    probing: Probing,
    agents: Arc<Mutex<Agents>>,
    desk: DeskHandle,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    tables: Arc<Tables>,
    guard: Arc<Guard>,
    tasks: Arc<Board>,
    by: By,
    stopping: watch::Receiver<bool>,
}

type Answers = mpsc::Sender<Result<HubMessage, Status>>;

impl Welcome {
    async fn refuse(&self, answers: &Answers, why: &'static str, reason: String) {
        tracing::warn!(%reason, "an agent is refused");
        self.metrics.streams_refused.get_or_create(&Why { reason: why }).inc();
        self.guard.audit.refused(self.by.clone(), "connect", "agents", why);
        let _ = answers.send(Ok(refusal(reason, 0))).await;
    }

    /// Checks a Hello; the answer to a good one is the plan.
    async fn welcome(
        self,
        name: &str,
        hello: &Hello,
        inbound: Streaming<AgentMessage>,
        answers: Answers,
    ) -> Option<Conversation> {
        if !version_is_understood(hello.version) {
            let reason = format!(
                "expected protocol version {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION}, got {}: \
                 install the same release on agents and hub",
                hello.version
            );
            self.refuse(&answers, "version", reason).await;
            return None;
        }
        let Some(host) = self.fabric.host_by_name(name) else {
            let reason = format!(
                "the certificate names {name:?}, expected a host of fabric {:?}, host0 to host{}",
                self.fabric.name,
                self.fabric.shape.hosts.saturating_sub(1)
            );
            self.refuse(&answers, "unknown_host", reason).await;
            return None;
        };
        // An agent need not know its number before it has the fabric: u32::MAX says so.
        if hello.host != host.0 && hello.host != u32::MAX {
            let reason = format!(
                "the certificate names {name}, but Hello says host{}: an agent speaks only for its own host",
                hello.host
            );
            self.refuse(&answers, "other_host", reason).await;
            return None;
        }
        let now = crate::wall();
        let (stream, first) = lock(&self.agents).hello(now, host, hello);
        if first {
            self.keeper.agent(host, Some(now));
        }
        self.metrics.streams.inc();
        tracing::info!(agent = name, software = hello.software, "agent connected");
        let plan = plan(&self.fabric, host, &self.probing);
        let plan = HubMessage { kind: Some(hub_message::Kind::Plan(plan)) };
        if answers.send(Ok(plan)).await.is_err() {
            lock(&self.agents).ended(crate::wall(), host, stream);
            return None;
        }
        let (durable, acks) = watch::channel(None);
        tokio::spawn(acknowledge(acks, Arc::clone(&self.tables), answers.clone()));
        let addresses = Addresses::new(Arc::clone(&self.fabric), Some(self.guard), ADDRESSES);
        Some(Conversation {
            addresses,
            fabric: self.fabric,
            host,
            stream,
            inbound,
            answers,
            durable,
            gap: false,
            agents: self.agents,
            desk: self.desk,
            keeper: self.keeper,
            metrics: self.metrics,
            tables: self.tables,
            tasks: self.tasks,
            stopping: self.stopping,
        })
    }
}

impl Conversation {
    async fn hold(mut self) {
        let mut board = self.tasks.watch();
        let mut told = Tasks::default();
        loop {
            let list = self.tasks.of(crate::wall(), self.host);
            if list != told {
                told.clone_from(&list);
                let list = HubMessage { kind: Some(hub_message::Kind::Tasks(list)) };
                if self.answers.send(Ok(list)).await.is_err() {
                    break;
                }
            }
            let message = tokio::select! {
                _ = self.stopping.wait_for(|&s| s) => break,
                // The board lives as long as the hub.
                _ = board.changed() => continue,
                message = tokio::time::timeout(IDLE_MAX, self.inbound.message()) => message,
            };
            let Ok(Ok(Some(message))) = message else { break };
            let goes_on = match message.kind {
                Some(Kind::Batch(batch)) => self.batch(batch).await,
                Some(Kind::Heartbeat(_)) => lock(&self.agents).heard(crate::wall(), self.host, self.stream),
                Some(Kind::Goodbye(_)) => {
                    if lock(&self.agents).goodbye(crate::wall(), self.host, self.stream) {
                        self.keeper.agent(self.host, None);
                        tracing::info!(agent = %self.host, "agent left in order");
                    }
                    false
                }
                Some(Kind::TaskOutput(piece)) => self.piece(&piece).await,
                // A kind of a later version, or a second Hello: a sign of life.
                Some(Kind::Hello(_)) | None => {
                    lock(&self.agents).heard(crate::wall(), self.host, self.stream)
                }
            };
            if !goes_on {
                break;
            }
        }
        lock(&self.agents).ended(crate::wall(), self.host, self.stream);
    }

    /// Answers a piece of what a task gave.
    async fn piece(&mut self, piece: &TaskOutput) -> bool {
        let ack = self.tasks.take(crate::wall(), self.host, piece);
        let ack = HubMessage { kind: Some(hub_message::Kind::TaskAck(ack)) };
        lock(&self.agents).heard(crate::wall(), self.host, self.stream)
            && self.answers.send(Ok(ack)).await.is_ok()
    }

    /// Counts a batch that is not taken, and says so: the agent does not send it again, so that it is written down
    /// first.
    async fn refuse(&mut self, why: &'static str, batch: &Batch, reason: String) -> bool {
        self.metrics.batches_refused.get_or_create(&Why { reason: why }).inc();
        let rows = wire::batch::rows(batch);
        self.metrics.observations_sent.inc_by(rows);
        self.metrics.lose(why, rows);
        let loss = Loss {
            at: crate::wall(),
            producer: self.host,
            producer_epoch: batch.producer_epoch,
            stage: "ingest",
            reason: why.to_owned(),
            rows,
        };
        let written = match self.tables.append(Rows { producer: None, parts: vec![rows::losses(&[loss])] }) {
            Ok(ticket) => self.tables.durable(ticket).await,
            Err(e) => Err(e),
        };
        // Not written down is not refused: it comes again.
        written.is_ok() && self.answers.send(Ok(refusal(reason, batch.sequence))).await.is_ok()
    }

    /// Answers a batch. `false` where the stream is over.
    async fn batch(&mut self, batch: Batch) -> bool {
        if !version_is_understood(batch.version) {
            let reason = format!("expected batch version {PROTOCOL_VERSION}, got {}", batch.version);
            return self.refuse("version", &batch, reason).await;
        }
        let take = lock(&self.agents).batch(crate::wall(), self.host, self.stream, &batch);
        match take {
            Take::Accept { batches_missing, newly_lost } => {
                self.metrics.batches.inc();
                self.metrics.batches_missing.inc_by(batches_missing);
                let rows = wire::batch::rows(&batch);
                self.metrics.observations_sent.inc_by(rows.saturating_add(newly_lost));
                self.metrics.lose("agent_buffer", newly_lost);
                self.store(&batch);
                self.desk.batch(self.host, batch);
            }
            Take::Duplicate => {
                self.metrics.batches_duplicate.inc();
                self.store(&batch);
            }
            Take::OtherLife { expected, got } => {
                let reason =
                    format!("expected producer epoch {expected} as in Hello, got {got}: say Hello again");
                return self.refuse("other_life", &batch, reason).await;
            }
            Take::Superseded => {
                // What was not acknowledged goes out again on the newer stream, and is counted there.
                self.metrics.batches_refused.get_or_create(&Why { reason: "superseded" }).inc();
                let reason = "a newer stream of this host has taken over".to_owned();
                let _ = self.answers.send(Ok(refusal(reason, 0))).await;
                return false;
            }
        }
        true
    }

    /// Hands a batch to the tables, where it is not there yet. The answer follows once it is durable.
    fn store(&mut self, batch: &Batch) {
        let ack = Ack { producer_epoch: batch.producer_epoch, sequence: batch.sequence };
        let Some(newly_lost) = lock(&self.agents).is_to_store(self.host, batch) else {
            let ticket = self.tables.newest();
            self.durable.send_replace(Some(Newest { ticket, ack }));
            return;
        };
        if self.gap {
            return;
        }
        let at = crate::wall();
        let Sorted { mut parts, refused } =
            rows::sorted(&self.fabric, at, self.host, batch, &mut self.addresses);
        let loss = |stage, reason: &str, rows| Loss {
            at,
            producer: self.host,
            producer_epoch: batch.producer_epoch,
            stage,
            reason: reason.to_owned(),
            rows,
        };
        let mut losses: Vec<Loss> =
            refused.into_iter().map(|(reason, rows)| loss("ingest", reason, rows)).collect();
        if newly_lost > 0 {
            losses.push(loss("agent", "agent_buffer", newly_lost));
        }
        // Where several agents share a kernel, each tells of what its sensors had no room for.
        let sensors =
            batch.sensors.as_ref().and_then(|s| wire::sensor::sensors(s).ok()).into_iter().flatten();
        losses.extend(sensors.filter(|s| s.lost > 0).take(SENSORS_MAX).map(|s| {
            let name: String = s.sensor.chars().filter(|c| c.is_ascii_alphanumeric()).take(32).collect();
            loss("sensor", &name, s.lost)
        }));
        if !losses.is_empty() {
            parts.push(rows::losses(&losses));
        }
        let mark = Mark { epoch: batch.producer_epoch, sequence: batch.sequence, lost: batch.lost_before };
        match self.tables.append(Rows { producer: Some((self.host.0, mark)), parts }) {
            Ok(ticket) => {
                lock(&self.agents).is_stored(self.host, mark);
                self.durable.send_replace(Some(Newest { ticket, ack }));
            }
            Err(e) => {
                self.gap = true;
                self.metrics.batches_not_stored.inc();
                tracing::warn!(agent = %self.host, error = %e, "a batch is not acknowledged");
            }
        }
    }
}
