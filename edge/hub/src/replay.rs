//! The same verdicts again from a recording alone.
//!
//! How: the recording is fed through the code of the running hub, with the moments the hub wrote down.
//! Absent on purpose: reading the file and parsing the fabric, which is the caller's.

use crate::book::Book;
use crate::diagnosis::Diagnosis;
use crate::incident::Incident;
use crate::view::IncidentDetail;
use fabric::Fabric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::Nanos;
use wire::record::{Reader, RecordError};

/// What the hub writes into a recording about itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct Context {
    pub now_ns: u64,
    pub false_alarms_per_day: f64,
    pub window_ns: u64,
    /// Incidents the engine was told of at the start.
    pub known: Vec<Incident>,
}

impl Context {
    pub(crate) fn config(&self, mut config: diagnose::Config) -> diagnose::Config {
        config.false_alarms_per_day = self.false_alarms_per_day;
        config.window = Nanos(self.window_ns);
        config
    }
}

/// Why a recording cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What the hub wrote about itself.
    #[error("the context in the recording's header cannot be read: {reason}")]
    Context {
        /// Why.
        reason: String,
    },
}

/// What a recording says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replayed {
    /// Every incident, open before closed, most confident first.
    pub incidents: Vec<IncidentDetail>,
    /// Batches read.
    pub batches: u64,
    /// Observations the diagnosis took.
    pub stored: u64,
    /// Observations it did not, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Where reading ended early, why.
    pub damage: Option<String>,
    /// Seconds from the first to the last batch.
    pub seconds: f64,
}

/// Replays a recording of this fabric. `reader` comes from [`Reader::new`], the fabric from its TOML.
pub fn replay(reader: Reader<'_>, fabric: &Arc<Fabric>) -> Result<Replayed, ReplayError> {
    let context: Context =
        serde_json::from_str(reader.context()).map_err(|e| ReplayError::Context { reason: e.to_string() })?;
    let config = context.config(diagnose::Config::default());
    let begin = Nanos(context.now_ns);
    let mut book = Book::in_memory(Arc::clone(fabric));
    let known = book.adopt(begin, context.known);
    let mut diagnosis = Diagnosis::new(Arc::clone(fabric), config, book, &known);
    let mut out = Replayed {
        incidents: Vec::new(),
        batches: 0,
        stored: 0,
        dropped: BTreeMap::new(),
        damage: None,
        seconds: 0.0,
    };
    for record in reader {
        match record {
            Ok(record) => {
                let fed = diagnosis.feed(record.now, record.producer, &record.batch);
                out.batches += 1;
                out.stored += fed.stored;
                for (reason, n) in fed.dropped {
                    *out.dropped.entry(reason).or_default() += n;
                }
            }
            Err(e) => out.damage = Some(e.to_string()),
        }
    }
    out.seconds = diagnosis.now.since(begin).as_secs_f64();
    out.incidents = diagnosis.book.ordered().into_iter().map(IncidentDetail::new).collect();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::a_fabric;
    use wire::proto::{Batch, PathColumns};
    use wire::{HostId, Known, Leg, LinkId, PathObservation, PathRef, Source, Window};

    /// What every host sees in one window while a link loses one packet in ten.
    fn a_window(fabric: &Fabric, sick: Option<LinkId>, n: u64, host: HostId) -> Batch {
        let length = Nanos::from_millis(500);
        let start = Nanos::from_secs(1_700_000_000) + Nanos(n * length.0);
        let mut columns = PathColumns::default();
        let mut sequence = n * 100;
        for slot in probe::plan::slots(fabric, host, &probe::PlanConfig::default()) {
            sequence += 1;
            let hit = sick.is_some_and(|l| fabric.path_links(slot.path).is_some_and(|p| p.contains(&l)));
            let observation = PathObservation {
                window: Window { start, length },
                producer: host,
                sequence,
                epoch: fabric.epoch,
                path: PathRef::OneWay(Leg { path: slot.path, known: Known::Exact }),
                class: 0,
                size_log2: 7,
                entropy: (sequence % 7) as u16,
                sent: 10,
                lost: u32::from(hit && !sequence.is_multiple_of(3)),
                reordered: 0,
                ecn_marked: 0,
                delay: None,
                source: Source::Probe,
            };
            wire::batch::push_path(&mut columns, &observation);
        }
        Batch {
            version: 1,
            sequence: n,
            fabric_epoch: fabric.epoch.0,
            paths: Some(columns),
            ..Batch::default()
        }
    }

    #[test]
    fn a_recording_leads_to_the_verdicts_the_hub_had() {
        let fabric = a_fabric();
        let begin = Nanos::from_secs(1_700_000_000);
        let config = diagnose::Config::default();
        let book = Book::in_memory(Arc::clone(&fabric));
        let mut hub = Diagnosis::new(Arc::clone(&fabric), config, book, &[]);
        let context = Context {
            now_ns: begin.0,
            false_alarms_per_day: config.false_alarms_per_day,
            window_ns: config.window.0,
            known: Vec::new(),
        };
        let mut bytes = Vec::new();
        let context = serde_json::to_string(&context).unwrap();
        wire::record::write_header(&mut bytes, &fabric.to_toml(), &context);
        let sick = fabric.link_by_name("p0-leaf1:p0-spine0");
        for n in 0..160 {
            for host in 0..16 {
                let broken = (60..100).contains(&n);
                let batch = a_window(&fabric, sick.filter(|_| broken), n, HostId(host));
                let now = begin + Nanos::from_millis(500 * (n + 1) + u64::from(host) * 3);
                hub.feed(now, HostId(host), &batch);
                wire::record::write_record(&mut bytes, now, HostId(host), &batch);
            }
        }
        let had: Vec<_> = hub.book.ordered().into_iter().map(IncidentDetail::new).collect();
        assert_eq!(
            had.iter().map(|d| d.incident.component.name.as_str()).collect::<Vec<_>>(),
            ["p0-leaf1:p0-spine0"]
        );

        let reader = Reader::new(&bytes).unwrap();
        let parsed = Arc::new(Fabric::parse(reader.fabric_toml()).unwrap());
        let replayed = replay(reader, &parsed).unwrap();
        assert_eq!(replayed.incidents, had);
        assert_eq!((replayed.batches, replayed.damage), (16 * 160, None));

        bytes.truncate(bytes.len() - 1);
        let replayed = replay(Reader::new(&bytes).unwrap(), &parsed).unwrap();
        assert_eq!(replayed.batches, 16 * 160 - 1);
        assert!(replayed.damage.is_some());
    }
}
