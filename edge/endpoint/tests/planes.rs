//! Two hosts in namespaces with a link in each of two planes: both carry the same, and one can die.
#![allow(clippy::unwrap_used)]

mod certificates;

use certificates::hosts;
use kernel::capabilities::{Feature, missing};
use kernel::link::{self, End};
use kernel::netlink::{Batch, Netlink};
use kernel::netns::{self, Netns};
use selvedge_endpoint::trace::{FORMAT, Header, Record, TraceEvent, Tracer};
use selvedge_endpoint::{Config, Endpoint};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use wire::Nanos;

const PLANES: u16 = 2;

fn addr(plane: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, plane, 0, 0, 0, 0, 0, host + 1)
}
fn mac(plane: u16, host: u16) -> [u8; 6] {
    [2, 0, 0, 0, plane as u8, host as u8]
}
/// Number of a plane's interface in both namespaces.
fn index(plane: u16) -> u32 {
    u32::from(plane) + 2
}

/// Two namespaces with a veth for each plane.
fn two_hosts() -> [Netns; 2] {
    let spaces = [0; 2].map(|_| netns::anonymous().unwrap());
    let mut nursery = netns::anonymous().unwrap().run(Netlink::route).unwrap().unwrap();
    for plane in 0..PLANES {
        let name = format!("plane{plane}");
        let [a, b] = [0, 1].map(|host: u16| End {
            netns: spaces[usize::from(host)].as_fd(),
            name: &name,
            index: index(plane),
            mac: mac(plane, host),
        });
        let mut batch = Batch::new();
        link::veth(&mut batch, a, b, 1_500).unwrap();
        nursery.apply(batch).unwrap();
    }
    for host in 0..2u16 {
        let space = &spaces[usize::from(host)];
        space
            .run(|| {
                let mut batch = Batch::new();
                for plane in 0..PLANES {
                    link::set_up(&mut batch, index(plane), true);
                    link::address(&mut batch, index(plane), addr(plane, host), 64);
                    link::neighbour(&mut batch, index(plane), addr(plane, 1 - host), mac(plane, 1 - host));
                }
                Netlink::route().unwrap().apply(batch).unwrap();
            })
            .unwrap();
    }
    for space in &spaces {
        let running = || {
            let links = link::list(&mut Netlink::route().unwrap()).unwrap();
            links.iter().filter(|l| l.running).count() == usize::from(PLANES)
        };
        while !space.run(running).unwrap() {
            std::thread::yield_now();
        }
    }
    spaces
}

