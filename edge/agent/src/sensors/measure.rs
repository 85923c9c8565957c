//! What a sensor says: metrics with names and units, findings at a place, and how a counter's two readings become a
//! difference.
//!
//! How: a sensor fills a [`Reading`] once an interval. A metric becomes a row; a finding becomes a component observation as
//! soon as somebody who knows the fabric says which component its place is. So that a quiet host tells little, of a
//! counter only growth becomes a row, and of a gauge only another value than the last, or any after [`TELL_AGAIN`]
//! ([`Told`]). Findings are told whole, zeros too: that nothing was found is worth as much.
//!
//! Invariants: a reading holds at most [`METRICS_MAX`] metrics and counts what it had no room for; a counter's first
//! reading has no difference; a difference is never negative; a counter that began anew counts from zero.
//! Absent on purpose: the fabric, and any judgement.

use super::Span;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use wire::proto::{SensorFinding, SensorReading};
use wire::sensor::{MetricRow, push_metric};
use wire::{Counter, Nanos};

/// Most metrics of one reading.
pub const METRICS_MAX: usize = 32_768;
/// A gauge that stays as it is is told again after this.
pub const TELL_AGAIN: Nanos = Nanos::from_secs(60);

/// What a metric's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A plain number.
    Count,
    /// Packets or frames.
    Packets,
    /// Bytes.
    Bytes,
    /// Bits.
    Bits,
    /// FEC blocks.
    Blocks,
    /// Nanoseconds.
    Nanoseconds,
    /// Megabits a second.
    MegabitsPerSecond,
    /// Thousandths of a degree Celsius.
    MilliCelsius,
    /// Tenths of a microwatt.
    DeciMicrowatts,
    /// Microamperes.
    Microamperes,
    /// Microvolts.
    Microvolts,
    /// Thousandths of the whole.
    PerMille,
}

impl Unit {
    /// What stands behind a metric's name in tables, where the name does not say it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Unit::Count | Unit::Packets | Unit::Blocks => "",
            Unit::Bytes => "_bytes",
            Unit::Bits => "_bits",
            Unit::Nanoseconds => "_ns",
            Unit::MegabitsPerSecond => "_mbit_s",
            Unit::MilliCelsius => "_mdeg_c",
            Unit::DeciMicrowatts => "_duw",
            Unit::Microamperes => "_ua",
            Unit::Microvolts => "_uv",
            Unit::PerMille => "_permille",
        }
    }
}

/// One named number of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// What kind of thing it is of: `host`, `cpu`, `numa`, `interface`, `rdma`, `cgroup`.
    pub kind: &'static str,
    /// Whose it is: an interface (`eth0`), a port of an RDMA device (`mlx5_0/1`), a core (`cpu3`); empty for the host.
    pub entity: String,
    /// Its name, the same with every vendor.
    pub name: String,
    /// What the number is.
    pub unit: Unit,
    /// The number now.
    pub value: i64,
    /// For a counter, by how much it grew since the reading before; absent for a gauge and at a counter's first reading.
    pub delta: Option<u64>,
    /// Whether it is a counter.
    pub counts: bool,
}

/// What a metric is of: the kind of thing, and which of them.
pub type Entity<'a> = (&'static str, &'a str);

/// The host itself.
pub const HOST: Entity<'static> = ("host", "");

/// Where something was found, in words a sensor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The host itself.
    Host,
    /// An interface of the namespace, by its number.
    Interface(u32),
}

/// What becomes a component observation. See [`wire::ComponentObservation`] for the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub counter: Counter,
    /// Events in the interval.
    pub delta: u64,
    /// Opportunities in the interval, 0 where unknown.
    pub of: u64,
    /// Median size of an event, nanoseconds; 0 where it has none.
    pub size_ns: u64,
}

/// What one sensor read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// Its findings, those with no event too where there were opportunities.
    pub findings: Vec<Finding>,
    /// Addresses of the interfaces findings are about, by the interface's number; IPv4 as `::ffff:a.b.c.d`.
    pub addresses: Vec<(u32, Ipv6Addr)>,
    /// Metrics there was no room for.
    pub left_out: u64,
}

impl Reading {
    /// Adds a gauge.
    pub fn gauge(&mut self, of: Entity<'_>, name: impl Into<String>, unit: Unit, value: i64) {
        let (kind, entity) = (of.0, of.1.to_owned());
        self.push(Metric { kind, entity, name: name.into(), unit, value, delta: None, counts: false });
    }

    /// Adds a counter's reading and gives the difference to the one before, if there was one.
    pub fn counter(
        &mut self,
        before: &mut Before,
        of: Entity<'_>,
        name: impl Into<String>,
        unit: Unit,
        value: u64,
    ) -> Option<u64> {
        let name = name.into();
        let (kind, entity) = (of.0, of.1.to_owned());
        let delta = before.difference(&entity, &name, value);
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.push(Metric { kind, entity, name, unit, value, delta, counts: true });
        delta
    }

