//! What is kept: every table, its columns, and what they mean. The one place where a table is described; the files on
//! the store, the SQL engine, the reference page and the pages' completion are all made from it.
//!
//! How: a table is its columns in order, after which the writer adds `day`, the UTC day of `ts`, by which files are
//! partitioned. Signed types only, and times in microseconds: that is all Delta Lake knows.
//! Invariants: columns are only added, at the end, each with the [`VERSION`] it came with; a column that came later is
//! nullable, so that older files can be read. That is the whole migration: [`Table::since`] says what to add.
//! Absent on purpose: tables nobody fills yet.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::{Arc, LazyLock};

/// Newest version of the columns that this program knows.
pub const VERSION: u32 = 1;

/// The partition column, added to every table.
pub const DAY: &str = "day";

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, UTF-8.
    Text,
    /// 8 bits, signed.
    Tiny,
    /// 32 bits, signed.
    Int,
    /// 64 bits, signed. An id of 64 bits keeps its bits and may read as negative.
    Long,
    /// 64 bits floating.
    Float,
    /// Microseconds since 1970, UTC.
    Time,
    /// Bytes.
    Bytes,
}

impl Kind {
    /// As Arrow says it.
    pub fn arrow(self) -> DataType {
        match self {
            Kind::Text => DataType::Utf8,
            Kind::Tiny => DataType::Int8,
            Kind::Int => DataType::Int32,
            Kind::Long => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::Bytes => DataType::Binary,
        }
    }
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it may be null.
    pub nullable: bool,
    /// Version of the schema it came with.
    pub since: u32,
    /// Meaning, unit and range.
    pub text: &'static str,
}

/// One table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What a row is.
    pub text: &'static str,
    /// Its columns, without `day`.
    pub columns: &'static [Column],
    /// Days its rows are kept unless the settings say otherwise; `None`: for ever.
    pub keep_days: Option<u32>,
    /// Columns by which rows are sorted where files are merged: what questions ask for most, first.
    pub cluster: &'static [&'static str],
}

const fn must(name: &'static str, kind: Kind, text: &'static str) -> Column {
    Column { name, kind, nullable: false, since: 1, text }
}
const fn may(name: &'static str, kind: Kind, text: &'static str) -> Column {
    Column { name, kind, nullable: true, since: 1, text }
}

use Kind::{Bytes, Float, Int, Long, Text, Time, Tiny};

/// What happened to the packets of one producer on one path in one window.
pub static PATH_OBSERVATION: Table = Table {
    name: "path_observation",
    text: "What happened to the packets of one producer on one path in one window: the fact everything else rests on.",
    columns: &[
        must("ts", Time, "beginning of the window, by the producer's clock"),
        must("window_us", Int, "its length, microseconds"),
        must("producer", Int, "host that counted"),
        must("producer_epoch", Long, "its life: changes at every start of its agent"),
        must("sequence", Long, "its running number of the observation within its life"),
        must("fabric_epoch", Long, "version of the fabric the ids belong to"),
        must("path", Long, "id of the path; of the way there where the observation covers both ways"),
        must("known", Text, "how the path is known: exact, discovered or mixture"),
        may(
            "path_back",
            Long,
            "id of the way back, where it cannot be said on which of the two a packet died",
        ),
        may("known_back", Text, "how the way back is known"),
        must("class", Tiny, "DSCP of the packets, 0 to 63"),
        must("size_log2", Tiny, "packet size: 2^size_log2 bytes hold it; above 127: 127"),
        must("entropy", Int, "flow label or port folded to a bucket, 0 to 65535"),
        must("sent", Int, "packets sent whose fate is known"),
        must("lost", Int, "of those, packets that did not arrive"),
        must("reordered", Int, "of those that arrived, packets that were overtaken"),
        must("ecn_marked", Int, "of those that arrived, packets with ECN CE set"),
        must("source", Text, "who measured: probe, transport or flow"),
        may(
            "delay_clock",
            Text,
            "how far delays can be trusted: free, synchronized or same; null: none measured",
        ),
        may("delay_count", Int, "packets with a measured delay"),
        may("delay_over", Int, "of those, packets above the path's own 99.9 % baseline"),
        may("delay_excess_ns", Long, "median of what they were above its median, nanoseconds"),
        may(
            "delay_min_ns",
            Long,
            "smallest one-way delay, nanoseconds; may be negative where clocks are free",
        ),
        may("delay_p50_ns", Long, "median, nanoseconds"),
        may("delay_max_ns", Long, "largest, nanoseconds"),
    ],
    keep_days: Some(14),
    cluster: &["path", "ts"],
};

