//! A recording's bytes: written and read.
//!
//! Invariants: what is written is read back the same; any bytes are an outcome.

use super::{Digest, MAGIC, RECORD_BYTES_MAX, RecordError, VERSION};
use crate::machines::{Head, Input, Packet, Udp6};
use fabric::Fabric;
use probe::packet::Arrival;
use probe::{Asker, Plan, Slot};
use std::net::Ipv6Addr;
use std::sync::Arc;
use wire::{ClockQuality, HostId, Nanos, PathId};

/// Kinds of records.
pub(super) mod tag {
    pub const REQUEST: u8 = 1;
    pub const LEFT: u8 = 2;
    pub const REPLY: u8 = 3;
    pub const TIME_EXCEEDED: u8 = 4;
    pub const PLAN: u8 = 5;
    pub const PROBE: u8 = 6;
    pub const TRACE: u8 = 7;
    pub const PASSED: u8 = 8;
    pub const DRAIN: u8 = 9;
    pub const COUNTERS: u8 = 10;
    /// How many observations had come out, and their digest.
    pub const CHECK: u8 = 11;
    /// The agent ended in order; likewise.
    pub const END: u8 = 12;
    /// The file was to be no longer; likewise.
    pub const FULL: u8 = 13;
}

/// Bits of the context.
const AUTHENTICATED: u8 = 1;
const SYNCHRONIZED: u8 = 2;

/// Bytes being written.
#[derive(Debug, Default)]
pub(super) struct Out(Vec<u8>);

