//! How a link or a path is doing right now, sick or not: for tables that people look at.
//!
//! Absent on purpose: what flows sent again, which is more than links lose.

use crate::engine::Engine;
use alloc::vec::Vec;
use wire::{LinkId, Nanos};

/// One directed link over the last 10 and 60 seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkHealth {
    /// Which link.
    pub link: LinkId,
    /// Packets that crossed it in the last 10 s.
    pub sent_10s: u64,
    /// Packets of observations crossing it that were lost in the last 10 s, wherever on their path.
    pub lost_10s: u64,
    /// Packets that crossed it in the last 60 s.
    pub sent_60s: u64,
    /// As `lost_10s`, over 60 s.
    pub lost_60s: u64,
    /// Loss rate of the link itself over 10 s: losses are charged to the links open verdicts blame, and shared
    /// evenly along the path where there is none.
    pub rate_10s: f64,
    /// As `rate_10s`, over 60 s.
    pub rate_60s: f64,
    /// Delay above usual that an open verdict charges to it, nanoseconds.
    pub delay_excess_ns: u64,
}

/// One path: its links, and the loss along all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct PathHealth {
    /// In the order a packet crosses them.
    pub links: Vec<LinkHealth>,
    /// Share of packets lost along the path, from the links' rates over 10 s.
    pub rate_10s: f64,
    /// The same over 60 s.
    pub rate_60s: f64,
    /// Sum of the links' delay excesses, nanoseconds.
    pub delay_excess_ns: u64,
}

/// The health of these links, from what crossed them and what was hurt in the last minute.
pub(crate) fn links(engine: &Engine, links: &[LinkId]) -> Vec<LinkHealth> {
    let (minute, ten) = (Nanos::from_secs(60), Nanos::from_secs(10));
    let end = engine.newest;
    let (span_60, span_10) =
        (engine.rings.span(end.since(minute), Nanos::MAX), engine.rings.span(end.since(ten), Nanos::MAX));
    let mut out: Vec<LinkHealth> = links
        .iter()
        .filter(|&&l| engine.fabric.exists(l))
        .map(|&link| LinkHealth {
            link,
            sent_10s: span_10.of(link.index()).packets as u64,
            lost_10s: 0,
            sent_60s: span_60.of(link.index()).packets as u64,
            lost_60s: 0,
            rate_10s: 0.0,
            rate_60s: 0.0,
            delay_excess_ns: engine
                .verdicts()
                .filter(|v| v.links.contains(&link))
                .map(|v| v.delay_excess_ns)
                .max()
                .unwrap_or(0),
        })
        .collect();
    let blamed: Vec<LinkId> = engine.verdicts().flat_map(|v| v.links.iter().copied()).collect();
    for o in engine.hurt.iter().rev() {
        let age = end.since(o.window.end());
        if age > minute || o.lost == 0 || o.resent() {
            continue;
        }
        let crossed = engine.hurt_links(o);
        let guilty = crossed.iter().filter(|l| blamed.contains(l)).count();
        for h in out.iter_mut().filter(|h| crossed.contains(&h.link)) {
            let share = match guilty {
                0 => 1.0 / crossed.len() as f64,
                n if blamed.contains(&h.link) => 1.0 / n as f64,
                _ => 0.0,
            };
            h.lost_60s += u64::from(o.lost);
            h.rate_60s += share * f64::from(o.lost);
            if age <= ten {
                h.lost_10s += u64::from(o.lost);
                h.rate_10s += share * f64::from(o.lost);
            }
        }
    }
    for h in &mut out {
        h.rate_60s = (h.rate_60s / h.sent_60s.max(1) as f64).min(1.0);
        h.rate_10s = (h.rate_10s / h.sent_10s.max(1) as f64).min(1.0);
    }
    out
}