/// What happened on one path in one minute: what is left of the observations when they are gone.
pub static PATH_MINUTE: Table = Table {
    name: "path_minute",
    text: "What happened on one path in one minute, summed over the observations that began in it. Made by the fold from \
           the same rows it moves into `path_observation`, so each observation is in here once. A minute may stand in \
           several rows until their files are merged, always after late observations: sum over them, and join \
           their sketches with `sketch_merge`.",
    columns: &[
        must("ts", Time, "beginning of the minute, by the producers' clocks"),
        must("fabric_epoch", Long, "version of the fabric the ids belong to"),
        must("path", Long, "id of the path; of the way there where the observations cover both ways"),
        must("known", Text, "how the path is known: exact, discovered or mixture"),
        may(
            "path_back",
            Long,
            "id of the way back, where it cannot be said on which of the two a packet died",
        ),
        must("class", Tiny, "DSCP of the packets, 0 to 63"),
        must("source", Text, "who measured: probe, transport or flow"),
        must("windows", Long, "observations summed"),
        must("sent", Long, "packets sent whose fate is known"),
        must("lost", Long, "of those, packets that did not arrive"),
        must("reordered", Long, "of those that arrived, packets that were overtaken"),
        must("ecn_marked", Long, "of those that arrived, packets with ECN CE set"),
        may(
            "delay_clock",
            Text,
            "the least trusted clock among the observations; null: no delay was measured",
        ),
        must("delay_count", Long, "packets with a measured delay"),
        must("delay_over", Long, "of those, packets above the path's own 99.9 % baseline"),
        may(
            "delay_min_ns",
            Long,
            "smallest one-way delay, nanoseconds; may be negative where clocks are free",
        ),
        may("delay_max_ns", Long, "largest, nanoseconds"),
        may(
            "delay_sketch",
            Bytes,
            "DDSketch of the delays in nanoseconds, within 1 %, for `sketch_percentile` and `sketch_merge`. An \
             observation gives its smallest and largest delay once each and its median for all the packets between",
        ),
    ],
    keep_days: Some(400),
    cluster: &["path", "ts", "class", "source", "known", "path_back", "fabric_epoch"],
};

/// What was counted at one place in one window.
pub static COUNTER: Table = Table {
    name: "counter",
    text: "What was counted at one place in one window: stalls, checksum errors, drops, silence.",
    columns: &[
        must("ts", Time, "beginning of the window"),
        must("window_us", Int, "its length, microseconds"),
        must("producer", Int, "host that counted; the component itself where the hub did"),
        must("fabric_epoch", Long, "version of the fabric the ids belong to"),
        must("component_kind", Text, "link, switch, nic or host"),
        must("component_id", Int, "its number within its kind"),
        must("component", Text, "its name"),
        must("counter", Text, "what was counted, such as responder_stall"),
        must("delta", Long, "events in the window"),
        must("of_total", Long, "opportunities in the window, 0 where unknown"),
        must("size_ns", Long, "median length of an event, nanoseconds; 0 where it has none"),
    ],
    keep_days: Some(30),
    cluster: &["component", "counter", "ts"],
};

