//! Which leaves are words of ours: paths of openconfig's models, and of SONiC's counter database.
//!
//! Invariants: any path is an outcome; what is multiplied is a unit. openconfig-interfaces, -if-ethernet, -qos,
//! -platform-transceiver and -lldp name the leaves; SAI names those of SONiC.

use super::value::{Leaf, Step};
use crate::rows::EntityKind;
use std::borrow::Cow;

/// What a leaf is.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A number.
    Number {
        /// Of what.
        kind: EntityKind,
        /// Of which.
        entity: String,
        /// A word, or the path.
        name: Cow<'static, str>,
        /// Its value.
        value: f64,
        /// A running total.
        total: bool,
    },
    /// A part of what LLDP says: port, neighbour's number, leaf, text.
    Neighbour(String, String, &'static str, String),
    /// The transceiver of a port: its component, and the port.
    Transceiver(String, String),
    /// Nothing that is kept.
    Nothing,
}

/// openconfig-interfaces, counters.
const COUNTERS: &[(&str, &str)] = &[
    ("in-octets", "in_octets"),
    ("in-pkts", "in_packets"),
    ("in-unicast-pkts", "in_unicast_packets"),
    ("in-multicast-pkts", "in_multicast_packets"),
    ("in-broadcast-pkts", "in_broadcast_packets"),
    ("in-discards", "in_discards"),
    ("in-errors", "in_errors"),
    ("in-fcs-errors", "fcs_errors"),
    ("out-octets", "out_octets"),
    ("out-pkts", "out_packets"),
    ("out-unicast-pkts", "out_unicast_packets"),
    ("out-multicast-pkts", "out_multicast_packets"),
    ("out-broadcast-pkts", "out_broadcast_packets"),
    ("out-discards", "out_discards"),
    ("out-errors", "out_errors"),
    ("carrier-transitions", "carrier_changes"),
];

/// openconfig-if-ethernet, counters.
const ETHERNET: &[(&str, &str)] = &[
    ("in-crc-errors", "crc_errors"),
    ("in-mac-pause-frames", "pause_in_frames"),
    ("out-mac-pause-frames", "pause_out_frames"),
];

/// openconfig-qos, state of an output queue; which of them only grow.
const QUEUE: &[(&str, &str, bool)] = &[
    ("transmit-pkts", "queue_out_packets", true),
    ("transmit-octets", "queue_out_octets", true),
    ("dropped-pkts", "queue_drop_packets", true),
    ("dropped-octets", "queue_drop_octets", true),
    ("max-queue-len", "queue_depth_bytes", false),
];

/// SAI statistics, without `SAI_PORT_STAT_` or `SAI_QUEUE_STAT_`; `*` stands for a priority.
const SAI: &[(&str, &str, f64, bool)] = &[
    ("IF_IN_OCTETS", "in_octets", 1.0, true),
    ("IF_IN_UCAST_PKTS", "in_unicast_packets", 1.0, true),
    ("IF_IN_MULTICAST_PKTS", "in_multicast_packets", 1.0, true),
    ("IF_IN_BROADCAST_PKTS", "in_broadcast_packets", 1.0, true),
    ("IF_IN_DISCARDS", "in_discards", 1.0, true),
    ("IF_IN_ERRORS", "in_errors", 1.0, true),
    ("IF_IN_FEC_CORRECTABLE_FRAMES", "fec_corrected", 1.0, true),
    ("IF_IN_FEC_NOT_CORRECTABLE_FRAMES", "fec_uncorrectable", 1.0, true),
    ("IF_IN_FEC_SYMBOL_ERRORS", "symbol_errors", 1.0, true),
    ("ETHER_STATS_CRC_ALIGN_ERRORS", "crc_errors", 1.0, true),
    ("IF_OUT_OCTETS", "out_octets", 1.0, true),
    ("IF_OUT_UCAST_PKTS", "out_unicast_packets", 1.0, true),
    ("IF_OUT_MULTICAST_PKTS", "out_multicast_packets", 1.0, true),
    ("IF_OUT_BROADCAST_PKTS", "out_broadcast_packets", 1.0, true),
    ("IF_OUT_DISCARDS", "out_discards", 1.0, true),
    ("IF_OUT_ERRORS", "out_errors", 1.0, true),
    ("PAUSE_RX_PKTS", "pause_in_frames", 1.0, true),
    ("PAUSE_TX_PKTS", "pause_out_frames", 1.0, true),
    ("PFC_*_RX_PKTS", "pfc_in_frames_*", 1.0, true),
    ("PFC_*_TX_PKTS", "pfc_out_frames_*", 1.0, true),
    ("PFC_*_RX_PAUSE_DURATION_US", "pfc_paused_ns_*", 1_000.0, true),
    ("PACKETS", "queue_out_packets", 1.0, true),
    ("BYTES", "queue_out_octets", 1.0, true),
    ("DROPPED_PACKETS", "queue_drop_packets", 1.0, true),
    ("DROPPED_BYTES", "queue_drop_octets", 1.0, true),
    ("WRED_ECN_MARKED_PACKETS", "ecn_marked_packets", 1.0, true),
    ("SHARED_WATERMARK_BYTES", "queue_depth_bytes", 1.0, false),
];

