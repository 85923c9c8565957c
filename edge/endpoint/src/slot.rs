//! One connection as an endpoint keeps it: state machine, keys, the bytes of messages, and who waits for what.
//!
//! Invariants: bytes kept for messages are bounded by the configuration, because a message is begun only where all of it
//! fits, or, as much again, where somebody waits for it; a write outside its region never reaches the state machine;
//! whoever waits is answered when the connection closes.
//! Absent on purpose: sockets and time.

use crate::cipher::Ring;
use crate::config::Config;
use crate::error::EndpointError;
use crate::handshake::Established;
use crate::observer::Observer;
use crate::steer::{OUTER_BYTES, Steering, Way};
use crate::trace::{TraceEvent, Traced, tag};
use kernel::udp::{BURST_BYTES_MAX, Outgoing, Route, SEGMENTS_MAX};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv6Addr, SocketAddrV6};
use tokio::sync::oneshot;
use transport::{Event, Outcome};
use wire::Nanos;
use wire::transport::protection::{Dropped, Protection};
use wire::transport::{
    Close, CloseReason, ConnectionId, Data, Ev, MessageId, Packet, RegionId, Seen, Target,
};

/// Traffic class of what is sent: ECN-capable, ECT(0) (RFC 3168, section 5).
const TRAFFIC_CLASS: u8 = 2;

/// Somebody who waits for an answer.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, EndpointError>>;

/// A write by the peer that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Into which region.
    pub region: RegionId,
    /// Where it begins in it, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub bytes: u64,
    /// What the peer sent along.
    pub immediate: u32,
}

/// What one connection counted, besides the state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounters {
    /// The state machine's.
    pub machine: transport::Counters,
    /// Datagrams that arrived for it.
    pub datagrams: u64,
    /// Of them, not authentic.
    pub forged: u64,
    /// Of them, seen before or too old.
    pub replayed: u64,
    /// Of them, unreadable.
    pub rejected: u64,
    /// Of them, of messages for which there was no room yet.
    pub no_room: u64,
    /// Of them, writes outside of what is registered.
    pub outside: u64,
    /// Times the keys were changed.
    pub key_updates: u64,
    /// "I know no such connection", which nobody vouches for.
    pub strangers: u64,
}

struct Sending {
    bytes: Vec<u8>,
    reply: Option<Reply<()>>,
}

/// One connection.
pub(crate) struct Slot {
    pub id: ConnectionId,
    pub to: SocketAddrV6,
    pub peer: String,
    pub machine: transport::Connection,
    theirs: ConnectionId,
    protection: Protection<Ring>,
    /// From where to where, for each plane; not empty.
    planes: Vec<(Option<Ipv6Addr>, SocketAddrV6)>,
    /// Where the flow labels of its EVs begin.
    label: u32,
    /// What each EV is, where the fabric's paths are known.
    ways: Vec<Option<Way>>,
    /// Its packets on the wire: 2 to this many bytes hold one.
    size_log2: u8,
    /// On the list of those the observer will ask.
    pub noted: bool,
    /// What is kept of it for the event file, where there is one.
    pub traced: Option<Box<Traced>>,
    sending: BTreeMap<u32, Sending>,
    pending: VecDeque<(Target, Sending)>,
    /// Tagged messages begun and not whole, with their tags.
    incoming: BTreeMap<u32, (u64, Vec<u8>)>,
    /// One above the highest message begun, and those below that were not.
    begun: u32,
    unbegun: BTreeSet<u32>,
    held: u64,
    ready: VecDeque<(u64, Vec<u8>)>,
    receivers: VecDeque<(u64, Reply<Vec<u8>>)>,
    regions: BTreeMap<u32, Vec<u8>>,
    written: VecDeque<Written>,
    watchers: VecDeque<Reply<Written>>,
    closing: Option<Reply<()>>,
    closed: Option<CloseReason>,
    /// It was us who closed.
    said_close: bool,
    counters: ConnectionCounters,
    receive_bytes_max: u64,
    receive_messages_max: usize,
    send_messages_max: usize,
    segments_max: usize,
    /// In the engine's line of those that may have something to send.
    pub active: bool,
    /// In the engine's line of those that may have control packets.
    pub has_news: bool,
    /// When the engine looks at it next.
    pub timer: Option<Nanos>,
    /// When it is forgotten.
    pub ends_at: Option<Nanos>,
    /// Nobody can use it any more.
    pub abandoned: bool,
}

