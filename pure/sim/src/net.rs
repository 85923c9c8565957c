//! The simulated fabric: links with a rate, a latency and a finite queue, switches that forward, and what may be
//! wrong with them.
//!
//! How: a link is first-in first-out, so when a packet is put on it is enough to know until when it is busy: the
//! packet leaves then, and the bytes not yet sent are the length of the queue. That makes one event a hop and no
//! stored queues. A packet's links are decided when it is sent, either the path its sender chose or, hop by hop, by
//! what each switch hashes. Whoever drives the net takes out what [`Happened`] and answers with [`Net::send`],
//! [`Net::wake`] and [`Net::note`]; it is generic over what packets and notes carry.
//!
//! Invariants: sent = delivered + dropped by reason + in flight, at every moment; packets of one link are not
//! reordered unless a fault says so; the same seed and the same calls give the same events, and [`Net::trace`] is a
//! hash of all of them.
//! Absent on purpose: routing protocols (forwarding is static, a link that is down swallows what is sent over it),
//! and hosts: they are the driver's.

use crate::event::Queue;
use crate::rng::{Rng, mix};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use fabric::{Fabric, LinkParams, MAX_PATH_LINKS, PathLinks, Tier};
use wire::{HostId, LinkId, Nanos, NicId, PathId};

/// How a packet finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The sender chose the path (SRv6).
    Exact(PathId),
    /// Every switch hashes addresses and flow label (ECMP).
    Hashed {
        /// Sending NIC.
        from: NicId,
        /// Receiving NIC, in the same plane.
        to: NicId,
    },
}

/// A packet given to the fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<P> {
    /// Its way.
    pub route: Route,
    /// Flow label: with the addresses it is what switches, and black holes, hash.
    pub flow: u32,
    /// Size on the wire, bytes.
    pub bytes: u32,
    /// Sent as capable of ECN (ECT, RFC 3168); only such packets are marked.
    pub ect: bool,
    /// What it carries.
    pub payload: P,
}

/// A packet that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival<P> {
    /// The NIC it was sent from.
    pub from: NicId,
    /// The NIC it arrived at.
    pub to: NicId,
    /// The path it took.
    pub path: PathId,
    /// Flow label it was sent with.
    pub flow: u32,
    /// Marked with congestion experienced on the way (RFC 3168).
    pub ce: bool,
    /// Some of its bytes are wrong; a checksum would show it.
    pub corrupt: bool,
    /// When it was sent.
    pub sent_at: Nanos,
    /// What it carries.
    pub payload: P,
}

/// What comes out of the net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened<P, N> {
    /// A packet reached a host.
    Arrived(Arrival<P>),
    /// A host asked to be woken now.
    Woken(HostId),
    /// A note of the driver's to itself came due.
    Noted(N),
}

/// Why a packet did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Dropped {
    /// No such path, or its NICs are not in one plane.
    NoPath = 0,
    /// The queue of a link was full.
    QueueFull = 1,
    /// The link's own background loss.
    Background = 2,
    /// A fault that drops at a rate.
    Fault = 3,
    /// A fault that swallows some flows.
    BlackHole = 4,
    /// The link was down.
    Down = 5,
    /// The link was in a bad spell.
    Flap = 6,
}

impl Dropped {
    /// Every reason, in the order of the counters.
    pub const ALL: [Dropped; 7] = [
        Dropped::NoPath,
        Dropped::QueueFull,
        Dropped::Background,
        Dropped::Fault,
        Dropped::BlackHole,
        Dropped::Down,
        Dropped::Flap,
    ];

    /// One lower-case word, words joined by underscores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Dropped::NoPath => "no_path",
            Dropped::QueueFull => "queue_full",
            Dropped::Background => "background",
            Dropped::Fault => "fault",
            Dropped::BlackHole => "black_hole",
            Dropped::Down => "down",
            Dropped::Flap => "flap",
        }
    }
}

/// What is wrong with one direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Impairment {
    /// Loses packets, each with this probability.
    Drop(f64),
    /// Swallows this share of all flows, and always the same ones.
    BlackHole {
        /// `0 ..= 1`.
        share: f64,
        /// Which ones.
        salt: u64,
    },
    /// Damages packets, each with this probability.
    Corrupt(f64),
    /// Holds packets back, each with this probability, so that later ones overtake them.
    Reorder {
        /// Probability.
        rate: f64,
        /// For how long.
        by: Nanos,
    },
    /// Marks congestion experienced on ECT packets, each with this probability.
    Mark(f64),
    /// Sends no faster, and keeps no packet waiting for longer.
    Limit {
        /// Bits a second.
        rate_bps: u64,
        /// Longest wait; what would wait longer is dropped.
        wait: Nanos,
    },
    /// Holds every packet for `add` and evenly up to `jitter` more, in order.
    Delay {
        /// Constant part.
        add: Nanos,
        /// Width of the random part.
        jitter: Nanos,
    },
    /// Swallows everything.
    Down,
    /// Loses packets in the first `bad` of every `period` counted from `since`.
    Flap {
        /// When the first bad spell begins.
        since: Nanos,
        /// Length of one cycle, not zero.
        period: Nanos,
        /// Of it, how long it is bad.
        bad: Nanos,
        /// Probability that a packet is lost in a bad spell.
        rate: f64,
    },
}

