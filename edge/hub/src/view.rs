//! What the API says, as JSON. Times are RFC 3339 in UTC with milliseconds.
//!
//! Invariants: fields are only added; an incident always has the fields of the command line's contract: `id`, `state`,
//! `component`, `alternatives`, `links`, `fault`, `confidence`, `first_seen`, `last_seen`, `closed_at`.

use crate::incident::{Change, Incident, Judgement, StoredTally, kind_word};
use fabric::Fabric;
use serde::{Deserialize, Serialize};
use std::time::{Duration, UNIX_EPOCH};
use tables::Sight;
use utoipa::ToSchema;

/// Unix nanoseconds as RFC 3339 with milliseconds.
pub(crate) fn time(ns: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(ns)).to_string()
}

/// What is sick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComponentView {
    /// `link`, `switch`, `nic` or `host`.
    pub kind: String,
    /// Name, such as `p0-leaf1:p0-spine0`.
    pub name: String,
    /// Number within its kind.
    pub id: u32,
}

/// On and off again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlapView {
    /// From one bad spell to the next, seconds.
    pub period_s: f64,
    /// Share of the time that is bad, 0 to 1.
    pub duty: f64,
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FaultView {
    /// `loss`, `blackhole`, `selective_loss`, `corruption`, `reorder`, `ecn_marking`, `delay`, `congestion`, `flap`,
    /// `host_stall`, `agent_stopped`, `incast`, `pfc_storm` or `wearing`.
    pub kind: String,
    /// Share of packets hurt, 0 to 1.
    pub rate: f64,
    /// Lower end of its 95 % interval.
    pub rate_low: f64,
    /// Upper end.
    pub rate_high: f64,
    /// Delay above usual, nanoseconds, where delay is the matter.
    pub delay_excess_ns: u64,
    /// Set where it comes and goes.
    pub flap: Option<FlapView>,
}

/// What a person thought of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelView {
    /// Right, wrong or partly.
    pub judgement: Judgement,
    /// Free text.
    pub note: String,
    /// When.
    pub at: String,
}

/// Who looks after an incident.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CareView {
    /// Who said they look after it.
    pub acknowledged_by: Option<String>,
    /// When.
    pub acknowledged_at: Option<String>,
    /// Whom it was given to.
    pub assigned_to: Option<String>,
    /// No alert before this time.
    pub snoozed_until: Option<String>,
    /// Who closed it, where a person did.
    pub closed_by: Option<String>,
}

/// What a person wrote down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoteView {
    /// When.
    pub at: String,
    /// Who.
    pub by: String,
    /// What.
    pub text: String,
}

/// Who is hurt by an incident, as measured while it lasted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HurtView {
    /// Hosts with hurt packets on paths over the component.
    pub hosts: Vec<String>,
    /// Pairs of hosts, sender and receiver.
    pub pairs: u64,
    /// The worst of them.
    pub pairs_shown: Vec<(String, String)>,
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IncidentView {
    /// `inc-1` and so on; never used twice.
    pub id: String,
    /// `open` or `closed`.
    pub state: String,
    /// The component to blame.
    pub component: ComponentView,
    /// Names of components the evidence cannot tell from it.
    pub alternatives: Vec<String>,
    /// Ids of the directed links that are hurt.
    pub links: Vec<u32>,
    /// Their names.
    pub link_names: Vec<String>,
    /// What is wrong.
    pub fault: FaultView,
    /// How surely this component or an alternative is sick, 0 to 1.
    pub confidence: f64,
    /// Beginning of the first hurt window.
    pub first_seen: String,
    /// End of the last hurt window.
    pub last_seen: String,
    /// When the hub announced it.
    pub opened_at: String,
    /// When it was found healed.
    pub closed_at: Option<String>,
    /// How often it came back.
    pub times_reopened: u32,
    /// All of it in one line.
    pub summary: String,
    /// What a person thought of it.
    pub label: Option<LabelView>,
    /// Who looks after it.
    #[serde(default)]
    pub care: CareView,
}

/// What to do about an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuideView {
    /// The incident.
    pub id: String,
    /// The guide, with its names, rates and times filled in, as Markdown.
    pub markdown: String,
}

/// A heap of observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TallyView {
    /// How many observations.
    pub observations: u64,
    /// Packets in them.
    pub sent: u64,
    /// Packets hurt.
    pub hurt: u64,
}

/// What a verdict rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// For: crossed the component and were hurt.
    pub crossing_hurt: TallyView,
    /// Against: crossed it and were fine.
    pub crossing_fine: TallyView,
    /// Against: hurt elsewhere at the same time.
    pub elsewhere_hurt: TallyView,
    /// Distinct moments in which its traffic was hurt.
    pub moments: u32,
    /// Some of the observations: producer and its sequence number.
    pub exemplars: Vec<ExemplarView>,
    /// What counters at the component and beside it say, the weightiest first.
    pub counters: Vec<CountedView>,
    /// Who suffers from it besides, such as what a storm of pauses holds up.
    pub victims: Vec<String>,
    /// Hosts that sent at once in an incast; 0 where that is not known.
    pub senders: u32,
}

