//! The machines a prober drives, with one door for everything that goes into them.
//!
//! How: whatever the machines are told (packets with their times, the plan, that time has passed, counters of the kernel) is
//! an [`Input`]. The prober's thread makes them from sockets and clock; [`crate::record`] writes them down and makes them
//! again from a file. Both ways lead through [`Machines::take`], so what was recorded is what happened.
//!
//! Invariants: the same head and the same inputs give the same observations; no clock is read here.
//! Absent on purpose: sockets.

use crate::record::Recorder;
use fabric::Fabric;
use probe::packet::{Arrival, Codec};
use probe::{
    Answer, Asker, Dropped, Observation, Plan, Probe, Reflector, ReflectorConfig, Sender, SenderConfig,
};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use wire::ipv6;
use wire::{ClockQuality, Component, ComponentObservation, Counter, HostId, Nanos, Window};

/// UDP counters of a network namespace that say what its kernel threw away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Udp6 {
    pub(crate) received: u64,
    pub(crate) checksum_errors: u64,
    pub(crate) no_room: u64,
}

/// What machines are made of.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) host: HostId,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) clock: Option<ClockQuality>,
    pub(crate) seed: u64,
    /// This host's clock follows an outside source.
    pub(crate) synchronized: bool,
    /// The port probes leave from.
    pub(crate) sender_port: u16,
    pub(crate) udp6: Udp6,
}

/// A packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) arrival: Arrival<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) truncated: bool,
}

