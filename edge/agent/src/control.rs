//! The connection to the hub: opened, kept, opened again.
//!
//! How: an outer loop connects with growing, jittered waits in between; an inner one (`converse`) moves batches
//! out and plans in until the stream breaks. Observations go into the outbox whether there is a connection or not.
//! Invariants: the waits grow from `retry_min` to `retry_max` and start over after a conversation in which a plan
//! came; a stop is noticed at any moment.

use crate::config::Config;
use crate::error::AgentError;
use crate::identity::{common_name, host_number};
use crate::outbox::Outbox;
use crate::probing::{Open, Probing, read};
use crate::reports::Reports;
use crate::rpc::ingest_client::IngestClient;
use crate::sensors::client::{AskSensors, Client};
use crate::tasks::{Crew, Desk, Helper};
use fabric::Fabric;
use probe::Observation;
use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use wire::batch::PROTOCOL_VERSION;
use wire::proto::agent_message::Kind;
use wire::proto::hub_message::Kind as Answer;
use wire::proto::{AgentMessage, Goodbye, Heartbeat, Hello, HubMessage};
use wire::{HostId, Nanos};

/// Messages handed to the stream and not yet written.
const IN_FLIGHT: usize = 16;
/// Largest plan, with the fabric's specification in it.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A hub that has not acknowledged anything for so long, while something waits, is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A sign of life is sent so often; the hub misses an agent after two seconds.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// At a stop, how long the last batches may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A future that is done when the agent is to stop.
type Stop<'a> = Pin<&'a mut (dyn Future<Output = ()> + Send)>;

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Told to stop.
    Stopped,
    /// The stream broke, or the hub refused it.
    Broken,
}

/// A jittered wait: between half of `base` and all of it.
fn jittered(base: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    base / 2 + base.mul_f64((random % 1_000) as f64 / 2_000.0)
}

/// Runs until `stop` is done, which is the orderly end. Gives up capabilities of the calling thread: call it on the
/// process's first thread, in a runtime without others.
pub async fn run(config: Config, stop: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
    if config.drop_capabilities {
        crate::probing::give_up_the_rest()?;
    }
    run_with(config, stop, &crate::probing::open).await
}

pub(crate) async fn run_with(
    config: Config,
    stop: impl Future<Output = ()> + Send,
    open: &Open,
) -> Result<(), AgentError> {
    // Libraries may bring two; an error says only that one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = common_name(&config.cert_pem)?;
    let endpoints: Result<Vec<Endpoint>, AgentError> =
        config.hubs.iter().map(|h| endpoint(&config, h)).collect();
    let endpoints = endpoints?;
    if endpoints.is_empty() {
        return Err(AgentError::Address { hub: String::new() });
    }
    let reports = config.transport_socket.as_deref().and_then(|path| match Reports::open(path) {
        Ok(reports) => Some(reports),
        Err(reason) => {
            tracing::error!(path = %path.display(), %reason, "processes of this host are not heard");
            None
        }
    });
    let producer_epoch = wall_ns();
    let mut tasks = Desk::new(producer_epoch);
    tasks.hire(Crew { tracer: None, helper: helper(&config, &name) });
    let mut agent = Agent {
        tasks,
        reports,
        config,
        name,
        endpoints,
        turn: 0,
        producer_epoch,
        born: Instant::now(),
        probing: None,
        last_wait: None,
    };
    let mut stop = std::pin::pin!(stop);
    let outcome = agent.keep_connected(stop.as_mut(), open).await;
    if let Some(p) = agent.probing {
        p.prober.stop();
    }
    outcome
}

/// Who makes captures: the one that is given, or the process with the sensors.
fn helper(config: &Config, name: &str) -> Option<Arc<dyn Helper>> {
    let ask = |socket| -> Arc<dyn Helper> {
        Arc::new(AskSensors { socket, host: name.to_owned(), netns: config.netns.clone() })
    };
    config.helper.clone().or_else(|| config.sensors_socket.clone().map(ask))
}

