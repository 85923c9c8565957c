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
//! - The programs at sockets are the dearest, and on a busy host run in one interval of [`ONE_TURN_IN`] only.
//! - Time in a socket ends at `recv` and its like; what is read by splice or io_uring's zero copy is not seen.
//!
//! What a run of each hook costs, by the kernel's own measure (which is some 30 ns of it), on a busy machine of two
//! processors whose caches others use, with one connection of 10 Gbit/s in 64 KiB bursts: raising of a soft interrupt 58 ns, its
//! beginning 77, its end 82 (38,000 a second each); a wake-up 155 and a switch of threads 314 (2,000 and 3,600); data for a
//! socket 259 (19,000 while that program runs); a read 1.5 µs, which interrupts lengthen (1,400). Together 11 ms a second,
//! 0.5 % of the two.
//!
//! Invariants: nothing is sent for an event; what found no room is counted as lost.
//! Absent on purpose: which thread it was, and any judgement.

pub mod metrics;

use super::{Readings, Sensor, SensorError, Span, Watched};
use kernel::bpf::{KernelTypes, Object, Traced};
use metrics::{Histogram, KINDS, LATE_NS, WORDS};
use std::collections::HashMap;
use std::time::Duration;
use wire::Counter;
use wire::proto::{SensorFinding, SensorReading};
use wire::sensor::{MetricRow, push_metric};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/delay.bpf.o"));

/// Without these there is no sensor.
const NEEDED: [&str; 3] = ["softirq_raise", "softirq_entry", "softirq_exit"];
/// Programs that may be missing, and what is not seen then. Those at sockets came with Linux 6.4.
const MORE: [(&[&str], &str); 2] = [
    (&["sched_waking", "sched_switch"], "how long woken threads wait for a processor"),
    (&["qdisc_enqueue", "qdisc_dequeue"], "how long packets wait in queueing disciplines"),
];
/// Those at sockets, which run only in some intervals on a busy host.
const AT_SOCKETS: [&str; 2] = ["sk_data_ready", "sock_recv_length"];
/// With so many soft interrupts a second it is busy, and then they run in one interval of so many.
const BUSY: f64 = 10_000.0;
const ONE_TURN_IN: u64 = 8;
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
    /// Whether there are programs for sockets, and those that run.
    sockets: bool,
    at_sockets: Vec<Traced>,
    turn: u64,
    /// In which turn these began to run.
    began: u64,
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
        let loaded = AT_SOCKETS.iter().try_for_each(|point| object.load_trace(point, point, types));
        if let Err(error) = &loaded {
            let cost = "how long data waits in sockets";
            tracing::warn!(%error, cost, "a part of the sensor `delay` is missing");
        }
        let mut delay = Delay {
            object,
            before: HashMap::new(),
            one_in: [1; MASKS.len()],
            sockets: loaded.is_ok(),
            at_sockets: Vec::new(),
            turn: 0,
            began: 0,
        };
        delay.look_at_sockets(true)?;
        Ok(delay)
    }

    /// Runs the programs at sockets, or not.
    fn look_at_sockets(&mut self, look: bool) -> Result<(), SensorError> {
        if !look {
            self.at_sockets.clear();
        } else if self.sockets && self.at_sockets.is_empty() {
            for point in AT_SOCKETS {
                self.at_sockets.push(self.object.run_trace(point)?);
            }
        }
        Ok(())
    }

    /// Looks at as many in the next interval as would be right for the last.
    fn sample(&mut self, looked_at: [u64; KINDS.len()], span: Span) -> Result<(), SensorError> {
        let seconds = span.length.as_secs_f64().max(1e-3);
        let mut words = [0; MASKS.len() + 1];
        let mut softirqs = 0.0;
        for ((one_in, mask), kind) in self.one_in.iter_mut().zip(&mut words).zip(MASKS) {
            let n = looked_at.get(kind).copied().unwrap_or(0);
            let all = n as f64 * *one_in as f64 / seconds;
            if kind == SOFTIRQ_LATE {
                softirqs = all;
            }
            *one_in = ((all / LOOKED_AT) as u64).clamp(1, ONE_IN_MAX).next_power_of_two();
            *mask = *one_in - 1;
        }
        self.turn += 1;
        let look = softirqs < BUSY || self.turn.is_multiple_of(ONE_TURN_IN);
        if look && self.at_sockets.is_empty() {
            // What began before they last stopped is void.
            self.began = self.turn;
        }
        words[MASKS.len()] = self.began & 0xffff_ffff;
        self.object.set_words("masks", words)?;
        self.look_at_sockets(look)
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
