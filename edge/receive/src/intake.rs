//! The one way in: every receiver hands over what it heard here, and the hub takes rows out at the other end.
//!
//! How: names become components, batches of numbers become observations ([`crate::observe`]), and rows go into one bounded
//! channel. When the hub is slow, what does not fit is dropped and counted; a receiver never waits.
//! Invariants: heard = kept + dropped for each receiver, in the units it hears (numbers, records, spans, messages); an
//! observation is made of every number that was heard, also where its row found no room.

use crate::names::Names;
use crate::observe::{self, Observer, Tally};
use crate::rows::{
    Cabling, Dropped, LinkEvent, LogRow, Metric, Neighbour, Receiver, Row, SpanRow, bounded, limit,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use wire::{Component, ComponentObservation, Nanos};

/// Told neighbours remembered.
const NEIGHBOURS_MAX: usize = 20_000;

/// Numbers that are handed over at a time at most: who told more at once told it in parts.
pub(crate) const BATCH_MAX: usize = 4_096;

/// What one receiver counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Things heard, and events made of them.
    pub heard: u64,
    /// Of those, kept.
    pub kept: u64,
    /// Of those, dropped, by [`Dropped`].
    pub dropped: [u64; Dropped::ALL.len()],
}

#[derive(Debug, Default)]
struct Cell {
    heard: AtomicU64,
    kept: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

/// What a [`Neighbour`] row came to, and observations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Neighbours told as the fabric has them.
    pub cabling_same: u64,
    /// Neighbours told otherwise.
    pub cabling_other: u64,
    /// Neighbours the mapping does not know.
    pub cabling_unknown: u64,
    /// Observations passed on.
    pub observations: u64,
    /// Observations the hub was too slow for.
    pub observations_dropped: u64,
    /// What came of samples.
    pub samples: Tally,
}

#[derive(Debug, Default)]
struct Atoms {
    cabling: [AtomicU64; 3],
    observations: AtomicU64,
    observations_dropped: AtomicU64,
}

