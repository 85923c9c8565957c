//! `selvedge bench agent`: what the sensors cost the traffic of a host.
//!
//! How: two network namespaces on one cable, and the real `selvedge sensors` in a process of its own, watched for both as
//! agents watch. Off and on take turns in one run, so that whatever else this machine does hits both alike; each turn
//! measures a saturated connection, the round trips of small messages, and short connections one after the other. What is
//! told is the median over all turns of one turn on against the turn off just before it.

use crate::out;
use agent::sensors::client::Client;
use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use kernel::link::{self, End};
use kernel::netlink::{Batch, Netlink};
use kernel::netns::{self, Netns};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be lost by the sensors: throughput, 99th percentile of a round trip, short connections; memory and idle time.
const THROUGHPUT_LOSS_MAX: f64 = 0.01;
const LATENCY_GAIN_MAX: f64 = 0.02;
const CONNECTIONS_LOSS_MAX: f64 = 0.03;
const MEMORY_MAX: u64 = 40 << 20;
const IDLE_MAX: f64 = 0.005;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Turns off and on
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    turns: u32,
    /// Milliseconds each of the three is measured in a turn
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    millis: u64,
    /// Which sensors, such as tcp,drops
    #[arg(long, value_name = "LIST", default_value = "all")]
    sensors: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Two namespaces on one cable, gone with this.
struct Cable {
    names: [String; 2],
}

const ADDRESSES: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x5e1, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x5e1, 0, 0, 0, 0, 0, 2)];

impl Cable {
    fn lay() -> anyhow::Result<Cable> {
        let names = ["a", "b"].map(|side| format!("bench-agent-{}-{side}", std::process::id()));
        let cable = Cable { names };
        let spaces = [netns::create(&cable.names[0])?, netns::create(&cable.names[1])?];
        let mut batch = Batch::new();
        let [a, b] = &spaces;
        fn end(space: &Netns, last: u8) -> End<'_> {
            End { netns: space.as_fd(), name: "eth0", index: 2, mac: [2, 0x5e, 1, 0, 0, last] }
        }
        link::veth(&mut batch, end(a, 1), end(b, 2), 1_500)?;
        Netlink::route()?.apply(batch)?;
        for ((space, own), other) in spaces.iter().zip([0, 1]).zip([1, 0]) {
            space.run(|| -> kernel::Result<()> {
                let mut socket = Netlink::route()?;
                let index = link::index_of("eth0")?;
                let mut batch = Batch::new();
                link::set_up(&mut batch, link::index_of("lo")?, true);
                link::set_up(&mut batch, index, true);
                link::address(&mut batch, index, ADDRESSES[own], 64);
                link::neighbour(&mut batch, index, ADDRESSES[other], [2, 0x5e, 1, 0, 0, other as u8 + 1]);
                socket.apply(batch)
            })??;
        }
        Ok(cable)
    }

    fn inside(&self, side: usize) -> anyhow::Result<Netns> {
        Ok(Netns::open(&self.names[side])?)
    }

    /// A listener at one side, and where the other side reaches it.
    fn listener(&self) -> anyhow::Result<(TcpListener, SocketAddr)> {
        let at = SocketAddr::from((ADDRESSES[1], 0));
        let listener = self.inside(1)?.run(|| TcpListener::bind(at))??;
        let at = listener.local_addr()?;
        Ok((listener, at))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = netns::delete(name);
        }
    }
}

/// Bytes a second of one saturated connection.
fn throughput(cable: &Cable, span: Duration) -> anyhow::Result<f64> {
    let (listener, at) = cable.listener()?;
    let mut out = cable.inside(0)?.run(|| TcpStream::connect(at))??;
    let (mut into, _) = listener.accept()?;
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let taker = std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 18];
        while let Ok(n @ 1..) = into.read(&mut buf) {
            counted.fetch_add(n as u64, Relaxed);
        }
    });
    let piece = vec![7; 1 << 18];
    // The first moments are the window's growth.
    let warm = Instant::now();
    while warm.elapsed() < span / 5 {
        out.write_all(&piece)?;
    }
    let (begun, before) = (Instant::now(), taken.load(Relaxed));
    while begun.elapsed() < span {
        out.write_all(&piece)?;
    }
    let rate = (taken.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    drop(out);
    let _ = taker.join();
    Ok(rate)
}

