//! `selvedge paths`: all paths between two hosts with their loss and delay, hop by hop.

use super::incidents::percent;
use crate::client::HubArgs;
use crate::out;
use comfy_table::{Cell, Color, Table, presets};
use hub::{LinkView, PathView, PathsView};
use std::process::ExitCode;

const AFTER: &str = "Examples:
  selvedge paths host0 host9
  selvedge paths host0-p1 host9-p1              one plane only
  selvedge paths host0 host9 --json

Loss and delay of a hop are what the diagnosis charges to that link over the last 10 s; \"measured\" is what agents
saw on this very path over the last 10 to 20 s, where one probes it. A path of one direction only: swap the
names for the way back.
Exit codes: 0 answered, 1 no such host, or the hub did not answer.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// From this host or NIC, such as host0 or host0-p1
    from: String,
    /// To this host or NIC
    to: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Nanoseconds with a unit.
pub(crate) fn delay(ns: i64) -> String {
    match ns.unsigned_abs() {
        0..=9_999 => format!("{ns} ns"),
        10_000..=9_999_999 => format!("{:.1} µs", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

/// A link of a path with what is wrong with it, if anything is.
fn hop(l: &LinkView) -> String {
    let mut wrong = Vec::new();
    if l.rate_10s > 0.0 {
        wrong.push(format!("{} lost", percent(l.rate_10s)));
    }
    if l.delay_excess_ns > 0 {
        wrong.push(format!("+{}", delay(i64::try_from(l.delay_excess_ns).unwrap_or(i64::MAX))));
    }
    wrong.extend(l.incidents.iter().cloned());
    if wrong.is_empty() { l.name.clone() } else { format!("{}  [{}]", l.name, wrong.join(", ")) }
}

/// Cells of a path's own figures.
pub(crate) fn path_cells(p: &PathView) -> Vec<Cell> {
    let sick = p.rate_10s > 0.0 || p.delay_excess_ns > 0;
    let name = Cell::new(&p.name);
    let (measured, delays) = match &p.measured {
        None => ("not probed".to_owned(), String::new()),
        Some(m) => {
            let mut lost = format!("{} of {}", m.lost, m.sent);
            if m.lost_round_trip > 0 {
                lost.push_str(&format!(", {} there or back", m.lost_round_trip));
            }
            (lost, m.delay_p50_ns.map_or(String::new(), delay))
        }
    };
    vec![
        if sick { name.fg(Color::Red) } else { name },
        Cell::new(percent(p.rate_10s)),
        Cell::new(measured),
        Cell::new(delays),
    ]
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    // Names of hosts and NICs have no characters a query would need to escape; others are refused by the hub.
    let plain = |s: &str| s.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
    let paths: PathsView =
        client.get(&format!("/api/v1/paths?from={}&to={}", plain(&args.from), plain(&args.to)))?;
    if args.json {
        out::json(&paths)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["Path", "Loss", "Measured: lost", "Delay", "Hop by hop"]);
    for p in &paths.paths {
        let mut cells = path_cells(p);
        cells.push(Cell::new(p.hops.iter().map(hop).collect::<Vec<_>>().join("\n")));
        table.add_row(cells);
    }
    println!("{table}");
    if paths.omitted > 0 {
        println!(
            "{} more paths are not shown; name a NIC such as {}-p0 to see fewer",
            paths.omitted, paths.from
        );
    }
    Ok(ExitCode::SUCCESS)
}
