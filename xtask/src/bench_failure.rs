//! `cargo xtask bench failure`: what a path's death, loss, slowness or flapping costs the transport, beside MPTCP, TCP and
//! quinn on the same fabric.
//!
//! How: a bare lab of two planes with four spines each, every way out of the senders' leaf limited to `--mbits`, so that
//! the eight paths and not the processor are the bottleneck. Each transport runs for some seconds; in the middle the
//! link it uses most is broken, so that a transport of one path meets the fault too. The receiving application says what
//! it had when (`bench/src/bin/arrivals.rs`). The control is the same without a fault, in the same round.
//!
//! Invariants: every transport and case runs in every round; a run that fails is told and left
//! out of the medians, whose rows say how many runs they are of.
//! Absent on purpose: fabrics of other machines.

use crate::{output, root, sh};
use anyhow::Context;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Leaf of the sender, and the spines of each plane.
const LEAF: &str = "leaf0";
const PLANES: usize = 2;
const SPINES: usize = 4;
/// Ends, on different leaves.
const HOSTS: [&str; 2] = ["host0", "host9"];
/// What is in the middle of a run: seconds before the fault, and after it.
const BEFORE: f64 = 1.5;
const AFTER: f64 = 2.0;
/// Least part of what seven of eight paths of the control carry.
const SHARE: f64 = 0.95 * 7.0 / 8.0;
/// When that must be so again, after the fault.
const WITHIN_MS: u64 = 5;
/// Longest gap, above the control's.
const GAP_MS: u64 = 10;

const TRANSPORTS: [&str; 4] = ["selvedge", "mptcp", "tcp", "quinn"];

/// Name, and the fault on one of the eight paths; none is the control.
const CASES: [(&str, Option<&str>); 5] = [
    ("control", None),
    ("blackhole", Some("drop 100%")),
    ("loss", Some("drop 1%")),
    ("slow", Some("rate-limit 10Mbit/s")),
    ("flap", Some("flap period 400ms duty 50%")),
];

#[derive(clap::Args)]
pub struct Args {
    /// Times each transport meets each fault
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Limit of each of the eight paths, Mbit/s
    #[arg(long, default_value_t = 100)]
    mbits: u64,
    /// Only these transports
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What one run showed.
#[derive(Clone, Copy)]
struct Run {
    /// Mbit/s from a few milliseconds after the fault to the end.
    goodput: f64,
    /// Longest time without anything new, from just before the fault on.
    gap_ms: u64,
}

#[derive(Serialize)]
struct Row {
    name: String,
    runs: usize,
    goodput_mbit_s: f64,
    control_mbit_s: f64,
    /// Of the control's goodput.
    share: f64,
    gap_ms: u64,
    control_gap_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

struct Bench {
    selvedge: String,
    arrivals: String,
    lab: String,
    addresses: [Vec<String>; 2],
}

impl Bench {
    fn lab(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["lab"];
        let at = words.iter().position(|w| *w == "--").unwrap_or(words.len());
        all.extend(&words[..at]);
        all.extend(["--lab", &self.lab]);
        all.extend(&words[at..]);
        output(&self.selvedge, &all)
    }

    fn uplinks() -> impl Iterator<Item = (usize, usize, String)> {
        let one = |p: usize, s: usize| (p, s, format!("p{p}-{LEAF}:p{p}-spine{s}"));
        (0..PLANES).flat_map(move |p| (0..SPINES).map(move |s| one(p, s)))
    }

    /// Bytes sent so far over each way out of the sender's leaf.
    fn sent(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut all = Vec::new();
        for p in 0..PLANES {
            let netns = format!("{}-p{p}-{LEAF}", self.lab);
            let text = output("ip", &["netns", "exec", &netns, "ip", "-j", "-s", "link", "show"])?;
            let links: Value = serde_json::from_str(&text)?;
            for link in links.as_array().context("ip -j prints an array")? {
                let (name, bytes) = (&link["ifname"], &link["stats64"]["tx"]["bytes"]);
                if let (Some(name), Some(bytes)) = (name.as_str(), bytes.as_u64())
                    && name.starts_with("spine")
                {
                    all.push((format!("p{p}-{LEAF}:p{p}-{name}"), bytes));
                }
            }
        }
        Ok(all)
    }

