//! What the hub knows, as rows of the tables.
//!
//! How: one function a table, its columns in the order of `tables::schema`. Observations are decoded and checked here
//! as for the diagnosis: what a host may not say is not stored but counted in the ledger.
//! Invariants: rows of a batch = rows for the tables + rows in the ledger's entries of stage `ingest`.

use crate::incident::{Incident, Judgement, kind_word};
use crate::ledger::NOBODY;
use crate::sensed;
use crate::told::Addresses;
use diagnose::LinkHealth;
use fabric::{Device, Fabric, Node};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::arrow::array::{
    ArrayRef, Float64Array, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use tables::schema::{self, Table};
use wire::proto::{Batch, ComponentColumns};
use wire::{
    ClockQuality, Component, ComponentObservation, Counter, Epoch, HostId, Known, Nanos, NicId,
    PathObservation, PathRef, Source, SwitchId, Window,
};

/// A table and rows for it.
pub(crate) type Part = (&'static Table, RecordBatch);

/// Observations that were not stored, or stored and not weighed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub at: Nanos,
    pub producer: HostId,
    pub producer_epoch: u64,
    pub stage: &'static str,
    pub reason: String,
    pub rows: u64,
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeRow {
    pub at: Nanos,
    pub kind: Cow<'static, str>,
    pub subject: String,
    pub what: Cow<'static, str>,
    pub text: String,
}

/// An alert that was sent, or not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlertRow {
    pub at: Nanos,
    pub incident: String,
    pub receiver: String,
    pub status: &'static str,
    pub reopened: u32,
    pub outcome: &'static str,
    pub reason: String,
}

/// Something somebody did, or was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub at: Nanos,
    pub who: String,
    pub role: &'static str,
    pub auth: &'static str,
    pub address: Option<String>,
    pub address_key: Option<String>,
    pub act: &'static str,
    pub subject: String,
    pub outcome: &'static str,
    pub reason: String,
    pub times: u32,
}

pub(crate) fn part(table: &'static Table, columns: Vec<ArrayRef>) -> Part {
    // The columns are this file's own; a table that changed and a function that did not shows in the first test.
    let batch = RecordBatch::try_new(table.row_schema(), columns).unwrap_or_else(|e| {
        tracing::error!(table = table.name, error = %e, "rows do not fit their table");
        RecordBatch::new_empty(table.row_schema())
    });
    (table, batch)
}

pub(crate) fn micros(at: Nanos) -> i64 {
    i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX)
}

pub(crate) fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn may_times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

pub(crate) fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

pub(crate) fn ints(values: impl Iterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

pub(crate) fn longs(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// What fits into 32 bits by its nature, and is cut where a liar says otherwise.
pub(crate) fn int(n: impl TryInto<i32>) -> i32 {
    n.try_into().unwrap_or(i32::MAX)
}

fn known_word(known: Known) -> &'static str {
    match known {
        Known::Exact => "exact",
        Known::Discovered => "discovered",
        Known::Mixture => "mixture",
    }
}

fn source_word(source: Source) -> &'static str {
    match source {
        Source::Probe => "probe",
        Source::Transport => "transport",
        Source::Flow => "flow",
    }
}

fn clock_word(clock: ClockQuality) -> &'static str {
    match clock {
        ClockQuality::Free => "free",
        ClockQuality::Synchronized => "synchronized",
        ClockQuality::Same => "same",
    }
}

/// A batch as rows, and what of it is none, by reason.
pub(crate) struct Sorted {
    pub parts: Vec<Part>,
    pub refused: BTreeMap<&'static str, u64>,
}

/// A window may begin so long after or before the hub's own time. A clock far off would make days of tables of its own,
/// one a row if it likes, and such in the future would never be old enough to go.
const AHEAD_MAX: Nanos = Nanos::from_secs(86_400);
const BEHIND_MAX: Nanos = Nanos::from_secs(30 * 86_400);

