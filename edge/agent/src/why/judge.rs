//! From facts to an answer: causes by how sure they are, the numbers that say so, and what was ruled out.
//!
//! How: each connection is judged apart ([`rules`]): direct evidence first (a carrier that went, a table that is full, a
//! process that waited for a processor), then what the connection's own counters tell apart. Each rule gives a
//! confidence between 0 and 1. Where two rules both speak and neither explains the other, both lose ([`settle`]). The
//! answers of all connections are then joined: one page, the surest cause first.
//!
//! Invariants: pure; the same facts give the same answer. [`SURE`] or more is given only to a cause whose near-misses the
//! same facts exclude: one end alone never makes a cause sure that the other end decides.
//! Absent on purpose: the cause of the cause. A full queue is named, not who filled it.

use super::facts::*;
use super::rules;
use super::signs::Connection;
use serde::{Deserialize, Serialize};
use std::fmt;

/// From here on an answer counts as said with confidence.
pub const SURE: f64 = 0.8;
/// Below this a cause is not worth a line.
pub(super) const WORTH: f64 = 0.15;
/// Causes on one page.
const CAUSES_MAX: usize = 6;

/// What can slow a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The receiving program does not read although it could.
    SlowReader,
    /// The receiving program wants to read and gets no processor.
    StarvedReceiver,
    /// The sending program wants to write and gets no processor.
    StarvedSender,
    /// The path loses packets without being full.
    LossyLink,
    /// The path is full.
    CongestedLink,
    /// Full-size packets do not get through, small ones do.
    WrongMtu,
    /// The table of tracked connections is full.
    FullConntrack,
    /// More connections wait to be accepted than fit.
    FullListenQueue,
    /// A link comes and goes.
    FlappingLink,
    /// The other end cannot be reached.
    Unreachable,
    /// The other end's host answers, but not this connection.
    Unanswered,
    /// Packets overtake each other.
    Reordering,
    /// The sender's own buffer is too small for the path.
    SmallSendBuffer,
    /// The sending program has nothing to send.
    NothingToSend,
    /// Data flows as fast as the path and the window give.
    RunsWell,
}

impl Cause {
    /// In a few words.
    pub fn title(self) -> &'static str {
        match self {
            Cause::SlowReader => "slow reader",
            Cause::StarvedReceiver => "receiver starved of processor time",
            Cause::StarvedSender => "sender starved of processor time",
            Cause::LossyLink => "lossy link",
            Cause::CongestedLink => "congested link",
            Cause::WrongMtu => "wrong MTU on the path",
            Cause::FullConntrack => "full connection tracking table",
            Cause::FullListenQueue => "full listen queue",
            Cause::FlappingLink => "flapping link",
            Cause::Unreachable => "unreachable peer",
            Cause::Unanswered => "host answers, connection does not",
            Cause::Reordering => "reordering",
            Cause::SmallSendBuffer => "send buffer too small",
            Cause::NothingToSend => "nothing to send",
            Cause::RunsWell => "runs well",
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Cause::SlowReader => {
                "look into the receiving program: it sleeps while data waits; the network is not at fault"
            }
            Cause::StarvedReceiver => {
                "give the receiving program processor time: raise its quota or priority, or move what runs beside it"
            }
            Cause::StarvedSender => {
                "give the sending program processor time: raise its quota or priority, or move what runs beside it"
            }
            Cause::LossyLink => {
                "look for damaged frames (optics, cables, FEC) on the links of the path; `selvedge trace` shows the loss of each hop"
            }
            Cause::CongestedLink => {
                "find what fills the narrowest link; spread the load or raise its rate; `selvedge trace` shows the delay of each hop"
            }
            Cause::WrongMtu => {
                "make the MTU the same along the path, or let \"packet too big\" messages through; until then set net.ipv4.tcp_mtu_probing=1 or the route's mtu"
            }
            Cause::FullConntrack => {
                "raise net.netfilter.nf_conntrack_max, shorten its time-outs, or do not track this traffic"
            }
            Cause::FullListenQueue => {
                "make the server accept faster or listen with a longer queue (its backlog and net.core.somaxconn)"
            }
            Cause::FlappingLink => "look at cable, optics and the device at the other end of that link",
            Cause::Unreachable => {
                "check that the peer's host is up, the route to it, and what filters on the way"
            }
            Cause::Unanswered => {
                "ask the peer's host: a full listen queue, a full tracking table or a filter look the same from here"
            }
            Cause::Reordering => "check that the network keeps each flow on one path",
            Cause::SmallSendBuffer => {
                "let the kernel size the buffer (no SO_SNDBUF), or raise net.ipv4.tcp_wmem"
            }
            Cause::NothingToSend => "look into the sending program: the connection waits for it",
            Cause::RunsWell => "nothing to do",
        }
    }

    /// Whether it says that nothing is wrong with host, path and peer.
    pub fn harmless(self) -> bool {
        matches!(self, Cause::NothingToSend | Cause::RunsWell)
    }
}

