//! The probability of one hurt observation, and nothing else.
//!
//! A packet survives a link with probability `exp(−θ)`, θ being the link's hazard, so hazards of a path add up and a
//! loss-free observation of n packets has exactly `exp(−n·Σθ)`. An observation in which k of n were lost has
//!
//! `P(k) = Binomial(k; n, 1 − exp(−Σθ)) + ε·burst(k) + Σσ·dead(k, n)`
//!
//! where ε is the share of observations that suffered from something at an end (a full socket, a stalled host), and
//! σ the share of a component's flows that it kills altogether.

use libm::{exp, expm1, lgamma, log, log1p};

/// Largest hazard: beyond it nothing gets through (`exp(−16)` is 1e-7).
pub(crate) const HAZARD_MAX: f64 = 16.0;

/// Loss probability of a hazard.
pub(crate) fn rate_of(hazard: f64) -> f64 {
    -expm1(-hazard)
}

/// Hazard of a loss probability.
pub(crate) fn hazard_of(rate: f64) -> f64 {
    if rate >= 1.0 { HAZARD_MAX } else { (-log1p(-rate.max(0.0))).min(HAZARD_MAX) }
}

/// `ln C(n, k)`.
pub(crate) fn ln_choose(n: f64, k: f64) -> f64 {
    if k <= 0.0 || k >= n {
        return 0.0;
    }
    if k == 1.0 {
        return log(n);
    }
    lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0)
}

/// Probability that k of n are lost at hazard `r`, given `ln C(n, k)`.
#[inline]
pub(crate) fn binomial(ln_choose: f64, n: f64, k: f64, r: f64) -> f64 {
    let q = rate_of(r);
    if q <= 0.0 {
        return 0.0;
    }
    exp(ln_choose + k * log(q) - (n - k) * r)
}

/// Size law of a dead flow: all of it, or, at the edge of a window, most of it. Short observations prove nothing:
/// one packet of one is no sign of a dead flow.
pub(crate) fn dead(n: f64, k: f64) -> f64 {
    if n < DEAD_SENT_MIN {
        return 0.0;
    }
    if k >= n { 0.8 } else { 0.2 / n }
}

/// Fewest packets that show a flow dead.
const DEAD_SENT_MIN: f64 = 4.0;

/// Share of bursts of k packets before any was seen: `1/(k(k+1))`, which has no scale.
pub(crate) fn burst_prior(k: f64) -> f64 {
    1.0 / (k * (k + 1.0))
}
