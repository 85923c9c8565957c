//! `selvedge bench receive`: flow records from UDP to durable tables, beside nfcapd and nfacctd where they are installed.
//!
//! How: each receiver gets the same datagrams in turn, IPFIX and then NetFlow v9, with a template of 18 fields as routers
//! send it, at a steady rate that leaves none behind; its processor time is that of all its processes, the kernel's work
//! for them included. A record costs what a receiver used from the first datagram until the last record is durable and
//! folded, divided by the records it stored. For the hub, sent = stored + counted losses is checked to the record.

use crate::client::Client;
use crate::out;
use anyhow::{Context, bail, ensure};
use hub::QueryView;
use indicatif::ProgressBar;
use serde_json::json;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Records a second
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    rate: u64,
    /// How long they are sent to each receiver
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// The hub alone, without its peers
    #[arg(long)]
    alone: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Ipfix,
    NetFlow9,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Ipfix => "IPFIX",
            Protocol::NetFlow9 => "NetFlow v9",
        }
    }
}

/// Information elements (RFC 5102 and its registry) and their lengths: what a router exports of an IPv4 flow.
const TEMPLATE: [(u16, u16); 18] = [
    (8, 4),   // sourceIPv4Address
    (12, 4),  // destinationIPv4Address
    (7, 2),   // sourceTransportPort
    (11, 2),  // destinationTransportPort
    (4, 1),   // protocolIdentifier
    (5, 1),   // ipClassOfService
    (6, 1),   // tcpControlBits
    (9, 1),   // sourceIPv4PrefixLength
    (13, 1),  // destinationIPv4PrefixLength
    (10, 4),  // ingressInterface
    (14, 4),  // egressInterface
    (2, 8),   // packetDeltaCount
    (1, 8),   // octetDeltaCount
    (152, 8), // flowStartMilliseconds
    (153, 8), // flowEndMilliseconds
    (16, 4),  // bgpSourceAsNumber
    (17, 4),  // bgpDestinationAsNumber
    (15, 4),  // ipNextHopIPv4Address
];
const TEMPLATE_ID: u16 = 260;
/// Of a record above.
const RECORD_BYTES: usize = 69;
/// Records of one datagram: what fits a frame of 1,500 bytes.
const RECORDS: usize = 20;
/// Where the two times of a record stand in it.
const TIMES_AT: [usize; 2] = [41, 49];
/// Different datagrams that are sent over and over, with new times and sequence numbers.
const DATAGRAMS: usize = 4_096;

/// Numbers that look like traffic: few values are frequent, many are rare. A generator of its own, so that every receiver
/// gets the same.
struct Traffic(u64);

impl Traffic {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn skewed(&mut self, n: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (unit * unit * unit * n as f64) as u64
    }
}

fn put(to: &mut Vec<u8>, value: u64, bytes: usize) {
    to.extend_from_slice(value.to_be_bytes().get(8 - bytes..).unwrap_or_default());
}

fn record(to: &mut Vec<u8>, traffic: &mut Traffic) {
    const PORTS: [u64; 7] = [443, 4791, 80, 53, 8080, 4420, 2049];
    let hosts = 65_536;
    let packets = 1 + traffic.skewed(3_000);
    for (element, bytes) in TEMPLATE {
        let value = match element {
            8 | 12 => 0x0a00_0000 + traffic.skewed(hosts),
            7 => 32_768 + traffic.below(28_000),
            11 => PORTS[traffic.skewed(7) as usize % PORTS.len()],
            4 => {
                if traffic.below(3) == 0 {
                    6
                } else {
                    17
                }
            }
            5 => traffic.skewed(4) << 3,
            6 => traffic.skewed(32),
            9 | 13 => 16 + traffic.skewed(9),
            10 | 14 => traffic.skewed(64),
            2 => packets,
            1 => packets * (64 + packets * 7_919 % 1_400),
            16 | 17 => 64_512 + traffic.skewed(500),
            15 => 0x0a01_0000 + traffic.below(64),
            // the times are written when it is sent
            _ => 0,
        };
        put(to, value, bytes.into());
    }
}

