//! `cargo xtask soak`: breaks random components of running labs, again and again, and judges every verdict.
//!
//! How: one lab per forwarding mode stays up for the whole soak. Each run picks a component and a fault from the seed,
//! breaks it through `selvedge lab fault`, waits for the incident, lets it settle, judges it, heals, and waits for the
//! incident to close. Then both labs stay quiet for a while, and any incident is a false one. Every run is appended to
//! a file named after the commit, so that a soak that was cut off goes on where it stopped.
//!
//! Right means: the most confident open incident names the broken component or one of its class. Wrong with confidence
//! means: at any moment an incident with confidence above 0.9 was open that names neither.

mod hub;
mod transport_diagnosis;

use crate::{output, root, soak_seeds};
use anyhow::Context;
use fabric::Fabric;
use fabric::fault::{Direction, Fault, Target};
use fabric::scenario::Scenario;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often incidents are looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long a first verdict may still change its mind before it is judged.
const SETTLE: Duration = Duration::from_secs(4);
/// How long a healed incident may stay open before the run says so.
const CLOSE: Duration = Duration::from_secs(90);

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Runs in all, spread evenly over fault kinds and modes
    #[arg(long, default_value_t = 100)]
    runs: usize,
    /// Minutes without a fault at the end
    #[arg(long, default_value_t = 10)]
    quiet_minutes: u64,
    /// Seed of targets and rates
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fabric in SRv6 mode
    #[arg(long, default_value = "scenarios/quiet-16.toml")]
    srv6: PathBuf,
    /// Fabric in ECMP mode
    #[arg(long, default_value = "scenarios/quiet-16-ecmp.toml")]
    ecmp: PathBuf,
    /// Where results are kept
    #[arg(long, default_value = ".soak")]
    dir: PathBuf,
    /// Print the summary of what was run so far, and run nothing
    #[arg(long)]
    summary: bool,
    /// Only fault kinds whose text starts so
    #[arg(long)]
    only: Option<String>,
    /// Machine-readable summary
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum What {
    /// Hubs killed at random moments, taken over, and their disk full and read-only, with every observation accounted for
    /// (root)
    Hub(hub::Args),
    /// Links that lose 0.1 % under an all-reduce, named by what the transport saw alone (root)
    TransportDiagnosis(transport_diagnosis::Args),
    /// Short exchanges of the transport in the simulator: every message once and bit-equal, counted by commit
    Seeds(soak_seeds::Args),
}

/// The fault kinds of the product: target and direction, kind, and the seconds a verdict may take.
const KINDS: &[(&str, Option<Direction>, &str, u64)] = &[
    ("random-link", None, "drop 1%", 45),
    ("random-link", None, "drop 0.1%", 150),
    ("random-link", None, "drop 10%", 30),
    ("random-link", None, "drop 100%", 30),
    ("random-trunk", Some(Direction::Both), "drop 2%", 45),
    ("random-link", None, "blackhole 30%", 45),
    ("random-link", None, "corrupt 2%", 45),
    ("random-link", None, "reorder 10% delay 5ms", 45),
    ("random-link", None, "ecn 10%", 45),
    ("random-link", None, "rate-limit 100kbit/s", 60),
    ("random-link", None, "delay 5ms", 45),
    ("random-link", None, "delay 10ms jitter 5ms", 45),
    ("random-trunk", None, "down", 45),
    ("random-link", None, "flap period 2s duty 30%", 45),
    ("random-switch", None, "drop 1%", 45),
    ("random-switch", None, "drop 100%", 45),
    ("random-switch/50%", None, "drop 3%", 45),
    ("random-nic", None, "drop 3%", 45),
    ("random-host", None, "cpu-stall stopped 100ms period 400ms", 45),
    ("random-host", None, "agent-stop", 45),
];

pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        Some(What::Hub(args)) => return hub::run(args),
        Some(What::TransportDiagnosis(args)) => return transport_diagnosis::run(args),
        Some(What::Seeds(args)) => return soak_seeds::run(args),
        None => {}
    }
    let commit = commit()?;
    std::fs::create_dir_all(&args.dir)?;
    let file = args.dir.join(format!("{commit}.jsonl"));
    if args.summary {
        return summary(args, &load(&file)?, &commit);
    }
    // The binary is what `make soak` has just built.
    anyhow::ensure!(binary()?.exists(), "build first: `cargo build --package selvedge`, or `make soak`");
    let done = Mutex::new(load(&file)?);
    let modes = [("srv6", &args.srv6), ("ecmp", &args.ecmp)];
    std::thread::scope(|scope| {
        let threads: Vec<_> = modes
            .iter()
            .enumerate()
            .map(|(m, (mode, spec))| {
                let (done, file) = (&done, &file);
                scope.spawn(move || lab(args, mode, m, spec, done, file))
            })
            .collect();
        for t in threads {
            t.join().map_err(|_| anyhow::anyhow!("a soak thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let done = done.into_inner().map_err(|_| anyhow::anyhow!("a soak thread panicked"))?;
    summary(args, &done, &commit)
}

/// The commit the figures belong to; with `-dirty` where the tree differs from it.
pub fn commit() -> anyhow::Result<String> {
    let dirty = !output("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Ok(output("git", &["rev-parse", "--short=12", "HEAD"])? + if dirty { "-dirty" } else { "" })
}

pub fn load(file: &Path) -> anyhow::Result<Vec<Value>> {
    let Ok(text) = std::fs::read_to_string(file) else { return Ok(Vec::new()) };
    // a line cut off by a crash is not a result
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

fn record(done: &Mutex<Vec<Value>>, file: &PathBuf, row: Value) -> anyhow::Result<()> {
    let mut done = done.lock().map_err(|_| anyhow::anyhow!("a soak thread panicked"))?;
    let mut f = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(f, "{row}")?;
    f.sync_all()?;
    done.push(row);
    Ok(())
}

struct Lab {
    name: String,
    binary: PathBuf,
    fabric: Fabric,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(e) = self.selvedge(&["lab", "down", "--name", &self.name]) {
            eprintln!("soak: {} could not be taken down: {e:#}", self.name);
        }
    }
}

impl Lab {
    fn up(mode: &str, spec: &PathBuf) -> anyhow::Result<Lab> {
        Lab::up_as(&format!("soak-{mode}"), spec, None, &[])
    }

    /// A lab with this name, of the binary that was just built or of another one.
    fn up_as(name: &str, spec: &PathBuf, binary: Option<PathBuf>, options: &[&str]) -> anyhow::Result<Lab> {
        let binary = binary.map_or_else(self::binary, Ok)?;
        let text = std::fs::read_to_string(root().join(spec)).with_context(|| spec.display().to_string())?;
        let scenario = Scenario::parse(&text)
            .map_err(|e| anyhow::anyhow!("{}", e.located(&spec.display().to_string())))?;
        let spec = spec.display().to_string();
        let lab = Lab { name: name.to_owned(), binary, fabric: scenario.fabric };
        lab.selvedge(&[&["lab", "up", &spec, "--name", &lab.name][..], options].concat())?;
        Ok(lab)
    }

    fn selvedge(&self, args: &[&str]) -> anyhow::Result<String> {
        let out = Command::new(&self.binary).args(args).current_dir(root()).output()?;
        // 3 says "not well", which is an answer
        anyhow::ensure!(
            matches!(out.status.code(), Some(0 | 3)),
            "`selvedge {}` ended with {}: {}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Incidents that are open, most confident first.
    fn open(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.selvedge(&["incidents", "--json", "--lab", &self.name])?;
        let all: Vec<Value> = serde_json::from_str(&text)?;
        Ok(all.into_iter().filter(|i| i["state"] != "closed").collect())
    }

    /// Waits until no incident is open. Gives the seconds, or `None` where they stayed open.
    fn wait_closed(&self) -> anyhow::Result<Option<f64>> {
        let start = Instant::now();
        while start.elapsed() < CLOSE {
            if self.open()?.is_empty() {
                return Ok(Some(start.elapsed().as_secs_f64()));
            }
            std::thread::sleep(POLL);
        }
        Ok(None)
    }
}

pub fn binary() -> anyhow::Result<PathBuf> {
    Ok(PathBuf::from(crate::bench_transport::target()?).join("debug/selvedge"))
}

struct Trial {
    fault: Fault,
    /// Names any of which is right.
    accepted: BTreeSet<String>,
    seconds_max: u64,
}

fn trial(fabric: &Fabric, seed: u64, index: usize) -> anyhow::Result<Trial> {
    let (target, direction, kind, seconds_max) = KINDS[index % KINDS.len()];
    let target = Target::parse(fabric, target).map_err(|e| anyhow::anyhow!("{e}"))?;
    let kind = kind.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let fault = Fault::new(target, direction, kind).map_err(|e| anyhow::anyhow!("{e}"))?;
    let fault = fault.resolve(fabric, seed.wrapping_mul(1_000_003).wrapping_add(index as u64));
    let accepted = fault.answers(fabric).into_iter().map(|c| fabric.component_name(c)).collect();
    Ok(Trial { fault, accepted, seconds_max })
}

fn names(incident: &Value) -> Vec<&str> {
    let alternatives = incident["alternatives"].as_array().into_iter().flatten().filter_map(|a| a.as_str());
    incident["component"]["name"].as_str().into_iter().chain(alternatives).collect()
}

fn lab(
    args: &Args,
    mode: &str,
    number: usize,
    spec: &PathBuf,
    done: &Mutex<Vec<Value>>,
    file: &PathBuf,
) -> anyhow::Result<()> {
    let is_done = |what: &str| done.lock().is_ok_and(|d| d.iter().any(|r| r["run"] == what));
    // even kinds start in one mode, odd in the other, so that every kind is tried in both
    let mine: Vec<usize> = (0..args.runs)
        .filter(|i| (i + i / KINDS.len()) % 2 == number)
        .filter(|i| args.only.as_ref().is_none_or(|o| KINDS[i % KINDS.len()].2.starts_with(o.as_str())))
        .filter(|i| !is_done(&i.to_string()))
        .collect();
    let quiet = format!("quiet-{mode}");
    let quiet_left = args.quiet_minutes > 0 && !is_done(&quiet);
    if mine.is_empty() && !quiet_left {
        return Ok(());
    }
    let lab = Lab::up(mode, spec)?;
    lab.wait_closed()?;
    for index in mine {
        let row = one(&lab, mode, args.seed, index)?;
        eprintln!(
            "soak {mode} {index:3}: {} {:<28} {} -> {} ({}) {}",
            if row["right"] == true { "right" } else { "WRONG" },
            row["target"].as_str().unwrap_or(""),
            row["kind"].as_str().unwrap_or(""),
            row["found"].as_str().unwrap_or("nothing"),
            row["confidence"],
            row["seconds"],
        );
        record(done, file, row)?;
    }
    if quiet_left {
        let start = Instant::now();
        let mut seen = BTreeMap::new();
        while start.elapsed() < Duration::from_secs(60 * args.quiet_minutes) {
            for i in lab.open()? {
                seen.insert(i["id"].to_string(), i);
            }
            std::thread::sleep(POLL);
        }
        let seen: Vec<Value> = seen.into_values().collect();
        eprintln!("soak {mode}: {} incidents in {} quiet minutes", seen.len(), args.quiet_minutes);
        record(
            done,
            file,
            json!({"run": quiet, "mode": mode, "minutes": args.quiet_minutes, "incidents": seen}),
        )?;
    }
    Ok(())
}

fn one(lab: &Lab, mode: &str, seed: u64, index: usize) -> anyhow::Result<Value> {
    let t = trial(&lab.fabric, seed, index)?;
    let target = t.fault.target.name(&lab.fabric);
    let (kind, direction) = (t.fault.kind.to_string(), t.fault.direction.to_string());
    let is_right = |i: &Value| names(i).iter().any(|n| t.accepted.contains(*n));
    let mut command = vec!["lab", "fault", "--name", &lab.name, "--direction", &direction, &target];
    command.extend(kind.split(' '));
    lab.selvedge(&command)?;
    let start = Instant::now();
    let (mut first, mut found, mut wrong) = (None, Vec::new(), BTreeMap::new());
    while start.elapsed() < Duration::from_secs(t.seconds_max) {
        std::thread::sleep(POLL);
        let open = lab.open()?;
        for i in open.iter().filter(|i| i["confidence"].as_f64().unwrap_or(0.0) > 0.9 && !is_right(i)) {
            wrong.insert(i["id"].to_string(), i.clone());
        }
        if !open.is_empty() {
            let since = *first.get_or_insert(start.elapsed());
            found = open;
            if start.elapsed() - since > SETTLE && found.first().is_some_and(is_right) {
                break;
            }
        }
    }
    lab.selvedge(&["lab", "heal", "--name", &lab.name, "--all"])?;
    let closed = lab.wait_closed()?;
    let top = found.first();
    Ok(json!({
        "run": index.to_string(), "mode": mode, "target": target, "kind": kind, "direction": direction, "accepted": t.accepted,
        "right": top.is_some_and(is_right),
        "found": top.and_then(|i| i["component"]["name"].as_str()),
        "found_kind": top.map(|i| i["fault"]["kind"].clone()),
        "confidence": top.map(|i| i["confidence"].clone()),
        "others": found.iter().skip(1).map(|i| i["component"]["name"].clone()).collect::<Vec<_>>(),
        "seconds": first.map(|d| (d.as_secs_f64() * 10.0).round() / 10.0),
        "closed_after": closed,
        "wrong_confident": wrong.into_values().collect::<Vec<_>>(),
    }))
}

fn summary(args: &Args, rows: &[Value], commit: &str) -> anyhow::Result<()> {
    let runs: Vec<&Value> = rows.iter().filter(|r| r["right"].is_boolean()).collect();
    let mut table: BTreeMap<String, (usize, usize, Vec<f64>)> = BTreeMap::new();
    for r in &runs {
        let on = if r["target"].as_str().is_some_and(|t| t.contains(':')) { "link" } else { "device" };
        let key = format!(
            "{} on {on} ({})",
            r["kind"].as_str().unwrap_or("?"),
            r["direction"].as_str().unwrap_or("?")
        );
        let e = table.entry(key).or_default();
        e.0 += 1;
        e.1 += usize::from(r["right"] == true);
        e.2.extend(r["seconds"].as_f64());
    }
    let right = runs.iter().filter(|r| r["right"] == true).count();
    let wrong: usize = runs.iter().map(|r| r["wrong_confident"].as_array().map_or(0, Vec::len)).sum();
    let unclosed = runs.iter().filter(|r| r["closed_after"].is_null()).count();
    let quiet: Vec<&Value> = rows.iter().filter(|r| r["minutes"].is_number()).collect();
    let false_alarms: usize = quiet.iter().map(|r| r["incidents"].as_array().map_or(0, Vec::len)).sum();
    let minutes: u64 = quiet.iter().filter_map(|r| r["minutes"].as_u64()).sum();
    let mut out = Vec::new();
    for (name, (n, ok, mut seconds)) in table {
        seconds.sort_by(f64::total_cmp);
        let p50 = seconds.get(seconds.len() / 2).copied();
        out.push(
            json!({"name": name, "runs": n, "right": ok, "seconds_p50": p50, "seconds_max": seconds.last()}),
        );
    }
    out.push(json!({
        "name": "all", "runs": runs.len(), "right": right, "wrong_above_0_9": wrong, "not_closed": unclosed,
        "quiet_minutes": minutes, "quiet_incidents": false_alarms, "commit": commit,
    }));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "rows": out }))?);
        return Ok(());
    }
    let mut t = comfy_table::Table::new();
    t.load_style(comfy_table::presets::NOTHING).set_header(["fault", "runs", "right", "s p50", "s max"]);
    for r in out.iter().filter(|r| r["name"] != "all") {
        let text = |v: &Value| v.as_f64().map_or("-".into(), |s| format!("{s:.1}"));
        t.add_row([
            r["name"].as_str().unwrap_or("").to_owned(),
            r["runs"].to_string(),
            r["right"].to_string(),
            text(&r["seconds_p50"]),
            text(&r["seconds_max"]),
        ]);
    }
    println!("{t}");
    println!(
        "commit {commit}: {right} of {} right, {wrong} wrong with confidence above 0.9, {unclosed} not closed in time",
        runs.len()
    );
    println!("{false_alarms} incidents in {minutes} quiet minutes (both modes added)");
    Ok(())
}
