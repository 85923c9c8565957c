//! The engine of an endpoint: one socket, all connections, one clock.
//!
//! How: whoever drives it ([`crate::driver`]) lets it take in what has arrived or carries out a wish, and then has it look
//! at what is due, grant, and send. Datagrams are opened where the kernel put them and sealed where it takes them from. Sending goes round the
//! connections a burst at a time, control packets before data. Grants are given a slice of time ahead, so that nobody
//! wakes up for one or two packets.
//!
//! Invariants: nothing is kept for an address the door has not let in; a connection stands in line once; a datagram that
//! finds no connection is counted.
//! Absent on purpose: what a message is to anybody ([`crate::slot`]).

mod opening;

use crate::config::Config;
use crate::door::Door;
use crate::endpoint::{Command, Connected, Counters};
use crate::error::EndpointError;
use crate::handshake::Handshake;
use crate::identity::Identity;
use crate::observer::Observer;
use crate::slot::{Reply, Slot, answer};
use crate::trace::Tracing;
use kernel::process::monotonic_ns;
use kernel::udp::{Outgoing, PathMtu, Received, Route, UdpSocket};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV6;
use std::sync::Arc;
use transport::Pacer;
use wire::Nanos;
use wire::transport::hello::{Retry, Stranger};
use wire::transport::packet::{HEADER_BYTES, Kind};
use wire::transport::{CloseReason, ConnectionId, Packet, Seen, Target};

/// Messages of up to 64 KiB taken in by one system call: few, so that they stay in the processor's cache.
pub(crate) const RECEIVE_BATCH: usize = 16;
/// Receives before something is sent.
const RECEIVES_MAX: usize = 4;
/// Bytes gathered for one system call.
const SEND_BYTES: usize = 256 << 10;
/// Packets gathered for one system call.
const SEND_PACKETS: usize = 64;
/// Grants are given so far ahead: shorter sleeps cost more than they are worth.
const GRANT_AHEAD: Nanos = Nanos(100_000);
/// How long to wait where the kernel takes no more.
const BLOCKED: Nanos = Nanos(50_000);
/// A closed connection still answers for so long.
const LINGER: Nanos = Nanos::from_millis(1_000);
/// Connections that were let in and wait for somebody to accept them.
const ACCEPTS_MAX: usize = 1_024;
/// "I know no such connection" in one go.
const STRANGERS_MAX: usize = 16;

struct Initiating {
    handshake: Handshake,
    to: SocketAddrV6,
    index: u16,
    reply: Option<Reply<Connected>>,
}

enum Entry {
    Free,
    /// Its id was promised in a handshake.
    Reserved(ConnectionId),
    Open(Box<Slot>),
}

/// How a turn ended.
pub(crate) struct Step {
    /// There is more to do at once.
    pub again: bool,
    /// When there is something to do.
    pub due: Option<Nanos>,
}

pub(crate) struct Engine {
    socket: Arc<UdpSocket>,
    path_mtu: PathMtu,
    identity: Identity,
    config: Config,
    random: SystemRandom,
    door: Door,
    initiating: BTreeMap<u64, Initiating>,
    /// A handshake may have something to say.
    stirred: bool,
    /// When a handshake wants to be looked at.
    handshakes_due: Option<Nanos>,
    slots: Vec<Entry>,
    free: Vec<u16>,
    pacer: Pacer,
    active: VecDeque<u16>,
    /// Those that may have news to tell: control packets.
    news: VecDeque<u16>,
    timers: BTreeSet<(Nanos, u16)>,
    touched: Vec<u16>,
    accepts: VecDeque<Connected>,
    accepters: VecDeque<Reply<Connected>>,
    out: Outgoing,
    sink: Vec<Packet>,
    counters: Counters,
    /// "I know no such connection" looked into in this turn.
    strangers: usize,
    /// More waits in the socket than was taken in.
    more: bool,
    /// Makes flow labels for what belongs to no connection.
    turn: u32,
    stopped: bool,
    observer: Option<Observer>,
    trace: Option<Tracing>,
}

