//! Telling people and programs of incidents: webhooks, and Alertmanager.
//!
//! How: a file names the receivers. Each has a task that looks at the incidents once a second, sends what is due
//! ([`due`], which is pure), and writes to the table `alert` what it sent; after a start that table says what was told, so
//! that nothing is told twice because a hub died. A webhook gets the same JSON as Alertmanager's webhooks (version 4), so
//! that what takes those takes ours, with a signature; Alertmanager gets its own API (v2) and groups, silences and repeats
//! by its own rules.
//! Invariants: incidents that come together are told together; a snoozed incident is not told; one somebody
//! acknowledged is not repeated; whoever was told that it began is told that it ended; a receiver that does not answer is
//! tried again, holds up no other, and what it missed is told by how things stand then.

use crate::api::Api;
use crate::config::Config;
use crate::guard::access::{AccessError, hex, secret};
use crate::guard::changed;
use crate::incident::{Change, Incident, kind_word};
use crate::metrics::{Metrics, Receiver as ReceiverLabel};
use crate::rows::{self, AlertRow};
use crate::view::time;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tables::arrow::array::AsArray as _;
use tables::arrow::datatypes::Int64Type;
use tables::{Limits, Rows, Tables, TablesError};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Alertmanager takes an alert for over when it is not told again for five minutes.
const REFRESH: Duration = Duration::from_secs(60);
const GOOD_FOR: Duration = Duration::from_secs(300);
/// Most incidents in one message; the rest go with the next.
const TOGETHER_MAX: usize = 100;

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name, in the table and the counters.
    pub name: String,
    /// Where messages go.
    pub url: String,
    /// File with the secret they are signed with, beside the alerts file.
    pub secret_file: PathBuf,
}

/// An Alertmanager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alertmanager {
    /// Its name, in the table and the counters.
    pub name: String,
    /// Where it is, such as `http://127.0.0.1:9093`.
    pub url: String,
    /// File with a bearer token for it, beside the alerts file.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

fn group_wait() -> String {
    "10s".to_owned()
}
fn repeat() -> String {
    "4h".to_owned()
}

/// The alerts file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    /// This hub as people reach it, such as `https://hub.example`: what messages link to.
    pub public_url: String,
    /// What begins within this time is told together, default 10 s.
    #[serde(default = "group_wait")]
    pub group_wait: String,
    /// An incident that is still open and nobody acknowledged is told again after this, default 4 h.
    #[serde(default = "repeat")]
    pub repeat: String,
    /// Webhooks.
    #[serde(default, rename = "webhook")]
    pub webhooks: Vec<Webhook>,
    /// Alertmanagers.
    #[serde(default, rename = "alertmanager")]
    pub alertmanagers: Vec<Alertmanager>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Webhook { secret: String },
    Alertmanager { token: Option<String> },
}

/// One receiver, ready to use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Receiver {
    name: String,
    url: String,
    way: Way,
    public_url: String,
    group_wait: Duration,
    repeat: Duration,
}

fn receivers(path: &Path) -> Result<Vec<Receiver>, AccessError> {
    let wrong = |reason: String| AccessError { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let alerts: Alerts = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let duration = |of: &str, text: &str| {
        humantime::parse_duration(text)
            .map_err(|_| wrong(format!("{of} is {text:?}, expected a time such as 10s or 4h")))
    };
    let url = |of: &str, url: &str| {
        let good = url.starts_with("https://") || url.starts_with("http://");
        if good {
            Ok(url.trim_end_matches('/').to_owned())
        } else {
            Err(wrong(format!("{of} is {url:?}, expected an address that begins with https:// or http://")))
        }
    };
    let (group_wait, repeat) =
        (duration("group_wait", &alerts.group_wait)?, duration("repeat", &alerts.repeat)?);
    let public_url = url("public_url", &alerts.public_url)?;
    let mut out = Vec::new();
    let mut put = |name: &str, at: &str, way: Way| {
        let url = url(name, at)?;
        if out.iter().any(|r: &Receiver| r.name == name) || name.is_empty() || name.len() > 64 {
            return Err(wrong(format!("receiver {name:?}: expected a name of its own, at most 64 bytes")));
        }
        out.push(Receiver {
            name: name.to_owned(),
            url,
            way,
            public_url: public_url.clone(),
            group_wait,
            repeat,
        });
        Ok(())
    };
    for w in &alerts.webhooks {
        put(&w.name, &w.url, Way::Webhook { secret: secret(path, &w.secret_file).map_err(wrong)? })?;
    }
    for a in &alerts.alertmanagers {
        let token = a.token_file.as_ref().map(|f| secret(path, f)).transpose().map_err(wrong)?;
        put(&a.name, &a.url, Way::Alertmanager { token })?;
    }
    Ok(out)
}

/// What was told of an incident last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    firing: bool,
    at_ns: u64,
    /// How often it had been opened then.
    reopened: u32,
}

