//! The answering side: a stateful STAMP Session-Reflector (RFC 8762, section 4.2).
//!
//! How: every session (who asks, from which port, under which SSID) has a sequence number of its own that grows by one
//! with every probe that arrives. The gap it leaves tells the asker on which of the two ways a probe died. The table is
//! bounded; the session longest unused makes room.
//!
//! Invariants: one probe, at most one answer, never longer than the probe; the answer goes to who asked, and by a path
//! of the plane the probe came in on or not at all; sequence numbers of a session never repeat while it is in the table.
//! Absent on purpose: bytes (see [`crate::packet`]) and the third time stamp, which is taken when the answer leaves.

use crate::counters::{Counters, Dropped};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::Ipv6Addr;
use fabric::Fabric;
use wire::{Nanos, PathId};

/// Who asks: the key of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker {
    /// Source address of the probe.
    pub addr: Ipv6Addr,
    /// Source port of the probe.
    pub port: u16,
    /// STAMP session identifier (RFC 8972, section 3); 0 where the asker knows none.
    pub ssid: u16,
}

/// The way back that was asked for (RFC 9503, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// None in particular.
    Default,
    /// By this SRv6 container of compressed segments.
    Container(Ipv6Addr),
    /// To this address.
    Address(Ipv6Addr),
    /// No answer, please.
    NoReply,
    /// Something this reflector cannot do (MPLS labels, several segments).
    Unsupported,
}

/// A probe that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub asker: Asker,
    /// The address it was sent to: one of ours.
    pub to: Ipv6Addr,
    /// Destination the asker meant (RFC 9503, section 3), where it says so.
    pub meant_for: Option<Ipv6Addr>,
    /// Sequence number of the probe.
    pub sequence: u32,
    /// When it left, by the asker's clock.
    pub t1: Nanos,
    /// When it arrived, by ours.
    pub t2: Nanos,
    /// Traffic class octet it arrived with: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label it arrived with, 20 bits.
    pub flow_label: u32,
    /// DSCP wanted for the answer (class-of-service TLV), else the one it arrived with.
    pub back_class: Option<u8>,
    /// Which way back.
    pub back: Back,
    /// The path it took, where the packet carried it.
    pub path: Option<PathId>,
    /// Whether it asks when the answer before this one left (follow-up telemetry).
    pub follow_up: bool,
}

/// An answer to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// To whom.
    pub asker: Asker,
    /// From which of our addresses.
    pub from: Ipv6Addr,
    /// The reflector's own sequence number within the session.
    pub sequence: u32,
    /// Sequence number of the probe.
    pub probe_sequence: u32,
    /// When the probe left, as it said.
    pub t1: Nanos,
    /// When it arrived.
    pub t2: Nanos,
    /// Traffic class octet for the answer.
    pub traffic_class: u8,
    /// Traffic class octet of the probe as it arrived.
    pub probe_traffic_class: u8,
    /// Flow label for the answer: that of the probe.
    pub flow_label: u32,
    /// The path to take back and its container, where one was asked for.
    pub back: Option<(PathId, Ipv6Addr)>,
    /// The path the probe took, where known.
    pub probe_path: Option<PathId>,
    /// Whether somebody will ask when this answer left: then [`Reflector::sent`] is to be told.
    pub follow_up: bool,
    /// The answer before this one in the session, where it was told of: its number, and when it left.
    pub before: Option<(u32, Nanos)>,
}

/// Limits of a reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReflectorConfig {
    /// Sessions kept. At least 1.
    pub sessions_max: usize,
    /// Answer only NICs of the fabric.
    pub fabric_only: bool,
}

impl Default for ReflectorConfig {
    fn default() -> Self {
        ReflectorConfig { sessions_max: 16_384, fabric_only: true }
    }
}

#[derive(Clone, Copy, Debug)]
struct Session {
    next: u32,
    /// The newest answer whose leaving was told.
    left: Option<(u32, Nanos)>,
    /// Its place in the order of use.
    used: u64,
    used_at: Nanos,
}

/// A session moves up in the order of use at most so often.
const MOVES: Nanos = Nanos::from_secs(1);
/// A session unused so long is forgotten.
const IDLE: Nanos = Nanos::from_secs(300);

/// Answers probes. See the module.
#[derive(Debug)]
pub struct Reflector {
    fabric: Arc<Fabric>,
    config: ReflectorConfig,
    sessions: BTreeMap<Asker, Session>,
    by_use: BTreeMap<u64, Asker>,
    clock: u64,
    counters: Counters,
}

impl Reflector {
    /// An empty table.
    pub fn new(fabric: Arc<Fabric>, config: ReflectorConfig) -> Self {
        Reflector {
            fabric,
            config,
            sessions: BTreeMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            counters: Counters::default(),
        }
    }

