//! What the numbers of `drops` mean.

use crate::sensors::Meaning;

/// Columns of table `drop_event` that this sensor fills.
pub const METRICS: &[Meaning] = &[
    Meaning {
        name: "reason",
        unit: "",
        text: "the kernel's own word (enum skb_drop_reason of this very kernel)",
    },
    Meaning { name: "place", unit: "", text: "the kernel's function that freed the packet" },
    Meaning {
        name: "packets",
        unit: "packets",
        text: "as on the wire: a burst that was never cut counts as its segments",
    },
    Meaning { name: "bytes", unit: "bytes", text: "of the packets, from wherever the kernel had got to" },
    Meaning {
        name: "exemplar",
        unit: "",
        text: "at most 64 bytes of one of them, from its network header on",
    },
];
