//! Scraping: exporters of the Prometheus text format as a source, above all node_exporter on hosts and switches.
//!
//! How: each target has its turn every so often; the text is read by [`text`], which hands over sample by sample; what
//! [`known`] has a word for becomes that word of a port, what [`Config::keep`] lists is kept as told, the rest is counted.
//! Whether a target answered is itself a number, `up`.
//! Invariants: a body is at most [`Config::body_bytes_max`] and [`Config::samples_max`]; at most [`Config::at_a_time`]
//! targets are asked at once, so that a hundred dead ones hold up no other for longer than their timeouts.
//! Absent on purpose: service discovery and relabelling: targets are named after the fabric's devices, in a file. The
//! crate `prometheus-parse` is not used: it splits labels at commas and braces inside quoted values, drops labels it
//! cannot split without a word, does not undo escapes, and knows no `:` in names.

pub mod known;
pub mod text;

use crate::door::Running;
use crate::error::ReceiveError;
use crate::intake::{Intake, believable, now};
use crate::rows::{Dropped, EntityKind, Metric, Receiver};
use crate::setting::{self, time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use text::{Form, Kind, Sample};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use wire::Nanos;

/// Settings of targets that are asked alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is asked: the device, by a name of the mapping, and where, such as `http://host3:9100/metrics`.
    pub targets: BTreeMap<String, String>,
    /// How often each target is asked, default 15 s; at most 60 s if numbers are to become observations.
    #[serde(with = "time")]
    pub every: Duration,
    /// How long an answer may take, default 10 s.
    #[serde(with = "time")]
    pub timeout: Duration,
    /// Longest body, default 16 MiB.
    pub body_bytes_max: u64,
    /// Most samples of one answer that are kept, default 20,000.
    pub samples_max: usize,
    /// Targets asked at once, default 16.
    pub at_a_time: usize,
    /// Names of metrics that are kept as told, with a `*` at the end for any; default a host's load, memory and pressure,
    /// and what node_exporter says of networks beyond the words this room knows.
    pub keep: Vec<String>,
    /// File with the authorities targets' certificates may come from, PEM; the system's where left out.
    pub ca_file: Option<PathBuf>,
    /// File with the certificate to show them, PEM.
    pub cert_file: Option<PathBuf>,
    /// File with that certificate's key, PEM.
    pub key_file: Option<PathBuf>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let keep = [
            "node_network_*",
            "node_infiniband_*",
            "node_pressure_*",
            "node_load1",
            "node_memory_MemAvailable_bytes",
        ];
        Config {
            targets: BTreeMap::new(),
            every: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            body_bytes_max: 16 << 20,
            samples_max: 20_000,
            at_a_time: 16,
            keep: keep.map(str::to_owned).to_vec(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            token_file: None,
        }
    }
}

/// A time stamp that is older than this is not believed: exporters keep those of what they asked before.
const AGE_MAX: Nanos = Nanos::from_secs(300);

/// Asks one target.
#[derive(Debug)]
pub struct Scraper {
    config: Config,
    device: String,
    url: String,
    agent: ureq::Agent,
    token: Option<String>,
    intake: Arc<Intake>,
}

/// What one turn came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many numbers were kept.
    Up(usize),
    /// It did not answer, or not well; in words.
    Down(String),
}

