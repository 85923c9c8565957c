//! `selvedge incidents`: the open and past incidents a hub knows, and what people thought of them.

use crate::client::{Client, HubArgs};
use crate::out;
use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use comfy_table::{Cell, Color, Table, presets};
use hub::{IncidentDetail, IncidentView, PrecisionView};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const AFTER: &str = "Examples:
  selvedge incidents                            open incidents first, then past ones
  selvedge incidents --state open --json
  selvedge incidents --watch
  selvedge incidents label inc-3 right --note \"replaced the optic\"
  selvedge incidents precision                  how often past verdicts were right

With --json a list, most confident first: {\"id\",\"state\",\"component\":{\"kind\",\"name\"},\"alternatives\":[names],
\"links\":[ids],\"fault\":{\"kind\",\"rate\"},\"confidence\",\"first_seen\",\"last_seen\",\"closed_at\"} and more; times are
RFC 3339 in UTC. With --watch --json one such list a line, whenever it changed.
Exit codes: 0 no incident is open, 1 the hub did not answer, 3 incidents are open.";

#[derive(clap::Args)]
#[command(after_help = AFTER, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which incidents
    #[arg(long, value_enum, default_value_t = Which::All)]
    state: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Keep looking, and print again when something changed
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Open,
    Closed,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum Judgement {
    Right,
    Wrong,
    Partly,
}

#[derive(Subcommand)]
enum Command {
    /// Say whether a verdict was right
    Label {
        /// The incident, such as inc-3
        id: String,
        /// What was true
        #[arg(value_enum)]
        judgement: Judgement,
        /// What was found
        #[arg(long, default_value = "")]
        note: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// How often past verdicts were right, of those judged
    Precision {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// How long ago a moment of the API was, in one unit: `4 s`, `12 min`.
pub(crate) fn ago(time: &str) -> String {
    let Ok(then) = humantime::parse_rfc3339(time) else { return time.to_owned() };
    let seconds = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A share as a percentage with as many digits as it has.
pub(crate) fn percent(rate: f64) -> String {
    match rate * 100.0 {
        p if p <= 0.0 => "0".to_owned(),
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 0.1 => format!("{p:.2} %"),
        p => format!("{p:.4} %"),
    }
}

fn table(list: &[IncidentView]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["Incident", "State", "Sure", "What", "Or", "Since", "Last seen", "Judged"]);
    for i in list {
        let open = i.state == "open";
        let state = Cell::new(match (open, i.times_reopened) {
            (true, 0) => "open".to_owned(),
            (true, n) => format!("open, back {n}×"),
            (false, _) => "closed".to_owned(),
        });
        let state = if open { state.fg(Color::Red) } else { state.fg(Color::Green) };
        let alternatives = match i.alternatives.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        };
        table.add_row([
            Cell::new(&i.id),
            state,
            Cell::new(format!("{:.2}", i.confidence)),
            Cell::new(&i.summary),
            Cell::new(alternatives),
            Cell::new(ago(&i.first_seen)),
            Cell::new(match &i.closed_at {
                Some(t) => format!("closed {}", ago(t)),
                None => ago(&i.last_seen),
            }),
            Cell::new(
                i.label.as_ref().map_or(String::new(), |l| format!("{:?}", l.judgement).to_lowercase()),
            ),
        ]);
    }
    table
}

pub(crate) fn print(list: &[IncidentView]) {
    if list.is_empty() {
        println!("no incidents");
    } else {
        println!("{}", table(list));
    }
}

fn code(list: &[IncidentView]) -> ExitCode {
    if list.iter().any(|i| i.state == "open") { ExitCode::from(out::NOT_WELL) } else { ExitCode::SUCCESS }
}

fn list(client: &Client, which: Which) -> anyhow::Result<Vec<IncidentView>> {
    let state = match which {
        Which::Open => "open",
        Which::Closed => "closed",
        Which::All => "all",
    };
    client.get(&format!("/api/v1/incidents?state={state}"))
}

fn watch(client: &Client, args: &Args) -> anyhow::Result<ExitCode> {
    let clear = std::io::stdout().is_terminal() && !args.json;
    let mut before: Option<Vec<IncidentView>> = None;
    loop {
        let now = list(client, args.state)?;
        if before.as_ref() != Some(&now) || clear {
            let mut out = std::io::stdout().lock();
            let written = if args.json {
                writeln!(out, "{}", serde_json::to_string(&now)?)
            } else {
                let text = if now.is_empty() { "no incidents".to_owned() } else { table(&now).to_string() };
                let home = if clear { "\u{1b}[H\u{1b}[2J" } else { "" };
                writeln!(out, "{home}{text}")
            };
            if written.is_err() {
                // Nobody reads any more.
                return Ok(code(&now));
            }
        }
        before = Some(now);
        std::thread::sleep(Duration::from_secs(1));
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    match &args.command {
        None if args.watch => watch(&client, &args),
        None => {
            let list = list(&client, args.state)?;
            if args.json {
                out::json(&list)?;
            } else {
                print(&list);
            }
            Ok(code(&list))
        }
        Some(Command::Label { id, judgement, note, json }) => {
            let judgement = match judgement {
                Judgement::Right => "right",
                Judgement::Wrong => "wrong",
                Judgement::Partly => "partly",
            };
            if note.chars().count() > 1_000 {
                bail!("the note has more than 1000 characters");
            }
            let body = serde_json::json!({ "judgement": judgement, "note": note });
            let detail: IncidentDetail = client.post(&format!("/api/v1/incidents/{id}/label"), &body)?;
            if *json {
                out::json(&detail)?;
            } else {
                println!("{} ({}): judged {judgement}", detail.incident.id, detail.incident.summary);
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Precision { json }) => {
            let precision: PrecisionView = client.get("/api/v1/precision")?;
            if *json {
                out::json(&precision)?;
                return Ok(ExitCode::SUCCESS);
            }
            if precision.judged == 0 {
                println!(
                    "none of {} incidents was judged; `selvedge incidents label` does",
                    precision.incidents
                );
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(["Verdict", "Right", "Partly", "Wrong", "Precision"]);
            for r in &precision.rows {
                let p = r.precision.map_or(String::new(), |p| format!("{p:.3}"));
                table.add_row([
                    r.kind.clone(),
                    r.right.to_string(),
                    r.partly.to_string(),
                    r.wrong.to_string(),
                    p,
                ]);
            }
            println!(
                "{table}\n{} of {} incidents were judged; partly counts half",
                precision.judged, precision.incidents
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn shares_keep_the_digits_that_matter() {
        let said = [0.0, 0.00002, 0.001, 0.0102, 0.5, 1.0].map(percent);
        assert_eq!(said, ["0", "0.0020 %", "0.10 %", "1.02 %", "50 %", "100 %"]);
    }
}
