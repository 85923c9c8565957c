//! The `nic` sensor on hand-made readings of three vendors' NICs (see `fixtures/nic/README.md`), on veths, and on whatever
//! this machine has, beside `ip` and `ethtool`.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use agent::sensors::measure::{Before, Finding, Place, Reading, Unit};
use agent::sensors::nic::metrics::{Facts, tell};
use agent::sensors::nic::{Nic, rdma_ports};
use kernel::drivers::{Driver, Drivers};
use kernel::ethtool::{Channels, Fec, Groups, Modes, Pause, Rings};
use kernel::interface::{self, Interface};
use kernel::link::{self, End};
use kernel::netlink::{Batch, Netlink};
use kernel::netns::{self, Netns};
use selvedge_agent as agent;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wire::{Counter, Nanos};

const SECOND: Nanos = Nanos::from_secs(1);

/// A directory for one test, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let at = std::env::temp_dir().join(format!("selvedge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&at).unwrap();
        Scratch(at)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fixture(vendor: &str, file: &str) -> String {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nic").join(vendor).join(file);
    std::fs::read_to_string(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()))
}

/// One reading of a fixture.
fn facts(vendor: &str, driver: &str, reading: &str) -> Facts {
    let mut answers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut name = String::new();
    for line in fixture(vendor, &format!("{reading}.netlink")).lines() {
        match line.strip_prefix("  ") {
            None => name = line.to_owned(),
            Some(hex) => {
                let bytes =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                answers.entry(name.clone()).or_default().extend(bytes);
            }
        }
    }
    let own = fixture(vendor, &format!("{reading}.ethtool"));
    let own = own.lines().skip(1).map(|l| {
        let (name, value) = l.rsplit_once(": ").unwrap();
        (name.trim().to_owned(), value.parse().unwrap())
    });
    let sys = Scratch::new(&format!("{vendor}-{reading}"));
    for line in fixture(vendor, &format!("{reading}.sysfs")).lines() {
        let (path, text) = line.split_once('\t').unwrap();
        let at = sys.0.join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, format!("{text}\n")).unwrap();
    }
    Facts {
        interface: Interface::decode(&answers["interface"]).unwrap(),
        driver: Driver { name: driver.to_owned(), ..Driver::default() },
        modes: answers.get("modes").map(|b| Modes::decode(b)),
        pause: answers.get("pause").map(|b| Pause::decode(b)),
        fec: answers.get("fec").map(|b| Fec::decode(b)),
        rings: answers.get("rings").map(|b| Rings::decode(b)),
        channels: answers.get("channels").map(|b| Channels::decode(b)),
        groups: answers.get("groups").map(|b| Groups::decode(b)),
        own: own.collect(),
        rdma: rdma_ports(&sys.0),
        ..Facts::default()
    }
}

/// The second of a fixture's two readings, a second after the first.
fn second(vendor: &str, driver: &str) -> Reading {
    let mut before = Before::default();
    let mut first = Reading::default();
    tell(&facts(vendor, driver, "first"), &mut before, Nanos(0), &mut first);
    assert_eq!(first.findings, [], "one reading is no difference");
    before.next_turn();
    let mut reading = Reading::default();
    tell(&facts(vendor, driver, "second"), &mut before, SECOND, &mut reading);
    reading
}

fn found(reading: &Reading) -> Vec<(Counter, u64, u64)> {
    reading.findings.iter().map(|f| (f.counter, f.delta, f.of)).collect()
}

fn grew(reading: &Reading, entity: &str, name: &str) -> u64 {
    let metric = reading.get(entity, name).unwrap_or_else(|| panic!("no {name} of {entity}"));
    metric.delta.unwrap_or_else(|| panic!("{name} of {entity} has no difference"))
}

fn gauge(reading: &Reading, entity: &str, name: &str) -> i64 {
    let metric = reading.get(entity, name).unwrap_or_else(|| panic!("no {name} of {entity}"));
    assert_eq!(metric.delta, None, "{name} is a state");
    metric.value
}

