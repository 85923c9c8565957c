//! What one interface and its RDMA ports said, as metrics and findings.
//!
//! How: several sources count the same event: the standard groups, the driver's own counters, the kernel's. Each name
//! keeps the first source that has it, in that order. A finding is the largest of the names that count its event, never
//! their sum: a damaged frame is an FCS error, maybe a symbol error, and maybe a lost FEC block, once.
//!
//! Invariants: no finding without two readings of a counter; pause and PFC frames are never added to each other.
//! Absent on purpose: reading anything (see the parent).

use super::names::{Source, ours};
use super::optics::Optics;
use crate::sensors::Meaning;
use crate::sensors::measure::{Before, Entity, Place, Reading, Unit};
use kernel::drivers::Driver;
use kernel::ethtool::{Channels, Fec, Group, Groups, Modes, Pause, Rings, State};
use kernel::interface::{COUNTERS, Interface};
use std::collections::BTreeMap;
use wire::{Counter, Nanos};

/// The numbers a verdict rests on. The others are named by [`super::names::TABLE`], [`kernel::ethtool::Group::name`] and
/// [`kernel::interface::COUNTERS`].
pub const METRICS: &[Meaning] = &[
    Meaning { name: "carrier_lost", unit: "count", text: "times the carrier went" },
    Meaning { name: "speed", unit: "mbit/s", text: "as negotiated; none while there is no link" },
    Meaning { name: "fec_<kind>", unit: "count", text: "1 for the forward error correction in use" },
    Meaning { name: "fec_corrected_blocks", unit: "blocks", text: "damaged and mended" },
    Meaning { name: "fec_uncorrectable_blocks", unit: "blocks", text: "damaged and lost" },
    Meaning { name: "fcs_errors", unit: "packets", text: "frames received with a wrong checksum" },
    Meaning { name: "symbol_errors", unit: "count", text: "symbols received that are none" },
    Meaning { name: "pause_received", unit: "packets", text: "pause frames (IEEE 802.3 annex 31B)" },
    Meaning { name: "pause_sent", unit: "packets", text: "pause frames" },
    Meaning { name: "pfc_<priority>_received", unit: "packets", text: "PFC frames (IEEE 802.1Qbb)" },
    Meaning { name: "pfc_<priority>_sent", unit: "packets", text: "PFC frames" },
    Meaning { name: "pfc_<priority>_paused", unit: "ns", text: "time the priority was not allowed to send" },
    Meaning {
        name: "host_no_room",
        unit: "packets",
        text: "thrown away by the NIC for want of the host's buffers",
    },
    Meaning { name: "port_no_room", unit: "packets", text: "thrown away in the port's own buffer" },
    Meaning { name: "send_no_room", unit: "packets", text: "thrown away before they were sent" },
    Meaning { name: "lane_<lane>_light_received", unit: "0.1µW", text: "by the module" },
    Meaning { name: "lane_<lane>_light_sent", unit: "0.1µW", text: "by the module" },
    Meaning { name: "lane_<lane>_laser", unit: "µA", text: "current of the laser" },
    Meaning { name: "module_temperature", unit: "m°C", text: "thousandths of a degree" },
    Meaning { name: "cnp_sent", unit: "packets", text: "congestion notifications sent (RoCEv2)" },
    Meaning { name: "cnp_handled", unit: "packets", text: "congestion notifications obeyed" },
    Meaning { name: "rdma_ecn_marked", unit: "packets", text: "RoCE packets received with ECN CE" },
    Meaning { name: "rdma_out_of_sequence", unit: "packets", text: "received out of order" },
    Meaning {
        name: "rdma_timeouts",
        unit: "count",
        text: "packets whose acknowledgement did not come in time",
    },
];