/// Whether a window can be of about now.
pub(crate) fn is_of_now(now: Nanos, window: &Window) -> bool {
    let start = window.start.0;
    start <= now.0.saturating_add(AHEAD_MAX.0) && start >= now.0.saturating_sub(BEHIND_MAX.0)
}

/// Decodes a batch into rows, as of `now`.
pub(crate) fn sorted(
    fabric: &Fabric,
    now: Nanos,
    producer: HostId,
    batch: &Batch,
    addresses: &mut Addresses,
) -> Sorted {
    let mut refused: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut refuse = |reason: &'static str, rows: u64| {
        if rows > 0 {
            *refused.entry(reason).or_default() += rows;
        }
    };
    let epoch = Epoch(batch.fabric_epoch);
    let mut parts = Vec::new();
    if let Some(columns) = &batch.paths {
        match wire::batch::paths(columns, producer, epoch) {
            Err(_) => refuse("unequal_columns", columns.window_start_ns.len() as u64),
            Ok(rows) => {
                let mut taken = Vec::with_capacity(columns.window_start_ns.len());
                for row in rows {
                    match row {
                        Err(_) => refuse("bad_row", 1),
                        Ok(o) if epoch == fabric.epoch && !is_own_path(fabric, producer, &o) => {
                            refuse("not_its_path", 1);
                        }
                        Ok(o) if !is_of_now(now, &o.window) => refuse("wrong_time", 1),
                        // More packets than any wire carries in a window.
                        Ok(o) if i32::try_from(o.sent).is_err() => refuse("too_many_packets", 1),
                        Ok(o) => taken.push(o),
                    }
                }
                if !taken.is_empty() {
                    parts.push(paths(&taken, batch.producer_epoch));
                }
            }
        }
    }
    if let Some(columns) = &batch.components {
        match wire::batch::components(columns, producer, epoch) {
            Err(_) => refuse("unequal_columns", columns.window_start_ns.len() as u64),
            Ok(_) if claims_the_hubs(columns) => {
                refuse("not_its_component", columns.window_start_ns.len() as u64);
            }
            Ok(rows) => {
                let mut taken = Vec::with_capacity(columns.window_start_ns.len());
                for row in rows {
                    match row {
                        Err(_) => refuse("bad_row", 1),
                        Ok(o) if !is_own_component(fabric, producer, &o) => refuse("not_its_component", 1),
                        Ok(o) if !is_of_now(now, &o.window) => refuse("wrong_time", 1),
                        Ok(o) => taken.push(o),
                    }
                }
                if !taken.is_empty() {
                    parts.push(counters(fabric, &taken));
                }
            }
        }
    }
    parts.extend(sensed::parts(now, producer, batch, addresses, &mut refuse));
    Sorted { parts, refused }
}

/// A host may report what it sent or what it received, not what happens between others.
pub(crate) fn is_own_path(fabric: &Fabric, producer: HostId, o: &PathObservation) -> bool {
    let path = match o.path {
        PathRef::OneWay(leg) => leg.path,
        PathRef::RoundTrip { forward, .. } => forward.path,
    };
    // An unknown path is for the engine to count.
    fabric.path_parts(path).is_none_or(|(from, to, _)| {
        fabric.nic_parts(from).1 == producer || fabric.nic_parts(to).1 == producer
    })
}

/// Whether an agent is there is for the hub to say, not for agents.
pub(crate) fn claims_the_hubs(columns: &ComponentColumns) -> bool {
    let hubs = [Counter::AgentSilent as u32, Counter::AgentAway as u32];
    columns.counter.iter().any(|n| hubs.contains(n))
}

/// A host may say how long another one held its probes; everything else it counts is about itself.
pub(crate) fn is_own_component(fabric: &Fabric, producer: HostId, o: &ComponentObservation) -> bool {
    match (o.counter, o.component) {
        (Counter::ResponderStall, _) => true,
        (_, Component::Host(h)) => h == producer,
        (_, Component::Nic(n)) => fabric.nic_parts(n).1 == producer,
        (_, Component::Link(_) | Component::Switch(_)) => true,
    }
}

