//! What arrives is what was sent, with all that is known of it, whatever the kernel lacks.

use super::*;
use crate::poll::readable;

#[test]
fn the_kernel_knows_how_long_packets_may_be() {
    let mtu = PathMtu::new().unwrap();
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 0, 0);
    assert_eq!(mtu.to(&to), Ok(65_536));
    assert_eq!(mtu.to(&to), Ok(65_536), "it may be asked again");
}

#[test]
fn a_batch_arrives_with_all_that_is_known_of_it() {
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let a = UdpSocket::bind(any, UdpOptions::default()).unwrap();
    let b = UdpSocket::bind(any, UdpOptions::default()).unwrap();
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port().unwrap(), 0, 0);
    let mut out = Outgoing::default();
    for i in 0..100u8 {
        let route = Route {
            to,
            from: Some(Ipv6Addr::LOCALHOST),
            traffic_class: 0xba,
            flow_label: 0x12300 + u32::from(i),
        };
        out.push(route, |buf| buf.extend_from_slice(&[i; 100]));
    }
    let before = crate::timestamp::unix_ns();
    assert_eq!(a.send(&mut out), Ok(100));
    let mut batch = Received::default();
    let mut got = 0;
    while got < 100 {
        assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
        b.receive(&mut batch).unwrap();
        for d in batch.iter() {
            assert_eq!(d.payload, [got as u8; 100]);
            assert_eq!((d.from, d.port, d.to), (Ipv6Addr::LOCALHOST, a.port().unwrap(), Ipv6Addr::LOCALHOST));
            assert_eq!((d.traffic_class, d.flow_label, d.hop_limit), (0xba, 0x12300 + got, 64));
            assert!(d.at_ns >= before && d.at_ns <= crate::timestamp::unix_ns());
            assert!(!d.truncated && d.hop_by_hop.is_empty());
            got += 1;
        }
    }
    assert_eq!(b.receive(&mut batch), Ok(0));
}

#[test]
fn what_is_sent_together_arrives_one_by_one() {
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let a = UdpSocket::bind(any, UdpOptions::default()).unwrap();
    let b = UdpSocket::bind(any, UdpOptions::default()).unwrap();
    b.coalesce().unwrap();
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port().unwrap(), 0, 0);
    let route = Route { to, from: None, traffic_class: 2, flow_label: 7 };
    let mut out = Outgoing::default();
    out.push_segments(route, 100, |buf| {
        for i in 0..5u8 {
            buf.extend_from_slice(&[i; 100][..if i == 4 { 30 } else { 100 }]);
        }
    });
    out.push(route, |buf| buf.push(9));
    assert_eq!(a.send(&mut out), Ok(2));
    let (mut batch, mut got) = (Received::default(), Vec::new());
    while got.len() < 6 {
        assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
        b.receive(&mut batch).unwrap();
        got.extend(batch.iter().map(|d| (d.payload.to_vec(), d.flow_label, d.at_ns > 0)));
    }
    let want = [(0, 100), (1, 100), (2, 100), (3, 100), (4, 30), (9, 1)];
    assert_eq!(got, want.map(|(byte, len)| (vec![byte; len], 7, true)));
}

const HERE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);

/// Two sockets on loopback, and where the second one is.
fn pair() -> (UdpSocket, UdpSocket, SocketAddrV6) {
    let [a, b] = [0; 2].map(|_| UdpSocket::bind(HERE, UdpOptions::default()).unwrap());
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port().unwrap(), 0, 0);
    (a, b, to)
}

