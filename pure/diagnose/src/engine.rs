//! The online engine: takes observations, says what is sick.
//!
//! How: see the crate's page. The five verbs of the house, with `poll_event` as the only output.

use crate::config::Config;
use crate::health::{LinkHealth, PathHealth};
use crate::outcome::{Counters, Outcome, Reason};
use crate::ring::{Rings, word};
use crate::verdict::{Event, Verdict};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fabric::Fabric;
use wire::{ComponentObservation, Known, Leg, LinkId, Nanos, PathId, PathObservation, PathRef};

/// Clocks of producers may be this far ahead of `now`.
const AHEAD_MAX: Nanos = Nanos::from_secs(5);
/// Windows are at most this long.
const WINDOW_MAX: Nanos = Nanos::from_secs(60);
/// Most events waiting to be fetched.
const EVENTS_MAX: usize = 65_536;

/// The online localizer of one fabric.
pub struct Engine {
    fabric: Arc<Fabric>,
    config: Config,
    counters: Counters,
    rings: Rings,
    hurt: VecDeque<PathObservation>,
    events: VecDeque<Event>,
    verdicts: Vec<Verdict>,
    next_evaluation: Option<Nanos>,
    now: Nanos,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(fabric: Arc<Fabric>, config: Config) -> Engine {
        let links = fabric.link_bound() as usize;
        Engine {
            fabric,
            config,
            counters: Counters::default(),
            rings: Rings::new(links),
            hurt: VecDeque::new(),
            events: VecDeque::new(),
            verdicts: Vec::new(),
            next_evaluation: None,
            now: Nanos::ZERO,
        }
    }

    /// Takes one path observation. Order does not matter within the time the engine looks back.
    pub fn handle_path(&mut self, now: Nanos, o: &PathObservation) -> Outcome {
        self.now = self.now.max(now);
        match self.take_path(o) {
            Ok(()) => Outcome::Accepted,
            Err(reason) => {
                self.counters.dropped[reason as usize] += 1;
                Outcome::Dropped(reason)
            }
        }
    }

    fn take_path(&mut self, o: &PathObservation) -> Result<(), Reason> {
        if o.epoch != self.fabric.epoch {
            return Err(Reason::WrongEpoch);
        }
        if o.sent == 0 {
            return Err(Reason::Empty);
        }
        if o.lost > o.sent {
            return Err(Reason::BadCounts);
        }
        let end = o.window.end();
        if o.window.length > WINDOW_MAX || end > self.now + AHEAD_MAX {
            return Err(Reason::BadWindow);
        }
        if end + self.config.look_back < self.now {
            return Err(Reason::TooOld);
        }
        let add = word(o.sent);
        let (first, second) = match o.path {
            PathRef::OneWay(leg) => (leg, None),
            PathRef::RoundTrip { forward, backward } => (forward, Some(backward)),
        };
        let mut count = |leg: Leg| -> Result<(), Reason> {
            let links = self.fabric.path_links(leg.path).ok_or(Reason::UnknownPath)?;
            if leg.known != Known::Mixture {
                let slot = self.rings.slot(end);
                for l in links.iter() {
                    if let Some(c) = slot.get_mut(l.index()) {
                        *c = c.wrapping_add(add);
                    }
                }
            }
            Ok(())
        };
        count(first)?;
        if let Some(leg) = second {
            count(leg)?;
        }
        self.counters.paths += 1;
        self.counters.packets += u64::from(o.sent);
        if o.lost > 0 || o.reordered > 0 || o.ecn_marked > 0 || o.delay.is_some_and(|d| d.over > 0) {
            self.counters.hurt += 1;
            if self.hurt.len() >= self.config.hurt_max {
                self.hurt.pop_front();
                self.counters.hurt_forgotten += 1;
            }
            self.hurt.push_back(*o);
        }
        if self.next_evaluation.is_none() {
            self.next_evaluation = Some(self.now + self.config.evaluate_every);
        }
        Ok(())
    }

    /// Takes one component observation.
    pub fn handle_component(&mut self, now: Nanos, o: &ComponentObservation) -> Outcome {
        self.now = self.now.max(now);
        if o.epoch != self.fabric.epoch {
            self.counters.dropped[Reason::WrongEpoch as usize] += 1;
            return Outcome::Dropped(Reason::WrongEpoch);
        }
        self.counters.components += 1;
        Outcome::Accepted
    }

    /// Weighs the evidence. To be called when [`Engine::next_timeout`] is due; earlier does nothing.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        if self.next_evaluation.is_some_and(|t| t <= self.now) {
            self.counters.evaluations += 1;
            self.next_evaluation = Some(self.now + self.config.evaluate_every);
        }
    }

    /// When the evidence is to be weighed next; `None` while nothing has arrived.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.next_evaluation
    }

    /// The next thing to tell, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The open verdicts, most confident first.
    pub fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        let mut open: Vec<&Verdict> = self.verdicts.iter().filter(|v| v.closed_at.is_none()).collect();
        open.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.id.cmp(&b.id)));
        open.into_iter()
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The fabric it watches.
    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }

    /// How a link is doing. `None` where it does not exist.
    pub fn link_health(&self, link: LinkId) -> Option<LinkHealth> {
        if !self.fabric.exists(link) {
            return None;
        }
        let span = |s: u64| self.rings.since(link.index(), self.now.since(Nanos::from_secs(s))).packets;
        Some(LinkHealth {
            link,
            sent_10s: span(10),
            lost_10s: 0,
            sent_60s: span(60),
            lost_60s: 0,
            rate_10s: 0.0,
            rate_60s: 0.0,
            delay_excess_ns: 0,
        })
    }

    /// How a path is doing, link by link. `None` where it does not exist.
    pub fn path_health(&self, path: PathId) -> Option<PathHealth> {
        let links: Vec<LinkHealth> =
            self.fabric.path_links(path)?.iter().filter_map(|&l| self.link_health(l)).collect();
        let along = |rate: fn(&LinkHealth) -> f64| 1.0 - links.iter().map(|l| 1.0 - rate(l)).product::<f64>();
        Some(PathHealth {
            rate_10s: along(|l| l.rate_10s),
            rate_60s: along(|l| l.rate_60s),
            delay_excess_ns: links.iter().map(|l| l.delay_excess_ns).sum(),
            links,
        })
    }

    /// Tells a fresh engine what was known before a restart: open verdicts, and closed ones that may come back. The
    /// same fault then continues under its id, and a healed one is closed on evidence.
    pub fn restore(&mut self, known: &[Verdict]) {
        for v in known.iter().take(self.config.verdicts_max) {
            self.verdicts.push(v.clone());
        }
        self.events.truncate(EVENTS_MAX);
    }
}
