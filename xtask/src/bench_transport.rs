//! `cargo xtask bench transport`: what a gigabit of the transport costs, beside its peers and the ceiling.
//!
//! How: everything is built in release; then each row is run in turn, and that several times, so that whatever else the
//! machine does meets all of them. Processor time of both ends is counted, and the median taken. The peers live in
//! `bench/`, outside the workspace.

use crate::{output, sh};
use anyhow::Context;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(clap::Args)]
pub struct Args {
    /// Times each row is run
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// MiB of each run
    #[arg(long, default_value_t = 512)]
    mebibytes: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is compared: row, its peer, and how many times the peer's gigabits a CPU-second it should make.
const GOALS: &[(&str, &str, f64)] =
    &[("selvedge-1448", "quinn-1448", 2.2), ("selvedge-8948", "s2n-quic-8948", 2.5)];

#[derive(Serialize)]
struct Row {
    name: String,
    gbit_per_cpu_s: f64,
    gbit_per_s: f64,
    /// To the ceiling of the same packet size.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_ceiling: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
}

#[derive(Serialize)]
struct Goal {
    peer: String,
    ratio: f64,
    at_least: f64,
    met: bool,
}

pub fn target() -> anyhow::Result<String> {
    let text = output("cargo", &["metadata", "--format-version", "1", "--no-deps"])?;
    let all: Value = serde_json::from_str(&text)?;
    Ok(all["target_directory"].as_str().context("cargo names no target directory")?.to_owned())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let target = target()?;
    sh("cargo", &["build", "--release", "--package", "selvedge"])?;
    // one target directory for both: what they share is built once
    sh("cargo", &["build", "--release", "--manifest-path", "bench/Cargo.toml", "--target-dir", &target])?;
    let (ours, peers) = (format!("{target}/release/selvedge"), format!("{target}/release/selvedge-bench"));
    let (mebibytes, bytes) = (args.mebibytes.to_string(), (args.mebibytes << 20).to_string());
    let mut figures: BTreeMap<String, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for round in 0..args.rounds {
        eprintln!("bench: round {} of {}", round + 1, args.rounds);
        let mut take = |row: &Value| -> anyhow::Result<()> {
            let field = |f: &str| row[f].as_f64().with_context(|| format!("a row without {f}: {row}"));
            let name = row["name"].as_str().context("a row without a name")?;
            let entry = figures.entry(name.to_owned()).or_default();
            entry.0.push(field("gbit_per_cpu_s")?);
            entry.1.push(field("gbit_per_s")?);
            Ok(())
        };
        for packet in ["1448", "8948"] {
            for trusted in [false, true] {
                let mut words =
                    vec!["bench", "transfer", "--json", "--mebibytes", &mebibytes, "--packet-bytes", packet];
                if trusted {
                    words.push("--trusted");
                }
                let all: Value = serde_json::from_str(&output(&ours, &words)?)?;
                all["rows"].as_array().context("no rows")?.iter().try_for_each(&mut take)?;
            }
            // with large packets quinn and noq lose most of them here, and take minutes or give up
            let small = if packet == "1448" { &["quinn", "noq", "tcp"][..] } else { &[] };
            for peer in ["ceiling", "s2n-quic"].iter().chain(small) {
                let words = ["--bytes", &bytes, "--packet-bytes", packet, peer];
                match output(&peers, &words) {
                    Ok(lines) => {
                        for line in lines.lines() {
                            take(&serde_json::from_str(line)?)?;
                        }
                    }
                    // a peer that cannot do it is no reason to stop
                    Err(e) => eprintln!("bench: {peer}-{packet} has no figure in this round: {e:#}"),
                }
            }
        }
    }
    let medians: BTreeMap<String, (f64, f64)> =
        figures.into_iter().map(|(name, mut f)| (name, (median(&mut f.0), median(&mut f.1)))).collect();
    let of = |name: &str| medians.get(name).map(|m| m.0);
    let rows: Vec<Row> = medians
        .iter()
        .map(|(name, m)| {
            let size = name.rsplit('-').next().unwrap_or_default();
            let goal = GOALS.iter().find(|g| g.0 == name).and_then(|g| {
                let ratio = m.0 / of(g.1)?;
                Some(Goal { peer: g.1.to_owned(), ratio, at_least: g.2, met: ratio >= g.2 })
            });
            Row {
                name: name.clone(),
                gbit_per_cpu_s: m.0,
                gbit_per_s: m.1,
                to_ceiling: of(&format!("ceiling-{size}")).map(|c| m.0 / c),
                goal,
            }
        })
        .collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "rows": rows }))?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "Gbit per CPU second", "Gbit/s", "to ceiling", "goal"]);
    for r in rows {
        let goal = r.goal.map_or(String::new(), |g| {
            let met = if g.met { "met" } else { "MISSED" };
            format!("{:.2} x {}, at least {}: {met}", g.ratio, g.peer, g.at_least)
        });
        table.add_row([
            r.name,
            format!("{:.2}", r.gbit_per_cpu_s),
            format!("{:.2}", r.gbit_per_s),
            r.to_ceiling.map_or(String::new(), |c| format!("{c:.2}")),
            goal,
        ]);
    }
    println!("{table}");
    Ok(())
}
