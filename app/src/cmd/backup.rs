//! `selvedge backup` and `selvedge restore`: everything a hub remembers, copied while it runs, and brought back.

use crate::out;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

const BACKUP: &str = "Examples:
  selvedge backup --data /var/lib/selvedge --to /backup/selvedge
  selvedge backup --data /var/lib/selvedge --to /backup/selvedge --keep 14

The hub goes on meanwhile: whatever was durable when the backup began is in it, once. Each backup is a directory of its own,
and whole; files that did not change are shared with the one before (hard links), so that one a day costs a day. Send them
elsewhere with any tool that copies files. Exit codes: 0 done, 1 nothing was changed.";

const RESTORE: &str = "Examples:
  selvedge restore /backup/selvedge/backup-1769829128204 --data /var/lib/selvedge-restored
  selvedge hub ... --data /var/lib/selvedge-restored

Every file is checked against what was backed up. The directory must be empty or not there: what a hub uses is never
written over. What agents reported after the backup is gone, except for what they have not had acknowledged; that comes
again. Exit codes: 0 done, 1 nothing was changed.";

#[derive(clap::Args)]
#[command(after_help = BACKUP)]
pub(crate) struct BackupArgs {
    /// The hub's directory
    #[arg(long, value_name = "DIR")]
    data: hub::Place,
    /// Where backups are kept; made if it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// How many stay; older ones are removed after this one is whole
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keep: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = RESTORE)]
pub(crate) struct RestoreArgs {
    /// The backup, a directory that `selvedge backup` printed
    backup: PathBuf,
    /// Where it goes: empty, or not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A bar on a terminal, and nothing elsewhere.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{pos} of {len} files {wide_bar} {elapsed}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn tell(verb: &str, copied: &hub::backup::Copied, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        out::json(&json!({
            "place": copied.place, "files": copied.files, "bytes": copied.bytes, "shared": copied.shared,
            "removed": copied.removed,
        }))?;
    } else {
        let mut also = String::new();
        if copied.shared > 0 {
            also.push_str(&format!(", {} of them shared with the backup before", copied.shared));
        }
        if copied.removed > 0 {
            also.push_str(&format!("; older backups removed: {}", copied.removed));
        }
        let megabytes = copied.bytes as f64 / 1e6;
        eprintln!("{verb} {} files, {megabytes:.1} MB{also}", copied.files);
        println!("{}", copied.place.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let data = args.data.directory().context(
        "a bucket is not copied: its objects are made once and never changed, so its own versioning or replication keeps \
         them; restore a state of it by serving a copy",
    )?;
    let bar = bar();
    let keep = usize::try_from(args.keep)?;
    let copied = hub::backup::backup(data, &args.to, keep, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    tell("backed up", &copied?, args.json)
}

pub(crate) fn run_restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let bar = bar();
    let copied = hub::backup::restore(&args.backup, &args.data, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    tell("restored", &copied?, args.json)
}
