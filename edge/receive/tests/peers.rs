//! Receivers beside programs of other people: node_exporter, logger of util-linux, the Python SDK of OpenTelemetry, and a
//! gNMI device made of the public stubs. Each is left out, with its reason, where the program is not there.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use fabric::Fabric;
use selvedge_receive::rows::{Metric, Row};
use selvedge_receive::sources::{ROOM, Receiving};
use selvedge_receive::{Dropped, Receiver, Sources};
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use tokio::sync::mpsc;
use wire::{ComponentObservation, Counter};

const NAMES: &str =
    "[[device]]\nmatch=['sw']\nis='p0-leaf0'\n[[device.interface]]\nmatch='Ethernet*'\nstep=8\nport=0\n";

struct Set {
    receiving: Receiving,
    rows: mpsc::Receiver<Row>,
    fabric: Arc<Fabric>,
    dir: PathBuf,
}

impl Set {
    async fn up(name: &str, sources: &str) -> Set {
        let text = "name='t'\nplanes=1\nleaves=2\nspines=2\nhosts=4\naccess={rate='1Gbit/s',latency='1us'}\n\
                    trunk={rate='1Gbit/s',latency='1us'}";
        let fabric = Arc::new(Fabric::parse(text).unwrap());
        let dir = std::env::temp_dir().join(format!("selvedge-peers-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let peer = device().map(|d| {
            format!("[[device]]\nmatch=['peer']\nis='host1'\n[[device.interface]]\nmatch='{d}'\nto='p0'\n")
        });
        std::fs::write(dir.join("names.toml"), format!("{}{NAMES}", peer.unwrap_or_default())).unwrap();
        std::fs::write(dir.join("password"), "geheim\n").unwrap();
        let sources = Sources::parse(&format!("[names]\nfile='names.toml'\n{sources}")).unwrap();
        let (receiving, rows) = sources.start(&dir, Arc::clone(&fabric), ROOM).await.unwrap();
        Set { receiving, rows, fabric, dir }
    }
    fn at(&self, door: &str) -> SocketAddr {
        self.receiving.bound.iter().find(|b| b.1 == door).unwrap().2
    }
    async fn row(&mut self) -> Row {
        self.rows.recv().await.unwrap()
    }
    async fn metric(&mut self, name: &str) -> Metric {
        loop {
            if let Row::Metric(m) = self.row().await
                && m.name == name
            {
                return m;
            }
        }
    }
    async fn observation(&mut self, counter: Counter) -> ComponentObservation {
        loop {
            if let Row::Observation(o) = self.row().await
                && o.counter == counter
            {
                return o;
            }
        }
    }
    fn name(&self, component: Option<wire::Component>) -> String {
        component.map(|c| self.fabric.component_name(c)).unwrap_or_default()
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether a program answers; why not is printed.
fn is_there(program: &str, args: &[&str]) -> bool {
    let there = Command::new(program).args(args).output().is_ok_and(|out| out.status.success());
    if !there {
        println!("left out: `{program} {}` does not run here", args.join(" "));
    }
    there
}

fn script(name: &str) -> String {
    format!("{}/tests/peers/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A process that ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An interface of this machine that node_exporter counts: not the loopback.
fn device() -> Option<String> {
    let all = std::fs::read_dir("/sys/class/net").ok()?.flatten();
    let all = all.filter(|d| d.path().join("statistics").is_dir());
    all.filter_map(|d| d.file_name().into_string().ok()).filter(|d| d != "lo" && d.len() < 16).min()
}

fn packets(device: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{device}/statistics/rx_packets")).unwrap();
    text.trim().parse().unwrap()
}

#[tokio::test]
async fn node_exporter_is_scraped() {
    if !is_there("prometheus-node-exporter", &["--version"]) {
        return;
    }
    let Some(device) = device() else {
        println!("left out: there is no interface beside the loopback");
        return;
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let before = packets(&device);
    let _peer = Peer(
        Command::new("prometheus-node-exporter")
            .arg(format!("--web.listen-address={free}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let scrape = format!("[[scrape]]\nevery='500ms'\n[scrape.targets]\npeer='http://{free}/metrics'");
    let mut set = Set::up("scrape", &scrape).await;
    let received = loop {
        let m = set.metric("in_packets").await;
        if m.entity == device {
            break m;
        }
    };
    assert!((before..=packets(&device)).contains(&received.value), "{received:?}");
    assert_eq!(set.name(received.component), "p0-leaf0:host1");
    let errors = set.observation(Counter::FrameError).await;
    assert_eq!((set.name(Some(errors.component)), errors.delta), ("p0-leaf0:host1".to_owned(), 0));
    while set.metric("up").await.value != 1.0 {}
    let c = set.receiving.intake.counted(Receiver::Scrape);
    println!("node_exporter: {c:?}");
    assert_eq!((c.dropped(Dropped::Malformed), c.dropped(Dropped::HubSlow)), (0, 0));
    assert!(c.kept > 20 && c.dropped(Dropped::NotWanted) > 100);
}

#[tokio::test]
async fn logger_is_heard_in_every_form() {
    if !is_there("logger", &["--version"]) {
        return;
    }
    let mut set = Set::up("syslog", "[syslog]\nudp='127.0.0.1:0'\ntcp='127.0.0.1:0'").await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    for (way, door) in [(&["-d"][..], "udp"), (&["-T"], "tcp"), (&["-T", "--octet-count"], "tcp")] {
        for form in ["--rfc5424", "--rfc3164"] {
            let port = set.at(door).port().to_string();
            let say = |more: &[&str]| {
                let mut logger = Command::new("logger");
                logger.args(["-n", "127.0.0.1", "-P", &port, form]).args(way).args(more);
                assert!(logger.status().unwrap().success());
            };
            say(&["-p", "local0.err", "-t", "smartd", "disk is full"]);
            let Row::Log(log) = set.row().await else { panic!() };
            assert_eq!(
                (log.severity, &*log.device, &*log.text),
                (3, &*host, "disk is full"),
                "{form} {way:?}"
            );
            assert_eq!(log.labels, [("app".to_owned(), "smartd".to_owned())]);
            say(&["-p", "kern.info", "-t", "kernel", "mlx5_core 0000:3b:00.0 eth2: Link down"]);
            // Of no port of the fabric: a row, and no observation.
            let Row::LinkEvent(event) = set.row().await else { panic!() };
            assert_eq!(
                (&*event.interface, event.up, event.component),
                ("eth2", false, None),
                "{form} {way:?}"
            );
            say(&["-p", "local0.info", "all is well"]);
        }
    }
    while set.receiving.intake.counted(Receiver::Syslog).heard < 18 {
        tokio::task::yield_now().await;
    }
    let c = set.receiving.intake.counted(Receiver::Syslog);
    assert_eq!((c.kept, c.dropped(Dropped::Severity)), (12, 6));
}

#[tokio::test]
async fn the_sdk_of_opentelemetry_is_understood() {
    if !is_there(
        "python3",
        &["-c", "import opentelemetry.exporter.otlp.proto.grpc, opentelemetry.exporter.otlp.proto.http"],
    ) {
        return;
    }
    for way in ["grpc", "http"] {
        let mut set = Set::up(way, "[otlp]\ngrpc='127.0.0.1:0'\nhttp='127.0.0.1:0'").await;
        let at = set.at(way).to_string();
        let args = [script("otlp.py"), way.to_owned(), at];
        let run = tokio::task::spawn_blocking(|| Command::new("python3").args(args).output()).await;
        let out = run.unwrap().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let trace = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let mut seen = Vec::new();
        while let Ok(row) = set.rows.try_recv() {
            let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
            seen.push(match row {
                Row::Metric(m) => {
                    format!("{} {} {} {}", m.name, m.value, m.cumulative, set.name(m.component))
                }
                Row::Log(l) => {
                    assert_eq!(l.trace.map(|t| hex(&t)), Some(trace.clone()));
                    format!("log {} {} {}", l.device, l.severity, l.text)
                }
                Row::Span(s) => {
                    assert_eq!(hex(&s.trace), trace);
                    assert!(s.labels.contains(&("rank".to_owned(), "3".to_owned())));
                    format!("span {} {} {} {}", s.service, s.name, s.kind, s.status)
                }
                other => format!("{other:?}"),
            });
        }
        for want in [
            "in_errors 7 true p0-leaf0:host1",
            "step.duration.count 1 true host1",
            "step.duration.sum 0.25 true host1",
            "loss 1.5 false host1",
            "log host1 3 gradient is not finite",
            "span trainer all-reduce client unset",
        ] {
            assert!(seen.iter().any(|s| s == want), "{way}: {want} is not in {seen:#?}");
        }
        let c = set.receiving.intake.counted(Receiver::Otlp);
        println!("OpenTelemetry by {way}: {c:?}");
        assert_eq!(c.heard, c.kept);
    }
}

#[tokio::test]
async fn a_gnmi_device_of_the_public_stubs_is_asked() {
    if !is_there("python3", &["-c", "import grpc, pygnmi.spec.v080.gnmi_pb2_grpc"]) {
        return;
    }
    let mut child = Command::new("python3")
        .arg(script("gnmi.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let _stdin: Option<ChildStdin> = child.stdin.take();
    let _peer = Peer(child);
    let port = lines.next().unwrap().unwrap();
    let gnmi = format!(
        "[[gnmi]]\ninsecure=true\nusername='watcher'\npassword_file='password'\n\
         [[gnmi.subscription]]\npath='/interfaces/interface[name=*]/state/counters'\nevery='2s'\n\
         [gnmi.targets]\nsw='127.0.0.1:{port}'"
    );
    let mut set = Set::up("gnmi", &gnmi).await;
    assert_eq!(set.metric("up").await.value, 1.0);
    let told = set.metric("fcs_errors").await;
    assert_eq!((&*told.entity, &*set.name(told.component)), ("Ethernet8", "host1:p0-leaf0"));
    let first = set.observation(Counter::FrameError).await;
    assert_eq!(
        (first.delta, first.of, set.name(Some(first.component))),
        (5, 1_000, "host1:p0-leaf0".to_owned())
    );
    let drops = set.observation(Counter::QueueDrop).await;
    assert_eq!((drops.delta, set.name(Some(drops.component))), (1, "p0-leaf0:host1".to_owned()));
    let asked = lines.next().unwrap().unwrap();
    assert_eq!(asked, "asked interfaces/interface/state/counters SAMPLE PROTO 2000000000 watcher");
    // A list is no number: counted, and the rest of its notification kept.
    let c = set.receiving.intake.counted(Receiver::Gnmi);
    assert!(c.dropped(Dropped::Unsupported) > 0, "{c:?}");
}