fn paths(rows: &[PathObservation], producer_epoch: u64) -> Part {
    let leg = |o: &PathObservation| match o.path {
        PathRef::OneWay(leg) => (leg, None),
        PathRef::RoundTrip { forward, backward } => (forward, Some(backward)),
    };
    let r = || rows.iter();
    let delay = |f: fn(&wire::DelaySummary) -> i64| -> ArrayRef {
        Arc::new(r().map(|o| o.delay.as_ref().map(f)).collect::<Int64Array>())
    };
    let delay_count = |f: fn(&wire::DelaySummary) -> u32| -> ArrayRef {
        Arc::new(r().map(|o| o.delay.as_ref().map(|d| int(f(d)))).collect::<Int32Array>())
    };
    part(
        &schema::PATH_OBSERVATION,
        vec![
            times(r().map(|o| micros(o.window.start))),
            ints(r().map(|o| int(o.window.length.0 / 1_000))),
            ints(r().map(|o| int(o.producer.0))),
            longs(r().map(|_| producer_epoch.cast_signed())),
            longs(r().map(|o| o.sequence.cast_signed())),
            longs(r().map(|o| o.epoch.0.cast_signed())),
            longs(r().map(|o| leg(o).0.path.0.cast_signed())),
            texts(r().map(|o| known_word(leg(o).0.known))),
            Arc::new(r().map(|o| leg(o).1.map(|b| b.path.0.cast_signed())).collect::<Int64Array>()),
            Arc::new(r().map(|o| leg(o).1.map(|b| known_word(b.known))).collect::<StringArray>()),
            Arc::new(Int8Array::from_iter_values(r().map(|o| o.class.cast_signed()))),
            Arc::new(Int8Array::from_iter_values(r().map(|o| i8::try_from(o.size_log2).unwrap_or(i8::MAX)))),
            ints(r().map(|o| o.entropy.into())),
            ints(r().map(|o| int(o.sent))),
            ints(r().map(|o| int(o.lost))),
            ints(r().map(|o| int(o.reordered))),
            ints(r().map(|o| int(o.ecn_marked))),
            texts(r().map(|o| source_word(o.source))),
            Arc::new(r().map(|o| o.delay.map(|d| clock_word(d.clock))).collect::<StringArray>()),
            delay_count(|d| d.count),
            delay_count(|d| d.over),
            delay(|d| i64::try_from(d.excess_ns).unwrap_or(i64::MAX)),
            delay(|d| d.min_ns),
            delay(|d| d.p50_ns),
            delay(|d| d.max_ns),
        ],
    )
}

fn component_kind(c: Component) -> (&'static str, u32) {
    match c {
        Component::Link(l) => ("link", l.0),
        Component::Switch(s) => ("switch", s.0),
        Component::Nic(n) => ("nic", n.0),
        Component::Host(h) => ("host", h.0),
    }
}

/// A name, or the bare number where an agent of another fabric says one this fabric does not have.
fn component_name(fabric: &Fabric, c: Component) -> String {
    let there = match c {
        Component::Link(l) => l.0 < fabric.link_bound() && fabric.exists(l),
        Component::Switch(s) => s.0 < fabric.switches(),
        Component::Nic(n) => n.0 < fabric.nics(),
        Component::Host(h) => h.0 < fabric.shape.hosts,
    };
    if there { fabric.component_name(c) } else { component_kind(c).1.to_string() }
}

pub(crate) fn counters(fabric: &Fabric, rows: &[ComponentObservation]) -> Part {
    let r = || rows.iter();
    let names: Vec<String> = r().map(|o| component_name(fabric, o.component)).collect();
    let long = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    part(
        &schema::COUNTER,
        vec![
            times(r().map(|o| micros(o.window.start))),
            ints(r().map(|o| int(o.window.length.0 / 1_000))),
            ints(r().map(|o| if o.producer == NOBODY { -1 } else { int(o.producer.0) })),
            longs(r().map(|o| o.epoch.0.cast_signed())),
            texts(r().map(|o| component_kind(o.component).0)),
            ints(r().map(|o| int(component_kind(o.component).1))),
            texts(names.iter().map(String::as_str)),
            texts(r().map(|o| o.counter.name())),
            longs(r().map(|o| long(o.delta))),
            longs(r().map(|o| long(o.of))),
            longs(r().map(|o| long(o.size_ns))),
        ],
    )
}

