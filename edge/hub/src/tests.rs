//! A real hub, spoken to over TLS by a client that can misbehave.

mod alerting;
mod guarded;

use crate::incident::Judgement;
use crate::rpc::ingest_client::IngestClient;
use crate::{Bound, Config, HubError, serve};
use diagnose::{Evidence, FaultKind, Tally, Verdict, VerdictId};
use fabric::Fabric;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use wire::proto::agent_message::Kind;
use wire::proto::hub_message::Kind as Answer;
use wire::proto::{AgentMessage, Batch, Goodbye, Hello, HubMessage, PathColumns};
use wire::{Component, HostId, Known, Leg, LinkId, Nanos, PathObservation, PathRef, PlaneId, Source, Window};

pub(crate) fn a_fabric() -> Arc<Fabric> {
    let toml = "name = \"demo\"\nmode = \"srv6\"\nplanes = 2\nleaves = 4\nspines = 4\nhosts = 16\nhosts_per_leaf = 4\n";
    Arc::new(Fabric::parse(toml).unwrap())
}

pub(crate) fn a_verdict(id: u64) -> Verdict {
    let fabric = a_fabric();
    let link = fabric.link_by_name("p0-leaf1:p0-spine0").unwrap();
    Verdict {
        id: VerdictId(id),
        component: Component::Link(link),
        alternatives: vec![Component::Link(LinkId(link.0 + 2))],
        links: vec![link],
        kind: FaultKind::Loss,
        rate: 0.0102,
        rate_low: 0.008,
        rate_high: 0.013,
        delay_excess_ns: 0,
        flap: None,
        confidence: 0.97,
        first_seen: Nanos::from_secs(1_700_000_000),
        last_seen: Nanos::from_secs(1_700_000_004),
        closed_at: None,
        evidence: Evidence {
            crossing_hurt: Tally { observations: 12, sent: 600, hurt: 14 },
            crossing_fine: Tally { observations: 30, sent: 1500, hurt: 0 },
            elsewhere_hurt: Tally { observations: 1, sent: 50, hurt: 1 },
            moments: 5,
            exemplars: vec![diagnose::Exemplar { producer: HostId(3), sequence: 99 }],
            counters: vec![diagnose::Counted {
                component: Component::Link(link),
                counter: wire::Counter::FrameError,
                events: 14,
                of: 1_500,
                weight: 230,
            }],
            ..Evidence::default()
        },
    }
}

/// An empty directory of this test's own.
pub(crate) fn a_directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("selvedge-hub-test-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Hub {
    bound: Bound,
    authority: Authority,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), HubError>>,
}

impl Hub {
    async fn start(dir: &std::path::Path) -> Hub {
        Hub::start_with(dir, |_| {}).await
    }
    async fn start_with(dir: &std::path::Path, change: impl FnOnce(&mut Config)) -> Hub {
        let authority = Authority::new();
        let mut config = Config::new(a_fabric(), dir.to_owned());
        (config.cert_pem, config.key_pem) = authority.issue("hub");
        config.ca_pem = authority.pem.clone();
        change(&mut config);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(serve(config, |bound| assert!(ready.send(bound).is_ok()), async {
            let _ = stopped.await;
        }));
        let bound = is_ready.await.unwrap();
        Hub { bound, authority, stop, task }
    }
    async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
    async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.bound.http);
        tokio::task::spawn_blocking(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut got = agent.get(&url).call().unwrap();
            (got.status().as_u16(), got.body_mut().read_to_string().unwrap())
        })
        .await
        .unwrap()
    }
    async fn post(&self, path: &str, body: &'static str) -> (u16, String) {
        let url = format!("http://{}{path}", self.bound.http);
        tokio::task::spawn_blocking(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut got = agent.post(&url).content_type("application/json").send(body).unwrap();
            (got.status().as_u16(), got.body_mut().read_to_string().unwrap())
        })
        .await
        .unwrap()
    }
    /// The value of one line of `/metrics`.
    async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }
    /// `sent = stored + Σ lost`, by the hub's own numbers.
    async fn assert_accounts_balance(&self) {
        let (_, text) = self.get("/metrics").await;
        let sum = |prefix: &str| -> u64 {
            let lines = text.lines().filter(|l| l.starts_with(prefix));
            lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        let (sent, stored) =
            (sum("selvedge_hub_observations_sent_total"), sum("selvedge_hub_observations_stored_total"));
        assert_eq!(sent, stored + sum("selvedge_hub_observations_lost_total"), "{text}");
    }
    async fn connect(&self, name: &str, by: &Authority) -> Result<Client, tonic::Status> {
        let (cert, key) = by.issue(name);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority.pem))
            .identity(Identity::from_pem(cert, key));
        let channel = Channel::from_shared(format!("https://{}", self.bound.grpc)).unwrap();
        let channel = channel.tls_config(tls).unwrap().connect().await;
        let channel = channel.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let (out, messages) = mpsc::channel(16);
        let inbound = IngestClient::new(channel).connect(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Client { out, inbound })
    }
}

