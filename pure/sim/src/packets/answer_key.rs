//! The published experiments of the Ultra Ethernet Consortium's simulator, and ours beside them.
//!
//! How: `validate_*.txt` say what each experiment runs (a matrix and `!Param` lines), `published.txt` what came out.
//! A parameter an experiment sets is set for ours too; everything else is one set of defaults for all rows.
//!
//! Invariants: a row is judged by the best published tail among the variants of its experiment, save where there is no
//! contention (it calibrates the simulator) or one path only (a draw of somebody's hash).
//! Absent on purpose: reading files; whoever calls does.

use super::run::{Faults, Setup};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use transport::{Balancing, Control};

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No contention: it must agree both ways.
    Calibration,
    /// One path: a draw of a hash.
    SinglePath,
    /// Smaller is better.
    Contest,
}

impl Class {
    /// One lower-case word, words joined by underscores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Calibration => "calibration",
            Class::SinglePath => "single_path",
            Class::Contest => "contest",
        }
    }
}

/// An experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// The file it is from, without `validate_` and `.txt`.
    pub suite: String,
    /// Its title.
    pub title: String,
    /// File of the matrix, as the experiment names it.
    pub matrix: String,
    /// File of the topology, where it names one.
    pub topology: Option<String>,
    /// How it is run.
    pub setup: Setup,
    /// What it is for.
    pub class: Class,
}

/// A published result.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The file it is from, without `validate_`.
    pub suite: String,
    /// Title of the experiment.
    pub title: String,
    /// Tail flow completion time, microseconds.
    pub tail_us: f64,
}

/// What is wrong with a file of experiments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, found {found:?}")]
pub struct KeyError {
    /// Counted from 1.
    pub line: usize,
    /// What should stand there.
    pub expected: &'static str,
    /// What stands there.
    pub found: String,
}

/// Reads one file of experiments.
pub fn experiments(suite: &str, text: &str) -> Result<Vec<Experiment>, KeyError> {
    let mut all: Vec<Experiment> = Vec::new();
    for (i, raw) in text.lines().enumerate() {
        let line = raw.trim();
        let bad = |expected| KeyError { line: i + 1, expected, found: line.to_string() };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !line.starts_with('!') {
            all.push(Experiment {
                suite: suite.to_string(),
                title: String::new(),
                matrix: line.to_string(),
                topology: None,
                setup: Setup { reuse: false, ..Setup::default() },
                class: Class::Contest,
            });
            continue;
        }
        let e = all.last_mut().ok_or(bad("the file of a matrix before its `!` lines"))?;
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "!Experiment" => {
                e.title = rest.trim().to_string();
                let t = &e.title;
                e.class = if t.starts_with("Single ") || t.starts_with("Bidirectional") {
                    Class::Calibration
                } else if t.contains("single path") {
                    Class::SinglePath
                } else {
                    Class::Contest
                };
            }
            "!Param" => {
                let mut words = rest.split_whitespace();
                let key = words.next().unwrap_or("");
                parameter(e, key, words.next().unwrap_or("")).map_err(bad)?;
            }
            // what was run and what was accepted; `!FCT` names one flow's
            "!Binary" | "!tailFCT" | "!FCT" => {}
            _ => return Err(bad("!Experiment, !Binary, !Param, !tailFCT or !FCT")),
        }
    }
    Ok(all)
}

fn parameter(e: &mut Experiment, key: &str, value: &str) -> Result<(), &'static str> {
    let number =
        || value.parse::<u32>().ok().filter(|&n| n <= 1 << 20).ok_or("a number after this parameter");
    let t = &mut e.setup.transport;
    match key {
        "-sender_cc_only" => t.control = Control::Sender,
        "-receiver_cc_only" => t.control = Control::Receiver,
        // both together are the default
        "-sender_cc" | "-receiver_cc" => {}
        "-load_balancing_algo" => {
            t.balancing = match value {
                "oblivious" => Balancing::Oblivious,
                "bitmap" => Balancing::Bitmap,
                "reps" => Balancing::Reps,
                "mixed" => Balancing::Mixed,
                _ => return Err("oblivious, bitmap, reps or mixed"),
            };
        }
        "-paths" => {
            let n = number()?.clamp(1, 65_535) as u16;
            t.evs = n;
            e.setup.single_path = n == 1;
        }
        "-sack_threshold" => t.ack_every_bytes = number()?,
        "-q" => e.setup.queue_packets = Some(number()?),
        "-cwnd" => t.window_initial_bytes = Some(number()?.saturating_mul(t.packet_bytes())),
        "-failed" => e.setup.faults = Faults { slow_links: number()?, ..e.setup.faults.clone() },
        "-disable_trim" => e.setup.trim = false,
        "-conn_reuse" => e.setup.reuse = true,
        // how long theirs may run, and theirs for loss without trimming: ours always has it
        "-end" | "-sleek" => {}
        "-topo" => e.topology = Some(value.to_string()),
        _ => return Err("a parameter known here"),
    }
    Ok(())
}

