//! What gNMI, OTLP, scrapes and syslog told, as rows of tables, and what of it is for the diagnosis.
//!
//! Invariants: a row becomes exactly one row of one table, or one observation; none is lost here.
//! Absent on purpose: bounds of texts, which [`receive::rows`] keeps.

use crate::ledger::NOBODY;
use crate::rows::{self, Part, int, longs, micros, part, texts, times};
use fabric::Fabric;
use receive::rows::{Cabling, LinkEvent, LogRow, Metric, Neighbour, Row, SpanRow, severity_name};
use std::sync::Arc;
use tables::arrow::array::{ArrayRef, Float64Array, Int32Array, StringArray};
use tables::schema;
use wire::proto::{Batch, ComponentColumns};
use wire::{Component, ComponentObservation, HostId};

/// Rows that were told together.
#[derive(Default)]
pub(crate) struct Heard {
    metrics: Vec<Metric>,
    links: Vec<LinkEvent>,
    logs: Vec<LogRow>,
    spans: Vec<SpanRow>,
    observations: Vec<ComponentObservation>,
}

/// A neighbour that is not the fabric's, as a line of a log: rare, and for people.
fn of_neighbour(n: Neighbour) -> LogRow {
    let told = match n.neighbour_interface.as_str() {
        "" => n.neighbour.clone(),
        port => format!("{} port {port}", n.neighbour),
    };
    let (severity, text) = match &n.verdict {
        Cabling::Same => (6, format!("{} leads to {told}, as in the fabric", n.interface)),
        Cabling::Other(fabric) => (
            4,
            format!(
                "{} leads to {told}; in the fabric it is {fabric}: wrong cable, or wrong name",
                n.interface
            ),
        ),
        Cabling::Unknown => (5, format!("{} leads to {told}, which has no name in the fabric", n.interface)),
    };
    let labels = vec![("app".to_owned(), "cabling".to_owned())];
    LogRow { at: n.at, source: n.source, device: n.device, severity, text, trace: None, span: None, labels }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Labels as a JSON object; none where there are none.
fn json(labels: &[(String, String)]) -> Option<String> {
    let map: serde_json::Map<String, serde_json::Value> =
        labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    (!map.is_empty()).then(|| serde_json::Value::Object(map).to_string())
}

fn may_texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

impl Heard {
    /// Takes a row.
    pub(crate) fn push(&mut self, row: Row) {
        match row {
            Row::Metric(m) => self.metrics.push(m),
            Row::LinkEvent(e) => self.links.push(e),
            Row::Log(l) => self.logs.push(l),
            Row::Span(s) => self.spans.push(s),
            Row::Neighbour(n) => self.logs.push(of_neighbour(n)),
            Row::Observation(o) => self.observations.push(o),
        }
    }

    /// Rows of tables in it, without what the observations become.
    pub(crate) fn rows(&self) -> u64 {
        (self.metrics.len() + self.links.len() + self.logs.len() + self.spans.len()) as u64
    }

    /// For the diagnosis, as a batch of the host in whose name it is said; none where there is nothing.
    pub(crate) fn batch(&self, fabric: &Fabric) -> Option<(HostId, Batch)> {
        let host = self.observations.first()?.producer;
        let mut columns = ComponentColumns::default();
        self.observations.iter().for_each(|o| wire::batch::push_component(&mut columns, o));
        let batch = Batch {
            version: wire::batch::PROTOCOL_VERSION,
            fabric_epoch: fabric.epoch.0,
            components: Some(columns),
            ..Batch::default()
        };
        Some((host, batch))
    }

    /// Rows for the tables.
    pub(crate) fn parts(&self, fabric: &Fabric) -> Vec<Part> {
        let mut parts = Vec::new();
        let name = |c: Option<Component>| c.map(|c| fabric.component_name(c));
        if !self.metrics.is_empty() {
            parts.push(metrics(&self.metrics, name));
        }
        if !self.links.is_empty() {
            parts.push(links(&self.links, name));
        }
        if !self.logs.is_empty() {
            parts.push(logs(&self.logs));
        }
        if !self.spans.is_empty() {
            parts.push(spans(&self.spans));
        }
        if !self.observations.is_empty() {
            // No host counted them.
            let told: Vec<ComponentObservation> =
                self.observations.iter().map(|o| ComponentObservation { producer: NOBODY, ..*o }).collect();
            parts.push(rows::counters(fabric, &told));
        }
        parts
    }
}

fn metrics(rows: &[Metric], name: impl Fn(Option<Component>) -> Option<String>) -> Part {
    let r = || rows.iter();
    let form = |m: &Metric| match (m.window, m.cumulative) {
        (Some(_), _) => "delta",
        (None, true) => "counter",
        (None, false) => "gauge",
    };
    // The table's time is the beginning of a window.
    let begin = |m: &Metric| micros(m.window.map_or(m.at, |w| m.at.since(w)));
    part(
        &schema::METRIC,
        vec![
            times(r().map(begin)),
            Arc::new(r().map(|m| m.window.map(|w| int(w.0 / 1_000))).collect::<Int32Array>()),
            texts(r().map(|m| m.source.name())),
            Arc::new(Int32Array::new_null(rows.len())),
            texts(r().map(|m| m.device.as_str())),
            texts(r().map(|m| m.entity_kind.name())),
            texts(r().map(|m| m.entity.as_str())),
            texts(r().map(|m| m.name.as_str())),
            Arc::new(Float64Array::from_iter_values(r().map(|m| m.value))),
            texts(r().map(form)),
            may_texts(r().map(|m| name(m.component))),
            may_texts(r().map(|m| json(&m.labels))),
        ],
    )
}

fn links(rows: &[LinkEvent], name: impl Fn(Option<Component>) -> Option<String>) -> Part {
    let r = || rows.iter();
    part(
        &schema::LINK_EVENT,
        vec![
            times(r().map(|e| micros(e.at))),
            texts(r().map(|e| e.source.name())),
            texts(r().map(|e| e.device.as_str())),
            texts(r().map(|e| e.interface.as_str())),
            texts(r().map(|e| if e.up { "up" } else { "down" })),
            may_texts(r().map(|e| name(e.component))),
            texts(r().map(|e| e.text.as_str())),
        ],
    )
}

fn logs(rows: &[LogRow]) -> Part {
    let r = || rows.iter();
    part(
        &schema::LOG_LINE,
        vec![
            times(r().map(|l| micros(l.at))),
            texts(r().map(|l| l.source.name())),
            texts(r().map(|l| l.device.as_str())),
            texts(r().map(|l| severity_name(l.severity))),
            texts(r().map(|l| l.text.as_str())),
            may_texts(r().map(|l| l.trace.map(|t| hex(&t)))),
            may_texts(r().map(|l| l.span.map(|s| hex(&s)))),
            may_texts(r().map(|l| json(&l.labels))),
        ],
    )
}

fn spans(rows: &[SpanRow]) -> Part {
    let r = || rows.iter();
    let ids: Vec<(String, String)> = r().map(|s| (hex(&s.trace), hex(&s.span))).collect();
    part(
        &schema::SPAN,
        vec![
            times(r().map(|s| micros(s.at))),
            longs(r().map(|s| i64::try_from(s.length.0 / 1_000).unwrap_or(i64::MAX))),
            texts(r().map(|s| s.service.as_str())),
            texts(r().map(|s| s.name.as_str())),
            texts(r().map(|s| s.kind)),
            texts(ids.iter().map(|(trace, _)| trace.as_str())),
            texts(ids.iter().map(|(_, span)| span.as_str())),
            may_texts(r().map(|s| s.parent.map(|p| hex(&p)))),
            texts(r().map(|s| s.status)),
            may_texts(r().map(|s| json(&s.labels))),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use receive::rows::{EntityKind, Receiver};
    use tables::arrow::array::{Array as _, AsArray as _};
    use tables::arrow::datatypes::Int32Type;
    use wire::{Counter, Nanos, Window};

    const AT: Nanos = Nanos::from_secs(1_000);

    fn texts_of(part: &Part, column: &str) -> Vec<Option<String>> {
        let column = part.1.column_by_name(column).unwrap();
        column.as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect()
    }

    #[test]
    fn every_row_stands_in_its_table() {
        let fabric = crate::tests::a_fabric();
        let link = fabric.links().next().unwrap();
        let mut heard = Heard::default();
        heard.push(Row::Metric(Metric {
            at: AT,
            window: Some(Nanos::from_secs(1)),
            source: Receiver::Gnmi,
            device: "sw1".into(),
            entity_kind: EntityKind::Interface,
            entity: "Ethernet8".into(),
            name: "in_errors".into(),
            value: 7.0,
            cumulative: false,
            labels: vec![("a".into(), "b\"c".into())],
            component: Some(Component::Link(link)),
        }));
        heard.push(Row::LinkEvent(LinkEvent {
            at: AT,
            source: Receiver::Syslog,
            device: "sw1".into(),
            interface: "Ethernet8".into(),
            up: false,
            text: "down".into(),
            component: None,
        }));
        heard.push(Row::Neighbour(Neighbour {
            at: AT,
            source: Receiver::Gnmi,
            device: "sw1".into(),
            interface: "Ethernet8".into(),
            neighbour: "sw9".into(),
            neighbour_interface: String::new(),
            verdict: Cabling::Other("p0-leaf1".into()),
            component: None,
        }));
        heard.push(Row::Span(SpanRow {
            at: AT,
            length: Nanos::from_millis(3),
            service: "train".into(),
            name: "allreduce".into(),
            kind: "internal",
            status: "ok",
            trace: [1; 16],
            span: [2; 8],
            parent: None,
            labels: Vec::new(),
        }));
        assert_eq!(heard.rows(), 4);
        assert!(heard.batch(&fabric).is_none());
        let observation = ComponentObservation {
            window: Window { start: AT, length: Nanos::from_secs(1) },
            producer: HostId(0),
            epoch: fabric.epoch,
            component: Component::Link(link),
            counter: Counter::FrameError,
            delta: 7,
            of: 100,
            size_ns: 0,
        };
        heard.push(Row::Observation(observation));
        let parts = heard.parts(&fabric);
        let names: Vec<&str> = parts.iter().map(|(table, _)| table.name).collect();
        assert_eq!(names, ["metric", "link_event", "log_line", "span", "counter"]);
        assert!(parts.iter().all(|(_, rows)| rows.num_rows() == 1));
        assert_eq!(texts_of(&parts[0], "form"), [Some("delta".to_owned())]);
        assert_eq!(texts_of(&parts[0], "component"), [Some(fabric.component_name(Component::Link(link)))]);
        assert_eq!(texts_of(&parts[0], "labels"), [Some(r#"{"a":"b\"c"}"#.to_owned())]);
        assert_eq!(texts_of(&parts[1], "state"), [Some("down".to_owned())]);
        assert!(
            texts_of(&parts[2], "text")[0]
                .as_ref()
                .is_some_and(|t| t.contains("in the fabric it is p0-leaf1"))
        );
        assert_eq!(texts_of(&parts[3], "trace_id"), [Some("01".repeat(16))]);
        assert!(parts[3].1.column_by_name("parent_id").unwrap().is_null(0));
        let producer = parts[4].1.column_by_name("producer").unwrap().as_primitive::<Int32Type>().value(0);
        assert_eq!(producer, -1, "no host counted it");
        let (host, batch) = heard.batch(&fabric).unwrap();
        assert_eq!((host, wire::batch::rows(&batch)), (HostId(0), 1));
    }
}