/// The word of a SAI statistic such as `SAI_PORT_STAT_PFC_3_RX_PKTS`, what it is multiplied with, and whether it is a
/// total. Statistics of a port and of a queue do not share names.
pub fn sai(stat: &str) -> Option<(Cow<'static, str>, f64, bool)> {
    let port = stat.strip_prefix("SAI_PORT_STAT_");
    let stat = port.or_else(|| stat.strip_prefix("SAI_QUEUE_STAT_"))?;
    SAI.iter().find_map(|(name, word, factor, total)| {
        if *name == stat {
            return Some((Cow::Borrowed(*word), *factor, *total));
        }
        let (before, behind) = name.split_once('*')?;
        let n = stat.strip_prefix(before)?.strip_suffix(behind)?;
        let good = matches!(n.as_bytes(), [b'0'..=b'7']);
        good.then(|| (Cow::Owned(word.replace('*', n)), *factor, *total))
    })
}

fn word(table: &'static [(&'static str, &'static str)], leaf: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == leaf).map(|(_, word)| *word)
}

/// A text as a number: itself, or a state or speed by its name.
fn number(leaf: &Leaf, name: &str) -> Option<f64> {
    let text = match leaf {
        Leaf::Number(n) => return Some(*n),
        Leaf::Text(text) => text.trim(),
    };
    let state = text.rsplit_once(':').map_or(text, |(_, state)| state);
    match name {
        // TESTING, UNKNOWN and DORMANT say neither.
        "oper-status" | "admin-status" => match state {
            "UP" => Some(1.0),
            "DOWN" | "LOWER_LAYER_DOWN" | "NOT_PRESENT" => Some(0.0),
            _ => None,
        },
        // SPEED_100GB
        "port-speed" => {
            let speed = state.strip_prefix("SPEED_")?;
            let (digits, unit) = (
                speed.trim_end_matches(char::is_alphabetic),
                speed.trim_start_matches(|c: char| c.is_ascii_digit()),
            );
            let unit = match unit {
                "MB" => 1e6,
                "GB" => 1e9,
                _ => return None,
            };
            Some(digits.parse::<f64>().ok()? * unit)
        }
        _ => text.parse().ok(),
    }
}

