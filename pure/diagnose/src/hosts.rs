//! What is counted at hosts: stalls, silence, damaged packets.
//!
//! How: a bounded list of the last windows a host. What several hosts say of one window of another is added up: one
//! late moment is one window, however many saw it. A host stalls when a large share of what it did was late, in
//! several windows, and clearly more than on the other hosts (a machine that is slow everywhere is nobody's fault).
//!
//! Absent on purpose: packet loss; that is the localizer's. What is counted at links and switches, and what else hosts
//! count; that is [`crate::places`].

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use fabric::Fabric;
use wire::{Component, ComponentObservation, Counter, HostId, Nanos};

/// Most windows kept a host and counter: [`SPAN`] of the shortest ones, and a few.
const WINDOWS_MAX: usize = 128;
/// How far back stalls are looked for.
const SPAN: Nanos = Nanos::from_secs(10);
/// Share of a host's chances that must be late.
const STALL_SHARE_MIN: f64 = 0.1;
/// Windows and events that make a stall.
const STALL_WINDOWS_MIN: usize = 3;
/// Windows asked for besides, for each that the other hosts have on average: where a whole machine is short of
/// processor time, hosts are late by turns, and one of them three times sooner or later.
const STALL_WINDOWS_PER_USUAL: f64 = 4.0;
const STALL_EVENTS_MIN: u64 = 6;
/// Windows that a sender stands still for at a time to be said to stand still, at most that one count says, and times
/// it has to happen.
const STOOD_MIN: f64 = 0.5;
const STOOD_MAX: f64 = 20.0;
const STOOD_TIMES_MIN: usize = 2;
/// A silence this long means that the agent is gone.
pub(crate) const SILENT_SECS_MIN: u64 = 3;

#[derive(Clone, Copy, Debug)]
struct Count {
    end: Nanos,
    start: Nanos,
    delta: u64,
    of: u64,
    size_ns: u64,
}

impl Count {
    /// Windows a sender stood still for: the turns of its loop come one after the other, so their lateness adds up.
    fn stood(&self) -> f64 {
        let length = self.end.since(self.start).0.max(1) as f64;
        (self.delta as f64 * self.size_ns as f64 / length).min(STOOD_MAX)
    }
}

/// Windows from the beginning of the first count to the end of the last.
fn windows_between<'c>(counts: impl Iterator<Item = &'c Count>) -> f64 {
    let (mut from, mut to, mut length) = (Nanos::MAX, Nanos::ZERO, 1u64);
    for c in counts {
        from = from.min(c.start);
        to = to.max(c.end);
        length = length.max(c.end.since(c.start).0);
    }
    (to.since(from).0 as f64 / length as f64).max(1.0)
}

/// A host that stalls, and on what evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stall {
    pub(crate) host: HostId,
    pub(crate) share: f64,
    pub(crate) windows: usize,
    pub(crate) events: u64,
    pub(crate) of: u64,
    pub(crate) size_ns: u64,
    pub(crate) first: Nanos,
    pub(crate) last: Nanos,
}

