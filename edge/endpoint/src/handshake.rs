//! The handshake of two hosts: TLS 1.3 over datagrams that may be lost, repeated and reordered.
//!
//! How: rustls speaks TLS as it does under QUIC, in two byte streams each way ([`Level`]). This machine cuts them into
//! datagrams, puts what arrives in order, sends again by timer what the other end has not said it has, and protects the
//! second level with TLS's handshake keys. When TLS is done, its exporter gives the secret of the pair of hosts.
//! The initiator is done when the responder has its last flight; the responder when it has read that.
//!
//! Invariants: buffers are bounded by [`STREAM_MAX`] a level and direction; a datagram that is not authentic changes
//! nothing once there are keys; every datagram handed in has an outcome; time is an argument.
//! Absent on purpose: whom to answer at all ([`crate::door`]), sockets, resumption.

use crate::error::HandshakeError;
use crate::identity::{Identity, common_name};
use crate::stream::{Incoming, Outgoing};
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Connection, KeyChange, Keys, ServerConnection, Version};
use wire::Nanos;
use wire::transport::ConnectionId;
use wire::transport::hello::{
    COOKIE_MAX, DATAGRAM_MAX, HELLO_BYTES, HELLO_TAG_BYTES, Hello, Level, Parameters, Retry, STREAM_MAX,
};
use wire::transport::packet::Reject;
use wire::transport::protection::{Cipher, Secret, schedule};

/// Times of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which the last flight is sent again; doubled each time.
    pub retry_min: Nanos,
    /// At most so long.
    pub retry_max: Nanos,
    /// Time after which it is given up; and for which a responder that is done still answers.
    pub give_up: Nanos,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_min: Nanos::from_millis(20),
            retry_max: Nanos::from_millis(1_000),
            give_up: Nanos::from_millis(10_000),
        }
    }
}

/// Datagrams of the second level kept until its keys are there.
const EARLY_MAX: usize = 8;
/// Cookies an initiator follows: the first, and where it expired on the way.
const RETRIES_MAX: u8 = 4;
/// Room a datagram leaves for a piece.
const PIECE_MAX: usize = DATAGRAM_MAX - HELLO_BYTES - HELLO_TAG_BYTES;

/// What both ends know when a handshake is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The secret of the pair of hosts.
    pub pair: Secret,
    /// The cipher agreed on.
    pub cipher: Cipher,
    /// This end began.
    pub initiator: bool,
    /// What we said.
    pub ours: Parameters,
    /// What the peer said.
    pub theirs: Parameters,
    /// The name in the peer's certificate.
    pub peer: String,
}

/// Why a datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// It cannot be read.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// Of another handshake, or from the wrong end.
    #[error("of another handshake")]
    NotOurs,
    /// Not authentic.
    #[error("the tag is wrong")]
    Forged,
    /// It needs keys that are not there yet, and as many as may be wait already.
    #[error("too early")]
    TooEarly,
    /// A piece beyond the longest stream, or in more parts than are kept.
    #[error("a piece that is not kept")]
    NotKept,
    /// A cookie where none is wanted any more.
    #[error("a cookie nobody asked for")]
    Unasked,
    /// The handshake is over.
    #[error("the handshake is over")]
    Over,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Running,
    Done,
    Failed(HandshakeError),
}