/// What is due to be told now: numbers of incidents, and whether they begin (or go on) or end.
///
/// What begins waits for `group_wait` so that more may join it; with the first that has waited everything goes.
fn due(
    now_ns: u64,
    incidents: &BTreeMap<u64, Incident>,
    told: &BTreeMap<u64, Told>,
    group_wait: Duration,
    repeat: Duration,
) -> Vec<(u64, bool)> {
    let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let mut all = Vec::new();
    let mut ripe = false;
    for (&number, i) in incidents {
        let before = told.get(&number);
        let snoozed = i.care.snoozed_until_ns.is_some_and(|until| until > now_ns);
        let firing = i.is_open() && !snoozed;
        let (is_due, since_ns) = match before {
            // Never told, and over or snoozed: nobody needs to hear of it.
            None => (firing, i.opened_at_ns),
            Some(t) if t.firing && !i.is_open() => (true, i.closed_at_ns.unwrap_or(now_ns)),
            Some(t) if t.firing && firing => {
                let again = i.care.acknowledged_by.is_none() && now_ns.saturating_sub(t.at_ns) >= ns(repeat);
                (again, t.at_ns)
            }
            Some(t) if !t.firing && firing => {
                let again = i.timeline.iter().rev().find(|e| e.change == Change::Reopened);
                (i.times_reopened > t.reopened, again.map_or(t.at_ns, |e| e.at_ns))
            }
            Some(_) => (false, now_ns),
        };
        if is_due {
            ripe |= now_ns.saturating_sub(since_ns) >= ns(group_wait);
            all.push((number, i.is_open()));
        }
    }
    if !ripe {
        all.clear();
    }
    all.truncate(TOGETHER_MAX);
    all
}

/// An incident as an alert.
fn alert(i: &Incident, fabric: &str, public_url: &str, now_ns: u64, ends_ns: Option<u64>) -> Value {
    let severity = if i.kind == "blackhole" || i.rate >= 0.5 { "critical" } else { "warning" };
    let url = format!("{public_url}/incidents/{}", i.id());
    let mut alert = json!({
        "labels": {
            "alertname": "SelvedgeIncident", "incident": i.id(), "fabric": fabric, "component": i.component.name,
            "component_kind": kind_word(i.component.kind), "fault": i.kind, "severity": severity,
        },
        "annotations": {
            "summary": i.sentence(),
            "confidence": format!("{:.2}", i.confidence),
            "guide": format!("{url}#guide"),
        },
        "startsAt": time(i.opened_at_ns),
        "generatorURL": url,
    });
    if let Some(ends) = ends_ns {
        alert["endsAt"] = json!(time(ends.max(i.opened_at_ns)));
    }
    alert["updatedAt"] = json!(time(now_ns));
    alert
}

/// A message in the form of Alertmanager's webhooks.
fn message(receiver: &Receiver, fabric: &str, now_ns: u64, which: &[(&Incident, bool)]) -> Value {
    let firing = which.iter().any(|(_, firing)| *firing);
    let word = |firing: bool| if firing { "firing" } else { "resolved" };
    let alerts: Vec<Value> = which
        .iter()
        .map(|(i, firing)| {
            let mut a = alert(i, fabric, &receiver.public_url, now_ns, i.closed_at_ns);
            a["status"] = json!(word(*firing));
            a["fingerprint"] = json!(format!("{fabric}-{}", i.id()));
            a
        })
        .collect();
    json!({
        "version": "4", "groupKey": format!("{{}}:{{fabric=\"{fabric}\"}}"), "truncatedAlerts": 0,
        "status": word(firing), "receiver": receiver.name, "groupLabels": { "fabric": fabric },
        "commonLabels": { "alertname": "SelvedgeIncident", "fabric": fabric }, "commonAnnotations": {},
        "externalURL": receiver.public_url, "alerts": alerts,
    })
}

/// Sends something; what went wrong in a few words, none of them secret.
pub(crate) fn post(url: &str, headers: &[(&str, String)], body: &[u8]) -> Result<(), String> {
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_WITHIN))
        .http_status_as_error(false)
        .max_redirects(0)
        .tls_config(tls)
        .build();
    let agent: ureq::Agent = config.into();
    let mut request = agent.post(url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    match request.send(body) {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("answered {}", answer.status())),
        Err(e) => Err(e.to_string()),
    }
}

