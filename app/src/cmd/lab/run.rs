//! `selvedge lab run`: one scenario on real packets, told as a story, judged at the end.
//!
//! Up, a quiet time until the first fault is due, break, wait for the hub's incident, judge it against the truth,
//! heal, wait until it is closed, down. Whatever happens in between (an error, Ctrl-C), what was made is taken down.

use super::progress::{Progress, Stop};
use super::{exe, read};
use crate::out;
use anyhow::{Context, bail};
use fabric::{Expected, Scenario};
use indicatif::{ProgressBar, ProgressStyle};
use lab::hub::{self, Incident};
use lab::judge::{self, Outcome};
use lab::{Lab, Options};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

pub(super) const EXAMPLES: &str = "Examples:
  selvedge lab run scenarios/gray-link.toml
  selvedge lab run scenarios/blackhole-hash.toml --seed 7
  selvedge lab run scenarios/flap.toml --lab quiet-16     in a lab that is up, which stays up

The seed decides which link, switch or host breaks. Exit codes: 0 everything that was broken was found in time and
nothing else was blamed, 3 not so, 1 it could not be run.";

/// How often the hub is asked.
const LOOK: Duration = Duration::from_millis(100);
/// How long the last verdict may still change before it is judged.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a fault is left acting where nothing is found, at least.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an incident may stay open after its fault is healed.
const CLOSE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Scenario
    file: PathBuf,
    /// Decides everything random; the scenario's if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Run it in this lab, which is up already and stays up, instead of bringing one up
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    lab: Option<String>,
    /// Name of the lab to bring up; the fabric's if not given
    #[arg(long)]
    name: Option<String>,
    /// Probes a second of each host
    #[arg(long, value_name = "N", conflicts_with = "lab")]
    packets_per_second: Option<u32>,
    /// Record every batch of observations the hub takes, for `selvedge diagnose`
    #[arg(long, value_name = "FILE", conflicts_with = "lab")]
    record: Option<PathBuf>,
    /// Where the hub serves its pages and its API; a free port of the loopback if not given
    #[arg(long, value_name = "ADDR", conflicts_with = "lab")]
    http: Option<SocketAddr>,
    /// Leave the lab up at the end
    #[arg(long)]
    keep: bool,
    /// Print JSON instead of the story
    #[arg(long)]
    json: bool,
}

/// What is told on the way. With `--json` nothing is.
struct Story {
    told: bool,
    colour: bool,
    bar: Option<ProgressBar>,
}

impl Story {
    fn new(told: bool) -> Story {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Story { told, colour, bar: None }
    }
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }
    fn good(&self, text: &str) -> String {
        self.paint("1;32", text)
    }
    fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }
    fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }
    /// A line that stays: a short word, then what there is to say.
    fn say(&mut self, word: &str, text: &str) {
        self.done();
        if self.told {
            println!("{} {text}", self.paint("1;36", &format!("{word:>9}")));
        }
    }
    fn more(&mut self, text: &str) {
        self.done();
        if self.told {
            text.lines().for_each(|line| println!("{:9} {line}", ""));
        }
    }
    /// What is being waited for, with the seconds it takes; gone when the wait is over.
    fn wait(&mut self, text: String) {
        if !self.told || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("          {spinner} {elapsed} {msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_message(text);
        bar.tick();
    }
    fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A lab that is taken down at the end of the story, however it ends, unless it shall stay.
struct Stage {
    lab: Lab,
    ours: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.ours
            && let Err(e) = self.lab.down()
        {
            eprintln!("error: the lab could not be taken down: {e}");
        }
    }
}

/// What was seen while the faults acted.
struct Watched {
    incidents: Vec<Incident>,
    outcome: Outcome,
    /// From each expected verdict's fault to its answer, seconds.
    seconds: Vec<Option<f64>>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (text, scenario) = read(&args.file)?;
    let seed = args.seed.unwrap_or(scenario.seed);
    let resolved = scenario.resolve(seed);
    let mut story = Story::new(!args.json);
    let mut progress = Progress::new();
    let stop = progress.stop();

