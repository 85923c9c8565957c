//! `delay`: what makes a host look like a bad network: soft interrupts that begin late, threads that wait for a processor
//! after a packet woke them, packets that wait in queueing disciplines, data that waits in sockets.
//!
//! How: see `prog.bpf.c`; histograms grow in the kernel, and a reading is the difference of two ([`metrics`]). Soft interrupts
//! are the whole kernel's: every watcher is told of them, and it is a finding only where one namespace alone is watched. All
//! else is of a network namespace, a thread's by the one the thread is in.
//!
//! - Where there is much to look at, one in so many is, and the numbers are of those looked at. How many is chosen anew after
//!   each reading, for some [`LOOKED_AT`] a second of each kind.
//! - A thread is one of the network's where a packet woke it. Threads that timers or other threads woke are not counted.
//! - Time in a socket ends at `recv` and its like; what is read by splice or io_uring's zero copy is not seen.
//!
//! What a run of each hook costs, by the kernel's own measure (which is some 30 ns of it), on a busy machine of two
//! processors whose caches others use, with one connection of 6 Gbit/s in 64 KiB bursts: raising of a soft interrupt 63 ns, its
//! beginning 87, its end 84 (25,000 a second each); data for a socket 226 (12,000); a read 1.7 µs, which interrupts lengthen
//! (900); a wake-up 0.2 µs and a switch of threads 0.4 (1,300 and 2,400). Together 11 ms a second, 0.6 % of the two.
//!
//! Invariants: nothing is sent for an event; what found no room is counted as lost.
//! Absent on purpose: which thread it was, and any judgement.

pub mod metrics;

use super::{Readings, Sensor, SensorError, Span, Watched};
use kernel::bpf::{KernelTypes, Object};
use metrics::{Histogram, KINDS, LATE_NS, WORDS};
use std::collections::HashMap;
use std::time::Duration;
use wire::Counter;
use wire::proto::{SensorFinding, SensorReading};
use wire::sensor::{MetricRow, push_metric};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/delay.bpf.o"));

/// Without these there is no sensor.
const NEEDED: [&str; 3] = ["softirq_raise", "softirq_entry", "softirq_exit"];
/// Programs that may be missing, and what is not seen then. `sk_data_ready` and `sock_recv_length` came with Linux 6.4.
const MORE: [(&[&str], &str); 3] = [
    (&["sched_waking", "sched_switch"], "how long woken threads wait for a processor"),
    (&["qdisc_enqueue", "qdisc_dequeue"], "how long packets wait in queueing disciplines"),
    (&["sk_data_ready", "sock_recv_length"], "how long data waits in sockets"),
];
/// Looked at in a second, about.
const LOOKED_AT: f64 = 1_000.0;
const ONE_IN_MAX: u64 = 1 << 12;
/// Masks, in the order of `prog.bpf.c`, and the kind each governs.
const MASKS: [usize; 4] = [SOFTIRQ_LATE, RUN_QUEUE, QDISC, UNREAD];
const SOFTIRQ_LATE: usize = 0;
const RUN_QUEUE: usize = 2;
const QDISC: usize = 3;
const UNREAD: usize = 4;

/// The sensor.
pub struct Delay {
    object: Object,
    before: HashMap<[u64; 1], [u64; WORDS]>,
    /// One in so many is looked at: powers of two.
    one_in: [u64; MASKS.len()],
}

impl Delay {
    /// Loads its programs.
    pub fn load(types: &KernelTypes) -> Result<Delay, SensorError> {
        let mut object = Object::load_traced(PROGRAM, types)?;
        for point in NEEDED {
            object.trace(point, point, types)?;
        }
        for (points, cost) in MORE {
            for point in points {
                if let Err(error) = object.trace(point, point, types) {
                    tracing::warn!(point, %error, cost, "a part of the sensor `delay` is missing");
                    break;
                }
            }
        }
        Ok(Delay { object, before: HashMap::new(), one_in: [1; MASKS.len()] })
    }

    /// Looks at as many in the next interval as would be right for the last.
    fn sample(&mut self, looked_at: [u64; KINDS.len()], span: Span) -> Result<(), SensorError> {
        let seconds = span.length.as_secs_f64().max(1e-3);
        let mut masks = [0; MASKS.len()];
        for ((one_in, mask), kind) in self.one_in.iter_mut().zip(&mut masks).zip(MASKS) {
            let n = looked_at.get(kind).copied().unwrap_or(0);
            let all = n as f64 * *one_in as f64 / seconds;
            *one_in = ((all / LOOKED_AT) as u64).clamp(1, ONE_IN_MAX).next_power_of_two();
            *mask = *one_in - 1;
        }
        Ok(self.object.set_words("masks", masks)?)
    }
}

/// A histogram's numbers.
fn tell(name: &str, h: &Histogram, span: Span, to: &mut SensorReading) {
    let mut say = |what: &str, value: u64, form: u32| {
        let row = MetricRow {
            window_start_ns: span.start.0,
            window_length_us: span.length_us(),
            sensor: "delay".to_owned(),
            entity_kind: "host".to_owned(),
            entity: String::new(),
            name: format!("{name}_{what}"),
            value: value as f64,
            form,
        };
        push_metric(to.metrics.get_or_insert_default(), row);
    };
    let sums = [("runs", h.runs), ("late_runs", h.late), ("time_ns", h.sum_ns)];
    for (what, value) in sums.into_iter().filter(|(_, v)| *v > 0) {
        say(what, value, 2);
    }
    let quantiles = [("p50_ns", h.quantile(500)), ("p99_ns", h.quantile(990)), ("max_ns", h.max_ns())];
    for (what, value) in quantiles.into_iter().filter_map(|(w, v)| Some((w, v?))) {
        say(what, value, 0);
    }
}

fn finding(counter: Counter, h: &Histogram, span: Span) -> SensorFinding {
    SensorFinding {
        window_start_ns: span.start.0,
        window_length_us: span.length_us(),
        address: Vec::new(),
        counter: counter as u32,
        delta: h.late.min(h.runs),
        of: h.runs,
        size_ns: h.late_median_ns(LATE_NS),
    }
}

impl Sensor for Delay {
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError> {
        let mut looked_at = [0u64; KINDS.len()];
        for (key, words) in self.object.summed::<1, WORDS>("delays")? {
            let (netns, kind) = super::halves(key[0]);
            let h = Histogram::between(self.before.get(&key).map_or(&[], |w| w), &words);
            if let Some(n) = looked_at.get_mut(kind as usize) {
                *n += h.runs;
            }
            let Some(meaning) = KINDS.get(kind as usize) else { continue };
            if netns != 0 && !watched.contains_key(&netns) {
                // Nobody's: it makes room.
                self.before.remove(&key);
                let _ = self.object.remove_summed::<1, WORDS>("delays", &key);
                continue;
            }
            self.before.insert(key, words);
            if h.runs == 0 {
                continue;
            }
            for (number, reading) in out.iter_mut().filter(|(n, _)| netns == 0 || **n == netns) {
                tell(meaning.name, &h, span, reading);
                match kind as usize {
                    SOFTIRQ_LATE if watched.len() == 1 => {
                        reading.findings.push(finding(Counter::SoftirqLate, &h, span));
                    }
                    RUN_QUEUE if *number == netns => {
                        reading.findings.push(finding(Counter::RunQueueLate, &h, span));
                    }
                    _ => {}
                }
            }
        }
        self.sample(looked_at, span)
    }

    fn kernel_cost(&self) -> (Duration, u64) {
        self.object.cost()
    }

    fn lost(&self) -> u64 {
        self.object.total("lost").unwrap_or(0)
    }
}