    /// Adds a finding.
    pub fn finding(&mut self, place: Place, counter: Counter, delta: u64, of: u64) {
        self.findings.push(Finding { place, counter, delta, of, size_ns: 0 });
    }

    /// A metric by entity and name.
    pub fn get(&self, entity: &str, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.entity == entity && m.name == name)
    }

    /// The metrics as rows, as far as they are news.
    pub fn rows(&self, sensor: &str, span: Span, told: &mut Told) -> Vec<MetricRow> {
        told.forget(span);
        let row = |m: &Metric| {
            let (value, form) = match m.delta {
                Some(0) => return None,
                Some(delta) => (delta as f64, 2),
                None if m.counts => return None,
                None if !told.is_news(m, span) => return None,
                None => (m.value as f64, 0),
            };
            let suffix = m.unit.suffix();
            let said = suffix.is_empty() || m.name.contains(suffix.trim_start_matches('_'));
            Some(MetricRow {
                window_start_ns: span.start.0,
                window_length_us: span.length_us(),
                sensor: sensor.to_owned(),
                entity_kind: m.kind.to_owned(),
                // interfaces have 15 bytes, RDMA devices 63
                entity: m.entity.chars().take(80).collect(),
                name: if said { m.name.clone() } else { format!("{}{suffix}", m.name) },
                value,
                form,
            })
        };
        self.metrics.iter().filter_map(row).collect()
    }

    /// The findings, but for those of interfaces without an address: no NIC of a fabric.
    pub fn found(&self, span: Span) -> Vec<SensorFinding> {
        let finding = |f: &Finding| {
            let address = match f.place {
                Place::Host => Vec::new(),
                Place::Interface(index) => {
                    // one of several is its fabric address
                    let fabric = |a: &Ipv6Addr| a.segments()[0] == fabric::addr::NIC_NET;
                    let mine =
                        self.addresses.iter().filter(|(i, a)| *i == index && !a.is_unicast_link_local());
                    mine.min_by_key(|(_, a)| !fabric(a))?.1.octets().to_vec()
                }
            };
            Some(SensorFinding {
                window_start_ns: span.start.0,
                window_length_us: span.length_us(),
                address,
                counter: f.counter as u32,
                delta: f.delta,
                of: f.of,
                size_ns: f.size_ns,
            })
        };
        self.findings.iter().filter_map(finding).collect()
    }

    fn push(&mut self, metric: Metric) {
        if self.metrics.len() < METRICS_MAX {
            self.metrics.push(metric);
        } else {
            self.left_out += 1;
        }
    }
}

/// Adds rows to a namespace's reading.
pub(crate) fn add(rows: impl IntoIterator<Item = MetricRow>, to: &mut SensorReading) {
    for row in rows {
        push_metric(to.metrics.get_or_insert_default(), row);
    }
}

/// Gauges as they were last told.
#[derive(Debug, Default)]
pub struct Told {
    entities: HashMap<String, HashMap<String, (i64, Nanos)>>,
    forgot: Nanos,
}

impl Told {
    fn is_news(&mut self, m: &Metric, span: Span) -> bool {
        let now = span.end();
        if !self.entities.contains_key(&m.entity) {
            self.entities.insert(m.entity.clone(), HashMap::new());
        }
        let Some(names) = self.entities.get_mut(&m.entity) else { return true };
        match names.get_mut(&m.name) {
            Some((value, at)) if *value == m.value && now.since(*at) < TELL_AGAIN => false,
            Some(last) => {
                *last = (m.value, now);
                true
            }
            None => {
                names.insert(m.name.clone(), (m.value, now));
                true
            }
        }
    }

    /// What is gone takes no memory: whatever is there was told within [`TELL_AGAIN`].
    fn forget(&mut self, span: Span) {
        let now = span.end();
        if now.since(self.forgot) < TELL_AGAIN {
            return;
        }
        self.forgot = now;
        self.entities.retain(|_, names| {
            names.retain(|_, (_, at)| now.since(*at) < TELL_AGAIN);
            !names.is_empty()
        });
    }
}

/// What every counter said at the reading before.
#[derive(Debug, Default)]
pub struct Before {
    entities: HashMap<String, HashMap<String, Last>>,
    turn: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    value: u64,
    turn: u64,
}

impl Before {
    /// Begins another reading, and forgets counters the last one did not have, so that what is gone takes no memory and
    /// what comes back begins anew.
    pub fn next_turn(&mut self) {
        let turn = self.turn;
        self.entities.retain(|_, names| {
            names.retain(|_, last| last.turn == turn);
            !names.is_empty()
        });
        self.turn += 1;
    }

