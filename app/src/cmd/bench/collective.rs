//! `selvedge bench collective`: many ranks do one thing together, again and again, and every byte is checked.
//!
//! How: all ranks are in this process, over the loopback or on hosts of a lab. The data are small whole numbers, so that
//! sums are exact, and each rank's result is compared with what it has to be. So a path that dies in the middle
//! (`selvedge lab fault`) shows in the time, and must not show in the result.
//!
//! Absent on purpose: ranks in processes of their own, and other libraries to compare with.

use super::ends;
use crate::out;
use anyhow::ensure;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use endpoint::Group;
use futures_util::future::try_join_all;
use kernel::process::cpu_ns;
use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use transport::collective::{Element, Rank, Shape};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to do together
    #[arg(long, value_enum, default_value_t = What::AllReduceRing)]
    what: What,
    /// Ranks, where no hosts are named
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    ranks: u32,
    /// KiB each rank has
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    kibibytes: u64,
    /// Times it is done
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    times: u32,
    /// Again and again for so long instead, seconds
    #[arg(long, value_name = "N", conflicts_with = "times", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    #[command(flatten)]
    ends: ends::Args,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    AllReduceRing,
    AllReduceTree,
    ReduceScatter,
    AllGather,
    AllToAll,
    BroadcastRing,
    BroadcastTree,
    Barrier,
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    ranks: usize,
    bytes: usize,
    times: u32,
    /// Of one, over all of them.
    median_ms: f64,
    longest_ms: f64,
    /// Bytes a rank has, through the median.
    gbit_per_s: f64,
    cpu_s: f64,
    packets: u64,
    packets_lost: u64,
    /// EVs are exact paths at every end.
    exact_paths: bool,
    /// Observations of paths the agents took, and those they did not.
    observations: u64,
    observations_dropped: u64,
}

/// Element `i` of rank `rank` in turn `turn`: a small whole number.
fn value(rank: usize, turn: u32, i: usize) -> f32 {
    ((rank * 7 + turn as usize * 5 + i * 3) % 9) as f32 - 4.0
}

fn data(rank: usize, turn: u32, elements: usize) -> Vec<u8> {
    (0..elements).flat_map(|i| value(rank, turn, i).to_le_bytes()).collect()
}

/// One rank, all turns: how long each took.
async fn rank(
    group: &mut Group,
    args: &Args,
    elements: usize,
    over: &Cell<bool>,
) -> anyhow::Result<Vec<Duration>> {
    let (own, ranks) = (group.rank().0 as usize, group.ranks() as usize);
    let width = elements / ranks;
    let of = Element::F32;
    let mut times = Vec::new();
    let started = Instant::now();
    for turn in 0.. {
        let mut mine = data(own, turn, elements);
        if own == 0 {
            over.set(match args.seconds {
                Some(seconds) => started.elapsed() >= Duration::from_secs(seconds),
                None => turn >= args.times,
            });
        }
        // nobody is past it before rank 0 has said whether there is another turn
        group.barrier().await?;
        if over.get() {
            break;
        }
        let begin = Instant::now();
        // what has to be at the end, and where
        let (got, want): (&[u8], Vec<u8>) = match args.what {
            What::AllReduceRing | What::AllReduceTree | What::ReduceScatter => {
                let part = match args.what {
                    What::AllReduceRing => {
                        group.all_reduce(of, Shape::Ring, &mut mine).await?;
                        0..4 * elements
                    }
                    What::AllReduceTree => {
                        group.all_reduce(of, Shape::Tree, &mut mine).await?;
                        0..4 * elements
                    }
                    _ => group.reduce_scatter(of, &mut mine).await?,
                };
                times.push(begin.elapsed());
                // there are but three of them, in turns
                let sums: [f32; 3] = std::array::from_fn(|i| (0..ranks).map(|r| value(r, turn, i)).sum());
                let sum = |i: usize| sums[i % 3].to_le_bytes();
                let want = (part.start / 4..part.end / 4).flat_map(sum).collect();
                (mine.get(part).unwrap_or(&[]), want)
            }
            What::AllGather => {
                group.all_gather(of, &mut mine).await?;
                times.push(begin.elapsed());
                (&mine, (0..elements).flat_map(|i| value(i / width, turn, i).to_le_bytes()).collect())
            }
            What::AllToAll => {
                let sent = mine.clone();
                group.all_to_all(of, &sent, &mut mine).await?;
                times.push(begin.elapsed());
                let from = |i: usize| value(i / width, turn, own * width + i % width).to_le_bytes();
                (&mine, (0..elements).flat_map(from).collect())
            }
            What::BroadcastRing | What::BroadcastTree => {
                let shape = if args.what == What::BroadcastRing { Shape::Ring } else { Shape::Tree };
                let root = turn as usize % ranks;
                group.broadcast(Rank(root as u32), shape, &mut mine).await?;
                times.push(begin.elapsed());
                (&mine, data(root, turn, elements))
            }
            What::Barrier => {
                group.barrier().await?;
                times.push(begin.elapsed());
                (&[], vec![])
            }
        };
        ensure!(got == want, "rank {own} has a wrong result in turn {turn}");
    }
    // nobody leaves while others still need it
    group.barrier().await?;
    Ok(times)
}

