//! Bare labs on the kernel: forwarding in both modes, faults by wire segment, nothing left behind.
//!
//! They need root and a kernel that can do it; without, each says why and passes.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use fabric::{Fabric, Fault, Mode, Scenario, Target};
use kernel::netlink::{Batch, Netlink};
use kernel::route::{self, Action};
use kernel::{link, netns, offload};
use selvedge_lab::fault::element::Counters;
use selvedge_lab::{Lab, Options};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::{HostId, LinkId, NicId, PathId, PlaneId};

const PORT: u16 = 7000;
/// Bytes of a datagram of a burst.
const SEGMENT: usize = 1200;
/// A datagram that has not come so long after the one before was lost.
const LATE: Duration = Duration::from_millis(20);

/// Why labs cannot be made here, if they cannot.
fn missing() -> Option<String> {
    use kernel::capabilities::{Feature, missing};
    let missing: Vec<_> = missing(&Feature::ALL).into_iter().map(Feature::need).collect();
    (!missing.is_empty()).then(|| format!("skipped: it needs {}", missing.join(", and ")))
}

macro_rules! need_kernel {
    () => {
        if let Some(why) = missing() {
            eprintln!("{why}");
            return;
        }
    };
}

/// A bare lab that goes down with the test.
struct Bare(Lab);

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(e) = self.0.down() {
            eprintln!("down: {e}");
        }
    }
}

impl std::ops::Deref for Bare {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.0
    }
}

fn options(name: &str) -> Options {
    Options {
        name: Some(format!("{name}-{}", std::process::id())),
        exe: PathBuf::from("/nonexistent"),
        bare: true,
        packets_per_second: None,
        record: None,
        http: None,
        ready_within: Duration::from_secs(1),
    }
}

fn up(name: &str, mode: &str) -> Bare {
    let text = format!(
        "name = \"test\"\nmode = \"{mode}\"\nplanes = 2\nleaves = 3\nspines = 2\nhosts = 6\nparallel = 2\n"
    );
    let scenario = Scenario::parse(&text).unwrap();
    Bare(Lab::up(&text, scenario, &options(name), &mut |_| Ok(())).unwrap())
}

/// One way from one host to another, by an encapsulating route in the sender's namespace.
struct Way {
    from: Ipv6Addr,
    to: Ipv6Addr,
    from_netns: String,
    to_netns: String,
    links: Vec<LinkId>,
}

fn nic(fabric: &Fabric, plane: u8, host: u32) -> NicId {
    fabric.nic(PlaneId(plane), HostId(host), 0).unwrap()
}

fn way(lab: &Lab, path: PathId) -> Way {
    let fabric = lab.fabric();
    let (from, to, _) = fabric.path_parts(path).unwrap();
    let name = |nic| fabric.host_name(fabric.nic_parts(nic).1);
    let way = Way {
        from: fabric.nic_addr(from),
        to: fabric.nic_addr(to),
        from_netns: lab.netns(&name(from)).unwrap(),
        to_netns: lab.netns(&name(to)).unwrap(),
        links: fabric.path_links(path).unwrap().to_vec(),
    };
    if fabric.mode == Mode::Srv6 {
        let _inside = netns::enter(&way.from_netns).unwrap();
        let index = link::index_of(&fabric.ifname(way.links[0])).unwrap();
        let route = route::Route {
            to: way.to,
            prefix_len: 128,
            table: 254,
            source: Some(way.from),
            action: Action::Encap { segments: vec![fabric.path_container(path).unwrap()], index },
        };
        let mut batch = Batch::new();
        route::replace(&mut batch, 0, &route);
        Netlink::route().unwrap().apply(batch).unwrap();
    }
    way
}

/// The path over the last spine and the second of both cables, from host 0 to the last host, in plane 1.
fn far_path(fabric: &Fabric) -> PathId {
    let (a, b) = (nic(fabric, 1, 0), nic(fabric, 1, fabric.shape.hosts - 1));
    fabric.path(a, b, fabric.lanes() - 1).unwrap()
}

impl Way {
    fn sockets(&self, segment: Option<u16>) -> (UdpSocket, UdpSocket) {
        let bind = |netns: &str, addr| {
            let _inside = netns::enter(netns).unwrap();
            UdpSocket::bind(SocketAddrV6::new(addr, 0, 0, 0)).unwrap()
        };
        let receiver = bind(&self.to_netns, self.to);
        let sender = bind(&self.from_netns, self.from);
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        if let Some(bytes) = segment {
            offload::segment_udp(sender.as_fd(), bytes).unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4 << 20).unwrap();
        (sender, receiver)
    }

