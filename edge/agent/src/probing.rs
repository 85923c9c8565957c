//! What the connection needs of a prober, and how a plan from the hub is read.
//!
//! Invariants: a plan is used wholly or not at all.

use crate::config::{Config, RecordTo};
use crate::error::AgentError;
use crate::prober::{Prober, ProberConfig, ProberError, ProberHandle};
use crate::record::Recorder;
use crate::tasks::trace::Tracer;
use fabric::Fabric;
use kernel::caps::Capability;
use probe::{Observation, Plan, Slot};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use wire::{HostId, Nanos, PathId};

/// Something that probes while the connection is kept. The agent's own is [`crate::prober`]; a test has another.
pub(crate) trait Probing: Send {
    /// Probe this from now on.
    fn set_plan(&mut self, plan: Plan) -> Result<(), AgentError>;
    /// Hands over every observation that waits. `false` where the prober has ended.
    fn take(&mut self, to: &mut dyn FnMut(Observation)) -> bool;
    /// Its counters since its start.
    fn counters(&self) -> BTreeMap<String, u64>;
    /// Who traces, where somebody can.
    fn tracer(&self) -> Option<Arc<Tracer>> {
        None
    }
    /// Ends it.
    fn stop(self: Box<Self>);
}

impl Probing for ProberHandle {
    fn set_plan(&mut self, plan: Plan) -> Result<(), AgentError> {
        ProberHandle::set_plan(self, plan).map_err(cannot_probe)
    }
    fn take(&mut self, to: &mut dyn FnMut(Observation)) -> bool {
        loop {
            match self.observations.try_recv() {
                Ok(observation) => to(observation),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
    fn counters(&self) -> BTreeMap<String, u64> {
        ProberHandle::counters(self).into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
    }
    fn tracer(&self) -> Option<Arc<Tracer>> {
        ProberHandle::tracer(self)
    }
    fn stop(self: Box<Self>) {
        ProberHandle::stop(*self);
    }
}

fn cannot_probe(e: ProberError) -> AgentError {
    AgentError::Probe { reason: e.to_string() }
}

/// Opens the sockets, gives up what is not needed any more, and starts probing.
pub(crate) type Open =
    dyn Fn(&Config, &Arc<Fabric>, HostId, Plan) -> Result<Box<dyn Probing>, AgentError> + Send + Sync;

/// The fabric of a plan and what to probe in it. An error says what was wrong with it, for the log.
pub(crate) fn read(plan: &wire::proto::Plan) -> Result<(Fabric, Plan), String> {
    let fabric = Fabric::parse(&plan.fabric_toml).map_err(|e| format!("its fabric cannot be read: {e}"))?;
    if fabric.epoch.0 != plan.plan_epoch {
        return Err(format!(
            "its fabric is {} here and epoch {} at the hub: agent and hub are of different releases",
            fabric.epoch, plan.plan_epoch
        ));
    }
    let mut slots = Vec::with_capacity(plan.slots.len());
    for s in &plan.slots {
        let size = u16::try_from(s.size_bytes).map_err(|_| format!("a probe of {} bytes", s.size_bytes))?;
        let class =
            u8::try_from(s.class).ok().filter(|&c| c <= 63).ok_or(format!("a DSCP of {}", s.class))?;
        let back = (s.path_back != 0).then_some(PathId(s.path_back));
        slots.push(Slot { path: PathId(s.path), back, size, class });
    }
    let plan = Plan {
        slots,
        window: Nanos::from_millis(plan.window_ms.into()),
        packets_per_second: plan.packets_per_second,
        train: plan.train,
        timeout: Nanos::from_millis(plan.timeout_ms.into()),
    };
    Ok((fabric, plan))
}

/// What the probe sockets need, until they are open: raw packets, a port below 1,024, another network namespace.
const NEEDED_TO_OPEN: [Capability; 4] = [
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
];

fn keep_only(keep: &[Capability]) -> Result<(), AgentError> {
    kernel::caps::keep_only(keep).map_err(|e| AgentError::Capabilities { reason: e.to_string() })
}

/// Gives up everything but what the sockets need. To be called before any thread is started.
pub(crate) fn give_up_the_rest() -> Result<(), AgentError> {
    keep_only(&NEEDED_TO_OPEN)
}

/// A recorder into a new file.
fn recorder(to: &RecordTo) -> Result<Recorder, AgentError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to.path);
    let file =
        made.map_err(|e| AgentError::Record { path: to.path.display().to_string(), reason: e.to_string() })?;
    Ok(Recorder::new(file, to.bytes_max))
}

/// The agent's own prober.
pub(crate) fn open(
    config: &Config,
    fabric: &Arc<Fabric>,
    host: HostId,
    plan: Plan,
) -> Result<Box<dyn Probing>, AgentError> {
    let prober = Prober::open(ProberConfig {
        recorder: config.record.as_ref().map(recorder).transpose()?,
        netns: config.netns.clone(),
        stamp_port: config.stamp_port,
        key: config.stamp_key.clone(),
        ..ProberConfig::new(Arc::clone(fabric), host)
    })
    .map_err(cannot_probe)?;
    if config.drop_capabilities {
        // The prober's thread is started below and inherits this.
        keep_only(&[])?;
    }
    let handle = prober.spawn().map_err(cannot_probe)?;
    handle.set_plan(plan).map_err(cannot_probe)?;
    Ok(Box::new(handle))
}