    let title = format!("{}, seed {seed}", scenario.name);
    story.say("scenario", &format!("{}: {}", story.bold(&title), scenario.description));
    let begin = Instant::now();
    let stage = bring_up(&args, &text, scenario, &mut progress, &mut story)?;
    let up_s = begin.elapsed().as_secs_f64();
    let lab = &stage.lab;
    if lab.fabric().epoch != resolved.fabric.epoch {
        bail!("lab {} is another fabric than that of {}", lab.state().name, args.file.display());
    }
    let hub =
        lab.hub().context("the lab is bare: without agents and a hub nothing can be found")?.to_string();

    let ready = Instant::now();
    let expected = resolved.expected();
    // what is over already is none of this story's
    let old: BTreeSet<String> =
        hub::incidents(&hub)?.into_iter().filter(Incident::closed).map(|i| i.id).collect();
    let watched = watch(lab, &hub, &resolved, &expected, &old, ready, &stop, &mut story)?;
    for incident in &watched.incidents {
        explain(&hub, &incident.id, &mut story)?;
    }

    let healed = lab.heal(None)?;
    let closed = if watched.incidents.is_empty() && healed.is_empty() {
        Some(0.0)
    } else {
        let names: Vec<String> = healed.iter().map(|f| f.target.clone()).collect();
        story.say("heal", &names.join(", "));
        wait_closed(&hub, &old, &stop, &mut story)?
    };
    match closed {
        Some(s) if !watched.incidents.is_empty() => story.say("closed", &format!("{s:.1} s after healing")),
        None => story.say("closed", &story.bad(&format!("not within {} s of healing", CLOSE.as_secs()))),
        _ => {}
    }
    let mut stage = stage;
    if args.keep {
        stage.ours = false;
        let name = &stage.lab.state().name;
        story.say(
            "lab",
            &format!("{name} stays up, pages at http://{hub} (`selvedge lab down` takes it down)"),
        );
    }
    let fabric = stage.lab.fabric().clone();
    let ours = stage.ours;
    let begin = Instant::now();
    drop(stage);
    if ours {
        story.say(
            "down",
            &format!("nothing is left {}", story.faint(&format!("{:.1} s", begin.elapsed().as_secs_f64()))),
        );
    }

    let within = resolved.expect.within.as_secs_f64();
    let in_time = watched.seconds.iter().all(|s| s.is_some_and(|s| s <= within));
    let right = watched.outcome.right() && in_time && closed.is_some();
    let verdict = sentence(&watched, &expected, within, closed.is_some());
    story.say("verdict", &if right { story.good(&verdict) } else { story.bad(&verdict) });
    if args.json {
        let faults: Vec<Value> = expected
            .iter()
            .enumerate()
            .map(|(n, e)| {
                let fault = &resolved.faults[e.fault];
                let answer = watched.outcome.answers[n].map(|i| &watched.incidents[i]);
                json!({
                    "target": fault.target.name(&fabric), "kind": fault.kind.to_string(),
                    "direction": fault.direction.to_string(), "seconds_to_verdict": watched.seconds[n],
                    "incident": answer.map(|i| &i.id),
                    "kind_right": answer.map(|i| judge::judge(&fabric, e, i).kind),
                })
            })
            .collect();
        out::json(&json!({
            "scenario": resolved.name, "seed": seed, "right": right, "verdict": verdict, "up_s": up_s,
            "closed_after_s": closed, "faults": faults, "incidents": watched.incidents,
            "wrong": watched.outcome.wrong.iter().map(|&i| &watched.incidents[i].id).collect::<Vec<_>>(),
        }))?;
    }
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}

