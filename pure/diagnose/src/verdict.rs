//! What comes out: a verdict names a component, what is wrong with it, how surely, and what that rests on.
//!
//! Invariants: `rate_low <= rate <= rate_high`; `0 <= confidence <= 1`; a verdict never changes its id; a verdict is
//! open exactly while `closed_at` is `None`.

use alloc::vec::Vec;
use core::fmt;
use wire::{Component, Counter, HostId, LinkId, Nanos};

/// Which verdict. The same fault keeps its id over updates, a reopening and a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictId(pub u64);

impl fmt::Display for VerdictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// Packets are lost at a rate, whatever they carry.
    Loss,
    /// Everything is lost.
    Blackhole,
    /// Some flows lose everything, others nothing: a black hole by header hash.
    SelectiveLoss,
    /// Packets arrive damaged and the hosts behind throw them away.
    Corruption,
    /// Packets are overtaken.
    Reorder,
    /// Packets are marked with ECN CE.
    EcnMarking,
    /// Packets are late.
    Delay,
    /// Packets are late and some are lost: a queue that is full.
    Congestion,
    /// Off and on again, with a period.
    Flap,
    /// A host does not get to its packets in time.
    HostStall,
    /// A host's agent answers nobody, on any plane.
    AgentStopped,
    /// Many senders at once fill the queue in front of one host.
    Incast,
    /// A port, NIC or host asks its neighbours to pause nearly all the time (PFC, IEEE 802.1Qbb), and they pause theirs.
    PfcStorm,
    /// A cable whose ports correct or refuse ever more frames while its packets still arrive.
    Wearing,
}

impl FaultKind {
    /// Every kind, in the order they are declared.
    pub const ALL: [FaultKind; 14] = [
        FaultKind::Loss,
        FaultKind::Blackhole,
        FaultKind::SelectiveLoss,
        FaultKind::Corruption,
        FaultKind::Reorder,
        FaultKind::EcnMarking,
        FaultKind::Delay,
        FaultKind::Congestion,
        FaultKind::Flap,
        FaultKind::HostStall,
        FaultKind::AgentStopped,
        FaultKind::Incast,
        FaultKind::PfcStorm,
        FaultKind::Wearing,
    ];

    /// One lower-case word, words joined by underscores.
    pub const fn as_str(self) -> &'static str {
        match self {
            FaultKind::Loss => "loss",
            FaultKind::Blackhole => "blackhole",
            FaultKind::SelectiveLoss => "selective_loss",
            FaultKind::Corruption => "corruption",
            FaultKind::Reorder => "reorder",
            FaultKind::EcnMarking => "ecn_marking",
            FaultKind::Delay => "delay",
            FaultKind::Congestion => "congestion",
            FaultKind::Flap => "flap",
            FaultKind::HostStall => "host_stall",
            FaultKind::AgentStopped => "agent_stopped",
            FaultKind::Incast => "incast",
            FaultKind::PfcStorm => "pfc_storm",
            FaultKind::Wearing => "wearing",
        }
    }

    /// The kind by its word.
    pub fn parse(word: &str) -> Option<FaultKind> {
        FaultKind::ALL.into_iter().find(|k| k.as_str() == word)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// On and off again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flap {
    /// From one beginning of a bad spell to the next, median.
    pub period: Nanos,
    /// Share of the time that is bad, `0 ..= 1`.
    pub duty: f64,
}

/// A heap of observations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many observations.
    pub observations: u64,
    /// Packets sent in them.
    pub sent: u64,
    /// Packets hurt in them (lost, or reordered, marked, late: whatever the verdict is about). `<= sent`.
    pub hurt: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, sent: u64, hurt: u64) {
        self.observations += 1;
        self.sent += sent;
        self.hurt += hurt;
    }
}

/// One observation a verdict rests on: who made it and its running number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exemplar {
    /// Who measured.
    pub producer: HostId,
    /// The producer's number of the observation.
    pub sequence: u64,
}

/// What a counter at one place says for or against a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Where it was counted.
    pub component: Component,
    /// What was counted.
    pub counter: Counter,
    /// Events while the fault lasted, over its last minute at most.
    pub events: u64,
    /// Out of so many opportunities; 0 where they are not counted.
    pub of: u64,
    /// Log-likelihood ratio in hundredths of a natural unit, `-1000 ..= 1000`: above zero it speaks for the verdict,
    /// below zero against it.
    pub weight: i32,
}

/// What a verdict rests on, for and against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Crossed the component and were hurt.
    pub crossing_hurt: Tally,
    /// Crossed the component and were fine.
    pub crossing_fine: Tally,
    /// Hurt without crossing the component, in the same time.
    pub elsewhere_hurt: Tally,
    /// Distinct moments (windows of time) in which the component's traffic was hurt.
    pub moments: u32,
    /// Observations it rests on, the newest, at most [`Evidence::EXEMPLARS`].
    pub exemplars: Vec<Exemplar>,
    /// Counters at the component and beside it, the weightiest first, at most [`Evidence::COUNTERS`].
    pub counters: Vec<Counted>,
    /// Who suffers from it besides: those a PFC storm pauses, the nearest first, at most [`Evidence::VICTIMS`].
    pub victims: Vec<Component>,
    /// Hosts that sent at once in an incast, at most in one window; 0 where that is not known.
    pub senders: u32,
}

impl Evidence {
    /// Most counters kept with a verdict.
    pub const COUNTERS: usize = 8;
    /// Most victims kept with a verdict.
    pub const VICTIMS: usize = 32;
    /// Most exemplars kept with a verdict.
    pub const EXEMPLARS: usize = 16;
}

/// Which component is sick, since when, how surely, and on what evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Stays the same for the life of the fault.
    pub id: VerdictId,
    /// The component to blame.
    pub component: Component,
    /// Components the evidence cannot tell from it.
    pub alternatives: Vec<Component>,
    /// Directed links of the component that are hurt: one for a link, several for a device.
    pub links: Vec<LinkId>,
    /// What is wrong.
    pub kind: FaultKind,
    /// Share of packets hurt while crossing it, `0 ..= 1`.
    pub rate: f64,
    /// Lower end of the 95 % interval of `rate`.
    pub rate_low: f64,
    /// Upper end of the 95 % interval of `rate`.
    pub rate_high: f64,
    /// How much later than usual packets are, nanoseconds; 0 where delay is not the matter.
    pub delay_excess_ns: u64,
    /// Set where the fault comes and goes.
    pub flap: Option<Flap>,
    /// How surely this component (or an alternative) is sick, `0 ..= 1`. Above 0.9 only where it is clear.
    pub confidence: f64,
    /// Beginning of the first hurt window.
    pub first_seen: Nanos,
    /// End of the last hurt window so far.
    pub last_seen: Nanos,
    /// When it was found healed; `None` while open.
    pub closed_at: Option<Nanos>,
    /// What it rests on.
    pub evidence: Evidence,
}

/// What the engine has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new fault.
    Opened(Verdict),
    /// The same fault, better known or changed.
    Updated(Verdict),
    /// The fault is over.
    Closed(Verdict),
    /// A fault that was over is back, under its old id.
    Reopened(Verdict),
}

impl Event {
    /// The verdict it is about.
    pub fn verdict(&self) -> &Verdict {
        match self {
            Event::Opened(v) | Event::Updated(v) | Event::Closed(v) | Event::Reopened(v) => v,
        }
    }
}
