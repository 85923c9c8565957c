//! gNMI (openconfig, 0.10): we ask switches, and they tell of ports, queues, optics and neighbours.
//!
//! How: a task a device keeps a connection; each subscription is a stream of its own on it, so that a device that refuses
//! one path still tells the others. What comes is taken apart by [`known`]: a table from paths of openconfig and of SONiC's
//! counter database to the words of this room; other numbers are kept under their path.
//! Invariants: a message is at most [`Config::message_bytes_max`]; what is read is taken at once, so that a slow hub costs
//! rows, counted, and never memory; a connection that breaks is made again after 1 s, doubled up to a minute; a device is
//! trusted by an authority that is named, and without encryption only where `insecure` is set.
//! Absent on purpose: Capabilities, Get and Set, POLL, dial-out, and certificates that are not checked.

pub mod known;
pub mod session;
pub mod value;

/// Messages, client and server, generated from `proto/gnmi.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/gnmi.rs"));
}

use crate::door::Running;
use crate::error::ReceiveError;
use crate::intake::Intake;
use crate::setting::{self, time};
use serde::{Deserialize, Serialize};
use session::Session;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Settings of devices that are asked alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who is asked: the device, by a name of the mapping, and where it is, `name:port`.
    pub targets: BTreeMap<String, String>,
    /// Without encryption, default false.
    pub insecure: bool,
    /// File with the authorities devices' certificates may come from, PEM. Needed unless `insecure`.
    pub ca_file: Option<PathBuf>,
    /// The name in their certificates, default that of the address.
    pub server_name: Option<String>,
    /// File with the certificate to show them, PEM.
    pub cert_file: Option<PathBuf>,
    /// File with that certificate's key, PEM.
    pub key_file: Option<PathBuf>,
    /// Name to log in with.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// How values are written, default proto.
    pub encoding: Encoding,
    /// Longest message, default 4 MiB.
    pub message_bytes_max: usize,
    /// A time stamp that is older than this is not believed, default 30 s.
    #[serde(with = "time")]
    pub clock_error_max: Duration,
    /// What is asked; default openconfig's counters, states, queues, optics and neighbours.
    #[serde(rename = "subscription")]
    pub subscriptions: Vec<Subscription>,
}

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Each leaf as itself.
    #[default]
    Proto,
    /// JSON with names as in RFC 7951.
    JsonIetf,
    /// JSON as openconfig began with.
    Json,
}

/// When a device tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every so often.
    #[default]
    Sample,
    /// When it changes, and every so often besides.
    OnChange,
    /// As the device thinks best.
    TargetDefined,
    /// Asked once every so often (the list mode ONCE), for devices that cannot stream.
    Once,
}

fn every() -> Duration {
    Duration::from_secs(10)
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The path, such as `/interfaces/interface[name=*]/state/counters`.
    pub path: String,
    /// When it is told, default sample.
    #[serde(default)]
    pub mode: Mode,
    /// How often, default 10 s; with `on_change` the heartbeat.
    #[serde(default = "every", with = "time")]
    pub every: Duration,
    /// The origin of the path, default none, which means openconfig.
    #[serde(default)]
    pub origin: String,
    /// The target in the prefix, such as `COUNTERS_DB` on SONiC, default none.
    #[serde(default)]
    pub prefix_target: String,
}

impl Default for Config {
    fn default() -> Self {
        let ask = |path: &str, mode, seconds| Subscription {
            path: path.to_owned(),
            mode,
            every: Duration::from_secs(seconds),
            origin: String::new(),
            prefix_target: String::new(),
        };
        Config {
            targets: BTreeMap::new(),
            insecure: false,
            ca_file: None,
            server_name: None,
            cert_file: None,
            key_file: None,
            username: None,
            password_file: None,
            encoding: Encoding::default(),
            message_bytes_max: 4 << 20,
            clock_error_max: Duration::from_secs(30),
            subscriptions: vec![
                ask("/interfaces/interface[name=*]/state/counters", Mode::Sample, 10),
                ask("/interfaces/interface[name=*]/state/oper-status", Mode::OnChange, 60),
                ask("/interfaces/interface[name=*]/ethernet/state/counters", Mode::Sample, 10),
                ask(
                    "/qos/interfaces/interface[interface-id=*]/output/queues/queue[name=*]/state",
                    Mode::Sample,
                    10,
                ),
                ask("/components/component[name=*]/transceiver", Mode::Sample, 60),
                ask("/lldp/interfaces/interface[name=*]/neighbors/neighbor[id=*]/state", Mode::Sample, 60),
            ],
        }
    }
}

/// Subscriptions of one device.
const SUBSCRIPTIONS_MAX: usize = 64;

/// Begins to ask; it goes on until what is returned is dropped. `base` is the directory of relative paths. To be called
/// within a runtime.
pub fn start(config: &Config, base: &Path, intake: &Arc<Intake>) -> Result<Running, ReceiveError> {
    let mut running = Running::default();
    let sessions: Result<Vec<Session>, ReceiveError> = config
        .targets
        .iter()
        .map(|(device, at)| Session::new(config, (device, at), base, Arc::clone(intake)))
        .collect();
    for session in sessions? {
        running.add(session.run());
    }
    Ok(running)
}

/// Whether settings go together.
fn check(config: &Config) -> Result<(), String> {
    let asked = config.subscriptions.len();
    if asked == 0 || asked > SUBSCRIPTIONS_MAX {
        return Err(format!("{asked} subscriptions; expected 1 to {SUBSCRIPTIONS_MAX}"));
    }
    if !config.insecure && config.ca_file.is_none() {
        return Err("expected `ca_file`, or `insecure = true` where there is no encryption".to_owned());
    }
    if config.insecure && (config.ca_file.is_some() || config.cert_file.is_some()) {
        return Err("`insecure` with certificates; expected one of the two".to_owned());
    }
    if config.cert_file.is_some() != config.key_file.is_some() {
        return Err("expected `cert_file` and `key_file`, or neither".to_owned());
    }
    if config.username.is_some() != config.password_file.is_some() {
        return Err("expected `username` and `password_file`, or neither".to_owned());
    }
    Ok(())
}

/// Reads a path such as `/a/b[k=v][l=*]/c`; a `]` or `\` in a value stands behind a `\`.
pub fn path(text: &str) -> Option<proto::Path> {
    let mut elem = Vec::new();
    let mut rest = text.strip_prefix('/')?;
    while !rest.is_empty() {
        let end = rest.find(['/', '[']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        if name.is_empty() {
            return None;
        }
        let mut key = std::collections::HashMap::new();
        rest = behind;
        while let Some(inside) = rest.strip_prefix('[') {
            let (name, value) = inside.split_once('=')?;
            let mut plain = String::new();
            let mut escaped = false;
            let end = value.char_indices().find_map(|(i, c)| match (escaped, c) {
                (false, '\\') => {
                    escaped = true;
                    None
                }
                (false, ']') => Some(i),
                _ => {
                    escaped = false;
                    plain.push(c);
                    None
                }
            })?;
            key.insert(name.to_owned(), plain);
            rest = value.get(end + 1..)?;
        }
        elem.push(proto::PathElem { name: name.to_owned(), key });
        if let Some(next) = rest.strip_prefix('/') {
            rest = next;
        } else if !rest.is_empty() {
            return None;
        }
    }
    Some(proto::Path { elem, ..proto::Path::default() })
}

/// What to log in with.
fn credentials(config: &Config, base: &Path) -> Result<Option<(String, String)>, String> {
    match (&config.username, &config.password_file) {
        (Some(name), Some(file)) => Ok(Some((name.clone(), setting::secret(base, file)?))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
