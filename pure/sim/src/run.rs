//! One run of a scenario: the probe machines of every host and the engine of the hub, driven over the simulated
//! fabric while things break and heal.
//!
//! How: hosts start within the first second, each with the plan a hub would send. What a sender hands out reaches the
//! engine a control delay later, in batches, over a network of its own that nothing happens to. The engine weighs
//! exactly when it asks to. A host whose processor stalls takes nothing in and sends nothing until the stall is over,
//! but its kernel stamps what arrives; a host whose agent is stopped answers nobody and reports nothing, and after two
//! seconds the hub says so.
//!
//! Invariants: the same scenario and seed give the same run, byte for byte ([`Run::trace`]); every packet is accounted
//! for ([`Run::ledger`]). Absent on purpose: the encoding of packets and batches, which other tests cover.

use crate::net::{self, Arrival, Happened, Impairment, Net, Packet, Route};
use crate::rng::{Rng, mix};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use diagnose::{Engine, Event, Outcome};
use fabric::scenario::Scenario;
use fabric::{Fabric, FaultKind, Mode};
use probe::packet::PROBE_BYTES_MIN;
use probe::{
    Answer, Asker, Back, Observation, Plan, PlanConfig, Probe, Reflector, ReflectorConfig, Reply, Request,
    Sender, SenderConfig,
};
use wire::{
    ClockQuality, Component, ComponentObservation, Counter, HostId, LinkId, Nanos, PathObservation, PathRef,
    Window,
};

/// What a scenario does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// The links where nothing is wrong.
    pub net: net::Config,
    /// From a host to the hub.
    pub control_delay: Nanos,
    /// An agent not heard of for so long is silent.
    pub silent_after: Nanos,
    /// Packets waiting for a host that is stalled; more are dropped.
    pub backlog_max: usize,
    /// Longest wait at a rate limit.
    pub limit_wait: Nanos,
    /// The hub's engine. The window is the scenario's.
    pub engine: diagnose::Config,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            net: net::Config { background_loss: 1e-7, ..net::Config::default() },
            control_delay: Nanos::from_millis(20),
            silent_after: Nanos::from_secs(2),
            backlog_max: 4_096,
            limit_wait: Nanos::from_millis(100),
            engine: diagnose::Config::default(),
        }
    }
}

/// What hosts did with packets. With the net's totals: every probe and answer is somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Probes senders gave to the net.
    pub probes: u64,
    /// Answers reflectors gave to the net.
    pub answers: u64,
    /// Probes a reflector took in but did not answer.
    pub unanswered: u64,
    /// Answers a sender took in, or refused by a reason of its own.
    pub taken: u64,
    /// Arrivals with a wrong checksum.
    pub corrupt: u64,
    /// Arrivals at a host whose agent was not running.
    pub nobody: u64,
    /// Arrivals that found the socket of a stalled host full.
    pub socket_full: u64,
    /// Arrivals waiting for a stalled host.
    pub waiting: u64,
}

/// Where every packet of a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// What the net did.
    pub net: net::Totals,
    /// What the hosts did.
    pub hosts: Hosts,
}

impl Ledger {
    /// Whether every packet is accounted for.
    pub fn balanced(&self) -> bool {
        let h = &self.hosts;
        let arrived = h.answers + h.unanswered + h.taken + h.corrupt + h.nobody + h.socket_full + h.waiting;
        self.net.balanced() && self.net.sent == h.probes + h.answers && self.net.delivered == arrived
    }
}

#[derive(Clone, Debug)]
enum Load {
    Probe(Probe),
    Answer(Answer, Nanos),
}

#[derive(Clone, Copy, Debug)]
enum Note {
    Start(HostId),
    Deliver(HostId),
    Weigh,
    Tick,
    Begin(u32),
    End(u32),
}

#[derive(Clone, Copy, Debug)]
struct Stall {
    fault: u32,
    since: Nanos,
    stopped: Nanos,
    period: Nanos,
}

