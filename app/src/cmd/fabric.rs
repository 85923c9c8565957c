//! `selvedge fabric`: what a specification comes to, whether it is sound, and what its devices are to be told.

use crate::out;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};
use fabric::{Device, Fabric, Mode, Scenario};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use wire::{NicId, PathId, PlaneId};

const EXAMPLES: &str = "Examples:
  selvedge fabric plan scenarios/largest.toml         counts, epoch, and the time and memory they took
  selvedge fabric check scenarios/quiet-16.toml       is it sound? exit code 3 if something is amiss
  selvedge fabric render scenarios/quiet-16.toml --device p0-leaf1
  selvedge fabric render scenarios/quiet-16.toml --out /tmp/fabric
  selvedge fabric paths scenarios/quiet-16.toml host0 host5 --plane 1

FILE is a fabric or a scenario; `-` is standard input.";

#[derive(ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Counts, epoch and address plan, with the time and memory planning took
    #[command(after_help = "Example:\n  selvedge fabric plan scenarios/largest.toml --json")]
    Plan {
        /// Fabric or scenario
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Whether every host can reach every other, and what is left unused
    #[command(after_help = "Exit codes: 0 sound, 1 the file does not read, 3 something is amiss.")]
    Check {
        /// Fabric or scenario
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Linux configuration of the devices: settings for `sysctl -p`, and a batch for `ip -6 -force -batch`
    #[command(
        after_help = "Examples:\n  selvedge fabric render FILE --device p0-leaf1\n  selvedge fabric render FILE --out DIR    \
        (DIR/p0-leaf1.sysctl and DIR/p0-leaf1.ip, and so on)\n\nInterfaces have to bear the names in the batch."
    )]
    Render {
        /// Fabric or scenario
        file: PathBuf,
        /// This device only, to standard output; may be repeated
        #[arg(long, value_name = "NAME", conflicts_with = "out")]
        device: Vec<String>,
        /// Two files for each device in this directory, which is made if it is not there
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Every path between two hosts: number, switches, links, and the container that leads along it
    #[command(after_help = "Example:\n  selvedge fabric paths scenarios/quiet-16.toml host0 host5 --plane 1")]
    Paths {
        /// Fabric or scenario
        file: PathBuf,
        /// From, such as `host0` or, for one NIC, `host0-p1`
        from: String,
        /// To
        to: String,
        /// This plane only
        #[arg(long, value_name = "N")]
        plane: Option<u8>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Plan { file, json } => plan(&file, json),
        Command::Check { file, json } => check(&file, json),
        Command::Render { file, device, out } => render(&file, &device, out.as_deref()),
        Command::Paths { file, from, to, plane, json } => paths(&file, &from, &to, plane, json),
    }
}

/// Reads a fabric or scenario. An error names file, line and column, and shows the line.
pub(crate) fn read_scenario(file: &Path) -> anyhow::Result<Scenario> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    Scenario::parse(&text).map_err(|e| {
        let name = if file == Path::new("-") { "<stdin>".into() } else { file.display().to_string() };
        anyhow::anyhow!("{}\n{}", e.located(&name), e.excerpt(&text))
    })
}

/// The most memory this process has had, bytes; `None` where the system does not say.
fn memory_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// A number with a comma between thousands.
fn grouped(n: u128) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn mode(fabric: &Fabric) -> &'static str {
    match fabric.mode {
        Mode::Srv6 => "srv6",
        Mode::Ecmp => "ecmp",
    }
}

