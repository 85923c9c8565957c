//! The test vectors of `docs/transport-wire.md`: what the document shows is what the code does.
//!
//! How: the vectors are made here with fixed secrets and compared with the block in the document, line by line. Where
//! they differ, the test says what the block should be.

use crate::Ring;
use std::fmt::Write;
use wire::Nanos;
use wire::transport::hello::{Hello, Level, Parameters, Retry, Stranger};
use wire::transport::protection::{Cipher, Protection, Secret, Suite, schedule};
use wire::transport::{
    Ack, Close, CloseReason, ConnectionId, Credit, CreditRequest, Data, DataFlags, Ev, EvFeedback, MessageId,
    Nack, NackReason, Packet, Probe, RegionId, Target,
};

const DOCUMENT: &str = include_str!("../../../../docs/transport-wire.md");
const INITIATOR: ConnectionId = ConnectionId(0x0102_0304);
const RESPONDER: ConnectionId = ConnectionId(0xa1b2_c3d4);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn pair() -> Secret {
    let mut pair = Secret([0; 32]);
    pair.0.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    pair
}

fn packets() -> Vec<(&'static str, Packet, &'static [u8])> {
    let data = Data {
        connection: RESPONDER,
        number: 5,
        floor: 3,
        message: MessageId(7),
        message_bytes: 5,
        offset: 0,
        bytes: 5,
        chunk_bytes: 1_000,
        target: Target::Tagged { tag: 0x1234 },
        ev: Ev(9),
        ev_seq: 2,
        demand: 100,
        sent_ns: 0x1122_3344,
        flags: DataFlags(DataFlags::ACK_NOW),
    };
    let write = Data {
        number: 0x0001_0000_0000,
        floor: 4,
        message: MessageId(8),
        message_bytes: 2_005,
        offset: 2_000,
        target: Target::Write { region: RegionId(3), offset: 0x1_0000_0000, immediate: 0xdead_beef },
        flags: DataFlags(DataFlags::AGAIN | DataFlags::BLIND),
        ..data
    };
    let mut ack = Ack {
        connection: RESPONDER,
        cumulative: 70,
        bitmap: [0b101, 1 << 63, 0, 0],
        feedback_len: 2,
        granted: 4_096,
        grants: true,
        placed: 65_536,
        held_ns: 1_500,
        ..Ack::default()
    };
    let report = EvFeedback {
        ev: Ev(9),
        highest: 40,
        received: 39,
        marked: 0,
        trimmed: 0,
        delay_min_ns: 0xffff_ff00,
        delay_max_ns: 0xffff_ff00,
        echo_ns: 77,
    };
    ack.feedback[0] = report;
    ack.feedback[1] = EvFeedback { ev: Ev(10), marked: 3, trimmed: 1, delay_max_ns: 12, ..report };
    let mut one = Ack { feedback_len: 1, ..ack };
    one.feedback[1] = EvFeedback::default();
    let further = Ack { ahead: 300, bitmap: [0b101, 0, 0, 0], grants: false, granted: 0, ..one };
    let (connection, number, ev, granted) = (RESPONDER, 69, Ev(9), 4_096);
    vec![
        ("Data, tagged", Packet::Data(data), b"hello"),
        ("Data, write", Packet::Data(write), b"world"),
        ("Ack", Packet::Ack(ack), b""),
        ("Ack, further up", Packet::Ack(further), b""),
        (
            "Nack",
            Packet::Nack(Nack { connection, number, reason: NackReason::NoRoom, ev, granted, grants: true }),
            b"",
        ),
        ("Credit", Packet::Credit(Credit { connection, granted }), b""),
        ("CreditRequest", Packet::CreditRequest(CreditRequest { connection, demand: 9_000, left: 500 }), b""),
        (
            "Probe",
            Packet::Probe(Probe {
                connection,
                number: 0x0001_0000_0001,
                floor: 0x0001_0000_0000,
                ev,
                ev_seq: 41,
                demand: 9_000,
                sent_ns: 88,
            }),
            b"",
        ),
        ("ProbeAnswer", Packet::ProbeAnswer(one), b""),
        ("Close", Packet::Close(Close { connection, number: 0, reason: CloseReason::Done }), b""),
    ]
}