/// 99th percentile of the round trip of 64 bytes, seconds.
fn latency(cable: &Cable, span: Duration) -> anyhow::Result<f64> {
    let (listener, at) = cable.listener()?;
    let mut out = cable.inside(0)?.run(|| TcpStream::connect(at))??;
    let (mut into, _) = listener.accept()?;
    out.set_nodelay(true)?;
    into.set_nodelay(true)?;
    let answerer = std::thread::spawn(move || {
        let mut buf = [0; 64];
        while into.read_exact(&mut buf).is_ok() && into.write_all(&buf).is_ok() {}
    });
    let mut times = Vec::with_capacity(1 << 17);
    let (begun, mut buf) = (Instant::now(), [1; 64]);
    while begun.elapsed() < span {
        let sent = Instant::now();
        out.write_all(&buf)?;
        out.read_exact(&mut buf)?;
        times.push(sent.elapsed());
    }
    drop(out);
    let _ = answerer.join();
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).context("no round trip")?;
    Ok(p99.as_secs_f64())
}

/// Connections a second that are opened, told one byte, and closed, one after the other.
fn connections(cable: &Cable, span: Duration) -> anyhow::Result<f64> {
    let (listener, at) = cable.listener()?;
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    let taker = std::thread::spawn(move || {
        let mut buf = [0; 8];
        while let Ok((mut s, _)) = listener.accept() {
            let _ = s.read(&mut buf);
            // Reset, so that no port waits out its time: a bench must not run out of them.
            let _ = socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO));
            if ends.load(Relaxed) {
                return;
            }
        }
    });
    let inside = cable.inside(0)?;
    let begun = Instant::now();
    let made = inside.run(|| -> std::io::Result<u64> {
        let mut n = 0;
        while begun.elapsed() < span {
            let mut s = TcpStream::connect(at)?;
            s.write_all(&[1])?;
            socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO))?;
            n += 1;
        }
        Ok(n)
    })??;
    let rate = made as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Relaxed);
    let _ = inside.run(|| TcpStream::connect(at))?;
    let _ = taker.join();
    Ok(rate)
}

/// The sensors' process and who watches both namespaces, as two agents would.
struct On {
    child: Child,
    clients: Vec<Client>,
    socket: PathBuf,
}

