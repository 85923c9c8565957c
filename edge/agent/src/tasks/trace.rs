//! A trace: every path to another host, every hop of each, by sockets opened while there were privileges.
//!
//! How: [`Tracer::open`] makes three sockets in the host's network namespace; [`Tracer::run`] drives
//! [`probe::survey::Survey`] with them: whole packets out by the raw one, answers and probes that turned in by the UDP one,
//! the switches' words in by the ICMPv6 one. Probes carry a trace option with time stamps (in srv6 mode some of those that
//! end at a switch, behind the outer header); a switch at which one ends quotes it, and so what those before it wrote.
//!
//! Invariants: one trace at a time, others wait their turn; a trace ends at its stop; nothing that arrives can make it send
//! more.
//! Absent on purpose: what to make of it. The hub and the command line put it into words.

use crate::prober::{HOP_LIMIT, arrival};
use fabric::{Fabric, Mode};
use kernel::poll::readable;
use kernel::raw::{RawSocket, TimeExceededSocket, whole};
use kernel::timestamp::{clock_synchronized, unix_ns};
use kernel::udp::{BATCH, Outgoing, Received, UdpOptions, UdpSocket};
use probe::packet::Codec;
use probe::survey::{Kind, Survey, SurveyConfig, SurveyError, SurveyProbe};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::ioam::{NodeData, Trace, TraceOption, field};
use wire::ipv6::{self, IPV6, UDP};
use wire::proto::{TraceReport, TraceTask};
use wire::stamp::SenderPacket;
use wire::task::{TaskError, check_trace};
use wire::{HostId, Nanos};

/// The loop looks around at least so often.
const IDLE: Duration = Duration::from_millis(100);

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The request asks for something that is not given.
    #[error("trace refused: {0}")]
    Task(#[from] TaskError),
    /// It cannot be done in this fabric.
    #[error("trace refused: {0}")]
    Survey(#[from] SurveyError),
    /// The kernel refused.
    #[error("cannot trace: {0}")]
    Kernel(#[from] kernel::Error),
    /// It was stopped before its end.
    #[error("the trace was stopped before its end")]
    Stopped,
}

#[derive(Debug)]
struct Sockets {
    raw: RawSocket,
    udp: UdpSocket,
    time_exceeded: TimeExceededSocket,
    port: u16,
}

/// Sockets for traces, and what one needs to know.
#[derive(Debug)]
pub struct Tracer {
    sockets: Mutex<Sockets>,
    fabric: Arc<Fabric>,
    host: HostId,
    stamp_port: u16,
    key: Option<Vec<u8>>,
}

impl Tracer {
    /// Opens the sockets in this thread's network namespace. Needs CAP_NET_RAW; afterwards nothing.
    pub fn open(
        fabric: Arc<Fabric>,
        host: HostId,
        stamp_port: u16,
        key: Option<Vec<u8>>,
    ) -> kernel::Result<Tracer> {
        let options = UdpOptions {
            receive_bytes: 1 << 20,
            hop_by_hop: fabric.mode == Mode::Ecmp,
            ..UdpOptions::default()
        };
        let udp = UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0), options)?;
        let port = udp.port()?;
        let raw = RawSocket::open()?;
        let time_exceeded = TimeExceededSocket::open()?;
        let sockets = Mutex::new(Sockets { raw, udp, time_exceeded, port });
        Ok(Tracer { sockets, fabric, host, stamp_port, key })
    }

    /// Traces until all is answered or lost, or `stop` says so. Blocks; a second one waits for the first.
    pub fn run(&self, task: &TraceTask, stop: &dyn Fn() -> bool) -> Result<TraceReport, TraceError> {
        let task = check_trace(task)?;
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let config = SurveyConfig {
            rounds: task.rounds,
            packets_per_second: task.packets_per_second,
            class: task.class as u8,
            size: task.size_bytes as u16,
            seed: unix_ns(),
            ..SurveyConfig::default()
        };
        let survey = Survey::new(self.fabric.clone(), self.host, HostId(task.to_host), now(), config)?;
        let codec = Codec::new(self.fabric.clone(), self.key.clone(), clock_synchronized());
        let mut trace = Vec::new();
        let fields = field::NODE | field::INTERFACES | field::SECONDS | field::FRACTION;
        let behind = if self.fabric.mode == Mode::Ecmp { UDP } else { IPV6 };
        TraceOption { fields, ..TraceOption::default() }.write(behind, &mut trace);
        let (received, out) = (Received::default(), Outgoing::default());
        Run { tracer: self, sockets: &sockets, survey, codec, trace, received, out, payload: Vec::new() }
            .run(stop)
    }
}

fn now() -> Nanos {
    Nanos(unix_ns())
}