fn vectors() -> String {
    let mut out = String::new();
    let mut line = |name: &str, bytes: &[u8]| {
        let _ = writeln!(out, "{name} = {}", hex(bytes));
    };
    let pair = pair();
    line("pair secret", &pair.0);
    line("initiator's connection id", &INITIATOR.0.to_be_bytes());
    line("responder's connection id", &RESPONDER.0.to_be_bytes());
    for (name, cipher) in [
        ("AES-128-GCM", Cipher::Aes128Gcm),
        ("ChaCha20-Poly1305", Cipher::ChaCha20Poly1305),
        ("Trusted", Cipher::Trusted),
    ] {
        let [first, second] = schedule::connection(&Ring, &pair, cipher, INITIATOR, RESPONDER);
        line(&format!("{name}: initiator's secret"), &first.0);
        line(&format!("{name}: responder's secret"), &second.0);
        let mut key = vec![0; cipher.key_bytes()];
        schedule::expand(&Ring, &first, b"key", &[], &mut key);
        let mut iv = [0; 12];
        schedule::expand(&Ring, &first, b"iv", &[], &mut iv);
        line(&format!("{name}: initiator's key"), &key);
        line(&format!("{name}: initiator's iv"), &iv);
        line(&format!("{name}: initiator's next secret"), &schedule::next(&Ring, &first).0);
        let mut from = Protection::of_connection(Ring, cipher, &pair, INITIATOR, RESPONDER, true);
        let mut to = Protection::of_connection(Ring, cipher, &pair, INITIATOR, RESPONDER, false);
        // the control packets' numbers count from 0 in this order
        for (kind, packet, payload) in packets() {
            if cipher != Cipher::Aes128Gcm && !kind.starts_with("Data, tagged") {
                continue;
            }
            let mut datagram = Vec::new();
            from.seal(Nanos(0), &packet, payload, &mut datagram).unwrap();
            line(&format!("{name}: {kind}"), &datagram);
            let opened = to.open(Nanos(0), &mut datagram).unwrap();
            assert_eq!((opened.packet, opened.payload), (packet, payload));
        }
        if cipher == Cipher::Aes128Gcm {
            // the responder answers, so the initiator may change keys
            let mut answer = Vec::new();
            to.seal(
                Nanos(0),
                &Packet::Credit(Credit { connection: INITIATOR, granted: 1 }),
                &[],
                &mut answer,
            )
            .unwrap();
            line(&format!("{name}: responder's Credit"), &answer);
            from.open(Nanos(0), &mut answer).unwrap();
            assert!(from.update(Nanos(0)));
            let mut datagram = Vec::new();
            from.seal(
                Nanos(0),
                &Packet::Credit(Credit { connection: RESPONDER, granted: 2 }),
                &[],
                &mut datagram,
            )
            .unwrap();
            line(&format!("{name}: Credit under the next key"), &datagram);
            to.open(Nanos(0), &mut datagram).unwrap();
        }
    }
    let mut datagram = Vec::new();
    let cookie: Vec<u8> = (0..24).collect();
    let (id, number) = (0x1122_3344_5566_7788, 3);
    let hello = Hello {
        answer: false,
        level: Level::Handshake,
        refusal: false,
        id,
        number,
        arrived: [120, 900],
        offset: 1_000,
        cookie: &cookie,
    };
    hello.write(&mut datagram);
    line("Hello, header", &datagram);
    datagram.clear();
    Retry { id, cookie: &cookie }.write(&mut datagram);
    line("Retry", &datagram);
    datagram.clear();
    Stranger { connection: RESPONDER, number: 5 }.write(&mut datagram);
    line("Stranger", &datagram);
    datagram.clear();
    let ciphers = vec![Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305];
    // addresses of documentation (RFC 3849)
    let addresses = vec!["2001:db8::1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
    Parameters { connection: INITIATOR, datagram_bytes_max: 8_948, evs: 64, ciphers, addresses }
        .write(&mut datagram);
    line("Parameters", &datagram);
    out
}

#[test]
fn the_document_shows_what_the_code_does() {
    let want = vectors();
    let block = DOCUMENT.split("```vectors\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(
        block,
        Some(want.as_str()),
        "docs/transport-wire.md should have this block:\n```vectors\n{want}```"
    );
}

/// The document's table of types is complete.
#[test]
fn the_document_names_every_type() {
    for kind in [
        "Data",
        "Ack",
        "Nack",
        "Credit",
        "CreditRequest",
        "Probe",
        "ProbeAnswer",
        "Close",
        "Hello",
        "Retry",
        "Stranger",
    ] {
        assert!(DOCUMENT.contains(&format!("| {kind} |")), "{kind}");
    }
}

/// HKDF by hand, with another implementation of HMAC, so that the vectors are not only what ring says.
#[test]
fn the_schedule_is_hkdf_sha256() {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &pair().0);
    let mut info = vec![0, 32, 19];
    info.extend_from_slice(b"selvedge1 initiator");
    info.push(9);
    info.extend_from_slice(&[1, 2, 3, 4, 0xa1, 0xb2, 0xc3, 0xd4, 1]);
    let mut text = info.clone();
    text.push(1);
    let want = ring::hmac::sign(&key, &text);
    let [first, _] = schedule::connection(&Ring, &pair(), Cipher::Aes128Gcm, INITIATOR, RESPONDER);
    assert_eq!(first.0, want.as_ref());
    let mut out = [0; 32];
    Ring.expand(&pair(), &info, &mut out);
    assert_eq!(out, first.0);
}
