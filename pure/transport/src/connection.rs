//! A connection: the sending half, the receiving half, and the five verbs.
//!
//! How: whoever owns it hands in packets as they arrive and asks for output whenever something happened; news of
//! arrivals goes out before data. Grants come from the host's [`Pacer`](crate::Pacer), which is told of every arrival.
//!
//! Invariants: no clock, no sockets, no randomness but the number given at the beginning; every packet handed in has
//! an [`Outcome`]; after [`Event::Closed`] nothing is sent and everything is refused.
//! Absent on purpose: payload, keys, handshake.

use crate::config::Config;
use crate::event::{Counters, Event, Outcome, Reason, Refused};
use crate::paths::{PathState, PathView};
use crate::receive::Receiver;
use crate::report::PathReport;
use crate::send::{Sender, check};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use wire::Nanos;
use wire::transport::{Close, CloseReason, ConnectionId, Ev, MessageId, Packet, Seen, Target};

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    config: Config,
    peer: ConnectionId,
    random: u64,
    // either half is made when it is first needed: an idle connection costs next to nothing
    sender: Option<Box<Sender>>,
    receiver: Option<Box<Receiver>>,
    events: VecDeque<Event>,
    counters: Counters,
    /// When something last arrived.
    heard_at: Option<Nanos>,
    closing: Option<CloseReason>,
    closed: bool,
}

/// Keep-alives that may be missing before an end that sends none itself gives up.
const KEEP_ALIVES_MISSING: u64 = 4;

impl Connection {
    /// A connection to a peer that knows it as `peer`. `random` decides where the walk over the paths begins.
    pub fn new(config: Config, peer: ConnectionId, random: u64) -> Self {
        Self {
            config,
            peer,
            random,
            sender: None,
            receiver: None,
            events: VecDeque::new(),
            counters: Counters::default(),
            heard_at: None,
            closing: None,
            closed: false,
        }
    }

    /// Takes a message of `bytes` bytes for sending; the payload stays with the caller, who is asked for it chunk by
    /// chunk by what [`Connection::poll_output`] gives, and must keep it until [`Event::Sent`].
    pub fn send(&mut self, now: Nanos, target: Target, bytes: u64) -> Result<MessageId, Refused> {
        self.take(now, target, bytes, false)
    }

    /// Like [`Connection::send`] where nobody waits for [`Event::Sent`]: if it fits one packet, its ACK may come with the
    /// answer, or after half a round trip.
    pub fn post(&mut self, now: Nanos, target: Target, bytes: u64) -> Result<MessageId, Refused> {
        self.take(now, target, bytes, true)
    }

    fn take(&mut self, now: Nanos, target: Target, bytes: u64, patient: bool) -> Result<MessageId, Refused> {
        if self.closed || self.closing.is_some() {
            return Err(Refused::Closed);
        }
        let (config, random) = (&self.config, self.random);
        let sender = self.sender.get_or_insert_with(|| Box::new(Sender::new(config, random, now)));
        sender.send(now, target, bytes, patient, config)
    }

    /// Would a message of this length be taken, if not now?
    pub fn check(&self, bytes: u64) -> Result<(), Refused> {
        check(bytes, &self.config)
    }

    /// Ends the connection: [`CloseReason::Done`] is for when everything was acknowledged.
    pub fn close(&mut self, reason: CloseReason) {
        if !self.closed && self.closing.is_none() {
            self.closing = Some(reason);
        }
    }

    /// A packet arrived.
    pub fn handle_input(&mut self, now: Nanos, packet: &Packet, seen: Seen) -> Outcome {
        if self.closed {
            return self.counters.drop(Reason::Closed);
        }
        self.heard_at = Some(now);
        let config = &self.config;
        match packet {
            Packet::Data(d) => {
                let receiver = self.receiver.get_or_insert_with(|| Box::new(Receiver::new(config)));
                receiver.handle_data(now, d, seen, config, &mut self.counters, &mut self.events)
            }
            Packet::Probe(p) => {
                let receiver = self.receiver.get_or_insert_with(|| Box::new(Receiver::new(config)));
                receiver.handle_probe(now, p, seen, config, &mut self.counters)
            }
            Packet::CreditRequest(r) => {
                let receiver = self.receiver.get_or_insert_with(|| Box::new(Receiver::new(config)));
                receiver.handle_request(r.demand, r.left);
                Outcome::Accepted
            }
            Packet::Ack(a) | Packet::ProbeAnswer(a) => match &mut self.sender {
                Some(s) => s.handle_ack(now, a, config, &mut self.counters, &mut self.events),
                None => self.counters.drop(Reason::NeverSent),
            },
            Packet::Nack(n) => match &mut self.sender {
                Some(s) => s.handle_nack(now, n, &mut self.counters),
                None => self.counters.drop(Reason::NeverSent),
            },
            Packet::Credit(c) => match &mut self.sender {
                Some(s) => {
                    s.handle_credit(now, c.granted);
                    Outcome::Accepted
                }
                None => self.counters.drop(Reason::NeverSent),
            },
            Packet::Close(c) => {
                self.end(c.reason);
                Outcome::Accepted
            }
        }
    }

