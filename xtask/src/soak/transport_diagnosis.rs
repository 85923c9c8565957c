//! `cargo xtask soak transport-diagnosis`: a sick link named by nothing but what the transport saw.
//!
//! How: one source-routed lab whose agents do not probe; an all-reduce over hosts of alternating leaves, so that all
//! trunk links carry traffic of more than one pair, runs all the time. First a while in which nothing is broken. Then
//! again and again: one of the links that carry traffic loses a share of its packets, per wire segment; the first incident that names it (or its
//! class) is waited for, and any that does not is false; it is healed, and the incident has to close. Every run is
//! appended to a file named after the commit, so that a soak that was cut off goes on where it stopped.
//!
//! Beside the verdicts stands what was possible: packets that crossed the link until it was named, as the fault itself
//! counted them, over the least any test needs (docs/diagnosis.md).
//!
//! Invariants: whatever is broken is healed before the next run.
//! Absent on purpose: other faults than loss; probes.

use super::{CLOSE, Lab, commit, load, names, record};
use crate::root;
use anyhow::Context;
use fabric::Fabric;
use fabric::fault::{Fault, Target};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use wire::LinkId;

/// How often incidents are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long after the first verdict others may still come that are false.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the all-reduce runs before anything is expected of anybody.
const WARM_UP: Duration = Duration::from_secs(15);
/// Loss of a healthy path, as the engine takes it at least.
const HEALTHY: f64 = 1e-5;

