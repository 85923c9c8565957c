//! `selvedge sim`: scenarios in the seeded simulator, and how near the diagnosis comes to what is possible.

mod packets;
mod seeds;

use crate::out;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};
use fabric::Scenario;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sim::bound::{Case, Sample, quantile};
use sim::judge::{Found, Outcome, Report};
use sim::run::Config;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const EXAMPLES: &str = "Examples:
  selvedge sim run scenarios/gray-link.toml
  selvedge sim run scenarios/gray-*.toml --seeds 5
  selvedge sim run scenarios/flap.toml --seed 7 --json
  selvedge sim bound --seeds 20
  selvedge sim matrix permutation.cm --slow-links 8
  selvedge sim seeds --count 100000

The same scenario and seed give the same run, byte for byte.";

/// Packets a run may send; more would take minutes and gigabytes.
const PACKETS_MAX: f64 = 2e8;

#[derive(ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios and judge what was found
    #[command(
        after_help = "Exit codes: 0 everything right, 1 a scenario does not read, 3 something was not right."
    )]
    Run {
        /// Scenarios or fabrics
        #[arg(required = true, value_name = "SCENARIO")]
        files: Vec<PathBuf>,
        /// Seed of the first run, instead of the scenario's own
        #[arg(long)]
        seed: Option<u64>,
        /// Runs of each scenario, with one seed after the other
        #[arg(long, default_value_t = 1, value_name = "N")]
        seeds: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Packets over the sick link until the verdict against the least any test needs
    #[command(after_help = "\
The bound is h / D packets: D = p ln(p/p0) - p + p0 with p0 = 1e-5, h = ln(links x windows a day / false alarms
a day). Packets in windows still open when the verdict came, whose fate the hub had not been told, are not counted in
the ratio; the column \"with open\" counts them too. Each row is probed so slowly that a window, or the second after
which an unanswered probe is lost, holds a small part of the bound.")]
    Bound {
        /// Runs of each loss rate
        #[arg(long, default_value_t = 20, value_name = "N")]
        seeds: u64,
        /// Only these loss rates
        #[arg(long, value_name = "P")]
        rate: Vec<f64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The transport, packet by packet, over a fabric: who sends how much to whom is a file
    Matrix(packets::MatrixArgs),
    /// The transport's delivery over many short exchanges: every message once and bit-equal, whatever goes wrong
    Seeds(seeds::Args),
    /// The transport beside the published results of the Ultra Ethernet Consortium's simulator
    AnswerKey(packets::AnswerKeyArgs),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run { files, seed, seeds, json } => scenarios(&files, seed, seeds, json),
        Command::Bound { seeds, rate, json } => bound(seeds, &rate, json),
        Command::Matrix(args) => packets::matrix(&args),
        Command::AnswerKey(args) => packets::answer_key(&args),
        Command::Seeds(args) => seeds::run(&args),
    }
}

/// Does `jobs` on every processor and gives the results in order.
fn all<T: Send>(jobs: usize, what: &str, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(jobs as u64).with_message(what.to_string());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.tick();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= jobs {
                        return;
                    }
                    let result = job(i);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((i, result));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

fn read(file: &PathBuf) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scenario = Scenario::parse(&text).with_context(|| format!("in {}", file.display()))?;
    let hosts = f64::from(scenario.fabric.shape.hosts);
    let packets =
        2.0 * hosts * f64::from(scenario.probe.packets_per_second) * scenario.duration.as_secs_f64();
    if packets > PACKETS_MAX {
        bail!(
            "{}: {packets:.1e} packets in all, at most {PACKETS_MAX:.0e}; take fewer hosts, a shorter duration or \
             fewer packets a second",
            file.display()
        );
    }
    Ok(scenario)
}

