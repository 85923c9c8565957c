//! `cargo xtask ci`: what must be green before anything lands. `make test` and `.ci/run` are this.

use crate::{bench_instructions, output, pages, sh, tidy};

#[derive(clap::Args)]
pub struct Args {
    /// Leave the tests out: tidy, format, clippy and licences only
    #[arg(long)]
    lint_only: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    tidy::run()?;
    sh("cargo", &["fmt", "--all", "--check"])?;
    sh("cargo", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    if output("cargo", &["deny", "--version"]).is_ok() {
        sh("cargo", &["deny", "--log-level", "error", "check", "bans", "licenses", "sources"])?;
    } else {
        eprintln!("skip: cargo-deny is not installed, licences and sources are not checked");
    }
    no_std()?;
    if args.lint_only {
        return Ok(());
    }
    sh("cargo", &["build", "--quiet", "--package", "selvedge"])?;
    sh("cargo", &["nextest", "run", "--workspace", "--no-fail-fast"])?;
    sh("cargo", &["test", "--quiet", "--workspace", "--doc"])?;
    match pages::missing() {
        Some(why) => eprintln!("skip: the pages are not tried in a browser: {why}"),
        None => pages::short()?,
    }
    match bench_instructions::missing() {
        Some(why) => eprintln!("skip: instructions of the transport are not counted: {why}"),
        None => bench_instructions::run(&bench_instructions::Args::default())?,
    }
    Ok(())
}

/// The pure floor must not reach `std` even through a dependency; only a target without `std` proves it.
fn no_std() -> anyhow::Result<()> {
    const TARGET: &str = "x86_64-unknown-none";
    let sysroot = output("rustc", &["--print", "sysroot"])?;
    if !std::path::Path::new(&sysroot).join("lib/rustlib").join(TARGET).exists() {
        eprintln!(
            "skip: target {TARGET} is not installed (rustup target add {TARGET}), no_std is not proved"
        );
        return Ok(());
    }
    for room in tidy::PURE {
        sh("cargo", &["build", "--quiet", "--target", TARGET, "--package", &format!("selvedge-{room}")])?;
    }
    Ok(())
}
