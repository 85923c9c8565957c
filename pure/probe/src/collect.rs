//! From settled probes to observations: one tally per slot and window, handed out when the window is complete.
//!
//! How: a probe belongs to the window it was sent in. A slot's window is complete when it is over and none of its
//! probes is unsettled. It then becomes up to three observations: the way out, the way back, and the probes of which
//! it cannot be said on which way they died.
//!
//! Invariants: every settled probe is in exactly one window; in each observation `lost <= sent`; at most
//! [`WINDOWS_MAX`] windows of a slot are open, the oldest is handed out as it is when there would be more.

use crate::baseline::Judged;
use crate::plan::Slot;
use crate::session::Fate;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use wire::{
    ClockQuality, ComponentObservation, DelaySummary, Epoch, HostId, Leg, PathId, PathObservation, PathRef,
    Source, Window,
};

/// Open windows of a slot.
pub(crate) const WINDOWS_MAX: usize = 64;
/// Delays of a window kept one by one for its medians; more only count.
const SAMPLES_MAX: usize = 64;

/// What a sender hands out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observation {
    /// Something crossed the fabric.
    Path(PathObservation),
    /// Something was counted at one place.
    Component(ComponentObservation),
}

/// The delays of one direction in one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delays {
    samples: Vec<i64>,
    excess: Vec<i64>,
    count: u32,
    over: u32,
    min: i64,
    max: i64,
}

impl Delays {
    pub(crate) fn add(&mut self, delay_ns: i64, judged: Judged) {
        (self.min, self.max) = if self.count == 0 {
            (delay_ns, delay_ns)
        } else {
            (self.min.min(delay_ns), self.max.max(delay_ns))
        };
        self.count += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(delay_ns);
        }
        if judged.over {
            self.over += 1;
            if self.excess.len() < SAMPLES_MAX {
                self.excess.push(judged.excess_ns);
            }
        }
    }

    fn summary(&mut self, clock: ClockQuality, most: u32) -> Option<DelaySummary> {
        // an answer may come whose probe was settled without it: never claim more delays than arrivals
        let count = self.count.min(most);
        (count > 0).then(|| DelaySummary {
            clock,
            count,
            over: self.over.min(count),
            excess_ns: median(&mut self.excess).max(0) as u64,
            min_ns: self.min,
            p50_ns: median(&mut self.samples),
            max_ns: self.max,
        })
    }
}

/// Median, 0 of nothing.
pub(crate) fn median(samples: &mut [i64]) -> i64 {
    let middle = samples.len() / 2;
    if samples.is_empty() { 0 } else { *samples.select_nth_unstable(middle).1 }
}

/// One direction in one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    pub(crate) sent: u32,
    pub(crate) lost: u32,
    pub(crate) reordered: u32,
    pub(crate) ecn_marked: u32,
    pub(crate) delays: Delays,
    /// The path answers of this window took, where they said; `mixed` when they did not agree.
    pub(crate) path: Option<PathId>,
    pub(crate) mixed: bool,
}

impl Way {
    pub(crate) fn delay(&mut self, clock: ClockQuality) -> Option<DelaySummary> {
        let arrived = self.sent.saturating_sub(self.lost);
        self.delays.summary(clock, arrived)
    }
    /// An answer says by which path this way went, or says nothing.
    pub(crate) fn took(&mut self, path: Option<PathId>) {
        match (self.path, path) {
            (_, None) => {}
            (None, _) => self.path = path,
            (Some(a), Some(b)) if a != b => self.mixed = true,
            _ => {}
        }
    }
}

/// What happened to a slot's probes of one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Number of the window: its start divided by its length.
    pub(crate) index: u64,
    pub(crate) forward: Way,
    pub(crate) backward: Way,
    /// Probes that died on a way unknown.
    pub(crate) undecided: u32,
    /// Flow label of the window's probes.
    pub(crate) flow_label: u32,
}

