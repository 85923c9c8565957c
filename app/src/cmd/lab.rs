//! `selvedge lab`: a real fabric in network namespaces, and real faults in it.

mod progress;
mod run;

use crate::out;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::{Table, presets};
use fabric::{Direction, Fault, Scenario, Target};
use kernel::process::Process;
use lab::fault::relay::Line;
use lab::fault::stall::Stall;
use lab::{Lab, Options};
use progress::Progress;
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "Examples:
  selvedge lab run scenarios/gray-link.toml --seed 7     the whole story: up, break, find, heal, down
  selvedge lab up scenarios/quiet-16.toml                a healthy fabric of 16 hosts, agents and hub
  selvedge lab inspect --json                            namespace and interface of every link
  selvedge lab exec host3 -- ping -c 3 fd5e:0:1:0::1
  selvedge lab fault p0-leaf1:p0-spine0 drop 1%
  selvedge incidents --watch
  selvedge lab heal --all
  selvedge lab down

It needs root. Exit codes: 0 done, 1 it could not be done, 3 (run only) the verdict was wrong or missing.";

const FAULTS: &str = "TARGET is the name of a link (p0-leaf1:p0-spine0), a switch (p0-spine1), some of a switch's ports \
(p0-spine1/2, p0-spine1/50%, p0-spine1/p0-leaf0,p0-leaf3), a NIC (host3-p1) or a host (host3), or random-link, \
random-trunk, random-switch, random-nic, random-host.

A link's name is directed: without --direction what is sent along it suffers. Devices suffer both ways.

Kinds:
  drop RATE                               blackhole SHARE (of flows)
  corrupt RATE                            ecn RATE
  reorder RATE [delay TIME]               delay TIME [jitter TIME]
  rate-limit RATE                         down
  flap period TIME duty SHARE [rate RATE]
  cpu-stall stopped TIME period TIME      agent-stop              (on hosts)

Examples:
  selvedge lab fault p0-leaf1:p0-spine0 drop 1%
  selvedge lab fault --direction both p0-leaf1:p0-spine0 delay 5ms jitter 1ms
  selvedge lab fault p0-spine1/2 corrupt 2%
  selvedge lab fault random-link flap period 2s duty 30% --seed 4
  selvedge lab fault host3 cpu-stall stopped 100ms period 400ms";

#[derive(ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether nothing is lost when it ends as soon as nobody reads what it prints.
    pub(crate) fn only_prints(&self) -> bool {
        matches!(self.command, Command::Inspect(_) | Command::Faults(_) | Command::List { .. })
    }
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a fabric: a namespace for every host and switch, a cable for every link, agents and a hub
    #[command(after_help = "Examples:\n  selvedge lab up scenarios/quiet-16.toml\n  \
        selvedge lab up scenarios/quiet-64.toml --bare --name big\n\n\
        A scenario's faults are not started. Rates and latencies of the file are not imposed either: see `fault`.")]
    Up {
        /// Fabric or scenario
        file: PathBuf,
        /// Only namespaces, cables and routes: no agents, no hub
        #[arg(long)]
        bare: bool,
        /// Name of the lab; the fabric's if not given
        #[arg(long)]
        name: Option<String>,
        /// Probes a second of each host; the scenario's if not given, lowered so that all together stay below 12,800; 0:
        /// nobody probes
        #[arg(long, value_name = "N")]
        packets_per_second: Option<u32>,
        /// Record every batch of observations the hub takes, for `selvedge diagnose`
        #[arg(long, value_name = "FILE", conflicts_with = "bare")]
        record: Option<PathBuf>,
        /// Where the hub serves its pages and its API; a free port of the loopback if not given
        #[arg(long, value_name = "ADDR", conflicts_with = "bare")]
        http: Option<SocketAddr>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Which namespace and interface sends on every directed link, and where hosts and switches are
    #[command(after_help = "Example:\n  selvedge lab inspect --json | jq '.links[0]'")]
    Inspect(Common),
    /// Run a command inside the network namespace of a host or switch
    #[command(after_help = "Examples:\n  selvedge lab exec host3 -- ip -6 route\n  \
        selvedge lab exec p0-spine1 -- tcpdump -ni leaf0 -c 10\n\n\
        The exit code is the command's. /sys stays that of the machine.")]
    Exec {
        /// Host or switch
        node: String,
        /// Command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<String>,
        /// Name of the lab, where several are up
        #[arg(long, visible_alias = "lab")]
        name: Option<String>,
    },
    /// Break something
    #[command(after_help = FAULTS)]
    Fault {
        /// What to break
        target: String,
        /// How
        #[arg(required = true)]
        kind: Vec<String>,
        /// Which way packets that suffer are going
        #[arg(long, value_parser = ["forward", "backward", "both"])]
        direction: Option<String>,
        /// Decides random targets and ports
        #[arg(long)]
        seed: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// Mend what `fault` broke
    #[command(after_help = "Examples:\n  selvedge lab heal p0-leaf1:p0-spine0\n  selvedge lab heal --all")]
    Heal {
        /// Target as it was broken, or a fault's number
        #[arg(required_unless_present = "all")]
        target: Option<String>,
        /// Everything
        #[arg(long, conflicts_with = "target")]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// The faults that act, with what they did so far
    Faults(Common),
    /// Take a lab down: nothing is left behind
    Down(Common),
    /// The labs that are up
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a scenario: up, break, wait for the verdict, judge it, heal, wait until it is closed, down
    #[command(after_help = run::EXAMPLES)]
    Run(run::Args),
    /// Starts hub and agents again when they end (started by `up`)
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        name: String,
    },
    /// A delay line (started by `fault`)
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        netns: String,
        #[arg(long)]
        tap: String,
        #[arg(long)]
        delay_ns: u64,
        #[arg(long)]
        jitter_ns: u64,
        #[arg(long)]
        share: f64,
        #[arg(long)]
        hold_ns: u64,
        #[arg(long)]
        seed: u64,
    },
    /// A stalled processor (started by `fault`)
    #[command(hide = true)]
    Stall {
        #[arg(long)]
        pid: u32,
        #[arg(long)]
        started_ticks: u64,
        #[arg(long)]
        stopped_ns: u64,
        #[arg(long)]
        period_ns: u64,
    },
}

