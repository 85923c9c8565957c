//! How an endpoint behaves.
//!
//! Absent on purpose: reading it from a file; that is `app`.

use crate::handshake::Timing;
use crate::steer::PathTable;
use crate::trace::Tracer;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use wire::Nanos;
use wire::transport::packet::DATA_HEADER_USUAL_MAX;
use wire::transport::protection::TAG_MAX;

/// Bytes of IPv6 and UDP headers around a datagram (RFC 8200, RFC 768).
pub(crate) const AROUND: u16 = 48;

/// Parameters of an endpoint and of all its connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state machine's. `chunk_bytes`, `header_bytes` and `evs` are set from the fields below and the peer's.
    pub transport: transport::Config,
    /// Longest datagram sent or received, bytes of UDP payload, 256 to 65,527. Those of a connection are shorter where a
    /// route to its peer has room for less when it is opened, encapsulation included.
    pub datagram_bytes_max: u16,
    /// Datagrams handed to the kernel together at most, 1 to 64: 44 of 1,448 bytes are what fits. All of them take one path;
    /// where little may be on the way, or little is left to send, they are fewer.
    pub segments_max: usize,
    /// Go without encryption where the peer wishes that too: for fabrics whose every port is trusted.
    pub trusted: bool,
    /// The handshake's times.
    pub timing: Timing,
    /// Handshakes of others that may be open at once.
    pub handshakes_max: usize,
    /// Connections, at most 65,536.
    pub connections_max: usize,
    /// Bytes of tagged messages kept for one connection, begun ones at their full length: while more would be, no new
    /// message is begun but those somebody waits for, and of these as many bytes again.
    pub receive_bytes_max: u64,
    /// Messages and completed writes kept for one connection until somebody asks for them; likewise.
    pub receive_messages_max: usize,
    /// Messages the application may give to one connection before the first is on its way.
    pub send_messages_max: usize,
    /// This host's addresses, one for each plane of the fabric, in an order that is the same on every host; at most 16.
    /// EVs take the planes in turn. None: the one it is bound to.
    pub addresses: Vec<Ipv6Addr>,
    /// Socket buffers, bytes each way.
    pub buffer_bytes: usize,
    /// The fabric's paths to the peers, where they are known: EVs go along them. None: by flow label.
    pub paths: Option<Arc<PathTable>>,
    /// Socket of the host's agent, which is told what became of packets on the paths of the table. None: nobody is.
    pub report_to: Option<PathBuf>,
    /// Window of these reports, default 200 ms.
    pub report_every: Nanos,
    /// Where to write what every connection does. None: nowhere.
    pub trace: Option<Tracer>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            transport: transport::Config {
                // a processor core at each end, and the time they take to wake up
                rate_bps: 25_000_000_000,
                rtt_base: Nanos(200_000),
                queue_target: Nanos(500_000),
                ack_every_bytes: 65_536,
                message_bytes_max: u64::from(u32::MAX),
                keep_alive: Some(Nanos::from_secs(30)),
                ..transport::Config::default()
            },
            datagram_bytes_max: 1_448,
            segments_max: 44,
            trusted: false,
            timing: Timing::default(),
            handshakes_max: 256,
            connections_max: 16_384,
            receive_bytes_max: 1 << 30,
            receive_messages_max: 1_024,
            send_messages_max: 4_096,
            addresses: Vec::new(),
            buffer_bytes: 8 << 20,
            paths: None,
            report_to: None,
            report_every: Nanos::from_millis(200),
            trace: None,
        }
    }
}

impl Config {
    /// The state machine's parameters for a peer that takes datagrams of `theirs` bytes and keeps `evs` EVs apart.
    pub(crate) fn machine(&self, theirs: u16, evs: u16) -> transport::Config {
        let datagram = self.datagram_bytes_max.min(theirs).max(256);
        let header = (DATA_HEADER_USUAL_MAX + TAG_MAX) as u16;
        transport::Config {
            chunk_bytes: datagram - header,
            header_bytes: header + AROUND,
            evs: self.transport.evs.min(evs).max(1),
            ..self.transport
        }
    }
}
