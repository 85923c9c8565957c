//! Syslog tried by messages, by floods, and on real sockets.

use super::*;
use crate::intake::tests::intake;
use crate::rows::Row;
use std::net::Ipv4Addr;
use tokio::io::AsyncWriteExt as _;
use wire::Counter;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_port_that_goes_down_is_an_event_and_an_observation() {
    let (intake, mut rows) = intake(100);
    let desk = Desk::new(Config::default(), Arc::clone(&intake));
    let now = now();
    desk.take(now, PEER, b"<187>p0-leaf0 Interface spine1 is now down for reason: x");
    desk.take(now, PEER, b"<187>Jan  1 00:00:00 p0-leaf0 Ebra: %LINEPROTO-5-UPDOWN: Line protocol on Interface spine1, changed state to down");
    // The first has no host in a known form, so that it is of an address nobody knows.
    let Ok(Row::LinkEvent(first)) = rows.try_recv() else { panic!() };
    assert_eq!((first.component, &*first.device), (None, "127.0.0.1"));
    let Ok(Row::Observation(o)) = rows.try_recv() else { panic!() };
    assert_eq!((o.counter, o.delta), (Counter::CarrierLost, 1));
    let f = Arc::clone(intake.names().fabric());
    assert_eq!(f.component_name(o.component), "p0-spine1:p0-leaf0");
    let Ok(Row::LinkEvent(second)) = rows.try_recv() else { panic!() };
    assert_eq!((&*second.device, &*second.interface, second.up), ("p0-leaf0", "spine1", false));
    // A clock of another year is not believed.
    assert_eq!(second.at, now);
    let c = intake.counted(Receiver::Syslog);
    assert_eq!((c.heard, c.kept), (2, 2));
}

#[test]
fn other_messages_are_kept_by_severity_and_rate() {
    let (intake, mut rows) = intake(1_000);
    let desk = Desk::new(Config { per_second: 1, ..Config::default() }, Arc::clone(&intake));
    let now = now();
    desk.take(now, PEER, b"<6>all is well");
    desk.take(now, PEER, b"<3> ");
    (0..15).for_each(|_| desk.take(now, PEER, b"<3>disk is full"));
    let c = intake.counted(Receiver::Syslog);
    assert_eq!((c.heard, c.kept), (17, 10));
    let dropped = (c.dropped(Dropped::Severity), c.dropped(Dropped::Malformed), c.dropped(Dropped::Rate));
    assert_eq!(dropped, (1, 1, 5));
    assert!(matches!(rows.try_recv(), Ok(Row::Log(l)) if l.severity == 3 && l.text == "disk is full"));
    // Five seconds later five more.
    (0..9).for_each(|_| desk.take(now + Nanos::from_secs(5), PEER, b"<3>disk is full"));
    assert_eq!(intake.counted(Receiver::Syslog).kept, 15);
}

#[test]
fn a_flood_of_link_messages_is_bounded_too() {
    let (intake, _rows) = intake(1_000);
    let desk = Desk::new(Config { per_second: 1, ..Config::default() }, Arc::clone(&intake));
    (0..150).for_each(|_| desk.take(Nanos::from_secs(9), PEER, b"<3>swp3: Lost carrier"));
    let c = intake.counted(Receiver::Syslog);
    assert!(c.kept.abs_diff(100) <= 1 && c.dropped(Dropped::Rate) + c.kept == 150, "{c:?}");
}

#[test]
fn many_devices_share_a_rate() {
    let (intake, _rows) = intake(10);
    let desk = Desk::new(Config { per_second: 1, ..Config::default() }, intake);
    (0..DEVICES_MAX + 100).for_each(|n| {
        desk.may(&format!("d{n}"), Nanos(1), 1.0);
    });
    assert!(desk.buckets.lock().unwrap().len() <= DEVICES_MAX + 1);
    assert!(!desk.may("another", Nanos(1), 1.0));
}

#[tokio::test]
async fn by_datagram_and_by_connection() {
    let (intake, mut rows) = intake(100);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config { udp: Some(any), tcp: Some(any), connections: 1, ..Config::default() };
    let running = start(config, Arc::clone(&intake)).await.unwrap();
    let socket = tokio::net::UdpSocket::bind(any).await.unwrap();
    socket.send_to(b"<2>by datagram", running.address("udp").unwrap()).await.unwrap();
    assert!(matches!(rows.recv().await, Some(Row::Log(l)) if l.text == "by datagram"));
    let mut stream = tokio::net::TcpStream::connect(running.address("tcp").unwrap()).await.unwrap();
    stream.write_all(b"10 <2>counted\n<2>by line\n").await.unwrap();
    assert!(matches!(rows.recv().await, Some(Row::Log(l)) if l.text == "counted"));
    assert!(matches!(rows.recv().await, Some(Row::Log(l)) if l.text == "by line"));
    // One connection more than allowed is closed at once, and counted.
    let mut more = tokio::net::TcpStream::connect(running.address("tcp").unwrap()).await.unwrap();
    assert!(matches!(more.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    assert_eq!(intake.counted(Receiver::Syslog).dropped(Dropped::TooMany), 1);
}
