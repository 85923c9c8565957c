//! The audit table: who did what, and who was refused.
//!
//! How: an act is written before it is done and is done only when that is durable; what was refused is summed for a
//! second, by everything but the time, so that a flood of refusals is a few rows that say how many.
//! Invariants: an act that is not written down is not done; at most [`KINDS_MAX`] kinds of refusals wait, what is more
//! is one row that names nobody; an address is written as its pseudonym only.

use super::address::Pseudonyms;
use crate::metrics::{Metrics, Why};
use crate::rows::{self, AuditRow};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tables::{Rows, Tables, TablesError};

const KINDS_MAX: usize = 1_024;
const TEXT_MAX: usize = 4_000;

/// Who did something, from where.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct By {
    pub who: String,
    pub role: &'static str,
    pub auth: &'static str,
    pub address: Option<IpAddr>,
}

/// What was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refused {
    by: By,
    act: &'static str,
    subject: String,
    why: &'static str,
}

pub(crate) struct Audit {
    tables: Arc<Tables>,
    metrics: Arc<Metrics>,
    pub pseudonyms: Pseudonyms,
    refused: Mutex<BTreeMap<Refused, u32>>,
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(TEXT_MAX).collect()
}

impl Audit {
    pub(crate) fn new(tables: Arc<Tables>, metrics: Arc<Metrics>, pseudonyms: Pseudonyms) -> Self {
        Audit { tables, metrics, pseudonyms, refused: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Refused, u32>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(
        &self,
        by: &By,
        act: &'static str,
        subject: &str,
        outcome: &'static str,
        reason: &str,
    ) -> AuditRow {
        AuditRow {
            at: crate::wall(),
            who: by.who.clone(),
            role: by.role,
            auth: by.auth,
            address: by.address.map(|a| self.pseudonyms.of(a)),
            address_key: by.address.map(|_| self.pseudonyms.key_id().to_owned()),
            act,
            subject: cut(subject),
            outcome,
            reason: cut(reason),
            times: 1,
        }
    }

    /// Writes down that something is done; returns once that is durable.
    pub(crate) async fn done(
        &self,
        by: &By,
        act: &'static str,
        subject: &str,
        said: &str,
    ) -> Result<(), TablesError> {
        let row = self.row(by, act, subject, "done", said);
        let ticket = self.tables.append(Rows { producer: None, parts: vec![rows::audit(&[row])] })?;
        self.tables.durable(ticket).await
    }

    /// Counts that something was refused; it is written within a second.
    pub(crate) fn refused(&self, by: By, act: &'static str, subject: &str, why: &'static str) {
        self.metrics.refused.get_or_create(&Why { reason: why }).inc();
        let mut refused = self.lock();
        let mut key = Refused { by, act, subject: cut(subject), why };
        if refused.len() >= KINDS_MAX && !refused.contains_key(&key) {
            key = Refused { by: By::default(), act, subject: String::new(), why };
        }
        let times = refused.entry(key).or_default();
        *times = times.saturating_add(1);
    }

    /// Hands the refusals that came together to the tables.
    pub(crate) fn write(&self) {
        let refused = std::mem::take(&mut *self.lock());
        if refused.is_empty() {
            return;
        }
        let row = |(r, &times): (&Refused, &u32)| AuditRow {
            times,
            ..self.row(&r.by, r.act, &r.subject, "refused", r.why)
        };
        let all: Vec<AuditRow> = refused.iter().map(row).collect();
        if self.tables.append(Rows { producer: None, parts: vec![rows::audit(&all)] }).is_err() {
            let mut waiting = self.lock();
            for (key, times) in refused {
                let sum = waiting.entry(key).or_default();
                *sum = sum.saturating_add(times);
            }
        }
    }
}
