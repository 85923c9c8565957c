//! Packets by five-tuple, against nftables and the kernel's counters.

use crate::pair::{Pair, Watch, can_run, sh};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use wire::sensor::PassingRow;

/// What all readings told of the packets to a port, received or sent.
fn sum(w: &Watch, to_port: u32, received: bool, what: fn(&PassingRow) -> u64) -> u64 {
    let mine = w.flows.iter().filter(|f| f.to_port == to_port && f.way == u32::from(received));
    mine.map(what).sum()
}

#[test]
fn marked_packets_are_what_nftables_counted() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("mark");
    sh(&format!(
        "ip netns exec {} nft 'add table t; add chain t c {{ type filter hook prerouting priority 0; }};
         add rule t c udp dport 2000 ip ecn ce counter; add rule t c udp dport 2000 ip ecn ect0 counter'",
        pair.names[1]
    ));
    let mut b = pair.watch(1);
    let _into = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:2000")).unwrap().unwrap();
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:4000")).unwrap().unwrap();
    for (tos, n) in [(3, 37), (2, 23)] {
        socket2::SockRef::from(&from).set_tos_v4(tos).unwrap();
        for _ in 0..n {
            from.send_to(&[1; 100], "10.9.0.2:2000").unwrap();
        }
    }
    b.until(|w| sum(w, 2_000, true, |f| f.packets) >= 60);
    let counted = pair.nft_counts(1);
    assert_eq!((counted[0].0, counted[1].0), (37, 23));
    let (packets, bytes) = (counted[0].0 + counted[1].0, counted[0].1 + counted[1].1);
    let all = |what| sum(&b, 2_000, true, what);
    assert_eq!((all(|f| f.packets), all(|f| f.marked)), (packets, 37));
    assert_eq!(all(|f| f.bytes), bytes + 14 * packets, "with the Ethernet headers");
    let row = b.flows.iter().find(|f| f.to_port == 2_000).unwrap();
    assert_eq!((row.device.as_str(), row.protocol, row.from_port, row.one_in), ("eth0", 17, 4_000, 1));
    assert_eq!((row.hops_left_min, row.hops_left_max), (64, 64));
    let address: std::net::Ipv4Addr = "10.9.0.1".parse().unwrap();
    assert_eq!(row.from, address.to_ipv6_mapped().octets());
}

#[test]
fn bursts_are_counted_by_their_wire_segments() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("bursts");
    for n in &pair.names {
        sh(&format!("ip netns exec {n} ethtool -K eth0 tx on rx on tso on gso on gro on >/dev/null"));
    }
    let mut a = pair.watch(0);
    let listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:7006")).unwrap().unwrap();
    let mut out = pair.inside(0).run(|| TcpStream::connect("10.9.0.2:7006")).unwrap().unwrap();
    let (mut into, _) = listener.accept().unwrap();
    let taker = std::thread::spawn(move || into.read_to_end(&mut Vec::new()).unwrap());
    // Few enough that each is looked at, also where a busy machine sends every segment by itself.
    out.write_all(&vec![7; 1 << 19]).unwrap();
    drop(out);
    assert_eq!(taker.join().unwrap(), 1 << 19);
    let segments = |what: &str| pair.counter(0, "snmp", "Tcp", what);
    // The kernel counts what it sends again apart; on a busy machine it does for want of a timely answer.
    let sent = || segments("OutSegs") + segments("RetransSegs");
    a.until(|w| sum(w, 7_006, false, |f| f.packets) >= sent());
    a.next();
    assert!(a.flows.iter().all(|f| f.one_in == 1));
    assert_eq!(sum(&a, 7_006, false, |f| f.packets), sent());
    assert_eq!(
        a.flows.iter().filter(|f| f.from_port == 7_006).map(|f| f.packets).sum::<u64>(),
        segments("InSegs")
    );
}

#[test]
fn nothing_stays_on_an_interface_nobody_watches() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("gone");
    // An interface whose number no other test has.
    sh(&format!(
        "ip -n {a} link add extra index 47110 type veth peer name other; ip -n {a} link set extra up",
        a = pair.names[0]
    ));
    // The kernel says of each descriptor of a hook where it is.
    let hooks = || {
        let all = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
        let texts = all.filter_map(|f| std::fs::read_to_string(f.path()).ok());
        texts.filter(|t| t.lines().any(|l| l.starts_with("ifindex:") && l.ends_with("\t47110"))).count()
    };
    let mut other = pair.watch(1);
    assert_eq!(hooks(), 0);
    let watch = pair.watch(0);
    assert_eq!(hooks(), 2, "in and out");
    drop(watch);
    let begun = std::time::Instant::now();
    while hooks() > 0 {
        other.next();
        assert!(begun.elapsed() < Duration::from_secs(30), "{} stay", hooks());
    }
}
