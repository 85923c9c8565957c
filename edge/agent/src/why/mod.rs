//! `selvedge why`: what slows a connection, a process or a host, on one page, with the numbers that say so.
//!
//! How: [`collect`] looks at one host for a few seconds and writes down [`Facts`]; [`judge`] is a pure function from them to an
//! [`Answer`]; [`page`] makes lines of text of it. The facts are plain values that can be kept, sent by the peer's host, and
//! judged again: an answer is recomputed from its facts alone.
//!
//! What a look costs, for a host with n sockets: two dumps of the sockets asked about (the kernel filters them; the walk
//! over its tables is about 1 ms for 10,000), then one lookup for each socket followed and sample, at most
//! [`facts::SOCKETS_MAX`] of them; links, queues, neighbours and routes a few times; `/proc/PID/fd` of every process once,
//! until the owners are found; two echo requests each 300 ms to at most [`facts::PEERS_MAX`] addresses. No BPF.
//!
//! Invariants: nothing is changed on the host; what could not be read is said in the answer; a cause that only the other
//! end could confirm is never said with confidence from one end.
//! Absent on purpose: keeping watch. It looks once, when somebody asks.

mod collect;
pub mod facts;
mod host;
mod judge;
mod read;
mod render;
mod rules;
mod signs;

use std::time::Duration;
use wire::proto::LookTask;

pub use collect::{Look, collect};
pub use facts::{EndFacts, Facts, PathFacts, Question};
pub use judge::{Answer, Cause, Place, Ranked, Verdict, judge};
pub use render::{Kind, Line, page};

/// Carries out a checked task in this thread's network namespace: the facts of this end as JSON. An error is words for
/// people. Blocks.
pub fn look(task: &LookTask, host: &str) -> Result<Vec<u8>, String> {
    let question = Question::parse(&task.question).ok_or_else(|| {
        format!(
            "{:?}: expected a process id, addresses, ADDRESS:PORT or ADDRESS:PORT-ADDRESS:PORT",
            task.question
        )
    })?;
    let look = Look { interval: Duration::from_secs(task.seconds.into()), ..Look::new(question, host) };
    let facts = collect(&look).map_err(|e| e.to_string())?;
    serde_json::to_vec(&facts).map_err(|e| e.to_string())
}
