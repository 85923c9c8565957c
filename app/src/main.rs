//! The front door: one binary `selvedge`. Arguments, configuration and logging are read here and nowhere else.
#![forbid(unsafe_code)]

mod client;
mod cmd;
mod log;
mod out;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cmd::Cli::parse();
    if cli.only_prints() {
        kernel::process::end_when_nobody_reads();
    }
    cli.run()
}
