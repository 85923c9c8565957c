//! What sender and reflector say to each other, as STAMP bytes and back.
//!
//! How: a [`Codec`] holds what both ends agree on (key, clock, fabric) and turns [`Probe`] and [`Answer`] into bytes, and
//! bytes that arrived into [`Request`] and [`Reply`]. An answer is the probe's own TLVs with the reflector's words filled
//! in, so it is exactly as long as the probe (RFC 8972, section 4) and can never amplify.
//!
//! Invariants: any bytes give a value or a [`Dropped`]; with a key nothing unauthenticated is believed.
//! Absent on purpose: IP and UDP headers (see `wire::ipv6`), and who may ask what (see [`crate::Reflector`]).

use crate::counters::Dropped;
use crate::reflector::{Answer, Asker, Back, Request};
use crate::sender::{Probe, Reply};
use crate::trace::{Hop, path_of_hops};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use fabric::{Fabric, Mode};
use wire::ioam::{NAMESPACE, Trace};
use wire::stamp::tlv::{self, Value, kind};
use wire::stamp::{
    AUTHENTICATED_LEN, ErrorEstimate, Format, ReflectorPacket, ReflectorRepr, SenderPacket, SenderRepr,
    UNAUTHENTICATED_LEN,
};
use wire::{Nanos, NicId, PathId};

/// Bytes of the smallest probe: base packet, class of service and the larger of return path and taken path.
pub const PROBE_BYTES_MIN: u16 = 80;

/// How a packet arrived, apart from its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// Source address.
    pub from: Ipv6Addr,
    /// Source port.
    pub port: u16,
    /// Destination address: one of ours.
    pub to: Ipv6Addr,
    /// When the kernel received it.
    pub at: Nanos,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// 20 bits; 0 where not known.
    pub flow_label: u32,
    /// Hop limit it arrived with; 255 where not known.
    pub hop_limit: u8,
    /// The hop-by-hop header, where there was one.
    pub hop_by_hop: &'a [u8],
}

/// Writes and reads STAMP packets.
#[derive(Clone, Debug)]
pub struct Codec {
    fabric: Arc<Fabric>,
    key: Option<Vec<u8>>,
    error_estimate: ErrorEstimate,
}

impl Codec {
    /// A codec. With a key packets are authenticated (RFC 8762, section 4.4) and TLVs too (RFC 8972, section 4.8).
    pub fn new(fabric: Arc<Fabric>, key: Option<Vec<u8>>, synchronized: bool) -> Self {
        let error_estimate = ErrorEstimate { synchronized, format: Format::Ntp, ..Default::default() };
        Codec { fabric, key, error_estimate }
    }

    /// Appends a probe. It has the size asked for, or more where that cannot hold what it must.
    pub fn write_probe(&self, probe: &Probe, out: &mut Vec<u8>) {
        let key = self.key.as_deref();
        let start = out.len();
        let repr = SenderRepr {
            sequence: probe.sequence,
            timestamp: probe.t1,
            error_estimate: self.error_estimate,
            ssid: probe.ssid,
        };
        repr.write(key, out);
        let first = out.len();
        let cos = tlv::ClassOfService { dscp_back: probe.class, ..Default::default() };
        tlv::push(out, kind::CLASS_OF_SERVICE, &cos.write());
        match probe.back.and_then(|back| self.fabric.path_container(back)) {
            Some(container) => tlv::push_return_segment(out, container),
            None => tlv::push(out, kind::TAKEN_PATH, &tlv::TakenPath::default().write()),
        }
        if let Some(key) = key {
            tlv::push_hmac(out, first, probe.sequence.to_be_bytes(), key);
        }
        tlv::push_padding(out, (start + usize::from(probe.size)).saturating_sub(out.len()));
    }

    /// Reads a probe that arrived.
    pub fn read_request(&self, bytes: &[u8], arrival: &Arrival<'_>) -> Result<Request, Dropped> {
        let packet = SenderPacket::new_checked(bytes, self.key.as_deref()).map_err(reason)?;
        self.check_tlvs(packet.tlv_bytes(), packet.sequence_bytes())?;
        let mut request = Request {
            asker: Asker { addr: arrival.from, port: arrival.port, ssid: packet.ssid() },
            to: arrival.to,
            meant_for: None,
            sequence: packet.sequence(),
            t1: packet.timestamp(),
            t2: arrival.at,
            traffic_class: arrival.traffic_class,
            flow_label: arrival.flow_label,
            back_class: None,
            back: Back::Default,
            path: None,
            follow_up: false,
        };
        // a broken TLV is answered with its flag set, and otherwise as if it were not there (RFC 8972, section 4)
        for value in packet.tlvs().flatten().flat_map(|t| t.value()) {
            match value {
                Value::ClassOfService(c) => request.back_class = Some(c.dscp_back),
                Value::DestinationNodeAddress(addr) => request.meant_for = Some(addr),
                Value::ReturnPath(r) => request.back = way_back(&r),
                Value::FollowUpTelemetry(_) => request.follow_up = true,
                _ => {}
            }
        }
        if !arrival.hop_by_hop.is_empty() {
            let from = self.fabric.nic_by_addr(arrival.from);
            let to = self.fabric.nic_by_addr(arrival.to);
            request.path = from.zip(to).and_then(|(from, to)| self.traced(arrival.hop_by_hop, from, to));
        }
        Ok(request)
    }

