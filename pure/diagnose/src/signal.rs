//! What can be hurt: each signal is one run of the same localizer, with "lost" meaning another count.

use wire::{PathObservation, Source};

/// A way for packets to be hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    Loss = 0,
    Reorder = 1,
    Ecn = 2,
    Delay = 3,
}

/// What counts as healthy for a signal.
pub(crate) struct Norm {
    /// Share of packets of a healthy path that is hurt, at least, before anything is known.
    pub(crate) background: f64,
    /// Share of observations hurt at an end, before anything is known.
    pub(crate) noise: f64,
    /// A fault below this rate is not reported.
    pub(crate) rate_min: f64,
    /// Distinct moments a fault must have been seen in.
    pub(crate) moments_min: u32,
}

impl Signal {
    pub(crate) const ALL: [Signal; 4] = [Signal::Loss, Signal::Reorder, Signal::Ecn, Signal::Delay];

    /// Packets that could have been hurt, and those that were. Of a flow only what it lost counts: it does not say of
    /// every packet how late it was, or whether it could have been marked.
    pub(crate) fn counts(self, o: &PathObservation) -> (u32, u32) {
        let arrived = o.sent - o.lost.min(o.sent);
        if o.source == Source::Flow && self != Signal::Loss {
            return (arrived, 0);
        }
        match self {
            Signal::Loss => (o.sent, o.lost),
            Signal::Reorder => (arrived, o.reordered.min(arrived)),
            Signal::Ecn => (arrived, o.ecn_marked.min(arrived)),
            Signal::Delay => o.delay.map_or((arrived, 0), |d| (d.count.min(arrived), d.over.min(d.count))),
        }
    }

    pub(crate) fn norm(self, config: &crate::Config) -> Norm {
        match self {
            Signal::Loss => Norm {
                background: config.background_floor,
                noise: 1e-5,
                rate_min: config.rate_min,
                moments_min: 1,
            },
            Signal::Reorder => Norm { background: 2e-5, noise: 1e-4, rate_min: 2e-4, moments_min: 2 },
            Signal::Ecn => Norm { background: 2e-5, noise: 1e-4, rate_min: 2e-4, moments_min: 2 },
            // One in a thousand is above its own 99.9 % by definition, and those come together.
            Signal::Delay => Norm { background: 2e-3, noise: 1e-2, rate_min: 0.2, moments_min: 3 },
        }
    }
}
