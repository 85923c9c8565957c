//! `cargo xtask bench instructions`: what a packet costs, counted by callgrind, beside the limits in the repository.
//!
//! How: `pure/transport/benches/instructions.rs` is built as the release is, and runs once per path under callgrind, which
//! collects inside one function only. `instructions.toml` beside it keeps the counts that were accepted; one that is
//! more than [`SLACK_PERCENT`] above its limit is an error, one that far below is pointed out. `--write` accepts.
//!
//! Invariants: the same build gives the same counts, however busy the machine is and whoever calls.
//! Absent on purpose: times; caches; other architectures than the limits were counted on.

use crate::{output, root};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of the bench.
#[derive(Default, clap::Args)]
pub struct Args {
    /// Accept the counts: write them as the new limits
    #[arg(long)]
    write: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How far above its limit a count may be, percent.
const SLACK_PERCENT: u64 = 5;
/// Packets of the message, as the bench has it.
const PACKETS: u64 = 64;
const ARCHITECTURE: &str = "x86_64";
const PATHS: &[&str] = &["send", "receive", "acknowledge"];
const FILE: &str = "pure/transport/benches/instructions.toml";
const COMMAND: &str = "cargo xtask bench instructions --write";

/// What the repository keeps.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// The compiler they were counted with.
    rustc: String,
    /// Instructions of a message of [`PACKETS`] packets, by path.
    instructions: BTreeMap<String, u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Row {
    path: String,
    /// Of the whole message.
    instructions: u64,
    limit: u64,
    per_packet: u64,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Within,
    Above,
    /// So far below that the limit hides the next loss.
    Below,
}

/// Why nothing can be counted here.
pub fn missing() -> Option<String> {
    if std::env::consts::ARCH != ARCHITECTURE {
        return Some(format!("the limits are of {ARCHITECTURE}, this is {}", std::env::consts::ARCH));
    }
    let valgrind = output("valgrind", &["--version"]);
    valgrind.is_err().then(|| "valgrind is not installed (Debian package valgrind)".to_owned())
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(why) = missing() {
        bail!("instructions cannot be counted: {why}");
    }
    let counts = count(&build()?)?;
    let rustc = output("rustc", &["--version"])?;
    if args.write {
        let counted: String = counts.iter().map(|(path, n)| format!("{path} = {n}\n")).collect();
        let text = format!(
            "# Instructions of a message of {PACKETS} packets on {ARCHITECTURE}, made by `{COMMAND}`.\n\
             rustc = \"{rustc}\"\n\n[instructions]\n{counted}"
        );
        std::fs::write(root().join(FILE), &text).with_context(|| format!("writing {FILE}"))?;
        print!("{text}");
        return Ok(());
    }
    let text = std::fs::read_to_string(root().join(FILE))
        .with_context(|| format!("reading {FILE}; `{COMMAND}` makes it"))?;
    let limits: Limits =
        toml::from_str(&text).with_context(|| format!("reading {FILE}; `{COMMAND}` makes it anew"))?;
    let rows = judge(&counts, &limits.instructions)?;
    if args.json {
        println!("{}", serde_json::json!({ "rustc": rustc, "limits_rustc": limits.rustc, "paths": rows }));
    } else {
        for r in &rows {
            println!("{:12} {:6} instructions a packet, limit {}", r.path, r.per_packet, r.limit / PACKETS);
        }
    }
    for r in rows.iter().filter(|r| r.verdict == Verdict::Below) {
        eprintln!("note: {} costs much less than its limit; keep that: `{COMMAND}`", r.path);
    }
    let above: Vec<String> = rows
        .iter()
        .filter(|r| r.verdict == Verdict::Above)
        .map(|r| format!("{}: {} instructions, limit {}", r.path, r.instructions, r.limit))
        .collect();
    let compiler = if rustc == limits.rustc {
        String::new()
    } else {
        format!(" The limits are of {}, this is {rustc}: that may be all.", limits.rustc)
    };
    ensure!(
        above.is_empty(),
        "the transport costs more than {SLACK_PERCENT} % above its limits: {}.{compiler} Find out why; if it is worth \
         that, accept it with `{COMMAND}` and say in the commit what it buys",
        above.join("; ")
    );
    Ok(())
}

fn judge(counts: &BTreeMap<String, u64>, limits: &BTreeMap<String, u64>) -> Result<Vec<Row>> {
    ensure!(
        counts.keys().eq(limits.keys()),
        "{FILE} has limits for {:?}, expected {:?}; `{COMMAND}` makes it anew",
        limits.keys(),
        counts.keys()
    );
    let rows = counts.iter().zip(limits.values()).map(|((path, &instructions), &limit)| {
        let verdict = if instructions * 100 > limit * (100 + SLACK_PERCENT) {
            Verdict::Above
        } else if instructions * 100 < limit * (100 - SLACK_PERCENT) {
            Verdict::Below
        } else {
            Verdict::Within
        };
        Row { path: path.clone(), instructions, limit, per_packet: instructions / PACKETS, verdict }
    });
    Ok(rows.collect())
}

/// Builds the bench, and says where it is.
fn build() -> Result<PathBuf> {
    let args = ["bench", "--quiet", "--no-run", "--package", "selvedge-transport", "--bench", "instructions"];
    let told = output("cargo", &[&args[..], &["--message-format", "json"]].concat())?;
    let executable =
        told.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()).find_map(|m| {
            (m["target"]["name"] == "instructions").then(|| m["executable"].as_str().map(PathBuf::from))?
        });
    executable.context("cargo built the bench `instructions` and did not say where it is")
}

