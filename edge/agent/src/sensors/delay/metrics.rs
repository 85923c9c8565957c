//! What the numbers of `delay` mean, and how the histograms that grew in the kernel become them.
//!
//! Invariants: any words are a histogram; a quantile is the middle of its bucket, within an eighth.

use crate::sensors::Meaning;

/// Words before a histogram's buckets: runs, sum, late, spare.
const HEAD: usize = 4;
/// Buckets of an octave, as a power of two, as `prog.bpf.c` has them.
const SUB_BITS: u32 = 2;
/// Buckets.
const BUCKETS: usize = 128;
/// Words of a histogram.
pub const WORDS: usize = HEAD + BUCKETS;
/// A delay is late from here on, nanoseconds.
pub const LATE_NS: u64 = 1_000_000;

/// Numbers of this sensor. Each begins with the name of its kind, of [`KINDS`].
pub const METRICS: &[Meaning] = &[
    Meaning { name: "<kind>_runs", unit: "", text: "how many were looked at" },
    Meaning { name: "<kind>_late_runs", unit: "", text: "of those, late ones: from 1 ms on" },
    Meaning { name: "<kind>_time_ns", unit: "ns", text: "their sum" },
    Meaning { name: "<kind>_p50_ns", unit: "ns", text: "their median" },
    Meaning { name: "<kind>_p99_ns", unit: "ns", text: "of 100, the one but largest" },
    Meaning { name: "<kind>_max_ns", unit: "ns", text: "the largest, rounded up to its bucket's end" },
];

/// What is measured, in the order of `prog.bpf.c`. The first two are the whole kernel's, the others a namespace's.
pub const KINDS: [Meaning; 5] = [
    Meaning {
        name: "softirq_late",
        unit: "ns",
        text: "from the raising of the receiving soft interrupt to its beginning: how late NAPI polls",
    },
    Meaning { name: "softirq_run", unit: "ns", text: "how long a run of it took" },
    Meaning {
        name: "run_queue",
        unit: "ns",
        text: "from a packet's waking of a thread to the thread's running",
    },
    Meaning { name: "qdisc", unit: "ns", text: "how long a packet waited in a queueing discipline" },
    Meaning {
        name: "unread",
        unit: "ns",
        text: "how long what had come first waited in a socket until the program read",
    },
];

/// Delays of one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// How many.
    pub runs: u64,
    /// Their sum, nanoseconds.
    pub sum_ns: u64,
    /// How many were late.
    pub late: u64,
    counts: Vec<u64>,
}

impl Histogram {
    /// The difference of a histogram's words in two readings. Words that are missing are zero.
    pub fn between(before: &[u64], now: &[u64]) -> Histogram {
        let word = |n: usize| {
            let (before, now) = (before.get(n).copied().unwrap_or(0), now.get(n).copied().unwrap_or(0));
            now.wrapping_sub(before)
        };
        let counts = (HEAD..now.len().max(HEAD)).map(word).collect();
        Histogram { runs: word(0), sum_ns: word(1), late: word(2), counts }
    }

    /// The delay below which `part` of 1,000 are, nanoseconds.
    pub fn quantile(&self, part: u64) -> Option<u64> {
        let all = self.counted();
        // the smallest rank that has `part` of them at or below it
        self.at_rank((all * u128::from(part)).div_ceil(1_000).max(1))
    }

    /// The median of those that were late, nanoseconds; 0 where none was. Late ones are the largest.
    pub fn late_median_ns(&self, late_ns: u64) -> u64 {
        if self.late == 0 {
            return 0;
        }
        let late = u128::from(self.late).min(self.counted());
        let rank = self.counted() - late + late.div_ceil(2);
        self.at_rank(rank).map_or(0, |ns| ns.max(late_ns))
    }

    /// The largest, nanoseconds, rounded up to its bucket's end.
    pub fn max_ns(&self) -> Option<u64> {
        let last = self.counts.iter().rposition(|n| *n > 0)?;
        Some(self.begin(last + 1))
    }

    fn counted(&self) -> u128 {
        self.counts.iter().map(|n| u128::from(*n)).sum()
    }

    /// The middle of the bucket that holds the delay of this rank, from 1.
    fn at_rank(&self, rank: u128) -> Option<u64> {
        let mut seen = 0u128;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank && *count > 0 {
                return Some(self.begin(bucket) + (self.begin(bucket + 1) - self.begin(bucket)) / 2);
            }
        }
        None
    }

    /// Where a bucket begins, nanoseconds.
    fn begin(&self, bucket: usize) -> u64 {
        let (bucket, per_octave) = (bucket as u64, 1u64 << SUB_BITS);
        if bucket < per_octave {
            return bucket;
        }
        let octave = (bucket >> SUB_BITS) + 1;
        let part = bucket & (per_octave - 1);
        let step = 1u64.checked_shl((octave as u32).saturating_sub(SUB_BITS)).unwrap_or(u64::MAX);
        step.saturating_mul(per_octave + part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(delays: &[(usize, u64)]) -> Vec<u64> {
        let mut words = vec![0; WORDS];
        for (bucket, n) in delays {
            words[4 + bucket] += n;
            words[0] += n;
        }
        words
    }

    #[test]
    fn quantiles_of_a_difference() {
        // buckets 4 to 7 are 4, 5, 6 and 7 ns; 8 to 11 begin at 8, 10, 12, 14
        let before = with(&[(9, 5)]);
        let now = with(&[(4, 60), (9, 44), (11, 1)]);
        let h = Histogram::between(&before, &now);
        assert_eq!((h.runs, h.quantile(500), h.quantile(990)), (100, Some(4), Some(11)));
        assert_eq!((h.quantile(1_000), h.max_ns()), (Some(15), Some(16)));
        assert_eq!(h.late_median_ns(10), 0, "none was late");
        let mut late = now.clone();
        late[2] = 40;
        assert_eq!(Histogram::between(&before, &late).late_median_ns(10), 11);
        let none = Histogram::between(&now, &now);
        assert_eq!((none.runs, none.quantile(500), none.max_ns()), (0, None, None));
    }

    proptest! {
        #[test]
        fn buckets_follow_each_other(n in 0usize..BUCKETS) {
            let h = Histogram::between(&[], &[0; WORDS]);
            prop_assert!(h.begin(n) < h.begin(n + 1));
        }

        #[test]
        fn any_words_are_a_histogram(before: Vec<u64>, now: Vec<u64>, part in 0u64..1_001) {
            let h = Histogram::between(&before, &now);
            let _ = (h.quantile(part), h.max_ns(), h.late_median_ns(part));
        }
    }
}
