//! What the numbers of `tcp` mean.

use crate::sensors::Meaning;

/// Columns of table `tcp_interval` that this sensor fills.
pub const METRICS: &[Meaning] = &[
    Meaning {
        name: "rtt_min_us, rtt_p50_us, rtt_max_us",
        unit: "µs",
        text: "round trips by acknowledgements of the interval, one in sixteen sampled; p50 within a fifth",
    },
    Meaning { name: "srtt_us", unit: "µs", text: "the connection's smoothed round trip, at the reading" },
    Meaning {
        name: "retrans",
        unit: "segments",
        text: "sent again, whatever the cause: tcp_sock.total_retrans",
    },
    Meaning {
        name: "retrans_timeout",
        unit: "segments",
        text: "of those, after the retransmission timer ran out (state Loss)",
    },
    Meaning { name: "retrans_probe", unit: "segments", text: "of those, tail loss probes (RFC 8985)" },
    Meaning {
        name: "retrans_fast",
        unit: "segments",
        text: "of those, all others: told by duplicate acknowledgements, SACK or RACK",
    },
    Meaning {
        name: "retrans_spurious",
        unit: "segments",
        text: "sent again though the receiver had them: it said so by DSACK (RFC 2883)",
    },
    Meaning {
        name: "out_of_order",
        unit: "segments",
        text: "came after a later one: reordering, or the hole of a loss",
    },
    Meaning { name: "delivery_rate", unit: "B/s", text: "at the kernel's last rate sample" },
    Meaning {
        name: "busy_us, rwnd_limited_us, sndbuf_limited_us",
        unit: "µs",
        text: "time with something to send; of it held up by the peer's window; of it by the own send buffer",
    },
    Meaning {
        name: "unread",
        unit: "bytes",
        text: "received in order and not read by the process: a slow reader",
    },
];
