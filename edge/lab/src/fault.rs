//! Faults of a running lab: starting, healing, listing.
//!
//! How: the faults that act are kept in `faults.json`. What a directed link must suffer follows from all of them
//! together ([`effect`]); whenever the list changes, the links concerned are brought from what they have to what they
//! must have. So faults can overlap and be healed in any order.
//!
//! - drop, black hole, corruption, ECN marks, flaps: the BPF element at the receiving interface ([`element`]);
//! - delay, jitter, reordering: a process that holds packets ([`relay`]), fed by the element;
//! - rate limit: a token bucket on the sending interface; down: that interface is down (a veth knows no half: both
//!   directions stop);
//! - a stalled processor: the host's agent is stopped and continued by a process of its own ([`stall`]); a stopped
//!   agent: just stopped.
//!
//! Invariants: while an element or a token bucket acts, the sending interface has no segmentation offload, so faults act on
//! wire segments, and no checksum offload where packets are damaged or held; healed links have exactly what `up` gave them.

pub mod effect;
pub mod element;
pub mod relay;
pub mod stall;

use crate::lab::Lab;
use crate::members::{self, Helper};
use crate::state::Started;
use crate::{Error, Result};
use effect::Effect;
use element::{Counters, Element};
use fabric::{Device, Fault, FaultKind, Target};
use kernel::netlink::{Batch, Netlink};
use kernel::process::{Process, Signal};
use kernel::{link, netns, offload, tc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use wire::{HostId, LinkId};

const FILE: &str = "faults.json";
/// What may pass a rate limit at once: one packet of the largest size.
const BURST_BYTES: u32 = 10_000;
/// How long a packet waits at a rate limit before the queue is full, milliseconds.
const QUEUE_MS: u64 = 50;

/// A fault that acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acting {
    /// Its number in this lab.
    pub id: u32,
    /// What is broken, by name.
    pub target: String,
    /// How, as it is written.
    pub kind: String,
    /// Which way.
    pub direction: String,
    /// Since when, milliseconds of the Unix epoch.
    pub since_ms: u64,
    /// Directed links that suffer.
    pub links: Vec<u32>,
    /// Hosts that suffer.
    pub hosts: Vec<String>,
    /// The process that stalls the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    helper: Option<Started>,
}

/// What a link has been given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    element: Option<Element>,
    relay: Option<Started>,
    rate: bool,
    down: bool,
}

/// `faults.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    next: u32,
    faults: Vec<Acting>,
    links: BTreeMap<u32, Given>,
}

/// What a fault did to one link so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkCount {
    /// The directed link.
    pub link: String,
    /// Packets, each a wire segment. None where no element is needed (rate limit, down).
    pub counters: Option<Counters>,
}

impl Lab {
    /// Starts a fault. Random targets must be resolved before.
    pub fn fault(&self, fault: &Fault) -> Result<Acting> {
        let _lock = self.dir.lock()?;
        let mut book = self.book()?;
        let target = fault.target.name(&self.fabric);
        let bad = |why| Error::BadFault { kind: fault.kind.to_string(), target: target.clone(), why };
        if fault.target.is_random() {
            return Err(bad("a random target must be decided by a seed first"));
        }
        let links = fault.links(&self.fabric);
        let mut acting = Acting {
            id: book.next,
            target: target.clone(),
            kind: fault.kind.to_string(),
            direction: fault.direction.to_string(),
            since_ms: members::unix_ms(),
            links: links.iter().map(|l| l.0).collect(),
            hosts: Vec::new(),
            helper: None,
        };
        book.next += 1;
        if let (true, Target::Host(host)) = (fault.kind.on_host(), &fault.target) {
            acting.hosts = vec![self.fabric.host_name(*host)];
            acting.helper = self.hurt_host(*host, &fault.kind, acting.id)?;
        } else if links.is_empty() {
            return Err(bad("it has no cables"));
        }
        book.faults.push(acting.clone());
        self.dir.write(FILE, &book)?;
        self.settle(&mut book, links)?;
        Ok(acting)
    }