/// Sends bursts with a flow label and a mark each, and one packet alone; what arrives, in order, is
/// `(first byte, length, traffic class, flow label)`.
fn bursts(a: &UdpSocket, b: &UdpSocket, to: SocketAddrV6) -> Vec<(u8, usize, u8, u32)> {
    let mut out = Outgoing::default();
    for burst in 0..3u8 {
        // ECT(0), ECT(1), CE (RFC 3168, section 5)
        let traffic_class = [2, 1, 3][usize::from(burst)];
        let route = Route {
            to,
            from: Some(Ipv6Addr::LOCALHOST),
            traffic_class,
            flow_label: 0x100 + u32::from(burst),
        };
        out.push_segments(route, 200, |buf| {
            for i in 0..4u8 {
                buf.extend_from_slice(&[burst * 16 + i; 200][..if i == 3 { 90 } else { 200 }]);
            }
        });
    }
    out.push(Route { to, from: None, traffic_class: 0, flow_label: 0x777 }, |buf| buf.push(0xff));
    assert_eq!(a.send(&mut out), Ok(4));
    assert_eq!((out.left(), out.refused()), (0, 0));
    assert_eq!(a.send(&mut out), Ok(0), "nothing is sent twice");
    let (mut batch, mut got) = (Received::with(8, 65_535), Vec::new());
    while got.len() < 13 {
        assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
        b.receive(&mut batch).unwrap();
        let whole: Vec<(Datagram<'_>, Vec<u8>)> =
            batch.iter().map(|d| (Datagram { payload: &[], ..d }, d.payload.to_vec())).collect();
        for (d, payload) in &whole {
            assert!(payload.iter().all(|byte| *byte == payload[0]));
            got.push((payload[0], payload.len(), d.traffic_class, d.flow_label));
        }
        let whole: Vec<_> = whole.iter().map(|(d, p)| (d.flow_label, d.at_ns, p.clone())).collect();
        let same: Vec<_> = batch.iter_mut().map(|(d, p)| (d.flow_label, d.at_ns, p.to_vec())).collect();
        assert_eq!(whole, same, "in place and not, it is the same");
    }
    got
}

fn expected(label: bool) -> Vec<(u8, usize, u8, u32)> {
    let mut want = Vec::new();
    for burst in 0..3u8 {
        for i in 0..4u8 {
            let class = [2, 1, 3][usize::from(burst)];
            want.push((burst * 16 + i, if i == 3 { 90 } else { 200 }, class, 0x100 + u32::from(burst)));
        }
    }
    want.push((0xff, 1, 0, 0x777));
    if !label {
        // the kernel's own choice, or none
        want.iter_mut().for_each(|w| w.3 = 0);
    }
    want
}

#[test]
fn bursts_carry_their_own_label_and_mark() {
    let (a, b, to) = pair();
    assert_eq!(a.use_everything(), Offered::ALL);
    b.use_everything();
    assert_eq!(bursts(&a, &b, to), expected(true));
    assert_eq!(a.offered(), Offered::ALL);
}

#[test]
fn whatever_a_kernel_lacks_the_same_arrives() {
    for bits in 0..8u8 {
        let only = Offered {
            segment: bits & 1 != 0,
            flow_label: bits & 2 != 0,
            batch: bits & 4 != 0,
            coalesce: false,
        };
        let (a, b, to) = pair();
        a.forgo(only);
        b.forgo(only);
        assert_eq!(a.offered(), only);
        let mut got = bursts(&a, &b, to);
        if !only.flow_label {
            assert!(got.iter().all(|g| !(0x100..0x103).contains(&g.3)));
            got.iter_mut().for_each(|g| g.3 = 0);
        }
        assert_eq!(got, expected(only.flow_label), "{only:?}");
    }
}

/// Kernels refuse UDP_SEGMENT where datagrams go without checksum, which is a refusal one can have anywhere.
#[test]
fn a_burst_that_is_refused_goes_one_by_one_and_that_is_remembered() {
    let (a, b, to) = pair();
    const UDP_NO_CHECK6_TX: i32 = 101;
    const UDP_NO_CHECK6_RX: i32 = 102;
    set(a.as_fd(), "no checksum out", libc::SOL_UDP, UDP_NO_CHECK6_TX, &1i32).unwrap();
    set(b.as_fd(), "no checksum in", libc::SOL_UDP, UDP_NO_CHECK6_RX, &1i32).unwrap();
    assert!(a.use_everything().segment, "not known yet");
    assert_eq!(bursts(&a, &b, to), expected(true));
    assert_eq!(a.offered(), Offered { segment: false, ..Offered::ALL });
    assert_eq!(bursts(&a, &b, to), expected(true));
}

#[test]
fn a_packet_that_cannot_go_holds_up_no_other() {
    let (a, b, to) = pair();
    let mut out = Outgoing::default();
    let route = |to| Route { to, from: None, traffic_class: 0, flow_label: 5 };
    // longer than any datagram, and an address of documentation (RFC 3849) from loopback
    out.push(route(to), |buf| buf.resize(buf.len() + 70_000, 0));
    out.push(route(to), |buf| buf.push(1));
    let from = Some("2001:db8::1".parse().unwrap());
    out.push(Route { from, ..route(to) }, |buf| buf.push(2));
    out.push_segments(Route { from, ..route(to) }, 1, |buf| buf.extend_from_slice(&[3, 3]));
    out.push(route(to), |buf| buf.push(4));
    assert_eq!(a.send(&mut out), Ok(2));
    assert_eq!((out.refused(), out.left()), (3, 0));
    assert_eq!(a.offered(), Offered { coalesce: false, ..Offered::ALL }, "no fault of the kernel's");
    let (mut batch, mut got) = (Received::default(), Vec::new());
    while got.len() < 2 {
        assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
        b.receive(&mut batch).unwrap();
        got.extend(batch.iter().map(|d| d.payload.to_vec()));
    }
    assert_eq!(got, [[1], [4]]);
}

#[test]
fn an_empty_datagram_is_one_too() {
    let (a, b, to) = pair();
    let mut out = Outgoing::default();
    out.push(Route { to, from: None, traffic_class: 0, flow_label: 0 }, |_| {});
    assert_eq!(a.send(&mut out), Ok(1));
    assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
    let mut batch = Received::default();
    assert_eq!(b.receive(&mut batch), Ok(1));
    assert_eq!(batch.iter().map(|d| d.payload.len()).collect::<Vec<_>>(), [0]);
    assert_eq!(batch.iter_mut().map(|(_, p)| p.len()).collect::<Vec<_>>(), [0]);
}

#[test]
fn what_a_full_buffer_does_not_take_is_sent_later() {
    let [a, b] = [0; 2]
        .map(|_| UdpSocket::bind(HERE, UdpOptions { send_bytes: 4_096, ..UdpOptions::default() }).unwrap());
    // loopback delivers at once, so the buffer fills only where it is shorter than one burst
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port().unwrap(), 0, 0);
    let mut out = Outgoing::default();
    for i in 0..100u8 {
        out.push(Route { to, from: None, traffic_class: 0, flow_label: 0 }, |buf| {
            buf.extend_from_slice(&[i; 900])
        });
    }
    let (mut batch, mut got) = (Received::default(), Vec::new());
    let mut sent = 0;
    while got.len() < 100 {
        sent += a.send(&mut out).unwrap();
        assert_eq!(sent + out.left(), 100);
        if b.receive(&mut batch).unwrap() == 0 {
            assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
        }
        got.extend(batch.iter().map(|d| d.payload[0]));
    }
    assert_eq!(got, (0..100).collect::<Vec<u8>>());
}