#[derive(ClapArgs)]
struct Common {
    /// Name of the lab, where several are up
    #[arg(long, visible_alias = "lab")]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    fn open(&self) -> anyhow::Result<Lab> {
        Ok(Lab::open(self.name.as_deref(), exe()?)?)
    }
}

/// The binary agents, hub and helpers are started from: this one.
pub(crate) fn exe() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("the path of this program")
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Up { file, bare, name, packets_per_second, record, http, json } => {
            let ready_within = Duration::from_secs(90);
            let options = Options { name, exe: exe()?, bare, packets_per_second, record, http, ready_within };
            up(&file, &options, json)
        }
        Command::Inspect(common) => inspect(&common),
        Command::Exec { node, command, name } => exec(name.as_deref(), &node, &command),
        Command::Fault { target, kind, direction, seed, common } => {
            fault(&common, &target, &kind.join(" "), direction.as_deref(), seed)
        }
        Command::Heal { target, common, .. } => heal(&common, target.as_deref()),
        Command::Faults(common) => faults(&common),
        Command::Down(common) => down(&common),
        Command::List { json } => list(json),
        Command::Run(args) => run::run(args),
        Command::Supervise { name } => {
            lab::supervise::run(&name, &exe()?, &mut |what| eprintln!("{what}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Relay { netns, tap, delay_ns, jitter_ns, share, hold_ns, seed } => {
            let line = Line { delay_ns, jitter_ns, share, hold_ns };
            lab::fault::relay::run(&netns, &tap, line, seed, say)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Stall { pid, started_ticks, stopped_ns, period_ns } => {
            say(pid);
            let agent = Process { pid, started_ticks };
            lab::fault::stall::run(&Stall { agent, stopped_ns, period_ns })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A helper tells the process that started it that it is ready.
fn say(number: u32) {
    println!("{number}");
    // nobody there to hear it: the helper is of no use, and is ended by whoever recorded it
    let _ = std::io::stdout().flush();
}

/// Reads a fabric or scenario; errors name file, line and column.
fn read(file: &Path) -> anyhow::Result<(String, Scenario)> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let scenario = Scenario::parse(&text).map_err(|e| anyhow::anyhow!("{}", e.located(&name)))?;
    Ok((text, scenario))
}

fn up(file: &Path, options: &Options, as_json: bool) -> anyhow::Result<ExitCode> {
    let (text, scenario) = read(file)?;
    let begin = Instant::now();
    let mut progress = Progress::new();
    let lab = Lab::up(&text, scenario, options, &mut |step| progress.show(step))?;
    progress.clear();
    let seconds = begin.elapsed().as_secs_f64();
    let (fabric, state) = (lab.fabric(), lab.state());
    if as_json {
        out::json(&json!({
            "name": state.name, "seconds": seconds, "hub": lab.hub(), "hosts": fabric.shape.hosts,
            "switches": fabric.switches(), "links": fabric.links().count(), "agents": state.agents.len(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} is up after {seconds:.1} s: {} hosts, {} switches, {} directed links, {}",
        state.name,
        fabric.shape.hosts,
        fabric.switches(),
        fabric.links().count(),
        match lab.hub() {
            Some(hub) => format!("{} agents reporting to the hub at http://{hub}", state.agents.len()),
            None => "no agents (bare)".to_string(),
        }
    );
    Ok(ExitCode::SUCCESS)
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn inspect(common: &Common) -> anyhow::Result<ExitCode> {
    let all = common.open()?.inspect();
    if common.json {
        out::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut hosts = table(["HOST", "NAMESPACE", "ADDRESSES"]);
    for h in &all.hosts {
        hosts.add_row([&h.name, &h.netns, &h.addresses.join(" ")]);
    }
    let mut switches = table(["SWITCH", "NAMESPACE"]);
    for s in &all.switches {
        switches.add_row([&s.name, &s.netns]);
    }
    let mut links = table(["LINK", "SENT BY", "RECEIVED BY"]);
    for l in &all.links {
        let from = format!("{} in {}", l.ifname, l.netns);
        links.add_row([&l.name, &from, &format!("{} in {}", l.peer_ifname, l.peer_netns)]);
    }
    println!("{hosts}\n\n{switches}\n\n{links}");
    Ok(ExitCode::SUCCESS)
}

fn exec(name: Option<&str>, node: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let netns = Lab::open(name, exe()?)?.netns(node)?;
    let Some((program, arguments)) = command.split_first() else { bail!("no command given") };
    let _inside = kernel::netns::enter(&netns)?;
    let status = Program::new(program).args(arguments).status().with_context(|| program.clone())?;
    // ended by a signal: as shells say it, as far as it is known
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(out::FAILED)))
}

fn fault(
    common: &Common,
    target: &str,
    kind: &str,
    direction: Option<&str>,
    seed: Option<u64>,
) -> anyhow::Result<ExitCode> {
    let lab = common.open()?;
    let fabric = lab.fabric();
    let problem = |e: fabric::Problem| anyhow::anyhow!("{e}");
    let target = Target::parse(fabric, target).map_err(problem)?;
    let direction = direction.map(str::parse::<Direction>).transpose().map_err(problem)?;
    let fault = Fault::new(target, direction, kind.parse().map_err(problem)?).map_err(problem)?;
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64));
    let acting = lab.fault(&fault.resolve(fabric, seed))?;
    if common.json {
        out::json(&acting)?;
    } else {
        let way = if acting.hosts.is_empty() { format!(", {}", acting.direction) } else { String::new() };
        println!("fault {}: {} on {}{way}", acting.id, acting.kind, acting.target);
    }
    Ok(ExitCode::SUCCESS)
}

fn heal(common: &Common, target: Option<&str>) -> anyhow::Result<ExitCode> {
    let lab = common.open()?;
    let healed = lab.heal(target)?;
    if let (Some(target), true) = (target, healed.is_empty()) {
        bail!("nothing acts on {target} (`selvedge lab faults` lists what does)");
    }
    if common.json {
        out::json(&healed)?;
    } else if healed.is_empty() {
        println!("nothing was broken");
    } else {
        healed.iter().for_each(|f| println!("healed {}: {} on {}", f.id, f.kind, f.target));
    }
    Ok(ExitCode::SUCCESS)
}

fn faults(common: &Common) -> anyhow::Result<ExitCode> {
    let lab = common.open()?;
    let acting = lab.faults()?;
    let counted = |f| -> anyhow::Result<_> { Ok((f, lab.counts(f)?)) };
    let all = acting.iter().map(counted).collect::<anyhow::Result<Vec<_>>>()?;
    if common.json {
        let rows: Vec<_> = all.iter().map(|(f, c)| json!({ "fault": f, "counted": c })).collect();
        out::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        println!("nothing is broken");
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = table(["FAULT", "TARGET", "KIND", "DIRECTION", "PACKETS SEEN", "HURT"]);
    for (f, counts) in &all {
        let (mut seen, mut hurt) = (0, 0);
        for c in counts.iter().filter_map(|c| c.counters) {
            seen += c.seen;
            hurt += c.dropped + c.flow_dropped + c.corrupted + c.marked + c.flap_dropped + c.diverted;
        }
        rows.add_row([
            &f.id.to_string(),
            &f.target,
            &f.kind,
            &f.direction,
            &seen.to_string(),
            &hurt.to_string(),
        ]);
    }
    println!("{rows}");
    Ok(ExitCode::SUCCESS)
}

fn down(common: &Common) -> anyhow::Result<ExitCode> {
    let lab = common.open()?;
    let name = lab.state().name.clone();
    lab.down()?;
    if common.json {
        out::json(&json!({ "name": name }))?;
    } else {
        println!("{name} is down");
    }
    Ok(ExitCode::SUCCESS)
}

fn list(as_json: bool) -> anyhow::Result<ExitCode> {
    let mut labs = Vec::new();
    for name in lab::state::list() {
        labs.push(Lab::open(Some(&name), exe()?)?);
    }
    if as_json {
        let rows: Vec<_> = labs
            .iter()
            .map(|l| json!({ "name": l.state().name, "hub": l.hub(), "hosts": l.fabric().shape.hosts }))
            .collect();
        out::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = table(["LAB", "HOSTS", "HUB"]);
    for l in &labs {
        let hub = l.hub().map_or("bare".to_string(), |hub| format!("http://{hub}"));
        rows.add_row([&l.state().name, &l.fabric().shape.hosts.to_string(), &hub]);
    }
    println!("{rows}");
    Ok(ExitCode::SUCCESS)
}
