//! Every path to another host, and every hop of each, asked once by whoever wants to know: a trace.
//!
//! How: for a number of rounds three kinds of probes go along each path ([`Kind`]): whole ones that the other host answers,
//! whose counts tell the two directions apart; ones whose hop limit ends at a switch, which then says its name; and, where
//! the sender chooses paths (srv6), ones that turn at a switch and come back by the same cables, so that no switch has to
//! answer anything. Where the network chooses (ecmp), flow labels are tried first until every path was seen.
//!
//! What a hop loses is the difference to the hop before it. A switch that answers seldom loses nothing by that: a later hop
//! that answers proves what came through, so a loss is said with how it is known ([`wire::proto::HopConfidence`]).
//!
//! Invariants: `now` is an argument; paths and packets are bounded before anything is sent; an answer is matched by number,
//! session and peer or not counted; a switch is asked no faster than [`ASK_GAP`].
//! Absent on purpose: sockets; and any opinion on what is normal.

mod report;
#[cfg(test)]
mod tests;

use crate::counters::Dropped;
use crate::sender::{Probe, Reply, mix};
use crate::trace::{HOST_NODES, path_of_switches};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use fabric::{Fabric, Mode, Node, PathLinks, Tier};
use wire::ioam::NodeData;
use wire::{HostId, Nanos, NicId, PathId, PlaneId, SwitchId};

/// Paths of one survey.
pub const PATHS_MAX: usize = 4_096;
/// Probes of one survey.
pub const PROBES_MAX: u64 = 1_000_000;
/// Distance of two probes that one switch is to answer.
pub const ASK_GAP: Nanos = Nanos::from_millis(20);
/// Rounds in which switches are asked for their names where other probes measure the loss.
const NAMED_ROUNDS: u32 = 4;
/// Probes due that are looked through for one that may go.
const LOOK: usize = 256;
/// Flow labels tried at a time for one pair of NICs.
const TRIES_AT_ONCE: u32 = 16;
/// What is due and late is not made up for beyond this.
const BEHIND: Nanos = Nanos::from_millis(20);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyConfig {
    /// Probes of each kind along each path and to each hop. At least 1.
    pub rounds: u32,
    /// At most so many packets a second. At least 1.
    pub packets_per_second: u32,
    /// A probe unanswered so long is lost.
    pub timeout: Nanos,
    /// DSCP.
    pub class: u8,
    /// Bytes of the STAMP packet.
    pub size: u16,
    /// Changes sessions, numbers and flow labels.
    pub seed: u64,
}

impl Default for SurveyConfig {
    fn default() -> Self {
        SurveyConfig {
            rounds: 10,
            packets_per_second: 500,
            timeout: Nanos::from_secs(1),
            class: 0,
            size: 128,
            seed: 0,
        }
    }
}

/// Why there is no survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// The fabric has no such host.
    #[error("{host} is not in the fabric")]
    NoSuchHost {
        /// The host.
        host: HostId,
    },
    /// A host to itself.
    #[error("a trace needs two hosts, not {host} twice")]
    Itself {
        /// The host.
        host: HostId,
    },
    /// More than is sent for one question.
    #[error(
        "{paths} paths in {rounds} rounds are {probes} probes, at most {PROBES_MAX}: ask for fewer rounds"
    )]
    TooMany {
        /// Paths.
        paths: usize,
        /// Rounds.
        rounds: u32,
        /// Probes they would take.
        probes: u64,
    },
}