/// Each change of an incident.
pub static INCIDENT: Table = Table {
    name: "incident",
    text: "Every change of an incident, as it stood after it; the newest row of an id is how it stands.",
    columns: &[
        must("ts", Time, "when it was written"),
        must("id", Text, "inc-1 and so on; never used twice"),
        must("state", Text, "open, closed, or forgotten: no longer listed"),
        must("component_kind", Text, "link, switch, nic or host"),
        must("component", Text, "its name"),
        must("fault", Text, "loss, blackhole, delay and so on"),
        must("rate", Float, "share of packets hurt, 0 to 1"),
        must("confidence", Float, "how surely the component or an alternative is sick, 0 to 1"),
        must("first_seen", Time, "beginning of the first hurt window"),
        must("last_seen", Time, "end of the last hurt window"),
        must("opened_at", Time, "when it was announced"),
        may("closed_at", Time, "when it was found healed"),
        may("judgement", Text, "what a person thought of it: right, wrong or partly"),
        must("summary", Text, "all of it in one line"),
        must("detail", Text, "everything about it, JSON: what a hub starts from"),
    ],
    keep_days: None,
    cluster: &["id", "ts"],
};

/// How every link did, every ten seconds.
pub static LINK_HEALTH: Table = Table {
    name: "link_health",
    text: "How each directed link that was crossed did, once in ten seconds.",
    columns: &[
        must("ts", Time, "end of the ten seconds"),
        must("fabric_epoch", Long, "version of the fabric the ids belong to"),
        must("link", Int, "id of the directed link"),
        must("name", Text, "its name, such as p0-leaf1:p0-spine0"),
        must("plane", Tiny, "its plane"),
        must("sent", Long, "packets that crossed it"),
        must("lost", Long, "packets lost on paths over it, wherever on the path"),
        must("rate", Float, "loss charged to the link itself, 0 to 1"),
        must("delay_excess_ns", Long, "delay above usual charged to it, nanoseconds"),
    ],
    keep_days: Some(90),
    cluster: &["link", "ts"],
};

/// What is there: components by fabric epoch.
pub static ENTITY: Table = Table {
    name: "entity",
    text: "Hosts, NICs and switches of each fabric the hub was started with.",
    columns: &[
        must("ts", Time, "since when this fabric is watched"),
        must("fabric_epoch", Long, "version of the fabric"),
        must("kind", Text, "host, nic or switch"),
        must("id", Int, "number within its kind"),
        must("name", Text, "name"),
        may("plane", Tiny, "plane; null for a host"),
    ],
    keep_days: None,
    cluster: &["ts"],
};

/// Directed links by fabric epoch.
pub static LINK: Table = Table {
    name: "link",
    text: "Directed links of each fabric the hub was started with.",
    columns: &[
        must("ts", Time, "since when this fabric is watched"),
        must("fabric_epoch", Long, "version of the fabric"),
        must("id", Int, "id of the directed link"),
        must("name", Text, "name, such as p0-leaf1:p0-spine0"),
        must("plane", Tiny, "plane"),
        must("from_node", Text, "node it leaves"),
        must("to_node", Text, "node it reaches"),
        must("rate_bps", Long, "bits a second, as specified"),
    ],
    keep_days: None,
    cluster: &["ts"],
};

/// What changed: the first question of every incident.
pub static CHANGE: Table = Table {
    name: "change",
    text: "What changed: hubs and agents that came and went, fabrics, and what hooks told of, such as deployments.",
    columns: &[
        must("ts", Time, "when"),
        must("kind", Text, "hub, agent, fabric, or what a hook said, such as deploy"),
        must("subject", Text, "what changed, such as host3"),
        must("what", Text, "began, ended, left, changed, or what a hook said"),
        must("text", Text, "how, in words"),
    ],
    keep_days: None,
    cluster: &["ts"],
};

/// Every counted loss, at every stage.
pub static LOSS_LEDGER: Table = Table {
    name: "loss_ledger",
    text: "Every observation that was not stored, with where and why: sent = stored + ledger, exactly. \
           Stage `diagnosis` is apart: those were stored, but not weighed.",
    columns: &[
        must("ts", Time, "when the hub learned of it"),
        must("producer", Int, "host whose observations they were; -1: of no host, as with receivers"),
        must("producer_epoch", Long, "its life"),
        must(
            "stage",
            Text,
            "agent: its buffer was full; ingest: the hub could not take them; diagnosis: stored, not weighed; receive: \
             an exporter's records, sets or datagrams were not kept; exporter: it numbered them and they never came \
             (records of IPFIX and NetFlow v5, datagrams of NetFlow v9 and sFlow); sensor: events the host's kernel had no \
             room to count, by sensor",
        ),
        must("reason", Text, "such as agent_buffer, bad_row or not_its_path"),
        must("rows", Long, "how many observations, or events"),
    ],
    keep_days: Some(400),
    cluster: &["ts"],
};

