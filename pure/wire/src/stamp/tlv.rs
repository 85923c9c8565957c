//! STAMP TLVs: RFC 8972, section 4, and RFC 9503, sections 3 and 4.
//!
//! How: [`Tlvs`] walks the bytes after a base packet and yields every TLV with its flags; [`Tlv::value`] says what it
//! means. [`push`] and the functions beside it write one. A TLV whose length runs past the end ends the walk with a
//! refusal; one whose length does not fit its type is refused by itself and the walk goes on.
//!
//! Invariants: the walk ends for any bytes; it never yields a TLV beyond the buffer.
//! Absent on purpose: SR-MPLS segment lists beyond knowing that they are there.

use super::{HMAC_LEN, Refused, bytes, hmac, hmac_ok};
use crate::time::Nanos;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// Bytes before the value: flags, type, length (RFC 8972, section 4).
pub const HEADER_LEN: usize = 4;
/// The TLV was not understood. A sender sets it, so that a reflector that only copies leaves it set.
pub const UNRECOGNIZED: u8 = 0x80;
/// The TLV is broken.
pub const MALFORMED: u8 = 0x40;
/// The HMAC TLV did not verify.
pub const INTEGRITY: u8 = 0x20;

/// Types (RFC 8972, section 5.1; RFC 9503, section 7).
pub mod kind {
    /// Padding; its bytes mean nothing.
    pub const EXTRA_PADDING: u8 = 1;
    /// Addresses and ports as the reflector saw them.
    pub const LOCATION: u8 = 2;
    /// Where time stamps come from.
    pub const TIMESTAMP_INFORMATION: u8 = 3;
    /// DSCP and ECN, there and back.
    pub const CLASS_OF_SERVICE: u8 = 4;
    /// Counters of packets in the flow measured.
    pub const DIRECT_MEASUREMENT: u8 = 5;
    /// 3GPP access.
    pub const ACCESS_REPORT: u8 = 6;
    /// The time stamp of the answer before this one, taken more exactly.
    pub const FOLLOW_UP_TELEMETRY: u8 = 7;
    /// Authentication of sequence number and TLVs.
    pub const HMAC: u8 = 8;
    /// The address the sender means (RFC 9503, section 3).
    pub const DESTINATION_NODE_ADDRESS: u8 = 9;
    /// The way the answer is to take (RFC 9503, section 4).
    pub const RETURN_PATH: u8 = 10;
    /// Ours, from the range for private use (252 to 254): the path the probe took, as the reflector learned it.
    pub const TAKEN_PATH: u8 = 252;
}

/// Sub-TLV types of the return path (RFC 9503, section 7.2).
pub mod back {
    /// 32 flags; the lowest asks for an answer on the same link, none set asks for no answer.
    pub const CONTROL_CODE: u8 = 1;
    /// The address to answer to.
    pub const RETURN_ADDRESS: u8 = 2;
    /// SR-MPLS label stack.
    pub const MPLS_LABELS: u8 = 3;
    /// SRv6 segments, 16 bytes each, in the order of travel.
    pub const SRV6_SEGMENTS: u8 = 4;
}

/// One TLV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// [`UNRECOGNIZED`], [`MALFORMED`] and [`INTEGRITY`].
    pub flags: u8,
    /// One of [`kind`], or something newer.
    pub kind: u8,
    /// The value's bytes.
    pub bytes: &'a [u8],
    /// Where the TLV starts, counted from the first TLV.
    pub offset: usize,
}

/// What a TLV says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing, at some length.
    ExtraPadding(usize),
    /// Addresses and ports, as sub-TLVs.
    Location {
        /// Destination port of the probe as it arrived.
        destination_port: u16,
        /// Source port of the probe as it arrived.
        source_port: u16,
        /// Sub-TLVs with addresses.
        sub_tlvs: &'a [u8],
    },
    /// Where time stamps come from.
    TimestampInformation(TimestampInformation),
    /// DSCP and ECN.
    ClassOfService(ClassOfService),
    /// Counters.
    DirectMeasurement(DirectMeasurement),
    /// 3GPP access.
    AccessReport {
        /// 1: 3GPP, 2: non-3GPP.
        access_id: u8,
        /// 1: available, 2: not.
        return_code: u8,
    },
    /// An exact time stamp of an earlier answer.
    FollowUpTelemetry(FollowUpTelemetry),
    /// The digest.
    Hmac([u8; HMAC_LEN]),
    /// The address meant.
    DestinationNodeAddress(Ipv6Addr),
    /// The way back.
    ReturnPath(ReturnPath),
    /// The path a probe took.
    TakenPath(TakenPath),
    /// An IPv4 address where we speak IPv6 only, or a type not known.
    Unknown,
}

