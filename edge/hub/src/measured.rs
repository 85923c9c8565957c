//! What was measured on each path lately, for people who look at two hosts: counts and delays as the agents saw them.
//!
//! How: a table by path with two spans of ten seconds, the running one and the one before.
//! Invariants: at most [`PATHS_MAX`] paths; where more are probed, the rest is not shown and counted.
//! Absent on purpose: any judgement. The diagnosis does not read this.

use std::collections::HashMap;
use wire::{Known, Leg, Nanos, PathId, PathObservation, PathRef};

/// Most paths kept.
pub(crate) const PATHS_MAX: usize = 262_144;
const SPAN: u64 = 10_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    lost: u64,
    lost_round_trip: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Path {
    span: u64,
    now: Counts,
    before: Counts,
    min_ns: i64,
    p50_ns: i64,
    max_ns: i64,
    has_delay: bool,
}

/// One path over the last 10 to 20 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measurement {
    pub sent: u64,
    pub lost: u64,
    /// Lost there or on the way back; it cannot be said where.
    pub lost_round_trip: u64,
    /// Smallest, median and largest one-way delay of the newest window.
    pub delay_ns: Option<(i64, i64, i64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Measured {
    paths: HashMap<PathId, Path>,
    /// Observations not shown because the table was full.
    pub unshown: u64,
}

impl Path {
    fn turn(&mut self, span: u64) {
        match span.saturating_sub(self.span) {
            0 => return,
            1 => self.before = self.now,
            _ => self.before = Counts::default(),
        }
        self.now = Counts::default();
        self.span = span;
    }
}

impl Measured {
    pub(crate) fn add(&mut self, now: Nanos, o: &PathObservation) {
        match o.path {
            PathRef::OneWay(leg) => self.leg(now, leg, o, false),
            PathRef::RoundTrip { forward, backward } => {
                self.leg(now, forward, o, true);
                self.leg(now, backward, o, true);
            }
        }
    }

    fn leg(&mut self, now: Nanos, leg: Leg, o: &PathObservation, round_trip: bool) {
        if leg.known == Known::Mixture {
            return;
        }
        let span = now.0 / SPAN;
        if self.paths.len() >= PATHS_MAX && !self.paths.contains_key(&leg.path) {
            self.paths.retain(|_, p| p.span + 6 >= span);
            if self.paths.len() >= PATHS_MAX {
                self.unshown = self.unshown.saturating_add(1);
                return;
            }
        }
        let path = self.paths.entry(leg.path).or_default();
        path.turn(span);
        path.now.sent += u64::from(o.sent);
        if round_trip {
            path.now.lost_round_trip += u64::from(o.lost);
        } else {
            path.now.lost += u64::from(o.lost);
        }
        if let (Some(d), false) = (o.delay, round_trip) {
            (path.min_ns, path.p50_ns, path.max_ns, path.has_delay) = (d.min_ns, d.p50_ns, d.max_ns, true);
        }
    }

    pub(crate) fn get(&self, now: Nanos, path: PathId) -> Option<Measurement> {
        let mut p = *self.paths.get(&path)?;
        p.turn(now.0 / SPAN);
        let sent = p.now.sent + p.before.sent;
        (sent > 0).then_some(Measurement {
            sent,
            lost: p.now.lost + p.before.lost,
            lost_round_trip: p.now.lost_round_trip + p.before.lost_round_trip,
            delay_ns: p.has_delay.then_some((p.min_ns, p.p50_ns, p.max_ns)),
        })
    }

    /// Paths with losses, the worst first, at most `limit`.
    pub(crate) fn worst(&self, now: Nanos, limit: usize) -> Vec<(PathId, Measurement)> {
        let mut all: Vec<(PathId, Measurement)> = self
            .paths
            .keys()
            .filter_map(|&p| Some((p, self.get(now, p)?)))
            .filter(|(_, m)| m.lost + m.lost_round_trip > 0)
            .collect();
        let share = |m: &Measurement| (m.lost + m.lost_round_trip) as f64 / m.sent as f64;
        all.sort_by(|a, b| share(&b.1).total_cmp(&share(&a.1)).then(a.0.cmp(&b.0)));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Epoch, HostId, Source, Window};

    fn observation(path: u64, sent: u32, lost: u32) -> PathObservation {
        PathObservation {
            window: Window::default(),
            producer: HostId(0),
            sequence: 0,
            epoch: Epoch(0),
            path: PathRef::OneWay(Leg { path: PathId(path), known: Known::Exact }),
            class: 0,
            size_log2: 7,
            entropy: 0,
            sent,
            lost,
            reordered: 0,
            ecn_marked: 0,
            delay: None,
            source: Source::Probe,
        }
    }

    #[test]
    fn counts_last_ten_to_twenty_seconds() {
        let mut m = Measured::default();
        let at = Nanos::from_secs;
        m.add(at(101), &observation(1, 10, 1));
        m.add(at(112), &observation(1, 20, 0));
        m.add(at(112), &observation(2, 10, 5));
        let got = m.get(at(113), PathId(1)).unwrap();
        assert_eq!((got.sent, got.lost), (30, 1));
        assert_eq!(m.get(at(121), PathId(1)).unwrap().sent, 20);
        assert_eq!(m.get(at(131), PathId(1)), None);
        assert_eq!(m.worst(at(113), 9).iter().map(|w| w.0).collect::<Vec<_>>(), [PathId(2), PathId(1)]);
    }
}
