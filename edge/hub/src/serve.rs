//! Starting, serving and stopping.
//!
//! How: everything that can fail is tried before anything is announced: certificates are read, the tables are taken
//! over (a second hub waits here until the first has ended), the listeners are bound. Then the desk's thread starts and
//! the servers run until told to stop, or until another hub has taken over.
//! Invariants: after [`serve`] returns, the last refinements and the recording's end are on disk.

use crate::agents::Agents;
use crate::alerts;
use crate::api;
use crate::book::Book;
use crate::config::Config;
use crate::desk::{Desk, DeskHandle, Recorder};
use crate::diagnosis::Diagnosis;
use crate::error::{HubError, StoreError};
use crate::exports;
use crate::flight::{Flight, caller};
use crate::guard::Guard;
use crate::http;
use crate::ingest::{IngestService, MESSAGE_BYTES_MAX, Probing};
use crate::keeper::Keeper;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::receivers::{Receivers, Receiving, Room};
use crate::replay::Context;
use crate::rows::{self, ChangeRow};
use crate::rpc::ingest_server::IngestServer;
use crate::store::Store;
use crate::tasks::Board;
use arrow_flight::flight_service_server::FlightServiceServer;
use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tables::{Limits, Rows, Tables, TablesError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use wire::Nanos;

/// Open connections get this long to finish at a stop.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// A TLS handshake may take this long.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Most recordings beside each other under one name.
const RECORDINGS_MAX: u32 = 10_000;

/// Where a hub listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// For agents.
    pub grpc: SocketAddr,
    /// For people and programs.
    pub http: SocketAddr,
    /// For programs that speak Arrow Flight SQL.
    pub flight: Option<SocketAddr>,
}

