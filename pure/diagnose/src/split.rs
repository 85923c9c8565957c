//! Counters beside a fault that paths have located: they tell a cable from its NIC and the NIC from its host, and a
//! full queue from damage.
//!
//! How: a cable, its NIC and the host behind touch the same paths, so by paths alone they are one class. Every counter
//! that is reported at one of them is a likelihood ratio for the one it belongs to: damaged frames and a lost carrier
//! for the cable, packets a NIC threw away for the NIC or the host, late processors and full sockets for the host.
//! Counters that are reported and count nothing speak against the one that would have made them count. The sums are
//! compared like rivals of the localizer: those within its limit are alternatives, and the share of the others is taken
//! off the confidence.
//!
//! Invariants: without counters nothing changes; a verdict is weighed anew from what paths say each time, so counters
//! that stop leave no trace in it.
//! Absent on purpose: opening a verdict; where no path is hurt see [`crate::wear`] and [`crate::pause`].

use crate::engine::Engine;
use crate::measure::ALIKE_NATS;
use crate::places::Excess;
use crate::signal::Signal;
use crate::verdict::{Counted, Evidence, FaultKind};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use libm::exp;
use wire::{Component, Counter, HostId, LinkId, Nanos, NicId, Source};

/// Counters are looked at over the last minute of a fault at most, and from a little before its first hurt window: they
/// come in windows of their own.
const SPAN: Nanos = Nanos::from_secs(60);
const BEFORE: Nanos = Nanos::from_secs(2);
/// What counters must say before they name or explain anything, nats.
const SAYS_MIN: f64 = 3.0;
/// What counters say that are reported and count nothing where they should, nats.
const SILENT_NATS: f64 = -1.5;
/// One port of several is hurt and the others are well: a host that is short of something rarely is so on one port.
const ONE_PORT_NATS: f64 = -4.0;
/// Most that a processor's being busy says, nats: busy hosts are not late.
const BUSY_NATS: f64 = 2.0;
/// Share of what is hurt that a host's lateness must come up to, to be its cause.
const EXPLAINED_MIN: f64 = 0.3;
/// Most that lateness says of packets that are lost, nats: they may be lost elsewhere while the host is late.
const LATE_NATS: f64 = 5.0;
/// Distinct hosts whose own traffic is hurt in one window: many at once.
const INCAST_SENDERS_MIN: usize = 4;
/// Hurt observations looked through for senders, the newest.
const SENDERS_LOOKED_AT: usize = 12_000;

/// Counters by what they speak for.
const AT_HOST: [Counter; 5] = [
    Counter::SoftirqLate,
    Counter::RunQueueLate,
    Counter::CpuPressure,
    Counter::HostQueueDrop,
    Counter::SocketDrop,
];
const DAMAGE: [Counter; 2] = [Counter::FrameError, Counter::CarrierLost];
const QUEUE: [Counter; 3] = [Counter::QueueDrop, Counter::QueueMarked, Counter::QueueDepth];
const PAUSE: [Counter; 3] = [Counter::PausedTime, Counter::PauseReceived, Counter::PauseSent];

/// What the counters of one sort say together.
#[derive(Clone, Debug, Default)]
struct Says {
    nats: f64,
    events: u64,
    reported: bool,
    items: Vec<(Component, Counter, Excess)>,
}

impl Says {
    /// Leaves what a host's counters can have done to packets of which a share `rate` was late, or was lost. Lateness
    /// explains packets that are late, as far as there is as much of it; lost packets are counted where they are lost,
    /// and lateness stands in for that only where nobody counts.
    fn must_explain(&mut self, late: bool, loses: bool, rate: f64, nic_counts: bool) {
        const DIRECT: [Counter; 3] = [Counter::SocketDrop, Counter::HostQueueDrop, Counter::NicOverrun];
        const LATENESS: [Counter; 2] = [Counter::SoftirqLate, Counter::RunQueueLate];
        let counts = nic_counts || self.items.iter().any(|i| DIRECT.contains(&i.1));
        let mut nats = f64::min(self.of(Counter::CpuPressure).1, BUSY_NATS);
        for counter in LATENESS {
            let share = self.items.iter().filter(|i| i.1 == counter).map(|i| i.2.rate).fold(0.0, f64::max);
            if share >= EXPLAINED_MIN * rate {
                nats += self.of(counter).1;
            }
        }
        let direct: f64 = DIRECT.iter().map(|&c| self.of(c).1).sum();
        if loses && direct < SAYS_MIN {
            nats = match (counts, late) {
                (true, _) => 0.0,
                (false, true) => nats,
                (false, false) => nats.min(LATE_NATS),
            };
        }
        self.nats = nats + direct;
    }
    fn clean(&self) -> bool {
        self.reported && self.nats < 1.0
    }
    fn of(&self, counter: Counter) -> (u64, f64) {
        let mine = self.items.iter().filter(|i| i.1 == counter);
        mine.fold((0, 0.0), |s, i| (s.0 + i.2.events, f64::max(s.1, i.2.nats)))
    }
}