impl Out {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
    pub(super) fn cut(&mut self, to: usize) {
        self.0.truncate(to);
    }
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }
    fn u16(&mut self, n: u16) {
        self.put(&n.to_be_bytes());
    }
    fn u32(&mut self, n: u32) {
        self.put(&n.to_be_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.put(&n.to_be_bytes());
    }
    fn ip(&mut self, ip: Ipv6Addr) {
        self.put(&ip.octets());
    }

    pub(super) fn head(&mut self, head: &Head) {
        self.put(MAGIC);
        self.u16(VERSION);
        let toml = head.fabric.to_toml();
        self.u32(toml.len() as u32);
        self.put(toml.as_bytes());
        let software = concat!("selvedge ", env!("CARGO_PKG_VERSION"));
        self.u32((CONTEXT_LEN + software.len()) as u32);
        self.u32(head.host.0);
        self.u64(head.seed);
        self.u8(head.clock.map_or(0, |c| c as u8 + 1));
        let bit = |set, bit| if set { bit } else { 0 };
        self.u8(bit(head.key.is_some(), AUTHENTICATED) | bit(head.synchronized, SYNCHRONIZED));
        self.u16(head.sender_port);
        self.udp6(head.udp6);
        self.put(software.as_bytes());
    }

    fn udp6(&mut self, c: Udp6) {
        [c.received, c.checksum_errors, c.no_room].into_iter().for_each(|n| self.u64(n));
    }

    /// A record whose content `write` appends.
    fn record(&mut self, tag: u8, write: impl FnOnce(&mut Out)) {
        let start = self.len();
        self.u32(0);
        self.u8(tag);
        write(self);
        let length = (self.len() - start - 4) as u32;
        if let Some(place) = self.0.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    pub(super) fn digest(&mut self, tag: u8, digest: Digest) {
        self.record(tag, |o| {
            o.u64(digest.count);
            o.u64(digest.value);
        });
    }

    fn packet(&mut self, now: Nanos, packet: &Packet<'_>) {
        let a = &packet.arrival;
        self.u64(now.0);
        self.u8(u8::from(packet.truncated));
        self.ip(a.from);
        self.u16(a.port);
        self.ip(a.to);
        self.u64(a.at.0);
        self.u8(a.traffic_class);
        self.u32(a.flow_label);
        self.u8(a.hop_limit);
        let options = a.hop_by_hop.get(..usize::from(u16::MAX)).unwrap_or(a.hop_by_hop);
        self.u16(options.len() as u16);
        self.put(options);
        self.put(packet.payload);
    }

    pub(super) fn input(&mut self, input: &Input<'_>) {
        let time = |now: Nanos| move |o: &mut Out| o.u64(now.0);
        match input {
            Input::Request(now, packet) => self.record(tag::REQUEST, |o| o.packet(*now, packet)),
            Input::Reply(now, packet) => self.record(tag::REPLY, |o| o.packet(*now, packet)),
            Input::Left(asker, sequence, at) => self.record(tag::LEFT, |o| {
                o.u64(at.0);
                o.ip(asker.addr);
                o.u16(asker.port);
                o.u16(asker.ssid);
                o.u32(*sequence);
            }),
            Input::TimeExceeded(now, from, icmp) => self.record(tag::TIME_EXCEEDED, |o| {
                o.u64(now.0);
                o.ip(*from);
                o.put(icmp);
            }),
            Input::Plan(now, plan) => self.record(tag::PLAN, |o| o.plan(*now, plan)),
            Input::Probe(now) => self.record(tag::PROBE, time(*now)),
            Input::Trace(now) => self.record(tag::TRACE, time(*now)),
            Input::Passed(now) => self.record(tag::PASSED, time(*now)),
            Input::Drain => self.record(tag::DRAIN, |_| {}),
            Input::Counters(now, udp6) => self.record(tag::COUNTERS, |o| {
                o.u64(now.0);
                o.udp6(*udp6);
            }),
        }
    }

    fn plan(&mut self, now: Nanos, plan: &Plan) {
        self.u64(now.0);
        self.u64(plan.window.0);
        self.u32(plan.packets_per_second);
        self.u32(plan.train);
        self.u64(plan.timeout.0);
        for s in &plan.slots {
            self.u64(s.path.0);
            self.u8(u8::from(s.back.is_some()));
            self.u64(s.back.map_or(0, |p| p.0));
            self.u16(s.size);
            self.u8(s.class);
        }
    }
}

/// Bytes of the context before the software's name.
const CONTEXT_LEN: usize = 4 + 8 + 1 + 1 + 2 + 24;

/// Bytes being read. `None` where there are not enough.
#[derive(Clone, Copy)]
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    fn time(&mut self) -> Option<Nanos> {
        self.u64().map(Nanos)
    }
    fn ip(&mut self) -> Option<Ipv6Addr> {
        self.array::<16>().map(Ipv6Addr::from)
    }
    fn udp6(&mut self) -> Option<Udp6> {
        Some(Udp6 { received: self.u64()?, checksum_errors: self.u64()?, no_room: self.u64()? })
    }
    fn packet(&mut self) -> Option<(Nanos, Packet<'a>)> {
        let now = self.time()?;
        let truncated = self.u8()? != 0;
        let (from, port, to, at) = (self.ip()?, self.u16()?, self.ip()?, self.time()?);
        let (traffic_class, flow_label, hop_limit) = (self.u8()?, self.u32()?, self.u8()?);
        let options = self.u16()?;
        let hop_by_hop = self.take(options.into())?;
        let arrival = Arrival { from, port, to, at, traffic_class, flow_label, hop_limit, hop_by_hop };
        Some((now, Packet { arrival, payload: self.0, truncated }))
    }
    fn plan(&mut self) -> Option<Input<'a>> {
        let now = self.time()?;
        let window = self.time()?;
        let (packets_per_second, train) = (self.u32()?, self.u32()?);
        let timeout = self.time()?;
        let mut slots = Vec::new();
        while !self.0.is_empty() {
            let path = PathId(self.u64()?);
            let (with_back, back) = (self.u8()? != 0, self.u64()?);
            let back = with_back.then_some(PathId(back));
            slots.push(Slot { path, back, size: self.u16()?, class: self.u8()? });
        }
        Some(Input::Plan(now, Plan { slots, window, packets_per_second, train, timeout }))
    }
}

/// A record.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Input(Input<'a>),
    Check(Digest),
    End(Digest),
    Full(Digest),
}

/// What a file begins with.
#[derive(Debug)]
pub(super) struct Beginning<'a> {
    pub(super) head: Head,
    pub(super) authenticated: bool,
    pub(super) software: String,
    pub(super) rest: &'a [u8],
}

