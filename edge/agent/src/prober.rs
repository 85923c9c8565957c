//! The thread that probes: sockets, clock and kernel time stamps around the machines of the `probe` room.
//!
//! How: [`Prober::open`] makes every socket in the host's network namespace and needs privileges (CAP_NET_RAW, a port
//! below 1,024, the namespace); after it none. [`Prober::spawn`] starts one thread that sleeps until a packet comes or a
//! train is due, takes in all that waits, answers, sends, and hands observations to a bounded channel.
//!
//! - All packets leave through one raw socket, whole: in srv6 mode inside an outer header whose destination is the path's
//!   container, in ecmp mode with the flow label and an in-band trace. They arrive at ordinary UDP sockets.
//! - The way a packet takes is thus chosen packet by packet, and no route of the host changes it.
//!
//! Invariants: the sender is told that time has passed only up to the moment before the sockets were found empty, so
//! slow reading never looks like loss; nothing blocks but the one wait; every packet not used is counted by reason.
//! Absent on purpose: the hub (see the rest of this room), and anything that decides what to probe.

use crate::machines::{Head, Input, Machines, Output, Packet, Udp6};
use crate::record::Recorder;
use crate::tasks::trace::Tracer;
use fabric::{Fabric, Mode};
use kernel::netns;
use kernel::poll::{Waker, readable};
use kernel::raw::{RawSocket, TimeExceededSocket, whole};
use kernel::timestamp::{clock_synchronized, unix_ns};
use kernel::udp::{BATCH, Datagram, Outgoing, Received, UdpOptions, UdpSocket};
use probe::packet::Arrival;
use probe::{Asker, Observation, Plan};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::ioam::TraceOption;
use wire::ipv6::{self, UDP};
use wire::{ClockQuality, HostId, Nanos};

/// Batches taken from one socket before the others have their turn.
const BATCHES_A_TURN: usize = 16;
/// Hop limit of packets that are to arrive.
pub(crate) const HOP_LIMIT: u8 = 64;
/// The thread looks around at least so often.
const IDLE: Duration = Duration::from_millis(500);

/// What a prober needs to know at its start.
#[derive(Debug)]
pub struct ProberConfig {
    /// The map.
    pub fabric: Arc<Fabric>,
    /// Which host this is.
    pub host: HostId,
    /// Network namespace of the host's interfaces; `None` for the one the process is in.
    pub netns: Option<String>,
    /// UDP port of the reflector, here and on every host.
    pub stamp_port: u16,
    /// Key for authenticated packets, the same on every host; `None` for unauthenticated.
    pub key: Option<Vec<u8>>,
    /// How well the hosts' clocks agree, where that is known; else what each host's kernel says of its own.
    pub clock: Option<ClockQuality>,
    /// Changes session ids and flow labels; a new one at every start.
    pub seed: u64,
    /// After each turn the thread lets packets gather this long. It costs no accuracy, since the kernel stamps packets
    /// when they arrive, and makes one wake-up of many.
    pub gather: Duration,
    /// Observations the channel holds before they are dropped and counted.
    pub queue: usize,
    /// Writes down what goes into the machines, for [`crate::record::replay`].
    pub recorder: Option<Recorder>,
}

impl ProberConfig {
    /// The usual values for a host.
    pub fn new(fabric: Arc<Fabric>, host: HostId) -> Self {
        ProberConfig {
            fabric,
            host,
            netns: None,
            stamp_port: wire::stamp::PORT,
            key: None,
            clock: None,
            seed: unix_ns(),
            gather: Duration::from_millis(5),
            queue: 16_384,
            recorder: None,
        }
    }
}

/// Why there is no prober.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProberError {
    /// The kernel refused a socket or the namespace.
    #[error("{what}: {error}{}", hint(.error))]
    Kernel {
        /// What was wanted.
        what: &'static str,
        /// What the kernel said.
        error: kernel::Error,
    },
    /// The fabric has no such host.
    #[error("{host} is not in the fabric")]
    NoSuchHost {
        /// The host asked for.
        host: HostId,
    },
    /// The plan cannot be carried out.
    #[error("plan refused: {0}")]
    Plan(#[from] probe::Error),
    /// The thread is gone.
    #[error("the prober has stopped")]
    Stopped,
}

