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