/// Source of time stamps (RFC 8972, section 4.3): 1 NTP, 2 PTP, 3 SSU/BITS, 4 GNSS, 5 local; methods 1 hardware
/// assisted, 2 software local, 3 control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimestampInformation {
    /// Source of the reflector's arrival time.
    pub source_in: u8,
    /// Method of the reflector's arrival time.
    pub method_in: u8,
    /// Source of the reflector's leaving time.
    pub source_out: u8,
    /// Method of the reflector's leaving time.
    pub method_out: u8,
}

/// Class of service (RFC 8972, section 4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassOfService {
    /// DSCP the sender wants for the answer, `0 ..= 63`.
    pub dscp_back: u8,
    /// DSCP the probe arrived with, set by the reflector.
    pub dscp_arrived: u8,
    /// ECN the probe arrived with, set by the reflector.
    pub ecn_arrived: u8,
    /// 1 where the reflector would not use the DSCP wanted.
    pub reverse_refused: u8,
}

/// Direct measurement (RFC 8972, section 4.5): packets of the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectMeasurement {
    /// Sent by the session's sender.
    pub sender_tx: u32,
    /// Received by the reflector.
    pub reflector_rx: u32,
    /// Sent by the reflector.
    pub reflector_tx: u32,
}

/// Follow-up telemetry (RFC 8972, section 4.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowUpTelemetry {
    /// The reflector's sequence number of the earlier answer.
    pub sequence: u32,
    /// When that answer left, as written.
    pub timestamp_raw: u64,
    /// Method: see [`TimestampInformation`].
    pub mode: u8,
}

/// The way back asked for (RFC 9503, section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReturnPath {
    /// Control code flags, where given.
    pub control_code: Option<u32>,
    /// Address to answer to, where given.
    pub address: Option<Ipv6Addr>,
    /// The first SRv6 segment, where given.
    pub segment: Option<Ipv6Addr>,
    /// Number of SRv6 segments.
    pub segments: usize,
    /// Something in it is not understood: labels, an IPv4 address, a type that is new.
    pub other: bool,
}

/// The path a probe took (private use).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenPath {
    /// 1 where the reflector knows.
    pub known: u8,
    /// Low 32 bits of the fabric's epoch the id belongs to.
    pub epoch: u32,
    /// Path id.
    pub path: u64,
}

/// Walks TLVs.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Tlvs<'a> {
    /// A walk over the bytes after a base packet.
    pub fn new(all: &'a [u8]) -> Self {
        Tlvs { all, at: 0 }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<Tlv<'a>, Refused>;
    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let rest = self.all.get(offset..).filter(|r| !r.is_empty())?;
        let Some((&[flags, kind, high, low], after)) = rest.split_first_chunk() else {
            self.at = self.all.len();
            return Some(Err(Refused::TlvTruncated { claimed: HEADER_LEN, left: rest.len() }));
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let Some(bytes) = after.get(..len) else {
            self.at = self.all.len();
            return Some(Err(Refused::TlvTruncated { claimed: len, left: after.len() }));
        };
        self.at = offset + HEADER_LEN + len;
        Some(Ok(Tlv { flags, kind, bytes, offset }))
    }
}

