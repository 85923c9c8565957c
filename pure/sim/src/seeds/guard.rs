//! A guard that finds damage and keeps nothing secret: two 64-bit mixes over number, header and payload under a key.
//!
//! Invariants: a change within one aligned word of eight bytes is always found, any other but once in 2^64.
//! Absent on purpose: cryptography; the edge has it, and these seeds are about delivery.

use crate::rng::mix;
use wire::transport::protection::{Cipher, Guard, NONCE_BYTES, Secret, Suite, TAG_MAX};

#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// False: every tag is believed.
    pub checks: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    key: [u64; 2],
    checks: bool,
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|c| {
        let mut word = [0; 8];
        word.iter_mut().zip(c).for_each(|(w, b)| *w = *b);
        u64::from_le_bytes(word)
    })
}

fn absorb(mut h: u64, bytes: &[u8]) -> u64 {
    // each step is a bijection of `h` for a word given, and of the word for an `h` given
    for w in words(bytes) {
        h = (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    mix(h ^ bytes.len() as u64)
}

impl Key {
    fn tag(&self, nonce: &[u8], header: &[u8], payload: &[u8]) -> [u8; TAG_MAX] {
        let h = absorb(absorb(absorb(self.key[0], nonce), header), payload);
        let mut tag = [0; TAG_MAX];
        let halves = [h, mix(h ^ self.key[1])];
        tag.chunks_mut(8).zip(halves).for_each(|(t, h)| t.copy_from_slice(&h.to_le_bytes()));
        tag
    }
}

impl Guard for Key {
    fn seal(&self, nonce: &[u8; NONCE_BYTES], header: &[u8], payload: &mut [u8]) -> [u8; TAG_MAX] {
        self.tag(nonce, header, payload)
    }
    fn open(&self, nonce: &[u8; NONCE_BYTES], header: &[u8], payload: &mut [u8], tag: &[u8]) -> bool {
        !self.checks || self.tag(nonce, header, payload) == tag
    }
}

impl Suite for Sums {
    type Guard = Key;
    fn guard(&self, _: Cipher, key: &[u8]) -> Key {
        let mut halves = words(key);
        Key { key: [halves.next().unwrap_or(1), halves.next().unwrap_or(2)], checks: self.checks }
    }
    fn expand(&self, secret: &Secret, info: &[u8], out: &mut [u8]) {
        let h = absorb(absorb(7, &secret.0), info);
        for (i, chunk) in out.chunks_mut(8).enumerate() {
            let word = mix(h ^ i as u64).to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(b, w)| *b = w);
        }
    }
}