/// What a leaf is.
pub fn told(path: &[Step], leaf: &Leaf) -> Told {
    let names: Vec<&str> = path.iter().map(|s| &*s.name).collect();
    let key = |n: usize, key: &str| path.get(n).and_then(|s| s.key(key)).unwrap_or("").to_owned();
    let of = |kind, entity: String, name: Option<&'static str>, total: bool| {
        let value = number(leaf, names.last().copied().unwrap_or(""));
        match (name, value) {
            (Some(name), Some(value)) => {
                Told::Number { kind, entity, name: Cow::Borrowed(name), value, total }
            }
            _ => as_told(kind, entity, &names, value),
        }
    };
    match &names[..] {
        ["interfaces", "interface", "state", "counters", leaf] => {
            of(EntityKind::Interface, key(1, "name"), word(COUNTERS, leaf), true)
        }
        ["interfaces", "interface", "ethernet", "state", "counters", leaf] => {
            of(EntityKind::Interface, key(1, "name"), word(ETHERNET, leaf), true)
        }
        ["interfaces", "interface", "state", "oper-status"] => {
            of(EntityKind::Interface, key(1, "name"), Some("oper_status"), false)
        }
        ["interfaces", "interface", "state", "admin-status"] => {
            of(EntityKind::Interface, key(1, "name"), Some("admin_status"), false)
        }
        ["interfaces", "interface", "state", "transceiver"] => match leaf {
            Leaf::Text(component) => Told::Transceiver(component.clone(), key(1, "name")),
            Leaf::Number(_) => Told::Nothing,
        },
        ["interfaces", "interface", "ethernet", "state", "port-speed"] => {
            of(EntityKind::Interface, key(1, "name"), Some("speed_bps"), false)
        }
        ["interfaces", "interface", ..] => of(EntityKind::Interface, key(1, "name"), None, false),
        ["qos", "interfaces", "interface", "output", "queues", "queue", "state", leaf] => {
            let entity = format!("{}/queue{}", key(2, "interface-id"), key(5, "name"));
            let known = QUEUE.iter().find(|(name, ..)| name == leaf);
            of(EntityKind::Queue, entity, known.map(|k| k.1), known.is_some_and(|k| k.2))
        }
        ["components", "component", "transceiver", rest @ ..] => {
            let name = match rest {
                ["physical-channels", "channel", "state", "input-power", "instant"] => Some("rx_power_dbm"),
                ["physical-channels", "channel", "state", "output-power", "instant"] => Some("tx_power_dbm"),
                ["physical-channels", "channel", "state", "laser-bias-current", "instant"] => {
                    Some("tx_bias_ma")
                }
                ["state", "pre-fec-ber", "instant"] => Some("pre_fec_ber"),
                ["state", "fec-uncorrectable-blocks"] => Some("fec_uncorrectable"),
                _ => None,
            };
            of(EntityKind::Optic, key(1, "name"), name, name == Some("fec_uncorrectable"))
        }
        ["lldp", "interfaces", "interface", "neighbors", "neighbor", "state", leaf_name] => {
            let part = ["system-name", "port-id"].into_iter().find(|p| p == leaf_name);
            match (part, leaf) {
                (Some(part), Leaf::Text(text)) => {
                    Told::Neighbour(key(2, "name"), key(4, "id"), part, text.clone())
                }
                _ => Told::Nothing,
            }
        }
        ["COUNTERS", port, stat] => sonic(EntityKind::Interface, (*port).to_owned(), stat, leaf),
        // SONiC: queues of a port as `Ethernet8:3`, of which only the number is left without its module.
        ["COUNTERS", port, "Queues", queue, stat] => {
            let queue = queue.rsplit(':').next().unwrap_or("");
            sonic(EntityKind::Queue, format!("{port}/queue{queue}"), stat, leaf)
        }
        _ => of(EntityKind::Other, String::new(), None, false),
    }
}

fn sonic(kind: EntityKind, entity: String, stat: &str, leaf: &Leaf) -> Told {
    match (sai(stat), number(leaf, stat)) {
        (Some((name, factor, total)), Some(value)) => {
            Told::Number { kind, entity, name, value: value * factor, total }
        }
        (None, Some(value)) => {
            Told::Number { kind, entity, name: Cow::Owned(stat.to_owned()), value, total: false }
        }
        (_, None) => Told::Nothing,
    }
}

/// A number without a word: under its path.
fn as_told(kind: EntityKind, entity: String, names: &[&str], value: Option<f64>) -> Told {
    match value {
        Some(value) => {
            let name = Cow::Owned(names.join("/"));
            Told::Number { kind, entity, name, value, total: false }
        }
        None => Told::Nothing,
    }
}
