//! Laws of the protection, under a cipher that is slow and whole: HMAC-SHA-256 over everything, xor with one byte.

use super::*;
use crate::transport::{Credit, Data, DataFlags, Ev, MessageId, PACKET_NUMBER_END, Target};
use alloc::vec;
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use sha2::Sha256;

#[derive(Clone, Debug)]
struct Slow;
#[derive(Clone, Debug)]
struct SlowKey(Vec<u8>);

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut m = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|p| m.update(p));
    m.finalize().into_bytes().into()
}

impl Guard for SlowKey {
    fn seal(&self, nonce: &[u8; 12], header: &[u8], payload: &mut [u8]) -> [u8; 16] {
        payload.iter_mut().for_each(|b| *b ^= nonce[11] ^ self.0[0]);
        mac(&self.0, &[nonce, header, payload])[..16].try_into().unwrap()
    }
    fn open(&self, nonce: &[u8; 12], header: &[u8], payload: &mut [u8], tag: &[u8]) -> bool {
        let same = mac(&self.0, &[nonce, header, payload])[..tag.len()] == *tag;
        payload.iter_mut().for_each(|b| *b ^= nonce[11] ^ self.0[0]);
        same
    }
}

impl Suite for Slow {
    type Guard = SlowKey;
    fn guard(&self, cipher: Cipher, key: &[u8]) -> SlowKey {
        assert_eq!(key.len(), cipher.key_bytes());
        SlowKey(key.to_vec())
    }
    fn expand(&self, secret: &Secret, info: &[u8], out: &mut [u8]) {
        let mut before: Vec<u8> = vec![];
        for (i, chunk) in out.chunks_mut(32).enumerate() {
            before = mac(&secret.0, &[&before, info, &[i as u8 + 1]]).to_vec();
            chunk.copy_from_slice(&before[..chunk.len()]);
        }
    }
}

type Ends = [Protection<Slow>; 2];

fn ends(cipher: Cipher) -> Ends {
    let (a, b) = (ConnectionId(1), ConnectionId(2));
    [true, false].map(|first| Protection::of_connection(Slow, cipher, &Secret([7; 32]), a, b, first))
}

fn chunk(number: u64, bytes: u16) -> Packet {
    Packet::Data(Data {
        connection: ConnectionId(2),
        number,
        floor: 0,
        message: MessageId(0),
        message_bytes: u64::from(bytes),
        offset: 0,
        bytes,
        chunk_bytes: bytes,
        target: Target::Tagged { tag: 5 },
        ev: Ev(0),
        ev_seq: 0,
        demand: 0,
        sent_ns: 0,
        flags: DataFlags(0),
    })
}

const CREDIT: Packet = Packet::Credit(Credit { connection: ConnectionId(1), granted: 9 });

fn sealed(end: &mut Protection<Slow>, packet: &Packet, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0xee];
    let len = end.seal(Nanos(0), packet, payload, &mut out).unwrap();
    assert_eq!(len, out.len() - 1, "what was there before is left alone");
    out.remove(0);
    out
}

#[test]
fn what_is_sealed_opens_once_and_only_at_the_other_end() {
    for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Trusted] {
        let [mut a, mut b] = ends(cipher);
        let datagram = sealed(&mut a, &chunk(0, 5), b"hello");
        let opened = |end: &mut Protection<Slow>| {
            let mut copy = datagram.clone();
            end.open(Nanos(0), &mut copy).map(|o| (o.packet, o.payload.to_vec()))
        };
        assert_eq!(opened(&mut a), Err(Dropped::Forged), "its own packet comes back");
        assert_eq!(opened(&mut b), Ok((chunk(0, 5), b"hello".to_vec())));
        assert_eq!(opened(&mut b), Err(Dropped::Replayed));
        assert_eq!((a.forged(), b.forged()), (1, 0));
        // the same number in the other space is another packet
        let mut credit = sealed(&mut b, &CREDIT, b"");
        assert_eq!(a.open(Nanos(0), &mut credit).unwrap().packet, CREDIT);
    }
}

#[test]
fn a_number_is_never_sealed_twice() {
    let [mut a, _] = ends(Cipher::Aes128Gcm);
    let mut out = vec![];
    a.seal(Nanos(0), &chunk(4, 1), b"x", &mut out).unwrap();
    let before = out.len();
    for number in [4, 3, 0] {
        assert_eq!(
            a.seal(Nanos(0), &chunk(number, 1), b"x", &mut out),
            Err(Unsealed::Number { number, least: 5 })
        );
    }
    assert_eq!(a.seal(Nanos(0), &chunk(9, 1), b"xy", &mut out), Err(Unsealed::Payload { got: 2, want: 1 }));
    let end = PACKET_NUMBER_END;
    let refused = Unsealed::Unencodable(Unencodable::Number { number: end });
    assert_eq!(a.seal(Nanos(0), &chunk(end, 1), b"x", &mut out), Err(refused));
    assert_eq!(out.len(), before);
    a.number_next[1] = end;
    assert_eq!(a.seal(Nanos(0), &CREDIT, b"", &mut out), Err(refused));
}