    /// A probe arrived: its answer, or why there is none. The answer is due at once.
    pub fn handle_input(&mut self, now: Nanos, request: &Request) -> Result<Answer, Dropped> {
        let back = match self.way_back(request) {
            Ok(back) => back,
            Err(reason) => return Err(self.counters.drop(reason)),
        };
        let sequence = self.count(now, request.asker);
        self.counters.add("reflected", 1);
        let class = request.back_class.unwrap_or(request.traffic_class >> 2) & 0x3f;
        // an ECN-capable probe gets an ECN-capable answer, never a mark carried over (RFC 3168, section 5)
        let ecn = if request.traffic_class & 3 == 0 { 0 } else { 2 };
        Ok(Answer {
            asker: request.asker,
            from: request.to,
            sequence,
            probe_sequence: request.sequence,
            t1: request.t1,
            t2: request.t2,
            traffic_class: class << 2 | ecn,
            probe_traffic_class: request.traffic_class,
            flow_label: request.flow_label,
            back,
            probe_path: request.path,
            follow_up: request.follow_up,
            before: self.sessions.get(&request.asker).and_then(|s| s.left).filter(|_| request.follow_up),
        })
    }

    /// An answer has left, at this moment of our clock: the next one of the session may say so (RFC 8972, section 4.7).
    pub fn sent(&mut self, asker: Asker, sequence: u32, at: Nanos) {
        if let Some(s) = self.sessions.get_mut(&asker) {
            s.left = Some((sequence, at));
        }
    }

    /// Forgets sessions long unused.
    pub fn handle_timeout(&mut self, now: Nanos) {
        while let Some((&use_, &asker)) = self.by_use.first_key_value() {
            let idle = self.sessions.get(&asker).is_none_or(|s| now.since(s.used_at) >= IDLE);
            if !idle {
                return;
            }
            self.by_use.remove(&use_);
            self.sessions.remove(&asker);
            self.counters.add("reflector_sessions_idle", 1);
        }
    }

    /// When [`Reflector::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Nanos> {
        let (_, asker) = self.by_use.first_key_value()?;
        self.sessions.get(asker).map(|s| s.used_at + IDLE)
    }

    /// Sessions in the table, `0 ..= sessions_max`.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What was answered and what was not.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn way_back(&self, request: &Request) -> Result<Option<(PathId, Ipv6Addr)>, Dropped> {
        if request.meant_for.is_some_and(|meant| meant != request.to) {
            return Err(Dropped::WrongDestination);
        }
        let asker = self.fabric.nic_by_addr(request.asker.addr);
        if asker.is_none() && self.config.fabric_only {
            return Err(Dropped::UnknownAsker);
        }
        match request.back {
            Back::Default => Ok(None),
            Back::NoReply => Err(Dropped::NoReplyAsked),
            Back::Unsupported => Err(Dropped::UnsupportedReturnPath),
            Back::Address(addr) if addr == request.asker.addr => Ok(None),
            Back::Address(_) => Err(Dropped::HostileReturnPath),
            Back::Container(container) => {
                // whoever could name any container would have us send packets to any place: only a path of this plane
                // that ends where the probe came from will do
                let here = self.fabric.nic_by_addr(request.to).ok_or(Dropped::HostileReturnPath)?;
                let path =
                    self.fabric.path_by_container(here, container).ok_or(Dropped::HostileReturnPath)?;
                let (_, to, _) = self.fabric.path_parts(path).ok_or(Dropped::HostileReturnPath)?;
                if Some(to) != asker {
                    return Err(Dropped::HostileReturnPath);
                }
                Ok(Some((path, container)))
            }
        }
    }

    /// The session's next number; makes the session, and room for it, where there is none.
    fn count(&mut self, now: Nanos, asker: Asker) -> u32 {
        if let Some(s) = self.sessions.get_mut(&asker) {
            // the order of use is kept to the second: a busy session need not move with every packet
            if now.since(s.used_at) >= MOVES {
                self.clock += 1;
                self.by_use.remove(&s.used);
                self.by_use.insert(self.clock, asker);
                (s.used, s.used_at) = (self.clock, now);
            }
            let n = s.next;
            s.next = n.wrapping_add(1);
            return n;
        }
        if self.sessions.len() >= self.config.sessions_max.max(1)
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.sessions.remove(&oldest);
            self.counters.add("reflector_sessions_evicted", 1);
        }
        self.clock += 1;
        self.sessions.insert(asker, Session { next: 1, left: None, used: self.clock, used_at: now });
        self.by_use.insert(self.clock, asker);
        0
    }
}
