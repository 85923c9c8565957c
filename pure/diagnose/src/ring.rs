//! Packets that crossed each link, by time: rings of 0.1 s, 1 s, 10 s and 60 s buckets.
//!
//! How: a loss-free observation adds to one number a link, in the newest ring; that is the whole cost of it. A
//! number holds two counts in one word (packets below, observations above), so that one addition does both. When a
//! bucket falls out of a ring it is added to the next coarser one.
//!
//! Invariants: memory is at most 82 words a link, whatever arrives; nothing is counted twice.
//! Absent on purpose: which observations were hurt (the engine keeps those one by one).

use crate::localize::Crossing;
use alloc::vec;
use alloc::vec::Vec;
use wire::Nanos;

/// Packets in the lower bits, observations above.
const PACKET_BITS: u32 = 40;
const PACKET_MASK: u64 = (1 << PACKET_BITS) - 1;

/// Bucket length (100 ms units) and number of buckets of each ring.
const RINGS: [(u64, usize); 4] = [(1, 40), (10, 20), (100, 12), (600, 10)];
const UNIT_NS: u64 = 100_000_000;

struct Bucket {
    /// First 100 ms unit it covers; `u64::MAX` while unused.
    unit: u64,
    counts: Vec<u64>,
}

pub(crate) struct Rings {
    links: usize,
    rings: Vec<Vec<Bucket>>,
    /// Newest unit seen.
    newest: u64,
}

impl Rings {
    pub(crate) fn new(links: usize) -> Self {
        let rings = RINGS
            .iter()
            .map(|&(_, n)| (0..n).map(|_| Bucket { unit: u64::MAX, counts: Vec::new() }).collect())
            .collect();
        Rings { links, rings, newest: 0 }
    }

    /// The 100 ms unit of a moment.
    pub(crate) fn unit(at: Nanos) -> u64 {
        at.0 / UNIT_NS
    }

    /// The counts to add to for an observation that ended at `at`: one word a link.
    #[inline]
    pub(crate) fn slot(&mut self, at: Nanos) -> &mut [u64] {
        let unit = Self::unit(at);
        let n = RINGS[0].1 as u64;
        // What is older than the finest ring goes into its oldest bucket: late is better than lost.
        let unit = unit.max((self.newest + 1).saturating_sub(n));
        let index = (unit % n) as usize;
        if self.rings[0][index].unit != unit {
            self.turn(0, unit);
        }
        self.newest = self.newest.max(unit);
        &mut self.rings[0][index].counts
    }

    /// Makes the bucket for `unit` in ring `r`, handing what was there to the next ring.
    fn turn(&mut self, r: usize, unit: u64) {
        let Some(&(_, n)) = RINGS.get(r) else { return };
        let length = RINGS[r].0;
        let unit = unit - unit % length;
        let index = (unit / length) as usize % n;
        let old = core::mem::replace(&mut self.rings[r][index].unit, unit);
        if self.rings[r][index].counts.is_empty() {
            self.rings[r][index].counts = vec![0; self.links];
            return;
        }
        let mut counts = core::mem::take(&mut self.rings[r][index].counts);
        if old != u64::MAX && r + 1 < RINGS.len() {
            self.merge(r + 1, old, &counts);
        }
        counts.fill(0);
        self.rings[r][index].counts = counts;
    }

    fn merge(&mut self, r: usize, unit: u64, counts: &[u64]) {
        let (length, n) = RINGS[r];
        let unit = unit - unit % length;
        let index = (unit / length) as usize % n;
        let have = self.rings[r][index].unit;
        if have != unit {
            if have != u64::MAX && have > unit {
                return; // older than this ring reaches
            }
            self.turn(r, unit);
        }
        for (to, from) in self.rings[r][index].counts.iter_mut().zip(counts) {
            *to = to.wrapping_add(*from);
        }
    }

    /// The buckets of a span of time, as far as the rings reach.
    pub(crate) fn span(&self, from: Nanos, to: Nanos) -> Span<'_> {
        let (first, last) = (Self::unit(from), to.0.div_ceil(UNIT_NS));
        let mut buckets = Vec::new();
        for (ring, &(length, _)) in self.rings.iter().zip(&RINGS) {
            for b in ring {
                if b.unit == u64::MAX || b.unit + length <= first || b.unit >= last {
                    continue;
                }
                // A bucket that lies partly outside counts in proportion.
                let kept = (b.unit + length).min(last) - b.unit.max(first);
                buckets.push((kept as f64 / length as f64, &b.counts[..]));
            }
        }
        Span { buckets }
    }
}

/// The buckets of a span of time.
pub(crate) struct Span<'r> {
    buckets: Vec<(f64, &'r [u64])>,
}

impl Span<'_> {
    /// What crossed a link in it.
    pub(crate) fn of(&self, link: usize) -> Crossing {
        let mut out = Crossing::default();
        for (share, counts) in &self.buckets {
            let word = counts.get(link).copied().unwrap_or(0);
            out.packets += share * (word & PACKET_MASK) as f64;
            out.observations += share * (word >> PACKET_BITS) as f64;
        }
        out
    }
}

/// The word of one observation of `packets` packets. Larger counts than a link can carry in a bucket are cut, so
/// that no input carries over into the number of observations.
#[inline]
pub(crate) fn word(packets: u32) -> u64 {
    const MOST: u32 = 1 << 22;
    (1 << PACKET_BITS) | u64::from(if packets < MOST { packets } else { MOST })
}
