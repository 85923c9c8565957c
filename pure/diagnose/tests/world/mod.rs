//! A small world for tests: hosts that probe random paths of a fabric, links that are ill, and no packets at all.
//! Every number follows from the seed.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use fabric::{Fabric, LinkParams, Mode, Shape};
use selvedge_diagnose::{Config, Engine, Event};
use std::sync::Arc;
use wire::{
    ClockQuality, Component, ComponentObservation, Counter, DelaySummary, Epoch, HostId, Known, Leg, LinkId,
    Nanos, PathId, PathObservation, PathRef, PlaneId, Source, Window,
};

/// SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    pub fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n.max(1))) as u32
    }
    pub fn binomial(&mut self, n: u32, p: f64) -> u32 {
        if p <= 0.0 {
            return 0;
        }
        // By gaps, so that small rates cost nothing.
        if p < 0.05 {
            let (mut k, mut at) = (0, 0.0);
            loop {
                at += (self.unit().max(1e-300).ln() / (1.0 - p).ln()).floor() + 1.0;
                if at > f64::from(n) {
                    return k;
                }
                k += 1;
            }
        }
        (0..n).filter(|_| self.unit() < p).count() as u32
    }
}

pub fn fabric(planes: u32, leaves: u32, spines: u32, hosts_per_leaf: u32) -> Arc<Fabric> {
    Arc::new(Fabric {
        name: "test".into(),
        mode: Mode::Srv6,
        shape: Shape {
            planes,
            leaves,
            spines,
            hosts: leaves * hosts_per_leaf,
            hosts_per_leaf,
            rails: 1,
            cables: 1,
        },
        epoch: Epoch(7),
        access: LinkParams { rate_bps: 100_000_000_000, latency_ns: 500 },
        trunk: LinkParams { rate_bps: 400_000_000_000, latency_ns: 500 },
        parallel: 1,
        removed: Vec::new(),
        added: Vec::new(),
    })
}

/// What a link does to packets.
#[derive(Clone, Copy, Debug)]
pub enum Illness {
    /// Loses this share.
    Loss(f64),
    /// Loses everything of this share of the flows.
    Flows(f64),
    /// Damages this share: lost, and counted at the receiver.
    Corrupt(f64),
    Reorder(f64),
    Ecn(f64),
    /// Adds this many nanoseconds to every packet.
    Delay(u64),
    /// A full queue: late, and this share lost.
    Full(u64, f64),
    /// Loses everything for `on` out of `period`.
    Flap {
        period: Nanos,
        on: Nanos,
    },
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub links: Vec<LinkId>,
    pub illness: Illness,
    pub from: Nanos,
    pub until: Nanos,
}

impl Fault {
    pub fn on(links: impl IntoIterator<Item = LinkId>, illness: Illness, from: u64, until: u64) -> Fault {
        Fault {
            links: links.into_iter().collect(),
            illness,
            from: Nanos::from_secs(from),
            until: Nanos::from_secs(until),
        }
    }
}

/// How a host does not get to its packets.
#[derive(Clone, Copy, Debug)]
pub enum Stall {
    /// Something else has the processor for this share of the time.
    Hog(f64),
    /// The network's soft interrupts wait: this share of its packets is late by so many nanoseconds.
    Softirq(f64, u64),
    /// Its socket is full: it loses up to this share of what arrives.
    SlowReader(f64),
    /// Its agent is not run at all for `on` out of every `period`.
    Starved { on: Nanos, period: Nanos },
}

/// A host in trouble, from and until.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub host: HostId,
    pub shape: Stall,
    pub from: Nanos,
    pub until: Nanos,
}

/// What a host's trouble does in one window.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    /// Share of probes held, and of loop turns late.
    held: f64,
    /// Share of packets late on their way in and out, and by how much.
    late: f64,
    late_ns: u64,
    /// Share of arrivals lost in its socket, and in its NIC.
    socket: f64,
    overrun: f64,
    frozen: bool,
}

