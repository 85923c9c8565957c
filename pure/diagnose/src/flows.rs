//! What passive flows say, counted apart from what is counted at both ends.
//!
//! How: a flow knows what it sent and what it sent again, rarely where it went. What lost nothing is added up by link
//! where the path is known, and by leaf, direction and size where it is not, so a million flows cost what ten do. What
//! was sent again is kept flow by flow like any hurt observation.
//!
//! Absent on purpose: which flow it was.

use crate::moments::Moments;
use crate::ring::Rings;
use wire::Nanos;

/// Counts of flows by link, leaf and time.
pub(crate) struct Flows {
    pub(crate) rings: Rings,
    pub(crate) unknown: Option<Rings>,
    /// When the first one spoke.
    pub(crate) begun: Nanos,
    /// Observations and packets; and packets times links.
    packets: Moments,
    exposure: Moments,
}

impl Flows {
    pub(crate) fn new(links: usize, begun: Nanos) -> Self {
        Flows {
            begun,
            rings: Rings::new(links),
            unknown: None,
            packets: Moments::new(),
            exposure: Moments::new(),
        }
    }

    pub(crate) fn add(&mut self, at: Nanos, packets: u64, exposure: u64) {
        self.packets.add(at, packets);
        self.exposure.add(at, exposure);
    }

    /// Observations, packets, and packets times links in a span.
    pub(crate) fn between(&self, from: Nanos, to: Nanos) -> (f64, f64, f64) {
        let (observations, packets) = self.packets.between(from, to);
        (observations, packets, self.exposure.between(from, to).1)
    }
}