fn hint(error: &kernel::Error) -> &'static str {
    match error {
        kernel::Error::Call { errno, .. } if errno.0 == 1 || errno.0 == 13 => {
            " (run it as root, or give it CAP_NET_RAW, CAP_NET_BIND_SERVICE and CAP_NET_ADMIN)"
        }
        _ => "",
    }
}

enum Command {
    Plan(Box<Plan>, mpsc::SyncSender<Result<(), probe::Error>>),
    Stop,
}

/// Sockets open, thread not started. Capabilities can be dropped now.
#[derive(Debug)]
pub struct Prober {
    config: ProberConfig,
    reflector_socket: UdpSocket,
    sender_socket: UdpSocket,
    raw: RawSocket,
    time_exceeded: Option<TimeExceededSocket>,
    snmp6: Option<File>,
    sender_port: u16,
    tracer: Option<Arc<Tracer>>,
}

impl Prober {
    /// Opens every socket in the host's network namespace. Needs CAP_NET_RAW, CAP_NET_BIND_SERVICE for the port, and
    /// CAP_SYS_ADMIN to enter another namespace.
    pub fn open(config: ProberConfig) -> Result<Prober, ProberError> {
        if config.host.0 >= config.fabric.shape.hosts {
            return Err(ProberError::NoSuchHost { host: config.host });
        }
        let wrap = |what| move |error| ProberError::Kernel { what, error };
        // the thread comes back when the guard goes; the sockets stay in the namespace
        let _inside = match &config.netns {
            Some(name) => Some(netns::enter(name).map_err(wrap("cannot enter the network namespace"))?),
            None => None,
        };
        let ecmp = config.fabric.mode == Mode::Ecmp;
        let options = UdpOptions { hop_by_hop: ecmp, ..UdpOptions::default() };
        let any = |port| SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
        let reflector_socket = UdpSocket::bind(any(config.stamp_port), options)
            .map_err(wrap("cannot open the STAMP reflector's port"))?;
        let sender_socket =
            UdpSocket::bind(any(0), options).map_err(wrap("cannot open the sender's port"))?;
        let sender_port = sender_socket.port().map_err(wrap("cannot open the sender's port"))?;
        let raw = RawSocket::open().map_err(wrap("cannot open a raw IPv6 socket"))?;
        let time_exceeded = match ecmp {
            true => Some(TimeExceededSocket::open().map_err(wrap("cannot open an ICMPv6 socket"))?),
            false => None,
        };
        // an open file stays with the namespace it was opened in; without it two counters are missing, no more
        let snmp6 = File::open("/proc/thread-self/net/snmp6").ok();
        // without it no trace is made, and probing goes on
        let c = &config;
        let tracer = Tracer::open(c.fabric.clone(), c.host, c.stamp_port, c.key.clone())
            .inspect_err(|error| tracing::warn!(%error, "no sockets for traces"))
            .ok()
            .map(Arc::new);
        Ok(Prober { config, reflector_socket, sender_socket, raw, time_exceeded, snmp6, sender_port, tracer })
    }

    /// Starts the thread. It answers probes at once and sends some as soon as it has a plan.
    pub fn spawn(self) -> Result<ProberHandle, ProberError> {
        let wrap = |what| move |error| ProberError::Kernel { what, error };
        let waker = Arc::new(Waker::new().map_err(wrap("cannot make a waker"))?);
        let (commands, inbox) = mpsc::channel();
        let (outbox, observations) = mpsc::sync_channel(self.config.queue.max(1));
        let counters = Arc::new(Mutex::new(BTreeMap::new()));
        let tracer = self.tracer.clone();
        let worker = Worker::new(self, inbox, waker.clone(), outbox, counters.clone());
        let thread = std::thread::Builder::new()
            .name("prober".into())
            .stack_size(512 << 10)
            .spawn(move || worker.run())
            .map_err(|e| ProberError::Kernel {
                what: "cannot start the prober's thread",
                error: kernel::Error::Call { call: "clone", errno: e.into() },
            })?;
        Ok(ProberHandle { observations, commands, waker, counters, tracer, thread: Some(thread) })
    }
}

