//! A processor that does not run: the agent is stopped and continued, over and over.
//!
//! How: `SIGSTOP` and `SIGCONT` from a small process. Its packets wait in the sockets meanwhile, as they do when a
//! busy machine does not schedule it.

use crate::Result;
use kernel::process::{Process, Signal};
use std::time::{Duration, Instant};

/// Who is stalled, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The process.
    pub agent: Process,
    /// Length of each stall.
    pub stopped_ns: u64,
    /// From one stall's beginning to the next.
    pub period_ns: u64,
}

/// Stalls until the agent or this process ends. Whoever ends this process continues the agent.
pub fn run(stall: &Stall) -> Result<()> {
    let start = Instant::now();
    let until = |ns: u64| {
        std::thread::sleep(Duration::from_nanos(ns).saturating_sub(start.elapsed()));
    };
    for turn in 0u64.. {
        let begin = turn.saturating_mul(stall.period_ns);
        until(begin);
        stall.agent.signal(Signal::Stop)?;
        until(begin.saturating_add(stall.stopped_ns));
        stall.agent.signal(Signal::Continue)?;
    }
    Ok(())
}