/// Who did what, and who was refused.
pub static AUDIT: Table = Table {
    name: "audit",
    text: "Who did what, and who was refused: logins, acts, changes, questions about this table, addresses revealed. \
           Rows are only added. For administrators.",
    columns: &[
        must("ts", Time, "when"),
        must("who", Text, "user, token, host or hook; empty where nobody was recognised"),
        must("role", Text, "viewer, operator, admin; empty where there is none"),
        must("auth", Text, "how they were known: session, token, certificate, signature or none"),
        may("address", Text, "address they came from, as a pseudonym that keeps prefixes; see reveal"),
        may("address_key", Text, "id of the key the pseudonym was made with"),
        must(
            "act",
            Text,
            "login, logout, acknowledge, assign, snooze, close, note, label, query, reveal, change, connect, request",
        ),
        must("subject", Text, "what it was about: an incident, a statement, a path of the API"),
        must("outcome", Text, "done or refused"),
        must("reason", Text, "why it was refused, or what was said with it"),
        must("times", Int, "how often within the second; refusals of one kind are one row"),
    ],
    // Whoever must keep it, or must not, says so.
    keep_days: None,
    cluster: &["ts"],
};

/// Who was told of an incident.
pub static ALERT: Table = Table {
    name: "alert",
    text: "Who was told of an incident, and when: one row for each receiver and message.",
    columns: &[
        must("ts", Time, "when it was sent"),
        must("incident", Text, "inc-1 and so on"),
        must("receiver", Text, "name of the receiver in the alerts file"),
        must("status", Text, "firing: it is open; resolved: it is closed"),
        must("reopened", Int, "how often it had been opened again by then"),
        must("outcome", Text, "sent, or failed: the first of several tries that were not taken"),
        must("reason", Text, "why it was not taken"),
    ],
    keep_days: Some(400),
    cluster: &["ts"],
};

/// Flows, as exporters and hosts tell of them.
pub static FLOW: Table = Table {
    name: "flow",
    text: "A flow as a switch, a router or a host tells of it: IPFIX, NetFlow, sFlow samples, and hosts' own accounting. \
           `packets` and `bytes` have the sampling rate applied. Addresses are pseudonyms that keep prefixes, except \
           those of the fabric itself; `address` shows them as text. What an exporter does not tell is null.",
    columns: &[
        must("ts", Time, "when the flow began, else ended, else was told of, by the exporter's clock"),
        may("duration_us", Long, "from the first packet to the last, microseconds"),
        must("exporter", Int, "who tells: a number in table exporter"),
        may("src", Bytes, "source address, 16 bytes; IPv4 as ::ffff:a.b.c.d"),
        may("dst", Bytes, "destination address"),
        may("src_port", Int, "source port"),
        may("dst_port", Int, "destination port"),
        may("protocol", Int, "IP protocol: 6 TCP, 17 UDP, 4 or 41 a tunnel"),
        may("tcp_flags", Int, "TCP flags seen, together"),
        may("traffic_class", Int, "DSCP and ECN, 0 to 255"),
        must("packets", Long, "packets, after sampling is made up for"),
        must("bytes", Long, "bytes, after sampling is made up for"),
        must("sampling", Int, "one packet in so many was looked at; 1: all"),
        may("in_if", Long, "interface it came in by, the exporter's number"),
        may("out_if", Long, "interface it left by, the exporter's number"),
        may("next_hop", Bytes, "address of the next hop"),
        may("src_as", Long, "autonomous system of the source"),
        may("dst_as", Long, "autonomous system of the destination"),
        may("src_prefix_len", Int, "length of the source's prefix"),
        may("dst_prefix_len", Int, "length of the destination's prefix"),
        may("vlan", Int, "VLAN"),
        may("direction", Int, "0 in, 1 out"),
        may("ttl_min", Int, "smallest TTL or hop limit"),
        may("ttl_max", Int, "largest TTL or hop limit"),
        may("flow_label", Long, "IPv6 flow label: the entropy of an ECMP path"),
        may("end_reason", Int, "why it ended (RFC 5102, 5.11.3)"),
        may("mpls_label", Long, "top MPLS label"),
        may("srv6_segment", Bytes, "active SRv6 segment (RFC 9487)"),
        may(
            "forwarding_status",
            Int,
            "status and reason (RFC 7270): 64 to 127 forwarded, 128 to 191 dropped",
        ),
        may("ecn_marked", Long, "packets with ECN CE set, where they are counted"),
    ],
    keep_days: Some(7),
    cluster: &["dst", "src", "ts"],
};

