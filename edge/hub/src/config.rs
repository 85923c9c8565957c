//! What a hub needs to know before it starts. `app` fills it from arguments and files.

use fabric::Fabric;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tables::{Environment, Place};

/// Files of a certificate. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebTls {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Settings of one hub.
#[derive(Clone, Debug)]
pub struct Config {
    /// The fabric that is watched.
    pub fabric: Arc<Fabric>,
    /// Where the tables are: a directory, made if it is not there, or a bucket.
    pub data: Place,
    /// How a bucket is reached: variables of the environment.
    pub environment: Environment,
    /// Wait, where another hub uses the tables, and take over when it ends or dies. Default false.
    pub standby: bool,
    /// Most bytes of rows held in memory until they are in the tables, default 512 MiB.
    pub memory_bytes: usize,
    /// Rows go from the log into the tables at least so often, default 15 s.
    pub fold_every: Duration,
    /// Days the rows of a table are kept, by its name, where that is not the table's own (docs/tables.md); `None`: for
    /// ever.
    pub keep_days: BTreeMap<String, Option<u32>>,
    /// Where agents connect, default 127.0.0.1 and a free port.
    pub grpc: SocketAddr,
    /// Where questions are answered, default 127.0.0.1 and a free port.
    pub http: SocketAddr,
    /// Where Arrow Flight SQL is served, default nowhere.
    pub flight: Option<SocketAddr>,
    /// Certificate that HTTP and Flight are served with, default none: neither is encrypted.
    pub web_tls: Option<WebTls>,
    /// Serve HTTP and Flight without encryption or without users on an address others can reach. Default false.
    pub http_insecure: bool,
    /// Names browsers may reach the hub by, besides localhost, addresses, and those of its certificate.
    pub http_names: Vec<String>,
    /// The access file: users, tokens, tenants, hooks. Without one everybody who reaches the hub is its operator.
    /// It is read again when it changes.
    pub access: Option<PathBuf>,
    /// The alerts file: who is told of incidents. It is read again when it changes.
    pub alerts: Option<PathBuf>,
    /// The exports file: where counters and incidents are sent. It is read again when it changes.
    pub exports: Option<PathBuf>,
    /// The receivers file: where flows and other things are told.
    pub receivers: Option<PathBuf>,
    /// File with the key of addresses' pseudonyms, made where there is none; default address.key in the data directory.
    /// With tables in a bucket it must be given.
    pub address_key: Option<PathBuf>,
    /// The hub's certificate chain, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
    /// The authority that agents' certificates must come from, PEM.
    pub ca_pem: String,
    /// Record every batch taken to this file, or where it exists, to the same name with a number after it.
    pub record: Option<PathBuf>,
    /// Probes a second of one host, over all its planes, default 400.
    pub packets_per_second: u32,
    /// Probes sent back to back each time a path's turn comes, `1 ..= 64`, default 2.
    pub train: u32,
    /// Bytes of a probe's STAMP packet, default 128.
    pub probe_bytes: u16,
    /// Length of the agents' windows, 100 ms to 1 s, default 500 ms.
    pub window: Duration,
    /// A probe unanswered so long is lost, default 1 s.
    pub probe_timeout: Duration,
    /// An agent that was there and has not been heard of for this long is silent, default 2 s.
    pub silent_after: Duration,
    /// After a start, how long agents known from before may take to come back before they count as silent,
    /// default 15 s.
    pub return_grace: Duration,
    /// Batches and questions waiting for the desk, default 4,096. More are dropped and counted.
    pub queue: usize,
    /// HTTP connections at a time, default 256.
    pub http_connections: usize,
    /// Settings of the diagnosis.
    pub diagnose: diagnose::Config,
}

impl Config {
    /// Defaults for a fabric, with no certificates yet and data in `data`.
    pub fn new(fabric: Arc<Fabric>, data: impl Into<Place>) -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Config {
            fabric,
            data: data.into(),
            environment: Environment::default(),
            standby: false,
            memory_bytes: 512 << 20,
            fold_every: Duration::from_secs(15),
            keep_days: BTreeMap::new(),
            grpc: loopback,
            http: loopback,
            flight: None,
            web_tls: None,
            http_insecure: false,
            http_names: Vec::new(),
            access: None,
            alerts: None,
            exports: None,
            receivers: None,
            address_key: None,
            cert_pem: String::new(),
            key_pem: String::new(),
            ca_pem: String::new(),
            record: None,
            packets_per_second: 400,
            train: 2,
            probe_bytes: 128,
            window: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(1),
            silent_after: Duration::from_secs(2),
            return_grace: Duration::from_secs(15),
            queue: 4_096,
            http_connections: 256,
            diagnose: diagnose::Config::default(),
        }
    }
}
