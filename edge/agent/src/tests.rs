//! The agent against a hub that misbehaves, over real TLS, with a prober that only counts.

use crate::config::Config;
use crate::control::run_with;
use crate::error::AgentError;
use crate::probing::Probing;
use crate::rpc::ingest_server::{Ingest, IngestServer};
use crate::tasks::Helper;
use crate::tasks::capture::Summary;
use fabric::Fabric;
use probe::{Observation, Plan};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use wire::proto::agent_message::Kind;
use wire::proto::hub_message::Kind as Answer;
use wire::proto::{Ack, AgentMessage, Batch, CaptureTask, HubMessage, Task, TaskAck, TaskOutput, Tasks};
use wire::{Component, ComponentObservation, Counter, Epoch, HostId, Window};

fn a_plan(name: &str) -> wire::proto::Plan {
    let toml =
        format!("name = \"{name}\"\nmode = \"srv6\"\nplanes = 2\nleaves = 4\nspines = 4\nhosts = 16\n");
    let fabric = Fabric::parse(&toml).unwrap();
    wire::proto::Plan {
        plan_epoch: fabric.epoch.0,
        fabric_toml: fabric.to_toml(),
        slots: Vec::new(),
        window_ms: 500,
        packets_per_second: 100,
        train: 2,
        timeout_ms: 1000,
    }
}

fn observation() -> Observation {
    Observation::Component(ComponentObservation {
        window: Window::default(),
        producer: HostId(3),
        epoch: Epoch(5),
        component: Component::Host(HostId(3)),
        counter: Counter::SenderStall,
        delta: 1,
        of: 2,
        size_ns: 3,
    })
}

/// A prober whose observations are made by the test.
struct Puppet {
    observations: mpsc::Receiver<Observation>,
    plans: Arc<Mutex<Vec<Plan>>>,
}

impl Probing for Puppet {
    fn set_plan(&mut self, plan: Plan) -> Result<(), AgentError> {
        self.plans.lock().unwrap().push(plan);
        Ok(())
    }
    fn take(&mut self, to: &mut dyn FnMut(Observation)) -> bool {
        loop {
            match self.observations.try_recv() {
                Ok(observation) => to(observation),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }
    fn counters(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("sent".to_owned(), 7)])
    }
    fn stop(self: Box<Self>) {}
}

/// One stream as the hub sees it.
struct Seen {
    inbound: Streaming<AgentMessage>,
    out: mpsc::Sender<Result<HubMessage, Status>>,
}

impl Seen {
    async fn hear(&mut self) -> Option<Kind> {
        loop {
            match self.inbound.message().await.ok()??.kind {
                Some(Kind::Heartbeat(_)) => {}
                other => return other,
            }
        }
    }
    async fn batch(&mut self) -> Batch {
        match self.hear().await {
            Some(Kind::Batch(batch)) => batch,
            other => panic!("expected a batch, got {other:?}"),
        }
    }
    async fn say(&mut self, kind: Answer) {
        self.out.send(Ok(HubMessage { kind: Some(kind) })).await.unwrap();
    }
    async fn ack(&mut self, batch: &Batch) {
        self.say(Answer::Ack(Ack { producer_epoch: batch.producer_epoch, sequence: batch.sequence })).await;
    }
}

struct Stage(mpsc::Sender<Seen>);

#[tonic::async_trait]
impl Ingest for Stage {
    type ConnectStream = ReceiverStream<Result<HubMessage, Status>>;
    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (out, answers) = mpsc::channel(8);
        let seen = Seen { inbound: request.into_inner(), out };
        self.0.send(seen).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

struct Theatre {
    streams: mpsc::Receiver<Seen>,
    observe: mpsc::Sender<Observation>,
    plans: Arc<Mutex<Vec<Plan>>>,
    stop: oneshot::Sender<()>,
    agent: tokio::task::JoinHandle<Result<(), AgentError>>,
}

async fn a_theatre(change: impl FnOnce(&mut Config)) -> Theatre {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    let key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let issue = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = issue("hub");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(&ca_pem));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let (seen, streams) = mpsc::channel(8);
    let server = Server::builder().tls_config(tls).unwrap();
    tokio::spawn(server.serve_with_incoming_shutdown(
        IngestServer::new(Stage(seen)),
        TcpIncoming::from(listener),
        std::future::pending(),
    ));
    let (cert_pem, key_pem) = issue("host3");
    let mut config = Config {
        hubs: vec![format!("https://{addr}")],
        cert_pem,
        key_pem,
        ca_pem,
        send_every: Duration::from_millis(1),
        retry_min: Duration::from_millis(1),
        ..Config::default()
    };
    change(&mut config);
    let (stop, stopped) = oneshot::channel::<()>();
    let (observe, observations) = mpsc::channel(1_000);
    let plans = Arc::new(Mutex::new(Vec::new()));
    let puppet = Mutex::new(Some((observations, Arc::clone(&plans))));
    let agent = tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        run_with(config, stop, &move |_, _, host, plan| {
            assert_eq!(host, HostId(3));
            let (observations, plans) = puppet.lock().unwrap().take().unwrap();
            plans.lock().unwrap().push(plan);
            Ok(Box::new(Puppet { observations, plans }))
        })
        .await
    });
    Theatre { streams, observe, plans, stop, agent }
}

