//! `selvedge sim matrix` and `selvedge sim answer-key`: the transport in the packet-level simulator.
//!
//! How: files are read and refused here, with file and line; runs are spread over threads, and every seed's outcome
//! depends on its inputs alone. Absent on purpose: parameters for single rows, and the published data themselves.

use super::all;
use crate::out;
use anyhow::{Context, bail, ensure};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::json;
use sim::packets::answer_key::{self, Class, Row};
use sim::packets::matrix::Matrix;
use sim::packets::run::{Faults, Outcome, Routing, Setup, run};
use sim::packets::topology::Topology;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Packets a run may have; more would take minutes.
const PACKETS_MAX: u64 = 50_000_000;

#[derive(Args)]
#[command(after_help = "\
A matrix is a line `Nodes N`, then one flow a line: `FROM->TO start MICROSECONDS size BYTES`,
perhaps with `trigger N`, `send_done_trigger N`, `recv_done_trigger N`. Without a topology the
fabric is the smallest three-tier fat tree for its nodes, 100 Gb/s and 1 us a link.

Exit codes: 0 every flow done, 1 a file does not read, 3 some flow was not done.")]
pub(crate) struct MatrixArgs {
    /// The connection matrix
    #[arg(value_name = "FILE.cm")]
    file: PathBuf,
    /// Fabric, instead of a fat tree
    #[arg(long, value_name = "FILE.topo")]
    topology: Option<PathBuf>,
    /// Downlinks of the top tier that are slow
    #[arg(long, default_value_t = 0, value_name = "N")]
    slow_links: u32,
    /// Their share of full speed
    #[arg(long, default_value_t = 0.25, value_name = "SHARE")]
    slow_share: f64,
    /// Entropy values of each sender; with 1 every flow has one path, drawn at random
    #[arg(long, default_value_t = 64, value_name = "P")]
    paths: u16,
    /// Switches hash entropy values instead of following the sender's path
    #[arg(long)]
    ecmp: bool,
    /// Switches drop what does not fit instead of trimming it
    #[arg(long)]
    no_trim: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "\
DIR holds published.txt and the validate_*.txt that describe the experiments. Rows without
contention calibrate the simulator: they have to agree within 0.5 % both ways. Rows with one path
are one draw of somebody's hash. The others are judged by the best published tail among the
variants of the experiment. One set of parameters serves all rows, save what the experiment sets.

Exit codes: 0 every row as good as asked, 1 a file does not read, 3 some row was not.")]
pub(crate) struct AnswerKeyArgs {
    /// Directory with the experiments and what was published
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Runs of each experiment
    #[arg(long, default_value_t = 10, value_name = "N")]
    seeds: u64,
    /// Share of full speed that slow links have
    #[arg(long, default_value_t = 0.25, value_name = "SHARE")]
    slow_share: f64,
    /// Only rows whose name contains this
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_matrix(path: &Path) -> anyhow::Result<Matrix> {
    let matrix = Matrix::parse(&read(path)?).with_context(|| format!("in {}", path.display()))?;
    let packets: u64 = matrix.flows.iter().map(|f| f.bytes.div_ceil(4086)).sum();
    ensure!(
        packets <= PACKETS_MAX,
        "{}: {packets} packets, expected at most {PACKETS_MAX}; take fewer or smaller flows",
        path.display()
    );
    Ok(matrix)
}

fn read_topology(path: Option<&Path>, matrix: &Matrix, of: &Path) -> anyhow::Result<Topology> {
    let topology = match path {
        Some(p) => Topology::parse(&read(p)?).with_context(|| format!("in {}", p.display()))?,
        None => Topology::fat_tree(matrix.nodes),
    };
    ensure!(
        matrix.nodes <= topology.hosts,
        "{}: {} nodes, expected at most the {} hosts of the topology",
        of.display(),
        matrix.nodes,
        topology.hosts
    );
    Ok(topology)
}

fn share(share: f64) -> anyhow::Result<f64> {
    ensure!((0.001..=1.0).contains(&share), "expected a share of full speed from 0.001 to 1, found {share}");
    Ok(share)
}

pub(crate) fn matrix(args: &MatrixArgs) -> anyhow::Result<ExitCode> {
    let matrix = read_matrix(&args.file)?;
    let topology = read_topology(args.topology.as_deref(), &matrix, &args.file)?;
    ensure!(args.paths > 0, "expected at least one path, found 0");
    let mut setup = Setup {
        trim: !args.no_trim,
        routing: if args.ecmp { Routing::Hashed } else { Routing::Exact },
        single_path: args.paths == 1,
        faults: Faults {
            slow_links: args.slow_links,
            slow_share: share(args.slow_share)?,
            ..Faults::default()
        },
        seed: args.seed,
        ..Setup::default()
    };
    setup.transport.evs = args.paths;
    let mut outcomes = all(1, "simulating", |_| run(&matrix, &topology, &setup));
    let Some(o) = outcomes.pop() else { bail!("the run gave nothing") };
    let open = o.done_us.iter().filter(|t| t.is_none()).count();
    let (tail, mean, first) = (o.tail_us(), o.mean_us(), o.first_us());
    let spread = tail.zip(first).map(|(t, f)| t - f);
    let c = &o.counters;
    if args.json {
        out::json(&json!({
            "tail_us": tail,
            "mean_us": mean,
            "first_us": first,
            "spread_us": spread,
            "flows": o.done_us.len(),
            "flows_open": open,
            "packets": c.chunks_new,
            "retransmissions": c.chunks_again,
            "acks": c.acks,
            "nacks": c.nacks,
            "timeouts": c.timeouts,
            "trimmed": o.network.trimmed,
            "dropped": o.network.dropped(),
            "seed": args.seed,
            "trace": format!("{:016x}", o.trace),
        }))?;
    } else {
        let us = |x: Option<f64>| x.map_or("never".to_string(), |x| format!("{x:.2}"));
        println!("tail_us {}  mean_us {}  spread_us {}", us(tail), us(mean), us(spread));
        println!(
            "packets {}  retransmissions {}  acks {}  nacks {}  timeouts {}  trimmed {}  dropped {}",
            c.chunks_new,
            c.chunks_again,
            c.acks,
            c.nacks,
            c.timeouts,
            o.network.trimmed,
            o.network.dropped()
        );
        if open > 0 {
            println!("{open} of {} flows were not done when the run ended", o.done_us.len());
        }
        println!("trace {:016x}", o.trace);
    }
    Ok(if open == 0 { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}

/// What one row's runs came to.
struct Judged<'a> {
    row: &'a Row,
    tails: Vec<f64>,
    median: f64,
    worst: f64,
    ratio: Option<f64>,
    packets: u64,
    again: u64,
    timeouts: u64,
}

impl Judged<'_> {
    fn of<'a>(row: &'a Row, outcomes: &[Outcome]) -> Judged<'a> {
        let mut tails: Vec<f64> = outcomes.iter().map(|o| o.tail_us().unwrap_or(f64::INFINITY)).collect();
        tails.sort_by(f64::total_cmp);
        let middle = |i: usize| tails.get(i).copied().unwrap_or(f64::INFINITY);
        let n = tails.len();
        let median = (middle(n / 2) + middle((n - 1) / 2)) / 2.0;
        let sum = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
        Judged {
            row,
            median,
            worst: middle(n.saturating_sub(1)),
            ratio: row.published_us.map(|p| median / p),
            packets: sum(|o| o.counters.chunks_new),
            again: sum(|o| o.counters.chunks_again),
            timeouts: sum(|o| o.counters.timeouts),
            tails,
        }
    }

