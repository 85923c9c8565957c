//! Numbers of ports become observations, the same way whoever told them.
//!
//! How: receivers hand over what was told together (a notification, a scrape, an export) as one batch of [`Metric`]s in
//! the words of [`crate::vocabulary`]. A running total becomes the difference to the sample before it, over the time
//! between their two stamps; events get their opportunities (errors of packets) from the same batch or the nearest one.
//! Ports that go down are counted once, whether a message, a state or a counter says so.
//!
//! Invariants: the first sample of a total says nothing; a total that went back is a restart (what it counts since then) or
//! a wrap of 32 bits, told apart by where it was; a sample not newer than the one before it says nothing; a window longer
//! than [`Config::gap_max`] is not observed; of several words for one counter, and of several receivers of one port, only
//! one is believed, so that nothing is counted twice; no more than [`Config::series_max`] totals are remembered;
//! `delta <= of` wherever `of` is known. Every window is said, also where nothing was counted in it: a counter that is
//! there and counts nothing is evidence too.

use crate::rows::{LinkEvent, Metric, Receiver};
use crate::setting;
use crate::vocabulary::{self, Meaning};
use fabric::Fabric;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;
use wire::{Component, ComponentObservation, Counter, HostId, Nanos, Window};

/// What 32 bits count, and where of it a total must have been to have gone over the end: one that was below began anew.
const WRAP: f64 = 4_294_967_296.0;
const WRAP_FROM: f64 = 0.75 * WRAP;
/// The length of the window in which a port that a message told of went down.
const EVENT: Nanos = Nanos::from_secs(1);

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who says the observations; the diagnosis wants a host of the fabric, though none of them counted. Default 0.
    pub producer: HostId,
    /// The longest time between two samples of a total that is still one window, default 60 s: the diagnosis refuses
    /// longer windows.
    pub gap_max: Duration,
    /// Totals remembered, default 400,000; those of more ports are not observed, and counted.
    pub series_max: usize,
    /// Another receiver of the same number is believed after this long without the first, default 2 min.
    pub silence: Duration,
    /// Bytes in a queue from which its depth is an observation, default 1 MiB.
    pub queue_mark_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            producer: HostId(0),
            gap_max: Duration::from_secs(60),
            series_max: 400_000,
            silence: Duration::from_secs(120),
            queue_mark_bytes: 1 << 20,
        }
    }
}

/// What came of the samples, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Samples not newer than the one before them.
    pub stale: u64,
    /// Totals that began anew.
    pub restarts: u64,
    /// Totals that went over the end of 32 bits.
    pub wraps: u64,
    /// Totals there was no room for.
    pub untracked: u64,
    /// Windows too long to be one.
    pub gaps: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Nanos,
    value: f64,
}

/// A difference between two samples.
#[derive(Clone, Copy, Debug)]
struct Step {
    window: Window,
    delta: f64,
}

/// What is known of one counter of one component.
#[derive(Clone, Copy, Debug)]
struct Channel {
    receiver: Receiver,
    heard: Nanos,
    /// The highest rank that ever counted anything.
    believed: Option<u8>,
    /// Carrier: changes of which the second has not come; losses told by messages since the last counter.
    odd: bool,
    told: u64,
}

/// The state of a port.
#[derive(Clone, Copy, Debug)]
struct Port {
    up: bool,
    at: Nanos,
}

/// Turns batches into observations.
#[derive(Debug)]
pub struct Observer {
    config: Config,
    fabric: Arc<Fabric>,
    /// By component and a hash of receiver, entity, name and labels.
    series: HashMap<(Component, u64), Sample>,
    /// The last difference of a word that is somebody's opportunities.
    chances: HashMap<(Component, &'static str), Step>,
    channels: HashMap<(Component, Counter), Channel>,
    ports: HashMap<Component, Port>,
    swept: Nanos,
    /// What came of the samples.
    pub tally: Tally,
}

/// Words whose sum is that of a word that was not told.
fn parts_of(name: &str) -> &'static [&'static str] {
    match name {
        "in_packets" => &["in_unicast_packets", "in_multicast_packets", "in_broadcast_packets"],
        "out_packets" => &["out_unicast_packets", "out_multicast_packets", "out_broadcast_packets"],
        _ => &[],
    }
}

impl Observer {
    /// Nothing known yet.
    pub fn new(config: Config, fabric: Arc<Fabric>) -> Observer {
        Observer {
            config,
            fabric,
            series: HashMap::new(),
            chances: HashMap::new(),
            channels: HashMap::new(),
            ports: HashMap::new(),
            swept: Nanos::ZERO,
            tally: Tally::default(),
        }
    }