fn plan(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let fabric = read_scenario(file)?.fabric;
    let plan = fabric.plan();
    let seconds = start.elapsed().as_secs_f64();
    let memory = memory_peak();
    let s = fabric.shape;
    let (down, up) = fabric.leaf_rates();
    let (nic, switch) = (NicId(0), wire::SwitchId(0));
    let planes = format!("{}..{}", prefix(&fabric, 0), prefix(&fabric, (s.planes - 1) as u8));
    if as_json {
        out::json(&json!({
            "name": fabric.name, "mode": mode(&fabric), "epoch": fabric.epoch.0.to_string(),
            "planes": s.planes, "leaves_per_plane": s.leaves, "spines_per_plane": s.spines, "rails": s.rails,
            "hosts": s.hosts, "hosts_per_leaf": s.hosts_per_leaf, "switches": plan.switches, "nics": plan.nics,
            "access_cables": plan.access_cables, "trunk_cables": plan.trunk_cables,
            "cables": plan.access_cables + plan.trunk_cables, "links": plan.links,
            "cables_removed": fabric.removed.len(), "cables_added": fabric.added.len(),
            "paths": u64::try_from(plan.paths).unwrap_or(u64::MAX), "usids_per_plane": plan.usids,
            "leaf_host_bps": down, "leaf_spine_bps": up, "digest": format!("{:016x}", plan.digest),
            "nic_addr": fabric.nic_addr(nic), "nic_sid": fabric.nic_sid(nic), "switch_addr": fabric.switch_addr(switch),
            "seconds": seconds, "memory_bytes_max": memory,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let cables = u128::from(plan.access_cables) + u128::from(plan.trunk_cables);
    let n = |n: u32| grouped(n.into());
    let ratio = if up == 0 { "-".into() } else { format!("{:.2}:1", down as f64 / up as f64) };
    let rows = [
        ("fabric", format!("{} ({})", fabric.name, mode(&fabric))),
        ("epoch", format!("{:016x}", fabric.epoch.0)),
        ("planes", n(s.planes)),
        ("leaves", format!("{} in each plane", n(s.leaves))),
        ("spines", format!("{} in each plane, oversubscription {ratio}", n(s.spines))),
        ("hosts", format!("{}, up to {} on a leaf", n(s.hosts), s.hosts_per_leaf)),
        ("switches", n(plan.switches)),
        ("NICs", n(plan.nics)),
        (
            "cables",
            format!(
                "{} ({} to hosts, {} to spines)",
                grouped(cables),
                n(plan.access_cables),
                n(plan.trunk_cables)
            ),
        ),
        ("left out, added", format!("{}, {}", fabric.removed.len(), fabric.added.len())),
        ("directed links", n(plan.links)),
        ("paths", grouped(plan.paths)),
        (
            "uSIDs",
            format!("{} of {} in each plane", n(plan.usids), grouped(fabric::spec::limit::USIDS.into())),
        ),
        ("segment blocks", planes),
        ("addresses", format!("{} is {}", fabric.nic_addr(nic), fabric.nic_name(nic))),
        ("", format!("{} is {}", fabric.switch_addr(switch), fabric.switch_name(switch))),
        ("digest", format!("{:016x}", plan.digest)),
        ("time", format!("{seconds:.3} s on one core")),
        (
            "memory",
            memory.map_or("unknown".into(), |b| format!("{:.1} MiB at most", b as f64 / (1 << 20) as f64)),
        ),
    ];
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (what, value) in rows {
        table.add_row([what.to_string(), value]);
    }
    println!("{}", table.trim_fmt());
    Ok(ExitCode::SUCCESS)
}

fn prefix(fabric: &Fabric, plane: u8) -> String {
    let [a, b] = fabric.block(PlaneId(plane));
    format!("{a:x}:{b:x}::/32")
}

fn check(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let scenario = read_scenario(file)?;
    let fabric = &scenario.fabric;
    let findings = fabric.check();
    let code = if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) };
    let severity = |error: bool| if error { "error" } else { "warning" };
    if as_json {
        let findings: Vec<Value> = findings
            .iter()
            .map(|f| json!({"severity": severity(f.is_error()), "what": f.sentence(fabric)}))
            .collect();
        out::json(&json!({"name": fabric.name, "sound": findings.is_empty(), "findings": findings}))?;
        return Ok(code);
    }
    for finding in &findings {
        println!("{}: {}", severity(finding.is_error()), finding.sentence(fabric));
    }
    if findings.is_empty() {
        let s = fabric.shape;
        println!("{}: {} hosts in {} planes, nothing amiss", fabric.name, grouped(s.hosts.into()), s.planes);
    }
    Ok(code)
}

fn render(file: &Path, devices: &[String], dir: Option<&Path>) -> anyhow::Result<ExitCode> {
    let fabric = read_scenario(file)?.fabric;
    if let Some(dir) = dir {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let write = |device: Device, ending: &str, text: String| {
            let path = dir.join(format!("{}.{ending}", fabric.device_name(device)));
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let mut count = 0;
        for device in fabric.devices() {
            write(device, "sysctl", fabric.render_sysctls(device))?;
            write(device, "ip", fabric.render_batch(device))?;
            count += 1;
        }
        println!("{count} devices rendered to {}", dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let mut to = std::io::stdout().lock();
    let mut print = |device| -> anyhow::Result<()> {
        writeln!(to, "### {}: settings, for sysctl -p", fabric.device_name(device))?;
        write!(to, "{}", fabric.render_sysctls(device))?;
        writeln!(to, "\n### {}: addresses and routes, for ip -6 -force -batch", fabric.device_name(device))?;
        Ok(write!(to, "{}", fabric.render_batch(device))?)
    };
    if devices.is_empty() {
        for device in fabric.devices() {
            print(device)?;
        }
    }
    for name in devices {
        let Some(device) = fabric.device_by_name(name) else {
            bail!(
                "there is no device \"{name}\"; expected host0 to {}, or a switch such as p0-leaf0 or p0-spine0",
                fabric.host_name(wire::HostId(fabric.shape.hosts - 1))
            );
        };
        print(device)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The NICs a name means: all of a host's, or the one.
fn nics(fabric: &Fabric, name: &str) -> anyhow::Result<Vec<NicId>> {
    let all: Vec<NicId> = match (fabric.nic_by_name(name), fabric.host_by_name(name)) {
        (Some(nic), _) => vec![nic],
        (_, Some(host)) => fabric.host_nics(host).collect(),
        _ => bail!(
            "there is no host or NIC \"{name}\"; expected host0 to {}, or a NIC such as {}",
            fabric.host_name(wire::HostId(fabric.shape.hosts - 1)),
            fabric.nic_name(NicId(0))
        ),
    };
    Ok(all)
}

fn paths(file: &Path, from: &str, to: &str, plane: Option<u8>, as_json: bool) -> anyhow::Result<ExitCode> {
    let fabric = read_scenario(file)?.fabric;
    if let Some(p) = plane.filter(|&p| u32::from(p) >= fabric.shape.planes) {
        bail!("there is no plane {p}; expected 0 to {}", fabric.shape.planes - 1);
    }
    let (from, to) = (nics(&fabric, from)?, nics(&fabric, to)?);
    let pairs = from.iter().flat_map(|&a| to.iter().map(move |&b| (a, b)));
    let pairs = pairs.filter(|&(a, _)| plane.is_none_or(|p| fabric.nic_parts(a).0.0 == p));
    let paths: Vec<PathId> = pairs.flat_map(|(a, b)| fabric.paths(a, b)).collect();
    let links = |path| fabric.path_links(path).map_or(Vec::new(), |l| l.to_vec());
    let plane_of = |path| fabric.path_parts(path).map_or(0, |(nic, _, _)| fabric.nic_parts(nic).0.0);
    if as_json {
        let rows: Vec<Value> = paths
            .iter()
            .map(|&p| {
                let links = links(p);
                let names: Vec<String> = links.iter().map(|&l| fabric.link_name(l)).collect();
                json!({
                    "id": p.0.to_string(), "plane": plane_of(p), "name": fabric.path_name(p),
                    "links": links.iter().map(|l| l.0).collect::<Vec<_>>(), "link_names": names,
                    "container": container(&fabric, p), "reverse": fabric.path_reverse(p).map(|r| r.0.to_string()),
                })
            })
            .collect();
        out::json(&rows)?;
    } else if !paths.is_empty() {
        let mut table = table(["path", "plane", "nodes", "links", "container"]);
        for &p in &paths {
            let numbers: Vec<String> = links(p).iter().map(|l| l.0.to_string()).collect();
            table.add_row([
                Cell::new(p.0).set_alignment(CellAlignment::Right),
                Cell::new(plane_of(p)),
                Cell::new(fabric.path_name(p)),
                Cell::new(numbers.join(" ")),
                Cell::new(container(&fabric, p).unwrap_or_else(|| "-".into())),
            ]);
        }
        println!("{}", table.trim_fmt());
    }
    if paths.is_empty() {
        eprintln!("no path: they are the same host, or share no plane that is whole");
        return Ok(ExitCode::from(out::NOT_WELL));
    }
    Ok(ExitCode::SUCCESS)
}

/// The outer destination of a path, where the fabric is source routed.
fn container(fabric: &Fabric, path: PathId) -> Option<String> {
    (fabric.mode == Mode::Srv6).then(|| fabric.path_container(path).map(|c| c.to_string()))?
}