    /// As good as asked?
    fn well(&self) -> bool {
        let Some(ratio) = self.ratio else { return self.median.is_finite() };
        self.timeouts == 0
            && match self.row.experiment.class {
                Class::Calibration => (ratio - 1.0).abs() <= 0.005,
                // one draw of another's hash: at least one of ours has to be as fast
                Class::SinglePath => {
                    self.row.own_us.is_none_or(|own| self.tails.first().is_some_and(|best| *best <= own))
                }
                Class::Contest => ratio <= 1.03,
            }
    }
}

fn read_rows(args: &AnswerKeyArgs) -> anyhow::Result<Vec<Row>> {
    let path = args.dir.join("published.txt");
    let published = answer_key::published(&read(&path)?).with_context(|| format!("in {}", path.display()))?;
    let entries =
        std::fs::read_dir(&args.dir).with_context(|| format!("cannot read {}", args.dir.display()))?;
    let mut files: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|f| f.starts_with("validate_") && f.ends_with(".txt"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "{}: expected files named validate_*.txt, found none", args.dir.display());
    let mut rows = Vec::new();
    for file in &files {
        let suite = file.trim_start_matches("validate_").trim_end_matches(".txt");
        let path = args.dir.join(file);
        let experiments = answer_key::experiments(suite, &read(&path)?)
            .with_context(|| format!("in {}", path.display()))?;
        rows.extend(answer_key::rows(experiments, &published));
    }
    rows.retain(|r| args.only.iter().all(|w| r.name.contains(w.as_str())));
    ensure!(!rows.is_empty(), "no row's name contains {}", args.only.join(" and "));
    Ok(rows)
}

