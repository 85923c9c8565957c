//! `cargo xtask pages`: the browser tests, on a hub fed by a lab with a real fault and on a hub with users.
//!
//! A lab comes up, one link loses one packet in a hundred, the incident is waited for, and then Playwright does with
//! Debian's Chromium what somebody on call does. The hub with users is another one, which nobody feeds: the lab's has
//! none. Both go down however it ends. Needs root, Node and Chromium.

use crate::{command, output, root, sh};
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LAB: &str = "pages";
const LINK: &str = "p0-leaf1:p0-spine0";
/// Who may log in: `ui/e2e/guarded.test.ts` knows them by these names.
const PEOPLE: &[(&str, &str, Option<&str>)] =
    &[("vera", "viewer", None), ("otto", "operator", None), ("bea", "viewer", Some(TENANT))];
const TENANT: &str = "blue";
const PASSWORD: &str = "for the tests only";
/// How long a hub may take until it serves.
const READY: Duration = Duration::from_secs(30);

#[derive(Default, clap::Args)]
pub struct Args {
    /// Leave a picture of every page here, such as docs/screens
    #[arg(long, value_name = "DIR")]
    screens: Option<PathBuf>,
    /// Only the tests whose file or title matches
    #[arg(long)]
    only: Option<String>,
    /// Less than a minute: every page once, from the alert to the retrospective, and the keyboard, in light
    #[arg(long)]
    short: bool,
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

/// A hub with users that ends with this. What it wrote stays until the next one, to be read where a test fails.
struct Guarded {
    hub: Child,
    url: String,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.hub.kill();
        let _ = self.hub.wait();
    }
}

impl Guarded {
    fn start(binary: &str) -> anyhow::Result<Guarded> {
        let dir = PathBuf::from(crate::bench_transport::target()?).join("pages");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let (certs, access, data) = (at("certs"), at("access.toml"), at("data"));
        let (cert, key, ca) = (at("certs/hub.pem"), at("certs/hub.key"), at("certs/ca.pem"));
        sh(binary, &["cert", "init", "--dir", &certs])?;
        sh(binary, &["cert", "hub", "--dir", &certs])?;
        sh(binary, &["access", "tenant", TENANT, "host0-host7", "--file", &access])?;
        for &(name, role, tenant) in PEOPLE {
            let mut args = vec!["access", "user", name, "--role", role, "--file", access.as_str()];
            if let Some(tenant) = tenant {
                args.extend(["--tenant", tenant]);
            }
            tell(binary, &args, PASSWORD)?;
        }
        let ready = dir.join("ready.json");
        let hub = command(binary)
            .args(["hub", "--fabric", "scenarios/quiet-16.toml", "--data", &data])
            .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--access", &access])
            .args(["--cert", &cert, "--key", &key, "--ca", &ca])
            .arg("--ready-file")
            .arg(&ready)
            .current_dir(root())
            .stderr(File::create(dir.join("hub.log"))?)
            .spawn()
            .context("the hub with users cannot be started")?;
        let mut guarded = Guarded { hub, url: String::new() };
        let serving =
            wait_ready(&mut guarded.hub, &ready).with_context(|| format!("see {}", at("hub.log")))?;
        guarded.url = format!("https://{}", serving["http"].as_str().context("the hub serves no pages")?);
        Ok(guarded)
    }
}

/// Where a hub serves, once it does: what it wrote into its --ready-file.
pub fn wait_ready(hub: &mut Child, ready: &Path) -> anyhow::Result<serde_json::Value> {
    let begun = Instant::now();
    loop {
        // The file is written whole or not at all.
        if let Ok(text) = std::fs::read_to_string(ready) {
            return Ok(serde_json::from_str(&text)?);
        }
        if let Some(status) = hub.try_wait()? {
            bail!("the hub ended with {status}");
        }
        ensure!(begun.elapsed() < READY, "the hub does not serve after {} s", READY.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a command in the root with one line on its standard input.
fn tell(program: &str, args: &[&str], line: &str) -> anyhow::Result<()> {
    eprintln!("$ {program} {}", args.join(" "));
    let mut child = command(program).args(args).current_dir(root()).stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    writeln!(stdin, "{line}")?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "`{program} {}` ended with {status}", args.join(" "));
    Ok(())
}

/// Why they cannot run here, where they cannot.
pub fn missing() -> Option<String> {
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    (!Path::new(&browser).exists())
        .then(|| format!("there is no browser at {browser} (CHROMIUM names another)"))
}

/// The short run, as CI has it.
pub fn short() -> anyhow::Result<()> {
    run(&Args { short: true, ..Args::default() })
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    sh("./.ci/pages", &[])?;
    sh("cargo", &["build", "--quiet", "--package", "selvedge"])?;
    let binary = crate::soak::binary()?.display().to_string();
    // The short run has no test for it.
    let guarded = if args.short { None } else { Some(Guarded::start(&binary)?) };
    let up = output(&binary, &["lab", "up", "scenarios/gray-link.toml", "--name", LAB, "--json"])?;
    let lab = Lab { binary };
    let up: serde_json::Value = serde_json::from_str(&up)?;
    let hub = up["hub"].as_str().context("the lab has no hub")?;
    // A healthy minute's beginning, so that the plots have a before. A picture shows half a minute of it, which should
    // not be that of the agents' start.
    std::thread::sleep(Duration::from_secs(if args.screens.is_some() { 40 } else { 15 }));
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
    let mut tests = Command::new("./.ci/pages");
    tests.arg(if args.short { "e2e:short" } else { "e2e" }).current_dir(root());
    tests.env("SELVEDGE_URL", format!("http://{hub}"));
    if let Some(guarded) = &guarded {
        tests.env("SELVEDGE_GUARDED_URL", &guarded.url).env("SELVEDGE_GUARDED_PASSWORD", PASSWORD);
    }
    if let Some(dir) = &args.screens {
        tests.env("SELVEDGE_SCREENS", root().join(dir));
    }
    if let Some(only) = &args.only {
        tests.arg(only);
    }
    let status = tests.status().context(".ci/pages cannot be started")?;
    if !status.success() {
        bail!("the browser tests failed");
    }
    Ok(())
}
