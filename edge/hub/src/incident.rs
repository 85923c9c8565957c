//! An incident: a verdict with a name people can say, a history, and what a person thought of it.
//!
//! This is the form that is stored (JSON in the database), with numbers for the engine and names for people.
//! Invariants: `number` is never used twice in one store; [`Incident::verdict`] gives back what
//! [`Incident::new`] was given, so the engine can be told after a restart.

use diagnose::{Event, Evidence, Exemplar, FaultKind, Flap, Tally, Verdict, VerdictId};
use fabric::Fabric;
use serde::{Deserialize, Serialize};
use wire::{Component, HostId, LinkId, Nanos, NicId, SwitchId};

/// Most entries of a timeline; the oldest updates go first.
pub(crate) const TIMELINE_MAX: usize = 64;
/// Most notes of an incident; the oldest go first.
const NOTES_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ComponentKind {
    Link,
    Switch,
    Nic,
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub kind: ComponentKind,
    pub id: u32,
    pub name: String,
}

impl Named {
    pub(crate) fn new(c: Component, fabric: &Fabric) -> Self {
        let (kind, id) = match c {
            Component::Link(l) => (ComponentKind::Link, l.0),
            Component::Switch(s) => (ComponentKind::Switch, s.0),
            Component::Nic(n) => (ComponentKind::Nic, n.0),
            Component::Host(h) => (ComponentKind::Host, h.0),
        };
        Named { kind, id, name: fabric.component_name(c) }
    }
    pub(crate) fn component(&self) -> Component {
        match self.kind {
            ComponentKind::Link => Component::Link(LinkId(self.id)),
            ComponentKind::Switch => Component::Switch(SwitchId(self.id)),
            ComponentKind::Nic => Component::Nic(NicId(self.id)),
            ComponentKind::Host => Component::Host(HostId(self.id)),
        }
    }
}

/// What a counter at one place says for or against a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub component: Named,
    pub counter: String,
    pub events: u64,
    pub of: u64,
    /// Hundredths of a natural unit of the log-likelihood ratio.
    pub weight: i32,
}

impl Counted {
    fn new(c: &diagnose::Counted, fabric: &Fabric) -> Self {
        Counted {
            component: Named::new(c.component, fabric),
            counter: c.counter.name().to_owned(),
            events: c.events,
            of: c.of,
            weight: c.weight,
        }
    }

    /// In the engine's terms; `None` where the counter is of a later release.
    fn counted(&self) -> Option<diagnose::Counted> {
        let counter = wire::Counter::ALL.into_iter().find(|c| c.name() == self.counter)?;
        Some(diagnose::Counted {
            component: self.component.component(),
            counter,
            events: self.events,
            of: self.of,
            weight: self.weight,
        })
    }
}

/// What a person thought of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// The component named was sick.
    Right,
    /// It was not.
    Wrong,
    /// It was part of the truth: a link of the sick switch, or one of two.
    Partly,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub judgement: Judgement,
    pub note: String,
    pub at_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// First verdict.
    Opened,
    /// The verdict got better known or changed.
    Updated,
    /// The fault is over.
    Closed,
    /// It came back.
    Reopened,
    /// A person judged it.
    Labelled,
    /// The hub was started with another fabric, so its ids mean nothing any more.
    FabricChanged,
    /// Somebody looks after it.
    Acknowledged,
    /// It was given to somebody.
    Assigned,
    /// It is not to be told of again until some time.
    Snoozed,
    /// A person closed it.
    ClosedByHand,
    /// A person wrote something down.
    Noted,
}

/// What a person did about an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Acknowledge,
    Assign { to: String },
    Snooze { until_ns: u64 },
    Close { note: String },
    Note { text: String },
    Label { judgement: Judgement, note: String },
}

impl Act {
    /// As the audit table says it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Act::Acknowledge => "acknowledge",
            Act::Assign { .. } => "assign",
            Act::Snooze { .. } => "snooze",
            Act::Close { .. } => "close",
            Act::Note { .. } => "note",
            Act::Label { .. } => "label",
        }
    }

    /// What was said with it.
    pub(crate) fn said(&self) -> String {
        match self {
            Act::Acknowledge => String::new(),
            Act::Assign { to } => format!("to {to}"),
            Act::Snooze { until_ns } => format!("until {}", crate::view::time(*until_ns)),
            Act::Close { note } => note.clone(),
            Act::Note { text } => text.clone(),
            Act::Label { judgement, note } => format!("{judgement:?} {note}").to_lowercase(),
        }
    }
}

