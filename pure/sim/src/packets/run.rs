//! One experiment: a fabric, a matrix, the transport at every host, until every flow is done.
//!
//! How: each flow is a connection of two ends, unless it is a message of one. When a packet arrives its connection is
//! told, then the host's pacer, then control packets go out; data is asked for whenever a host's port is free, from
//! its connections in turn. An EV is either an exact path (a sender with source routing) or hashed by every switch.
//!
//! Invariants: a run is replayed from `(matrix, topology, setup)` alone; at its end every connection's counters
//! reconcile and, where every flow is done, every message was delivered once.
//! Absent on purpose: payload bytes, and CPU time: hosts answer at once.

use super::matrix::Matrix;
use super::network::{Counts, Network, Queues, Step};
use super::topology::{Route, Topology};
use crate::rng::{Rng, mix};
use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use transport::{Connection, Counters, Event, Pacer};
use wire::Nanos;
use wire::transport::{ConnectionId, Ev, Packet, Seen, Target};

/// How an EV becomes a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// EV `i` is path `i` modulo the number of paths: the sender names the links (SRv6).
    #[default]
    Exact,
    /// Every switch hashes the flow and its EV (ECMP).
    Hashed,
}

/// What is wrong with the fabric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Links of the top tier, downward, that are slow.
    pub slow_links: u32,
    /// Their share of full speed, `0 < share <= 1`.
    pub slow_share: f64,
    /// Links that are down, by number, from a time on (picoseconds).
    pub down: Vec<(u32, u64)>,
    /// Every switch's link loses packets with this probability.
    pub loss: f64,
}

/// How a matrix is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The transport's parameters; rate and round trip are taken from the fabric.
    pub transport: transport::Config,
    /// Packets a queue holds; `None`: one bandwidth-delay product, five without trimming.
    pub queue_packets: Option<u32>,
    /// Do switches trim?
    pub trim: bool,
    /// Do switches mark? Token buckets and plain queues do not.
    pub marks: bool,
    /// Packets a host hands to its port at once, all on one path: 1 from a NIC, more from a kernel socket.
    pub segments_max: usize,
    /// How an EV becomes a path.
    pub routing: Routing,
    /// One path a flow, drawn at random, whatever the transport's EVs.
    pub single_path: bool,
    /// What is wrong.
    pub faults: Faults,
    /// Messages of one id share a connection.
    pub reuse: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Longest run, picoseconds.
    pub end_ps: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            transport: transport::Config::default(),
            queue_packets: None,
            trim: true,
            marks: true,
            segments_max: 1,
            routing: Routing::Exact,
            single_path: false,
            faults: Faults { slow_share: 0.25, ..Faults::default() },
            reuse: true,
            seed: 1,
            end_ps: 1_000_000_000_000,
        }
    }
}

/// What a run found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// When each flow was done, counted from the start of the run, microseconds; `None` where it was not.
    pub done_us: Vec<Option<f64>>,
    /// Counters of all connections, summed.
    pub counters: Counters,
    /// Packets still on the way at the end, as the connections see it.
    pub in_flight: u64,
    /// What the network counted.
    pub network: Counts,
    /// Packets inside the network at the end.
    pub inside: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Hash of everything that arrived, and when.
    pub trace: u64,
}

impl Outcome {
    /// When the last flow was done; `None` where one was not.
    pub fn tail_us(&self) -> Option<f64> {
        self.done_us.iter().copied().try_fold(0.0, |a: f64, t| Some(a.max(t?)))
    }
    /// When the first was done.
    pub fn first_us(&self) -> Option<f64> {
        self.done_us.iter().flatten().copied().reduce(f64::min)
    }
    /// Mean over the flows that were done.
    pub fn mean_us(&self) -> Option<f64> {
        let n = self.done_us.iter().flatten().count();
        (n > 0).then(|| self.done_us.iter().flatten().sum::<f64>() / n as f64)
    }
}

/// One end of a connection.
struct End {
    connection: Connection,
    host: u32,
    peer_host: u32,
    salt: u64,
    armed: u64,
    data_queued: bool,
}

