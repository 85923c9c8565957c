//! What is known when the question is judged: plain values, to be recorded, sent and read back.
//!
//! Invariants: everything bounded ([`SOCKETS_MAX`] sockets, [`SAMPLES_MAX`] samples, [`PEERS_MAX`] peers), and what was left
//! out is counted or named in [`EndFacts::missing`]. Differences are over the interval, never since the start, unless the
//! name says total.
//! Absent on purpose: conclusions.

use kernel::net_state::{Resolution, Way};
use kernel::sock_diag::{Memory, State, TcpInfo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Sockets followed at once.
pub const SOCKETS_MAX: usize = 64;
/// Samples kept of each.
pub const SAMPLES_MAX: usize = 600;
/// Other ends whose way is looked at and who are sent echo requests.
pub const PEERS_MAX: usize = 8;
/// Links looked at.
pub const LINKS_MAX: usize = 16;
/// Listeners looked at.
pub const LISTENERS_MAX: usize = 64;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// One connection, or all that fit what is given. An unspecified address and port 0 fit everything. The peer's host is
    /// asked with the ends turned around: see [`Question::from_the_other_end`].
    Connection {
        /// This end.
        local: Option<SocketAddr>,
        /// The other end.
        remote: Option<SocketAddr>,
    },
    /// Every connection of a process.
    Process(u32),
    /// Every connection to these addresses, which are those of one host.
    Host(Vec<IpAddr>),
}

impl Question {
    /// Reads `PID`, `ADDRESS` (or several, with commas between), `ADDRESS:PORT`, or `ADDRESS:PORT-ADDRESS:PORT` (own end
    /// first). Names of hosts are not known here: none, and the caller looks them up.
    pub fn parse(text: &str) -> Option<Question> {
        if let Ok(pid) = text.parse() {
            return Some(Question::Process(pid));
        }
        if let Ok(addresses) = text.split(',').map(str::parse).collect() {
            return Some(Question::Host(addresses));
        }
        if let Ok(remote) = text.parse() {
            return Some(Question::Connection { local: None, remote: Some(remote) });
        }
        let (local, remote) = text.split_once('-')?;
        Some(Question::Connection { local: Some(local.parse().ok()?), remote: Some(remote.parse().ok()?) })
    }

    /// The same question as the host at the other end has to ask it, where `own` are the addresses of this host; none where
    /// it does not name the other end (a process).
    pub fn from_the_other_end(&self, own: &[IpAddr]) -> Option<Question> {
        match self {
            Question::Connection { local, remote } => {
                let from = local.or(own.first().map(|address| SocketAddr::new(*address, 0)));
                Some(Question::Connection { local: *remote, remote: from })
            }
            Question::Process(_) => None,
            Question::Host(_) => Some(Question::Host(own.to_vec())),
        }
    }
}

/// Everything a judgement rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What was asked.
    pub question: Question,
    /// The host that was asked.
    pub local: EndFacts,
    /// The host at the other end, where it could be asked too.
    #[serde(default)]
    pub peer: Option<EndFacts>,
    /// What the hub knows of the path between them.
    #[serde(default)]
    pub path: Option<PathFacts>,
}

/// What one host saw in the interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndFacts {
    /// Its name.
    pub host: String,
    /// How long it looked, ms.
    pub interval_ms: u32,
    /// Sockets asked about.
    pub sockets: Vec<SocketFacts>,
    /// Sockets asked about and not followed, for want of room.
    pub sockets_left_out: u32,
    /// Listeners on the ports of those sockets.
    pub listeners: Vec<ListenerFacts>,
    /// Counters of the namespace that moved (`/proc/net/snmp`, `netstat`, `snmp6`, `softnet_stat`), by how much:
    /// `TcpExt.ListenOverflows`, `Icmp.InDestUnreachs`, `Icmp6InPktTooBigs`.
    pub counters: BTreeMap<String, u64>,
    /// The connection tracking table, where there is one.
    pub conntrack: Option<ConntrackFacts>,
    /// The way to each other end.
    pub ways: Vec<WayFacts>,
    /// Links those ways leave by.
    pub links: Vec<LinkFacts>,
    /// Processes that own the sockets.
    pub processes: Vec<ProcessFacts>,
    /// The host's processors.
    pub cpu: CpuFacts,
    /// Echo requests.
    pub echoes: Vec<EchoFacts>,
    /// Packets dropped by the kernel in the interval by its reason, where a sensor counts them.
    #[serde(default)]
    pub drops: Option<BTreeMap<String, u64>>,
    /// What could not be looked at, and why.
    pub missing: Vec<String>,
}

