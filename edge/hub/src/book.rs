//! The incident book: every incident the hub knows, as the desk sees it.
//!
//! How: the engine's events change incidents. Openings, closings, reopenings and labels go to the keeper at once,
//! refinements with the next of those or once a second; the keeper writes and publishes.
//! Invariants: an open incident of the engine has exactly one open incident here; ids are never used again; at most
//! [`CLOSED_MAX`] closed incidents are kept, the oldest go first and are counted.
//! Absent on purpose: a decision about what is sick.

use crate::incident::{Act, Change, Incident};
use crate::keeper::Keeper;
use diagnose::{Event, Verdict};
use fabric::Fabric;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::Nanos;

/// Most closed incidents kept.
pub(crate) const CLOSED_MAX: usize = 10_000;

/// Open before closed, most confident first, newest first.
pub(crate) fn ordered<'a>(incidents: impl Iterator<Item = &'a Incident>) -> Vec<&'a Incident> {
    let mut all: Vec<&Incident> = incidents.collect();
    all.sort_by(|a, b| {
        b.is_open()
            .cmp(&a.is_open())
            .then(b.confidence.total_cmp(&a.confidence))
            .then(b.last_seen_ns.cmp(&a.last_seen_ns))
            .then(b.number.cmp(&a.number))
    });
    all
}