async fn listen(what: &'static str, addr: SocketAddr) -> Result<(TcpListener, SocketAddr), HubError> {
    let failed = |e: std::io::Error| HubError::Listen { what, addr, kind: e.kind() };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Makes a file that is not there yet: the path itself, or else with a number after it. A hub that is started again
/// after a crash does not replace the recording of what led to it.
fn new_file(path: &Path) -> std::io::Result<File> {
    let make = |path: &Path| File::options().write(true).create_new(true).open(path);
    let mut made = make(path);
    for n in 1..RECORDINGS_MAX {
        if !made.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AlreadyExists) {
            break;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        made = make(Path::new(&name));
    }
    made
}

/// Takes over the tables; waits for them where the hub is a second one.
fn tables(config: &Config, stopping: &watch::Receiver<bool>) -> Result<Option<Arc<Tables>>, HubError> {
    let settings = tables::Config {
        memory_bytes: config.memory_bytes,
        fold_every: config.fold_every,
        keep_days: config.keep_days.clone(),
        environment: config.environment.clone(),
        ..tables::Config::new(Arc::clone(&config.fabric), config.data.clone())
    };
    let opened = Tables::open(settings, || config.standby && !*stopping.borrow());
    match opened.map_err(StoreError::from)? {
        Some(tables) => Ok(Some(Arc::new(tables))),
        None if config.standby => Ok(None),
        None => Err(StoreError::InUse { place: config.data.to_string() }.into()),
    }
}

/// Writes down that a hub has begun, and its fabric where that is new.
fn begin(config: &Config, now: Nanos, tables: &Tables) -> Result<(), StoreError> {
    let fabric = &config.fabric;
    let sql = format!("select 1 from link where fabric_epoch = {} limit 1", fabric.epoch.0.cast_signed());
    let is_new = tables.ask_blocking(&sql, Limits::default())?.is_empty();
    let mut changes = vec![ChangeRow {
        at: now,
        kind: "hub".into(),
        subject: "hub".to_owned(),
        what: "began".into(),
        text: format!("selvedge {} watches fabric {}", env!("CARGO_PKG_VERSION"), fabric.name),
    }];
    let mut parts = Vec::new();
    if is_new {
        parts = rows::topology(fabric, now);
        changes.push(ChangeRow {
            at: now,
            kind: "fabric".into(),
            subject: fabric.name.clone(),
            what: "changed".into(),
            text: format!("fabric {} is watched as of epoch {:016x}", fabric.name, fabric.epoch.0),
        });
    }
    parts.push(rows::changes(&changes));
    // After a crash memory may be full of what was in the log; it is being folded.
    let ticket = tables.append_blocking(&Rows { producer: None, parts })?;
    Ok(tables.durable_blocking(ticket)?)
}

fn desk(
    config: &Config,
    agents: &Arc<Mutex<Agents>>,
    metrics: &Arc<Metrics>,
    tables: &Arc<Tables>,
    ledger: &Ledger,
) -> Result<(Desk, Keeper, JoinHandle<()>), HubError> {
    let now = crate::wall();
    let (store, loaded) = Store::open(Arc::clone(tables))?;
    begin(config, now, tables)?;
    let published = loaded.incidents.iter().map(|i| (i.number, i.clone())).collect();
    let mut book = Book::of(Arc::clone(&config.fabric), loaded.incidents, loaded.next_number, now);
    let hosts = config.fabric.shape.hosts;
    let known_agents: Vec<_> = loaded.agents.into_iter().filter(|h| h.0 < hosts).collect();
    let grace = u64::try_from(config.return_grace.as_nanos()).unwrap_or(u64::MAX);
    {
        let mut agents = agents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        agents.excuse(&known_agents, now + Nanos(grace));
        agents.none_yet(now, hosts);
        agents.were_stored(tables.marks());
    }
    let known = book.take_up(now, config.diagnose.reopen_within);
    let recorder = match &config.record {
        None => None,
        Some(path) => {
            let failed = |e: std::io::Error| HubError::File { path: path.clone(), kind: e.kind() };
            let context = Context {
                now_ns: now.0,
                false_alarms_per_day: config.diagnose.false_alarms_per_day,
                window_ns: config.diagnose.window.0,
                known: book.restorable(now, config.diagnose.reopen_within).cloned().collect(),
            };
            let context = serde_json::to_string(&context).unwrap_or_default();
            let file = new_file(path).map_err(failed)?;
            Some(Recorder::begin(file, &config.fabric.to_toml(), &context).map_err(failed)?)
        }
    };
    let (keeper, writing) = Keeper::start(store, published)?;
    book.keep(keeper.clone());
    let diagnosis = Diagnosis::new(Arc::clone(&config.fabric), config.diagnose, book, &known);
    let desk = Desk::new(
        diagnosis,
        Arc::clone(agents),
        Arc::clone(metrics),
        recorder,
        config.silent_after,
        (Arc::clone(tables), ledger.clone()),
        crate::wall,
    );
    Ok((desk, keeper, writing))
}

/// Serves until `stop` is done. `ready` is called once both listeners answer.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(Bound) + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), HubError> {
    for addr in [Some(config.http), config.flight].into_iter().flatten() {
        let missing = match (&config.access, &config.web_tls) {
            (None, _) => "users",
            (_, None) => "certificate for HTTP",
            _ => continue,
        };
        if !addr.ip().is_loopback() && !config.http_insecure {
            return Err(HubError::NotLoopback { addr, missing });
        }
    }
    // Libraries bring two; an error says only that one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = |e: tonic::transport::Error| HubError::Tls { reason: chain(&e) };
    let server = Server::builder()
        .tls_config(
            ServerTlsConfig::new()
                .identity(Identity::from_pem(&config.cert_pem, &config.key_pem))
                .client_ca_root(Certificate::from_pem(&config.ca_pem))
                .timeout(HANDSHAKE_WITHIN),
        )
        .map_err(tls)?
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .concurrency_limit_per_connection(4);

    if let Some(path) = &config.alerts {
        alerts::check(path)?;
    }
    if let Some(path) = &config.exports {
        exports::check(path)?;
    }
    let receivers = config.receivers.as_deref().map(Receivers::read).transpose()?.unwrap_or_default();
    let web_tls = config.web_tls.as_ref().map(http::Tls::open).transpose()?;
    let web_cert = match &config.web_tls {
        // Just read, and read again when it changes.
        Some(files) => std::fs::read_to_string(&files.cert).ok(),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    let agents = Arc::new(Mutex::new(Agents::default()));
    let ledger = Ledger::default();
    let config = Arc::new(config);
    let (waiting_tx, waiting) = watch::channel(false);
    tokio::pin!(stop);
    let mut opening = tokio::task::spawn_blocking({
        let (config, agents, metrics, ledger) =
            (Arc::clone(&config), Arc::clone(&agents), Arc::clone(&metrics), ledger.clone());
        move || -> Result<Option<_>, HubError> {
            let Some(tables) = tables(&config, &waiting)? else { return Ok(None) };
            Ok(Some((desk(&config, &agents, &metrics, &tables, &ledger)?, tables)))
        }
    });
    let opened = tokio::select! {
        opened = &mut opening => opened,
        () = &mut stop => {
            let _ = waiting_tx.send(true);
            let _ = opening.await;
            return Ok(());
        }
    };
    let ended = |e: tokio::task::JoinError| HubError::Ended { what: "tables", reason: e.to_string() };
    let Some(((desk, keeper, writing), tables)) = opened.map_err(ended)?? else { return Ok(()) };
    let guard = Guard::new(&config, web_cert.as_deref(), Arc::clone(&tables), Arc::clone(&metrics));
    let guard = match guard {
        Ok(guard) => Arc::new(guard),
        Err(e) => {
            tables.close();
            return Err(e);
        }
    };
    let (grpc, grpc_addr) = listen("agents", config.grpc).await?;
    let (web, http_addr) = listen("HTTP", config.http).await?;
    let flight = match config.flight {
        Some(addr) => Some(listen("Flight SQL", addr).await?),
        None => None,
    };
    let (inputs, queue) = sync_channel(config.queue.max(1));
    let handle = DeskHandle::new(inputs, Arc::clone(&metrics), ledger.clone());
    let thread = std::thread::Builder::new()
        .name("desk".to_owned())
        .spawn(move || desk.run(&queue))
        .map_err(|e| HubError::Ended { what: "desk", reason: e.to_string() })?;

    let room = Room {
        fabric: Arc::clone(&config.fabric),
        tables: Arc::clone(&tables),
        ledger,
        guard: Arc::clone(&guard),
        desk: handle.clone(),
    };
    let receiving = Receiving::start(&receivers, &room).await;
    let mut receiving = receiving.map_err(|reason| HubError::Ended { what: "receivers", reason })?;
    drop(room);
    let (stopping_tx, stopping) = watch::channel(false);
    let board = Arc::new(Board::new(crate::wall()));
    let ingest = IngestServer::new(IngestService {
        fabric: Arc::clone(&config.fabric),
        probing: Probing {
            packets_per_second: config.packets_per_second,
            train: config.train,
            probe_bytes: config.probe_bytes,
            window: config.window,
            timeout: config.probe_timeout,
        },
        agents: Arc::clone(&agents),
        desk: handle.clone(),
        keeper: keeper.clone(),
        metrics: Arc::clone(&metrics),
        tables: Arc::clone(&tables),
        guard: Arc::clone(&guard),
        tasks: Arc::clone(&board),
        stopping: stopping.clone(),
    })
    .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let until = |mut stopping: watch::Receiver<bool>| async move {
        // An error means the sender is gone, which is a stop as well.
        let _ = stopping.wait_for(|&s| s).await;
    };
    let grpc_server = server.serve_with_incoming_shutdown(
        ingest,
        TcpIncoming::from(grpc).with_nodelay(Some(true)),
        until(stopping.clone()),
    );
    let state = api::Api {
        fabric: Arc::clone(&config.fabric),
        desk: handle.clone(),
        keeper: keeper.clone(),
        agents,
        metrics: Arc::clone(&metrics),
        silent_after: config.silent_after,
        tables: Arc::clone(&tables),
        guard: Arc::clone(&guard),
        tasks: board,
        stopping: stopping.clone(),
    };
    let telling = alerts::keep(state.clone(), Arc::clone(&config));
    let exporting = exports::keep(state.clone(), Arc::clone(&config));
    let mut keeping =
        vec![tokio::spawn(telling), tokio::spawn(exporting), tokio::spawn(Arc::clone(&guard).keep())];
    keeping.extend(web_tls.clone().map(|tls| tokio::spawn(tls.keep())));
    let web = http::Limited::new(web, config.http_connections, web_tls, Arc::clone(&guard));
    let web = web.map_err(|e| HubError::Listen { what: "HTTP", addr: http_addr, kind: e.kind() })?;
    let service = http::limited(api::router(state)).into_make_service_with_connect_info::<http::From>();
    let http_server = axum::serve(web, service).with_graceful_shutdown(until(stopping.clone()));

    let flight_addr = flight.as_ref().map(|f| f.1);
    let flight_task = match flight {
        None => None,
        Some((listener, _)) => {
            let mut server = Server::builder().concurrency_limit_per_connection(4);
            if let (Some(files), Some(cert)) = (&config.web_tls, &web_cert) {
                let key = std::fs::read_to_string(&files.key)
                    .map_err(|e| HubError::File { path: files.key.clone(), kind: e.kind() })?;
                let identity = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
                server = server.tls_config(identity.timeout(HANDSHAKE_WITHIN)).map_err(tls)?;
            }
            let service = Flight {
                tables: Arc::clone(&tables),
                metrics: Arc::clone(&metrics),
                guard: Arc::clone(&guard),
            };
            let asked = Arc::clone(&guard);
            let server = server.serve_with_incoming_shutdown(
                FlightServiceServer::with_interceptor(service, move |r| caller(&asked, r)),
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                until(stopping.clone()),
            );
            Some(tokio::spawn(server))
        }
    };
    let mut grpc_task = tokio::spawn(grpc_server);
    let mut http_task = tokio::spawn(async move { http_server.await });
    ready(Bound { grpc: grpc_addr, http: http_addr, flight: flight_addr });
    tracing::info!(grpc = %grpc_addr, http = %http_addr, fabric = config.fabric.name, "hub serves");

    let outcome = tokio::select! {
        () = stop => Ok(()),
        () = tables.end() => Err(HubError::TakenOver(tables.trouble().unwrap_or(TablesError::Closed))),
        ended = &mut grpc_task => Err(HubError::Ended { what: "gRPC", reason: format!("{ended:?}") }),
        ended = &mut http_task => Err(HubError::Ended { what: "HTTP", reason: format!("{ended:?}") }),
    };
    tracing::info!("hub stops");
    // Nobody may be listening any more, which is fine.
    let _ = stopping_tx.send(true);
    let _ = tokio::time::timeout(STOP_WITHIN, async {
        if !grpc_task.is_finished() {
            let _ = (&mut grpc_task).await;
        }
        if !http_task.is_finished() {
            let _ = (&mut http_task).await;
        }
    })
    .await;
    grpc_task.abort();
    http_task.abort();
    if let Some(task) = flight_task {
        task.abort();
    }
    for task in keeping {
        task.abort();
    }
    guard.audit.write();
    let joined = tokio::task::spawn_blocking(move || {
        receiving.stop();
        handle.stop();
        let decided = thread.join().is_ok();
        keeper.stop();
        let written = writing.join().is_ok();
        if !tables.ended() {
            let change = ChangeRow {
                at: crate::wall(),
                kind: "hub".into(),
                subject: "hub".to_owned(),
                what: "ended".into(),
                text: "stopped in order".to_owned(),
            };
            let _ = tables.append(Rows { producer: None, parts: vec![rows::changes(&[change])] });
        }
        tables.close();
        written && decided
    })
    .await;
    match joined {
        Ok(true) => outcome,
        _ => Err(HubError::Ended { what: "desk", reason: "a thread panicked".to_owned() }),
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_never_replaced() {
        let dir = crate::tests::a_directory("recording");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("today");
        for _ in 0..3 {
            new_file(&path).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["today", "today.1", "today.2"]);
        assert_eq!(new_file(&dir.join("no/where")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
