//! `selvedge top`: the sickest links and paths right now.

use super::incidents::percent;
use super::paths::{delay, path_cells};
use crate::client::{Client, HubArgs};
use crate::out;
use comfy_table::{Table, presets};
use hub::TopView;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

const AFTER: &str = "Examples:
  selvedge top
  selvedge top --watch
  selvedge top --limit 5 --json

Exit codes: 0 answered, 1 the hub did not answer.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Most links and paths shown
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Show it again every second
    #[arg(long)]
    watch: bool,
    /// Print JSON; with --watch one line a second
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

fn text(top: &TopView) -> String {
    let mut out = format!(
        "{} of {} agents report; {} observations of {} packets so far\n",
        top.agents_reporting, top.agents_expected, top.observations_stored, top.packets
    );
    if top.incidents.is_empty() {
        out.push_str("no open incident\n");
    }
    for i in &top.incidents {
        out.push_str(&format!("{}: {}, confidence {:.2}\n", i.id, i.summary, i.confidence));
    }
    let mut links = Table::new();
    links.load_style(presets::NOTHING);
    links.set_header(["Link", "Loss, 10 s", "Loss, 60 s", "Packets, 10 s", "Late by", "Incident"]);
    for l in &top.links {
        let late = i64::try_from(l.delay_excess_ns).unwrap_or(i64::MAX);
        links.add_row([
            l.name.clone(),
            percent(l.rate_10s),
            percent(l.rate_60s),
            l.sent_10s.to_string(),
            if late == 0 { String::new() } else { delay(late) },
            l.incidents.join(", "),
        ]);
    }
    if !top.links.is_empty() {
        out.push_str(&format!("{links}\n"));
    }
    let mut paths = Table::new();
    paths.load_style(presets::NOTHING);
    paths.set_header(["Path", "Loss", "Measured: lost", "Delay"]);
    for p in &top.paths {
        paths.add_row(path_cells(p));
    }
    if !top.paths.is_empty() {
        out.push_str(&format!("{paths}\n"));
    }
    out
}

fn once(client: &Client, args: &Args) -> anyhow::Result<TopView> {
    client.get(&format!("/api/v1/top?limit={}", args.limit))
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    if !args.watch {
        let top = once(&client, &args)?;
        if args.json {
            out::json(&top)?;
        } else {
            print!("{}", text(&top));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let clear = if std::io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
    loop {
        let top = once(&client, &args)?;
        let mut out = std::io::stdout().lock();
        let written = if args.json {
            writeln!(out, "{}", serde_json::to_string(&top)?)
        } else {
            write!(out, "{clear}{}", text(&top)).and_then(|()| out.flush())
        };
        if written.is_err() {
            // Nobody reads any more.
            return Ok(ExitCode::SUCCESS);
        }
        drop(out);
        std::thread::sleep(Duration::from_secs(1));
    }
}
