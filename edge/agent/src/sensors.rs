//! Sensors: what a host's kernel knows of its network, counted in the kernel and read once an interval.
//!
//! How: one process a kernel (`selvedge sensors`) loads every program once, whoever asks and however many agents run; it
//! serves readings on a local socket ([`serve`]), each asker hearing of one network namespace only. The agent itself has
//! no privileges and asks there ([`client`]). Each sensor is a directory of three files: `mod.rs` loads and reads it,
//! `prog.bpf.c` counts in the kernel, `metrics.rs` says what each number means. Those that read what the kernel shows
//! anyway have no program; what they say is put together by [`measure`].
//!
//! - Programs are loaded by aya, and not by libbpf: it is Rust all the way, its maps and links have types, and nothing
//!   has to be linked. Types of the kernel are found by name when a program is loaded (CO-RE), from a header of our own
//!   that lists only what is read, so one build runs on kernels of different versions and machines.
//! - Whatever happens per packet is counted in maps in the kernel; no event is ever sent for a packet.
//! - Each sensor's cost is measured, its programs' by the kernel and its reading's by the thread's clock. One that costs
//!   more than its budget for several intervals takes itself out, says so, and tries again later.
//!
//! Invariants: a sensor that cannot be had is named with what is missing and what that costs the user, and holds up no
//! other; what was not counted for want of room is counted as lost.
//! Absent on purpose: kprobes and fentry, which not every kernel has; `tp_btf`, iterators and tcx are enough.

pub mod client;
pub mod delay;
pub mod drops;
pub mod flows;
pub mod measure;
pub mod nic;
pub mod proc;
pub mod serve;
pub mod tcp;

use kernel::bpf::KernelTypes;
use kernel::netns::Netns;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wire::Nanos;
use wire::proto::SensorReading;
use wire::sensor::{SensorRow, push_sensor};

/// What a number means: for the reference page and for whoever reads a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Its name, as in tables.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it says, and where it comes from.
    pub text: &'static str,
}

/// The time a reading is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Beginning, Unix nanoseconds.
    pub start: Nanos,
    /// Length.
    pub length: Nanos,
}

impl Span {
    /// Its end.
    pub fn end(&self) -> Nanos {
        self.start + self.length
    }

    /// Microseconds, as columns have them.
    pub fn length_us(&self) -> u32 {
        u32::try_from(self.length.0 / 1_000).unwrap_or(u32::MAX)
    }
}

/// Namespaces somebody watches, by the kernel's number.
pub type Watched = BTreeMap<u32, Netns>;
/// Readings, by the same number.
pub type Readings = BTreeMap<u32, SensorReading>;

/// Why a sensor does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SensorError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// Something the kernel shows cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// One sensor at work.
pub trait Sensor: Send {
    /// Adds what was counted since the last call to each watched namespace's reading.
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError>;
    /// Time its programs took in the kernel, and how often they ran, while that is measured.
    fn kernel_cost(&self) -> (Duration, u64);
    /// Events that were not counted for want of room, since its start.
    fn lost(&self) -> u64;
}

/// A kind of sensor: how to have one, and what it is for.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What somebody does not see without it.
    pub without: &'static str,
    /// Whether it runs where nobody says which are to. Those that run for every packet do not: what they cost a saturated
    /// connection is more than watching is worth (docs/figures.md).
    pub by_default: bool,
    /// Processor time a second it may take for each namespace that is watched, in the kernel and reading together.
    pub budget: Duration,
    /// Loads it. The kernel's types are needed by those with programs only.
    pub load: fn(&KernelTypes) -> Result<Box<dyn Sensor>, SensorError>,
}