pub struct World {
    pub fabric: Arc<Fabric>,
    pub random: Random,
    pub faults: Vec<Fault>,
    /// Packets a slot and window.
    pub packets: u32,
    /// Slots a host, plane and window.
    pub slots: u32,
    pub window: Nanos,
    /// Loss rate of every healthy link.
    pub background: f64,
    /// Whether paths are known.
    pub known: Known,
    /// Share of (host, window) pairs in which the host loses some of what arrives.
    pub bursts: f64,
    /// Hosts whose agents are stopped, from and until.
    pub stopped: Vec<(HostId, Nanos, Nanos)>,
    /// Hosts that stall, from and until.
    pub stalled: Vec<(HostId, Nanos, Nanos)>,
    /// Hosts in trouble.
    pub troubles: Vec<Trouble>,
    /// A host whose processors are busy with something that does not keep its packets waiting.
    pub busy: Option<HostId>,
    /// Whether hosts report sensors besides what their agents always count.
    pub sensors: bool,
    /// Windows each host has not been heard of.
    silent: Vec<u32>,
    /// Whole windows in which the machine was stalled: everything loses.
    pub stalls_at: Vec<Nanos>,
    /// Whether hosts probe.
    pub probes: bool,
    /// Flows of the hosts' own, if any.
    pub flows: Option<Passive>,
    /// Counters besides those hosts always report: called for every window's end.
    pub counts: Option<Counts>,
    pub time: Nanos,
    /// Packets that crossed each link since the beginning.
    pub crossed: Vec<u64>,
    pub sequence: u64,
}

/// The hosts' own traffic, as a passive source sees it.
#[derive(Clone, Copy, Debug)]
pub struct Passive {
    /// Flows a NIC and window.
    pub per_nic: u32,
    /// Share of packets sent again for nothing; hosts differ by up to a factor of two either way.
    pub spurious: f64,
    /// Share of flows that send several again at once for a reason of their own.
    pub bursts: f64,
}

/// What a window's counters are: a function of the fabric, the seconds since the beginning, and chance.
pub type Counts = fn(&Fabric, f64, &mut Random) -> Vec<(Component, Counter, u64, u64)>;

const START: Nanos = Nanos::from_secs(1_000_000);

impl World {
    pub fn new(fabric: Arc<Fabric>, seed: u64) -> World {
        let crossed = vec![0; fabric.link_bound() as usize];
        World {
            troubles: Vec::new(),
            sensors: false,
            busy: None,
            silent: vec![0; fabric.shape.hosts as usize],
            fabric,
            random: Random(seed),
            faults: Vec::new(),
            packets: 10,
            slots: 16,
            window: Nanos::from_millis(500),
            background: 0.0,
            known: Known::Exact,
            bursts: 0.0,
            stopped: Vec::new(),
            stalled: Vec::new(),
            stalls_at: Vec::new(),
            probes: true,
            flows: None,
            counts: None,
            time: START,
            crossed,
            sequence: 0,
        }
    }

    /// A moment of this world, in seconds since its beginning.
    pub fn at(secs: f64) -> Nanos {
        START + Nanos::from_secs_f64(secs)
    }
    pub fn since_start(t: Nanos) -> f64 {
        t.since(START).as_secs_f64()
    }

