//! STAMP test packets: Simple Two-way Active Measurement Protocol, RFC 8762, with session identifier and TLVs of
//! RFC 8972 and RFC 9503.
//!
//! How: [`SenderPacket`] and [`ReflectorPacket`] are views of bytes whose length and HMAC were checked once, when they
//! were made; [`SenderRepr`] and [`ReflectorRepr`] are the values behind them and write them. TLVs follow the base
//! packet and are in [`tlv`]. Offsets stand once, in the tables below.
//!
//! Invariants: any bytes give a view or a [`Refused`], never a panic; what is written reads back the same; an
//! authenticated packet whose HMAC is wrong is never a view.
//! Absent on purpose: control protocols (TWAMP-Control, YANG), and IPv4 in the TLVs we act upon.

pub mod tlv;

#[cfg(test)]
mod tests;

use crate::time::Nanos;
use alloc::vec::Vec;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// UDP port of a Session-Reflector (RFC 8762, section 4.1).
pub const PORT: u16 = 862;
/// Bytes of an unauthenticated test packet without TLVs, either way (RFC 8762, sections 4.2.1 and 4.3.1).
pub const UNAUTHENTICATED_LEN: usize = 44;
/// Bytes of an authenticated test packet without TLVs, either way (RFC 8762, sections 4.2.2 and 4.3.2).
pub const AUTHENTICATED_LEN: usize = 112;
/// Bytes of the truncated HMAC-SHA-256 (RFC 8762, section 4.4).
pub const HMAC_LEN: usize = 16;
/// Bytes at the front of an authenticated packet that its HMAC covers: six blocks of 16 (RFC 8762, section 4.4).
const HMAC_COVERS: usize = AUTHENTICATED_LEN - HMAC_LEN;
/// Seconds from 1900 to 1970 (RFC 5905, section 6).
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// Why bytes are no such packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too few bytes for the base packet.
    #[error("{got} bytes: a STAMP packet of this mode has at least {least}")]
    TooShort {
        /// Bytes there are.
        got: usize,
        /// Bytes needed.
        least: usize,
    },
    /// The HMAC of the base packet is wrong.
    #[error("the HMAC of the packet is wrong")]
    BadHmac,
    /// The error estimate's multiplier is zero, which no packet may have (RFC 4656, section 4.1.2).
    #[error("an error estimate of zero")]
    ErrorEstimate,
    /// A TLV claims more bytes than follow.
    #[error("a TLV of {claimed} bytes where {left} are left")]
    TlvTruncated {
        /// Bytes of value it claims.
        claimed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A TLV has a length its type cannot have.
    #[error("TLV type {kind} with {len} bytes")]
    TlvLength {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
    },
    /// Something other than padding follows the HMAC TLV (RFC 8972, section 4.8).
    #[error("TLV type {kind} after the HMAC TLV")]
    TlvAfterHmac {
        /// Type of what follows.
        kind: u8,
    },
    /// The HMAC TLV is missing where a key is set.
    #[error("TLVs without an HMAC TLV")]
    NoHmacTlv,
    /// The HMAC TLV is wrong.
    #[error("the HMAC of the TLVs is wrong")]
    BadHmacTlv,
}

/// How a 64-bit time stamp is written (RFC 8762, section 4.2.1; the Z bit of the error estimate, RFC 8186).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// NTP: seconds since 1900 and 2^-32 fractions.
    #[default]
    Ntp,
    /// PTPv2 truncated: seconds and nanoseconds.
    Ptp,
}

impl Format {
    /// The 64 bits of a Unix time. Exact to less than a nanosecond until 2036 + 68 years (NTP eras 0 and 1).
    pub const fn write(self, t: Nanos) -> u64 {
        let (s, ns) = (t.0 / 1_000_000_000, t.0 % 1_000_000_000);
        match self {
            // rounded up, so that reading (which rounds down) gives the nanosecond back
            Format::Ntp => (s + NTP_TO_UNIX) << 32 | (ns << 32).div_ceil(1_000_000_000),
            Format::Ptp => (s & 0xffff_ffff) << 32 | ns,
        }
    }
    /// The Unix time of 64 bits. An NTP time before 1968 is taken for one of the next era (RFC 4330, section 3).
    pub const fn read(self, raw: u64) -> Nanos {
        let (s, low) = (raw >> 32, raw & 0xffff_ffff);
        match self {
            Format::Ntp => {
                let era = if s < 1 << 31 { 1 << 32 } else { 0 };
                // seconds from 1900 to 1970 are more than 2^31, so what is before the epoch reads as the epoch
                let s = (s + era).saturating_sub(NTP_TO_UNIX);
                Nanos(s * 1_000_000_000 + ((low * 1_000_000_000) >> 32))
            }
            // a hostile sender may write more nanoseconds than a second has
            Format::Ptp => Nanos(s * 1_000_000_000 + if low < 1_000_000_000 { low } else { 999_999_999 }),
        }
    }
}