/// Every sensor there is.
pub static KINDS: &[Kind] = &[
    Kind {
        name: "tcp",
        without: "connections' round trips, retransmissions by cause, windows and limits are not seen",
        by_default: true,
        budget: Duration::from_millis(10),
        load: |types| Ok(Box::new(tcp::Tcp::load(types)?)),
    },
    Kind {
        name: "drops",
        without: "packets the kernel throws away are not seen, nor why",
        by_default: true,
        budget: Duration::from_millis(10),
        load: |types| Ok(Box::new(drops::Drops::load(types)?)),
    },
    Kind {
        name: "delay",
        without: "a host that is late itself looks like a slow network",
        by_default: false,
        budget: Duration::from_millis(20),
        load: |types| Ok(Box::new(delay::Delay::load(types)?)),
    },
    Kind {
        name: "flows",
        without: "which flows cross an interface, and how many of their packets were marked, is not seen",
        by_default: false,
        budget: Duration::from_millis(10),
        load: |types| Ok(Box::new(flows::Flows::load(types)?)),
    },
    Kind {
        name: "nic",
        without: "link state, FEC and symbol errors, pause frames and discards of NICs are not seen",
        by_default: true,
        budget: Duration::from_millis(10),
        load: |_| Ok(Box::new(nic::Nics::default())),
    },
    Kind {
        name: "proc",
        without: "shortage of processors and memory, and what the host's own queues and sockets dropped, are not seen",
        by_default: true,
        budget: Duration::from_millis(10),
        load: |_| Ok(Box::new(proc::Procs::open()?)),
    },
];

/// The sensors of a list such as `tcp,drops`, or `all`; every name must be one. An error is words for people.
pub fn chosen(list: &str) -> Result<Vec<&'static Kind>, String> {
    if list.trim() == "all" {
        return Ok(KINDS.iter().collect());
    }
    let known = |name: &str| {
        let names: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
        let found = KINDS.iter().find(|k| k.name == name);
        found.ok_or_else(|| {
            format!("there is no sensor {name:?}, expected all, or some of {}", names.join(","))
        })
    };
    list.split(',').map(|name| known(name.trim())).collect()
}

/// The sensors that run where nobody says which.
pub fn usual() -> Vec<&'static Kind> {
    KINDS.iter().filter(|k| k.by_default).collect()
}

/// Intervals over budget before a sensor takes itself out.
const PATIENCE: u32 = 3;
/// It tries again after this, and then after twice as long, up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// Of so many intervals one is measured: measuring costs every program some 20 ns a run.
const MEASURED_EVERY: u64 = 10;

enum State {
    Runs(Box<dyn Sensor>),
    Shed { until: Instant },
    Missing(String),
}

struct Slot {
    kind: &'static Kind,
    state: State,
    over: u32,
    retry: Duration,
    cost_us: u64,
    /// Time of its programs by the last reading.
    in_kernel: Duration,
    lost: u64,
    told: u64,
}

/// Both halves of a word as the programs' keys have them.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// All sensors of this kernel.
pub struct Sensors {
    slots: Vec<Slot>,
    last: Instant,
    turn: u64,
}

impl Sensors {
    /// Loads what the kernel allows.
    pub fn load(kinds: &[&'static Kind]) -> Sensors {
        let types = KernelTypes::read();
        let slot = |kind: &'static Kind| {
            let loaded = match &types {
                Ok(types) => (kind.load)(types),
                Err(e) => Err(SensorError::Kernel(e.clone())),
            };
            let state = loaded.map_or_else(|e| State::Missing(e.to_string()), State::Runs);
            if let State::Missing(why) = &state {
                tracing::warn!(sensor = kind.name, %why, cost = kind.without, "a sensor cannot be had");
            }
            Slot {
                kind,
                state,
                over: 0,
                retry: RETRY,
                cost_us: 0,
                in_kernel: Duration::ZERO,
                lost: 0,
                told: 0,
            }
        };
        Sensors { slots: kinds.iter().map(|k| slot(k)).collect(), last: Instant::now(), turn: 0 }
    }

