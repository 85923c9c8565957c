//! Points, records and spans to rows.
//!
//! How: a resource's attributes name the device (`host.name`, else the sender's address); a point's attributes name the port,
//! where it is of one. Metrics that OpenTelemetry's conventions have for ports, and those that bear a word of this room,
//! become that word; the rest are kept as told. A histogram becomes its count, its sum and, up to [`BUCKETS_MAX`], its
//! buckets; an exponential one its count and sum.
//! Invariants: any decoded request is an outcome; what is not kept is counted, and what could have been is in the answer.

use super::Config;
use crate::intake::{BATCH_MAX, Intake, believable};
use crate::rows::{Dropped, EntityKind, LinkEvent, LogRow, Metric, Receiver, SpanRow, bounded, limit};
use crate::setting;
use crate::syslog::link;
use crate::vocabulary;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, NumberDataPoint, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use std::net::SocketAddr;
use wire::Nanos;

/// Buckets of one histogram that are kept.
pub const BUCKETS_MAX: usize = 64;
/// Depth of a value that is written as text.
const DEPTH_MAX: usize = 4;

/// What a request came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Points, records or spans that were not kept though they are what this takes.
    pub rejected: i64,
    /// Why.
    pub message: &'static str,
}

impl Outcome {
    fn of(rejected: usize) -> Outcome {
        let message =
            if rejected > 0 { "not kept: no number, malformed, or more than is taken at a time" } else { "" };
        Outcome { rejected: i64::try_from(rejected).unwrap_or(i64::MAX), message }
    }
}

/// Takes the requests of one sender.
pub(super) struct Senders<'a> {
    intake: &'a Intake,
    peer: String,
    now: Nanos,
    clock_error_max: Nanos,
    severity_max: u8,
}

/// What a resource is.
struct Origin<'a> {
    device: &'a str,
    service: &'a str,
}

/// An attribute as text, bounded.
fn text(value: Option<&AnyValue>, depth: usize) -> String {
    let said = match value.and_then(|v| v.value.as_ref()) {
        None => String::new(),
        Some(Value::StringValue(s)) => return bounded(s, limit::TEXT),
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::DoubleValue(n)) => n.to_string(),
        Some(Value::BytesValue(b)) => format!("{} bytes", b.len()),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) if depth == 0 => "...".to_owned(),
        Some(Value::ArrayValue(a)) => {
            let all: Vec<String> = a.values.iter().take(16).map(|v| text(Some(v), depth - 1)).collect();
            format!("[{}]", all.join(", "))
        }
        Some(Value::KvlistValue(l)) => {
            let one = |kv: &KeyValue| {
                format!("{}: {}", bounded(&kv.key, limit::NAME), text(kv.value.as_ref(), depth - 1))
            };
            let all: Vec<String> = l.values.iter().take(16).map(one).collect();
            format!("{{{}}}", all.join(", "))
        }
        // A number in the dictionary of a profile; elsewhere it says nothing.
        Some(Value::StringValueStrindex(_)) => String::new(),
    };
    bounded(&said, limit::TEXT)
}

/// A text attribute.
fn find<'a>(attributes: &'a [KeyValue], keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| {
        let kv = attributes.iter().find(|kv| kv.key == *key)?;
        match kv.value.as_ref()?.value.as_ref()? {
            Value::StringValue(s) if !s.is_empty() => Some(&**s),
            _ => None,
        }
    })
}

fn labels(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let one = |kv: &KeyValue| {
        (bounded(&kv.key, limit::NAME), bounded(&text(kv.value.as_ref(), DEPTH_MAX), limit::VALUE))
    };
    attributes.iter().take(limit::LABELS).map(one).collect()
}

/// The word of a metric of OpenTelemetry's conventions for a direction.
fn word(name: &str, direction: Option<&str>) -> Option<&'static str> {
    if let Some(word) = vocabulary::WORDS.iter().find(|w| w.name == name) {
        return Some(word.name);
    }
    let (incoming, outgoing) = match name {
        "system.network.io" => ("in_octets", "out_octets"),
        "system.network.packets" | "system.network.packet.count" => ("in_packets", "out_packets"),
        "system.network.errors" => ("in_errors", "out_errors"),
        "system.network.dropped" | "system.network.packet.dropped" => ("in_discards", "out_discards"),
        _ => return None,
    };
    match direction? {
        "receive" => Some(incoming),
        "transmit" => Some(outgoing),
        _ => None,
    }
}

