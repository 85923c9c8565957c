//! The commands, one file each. A command parses its arguments, calls the room that does the work, and prints.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod access;
mod agent;
mod backup;
mod bench;
mod capture;
mod cert;
mod completions;
mod diagnose;
mod explain;
mod fabric;
mod guide;
pub(crate) mod hub;
mod incidents;
mod lab;
mod paths;
mod query;
mod replay;
mod sensors;
mod sim;
mod timeline;
mod top;
mod trace;
mod why;

/// Moves, watches and explains the networks of AI and data-center infrastructure.
#[derive(Parser)]
#[command(name = "selvedge", version, about, long_about = None, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plan, check and render a multi-plane Clos fabric
    Fabric(fabric::Args),
    /// A real fabric in network namespaces on this machine, with real faults
    Lab(lab::Args),
    /// Run a scenario in the seeded simulator
    Sim(sim::Args),
    /// The open and past incidents a hub knows
    Incidents(incidents::Args),
    /// Why a verdict was reached: evidence for and against
    Explain(explain::Args),
    /// What to do about an incident, step by step
    Guide(guide::Args),
    /// All paths between two hosts with their loss and delay, hop by hop
    Paths(paths::Args),
    /// Trace every path and every hop between two hosts, now
    Trace(trace::Args),
    /// What slows a connection, a process or the traffic with a host: host, path or peer
    Why(why::Args),
    /// Capture packets of several hosts at once, without what is in them, as one file
    Capture(capture::Args),
    /// The sickest links and paths right now
    Top(top::Args),
    /// Ask everything the hub remembers in SQL
    Query(query::Args),
    /// Replay recorded observations and print the verdicts
    Diagnose(diagnose::Args),
    /// Play an agent's recording again: the same inputs, the same observations
    Replay(replay::Args),
    /// The daemon of a host: probes and reports
    Agent(agent::Args),
    /// The process of a machine that tells what its kernel and NICs know: connections, drops, delays, flows
    Sensors(sensors::Args),
    /// The daemon that diagnoses, keeps incidents and answers
    Hub(Box<hub::Args>),
    /// Copy everything a hub remembers, while it runs
    Backup(backup::BackupArgs),
    /// Bring back what was backed up
    Restore(backup::RestoreArgs),
    /// Make the certificates agents and hub trust each other by
    Cert(cert::Args),
    /// Who may use a hub: people, tokens, tenants
    Access(access::Args),
    /// What a traced connection did, millisecond by millisecond and path by path
    Timeline(timeline::Args),
    /// Measure this machine
    Bench(bench::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

impl Cli {
    /// Whether nothing is lost when it ends as soon as nobody reads what it prints (`selvedge fabric plan F | head`).
    /// The others have something to take down or to go on with.
    pub(crate) fn only_prints(&self) -> bool {
        match &self.command {
            Command::Lab(args) => args.only_prints(),
            Command::Agent(_)
            | Command::Sensors(_)
            | Command::Hub(_)
            | Command::Bench(_)
            | Command::Capture(_)
            | Command::Query(_)
            | Command::Access(_)
            | Command::Backup(_)
            | Command::Restore(_) => false,
            _ => true,
        }
    }

    pub(crate) fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Fabric(args) => fabric::run(args),
            Command::Lab(args) => lab::run(args),
            Command::Sim(args) => sim::run(args),
            Command::Incidents(args) => incidents::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Guide(args) => guide::run(args),
            Command::Paths(args) => paths::run(args),
            Command::Trace(args) => trace::run(args),
            Command::Why(args) => why::run(args),
            Command::Capture(args) => capture::run(args),
            Command::Top(args) => top::run(args),
            Command::Query(args) => query::run(args),
            Command::Diagnose(args) => diagnose::run(args),
            Command::Replay(args) => replay::run(args),
            Command::Agent(args) => agent::run(args),
            Command::Sensors(args) => sensors::run(args),
            Command::Hub(args) => hub::run(*args),
            Command::Backup(args) => backup::run(&args),
            Command::Restore(args) => backup::run_restore(&args),
            Command::Cert(args) => cert::run(args),
            Command::Access(args) => access::run(args),
            Command::Timeline(args) => timeline::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Completions(args) => completions::run(args),
        };
        done.unwrap_or_else(|e| crate::out::fail(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// clap checks names, groups and conflicts when it first builds a command, and in debug builds only.
    #[test]
    fn every_command_is_put_together_without_contradiction() {
        Cli::command().debug_assert();
    }
}