pub(crate) struct Book {
    fabric: Arc<Fabric>,
    incidents: BTreeMap<u64, Incident>,
    by_verdict: BTreeMap<u64, u64>,
    next_number: u64,
    keeper: Option<Keeper>,
    /// Changed since the last write.
    dirty: BTreeSet<u64>,
    /// Something that must not wait is among them.
    urgent: bool,
    forgotten: Vec<u64>,
    forgotten_total: u64,
    changes: [(&'static str, u64); 3],
}

impl Book {
    /// A book in memory only, for a replay.
    pub(crate) fn in_memory(fabric: Arc<Fabric>) -> Self {
        Book::with(fabric, BTreeMap::new(), 1)
    }

    fn with(fabric: Arc<Fabric>, incidents: BTreeMap<u64, Incident>, next_number: u64) -> Self {
        Book {
            fabric,
            incidents,
            by_verdict: BTreeMap::new(),
            next_number,
            keeper: None,
            dirty: BTreeSet::new(),
            urgent: false,
            forgotten: Vec::new(),
            forgotten_total: 0,
            changes: [("opened", 0), ("closed", 0), ("reopened", 0)],
        }
    }

    /// The book as it was left. Incidents of another fabric are closed, since their ids mean nothing in this one.
    pub(crate) fn of(fabric: Arc<Fabric>, incidents: Vec<Incident>, next_number: u64, now: Nanos) -> Self {
        let incidents: BTreeMap<u64, Incident> = incidents.into_iter().map(|i| (i.number, i)).collect();
        let highest = incidents.keys().next_back().map_or(0, |n| n.saturating_add(1));
        let mut book = Book::with(fabric, incidents, next_number.max(highest));
        let epoch = book.fabric.epoch.0;
        for incident in book.incidents.values_mut() {
            if incident.is_open() && incident.fabric_epoch != epoch {
                incident.closed_at_ns = Some(now.0);
                incident.note(now, Change::FabricChanged);
                book.dirty.insert(incident.number);
            }
        }
        book
    }

    /// From now on, changes go to this keeper, beginning with those made so far.
    pub(crate) fn keep(&mut self, keeper: Keeper) {
        self.keeper = Some(keeper);
        self.flush();
    }

    /// What the engine must be told after a start: open verdicts, and those closed so recently that they may be
    /// reopened.
    pub(crate) fn take_up(&mut self, now: Nanos, reopen_within: Nanos) -> Vec<Verdict> {
        let known: Vec<(u64, u64, Verdict)> =
            self.restorable(now, reopen_within).map(|i| (i.verdict_id, i.number, i.verdict())).collect();
        self.by_verdict.extend(known.iter().map(|&(verdict, number, _)| (verdict, number)));
        known.into_iter().map(|(_, _, verdict)| verdict).collect()
    }

    /// The incidents behind [`Book::take_up`].
    pub(crate) fn restorable(&self, now: Nanos, reopen_within: Nanos) -> impl Iterator<Item = &Incident> {
        let epoch = self.fabric.epoch.0;
        self.incidents.values().filter(move |i| {
            i.fabric_epoch == epoch && i.closed_at_ns.is_none_or(|t| Nanos(t) + reopen_within > now)
        })
    }

    /// Puts verdicts known from elsewhere (the header of a recording) into the book.
    pub(crate) fn adopt(&mut self, now: Nanos, known: Vec<Incident>) -> Vec<Verdict> {
        for incident in known {
            self.next_number = self.next_number.max(incident.number.saturating_add(1));
            self.incidents.insert(incident.number, incident);
        }
        self.take_up(now, Nanos::MAX)
    }

    fn mark(&mut self, number: u64, urgent: bool) {
        self.dirty.insert(number);
        self.urgent |= urgent;
    }

    /// Takes what the engine has to tell. Returns the incident where it was more than a refinement.
    pub(crate) fn take(&mut self, now: Nanos, event: &Event) -> Option<&Incident> {
        let verdict = event.verdict();
        let known = self.by_verdict.get(&verdict.id.0).copied();
        let number = match (event, known) {
            // A new verdict under an id whose incident is over is a new incident.
            (Event::Opened(_), Some(n)) if !self.incidents.get(&n).is_some_and(Incident::is_open) => {
                self.begin(now, verdict)
            }
            (_, Some(n)) => n,
            (_, None) => self.begin(now, verdict),
        };
        let change = match event {
            Event::Opened(_) => Some(0),
            Event::Closed(_) => Some(1),
            Event::Reopened(_) => Some(2),
            Event::Updated(_) => None,
        };
        if let Some(count) = change.and_then(|c: usize| self.changes.get_mut(c)) {
            count.1 = count.1.saturating_add(1);
        }
        let fabric = Arc::clone(&self.fabric);
        let incident = self.incidents.get_mut(&number)?;
        let urgent = incident.apply(now, event, &fabric);
        self.mark(number, urgent);
        if urgent {
            self.forget_oldest();
        }
        self.incidents.get(&number).filter(|_| urgent)
    }

    fn begin(&mut self, now: Nanos, verdict: &Verdict) -> u64 {
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(1);
        self.incidents.insert(number, Incident::new(number, now, verdict, &self.fabric));
        self.by_verdict.insert(verdict.id.0, number);
        number
    }

    fn forget_oldest(&mut self) {
        let closed = self.incidents.values().filter(|i| !i.is_open()).count();
        if closed <= CLOSED_MAX {
            return;
        }
        let oldest = self.incidents.values().find(|i| !i.is_open()).map(|i| (i.number, i.verdict_id));
        if let Some((number, verdict)) = oldest {
            self.incidents.remove(&number);
            if self.by_verdict.get(&verdict) == Some(&number) {
                self.by_verdict.remove(&verdict);
            }
            self.dirty.remove(&number);
            self.forgotten.push(number);
            self.forgotten_total = self.forgotten_total.saturating_add(1);
        }
    }

    /// Hands over what must not wait.
    pub(crate) fn settle(&mut self) {
        if self.urgent {
            self.flush();
        }
    }

    /// Hands everything that changed to the keeper. The ticket says when it is on disk; 0 where there is no keeper.
    pub(crate) fn flush(&mut self) -> u64 {
        self.urgent = false;
        let (dirty, forgotten) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.forgotten));
        let Some(keeper) = self.keeper.as_ref().filter(|_| !dirty.is_empty() || !forgotten.is_empty()) else {
            return 0;
        };
        let changed = dirty.iter().filter_map(|n| self.incidents.get(n).cloned());
        keeper.write(changed, forgotten)
    }

    /// Writes down what a person did. `None` where there is no such incident, else the ticket of the write.
    pub(crate) fn act(&mut self, now: Nanos, number: u64, by: &str, act: Act) -> Option<u64> {
        self.incidents.get_mut(&number)?.act(now, by, act);
        self.mark(number, true);
        Some(self.flush())
    }

    /// The incidents, in the order of [`ordered`].
    pub(crate) fn ordered(&self) -> Vec<&Incident> {
        ordered(self.incidents.values())
    }

    pub(crate) fn forgotten_total(&self) -> u64 {
        self.forgotten_total
    }

