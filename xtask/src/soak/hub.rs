//! `cargo xtask soak hub`: a hub killed at random moments, one that takes over, and a disk that fills up and turns
//! read-only, with a crowd of agents that goes on reporting. Afterwards every observation must be stored, once, or be in
//! the ledger.
//!
//! How: `selvedge bench ingest` is the crowd and the account; here the rounds are put together, and the disk is a small
//! file system of its own (tmpfs), filled and emptied, made read-only and writable again, under the running hub.

use crate::sh;
use anyhow::{Context, bail, ensure};
use comfy_table::{Table, presets};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Kills of a hub that starts again
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Kills of a hub for which another stands by
    #[arg(long, default_value_t = 5)]
    takeovers: u32,
    /// Agents
    #[arg(long, default_value_t = 20)]
    agents: u32,
    /// Observations a second, all agents together
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Leave out the full and read-only disk, which need root
    #[arg(long)]
    no_disk: bool,
}

/// Agents must report to the hub that takes over within this.
const FOLLOW_S: f64 = 10.0;
/// Size of the disk that fills up, MiB.
const DISK_MIB: u64 = 192;

/// A small disk, unmounted with this.
struct Disk {
    place: PathBuf,
}

impl Disk {
    fn new(place: &Path) -> anyhow::Result<Disk> {
        fs::create_dir_all(place)?;
        let at = place.display().to_string();
        sh("mount", &["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs", &at])?;
        Ok(Disk { place: place.to_owned() })
    }

    fn remount(&self, how: &str) -> anyhow::Result<()> {
        let at = self.place.display().to_string();
        let begun = Instant::now();
        // A file that is being written holds it for a moment.
        loop {
            let done = Command::new("mount").args(["-o", &format!("remount,{how}"), &at]).output()?;
            if done.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            ensure!(begun.elapsed() < Duration::from_secs(10), "cannot be remounted {how}: {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes until there is no room.
    fn fill(&self) -> anyhow::Result<u64> {
        let mut file = fs::File::create(self.place.join("filler"))?;
        let block = vec![0u8; 64 << 10];
        let mut written = 0;
        loop {
            match file.write(&block) {
                Ok(n) => written += n as u64,
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(written),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn empty(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.place.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = self.place.display().to_string();
        if let Err(e) = sh("umount", &["--lazy", &at]) {
            eprintln!("soak: {e:#}");
        }
        let _ = fs::remove_dir(&self.place);
    }
}

/// One round of the crowd; meanwhile `during` may torment what is under it.
fn round(
    binary: &Path,
    args: &[String],
    during: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    eprintln!("$ selvedge bench ingest {}", args.join(" "));
    let child = Command::new(binary)
        .args(["bench", "ingest", "--json"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("selvedge cannot be started")?;
    let meanwhile = during();
    let out = child.wait_with_output()?;
    meanwhile?;
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(&text).with_context(|| format!("bench ingest ended with {}: {text}", out.status))
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    sh("cargo", &["build", "--quiet", "--package", "selvedge"])?;
    let binary = super::binary()?;
    let common = |seconds: u64, more: &[&str]| -> Vec<String> {
        let mut all = vec![
            "--agents".to_owned(),
            args.agents.to_string(),
            "--rate".to_owned(),
            args.rate.to_string(),
            "--seconds".to_owned(),
            seconds.to_string(),
        ];
        all.extend(more.iter().map(|m| (*m).to_owned()));
        all
    };
    let nothing = || Ok(());
    let mut rounds: Vec<(&str, Value)> = Vec::new();
    if args.kills > 0 {
        let kills = args.kills.to_string();
        let seconds = u64::from(args.kills) * 6;
        rounds.push((
            "killed, started again",
            round(&binary, &common(seconds, &["--kills", &kills]), nothing)?,
        ));
    }
    if args.takeovers > 0 {
        let kills = args.takeovers.to_string();
        let seconds = u64::from(args.takeovers) * 15;
        let more = ["--standby", "--kills", &kills];
        rounds.push(("killed, taken over", round(&binary, &common(seconds, &more), nothing)?));
    }
    if args.no_disk {
        eprintln!("soak: the full and the read-only disk are left out, as asked");
    } else {
        let disk = Disk::new(&std::env::temp_dir().join(format!("selvedge-disk-{}", std::process::id())))?;
        let data = disk.place.join("data").display().to_string();
        let torment = || {
            let wait = |s| std::thread::sleep(Duration::from_secs(s));
            wait(12);
            eprintln!("the disk is full after {} MiB more", disk.fill()? >> 20);
            wait(8);
            disk.empty()?;
            wait(8);
            disk.remount("ro")?;
            eprintln!("the disk is read-only");
            wait(8);
            disk.remount("rw")
        };
        let more = ["--data", &data, "--buffer-rows", "65536"];
        rounds.push(("disk full, then read-only", round(&binary, &common(45, &more), torment)?));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["round", "made", "stored", "ledger", "once", "kills", "serves s", "followed s", "MiB"]);
    let mut wrong = Vec::new();
    for (name, r) in &rounds {
        let number = |key: &str| r[key].as_f64().unwrap_or(f64::NAN);
        let yes = |key: &str| r[key].as_bool().unwrap_or(false);
        table.add_row([
            (*name).to_owned(),
            r["made"].to_string(),
            r["stored"].to_string(),
            r["lost"].to_string(),
            yes("stored_once").to_string(),
            r["kills"].to_string(),
            format!("{:.2}", number("serve_after_kill_s_max")),
            format!("{:.2}", number("follow_after_kill_s_max")),
            format!("{:.0}", number("hub_rss_max_bytes") / f64::from(1 << 20)),
        ]);
        if !yes("stored_once") || !yes("made_is_stored_and_lost") {
            wrong.push(format!("{name}: the account does not balance: {r}"));
        }
        if number("follow_after_kill_s_max") > FOLLOW_S {
            wrong.push(format!("{name}: agents took longer than {FOLLOW_S} s to follow"));
        }
    }
    println!("{table}");
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
