//! What the numbers of `flows` mean.

use crate::sensors::Meaning;

/// Columns of a flow (`wire::sensor::PassingRow`); of all those there is no room to tell of one by one, one row without addresses.
pub const METRICS: &[Meaning] = &[
    Meaning { name: "packets", unit: "packets", text: "on the wire: a burst counts as its segments" },
    Meaning { name: "bytes", unit: "bytes", text: "on the wire, with their Ethernet headers" },
    Meaning {
        name: "marked",
        unit: "packets",
        text: "of those, with congestion experienced (RFC 3168) in the outer header",
    },
    Meaning {
        name: "hops_left_min",
        unit: "",
        text: "smallest time to live, or hop limit, of the flow so far",
    },
    Meaning { name: "hops_left_max", unit: "", text: "largest; where the two differ the path changed" },
    Meaning { name: "one_in", unit: "", text: "one packet in so many was looked at, and counts for as many" },
];
