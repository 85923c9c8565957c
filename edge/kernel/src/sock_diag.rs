//! Sockets of a network namespace as the kernel keeps them: inet_diag over netlink, what `ss -tinm` shows.
//!
//! How: one dump for each address family; the kernel walks its tables and hands out one message a socket, with the
//! connection's `struct tcp_info` and the memory of the socket beside it. A [`Filter`] is compiled to the kernel's small
//! filter language, so what is not asked for is not copied. [`Diag::again`] asks for one socket by its address and cookie,
//! which costs one hash lookup: cheap enough for ten times a second.
//!
//! Invariants: a structure is read as far as the kernel wrote it, so older and newer kernels both work and
//! [`TcpInfo::bytes`] says how far that was; a message that makes no sense is left out and counted, never a panic. A socket
//! belongs to the namespace it was opened in, and so does what it sees.
//! Absent on purpose: closing sockets, which the same protocol could do.

use crate::netlink::{Batch, DUMP, Netlink, attributes, ne32};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CONG: u16 = 4;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// What is asked for beside the fixed part: a bit for each of the extensions above that can be asked for.
const EXTENSIONS: u8 = 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_CONG - 1) | 1 << (INET_DIAG_SKMEMINFO - 1);
/// `struct inet_diag_sockid`.
const ID: usize = 48;
/// `struct inet_diag_msg`.
const MSG: usize = 72;
const BC_S_COND: u8 = 7;
const BC_D_COND: u8 = 8;

/// State of a TCP socket, as the kernel numbers them. UDP uses two of them: established (connected) and closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum State {
    #[default]
    Unknown,
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynReceived,
}

impl State {
    fn of(number: u8) -> State {
        use State::*;
        const ALL: [State; 13] = [
            Unknown,
            Established,
            SynSent,
            SynReceived,
            FinWait1,
            FinWait2,
            TimeWait,
            Closed,
            CloseWait,
            LastAck,
            Listen,
            Closing,
            NewSynReceived,
        ];
        ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
    /// Its bit in a set of states.
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Which sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// States; none means all.
    pub states: Vec<State>,
    /// Local port.
    pub local_port: Option<u16>,
    /// Remote port.
    pub remote_port: Option<u16>,
    /// Remote address, and how many of its first bits count.
    pub remote: Option<(IpAddr, u8)>,
}

impl Filter {
    fn states(&self) -> u32 {
        if self.states.is_empty() { u32::MAX } else { self.states.iter().fold(0, |bits, s| bits | s.bit()) }
    }

    /// The conditions as a program: each one goes on to the next where it holds, and past the end (which the kernel takes
    /// for "no") where it does not.
    fn program(&self) -> Vec<u8> {
        let mut conditions: Vec<Vec<u8>> = Vec::new();
        let mut condition = |code: u8, address: Option<(IpAddr, u8)>, port: Option<u16>| {
            let (family, bits, address) = match address {
                None => (0, 0, Vec::new()),
                Some((IpAddr::V4(a), bits)) => (libc::AF_INET as u8, bits.min(32), a.octets().to_vec()),
                Some((IpAddr::V6(a), bits)) => (libc::AF_INET6 as u8, bits.min(128), a.octets().to_vec()),
            };
            let len = (4 + 8 + address.len()) as u8;
            let mut op = vec![code, len, 0, 0, family, bits, 0, 0];
            op.extend_from_slice(&port.map_or(-1, i32::from).to_ne_bytes());
            op.extend_from_slice(&address);
            conditions.push(op);
        };
        if self.local_port.is_some() {
            condition(BC_S_COND, None, self.local_port);
        }
        if self.remote.is_some() || self.remote_port.is_some() {
            condition(BC_D_COND, self.remote, self.remote_port);
        }
        let mut left: usize = conditions.iter().map(Vec::len).sum();
        for op in &mut conditions {
            let no = (left + 4) as u16;
            left -= op.len();
            op[2..4].copy_from_slice(&no.to_ne_bytes());
        }
        conditions.concat()
    }
}

/// What a socket is called by the kernel: enough to ask for it again. Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    family: u8,
    protocol: u8,
    id: [u8; ID],
}