    /// Takes what was told together, in any order; appends what it means. Ports that a state says went up or down.
    pub fn batch(&mut self, metrics: &[Metric], out: &mut Vec<ComponentObservation>) -> Vec<LinkEvent> {
        let mut turned = Vec::new();
        type Events = BTreeMap<(Component, Counter, Receiver), Vec<(Meaning, Step)>>;
        let mut events: Events = BTreeMap::new();
        for m in metrics {
            let (Some(component), Some(word)) = (m.component, vocabulary::lookup(&m.name)) else { continue };
            if word.name == vocabulary::OPER_STATUS {
                let up = m.value > 0.5;
                if self.ports.get(&component).is_some_and(|before| before.up != up && before.at <= m.at) {
                    turned.push(LinkEvent {
                        at: m.at,
                        source: m.source,
                        device: m.device.clone(),
                        interface: m.entity.clone(),
                        up,
                        text: format!("{} {}", m.name, m.value),
                        component: m.component,
                    });
                }
                out.extend(self.port(component, m.at, up, false));
                continue;
            }
            let is_of = word.cumulative || word.name == vocabulary::QUEUE_SIZE;
            if word.meaning.is_none() && !is_of {
                continue;
            }
            let Some(step) = self.step(component, m, word.cumulative) else { continue };
            if let Some(meaning) = word.meaning {
                events.entry((component, meaning.counter, m.source)).or_default().push((meaning, step));
            }
            if word.meaning.is_none() {
                self.chances.insert((component, word.name), step);
            }
        }
        for ((component, counter, receiver), steps) in events {
            out.extend(self.event(component, counter, receiver, &steps));
        }
        turned
    }

    /// Takes a port that went up or down by a message's word.
    pub fn link(&mut self, event: &LinkEvent) -> Option<ComponentObservation> {
        self.port(event.component?, event.at, event.up, true)
    }

    /// The state of a port; a loss where it was up, or where a message says that it went down.
    fn port(
        &mut self,
        component: Component,
        at: Nanos,
        up: bool,
        message: bool,
    ) -> Option<ComponentObservation> {
        if self.ports.len() >= self.config.series_max && !self.ports.contains_key(&component) {
            self.tally.untracked += 1;
            return None;
        }
        let before = self.ports.get(&component).copied();
        if before.is_some_and(|b| b.at > at) {
            self.tally.stale += 1;
            return None;
        }
        self.ports.insert(component, Port { up, at });
        let went = !up && before.map_or(message, |b| b.up);
        if !went {
            return None;
        }
        let channel = self
            .channels
            .entry((component, Counter::CarrierLost))
            .or_insert(Channel::new(Receiver::Syslog, at));
        channel.told += 1;
        let window = Window { start: at.since(EVENT), length: EVENT };
        Some(self.say(component, Counter::CarrierLost, window, 1, 0))
    }

    fn say(
        &self,
        component: Component,
        counter: Counter,
        window: Window,
        delta: u64,
        of: u64,
    ) -> ComponentObservation {
        let Config { producer, .. } = self.config;
        ComponentObservation {
            window,
            producer,
            epoch: self.fabric.epoch,
            component,
            counter,
            delta,
            of,
            size_ns: 0,
        }
    }

    /// The difference to the sample before; `None` where there is none to be believed.
    fn step(&mut self, component: Component, m: &Metric, total: bool) -> Option<Step> {
        if m.value < 0.0 {
            return None;
        }
        let gap_max = setting::nanos(self.config.gap_max);
        if let Some(length) = m.window.filter(|_| !m.cumulative) {
            // Told as a difference.
            if length > gap_max {
                self.tally.gaps += 1;
                return None;
            }
            return Some(Step { window: Window { start: m.at.since(length), length }, delta: m.value });
        }
        let mut hasher = DefaultHasher::new();
        (m.source, &m.entity, &m.name, &m.labels).hash(&mut hasher);
        let key = (component, hasher.finish());
        let now = Sample { at: m.at, value: m.value };
        let Some(before) = self.series.get_mut(&key) else {
            self.make_room(m.at);
            if self.series.len() >= self.config.series_max {
                self.tally.untracked += 1;
                return None;
            }
            self.series.insert(key, now);
            return (!total)
                .then_some(Step { window: Window { start: m.at, length: Nanos::ZERO }, delta: m.value });
        };
        if now.at <= before.at {
            self.tally.stale += 1;
            return None;
        }
        let was = std::mem::replace(before, now);
        let window = Window { start: was.at, length: now.at - was.at };
        if !total {
            let length = window.length.min(gap_max);
            return Some(Step { window: Window { start: now.at.since(length), length }, delta: m.value });
        }
        if window.length > gap_max {
            self.tally.gaps += 1;
            return None;
        }
        let delta = if now.value >= was.value {
            now.value - was.value
        } else if (WRAP_FROM..WRAP).contains(&was.value) && now.value < WRAP - WRAP_FROM {
            self.tally.wraps += 1;
            WRAP - was.value + now.value
        } else {
            self.tally.restarts += 1;
            now.value
        };
        Some(Step { window, delta })
    }