    /// By how much a counter grew. `None` at its first reading.
    fn difference(&mut self, entity: &str, name: &str, value: u64) -> Option<u64> {
        let now = Last { value, turn: self.turn };
        if !self.entities.contains_key(entity) {
            self.entities.insert(entity.to_owned(), HashMap::new());
        }
        let names = self.entities.get_mut(entity)?;
        match names.get_mut(name) {
            Some(last) => {
                let before = std::mem::replace(last, now);
                Some(grown(before.value, value))
            }
            None => {
                names.insert(name.to_owned(), now);
                None
            }
        }
    }
}

/// By how much a counter grew between two readings. One that is smaller than before has gone round at 32 bits where it was
/// in their last quarter and is in the first now; else its driver or device began anew, and it counts from zero.
pub fn grown(before: u64, now: u64) -> u64 {
    const ROUND: u64 = 1 << 32;
    if now >= before {
        now - before
    } else if (ROUND - ROUND / 4..ROUND).contains(&before) && now < ROUND / 4 {
        now + ROUND - before
    } else {
        now
    }
}

/// A decimal number, white space around it or not.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_go_round_or_begin_anew() {
        assert_eq!(grown(5, 9), 4);
        assert_eq!(grown(u64::from(u32::MAX), 4), 5, "went round at 32 bits");
        assert_eq!(grown(3_300_000_000, 100), 994_967_396);
        assert_eq!(grown(9, 4), 4, "began anew");
        assert_eq!(grown(1 << 40, 4), 4, "no counter of 32 bits");
    }

    #[test]
    fn a_counter_that_was_away_begins_anew() {
        let mut before = Before::default();
        let mut reading = Reading::default();
        assert_eq!(reading.counter(&mut before, ("nic", "eth0"), "x", Unit::Count, 7), None);
        before.next_turn();
        assert_eq!(reading.counter(&mut before, ("nic", "eth0"), "x", Unit::Count, 9), Some(2));
        before.next_turn();
        before.next_turn();
        assert_eq!(reading.counter(&mut before, ("nic", "eth0"), "x", Unit::Count, 10), None);
    }

    fn span(second: u64) -> Span {
        Span { start: Nanos::from_secs(second), length: Nanos::from_secs(1) }
    }

    #[test]
    fn a_quiet_host_tells_little() {
        let (mut before, mut told) = (Before::default(), Told::default());
        let mut names = |second: u64, speed: i64, packets: u64| {
            let mut reading = Reading::default();
            before.next_turn();
            reading.gauge(("interface", "eth0"), "speed", Unit::MegabitsPerSecond, speed);
            reading.counter(&mut before, ("interface", "eth0"), "packets_sent", Unit::Packets, packets);
            let rows = reading.rows("nic", span(second), &mut told);
            rows.into_iter().map(|r| (r.name, r.value, r.form)).collect::<Vec<_>>()
        };
        let speed = |mbit: f64| ("speed_mbit_s".to_owned(), mbit, 0);
        assert_eq!(names(0, 100, 5), [speed(100.0)], "a counter's first reading is no difference");
        assert_eq!(names(1, 100, 5), []);
        assert_eq!(names(2, 100, 7), [("packets_sent".to_owned(), 2.0, 2)]);
        assert_eq!(names(3, 10, 7), [speed(10.0)]);
        assert_eq!(names(62, 10, 7), []);
        assert_eq!(names(63, 10, 7), [speed(10.0)], "told again after a minute");
    }

    #[test]
    fn findings_are_of_the_address_the_fabric_knows() {
        let nic: Ipv6Addr = format!("{:x}::7", fabric::addr::NIC_NET).parse().unwrap();
        let mut reading = Reading {
            addresses: vec![
                (2, "fe80::1".parse().unwrap()),
                (2, "2001:db8::1".parse().unwrap()),
                (2, nic),
                (4, "fe80::2".parse().unwrap()),
            ],
            ..Reading::default()
        };
        for index in 2..5 {
            reading.finding(Place::Interface(index), Counter::CarrierLost, 0, 0);
        }
        reading.finding(Place::Host, Counter::CpuPressure, 5, 9);
        let found: Vec<_> = reading.found(span(0)).into_iter().map(|f| (f.address, f.delta, f.of)).collect();
        assert_eq!(found, [(nic.octets().to_vec(), 0, 0), (Vec::new(), 5, 9)]);
    }

    #[test]
    fn a_full_reading_counts_what_it_leaves_out() {
        let mut reading = Reading::default();
        for n in 0..METRICS_MAX + 3 {
            reading.gauge(HOST, n.to_string(), Unit::Count, 0);
        }
        assert_eq!((reading.metrics.len(), reading.left_out), (METRICS_MAX, 3));
    }
}
