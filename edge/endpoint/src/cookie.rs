//! Stateless cookies: an initiator shows that it receives at its address before anything is kept for it.
//!
//! How: a cookie is when it was made (milliseconds, eight bytes) and the first 16 bytes of an HMAC-SHA-256 over that
//! time, the address, the port and the handshake's id. The HMAC's key is derived from a random one and the minute, so it
//! changes by itself and nobody has to keep more than one.
//!
//! Invariants: a cookie is good for [`COOKIE_LIFE`] and for one address, port and handshake.
//! Absent on purpose: remembering cookies. One that is shown twice leads to the same handshake.

use ring::hmac::{HMAC_SHA256, Key, sign};
use std::net::SocketAddrV6;
use wire::Nanos;

/// How long a cookie is good.
pub const COOKIE_LIFE: Nanos = Nanos::from_millis(10_000);
/// Bytes of a cookie.
pub const COOKIE_BYTES: usize = 24;
/// How long a key is used, milliseconds.
const KEY_LIFE_MS: u64 = 60_000;

/// Makes and checks cookies.
#[derive(Clone, Debug)]
pub(crate) struct Cookies(Key);

impl Cookies {
    /// With a random key.
    pub fn new(random: [u8; 32]) -> Self {
        Self(Key::new(HMAC_SHA256, &random))
    }

    fn mac(&self, at_ms: u64, from: SocketAddrV6, id: u64) -> [u8; 16] {
        let minute = sign(&self.0, &(at_ms / KEY_LIFE_MS).to_be_bytes());
        let mut text = [0; 34];
        text[..8].copy_from_slice(&at_ms.to_be_bytes());
        text[8..24].copy_from_slice(&from.ip().octets());
        text[24..26].copy_from_slice(&from.port().to_be_bytes());
        text[26..].copy_from_slice(&id.to_be_bytes());
        let tag = sign(&Key::new(HMAC_SHA256, minute.as_ref()), &text);
        tag.as_ref().get(..16).and_then(|t| t.try_into().ok()).unwrap_or([0; 16])
    }

    /// A cookie for whoever receives at this address.
    pub fn make(&self, now: Nanos, from: SocketAddrV6, id: u64) -> [u8; COOKIE_BYTES] {
        let at_ms = now.0 / 1_000_000;
        let mut cookie = [0; COOKIE_BYTES];
        cookie[..8].copy_from_slice(&at_ms.to_be_bytes());
        cookie[8..].copy_from_slice(&self.mac(at_ms, from, id));
        cookie
    }

    /// Is it one of ours, for this address and handshake, and fresh?
    pub fn check(&self, now: Nanos, from: SocketAddrV6, id: u64, cookie: &[u8]) -> bool {
        let Some((at, mac)) = cookie.split_first_chunk::<8>() else { return false };
        let at_ms = u64::from_be_bytes(*at);
        let now_ms = now.0 / 1_000_000;
        if at_ms > now_ms || now_ms - at_ms > COOKIE_LIFE.0 / 1_000_000 || mac.len() != 16 {
            return false;
        }
        // every byte is compared, whatever the first ones say
        self.mac(at_ms, from, id).iter().zip(mac).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn a_cookie_is_good_for_one_address_one_handshake_and_a_while() {
        let cookies = Cookies::new([3; 32]);
        let from = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0, 0);
        // over a change of keys
        let made = Nanos::from_millis(59_999);
        let cookie = cookies.make(made, from, 1);
        assert!(cookies.check(made, from, 1, &cookie));
        assert!(cookies.check(made + COOKIE_LIFE, from, 1, &cookie));
        assert!(!cookies.check(made + COOKIE_LIFE + Nanos::from_millis(1), from, 1, &cookie), "expired");
        assert!(!cookies.check(Nanos::from_millis(59_998), from, 1, &cookie), "from the future");
        assert!(!cookies.check(made, SocketAddrV6::new(Ipv6Addr::LOCALHOST, 8, 0, 0), 1, &cookie));
        assert!(!cookies.check(made, SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 7, 0, 0), 1, &cookie));
        assert!(!cookies.check(made, from, 2, &cookie));
        assert!(!Cookies::new([4; 32]).check(made, from, 1, &cookie), "somebody else's");
        for cut in 0..COOKIE_BYTES {
            assert!(!cookies.check(made, from, 1, &cookie[..cut]));
        }
    }
}
