//! `selvedge bench incast`: many senders to one receiver: what each gets, beside TCP in the same run.
//!
//! How: every sender has an endpoint of its own and sends messages without end; what the receiver got from each within the
//! same time is compared, after a beginning that does not count. TCP does the same, a connection for each sender, between
//! the same hosts in the first plane. Rounds of both alternate.
//!
//! Absent on purpose: processes of their own. On the loopback the processor is what all share, in a lab with rate limits
//! the last link.

use super::ends::{self, Host};
use crate::out;
use anyhow::{Context, anyhow};
use comfy_table::{Table, presets};
use endpoint::Connection;
use futures_util::future::try_join_all;
use std::io::{Read, Write};
use std::net::{SocketAddrV6, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a message, and of a write into a TCP socket.
const MESSAGE_BYTES: usize = 32 << 10;
/// Messages each sender has open.
const UNDER_WAY: u64 = 4;
/// What the slowest may take longer than the fastest.
const GOAL: f64 = 1.05;
/// The share of the time that does not count.
const BEGINS: u32 = 4;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Senders, where no hosts are named
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    senders: u32,
    /// Seconds of each round
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Rounds of each kind
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    ends: ends::Args,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    senders: usize,
    gbit_per_s: f64,
    /// Of one sender, over all rounds.
    slowest_mbit_per_s: f64,
    fastest_mbit_per_s: f64,
    /// Time of the slowest to that of the fastest, median of the rounds.
    slowest_to_fastest: f64,
}

/// What each sender got, round by round.
#[derive(Default)]
struct Shares(Vec<Vec<u64>>);