#[derive(clap::Args)]
pub struct Args {
    /// Links that are broken, one after the other
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// Seconds without a fault before
    #[arg(long, default_value_t = 120)]
    quiet_seconds: u64,
    /// What is done to them
    #[arg(long, default_value = "drop 0.1%")]
    fault: String,
    /// Seconds a verdict may take
    #[arg(long, default_value_t = 10.0)]
    within: f64,
    /// Decides which
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fabric, source routed
    #[arg(long, default_value = "scenarios/quiet-16.toml")]
    fabric: PathBuf,
    /// Name of the lab
    #[arg(long, default_value = "soak-transport")]
    name: String,
    /// Ranks on each leaf
    #[arg(long, default_value_t = 2)]
    ranks_per_leaf: u32,
    /// KiB each rank has
    #[arg(long, default_value_t = 4096)]
    kibibytes: u64,
    /// The binary to soak
    #[arg(long, default_value = None)]
    binary: Option<PathBuf>,
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

pub fn run(args: &Args) -> anyhow::Result<()> {
    let commit = commit()?;
    std::fs::create_dir_all(&args.dir)?;
    let file = args.dir.join(format!("{commit}-transport-diagnosis.jsonl"));
    let done = Mutex::new(load(&file)?);
    if !args.summary {
        soak(args, &done, &file)?;
    }
    let done = done.into_inner().map_err(|_| anyhow::anyhow!("a soak thread panicked"))?;
    summary(args, &done, &commit)
}

/// The ranks' hosts, in the order of the ring: every leaf sends to as many others as it has ranks, each once, so that no two
/// links are always crossed together. It is a round trip over the edges from leaf l to l + 1, l + 2, …
fn ranks(fabric: &Fabric, per_leaf: u32) -> Vec<String> {
    let s = &fabric.shape;
    let per_leaf = per_leaf.clamp(1, s.hosts_per_leaf.min(s.leaves.saturating_sub(1)).max(1));
    let mut left = vec![per_leaf; s.leaves as usize];
    let (mut way, mut round) = (vec![0], Vec::new());
    while let Some(&leaf) = way.last() {
        match left.get_mut(leaf as usize) {
            Some(n) if *n > 0 => {
                way.push((leaf + *n) % s.leaves);
                *n -= 1;
            }
            _ => round.extend(way.pop()),
        }
    }
    // the last one is the first
    round.pop();
    let mut turns = vec![0; s.leaves as usize];
    let host = |leaf: &u32| {
        let turn = &mut turns[*leaf as usize];
        *turn += 1;
        format!("host{}", leaf * s.hosts_per_leaf + *turn - 1)
    };
    round.iter().rev().map(host).collect()
}

/// The links that carry traffic: those of every path from a rank to the next.
fn links(fabric: &Fabric, ranks: &[String]) -> anyhow::Result<Vec<LinkId>> {
    let mut all = BTreeSet::new();
    for (from, to) in ranks.iter().zip(ranks.iter().cycle().skip(1)) {
        let host = |name: &str| fabric.host_by_name(name).with_context(|| format!("no host {name}"));
        let (from, to) = (host(from)?, host(to)?);
        for a in fabric.host_nics(from) {
            for b in fabric.host_nics(to) {
                let paths = fabric.paths(a, b).filter_map(|p| fabric.path_links(p));
                paths.for_each(|links| all.extend(links.iter().copied()));
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// The all-reduce in the background, ended with this.
struct Traffic(Child);

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Traffic {
    fn start(args: &Args, lab: &Lab, ranks: &[String]) -> anyhow::Result<Traffic> {
        let child = Command::new(&lab.binary)
            .args(["bench", "collective", "--seconds", "86400", "--json", "--lab", &lab.name])
            .args(["--kibibytes", &args.kibibytes.to_string(), "--between"])
            .args(ranks)
            .current_dir(root())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Traffic(child))
    }

    fn check(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            Some(status) => anyhow::bail!("the all-reduce ended with {status}"),
            None => Ok(()),
        }
    }
}

/// Waits, and gives every incident that was open meanwhile.
fn watch(lab: &Lab, traffic: &mut Traffic, length: Duration) -> anyhow::Result<Vec<Value>> {
    let start = Instant::now();
    let mut seen = BTreeMap::new();
    while start.elapsed() < length {
        seen.extend(lab.open()?.into_iter().map(|i| (i["id"].to_string(), i)));
        traffic.check()?;
        std::thread::sleep(POLL);
    }
    Ok(seen.into_values().collect())
}

fn soak(args: &Args, done: &Mutex<Vec<Value>>, file: &PathBuf) -> anyhow::Result<()> {
    let is_done = |what: &str| done.lock().is_ok_and(|d| d.iter().any(|r| r["run"] == what));
    let left: Vec<usize> = (0..args.runs).filter(|i| !is_done(&i.to_string())).collect();
    let quiet = args.quiet_seconds > 0 && !is_done("quiet");
    if left.is_empty() && !quiet {
        return Ok(());
    }
    let lab = Lab::up_as(&args.name, &args.fabric, args.binary.clone(), &["--packets-per-second", "0"])?;
    let ranks = ranks(&lab.fabric, args.ranks_per_leaf);
    let links = links(&lab.fabric, &ranks)?;
    eprintln!("soak: {} ranks, {} directed links carry their traffic", ranks.len(), links.len());
    let mut traffic = Traffic::start(args, &lab, &ranks)?;
    let early = watch(&lab, &mut traffic, WARM_UP)?;
    if quiet {
        let mut seen = early;
        seen.extend(watch(&lab, &mut traffic, Duration::from_secs(args.quiet_seconds))?);
        eprintln!("soak: {} incidents in {} quiet seconds", seen.len(), args.quiet_seconds);
        record(done, file, json!({"run": "quiet", "seconds": args.quiet_seconds, "incidents": seen}))?;
    }
    lab.wait_closed()?;
    for index in left {
        let row = one(args, &lab, &mut traffic, &links, index)?;
        eprintln!(
            "soak {index:3}: {} {:<24} -> {:<24} {} s, {} packets ({} x the bound), {} false",
            if row["right"] == true { "right" } else { "WRONG" },
            row["target"].as_str().unwrap_or(""),
            row["found"].as_str().unwrap_or("nothing"),
            row["seconds"],
            row["packets"],
            row["ratio"],
            row["wrong"].as_array().map_or(0, Vec::len),
        );
        record(done, file, row)?;
    }
    Ok(())
}

/// Packets the fault has seen and hurt.
fn counted(lab: &Lab) -> anyhow::Result<(u64, u64)> {
    let text = lab.selvedge(&["lab", "faults", "--json", "--name", &lab.name])?;
    let all: Vec<Value> = serde_json::from_str(&text)?;
    let links = all.iter().flat_map(|f| f["counted"].as_array().into_iter().flatten());
    Ok(links.map(|l| &l["counters"]).fold((0, 0), |(seen, hurt), c| {
        let of = |name: &str| c[name].as_u64().unwrap_or(0);
        (seen + of("seen"), hurt + of("dropped") + of("flow_dropped") + of("flap_dropped"))
    }))
}

/// Packets over a link that loses a share p before any test with one false alarm a day can name it.
fn bound(links: usize, p: f64) -> f64 {
    let h = (links.max(1) as f64 * 86_400.0).ln();
    h / (p * (p / HEALTHY).ln() - p + HEALTHY)
}

fn one(
    args: &Args,
    lab: &Lab,
    traffic: &mut Traffic,
    links: &[LinkId],
    index: usize,
) -> anyhow::Result<Value> {
    // an odd factor of the number of links would be better than chance, and is not chance
    let mut x =
        args.seed.wrapping_mul(1_000_003).wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let link = links[(x >> 33) as usize % links.len()];
    let problem = |e: fabric::Problem| anyhow::anyhow!("{e}");
    let kind = args.fault.parse().map_err(problem)?;
    let fault = Fault::new(Target::Link(link), None, kind).map_err(problem)?;
    let accepted: BTreeSet<String> =
        fault.answers(&lab.fabric).into_iter().map(|c| lab.fabric.component_name(c)).collect();
    let target = lab.fabric.link_name(link);
    let is_right = |i: &Value| names(i).iter().any(|n| accepted.contains(*n));
    let mut command = vec!["lab", "fault", "--name", &lab.name, &target];
    command.extend(args.fault.split(' '));
    lab.selvedge(&command)?;
    let start = Instant::now();
    let (mut found, mut wrong) = (None, BTreeMap::new());
    let most = Duration::from_secs_f64(args.within * 3.0);
    loop {
        std::thread::sleep(POLL);
        traffic.check()?;
        let open = lab.open()?;
        let since = start.elapsed();
        wrong.extend(open.iter().filter(|i| !is_right(i)).map(|i| (i["id"].to_string(), i.clone())));
        if found.is_none()
            && let Some(right) = open.iter().find(|i| is_right(i))
        {
            found = Some((since, counted(lab)?, right.clone()));
        }
        if since > found.as_ref().map_or(most, |f| f.0 + SETTLE) {
            break;
        }
    }
    let all = counted(lab)?;
    lab.selvedge(&["lab", "heal", "--name", &lab.name, "--all"])?;
    let mut closed = None;
    let healed = Instant::now();
    while healed.elapsed() < CLOSE {
        let open = lab.open()?;
        wrong.extend(open.iter().filter(|i| !is_right(i)).map(|i| (i["id"].to_string(), i.clone())));
        if open.is_empty() {
            closed = Some(healed.elapsed().as_secs_f64());
            break;
        }
        std::thread::sleep(POLL);
    }
    let tenth = |s: f64| (s * 10.0).round() / 10.0;
    let seconds = found.as_ref().map(|f| tenth(f.0.as_secs_f64()));
    let packets = found.as_ref().map(|f| f.1.0);
    let rate = all.1 as f64 / all.0.max(1) as f64;
    let wanted: f64 =
        args.fault.rsplit(' ').next().and_then(|r| r.strip_suffix('%')?.parse().ok()).unwrap_or(0.0);
    let least = bound(lab.fabric.links().count(), wanted / 100.0);
    Ok(json!({
        "run": index.to_string(), "target": target, "fault": args.fault, "accepted": accepted,
        "right": seconds.is_some_and(|s| s <= args.within),
        "seconds": seconds, "packets": packets,
        "ratio": packets.map(|p| tenth(p as f64 / least)),
        "found": found.as_ref().and_then(|f| f.2["component"]["name"].as_str()),
        "alternatives": found.as_ref().map(|f| f.2["alternatives"].clone()),
        "packets_per_second": (all.0 as f64 / start.elapsed().as_secs_f64()).round(),
        "loss": rate,
        "closed_after": closed.map(tenth),
        "wrong": wrong.into_values().collect::<Vec<_>>(),
    }))
}

fn summary(args: &Args, rows: &[Value], commit: &str) -> anyhow::Result<()> {
    let runs: Vec<&Value> = rows.iter().filter(|r| r["right"].is_boolean()).collect();
    let count = |f: &dyn Fn(&Value) -> bool| runs.iter().filter(|r| f(r)).count();
    let median = |name: &str| {
        let mut all: Vec<f64> = runs.iter().filter_map(|r| r[name].as_f64()).collect();
        all.sort_by(f64::total_cmp);
        (all.get(all.len() / 2).copied(), all.last().copied())
    };
    let ((seconds, seconds_max), (ratio, _), (rate, _)) =
        (median("seconds"), median("ratio"), median("packets_per_second"));
    let quiet: Vec<&Value> = rows.iter().filter(|r| r["run"] == "quiet").collect();
    let row = json!({
        "name": "transport-diagnosis", "commit": commit, "fault": args.fault, "runs": runs.len(),
        "right": count(&|r| r["right"] == true),
        "found_late": count(&|r| r["right"] == false && r["seconds"].is_number()),
        "false_verdicts": runs.iter().map(|r| r["wrong"].as_array().map_or(0, Vec::len)).sum::<usize>(),
        "not_closed": count(&|r| r["closed_after"].is_null()),
        "seconds_p50": seconds, "seconds_max": seconds_max, "packets_over_bound_p50": ratio,
        "packets_per_second_p50": rate,
        "quiet_seconds": quiet.iter().filter_map(|r| r["seconds"].as_u64()).sum::<u64>(),
        "quiet_incidents": quiet.iter().map(|r| r["incidents"].as_array().map_or(0, Vec::len)).sum::<usize>(),
    });
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "rows": [row] }))?);
        return Ok(());
    }
    let mut t = comfy_table::Table::new();
    t.load_style(comfy_table::presets::NOTHING)
        .set_header(["link", "named", "s", "packets", "x bound", "closed"]);
    let text = |v: &Value| v.as_f64().map_or("-".to_owned(), |n| n.to_string());
    for r in &runs {
        t.add_row([
            r["target"].as_str().unwrap_or("").to_owned(),
            r["found"].as_str().unwrap_or("nothing").to_owned(),
            text(&r["seconds"]),
            text(&r["packets"]),
            text(&r["ratio"]),
            text(&r["closed_after"]),
        ]);
    }
    println!("{t}");
    println!(
        "commit {commit}: {} of {} named within {} s of {:?}, {} false verdicts, {} not closed in time; {} incidents in {} quiet seconds",
        row["right"],
        row["runs"],
        args.within,
        args.fault,
        row["false_verdicts"],
        row["not_closed"],
        row["quiet_incidents"],
        row["quiet_seconds"],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_crosses_every_trunk_link() {
        let text = std::fs::read_to_string(root().join("scenarios/quiet-16.toml")).unwrap_or_default();
        let fabric = fabric::Scenario::parse(&text).map(|s| s.fabric).ok();
        let fabric = fabric.as_ref();
        let ranks = fabric.map(|f| ranks(f, 2)).unwrap_or_default();
        let leaf = |name: &String| name["host".len()..].parse::<u32>().unwrap_or_default() / 4;
        let pairs: BTreeSet<_> =
            ranks.iter().zip(ranks.iter().cycle().skip(1)).map(|(a, b)| (leaf(a), leaf(b))).collect();
        assert_eq!((ranks.len(), pairs.len()), (8, 8), "{ranks:?}");
        assert!(pairs.iter().all(|(a, b)| a != b), "{pairs:?}");
        let links = fabric.and_then(|f| links(f, &ranks).ok()).unwrap_or_default();
        // two planes of 4 x 4 cables both ways, and eight hosts of two cables both ways
        assert_eq!(links.len(), 64 + 32);
    }
}
