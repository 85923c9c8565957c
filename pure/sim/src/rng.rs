//! Seeded randomness: the whole of a simulation's chance comes from here, so a seed is all it takes to replay one.
//!
//! The generator is xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", ACM
//! Transactions on Mathematical Software 47, 2021), its state filled by SplitMix64 (Steele, Lea and Flood, 2014) as
//! its authors advise. Written out because it is twenty lines and must never change under a replay.
//!
//! Invariants: the same seed gives the same numbers on every machine; floating point goes through `libm` only.
//! Absent on purpose: anything fit for keys.

/// One step of SplitMix64 over `x`: a good 64-bit mix, also used to hash flows.
pub const fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    s: [u64; 4],
}

impl Rng {
    /// The stream of a seed. Two purposes in one run take two streams: `Rng::new(seed, purpose)`.
    pub const fn new(seed: u64, stream: u64) -> Self {
        let a = mix(seed ^ mix(stream));
        let b = mix(a);
        let c = mix(b);
        // SplitMix64 is a bijection of a counter, so four in a row are never all zero, the one state that is not
        // allowed.
        Self { s: [a, b, c, mix(c)] }
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        let s = &mut self.s;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Evenly in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// True with probability `p`; draws nothing where `p` leaves no choice.
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && (p >= 1.0 || self.unit() < p)
    }

    /// Evenly in `0 .. n`; 0 where `n` is 0. (Lemire's multiplication; its bias, below n / 2^64, is not removed.)
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() as u128 * n as u128) >> 64) as u64
    }

    /// Exponentially distributed with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(1.0 - self.unit())
    }

    /// How many trials fail before the first that succeeds with probability `p`; `u64::MAX` where none ever does.
    pub fn failures_before(&mut self, p: f64) -> u64 {
        if p <= 0.0 {
            return u64::MAX;
        }
        if p >= 1.0 {
            return 0;
        }
        // the inverse of the geometric distribution; the cast saturates
        (libm::log(1.0 - self.unit()) / libm::log1p(-p)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_and_streams_differ() {
        let take = |seed, stream| {
            let mut r = Rng::new(seed, stream);
            [r.next_u64(), r.next_u64(), r.next_u64()]
        };
        assert_eq!(take(7, 1), take(7, 1));
        assert_ne!(take(7, 1), take(7, 2));
        assert_ne!(take(7, 1), take(8, 1));
    }

    /// The reference sequence of xoshiro256++ from the state 1, 2, 3, 4.
    #[test]
    fn reference_sequence() {
        let mut r = Rng { s: [1, 2, 3, 4] };
        let got: [u64; 4] = core::array::from_fn(|_| r.next_u64());
        assert_eq!(got, [41943041, 58720359, 3588806011781223, 3591011842654386]);
    }

    #[test]
    fn moments() {
        let mut r = Rng::new(3, 0);
        let n = 200_000u32;
        let mean = |x: f64| x / f64::from(n);
        let exp = mean((0..n).map(|_| r.exponential(5.0)).sum());
        assert!((exp - 5.0).abs() < 0.05, "{exp}");
        let geo = mean((0..n).map(|_| r.failures_before(0.1) as f64).sum());
        assert!((geo - 9.0).abs() < 0.1, "{geo}");
        let hit = mean((0..n).map(|_| f64::from(u8::from(r.chance(0.3)))).sum());
        assert!((hit - 0.3).abs() < 0.005, "{hit}");
        let below = mean((0..n).map(|_| r.below(10) as f64).sum());
        assert!((below - 4.5).abs() < 0.03, "{below}");
    }
}