    /// Sends bursts of 16 segments; the numbers of segments of each burst that arrived.
    fn bursts(&self, bursts: usize) -> Vec<usize> {
        let (sender, receiver) = self.sockets(Some(SEGMENT as u16));
        let mut arrived = vec![0; bursts];
        let mut datagram = [0; 2 * SEGMENT];
        let mut last = Instant::now();
        let mut drain = |arrived: &mut Vec<usize>, last: &mut Instant| {
            while receiver.recv(&mut datagram).is_ok() {
                arrived[usize::from(datagram[0]) << 8 | usize::from(datagram[1])] += 1;
                *last = Instant::now();
            }
        };
        for number in 0..bursts {
            let segment = [&[(number >> 8) as u8, number as u8][..], &[7; SEGMENT - 2][..]].concat();
            sender.send(&segment.repeat(16)).unwrap();
            drain(&mut arrived, &mut last);
        }
        // what another processor took over may come a little later
        last = Instant::now();
        while last.elapsed() < LATE && arrived.iter().sum::<usize>() < 16 * bursts {
            drain(&mut arrived, &mut last);
        }
        arrived
    }
}

fn break_link(lab: &Lab, id: LinkId, kind: &str) -> selvedge_lab::fault::Acting {
    let fault = Fault::new(Target::Link(id), None, kind.parse().unwrap()).unwrap();
    lab.fault(&fault).unwrap()
}

fn counters(lab: &Lab, acting: &selvedge_lab::fault::Acting) -> Counters {
    lab.counts(acting).unwrap()[0].counters.unwrap()
}

/// Within five standard deviations of a binomial.
#[track_caller]
fn assert_share(hurt: u64, of: u64, rate: f64) {
    let sd = (rate * (1.0 - rate) / of as f64).sqrt();
    let share = hurt as f64 / of as f64;
    assert!((share - rate).abs() <= 5.0 * sd, "{hurt} of {of} is {share:.4}, not {rate} ± {:.4}", 5.0 * sd);
}

/// As many as there were, and perhaps a few more: a young interface reports its multicast groups.
#[track_caller]
fn assert_all(counted: u64, sent: u64, what: &str) {
    assert!((sent..sent + 10).contains(&counted), "{what}: counted {counted}, sent {sent}");
}

#[test]
fn every_path_leads_where_it_says() {
    need_kernel!();
    let lab = up("paths", "srv6");
    let fabric = lab.fabric();
    for plane in 0..2 {
        for (a, b) in [(0, 5), (5, 0), (0, 1), (3, 2)] {
            let (a, b) = (nic(fabric, plane, a), nic(fabric, plane, b));
            for lane in 0..fabric.lanes() {
                let path = fabric.path(a, b, lane).unwrap();
                if fabric.path_links(path).is_none() {
                    continue;
                }
                let way = way(&lab, path);
                // an element that hardly ever acts counts what comes over the link
                let crossed = *way.links.get(2).unwrap_or(&way.links[1]);
                let acting = break_link(&lab, crossed, "ecn 0.01%");
                let before = counters(&lab, &acting).seen;
                let arrived = way.bursts(2);
                assert_eq!(arrived, [16, 16], "path {}", fabric.path_name(path));
                let seen = counters(&lab, &acting).seen - before;
                assert_all(seen, 32, &fabric.link_name(crossed));
                lab.heal(None).unwrap();
            }
        }
    }
}

#[test]
fn loss_is_per_segment_and_equals_the_rate() {
    need_kernel!();
    for mode in ["srv6", "ecmp"] {
        let lab = up("segments", mode);
        let path = far_path(lab.fabric());
        let way = way(&lab, path);
        // in ecmp mode the trunk is the kernel's choice: break what every path shares
        let id = if mode == "srv6" { way.links[1] } else { way.links[0] };
        let acting = break_link(&lab, id, "drop 10%");
        let bursts = 400;
        let arrived = way.bursts(bursts);
        let c = counters(&lab, &acting);
        let received: usize = arrived.iter().sum();
        let sent = bursts as u64 * 16;
        assert_all(c.seen, sent, mode);
        assert_share(c.dropped, c.seen, 0.1);
        assert_share(sent - received as u64, sent, 0.1);
        assert_eq!(arrived.iter().filter(|n| **n == 0).count(), 0, "a whole burst was lost: {c:?}");
        assert!(arrived.iter().filter(|n| (1..16).contains(*n)).count() > bursts / 2);
        lab.heal(None).unwrap();
        assert_eq!(way.bursts(50), vec![16; 50], "{mode}: healed");
    }
}