fn endpoint(config: &Config, hub: &str) -> Result<Endpoint, AgentError> {
    let address = || AgentError::Address { hub: hub.to_owned() };
    if !hub.starts_with("https://") {
        return Err(address());
    }
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&config.ca_pem))
        .identity(Identity::from_pem(&config.cert_pem, &config.key_pem));
    Endpoint::from_shared(hub.to_owned())
        .map_err(|_| address())?
        .tls_config(tls)
        .map_err(|e| AgentError::Tls { reason: chain(&e) })
        .map(|e| {
            e.connect_timeout(CONNECT_WITHIN)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true)
        })
}

/// Connects and says Hello.
async fn connect(endpoint: &Endpoint, hello: Hello) -> Result<Stream, String> {
    let channel: Channel = endpoint.connect().await.map_err(|e| chain(&e))?;
    let (out, messages) = mpsc::channel(IN_FLIGHT);
    // There is room: the channel is new.
    let _ = out.try_send(AgentMessage { kind: Some(Kind::Hello(hello)) });
    let mut client = IngestClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answered = timeout(CONNECT_WITHIN, client.connect(ReceiverStream::new(messages))).await;
    match answered {
        Ok(Ok(inbound)) => Ok(Stream { out, inbound: inbound.into_inner() }),
        Ok(Err(status)) => Err(format!("the hub refused: {}", status.message())),
        Err(_) => Err("the hub did not answer".to_owned()),
    }
}

/// What exists from the first plan on.
struct Running {
    fabric: Arc<Fabric>,
    prober: Box<dyn Probing>,
    reports: Option<Arc<Reports>>,
    outbox: Outbox,
    sensors: Option<Client>,
    host: HostId,
    /// What the tasks count.
    tasks: BTreeMap<String, u64>,
}

impl Running {
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.prober.counters();
        if let Some(r) = &self.reports {
            r.count_into(&mut counters);
        }
        if let Some(s) = &self.sensors {
            s.count_into(&mut counters);
        }
        self.outbox.count_into(&mut counters);
        counters.extend(self.tasks.clone());
        counters
    }
    /// Moves what was observed into the outbox, as batches. An error where the prober has ended.
    fn collect(&mut self) -> Result<(), AgentError> {
        let Running { prober, reports, outbox, sensors, fabric, host, .. } = self;
        let mut add = |observation: Observation| {
            if outbox.add(&observation) {
                outbox.cut(BTreeMap::new());
            }
        };
        let alive = prober.take(&mut add);
        if let Some(r) = reports {
            r.take(&mut add);
        }
        if let Some(client) = sensors {
            for reading in client.take() {
                let (paths, components) = client.observations(fabric, *host, &reading);
                let all = paths.into_iter().map(Observation::Path);
                for observation in all.chain(components.into_iter().map(Observation::Component)) {
                    outbox.add(&observation);
                }
                outbox.add_reading(reading);
            }
        }
        self.cut();
        if alive { Ok(()) } else { Err(AgentError::ProberEnded) }
    }
    fn cut(&mut self) {
        let counters = self.counters();
        self.outbox.cut(counters);
    }
}

struct Agent {
    tasks: Desk,
    reports: Option<Arc<Reports>>,
    config: Config,
    name: String,
    endpoints: Vec<Endpoint>,
    /// Which of them is tried.
    turn: usize,
    producer_epoch: u64,
    born: Instant,
    probing: Option<Running>,
    last_wait: Option<Duration>,
}

/// An open stream.
struct Stream {
    out: mpsc::Sender<AgentMessage>,
    inbound: Streaming<HubMessage>,
}

