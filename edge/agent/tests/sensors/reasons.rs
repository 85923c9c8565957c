//! One reason after the other for which the kernel throws packets away, each made to happen another number of times, and
//! counted by somebody else too: the kernel's own tables, nftables, the queueing discipline, the interface.

use crate::frames::{ethernet, ipv4, mac, send, tcp, udp};
use crate::pair::{Pair, Watch, can_run, sh};
use std::net::{TcpListener, UdpSocket};

const A: [u8; 4] = [10, 9, 0, 1];
const B: [u8; 4] = [10, 9, 0, 2];

fn dropped(w: &Watch, reason: &str) -> u64 {
    w.dropped().get(reason).copied().unwrap_or(0)
}

/// A counter of `/proc/net/snmp6`.
fn snmp6(pair: &Pair, name: &str) -> u64 {
    let text = sh(&format!("ip netns exec {} cat /proc/net/snmp6", pair.names[1]));
    let line = text.lines().find(|l| l.split_whitespace().next() == Some(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The number behind a name in a program's JSON.
fn json(text: &str, name: &str) -> u64 {
    let after = text.split(&format!("\"{name}\":")).nth(1).unwrap();
    after.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn eighteen_kinds_of_bad_packets_are_counted_as_others_count_them() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("bad");
    let to = mac(&pair, 1);
    let at = &pair.names[1];
    sh(&format!(
        "ip netns exec {at} sysctl -qw net.ipv4.conf.eth0.rp_filter=1 net.ipv6.conf.eth0.disable_ipv6=1
         ip netns exec {} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
         ip netns exec {at} nft -f - <<'END'
table netdev t {{
 chain c {{ type filter hook ingress device \"eth0\" priority 0;
  ether type 0x88b5 counter
  ether daddr 02:00:00:00:00:77 counter
  ip saddr 224.0.0.1 counter
  ip daddr 127.0.0.1 counter
  ip saddr 10.9.0.2 counter
  ip daddr 0.0.0.0 counter
  tcp dport 7010 tcp flags & (syn|fin) == syn|fin counter
  tcp dport 7010 tcp flags & rst == rst counter
 }}
}}
END",
        pair.names[0]
    ));
    let mut w = pair.watch(1);
    let _listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:7010")).unwrap().unwrap();
    let frame = |packet: Vec<u8>| ethernet(&to, 0x0800, &packet);
    let wrong = |mut packet: Vec<u8>, at: usize| {
        packet[at] ^= 0x55;
        frame(packet)
    };
    let icmp = [8, 0, 0, 0, 0, 1, 0, 1];
    let mut versionless = ipv4(17, A, B, &[0; 8]);
    versionless[0] = 0x25;
    let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    v6.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    v6.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    send(
        &pair,
        &[
            (11, wrong(udp(A, B, 7_009, b"damaged"), 29)),
            (12, wrong(tcp(A, B, 7_010, 2), 25)),
            (13, frame(ipv4(1, A, B, &icmp))),
            (14, wrong(udp(A, B, 7_009, b"x"), 10)),
            (15, frame(versionless)),
            // a length beyond its end
            (16, wrong(udp(A, B, 7_009, b"x"), 24)),
            (17, frame(ipv4(253, A, B, &[0; 8]))),
            (18, ethernet(&[2, 0, 0, 0, 0, 0x77], 0x0800, &udp(A, B, 7_009, b"x"))),
            (19, ethernet(&to, 0x88b5, &[0; 46])),
            (20, frame(udp([10, 8, 0, 1], B, 7_009, b"x"))),
            (21, frame(udp(A, [10, 7, 0, 1], 7_009, b"x"))),
            (22, frame(udp([224, 0, 0, 1], B, 7_009, b"x"))),
            (23, frame(udp(A, [127, 0, 0, 1], 7_009, b"x"))),
            (24, frame(udp(B, B, 7_009, b"x"))),
            (25, frame(udp(A, [0, 0, 0, 0], 7_009, b"x"))),
            (26, frame(tcp(A, B, 7_010, 3))),
            (27, frame(tcp(A, B, 7_010, 4))),
            (28, ethernet(&to, 0x86dd, &v6)),
        ],
    );
    w.until(|w| dropped(w, "IPV6DISABLED") >= 28);
    w.next();
    let nft = pair.nft_counts(1);
    let [kind, other, source, loopback, own, zero, both, reset] = std::array::from_fn(|i| nft[i].0);
    let snmp = |table, name| pair.counter(1, "snmp", table, name);
    let netstat = |table, name| pair.counter(1, "netstat", table, name);
    let link = sh(&format!("ip -n {at} -s -s -j link show dev eth0"));
    println!("{:?}\n{link}", w.dropped());
    let damaged = snmp("Udp", "InCsumErrors");
    let checks = [
        ("UDP_CSUM", 11, damaged),
        ("TCP_CSUM", 12, snmp("Tcp", "InCsumErrors")),
        ("ICMP_CSUM", 13, snmp("Icmp", "InCsumErrors")),
        ("IP_CSUM", 14, netstat("IpExt", "InCsumErrors")),
        ("IP_INHDR", 15, snmp("Ip", "InHdrErrors") - netstat("IpExt", "InCsumErrors")),
        ("PKT_TOO_SMALL", 16, snmp("Udp", "InErrors") - damaged),
        ("IP_NOPROTO", 17, snmp("Ip", "InUnknownProtos")),
        ("OTHERHOST", 18, json(&link, "otherhost")),
        ("OTHERHOST", 18, other),
        ("UNHANDLED_PROTO", 19, kind),
        ("IP_RPFILTER", 20, netstat("TcpExt", "IPReversePathFilter")),
        ("IP_INADDRERRORS", 21, snmp("Ip", "InAddrErrors")),
        ("IP_INVALID_SOURCE", 22, source),
        ("IP_LOCALNET", 23, loopback),
        ("IP_LOCAL_SOURCE", 24, own),
        ("IP_INVALID_DEST", 25, zero),
        ("TCP_FLAGS", 26, both),
        ("TCP_RESET", 27, reset),
        ("IPV6DISABLED", 28, snmp6(&pair, "Ip6InDiscards")),
    ];
    let told: Vec<_> = checks.iter().map(|(reason, _, _)| (*reason, dropped(&w, reason))).collect();
    let made: Vec<_> = checks.iter().map(|(reason, made, _)| (*reason, *made)).collect();
    let seen: Vec<_> = checks.iter().map(|(reason, _, seen)| (*reason, *seen)).collect();
    assert_eq!(told, seen, "the sensor and the witness");
    assert_eq!(told, made, "the sensor and what was done");
}

#[test]
fn packets_without_a_neighbour_a_route_or_a_place_in_the_queue_are_counted() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("noway");
    let (at, to) = (&pair.names[0], mac(&pair, 1));
    sh(&format!(
        "ip netns exec {at} sysctl -qw net.ipv4.neigh.eth0.mcast_solicit=1 net.ipv4.neigh.eth0.retrans_time_ms=100
         ip netns exec {at} nft 'add table t; add chain t o {{ type filter hook output priority 0; }};
         add rule t o ip daddr 10.9.0.98 counter; add rule t o ip daddr 10.9.0.99 counter'
         ip netns exec {} sysctl -qw net.ipv4.conf.eth0.forwarding=1",
        pair.names[1]
    ));
    let (mut a, mut b) = (pair.watch(0), pair.watch(1));
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    // Nobody answers: what waited for the answer goes.
    for _ in 0..9 {
        let _ = from.send_to(&[1; 100], "10.9.0.98:7001");
    }
    a.until(|w| dropped(w, "NEIGH_FAILED") >= pair.nft_counts(0)[0].0);
    let failed = dropped(&a, "NEIGH_FAILED");
    assert_eq!((failed, pair.nft_counts(0)[0].0), (9, 9));
    assert_eq!(dropped(&a, "NEIGH_QUEUEFULL"), 0);
    // More than may wait: the oldest go first, the others when nobody answers.
    sh(&format!("ip netns exec {at} sysctl -qw net.ipv4.neigh.eth0.unres_qlen_bytes=3000"));
    for _ in 0..31 {
        let _ = from.send_to(&[1; 100], "10.9.0.99:7001");
    }
    let both = |w: &Watch| dropped(w, "NEIGH_FAILED") - failed + dropped(w, "NEIGH_QUEUEFULL");
    a.until(|w| both(w) >= pair.nft_counts(0)[1].0);
    assert_eq!((both(&a), pair.nft_counts(0)[1].0), (31, 31));
    assert!(dropped(&a, "NEIGH_QUEUEFULL") > 0 && dropped(&a, "NEIGH_FAILED") > failed);
    // A router without a route.
    send(&pair, &[(29, ethernet(&to, 0x0800, &udp(A, [10, 7, 0, 1], 7_009, b"x")))]);
    b.until(|w| dropped(w, "IP_INNOROUTES") >= 29);
    let witness = pair.counter(1, "netstat", "IpExt", "InNoRoutes");
    assert_eq!((dropped(&b, "IP_INNOROUTES"), witness), (29, 29));
    // A queue with room for four packets, and no rate to speak of.
    sh(&format!("tc -n {at} qdisc add dev eth0 root tbf rate 8kbit burst 1100 limit 4200"));
    for _ in 0..40 {
        let _ = from.send_to(&[1; 1_000], "10.9.0.2:7001");
    }
    let refused = || json(&sh(&format!("tc -n {at} -s -j qdisc show dev eth0")), "drops");
    let told = |w: &Watch| dropped(w, "QDISC_DROP") + dropped(w, "QDISC_OVERLIMIT");
    // An interface's own chatter goes the same way.
    a.until(|w| told(w) == refused());
    println!("{:?}", a.dropped());
    assert!(refused() >= 30);
    assert_eq!(told(&a), refused());
}