/// Everything one interface said at one moment; what did not answer is `None` or empty.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the kernel says of it.
    pub interface: Interface,
    /// Its driver.
    pub driver: Driver,
    /// Speed and duplex.
    pub modes: Option<Modes>,
    /// Link.
    pub state: Option<State>,
    /// Flow control.
    pub pause: Option<Pause>,
    /// Error correction.
    pub fec: Option<Fec>,
    /// Rings.
    pub rings: Option<Rings>,
    /// Queues.
    pub channels: Option<Channels>,
    /// Standard counters.
    pub groups: Option<Groups>,
    /// The driver's own counters.
    pub own: Vec<(String, u64)>,
    /// The module's measures.
    pub optics: Option<Optics>,
    /// The counters of its RDMA ports.
    pub rdma: Vec<Port>,
}

/// A port of an RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Device and port, as `mlx5_0/1`.
    pub name: String,
    /// The interface it shares, where it has one.
    pub interface: String,
    /// The driver of its device.
    pub driver: String,
    /// Whether the port is active.
    pub active: Option<bool>,
    /// Speed, Mbit/s.
    pub speed_mbit: Option<u32>,
    /// Its counters, by the driver's names.
    pub counters: Vec<(String, u64)>,
}

/// By how much the counters of one thing grew, by our names.
#[derive(Debug, Default)]
struct Grown(BTreeMap<String, u64>);

impl Grown {
    /// The largest of these, where one is known.
    fn largest(&self, names: &[&str]) -> Option<u64> {
        names.iter().filter_map(|n| self.0.get(*n).copied()).max()
    }
    /// The counters `pfc_<priority>_<what>`.
    fn priorities<'a>(&'a self, what: &'a str) -> impl Iterator<Item = u64> + 'a {
        let of = move |name: &str| {
            let (priority, rest) = name.strip_prefix("pfc_")?.split_once('_')?;
            (rest == what && priority.len() == 1).then_some(())
        };
        self.0.iter().filter(move |(name, _)| of(name).is_some()).map(|(_, n)| *n)
    }
    /// The priorities' sum or the plain pause frames, whichever is more.
    fn pauses(&self, what: &str) -> Option<u64> {
        let plain = self.0.get(&format!("pause_{what}")).copied();
        let priorities =
            self.priorities(what).fold(None, |sum: Option<u64>, n| Some(sum.unwrap_or(0).saturating_add(n)));
        plain.max(priorities)
    }
}

/// What is known of one name: unit, value, and whether it is a state.
type Named = BTreeMap<String, (Unit, u64, bool)>;

/// Turns what an interface said into metrics and findings. `window` is the time since the reading before.
pub fn tell(facts: &Facts, before: &mut Before, window: Nanos, reading: &mut Reading) {
    let entity = ("interface", facts.interface.name.as_str());
    states(facts, reading);
    let mut named = Named::new();
    standard(facts, &mut named);
    own(&facts.driver.name, Source::Own, &facts.own, &mut named);
    for (counter, value) in COUNTERS.iter().zip(&facts.interface.counters) {
        named.entry((*counter).to_owned()).or_insert((unit_of(counter), *value, false));
    }
    let mut grown = Grown(write(entity, named, before, reading));
    for port in &facts.rdma {
        for (counter, delta) in tell_port(port, before, reading) {
            // the port's name goes beside the interface's, so that the largest of both is found
            let most = grown.0.entry(counter).or_default();
            *most = (*most).max(delta);
        }
    }
    find(facts, &grown, window, reading);
}

/// Turns the counters of an RDMA port into metrics. By how much each grew, by our names.
pub fn tell_port(port: &Port, before: &mut Before, reading: &mut Reading) -> BTreeMap<String, u64> {
    let entity = ("rdma", port.name.as_str());
    if let Some(active) = port.active {
        reading.gauge(entity, "active", Unit::Count, i64::from(active));
    }
    if let Some(speed) = port.speed_mbit {
        reading.gauge(entity, "speed", Unit::MegabitsPerSecond, i64::from(speed));
    }
    let mut named = Named::new();
    own(&port.driver, Source::Rdma, &port.counters, &mut named);
    write(entity, named, before, reading)
}