#[test]
fn a_connectx_says_what_it_counted() {
    let it = second("mlx5", "mlx5_core");
    assert_eq!(
        found(&it),
        [
            // the largest of 2 FCS errors, 1 symbol error and 3 lost blocks
            (Counter::FrameError, 3, 5_003),
            (Counter::FrameCorrected, 700, 0),
            (Counter::NicOverrun, 7, 5_007),
            (Counter::QueueDrop, 4, 4_004),
            // priorities 3 and 4, not plain pause frames
            (Counter::PauseReceived, 35, 0),
            (Counter::PauseSent, 6, 0),
            (Counter::PausedTime, 250_000, 1_000_000_000),
            (Counter::CarrierLost, 1, 0),
        ]
    );
    assert!(it.findings.iter().all(|f: &Finding| f.place == Place::Interface(7)));
    assert_eq!(gauge(&it, "eth2", "speed"), 400_000);
    assert_eq!(gauge(&it, "eth2", "fec_rs"), 1);
    assert_eq!((gauge(&it, "eth2", "receive_ring"), gauge(&it, "eth2", "receive_ring_max")), (1_024, 8_192));
    assert_eq!(gauge(&it, "eth2", "channels_both"), 32);
    assert_eq!(grew(&it, "eth2", "lane_3_fec_corrected_blocks"), 150);
    assert_eq!(grew(&it, "eth2", "fec_corrected_bits"), 1_000);
    assert_eq!(grew(&it, "eth2", "frames_received"), 5_000, "the standard group comes before the driver's");
    assert_eq!((grew(&it, "eth2", "pfc_3_received"), grew(&it, "eth2", "pfc_3_paused")), (30, 250_000));
    assert_eq!(it.get("eth2", "pfc_3_paused").unwrap().unit, Unit::Nanoseconds);
    let port = |name| grew(&it, "mlx5_0/1", name);
    assert_eq!((port("rdma_out_of_sequence"), port("rdma_sequence_naks"), port("rdma_timeouts")), (6, 2, 1));
    assert_eq!((port("cnp_sent"), port("cnp_handled"), port("rdma_ecn_marked")), (40, 55, 44));
    assert_eq!((port("rdma_writes_received"), port("rdma_requester_errors")), (800, 0));
    assert_eq!(
        (port("port_send_wait_ticks"), port("port_bytes_received"), port("link_down")),
        (77, 4_000, 1)
    );
    assert_eq!((gauge(&it, "mlx5_0/1", "speed"), gauge(&it, "mlx5_0/1", "active")), (400_000, 1));
    assert!(it.get("mlx5_0/1", "lifespan").is_none() && it.get("eth2", "ch0_events").is_none());
}

#[test]
fn a_netxtreme_whose_counters_go_round_and_begin_anew() {
    let it = second("bnxt", "bnxt_en");
    assert_eq!(
        found(&it),
        [
            (Counter::FrameError, 5, 2_005),
            (Counter::FrameCorrected, 900, 0),
            // rx_stat_discard went from 4,294,967,290 to 4
            (Counter::NicOverrun, 10, 2_010),
            // tx_stat_discard went from 1,000 to 2
            (Counter::QueueDrop, 2, 1_002),
            (Counter::PauseReceived, 20, 0),
            (Counter::PauseSent, 11, 0),
            (Counter::PausedTime, 1_234_000, 1_000_000_000),
            (Counter::CarrierLost, 0, 0),
        ]
    );
    assert_eq!(grew(&it, "ens1f0np0", "host_no_room_rings"), 5, "the rings' sum");
    let port = |name| grew(&it, "bnxt_re0/1", name);
    assert_eq!((port("rdma_out_of_sequence"), port("rdma_sequence_naks"), port("rdma_timeouts")), (2, 1, 5));
    assert_eq!((port("cnp_sent"), port("cnp_handled"), port("rdma_ecn_marked")), (7, 9, 8));
    assert_eq!(gauge(&it, "bnxt_re0/1", "rdma_queue_pairs"), 13);
}

#[test]
fn an_e810_that_does_not_count_its_fec() {
    let it = second("irdma", "ice");
    assert_eq!(
        found(&it),
        [
            (Counter::FrameError, 4, 3_004),
            (Counter::NicOverrun, 6, 3_006),
            (Counter::QueueDrop, 2, 2_502),
            (Counter::PauseReceived, 10, 0),
            (Counter::PauseSent, 2, 0),
            (Counter::CarrierLost, 0, 0),
        ]
    );
    assert_eq!(gauge(&it, "ens2f0", "fec_baser"), 1);
    assert!(it.get("ens2f0", "fec_corrected_blocks").is_none(), "not counted is not zero");
    assert_eq!(grew(&it, "ens2f0", "pfc_3_ends_received"), 9);
    let port = |name| grew(&it, "irdma0/1", name);
    assert_eq!((port("cnp_sent"), port("cnp_handled"), port("rdma_ecn_marked")), (3, 4, 5));
    assert_eq!(
        (port("rdma_retransmits"), port("rdma_writes_received"), port("rdma_sequence_naks")),
        (13, 250, 1)
    );
}

