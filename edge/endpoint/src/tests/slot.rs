//! A peer that has keys and breaks the rules.

use super::*;
use wire::transport::DataFlags;
use wire::transport::hello::Parameters;
use wire::transport::protection::{Cipher, Secret};

const OURS: ConnectionId = ConnectionId(1);
const THEIRS: ConnectionId = ConnectionId(2);

/// A slot, and the peer's keys.
fn slot(config: &Config) -> (Slot, Protection<Ring>) {
    let parameters = |connection| Parameters {
        connection,
        datagram_bytes_max: 1_448,
        evs: 64,
        ciphers: vec![],
        addresses: vec![],
    };
    let (pair, cipher, initiator) = (Secret([5; 32]), Cipher::Aes128Gcm, true);
    let (ours, theirs, peer) = (parameters(OURS), parameters(THEIRS), "host2".to_owned());
    let e = Established { pair, cipher, initiator, ours, theirs, peer };
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0);
    let keys = Protection::of_connection(Ring, cipher, &pair, OURS, THEIRS, false);
    (Slot::new(OURS, to, &e, config, 0, u16::MAX), keys)
}

fn chunk(number: u64, message: u32, index: u64, message_bytes: u64, target: Target) -> Data {
    Data {
        connection: OURS,
        number,
        floor: 0,
        message: MessageId(message),
        message_bytes,
        offset: index * 100,
        bytes: 100,
        chunk_bytes: 100,
        target,
        ev: Ev(0),
        ev_seq: number as u32,
        demand: 0,
        sent_ns: 0,
        flags: DataFlags(0),
    }
}

fn arrive(slot: &mut Slot, keys: &mut Protection<Ring>, d: Data) {
    let mut datagram = Vec::new();
    keys.seal(Nanos(0), &Packet::Data(d), &[7; 100], &mut datagram).unwrap();
    slot.handle_input(Nanos(0), &mut datagram, Seen::default());
    slot.settle(Nanos(0));
}

const TAGGED: Target = Target::Tagged { tag: 1 };
const WRITE: Target = Target::Write { region: RegionId(1), offset: 0, immediate: 0 };

#[test]
fn a_message_that_changes_its_kind_gets_no_memory() {
    let config = Config { receive_bytes_max: 1_000, ..Config::default() };
    let (mut s, mut keys) = slot(&config);
    s.register(RegionId(1), vec![0; 1 << 20]).unwrap();
    // begun as a write, which needs no memory, and gone on with as a message, which would
    arrive(&mut s, &mut keys, chunk(0, 0, 0, 1 << 20, WRITE));
    arrive(&mut s, &mut keys, chunk(1, 0, 1, 1 << 20, TAGGED));
    assert_eq!((s.held, s.incoming.len()), (0, 0));
    // the other way round nothing is written that could not be written anyway, and nothing panics
    arrive(&mut s, &mut keys, chunk(2, 1, 0, 200, TAGGED));
    let far = Target::Write { region: RegionId(9), offset: u64::MAX, immediate: 0 };
    arrive(&mut s, &mut keys, chunk(3, 1, 1, 200, far));
    assert!(s.held <= 200);
}

#[test]
fn memory_is_bounded_whatever_is_begun() {
    let config = Config { receive_bytes_max: 1_000, receive_messages_max: 5, ..Config::default() };
    let (mut s, mut keys) = slot(&config);
    s.register(RegionId(1), vec![0; 150]).unwrap();
    let mut number = 0;
    let mut send = |s: &mut Slot, message, bytes, target| {
        arrive(s, &mut keys, chunk(number, message, 0, bytes, target));
        number += 1;
    };
    for message in 0..100 {
        send(&mut s, message, 300, TAGGED);
        assert!(s.held <= 1_000);
    }
    assert_eq!((s.held, s.incoming.len(), s.counters().no_room), (900, 3, 97));
    // writes beyond what is registered, and where nothing is
    for (offset, region) in [(100, 1), (u64::MAX, 1), (0, 2)] {
        send(&mut s, 200, 100, Target::Write { region: RegionId(region), offset, immediate: 0 });
    }
    assert_eq!(s.counters().outside, 3);
    // done writes nobody asks for
    for message in 200..210 {
        send(&mut s, message, 100, WRITE);
    }
    assert_eq!(s.written.len(), 5);
    let all = s.counters();
    assert_eq!(all.datagrams, 100 + 3 + 10);
    assert_eq!(all.machine.placed, 3 + 5);
    s.end(CloseReason::Done);
    assert_eq!(s.held, 0);
}

/// Else a receiver that asks for messages in order would wait for ever behind later ones that took all the room.
#[test]
fn what_somebody_waits_for_comes_in_where_the_rest_has_no_room() {
    let config = Config { receive_bytes_max: 1_000, ..Config::default() };
    let (mut s, mut keys) = slot(&config);
    let tagged = |tag| Target::Tagged { tag };
    arrive(&mut s, &mut keys, chunk(0, 1, 0, 900, tagged(1)));
    let (reply, _wait) = tokio::sync::oneshot::channel();
    s.receive(0, reply);
    arrive(&mut s, &mut keys, chunk(1, 2, 0, 900, tagged(2)));
    assert_eq!((s.held, s.counters().no_room), (900, 1), "nobody waits for that one");
    arrive(&mut s, &mut keys, chunk(2, 3, 0, 1_200, tagged(0)));
    assert_eq!((s.held, s.counters().no_room), (900, 2), "too long whoever waits");
    arrive(&mut s, &mut keys, chunk(3, 4, 0, 1_000, tagged(0)));
    assert_eq!((s.held, s.counters().no_room), (1_900, 2));
    arrive(&mut s, &mut keys, chunk(4, 5, 0, 100, tagged(0)));
    assert_eq!((s.held, s.counters().no_room), (1_900, 3), "one comes for one who waits");
}

#[test]
fn a_burst_is_segments_of_one_length_and_a_shorter_last_one() {
    let (mut s, _) = slot(&Config::default());
    let (reply, _wait) = tokio::sync::oneshot::channel();
    s.send(Nanos(0), TAGGED, vec![3; 20_000], reply);
    let (mut sink, mut out) = (Vec::new(), Outgoing::default());
    assert!(s.poll_data(Nanos(0), &mut sink, &mut out));
    let lengths: Vec<u16> = sink.iter().map(|p| if let Packet::Data(d) = p { d.bytes } else { 0 }).collect();
    assert_eq!(lengths.len(), 15);
    assert!(lengths[..14].iter().all(|n| *n == lengths[0]) && lengths[14] < lengths[0], "{lengths:?}");
    assert_eq!(out.len(), 1, "one send for all of them");
    // every datagram fits, and nothing but headers and tags is added
    let header = out.bytes() / 15 - 20_000 / 15;
    assert!((55..65).contains(&header), "{header}");
}
