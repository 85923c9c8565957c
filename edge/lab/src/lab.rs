//! A lab from beginning to end: up, inspect, down.

use crate::error::file_error;
use crate::members;
use crate::state::{self, Dir, LabState};
use crate::wiring::Wiring;
use crate::{Error, Result, fault};
use fabric::{Device, Fabric, Mode, Scenario, Tier};
use kernel::capabilities::{Feature, missing};
use kernel::netns;
use kernel::process::Process;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const STATE: &str = "lab.json";
pub(crate) const FABRIC: &str = "fabric.toml";
/// Probes a second of all hosts of a lab together, unless asked for more: what two processors carry, forwarding and
/// reflecting included.
pub const PACKETS_PER_SECOND: u32 = 12_800;
/// What an agent costs beside its probes (its wake-ups, its reports to the hub), in probes a second.
const AGENT_COST: u32 = 25;

/// Probes a second of each host: what the scenario wants, as far as one machine carries it for all of them.
fn budget(hosts: u32, wanted: u32) -> u32 {
    let agents = AGENT_COST.saturating_mul(hosts);
    let all = PACKETS_PER_SECOND.saturating_sub(agents).max(PACKETS_PER_SECOND / 5);
    wanted.min((all / hosts.max(1)).max(1))
}

/// How a lab is brought up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name; the fabric's where there is none.
    pub name: Option<String>,
    /// The binary agents, hub and helpers are started from.
    pub exe: PathBuf,
    /// Only namespaces, cables and routes.
    pub bare: bool,
    /// Probes a second of each host; the scenario's where there is none, as far as the machine carries it.
    pub packets_per_second: Option<u32>,
    /// Where the hub records every batch of observations, for `selvedge diagnose`.
    pub record: Option<PathBuf>,
    /// Where the hub serves its pages and its API; a free port of the loopback where there is none.
    pub http: Option<SocketAddr>,
    /// How long all agents may take to report.
    pub ready_within: Duration,
}

/// How far a lab has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub what: &'static str,
    /// Done of it.
    pub done: usize,
    /// Of how much.
    pub all: usize,
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    pub(crate) dir: Dir,
    pub(crate) exe: PathBuf,
    pub(crate) fabric: Fabric,
    pub(crate) wiring: Wiring,
    scenario: Scenario,
    state: LabState,
}

/// A directed link, for anyone who wants to watch or break it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Who sends.
    pub from: String,
    /// Who receives.
    pub to: String,
    /// In which plane.
    pub plane: u8,
    /// Namespace of the sender.
    pub netns: String,
    /// Interface that sends.
    pub ifname: String,
    /// Namespace of the receiver.
    pub peer_netns: String,
    /// Interface that receives.
    pub peer_ifname: String,
}

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchView {
    /// Its name.
    pub name: String,
    /// In which plane.
    pub plane: u8,
    /// `leaf` or `spine`.
    pub tier: &'static str,
    /// Its namespace.
    pub netns: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub netns: String,
    /// The addresses of its NICs.
    pub addresses: Vec<String>,
}

/// Everything of a lab that ordinary tools need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Every directed link.
    pub links: Vec<LinkView>,
    /// Every switch.
    pub switches: Vec<SwitchView>,
    /// Every host.
    pub hosts: Vec<HostView>,
}

