//! Two clocks that are not one: taking their difference out of one-way delays.
//!
//! How: half the difference of the two one-way delays is the difference of the clocks, if both ways take equally long.
//! They do not quite, but by how much changes only when a delay changes, and then the round trip, which no clock can
//! falsify, changes too. So the estimate follows packets whose round trip is as usual, no faster than clocks drift, and
//! stands still for the others. A clock that was set changes everything but the round trip, and is followed at once.
//!
//! Invariants: a delay that jumps shows in its own direction for as long as it lasts, and nothing shows in the other
//! when it is over.
//! Absent on purpose: setting any clock.

use wire::Nanos;

/// Packets at the beginning, of which the fastest makes the first estimate.
const FIRST: u32 = 8;
/// Packets in a row that must agree that a clock was set.
const SET_AFTER: u32 = 8;
/// Further from the estimate than this, with a usual round trip, is a clock that was set, nanoseconds.
const SET_NS: i64 = 500_000;
/// A round trip this much longer than usual, and a quarter, is not usual, nanoseconds.
const MARGIN_NS: i64 = 50_000;

/// The difference of two clocks, followed slowly, so that one-way delays do not drift with it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offset {
    /// The other clock less this one.
    theta_ns: i64,
    at: Nanos,
    seen: u32,
    usual_rtt_ns: i64,
    /// Packets in a row that are far from the estimate though their round trip is as usual.
    apart: u32,
}

impl Offset {
    /// `(t2 − t1)` and `(t4 − t3)` as they would be with clocks that agree.
    pub(crate) fn correct(
        &mut self,
        forward: i64,
        backward: i64,
        now: Nanos,
        parts_per_million: i64,
    ) -> (i64, i64) {
        let (rtt, target) = (forward.saturating_add(backward), forward.saturating_sub(backward) / 2);
        let off = target.saturating_sub(self.theta_ns);
        if self.seen < FIRST {
            if self.seen == 0 || rtt < self.usual_rtt_ns {
                (self.usual_rtt_ns, self.theta_ns) = (rtt, target);
            }
            self.seen += 1;
        } else if rtt <= self.usual_rtt_ns.saturating_add(self.usual_rtt_ns / 4).saturating_add(MARGIN_NS) {
            let far = off.unsigned_abs() > SET_NS.unsigned_abs();
            self.apart = if far { self.apart.saturating_add(1) } else { 0 };
            let most = (now.since(self.at).0 / 1_000_000) as i64 * parts_per_million;
            let step = if self.apart >= SET_AFTER { off } else { off.clamp(-most, most) };
            self.theta_ns = self.theta_ns.saturating_add(step);
            self.at = now;
        }
        // shorter soon, longer slowly: minutes to get used to a millisecond
        let step = rtt.saturating_sub(self.usual_rtt_ns).clamp(-10_000, 500);
        self.usual_rtt_ns = self.usual_rtt_ns.saturating_add(step);
        if self.seen < FIRST || self.at == Nanos::ZERO {
            self.at = now;
        }
        (forward.saturating_sub(self.theta_ns), backward.saturating_add(self.theta_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clocks an hour apart that drift by 20 ppm; the way there takes a millisecond more for a while; a clock is set.
    #[test]
    fn drift_is_taken_out_and_delays_are_left_in() {
        let mut offset = Offset::default();
        for i in 0..20_000i64 {
            let ms = i * 10;
            let set = if ms >= 150_000 { 77_000_000_000 } else { 0 };
            let apart = 3_600_000_000_000 + ms * 20 + set;
            let jump = if (50_000..80_000).contains(&ms) { 1_000_000 } else { 0 };
            let now = Nanos(ms as u64 * 1_000_000);
            let (forward, backward) = offset.correct(50_000 + jump + apart, 50_000 - apart, now, 50);
            if ms > 1_000 && !(150_000..150_100).contains(&ms) {
                // while the delay lasts the estimate stands still and the drift shows: 20 ppm of 30 s
                let slack = if (50_000..100_000).contains(&ms) { 620_000 } else { 2_000 };
                assert!((forward - 50_000 - jump).abs() < slack, "{ms}: {forward}");
                assert!((backward - 50_000).abs() < slack, "{ms}: {backward}");
            }
        }
    }

    /// Found by playing damaged recordings.
    #[test]
    fn a_delay_of_centuries_does_not_overflow() {
        let extremes = [0, 1, -1, i64::MAX, i64::MIN, i64::MAX / 2, i64::MIN / 2];
        for first in extremes {
            let mut offset = Offset::default();
            for (i, forward) in extremes.into_iter().cycle().take(100).enumerate() {
                let backward = if i % 3 == 0 { first } else { extremes[i % 7] };
                let _ = offset.correct(forward, backward, Nanos(u64::MAX / 100 * i as u64), 50);
            }
        }
    }
}
