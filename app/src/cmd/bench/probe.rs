//! `selvedge bench probe`: the real machines, the real bytes and the real sockets, in one thread.
//!
//! How: a sender with 64 slots and a reflector share a thread; a batch of probes goes through the kernel to the
//! reflector's socket, and its answers come back, before the next batch leaves. Everything an agent does for a probe is
//! done: sequence numbers, time stamps of the kernel, TLVs, matching, windows, observations. The loopback stands for
//! both hosts' NICs, so what is missing is the encapsulation.

use crate::out;
use anyhow::Context;
use fabric::{Fabric, LinkParams, Mode, Shape};
use kernel::poll::readable;
use kernel::timestamp::unix_ns;
use kernel::udp::{BATCH, Datagram, Outgoing, Received, Route, UdpOptions, UdpSocket};
use probe::packet::{Arrival, Codec};
use probe::{Observation, Plan, Reflector, ReflectorConfig, Sender, SenderConfig, Slot};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::{Epoch, HostId, Nanos, PathRef, PlaneId};

/// Sessions probed in turn.
const SLOTS: u32 = 64;
/// Probes under way at once; the kernel's socket buffers hold them all.
const IN_FLIGHT: usize = 4 * BATCH;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to measure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes of a probe's STAMP packet
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(80..=1400))]
    size: u16,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    probes_per_second: f64,
    probes_per_cpu_second: f64,
    probes: u64,
    answered: u64,
    lost: u64,
    observations: u64,
    seconds: f64,
    cpu_seconds: f64,
    forward_p50_us: f64,
    rss_mib: f64,
}

fn two_hosts() -> Fabric {
    let params = LinkParams { rate_bps: 1, latency_ns: 1 };
    Fabric {
        name: "bench".into(),
        mode: Mode::Ecmp,
        shape: Shape { planes: 1, leaves: 2, spines: 2, hosts: 2, hosts_per_leaf: 1, rails: 1, cables: 1 },
        epoch: Epoch(1),
        access: params,
        trunk: params,
        parallel: 1,
        removed: Vec::new(),
        added: Vec::new(),
    }
}

fn now() -> Nanos {
    Nanos(unix_ns())
}

/// Seconds this thread has had a processor, the kernel's work for it included.
fn cpu_seconds() -> anyhow::Result<f64> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("reading the thread's CPU time")?;
    let ns: u64 =
        text.split_ascii_whitespace().next().unwrap_or_default().parse().context("reading CPU time")?;
    Ok(ns as f64 / 1e9)
}

fn rss_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

struct Bench {
    fabric: Arc<Fabric>,
    codec: Codec,
    sender: Sender,
    reflector: Reflector,
    asking: UdpSocket,
    answering: UdpSocket,
    /// Addresses of the two hosts' NICs, for which the loopback stands.
    nics: [Ipv6Addr; 2],
    received: Received,
    out: Outgoing,
    row: Row,
    delays: Vec<i64>,
}

impl Bench {
    fn new(size: u16) -> anyhow::Result<Bench> {
        let fabric = Arc::new(two_hosts());
        let nic = |h| fabric.nic(PlaneId(0), HostId(h), 0).context("a host without a NIC");
        let (a, b) = (nic(0)?, nic(1)?);
        let config = SenderConfig {
            // as fast as it goes: the pace is set by the answers, and being late is no stall
            stall: Nanos::from_secs(3600),
            clock: Some(wire::ClockQuality::Same),
            ..SenderConfig::new(HostId(0), 1)
        };
        let mut sender = Sender::new(fabric.clone(), config);
        let slots = (0..SLOTS)
            .filter_map(|i| Some(Slot { path: fabric.path(a, b, i % 2)?, back: None, size, class: 0 }))
            .collect();
        let plan = Plan {
            slots,
            packets_per_second: 100_000_000,
            train: 16,
            window: Nanos::from_millis(500),
            timeout: Nanos::from_secs(1),
        };
        sender.set_plan(now(), plan)?;
        let here = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let options = UdpOptions { hop_by_hop: false, ..UdpOptions::default() };
        Ok(Bench {
            codec: Codec::new(fabric.clone(), None, true),
            sender,
            reflector: Reflector::new(fabric.clone(), ReflectorConfig::default()),
            asking: UdpSocket::bind(here, options)?,
            answering: UdpSocket::bind(here, options)?,
            nics: [fabric.nic_addr(a), fabric.nic_addr(b)],
            fabric,
            received: Received::default(),
            out: Outgoing::default(),
            row: Row {
                name: "probe",
                probes_per_second: 0.0,
                probes_per_cpu_second: 0.0,
                probes: 0,
                answered: 0,
                lost: 0,
                observations: 0,
                seconds: 0.0,
                cpu_seconds: 0.0,
                forward_p50_us: 0.0,
                rss_mib: 0.0,
            },
            delays: Vec::new(),
        })
    }