/// Where a cause is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At this host.
    Host(String),
    /// Between the two.
    Path,
    /// At the other end, whose host could not be asked by name.
    Peer,
    /// Not known.
    Unknown,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host(name) => write!(f, "host {name}"),
            Place::Path => f.write_str("the path"),
            Place::Peer => f.write_str("the peer"),
            Place::Unknown => f.write_str("place unknown"),
        }
    }
}

/// A cause with what speaks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The cause.
    pub cause: Cause,
    /// Where.
    pub place: Place,
    /// 0 to 1; [`SURE`] and more is meant to be relied on.
    pub confidence: f64,
    /// The numbers.
    pub evidence: Vec<String>,
    /// What to do.
    pub advice: String,
    /// Connections it was seen on.
    pub connections: Vec<String>,
}

/// A cause that was looked for and not found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuledOut {
    /// The cause.
    pub cause: Cause,
    /// Why not.
    pub because: String,
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// This slows it.
    Slowed(Cause),
    /// Nothing of host, path and peer slows it.
    NotSlowed(Cause),
    /// The facts do not decide.
    NotKnown,
    /// There is no such connection.
    NothingFound,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// In one word; the first of the causes, where it is worth saying.
    pub verdict: Verdict,
    /// What was looked at, one line a connection.
    pub subjects: Vec<String>,
    /// Causes, surest first.
    pub causes: Vec<Ranked>,
    /// What was looked for and not found.
    pub ruled_out: Vec<RuledOut>,
    /// What could not be looked at.
    pub missing: Vec<String>,
}

impl Answer {
    /// Confidence of the first cause; 0 where there is none.
    pub fn confidence(&self) -> f64 {
        self.causes.first().map_or(0.0, |c| c.confidence)
    }
}

/// What one rule found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) cause: Cause,
    pub(super) place: Place,
    pub(super) confidence: f64,
    pub(super) evidence: Vec<String>,
}