#[test]
fn every_cut_of_an_answer_is_read_without_a_panic() {
    for (vendor, driver) in [("mlx5", "mlx5_core"), ("bnxt", "bnxt_en"), ("irdma", "ice")] {
        let whole = facts(vendor, driver, "first");
        let text = fixture(vendor, "first.netlink");
        let hex: String = text.lines().filter_map(|l| l.strip_prefix("  ")).collect();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        for cut in (0..bytes.len()).flat_map(|n| [&bytes[n..], &bytes[..n]]) {
            let _ = (Interface::decode(cut), Modes::decode(cut), Pause::decode(cut), Fec::decode(cut));
            let _ = (Rings::decode(cut), Channels::decode(cut), Groups::decode(cut));
        }
        assert!(!whole.own.is_empty());
    }
}

/// Whether namespaces can be made, and these programs are there; says so where not.
fn can_run(programs: &[&str]) -> bool {
    let root = kernel::caps::has(kernel::caps::Capability::CAP_SYS_ADMIN);
    let there = |p: &&&str| {
        Command::new(p).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing: Vec<_> = programs.iter().filter(|p| !there(p)).collect();
    if !root || !missing.is_empty() {
        println!("skipped: needs root (now: {root}) and {missing:?}");
    }
    root && missing.is_empty()
}

const ADDRS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)];
const INDEX: u32 = 2;

/// Two namespaces with a veth between them, up; gone when dropped.
struct Pair {
    names: [String; 2],
    spaces: [Netns; 2],
}

impl Pair {
    fn up(tag: &str) -> Pair {
        let names = ["a", "b"].map(|side| format!("C{tag}{}{side}", std::process::id()));
        let spaces = [0, 1].map(|i: usize| netns::create(&names[i]).unwrap());
        let pair = Pair { names, spaces };
        let [a, b] = [0, 1].map(|i: usize| End {
            netns: pair.spaces[i].as_fd(),
            name: "wire",
            index: INDEX,
            mac: [2, 0, 0, 0, 0, i as u8 + 1],
        });
        let mut nursery = netns::anonymous().unwrap().run(Netlink::route).unwrap().unwrap();
        let mut batch = Batch::new();
        link::veth(&mut batch, a, b, 1_500).unwrap();
        nursery.apply(batch).unwrap();
        for (i, addr) in ADDRS.into_iter().enumerate() {
            let mut batch = Batch::new();
            link::set_up(&mut batch, INDEX, true);
            link::address(&mut batch, INDEX, addr, 64);
            pair.apply(i, batch);
        }
        pair.wait_for_carrier(0, true);
        pair.wait_for_carrier(1, true);
        pair
    }

    fn apply(&self, side: usize, batch: Batch) {
        self.spaces[side].run(|| Netlink::route().unwrap().apply(batch).unwrap()).unwrap();
    }

    fn wait_for_carrier(&self, side: usize, wanted: bool) {
        let mut socket = self.spaces[side].run(Netlink::route).unwrap().unwrap();
        let begun = Instant::now();
        loop {
            let all = interface::list(&mut socket).unwrap();
            if all.iter().any(|it| it.index == INDEX && it.carrier == Some(wanted)) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no change of carrier");
            std::thread::yield_now();
        }
    }

    fn set_up(&self, side: usize, up: bool) {
        let mut batch = Batch::new();
        link::set_up(&mut batch, INDEX, up);
        self.apply(side, batch);
    }

    fn said(&self, side: usize, program: &str, args: &[&str]) -> String {
        let name = self.names[side].as_str();
        let all = [&["netns", "exec", name, program], args].concat();
        let out = Command::new("ip").args(all).output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = netns::delete(name);
        }
    }
}

#[test]
fn a_neighbour_that_goes_and_comes_is_one_lost_carrier() {
    if !can_run(&["ip"]) {
        return;
    }
    let pair = Pair::up("flap");
    let mut nic = pair.spaces[0].run(|| Nic::open(None)).unwrap().unwrap();
    nic.read(SECOND).unwrap();
    pair.set_up(1, false);
    pair.wait_for_carrier(0, false);
    let down = nic.read(SECOND + SECOND).unwrap();
    pair.set_up(1, true);
    pair.wait_for_carrier(0, true);
    let up = nic.read(SECOND + SECOND + SECOND).unwrap();
    let lost = |r: &Reading| {
        r.findings
            .iter()
            .find(|f| f.counter == Counter::CarrierLost && f.place == Place::Interface(INDEX))
            .unwrap()
            .delta
    };
    assert_eq!((lost(&down), lost(&up)), (1, 0));
    assert_eq!((gauge(&down, "wire", "carrier"), gauge(&up, "wire", "carrier")), (0, 1));
    assert_eq!(grew(&up, "wire", "carrier_found"), 1);
    assert!(up.addresses.contains(&(INDEX, ADDRS[0])));
    assert_eq!(gauge(&up, "wire", "speed"), 10_000, "what a veth says of itself");
}

