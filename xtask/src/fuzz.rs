//! `cargo xtask fuzz`: every fuzz target for a while. Corpora also run as plain tests (`fuzz_corpus` in `wire`), so they
//! are small and chosen: what a run adds goes to `fuzz/found`, which is nobody's to commit.

use crate::{output, sh};

#[derive(clap::Args)]
pub struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Targets at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Only these targets
    targets: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        output("cargo", &["+nightly", "fuzz", "--version"]).is_ok(),
        "fuzzing needs a nightly toolchain and cargo-fuzz: `cargo install cargo-fuzz`"
    );
    let list = output("cargo", &["+nightly", "fuzz", "list"])?;
    let targets: Vec<&str> =
        list.lines().filter(|t| args.targets.is_empty() || args.targets.iter().any(|a| a == t)).collect();
    anyhow::ensure!(!targets.is_empty(), "no such target; there are: {}", list.replace('\n', ", "));
    for t in &targets {
        sh("cargo", &["+nightly", "fuzz", "build", t])?;
    }
    let limit = format!("-max_total_time={}", args.seconds);
    let mut failed = Vec::new();
    for group in targets.chunks(args.jobs.max(1)) {
        let runs: Vec<_> = group
            .iter()
            .map(|t| {
                let (found, seeds) = (format!("fuzz/found/{t}"), format!("fuzz/corpus/{t}"));
                eprintln!("$ cargo +nightly fuzz run {t} {found} {seeds} -- {limit}");
                let child = std::fs::create_dir_all(crate::root().join(&found)).and_then(|()| {
                    std::process::Command::new("cargo")
                        .args([
                            "+nightly",
                            "fuzz",
                            "run",
                            t,
                            &found,
                            &seeds,
                            "--",
                            &limit,
                            "-verbosity=0",
                            "-print_final_stats=1",
                        ])
                        .current_dir(crate::root())
                        .spawn()
                });
                (*t, child)
            })
            .collect();
        for (t, child) in runs {
            if !child?.wait()?.success() {
                failed.push(t);
            }
        }
    }
    anyhow::ensure!(failed.is_empty(), "fuzzing found something in: {}", failed.join(", "));
    println!("fuzz: {} targets, {} s each, nothing found", targets.len(), args.seconds);
    Ok(())
}
