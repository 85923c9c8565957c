//! How a link or a path is doing right now, sick or not: for tables that people look at.

use alloc::vec::Vec;
use wire::LinkId;

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