/// Counters of every host that reported any.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    counts: BTreeMap<(HostId, Counter), VecDeque<Count>>,
    /// Hosts of the fabric: those that report nothing are the usual ones.
    hosts: usize,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether the component is in the fabric.
    pub(crate) fn knows(&self, fabric: &Fabric, o: &ComponentObservation) -> bool {
        o.producer.0 < fabric.shape.hosts
            && match o.component {
                Component::Host(h) => h.0 < fabric.shape.hosts,
                Component::Nic(n) => n.0 < fabric.nics(),
                Component::Switch(s) => s.0 < fabric.switches(),
                Component::Link(l) => fabric.exists(l),
            }
    }

    pub(crate) fn take(&mut self, fabric: &Fabric, o: &ComponentObservation) {
        let host = match o.component {
            Component::Host(h) => h,
            Component::Nic(n) => fabric.nic_parts(n).1,
            Component::Link(_) | Component::Switch(_) => return,
        };
        if !matches!(
            o.counter,
            Counter::ResponderStall | Counter::SenderStall | Counter::ChecksumError | Counter::AgentSilent
        ) {
            return;
        }
        self.hosts = fabric.shape.hosts as usize;
        let list = self.counts.entry((host, o.counter)).or_default();
        let same = |c: &&mut Count| c.start == o.window.start && c.end == o.window.end();
        if let Some(c) = list.iter_mut().rev().find(same) {
            c.delta = c.delta.saturating_add(o.delta);
            c.of = c.of.saturating_add(o.of);
            c.size_ns = c.size_ns.max(o.size_ns);
            return;
        }
        if list.len() >= WINDOWS_MAX {
            list.pop_front();
        }
        list.push_back(Count {
            start: o.window.start,
            end: o.window.end(),
            delta: o.delta,
            of: o.of,
            size_ns: o.size_ns,
        });
    }

    /// Events of a counter at a host from `since` on.
    pub(crate) fn sum(&self, host: HostId, counter: Counter, since: Nanos) -> u64 {
        self.counts
            .get(&(host, counter))
            .map_or(0, |l| l.iter().filter(|c| c.end >= since).map(|c| c.delta).sum())
    }

    /// Whether a host's agent has been silent in the last seconds.
    pub(crate) fn silent(&self, host: HostId, now: Nanos) -> bool {
        self.counts.get(&(host, Counter::AgentSilent)).is_some_and(|l| {
            l.iter().any(|c| c.delta >= SILENT_SECS_MIN && c.end + Nanos::from_secs(5) >= now)
        })
    }

    /// Hosts that report any silence, newest first in each.
    pub(crate) fn silent_hosts(&self, now: Nanos) -> Vec<HostId> {
        self.counts
            .keys()
            .filter(|k| k.1 == Counter::AgentSilent)
            .map(|k| k.0)
            .filter(|&h| self.silent(h, now))
            .collect()
    }

    /// How late a host is, whatever counter says so.
    fn lateness(&self, host: HostId, now: Nanos) -> Option<Stall> {
        let mut out: Option<Stall> = None;
        for counter in [Counter::ResponderStall, Counter::SenderStall] {
            let Some(list) = self.counts.get(&(host, counter)) else { continue };
            let recent = || list.iter().filter(|c| c.end + SPAN >= now && c.of > 0);
            let (events, of) =
                recent().fold((0u64, 0u64), |s, c| (s.0.saturating_add(c.delta), s.1.saturating_add(c.of)));
            if of == 0 {
                continue;
            }
            // A stall of half the time is a stall, so the windows without one do not speak against it.
            let stood = |c: &&Count| if counter == Counter::SenderStall { c.stood() } else { 0.0 };
            let hurt = || recent().filter(|c| c.delta * 10 >= c.of || stood(c) >= STOOD_MIN);
            // One that stands still for seconds says so once, when it goes on.
            let long: f64 = recent().map(|c| stood(&c)).filter(|&s| s >= STOOD_MIN).sum();
            let times = recent().filter(|c| stood(c) >= STOOD_MIN).count();
            let windows = hurt().count().max(if times >= STOOD_TIMES_MIN { long as usize } else { 0 });
            let events = events.max(if times >= STOOD_TIMES_MIN { long as u64 } else { 0 });
            let (late, chances) =
                hurt().fold((0u64, 0u64), |s, c| (s.0.saturating_add(c.delta), s.1.saturating_add(c.of)));
            let by_turns = if chances == 0 { 0.0 } else { late as f64 / chances as f64 };
            let by_time = if times >= STOOD_TIMES_MIN { long / windows_between(recent()) } else { 0.0 };
            let share = by_turns.max(by_time.min(1.0));
            let mut sizes: Vec<u64> = hurt().map(|c| c.size_ns).collect();
            sizes.sort_unstable();
            let stall = Stall {
                host,
                share,
                windows,
                events,
                of,
                size_ns: sizes.get(sizes.len() / 2).copied().unwrap_or(0),
                first: hurt().map(|c| c.start).min().unwrap_or(now),
                last: hurt().map(|c| c.end).max().unwrap_or(Nanos::ZERO),
            };
            if out.is_none_or(|o| stall.share * (stall.windows as f64) > o.share * (o.windows as f64)) {
                out = Some(stall);
            }
        }
        out
    }

    /// The hosts that stall now.
    pub(crate) fn stalls(&self, now: Nanos) -> Vec<Stall> {
        let mut hosts: Vec<HostId> = self.counts.keys().map(|k| k.0).collect();
        hosts.dedup();
        let mut all: Vec<Stall> = hosts.iter().filter_map(|&h| self.lateness(h, now)).collect();
        let hosts = self.hosts.max(all.len());
        let windows: usize = all.iter().map(|s| s.windows).sum();
        all.retain(|s| {
            let others = (windows - s.windows) as f64 / hosts.saturating_sub(1).max(1) as f64;
            s.share >= STALL_SHARE_MIN
                && s.windows as f64 >= STALL_WINDOWS_MIN as f64 + STALL_WINDOWS_PER_USUAL * others
                && s.events >= STALL_EVENTS_MIN
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Epoch, Window};

    const WINDOW: Nanos = Nanos::from_millis(500);

    fn a_fabric() -> Fabric {
        let text = "name = \"f\"\nmode = \"srv6\"
planes = 2
leaves = 4
spines = 4
hosts = 16";
        Fabric::parse(text).unwrap_or_else(|e| panic!("{e}"))
    }

    /// `by` says that `host` held 2 of 8 probes in window `n`.
    fn held(by: u32, host: u32, n: u64) -> ComponentObservation {
        ComponentObservation {
            window: Window { start: Nanos(n * WINDOW.0), length: WINDOW },
            producer: HostId(by),
            epoch: Epoch(0),
            component: Component::Host(HostId(host)),
            counter: Counter::ResponderStall,
            delta: 2,
            of: 8,
            size_ns: 40_000_000,
        }
    }

    fn stalled(said: &[ComponentObservation]) -> Vec<u32> {
        let (fabric, mut hosts) = (a_fabric(), Hosts::new());
        said.iter().for_each(|o| hosts.take(&fabric, o));
        let now = said.iter().map(|o| o.window.end()).max().unwrap_or_default();
        hosts.stalls(now).iter().map(|s| s.host.0).collect()
    }

    #[test]
    fn one_late_moment_seen_by_many_hosts_is_one_window() {
        let said: Vec<_> = (0..6).map(|by| held(by, 7, 10)).collect();
        assert_eq!(stalled(&said), []);
        let said: Vec<_> = (0..6).map(|i| held(i % 2, 7, 10 + u64::from(i) / 2)).collect();
        assert_eq!(stalled(&said), [7]);
    }

    #[test]
    fn hosts_that_are_late_by_turns_are_nobodys_fault() {
        // one of them three times, the others twice each
        let mut said: Vec<_> =
            (0..12).flat_map(|h| [held(15, h, 2 + u64::from(h) % 4), held(15, h, 8)]).collect();
        said.push(held(15, 3, 11));
        assert_eq!(stalled(&said), []);
        // in all windows is another matter
        said.extend((12..22).map(|n| held(15, 3, n)));
        assert_eq!(stalled(&said), [3]);
    }

    #[test]
    fn all_windows_of_the_span_are_kept_whoever_speaks() {
        let said: Vec<_> = (0..20).flat_map(|n| (0..15).map(move |by| held(by, 15, n))).collect();
        let (fabric, mut hosts) = (a_fabric(), Hosts::new());
        said.iter().for_each(|o| hosts.take(&fabric, o));
        let all = hosts.stalls(Nanos(20 * WINDOW.0));
        assert_eq!((all[0].windows, all[0].of), (20, 20 * 15 * 8));
    }
}