#[derive(Default)]
struct Host {
    /// Ends that may have data.
    ready: VecDeque<u32>,
    /// Ends that receive here; the pacer knows them by their place.
    receives: Vec<u32>,
    pacer: Option<Pacer>,
    pacer_armed: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Start(u32),
    End(u32),
    Pacer(u32),
    Down(u32),
}

struct Run<'a> {
    topology: &'a Topology,
    setup: &'a Setup,
    matrix: &'a Matrix,
    config: transport::Config,
    network: Network,
    rng: Rng,
    ends: Vec<End>,
    /// The place of an end in its host's pacer.
    slot: Vec<u32>,
    hosts: Vec<Host>,
    /// What each parcel carries.
    carried: Vec<Packet>,
    alarms: BinaryHeap<Reverse<(u64, u64, Alarm)>>,
    order: u64,
    /// Flow -> (end that sends, messages of the end before it).
    flow_end: Vec<u32>,
    /// End -> flows in the order their messages were sent.
    end_flows: Vec<Vec<u32>>,
    done: Vec<Option<u64>>,
    open: usize,
    fired: Vec<(u32, u32)>,
    /// Flows whose connection had no room for another message.
    waiting: Vec<u32>,
    sink: Vec<Packet>,
    delivered: u64,
    trace: u64,
}

const NEVER: u64 = u64::MAX;

/// The transport's parameters on this fabric.
pub fn fitted(config: &transport::Config, topology: &Topology) -> transport::Config {
    let rtt_ps = topology.rtt_ps(config.packet_bytes(), u32::from(config.header_bytes));
    transport::Config { rate_bps: topology.rate_bps[0], rtt_base: Nanos(rtt_ps / 1000), ..*config }
}

/// Runs a matrix over a fabric.
pub fn run(matrix: &Matrix, topology: &Topology, setup: &Setup) -> Outcome {
    let config = fitted(&setup.transport, topology);
    let bdp = config.bdp_bytes();
    let packet = config.packet_bytes();
    let times = if setup.trim { 1 } else { 5 };
    let data_bytes = setup.queue_packets.unwrap_or((bdp / packet) * times).saturating_mul(packet);
    let queues = Queues {
        data_bytes,
        control_bytes: data_bytes.saturating_mul(2),
        mark_from_bytes: if setup.marks { bdp / 5 } else { u32::MAX - 1 },
        mark_all_bytes: if setup.marks { bdp / 5 * 4 } else { u32::MAX },
        trim: setup.trim,
        mark_last_hop: !config.control.always_grants(),
        header_bytes: u32::from(config.header_bytes),
    };
    let mut network = Network::new(topology, queues);
    for n in 0..setup.faults.slow_links {
        if let Some(link) = topology.downlink(n) {
            network.slow(link, setup.faults.slow_share.clamp(0.001, 1.0));
        }
    }
    if setup.faults.loss > 0.0 {
        (topology.hosts..topology.links()).for_each(|l| network.lossy(l, setup.faults.loss));
    }
    let mut run = Run {
        topology,
        setup,
        matrix,
        config,
        network,
        rng: Rng::new(setup.seed, 1),
        ends: Vec::new(),
        slot: Vec::new(),
        hosts: (0..topology.hosts).map(|_| Host { pacer_armed: NEVER, ..Host::default() }).collect(),
        carried: Vec::new(),
        alarms: BinaryHeap::new(),
        order: 0,
        flow_end: Vec::new(),
        end_flows: Vec::new(),
        done: vec![None; matrix.flows.len()],
        open: matrix.flows.len(),
        fired: Vec::new(),
        waiting: Vec::new(),
        sink: Vec::new(),
        delivered: 0,
        trace: 0,
    };
    run.prepare();
    run.go();
    run.outcome()
}

