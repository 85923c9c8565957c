//! Laws of the packets as values and as bytes.

use super::hello::{self, Hello, Level, Parameters, Retry, STREAM_MAX, Stranger};
use super::packet::{self, Kind, Parsed, Reject, Unencodable, decode, encode};
use super::protection::Cipher;
use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..200_000, 0..PACKET_NUMBER_END]
}

prop_compose! {
    fn data()(
        connection: u32, number in number(), behind in prop_oneof![0u64..5_000, any::<u64>()], message: u32,
        chunk_bytes in prop_oneof![1u16..2_000, 1u16..], index in prop_oneof![Just(0u64), 0u64..70_000, 0u64..1 << 32],
        more in prop_oneof![Just(0u64), 0u64..3_000, 0u64..1 << 40], last in 1u16.., write: bool,
        (ev, ev_seq, demand, sent_ns, flags) in any::<(u16, u32, u32, u32, u8)>(),
        (wide, narrow, small, fits) in any::<(u64, u8, u32, bool)>(),
    ) -> Data {
        // `more` bytes after this chunk, which is full where there are any
        let chunk = u64::from(chunk_bytes);
        let bytes = if more > 0 { chunk_bytes } else { 1 + last % chunk_bytes };
        let offset = index * chunk;
        let value = if fits { u64::from(narrow) } else { wide };
        let target = match write {
            true => Target::Write { region: RegionId(small >> (narrow % 32)), offset: value, immediate: small },
            false => Target::Tagged { tag: value },
        };
        Data {
            connection: ConnectionId(connection), number, floor: number - behind % (number + 1),
            message: MessageId(message), message_bytes: offset + u64::from(bytes) + more, offset, bytes, chunk_bytes,
            target, ev: Ev(ev), ev_seq, demand, sent_ns, flags: DataFlags(flags & 15),
        }
    }
}

prop_compose! {
    fn feedback()(ev: u16, n: [u32; 7], has in 0u8..8) -> EvFeedback {
        EvFeedback {
            ev: Ev(ev), highest: n[0], received: n[1], marked: if has & 1 != 0 { n[2] } else { 0 },
            trimmed: if has & 2 != 0 { n[3] } else { 0 }, delay_min_ns: n[4],
            delay_max_ns: if has & 4 != 0 { n[5] } else { n[4] }, echo_ns: n[6],
        }
    }
}

prop_compose! {
    fn ack()(
        connection: u32, cumulative in number(), bitmap: [u64; BITMAP_WORDS], words in 0usize..=BITMAP_WORDS,
        reports in proptest::collection::vec(feedback(), 0..=FEEDBACK_MAX), granted: u32, grants: bool, placed: u32,
        held_ns: u32, ahead: u16, further: bool,
    ) -> Ack {
        let mut a = Ack {
            connection: ConnectionId(connection), cumulative, granted: if grants { granted } else { 0 }, grants,
            placed, held_ns, feedback_len: reports.len() as u8, ahead: if further { ahead } else { 0 }, ..Ack::default()
        };
        a.bitmap[..words].copy_from_slice(&bitmap[..words]);
        a.feedback[..reports.len()].copy_from_slice(&reports);
        a
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let c = || any::<u32>().prop_map(ConnectionId);
    const REASONS: [NackReason; 3] = [NackReason::Trimmed, NackReason::NoConnection, NackReason::NoRoom];
    const ENDS: [CloseReason; 4] =
        [CloseReason::Done, CloseReason::Aborted, CloseReason::TimedOut, CloseReason::Protocol];
    prop_oneof![
        4 => data().prop_map(Packet::Data),
        3 => ack().prop_map(Packet::Ack),
        1 => ack().prop_map(Packet::ProbeAnswer),
        1 => (c(), number(), proptest::sample::select(&REASONS), any::<(u16, u32, bool)>()).prop_map(
            |(connection, number, reason, (ev, granted, grants))| Packet::Nack(Nack {
                connection, number, reason, ev: Ev(ev), granted: if grants { granted } else { 0 }, grants,
            })),
        1 => (c(), any::<u32>()).prop_map(|(connection, granted)| Packet::Credit(Credit { connection, granted })),
        1 => (c(), any::<(u32, u32)>()).prop_map(
            |(connection, (demand, left))| Packet::CreditRequest(CreditRequest { connection, demand, left })),
        1 => data().prop_map(|d| Packet::Probe(Probe {
            connection: d.connection, number: d.number, floor: d.floor, ev: d.ev, ev_seq: d.ev_seq,
            demand: d.demand, sent_ns: d.sent_ns,
        })),
        1 => (c(), number(), proptest::sample::select(&ENDS)).prop_map(
            |(connection, number, reason)| Packet::Close(Close { connection, number, reason })),
    ]
}

/// Bytes of a packet with a payload and a tag behind it, both zero.
fn bytes(packet: &Packet, control: u64, phase: bool) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(encode(packet, control, phase, &mut out), Ok(()));
    if let Packet::Data(d) = packet {
        out.resize(out.len() + usize::from(d.bytes), 0);
    }
    out.resize(out.len() + 16, 0);
    out
}