pub(crate) fn losses(rows: &[Loss]) -> Part {
    let r = || rows.iter();
    part(
        &schema::LOSS_LEDGER,
        vec![
            times(r().map(|l| micros(l.at))),
            ints(r().map(|l| if l.producer == NOBODY { -1 } else { int(l.producer.0) })),
            longs(r().map(|l| l.producer_epoch.cast_signed())),
            texts(r().map(|l| l.stage)),
            texts(r().map(|l| l.reason.as_str())),
            longs(r().map(|l| i64::try_from(l.rows).unwrap_or(i64::MAX))),
        ],
    )
}

pub(crate) fn changes(rows: &[ChangeRow]) -> Part {
    let r = || rows.iter();
    part(
        &schema::CHANGE,
        vec![
            times(r().map(|c| micros(c.at))),
            texts(r().map(|c| &*c.kind)),
            texts(r().map(|c| c.subject.as_str())),
            texts(r().map(|c| &*c.what)),
            texts(r().map(|c| c.text.as_str())),
        ],
    )
}

/// Who was told of what.
pub(crate) fn alerts(rows: &[AlertRow]) -> Part {
    let r = || rows.iter();
    part(
        &schema::ALERT,
        vec![
            times(r().map(|a| micros(a.at))),
            texts(r().map(|a| a.incident.as_str())),
            texts(r().map(|a| a.receiver.as_str())),
            texts(r().map(|a| a.status)),
            ints(r().map(|a| int(a.reopened))),
            texts(r().map(|a| a.outcome)),
            texts(r().map(|a| a.reason.as_str())),
        ],
    )
}

/// What people and programs did.
pub(crate) fn audit(rows: &[AuditRow]) -> Part {
    let r = || rows.iter();
    let may = |of: fn(&AuditRow) -> Option<&str>| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.iter().map(of)))
    };
    part(
        &schema::AUDIT,
        vec![
            times(r().map(|a| micros(a.at))),
            texts(r().map(|a| a.who.as_str())),
            texts(r().map(|a| a.role)),
            texts(r().map(|a| a.auth)),
            may(|a| a.address.as_deref()),
            may(|a| a.address_key.as_deref()),
            texts(r().map(|a| a.act)),
            texts(r().map(|a| a.subject.as_str())),
            texts(r().map(|a| a.outcome)),
            texts(r().map(|a| a.reason.as_str())),
            ints(r().map(|a| int(a.times))),
        ],
    )
}

/// Incidents as they stand at `at_us`; `forgotten` ones say only that.
pub(crate) fn incidents(at_us: i64, rows: &[(&Incident, bool)]) -> Part {
    let r = || rows.iter().map(|(i, _)| *i);
    let state = |(i, forgotten): &(&Incident, bool)| match (*forgotten, i.is_open()) {
        (true, _) => "forgotten",
        (false, true) => "open",
        (false, false) => "closed",
    };
    let owned =
        |f: &dyn Fn(&Incident) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(r().map(f))) };
    let float =
        |f: fn(&Incident) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(r().map(f))) };
    part(
        &schema::INCIDENT,
        vec![
            times(r().map(|_| at_us)),
            owned(&Incident::id),
            texts(rows.iter().map(state)),
            texts(r().map(|i| kind_word(i.component.kind))),
            texts(r().map(|i| i.component.name.as_str())),
            texts(r().map(|i| i.kind.as_str())),
            float(|i| i.rate),
            float(|i| i.confidence),
            times(r().map(|i| micros(Nanos(i.first_seen_ns)))),
            times(r().map(|i| micros(Nanos(i.last_seen_ns)))),
            times(r().map(|i| micros(Nanos(i.opened_at_ns)))),
            may_times(r().map(|i| i.closed_at_ns.map(|t| micros(Nanos(t))))),
            Arc::new(
                r().map(|i| {
                    i.label.as_ref().map(|l| match l.judgement {
                        Judgement::Right => "right",
                        Judgement::Wrong => "wrong",
                        Judgement::Partly => "partly",
                    })
                })
                .collect::<StringArray>(),
            ),
            owned(&Incident::sentence),
            owned(&|i| serde_json::to_string(i).unwrap_or_default()),
        ],
    )
}

