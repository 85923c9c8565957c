//! `selvedge completions SHELL`.

use clap::CommandFactory;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  selvedge completions bash > /etc/bash_completion.d/selvedge")]
pub(crate) struct Args {
    /// Shell to print for
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "selvedge", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