/// Reads the head.
pub(super) fn begin(bytes: &[u8]) -> Result<Beginning<'_>, RecordError> {
    let mut all = In(bytes);
    if all.take(MAGIC.len()) != Some(MAGIC.as_slice()) {
        return Err(RecordError::NotARecording);
    }
    let bad = |reason: &str| RecordError::Head { reason: reason.to_owned() };
    let got = all.u16().ok_or_else(|| bad("it is cut off"))?;
    if got == 0 || got > VERSION {
        return Err(RecordError::Version { got });
    }
    let part = |all: &mut In<'_>| -> Option<Vec<u8>> {
        let length = all.u32()?;
        all.take(length as usize).map(<[u8]>::to_vec)
    };
    let toml = part(&mut all).ok_or_else(|| bad("its fabric is cut off"))?;
    let toml = String::from_utf8(toml).map_err(|_| bad("its fabric is not UTF-8"))?;
    let fabric = Fabric::parse(&toml).map_err(|e| RecordError::Head { reason: e.to_string() })?;
    let context = part(&mut all).ok_or_else(|| bad("its context is cut off"))?;
    let mut c = In(&context);
    let mut read = || {
        let (host, seed, clock, bits) = (HostId(c.u32()?), c.u64()?, c.u8()?, c.u8()?);
        let (sender_port, udp6) = (c.u16()?, c.udp6()?);
        let clock = match clock {
            0 => None,
            1 => Some(ClockQuality::Free),
            2 => Some(ClockQuality::Synchronized),
            3 => Some(ClockQuality::Same),
            _ => return None,
        };
        Some((host, seed, clock, bits, sender_port, udp6, String::from_utf8_lossy(c.0).into_owned()))
    };
    let (host, seed, clock, bits, sender_port, udp6, software) =
        read().ok_or_else(|| bad("its context makes no sense"))?;
    if host.0 >= fabric.shape.hosts {
        return Err(bad("its host is not in its fabric"));
    }
    let head = Head {
        fabric: Arc::new(fabric),
        host,
        key: None,
        clock,
        seed,
        synchronized: bits & SYNCHRONIZED != 0,
        sender_port,
        udp6,
    };
    Ok(Beginning { head, authenticated: bits & AUTHENTICATED != 0, software, rest: all.0 })
}

/// The next record and what follows it; `None` where the file ends in the middle of one.
pub(super) fn next(bytes: &[u8], offset: usize) -> Result<Option<(Record<'_>, &[u8])>, RecordError> {
    let damaged = || RecordError::Damaged { offset };
    let mut all = In(bytes);
    let Some(length) = all.u32() else { return Ok(None) };
    if length == 0 || length as usize > RECORD_BYTES_MAX {
        return Err(damaged());
    }
    let Some(body) = all.take(length as usize) else { return Ok(None) };
    let record = read(In(body)).ok_or_else(damaged)?;
    Ok(Some((record, all.0)))
}

fn read(mut r: In<'_>) -> Option<Record<'_>> {
    let digest = |r: &mut In<'_>| Some(Digest { count: r.u64()?, value: r.u64()? });
    let input = match r.u8()? {
        tag::REQUEST => r.packet().map(|(now, p)| Input::Request(now, p)),
        tag::REPLY => r.packet().map(|(now, p)| Input::Reply(now, p)),
        tag::LEFT => {
            let (at, addr, port, ssid) = (r.time()?, r.ip()?, r.u16()?, r.u16()?);
            Some(Input::Left(Asker { addr, port, ssid }, r.u32()?, at))
        }
        tag::TIME_EXCEEDED => Some(Input::TimeExceeded(r.time()?, r.ip()?, r.0)),
        tag::PLAN => r.plan(),
        tag::PROBE => r.time().map(Input::Probe),
        tag::TRACE => r.time().map(Input::Trace),
        tag::PASSED => r.time().map(Input::Passed),
        tag::DRAIN => Some(Input::Drain),
        tag::COUNTERS => Some(Input::Counters(r.time()?, r.udp6()?)),
        tag::CHECK => return digest(&mut r).map(Record::Check),
        tag::END => return digest(&mut r).map(Record::End),
        tag::FULL => return digest(&mut r).map(Record::Full),
        _ => None,
    };
    input.map(Record::Input)
}

/// When an input happened.
pub(super) fn time_of(input: &Input<'_>) -> Option<Nanos> {
    match input {
        Input::Request(now, _)
        | Input::Reply(now, _)
        | Input::Left(_, _, now)
        | Input::TimeExceeded(now, _, _)
        | Input::Plan(now, _)
        | Input::Probe(now)
        | Input::Trace(now)
        | Input::Passed(now)
        | Input::Counters(now, _) => Some(*now),
        Input::Drain => None,
    }
}