impl Receiver {
    fn send(&self, now_ns: u64, body: &Value) -> Result<(), String> {
        let body = body.to_string();
        let json = ("content-type", "application/json".to_owned());
        match &self.way {
            Way::Webhook { secret } => {
                // The same signature hooks of ours take: seconds, a full stop, the body.
                let seconds = now_ns / 1_000_000_000;
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                let mac = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
                let hex = hex(mac.as_ref());
                let signature = ("x-selvedge-signature", format!("t={seconds},v1={hex}"));
                post(&self.url, &[json, signature], body.as_bytes())
            }
            Way::Alertmanager { token } => {
                let token = token.iter().map(|t| ("authorization", format!("Bearer {t}")));
                let headers: Vec<_> = std::iter::once(json).chain(token).collect();
                post(&format!("{}/api/v2/alerts", self.url), &headers, body.as_bytes())
            }
        }
    }
}

/// What a receiver was told, as the table has it.
async fn told(tables: &Tables, receiver: &str) -> Result<BTreeMap<u64, Told>, TablesError> {
    let name = receiver.replace('\'', "''");
    let sql = format!(
        "select incident, status, cast(ts as bigint), cast(reopened as bigint) from (select *, row_number() over \
         (partition by incident order by ts desc) as n from alert where receiver = '{name}' and outcome = 'sent') \
         where n = 1"
    );
    let limits = Limits { rows: 100_000, within: Duration::from_secs(60) };
    let mut out = BTreeMap::new();
    for batch in tables.ask(&sql, limits).await?.all().await? {
        let (ids, words) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let (at, reopened) =
            (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let Some(number) = ids.value(row).strip_prefix("inc-").and_then(|n| n.parse().ok()) else {
                continue;
            };
            let told = Told {
                firing: words.value(row) == "firing",
                at_ns: u64::try_from(at.value(row)).unwrap_or(0).saturating_mul(1_000),
                reopened: u32::try_from(reopened.value(row)).unwrap_or(0),
            };
            out.insert(number, told);
        }
    }
    Ok(out)
}

/// What one receiver's task knows.
struct Telling {
    api: Api,
    receiver: Receiver,
    told: BTreeMap<u64, Told>,
    /// Alertmanager: when it was told how things stand.
    refreshed_ns: u64,
    failing: bool,
}

impl Telling {
    fn metrics(&self) -> &Metrics {
        &self.api.metrics
    }

    /// Sends what is due; whether it was taken.
    async fn look(&mut self, now_ns: u64) -> Result<(), String> {
        let incidents: BTreeMap<u64, Incident> = {
            let published = self.api.keeper.published();
            // What is no longer listed cannot be told.
            self.told.retain(|n, _| published.contains_key(n));
            // Of the many that are over only those somebody waits for.
            let awaited = |n: &u64| self.told.get(n).is_some_and(|t| t.firing);
            let all = published.iter().filter(|(n, i)| i.is_open() || awaited(n));
            all.map(|(n, i)| (*n, i.clone())).collect()
        };
        let (wait, repeat) = match self.receiver.way {
            Way::Webhook { .. } => (self.receiver.group_wait, self.receiver.repeat),
            // It waits and repeats by its own rules.
            Way::Alertmanager { .. } => (Duration::ZERO, Duration::MAX),
        };
        let due = due(now_ns, &incidents, &self.told, wait, repeat);
        let fabric = self.api.fabric.name.clone();
        let refresh = now_ns.saturating_sub(self.refreshed_ns) >= REFRESH.as_nanos() as u64;
        let body = match self.receiver.way {
            Way::Webhook { .. } if due.is_empty() => return Ok(()),
            Way::Webhook { .. } => {
                let which: Vec<(&Incident, bool)> =
                    due.iter().filter_map(|(n, firing)| Some((incidents.get(n)?, *firing))).collect();
                message(&self.receiver, &fabric, now_ns, &which)
            }
            Way::Alertmanager { .. } => {
                let until = now_ns + GOOD_FOR.as_nanos() as u64;
                let mut which: BTreeSet<u64> = due.iter().map(|d| d.0).collect();
                if refresh {
                    which.extend(self.told.iter().filter(|(_, t)| t.firing).map(|(n, _)| *n));
                }
                let alerts: Vec<Value> = which
                    .iter()
                    .filter_map(|n| {
                        let i = incidents.get(n)?;
                        let snoozed = i.care.snoozed_until_ns.is_some_and(|at| at > now_ns);
                        let ends = i.closed_at_ns.unwrap_or(if snoozed { now_ns } else { until });
                        Some(alert(i, &fabric, &self.receiver.public_url, now_ns, Some(ends)))
                    })
                    .collect();
                if alerts.is_empty() {
                    self.refreshed_ns = now_ns;
                    return Ok(());
                }
                Value::Array(alerts)
            }
        };
        let receiver = self.receiver.clone();
        let sent = tokio::task::spawn_blocking(move || receiver.send(now_ns, &body));
        let sent = sent.await.unwrap_or_else(|e| Err(e.to_string()));
        let label = ReceiverLabel { receiver: self.receiver.name.clone() };
        match &sent {
            Ok(()) => {
                self.metrics().alerts_sent.get_or_create(&label).inc_by(due.len() as u64);
                self.refreshed_ns = now_ns;
            }
            Err(_) => {
                self.metrics().alerts_failed.get_or_create(&label).inc();
            }
        }
        // The first failure of several is written, and every success.
        if sent.is_ok() || !self.failing {
            self.write(now_ns, &incidents, &due, sent.as_ref().err()).await;
        }
        self.failing = sent.is_err();
        if sent.is_ok() {
            for (number, firing) in due {
                let reopened = incidents.get(&number).map_or(0, |i| i.times_reopened);
                self.told.insert(number, Told { firing, at_ns: now_ns, reopened });
            }
        }
        sent
    }