#[test]
fn keys_change_both_ways_and_overtaken_packets_are_still_taken() {
    let mut now = Nanos(0);
    let [mut a, mut b] = ends(Cipher::Aes128Gcm);
    assert!(!a.update(now), "nothing was heard under this key");
    let mut number = 0;
    for round in 1..=5 {
        let mut late = sealed(&mut a, &chunk(number, 1), b"l");
        let mut first = sealed(&mut b, &CREDIT, b"");
        a.open(now, &mut first).unwrap();
        assert!(a.update(now));
        assert!(!a.update(now), "not twice before the peer has answered");
        let mut new = sealed(&mut a, &chunk(number + 1, 1), b"n");
        assert_eq!(new[1] & packet::PHASE != 0, round % 2 == 1);
        assert_eq!(b.open(now, &mut new).unwrap().payload, b"n");
        assert_eq!(b.updates(), round, "the other direction follows");
        assert_eq!(b.open(now, &mut late).unwrap().payload, b"l", "the old key is kept");
        let mut answer = sealed(&mut b, &CREDIT, b"");
        a.open(now, &mut answer).unwrap();
        assert!(!a.update(now) && !b.update(now), "not twice in a moment");
        number += 2;
        now += UPDATE_PAUSE;
    }
    // after a while the old key is gone
    let mut late = sealed(&mut a, &chunk(number, 1), b"l");
    let mut later = late.clone();
    assert!(a.update(now));
    b.open(now, &mut sealed(&mut a, &chunk(number + 1, 1), b"n")).unwrap();
    assert_eq!(b.open(now + OLD_KEY_KEPT, &mut late).unwrap_err(), Dropped::Forged);
    assert_eq!(b.open(now, &mut later).unwrap_err(), Dropped::Forged);
    assert_eq!((a.forged(), b.forged()), (0, 2));
}

#[test]
fn both_may_change_keys_at_once() {
    let now = Nanos(0);
    let [mut a, mut b] = ends(Cipher::Aes128Gcm);
    b.open(Nanos(0), &mut sealed(&mut a, &CREDIT, b"")).unwrap();
    a.open(Nanos(0), &mut sealed(&mut b, &CREDIT, b"")).unwrap();
    assert!(a.update(now) && b.update(now));
    let (mut x, mut y) = (sealed(&mut a, &CREDIT, b""), sealed(&mut b, &CREDIT, b""));
    b.open(Nanos(0), &mut x).unwrap();
    a.open(Nanos(0), &mut y).unwrap();
    assert_eq!((a.updates(), b.updates()), (1, 1));
    assert!(a.update(now + UPDATE_PAUSE), "confirmed by the other's");
    b.open(Nanos(0), &mut sealed(&mut a, &CREDIT, b"")).unwrap();
    assert_eq!(b.updates(), 2);
}

#[test]
fn a_key_seals_no_more_than_it_may() {
    let [mut a, mut b] = ends(Cipher::Aes128Gcm);
    a.sealed = UPDATE_AFTER;
    let mut out = vec![];
    a.seal(Nanos(0), &CREDIT, b"", &mut out).unwrap();
    assert_eq!(a.updates(), 0, "the peer has confirmed nothing");
    a.sealed = SEALED_MOST;
    assert_eq!(a.seal(Nanos(0), &CREDIT, b"", &mut out), Err(Unsealed::Exhausted));
    a.open(Nanos(0), &mut sealed(&mut b, &CREDIT, b"")).unwrap();
    a.seal(Nanos(0), &CREDIT, b"", &mut out).unwrap();
    assert_eq!(a.updates(), 1);
    b.forged = FORGED_MOST;
    assert_eq!(b.open(Nanos(0), &mut sealed(&mut a, &CREDIT, b"")).unwrap_err(), Dropped::Exhausted);
}

proptest! {
    /// Two ends over a link that loses, repeats, reorders and corrupts, with keys that change: what opens was sent, once.
    #[test]
    fn nothing_but_what_was_sent_is_taken_and_once(
        steps in proptest::collection::vec((0u8..8, any::<u16>(), 1u8..), 1..200),
    ) {
        let [mut a, mut b] = ends(Cipher::Aes128Gcm);
        let (mut link, mut number, mut taken) = (Vec::<Vec<u8>>::new(), 0u64, alloc::collections::BTreeSet::new());
        for (i, (what, at, flip)) in steps.into_iter().enumerate() {
            let now = Nanos::from_millis(300 * i as u64);
            match what {
                0..=2 => {
                    link.push(sealed(&mut a, &chunk(number, 2), &[number as u8, 1]));
                    number += 1 + u64::from(at % 3);
                }
                3 => { a.update(now); }
                4 => { let _ = a.open(now, &mut sealed(&mut b, &CREDIT, b"")); }
                _ if link.is_empty() => {}
                5 => {
                    let i = usize::from(at) % link.len();
                    let mut bad = link[i].clone();
                    let byte = usize::from(at / 7) % bad.len();
                    bad[byte] ^= flip;
                    prop_assert!(b.open(now, &mut bad).is_err());
                }
                _ => {
                    let i = usize::from(at) % link.len();
                    let mut copy = link[i].clone();
                    if let Ok(o) = b.open(now, &mut copy) {
                        let Packet::Data(d) = o.packet else { panic!("{:?}", o.packet) };
                        prop_assert_eq!(o.payload, &[d.number as u8, 1]);
                        prop_assert!(taken.insert(d.number));
                    }
                }
            }
        }
    }
}
