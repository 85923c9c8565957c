//! Vendors' names of counters and ours: one table.
//!
//! How: a row gives a driver, where its counter stands, its name with `#` for a number (a priority, a queue, a lane), our
//! name with `#` where the number goes (left out where several become one sum), the unit, and what a number of theirs is
//! in our unit. Names and meanings are those of the drivers' public documentation.
//! Invariants: a counter has at most one row. Absent on purpose: counters that say nothing of the network's health; they
//! stay out of the readings.

use crate::sensors::measure::Unit::{self, Bits, Blocks, Bytes, Count, Nanoseconds, Packets};

/// Where a counter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Among the driver's own of an interface (`ethtool -S`).
    Own,
    /// Under `hw_counters` or `counters` of an RDMA device's port.
    Rdma,
}
use Source::{Own, Rdma};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The driver, `""` for any.
    pub driver: &'static str,
    /// Where it stands.
    pub source: Source,
    /// The vendor's name.
    pub theirs: &'static str,
    /// Our name.
    pub ours: &'static str,
    /// Our unit.
    pub unit: Unit,
    /// What one of theirs is in our unit.
    pub scale: u64,
    /// Whether it is a state and not a count.
    pub gauge: bool,
}

const fn row(
    driver: &'static str,
    source: Source,
    theirs: &'static str,
    ours: &'static str,
    unit: Unit,
) -> Row {
    Row { driver, source, theirs, ours, unit, scale: 1, gauge: false }
}

const fn times(mut row: Row, scale: u64) -> Row {
    row.scale = scale;
    row
}

const fn gauge(mut row: Row) -> Row {
    row.gauge = true;
    row
}