fn bring_up(
    args: &Args,
    text: &str,
    scenario: Scenario,
    progress: &mut Progress,
    story: &mut Story,
) -> anyhow::Result<Stage> {
    if let Some(name) = &args.lab {
        let lab = Lab::open(Some(name), exe()?)?;
        story.say("lab", &format!("{name} is up already"));
        return Ok(Stage { lab, ours: false });
    }
    let shape = scenario.fabric.shape;
    let links = scenario.fabric.links().count();
    let mode = format!("{:?}", scenario.fabric.mode).to_lowercase();
    let options = Options {
        name: args.name.clone(),
        exe: exe()?,
        bare: false,
        packets_per_second: args.packets_per_second,
        record: args.record.clone(),
        http: args.http,
        ready_within: Duration::from_secs(90),
    };
    let begin = Instant::now();
    let lab = Lab::up(text, scenario, &options, &mut |step| progress.show(step))?;
    progress.clear();
    let took = story.faint(&format!("{:.1} s", begin.elapsed().as_secs_f64()));
    story.say(
        "up",
        &format!(
            "{} hosts in {} planes of {} leaves and {} spines, {links} directed links, {mode} {took}",
            shape.hosts, shape.planes, shape.leaves, shape.spines
        ),
    );
    let agents = lab.state().agents.len();
    story.more(&format!(
        "{agents} agents probe every path and report to the hub; its pages are at http://{}",
        lab.hub().unwrap_or("?")
    ));
    Ok(Stage { lab, ours: true })
}

/// Breaks what is to be broken when it is due, and looks at the incidents until all is found or patience ends.
#[expect(clippy::too_many_arguments, reason = "the whole stage of one scene")]
fn watch(
    lab: &Lab,
    hub: &str,
    scenario: &Scenario,
    expected: &[Expected],
    old: &BTreeSet<String>,
    ready: Instant,
    stop: &Stop,
    story: &mut Story,
) -> anyhow::Result<Watched> {
    let mut due: Vec<usize> = (0..scenario.faults.len()).collect();
    due.sort_by_key(|&f| scenario.faults[f].at);
    let mut due = due.into_iter().peekable();
    let mut broken: Vec<Option<Instant>> = vec![None; scenario.faults.len()];
    let mut seconds = vec![None; expected.len()];
    let mut last_answer = ready;
    let mut told = BTreeSet::new();
    let quiet = scenario.faults.is_empty() || scenario.expect.nothing;
    loop {
        if stop.wanted() {
            bail!("interrupted");
        }
        while let Some(f) = due.next_if(|&f| ready.elapsed() >= Duration::from_nanos(scenario.faults[f].at.0))
        {
            let fault = &scenario.faults[f];
            let acting = lab.fault(fault)?;
            broken[f] = Some(Instant::now());
            let way = if acting.hosts.is_empty() { format!(", {}", acting.direction) } else { String::new() };
            story.say("break", &format!("{}: {}{way}", story.bold(&acting.target), acting.kind));
        }
        let all = hub::incidents(hub)?;
        let incidents: Vec<Incident> = all.into_iter().filter(|i| !old.contains(&i.id)).collect();
        let outcome = judge::outcome(lab.fabric(), expected, &incidents);
        for (n, answer) in outcome.answers.iter().enumerate() {
            let (Some(i), Some(since)) = (answer, broken[expected[n].fault]) else { continue };
            if seconds[n].is_none() {
                let after = since.elapsed().as_secs_f64();
                seconds[n] = Some(after);
                last_answer = Instant::now();
                told.insert(incidents[*i].id.clone());
                story.say(
                    "found",
                    &format!(
                        "{} {}",
                        describe(&incidents[*i], story),
                        story.good(&format!("after {after:.1} s"))
                    ),
                );
            }
        }
        for &i in &outcome.wrong {
            if told.insert(incidents[i].id.clone()) {
                story.say(
                    "found",
                    &format!("{} {}", describe(&incidents[i], story), story.bad("which was not broken")),
                );
            }
        }
        let answered = seconds.iter().all(Option::is_some) && due.peek().is_none();
        let over = if quiet {
            ready.elapsed() >= Duration::from_nanos(scenario.duration.0)
        } else {
            let limit = |f: usize| {
                let acts = scenario.faults[f].until.map_or(0, |u| u.since(scenario.faults[f].at).0);
                Duration::from_nanos(acts.max(scenario.expect.within.0)).max(PATIENCE)
            };
            (answered && last_answer.elapsed() >= SETTLE)
                || (due.peek().is_none()
                    && broken.iter().enumerate().all(|(f, t)| t.is_some_and(|t| t.elapsed() >= limit(f))))
        };
        if over {
            if quiet && incidents.is_empty() {
                story.say("quiet", &format!("no incident in {:.0} s", ready.elapsed().as_secs_f64()));
            }
            return Ok(Watched { incidents, outcome, seconds });
        }
        story.wait(match (quiet, broken.iter().any(Option::is_some)) {
            (true, _) => format!("quiet: {} incidents", incidents.len()),
            (false, false) => "learning what healthy looks like".to_string(),
            (false, true) if answered => "seeing whether the verdict stands".to_string(),
            (false, true) => "waiting for the verdict".to_string(),
        });
        std::thread::sleep(LOOK);
    }
}

