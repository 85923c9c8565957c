//! Which metrics of usual exporters are words of ours: node_exporter's network, ethtool and InfiniBand collectors.
//!
//! Invariant: what is multiplied is a unit (bytes to bits, microseconds to nanoseconds), never a guess.

use std::borrow::Cow;

/// A metric with a word.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The word.
    pub word: Cow<'static, str>,
    /// The label that names the port.
    pub label: &'static str,
    /// What its value is multiplied with.
    pub factor: f64,
    /// A running total.
    pub total: bool,
}

/// Metric, word; `*` stands for a priority. Totals all of them. No port has two metrics here with the same word: two
/// totals under one name would be taken for one that goes back and forth.
const TOTALS: &[(&str, &str)] = &[
    ("node_network_receive_bytes_total", "in_octets"),
    ("node_network_receive_packets_total", "in_packets"),
    ("node_network_receive_errs_total", "in_errors"),
    ("node_network_receive_frame_total", "fcs_errors"),
    ("node_network_receive_drop_total", "in_discards"),
    ("node_network_receive_fifo_total", "in_fifo_errors"),
    ("node_network_transmit_bytes_total", "out_octets"),
    ("node_network_transmit_packets_total", "out_packets"),
    ("node_network_transmit_errs_total", "out_errors"),
    ("node_network_transmit_drop_total", "out_discards"),
    ("node_network_carrier_changes_total", "carrier_changes"),
    ("node_network_carrier_down_changes_total", "carrier_lost"),
    // Mellanox
    ("node_ethtool_rx_crc_errors_phy", "crc_errors"),
    ("node_ethtool_rx_symbol_err_phy", "symbol_errors"),
    ("node_ethtool_rx_out_of_buffer", "in_overruns"),
    ("node_ethtool_tx_discards_phy", "queue_drop_packets"),
    ("node_ethtool_rx_prio*_pause", "pfc_in_frames_*"),
    ("node_ethtool_tx_prio*_pause", "pfc_out_frames_*"),
    // Intel and Broadcom
    ("node_ethtool_rx_crc_errors", "crc_errors"),
    ("node_ethtool_rx_fcs_err_frames", "crc_errors"),
    ("node_infiniband_symbol_error_total", "symbol_errors"),
    ("node_infiniband_link_downed_total", "carrier_lost"),
];

const fn known(word: &'static str, factor: f64, total: bool) -> Known {
    Known { word: Cow::Borrowed(word), label: "device", factor, total }
}

/// A metric's word.
pub fn lookup(name: &str) -> Option<Known> {
    match name {
        "node_network_up" => return Some(known("oper_status", 1.0, false)),
        "node_network_speed_bytes" => return Some(known("speed_bps", 8.0, false)),
        _ => {}
    }
    // Microseconds in which the peer's pause kept the port from sending.
    if let Some(n) = priority(name, "node_ethtool_rx_prio*_pause_duration") {
        let word = Cow::Owned(format!("pfc_paused_ns_{n}"));
        return Some(Known { word, ..known("", 1_000.0, true) });
    }
    TOTALS.iter().find_map(|(metric, word)| {
        if *metric == name {
            return Some(known(word, 1.0, true));
        }
        let word = Cow::Owned(word.replace('*', &priority(name, metric)?.to_string()));
        Some(Known { word, ..known("", 1.0, true) })
    })
}

/// The priority that a pattern's star stands for in a name.
fn priority(name: &str, pattern: &str) -> Option<u8> {
    let (before, behind) = pattern.split_once('*')?;
    match name.strip_prefix(before)?.strip_suffix(behind)?.as_bytes() {
        [n @ b'0'..=b'7'] => Some(n - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary;

    #[test]
    fn every_word_is_one() {
        for (metric, word) in TOTALS {
            let known = lookup(&metric.replace('*', "3")).unwrap();
            assert_eq!(known.word, word.replace('*', "3"));
            assert!(vocabulary::lookup(&known.word).is_some_and(|w| w.cumulative), "{metric}");
        }
        assert_eq!(lookup("node_ethtool_rx_prio5_pause_duration").unwrap().word, "pfc_paused_ns_5");
        assert_eq!(lookup("node_ethtool_rx_prio9_pause"), None);
        assert_eq!(lookup("node_network_mtu_bytes"), None);
    }
}