/// How a probe is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At the other host, which answers.
    Whole,
    /// At the switch of that hop, by its hop limit; hop 1 is the first switch.
    Limited {
        /// The hop limit it leaves with.
        hop_limit: u8,
    },
    /// At this host, after it has turned at a switch. It goes inside an outer header to this container, from and to the
    /// NIC it starts at, and to the sender's own port.
    Turned {
        /// Destination of the outer header.
        container: Ipv6Addr,
    },
}

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyProbe {
    /// What is in it. For one that turns, `to` is `from`.
    pub probe: Probe,
    /// How it is to end.
    pub kind: Kind,
    /// It is to carry a trace option (IOAM) for the switches on the way to write into. Some networks drop what carries
    /// one behind an outer header, so where the sender chooses paths only some probes do.
    pub traced: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Whole {
        order: u32,
    },
    Limited {
        hop: usize,
        traced: bool,
    },
    Turned {
        hop: usize,
    },
    /// A flow label tried for a pair: a whole one, or one to the second switch.
    Try {
        pair: usize,
        flow_label: u32,
        whole: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    path: usize,
    ssid: u16,
    what: What,
    t1: Nanos,
}

#[derive(Clone, Debug, Default)]
struct Hop {
    limited: (u32, u32),
    turned: (u32, u32),
    rtts_ns: Vec<u32>,
    deltas_ns: Vec<i32>,
    seen: bool,
    ingress: u16,
    egress: u16,
}

#[derive(Clone, Debug)]
struct PathState {
    path: PathId,
    from: NicId,
    to: NicId,
    links: PathLinks,
    ssid: u16,
    flow_label: Option<u32>,
    sent: u32,
    answered: u32,
    /// Whole probes up to the last one answered, and how many of them the other end counted.
    known: u32,
    counted: u32,
    rtts_ns: Vec<u32>,
    hops: Vec<Hop>,
}

/// A pair of NICs whose flow labels are looked for.
#[derive(Clone, Debug)]
struct Pair {
    from: NicId,
    to: NicId,
    tries: u32,
    tries_max: u32,
    under_way: u32,
    /// Paths without a label.
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Looking,
    Rounds(u32),
    Waiting,
    Done,
}

/// A trace under way.
#[derive(Debug)]
pub struct Survey {
    fabric: Arc<Fabric>,
    config: SurveyConfig,
    hosts: (HostId, HostId),
    paths: Vec<PathState>,
    pairs: Vec<Pair>,
    phase: Phase,
    due: VecDeque<(usize, What)>,
    asked: BTreeMap<SwitchId, Nanos>,
    flights: BTreeMap<u32, Flight>,
    next_number: u32,
    started: Nanos,
    next_send: Nanos,
    sent: u64,
    strayed: u64,
    left_out: usize,
    ended: Nanos,
}

fn ns32(ns: u64) -> u32 {
    u32::try_from(ns).unwrap_or(u32::MAX)
}

/// The container that leads from a NIC along a path as far as the switch of a hop (1 to 3) and back by the same cables.
pub fn turn_container(fabric: &Fabric, path: PathId, hop: usize) -> Option<Ipv6Addr> {
    let (from, to, lane) = fabric.path_parts(path)?;
    let links = fabric.path_links(path)?;
    let (plane, _, _) = fabric.nic_parts(from);
    let [a, b] = fabric.block(plane);
    let leaf = |nic: NicId| fabric.switch(plane, Tier::Leaf, fabric.nic_leaf_port(nic).0);
    let (spine, up, down) = fabric.lane_parts(lane);
    let own = fabric.switch_usid(leaf(from)?, if hop == 1 { 0 } else { up });
    let home = fabric.nic_usid(from);
    let segments = match (hop, links.len()) {
        (1, _) => [own, home, 0, 0, 0, 0],
        (2, 4) => [fabric.switch_usid(fabric.switch(plane, Tier::Spine, spine)?, up), own, home, 0, 0, 0],
        (3, 4) => {
            let spine = fabric.switch(plane, Tier::Spine, spine)?;
            let far = fabric.switch_usid(leaf(to)?, down);
            [fabric.switch_usid(spine, up), far, fabric.switch_usid(spine, down), own, home, 0]
        }
        _ => return None,
    };
    let [c, d, e, f, g, h] = segments;
    Some(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

impl Survey {
    /// A survey of every path from one host to another. Nothing is sent yet.
    pub fn new(
        fabric: Arc<Fabric>,
        from: HostId,
        to: HostId,
        now: Nanos,
        config: SurveyConfig,
    ) -> Result<Survey, SurveyError> {
        for host in [from, to] {
            if host.0 >= fabric.shape.hosts {
                return Err(SurveyError::NoSuchHost { host });
            }
        }
        if from == to {
            return Err(SurveyError::Itself { host: from });
        }
        let config = SurveyConfig {
            rounds: config.rounds.max(1),
            packets_per_second: config.packets_per_second.max(1),
            ..config
        };
        let exact = fabric.mode == Mode::Srv6;
        let (mut paths, mut pairs, mut left_out) = (Vec::new(), Vec::new(), 0usize);
        for plane in 0..fabric.shape.planes {
            let plane = PlaneId(plane as u8);
            let rails = fabric.shape.rails;
            for (a, b) in (0..rails).flat_map(|a| (0..rails).map(move |b| (a, b))) {
                let (Some(nic), Some(other)) = (fabric.nic(plane, from, a), fabric.nic(plane, to, b)) else {
                    continue;
                };
                let mut missing = 0;
                for path in fabric.paths(nic, other) {
                    if paths.len() >= PATHS_MAX {
                        left_out += 1;
                        continue;
                    }
                    let Some(links) = fabric.path_links(path) else { continue };
                    missing += 1;
                    let label = (mix(config.seed ^ path.0) % 0xf_ffff) as u32 + 1;
                    paths.push(PathState {
                        path,
                        from: nic,
                        to: other,
                        links,
                        ssid: (mix(config.seed) as u16).wrapping_add(paths.len() as u16).max(1),
                        // the only path needs no looking for
                        flow_label: (exact || links.len() == 2).then_some(label),
                        sent: 0,
                        answered: 0,
                        known: 0,
                        counted: 0,
                        rtts_ns: Vec::new(),
                        hops: alloc::vec![Hop::default(); links.len() - 1],
                    });
                }
                let near = fabric.nic_leaf_port(nic).0 == fabric.nic_leaf_port(other).0;
                if !exact && !near && missing > 0 {
                    // with 32 lanes equally likely this misses one of them in 6,000 surveys
                    let tries_max = fabric.lanes().saturating_mul(12).min(4_096);
                    pairs.push(Pair { from: nic, to: other, tries: 0, tries_max, under_way: 0, missing });
                }
            }
        }
        let each: u64 = paths.iter().map(|p| p.links.len() as u64 + if exact { 3 } else { 0 }).sum();
        let tries: u64 = pairs.iter().map(|p| u64::from(p.tries_max) * 2).sum();
        let probes = each.saturating_mul(config.rounds.into()).saturating_add(tries);
        if probes > PROBES_MAX {
            return Err(SurveyError::TooMany { paths: paths.len(), rounds: config.rounds, probes });
        }
        // neighbours in the order leave by different planes and pairs
        paths.sort_by_key(|p| (fabric.path_parts(p.path).map(|(_, _, lane)| lane), p.path));
        Ok(Survey {
            phase: if pairs.is_empty() { Phase::Rounds(0) } else { Phase::Looking },
            hosts: (from, to),
            paths,
            pairs,
            due: VecDeque::new(),
            asked: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_number: mix(config.seed ^ 0x0005_a4e7) as u32,
            started: now,
            next_send: now,
            sent: 0,
            strayed: 0,
            left_out,
            ended: now,
            fabric,
            config,
        })
    }

    /// The switch at a hop of a path, from 0.
    fn switch_at(&self, path: usize, hop: usize) -> Option<SwitchId> {
        let link = *self.paths.get(path)?.links.get(hop)?;
        match self.fabric.link_ends(link)?.1 {
            Node::Switch(switch) => Some(switch),
            Node::Nic(_) => None,
        }
    }

    /// Puts into the queue what comes next, where it is empty.
    fn refill(&mut self, now: Nanos) {
        let exact = self.fabric.mode == Mode::Srv6;
        while self.due.is_empty() {
            match self.phase {
                Phase::Looking => {
                    let mut open = false;
                    for (i, pair) in self.pairs.iter_mut().enumerate() {
                        open |= pair.missing > 0 && (pair.tries < pair.tries_max || pair.under_way > 0);
                        while pair.missing > 0
                            && pair.tries < pair.tries_max
                            && pair.under_way < TRIES_AT_ONCE
                        {
                            let mixed = mix(self.config.seed ^ u64::from(pair.tries) << 32 ^ i as u64);
                            let flow_label = (mixed % 0xf_ffff) as u32 + 1;
                            for whole in [true, false] {
                                self.due.push_back((0, What::Try { pair: i, flow_label, whole }));
                            }
                            pair.tries += 1;
                            pair.under_way += 2;
                        }
                    }
                    if !open {
                        self.phase = Phase::Rounds(0);
                        continue;
                    }
                    return;
                }
                Phase::Rounds(round) if round < self.config.rounds => {
                    let asked = !exact || round < NAMED_ROUNDS;
                    for (i, path) in self.paths.iter().enumerate() {
                        if path.flow_label.is_none() {
                            continue;
                        }
                        self.due.push_back((i, What::Whole { order: 0 }));
                        for hop in 0..path.hops.len() {
                            if exact {
                                self.due.push_back((i, What::Turned { hop }));
                            }
                            if asked {
                                // in srv6 mode every other time with a trace
                                let traced = !exact || round % 2 == 1;
                                self.due.push_back((i, What::Limited { hop, traced }));
                            }
                        }
                    }
                    // in another order each time, so that nothing periodic in the network hits one kind only
                    let seed = self.config.seed ^ u64::from(round) << 40;
                    let mut order: Vec<_> = self.due.drain(..).zip(0u64..).collect();
                    order.sort_by_key(|(_, i)| mix(seed ^ i));
                    self.due.extend(order.into_iter().map(|(probe, _)| probe));
                    self.phase = Phase::Rounds(round + 1);
                }
                Phase::Rounds(_) => self.phase = Phase::Waiting,
                Phase::Waiting => {
                    if self.flights.is_empty() {
                        self.phase = Phase::Done;
                        self.ended = now;
                    }
                    return;
                }
                Phase::Done => return,
            }
        }
    }

    /// The switch that is to answer a probe, where one is.
    fn asks(&self, path: usize, what: &What) -> Option<SwitchId> {
        match what {
            What::Limited { hop, .. } => self.switch_at(path, *hop),
            // which spine it will be is not known: the pair's first leaf stands for them
            What::Try { pair, whole: false, .. } => {
                let nic = self.pairs.get(*pair)?.from;
                self.fabric.switch(self.fabric.nic_parts(nic).0, Tier::Leaf, self.fabric.nic_leaf_port(nic).0)
            }
            _ => None,
        }
    }

    /// When the switch may be asked again.
    fn open_at(&self, path: usize, what: &What) -> Nanos {
        let asked = self.asks(path, what).and_then(|s| self.asked.get(&s));
        asked.map_or(Nanos::ZERO, |at| *at + ASK_GAP)
    }

    /// The next probe that is due.
    pub fn poll_output(&mut self, now: Nanos) -> Option<SurveyProbe> {
        if now < self.next_send {
            return None;
        }
        self.refill(now);
        let found = self.due.iter().take(LOOK).position(|(path, what)| self.open_at(*path, what) <= now)?;
        let (path, what) = self.due.remove(found)?;
        if let Some(switch) = self.asks(path, &what) {
            self.asked.insert(switch, now);
        }
        let step = Nanos(1_000_000_000 / u64::from(self.config.packets_per_second));
        self.next_send = Nanos(self.next_send.0.max(now.since(BEHIND).0)) + step;
        self.sent += 1;
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let p = match what {
            What::Try { pair, flow_label, whole } => {
                return self.attempt(now, number, pair, flow_label, whole);
            }
            _ => self.paths.get_mut(path)?,
        };
        let (what, kind) = match what {
            What::Limited { hop, .. } => {
                p.hops.get_mut(hop)?.limited.0 += 1;
                (what, Kind::Limited { hop_limit: hop as u8 + 1 })
            }
            What::Turned { hop } => {
                let container = turn_container(&self.fabric, p.path, hop + 1)?;
                p.hops.get_mut(hop)?.turned.0 += 1;
                (what, Kind::Turned { container })
            }
            _ => {
                p.sent += 1;
                (What::Whole { order: p.sent }, Kind::Whole)
            }
        };
        let exact = self.fabric.mode == Mode::Srv6;
        let probe = Probe {
            slot: path as u32,
            ssid: p.ssid,
            sequence: number,
            t1: now,
            from: p.from,
            to: if matches!(kind, Kind::Turned { .. }) { p.from } else { p.to },
            path: p.path,
            back: if exact { self.fabric.path_reverse(p.path) } else { None },
            flow_label: p.flow_label.unwrap_or(1),
            class: self.config.class,
            size: self.config.size,
        };
        self.flights.insert(number, Flight { path, ssid: p.ssid, what, t1: now });
        let traced = !exact || matches!(what, What::Limited { traced: true, .. });
        Some(SurveyProbe { probe, kind, traced })
    }

    /// A probe that tries a flow label.
    fn attempt(
        &mut self,
        now: Nanos,
        number: u32,
        pair: usize,
        flow_label: u32,
        whole: bool,
    ) -> Option<SurveyProbe> {
        let p = self.pairs.get(pair)?;
        // a session of its own: its counts are of no use
        let ssid = (mix(self.config.seed ^ 0x7127) as u16).wrapping_add(pair as u16).max(1);
        let probe = Probe {
            slot: pair as u32,
            ssid,
            sequence: number,
            t1: now,
            from: p.from,
            to: p.to,
            path: self.fabric.path(p.from, p.to, 0)?,
            back: None,
            flow_label,
            class: self.config.class,
            size: self.config.size,
        };
        let what = What::Try { pair, flow_label, whole };
        self.flights.insert(number, Flight { path: 0, ssid, what, t1: now });
        let kind = if whole { Kind::Whole } else { Kind::Limited { hop_limit: 2 } };
        Some(SurveyProbe { probe, kind, traced: true })
    }

    fn land(&mut self, number: u32, ssid: u16) -> Result<Flight, Dropped> {
        let flight = *self.flights.get(&number).ok_or(Dropped::NeverSent)?;
        if flight.ssid != ssid {
            return Err(Dropped::WrongSession);
        }
        Ok(flight)
    }

    /// This label leads along this path.
    fn label(&mut self, pair: usize, flow_label: u32, path: Option<PathId>) {
        let found = self.paths.iter_mut().find(|p| Some(p.path) == path && p.flow_label.is_none());
        if let (Some(found), Some(pair)) = (found, self.pairs.get_mut(pair)) {
            found.flow_label = Some(flow_label);
            pair.missing = pair.missing.saturating_sub(1);
        }
    }

    /// The other host answered a whole probe.
    pub fn handle_reply(&mut self, reply: &Reply) -> Result<(), Dropped> {
        let flight = self.land(reply.sequence, reply.ssid)?;
        if flight.t1.0.abs_diff(reply.t1.0) > 1_000 {
            // written with the resolution of NTP
            return Err(Dropped::Replayed);
        }
        let rtt = ns32(reply.t4.since(flight.t1).0.saturating_sub(reply.t3.since(reply.t2).0));
        match flight.what {
            What::Whole { order } => {
                let p = self.paths.get_mut(flight.path).ok_or(Dropped::WrongSession)?;
                if reply.from != p.to {
                    return Err(Dropped::WrongPeer);
                }
                if reply.forward_path.is_some_and(|path| path != p.path) {
                    self.strayed += 1;
                }
                p.answered += 1;
                p.known = p.known.max(order);
                p.counted = p.counted.max(reply.reflector_sequence.saturating_add(1));
                p.rtts_ns.push(rtt);
            }
            What::Try { pair, flow_label, whole: true } => {
                if self.pairs.get(pair).is_none_or(|p| p.to != reply.from) {
                    return Err(Dropped::WrongPeer);
                }
                self.label(pair, flow_label, reply.forward_path);
                self.tried(pair);
            }
            _ => return Err(Dropped::WrongSession),
        }
        self.flights.remove(&reply.sequence);
        Ok(())
    }

    fn tried(&mut self, pair: usize) {
        if let Some(pair) = self.pairs.get_mut(pair) {
            pair.under_way = pair.under_way.saturating_sub(1);
        }
    }

    /// A probe that turned came back.
    pub fn handle_returned(&mut self, at: Nanos, ssid: u16, number: u32) -> Result<(), Dropped> {
        let flight = self.land(number, ssid)?;
        let What::Turned { hop } = flight.what else { return Err(Dropped::WrongSession) };
        let hop = self.paths.get_mut(flight.path).and_then(|p| p.hops.get_mut(hop));
        let hop = hop.ok_or(Dropped::WrongSession)?;
        hop.turned.1 += 1;
        hop.rtts_ns.push(ns32(at.since(flight.t1).0));
        self.flights.remove(&number);
        Ok(())
    }

    /// A switch said that a probe ended at it; `nodes` is what the network had written into it by then.
    pub fn handle_time_exceeded(
        &mut self,
        at: Nanos,
        ssid: u16,
        number: u32,
        by: Ipv6Addr,
        nodes: &[NodeData],
    ) -> Result<(), Dropped> {
        let flight = self.land(number, ssid)?;
        let by = self.fabric.switch_by_addr(by).ok_or(Dropped::WrongPeer)?;
        match flight.what {
            What::Limited { hop, .. } => {
                if self.switch_at(flight.path, hop) != Some(by) {
                    self.strayed += 1;
                    self.flights.remove(&number);
                    return Err(Dropped::WrongPeer);
                }
                let exact = self.fabric.mode == Mode::Srv6;
                let p = self.paths.get_mut(flight.path).ok_or(Dropped::WrongSession)?;
                let hop = p.hops.get_mut(hop).ok_or(Dropped::WrongSession)?;
                hop.limited.1 += 1;
                hop.seen = true;
                if !exact {
                    hop.rtts_ns.push(ns32(at.since(flight.t1).0));
                }
                self.note_nodes(flight.path, flight.t1, nodes);
            }
            What::Try { pair, flow_label, whole: false } => {
                let path = self.pairs.get(pair).and_then(|p| {
                    let leaf = |nic: NicId| {
                        let plane = self.fabric.nic_parts(nic).0;
                        self.fabric.switch(plane, Tier::Leaf, self.fabric.nic_leaf_port(nic).0)
                    };
                    let hops = [leaf(p.from)?, by, leaf(p.to)?];
                    path_of_switches(&self.fabric, p.from, p.to, &hops, (None, None))
                });
                self.label(pair, flow_label, path);
                self.tried(pair);
            }
            _ => return Err(Dropped::WrongSession),
        }
        self.flights.remove(&number);
        Ok(())
    }

    /// Time stamps and interfaces the switches left in a packet.
    fn note_nodes(&mut self, path: usize, t1: Nanos, nodes: &[NodeData]) {
        let mut before = t1.0;
        for node in nodes.iter().filter(|n| n.node > 0 && n.node < HOST_NODES) {
            let switch = SwitchId(node.node - 1);
            let hops = self.paths.get(path).map_or(0, |p| p.hops.len());
            let Some(hop) = (0..hops).find(|h| self.switch_at(path, *h) == Some(switch)) else { continue };
            let Some(hop) = self.paths.get_mut(path).and_then(|p| p.hops.get_mut(hop)) else { continue };
            hop.seen = true;
            if node.ingress != 0xffff {
                hop.ingress = node.ingress;
            }
            if node.egress != 0xffff {
                hop.egress = node.egress;
            }
            if node.seconds == 0 {
                continue;
            }
            let at = u64::from(node.seconds) * 1_000_000_000 + u64::from(node.fraction) * 1_000;
            let delta = i128::from(at) - i128::from(before);
            hop.deltas_ns.push(delta.clamp(i32::MIN.into(), i32::MAX.into()) as i32);
            before = at;
        }
    }

    /// Gives up what is unanswered for too long.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let timeout = self.config.timeout;
        let late = |f: &Flight| now.since(f.t1) >= timeout;
        while self.flights.first_key_value().is_some_and(|(_, f)| late(f)) {
            let Some((_, f)) = self.flights.pop_first() else { break };
            if let What::Try { pair, .. } = f.what {
                self.tried(pair);
            }
        }
        // numbers may wrap once: then the first is not the oldest
        if self.flights.len() as u64 > u64::from(self.config.packets_per_second) * 2 {
            self.flights.retain(|_, f| !late(f));
        }
        self.refill(now);
    }

    /// When to call [`Survey::poll_output`] and [`Survey::handle_timeout`] next. `None` when it is over.
    pub fn next_timeout(&self) -> Option<Nanos> {
        if self.is_done() {
            return None;
        }
        let lost = self.flights.first_key_value().map_or(Nanos::MAX, |(_, f)| f.t1 + self.config.timeout);
        let open = self.due.iter().take(LOOK).map(|(p, w)| self.open_at(*p, w)).min();
        let send = match open {
            Some(at) => Nanos(at.0.max(self.next_send.0)),
            None if self.has_next() => self.next_send,
            None => Nanos::MAX,
        };
        Some(Nanos(send.0.min(lost.0)))
    }

    /// Whether an empty queue could be filled, or the survey go on, at once.
    fn has_next(&self) -> bool {
        let could_try = |p: &Pair| p.missing > 0 && p.tries < p.tries_max && p.under_way < TRIES_AT_ONCE;
        match self.phase {
            Phase::Looking => {
                let waits = |p: &Pair| p.missing > 0 && p.under_way > 0;
                self.pairs.iter().any(could_try) || !self.pairs.iter().any(waits)
            }
            Phase::Rounds(_) => true,
            Phase::Waiting => self.flights.is_empty(),
            Phase::Done => false,
        }
    }

    /// Whether everything was sent and is answered or lost.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }
}
