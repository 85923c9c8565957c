//! `selvedge bench`: what this machine can do.

mod agent;
mod collective;
mod connections;
mod ends;
mod incast;
mod ingest;
mod latency;
mod probe;
mod receive;
mod tables;
mod transfer;

use clap::Subcommand;
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  selvedge bench probe
  selvedge bench probe --seconds 10 --json
  selvedge bench transfer --packet-bytes 8948
  selvedge bench latency
  selvedge bench latency --beside bulk --between host0 host9   in a lab, over all its planes
  selvedge bench incast --senders 16
  selvedge bench ingest --agents 200 --rate 1000000 --seconds 60
  selvedge bench ingest --agents 50 --rate 20000 --seconds 120 --kills 20
  selvedge bench agent --turns 20
  selvedge bench receive --rate 1500000 --seconds 20
  selvedge bench tables --rows 100000000
  selvedge bench tables --data /backup/restored            a hub's own tables, while no hub uses them
  selvedge bench connections --count 10000
  selvedge bench transfer --between host0 host9            in a lab, over all its planes
  selvedge bench collective --what all-to-all --ranks 16";

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
    /// Gigabits a CPU second of the transport: large messages over the loopback, both ends in this process
    Transfer(transfer::Args),
    /// Microseconds of a small message of the transport, beside plain UDP; or beside bulk traffic, and TCP likewise
    Latency(latency::Args),
    /// What each of many senders to one receiver gets, beside TCP
    Incast(incast::Args),
    /// Memory and processor time of thousands of connections
    Connections(connections::Args),
    /// Observations a hub takes and keeps from a crowd of agents, killed at random moments where asked, every row counted
    Ingest(ingest::Args),
    /// What the sensors cost the traffic of a host, off and on by turns
    Agent(agent::Args),
    /// Flow records from UDP to durable tables, beside nfcapd and nfacctd where they are installed
    Receive(receive::Args),
    /// How large tables are beside plain Parquet, and how fast questions about a hundred million rows are answered
    Tables(tables::Args),
    /// All-reduce and its like among many ranks, every result checked
    Collective(collective::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Probe(args) => probe::run(args),
        What::Transfer(args) => transfer::run(args),
        What::Latency(args) => latency::run(args),
        What::Incast(args) => incast::run(args),
        What::Connections(args) => connections::run(args),
        What::Ingest(args) => ingest::run(args),
        What::Agent(args) => agent::run(args),
        What::Receive(args) => receive::run(args),
        What::Tables(args) => tables::run(args),
        What::Collective(args) => collective::run(args),
    }
}