impl<'a> Tlv<'a> {
    /// What it says, or that its length cannot be.
    pub fn value(&self) -> Result<Value<'a>, Refused> {
        let b = self.bytes;
        let need = |ok: bool| {
            if ok { Ok(()) } else { Err(Refused::TlvLength { kind: self.kind, len: b.len() }) }
        };
        Ok(match self.kind {
            kind::EXTRA_PADDING => Value::ExtraPadding(b.len()),
            kind::LOCATION => {
                need(b.len() >= 4)?;
                Value::Location {
                    destination_port: u16::from_be_bytes(bytes(b, 0)),
                    source_port: u16::from_be_bytes(bytes(b, 2)),
                    sub_tlvs: b.get(4..).unwrap_or(&[]),
                }
            }
            kind::TIMESTAMP_INFORMATION => {
                need(b.len() == 4)?;
                let [source_in, method_in, source_out, method_out] = bytes(b, 0);
                Value::TimestampInformation(TimestampInformation {
                    source_in,
                    method_in,
                    source_out,
                    method_out,
                })
            }
            kind::CLASS_OF_SERVICE => {
                need(b.len() == 4)?;
                let x = u32::from_be_bytes(bytes(b, 0));
                Value::ClassOfService(ClassOfService {
                    dscp_back: (x >> 26) as u8,
                    dscp_arrived: (x >> 20 & 0x3f) as u8,
                    ecn_arrived: (x >> 18 & 3) as u8,
                    reverse_refused: (x >> 16 & 3) as u8,
                })
            }
            kind::DIRECT_MEASUREMENT => {
                need(b.len() == 12)?;
                Value::DirectMeasurement(DirectMeasurement {
                    sender_tx: u32::from_be_bytes(bytes(b, 0)),
                    reflector_rx: u32::from_be_bytes(bytes(b, 4)),
                    reflector_tx: u32::from_be_bytes(bytes(b, 8)),
                })
            }
            kind::ACCESS_REPORT => {
                need(b.len() == 4)?;
                let [id, return_code, ..]: [u8; 4] = bytes(b, 0);
                Value::AccessReport { access_id: id >> 4, return_code }
            }
            kind::FOLLOW_UP_TELEMETRY => {
                need(b.len() == 16)?;
                Value::FollowUpTelemetry(FollowUpTelemetry {
                    sequence: u32::from_be_bytes(bytes(b, 0)),
                    timestamp_raw: u64::from_be_bytes(bytes(b, 4)),
                    mode: u8::from_be_bytes(bytes(b, 12)),
                })
            }
            kind::HMAC => {
                need(b.len() == HMAC_LEN)?;
                Value::Hmac(bytes(b, 0))
            }
            kind::DESTINATION_NODE_ADDRESS => {
                need(b.len() == 4 || b.len() == 16)?;
                if b.len() == 4 { Value::Unknown } else { Value::DestinationNodeAddress(address(b)) }
            }
            kind::RETURN_PATH => Value::ReturnPath(return_path(b)?),
            kind::TAKEN_PATH => {
                need(b.len() == 16)?;
                Value::TakenPath(TakenPath {
                    known: u8::from_be_bytes(bytes(b, 0)),
                    epoch: u32::from_be_bytes(bytes(b, 4)),
                    path: u64::from_be_bytes(bytes(b, 8)),
                })
            }
            _ => Value::Unknown,
        })
    }
}

fn address(b: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(bytes::<16>(b, 0))
}

fn return_path(b: &[u8]) -> Result<ReturnPath, Refused> {
    let mut out = ReturnPath::default();
    for sub in Tlvs::new(b) {
        let sub = sub?;
        match (sub.kind, sub.bytes.len()) {
            (back::CONTROL_CODE, 4) => {
                out.control_code = Some(u32::from_be_bytes(bytes(sub.bytes, 0)));
            }
            (back::RETURN_ADDRESS, 16) => out.address = Some(address(sub.bytes)),
            (back::SRV6_SEGMENTS, len) if len >= 16 && len % 16 == 0 => {
                out.segment = Some(address(sub.bytes));
                out.segments += len / 16;
            }
            (back::CONTROL_CODE | back::SRV6_SEGMENTS, len) => {
                return Err(Refused::TlvLength { kind: kind::RETURN_PATH, len });
            }
            _ => out.other = true,
        }
    }
    Ok(out)
}

/// Appends a TLV as a sender writes it.
pub fn push(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    push_flags(out, UNRECOGNIZED, kind, value);
}