impl Slot {
    /// `fits`: the longest datagram there is room for on every plane.
    pub fn new(
        id: ConnectionId,
        to: SocketAddrV6,
        e: &Established,
        config: &Config,
        random: u64,
        fits: u16,
    ) -> Self {
        let theirs = e.theirs.connection;
        let (first, second) = if e.initiator { (id, theirs) } else { (theirs, id) };
        let machine = config.machine(e.theirs.datagram_bytes_max.min(fits), e.theirs.evs);
        Self {
            id,
            to,
            peer: e.peer.clone(),
            machine: transport::Connection::new(machine, theirs, random),
            theirs,
            protection: Protection::of_connection(Ring, e.cipher, &e.pair, first, second, e.initiator),
            planes: planes(to, e),
            label: (random >> 40) as u32,
            ways: Vec::new(),
            size_log2: u32::from(machine.chunk_bytes + machine.header_bytes).next_power_of_two().ilog2()
                as u8,
            noted: false,
            traced: None,
            sending: BTreeMap::new(),
            pending: VecDeque::new(),
            incoming: BTreeMap::new(),
            begun: 0,
            unbegun: BTreeSet::new(),
            held: 0,
            ready: VecDeque::new(),
            receivers: VecDeque::new(),
            regions: BTreeMap::new(),
            written: VecDeque::new(),
            watchers: VecDeque::new(),
            closing: None,
            closed: None,
            said_close: false,
            counters: ConnectionCounters::default(),
            receive_bytes_max: config.receive_bytes_max,
            receive_messages_max: config.receive_messages_max,
            send_messages_max: config.send_messages_max,
            segments_max: config.segments_max.clamp(1, SEGMENTS_MAX),
            active: false,
            has_news: false,
            timer: None,
            ends_at: None,
            abandoned: false,
        }
    }

    /// Its EVs are the fabric's paths from now on.
    pub fn steer(&mut self, steering: &Steering, random: u32) {
        let pairs: Vec<_> = self.planes.iter().map(|(from, to)| (*from, *to.ip())).collect();
        self.ways = steering.ways(&pairs, self.machine.evs(), random);
    }

    /// Tells the observer what became known of its paths.
    pub fn report(&mut self, to: &mut Observer) {
        self.noted = false;
        let (ways, size_log2) = (&self.ways, self.size_log2);
        self.machine.report_paths(&mut |r| {
            if let Some(Some(way)) = ways.get(usize::from(r.ev.0)) {
                to.push(*way, TRAFFIC_CLASS >> 2, size_log2, r);
            }
        });
    }

