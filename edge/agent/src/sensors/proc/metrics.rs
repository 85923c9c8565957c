//! Which counters of a namespace are kept, under which name, and what they count.
//!
//! How: the kernel has some three hundred of them; these are the ones a host's verdict needs. Names are those of RFC 4293,
//! RFC 4022 and RFC 4113, and the kernel's own (`Documentation/networking/snmp_counter.rst`).
//! Absent on purpose: UDP over IPv6 as a finding; the prober reports that of its own sockets' namespace.

use crate::sensors::Meaning;
use wire::Counter;

/// The numbers a verdict rests on. The namespace's counters are those of [`NETSTAT`] and [`SNMP6`].
pub const METRICS: &[Meaning] = &[
    Meaning { name: "cpu_busy", unit: "ns", text: "processor time used, of the host or a core" },
    Meaning { name: "cpu_softirq", unit: "ns", text: "of that, in soft interrupts" },
    Meaning { name: "cpu_irq", unit: "ns", text: "in hardware interrupts" },
    Meaning { name: "cpu_steal", unit: "ns", text: "taken by the hypervisor" },
    Meaning {
        name: "pressure_<resource>_some",
        unit: "ns",
        text: "time in which some task waited for it (PSI)",
    },
    Meaning { name: "pressure_<resource>_full", unit: "ns", text: "time in which all did" },
    Meaning { name: "pressure_<resource>_some_10s", unit: "‰", text: "share of the last ten seconds" },
    Meaning {
        name: "throttled",
        unit: "count",
        text: "periods in which the control group used up its quota",
    },
    Meaning { name: "throttled_time", unit: "ns", text: "time it had to wait for that" },
    Meaning { name: "memory_available", unit: "bytes", text: "for programs without swapping" },
    Meaning {
        name: "backlog_taken",
        unit: "packets",
        text: "packets the processors' backlogs and polls took",
    },
    Meaning { name: "backlog_dropped", unit: "packets", text: "thrown away, because a backlog was full" },
    Meaning { name: "backlog_flow_limited", unit: "packets", text: "thrown away by the limit for one flow" },
    Meaning { name: "backlog_squeezed", unit: "count", text: "runs that ended with packets left" },
    Meaning { name: "conntrack_used", unit: "count", text: "connections tracked" },
    Meaning { name: "conntrack_insert_failed", unit: "packets", text: "packets without room in that table" },
    Meaning {
        name: "pcie_speed",
        unit: "count",
        text: "of the NIC's link, megatransfers a second; beside pcie_speed_max",
    },
    Meaning { name: "pcie_width", unit: "count", text: "lanes of that link; beside pcie_width_max" },
    Meaning { name: "pcie_correctable_errors", unit: "count", text: "of that link (AER)" },
    Meaning {
        name: "interrupt_busiest_share",
        unit: "‰",
        text: "of the NIC's interrupts, those of its busiest processor",
    },
];

/// A counter that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The protocol with its colon; empty in `snmp6`.
    pub protocol: &'static str,
    /// The kernel's name.
    pub theirs: &'static str,
    /// Ours.
    pub ours: &'static str,
    /// The finding it adds to.
    pub counts: Option<Counter>,
    /// Whether it counts what was received, out of which findings are.
    pub received: bool,
}

const fn kept(protocol: &'static str, theirs: &'static str, ours: &'static str) -> Wanted {
    Wanted { protocol, theirs, ours, counts: None, received: false }
}
const fn dropped(mut wanted: Wanted) -> Wanted {
    wanted.counts = Some(Counter::SocketDrop);
    wanted
}
const fn damaged(mut wanted: Wanted) -> Wanted {
    wanted.counts = Some(Counter::ChecksumError);
    wanted
}
const fn received(mut wanted: Wanted) -> Wanted {
    wanted.received = true;
    wanted
}