/// The number after `"name":` at its first place behind `after`.
fn json_number(text: &str, after: &str, name: &str) -> u64 {
    let rest = &text[text.find(after).unwrap() + after.len()..];
    let key = format!("\"{name}\":");
    let rest = &rest[rest.find(&key).unwrap() + key.len()..];
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn counts_are_those_of_ip_and_ethtool() {
    if !can_run(&["ip", "ethtool"]) {
        return;
    }
    let pair = Pair::up("count");
    let sockets = [0, 1].map(|i: usize| {
        pair.spaces[i].run(|| std::net::UdpSocket::bind((ADDRS[i], 4_000)).unwrap()).unwrap()
    });
    sockets[1].set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 8];
    // one at a time: few packets wait while the neighbour is not known yet
    for n in 0..500u32 {
        // a neighbour may not be found at once
        let sent = (0..10).any(|_| {
            sockets[0].send_to(&n.to_be_bytes(), (ADDRS[1], 4_000)).unwrap();
            sockets[1].recv(&mut buffer).is_ok_and(|got| got == 4)
        });
        assert!(sent, "packet {n} did not arrive");
    }
    // The interfaces' own chatter (neighbours, multicast) may come between two readings: read until nothing does.
    let mut nic = pair.spaces[1].run(|| Nic::open(None)).unwrap().unwrap();
    let mut drivers = pair.spaces[1].run(Drivers::open).unwrap().unwrap();
    for turn in 1..200u64 {
        let before = nic.read(Nanos::from_secs(turn)).unwrap();
        let ip = pair.said(1, "ip", &["-s", "-j", "link", "show", "dev", "wire"]);
        let ethtool = pair.said(1, "ethtool", &["-S", "wire"]);
        let (names, mut values) = (drivers.names("wire").unwrap(), Vec::new());
        drivers.values("wire", &mut values).unwrap();
        let after = nic.read(Nanos::from_secs(turn)).unwrap();
        let quiet = |name| before.get("wire", name).unwrap().value == after.get("wire", name).unwrap().value;
        if !quiet("packets_received") || !quiet("packets_sent") {
            continue;
        }
        let value = |name: &str| after.get("wire", name).unwrap().value as u64;
        assert!(value("packets_received") >= 500);
        for (after, side) in [("\"rx\":", "received"), ("\"tx\":", "sent")] {
            assert_eq!(value(&format!("packets_{side}")), json_number(&ip, after, "packets"));
            assert_eq!(value(&format!("bytes_{side}")), json_number(&ip, after, "bytes"));
        }
        assert_eq!(value("receive_drops"), json_number(&ip, "\"rx\":", "dropped"));
        let said: Vec<(String, u64)> = ethtool
            .lines()
            .skip(1)
            .map(|l| l.rsplit_once(": ").map(|(n, v)| (n.trim().to_owned(), v.parse().unwrap())).unwrap())
            .collect();
        assert_eq!(names.into_iter().zip(values).collect::<Vec<_>>(), said);
        return;
    }
    panic!("the interface was never quiet");
}

#[test]
fn this_machines_own_interfaces_answer() {
    let mut nic = Nic::open(Some("/sys".into())).unwrap();
    let reading = nic.read(SECOND).unwrap();
    assert_eq!(gauge(&reading, "lo", "up"), 1);
    let mut drivers = Drivers::open().unwrap();
    for it in interface::list(&mut Netlink::route().unwrap()).unwrap() {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        drivers.values(&it.name, &mut first).unwrap();
        let names = drivers.names(&it.name).unwrap();
        drivers.values(&it.name, &mut last).unwrap();
        assert_eq!((first.len(), last.len()), (names.len(), names.len()), "{}", it.name);
        assert!(reading.get(&it.name, "packets_received").is_some(), "{}", it.name);
        let driver = drivers.driver(&it.name).unwrap().unwrap_or_default();
        println!("{}: driver {:?} on {:?}, {} counters", it.name, driver.name, driver.bus, names.len());
    }
    assert!(drivers.names("no-such-link").is_err());
    for missing in nic.missing() {
        println!("missing: {missing}");
    }
}
