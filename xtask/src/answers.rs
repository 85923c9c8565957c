//! `cargo xtask answers`: the same SQL through the command line, Flight SQL, and two engines that know nothing of us.
//!
//! How: `selvedge bench tables` makes tables with files that were merged, a hub serves them, and `answers.py` asks with
//! packages from PyPI, kept in the user's cache.

use crate::pages::wait_ready;
use crate::{command, root, sh};
use anyhow::{Context, ensure};
use std::path::PathBuf;

const PACKAGES: &[&str] = &["adbc-driver-flightsql", "pyarrow", "deltalake", "duckdb", "polars"];

#[derive(clap::Args)]
pub struct Args {
    /// Observations in the tables
    #[arg(long, default_value_t = 500_000)]
    rows: u64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    sh("cargo", &["build", "--quiet", "--package", "selvedge"])?;
    let binary = crate::soak::binary()?.display().to_string();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let venv = cache.or(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("selvedge/answers");
    let python = venv.join("bin/python").display().to_string();
    sh("python3", &["-m", "venv", &venv.display().to_string()])?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    sh(&python, &[&install[..], PACKAGES].concat())?;

    let dir = PathBuf::from(crate::bench_transport::target()?).join("answers");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir)?;
    let at = |name: &str| dir.join(name).display().to_string();
    let (data, certs, rows) = (at("data"), at("certs"), args.rows.to_string());
    sh(&binary, &["bench", "tables", "--rows", &rows, "--paths", "1000", "--asks", "1", "--data", &data])?;
    sh(&binary, &["cert", "init", "--dir", &certs])?;
    sh(&binary, &["cert", "hub", "--dir", &certs])?;
    let ready = dir.join("ready.json");
    let mut hub = command(&binary)
        .args(["hub", "--fabric", "scenarios/quiet-16.toml", "--data", &data])
        // The made-up rows are of a day long ago.
        .args(["--keep", "path_observation=ever", "--keep", "path_minute=ever"])
        .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"])
        .args(["--cert", &at("certs/hub.pem"), "--key", &at("certs/hub.key"), "--ca", &at("certs/ca.pem")])
        .arg("--ready-file")
        .arg(&ready)
        .current_dir(root())
        .stderr(std::fs::File::create(dir.join("hub.log"))?)
        .spawn()
        .context("the hub cannot be started")?;
    let asked = wait_ready(&mut hub, &ready).and_then(|ready| {
        let of =
            |what: &str| ready[what].as_str().map(str::to_owned).context("the hub serves less than asked");
        let status = command(&python)
            .arg("xtask/src/answers.py")
            .arg(&binary)
            .arg(format!("http://{}", of("http")?))
            .arg(format!("grpc://{}", of("flight")?))
            .arg(at("data/tables"))
            .current_dir(root())
            .status()?;
        ensure!(status.success(), "the answers are not all equal; tables and log are in {}", dir.display());
        Ok(())
    });
    let _ = hub.kill();
    let _ = hub.wait();
    asked
}
