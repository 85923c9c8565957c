//! Packets that crossed each link, by time: rings of 0.1 s, 1 s, 10 s and 60 s buckets.
//!
//! How: a loss-free observation adds to one number a link, in the newest ring; that is the whole cost of it. A
//! number holds two counts in one word (packets below, observations above), so that one addition does both. When a
//! bucket falls out of a ring it is added to the next coarser one.
//!
//! Invariants: memory is at most 82 words a link, whatever arrives; nothing is counted twice.
//! Absent on purpose: which observations were hurt (the engine keeps those one by one).

use alloc::vec;
use alloc::vec::Vec;
use wire::Nanos;

/// Packets in the lower bits, observations above.
const PACKET_BITS: u32 = 40;
const PACKET_MASK: u64 = (1 << PACKET_BITS) - 1;

/// Bucket length (100 ms units) and number of buckets of each ring.
const RINGS: [(u64, usize); 4] = [(1, 40), (10, 20), (100, 12), (600, 10)];
const UNIT_NS: u64 = 100_000_000;

/// What crossed a link in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crossing {
    pub(crate) packets: u64,
    pub(crate) observations: u64,
}

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

    /// What crossed a link since `since`, as far as the rings reach. A bucket that lies partly before counts in
    /// proportion.
    pub(crate) fn since(&self, link: usize, since: Nanos) -> Crossing {
        let first = Self::unit(since);
        let (mut packets, mut observations) = (0u64, 0u64);
        for (ring, &(length, _)) in self.rings.iter().zip(&RINGS) {
            for b in ring {
                if b.unit == u64::MAX || b.unit + length <= first {
                    continue;
                }
                let word = b.counts.get(link).copied().unwrap_or(0);
                let (mut p, mut o) = (word & PACKET_MASK, word >> PACKET_BITS);
                if b.unit < first {
                    let kept = b.unit + length - first;
                    p = p * kept / length;
                    o = o * kept / length;
                }
                packets += p;
                observations += o;
            }
        }
        Crossing { packets, observations }
    }
}

/// The word of one observation of `packets` packets. Larger counts than a link can carry in a bucket are cut, so
/// that no input carries over into the number of observations.
#[inline]
pub(crate) fn word(packets: u32) -> u64 {
    const MOST: u32 = 1 << 22;
    (1 << PACKET_BITS) | u64::from(if packets < MOST { packets } else { MOST })
}
