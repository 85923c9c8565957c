//! What is counted at single places: links, the ports at their ends, NICs, switches and hosts.
//!
//! How: for each place and counter the last minute's seconds in which anything was counted, and how many opportunities
//! a second has. What is usual is the upper middle of all places that report the same counter, so that a fabric that is
//! busy everywhere accuses nobody. How much a count says is a likelihood ratio against several times the usual,
//! capped by the number of seconds it was seen in: events of one moment come together.
//!
//! A port's counters stand under the link they concern: what was sent, marked, thrown away or held back for it under
//! the link that leaves the port, what arrived damaged under the link that enters it; a NIC's may stand under the NIC.
//!
//! Invariants: a place that never counted anything costs a few words; memory is bounded by the places of the fabric
//! times the counters.
//! Absent on purpose: who is to blame; [`crate::split`], [`crate::pause`] and [`crate::wear`] weigh that.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use libm::log;
use wire::{Component, ComponentObservation, Counter, Nanos};

/// How far back counts are kept one by one.
const SPAN: Nanos = Nanos::from_secs(60);
/// Most seconds with events kept of a series.
const SECONDS_MAX: usize = 64;
/// A place is asked for more than so many times what is usual.
const SPREAD: f64 = 4.0;
/// Most one counter says, and most a second in which it counted says, nats.
const NATS_MAX: f64 = 10.0;
const NATS_A_SECOND: f64 = 2.0;
/// Places that must report a counter before their middle is what is usual.
const USUAL_FROM: usize = 4;
const SECOND_NS: u64 = 1_000_000_000;

/// How a counter behaves where nothing is wrong.
struct Habit {
    /// Parts of a whole (bytes of a queue, time of a window), not events: what counts is in how many seconds.
    level: bool,
    /// Share of the opportunities, or events a second where there are none, that is nobody's fault.
    share: f64,
    per_second: f64,
}

fn habit(counter: Counter) -> Habit {
    let (level, share, per_second) = match counter {
        // an Ethernet link may lose one frame of 1e9 or so (IEEE 802.3, bit error ratio 1e-12 and better)
        Counter::FrameError => (false, 1e-8, 0.01),
        Counter::FrameCorrected => (false, 1e-4, 100.0),
        Counter::QueueDrop | Counter::HostQueueDrop => (false, 1e-6, 0.1),
        Counter::SocketDrop | Counter::NicOverrun | Counter::ChecksumError => (false, 1e-6, 0.1),
        Counter::QueueMarked => (false, 1e-3, 1.0),
        Counter::PauseSent | Counter::PauseReceived => (false, 1e-4, 5.0),
        Counter::CarrierLost => (false, 1e-4, 1e-4),
        Counter::TcpRetransmit => (false, 1e-3, 1.0),
        Counter::ResponderStall | Counter::SenderStall => (false, 0.02, 0.1),
        Counter::SoftirqLate | Counter::RunQueueLate => (false, 5e-3, 1.0),
        Counter::PausedTime => (true, 5e-3, 0.0),
        Counter::CpuPressure => (true, 0.05, 0.0),
        Counter::QueueDepth => (true, 0.1, 0.0),
        Counter::AgentSilent | Counter::AgentAway => (true, 1.0, 0.0),
    };
    Habit { level, share, per_second }
}

#[derive(Clone, Copy, Debug)]
struct Second {
    unit: u64,
    events: u64,
    of: u64,
}

#[derive(Clone, Debug)]
struct Series {
    /// Beginning of the first window and end of the last.
    first: Nanos,
    last: Nanos,
    /// Opportunities a second, smoothed.
    of_a_second: f64,
    /// Events of seconds that are no longer kept.
    past: f64,
    /// Seconds in which anything was counted, oldest first.
    seconds: VecDeque<Second>,
}

/// What a counter says about a place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Excess {
    pub(crate) events: u64,
    /// Opportunities, 0 where they are not counted.
    pub(crate) of: u64,
    /// Seconds in which more than usual was counted.
    pub(crate) seconds: u32,
    /// Events of opportunities, or a second.
    pub(crate) rate: f64,
    /// The same of the other places.
    pub(crate) usual: f64,
    /// Log-likelihood ratio against several times the usual.
    pub(crate) nats: f64,
    /// Beginning of the first and end of the last such second.
    pub(crate) first: Nanos,
    pub(crate) last: Nanos,
}

