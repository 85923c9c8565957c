//! What the lab asks its hub, over plain HTTP on the loopback.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The component an incident blames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blamed {
    /// `link`, `switch`, `nic` or `host`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What the hub says is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The verdict's kind (`loss`, `blackhole`, `delay`, …).
    pub kind: String,
    /// Share of packets hurt, `0 ..= 1`.
    pub rate: f64,
}

/// An incident, as `GET /api/v1/incidents` gives it; what else it says is not needed here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number.
    pub id: String,
    /// `open` or `closed`.
    pub state: String,
    /// The component to blame.
    pub component: Blamed,
    /// Names of components the evidence cannot tell from it.
    pub alternatives: Vec<String>,
    /// What is wrong.
    pub fault: Found,
    /// `0 ..= 1`.
    pub confidence: f64,
    /// RFC 3339.
    pub first_seen: String,
    /// RFC 3339, once it is.
    pub closed_at: Option<String>,
    /// All of it in one line.
    #[serde(default)]
    pub summary: String,
}

impl Incident {
    /// Whether it is over.
    pub fn closed(&self) -> bool {
        self.state == "closed"
    }
    /// The component to blame and those that cannot be told from it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.component.name.as_str()).chain(self.alternatives.iter().map(String::as_str))
    }
}

/// `GET /readyz`.
#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    agents_connected: u64,
    agents_reporting: u64,
    problem: Option<String>,
}

/// Gets a JSON document, also from an answer that says "not now" (503).
fn get<T: DeserializeOwned>(url: &str) -> Result<T> {
    let failed = |said: String| Error::Hub { url: url.to_string(), said };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut answer = agent.get(url).call().map_err(|e| failed(e.to_string()))?;
    let status = answer.status().as_u16();
    if status != 200 && status != 503 {
        return Err(failed(format!("status {status}")));
    }
    answer.body_mut().read_json().map_err(|e| failed(e.to_string()))
}

/// Whether every agent has reported, or is only connected where that is asked; how many have, and what is missing.
pub(crate) fn ready(http: &str, connected: bool) -> Result<(bool, usize, String)> {
    let which = if connected { "connected" } else { "all" };
    let r: Readiness = get(&format!("http://{http}/readyz?agents={which}"))?;
    let there = if connected { r.agents_connected } else { r.agents_reporting };
    Ok((r.ready, there as usize, r.problem.unwrap_or_default()))
}

/// The incidents a hub knows, most confident first. `http` is `127.0.0.1:PORT`.
pub fn incidents(http: &str) -> Result<Vec<Incident>> {
    get(&format!("http://{http}/api/v1/incidents"))
}
