//! Two endpoints on loopback: messages and writes arrive whole, over a link that drops, encrypted and not.
#![allow(clippy::unwrap_used)]

mod certificates;

use certificates::hosts;
use kernel::poll::readable;
use kernel::udp::{Outgoing, Received, Route, UdpOptions, UdpSocket};
use selvedge_endpoint::{Config, Connection, Endpoint, EndpointError};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::transport::protection::Cipher;
use wire::transport::{CloseReason, RegionId};

const HERE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);

/// A relay between one initiator and one responder that drops one datagram in so many.
struct Relay {
    addr: SocketAddrV6,
    stop: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relay {
    fn new(server: SocketAddrV6, one_in: u64) -> Self {
        let options = UdpOptions { receive_bytes: 16 << 20, ..UdpOptions::default() };
        let [front, back] = [0; 2].map(|_| UdpSocket::bind(HERE, options).unwrap());
        let addr = SocketAddrV6::new(Ipv6Addr::LOCALHOST, front.port().unwrap(), 0, 0);
        let (stop, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), dropped.clone());
        let thread = std::thread::spawn(move || {
            let mut client = None;
            let mut random = 7u64;
            let (mut received, mut out) = (Received::new(2_048), Outgoing::default());
            while !stopped.load(Ordering::Relaxed) {
                let wait = Some(Duration::from_millis(20));
                let bits = readable(&[front.as_fd(), back.as_fd()], wait).unwrap();
                for (from, to, bit) in [(&front, &back, 1), (&back, &front, 2)] {
                    if bits & bit == 0 {
                        continue;
                    }
                    from.receive(&mut received).unwrap();
                    out.clear();
                    for d in received.iter() {
                        if bit == 1 {
                            client = Some(SocketAddrV6::new(d.from, d.port, 0, 0));
                        }
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        if one_in > 0 && random.is_multiple_of(one_in) {
                            count.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        let Some(to) = (if bit == 1 { Some(server) } else { client }) else { continue };
                        let (traffic_class, flow_label) = (d.traffic_class, d.flow_label);
                        out.push(Route { to, from: None, traffic_class, flow_label }, |buf| {
                            buf.extend_from_slice(d.payload);
                        });
                    }
                    to.send(&mut out).unwrap();
                }
            }
        });
        Self { addr, stop, dropped, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Pair {
    // connections before endpoints: they close first
    client: Connection,
    server: Connection,
    relay: Option<Relay>,
    ends: [Endpoint; 2],
}

async fn pair(config: Config, drop_one_in: Option<u64>) -> Pair {
    let [one, two] = hosts(["host1", "host2"]);
    let ends = [one, two].map(|identity| Endpoint::bind(HERE, identity, config.clone()).unwrap());
    let [a, b] = &ends;
    let relay = drop_one_in.map(|n| Relay::new(b.local_addr(), n));
    let to = relay.as_ref().map_or(b.local_addr(), |r| r.addr);
    let (client, server) = tokio::join!(a.connect(to, "host2"), b.accept());
    Pair { client: client.unwrap(), server: server.unwrap(), relay, ends }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

#[tokio::test]
async fn messages_arrive_by_their_tag_both_ways() {
    let p = pair(Config::default(), None).await;
    assert_eq!((p.client.peer(), p.server.peer()), ("host2", "host1"));
    let (client, server) = (&p.client, &p.server);
    let (s1, s2, s3, r1, r2, r3) = tokio::join!(
        client.send(1, b"one".to_vec()),
        client.send(2, noise(100_000, 2)),
        server.send(1, b"back".to_vec()),
        server.receive(2),
        server.receive(1),
        client.receive(1),
    );
    for done in [s1, s2, s3] {
        done.unwrap();
    }
    assert_eq!(
        (r1.unwrap(), r2.unwrap(), r3.unwrap()),
        (noise(100_000, 2), b"one".to_vec(), b"back".to_vec())
    );
    assert!(matches!(client.send(1, vec![]).await, Err(EndpointError::Refused(_))), "nothing is no message");
}

#[tokio::test]
async fn writes_land_where_they_should_and_nowhere_else() {
    let p = pair(Config::default(), None).await;
    let region = RegionId(7);
    p.server.register(region, vec![0; 300_000]).await.unwrap();
    assert_eq!(p.server.register(region, vec![]).await, Err(EndpointError::Region { region }));
    let bytes = noise(200_000, 5);
    let (sent, written) = tokio::join!(p.client.write(region, 50_000, bytes.clone(), 99), p.server.written());
    sent.unwrap();
    let written = written.unwrap();
    assert_eq!(
        (written.region, written.offset, written.bytes, written.immediate),
        (region, 50_000, 200_000, 99)
    );
    // outside of what is registered: never taken, and counted
    let outside = p.client.write(region, 299_999, vec![1, 2], 1);
    assert!(tokio::time::timeout(Duration::from_millis(50), outside).await.is_err());
    assert!(p.server.counters().await.unwrap().outside > 0);
    let got = p.server.unregister(region).await.unwrap();
    assert!(got[..50_000].iter().chain(&got[250_000..]).all(|b| *b == 0));
    assert!(got[50_000..250_000] == bytes[..]);
}

#[tokio::test]
async fn closing_waits_for_what_was_sent_and_tells_the_peer() {
    let p = pair(Config::default(), None).await;
    let (client, server) = (p.client, p.server);
    let sending = client.send(3, noise(1 << 20, 1));
    let receiving = server.receive(3);
    let (sent, got) = tokio::join!(sending, receiving);
    sent.unwrap();
    assert_eq!(got.unwrap().len(), 1 << 20);
    client.close().await.unwrap();
    assert_eq!(server.receive(3).await, Err(EndpointError::Closed { reason: CloseReason::Done }));
    // an endpoint that ends tells everybody who waits
    let [_, b] = p.ends;
    let waiting = b.accept();
    let waiting = tokio::time::timeout(Duration::from_millis(10), waiting);
    assert!(waiting.await.is_err());
    drop(b);
    assert_eq!(server.send(1, vec![1]).await, Err(EndpointError::Ended));
}

#[tokio::test]
async fn a_wrong_name_is_refused() {
    let [one, two] = hosts(["host1", "host2"]);
    let [a, b] = [one, two].map(|identity| Endpoint::bind(HERE, identity, Config::default()).unwrap());
    let failed = a.connect(b.local_addr(), "host3").await;
    assert!(matches!(failed, Err(EndpointError::Handshake(_))), "{failed:?}");
    let counters = b.counters().await.unwrap();
    assert_eq!((counters.opened, counters.door.opened), (0, 1));
}

/// 100 MB each time: bit-equal, and no packet is lost track of.
async fn transfer(config: Config, drop_one_in: Option<u64>, want: impl Fn(Cipher) -> bool) {
    const MESSAGES: u64 = 25;
    let p = pair(config, drop_one_in).await;
    assert!(want(p.client.cipher()), "{:?}", p.client.cipher());
    let (client, server) = (&p.client, &p.server);
    let (began, cpu) = (Instant::now(), kernel::process::cpu_ns());
    let sending = async {
        let all: Vec<_> =
            (0..MESSAGES).map(|i| client.send(i % 5, noise(4_000_000 + i as usize, i))).collect();
        for one in all {
            one.await.unwrap();
        }
    };
    let receiving = async {
        let mut bytes = 0;
        for i in 0..MESSAGES {
            let got = server.receive(i % 5).await.unwrap();
            // messages of one tag may overtake each other; the length says which one it is
            let seed = got.len() as u64 - 4_000_000;
            assert!(got == noise(got.len(), seed), "message {seed} is not what was sent");
            bytes += got.len();
        }
        bytes
    };
    let both = async { tokio::join!(receiving, sending) };
    let Ok((bytes, ())) = tokio::time::timeout(Duration::from_secs(60), both).await else {
        let (c, s) = (client.counters().await, server.counters().await);
        panic!("100 MB take more than a minute: {c:?} {s:?} {:?}", p.ends[0].counters().await);
    };
    let (seconds, cpu_s) = (began.elapsed().as_secs_f64(), (kernel::process::cpu_ns() - cpu) as f64 / 1e9);
    let c = client.counters().await.unwrap();
    let s = server.counters().await.unwrap();
    let gbit = bytes as f64 * 8.0 / 1e9;
    println!(
        "{:?} drops {drop_one_in:?}: {:.2} Gbit/s, {:.2} Gbit per CPU second (with making and checking the noise), \
         {} packets, {} again, {} silences",
        p.client.cipher(),
        gbit / seconds,
        gbit / cpu_s,
        c.machine.sent,
        c.machine.chunks_again,
        c.machine.silences,
    );
    assert_eq!(c.machine.sent, c.machine.acknowledged + c.machine.lost, "nothing is on the way any more");
    assert_eq!(s.machine.messages_received, MESSAGES);
    assert_eq!((s.forged, s.rejected, c.forged, c.rejected), (0, 0, 0, 0));
    if let Some(relay) = &p.relay {
        assert!(relay.dropped.load(Ordering::Relaxed) > 100);
        assert!(c.machine.chunks_again > 100);
    }
    drop(p);
}

#[tokio::test]
async fn a_hundred_megabytes_encrypted() {
    transfer(Config::default(), None, |c| c != Cipher::Trusted).await;
}

#[tokio::test]
async fn a_hundred_megabytes_trusted() {
    transfer(Config { trusted: true, ..Config::default() }, None, |c| c == Cipher::Trusted).await;
}

#[tokio::test]
async fn a_hundred_megabytes_encrypted_over_a_link_that_drops() {
    transfer(Config::default(), Some(100), |c| c != Cipher::Trusted).await;
}

#[tokio::test]
async fn a_hundred_megabytes_trusted_over_a_link_that_drops() {
    transfer(Config { trusted: true, ..Config::default() }, Some(100), |c| c == Cipher::Trusted).await;
}

#[tokio::test]
async fn keys_change_while_messages_move_over_a_link_that_drops() {
    let p = pair(Config::default(), Some(50)).await;
    let (client, server) = (&p.client, &p.server);
    let mut updates = [0; 2];
    let mut i = 0u64;
    while updates.iter().sum::<u64>() < 3 {
        // either end, whenever it may
        let end = [client, server][i as usize % 2];
        let (sent, got, updated) =
            tokio::join!(client.send(i, noise(100_000, i)), server.receive(i), end.update_keys());
        sent.unwrap();
        assert!(got.unwrap() == noise(100_000, i));
        updates[i as usize % 2] += u64::from(updated.unwrap());
        i += 1;
    }
    let (c, s) = (client.counters().await.unwrap(), server.counters().await.unwrap());
    assert!(c.key_updates >= 2 && c.key_updates.abs_diff(s.key_updates) <= 1, "{c:?} {s:?}");
    assert_eq!((c.forged, s.forged), (0, 0));
}

#[tokio::test]
async fn what_nobody_receives_is_bounded_and_goes_on_when_somebody_does() {
    let config = Config { receive_bytes_max: 1_000_000, ..Config::default() };
    let p = pair(config, None).await;
    let (client, server) = (Arc::new(p.client), p.server);
    let mut sending = tokio::task::JoinSet::new();
    for i in 0..8u64 {
        let client = client.clone();
        sending.spawn(async move { client.send(i, noise(300_000, i)).await });
    }
    // three fit; the others wait
    for _ in 0..3 {
        sending.join_next().await.unwrap().unwrap().unwrap();
    }
    while server.counters().await.unwrap().no_room == 0 {
        tokio::task::yield_now().await;
    }
    let s = server.counters().await.unwrap();
    assert_eq!(s.machine.messages_received, 3);
    for i in 0..8 {
        assert!(server.receive(i).await.unwrap() == noise(300_000, i));
    }
    while let Some(done) = sending.join_next().await {
        done.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_is_noticed_and_comes_back_as_another() {
    let [one, two] = hosts(["host1", "host2"]);
    let a = Endpoint::bind(HERE, one, Config::default()).unwrap();
    let b = Endpoint::bind(HERE, two.clone(), Config::default()).unwrap();
    let to = b.local_addr();
    let (old, server) = tokio::join!(a.connect(to, "host2"), b.accept());
    let (old, server) = (old.unwrap(), server.unwrap());
    // its last word is lost, as in a crash
    let relay = UdpSocket::bind(HERE, UdpOptions::default()).unwrap();
    drop(relay);
    std::mem::forget(server);
    drop(b);
    let b = Endpoint::bind(to, two, Config::default()).unwrap();
    let lost = old.send(1, vec![1; 100]).await;
    assert!(matches!(lost, Err(EndpointError::Closed { .. })), "{lost:?}");
    let (new, server) = tokio::join!(a.connect(to, "host2"), b.accept());
    let (new, server) = (new.unwrap(), server.unwrap());
    let (sent, got) = tokio::join!(new.send(1, vec![2; 100]), server.receive(1));
    sent.unwrap();
    assert_eq!(got.unwrap(), [2; 100]);
}

#[tokio::test]
async fn garbage_and_strangers_change_nothing() {
    let p = pair(Config::default(), None).await;
    let to = p.ends[1].local_addr();
    let mut bad = noise(64 * 400, 9);
    let (mut out, socket) = (Outgoing::default(), UdpSocket::bind(HERE, UdpOptions::default()).unwrap());
    for (i, datagram) in bad.chunks_mut(64).enumerate() {
        datagram[0] = 0x10 | (i % 16) as u8;
        let route = Route { to, from: None, traffic_class: 0, flow_label: 0 };
        out.push(route, |buf| buf.extend_from_slice(datagram));
    }
    assert_eq!(socket.send(&mut out).unwrap(), 400);
    let mut counters = p.ends[1].counters().await.unwrap();
    while counters.datagrams < 400 {
        counters = p.ends[1].counters().await.unwrap();
    }
    assert!(counters.rejected + counters.unknown + counters.door.dropped >= 390, "{counters:?}");
    assert_eq!((counters.opened, counters.door.opened), (1, 1));
    let (sent, got) = tokio::join!(p.client.send(1, vec![3; 5_000]), p.server.receive(1));
    sent.unwrap();
    assert_eq!(got.unwrap(), [3; 5_000]);
}

#[tokio::test]
async fn many_connections_share_a_socket() {
    // more than handshakes are kept at once
    const MANY: u64 = 400;
    let [one, two] = hosts(["host1", "host2"]);
    let [a, b] = [one, two].map(|identity| Endpoint::bind(HERE, identity, Config::default()).unwrap());
    let mut ends = Vec::new();
    for _ in 0..MANY {
        let (client, server) = tokio::join!(a.connect(b.local_addr(), "host2"), b.accept());
        ends.push((client.unwrap(), server.unwrap()));
    }
    let mut moving = tokio::task::JoinSet::new();
    for (i, (client, server)) in ends.into_iter().enumerate() {
        moving.spawn(async move {
            let message = noise(20_000, i as u64);
            let (sent, got) = tokio::join!(client.send(5, message.clone()), server.receive(5));
            sent.unwrap();
            assert!(got.unwrap() == message);
            client.close().await.unwrap();
        });
    }
    while let Some(done) = moving.join_next().await {
        done.unwrap();
    }
    let counters = b.counters().await.unwrap();
    assert_eq!((counters.opened, counters.unknown), (MANY, 0));
}

/// Goodput between two endpoints of this process over loopback: one message after the other, `at_once` of them open.
async fn goodput(config: Config, bytes: usize, messages: usize, at_once: usize) -> (f64, f64, String) {
    let p = pair(config, None).await;
    let (client, server) = (Arc::new(p.client), Arc::new(p.server));
    let (mut sending, mut receiving) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    let source = noise(bytes, 1);
    let mut buffers: Vec<Vec<u8>> = (0..messages).map(|_| source.clone()).collect();
    let (began, cpu) = (Instant::now(), kernel::process::cpu_ns());
    let mut got = 0;
    for i in 0..messages {
        let (c, s, buffer) = (client.clone(), server.clone(), buffers.pop().unwrap());
        receiving.spawn(async move { s.receive(1).await.unwrap().len() });
        sending.spawn(async move { c.send(1, buffer).await.unwrap() });
        if i >= at_once {
            sending.join_next().await.unwrap().unwrap();
            got += receiving.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(len) = receiving.join_next().await {
        got += len.unwrap();
    }
    while let Some(done) = sending.join_next().await {
        done.unwrap();
    }
    let (seconds, cpu_s) = (began.elapsed().as_secs_f64(), (kernel::process::cpu_ns() - cpu) as f64 / 1e9);
    assert_eq!(got, bytes * messages);
    let (c, s) = (client.counters().await.unwrap(), server.counters().await.unwrap());
    let gbit = got as f64 * 8.0 / 1e9;
    let rest = format!(
        "{} packets, {} again, {} bursts, {} acks, {} credits, {} silences",
        c.machine.sent,
        c.machine.chunks_again,
        p.ends[0].counters().await.unwrap().bursts,
        s.machine.acks,
        s.machine.credits,
        c.machine.silences
    );
    (gbit / cpu_s, gbit / seconds, rest)
}

#[tokio::test]
#[ignore = "a measurement: run it by hand, in release"]
async fn goodput_of_the_transport() {
    println!("{:>8} {:>8} {:>10} {:>12} {:>8}", "datagram", "segments", "cipher", "Gbit/CPU-s", "Gbit/s");
    for (datagram, segments) in [(1448, 16), (1448, 44), (8948, 7)] {
        for trusted in [false, true] {
            let mut best = (0.0, 0.0, String::new());
            for _ in 0..3 {
                let config = Config {
                    datagram_bytes_max: datagram,
                    segments_max: segments,
                    trusted,
                    ..Config::default()
                };
                let one = goodput(config, 16 << 20, 32, 2).await;
                if one.0 > best.0 {
                    best = one;
                }
            }
            let cipher = if trusted { "trusted" } else { "AEAD" };
            let (cpu, wall, rest) = best;
            println!("{datagram:>8} {segments:>8} {cipher:>10} {cpu:>12.2} {wall:>8.2}   {rest}");
        }
    }
    println!("payload; processor time of both ends and of the application; best of three");
}

#[tokio::test]
#[ignore = "a measurement: run it by hand, in release"]
async fn latency_of_the_transport() {
    let p = pair(Config::default(), None).await;
    let mut times = Vec::new();
    for _ in 0..5_000 {
        let began = Instant::now();
        let (there, got) = tokio::join!(p.client.send(1, vec![7; 64]), async {
            let got = p.server.receive(1).await.unwrap();
            let (back, again) = tokio::join!(p.server.send(2, got), p.client.receive(2));
            back.unwrap();
            again.unwrap().len()
        });
        there.unwrap();
        assert_eq!(got, 64);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("64 B there and back, acknowledged: p50 {:?}, p99 {:?}", times[2_500], times[4_950]);
}

#[tokio::test]
#[ignore = "a measurement: run it by hand, in release"]
async fn memory_of_idle_connections() {
    const MANY: u64 = 2_000;
    let rss_kb = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let [one, two] = hosts(["host1", "host2"]);
    let [a, b] = [one, two].map(|identity| Endpoint::bind(HERE, identity, Config::default()).unwrap());
    let mut ends = Vec::new();
    let (mut before, mut cpu) = (0, 0);
    for i in 0..MANY + 100 {
        if i == 100 {
            (before, cpu) = (rss_kb(), kernel::process::cpu_ns());
        }
        let both = async { tokio::join!(a.connect(b.local_addr(), "host2"), b.accept()) };
        let (client, server) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        ends.push((client.unwrap(), server.unwrap()));
    }
    let handshake_us = (kernel::process::cpu_ns() - cpu) / 1_000 / MANY;
    let idle = (rss_kb() - before) * 1_024 / (2 * MANY);
    let cpu = kernel::process::cpu_ns();
    tokio::time::sleep(Duration::from_secs(15)).await;
    // the doors have let go of their handshakes by now
    let later = rss_kb().saturating_sub(before) * 1_024 / (2 * MANY);
    let asleep_us = (kernel::process::cpu_ns() - cpu) / 1_000;
    println!("{handshake_us} us of processor time a handshake, both ends");
    println!("{idle} bytes of memory a connection and end at once, {later} fifteen seconds later");
    println!("{asleep_us} us of processor time in these fifteen seconds for {} idle connections", MANY + 100);
}
