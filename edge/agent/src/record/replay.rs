//! A recording, played again.

use super::format::{Beginning, Record, begin, next, time_of};
use super::{Digest, RecordError};
use crate::machines::{Input, Machines};
use fabric::Fabric;
use probe::Observation;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::{HostId, Nanos};

/// A recording is of at most so long a life: what says more is damaged.
const LIFE_MAX: Nanos = Nanos::from_secs(366 * 86_400);

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the agent.
    WithTheAgent,
    /// It was to be no longer.
    Full,
    /// In the middle, as after a kill.
    Cut {
        /// Bytes that are left over.
        bytes: usize,
    },
}

/// What a replay gave, beside the observations.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The map the agent had.
    pub fabric: Arc<Fabric>,
    /// Which host it was.
    pub host: HostId,
    /// What had written the recording.
    pub software: String,
    /// Of the first and the last input.
    pub times: (Nanos, Nanos),
    /// Inputs played.
    pub inputs: u64,
    /// Observations that came out.
    pub observations: u64,
    /// The machines' counters at the end.
    pub counters: BTreeMap<&'static str, u64>,
    /// How the recording ends.
    pub ended: Ended,
    /// The number of observations after which they were known to differ from what the live agent saw; `None` where they are
    /// the same as far as can be checked. The last ones of a recording that was cut cannot be.
    pub diverged: Option<u64>,
}

/// Plays a recording through the same machines. `key` is that of authenticated probes. `each` gets the observations in
/// the order the live agent saw them.
pub fn replay(
    bytes: &[u8],
    key: Option<&[u8]>,
    each: &mut dyn FnMut(Observation),
) -> Result<Replayed, RecordError> {
    let Beginning { mut head, authenticated, software, mut rest } = begin(bytes)?;
    if authenticated {
        head.key = Some(key.ok_or(RecordError::Key)?.to_vec());
    }
    let (fabric, host) = (head.fabric.clone(), head.host);
    let mut machines = Machines::new(head, None);
    let mut digest = Digest::NONE;
    let mut first = None;
    let mut out = Replayed {
        fabric,
        host,
        software,
        times: (Nanos::ZERO, Nanos::ZERO),
        inputs: 0,
        observations: 0,
        counters: BTreeMap::new(),
        ended: Ended::Cut { bytes: 0 },
        diverged: None,
    };
    loop {
        let offset = bytes.len() - rest.len();
        let Some((record, after)) = next(rest, offset)? else {
            out.ended = Ended::Cut { bytes: rest.len() };
            break;
        };
        rest = after;
        let (input, told) = match record {
            Record::Input(input) => (Some(input), None),
            Record::Check(told) => (None, Some(told)),
            Record::End(told) => {
                out.ended = Ended::WithTheAgent;
                (None, Some(told))
            }
            Record::Full(told) => {
                out.ended = Ended::Full;
                (None, Some(told))
            }
        };
        if let Some(told) = told {
            if told != digest && out.diverged.is_none() {
                out.diverged = Some(digest.count.min(told.count));
            }
            if !matches!(out.ended, Ended::Cut { .. }) {
                break;
            }
        }
        let Some(input) = input else { continue };
        if let Some(now) = time_of(&input) {
            let start = *first.get_or_insert(now);
            let arrived = match &input {
                Input::Request(_, packet) | Input::Reply(_, packet) => packet.arrival.at,
                _ => now,
            };
            if now.0.abs_diff(start.0) > LIFE_MAX.0 || arrived.0.abs_diff(now.0) > LIFE_MAX.0 {
                return Err(RecordError::Damaged { offset });
            }
            out.times = (start, out.times.1.max(now));
        }
        out.inputs += 1;
        match input {
            Input::Drain => machines.drain(&mut |observation| {
                digest.add(&observation);
                each(observation);
            }),
            input => drop(machines.take(&input)),
        }
    }
    out.observations = digest.count;
    machines.count_into(&mut out.counters);
    Ok(out)
}
