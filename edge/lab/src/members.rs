//! The processes of a lab: certificates, hub, agents, helpers of faults. All are the same binary.
//!
//! Invariants: each is head of a session of its own and writes to a log of its own; each is recorded with its start
//! time at once; each carries the lab's name in its environment ([`MARK`]), so that what a crash left unrecorded is
//! found too, and nothing else is.

use crate::error::file_error;
use crate::fault::relay::Line;
use crate::fault::stall::Stall;
use crate::state::{AgentState, Dir, HubState};
use crate::{Error, Result};
use kernel::process::{self, Process, Signal};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Environment variable every process of a lab has: the directory of its lab.
pub const MARK: &str = "SELVEDGE_LAB_MEMBER";
/// How long a process has to end by itself, milliseconds.
const END_MS: u32 = 3_000;
/// How long the hub has to begin to serve.
const HUB_START: Duration = Duration::from_secs(20);
/// How long sensors have to load.
const SENSORS_START: Duration = Duration::from_secs(10);
/// How willingly the hub lets agents run.
const HUB_NICE: i32 = -10;
/// Pause between two looks at something that has no file descriptor to wait on.
const LOOK: Duration = Duration::from_millis(20);

/// Now, milliseconds of the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A process that carries out a fault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Helper {
    Relay { netns: String, name: String, line: Line, seed: u64 },
    Stall { stall: Stall, name: String },
}

impl Helper {
    fn name(&self) -> &str {
        match self {
            Helper::Relay { name, .. } | Helper::Stall { name, .. } => name,
        }
    }
    /// The arguments of the hidden command that `app` offers for it.
    fn arguments(&self) -> Vec<String> {
        match self {
            Helper::Relay { netns, name, line, seed } => vec![
                "lab".into(),
                "relay".into(),
                format!("--netns={netns}"),
                format!("--tap={name}"),
                format!("--delay-ns={}", line.delay_ns),
                format!("--jitter-ns={}", line.jitter_ns),
                format!("--share={}", line.share),
                format!("--hold-ns={}", line.hold_ns),
                format!("--seed={seed}"),
            ],
            Helper::Stall { stall, .. } => vec![
                "lab".into(),
                "stall".into(),
                format!("--pid={}", stall.agent.pid),
                format!("--started-ticks={}", stall.agent.started_ticks),
                format!("--stopped-ns={}", stall.stopped_ns),
                format!("--period-ns={}", stall.period_ns),
            ],
        }
    }
}

/// A process being prepared: detached, marked, with its log.
fn prepare(exe: &Path, dir: &Dir, name: &str) -> Result<Command> {
    let path = crate::fault::log_of(dir.path(), name);
    let log = File::options().create(true).append(true).open(&path).map_err(file_error(&path))?;
    let also = log.try_clone().map_err(file_error(&path))?;
    let mut command = Command::new(exe);
    command.env(MARK, dir.path()).stdin(Stdio::null()).stdout(log).stderr(also);
    process::detach(&mut command);
    Ok(command)
}

fn start(command: &mut Command, what: &str) -> Result<(Process, std::process::Child)> {
    let failed = |why: String| Error::Process { what: what.to_string(), why, log: String::new() };
    let child = command.spawn().map_err(|e| failed(format!("could not be started: {e}")))?;
    let process = Process::find(child.id()).ok_or_else(|| failed("ended at once".to_string()))?;
    Ok((process, child))
}