impl Shares {
    fn row(&self, name: &'static str, counted: Duration) -> Row {
        let rate = |bytes: u64| bytes as f64 * 8.0 / counted.as_secs_f64();
        let senders = self.0.first().map_or(0, Vec::len);
        let mut ratios: Vec<f64> = self
            .0
            .iter()
            .map(|round| {
                let (least, most) = (round.iter().min().copied(), round.iter().max().copied());
                most.unwrap_or(0) as f64 / (least.unwrap_or(0) as f64).max(1.0)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let total: u64 = self.0.iter().flatten().sum();
        let of = |i: usize| self.0.iter().filter_map(|r| r.get(i)).sum::<u64>();
        let mine: Vec<f64> = (0..senders).map(|i| rate(of(i)) / self.0.len() as f64 / 1e6).collect();
        Row {
            name,
            senders,
            gbit_per_s: rate(total) / self.0.len().max(1) as f64 / 1e9,
            slowest_mbit_per_s: mine.iter().copied().fold(f64::MAX, f64::min),
            fastest_mbit_per_s: mine.iter().copied().fold(0.0, f64::max),
            slowest_to_fastest: ratios.get(ratios.len() / 2).copied().unwrap_or(0.0),
        }
    }
}

fn read(got: &[AtomicU64]) -> Vec<u64> {
    got.iter().map(|g| g.load(Ordering::Relaxed)).collect()
}

fn since(got: &[AtomicU64], before: &[u64]) -> Vec<u64> {
    read(got).iter().zip(before).map(|(g, b)| g - b).collect()
}

async fn ours(pairs: &[(Connection, Connection)], seconds: Duration) -> anyhow::Result<Vec<u64>> {
    let got: Vec<AtomicU64> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    let (got, over) = (&got, &over);
    let lane = async |i: usize, lane: u64| -> anyhow::Result<()> {
        let ((from, to), mine) = pairs.get(i).zip(got.get(i)).context("no such sender")?;
        let send = async {
            while !over.load(Ordering::Relaxed) {
                from.send(lane, vec![7; MESSAGE_BYTES]).await?;
            }
            // a short one is the end
            anyhow::Ok(from.send(lane, vec![7]).await?)
        };
        let receive = async {
            loop {
                let bytes = to.receive(lane).await?.len();
                if bytes == 1 {
                    return anyhow::Ok(());
                }
                mine.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        };
        tokio::try_join!(send, receive).map(drop)
    };
    let watch = async {
        tokio::time::sleep(seconds / BEGINS).await;
        let before = read(got);
        tokio::time::sleep(seconds - seconds / BEGINS).await;
        let shares = since(got, &before);
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(shares)
    };
    let lanes = (0..pairs.len()).flat_map(|i| (0..UNDER_WAY).map(move |l| (i, l)));
    let lanes = try_join_all(lanes.map(|(i, l)| lane(i, l)));
    Ok(tokio::try_join!(watch, lanes)?.0)
}

fn tcp(receiver: &Host, senders: &[Host], seconds: Duration) -> anyhow::Result<Vec<u64>> {
    let listener = receiver.inside(|| Ok(TcpListener::bind((receiver.address(), 0))?))?;
    let to = SocketAddrV6::new(receiver.address(), listener.local_addr()?.port(), 0, 0);
    let mut pairs = Vec::new();
    for sender in senders {
        let one = sender.inside(|| Ok(TcpStream::connect(to)?))?;
        pairs.push((one, listener.accept()?.0));
    }
    let got: Vec<AtomicU64> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let mut threads = Vec::new();
        for ((mut from, mut to), mine) in pairs.into_iter().zip(&got) {
            threads.push(scope.spawn(move || {
                let bytes = vec![7; MESSAGE_BYTES];
                while !over.load(Ordering::Relaxed) {
                    from.write_all(&bytes)?;
                }
                // dropped, and so closed
                anyhow::Ok(())
            }));
            scope.spawn(move || {
                let mut bytes = vec![0; MESSAGE_BYTES];
                while let Ok(n @ 1..) = to.read(&mut bytes) {
                    mine.fetch_add(n as u64, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(seconds / BEGINS);
        let before = read(&got);
        std::thread::sleep(seconds - seconds / BEGINS);
        let shares = since(&got, &before);
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread that sends panicked"))??;
        }
        Ok(shares)
    })
}

async fn measure(args: &Args) -> anyhow::Result<[Row; 2]> {
    let seconds = Duration::from_secs(args.seconds);
    let hosts = ends::hosts(&args.ends, args.senders as usize + 1)?;
    let (receiver, senders) = hosts.split_first().context("a receiver is needed")?;
    let all = ends::open_on(&args.ends, &hosts)?;
    let (to, from) = all.split_first().context("a receiver is needed")?;
    let mut pairs = Vec::new();
    for end in from {
        let connected = end.endpoint.connect(to.member.addr, &to.member.name);
        pairs.push(tokio::try_join!(connected, to.endpoint.accept())?);
    }
    let [mut mine, mut theirs] = [Shares::default(), Shares::default()];
    for _ in 0..args.rounds {
        mine.0.push(ours(&pairs, seconds).await?);
        theirs.0.push(tcp(receiver, senders, seconds)?);
    }
    let counted = seconds - seconds / BEGINS;
    Ok([mine.row("selvedge", counted), theirs.row("tcp", counted)])
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let rows = ends::runtime()?.block_on(measure(&args))?;
    let got = rows[0].slowest_to_fastest;
    let met = got <= GOAL;
    if args.json {
        let goal =
            serde_json::json!({ "what": "slowest to fastest", "got": got, "wanted": GOAL, "met": met });
        out::json(&serde_json::json!({ "rows": rows, "goal": goal }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "Senders", "Gbit/s", "Slowest, Mbit/s", "Fastest, Mbit/s", "Slowest to fastest"]);
    for r in rows {
        table.add_row([
            r.name.to_owned(),
            r.senders.to_string(),
            format!("{:.2}", r.gbit_per_s),
            format!("{:.1}", r.slowest_mbit_per_s),
            format!("{:.1}", r.fastest_mbit_per_s),
            format!("{:.3}", r.slowest_to_fastest),
        ]);
    }
    println!("{table}");
    println!("{got:.3} (slowest to fastest, at most {GOAL}): {}", if met { "met" } else { "MISSED" });
    Ok(ExitCode::SUCCESS)
}
