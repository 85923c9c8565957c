//! What an agent needs to know before it starts. `app` fills it from arguments and files.

use crate::tasks::Helper;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where to record what goes into the agent's machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordTo {
    /// A file that does not exist yet; only its owner can read it.
    pub path: PathBuf,
    /// Bytes after which the recording stops.
    pub bytes_max: u64,
}

/// Settings of one agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its hubs take agents, such as `https://hub.example:7443`. One of them answers; they are tried in turn.
    pub hubs: Vec<String>,
    /// Certificate chain, PEM. The subject's common name says which host this is, such as `host12`.
    pub cert_pem: String,
    /// Private key, PEM.
    pub key_pem: String,
    /// The authority that the hub's certificate must come from, PEM.
    pub ca_pem: String,
    /// Network namespace to probe from; the connection to the hub stays in the one the process was started in.
    pub netns: Option<String>,
    /// UDP port of STAMP (RFC 8762), default 862.
    pub stamp_port: u16,
    /// Key by which probes and answers are authenticated (RFC 8762, section 4.4), the same on every host; none: they are
    /// not.
    pub stamp_key: Option<Vec<u8>>,
    /// Socket by which processes of this host tell what became of their packets; none: nobody is heard. Where it cannot be
    /// made the agent says so and goes on without.
    pub transport_socket: Option<PathBuf>,
    /// Who makes captures; none: the process with the sensors.
    pub helper: Option<Arc<dyn Helper>>,
    /// Socket of the process with the sensors; none: none are read.
    pub sensors_socket: Option<PathBuf>,
    /// Record from the start, for `selvedge replay`; none: not.
    pub record: Option<RecordTo>,
    /// Observations kept while the hub does not acknowledge, default 65,536. The oldest go first and are counted.
    pub buffer_rows: usize,
    /// How often what was observed is sent, default 100 ms.
    pub send_every: Duration,
    /// First wait before connecting again, default 200 ms; doubles up to `retry_max`.
    pub retry_min: Duration,
    /// Longest such wait, default 5 s.
    pub retry_max: Duration,
    /// Give up capabilities once the sockets are open, default true. Tests in one process say false.
    pub drop_capabilities: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hubs: Vec::new(),
            cert_pem: String::new(),
            key_pem: String::new(),
            ca_pem: String::new(),
            netns: None,
            stamp_port: 862,
            stamp_key: None,
            transport_socket: None,
            helper: None,
            sensors_socket: None,
            record: None,
            buffer_rows: 65_536,
            send_every: Duration::from_millis(100),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
            drop_capabilities: true,
        }
    }
}