/// What a net is like where nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Probability that a healthy link loses a packet.
    pub background_loss: f64,
    /// Bytes a port can hold back.
    pub queue_bytes: u32,
    /// ECT packets that meet a longer queue are marked. `queue_bytes` or more: never.
    pub mark_above_bytes: u32,
}

impl Default for Config {
    fn default() -> Self {
        // a shallow-buffered switch's share of one port
        Self { background_loss: 0.0, queue_bytes: 1 << 20, mark_above_bytes: u32::MAX }
    }
}

/// Counters since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets given to the net.
    pub sent: u64,
    /// Packets that came out of it.
    pub delivered: u64,
    /// Packets that did not, by [`Dropped`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// Packets on their way.
    pub in_flight: u64,
    /// Packets taken over one link.
    pub hops: u64,
}

impl Totals {
    /// Whether every packet is accounted for.
    pub fn balanced(&self) -> bool {
        self.sent == self.delivered + self.dropped.iter().sum::<u64>() + self.in_flight
    }
}

#[derive(Clone, Copy, Default)]
struct LinkState {
    /// Sending until then.
    busy_until: Nanos,
    /// The last packet gets to the other end then.
    last_arrival: Nanos,
    /// Packets put on it.
    crossed: u64,
    /// 0, or 1 + index of its impairments.
    sick: u32,
}

struct Flying<P> {
    packet: Packet<P>,
    path: PathId,
    links: PathLinks,
    hop: u8,
    ce: bool,
    corrupt: bool,
    sent_at: Nanos,
}

enum Event<N> {
    /// A packet is at the near end of its next link, or at its host.
    Hop(u32),
    Wake(HostId),
    Note(N),
}

/// A fabric with packets in it.
pub struct Net<P, N> {
    fabric: Arc<Fabric>,
    config: Config,
    events: Queue<Event<N>>,
    flying: Vec<Option<Flying<P>>>,
    free: Vec<u32>,
    links: Vec<LinkState>,
    sick: Vec<Vec<Impairment>>,
    wake_at: Vec<Nanos>,
    chance: Rng,
    hash_seed: u64,
    healthy_before_loss: u64,
    totals: Totals,
    trace: u64,
}

impl<P, N> Net<P, N> {
    /// A fabric at time zero with nothing wrong.
    pub fn new(fabric: Arc<Fabric>, config: Config, seed: u64) -> Self {
        let mut chance = Rng::new(seed, 1);
        let (links, hosts) = (fabric.link_bound() as usize, fabric.shape.hosts as usize);
        Self {
            fabric,
            config,
            events: Queue::default(),
            flying: Vec::new(),
            free: Vec::new(),
            links: vec![LinkState::default(); links],
            sick: Vec::new(),
            wake_at: vec![Nanos::MAX; hosts],
            healthy_before_loss: chance.failures_before(config.background_loss),
            chance,
            hash_seed: mix(seed ^ 0x5e1f_ed6e),
            totals: Totals::default(),
            trace: 0,
        }
    }