async fn measure(args: &Args) -> anyhow::Result<Row> {
    let ends = ends::open(&args.ends, args.ranks as usize)?;
    let members: Vec<_> = ends.iter().map(|e| e.member.clone()).collect();
    // a multiple of the ranks, so that all parts are alike
    let elements = ((args.kibibytes << 10) as usize / 4).next_multiple_of(members.len());
    let joining = ends.iter().zip(0..).map(|(e, i)| Group::join(&e.endpoint, &members, Rank(i)));
    let mut groups = try_join_all(joining).await?;
    let before = cpu_ns();
    let over = Cell::new(false);
    let times = try_join_all(groups.iter_mut().map(|g| rank(g, args, elements, &over))).await?;
    let cpu = (cpu_ns() - before) as f64 / 1e9;
    let (mut packets, mut packets_lost) = (0, 0);
    for g in &groups {
        for c in g.counters().await?.iter().flatten() {
            packets += c.machine.sent;
            packets_lost += c.machine.lost;
        }
    }
    let (mut exact_paths, mut observations, mut observations_dropped) = (true, 0, 0);
    for e in &ends {
        let c = e.endpoint.counters().await?;
        exact_paths &= c.exact_paths;
        observations += c.observations;
        observations_dropped += c.observations_dropped;
    }
    // a turn is over when its last rank is done
    let done = times.iter().map(Vec::len).max().unwrap_or_default();
    let mut turns: Vec<f64> = (0..done)
        .map(|t| times.iter().filter_map(|r| r.get(t)).map(Duration::as_secs_f64).fold(0.0, f64::max))
        .collect();
    turns.sort_by(f64::total_cmp);
    let median = turns.get(turns.len() / 2).copied().unwrap_or_default();
    let bytes = if args.what == What::Barrier { 0 } else { 4 * elements };
    Ok(Row {
        name: args.what.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
        ranks: members.len(),
        bytes,
        times: done as u32,
        median_ms: median * 1e3,
        longest_ms: turns.last().copied().unwrap_or_default() * 1e3,
        gbit_per_s: bytes as f64 * 8.0 / 1e9 / median.max(1e-9),
        cpu_s: cpu,
        packets,
        packets_lost,
        exact_paths,
        observations,
        observations_dropped,
    })
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let row = ends::runtime()?.block_on(measure(&args))?;
    if args.json {
        out::json(&serde_json::json!({ "rows": [row] }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "",
        "Ranks",
        "Bytes each",
        "Times",
        "ms p50",
        "longest",
        "Gbit/s",
        "CPU s",
        "Packets",
        "Lost",
    ]);
    table.add_row([
        row.name.clone(),
        row.ranks.to_string(),
        row.bytes.to_string(),
        row.times.to_string(),
        format!("{:.2}", row.median_ms),
        format!("{:.2}", row.longest_ms),
        format!("{:.2}", row.gbit_per_s),
        format!("{:.2}", row.cpu_s),
        row.packets.to_string(),
        row.packets_lost.to_string(),
    ]);
    println!("{table}\n\nEvery result of every rank was what it had to be.");
    if !args.ends.between.is_empty() {
        let paths = if row.exact_paths { "EVs were exact paths" } else { "EVs were flow labels" };
        println!(
            "{paths}; {} observations of them went to the agents, {} could not.",
            row.observations, row.observations_dropped
        );
    }
    Ok(ExitCode::SUCCESS)
}