impl Run<'_> {
    fn prepare(&mut self) {
        let mut draw = Rng::new(self.setup.seed, 2);
        for (i, f) in self.matrix.flows.iter().enumerate() {
            let before = self.setup.reuse && f.message;
            let same = |&j: &usize| {
                let g = &self.matrix.flows[j];
                g.message && (g.id, g.from, g.to) == (f.id, f.from, f.to)
            };
            let end = match (0..i).find(same).filter(|_| before) {
                Some(j) => self.flow_end[j],
                None => {
                    let end = self.ends.len() as u32;
                    for (peer, host, peer_host) in [(end + 1, f.from, f.to), (end, f.to, f.from)] {
                        let salt = draw.next_u64();
                        let connection = Connection::new(self.config, ConnectionId(peer), salt);
                        self.ends.push(End {
                            connection,
                            host,
                            peer_host,
                            salt,
                            armed: NEVER,
                            data_queued: false,
                        });
                        let receives = &mut self.hosts[host as usize].receives;
                        self.slot.push(receives.len() as u32);
                        receives.push(self.ends.len() as u32 - 1);
                        self.end_flows.push(Vec::new());
                    }
                    end
                }
            };
            self.flow_end.push(end);
            if f.starts_on.is_none() {
                self.alarm(f.start_ps, Alarm::Start(i as u32));
            }
        }
        for &(link, at) in &self.setup.faults.down {
            self.alarm(at, Alarm::Down(link));
        }
    }

    fn alarm(&mut self, at: u64, what: Alarm) {
        self.alarms.push(Reverse((at, self.order, what)));
        self.order += 1;
    }

    fn now(&self) -> Nanos {
        Nanos(self.network.now / 1000)
    }

    fn go(&mut self) {
        while self.open > 0 {
            let alarm = self.alarms.peek().map_or(NEVER, |Reverse((t, _, _))| *t);
            let net = self.network.peek().unwrap_or(NEVER);
            let at = alarm.min(net);
            if at > self.setup.end_ps {
                return;
            }
            if alarm <= net {
                self.network.now = self.network.now.max(alarm);
                if let Some(Reverse((_, _, what))) = self.alarms.pop() {
                    self.ring(at, what);
                }
                continue;
            }
            match self.network.step(&mut self.rng) {
                Step::Delivered(parcel) => self.deliver(parcel),
                Step::Free(host) => self.feed(host),
                Step::Inside => {}
            }
        }
    }

    fn ring(&mut self, at: u64, what: Alarm) {
        match what {
            Alarm::Start(flow) => self.start(flow),
            Alarm::Down(link) => self.network.set_down(link, true),
            Alarm::End(end) => {
                let now = self.now();
                let e = &mut self.ends[end as usize];
                if e.armed != at {
                    return;
                }
                e.armed = NEVER;
                if e.connection.next_timeout().is_some_and(|t| t <= now) {
                    e.connection.handle_timeout(now);
                }
                self.after(end);
            }
            Alarm::Pacer(host) => {
                let h = &mut self.hosts[host as usize];
                if h.pacer_armed == at {
                    h.pacer_armed = NEVER;
                    self.pace(host);
                }
            }
        }
    }

    fn start(&mut self, flow: u32) {
        let f = self.matrix.flows[flow as usize];
        let end = self.flow_end[flow as usize];
        let now = self.now();
        let target = Target::Tagged { tag: u64::from(flow) };
        match self.ends[end as usize].connection.send(now, target, f.bytes) {
            Ok(_) => self.end_flows[end as usize].push(flow),
            // as many messages as the connection keeps: again when one is done
            Err(_) => self.waiting.push(flow),
        }
        self.after(end);
    }

    fn deliver(&mut self, number: u32) {
        let p = self.network.parcels[number as usize];
        let now = self.now();
        let seen = Seen { marked: p.marked, trimmed: p.trimmed };
        let packet = self.carried[number as usize];
        self.network.release(number);
        let end = packet.connection().0;
        self.trace =
            mix(self.trace ^ mix(self.network.now ^ u64::from(end) << 48 ^ u64::from(p.bytes) << 40));
        let e = &mut self.ends[end as usize];
        e.connection.handle_input(now, &packet, seen);
        let host = e.host;
        if matches!(packet, Packet::Data(_) | Packet::Probe(_) | Packet::CreditRequest(_)) {
            let slot = self.slot[end as usize];
            let h = &mut self.hosts[host as usize];
            let config = &self.config;
            h.pacer
                .get_or_insert_with(|| Pacer::new(config))
                .handle_input(slot, &mut self.ends[end as usize].connection);
            self.pace(host);
        }
        self.after(end);
    }

    /// Grants what may be granted now, and sets the pacer's alarm.
    fn pace(&mut self, host: u32) {
        let now = self.now();
        loop {
            let h = &mut self.hosts[host as usize];
            let Some(pacer) = &mut h.pacer else { return };
            let Some(slot) = pacer.poll_slot(now) else { break };
            let Some(&end) = h.receives.get(slot as usize) else { break };
            let granted = pacer.grant(now, slot, &mut self.ends[end as usize].connection);
            if granted {
                self.after(end);
            }
        }
        let h = &mut self.hosts[host as usize];
        if let Some(at) = h.pacer.as_ref().and_then(|p| p.next_timeout()) {
            let at = at.0.saturating_mul(1000).max(self.network.now);
            if at < h.pacer_armed {
                h.pacer_armed = at;
                self.alarm(at, Alarm::Pacer(host));
            }
        }
    }

    /// After anything happened to an end: events, control packets, data, timers.
    fn after(&mut self, end: u32) {
        let now = self.now();
        while let Some(event) = self.ends[end as usize].connection.poll_event() {
            self.event(end, event);
        }
        loop {
            let mut sink = core::mem::take(&mut self.sink);
            sink.clear();
            let ev = self.ends[end as usize].connection.poll_control(now, &mut sink);
            if let (Some(ev), Some(packet)) = (ev, sink.first()) {
                self.inject(end, ev, packet);
            }
            self.sink = sink;
            if ev.is_none() {
                break;
            }
        }
        let e = &mut self.ends[end as usize];
        if !e.data_queued && e.connection.has_data(now) {
            e.data_queued = true;
            let host = e.host;
            self.hosts[host as usize].ready.push_back(end);
            if !self.network.busy(host) {
                self.feed(host);
            }
        }
        self.arm(end);
    }

    fn arm(&mut self, end: u32) {
        let e = &mut self.ends[end as usize];
        if let Some(at) = e.connection.next_timeout() {
            let at = (at.0.saturating_mul(1000)).max(self.network.now + 1000);
            if at < e.armed {
                e.armed = at;
                self.alarm(at, Alarm::End(end));
            }
        }
    }

    /// The port of a host is free: the next connection in turn sends a packet.
    fn feed(&mut self, host: u32) {
        let now = self.now();
        while let Some(end) = self.hosts[host as usize].ready.pop_front() {
            let mut sink = core::mem::take(&mut self.sink);
            sink.clear();
            let ev = self.ends[end as usize].connection.poll_data(now, self.setup.segments_max, &mut sink);
            if let Some(ev) = ev {
                sink.iter().for_each(|packet| self.inject(end, ev, packet));
            }
            let sent = ev.is_some();
            self.sink = sink;
            self.arm(end);
            if sent {
                self.hosts[host as usize].ready.push_back(end);
                return;
            }
            self.ends[end as usize].data_queued = false;
            // out of leave to send: it may have to ask for some
            if self.ends[end as usize].connection.has_control(now) {
                self.after(end);
            }
        }
    }

    fn inject(&mut self, end: u32, ev: Ev, packet: &Packet) {
        let e = &self.ends[end as usize];
        let bytes = match packet {
            Packet::Data(d) => u32::from(d.bytes) + u32::from(self.config.header_bytes),
            _ => u32::from(self.config.header_bytes),
        };
        let control = !matches!(packet, Packet::Data(_) | Packet::Probe(_));
        let route = self.route(e, ev);
        let number = self.network.give(route, bytes, control, &mut self.rng);
        match self.carried.get_mut(number as usize) {
            Some(slot) => *slot = *packet,
            // the network counts its parcels up
            None => self.carried.push(*packet),
        }
    }

    fn route(&self, e: &End, ev: Ev) -> Route {
        let path = match (self.setup.single_path, self.setup.routing) {
            (true, _) => (mix(e.salt) % u64::from(self.topology.paths().max(1))) as u32,
            (false, Routing::Exact) => u32::from(ev.0),
            (false, Routing::Hashed) => {
                (mix(e.salt ^ mix(u64::from(ev.0))) % u64::from(self.topology.paths().max(1))) as u32
            }
        };
        self.topology.route(e.host, e.peer_host, path)
    }

    fn event(&mut self, end: u32, event: Event) {
        match event {
            Event::Sent(message) => {
                let flow = self.end_flows[end as usize].get(message.0 as usize).copied();
                if let Some(flow) = flow {
                    self.done[flow as usize] = Some(self.network.now);
                    self.open -= 1;
                    self.fire(self.matrix.flows[flow as usize].fires_sent);
                    if let Some(i) = self.waiting.iter().position(|&f| self.flow_end[f as usize] == end) {
                        let (next, now) = (self.waiting.remove(i), self.network.now);
                        self.alarm(now, Alarm::Start(next));
                    }
                }
            }
            Event::Received { target: Target::Tagged { tag }, .. } => {
                self.delivered += 1;
                let fires = self.matrix.flows.get(tag as usize).and_then(|f| f.fires_received);
                self.fire(fires);
            }
            _ => {}
        }
    }

    fn fire(&mut self, trigger: Option<u32>) {
        let Some(id) = trigger else { return };
        let fired = match self.fired.iter_mut().find(|(i, _)| *i == id) {
            Some((_, n)) => {
                *n += 1;
                *n
            }
            None => {
                self.fired.push((id, 1));
                1
            }
        };
        let needed = self.matrix.triggers.iter().find(|t| t.id == id).map_or(1, |t| t.count);
        if fired == needed {
            let waiting = self.matrix.flows.iter().enumerate().filter(|(_, f)| f.starts_on == Some(id));
            let flows: Vec<u32> = waiting.map(|(i, _)| i as u32).collect();
            let now = self.network.now;
            flows.into_iter().for_each(|f| self.alarm(now, Alarm::Start(f)));
        }
    }

    fn outcome(self) -> Outcome {
        let mut sum = Counters::default();
        let mut in_flight = 0;
        for e in &self.ends {
            add(&mut sum, e.connection.counters());
            in_flight += e.connection.in_flight();
        }
        Outcome {
            done_us: self.done.iter().map(|t| t.map(|t| t as f64 / 1e6)).collect(),
            counters: sum,
            in_flight,
            network: self.network.counts,
            inside: self.network.inside(),
            delivered: self.delivered,
            trace: self.trace,
        }
    }
}

fn add(sum: &mut Counters, c: &Counters) {
    sum.sent += c.sent;
    sum.chunks_new += c.chunks_new;
    sum.chunks_again += c.chunks_again;
    sum.probes += c.probes;
    sum.acknowledged += c.acknowledged;
    sum.lost += c.lost;
    sum.lost_trimmed += c.lost_trimmed;
    sum.lost_gap += c.lost_gap;
    sum.lost_late += c.lost_late;
    sum.acks += c.acks;
    sum.nacks += c.nacks;
    sum.credits += c.credits;
    sum.credit_requests += c.credit_requests;
    sum.silences += c.silences;
    sum.keep_alives += c.keep_alives;
    sum.timeouts += c.timeouts;
    sum.placed += c.placed;
    sum.chunks_twice += c.chunks_twice;
    sum.messages_received += c.messages_received;
    sum.messages_sent += c.messages_sent;
    sum.refused_by_peer += c.refused_by_peer;
    for (a, b) in sum.dropped.iter_mut().zip(c.dropped) {
        *a += b;
    }
}