    /// Heals every fault on a target (a link, switch, NIC or host, as it was named when the fault began), or all.
    /// Gives what was healed.
    pub fn heal(&self, target: Option<&str>) -> Result<Vec<Acting>> {
        let _lock = self.dir.lock()?;
        let mut book = self.book()?;
        let all = std::mem::take(&mut book.faults);
        let (healed, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|f| target.is_none_or(|t| f.target == t || f.id.to_string() == t));
        book.faults = kept;
        let mut links = BTreeSet::new();
        for fault in &healed {
            links.extend(fault.links.iter().map(|&l| LinkId(l)));
            if let Some(helper) = fault.helper {
                members::end(helper.into(), &format!("helper of fault {}", fault.id))?;
            }
            for host in &fault.hosts {
                // still stopped by another fault that acts: leave it so
                let other = book.faults.iter().any(|f| f.kind == "agent-stop" && f.hosts.contains(host));
                if let (false, Some(agent)) = (other, self.agent(host)) {
                    continue_agent(agent)?;
                }
            }
        }
        self.dir.write(FILE, &book)?;
        self.settle(&mut book, links.into_iter().collect())?;
        Ok(healed)
    }

    /// The faults that act, in the order they began.
    pub fn faults(&self) -> Result<Vec<Acting>> {
        Ok(self.book()?.faults)
    }

    /// What has been counted on the links of a fault.
    pub fn counts(&self, fault: &Acting) -> Result<Vec<LinkCount>> {
        let book = self.book()?;
        let count = |&id: &u32| {
            let element = book.links.get(&id).and_then(|given| given.element);
            let counters = element.map(|e| e.counters()).transpose()?;
            Ok(LinkCount { link: self.fabric.link_name(LinkId(id)), counters })
        };
        fault.links.iter().map(count).collect()
    }

    /// Processes of faults, so that `down` can end them.
    pub(crate) fn fault_processes(&self) -> Result<Vec<Process>> {
        let book = self.book()?;
        let helpers = book.faults.iter().filter_map(|f| f.helper);
        let relays = book.links.values().filter_map(|given| given.relay);
        Ok(helpers.chain(relays).map(Process::from).collect())
    }

    fn book(&self) -> Result<Book> {
        Ok(self.dir.read(FILE)?.unwrap_or_default())
    }

    /// Brings links to what the faults in the book make of them.
    fn settle(&self, book: &mut Book, links: Vec<LinkId>) -> Result<()> {
        let mut healed = Vec::new();
        for id in links {
            let mut kinds = Vec::new();
            for fault in book.faults.iter().filter(|f| f.links.contains(&id.0)) {
                let kind: FaultKind = fault
                    .kind
                    .parse()
                    .map_err(|e| Error::State { path: self.dir.join(FILE), said: format!("{e}") })?;
                kinds.push((fault.id, kind));
            }
            let effect = Effect::of(id, kinds.into_iter());
            let given = book.links.remove(&id.0).unwrap_or_default();
            let came_up = given.down && !effect.down;
            let given = self.bring(id, &effect, given)?;
            if given != Given::default() {
                book.links.insert(id.0, given);
            }
            self.dir.write(FILE, book)?;
            if came_up {
                healed.push(id);
            }
        }
        // Only when all are up: the other end of one may be the next of the list.
        let down: BTreeSet<LinkId> =
            book.links.iter().filter(|(_, given)| given.down).map(|(&l, _)| LinkId(l)).collect();
        for id in healed {
            for (member, _) in [self.wiring.sender(id), self.wiring.receiver(id)].into_iter().flatten() {
                self.wiring.wait_running(member, &down)?;
            }
        }
        Ok(())
    }

