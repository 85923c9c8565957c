//! What all faults on one directed link come to together. Pure.
//!
//! Rates of independent faults of a kind combine as probabilities do, delays add up, the lowest rate limit holds; of
//! two flaps the later one counts.

use super::element::Program;
use super::relay::Line;
use fabric::FaultKind;
use wire::LinkId;

/// The sum of a link's faults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effect {
    /// For the element at the receiving end.
    pub program: Program,
    /// For the delay line there.
    pub line: Option<Line>,
    /// For the sending interface, bits a second.
    pub rate_bps: Option<u64>,
    /// Whether the link is down.
    pub down: bool,
}

/// Chance that at least one of two independent things happens.
fn either(a: f64, b: f64) -> f64 {
    a + b - a * b
}

impl Effect {
    /// Of these faults, each with a number that decides which flows it picks.
    pub fn of(link: LinkId, faults: impl Iterator<Item = (u32, FaultKind)>) -> Effect {
        let mut e = Effect::default();
        let p = &mut e.program;
        let (mut delay, mut jitter, mut reorder, mut hold) = (0, 0, 0.0, 0);
        for (seed, kind) in faults {
            match kind {
                FaultKind::Drop { rate } => p.drop = either(p.drop, rate),
                FaultKind::Blackhole { share } => {
                    p.flows = either(p.flows, share);
                    p.flows_seed = (seed ^ link.0.rotate_left(16)).wrapping_mul(0x9e37_79b1);
                }
                FaultKind::Corrupt { rate } => p.corrupt = either(p.corrupt, rate),
                FaultKind::EcnMark { rate } => p.ecn = either(p.ecn, rate),
                FaultKind::Flap { period, duty, rate } => {
                    p.flap_period_ns = period.0;
                    p.flap_bad_ns = (period.0 as f64 * duty) as u64;
                    p.flap_rate = rate;
                }
                FaultKind::Reorder { rate, delay } => {
                    reorder = either(reorder, rate);
                    hold = hold.max(delay.0);
                }
                FaultKind::Delay { delay: d, jitter: j } => {
                    delay += d.0;
                    jitter += j.0;
                }
                FaultKind::RateLimit { bps } => e.rate_bps = Some(e.rate_bps.map_or(bps, |b| b.min(bps))),
                FaultKind::Down => e.down = true,
                // these happen to hosts
                FaultKind::CpuStall { .. } | FaultKind::AgentStop => {}
            }
        }
        if delay > 0 || jitter > 0 {
            p.divert = 1.0;
            e.line = Some(Line { delay_ns: delay, jitter_ns: jitter, share: reorder, hold_ns: hold });
        } else if reorder > 0.0 {
            // only what is to be held back takes the way through user space
            p.divert = reorder;
            e.line = Some(Line { delay_ns: hold, jitter_ns: 0, share: 0.0, hold_ns: 0 });
        }
        e
    }

    /// Whether anything is wrong with the link.
    pub fn acts(&self) -> bool {
        self.program.acts() || self.rate_bps.is_some() || self.down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kinds: &[&str]) -> Effect {
        let faults = kinds.iter().enumerate().map(|(i, k)| (i as u32, k.parse().unwrap()));
        Effect::of(LinkId(3), faults)
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(!of(&[]).acts());
        assert!(!of(&["agent-stop"]).acts());
    }

    #[test]
    fn rates_combine_as_probabilities() {
        let e = of(&["drop 50%", "drop 50%"]);
        assert_eq!(e.program.drop, 0.75);
        assert_eq!(of(&["drop 100%", "drop 1%"]).program.drop, 1.0);
    }

    #[test]
    fn only_held_back_packets_take_the_slow_way() {
        let e = of(&["reorder 5% delay 2ms"]);
        assert_eq!(e.program.divert, 0.05);
        assert_eq!(e.line, Some(Line { delay_ns: 2_000_000, jitter_ns: 0, share: 0.0, hold_ns: 0 }));
        let e = of(&["reorder 5% delay 2ms", "delay 1ms jitter 1ms"]);
        assert_eq!(e.program.divert, 1.0);
        assert_eq!(
            e.line,
            Some(Line { delay_ns: 1_000_000, jitter_ns: 1_000_000, share: 0.05, hold_ns: 2_000_000 })
        );
    }

    #[test]
    fn the_lowest_limit_holds() {
        assert_eq!(of(&["rate-limit 10Mbit/s", "rate-limit 1Mbit/s"]).rate_bps, Some(1_000_000));
        assert!(of(&["down"]).down);
    }
}
