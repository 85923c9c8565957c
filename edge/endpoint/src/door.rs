//! Who may begin a handshake with us: stateless answers first, then a bounded number of handshakes.
//!
//! How: a first datagram without a good cookie is answered with one ([`Retry`]) and forgotten. With a good one it opens
//! a [`Handshake`]; later datagrams find it by address and id.
//!
//! Invariants: nothing is kept for an address that has not shown a cookie; an answer to such an address is at most three
//! times as long as the question (RFC 9000, section 8.1; here always shorter than twice); handshakes, and answers that
//! wait, are bounded and the rest is counted.
//! Absent on purpose: limits by address. Whoever has a cookie has an address, and handshakes end by themselves.

use crate::cookie::{COOKIE_BYTES, Cookies};
use crate::error::HandshakeError;
use crate::handshake::{Dropped, Established, Handshake, Timing};
use crate::identity::Identity;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV6;
use wire::Nanos;
use wire::transport::ConnectionId;
use wire::transport::hello::{Hello, Level, Parameters, RETRY_BYTES, Retry};
use wire::transport::packet::Reject;

/// Retries that wait to be sent.
const ANSWERS_MAX: usize = 64;
/// An answer to an address not shown to be its sender's is at most so many times as long as the question
/// (RFC 9000, section 8.1).
const AMPLIFICATION: usize = 3;

/// What a datagram did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A handshake took it.
    Taken,
    /// It will be asked for a cookie.
    Challenged,
    /// It had no effect.
    Dropped(Refused),
}

/// Why a datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It cannot be read.
    Reject(Reject),
    /// Its handshake did not take it.
    Handshake(Dropped),
    /// Not an initiator's first message.
    NotABeginning,
    /// So short that asking for a cookie would be an amplification.
    TooShort,
    /// Handshakes or answers are at their limit.
    Full,
}

/// What was counted at a door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handed in.
    pub datagrams: u64,
    /// Taken by a handshake.
    pub taken: u64,
    /// Answered with a cookie.
    pub challenged: u64,
    /// Without effect: `datagrams = taken + challenged + dropped`.
    pub dropped: u64,
    /// Of those dropped: limits were reached.
    pub dropped_full: u64,
    /// Handshakes opened.
    pub opened: u64,
    /// Handshakes done.
    pub established: u64,
    /// Handshakes that failed.
    pub failed: u64,
}

/// Something that happened at a door.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A handshake is done.
    Established {
        /// Where the peer is.
        from: SocketAddrV6,
        /// Its result.
        established: Box<Established>,
    },
    /// A handshake failed.
    Failed {
        /// Where the peer is.
        from: SocketAddrV6,
        /// The id we had chosen for the connection.
        connection: ConnectionId,
        /// Why.
        error: HandshakeError,
    },
}

