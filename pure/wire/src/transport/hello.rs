//! Datagrams of the handshake, before there are keys: `docs/transport-wire.md` is the same in prose.
//!
//! How: the messages of TLS 1.3 are two byte streams in each direction, one in the clear ([`Level::Plain`]) and one under
//! TLS's handshake keys ([`Level::Handshake`]), as in QUIC (RFC 9001, section 4.1). A [`Hello`] carries a piece of one of
//! them and says how far both streams of the other direction have arrived. [`Retry`] asks the initiator to show that it
//! receives at its address. [`Stranger`] answers a packet of an unknown connection. [`Parameters`] travel inside TLS.
//!
//! Invariants: any bytes give a value or a [`Reject`], never a panic; each value has one encoding.
//! Absent on purpose: TLS itself, keys, timers, and what a cookie contains (only its maker reads it).

use super::cursor::{Cursor, put};
use super::packet::{HEADER_BYTES, Kind, Reject};
use super::protection::Cipher;
use super::{ConnectionId, PACKET_NUMBER_END};
use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// Longest datagram of the handshake, bytes: IPv6's least MTU less its and UDP's headers is 1,232 (RFC 8200, section 5).
pub const DATAGRAM_MAX: usize = 1_200;
/// Longest cookie, bytes.
pub const COOKIE_MAX: usize = 64;
/// Bytes of a [`Hello`] without cookie, piece and tag.
pub const HELLO_BYTES: usize = 21;
/// Bytes of a [`Retry`] without its cookie.
pub const RETRY_BYTES: usize = 11;
/// Bytes of a tag under TLS's handshake keys.
pub const HELLO_TAG_BYTES: usize = 16;
/// Longest stream of handshake messages of one direction and level, bytes: a chain of several certificates.
pub const STREAM_MAX: u16 = 16_384;
/// Name of the protocol in TLS (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"selvedge/1";

const ANSWER: u8 = 1;
const HANDSHAKE: u8 = 2;
const REFUSAL: u8 = 4;

/// Which keys protect a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// None: the first message of either side.
    Plain = 0,
    /// TLS's handshake keys: everything after.
    Handshake = 1,
}

impl Level {
    /// Both.
    pub const ALL: [Level; 2] = [Level::Plain, Level::Handshake];
}

/// The header of a piece of the handshake. The piece follows it, and the tag where the level has keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// From the responder.
    pub answer: bool,
    /// Which keys.
    pub level: Level,
    /// The piece is one byte, a TLS alert (RFC 8446, section 6): the sender gives up.
    pub refusal: bool,
    /// Chosen at random by the initiator.
    pub id: u64,
    /// Counts datagrams of one direction from 0, both levels together: the nonce under the level's keys.
    pub number: u32,
    /// Bytes of the other direction's streams that arrived without a gap, by [`Level`]. `0 ..= STREAM_MAX`.
    pub arrived: [u16; 2],
    /// Where the piece begins in its stream. `0 ..= STREAM_MAX`.
    pub offset: u16,
    /// As the responder gave it; empty where it gave none. At most [`COOKIE_MAX`] bytes.
    pub cookie: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Appends the header; a cookie longer than allowed is cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flags =
            [(self.answer, ANSWER), (self.level == Level::Handshake, HANDSHAKE), (self.refusal, REFUSAL)];
        out.push(Kind::Hello.first_byte());
        out.push(flags.iter().map(|(is, bit)| if *is { *bit } else { 0 }).sum());
        put(out, 8, self.id);
        put(out, 4, u64::from(self.number));
        self.arrived.iter().for_each(|n| put(out, 2, u64::from(*n)));
        put(out, 2, u64::from(self.offset));
        write_cookie(self.cookie, out);
    }

    /// The header, and how long it is.
    pub fn read(datagram: &'a [u8]) -> Result<(Hello<'a>, usize), Reject> {
        let flags = expect(datagram, Kind::Hello, ANSWER | HANDSHAKE | REFUSAL)?;
        let short = Reject::TooShort { got: datagram.len(), least: HELLO_BYTES };
        let mut c = Cursor::new(datagram);
        let read = |c: &mut Cursor<'a>| {
            c.take(2)?;
            let (id, number, arrived, offset) = (c.u64()?, c.u32()?, [c.u16()?, c.u16()?], c.u16()?);
            Some((id, number, arrived, offset, read_cookie(c)?))
        };
        let (id, number, arrived, offset, cookie) = read(&mut c).ok_or(short)?;
        let cookie = cookie?;
        for got in [arrived[0], arrived[1], offset] {
            if got > STREAM_MAX {
                return Err(Reject::Range { got: u64::from(got), most: u64::from(STREAM_MAX) });
            }
        }
        let (answer, refusal) = (flags & ANSWER != 0, flags & REFUSAL != 0);
        let level = if flags & HANDSHAKE != 0 { Level::Handshake } else { Level::Plain };
        Ok((Hello { answer, level, refusal, id, number, arrived, offset, cookie }, c.taken()))
    }
}

