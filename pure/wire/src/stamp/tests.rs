//! STAMP byte by byte, refusals, and what holds for any bytes.

use super::*;
use alloc::{format, string::String, vec};
use core::net::Ipv6Addr;
use proptest::prelude::*;
use tlv::{Tlvs, Value, kind};

fn hex(bytes: &[u8]) -> String {
    let rows =
        bytes.chunks(16).map(|row| row.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "));
    rows.collect::<Vec<_>>().join("\n")
}

/// 2026-01-02 03:04:05.123456789 UTC.
const T: Nanos = Nanos(1_767_323_045_123_456_789);

fn probe() -> SenderRepr {
    SenderRepr {
        sequence: 7,
        timestamp: T,
        error_estimate: ErrorEstimate { synchronized: true, ..Default::default() },
        ssid: 0x1234,
    }
}

#[test]
fn a_probe_with_its_tlvs_byte_by_byte() {
    let mut b = Vec::new();
    probe().write(None, &mut b);
    tlv::push(
        &mut b,
        kind::CLASS_OF_SERVICE,
        &tlv::ClassOfService { dscp_back: 46, ..Default::default() }.write(),
    );
    tlv::push_return_segment(&mut b, Ipv6Addr::new(0xfcbb, 0xbb00, 5, 2, 0xe001, 0, 0, 0));
    tlv::push_padding(&mut b, 8);
    insta::assert_snapshot!(hex(&b), @r"
    00 00 00 07 ed 01 b4 25 1f 9a dd 38 96 01 12 34
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 80 04 00 04
    b8 00 00 00 80 0a 00 14 80 04 00 10 fc bb bb 00
    00 05 00 02 e0 01 00 00 00 00 00 00 80 01 00 04
    00 00 00 00
    ");
}

#[test]
fn an_answer_byte_by_byte() {
    let r = ReflectorRepr {
        sequence: 9,
        timestamp: T + Nanos(2_000),
        error_estimate: ErrorEstimate { format: Format::Ptp, ..Default::default() },
        ssid: 0x1234,
        received: T + Nanos(1_000),
        sender_sequence: 7,
        sender_timestamp: T,
        sender_error_estimate: probe().error_estimate,
        sender_ttl: 61,
    };
    let mut b = Vec::new();
    r.write(None, &mut b);
    insta::assert_snapshot!(hex(&b), @r"
    00 00 00 09 69 57 35 a5 07 5b d4 e5 56 01 12 34
    69 57 35 a5 07 5b d0 fd 00 00 00 07 ed 01 b4 25
    1f 9a dd 38 96 01 00 00 3d 00 00 00
    ");
    assert_eq!(ReflectorPacket::new_checked(&b, None).unwrap().repr(), r);
}

#[test]
fn an_authenticated_packet_is_112_bytes_and_believed_only_with_its_key() {
    let mut b = Vec::new();
    probe().write(Some(b"secret"), &mut b);
    assert_eq!(b.len(), AUTHENTICATED_LEN);
    assert_eq!(SenderPacket::new_checked(&b, Some(b"secret")).unwrap().repr(), probe());
    assert_eq!(SenderPacket::new_checked(&b, Some(b"other")).err(), Some(Refused::BadHmac));
    b[16] ^= 1;
    assert_eq!(SenderPacket::new_checked(&b, Some(b"secret")).err(), Some(Refused::BadHmac));
}

/// RFC 4231, test case 2, cut to 128 bits.
#[test]
fn the_hmac_is_the_one_of_the_rfc() {
    let digest = hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
    insta::assert_snapshot!(hex(&digest), @"5b dc c1 46 bf 60 75 4e 6a 04 24 26 08 95 75 c7");
}

#[test]
fn the_hmac_tlv_covers_sequence_and_tlvs_before_it() {
    let mut b = Vec::new();
    probe().write(Some(b"k"), &mut b);
    let first = b.len();
    tlv::push(&mut b, kind::CLASS_OF_SERVICE, &[0; 4]);
    let sequence = 7u32.to_be_bytes();
    assert_eq!(tlv::check_hmac(&b[first..], sequence, b"k"), Err(Refused::NoHmacTlv));
    tlv::push_hmac(&mut b, first, sequence, b"k");
    tlv::push_padding(&mut b, 20);
    assert_eq!(tlv::check_hmac(&b[first..], sequence, b"k"), Ok(()));
    assert_eq!(tlv::check_hmac(&b[first..], 8u32.to_be_bytes(), b"k"), Err(Refused::BadHmacTlv));
    let mut late = b.clone();
    tlv::push(&mut late, kind::CLASS_OF_SERVICE, &[0; 4]);
    assert_eq!(tlv::check_hmac(&late[first..], sequence, b"k"), Err(Refused::TlvAfterHmac { kind: 4 }));
    b[first + 5] ^= 1;
    assert_eq!(tlv::check_hmac(&b[first..], sequence, b"k"), Err(Refused::BadHmacTlv));
}

#[test]
fn refusals() {
    let mut good = Vec::new();
    probe().write(None, &mut good);
    let mut zero = good.clone();
    zero[13] = 0;
    type Case<'a> = (&'a str, Vec<u8>, Option<&'a [u8]>, Refused);
    let table: Vec<Case<'_>> = vec![
        ("empty", vec![], None, Refused::TooShort { got: 0, least: 44 }),
        ("one short", good[..43].to_vec(), None, Refused::TooShort { got: 43, least: 44 }),
        ("not authenticated", good.clone(), Some(b"k"), Refused::TooShort { got: 44, least: 112 }),
        ("no error estimate", zero, None, Refused::ErrorEstimate),
    ];
    for (what, bytes, key, want) in table {
        assert_eq!(SenderPacket::new_checked(bytes, key).err(), Some(want), "{what}");
    }
    let tlvs: Vec<(&str, &[u8], Refused)> = vec![
        ("half a header", &[0x80, 1], Refused::TlvTruncated { claimed: 4, left: 2 }),
        ("runs past the end", &[0x80, 1, 0, 9, 0], Refused::TlvTruncated { claimed: 9, left: 1 }),
    ];
    for (what, bytes, want) in tlvs {
        assert_eq!(Tlvs::new(bytes).next(), Some(Err(want)), "{what}");
    }
    let short = Tlvs::new(&[0x80, 4, 0, 1, 0]).next().unwrap().unwrap();
    assert_eq!(short.value(), Err(Refused::TlvLength { kind: 4, len: 1 }));
}

#[test]
fn every_type_reads_back() {
    let mut b = Vec::new();
    let cos = tlv::ClassOfService { dscp_back: 46, dscp_arrived: 10, ecn_arrived: 3, reverse_refused: 1 };
    let direct = tlv::DirectMeasurement { sender_tx: 1, reflector_rx: 2, reflector_tx: 3 };
    let follow = tlv::FollowUpTelemetry { sequence: 5, timestamp_raw: 6, mode: 2 };
    let info = tlv::TimestampInformation { source_in: 1, method_in: 2, source_out: 1, method_out: 2 };
    let taken = tlv::TakenPath { known: 1, epoch: 99, path: 1 << 40 };
    let addr = Ipv6Addr::LOCALHOST;
    tlv::push(&mut b, kind::LOCATION, &[3, 94, 0, 9, 1]);
    tlv::push(&mut b, kind::TIMESTAMP_INFORMATION, &info.write());
    tlv::push(&mut b, kind::CLASS_OF_SERVICE, &cos.write());
    tlv::push(&mut b, kind::DIRECT_MEASUREMENT, &direct.write());
    tlv::push(&mut b, kind::ACCESS_REPORT, &[0x10, 1, 0, 0]);
    tlv::push(&mut b, kind::FOLLOW_UP_TELEMETRY, &follow.write());
    tlv::push(&mut b, kind::HMAC, &[8; 16]);
    tlv::push(&mut b, kind::DESTINATION_NODE_ADDRESS, &addr.octets());
    tlv::push_return_segment(&mut b, addr);
    tlv::push(&mut b, kind::TAKEN_PATH, &taken.write());
    tlv::push(&mut b, 99, &[1]);
    tlv::push_padding(&mut b, 9);
    let got: Vec<Value<'_>> = Tlvs::new(&b).map(|t| t.unwrap().value().unwrap()).collect();
    let segment = tlv::ReturnPath { segment: Some(addr), segments: 1, ..Default::default() };
    assert_eq!(
        got,
        [
            Value::Location { destination_port: 862, source_port: 9, sub_tlvs: &[1] },
            Value::TimestampInformation(info),
            Value::ClassOfService(cos),
            Value::DirectMeasurement(direct),
            Value::AccessReport { access_id: 1, return_code: 1 },
            Value::FollowUpTelemetry(follow),
            Value::Hmac([8; 16]),
            Value::DestinationNodeAddress(addr),
            Value::ReturnPath(segment),
            Value::TakenPath(taken),
            Value::Unknown,
            Value::ExtraPadding(5),
        ]
    );
}

proptest! {
    #[test]
    fn times_read_back(ns in 0u64..4_102_444_800_000_000_000) {
        for f in [Format::Ntp, Format::Ptp] {
            prop_assert_eq!(f.read(f.write(Nanos(ns))), Nanos(ns));
        }
    }

    #[test]
    fn packets_read_back(
        sequence: u32, t in 0u64..4_000_000_000_000_000_000, ssid: u16, synchronized: bool, scale in 0u8..64,
        multiplier in 1u8.., ptp: bool, key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80)),
        other: u32, ttl: u8,
    ) {
        let format = if ptp { Format::Ptp } else { Format::Ntp };
        let error_estimate = ErrorEstimate { synchronized, format, scale, multiplier };
        let s = SenderRepr { sequence, timestamp: Nanos(t), error_estimate, ssid };
        let mut b = Vec::new();
        s.write(key.as_deref(), &mut b);
        prop_assert_eq!(SenderPacket::new_checked(&b, key.as_deref()).unwrap().repr(), s);
        let r = ReflectorRepr {
            sequence, timestamp: Nanos(t), error_estimate, ssid, received: Nanos(t / 2), sender_sequence: other,
            sender_timestamp: Nanos(t / 3), sender_error_estimate: ErrorEstimate::default(), sender_ttl: ttl,
        };
        let mut b = Vec::new();
        r.write(key.as_deref(), &mut b);
        prop_assert_eq!(ReflectorPacket::new_checked(&b, key.as_deref()).unwrap().repr(), r);
    }

    #[test]
    fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300), keyed: bool) {
        let key: Option<&[u8]> = keyed.then_some(b"k");
        if let Ok(p) = ReflectorPacket::new_checked(&bytes, key) {
            let _ = p.repr();
        }
        if let Ok(p) = SenderPacket::new_checked(&bytes, key) {
            let _ = (p.repr(), tlv::check_hmac(p.tlv_bytes(), p.sequence_bytes(), b"k"));
        }
        for t in Tlvs::new(&bytes).flatten() {
            let _ = t.value();
        }
    }
}
