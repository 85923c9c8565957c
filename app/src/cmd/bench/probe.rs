//! `selvedge bench probe`: the real machines, the real bytes and the real sockets, in one thread.
//!
//! How: a sender with 64 slots and a reflector share a thread; a batch of probes goes through the kernel to the
//! reflector's socket, and its answers come back, before the next batch leaves. Everything an agent does for a probe is
//! done: sequence numbers, time stamps of the kernel, TLVs, matching, windows, observations. The loopback stands for
//! both hosts' NICs, so what is missing is the encapsulation.
//!
//! Two rows: every probe a packet of its own, as an agent sends them, and trains carried together by the kernel
//! (UDP_SEGMENT and UDP_GRO), which shows what is left when the kernel's cost of a packet is shared.

use crate::out;
use anyhow::Context;
use comfy_table::{Table, presets};
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
/// Probes of a train, and of a burst where the kernel carries them together.
const TRAIN: u32 = 16;
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
    /// Whether the kernel carries equal packets together.
    together: bool,
    size: u16,
    /// Datagrams gathered for one such packet.
    burst: Vec<u8>,
    out: Outgoing,
    row: Row,
    delays: Vec<i64>,
}

impl Bench {
    fn new(size: u16, together: bool) -> anyhow::Result<Bench> {
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
            train: TRAIN,
            window: Nanos::from_millis(500),
            timeout: Nanos::from_secs(1),
        };
        sender.set_plan(now(), plan)?;
        let here = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let options = UdpOptions { hop_by_hop: false, ..UdpOptions::default() };
        let (asking, answering) = (UdpSocket::bind(here, options)?, UdpSocket::bind(here, options)?);
        if together {
            asking.coalesce()?;
            answering.coalesce()?;
        }
        Ok(Bench {
            codec: Codec::new(fabric.clone(), None, true),
            sender,
            reflector: Reflector::new(fabric.clone(), ReflectorConfig::default()),
            asking,
            answering,
            together,
            burst: Vec::new(),
            size,
            nics: [fabric.nic_addr(a), fabric.nic_addr(b)],
            fabric,
            out: Outgoing::default(),
            row: Row {
                name: if together { "probe-offload" } else { "probe" },
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
        let mut received = Received::new(usize::from(self.size) * TRAIN as usize);
        let (start, cpu) = (Instant::now(), cpu_seconds()?);
        let to = self.answering.port()?;
        let mut under_way = 0usize;
        while start.elapsed() < length {
            let before = now();
            self.out.clear();
            let t1 = now();
            let mut last = None;
            for _ in 0..BATCH {
                if under_way >= IN_FLIGHT {
                    break;
                }
                let Some(p) = self.sender.poll_output(t1) else { break };
                let route = self.route(to, p.class << 2 | 2, p.flow_label);
                self.gather(&mut last, route, |codec, buf| codec.write_probe(&p, buf));
                under_way += 1;
                self.row.probes += 1;
            }
            self.flush(&mut last);
            self.asking.send(&mut self.out)?;
            self.answer(&mut received)?;
            let got = self.take(&mut received)?;
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
    fn answer(&mut self, received: &mut Received) -> anyhow::Result<()> {
        while self.answering.receive(received)? > 0 {
            self.out.clear();
            let mut last = None;
            for d in received.iter() {
                let arrival = self.arrival(&d, 0);
                let Ok(request) = self.codec.read_request(d.payload, &arrival) else { continue };
                let Ok(answer) = self.reflector.handle_input(arrival.at, &request) else { continue };
                let route = self.route(d.port, answer.traffic_class, answer.flow_label);
                self.gather(&mut last, route, |codec, buf| {
                    codec.write_answer(d.payload, &answer, now(), d.hop_limit, buf);
                });
            }
            self.flush(&mut last);
            self.answering.send(&mut self.out)?;
        }
        Ok(())
    }

    /// Adds a packet to send: by itself, or to the burst of those before it that go the same way.
    fn gather(
        &mut self,
        last: &mut Option<(Route, usize)>,
        route: Route,
        write: impl FnOnce(&Codec, &mut Vec<u8>),
    ) {
        if !self.together {
            let codec = &self.codec;
            return self.out.push(route, |buf| write(codec, buf));
        }
        let full =
            last.is_some_and(|(r, segment)| r != route || self.burst.len() >= segment * TRAIN as usize);
        if full {
            self.flush(last);
        }
        write(&self.codec, &mut self.burst);
        last.get_or_insert((route, self.burst.len()));
    }

    /// Ends the burst.
    fn flush(&mut self, last: &mut Option<(Route, usize)>) {
        if let Some((route, segment)) = last.take() {
            let burst = &self.burst;
            self.out.push_segments(route, segment as u16, |buf| buf.extend_from_slice(burst));
            self.burst.clear();
        }
    }

    /// Takes in the answers. How many there were.
    fn take(&mut self, received: &mut Received) -> anyhow::Result<usize> {
        let mut all = 0;
        loop {
            if self.asking.receive(received)? == 0 {
                return Ok(all);
            }
            let at = now();
            for d in received.iter() {
                all += 1;
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
    let length = Duration::from_secs(args.seconds);
    let mut rows = vec![Bench::new(args.size, false)?.run(length)?];
    // not every kernel carries datagrams together (Linux 5.0); the row is then missing
    match Bench::new(args.size, true).and_then(|b| b.run(length)) {
        Ok(row) => rows.push(row),
        Err(e) => eprintln!("no row for bursts: {e}"),
    }
    if args.json {
        out::json(&serde_json::json!({ "rows": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "",
        "Probes/s",
        "Probes per CPU second",
        "CPU s",
        "Answered",
        "Lost",
        "There, µs",
        "RSS, MiB",
    ]);
    for r in &rows {
        table.add_row([
            if r.name == "probe" { "every probe a packet" } else { "trains of 16 together" }.to_string(),
            format!("{:.0}", r.probes_per_second),
            format!("{:.0}", r.probes_per_cpu_second),
            format!("{:.2} of {:.2}", r.cpu_seconds, r.seconds),
            format!("{} of {}", r.answered, r.probes),
            r.lost.to_string(),
            format!("{:.1}", r.forward_p50_us),
            format!("{:.1}", r.rss_mib),
        ]);
    }
    println!("Sent, reflected and matched in one thread, over the loopback:");
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
