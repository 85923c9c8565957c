//! `selvedge sim seeds`: many short exchanges of the transport, each over a bad network of its own.
//!
//! How: seeds are spread over threads in parts; what is printed depends on the seeds alone, but for the times. The
//! first broken law of a seed ends that seed and no other. Absent on purpose: a choice of troubles; the seed chooses.

use super::all;
use crate::out;
use kernel::process::cpu_ns;
use serde_json::json;
use sim::seeds::{self, Broken, Tally};
use std::process::ExitCode;

/// Seeds a thread takes at a time.
const PART: u64 = 500;
/// Broken laws printed and kept; more are counted.
const BROKEN_MAX: usize = 20;

#[derive(clap::Args)]
#[command(after_help = "\
Each seed is an exchange of a few messages both ways over a network that loses, reorders, duplicates,
damages, trims and marks, whose paths die and come back, between ends that restart. Checked: every
message arrives once and bit-equal, every damaged or stale datagram is refused, sent = acknowledged +
lost + in flight at every moment, memory stays below what the parameters say. One seed again, with its
plan: `selvedge sim seeds --from SEED --count 1 --plan`.

Exit codes: 0 every law held, 3 some was broken.")]
pub(crate) struct Args {
    /// First seed
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    from: u64,
    /// Seeds, one after the other
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    count: u64,
    /// Print what the first seed has planned
    #[arg(long)]
    plan: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let before = cpu_ns();
    let parts = usize::try_from(args.count.div_ceil(PART))?;
    let results: Vec<(Tally, u64, Vec<Broken>)> = all(parts, "exchanging", |i| {
        let first = i as u64 * PART;
        let (mut tally, mut failed, mut broken) = (Tally::default(), 0, Vec::new());
        for seed in first..(first + PART).min(args.count) {
            match seeds::run(args.from.wrapping_add(seed)) {
                Ok(one) => tally.add(&one),
                Err(b) => {
                    failed += 1;
                    if broken.len() < BROKEN_MAX {
                        broken.push(b);
                    }
                }
            }
        }
        (tally, failed, broken)
    });
    let cpu_s = (cpu_ns() - before) as f64 / 1e9;
    let (mut tally, mut failed, mut broken) = (Tally::default(), 0, Vec::new());
    for (one, n, list) in results {
        tally.add(&one);
        failed += n;
        broken.extend(list);
    }
    broken.truncate(BROKEN_MAX);
    let per_cpu_s = args.count as f64 / cpu_s;
    if args.json {
        let row = |b: &Broken| {
            json!({
                "seed": b.seed,
                "law": format!("{:?}", b.law),
                "end": b.end,
                "at_ns": b.at.0,
                "detail": b.detail,
                "again": again(b.seed),
            })
        };
        let mut value = json!({
            "from": args.from,
            "count": args.count,
            "failed": failed,
            "broken": broken.iter().map(row).collect::<Vec<_>>(),
            "tally": tally,
            "cpu_s": cpu_s,
            "seeds_per_cpu_s": per_cpu_s,
        });
        if let (true, Some(map)) = (args.plan, value.as_object_mut()) {
            map.insert("plan".into(), json!(seeds::describe(args.from)));
        }
        out::json(&value)?;
    } else {
        if args.plan {
            println!("{}", seeds::describe(args.from));
        }
        for b in &broken {
            println!("{b}\n  again: {}", again(b.seed));
        }
        print(&tally);
        println!(
            "{} seeds from {}: {failed} with a broken law; {per_cpu_s:.0} seeds a CPU-second; trace {:016x}",
            args.count, args.from, tally.trace
        );
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}

fn again(seed: u64) -> String {
    format!("selvedge sim seeds --from {seed} --count 1 --plan")
}

fn print(t: &Tally) {
    println!(
        "delivered   {} messages ({} of them writes), {} bytes; {} cut short by {} restarts",
        t.messages, t.writes, t.bytes, t.messages_cut, t.restarts
    );
    println!("sent        {} packets, {} chunks of them again", t.packets, t.chunks_again);
    println!(
        "on the way  {} datagrams: {} lost, {} swallowed by {} deaths of EVs, {} copies, {} damaged, {} trimmed, {} marked",
        t.datagrams, t.lost, t.swallowed, t.deaths, t.copies, t.damaged, t.trimmed, t.marked
    );
    println!(
        "arrived     {} taken; refused: {} damaged, {} again, {} stale, {} not ready",
        t.taken, t.refused_damaged, t.refused_again, t.refused_stale, t.refused_unready
    );
    println!(
        "paths       {} given up, {} believed again; {} key changes; {} bytes held at most by one end",
        t.paths_down, t.paths_up, t.key_updates, t.memory_most
    );
}
