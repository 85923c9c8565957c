//! The ciphers of the transport: ring's AEADs and HKDF, and a CRC for fabrics that are trusted.
//!
//! Invariants: a nonce is never chosen here; what is not authentic is never called so.
//! Absent on purpose: key schedule, replay and key update (`wire::transport::protection`).

use ring::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use wire::transport::protection::{Cipher, Guard, NONCE_BYTES, Secret, Suite, TAG_MAX};

/// ring's cryptography.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring;

/// A key of one of the ciphers.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // nearly every key is an AEAD's
pub enum Key {
    /// AES-128-GCM or ChaCha20-Poly1305.
    Aead(LessSafeKey),
    /// What is added to the CRC-32C of a packet.
    Sum(u32),
    /// The key material had the wrong length, which cannot be: protects nothing, opens nothing.
    None,
}

impl Guard for Key {
    fn seal(&self, nonce: &[u8; NONCE_BYTES], header: &[u8], payload: &mut [u8]) -> [u8; TAG_MAX] {
        let mut out = [0; TAG_MAX];
        match self {
            Key::Aead(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                // fails for payloads of gigabytes only
                if let Ok(tag) = key.seal_in_place_separate_tag(nonce, Aad::from(header), payload) {
                    out = <[u8; TAG_MAX]>::try_from(tag.as_ref()).unwrap_or(out);
                } else {
                    payload.fill(0);
                }
            }
            Key::Sum(secret) => out[..4].copy_from_slice(&sum(*secret, header, payload)),
            Key::None => payload.fill(0),
        }
        out
    }

    fn open(&self, nonce: &[u8; NONCE_BYTES], header: &[u8], payload: &mut [u8], tag: &[u8]) -> bool {
        match self {
            Key::Aead(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let Ok(tag) = Tag::try_from(tag) else { return false };
                key.open_in_place_separate_tag(nonce, Aad::from(header), tag, payload, 0..).is_ok()
            }
            Key::Sum(secret) => sum(*secret, header, payload) == tag,
            Key::None => false,
        }
    }
}

fn sum(secret: u32, header: &[u8], payload: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(header), payload).wrapping_add(secret).to_be_bytes()
}

/// A number of bytes, as ring wants it said.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Suite for Ring {
    type Guard = Key;

    fn guard(&self, cipher: Cipher, key: &[u8]) -> Key {
        let algorithm = match cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Cipher::Trusted => return key.try_into().map_or(Key::None, |k| Key::Sum(u32::from_be_bytes(k))),
        };
        UnboundKey::new(algorithm, key).map_or(Key::None, |k| Key::Aead(LessSafeKey::new(k)))
    }

    fn expand(&self, secret: &Secret, info: &[u8], out: &mut [u8]) {
        let prk = Prk::new_less_safe(HKDF_SHA256, &secret.0);
        // fails for more than 255 * 32 bytes only
        let _ = prk.expand(&[info], Length(out.len())).and_then(|okm| okm.fill(out));
    }
}

/// The ciphers this processor is good at, the fastest first; without encryption only where that is asked for.
pub fn preferred(trusted: bool) -> Vec<Cipher> {
    let mut ciphers = match has_aes() {
        true => vec![Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
        false => vec![Cipher::ChaCha20Poly1305, Cipher::Aes128Gcm],
    };
    if trusted {
        ciphers.insert(0, Cipher::Trusted);
    }
    ciphers
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}
#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Nanos;
    use wire::transport::protection::{Dropped, Protection};
    use wire::transport::{ConnectionId, Credit, Packet};

    /// RFC 5869, appendix A.1, from its PRK on.
    #[test]
    fn hkdf_is_that_of_the_rfc() {
        let prk = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let mut out = [0; 42];
        Ring.expand(&Secret(prk.try_into().unwrap()), &hex("f0f1f2f3f4f5f6f7f8f9"), &mut out);
        let want = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(out.to_vec(), hex(want));
    }

    /// RFC 3720, appendix B.4: 32 bytes of zeroes, ones, and counting up.
    #[test]
    fn the_sum_is_that_of_the_rfc() {
        let up: Vec<u8> = (0..32).collect();
        for (bytes, want) in [(vec![0; 32], 0x8a91_36aa), (vec![0xff; 32], 0x62a8_ab43), (up, 0x46dd_794e)] {
            assert_eq!(sum(0, &bytes[..7], &bytes[7..]), u32::to_be_bytes(want));
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn every_cipher_protects() {
        let packet = Packet::Credit(Credit { connection: ConnectionId(1), granted: 9 });
        for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Trusted] {
            let [mut a, mut b] = [true, false].map(|first| {
                let (i, r) = (ConnectionId(1), ConnectionId(2));
                Protection::of_connection(Ring, cipher, &Secret([1; 32]), i, r, first)
            });
            let mut out = Vec::new();
            a.seal(Nanos(0), &packet, &[], &mut out).unwrap();
            for i in 0..out.len() {
                let mut bad = out.clone();
                bad[i] ^= 0x20;
                assert!(b.open(Nanos(0), &mut bad).is_err(), "{cipher:?} byte {i}");
            }
            assert_eq!(b.open(Nanos(0), &mut out.clone()).unwrap().packet, packet);
            assert_eq!(b.open(Nanos(0), &mut out).unwrap_err(), Dropped::Replayed);
        }
        assert_eq!(preferred(false).len(), 2);
        assert_eq!(preferred(true)[0], Cipher::Trusted);
    }
}