impl Tally {
    pub(crate) fn settle(&mut self, fate: Fate) {
        match fate {
            Fate::Answered { overtaken_forward, overtaken_backward } => {
                self.forward.sent += 1;
                self.backward.sent += 1;
                self.forward.reordered += u32::from(overtaken_forward);
                self.backward.reordered += u32::from(overtaken_backward);
            }
            Fate::LostForward => {
                self.forward.sent += 1;
                self.forward.lost += 1;
            }
            Fate::LostBackward => {
                self.forward.sent += 1;
                self.backward.sent += 1;
                self.backward.lost += 1;
            }
            Fate::Lost => self.undecided += 1,
        }
    }
}

/// What all observations of a slot's window have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) window: Window,
    pub(crate) producer: HostId,
    pub(crate) epoch: Epoch,
    pub(crate) slot: Slot,
    /// Probes have an outer IPv6 header.
    pub(crate) encapsulated: bool,
    pub(crate) forward: Leg,
    pub(crate) backward: Leg,
    pub(crate) clock: ClockQuality,
}

/// A flow label as an entropy bucket.
pub fn entropy_of(flow_label: u32) -> u16 {
    (flow_label ^ (flow_label >> 16)) as u16
}

impl Tally {
    /// The observations of the window, not numbered yet: there, back, and where it cannot be said.
    pub(crate) fn observations(mut self, frame: &Frame) -> [Option<PathObservation>; 3] {
        // IPv6 and UDP headers, and the outer IPv6 header of an encapsulated packet
        let bytes = u32::from(frame.slot.size) + 48 + if frame.encapsulated { 40 } else { 0 };
        let blank = PathObservation {
            window: frame.window,
            producer: frame.producer,
            sequence: 0,
            epoch: frame.epoch,
            path: PathRef::OneWay(frame.forward),
            class: frame.slot.class,
            size_log2: bytes.next_power_of_two().ilog2() as u8,
            entropy: entropy_of(self.flow_label),
            sent: 0,
            lost: 0,
            reordered: 0,
            ecn_marked: 0,
            delay: None,
            source: Source::Probe,
        };
        let one_way = |leg: Leg, way: &mut Way| {
            (way.sent > 0).then(|| PathObservation {
                path: PathRef::OneWay(leg),
                sent: way.sent,
                lost: way.lost,
                reordered: way.reordered,
                ecn_marked: way.ecn_marked.min(way.sent - way.lost),
                delay: way.delay(frame.clock),
                ..blank
            })
        };
        let undecided = (self.undecided > 0).then_some(PathObservation {
            path: PathRef::RoundTrip { forward: frame.forward, backward: frame.backward },
            sent: self.undecided,
            lost: self.undecided,
            ..blank
        });
        [one_way(frame.forward, &mut self.forward), one_way(frame.backward, &mut self.backward), undecided]
    }
}

/// The open windows of one slot, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows {
    open: VecDeque<Tally>,
}

impl Windows {
    /// The tally of a window, made where there is none. Windows come nearly in order, so the search is from the young
    /// end.
    pub(crate) fn at(&mut self, index: u64, flow_label: u32) -> &mut Tally {
        let at = self.open.iter().rposition(|t| t.index <= index);
        let place = match at {
            Some(i) if self.open.get(i).is_some_and(|t| t.index == index) => i,
            Some(i) => {
                self.open.insert(i + 1, Tally { index, flow_label, ..Tally::default() });
                i + 1
            }
            None => {
                self.open.push_front(Tally { index, flow_label, ..Tally::default() });
                0
            }
        };
        &mut self.open[place]
    }

    /// The oldest window, if it is before `index` or there are too many.
    pub(crate) fn complete(&mut self, before: u64) -> Option<Tally> {
        let due = self.open.front().is_some_and(|t| t.index < before) || self.open.len() > WINDOWS_MAX;
        if due { self.open.pop_front() } else { None }
    }
}