/// Judges.
pub fn judge(facts: &Facts) -> Answer {
    let mut causes: Vec<Ranked> = Vec::new();
    let mut ruled_out: Vec<RuledOut> = Vec::new();
    let mut subjects = Vec::new();
    let local = &facts.local;
    let judged = local.sockets.iter().map(|socket| {
        let connection = Connection::of(local, socket, facts.peer.as_ref());
        (subject(socket), rules::connection(facts, &connection))
    });
    let judged: Vec<_> = judged.collect();
    // without a connection to look at, the way to the other end can still be judged
    let judged = if judged.is_empty() { vec![(String::new(), rules::way_only(facts))] } else { judged };
    let mut unclear = 0;
    for (name, (found, excluded)) in judged {
        let found = settle(found);
        unclear += u32::from(found.is_empty());
        for f in found {
            let same = causes.iter_mut().find(|r| r.cause == f.cause && r.place == f.place);
            match same {
                Some(r) => {
                    if f.confidence > r.confidence {
                        (r.confidence, r.evidence) = (f.confidence, f.evidence);
                    }
                    r.connections.push(name.clone());
                }
                None => causes.push(Ranked {
                    cause: f.cause,
                    place: f.place,
                    confidence: f.confidence,
                    evidence: f.evidence,
                    advice: f.cause.advice().to_string(),
                    connections: if name.is_empty() { Vec::new() } else { vec![name.clone()] },
                }),
            }
        }
        for r in excluded {
            if !ruled_out.iter().any(|known| known.cause == r.cause) {
                ruled_out.push(r);
            }
        }
        if !name.is_empty() {
            subjects.push(name);
        }
    }
    ruled_out.retain(|r| !causes.iter().any(|c| c.cause == r.cause));
    // where something is wrong with one connection, that another one is fine comes last
    causes.sort_by(|a, b| {
        let rank = |r: &Ranked| (!r.cause.harmless(), r.confidence);
        let (a, b) = (rank(a), rank(b));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    if causes.first().is_some_and(|c| c.confidence < 0.5) && causes.iter().any(|c| c.cause.harmless()) {
        causes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    }
    causes.truncate(CAUSES_MAX);
    let verdict = match causes.first() {
        _ if subjects.is_empty() && causes.is_empty() => Verdict::NothingFound,
        Some(first) if first.confidence >= 0.5 && first.cause.harmless() => Verdict::NotSlowed(first.cause),
        Some(first) if first.confidence >= 0.5 => Verdict::Slowed(first.cause),
        _ => Verdict::NotKnown,
    };
    let mut missing = local.missing.clone();
    match &facts.peer {
        None => missing.push("the peer's host was not asked: what only it knows is missing".to_string()),
        Some(peer) => missing.extend(peer.missing.iter().map(|m| format!("{}: {m}", peer.host))),
    }
    if facts.path.is_none() {
        missing.push("no probes of the path".to_string());
    }
    if local.sockets_left_out > 0 {
        missing.push(format!("{} connections more than could be followed", local.sockets_left_out));
    }
    if unclear > 0 && subjects.len() > 1 {
        missing.push(format!("{unclear} connections whose facts decide nothing"));
    }
    Answer { verdict, subjects, causes, ruled_out, missing }
}

fn subject(s: &SocketFacts) -> String {
    let owner = s.pid.map_or(String::new(), |pid| format!(" (process {pid})"));
    format!("{} to {}{owner}", s.local, s.remote)
}

/// Whether `a`, where it is so, also makes the signs of `b`.
fn explains(a: Cause, b: Cause) -> bool {
    use Cause::*;
    match a {
        FlappingLink => matches!(
            b,
            LossyLink | CongestedLink | Unreachable | Unanswered | RunsWell | NothingToSend | Reordering
        ),
        FullConntrack | FullListenQueue => {
            matches!(b, Unanswered | Unreachable | LossyLink | NothingToSend | SlowReader)
        }
        Unreachable => matches!(b, Unanswered | LossyLink | WrongMtu),
        WrongMtu => matches!(b, LossyLink | Unanswered),
        StarvedReceiver => matches!(b, SlowReader | CongestedLink),
        StarvedSender => matches!(b, NothingToSend),
        CongestedLink => matches!(b, RunsWell | Reordering),
        LossyLink => matches!(b, RunsWell | Reordering),
        SlowReader => matches!(b, RunsWell | CongestedLink),
        _ => false,
    }
}

/// Lets causes explain each other, and lowers those that contradict each other: of two that both speak and explain
/// nothing of each other, each loses in proportion to how loud the other is.
pub(super) fn settle(found: Vec<Found>) -> Vec<Found> {
    let mut out = Vec::new();
    for (i, f) in found.iter().enumerate() {
        let mut confidence = f.confidence;
        for (j, other) in found.iter().enumerate() {
            if i == j || other.confidence < WORTH || other.cause == f.cause {
                continue;
            }
            if explains(other.cause, f.cause) && other.confidence >= f.confidence * 0.9 {
                confidence *= 1.0 - 0.8 * other.confidence;
            } else if !explains(f.cause, other.cause) && !other.cause.harmless() {
                confidence *= 1.0 - 0.4 * other.confidence;
            }
        }
        if confidence >= WORTH {
            out.push(Found { confidence: (confidence * 100.0).round() / 100.0, ..f.clone() });
        }
    }
    out.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    out
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
