//! OTLP tried by rows, by both ways on real sockets, and with what must be refused.

use super::*;
use crate::intake::tests::intake;
use crate::rows::{EntityKind, Metric, Row};
use crate::setting::tests::{authority, signed};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Histogram, HistogramDataPoint, Metric as OtlpMetric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use std::io::Write as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use wire::{Counter, Nanos};

fn kv(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn resource() -> Option<Resource> {
    Some(Resource {
        attributes: vec![kv("host.name", "p0-leaf0"), kv("service.name", "agent")],
        ..Resource::default()
    })
}

fn point(start: u64, at: u64, value: f64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![kv("interface", "spine1")],
        start_time_unix_nano: start,
        time_unix_nano: at,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn request(metrics: Vec<OtlpMetric>) -> ExportMetricsServiceRequest {
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn metric(name: &str, data: Data) -> OtlpMetric {
    OtlpMetric { name: name.to_owned(), data: Some(data), ..OtlpMetric::default() }
}

fn desk(intake: &Arc<Intake>) -> Desk {
    Desk::new(Config::default(), Arc::clone(intake))
}

fn drain(rows: &mut mpsc::Receiver<Row>) -> Vec<Row> {
    let mut out = Vec::new();
    while let Ok(row) = rows.try_recv() {
        out.push(row);
    }
    out
}

fn metrics(rows: &[Row]) -> Vec<&Metric> {
    rows.iter().filter_map(|r| if let Row::Metric(m) = r { Some(m) } else { None }).collect()
}

#[test]
fn sums_gauges_and_histograms_become_numbers() {
    let (intake, mut rows) = intake(1_000);
    let now = now().0;
    let start = now - 10_000_000_000;
    let sum = |temporality, value| Sum {
        data_points: vec![point(start, now, value)],
        aggregation_temporality: temporality,
        is_monotonic: true,
    };
    let histogram = HistogramDataPoint {
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: 5,
        sum: Some(2.5),
        bucket_counts: vec![4, 1],
        explicit_bounds: vec![0.5],
        ..HistogramDataPoint::default()
    };
    let got = desk(&intake).take(
        None,
        Export::Metrics(request(vec![
            metric("fcs_errors", Data::Sum(sum(1, 7.0))),
            metric("in_octets", Data::Sum(sum(2, 9.0))),
            metric(
                "temperature",
                Data::Gauge(Gauge { data_points: vec![point(0, now, f64::NAN), point(0, now, 40.0)] }),
            ),
            metric(
                "latency",
                Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: 2 }),
            ),
        ])),
    );
    assert_eq!(got.rejected, 1);
    let rows = drain(&mut rows);
    let ten = Some(Nanos::from_secs(10));
    let said: Vec<_> = metrics(&rows).iter().map(|m| (&*m.name, m.value, m.cumulative, m.window)).collect();
    assert_eq!(
        said,
        [
            ("fcs_errors", 7.0, false, ten),
            ("in_octets", 9.0, true, None),
            ("temperature", 40.0, false, None),
            ("latency.count", 5.0, true, None),
            ("latency.sum", 2.5, true, None),
            ("latency.bucket", 4.0, true, None),
            ("latency.bucket", 1.0, true, None),
        ]
    );
    let last = metrics(&rows)[6];
    assert_eq!((last.entity_kind, &*last.entity), (EntityKind::Process, "agent"));
    assert_eq!(last.labels, [("le".to_owned(), "+Inf".to_owned())]);
    let means: Vec<_> = rows
        .iter()
        .filter_map(|r| if let Row::Observation(o) = r { Some((o.counter, o.delta)) } else { None })
        .collect();
    assert_eq!(means, [(Counter::FrameError, 7)]);
    let c = intake.counted(Receiver::Otlp);
    assert_eq!((c.heard, c.kept), (8, 7));
}

#[test]
fn many_points_are_handed_over_in_parts_and_all_counted() {
    let (intake, _rows) = intake(5_000);
    let data_points = vec![point(0, 0, 1.0); 6_000];
    let got = desk(&intake).take(
        None,
        Export::Metrics(request(vec![metric("temperature", Data::Gauge(Gauge { data_points }))])),
    );
    assert_eq!(got.rejected, 1_000);
    let c = intake.counted(Receiver::Otlp);
    assert_eq!((c.heard, c.kept, c.dropped(Dropped::HubSlow)), (6_000, 5_000, 1_000));
}

#[test]
fn the_conventions_for_ports_are_words() {
    let (intake, mut rows) = intake(10);
    let mut p = point(0, now().0, 3.0);
    p.attributes.push(kv("network.io.direction", "transmit"));
    let sum = Sum { data_points: vec![p], aggregation_temporality: 2, is_monotonic: true };
    desk(&intake)
        .take(None, Export::Metrics(request(vec![metric("system.network.dropped", Data::Sum(sum))])));
    let rows = drain(&mut rows);
    let m = metrics(&rows)[0];
    let f = Arc::clone(intake.names().fabric());
    assert_eq!(
        (&*m.name, m.component.map(|c| f.component_name(c)).as_deref()),
        ("out_discards", Some("p0-leaf0:p0-spine1"))
    );
}

fn logs(bodies: &[(i32, &str)]) -> ExportLogsServiceRequest {
    let record = |(n, body): &(i32, &str)| LogRecord {
        time_unix_nano: now().0,
        severity_number: *n,
        body: Some(AnyValue { value: Some(Value::StringValue((*body).to_owned())) }),
        ..LogRecord::default()
    };
    let scope_logs =
        vec![ScopeLogs { log_records: bodies.iter().map(record).collect(), ..ScopeLogs::default() }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() }],
    }
}

