//! `cargo xtask soak seeds`: many short exchanges of the transport in the simulator, counted by commit.
//!
//! How: the release build of `selvedge sim seeds` runs them in parts; each part is a line in a file named after the
//! commit, so that a run that was cut off goes on where it stopped. Unless told otherwise a commit begins where all
//! before it ended, so that seeds are new ones.
//!
//! Absent on purpose: any knowledge of what an exchange is.

use crate::soak::{commit, load};
use crate::{output, root, sh};
use anyhow::Context;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Seeds for this commit in all, those run before included
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// First seed, where the commit has none yet [default: after the last of all commits]
    #[arg(long)]
    from: Option<u64>,
    /// Seeds of one part: what a run that is cut off loses
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    part: u64,
    /// Where results are kept
    #[arg(long, default_value = ".soak")]
    dir: PathBuf,
    /// Print the summary of what was run so far, and run nothing
    #[arg(long)]
    summary: bool,
    /// Machine-readable summary
    #[arg(long)]
    json: bool,
}

fn number(v: &Value) -> u64 {
    v.as_u64().unwrap_or(0)
}

/// Commits with what was run on each, in the order of their files' last change.
fn commits(dir: &Path) -> anyhow::Result<Vec<(String, Vec<Value>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(commit) = name.strip_prefix("seeds-").and_then(|n| n.strip_suffix(".jsonl")) {
            let changed = entry.metadata().and_then(|m| m.modified()).ok();
            found.push((changed, commit.to_owned(), load(&entry.path())?));
        }
    }
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    Ok(found.into_iter().map(|(_, commit, rows)| (commit, rows)).collect())
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = root().join(&args.dir);
    std::fs::create_dir_all(&dir)?;
    let commit = commit()?;
    if !args.summary {
        soak(args, &dir, &commit)?;
    }
    summary(args, &dir)
}

fn soak(args: &Args, dir: &Path, commit: &str) -> anyhow::Result<()> {
    let file = dir.join(format!("seeds-{commit}.jsonl"));
    let rows = load(&file)?;
    let end = |rows: &[Value]| rows.iter().map(|r| number(&r["from"]) + number(&r["count"])).max();
    let done: u64 = rows.iter().map(|r| number(&r["count"])).sum();
    let mut left = args.count.saturating_sub(done);
    let mut from = match (end(&rows), args.from) {
        (Some(end), _) => end,
        (None, Some(from)) => from,
        (None, None) => commits(dir)?.iter().filter_map(|(_, rows)| end(rows)).max().unwrap_or(0),
    };
    if left == 0 {
        return Ok(());
    }
    sh("cargo", &["build", "--release", "--quiet", "--package", "selvedge"])?;
    let meta: Value =
        serde_json::from_str(&output("cargo", &["metadata", "--format-version", "1", "--no-deps"])?)?;
    let target = meta["target_directory"].as_str().context("cargo metadata names the target directory")?;
    let binary = PathBuf::from(target).join("release/selvedge");
    while left > 0 {
        let count = left.min(args.part);
        let out = Command::new(&binary)
            .args(["sim", "seeds", "--json", "--from", &from.to_string(), "--count", &count.to_string()])
            .current_dir(root())
            .stderr(std::process::Stdio::inherit())
            .output()?;
        // 3 says that a law was broken, which is an answer
        anyhow::ensure!(
            matches!(out.status.code(), Some(0 | 3)),
            "`selvedge sim seeds` ended with {}",
            out.status
        );
        let row: Value = serde_json::from_slice(&out.stdout)?;
        eprintln!(
            "soak seeds {from}..{}: {} failed, {:.0} seeds a CPU-second",
            from + count,
            row["failed"],
            row["seeds_per_cpu_s"].as_f64().unwrap_or(0.0)
        );
        let mut f = std::fs::OpenOptions::new().create(true).append(true).open(&file)?;
        writeln!(f, "{row}")?;
        f.sync_all()?;
        (from, left) = (from + count, left - count);
    }
    Ok(())
}

fn summary(args: &Args, dir: &Path) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    for (commit, parts) in commits(dir)? {
        let sum = |f: &dyn Fn(&Value) -> u64| parts.iter().map(f).sum::<u64>();
        let cpu_s: f64 = parts.iter().filter_map(|r| r["cpu_s"].as_f64()).sum();
        let seeds = sum(&|r| number(&r["count"]));
        let first = parts.iter().map(|r| number(&r["from"])).min();
        let last = parts.iter().map(|r| number(&r["from"]) + number(&r["count"])).max();
        rows.push(json!({
            "name": commit, "seeds": seeds, "failed": sum(&|r| number(&r["failed"])),
            "messages": sum(&|r| number(&r["tally"]["messages"])),
            "packets": sum(&|r| number(&r["tally"]["packets"])),
            "restarts": sum(&|r| number(&r["tally"]["restarts"])),
            "from": first, "to": last,
            "seeds_per_cpu_s": if cpu_s > 0.0 { (seeds as f64 / cpu_s).round() } else { 0.0 },
        }));
        let of = parts.iter().flat_map(|r| r["broken"].as_array().into_iter().flatten());
        broken.extend(of.map(|b| (commit.clone(), b.clone())));
    }
    let total: u64 = rows.iter().map(|r| number(&r["seeds"])).sum();
    let failed: u64 = rows.iter().map(|r| number(&r["failed"])).sum();
    if args.json {
        let broken: Vec<Value> = broken.into_iter().map(|(c, b)| json!({"commit": c, "broken": b})).collect();
        let all = json!({ "rows": rows, "seeds": total, "failed": failed, "broken": broken });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        let mut t = comfy_table::Table::new();
        let head = [
            "commit",
            "seeds",
            "failed",
            "from",
            "to",
            "messages",
            "packets",
            "restarts",
            "seeds a CPU-second",
        ];
        t.load_style(comfy_table::presets::NOTHING).set_header(head);
        for r in &rows {
            let text = |key: &str| r[key].as_f64().map_or("-".into(), |n| format!("{n:.0}"));
            let mut cells = vec![r["name"].as_str().unwrap_or("").to_owned()];
            cells.extend(
                ["seeds", "failed", "from", "to", "messages", "packets", "restarts", "seeds_per_cpu_s"]
                    .map(text),
            );
            t.add_row(cells);
        }
        println!("{t}");
        for (commit, b) in &broken {
            let (seed, law) = (&b["seed"], b["law"].as_str().unwrap_or(""));
            println!("{commit}: seed {seed} broke {law}: {}", b["detail"].as_str().unwrap_or(""));
            println!(
                "  again: git checkout {commit} && cargo run --release -- sim seeds --from {seed} --count 1 --plan"
            );
        }
        println!("{total} seeds, {failed} with a broken law");
    }
    anyhow::ensure!(failed == 0, "{failed} seeds broke a law");
    Ok(())
}