    fn arrival<'a>(&self, d: &Datagram<'a>, from: usize) -> Arrival<'a> {
        Arrival {
            from: self.nics[from],
            port: d.port,
            to: self.nics[1 - from],
            at: if d.at_ns == 0 { now() } else { Nanos(d.at_ns) },
            traffic_class: d.traffic_class,
            flow_label: d.flow_label,
            hop_limit: d.hop_limit,
            hop_by_hop: d.hop_by_hop,
        }
    }

    fn route(&self, port: u16, traffic_class: u8, flow_label: u32) -> Route {
        Route {
            to: SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0),
            from: None,
            traffic_class,
            flow_label,
        }
    }

    fn run(mut self, length: Duration) -> anyhow::Result<Row> {
        let (start, cpu) = (Instant::now(), cpu_seconds()?);
        let to = self.answering.port()?;
        let mut under_way = 0usize;
        while start.elapsed() < length {
            let before = now();
            self.out.clear();
            let t1 = now();
            while under_way < IN_FLIGHT && self.out.len() < BATCH {
                let Some(p) = self.sender.poll_output(t1) else { break };
                let route = self.route(to, p.class << 2 | 2, p.flow_label);
                let codec = &self.codec;
                self.out.push(route, |buf| codec.write_probe(&p, buf));
                under_way += 1;
            }
            self.row.probes += self.out.len() as u64;
            self.asking.send(&mut self.out)?;
            self.answer()?;
            let got = self.take()?;
            under_way = under_way.saturating_sub(got);
            self.sender.handle_timeout(before);
            self.look();
            if got == 0 && under_way >= IN_FLIGHT {
                // the kernel has a batch in hand; an answer that never comes is given up by the sender
                if readable(&[self.asking.as_fd(), self.answering.as_fd()], Some(Duration::from_millis(20)))?
                    == 0
                {
                    under_way = 0;
                }
            }
        }
        let row = &mut self.row;
        row.seconds = start.elapsed().as_secs_f64();
        row.cpu_seconds = cpu_seconds()? - cpu;
        row.probes_per_second = row.answered as f64 / row.seconds;
        row.probes_per_cpu_second = row.answered as f64 / row.cpu_seconds.max(1e-9);
        row.rss_mib = rss_mib();
        self.delays.sort_unstable();
        row.forward_p50_us = self.delays.get(self.delays.len() / 2).map_or(0.0, |ns| *ns as f64 / 1e3);
        Ok(self.row)
    }

    /// The reflector's turn.
    fn answer(&mut self) -> anyhow::Result<()> {
        while self.answering.receive(&mut self.received)? > 0 {
            self.out.clear();
            for d in self.received.iter() {
                let arrival = self.arrival(&d, 0);
                let Ok(request) = self.codec.read_request(d.payload, &arrival) else { continue };
                let Ok(answer) = self.reflector.handle_input(arrival.at, &request) else { continue };
                let route = self.route(d.port, answer.traffic_class, answer.flow_label);
                let codec = &self.codec;
                self.out.push(route, |buf| codec.write_answer(d.payload, &answer, now(), d.hop_limit, buf));
            }
            self.answering.send(&mut self.out)?;
        }
        Ok(())
    }

    /// Takes in the answers. How many there were.
    fn take(&mut self) -> anyhow::Result<usize> {
        let mut all = 0;
        loop {
            let got = self.asking.receive(&mut self.received)?;
            if got == 0 {
                return Ok(all);
            }
            all += got;
            let at = now();
            for d in self.received.iter() {
                let Ok(reply) = self.codec.read_reply(d.payload, &self.arrival(&d, 1)) else { continue };
                self.row.answered += u64::from(self.sender.handle_input(at, &reply).is_ok());
            }
        }
    }

    fn look(&mut self) {
        while let Some(o) = self.sender.poll_event() {
            self.row.observations += 1;
            let Observation::Path(o) = o else { continue };
            self.row.lost += u64::from(o.lost);
            if let (PathRef::OneWay(leg), Some(d)) = (o.path, o.delay)
                && self.fabric.path_parts(leg.path).is_some_and(|(from, _, _)| from.0 == 0)
            {
                self.delays.push(d.p50_ns);
            }
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let row = Bench::new(args.size)?.run(Duration::from_secs(args.seconds))?;
    if args.json {
        out::json(&serde_json::json!({ "rows": [row] }))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>12.0} probes a second, sent, reflected and matched in one thread", row.probes_per_second);
    println!("{:>12.0} probes for each second of processor time", row.probes_per_cpu_second);
    println!("{:>12.2} s of processor time in {:.2} s", row.cpu_seconds, row.seconds);
    println!(
        "{:>12} of {} answered, {} lost, {} observations",
        row.answered, row.probes, row.lost, row.observations
    );
    println!("{:>12.1} µs from sender to reflector (median of medians)", row.forward_p50_us);
    println!("{:>12.1} MiB resident", row.rss_mib);
    Ok(ExitCode::SUCCESS)
}
