//! How many instructions a packet costs: on its way out, on its way in, and when its ACK comes back.
//!
//! How: `cargo xtask bench instructions` runs this under callgrind, which counts and does not time, so that a busy machine
//! changes nothing. One message of [`PACKETS`] full packets goes over a connection that has carried one before: state
//! machine, headers, packet numbers, nonces and replay windows. What is prepared here is outside the count.
//!
//! Invariants: no clock, no random number, no table in a random order: the same build counts the same. Chunks are short,
//! so that the C library's choice of a copy for this processor does not show.
//! Absent on purpose: a framework. gungraun runs callgrind too, but wants a runner of exactly its version built on every
//! machine, and a dozen crates; all there is to say here is one function's name. Also ciphers, which are a library's;
//! sockets; placing the payload.
#![allow(clippy::unwrap_used)] // a panic in a bench is the report

use selvedge_transport::{Config, Connection, Event};
use std::hint::black_box;
use std::process::ExitCode;
use wire::Nanos;
use wire::transport::protection::{Cipher, Guard, NONCE_BYTES, Protection, Secret, Suite, TAG_MAX};
use wire::transport::{ConnectionId, Seen, Target};

/// Packets of the message; `cargo xtask bench instructions` divides by it.
const PACKETS: usize = 64;
const CHUNK_BYTES: u16 = 256;
const HEADER_BYTES: u16 = 64;
/// As an endpoint asks for them: in one burst.
const SEGMENTS_MAX: usize = 44;
const PAYLOAD: [u8; CHUNK_BYTES as usize] = [7; CHUNK_BYTES as usize];

/// Protects nothing.
#[derive(Clone, Copy)]
struct Bare;

impl Guard for Bare {
    fn seal(&self, _: &[u8; NONCE_BYTES], _: &[u8], _: &mut [u8]) -> [u8; TAG_MAX] {
        [1; TAG_MAX]
    }
    fn open(&self, _: &[u8; NONCE_BYTES], _: &[u8], _: &mut [u8], tag: &[u8]) -> bool {
        tag == [1; TAG_MAX]
    }
}

impl Suite for Bare {
    type Guard = Bare;
    fn guard(&self, _: Cipher, _: &[u8]) -> Bare {
        Bare
    }
    fn expand(&self, _: &Secret, _: &[u8], out: &mut [u8]) {
        out.fill(3);
    }
}

/// Datagrams one behind the other, and where each ends.
struct Datagrams {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Datagrams {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(64 << 10), ends: Vec::with_capacity(2 * PACKETS) }
    }
    /// Hands out each, and forgets them.
    fn drain(&mut self, mut to: impl FnMut(&mut [u8])) {
        let mut rest = self.bytes.as_mut_slice();
        let mut begin = 0;
        for end in self.ends.drain(..) {
            let (datagram, behind) = rest.split_at_mut(end - begin);
            to(datagram);
            (rest, begin) = (behind, end);
        }
        self.bytes.clear();
    }
}

/// One end of the connection.
struct End {
    machine: Connection,
    protection: Protection<Bare>,
    sink: Vec<wire::transport::Packet>,
    out: Datagrams,
}

impl End {
    fn new(ours: u32, peer: u32) -> Self {
        let wire_bytes = u32::from(CHUNK_BYTES + HEADER_BYTES);
        let config = Config {
            chunk_bytes: CHUNK_BYTES,
            header_bytes: HEADER_BYTES,
            // one ACK for four packets, as full packets and the defaults have it
            ack_every_bytes: 4 * wire_bytes,
            ..Config::default()
        };
        let secrets = [Secret([1; 32]), Secret([2; 32])];
        Self {
            machine: Connection::new(config, ConnectionId(peer), 7),
            protection: Protection::new(Bare, Cipher::Aes128Gcm, secrets, ours < peer),
            sink: Vec::with_capacity(SEGMENTS_MAX),
            out: Datagrams::new(),
        }
    }