/// A template as its own set.
fn template_set(protocol: Protocol) -> Vec<u8> {
    let mut set = Vec::new();
    put(&mut set, if protocol == Protocol::Ipfix { 2 } else { 0 }, 2);
    put(&mut set, 8 + 4 * TEMPLATE.len() as u64, 2);
    put(&mut set, TEMPLATE_ID.into(), 2);
    put(&mut set, TEMPLATE.len() as u64, 2);
    for (element, bytes) in TEMPLATE {
        put(&mut set, element.into(), 2);
        put(&mut set, bytes.into(), 2);
    }
    set
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

struct Exporter {
    protocol: Protocol,
    socket: UdpSocket,
    /// Data sets, headers left out.
    sets: Vec<Vec<u8>>,
    datagram: Vec<u8>,
    records: u64,
    datagrams: u64,
}

impl Exporter {
    fn new(protocol: Protocol, port: u16) -> anyhow::Result<Exporter> {
        let mut traffic = Traffic(88_172_645_463_325_252);
        let sets = (0..DATAGRAMS).map(|_| {
            let mut set = Vec::with_capacity(4 + RECORDS * RECORD_BYTES);
            put(&mut set, TEMPLATE_ID.into(), 2);
            put(&mut set, (4 + RECORDS * RECORD_BYTES) as u64, 2);
            for _ in 0..RECORDS {
                record(&mut set, &mut traffic);
            }
            set
        });
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        Ok(Exporter {
            protocol,
            socket,
            sets: sets.collect(),
            datagram: Vec::new(),
            records: 0,
            datagrams: 0,
        })
    }

    fn header(&mut self, sets_bytes: usize, count: u64, now_ms: u64) {
        let h = &mut self.datagram;
        match self.protocol {
            // RFC 7011, 3.1
            Protocol::Ipfix => {
                put(h, 10, 2);
                put(h, (16 + sets_bytes) as u64, 2);
                put(h, now_ms / 1_000, 4);
                put(h, self.records & 0xffff_ffff, 4);
            }
            // RFC 3954, 5.1
            Protocol::NetFlow9 => {
                put(h, 9, 2);
                put(h, count, 2);
                put(h, 3_600_000, 4);
                put(h, now_ms / 1_000, 4);
                put(h, self.datagrams & 0xffff_ffff, 4);
            }
        }
        put(h, 7, 4);
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let now = now_ms();
        let with_template = self.datagrams.is_multiple_of(2_000);
        let template = if with_template { template_set(self.protocol) } else { Vec::new() };
        self.datagram.clear();
        let data = 4 + RECORDS * RECORD_BYTES;
        self.header(template.len() + data, RECORDS as u64 + u64::from(with_template), now);
        self.datagram.extend_from_slice(&template);
        let at = self.datagram.len() + 4;
        let set = self.sets.get(self.datagrams as usize % DATAGRAMS).context("no datagram to send")?;
        self.datagram.extend_from_slice(set);
        for i in 0..RECORDS {
            let began = now - 1_000 - (i as u64 * 37) % 900;
            for (offset, time) in TIMES_AT.into_iter().zip([began, now - 100]) {
                let place =
                    self.datagram.get_mut(at + i * RECORD_BYTES + offset..).and_then(|p| p.get_mut(..8));
                place.context("a record is too short")?.copy_from_slice(&time.to_be_bytes());
            }
        }
        self.socket.send(&self.datagram)?;
        self.records += RECORDS as u64;
        self.datagrams += 1;
        Ok(())
    }

    /// Sends at a steady rate; how many records left.
    fn run(&mut self, rate: u64, span: Duration, mut each: impl FnMut(u64)) -> anyhow::Result<u64> {
        let begun = Instant::now();
        let mut shown = begun;
        while begun.elapsed() < span {
            let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
            if self.records >= due {
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            for _ in 0..64 {
                if self.records < due {
                    self.send()?;
                }
            }
            if shown.elapsed() > Duration::from_millis(200) {
                shown = Instant::now();
                each(self.records);
            }
        }
        Ok(self.records)
    }
}

/// A receiver in processes of its own.
struct Receiver {
    name: &'static str,
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor seconds of a process and those it started, which are of its group.
fn cpu_s(group: u32) -> f64 {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(rest) = stat.rsplit(')').next() else { continue };
        let fields: Vec<u64> = rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        if fields.get(2) == Some(&u64::from(group)) {
            // its own, and that of children that have ended
            ticks += fields.get(11..15).map_or(0, |t| t.iter().sum::<u64>());
        }
    }
    ticks as f64 / 100.0
}

fn free_port() -> anyhow::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn spawn(name: &'static str, dir: &Path, port: u16, command: &mut Command) -> anyhow::Result<Receiver> {
    let log = std::fs::File::create(dir.join(format!("{name}.log")))?;
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().with_context(|| format!("{name} does not start"))?;
    Ok(Receiver { name, child, port, dir: dir.to_owned() })
}

fn hub(dir: &Path) -> anyhow::Result<(Receiver, String)> {
    let fabric =
        "name = \"receive\"\n[fabric]\nname = \"receive\"\nplanes = 1\nleaves = 2\nspines = 2\nhosts = 4\n";
    std::fs::write(dir.join("fabric.toml"), fabric)?;
    super::super::cert::all(dir, &[])?;
    let port = free_port()?;
    std::fs::write(dir.join("receivers.toml"), format!("[flows]\nlisten = [\"127.0.0.1:{port}\"]\n"))?;
    let ready = dir.join("ready.json");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hub").arg("--fabric").arg(dir.join("fabric.toml")).arg("--data").arg(dir.join("data"));
    command
        .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--receivers")
        .arg(dir.join("receivers.toml"));
    command.arg("--cert").arg(dir.join("hub.pem")).arg("--key").arg(dir.join("hub.key"));
    command.arg("--ca").arg(dir.join("ca.pem")).arg("--ready-file").arg(&ready);
    let mut receiver = spawn("selvedge", dir, port, &mut command)?;
    let begun = Instant::now();
    while !ready.exists() {
        if let Some(status) = receiver.child.try_wait()? {
            bail!("the hub ended ({status}); see {}", dir.join("selvedge.log").display());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the hub does not serve within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&ready)?)?;
    let http = said.get("http").and_then(|h| h.as_str()).context("the hub does not say where it answers")?;
    Ok((receiver, format!("http://{http}")))
}

fn nfcapd(dir: &Path) -> anyhow::Result<Receiver> {
    let (port, to) = (free_port()?, dir.join("nfcapd"));
    std::fs::create_dir_all(&to)?;
    let mut command = Command::new("nfcapd");
    command
        .args(["-b", "127.0.0.1", "-B", "33554432", "-t", "86400", "-p"])
        .arg(port.to_string())
        .arg("-w")
        .arg(&to);
    spawn("nfcapd", dir, port, &mut command)
}

fn nfacctd(dir: &Path) -> anyhow::Result<Receiver> {
    let port = free_port()?;
    let config = dir.join("nfacctd.conf");
    let to = dir.join("nfacctd.csv");
    std::fs::write(
        &config,
        format!(
            "daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {port}\nnfacctd_pipe_size: 33554432\n\
             plugins: print[p]\naggregate[p]: src_host,dst_host,src_port,dst_port,proto,tos,in_iface,out_iface,src_as\n\
             print_output[p]: csv\nprint_output_file[p]: {}\nprint_refresh_time[p]: 10\nprint_cache_entries[p]: 999983\n\
             plugin_buffer_size: 1048576\nplugin_pipe_size: 268435456\n",
            to.display()
        ),
    )?;
    let mut command = Command::new("nfacctd");
    command.arg("-f").arg(&config);
    spawn("nfacctd", dir, port, &mut command)
}

/// What one receiver did.
struct Outcome {
    name: &'static str,
    sent: u64,
    /// Records it says it has; `None` where it does not say.
    stored: Option<u64>,
    /// Records it counted as lost.
    lost: u64,
    cpu_s: f64,
    bytes: u64,
}

impl Outcome {
    fn per_cpu_s(&self) -> f64 {
        self.stored.unwrap_or(self.sent) as f64 / self.cpu_s.max(1e-9)
    }
}

fn bytes_under(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return std::fs::metadata(path).map_or(0, |m| m.len()) };
    entries.flatten().map(|e| bytes_under(&e.path())).sum()
}

/// Waits until a receiver is quiet: it has used no processor time to speak of for a second.
fn settle(receiver: &Receiver) {
    let begun = Instant::now();
    let mut last = cpu_s(receiver.child.id());
    while begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_secs(1));
        let now = cpu_s(receiver.child.id());
        if now - last < 0.03 {
            return;
        }
        last = now;
    }
}