    fn end(&mut self, reason: CloseReason) {
        self.closed = true;
        self.events.push_back(Event::Closed(reason));
    }

    /// Time passed: to be called when [`Connection::next_timeout`] is due.
    pub fn handle_timeout(&mut self, now: Nanos) {
        if let Some(r) = &mut self.receiver {
            r.handle_timeout(now);
        }
        let config = &self.config;
        let gone = self
            .sender
            .as_mut()
            .and_then(|s| s.handle_timeout(now, config, &mut self.counters, &mut self.events));
        if let Some(reason) = gone {
            return self.end(reason);
        }
        if self.quiet_until().is_some_and(|at| at <= now) {
            match &mut self.sender {
                Some(s) => s.keep_alive(now),
                None => {
                    self.counters.timeouts += 1;
                    self.end(CloseReason::TimedOut);
                }
            }
        }
    }

    /// When an idle connection has been quiet for so long that something must happen.
    fn quiet_until(&self) -> Option<Nanos> {
        let every = self.config.keep_alive?;
        match (&self.sender, self.heard_at) {
            (Some(s), heard) if s.idle() && s.in_flight() == 0 => {
                Some(s.last_at().max(heard.unwrap_or_default()) + every)
            }
            (None, Some(heard)) => Some(heard + Nanos(every.0.saturating_mul(KEEP_ALIVES_MISSING))),
            _ => None,
        }
    }

    /// The next thing to send. Puts one control packet, or up to `segments_max` chunks for one EV, at the end of
    /// `sink` and gives the EV they are to travel on.
    pub fn poll_output(&mut self, now: Nanos, segments_max: usize, sink: &mut Vec<Packet>) -> Option<Ev> {
        self.poll_control(now, sink).or_else(|| self.poll_data(now, segments_max, sink))
    }

    /// Like [`Connection::poll_output`], control packets only: an endpoint with many connections sends those of all of
    /// them before data of any.
    pub fn poll_control(&mut self, now: Nanos, sink: &mut Vec<Packet>) -> Option<Ev> {
        if self.closed {
            return None;
        }
        if let Some(reason) = self.closing.take() {
            let number = 0;
            sink.push(Packet::Close(Close { connection: self.peer, number, reason }));
            self.end(reason);
            return Some(self.control_ev());
        }
        let received = self.receiver.as_mut().and_then(|r| r.poll(now, self.peer, &mut self.counters));
        if let Some(packet) = received {
            sink.push(packet);
            return Some(self.control_ev());
        }
        let (ev, packet) =
            self.sender.as_mut()?.poll_request(now, self.peer, &self.config, &mut self.counters)?;
        sink.push(packet);
        Some(ev)
    }

    /// Like [`Connection::poll_output`], chunks and probes only.
    pub fn poll_data(&mut self, now: Nanos, segments_max: usize, sink: &mut Vec<Packet>) -> Option<Ev> {
        if self.closed {
            return None;
        }
        let sender = self.sender.as_mut()?;
        let ev = sender.poll(now, segments_max, self.peer, &self.config, &mut self.counters, sink);
        if let (Some(_), Some(receiver)) = (ev, &mut self.receiver) {
            receiver.accompany(now);
        }
        ev
    }

    /// Control packets mostly go where something came from, but now and then elsewhere: the way back may be dead where
    /// the way here is not.
    fn control_ev(&self) -> Ev {
        let n = self.config.evs.max(1);
        let turn =
            self.counters.acks + self.counters.nacks + self.counters.credits + self.counters.credit_requests;
        // drawn, not in turn: where grants and ACKs alternate, one of them would always go the dead way
        let drawn = (self.random ^ turn).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let alive = self.receiver.as_ref().filter(|_| drawn % 4 != 3).and_then(|r| r.alive(drawn >> 2));
        alive.unwrap_or(Ev((drawn >> 2) as u16 % n))
    }

    /// Has [`Connection::poll_control`] something?
    pub fn has_control(&self, now: Nanos) -> bool {
        !self.closed
            && (self.closing.is_some()
                || self.receiver.as_ref().is_some_and(|r| r.has_output())
                || self.sender.as_ref().is_some_and(|s| s.request_due(now, &self.config)))
    }