impl Drop for On {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// What sensors said they cost: the largest told, by name.
type Costs = Arc<Mutex<BTreeMap<String, u64>>>;

fn switch_on(cable: &Cable, dir: &Path, sensors: &str) -> anyhow::Result<On> {
    let (socket, ready) = (dir.join("sensors.sock"), dir.join("ready.json"));
    let _ = std::fs::remove_file(&ready);
    let log = std::fs::File::create(dir.join("sensors.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sensors").arg("--socket").arg(&socket).arg("--ready-file").arg(&ready);
    command.arg("--sensors").arg(sensors);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    let begun = Instant::now();
    while !ready.exists() {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("the sensors ended ({status}); see {}", dir.join("sensors.log").display());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the sensors do not begin within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    let clients = cable.names.iter().map(|n| Client::start(socket.clone(), Some(n.clone())));
    let clients: std::io::Result<Vec<Client>> = clients.collect();
    Ok(On { child, clients: clients?, socket })
}

impl On {
    fn take(&self, costs: &Costs) {
        for reading in self.clients.iter().flat_map(Client::take) {
            let rows = reading.sensors.as_ref().map(wire::sensor::sensors);
            let Some(Ok(rows)) = rows else { continue };
            let mut costs = costs.lock().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                let most = costs.entry(row.sensor).or_default();
                *most = (*most).max(row.cost_us);
            }
        }
    }
}

/// Resident bytes and processor seconds of a process.
fn usage(pid: u32) -> Option<(u64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    Some((pages * 4_096, ticks as f64 / 100.0))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(0.0)
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(kernel::process::is_root(), "it makes network namespaces and loads programs: run it as root");
    let dir = std::env::temp_dir().join(format!("selvedge-bench-agent-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = measure(&args, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn measure(args: &Args, dir: &Path) -> anyhow::Result<ExitCode> {
    let cable = Cable::lay()?;
    let span = Duration::from_millis(args.millis);
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let costs = Costs::default();
    let mut all: [Vec<(f64, f64)>; 3] = Default::default();
    let one = |what: usize| match what {
        0 => throughput(&cable, span),
        1 => latency(&cable, span),
        _ => connections(&cable, span),
    };
    for turn in 0..args.turns {
        bar.set_message(format!("turn {} of {}", turn + 1, args.turns));
        for (what, all) in all.iter_mut().enumerate() {
            bar.tick();
            // Which comes first changes, so that nothing that drifts favours one.
            let (off, on);
            if turn % 2 == 0 {
                off = one(what)?;
                let sensors = switch_on(&cable, dir, &args.sensors)?;
                on = one(what)?;
                sensors.take(&costs);
            } else {
                let sensors = switch_on(&cable, dir, &args.sensors)?;
                on = one(what)?;
                sensors.take(&costs);
                drop(sensors);
                off = one(what)?;
            }
            all.push((off, on));
        }
    }
    let sensors = switch_on(&cable, dir, &args.sensors)?;
    let pid = sensors.child.id();
    std::thread::sleep(Duration::from_secs(2));
    let before = usage(pid).context("the sensors are gone")?;
    bar.set_message("idle for ten seconds");
    let idle = Instant::now();
    while idle.elapsed() < Duration::from_secs(10) {
        bar.tick();
        std::thread::sleep(Duration::from_millis(200));
    }
    let after = usage(pid).context("the sensors are gone")?;
    let idle_share = (after.1 - before.1) / idle.elapsed().as_secs_f64();
    drop(sensors);
    bar.finish_and_clear();
    let [speed, p99, short] = all.map(|pairs| {
        let ratio = median(pairs.iter().map(|(off, on)| on / off).collect());
        let (off, on): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        (median(off), median(on), ratio)
    });
    let costs = costs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let well = 1.0 - speed.2 <= THROUGHPUT_LOSS_MAX
        && p99.2 - 1.0 <= LATENCY_GAIN_MAX
        && 1.0 - short.2 <= CONNECTIONS_LOSS_MAX
        && after.0 <= MEMORY_MAX
        && idle_share <= IDLE_MAX;
    if args.json {
        out::json(&json!({
            "turns": args.turns, "millis": args.millis,
            "throughput_bps": { "off": speed.0 * 8.0, "on": speed.1 * 8.0, "ratio": speed.2 },
            "p99_s": { "off": p99.0, "on": p99.1, "ratio": p99.2 },
            "connections_per_s": { "off": short.0, "on": short.1, "ratio": short.2 },
            "resident_bytes": after.0, "idle_share_of_a_core": idle_share, "cost_us_per_s_max": costs, "within_limits": well,
        }))?;
    } else {
        println!(
            "{} turns off and on, {} ms each; on against off is the median of the turns' ratios",
            args.turns, args.millis
        );
        println!(
            "one saturated connection: {:.2} Gbit/s off, {:.2} on: {:+.2} %  (limit -{:.0} %)",
            speed.0 * 8e-9,
            speed.1 * 8e-9,
            (speed.2 - 1.0) * 100.0,
            THROUGHPUT_LOSS_MAX * 100.0
        );
        println!(
            "p99 of a round trip: {:.1} µs off, {:.1} on: {:+.2} %  (limit +{:.0} %)",
            p99.0 * 1e6,
            p99.1 * 1e6,
            (p99.2 - 1.0) * 100.0,
            LATENCY_GAIN_MAX * 100.0
        );
        println!(
            "short connections: {:.0} a second off, {:.0} on: {:+.2} %  (limit -{:.0} %)",
            short.0,
            short.1,
            (short.2 - 1.0) * 100.0,
            CONNECTIONS_LOSS_MAX * 100.0
        );
        println!(
            "the process: {:.1} MiB resident (limit {}), {:.2} % of a core idle (limit {:.1} %)",
            after.0 as f64 / 1_048_576.0,
            MEMORY_MAX >> 20,
            idle_share * 100.0,
            IDLE_MAX * 100.0
        );
        for (sensor, cost) in &costs {
            println!("  {sensor}: at most {cost} µs of a processor a second");
        }
        println!("within its limits: {well}");
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}