    fn illness(&self, link: LinkId, now: Nanos) -> impl Iterator<Item = Illness> + '_ {
        let now = now.since(START);
        self.faults
            .iter()
            .filter(move |f| f.from <= now && now < f.until && f.links.contains(&link))
            .map(|f| f.illness)
    }

    fn is(list: &[(HostId, Nanos, Nanos)], host: HostId, now: Nanos) -> bool {
        let now = now.since(START);
        list.iter().any(|(h, from, until)| *h == host && *from <= now && now < *until)
    }

    /// What happens to `n` packets of flow `flow` on a path; `(lost, damaged, reordered, marked, delay)`.
    fn send(&mut self, path: PathId, n: u32, flow: u64, now: Nanos) -> (u32, u32, u32, u32, u64) {
        let links = self.fabric.path_links(path).unwrap();
        let (mut left, mut damaged, mut reordered, mut marked, mut delay) = (n, 0, 0, 0, 0);
        for &l in links.iter() {
            self.crossed[l.index()] += u64::from(left);
            let lost = self.random.binomial(left, self.background);
            left -= lost;
            for i in self.illness(l, now).collect::<Vec<_>>() {
                match i {
                    Illness::Loss(p) => left -= self.random.binomial(left, p),
                    Illness::Flows(p) => {
                        let mut r = Random(flow.wrapping_mul(0x1234_5677).wrapping_add(u64::from(l.0)));
                        r.next();
                        if r.unit() < p {
                            left = 0;
                        }
                    }
                    Illness::Corrupt(p) => {
                        let k = self.random.binomial(left, p);
                        damaged += k;
                        left -= k;
                    }
                    Illness::Reorder(p) => reordered += self.random.binomial(left, p),
                    Illness::Ecn(p) => marked += self.random.binomial(left, p),
                    Illness::Delay(ns) => delay += ns,
                    Illness::Full(ns, p) => {
                        delay += ns;
                        left -= self.random.binomial(left, p);
                    }
                    Illness::Flap { period, on } => {
                        if now.since(START).0 % period.0 < on.0 {
                            left = 0;
                        }
                    }
                }
            }
        }
        (n - left, damaged, reordered.min(left), marked.min(left), delay)
    }

    fn moment(&mut self, host: HostId, now: Nanos) -> Moment {
        let t = now.since(START);
        let mut m = Moment::default();
        // any host is late now and then
        if self.random.unit() < 0.02 {
            m.held = 0.1 * self.random.unit();
        }
        for trouble in self.troubles.clone() {
            if trouble.host != host || t < trouble.from || t >= trouble.until {
                continue;
            }
            let much = 0.5 + 0.5 * self.random.unit();
            match trouble.shape {
                Stall::Hog(duty) => {
                    m.held = m.held.max(duty * much);
                    m.socket = if duty > 0.7 { 0.05 * much } else { 0.0 };
                }
                Stall::Softirq(duty, ns) => {
                    (m.late, m.late_ns) = (duty * much, ns);
                    m.held = m.held.max(0.3 * duty * much);
                    m.overrun = if duty > 0.5 { 0.02 * much } else { 0.0 };
                }
                Stall::SlowReader(loss) => {
                    m.socket = loss * much;
                    m.held = m.held.max(0.2 * loss);
                }
                Stall::Starved { on, period } => {
                    let at = Nanos(t.since(trouble.from).0 % period.0);
                    if at < on {
                        m.frozen = on.since(at) >= self.window;
                        m.held = 0.9;
                    }
                }
            }
        }
        m
    }

    fn leg(&mut self, path: PathId) -> Leg {
        Leg { path, known: self.known }
    }

    /// One window of everything, handed to `take` as it would arrive at its end.
    pub fn window(
        &mut self,
        mut take: impl FnMut(Nanos, Result<PathObservation, ComponentObservation>),
    ) -> Nanos {
        let f = self.fabric.clone();
        let start = self.time;
        let window = Window { start, length: self.window };
        let end = window.end();
        self.time = end;
        let stall_all = self.stalls_at.contains(&start.since(START));
        let mut bursting = vec![0.0; f.shape.hosts as usize];
        for b in &mut bursting {
            if self.random.unit() < self.bursts {
                *b = 0.3 * self.random.unit();
            }
        }
        let mut damaged_at = vec![0u64; f.shape.hosts as usize];
        let with_troubles = self.sensors || !self.troubles.is_empty();
        let moments: Vec<Moment> = (0..f.shape.hosts)
            .map(|h| if with_troubles { self.moment(HostId(h), start) } else { Moment::default() })
            .collect();
        let mut socket_drops = vec![0u64; f.shape.hosts as usize];
        let mut overruns = vec![0u64; f.nics() as usize];
        for h in 0..f.shape.hosts {
            let host = HostId(h);
            if World::is(&self.stopped, host, start) {
                continue;
            }
            if moments[h as usize].frozen {
                self.silent[h as usize] += 1;
                continue;
            }
            let woke_ns = u64::from(std::mem::take(&mut self.silent[h as usize])) * self.window.0;
            let mut asked = vec![(0u64, 0u64); f.shape.hosts as usize];
            for plane in 0..f.shape.planes {
                let from = f.nic(PlaneId(plane as u8), host, 0).unwrap();
                for slot in 0..if self.probes { self.slots } else { 0 } {
                    let mut peer = self.random.below(f.shape.hosts - 1);
                    if peer >= h {
                        peer += 1;
                    }
                    let to = f.nic(PlaneId(plane as u8), HostId(peer), 0).unwrap();
                    let (la, lb) = (f.nic_leaf_port(from).0, f.nic_leaf_port(to).0);
                    let lanes = if la == lb { 1 } else { f.lanes() };
                    let there = f.path(from, to, self.random.below(lanes)).unwrap();
                    let back = f.path(to, from, self.random.below(lanes)).unwrap();
                    let n = self.packets;
                    let entropy = (self.random.next() & 0xffff) as u16;
                    let flow = there.0.wrapping_mul(65_537).wrapping_add(u64::from(entropy % 8));
                    let (mut lost, damaged, reordered, marked, delay) = self.send(there, n, flow, start);
                    damaged_at[peer as usize] += u64::from(damaged);
                    let noise = |w: &mut World, left: u32, host: u32, bursting: &[f64]| {
                        let p = if stall_all { 0.5 } else { bursting[host as usize] };
                        w.random.binomial(left, p)
                    };
                    lost += noise(self, n - lost, peer, &bursting);
                    if World::is(&self.stopped, HostId(peer), start) || moments[peer as usize].frozen {
                        lost = n;
                    }
                    let mut at_host = |w: &mut World, left: u32, host: u32, nic: wire::NicId| {
                        let m = moments[host as usize];
                        let over = w.random.binomial(left, m.overrun);
                        let full = w.random.binomial(left - over, m.socket);
                        overruns[nic.index()] += u64::from(over);
                        socket_drops[host as usize] += u64::from(full);
                        over + full
                    };
                    lost += at_host(self, n - lost, peer, to);
                    let arrived = n - lost;
                    let held = self.random.binomial(arrived, moments[peer as usize].held);
                    asked[peer as usize].0 += u64::from(held);
                    asked[peer as usize].1 += u64::from(arrived);
                    let (mut lost_back, damaged, reordered_back, marked_back, delay_back) =
                        self.send(back, arrived, flow, start);
                    damaged_at[h as usize] += u64::from(damaged);
                    lost_back += noise(self, arrived - lost_back, h, &bursting);
                    lost_back += at_host(self, arrived - lost_back, h, from);
                    let (mine, theirs) = (moments[h as usize], moments[peer as usize]);
                    let waits = 1.0 - (1.0 - mine.late) * (1.0 - theirs.late);
                    let wait_ns = if mine.late > theirs.late { mine.late_ns } else { theirs.late_ns };
                    let stalled = World::is(&self.stalled, HostId(peer), start)
                        || World::is(&self.stalled, host, start);
                    let base = PathObservation {
                        window,
                        producer: host,
                        sequence: 0,
                        epoch: f.epoch,
                        path: PathRef::OneWay(Leg { path: there, known: Known::Exact }),
                        class: 0,
                        size_log2: 8,
                        entropy: entropy % 8,
                        sent: n,
                        lost: 0,
                        reordered: 0,
                        ecn_marked: 0,
                        delay: None,
                        source: Source::Probe,
                    };
                    let _ = slot;
                    let (forward, backward) = (self.leg(there), self.leg(back));
                    if lost + lost_back == n {
                        self.sequence += 1;
                        take(
                            end,
                            Ok(PathObservation {
                                sequence: self.sequence,
                                path: PathRef::RoundTrip { forward, backward },
                                lost: n,
                                ..base
                            }),
                        );
                        continue;
                    }
                    for (leg, sent, lost, reordered, marked, delay) in [
                        (forward, n, lost, reordered, marked, delay),
                        (backward, arrived, lost_back, reordered_back, marked_back, delay_back),
                    ] {
                        self.sequence += 1;
                        let count = sent - lost;
                        let late = if delay > 0 && !stalled { count } else { 0 };
                        let waited = self.random.binomial(count, waits);
                        let (late, delay) = if waited > late { (waited, wait_ns) } else { (late, delay) };
                        let over = late.max(self.random.binomial(count, 0.001));
                        take(
                            end,
                            Ok(PathObservation {
                                sequence: self.sequence,
                                path: PathRef::OneWay(leg),
                                sent,
                                lost,
                                reordered: reordered.min(count),
                                ecn_marked: marked.min(count),
                                delay: Some(DelaySummary {
                                    clock: ClockQuality::Same,
                                    count,
                                    over,
                                    excess_ns: if late > 0 { delay } else { 20_000 * u64::from(over > 0) },
                                    min_ns: 1_000,
                                    p50_ns: 2_000,
                                    max_ns: 9_000,
                                }),
                                ..base
                            }),
                        );
                    }
                }
            }
            for (peer, &(held, of)) in asked.iter().enumerate().filter(|(_, a)| a.0 > 0) {
                take(
                    end,
                    Err(ComponentObservation {
                        window,
                        producer: host,
                        epoch: f.epoch,
                        component: Component::Host(HostId(peer as u32)),
                        counter: Counter::ResponderStall,
                        delta: held,
                        of,
                        size_ns: 20_000_000,
                    }),
                );
            }
            let held = (100.0 * moments[h as usize].held) as u64;
            let stalled = World::is(&self.stalled, host, start);
            take(
                end,
                Err(ComponentObservation {
                    window,
                    producer: host,
                    epoch: f.epoch,
                    component: Component::Host(host),
                    counter: Counter::SenderStall,
                    delta: if stalled {
                        30
                    } else {
                        held.max(u64::from(self.random.unit() < 0.02 || woke_ns > 0))
                    },
                    of: 100,
                    size_ns: if stalled { 40_000_000 } else { woke_ns.max(1_000_000) },
                }),
            );
            if damaged_at[h as usize] > 0 {
                take(
                    end,
                    Err(ComponentObservation {
                        window,
                        producer: host,
                        epoch: f.epoch,
                        component: Component::Host(host),
                        counter: Counter::ChecksumError,
                        delta: damaged_at[h as usize],
                        of: 0,
                        size_ns: 0,
                    }),
                );
            }
        }
        let mut tell = |component, counter, delta: u64, of: u64| {
            let (producer, epoch) = (HostId(0), f.epoch);
            let o = ComponentObservation {
                window,
                producer,
                epoch,
                component,
                counter,
                delta: delta.min(of.max(delta)),
                of,
                size_ns: 0,
            };
            take(end, Err(o));
        };
        for h in 0..f.shape.hosts {
            let secs = u64::from(self.silent[h as usize]) * self.window.0 / 1_000_000_000;
            if secs >= 2 {
                tell(Component::Host(HostId(h)), Counter::AgentSilent, secs, 0);
            }
        }
        if self.sensors {
            for h in 0..f.shape.hosts {
                let (m, host) = (moments[h as usize], Component::Host(HostId(h)));
                if m.frozen {
                    continue;
                }
                let share = |w: &mut World, p: f64, of: u32| u64::from(w.random.binomial(of, p.min(1.0)));
                let late = share(self, 0.002 + m.late, 1_000);
                tell(host, Counter::SoftirqLate, late, 1_000);
                let busy = f64::from(u8::from(self.busy == Some(HostId(h))));
                let queued = share(self, 0.005 + m.held + 0.1 * busy, 500);
                tell(host, Counter::RunQueueLate, queued, 500);
                let pressure = ((0.02 + 0.9 * m.held.max(m.late).max(busy)).min(1.0) * self.window.0 as f64
                    / 1e3) as u64;
                tell(host, Counter::CpuPressure, pressure, self.window.0 / 1_000);
                tell(host, Counter::SocketDrop, socket_drops[h as usize], 20_000);
            }
            for nic in 0..f.nics() {
                tell(Component::Nic(wire::NicId(nic)), Counter::NicOverrun, overruns[nic as usize], 20_000);
            }
            for l in f.links() {
                let (mut errors, mut drops, mut carrier) = (0, 0, 0);
                for i in self.illness(l, start).collect::<Vec<_>>() {
                    match i {
                        Illness::Corrupt(p) => errors += (p * 20_000.0) as u64,
                        Illness::Full(_, p) => drops += (p * 20_000.0) as u64,
                        Illness::Flap { period, on } => {
                            let at = start.since(START).0 % period.0;
                            carrier += u64::from(at < on.0 && at < self.window.0);
                        }
                        _ => {}
                    }
                }
                tell(Component::Link(l), Counter::FrameError, errors, 20_000);
                tell(Component::Link(l), Counter::QueueDrop, drops, 20_000);
                tell(Component::Link(l), Counter::CarrierLost, carrier, 0);
            }
        }
        self.passive(window, &mut take);
        if let Some(counts) = self.counts {
            for (component, counter, delta, of) in counts(&f, World::since_start(start), &mut self.random) {
                let o = ComponentObservation {
                    window,
                    producer: HostId(0),
                    epoch: f.epoch,
                    component,
                    counter,
                    delta,
                    of,
                    size_ns: 0,
                };
                take(end, Err(o));
            }
        }
        end
    }

    /// One window of the hosts' own flows, each on a path nobody knows.
    fn passive(
        &mut self,
        window: Window,
        take: &mut impl FnMut(Nanos, Result<PathObservation, ComponentObservation>),
    ) {
        let Some(passive) = self.flows else { return };
        let f = self.fabric.clone();
        for nic in 0..f.nics() {
            let from = wire::NicId(nic);
            let (plane, host, _) = f.nic_parts(from);
            // hosts differ: this one's own share of packets sent again for nothing
            let factor = 2f64.powf(2.0 * Random(u64::from(host.0) + 77).unit() - 1.0);
            for _ in 0..passive.per_nic {
                let mut peer = self.random.below(f.shape.hosts - 1);
                if peer >= host.0 {
                    peer += 1;
                }
                let to = f.nic(plane, HostId(peer), 0).unwrap();
                let (la, lb) = (f.nic_leaf_port(from).0, f.nic_leaf_port(to).0);
                let lane = if la == lb { 0 } else { self.random.below(f.lanes()) };
                let path = f.path(from, to, lane).unwrap();
                // many short ones, few long ones: 8 to 16,384 packets
                let n = 2f64.powf(3.0 + 11.0 * self.random.unit().powi(3)) as u32;
                let flow = self.random.next();
                let (mut again, ..) = self.send(path, n, flow, window.start);
                again += self.random.binomial(n - again, passive.spurious * factor);
                if self.random.unit() < passive.bursts {
                    again += 1 + self.random.below(6);
                }
                self.sequence += 1;
                let o = PathObservation {
                    window,
                    producer: host,
                    sequence: self.sequence,
                    epoch: f.epoch,
                    path: PathRef::OneWay(Leg { path, known: Known::Mixture }),
                    class: 0,
                    size_log2: 11,
                    entropy: (flow & 0xff) as u16,
                    sent: n,
                    lost: again.min(n),
                    reordered: 0,
                    ecn_marked: 0,
                    delay: None,
                    source: Source::Flow,
                };
                take(window.end(), Ok(o));
            }
        }
    }

    /// Runs the engine on this world for `secs` seconds; what it had to tell, with when it told.
    pub fn run(&mut self, engine: &mut Engine, secs: f64) -> Vec<(f64, Event)> {
        let mut out = Vec::new();
        let until = self.time + Nanos::from_secs_f64(secs);
        while self.time < until {
            let mut all = Vec::new();
            let end = self.window(|at, o| all.push((at, o)));
            for (at, o) in all {
                match o {
                    Ok(o) => {
                        engine.handle_path(at, &o);
                    }
                    Err(o) => {
                        engine.handle_component(at, &o);
                    }
                }
            }
            // As the hub would: the timer runs between one window and the next.
            let mut at = end;
            while at < end + self.window {
                engine.handle_timeout(at);
                while let Some(e) = engine.poll_event() {
                    out.push((World::since_start(at), e));
                }
                at += Nanos::from_millis(100);
            }
        }
        out
    }
}

pub fn engine(fabric: &Arc<Fabric>) -> Engine {
    Engine::new(fabric.clone(), Config::default())
}

/// One line an event, for snapshots.
pub fn line(fabric: &Fabric, at: f64, e: &Event) -> String {
    let what = match e {
        Event::Opened(_) => "opened",
        Event::Updated(_) => "updated",
        Event::Closed(_) => "closed",
        Event::Reopened(_) => "reopened",
    };
    let v = e.verdict();
    format!(
        "{at:6.1} {what} #{} {} {} {} rate {:.4} [{:.4}, {:.4}] conf {:.2} hurt {:?} alt {:?} flap {:?}",
        v.id,
        v.component.kind(),
        fabric.component_name(v.component),
        v.kind,
        v.rate,
        v.rate_low,
        v.rate_high,
        v.confidence,
        v.evidence.crossing_hurt,
        v.alternatives.iter().map(|c| fabric.component_name(*c)).collect::<Vec<_>>(),
        v.flap.map(|f| (f.period.as_secs_f64(), f.duty)),
    )
}