/// Who tells of flows.
pub static EXPORTER: Table = Table {
    name: "exporter",
    text: "Who tells of flows and counters: one row when it is heard first, and at each start of the hub. The newest row \
           of an id is the one in force.",
    columns: &[
        must("ts", Time, "when"),
        must("id", Int, "its number, in flow and drop_event"),
        must("address", Text, "address it tells from"),
        must("domain", Long, "its observation domain, source id or agent"),
        must("protocol", Text, "ipfix, netflow9, netflow5, sflow or host"),
        may("component", Text, "the switch or host of the fabric it is"),
    ],
    keep_days: None,
    cluster: &["id", "ts"],
};

/// What was thrown away, by reason.
pub static DROP_EVENT: Table = Table {
    name: "drop_event",
    text: "Packets a host's kernel or a switch threw away, by reason and place, one row a window; one of them as an example.",
    columns: &[
        must("ts", Time, "beginning of the window"),
        must("window_us", Int, "its length, microseconds; 0: a single event"),
        may("producer", Int, "host whose kernel it was"),
        may("exporter", Int, "switch that tells: a number in table exporter"),
        must("reason", Text, "the kernel's or the switch's own word, such as NO_SOCKET or acl"),
        must("place", Text, "function of the kernel, or queue of the switch"),
        must("device", Text, "interface it was at, empty where unknown"),
        may("protocol", Int, "EtherType"),
        must("packets", Long, "how many"),
        must("bytes", Long, "their bytes, 0 where unknown"),
        may("exemplar", Bytes, "the first bytes of one of them, from its network header on"),
    ],
    keep_days: Some(30),
    cluster: &["reason", "ts"],
};

/// Numbers of switches, NICs, hosts and programs.
pub static METRIC: Table = Table {
    name: "metric",
    text: "Numbers that switches, NICs, hosts and programs tell: gNMI, sFlow counters, SONiC's high-frequency telemetry, \
           Prometheus scrapes, OTLP, and the hosts' sensors. What the diagnosis weighs of them is in counter as well.",
    columns: &[
        must("ts", Time, "when it was measured; beginning of the window where there is one"),
        may("window_us", Int, "length of the window a difference is of"),
        must("source", Text, "who told: gnmi, sflow, hft, scrape, otlp, syslog, or a sensor such as nic"),
        may("producer", Int, "host, where a sensor told"),
        must("device", Text, "switch, host or service, as it calls itself"),
        must("entity_kind", Text, "interface, queue, optic, host, process, cpu, numa, cgroup, rdma, other"),
        must("entity", Text, "such as Ethernet8 or Ethernet8/queue3"),
        must("name", Text, "what was measured, such as in_errors or rx_power_dbm"),
        must("value", Float, "the number"),
        must("form", Text, "gauge; counter: since its start; delta: of the window"),
        may("component", Text, "the fabric's own name for the place"),
        may("labels", Text, "what else was said with it, JSON"),
    ],
    keep_days: Some(14),
    cluster: &["name", "entity", "ts"],
};

/// Links that went up or down.
pub static LINK_EVENT: Table = Table {
    name: "link_event",
    text: "An interface that went up or down, as its device told.",
    columns: &[
        must("ts", Time, "when, by the device's clock"),
        must("source", Text, "syslog, gnmi, scrape or otlp"),
        must("device", Text, "device, as it calls itself"),
        must("interface", Text, "interface"),
        must("state", Text, "up or down"),
        may("component", Text, "the fabric's own name for the link"),
        must("text", Text, "what was said"),
    ],
    keep_days: Some(90),
    cluster: &["device", "interface", "ts"],
};

