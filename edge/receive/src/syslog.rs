//! Syslog: messages by UDP and TCP (RFC 5424 and what RFC 3164 describes), for the ports that go up and down.
//!
//! How: a message is taken apart ([`message`]); what a table of known texts recognises becomes a link event ([`link`]); of
//! the rest only what is at least as severe as [`Config::severity_max`] is kept, at a bounded rate for each device.
//! Invariants: every message is counted, as kept or by the reason it was dropped; a message is at most
//! [`Config::message_bytes_max`] long, what is longer is cut (UDP) or passed over (TCP); at most so many connections;
//! datagrams the kernel had no room for are counted.
//! Absent on purpose: TLS (RFC 5425), relaying, and taking a sender's word for who it is beyond what a datagram can prove:
//! syslog has no proof, so its events are evidence beside counters, and its door belongs into a management network.

pub mod framing;
pub mod link;
pub mod message;

use crate::door::{self, Running};
use crate::error::ReceiveError;
use crate::intake::{Intake, believable, now};
use crate::rows::{Dropped, LinkEvent, LogRow, Receiver};
use crate::setting::{self, time};
use framing::Framing;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use wire::Nanos;

/// Bytes of the kernel's receive buffer asked for.
const RECEIVE_BYTES: usize = 4 << 20;
/// How long a thread waits for datagrams before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(100);
/// What a port that goes up or down takes of its device's rate: a switch that starts says so of each.
const LINK_COST: f64 = 0.1;
/// Devices whose rate is kept apart; those beyond share one.
const DEVICES_MAX: usize = 10_000;

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where datagrams come, default nowhere; the port is 514.
    pub udp: Option<SocketAddr>,
    /// Where connections come, default nowhere; the port is 514 or 601.
    pub tcp: Option<SocketAddr>,
    /// Longest message, default 8,192 bytes (RFC 5424, section 6.1 asks for 2,048).
    pub message_bytes_max: usize,
    /// Connections at a time, default 256.
    pub connections: usize,
    /// The least severe messages that are kept as rows, default 4: warnings (RFC 5424, section 6.2.1).
    pub severity_max: u8,
    /// Messages a second that are kept of one device, default 10, and ten times as many at once. A port that goes up or
    /// down counts as a tenth of one.
    pub per_second: u32,
    /// A time stamp that is older than this is not believed, default 30 s.
    #[serde(with = "time")]
    pub clock_error_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            udp: None,
            tcp: None,
            message_bytes_max: 8_192,
            connections: 256,
            severity_max: 4,
            per_second: 10,
            clock_error_max: Duration::from_secs(30),
        }
    }
}

/// What a device may still say.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Nanos,
}