/// What one counter says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CountedView {
    /// Where it was counted.
    pub component: String,
    /// What was counted, such as frame_error.
    pub counter: String,
    /// How many.
    pub events: u64,
    /// Out of how many; 0 where they are not counted.
    pub of: u64,
    /// How strongly it speaks for the verdict, or below 0 against it: a log-likelihood ratio, -10 to 10.
    pub weight: f64,
}

/// One observation a verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExemplarView {
    /// Host that measured.
    pub producer: String,
    /// Its number of the observation.
    pub sequence: u64,
}

/// One entry of an incident's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineView {
    /// When.
    pub at: String,
    /// What kind of change.
    pub change: Change,
    /// In words.
    pub text: String,
}

/// One incident with everything about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IncidentDetail {
    /// The incident.
    #[serde(flatten)]
    pub incident: IncidentView,
    /// What it rests on, for and against.
    pub evidence: EvidenceView,
    /// Its history, oldest first.
    pub timeline: Vec<TimelineView>,
    /// What people wrote down, oldest first.
    #[serde(default)]
    pub notes: Vec<NoteView>,
    /// Who is hurt; nothing where it was not asked for.
    #[serde(default)]
    pub hurt: Option<HurtView>,
}

impl From<StoredTally> for TallyView {
    fn from(t: StoredTally) -> Self {
        TallyView { observations: t.observations, sent: t.sent, hurt: t.hurt }
    }
}

impl IncidentView {
    /// Leaves out what may not be seen of what stands beside its component.
    pub(crate) fn cut(&mut self, fabric: &Fabric, sight: &Sight) {
        if sight.hosts.is_none() {
            return;
        }
        let sees = |name: &String| {
            fabric.component_by_name(name).is_some_and(|component| sight.sees(fabric, component))
        };
        self.alternatives.retain(sees);
        let links = self.links.iter().copied().zip(std::mem::take(&mut self.link_names));
        (self.links, self.link_names) = links.filter(|(_, name)| sees(name)).unzip();
    }

    pub(crate) fn new(i: &Incident) -> Self {
        IncidentView {
            id: i.id(),
            state: if i.is_open() { "open" } else { "closed" }.to_owned(),
            component: ComponentView {
                kind: kind_word(i.component.kind).to_owned(),
                name: i.component.name.clone(),
                id: i.component.id,
            },
            alternatives: i.alternatives.iter().map(|n| n.name.clone()).collect(),
            links: i.links.iter().map(|n| n.id).collect(),
            link_names: i.links.iter().map(|n| n.name.clone()).collect(),
            fault: FaultView {
                kind: i.kind.clone(),
                rate: i.rate,
                rate_low: i.rate_low,
                rate_high: i.rate_high,
                delay_excess_ns: i.delay_excess_ns,
                flap: i.flap_duty.map(|duty| FlapView { period_s: i.flap_period_ns as f64 / 1e9, duty }),
            },
            confidence: i.confidence,
            first_seen: time(i.first_seen_ns),
            last_seen: time(i.last_seen_ns),
            opened_at: time(i.opened_at_ns),
            closed_at: i.closed_at_ns.map(time),
            times_reopened: i.times_reopened,
            summary: i.sentence(),
            label: i.label.as_ref().map(|l| LabelView {
                judgement: l.judgement,
                note: l.note.clone(),
                at: time(l.at_ns),
            }),
            care: CareView {
                acknowledged_by: i.care.acknowledged_by.clone(),
                acknowledged_at: i.care.acknowledged_at_ns.map(time),
                assigned_to: i.care.assigned_to.clone(),
                snoozed_until: i.care.snoozed_until_ns.map(time),
                closed_by: i.care.closed_by.clone(),
            },
        }
    }
}

impl IncidentDetail {
    pub(crate) fn new(i: &Incident) -> Self {
        IncidentDetail {
            incident: IncidentView::new(i),
            evidence: EvidenceView {
                crossing_hurt: i.crossing_hurt.into(),
                crossing_fine: i.crossing_fine.into(),
                elsewhere_hurt: i.elsewhere_hurt.into(),
                moments: i.moments,
                exemplars: i
                    .exemplars
                    .iter()
                    .map(|&(p, sequence)| ExemplarView { producer: format!("host{p}"), sequence })
                    .collect(),
                counters: i
                    .counters
                    .iter()
                    .map(|c| CountedView {
                        component: c.component.name.clone(),
                        counter: c.counter.clone(),
                        events: c.events,
                        of: c.of,
                        weight: f64::from(c.weight) / 100.0,
                    })
                    .collect(),
                victims: i.victims.iter().map(|v| v.name.clone()).collect(),
                senders: i.senders,
            },
            timeline: i
                .timeline
                .iter()
                .map(|e| TimelineView { at: time(e.at_ns), change: e.change, text: e.text.clone() })
                .collect(),
            notes: i
                .notes
                .iter()
                .map(|n| NoteView { at: time(n.at_ns), by: n.by.clone(), text: n.text.clone() })
                .collect(),
            hurt: None,
        }
    }
}