/// Something the machines are told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input<'a> {
    /// A probe arrived.
    Request(Nanos, Packet<'a>),
    /// An answer left at that moment.
    Left(Asker, u32, Nanos),
    /// An answer arrived.
    Reply(Nanos, Packet<'a>),
    /// An ICMPv6 error arrived.
    TimeExceeded(Nanos, Ipv6Addr, &'a [u8]),
    /// A plan came.
    Plan(Nanos, Plan),
    /// Is a probe due?
    Probe(Nanos),
    /// Is a hop to be asked for?
    Trace(Nanos),
    /// All that arrived before is taken in.
    Passed(Nanos),
    /// Observations are taken out.
    Drain,
    /// The kernel's counters.
    Counters(Nanos, Udp6),
}

/// What comes out for it.
#[derive(Debug)]
pub(crate) enum Output {
    Nothing,
    Answer(Box<Answer>),
    Plan(Result<(), probe::Error>),
    Probe(Option<Probe>),
    Trace(Option<(Probe, u8)>),
}

/// The machines.
#[derive(Debug)]
pub(crate) struct Machines {
    pub(crate) head: Head,
    pub(crate) codec: Codec,
    pub(crate) sender: Sender,
    reflector: Reflector,
    drops: BTreeMap<Dropped, u64>,
    /// ICMPv6 errors about packets that were not the sender's.
    foreign: u64,
    udp6: Udp6,
    next_window: Nanos,
    recorder: Option<Recorder>,
    /// Observations of the machines' own, not taken out yet.
    waiting: Vec<Observation>,
}

impl Machines {
    pub(crate) fn new(head: Head, mut recorder: Option<Recorder>) -> Machines {
        if let Some(r) = &mut recorder {
            r.begin(&head);
        }
        let config = SenderConfig { clock: head.clock, ..SenderConfig::new(head.host, head.seed) };
        Machines {
            codec: Codec::new(head.fabric.clone(), head.key.clone(), head.synchronized),
            sender: Sender::new(head.fabric.clone(), config),
            reflector: Reflector::new(head.fabric.clone(), ReflectorConfig::default()),
            drops: BTreeMap::new(),
            foreign: 0,
            udp6: head.udp6,
            next_window: Nanos::ZERO,
            recorder,
            waiting: Vec::new(),
            head,
        }
    }

    fn dropped(&mut self, reason: Dropped) -> Output {
        *self.drops.entry(reason).or_default() += 1;
        Output::Nothing
    }

    /// The one door.
    pub(crate) fn take(&mut self, input: &Input<'_>) -> Output {
        if let Some(r) = &mut self.recorder {
            r.write(input);
        }
        match input {
            Input::Request(_, Packet { truncated: true, .. })
            | Input::Reply(_, Packet { truncated: true, .. }) => self.dropped(Dropped::Malformed),
            Input::Request(now, packet) => match self.codec.read_request(packet.payload, &packet.arrival) {
                Err(reason) => self.dropped(reason),
                // the reflector counts what it refuses itself
                Ok(request) => match self.reflector.handle_input(*now, &request) {
                    Ok(answer) => Output::Answer(Box::new(answer)),
                    Err(_) => Output::Nothing,
                },
            },
            Input::Left(asker, sequence, at) => {
                self.reflector.sent(*asker, *sequence, *at);
                Output::Nothing
            }
            Input::Reply(now, packet) => match self.codec.read_reply(packet.payload, &packet.arrival) {
                Err(reason) => self.dropped(reason),
                Ok(reply) => {
                    // the sender counts what it refuses itself
                    let _ = self.sender.handle_input(*now, &reply);
                    Output::Nothing
                }
            },
            Input::TimeExceeded(now, from, icmp) => {
                let quoted = ipv6::time_exceeded(icmp);
                if quoted.is_some_and(|q| q.src_port != self.head.sender_port) {
                    // of a trace, or of another program
                    self.foreign += 1;
                    return Output::Nothing;
                }
                match quoted.and_then(|q| probe::trace::read_mark(q.payload)) {
                    Some((ssid, hop)) => {
                        self.sender.handle_time_exceeded(*now, ssid, hop, *from);
                        Output::Nothing
                    }
                    None => self.dropped(Dropped::Malformed),
                }
            }
            Input::Plan(now, plan) => Output::Plan(self.sender.set_plan(*now, plan.clone())),
            Input::Probe(now) => Output::Probe(self.sender.poll_output(*now)),
            Input::Trace(now) => Output::Trace(self.sender.poll_trace(*now)),
            Input::Passed(now) => {
                self.sender.handle_timeout(*now);
                self.reflector.handle_timeout(*now);
                Output::Nothing
            }
            Input::Counters(now, udp6) => {
                self.count_window(*now, *udp6);
                Output::Nothing
            }
            Input::Drain => Output::Nothing,
        }
    }

    /// Whether it is time to tell the kernel's counters.
    pub(crate) fn wants_counters(&self, now: Nanos) -> bool {
        now >= self.next_window
    }

    /// Once a window: what the kernel counted since the last one.
    fn count_window(&mut self, now: Nanos, udp6: Udp6) {
        let length = self.sender.plan().window.0.max(100_000_000);
        let end = Nanos(now.0 / length * length);
        let window = Window { start: end - Nanos(length), length: Nanos(length) };
        self.next_window = end + Nanos(length);
        let before = std::mem::replace(&mut self.udp6, udp6);
        let received = udp6.received.saturating_sub(before.received);
        for (counter, delta) in [
            (Counter::ChecksumError, udp6.checksum_errors.saturating_sub(before.checksum_errors)),
            (Counter::SocketDrop, udp6.no_room.saturating_sub(before.no_room)),
        ] {
            if delta > 0 {
                self.waiting.push(Observation::Component(ComponentObservation {
                    window,
                    producer: self.head.host,
                    epoch: self.head.fabric.epoch,
                    component: Component::Host(self.head.host),
                    counter,
                    delta,
                    of: received.saturating_add(delta),
                    size_ns: 0,
                }));
            }
        }
    }

    /// Takes out every observation.
    pub(crate) fn drain(&mut self, to: &mut dyn FnMut(Observation)) {
        self.take(&Input::Drain);
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(observation) = waiting.pop().or_else(|| self.sender.poll_event()) {
            if let Some(r) = &mut self.recorder {
                r.observed(&observation);
            }
            to(observation);
        }
        if let Some(r) = &mut self.recorder {
            r.drained();
        }
    }

    /// Everything counted so far.
    pub(crate) fn count_into(&self, all: &mut BTreeMap<&'static str, u64>) {
        self.sender.counters().snapshot(all);
        self.reflector.counters().snapshot(all);
        for (reason, n) in &self.drops {
            *all.entry(reason.name()).or_default() += n;
        }
        if self.foreign > 0 {
            all.insert("time_exceeded_foreign", self.foreign);
        }
        if let Some(r) = &self.recorder {
            all.insert("recorded_bytes", r.bytes());
        }
    }

    /// Ends a recording.
    pub(crate) fn end(&mut self) {
        if let Some(r) = self.recorder.take() {
            r.end();
        }
    }
}
