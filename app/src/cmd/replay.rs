//! `selvedge replay`: an agent's recording through the same machines again, for a report of a fault.

use super::agent::key;
use crate::out;
use agent::record::{Ended, replay};
use anyhow::Context;
use comfy_table::{Table, presets};
use probe::Observation;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use wire::{Component, Known, Leg, PathRef};

const AFTER: &str = "Examples:
  selvedge agent ... --record host12.selvagr        from its start, until it stops or the file is full
  selvedge replay host12.selvagr
  selvedge replay host12.selvagr --json

A recording holds every packet of probing with its addresses and times, the plan and the fabric; no traffic of programs, and
not the key of authenticated probes: give that with --stamp-key.
Exit codes: 0 the same observations came out, 3 others did (another version?), 1 the file cannot be read.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// What `selvedge agent --record` wrote
    file: PathBuf,
    /// Key of authenticated probes
    #[arg(long, value_name = "FILE")]
    stamp_key: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    sent: u64,
    lost: u64,
    marked: u64,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {name}"))?;
    let stamp_key = args.stamp_key.as_deref().map(key).transpose()?;
    let (mut paths, mut components) = (BTreeMap::<String, Sum>::new(), BTreeMap::<String, u64>::new());
    let mut legs: Vec<(PathRef, Sum)> = Vec::new();
    let mut told: Vec<(Component, &'static str, u64)> = Vec::new();
    let played = replay(&bytes, stamp_key.as_deref(), &mut |observation| match observation {
        Observation::Path(o) => {
            let sum = Sum { sent: o.sent.into(), lost: o.lost.into(), marked: o.ecn_marked.into() };
            legs.push((o.path, sum));
        }
        Observation::Component(o) => told.push((o.component, o.counter.name(), o.delta)),
    })
    .with_context(|| format!("cannot replay {name}"))?;
    let fabric = &played.fabric;
    let leg = |leg: &Leg| match (fabric.path_parts(leg.path), leg.known) {
        (None, _) => format!("path {} of another fabric", leg.path.0),
        (Some((from, to, _)), Known::Mixture) => {
            format!("any path from {} to {}", fabric.nic_name(from), fabric.nic_name(to))
        }
        (Some(_), Known::Exact | Known::Discovered) => fabric.path_name(leg.path),
    };
    for (path, sum) in legs {
        let name = match &path {
            PathRef::OneWay(one) => leg(one),
            PathRef::RoundTrip { forward, backward } => {
                format!("{} and back by {}", leg(forward), leg(backward))
            }
        };
        let to = paths.entry(name).or_default();
        (to.sent, to.lost, to.marked) = (to.sent + sum.sent, to.lost + sum.lost, to.marked + sum.marked);
    }
    for (component, counter, delta) in told.into_iter().filter(|t| t.2 > 0) {
        *components.entry(format!("{} {counter}", fabric.component_name(component))).or_default() += delta;
    }
    let host = fabric.host_name(played.host);
    let seconds = played.times.1.since(played.times.0).0 as f64 / 1e9;
    let ended = match played.ended {
        Ended::WithTheAgent => "with the agent".to_owned(),
        Ended::Full => "when the file was full".to_owned(),
        Ended::Cut { bytes } => format!("cut off, {bytes} bytes left over"),
    };
    if args.json {
        let paths: Vec<_> = paths
            .iter()
            .map(|(path, s)| json!({ "path": path, "sent": s.sent, "lost": s.lost, "ecn_marked": s.marked }))
            .collect();
        out::json(&json!({
            "host": host, "fabric": fabric.name, "software": played.software, "seconds": seconds, "inputs": played.inputs,
            "observations": played.observations, "ended": ended, "diverged_at": played.diverged,
            "paths": paths, "components": components, "counters": played.counters,
        }))?;
    } else {
        println!(
            "{host} of fabric {:?}, {}, {seconds:.1} s: {} inputs, {} observations; it ends {ended}",
            fabric.name, played.software, played.inputs, played.observations
        );
        match played.diverged {
            None => println!("The observations are those the agent had, as far as the recording says."),
            Some(n) => println!(
                "From observation {n} on they are others than the agent had: is this the same release?"
            ),
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["Path", "Sent", "Lost", "Marked"]);
        let mut sick: Vec<_> = paths.iter().filter(|(_, s)| s.lost > 0 || s.marked > 0).collect();
        sick.sort_by_key(|(_, s)| std::cmp::Reverse((s.lost, s.marked)));
        for (path, s) in sick.iter().take(30) {
            table.add_row([(*path).clone(), s.sent.to_string(), s.lost.to_string(), s.marked.to_string()]);
        }
        if sick.is_empty() {
            println!("Nothing was lost or marked on {} paths.", paths.len());
        } else {
            println!("{table}");
        }
        if sick.len() > 30 {
            println!("and {} more paths", sick.len() - 30);
        }
        for (what, n) in &components {
            println!("{what}: {n}");
        }
        for (counter, n) in played.counters.iter().filter(|(_, n)| **n > 0) {
            println!("{counter}: {n}");
        }
    }
    Ok(if played.diverged.is_some() { ExitCode::from(out::NOT_WELL) } else { ExitCode::SUCCESS })
}