impl Agent {
    async fn keep_connected(&mut self, mut stop: Stop<'_>, open: &Open) -> Result<(), AgentError> {
        loop {
            let hello = Hello {
                version: PROTOCOL_VERSION,
                host: host_number(&self.name),
                producer_epoch: self.producer_epoch,
                software: concat!("selvedge ", env!("CARGO_PKG_VERSION")).to_owned(),
                capabilities: Vec::new(),
                stamp_port: self.config.stamp_port.into(),
                alive_ms: u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            let hubs = self.endpoints.len();
            let turn = self.turn % hubs;
            let Some(endpoint) = self.endpoints.get(turn) else { return Ok(()) };
            let connected = tokio::select! {
                () = &mut stop => return Ok(()),
                connected = connect(endpoint, hello) => connected,
            };
            self.collect()?;
            match connected {
                Ok(stream) => {
                    if self.converse(stream, stop.as_mut(), open).await? == End::Stopped {
                        return Ok(());
                    }
                }
                Err(reason) => {
                    let hub = self.config.hubs.get(turn);
                    tracing::warn!(hub, %reason, "no connection to the hub");
                }
            }
            // The next one, and longer waits from round to round; each hub is tried as often as if it were the only one.
            self.turn = turn + 1;
            let before = self.last_wait.unwrap_or(self.config.retry_min / 2);
            let base = if turn == 0 { (before * 2).min(self.config.retry_max) } else { before };
            self.last_wait = Some(base);
            let rest = u32::try_from(hubs).map_or(base, |n| base / n);
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = sleep(jittered(rest)) => {}
            }
            self.collect()?;
        }
    }

