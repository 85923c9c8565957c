//! One device: a connection, its subscriptions, and what is remembered of it between notifications.
//!
//! Invariants: what is remembered (neighbours half told, transceivers of ports) is bounded; a subscription that the device
//! refuses is said once and left out until the next connection; whether the device answers is itself a number, `up`.

use super::known::{Told, told};
use super::proto::g_nmi_client::GNmiClient;
use super::proto::{
    self, Encoding as Wire, Notification, SubscribeRequest, SubscriptionList, subscribe_request,
    subscribe_response,
};
use super::value::{self, Step};
use super::{Config, Encoding, Mode, Subscription, check, credentials, path};
use crate::error::ReceiveError;
use crate::intake::{BATCH_MAX, Intake, believable, now};
use crate::rows::{Dropped, EntityKind, Metric, Receiver};
use crate::setting;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use wire::Nanos;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A connection on which nothing is heard is asked whether it is there.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Neighbours and transceivers remembered of one device.
const REMEMBERED_MAX: usize = 4_096;

/// What is remembered of a device.
#[derive(Debug, Default)]
struct Memory {
    /// By port and neighbour's number: its system's name and port.
    neighbours: HashMap<(String, String), (String, String)>,
    /// Component of a transceiver to its port.
    transceivers: HashMap<String, String>,
}

/// What takes notifications of one device; apart from the connection, so that it can be tried without one.
#[derive(Debug)]
pub struct Desk {
    device: String,
    clock_error_max: Nanos,
    intake: Arc<Intake>,
    memory: Mutex<Memory>,
}

impl Desk {
    /// A desk of a device.
    pub fn new(device: &str, clock_error_max: Duration, intake: Arc<Intake>) -> Desk {
        let clock_error_max = setting::nanos(clock_error_max);
        Desk { device: device.to_owned(), clock_error_max, intake, memory: Mutex::default() }
    }

    fn metric(
        &self,
        at: Nanos,
        kind: EntityKind,
        entity: String,
        name: String,
        value: f64,
        total: bool,
    ) -> Metric {
        Metric {
            at,
            window: None,
            source: Receiver::Gnmi,
            device: self.device.clone(),
            entity_kind: kind,
            entity,
            name,
            value,
            cumulative: total,
            labels: Vec::new(),
            component: None,
        }
    }

    /// Whether the device answers.
    pub fn up(&self, now: Nanos, up: bool) {
        let value = f64::from(u8::from(up));
        self.intake.metrics(vec![self.metric(
            now,
            EntityKind::Host,
            String::new(),
            "up".to_owned(),
            value,
            false,
        )]);
    }

    /// Takes a notification.
    pub fn take(&self, now: Nanos, n: &Notification) {
        let stamp = u64::try_from(n.timestamp).ok().map(Nanos);
        let at = believable(stamp, now, self.clock_error_max);
        let prefix = n.prefix.as_ref().map_or_else(Vec::new, |p| value::steps(&p.elem));
        let mut batch = Vec::new();
        let mut told_of = Vec::new();
        let mut unsupported = 0;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for update in &n.update {
            let (Some(p), Some(v)) = (&update.path, &update.val) else {
                unsupported += 1;
                continue;
            };
            let mut steps: Vec<Step> = prefix.clone();
            steps.extend(value::steps(&p.elem));
            let mut nothing = 0;
            unsupported += value::leaves(&mut steps, v, &mut |path, leaf| match told(path, &leaf) {
                Told::Number { kind, entity, name, value, total } => {
                    let entity = match kind {
                        EntityKind::Optic => memory.transceivers.get(&entity).cloned().unwrap_or(entity),
                        _ => entity,
                    };
                    batch.push(self.metric(at, kind, entity, name.into_owned(), value, total));
                    if batch.len() >= BATCH_MAX {
                        self.intake.metrics(std::mem::take(&mut batch));
                    }
                }
                Told::Neighbour(port, id, part, text) => {
                    let room = memory.neighbours.len() < REMEMBERED_MAX;
                    let key = (port, id);
                    if !room && !memory.neighbours.contains_key(&key) {
                        self.intake.dropped(Receiver::Gnmi, Dropped::TooMany, 1);
                        return;
                    }
                    let port = key.0.clone();
                    let known = memory.neighbours.entry(key).or_default();
                    if part == "system-name" {
                        known.0 = text
                    } else {
                        known.1 = text
                    }
                    if !known.0.is_empty() && !known.1.is_empty() {
                        told_of.push((port, known.clone()));
                    } else {
                        self.intake.kept(Receiver::Gnmi, 1);
                    }
                }
                Told::Transceiver(component, port) => {
                    if memory.transceivers.len() < REMEMBERED_MAX {
                        memory.transceivers.insert(component, port);
                    }
                    self.intake.kept(Receiver::Gnmi, 1);
                }
                Told::Nothing => nothing += 1,
            });
            unsupported += nothing;
        }
        for gone in &n.delete {
            let mut steps: Vec<Step> = prefix.clone();
            steps.extend(value::steps(&gone.elem));
            forget(&mut memory, &steps);
        }
        drop(memory);
        if unsupported > 0 {
            self.intake.dropped(Receiver::Gnmi, Dropped::Unsupported, unsupported);
        }
        for (port, (system, its_port)) in told_of {
            self.intake.neighbour(at, Receiver::Gnmi, (&self.device, &port), (&system, &its_port));
        }
        self.intake.metrics(batch);
    }
}

