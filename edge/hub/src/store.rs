//! What the hub keeps: incidents and agents, on top of the tables.
//!
//! How: each change of an incident is a row that holds all of it (`detail`), and the newest row of an id is how it
//! stands; an agent that came or left is a row of what changed. A start reads the newest rows back, a save returns when
//! its rows are durable.
//! Invariants: what [`Store::save`] returned from survives a power cut; a number is given out once, because rows are
//! only added.

use crate::error::StoreError;
use crate::incident::Incident;
use crate::rows::{self, ChangeRow};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tables::arrow::array::{AsArray, RecordBatch};
use tables::arrow::datatypes::Int64Type;
use tables::{Limits, Rows, Tables};
use wire::{HostId, Nanos};

pub(crate) struct Store {
    tables: Arc<Tables>,
    /// Time of the newest incident row: the next ones are later, whatever the clock says.
    last_us: Mutex<i64>,
}

/// What was in the store.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub incidents: Vec<Incident>,
    pub next_number: u64,
    pub agents: Vec<HostId>,
}

const NEWEST: &str = "select id, state, detail, cast(ts as bigint) as at from (select *, row_number() over \
    (partition by id order by ts desc) as nth from incident) where nth = 1";
const AGENTS: &str = "select subject, what from (select *, row_number() over (partition by subject order by ts desc) \
    as nth from change where kind = 'agent') where nth = 1 and what = 'began'";

/// Everything is read at a start, however many rows that is.
const ALL: Limits = Limits { rows: usize::MAX, within: std::time::Duration::from_secs(600) };

impl Store {
    /// Reads what is there. Blocks.
    pub(crate) fn open(tables: Arc<Tables>) -> Result<(Store, Loaded), StoreError> {
        let mut loaded = Loaded { next_number: 1, ..Loaded::default() };
        let mut last_us = 0;
        for batch in tables.ask_blocking(NEWEST, ALL)? {
            let (ids, states, details) = (text(&batch, 0), text(&batch, 1), text(&batch, 2));
            let at = batch.column(3).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let damaged = |reason: String| StoreError::Damaged { id: ids.value(row).to_owned(), reason };
                last_us = last_us.max(at.value(row));
                let number = ids.value(row).strip_prefix("inc-").and_then(|n| n.parse::<u64>().ok());
                let number = number.ok_or_else(|| damaged("expected an id such as inc-12".to_owned()))?;
                loaded.next_number = loaded.next_number.max(number + 1);
                if states.value(row) != "forgotten" {
                    let incident =
                        serde_json::from_str(details.value(row)).map_err(|e| damaged(e.to_string()))?;
                    loaded.incidents.push(incident);
                }
            }
        }
        loaded.incidents.sort_by_key(|i| i.number);
        for batch in tables.ask_blocking(AGENTS, ALL)? {
            let hosts = text(&batch, 0);
            let number = |name: &str| name.strip_prefix("host").and_then(|n| n.parse().ok()).map(HostId);
            loaded.agents.extend((0..batch.num_rows()).filter_map(|row| number(hosts.value(row))));
        }
        loaded.agents.sort();
        Ok((Store { tables, last_us: Mutex::new(last_us) }, loaded))
    }

    /// Writes what changed, and returns when it is durable. An agent's `None` says it left.
    pub(crate) fn save<'a>(
        &self,
        incidents: impl Iterator<Item = &'a Incident>,
        forgotten: &[Incident],
        agents: &BTreeMap<HostId, Option<Nanos>>,
    ) -> Result<(), StoreError> {
        let now = crate::wall();
        let mut all: Vec<(&Incident, bool)> = incidents.map(|i| (i, false)).collect();
        all.extend(forgotten.iter().map(|i| (i, true)));
        let mut parts = Vec::new();
        if !all.is_empty() {
            let mut last = self.last_us.lock().unwrap_or_else(PoisonError::into_inner);
            *last = (*last + 1).max(i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX));
            parts.push(rows::incidents(*last, &all));
        }
        let agents: Vec<ChangeRow> = agents
            .iter()
            .map(|(host, since)| ChangeRow {
                at: now,
                kind: "agent".into(),
                subject: format!("host{}", host.0),
                what: if since.is_some() { "began" } else { "left" }.into(),
                text: if since.is_some() { "its agent was heard of" } else { "its agent left in order" }
                    .to_owned(),
            })
            .collect();
        if !agents.is_empty() {
            parts.push(rows::changes(&agents));
        }
        let ticket = self.tables.append(Rows { producer: None, parts })?;
        Ok(self.tables.durable_blocking(ticket)?)
    }
}

fn text(batch: &RecordBatch, column: usize) -> &tables::arrow::array::StringArray {
    batch.column(column).as_string()
}
