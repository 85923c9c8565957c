//! Traces through real switches with a lossy hop, and captures beside tcpdump, merged and read by tshark.
//!
//! Needs root, `ip`, `sysctl` and `nft`, and for captures `tcpdump`, `tshark` and `capinfos`; says so and passes where one is
//! missing.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

mod world;

use fabric::Device;
use selvedge_agent::prober::{ProberConfig, ProberHandle};
use selvedge_agent::tasks::capture::{self, Place, Summary};
use selvedge_agent::tasks::merge::{Input, merge};
use selvedge_agent::tasks::trace::TraceError;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use wire::HostId;
use wire::proto::{CaptureFilter, CaptureTask, HopConfidence, TraceReport, TraceTask};
use world::{World, can_run, sh};

fn loss_here(report: &TraceReport, link: &str) -> Vec<f64> {
    report.paths.iter().flat_map(|p| &p.hops).filter(|h| h.link_name == link).map(|h| h.loss_here).collect()
}

/// The most that is surely lost on any other link.
fn surely_elsewhere(report: &TraceReport, link: &str) -> f64 {
    let others = report.paths.iter().flat_map(|p| &p.hops).filter(|h| h.link_name != link);
    others.map(|h| h.loss_here - h.loss_here_doubt).fold(0.0, f64::max)
}

fn trace(w: &World, tracer: &ProberHandle, rounds: u32) -> TraceReport {
    let task = TraceTask { to_host: 1, rounds, packets_per_second: 2_000, ..TraceTask::default() };
    let report = tracer.tracer().unwrap().run(&task, &|| false).unwrap();
    assert_eq!(report.fabric_epoch, w.fabric.epoch.0);
    report
}

#[test]
fn a_trace_along_chosen_paths_finds_the_lossy_hop() {
    if !can_run() {
        return;
    }
    let w = World::up("etr", "srv6", true);
    let (a, b) = (w.prober(0), w.prober(1));
    let healthy = trace(&w, &a, 20);
    println!("{healthy:#?}");
    assert_eq!((healthy.paths.len(), healthy.exact), (2, true));
    assert!(healthy.notes.is_empty(), "{:?}", healthy.notes);
    for p in &healthy.paths {
        assert_eq!((p.sent, p.answered, p.lost_forward, p.lost_backward), (20, 20, 0, 0));
        assert_eq!(p.hops.iter().map(|h| h.node.as_str()).filter(|n| n.contains("leaf")).count(), 2);
        for h in &p.hops {
            assert!(h.seen && h.loss_here == 0.0 && h.rtt_min_ns > 0, "{h:?}");
            assert_eq!(h.ioam_count > 0 && h.ingress > 0, h.hop < 4, "{h:?}");
            assert_eq!(h.confidence(), HopConfidence::HopMeasured, "{h:?}");
        }
        assert!(p.hops[0].rtt_min_ns < p.rtt_p50_ns, "what turns earlier is back earlier");
    }
    let sick = "p0-leaf0:p0-spine1";
    w.drop_randomly_on(w.fabric.link_by_name(sick).unwrap(), 3);
    let report = trace(&w, &a, 200);
    let here = loss_here(&report, sick);
    println!("lossy: {here:?}, elsewhere surely {}", surely_elsewhere(&report, sick));
    assert_eq!(here.len(), 1, "one path of two crosses it");
    assert!((0.12..0.55).contains(&here[0]));
    assert!(surely_elsewhere(&report, sick) < 0.05);
    let p = report.paths.iter().find(|p| p.hops[1].link_name == sick).unwrap();
    assert!(p.lost_forward > 40 && p.lost_backward == 0, "the direction is known too: {p:?}");
    drop((a, b));
}

#[test]
fn a_trace_is_authenticated_where_probes_are_and_stops_when_told() {
    if !can_run() {
        return;
    }
    for (tag, mode) in [("eas", "srv6"), ("eae", "ecmp")] {
        let w = World::up(tag, mode, true);
        let key = |c: &mut ProberConfig| c.key = Some(b"between hosts".to_vec());
        let (a, b) = (w.prober_with(0, key), w.prober_with(1, key));
        let task = TraceTask { size_bytes: 300, ..TraceTask::default() };
        let task = TraceTask { to_host: 1, rounds: 5, packets_per_second: 2_000, ..task };
        let report = a.tracer().unwrap().run(&task, &|| false).unwrap();
        for p in &report.paths {
            assert_eq!((p.found, p.sent, p.answered), (true, 5, 5));
            assert!(p.hops.iter().all(|h| h.seen && h.loss_here == 0.0), "{p:?}");
        }
        assert_eq!(a.tracer().unwrap().run(&task, &|| true), Err(TraceError::Stopped));
        let nobody = TraceTask { to_host: 9, ..task };
        let words = a.tracer().unwrap().run(&nobody, &|| false).unwrap_err().to_string();
        assert!(words.contains("not in the fabric"), "{words}");
        // who has no key gets no answer
        a.stop();
        let c = w.prober(0);
        let report = c.tracer().unwrap().run(&task, &|| false).unwrap();
        assert!(report.paths.iter().all(|p| p.answered == 0), "{report:?}");
        assert!(report.packets_sent > 20);
        drop((b, c));
    }
}