    /// Takes a message and sends what may go.
    fn send(&mut self, now: Nanos) {
        let bytes = PACKETS as u64 * u64::from(CHUNK_BYTES);
        self.machine.send(now, Target::Tagged { tag: 1 }, bytes).unwrap();
        while self.machine.poll_data(now, SEGMENTS_MAX, &mut self.sink).is_some() {
            self.seal(now, &PAYLOAD);
        }
    }

    fn seal(&mut self, now: Nanos, payload: &[u8]) {
        for packet in self.sink.drain(..) {
            self.protection.seal(now, &packet, payload, &mut self.out.bytes).unwrap();
            self.out.ends.push(self.out.bytes.len());
        }
    }

    /// Takes what the other end has sent, and answers at once what wants an answer.
    fn take(&mut self, now: Nanos, from: &mut Datagrams) {
        from.drain(|datagram| {
            let opened = self.protection.open(now, datagram).unwrap();
            black_box(self.machine.handle_input(now, &opened.packet, Seen::default()));
            black_box(opened.payload);
            while self.machine.poll_control(now, &mut self.sink).is_some() {
                self.seal(now, &[]);
            }
        });
    }
}

const SENT_AT: Nanos = Nanos(2_000_000);
const RECEIVED_AT: Nanos = Nanos(2_007_000);
const ACKNOWLEDGED_AT: Nanos = Nanos(2_014_000);

/// A connection that has carried a message.
fn used() -> [End; 2] {
    let [mut a, mut b] = [End::new(0, 1), End::new(1, 0)];
    a.send(Nanos(1_000_000));
    b.take(Nanos(1_007_000), &mut a.out);
    a.take(Nanos(1_014_000), &mut b.out);
    let events = [&mut a, &mut b].map(|end| std::iter::from_fn(|| end.machine.poll_event()).count());
    assert_eq!((events, a.machine.in_flight()), ([1, 1], 0), "one was sent, and one received");
    [a, b]
}

fn sent() -> [End; 2] {
    let [mut a, b] = used();
    a.send(SENT_AT);
    assert_eq!(a.out.ends.len(), PACKETS, "all of it may go at once");
    [a, b]
}

fn received() -> [End; 2] {
    let [mut a, mut b] = sent();
    b.take(RECEIVED_AT, &mut a.out);
    assert!((PACKETS / 8..PACKETS / 2).contains(&b.out.ends.len()), "{} ACKs", b.out.ends.len());
    [a, b]
}

/// What is counted, by its name in `instructions.toml`; anything else is done before.
#[derive(Clone, Copy)]
enum Path {
    Send,
    Receive,
    Acknowledge,
}

/// Nothing but this is counted: callgrind is told its name, so no other function's may contain it.
#[inline(never)]
fn counted_path(path: Path, [a, b]: &mut [End; 2]) -> Option<Event> {
    match path {
        Path::Send => a.send(SENT_AT),
        Path::Receive => b.take(RECEIVED_AT, &mut a.out),
        Path::Acknowledge => a.take(ACKNOWLEDGED_AT, &mut b.out),
    }
    match path {
        Path::Receive => b.machine.poll_event(),
        Path::Send | Path::Acknowledge => a.machine.poll_event(),
    }
}

fn main() -> ExitCode {
    let (path, mut ends) = match std::env::args().nth(1).as_deref() {
        Some("send") => (Path::Send, used()),
        Some("receive") => (Path::Receive, sent()),
        Some("acknowledge") => (Path::Acknowledge, received()),
        _ => {
            eprintln!(
                "expected send, receive or acknowledge; `cargo xtask bench instructions` counts all three"
            );
            return ExitCode::FAILURE;
        }
    };
    let event = counted_path(black_box(path), black_box(&mut ends));
    // a count of work that was not done is worth nothing
    let done = match path {
        Path::Send => event.is_none() && ends[0].out.ends.len() == PACKETS,
        Path::Receive => matches!(event, Some(Event::Received { .. })) && !ends[1].out.ends.is_empty(),
        Path::Acknowledge => matches!(event, Some(Event::Sent(_))) && ends[0].machine.in_flight() == 0,
    };
    assert!(done, "the message did not go through: {event:?}");
    ExitCode::SUCCESS
}
