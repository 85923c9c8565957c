//! Protection of packets: keys, nonces, replay, key update.
//!
//! How: cryptography comes in through two traits, [`Suite`] (derivation) and [`Guard`] (one key). A [`Protection`] holds
//! both directions of one connection. The nonce is the packet number, with its space in the bit above, xor the key's
//! IV; everything before the payload is associated data. The header's phase bit says under which of two keys a packet
//! is; a receiver that sees a new one moves both directions on, so an answer under the new key confirms it
//! (RFC 9001, section 6). The labels of the derivation are in [`schedule`].
//!
//! Invariants: a number is sealed at most once under a key and space: numbers of the state machine must grow, others are
//! counted here; a packet is taken at most once; nothing changes because of a packet that is not authentic but a count;
//! memory is the two replay windows.
//! Absent on purpose: ciphers (the edge has them), handshake, connection ids.

use super::packet::{self, Reject, Space, Unencodable};
use super::replay::{ReplayWindow, Seen};
use super::{ConnectionId, Packet};
use crate::time::Nanos;
use alloc::vec::Vec;

/// Bytes of a nonce: 96 bits, as both AEADs have (RFC 5116, section 5.1; RFC 8439, section 2.8).
pub const NONCE_BYTES: usize = 12;
/// Bytes of the longest tag.
pub const TAG_MAX: usize = 16;
/// Bytes of a secret: what HKDF-SHA256 yields at once (RFC 5869).
pub const SECRET_BYTES: usize = 32;
/// Words of the replay window of chunks and probes: 16,384 numbers, four times what a sender has on the way.
pub const SEQUENCED_WORDS: usize = 256;
/// Words of the replay window of all others: 2,048 numbers.
pub const CONTROL_WORDS: usize = 32;
/// Packets after which a key is changed: half of what AES-128-GCM may seal (RFC 9001, section 6.6).
pub const UPDATE_AFTER: u64 = 1 << 22;
/// Packets after which a key that could not be changed seals no more (RFC 9001, section 6.6).
pub const SEALED_MOST: u64 = 1 << 23;
/// Packets that are not authentic, after which no more is opened: the limit of ChaCha20-Poly1305, which is the lower
/// one (RFC 9001, section 6.6).
pub const FORGED_MOST: u64 = 1 << 36;
/// How long the key before is kept for packets that were overtaken.
pub const OLD_KEY_KEPT: Nanos = Nanos::from_millis(1_000);
/// How long an end waits after a change before it begins another: until the key before is gone at the other end, so that
/// one bit tells old from next (RFC 9001, section 6.5).
pub const UPDATE_PAUSE: Nanos = Nanos::from_millis(2_000);

/// How packets are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cipher {
    /// AES-128-GCM (RFC 5116): encrypted and authenticated.
    Aes128Gcm = 1,
    /// ChaCha20-Poly1305 (RFC 8439): likewise, where the processor has no AES.
    ChaCha20Poly1305 = 2,
    /// Not encrypted: a CRC-32C (RFC 3720, appendix B.4) of the packet plus a secret number finds accidents and what is
    /// injected blindly, and nothing else. For fabrics whose every port is trusted.
    Trusted = 3,
}

impl Cipher {
    /// From its number on the wire.
    pub const fn from_number(number: u8) -> Option<Cipher> {
        match number {
            1 => Some(Cipher::Aes128Gcm),
            2 => Some(Cipher::ChaCha20Poly1305),
            3 => Some(Cipher::Trusted),
            _ => None,
        }
    }
    /// Bytes of its key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 16,
            Cipher::ChaCha20Poly1305 => 32,
            Cipher::Trusted => 4,
        }
    }
    /// Bytes at the end of a packet that are its tag.
    pub const fn tag_bytes(self) -> usize {
        match self {
            Cipher::Aes128Gcm | Cipher::ChaCha20Poly1305 => 16,
            Cipher::Trusted => 4,
        }
    }
}

/// 32 bytes nobody else knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_BYTES]);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One key, able to protect packets.
pub trait Guard {
    /// Encrypts the payload in place. The tag of header and payload, in the first [`Cipher::tag_bytes`] bytes.
    fn seal(&self, nonce: &[u8; NONCE_BYTES], header: &[u8], payload: &mut [u8]) -> [u8; TAG_MAX];
    /// Checks header, payload and tag; decrypts the payload in place where they are authentic. The payload is worth
    /// nothing where they are not.
    #[must_use]
    fn open(&self, nonce: &[u8; NONCE_BYTES], header: &[u8], payload: &mut [u8], tag: &[u8]) -> bool;
}