/// Lines of logs.
pub static LOG_LINE: Table = Table {
    name: "log_line",
    text: "What devices and programs logged: syslog of warnings and worse, OTLP logs.",
    columns: &[
        must("ts", Time, "when"),
        must("source", Text, "syslog or otlp; gnmi: a neighbour that is not the one the fabric has"),
        must("device", Text, "device or service"),
        must("severity", Text, "emergency, alert, critical, error, warning, notice, info, debug"),
        must("text", Text, "the line"),
        may("trace_id", Text, "trace it belongs to, hexadecimal"),
        may("span_id", Text, "span it belongs to, hexadecimal"),
        may("attributes", Text, "what else was said, JSON"),
    ],
    keep_days: Some(14),
    cluster: &["device", "ts"],
};

/// Spans of traces.
pub static SPAN: Table = Table {
    name: "span",
    text: "Spans of traces that programs told by OTLP: a step of a job, a request, a collective.",
    columns: &[
        must("ts", Time, "when it began"),
        must("duration_us", Long, "how long it took, microseconds"),
        must("service", Text, "program that told"),
        must("name", Text, "what it was"),
        must("kind", Text, "internal, server, client, producer, consumer"),
        must("trace_id", Text, "its trace, hexadecimal"),
        must("span_id", Text, "itself, hexadecimal"),
        may("parent_id", Text, "the span it is part of"),
        must("status", Text, "ok, error or unset"),
        may("attributes", Text, "what else was said, JSON"),
    ],
    keep_days: Some(7),
    cluster: &["service", "ts"],
};

/// What receivers know of those who tell.
pub static RECEIVER_STATE: Table = Table {
    name: "receiver_state",
    text: "What a receiver must know after a start: templates, sampling rates and numbers of exporters. The newest row of a \
           receiver counts.",
    columns: &[
        must("ts", Time, "when it changed"),
        must("receiver", Text, "such as flows"),
        must("state", Bytes, "what only the receiver reads"),
    ],
    // The newest one is needed however old it is, and one is small.
    keep_days: None,
    cluster: &["receiver", "ts"],
};

/// TCP connections, interval by interval.
pub static TCP_INTERVAL: Table = Table {
    name: "tcp_interval",
    text: "A TCP connection of a host in one interval, as its kernel counts; or the connections with one peer that ended in it, \
           together (`connections` above 0). Addresses are pseudonyms that keep prefixes, except those of the fabric itself; \
           `address` shows them as text.",
    columns: &[
        must("ts", Time, "beginning of the interval"),
        must("window_us", Int, "its length, microseconds"),
        must("producer", Int, "host"),
        may("local", Bytes, "its address, 16 bytes; IPv4 as ::ffff:a.b.c.d"),
        may("remote", Bytes, "the peer's address"),
        must("local_port", Int, "its port; 0 for connections that ended"),
        must("remote_port", Int, "the peer's port; of those that ended the smaller of both"),
        must("connections", Int, "0: an open connection; else so many that ended, together"),
        must("failed", Int, "of those, that never were established"),
        must("pid", Int, "process that has it, 0 where not known"),
        must("process", Text, "its name"),
        must("container", Text, "its container, the first 12 digits of its id"),
        must("cgroup", Long, "its control group's number"),
        must("state", Text, "established, syn_sent and so on"),
        must("congestion", Text, "open, disorder, cwr, recovery or loss"),
        must("rtt_min_us", Int, "smallest round trip sampled, microseconds; 0: none was"),
        must("rtt_p50_us", Int, "median"),
        must("rtt_max_us", Int, "largest"),
        must("rtt_samples", Int, "how many were sampled, one acknowledgement in sixteen"),
        must("srtt_us", Int, "the kernel's smoothed round trip at the end of the interval"),
        must("retrans", Long, "segments sent again, whatever the cause"),
        must("retrans_fast", Long, "of those, told by duplicate acknowledgements, SACK or RACK"),
        must("retrans_timeout", Long, "of those, after the timer ran out"),
        must("retrans_probe", Long, "of those, tail loss probes"),
        must("retrans_spurious", Long, "sent again though the receiver had them"),
        must("out_of_order", Long, "segments that came after a later one"),
        must("peer_window_closed", Tiny, "1: the peer takes nothing at the end of the interval"),
        must("own_window_closed", Tiny, "1: this side takes nothing"),
        must("bytes_acked", Long, "bytes sent and acknowledged"),
        must("bytes_received", Long, "bytes received"),
        must("segs_out", Long, "segments sent"),
        must("segs_in", Long, "segments received"),
        must("delivered", Long, "segments the peer has"),
        must("delivered_ce", Long, "of those, marked with ECN CE"),
        must("delivery_rate", Long, "bytes a second, at the kernel's last measurement"),
        must("pacing_rate", Long, "bytes a second it may send at"),
        must("cwnd", Int, "congestion window, segments"),
        must("unacked", Int, "bytes on their way"),
        must("unsent", Int, "bytes written and not sent"),
        must("unread", Int, "bytes received and not read: a slow reader"),
        must("busy_us", Long, "microseconds with something to send"),
        must("rwnd_limited_us", Long, "of those, held up by the peer's window"),
        must("sndbuf_limited_us", Long, "of those, held up by the own send buffer"),
    ],
    keep_days: Some(7),
    cluster: &["producer", "remote", "ts"],
};

