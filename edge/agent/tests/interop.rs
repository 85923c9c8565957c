//! Our STAMP against other people's: scapy's reader and writer, and the `stamp-suite` reflector over the loopback.
//!
//! Each test says what it lacks and passes where the other implementation cannot be had. `stamp-suite` is looked for in
//! the search path and in `SELVEDGE_STAMP_SUITE` (`cargo install stamp-suite`).
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use fabric::Fabric;
use kernel::poll::readable;
use kernel::timestamp::unix_ns;
use kernel::udp::{Outgoing, Received, Route, UdpOptions, UdpSocket};
use probe::packet::{Arrival, Codec};
use probe::{Plan, Probe, Reflector, ReflectorConfig, Sender, SenderConfig};
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::{HostId, Nanos};

fn fabric() -> Arc<Fabric> {
    let spec = "name = \"interop\"\nplanes = 1\nleaves = 2\nspines = 2\nhosts = 2\nhosts_per_leaf = 1\n\
                access = { rate = \"1Gbit/s\", latency = \"1us\" }\ntrunk = { rate = \"1Gbit/s\", latency = \"1us\" }\n";
    Arc::new(Fabric::parse(spec).unwrap())
}

/// A sender with a plan, and its first probe.
fn first_probe(f: &Arc<Fabric>, now: Nanos) -> (Sender, Probe) {
    let mut sender = Sender::new(f.clone(), SenderConfig::new(HostId(0), 7));
    let slots = probe::plan::slots(f, HostId(0), &Default::default());
    sender.set_plan(now, Plan { slots, ..Plan::default() }).unwrap();
    let due = sender.next_timeout().unwrap() + Nanos::from_millis(10);
    let probe = sender.poll_output(due).unwrap();
    (sender, probe)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.trim().bytes().collect();
    let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// Runs a script under the first Python that has scapy with STAMP; `None` where there is none.
fn scapy(script: &str, args: &[&str]) -> Option<String> {
    for python in ["python3", "/usr/bin/python3"] {
        let has =
            Command::new(python).args(["-c", "import scapy.contrib.stamp"]).stderr(Stdio::null()).status();
        if !has.is_ok_and(|s| s.success()) {
            continue;
        }
        let mut child = Command::new(python)
            .arg("-")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        return Some(String::from_utf8(out.stdout).unwrap());
    }
    println!("skipped: no Python with scapy.contrib.stamp (Debian: python3-scapy; pip: scapy)");
    None
}

const ARRIVAL: Arrival<'static> = Arrival {
    from: Ipv6Addr::LOCALHOST,
    port: 40_000,
    to: Ipv6Addr::LOCALHOST,
    at: Nanos(1_767_323_045_000_001_000),
    traffic_class: 0xba,
    flow_label: 5,
    hop_limit: 60,
    hop_by_hop: &[],
};

#[test]
fn scapy_reads_our_probes_and_answers_as_we_meant_them() {
    let f = fabric();
    let codec = Codec::new(f.clone(), None, true);
    let (_, probe) = first_probe(&f, Nanos(1_767_323_045_000_000_000));
    let mut bytes = Vec::new();
    codec.write_probe(&probe, &mut bytes);
    let arrival = Arrival { from: f.nic_addr(probe.from), to: f.nic_addr(probe.to), ..ARRIVAL };
    let request = codec.read_request(&bytes, &arrival).unwrap();
    let mut reflector = Reflector::new(f.clone(), ReflectorConfig::default());
    let answer = reflector.handle_input(ARRIVAL.at, &request).unwrap();
    let mut back = Vec::new();
    codec.write_answer(&bytes, &answer, ARRIVAL.at + Nanos(500), ARRIVAL.hop_limit, &mut back);
    assert_eq!(back.len(), bytes.len(), "an answer is as long as its probe");
    let script = "
import sys
from scapy.all import UDP
from scapy.contrib.stamp import *
def show(kind, text):
    raw = bytes.fromhex(text)
    # scapy 2.5 asks its parent for the length and has none when it dissects
    p = kind(raw, _parent=UDP(len=8 + len(raw)))
    e = p.err_estimate
    print(p.seq, p.ssid, e.S, e.Z, e.scale, e.multiplier)
    if kind is STAMPSessionReflectorTestUnauthenticated:
        print(p.seq_sender, p.ttl_sender, p.err_estimate_sender.S)
    for t in p.tlv_objects:
        print(int(t.flags), t.type, t.len, bytes(t.value)[:20].hex())
show(STAMPSessionSenderTestUnauthenticated, sys.argv[1])
show(STAMPSessionReflectorTestUnauthenticated, sys.argv[2])
";
    let Some(said) = scapy(script, &[&hex(&bytes), &hex(&back)]) else { return };
    let container = hex(&f.path_container(probe.back.unwrap()).unwrap().octets());
    let want = format!(
        "{n} {ssid} 1 0 22 1\n\
         128 4 4 00000000\n128 10 20 80040010{container}\n128 1 48 {pad}\n\
         0 {ssid} 1 0 22 1\n{n} 60 1\n\
         0 4 4 02e80000\n0 10 20 80040010{container}\n0 1 48 {pad}\n",
        n = probe.sequence,
        ssid = probe.ssid,
        pad = "00".repeat(20),
    );
    assert_eq!(said, want);
}

