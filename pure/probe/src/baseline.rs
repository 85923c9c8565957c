//! What delay is usual, so that the unusual can be counted.
//!
//! How: every slot and direction has its own median, from its first packets and then followed in small steps. How far
//! packets lie above their median is a property of the host and its clocks more than of the path, and one slot sends
//! too few packets to know its 99.9 % point soon: so these residuals go into one histogram per direction for all slots.
//! A packet is over when it is above its own median by more than the histogram's 99.9 % point and a margin.
//!
//! Invariants: bounded memory; a fault is not soon taken for normal: packets that are over move the median by one small
//! step each, and enter the histogram only when their slot was fine again after them.
//! Absent on purpose: absolute limits. A path may be long.

/// Packets of a slot before its median is trusted.
pub const WARM: usize = 9;
/// Packets of all slots before the histogram is trusted.
pub const WARM_NOISE: u64 = 400;
/// Least distance above the median that can be over, nanoseconds: clocks and interrupts make this much noise anywhere.
pub const MARGIN_NS: i64 = 100_000;
/// Buckets per doubling.
const PER_OCTAVE: u32 = 4;
/// From 1 µs to 2^32 µs.
const BUCKETS: usize = 32 * PER_OCTAVE as usize;
/// The histogram forgets half when it holds so many: some minutes at the usual rates.
const HALVE_AT: u64 = 262_144;
/// A slot over more often than this of late is sick rather than noisy.
const NOISY: usize = 3;
/// Most that is remembered of how often a slot was over.
const OVER_MAX: u32 = SICK_LEARNS * 2 - 1;
/// Of a sick slot's packets, one in so many is learned from: a host that has become slow for good is normal in the end,
/// while the sick half of a host never makes up a thousandth.
const SICK_LEARNS: u32 = 1_024;

/// How far packets lie above their slots' medians: a histogram in steps of a quarter octave.
#[derive(Clone, Debug)]
pub struct Noise {
    buckets: [u64; BUCKETS],
    total: u64,
    /// Packets seen, saturating.
    seen: u64,
    /// The 99.9 % point as of the last refresh, nanoseconds.
    q999_ns: i64,
    /// Packets until the next refresh.
    stale: u32,
}

impl Default for Noise {
    fn default() -> Self {
        Noise { buckets: [0; BUCKETS], total: 0, seen: 0, q999_ns: 0, stale: 0 }
    }
}

fn bucket(residual_ns: i64) -> usize {
    let us = (residual_ns / 1_000).max(1) as u64;
    let octave = us.ilog2();
    // position within the octave, in quarters
    let quarter = if octave >= 2 { (us >> (octave - 2)) & 3 } else { (us << (2 - octave)) & 3 };
    ((octave * PER_OCTAVE) as usize + quarter as usize).min(BUCKETS - 1)
}

/// Upper edge of a bucket, nanoseconds.
fn edge_ns(bucket: usize) -> i64 {
    let (octave, quarter) = (bucket as u32 / PER_OCTAVE, bucket as i64 % i64::from(PER_OCTAVE));
    (1_000i64 << octave) / 4 * (5 + quarter)
}

impl Noise {
    /// Above how much a packet is over, nanoseconds; `None` while too little is known.
    pub fn limit_ns(&self) -> Option<i64> {
        (self.seen >= WARM_NOISE).then(|| self.q999_ns + self.q999_ns / 4 + MARGIN_NS)
    }

    fn learn(&mut self, bucket: usize) {
        if let Some(b) = self.buckets.get_mut(bucket) {
            *b += 1;
            self.total += 1;
        }
        if self.total >= HALVE_AT {
            self.total = 0;
            for b in &mut self.buckets {
                *b /= 2;
                self.total += *b;
            }
        }
        if self.stale == 0 {
            self.refresh();
        }
        self.stale = self.stale.checked_sub(1).unwrap_or(63);
    }

    fn refresh(&mut self) {
        let above = self.total / 1_000;
        let mut sum = 0;
        for (i, n) in self.buckets.iter().enumerate().rev() {
            sum += n;
            if sum > above {
                self.q999_ns = edge_ns(i);
                return;
            }
        }
    }
}

/// What is usual for one slot in one direction.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    first: [i64; WARM],
    seen: usize,
    median_ns: i64,
    /// How often it was over of late: plus one each time, minus one every sixteen times it was not.
    over_of_late: u32,
    fine: u32,
    /// Buckets of its first overs of late, to be learned when it was fine again after them.
    held: [u8; NOISY],
    /// Packets in a row well below the median.
    below: u32,
}

/// What a delay is against the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether it is above the 99.9 % point.
    pub over: bool,
    /// Delay less the median, nanoseconds.
    pub excess_ns: i64,
}

impl Baseline {
    /// The median, once known.
    pub fn median_ns(&self) -> Option<i64> {
        (self.seen >= WARM).then_some(self.median_ns)
    }

