//! Where agents connect: one bidirectional stream each, over TLS in both directions.
//!
//! How: the certificate says which host speaks; the first message must be a Hello that agrees with it and whose
//! version is understood. Then the hub sends the plan, and answers every batch with its own Ack, or a Refusal that says
//! what was expected.
//! Invariants: a batch is acknowledged after it is in the desk's queue or its observations are counted as lost;
//! one stream a host counts, the newest; a message is at most [`MESSAGE_BYTES_MAX`].
//! Absent on purpose: decoding of columns (the desk does it, once).

use crate::agents::{Agents, StreamId, Take};
use crate::desk::DeskHandle;
use crate::keeper::Keeper;
use crate::metrics::{Metrics, Why};
use crate::rpc::ingest_server::Ingest;
use fabric::Fabric;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::HostId;
use wire::batch::{PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST, version_is_understood};
use wire::proto::agent_message::Kind;
use wire::proto::{Ack, AgentMessage, Batch, Hello, HubMessage, Plan, ProbeSlot, Refusal, hub_message};

/// Largest message an agent may send.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// A stream must begin with a Hello within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// A stream without a sign of life for so long is closed: the machine behind it is gone.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Answers waiting for a slow agent.
const ANSWERS: usize = 64;

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

/// One agent's stream after its Hello.
struct Conversation {
    host: HostId,
    stream: StreamId,
    inbound: Streaming<AgentMessage>,
    answers: mpsc::Sender<Result<HubMessage, Status>>,
    agents: Arc<Mutex<Agents>>,
    desk: DeskHandle,
    keeper: Keeper,
    metrics: Arc<Metrics>,
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
        let name = match certified_name(&request) {
            Ok(name) => name,
            Err(status) => {
                self.metrics.streams_refused.get_or_create(&Why { reason: "certificate" }).inc();
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
    stopping: watch::Receiver<bool>,
}

type Answers = mpsc::Sender<Result<HubMessage, Status>>;

impl Welcome {
    async fn refuse(&self, answers: &Answers, why: &'static str, reason: String) {
        tracing::warn!(%reason, "an agent is refused");
        self.metrics.streams_refused.get_or_create(&Why { reason: why }).inc();
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
        Some(Conversation {
            host,
            stream,
            inbound,
            answers,
            agents: self.agents,
            desk: self.desk,
            keeper: self.keeper,
            metrics: self.metrics,
            stopping: self.stopping,
        })
    }
}

impl Conversation {
    async fn hold(mut self) {
        loop {
            let message = tokio::select! {
                _ = self.stopping.wait_for(|&s| s) => break,
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

    fn refused(&self, reason: &'static str, batch: &Batch) {
        self.metrics.batches_refused.get_or_create(&Why { reason }).inc();
        let rows = wire::batch::rows(batch);
        self.metrics.observations_sent.inc_by(rows);
        self.metrics.lose(reason, rows);
    }

    /// Answers a batch. `false` where the stream is over.
    async fn batch(&mut self, batch: Batch) -> bool {
        let (producer_epoch, sequence) = (batch.producer_epoch, batch.sequence);
        if !version_is_understood(batch.version) {
            self.refused("version", &batch);
            let reason = format!("expected batch version {PROTOCOL_VERSION}, got {}", batch.version);
            return self.answers.send(Ok(refusal(reason, sequence))).await.is_ok();
        }
        let take = lock(&self.agents).batch(crate::wall(), self.host, self.stream, &batch);
        match take {
            Take::Accept { batches_missing, newly_lost } => {
                self.metrics.batches.inc();
                self.metrics.batches_missing.inc_by(batches_missing);
                let rows = wire::batch::rows(&batch);
                self.metrics.observations_sent.inc_by(rows.saturating_add(newly_lost));
                self.metrics.lose("agent_buffer", newly_lost);
                self.desk.batch(self.host, batch);
            }
            Take::Duplicate => {
                self.metrics.batches_duplicate.inc();
            }
            Take::OtherLife { expected, got } => {
                self.refused("other_life", &batch);
                let reason =
                    format!("expected producer epoch {expected} as in Hello, got {got}: say Hello again");
                return self.answers.send(Ok(refusal(reason, sequence))).await.is_ok();
            }
            Take::Superseded => {
                self.refused("superseded", &batch);
                let reason = "a newer stream of this host has taken over".to_owned();
                let _ = self.answers.send(Ok(refusal(reason, 0))).await;
                return false;
            }
        }
        let ack = HubMessage { kind: Some(hub_message::Kind::Ack(Ack { producer_epoch, sequence })) };
        self.answers.send(Ok(ack)).await.is_ok()
    }
}