#[test]
fn records_are_kept_by_severity_and_link_events_are_seen() {
    let (intake, mut rows) = intake(10);
    let got = desk(&intake).take(
        None,
        Export::Logs(logs(&[(17, "broken"), (5, "debug"), (9, "Interface spine1, changed state to down")])),
    );
    assert_eq!(got, Outcome::default());
    let rows = drain(&mut rows);
    assert!(
        matches!(&rows[0], Row::Log(l) if l.severity == 3 && l.text == "broken" && l.labels == [("app".to_owned(), "agent".to_owned())])
    );
    assert!(matches!(&rows[1], Row::Observation(o) if o.counter == Counter::CarrierLost));
    assert!(matches!(&rows[2], Row::LinkEvent(e) if !e.up && e.interface == "spine1"));
    assert_eq!(intake.counted(Receiver::Otlp).dropped(Dropped::Severity), 1);
}

#[test]
fn spans_without_ids_are_rejected_and_so_is_what_finds_no_room() {
    let (intake, mut rows) = intake(1);
    let start = now().0;
    let span = |trace: usize| Span {
        trace_id: vec![1; trace],
        span_id: vec![2; 8],
        name: "step".to_owned(),
        kind: 3,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 5,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![span(16), span(3), span(16)], ..ScopeSpans::default() }];
    let resource_spans =
        vec![ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() }];
    let got = desk(&intake).take(None, Export::Traces(ExportTraceServiceRequest { resource_spans }));
    assert_eq!(got.rejected, 2);
    let [Row::Span(s)] = &drain(&mut rows)[..] else { panic!() };
    assert_eq!((s.length, s.kind, s.status, s.trace, s.parent), (Nanos(5), "client", "unset", [1; 16], None));
    assert_eq!(
        (&*s.service, &s.labels[..]),
        ("agent", &[("host.name".to_owned(), "p0-leaf0".to_owned())][..])
    );
    let c = intake.counted(Receiver::Otlp);
    assert_eq!((c.dropped(Dropped::Malformed), c.dropped(Dropped::HubSlow)), (1, 1));
}

async fn running(config: Config) -> (Running, Arc<Intake>, mpsc::Receiver<Row>) {
    let (intake, rows) = intake(1_000);
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let config = Config { grpc: any, http: any, ..config };
    (start(config, Path::new("."), Arc::clone(&intake)).await.unwrap(), intake, rows)
}

fn gauge(value: f64) -> ExportMetricsServiceRequest {
    request(vec![metric("temperature", Data::Gauge(Gauge { data_points: vec![point(0, now().0, value)] }))])
}

