//! `selvedge why`: what slows a connection, a process or the traffic with a host: host, path or peer, on one page.
//!
//! How: without `--host` this machine is looked at, in the network namespace of the process asked about or else in this one.
//! With `--host` the hub asks that host's agent and the one at the other end at the same time, and says what it knows of
//! the paths between. What was seen is judged here ([`agent::why::judge`]).

use super::trace::{bar, ended};
use crate::client::{Client, HubArgs};
use crate::out;
use agent::why::facts::{PathLink, Sickness};
use agent::why::{EndFacts, Facts, Kind, Look, PathFacts, Question, Verdict, collect, judge, page};
use anyhow::{Context, bail};
use hub::{LookView, PathsView};
use indicatif::ProgressBar;
use serde_json::json;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const AFTER: &str = "Examples:
  selvedge why 4711                                   what slows this process on this machine
  selvedge why 10.0.0.2:5432                          connections to there
  selvedge why host9 --host host0                     both hosts are asked, by the hub
  selvedge why '[fd00::1]:40000-[fd00::2]:443' --host host0
  selvedge why host9 --host host0 --json > facts.json; selvedge why --judge facts.json

On this machine it sees processes of others only as root. With --host it takes the role operator, and is written down in
table audit. An answer below 80 % is said as a guess. Nothing is changed on a host.
Exit codes: 0 nothing slows it, or nobody knows, 3 something does, 1 nobody could look.";

/// Longest the agents may take beyond the look itself.
const BEYOND: Duration = Duration::from_secs(90);
/// Links of the paths between that lose at least this are told.
const SICK_RATE: f64 = 1e-3;

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A process id, ADDRESS:PORT of the other end, ADDRESS:PORT-ADDRESS:PORT with the own end first, an address, or with
    /// --host another host of the fabric
    #[arg(required_unless_present = "judge")]
    about: Option<String>,
    /// Host to ask, by the hub; else this machine
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// How long to look
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// Judge again what `--json` once printed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["about", "host"])]
    judge: Option<PathBuf>,
    /// Print JSON: the answer, and the facts it rests on
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// What `--json` prints, and `--judge` reads.
#[derive(serde::Deserialize)]
struct Kept {
    facts: Facts,
}

/// Looks at this machine.
fn here(about: &str, seconds: u32, bar: &ProgressBar) -> anyhow::Result<Facts> {
    let question = Question::parse(about).with_context(|| {
        format!(
            "{about:?}: expected a process id, an address, ADDRESS:PORT or ADDRESS:PORT-ADDRESS:PORT; the name of a host \
             needs --host, which says from where"
        )
    })?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let look = Look { interval: Duration::from_secs(seconds.into()), ..Look::new(question, name.trim()) };
    bar.set_message(format!("looking for {seconds} s"));
    bar.enable_steady_tick(Duration::from_millis(100));
    let local = match look.question {
        Question::Process(pid) if !std::path::Path::new(&format!("/proc/{pid}")).exists() => {
            bail!("there is no process {pid} on this machine")
        }
        // A container's connections are in a namespace of its own; who may not enter it looks at this one.
        Question::Process(pid) => match kernel::netns::Netns::of_process(pid).and_then(|n| n.enter()) {
            Ok(_inside) => collect(&look),
            Err(e) => {
                tracing::debug!(%e, "the network namespace of the process cannot be entered");
                collect(&look)
            }
        },
        _ => collect(&look),
    }?;
    Ok(Facts { question: look.question, local, peer: None, path: None })
}