impl Theatre {
    /// The next stream, after its Hello.
    async fn stream(&mut self) -> Seen {
        let mut seen = self.streams.recv().await.unwrap();
        match seen.hear().await {
            Some(Kind::Hello(hello)) => assert_eq!((hello.host, hello.version), (3, 1)),
            other => panic!("expected a Hello, got {other:?}"),
        }
        seen
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_under_its_number() {
    let mut t = a_theatre(|_| {}).await;
    let mut hub = t.stream().await;
    hub.say(Answer::Plan(a_plan("demo"))).await;
    t.observe.send(observation()).await.unwrap();
    let first = hub.batch().await;
    assert_eq!((first.sequence, first.lost_before, first.counters.get("sent")), (1, 0, Some(&7)));
    hub.ack(&first).await;
    t.observe.send(observation()).await.unwrap();
    let second = hub.batch().await;
    drop(hub);

    let mut hub = t.stream().await;
    hub.say(Answer::Plan(a_plan("demo"))).await;
    let again = hub.batch().await;
    assert_eq!((again.sequence, again.producer_epoch), (2, first.producer_epoch));
    assert_eq!(again.components, second.components);
    hub.ack(&again).await;
    t.observe.send(observation()).await.unwrap();
    assert_eq!(hub.batch().await.sequence, 3);
    assert_eq!(t.plans.lock().unwrap().len(), 2, "a plan for the same fabric is taken over");

    t.observe.send(observation()).await.unwrap();
    t.stop.send(()).unwrap();
    let last = hub.batch().await;
    hub.ack(&last).await;
    assert!(matches!(hub.hear().await, Some(Kind::Goodbye(_))));
    drop(hub);
    assert_eq!(t.agent.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_full_buffer_drops_the_oldest_and_says_how_much() {
    let mut t = a_theatre(|c| c.buffer_rows = 10).await;
    let mut hub = t.stream().await;
    hub.say(Answer::Plan(a_plan("demo"))).await;
    t.observe.send(observation()).await.unwrap();
    let first = hub.batch().await;
    assert_eq!(first.lost_before, 0);
    let rows = |b: &Batch| wire::batch::rows(b);
    let mut seen = rows(&first);
    for _ in 0..99 {
        t.observe.send(observation()).await.unwrap();
    }
    // Nothing is acknowledged, so the buffer overflows; the numbers still add up.
    let mut newest = first;
    while seen + newest.lost_before < 100 || rows(&newest) == 0 {
        newest = hub.batch().await;
        seen += rows(&newest);
    }
    assert!(newest.lost_before <= 100);
    drop(hub);
    let mut hub = t.stream().await;
    let held = hub.batch().await;
    assert!(held.sequence > 1 && held.lost_before >= 1, "{held:?}");
    t.agent.abort();
}

#[tokio::test]
async fn a_new_fabric_ends_the_agent_and_a_bad_plan_does_not() {
    let mut t = a_theatre(|_| {}).await;
    let mut hub = t.stream().await;
    let spoiled = wire::proto::Plan { plan_epoch: 1, ..a_plan("demo") };
    hub.say(Answer::Plan(spoiled)).await;
    let garbage = wire::proto::Plan { fabric_toml: "?".to_owned(), ..a_plan("demo") };
    hub.say(Answer::Plan(garbage)).await;
    hub.say(Answer::Plan(a_plan("demo"))).await;
    hub.say(Answer::Plan(a_plan("other"))).await;
    let ended = t.agent.await.unwrap();
    assert!(matches!(ended, Err(AgentError::FabricChanged { .. })), "{ended:?}");
}

/// Makes a capture of twenty pieces.
#[derive(Debug)]
struct Twenty;

impl Helper for Twenty {
    fn capture(
        &self,
        _: &CaptureTask,
        _: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Result<Summary, String> {
        (0..20u8).try_for_each(|i| if sink(vec![i; 1_000]) { Ok(()) } else { Err("gone".to_owned()) })?;
        Ok(Summary { lost: 3, ..Summary::default() })
    }

    fn look(&self, _: &wire::proto::LookTask) -> Result<Vec<u8>, String> {
        Err("not asked for here".to_owned())
    }
}

impl Seen {
    async fn piece(&mut self) -> TaskOutput {
        loop {
            match self.hear().await {
                Some(Kind::TaskOutput(piece)) => return piece,
                Some(Kind::Batch(_)) => {}
                other => panic!("expected a piece, got {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_task_is_done_once_and_its_pieces_outlive_a_broken_stream() {
    let mut t = a_theatre(|c| c.helper = Some(Arc::new(Twenty))).await;
    let mut hub = t.stream().await;
    let kind = Some(wire::proto::task::Kind::Capture(CaptureTask::default()));
    let expires_ns = kernel::timestamp::unix_ns() + 60_000_000_000;
    let list = Tasks { tasks: vec![Task { id: 7, expires_ns, kind }] };
    // a capture needs no plan
    hub.say(Answer::Tasks(list.clone())).await;
    let mut assembly = wire::task::Assembly::new(7);
    for sequence in 1..=8 {
        let piece = hub.piece().await;
        assert_eq!((piece.sequence, assembly.take(&piece)), (sequence, Ok(wire::task::Taken::New)));
    }
    hub.say(Answer::TaskAck(TaskAck { task: 7, sequence: 5, ..TaskAck::default() })).await;
    assert_eq!(hub.piece().await.sequence, 9);
    drop(hub);

    let mut hub = t.stream().await;
    hub.say(Answer::Tasks(list.clone())).await;
    let mut bytes = 8_000;
    let last = loop {
        let piece = hub.piece().await;
        match assembly.take(&piece).unwrap() {
            wire::task::Taken::Again => assert!((6..=8).contains(&piece.sequence), "{}", piece.sequence),
            wire::task::Taken::New => bytes += piece.chunk.len(),
            wire::task::Taken::Last => break piece,
        }
        hub.say(Answer::TaskAck(TaskAck { task: 7, sequence: piece.sequence, ..TaskAck::default() })).await;
    };
    assert_eq!((bytes, last.error.as_str(), last.lost_packets), (20_000, "", 3));
    hub.say(Answer::TaskAck(TaskAck { task: 7, sequence: last.sequence, ..TaskAck::default() })).await;
    // it is listed still, and another one beside it that cannot be done
    let trace = wire::proto::task::Kind::Trace(wire::proto::TraceTask::default());
    let mut more = list;
    more.tasks.push(Task { id: 8, expires_ns, kind: Some(trace) });
    hub.say(Answer::Tasks(more)).await;
    let refused = hub.piece().await;
    assert_eq!((refused.task, refused.sequence, refused.done), (8, 1, true));
    assert!(refused.error.contains("no sockets for traces"), "{}", refused.error);
    t.stop.send(()).unwrap();
    drop(hub);
    assert_eq!(t.agent.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn the_end_of_the_prober_is_the_end_of_the_agent() {
    let mut t = a_theatre(|_| {}).await;
    let mut hub = t.stream().await;
    hub.say(Answer::Plan(a_plan("demo"))).await;
    drop(t.observe);
    assert_eq!(t.agent.await.unwrap(), Err(AgentError::ProberEnded));
}

#[tokio::test]
async fn a_refused_agent_tries_again() {
    let mut t = a_theatre(|_| {}).await;
    for _ in 0..3 {
        let mut hub = t.stream().await;
        hub.say(Answer::Refusal(wire::proto::Refusal { reason: "no".to_owned(), sequence: 0 })).await;
    }
    t.stop.send(()).unwrap();
    assert_eq!(t.agent.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    for hub in ["", "http://127.0.0.1:1", "host"] {
        let mut t = a_theatre(|c| c.hubs = vec![hub.to_owned()]).await;
        assert_eq!(t.agent.await.unwrap(), Err(AgentError::Address { hub: hub.to_owned() }));
        t.streams.close();
    }
}
