//! `selvedge bench connections`: what thousands of connections between two endpoints cost: to make, to keep, to use.
//!
//! How: both endpoints are in this process, on the loopback, so that memory is that of both ends and is halved. It is what
//! the system says this process holds, after a first hundred connections that everything shared was made for. Idle means
//! that nobody does anything for a while; then every connection carries a message each way, and whatever it needs for that
//! is made.
//!
//! Absent on purpose: other transports.

use super::ends::{self, End};
use crate::out;
use anyhow::{Context, ensure};
use comfy_table::{Table, presets};
use endpoint::Connection;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use kernel::process::cpu_ns;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Connections before memory is counted.
const FIRST: usize = 100;
/// Handshakes at once: fewer than an endpoint lets in.
const AT_ONCE: usize = 64;
/// What sat in caches of handshakes is let go after so long.
const SETTLE: Duration = Duration::from_secs(12);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    count: u32,
    /// Seconds of doing nothing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    idle_seconds: u64,
    /// Bytes of each message
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    bytes: u64,
    #[command(flatten)]
    ends: ends::Args,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Figures {
    connections: u64,
    handshakes_per_s: f64,
    /// Both ends.
    handshake_cpu_us: f64,
    /// Of one connection at one end.
    idle_bytes: u64,
    /// Likewise, after a message each way.
    used_bytes: u64,
    /// All connections, both ends, of a processor.
    idle_cpu_share: f64,
    /// All connections, a message each way.
    round_s: f64,
    round_cpu_us_a_message: f64,
    messages: u64,
}

/// Bytes of memory this process holds.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("the system says no VmRSS")?;
    let kib = line.split_whitespace().next().context("VmRSS has no number")?;
    Ok(kib.parse::<u64>()? << 10)
}

async fn connect(ends: &[End; 2], count: usize) -> anyhow::Result<Vec<(Connection, Connection)>> {
    let [a, b] = ends;
    let connecting = stream::iter(0..count)
        .map(|_| async { anyhow::Ok(a.endpoint.connect(b.member.addr, &b.member.name).await?) })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>();
    let accepting = async {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(b.endpoint.accept().await?);
        }
        anyhow::Ok(all)
    };
    let (clients, servers) = tokio::try_join!(connecting, accepting)?;
    Ok(clients.into_iter().zip(servers).collect())
}

/// A message each way on every connection, all at once. Which is whose other end does not matter: all are used.
async fn round(all: &[(Connection, Connection)], payload: &[u8]) -> anyhow::Result<()> {
    let one = async |from: &Connection| -> anyhow::Result<()> {
        from.send(1, payload.to_vec()).await?;
        let got = from.receive(1).await?;
        ensure!(got == payload, "{} bytes came, of {}, or others", got.len(), payload.len());
        Ok(())
    };
    let jobs = all.iter().map(|(a, b)| async { tokio::try_join!(one(a), one(b)).map(drop) });
    // all at once: each waits for its other end
    try_join_all(jobs).await.map(drop)
}

async fn measure(args: &Args) -> anyhow::Result<Figures> {
    let count = args.count as usize;
    let ends = ends::open(&args.ends, 2)?;
    let ends: [End; 2] = ends
        .try_into()
        .map_err(|e: Vec<_>| anyhow::anyhow!("two hosts are needed, {} were named", e.len()))?;
    let payload: Vec<u8> = (0..args.bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let first = connect(&ends, FIRST).await?;
    round(&first, &payload).await?;
    let (before, cpu, begin) = (resident()?, cpu_ns(), Instant::now());
    let all = connect(&ends, count).await?;
    let (handshake_s, handshake_cpu) = (begin.elapsed().as_secs_f64(), cpu_ns() - cpu);
    tokio::time::sleep(SETTLE).await;
    let idle = resident()?.saturating_sub(before);
    let cpu = cpu_ns();
    tokio::time::sleep(Duration::from_secs(args.idle_seconds)).await;
    let idle_cpu = cpu_ns() - cpu;
    let (cpu, begin) = (cpu_ns(), Instant::now());
    round(&all, &payload).await?;
    let (round_s, round_cpu) = (begin.elapsed().as_secs_f64(), cpu_ns() - cpu);
    let used = resident()?.saturating_sub(before);
    let [a, b] = [&ends[0].endpoint, &ends[1].endpoint];
    let (a, b) = tokio::try_join!(a.counters(), b.counters())?;
    let opened = (FIRST + count) as u64;
    ensure!(
        (a.opened, b.opened, a.forgotten, b.forgotten) == (opened, opened, 0, 0),
        "some connections are gone: {a:?} {b:?}"
    );
    Ok(Figures {
        connections: count as u64,
        handshakes_per_s: count as f64 / handshake_s,
        handshake_cpu_us: handshake_cpu as f64 / 1e3 / count as f64,
        idle_bytes: idle / (2 * count as u64),
        used_bytes: used / (2 * count as u64),
        idle_cpu_share: idle_cpu as f64 / 1e9 / args.idle_seconds as f64,
        round_s,
        round_cpu_us_a_message: round_cpu as f64 / 1e3 / (2 * count) as f64,
        messages: 2 * count as u64,
    })
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let f = ends::runtime()?.block_on(measure(&args))?;
    if args.json {
        out::json(&f)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let rows = [
        ("Connections, all in use at the end", f.connections.to_string()),
        ("Handshakes a second", format!("{:.0}", f.handshakes_per_s)),
        ("CPU of a handshake, both ends, µs", format!("{:.0}", f.handshake_cpu_us)),
        ("Memory of an idle one, an end, bytes", f.idle_bytes.to_string()),
        ("Memory of one that was used, an end, bytes", f.used_bytes.to_string()),
        ("CPU of all while idle, % of a processor", format!("{:.2}", f.idle_cpu_share * 100.0)),
        ("A message each way on each, s", format!("{:.2}", f.round_s)),
        ("CPU of a message, both ends, µs", format!("{:.1}", f.round_cpu_us_a_message)),
    ];
    for (name, figure) in rows {
        table.add_row([name.to_owned(), figure]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