proptest! {
    #[test]
    fn what_is_written_reads_back(packet in any_packet(), control in number(), phase: bool) {
        let out = bytes(&packet, control, phase);
        let parsed = decode(&out, 16).unwrap();
        prop_assert_eq!(parsed.packet, packet);
        prop_assert_eq!(parsed.phase, phase);
        let want = match packet { Packet::Data(Data { number, .. }) | Packet::Probe(Probe { number, .. }) => number,
            _ => control };
        prop_assert_eq!(parsed.number, want);
        let most = if matches!(packet, Packet::Data(_)) { packet::DATA_HEADER_MAX } else { packet::CONTROL_MAX };
        prop_assert!(parsed.header_bytes <= most);
        // one byte more or less is another packet or none
        prop_assert!(decode(&out[..out.len() - 1], 16).is_err());
    }

    #[test]
    fn what_is_read_writes_back_to_the_same_bytes(
        packet in any_packet(), control in number(), at in 0usize..70, flip in 1u8..,
    ) {
        let mut out = bytes(&packet, control, false);
        let at = at % out.len();
        out[at] ^= flip;
        if let Ok(Parsed { packet, number, phase, header_bytes, .. }) = decode(&out, 16) {
            let mut again = Vec::new();
            prop_assert_eq!(encode(&packet, number, phase, &mut again), Ok(()));
            prop_assert_eq!(&again[..], &out[..header_bytes]);
        }
    }

    #[test]
    fn any_bytes_are_an_outcome(mut out in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..12, tag in 0usize..17) {
        if let Some(first) = out.first_mut() {
            *first = packet::VERSION << 4 | kind;
        }
        let _ = (decode(&out, tag), packet::decode_trimmed(&out), Stranger::to(&out), Stranger::read(&out));
        let _ = (Hello::read(&out), Retry::read(&out), Parameters::read(&out));
    }

    #[test]
    fn a_trimmed_header_says_what_was_cut(d in data()) {
        let out = bytes(&Packet::Data(d), 0, true);
        let header = decode(&out, 16).unwrap().header_bytes;
        prop_assert_eq!(packet::decode_trimmed(&out[..header]).map(|p| p.packet), Ok(Packet::Data(d)));
    }

    #[test]
    fn chunks_of_one_message_have_headers_of_one_length(d in data(), index in 0u64..1 << 32) {
        let chunks = d.message_bytes.div_ceil(u64::from(d.chunk_bytes));
        let index = index % chunks;
        prop_assume!(index < 1 << 32);
        let offset = index * u64::from(d.chunk_bytes);
        let other = (d.message_bytes - offset).min(u64::from(d.chunk_bytes)) as u16;
        let other = Data { offset, bytes: other, ..d };
        let (mut a, mut b) = (Vec::new(), Vec::new());
        encode(&Packet::Data(d), 0, false, &mut a).unwrap();
        encode(&Packet::Data(other), 0, false, &mut b).unwrap();
        prop_assert_eq!(a.len(), b.len());
    }

    #[test]
    fn handshake_datagrams_read_back(
        answer: bool, plain: bool, refusal: bool, id: u64, number: u32, arrived in [0..=STREAM_MAX, 0..=STREAM_MAX],
        offset in 0..=STREAM_MAX, cookie in proptest::collection::vec(any::<u8>(), 0..=hello::COOKIE_MAX),
        piece in proptest::collection::vec(any::<u8>(), 0..50), connection: u32, packet_number in number(),
    ) {
        let level = if plain { Level::Plain } else { Level::Handshake };
        let h = Hello { answer, level, refusal, id, number, arrived, offset, cookie: &cookie };
        let mut out = Vec::new();
        h.write(&mut out);
        let header = out.len();
        out.extend_from_slice(&piece);
        prop_assert_eq!(Hello::read(&out), Ok((h, header)));
        let r = Retry { id, cookie: &cookie };
        let mut out = Vec::new();
        r.write(&mut out);
        prop_assert_eq!(Retry::read(&out), Ok(r));
        out.push(0);
        prop_assert_eq!(Retry::read(&out), Err(Reject::Payload { got: 1, want: 0 }));
        let s = Stranger { connection: ConnectionId(connection), number: packet_number };
        let mut out = Vec::new();
        s.write(&mut out);
        prop_assert_eq!(Stranger::read(&out), Ok(s));
        prop_assert_eq!(Stranger::to(&out), None, "never an answer to an answer");
    }

    #[test]
    fn parameters_read_back(connection: u32, datagram_bytes_max: u16, evs in 1u16.., trusted: bool,
        addresses in proptest::collection::vec(any::<[u8; 16]>(), 0..=16)) {
        let mut ciphers = vec![Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305];
        if trusted {
            ciphers.insert(0, Cipher::Trusted);
        }
        let p = Parameters { connection: ConnectionId(connection), datagram_bytes_max, evs, ciphers,
            addresses: addresses.into_iter().map(core::net::Ipv6Addr::from).collect() };
        let mut out = Vec::new();
        p.write(&mut out);
        prop_assert_eq!(Parameters::read(&out), Ok(p.clone()));
        out.extend_from_slice(b"later");
        prop_assert_eq!(Parameters::read(&out), Ok(p));
    }
}