    pub fn counters(&self) -> ConnectionCounters {
        ConnectionCounters {
            machine: *self.machine.counters(),
            forged: self.protection.forged(),
            key_updates: self.protection.updates(),
            ..self.counters
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Does the peer know it under this id?
    pub fn is_known_as(&self, theirs: ConnectionId) -> bool {
        self.theirs == theirs
    }

    pub fn strange(&mut self) {
        self.counters.strangers += 1;
    }

    // ---- what the application wants

    pub fn send(&mut self, now: Nanos, target: Target, bytes: Vec<u8>, reply: Reply<()>) {
        match self.may_send() {
            Err(error) => answer(reply, Err(error)),
            Ok(()) => {
                self.pending.push_back((target, Sending { bytes, reply: Some(reply) }));
                self.begin(now);
            }
        }
    }

    /// Sends what nobody waits for.
    pub fn post(&mut self, now: Nanos, target: Target, bytes: Vec<u8>) -> Result<(), EndpointError> {
        self.may_send()?;
        // nobody can be told later
        self.machine.check(bytes.len() as u64).map_err(EndpointError::Refused)?;
        self.pending.push_back((target, Sending { bytes, reply: None }));
        self.begin(now);
        Ok(())
    }

    fn may_send(&self) -> Result<(), EndpointError> {
        if let Some(reason) = self.closed {
            return Err(EndpointError::Closed { reason });
        }
        if self.closing.is_some() {
            return Err(EndpointError::Closed { reason: CloseReason::Done });
        }
        if self.pending.len() >= self.send_messages_max {
            return Err(EndpointError::TooManyMessages { open: self.pending.len() });
        }
        Ok(())
    }

    /// Gives the state machine what it takes.
    fn begin(&mut self, now: Nanos) {
        while let Some((target, sending)) = self.pending.pop_front() {
            let bytes = sending.bytes.len() as u64;
            let taken = match sending.reply {
                Some(_) => self.machine.send(now, target, bytes),
                None => self.machine.post(now, target, bytes),
            };
            match taken {
                Ok(MessageId(id)) => drop(self.sending.insert(id, sending)),
                Err(transport::Refused::Full { .. }) => {
                    self.pending.push_front((target, sending));
                    return;
                }
                Err(refused) => {
                    if let Some(reply) = sending.reply {
                        answer(reply, Err(EndpointError::Refused(refused)));
                    }
                }
            }
        }
    }

    pub fn receive(&mut self, tag: u64, reply: Reply<Vec<u8>>) {
        if let Some(i) = self.ready.iter().position(|(t, _)| *t == tag)
            && let Some((_, bytes)) = self.ready.remove(i)
        {
            self.held -= bytes.len() as u64;
            return answer(reply, Ok(bytes));
        }
        if let Some(reason) = self.closed {
            return answer(reply, Err(EndpointError::Closed { reason }));
        }
        // who gave up waiting makes room
        self.receivers.retain(|(_, r)| !r.is_closed());
        self.receivers.push_back((tag, reply));
    }

    pub fn register(&mut self, region: RegionId, bytes: Vec<u8>) -> Result<(), EndpointError> {
        if self.regions.contains_key(&region.0) {
            return Err(EndpointError::Region { region });
        }
        self.regions.insert(region.0, bytes);
        Ok(())
    }

    pub fn unregister(&mut self, region: RegionId) -> Result<Vec<u8>, EndpointError> {
        self.regions.remove(&region.0).ok_or(EndpointError::Region { region })
    }

    pub fn watch(&mut self, reply: Reply<Written>) {
        if let Some(written) = self.written.pop_front() {
            return answer(reply, Ok(written));
        }
        if let Some(reason) = self.closed {
            return answer(reply, Err(EndpointError::Closed { reason }));
        }
        self.watchers.retain(|r| !r.is_closed());
        self.watchers.push_back(reply);
    }

    pub fn update_keys(&mut self, now: Nanos) -> bool {
        self.protection.update(now)
    }

    pub fn close(&mut self, reply: Reply<()>) {
        if self.closed.is_some() {
            return answer(reply, Ok(()));
        }
        self.closing = Some(reply);
        self.close_if_idle();
    }

    pub fn abort(&mut self) {
        self.abandoned = true;
        if self.closed.is_none() && self.closing.is_none() {
            self.said_close = true;
            let idle = self.machine.is_idle() && self.pending.is_empty();
            self.machine.close(if idle { CloseReason::Done } else { CloseReason::Aborted });
        }
    }

    fn close_if_idle(&mut self) {
        if self.closing.is_some() && self.machine.is_idle() && self.pending.is_empty() && !self.said_close {
            self.said_close = true;
            self.machine.close(CloseReason::Done);
        }
    }

    // ---- what the network brings

    /// A datagram arrived.
    pub fn handle_input(&mut self, now: Nanos, datagram: &mut [u8], seen: Seen) {
        self.counters.datagrams += 1;
        let opened = match self.protection.open(now, datagram) {
            Ok(opened) => opened,
            Err(dropped) => {
                match dropped {
                    Dropped::Replayed | Dropped::TooOld => self.counters.replayed += 1,
                    Dropped::Reject(_) => self.counters.rejected += 1,
                    // counted where the keys are
                    Dropped::Forged | Dropped::Exhausted => {}
                }
                return;
            }
        };
        if let Packet::Data(d) = &opened.packet {
            let begun = self.is_begun(d.message);
            if !begun && !self.has_room(d) {
                return;
            }
            if let Outcome::Place { offset, .. } = self.machine.handle_input(now, &opened.packet, seen) {
                let d = *d;
                let payload = opened.payload;
                self.note_begun(d.message);
                if !begun && let Target::Tagged { tag } = d.target {
                    // room for it was found just now; a message that began otherwise gets none
                    self.held += d.message_bytes;
                    if d.message_bytes == payload.len() as u64 {
                        self.incoming.insert(d.message.0, (tag, payload.to_vec()));
                        return;
                    }
                    let bytes = vec![0; usize::try_from(d.message_bytes).unwrap_or(0)];
                    self.incoming.insert(d.message.0, (tag, bytes));
                }
                place(&mut self.incoming, &mut self.regions, &d, offset, payload);
            }
            return;
        }
        let _ = self.machine.handle_input(now, &opened.packet, seen);
    }

    fn is_begun(&self, message: MessageId) -> bool {
        (message.0.wrapping_sub(self.begun) as i32) < 0 && !self.unbegun.contains(&message.0)
    }

    fn note_begun(&mut self, message: MessageId) {
        let ahead = message.0.wrapping_sub(self.begun) as i32;
        if ahead < 0 {
            self.unbegun.remove(&message.0);
            return;
        }
        // the state machine takes messages no further ahead than it keeps
        self.unbegun.extend((0..ahead as u32).map(|i| self.begun.wrapping_add(i)));
        self.begun = message.0.wrapping_add(1);
    }

    /// May this message be begun?
    fn has_room(&mut self, d: &Data) -> bool {
        let waiting = self.ready.len() + self.written.len();
        let room = waiting < self.receive_messages_max;
        match d.target {
            Target::Tagged { tag } => {
                let after = self.held.saturating_add(d.message_bytes);
                if room && after <= self.receive_bytes_max {
                    return true;
                }
                // what somebody waits for comes in beside what nobody asked for yet: else both would wait for ever
                let waits = self.receivers.iter().any(|(t, r)| *t == tag && !r.is_closed());
                if waits
                    && after <= self.receive_bytes_max.saturating_mul(2)
                    && !self.incoming.values().any(|(t, _)| *t == tag)
                {
                    return true;
                }
                self.counters.no_room += 1;
            }
            Target::Write { region, offset, .. } => {
                let len = self.regions.get(&region.0).map(|r| r.len() as u64);
                let fits = len.zip(offset.checked_add(d.message_bytes)).is_some_and(|(len, end)| end <= len);
                if room && fits {
                    return true;
                }
                if fits {
                    self.counters.no_room += 1;
                } else {
                    self.counters.outside += 1;
                }
            }
        }
        false
    }

    /// Takes the state machine's events. To be called after anything was handed to it.
    pub fn settle(&mut self, now: Nanos) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Sent(MessageId(id)) => {
                    let sent = self.sending.remove(&id);
                    if let (Some(traced), Some(s)) = (&mut self.traced, &sent) {
                        let bytes = s.bytes.len() as u64;
                        traced.happened(now, TraceEvent::MessageSent { message: id, bytes });
                    }
                    if let Some(reply) = sent.and_then(|s| s.reply) {
                        answer(reply, Ok(()));
                    }
                    self.begin(now);
                }
                Event::Received { message, bytes, target } => {
                    if let Some(traced) = &mut self.traced {
                        let (message, tag) = (message.0, tag(&target));
                        traced.happened(now, TraceEvent::MessageReceived { message, bytes, tag });
                    }
                    self.complete(message, bytes, target);
                }
                Event::Closed(reason) => {
                    if let Some(traced) = &mut self.traced {
                        traced.happened(
                            now,
                            TraceEvent::Closed { reason: format!("{reason:?}").to_lowercase() },
                        );
                    }
                    self.end(reason);
                }
                Event::PathDown(Ev(ev)) => {
                    tracing::debug!(ev, peer = self.peer, "nothing comes back on a path");
                    if let Some(traced) = &mut self.traced {
                        traced.happened(now, TraceEvent::PathDown { ev });
                    }
                }
                Event::PathUp(Ev(ev)) => {
                    tracing::debug!(ev, peer = self.peer, "a path answers again");
                    if let Some(traced) = &mut self.traced {
                        traced.happened(now, TraceEvent::PathUp { ev });
                    }
                }
            }
        }
        self.close_if_idle();
    }

    fn complete(&mut self, message: MessageId, bytes: u64, target: Target) {
        match target {
            Target::Tagged { tag } => {
                let Some((_, whole)) = self.incoming.remove(&message.0) else { return };
                while let Some(i) = self.receivers.iter().position(|(t, _)| *t == tag) {
                    let Some((_, reply)) = self.receivers.remove(i) else { break };
                    if reply.is_closed() {
                        continue;
                    }
                    self.held -= bytes;
                    return answer(reply, Ok(whole));
                }
                self.ready.push_back((tag, whole));
            }
            Target::Write { region, offset, immediate } => {
                let written = Written { region, offset, bytes, immediate };
                while let Some(reply) = self.watchers.pop_front() {
                    if !reply.is_closed() {
                        return answer(reply, Ok(written));
                    }
                }
                self.written.push_back(written);
            }
        }
    }

    /// The connection is over: everybody who waits is told.
    pub fn end(&mut self, reason: CloseReason) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(reason);
        let closed = || EndpointError::Closed { reason };
        if let Some(reply) = self.closing.take() {
            let whole = self.sending.is_empty() && self.pending.is_empty();
            answer(reply, if whole { Ok(()) } else { Err(closed()) });
        }
        let pending = std::mem::take(&mut self.pending).into_iter().map(|(_, s)| s);
        for sending in std::mem::take(&mut self.sending).into_values().chain(pending) {
            if let Some(reply) = sending.reply {
                answer(reply, Err(closed()));
            }
        }
        self.receivers.drain(..).for_each(|(_, r)| answer(r, Err(closed())));
        self.watchers.drain(..).for_each(|r| answer(r, Err(closed())));
        for (_, bytes) in std::mem::take(&mut self.incoming).into_values() {
            self.held -= bytes.len() as u64;
        }
    }

    // ---- what goes out

    /// Where packets of an EV go.
    fn route(&self, ev: Ev) -> Route {
        // one odd factor spreads neighbouring EVs over all labels; 0 would leave the choice to the kernel
        let label = self.label.wrapping_add(u32::from(ev.0)).wrapping_mul(0x9e37_79b1) >> 12;
        let label = match self.ways.get(usize::from(ev.0)) {
            Some(Some(way)) if way.flow_label != 0 => way.flow_label,
            _ => label,
        };
        let plane = usize::from(ev.0) % self.planes.len().max(1);
        let (from, to) = self.planes.get(plane).copied().unwrap_or((None, self.to));
        Route { to, from, traffic_class: TRAFFIC_CLASS, flow_label: label.max(1) }
    }

    /// Appends control packets. False where there were none.
    pub fn poll_control(&mut self, now: Nanos, sink: &mut Vec<Packet>, out: &mut Outgoing) -> bool {
        sink.clear();
        let Some(ev) = self.machine.poll_control(now, sink) else { return false };
        self.write(now, ev, sink, out);
        true
    }

    /// Appends one burst. False where there was none.
    pub fn poll_data(&mut self, now: Nanos, sink: &mut Vec<Packet>, out: &mut Outgoing) -> bool {
        sink.clear();
        let Some(ev) = self.machine.poll_data(now, self.segments_max, sink) else { return false };
        self.write(now, ev, sink, out);
        true
    }

    /// A connection that we closed answers once more, in case that was lost.
    pub fn repeat_close(&mut self, now: Nanos, out: &mut Outgoing) {
        if let (true, Some(reason)) = (self.said_close, self.closed) {
            let close = Packet::Close(Close { connection: self.theirs, number: 0, reason });
            self.write(now, Ev(0), &[close], out);
        }
    }

    /// Seals packets of one EV into bursts of datagrams of one length, the last of which may be shorter.
    fn write(&mut self, now: Nanos, ev: Ev, packets: &[Packet], out: &mut Outgoing) {
        let route = self.route(ev);
        // of the burst: where it begins, its datagrams' length, the length of its last one
        let mut start = out.buffer().len();
        let (mut segment, mut last) = (0, 0);
        for packet in packets {
            let payload = match packet {
                Packet::Data(d) => chunk(&self.sending, d),
                _ => Some(&[][..]),
            };
            let before = out.buffer().len();
            let sealed = payload.map(|payload| self.protection.seal(now, packet, payload, out.buffer()));
            let length = match sealed {
                Some(Ok(length)) => length,
                other => {
                    tracing::error!(peer = self.peer, ?other, "a packet that cannot be sealed");
                    continue;
                }
            };
            let too_long = before - start + length > BURST_BYTES_MAX - OUTER_BYTES;
            if before > start && (length > segment || last < segment || too_long) {
                out.close(route, burst(segment, before - start), before);
                start = before;
            }
            if before == start {
                segment = length;
            }
            last = length;
        }
        let end = out.buffer().len();
        if end > start {
            out.close(route, burst(segment, end - start), end);
        }
    }
}