    /// Appends the answer to a probe, whose bytes these are. `t3` is now, `hop_limit` what the probe arrived with.
    pub fn write_answer(&self, probe: &[u8], answer: &Answer, t3: Nanos, hop_limit: u8, out: &mut Vec<u8>) {
        let key = self.key.as_deref();
        let base = if key.is_some() { AUTHENTICATED_LEN } else { UNAUTHENTICATED_LEN };
        let sender_error_estimate =
            SenderPacket::new_checked(probe, None).map_or(ErrorEstimate::default(), |p| p.error_estimate());
        // in authenticated mode the field is elsewhere
        let sender_error_estimate = match key {
            Some(_) => {
                SenderPacket::new_checked(probe, key).map_or(sender_error_estimate, |p| p.error_estimate())
            }
            None => sender_error_estimate,
        };
        let repr = ReflectorRepr {
            sequence: answer.sequence,
            timestamp: t3,
            error_estimate: self.error_estimate,
            ssid: answer.asker.ssid,
            received: answer.t2,
            sender_sequence: answer.probe_sequence,
            sender_timestamp: answer.t1,
            sender_error_estimate,
            sender_ttl: hop_limit,
        };
        repr.write(key, out);
        let first = out.len();
        let tlvs = probe.get(base..).unwrap_or(&[]);
        out.extend_from_slice(tlvs);
        let Some(copy) = out.get_mut(first..) else { return };
        self.fill_tlvs(tlvs, answer, copy);
    }

    /// Writes the reflector's words into a copy of the probe's TLVs.
    fn fill_tlvs(&self, tlvs: &[u8], answer: &Answer, copy: &mut [u8]) {
        let mut end = 0;
        for tlv in tlv::Tlvs::new(tlvs) {
            let Ok(tlv) = tlv else {
                if let Some(flags) = copy.get_mut(end) {
                    *flags = tlv::MALFORMED;
                }
                return;
            };
            end = tlv.offset + tlv::HEADER_LEN + tlv.bytes.len();
            let mut flags = 0;
            let mut value = None;
            match tlv.value() {
                Err(_) => flags = tlv::MALFORMED,
                // what is understood but not done here is as good as not understood
                Ok(Value::Unknown | Value::Location { .. } | Value::AccessReport { .. }) => {
                    flags = tlv::UNRECOGNIZED;
                }
                Ok(Value::FollowUpTelemetry(_)) => {
                    // 2: taken in software on this machine; all zero while there is no answer to tell of
                    let f = answer.before.map_or_else(Default::default, |(sequence, at)| {
                        tlv::FollowUpTelemetry {
                            sequence,
                            timestamp_raw: self.error_estimate.format.write(at),
                            mode: 2,
                        }
                    });
                    value = Some(fixed(&f.write()));
                }
                Ok(Value::ClassOfService(c)) => {
                    let c = tlv::ClassOfService {
                        dscp_arrived: answer.probe_traffic_class >> 2,
                        ecn_arrived: answer.probe_traffic_class & 3,
                        reverse_refused: 0,
                        ..c
                    };
                    value = Some(fixed(&c.write()));
                }
                Ok(Value::TakenPath(_)) => {
                    let t = tlv::TakenPath {
                        known: u8::from(answer.probe_path.is_some()),
                        epoch: self.fabric.epoch.0 as u32,
                        path: answer.probe_path.map_or(0, |p| p.0),
                    };
                    value = Some(fixed(&t.write()));
                }
                Ok(Value::DirectMeasurement(d)) => {
                    let seen = answer.sequence.wrapping_add(1);
                    let d = tlv::DirectMeasurement { reflector_rx: seen, reflector_tx: seen, ..d };
                    value = Some(fixed(&d.write()));
                }
                Ok(Value::TimestampInformation(_)) => {
                    // 1: NTP, 5: a local clock; 2: taken in software on this machine
                    let source = if self.error_estimate.synchronized { 1 } else { 5 };
                    value = Some(fixed(&[source, 2, source, 2]));
                }
                Ok(Value::Hmac(_)) => match self.key.as_deref() {
                    Some(key) => {
                        let covered = copy.get(..tlv.offset).unwrap_or(&[]);
                        let digest = wire::stamp::hmac(key, &[&answer.sequence.to_be_bytes(), covered]);
                        value = Some(fixed(&digest));
                    }
                    None => flags = tlv::INTEGRITY,
                },
                Ok(_) => {}
            }
            if let Some(at) = copy.get_mut(tlv.offset) {
                *at = flags;
            }
            let body = tlv.offset + tlv::HEADER_LEN;
            if let Some(value) = value
                && let Some(to) = copy.get_mut(body..body + tlv.bytes.len())
                && let Some(from) = value.get(..to.len())
            {
                to.copy_from_slice(from);
            }
        }
    }

