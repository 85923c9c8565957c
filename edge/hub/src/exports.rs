//! What the hub counts, sent elsewhere: Prometheus remote write, and OTLP to an ordinary collector.
//!
//! How: a file names the receivers. Each has a task that takes the counters as `/metrics` shows them and sends them at its
//! own pace; OTLP gets incidents as log records besides, each change of one once.
//! Invariants: the counters are the same everywhere, since they come from one text; a receiver that does not answer loses
//! what it did not take (its counters go on, so the next sample makes up for it; log records are kept, at most
//! [`RECORDS_MAX`], the oldest lost first and counted), and holds up no other.
//! Absent on purpose: a buffer of samples for a receiver that is away. The tables have everything.

use crate::alerts::post;
use crate::api::{self, Api};
use crate::config::Config;
use crate::guard::access::{AccessError, secret};
use crate::guard::changed;
use crate::incident::{Incident, kind_word};
use crate::metrics::Receiver as ReceiverLabel;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Log records that wait for a receiver.
const RECORDS_MAX: usize = 1_000;
const EVERY_MIN: Duration = Duration::from_secs(1);

/// A receiver of counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Its name, in the counters.
    pub name: String,
    /// Where it is: for remote write the whole address, for OTLP what `/v1/metrics` and `/v1/logs` are appended to.
    pub url: String,
    /// How often, default 15 s.
    #[serde(default = "every")]
    pub every: String,
    /// File with a bearer token for it, beside the exports file.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

fn every() -> String {
    "15s".to_owned()
}

/// The exports file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exports {
    /// Prometheus remote write 1.0.
    #[serde(default)]
    pub remote_write: Vec<Export>,
    /// OpenTelemetry protocol over HTTP, JSON.
    #[serde(default)]
    pub otlp: Vec<Export>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    RemoteWrite,
    Otlp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Receiver {
    name: String,
    url: String,
    every: Duration,
    token: Option<String>,
    way: Way,
}

fn receivers(path: &Path) -> Result<Vec<Receiver>, AccessError> {
    let wrong = |reason: String| AccessError { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let file: Exports = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let ways = file.remote_write.iter().map(|e| (e, Way::RemoteWrite));
    let mut out: Vec<Receiver> = Vec::new();
    for (e, way) in ways.chain(file.otlp.iter().map(|e| (e, Way::Otlp))) {
        if !e.url.starts_with("https://") && !e.url.starts_with("http://") {
            return Err(wrong(format!(
                "{}: url is {:?}, expected one that begins with https://",
                e.name, e.url
            )));
        }
        if e.name.is_empty() || out.iter().any(|r| r.name == e.name) {
            return Err(wrong(format!("{:?}: expected a name of its own", e.name)));
        }
        let every = humantime::parse_duration(&e.every).ok().filter(|&d| d >= EVERY_MIN);
        out.push(Receiver {
            name: e.name.clone(),
            url: e.url.trim_end_matches('/').to_owned(),
            every: every
                .ok_or_else(|| wrong(format!("{}: every is {:?}, expected 1s or more", e.name, e.every)))?,
            token: e.token_file.as_ref().map(|f| secret(path, f)).transpose().map_err(wrong)?,
            way,
        });
    }
    Ok(out)
}

/// Checks the file before a hub begins.
pub(crate) fn check(path: &Path) -> Result<(), AccessError> {
    receivers(path).map(|_| ())
}

/// One number of `/metrics`.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
    counter: bool,
}

/// The labels of a line: `a="b",c="d"`.
fn labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut end) = (String::new(), None);
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                '"' => {
                    end = Some(at + 1);
                    break;
                }
                c => value.push(c),
            }
        }
        out.push((name.trim_start_matches(',').to_owned(), value));
        text = rest.get(end?..)?;
    }
    Some(out)
}

/// Reads the text the hub shows Prometheus (OpenMetrics 1.0). Our own, so what is not understood is left out.
fn samples(text: &str) -> Vec<Sample> {
    let mut out = Vec::new();
    let mut counter = false;
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            counter = kind.ends_with(" counter");
        }
        if line.starts_with('#') {
            continue;
        }
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse() else { continue };
        let (name, inside) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or(rest)),
            None => (series, ""),
        };
        if let Some(labels) = labels(inside) {
            out.push(Sample { name: name.to_owned(), labels, value, counter });
        }
    }
    out
}

// Prometheus remote write 1.0, prometheus/prompb/types.proto: the parts that are sent.
#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<TimeSeries>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Point>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Point {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp_ms: i64,
}

