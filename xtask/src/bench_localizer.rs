//! `cargo xtask bench localizer`: how well and how fast the localizer does on recorded traces, and at scale.
//!
//! How: every trace of a folder is read, turned into counts, localized, and judged against the `Failing_link` lines
//! in it. Nothing here tells the localizer which set a trace belongs to. A set is what the file names share before
//! the last `-`; its primed row (`A'`) reads the same traces without the paths of flows that lost nothing.
//!
//! Judging: precision and recall over directed links, where a whole switch (`Failing_link u u`) is found when it is
//! named, and a link of a failed switch that is named is neither found nor false. A trace without a verdict has
//! precision 1; one without a fault has recall 1. P and R are averaged over the traces of a set, F is of those.

use crate::bench_scale;
use anyhow::{Context as _, Result, bail};
use diagnose::localize::{Group, Map, NO_CLASS, Params, Problem};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of the bench.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of traces; without it only the scale is measured
    #[arg(long)]
    traces: Option<PathBuf>,
    /// Topology of the traces; default: `topology` in the folder, else what the traces themselves tell
    #[arg(long)]
    topology: Option<PathBuf>,
    /// Read every trace a second time without the paths of flows that lost nothing, whatever its set
    #[arg(long)]
    unknown_paths: bool,
    /// Only the traces, not the scale
    #[arg(long)]
    no_scale: bool,
    /// Print every wrong or missing component
    #[arg(long)]
    misses: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    name: String,
    traces: usize,
    precision: f64,
    recall: f64,
    f: f64,
    /// Components named that were not at fault, over all traces of the set.
    false_verdicts: usize,
    /// Seconds a trace, parsing left out.
    seconds: f64,
}

/// Node numbers from here on are hosts.
const FIRST_HOST: u32 = 10_000;

/// Links and switches of a trace's network.
struct Network {
    link: HashMap<(u32, u32), u32>,
    ends: Vec<(u32, u32)>,
    switches: Vec<u32>,
    map: Map,
}

impl Network {
    fn new(cables: &BTreeSet<(u32, u32)>) -> Network {
        let mut link = HashMap::new();
        let mut ends = Vec::new();
        for &(u, v) in cables {
            for e in [(u, v), (v, u)] {
                link.insert(e, ends.len() as u32);
                ends.push(e);
            }
        }
        let mut at: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (i, &(u, v)) in ends.iter().enumerate() {
            for n in [u, v] {
                if n < FIRST_HOST {
                    at.entry(n).or_default().push(i as u32);
                }
            }
        }
        let switches: Vec<u32> = at.keys().copied().collect();
        let groups = at
            .into_values()
            .map(|links| Group { links, links_crossed: 2.0, cost: SWITCH_COST, ports: true })
            .collect();
        let map = Map::new(ends.len(), |l| l ^ 1, groups);
        Network { link, ends, switches, map }
    }
    fn name(&self, component: u32) -> (u32, u32) {
        match self.ends.get(component as usize) {
            Some(&e) => e,
            None => {
                let s = self.switches[component as usize - self.ends.len()];
                (s, s)
            }
        }
    }
}

/// A switch is a rarer thing to break than a link, per piece, and has more ways to do so.
const SWITCH_COST: f64 = 3.0;

struct Flow {
    from: u32,
    to: u32,
    first: u32,
    last: u32,
    /// Switches of the path taken.
    taken: (u32, u32),
    sent: u64,
    lost: u64,
}

#[derive(Default)]
struct Trace {
    truth: Vec<(u32, u32)>,
    /// Existing switch paths, by first and last switch.
    existing: HashMap<(u32, u32), Vec<(u32, u32)>>,
    flows: Vec<Flow>,
    nodes: Vec<u32>,
}