/// One trace.
struct Run<'a> {
    tracer: &'a Tracer,
    sockets: &'a Sockets,
    survey: Survey,
    codec: Codec,
    /// A whole hop-by-hop header with an empty trace; in srv6 mode for the outer header.
    trace: Vec<u8>,
    received: Received,
    out: Outgoing,
    payload: Vec<u8>,
}

impl Run<'_> {
    fn run(mut self, stop: &dyn Fn() -> bool) -> Result<TraceReport, TraceError> {
        // what an earlier trace left in the sockets belongs to no session of this one, and is refused below
        loop {
            let before = now();
            let empty = self.hear_udp()? & self.hear_switches()?;
            self.send()?;
            if empty {
                // all that arrived before `before` has been taken in
                self.survey.handle_timeout(before);
            }
            let Some(next) = self.survey.next_timeout() else { return Ok(self.survey.report()) };
            if stop() {
                return Err(TraceError::Stopped);
            }
            if empty {
                let wait = Duration::from_nanos(next.since(now()).0).min(IDLE);
                readable(&[self.sockets.udp.as_fd(), self.sockets.time_exceeded.as_fd()], Some(wait))?;
            }
        }
    }

    /// Whether nothing waits any more.
    fn hear_udp(&mut self) -> Result<bool, TraceError> {
        let got = self.sockets.udp.receive(&mut self.received)?;
        for d in self.received.iter().filter(|d| !d.truncated) {
            let arrival = arrival(&d);
            // what is refused is lost to the survey, and told so by its counts
            if d.from == d.to {
                // our own probe, turned
                if let Ok(p) = SenderPacket::new_checked(d.payload, self.tracer.key.as_deref()) {
                    let _ = self.survey.handle_returned(arrival.at, p.ssid(), p.sequence());
                }
            } else if let Ok(reply) = self.codec.read_reply(d.payload, &arrival) {
                let _ = self.survey.handle_reply(&reply);
            }
        }
        Ok(got < BATCH)
    }

    fn hear_switches(&mut self) -> Result<bool, TraceError> {
        let got = self.sockets.time_exceeded.receive(&mut self.received)?;
        for d in self.received.iter() {
            let Some(q) = ipv6::time_exceeded(d.payload) else { continue };
            if q.src_port != self.sockets.port {
                continue;
            }
            let Some((ssid, _)) = probe::trace::read_mark(q.payload) else { continue };
            let Some(number) = q.payload.first_chunk().map(|b| u32::from_be_bytes(*b)) else { continue };
            let nodes: Vec<NodeData> =
                Trace::new_checked(q.hop_by_hop).map(|t| t.nodes().collect()).unwrap_or_default();
            let at = if d.at_ns == 0 { now() } else { Nanos(d.at_ns) };
            let _ = self.survey.handle_time_exceeded(at, ssid, number, d.from, &nodes);
        }
        Ok(got < BATCH)
    }

    fn send(&mut self) -> Result<(), TraceError> {
        self.out.clear();
        while self.out.len() < BATCH {
            let Some(p) = self.survey.poll_output(now()) else { break };
            self.push(&p);
        }
        if !self.out.is_empty() {
            // what the kernel does not take is a probe lost before the first hop
            self.sockets.raw.send(&mut self.out)?;
        }
        Ok(())
    }

    fn push(&mut self, p: &SurveyProbe) {
        let fabric = &self.tracer.fabric;
        let probe = &p.probe;
        let (container, hop_limit) = match (p.kind, fabric.mode) {
            (Kind::Turned { container }, _) => (Some(container), HOP_LIMIT),
            (Kind::Limited { hop_limit }, Mode::Srv6) => (fabric.path_container(probe.path), hop_limit),
            (Kind::Limited { hop_limit }, Mode::Ecmp) => (None, hop_limit),
            (Kind::Whole, Mode::Srv6) => (fabric.path_container(probe.path), HOP_LIMIT),
            (Kind::Whole, Mode::Ecmp) => (None, HOP_LIMIT),
        };
        self.payload.clear();
        self.codec.write_probe(probe, &mut self.payload);
        if let Kind::Limited { hop_limit } = p.kind {
            probe::trace::write_mark(&mut self.payload, probe.ssid, hop_limit);
        }
        let turned = matches!(p.kind, Kind::Turned { .. });
        let packet = ipv6::Datagram {
            container,
            src: fabric.nic_addr(probe.from),
            dst: fabric.nic_addr(probe.to),
            src_port: self.sockets.port,
            dst_port: if turned { self.sockets.port } else { self.tracer.stamp_port },
            traffic_class: probe.class << 2 | 2,
            flow_label: probe.flow_label,
            hop_limit,
            hop_by_hop: if p.traced { &self.trace } else { &[] },
            payload: &self.payload,
        };
        let from = (fabric.shape.rails > 1).then_some(packet.src);
        let outside = p.traced && container.is_some();
        self.out.push(whole(packet.first_destination(), from), |buf| match outside {
            true => packet.write_traced_outside(buf),
            false => packet.write(buf),
        });
    }
}