/// Posts a body; status and answer.
async fn post(at: SocketAddr, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String) {
    let url = format!("http://{at}{path}");
    let headers: Vec<(String, String)> =
        headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    tokio::task::spawn_blocking(move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let mut request = ureq::Agent::from(config).post(&url);
        for (k, v) in &headers {
            request = request.header(k, v);
        }
        let mut answer = request.send(&body).unwrap();
        let text = answer.body_mut().read_to_vec().unwrap();
        (answer.status().as_u16(), String::from_utf8_lossy(&text).into_owned())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn by_grpc_packed_or_not() {
    let (running, _intake, mut rows) = running(Config::default()).await;
    let url = format!("http://{}", running.address("grpc").unwrap());
    let client = MetricsServiceClient::connect(url).await.unwrap();
    for mut client in [client.clone(), client.send_compressed(CompressionEncoding::Gzip)] {
        let answer = client.export(gauge(41.0)).await.unwrap().into_inner();
        assert_eq!(answer.partial_success, None);
        assert!(matches!(rows.recv().await, Some(Row::Metric(m)) if m.value == 41.0));
        let answer = client.export(gauge(f64::NAN)).await.unwrap().into_inner();
        assert_eq!(answer.partial_success.map(|p| p.rejected_data_points), Some(1));
    }
}

#[tokio::test]
async fn what_grpc_refuses_is_counted() {
    let (running, intake, _rows) = running(Config { body_bytes_max: 200, ..Config::default() }).await;
    let url = format!("http://{}", running.address("grpc").unwrap());
    let client = MetricsServiceClient::connect(url).await.unwrap();
    let many = request((0..100).map(|n| metric(&format!("m{n}"), Data::Gauge(Gauge::default()))).collect());
    for mut client in [client.clone(), client.send_compressed(CompressionEncoding::Gzip)] {
        client.export(many.clone()).await.unwrap_err();
    }
    assert_eq!(intake.counted(Receiver::Otlp).dropped(Dropped::TooLarge), 2);
}

#[tokio::test]
async fn by_http_packed_or_not() {
    let (running, intake, mut rows) = running(Config { body_bytes_max: 2_000, ..Config::default() }).await;
    let at = running.address("http").unwrap();
    let protobuf = ("content-type", "application/x-protobuf");
    let packed = |bytes: &[u8]| {
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    };
    let body = gauge(1.0).encode_to_vec();
    assert_eq!(post(at, "/v1/metrics", &[protobuf], body.clone()).await, (200, String::new()));
    let gzip = ("content-encoding", "gzip");
    assert_eq!(post(at, "/v1/metrics", &[protobuf, gzip], packed(&body)).await.0, 200);
    for _ in 0..2 {
        let Some(Row::Metric(m)) = rows.recv().await else { panic!() };
        assert_eq!((&*m.name, m.value, &*m.entity, &*m.device), ("temperature", 1.0, "spine1", "p0-leaf0"));
    }
    let rejected = gauge(f64::INFINITY).encode_to_vec();
    let (status, answer) = post(at, "/v1/metrics", &[protobuf], rejected).await;
    let answer = ExportMetricsServiceResponse::decode(answer.as_bytes()).unwrap();
    assert_eq!((status, answer.partial_success.map(|p| p.rejected_data_points)), (200, Some(1)));
    // What cannot be taken, and that it is counted.
    assert_eq!(post(at, "/v1/metrics", &[protobuf], vec![0xff; 9]).await.0, 400);
    assert_eq!(post(at, "/v1/metrics", &[("content-type", "application/json")], b"{}".to_vec()).await.0, 415);
    assert_eq!(post(at, "/v1/metrics", &[protobuf], vec![0; 2_001]).await.0, 413);
    // A small body that is large unpacked.
    assert_eq!(post(at, "/v1/metrics", &[protobuf, gzip], packed(&vec![0; 1 << 20])).await.0, 413);
    assert_eq!(post(at, "/v1/metrics", &[protobuf, gzip], vec![1, 2, 3]).await.0, 400);
    assert_eq!(post(at, "/v1/nothing", &[protobuf], Vec::new()).await.0 / 100, 4);
    let c = intake.counted(Receiver::Otlp);
    assert_eq!(
        (c.dropped(Dropped::Malformed), c.dropped(Dropped::TooLarge), c.dropped(Dropped::Unsupported)),
        (2, 2, 1)
    );
}

#[tokio::test]
async fn more_requests_than_places_come_again_later() {
    let (running, intake, _rows) = running(Config { at_a_time: 1, ..Config::default() }).await;
    let at = running.address("http").unwrap();
    let protobuf = ("content-type", "application/x-protobuf");
    // One that says it has a body, and does not send it, holds the only place.
    let mut slow = tokio::net::TcpStream::connect(at).await.unwrap();
    let head = "POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 9\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    while post(at, "/v1/metrics", &[protobuf], Vec::new()).await.0 != 503 {}
    let client = MetricsServiceClient::connect(format!("http://{}", running.address("grpc").unwrap()));
    let busy = client.await.unwrap().export(gauge(1.0)).await.unwrap_err();
    assert_eq!(busy.code(), tonic::Code::Unavailable);
    assert_eq!(intake.counted(Receiver::Otlp).dropped(Dropped::TooMany), 2);
    drop(slow);
    while post(at, "/v1/metrics", &[protobuf], Vec::new()).await.0 != 200 {}
}

#[tokio::test]
async fn connections_end_with_the_receiver() {
    let (running, _intake, _rows) = running(Config::default()).await;
    let mut open = tokio::net::TcpStream::connect(running.address("http").unwrap()).await.unwrap();
    open.write_all(b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    open.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 415");
    drop(running);
    let mut rest = Vec::new();
    // It ends, and the test with it.
    open.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_door_that_others_reach_is_encrypted_or_said_not_to_be() {
    let (intake, _rows) = intake(1);
    let open = Config { http: Some(SocketAddr::from(([0, 0, 0, 0], 0))), ..Config::default() };
    let said = start(open.clone(), Path::new("."), Arc::clone(&intake)).await.unwrap_err().to_string();
    assert!(said.contains("`insecure = true`"), "{said}");
    assert!(
        start(Config { insecure: true, ..open.clone() }, Path::new("."), Arc::clone(&intake)).await.is_ok()
    );
    let half = Config { cert_file: Some("x".into()), ..open };
    assert!(start(half, Path::new("."), intake).await.is_err());
}

#[tokio::test]
async fn only_who_has_a_certificate_of_the_named_authority_may_send() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (hubs, senders, others) = (authority("hubs"), authority("senders"), authority("others"));
    let dir = std::env::temp_dir().join(format!("selvedge-otlp-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (cert, key) = signed("hub.example", &hubs);
    for (file, text) in [("hub.pem", &cert), ("hub.key", &key), ("senders.pem", &senders.pem())] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let (intake, mut rows) = intake(100);
    let config = setting::parse::<Config>(
        "grpc='127.0.0.1:0'\ncert_file='hub.pem'\nkey_file='hub.key'\nclient_ca_file='senders.pem'",
    );
    let running = start(config.unwrap(), &dir, intake).await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let url = format!("https://{}", running.address("grpc").unwrap());
    for (by, may) in [(Some(&senders), true), (Some(&others), false), (None, false)] {
        let mut tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(hubs.pem()))
            .domain_name("hub.example");
        if let Some(by) = by {
            let (cert, key) = signed("sender.example", by);
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        let endpoint = tonic::transport::Endpoint::from_shared(url.clone()).unwrap().tls_config(tls).unwrap();
        let sent = match endpoint.connect().await {
            Ok(channel) => MetricsServiceClient::new(channel).export(gauge(3.0)).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(sent, may);
        assert_eq!(matches!(rows.try_recv(), Ok(Row::Metric(_))), may);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (intake, _rows) = intake(100);
        let desk = desk(&intake);
        for signal in [Signal::Metrics, Signal::Logs, Signal::Traces] {
            if let Ok(export) = Export::decode(signal, &bytes) {
                desk.take(None, export);
            }
        }
    }

    #[test]
    fn any_histogram_is_an_outcome(count: u64, sum: Option<f64>, buckets in proptest::collection::vec(any::<u64>(), 0..100),
                                   bounds in proptest::collection::vec(any::<f64>(), 0..100), start: u64, at: u64, flags: u32) {
        let (intake, _rows) = intake(100);
        let p = HistogramDataPoint {
            count, sum, bucket_counts: buckets, explicit_bounds: bounds, start_time_unix_nano: start, time_unix_nano: at, flags,
            ..HistogramDataPoint::default()
        };
        let h = Histogram { data_points: vec![p], aggregation_temporality: 1 };
        desk(&intake).take(None, Export::Metrics(request(vec![metric("latency", Data::Histogram(h))])));
    }
}
