//! Runs the published experiments and prints a line each: the inner loop of work on the transport, without the command.
//!
//! `cargo run --release -p selvedge-sim --example answer_key -- DIR [SEEDS] [WORDS...]`: experiments whose name contains
//! every word.
#![allow(clippy::unwrap_used)] // a tool for whoever works on this: a panic is the report

use selvedge_sim::packets::answer_key::{self, Class};
use selvedge_sim::packets::matrix::Matrix;
use selvedge_sim::packets::run::{self, Setup};
use selvedge_sim::packets::topology::Topology;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = args.first().cloned().unwrap_or_else(|| ".".into());
    let seeds: u64 = args.get(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let words = args.get(2..).unwrap_or(&[]);
    let read = |name: &str| std::fs::read_to_string(format!("{dir}/{name}")).unwrap();
    let published = answer_key::published(&read("published.txt")).unwrap();
    let mut files: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .filter_map(|f| f.unwrap().file_name().into_string().ok())
        .filter(|f| f.starts_with("validate_") && f.ends_with(".txt"))
        .collect();
    files.sort();
    for file in files {
        let suite = file.trim_start_matches("validate_").trim_end_matches(".txt");
        for row in answer_key::rows(answer_key::experiments(suite, &read(&file)).unwrap(), &published) {
            if !words.iter().all(|w| row.name.contains(w.as_str())) {
                continue;
            }
            let e = &row.experiment;
            let matrix = Matrix::parse(&read(&e.matrix)).unwrap();
            let topology = match &e.topology {
                Some(t) => Topology::parse(&read(t)).unwrap(),
                None => Topology::fat_tree(matrix.nodes),
            };
            let go = |seed| run::run(&matrix, &topology, &Setup { seed, ..e.setup.clone() });
            let outcomes: Vec<_> = (1..=seeds).map(go).collect();
            let mut tails: Vec<f64> = outcomes.iter().map(|o| o.tail_us().unwrap_or(f64::INFINITY)).collect();
            tails.sort_by(f64::total_cmp);
            let (median, worst) = (tails[tails.len() / 2], tails[tails.len() - 1]);
            let ratio = row.published_us.map_or(f64::NAN, |p| median / p);
            let mark = match e.class {
                Class::Contest if ratio > 1.03 => "!!",
                Class::Contest if ratio > 1.0 => "~",
                Class::Calibration if !(0.995..=1.005).contains(&ratio) => "!=",
                _ => "",
            };
            let c = &outcomes[0].counters;
            println!(
                "{:105} {median:9.2} {worst:9.2} {:9.2} {ratio:6.4} {mark:2} again {:.3} timeouts {} silences {} late {} \
                 acks {} credits {} requests {} trims {} drops {}",
                row.name,
                row.published_us.unwrap_or(f64::NAN),
                c.chunks_again as f64 / c.chunks_new as f64,
                outcomes.iter().map(|o| o.counters.timeouts).sum::<u64>(),
                c.silences,
                c.lost_late,
                c.acks,
                c.credits,
                c.credit_requests,
                outcomes[0].network.trimmed,
                outcomes[0].network.dropped(),
            );
        }
    }
}