/// The counters as remote write wants them: protobuf, its labels sorted, in Snappy's block format.
fn remote_write(samples: &[Sample], fabric: &str, now_ns: u64) -> Result<Vec<u8>, String> {
    let timestamp_ms = i64::try_from(now_ns / 1_000_000).unwrap_or(i64::MAX);
    let series = samples.iter().map(|s| {
        let mut labels: Vec<Label> =
            s.labels.iter().map(|(n, v)| Label { name: n.clone(), value: v.clone() }).collect();
        labels.push(Label { name: "__name__".to_owned(), value: s.name.clone() });
        labels.push(Label { name: "fabric".to_owned(), value: fabric.to_owned() });
        labels.push(Label { name: "job".to_owned(), value: "selvedge".to_owned() });
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        TimeSeries { labels, samples: vec![Point { value: s.value, timestamp_ms }] }
    });
    let bytes = WriteRequest { series: series.collect() }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).map_err(|e| e.to_string())
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn resource(fabric: &str) -> Value {
    json!({ "attributes": [
        attribute("service.name", "selvedge-hub"), attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("selvedge.fabric", fabric),
    ] })
}

fn scope() -> Value {
    json!({ "name": "selvedge", "version": env!("CARGO_PKG_VERSION") })
}

/// The counters as OTLP: counters as cumulative sums, the rest as gauges.
fn otlp_metrics(samples: &[Sample], fabric: &str, begun_ns: u64, now_ns: u64) -> Value {
    let metrics: Vec<Value> = samples
        .iter()
        .map(|s| {
            let attributes: Vec<Value> = s.labels.iter().map(|(n, v)| attribute(n, v)).collect();
            let point = json!({ "asDouble": s.value, "timeUnixNano": now_ns.to_string(),
                "startTimeUnixNano": begun_ns.to_string(), "attributes": attributes });
            match s.counter {
                // 2: cumulative.
                true => json!({ "name": s.name, "sum": { "dataPoints": [point], "aggregationTemporality": 2,
                    "isMonotonic": true } }),
                false => json!({ "name": s.name, "gauge": { "dataPoints": [point] } }),
            }
        })
        .collect();
    json!({ "resourceMetrics": [{ "resource": resource(fabric),
        "scopeMetrics": [{ "scope": scope(), "metrics": metrics }] }] })
}

/// A change of an incident as an OTLP log record.
fn record(i: &Incident, now_ns: u64) -> Value {
    let open = i.is_open();
    // 17: ERROR, 9: INFO.
    let (number, text) = if open { (17, "ERROR") } else { (9, "INFO") };
    let word = if open { "open" } else { "closed" };
    json!({
        "timeUnixNano": now_ns.to_string(), "observedTimeUnixNano": now_ns.to_string(), "severityNumber": number,
        "severityText": text, "body": { "stringValue": format!("{} {word}: {}", i.id(), i.sentence()) },
        "attributes": [
            attribute("selvedge.incident", &i.id()), attribute("selvedge.state", word),
            attribute("selvedge.component", &i.component.name),
            attribute("selvedge.component_kind", kind_word(i.component.kind)),
            attribute("selvedge.fault", &i.kind),
            json!({ "key": "selvedge.confidence", "value": { "doubleValue": i.confidence } }),
        ],
    })
}

fn otlp_logs(records: &[Value], fabric: &str) -> Value {
    json!({ "resourceLogs": [{ "resource": resource(fabric),
        "scopeLogs": [{ "scope": scope(), "logRecords": records }] }] })
}

impl Receiver {
    async fn send(&self, path: &str, kind: Kind, body: Vec<u8>) -> Result<(), String> {
        let url = format!("{}{path}", self.url);
        let mut headers: Vec<(&'static str, String)> =
            self.token.iter().map(|t| ("authorization", format!("Bearer {t}"))).collect();
        headers.extend(kind.headers().iter().map(|(n, v)| (*n, (*v).to_owned())));
        let sent = tokio::task::spawn_blocking(move || post(&url, &headers, &body));
        sent.await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Snappy,
    Json,
}

impl Kind {
    fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Kind::Snappy => &[
                ("content-type", "application/x-protobuf"),
                ("content-encoding", "snappy"),
                ("x-prometheus-remote-write-version", "0.1.0"),
            ],
            Kind::Json => &[("content-type", "application/json")],
        }
    }
}