/// Counters of every place that reported any.
#[derive(Debug, Default)]
pub(crate) struct Places {
    series: BTreeMap<(Counter, Component), Series>,
    /// Usual rates, of opportunities and a second; made anew by [`Places::learn`].
    usual: BTreeMap<Counter, (f64, f64)>,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn take(&mut self, o: &ComponentObservation) {
        let seconds = o.window.length.as_secs_f64().max(1e-3);
        let s = self.series.entry((o.counter, o.component)).or_insert_with(|| Series {
            first: o.window.start,
            last: o.window.start,
            of_a_second: o.of as f64 / seconds,
            past: 0.0,
            seconds: VecDeque::new(),
        });
        s.first = s.first.min(o.window.start);
        s.last = s.last.max(o.window.end());
        s.of_a_second += 0.1 * (o.of as f64 / seconds - s.of_a_second);
        if o.delta == 0 {
            return;
        }
        let unit = o.window.end().0.saturating_sub(1) / SECOND_NS;
        match s.seconds.iter_mut().rev().find(|b| b.unit == unit) {
            Some(b) => {
                b.events = b.events.saturating_add(o.delta);
                b.of = b.of.saturating_add(o.of);
            }
            None => {
                let at = s.seconds.iter().rposition(|b| b.unit < unit).map_or(0, |i| i + 1);
                s.seconds.insert(at, Second { unit, events: o.delta, of: o.of });
            }
        }
        let oldest = s.last.since(SPAN).0 / SECOND_NS;
        while s.seconds.len() > SECONDS_MAX || s.seconds.front().is_some_and(|b| b.unit < oldest) {
            s.past += s.seconds.pop_front().map_or(0.0, |b| b.events as f64);
        }
    }

    /// Estimates what is usual, from the last minute of all places.
    pub(crate) fn learn(&mut self, now: Nanos) {
        let mut rates: BTreeMap<Counter, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        for ((counter, _), s) in &self.series {
            if s.last + SPAN < now {
                continue;
            }
            let (events, of, seconds) = s.sum(now.since(SPAN), now);
            let lists = rates.entry(*counter).or_default();
            if of > 0.0 { lists.0.push(events / of) } else { lists.1.push(events / seconds) }
        }
        let middle = |mut v: Vec<f64>| {
            v.sort_unstable_by(f64::total_cmp);
            if v.len() < USUAL_FROM { 0.0 } else { v.get(v.len() * 2 / 3).copied().unwrap_or(0.0) }
        };
        self.usual = rates.into_iter().map(|(c, (of, per))| (c, (middle(of), middle(per)))).collect();
    }

