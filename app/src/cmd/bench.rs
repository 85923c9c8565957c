//! `selvedge bench`: what this machine can do.

mod probe;

use clap::Subcommand;
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  selvedge bench probe
  selvedge bench probe --seconds 10 --json";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Probes a second on one core: sender and reflector in one thread, real STAMP packets over the loopback
    Probe(probe::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Probe(args) => probe::run(args),
    }
}