    /// Forgets what has not been heard of for long, once in a while, when there is no room.
    fn make_room(&mut self, now: Nanos) {
        if self.series.len() < self.config.series_max || now.since(self.swept) < Nanos::from_secs(60) {
            return;
        }
        self.swept = now;
        let gap = setting::nanos(self.config.gap_max);
        self.series.retain(|_, s| now.since(s.at) <= gap);
        self.chances.retain(|_, s| now.since(s.window.end()) <= gap);
        self.channels.retain(|_, c| now.since(c.heard) <= gap);
    }

    /// What a component's steps of one counter mean.
    fn event(
        &mut self,
        component: Component,
        counter: Counter,
        receiver: Receiver,
        steps: &[(Meaning, Step)],
    ) -> Option<ComponentObservation> {
        let now = steps.iter().map(|(_, s)| s.window.end()).max()?;
        let silence = setting::nanos(self.config.silence);
        let mut channel =
            self.channels.get(&(component, counter)).copied().unwrap_or(Channel::new(receiver, now));
        if channel.receiver != receiver {
            // Carrier losses told by messages do not make the counter somebody else's.
            if counter != Counter::CarrierLost && now.since(channel.heard) <= silence {
                return None;
            }
            channel.receiver = receiver;
        }
        channel.heard = channel.heard.max(now);
        let counted = steps.iter().filter(|(_, s)| s.delta > 0.0).map(|(m, _)| m.rank).max();
        channel.believed = channel.believed.max(counted);
        let rank = channel.believed.or_else(|| steps.iter().map(|(m, _)| m.rank).max())?;
        let mut believed = steps.iter().filter(|(m, _)| m.rank == rank);
        let (meaning, first) = believed.next()?;
        let (mut window, mut sum, mut most) = (first.window, first.delta, first.delta);
        for (_, step) in believed {
            let end = window.end().max(step.window.end());
            window.start = window.start.min(step.window.start);
            window.length = end - window.start;
            sum += step.delta;
            most = most.max(step.delta);
        }
        let of = match counter {
            Counter::PausedTime => Some(window.length.0),
            Counter::QueueDepth => {
                self.chances.get(&(component, vocabulary::QUEUE_SIZE)).map(|s| s.delta as u64)
            }
            _ => meaning.of.and_then(|name| self.chances_in(component, name, window)),
        };
        let delta = match counter {
            // Priorities are paused at the same time, and queues fill beside each other.
            Counter::PausedTime => (most as u64).min(window.length.0),
            Counter::QueueDepth => (most as u64).saturating_sub(self.config.queue_mark_bytes),
            Counter::CarrierLost => {
                let mut losses = sum as u64;
                if meaning.rank == 0 {
                    let changes = losses.saturating_add(u64::from(channel.odd));
                    channel.odd = changes % 2 == 1;
                    losses = changes / 2;
                }
                losses.saturating_sub(std::mem::take(&mut channel.told))
            }
            _ => sum as u64,
        };
        let of = match (counter, of) {
            (_, None) => 0,
            // What was thrown away is not among what was sent.
            (Counter::QueueDrop, Some(sent)) => sent.saturating_add(delta),
            // The two are not read at the same moment, and damaged frames are not received ones everywhere.
            (_, Some(of)) => of.max(delta),
        };
        self.channels.insert((component, counter), channel);
        Some(self.say(component, counter, window, delta, of))
    }

    /// Opportunities in a window: those of the same window, or of one that ended near it, by their rate; `None` where
    /// nobody tells.
    fn chances_in(&self, component: Component, name: &'static str, window: Window) -> Option<u64> {
        let component = match component {
            // What a NIC was handed came by its link.
            Component::Nic(nic) => Component::Link(self.fabric.access_link(nic).reverse()),
            other => other,
        };
        let near = |s: &&Step| {
            let (a, b) = (s.window.end().0, window.end().0);
            s.window.length.0 > 0 && a.abs_diff(b) <= window.length.0.max(s.window.length.0)
        };
        let in_window = |s: &Step| {
            if s.window == window {
                s.delta
            } else {
                s.delta * (window.length.0 as f64 / s.window.length.0 as f64)
            }
        };
        let find = |name| self.chances.get(&(component, name)).filter(near);
        if let Some(whole) = find(name) {
            return Some(in_window(whole) as u64);
        }
        let mut parts = parts_of(name).iter().filter_map(|part| find(part)).peekable();
        parts.peek()?;
        Some(parts.map(in_window).sum::<f64>() as u64)
    }
}

impl Channel {
    fn new(receiver: Receiver, heard: Nanos) -> Channel {
        Channel { receiver, heard, believed: None, odd: false, told: 0 }
    }
}

#[cfg(test)]
mod tests;
