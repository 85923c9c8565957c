//! The online engine: takes observations, says what is sick.
//!
//! How: see the crate's page. The five verbs of the house, with `poll_event` as the only output.

use crate::config::Config;
use crate::fan::{Fan, Fans};
use crate::flows::Flows;
use crate::health::{LinkHealth, PathHealth};
use crate::hosts::Hosts;
use crate::localize::Resent;
use crate::map::Components;
use crate::moments::Moments;
use crate::outcome::{Counters, Outcome, Reason};
use crate::places::Places;
use crate::ring::{Rings, word};
use crate::signal::Signal;
use crate::track::Tracked;
use crate::verdict::{Event, Verdict, VerdictId};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fabric::Fabric;
use wire::{
    Component, ComponentObservation, Counter, HostId, Known, Leg, LinkId, Nanos, PathId, PathObservation,
    PathRef, Source,
};

/// Clocks of producers may be this far ahead of `now`.
const AHEAD_MAX: Nanos = Nanos::from_secs(5);
/// Windows are at most this long.
const WINDOW_MAX: Nanos = Nanos::from_secs(60);
/// What an agent that comes or goes leaves unanswered is at most this far from the moment the hub saw it.
const EDGE: Nanos = Nanos::from_secs(2);
/// Nothing seen for so long is not the same as nothing hurt.
const BLIND: Nanos = Nanos::from_secs(2);
/// Absences remembered of each host.
const ABSENCES_MAX: usize = 4;
/// Most closings remembered for what arrives late.
pub(crate) const CLOSED_MAX: usize = 256;
/// Most events waiting to be fetched.
const EVENTS_MAX: usize = 65_536;

/// What is known of a signal's healthy state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Background {
    /// Hazard of a link.
    pub(crate) hazard: f64,
    /// Share of observations hurt at an end.
    pub(crate) noise: f64,
    /// What is peculiar to flows, once any were seen.
    pub(crate) resent: Option<Resent>,
}

/// An observation in which something was hurt, and the links it crossed.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) o: PathObservation,
    links: [LinkId; Kept::LINKS],
    len: u8,
    /// Whether its path is known; otherwise the links are those of one path of many.
    pub(crate) known: bool,
    /// The paths it may have taken, where it went one way and which is not known.
    pub(crate) fan: Option<Arc<Fan>>,
    /// Belongs to a fault that is over: no evidence for anything new.
    pub(crate) explained: bool,
}

impl Kept {
    const LINKS: usize = 2 * fabric::MAX_PATH_LINKS;

    fn push(&mut self, l: LinkId) {
        if !self.links().contains(&l)
            && let Some(at) = self.links.get_mut(usize::from(self.len))
        {
            *at = l;
            self.len += 1;
        }
    }

    /// Whether a flow counted it, by what it sent again.
    pub(crate) fn resent(&self) -> bool {
        self.o.source == Source::Flow
    }