fn fetch(
    client: &Client,
    look: &LookView,
    within: Duration,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<EndFacts>> {
    let tasks = ended(client, &look.ids, within, bar)?;
    let mut ends = Vec::new();
    for (task, id) in tasks.iter().zip(&look.ids) {
        if task.state == "failed" {
            // Without the other end the answer is less sure; without the own one there is none.
            if ends.is_empty() {
                bail!("{}: {}", task.host, task.error);
            }
            tracing::warn!(host = task.host, error = task.error, "the other end could not be asked");
            continue;
        }
        ends.push(client.get(&format!("/api/v1/tasks/{id}/outcome"))?);
    }
    Ok(ends)
}

/// The addresses at the other end of most of a process's connections.
fn other_end(own: &EndFacts, pid: u32) -> Option<IpAddr> {
    let mine = own.sockets.iter().filter(|s| s.pid == Some(pid) && !s.remote.ip().is_loopback());
    let mut count = std::collections::BTreeMap::<IpAddr, u32>::new();
    mine.for_each(|s| *count.entry(s.remote.ip()).or_default() += 1);
    count.into_iter().max_by_key(|(_, n)| *n).map(|(address, _)| address)
}

/// What the hub knows of the paths between two hosts.
fn path(client: &Client, from: &str, to: &str) -> anyhow::Result<PathFacts> {
    let mut facts = PathFacts::default();
    for (from, to) in [(from, to), (to, from)] {
        let view: PathsView = client.get(&format!("/api/v1/paths?from={from}&to={to}"))?;
        for p in &view.paths {
            if let Some(m) = &p.measured {
                facts.probes_sent += m.sent;
                facts.probes_lost += m.lost;
            }
            for l in p.hops.iter().filter(|l| !l.incidents.is_empty() && l.rate_10s >= SICK_RATE) {
                if !facts.links.iter().any(|known| known.name == l.name) {
                    let sickness = if l.rate_10s > 0.99 { Sickness::Down } else { Sickness::Loss };
                    facts.links.push(PathLink { name: l.name.clone(), sickness, confidence: 0.9 });
                }
            }
        }
    }
    Ok(facts)
}

/// Has the hub ask both ends.
fn by_hub(args: &Args, host: &str, about: &str, bar: &ProgressBar) -> anyhow::Result<Facts> {
    let client = args.hub.client()?;
    let within = BEYOND + Duration::from_secs(args.seconds.into());
    let ask = |about: &str, seconds: u32| -> anyhow::Result<LookView> {
        client.post("/api/v1/looks", &json!({ "host": host, "about": about, "seconds": seconds }))
    };
    let process: Option<u32> = about.parse().ok();
    let about = match process {
        None => about.to_owned(),
        Some(pid) => {
            // A short look says who is at the other end.
            let first = fetch(&client, &ask(about, 1)?, within, bar)?;
            let other = first.first().and_then(|own| other_end(own, pid));
            other.map_or_else(|| about.to_owned(), |address| address.to_string())
        }
    };
    let look = ask(&about, args.seconds)?;
    let mut ends = fetch(&client, &look, within, bar)?.into_iter();
    let mut local = ends.next().context("the hub gave no outcome")?;
    let peer = ends.next();
    let question = match process {
        Some(pid) => {
            local.sockets.retain(|s| s.pid == Some(pid));
            Question::Process(pid)
        }
        None => Question::parse(&about).unwrap_or(Question::Host(Vec::new())),
    };
    let path = match look.hosts.as_slice() {
        [own, peer] => Some(path(&client, own, peer)?),
        _ => None,
    };
    Ok(Facts { question, local, peer, path })
}

fn print(facts: &Facts) {
    let answer = judge(facts);
    for line in page(&answer) {
        let colour = match line.kind {
            Kind::Bad => "1;31",
            Kind::Unsure => "1;33",
            Kind::Good => "1;32",
            Kind::Heading => "1",
            Kind::Evidence => "2",
            Kind::Cause | Kind::Advice | Kind::Plain => "",
        };
        if colour.is_empty() || !out::coloured() {
            println!("{}", line.text);
        } else {
            println!("\x1b[{colour}m{}\x1b[0m", line.text);
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let facts = if let Some(file) = &args.judge {
        let text = super::hub::text(file)?;
        let kept: Kept = serde_json::from_str(&text)
            .with_context(|| format!("{}: expected what `selvedge why --json` prints", file.display()))?;
        kept.facts
    } else {
        let about = args.about.as_deref().unwrap_or_default().trim();
        let bar = bar(args.json);
        let facts = match &args.host {
            None => here(about, args.seconds, &bar),
            Some(host) => by_hub(&args, host, about, &bar),
        };
        bar.finish_and_clear();
        facts?
    };
    let answer = judge(&facts);
    if args.json {
        out::json(&json!({ "answer": answer, "facts": facts }))?;
    } else {
        print(&facts);
    }
    let slowed = matches!(answer.verdict, Verdict::Slowed(_));
    Ok(if slowed { ExitCode::from(out::NOT_WELL) } else { ExitCode::SUCCESS })
}