const MLX5: &str = "mlx5_core";
const BNXT: &str = "bnxt_en";
const ICE: &str = "ice";
const VIRTIO: &str = "virtio_net";
const VETH: &str = "veth";
const US: u64 = 1_000;

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    // NVIDIA ConnectX
    row(MLX5, Own, "rx_packets_phy", "frames_received", Packets),
    row(MLX5, Own, "tx_packets_phy", "frames_sent", Packets),
    row(MLX5, Own, "rx_bytes_phy", "bytes_received", Bytes),
    row(MLX5, Own, "tx_bytes_phy", "bytes_sent", Bytes),
    row(MLX5, Own, "rx_crc_errors_phy", "fcs_errors", Packets),
    row(MLX5, Own, "rx_symbol_err_phy", "symbol_errors", Count),
    row(MLX5, Own, "rx_pcs_symbol_err_phy", "pcs_symbol_errors", Count),
    row(MLX5, Own, "rx_corrected_bits_phy", "fec_corrected_bits", Bits),
    row(MLX5, Own, "rx_err_lane_#_phy", "lane_#_errors", Bits),
    row(MLX5, Own, "rx_pause_ctrl_phy", "pause_received", Packets),
    row(MLX5, Own, "tx_pause_ctrl_phy", "pause_sent", Packets),
    times(row(MLX5, Own, "rx_global_pause_duration", "paused", Nanoseconds), US),
    times(row(MLX5, Own, "tx_global_pause_duration", "pausing", Nanoseconds), US),
    row(MLX5, Own, "rx_prio#_pause", "pfc_#_received", Packets),
    row(MLX5, Own, "tx_prio#_pause", "pfc_#_sent", Packets),
    times(row(MLX5, Own, "rx_prio#_pause_duration", "pfc_#_paused", Nanoseconds), US),
    times(row(MLX5, Own, "tx_prio#_pause_duration", "pfc_#_pausing", Nanoseconds), US),
    row(MLX5, Own, "rx_prio#_pause_transition", "pfc_#_transitions", Count),
    row(MLX5, Own, "rx_prio#_discards", "priority_#_receive_discards", Packets),
    row(MLX5, Own, "rx_prio#_buf_discard", "priority_#_no_buffer", Packets),
    row(MLX5, Own, "rx_prio#_cong_discard", "priority_#_congestion_discards", Packets),
    row(MLX5, Own, "rx_prio#_marked", "priority_#_ecn_marked", Packets),
    row(MLX5, Own, "tx_pause_storm_warning_events", "pause_storm_warnings", Count),
    row(MLX5, Own, "tx_pause_storm_error_events", "pause_storms", Count),
    row(MLX5, Own, "rx_discards_phy", "port_no_room", Packets),
    row(MLX5, Own, "tx_discards_phy", "send_no_room", Packets),
    row(MLX5, Own, "tx_errors_phy", "send_errors_port", Packets),
    row(MLX5, Own, "rx_out_of_buffer", "host_no_room", Packets),
    row(MLX5, Own, "rx_steer_missed_packets", "no_flow_for", Packets),
    row(MLX5, Own, "link_down_events_phy", "link_down", Count),
    row(MLX5, Own, "module_high_temp", "module_overheats", Count),
    row(MLX5, Own, "module_bus_stuck", "module_bus_stuck", Count),
    row(MLX5, Own, "outbound_pci_stalled_rd", "pcie_read_stalled_share", Count),
    row(MLX5, Own, "outbound_pci_stalled_wr", "pcie_write_stalled_share", Count),
    row(MLX5, Own, "outbound_pci_buffer_overflow", "pcie_buffer_overflows", Packets),
    row(MLX5, Own, "rx_pci_signal_integrity", "pcie_receive_errors", Count),
    row(MLX5, Own, "tx_pci_signal_integrity", "pcie_send_errors", Count),
    row(MLX5, Own, "rx_vport_rdma_unicast_packets", "rdma_packets_received", Packets),
    row(MLX5, Own, "tx_vport_rdma_unicast_packets", "rdma_packets_sent", Packets),
    row(MLX5, Rdma, "out_of_sequence", "rdma_out_of_sequence", Packets),
    row(MLX5, Rdma, "packet_seq_err", "rdma_sequence_naks", Count),
    row(MLX5, Rdma, "local_ack_timeout_err", "rdma_timeouts", Count),
    row(MLX5, Rdma, "implied_nak_seq_err", "rdma_implied_naks", Count),
    row(MLX5, Rdma, "duplicate_request", "rdma_duplicates", Packets),
    row(MLX5, Rdma, "rnr_nak_retry_err", "rdma_receiver_not_ready", Count),
    row(MLX5, Rdma, "out_of_buffer", "rdma_no_room", Packets),
    row(MLX5, Rdma, "np_cnp_sent", "cnp_sent", Packets),
    row(MLX5, Rdma, "np_ecn_marked_roce_packets", "rdma_ecn_marked", Packets),
    row(MLX5, Rdma, "rp_cnp_handled", "cnp_handled", Packets),
    row(MLX5, Rdma, "rp_cnp_ignored", "cnp_ignored", Packets),
    row(MLX5, Rdma, "rx_write_requests", "rdma_writes_received", Packets),
    row(MLX5, Rdma, "rx_read_requests", "rdma_reads_received", Packets),
    row(MLX5, Rdma, "rx_atomic_requests", "rdma_atomics_received", Packets),
    row(MLX5, Rdma, "rx_icrc_encapsulated", "rdma_checksum_errors", Packets),
    row(MLX5, Rdma, "req_cqe_error", "rdma_requester_errors", Count),
    row(MLX5, Rdma, "resp_cqe_error", "rdma_responder_errors", Count),
    row(MLX5, Rdma, "req_remote_access_errors", "rdma_remote_access_errors", Count),
    row(MLX5, Rdma, "roce_adp_retrans", "rdma_adaptive_retransmits", Packets),
    row(MLX5, Rdma, "roce_adp_retrans_to", "rdma_adaptive_timeouts", Count),
    row(MLX5, Rdma, "roce_slow_restart", "rdma_slow_restarts", Count),
    // Broadcom NetXtreme-E
    row(BNXT, Own, "rx_good_frames", "frames_received", Packets),
    row(BNXT, Own, "tx_good_frames", "frames_sent", Packets),
    row(BNXT, Own, "rx_bytes", "bytes_received", Bytes),
    row(BNXT, Own, "tx_bytes", "bytes_sent", Bytes),
    row(BNXT, Own, "rx_fcs_err_frames", "fcs_errors", Packets),
    row(BNXT, Own, "rx_pcs_symbol_err", "pcs_symbol_errors", Count),
    row(BNXT, Own, "rx_corrected_bits", "fec_corrected_bits", Bits),
    row(BNXT, Own, "rx_fec_corrected_blocks", "fec_corrected_blocks", Blocks),
    row(BNXT, Own, "rx_fec_uncorrectable_blocks", "fec_uncorrectable_blocks", Blocks),
    row(BNXT, Own, "rx_pause_frames", "pause_received", Packets),
    row(BNXT, Own, "tx_pause_frames", "pause_sent", Packets),
    row(BNXT, Own, "rx_pfc_ena_frames_pri#", "pfc_#_received", Packets),
    row(BNXT, Own, "tx_pfc_ena_frames_pri#", "pfc_#_sent", Packets),
    times(row(BNXT, Own, "pfc_pri#_rx_duration_us", "pfc_#_paused", Nanoseconds), US),
    times(row(BNXT, Own, "pfc_pri#_tx_duration_us", "pfc_#_pausing", Nanoseconds), US),
    row(BNXT, Own, "pfc_pri#_rx_transitions", "pfc_#_transitions", Count),
    row(BNXT, Own, "continuous_pause_events", "pause_storm_warnings", Count),
    row(BNXT, Own, "continuous_roce_pause_events", "roce_pause_storm_warnings", Count),
    row(BNXT, Own, "rx_discard_packets_cos#", "class_#_receive_discards", Packets),
    row(BNXT, Own, "rx_buffer_passed_threshold", "port_buffer_above_mark", Count),
    row(BNXT, Own, "rx_stat_discard", "port_no_room", Packets),
    row(BNXT, Own, "tx_stat_discard", "send_no_room", Packets),
    row(BNXT, Own, "tx_stat_error", "send_errors_port", Packets),
    row(BNXT, Own, "rx_total_ring_discards", "host_no_room", Packets),
    row(BNXT, Own, "[#]: rx_discards", "host_no_room_rings", Packets),
    row(BNXT, Own, "rx_total_oom_discards", "host_no_memory", Packets),
    row(BNXT, Own, "rx_total_l4_csum_errors", "checksum_errors", Packets),
    row(BNXT, Own, "link_down_events", "link_down", Count),
    row(BNXT, Rdma, "oos_drop_count", "rdma_out_of_sequence", Packets),
    row(BNXT, Rdma, "seq_err_naks_rcvd", "rdma_sequence_naks", Count),
    row(BNXT, Rdma, "to_retransmits", "rdma_timeouts", Count),
    row(BNXT, Rdma, "missing_resp", "rdma_implied_naks", Count),
    row(BNXT, Rdma, "dup_req", "rdma_duplicates", Packets),
    row(BNXT, Rdma, "rnr_naks_rcvd", "rdma_receiver_not_ready", Count),
    row(BNXT, Rdma, "rx_out_of_buffer", "rdma_no_room", Packets),
    row(BNXT, Rdma, "out_of_buffer", "rdma_no_room", Packets),
    row(BNXT, Rdma, "rx_roce_discards", "rdma_discards", Packets),
    row(BNXT, Rdma, "rx_roce_errors", "rdma_receive_errors", Packets),
    row(BNXT, Rdma, "max_retry_exceeded", "rdma_gave_up", Count),
    row(BNXT, Rdma, "tx_cnp_pkts", "cnp_sent", Packets),
    row(BNXT, Rdma, "np_cnp_pkts", "cnp_sent", Packets),
    row(BNXT, Rdma, "rx_cnp_pkts", "cnp_handled", Packets),
    row(BNXT, Rdma, "rp_cnp_handled", "cnp_handled", Packets),
    row(BNXT, Rdma, "rx_ecn_marked_pkts", "rdma_ecn_marked", Packets),
    row(BNXT, Rdma, "np_ecn_marked_roce_packets", "rdma_ecn_marked", Packets),
    row(BNXT, Rdma, "rx_write_req", "rdma_writes_received", Packets),
    row(BNXT, Rdma, "rx_read_req", "rdma_reads_received", Packets),
    row(BNXT, Rdma, "rx_atomic_req", "rdma_atomics_received", Packets),
    row(BNXT, Rdma, "rx_pkts", "rdma_packets_received", Packets),
    row(BNXT, Rdma, "tx_pkts", "rdma_packets_sent", Packets),
    row(BNXT, Rdma, "unrecoverable_err", "rdma_requester_errors", Count),
    row(BNXT, Rdma, "remote_access_err", "rdma_remote_access_errors", Count),
    gauge(row(BNXT, Rdma, "active_qps", "rdma_queue_pairs", Count)),
    // Intel E800 and its RDMA function
    row(ICE, Own, "rx_unicast.nic", "unicast_received", Packets),
    row(ICE, Own, "tx_unicast.nic", "unicast_sent", Packets),
    row(ICE, Own, "rx_bytes.nic", "bytes_received", Bytes),
    row(ICE, Own, "tx_bytes.nic", "bytes_sent", Bytes),
    row(ICE, Own, "rx_crc_errors.nic", "fcs_errors", Packets),
    row(ICE, Own, "illegal_bytes.nic", "symbol_errors", Count),
    row(ICE, Own, "mac_local_faults.nic", "local_faults", Count),
    row(ICE, Own, "mac_remote_faults.nic", "remote_faults", Count),
    row(ICE, Own, "link_xoff_rx.nic", "pause_received", Packets),
    row(ICE, Own, "link_xoff_tx.nic", "pause_sent", Packets),
    row(ICE, Own, "link_xon_rx.nic", "pause_ends_received", Packets),
    row(ICE, Own, "link_xon_tx.nic", "pause_ends_sent", Packets),
    row(ICE, Own, "rx_priority_#_xoff.nic", "pfc_#_received", Packets),
    row(ICE, Own, "tx_priority_#_xoff.nic", "pfc_#_sent", Packets),
    row(ICE, Own, "rx_priority_#_xon.nic", "pfc_#_ends_received", Packets),
    row(ICE, Own, "tx_priority_#_xon.nic", "pfc_#_ends_sent", Packets),
    row(ICE, Own, "rx_dropped.nic", "host_no_room", Packets),
    row(ICE, Own, "tx_dropped_link_down.nic", "send_no_link", Packets),
    row(ICE, Own, "tx_errors.nic", "send_errors_port", Packets),
    row(ICE, Own, "rx_csum_bad.nic", "checksum_errors", Packets),
    row(ICE, Own, "link_down_events.nic", "link_down", Count),
    row(ICE, Rdma, "cnpSent", "cnp_sent", Packets),
    row(ICE, Rdma, "cnpHandled", "cnp_handled", Packets),
    row(ICE, Rdma, "cnpIgnored", "cnp_ignored", Packets),
    row(ICE, Rdma, "RxECNMrkd", "rdma_ecn_marked", Packets),
    row(ICE, Rdma, "RetransSegs", "rdma_retransmits", Packets),
    row(ICE, Rdma, "tcpRetransSegs", "rdma_retransmits", Packets),
    row(ICE, Rdma, "Nak Sequence Error", "rdma_sequence_naks", Count),
    row(ICE, Rdma, "RNR received", "rdma_receiver_not_ready", Count),
    row(ICE, Rdma, "InRdmaWrites", "rdma_writes_received", Packets),
    row(ICE, Rdma, "iwInRdmaWrites", "rdma_writes_received", Packets),
    row(ICE, Rdma, "InRdmaReads", "rdma_reads_received", Packets),
    row(ICE, Rdma, "iwInRdmaReads", "rdma_reads_received", Packets),
    row(ICE, Rdma, "ip4InDiscards", "rdma_discards_v4", Packets),
    row(ICE, Rdma, "ip6InDiscards", "rdma_discards_v6", Packets),
    row(ICE, Rdma, "RxUDP", "rdma_packets_received", Packets),
    row(ICE, Rdma, "TxUDP", "rdma_packets_sent", Packets),
    // Every RDMA port (InfiniBand specification, PortCounters)
    row("", Rdma, "symbol_error", "symbol_errors", Count),
    row("", Rdma, "link_error_recovery", "link_recoveries", Count),
    row("", Rdma, "link_downed", "link_down", Count),
    row("", Rdma, "port_rcv_errors", "port_receive_errors", Packets),
    row("", Rdma, "port_rcv_remote_physical_errors", "port_receive_marked_bad", Packets),
    row("", Rdma, "port_rcv_switch_relay_errors", "port_relay_errors", Packets),
    row("", Rdma, "port_xmit_discards", "send_no_room", Packets),
    row("", Rdma, "port_xmit_wait", "port_send_wait_ticks", Count),
    row("", Rdma, "local_link_integrity_errors", "link_integrity_errors", Count),
    row("", Rdma, "excessive_buffer_overrun_errors", "buffer_overruns", Count),
    row("", Rdma, "VL15_dropped", "management_drops", Packets),
    row("", Rdma, "port_rcv_packets", "port_packets_received", Packets),
    row("", Rdma, "port_xmit_packets", "port_packets_sent", Packets),
    times(row("", Rdma, "port_rcv_data", "port_bytes_received", Bytes), 4),
    times(row("", Rdma, "port_xmit_data", "port_bytes_sent", Bytes), 4),
    // Made by software
    row(VIRTIO, Own, "rx_drops", "host_no_room", Packets),
    row(VIRTIO, Own, "rx#_drops", "queue_#_drops", Packets),
    row(VIRTIO, Own, "tx_tx_timeouts", "send_timeouts", Count),
    row(VIRTIO, Own, "rx_kicks", "receive_kicks", Count),
    row(VIRTIO, Own, "tx_kicks", "send_kicks", Count),
    gauge(row(VETH, Own, "peer_ifindex", "peer", Count)),
    row(VETH, Own, "rx_queue_#_xdp_drops", "xdp_drops", Packets),
    row(VETH, Own, "rx_queue_#_drops", "host_no_room", Packets),
    row(VETH, Own, "tx_queue_#_xdp_xmit_errors", "xdp_send_errors", Packets),
];