/// How the sensors are.
pub static SENSOR: Table = Table {
    name: "sensor",
    text: "How each sensor of each host was in each interval: what it cost, what it could not count, and why it does not run.",
    columns: &[
        must("ts", Time, "beginning of the interval"),
        must("window_us", Int, "its length, microseconds"),
        must("producer", Int, "host"),
        must("sensor", Text, "tcp, drops and so on"),
        must(
            "state",
            Text,
            "runs; shed: it cost more than it may and took itself out; missing: the kernel does not have it",
        ),
        must(
            "cost_us",
            Long,
            "processor time a second, microseconds, in the kernel and reading together, when last measured",
        ),
        must("lost", Long, "events that were not counted for want of room"),
        must("text", Text, "why it does not run, and what is not seen without it"),
    ],
    keep_days: Some(30),
    cluster: &["sensor", "producer", "ts"],
};

/// Every table.
pub static TABLES: &[&Table] = &[
    &PATH_OBSERVATION,
    &PATH_MINUTE,
    &COUNTER,
    &INCIDENT,
    &LINK_HEALTH,
    &ENTITY,
    &LINK,
    &CHANGE,
    &LOSS_LEDGER,
    &AUDIT,
    &ALERT,
    &FLOW,
    &EXPORTER,
    &DROP_EVENT,
    &METRIC,
    &LINK_EVENT,
    &LOG_LINE,
    &SPAN,
    &RECEIVER_STATE,
    &TCP_INTERVAL,
    &SENSOR,
];

static SCHEMAS: LazyLock<Vec<(SchemaRef, SchemaRef)>> = LazyLock::new(|| {
    let of = |t: &Table| {
        let mut fields: Vec<Field> =
            t.columns.iter().map(|c| Field::new(c.name, c.kind.arrow(), c.nullable)).collect();
        let rows = Arc::new(Schema::new(fields.clone()));
        fields.push(Field::new(DAY, DataType::Date32, true));
        (rows, Arc::new(Schema::new(fields)))
    };
    TABLES.iter().map(|t| of(t)).collect()
});

