//! How soon a fault can be known at all, to compare with how soon it was.
//!
//! A sequential test that raises at most `a` false alarms a day over `m` links weighed once a window needs the
//! evidence `h = ln(m · windows a day / a)`. A packet that crosses a link losing a share `p`, where a healthy one
//! loses `p0`, yields on average `D = p·ln(p/p0) − p + p0` of it (the divergence of two Poisson rates). So no test
//! gets by with fewer than about `h / D` packets over the sick link (Lorden, "Procedures for reacting to a change in
//! distribution", Annals of Mathematical Statistics 42, 1971).

use wire::Nanos;

/// Loss of a healthy link that the bound assumes.
pub const P0: f64 = 1e-5;

/// Evidence one packet over a link that loses a share `p` yields on average, natural units.
pub fn information(p: f64, p0: f64) -> f64 {
    p * libm::log(p / p0) - p + p0
}

/// Evidence asked for over `links` links weighed every `window` at so many false alarms a day.
pub fn threshold(links: u64, window: Nanos, false_alarms_per_day: f64) -> f64 {
    let windows_per_day = 86_400.0 / window.as_secs_f64();
    libm::log(links as f64 * windows_per_day / false_alarms_per_day)
}

/// Packets that must cross the sick link, rounded up to whole ones.
pub fn packets(threshold: f64, p: f64) -> f64 {
    libm::ceil(threshold / information(p, P0))
}

/// The value below which a share `q` of the sorted values lies (nearest rank). `None` of none.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = libm::ceil(q * sorted.len() as f64) as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of the published table: 100,000 links, 1 s windows, one false alarm a day.
    #[test]
    fn known_figures() {
        let h = threshold(100_000, Nanos::from_secs(1), 1.0);
        assert!((h - 22.9).abs() < 0.05, "{h}");
        assert_eq!(packets(h, 1.0), 3.0);
        assert_eq!(packets(h, 1e-2), 388.0);
        assert!((packets(h, 1e-3) - 6_300.0).abs() < 50.0, "{}", packets(h, 1e-3));
        assert!((packets(h, 1e-4) - 163_000.0).abs() < 1_000.0, "{}", packets(h, 1e-4));
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.9), Some(4.0));
        assert_eq!(quantile(&[7.0], 0.0), Some(7.0));
    }
}
