//! The machine beside a model of what a reliable message service is, under any sequence of operations.
//!
//! The model knows nothing of packets: messages are sent, received once, and then said to be sent. The network between
//! the two ends is a bag of packets out of which the test picks: deliver, drop, say twice, in any order.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use proptest::prelude::*;
use selvedge_transport::{Config, Connection, Control, Event, Outcome, Pacer, Reason, Refused};
use std::collections::BTreeSet;
use wire::Nanos;
use wire::transport::{CloseReason, ConnectionId, Ev, MessageId, Packet, RegionId, Seen, Target};

#[derive(Clone, Debug)]
enum Op {
    Send { end: usize, bytes: u64, write: bool },
    Deliver { to: usize, which: usize },
    Drop { to: usize, which: usize },
    Twice { to: usize, which: usize },
    Trim { to: usize, which: usize },
    Wait { ns: u64 },
    Deny { end: usize, ev: u16, denied: bool },
    Close { end: usize, reason: CloseReason },
}

fn op(closes: u32) -> impl Strategy<Value = Op> {
    let end = 0..2usize;
    prop_oneof![
        6 => (end.clone(), prop_oneof![0..3u64, 1..2_000u64, Just(9_000), Just(9_001)], any::<bool>())
            .prop_map(|(end, bytes, write)| Op::Send { end, bytes, write }),
        20 => (end.clone(), 0..8usize).prop_map(|(to, which)| Op::Deliver { to, which }),
        3 => (end.clone(), 0..8usize).prop_map(|(to, which)| Op::Drop { to, which }),
        3 => (end.clone(), 0..8usize).prop_map(|(to, which)| Op::Twice { to, which }),
        2 => (end.clone(), 0..8usize).prop_map(|(to, which)| Op::Trim { to, which }),
        6 => prop_oneof![0..20_000u64, 0..2_000_000u64].prop_map(|ns| Op::Wait { ns }),
        1 => (end.clone(), 0..5u16, any::<bool>()).prop_map(|(end, ev, denied)| Op::Deny { end, ev, denied }),
        closes => (end, prop_oneof![Just(CloseReason::Done), Just(CloseReason::Aborted)])
            .prop_map(|(end, reason)| Op::Close { end, reason }),
    ]
}

/// What one end's user sent, and what became of it.
#[derive(Default)]
struct Model {
    messages: Vec<(u64, Target)>,
    /// By the peer.
    received: BTreeSet<u32>,
    told: BTreeSet<u32>,
    /// Bytes of each that lie at the peer.
    placed: Vec<BTreeSet<u64>>,
    /// The end was told to close, and with what.
    closing: Option<CloseReason>,
    closed: Option<CloseReason>,
}

impl Model {
    /// Messages in the window: all from the first that is not sent.
    fn open(&self) -> usize {
        (0..self.messages.len())
            .find(|i| !self.told.contains(&(*i as u32)))
            .map_or(0, |i| self.messages.len() - i)
    }
    fn all_sent(&self) -> bool {
        self.told.len() == self.messages.len()
    }
}

struct World {
    config: Config,
    ends: [Connection; 2],
    pacers: [Pacer; 2],
    models: [Model; 2],
    /// What is on the way to each end.
    way: [Vec<(Packet, Seen)>; 2],
    now: Nanos,
}

impl World {
    fn new(config: Config, random: u64) -> Self {
        Self {
            config,
            ends: [1, 0].map(|peer| Connection::new(config, ConnectionId(peer), random ^ u64::from(peer))),
            pacers: [Pacer::new(&config), Pacer::new(&config)],
            models: Default::default(),
            way: Default::default(),
            now: Nanos::ZERO,
        }
    }

    fn send(&mut self, end: usize, bytes: u64, write: bool) {
        let m = &mut self.models[end];
        let id = m.messages.len() as u32;
        let target = if write {
            Target::Write { region: RegionId(id), offset: bytes, immediate: !id }
        } else {
            Target::Tagged { tag: u64::from(id) << 7 }
        };
        let want = if m.closing.is_some() || m.closed.is_some() {
            Err(Refused::Closed)
        } else if bytes == 0 || bytes > self.config.message_bytes_max {
            Err(Refused::Length { bytes, most: self.config.message_bytes_max })
        } else if m.open() >= self.config.messages_max as usize {
            Err(Refused::Full { open: self.config.messages_max })
        } else {
            m.messages.push((bytes, target));
            m.placed.push(BTreeSet::new());
            Ok(MessageId(id))
        };
        assert_eq!(self.ends[end].send(self.now, target, bytes), want);
    }