fn count(bench: &Path) -> Result<BTreeMap<String, u64>> {
    let out = bench.with_extension("callgrind");
    let (Some(folder), Some(name)) = (bench.parent(), bench.file_name()) else {
        bail!("expected the path of an executable, got {}", bench.display());
    };
    let mut counts = BTreeMap::new();
    for path in PATHS {
        let valgrind = Command::new("valgrind")
            .args(["-q", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_path*"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(Path::new(".").join(name))
            .arg(path)
            .current_dir(folder)
            // Arguments and environment lie on the stack, and how it is aligned shows in what a copy costs.
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .output()
            .context("starting valgrind")?;
        ensure!(
            valgrind.status.success(),
            "`{} {path}` under callgrind ended with {}: {}",
            bench.display(),
            valgrind.status,
            String::from_utf8_lossy(&valgrind.stderr).trim()
        );
        let profile = std::fs::read_to_string(&out).with_context(|| format!("reading {}", out.display()))?;
        let n = total(&profile).with_context(|| {
            format!("callgrind collected nothing in {}: has `counted_path` another name now?", out.display())
        })?;
        counts.insert((*path).to_owned(), n);
    }
    Ok(counts)
}

/// The instructions a profile of callgrind sums up to, unless none.
fn total(profile: &str) -> Option<u64> {
    let totals = profile.lines().find_map(|l| l.strip_prefix("totals:"))?;
    totals.split_whitespace().next()?.parse().ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_judged_by_its_limit() {
        let map = |n: [u64; 3]| PATHS.iter().map(|p| (*p).to_owned()).zip(n).collect::<BTreeMap<_, _>>();
        let rows = judge(&map([1_050, 1_051, 949]), &map([1_000; 3])).unwrap_or_default();
        let of = |path: &str| rows.iter().find(|r| r.path == path).map(|r| r.verdict);
        assert_eq!(of("send"), Some(Verdict::Within));
        assert_eq!(of("receive"), Some(Verdict::Above));
        assert_eq!(of("acknowledge"), Some(Verdict::Below));
        assert!(judge(&map([1; 3]), &BTreeMap::new()).is_err(), "limits for other paths");
    }

    #[test]
    fn nothing_collected_is_no_count() {
        assert_eq!(total("events: Ir\nsummary: 7 1\n\ntotals: 7 1\n"), Some(7));
        assert_eq!(total("events: Ir\nsummary: 0\n\ntotals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }
}