#[test]
fn a_trace_of_a_hashing_network_with_in_band_telemetry_finds_the_lossy_hop() {
    trace_hashed("eib", true);
}

#[test]
fn a_trace_of_a_hashing_network_by_its_switches_words_finds_the_lossy_hop() {
    trace_hashed("ehh", false);
}

fn trace_hashed(tag: &str, ioam: bool) {
    if !can_run() {
        return;
    }
    let w = World::up(tag, "ecmp", ioam);
    let (a, b) = (w.prober(0), w.prober(1));
    let healthy = trace(&w, &a, 10);
    println!("{healthy:#?}");
    assert_eq!((healthy.paths.len(), healthy.exact), (2, false));
    assert!(healthy.notes.is_empty(), "{:?}", healthy.notes);
    for p in &healthy.paths {
        assert!(p.found && p.flow_label > 0);
        for h in &p.hops {
            assert!(h.seen && h.loss_here == 0.0, "{h:?}");
            let in_band = ioam && h.hop < 4;
            assert_eq!(h.ioam_count > 0, in_band, "{h:?}");
            assert!(!in_band || (h.ingress > 0 && h.ioam_delta_p50_ns < 1_000_000_000), "{h:?}");
        }
    }
    let sick = "p0-spine1:p0-leaf1";
    w.drop_randomly_on(w.fabric.link_by_name(sick).unwrap(), 3);
    let report = trace(&w, &a, 300);
    let here = loss_here(&report, sick);
    println!("lossy: {here:?}, elsewhere surely {}", surely_elsewhere(&report, sick));
    assert_eq!(here.len(), 1);
    assert!((0.12..0.55).contains(&here[0]));
    assert!(surely_elsewhere(&report, sick) < 0.08);
    drop((a, b));
}

/// Two hosts and a cable between them; gone when dropped.
struct Cable {
    netns: [String; 2],
    dir: PathBuf,
}

