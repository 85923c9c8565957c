//! PFC storms: who pauses whom, and who began.
//!
//! How: a port that asks its neighbour to pause (IEEE 802.1Qbb) makes an edge from its device to the neighbour; so does
//! a port that was not allowed to send. A device that is paused fills up and pauses its own neighbours in turn, so the
//! edges lead from the one who began to everybody who waits. The root pauses others and is paused by nobody. Where all
//! wait for each other in a circle there is no root, and the one that pauses most is named with the others as
//! alternatives.
//!
//! Invariants: pauses now and then are what PFC is for: a storm holds a neighbour back for a good part of the time, in
//! several seconds; each root is one verdict, and who only waits is a victim of it.
//! Absent on purpose: classes of traffic; counters are of a port.

use crate::claim::Claim;
use crate::engine::Engine;
use crate::evaluate::Suspect;
use crate::places::Excess;
use crate::verdict::{Counted, Evidence, FaultKind, Tally};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use fabric::{Node, Tier};
use wire::{Component, Counter, LinkId, Nanos};

/// How far back pauses are looked for, and how long ago the last may be.
const SPAN: Nanos = Nanos::from_secs(10);
const RECENT: Nanos = Nanos::from_secs(3);
/// Seconds of the span in which a port paused, or was paused, more than usual.
const SECONDS_MIN: u32 = 3;
/// Share of its time that a port is held back in a storm.
const PAUSED_SHARE_MIN: f64 = 0.1;
/// Pause frames a second of a storm where nobody counts the time: each holds for 65,535 quanta of 512 bit times at most,
/// a third of a millisecond at 100 Gb/s.
const FRAMES_A_SECOND_MIN: f64 = 100.0;
/// Without a pause for so long the storm is over.
const QUIET: Nanos = Nanos::from_secs(8);

/// One device holds another back.
#[derive(Clone, Copy, Debug)]
struct Hold {
    by: Node,
    whom: Node,
    /// The link the one held back may not send on.
    link: LinkId,
    counted: Counted,
    share: f64,
    first: Nanos,
    last: Nanos,
    /// Whether it is more than PFC at work.
    storm: bool,
}

fn component(node: Node) -> Component {
    match node {
        Node::Nic(n) => Component::Nic(n),
        Node::Switch(s) => Component::Switch(s),
    }
}

impl Engine {
    /// The link from the device held back to the one that holds it, by who counted what where.
    fn held_link(&self, place: Component, counter: Counter) -> Option<LinkId> {
        // What leaves a port stands under the link that leaves it: pauses sent go to whoever sends back.
        let leaves = match place {
            Component::Link(l) => l,
            Component::Nic(n) => self.fabric.access_link(n),
            Component::Switch(_) | Component::Host(_) => return None,
        };
        self.fabric.exists(leaves).then_some(if counter == Counter::PauseSent {
            leaves.reverse()
        } else {
            leaves
        })
    }

    fn holds(&self) -> Vec<Hold> {
        let now = self.now.max(self.newest);
        // By link, so that both ends of a cable make one edge.
        let mut all: BTreeMap<LinkId, Hold> = BTreeMap::new();
        for counter in [Counter::PausedTime, Counter::PauseSent, Counter::PauseReceived] {
            for place in self.places.counting(counter) {
                let Some(e) = self.places.excess(place, counter, now.since(SPAN), now) else { continue };
                if e.seconds < SECONDS_MIN || e.last + RECENT < now {
                    continue;
                }
                let Some(link) = self.held_link(place, counter) else { continue };
                let Some((whom, by)) = self.fabric.link_ends(link) else { continue };
                let storm = storms(counter, &e);
                let weight = (100.0 * e.nats) as i32;
                let counted = Counted { component: place, counter, events: e.events, of: e.of, weight };
                let share = if counter == Counter::PausedTime { e.rate } else { 0.0 };
                let new = Hold { by, whom, link, counted, share, first: e.first, last: e.last, storm };
                all.entry(link)
                    .and_modify(|h| {
                        // Time held back is better evidence than frames.
                        let timed = h.counted.counter == Counter::PausedTime;
                        h.storm |= storm && !timed;
                        h.last = h.last.max(new.last);
                    })
                    .or_insert(new);
            }
        }
        all.into_values().collect()
    }