impl Trace {
    fn read(path: &Path) -> Result<Trace> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut t = Trace::default();
        let mut flow: Option<Flow> = None;
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace();
            let Some(kind) = words.next() else { continue };
            let wrong = || format!("{}:{}: {line}", path.display(), number + 1);
            match kind {
                "Failing_link" => {
                    let mut node = || words.next().and_then(|w| w.parse().ok()).with_context(wrong);
                    t.truth.push((node()?, node()?));
                }
                "FP" | "FPT" => {
                    let at = t.nodes.len() as u32;
                    for w in words {
                        t.nodes.push(w.parse().with_context(wrong)?);
                    }
                    let range = (at, t.nodes.len() as u32);
                    let (Some(&a), Some(&b)) = (t.nodes.get(at as usize), t.nodes.last()) else { continue };
                    if kind == "FP" {
                        t.existing.entry((a, b)).or_default().push(range);
                    } else if let Some(f) = &mut flow {
                        f.taken = range;
                    }
                }
                "FID" => {
                    let mut node = || words.next().and_then(|w| w.parse().ok()).with_context(wrong);
                    flow = Some(Flow {
                        from: node()?,
                        to: node()?,
                        first: node()?,
                        last: node()?,
                        taken: (0, 0),
                        sent: 0,
                        lost: 0,
                    });
                }
                "SS" => {
                    let f = flow.as_mut().with_context(wrong)?;
                    let number: Vec<f64> = words.filter_map(|w| w.parse().ok()).collect();
                    let [_, sent, lost, ..] = number[..] else { bail!(wrong()) };
                    // A flow may be reported several times: each line is an observation of its own.
                    t.flows.push(Flow { sent: sent as u64, lost: lost as u64, ..*f });
                }
                _ => {}
            }
        }
        Ok(t)
    }
    fn nodes(&self, range: (u32, u32)) -> &[u32] {
        &self.nodes[range.0 as usize..range.1 as usize]
    }
    /// The cables that its own lines tell of.
    fn cables(&self) -> BTreeSet<(u32, u32)> {
        let mut out = BTreeSet::new();
        let mut walk = |nodes: &[u32]| {
            for w in nodes.windows(2) {
                if w[0] != w[1] {
                    out.insert((w[0].min(w[1]), w[0].max(w[1])));
                }
            }
        };
        self.existing.values().flatten().for_each(|&r| walk(self.nodes(r)));
        for f in &self.flows {
            walk(self.nodes(f.taken));
            walk(&[f.from, f.first]);
            walk(&[f.last, f.to]);
        }
        out
    }
}

fn read_topology(path: &Path) -> Result<BTreeSet<(u32, u32)>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut cables = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let nodes: Vec<u32> = line
            .split(|c: char| !c.is_ascii_digit())
            .filter(|w| !w.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{}:{}: {line}", path.display(), number + 1))?;
        if let [u, v, ..] = nodes[..] {
            cables.insert((u.min(v), u.max(v)));
        }
    }
    Ok(cables)
}

/// A trace as numbers: what the localizer is given, made before the clock starts.
struct Reader<'a> {
    trace: &'a Trace,
    network: &'a Network,
    /// Candidate links between two switches.
    candidates: HashMap<(u32, u32), Vec<Vec<u32>>>,
}

impl<'a> Reader<'a> {
    fn new(trace: &'a Trace, network: &'a Network) -> Self {
        Reader { trace, network, candidates: HashMap::new() }
    }

    fn push(&self, links: &mut Vec<u32>, u: u32, v: u32) {
        if u != v
            && let Some(&l) = self.network.link.get(&(u, v))
        {
            links.push(l);
        }
    }

    fn walk(&self, nodes: &[u32]) -> Vec<u32> {
        let mut links = Vec::new();
        for w in nodes.windows(2) {
            self.push(&mut links, w[0], w[1]);
        }
        links
    }

    /// Every switch path from one switch to another, as links: those the trace lists, else the shortest ones.
    fn between(&mut self, first: u32, last: u32) -> &[Vec<u32>] {
        if !self.candidates.contains_key(&(first, last)) {
            let found = match self.trace.existing.get(&(first, last)) {
                Some(paths) => paths.iter().map(|&r| self.walk(self.trace.nodes(r))).collect(),
                None => self.shortest(first, last),
            };
            self.candidates.insert((first, last), found);
        }
        &self.candidates[&(first, last)]
    }

    fn shortest(&self, first: u32, last: u32) -> Vec<Vec<u32>> {
        if first == last {
            return vec![Vec::new()];
        }
        let mut paths: Vec<Vec<u32>> = vec![vec![first]];
        for _ in 0..6 {
            let mut next = Vec::new();
            for p in &paths {
                let end = p[p.len() - 1];
                for &(u, v) in self.network.link.keys() {
                    if u == end && v < FIRST_HOST && !p.contains(&v) {
                        let mut q = p.clone();
                        q.push(v);
                        next.push(q);
                    }
                }
            }
            let mut done: Vec<Vec<u32>> = next.iter().filter(|p| p.last() == Some(&last)).cloned().collect();
            if !done.is_empty() {
                done.sort();
                return done.iter().map(|p| self.walk(p)).collect();
            }
            paths = next;
        }
        Vec::new()
    }