impl Engine {
    pub fn new(socket: UdpSocket, path_mtu: PathMtu, identity: Identity, config: Config) -> Self {
        let observer = Observer::new(&config);
        let trace = config.trace.clone().map(Tracing::new);
        let random = SystemRandom::new();
        let door = Door::new(identity.clone(), config.timing, config.handshakes_max, bytes(&random));
        let pacer = Pacer::new(&config.machine(config.datagram_bytes_max, config.transport.evs));
        Self {
            socket: Arc::new(socket),
            path_mtu,
            identity,
            config,
            random,
            door,
            initiating: BTreeMap::new(),
            stirred: false,
            handshakes_due: None,
            slots: Vec::new(),
            free: Vec::new(),
            pacer,
            active: VecDeque::new(),
            news: VecDeque::new(),
            timers: BTreeSet::new(),
            touched: Vec::new(),
            accepts: VecDeque::new(),
            accepters: VecDeque::new(),
            out: Outgoing::default(),
            sink: Vec::new(),
            counters: Counters::default(),
            strangers: 0,
            more: false,
            turn: 0,
            stopped: false,
            observer,
            trace,
        }
    }

    /// The socket, to wait for.
    pub fn socket(&self) -> Arc<UdpSocket> {
        self.socket.clone()
    }

    /// Is it told to stop?
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Does what is due and sends what there is to send.
    pub fn flush(&mut self, now: Nanos) -> Step {
        self.timeouts(now);
        self.settle(now);
        self.observe(now, false);
        self.trace(now);
        self.grant(now);
        let blocked = self.output(now);
        let again = std::mem::take(&mut self.more)
            || (!blocked && (self.stirred || !self.active.is_empty() || !self.news.is_empty()));
        let due = self.next_timeout();
        let due = if blocked { Some(due.map_or(now + BLOCKED, |at| at.min(now + BLOCKED))) } else { due };
        Step { again, due }
    }

    /// Everybody who waits is told that it is over.
    pub fn farewell(mut self) {
        let now = now();
        self.observe(now, true);
        for i in 0..self.slots.len() {
            if let Some(Entry::Open(slot)) = self.slots.get_mut(i) {
                slot.abort();
                while slot.poll_control(now, &mut self.sink, &mut self.out) {}
                slot.settle(now);
                slot.end(CloseReason::Aborted);
                if let (Some(trace), Some(traced)) = (&self.trace, &mut slot.traced) {
                    traced.tell(now, &slot.machine, &trace.tracer);
                }
            }
        }
        // the kernel may take them or not: nobody is left to try again
        let _ = self.socket.send(&mut self.out);
    }

    fn slot(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        match self.slots.get_mut(index_of(id) as usize) {
            Some(Entry::Open(slot)) if slot.id == id => Some(slot),
            _ => None,
        }
    }

    // ---- the application

    /// Carries out a wish.
    pub fn obey(&mut self, now: Nanos, command: Command) {
        match command {
            Command::Connect { to, peer, reply } => self.connect(now, to, &peer, reply),
            Command::Accept { reply } => {
                self.accepters.push_back(reply);
                self.hand_out();
            }
            Command::Counters { reply } => {
                let counters = Counters {
                    door: *self.door.counters(),
                    exact_paths: self.observer.as_ref().is_some_and(|o| o.steering.is_exact()),
                    observations: self.observer.as_ref().map_or(0, |o| o.told),
                    observations_dropped: self.observer.as_ref().map_or(0, |o| o.dropped),
                    offered: self.socket.offered(),
                    ..self.counters
                };
                answer(reply, Ok(counters));
            }
            Command::Stop => self.stopped = true,
            Command::Of { connection, wish } => match self.slot(connection) {
                None => wish.refuse(EndpointError::Closed { reason: CloseReason::Done }),
                Some(slot) => {
                    if wish.apply(now, slot) {
                        self.touched.push(index_of(connection));
                    }
                }
            },
        }
    }

    /// Takes a message for sending that nobody waits for.
    pub fn post(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        target: Target,
        bytes: Vec<u8>,
    ) -> Result<(), EndpointError> {
        let Some(slot) = self.slot(connection) else {
            return Err(EndpointError::Closed { reason: CloseReason::Done });
        };
        slot.post(now, target, bytes)?;
        self.touched.push(index_of(connection));
        Ok(())
    }