/// A neighbour that is gone is told anew when it comes back.
fn forget(memory: &mut Memory, path: &[Step]) {
    let lldp = path.first().is_some_and(|s| s.name == "lldp");
    let port = path.get(2).and_then(|s| s.key("name"));
    if lldp {
        memory.neighbours.retain(|(p, _), _| port.is_some_and(|port| port != p && port != "*"));
    }
}

/// A device's connection.
#[derive(Debug)]
pub struct Session {
    desk: Arc<Desk>,
    endpoint: Endpoint,
    login: Login,
    requests: Vec<(Subscription, SubscribeRequest)>,
    message_bytes_max: usize,
}

/// How a subscription ended.
#[derive(Debug)]
enum End {
    /// The device does not do it.
    Refused(String, Status),
    /// The connection broke, or the device ended it.
    Broken(Option<Status>),
}

impl Session {
    /// A session that does not connect yet.
    pub fn new(
        config: &Config,
        (device, at): (&str, &str),
        base: &Path,
        intake: Arc<Intake>,
    ) -> Result<Session, ReceiveError> {
        let wrong =
            |reason: String| ReceiveError::Setting { what: format!("[[gnmi]] target {device}"), reason };
        check(config).map_err(wrong)?;
        let scheme = if config.insecure { "http" } else { "https" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{at}"));
        let address = |_| wrong(format!("address is {at:?}; expected one such as leaf1:9339"));
        let mut endpoint = endpoint
            .map_err(address)?
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        if let Some(ca) = &config.ca_file {
            let ca = Certificate::from_pem(setting::bytes(base, ca).map_err(wrong)?);
            let mut tls = ClientTlsConfig::new().ca_certificate(ca);
            if let Some(name) = &config.server_name {
                tls = tls.domain_name(name);
            }
            if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
                let (cert, key) =
                    (setting::bytes(base, cert).map_err(wrong)?, setting::bytes(base, key).map_err(wrong)?);
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| wrong(e.to_string()))?;
        }
        let login = match credentials(config, base).map_err(wrong)? {
            None => None,
            Some((name, password)) => {
                let ascii = |s: String| {
                    s.parse().map_err(|_| wrong("expected name and password in printable ASCII".to_owned()))
                };
                Some((ascii(name)?, ascii(password)?))
            }
        };
        let mut requests = Vec::new();
        for s in &config.subscriptions {
            let request = request(s, config.encoding).ok_or_else(|| {
                wrong(format!("path {:?}; expected one such as /interfaces/interface[name=*]/state", s.path))
            })?;
            requests.push((s.clone(), request));
        }
        let desk = Arc::new(Desk::new(device, config.clock_error_max, intake));
        Ok(Session { desk, endpoint, login, requests, message_bytes_max: config.message_bytes_max })
    }