struct Host {
    /// `None` while the agent is not running.
    machines: Option<(Sender, Reflector)>,
    stalls: Vec<Stall>,
    backlog: VecDeque<(Nanos, Arrival<Load>)>,
    outbox: Vec<Observation>,
    deliver_at: Option<Nanos>,
    /// Checksum errors and arrivals of the current window.
    checksum: (u64, u64, u64),
    heard_at: Option<Nanos>,
}

/// A run under way.
pub struct Run {
    scenario: Scenario,
    config: Config,
    fabric: Arc<Fabric>,
    net: Net<Load, Note>,
    hosts: Vec<Host>,
    engine: Engine,
    weigh_at: Nanos,
    active: Vec<bool>,
    /// Links that suffer from each fault.
    suffering: Vec<Vec<LinkId>>,
    crossed: Vec<u64>,
    /// Packets that had crossed before.
    crossed_before: Vec<u64>,
    totals: Hosts,
    observations: u64,
    refused: u64,
    lives: u64,
    tap: Option<Vec<(Nanos, Observation)>>,
}

impl Run {
    /// A scenario whose random choices are made ([`Scenario::resolve`]; its seed is the run's), at time zero.
    pub fn new(scenario: Scenario, config: Config) -> Self {
        let fabric = Arc::new(scenario.fabric.clone());
        let seed = scenario.seed;
        let engine_config = diagnose::Config { window: scenario.probe.window, ..config.engine };
        let mut net = Net::new(Arc::clone(&fabric), config.net, seed);
        let mut dice = Rng::new(seed, 2);
        let mut hosts = Vec::new();
        for h in 0..fabric.shape.hosts {
            hosts.push(Host {
                machines: None,
                stalls: Vec::new(),
                backlog: VecDeque::new(),
                outbox: Vec::new(),
                deliver_at: None,
                checksum: (0, 0, 0),
                heard_at: None,
            });
            net.note(Nanos(dice.below(1_000_000_000)), Note::Start(HostId(h)));
        }
        for (i, f) in scenario.faults.iter().enumerate() {
            net.note(f.at, Note::Begin(i as u32));
            if let Some(until) = f.until {
                net.note(until, Note::End(i as u32));
            }
        }
        net.note(Nanos::from_secs(1), Note::Tick);
        Run {
            active: vec![false; scenario.faults.len()],
            suffering: scenario.faults.iter().map(|f| f.links(&fabric)).collect(),
            crossed: vec![0; scenario.faults.len()],
            crossed_before: vec![0; scenario.faults.len()],
            engine: Engine::new(Arc::clone(&fabric), engine_config),
            weigh_at: Nanos::MAX,
            totals: Hosts::default(),
            observations: 0,
            refused: 0,
            lives: 0,
            tap: None,
            scenario,
            config,
            fabric,
            net,
            hosts,
        }
    }

    /// The next thing the engine has to tell, and when it told it. `None` when the scenario is over.
    pub fn next_event(&mut self) -> Option<(Nanos, Event)> {
        loop {
            if let Some(event) = self.engine.poll_event() {
                let v = event.verdict();
                self.net.mark(16 + v.kind as u64, mix(v.id.0 ^ v.confidence.to_bits() ^ v.rate.to_bits()));
                return Some((self.net.now(), event));
            }
            match self.net.next(self.scenario.duration)? {
                Happened::Arrived(arrival) => self.arrive(arrival),
                Happened::Woken(host) => self.work(host),
                Happened::Noted(note) => self.note(note),
            }
        }
    }

