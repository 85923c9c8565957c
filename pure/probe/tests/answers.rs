//! What a reflector answers, what it refuses, and what the bytes say; and paths from what switches say.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use core::net::Ipv6Addr;
use fabric::{Device, Fabric, LinkParams, Mode, Shape};
use probe::packet::{Arrival, Codec};
use probe::trace::{Hop, HopTrace, path_of_hops, read_mark, write_mark};
use probe::{Asker, Back, Dropped, Plan, Probe, Reflector, ReflectorConfig, Request, Sender, SenderConfig};
use proptest::prelude::*;
use selvedge_probe as probe;
use std::sync::Arc;
use wire::ioam::TraceOption;
use wire::stamp::tlv::{self, kind};
use wire::{Epoch, HostId, Nanos, NicId, PlaneId};

fn fabric(mode: Mode, cables: u32) -> Arc<Fabric> {
    let params = LinkParams { rate_bps: 1, latency_ns: 1 };
    Arc::new(Fabric {
        name: "test".into(),
        mode,
        shape: Shape { planes: 2, leaves: 3, spines: 2, hosts: 6, hosts_per_leaf: 2, rails: 1, cables },
        epoch: Epoch(0xabcd),
        access: params,
        trunk: params,
        parallel: cables,
        removed: Vec::new(),
        added: Vec::new(),
    })
}

const NOW: Nanos = Nanos(1_767_323_045_000_000_000);

fn a_probe(f: &Arc<Fabric>) -> Probe {
    let mut s = Sender::new(f.clone(), SenderConfig::new(HostId(0), 7));
    let slots = probe::plan::slots(f, HostId(0), &Default::default());
    s.set_plan(NOW, Plan { slots, ..Plan::default() }).unwrap();
    loop {
        let at = s.next_timeout().unwrap();
        s.handle_timeout(at);
        if let Some(p) = s.poll_output(at)
            && f.nic_leaf_port(p.from).0 != f.nic_leaf_port(p.to).0
        {
            return p;
        }
    }
}

fn arrival(from: Ipv6Addr, to: Ipv6Addr) -> Arrival<'static> {
    Arrival { from, port: 5, to, at: NOW, traffic_class: 3, flow_label: 9, hop_limit: 61, hop_by_hop: &[] }
}

#[test]
fn a_way_back_must_lead_back() {
    let f = fabric(Mode::Srv6, 1);
    let nic = |plane, host| f.nic(PlaneId(plane), HostId(host), 0).unwrap();
    let container =
        |from: NicId, to: NicId| Back::Container(f.path_container(f.path(from, to, 0).unwrap()).unwrap());
    let (asker, here) = (nic(0, 0), nic(0, 3));
    let good = Request {
        asker: Asker { addr: f.nic_addr(asker), port: 5, ssid: 1 },
        to: f.nic_addr(here),
        meant_for: None,
        sequence: 0,
        t1: NOW,
        t2: NOW,
        traffic_class: 0,
        flow_label: 0,
        back_class: None,
        back: container(here, asker),
        path: None,
        follow_up: false,
    };
    let stranger = Asker { addr: Ipv6Addr::LOCALHOST, ..good.asker };
    let mut r = Reflector::new(f.clone(), ReflectorConfig::default());
    assert!(r.handle_input(NOW, &good).unwrap().back.is_some());
    for (what, request, reason) in [
        ("to a third host", Request { back: container(here, nic(0, 5)), ..good }, Dropped::HostileReturnPath),
        (
            "by another plane",
            Request { back: container(nic(1, 3), nic(1, 0)), ..good },
            Dropped::HostileReturnPath,
        ),
        (
            "no container",
            Request { back: Back::Container(Ipv6Addr::LOCALHOST), ..good },
            Dropped::HostileReturnPath,
        ),
        (
            "to an address",
            Request { back: Back::Address(Ipv6Addr::LOCALHOST), ..good },
            Dropped::HostileReturnPath,
        ),
        ("labels", Request { back: Back::Unsupported, ..good }, Dropped::UnsupportedReturnPath),
        ("no answer wanted", Request { back: Back::NoReply, ..good }, Dropped::NoReplyAsked),
        ("not for us", Request { meant_for: Some(Ipv6Addr::LOCALHOST), ..good }, Dropped::WrongDestination),
        ("from nowhere", Request { asker: stranger, ..good }, Dropped::UnknownAsker),
    ] {
        let before = r.counters().dropped(reason);
        assert_eq!(r.handle_input(NOW, &request), Err(reason), "{what}");
        assert_eq!(r.counters().dropped(reason), before + 1, "{what}");
    }
    // what was refused used up no number
    assert_eq!(r.handle_input(NOW, &good).unwrap().sequence, 1);
    assert_eq!(
        r.handle_input(NOW, &Request { back: Back::Address(good.asker.addr), ..good }).unwrap().back,
        None
    );
}