/// By device and port: the neighbour last told, and its verdict's word.
type Told = HashMap<(String, String), (String, &'static str)>;

/// The way in. Shared by every receiver.
#[derive(Debug)]
pub struct Intake {
    names: Names,
    observer: Mutex<Observer>,
    rows: mpsc::Sender<Row>,
    cells: [Cell; Receiver::ALL.len()],
    atoms: Atoms,
    told: Mutex<Told>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Intake {
    /// An intake with room for so many rows, and the end the hub reads.
    pub fn new(names: Names, config: observe::Config, room: usize) -> (Arc<Intake>, mpsc::Receiver<Row>) {
        let (rows, out) = mpsc::channel(room.max(1));
        let observer = Mutex::new(Observer::new(config, Arc::clone(names.fabric())));
        let intake = Intake {
            names,
            observer,
            rows,
            cells: Default::default(),
            atoms: Atoms::default(),
            told: Mutex::default(),
        };
        (Arc::new(intake), out)
    }

    /// The mapping.
    pub fn names(&self) -> &Names {
        &self.names
    }

    fn cell(&self, receiver: Receiver) -> &Cell {
        &self.cells[receiver as usize]
    }

    /// Counts things that were heard and not kept.
    pub fn dropped(&self, receiver: Receiver, why: Dropped, n: u64) {
        let cell = self.cell(receiver);
        cell.heard.fetch_add(n, Relaxed);
        cell.dropped[why as usize].fetch_add(n, Relaxed);
    }

    /// Counts things that were heard and are kept without a row of their own.
    pub fn kept(&self, receiver: Receiver, n: u64) {
        let cell = self.cell(receiver);
        cell.heard.fetch_add(n, Relaxed);
        cell.kept.fetch_add(n, Relaxed);
    }

    fn put(&self, receiver: Receiver, row: Row) -> bool {
        let there = self.rows.try_send(row).is_ok();
        if there {
            self.kept(receiver, 1);
        } else {
            self.dropped(receiver, Dropped::HubSlow, 1);
        }
        there
    }

    fn observe(&self, observations: impl IntoIterator<Item = ComponentObservation>) {
        for o in observations {
            let there = self.rows.try_send(Row::Observation(o)).is_ok();
            let count = if there { &self.atoms.observations } else { &self.atoms.observations_dropped };
            count.fetch_add(1, Relaxed);
        }
    }

    /// Takes numbers that were told together. How many were kept.
    pub fn metrics(&self, mut batch: Vec<Metric>) -> usize {
        let names = &self.names;
        batch.retain_mut(|m| {
            let good = m.value.is_finite();
            if good {
                trim(&mut m.device, limit::NAME);
                trim(&mut m.entity, limit::NAME);
                trim(&mut m.name, limit::NAME);
                labels(&mut m.labels);
                m.component = names.component(&m.device, m.entity_kind, &m.entity, &m.name);
            } else {
                self.dropped(m.source, Dropped::NoNumber, 1);
            }
            good
        });
        let mut means = Vec::new();
        let turned = lock(&self.observer).batch(&batch, &mut means);
        self.observe(means);
        for event in turned {
            self.put(event.source, Row::LinkEvent(event));
        }
        batch.into_iter().filter_map(|m| self.put(m.source, Row::Metric(m)).then_some(())).count()
    }

    /// Takes a port that went up or down.
    pub fn link_event(&self, mut event: LinkEvent) -> bool {
        trim(&mut event.device, limit::NAME);
        trim(&mut event.interface, limit::NAME);
        trim(&mut event.text, limit::TEXT);
        let out = self.names().port(&event.device, &event.interface);
        event.component = out.map(|link| Component::Link(link.reverse()));
        let means = lock(&self.observer).link(&event);
        self.observe(means);
        self.put(event.source, Row::LinkEvent(event))
    }

    /// Takes a log record.
    pub fn log(&self, mut log: LogRow) -> bool {
        trim(&mut log.device, limit::NAME);
        trim(&mut log.text, limit::TEXT);
        labels(&mut log.labels);
        self.put(log.source, Row::Log(log))
    }

    /// Takes a span.
    pub fn span(&self, mut span: SpanRow) -> bool {
        trim(&mut span.service, limit::NAME);
        trim(&mut span.name, limit::NAME);
        labels(&mut span.labels);
        self.put(Receiver::Otlp, Row::Span(span))
    }

    /// Takes what is told to be at the other end of a port. A row is made where the answer is new.
    pub fn neighbour(&self, at: Nanos, source: Receiver, port: (&str, &str), far: (&str, &str)) -> Cabling {
        let names = &self.names;
        let (device, interface) = (bounded(port.0, limit::NAME), bounded(port.1, limit::NAME));
        let (neighbour, its_port) = (bounded(far.0, limit::NAME), bounded(far.1, limit::NAME));
        let verdict = names.cabling(&device, &interface, &neighbour, &its_port);
        let n = match verdict {
            Cabling::Same => 0,
            Cabling::Other(_) => 1,
            Cabling::Unknown => 2,
        };
        self.atoms.cabling[n].fetch_add(1, Relaxed);
        let answer = (neighbour.clone(), verdict.name());
        let mut told = lock(&self.told);
        let key = (device.clone(), interface.clone());
        if told.get(&key) == Some(&answer) {
            self.kept(source, 1);
            return verdict;
        }
        if told.len() >= NEIGHBOURS_MAX {
            told.clear();
        }
        told.insert(key, answer);
        drop(told);
        let component = names.port(&device, &interface).map(Component::Link);
        let row = Neighbour {
            at,
            source,
            device,
            interface,
            neighbour,
            neighbour_interface: its_port,
            verdict: verdict.clone(),
            component,
        };
        self.put(source, Row::Neighbour(row));
        verdict
    }

    /// What a receiver counted since the start.
    pub fn counted(&self, receiver: Receiver) -> Counted {
        let cell = self.cell(receiver);
        let mut dropped = [0; Dropped::ALL.len()];
        dropped.iter_mut().zip(&cell.dropped).for_each(|(to, from)| *to = from.load(Relaxed));
        Counted { heard: cell.heard.load(Relaxed), kept: cell.kept.load(Relaxed), dropped }
    }

    /// Everything that was dropped, by receiver and reason, where it is more than nothing.
    pub fn drops(&self) -> impl Iterator<Item = (Receiver, Dropped, u64)> + '_ {
        let of = move |r: Receiver| {
            Dropped::ALL.into_iter().map(move |why| (r, why, self.counted(r).dropped(why)))
        };
        Receiver::ALL.into_iter().flat_map(of).filter(|(.., n)| *n > 0)
    }

    /// What is counted besides.
    pub fn sums(&self) -> Sums {
        let cabling = |n: usize| self.atoms.cabling[n].load(Relaxed);
        Sums {
            cabling_same: cabling(0),
            cabling_other: cabling(1),
            cabling_unknown: cabling(2),
            observations: self.atoms.observations.load(Relaxed),
            observations_dropped: self.atoms.observations_dropped.load(Relaxed),
            samples: lock(&self.observer).tally,
        }
    }
}

impl Counted {
    /// How many were dropped for a reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize]
    }
}

/// A text within its limit; most are, and stay as they are.
fn trim(text: &mut String, most: usize) {
    if text.len() > most || text.chars().any(char::is_control) {
        *text = bounded(text, most);
    }
}

fn labels(labels: &mut Vec<(String, String)>) {
    labels.truncate(limit::LABELS);
    for (key, value) in labels.iter_mut() {
        trim(key, limit::NAME);
        trim(value, limit::VALUE);
    }
    let mut room = limit::LABELS_BYTES;
    labels.retain(|(key, value)| {
        let fits = key.len() + value.len() <= room;
        room -= if fits { key.len() + value.len() } else { 0 };
        fits
    });
}

/// Now, Unix nanoseconds.
pub(crate) fn now() -> Nanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// A clock may be ahead of ours by so much: the diagnosis refuses what is from the future.
const AHEAD_MAX: Nanos = Nanos::from_secs(2);