    /// Connects, listens, and connects again, without end.
    pub async fn run(self) {
        let mut wait = BACKOFF.0;
        let mut said = String::new();
        loop {
            let (heard, why) = self.once().await;
            self.desk.up(now(), false);
            if heard {
                wait = BACKOFF.0;
                said.clear();
            }
            if why != said {
                tracing::warn!(device = %self.desk.device, reason = %why, "a device's telemetry broke off");
                said = why;
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// One connection, until it ends. Whether anything was heard on it, and why it ended.
    async fn once(&self) -> (bool, String) {
        // The endpoint's own limit is of the connection, without its encryption.
        let channel = match timeout(CONNECT_WITHIN, self.endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(e)) => return (false, chain(&e)),
            Err(_) => return (false, "no connection in time".to_owned()),
        };
        let heard = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut streams = JoinSet::new();
        for (subscription, request) in &self.requests {
            let client = GNmiClient::new(channel.clone()).max_decoding_message_size(self.message_bytes_max);
            let (desk, heard) = (Arc::clone(&self.desk), Arc::clone(&heard));
            let login = self.login.clone();
            streams.spawn(listen(client, login, subscription.clone(), request.clone(), desk, heard));
        }
        let mut why = "every subscription was refused".to_owned();
        while let Some(end) = streams.join_next().await {
            match end {
                Ok(End::Refused(path, status)) => {
                    tracing::warn!(device = %self.desk.device, path, reason = status.message(), "a subscription is refused");
                }
                Ok(End::Broken(status)) => {
                    why = status.map_or("the device ended it".to_owned(), |s| s.to_string());
                    break;
                }
                Err(e) => {
                    why = e.to_string();
                    break;
                }
            }
        }
        (heard.load(std::sync::atomic::Ordering::Relaxed), why)
    }
}

/// An error with what caused it.
fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        out = format!("{out}: {c}");
        cause = c.source();
    }
    out
}

/// What asks for a subscription.
pub(super) fn request(s: &Subscription, encoding: Encoding) -> Option<SubscribeRequest> {
    let mut asked = path(&s.path)?;
    asked.origin.clone_from(&s.origin);
    let every = u64::try_from(s.every.as_nanos()).ok()?;
    let mode = match s.mode {
        Mode::OnChange => proto::SubscriptionMode::OnChange,
        Mode::TargetDefined => proto::SubscriptionMode::TargetDefined,
        Mode::Sample | Mode::Once => proto::SubscriptionMode::Sample,
    };
    let subscription = proto::Subscription {
        path: Some(asked),
        mode: mode.into(),
        sample_interval: if s.mode == Mode::Sample { every } else { 0 },
        suppress_redundant: false,
        heartbeat_interval: if s.mode == Mode::OnChange { every } else { 0 },
    };
    let encoding = match encoding {
        Encoding::Proto => Wire::Proto,
        Encoding::JsonIetf => Wire::JsonIetf,
        Encoding::Json => Wire::Json,
    };
    let list = match s.mode {
        Mode::Once => proto::subscription_list::Mode::Once,
        _ => proto::subscription_list::Mode::Stream,
    };
    let prefix = proto::Path { target: s.prefix_target.clone(), ..proto::Path::default() };
    let list = SubscriptionList {
        prefix: (!s.prefix_target.is_empty()).then_some(prefix),
        subscription: vec![subscription],
        mode: list.into(),
        encoding: encoding.into(),
        updates_only: false,
    };
    Some(SubscribeRequest { request: Some(subscribe_request::Request::Subscribe(list)) })
}

type Login = Option<(MetadataValue<tonic::metadata::Ascii>, MetadataValue<tonic::metadata::Ascii>)>;

async fn listen(
    mut client: GNmiClient<Channel>,
    login: Login,
    subscription: Subscription,
    ask: SubscribeRequest,
    desk: Arc<Desk>,
    heard: Arc<std::sync::atomic::AtomicBool>,
) -> End {
    loop {
        // The requests' side stays open for as long as the stream lives: some devices end it otherwise.
        let (put, requests) = tokio::sync::mpsc::channel(1);
        let _ = put.try_send(ask.clone());
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
        if let Some((name, password)) = &login {
            request.metadata_mut().insert("username", name.clone());
            request.metadata_mut().insert("password", password.clone());
        }
        let ended = |status: Status| match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::Unimplemented | Code::FailedPrecondition => {
                End::Refused(subscription.path.clone(), status)
            }
            _ => End::Broken(Some(status)),
        };
        let mut answers = match client.subscribe(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return ended(status),
        };
        let once = subscription.mode == Mode::Once;
        loop {
            match answers.message().await {
                Ok(Some(answer)) => match answer.response {
                    Some(subscribe_response::Response::Update(n)) => {
                        if !heard.swap(true, std::sync::atomic::Ordering::Relaxed) {
                            desk.up(now(), true);
                        }
                        desk.take(now(), &n);
                    }
                    Some(subscribe_response::Response::SyncResponse(_)) if once => break,
                    Some(subscribe_response::Response::SyncResponse(_)) | None => {}
                },
                Ok(None) if once => break,
                Ok(None) => return End::Broken(None),
                Err(status) => return ended(status),
            }
        }
        drop(put);
        sleep(subscription.every).await;
    }
}