/// Bytes each plane's interface has received.
fn received(space: &Netns) -> [u64; 2] {
    let text = space.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    [0, 1].map(|plane| {
        let name = format!("plane{plane}:");
        let line = text.lines().find_map(|l| l.trim().strip_prefix(&name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    })
}

#[tokio::test]
async fn both_planes_carry_and_one_can_die() {
    let lacking = missing(&[Feature::Configure, Feature::Namespaces]);
    if let Some(feature) = lacking.first() {
        println!("skipped: it needs {}", feature.need());
        return;
    }
    let spaces = std::sync::Arc::new(two_hosts());
    let identities = hosts(["host1", "host2"]);
    let mut ends = Vec::new();
    for (host, identity) in identities.into_iter().enumerate() {
        let addresses = (0..PLANES).map(|plane| addr(plane, host as u16)).collect();
        let config = Config { addresses, ..Config::default() };
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 7_000, 0, 0);
        ends.push(spaces[host].run(|| Endpoint::bind(any, identity, config)).unwrap().unwrap());
    }
    let to = SocketAddrV6::new(addr(0, 1), 7_000, 0, 0);
    let (client, server) = tokio::join!(ends[0].connect(to, "host2"), ends[1].accept());
    let (client, server) = (client.unwrap(), server.unwrap());
    let message: Vec<u8> = (0..10_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();

    let (sent, got) = tokio::join!(client.send(1, message.clone()), server.receive(1));
    sent.unwrap();
    assert!(got.unwrap() == message);
    let [first, second] = received(&spaces[1]);
    println!("healthy: {first} and {second} bytes");
    // how evenly is the state machine's affair: it goes on with the paths that answer
    assert!(first.min(second) > 500_000, "both planes carry");

    // plane 1 dies in the middle of a message
    let began = Instant::now();
    // on a thread of its own: this one carries the message
    let there = spaces.clone();
    let dying = std::thread::spawn(move || {
        while received(&there[1])[1] < second + 1_000_000 {
            std::thread::yield_now();
        }
        let down = || {
            let mut batch = Batch::new();
            link::set_up(&mut batch, index(1), false);
            Netlink::route().unwrap().apply(batch).unwrap();
        };
        there[1].run(down).unwrap();
        Instant::now()
    });
    // long enough that it is not over before the plane is seen to be
    let long = message.repeat(6);
    let both = async { tokio::join!(client.send(2, long.clone()), server.receive(2)) };
    let Ok((sent, got)) = tokio::time::timeout(Duration::from_secs(20), both).await else {
        panic!("it does not go on: {:?} {:?}", client.counters().await, server.counters().await);
    };
    sent.unwrap();
    assert!(got.unwrap() == long);
    let died = dying.join().unwrap();
    let c = client.counters().await.unwrap();
    println!(
        "with a dead plane: {:?} in all, {:?} of them after it died; {} lost, {} silences, {} probes",
        began.elapsed(),
        died.elapsed(),
        c.machine.lost,
        c.machine.silences,
        c.machine.probes
    );
    assert!(c.machine.lost > 0);
    // and it goes on without
    let (sent, got) = tokio::join!(client.send(3, message.clone()), server.receive(3));
    sent.unwrap();
    assert!(got.unwrap() == message);
}

/// The links take packets of 1,500 bytes and the hosts are told of 4,000: the route knows better. What both ends do is
/// written down on the way.
#[tokio::test]
async fn a_route_with_less_room_than_configured_makes_for_shorter_datagrams() {
    if let Some(feature) = missing(&[Feature::Configure, Feature::Namespaces]).first() {
        println!("skipped: it needs {}", feature.need());
        return;
    }
    let spaces = two_hosts();
    let file = std::env::temp_dir().join(format!("selvedge-trace-{}.jsonl", std::process::id()));
    let tracer = Tracer::create(&file, Nanos::from_millis(1)).unwrap();
    let mut ends = Vec::new();
    for (host, identity) in hosts(["host1", "host2"]).into_iter().enumerate() {
        let addresses = (0..PLANES).map(|plane| addr(plane, host as u16)).collect();
        let trace = Some(tracer.clone());
        let config = Config { addresses, datagram_bytes_max: 4_000, trace, ..Config::default() };
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 7_000, 0, 0);
        ends.push(spaces[host].run(|| Endpoint::bind(any, identity, config)).unwrap().unwrap());
    }
    drop(tracer);
    let to = SocketAddrV6::new(addr(0, 1), 7_000, 0, 0);
    let (client, server) = tokio::join!(ends[0].connect(to, "host2"), ends[1].accept());
    let (client, server) = (client.unwrap(), server.unwrap());
    let both = async { tokio::join!(client.send(1, vec![7; 1_000_000]), server.receive(1)) };
    let (sent, got) =
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("nothing gets through");
    sent.unwrap();
    assert_eq!(got.unwrap().len(), 1_000_000);
    let sent = client.counters().await.unwrap().machine.sent;
    assert!((1_000_000 / 1_452..1_200).contains(&sent), "{sent} packets");
    drop((client, server));
    drop(ends);

    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<Header>(first).unwrap().format, FORMAT);
    let records: Vec<Record> = rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |host: &'static str| records.iter().filter(move |r| r.group_id.starts_with(host)).map(|r| &r.event);
    let counted = of("host1").filter_map(|e| if let TraceEvent::Sample(s) = e { Some(s.sent) } else { None });
    assert_eq!(counted.sum::<u64>(), sent, "every packet is in one interval");
    let opened = of("host1")
        .find_map(|e| if let TraceEvent::Opened { chunk_bytes, .. } = e { Some(*chunk_bytes) } else { None });
    assert!(opened.is_some_and(|bytes| (1_300..1_452).contains(&bytes)), "{opened:?}");
    assert!(
        of("host2").any(|e| matches!(e, TraceEvent::MessageReceived { bytes: 1_000_000, tag: Some(1), .. }))
    );
    assert!(of("host1").any(|e| matches!(e, TraceEvent::MessageSent { bytes: 1_000_000, .. })));
}