/// The responder's side of all handshakes.
#[derive(Debug)]
pub struct Door {
    identity: Identity,
    timing: Timing,
    handshakes_max: usize,
    cookies: Cookies,
    open: BTreeMap<(SocketAddrV6, u64), Handshake>,
    answers: VecDeque<(SocketAddrV6, u64, [u8; COOKIE_BYTES])>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Door {
    /// A door behind which at most `handshakes_max` handshakes run at once. `random` is the cookies' key.
    pub fn new(identity: Identity, timing: Timing, handshakes_max: usize, random: [u8; 32]) -> Self {
        Self {
            identity,
            timing,
            handshakes_max,
            cookies: Cookies::new(random),
            open: BTreeMap::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
    /// Handshakes kept.
    pub fn handshakes(&self) -> usize {
        self.open.len()
    }

    /// An initiator's datagram arrived. `ours` gives our parameters where it opens a handshake; `None` where there can
    /// be no more connections.
    pub fn handle_input(
        &mut self,
        now: Nanos,
        from: SocketAddrV6,
        datagram: &[u8],
        ours: impl FnOnce() -> Option<Parameters>,
    ) -> Outcome {
        let outcome = self.judge(now, from, datagram, ours);
        self.counters.datagrams += 1;
        match outcome {
            Outcome::Taken => self.counters.taken += 1,
            Outcome::Challenged => self.counters.challenged += 1,
            Outcome::Dropped(why) => {
                self.counters.dropped += 1;
                self.counters.dropped_full += u64::from(why == Refused::Full);
            }
        }
        outcome
    }

    fn judge(
        &mut self,
        now: Nanos,
        from: SocketAddrV6,
        datagram: &[u8],
        ours: impl FnOnce() -> Option<Parameters>,
    ) -> Outcome {
        let hello = match Hello::read(datagram) {
            Ok((hello, _)) => hello,
            Err(reject) => return Outcome::Dropped(Refused::Reject(reject)),
        };
        let key = (from, hello.id);
        if !self.open.contains_key(&key) {
            if hello.answer || hello.level != Level::Plain || hello.refusal {
                return Outcome::Dropped(Refused::NotABeginning);
            }
            if !self.cookies.check(now, from, hello.id, hello.cookie) {
                return self.challenge(now, from, hello.id, datagram.len());
            }
            if self.open.len() >= self.handshakes_max && !self.make_room() {
                return Outcome::Dropped(Refused::Full);
            }
            let Some(ours) = ours() else { return Outcome::Dropped(Refused::Full) };
            let connection = ours.connection;
            match Handshake::respond(now, &self.identity, ours, hello.id, self.timing) {
                Ok(handshake) => drop(self.open.insert(key, handshake)),
                Err(error) => {
                    self.counters.failed += 1;
                    self.events.push_back(Event::Failed { from, connection, error });
                    return Outcome::Dropped(Refused::NotABeginning);
                }
            }
            self.counters.opened += 1;
        }
        let Some(handshake) = self.open.get_mut(&key) else {
            return Outcome::Dropped(Refused::NotABeginning);
        };
        let over = handshake.is_done() || handshake.failure().is_some();
        let taken = handshake.handle_input(now, datagram);
        if let Some(established) = handshake.take() {
            self.counters.established += 1;
            self.events.push_back(Event::Established { from, established: Box::new(established) });
        } else if !over && let Some(error) = handshake.failure() {
            let connection = handshake.connection();
            self.counters.failed += 1;
            self.events.push_back(Event::Failed { from, connection, error });
        }
        taken.map_or_else(|why| Outcome::Dropped(Refused::Handshake(why)), |()| Outcome::Taken)
    }

    /// Forgets the oldest handshake that is over and only kept to answer repeated questions. False where there is none.
    fn make_room(&mut self) -> bool {
        let over = self.open.iter().filter(|(_, h)| h.is_done() || h.failure().is_some());
        let oldest = over.min_by_key(|(_, h)| h.ends_at()).map(|(key, _)| *key);
        oldest.is_some_and(|key| self.open.remove(&key).is_some())
    }

    fn challenge(&mut self, now: Nanos, from: SocketAddrV6, id: u64, got: usize) -> Outcome {
        if RETRY_BYTES + COOKIE_BYTES > AMPLIFICATION * got {
            return Outcome::Dropped(Refused::TooShort);
        }
        if self.answers.len() >= ANSWERS_MAX {
            return Outcome::Dropped(Refused::Full);
        }
        self.answers.push_back((from, id, self.cookies.make(now, from, id)));
        Outcome::Challenged
    }

    /// The next datagram to send, appended, and whom to.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<SocketAddrV6> {
        if let Some((from, id, cookie)) = self.answers.pop_front() {
            Retry { id, cookie: &cookie }.write(out);
            return Some(from);
        }
        self.open.iter_mut().find_map(|(key, handshake)| handshake.poll_output(out).then_some(key.0))
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Door::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.open.values().map(|h| h.next_timeout().unwrap_or(h.ends_at())).min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Nanos) {
        for ((from, _), handshake) in &mut self.open {
            let over = handshake.is_done() || handshake.failure().is_some();
            handshake.handle_timeout(now);
            if !over && let Some(error) = handshake.failure() {
                self.counters.failed += 1;
                let connection = handshake.connection();
                self.events.push_back(Event::Failed { from: *from, connection, error });
            }
        }
        self.open.retain(|_, handshake| handshake.ends_at() > now);
    }
}