    fn deliver(&mut self, to: usize, packet: Packet, seen: Seen) {
        let over = self.models[to].closed.is_some();
        let outcome = self.ends[to].handle_input(self.now, &packet, seen);
        self.pacers[to].handle_input(0, &mut self.ends[to]);
        if over {
            assert_eq!(outcome, Outcome::Dropped(Reason::Closed));
        }
        if let Outcome::Place { message, offset, bytes, target } = outcome {
            let m = &mut self.models[1 - to];
            let (len, sent_to) = m.messages[message.0 as usize];
            assert_eq!(target, sent_to);
            assert!(bytes > 0 && offset + u64::from(bytes) <= len, "a chunk outside its message");
            assert!(!m.received.contains(&message.0), "a chunk of a message that was whole");
            for at in offset..offset + u64::from(bytes) {
                assert!(m.placed[message.0 as usize].insert(at), "byte {at} placed twice");
            }
        }
        if let Packet::Close(c) = packet
            && !over
        {
            // the peer said so, and it is over at once
            assert_eq!(Some(c.reason), self.models[1 - to].closed);
        }
        self.settle(to);
    }

    /// Events and everything that can go out.
    fn settle(&mut self, end: usize) {
        while let Some(slot) = self.pacers[end].poll_slot(self.now) {
            self.pacers[end].grant(self.now, slot, &mut self.ends[end]);
        }
        let mut sink = Vec::new();
        let mut polls = 0;
        while self.ends[end].poll_output(self.now, 4, &mut sink).is_some() {
            polls += 1;
            assert!(polls < 10_000, "output without end");
        }
        if self.models[end].closed.is_some() {
            assert!(sink.is_empty(), "something was sent after the end");
        }
        self.way[1 - end].extend(sink.into_iter().map(|p| (p, Seen::default())));
        while let Some(event) = self.ends[end].poll_event() {
            match event {
                Event::Received { message, bytes, target } => {
                    let m = &mut self.models[1 - end];
                    assert_eq!(m.messages[message.0 as usize], (bytes, target));
                    assert_eq!(
                        m.placed[message.0 as usize].len() as u64,
                        bytes,
                        "whole, and bytes are missing"
                    );
                    assert!(m.received.insert(message.0), "received twice");
                }
                Event::Sent(MessageId(id)) => {
                    let m = &mut self.models[end];
                    assert!(m.received.contains(&id), "sent and not received");
                    assert!(m.told.insert(id), "sent twice");
                }
                Event::Closed(reason) => {
                    let peer = self.models[1 - end].closed;
                    let m = &mut self.models[end];
                    assert_eq!(m.closed, None, "closed twice");
                    assert!(
                        m.closing == Some(reason) || peer == Some(reason),
                        "closed and nobody asked: {reason:?}"
                    );
                    m.closed = Some(reason);
                }
                Event::PathDown(_) | Event::PathUp(_) => {}
            }
        }
        self.check(end);
    }

    fn check(&self, end: usize) {
        let (e, m) = (&self.ends[end], &self.models[end]);
        let c = e.counters();
        assert_eq!(c.sent, c.acknowledged + c.lost + e.in_flight(), "{c:?}");
        assert_eq!(e.is_idle(), m.all_sent());
        assert_eq!(c.messages_sent, m.told.len() as u64);
        assert_eq!(c.messages_received, self.models[1 - end].received.len() as u64);
        assert!(e.memory_bytes() as u64 <= self.config.memory_bytes_max());
        if m.closed.is_some() {
            assert_eq!(e.next_timeout(), None);
        } else if let Some(at) = e.next_timeout() {
            assert!(
                at > self.now || e.has_data(self.now) || e.has_control(self.now) || self.due_changes(end)
            );
        }
    }