/// Our name, unit and scale of a vendor's counter. `None` where it is not in the table.
pub fn ours(driver: &str, source: Source, theirs: &str) -> Option<(&'static Row, String)> {
    TABLE.iter().filter(|r| r.source == source && (r.driver == driver || r.driver.is_empty())).find_map(|r| {
        let number = matched(r.theirs, theirs)?;
        Some((r, r.ours.replacen('#', number, 1)))
    })
}

/// The number at `#` (empty where the pattern has none), where the name fits the pattern.
fn matched<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let Some((head, tail)) = pattern.split_once('#') else {
        return (pattern == name).then_some("");
    };
    let number = name.strip_prefix(head)?.strip_suffix(tail)?;
    let plain = (1..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    plain.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_one_row() {
        for (n, row) in TABLE.iter().enumerate() {
            let name = row.theirs.replace('#', "3");
            let fits: Vec<_> = TABLE
                .iter()
                .enumerate()
                .filter(|(_, r)| r.source == row.source && (r.driver == row.driver || r.driver.is_empty()))
                .filter(|(_, r)| matched(r.theirs, &name).is_some())
                .map(|(n, _)| n)
                .collect();
            assert_eq!(fits, [n], "{name}");
        }
    }

    #[test]
    fn numbers_go_where_they_belong() {
        let name = |driver, theirs| ours(driver, Own, theirs).map(|(_, name)| name);
        assert_eq!(name(MLX5, "rx_prio3_pause").as_deref(), Some("pfc_3_received"));
        assert_eq!(name(MLX5, "rx_prio3_pause_duration").as_deref(), Some("pfc_3_paused"));
        assert_eq!(name(BNXT, "[12]: rx_discards").as_deref(), Some("host_no_room_rings"));
        assert_eq!(name(MLX5, "rx_prio_pause"), None);
        assert_eq!(name(MLX5, "rx_prio99999_pause"), None);
        assert_eq!(name(BNXT, "rx_prio3_pause"), None, "another vendor's");
    }
}