/// How good a time stamp is (RFC 4656, section 4.1.2; RFC 8186): `multiplier * 2^(scale − 32)` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEstimate {
    /// The clock follows an outside source.
    pub synchronized: bool,
    /// How the time stamp beside it is written.
    pub format: Format,
    /// Power of two, `0 ..= 63`.
    pub scale: u8,
    /// `1 ..= 255`.
    pub multiplier: u8,
}

impl Default for ErrorEstimate {
    fn default() -> Self {
        // a millisecond: 1 * 2^(22 − 32) s
        ErrorEstimate { synchronized: false, format: Format::Ntp, scale: 22, multiplier: 1 }
    }
}

impl ErrorEstimate {
    /// As 16 bits.
    pub const fn write(self) -> u16 {
        (self.synchronized as u16) << 15
            | (matches!(self.format, Format::Ptp) as u16) << 14
            | ((self.scale & 0x3f) as u16) << 8
            | self.multiplier as u16
    }
    /// From 16 bits.
    pub const fn read(raw: u16) -> Self {
        ErrorEstimate {
            synchronized: raw >> 15 == 1,
            format: if raw >> 14 & 1 == 1 { Format::Ptp } else { Format::Ntp },
            scale: (raw >> 8 & 0x3f) as u8,
            multiplier: raw as u8,
        }
    }
    /// In nanoseconds, saturating.
    pub const fn ns(self) -> u64 {
        let ns = (self.multiplier as u128 * 1_000_000_000) << self.scale >> 32;
        if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 }
    }
}

/// Where the fields are: `[unauthenticated, authenticated]`.
mod at {
    pub(super) const SEQUENCE: [usize; 2] = [0, 0];
    pub(super) const TIMESTAMP: [usize; 2] = [4, 16];
    pub(super) const ERROR: [usize; 2] = [12, 24];
    pub(super) const SSID: [usize; 2] = [14, 26];
    // of the reflector only
    pub(super) const RECEIVED: [usize; 2] = [16, 32];
    pub(super) const SENDER_SEQUENCE: [usize; 2] = [24, 48];
    pub(super) const SENDER_TIMESTAMP: [usize; 2] = [28, 64];
    pub(super) const SENDER_ERROR: [usize; 2] = [36, 72];
    pub(super) const SENDER_TTL: [usize; 2] = [40, 80];
    pub(super) const HMAC: usize = 96;
}

fn bytes<const N: usize>(buf: &[u8], at: usize) -> [u8; N] {
    // the length was checked when the view was made; a wrong table reads as zero rather than panics
    buf.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}
fn put(buf: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = buf.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

/// HMAC-SHA-256 truncated to 128 bits over the parts, one after the other (RFC 8762, section 4.4).
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; HMAC_LEN] {
    // a key of any length is a key
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; HMAC_LEN] };
    parts.iter().for_each(|p| mac.update(p));
    bytes(&mac.finalize().into_bytes(), 0)
}

fn hmac_ok(key: &[u8], parts: &[&[u8]], want: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    parts.iter().for_each(|p| mac.update(p));
    // compares in constant time
    mac.verify_truncated_left(want).is_ok()
}

/// Checks length and, where there is a key, HMAC. The index into the offset tables.
fn check(buf: &[u8], key: Option<&[u8]>) -> Result<usize, Refused> {
    let least = if key.is_some() { AUTHENTICATED_LEN } else { UNAUTHENTICATED_LEN };
    if buf.len() < least {
        return Err(Refused::TooShort { got: buf.len(), least });
    }
    let Some(key) = key else { return Ok(0) };
    let (covered, rest) = buf.split_at(HMAC_COVERS);
    let Some(want) = rest.get(..HMAC_LEN) else { return Err(Refused::BadHmac) };
    if hmac_ok(key, &[covered], want) { Ok(1) } else { Err(Refused::BadHmac) }
}