/// One end of one handshake.
pub struct Handshake {
    tls: Option<Box<Connection>>,
    keys: Option<Keys>,
    initiator: bool,
    id: u64,
    cookie: Vec<u8>,
    retries: u8,
    ours: Parameters,
    out: [Outgoing; 2],
    inn: [Incoming; 2],
    /// Level TLS writes to.
    writes: Level,
    number: u32,
    /// Something arrived that wants to be confirmed.
    confirm: bool,
    early: Vec<Vec<u8>>,
    state: State,
    result: Option<Established>,
    alert: Option<u8>,
    hint: Option<AlertDescription>,
    timing: Timing,
    began: Nanos,
    retry_at: Option<Nanos>,
    wait: Nanos,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Handshake {
    /// The end that begins, with the host whose certificate says `peer`. `id` is random.
    pub fn initiate(
        now: Nanos,
        identity: &Identity,
        peer: &str,
        ours: Parameters,
        id: u64,
        timing: Timing,
    ) -> Result<Self, HandshakeError> {
        let name = ServerName::try_from(peer.to_owned())
            .map_err(|_| HandshakeError::Name { name: peer.to_owned() })?;
        let tls = ClientConnection::new(identity.client.clone(), Version::V1, name, said(&ours))
            .map_err(HandshakeError::Tls)?;
        let mut handshake = Self::new(now, Connection::Client(tls), true, ours, id, timing);
        handshake.converse(now);
        handshake.failure().map_or(Ok(()), Err)?;
        Ok(handshake)
    }

    /// The other end, for an initiator whose address is known to be its own.
    pub fn respond(
        now: Nanos,
        identity: &Identity,
        ours: Parameters,
        id: u64,
        timing: Timing,
    ) -> Result<Self, HandshakeError> {
        let tls = ServerConnection::new(identity.server.clone(), Version::V1, said(&ours))
            .map_err(HandshakeError::Tls)?;
        Ok(Self::new(now, Connection::Server(tls), false, ours, id, timing))
    }

    fn new(now: Nanos, tls: Connection, initiator: bool, ours: Parameters, id: u64, timing: Timing) -> Self {
        Self {
            tls: Some(Box::new(tls)),
            keys: None,
            initiator,
            id,
            cookie: Vec::new(),
            retries: 0,
            ours,
            out: Default::default(),
            inn: Default::default(),
            writes: Level::Plain,
            number: 0,
            confirm: false,
            early: Vec::new(),
            state: State::Running,
            result: None,
            alert: None,
            hint: None,
            timing,
            began: now,
            retry_at: None,
            wait: timing.retry_min,
        }
    }

    /// Its number, as in its datagrams.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// The id this end chose for the connection.
    pub fn connection(&self) -> ConnectionId {
        self.ours.connection
    }
    /// This end is done: [`Handshake::take`] has the result, if it was not taken.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }
    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<HandshakeError> {
        if let State::Failed(e) = &self.state { Some(e.clone()) } else { None }
    }
    /// The result, once.
    pub fn take(&mut self) -> Option<Established> {
        if self.is_done() { self.result.take() } else { None }
    }
    /// After this time nothing of it matters any more.
    pub fn ends_at(&self) -> Nanos {
        self.began + self.timing.give_up
    }

    /// A datagram of the types Hello and Retry arrived.
    pub fn handle_input(&mut self, now: Nanos, datagram: &[u8]) -> Result<(), Dropped> {
        if let Ok(retry) = Retry::read(datagram) {
            return self.follow(now, &retry);
        }
        let (hello, header) = Hello::read(datagram)?;
        if hello.id != self.id || hello.answer != self.initiator {
            return Err(Dropped::NotOurs);
        }
        if matches!(self.state, State::Failed(_)) {
            // say once more why
            self.confirm = true;
            return Err(Dropped::Over);
        }
        let mut bytes = datagram.to_vec();
        let (head, body) = bytes.split_at_mut(header);
        let piece: &[u8] = match (hello.level, &self.keys) {
            (Level::Plain, _) => body,
            (Level::Handshake, Some(keys)) => {
                let number = u64::from(hello.number);
                keys.remote.packet.decrypt_in_place(number, head, body).map_err(|_| Dropped::Forged)?
            }
            (Level::Handshake, None) => {
                if self.early.len() >= EARLY_MAX {
                    return Err(Dropped::TooEarly);
                }
                self.early.push(datagram.to_vec());
                return Ok(());
            }
        };
        if hello.refusal {
            return self.refused(hello.level, piece);
        }
        for (out, arrived) in self.out.iter_mut().zip(hello.arrived) {
            out.acknowledge(arrived);
        }
        if !piece.is_empty() {
            let Some(stream) = self.inn.get_mut(hello.level as usize) else { return Err(Dropped::NotKept) };
            self.confirm = true;
            if !stream.insert(hello.offset, piece) {
                return Err(Dropped::NotKept);
            }
        }
        self.converse(now);
        Ok(())
    }

    /// The responder wants a cookie shown.
    fn follow(&mut self, now: Nanos, retry: &Retry<'_>) -> Result<(), Dropped> {
        if retry.id != self.id || !self.initiator {
            return Err(Dropped::NotOurs);
        }
        let heard = self.keys.is_some() || self.inn.iter().any(|s| s.arrived() > 0);
        if heard
            || self.retries >= RETRIES_MAX
            || retry.cookie.len() > COOKIE_MAX
            || retry.cookie == self.cookie
        {
            return Err(Dropped::Unasked);
        }
        self.retries += 1;
        self.cookie = retry.cookie.to_vec();
        self.out.iter_mut().for_each(Outgoing::again);
        self.wait = self.timing.retry_min;
        self.retry_at = Some(now + self.wait);
        Ok(())
    }

    fn refused(&mut self, level: Level, piece: &[u8]) -> Result<(), Dropped> {
        let &[alert] = piece else { return Err(Dropped::NotKept) };
        let alert = AlertDescription::from(alert);
        if level == Level::Handshake {
            self.fail(HandshakeError::Refused { alert });
        } else {
            // anybody can say that
            self.hint = Some(alert);
        }
        Ok(())
    }

    fn fail(&mut self, error: HandshakeError) {
        self.state = State::Failed(error);
        self.retry_at = None;
        self.early.clear();
    }

    /// Hands TLS what is in order and takes what it says.
    fn converse(&mut self, now: Nanos) {
        loop {
            let Some(tls) = self.tls.as_deref_mut() else { return };
            for stream in &mut self.inn {
                let ready = stream.take();
                if ready.is_empty() {
                    continue;
                }
                if let Err(e) = tls.read_hs(&ready) {
                    self.alert = tls.alert().map(u8::from);
                    self.confirm = true;
                    return self.fail(HandshakeError::Tls(e));
                }
            }
            let mut said = false;
            loop {
                let mut flight = Vec::new();
                let change = tls.write_hs(&mut flight);
                let Some(out) = self.out.get_mut(self.writes as usize) else { return };
                if !out.append(&flight) {
                    let bytes = out.len() + flight.len();
                    return self.fail(HandshakeError::Oversize { bytes });
                }
                said |= !flight.is_empty();
                match change {
                    Some(KeyChange::Handshake { keys }) => {
                        self.keys = Some(keys);
                        self.writes = Level::Handshake;
                    }
                    Some(KeyChange::OneRtt { .. }) => {}
                    None if flight.is_empty() => break,
                    None => {}
                }
            }
            if said {
                self.wait = self.timing.retry_min;
                self.retry_at = Some(now + self.wait);
            }
            if !tls.is_handshaking() && self.result.is_none() {
                match established(tls, self.initiator, &self.ours) {
                    Ok(result) => self.result = Some(result),
                    Err(e) => {
                        // TLS is content and we are not: internal_error
                        self.alert = Some(80);
                        self.confirm = true;
                        return self.fail(e);
                    }
                }
            }
            if self.keys.is_none() || self.early.is_empty() {
                break;
            }
            for datagram in std::mem::take(&mut self.early) {
                // as if it had come just now
                let _ = self.handle_input(now, &datagram);
            }
        }
        let confirmed = self.out.iter().all(Outgoing::is_confirmed);
        if confirmed {
            self.retry_at = None;
        }
        if self.result.is_some() && (confirmed || !self.initiator) && self.state == State::Running {
            self.state = State::Done;
            // what remains is to answer repeated questions
            self.tls = None;
            self.retry_at = None;
        }
    }

    /// The next datagram to send, appended. False where there is none.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) -> bool {
        if let (State::Failed(_), Some(alert)) = (&self.state, self.alert) {
            let due = std::mem::take(&mut self.confirm);
            return due && self.write(self.level_of_last(), 0, &[alert], true, out);
        }
        for level in Level::ALL {
            let Some(stream) = self.out.get_mut(level as usize) else { continue };
            // a responder that is done knows that all of its own has arrived
            if self.state != State::Running && !self.initiator {
                break;
            }
            if let Some((offset, piece)) = stream.poll(PIECE_MAX - self.cookie.len()) {
                self.confirm = false;
                return self.write(level, offset, &piece, false, out);
            }
        }
        if std::mem::take(&mut self.confirm) {
            return self.write(self.level_of_last(), 0, &[], false, out);
        }
        false
    }