/// Makes keys.
pub trait Suite {
    /// A key that protects packets.
    type Guard: Guard;
    /// A key for a cipher from exactly [`Cipher::key_bytes`] bytes.
    fn guard(&self, cipher: Cipher, key: &[u8]) -> Self::Guard;
    /// HKDF-Expand with SHA-256 (RFC 5869, section 2.3) into `out`, at most 255 * 32 bytes.
    fn expand(&self, secret: &Secret, info: &[u8], out: &mut [u8]);
}

/// What is derived from what, and under which labels.
pub mod schedule {
    use super::{Cipher, Secret, Suite};
    use crate::transport::ConnectionId;
    use alloc::vec::Vec;

    /// Label of the TLS exporter (RFC 8446, section 7.5) that yields the secret of a pair of hosts; no context.
    pub const PAIR: &[u8] = b"EXPORTER-selvedge-pair-1";
    /// Before every label below.
    const PREFIX: &[u8] = b"selvedge1 ";

    /// HKDF-Expand with an info like that of TLS 1.3 (RFC 8446, section 7.1): length of what is wanted (two bytes),
    /// label with its length (one byte), context with its length (one byte).
    pub fn expand(suite: &impl Suite, secret: &Secret, label: &[u8], context: &[u8], out: &mut [u8]) {
        let mut info = Vec::with_capacity(4 + PREFIX.len() + label.len() + context.len());
        info.extend_from_slice(&(out.len() as u16).to_be_bytes());
        info.push((PREFIX.len() + label.len()) as u8);
        info.extend_from_slice(PREFIX);
        info.extend_from_slice(label);
        info.push(context.len() as u8);
        info.extend_from_slice(context);
        suite.expand(secret, &info, out);
    }

    /// The secrets of a connection's two directions: what its initiator sends, and what its responder sends. The
    /// initiator is who was the TLS client; each id is the one that end chose for itself.
    pub fn connection(
        suite: &impl Suite,
        pair: &Secret,
        cipher: Cipher,
        initiator: ConnectionId,
        responder: ConnectionId,
    ) -> [Secret; 2] {
        let mut context = [0; 9];
        context[..4].copy_from_slice(&initiator.0.to_be_bytes());
        context[4..8].copy_from_slice(&responder.0.to_be_bytes());
        context[8] = cipher as u8;
        [&b"initiator"[..], b"responder"].map(|label| {
            let mut secret = Secret([0; 32]);
            expand(suite, pair, label, &context, &mut secret.0);
            secret
        })
    }

    /// The secret after this one.
    pub fn next(suite: &impl Suite, secret: &Secret) -> Secret {
        let mut next = Secret([0; 32]);
        expand(suite, secret, b"next", &[], &mut next.0);
        next
    }
}

/// Why a packet is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// It is no packet.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// Its number was taken before.
    #[error("a packet number for the second time")]
    Replayed,
    /// Its number is below the replay window.
    #[error("a packet number too far below the highest")]
    TooOld,
    /// It is not authentic.
    #[error("the tag is wrong")]
    Forged,
    /// So many were not authentic that the key is worth nothing any more.
    #[error("too many packets were not authentic")]
    Exhausted,
}

/// Why a packet is not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// It cannot be written.
    #[error(transparent)]
    Unencodable(#[from] Unencodable),
    /// Its number was used before, or a higher one.
    #[error("packet number {number} is below {least}: it may have been sealed before")]
    Number {
        /// The number.
        number: u64,
        /// The least allowed.
        least: u64,
    },
    /// The payload is not as long as its packet says.
    #[error("{got} bytes of payload, expected {want}")]
    Payload {
        /// Given.
        got: usize,
        /// Said.
        want: usize,
    },
    /// The key has sealed all it may, and the peer confirmed no new one.
    #[error("the key has sealed all it may and the peer confirms no new one")]
    Exhausted,
}

/// A packet that is authentic.
#[derive(Debug)]
pub struct Opened<'a> {
    /// What it says.
    pub packet: Packet,
    /// Its payload, empty but for a chunk.
    pub payload: &'a [u8],
}

