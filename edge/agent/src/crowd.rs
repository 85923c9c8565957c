//! Agents without a network: the real connection, outbox and protocol, fed with made-up observations. For measuring and
//! tormenting a hub; nothing a real host runs.
//!
//! How: each host of the crowd is the agent of `control` with a prober that makes rows up at an even rate, one window
//! for each path of its plan in turn, with a loss now and then.
//! Invariants: rows made = rows acknowledged + rows held + rows lost, as for every agent, so that what a hub stored can
//! be counted against it.

use crate::config::Config;
use crate::control::run_with;
use crate::error::AgentError;
use crate::probing::Probing;
use fabric::Fabric;
use probe::{Observation, Plan};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::{ClockQuality, DelaySummary, HostId, Known, Leg, Nanos, PathObservation, PathRef, Source, Window};

/// What the crowd is told, and what it did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Observations made so far, all hosts together.
    pub made: AtomicU64,
    /// No further ones are made.
    pub quiet: AtomicBool,
}

/// Runs one host of a crowd until `stop` is done: `rows_per_second` observations, one in `one_lossy_in` with a loss.
pub async fn run(
    config: Config,
    rows_per_second: f64,
    one_lossy_in: u64,
    tally: Arc<Tally>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    let open = move |_: &Config, fabric: &Arc<Fabric>, host: HostId, plan: Plan| {
        let maker = Maker {
            epoch: fabric.epoch,
            host,
            slots: plan.slots,
            tally: Arc::clone(&tally),
            rows_per_second,
            one_lossy_in: one_lossy_in.max(1),
            begun: Instant::now(),
            made: 0,
        };
        Ok(Box::new(maker) as Box<dyn Probing>)
    };
    run_with(config, stop, &open).await
}

struct Maker {
    epoch: wire::Epoch,
    host: HostId,
    slots: Vec<probe::Slot>,
    tally: Arc<Tally>,
    rows_per_second: f64,
    one_lossy_in: u64,
    begun: Instant,
    made: u64,
}

const WINDOW: Nanos = Nanos::from_millis(500);

impl Maker {
    fn row(&self, now: Nanos, n: u64) -> Option<PathObservation> {
        let slot = self.slots.get(usize::try_from(n % self.slots.len().max(1) as u64).unwrap_or(0))?;
        // Anything that is not the same in every row; a multiplication scatters well enough for that.
        let noise = n.wrapping_add(u64::from(self.host.0) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let lost = u32::from(noise.is_multiple_of(self.one_lossy_in));
        let base = 20_000 + i64::try_from(noise % 4_000).unwrap_or(0);
        Some(PathObservation {
            window: Window { start: now.since(WINDOW), length: WINDOW },
            producer: self.host,
            sequence: n + 1,
            epoch: self.epoch,
            path: PathRef::OneWay(Leg { path: slot.path, known: Known::Exact }),
            class: slot.class,
            size_log2: 8,
            entropy: u16::try_from(noise & 0xff).unwrap_or(0),
            sent: 20,
            lost,
            reordered: 0,
            ecn_marked: 0,
            delay: Some(DelaySummary {
                clock: ClockQuality::Synchronized,
                count: 20 - lost,
                over: 0,
                excess_ns: 0,
                min_ns: base,
                p50_ns: base + 3_000,
                max_ns: base + 9_000 + i64::try_from(noise % 777).unwrap_or(0),
            }),
            source: Source::Probe,
        })
    }
}

impl Probing for Maker {
    fn set_plan(&mut self, plan: Plan) -> Result<(), AgentError> {
        self.slots = plan.slots;
        Ok(())
    }

    fn take(&mut self, to: &mut dyn FnMut(Observation)) -> bool {
        if self.tally.quiet.load(Relaxed) {
            return true;
        }
        let due = (self.begun.elapsed().as_secs_f64() * self.rows_per_second) as u64;
        // After a stall no more than a second's worth at once.
        let second = (self.rows_per_second as u64).max(1);
        if due > self.made + second {
            self.begun = Instant::now()
                .checked_sub(Duration::from_secs_f64(
                    (self.made + second) as f64 / self.rows_per_second.max(1e-9),
                ))
                .unwrap_or(self.begun);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let begin = self.made;
        while self.made < due.min(begin + second) {
            let Some(row) = self.row(now, self.made) else { break };
            self.made += 1;
            to(Observation::Path(row));
        }
        self.tally.made.fetch_add(self.made - begin, Relaxed);
        true
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("made".to_owned(), self.made)])
    }

    fn stop(self: Box<Self>) {}
}
