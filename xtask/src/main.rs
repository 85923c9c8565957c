//! The tool shed: what builds, checks, measures and soaks the project. `cargo xtask --help`.
//!
//! One file per tool. Nothing here is needed to build or to run the product.

mod answers;
mod bench_failure;
mod bench_instructions;
mod bench_localizer;
mod bench_scale;
mod bench_transport;
mod ci;
mod fuzz;
mod pages;
mod security;
mod soak;
mod soak_seeds;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI checks: tidy, format, clippy, licences, no_std, all tests
    Ci(ci::Args),
    /// Check the house rules that no compiler checks
    Tidy,
    /// Measure
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Break random things in a running lab, again and again, and judge every verdict (root); or exchanges of the
    /// transport by the million
    Soak(Box<soak::Args>),
    /// The browser tests, on a hub fed by a lab with a real fault (root, Node, Chromium)
    Pages(pages::Args),
    /// Break each promise of SECURITY.md on purpose, against a real hub: refused, counted and audited?
    Security(security::Args),
    /// The same SQL through the command line, Flight SQL, and DuckDB and Polars on the tables themselves: equal? (PyPI)
    Answers(answers::Args),
    /// Fuzz the decoders and state machines that face the network (nightly, cargo-fuzz)
    Fuzz(fuzz::Args),
}

#[derive(Subcommand)]
enum Bench {
    /// Precision, recall and speed of the localizer on recorded traces, and its scale
    Localizer(bench_localizer::Args),
    /// Instructions a packet costs the transport, beside the limits in the repository (valgrind)
    Instructions(bench_instructions::Args),
    /// What a path's death, loss, slowness or flapping costs, beside MPTCP, TCP and quinn (root)
    Failure(bench_failure::Args),
    /// Gigabits a CPU-second of the transport, beside quinn, noq, s2n-quic, TCP and the ceiling
    Transport(bench_transport::Args),
    /// What the sensors cost the traffic of a host: `selvedge bench agent`, built for release (root)
    Agent(Passed),
    /// Flow records a CPU-second from UDP to durable tables, beside nfcapd and nfacctd: `selvedge bench receive`
    Receive(Passed),
}

/// Arguments of the binary's own bench.
#[derive(clap::Args)]
struct Passed {
    /// Handed on; `-- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Passed {
    fn run(&self, bench: &str) -> anyhow::Result<()> {
        sh("cargo", &["build", "--release", "--package", "selvedge"])?;
        let mut all = vec!["run", "--release", "--quiet", "--package", "selvedge", "--", "bench", bench];
        all.extend(self.arguments.iter().map(String::as_str));
        sh("cargo", &all)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Ci(args) => ci::run(&args),
        Task::Tidy => tidy::run(),
        Task::Bench { what: Bench::Localizer(args) } => bench_localizer::run(args),
        Task::Bench { what: Bench::Instructions(args) } => bench_instructions::run(&args),
        Task::Bench { what: Bench::Failure(args) } => bench_failure::run(&args),
        Task::Bench { what: Bench::Transport(args) } => bench_transport::run(&args),
        Task::Bench { what: Bench::Agent(args) } => args.run("agent"),
        Task::Bench { what: Bench::Receive(args) } => args.run("receive"),
        Task::Soak(args) => soak::run(&args),
        Task::Pages(args) => pages::run(&args),
        Task::Security(args) => security::run(&args),
        Task::Answers(args) => answers::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// A command without what cargo tells this tool about its own package. Build scripts (ring's) run again where these
/// variables differ, and then everything above them is built again, DataFusion included: ten minutes for nothing each
/// time one goes from `cargo build` to `cargo xtask` and back.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let of_package =
            name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
        if of_package {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command in the root, its output going where ours goes.
fn sh(program: &str, args: &[&str]) -> anyhow::Result<()> {
    eprintln!("$ {program} {}", args.join(" "));
    let status = command(program).args(args).current_dir(root()).status()?;
    anyhow::ensure!(status.success(), "`{program} {}` ended with {status}", args.join(" "));
    Ok(())
}

/// What a command prints on standard output, trimmed; an error where it fails.
fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let out = command(program).args(args).current_dir(root()).output()?;
    anyhow::ensure!(
        out.status.success(),
        "`{program} {}` ended with {}: {}",
        args.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