    /// How many incidents were opened, closed and reopened since the start.
    pub(crate) fn changes(&self) -> [(&'static str, u64); 3] {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::Judgement;
    use crate::store::Store;
    use crate::tests::{a_fabric, a_verdict};

    fn open(book: &Book) -> usize {
        book.ordered().iter().filter(|i| i.is_open()).count()
    }

    #[test]
    fn one_fault_is_one_incident() {
        let mut book = Book::in_memory(a_fabric());
        let at = Nanos::from_secs;
        let v = a_verdict(7);
        assert_eq!(book.take(at(1), &Event::Opened(v.clone())).map(Incident::id).as_deref(), Some("inc-1"));
        assert!(book.take(at(2), &Event::Updated(v.clone())).is_none());
        assert!(book.take(at(3), &Event::Opened(v.clone())).is_some(), "opened twice is the same incident");
        let closed = Verdict { closed_at: Some(at(4)), ..v.clone() };
        book.take(at(4), &Event::Closed(closed.clone()));
        assert_eq!(open(&book), 0);
        book.take(at(5), &Event::Reopened(v.clone()));
        assert_eq!((open(&book), book.ordered().len()), (1, 1));
        assert_eq!(book.ordered()[0].times_reopened, 1);
        book.take(at(6), &Event::Closed(closed));
        book.take(at(7), &Event::Opened(v));
        assert_eq!((open(&book), book.ordered().len()), (1, 2), "a new fault under an old id is new");
        let texts: Vec<_> = book.ordered()[1].timeline.iter().map(|e| e.text.clone()).collect();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        loss of 1.0 % on link p0-leaf1:p0-spine0, confidence 0.97
        loss of 1.0 % on link p0-leaf1:p0-spine0, confidence 0.97
        healed: packets cross it unhurt again
        loss of 1.0 % on link p0-leaf1:p0-spine0, confidence 0.97
        healed: packets cross it unhurt again
        "#);
    }

    /// What is on disk, opened by a hub at `now`, changed, and closed again.
    fn session(dir: &std::path::Path, fabric: Arc<Fabric>, now: Nanos, change: impl FnOnce(&mut Book)) {
        let tables = crate::tests::some_tables(dir);
        let (store, loaded) = Store::open(Arc::clone(&tables)).unwrap();
        let (keeper, thread) = Keeper::start(store, BTreeMap::new()).unwrap();
        let mut book = Book::of(fabric, loaded.incidents, loaded.next_number, now);
        book.keep(keeper.clone());
        change(&mut book);
        book.flush();
        keeper.stop();
        thread.join().unwrap();
        assert_eq!(keeper.error(), None);
    }

    #[test]
    fn a_restart_keeps_the_book() {
        let dir = crate::tests::a_directory("book");
        let at = Nanos::from_secs;
        let verdict = a_verdict(7);
        session(&dir, a_fabric(), at(1), |book| {
            book.take(at(1), &Event::Opened(verdict.clone()));
            book.settle();
            let label = || Act::Label { judgement: Judgement::Right, note: "saw it".to_owned() };
            assert!(book.act(at(2), 1, "ada", label()).is_some());
            assert!(book.act(at(2), 9, "ada", label()).is_none());
        });
        session(&dir, a_fabric(), at(3), |book| {
            let known = book.take_up(at(3), Nanos::from_secs(600));
            assert_eq!(known, std::slice::from_ref(&verdict));
            let label = book.ordered()[0].label.clone();
            assert_eq!(label.map(|l| l.note).as_deref(), Some("saw it"));
            book.take(at(4), &Event::Updated(verdict.clone()));
            book.take(at(5), &Event::Opened(a_verdict(8)));
            let ids: Vec<String> = book.ordered().iter().map(|i| i.id()).collect();
            assert_eq!(ids, ["inc-2", "inc-1"], "continued, not doubled, and numbers go on");
        });
        let (_, loaded) = Store::open(crate::tests::some_tables(&dir)).unwrap();
        assert_eq!((loaded.incidents.len(), loaded.next_number), (2, 3));
    }

    #[test]
    fn another_fabric_closes_what_was_open() {
        let dir = crate::tests::a_directory("book-fabric");
        let at = Nanos::from_secs;
        session(&dir, a_fabric(), at(1), |book| {
            book.take(at(1), &Event::Opened(a_verdict(7)));
        });
        let mut other = Fabric::clone(&a_fabric());
        other.epoch = wire::Epoch(1);
        session(&dir, Arc::new(other), at(3), |book| {
            assert!(book.ordered().iter().all(|i| !i.is_open()));
            assert_eq!(book.take_up(at(3), Nanos::MAX), []);
        });
        let (_, loaded) = Store::open(crate::tests::some_tables(&dir)).unwrap();
        assert_eq!(loaded.incidents[0].closed_at_ns, Some(at(3).0));
    }
}