    /// MPTCP's path manager learns of as many address pairs as there are paths: each is hashed to one.
    fn mptcp_paths(&self) -> anyhow::Result<()> {
        let subflows = (PLANES * SPINES).to_string();
        for (host, addresses) in HOSTS.iter().zip(&self.addresses) {
            self.lab(&["exec", host, "--", "ip", "mptcp", "limits", "set", "subflow", &subflows])?;
            self.lab(&["exec", host, "--", "ip", "mptcp", "limits", "set", "add_addr_accepted", &subflows])?;
            if *host == HOSTS[0] {
                continue;
            }
            for (p, address) in addresses.iter().enumerate() {
                let (prefix, dev) = (address.trim_end_matches('1'), format!("p{p}"));
                for i in 1..=SPINES {
                    let address = format!("{prefix}{i}");
                    if i > 1 {
                        let with = format!("{address}/128");
                        self.lab(&[
                            "exec", host, "--", "ip", "-6", "addr", "add", &with, "dev", &dev, "nodad",
                        ])?;
                    }
                    if (p, i) != (0, 1) {
                        self.lab(&[
                            "exec", host, "--", "ip", "mptcp", "endpoint", "add", &address, "signal",
                        ])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn run(&self, transport: &str, fault: Option<&str>) -> anyhow::Result<Run> {
        let netns = HOSTS.map(|h| format!("{}-{h}", self.lab));
        let mut child = Command::new(&self.arrivals);
        child.arg(transport).args(["--seconds", &(BEFORE + AFTER).to_string()]);
        child.args(["--from", &netns[0], "--to", &netns[1]]);
        child.arg("--from-address").args(&self.addresses[0]);
        child.arg("--to-address").args(&self.addresses[1]);
        let before = self.sent()?;
        let child = child.stdout(Stdio::piped()).spawn().context("starting `arrivals`")?;
        std::thread::sleep(Duration::from_secs_f64(BEFORE));
        let mut broken = None;
        if let Some(fault) = fault {
            let after = self.sent()?;
            let used = after.into_iter().zip(before).map(|((link, b), (_, a))| (b - a, link));
            let (_, link) = used.max().context("the leaf has no way out")?;
            let words: Vec<&str> = ["fault", &link].into_iter().chain(fault.split(' ')).collect();
            self.lab(&words)?;
            broken = Some(link);
        }
        let at = now_ms();
        let out = child.wait_with_output()?;
        if let Some(link) = broken {
            self.heal(&link)?;
        }
        anyhow::ensure!(out.status.success(), "`arrivals {transport}` ended with {}", out.status);
        let said: Value = serde_json::from_slice(&out.stdout)?;
        let arrivals: Vec<(u64, u64)> = serde_json::from_value(said["arrivals"].clone())?;
        Ok(judge(&arrivals, at))
    }

    /// Takes the fault away and leaves the limit.
    fn heal(&self, link: &str) -> anyhow::Result<()> {
        let faults: Value = serde_json::from_str(&self.lab(&["faults", "--json"])?)?;
        let all = faults.as_array().context("`lab faults --json` prints an array")?;
        let last = all.iter().map(|f| &f["fault"]).filter(|f| f["target"].as_str() == Some(link));
        let id = last.filter_map(|f| f["id"].as_u64()).max().context("the fault is not listed")?;
        self.lab(&["heal", &id.to_string()]).map(|_| ())
    }
}

/// What the arrivals say about the time after `at`.
fn judge(arrivals: &[(u64, u64)], at: u64) -> Run {
    let end = at + (AFTER * 1000.0) as u64 - 100;
    let from = at + WITHIN_MS;
    let bytes: u64 = arrivals.iter().filter(|(t, _)| (from..end).contains(t)).map(|(_, b)| b).sum();
    let mut times: Vec<u64> =
        arrivals.iter().map(|(t, _)| *t).filter(|t| (at - 20..end).contains(t)).collect();
    times.push(end);
    let first = times.first().copied().unwrap_or(end).saturating_sub(at - 20);
    let gap_ms = times.windows(2).map(|w| w[1] - w[0]).chain([first]).max().unwrap_or(0);
    Run { goodput: bytes as f64 * 8.0 / 1000.0 / (end - from) as f64, gap_ms }
}

fn median<T: Copy + PartialOrd>(mut all: Vec<T>) -> Option<T> {
    all.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    all.get(all.len() / 2).copied()
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let target = crate::bench_transport::target()?;
    sh("cargo", &["build", "--release", "--package", "selvedge"])?;
    let bench = ["build", "--release", "--manifest-path", "bench/Cargo.toml", "--target-dir", &target];
    sh("cargo", &bench)?;
    let lab = format!("failure{}", std::process::id());
    let selvedge = format!("{target}/release/selvedge");
    let spec: PathBuf = root().join("scenarios/quiet-16-ecmp.toml");
    output(&selvedge, &["lab", "up", &spec.to_string_lossy(), "--bare", "--name", &lab])?;
    let mut bench = Bench {
        arrivals: format!("{target}/release/arrivals"),
        addresses: Default::default(),
        selvedge,
        lab: lab.clone(),
    };
    let rows = measure(args, &mut bench);
    let down = bench.lab(&["down"]).context("taking the lab down");
    print(args, &rows?)?;
    down.map(|_| ())
}

fn measure(args: &Args, bench: &mut Bench) -> anyhow::Result<Vec<Row>> {
    let all: Value = serde_json::from_str(&bench.lab(&["inspect", "--json"])?)?;
    for (host, addresses) in HOSTS.iter().zip(&mut bench.addresses) {
        let hosts = all["hosts"].as_array().context("the lab has no hosts")?;
        let found = hosts.iter().find(|h| h["name"].as_str() == Some(host)).context("a host is missing")?;
        *addresses = serde_json::from_value(found["addresses"].clone())?;
    }
    let rate = format!("{}Mbit/s", args.mbits);
    for (_, _, link) in Bench::uplinks() {
        bench.lab(&["fault", &link, "rate-limit", &rate])?;
    }
    bench.mptcp_paths()?;
    let transports: Vec<&str> =
        TRANSPORTS.into_iter().filter(|t| args.only.is_empty() || args.only.iter().any(|o| o == t)).collect();
    let mut runs: BTreeMap<(usize, usize), Vec<Run>> = BTreeMap::new();
    for round in 0..args.rounds {
        for (c, (case, fault)) in CASES.iter().enumerate() {
            for (t, transport) in transports.iter().enumerate() {
                eprintln!("bench: round {} of {}: {transport}, {case}", round + 1, args.rounds);
                match bench.run(transport, *fault) {
                    Ok(run) => runs.entry((t, c)).or_default().push(run),
                    Err(e) => eprintln!("bench: {transport}, {case} has no figure in this round: {e:#}"),
                }
            }
        }
    }
    let of = |t: usize, c: usize| {
        let runs = runs.get(&(t, c))?;
        let goodput = median(runs.iter().map(|r| r.goodput).collect())?;
        Some((runs.len(), goodput, median(runs.iter().map(|r| r.gap_ms).collect())?))
    };
    let mut rows = Vec::new();
    for (t, transport) in transports.iter().enumerate() {
        for (c, (case, fault)) in CASES.iter().enumerate() {
            let (Some((n, goodput, gap)), Some((_, control, control_gap))) = (of(t, c), of(t, 0)) else {
                continue;
            };
            let share = goodput / control;
            let ours = *transport == "selvedge" && fault.is_some();
            rows.push(Row {
                name: format!("{transport}-{case}"),
                runs: n,
                goodput_mbit_s: goodput,
                control_mbit_s: control,
                share,
                gap_ms: gap,
                control_gap_ms: control_gap,
                met: ours.then_some(share >= SHARE && gap <= control_gap + GAP_MS),
            });
        }
    }
    Ok(rows)
}

fn print(args: &Args, rows: &[Row]) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "rows": rows }))?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "Mbit/s", "of its control", "longest gap", "above control's", ""]);
    for r in rows {
        table.add_row([
            r.name.clone(),
            format!("{:.0}", r.goodput_mbit_s),
            format!("{:.3}", r.share),
            format!("{} ms", r.gap_ms),
            format!("{} ms", r.gap_ms as i64 - r.control_gap_ms as i64),
            r.met.map_or("", |met| if met { "met" } else { "MISSED" }).to_owned(),
        ]);
    }
    println!("{table}");
    println!(
        "Goodput from {WITHIN_MS} ms after the fault on; medians of {} rounds; {} paths of {} Mbit/s. Goal: at least {SHARE:.3} \
         of the control and a gap at most {GAP_MS} ms longer.",
        args.rounds,
        PLANES * SPINES,
        args.mbits,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_a_gap_and_costs_goodput() {
        let steady: Vec<(u64, u64)> = (0..4000).map(|t| (t, 1000)).collect();
        let run = judge(&steady, 1500);
        assert_eq!(run.gap_ms, 1);
        assert!((run.goodput - 8.0).abs() < 1e-9, "{}", run.goodput);
        let stalled: Vec<(u64, u64)> =
            steady.iter().copied().filter(|(t, _)| !(1520..1720).contains(t)).collect();
        let run = judge(&stalled, 1500);
        assert_eq!(run.gap_ms, 201);
        assert!(run.goodput < 7.2);
        assert_eq!(judge(&[], 1500).gap_ms, 1920, "nothing at all");
    }
}
