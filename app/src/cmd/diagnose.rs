//! `selvedge diagnose`: recorded observations again, and the verdicts they lead to.

use crate::out;
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

const AFTER: &str = "Examples:
  selvedge hub ... --record today.selvrec
  selvedge diagnose today.selvrec
  selvedge diagnose today.selvrec --json

The verdicts are those the hub had: they depend on the recording alone. A recording that was cut off, as by a crash, is
read as far as it goes, and that is said.
Exit codes: 0 no incident is open at the end, 1 the file cannot be read, 3 incidents are open at its end.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// What `selvedge hub --record` wrote
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {name}"))?;
    let reader = wire::record::Reader::new(&bytes).with_context(|| format!("cannot replay {name}"))?;
    let fabric = ::fabric::Fabric::parse(reader.fabric_toml())
        .map_err(|e| anyhow::anyhow!("the fabric in {name} cannot be read: {e}"))?;
    let replayed = hub::replay(reader, &Arc::new(fabric)).with_context(|| format!("cannot replay {name}"))?;
    if args.json {
        out::json(&replayed)?;
    } else {
        println!(
            "{} batches with {} observations over {:.1} s",
            replayed.batches, replayed.stored, replayed.seconds
        );
        for (reason, n) in &replayed.dropped {
            println!("{n} observations not used: {reason}");
        }
        let incidents: Vec<_> = replayed.incidents.iter().map(|d| d.incident.clone()).collect();
        super::incidents::print(&incidents);
    }
    if let Some(damage) = &replayed.damage {
        eprintln!("note: {damage}");
    }
    let open = replayed.incidents.iter().any(|d| d.incident.state == "open");
    Ok(if open { ExitCode::from(out::NOT_WELL) } else { ExitCode::SUCCESS })
}