fn to_hub(protocol: Protocol, args: &Args, dir: &Path, bar: &ProgressBar) -> anyhow::Result<Outcome> {
    let (receiver, url) = hub(dir)?;
    let client = Client::at(&url)?;
    let number = |sql: &str| -> anyhow::Result<u64> {
        let view: QueryView = client.post("/api/v1/query", &json!({ "sql": sql, "limit": 10 }))?;
        let value = view.rows.first().and_then(|r| r.get(0)).cloned().unwrap_or_default();
        Ok(value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0))
    };
    settle(&receiver);
    let before = cpu_s(receiver.child.id());
    let sent =
        Exporter::new(protocol, receiver.port)?
            .run(args.rate, Duration::from_secs(args.seconds), |n| show(bar, &receiver, protocol, n))?;
    bar.set_message(format!("{}: {sent} records sent, waiting until they are in the tables", receiver.name));
    // A fold is due every 15 s: what it costs is of the price.
    std::thread::sleep(Duration::from_secs(16));
    settle(&receiver);
    let cpu = cpu_s(receiver.child.id()) - before;
    let stored = number("select count(*) from flow")?;
    let lost = number("select coalesce(sum(rows), 0) from loss_ledger where stage = 'receive'")?;
    let bytes = bytes_under(&dir.join("data/tables/flow"));
    Ok(Outcome { name: "selvedge", sent, stored: Some(stored), lost, cpu_s: cpu, bytes })
}