    fn level_of_last(&self) -> Level {
        if self.keys.is_some() { Level::Handshake } else { Level::Plain }
    }

    fn write(&mut self, level: Level, offset: u16, piece: &[u8], refusal: bool, out: &mut Vec<u8>) -> bool {
        let [plain, handshake] = &self.inn;
        let hello = Hello {
            answer: !self.initiator,
            level,
            refusal,
            id: self.id,
            number: self.number,
            arrived: [plain.arrived(), handshake.arrived()],
            offset,
            cookie: &self.cookie,
        };
        let start = out.len();
        hello.write(out);
        let header = out.len() - start;
        out.extend_from_slice(piece);
        if level == Level::Handshake {
            let Some(keys) = &self.keys else { return false };
            let (head, body) = out.get_mut(start..).unwrap_or_default().split_at_mut(header);
            // fails for pieces longer than any datagram only
            let Ok(tag) = keys.local.packet.encrypt_in_place(u64::from(self.number), head, body) else {
                out.truncate(start);
                return false;
            };
            out.extend_from_slice(tag.as_ref());
        }
        match self.number.checked_add(1) {
            Some(next) => self.number = next,
            None => self.fail(HandshakeError::TimedOut { hint: self.hint }),
        }
        true
    }

    /// When to call [`Handshake::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Nanos> {
        match self.state {
            State::Running => Some(self.retry_at.unwrap_or(self.ends_at()).min(self.ends_at())),
            _ => None,
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Nanos) {
        if self.state != State::Running {
            return;
        }
        if now >= self.ends_at() {
            return self.fail(HandshakeError::TimedOut { hint: self.hint });
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.out.iter_mut().for_each(Outgoing::again);
            self.wait = Nanos((self.wait.0 * 2).min(self.timing.retry_max.0));
            self.retry_at = Some(now + self.wait);
        }
    }
}

fn said(parameters: &Parameters) -> Vec<u8> {
    let mut out = Vec::new();
    parameters.write(&mut out);
    out
}

fn established(tls: &Connection, initiator: bool, ours: &Parameters) -> Result<Established, HandshakeError> {
    let theirs = tls.quic_transport_parameters().unwrap_or(&[]);
    let theirs = Parameters::read(theirs).map_err(HandshakeError::Parameters)?;
    let (first, second) = if initiator { (ours, &theirs) } else { (&theirs, ours) };
    let cipher = Parameters::agree(first, second).ok_or(HandshakeError::NoCipher)?;
    let certificate = tls.peer_certificates().and_then(|c| c.first());
    let peer = certificate.and_then(common_name).ok_or(HandshakeError::Nameless)?;
    let pair =
        tls.export_keying_material([0; 32], schedule::PAIR, None).map(Secret).map_err(HandshakeError::Tls)?;
    Ok(Established { pair, cipher, initiator, ours: ours.clone(), theirs, peer })
}

/// Longest stream, as a length.
pub(crate) const STREAM_BYTES_MAX: usize = STREAM_MAX as usize;