#[test]
fn starting_a_fault_costs_the_other_direction_nothing() {
    need_kernel!();
    let lab = up("begin", "srv6");
    let fabric = lab.fabric();
    let (a, b) = (nic(fabric, 1, 0), nic(fabric, 1, 5));
    let (there, back) = (fabric.path(a, b, 7).unwrap(), fabric.path(b, a, 7).unwrap());
    let (there, back) = (way(&lab, there), way(&lab, back));
    assert_eq!(there.links[1].reverse(), back.links[2]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let mut lost = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                lost += back.bursts(100).iter().filter(|n| **n < 16).count();
            }
            lost
        });
        for kind in ["drop 100%", "ecn 10%", "corrupt 1%"].repeat(20) {
            break_link(&lab, there.links[1], kind);
            lab.heal(None).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(sends.join().unwrap(), 0);
    });
}

#[test]
fn tcp_suffers_by_segment_too() {
    need_kernel!();
    let lab = up("tcp", "srv6");
    let way = way(&lab, far_path(lab.fabric()));
    let acting = break_link(&lab, way.links[2], "drop 1%");
    let bytes = 24 << 20;
    let listener = {
        let _inside = netns::enter(&way.to_netns).unwrap();
        TcpListener::bind(SocketAddrV6::new(way.to, PORT, 0, 0)).unwrap()
    };
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap()
    });
    {
        let _inside = netns::enter(&way.from_netns).unwrap();
        let mut stream = TcpStream::connect(SocketAddrV6::new(way.to, PORT, 0, 0)).unwrap();
        stream.write_all(&vec![1; bytes]).unwrap();
    }
    assert_eq!(received.join().unwrap(), bytes);
    let c = counters(&lab, &acting);
    // a packet of a burst would be 64 KiB: with those there would be a few hundred
    assert!(c.seen as usize >= bytes / 9100, "{c:?}");
    assert_share(c.dropped, c.seen, 0.01);
}

#[test]
fn every_kind_that_needs_no_helper() {
    need_kernel!();
    let lab = up("kinds", "srv6");
    let way = way(&lab, far_path(lab.fabric()));
    let id = way.links[1];
    let sent = 200 * 16;

    let acting = break_link(&lab, id, "corrupt 10%");
    let received: usize = way.bursts(200).iter().sum();
    let c = counters(&lab, &acting);
    assert_share(c.corrupted, c.seen, 0.1);
    assert_all(received as u64 + c.corrupted, sent, "every corrupted datagram fails its checksum");
    lab.heal(None).unwrap();

    let acting = break_link(&lab, id, "flap period 2ms duty 50%");
    let arrived = way.bursts(1000);
    let c = counters(&lab, &acting);
    assert_all(arrived.iter().sum::<usize>() as u64 + c.flap_dropped, 16_000, "what is not dropped arrives");
    assert!(arrived.contains(&16) && arrived.contains(&0), "good and bad spells");
    lab.heal(None).unwrap();

    let acting = break_link(&lab, id, "blackhole 50%");
    let flows = 300;
    let mut dead = 0;
    for _ in 0..flows {
        // a new port is a new flow, and a flow suffers whole or not at all
        match way.bursts(1)[..] {
            [0] => dead += 1,
            [16] => {}
            ref other => panic!("half a flow: {other:?}"),
        }
    }
    assert_share(dead, flows, 0.5);
    assert_all(counters(&lab, &acting).flow_dropped, dead * 16, "nothing but dead flows");
    lab.heal(None).unwrap();

    break_link(&lab, id, "rate-limit 20Mbit/s");
    let begin = Instant::now();
    let received: usize = way.bursts(200).iter().sum();
    // 4 MB are offered in less time than 20 Mbit/s take for them
    let allowed = begin.elapsed().as_secs_f64() * 20e6 / 8.0 + 200_000.0;
    assert!(received > 16 && (received * 1200) as f64 <= allowed, "{received} in {:?}", begin.elapsed());
    lab.heal(None).unwrap();

    break_link(&lab, id, "down");
    assert_eq!(way.bursts(10), [0; 10]);
    lab.heal(None).unwrap();
    assert_eq!(way.bursts(10), [16; 10], "routes and neighbours are back");
}