/// A told time, where it can be believed: not longer ago than `most`, and not ahead. Else now.
pub(crate) fn believable(told: Option<Nanos>, now: Nanos, most: Nanos) -> Nanos {
    told.filter(|t| now.since(*t) <= most && t.since(now) <= AHEAD_MAX).unwrap_or(now)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rows::EntityKind;
    use fabric::Fabric;

    /// A fabric of two leaves and an intake that calls things as the fabric does.
    pub(crate) fn intake(room: usize) -> (Arc<Intake>, mpsc::Receiver<Row>) {
        let text = "name='t'\nplanes=1\nleaves=2\nspines=2\nhosts=4\naccess={rate='1Gbit/s',latency='1us'}\n\
                    trunk={rate='1Gbit/s',latency='1us'}";
        let names = Names::identity(Arc::new(Fabric::parse(text).unwrap()));
        Intake::new(names, observe::Config::default(), room)
    }

    pub(crate) fn metric(name: &str, value: f64) -> Metric {
        Metric {
            at: Nanos::from_secs(10),
            window: None,
            source: Receiver::Otlp,
            device: "p0-leaf0".to_owned(),
            entity_kind: EntityKind::Interface,
            entity: "spine1".to_owned(),
            name: name.to_owned(),
            value,
            cumulative: true,
            labels: Vec::new(),
            component: None,
        }
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (intake, mut rows) = intake(2);
        assert_eq!(
            intake.metrics(vec![metric("x", 1.0), metric("y", f64::NAN), metric("z", 2.0), metric("w", 3.0)]),
            2
        );
        let c = intake.counted(Receiver::Otlp);
        assert_eq!((c.heard, c.kept), (4, 2));
        assert_eq!((c.dropped(Dropped::HubSlow), c.dropped(Dropped::NoNumber)), (1, 1));
        assert!(matches!(rows.try_recv(), Ok(Row::Metric(m)) if m.name == "x" && m.component.is_some()));
    }

    #[test]
    fn numbers_become_observations_of_the_link_they_came_by() {
        let (intake, mut rows) = intake(100);
        intake.metrics(vec![metric("fcs_errors", 1.0)]);
        intake.metrics(vec![Metric { at: Nanos::from_secs(11), ..metric("fcs_errors", 3.0) }]);
        let f = Arc::clone(intake.names().fabric());
        let mut seen = Vec::new();
        while let Ok(row) = rows.try_recv() {
            if let Row::Observation(o) = row {
                seen.push((f.component_name(o.component), o.delta, o.epoch));
            }
        }
        assert_eq!(seen, [("p0-spine1:p0-leaf0".to_owned(), 2, f.epoch)]);
    }

    #[test]
    fn a_port_that_turns_is_an_event_and_its_number() {
        let (intake, mut rows) = intake(100);
        let state =
            |s, up| Metric { at: Nanos::from_secs(s), cumulative: false, ..metric("oper_status", up) };
        assert_eq!(intake.metrics(vec![state(1, 1.0)]), 1);
        assert_eq!(intake.metrics(vec![state(2, 0.0)]), 1);
        let mut kinds = Vec::new();
        while let Ok(row) = rows.try_recv() {
            kinds.push(match row {
                Row::Metric(_) => "metric",
                Row::Observation(_) => "observation",
                Row::LinkEvent(_) => "event",
                _ => "other",
            });
        }
        assert_eq!(kinds, ["metric", "observation", "event", "metric"]);
        let c = intake.counted(Receiver::Otlp);
        assert_eq!((c.heard, c.kept), (3, 3));
    }

    #[test]
    fn a_clock_is_believed_within_limits() {
        let (now, most) = (Nanos::from_secs(1_000), Nanos::from_secs(30));
        for (told, at) in
            [(Some(970), 970), (Some(969), 1_000), (Some(1_002), 1_002), (Some(1_003), 1_000), (None, 1_000)]
        {
            assert_eq!(believable(told.map(Nanos::from_secs), now, most), Nanos::from_secs(at), "{told:?}");
        }
    }

    #[test]
    fn a_neighbour_is_a_row_when_the_answer_is_new() {
        let (intake, mut rows) = intake(100);
        let tell =
            |far: &str| intake.neighbour(Nanos(1), Receiver::Gnmi, ("p0-leaf0", "spine1"), (far, "leaf0"));
        assert_eq!(tell("p0-spine1"), Cabling::Same);
        assert_eq!(tell("p0-spine1"), Cabling::Same);
        assert_eq!(tell("p0-spine0"), Cabling::Other("p0-leaf0:p0-spine1".to_owned()));
        let sums = intake.sums();
        assert_eq!((sums.cabling_same, sums.cabling_other, sums.cabling_unknown), (2, 1, 0));
        assert!(matches!(rows.try_recv(), Ok(Row::Neighbour(n)) if n.verdict == Cabling::Same));
        assert!(matches!(rows.try_recv(), Ok(Row::Neighbour(n)) if n.neighbour == "p0-spine0"));
        assert!(rows.try_recv().is_err());
        let c = intake.counted(Receiver::Gnmi);
        assert_eq!((c.heard, c.kept), (3, 3));
    }
}
