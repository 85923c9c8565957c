//! Every counter of the hub, in the form Prometheus reads.
//!
//! Invariants: `observations_sent = observations_stored + Σ observations_lost`, exactly, at every moment the desk is
//! not in the middle of a batch.

use diagnose::Counters;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::Ordering;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Why {
    pub reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct What {
    pub what: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct InTable {
    pub table: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Name {
    pub name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Judged {
    pub component: String,
    pub judgement: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Receiver {
    pub receiver: String,
}

/// All of them.
pub(crate) struct Metrics {
    registry: Registry,
    pub streams: Counter,
    pub streams_refused: Family<Why, Counter>,
    pub batches: Counter,
    pub batches_duplicate: Counter,
    pub batches_missing: Counter,
    pub batches_refused: Family<Why, Counter>,
    pub batches_not_stored: Counter,
    pub observations_sent: Counter,
    pub observations_stored: Counter,
    pub observations_lost: Family<Why, Counter>,
    pub questions_refused: Counter,
    pub record_bytes: Counter,
    pub record_failures: Counter,
    pub requests: Counter,
    pub refused: Family<Why, Counter>,
    pub alerts_sent: Family<Receiver, Counter>,
    pub alerts_failed: Family<Receiver, Counter>,
    pub exports_sent: Family<Receiver, Counter>,
    pub exports_failed: Family<Receiver, Counter>,
    pub export_records_lost: Family<Receiver, Counter>,
    pub agents_connected: Gauge,
    pub agents_reporting: Gauge,
    pub agents_expected: Gauge,
    pub agents_silent: Gauge,
    pub agent_counters: Family<Name, Gauge>,
    pub incidents_open: Gauge,
    pub incidents_forgotten: Counter,
    pub incident_changes: Family<Why, Counter>,
    pub tables_bytes_held: Gauge,
    pub upkeep: Family<What, Counter>,
    pub table_files: Family<InTable, Gauge>,
    pub table_rows: Family<InTable, Gauge>,
    pub table_bytes: Family<InTable, Gauge>,
    pub labels: Family<Judged, Gauge>,
    pub paths_unshown: Counter,
    pub engine_packets: Counter,
    pub engine_hurt: Counter,
    pub engine_hurt_forgotten: Counter,
    pub engine_events_lost: Counter,
    pub engine_evaluations: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("selvedge_hub");
        Metrics {
            streams: typed(&mut registry, "streams", "Streams agents opened"),
            streams_refused: typed(&mut registry, "streams_refused", "Streams refused, by reason"),
            batches: typed(&mut registry, "batches", "Batches taken"),
            batches_duplicate: typed(
                &mut registry,
                "batches_duplicate",
                "Batches that had been taken before",
            ),
            batches_missing: typed(&mut registry, "batches_missing", "Batch numbers that never came"),
            batches_not_stored: typed(
                &mut registry,
                "batches_not_stored",
                "Batches not acknowledged because the tables had no room; they come again",
            ),
            batches_refused: typed(&mut registry, "batches_refused", "Batches refused, by reason"),
            observations_sent: typed(
                &mut registry,
                "observations_sent",
                "Observations agents made and sent or lost",
            ),
            observations_stored: typed(
                &mut registry,
                "observations_stored",
                "Observations the diagnosis took",
            ),
            observations_lost: typed(&mut registry, "observations_lost", "Observations not taken, by reason"),
            questions_refused: typed(
                &mut registry,
                "questions_refused",
                "Questions the desk was too busy for",
            ),
            record_bytes: typed(&mut registry, "record_bytes", "Bytes written to the recording"),
            record_failures: typed(&mut registry, "record_failures", "Writes to the recording that failed"),
            requests: typed(&mut registry, "http_requests", "HTTP requests answered"),
            alerts_sent: typed(&mut registry, "alerts_sent", "Incidents told, by receiver"),
            exports_sent: typed(&mut registry, "exports_sent", "Times the counters were sent, by receiver"),
            exports_failed: typed(&mut registry, "exports_failed", "Times they were not taken, by receiver"),
            export_records_lost: typed(
                &mut registry,
                "export_records_lost",
                "Log records of incidents lost because a receiver was away for too long",
            ),
            alerts_failed: typed(&mut registry, "alerts_failed", "Messages not taken, by receiver"),
            refused: typed(
                &mut registry,
                "refused",
                "Connections, logins and requests refused, by reason; also in the audit table",
            ),
            agents_connected: typed(&mut registry, "agents_connected", "Agents with an open stream"),
            agents_reporting: typed(&mut registry, "agents_reporting", "Agents that sent observations on it"),
            agents_expected: typed(&mut registry, "agents_expected", "Hosts of the fabric"),
            agents_silent: typed(&mut registry, "agents_silent", "Agents not heard of for too long"),
            agent_counters: typed(
                &mut registry,
                "agents_own",
                "The agents' own counters, summed over agents",
            ),
            incidents_open: typed(&mut registry, "incidents_open", "Open incidents"),
            incidents_forgotten: typed(
                &mut registry,
                "incidents_forgotten",
                "Closed incidents removed because too many were kept",
            ),
            incident_changes: typed(&mut registry, "incident_changes", "Incidents opened, closed, reopened"),
            tables_bytes_held: typed(
                &mut registry,
                "tables_bytes_held",
                "Bytes of rows held in memory until they are in the tables",
            ),
            table_files: typed(&mut registry, "table_files", "Files of each table"),
            table_rows: typed(
                &mut registry,
                "table_rows",
                "Rows of each table, without those that are only in the log",
            ),
            table_bytes: typed(
                &mut registry,
                "table_bytes",
                "Bytes of each table; files that were merged stay for a day besides",
            ),
            upkeep: typed(
                &mut registry,
                "tables_upkeep",
                "What the upkeep of the tables did: merges of files, days removed for their age, files deleted",
            ),
            labels: typed(&mut registry, "incidents_judged", "Incidents a person judged"),
            paths_unshown: typed(&mut registry, "paths_unshown", "Path measurements not kept for display"),
            engine_packets: typed(&mut registry, "engine_packets", "Packets in the observations taken"),
            engine_hurt: typed(&mut registry, "engine_hurt", "Observations with something hurt"),
            engine_hurt_forgotten: typed(
                &mut registry,
                "engine_hurt_forgotten",
                "Hurt observations forgotten early",
            ),
            engine_events_lost: typed(&mut registry, "engine_events_lost", "Engine events nobody fetched"),
            engine_evaluations: typed(&mut registry, "engine_evaluations", "Times the evidence was weighed"),
            registry,
        }
    }

    pub(crate) fn lose(&self, reason: &'static str, observations: u64) {
        if observations > 0 {
            self.observations_lost.get_or_create(&Why { reason }).inc_by(observations);
        }
    }

    pub(crate) fn set_engine(&self, c: &Counters) {
        for (counter, value) in [
            (&self.engine_packets, c.packets),
            (&self.engine_hurt, c.hurt),
            (&self.engine_hurt_forgotten, c.hurt_forgotten),
            (&self.engine_events_lost, c.events_lost),
            (&self.engine_evaluations, c.evaluations),
        ] {
            set(counter, value);
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}

/// Sets a counter that somebody else counts.
pub(crate) fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn typed<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}