    // ---- the network

    /// Reads the socket and takes in what waits.
    pub fn input(&mut self, now: Nanos, received: &mut Received) {
        for _ in 0..RECEIVES_MAX {
            let messages = match self.socket.receive(received) {
                Ok(0) => return,
                Ok(n) => n,
                Err(error) => {
                    tracing::error!(%error, "an endpoint cannot read its socket");
                    return;
                }
            };
            self.take_in(now, received);
            if messages < RECEIVE_BATCH {
                return;
            }
        }
        self.more = true;
    }

    /// Takes in what was received.
    pub fn take_in(&mut self, now: Nanos, received: &mut Received) {
        let mut strangers = Vec::new();
        self.strangers = 0;
        for (d, datagram) in received.iter_mut() {
            self.counters.datagrams += 1;
            if d.truncated {
                self.counters.rejected += 1;
                continue;
            }
            let from = SocketAddrV6::new(d.from, d.port, 0, if link_local(d.from) { d.ifindex } else { 0 });
            // congestion experienced (RFC 3168, section 5)
            let seen = Seen { marked: d.traffic_class & 3 == 3, trimmed: false };
            self.datagram(now, from, datagram, seen, &mut strangers);
        }
        for (from, stranger) in strangers.drain(..) {
            self.out.push(plain(from, &mut self.turn), |buf| stranger.write(buf));
        }
    }

    fn datagram(
        &mut self,
        now: Nanos,
        from: SocketAddrV6,
        datagram: &mut [u8],
        seen: Seen,
        strangers: &mut Vec<(SocketAddrV6, Stranger)>,
    ) {
        match Kind::of(datagram) {
            Ok(Kind::Hello) => {
                self.stirred = true;
                self.hello(now, from, datagram);
            }
            Ok(Kind::Retry) => {
                self.stirred = true;
                let id = Retry::read(datagram).map(|r| r.id);
                let taken = id.ok().and_then(|id| self.initiating.get_mut(&id)).filter(|i| i.to == from);
                match taken.map(|i| i.handshake.handle_input(now, datagram)) {
                    Some(Ok(())) => {}
                    _ => self.counters.rejected += 1,
                }
            }
            Ok(Kind::Stranger) => match Stranger::read(datagram) {
                Ok(stranger) => {
                    // it names the peer's id of the connection; looking for it takes time, so not without end
                    let mut known = false;
                    self.strangers += 1;
                    if self.strangers > STRANGERS_MAX {
                        self.counters.rejected += 1;
                        return;
                    }
                    for entry in &mut self.slots {
                        if let Entry::Open(slot) = entry
                            && slot.to == from
                            && slot.is_known_as(stranger.connection)
                        {
                            slot.strange();
                            known = true;
                        }
                    }
                    self.counters.rejected += u64::from(!known);
                }
                Err(_) => self.counters.rejected += 1,
            },
            Ok(_) => {
                let id = datagram.get(2..HEADER_BYTES).and_then(|b| b.first_chunk::<4>().copied());
                let id = ConnectionId(u32::from_be_bytes(id.unwrap_or_default()));
                match self.slot(id) {
                    Some(slot) => {
                        slot.handle_input(now, datagram, seen);
                        let index = index_of(id);
                        if self.touched.last() != Some(&index) {
                            self.touched.push(index);
                        }
                    }
                    None => {
                        self.counters.unknown += 1;
                        if strangers.len() < STRANGERS_MAX
                            && let Some(stranger) = Stranger::to(datagram)
                        {
                            strangers.push((from, stranger));
                        }
                    }
                }
            }
            Err(_) => self.counters.rejected += 1,
        }
    }

    // ---- time