macro_rules! view {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<T> { buf: T, mode: usize }
        impl<T: AsRef<[u8]>> $name<T> {
            /// A view, if the bytes are long enough and, where a key is given, authentic.
            pub fn new_checked(buf: T, key: Option<&[u8]>) -> Result<Self, Refused> {
                let mode = check(buf.as_ref(), key)?;
                let view = Self { buf, mode };
                if view.error_estimate().multiplier == 0 {
                    return Err(Refused::ErrorEstimate);
                }
                Ok(view)
            }
            fn at<const N: usize>(&self, field: [usize; 2]) -> [u8; N] {
                bytes(self.buf.as_ref(), field[self.mode & 1])
            }
            /// Whether the packet is in authenticated mode.
            pub fn authenticated(&self) -> bool {
                self.mode == 1
            }
            /// Sequence number.
            pub fn sequence(&self) -> u32 {
                u32::from_be_bytes(self.at(at::SEQUENCE))
            }
            /// When it left (T1 of a probe, T3 of an answer), as written.
            pub fn timestamp_raw(&self) -> u64 {
                u64::from_be_bytes(self.at(at::TIMESTAMP))
            }
            /// When it left (T1 of a probe, T3 of an answer).
            pub fn timestamp(&self) -> Nanos {
                self.error_estimate().format.read(self.timestamp_raw())
            }
            /// How good the sender of this packet says its time stamps are.
            pub fn error_estimate(&self) -> ErrorEstimate {
                ErrorEstimate::read(u16::from_be_bytes(self.at(at::ERROR)))
            }
            /// Session identifier (RFC 8972, section 3); 0 from who knows none.
            pub fn ssid(&self) -> u16 {
                u16::from_be_bytes(self.at(at::SSID))
            }
            /// The bytes after the base packet.
            pub fn tlv_bytes(&self) -> &[u8] {
                let base = [UNAUTHENTICATED_LEN, AUTHENTICATED_LEN][self.mode & 1];
                self.buf.as_ref().get(base..).unwrap_or(&[])
            }
            /// The TLVs after the base packet.
            pub fn tlvs(&self) -> tlv::Tlvs<'_> {
                tlv::Tlvs::new(self.tlv_bytes())
            }
            /// The four bytes the HMAC TLV covers besides the TLVs (RFC 8972, section 4.8).
            pub fn sequence_bytes(&self) -> [u8; 4] {
                self.at(at::SEQUENCE)
            }
        }
    };
}

view! {
    /// A Session-Sender's packet: a probe.
    SenderPacket
}
view! {
    /// A Session-Reflector's packet: an answer.
    ReflectorPacket
}

impl<T: AsRef<[u8]>> ReflectorPacket<T> {
    /// When the probe arrived (T2). Written like T3.
    pub fn received(&self) -> Nanos {
        self.error_estimate().format.read(u64::from_be_bytes(self.at(at::RECEIVED)))
    }
    /// Sequence number of the probe.
    pub fn sender_sequence(&self) -> u32 {
        u32::from_be_bytes(self.at(at::SENDER_SEQUENCE))
    }
    /// When the probe left (T1), as its sender wrote it.
    pub fn sender_timestamp(&self) -> Nanos {
        self.sender_error_estimate().format.read(u64::from_be_bytes(self.at(at::SENDER_TIMESTAMP)))
    }
    /// What the probe's sender said of its time stamps.
    pub fn sender_error_estimate(&self) -> ErrorEstimate {
        ErrorEstimate::read(u16::from_be_bytes(self.at(at::SENDER_ERROR)))
    }
    /// Hop limit the probe arrived with; 255 where the reflector could not know.
    pub fn sender_ttl(&self) -> u8 {
        u8::from_be_bytes(self.at(at::SENDER_TTL))
    }
    /// All fields.
    pub fn repr(&self) -> ReflectorRepr {
        ReflectorRepr {
            sequence: self.sequence(),
            timestamp: self.timestamp(),
            error_estimate: self.error_estimate(),
            ssid: self.ssid(),
            received: self.received(),
            sender_sequence: self.sender_sequence(),
            sender_timestamp: self.sender_timestamp(),
            sender_error_estimate: self.sender_error_estimate(),
            sender_ttl: self.sender_ttl(),
        }
    }
}