/// Takes messages, whatever way they came.
#[derive(Debug)]
pub struct Desk {
    config: Config,
    intake: Arc<Intake>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Desk {
    /// A desk that hands over to an intake.
    pub fn new(config: Config, intake: Arc<Intake>) -> Desk {
        Desk { config, intake, buckets: Mutex::default() }
    }

    /// Takes one message.
    pub fn take(&self, now: Nanos, peer: IpAddr, bytes: &[u8]) {
        let bytes = bytes.get(..self.config.message_bytes_max).unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let Some(m) = message::parse(&text) else {
            self.intake.dropped(Receiver::Syslog, Dropped::Malformed, 1);
            return;
        };
        let at = believable(m.at, now, setting::nanos(self.config.clock_error_max));
        let peer = peer.to_canonical().to_string();
        // A name the mapping knows, else the address if it knows that, else the name as told.
        let names = self.intake.names();
        let device = match m.host {
            Some(host) if names.device(host).is_some() || names.device(&peer).is_none() => host.to_owned(),
            _ => peer,
        };
        if let Some(found) = link::recognise(&m.text) {
            if !self.may(&device, now, LINK_COST) {
                self.intake.dropped(Receiver::Syslog, Dropped::Rate, 1);
                return;
            }
            self.intake.link_event(LinkEvent {
                at,
                source: Receiver::Syslog,
                device,
                interface: found.interface.to_owned(),
                up: found.up,
                text: m.text.clone(),
                component: None,
            });
            return;
        }
        if m.severity > self.config.severity_max {
            self.intake.dropped(Receiver::Syslog, Dropped::Severity, 1);
        } else if !self.may(&device, now, 1.0) {
            self.intake.dropped(Receiver::Syslog, Dropped::Rate, 1);
        } else {
            self.intake.log(LogRow {
                at,
                source: Receiver::Syslog,
                device,
                severity: m.severity,
                text: m.text,
                trace: None,
                span: None,
                labels: m.app.map(|app| ("app".to_owned(), app.to_owned())).into_iter().collect(),
            });
        }
    }

    /// Whether a device may have one more message kept, of so much of its rate.
    fn may(&self, device: &str, now: Nanos, cost: f64) -> bool {
        let rate = f64::from(self.config.per_second);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let known = buckets.contains_key(device);
        let key = if known || buckets.len() < DEVICES_MAX { device } else { "" };
        let full = Bucket { left: rate * 10.0, at: now };
        let bucket = buckets.entry(key.to_owned()).or_insert(full);
        bucket.left = (bucket.left + now.since(bucket.at).as_secs_f64() * rate).min(full.left);
        bucket.at = bucket.at.max(now);
        let may = bucket.left >= cost;
        if may {
            bucket.left -= cost;
        }
        may
    }
}

/// Begins to listen; it goes on until what is returned is dropped.
pub async fn start(config: Config, intake: Arc<Intake>) -> Result<Running, ReceiveError> {
    let mut running = Running::default();
    let desk = Arc::new(Desk::new(config.clone(), Arc::clone(&intake)));
    if let Some(address) = config.udp {
        let wrong = |reason: String| ReceiveError::Listen { what: "syslog", address, reason };
        let socket =
            kernel::intake::Intake::bind(address, RECEIVE_BYTES).map_err(|e| wrong(e.to_string()))?;
        socket.set_patience(PATIENCE).map_err(|e| wrong(e.to_string()))?;
        running.addresses.extend(socket.local().map(|at| ("udp", at)));
        let desk = Arc::clone(&desk);
        let thread = running.add_thread("syslog", move |stop| datagrams(socket, &desk, stop));
        thread.map_err(|e| wrong(e.to_string()))?;
    }
    if let Some(address) = config.tcp {
        let (listener, bound) = door::listen("syslog", address).await?;
        running.addresses.push(("tcp", bound));
        let mut connections = door::connections(
            &mut running,
            listener,
            config.connections,
            Arc::clone(&intake),
            Receiver::Syslog,
        );
        running.add(async move {
            // They end with this task.
            let mut talks = JoinSet::new();
            while let Some(Ok(connection)) = connections.next().await {
                while talks.try_join_next().is_some() {}
                talks.spawn(converse(connection, Arc::clone(&desk)));
            }
        });
    }
    Ok(running)
}

/// Takes datagrams until it should stop.
fn datagrams(mut socket: kernel::intake::Intake, desk: &Desk, stop: &AtomicBool) {
    let (mut failing, mut missed) = (false, 0);
    while !stop.load(Relaxed) {
        match socket.wait() {
            Ok(_) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "syslog cannot be received at the moment");
                }
                failing = true;
                // Not a busy loop over a socket that is broken.
                std::thread::sleep(PATIENCE);
                continue;
            }
        }
        for (from, bytes) in socket.iter() {
            match bytes {
                Some(bytes) => desk.take(now(), from.ip(), bytes),
                None => desk.intake.dropped(Receiver::Syslog, Dropped::TooLarge, 1),
            }
        }
        let dropped = socket.dropped().unwrap_or(missed);
        if dropped > missed {
            desk.intake.dropped(Receiver::Syslog, Dropped::SocketBuffer, dropped - missed);
            missed = dropped;
        }
    }
}

async fn converse(mut connection: door::Connection, desk: Arc<Desk>) {
    let peer = connection.peer().ip();
    let mut framing = Framing::new(desk.config.message_bytes_max);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = match connection.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        framing.feed(buffer.get(..n).unwrap_or_default(), |message| desk.take(now(), peer, message));
        let long = std::mem::take(&mut framing.too_long);
        if long > 0 {
            desk.intake.dropped(Receiver::Syslog, Dropped::TooLarge, long);
        }
        if framing.broken {
            desk.intake.dropped(Receiver::Syslog, Dropped::Malformed, 1);
            return;
        }
    }
    framing.end(|message| desk.take(now(), peer, message));
}

#[cfg(test)]
mod tests;