fn show(bar: &ProgressBar, receiver: &Receiver, protocol: Protocol, n: u64) {
    bar.set_message(format!("{}: {n} {} records sent", receiver.name, protocol.name()));
    bar.tick();
}

fn to_peer(
    receiver: Receiver,
    protocol: Protocol,
    args: &Args,
    bar: &ProgressBar,
    stored: impl FnOnce(&Path) -> anyhow::Result<Option<u64>>,
) -> anyhow::Result<Outcome> {
    std::thread::sleep(Duration::from_secs(1));
    let before = cpu_s(receiver.child.id());
    let sent =
        Exporter::new(protocol, receiver.port)?
            .run(args.rate, Duration::from_secs(args.seconds), |n| show(bar, &receiver, protocol, n))?;
    settle(&receiver);
    // What it does when it stops is of the price: it writes what it holds.
    let group = receiver.child.id();
    let cpu = cpu_s(group) - before;
    let mut receiver = receiver;
    let _ = Command::new("kill").arg(group.to_string()).status();
    let begun = Instant::now();
    while receiver.child.try_wait()?.is_none() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (name, dir) = (receiver.name, receiver.dir.clone());
    let bytes = bytes_under(&dir.join(name)) + bytes_under(&dir.join(format!("{name}.csv")));
    Ok(Outcome { name, sent, stored: stored(&dir)?, lost: 0, cpu_s: cpu, bytes })
}