/// Reads the published results.
pub fn published(text: &str) -> Result<Vec<Published>, KeyError> {
    let mut suite = String::new();
    let mut all = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix("===") {
            suite = name.trim().trim_start_matches("validate_").to_string();
            continue;
        }
        if line.trim().is_empty() {
            continue;
        }
        let bad = || KeyError {
            line: i + 1,
            expected: "`TITLE | tail=MICROSECONDS | ...`",
            found: line.to_string(),
        };
        let mut parts = line.split('|');
        let title = parts.next().unwrap_or("").trim().to_string();
        let tail = parts.next().and_then(|p| p.trim().strip_prefix("tail=")?.parse().ok()).ok_or_else(bad)?;
        all.push(Published { suite: suite.clone(), title, tail_us: tail });
    }
    Ok(all)
}

/// The experiment itself, whatever the variant: suites that differ only in who controls congestion count as one, and a
/// few titles differ though the experiment does not.
fn experiment_of(suite: &str, title: &str) -> String {
    let group = if suite.starts_with("load_balancing_failed") {
        "failed "
    } else if suite.starts_with("load_balancing") {
        "balancing "
    } else {
        "uec "
    };
    let same = title
        .replace("1 INC path", "INC")
        .replace(", INC (1024 nodes)", " (1024 nodes), INC")
        .replace("4:1 oversubscribed", "Oversubscribed");
    let mut key = group.to_string();
    key.extend(same.chars().filter(|c| c.is_alphanumeric() || *c == ':').map(|c| c.to_ascii_lowercase()));
    key
}

/// The published tail of exactly this experiment and variant: the `occurrence`-th of its title in its suite, because
/// some titles appear twice.
pub fn own(published: &[Published], suite: &str, title: &str, occurrence: usize) -> Option<f64> {
    published.iter().filter(|p| p.suite == suite && p.title == title).nth(occurrence).map(|p| p.tail_us)
}

/// The best published tail among the variants of an experiment.
pub fn best(published: &[Published], suite: &str, title: &str) -> Option<f64> {
    let key = experiment_of(suite, title);
    published.iter().filter(|p| experiment_of(&p.suite, &p.title) == key).map(|p| p.tail_us).reduce(f64::min)
}

/// An experiment with a name of its own and what it is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Suite and title; the matrix too, where the suite has the title twice.
    pub name: String,
    /// What is run.
    pub experiment: Experiment,
    /// The published tail of this variant, where there is one.
    pub own_us: Option<f64>,
    /// The published tail it is judged by: the best of the variants in a contest, else its own.
    pub published_us: Option<f64>,
}

/// Names the experiments of one suite and finds what was published of them.
pub fn rows(experiments: Vec<Experiment>, published: &[Published]) -> Vec<Row> {
    let titles: Vec<String> = experiments.iter().map(|e| e.title.clone()).collect();
    let named = |(i, experiment): (usize, Experiment)| {
        let title = &experiment.title;
        let before = titles.iter().take(i).filter(|t| *t == title).count();
        let twice = titles.iter().filter(|t| *t == title).count() > 1;
        let file = experiment.matrix.rsplit('/').next().unwrap_or("");
        let name = match twice {
            true => alloc::format!("{}/{title} [{file}]", experiment.suite),
            false => alloc::format!("{}/{title}", experiment.suite),
        };
        let own_us = own(published, &experiment.suite, title, before);
        let published_us = match experiment.class {
            Class::Contest => own_us.and(best(published, &experiment.suite, title)),
            _ => own_us,
        };
        Row { name, experiment, own_us, published_us }
    };
    experiments.into_iter().enumerate().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_experiments() {
        let text = "a.cm\n!Experiment Single Connection\n!Binary ./x\n!Param -sender_cc_only\n!Param -paths 1\n!tailFCT 1\n";
        let e = &experiments("uec_sender", text).unwrap()[0];
        assert_eq!((e.class, e.setup.transport.control), (Class::Calibration, Control::Sender));
        assert!(e.setup.single_path);
        let err = experiments("x", "a.cm\n!Param -warp 9\n").unwrap_err();
        assert_eq!(err.to_string(), "line 2: expected a parameter known here, found \"!Param -warp 9\"");
    }

    #[test]
    fn variants_of_one_experiment_are_found() {
        let text = "=== validate_uec_sender\nLarge permutation, INC (1024 nodes) | tail=202.2 | x\n\
                    === validate_uec_rcv\nLarge permutation (1024 nodes), 1 INC path | tail=200.8 | x\n";
        let p = published(text).unwrap();
        assert_eq!(best(&p, "uec_sender", "Large permutation, INC (1024 nodes)"), Some(200.8));
        assert_eq!(own(&p, "uec_sender", "Large permutation, INC (1024 nodes)", 0), Some(202.2));
        assert_eq!(best(&p, "uec_sender", "Something else"), None);
        let text = "a.cm\n!Experiment Large permutation, INC (1024 nodes)\nd/b.cm\n!Experiment X\nd/c.cm\n!Experiment X\n";
        let rows = rows(experiments("uec_sender", text).unwrap(), &p);
        assert_eq!((rows[0].own_us, rows[0].published_us), (Some(202.2), Some(200.8)));
        assert_eq!(rows[2].name, "uec_sender/X [c.cm]");
        assert_eq!(rows[2].published_us, None);
    }
}
