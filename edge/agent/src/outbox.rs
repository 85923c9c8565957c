//! What is on its way to the hub: batches, numbered without a gap, kept until acknowledged.
//!
//! How: observations are collected into columns; [`Outbox::cut`] makes a batch of them. A cursor says which batch
//! goes out next; after a reconnect it goes back to the first one that was not acknowledged.
//! Invariants: at most `rows_max` observations are held, the oldest batch goes first and its rows are counted as
//! lost; rows made = rows acknowledged + held + lost, exactly. A batch that arrived but whose Ack did not, and that
//! had to go, counts as lost although it is not.
//! Absent on purpose: any IO and any clock.

use probe::Observation;
use std::collections::{BTreeMap, VecDeque};
use wire::Epoch;
use wire::batch::{PROTOCOL_VERSION, push_component, push_path, rows};
use wire::proto::{Batch, ComponentColumns, PathColumns, SensorReading};
use wire::sensor;

/// Rows at which a batch is cut whatever the time.
pub(crate) const BATCH_ROWS_MAX: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Outbox {
    producer_epoch: u64,
    fabric_epoch: Epoch,
    next_sequence: u64,
    paths: PathColumns,
    components: ComponentColumns,
    /// What sensors read.
    read: SensorReading,
    held: VecDeque<Batch>,
    held_rows: usize,
    rows_max: usize,
    /// Index in `held` of the batch that goes out next.
    cursor: usize,
    lost: u64,
    made: u64,
    acknowledged: u64,
}

impl Outbox {
    pub(crate) fn new(producer_epoch: u64, fabric_epoch: Epoch, rows_max: usize) -> Self {
        Outbox {
            producer_epoch,
            fabric_epoch,
            next_sequence: 1,
            paths: PathColumns::default(),
            components: ComponentColumns::default(),
            read: SensorReading::default(),
            held: VecDeque::new(),
            held_rows: 0,
            rows_max,
            cursor: 0,
            lost: 0,
            made: 0,
            acknowledged: 0,
        }
    }

    fn collected(&self) -> usize {
        self.paths.window_start_ns.len() + self.components.window_start_ns.len() + self.read_rows()
    }

    fn read_rows(&self) -> usize {
        let r = &self.read;
        r.tcp.as_ref().map_or(0, sensor::tcp_rows)
            + r.drops.as_ref().map_or(0, sensor::drop_rows)
            + r.metrics.as_ref().map_or(0, sensor::metric_rows)
            + r.sensors.as_ref().map_or(0, sensor::sensor_rows)
    }

    /// Takes a reading of the sensors. It goes out with the next batch; one that is there already goes first.
    pub(crate) fn add_reading(&mut self, reading: SensorReading) {
        if self.read_rows() > 0 {
            self.cut(BTreeMap::new());
        }
        self.read = reading;
        self.made += self.read_rows() as u64;
    }

    /// Takes an observation. Says whether a batch should be cut now.
    pub(crate) fn add(&mut self, observation: &Observation) -> bool {
        self.made += 1;
        match observation {
            Observation::Path(o) => push_path(&mut self.paths, o),
            Observation::Component(o) => push_component(&mut self.components, o),
        }
        self.collected() >= BATCH_ROWS_MAX
    }

    /// Makes a batch of what was collected, where there is something.
    pub(crate) fn cut(&mut self, counters: BTreeMap<String, u64>) {
        let n = self.collected();
        if n == 0 {
            return;
        }
        let batch = Batch {
            version: PROTOCOL_VERSION,
            producer_epoch: self.producer_epoch,
            sequence: self.next_sequence,
            fabric_epoch: self.fabric_epoch.0,
            lost_before: 0,
            paths: Some(std::mem::take(&mut self.paths)),
            components: Some(std::mem::take(&mut self.components)),
            counters,
            tcp: self.read.tcp.take(),
            drops: self.read.drops.take(),
            metrics: self.read.metrics.take(),
            sensors: self.read.sensors.take(),
        };
        self.next_sequence += 1;
        self.held.push_back(batch);
        self.held_rows += n;
        while self.held_rows > self.rows_max && self.held.len() > 1 {
            self.lost += self.forget_first();
        }
    }