pub(crate) fn answer_key(args: &AnswerKeyArgs) -> anyhow::Result<ExitCode> {
    ensure!((1..=1000).contains(&args.seeds), "expected 1 to 1000 seeds, found {}", args.seeds);
    let slow_share = share(args.slow_share)?;
    let rows = read_rows(args)?;
    let mut inputs = Vec::new();
    for row in &rows {
        let path = args.dir.join(&row.experiment.matrix);
        let matrix = read_matrix(&path)?;
        let topology = row.experiment.topology.as_ref().map(|t| args.dir.join(t));
        let topology = read_topology(topology.as_deref(), &matrix, &path)?;
        inputs.push((matrix, topology));
    }
    let per_row = usize::try_from(args.seeds)?;
    let outcomes = all(rows.len() * per_row, "simulating", |i| {
        let (row, (matrix, topology)) = (&rows[i / per_row], &inputs[i / per_row]);
        let mut setup = Setup { seed: 1 + (i % per_row) as u64, ..row.experiment.setup.clone() };
        setup.faults.slow_share = slow_share;
        run(matrix, topology, &setup)
    });
    let judged: Vec<Judged<'_>> =
        rows.iter().zip(outcomes.chunks(per_row)).map(|(row, o)| Judged::of(row, o)).collect();
    let of =
        |class: Class| judged.iter().filter(move |j| j.row.experiment.class == class && j.ratio.is_some());
    let at_most = |x: f64| of(Class::Contest).filter(|j| j.ratio.is_some_and(|r| r <= x)).count();
    let calibrated = of(Class::Calibration).filter(|j| j.well()).count();
    let timeouts: u64 = judged.iter().map(|j| j.timeouts).sum();
    if args.json {
        let row = |j: &Judged<'_>| {
            json!({
                "name": j.row.name,
                "class": j.row.experiment.class.as_str(),
                "tail_us": j.median,
                "tail_us_worst": j.worst,
                "tail_us_best": j.tails.first(),
                "published_us": j.row.published_us,
                "published_us_own": j.row.own_us,
                "ratio": j.ratio,
                "packets": j.packets / args.seeds,
                "retransmissions": j.again as f64 / args.seeds as f64,
                "timeouts": j.timeouts,
                "well": j.well(),
            })
        };
        out::json(&json!({
            "rows": judged.iter().map(row).collect::<Vec<_>>(),
            "seeds": args.seeds,
            "slow_share": slow_share,
            "calibration_rows": of(Class::Calibration).count(),
            "calibration_rows_within_half_a_percent": calibrated,
            "contest_rows": of(Class::Contest).count(),
            "contest_rows_at_most_1_00": at_most(1.0),
            "contest_rows_at_most_1_03": at_most(1.03),
            "timeouts": timeouts,
        }))?;
    } else {
        print(&judged, args.seeds);
        println!(
            "{calibrated} of {} calibrating rows within 0.5 %; of {} contest rows {} at most 1.00 and {} at most 1.03; \
             {timeouts} connection timeouts",
            of(Class::Calibration).count(),
            of(Class::Contest).count(),
            at_most(1.0),
            at_most(1.03),
        );
    }
    Ok(if judged.iter().all(Judged::well) { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}

fn print(judged: &[Judged<'_>], seeds: u64) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(
        ["experiment", "tail us", "worst", "published", "ratio", "packets", "again", "timeouts", ""]
            .map(Cell::new),
    );
    let right = |t: String| Cell::new(t).set_alignment(CellAlignment::Right);
    let number = |x: Option<f64>, digits: usize| x.map_or(String::new(), |x| format!("{x:.digits$}"));
    for j in judged {
        let verdict = match (j.row.experiment.class, j.ratio) {
            (_, None) => "",
            (Class::SinglePath, _) if j.well() => "one path",
            (Class::SinglePath, _) => "slower",
            (Class::Calibration, _) if j.well() => "agrees",
            (Class::Calibration, _) => "off",
            (Class::Contest, Some(r)) if r <= 1.0 => "",
            (Class::Contest, _) if j.well() => "behind",
            (Class::Contest, _) => "lost",
        };
        table.add_row(vec![
            Cell::new(&j.row.name),
            right(number(Some(j.median), 2)),
            right(number(Some(j.worst), 2)),
            right(number(j.row.published_us, 2)),
            right(number(j.ratio, 4)),
            right((j.packets / seeds).to_string()),
            right((j.again / seeds).to_string()),
            right(j.timeouts.to_string()),
            Cell::new(verdict),
        ]);
    }
    println!("{table}");
}