    /// Places that report a counter and counted something lately, in order.
    pub(crate) fn counting(&self, counter: Counter) -> impl Iterator<Item = Component> + '_ {
        let from = (counter, Component::Link(wire::LinkId(0)));
        let to = (counter, Component::Host(wire::HostId(u32::MAX)));
        self.series.range(from..=to).filter(|(_, s)| !s.seconds.is_empty()).map(|(k, _)| k.1)
    }

    /// What a counter says about a place from `since` on; `None` where it is not reported there.
    pub(crate) fn excess(
        &self,
        place: Component,
        counter: Counter,
        since: Nanos,
        now: Nanos,
    ) -> Option<Excess> {
        let s = self.series.get(&(counter, place)).filter(|s| s.last + SPAN >= now)?;
        let since = since.max(now.since(SPAN));
        let h = habit(counter);
        let (events, of, seconds) = s.sum(since, now);
        // A storm is everywhere; what every port suffers from is not usual for that.
        let absolute = matches!(counter, Counter::PauseSent | Counter::PauseReceived | Counter::PausedTime);
        let learned = self.usual.get(&counter).copied().filter(|_| !absolute).unwrap_or_default();
        let usual = if of > 0.0 { learned.0.max(h.share) } else { learned.1.max(h.per_second) };
        let most = SPREAD * usual;
        let rate = events / if of > 0.0 { of } else { seconds };
        let above = |b: &&Second| {
            let opportunities = if of > 0.0 { (b.of as f64).max(1.0) } else { 1.0 };
            b.events as f64 > most.min(0.9) * opportunities
        };
        let from = since.0 / SECOND_NS;
        let hot = || s.seconds.iter().filter(|b| b.unit >= from).filter(above);
        let count = hot().count() as u32;
        let per_count = if of > 0.0 {
            crate::evaluate::bound(events, of, most)
        } else if events > most * seconds {
            events * log(events / (most * seconds)) - events + most * seconds
        } else {
            0.0
        };
        let by_seconds = NATS_A_SECOND * f64::from(count);
        let nats = if h.level { by_seconds } else { per_count.min(by_seconds) };
        Some(Excess {
            events: events as u64,
            of: of as u64,
            seconds: count,
            rate,
            usual,
            nats: nats.clamp(0.0, NATS_MAX),
            first: hot().next().map_or(now, |b| Nanos(b.unit * SECOND_NS)),
            last: hot().next_back().map_or(Nanos::ZERO, |b| Nanos((b.unit + 1) * SECOND_NS).min(s.last)),
        })
    }

    /// A place's own rate before the last minute, a second; `None` while it has not been watched for as long again.
    pub(crate) fn before(&self, place: Component, counter: Counter, now: Nanos) -> Option<f64> {
        let s = self.series.get(&(counter, place))?;
        let watched = now.since(SPAN).since(s.first);
        (watched >= SPAN).then(|| s.past / watched.as_secs_f64())
    }
}

impl Series {
    /// Events, opportunities (0 where they are not counted) and seconds in a span.
    fn sum(&self, since: Nanos, now: Nanos) -> (f64, f64, f64) {
        let from = since.max(self.first);
        let seconds = now.min(self.last).since(from).as_secs_f64().max(0.5);
        let unit = from.0 / SECOND_NS;
        let (mut events, mut of) = (0.0, 0.0);
        for b in self.seconds.iter().filter(|b| b.unit >= unit) {
            events += b.events as f64;
            of += b.of as f64;
        }
        (events, of.max(self.of_a_second * seconds), seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Epoch, HostId, LinkId, Window};

    fn counted(link: u32, second: u64, delta: u64, of: u64) -> ComponentObservation {
        ComponentObservation {
            window: Window { start: Nanos::from_secs(second), length: Nanos::from_secs(1) },
            producer: HostId(0),
            epoch: Epoch(0),
            component: Component::Link(LinkId(link)),
            counter: Counter::FrameError,
            delta,
            of,
            size_ns: 0,
        }
    }

    #[test]
    fn what_is_usual_everywhere_accuses_nobody() {
        let mut p = Places::new();
        for second in 0..30 {
            (0..20).for_each(|l| p.take(&counted(l, second, 40 + u64::from(l % 3), 1_000_000)));
            p.take(&counted(20, second, 900, 1_000_000));
        }
        let now = Nanos::from_secs(30);
        p.learn(now);
        let nats =
            |l| p.excess(Component::Link(LinkId(l)), Counter::FrameError, Nanos::ZERO, now).unwrap().nats;
        assert!((0..20).all(|l| nats(l) == 0.0), "{}", nats(0));
        assert_eq!(nats(20), NATS_MAX);
    }

    #[test]
    fn a_single_second_says_little_and_a_minute_is_all_that_is_kept() {
        let mut p = Places::new();
        p.take(&counted(3, 5, 500, 1_000));
        let says = |p: &Places, now| {
            p.excess(Component::Link(LinkId(3)), Counter::FrameError, Nanos::ZERO, Nanos::from_secs(now))
        };
        assert_eq!(says(&p, 6).unwrap().nats, NATS_A_SECOND);
        assert_eq!(says(&p, 70), None);
        (0..300).for_each(|s| p.take(&counted(3, 10 + s, 1, 1_000)));
        assert!(p.series.values().all(|s| s.seconds.len() <= SECONDS_MAX));
        let before =
            p.before(Component::Link(LinkId(3)), Counter::FrameError, Nanos::from_secs(310)).unwrap();
        assert!((before - 741.0 / 245.0).abs() < 0.2, "{before}");
    }
}