    /// Reads an answer that arrived.
    pub fn read_reply(&self, bytes: &[u8], arrival: &Arrival<'_>) -> Result<Reply, Dropped> {
        let packet = ReflectorPacket::new_checked(bytes, self.key.as_deref()).map_err(reason)?;
        self.check_tlvs(packet.tlv_bytes(), packet.sequence_bytes())?;
        let from = self.fabric.nic_by_addr(arrival.from).ok_or(Dropped::WrongPeer)?;
        let r = packet.repr();
        let mut reply = Reply {
            ssid: r.ssid,
            from,
            sequence: r.sender_sequence,
            reflector_sequence: r.sequence,
            t1: r.sender_timestamp,
            t2: r.received,
            t3: r.timestamp,
            t4: arrival.at,
            forward_ecn: None,
            backward_ecn: arrival.traffic_class & 3,
            synchronized: r.error_estimate.synchronized && self.error_estimate.synchronized,
            forward_path: None,
            backward_path: None,
        };
        for tlv in packet.tlvs().flatten().filter(|t| t.flags == 0) {
            match tlv.value() {
                Ok(Value::ClassOfService(c)) => reply.forward_ecn = Some(c.ecn_arrived),
                Ok(Value::TakenPath(t)) if t.known == 1 && t.epoch == self.fabric.epoch.0 as u32 => {
                    let path = PathId(t.path);
                    reply.forward_path = self.fabric.path_links(path).map(|_| path);
                }
                _ => {}
            }
        }
        if !arrival.hop_by_hop.is_empty()
            && let Some(to) = self.fabric.nic_by_addr(arrival.to)
        {
            reply.backward_path = self.traced(arrival.hop_by_hop, from, to);
        }
        // a path between other NICs is nobody's to tell
        let to = self.fabric.nic_by_addr(arrival.to);
        reply.forward_path = reply
            .forward_path
            .filter(|p| self.fabric.path_parts(*p).map(|(a, b, _)| (Some(a), b)) == Some((to, from)));
        Ok(reply)
    }

    fn check_tlvs(&self, tlvs: &[u8], sequence: [u8; 4]) -> Result<(), Dropped> {
        match self.key.as_deref() {
            Some(key) => tlv::check_hmac(tlvs, sequence, key).map_err(reason),
            None => Ok(()),
        }
    }

    fn traced(&self, hop_by_hop: &[u8], from: NicId, to: NicId) -> Option<PathId> {
        if self.fabric.mode == Mode::Srv6 {
            return None;
        }
        let trace =
            Trace::new_checked(hop_by_hop).ok().filter(|t| t.namespace == NAMESPACE && !t.overflow)?;
        let hops: Vec<Hop> =
            trace.nodes().map(|n| Hop { node: n.node, ingress: n.ingress, egress: n.egress }).collect();
        path_of_hops(&self.fabric, from, to, &hops)
    }
}

fn fixed(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

fn way_back(r: &tlv::ReturnPath) -> Back {
    match r {
        // no flag set: no answer (RFC 9503, section 4.1.1)
        tlv::ReturnPath { control_code: Some(c), .. } if c & 1 == 0 => Back::NoReply,
        tlv::ReturnPath { other: true, .. } => Back::Unsupported,
        tlv::ReturnPath { segment: Some(container), segments: 1, .. } => Back::Container(*container),
        tlv::ReturnPath { segments: 2.., .. } => Back::Unsupported,
        tlv::ReturnPath { address: Some(address), .. } => Back::Address(*address),
        _ => Back::Default,
    }
}

fn reason(refused: wire::stamp::Refused) -> Dropped {
    use wire::stamp::Refused;
    match refused {
        Refused::BadHmac | Refused::BadHmacTlv | Refused::NoHmacTlv | Refused::TlvAfterHmac { .. } => {
            Dropped::BadHmac
        }
        _ => Dropped::Malformed,
    }
}