    fn timeouts(&mut self, now: Nanos) {
        if self.stirred || self.handshakes_due.is_some_and(|at| at <= now) {
            self.stirred = true;
            self.door.handle_timeout(now);
            self.listen();
            let due: Vec<u64> = self
                .initiating
                .iter_mut()
                .filter(|(_, i)| i.handshake.next_timeout().is_some_and(|at| at <= now))
                .map(|(id, i)| {
                    i.handshake.handle_timeout(now);
                    *id
                })
                .collect();
            due.into_iter().for_each(|id| self.look_at(id));
        }
        while let Some(&(at, index)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index)) {
                slot.timer = None;
                if slot.ends_at.is_some_and(|end| end <= now) {
                    self.forget(index);
                    continue;
                }
                slot.machine.handle_timeout(now);
                self.touched.push(index);
            }
        }
    }

    fn forget(&mut self, index: u16) {
        // an idle machine in its place takes it out of the pacer's books
        let idle = self.config.machine(self.config.datagram_bytes_max, 1);
        let mut idle = transport::Connection::new(idle, ConnectionId(0), 0);
        self.pacer.handle_input(u32::from(index), &mut idle);
        self.release(index);
        self.counters.forgotten += 1;
    }

    /// Whatever was touched tells its events and stands in line.
    fn settle(&mut self, now: Nanos) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for index in touched.drain(..) {
            let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index)) else { continue };
            self.pacer.handle_input(u32::from(index), &mut slot.machine);
            slot.settle(now);
            if let Some(o) = self.observer.as_mut().filter(|_| !slot.noted) {
                slot.noted = o.note(now, index);
            }
            if let (Some(t), Some(traced)) = (&mut self.trace, &mut slot.traced)
                && !traced.noted
            {
                traced.noted = true;
                t.note(now, index);
            }
            if slot.is_closed() {
                slot.repeat_close(now, &mut self.out);
            }
            if !slot.has_news {
                slot.has_news = true;
                self.news.push_back(index);
            }
            if !slot.active {
                slot.active = true;
                self.active.push_back(index);
            }
        }
        self.touched = touched;
    }

    /// At the end of a window tells the agent what became known of the paths.
    fn observe(&mut self, now: Nanos, last: bool) {
        let Some(observer) = &mut self.observer else { return };
        for index in observer.cut(now, last) {
            // one that was forgotten had closed windows ago
            if let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index)) {
                slot.report(observer);
            }
        }
        observer.flush();
    }

    /// At the end of an interval writes down what the connections did that moved in it.
    fn trace(&mut self, now: Nanos) {
        let Some(trace) = &mut self.trace else { return };
        for index in trace.cut(now) {
            if let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index))
                && let Some(traced) = &mut slot.traced
            {
                traced.tell(now, &slot.machine, &trace.tracer);
            }
        }
    }

    fn grant(&mut self, now: Nanos) {
        while let Some(at) = self.pacer.next_timeout() {
            let at = at.max(now);
            if at > now + GRANT_AHEAD {
                break;
            }
            let Some(index) = self.pacer.poll_slot(at) else { break };
            let Some(Entry::Open(slot)) = self.slots.get_mut(index as usize) else {
                // nobody is there any more; an idle machine takes it out of the line
                self.forget_in_pacer(index, at);
                continue;
            };
            if self.pacer.grant(at, index, &mut slot.machine) {
                if !slot.has_news {
                    slot.has_news = true;
                    self.news.push_back(index as u16);
                }
                if !slot.active {
                    slot.active = true;
                    self.active.push_back(index as u16);
                }
            }
        }
    }

    fn forget_in_pacer(&mut self, index: u32, at: Nanos) {
        let idle = self.config.machine(self.config.datagram_bytes_max, 1);
        let mut idle = transport::Connection::new(idle, ConnectionId(0), 0);
        self.pacer.grant(at, index, &mut idle);
    }

    fn next_timeout(&self) -> Option<Nanos> {
        // grants are ahead by a slice, so there is no hurry before half of it is over
        let grants = self.pacer.next_timeout().map(|at| Nanos(at.0.saturating_sub(GRANT_AHEAD.0 / 2)));
        let timers = self.timers.first().map(|t| t.0);
        let window = self.observer.as_ref().and_then(Observer::next_timeout);
        let trace = self.trace.as_ref().and_then(Tracing::next_timeout);
        [self.handshakes_due, grants, timers, window, trace].into_iter().flatten().min()
    }

    // ---- out

    /// Sends what there is to send. True where the kernel takes no more.
    fn output(&mut self, now: Nanos) -> bool {
        if self.out.left() == 0 {
            self.out.clear();
        }
        if self.stirred {
            self.talk();
        }
        // news first, of all; then data, a burst each, in turns
        while self.out.len() < SEND_PACKETS * 2 {
            let Some(&index) = self.news.front() else { break };
            if let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index)) {
                if slot.poll_control(now, &mut self.sink, &mut self.out) {
                    continue;
                }
                slot.has_news = false;
            }
            self.news.pop_front();
        }
        while self.out.len() < SEND_PACKETS && self.out.bytes() < SEND_BYTES {
            let Some(index) = self.active.pop_front() else { break };
            let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index)) else { continue };
            if slot.poll_data(now, &mut self.sink, &mut self.out) {
                // news that waited for company
                while self.out.len() < SEND_PACKETS * 2
                    && slot.poll_control(now, &mut self.sink, &mut self.out)
                {}
                self.active.push_back(index);
            } else {
                self.stand_down(now, index);
            }
        }
        if self.out.left() == 0 {
            return false;
        }
        let sent = self.socket.send(&mut self.out);
        self.counters.bursts += sent.as_ref().map_or(0, |n| *n as u64);
        self.counters.refused += self.out.refused() as u64;
        self.out.left() > 0
    }

    /// What handshakes say.
    fn talk(&mut self) {
        while self.out.len() < SEND_PACKETS {
            let Some(to) = self.door.poll_output(self.out.buffer()) else { break };
            let end = self.out.buffer().len();
            self.out.close(plain(to, &mut self.turn), 0, end);
        }
        for i in self.initiating.values_mut() {
            while self.out.len() < SEND_PACKETS && i.handshake.poll_output(self.out.buffer()) {
                let end = self.out.buffer().len();
                self.out.close(plain(i.to, &mut self.turn), 0, end);
            }
        }
        // where there was no room for all of it, there is more to say
        self.stirred = self.out.len() >= SEND_PACKETS;
        let initiating = self.initiating.values().filter_map(|i| i.handshake.next_timeout());
        self.handshakes_due = initiating.chain(self.door.next_timeout()).min();
    }

    /// Nothing to send now: when to look again.
    fn stand_down(&mut self, now: Nanos, index: u16) {
        let Some(Entry::Open(slot)) = self.slots.get_mut(usize::from(index)) else { return };
        slot.active = false;
        // closing tells an event of its own
        slot.settle(now);
        if slot.is_closed() && slot.abandoned && slot.ends_at.is_none() {
            slot.ends_at = Some(now + LINGER);
        }
        let at = match (slot.machine.next_timeout(), slot.ends_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if slot.timer != at {
            if let Some(old) = slot.timer {
                self.timers.remove(&(old, index));
            }
            slot.timer = at;
            if let Some(at) = at {
                self.timers.insert((at, index));
            }
        }
    }
}

/// The place of a connection: the low 16 bits of its id.
const fn index_of(id: ConnectionId) -> u16 {
    id.0 as u16
}

pub(crate) fn now() -> Nanos {
    Nanos(monotonic_ns())
}

fn link_local(addr: std::net::Ipv6Addr) -> bool {
    addr.is_unicast_link_local()
}

/// For what belongs to no connection. `turn` makes the flow label: a handshake that is said again goes another way.
fn plain(to: SocketAddrV6, turn: &mut u32) -> Route {
    *turn = turn.wrapping_add(0x9e37_79b1);
    Route { to, from: None, traffic_class: 0, flow_label: (*turn >> 12).max(1) }
}

/// Random bytes. That the system gives some was seen when the endpoint was made.
fn bytes<const N: usize>(random: &SystemRandom) -> [u8; N] {
    let mut out = [0; N];
    if random.fill(&mut out).is_err() {
        tracing::error!("the system gives no random bytes");
    }
    out
}

pub(crate) use crate::door::Counters as DoorCounters;
