//! OpenTelemetry: metrics, logs and traces that others send, over gRPC and over HTTP with protobuf.
//!
//! How: one server behind each door takes both ways (OTLP 1.x, "OTLP/gRPC" and "OTLP/HTTP"); a request is decoded whole,
//! its resources' attributes say which device it is of, and its points, records and spans become rows ([`convert`]). What
//! could not be kept is said in the answer as a partial success.
//! Invariants: a request is at most [`Config::body_bytes_max`], also unpacked; at most [`Config::at_a_time`] are read and
//! worked on, each more is told to come again before its body is read; at most [`Config::connections`] are open. A door
//! that others can reach is encrypted, or `insecure` says that it is not.
//! Absent on purpose: JSON, since collectors and most SDKs send protobuf; profiles; and who may send: who reaches the door may,
//! and with `client_ca_file` only who has a certificate of that authority.

pub mod convert;
mod http;

use crate::door::{self, Running};
use crate::error::ReceiveError;
use crate::intake::{Intake, now};
use crate::rows::{Dropped, Receiver};
use crate::setting::{self, time};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse as _;
use convert::{Outcome, Senders};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
    logs_service_server::{LogsService, LogsServiceServer},
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::server::TlsConnectInfo;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where gRPC is expected, default nowhere; the port is 4317.
    pub grpc: Option<SocketAddr>,
    /// Where HTTP is expected, default nowhere; the port is 4318. Each door takes both.
    pub http: Option<SocketAddr>,
    /// Longest request, default 4 MiB.
    pub body_bytes_max: usize,
    /// Requests read and worked on at a time, default 8: what decodes may take some sixty times its bytes.
    pub at_a_time: usize,
    /// Connections at a time, default 64.
    pub connections: usize,
    /// File with the certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// File with its key, PEM.
    pub key_file: Option<PathBuf>,
    /// File with the authorities that senders' certificates must come from, PEM; default none are asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Listen without encryption where others can reach it, default false.
    pub insecure: bool,
    /// The least severe log records that are kept, by RFC 5424, default 6: information.
    pub severity_max: u8,
    /// A time stamp that is older than this is not believed, default 60 min: exporters wait and try again.
    #[serde(with = "time")]
    pub clock_error_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            grpc: None,
            http: None,
            body_bytes_max: 4 << 20,
            at_a_time: 8,
            connections: 64,
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            insecure: false,
            severity_max: 6,
            clock_error_max: Duration::from_secs(3_600),
        }
    }
}

/// Requests of one connection that may wait at a time.
const STREAMS: u32 = 16;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// Takes requests, whichever way they came.
#[derive(Debug)]
pub struct Desk {
    config: Config,
    intake: Arc<Intake>,
    slots: Semaphore,
}

/// What a request asks for.
#[derive(Debug)]
pub enum Export {
    /// Metrics to keep.
    Metrics(ExportMetricsServiceRequest),
    /// Log records to keep.
    Logs(ExportLogsServiceRequest),
    /// Spans to keep.
    Traces(ExportTraceServiceRequest),
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Log records.
    Logs,
    /// Spans.
    Traces,
}

impl Export {
    /// Decodes the body of a request.
    pub fn decode(signal: Signal, body: &[u8]) -> Result<Export, prost::DecodeError> {
        match signal {
            Signal::Metrics => ExportMetricsServiceRequest::decode(body).map(Export::Metrics),
            Signal::Logs => ExportLogsServiceRequest::decode(body).map(Export::Logs),
            Signal::Traces => ExportTraceServiceRequest::decode(body).map(Export::Traces),
        }
    }
}

impl Desk {
    /// A desk that hands over to an intake.
    pub fn new(config: Config, intake: Arc<Intake>) -> Desk {
        let slots = Semaphore::new(config.at_a_time.max(1));
        Desk { config, intake, slots }
    }

    /// A place to work on a request, if there is one.
    fn slot(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let slot = self.slots.try_acquire().ok();
        if slot.is_none() {
            self.intake.dropped(Receiver::Otlp, Dropped::TooMany, 1);
        }
        slot
    }

    /// Takes a request.
    pub fn take(&self, peer: Option<SocketAddr>, export: Export) -> Outcome {
        let senders = Senders::new(&self.config, &self.intake, peer, now());
        match export {
            Export::Metrics(r) => senders.metrics(r),
            Export::Logs(r) => senders.logs(r),
            Export::Traces(r) => senders.traces(r),
        }
    }
}

fn peer<T>(request: &Request<T>) -> Option<SocketAddr> {
    peer_of(request.extensions().get(), request.extensions().get())
}

/// Who sends, on a plain connection or an encrypted one.
fn peer_of(plain: Option<&SocketAddr>, tls: Option<&TlsConnectInfo<SocketAddr>>) -> Option<SocketAddr> {
    plain.copied().or_else(|| tls.map(|t| *t.get_ref()))
}