/// The last lines of a log.
fn tail(dir: &Dir, name: &str) -> String {
    let text = fs::read_to_string(crate::fault::log_of(dir.path(), name)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Starts a helper and waits for the line by which it says that it is ready; gives that line.
pub(crate) fn start_helper(exe: &Path, dir: &Dir, helper: &Helper) -> Result<(Process, String)> {
    let name = helper.name();
    let mut command = prepare(exe, dir, name)?;
    command.args(helper.arguments()).stdout(Stdio::piped());
    let (process, child) = start(&mut command, name)?;
    let mut said = String::new();
    if let Some(out) = child.stdout {
        // an error here is an empty line, which is handled below
        let _ = BufReader::new(out).read_line(&mut said);
    }
    if said.is_empty() {
        process.wait_end(END_MS);
        return Err(Error::Process {
            what: name.to_string(),
            why: "ended before it was ready".to_string(),
            log: tail(dir, name),
        });
    }
    Ok((process, said.trim_end().to_string()))
}

/// Ends a process: asks, waits, insists. Already gone: nothing to do.
pub(crate) fn end(process: Process, what: &str) -> Result<()> {
    end_all(&[process]).map_err(|pid| Error::Process {
        what: what.to_string(),
        why: format!("(process {pid}) does not end"),
        log: String::new(),
    })
}

/// Ends many at once. The number of one that would not go is the error.
pub(crate) fn end_all(processes: &[Process]) -> std::result::Result<(), u32> {
    for process in processes {
        // gone already is as good; any other refusal shows below
        let _ = process.signal(Signal::Terminate);
        // one that stands still does not hear the first
        let _ = process.signal(Signal::Continue);
    }
    let deadline = Instant::now() + Duration::from_millis(END_MS.into());
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u32;
        if !process.wait_end(left) {
            let _ = process.signal(Signal::Kill);
        }
    }
    match processes.iter().find(|p| !p.wait_end(END_MS)) {
        Some(process) => Err(process.pid),
        None => Ok(()),
    }
}

/// Every process that carries this lab's mark.
pub(crate) fn marked(dir: &Dir) -> Vec<Process> {
    let mark = format!("{MARK}={}", dir.path().display());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let carries = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|entry| entry == mark.as_bytes())
    };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id() && carries(pid))
        .filter_map(Process::find)
        .collect()
}

/// Makes the certificates of hub and agents.
pub(crate) fn certificates(exe: &Path, dir: &Dir, hosts: &[String]) -> Result<()> {
    let certs = dir.join("certs").display().to_string();
    let calls: [Vec<&str>; 3] = [
        vec!["cert", "init", "--dir", &certs],
        vec!["cert", "hub", "--dir", &certs, "--name", "localhost", "--name", "127.0.0.1"],
        ["cert", "host"]
            .into_iter()
            .chain(hosts.iter().map(String::as_str))
            .chain(["--dir", &certs])
            .collect(),
    ];
    for arguments in calls {
        let mut command = prepare(exe, dir, "cert")?;
        let status = command.args(&arguments).status();
        if !status.as_ref().is_ok_and(|s| s.success()) {
            return Err(Error::Process {
                what: format!("selvedge cert {}", arguments[1]),
                why: status.map_or_else(|e| e.to_string(), |s| format!("ended with {s}")),
                log: tail(dir, "cert"),
            });
        }
    }
    Ok(())
}

fn credentials(command: &mut Command, dir: &Dir, name: &str) {
    let certs = dir.join("certs");
    command
        .arg("--cert")
        .arg(certs.join(format!("{name}.pem")))
        .arg("--key")
        .arg(certs.join(format!("{name}.key")))
        .arg("--ca")
        .arg(certs.join("ca.pem"));
}

/// What the hub writes when it serves.
#[derive(Deserialize)]
struct Ready {
    grpc: String,
    http: String,
}

/// Where a hub is to listen; free ports of the loopback where nothing is said.
#[derive(Default)]
pub(crate) struct Listen {
    pub grpc: Option<String>,
    pub http: Option<String>,
}

/// Starts the hub and waits until it serves.
pub(crate) fn start_hub(
    exe: &Path,
    dir: &Dir,
    packets_per_second: u32,
    record: Option<&Path>,
    listen: &Listen,
) -> Result<HubState> {
    let ready_file = "hub/ready.json";
    // One from an earlier life says nothing of this one.
    let _ = fs::remove_file(dir.join(ready_file));
    let any = "127.0.0.1:0";
    let mut command = prepare(exe, dir, "hub")?;
    command
        .arg("hub")
        .arg("--fabric")
        .arg(dir.join("fabric.toml"))
        .arg("--data")
        .arg(dir.join("hub/data"))
        .args(["--grpc", listen.grpc.as_deref().unwrap_or(any)])
        .args(["--http", listen.http.as_deref().unwrap_or(any)])
        .arg(format!("--packets-per-second={packets_per_second}"))
        .arg("--ready-file")
        .arg(dir.join(ready_file));
    if let Some(file) = record {
        command.arg("--record").arg(file);
    }
    credentials(&mut command, dir, "hub");
    let (process, _child) = start(&mut command, "the hub")?;
    // Hundreds of agents share these processors with the one hub, which on real machines has its own. Not allowed to:
    // then it takes its turn.
    let _ = process.set_nice(HUB_NICE);
    let begin = Instant::now();
    loop {
        // half written is not ready yet
        if let Ok(Some(ready)) = dir.read::<Ready>(ready_file) {
            return Ok(HubState {
                http: ready.http,
                grpc: ready.grpc,
                packets_per_second,
                record: record.map(Path::to_path_buf),
                process: process.into(),
            });
        }
        let ended = process.wait_end(LOOK.as_millis() as u32);
        if ended || begin.elapsed() > HUB_START {
            let why = if ended { "ended before it served" } else { "does not begin to serve" };
            // It is not recorded yet, so it must not be left behind.
            end(process, "the hub")?;
            return Err(Error::Process {
                what: "the hub".to_string(),
                why: why.to_string(),
                log: tail(dir, "hub"),
            });
        }
    }
}