#[test]
fn we_read_what_scapy_writes() {
    let script = "
from scapy.contrib.stamp import *
tlvs = [STAMPTestTLV(flags='U', type=4, len=4, value=bytes.fromhex('b8000000')),
        STAMPTestTLV(flags='U', type=77, len=2, value=b'ab')]
print(bytes(STAMPSessionSenderTestUnauthenticated(seq=9, ts=3976311845.5, ssid=5, tlv_objects=tlvs)).hex())
print(bytes(STAMPSessionReflectorTestUnauthenticated(seq=3, ts=3976311845.5, ts_rx=3976311845.25, seq_sender=9,
    ts_sender=3976311845.125, ttl_sender=61, ssid=5)).hex())
";
    let Some(said) = scapy(script, &[]) else { return };
    let mut lines = said.lines();
    let f = fabric();
    let codec = Codec::new(f.clone(), None, false);
    let probe = unhex(lines.next().unwrap());
    let request = codec.read_request(&probe, &ARRIVAL).unwrap();
    assert_eq!((request.sequence, request.asker.ssid, request.back_class), (9, 5, Some(46)));
    assert_eq!(request.t1, Nanos(1_767_323_045_500_000_000));
    let mut reflector =
        Reflector::new(f.clone(), ReflectorConfig { fabric_only: false, ..Default::default() });
    let answer = reflector.handle_input(ARRIVAL.at, &request).unwrap();
    let mut back = Vec::new();
    codec.write_answer(&probe, &answer, ARRIVAL.at, 60, &mut back);
    // the TLV scapy made up comes back unrecognised, the known one with our words in it
    assert_eq!(hex(&back[44..]), "00040004bae80000804d00026162");

    let b = f.nic_addr(f.nic(wire::PlaneId(0), HostId(1), 0).unwrap());
    let reply = codec.read_reply(&unhex(lines.next().unwrap()), &Arrival { from: b, ..ARRIVAL }).unwrap();
    assert_eq!((reply.ssid, reply.sequence, reply.reflector_sequence), (5, 9, 3));
    assert_eq!(reply.t1, Nanos(1_767_323_045_125_000_000));
    assert_eq!(reply.t2, Nanos(1_767_323_045_250_000_000));
    assert_eq!(reply.t3, Nanos(1_767_323_045_500_000_000));
}

/// Ends a process when dropped.
struct Ended(Child);
impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_reflector_answers_our_sender() {
    let program = std::env::var("SELVEDGE_STAMP_SUITE").unwrap_or("stamp-suite".into());
    if !Command::new(&program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
    {
        println!("skipped: no stamp-suite (cargo install stamp-suite, or set SELVEDGE_STAMP_SUITE)");
        return;
    }
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let port = UdpSocket::bind(any, UdpOptions::default()).unwrap().port().unwrap();
    let reflector = Command::new(&program)
        .args([
            "--is-reflector",
            "--local-addr",
            "::1",
            "--local-port",
            &port.to_string(),
            "--stateful-reflector",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut reflector = Ended(reflector);
    let f = fabric();
    let codec = Codec::new(f.clone(), None, false);
    let socket = UdpSocket::bind(any, UdpOptions::default()).unwrap();
    let (mut sender, mut probe) = first_probe(&f, Nanos(unix_ns()));
    // it cannot follow a container, and must not be asked to
    probe.back = None;
    let (mut out, mut received) = (Outgoing::default(), Received::default());
    let start = Instant::now();
    loop {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "no answer from {program}: {:?}",
            reflector.0.try_wait()
        );
        out.clear();
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
        let route = Route { to, from: None, traffic_class: 2, flow_label: 0 };
        out.push(route, |buf| codec.write_probe(&probe, buf));
        socket.send(&mut out).unwrap();
        readable(&[socket.as_fd()], Some(Duration::from_millis(200))).unwrap();
        if socket.receive(&mut received).unwrap() > 0 {
            break;
        }
    }
    let d = received.iter().next().unwrap();
    let arrival = Arrival { from: f.nic_addr(probe.to), at: Nanos(d.at_ns), ..ARRIVAL };
    let reply = codec.read_reply(d.payload, &arrival).unwrap();
    assert_eq!((reply.ssid, reply.sequence, reply.t1), (probe.ssid, probe.sequence, probe.t1));
    assert!(reply.t2 >= probe.t1 && reply.t3 >= reply.t2 && reply.t4 >= reply.t3, "{reply:?}");
    assert_eq!(sender.handle_input(Nanos(unix_ns()), &reply), Ok(()));
}