/// Of `snmp` and `netstat`.
pub const NETSTAT: &[Wanted] = &[
    kept("Ip:", "InDiscards", "ip_in_discards"),
    kept("Ip:", "OutDiscards", "ip_out_discards"),
    kept("Ip:", "OutNoRoutes", "ip_out_no_routes"),
    kept("Ip:", "ReasmFails", "ip_reassembly_failures"),
    kept("Ip:", "FragFails", "ip_fragmentation_failures"),
    received(kept("Tcp:", "InSegs", "tcp_in_segments")),
    kept("Tcp:", "OutSegs", "tcp_out_segments"),
    kept("Tcp:", "RetransSegs", "tcp_retransmits"),
    kept("Tcp:", "InErrs", "tcp_in_errors"),
    damaged(kept("Tcp:", "InCsumErrors", "tcp_checksum_errors")),
    kept("Tcp:", "OutRsts", "tcp_resets_sent"),
    kept("Tcp:", "AttemptFails", "tcp_attempts_failed"),
    kept("Tcp:", "EstabResets", "tcp_established_resets"),
    received(kept("Udp:", "InDatagrams", "udp_in_datagrams")),
    kept("Udp:", "NoPorts", "udp_no_ports"),
    dropped(kept("Udp:", "RcvbufErrors", "udp_receive_buffer_errors")),
    kept("Udp:", "SndbufErrors", "udp_send_buffer_errors"),
    dropped(kept("Udp:", "MemErrors", "udp_memory_errors")),
    damaged(kept("Udp:", "InCsumErrors", "udp_checksum_errors")),
    damaged(kept("Icmp:", "InCsumErrors", "icmp_checksum_errors")),
    kept("TcpExt:", "ListenOverflows", "tcp_listen_overflows"),
    dropped(kept("TcpExt:", "ListenDrops", "tcp_listen_drops")),
    dropped(kept("TcpExt:", "TCPBacklogDrop", "tcp_backlog_drops")),
    dropped(kept("TcpExt:", "TCPRcvQDrop", "tcp_receive_queue_drops")),
    dropped(kept("TcpExt:", "PFMemallocDrop", "tcp_memory_drops")),
    kept("TcpExt:", "TCPZeroWindowDrop", "tcp_zero_window_drops"),
    kept("TcpExt:", "PruneCalled", "tcp_prunes"),
    kept("TcpExt:", "RcvPruned", "tcp_receive_pruned"),
    kept("TcpExt:", "OfoPruned", "tcp_out_of_order_pruned"),
    kept("TcpExt:", "TCPTimeouts", "tcp_timeouts"),
    kept("TcpExt:", "TCPLossProbes", "tcp_loss_probes"),
    kept("TcpExt:", "TCPLostRetransmit", "tcp_lost_retransmits"),
    kept("TcpExt:", "TCPFastRetrans", "tcp_fast_retransmits"),
    kept("TcpExt:", "TCPSlowStartRetrans", "tcp_slow_start_retransmits"),
    kept("TcpExt:", "TCPSynRetrans", "tcp_syn_retransmits"),
    kept("TcpExt:", "TCPSpuriousRTOs", "tcp_spurious_timeouts"),
    kept("TcpExt:", "TCPDSACKRecv", "tcp_duplicates_told"),
    kept("TcpExt:", "TCPOFOQueue", "tcp_out_of_order"),
    kept("TcpExt:", "TCPReqQFullDrop", "tcp_request_queue_drops"),
    kept("TcpExt:", "TCPReqQFullDoCookies", "tcp_request_queue_cookies"),
    kept("TcpExt:", "TCPAbortOnMemory", "tcp_aborts_for_memory"),
    kept("TcpExt:", "TCPAbortOnTimeout", "tcp_aborts_for_timeout"),
    kept("TcpExt:", "TCPMemoryPressures", "tcp_memory_pressures"),
    kept("TcpExt:", "TCPToZeroWindowAdv", "tcp_zero_windows_sent"),
    kept("TcpExt:", "TCPFromZeroWindowAdv", "tcp_zero_windows_ended"),
    kept("TcpExt:", "LockDroppedIcmps", "icmp_dropped_for_lock"),
    kept("IpExt:", "InCEPkts", "ip_in_ecn_marked"),
    damaged(kept("IpExt:", "InCsumErrors", "ip_checksum_errors")),
];

/// Of `snmp6`.
pub const SNMP6: &[Wanted] = &[
    kept("", "Ip6InReceives", "ip6_in_received"),
    kept("", "Ip6InDiscards", "ip6_in_discards"),
    kept("", "Ip6InNoRoutes", "ip6_in_no_routes"),
    kept("", "Ip6InTooBigErrors", "ip6_in_too_big"),
    kept("", "Ip6InTruncatedPkts", "ip6_in_truncated"),
    kept("", "Ip6OutDiscards", "ip6_out_discards"),
    kept("", "Ip6OutNoRoutes", "ip6_out_no_routes"),
    kept("", "Ip6ReasmFails", "ip6_reassembly_failures"),
    kept("", "Ip6InCEPkts", "ip6_in_ecn_marked"),
    kept("", "Icmp6InPktTooBigs", "icmp6_in_too_big"),
    kept("", "Icmp6InDestUnreachs", "icmp6_in_unreachable"),
    kept("", "Udp6InDatagrams", "udp6_in_datagrams"),
    kept("", "Udp6NoPorts", "udp6_no_ports"),
    kept("", "Udp6RcvbufErrors", "udp6_receive_buffer_errors"),
    kept("", "Udp6SndbufErrors", "udp6_send_buffer_errors"),
    kept("", "Udp6InCsumErrors", "udp6_checksum_errors"),
    kept("", "Udp6MemErrors", "udp6_memory_errors"),
];