    fn forget_first(&mut self) -> u64 {
        let Some(batch) = self.held.pop_front() else { return 0 };
        self.cursor = self.cursor.saturating_sub(1);
        let n = rows(&batch);
        self.held_rows = self.held_rows.saturating_sub(n as usize);
        n
    }

    /// The next batch to send, with the losses so far; it counts as sent from now on.
    pub(crate) fn send(&mut self) -> Option<Batch> {
        let mut batch = self.held.get(self.cursor)?.clone();
        self.cursor += 1;
        batch.lost_before = self.lost;
        Some(batch)
    }

    /// Something is waiting to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        self.cursor < self.held.len()
    }

    /// Everything was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The hub has this batch, and so all before it.
    pub(crate) fn acknowledge(&mut self, producer_epoch: u64, sequence: u64) {
        if producer_epoch != self.producer_epoch {
            return;
        }
        while self.held.front().is_some_and(|b| b.sequence <= sequence) {
            self.acknowledged += self.forget_first();
        }
    }

    /// A new connection: everything that was not acknowledged goes out again.
    pub(crate) fn rewind(&mut self) {
        self.cursor = 0;
    }

    pub(crate) fn count_into(&self, counters: &mut BTreeMap<String, u64>) {
        counters.insert("outbox_made".to_owned(), self.made);
        counters.insert("outbox_lost".to_owned(), self.lost);
        counters.insert("outbox_acknowledged".to_owned(), self.acknowledged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Component, ComponentObservation, Counter, HostId, Window};

    fn observation() -> Observation {
        Observation::Component(ComponentObservation {
            window: Window::default(),
            producer: HostId(1),
            epoch: Epoch(5),
            component: Component::Host(HostId(1)),
            counter: Counter::SenderStall,
            delta: 1,
            of: 2,
            size_ns: 3,
        })
    }
    fn with(outbox: &mut Outbox, n: usize) {
        for _ in 0..n {
            outbox.add(&observation());
        }
        outbox.cut(BTreeMap::new());
    }
    fn sends(outbox: &mut Outbox) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| outbox.send()).map(|b| (b.sequence, b.lost_before)).collect()
    }

    #[test]
    fn what_is_not_acknowledged_goes_out_again() {
        let mut outbox = Outbox::new(9, Epoch(5), 100);
        outbox.cut(BTreeMap::new());
        assert!(outbox.is_empty(), "nothing makes no batch");
        for _ in 0..3 {
            with(&mut outbox, 2);
        }
        assert_eq!(sends(&mut outbox), [(1, 0), (2, 0), (3, 0)]);
        outbox.acknowledge(8, 3);
        outbox.acknowledge(9, 1);
        assert!(!outbox.has_unsent());
        outbox.rewind();
        assert_eq!(sends(&mut outbox), [(2, 0), (3, 0)]);
        outbox.acknowledge(9, 3);
        outbox.acknowledge(9, 2);
        assert!(outbox.is_empty());
        with(&mut outbox, 1);
        assert_eq!(sends(&mut outbox), [(4, 0)]);
    }

    #[test]
    fn a_full_buffer_loses_the_oldest_and_counts() {
        let mut outbox = Outbox::new(9, Epoch(5), 5);
        with(&mut outbox, 2);
        with(&mut outbox, 2);
        assert_eq!(sends(&mut outbox).len(), 2);
        with(&mut outbox, 2);
        assert_eq!(sends(&mut outbox), [(3, 2)], "what was sent stays sent");
        outbox.rewind();
        assert_eq!(sends(&mut outbox), [(2, 2), (3, 2)]);
        with(&mut outbox, 9);
        outbox.rewind();
        assert_eq!(sends(&mut outbox), [(4, 6)], "the newest batch is kept however large");
        outbox.acknowledge(9, 4);
        let mut c = BTreeMap::new();
        outbox.count_into(&mut c);
        assert_eq!(c.values().copied().collect::<Vec<_>>(), [9u64, 6, 15], "{c:?}");
    }
}