/// One socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    /// To ask for it again.
    pub id: SocketId,
    /// State.
    pub state: State,
    /// This end. IPv4 over an IPv6 socket is shown as IPv4.
    pub local: SocketAddr,
    /// The other end; unspecified and 0 where there is none.
    pub remote: SocketAddr,
    /// Which timer runs: 0 none, 1 retransmission or tail probe, 2 keepalive, 3 time wait, 4 zero window probe.
    pub timer: u8,
    /// How often the running timer has fired in vain.
    pub timer_tries: u8,
    /// Until the timer fires, ms.
    pub timer_ms: u32,
    /// Received and not yet read, bytes; of a listener: connections that wait to be accepted.
    pub receive_queue: u32,
    /// Written and not yet acknowledged, bytes; of a listener: how many connections may wait.
    pub send_queue: u32,
    /// User that owns it.
    pub uid: u32,
    /// Inode of the descriptor; 0 where no process has it (not yet accepted, or closed already).
    pub inode: u32,
    /// Control group (v2) it was made in.
    pub cgroup: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Congestion control.
    pub congestion: Option<String>,
    /// State of the connection; none for UDP, listeners have little in it.
    pub tcp: Option<TcpInfo>,
}

/// Memory of a socket, `SK_MEMINFO_*`, bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Held by what was received.
    pub receive: u32,
    /// Limit of that.
    pub receive_max: u32,
    /// Held by what is on its way out.
    pub send: u32,
    /// Limit of what may be queued.
    pub send_max: u32,
    /// Held by what is queued for sending.
    pub queued: u32,
    /// Waiting because the socket was in use when it came.
    pub backlog: u32,
    /// Packets dropped at this socket since it was opened (kernels since 4.6).
    pub drops: u32,
}