impl EndFacts {
    /// By how much a counter moved.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
    /// The process with this number.
    pub fn process(&self, pid: u32) -> Option<&ProcessFacts> {
        self.processes.iter().find(|p| p.pid == pid)
    }
}

/// One connection at one end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketFacts {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// State at the end of the interval.
    pub state: State,
    /// Inode; 0 where no process has it.
    pub inode: u32,
    /// Owner.
    pub pid: Option<u32>,
    /// User.
    pub uid: u32,
    /// Control group (v2).
    pub cgroup: Option<u64>,
    /// Congestion control.
    pub congestion: Option<String>,
    /// Memory at the end.
    pub memory: Option<Memory>,
    /// Timer that runs at the end: 0 none, 1 retransmission, 2 keepalive, 3 time wait, 4 zero window probe.
    pub timer: u8,
    /// Times it fired in vain.
    pub timer_tries: u8,
    /// At the start of the interval, or when it was first seen.
    pub first: TcpInfo,
    /// At its end, or when it was last seen.
    pub last: TcpInfo,
    /// Whether it ended meanwhile.
    pub gone: bool,
    /// In between.
    pub samples: Vec<Sample>,
}

/// A connection at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the start of the interval, ms.
    pub at_ms: u32,
    /// Received, not read, bytes.
    pub receive_queue: u32,
    /// Written, not acknowledged, bytes.
    pub send_queue: u32,
    /// Written, not sent, bytes.
    pub not_sent: u32,
    /// Segments under way.
    pub unacked: u32,
    /// Of those, acknowledged out of order.
    pub sacked: u32,
    /// Congestion window, segments.
    pub window: u32,
    /// Window the peer offers, bytes.
    pub peer_window: u32,
    /// Smoothed round trip, µs.
    pub rtt_us: u32,
    /// Bytes acknowledged since the connection began.
    pub acked: u64,
    /// Bytes received since the connection began.
    pub received: u64,
    /// Retransmissions since the connection began.
    pub retransmits: u32,
    /// 0 open to 4 loss, as in [`TcpInfo::congestion_state`].
    pub congestion_state: u8,
    /// Doublings of the time-out.
    pub backoff: u8,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerFacts {
    /// Where it listens.
    pub local: SocketAddr,
    /// Most connections that waited to be accepted.
    pub waiting_max: u32,
    /// How many may wait. The kernel takes one more than this.
    pub limit: u32,
    /// Owner.
    pub pid: Option<u32>,
}

impl ListenerFacts {
    /// Whether a further connection would be refused.
    pub fn full(&self) -> bool {
        self.waiting_max > self.limit
    }
}

/// The table of tracked connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackFacts {
    /// Most entries seen.
    pub count: u64,
    /// Entries that fit.
    pub max: u64,
    /// Packets dropped because a new entry did not fit.
    pub dropped: u64,
    /// Entries that could not be put in.
    pub insert_failed: u64,
    /// Entries thrown out to make room.
    pub early_dropped: u64,
}

impl ConntrackFacts {
    /// Whether it is full or was in the interval.
    pub fn full(&self) -> bool {
        self.max > 0
            && (self.count >= self.max
                || (self.dropped > 0 && self.count.saturating_mul(100) >= self.max.saturating_mul(95)))
    }
}