    /// Brings one link from what it has to what it must have.
    fn bring(&self, id: LinkId, effect: &Effect, mut given: Given) -> Result<Given> {
        let none = || Error::NoTarget { what: "link", name: id.to_string() };
        let (sender, out) = self.wiring.sender(id).ok_or_else(none)?;
        let (receiver, into) = self.wiring.receiver(id).ok_or_else(none)?;
        let by_segment = effect.program.acts() || effect.rate_bps.is_some();
        // damage must be found, and the delay line takes whole packets
        let summed = effect.program.corrupt > 0.0 || effect.program.divert > 0.0;
        {
            let _inside = netns::enter(&sender.netns)?;
            let mut socket = Netlink::route()?;
            offload::set_tx_offload(out.index, !by_segment, !summed)?;
            match effect.rate_bps {
                Some(bps) => {
                    let queue = u32::try_from(bps / 8 * QUEUE_MS / 1000).unwrap_or(u32::MAX);
                    tc::set_rate(&mut socket, out.index, bps, BURST_BYTES, queue.max(BURST_BYTES))?;
                }
                None if given.rate => tc::clear_rate(&mut socket, out.index)?,
                None => {}
            }
            given.rate = effect.rate_bps.is_some();
            if effect.down != given.down {
                let mut batch = Batch::new();
                link::set_up(&mut batch, out.index, !effect.down);
                socket.apply(batch)?;
                given.down = effect.down;
                if !effect.down {
                    // the interface lost its routes and neighbours
                    self.wiring.configure(&self.fabric, sender)?;
                }
            }
        }
        // A delay line is never changed, only replaced: what it holds is lost then, as on a link that is cut over.
        if let Some(relay) = given.relay.take() {
            members::end(relay.into(), "delay line")?;
            if let Some(element) = given.element.take() {
                element.detach(&receiver.netns)?;
            }
        }
        if !effect.program.acts() {
            if let Some(element) = given.element.take() {
                element.detach(&receiver.netns)?;
            }
            return Ok(given);
        }
        let mut program = effect.program;
        if let Some(line) = &effect.line {
            let name = format!("delay{}", id.0);
            let helper =
                Helper::Relay { netns: receiver.netns.clone(), name, line: *line, seed: id.0.into() };
            let (process, said) = members::start_helper(&self.exe, &self.dir, &helper)?;
            given.relay = Some(process.into());
            program.divert_to = said.parse().map_err(|_| Error::Process {
                what: "delay line".to_string(),
                why: format!("said {said:?} instead of the number of its interface"),
                log: String::new(),
            })?;
        }
        match given.element {
            Some(element) => element.set(&program)?,
            None => {
                let relay = given.relay.map(|_| program.divert_to);
                given.element = Some(Element::attach(&receiver.netns, into.index, &program, relay)?);
            }
        }
        Ok(given)
    }

    fn hurt_host(&self, host: HostId, kind: &FaultKind, id: u32) -> Result<Option<Started>> {
        let name = self.fabric.device_name(Device::Host(host));
        let agent = self.agent(&name).ok_or(Error::BadFault {
            kind: kind.to_string(),
            target: name,
            why: "no agent runs there (the lab is bare)",
        })?;
        match kind {
            FaultKind::CpuStall { stopped, period } => {
                let stall = stall::Stall { agent, stopped_ns: stopped.0, period_ns: period.0 };
                let helper = Helper::Stall { stall, name: format!("stall{id}") };
                let (process, _) = members::start_helper(&self.exe, &self.dir, &helper)?;
                Ok(Some(process.into()))
            }
            _ => {
                agent.signal(Signal::Stop)?;
                Ok(None)
            }
        }
    }
}

fn continue_agent(agent: Process) -> Result<()> {
    match agent.signal(Signal::Continue) {
        // it ended meanwhile: there is nothing left to heal
        Err(kernel::Error::Gone { .. }) => Ok(()),
        other => Ok(other?),
    }
}

/// Ends what faults of a lab left running, where only its directory is known (after a crash).
pub(crate) fn forget(dir: &crate::state::Dir) -> Vec<Process> {
    let book: Book = dir.read(FILE).ok().flatten().unwrap_or_default();
    let helpers = book.faults.iter().filter_map(|f| f.helper);
    helpers.chain(book.links.values().filter_map(|g| g.relay)).map(Process::from).collect()
}

/// Where a helper writes what it has to say.
pub(crate) fn log_of(dir: &Path, name: &str) -> std::path::PathBuf {
    dir.join("logs").join(format!("{name}.log"))
}