fn write(
    entity: Entity<'_>,
    named: Named,
    before: &mut Before,
    reading: &mut Reading,
) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, (unit, value, gauge)) in named {
        if gauge {
            reading.gauge(entity, name, unit, i64::try_from(value).unwrap_or(i64::MAX));
        } else if let Some(delta) = reading.counter(before, entity, name.clone(), unit, value) {
            all.insert(name, delta);
        }
    }
    all
}

/// A vendor's counters under our names; several with one name are added.
fn own(driver: &str, source: Source, counters: &[(String, u64)], into: &mut Named) {
    let mut ones: Named = Named::new();
    for (theirs, value) in counters {
        let Some((row, name)) = ours(driver, source, theirs) else { continue };
        let value = value.saturating_mul(row.scale);
        let entry = ones.entry(name).or_insert((row.unit, 0, row.gauge));
        entry.1 = entry.1.saturating_add(value);
    }
    for (name, value) in ones {
        into.entry(name).or_insert(value);
    }
}

fn unit_of(counter: &str) -> Unit {
    if counter.starts_with("bytes") { Unit::Bytes } else { Unit::Packets }
}

/// The counters that mean the same with every driver.
fn standard(facts: &Facts, into: &mut Named) {
    let mut add = |name: &str, unit, value: Option<u64>| {
        if let Some(value) = value {
            into.insert(name.to_owned(), (unit, value, false));
        }
    };
    if let Some(pause) = &facts.pause {
        add("pause_sent", Unit::Packets, pause.frames_sent);
        add("pause_received", Unit::Packets, pause.frames_received);
    }
    if let Some(fec) = &facts.fec {
        add("fec_corrected_blocks", Unit::Blocks, fec.corrected_blocks);
        add("fec_uncorrectable_blocks", Unit::Blocks, fec.uncorrectable_blocks);
        add("fec_corrected_bits", Unit::Bits, fec.corrected_bits);
        for (lane, blocks) in fec.corrected_by_lane.iter().enumerate() {
            add(&format!("lane_{lane}_fec_corrected_blocks"), Unit::Blocks, Some(*blocks));
        }
    }
    if let Some(groups) = &facts.groups {
        for (group, counter, value) in &groups.counters {
            if let Some(name) = group.name(*counter) {
                let unit = if *group == Group::Phy { Unit::Count } else { unit_of(name) };
                add(name, unit, Some(*value));
            }
        }
    }
    let carrier = &facts.interface;
    add("carrier_lost", Unit::Count, carrier.carrier_down.map(u64::from));
    add("carrier_found", Unit::Count, carrier.carrier_up.map(u64::from));
}