    /// Does what is due do anything?
    fn due_changes(&self, end: usize) -> bool {
        let mut e = self.ends[end].clone();
        e.handle_timeout(self.now);
        e.next_timeout().is_none_or(|at| at > self.now) || e.has_data(self.now) || e.has_control(self.now)
    }

    fn wait(&mut self, ns: u64) {
        self.now += Nanos(ns);
        for end in 0..2 {
            if self.ends[end].next_timeout().is_some_and(|at| at <= self.now) {
                self.ends[end].handle_timeout(self.now);
            }
            self.settle(end);
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Send { end, bytes, write } => {
                self.send(end, bytes, write);
                self.settle(end);
            }
            Op::Deliver { to, which } | Op::Trim { to, which } if which < self.way[to].len() => {
                let (packet, mut seen) = self.way[to].remove(which);
                seen.trimmed = matches!((op, packet), (Op::Trim { .. }, Packet::Data(_)));
                self.deliver(to, packet, seen);
            }
            Op::Drop { to, which } if which < self.way[to].len() => drop(self.way[to].remove(which)),
            Op::Twice { to, which } if which < self.way[to].len() => {
                let copy = self.way[to][which];
                self.way[to].push(copy);
            }
            Op::Wait { ns } => self.wait(ns),
            Op::Deny { end, ev, denied } => {
                self.ends[end].deny(self.now, Ev(ev), denied);
                self.settle(end);
            }
            Op::Close { end, reason } => {
                self.ends[end].close(reason);
                let m = &mut self.models[end];
                if m.closed.is_none() && m.closing.is_none() {
                    m.closing = Some(reason);
                }
                self.settle(end);
            }
            _ => {}
        }
    }

    /// From here on nothing goes wrong: everything arrives in order.
    fn heal(&mut self) {
        for end in 0..2 {
            for ev in 0..self.config.evs {
                self.ends[end].deny(self.now, Ev(ev), false);
            }
            self.settle(end);
        }
        for _ in 0..20_000 {
            for to in 0..2 {
                for (packet, seen) in std::mem::take(&mut self.way[to]) {
                    self.deliver(to, packet, seen);
                }
            }
            let over = self.models.iter().all(|m| m.closed.is_some() || m.all_sent());
            if over && self.way.iter().all(Vec::is_empty) {
                return;
            }
            let timeouts = self.ends.iter().filter_map(Connection::next_timeout);
            let pacers = self.pacers.iter().filter_map(Pacer::next_timeout);
            let next = timeouts.chain(pacers).min();
            let soon = self.now + Nanos(5_000);
            self.wait(next.map_or(soon, |at| at.min(soon)).since(self.now).0);
        }
        let counters = self.ends.each_ref().map(|e| *e.counters());
        panic!("not all was delivered over a network that works: {counters:#?}");
    }
}

fn config() -> impl Strategy<Value = Config> {
    let control = prop_oneof![Just(Control::Sender), Just(Control::Receiver), Just(Control::Both)];
    (control, 1..5u16, 1..40u32, 1..5u32, prop_oneof![Just(1u32), Just(16_384)]).prop_map(
        |(control, evs, packets_max, messages_max, ack_every_bytes)| Config {
            control,
            evs,
            packets_max,
            messages_max,
            ack_every_bytes,
            chunk_bytes: 300,
            message_bytes_max: 9_000,
            ..Config::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_reliable_message_service(config in config(), random: u64, ops in proptest::collection::vec(op(0), 1..200)) {
        let mut w = World::new(config, random);
        ops.iter().for_each(|op| w.apply(op));
        w.heal();
        for m in &w.models {
            prop_assert_eq!(m.received.len(), m.messages.len());
            prop_assert_eq!(m.told.len(), m.messages.len());
            prop_assert_eq!(m.closed, None);
        }
    }

    #[test]
    fn a_service_that_may_be_closed_at_any_moment(
        config in config(), random: u64, ops in proptest::collection::vec(op(2), 1..120),
    ) {
        let mut w = World::new(config, random);
        ops.iter().for_each(|op| w.apply(op));
        // who closed is over; the other may not have heard of it, and that is its owner's to find out
        for (end, m) in w.models.iter().enumerate() {
            if m.closing.is_some() {
                prop_assert!(m.closed.is_some(), "end {}", end);
            }
        }
    }
}