    /// Time of what happened last.
    pub fn now(&self) -> Nanos {
        self.events.now()
    }
    /// Counters.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }
    /// Packets put on a link since the beginning, lost ones included.
    pub fn crossed(&self, link: LinkId) -> u64 {
        self.links.get(link.index()).map_or(0, |l| l.crossed)
    }
    /// A hash of everything that happened: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.trace
    }
    /// Events handled or waiting since the beginning.
    pub fn events(&self) -> u64 {
        self.events.pushed()
    }

    /// Replaces what is wrong with a link; nothing heals it. Links that do not exist are ignored.
    pub fn impair(&mut self, link: LinkId, what: &[Impairment]) {
        let Some(state) = self.links.get_mut(link.index()) else { return };
        if state.sick == 0 {
            if what.is_empty() {
                return;
            }
            self.sick.push(Vec::new());
            state.sick = self.sick.len() as u32;
        }
        if let Some(list) = self.sick.get_mut(state.sick as usize - 1) {
            list.clear();
            list.extend_from_slice(what);
        }
    }

    /// Wakes a host then, unless it is to be woken earlier. One wake-up a host is remembered.
    pub fn wake(&mut self, host: HostId, at: Nanos) {
        let Some(armed) = self.wake_at.get_mut(host.index()) else { return };
        let at = at.max(self.events.now());
        if at < *armed {
            *armed = at;
            self.events.push(at, Event::Wake(host));
        }
    }

    /// Gives the driver a note back then.
    pub fn note(&mut self, at: Nanos, note: N) {
        self.events.push(at, Event::Note(note));
    }

    /// The path a packet would take, by its sender's choice or by what the switches hash.
    pub fn path_of(&self, route: Route, flow: u32) -> Option<PathId> {
        let (from, to) = match route {
            Route::Exact(path) => return Some(path),
            Route::Hashed { from, to } => (from, to),
        };
        let f = &self.fabric;
        let plane = f.nic_parts(from).0;
        let (leaf_up, leaf_down) = (f.nic_leaf_port(from).0, f.nic_leaf_port(to).0);
        if leaf_up == leaf_down {
            return f.path(from, to, 0);
        }
        // What a switch hashes, with a seed of its own. Its group is the cables that lead on towards the other leaf.
        let key = mix(mix((u64::from(from.0) << 32) | u64::from(to.0)) ^ u64::from(flow));
        let pick = |switch: u32, group: u64| {
            let h = mix(key ^ mix(self.hash_seed ^ u64::from(switch)));
            ((u128::from(h) * u128::from(group)) >> 64) as u64
        };
        let cables = f.shape.cables;
        let up = |spine, cable| f.exists(f.trunk_link(plane, leaf_up, spine, cable));
        let down = |spine, cable| f.exists(f.trunk_link(plane, leaf_down, spine, cable));
        let ways = (0..f.shape.spines)
            .flat_map(|s| (0..cables).map(move |c| (s, c)))
            .filter(|&(s, c)| up(s, c) && (0..cables).any(|d| down(s, d)));
        let (spine, cable_up) = if f.removed.is_empty() && f.added.is_empty() {
            let n =
                pick(f.switch(plane, Tier::Leaf, leaf_up)?.0, u64::from(f.shape.spines * f.parallel)) as u32;
            (n / f.parallel, n % f.parallel)
        } else {
            let n = pick(f.switch(plane, Tier::Leaf, leaf_up)?.0, ways.clone().count() as u64);
            ways.clone().nth(n as usize)?
        };
        let group = (0..cables).filter(|&d| down(spine, d));
        let n = pick(f.switch(plane, Tier::Spine, spine)?.0, group.clone().count() as u64);
        let cable_down = group.clone().nth(n as usize)?;
        f.path(from, to, (spine * cables + cable_up) * cables + cable_down)
    }

    /// Puts a packet into the fabric at its sending NIC, now.
    pub fn send(&mut self, packet: Packet<P>) {
        self.totals.sent += 1;
        let way = self
            .path_of(packet.route, packet.flow)
            .and_then(|path| self.fabric.path_links(path).map(|links| (path, links)));
        let Some((path, links)) = way else {
            self.drop(Dropped::NoPath);
            return;
        };
        let sent_at = self.now();
        let flying = Flying { packet, path, links, hop: 0, ce: false, corrupt: false, sent_at };
        self.totals.in_flight += 1;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.flying.push(None);
                self.flying.len() as u32 - 1
            }
        };
        if let Some(s) = self.flying.get_mut(slot as usize) {
            *s = Some(flying);
        }
        self.hop(slot);
    }

    /// What happens next, up to a time. `None` when nothing more does.
    pub fn next(&mut self, until: Nanos) -> Option<Happened<P, N>> {
        loop {
            let (now, event) = self.events.pop(until)?;
            match event {
                Event::Hop(slot) => {
                    if let Some(arrival) = self.hop(slot) {
                        return Some(Happened::Arrived(arrival));
                    }
                }
                Event::Wake(host) => {
                    let armed = self.wake_at.get_mut(host.index())?;
                    // an earlier wake-up took this one's place
                    if *armed == now {
                        *armed = Nanos::MAX;
                        self.mark(3, host.0.into());
                        return Some(Happened::Woken(host));
                    }
                }
                Event::Note(note) => {
                    self.mark(4, 0);
                    return Some(Happened::Noted(note));
                }
            }
        }
    }

    /// Adds to the hash of what happened.
    pub fn mark(&mut self, kind: u64, what: u64) {
        self.trace = mix(self.trace ^ mix(self.now().0 ^ (kind << 56)) ^ what);
    }

    fn drop(&mut self, why: Dropped) {
        if let Some(n) = self.totals.dropped.get_mut(why as usize) {
            *n += 1;
        }
        self.mark(1, why as u64);
    }

    /// Takes a packet over its next link, or out where there is none left.
    fn hop(&mut self, slot: u32) -> Option<Arrival<P>> {
        let now = self.events.now();
        let flying = self.flying.get_mut(slot as usize)?.as_mut()?;
        let Some(&link) = flying.links.get(usize::from(flying.hop)) else {
            let f = self.flying.get_mut(slot as usize)?.take()?;
            self.free.push(slot);
            self.totals.in_flight -= 1;
            self.totals.delivered += 1;
            self.mark(2, f.path.0);
            let (from, to, _) = self.fabric.path_parts(f.path)?;
            return Some(Arrival {
                from,
                to,
                path: f.path,
                flow: f.packet.flow,
                ce: f.ce,
                corrupt: f.corrupt,
                sent_at: f.sent_at,
                payload: f.packet.payload,
            });
        };
        flying.hop += 1;
        self.totals.hops += 1;
        let LinkParams { mut rate_bps, latency_ns } = self.fabric.link_params(link);
        let state = self.links.get_mut(link.index())?;
        state.crossed += 1;
        let mut why = None;
        let mut hold = Nanos::ZERO;
        let mut wait_max = Nanos::MAX;
        let mut overtaken = Nanos::ZERO;
        if self.healthy_before_loss == 0 {
            self.healthy_before_loss = self.chance.failures_before(self.config.background_loss);
            why = Some(Dropped::Background);
        } else {
            self.healthy_before_loss -= 1;
        }
        if let Some(list) = self.sick.get((state.sick as usize).wrapping_sub(1)) {
            for what in list {
                let chance = &mut self.chance;
                match *what {
                    Impairment::Drop(p) if chance.chance(p) => why = why.or(Some(Dropped::Fault)),
                    Impairment::BlackHole { share, salt } => {
                        let (from, to, _) = self.fabric.path_parts(flying.path)?;
                        if swallowed(from, to, flying.packet.flow, share, salt) {
                            why = why.or(Some(Dropped::BlackHole));
                        }
                    }
                    Impairment::Corrupt(p) => flying.corrupt |= chance.chance(p),
                    Impairment::Reorder { rate, by } if chance.chance(rate) => overtaken = overtaken.max(by),
                    Impairment::Mark(p) => flying.ce |= flying.packet.ect && chance.chance(p),
                    Impairment::Limit { rate_bps: bps, wait } => {
                        rate_bps = rate_bps.min(bps.max(1));
                        wait_max = wait_max.min(wait);
                    }
                    Impairment::Delay { add, jitter } => hold += add + Nanos(chance.below(jitter.0 + 1)),
                    Impairment::Flap { since, period, bad, rate } => {
                        let is_bad = now.since(since).0.checked_rem(period.0).is_some_and(|t| t < bad.0);
                        if is_bad && chance.chance(rate) {
                            why = why.or(Some(Dropped::Flap));
                        }
                    }
                    Impairment::Down => why = why.or(Some(Dropped::Down)),
                    Impairment::Drop(_) | Impairment::Reorder { .. } => {}
                }
            }
        }
        // bits over bits a second, in nanoseconds; 64 bits hold 2 GB at once
        let nanos_of = |bytes: u64| (bytes.saturating_mul(8_000_000_000)) / rate_bps.max(1);
        let waiting = state.busy_until.since(now);
        let bytes = u64::from(flying.packet.bytes);
        if why.is_none() {
            let room = nanos_of(u64::from(self.config.queue_bytes).saturating_sub(bytes));
            if waiting.0 > room || waiting > wait_max {
                why = Some(Dropped::QueueFull);
            } else if self.config.mark_above_bytes < self.config.queue_bytes {
                flying.ce |=
                    flying.packet.ect && waiting.0 > nanos_of(u64::from(self.config.mark_above_bytes));
            }
        }
        if let Some(why) = why {
            self.flying.get_mut(slot as usize)?.take()?;
            self.free.push(slot);
            self.totals.in_flight -= 1;
            self.drop(why);
            return None;
        }
        state.busy_until = now + waiting + Nanos(nanos_of(bytes));
        let mut there = state.busy_until + Nanos(latency_ns) + hold;
        if overtaken == Nanos::ZERO {
            there = there.max(state.last_arrival);
            state.last_arrival = there;
        } else {
            there += overtaken;
        }
        self.events.push(there, Event::Hop(slot));
        None
    }
}

/// Whether a black hole with this salt swallows a flow.
pub fn swallowed(from: NicId, to: NicId, flow: u32, share: f64, salt: u64) -> bool {
    let h = mix(mix((u64::from(from.0) << 32) | u64::from(to.0)) ^ mix(salt ^ u64::from(flow)));
    ((h >> 11) as f64) < share * (1u64 << 53) as f64
}

/// A path's links never outnumber what a hop counter holds.
const _: () = assert!(MAX_PATH_LINKS < u8::MAX as usize);