/// Who looks after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Care {
    pub acknowledged_by: Option<String>,
    pub acknowledged_at_ns: Option<u64>,
    pub assigned_to: Option<String>,
    pub snoozed_until_ns: Option<u64>,
    pub closed_by: Option<String>,
}

/// What a person wrote down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub at_ns: u64,
    pub by: String,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub at_ns: u64,
    pub change: Change,
    pub text: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTally {
    pub observations: u64,
    pub sent: u64,
    pub hurt: u64,
}

impl From<Tally> for StoredTally {
    fn from(t: Tally) -> Self {
        StoredTally { observations: t.observations, sent: t.sent, hurt: t.hurt }
    }
}
impl From<StoredTally> for Tally {
    fn from(t: StoredTally) -> Self {
        Tally { observations: t.observations, sent: t.sent, hurt: t.hurt }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Incident {
    pub number: u64,
    pub verdict_id: u64,
    pub fabric_epoch: u64,
    pub component: Named,
    pub alternatives: Vec<Named>,
    pub links: Vec<Named>,
    pub kind: String,
    pub rate: f64,
    pub rate_low: f64,
    pub rate_high: f64,
    pub delay_excess_ns: u64,
    pub flap_period_ns: u64,
    pub flap_duty: Option<f64>,
    pub confidence: f64,
    pub first_seen_ns: u64,
    pub last_seen_ns: u64,
    pub opened_at_ns: u64,
    pub closed_at_ns: Option<u64>,
    pub crossing_hurt: StoredTally,
    pub crossing_fine: StoredTally,
    pub elsewhere_hurt: StoredTally,
    pub moments: u32,
    /// (producer, its sequence number)
    pub exemplars: Vec<(u32, u64)>,
    /// Of incidents of before there were any: none.
    #[serde(default)]
    pub counters: Vec<Counted>,
    #[serde(default)]
    pub victims: Vec<Named>,
    #[serde(default)]
    pub senders: u32,
    pub times_reopened: u32,
    pub label: Option<Label>,
    pub timeline: Vec<Entry>,
    #[serde(default)]
    pub care: Care,
    #[serde(default)]
    pub notes: Vec<Written>,
}

impl Incident {
    pub(crate) fn new(number: u64, now: Nanos, verdict: &Verdict, fabric: &Fabric) -> Self {
        let mut incident = Incident {
            number,
            verdict_id: verdict.id.0,
            fabric_epoch: fabric.epoch.0,
            component: Named::new(verdict.component, fabric),
            alternatives: Vec::new(),
            links: Vec::new(),
            kind: String::new(),
            rate: 0.0,
            rate_low: 0.0,
            rate_high: 0.0,
            delay_excess_ns: 0,
            flap_period_ns: 0,
            flap_duty: None,
            confidence: 0.0,
            first_seen_ns: 0,
            last_seen_ns: 0,
            opened_at_ns: now.0,
            closed_at_ns: None,
            crossing_hurt: StoredTally::default(),
            crossing_fine: StoredTally::default(),
            elsewhere_hurt: StoredTally::default(),
            moments: 0,
            exemplars: Vec::new(),
            counters: Vec::new(),
            victims: Vec::new(),
            senders: 0,
            times_reopened: 0,
            label: None,
            timeline: Vec::new(),
            care: Care::default(),
            notes: Vec::new(),
        };
        incident.take(verdict, fabric);
        incident
    }

    /// `inc-12`.
    pub(crate) fn id(&self) -> String {
        format!("inc-{}", self.number)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.closed_at_ns.is_none()
    }

    fn take(&mut self, v: &Verdict, fabric: &Fabric) {
        self.verdict_id = v.id.0;
        self.component = Named::new(v.component, fabric);
        self.alternatives = v.alternatives.iter().map(|&c| Named::new(c, fabric)).collect();
        self.links = v.links.iter().map(|&l| Named::new(Component::Link(l), fabric)).collect();
        self.kind = v.kind.as_str().to_owned();
        // JSON has no number for "not a number"; the engine's invariants keep these finite.
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        (self.rate, self.rate_low, self.rate_high) =
            (finite(v.rate), finite(v.rate_low), finite(v.rate_high));
        self.delay_excess_ns = v.delay_excess_ns;
        self.flap_period_ns = v.flap.map_or(0, |f| f.period.0);
        self.flap_duty = v.flap.map(|f| finite(f.duty));
        self.confidence = finite(v.confidence);
        self.first_seen_ns = v.first_seen.0;
        self.last_seen_ns = v.last_seen.0;
        self.closed_at_ns = v.closed_at.map(|t| t.0);
        self.crossing_hurt = v.evidence.crossing_hurt.into();
        self.crossing_fine = v.evidence.crossing_fine.into();
        self.elsewhere_hurt = v.evidence.elsewhere_hurt.into();
        self.moments = v.evidence.moments;
        self.exemplars = v.evidence.exemplars.iter().map(|e| (e.producer.0, e.sequence)).collect();
        self.counters = v.evidence.counters.iter().map(|c| Counted::new(c, fabric)).collect();
        self.victims = v.evidence.victims.iter().map(|&c| Named::new(c, fabric)).collect();
        self.senders = v.evidence.senders;
    }

    /// What the engine said last, in its own terms.
    pub(crate) fn verdict(&self) -> Verdict {
        Verdict {
            id: VerdictId(self.verdict_id),
            component: self.component.component(),
            alternatives: self.alternatives.iter().map(Named::component).collect(),
            links: self.links.iter().map(|n| LinkId(n.id)).collect(),
            kind: FaultKind::parse(&self.kind).unwrap_or(FaultKind::Loss),
            rate: self.rate,
            rate_low: self.rate_low,
            rate_high: self.rate_high,
            delay_excess_ns: self.delay_excess_ns,
            flap: self.flap_duty.map(|duty| Flap { period: Nanos(self.flap_period_ns), duty }),
            confidence: self.confidence,
            first_seen: Nanos(self.first_seen_ns),
            last_seen: Nanos(self.last_seen_ns),
            closed_at: self.closed_at_ns.map(Nanos),
            evidence: Evidence {
                crossing_hurt: self.crossing_hurt.into(),
                crossing_fine: self.crossing_fine.into(),
                elsewhere_hurt: self.elsewhere_hurt.into(),
                moments: self.moments,
                exemplars: self
                    .exemplars
                    .iter()
                    .map(|&(p, sequence)| Exemplar { producer: HostId(p), sequence })
                    .collect(),
                counters: self.counters.iter().filter_map(Counted::counted).collect(),
                victims: self.victims.iter().map(Named::component).collect(),
                senders: self.senders,
            },
        }
    }

    /// The fault in a few words: `loss of 1.02 % on link p0-leaf1:p0-spine0`.
    pub(crate) fn sentence(&self) -> String {
        let where_ = format!("{} {}", kind_word(self.component.kind), self.component.name);
        let percent = |r: f64| {
            let p = r * 100.0;
            if p >= 99.95 {
                "100 %".to_owned()
            } else if p >= 1.0 {
                format!("{p:.1} %")
            } else {
                format!("{p:.2} %")
            }
        };
        let what = match FaultKind::parse(&self.kind) {
            Some(FaultKind::Loss) => format!("loss of {}", percent(self.rate)),
            Some(FaultKind::Blackhole) => "everything lost".to_owned(),
            Some(FaultKind::SelectiveLoss) => {
                format!("some flows lost wholly ({} of packets)", percent(self.rate))
            }
            Some(FaultKind::Corruption) => format!("corruption of {}", percent(self.rate)),
            Some(FaultKind::Reorder) => format!("reordering of {}", percent(self.rate)),
            Some(FaultKind::EcnMarking) => format!("ECN marks on {}", percent(self.rate)),
            Some(FaultKind::Delay) => format!("{} more delay", Nanos(self.delay_excess_ns)),
            Some(FaultKind::Congestion) => format!(
                "congestion, {} more delay and {} lost",
                Nanos(self.delay_excess_ns),
                percent(self.rate)
            ),
            Some(FaultKind::Flap) => match self.flap_duty {
                Some(duty) => format!(
                    "flapping every {}, bad {} of the time",
                    Nanos(self.flap_period_ns),
                    percent(duty)
                ),
                None => "flapping".to_owned(),
            },
            Some(FaultKind::Incast) => match self.senders {
                0 => "many senders at once fill the queue".to_owned(),
                n => format!("{n} senders at once fill the queue"),
            },
            Some(FaultKind::PfcStorm) => format!("a storm of pauses, {} places held up,", self.victims.len()),
            Some(FaultKind::Wearing) => "ever more frames corrected or refused".to_owned(),
            Some(FaultKind::HostStall) => "the host stalls".to_owned(),
            Some(FaultKind::AgentStopped) => "the agent has stopped".to_owned(),
            None => self.kind.clone(),
        };
        format!("{what} on {where_}")
    }

    /// Takes an event of the engine about this incident. Says whether it is more than a refinement, which must be on
    /// disk before it is announced.
    pub(crate) fn apply(&mut self, now: Nanos, event: &Event, fabric: &Fabric) -> bool {
        let before = (self.component.clone(), self.kind.clone(), self.confidence, self.rate);
        let by_hand = self.closed_at_ns.filter(|_| self.care.closed_by.is_some());
        self.take(event.verdict(), fabric);
        match event {
            // What a person closed stays closed while the same fault goes on.
            Event::Updated(_) | Event::Closed(_) if by_hand.is_some() => {
                self.closed_at_ns = by_hand;
                return false;
            }
            Event::Opened(_) | Event::Reopened(_) => self.care = Care::default(),
            _ => {}
        }
        match event {
            Event::Opened(_) if self.timeline.is_empty() => self.note(now, Change::Opened),
            Event::Opened(_) => self.note(now, Change::Updated),
            Event::Closed(_) => self.note(now, Change::Closed),
            Event::Reopened(_) => {
                self.times_reopened = self.times_reopened.saturating_add(1);
                self.note(now, Change::Reopened);
            }
            Event::Updated(_) => {
                let moved = (self.confidence - before.2).abs() >= 0.1
                    || (self.rate - before.3).abs() > 0.5 * before.3.max(self.rate);
                if before.0 != self.component || before.1 != self.kind || moved {
                    self.note(now, Change::Updated);
                }
                return false;
            }
        }
        true
    }

    pub(crate) fn note(&mut self, now: Nanos, change: Change) {
        let text = match change {
            Change::Opened | Change::Updated | Change::Reopened => {
                format!("{}, confidence {:.2}", self.sentence(), self.confidence)
            }
            Change::Closed => "healed: packets cross it unhurt again".to_owned(),
            Change::Acknowledged
            | Change::Assigned
            | Change::Snoozed
            | Change::ClosedByHand
            | Change::Noted => String::new(),
            Change::FabricChanged => "closed: the hub was started with another fabric".to_owned(),
            Change::Labelled => match &self.label {
                Some(l) if l.note.is_empty() => format!("judged {:?}", l.judgement).to_lowercase(),
                Some(l) => format!("{}: {}", format!("judged {:?}", l.judgement).to_lowercase(), l.note),
                None => "judgement withdrawn".to_owned(),
            },
        };
        self.tell(now, change, text);
    }

    fn tell(&mut self, now: Nanos, change: Change, text: String) {
        if self.timeline.len() >= TIMELINE_MAX {
            let oldest_update = self.timeline.iter().position(|e| e.change == Change::Updated);
            self.timeline.remove(oldest_update.unwrap_or(1));
        }
        self.timeline.push(Entry { at_ns: now.0, change, text });
    }
}

impl Incident {
    /// A person did something about it.
    pub(crate) fn act(&mut self, now: Nanos, by: &str, act: Act) {
        let note = |text: String| Written { at_ns: now.0, by: by.to_owned(), text };
        match act {
            Act::Acknowledge => {
                self.care.acknowledged_by = Some(by.to_owned());
                self.care.acknowledged_at_ns = Some(now.0);
                self.tell(now, Change::Acknowledged, format!("{by} looks after it"));
            }
            Act::Assign { to } => {
                self.tell(now, Change::Assigned, format!("{by} gave it to {to}"));
                self.care.assigned_to = Some(to);
            }
            Act::Snooze { until_ns } => {
                self.care.snoozed_until_ns = Some(until_ns);
                let until = crate::view::time(until_ns);
                self.tell(now, Change::Snoozed, format!("{by} wants no alert before {until}"));
            }
            Act::Close { note: text } => {
                self.closed_at_ns = self.closed_at_ns.or(Some(now.0));
                self.care.closed_by = Some(by.to_owned());
                self.tell(now, Change::ClosedByHand, format!("closed by {by}"));
                if !text.is_empty() {
                    self.notes.push(note(text));
                }
            }
            Act::Note { text } => {
                self.notes.push(note(text));
                self.tell(now, Change::Noted, format!("{by} wrote a note"));
            }
            Act::Label { judgement, note } => {
                self.label = Some(Label { judgement, note, at_ns: now.0 });
                self.note(now, Change::Labelled);
            }
        }
        if self.notes.len() > NOTES_MAX {
            self.notes.remove(0);
        }
    }
}

pub(crate) fn kind_word(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::Link => "link",
        ComponentKind::Switch => "switch",
        ComponentKind::Nic => "nic",
        ComponentKind::Host => "host",
    }
}