/// The place behind a hurt port.
#[derive(Clone, Copy)]
struct Port {
    nic: NicId,
    host: HostId,
}

impl Engine {
    fn says(&self, places: &[Component], counters: &[Counter], since: Nanos) -> Says {
        let mut out = Says::default();
        let now = self.now.max(self.newest);
        for &counter in counters {
            let mut best = 0.0f64;
            for &place in places {
                let Some(e) = self.places.excess(place, counter, since, now) else { continue };
                out.reported = true;
                best = best.max(e.nats);
                if e.nats > 0.0 {
                    out.events = out.events.saturating_add(e.events);
                }
                out.items.push((place, counter, e));
            }
            out.nats += best;
        }
        out
    }

    /// Both directions of these links, and the NICs at their ends.
    fn around(&self, links: &[LinkId]) -> Vec<Component> {
        let mut out: Vec<Component> = Vec::new();
        for &l in links {
            out.extend([Component::Link(l), Component::Link(l.reverse())]);
            out.extend(self.fabric.cable_of(l).ok().map(Component::Nic));
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// The host's own counters, as evidence.
    pub(crate) fn host_counters(&self, host: HostId, since: Nanos) -> Vec<Counted> {
        let nics = crate::map::Components::host_nics(&self.fabric, host).map(Component::Nic);
        let places: Vec<Component> = core::iter::once(Component::Host(host)).chain(nics).collect();
        let mut counters = AT_HOST.to_vec();
        counters.extend([Counter::NicOverrun, Counter::ResponderStall, Counter::SenderStall]);
        counted(&[(&self.says(&places, &counters, since.since(BEFORE)), 1.0)])
    }

    /// Weighs the counters beside a tracked verdict that paths have located.
    pub(crate) fn weigh_counters(&mut self, at: usize) {
        let Some(t) = self.tracked.get(at) else { return };
        let located = t.located.clone();
        let links = t.verdict.links.clone();
        // How much is late, and whether anything is lost besides.
        let late_share = t.parts[Signal::Delay as usize].map(|p| p.rate);
        let loses = t.parts[Signal::Loss as usize].is_some();
        let rate = late_share.unwrap_or(t.verdict.rate);
        let since = t.since.max(self.newest.since(SPAN)).since(BEFORE);
        let around = self.around(&links);
        let damage = self.says(&around, &DAMAGE, since);
        let queue = self.says(&around, &QUEUE, since);
        let pause = self.says(&around, &PAUSE, since);
        let port = match located.component {
            Component::Link(l) => self.fabric.cable_of(l).ok(),
            Component::Nic(n) => Some(n),
            Component::Switch(_) | Component::Host(_) => None,
        }
        .map(|nic| Port { nic, host: self.fabric.nic_parts(nic).1 });
        let host = match located.component {
            Component::Host(h) => Some(h),
            _ => port.map(|p| p.host),
        };
        let mut component = located.component;
        let mut alternatives = located.alternatives.clone();
        let mut confidence = located.confidence;
        let mut lists: Vec<(&Says, f64)> = Vec::new();
        let (mut host_says, nic_says) = match host {
            Some(h) => self.host_and_nic(h, port, since),
            None => (Says::default(), Says::default()),
        };
        let late = matches!(located.kind, FaultKind::Delay | FaultKind::Congestion | FaultKind::Reorder);
        host_says.must_explain(late, loses || !late, rate, nic_says.reported);
        let stalled = host.is_some() && host_says.nats >= SAYS_MIN;
        let mut named_host = matches!(component, Component::Host(_)) && stalled;
        if let Some(p) = port {
            let ranked = self.ranked(p, located.component, [&damage, &queue, &nic_says, &host_says]);
            if damage.reported || queue.reported || nic_says.reported || host_says.reported {
                let best = ranked.first().map_or(0.0, |r| r.0);
                let all: f64 = ranked.iter().map(|r| exp(r.0 - best)).sum();
                let alike = |r: &&(f64, Component)| best - r.0 < ALIKE_NATS;
                let named: Vec<Component> = ranked.iter().filter(alike).map(|r| r.1).collect();
                // Only what counters say for something renames; silence alone shortens the list.
                let says = [&damage, &queue, &nic_says, &host_says].iter().any(|s| s.nats >= SAYS_MIN);
                if says && let Some(&first) = named.first() {
                    component = first;
                    named_host = matches!(first, Component::Host(_));
                }
                alternatives.retain(|a| !is_one_of(&ranked, *a) || named.contains(a));
                alternatives
                    .extend(named.iter().filter(|c| !alternatives.contains(c)).copied().collect::<Vec<_>>());
                alternatives.retain(|a| *a != component);
                let kept: f64 = ranked.iter().filter(alike).map(|r| exp(r.0 - best)).sum();
                confidence *= kept / all.max(1e-9);
            }
        }
        let kind = self.kind_by_counters(located.kind, named_host, &damage, &queue);
        let senders = self.senders(&links, since);
        let kind = if kind == FaultKind::Congestion
            && senders >= INCAST_SENDERS_MIN
            && queue.nats >= SAYS_MIN
            && damage.nats < 1.0
            && port.is_some_and(|p| links.contains(&self.fabric.access_link(p.nic).reverse()))
        {
            FaultKind::Incast
        } else {
            kind
        };
        let for_queue = matches!(kind, FaultKind::Congestion | FaultKind::Incast);
        let for_damage = matches!(kind, FaultKind::Corruption | FaultKind::Flap);
        let for_host = kind == FaultKind::HostStall || matches!(component, Component::Host(_));
        let way = |is: bool| if is { 1.0 } else { -1.0 };
        lists.push((&damage, way(for_damage)));
        lists.push((&queue, way(for_queue)));
        if host.is_some() {
            lists.push((&host_says, way(for_host)));
            lists.push((&nic_says, way(for_host || matches!(component, Component::Nic(_)))));
        }
        if pause.nats > 0.0 {
            lists.push((&pause, way(for_queue)));
        }
        // A queue that paths call full while its own counters see nothing.
        if for_queue && queue.clean() {
            confidence *= 0.8;
        }
        let counters = counted(&lists);
        let v = &mut self.tracked[at].verdict;
        v.component = component;
        v.alternatives = alternatives;
        v.confidence = confidence.clamp(0.0, 0.999);
        v.kind = kind;
        if kind == FaultKind::HostStall {
            v.flap = None;
        }
        v.evidence.counters = counters;
        v.evidence.senders = if kind == FaultKind::Incast { senders as u32 } else { 0 };
    }

    /// What a host's own counters say, and those of the hurt port's NIC. Packets a NIC had to throw away speak for the
    /// host, which made no room, unless its other ports and the host itself are well.
    fn host_and_nic(&self, host: HostId, port: Option<Port>, since: Nanos) -> (Says, Says) {
        let nics: Vec<NicId> = crate::map::Components::host_nics(&self.fabric, host).collect();
        let mut places = alloc::vec![Component::Host(host)];
        places.extend(nics.iter().map(|&n| Component::Nic(n)));
        let mut at_host = self.says(&places, &AT_HOST, since);
        let overrun = [Counter::NicOverrun];
        let Some(p) = port else {
            let all = self.says(&places, &overrun, since);
            at_host.nats += all.nats;
            at_host.reported |= all.reported;
            at_host.items.extend(all.items);
            return (at_host, Says::default());
        };
        let mine = self.says(&[Component::Nic(p.nic)], &[Counter::NicOverrun, Counter::QueueDrop], since);
        let siblings: Vec<Component> =
            nics.iter().filter(|&&n| n != p.nic).map(|&n| Component::Nic(n)).collect();
        let others = self.says(&siblings, &overrun, since);
        if others.clean() && at_host.nats < SAYS_MIN {
            return (at_host, mine);
        }
        at_host.nats += mine.nats;
        at_host.reported |= mine.reported;
        at_host.items.extend(mine.items);
        (at_host, Says::default())
    }

    /// The cable, the NIC and the host behind a hurt port, by what counters say, best first.
    fn ranked(&self, p: Port, located: Component, says: [&Says; 4]) -> Vec<(f64, Component)> {
        let up = self.fabric.access_link(p.nic);
        let [damage, queue, nic, host] = says;
        // Where paths blame both directions the cable goes by the one that its ports complain about.
        let cable = match located {
            Component::Link(l) => l,
            _ => {
                let hits = |l: LinkId| {
                    let here = damage.items.iter().filter(|i| i.0 == Component::Link(l));
                    here.map(|i| i.2.nats).fold(0.0, f64::max)
                };
                if hits(up.reverse()) > hits(up) { up.reverse() } else { up }
            }
        };
        let at_links = |c: Counter| {
            let here = queue.items.iter().filter(|i| i.1 == c && matches!(i.0, Component::Link(_)));
            here.map(|i| i.2.nats).fold(0.0, f64::max)
        };
        let queued: f64 = QUEUE.iter().map(|&c| at_links(c)).sum();
        let several = self.fabric.shape.planes * self.fabric.shape.rails > 1;
        let sum = |s: &Says| if s.clean() { SILENT_NATS } else { s.nats };
        let mut out = alloc::vec![
            // A port that has no room explains what is lost in front of it as well as damage on the cable does.
            (f64::max(sum(damage), queued), Component::Link(cable)),
            (sum(nic), Component::Nic(p.nic)),
            (sum(host) + if several { ONE_PORT_NATS } else { 0.0 }, Component::Host(p.host)),
        ];
        // By paths alone the one they name comes first.
        out.sort_by(|a, b| {
            b.0.total_cmp(&a.0).then((b.1 == located).cmp(&(a.1 == located))).then(a.1.cmp(&b.1))
        });
        out
    }

    fn kind_by_counters(&self, kind: FaultKind, host: bool, damage: &Says, queue: &Says) -> FaultKind {
        use FaultKind::{
            AgentStopped, Blackhole, Congestion, Corruption, Delay, EcnMarking, Flap, HostStall, Loss,
            SelectiveLoss,
        };
        if host && kind != AgentStopped {
            return HostStall;
        }
        let (carrier, carrier_nats) = damage.of(Counter::CarrierLost);
        if carrier >= 2 && carrier_nats >= SAYS_MIN && matches!(kind, Loss | Blackhole | SelectiveLoss) {
            return Flap;
        }
        let (errors, error_nats) = damage.of(Counter::FrameError);
        let (drops, _) = queue.of(Counter::QueueDrop);
        let damaged = error_nats >= SAYS_MIN && errors >= drops;
        match kind {
            Loss | Congestion if damaged => Corruption,
            Loss | Delay if queue.nats >= SAYS_MIN => Congestion,
            // That the queue marked is what marks say already; that it grew or lost is more.
            EcnMarking if queue.nats - queue.of(Counter::QueueMarked).1 >= SAYS_MIN => Congestion,
            k => k,
        }
    }

    /// Most distinct hosts whose own traffic, not probes, was hurt on a way over these links in one window.
    fn senders(&self, links: &[LinkId], since: Nanos) -> usize {
        let window = self.config.window.0.max(1);
        let mut by_window: BTreeMap<u64, Vec<HostId>> = BTreeMap::new();
        for o in self.hurt.iter().rev().take(SENDERS_LOOKED_AT) {
            if o.source == Source::Probe
                || o.window.start < since
                || (o.lost == 0 && o.ecn_marked == 0)
                || !o.links().iter().any(|l| links.contains(l))
            {
                continue;
            }
            if let Some((from, _)) = self.hosts_of(o) {
                let list = by_window.entry(o.window.end().0.saturating_sub(1) / window).or_default();
                if !list.contains(&from) {
                    list.push(from);
                }
            }
        }
        by_window.values().map(Vec::len).max().unwrap_or(0)
    }
}

fn is_one_of(ranked: &[(f64, Component)], c: Component) -> bool {
    ranked.iter().any(|r| r.1 == c)
}

/// The weightiest items, those of a list counted for the verdict or against it; silence of what should have counted
/// speaks against it.
fn counted(lists: &[(&Says, f64)]) -> Vec<Counted> {
    let mut out: Vec<Counted> = Vec::new();
    for (says, way) in lists {
        for (component, counter, e) in &says.items {
            let silent = says.clean() && *way > 0.0;
            let nats = if silent { SILENT_NATS } else { way * e.nats };
            if nats == 0.0 {
                continue;
            }
            let weight = (100.0 * nats).clamp(-1000.0, 1000.0) as i32;
            out.push(Counted {
                component: *component,
                counter: *counter,
                events: e.events,
                of: e.of,
                weight,
            });
        }
    }
    out.sort_by_key(|c| (core::cmp::Reverse(c.weight.abs()), c.counter, c.component));
    out.dedup_by_key(|c| (c.counter, c.component));
    out.truncate(Evidence::COUNTERS);
    out
}