/// The fabric that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FabricView {
    /// Its name.
    pub name: String,
    /// `srv6` or `ecmp`.
    pub mode: String,
    /// Which version of the specification: ids of different epochs do not mix.
    pub epoch: String,
    /// Disjoint planes.
    pub planes: u32,
    /// Leaves of a plane.
    pub leaves: u32,
    /// Spines of a plane.
    pub spines: u32,
    /// Hosts in all.
    pub hosts: u32,
    /// NICs in all.
    pub nics: u32,
    /// Switches in all.
    pub switches: u32,
    /// Directed links in all.
    pub links: u64,
    /// The specification.
    pub toml: String,
}

/// How one directed link is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkView {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its plane.
    pub plane: u8,
    /// Packets that crossed it in the last 10 s.
    pub sent_10s: u64,
    /// Packets lost on paths over it in the last 10 s, wherever on the path.
    pub lost_10s: u64,
    /// Loss rate charged to the link itself over 10 s.
    pub rate_10s: f64,
    /// As `sent_10s`, over 60 s.
    pub sent_60s: u64,
    /// As `lost_10s`, over 60 s.
    pub lost_60s: u64,
    /// As `rate_10s`, over 60 s.
    pub rate_60s: f64,
    /// Delay above usual charged to it, nanoseconds.
    pub delay_excess_ns: u64,
    /// Open incidents that name it.
    pub incidents: Vec<String>,
}

/// What agents measured on a path over the last 10 to 20 seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeasuredView {
    /// Packets sent.
    pub sent: u64,
    /// Packets lost on it.
    pub lost: u64,
    /// Packets lost there or on the way back, nobody knows which.
    pub lost_round_trip: u64,
    /// `lost / sent`.
    pub rate: f64,
    /// One-way delay of the newest window: smallest, nanoseconds.
    pub delay_min_ns: Option<i64>,
    /// Median.
    pub delay_p50_ns: Option<i64>,
    /// Largest.
    pub delay_max_ns: Option<i64>,
}

/// One hop of a path.
pub type PathHopView = LinkView;

/// One path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathView {
    /// Its id.
    pub id: u64,
    /// The nodes it visits.
    pub name: String,
    /// Its plane.
    pub plane: u8,
    /// Share of packets lost along it, from its links over 10 s.
    pub rate_10s: f64,
    /// The same over 60 s.
    pub rate_60s: f64,
    /// Sum of its links' delays above usual, nanoseconds.
    pub delay_excess_ns: u64,
    /// What was measured on this very path; nothing where nobody probes it.
    pub measured: Option<MeasuredView>,
    /// Link by link.
    pub hops: Vec<LinkView>,
}

/// All paths from one host or NIC to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathsView {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// The paths.
    pub paths: Vec<PathView>,
    /// Paths not listed because there are too many.
    pub omitted: u64,
}

/// The sickest links and paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopView {
    /// When.
    pub at: String,
    /// Open incidents, most confident first.
    pub incidents: Vec<IncidentView>,
    /// Links with loss or delay, the worst first.
    pub links: Vec<LinkView>,
    /// Paths on which packets were lost, the worst first.
    pub paths: Vec<PathView>,
    /// Agents that report, of how many hosts.
    pub agents_reporting: u64,
    /// Hosts of the fabric.
    pub agents_expected: u64,
    /// Observations taken since the hub started.
    pub observations_stored: u64,
    /// Packets in them.
    pub packets: u64,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentView {
    /// Its host.
    pub host: String,
    /// `reporting`, `connected`, `silent` or `away`.
    pub state: String,
    /// Name and version.
    pub software: String,
    /// Last sign of life.
    pub last_heard: String,
    /// Batches taken.
    pub batches: u64,
    /// Observations in them.
    pub observations: u64,
    /// Observations it lost by its own account.
    pub lost: u64,
    /// Its own counters.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// Verdicts of one kind that people judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrecisionRow {
    /// Kind of component and of fault, such as `link loss`; `all` for the sum.
    pub kind: String,
    /// Judged right.
    pub right: u64,
    /// Judged wrong.
    pub wrong: u64,
    /// Judged partly right.
    pub partly: u64,
    /// `(right + partly / 2) / judged`; nothing where none was judged.
    pub precision: Option<f64>,
}

/// How good past verdicts were, as people judged them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrecisionView {
    /// All incidents the hub knows.
    pub incidents: u64,
    /// Of those, judged.
    pub judged: u64,
    /// By kind, the sum first.
    pub rows: Vec<PrecisionRow>,
}

/// Whether the hub is there for agents and people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Serving, and the incident store works.
    pub ready: bool,
    /// Agents with an open stream.
    pub agents_connected: u64,
    /// Agents that sent observations on it.
    pub agents_reporting: u64,
    /// Hosts of the fabric.
    pub agents_expected: u64,
    /// What is wrong, where something is.
    pub problem: Option<String>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}