    fn problem(&mut self, unknown: bool) -> Problem<'a> {
        let mut problem = Problem::new(&self.network.map);
        let mut links = Vec::new();
        // Flows without a known path: (first, last) switch and half octave of size, to their number and packets.
        let mut clean: BTreeMap<(u32, u32, u16), (f64, f64)> = BTreeMap::new();
        for f in &self.trace.flows {
            links.clear();
            self.push(&mut links, f.from, f.first);
            if f.lost == 0 && (unknown || f.taken.0 == f.taken.1) && f.first != f.last {
                self.push(&mut links, f.last, f.to);
                problem.fine(f.sent, &links);
                let size = (2.0 * (f.sent.max(1) as f64).log2()) as u16;
                let c = clean.entry((f.first, f.last, size)).or_default();
                c.0 += 1.0;
                c.1 += f.sent as f64;
                continue;
            }
            if f.taken.0 == f.taken.1 && f.first != f.last {
                let mut all: Vec<Vec<u32>> = self.between(f.first, f.last).to_vec();
                for p in &mut all {
                    p.extend(&links);
                    self.push(p, f.last, f.to);
                }
                let all: Vec<&[u32]> = all.iter().map(|p| &p[..]).collect();
                problem.hurt(f.sent, f.lost, &all, [NO_CLASS; 3]);
                continue;
            }
            for w in self.trace.nodes(f.taken).windows(2) {
                self.push(&mut links, w[0], w[1]);
            }
            self.push(&mut links, f.last, f.to);
            if f.lost == 0 {
                problem.fine(f.sent, &links);
            } else {
                problem.hurt(f.sent, f.lost, &[&links], [NO_CLASS; 3]);
            }
        }
        let mut at: HashMap<(u32, u32), Vec<(u32, f64)>> = HashMap::new();
        for (&(first, last, _), &(count, packets)) in &clean {
            let links = at.entry((first, last)).or_insert_with(|| {
                let all = self.between(first, last);
                let one = 1.0 / all.len() as f64;
                let mut weight: BTreeMap<u32, u32> = BTreeMap::new();
                all.iter().flatten().for_each(|&l| *weight.entry(l).or_default() += 1);
                weight.iter().map(|(&l, &n)| (l, f64::from(n) * one)).collect()
            });
            for &(l, w) in links.iter() {
                problem.fine_perhaps(l, w, count, packets);
            }
        }
        problem
    }
}

/// What became of one trace.
struct Judged {
    precision: f64,
    recall: f64,
    wrong: Vec<(u32, u32)>,
    missed: Vec<(u32, u32)>,
}

fn judge(truth: &[(u32, u32)], named: &[(u32, u32)]) -> Judged {
    let device = |n: u32| truth.contains(&(n, n));
    let found = truth.iter().filter(|t| named.contains(t)).count();
    // A link of a switch that failed is not false, and says nothing new either.
    let counted: Vec<&(u32, u32)> =
        named.iter().filter(|n| truth.contains(n) || n.0 == n.1 || !(device(n.0) || device(n.1))).collect();
    let wrong: Vec<(u32, u32)> = counted.iter().filter(|n| !truth.contains(n)).map(|n| **n).collect();
    let ratio = |a: usize, b: usize| if b == 0 { 1.0 } else { a as f64 / b as f64 };
    Judged {
        precision: ratio(counted.len() - wrong.len(), counted.len()),
        recall: ratio(found, truth.len()),
        wrong,
        missed: truth.iter().filter(|t| !named.contains(t)).copied().collect(),
    }
}

/// The set of a trace: its file name before the last `-`; without one, before the trailing number.
fn set_of(file: &str) -> String {
    match file.rsplit_once('-') {
        Some((set, _)) if !set.is_empty() => set.to_owned(),
        _ => {
            let stem = file.split('.').next().unwrap_or(file);
            let set = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
            if set.is_empty() { stem.to_owned() } else { set.to_owned() }
        }
    }
}