impl<T: AsRef<[u8]>> SenderPacket<T> {
    /// All fields.
    pub fn repr(&self) -> SenderRepr {
        SenderRepr {
            sequence: self.sequence(),
            timestamp: self.timestamp(),
            error_estimate: self.error_estimate(),
            ssid: self.ssid(),
        }
    }
}

/// The fields of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderRepr {
    /// Sequence number.
    pub sequence: u32,
    /// When it leaves (T1).
    pub timestamp: Nanos,
    /// How good that is, and how it is written.
    pub error_estimate: ErrorEstimate,
    /// Session identifier.
    pub ssid: u16,
}

/// The fields of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReflectorRepr {
    /// The reflector's own sequence number (stateful), or the probe's (stateless).
    pub sequence: u32,
    /// When it leaves (T3).
    pub timestamp: Nanos,
    /// How good T2 and T3 are, and how they are written.
    pub error_estimate: ErrorEstimate,
    /// Session identifier.
    pub ssid: u16,
    /// When the probe arrived (T2).
    pub received: Nanos,
    /// Sequence number of the probe.
    pub sender_sequence: u32,
    /// When the probe left (T1).
    pub sender_timestamp: Nanos,
    /// What the probe said of T1.
    pub sender_error_estimate: ErrorEstimate,
    /// Hop limit the probe arrived with.
    pub sender_ttl: u8,
}

fn seal(base: &mut [u8], key: &[u8]) {
    let digest = hmac(key, &[base.get(..HMAC_COVERS).unwrap_or(&[])]);
    put(base, at::HMAC, &digest);
}

/// Room for a base packet at the end of `out`: its start and the index into the offset tables.
fn room(out: &mut Vec<u8>, key: Option<&[u8]>) -> (usize, usize) {
    let start = out.len();
    let (len, mode) = if key.is_some() { (AUTHENTICATED_LEN, 1) } else { (UNAUTHENTICATED_LEN, 0) };
    out.resize(start + len, 0);
    (start, mode)
}

impl SenderRepr {
    /// Appends the base packet; authenticated where there is a key.
    pub fn write(&self, key: Option<&[u8]>, out: &mut Vec<u8>) {
        let (start, m) = room(out, key);
        let Some(base) = out.get_mut(start..) else { return };
        put(base, at::SEQUENCE[m], &self.sequence.to_be_bytes());
        put(base, at::TIMESTAMP[m], &self.error_estimate.format.write(self.timestamp).to_be_bytes());
        put(base, at::ERROR[m], &self.error_estimate.write().to_be_bytes());
        put(base, at::SSID[m], &self.ssid.to_be_bytes());
        if let Some(key) = key {
            seal(base, key);
        }
    }
}

impl ReflectorRepr {
    /// Appends the base packet; authenticated where there is a key.
    pub fn write(&self, key: Option<&[u8]>, out: &mut Vec<u8>) {
        let (start, m) = room(out, key);
        let Some(base) = out.get_mut(start..) else { return };
        let format = self.error_estimate.format;
        let sender = self.sender_error_estimate;
        put(base, at::SEQUENCE[m], &self.sequence.to_be_bytes());
        put(base, at::TIMESTAMP[m], &format.write(self.timestamp).to_be_bytes());
        put(base, at::ERROR[m], &self.error_estimate.write().to_be_bytes());
        put(base, at::SSID[m], &self.ssid.to_be_bytes());
        put(base, at::RECEIVED[m], &format.write(self.received).to_be_bytes());
        put(base, at::SENDER_SEQUENCE[m], &self.sender_sequence.to_be_bytes());
        put(base, at::SENDER_TIMESTAMP[m], &sender.format.write(self.sender_timestamp).to_be_bytes());
        put(base, at::SENDER_ERROR[m], &sender.write().to_be_bytes());
        put(base, at::SENDER_TTL[m], &[self.sender_ttl]);
        if let Some(key) = key {
            seal(base, key);
        }
    }
}