struct Client {
    out: mpsc::Sender<AgentMessage>,
    inbound: Streaming<HubMessage>,
}

impl Client {
    async fn say(&mut self, kind: Kind) {
        self.out.send(AgentMessage { kind: Some(kind) }).await.unwrap();
    }
    async fn hear(&mut self) -> Option<Answer> {
        self.inbound.message().await.ok()??.kind
    }
    async fn hello(&mut self, host: u32, version: u32) -> Option<Answer> {
        self.say(Kind::Hello(Hello {
            version,
            host,
            producer_epoch: 1,
            alive_ms: 600_000,
            ..Hello::default()
        }))
        .await;
        self.hear().await
    }
    async fn batch(&mut self, batch: Batch) -> Option<Answer> {
        self.say(Kind::Batch(batch)).await;
        self.hear().await
    }
}

/// A batch of host 3 with `rows` observations, the last of them damaged where `spoil` says so.
fn a_batch(sequence: u64, rows: usize, spoil: impl FnOnce(&mut PathColumns)) -> Batch {
    let fabric = a_fabric();
    let from = fabric.nic(PlaneId(0), HostId(3), 0).unwrap();
    let to = fabric.nic(PlaneId(0), HostId(9), 0).unwrap();
    let mut columns = PathColumns::default();
    for i in 0..rows {
        wire::batch::push_path(
            &mut columns,
            &PathObservation {
                window: Window {
                    start: crate::wall().since(Nanos::from_millis(500)),
                    length: Nanos::from_millis(500),
                },
                producer: HostId(3),
                sequence: i as u64,
                epoch: fabric.epoch,
                path: PathRef::OneWay(Leg {
                    path: fabric.path(from, to, i as u32 % 4).unwrap(),
                    known: Known::Exact,
                }),
                class: 0,
                size_log2: 7,
                entropy: 0,
                sent: 10,
                lost: 0,
                reordered: 0,
                ecn_marked: 0,
                delay: None,
                source: Source::Probe,
            },
        );
    }
    spoil(&mut columns);
    Batch {
        version: 1,
        producer_epoch: 1,
        sequence,
        fabric_epoch: fabric.epoch.0,
        paths: Some(columns),
        ..Batch::default()
    }
}

fn ack(sequence: u64) -> Option<Answer> {
    Some(Answer::Ack(wire::proto::Ack { producer_epoch: 1, sequence }))
}