    async fn write(
        &self,
        now_ns: u64,
        incidents: &BTreeMap<u64, Incident>,
        due: &[(u64, bool)],
        failed: Option<&String>,
    ) {
        let rows: Vec<AlertRow> = due
            .iter()
            .map(|(n, firing)| AlertRow {
                at: wire::Nanos(now_ns),
                incident: format!("inc-{n}"),
                receiver: self.receiver.name.clone(),
                status: if *firing { "firing" } else { "resolved" },
                reopened: incidents.get(n).map_or(0, |i| i.times_reopened),
                outcome: if failed.is_none() { "sent" } else { "failed" },
                reason: failed.cloned().unwrap_or_default(),
            })
            .collect();
        let part = rows::alerts(&rows);
        // Without the row it may be told again after a restart: better twice than never.
        if let Ok(ticket) = self.api.tables.append(Rows { producer: None, parts: vec![part] }) {
            let _ = self.api.tables.durable(ticket).await;
        }
    }

    async fn run(mut self) {
        let mut pause = LOOK_EVERY;
        loop {
            tokio::time::sleep(pause).await;
            match self.look(crate::wall().0).await {
                Ok(()) => pause = LOOK_EVERY,
                Err(e) => {
                    if pause == LOOK_EVERY {
                        tracing::error!(
                            receiver = self.receiver.name,
                            error = e,
                            "an alert is not taken; trying again"
                        );
                    }
                    pause = (pause * 2).clamp(BACKOFF.0, BACKOFF.1);
                }
            }
        }
    }
}

/// Tells the receivers of a file, as it is now.
pub(crate) async fn keep(api: Api, config: Arc<Config>) {
    let Some(path) = config.alerts.clone() else { return };
    let mut running = tokio::task::JoinSet::new();
    let mut current: Vec<Receiver> = Vec::new();
    let mut seen = None;
    loop {
        changed(&path, &mut seen).await;
        match receivers(&path) {
            Err(e) => {
                tracing::error!(error = %e, "the alerts file is wrong; what was told before is told on")
            }
            Ok(new) if new == current => {}
            Ok(new) => {
                tracing::info!(receivers = new.len(), "the alerts file is read");
                running.shutdown().await;
                current = new;
                for receiver in &current {
                    let told = loop {
                        match told(&api.tables, &receiver.name).await {
                            Ok(told) => break told,
                            Err(e) => {
                                tracing::error!(error = %e, "what was told before is not known; trying again");
                                tokio::time::sleep(BACKOFF.1).await;
                            }
                        }
                    };
                    let telling = Telling {
                        api: api.clone(),
                        receiver: receiver.clone(),
                        told,
                        refreshed_ns: 0,
                        failing: false,
                    };
                    running.spawn(telling.run());
                }
            }
        }
    }
}