#[test]
fn the_session_longest_unused_makes_room() {
    let f = fabric(Mode::Ecmp, 1);
    let nic = |host| f.nic_addr(f.nic(PlaneId(0), HostId(host), 0).unwrap());
    let mut r = Reflector::new(f.clone(), ReflectorConfig { sessions_max: 3, ..Default::default() });
    let mut ask = |ssid: u16, second: u64| {
        let request = Request {
            asker: Asker { addr: nic(0), port: 5, ssid },
            to: nic(3),
            meant_for: None,
            sequence: 0,
            t1: NOW,
            t2: NOW,
            traffic_class: 0,
            flow_label: 0,
            back_class: None,
            back: Back::Default,
            path: None,
            follow_up: false,
        };
        r.handle_input(NOW + Nanos::from_secs(second), &request).unwrap().sequence
    };
    assert_eq!([ask(1, 0), ask(2, 1), ask(3, 2), ask(1, 3)], [0, 0, 0, 1]);
    // 2 is the one longest unused
    assert_eq!([ask(4, 4), ask(1, 5), ask(3, 6), ask(2, 7)], [0, 2, 1, 0]);
    assert_eq!((r.sessions(), r.counters().get("reflector_sessions_evicted")), (3, 2));
    r.handle_timeout(NOW + Nanos::from_secs(1_000));
    assert_eq!((r.sessions(), r.next_timeout()), (0, None));
}

#[test]
fn probe_and_answer_survive_the_wire_with_and_without_a_key() {
    for (mode, key) in [
        (Mode::Srv6, None),
        (Mode::Ecmp, None),
        (Mode::Srv6, Some(b"key".to_vec())),
        (Mode::Ecmp, Some(b"key".to_vec())),
    ] {
        let f = fabric(mode, 1);
        let codec = Codec::new(f.clone(), key.clone(), true);
        let p = a_probe(&f);
        let mut bytes = Vec::new();
        codec.write_probe(&p, &mut bytes);
        let whole = match (mode, &key) {
            (_, None) => 128,
            (Mode::Srv6, Some(_)) => 164,
            (Mode::Ecmp, Some(_)) => 160,
        };
        assert_eq!(bytes.len(), whole);
        let (from, to) = (f.nic_addr(p.from), f.nic_addr(p.to));
        let request = codec.read_request(&bytes, &arrival(from, to)).unwrap();
        assert_eq!((request.sequence, request.asker.ssid, request.t1), (p.sequence, p.ssid, p.t1));
        let want = p.back.map_or(Back::Default, |b| Back::Container(f.path_container(b).unwrap()));
        assert_eq!(request.back, want);
        let request = Request { path: (mode == Mode::Ecmp).then_some(p.path), ..request };
        let mut r = Reflector::new(f.clone(), ReflectorConfig::default());
        let answer = r.handle_input(NOW, &request).unwrap();
        let mut back = Vec::new();
        codec.write_answer(&bytes, &answer, NOW + Nanos(77), 61, &mut back);
        assert_eq!(back.len(), bytes.len());
        let reply = codec.read_reply(&back, &arrival(to, from)).unwrap();
        assert_eq!((reply.sequence, reply.reflector_sequence, reply.ssid), (p.sequence, 0, p.ssid));
        assert_eq!((reply.t1, reply.t2, reply.t3), (p.t1, NOW, NOW + Nanos(77)));
        assert_eq!((reply.forward_ecn, reply.backward_ecn, reply.synchronized), (Some(3), 3, true));
        assert_eq!(reply.forward_path, request.path);
        if key.is_some() {
            let other = Codec::new(f.clone(), Some(b"other".to_vec()), true);
            assert_eq!(other.read_request(&bytes, &arrival(from, to)), Err(Dropped::BadHmac));
            assert_eq!(other.read_reply(&back, &arrival(to, from)), Err(Dropped::BadHmac));
            // a TLV changed on the way
            let mut changed = bytes.clone();
            changed[112 + 5] ^= 1;
            assert_eq!(codec.read_request(&changed, &arrival(from, to)), Err(Dropped::BadHmac));
        }
    }
}

