//! The event queue: what happens next, and when.
//!
//! How: a binary heap keyed by time, then by the order of pushing, so that two events of one moment always come out
//! in the same order.
//!
//! Invariants: `pop` never goes back in time; nothing is lost. Absent on purpose: cancelling. Whoever changed their
//! mind ignores the event when it comes.

use alloc::collections::BinaryHeap;
use core::cmp::Ordering;
use wire::Nanos;

#[derive(Clone, Debug)]
struct Entry<T> {
    at: Nanos,
    order: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // the heap gives its greatest, so the earliest is the greatest
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Events in the order of their times.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
    now: Nanos,
    pushed: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now: Nanos::ZERO, pushed: 0 }
    }
}

impl<T> Queue<T> {
    /// The time of the last event taken out.
    pub fn now(&self) -> Nanos {
        self.now
    }
    /// Events pushed since the beginning.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }
    /// Adds an event. One that lies in the past happens now.
    pub fn push(&mut self, at: Nanos, what: T) {
        let order = self.pushed;
        self.pushed += 1;
        self.heap.push(Entry { at: at.max(self.now), order, what });
    }
    /// When the next event is due.
    pub fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|e| e.at)
    }
    /// Takes the next event out, where it is due by `until`.
    pub fn pop(&mut self, until: Nanos) -> Option<(Nanos, T)> {
        if self.next_at()? > until {
            return None;
        }
        let e = self.heap.pop()?;
        self.now = e.at;
        Some((e.at, e.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Against the plain model: a stable sort by time.
        #[test]
        fn pops_in_order_of_time_then_of_pushing(times in proptest::collection::vec(0u64..50, 0..200)) {
            let mut q = Queue::default();
            for (i, &t) in times.iter().enumerate() {
                q.push(Nanos(t), i);
            }
            let mut expected: Vec<_> = times.iter().copied().enumerate().map(|(i, t)| (Nanos(t), i)).collect();
            expected.sort_by_key(|e| e.0);
            let mut got = Vec::new();
            while let Some(e) = q.pop(Nanos::MAX) {
                got.push(e);
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn the_past_happens_now_and_the_future_waits() {
        let mut q = Queue::default();
        q.push(Nanos(10), 'a');
        assert_eq!(q.pop(Nanos(9)), None);
        assert_eq!(q.pop(Nanos(10)), Some((Nanos(10), 'a')));
        q.push(Nanos(3), 'b');
        assert_eq!(q.pop(Nanos(10)), Some((Nanos(10), 'b')));
    }
}
