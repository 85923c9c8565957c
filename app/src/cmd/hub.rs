//! `selvedge hub`: the daemon that diagnoses, keeps incidents and answers.

use crate::log;
use ::fabric::Scenario;
use anyhow::Context;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const AFTER: &str = "Examples:
  selvedge hub --fabric scenarios/quiet-16.toml --data /var/lib/selvedge --grpc 0.0.0.0:7443 \\
      --http 127.0.0.1:7480 --cert hub.pem --key hub.key --ca ca.pem
  selvedge hub ... --record today.selvrec      then: selvedge diagnose today.selvrec

Agents connect to --grpc with certificates made by `selvedge cert`; people and programs ask --http. With --access they
log in, over TLS; without it everybody who reaches --http is the hub's operator, and it must be a loopback address
unless --http-insecure says otherwise. The access file and the certificate of the pages are read again when they change.
SIGTERM stops it in order; after a crash it continues with the incidents it had.
The log goes to standard error; SELVEDGE_LOG=debug says more, SELVEDGE_LOG_FORMAT=json says it for machines.
Exit codes: 0 stopped in order, 1 it could not start or go on.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// The fabric to watch: a fabric or a scenario
    #[arg(long, value_name = "FILE")]
    fabric: PathBuf,
    /// The tables, everything the hub remembers: a directory, made if it is not there, or s3://bucket/prefix,
    /// gs://bucket/prefix, az://container/prefix with credentials in the environment
    #[arg(long, value_name = "DIR|URL")]
    data: hub::Place,
    /// Where another hub uses these tables, wait, and take over when it ends or dies
    #[arg(long)]
    standby: bool,
    /// How many days a table's rows are kept, or `ever`; docs/tables.md says what goes without it; may be repeated
    #[arg(long, value_name = "TABLE=DAYS", value_parser = keep)]
    keep: Vec<(String, Option<u32>)>,
    /// Where agents connect; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    grpc: SocketAddr,
    /// Where questions are answered; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7480")]
    http: SocketAddr,
    /// Where Arrow Flight SQL is served, for ADBC, JDBC and Grafana; nowhere if not given
    #[arg(long, value_name = "ADDR")]
    flight: Option<SocketAddr>,
    /// Who may use the hub: a file made by `selvedge access`
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,
    /// Certificate for --http and --flight, one that browsers trust; with --access, --cert where it is left out
    #[arg(long, value_name = "FILE", requires = "http_key")]
    http_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "http_cert")]
    http_key: Option<PathBuf>,
    /// A name browsers reach the hub by, where a proxy stands before it; may be repeated
    #[arg(long, value_name = "NAME")]
    http_name: Vec<String>,
    /// Who is told of incidents: a file with webhooks and Alertmanagers; docs/alerts.md shows one
    #[arg(long, value_name = "FILE")]
    alerts: Option<PathBuf>,
    /// Where counters and incidents are sent: a file with remote-write receivers and OTLP collectors; docs/api.md
    #[arg(long, value_name = "FILE")]
    exports: Option<PathBuf>,
    /// What switches and programs tell, and where: flows, gNMI, OTLP, scrapes, syslog; docs/receivers.md shows a file
    #[arg(long, value_name = "FILE")]
    receivers: Option<PathBuf>,
    /// Serve --http and --flight without TLS, as behind a proxy that has it, or without users on an address other
    /// machines can reach
    #[arg(long)]
    http_insecure: bool,
    /// Key of the pseudonyms that stand for addresses in the tables; made if it is not there, default DATA/address.key
    #[arg(long, value_name = "FILE")]
    address_key: Option<PathBuf>,
    /// The hub's certificate
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The authority agents' certificates come from
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Record everything the diagnosis takes, for `selvedge diagnose`; where FILE exists, to FILE.1 and so on
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Probes a second of each host, over all its planes; the scenario's if not given; 0: nobody probes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    packets_per_second: Option<u32>,
    /// Verdicts a day that nothing caused, over the whole fabric
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = positive)]
    false_alarms_per_day: f64,
    /// Write {"grpc":"ADDR:PORT","http":"ADDR:PORT"} here once serving
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n > 0.0 && n <= 1e6 => Ok(n),
        _ => Err("expected a number above 0, at most 1000000".to_owned()),
    }
}

fn keep(text: &str) -> Result<(String, Option<u32>), String> {
    let expected = || "expected TABLE=DAYS with 1 or more days, such as path_observation=30, or TABLE=ever";
    let (table, days) = text.split_once('=').ok_or_else(expected)?;
    let days = match days {
        "ever" => None,
        days => Some(days.parse().ok().filter(|d| *d > 0).ok_or_else(expected)?),
    };
    Ok((table.to_owned(), days))
}

/// What the environment says of buckets.
pub(crate) fn environment() -> hub::Environment {
    let of_a_bucket = |name: &str| hub::Environment::PREFIXES.iter().any(|p| name.starts_with(p));
    let all = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    hub::Environment(all.filter(|(k, _)| of_a_bucket(k)).collect())
}

/// A file as text, or an error that names it.
pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Replaces a file whole, so that nobody reads half of it.
fn write_whole(path: &Path, content: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(content.as_bytes())?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Done when the process is asked to end.
pub(crate) async fn asked_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    log::begin("info");
    let scenario = Scenario::parse(&text(&args.fabric)?)
        .map_err(|e| anyhow::anyhow!("{}:{e}", args.fabric.display()))?;
    let window = Duration::from_nanos(scenario.probe.window.0);
    // With users there are passwords on the wire: not in the clear, unless that is asked for.
    let own = (args.access.is_some() && !args.http_insecure).then(|| (args.cert.clone(), args.key.clone()));
    let web_tls = args.http_cert.zip(args.http_key).or(own).map(|(cert, key)| hub::WebTls { cert, key });
    let mut config = hub::Config {
        grpc: args.grpc,
        http: args.http,
        flight: args.flight,
        web_tls,
        http_insecure: args.http_insecure,
        http_names: args.http_name,
        access: args.access,
        alerts: args.alerts,
        exports: args.exports,
        receivers: args.receivers,
        address_key: args.address_key,
        cert_pem: text(&args.cert)?,
        key_pem: text(&args.key)?,
        ca_pem: text(&args.ca)?,
        standby: args.standby,
        keep_days: args.keep.into_iter().collect(),
        environment: environment(),
        record: args.record,
        packets_per_second: args.packets_per_second.unwrap_or(scenario.probe.packets_per_second),
        train: scenario.probe.train,
        // A probe holds at least what it must say.
        probe_bytes: u16::try_from(scenario.probe.size)
            .unwrap_or(u16::MAX)
            .max(probe::packet::PROBE_BYTES_MIN),
        window,
        ..hub::Config::new(Arc::new(scenario.fabric), args.data)
    };
    config.diagnose.false_alarms_per_day = args.false_alarms_per_day;
    config.diagnose.window = scenario.probe.window;
    if let Some(file) = &args.ready_file {
        // One from an earlier life would name ports nobody listens on.
        let _ = std::fs::remove_file(file);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(hub::serve(
        config,
        |bound| {
            if let Some(file) = &args.ready_file {
                let ready =
                    serde_json::json!({ "grpc": bound.grpc.to_string(), "http": bound.http.to_string(),
                        "flight": bound.flight.map(|f| f.to_string()) });
                if let Err(e) = write_whole(file, &format!("{ready}\n")) {
                    tracing::error!("{e:#}");
                }
            }
        },
        asked_to_stop(),
    ))?;
    Ok(ExitCode::SUCCESS)
}