#[test]
fn congestion_is_marked_where_the_sender_speaks_ecn() {
    need_kernel!();
    let lab = up("ecn", "srv6");
    let way = way(&lab, far_path(lab.fabric()));
    let acting = break_link(&lab, way.links[1], "ecn 25%");
    way.bursts(10);
    assert_eq!(counters(&lab, &acting).marked, 0, "not ECN-capable: left alone");

    let (sender, _receiver) = way.sockets(None);
    socket2::SockRef::from(&sender).set_tclass_v6(0b10).unwrap();
    let before = counters(&lab, &acting).seen;
    for _ in 0..1000 {
        sender.send(b"ECT(0)").unwrap();
    }
    let c = counters(&lab, &acting);
    assert_share(c.marked, c.seen - before, 0.25);
}

#[test]
fn overlapping_faults_heal_in_any_order() {
    need_kernel!();
    let lab = up("overlap", "srv6");
    let way = way(&lab, far_path(lab.fabric()));
    let fabric = lab.fabric();
    let (_, spine) = fabric.link_ends(way.links[1]).unwrap();
    let fabric::Node::Switch(spine) = spine else { panic!("a trunk leads to a switch") };
    let whole = Fault::new(Target::Switch(spine), None, "drop 50%".parse().unwrap()).unwrap();
    let switch = lab.fault(&whole).unwrap();
    let on_link = break_link(&lab, way.links[1], "drop 100%");
    assert_eq!(way.bursts(5), [0; 5]);
    lab.heal(Some(&on_link.id.to_string())).unwrap();
    let received: usize = way.bursts(200).iter().sum();
    // in and out of the switch: half of a half
    assert_share(3200 - received as u64, 3200, 0.75);
    assert_eq!(lab.heal(Some(&switch.target)).unwrap().len(), 1);
    assert_eq!(way.bursts(20), [16; 20]);
    assert!(lab.faults().unwrap().is_empty());
}

#[test]
fn two_labs_at_once_and_nothing_is_left() {
    need_kernel!();
    let mine = |name: &String| name.contains(&format!("-{}-", std::process::id()));
    let left =
        |prefix: &str| netns::list().unwrap().iter().filter(|n| mine(n) && n.starts_with(prefix)).count();
    let one = up("twins-a", "srv6");
    let two = up("twins-b", "srv6");
    assert_eq!((left("twins-a"), left("twins-b")), (16, 16));
    let text =
        std::fs::read_to_string(format!("/run/selvedge/lab/{}/fabric.toml", one.state().name)).unwrap();
    let again = Lab::up(&text, Scenario::parse(&text).unwrap(), &options("twins-a"), &mut |_| Ok(()));
    assert!(matches!(again, Err(selvedge_lab::Error::Running { .. })), "{again:?}");
    let name = one.state().name.clone();
    drop(one);
    assert_eq!((left("twins-a"), left("twins-b")), (0, 16));
    assert!(!PathBuf::from("/run/selvedge/lab").join(name).exists());
    let way = way(&two, far_path(two.fabric()));
    assert_eq!(way.bursts(5), [16; 5], "the other lab does not care");
}

#[test]
fn what_cannot_be_broken_is_said() {
    need_kernel!();
    let lab = up("refused", "srv6");
    let host = Target::Host(HostId(0));
    let fault = Fault::new(host, None, "agent-stop".parse().unwrap()).unwrap();
    let said = lab.fault(&fault).unwrap_err().to_string();
    insta::assert_snapshot!(said, @"agent-stop cannot act on host0: no agent runs there (the lab is bare)");
    let fault = Fault::new(Target::RandomLink, None, "drop 1%".parse().unwrap()).unwrap();
    let said = lab.fault(&fault).unwrap_err().to_string();
    insta::assert_snapshot!(said, @"drop 1% cannot act on random-link: a random target must be decided by a seed first");
    insta::assert_snapshot!(lab.netns("p0-leaf9").unwrap_err().to_string(), @r#"there is no host or switch named "p0-leaf9" in this fabric"#);
}