    /// Names of those that run.
    pub fn running(&self) -> Vec<&'static str> {
        let runs = |s: &&Slot| matches!(s.state, State::Runs(_));
        self.slots.iter().filter(runs).map(|s| s.kind.name).collect()
    }

    /// Reads every sensor. Each watched namespace gets a reading, also one of nothing.
    pub fn read(&mut self, span: Span, watched: &Watched) -> Readings {
        let mut out: Readings = watched.keys().map(|&n| (n, SensorReading::default())).collect();
        let seconds = self.last.elapsed().as_secs_f64().max(1e-3);
        self.last = Instant::now();
        // The interval that ends now, if it was the one to be measured: see `measures_next`.
        let measured = self.turn % MEASURED_EVERY == 1;
        self.turn += 1;
        for slot in &mut self.slots {
            slot.read(span, watched, seconds, measured, &mut out);
        }
        for reading in out.values_mut() {
            let to = reading.sensors.get_or_insert_default();
            self.slots.iter().for_each(|s| push_sensor(to, s.row(span)));
        }
        self.slots.iter_mut().for_each(|s| s.told = s.lost);
        out
    }

    /// Whether the interval that begins now is to be measured: hold [`kernel::bpf::measure_programs`] for its length.
    pub fn measures_next(&self) -> bool {
        self.turn % MEASURED_EVERY == 1
    }

    /// Programs' cost in the kernel since their start, sensor by sensor: for benches.
    pub fn kernel_costs(&self) -> Vec<(&'static str, Duration, u64)> {
        let cost = |s: &Slot| match &s.state {
            State::Runs(sensor) => {
                let (time, runs) = sensor.kernel_cost();
                Some((s.kind.name, time, runs))
            }
            _ => None,
        };
        self.slots.iter().filter_map(cost).collect()
    }
}

impl Slot {
    fn read(&mut self, span: Span, watched: &Watched, seconds: f64, measured: bool, out: &mut Readings) {
        if let State::Shed { until } = self.state
            && Instant::now() >= until
        {
            let loaded = KernelTypes::read().map_err(SensorError::from).and_then(|t| (self.kind.load)(&t));
            self.state = loaded.map_or_else(|e| State::Missing(e.to_string()), State::Runs);
        }
        let State::Runs(sensor) = &mut self.state else { return };
        let cpu = kernel::process::thread_cpu();
        if let Err(e) = sensor.read(span, watched, out) {
            tracing::warn!(sensor = self.kind.name, error = %e, "a sensor cannot be read this time");
        }
        let reading = kernel::process::thread_cpu().saturating_sub(cpu);
        self.lost = sensor.lost();
        // The kernel counts while it is told to measure, which is for the measured intervals only.
        let in_kernel = sensor.kernel_cost().0;
        let spent = in_kernel.saturating_sub(self.in_kernel);
        self.in_kernel = in_kernel;
        if measured {
            let all = spent + reading;
            self.cost_us = (all.as_micros() as f64 / seconds) as u64;
            // A host has one namespace that is watched; a machine that is a whole lab has many.
            let budget = self.kind.budget.as_secs_f64() * watched.len().max(1) as f64;
            let over = all.as_secs_f64() / seconds > budget;
            self.over = if over { self.over + 1 } else { 0 };
            if self.over >= PATIENCE {
                tracing::warn!(
                    sensor = self.kind.name,
                    cost_us = self.cost_us,
                    budget_us = self.kind.budget.as_micros() as u64,
                    "a sensor costs more than it may and takes itself out"
                );
                self.state = State::Shed { until: Instant::now() + self.retry };
                self.retry = (self.retry * 2).min(RETRY_MAX);
                self.over = 0;
            }
        }
    }

    fn row(&self, span: Span) -> SensorRow {
        let (state, text) = match &self.state {
            State::Runs(_) => (0, String::new()),
            State::Shed { .. } => (
                1,
                format!(
                    "it cost {} µs a second, more than the {} it may; {}",
                    self.cost_us,
                    self.kind.budget.as_micros(),
                    self.kind.without
                ),
            ),
            State::Missing(why) => (2, format!("{why}; {}", self.kind.without)),
        };
        SensorRow {
            window_start_ns: span.start.0,
            window_length_us: span.length_us(),
            sensor: self.kind.name.to_owned(),
            state,
            cost_us: self.cost_us,
            lost: self.lost.saturating_sub(self.told),
            text,
        }
    }
}