    /// The links it crossed, if they are known.
    pub(crate) fn links(&self) -> &[LinkId] {
        self.links.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl core::ops::Deref for Kept {
    type Target = PathObservation;
    fn deref(&self) -> &PathObservation {
        &self.o
    }
}

/// The online localizer of one fabric.
pub struct Engine {
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) config: Config,
    pub(crate) components: Components,
    pub(crate) counters: Counters,
    /// What crossed each link.
    pub(crate) rings: Rings,
    /// What crossed each leaf upwards and downwards on paths that are not known, by size; made when first needed.
    pub(crate) unknown: Option<Rings>,
    /// The same counts of what flows say; made when the first one speaks.
    pub(crate) flows: Option<Flows>,
    fans: Fans,
    pub(crate) moments: Moments,
    /// Observations in which anything was hurt, in the order they came.
    pub(crate) hurt: VecDeque<Kept>,
    /// How many of the newest have not been looked at.
    pub(crate) fresh: usize,
    pub(crate) background: [Background; 4],
    pub(crate) hosts: Hosts,
    pub(crate) places: Places,
    pub(crate) tracked: Vec<Tracked>,
    /// When verdicts closed, and their links, sorted: what was hurt there before may still be on its way.
    pub(crate) closed: VecDeque<(Nanos, Vec<LinkId>)>,
    pub(crate) next_id: u64,
    events: VecDeque<Event>,
    next_evaluation: Option<Nanos>,
    pub(crate) next_review: Nanos,
    pub(crate) next_background: Nanos,
    pub(crate) now: Nanos,
    /// End of the newest window.
    pub(crate) newest: Nanos,
    /// End of the first window after nothing was seen for a while: before it nothing is known to have been well.
    pub(crate) watching_since: Nanos,
    /// End of the first window.
    pub(crate) begun: Option<Nanos>,
    /// For every host when it had no agent, the newest last: from, and until ([`Nanos::MAX`] while it has none).
    away: Vec<Vec<(Nanos, Nanos)>>,
    /// For every NIC the end of the first window in which it answered.
    answered: Vec<Option<Nanos>>,
    /// Hurt observations before this may have been forgotten.
    pub(crate) hurt_since: Nanos,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(fabric: Arc<Fabric>, config: Config) -> Engine {
        let background = Signal::ALL.map(|s| {
            let norm = s.norm(&config);
            Background {
                hazard: norm.background / fabric::MAX_PATH_LINKS as f64,
                noise: norm.noise,
                resent: None,
            }
        });
        Engine {
            away: alloc::vec![Vec::new(); fabric.shape.hosts as usize],
            answered: alloc::vec![None; fabric.nics() as usize],
            components: Components::new(&fabric),
            rings: Rings::new(fabric.link_bound() as usize),
            hosts: Hosts::new(),
            places: Places::new(),
            fabric,
            config,
            counters: Counters::default(),
            unknown: None,
            flows: None,
            fans: Fans::default(),
            moments: Moments::new(),
            hurt: VecDeque::new(),
            fresh: 0,
            background,
            tracked: Vec::new(),
            closed: VecDeque::new(),
            next_id: 1,
            events: VecDeque::new(),
            next_evaluation: None,
            next_review: Nanos::ZERO,
            next_background: Nanos::ZERO,
            now: Nanos::ZERO,
            newest: Nanos::ZERO,
            watching_since: Nanos::ZERO,
            begun: None,
            hurt_since: Nanos::ZERO,
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
        let legs = match o.path {
            PathRef::OneWay(leg) => [Some(leg), None],
            PathRef::RoundTrip { forward, backward } => [Some(forward), Some(backward)],
        };
        let mut paths = [fabric::PathLinks::default(); 2];
        for (leg, links) in legs.iter().zip(&mut paths) {
            if let Some(leg) = leg {
                *links = self.links_of(*leg).ok_or(Reason::UnknownPath)?;
            }
        }
        if self.not_there_yet(o, legs[0]) {
            self.counters.paths += 1;
            self.counters.packets += u64::from(o.sent);
            return Ok(());
        }
        // A window belongs to the time before its end.
        let within = Nanos(end.0.saturating_sub(1));
        let mut crossed = 0;
        let mut known = true;
        for (leg, links) in legs.iter().zip(&paths) {
            let Some(leg) = leg else { break };
            crossed += links.len() as u64;
            known &= leg.known != Known::Mixture;
            self.count(within, o, *leg, links);
        }
        let exposure = crossed * u64::from(o.sent);
        if o.source == Source::Flow {
            self.flows_mut(within).add(within, u64::from(o.sent), exposure);
        } else {
            self.moments.add(within, exposure);
        }
        self.counters.paths += 1;
        self.counters.packets += u64::from(o.sent);
        if end > self.newest + BLIND {
            self.watching_since = end;
        }
        self.newest = self.newest.max(end);
        self.begun.get_or_insert(end);
        if o.lost > 0 || o.reordered > 0 || o.ecn_marked > 0 || o.delay.is_some_and(|d| d.over > 0) {
            let fan = match o.path {
                PathRef::OneWay(leg) if !known => self.fans.of(&self.fabric, leg.path),
                _ => None,
            };
            let mut kept =
                Kept { o: *o, links: [LinkId(0); Kept::LINKS], len: 0, known, fan, explained: false };
            for &l in paths.iter().flat_map(|p| p.iter()) {
                kept.push(l);
            }
            kept.explained = self.closed.iter().any(|(at, links)| {
                o.window.start < *at && self.hurt_links(&kept).iter().any(|l| links.binary_search(l).is_ok())
            });
            self.keep_hurt(kept);
        }
        if self.next_evaluation.is_none() {
            self.next_evaluation = Some(self.now + self.config.evaluate_every);
        }
        Ok(())
    }

    /// Whether packets were lost because nobody answers at the far end yet. Hosts do not all start at once: until a NIC
    /// has first answered, or has had the grace to, what it does not answer says nothing about the way there.
    fn not_there_yet(&mut self, o: &PathObservation, first: Option<Leg>) -> bool {
        let Some((from, to, _)) = first.and_then(|leg| self.fabric.path_parts(leg.path)) else {
            return false;
        };
        let (end, begun) = (o.window.end(), *self.begun.get_or_insert(o.window.end()));
        // the one of the two that answers is not the one that counted
        let far = if self.fabric.nic_parts(from).1 == o.producer { to } else { from };
        if self.away(self.fabric.nic_parts(far).1, o) {
            return true;
        }
        let Some(answered) = self.answered.get_mut(far.index()) else { return false };
        if o.lost < o.sent && answered.is_none() {
            *answered = Some(end);
        }
        o.lost > 0
            && match *answered {
                Some(at) => o.window.start < at && o.lost == o.sent,
                None => end < begun + self.config.grace,
            }
    }

    /// Whether no agent may have run at the far end meanwhile. Then nothing counts, neither what was lost nor what was
    /// not: a fault that takes all or nothing would look healed by the rest.
    fn away(&self, host: HostId, o: &PathObservation) -> bool {
        let absences = self.away.get(host.0 as usize).map_or(&[][..], |list| list);
        absences.iter().any(|&(from, until)| o.window.end() + EDGE >= from && o.window.start <= until + EDGE)
    }

    /// Takes what the hub says of agents that come and go.
    fn take_presence(&mut self, host: HostId, o: &ComponentObservation) {
        let Some(absences) = self.away.get_mut(host.0 as usize) else { return };
        let (start, end) = (o.window.start, o.window.end());
        // Two absences with little between them are one.
        let from = match absences.pop_if(|(_, until)| start <= *until + EDGE) {
            Some((from, _)) => from.min(start),
            None => start,
        };
        if o.delta > 0 {
            absences.push((from, Nanos::MAX));
        } else if from < end {
            absences.push((from, end));
        }
        // else it never was away: it only could not be heard
        if absences.len() > ABSENCES_MAX {
            absences.remove(0);
        }
    }

    /// The links of a leg; of one that is not known, those it has in any case come first and last.
    pub(crate) fn links_of(&self, leg: Leg) -> Option<fabric::PathLinks> {
        if leg.known != Known::Mixture {
            return self.fabric.path_links(leg.path);
        }
        let (from, to, _) = self.fabric.path_parts(leg.path)?;
        self.fabric.paths(from, to).next().and_then(|p| self.fabric.path_links(p))
    }

    fn flows_mut(&mut self, at: Nanos) -> &mut Flows {
        let links = self.fabric.link_bound() as usize;
        self.flows.get_or_insert_with(|| Flows::new(links, at))
    }

    #[inline]
    fn count(&mut self, end: Nanos, o: &PathObservation, leg: Leg, links: &[LinkId]) {
        let add = word(o.sent);
        let leaves = self.fabric.shape.planes * self.fabric.shape.leaves;
        let mixture = leg.known == Known::Mixture && links.len() >= fabric::MAX_PATH_LINKS;
        if o.source == Source::Flow {
            self.flows_mut(end);
        }
        let (rings, unknown) = match &mut self.flows {
            Some(f) if o.source == Source::Flow => (&mut f.rings, &mut f.unknown),
            _ => (&mut self.rings, &mut self.unknown),
        };
        let slot = rings.slot(end);
        let mut one = |l: LinkId| {
            if let Some(c) = slot.get_mut(l.index()) {
                *c = c.wrapping_add(add);
            }
        };
        if !mixture {
            links.iter().for_each(|&l| one(l));
            return;
        }
        let (Some(&first), Some(&last)) = (links.first(), links.last()) else { return };
        one(first);
        one(last);
        let rings = unknown.get_or_insert_with(|| Rings::new(2 * leaves as usize * SIZES));
        let slot = rings.slot(end);
        for (link, down) in [(first, 0), (last, 1)] {
            if let Some(leaf) = leaf_of(&self.fabric, link)
                && let Some(c) = slot.get_mut(unknown_at(leaf, down, o.sent))
            {
                *c = c.wrapping_add(add);
            }
        }
    }

    fn keep_hurt(&mut self, kept: Kept) {
        self.counters.hurt += 1;
        let oldest = self.now.since(self.config.look_back);
        while let Some(front) = self.hurt.front() {
            let full = self.hurt.len() >= self.config.hurt_max;
            if !full && front.o.window.end() >= oldest {
                break;
            }
            if full {
                self.counters.hurt_forgotten += 1;
                self.hurt_since = self.hurt_since.max(front.o.window.end());
            }
            self.hurt.pop_front();
        }
        self.hurt.push_back(kept);
        self.fresh = (self.fresh + 1).min(self.hurt.len());
    }

    /// Takes one component observation.
    pub fn handle_component(&mut self, now: Nanos, o: &ComponentObservation) -> Outcome {
        self.now = self.now.max(now);
        let reason = if o.epoch != self.fabric.epoch {
            Some(Reason::WrongEpoch)
        } else if !self.hosts.knows(&self.fabric, o) {
            Some(Reason::UnknownComponent)
        } else if o.of > 0 && o.delta > o.of {
            Some(Reason::BadCounts)
        } else if o.window.length > WINDOW_MAX || o.window.end() > self.now + AHEAD_MAX {
            Some(Reason::BadWindow)
        } else if o.window.end() + self.config.look_back < self.now {
            Some(Reason::TooOld)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.counters.dropped[reason as usize] += 1;
            return Outcome::Dropped(reason);
        }
        self.counters.components += 1;
        if let (Counter::AgentAway, Component::Host(host)) = (o.counter, o.component) {
            self.take_presence(host, o);
            return Outcome::Accepted;
        }
        self.hosts.take(&self.fabric, o);
        self.places.take(o);
        if self.next_evaluation.is_none() {
            self.next_evaluation = Some(self.now + self.config.evaluate_every);
        }
        Outcome::Accepted
    }

    /// Weighs the evidence. To be called when [`Engine::next_timeout`] is due; earlier does nothing.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        if self.next_evaluation.is_some_and(|t| t <= self.now) {
            self.counters.evaluations += 1;
            self.evaluate();
            self.next_evaluation = Some(self.now + self.config.evaluate_every);
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
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
        let mut open: Vec<&Verdict> =
            self.tracked.iter().map(|t| &t.verdict).filter(|v| v.closed_at.is_none()).collect();
        open.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.id.cmp(&b.id)));
        open.into_iter()
    }

    /// The verdict with this id, open or closed, while it is remembered.
    pub fn verdict(&self, id: VerdictId) -> Option<&Verdict> {
        self.tracked.iter().map(|t| &t.verdict).find(|v| v.id == id)
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
        self.links_health(&[link]).pop()
    }

    /// How links are doing, in one go; those that do not exist are left out.
    pub fn links_health(&self, links: &[LinkId]) -> Vec<LinkHealth> {
        crate::health::links(self, links)
    }

    /// How a path is doing, link by link. `None` where it does not exist.
    pub fn path_health(&self, path: PathId) -> Option<PathHealth> {
        let links = self.links_health(&self.fabric.path_links(path)?);
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
            if self.tracked.iter().any(|t| t.verdict.id == v.id) {
                continue;
            }
            self.next_id = self.next_id.max(v.id.0.saturating_add(1));
            self.tracked.push(Tracked::restored(v.clone()));
        }
    }
}

/// Where traffic on unknown paths is counted, by the leaf it left or came to and by its size: two octaves a class, so
/// that a thousand short flows and a long one are not taken for a thousand and one of the mean length.
pub(crate) fn unknown_at(leaf: u32, down: u32, sent: u32) -> usize {
    let size = (sent.max(1).ilog2() / 2).min(SIZES as u32 - 1);
    (2 * leaf + down) as usize * SIZES + size as usize
}

/// Classes of size.
pub(crate) const SIZES: usize = 8;

/// The leaf a NIC's cable is on, numbered over all planes.
pub(crate) fn leaf_of(fabric: &Fabric, access: LinkId) -> Option<u32> {
    let nic = fabric.cable_of(access).ok()?;
    let (plane, ..) = fabric.nic_parts(nic);
    Some(u32::from(plane.0) * fabric.shape.leaves + fabric.nic_leaf_port(nic).0)
}
