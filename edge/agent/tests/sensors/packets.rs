//! Packets by five-tuple, against nftables and the kernel's counters.

use crate::pair::{Pair, Watch, can_run, sh};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// What all readings told of the flows whose name has this in it.
fn sum(w: &Watch, flow: &str, name: &str) -> u64 {
    let mine = w.metrics.iter().filter(|m| m.sensor == "flows" && m.entity.contains(flow) && m.name == name);
    mine.map(|m| m.value as u64).sum()
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
    let flow = "10.9.0.1:4000>10.9.0.2:2000 udp eth0 in";
    b.until(|w| sum(w, flow, "packets") >= 60);
    let counted = pair.nft_counts(1);
    assert_eq!((counted[0].0, counted[1].0), (37, 23));
    let (packets, bytes) = (counted[0].0 + counted[1].0, counted[0].1 + counted[1].1);
    assert_eq!((sum(&b, flow, "packets"), sum(&b, flow, "ecn_marked")), (packets, 37));
    assert_eq!(sum(&b, flow, "bytes"), bytes + 14 * packets, "with the Ethernet headers");
    assert_eq!((sum(&b, flow, "hops_left_min"), sum(&b, flow, "hops_left_max")), (64, 64));
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
    // Some hundred bursts: few enough that each is looked at.
    out.write_all(&vec![7; 3 << 20]).unwrap();
    drop(out);
    assert_eq!(taker.join().unwrap(), 3 << 20);
    let segments = |what: &str| pair.counter(0, "snmp", "Tcp", what);
    // The kernel counts what it sends again apart; on a busy machine it does for want of a timely answer.
    let sent = || segments("OutSegs") + segments("RetransSegs");
    a.until(|w| sum(w, "7006 tcp eth0 out", "packets") >= sent());
    a.next();
    assert!(a.metrics.iter().all(|m| m.name != "one_in"));
    assert_eq!(sum(&a, "10.9.0.2:7006 tcp eth0 out", "packets"), sent());
    assert_eq!(sum(&a, ">10.9.0.1:", "packets"), segments("InSegs"));
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
