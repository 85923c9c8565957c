//! Starts a lab's hub and agents again when they end by themselves, as the service manager of a real host does.
//!
//! How: one small process a lab, which waits for the end of any of them. The hub comes back on the ports it had, so that
//! agents and people find it where they left it.
//! Invariants: it changes the lab only under the lab's lock, and only where the record still names the process that
//! ended, so it never works against `down`; one that ends again and again is started ever less often.
//! Absent on purpose: helpers of faults, which end with what they act on, and watching this process itself.

use crate::lab::STATE;
use crate::members;
use crate::state::{AgentState, Dir, HubState, LabState};
use crate::wiring::Wiring;
use crate::{Error, Result};
use fabric::{Fabric, Scenario};
use kernel::process::{self, Process};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The record is read again at least this often.
const LOOK: Duration = Duration::from_secs(5);
/// The wait before a second start; doubled with each further one.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// One that ran so long has started well.
const WELL: Duration = Duration::from_secs(30);

/// The starts of one member.
struct Starts {
    last: Instant,
    wait: Duration,
}

impl Starts {
    /// When it may be started again.
    fn due(&self) -> Instant {
        if self.last.elapsed() > WELL { self.last } else { self.last + self.wait }
    }
}

fn members(state: &LabState) -> Vec<(String, Process)> {
    let hub = state.hub.iter().map(|h| ("hub".to_string(), h.process.into()));
    hub.chain(state.agents.iter().map(|a| (a.host.clone(), a.process.into()))).collect()
}

/// Runs until the lab is gone or this process is ended. `said` hears of every start.
pub fn run(name: &str, exe: &Path, said: &mut dyn FnMut(&str)) -> Result<()> {
    let dir = Dir::of(name)?;
    let text = crate::lab::fabric_text(&dir)?;
    let scenario = Scenario::parse(&text)
        .map_err(|e| Error::State { path: dir.join(crate::lab::FABRIC), said: e.to_string() })?;
    let wiring = Wiring::plan(&scenario.fabric, name)?;
    let mut starts: BTreeMap<String, Starts> = BTreeMap::new();
    while let Some(state) = dir.read::<LabState>(STATE)? {
        let now = Instant::now();
        let waiting = |name: &str| starts.get(name).map(Starts::due).filter(|due| *due > now);
        let next = members(&state).iter().filter_map(|(name, _)| waiting(name)).min();
        let watched: Vec<(String, Process)> =
            members(&state).into_iter().filter(|(name, _)| waiting(name).is_none()).collect();
        let processes: Vec<Process> = watched.iter().map(|w| w.1).collect();
        let wait = next.map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK));
        let ended = process::wait_any(&processes, wait.as_millis() as u32 + 1);
        let ended: Vec<&(String, Process)> = ended.into_iter().filter_map(|at| watched.get(at)).collect();
        if ended.is_empty() {
            continue;
        }
        // A lab on its way down holds the lock until this process has ended too.
        let Ok(_lock) = dir.lock() else { return Ok(()) };
        let Some(mut state) = dir.read::<LabState>(STATE)? else { return Ok(()) };
        for (name, process) in ended {
            if !members(&state).iter().any(|(n, p)| n == name && p == process) {
                continue;
            }
            let before = starts.get(name).map_or(Duration::ZERO, |s| s.wait);
            let well = starts.get(name).is_none_or(|s| s.last.elapsed() > WELL);
            let wait = if well { WAIT_MIN } else { (before * 2).min(WAIT_MAX) };
            let started = start(exe, &dir, &scenario.fabric, &wiring, &mut state, name);
            // counted from now on, since a start may itself take long
            starts.insert(name.clone(), Starts { last: Instant::now(), wait });
            match started {
                Ok(()) => said(&format!("{name} (process {}) had ended and is started again", process.pid)),
                Err(e) => said(&format!("{name} had ended and does not start: {e}")),
            }
            dir.write(STATE, &state)?;
        }
    }
    Ok(())
}

fn start(
    exe: &Path,
    dir: &Dir,
    fabric: &Fabric,
    wiring: &Wiring,
    state: &mut LabState,
    name: &str,
) -> Result<()> {
    let Some(hub) = &state.hub else { return Ok(()) };
    if name == "hub" {
        // Where agents and people look for it.
        let listen = members::Listen { grpc: Some(hub.grpc.clone()), http: Some(hub.http.clone()) };
        let again: HubState =
            members::start_hub(exe, dir, hub.packets_per_second, hub.record.as_deref(), &listen)?;
        state.hub = Some(again);
        return Ok(());
    }
    let device = fabric.device_by_name(name);
    let member = wiring.members.iter().find(|m| Some(m.device) == device);
    let Some(member) = member else { return Ok(()) };
    let again: AgentState = members::start_agent(exe, dir, name, &member.netns, &hub.grpc)?;
    if let Some(agent) = state.agents.iter_mut().find(|a| a.host == name) {
        *agent = again;
    }
    Ok(())
}