/// Checks type and flags; the flags.
fn expect(datagram: &[u8], want: Kind, known: u8) -> Result<u8, Reject> {
    let kind = Kind::of(datagram)?;
    if kind != want {
        return Err(Reject::Kind { got: kind as u8 });
    }
    let &flags = datagram.get(1).ok_or(Reject::TooShort { got: 1, least: HELLO_BYTES })?;
    if flags & !known != 0 { Err(Reject::Flags { kind, got: flags }) } else { Ok(flags) }
}

fn write_cookie(cookie: &[u8], out: &mut Vec<u8>) {
    let cookie = cookie.get(..COOKIE_MAX).unwrap_or(cookie);
    out.push(cookie.len() as u8);
    out.extend_from_slice(cookie);
}

fn read_cookie<'a>(c: &mut Cursor<'a>) -> Option<Result<&'a [u8], Reject>> {
    let len = c.u8()?;
    if usize::from(len) > COOKIE_MAX {
        return Some(Err(Reject::Range { got: u64::from(len), most: COOKIE_MAX as u64 }));
    }
    c.take(usize::from(len)).map(Ok)
}

/// "Say it again with this cookie": the responder's first answer, for which it keeps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry<'a> {
    /// The initiator's.
    pub id: u64,
    /// To be sent back as it is. At most [`COOKIE_MAX`] bytes.
    pub cookie: &'a [u8],
}

impl<'a> Retry<'a> {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[Kind::Retry.first_byte(), 0]);
        put(out, 8, self.id);
        write_cookie(self.cookie, out);
    }
    /// Reads it. Nothing may follow.
    pub fn read(datagram: &'a [u8]) -> Result<Retry<'a>, Reject> {
        expect(datagram, Kind::Retry, 0)?;
        let mut c = Cursor::new(datagram);
        let read = |c: &mut Cursor<'a>| {
            c.take(2)?;
            Some((c.u64()?, read_cookie(c)?))
        };
        let short = Reject::TooShort { got: datagram.len(), least: RETRY_BYTES };
        let (id, cookie) = read(&mut c).ok_or(short)?;
        let cookie = cookie?;
        if c.taken() != datagram.len() {
            return Err(Reject::Payload { got: datagram.len() - c.taken(), want: 0 });
        }
        Ok(Retry { id, cookie })
    }
}

/// "I know no such connection": a hint that nobody vouches for, shorter than any packet it could answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The id in the packet it answers.
    pub connection: ConnectionId,
    /// The number in it, `< PACKET_NUMBER_END`: only who saw the packet can repeat it.
    pub number: u64,
}

impl Stranger {
    /// The answer to a packet; `None` where it is none that should be answered.
    pub fn to(datagram: &[u8]) -> Option<Stranger> {
        // never an answer to an answer, and never longer than the question
        let kind = Kind::of(datagram).ok()?;
        if kind > Kind::Close || datagram.len() <= HEADER_BYTES {
            return None;
        }
        let mut c = Cursor::new(datagram);
        c.take(2)?;
        Some(Stranger { connection: ConnectionId(c.u32()?), number: c.u48()? })
    }
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[Kind::Stranger.first_byte(), 0]);
        put(out, 4, u64::from(self.connection.0));
        put(out, 6, self.number % PACKET_NUMBER_END);
    }
    /// Reads it. Nothing may follow.
    pub fn read(datagram: &[u8]) -> Result<Stranger, Reject> {
        expect(datagram, Kind::Stranger, 0)?;
        let mut c = Cursor::new(datagram);
        let read = |c: &mut Cursor<'_>| {
            c.take(2)?;
            Some((c.u32()?, c.u48()?))
        };
        let short = Reject::TooShort { got: datagram.len(), least: HEADER_BYTES };
        let (connection, number) = read(&mut c).ok_or(short)?;
        if c.taken() != datagram.len() {
            return Err(Reject::Payload { got: datagram.len() - c.taken(), want: 0 });
        }
        Ok(Stranger { connection: ConnectionId(connection), number })
    }
}