macro_rules! tcp_info {
    ($($(#[$doc:meta])* $name:ident: $kind:ident @ $at:literal,)*) => {
        /// `struct tcp_info`. A field the kernel does not know is 0; [`TcpInfo::bytes`] tells that from a real 0. Times are µs
        /// unless their name says otherwise, counters run from the start of the connection.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct TcpInfo {
            /// Bytes of the structure the kernel gave.
            pub bytes: u16,
            /// Whether the last rate was measured while the program had nothing to send.
            pub app_limited: bool,
            $($(#[$doc])* pub $name: $kind,)*
        }
        impl TcpInfo {
            /// Reads as much as is there.
            pub fn parse(bytes: &[u8]) -> TcpInfo {
                TcpInfo {
                    bytes: u16::try_from(bytes.len()).unwrap_or(u16::MAX),
                    app_limited: bytes.get(7).is_some_and(|flags| flags & 1 != 0),
                    $($name: read::$kind(bytes, $at),)*
                }
            }
        }
    };
}

tcp_info! {
    /// 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
    congestion_state: u8 @ 1,
    /// Retransmissions of the oldest segment in a row, by time-out.
    retransmits: u8 @ 2,
    /// Zero window probes or keepalives without an answer.
    probes: u8 @ 3,
    /// Doublings of the time-out.
    backoff: u8 @ 4,
    /// Negotiated options: 1 time stamps, 2 SACK, 4 window scale, 8 ECN, 16 ECN seen.
    options: u8 @ 5,
    /// Retransmission time-out.
    rto_us: u32 @ 8,
    /// Segment size towards the peer, bytes of payload.
    send_mss: u32 @ 16,
    /// Segment size seen from the peer, bytes of payload.
    receive_mss: u32 @ 20,
    /// Segments under way. Of a listener: connections that wait to be accepted.
    unacked: u32 @ 24,
    /// Of those, acknowledged out of order. Of a listener: how many may wait.
    sacked: u32 @ 28,
    /// Of those, taken for lost.
    lost: u32 @ 32,
    /// Of those, retransmitted and not yet acknowledged.
    retransmitted: u32 @ 36,
    /// Since data was last sent, ms.
    last_sent_ms: u32 @ 44,
    /// Since data last came, ms.
    last_received_ms: u32 @ 52,
    /// Since an acknowledgement last came, ms.
    last_ack_ms: u32 @ 56,
    /// Path MTU, bytes.
    path_mtu: u32 @ 60,
    /// Smoothed round-trip time.
    rtt_us: u32 @ 68,
    /// Its mean deviation.
    rtt_var_us: u32 @ 72,
    /// Slow start threshold, segments.
    slow_start_threshold: u32 @ 76,
    /// Congestion window, segments.
    congestion_window: u32 @ 80,
    /// Segment size we told the peer, bytes.
    advertised_mss: u32 @ 84,
    /// Segments retransmitted.
    total_retransmits: u32 @ 100,
    /// Pacing rate, bytes a second.
    pacing_rate: u64 @ 104,
    /// Bytes acknowledged.
    bytes_acked: u64 @ 120,
    /// Bytes received in order.
    bytes_received: u64 @ 128,
    /// Segments sent.
    segments_out: u32 @ 136,
    /// Segments received.
    segments_in: u32 @ 140,
    /// Written, not yet sent, bytes.
    not_sent_bytes: u32 @ 144,
    /// Smallest round trip of the last minutes.
    min_rtt_us: u32 @ 148,
    /// Segments with data received.
    data_segments_in: u32 @ 152,
    /// Segments with data sent.
    data_segments_out: u32 @ 156,
    /// Rate of delivery of late, bytes a second.
    delivery_rate: u64 @ 160,
    /// Time with something to send.
    busy_us: u64 @ 168,
    /// Of that, held up by the peer's window.
    window_limited_us: u64 @ 176,
    /// Of that, held up by our own send buffer.
    send_buffer_limited_us: u64 @ 184,
    /// Segments delivered.
    delivered: u32 @ 192,
    /// Of those, marked "congestion experienced".
    delivered_ce: u32 @ 196,
    /// Bytes sent, with retransmissions.
    bytes_sent: u64 @ 200,
    /// Bytes sent again.
    bytes_retransmitted: u64 @ 208,
    /// Duplicates the peer told of: retransmissions that were not needed.
    duplicates: u32 @ 216,
    /// Times reordering was noticed.
    reordered: u32 @ 220,
    /// Segments that came out of order.
    out_of_order: u32 @ 224,
    /// Window the peer offers, bytes.
    peer_window: u32 @ 228,
    /// Window offered to the peer, bytes.
    own_window: u32 @ 232,
    /// Time-outs.
    timeouts: u16 @ 240,
}

impl TcpInfo {
    /// Whether this kernel tells why a connection had to wait (4.10 and later).
    pub fn knows_limits(&self) -> bool {
        self.bytes >= 192
    }
    /// Whether this kernel tells the peer's window (5.4 and later).
    pub fn knows_peer_window(&self) -> bool {
        self.bytes >= 232
    }
}

mod read {
    use crate::netlink::{ne16, ne32};
    pub(super) fn u8(bytes: &[u8], at: usize) -> u8 {
        bytes.get(at).copied().unwrap_or(0)
    }
    pub(super) fn u16(bytes: &[u8], at: usize) -> u16 {
        ne16(bytes, at)
    }
    pub(super) fn u32(bytes: &[u8], at: usize) -> u32 {
        ne32(bytes, at)
    }
    pub(super) fn u64(bytes: &[u8], at: usize) -> u64 {
        let mut value = [0; 8];
        match bytes.get(at..at + 8) {
            Some(b) => value.copy_from_slice(b),
            None => return 0,
        }
        u64::from_ne_bytes(value)
    }
}

/// A netlink socket that asks about the sockets of the namespace it was opened in.
#[derive(Debug)]
pub struct Diag {
    socket: Netlink,
    unreadable: u64,
}

impl Diag {
    /// Opens one in this thread's namespace. Needs no privilege; without CAP_NET_ADMIN all but marks is told.
    pub fn open() -> Result<Diag> {
        Ok(Diag { socket: Netlink::open(NETLINK_SOCK_DIAG)?, unreadable: 0 })
    }

    /// TCP sockets of both families that pass the filter, listeners and half-open ones with them.
    pub fn tcp(&mut self, filter: &Filter) -> Result<Vec<Socket>> {
        self.dump(libc::IPPROTO_TCP as u8, filter)
    }

    /// UDP sockets of both families that pass the filter. A kernel without the module for it refuses.
    pub fn udp(&mut self, filter: &Filter) -> Result<Vec<Socket>> {
        self.dump(libc::IPPROTO_UDP as u8, filter)
    }

    /// The same socket as it is now; none where it is gone.
    pub fn again(&mut self, id: &SocketId) -> Result<Option<Socket>> {
        let mut batch = Batch::new();
        let request = request(id.family, id.protocol, u32::MAX, &id.id);
        batch.message("socket", 0, SOCK_DIAG_BY_FAMILY, 0, &request);
        let mut found = None;
        let asked = self.socket.ask(batch, |_, body| found = parse(body, id.protocol));
        match asked {
            // stale: the addresses are there, but it is another socket
            Err(Error::Netlink { errno, .. }) if [libc::ENOENT, libc::ESTALE].contains(&errno.0) => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(found),
        }
    }

    /// Messages of the kernel that could not be read, since the socket was opened.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    fn dump(&mut self, protocol: u8, filter: &Filter) -> Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        let mut unreadable = 0;
        let program = filter.program();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let mut batch = Batch::new();
            {
                let header = request(family, protocol, filter.states(), &[0; ID]);
                let mut message =
                    batch.message("sockets", u32::from(family), SOCK_DIAG_BY_FAMILY, DUMP, &header);
                if !program.is_empty() {
                    message.attr(INET_DIAG_REQ_BYTECODE, &program);
                }
            }
            self.socket.ask(batch, |_, body| match parse(body, protocol) {
                Some(socket) => sockets.push(socket),
                None => unreadable += 1,
            })?;
        }
        self.unreadable += unreadable;
        Ok(sockets)
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> [u8; 8 + ID] {
    let mut request = [0; 8 + ID];
    request[0] = family;
    request[1] = protocol;
    request[2] = EXTENSIONS;
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    request[8..].copy_from_slice(id);
    request
}

/// One message. None where it is shorter than its fixed part or of another family.
fn parse(body: &[u8], protocol: u8) -> Option<Socket> {
    let fixed = body.get(..MSG)?;
    let family = fixed[0];
    let id: [u8; ID] = fixed[4..4 + ID].try_into().ok()?;
    let state = State::of(fixed[1]);
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let mut socket = Socket {
        state,
        local: SocketAddr::new(address(family, id.get(4..20)?)?, port(0)),
        remote: SocketAddr::new(address(family, id.get(20..36)?)?, port(2)),
        id: SocketId { family, protocol, id },
        timer: fixed[2],
        timer_tries: fixed[3],
        timer_ms: ne32(fixed, 52),
        receive_queue: ne32(fixed, 56),
        send_queue: ne32(fixed, 60),
        uid: ne32(fixed, 64),
        inode: ne32(fixed, 68),
        cgroup: None,
        memory: None,
        congestion: None,
        tcp: None,
    };
    for (kind, value) in attributes(body.get(MSG..).unwrap_or(&[])) {
        match kind {
            INET_DIAG_INFO if !value.is_empty() => socket.tcp = Some(TcpInfo::parse(value)),
            INET_DIAG_CONG => {
                let name = String::from_utf8_lossy(value);
                socket.congestion = Some(name.trim_end_matches('\0').chars().take(16).collect());
            }
            INET_DIAG_CGROUP_ID => socket.cgroup = Some(read::u64(value, 0)),
            INET_DIAG_SKMEMINFO => {
                let word = |n: usize| ne32(value, 4 * n);
                socket.memory = Some(Memory {
                    receive: word(0),
                    receive_max: word(1),
                    send: word(2),
                    send_max: word(3),
                    queued: word(5),
                    backlog: word(7),
                    drops: word(8),
                });
            }
            _ => {}
        }
    }
    Some(socket)
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "sock_diag_tests.rs"]
mod tests;