fn scenarios(files: &[PathBuf], seed: Option<u64>, seeds: u64, json: bool) -> anyhow::Result<ExitCode> {
    let scenarios: Vec<Scenario> = files.iter().map(read).collect::<Result<_, _>>()?;
    let jobs: Vec<(&Scenario, u64)> = scenarios
        .iter()
        .flat_map(|s| (0..seeds).map(move |i| (s, seed.unwrap_or(s.seed).wrapping_add(i))))
        .collect();
    let config = Config::default();
    let reports = all(jobs.len(), "simulating", |i| Report::of(jobs[i].0, jobs[i].1, config));
    let right = reports.iter().filter(|r| r.judge.right()).count();
    if json {
        out::json(&json!({
            "rows": reports.iter().flat_map(|r| rows(r, &config)).collect::<Vec<_>>(),
            "runs": reports.len(),
            "right": right,
        }))?;
    } else {
        print(&reports, &config);
        println!("{right} of {} right", reports.len());
    }
    Ok(if right == reports.len() { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}

fn ratio(report: &Report, outcome: &Outcome, config: &Config) -> Option<f64> {
    report.ratio(outcome, config.engine.false_alarms_per_day)
}

fn expected(report: &Report, outcome: &Outcome) -> String {
    let fabric = &report.scenario.fabric;
    let fault = report.scenario.faults.get(outcome.expected.fault);
    let what = fault.map_or_else(String::new, |f| f.kind.to_string());
    let names = outcome.expected.components.iter().map(|&c| fabric.component_name(c));
    format!("{} {what}", names.take(1).collect::<String>())
}

fn found(report: &Report, found: &Found) -> String {
    let fabric = &report.scenario.fabric;
    let more = match found.verdict.alternatives.len() {
        0 => String::new(),
        n => format!(" (or {n} more)"),
    };
    fabric.component_name(found.verdict.component) + &more
}

fn verdict_json(report: &Report, found: &Found) -> Value {
    let fabric = &report.scenario.fabric;
    let v = &found.verdict;
    json!({
        "component": { "kind": v.component.kind(), "name": fabric.component_name(v.component) },
        "alternatives": v.alternatives.iter().map(|&c| fabric.component_name(c)).collect::<Vec<_>>(),
        "kind": v.kind.as_str(),
        "rate": v.rate,
        "confidence": v.confidence,
        "at": found.at.as_secs_f64(),
        "closed_at": v.closed_at.map(|t| t.as_secs_f64()),
    })
}

fn rows(report: &Report, config: &Config) -> Vec<Value> {
    let wrong: Vec<_> = report.judge.wrong().iter().map(|f| verdict_json(report, f)).collect();
    let row = |outcome: Option<&Outcome>| {
        let found = outcome.and_then(|o| o.found.as_ref());
        json!({
            "name": report.scenario.name,
            "seed": report.scenario.seed,
            "expected": outcome.map_or("nothing".to_string(), |o| expected(report, o)),
            "found": found.map(|f| verdict_json(report, f)),
            "kind_right": outcome.map(|o| o.kind_right),
            "seconds": outcome.and_then(Outcome::took).map(|t| t.as_secs_f64()),
            "packets": found.and(outcome).map(|o| o.packets),
            "ratio": outcome.and_then(|o| ratio(report, o, config)),
            "right": outcome.is_none_or(Outcome::right) && wrong.is_empty(),
            "wrong": wrong,
            "sent": report.ledger.net.sent,
            "trace": format!("{:016x}", report.trace),
        })
    };
    match report.judge.outcomes() {
        [] => vec![row(None)],
        outcomes => outcomes.iter().map(|o| row(Some(o))).collect(),
    }
}

fn print(reports: &[Report], config: &Config) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let right = |t: String| Cell::new(t).set_alignment(CellAlignment::Right);
    table.set_header(
        ["scenario", "seed", "expected", "found", "kind", "conf", "seconds", "packets/bound", ""]
            .map(Cell::new),
    );
    let number = |x: Option<f64>, digits: usize| x.map_or(String::new(), |x| format!("{x:.digits$}"));
    for report in reports {
        let s = &report.scenario;
        let mut add = |cells: [String; 5], numbers: [Option<f64>; 3], verdict: &str| {
            let mut row: Vec<Cell> = cells.into_iter().map(Cell::new).collect();
            let [confidence, seconds, ratio] = numbers;
            row.extend([right(number(confidence, 2)), right(number(seconds, 1)), right(number(ratio, 2))]);
            row.push(Cell::new(verdict));
            table.add_row(row);
        };
        let head = |expected: String| [s.name.clone(), s.seed.to_string(), expected];
        for o in report.judge.outcomes() {
            let [a, b, c] = head(expected(report, o));
            let f = o.found.as_ref();
            let kind = f.map_or(String::new(), |f| f.verdict.kind.to_string());
            add(
                [a, b, c, f.map_or("nothing".into(), |f| found(report, f)), kind],
                [
                    f.map(|f| f.verdict.confidence),
                    o.took().map(|t| t.as_secs_f64()),
                    ratio(report, o, config),
                ],
                match (o.right(), &o.found) {
                    (true, _) => "right",
                    (false, None) => "missed",
                    (false, Some(_)) if !o.kind_right => "wrong kind",
                    (false, Some(_)) => "late",
                },
            );
        }
        for f in report.judge.wrong() {
            let [a, b, _] = head(String::new());
            add(
                [a, b, "nothing".into(), found(report, f), f.verdict.kind.to_string()],
                [Some(f.verdict.confidence), Some(f.at.as_secs_f64()), None],
                "wrong",
            );
        }
        if report.judge.outcomes().is_empty() && report.judge.wrong().is_empty() {
            let [a, b, c] = head("nothing".into());
            add([a, b, c, "nothing".into(), String::new()], [None; 3], "right");
        }
    }
    println!("{table}");
}

fn bound(seeds: u64, rates: &[f64], json: bool) -> anyhow::Result<ExitCode> {
    let cases: Vec<Case> =
        Case::ALL.into_iter().filter(|c| rates.is_empty() || rates.contains(&c.p)).collect();
    if cases.is_empty() || seeds == 0 {
        let known: Vec<_> = Case::ALL.iter().map(|c| format!("{:e}", c.p)).collect();
        bail!("expected at least one run and one of the rates {}", known.join(", "));
    }
    let config = Config::default();
    let per_case = usize::try_from(seeds)?;
    let samples: Vec<Sample> = all(cases.len() * per_case, "simulating", |i| {
        // the long ones first, so that no processor is left with one at the end
        let case = &cases[cases.len() - 1 - i / per_case];
        case.sample(1 + (i % per_case) as u64, config)
    })
    .into_iter()
    .collect::<Result<_, _>>()?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(
        [
            "loss",
            "probes/s",
            "window",
            "runs",
            "missed",
            "wrong",
            "packets",
            "bound",
            "ratio p50",
            "p90",
            "with open p50",
            "seconds p50",
            "p90",
        ]
        .map(Cell::new),
    );
    let mut rows = Vec::new();
    for (case, samples) in cases.iter().zip(samples.chunks(per_case).rev()) {
        let sorted = |f: &dyn Fn(&Sample) -> f64| {
            let mut v: Vec<f64> = samples.iter().map(f).collect();
            v.sort_by(f64::total_cmp);
            v
        };
        let packets = sorted(&|s| s.found.map_or(f64::INFINITY, |v| v.packets as f64));
        let (ratio, ratio_all) = (sorted(&Sample::ratio), sorted(&Sample::ratio_all));
        let seconds = sorted(&|s| s.found.map_or(f64::INFINITY, |v| v.took.as_secs_f64()));
        let missed = samples.iter().filter(|s| s.found.is_none()).count();
        let wrong: u64 = samples.iter().map(|s| s.wrong).sum();
        let bound = samples.first().map_or(0.0, |s| s.bound);
        let q = |v: &[f64], q| quantile(v, q).filter(|x| x.is_finite());
        rows.push(json!({
            "name": format!("{:e}", case.p),
            "p": case.p,
            "packets_per_second": case.packets_per_second,
            "window_ms": case.window.as_millis(),
            "runs": samples.len(),
            "missed": missed,
            "wrong": wrong,
            "packets": q(&packets, 0.5),
            "bound": bound,
            "ratio_p50": q(&ratio, 0.5),
            "ratio_p90": q(&ratio, 0.9),
            "ratio_with_open_p50": q(&ratio_all, 0.5),
            "seconds_p50": q(&seconds, 0.5),
            "seconds_p90": q(&seconds, 0.9),
        }));
        let text = |x: Option<f64>, digits: usize| x.map_or("never".into(), |x| format!("{x:.digits$}"));
        let cells = [
            format!("{:e}", case.p),
            case.packets_per_second.to_string(),
            format!("{} ms", case.window.as_millis()),
            samples.len().to_string(),
            missed.to_string(),
            wrong.to_string(),
            text(q(&packets, 0.5), 0),
            format!("{bound:.0}"),
            text(q(&ratio, 0.5), 2),
            text(q(&ratio, 0.9), 2),
            text(q(&ratio_all, 0.5), 2),
            text(q(&seconds, 0.5), 1),
            text(q(&seconds, 0.9), 1),
        ];
        table.add_row(cells.map(|c| Cell::new(c).set_alignment(CellAlignment::Right)));
    }
    if json {
        out::json(&json!({
            "rows": rows,
            "false_alarms_per_day": config.engine.false_alarms_per_day,
        }))?;
    } else {
        println!("{table}");
    }
    Ok(ExitCode::SUCCESS)
}