impl Cable {
    fn up(tag: &str) -> Cable {
        let netns = ["a", "b"].map(|end| format!("{tag}{}-{end}", std::process::id()));
        let dir = std::env::temp_dir().join(format!("{tag}{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let cable = Cable { netns, dir };
        for ns in &cable.netns {
            sh("ip", &["netns", "add", ns], "");
        }
        let [a, b] = &cable.netns;
        sh(
            "ip",
            &["link", "add", "wire", "netns", a, "type", "veth", "peer", "name", "wire", "netns", b],
            "",
        );
        for (ns, n) in cable.netns.iter().zip(1..) {
            sh("ip", &["-n", ns, "link", "set", "lo", "up"], "");
            sh("ip", &["-n", ns, "link", "set", "wire", "up"], "");
            sh("ip", &["-n", ns, "addr", "add", &format!("10.9.0.{n}/24"), "dev", "wire"], "");
            sh("ip", &["-n", ns, "addr", "add", &format!("fd09::{n}/64"), "dev", "wire", "nodad"], "");
        }
        cable
    }

    fn socket(&self, end: usize, address: &str) -> UdpSocket {
        let _inside = kernel::netns::enter(&self.netns[end]).unwrap();
        UdpSocket::bind(address.parse::<SocketAddr>().unwrap()).unwrap()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for ns in &self.netns {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn can_capture() -> bool {
    let there = |t: &&str| {
        Command::new(t).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing: Vec<_> = ["tcpdump", "tshark", "capinfos"].into_iter().filter(|t| !there(t)).collect();
    if !missing.is_empty() {
        println!("skipped: needs {missing:?}");
    }
    missing.is_empty() && can_run()
}

/// Captures on a thread; it is at work when this returns.
fn capture_at(netns: &str, task: CaptureTask) -> JoinHandle<(Vec<u8>, Summary)> {
    let (ready, begun) = mpsc::channel();
    let place = Place { host: netns.to_owned(), netns: Some(netns.to_owned()) };
    let thread = std::thread::spawn(move || {
        let mut file = Vec::new();
        // asked for the first time when the ring is open
        let stop = || {
            let _ = ready.send(());
            false
        };
        let mut sink = |piece: Vec<u8>| {
            file.extend(piece);
            true
        };
        let summary = capture::run(&task, &place, &stop, &mut sink).unwrap();
        (file, summary)
    });
    begun.recv().unwrap();
    thread
}

/// tcpdump beside it, until it has seen so many; it is at work when this returns.
fn tcpdump_at(netns: &str, file: &Path, packets: u64, filter: &str) -> Child {
    let mut child = Command::new("ip")
        .args(["netns", "exec", netns, "tcpdump", "-Z", "root", "-i", "wire", "-U", "-c"])
        .args([&packets.to_string(), "-w"])
        .arg(file)
        .arg(filter)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("listening on")));
    // whoever does not read on would stop it at its last words
    std::thread::spawn(move || lines.count());
    child
}

#[test]
fn captures_of_two_hosts_are_one_and_agree_with_tcpdump() {
    if !can_capture() {
        return;
    }
    let cable = Cable::up("ecp");
    let each = 500u64;
    // both families, both directions
    let expected = each * 4;
    let filter = |host: &[u8]| CaptureFilter { ip_protocol: 17, host: host.to_vec(), port: 7_000 };
    let v6 = "fd09::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let task = CaptureTask {
        interfaces: vec!["wire".into()],
        filters: vec![filter(&[10, 9, 0, 2]), filter(&v6)],
        packets: expected,
        seconds: 60,
        ..CaptureTask::default()
    };
    let dumps = [0, 1].map(|i| cable.dir.join(format!("dump{i}.pcap")));
    let mut witnesses: Vec<Child> = cable
        .netns
        .iter()
        .zip(&dumps)
        .map(|(ns, file)| tcpdump_at(ns, file, expected, "udp port 7000"))
        .collect();
    let captures: Vec<_> = cable.netns.iter().map(|ns| capture_at(ns, task.clone())).collect();
    for (a, b) in [("10.9.0.1", "10.9.0.2"), ("[fd09::1]", "[fd09::2]")] {
        let left = cable.socket(0, &format!("{a}:6000"));
        let right = cable.socket(1, &format!("{b}:7000"));
        let decoy = cable.socket(1, &format!("{b}:7001"));
        for i in 0..each {
            let payload = format!("the secret number {i}");
            left.send_to(payload.as_bytes(), right.local_addr().unwrap()).unwrap();
            left.send_to(payload.as_bytes(), decoy.local_addr().unwrap()).unwrap();
            right.send_to(payload.as_bytes(), left.local_addr().unwrap()).unwrap();
        }
    }
    let files: Vec<(Vec<u8>, Summary)> = captures.into_iter().map(|c| c.join().unwrap()).collect();
    for w in &mut witnesses {
        assert!(w.wait().unwrap().success());
    }
    for (bytes, summary) in &files {
        assert_eq!((summary.packets, summary.lost, summary.full), (expected, 0, true), "{summary:?}");
        assert_eq!(summary.bytes, bytes.len() as u64);
        assert!(!bytes.windows(6).any(|w| w == b"secret"), "no payload");
    }
    let inputs: Vec<Input<'_>> =
        cable.netns.iter().zip(&files).map(|(host, (bytes, _))| Input { host, bytes }).collect();
    let mut out = Vec::new();
    let merged = merge(&inputs, &mut out).unwrap();
    assert_eq!((merged.packets, merged.dropped, merged.left_out.len()), (expected * 2, 0, 0));
    let file = cable.dir.join("merged.pcapng");
    std::fs::write(&file, &out).unwrap();
    let path = file.to_str().unwrap();

    let said = sh(
        "tshark",
        &[
            "-r",
            path,
            "-T",
            "fields",
            "-e",
            "frame.time_epoch",
            "-e",
            "frame.interface_name",
            "-e",
            "udp.port",
        ],
        "",
    );
    let rows: Vec<Vec<&str>> = said.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows.len() as u64, expected * 2);
    let times: Vec<f64> = rows.iter().map(|r| r[0].parse().unwrap()).collect();
    assert!(times.is_sorted(), "times never go back");
    for (ns, dump) in cable.netns.iter().zip(&dumps) {
        let here = rows.iter().filter(|r| r[1] == format!("{ns}:wire")).count() as u64;
        let theirs = sh("tshark", &["-r", dump.to_str().unwrap(), "-T", "fields", "-e", "frame.number"], "");
        assert_eq!(here, theirs.lines().count() as u64, "as many as tcpdump beside it saw");
    }
    assert!(rows.iter().all(|r| r[2] == "6000,7000" || r[2] == "7000,6000"), "{:?}", rows[0]);
    let info = sh("capinfos", &[path], "");
    println!("{info}");
    assert!(info.contains("Strict time order:   True") && info.contains("clocks: "), "{info}");
    for (i, (bytes, _)) in files.iter().enumerate() {
        let one = cable.dir.join(format!("one{i}.pcapng"));
        std::fs::write(&one, bytes).unwrap();
        let info = sh("capinfos", &[one.to_str().unwrap()], "");
        assert!(info.contains("host: ") && info.contains("protocol 17 and host 10.9.0.2"), "{info}");
    }
    // files of others, in the other order of bytes and in microseconds, are merged too
    let foreign: Vec<Vec<u8>> = dumps
        .iter()
        .map(|dump| {
            let to = dump.with_extension("pcapng");
            sh("tshark", &["-r", dump.to_str().unwrap(), "-F", "pcapng", "-w", to.to_str().unwrap()], "");
            std::fs::read(to).unwrap()
        })
        .collect();
    let inputs_foreign = [Input { host: "x", bytes: &foreign[0] }, Input { host: "y", bytes: &foreign[1] }];
    let mut out = Vec::new();
    assert_eq!(merge(&inputs_foreign, &mut out).unwrap().packets, expected * 2);
    std::fs::write(&file, &out).unwrap();
    let times = |path: &Path| -> Vec<String> {
        let fields = ["-T", "fields", "-e", "frame.time_epoch"];
        let said = sh("tshark", &[&["-r", path.to_str().unwrap()][..], &fields].concat(), "");
        said.lines().map(|l| l.trim_end_matches('0').to_owned()).collect()
    };
    let mut want: Vec<String> = dumps.iter().flat_map(|d| times(d)).collect();
    want.sort();
    assert_eq!(times(&file), want, "the same times, in order");
    // what is damaged is said, and gives what is whole before it
    let cut = &files[1].0[..files[1].0.len() / 2];
    let inputs = [inputs[0], Input { host: "cut", bytes: cut }, Input { host: "odd", bytes: b"odd" }];
    let merged = merge(&inputs, std::io::sink()).unwrap();
    assert!(merged.packets > expected && merged.packets < expected * 2);
    assert_eq!(merged.left_out.len(), 2, "{:?}", merged.left_out);
}

#[test]
fn what_the_kernel_has_no_room_for_is_counted() {
    if !can_capture() {
        return;
    }
    let cable = Cable::up("ecl");
    let (ready, begun) = mpsc::channel();
    let (go_on, flooded) = mpsc::channel::<()>();
    let place = Place { host: "a".into(), netns: Some(cable.netns[0].clone()) };
    let filters = vec![CaptureFilter { port: 7_000, ..CaptureFilter::default() }];
    let task =
        CaptureTask { filters, seconds: 60, packets: 1_000_000, bytes: 64 << 20, ..CaptureTask::default() };
    let thread = std::thread::spawn(move || {
        let mut quiet = 0;
        let counted = std::cell::Cell::new(0u32);
        let stop = || {
            counted.set(counted.get() + 1);
            if counted.get() == 1 {
                ready.send(()).unwrap();
                // nobody reads the ring while the flood lasts
                flooded.recv().unwrap();
            }
            // the ring is read a block a turn: 32 turns empty it
            counted.get() > 200
        };
        let summary = capture::run(&task, &place, &stop, &mut |piece| {
            quiet += piece.len();
            true
        })
        .unwrap();
        assert_eq!(quiet as u64, summary.bytes);
        summary
    });
    begun.recv().unwrap();
    let from = cable.socket(0, "10.9.0.1:7000");
    let sent = 120_000u64;
    for _ in 0..sent {
        from.send_to(b"x", "10.9.0.2:7000").unwrap();
    }
    go_on.send(()).unwrap();
    let summary = thread.join().unwrap();
    println!("{summary:?}");
    assert!(summary.lost > 0 && summary.packets > 0);
    assert!(summary.packets + summary.lost >= sent, "every packet is captured or counted");
}

#[test]
fn ports_inside_a_chosen_path_are_found_by_the_kernels_filter() {
    if !can_run() {
        return;
    }
    for (tag, mode) in [("ecs", "srv6"), ("ece", "ecmp")] {
        let w = World::up(tag, mode, true);
        let (a, b) = (w.prober(0), w.prober(1));
        let far = w.fabric.nic_addr(w.fabric.nic(wire::PlaneId(0), HostId(1), 0).unwrap());
        let filter = CaptureFilter { ip_protocol: 17, host: far.octets().to_vec(), port: 862 };
        // each whole probe comes in and its answer goes out
        let whole = 2 * 30;
        let task =
            CaptureTask { filters: vec![filter], packets: whole * 2, seconds: 60, ..CaptureTask::default() };
        let capture = capture_at(&w.netns(Device::Host(HostId(1))), task);
        trace(&w, &a, 30);
        let (file, summary) = capture.join().unwrap();
        assert_eq!((summary.packets, summary.full), (whole * 2, true));
        assert!(file.len() as u64 == summary.bytes && summary.lost == 0);
        drop((a, b));
    }
}