    /// Has [`Connection::poll_data`] something?
    pub fn has_data(&self, now: Nanos) -> bool {
        !self.closed && self.sender.as_ref().is_some_and(|s| s.has_data(now, &self.config))
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Connection::handle_timeout`] next, if nothing else happens before.
    pub fn next_timeout(&self) -> Option<Nanos> {
        if self.closed {
            return None;
        }
        let sender = self.sender.as_ref().and_then(|s| s.next_timeout(&self.config));
        let receiver = self.receiver.as_ref().and_then(|r| r.next_timeout());
        [sender, receiver, self.quiet_until()].into_iter().flatten().min()
    }

    /// Bytes that may be granted to the peer, at most `ahead` ahead of what arrived.
    pub fn grantable(&self, ahead: u64) -> u64 {
        self.receiver.as_ref().filter(|r| r.binding()).map_or(0, |r| r.grantable(ahead))
    }

    /// Has the peer begun something that is not whole yet?
    pub fn is_receiving(&self) -> bool {
        self.receiver.as_ref().is_some_and(|r| r.is_receiving())
    }

    /// Tells the receiving half whether its peer is one of several senders.
    pub(crate) fn bind(&mut self, several: bool) {
        if let Some(r) = &mut self.receiver {
            r.bind(several);
        }
    }

    /// Bytes the peer's message that moved last still lacks.
    pub fn left_to_receive(&self) -> u64 {
        self.receiver.as_ref().map_or(0, |r| r.left())
    }

    /// Grants bytes to the peer.
    pub(crate) fn grant(&mut self, now: Nanos, bytes: u64) {
        if let Some(r) = &mut self.receiver {
            r.grant(now, bytes, &self.config);
        }
    }

    /// Forbids an EV to the sender, or allows it again.
    pub fn deny(&mut self, now: Nanos, ev: Ev, denied: bool) {
        let (config, random) = (&self.config, self.random);
        self.sender.get_or_insert_with(|| Box::new(Sender::new(config, random, now))).paths.deny(ev, denied);
    }

    /// Tells for each EV what became known of its packets since the last call, and nothing of EVs without news. The sums
    /// over all calls are what there is to know: see [`PathReport`].
    pub fn report_paths(&mut self, to: &mut dyn FnMut(PathReport)) {
        if let Some(s) = &mut self.sender {
            s.report_paths(&mut self.events, to);
        }
    }

    /// Its parameters.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// EVs in use.
    pub const fn evs(&self) -> u16 {
        if self.config.evs == 0 { 1 } else { self.config.evs }
    }

    /// What is believed of an EV.
    pub fn path_state(&self, ev: Ev) -> Option<PathState> {
        self.sender.as_ref()?.paths.get(ev).map(|p| p.state)
    }

    /// Packets with a number whose fate is not known.
    pub fn in_flight(&self) -> u64 {
        self.sender.as_ref().map_or(0, |s| s.in_flight())
    }

    /// Their bytes on the wire.
    pub fn in_flight_bytes(&self) -> u64 {
        self.sender.as_ref().map_or(0, |s| s.in_flight_bytes())
    }

    /// What is known of every EV; nothing before something was sent.
    pub fn paths(&self) -> impl Iterator<Item = PathView> {
        let paths = self.sender.iter().flat_map(|s| s.paths.iter());
        paths.enumerate().map(|(i, p)| PathView {
            ev: Ev(i as u16),
            state: p.state,
            sent: p.seq_next,
            arrived: p.received,
            lost: p.lost,
            marked: p.marked,
            queue: p.queue,
        })
    }

    /// The sender's window, bytes.
    pub fn window_bytes(&self) -> u64 {
        self.sender.as_ref().map_or(0, |s| s.window_bytes())
    }

    /// Recent round trip.
    pub fn rtt(&self) -> Nanos {
        self.sender.as_ref().map_or(self.config.rtt_base, |s| s.rtt())
    }

    /// Nothing to send and nothing on the way.
    pub fn is_idle(&self) -> bool {
        self.sender.as_ref().is_none_or(|s| s.idle())
    }

    /// Bytes on the heap: at most [`Config::memory_bytes_max`], whatever the peer sends, where events are taken as they
    /// come.
    pub fn memory_bytes(&self) -> usize {
        let sender = self.sender.as_ref().map_or(0, |s| size_of::<Sender>() + s.memory_bytes());
        let receiver = self.receiver.as_ref().map_or(0, |r| size_of::<Receiver>() + r.memory_bytes());
        sender + receiver + self.events.capacity() * size_of::<Event>()
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}