impl Table {
    /// Whether its rows come by the hundred thousand a second. Merging costs a row ten times what writing it did, so files
    /// of such a table are merged in their day only where they are very small, and the rest once, when the day is over.
    pub fn is_bulk(&self) -> bool {
        self.name == FLOW.name
    }
    /// The table of that name.
    pub fn by_name(name: &str) -> Option<&'static Table> {
        TABLES.iter().find(|t| t.name == name).copied()
    }

    pub(crate) fn index(&self) -> usize {
        // Every table there is stands in the list.
        TABLES.iter().position(|t| t.name == self.name).unwrap_or(0)
    }

    /// What a writer hands over: the columns, without `day`.
    pub fn row_schema(&self) -> SchemaRef {
        SCHEMAS.get(self.index()).map_or_else(|| Arc::new(Schema::empty()), |s| Arc::clone(&s.0))
    }

    /// What is stored: the columns and `day`.
    pub fn schema(&self) -> SchemaRef {
        SCHEMAS.get(self.index()).map_or_else(|| Arc::new(Schema::empty()), |s| Arc::clone(&s.1))
    }

    /// Whether only an administrator may ask about it, and that is written down.
    pub fn is_sensitive(&self) -> bool {
        self.name == AUDIT.name
    }

    /// Columns that came after a version.
    pub fn since(&self, version: u32) -> impl Iterator<Item = &'static Column> {
        self.columns.iter().filter(move |c| c.since > version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keep_their_promises() {
        for t in TABLES {
            assert_eq!(t.columns[0].name, "ts", "{}: the day is made of ts", t.name);
            assert!(std::ptr::eq(Table::by_name(t.name).unwrap(), *t));
            assert_eq!(t.schema().fields().len(), t.columns.len() + 1);
            assert!(!t.cluster.is_empty(), "{}: merged files are sorted", t.name);
            for c in t.cluster {
                assert!(
                    t.columns.iter().any(|x| x.name == *c),
                    "{}: sorted by {c}, which it has not",
                    t.name
                );
            }
            let mut newest = 1;
            for c in t.columns {
                assert!(
                    c.since >= newest && c.since <= VERSION,
                    "{}.{}: added in the middle",
                    t.name,
                    c.name
                );
                assert!(c.since == 1 || c.nullable, "{}.{}: older files do not have it", t.name, c.name);
                newest = c.since;
                assert!(!c.text.is_empty() && t.columns.iter().filter(|x| x.name == c.name).nth(1).is_none());
            }
        }
    }

    /// The reference page, as people read it.
    fn page() -> String {
        let mut out = String::from(
            "# Tables\n\nEverything the hub remembers. The tables are [Delta Lake](https://delta.io) tables of Parquet \
             files under `tables/` in the hub's `--data` directory, so Spark, DuckDB, Polars, Daft, ClickHouse and \
             pandas read them without the hub; what reached the hub in the last seconds is in its log and memory, and \
             only the hub's own SQL sees it: `selvedge query`, the page *Ask*, [worked questions](questions.md). This \
             page is made from the code (`SELVEDGE_GEN=1 cargo nextest run -p selvedge-tables reference`).\n\n\
             Each table has a column `day`, the UTC day of `ts`, by which its files are partitioned. Numbers are \
             signed, times are microseconds in UTC: that is what Delta Lake knows. Ids of 64 bits keep their bits and \
             may read as negative. Rows are only added; a table is widened by adding columns at the end.\n",
        );
        out.push_str(&crate::upkeep::page());
        for t in TABLES {
            out.push_str(&format!(
                "\n## {}\n\n{}\n\n{} Merged files are sorted by `{}`.\n\n| column | type | meaning |\n|---|---|---|\n",
                t.name,
                t.text,
                match t.keep_days {
                    Some(days) => format!("Kept for {days} days."),
                    None => "Kept for ever.".to_owned(),
                },
                t.cluster.join("`, `")
            ));
            for c in t.columns {
                let kind = match c.kind {
                    Kind::Text => "text",
                    Kind::Tiny => "tinyint",
                    Kind::Int => "int",
                    Kind::Long => "bigint",
                    Kind::Float => "double",
                    Kind::Time => "timestamp",
                    Kind::Bytes => "binary",
                };
                let null = if c.nullable { ", may be null" } else { "" };
                out.push_str(&format!("| `{}` | {kind}{null} | {} |\n", c.name, c.text));
            }
        }
        out.push_str(
            "\n## Functions\n\nBesides SQL's own.\n\n| function | gives | example |\n|---|---|---|\n",
        );
        for f in crate::functions::LIST {
            out.push_str(&format!("| `{}` | {} | `{}` |\n", f.signature, f.text, f.example));
        }
        out
    }

    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tables.md");
        if std::env::var_os("SELVEDGE_GEN").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == page(),
            "docs/tables.md is old: SELVEDGE_GEN=1 cargo nextest run -p selvedge-tables reference"
        );
    }
}