#[test]
fn broken_and_unknown_tlvs_come_back_marked() {
    let f = fabric(Mode::Srv6, 1);
    let codec = Codec::new(f.clone(), None, false);
    let p = a_probe(&f);
    let mut bytes = Vec::new();
    codec.write_probe(&Probe { size: 0, ..p }, &mut bytes);
    let first = bytes.len();
    tlv::push(&mut bytes, kind::CLASS_OF_SERVICE, &[1]);
    tlv::push(&mut bytes, 99, &[1, 2]);
    tlv::push(&mut bytes, kind::DIRECT_MEASUREMENT, &[0; 12]);
    tlv::push(&mut bytes, kind::TIMESTAMP_INFORMATION, &[0; 4]);
    bytes.extend([0x80, 1, 0, 50, 0]);
    let request = codec.read_request(&bytes, &arrival(f.nic_addr(p.from), f.nic_addr(p.to))).unwrap();
    let answer = Reflector::new(f.clone(), ReflectorConfig::default()).handle_input(NOW, &request).unwrap();
    let mut back = Vec::new();
    codec.write_answer(&bytes, &answer, NOW, 61, &mut back);
    let want = [
        &[tlv::MALFORMED, 4, 0, 1, 1][..],
        &[tlv::UNRECOGNIZED, 99, 0, 2, 1, 2],
        &[0, 5, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
        &[0, 3, 0, 4, 5, 2, 5, 2],
        &[tlv::MALFORMED, 1, 0, 50, 0],
    ];
    assert_eq!(back[first..], want.concat());
}

#[test]
fn an_answer_says_when_the_one_before_left() {
    let f = fabric(Mode::Srv6, 1);
    let codec = Codec::new(f.clone(), None, false);
    let p = a_probe(&f);
    let mut bytes = Vec::new();
    codec.write_probe(&Probe { size: 0, ..p }, &mut bytes);
    let first = bytes.len();
    tlv::push(&mut bytes, kind::FOLLOW_UP_TELEMETRY, &[7; 16]);
    tlv::push(&mut bytes, kind::LOCATION, &[0; 4]);
    tlv::push(&mut bytes, kind::ACCESS_REPORT, &[0x10, 1, 0, 0]);
    let mut r = Reflector::new(f.clone(), ReflectorConfig::default());
    let mut ask = || {
        let request = codec.read_request(&bytes, &arrival(f.nic_addr(p.from), f.nic_addr(p.to))).unwrap();
        let answer = r.handle_input(NOW, &request).unwrap();
        assert!(answer.follow_up);
        r.sent(answer.asker, answer.sequence, NOW + Nanos(500 + u64::from(answer.sequence)));
        let mut back = Vec::new();
        codec.write_answer(&bytes, &answer, NOW, 61, &mut back);
        assert_eq!((back[first + 20], back[first + 28]), (tlv::UNRECOGNIZED, tlv::UNRECOGNIZED));
        let told = tlv::Tlvs::new(&back[first..]).next().unwrap().unwrap();
        let Ok(tlv::Value::FollowUpTelemetry(told)) = told.value() else { panic!("{told:?}") };
        told
    };
    assert_eq!(ask(), tlv::FollowUpTelemetry::default(), "nothing was sent before");
    for n in 0..2 {
        let told = ask();
        assert_eq!((told.sequence, told.mode), (n, 2));
        assert_eq!(told.timestamp(Default::default()), NOW + Nanos(500 + u64::from(n)));
    }
}

#[test]
fn switches_name_a_path() {
    for cables in [1, 2] {
        let f = fabric(Mode::Ecmp, cables);
        let nic = |host| f.nic(PlaneId(1), HostId(host), 0).unwrap();
        let (a, b) = (nic(0), nic(5));
        for path in f.paths(a, b) {
            let links = f.path_links(path).unwrap();
            // every device writes itself, the port the packet came by and the port it left by
            let hops: Vec<Hop> = links
                .windows(2)
                .map(|pair| {
                    let device = f.link_device(pair[1]).unwrap();
                    let port = |l| f.ports(device).iter().position(|p| *p == l).unwrap() as u16 + 1;
                    Hop { node: f.ioam_id(device), ingress: port(pair[0].reverse()), egress: port(pair[1]) }
                })
                .chain([Hop { node: f.ioam_id(Device::Host(HostId(5))), ingress: 1, egress: 0xffff }])
                .collect();
            assert_eq!(path_of_hops(&f, a, b, &hops), Some(path));
            let unset: Vec<Hop> =
                hops.iter().map(|h| Hop { ingress: 0xffff, egress: 0xffff, ..*h }).collect();
            assert_eq!(path_of_hops(&f, a, b, &unset), (cables == 1).then_some(path));
            // a missing hop, a foreign plane, the wrong ends: nothing is guessed
            assert_eq!(path_of_hops(&f, a, b, &hops[1..]), None);
            assert_eq!(path_of_hops(&f, nic(2), b, &hops), None);
            assert_eq!(path_of_hops(&f, a, f.nic(PlaneId(0), HostId(5), 0).unwrap(), &hops), None);
            // hop by hop: whoever a probe ends at answers
            let mut trace = HopTrace::new(a, b);
            assert_eq!(trace.missing(&f).collect::<Vec<_>>(), [1, 2, 3]);
            for (i, l) in links.iter().skip(1).enumerate() {
                assert_eq!(trace.path(&f), None);
                let Some(Device::Switch(s)) = f.link_device(*l) else { panic!() };
                assert!(trace.answered(&f, i as u8 + 1, f.switch_addr(s)));
            }
            assert!(!trace.answered(&f, 9, f.switch_addr(wire::SwitchId(0))));
            assert!(!trace.answered(&f, 1, Ipv6Addr::LOCALHOST));
            assert_eq!(trace.path(&f), (cables == 1).then_some(path));
        }
    }
}

#[test]
fn a_mark_reads_back_and_leaves_the_probe_valid() {
    let f = fabric(Mode::Ecmp, 1);
    let codec = Codec::new(f.clone(), None, false);
    let p = a_probe(&f);
    let mut bytes = Vec::new();
    codec.write_probe(&p, &mut bytes);
    assert_eq!(read_mark(&bytes), None);
    write_mark(&mut bytes, p.ssid, 2);
    assert_eq!(read_mark(&bytes), Some((p.ssid, 2)));
    assert!(codec.read_request(&bytes, &arrival(f.nic_addr(p.from), f.nic_addr(p.to))).is_ok());
}

proptest! {
    /// Any bytes at either end: an outcome, an answer no longer than the question, and never a panic.
    #[test]
    fn any_bytes_are_an_outcome(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), good in 0usize..80, keyed: bool, header: bool,
    ) {
        let f = fabric(Mode::Ecmp, 2);
        let key = keyed.then(|| b"k".to_vec());
        let codec = Codec::new(f.clone(), key, false);
        // a good beginning, so that more than the length check is reached
        let mut whole = Vec::new();
        codec.write_probe(&a_probe(&f), &mut whole);
        whole.truncate(good + if keyed { 112 } else { 44 });
        whole.extend(&bytes);
        let mut trace = Vec::new();
        TraceOption::default().write(17, &mut trace);
        trace.truncate(12);
        trace.extend(&bytes);
        let ends = [0, 3].map(|h| f.nic_addr(f.nic(PlaneId(0), HostId(h), 0).unwrap()));
        let arrival = Arrival { hop_by_hop: if header { &trace } else { &[] }, ..arrival(ends[0], ends[1]) };
        let mut r = Reflector::new(f.clone(), ReflectorConfig::default());
        for bytes in [&bytes, &whole] {
            if let Ok(request) = codec.read_request(bytes, &arrival)
                && let Ok(answer) = r.handle_input(NOW, &request)
            {
                let mut back = Vec::new();
                codec.write_answer(bytes, &answer, NOW, 1, &mut back);
                prop_assert_eq!(back.len(), bytes.len());
            }
            let _ = codec.read_reply(bytes, &arrival);
        }
    }
}
