//! What every command says the same way: errors, exit codes, JSON.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

/// The command could not do what was asked (bad input, nothing there, no answer).
pub(crate) const FAILED: u8 = 1;
/// It worked, and the answer is "not well": incidents are open, a check found something, a verdict was wrong.
pub(crate) const NOT_WELL: u8 = 3;

/// Prints an error with its causes on standard error, one line each, and gives the exit code.
pub(crate) fn fail(e: &anyhow::Error) -> ExitCode {
    eprintln!("error: {e}");
    for cause in e.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::from(FAILED)
}

/// Whether standard output is a terminal whose user wants colours.
pub(crate) fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints a value as JSON on standard output, indented, ending in a newline.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