impl Lab {
    /// Brings up the fabric of a scenario (whose faults stay unstarted). `text` is the file it was read from.
    /// `progress` hears of every step; an error from it ([`Error::Interrupted`]) takes everything down again.
    pub fn up(
        text: &str,
        scenario: Scenario,
        options: &Options,
        progress: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Lab> {
        let mut wanted = vec![Feature::Configure, Feature::Namespaces];
        if scenario.fabric.mode == Mode::Srv6 {
            wanted.push(Feature::Srv6);
        }
        let missing = missing(&wanted);
        if !missing.is_empty() {
            return Err(Error::Missing { needs: missing.into_iter().map(Feature::need).collect() });
        }
        let name = options.name.clone().unwrap_or_else(|| scenario.fabric.name.clone());
        let dir = Dir::of(&name)?;
        let wiring = Wiring::plan(&scenario.fabric, &name)?;
        clear_remains(&dir, &name)?;
        dir.create()?;
        let lock = dir.lock()?;
        // Two that found nothing at once: the second sees the first here.
        if let Some(other) = dir.read::<LabState>(STATE)? {
            return Err(Error::Running { name: other.name });
        }
        let state = LabState {
            name,
            boot_id: state::boot_id(),
            builder: Process::own().map(Into::into),
            hub: None,
            sensors: None,
            agents: Vec::new(),
            supervisor: None,
            namespaces: wiring.members.iter().map(|m| m.netns.clone()).collect(),
        };
        dir.write(STATE, &state)?;
        let path = dir.join(FABRIC);
        std::fs::write(&path, text).map_err(file_error(&path))?;
        let mut lab =
            Lab { dir, exe: options.exe.clone(), fabric: scenario.fabric.clone(), wiring, scenario, state };
        let built = lab.build(options, progress);
        drop(lock);
        match built {
            Ok(()) => Ok(lab),
            Err(e) => {
                // The first error is the one to tell; what cannot be cleared now is cleared by the next `up`.
                let _ = lab.down();
                Err(e)
            }
        }
    }

    fn build(&mut self, options: &Options, progress: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        self.wiring.build(&self.fabric, &mut |done, all| {
            progress(Step { what: "namespaces, cables and routes", done, all })
        })?;
        if !options.bare {
            self.start_members(options, progress)?;
            self.state.supervisor =
                Some(members::start_supervisor(&self.exe, &self.dir, &self.state.name)?.into());
        }
        self.state.builder = None;
        self.dir.write(STATE, &self.state)
    }

    fn start_members(
        &mut self,
        options: &Options,
        progress: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let hosts: Vec<(String, String)> = self
            .wiring
            .members
            .iter()
            .filter(|m| matches!(m.device, Device::Host(_)))
            .map(|m| (self.fabric.device_name(m.device), m.netns.clone()))
            .collect();
        let names: Vec<String> = hosts.iter().map(|(name, _)| name.clone()).collect();
        progress(Step { what: "certificates", done: 0, all: 1 })?;
        members::certificates(&self.exe, &self.dir, &names)?;
        progress(Step { what: "hub", done: 0, all: 1 })?;
        let budget = budget(self.fabric.shape.hosts, self.scenario.probe.packets_per_second);
        let budget = options.packets_per_second.unwrap_or(budget);
        let listen = members::Listen { grpc: None, http: options.http.map(|a| a.to_string()) };
        let hub = members::start_hub(&self.exe, &self.dir, budget, options.record.as_deref(), &listen)?;
        self.state.hub = Some(hub.clone());
        self.dir.write(STATE, &self.state)?;
        progress(Step { what: "sensors", done: 0, all: 1 })?;
        self.state.sensors = members::start_sensors(&self.exe, &self.dir)?.map(Into::into);
        self.dir.write(STATE, &self.state)?;
        for (done, (name, space)) in hosts.iter().enumerate() {
            let agent = members::start_agent(&self.exe, &self.dir, name, space, &hub.grpc)?;
            self.state.agents.push(agent);
            self.dir.write(STATE, &self.state)?;
            progress(Step { what: "agents started", done: done + 1, all: hosts.len() })?;
        }
        members::wait_ready(&self.dir, &hub, &self.state.agents, options.ready_within, &mut |done, all| {
            progress(Step { what: "agents reporting", done, all })
        })
    }

    /// The lab with this name, or the only one there is. `exe` is the binary helpers are started from.
    pub fn open(name: Option<&str>, exe: PathBuf) -> Result<Lab> {
        let name = match name {
            Some(name) => name.to_string(),
            None => match state::list().as_slice() {
                [one] => one.clone(),
                several => return Err(Error::WhichLab { names: several.to_vec() }),
            },
        };
        let dir = Dir::of(&name)?;
        let state: LabState = dir.read(STATE)?.ok_or(Error::NoLab { name })?;
        let path = dir.join(FABRIC);
        let text = fabric_text(&dir)?;
        let scenario = Scenario::parse(&text)
            .map_err(|e| Error::State { path: path.clone(), said: e.located(&path.display().to_string()) })?;
        let fabric = scenario.fabric.clone();
        let wiring = Wiring::plan(&fabric, &state.name)?;
        Ok(Lab { dir, exe, fabric, wiring, scenario, state })
    }

    /// Its fabric.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }
    /// The scenario it was brought up from.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }
    /// Its record.
    pub fn state(&self) -> &LabState {
        &self.state
    }
    /// Where the agent of a host listens to what uses the transport there; none in a bare lab.
    pub fn transport_socket(&self, host: &str) -> Option<PathBuf> {
        let there = self.state.agents.iter().any(|a| a.host == host);
        there.then(|| members::transport_socket(&self.dir, host))
    }
    /// `127.0.0.1:PORT` of its hub.
    pub fn hub(&self) -> Option<&str> {
        self.state.hub.as_ref().map(|hub| hub.http.as_str())
    }
    /// The agent of a host, as it runs now: the supervisor may have started it again.
    pub(crate) fn agent(&self, host: &str) -> Option<Process> {
        let state = self.dir.read::<LabState>(STATE).ok().flatten();
        let agents = &state.as_ref().unwrap_or(&self.state).agents;
        agents.iter().find(|a| a.host == host).map(|a| a.process.into())
    }

    /// The namespace of a host or switch.
    pub fn netns(&self, name: &str) -> Result<String> {
        let none = || Error::NoTarget { what: "host or switch", name: name.to_string() };
        let device = self.fabric.device_by_name(name).ok_or_else(none)?;
        let member = self.wiring.members.iter().find(|m| m.device == device).ok_or_else(none)?;
        Ok(member.netns.clone())
    }

    /// What is where.
    pub fn inspect(&self) -> Inspection {
        let fabric = &self.fabric;
        let link = |id| {
            let (from, port) = self.wiring.sender(id)?;
            let (to, peer) = self.wiring.receiver(id)?;
            Some(LinkView {
                id: id.0,
                name: fabric.link_name(id),
                from: fabric.device_name(from.device),
                to: fabric.device_name(to.device),
                plane: fabric.link_plane(id).0,
                netns: from.netns.clone(),
                ifname: port.name.clone(),
                peer_netns: to.netns.clone(),
                peer_ifname: peer.name.clone(),
            })
        };
        let mut all = Inspection {
            links: fabric.links().filter_map(link).collect(),
            switches: Vec::new(),
            hosts: Vec::new(),
        };
        for member in &self.wiring.members {
            let (name, netns) = (fabric.device_name(member.device), member.netns.clone());
            match member.device {
                Device::Switch(switch) => {
                    let (plane, tier, _) = fabric.switch_parts(switch);
                    let tier = if tier == Tier::Leaf { "leaf" } else { "spine" };
                    all.switches.push(SwitchView { name, plane: plane.0, tier, netns });
                }
                Device::Host(_) => {
                    let addresses = fabric.addresses(member.device);
                    let addresses = addresses.into_iter().map(|(_, a)| a.to_string()).collect();
                    all.hosts.push(HostView { name, netns, addresses });
                }
            }
        }
        all
    }

    /// Takes everything down: processes, namespaces, records.
    pub fn down(&self) -> Result<()> {
        let _lock = self.dir.lock()?;
        let mut processes = self.fault_processes()?;
        // The supervisor may have started some again since.
        let state = self.dir.read::<LabState>(STATE)?.unwrap_or_else(|| self.state.clone());
        processes.extend(members_of(&state));
        // What was started and could not be recorded.
        processes.extend(members::marked(&self.dir));
        clear(&self.dir, &state, processes)
    }
}

/// The file a lab was brought up from.
pub(crate) fn fabric_text(dir: &Dir) -> Result<String> {
    let path = dir.join(FABRIC);
    std::fs::read_to_string(&path).map_err(file_error(&path))
}

fn members_of(state: &LabState) -> impl Iterator<Item = Process> {
    let agents = state.agents.iter().map(|a| a.process.into());
    let others =
        state.supervisor.into_iter().chain(state.hub.iter().map(|hub| hub.process)).chain(state.sensors);
    others.map(Into::into).chain(agents)
}

/// Whether a lab stands, or is being built by somebody who lives.
fn runs(state: &LabState) -> Result<bool> {
    if state.boot_id != state::boot_id() {
        return Ok(false);
    }
    match state.builder {
        Some(builder) => Ok(Process::from(builder).alive()),
        None => {
            let there: BTreeSet<String> = netns::list()?.into_iter().collect();
            Ok(state.namespaces.iter().any(|n| there.contains(n)))
        }
    }
}

/// Clears away what a crash left of a lab. A lab that runs is an error.
fn clear_remains(dir: &Dir, name: &str) -> Result<()> {
    // A record that cannot be read names nothing that could be cleared; the directory still goes.
    let Some(state) = dir.read::<LabState>(STATE).ok().flatten() else {
        return dir.remove();
    };
    if runs(&state)? {
        return Err(Error::Running { name: name.to_string() });
    }
    let mut processes: Vec<Process> = Vec::new();
    if state.boot_id == state::boot_id() {
        processes.extend(members_of(&state));
        processes.extend(fault::forget(dir));
        processes.extend(members::marked(dir));
    }
    clear(dir, &state, processes)
}

fn clear(dir: &Dir, state: &LabState, mut processes: Vec<Process>) -> Result<()> {
    processes.sort_unstable_by_key(|p| p.pid);
    processes.dedup();
    processes.retain(Process::alive);
    members::end_all(&processes).map_err(|pid| Error::Process {
        what: format!("process {pid}"),
        why: "does not end".to_string(),
        log: String::new(),
    })?;
    for name in &state.namespaces {
        netns::delete(name)?;
    }
    dir.remove()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_what_one_machine_carries() {
        let of = |hosts| budget(hosts, 400);
        assert_eq!([of(4), of(16), of(64), of(256), of(2048)], [400, 400, 175, 25, 1]);
        assert_eq!(budget(16, 10), 10, "less is what the scenario says");
    }
}