/// Where the agent of a host listens to what uses the transport there.
pub(crate) fn transport_socket(dir: &Dir, host: &str) -> PathBuf {
    dir.join(&format!("sockets/{host}"))
}

/// Where the sensors of this machine are asked.
fn sensors_socket(dir: &Dir) -> PathBuf {
    dir.join("sensors.sock")
}

/// Starts the one process that counts in the kernel for all agents. A kernel that lets it count nothing is no failure of
/// the lab: its log says so, and agents go on without.
pub(crate) fn start_sensors(exe: &Path, dir: &Dir) -> Result<Option<Process>> {
    let ready = dir.join("sensors.json");
    let mut command = prepare(exe, dir, "sensors")?;
    command.arg("sensors").arg("--socket").arg(sensors_socket(dir)).arg("--ready-file").arg(&ready);
    let (process, _child) = start(&mut command, "the sensors")?;
    let begin = Instant::now();
    while !ready.exists() {
        if process.wait_end(LOOK.as_millis() as u32) {
            return Ok(None);
        }
        if begin.elapsed() > SENSORS_START {
            end(process, "the sensors")?;
            return Ok(None);
        }
    }
    Ok(Some(process))
}

/// Starts the agent of a host.
pub(crate) fn start_agent(exe: &Path, dir: &Dir, host: &str, netns: &str, grpc: &str) -> Result<AgentState> {
    let mut command = prepare(exe, dir, host)?;
    command.arg("agent").arg("--hub").arg(format!("https://{grpc}")).args(["--netns", netns]);
    command.arg("--transport-socket").arg(transport_socket(dir, host));
    command.arg("--sensors-socket").arg(sensors_socket(dir));
    credentials(&mut command, dir, host);
    let (process, _child) = start(&mut command, host)?;
    Ok(AgentState { host: host.to_string(), process: process.into() })
}

/// Starts the process that starts the others again ([`crate::supervise`]).
pub(crate) fn start_supervisor(exe: &Path, dir: &Dir, lab: &str) -> Result<Process> {
    let mut command = prepare(exe, dir, "supervisor")?;
    command.args(["lab", "supervise", "--name", lab]);
    Ok(start(&mut command, "the supervisor")?.0)
}

/// Waits until the hub says that every agent has reported. `progress` is told how many have, as far as it says.
pub(crate) fn wait_ready(
    dir: &Dir,
    hub: &HubState,
    agents: &[AgentState],
    limit: Duration,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let begin = Instant::now();
    // agents that do not probe have nothing to report yet
    let connected = hub.packets_per_second == 0;
    loop {
        // A hub too busy to answer is not ready; one that has ended is found below.
        let (ready, reported, said) =
            crate::hub::ready(&hub.http, connected).unwrap_or_else(|e| (false, 0, e.to_string()));
        progress(if ready { agents.len() } else { reported }, agents.len())?;
        if ready {
            return Ok(());
        }
        let members = agents.iter().map(|a| (a.host.as_str(), a.process));
        for (name, process) in members.chain([("hub", hub.process)]) {
            if !Process::from(process).alive() {
                return Err(Error::Process {
                    what: name.to_string(),
                    why: "ended".to_string(),
                    log: tail(dir, name),
                });
            }
        }
        if begin.elapsed() > limit {
            return Err(Error::Hub {
                url: hub.http.clone(),
                said: format!("not ready after {} s: {said}", limit.as_secs()),
            });
        }
        std::thread::sleep(LOOK);
    }
}