    /// Talks until the stream breaks or the agent is to stop.
    async fn converse(
        &mut self,
        mut stream: Stream,
        mut stop: Stop<'_>,
        open: &Open,
    ) -> Result<End, AgentError> {
        if let Some(p) = &mut self.probing {
            p.outbox.rewind();
        }
        self.tasks.rewind();
        let mut tick = interval(self.config.send_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        let mut beat = answered;
        loop {
            tokio::select! {
                () = &mut stop => {
                    self.farewell(stream).await;
                    return Ok(End::Stopped);
                }
                message = stream.inbound.message() => {
                    let kind = match message {
                        Ok(Some(message)) => message.kind,
                        Ok(None) => {
                            tracing::info!("the hub closed the stream");
                            return Ok(End::Broken);
                        }
                        Err(status) => {
                            tracing::warn!(reason = status.message(), "the stream to the hub broke");
                            return Ok(End::Broken);
                        }
                    };
                    answered = Instant::now();
                    match kind {
                        Some(Answer::Ack(ack)) => self.acknowledge(ack.producer_epoch, ack.sequence),
                        Some(Answer::Refusal(r)) => {
                            tracing::warn!(reason = r.reason, batch = r.sequence, "the hub refuses");
                            if r.sequence == 0 {
                                return Ok(End::Broken);
                            }
                            // It is counted there; sending it again would change nothing.
                            self.acknowledge(self.producer_epoch, r.sequence);
                        }
                        Some(Answer::Plan(plan)) => {
                            self.take_plan(&plan, open)?;
                            self.last_wait = None;
                        }
                        Some(Answer::Tasks(tasks)) => {
                            self.tasks.list(Nanos(wall_ns()), &tasks);
                            self.send_pieces(&stream);
                        }
                        Some(Answer::TaskAck(ack)) => {
                            self.tasks.acknowledge(&ack);
                            self.send_pieces(&stream);
                        }
                        // A kind of a later version.
                        None => {}
                    }
                }
                _ = tick.tick() => {
                    if beat.elapsed() >= HEARTBEAT {
                        beat = Instant::now();
                        let now = Heartbeat { now_ns: wall_ns() };
                        // A full queue is a sign of life by itself.
                        let _ = stream.out.try_send(AgentMessage { kind: Some(Kind::Heartbeat(now)) });
                    }
                    self.collect()?;
                    self.tasks.handle_timeout(Nanos(wall_ns()));
                    self.send_pieces(&stream);
                    if self.probing.as_ref().is_none_or(|p| p.outbox.is_empty()) {
                        answered = Instant::now();
                    }
                    if answered.elapsed() > ANSWER_WITHIN {
                        tracing::warn!("the hub acknowledges nothing");
                        return Ok(End::Broken);
                    }
                }
                permit = stream.out.clone().reserve_owned(), if self.has_unsent() => {
                    let Ok(permit) = permit else { return Ok(End::Broken) };
                    if let Some(batch) = self.probing.as_mut().and_then(|p| p.outbox.send()) {
                        permit.send(AgentMessage { kind: Some(Kind::Batch(batch)) });
                    }
                }
            }
        }
    }

    fn collect(&mut self) -> Result<(), AgentError> {
        let Some(p) = &mut self.probing else { return Ok(()) };
        self.tasks.count_into(&mut p.tasks);
        p.collect()
    }

    /// Pieces of tasks, as far as there is room on the stream.
    fn send_pieces(&mut self, stream: &Stream) {
        while let Ok(permit) = stream.out.try_reserve() {
            let Some(piece) = self.tasks.poll_output() else { return };
            permit.send(AgentMessage { kind: Some(Kind::TaskOutput(piece)) });
        }
    }

    fn has_unsent(&self) -> bool {
        self.probing.as_ref().is_some_and(|p| p.outbox.has_unsent())
    }

    fn acknowledge(&mut self, producer_epoch: u64, sequence: u64) {
        if let Some(p) = &mut self.probing {
            p.outbox.acknowledge(producer_epoch, sequence);
        }
    }

    /// A plan: the first one opens the sockets, a later one changes what is probed.
    fn take_plan(&mut self, plan: &wire::proto::Plan, open: &Open) -> Result<(), AgentError> {
        let (fabric, plan) = match read(plan) {
            Ok(read) => read,
            Err(reason) => {
                tracing::error!(%reason, "the hub's plan cannot be used");
                return Ok(());
            }
        };
        match &mut self.probing {
            Some(p) if p.fabric.epoch == fabric.epoch => p.prober.set_plan(plan),
            Some(p) => Err(AgentError::FabricChanged { from: p.fabric.epoch, to: fabric.epoch }),
            None => {
                let host = fabric
                    .host_by_name(&self.name)
                    .ok_or(AgentError::Certificate { reason: "it names no host of the hub's fabric" })?;
                let fabric = Arc::new(fabric);
                tracing::info!(
                    host = self.name,
                    fabric = fabric.name,
                    slots = plan.slots.len(),
                    "probing begins"
                );
                let prober = open(&self.config, &fabric, host, plan)?;
                let outbox = Outbox::new(self.producer_epoch, fabric.epoch, self.config.buffer_rows);
                if let Some(r) = &self.reports {
                    r.know(fabric.clone(), host);
                }
                let sensors = self.config.sensors_socket.clone().and_then(|path| {
                    let client = Client::start(path, self.config.netns.clone());
                    client.inspect_err(|e| tracing::error!(reason = %e, "sensors are not asked")).ok()
                });
                let helper = helper(&self.config, &self.name);
                self.tasks.hire(Crew { tracer: prober.tracer(), helper });
                let (reports, tasks) = (self.reports.clone(), BTreeMap::new());
                self.probing = Some(Running { fabric, prober, reports, outbox, sensors, host, tasks });
                Ok(())
            }
        }
    }

    /// An orderly end: the last observations, their acknowledgement, goodbye.
    async fn farewell(&mut self, mut stream: Stream) {
        // A prober that has just ended makes no difference here.
        let _ = self.collect();
        let last_words = async {
            if let Some(p) = &mut self.probing {
                while let Some(batch) = p.outbox.send() {
                    stream.out.send(AgentMessage { kind: Some(Kind::Batch(batch)) }).await.ok()?;
                }
                while !p.outbox.is_empty() {
                    if let Some(Answer::Ack(ack)) = stream.inbound.message().await.ok()??.kind {
                        p.outbox.acknowledge(ack.producer_epoch, ack.sequence);
                    }
                }
            }
            stream.out.send(AgentMessage { kind: Some(Kind::Goodbye(Goodbye {})) }).await.ok()?;
            // The hub closes the stream when it has heard it.
            while let Ok(Some(_)) = stream.inbound.message().await {}
            Some(())
        };
        if timeout(FAREWELL, last_words).await.ok().flatten().is_none() {
            tracing::warn!("the hub did not hear the last observations");
        }
    }
}

/// An error with its causes, in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}