/// What is a state and no count.
fn states(facts: &Facts, reading: &mut Reading) {
    let it = &facts.interface;
    let mut gauge = |name: &str, unit, value: Option<i64>| {
        if let Some(value) = value {
            reading.gauge(("interface", &it.name), name, unit, value);
        }
    };
    let count = Unit::Count;
    let flag = |b: Option<bool>| b.map(i64::from);
    let wide = |n: Option<u32>| n.map(i64::from);
    gauge("up", count, Some(i64::from(it.up)));
    gauge("carrier", count, flag(it.carrier));
    gauge("oper_state", count, Some(i64::from(it.state)));
    gauge("mtu", Unit::Bytes, Some(i64::from(it.mtu)));
    gauge("queue_length", Unit::Packets, Some(i64::from(it.queue_packets)));
    gauge("send_queues", count, Some(i64::from(it.send_queues)));
    gauge("receive_queues", count, Some(i64::from(it.receive_queues)));
    if let Some(modes) = &facts.modes {
        gauge("speed", Unit::MegabitsPerSecond, wide(modes.speed_mbit));
        gauge("full_duplex", count, flag(modes.full_duplex));
        gauge("lanes", count, wide(modes.lanes));
        gauge("negotiates", count, flag(modes.negotiates));
    }
    if let Some(state) = &facts.state {
        gauge("link", count, flag(state.link));
        gauge("no_link_because", count, state.reason.map(i64::from));
        gauge("signal_quality", count, wide(state.quality));
    }
    if let Some(pause) = &facts.pause {
        gauge("obeys_pause", count, flag(pause.obeys));
        gauge("sends_pause", count, flag(pause.sends));
    }
    if let Some(fec) = &facts.fec {
        // told by name, which a number cannot: one metric that says 1 for the kind in use
        if let Some(mode) = fec.mode() {
            gauge(&format!("fec_{mode}"), count, Some(1));
        }
    }
    if let Some(rings) = &facts.rings {
        gauge("receive_ring", count, wide(rings.receive));
        gauge("receive_ring_max", count, wide(rings.receive_max));
        gauge("send_ring", count, wide(rings.send));
        gauge("send_ring_max", count, wide(rings.send_max));
    }
    if let Some(channels) = &facts.channels {
        gauge("channels_both", count, wide(channels.both));
        gauge("channels_both_max", count, wide(channels.both_max));
        gauge("channels_receive", count, wide(channels.receive));
        gauge("channels_send", count, wide(channels.send));
    }
    if let Some(optics) = &facts.optics {
        gauge("module_temperature", Unit::MilliCelsius, Some(i64::from(optics.temperature_mc)));
        gauge("module_supply", Unit::Microvolts, Some(i64::from(optics.supply_uv)));
        for (n, lane) in optics.lanes.iter().enumerate() {
            gauge(
                &format!("lane_{n}_light_received"),
                Unit::DeciMicrowatts,
                Some(i64::from(lane.received_dmw)),
            );
            gauge(&format!("lane_{n}_light_sent"), Unit::DeciMicrowatts, Some(i64::from(lane.sent_dmw)));
            gauge(&format!("lane_{n}_laser"), Unit::Microamperes, Some(i64::from(lane.bias_ua)));
            gauge(&format!("lane_{n}_signal_lost"), count, flag(lane.lost));
        }
    }
}

/// The findings of an interface.
fn find(facts: &Facts, grown: &Grown, window: Nanos, reading: &mut Reading) {
    let place = Place::Interface(facts.interface.index);
    let received =
        grown.largest(&["frames_received", "packets_received", "port_packets_received"]).unwrap_or(0);
    let sent = grown.largest(&["frames_sent", "packets_sent", "port_packets_sent"]).unwrap_or(0);
    let mut found = |counter, delta: Option<u64>, of: u64| {
        if let Some(delta) = delta {
            reading.finding(place, counter, delta, of);
        }
    };
    // what was damaged or dropped is not among what was received
    let out_of = |delta: Option<u64>, good: u64| good.saturating_add(delta.unwrap_or(0));
    let damaged = grown.largest(&[
        "fcs_errors",
        "symbol_errors",
        "fec_uncorrectable_blocks",
        "receive_crc_errors",
        "port_receive_errors",
    ]);
    found(Counter::FrameError, damaged, out_of(damaged, received));
    found(Counter::FrameCorrected, grown.largest(&["fec_corrected_blocks"]), 0);
    let overrun = grown.largest(&[
        "host_no_room",
        "host_no_room_rings",
        "port_no_room",
        "receive_missed",
        "receive_fifo_errors",
        "receive_over_errors",
    ]);
    found(Counter::NicOverrun, overrun, out_of(overrun, received));
    let dropped = grown.largest(&["send_no_room", "send_drops", "send_fifo_errors"]);
    found(Counter::QueueDrop, dropped, out_of(dropped, sent));
    found(Counter::PauseReceived, grown.pauses("received"), 0);
    found(Counter::PauseSent, grown.pauses("sent"), 0);
    let paused = grown.priorities("paused").chain(grown.largest(&["paused"])).max();
    found(Counter::PausedTime, paused.map(|ns| ns.min(window.0)), window.0);
    // an interface that was taken down on purpose loses its carrier too
    let lost = grown.largest(&["carrier_lost", "link_down"]);
    found(Counter::CarrierLost, lost.filter(|_| facts.interface.up), 0);
}