    /// Looks for storms, once a second.
    pub(crate) fn review_pauses(&mut self) {
        let holds = self.holds();
        let mut roots: Vec<(Node, f64)> = Vec::new();
        for h in holds.iter().filter(|h| h.storm) {
            if !holds.iter().any(|o| o.whom == h.by) && !roots.iter().any(|r| r.0 == h.by) {
                roots.push((h.by, 0.9));
            }
        }
        // Whoever no root reaches waits in a circle.
        let mut reached: Vec<Node> = roots.iter().flat_map(|r| held_by(&holds, r.0)).collect();
        reached.extend(roots.iter().map(|r| r.0));
        let mut circle: Vec<&Hold> = holds.iter().filter(|h| h.storm && !reached.contains(&h.by)).collect();
        circle.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.link.cmp(&b.link)));
        let first = circle.first().map(|h| h.by);
        if let Some(first) = first {
            roots.push((first, 0.5));
        }
        for (root, confidence) in roots {
            self.storm(root, confidence, first == Some(root), &holds);
        }
    }

    fn storm(&mut self, root: Node, confidence: f64, circle: bool, holds: &[Hold]) {
        let victims = held_by(holds, root);
        let mine: Vec<&Hold> = holds.iter().filter(|h| h.by == root).collect();
        let kind = FaultKind::PfcStorm;
        let mut place = component(root);
        let mut alternatives: Vec<Component> = Vec::new();
        match root {
            Node::Nic(n) => {
                // Every port of a host at once: the host.
                let host = self.fabric.nic_parts(n).1;
                let others = || crate::map::Components::host_nics(&self.fabric, host).filter(|&o| o != n);
                if others().count() > 0 && others().all(|o| holds.iter().any(|h| h.by == Node::Nic(o))) {
                    place = Component::Host(host);
                } else {
                    alternatives.push(Component::Host(host));
                }
            }
            // A leaf that nobody pauses but that cannot empty the queue to one of its hosts.
            Node::Switch(s) if self.fabric.switch_parts(s).1 == Tier::Leaf => {
                let now = self.now.max(self.newest);
                let full = self.fabric.switch_links(s).into_iter().step_by(2).filter(|&l| {
                    [Counter::QueueDepth, Counter::QueueMarked, Counter::QueueDrop].iter().any(|&c| {
                        self.places
                            .excess(Component::Link(l), c, now.since(SPAN), now)
                            .is_some_and(|e| e.seconds >= SECONDS_MIN)
                    })
                });
                alternatives.extend(full.map(Component::Link));
            }
            Node::Switch(_) => {}
        }
        if circle {
            alternatives.extend(victims.iter().map(|&v| component(v)).filter(|&v| v != place));
        }
        alternatives.truncate(Evidence::VICTIMS);
        let mut links: Vec<LinkId> = mine.iter().flat_map(|h| [h.link, h.link.reverse()]).collect();
        links.sort_unstable();
        links.dedup();
        let share = mine.iter().map(|h| h.share).fold(0.0, f64::max);
        let seconds = mine.iter().map(|h| h.counted.weight / 200).max().unwrap_or(0).max(1) as u32;
        let mut counters: Vec<Counted> = mine.iter().map(|h| h.counted).collect();
        counters.sort_by_key(|c| (core::cmp::Reverse(c.weight), c.component));
        counters.truncate(Evidence::COUNTERS);
        let hurt = Tally {
            observations: mine.len() as u64,
            sent: mine.iter().map(|h| h.counted.of).sum(),
            hurt: mine.iter().map(|h| h.counted.events).sum(),
        };
        let claim = Claim {
            component: place,
            alternatives,
            links,
            kind,
            rate: share,
            spread: if share > 0.0 { 0.1 } else { 1.0 },
            delay_excess_ns: 0,
            confidence,
            first: mine.iter().map(|h| h.first).min().unwrap_or(self.now),
            last: mine.iter().map(|h| h.last).max().unwrap_or(self.now),
            hurt,
            moments: seconds,
            counters,
            victims: victims.iter().take(Evidence::VICTIMS).map(|&v| component(v)).collect(),
        };
        let host = |c: Component| match c {
            Component::Nic(n) => Some(self.fabric.nic_parts(n).1),
            Component::Host(h) => Some(h),
            _ => None,
        };
        let found = self.claimed(|t| {
            let c = t.verdict.component;
            t.verdict.kind == kind && (c == place || (host(c).is_some() && host(c) == host(place)))
        });
        self.claim(found, claim);
        self.hush(kind, place);
    }

    /// Links on which somebody waits because of a storm that is open.
    fn waiting_links(&self) -> Vec<LinkId> {
        let storms = || self.tracked.iter().filter(|t| t.open() && t.verdict.kind == FaultKind::PfcStorm);
        if storms().next().is_none() {
            return Vec::new();
        }
        let holds = self.holds();
        let mut out: Vec<LinkId> = holds.iter().flat_map(|h| [h.link, h.link.reverse()]).collect();
        for v in storms().flat_map(|t| t.verdict.evidence.victims.iter().chain([&t.verdict.component])) {
            out.extend(self.device_links(*v));
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Whether all a suspect says is that packets wait, or find no room, where a storm holds everything back.
    pub(crate) fn waits_for_storm(&self, s: &Suspect) -> bool {
        if s.finding.rate.max(s.finding.dead_share) >= 0.9 && s.signal == crate::signal::Signal::Loss {
            return false;
        }
        let waiting = self.waiting_links();
        let links = self.components.links_of(s.number);
        !waiting.is_empty() && links.iter().all(|l| waiting.binary_search(&LinkId(*l)).is_ok())
    }

    /// Closes the verdicts that only described how packets wait in a storm.
    fn hush(&mut self, kind: FaultKind, place: Component) {
        let waiting = self.waiting_links();
        let now = self.now;
        let mine = |v: &crate::verdict::Verdict| v.kind == kind && v.component == place;
        let begun = self.tracked.iter().find(|t| t.open() && mine(&t.verdict)).map(|t| t.verdict.first_seen);
        // What began well before the storm is a fault of its own.
        let begun = begun.unwrap_or(now).since(RECENT);
        let mut over = Vec::new();
        for t in &mut self.tracked {
            let v = &mut t.verdict;
            let waits = matches!(
                v.kind,
                FaultKind::Delay
                    | FaultKind::Congestion
                    | FaultKind::Incast
                    | FaultKind::EcnMarking
                    | FaultKind::Loss
            );
            let inside = v.links.iter().all(|l| waiting.binary_search(l).is_ok());
            if v.closed_at.is_none() && waits && inside && v.first_seen >= begun {
                v.closed_at = Some(now);
                over.push(v.clone());
            }
        }
        for v in over {
            self.tell(crate::verdict::Event::Closed(v));
        }
    }

    /// Whether a storm is over.
    pub(crate) fn calm(&self, last_seen: Nanos) -> bool {
        self.now.since(last_seen) >= QUIET
    }
}

fn storms(counter: Counter, e: &Excess) -> bool {
    match counter {
        Counter::PausedTime => e.rate >= PAUSED_SHARE_MIN,
        _ => e.events as f64 / SPAN.as_secs_f64() >= FRAMES_A_SECOND_MIN,
    }
}

/// Everybody a device holds back, directly or by those it holds back, the nearest first.
fn held_by(holds: &[Hold], root: Node) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::new();
    let mut next = VecDeque::from(vec![root]);
    while let Some(node) = next.pop_front() {
        for h in holds.iter().filter(|h| h.by == node) {
            if h.whom != root && !out.contains(&h.whom) {
                out.push(h.whom);
                next.push_back(h.whom);
            }
        }
    }
    out
}