/// One key of one direction.
#[derive(Clone, Debug)]
struct Key<G> {
    guard: G,
    iv: [u8; NONCE_BYTES],
    secret: Secret,
}

impl<G: Guard> Key<G> {
    fn new(suite: &impl Suite<Guard = G>, cipher: Cipher, secret: Secret) -> Self {
        let (mut key, mut iv) = ([0; 32], [0; NONCE_BYTES]);
        let key = key.get_mut(..cipher.key_bytes()).unwrap_or_default();
        schedule::expand(suite, &secret, b"key", &[], key);
        schedule::expand(suite, &secret, b"iv", &[], &mut iv);
        Self { guard: suite.guard(cipher, key), iv, secret }
    }
    fn after(&self, suite: &impl Suite<Guard = G>, cipher: Cipher) -> Self {
        Self::new(suite, cipher, schedule::next(suite, &self.secret))
    }
    /// The packet number with its space in the bit above it, in the low bytes, xor the IV.
    fn nonce(&self, space: Space, number: u64) -> [u8; NONCE_BYTES] {
        let number = number | (space as u64) << 48;
        let mut nonce = self.iv;
        nonce.iter_mut().skip(NONCE_BYTES - 8).zip(number.to_be_bytes()).for_each(|(n, b)| *n ^= b);
        nonce
    }
}

/// Both directions of one connection.
#[derive(Clone, Debug)]
pub struct Protection<S: Suite> {
    suite: S,
    cipher: Cipher,
    send: Key<S::Guard>,
    receive: Key<S::Guard>,
    /// The key after `receive`, made when it is first needed.
    next: Option<Key<S::Guard>>,
    /// The key before `receive`, and until when it is kept.
    old: Option<(Key<S::Guard>, Nanos)>,
    send_phase: bool,
    receive_phase: bool,
    /// The peer has sent something under the phase we send in.
    confirmed: bool,
    /// Packets sealed under this key.
    sealed: u64,
    /// The least number allowed next, by space.
    number_next: [u64; 2],
    windows: [ReplayWindow; 2],
    /// Least number taken under the key `receive`, by space.
    phase_first: [Option<u64>; 2],
    forged: u64,
    updates: u64,
    /// When the sending keys were changed last.
    changed_at: Option<Nanos>,
}

impl<S: Suite> Protection<S> {
    /// For the end that was the handshake's initiator, or the other one. `[initiator's, responder's]` secrets come from
    /// [`schedule::connection`].
    pub fn new(suite: S, cipher: Cipher, secrets: [Secret; 2], initiator: bool) -> Self {
        let [first, second] = secrets;
        let (ours, theirs) = if initiator { (first, second) } else { (second, first) };
        Self {
            send: Key::new(&suite, cipher, ours),
            receive: Key::new(&suite, cipher, theirs),
            next: None,
            old: None,
            suite,
            cipher,
            send_phase: false,
            receive_phase: false,
            confirmed: false,
            sealed: 0,
            number_next: [0; 2],
            windows: [ReplayWindow::new(SEQUENCED_WORDS), ReplayWindow::new(CONTROL_WORDS)],
            phase_first: [None; 2],
            forged: 0,
            updates: 0,
            changed_at: None,
        }
    }

    /// From the pair's secret.
    pub fn of_connection(
        suite: S,
        cipher: Cipher,
        pair: &Secret,
        initiator: ConnectionId,
        responder: ConnectionId,
        we_initiated: bool,
    ) -> Self {
        let secrets = schedule::connection(&suite, pair, cipher, initiator, responder);
        Self::new(suite, cipher, secrets, we_initiated)
    }

