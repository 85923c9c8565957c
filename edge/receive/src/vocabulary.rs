//! The words for what devices count: one name for each thing, whatever its path was, and what it means to the diagnosis.
//!
//! How: receivers turn the paths and metric names they know into the names of [`WORDS`]; [`crate::observe`] looks up here
//! what becomes an observation, and of which link. A name that is not here is kept as told.
//! Invariants: a word says its unit (octets, packets, frames, bytes, ns, dbm) unless it is a plain count of events.
//!
//! Which of a cable's two directed links a number belongs to, as `diagnose::places` has it: what a port received, damaged
//! or not, is of the link into the device; what it sent, marked, threw away or was kept from sending is of the link out of
//! it, and so are pauses, those it sent and those it received.

use wire::Counter;

/// Which of the two links of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the neighbour into the device.
    In,
    /// Out of the device to the neighbour.
    Out,
}

/// What a word means to the diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// The counter it becomes.
    pub counter: Counter,
    /// Of several words for the same counter the one with the highest rank that ever counted anything is believed, since
    /// the others count the same events again (every frame with a wrong FCS is also an input error).
    pub rank: u8,
    /// The word for its opportunities.
    pub of: Option<&'static str>,
}

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The name; with `_*` at its end it stands for one of eight priorities.
    pub name: &'static str,
    /// Which link of the port.
    pub way: Way,
    /// A total that only grows.
    pub cumulative: bool,
    /// What it means to the diagnosis.
    pub meaning: Option<Meaning>,
}

const fn word(name: &'static str, way: Way, cumulative: bool, meaning: Option<Meaning>) -> Word {
    Word { name, way, cumulative, meaning }
}
const fn means(counter: Counter, rank: u8, of: Option<&'static str>) -> Option<Meaning> {
    Some(Meaning { counter, rank, of })
}
const IN_PACKETS: Option<&str> = Some("in_packets");
const OUT_PACKETS: Option<&str> = Some("out_packets");

/// Whether the port works, 1 or 0.
pub const OPER_STATUS: &str = "oper_status";
/// Times the carrier was lost.
pub const CARRIER_LOST: &str = "carrier_lost";
/// Times the carrier came or went: two for each loss.
pub const CARRIER_CHANGES: &str = "carrier_changes";
/// Bytes waiting in a queue, at their most.
pub const QUEUE_DEPTH: &str = "queue_depth_bytes";
/// Bytes a queue has room for.
pub const QUEUE_SIZE: &str = "queue_size_bytes";

/// All of them.
pub const WORDS: &[Word] = &[
    word("in_octets", Way::In, true, None),
    word("in_packets", Way::In, true, None),
    word("in_unicast_packets", Way::In, true, None),
    word("in_multicast_packets", Way::In, true, None),
    word("in_broadcast_packets", Way::In, true, None),
    word("in_discards", Way::In, true, None),
    word("in_errors", Way::In, true, means(Counter::FrameError, 0, IN_PACKETS)),
    word("symbol_errors", Way::In, true, means(Counter::FrameError, 1, IN_PACKETS)),
    word("crc_errors", Way::In, true, means(Counter::FrameError, 2, IN_PACKETS)),
    word("fec_uncorrectable", Way::In, true, means(Counter::FrameError, 3, Some("fec_blocks"))),
    word("fcs_errors", Way::In, true, means(Counter::FrameError, 4, IN_PACKETS)),
    word("fec_corrected", Way::In, true, means(Counter::FrameCorrected, 0, Some("fec_blocks"))),
    word("fec_blocks", Way::In, true, None),
    word("in_fifo_errors", Way::In, true, means(Counter::NicOverrun, 0, IN_PACKETS)),
    word("in_overruns", Way::In, true, means(Counter::NicOverrun, 1, IN_PACKETS)),
    word("out_octets", Way::Out, true, None),
    word("out_packets", Way::Out, true, None),
    word("out_unicast_packets", Way::Out, true, None),
    word("out_multicast_packets", Way::Out, true, None),
    word("out_broadcast_packets", Way::Out, true, None),
    word("out_errors", Way::Out, true, None),
    word("out_discards", Way::Out, true, means(Counter::QueueDrop, 0, OUT_PACKETS)),
    word("queue_drop_packets", Way::Out, true, means(Counter::QueueDrop, 1, OUT_PACKETS)),
    word("queue_drop_octets", Way::Out, true, None),
    word("queue_out_packets", Way::Out, true, None),
    word("queue_out_octets", Way::Out, true, None),
    word("ecn_marked_packets", Way::Out, true, means(Counter::QueueMarked, 0, OUT_PACKETS)),
    word(QUEUE_DEPTH, Way::Out, false, means(Counter::QueueDepth, 0, None)),
    word(QUEUE_SIZE, Way::Out, false, None),
    word("pause_out_frames", Way::Out, true, means(Counter::PauseSent, 0, None)),
    word("pfc_out_frames_*", Way::Out, true, means(Counter::PauseSent, 1, None)),
    word("pause_in_frames", Way::Out, true, means(Counter::PauseReceived, 0, None)),
    word("pfc_in_frames_*", Way::Out, true, means(Counter::PauseReceived, 1, None)),
    word("paused_ns", Way::Out, true, means(Counter::PausedTime, 0, None)),
    word("pfc_paused_ns_*", Way::Out, true, means(Counter::PausedTime, 1, None)),
    word(CARRIER_LOST, Way::In, true, means(Counter::CarrierLost, 1, None)),
    word(CARRIER_CHANGES, Way::In, true, means(Counter::CarrierLost, 0, None)),
    word(OPER_STATUS, Way::In, false, None),
    word("admin_status", Way::In, false, None),
    word("speed_bps", Way::Out, false, None),
    word("rx_power_dbm", Way::In, false, None),
    word("pre_fec_ber", Way::In, false, None),
    word("tx_power_dbm", Way::Out, false, None),
    word("tx_bias_ma", Way::Out, false, None),
];

/// The word of a name, `pfc_in_frames_3` included.
pub fn lookup(name: &str) -> Option<&'static Word> {
    WORDS.iter().find(|w| match w.name.strip_suffix('*') {
        None => w.name == name,
        Some(stem) => {
            let rest = name.strip_prefix(stem).map(str::as_bytes);
            matches!(rest, Some([b'0'..=b'7']))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_priority_too() {
        assert_eq!(lookup("pfc_in_frames_3").map(|w| w.way), Some(Way::Out));
        assert_eq!(lookup("pfc_in_frames_8"), None);
        assert_eq!(lookup("pfc_in_frames_"), None);
        assert_eq!(
            lookup("fcs_errors").and_then(|w| w.meaning).map(|m| m.counter),
            Some(Counter::FrameError)
        );
        assert_eq!(lookup("node_load1"), None);
    }

    #[test]
    fn a_word_stands_once_and_its_opportunities_are_words() {
        for (n, w) in WORDS.iter().enumerate() {
            assert!(WORDS[..n].iter().all(|other| other.name != w.name), "{}", w.name);
            let of = w.meaning.and_then(|m| m.of);
            assert!(
                of.is_none_or(|of| lookup(of).is_some_and(|o| o.cumulative && o.way == w.way)),
                "{}",
                w.name
            );
        }
    }
}