impl Scraper {
    /// A scraper of a device at an address; `base` is the directory of relative paths.
    pub fn new(
        config: &Config,
        (device, url): (&str, &str),
        base: &Path,
        intake: Arc<Intake>,
    ) -> Result<Scraper, ReceiveError> {
        let wrong =
            |reason: String| ReceiveError::Setting { what: format!("[[scrape]] target {device}"), reason };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(wrong(format!("{url:?}; expected an address that begins with http:// or https://")));
        }
        let token =
            config.token_file.as_ref().map(|f| setting::secret(base, f)).transpose().map_err(wrong)?;
        let read = |f: &PathBuf| setting::bytes(base, f).map_err(wrong);
        let roots = match &config.ca_file {
            None => RootCerts::PlatformVerifier,
            Some(file) => RootCerts::Specific(Arc::new(certificates(&read(file)?).map_err(wrong)?)),
        };
        let client = match (&config.cert_file, &config.key_file) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let key = PrivateKey::from_pem(&read(key)?).map_err(|e| wrong(e.to_string()))?;
                Some(ClientCert::new_with_certs(&certificates(&read(cert)?).map_err(wrong)?, key))
            }
            _ => return Err(wrong("expected `cert_file` and `key_file`, or neither".to_owned())),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .client_cert(client)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(config.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .build();
        let (device, url) = (device.to_owned(), url.to_owned());
        Ok(Scraper { config: config.clone(), device, url, agent: agent.into(), token, intake })
    }

    /// Asks once. Blocks for as long as the answer takes.
    pub fn turn(&self) -> Turn {
        let turn = match self.ask() {
            Ok((form, body)) => self.take(now(), form, &body),
            Err(reason) => Turn::Down(reason),
        };
        let up = f64::from(u8::from(matches!(turn, Turn::Up(_))));
        self.intake.metrics(vec![self.metric(now(), EntityKind::Host, "", "up", up, false)]);
        turn
    }

    fn ask(&self) -> Result<(Form, String), String> {
        let mut request = self.agent.get(&self.url).header("accept", text::ACCEPT);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut answer = request.call().map_err(|e| e.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("answered {}", answer.status()));
        }
        let kind = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("");
        let form = if kind.contains("openmetrics") { Form::OpenMetrics } else { Form::Prometheus };
        let body = answer.body_mut().with_config().limit(self.config.body_bytes_max).read_to_vec();
        match body {
            Ok(body) => Ok((form, String::from_utf8_lossy(&body).into_owned())),
            Err(e) => {
                self.intake.dropped(Receiver::Scrape, Dropped::TooLarge, 1);
                Err(e.to_string())
            }
        }
    }

    fn metric(
        &self,
        at: Nanos,
        kind: EntityKind,
        entity: &str,
        name: &str,
        value: f64,
        cumulative: bool,
    ) -> Metric {
        Metric {
            at,
            window: None,
            source: Receiver::Scrape,
            device: self.device.clone(),
            entity_kind: kind,
            entity: entity.to_owned(),
            name: name.to_owned(),
            value,
            cumulative,
            labels: Vec::new(),
            component: None,
        }
    }

    /// Takes an answer.
    pub fn take(&self, now: Nanos, form: Form, body: &str) -> Turn {
        let mut batch = Vec::new();
        let (mut unwanted, mut many, mut no_number) = (0, 0, 0);
        let malformed = text::parse(body, form, |sample| {
            if !sample.value.is_finite() {
                no_number += 1;
            } else if batch.len() >= self.config.samples_max {
                many += 1;
            } else if let Some(metric) = self.of(now, &sample) {
                batch.push(metric);
            } else {
                unwanted += 1;
            }
        });
        let drops = [
            (Dropped::Malformed, malformed),
            (Dropped::TooMany, many),
            (Dropped::NotWanted, unwanted),
            (Dropped::NoNumber, no_number),
        ];
        for (why, n) in drops.into_iter().filter(|(_, n)| *n > 0) {
            self.intake.dropped(Receiver::Scrape, why, n);
        }
        if malformed > 0 && batch.is_empty() {
            return Turn::Down("the answer is no text of samples".to_owned());
        }
        Turn::Up(self.intake.metrics(batch))
    }

    /// The number of a sample, where it is wanted.
    fn of(&self, now: Nanos, sample: &Sample<'_>) -> Option<Metric> {
        let at = believable(sample.at, now, AGE_MAX);
        if let Some(known) = known::lookup(sample.name) {
            let entity = sample.label(known.label)?;
            let metric = self.metric(
                at,
                EntityKind::Interface,
                entity,
                &known.word,
                sample.value * known.factor,
                known.total,
            );
            return Some(metric);
        }
        let keep = self.config.keep.iter().any(|k| match k.strip_suffix('*') {
            Some(stem) => sample.name.starts_with(stem),
            None => sample.name == k,
        });
        if !keep {
            return None;
        }
        let port = ["device", "interface", "ifname"].iter().find_map(|l| sample.label(l));
        let kind = if port.is_some() { EntityKind::Interface } else { EntityKind::Host };
        let cumulative = sample.kind == Kind::Counter;
        let mut metric = self.metric(at, kind, port.unwrap_or(""), sample.name, sample.value, cumulative);
        metric.labels = sample.labels.iter().map(|(k, v)| ((*k).to_owned(), v.to_string())).collect();
        Some(metric)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let items = ureq::tls::parse_pem(pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(c)) => Some(Ok(c)),
        Ok(_) => None,
        Err(e) => Some(Err(e.to_string())),
    });
    let all: Vec<_> = items.collect::<Result<_, _>>()?;
    if all.is_empty() { Err("expected a certificate, PEM".to_owned()) } else { Ok(all) }
}

/// Begins to ask; it goes on until what is returned is dropped, save answers that are awaited. `base` is the directory of
/// relative paths. To be called within a runtime.
pub fn start(config: &Config, base: &Path, intake: &Arc<Intake>) -> Result<Running, ReceiveError> {
    let mut running = Running::default();
    let slots = Arc::new(Semaphore::new(config.at_a_time.max(1)));
    let count = u32::try_from(config.targets.len()).unwrap_or(u32::MAX).max(1);
    for (n, (device, url)) in (0u32..).zip(&config.targets) {
        let scraper = Arc::new(Scraper::new(config, (device, url), base, Arc::clone(intake))?);
        let slots = Arc::clone(&slots);
        // Targets are spread over the interval.
        let first = tokio::time::Instant::now() + config.every / count * n;
        let mut turns = tokio::time::interval_at(first, config.every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        running.add(async move {
            let mut was_down = false;
            loop {
                turns.tick().await;
                let Ok(_slot) = slots.acquire().await else { return };
                let asking = Arc::clone(&scraper);
                let Ok(turn) = tokio::task::spawn_blocking(move || asking.turn()).await else { return };
                if let Turn::Down(reason) = &turn
                    && !was_down
                {
                    tracing::warn!(device = %scraper.device, url = %scraper.url, reason, "a target is down");
                }
                was_down = matches!(turn, Turn::Down(_));
            }
        });
    }
    Ok(running)
}

#[cfg(test)]
mod tests;
