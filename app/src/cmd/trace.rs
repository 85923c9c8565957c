//! `selvedge trace`: every path and every hop from one host to another, traced now by the host's agent.

use super::incidents::percent;
use crate::client::{Client, HubArgs};
use crate::out;
use anyhow::{Context, bail};
use comfy_table::{Cell, Color, Table, presets};
use hub::{GivenView, TaskView, TraceView, TracedHop, TracedPath};
use indicatif::ProgressBar;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const AFTER: &str = "Examples:
  selvedge trace host0 host9
  selvedge trace host0 host9 --rounds 100          finds a loss of one in a hundred on a path
  selvedge trace host0 host9 --json | jq '.paths[].hops[] | select(.loss_here > 0)'

The agent of the first host sends packets over every path there is, to every hop of each. Loss at a hop is judged by what
later hops prove: a switch that answers few ICMPv6 errors loses nothing by that. More rounds leave less doubt.
It takes the role operator, and is written down in table audit.
Exit codes: 0 nothing is lost anywhere, 3 something is, 1 it could not be traced.";

/// Longest a trace may take, with all that is around it.
const WITHIN: Duration = Duration::from_secs(330);

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Host that traces, such as host0
    from: String,
    /// Host it traces to
    to: String,
    /// Packets to each hop of each path
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// DSCP of the packets: a sick queue of another class is not seen by this one
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=63))]
    class: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Waits until tasks have ended; how they stand then.
pub(super) fn ended(
    client: &Client,
    ids: &[u64],
    within: Duration,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<TaskView>> {
    let begun = Instant::now();
    loop {
        let all: Vec<TaskView> =
            ids.iter().map(|id| client.get(&format!("/api/v1/tasks/{id}"))).collect::<anyhow::Result<_>>()?;
        let open: Vec<&TaskView> = all.iter().filter(|t| t.state != "done" && t.state != "failed").collect();
        if open.is_empty() {
            return Ok(all);
        }
        let waiting: Vec<&str> = open.iter().map(|t| t.host.as_str()).take(5).collect();
        bar.set_message(format!(
            "{:.0} s: waiting for {}",
            begun.elapsed().as_secs_f64(),
            waiting.join(", ")
        ));
        bar.tick();
        if begun.elapsed() > within {
            bail!("{} did not answer within {} s", waiting.join(", "), within.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub(super) fn bar(hidden: bool) -> ProgressBar {
    if hidden { ProgressBar::hidden() } else { ProgressBar::new_spinner() }
}

/// Microseconds with a unit.
fn micros(us: f64) -> String {
    if us < 1_000.0 { format!("{us:.0} µs") } else { format!("{:.1} ms", us / 1e3) }
}

fn sick_hop(h: &TracedHop) -> bool {
    h.loss_here > h.doubt && matches!(h.known.as_str(), "measured" | "bounded")
}

fn is_sick(p: &TracedPath) -> bool {
    p.found && (p.answered < p.sent || p.hops.iter().any(sick_hop))
}

fn print(view: &TraceView) {
    println!(
        "{} to {}, {} paths{}, {} packets in {:.1} s",
        view.from,
        view.to,
        view.paths.len(),
        if view.exact { ", each chosen" } else { ", each by a flow label that leads along it" },
        view.packets_sent,
        view.took_s
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "Path and hops",
        "Sent",
        "Back",
        "Lost here",
        "RTT min",
        "p50",
        "max",
        "From hop before",
    ]);
    for p in &view.paths {
        let name = Cell::new(format!("plane {}  {}", p.plane, p.name));
        if !p.found {
            table.add_row([name.fg(Color::Yellow), Cell::new("no flow label leads along it")]);
            continue;
        }
        let lost = match (p.lost_forward, p.lost_backward, p.sent - p.answered.min(p.sent)) {
            (_, _, 0) => String::new(),
            (there, back, n) if there + back == n => format!("{there} there, {back} back"),
            (there, back, n) => format!("{there} there, {back} back, {} either", n - (there + back).min(n)),
        };
        table.add_row([
            if is_sick(p) { name.fg(Color::Red) } else { name },
            Cell::new(p.sent),
            Cell::new(p.answered),
            Cell::new(lost),
            Cell::new(micros(p.rtt_min_us)),
            Cell::new(micros(p.rtt_p50_us)),
            Cell::new(micros(p.rtt_max_us)),
        ]);
        for h in &p.hops {
            let node = Cell::new(format!("   {:>2}  {}", h.hop, h.node));
            let lost = match h.known.as_str() {
                "silent" => "does not answer".to_owned(),
                "unknown" => "not known".to_owned(),
                _ if h.loss_here > h.doubt => format!("{} ± {}", percent(h.loss_here), percent(h.doubt)),
                _ => String::new(),
            };
            let rtt = |us: f64| if h.answered > 0 { micros(us) } else { String::new() };
            table.add_row([
                if sick_hop(h) { node.fg(Color::Red) } else { node },
                Cell::new(h.sent),
                Cell::new(h.answered),
                Cell::new(lost),
                Cell::new(rtt(h.rtt_min_us)),
                Cell::new(rtt(h.rtt_p50_us)),
                Cell::new(rtt(h.rtt_max_us)),
                Cell::new(h.delta_p50_us.map_or(String::new(), micros)),
            ]);
        }
    }
    println!("{table}");
    for note in &view.notes {
        println!("note: {note}");
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    let asked = json!({ "from": args.from, "to": args.to, "rounds": args.rounds, "class": args.class });
    let given: GivenView = client.post("/api/v1/traces", &asked)?;
    let id = given.ids.first().context("the hub gave the trace no id")?;
    let bar = bar(args.json);
    let task = ended(&client, &given.ids, WITHIN, &bar);
    bar.finish_and_clear();
    if let Some(t) = task?.iter().find(|t| t.state == "failed") {
        bail!("{}: {}", t.host, t.error);
    }
    let view: TraceView = client.get(&format!("/api/v1/tasks/{id}/outcome"))?;
    if args.json {
        out::json(&view)?;
    } else {
        print(&view);
    }
    let well = !view.paths.iter().any(is_sick);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}