async fn run(api: Api, receiver: Receiver) {
    let begun_ns = crate::wall().0;
    let mut changed = api.keeper.changes();
    let mut records: VecDeque<Value> = VecDeque::new();
    let mut every = tokio::time::interval(receiver.every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let label = ReceiverLabel { receiver: receiver.name.clone() };
    let (sent, failed) = (&api.metrics.exports_sent, &api.metrics.exports_failed);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = every.tick() => {}
            number = changed.recv(), if receiver.way == Way::Otlp => {
                let Ok(number) = number else { continue };
                let published = api.keeper.published();
                if let Some(i) = published.get(&number) {
                    records.push_back(record(i, crate::wall().0));
                    if records.len() > RECORDS_MAX {
                        records.pop_front();
                        api.metrics.export_records_lost.get_or_create(&label).inc();
                    }
                }
                continue;
            }
        }
        let now_ns = crate::wall().0;
        let fabric = api.fabric.name.clone();
        // The desk may be too busy for a moment; the next time will do.
        let Ok(text) = api::metrics_text(&api).await else { continue };
        let samples = samples(&text);
        let outcome = match receiver.way {
            Way::RemoteWrite => match remote_write(&samples, &fabric, now_ns) {
                Ok(body) => receiver.send("", Kind::Snappy, body).await,
                Err(e) => Err(e),
            },
            Way::Otlp => {
                let metrics = otlp_metrics(&samples, &fabric, begun_ns, now_ns).to_string().into_bytes();
                let mut outcome = receiver.send("/v1/metrics", Kind::Json, metrics).await;
                if outcome.is_ok() && !records.is_empty() {
                    let all: Vec<Value> = records.iter().cloned().collect();
                    let logs = otlp_logs(&all, &fabric).to_string().into_bytes();
                    outcome = receiver.send("/v1/logs", Kind::Json, logs).await;
                    if outcome.is_ok() {
                        records.clear();
                    }
                }
                outcome
            }
        };
        match outcome {
            Ok(()) => {
                sent.get_or_create(&label).inc();
                failing = false;
            }
            Err(e) => {
                failed.get_or_create(&label).inc();
                if !failing {
                    tracing::error!(
                        receiver = receiver.name,
                        error = e,
                        "counters are not taken; trying again"
                    );
                }
                failing = true;
            }
        }
    }
}

/// Sends to the receivers of a file, as it is now.
pub(crate) async fn keep(api: Api, config: Arc<Config>) {
    let Some(path) = config.exports.clone() else { return };
    let mut running = tokio::task::JoinSet::new();
    let mut current: Vec<Receiver> = Vec::new();
    let mut seen = None;
    loop {
        changed(&path, &mut seen).await;
        match receivers(&path) {
            Err(e) => {
                tracing::error!(error = %e, "the exports file is wrong; what was sent before is sent on")
            }
            Ok(new) if new == current => {}
            Ok(new) => {
                tracing::info!(receivers = new.len(), "the exports file is read");
                running.shutdown().await;
                for receiver in &new {
                    running.spawn(run(api.clone(), receiver.clone()));
                }
                current = new;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{a_fabric, a_verdict};
    use wire::Nanos;

    const TEXT: &str = "# HELP x_streams Streams.\n# TYPE x_streams counter\nx_streams_total 7\n# TYPE x_open gauge\n\
                        x_open 2\n# TYPE x_refused counter\nx_refused_total{reason=\"a \\\"b\\\" \\\\c\",by=\"d\"} 3\n# EOF\n";

    #[test]
    fn the_text_is_read_as_it_is_written() {
        let all = samples(TEXT);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].name.as_str(), all[0].value, all[0].counter), ("x_streams_total", 7.0, true));
        assert!(!all[1].counter);
        let labels = [("reason".to_owned(), "a \"b\" \\c".to_owned()), ("by".to_owned(), "d".to_owned())];
        assert_eq!(all[2].labels, labels);
        // Everything the hub itself shows is understood.
        let own = crate::metrics::Metrics::new().text();
        let lines = own.lines().filter(|l| !l.starts_with('#')).count();
        assert!(lines > 5);
        assert_eq!(samples(&own).len(), lines, "{own}");
    }

    #[test]
    fn remote_write_is_what_prometheus_takes() {
        let bytes = remote_write(&samples(TEXT), "demo", 1_700_000_000_123_456_789).unwrap();
        let plain = snap::raw::Decoder::new().decompress_vec(&bytes).unwrap();
        let request = WriteRequest::decode(plain.as_slice()).unwrap();
        let series = &request.series[2];
        let names: Vec<&str> = series.labels.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(
            names,
            ["__name__", "by", "fabric", "job", "reason"],
            "sorted, as the specification wants"
        );
        assert_eq!(series.samples[0], Point { value: 3.0, timestamp_ms: 1_700_000_000_123 });
    }

    #[test]
    fn otlp_tells_counters_from_gauges_and_incidents_as_records() {
        let metrics = otlp_metrics(&samples(TEXT), "demo", 1, 2);
        let all = &metrics["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        assert_eq!(
            (&all[0]["sum"]["isMonotonic"], &all[0]["sum"]["aggregationTemporality"]),
            (&json!(true), &json!(2))
        );
        assert_eq!(all[1]["gauge"]["dataPoints"][0]["asDouble"], json!(2.0));
        let i = Incident::new(3, Nanos::from_secs(5), &a_verdict(1), &a_fabric());
        let logs = otlp_logs(&[record(&i, 9)], "demo");
        let record = &logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["severityText"], "ERROR");
        assert!(record["body"]["stringValue"].as_str().unwrap().starts_with("inc-3 open: loss"), "{record}");
    }
}