/// From where to where, for each plane both ends have an address in; else as the handshake went.
pub(crate) fn planes(to: SocketAddrV6, e: &Established) -> Vec<(Option<Ipv6Addr>, SocketAddrV6)> {
    let pairs = e.ours.addresses.iter().zip(&e.theirs.addresses);
    let planes: Vec<_> =
        pairs.map(|(from, addr)| (Some(*from), SocketAddrV6::new(*addr, to.port(), 0, 0))).collect();
    if planes.is_empty() { vec![(None, to)] } else { planes }
}

/// The length of segments to tell the kernel: none for a burst of one.
fn burst(segment: usize, bytes: usize) -> u16 {
    if bytes <= segment { 0 } else { u16::try_from(segment).unwrap_or(0) }
}

fn chunk<'a>(sending: &'a BTreeMap<u32, Sending>, d: &Data) -> Option<&'a [u8]> {
    let offset = usize::try_from(d.offset).ok()?;
    sending.get(&d.message.0)?.bytes.get(offset..)?.get(..usize::from(d.bytes))
}

fn place(
    incoming: &mut BTreeMap<u32, (u64, Vec<u8>)>,
    regions: &mut BTreeMap<u32, Vec<u8>>,
    d: &Data,
    offset: u64,
    payload: &[u8],
) {
    let (buffer, at) = match d.target {
        Target::Tagged { .. } => (incoming.get_mut(&d.message.0).map(|(_, bytes)| bytes), offset),
        // a region that was taken back meanwhile is written no more
        Target::Write { region, offset: base, .. } => {
            (regions.get_mut(&region.0), base.saturating_add(offset))
        }
    };
    let room =
        usize::try_from(at).ok().zip(buffer).and_then(|(at, b)| b.get_mut(at..)?.get_mut(..payload.len()));
    if let Some(room) = room {
        room.copy_from_slice(payload);
    }
}

/// Tells somebody, who may be gone.
pub(crate) fn answer<T>(reply: Reply<T>, what: Result<T, EndpointError>) {
    let _ = reply.send(what);
}

#[cfg(test)]
#[path = "tests/slot.rs"]
mod tests;