/// What each end tells the other inside TLS (as QUIC does with its transport parameters, RFC 9001, section 8.2), so that
/// it is authentic when the handshake is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// This end's id of the connection.
    pub connection: ConnectionId,
    /// Longest datagram it receives, bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// EVs it can keep apart as a receiver, at least 1.
    pub evs: u16,
    /// Ciphers it is willing to use, the dearest first. At most [`Parameters::CIPHERS_MAX`].
    pub ciphers: Vec<Cipher>,
    /// Its addresses, one for each plane of the fabric, in an order that is the same everywhere; none where it is
    /// reached at one address only. At most [`Parameters::ADDRESSES_MAX`].
    pub addresses: Vec<Ipv6Addr>,
}

impl Parameters {
    /// Version of these parameters.
    pub const VERSION: u8 = 1;
    /// Most ciphers.
    pub const CIPHERS_MAX: usize = 8;
    /// Most addresses.
    pub const ADDRESSES_MAX: usize = 16;

    /// Appends them.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(Self::VERSION);
        put(out, 4, u64::from(self.connection.0));
        put(out, 2, u64::from(self.datagram_bytes_max));
        put(out, 2, u64::from(self.evs));
        let ciphers = self.ciphers.get(..Self::CIPHERS_MAX).unwrap_or(&self.ciphers);
        out.push(ciphers.len() as u8);
        out.extend(ciphers.iter().map(|c| *c as u8));
        let addresses = self.addresses.get(..Self::ADDRESSES_MAX).unwrap_or(&self.addresses);
        out.push(addresses.len() as u8);
        addresses.iter().for_each(|a| out.extend_from_slice(&a.octets()));
    }

    /// Reads them. Ciphers of a later version are passed over; what follows is of a later version too.
    pub fn read(bytes: &[u8]) -> Result<Parameters, Reject> {
        let mut c = Cursor::new(bytes);
        let read = |c: &mut Cursor<'_>| Some((c.u8()?, c.u32()?, c.u16()?, c.u16()?, c.u8()?));
        let short = Reject::TooShort { got: bytes.len(), least: 11 };
        let (version, connection, datagram_bytes_max, evs, ciphers) = read(&mut c).ok_or(short)?;
        if version != Self::VERSION {
            return Err(Reject::Version { got: version });
        }
        if usize::from(ciphers) > Self::CIPHERS_MAX {
            return Err(Reject::Range { got: u64::from(ciphers), most: Self::CIPHERS_MAX as u64 });
        }
        let ciphers = c.take(usize::from(ciphers)).ok_or(short)?;
        let ciphers = ciphers.iter().filter_map(|n| Cipher::from_number(*n)).collect();
        let count = c.u8().ok_or(short)?;
        if usize::from(count) > Self::ADDRESSES_MAX {
            return Err(Reject::Range { got: u64::from(count), most: Self::ADDRESSES_MAX as u64 });
        }
        let addresses = c.take(usize::from(count) * 16).ok_or(short)?;
        let addresses =
            addresses.chunks_exact(16).filter_map(|a| Some(Ipv6Addr::from(<[u8; 16]>::try_from(a).ok()?)));
        let (connection, evs, addresses) = (ConnectionId(connection), evs.max(1), addresses.collect());
        Ok(Parameters { connection, datagram_bytes_max, evs, ciphers, addresses })
    }

    /// The cipher of a connection: the initiator's dearest that the responder is willing to use.
    pub fn agree(initiator: &Parameters, responder: &Parameters) -> Option<Cipher> {
        initiator.ciphers.iter().copied().find(|c| responder.ciphers.contains(c))
    }
}