pub(crate) fn link_health(fabric: &Fabric, at: Nanos, rows: &[LinkHealth]) -> Part {
    let r = || rows.iter();
    let names: Vec<String> = r().map(|h| fabric.link_name(h.link)).collect();
    let long = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    part(
        &schema::LINK_HEALTH,
        vec![
            times(r().map(|_| micros(at))),
            longs(r().map(|_| fabric.epoch.0.cast_signed())),
            ints(r().map(|h| int(h.link.0))),
            texts(names.iter().map(String::as_str)),
            Arc::new(Int8Array::from_iter_values(r().map(|h| fabric.link_plane(h.link).0.cast_signed()))),
            longs(r().map(|h| long(h.sent_10s))),
            longs(r().map(|h| long(h.lost_10s))),
            Arc::new(Float64Array::from_iter_values(r().map(|h| h.rate_10s))),
            longs(r().map(|h| long(h.delay_excess_ns))),
        ],
    )
}

/// What a fabric is made of.
pub(crate) fn topology(fabric: &Fabric, at: Nanos) -> Vec<Part> {
    let mut entities: Vec<(&str, u32, String, Option<i8>)> = Vec::new();
    for device in fabric.devices() {
        let name = fabric.device_name(device);
        match device {
            Device::Host(h) => entities.push(("host", h.0, name, None)),
            Device::Switch(s) => {
                entities.push((
                    "switch",
                    s.0,
                    name,
                    Some(fabric.switch_parts(SwitchId(s.0)).0.0.cast_signed()),
                ));
            }
        }
    }
    for nic in (0..fabric.nics()).map(NicId).filter(|&n| fabric.nic_exists(n)) {
        entities.push(("nic", nic.0, fabric.nic_name(nic), Some(fabric.nic_parts(nic).0.0.cast_signed())));
    }
    let r = || entities.iter();
    let epoch = fabric.epoch.0.cast_signed();
    let entity = part(
        &schema::ENTITY,
        vec![
            times(r().map(|_| micros(at))),
            longs(r().map(|_| epoch)),
            texts(r().map(|e| e.0)),
            ints(r().map(|e| int(e.1))),
            texts(r().map(|e| e.2.as_str())),
            Arc::new(r().map(|e| e.3).collect::<Int8Array>()),
        ],
    );
    let links: Vec<(u32, String, i8, String, String, i64)> = fabric
        .links()
        .filter_map(|l| {
            let (from, to): (Node, Node) = fabric.link_ends(l)?;
            let rate = i64::try_from(fabric.link_params(l).rate_bps).unwrap_or(i64::MAX);
            let plane = fabric.link_plane(l).0.cast_signed();
            Some((l.0, fabric.link_name(l), plane, fabric.node_name(from), fabric.node_name(to), rate))
        })
        .collect();
    let r = || links.iter();
    let link = part(
        &schema::LINK,
        vec![
            times(r().map(|_| micros(at))),
            longs(r().map(|_| epoch)),
            ints(r().map(|l| int(l.0))),
            texts(r().map(|l| l.1.as_str())),
            Arc::new(Int8Array::from_iter_values(r().map(|l| l.2))),
            texts(r().map(|l| l.3.as_str())),
            texts(r().map(|l| l.4.as_str())),
            longs(r().map(|l| l.5)),
        ],
    );
    vec![entity, link]
}