/// Flow records in nfcapd's files, by nfdump's own account.
fn nfdump_count(dir: &Path) -> anyhow::Result<Option<u64>> {
    let done = Command::new("nfdump").arg("-R").arg(dir.join("nfcapd")).arg("-I").output()?;
    let text = String::from_utf8_lossy(&done.stdout);
    let flows = text.lines().find_map(|l| l.strip_prefix("Flows:")).and_then(|n| n.trim().parse().ok());
    Ok(flows)
}

fn installed(command: &str) -> bool {
    let found = Command::new(command).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("skip: {command} is not installed (Debian: nfdump, pmacct), no figures beside it");
    }
    found.is_ok()
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let top = std::env::temp_dir().join(format!("selvedge-receive-{}", std::process::id()));
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let mut all = Vec::new();
    for protocol in [Protocol::Ipfix, Protocol::NetFlow9] {
        let mut of = |what: &str, go: &dyn Fn(&Path) -> anyhow::Result<Outcome>| -> anyhow::Result<()> {
            let dir = top.join(what);
            std::fs::create_dir_all(&dir)?;
            let outcome = go(&dir);
            let _ = std::fs::remove_dir_all(&dir);
            all.push((protocol, outcome?));
            Ok(())
        };
        let measured = (|| -> anyhow::Result<()> {
            of("selvedge", &|dir| to_hub(protocol, &args, dir, &bar))?;
            if !args.alone && installed("nfcapd") {
                of("nfcapd", &|dir| to_peer(nfcapd(dir)?, protocol, &args, &bar, nfdump_count))?;
            }
            if !args.alone && installed("nfacctd") {
                of("nfacctd", &|dir| to_peer(nfacctd(dir)?, protocol, &args, &bar, |_| Ok(None)))?;
            }
            Ok(())
        })();
        if let Err(e) = measured {
            let _ = std::fs::remove_dir_all(&top);
            return Err(e);
        }
    }
    let _ = std::fs::remove_dir_all(&top);
    bar.finish_and_clear();
    let exact = all
        .iter()
        .filter(|(_, o)| o.name == "selvedge")
        .all(|(_, o)| o.stored.unwrap_or(0) + o.lost == o.sent);
    if args.json {
        let rows = all.iter().map(|(p, o)| {
            json!({ "protocol": p.name(), "receiver": o.name, "sent": o.sent, "stored": o.stored, "lost_and_counted": o.lost,
                "cpu_s": o.cpu_s, "records_per_cpu_s": o.per_cpu_s(), "bytes_on_disk": o.bytes })
        });
        out::json(&json!({ "rate": args.rate, "seconds": args.seconds, "sent_is_stored_and_lost": exact,
            "receivers": rows.collect::<Vec<_>>() }))?;
    } else {
        println!("{} records a second for {} s, 18 fields, one exporter", args.rate, args.seconds);
        println!(
            "{:<11} {:<9} {:>11} {:>11} {:>9} {:>8} {:>14} {:>9}",
            "protocol", "receiver", "sent", "stored", "lost", "CPU s", "records/CPU s", "B/record"
        );
        for (p, o) in &all {
            let stored = o.stored.map_or("not said".to_owned(), |n| n.to_string());
            println!(
                "{:<11} {:<9} {:>11} {:>11} {:>9} {:>8.2} {:>14.0} {:>9.1}",
                p.name(),
                o.name,
                o.sent,
                stored,
                o.lost,
                o.cpu_s,
                o.per_cpu_s(),
                o.bytes as f64 / o.stored.unwrap_or(o.sent).max(1) as f64
            );
        }
        println!("sent = stored + counted losses: {exact}");
    }
    Ok(if exact { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}