const PLAIN: Data = Data {
    connection: ConnectionId(7),
    number: 1000,
    floor: 900,
    message: MessageId(3),
    message_bytes: 1 << 20,
    offset: 1391 * 5,
    bytes: 1391,
    chunk_bytes: 1391,
    target: Target::Tagged { tag: 300 },
    ev: Ev(4),
    ev_seq: 50,
    demand: 1 << 20,
    sent_ns: 123,
    flags: DataFlags(0),
};

#[test]
fn the_usual_header_is_short() {
    let mut out = Vec::new();
    encode(&Packet::Data(PLAIN), 0, false, &mut out).unwrap();
    assert_eq!(out.len(), 43);
    let small = Data { message_bytes: 64, offset: 0, bytes: 64, target: Target::Tagged { tag: 0 }, ..PLAIN };
    out.clear();
    encode(&Packet::Data(small), 0, false, &mut out).unwrap();
    assert_eq!(out.len(), 36);
    // a long write, and the longest there is below 4 GiB
    let target = Target::Write { region: RegionId(u32::MAX), offset: u64::MAX, immediate: u32::MAX };
    let chunk = Data { message_bytes: u64::from(u32::MAX), target, ..PLAIN };
    out.clear();
    encode(&Packet::Data(chunk), 0, false, &mut out).unwrap();
    assert_eq!(out.len(), packet::DATA_HEADER_USUAL_MAX);
    let chunk = Data { message_bytes: 1 << 40, number: 1 << 40, ..chunk };
    out.clear();
    encode(&Packet::Data(chunk), 0, false, &mut out).unwrap();
    assert_eq!(out.len(), packet::DATA_HEADER_MAX);
}

#[test]
fn each_reject_has_its_reason() {
    let whole = bytes(&Packet::Data(PLAIN), 0, false);
    let with = |at: usize, value: u8| {
        let mut b = whole.clone();
        b[at] = value;
        decode(&b, 16).unwrap_err()
    };
    assert_eq!(decode(&[], 16), Err(Reject::TooShort { got: 0, least: 28 }));
    assert_eq!(with(0, 0x20), Reject::Version { got: 2 });
    assert_eq!(with(0, 0x1f), Reject::Kind { got: 15 });
    assert_eq!(with(0, Kind::Hello.first_byte()), Reject::Kind { got: 8 });
    assert_eq!(with(1, 0x20), Reject::Flags { kind: Kind::Data, got: 0x20 });
    assert_eq!(with(26, 0xff), Reject::Floor { number: 1000, distance: 0xff64 });
    assert_eq!(with(32, 0xff), Reject::NotShortest);
    assert_eq!(with(33, 0), Reject::Payload { got: 1391, want: 1391 % 256 });
    assert_eq!(decode(&whole[..60], 16), Err(Reject::Payload { got: 1, want: 1391 }));
    assert_eq!(
        with(39, 0xff),
        Reject::Chunk { index: 0xff00 | 5, chunk_bytes: 1391, message_bytes: 1 << 20 }
    );
    let mut ack = bytes(&Packet::Ack(Ack::default()), 0, false);
    ack[26] = 9;
    assert_eq!(decode(&ack, 16), Err(Reject::Range { got: 9, most: 8 }));
    ack[26] = 8;
    assert_eq!(decode(&ack, 16), Err(Reject::TooShort { got: 27, least: 28 }));
}

#[test]
fn a_packet_that_contradicts_itself_is_not_written() {
    let mut out = Vec::new();
    let mut refuse = |d: Data| encode(&Packet::Data(d), 0, false, &mut out).unwrap_err();
    assert_eq!(refuse(Data { number: 1 << 48, ..PLAIN }), Unencodable::Number { number: 1 << 48 });
    assert_eq!(refuse(Data { floor: 1001, ..PLAIN }), Unencodable::Floor { floor: 1001, number: 1000 });
    for d in [
        Data { offset: 1, ..PLAIN },
        Data { bytes: 1390, ..PLAIN },
        Data { chunk_bytes: 0, ..PLAIN },
        Data { message_bytes: 1391 * 5, ..PLAIN },
    ] {
        assert!(matches!(refuse(d), Unencodable::Chunk { .. }));
    }
    assert!(out.is_empty());
}