/// A metric as far as its points share it.
struct Told<'a> {
    from: &'a Origin<'a>,
    name: &'a str,
    /// Its parts are differences.
    delta: bool,
    /// Its parts are running totals.
    total: bool,
}

/// Numbers on their way to the intake, so many at a time: a small request may hold many.
struct Gathered<'a> {
    intake: &'a Intake,
    metrics: Vec<Metric>,
    /// How many it did not keep.
    refused: usize,
}

impl Gathered<'_> {
    fn push(&mut self, metric: Metric) {
        self.metrics.push(metric);
        if self.metrics.len() >= BATCH_MAX {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let offered = self.metrics.len();
        self.refused += offered - self.intake.metrics(std::mem::take(&mut self.metrics));
    }
}

impl<'a> Senders<'a> {
    pub(super) fn new(
        config: &Config,
        intake: &'a Intake,
        peer: Option<SocketAddr>,
        now: Nanos,
    ) -> Senders<'a> {
        let clock_error_max = setting::nanos(config.clock_error_max);
        let peer = peer.map_or(String::new(), |p| p.ip().to_canonical().to_string());
        Senders { intake, peer, now, clock_error_max, severity_max: config.severity_max }
    }

    fn origin<'b>(&'b self, resource: Option<&'b Resource>) -> Origin<'b> {
        let attributes = resource.map_or(&[][..], |r| &r.attributes);
        Origin {
            device: find(attributes, &["host.name", "k8s.node.name", "host.id"]).unwrap_or(&self.peer),
            service: find(attributes, &["service.name"]).unwrap_or(""),
        }
    }

    fn at(&self, told: u64) -> Nanos {
        believable((told > 0).then_some(Nanos(told)), self.now, self.clock_error_max)
    }

    fn drop(&self, why: Dropped, n: usize) {
        if n > 0 {
            self.intake.dropped(Receiver::Otlp, why, n as u64);
        }
    }

    /// One number of a point.
    fn number(
        &self,
        told: &Told<'_>,
        times: (u64, u64),
        attributes: &[KeyValue],
        part: &str,
        value: f64,
    ) -> Metric {
        let at = self.at(times.1);
        let length = Nanos(times.1.saturating_sub(times.0));
        let port = find(attributes, &["network.interface.name", "interface", "device"]);
        let direction = find(attributes, &["network.io.direction", "direction"]);
        let known = port.and(word(told.name, direction)).filter(|_| part.is_empty());
        let (entity_kind, entity) = match port {
            Some(port) => (EntityKind::Interface, port),
            None if told.name.starts_with("system.") || told.name.starts_with("host.") => {
                (EntityKind::Host, "")
            }
            None if !told.from.service.is_empty() => (EntityKind::Process, told.from.service),
            None => (EntityKind::Other, ""),
        };
        let name = known.map_or_else(|| format!("{}{part}", bounded(told.name, limit::NAME)), str::to_owned);
        Metric {
            at,
            window: told.delta.then_some(length),
            source: Receiver::Otlp,
            device: bounded(told.from.device, limit::NAME),
            entity_kind,
            entity: bounded(entity, limit::NAME),
            name,
            value,
            cumulative: told.total && !told.delta,
            labels: labels(attributes),
            component: None,
        }
    }

    fn points(&self, told: &Told<'_>, points: &[NumberDataPoint], out: &mut Gathered<'_>) -> usize {
        let mut bad = 0;
        for p in points {
            let value = match p.value {
                Some(number_data_point::Value::AsDouble(n)) => n,
                Some(number_data_point::Value::AsInt(n)) => n as f64,
                None => f64::NAN,
            };
            if !value.is_finite() || is_nothing(p.flags) {
                bad += 1;
                continue;
            }
            self.lldp(told.from, &p.attributes, p.time_unix_nano);
            out.push(self.number(told, (p.start_time_unix_nano, p.time_unix_nano), &p.attributes, "", value));
        }
        bad
    }

    /// A neighbour told in a point's attributes.
    fn lldp(&self, from: &Origin<'_>, attributes: &[KeyValue], at: u64) {
        let port = find(attributes, &["network.interface.name", "interface", "device"]);
        let system = find(attributes, &["lldp.neighbor.system_name", "lldp.remote.system_name"]);
        if let (Some(port), Some(system)) = (port, system) {
            let its_port = find(attributes, &["lldp.neighbor.port_id", "lldp.remote.port_id"]).unwrap_or("");
            self.intake.neighbour(self.at(at), Receiver::Otlp, (from.device, port), (system, its_port));
        }
    }

    pub(super) fn metrics(&self, request: ExportMetricsServiceRequest) -> Outcome {
        let mut rejected = 0;
        for resource in &request.resource_metrics {
            let from = self.origin(resource.resource.as_ref());
            let mut batch = Gathered { intake: self.intake, metrics: Vec::new(), refused: 0 };
            let metrics = resource.scope_metrics.iter().flat_map(|s| &s.metrics);
            for metric in metrics {
                let mut told = Told { from: &from, name: &metric.name, delta: false, total: false };
                let delta = |t: i32| t == AggregationTemporality::Delta as i32;
                let bad = match &metric.data {
                    Some(Data::Gauge(g)) => self.points(&told, &g.data_points, &mut batch),
                    Some(Data::Sum(s)) => {
                        told.delta = delta(s.aggregation_temporality);
                        told.total = s.is_monotonic;
                        self.points(&told, &s.data_points, &mut batch)
                    }
                    Some(Data::Histogram(h)) => {
                        (told.delta, told.total) = (delta(h.aggregation_temporality), true);
                        let mut bad = 0;
                        for p in &h.data_points {
                            let times = (p.start_time_unix_nano, p.time_unix_nano);
                            if is_nothing(p.flags) {
                                bad += 1;
                                continue;
                            }
                            let put = |part: &str, value: f64| {
                                self.number(&told, times, &p.attributes, part, value)
                            };
                            batch.push(put(".count", p.count as f64));
                            p.sum
                                .filter(|s| s.is_finite())
                                .into_iter()
                                .for_each(|s| batch.push(put(".sum", s)));
                            let counts = p.bucket_counts.iter().take(BUCKETS_MAX);
                            for (n, count) in counts.enumerate() {
                                let mut m = put(".bucket", *count as f64);
                                let le = p.explicit_bounds.get(n).map_or("+Inf".to_owned(), f64::to_string);
                                m.labels.truncate(limit::LABELS - 1);
                                m.labels.push(("le".to_owned(), le));
                                batch.push(m);
                            }
                            self.drop(Dropped::TooMany, p.bucket_counts.len().saturating_sub(BUCKETS_MAX));
                        }
                        bad
                    }
                    Some(Data::ExponentialHistogram(h)) => {
                        (told.delta, told.total) = (delta(h.aggregation_temporality), true);
                        let mut bad = 0;
                        for p in &h.data_points {
                            let times = (p.start_time_unix_nano, p.time_unix_nano);
                            if is_nothing(p.flags) {
                                bad += 1;
                                continue;
                            }
                            let put = |part: &str, value: f64| {
                                self.number(&told, times, &p.attributes, part, value)
                            };
                            batch.push(put(".count", p.count as f64));
                            p.sum
                                .filter(|s| s.is_finite())
                                .into_iter()
                                .for_each(|s| batch.push(put(".sum", s)));
                        }
                        bad
                    }
                    Some(Data::Summary(s)) => {
                        self.drop(Dropped::Unsupported, s.data_points.len());
                        rejected += s.data_points.len();
                        0
                    }
                    None => 0,
                };
                self.drop(Dropped::NoNumber, bad);
                rejected += bad;
            }
            batch.hand_over();
            rejected += batch.refused;
        }
        Outcome::of(rejected)
    }

    pub(super) fn logs(&self, request: ExportLogsServiceRequest) -> Outcome {
        let mut rejected = 0;
        for resource in &request.resource_logs {
            let from = self.origin(resource.resource.as_ref());
            for record in resource.scope_logs.iter().flat_map(|s| &s.log_records) {
                let happened = record.time_unix_nano;
                let at = self.at(if happened > 0 { happened } else { record.observed_time_unix_nano });
                let body = text(record.body.as_ref(), DEPTH_MAX);
                let device = find(&record.attributes, &["host.name"]).unwrap_or(from.device);
                // Collectors pass switches' syslog on this way.
                if let Some(found) = link::recognise(&body) {
                    let event = LinkEvent {
                        at,
                        source: Receiver::Otlp,
                        device: device.to_owned(),
                        interface: found.interface.to_owned(),
                        up: found.up,
                        text: body.clone(),
                        component: None,
                    };
                    rejected += usize::from(!self.intake.link_event(event));
                    continue;
                }
                let severity = severity(record.severity_number);
                if severity > self.severity_max {
                    self.drop(Dropped::Severity, 1);
                    continue;
                }
                let row = LogRow {
                    at,
                    source: Receiver::Otlp,
                    device: device.to_owned(),
                    severity,
                    text: body,
                    trace: <[u8; 16]>::try_from(&*record.trace_id).ok().filter(|id| *id != [0; 16]),
                    span: <[u8; 8]>::try_from(&*record.span_id).ok().filter(|id| *id != [0; 8]),
                    labels: named("app", from.service).chain(labels(&record.attributes)).collect(),
                };
                rejected += usize::from(!self.intake.log(row));
            }
        }
        Outcome::of(rejected)
    }

    pub(super) fn traces(&self, request: ExportTraceServiceRequest) -> Outcome {
        let mut rejected = 0;
        for resource in &request.resource_spans {
            let from = self.origin(resource.resource.as_ref());
            for span in resource.scope_spans.iter().flat_map(|s| &s.spans) {
                let (Ok(trace), Ok(id)) =
                    (<[u8; 16]>::try_from(&*span.trace_id), <[u8; 8]>::try_from(&*span.span_id))
                else {
                    self.drop(Dropped::Malformed, 1);
                    rejected += 1;
                    continue;
                };
                let row = SpanRow {
                    at: self.at(span.start_time_unix_nano),
                    length: Nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)),
                    service: from.service.to_owned(),
                    name: bounded(&span.name, limit::NAME),
                    kind: kind(span.kind),
                    status: status(span.status.as_ref().map_or(0, |s| s.code)),
                    trace,
                    span: id,
                    parent: <[u8; 8]>::try_from(&*span.parent_span_id).ok().filter(|id| *id != [0; 8]),
                    labels: named("host.name", from.device).chain(labels(&span.attributes)).collect(),
                };
                rejected += usize::from(!self.intake.span(row));
            }
        }
        Outcome::of(rejected)
    }
}

/// A point that says there is nothing.
fn is_nothing(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

/// A label of a name, where there is anything to say.
fn named<'a>(key: &'a str, value: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
    let label = (!value.is_empty()).then(|| (key.to_owned(), bounded(value, limit::VALUE)));
    label.into_iter()
}

/// The kind of a span; one that does not say is internal, as the protocol has it.
fn kind(number: i32) -> &'static str {
    match SpanKind::try_from(number) {
        Ok(SpanKind::Server) => "server",
        Ok(SpanKind::Client) => "client",
        Ok(SpanKind::Producer) => "producer",
        Ok(SpanKind::Consumer) => "consumer",
        _ => "internal",
    }
}

fn status(number: i32) -> &'static str {
    match StatusCode::try_from(number) {
        Ok(StatusCode::Ok) => "ok",
        Ok(StatusCode::Error) => "error",
        _ => "unset",
    }
}

/// A severity of OpenTelemetry's 24 as one of RFC 5424's eight; one not told is information.
fn severity(number: i32) -> u8 {
    match number {
        1..=8 => 7,
        13..=16 => 4,
        17..=20 => 3,
        21..=24 => 2,
        _ => 6,
    }
}