const BUSY: &str = "too many requests at a time: send it again later";

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let from = peer(&request);
        let out = self.0.take(from, Export::Metrics(request.into_inner()));
        let partial_success = (out.rejected > 0).then_some(ExportMetricsPartialSuccess {
            rejected_data_points: out.rejected,
            error_message: out.message.to_owned(),
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let from = peer(&request);
        let out = self.0.take(from, Export::Logs(request.into_inner()));
        let partial_success = (out.rejected > 0).then_some(ExportLogsPartialSuccess {
            rejected_log_records: out.rejected,
            error_message: out.message.to_owned(),
        });
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let from = peer(&request);
        let out = self.0.take(from, Export::Traces(request.into_inner()));
        let partial_success = (out.rejected > 0).then_some(ExportTracePartialSuccess {
            rejected_spans: out.rejected,
            error_message: out.message.to_owned(),
        });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

/// The three services of gRPC.
#[derive(Clone, Debug)]
struct Service(Arc<Desk>);

/// Lets a request in, if there is a place; its body is not read before.
async fn admit(
    State(desk): State<Arc<Desk>>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let Some(_slot) = desk.slot() else {
        let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
        if kind.starts_with(b"application/grpc") {
            return Status::unavailable(BUSY).into_http();
        }
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], BUSY).into_response();
    };
    let answer = next.run(request).await;
    // What gRPC refuses before it is ours: the services themselves refuse nothing.
    if let Some(code) = answer.headers().get(Status::GRPC_STATUS).map(|v| Code::from_bytes(v.as_bytes())) {
        let why = match code {
            Code::Ok => return answer,
            Code::OutOfRange | Code::ResourceExhausted => Dropped::TooLarge,
            Code::Unimplemented => Dropped::Unsupported,
            _ => Dropped::Malformed,
        };
        desk.intake.dropped(Receiver::Otlp, why, 1);
    }
    answer
}

/// The services behind every door.
fn routes(desk: &Arc<Desk>) -> Routes {
    let service = Service(Arc::clone(desk));
    let most = desk.config.body_bytes_max;
    let gzip = CompressionEncoding::Gzip;
    // Both ways by one router: what is no gRPC service is HTTP.
    let metrics = MetricsServiceServer::new(service.clone());
    let logs = LogsServiceServer::new(service.clone());
    let traces = TraceServiceServer::new(service);
    let services = Routes::from(http::router(Arc::clone(desk)))
        .add_service(metrics.max_decoding_message_size(most).accept_compressed(gzip))
        .add_service(logs.max_decoding_message_size(most).accept_compressed(gzip))
        .add_service(traces.max_decoding_message_size(most).accept_compressed(gzip));
    Routes::from(services.into_axum_router().layer(from_fn_with_state(Arc::clone(desk), admit)))
}

fn tls(config: &Config, base: &Path) -> Result<Option<ServerTlsConfig>, String> {
    let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) else {
        let none = config.cert_file.is_none() && config.key_file.is_none() && config.client_ca_file.is_none();
        return if none {
            Ok(None)
        } else {
            Err("expected `cert_file` and `key_file`, or neither".to_owned())
        };
    };
    let identity = Identity::from_pem(setting::bytes(base, cert)?, setting::bytes(base, key)?);
    let mut tls = ServerTlsConfig::new().identity(identity);
    if let Some(ca) = &config.client_ca_file {
        tls = tls.client_ca_root(Certificate::from_pem(setting::bytes(base, ca)?));
    }
    Ok(Some(tls))
}

/// Begins to listen; it goes on until what is returned is dropped. `base` is the directory of relative paths.
pub async fn start(config: Config, base: &Path, intake: Arc<Intake>) -> Result<Running, ReceiveError> {
    let wrong = |reason: String| ReceiveError::Setting { what: "otlp".to_owned(), reason };
    let mut running = Running::default();
    let tls = tls(&config, base).map_err(wrong)?;
    let desk = Arc::new(Desk::new(config.clone(), Arc::clone(&intake)));
    for (door, address) in [("grpc", config.grpc), ("http", config.http)] {
        let Some(address) = address else { continue };
        if tls.is_none() && !config.insecure && !address.ip().is_loopback() {
            let reason =
                format!("{address} can be reached by others; expected `cert_file`, or `insecure = true`");
            return Err(wrong(reason));
        }
        let (listener, bound) = door::listen("otlp", address).await?;
        running.addresses.push((door, bound));
        let connections = door::connections(
            &mut running,
            listener,
            config.connections,
            Arc::clone(&intake),
            Receiver::Otlp,
        );
        let mut server = Server::builder();
        if let Some(tls) = &tls {
            server = server.tls_config(tls.clone()).map_err(|e| wrong(e.to_string()))?;
        }
        let mut server = server
            .accept_http1(true)
            .timeout(ANSWER_WITHIN)
            .max_concurrent_streams(STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1));
        let router = server.add_routes(routes(&desk));
        running.add(async move {
            // Connections end with the server when it can be told to stop, and it is told by being dropped.
            let stop = std::future::pending();
            if let Err(e) = router.serve_with_incoming_shutdown(connections, stop).await {
                tracing::warn!(error = %e, "the OTLP server ended");
            }
        });
    }
    Ok(running)
}

#[cfg(test)]
mod tests;
