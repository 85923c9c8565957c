//! IOAM traces that a network put into packets (RFC 9197), as rows: one a node, with the time from the node before it.
//!
//! How: `wire::ioam` reads the bytes; here its nodes get names of the fabric and times get their meaning.
//! Invariants: a delay is said only between two nodes that both wrote a time; it may be negative where their clocks are
//! apart, and is said as it is. Absent on purpose: taking packets off an interface, which is the agent's.

use fabric::{Device, Fabric};
use wire::ioam::{NodeData, Trace};
use wire::{Component, HostId, Nanos, SwitchId};

/// One node of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathHop {
    /// When the packet with the trace was heard.
    pub at: Nanos,
    /// IOAM namespace.
    pub namespace: u16,
    /// Its place on the way, from 0.
    pub hop: u8,
    /// The node's id, as told.
    pub node: u64,
    /// Interface it came in by, as told; all ones where it was not.
    pub ingress: u32,
    /// Interface it went out by, as told; all ones where it was not.
    pub egress: u32,
    /// The node's time stamp, nanoseconds of its own clock, where it wrote one.
    pub time_ns: Option<u64>,
    /// Nanoseconds since the node before it, by their two clocks.
    pub since_before_ns: Option<i64>,
    /// Nanoseconds in the node itself (transit delay), where it wrote them.
    pub transit_ns: Option<u32>,
    /// Bytes or packets in its queue, in its own unit, where it wrote it.
    pub queue_depth: Option<u32>,
    /// Share of its buffer in use, in its own unit, where it wrote it.
    pub buffer: Option<u32>,
    /// The node in the fabric.
    pub component: Option<Component>,
}

/// How a node's fraction of a second counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fraction {
    /// Microseconds: what Linux writes (RFC 9197, section 5.3).
    #[default]
    Micros,
    /// Nanoseconds: truncated PTP (RFC 9197, section 5.1).
    Nanos,
    /// 2^-32 seconds: NTP (RFC 9197, section 5.2).
    Ntp,
}

/// What a node wrote as a time, nanoseconds.
fn time_ns(node: &NodeData, fraction: Fraction) -> Option<u64> {
    let part = u64::from(node.fraction);
    let ns = match fraction {
        Fraction::Micros => part * 1_000,
        Fraction::Nanos => part,
        Fraction::Ntp => (part * 1_000_000_000) >> 32,
    };
    (node.seconds > 0).then(|| u64::from(node.seconds) * 1_000_000_000 + ns)
}

/// The component an IOAM node id stands for in a fabric whose nodes have the ids it renders.
fn component(fabric: &Fabric, node: u64) -> Option<Component> {
    let node = u32::try_from(node).ok()?;
    let host = HostId(node & 0x7f_ffff);
    if fabric.ioam_id(Device::Host(host)) == node {
        return (host.0 < fabric.shape.hosts).then_some(Component::Host(host));
    }
    let switch = SwitchId(node.checked_sub(1)?);
    let there = switch.0 < fabric.switches() && fabric.ioam_id(Device::Switch(switch)) == node;
    there.then_some(Component::Switch(switch))
}

/// The rows of a trace, in the order the nodes were crossed. At most 255: a trace has no room for more.
pub fn hops(fabric: &Fabric, at: Nanos, trace: &Trace<'_>, fraction: Fraction) -> Vec<PathHop> {
    let mut before: Option<u64> = None;
    let rows = trace.nodes().take(usize::from(u8::MAX)).enumerate().map(|(n, node)| {
        let time = time_ns(&node, fraction);
        let since = match (before, time) {
            (Some(b), Some(t)) => i64::try_from(i128::from(t) - i128::from(b)).ok(),
            _ => None,
        };
        before = time;
        PathHop {
            at,
            namespace: trace.namespace,
            hop: n as u8,
            node: node.wide_node.unwrap_or(u64::from(node.node)),
            ingress: node.wide_interfaces.map_or(widen(node.ingress), |(i, _)| i),
            egress: node.wide_interfaces.map_or(widen(node.egress), |(_, e)| e),
            time_ns: time,
            since_before_ns: since,
            transit_ns: node.transit_ns,
            queue_depth: node.queue_depth,
            buffer: node.buffer,
            component: component(fabric, node.wide_node.unwrap_or(u64::from(node.node))),
        }
    });
    rows.collect()
}

/// "Not told" stays all ones when 16 bits become 32.
fn widen(interface: u16) -> u32 {
    if interface == u16::MAX { u32::MAX } else { interface.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ioam::{PREALLOCATED_TRACE, field};

    #[test]
    fn a_trace_becomes_hops_with_the_time_between_them() {
        let text = "name='t'\nplanes=1\nleaves=2\nspines=1\nhosts=4\naccess={rate='1Gbit/s',latency='1us'}\n\
                    trunk={rate='1Gbit/s',latency='1us'}";
        let fabric = Fabric::parse(text).unwrap();
        let (leaf, spine) =
            (fabric.switch_by_name("p0-leaf0").unwrap(), fabric.switch_by_name("p0-spine0").unwrap());
        let fields = field::NODE | field::SECONDS | field::FRACTION | field::TRANSIT;
        let mut option = vec![0, PREALLOCATED_TRACE, 0, 123, 4 << 3, 0];
        option.extend_from_slice(&(fields << 8).to_be_bytes());
        // Last node first.
        let host = fabric.ioam_id(Device::Host(HostId(2)));
        for node in [
            [host, u32::MAX, u32::MAX, 40],
            [fabric.ioam_id(Device::Switch(spine)), 100, 12, 900],
            [fabric.ioam_id(Device::Switch(leaf)), 99, 999_990, u32::MAX],
        ] {
            node.iter().for_each(|w| option.extend_from_slice(&w.to_be_bytes()));
        }
        let trace = Trace::of_option(&option, true).unwrap();
        let rows = hops(&fabric, Nanos(7), &trace, Fraction::Micros);
        let said: Vec<_> =
            rows.iter().map(|r| (r.hop, r.component, r.since_before_ns, r.transit_ns)).collect();
        assert_eq!(
            said,
            [
                (0, Some(Component::Switch(leaf)), None, None),
                (1, Some(Component::Switch(spine)), Some(22_000), Some(900)),
                (2, Some(Component::Host(HostId(2))), None, Some(40)),
            ]
        );
        assert_eq!((rows[0].ingress, rows[0].at), (u32::MAX, Nanos(7)));
        assert_eq!(component(&fabric, 0), None);
        assert_eq!(component(&fabric, 0x80_0004), None);
        assert_eq!(component(&fabric, u64::MAX), None);
    }

    #[test]
    fn fractions_count_as_the_node_counts() {
        let node = NodeData { seconds: 1, fraction: 1 << 31, ..NodeData::default() };
        assert_eq!(time_ns(&node, Fraction::Ntp), Some(1_500_000_000));
        let node = NodeData { seconds: 1, fraction: 5, ..NodeData::default() };
        assert_eq!(time_ns(&node, Fraction::Nanos), Some(1_000_000_005));
        assert_eq!(time_ns(&node, Fraction::Micros), Some(1_000_005_000));
    }
}