fn describe(i: &Incident, story: &Story) -> String {
    let name = story.bold(&format!("{} {}", i.component.kind, i.component.name));
    let others = match i.alternatives.as_slice() {
        [] => String::new(),
        others => format!(" (or {})", others.join(", ")),
    };
    format!(
        "{}: {name}{others}, {} {:.2} %, confidence {:.3}",
        i.id,
        i.fault.kind,
        100.0 * i.fault.rate,
        i.confidence
    )
}

/// The evidence, as `selvedge explain` tells it.
fn explain(hub: &str, id: &str, story: &mut Story) -> anyhow::Result<()> {
    if !story.told {
        return Ok(());
    }
    let url = format!("http://{hub}");
    let said =
        Command::new(exe()?).args(["explain", id, "--hub", &url]).output().context("selvedge explain")?;
    if said.status.success() || said.status.code() == Some(out::NOT_WELL.into()) {
        story.more(String::from_utf8_lossy(&said.stdout).trim_end());
    } else {
        story.more(&format!("no evidence to show: {}", String::from_utf8_lossy(&said.stderr).trim()));
    }
    Ok(())
}

/// Waits until none of this story's incidents is open. Gives the seconds, or none where they stay open.
fn wait_closed(
    hub: &str,
    old: &BTreeSet<String>,
    stop: &Stop,
    story: &mut Story,
) -> anyhow::Result<Option<f64>> {
    let begin = Instant::now();
    while begin.elapsed() < CLOSE {
        if stop.wanted() {
            bail!("interrupted");
        }
        let open = hub::incidents(hub)?.iter().filter(|i| !i.closed() && !old.contains(&i.id)).count();
        if open == 0 {
            return Ok(Some(begin.elapsed().as_secs_f64()));
        }
        story.wait(format!("waiting for {open} incident(s) to close"));
        std::thread::sleep(LOOK);
    }
    Ok(None)
}

/// What it came to, in one sentence.
fn sentence(watched: &Watched, expected: &[Expected], within: f64, closed: bool) -> String {
    let found = watched.seconds.iter().filter(|s| s.is_some()).count();
    let slowest = watched.seconds.iter().flatten().fold(0.0, |a: f64, s| a.max(*s));
    let wrong = watched.outcome.wrong.len();
    let mut parts = Vec::new();
    if expected.is_empty() {
        parts.push("nothing was to be found".to_string());
    } else if found == expected.len() {
        let late = if slowest > within {
            format!(", later than the {within:.0} s asked for")
        } else {
            String::new()
        };
        parts.push(format!("found {found} of {found} after {slowest:.1} s{late}"));
    } else {
        parts.push(format!("found {found} of {}", expected.len()));
    }
    parts.push(match wrong {
        0 => "nothing else was blamed".to_string(),
        n => format!("{n} wrongly blamed"),
    });
    if !closed {
        parts.push("not closed in time".to_string());
    }
    parts.join(", ")
}
