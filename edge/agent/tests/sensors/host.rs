//! What NICs and hosts say of themselves, as the process with the sensors hands it over.

use crate::pair::{Pair, can_run, sh};
use std::net::UdpSocket;
use wire::Counter;

#[test]
fn a_neighbour_that_flaps_is_told_of_by_each_lost_carrier() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("flap");
    let mut a = pair.watch(0);
    let other = &pair.names[1];
    for n in 1..=3 {
        sh(&format!("ip -n {other} link set eth0 down; ip -n {other} link set eth0 up"));
        a.until(|w| w.found(Counter::CarrierLost).0 >= n);
    }
    let (lost, _, told) = a.found(Counter::CarrierLost);
    assert_eq!(lost, 3);
    assert!(told > 3, "that nothing was lost is told too");
    assert_eq!((a.grew("eth0", "carrier_lost"), a.grew("eth0", "carrier_found")), (3.0, 3.0));
    let address: std::net::Ipv4Addr = "10.9.0.1".parse().unwrap();
    let of = a.findings.iter().find(|f| f.counter == Counter::CarrierLost as u32).unwrap();
    assert_eq!(of.address, address.to_ipv6_mapped().octets());
}

#[test]
fn what_a_host_and_its_interfaces_count_comes_as_growth() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("growth");
    let (mut a, mut b) = (pair.watch(0), pair.watch(1));
    let into = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:7001")).unwrap().unwrap();
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    let before = pair.counter(1, "snmp", "Udp", "InDatagrams");
    for _ in 0..50 {
        from.send_to(&[1; 1_000], "10.9.0.2:7001").unwrap();
        into.recv(&mut [0; 1_000]).unwrap();
    }
    b.until(|w| w.grew("", "udp_in_datagrams") >= 50.0);
    a.until(|w| w.grew("eth0", "packets_sent") >= 50.0);
    assert_eq!(b.grew("", "udp_in_datagrams") as u64, pair.counter(1, "snmp", "Udp", "InDatagrams") - before);
    assert!(a.grew("eth0", "bytes_sent") >= 50.0 * 1_042.0);
    assert_eq!(a.grew("", "udp_in_datagrams"), 0.0, "the other's");
    // Two are watched: what the whole kernel lacked is no finding about one of them.
    let (dropped, of, told) = b.found(Counter::SocketDrop);
    assert!(dropped == 0 && of >= 50 && told > 0);
    a.until(|w| w.grew("", "cpu_busy_ns") > 0.0 && w.grew("cpu0", "cpu_busy_ns") > 0.0);
    assert!(a.grew("cpu0", "cpu_busy_ns") <= a.grew("", "cpu_busy_ns"));
}