    /// Judges a delay and learns from it. `None` while too little is known to judge.
    pub fn judge(&mut self, delay_ns: i64, noise: &mut Noise) -> Option<Judged> {
        if self.seen < WARM {
            if let Some(slot) = self.first.get_mut(self.seen) {
                *slot = delay_ns;
            }
            self.seen += 1;
            if self.seen == WARM {
                self.first.sort_unstable();
                self.median_ns = self.first[WARM / 2];
            }
            return None;
        }
        let excess_ns = delay_ns.saturating_sub(self.median_ns);
        let limit = noise.limit_ns();
        let over = limit.is_some_and(|l| excess_ns > l);
        self.follow(excess_ns, limit.unwrap_or(MARGIN_NS));
        noise.seen = noise.seen.saturating_add(1);
        let nth = self.over_of_late as usize;
        if over {
            self.fine = 0;
            self.over_of_late =
                if self.over_of_late < OVER_MAX { self.over_of_late + 1 } else { SICK_LEARNS };
            match self.held.get_mut(nth) {
                Some(held) => *held = bucket(excess_ns) as u8,
                None => {
                    // sick, then: what was held belongs to no bucket
                    self.held = [u8::MAX; NOISY];
                    if self.over_of_late.is_multiple_of(SICK_LEARNS) {
                        noise.learn(bucket(excess_ns));
                    }
                }
            }
        } else {
            noise.learn(bucket(excess_ns));
            self.fine += 1;
            if self.fine >= 16 {
                self.fine = 0;
                self.over_of_late = self.over_of_late.saturating_sub(1);
                if let Some(&held) = self.held.get(nth.wrapping_sub(1)) {
                    noise.learn(usize::from(held));
                }
            }
        }
        limit.map(|_| Judged { over, excess_ns })
    }

    /// Moves the median a step towards the delay; falls to it at once when the path has become shorter for good.
    fn follow(&mut self, excess_ns: i64, limit_ns: i64) {
        let step = (excess_ns.abs() / 16).min(if excess_ns > limit_ns { 200 } else { 2_000 });
        self.median_ns += if excess_ns < 0 { -step } else { step };
        self.below = if excess_ns < -limit_ns { self.below + 1 } else { 0 };
        if self.below >= 16 {
            self.below = 0;
            self.median_ns += excess_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_edges_agree() {
        for ns in [1_000, 1_999, 2_000, 5_000, 77_000, 1_000_000, 123_456_789] {
            let b = bucket(ns);
            assert!(edge_ns(b) >= ns / 1_000 * 1_000, "{ns}: bucket {b} ends at {}", edge_ns(b));
            assert!(b == 0 || edge_ns(b - 1) <= ns, "{ns}: bucket {} ends at {}", b - 1, edge_ns(b - 1));
        }
    }

    /// Twelve seconds after the start a third of the slots become late: they stay it, though little was known before.
    #[test]
    fn an_early_fault_on_many_slots_is_not_taken_for_noise() {
        let mut noise = Noise::default();
        let mut slots = alloc::vec![Baseline::default(); 18];
        let (mut over, mut sick) = (0, 0);
        for round in 0..2_000 {
            for (i, b) in slots.iter_mut().enumerate() {
                let fault = if i % 3 == 0 && round >= 260 { 5_000_000 } else { 0 };
                let judged = b.judge(4_000 + i as i64 + fault, &mut noise);
                if fault > 0 {
                    sick += 1;
                    over += u32::from(judged.is_some_and(|j| j.over));
                } else {
                    assert!(!judged.is_some_and(|j| j.over));
                }
            }
        }
        assert!(over * 100 >= sick * 99, "{over} of {sick}");
    }

    /// A steady stream with a little noise, then a fault on one of 16 slots.
    #[test]
    fn a_fault_is_over_for_minutes_and_the_rest_is_not() {
        let mut noise = Noise::default();
        let mut slots = alloc::vec![Baseline::default(); 16];
        let mut x = 1u64;
        let mut jitter = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) as i64 % 20_000
        };
        let (mut over, mut seen, mut sick_over, mut sick) = (0, 0, 0, 0);
        for round in 0..4_000 {
            for (i, b) in slots.iter_mut().enumerate() {
                let fault = if i == 3 && round >= 1_000 { 1_000_000 } else { 0 };
                let judged = b.judge(50_000 + i as i64 * 1_000 + jitter() + fault, &mut noise);
                let Some(judged) = judged else { continue };
                if fault > 0 {
                    sick += 1;
                    sick_over += u32::from(judged.over);
                } else {
                    seen += 1;
                    over += u32::from(judged.over);
                }
            }
        }
        assert_eq!(over, 0, "of {seen} fine packets");
        assert!(sick_over * 100 >= sick * 99, "{sick_over} of {sick}");
    }
}