    /// The scenario being run.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }
    /// Simulated time.
    pub fn now(&self) -> Nanos {
        self.net.now()
    }
    /// The hub's engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
    /// A hash of everything that happened so far: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.net.trace()
    }
    /// Events of the loop so far.
    pub fn events(&self) -> u64 {
        self.net.events()
    }
    /// Observations the engine took.
    pub fn observations(&self) -> u64 {
        self.observations
    }
    /// Observations the engine did not take; the engine counts the reasons.
    pub fn refused(&self) -> u64 {
        self.refused
    }
    /// From the first call on, keeps what reaches the hub, and when; gives what was kept since the last call.
    pub fn tap(&mut self) -> Vec<(Nanos, Observation)> {
        self.tap.replace(Vec::new()).unwrap_or_default()
    }
    /// Packets that crossed what suffers from a fault, since it began and in windows the hub has been told of. A
    /// window still open, or on its way to the hub, does not count: what nobody knows yet is no evidence. Packets of
    /// which it is not known whether they died before or after count.
    pub fn crossed(&self, fault: usize) -> u64 {
        self.crossed.get(fault).copied().unwrap_or(0)
    }
    /// Packets that crossed what suffers from a fault since it last began, whoever knows of it.
    pub fn crossed_all(&self, fault: usize) -> u64 {
        let before = self.crossed_before.get(fault).copied().unwrap_or(0);
        self.on_links(fault) - before
    }
    fn on_links(&self, fault: usize) -> u64 {
        self.suffering.get(fault).into_iter().flatten().map(|&l| self.net.crossed(l)).sum()
    }
    /// Where every packet is.
    pub fn ledger(&self) -> Ledger {
        let waiting = self.hosts.iter().map(|h| h.backlog.len() as u64).sum();
        Ledger { net: *self.net.totals(), hosts: Hosts { waiting, ..self.totals } }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Start(host) => self.start(host),
            Note::Deliver(host) => self.deliver(host),
            Note::Weigh => self.weigh(),
            Note::Tick => self.tick(),
            Note::Begin(i) => self.turn(i, true),
            Note::End(i) => self.turn(i, false),
        }
    }

    /// An agent starts, for the first time or again.
    fn start(&mut self, host: HostId) {
        let now = self.net.now();
        let stopped = |(f, active): (&fabric::Fault, &bool)| {
            *active && f.kind == FaultKind::AgentStop && f.target == fabric::Target::Host(host)
        };
        if self.scenario.faults.iter().zip(&self.active).any(stopped) {
            return;
        }
        self.lives += 1;
        let config = SenderConfig {
            clock: Some(ClockQuality::Same),
            ..SenderConfig::new(host, mix(self.scenario.seed ^ mix(self.lives)))
        };
        let mut sender = Sender::new(Arc::clone(&self.fabric), config);
        let spec = &self.scenario.probe;
        let size = u16::try_from(spec.size).unwrap_or(u16::MAX).clamp(PROBE_BYTES_MIN, 9_000);
        let plan = Plan {
            slots: probe::plan::slots(&self.fabric, host, &PlanConfig { size, ..PlanConfig::default() }),
            window: spec.window,
            packets_per_second: spec.packets_per_second,
            train: spec.train,
            ..Plan::default()
        };
        // a plan made for this host is always taken; one that is not leaves a sender that sends nothing
        let _ = sender.set_plan(now, plan);
        let reflector = Reflector::new(Arc::clone(&self.fabric), ReflectorConfig::default());
        if let Some(h) = self.hosts.get_mut(host.index()) {
            h.machines = Some((sender, reflector));
            h.heard_at = Some(now);
            h.checksum = (0, 0, 0);
        }
        self.work(host);
    }

    /// A fault begins or ends.
    fn turn(&mut self, i: u32, on: bool) {
        let now = self.net.now();
        let Some(active) = self.active.get_mut(i as usize) else { return };
        *active = on;
        self.net.mark(5 + u64::from(on), i.into());
        let crossed = self.on_links(i as usize);
        if on && let Some(before) = self.crossed_before.get_mut(i as usize) {
            *before = crossed;
        }
        let Some(fault) = self.scenario.faults.get(i as usize) else { return };
        let host = match fault.target {
            fabric::Target::Host(h) => Some(h),
            _ => None,
        };
        match (fault.kind, host) {
            (FaultKind::AgentStop, Some(id)) => {
                if let Some(h) = self.hosts.get_mut(id.index())
                    && on
                {
                    // what it had not sent dies with it
                    h.machines = None;
                    h.outbox.clear();
                    self.totals.nobody += h.backlog.drain(..).count() as u64;
                }
                if !on {
                    self.start(id);
                }
            }
            (FaultKind::CpuStall { stopped, period }, Some(id)) => {
                if let Some(h) = self.hosts.get_mut(id.index()) {
                    h.stalls.retain(|s| s.fault != i);
                    if on {
                        h.stalls.push(Stall { fault: i, since: now, stopped, period });
                    }
                }
                self.net.wake(id, now);
            }
            _ => {
                for link in self.suffering.get(i as usize).into_iter().flatten() {
                    let what = self.impairments(*link);
                    self.net.impair(*link, &what);
                }
            }
        }
    }

    /// Everything that is wrong with a link now.
    fn impairments(&self, link: LinkId) -> Vec<Impairment> {
        let mut out = Vec::new();
        for (i, f) in self.scenario.faults.iter().enumerate() {
            let suffers = self.suffering.get(i).is_some_and(|l| l.binary_search(&link).is_ok());
            if !suffers || self.active.get(i) != Some(&true) {
                continue;
            }
            out.push(match f.kind {
                FaultKind::Drop { rate } => Impairment::Drop(rate),
                FaultKind::Blackhole { share } => {
                    // each link has a sick table entry of its own
                    let salt = mix(self.scenario.seed ^ mix(u64::from(link.0) << 8 | i as u64));
                    Impairment::BlackHole { share, salt }
                }
                FaultKind::Corrupt { rate } => Impairment::Corrupt(rate),
                FaultKind::Reorder { rate, delay } => Impairment::Reorder { rate, by: delay },
                FaultKind::EcnMark { rate } => Impairment::Mark(rate),
                FaultKind::RateLimit { bps } => {
                    Impairment::Limit { rate_bps: bps, wait: self.config.limit_wait }
                }
                FaultKind::Delay { delay, jitter } => Impairment::Delay { add: delay, jitter },
                FaultKind::Down => Impairment::Down,
                FaultKind::Flap { period, duty, rate } => {
                    let bad = Nanos((period.0 as f64 * duty) as u64);
                    Impairment::Flap { since: f.at, period, bad, rate }
                }
                FaultKind::CpuStall { .. } | FaultKind::AgentStop => continue,
            });
        }
        out
    }

    /// Until when a host is stalled, if it is.
    fn stalled(&self, host: HostId) -> Option<Nanos> {
        let now = self.net.now();
        let end = |s: &Stall| {
            let into = now.since(s.since).0.checked_rem(s.period.0)?;
            (into < s.stopped.0).then(|| now + Nanos(s.stopped.0 - into))
        };
        self.hosts.get(host.index())?.stalls.iter().filter_map(end).max()
    }

    fn arrive(&mut self, arrival: Arrival<Load>) {
        let now = self.net.now();
        let host = self.fabric.nic_parts(arrival.to).1;
        let stalled = self.stalled(host);
        let Some(h) = self.hosts.get_mut(host.index()) else { return };
        if h.machines.is_none() {
            self.totals.nobody += 1;
            return;
        }
        let window = now.0 / self.scenario.probe.window.0.max(1);
        if h.checksum.0 != window {
            Self::report_checksum(h, host, &self.fabric, &self.scenario);
            h.checksum = (window, 0, 0);
        }
        h.checksum.2 += 1;
        if arrival.corrupt {
            h.checksum.1 += 1;
            self.totals.corrupt += 1;
            return;
        }
        if let Some(until) = stalled {
            if h.backlog.len() >= self.config.backlog_max {
                self.totals.socket_full += 1;
            } else {
                h.backlog.push_back((now, arrival));
                self.net.wake(host, until);
            }
            return;
        }
        self.take(host, now, arrival);
        self.after(host);
    }

    /// What a host's kernel counted in the window that is over.
    fn report_checksum(h: &mut Host, host: HostId, fabric: &Fabric, scenario: &Scenario) {
        let (index, delta, of) = h.checksum;
        if delta == 0 {
            return;
        }
        let length = scenario.probe.window;
        h.outbox.push(Observation::Component(ComponentObservation {
            window: Window { start: Nanos(index * length.0), length },
            producer: host,
            epoch: fabric.epoch,
            component: Component::Host(host),
            counter: Counter::ChecksumError,
            delta,
            of,
            size_ns: 0,
        }));
    }

    /// A host that is awake takes a packet in that arrived then.
    fn take(&mut self, host: HostId, at: Nanos, a: Arrival<Load>) {
        let now = self.net.now();
        let srv6 = self.fabric.mode == Mode::Srv6;
        let Some((sender, reflector)) = self.hosts.get_mut(host.index()).and_then(|h| h.machines.as_mut())
        else {
            self.totals.nobody += 1;
            return;
        };
        let learned = (!srv6).then_some(a.path);
        // ECT(0) as sent, or CE (RFC 3168)
        let ecn = if a.ce { 3 } else { 2 };
        match a.payload {
            Load::Probe(p) => {
                let back = p.back.filter(|_| srv6).and_then(|b| self.fabric.path_container(b));
                let request = Request {
                    asker: Asker { addr: self.fabric.nic_addr(a.from), port: 862, ssid: p.ssid },
                    to: self.fabric.nic_addr(a.to),
                    meant_for: None,
                    sequence: p.sequence,
                    t1: p.t1,
                    t2: at,
                    traffic_class: p.class << 2 | ecn,
                    flow_label: a.flow,
                    back_class: None,
                    back: back.map_or(Back::Default, Back::Container),
                    path: learned,
                    follow_up: false,
                };
                let Ok(answer) = reflector.handle_input(now, &request) else {
                    self.totals.unanswered += 1;
                    return;
                };
                self.totals.answers += 1;
                let route = match answer.back {
                    Some((path, _)) => Route::Exact(path),
                    None => Route::Hashed { from: a.to, to: a.from },
                };
                let bytes = self.bytes(p.size);
                let (flow, payload) = (answer.flow_label, Load::Answer(answer, now));
                self.net.send(Packet { route, flow, bytes, ect: true, payload });
            }
            Load::Answer(answer, t3) => {
                self.totals.taken += 1;
                let reply = Reply {
                    ssid: answer.asker.ssid,
                    from: a.from,
                    sequence: answer.probe_sequence,
                    reflector_sequence: answer.sequence,
                    t1: answer.t1,
                    t2: answer.t2,
                    t3,
                    t4: at,
                    forward_ecn: Some(answer.probe_traffic_class & 3),
                    backward_ecn: ecn,
                    synchronized: true,
                    forward_path: answer.probe_path,
                    backward_path: learned,
                };
                // the sender counts what it refuses
                let _ = sender.handle_input(now, &reply);
            }
        }
    }

    /// IPv6 and UDP headers, and the outer IPv6 header of an encapsulated packet, around a STAMP packet.
    fn bytes(&self, size: u16) -> u32 {
        u32::from(size) + 48 + if self.fabric.mode == Mode::Srv6 { 40 } else { 0 }
    }

    /// A host's turn: takes in what waits, sends what is due, hands out what is ready.
    fn work(&mut self, host: HostId) {
        let now = self.net.now();
        if let Some(until) = self.stalled(host) {
            self.net.wake(host, until);
            return;
        }
        while let Some((at, a)) = self.hosts.get_mut(host.index()).and_then(|h| h.backlog.pop_front()) {
            self.take(host, at, a);
        }
        let window = now.0 / self.scenario.probe.window.0.max(1);
        let mut due = Vec::new();
        if let Some(h) = self.hosts.get_mut(host.index()) {
            if h.checksum.0 != window {
                Self::report_checksum(h, host, &self.fabric, &self.scenario);
                h.checksum = (window, 0, 0);
            }
            if let Some((sender, reflector)) = h.machines.as_mut() {
                sender.handle_timeout(now);
                reflector.handle_timeout(now);
                due.extend(core::iter::from_fn(|| sender.poll_output(now)));
            }
        }
        for probe in due {
            self.totals.probes += 1;
            let route = match self.fabric.mode {
                Mode::Srv6 => Route::Exact(probe.path),
                Mode::Ecmp => Route::Hashed { from: probe.from, to: probe.to },
            };
            let packet = Packet {
                route,
                flow: probe.flow_label,
                bytes: self.bytes(probe.size),
                ect: true,
                payload: Load::Probe(probe),
            };
            self.net.send(packet);
        }
        self.after(host);
    }

    /// Takes out what a host's machines made, and sees to it that it is woken again.
    fn after(&mut self, host: HostId) {
        let now = self.net.now();
        let Some(h) = self.hosts.get_mut(host.index()) else { return };
        let Some((sender, _)) = h.machines.as_mut() else { return };
        h.outbox.extend(core::iter::from_fn(|| sender.poll_event()));
        if let Some(at) = sender.next_timeout() {
            self.net.wake(host, at);
        }
        if !h.outbox.is_empty() && h.deliver_at.is_none() {
            let at = now + self.config.control_delay;
            h.deliver_at = Some(at);
            self.net.note(at, Note::Deliver(host));
        }
    }

    /// A batch reaches the hub.
    fn deliver(&mut self, host: HostId) {
        let now = self.net.now();
        let Some(h) = self.hosts.get_mut(host.index()) else { return };
        h.deliver_at = None;
        let mut batch = core::mem::take(&mut h.outbox);
        if let Some(tap) = &mut self.tap {
            tap.extend(batch.iter().map(|&o| (now, o)));
        }
        for o in batch.drain(..) {
            let outcome = match &o {
                Observation::Path(o) => {
                    self.count(o);
                    self.engine.handle_path(now, o)
                }
                Observation::Component(o) => self.engine.handle_component(now, o),
            };
            match outcome {
                Outcome::Accepted => self.observations += 1,
                Outcome::Dropped(_) => self.refused += 1,
            }
        }
        if let Some(h) = self.hosts.get_mut(host.index()) {
            h.outbox = batch;
        }
        self.arm();
    }

    /// Counts packets that crossed what suffers.
    fn count(&mut self, o: &PathObservation) {
        for ((links, n), f) in self.suffering.iter().zip(&mut self.crossed).zip(&self.scenario.faults) {
            if links.is_empty() || o.window.start < f.at {
                continue;
            }
            let crosses = |path| {
                let on = |l: &LinkId| links.binary_search(l).is_ok();
                self.fabric.path_links(path).is_some_and(|p| p.iter().any(on))
            };
            let counts = match o.path {
                PathRef::OneWay(leg) => crosses(leg.path),
                PathRef::RoundTrip { forward, backward } => crosses(forward.path) || crosses(backward.path),
            };
            if counts {
                *n += u64::from(o.sent);
            }
        }
    }

    fn weigh(&mut self) {
        let now = self.net.now();
        if self.engine.next_timeout().is_some_and(|t| t <= now) {
            self.engine.handle_timeout(now);
        }
        self.weigh_at = Nanos::MAX;
        self.arm();
    }

    /// Sees to it that the engine gets its turn when it asks for it.
    fn arm(&mut self) {
        if let Some(at) = self.engine.next_timeout()
            && at < self.weigh_at
        {
            self.weigh_at = at;
            // one that asks for a time that is over gets the next nanosecond, so that time goes on
            self.net.note(at.max(self.net.now() + Nanos(1)), Note::Weigh);
        }
    }

    /// Once a second the hub looks for agents that fell silent.
    fn tick(&mut self) {
        let now = self.net.now();
        let second = Nanos::from_secs(1);
        for (i, h) in self.hosts.iter_mut().enumerate() {
            let host = HostId(i as u32);
            if h.machines.is_some() {
                h.heard_at = Some(now);
            }
            let Some(silent) = h.heard_at.map(|at| now.since(at)).filter(|&s| s >= self.config.silent_after)
            else {
                continue;
            };
            let o = ComponentObservation {
                window: Window { start: now.since(second), length: second },
                producer: host,
                epoch: self.fabric.epoch,
                component: Component::Host(host),
                counter: Counter::AgentSilent,
                delta: silent.0 / second.0,
                of: 0,
                size_ns: 0,
            };
            match self.engine.handle_component(now, &o) {
                Outcome::Accepted => self.observations += 1,
                Outcome::Dropped(_) => self.refused += 1,
            }
        }
        self.net.note(now + second, Note::Tick);
        self.arm();
    }
}
