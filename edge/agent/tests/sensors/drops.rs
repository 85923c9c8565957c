//! Packets thrown away, reason by reason, against whoever else counts them.

use crate::pair::{Pair, can_run, sh};
use std::net::UdpSocket;

#[test]
fn drops_are_counted_by_reason_and_only_where_they_happen() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("drop");
    let (mut a, mut b) = (pair.watch(0), pair.watch(1));
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    // Nobody listens: 37 of them. The kernel answers each with an ICMP error, up to its limit, which is no drop.
    for _ in 0..37 {
        // An error of an earlier one may come back first.
        while from.send_to(&[1; 100], "10.9.0.2:7001").is_err() {}
    }
    // A full buffer: what fits is taken, the rest is thrown away.
    let full = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:7002")).unwrap().unwrap();
    let socket = socket2::SockRef::from(&full);
    socket.set_recv_buffer_size(2_048).unwrap();
    for _ in 0..200 {
        while from.send_to(&[1; 1_000], "10.9.0.2:7002").is_err() {}
    }
    // A rule that drops.
    sh(&format!(
        "ip netns exec {} nft 'add table t; add chain t i {{ type filter hook input priority 0; }};
         add rule t i udp dport 7003 counter drop'",
        pair.names[1]
    ));
    for _ in 0..53 {
        while from.send_to(&[1; 10], "10.9.0.2:7003").is_err() {}
    }
    b.until(|w| w.dropped().get("NETFILTER_DROP") >= Some(&53));
    a.next();
    let drops = b.dropped();
    assert_eq!(drops.get("NO_SOCKET"), Some(&37), "{drops:?}");
    assert_eq!(pair.counter(1, "snmp", "Udp", "NoPorts"), 37);
    let errors = pair.counter(1, "snmp", "Udp", "RcvbufErrors");
    assert!(errors > 100);
    assert_eq!(drops.get("SOCKET_RCVBUFF"), Some(&errors), "{drops:?}");
    assert_eq!(drops.get("NETFILTER_DROP"), Some(&53), "{drops:?}");
    assert_eq!(pair.nft(1), 53);
    assert_eq!(a.dropped().get("NETFILTER_DROP"), None, "the other namespace hears nothing of it");
    let row = b.drops.iter().find(|d| d.reason == "NETFILTER_DROP").unwrap();
    assert_eq!((row.device.as_str(), row.protocol), ("eth0", 0x0800));
    // IPv4, UDP, from 10.9.0.1 to 10.9.0.2 port 7003
    assert_eq!(row.exemplar[0] >> 4, 4);
    assert_eq!(row.exemplar[12..20], [10, 9, 0, 1, 10, 9, 0, 2]);
    assert_eq!(row.exemplar[22..24], 7_003u16.to_be_bytes());
    assert_ne!(row.place, "");
}