/// A prober at work. Dropping it stops it.
#[derive(Debug)]
pub struct ProberHandle {
    /// What was observed. The channel is bounded; what does not fit is dropped and counted as `observations_dropped`.
    pub observations: Receiver<Observation>,
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
    counters: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    tracer: Option<Arc<Tracer>>,
    thread: Option<JoinHandle<()>>,
}

impl ProberHandle {
    /// Replaces the plan and waits until it is in force. Slots that stay keep what they learned.
    pub fn set_plan(&self, plan: Plan) -> Result<(), ProberError> {
        let (done, answer) = mpsc::sync_channel(1);
        self.commands.send(Command::Plan(Box::new(plan), done)).map_err(|_| ProberError::Stopped)?;
        self.waker.wake();
        answer.recv().map_err(|_| ProberError::Stopped)?.map_err(ProberError::Plan)
    }

    /// All counters since the start, about a window old: what was sent and taken, and every drop by reason.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who traces with this host's sockets, where they could be opened.
    pub fn tracer(&self) -> Option<Arc<Tracer>> {
        self.tracer.clone()
    }

    /// Whether the thread still runs.
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Stops the thread and waits for its end.
    pub fn stop(mut self) {
        self.end();
    }

    /// Stops the thread, waits for its end, and gives the observations that were not taken yet.
    pub fn stop_and_take(mut self) -> Vec<Observation> {
        self.end();
        self.observations.try_iter().collect()
    }

    fn end(&mut self) {
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for ProberHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads the three numbers out of `/proc/net/snmp6`.
fn udp6(text: &str) -> Udp6 {
    let mut out = Udp6::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next().and_then(|v| v.parse().ok())) else {
            continue;
        };
        match name {
            "Udp6InDatagrams" => out.received = value,
            "Udp6InCsumErrors" => out.checksum_errors = value,
            "Udp6RcvbufErrors" => out.no_room = value,
            _ => {}
        }
    }
    out
}

struct Worker {
    prober: Prober,
    inbox: Receiver<Command>,
    waker: Arc<Waker>,
    outbox: SyncSender<Observation>,
    shared: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    machines: Machines,
    received: Received,
    out: Outgoing,
    payload: Vec<u8>,
    /// A whole hop-by-hop header with an empty trace, in ecmp mode.
    trace: Vec<u8>,
    /// Answers of the batch whose leaving somebody asks for, by their place in it.
    asked: Vec<(usize, Asker, u32)>,
    counters: BTreeMap<&'static str, u64>,
}

fn now() -> Nanos {
    Nanos(unix_ns())
}

pub(crate) fn arrival<'a>(d: &Datagram<'a>) -> Arrival<'a> {
    Arrival {
        from: d.from,
        port: d.port,
        to: d.to,
        at: if d.at_ns == 0 { now() } else { Nanos(d.at_ns) },
        traffic_class: d.traffic_class,
        flow_label: d.flow_label,
        hop_limit: d.hop_limit,
        hop_by_hop: d.hop_by_hop,
    }
}

fn packet<'a>(d: &Datagram<'a>) -> Packet<'a> {
    Packet { arrival: arrival(d), payload: d.payload, truncated: d.truncated }
}

