//! `cargo xtask pages`: the browser tests, on a hub fed by a lab with a real fault.
//!
//! A lab comes up, one link loses one packet in a hundred, the incident is waited for, and then Playwright does with
//! Debian's Chromium what somebody on call does. The lab goes down however it ends. Needs root, Node and Chromium.

use crate::{output, root, sh};
use anyhow::{Context, bail, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const LAB: &str = "pages";
const LINK: &str = "p0-leaf1:p0-spine0";

#[derive(clap::Args)]
pub struct Args {
    /// Leave a picture of every page here, such as docs/screens
    #[arg(long, value_name = "DIR")]
    screens: Option<PathBuf>,
    /// Only the tests whose file or title matches
    #[arg(long)]
    only: Option<String>,
}

/// A lab that goes down with this.
struct Lab {
    binary: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(e) = sh(&self.binary, &["lab", "down", "--name", LAB]) {
            eprintln!("pages: the lab could not be taken down: {e:#}");
        }
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    sh("./.ci/pages", &[])?;
    sh("cargo", &["build", "--quiet", "--package", "selvedge"])?;
    let binary = crate::soak::binary()?.display().to_string();
    let up = output(&binary, &["lab", "up", "scenarios/gray-link.toml", "--name", LAB, "--json"])?;
    let lab = Lab { binary };
    let up: serde_json::Value = serde_json::from_str(&up)?;
    let hub = up["hub"].as_str().context("the lab has no hub")?;
    // A healthy minute's beginning, so that the plots have a before.
    std::thread::sleep(Duration::from_secs(15));
    sh(&lab.binary, &["lab", "fault", LINK, "drop", "1%", "--name", LAB])?;
    let begun = Instant::now();
    loop {
        // Its exit code says that something is open, which is what we want.
        let known = Command::new(&lab.binary).args(["incidents", "--json", "--lab", LAB]).output()?;
        if String::from_utf8_lossy(&known.stdout).contains(LINK) {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the hub found no incident within a minute");
        std::thread::sleep(Duration::from_millis(500));
    }
    let mut tests = Command::new("npm");
    tests.args(["run", "--silent", "e2e"]).current_dir(root().join("ui"));
    tests.env("SELVEDGE_URL", format!("http://{hub}"));
    if let Some(dir) = &args.screens {
        tests.env("SELVEDGE_SCREENS", root().join(dir));
    }
    if let Some(only) = &args.only {
        tests.args(["--", only]);
    }
    let status = tests.status().context("npm cannot be started")?;
    if !status.success() {
        bail!("the browser tests failed");
    }
    Ok(())
}
