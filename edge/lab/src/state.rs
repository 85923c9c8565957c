//! What a lab leaves on disk while it is up: `/run/selvedge/lab/<name>/`.
//!
//! `lab.json` is written before anything is made and again whenever something was, so that after a crash at any
//! point `down` (or the next `up`) finds what to clear away. Every process is recorded with its start time: a number
//! that was given to somebody else since is left alone.
//!
//! Invariants: a file is replaced whole (written beside, then renamed), never half; one command at a time changes a
//! lab (a lock on its directory).

use crate::error::file_error;
use crate::{Error, Result};
use kernel::process::Process;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where labs live.
pub const ROOT: &str = "/run/selvedge/lab";

/// A process the lab started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot, which makes the id an identity.
    pub started_ticks: u64,
}

impl From<Process> for Started {
    fn from(p: Process) -> Started {
        Started { pid: p.pid, started_ticks: p.started_ticks }
    }
}
impl From<Started> for Process {
    fn from(p: Started) -> Process {
        Process { pid: p.pid, started_ticks: p.started_ticks }
    }
}

/// The hub of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubState {
    /// `127.0.0.1:PORT` of its HTTP interface.
    pub http: String,
    /// `127.0.0.1:PORT` where agents connect.
    pub grpc: String,
    /// Probes a second it asks of every host.
    pub packets_per_second: u32,
    /// Where it records what it takes.
    pub record: Option<PathBuf>,
    /// The process.
    #[serde(flatten)]
    pub process: Started,
}

/// An agent of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// The host it is for, by name.
    pub host: String,
    /// The process.
    #[serde(flatten)]
    pub process: Started,
}

/// `lab.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabState {
    /// Name of the lab.
    pub name: String,
    /// The boot it was made in: after another, nothing of it is left but this file.
    pub boot_id: String,
    /// The process that makes it, while it does; none once it stands.
    pub builder: Option<Started>,
    /// The hub, where there is one.
    pub hub: Option<HubState>,
    /// The process that counts in the kernel, where the kernel lets it.
    #[serde(default)]
    pub sensors: Option<Started>,
    /// The agents, in the order of their hosts.
    pub agents: Vec<AgentState>,
    /// Who starts hub and agents again when they end.
    pub supervisor: Option<Started>,
    /// Every namespace of the lab.
    pub namespaces: Vec<String>,
}

/// The directory of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir(PathBuf);

impl Dir {
    /// Of the lab with this name, which must be one that can be.
    pub fn of(name: &str) -> Result<Dir> {
        let fits = !name.is_empty()
            && name.len() <= 40
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !name.starts_with('-');
        if !fits {
            return Err(Error::LabName { name: name.to_string() });
        }
        Ok(Dir(Path::new(ROOT).join(name)))
    }
    /// A file in it.
    pub fn join(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// Makes it, with what belongs into it.
    pub fn create(&self) -> Result<()> {
        for dir in ["certs", "hub", "logs"] {
            let path = self.join(dir);
            // The last lab that goes down takes the directories above with it: perhaps just now, under our feet.
            let mut made = fs::create_dir_all(&path);
            for _ in 0..100 {
                match &made {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => made = fs::create_dir_all(&path),
                    _ => break,
                }
            }
            made.map_err(file_error(&path))?;
        }
        Ok(())
    }
    /// Takes it away, and the directories above it that are empty then.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file_error(&self.0)(e)),
            _ => {}
        }
        // Other labs may be there, or something else of ours under /run/selvedge: then these fail, as they should.
        let _ = fs::remove_dir(ROOT);
        let _ = fs::remove_dir("/run/selvedge");
        Ok(())
    }

    /// Reads a JSON file. `None` where it is not there.
    pub fn read<T: for<'a> Deserialize<'a>>(&self, file: &str) -> Result<Option<T>> {
        let path = self.join(file);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path)(e)),
        };
        serde_json::from_str(&text).map(Some).map_err(|e| Error::State { path, said: e.to_string() })
    }
    /// Replaces a JSON file.
    pub fn write<T: Serialize>(&self, file: &str, value: &T) -> Result<()> {
        let path = self.join(file);
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::State { path: path.clone(), said: e.to_string() })?;
        let beside = self.join(&format!("{file}.new"));
        fs::write(&beside, text + "\n").map_err(file_error(&beside))?;
        fs::rename(&beside, &path).map_err(file_error(&path))
    }

    /// Waits until no other command changes this lab. Released when the file is closed, also by a crash. The lock is
    /// beside the directory's files so that it goes with them.
    pub fn lock(&self) -> Result<File> {
        let file = File::open(&self.0).map_err(file_error(&self.0))?;
        file.lock().map_err(file_error(&self.0))?;
        Ok(file)
    }
}

/// The labs that have a directory, sorted.
pub fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(ROOT).join(name).join("lab.json").exists())
        .collect();
    names.sort();
    names
}

/// This boot's number.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}