fn reason(answer: Option<Answer>) -> String {
    match answer {
        Some(Answer::Refusal(r)) => r.reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn every_observation_is_stored_or_counted_as_lost() {
    let hub = Hub::start(&a_directory("accounts")).await;
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    let Some(Answer::Plan(plan)) = agent.hello(3, 1).await else { panic!("expected a plan") };
    assert_eq!(Fabric::parse(&plan.fabric_toml).unwrap(), *a_fabric());

    assert_eq!(agent.batch(a_batch(1, 4, |_| {})).await, ack(1));
    assert_eq!(agent.batch(a_batch(1, 4, |_| {})).await, ack(1), "again, since the Ack may have been lost");
    let late = Batch { lost_before: 5, ..a_batch(4, 3, |c| c.lost[2] = 11) };
    assert_eq!(agent.batch(late).await, ack(4));
    assert_eq!(agent.batch(a_batch(5, 2, |c| c.sent.truncate(1))).await, ack(5));
    assert_eq!(agent.batch(a_batch(6, 2, |c| c.path[0] = u64::MAX)).await, ack(6));
    // A clock of the year 2100, and one of 1970.
    let far = |c: &mut wire::proto::PathColumns| {
        (c.window_start_ns[0], c.window_start_ns[1]) = (4_102_444_800_000_000_000, 7);
    };
    assert_eq!(agent.batch(a_batch(7, 3, far)).await, ack(7));
    let other = Batch { producer_epoch: 2, ..a_batch(8, 1, |_| {}) };
    assert!(reason(agent.batch(other).await).contains("expected producer epoch 1"));
    let newer = Batch { version: 9, ..a_batch(8, 1, |_| {}) };
    assert_eq!(reason(agent.batch(newer).await), "expected batch version 1, got 9");

    let lost = |r| format!("selvedge_hub_observations_lost_total{{reason=\"{r}\"}}");
    assert_eq!(hub.metric("selvedge_hub_batches_total").await, 5);
    assert_eq!(hub.metric("selvedge_hub_batches_duplicate_total").await, 1);
    assert_eq!(hub.metric("selvedge_hub_batches_missing_total").await, 2);
    assert_eq!(hub.metric("selvedge_hub_observations_stored_total").await, 4 + 2 + 1 + 1);
    for (why, n) in [
        ("agent_buffer", 5),
        ("bad_row", 1),
        ("unequal_columns", 2),
        ("wrong_time", 2),
        ("unknown_path", 1),
        ("other_life", 1),
        ("version", 1),
    ] {
        assert_eq!(hub.metric(&lost(why)).await, n, "{why}");
    }
    hub.assert_accounts_balance().await;
    hub.end().await;
}

#[tokio::test]
async fn an_agent_speaks_only_for_the_host_its_certificate_names() {
    let hub = Hub::start(&a_directory("certificates")).await;
    let refusal = |name: &'static str, host, version| {
        let hub = &hub;
        async move {
            let mut agent = hub.connect(name, &hub.authority).await.unwrap();
            let reason = reason(agent.hello(host, version).await);
            assert_eq!(agent.hear().await, None, "the stream ends");
            reason
        }
    };
    let said = [
        refusal("host3", 4, 1).await,
        refusal("printer", 4, 1).await,
        refusal("host16", 16, 1).await,
        refusal("host3", 3, 9).await,
        refusal("host3", 3, 0).await,
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    the certificate names host3, but Hello says host4: an agent speaks only for its own host
    the certificate names "printer", expected a host of fabric "demo", host0 to host15
    the certificate names "host16", expected a host of fabric "demo", host0 to host15
    expected protocol version 1 to 1, got 9: install the same release on agents and hub
    expected protocol version 1 to 1, got 0: install the same release on agents and hub
    "#);
    assert!(hub.connect("host3", &Authority::new()).await.is_err(), "another authority");
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    agent.say(Kind::Batch(a_batch(1, 1, |_| {}))).await;
    assert_eq!(reason(agent.hear().await), "expected a Hello as the first message");
    hub.end().await;
}

#[tokio::test]
async fn a_newer_stream_of_a_host_takes_over() {
    let hub = Hub::start(&a_directory("takeover")).await;
    let mut old = hub.connect("host3", &hub.authority).await.unwrap();
    old.hello(3, 1).await.unwrap();
    let mut new = hub.connect("host3", &hub.authority).await.unwrap();
    new.hello(u32::MAX, 1).await.unwrap();
    assert_eq!(new.batch(a_batch(1, 1, |_| {})).await, ack(1));
    assert!(reason(old.batch(a_batch(2, 1, |_| {})).await).contains("taken over"));
    assert_eq!(new.batch(a_batch(2, 1, |_| {})).await, ack(2));
    hub.assert_accounts_balance().await;
    hub.end().await;
}

#[tokio::test]
async fn silence_is_seen_and_a_goodbye_is_not_silence() {
    let hub = Hub::start_with(&a_directory("silence"), |c| {
        c.silent_after = Duration::from_millis(50);
    })
    .await;
    let mut crashed = hub.connect("host3", &hub.authority).await.unwrap();
    crashed.hello(3, 1).await.unwrap();
    assert_eq!(crashed.batch(a_batch(1, 1, |_| {})).await, ack(1));
    let mut left = hub.connect("host5", &hub.authority).await.unwrap();
    left.hello(5, 1).await.unwrap();
    left.say(Kind::Goodbye(Goodbye {})).await;
    assert_eq!(left.hear().await, None);
    drop(crashed);
    let state = |text: &str, host: &str| {
        let list: serde_json::Value = serde_json::from_str(text).unwrap();
        let found = list.as_array().unwrap().iter().find(|a| a["host"] == host).cloned();
        found.map(|a| a["state"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    loop {
        let (_, text) = hub.get("/api/v1/agents").await;
        if state(&text, "host3") == "silent" {
            assert_eq!(state(&text, "host5"), "away");
            break;
        }
        tokio::task::yield_now().await;
    }
    hub.end().await;
}

#[tokio::test]
async fn every_route_is_in_the_document() {
    let hub = Hub::start(&a_directory("openapi")).await;
    let (status, text) = hub.get("/api/v1/openapi.json").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    // The routes as the source of the router says them.
    let source = include_str!("api.rs");
    let mut routes: Vec<&str> =
        source.lines().filter_map(|l| l.trim().strip_prefix(".route(\"")?.split('"').next()).collect();
    routes.sort_unstable();
    assert_eq!(paths, routes);
    // The events never end; the browser tests listen to them.
    for path in routes.into_iter().filter(|p| !p.ends_with("/events")) {
        let asked = path.replace("{id}", "inc-1");
        let (status, text) = hub.get(&asked).await;
        assert!(!text.contains("no such page"), "{asked}: {status} {text}");
    }
    let (status, text) = hub.get("/api/v1/nowhere").await;
    assert_eq!((status, text.contains("no such page")), (404, true));
    hub.end().await;
}

#[tokio::test]
async fn no_path_reaches_the_disk_and_every_answer_is_strict() {
    let hub = Hub::start(&a_directory("traversal")).await;
    for path in [
        "/../../../../etc/passwd",
        "/assets/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/v1/docs/page?path=../../../../etc/passwd",
        "/api/v1/docs/page?path=/etc/passwd",
        "//etc/passwd",
    ] {
        let (status, text) = hub.get(path).await;
        assert!(!text.contains("root:"), "{path}: {status}");
    }
    let url = format!("http://{}/incidents/inc-1", hub.bound.http);
    let got = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(&url).call().unwrap()
    });
    let got = got.await.unwrap();
    let policy = got.headers().get("content-security-policy").map(|v| v.to_str().unwrap().to_owned());
    assert!(policy.is_some_and(|p| p.starts_with("default-src 'self'") && !p.contains("unsafe")));
    hub.end().await;
}

#[tokio::test]
async fn every_worked_question_has_an_answer() {
    let hub = Hub::start(&a_directory("questions")).await;
    let questions = crate::ask::questions();
    assert!(questions.len() >= 20, "{}", questions.len());
    for q in questions {
        let body = serde_json::json!({ "sql": q.sql }).to_string();
        let (status, text) = hub.post("/api/v1/query", body.leak()).await;
        assert_eq!(status, 200, "{}: {text}", q.title);
    }
    for (sql, wanted) in [
        ("drop table link", 400),
        ("copy link to '/tmp/selvedge-link.csv'", 400),
        ("select * from '/etc/passwd'", 400),
        ("select nothing from link", 400),
    ] {
        let body = serde_json::json!({ "sql": sql }).to_string();
        assert_eq!(hub.post("/api/v1/query", body.leak()).await.0, wanted, "{sql}");
    }
    hub.end().await;
}

#[tokio::test]
async fn what_receivers_hear_becomes_rows_and_is_weighed() {
    let dir = a_directory("receivers-heard");
    std::fs::create_dir_all(&dir).unwrap();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let text = format!("[names]\nfile = \"names.toml\"\n[syslog]\nudp = \"{at}\"\n");
    std::fs::write(dir.join("receivers.toml"), text).unwrap();
    std::fs::write(dir.join("names.toml"), "[[device]]\nmatch = [\"sw\"]\nis = \"p0-leaf1\"\n").unwrap();
    let hub = Hub::start_with(&dir.join("data"), |c| c.receivers = Some(dir.join("receivers.toml"))).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"<187>1 - sw app - - - spine1: link is down", at).unwrap();
    let question = |sql: &str| -> &'static str { serde_json::json!({ "sql": sql }).to_string().leak() };
    let links = question("select device, interface, state, component from link_event");
    let counters =
        question("select component, cast(producer as varchar) from counter where counter = 'carrier_lost'");
    let (mut told, mut weighed) = (String::new(), String::new());
    for _ in 0..200 {
        told = hub.post("/api/v1/query", links).await.1;
        weighed = hub.post("/api/v1/query", counters).await.1;
        if told.contains("spine1") && weighed.contains("spine1") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(told.contains(r#"["sw","spine1","down","p0-spine1:p0-leaf1"]"#), "{told}");
    assert!(weighed.contains(r#"["p0-spine1:p0-leaf1","-1"]"#), "{weighed}");
    let (_, metrics) = hub.get("/metrics").await;
    assert!(!metrics.contains("not_its_component"), "the diagnosis takes it");
    hub.end().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_stored_once_by_this_hub_and_the_next() {
    let dir = a_directory("once");
    let count = |text: &str| {
        let view: crate::QueryView = serde_json::from_str(text).unwrap();
        view.rows.iter().map(|r| r.to_string()).collect::<Vec<_>>().join(" ")
    };
    let rows = r#"{"sql":"select count(*), sum(sent) from path_observation"}"#;
    let ledger = r#"{"sql":"select stage, reason, sum(rows) from loss_ledger group by 1, 2 order by 1, 2"}"#;
    let hub = Hub::start(&dir).await;
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    agent.hello(3, 1).await.unwrap();
    assert_eq!(agent.batch(a_batch(1, 4, |_| {})).await, ack(1));
    let mut lossy = a_batch(2, 3, |c| c.lost[0] = 1_000_000);
    lossy.lost_before = 7;
    assert_eq!(agent.batch(lossy.clone()).await, ack(2));
    assert_eq!(agent.batch(lossy.clone()).await, ack(2), "again: acknowledged, not stored");
    let before = count(&hub.post("/api/v1/query", rows).await.1);
    assert!(before.starts_with("[6,"), "{before}");
    assert_eq!(
        count(&hub.post("/api/v1/query", ledger).await.1),
        r#"["agent","agent_buffer",7] ["ingest","bad_row",1]"#
    );
    drop(agent);
    hub.end().await;
    let hub = Hub::start(&dir).await;
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    agent.hello(3, 1).await.unwrap();
    assert_eq!(agent.batch(lossy).await, ack(2));
    assert_eq!(count(&hub.post("/api/v1/query", rows).await.1), before);
    let mut third = a_batch(3, 2, |_| {});
    third.lost_before = 7;
    assert_eq!(agent.batch(third).await, ack(3));
    assert!(count(&hub.post("/api/v1/query", rows).await.1).starts_with("[8,"));
    assert_eq!(
        count(&hub.post("/api/v1/query", ledger).await.1),
        r#"["agent","agent_buffer",7] ["ingest","bad_row",1]"#,
        "a loss is written down once"
    );
    hub.end().await;
}

/// The tables of a hub that is not running.
pub(crate) fn some_tables(dir: &std::path::Path) -> Arc<tables::Tables> {
    let opened = tables::Tables::open(tables::Config::new(a_fabric(), dir), || false);
    Arc::new(opened.unwrap().expect("no hub uses them"))
}

fn seed(dir: &std::path::Path) {
    let tables = some_tables(dir);
    let (store, loaded) = crate::store::Store::open(Arc::clone(&tables)).unwrap();
    let begin = Nanos::from_secs(1_700_000_005);
    let mut book = crate::book::Book::of(a_fabric(), loaded.incidents, loaded.next_number, begin);
    book.take(begin, &diagnose::Event::Opened(a_verdict(7)));
    let none = std::collections::BTreeMap::new();
    store.save(book.ordered().into_iter(), &[], &none).unwrap();
}

#[tokio::test]
async fn incidents_survive_and_can_be_judged() {
    let dir = a_directory("incidents");
    tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || seed(&dir)
    })
    .await
    .unwrap();
    let hub = Hub::start(&dir).await;
    let (_, text) = hub.get("/api/v1/incidents/inc-1").await;
    let incident: serde_json::Value = serde_json::from_str(&text).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&incident).unwrap(), @r#"
    {
      "alternatives": [
        "p0-leaf1:p0-spine1"
      ],
      "care": {
        "acknowledged_at": null,
        "acknowledged_by": null,
        "assigned_to": null,
        "closed_by": null,
        "snoozed_until": null
      },
      "closed_at": null,
      "component": {
        "id": 40,
        "kind": "link",
        "name": "p0-leaf1:p0-spine0"
      },
      "confidence": 0.97,
      "evidence": {
        "counters": [
          {
            "component": "p0-leaf1:p0-spine0",
            "counter": "frame_error",
            "events": 14,
            "of": 1500,
            "weight": 2.3
          }
        ],
        "crossing_fine": {
          "hurt": 0,
          "observations": 30,
          "sent": 1500
        },
        "crossing_hurt": {
          "hurt": 14,
          "observations": 12,
          "sent": 600
        },
        "elsewhere_hurt": {
          "hurt": 1,
          "observations": 1,
          "sent": 50
        },
        "exemplars": [
          {
            "producer": "host3",
            "sequence": 99
          }
        ],
        "moments": 5,
        "senders": 0,
        "victims": []
      },
      "fault": {
        "delay_excess_ns": 0,
        "flap": null,
        "kind": "loss",
        "rate": 0.0102,
        "rate_high": 0.013,
        "rate_low": 0.008
      },
      "first_seen": "2023-11-14T22:13:20.000Z",
      "hurt": {
        "hosts": [],
        "pairs": 0,
        "pairs_shown": []
      },
      "id": "inc-1",
      "label": null,
      "last_seen": "2023-11-14T22:13:24.000Z",
      "link_names": [
        "p0-leaf1:p0-spine0"
      ],
      "links": [
        40
      ],
      "notes": [],
      "opened_at": "2023-11-14T22:13:25.000Z",
      "state": "open",
      "summary": "loss of 1.0 % on link p0-leaf1:p0-spine0",
      "timeline": [
        {
          "at": "2023-11-14T22:13:25.000Z",
          "change": "opened",
          "text": "loss of 1.0 % on link p0-leaf1:p0-spine0, confidence 0.97"
        }
      ],
      "times_reopened": 0
    }
    "#);
    let (status, _) =
        hub.post("/api/v1/incidents/inc-1/label", r#"{"judgement":"partly","note":"the optic"}"#).await;
    assert_eq!(status, 200);
    let (status, text) = hub.get("/api/v1/incidents/inc-1/guide").await;
    assert_eq!(
        (status, text.contains("# p0-leaf1:p0-spine0 loses 1.0 % of its packets")),
        (200, true),
        "{text}"
    );
    let (status, text) = hub.get("/api/v1/incidents/inc-9/guide").await;
    assert_eq!((status, text.contains("no incident inc-9")), (404, true), "{text}");
    for (path, body, want, says) in [
        ("/api/v1/incidents/inc-9/label", r#"{"judgement":"right"}"#, 404, "no incident inc-9"),
        ("/api/v1/incidents/inc-1/label", r#"{"judgement":"maybe"}"#, 422, "right"),
        ("/api/v1/incidents/inc-1/label", "{", 400, ""),
    ] {
        let (status, text) = hub.post(path, body).await;
        assert_eq!((status, text.contains(says)), (want, true), "{text}");
    }
    let (status, text) = hub.get("/api/v1/incidents?state=ajar").await;
    assert_eq!(
        (status, text.as_str()),
        (400, r#"{"error":"state is \"ajar\", expected open, closed or all"}"#)
    );
    assert_eq!(hub.get("/api/v1/incidents?state=closed").await, (200, "[]".to_owned()));
    hub.end().await;

    let hub = Hub::start(&dir).await;
    let (_, text) = hub.get("/api/v1/incidents").await;
    let list: Vec<crate::IncidentView> = serde_json::from_str(&text).unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].label.as_ref().map(|l| l.judgement), Some(Judgement::Partly));
    let (_, text) = hub.get("/api/v1/precision").await;
    insta::assert_snapshot!(text, @r#"{"incidents":1,"judged":1,"rows":[{"kind":"all","right":0,"wrong":0,"partly":1,"precision":0.5},{"kind":"link loss","right":0,"wrong":0,"partly":1,"precision":0.5}]}"#);
    hub.end().await;
}

#[tokio::test]
async fn questions_about_links_and_paths_are_answered() {
    let hub = Hub::start(&a_directory("questions")).await;
    // the far end must be known to live for what is measured towards it to count
    let mut far = hub.connect("host9", &hub.authority).await.unwrap();
    far.hello(9, 1).await.unwrap();
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    agent.hello(3, 1).await.unwrap();
    assert_eq!(agent.batch(a_batch(1, 4, |c| c.lost[2] = 1)).await, ack(1));
    let (status, text) = hub.get("/api/v1/paths?from=host3&to=host9").await;
    assert_eq!(status, 200);
    let paths: crate::PathsView = serde_json::from_str(&text).unwrap();
    assert_eq!(paths.paths.len(), 8, "four spines, two planes");
    let measured = paths.paths[2].measured.clone().unwrap();
    assert_eq!((measured.sent, measured.lost, paths.paths[2].hops.len()), (10, 1, 4));
    let (_, text) = hub.get("/api/v1/links?name=p0-leaf0:p0-spine2").await;
    let links: Vec<crate::LinkView> = serde_json::from_str(&text).unwrap();
    assert_eq!(links[0].sent_10s, 10);
    let (_, text) = hub.get("/api/v1/links?plane=1&limit=3").await;
    assert_eq!(serde_json::from_str::<Vec<crate::LinkView>>(&text).unwrap().len(), 3);
    let (_, text) = hub.get("/api/v1/top").await;
    let top: crate::TopView = serde_json::from_str(&text).unwrap();
    assert_eq!((top.paths.len(), top.observations_stored), (1, 4));
    let (status, text) = hub.get("/readyz").await;
    let ready: crate::Ready = serde_json::from_str(&text).unwrap();
    assert_eq!((status, ready.agents_reporting, ready.agents_expected), (200, 1, 16));
    assert_eq!(hub.get("/readyz?agents=all").await.0, 503);
    for (path, says) in [
        ("/api/v1/paths?from=host3&to=host99", "expected host0 to host15"),
        ("/api/v1/paths?from=host3&to=host3", "no path"),
        ("/api/v1/paths?from=host3", "to"),
        ("/api/v1/links?name=x", "expected one such as"),
        ("/readyz?agents=some", "expected all"),
    ] {
        let (status, text) = hub.get(path).await;
        assert_eq!((status, text.contains(says)), (400, true), "{path}: {text}");
    }
    hub.end().await;
}

#[tokio::test]
async fn http_stays_on_the_machine_unless_told_otherwise() {
    let mut config = Config::new(a_fabric(), a_directory("loopback"));
    config.http = "0.0.0.0:0".parse().unwrap();
    let got = serve(config, |_| {}, std::future::pending()).await;
    assert_eq!(got, Err(HubError::NotLoopback { addr: "0.0.0.0:0".parse().unwrap(), missing: "users" }));
}

#[test]
fn a_full_queue_loses_and_counts() {
    let metrics = Arc::new(crate::metrics::Metrics::new());
    let (inputs, _queue) = std::sync::mpsc::sync_channel(1);
    let desk = crate::desk::DeskHandle::new(inputs, Arc::clone(&metrics), crate::ledger::Ledger::default());
    desk.batch(HostId(3), a_batch(1, 4, |_| {}));
    desk.batch(HostId(3), a_batch(2, 5, |_| {}));
    assert!(
        metrics.text().contains("observations_lost_total{reason=\"queue_full\"} 5"),
        "{}",
        metrics.text()
    );
}