/// Appends a TLV with these flags. A value longer than 65,535 bytes is cut.
pub fn push_flags(out: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) {
    let value = value.get(..0xffff).unwrap_or(value);
    out.extend_from_slice(&[flags, kind]);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// Appends padding so that it takes `bytes` bytes, header included; nothing where the header does not fit.
pub fn push_padding(out: &mut Vec<u8>, bytes: usize) {
    let Some(len) = bytes.checked_sub(HEADER_LEN) else { return };
    let len = len.min(0xffff);
    out.extend_from_slice(&[UNRECOGNIZED, kind::EXTRA_PADDING]);
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.resize(out.len() + len, 0);
}

impl ClassOfService {
    /// The value's bytes.
    pub const fn write(self) -> [u8; 4] {
        let x = ((self.dscp_back & 0x3f) as u32) << 26
            | ((self.dscp_arrived & 0x3f) as u32) << 20
            | ((self.ecn_arrived & 3) as u32) << 18
            | ((self.reverse_refused & 3) as u32) << 16;
        x.to_be_bytes()
    }
}

impl DirectMeasurement {
    /// The value's bytes.
    pub fn write(self) -> [u8; 12] {
        let mut b = [0; 12];
        super::put(&mut b, 0, &self.sender_tx.to_be_bytes());
        super::put(&mut b, 4, &self.reflector_rx.to_be_bytes());
        super::put(&mut b, 8, &self.reflector_tx.to_be_bytes());
        b
    }
}

impl FollowUpTelemetry {
    /// The value's bytes.
    pub fn write(self) -> [u8; 16] {
        let mut b = [0; 16];
        super::put(&mut b, 0, &self.sequence.to_be_bytes());
        super::put(&mut b, 4, &self.timestamp_raw.to_be_bytes());
        super::put(&mut b, 12, &[self.mode]);
        b
    }
    /// When the earlier answer left, by a format.
    pub const fn timestamp(self, format: super::Format) -> Nanos {
        format.read(self.timestamp_raw)
    }
}

impl TimestampInformation {
    /// The value's bytes.
    pub const fn write(self) -> [u8; 4] {
        [self.source_in, self.method_in, self.source_out, self.method_out]
    }
}

impl TakenPath {
    /// The value's bytes.
    pub fn write(self) -> [u8; 16] {
        let mut b = [0; 16];
        super::put(&mut b, 0, &[self.known]);
        super::put(&mut b, 4, &self.epoch.to_be_bytes());
        super::put(&mut b, 8, &self.path.to_be_bytes());
        b
    }
}

/// Appends a return path TLV with one SRv6 segment (here: a container of compressed segments).
pub fn push_return_segment(out: &mut Vec<u8>, segment: Ipv6Addr) {
    let mut value = Vec::with_capacity(HEADER_LEN + 16);
    push(&mut value, back::SRV6_SEGMENTS, &segment.octets());
    push(out, kind::RETURN_PATH, &value);
}

/// Appends the HMAC TLV over sequence number and all TLVs from `first` on (RFC 8972, section 4.8).
pub fn push_hmac(out: &mut Vec<u8>, first: usize, sequence: [u8; 4], key: &[u8]) {
    let digest = hmac(key, &[&sequence, out.get(first..).unwrap_or(&[])]);
    push(out, kind::HMAC, &digest);
}

/// Checks the HMAC TLV: after it only padding, and its digest right. `Ok` also where there are no TLVs but padding.
pub fn check_hmac(tlvs: &[u8], sequence: [u8; 4], key: &[u8]) -> Result<(), Refused> {
    let (mut seen, mut needed) = (false, false);
    for tlv in Tlvs::new(tlvs) {
        let tlv = tlv?;
        match tlv.kind {
            kind::EXTRA_PADDING => {}
            kind if seen => return Err(Refused::TlvAfterHmac { kind }),
            kind::HMAC => {
                seen = true;
                let covered = tlvs.get(..tlv.offset).unwrap_or(&[]);
                if tlv.bytes.len() != HMAC_LEN || !hmac_ok(key, &[&sequence, covered], tlv.bytes) {
                    return Err(Refused::BadHmacTlv);
                }
            }
            _ => needed = true,
        }
    }
    if needed && !seen { Err(Refused::NoHmacTlv) } else { Ok(()) }
}