/// The way to one other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayFacts {
    /// The other end.
    pub to: IpAddr,
    /// The way, where there is one.
    pub way: Option<Way>,
    /// Why there is none, in the kernel's words.
    pub refused: Option<String>,
    /// The link it leaves by.
    pub link: Option<String>,
    /// MTU of that link, bytes.
    pub link_mtu: u32,
    /// What is known of the next hop's hardware address, at worst.
    pub next_hop: Option<Resolution>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFacts {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether it has a carrier at the end.
    pub running: bool,
    /// Times the carrier came or went.
    pub carrier_changes: u32,
    /// The same since the link was made.
    pub carrier_changes_total: u32,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Received damaged.
    pub rx_errors: u64,
    /// Not sent for an error.
    pub tx_errors: u64,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Dropped before they were sent.
    pub tx_dropped: u64,
    /// Kind of its queueing discipline.
    pub queue: String,
    /// Packets the discipline dropped.
    pub queue_drops: u64,
    /// Times it made a packet wait.
    pub queue_over_limits: u64,
    /// Most bytes that waited.
    pub queue_bytes_max: u32,
    /// Looks at which something waited, of [`LinkFacts::looks`].
    pub queue_busy_looks: u32,
    /// Looks at it.
    pub looks: u32,
}

/// A process that owns sockets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Number.
    pub pid: u32,
    /// Name.
    pub name: String,
    /// State at the end: R, S, D, T.
    pub state: char,
    /// Threads.
    pub threads: u32,
    /// Processor time of all threads, ns.
    pub cpu_ns: u64,
    /// Of the thread that waited longest for a processor: its processor time, ns.
    pub waiter_cpu_ns: u64,
    /// And how long it waited, ns: it could have run and did not.
    pub waiter_delay_ns: u64,
    /// Time its control group was held back by a quota, ns.
    pub throttled_ns: u64,
    /// Quota periods in which that happened, of how many.
    pub throttled_periods: (u64, u64),
    /// Control group, as the kernel names it.
    pub cgroup: String,
}

/// Shares of the interval, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuFacts {
    /// Processors.
    pub count: u32,
    /// Of all their time, idle.
    pub idle: f64,
    /// Of all their time, network and timer work of the kernel.
    pub softirq: f64,
    /// Of all their time, taken by the hypervisor.
    pub steal: f64,
    /// Time in which at least one task waited for a processor (pressure stall information).
    pub pressure: Option<f64>,
}

/// Echo requests to one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoFacts {
    /// Where to.
    pub to: IpAddr,
    /// Size of small packets, bytes.
    pub small_bytes: u16,
    /// Small ones sent.
    pub small_sent: u32,
    /// Small ones answered.
    pub small_answered: u32,
    /// Size of full packets, bytes: what TCP takes for the path's MTU.
    pub full_bytes: u16,
    /// Full ones sent.
    pub full_sent: u32,
    /// Full ones answered.
    pub full_answered: u32,
    /// Why the last one could not be sent.
    pub refused: Option<String>,
}

/// What the hub knows of the path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathFacts {
    /// Links on it that have a verdict.
    pub links: Vec<PathLink>,
    /// Probes on it in the interval.
    pub probes_sent: u64,
    /// Of those, lost.
    pub probes_lost: u64,
    /// Of those, marked "congestion experienced".
    pub probes_marked: u64,
    /// Median delay over the path's own baseline, ns.
    pub delay_over_baseline_ns: Option<i64>,
}

/// A link of the path with a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathLink {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub sickness: Sickness,
    /// The verdict's confidence, 0 to 1.
    pub confidence: f64,
}

/// What can be wrong with a link of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sickness {
    /// It loses packets without being full.
    Loss,
    /// It is full.
    Congestion,
    /// It carries nothing.
    Down,
    /// It comes and goes.
    Flapping,
}