fn traces(args: &Args, folder: &Path, rows: &mut BTreeMap<String, Vec<(Judged, f64)>>) -> Result<()> {
    let given = args.topology.clone().or_else(|| Some(folder.join("topology")).filter(|p| p.is_file()));
    let shared = match &given {
        Some(path) => Some(Network::new(&read_topology(path)?)),
        None => None,
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.is_file() && given.as_ref() != Some(p))
        .collect();
    files.sort();
    for file in &files {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let trace = Trace::read(file)?;
        if trace.flows.is_empty() {
            continue;
        }
        let own;
        let network = match &shared {
            Some(n) => n,
            None => {
                own = Network::new(&trace.cables());
                &own
            }
        };
        let set = set_of(name);
        for unknown in [false, true] {
            if unknown && !args.unknown_paths && !["A", "B", "D"].iter().any(|s| set.starts_with(s)) {
                continue;
            }
            let mut reader = Reader::new(&trace, network);
            for f in trace.flows.iter().filter(|_| unknown) {
                reader.between(f.first, f.last);
            }
            let begin = Instant::now();
            let problem = reader.problem(unknown);
            let findings = problem.localize(&Params::default()).findings;
            let seconds = begin.elapsed().as_secs_f64();
            let named: Vec<(u32, u32)> = findings.iter().map(|f| network.name(f.component)).collect();
            let judged = judge(&trace.truth, &named);
            let row = format!("{set}{}", if unknown { "'" } else { "" });
            if args.misses && !(judged.wrong.is_empty() && judged.missed.is_empty()) {
                eprintln!("{row} {name}: wrong {:?} missed {:?}", judged.wrong, judged.missed);
                for f in &findings {
                    let n = network.name(f.component);
                    if judged.wrong.contains(&n) {
                        eprintln!(
                            "    {n:?} score {:.1} price {:.1} lead {:.1} rate {:.2e} dead {:.1e} hurts {}",
                            f.score,
                            f.price,
                            f.lead(),
                            f.rate,
                            f.dead_share,
                            f.charged.len()
                        );
                    }
                }
            }
            rows.entry(row).or_default().push((judged, seconds));
        }
    }
    Ok(())
}

/// Runs the bench.
pub fn run(args: Args) -> Result<()> {
    let mut judged: BTreeMap<String, Vec<(Judged, f64)>> = BTreeMap::new();
    if let Some(folder) = &args.traces {
        traces(&args, folder, &mut judged)?;
    }
    let rows: Vec<Row> = judged
        .into_iter()
        .map(|(name, all)| {
            let n = all.len() as f64;
            let precision = all.iter().map(|a| a.0.precision).sum::<f64>() / n;
            let recall = all.iter().map(|a| a.0.recall).sum::<f64>() / n;
            Row {
                name,
                traces: all.len(),
                precision,
                recall,
                f: if precision + recall > 0.0 {
                    2.0 * precision * recall / (precision + recall)
                } else {
                    0.0
                },
                false_verdicts: all.iter().map(|a| a.0.wrong.len()).sum(),
                seconds: all.iter().map(|a| a.1).sum::<f64>() / n,
            }
        })
        .collect();
    let scale = if args.no_scale { None } else { Some(bench_scale::run()?) };
    if args.json {
        let mut all: Vec<serde_json::Value> =
            rows.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
        all.extend(scale.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "rows": all }))?);
        return Ok(());
    }
    if !rows.is_empty() {
        let mut table = comfy_table::Table::new();
        table.set_header(["set", "traces", "precision", "recall", "F", "false verdicts", "seconds a trace"]);
        for r in &rows {
            table.add_row([
                r.name.clone(),
                r.traces.to_string(),
                format!("{:.3}", r.precision),
                format!("{:.3}", r.recall),
                format!("{:.3}", r.f),
                r.false_verdicts.to_string(),
                format!("{:.3}", r.seconds),
            ]);
        }
        println!("{table}");
    }
    if let Some(s) = scale {
        let mut table = comfy_table::Table::new();
        table.set_header([
            "directed links",
            "observations a second",
            "seconds to a verdict",
            "longest weighing",
            "faults found",
            "false verdicts",
        ]);
        table.add_row([
            s.directed_links.to_string(),
            format!("{:.1} million", s.observations_per_second / 1e6),
            format!("{:.3}", s.verdict_seconds),
            format!("{:.3}", s.longest_seconds),
            format!("{} of {}", s.found, s.faults),
            s.false_verdicts.to_string(),
        ]);
        println!("{table}");
    }
    Ok(())
}
