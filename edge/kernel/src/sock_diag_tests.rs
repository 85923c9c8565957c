//! Sockets read back: made here on loopback and beside `ss`, and messages no kernel would send.

use super::*;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

fn inode(fd: &impl AsRawFd) -> u32 {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    let text = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').to_string();
    text.parse().unwrap()
}

#[test]
fn a_connection_is_seen_from_both_ends_with_its_queues() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else {
            println!("skipped for {address}: this machine has no such loopback");
            continue;
        };
        let at = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        // the bytes lie in the receive queue once one can be looked at
        let mut one = [0];
        assert_eq!(server.peek(&mut one).unwrap(), 1);
        let mut diag = Diag::open().unwrap();
        let filter = Filter { local_port: Some(at.port()), ..Filter::default() };
        let seen = diag.tcp(&filter).unwrap();
        assert!(seen.iter().all(|s| s.local.port() == at.port()), "{seen:?}");
        let listen = seen.iter().find(|s| s.state == State::Listen).unwrap();
        assert_eq!((listen.inode, listen.receive_queue), (inode(&listener), 0));
        assert!(listen.send_queue > 0, "{listen:?}");
        let end = seen.iter().find(|s| s.state == State::Established).unwrap();
        assert_eq!((end.inode, end.receive_queue, end.local), (inode(&server), 1000, at));
        assert_eq!(end.remote, client.local_addr().unwrap());
        let info = end.tcp.unwrap();
        assert_eq!(info.bytes_received, 1000);
        assert!(info.bytes >= 192 && end.memory.unwrap().receive >= 1000, "{end:?}");

        let remote = Filter {
            remote: Some((at.ip(), 128)),
            remote_port: Some(at.port()),
            states: vec![State::Established],
            ..Filter::default()
        };
        let seen = diag.tcp(&remote).unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].inode, inode(&client));
        assert!(seen[0].congestion.is_some());
        let info = seen[0].tcp.unwrap();
        assert_eq!((info.bytes_sent, info.segments_out > 0), (1000, true), "{info:?}");
        let again = diag.again(&seen[0].id).unwrap().unwrap();
        assert_eq!((again.inode, again.local), (seen[0].inode, seen[0].local));

        client.shutdown(std::net::Shutdown::Both).unwrap();
        let mut rest = Vec::new();
        (&server).read_to_end(&mut rest).unwrap();
        drop((client, server));
        assert_eq!(diag.again(&end.id).unwrap().filter(|s| s.state == State::Established), None);
        assert_eq!(diag.unreadable(), 0);
    }
}

#[test]
fn datagrams_nobody_reads_are_counted_as_drops() {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let to = b.local_addr().unwrap();
    let mut diag = Diag::open().unwrap();
    let filter = Filter { local_port: Some(to.port()), ..Filter::default() };
    let drops = |diag: &mut Diag| match diag.udp(&filter) {
        Ok(seen) => Some(seen.first().unwrap().memory.unwrap().drops),
        Err(e) => {
            println!("skipped: UDP sockets cannot be listed here: {e}");
            None
        }
    };
    let Some(before) = drops(&mut diag) else { return };
    assert_eq!(before, 0);
    for _ in 0..10_000 {
        a.send_to(&[0; 1000], to).unwrap();
        if drops(&mut diag).unwrap() > 0 {
            return;
        }
    }
    panic!("ten megabytes fit into a receive buffer");
}

/// The word after `name:` in what `ss -tin` says.
fn word<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix(':'))
}

#[test]
fn counters_agree_with_ss() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(at).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    for n in [10, 5_000, 70_000] {
        let writer = std::thread::scope(|s| {
            let writing = s.spawn(|| client.write_all(&vec![1; n]));
            let mut got = vec![0; n];
            server.read_exact(&mut got).unwrap();
            writing.join().unwrap()
        });
        writer.unwrap();
    }
    let port = client.local_addr().unwrap().port();
    let Ok(out) = Command::new("ss").args(["-tinH", "sport", "=", &format!(":{port}")]).output() else {
        println!("skipped: no ss here to compare with");
        return;
    };
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let seen = Diag::open().unwrap().tcp(&Filter { local_port: Some(port), ..Filter::default() }).unwrap();
    let info = seen[0].tcp.unwrap();
    let pairs = [
        ("mss", u64::from(info.send_mss)),
        ("pmtu", u64::from(info.path_mtu)),
        ("advmss", u64::from(info.advertised_mss)),
        ("cwnd", u64::from(info.congestion_window)),
        ("bytes_sent", info.bytes_sent),
        ("bytes_acked", info.bytes_acked),
        ("segs_out", u64::from(info.segments_out)),
        ("segs_in", u64::from(info.segments_in)),
        ("data_segs_out", u64::from(info.data_segments_out)),
        ("delivered", u64::from(info.delivered)),
        ("snd_wnd", u64::from(info.peer_window)),
    ];
    let mut compared = 0;
    for (name, ours) in pairs {
        // an older ss leaves some out
        let Some(theirs) = word(&said, name) else { continue };
        assert_eq!(theirs, ours.to_string(), "{name} in {said}");
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} numbers in {said}");
    let rtt: f64 = word(&said, "rtt").unwrap().split('/').next().unwrap().parse().unwrap();
    assert!((rtt * 1000.0 - f64::from(info.rtt_us)).abs() <= 1.0, "{rtt} {info:?}");
    let min: f64 = word(&said, "minrtt").unwrap().parse().unwrap();
    assert!((min * 1000.0 - f64::from(info.min_rtt_us)).abs() <= 1.0, "{min} {info:?}");
}

#[test]
fn messages_of_any_length_are_read_or_left_out() {
    let mut message = vec![0; MSG];
    message[0] = libc::AF_INET as u8;
    message[1] = 1;
    message[8..12].copy_from_slice(&[192, 0, 2, 1]);
    let socket = parse(&message, 6).unwrap();
    assert_eq!((socket.state, socket.local.to_string()), (State::Established, "192.0.2.1:0".to_string()));
    for len in 0..MSG {
        assert_eq!(parse(&message[..len], 6), None);
    }
    // a tcp_info cut anywhere, and attributes that lie about their length
    for len in 0..300u16 {
        let mut cut = message.clone();
        cut.extend_from_slice(&(4 + len).to_ne_bytes());
        cut.extend_from_slice(&INET_DIAG_INFO.to_ne_bytes());
        cut.extend_from_slice(&vec![0xff; usize::from(len)]);
        let info = parse(&cut, 6).unwrap().tcp;
        assert_eq!(info.map(|i| i.bytes), (len > 0).then_some(len));
        assert!(info.is_none_or(|i| i.knows_limits() == (len >= 192)));
        cut[MSG] = 0xff;
        let _ = parse(&cut, 6);
    }
    message[0] = 99;
    assert_eq!(parse(&message, 6), None, "a family nobody knows");
    message[0] = libc::AF_INET6 as u8;
    message[1] = 200;
    assert_eq!(parse(&message, 6).unwrap().state, State::Unknown);
}