/// Checks the file before a hub begins, so that a mistake is told then.
pub(crate) fn check(path: &Path) -> Result<(), AccessError> {
    receivers(path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{a_fabric, a_verdict};
    use wire::Nanos;

    const S: u64 = 1_000_000_000;
    const WAIT: Duration = Duration::from_secs(10);
    const REPEAT: Duration = Duration::from_secs(3_600);

    fn opened(number: u64, at_s: u64) -> Incident {
        Incident::new(number, Nanos(at_s * S), &a_verdict(number), &a_fabric())
    }

    /// A receiver that takes everything it is sent.
    #[derive(Default)]
    struct Pager {
        told: BTreeMap<u64, Told>,
        pages: Vec<String>,
    }

    impl Pager {
        fn look(&mut self, at_s: u64, incidents: &[Incident]) {
            let all: BTreeMap<u64, Incident> = incidents.iter().map(|i| (i.number, i.clone())).collect();
            let due = due(at_s * S, &all, &self.told, WAIT, REPEAT);
            if due.is_empty() {
                return;
            }
            let words: Vec<String> =
                due.iter().map(|(n, f)| format!("{n}{}", if *f { "+" } else { "-" })).collect();
            self.pages.push(format!("{at_s}: {}", words.join(" ")));
            for (n, firing) in due {
                self.told.insert(n, Told { firing, at_ns: at_s * S, reopened: all[&n].times_reopened });
            }
        }
    }

    #[test]
    fn what_comes_together_is_told_together_and_its_end_as_well() {
        let mut pager = Pager::default();
        let (mut first, mut second) = (opened(1, 100), opened(2, 108));
        for at in 100..=130 {
            pager.look(at, &[first.clone(), second.clone()]);
        }
        first.closed_at_ns = Some(140 * S);
        second.closed_at_ns = Some(145 * S);
        for at in 140..=170 {
            let mut now = vec![first.clone(), second.clone()];
            now.retain(|i| i.closed_at_ns.is_some_and(|c| c <= at * S));
            pager.look(at, &now);
        }
        insta::assert_debug_snapshot!(pager.pages, @r#"
        [
            "110: 1+ 2+",
            "150: 1- 2-",
        ]
        "#);
    }

    #[test]
    fn what_is_open_is_repeated_until_somebody_has_it_or_wants_quiet() {
        let mut pager = Pager::default();
        let mut it = opened(1, 0);
        let hour = 3_600;
        for at in (0..3 * hour).step_by(10) {
            pager.look(at, std::slice::from_ref(&it));
        }
        it.care.acknowledged_by = Some("otto".to_owned());
        for at in (3 * hour..6 * hour).step_by(10) {
            pager.look(at, std::slice::from_ref(&it));
        }
        // It heals and comes back, which is news whoever had it before.
        it.closed_at_ns = Some(6 * hour * S);
        pager.look(6 * hour + 20, std::slice::from_ref(&it));
        it.closed_at_ns = None;
        it.times_reopened += 1;
        it.care.snoozed_until_ns = Some(8 * hour * S);
        for at in (7 * hour..9 * hour).step_by(10) {
            pager.look(at, std::slice::from_ref(&it));
        }
        insta::assert_debug_snapshot!(pager.pages, @r#"
        [
            "10: 1+",
            "3610: 1+",
            "7210: 1+",
            "21620: 1-",
            "28800: 1+",
        ]
        "#);
    }

    #[test]
    fn nobody_hears_of_what_began_and_ended_while_it_was_snoozed() {
        let mut pager = Pager::default();
        let mut it = opened(1, 0);
        it.care.snoozed_until_ns = Some(100 * S);
        pager.look(50, std::slice::from_ref(&it));
        it.closed_at_ns = Some(60 * S);
        pager.look(200, std::slice::from_ref(&it));
        assert!(pager.pages.is_empty(), "{:?}", pager.pages);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        let dir = crate::tests::a_directory("alerts-file");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("alerts.toml");
        std::fs::write(dir.join("s"), "secret").unwrap();
        let hook = "[[webhook]]\nname='a'\nurl='https://x'\nsecret_file='s'\n";
        for (text, says) in [
            (String::new(), "public_url"),
            ("public_url='hub'".to_owned(), "https://"),
            ("public_url='https://h'\nrepeat='often'".to_owned(), "4h"),
            (format!("public_url='https://h'\n{hook}{hook}"), "of its own"),
            (format!("public_url='https://h'\n{}", hook.replace("'s'", "'gone'")), "gone"),
            (format!("public_url='https://h'\n{}", hook.replace("https://x", "x")), "https://"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let reason = receivers(&path).unwrap_err().reason;
            assert!(reason.contains(says), "{text}: {reason}");
        }
        std::fs::write(&path, format!("public_url='https://h'\n{hook}")).unwrap();
        assert_eq!(receivers(&path).unwrap().len(), 1);
    }
}