impl Worker {
    fn new(
        mut prober: Prober,
        inbox: Receiver<Command>,
        waker: Arc<Waker>,
        outbox: SyncSender<Observation>,
        shared: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    ) -> Worker {
        let udp6 = read_udp6(&mut prober.snmp6);
        let recorder = prober.config.recorder.take();
        let c = &prober.config;
        let head = Head {
            fabric: c.fabric.clone(),
            host: c.host,
            key: c.key.clone(),
            clock: c.clock,
            seed: c.seed,
            synchronized: clock_synchronized(),
            sender_port: prober.sender_port,
            udp6,
        };
        let machines = Machines::new(head, recorder);
        let mut trace = Vec::new();
        if c.fabric.mode == Mode::Ecmp {
            TraceOption::default().write(UDP, &mut trace);
        }
        Worker {
            prober,
            inbox,
            waker,
            outbox,
            shared,
            machines,
            received: Received::default(),
            out: Outgoing::default(),
            payload: Vec::new(),
            trace,
            asked: Vec::new(),
            counters: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        loop {
            let before = now();
            let mut empty = self.reflect();
            empty &= self.collect();
            self.hear_time_exceeded();
            if !self.obey() {
                self.machines.end();
                return;
            }
            self.probe();
            if empty {
                // all that arrived before `before` has been taken in
                self.machines.take(&Input::Passed(before));
            }
            self.each_window(before);
            self.hand_over();
            if empty {
                self.wait();
            }
        }
    }

    fn wait(&self) {
        let until = self.machines.sender.next_timeout().unwrap_or(Nanos::MAX).since(now());
        let timeout = Duration::from_nanos(until.0).min(IDLE);
        // first a while in which packets gather and only the handle is heard
        let gather = timeout.min(self.prober.config.gather);
        let p = &self.prober;
        let mut fds = vec![self.waker.as_fd()];
        if self.woken(readable(&fds, Some(gather))) || timeout <= gather {
            return;
        }
        fds.extend([p.reflector_socket.as_fd(), p.sender_socket.as_fd()]);
        fds.extend(p.time_exceeded.as_ref().map(AsFd::as_fd));
        self.woken(readable(&fds, Some(timeout - gather)));
    }

    /// Whether the handle wants something. A wait that fails is a turn that comes early.
    fn woken(&self, ready: kernel::Result<u64>) -> bool {
        let woken = ready.is_ok_and(|bits| bits & 1 == 1);
        if woken {
            self.waker.clear();
        }
        woken
    }

    /// Carries out what the handle asks for. Whether to go on.
    fn obey(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Plan(plan, done)) => {
                    if let Output::Plan(outcome) = self.machines.take(&Input::Plan(now(), *plan)) {
                        let _ = done.send(outcome);
                    }
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    /// Answers the probes that wait. Whether none waits any more.
    fn reflect(&mut self) -> bool {
        for _ in 0..BATCHES_A_TURN {
            let got = match self.prober.reflector_socket.receive(&mut self.received) {
                Ok(got) => got,
                Err(_) => return self.socket_failed(),
            };
            self.out.clear();
            for d in self.received.iter() {
                let Output::Answer(answer) = self.machines.take(&Input::Request(now(), packet(&d))) else {
                    continue;
                };
                if answer.follow_up {
                    self.asked.push((self.out.len(), answer.asker, answer.sequence));
                }
                self.payload.clear();
                self.machines.codec.write_answer(d.payload, &answer, now(), d.hop_limit, &mut self.payload);
                let packet = ipv6::Datagram {
                    container: answer.back.map(|(_, container)| container),
                    src: answer.from,
                    dst: answer.asker.addr,
                    src_port: self.prober.config.stamp_port,
                    dst_port: answer.asker.port,
                    traffic_class: answer.traffic_class,
                    flow_label: answer.flow_label,
                    hop_limit: HOP_LIMIT,
                    // whoever traces the way there wants the way back traced too
                    hop_by_hop: if d.hop_by_hop.is_empty() { &[] } else { &self.trace },
                    payload: &self.payload,
                };
                let from = (self.prober.config.fabric.shape.rails > 1).then_some(packet.src);
                self.out.push(whole(packet.first_destination(), from), |buf| packet.write(buf));
            }
            let sent = self.flush("answers_not_sent");
            let left = now();
            for (at, asker, sequence) in self.asked.drain(..) {
                if at < sent {
                    self.machines.take(&Input::Left(asker, sequence, left));
                }
            }
            if got < BATCH {
                return true;
            }
        }
        false
    }

    /// Takes in the answers that wait. Whether none waits any more.
    fn collect(&mut self) -> bool {
        for _ in 0..BATCHES_A_TURN {
            let got = match self.prober.sender_socket.receive(&mut self.received) {
                Ok(got) => got,
                Err(_) => return self.socket_failed(),
            };
            for d in self.received.iter() {
                self.machines.take(&Input::Reply(now(), packet(&d)));
            }
            if got < BATCH {
                return true;
            }
        }
        false
    }

    fn socket_failed(&mut self) -> bool {
        *self.counters.entry("socket_errors").or_default() += 1;
        true
    }

    fn hear_time_exceeded(&mut self) {
        let Some(socket) = &self.prober.time_exceeded else { return };
        let Ok(1..) = socket.receive(&mut self.received) else { return };
        for d in self.received.iter() {
            self.machines.take(&Input::TimeExceeded(now(), d.from, d.payload));
        }
    }

    /// Sends the trains that are due.
    fn probe(&mut self) {
        self.out.clear();
        while let Output::Probe(Some(probe)) = self.machines.take(&Input::Probe(now())) {
            self.push_probe(&probe, HOP_LIMIT, None);
            if self.out.len() >= BATCH {
                self.flush("probes_not_sent");
            }
        }
        while let Output::Trace(Some((probe, hop_limit))) = self.machines.take(&Input::Trace(now())) {
            self.push_probe(&probe, hop_limit, Some(hop_limit));
        }
        self.flush("probes_not_sent");
    }

    fn push_probe(&mut self, probe: &probe::Probe, hop_limit: u8, mark: Option<u8>) {
        let fabric = &self.prober.config.fabric;
        let container = match fabric.mode {
            Mode::Srv6 => fabric.path_container(probe.path),
            Mode::Ecmp => None,
        };
        self.payload.clear();
        self.machines.codec.write_probe(probe, &mut self.payload);
        if mark.is_some() {
            probe::trace::write_mark(&mut self.payload, probe.ssid, hop_limit);
        }
        let packet = ipv6::Datagram {
            container,
            src: fabric.nic_addr(probe.from),
            dst: fabric.nic_addr(probe.to),
            src_port: self.prober.sender_port,
            dst_port: self.prober.config.stamp_port,
            // ECN-capable, so that a congested queue can mark it (RFC 3168, section 5)
            traffic_class: probe.class << 2 | 2,
            flow_label: probe.flow_label,
            hop_limit,
            hop_by_hop: &self.trace,
            payload: &self.payload,
        };
        let from = (fabric.shape.rails > 1).then_some(packet.src);
        self.out.push(whole(packet.first_destination(), from), |buf| packet.write(buf));
    }

    /// Sends what is gathered; how many packets left, in order.
    fn flush(&mut self, lost: &'static str) -> usize {
        if self.out.is_empty() {
            return 0;
        }
        let all = self.out.len();
        let sent = self.prober.raw.send(&mut self.out).unwrap_or(0);
        if sent < all {
            *self.counters.entry(lost).or_default() += (all - sent) as u64;
        }
        self.out.clear();
        sent
    }

    fn hand_over(&mut self) {
        let Worker { machines, outbox, counters, .. } = self;
        machines.drain(&mut |observation| {
            if let Err(TrySendError::Full(_)) = outbox.try_send(observation) {
                *counters.entry("observations_dropped").or_default() += 1;
            }
        });
    }

    /// Once a window: the kernel's own counters, and ours for whoever asks.
    fn each_window(&mut self, now: Nanos) {
        if !self.machines.wants_counters(now) {
            return;
        }
        let udp6 = read_udp6(&mut self.prober.snmp6);
        self.machines.take(&Input::Counters(now, udp6));
        let mut all = self.counters.clone();
        self.machines.count_into(&mut all);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

fn read_udp6(file: &mut Option<File>) -> Udp6 {
    let mut text = String::new();
    let Some(file) = file else { return Udp6::default() };
    match file.rewind().and_then(|()| file.read_to_string(&mut text)) {
        Ok(_) => udp6(&text),
        Err(_) => Udp6::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_read() {
        let text = "Ip6InReceives 5\nUdp6InDatagrams \t7\nUdp6InCsumErrors 2\nUdp6RcvbufErrors 1\nodd\n";
        assert_eq!(udp6(text), Udp6 { received: 7, checksum_errors: 2, no_room: 1 });
        assert_eq!(udp6(""), Udp6::default());
    }
}