    /// How packets are protected.
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }
    /// Packets that were not authentic.
    pub const fn forged(&self) -> u64 {
        self.forged
    }
    /// Times the keys were changed.
    pub const fn updates(&self) -> u64 {
        self.updates
    }

    /// Appends a packet, sealed: header, payload, tag. Its length. On an error nothing is appended.
    pub fn seal(
        &mut self,
        now: Nanos,
        packet: &Packet,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, Unsealed> {
        let want = if let Packet::Data(d) = packet { usize::from(d.bytes) } else { 0 };
        if payload.len() != want {
            return Err(Unsealed::Payload { got: payload.len(), want });
        }
        let [sequenced_least, control] = self.number_next;
        let (space, number) = match packet {
            Packet::Data(d) => (Space::Sequenced, d.number),
            Packet::Probe(p) => (Space::Sequenced, p.number),
            _ => (Space::Control, control),
        };
        if space == Space::Sequenced && number < sequenced_least {
            return Err(Unsealed::Number { number, least: sequenced_least });
        }
        if self.sealed >= UPDATE_AFTER {
            self.update(now);
        }
        if self.sealed >= SEALED_MOST {
            return Err(Unsealed::Exhausted);
        }
        let start = out.len();
        packet::encode(packet, control, self.send_phase, out)?;
        let payload_at = out.len();
        out.extend_from_slice(payload);
        let nonce = self.send.nonce(space, number);
        if let Some((header, payload)) =
            out.get_mut(start..).and_then(|p| p.split_at_mut_checked(payload_at - start))
        {
            let tag = self.send.guard.seal(&nonce, header, payload);
            out.extend_from_slice(tag.get(..self.cipher.tag_bytes()).unwrap_or(&[]));
        }
        self.sealed += 1;
        if let Some(next) = self.number_next.get_mut(space as usize) {
            *next = number + 1;
        }
        Ok(out.len() - start)
    }

    /// Changes to the next keys, if the peer has confirmed these and [`UPDATE_PAUSE`] is over. True where it did.
    pub fn update(&mut self, now: Nanos) -> bool {
        let may = self.confirmed && self.changed_at.is_none_or(|at| now.since(at) >= UPDATE_PAUSE);
        if may {
            self.advance_send(now);
        }
        may
    }

    fn advance_send(&mut self, now: Nanos) {
        self.changed_at = Some(now);
        self.send = self.send.after(&self.suite, self.cipher);
        self.send_phase = !self.send_phase;
        self.sealed = 0;
        self.confirmed = false;
        self.updates += 1;
    }

    /// Opens a packet in place, if it is authentic and new.
    pub fn open<'a>(&mut self, now: Nanos, datagram: &'a mut [u8]) -> Result<Opened<'a>, Dropped> {
        let tag_bytes = self.cipher.tag_bytes();
        let parsed = packet::decode(datagram, tag_bytes)?;
        if self.forged >= FORGED_MOST {
            return Err(Dropped::Exhausted);
        }
        let (space, number) = (parsed.space, parsed.number);
        let [sequenced, control] = &self.windows;
        let window = if space == Space::Sequenced { sequenced } else { control };
        window.check(number).map_err(|seen| match seen {
            Seen::Again => Dropped::Replayed,
            Seen::TooOld => Dropped::TooOld,
        })?;
        if self.old.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.old = None;
        }
        let current = parsed.phase == self.receive_phase;
        let first = self.phase_first.get(space as usize).copied().flatten();
        let use_old = !current && self.old.is_some() && first.is_none_or(|first| number < first);
        if !current && !use_old && self.next.is_none() {
            self.next = Some(self.receive.after(&self.suite, self.cipher));
        }
        let key = match (&self.old, &self.next) {
            (Some((old, _)), _) if use_old => old,
            (_, Some(next)) if !current => next,
            _ => &self.receive,
        };
        let tag_at = datagram.len() - tag_bytes;
        let nonce = key.nonce(space, number);
        let (text, tag) = datagram.split_at_mut(tag_at);
        let (header, payload) = text.split_at_mut(parsed.header_bytes);
        if !key.guard.open(&nonce, header, payload, tag) {
            self.forged += 1;
            return Err(Dropped::Forged);
        }
        if let Some(window) = self.windows.get_mut(space as usize) {
            // it was checked above
            let _ = window.take(number);
        }
        if !current && !use_old {
            self.advance_receive(now);
        }
        if !use_old {
            if let Some(first) = self.phase_first.get_mut(space as usize) {
                *first = Some(first.map_or(number, |f| f.min(number)));
            }
            self.confirmed |= self.send_phase == self.receive_phase;
        }
        Ok(Opened { packet: parsed.packet, payload })
    }

    fn advance_receive(&mut self, now: Nanos) {
        let Some(next) = self.next.take() else { return };
        let old = core::mem::replace(&mut self.receive, next);
        self.old = Some((old, now + OLD_KEY_KEPT));
        self.receive_phase = !self.receive_phase;
        self.phase_first = [None; 2];
        if self.send_phase != self.receive_phase {
            self.advance_send(now);
        }
    }
}

#[cfg(test)]
mod tests;
