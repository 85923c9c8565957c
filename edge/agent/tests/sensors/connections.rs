//! Connections, against the kernel's own tables.

use crate::pair::{Pair, Watch, can_run, sh};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use wire::sensor::TcpRow;

/// A connection from side 0 to side 1.
fn connection(pair: &Pair) -> (TcpStream, TcpStream) {
    let listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:5001")).unwrap().unwrap();
    let to: SocketAddr = "10.9.0.2:5001".parse().unwrap();
    let out = pair.inside(0).run(|| TcpStream::connect(to)).unwrap().unwrap();
    (out, listener.accept().unwrap().0)
}

#[test]
fn retransmits_are_those_the_kernel_counts_whatever_their_cause() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("retr");
    sh(&format!(
        "ip netns exec {} nft 'add table t; add chain t i {{ type filter hook input priority 0; }};
         add rule t i tcp dport 5001 numgen random mod 100 < 3 counter drop'",
        pair.names[1]
    ));
    let (mut sender, mut receiver) = (pair.watch(0), pair.watch(1));
    let (mut out, mut into) = connection(&pair);
    let bytes = 8 << 20;
    let taker = std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            left -= into.read(&mut buf).unwrap();
        }
        into
    });
    let piece = vec![7; 1 << 16];
    for _ in 0..bytes / piece.len() {
        out.write_all(&piece).unwrap();
    }
    let into = taker.join().unwrap();
    // All is acknowledged when nothing is on its way any more: the next reading has the last of it.
    let idle = |w: &Watch, of: fn(&TcpRow) -> u32| {
        w.tcp
            .iter()
            .rev()
            .find(|r| of(r) == 5_001)
            .is_some_and(|r| r.unacked == 0 && r.segs_out + r.segs_in == 0)
    };
    let all = bytes as u64;
    sender.until(|w| idle(w, |r| r.remote_port) && w.tcp.iter().map(|r| r.bytes_acked).sum::<u64>() > all);
    receiver
        .until(|w| idle(w, |r| r.local_port) && w.tcp.iter().map(|r| r.bytes_received).sum::<u64>() >= all);
    let sum = |w: &Watch, of: fn(&TcpRow) -> u64| -> u64 {
        w.tcp.iter().filter(|r| r.remote_port == 5_001 || r.local_port == 5_001).map(of).sum()
    };
    let again = sum(&sender, |r| r.retrans);
    assert!(again > 50, "only {again} were sent again");
    assert_eq!(again, pair.counter(0, "snmp", "Tcp", "RetransSegs"));
    let causes = sum(&sender, |r| r.retrans_fast + r.retrans_timeout + r.retrans_probe);
    // Kernels before 6.17 tell of no event for one whose sending failed on this host; the connection counts it.
    assert!(causes <= again && causes * 10 >= again * 6, "{causes} of {again} have a cause");
    let probes = pair.counter(0, "netstat", "TcpExt", "TCPLossProbes");
    assert!(sum(&sender, |r| r.retrans_probe) <= probes);
    assert_eq!(sum(&sender, |r| r.bytes_acked), bytes as u64 + 1, "and the SYN");
    assert_eq!(sum(&receiver, |r| r.bytes_received), bytes as u64);
    // The kernel's table counts what came together as one, the connection its segments.
    let over_holes = pair.counter(1, "netstat", "TcpExt", "TCPOFOQueue");
    assert!(over_holes > 0 && sum(&receiver, |r| r.out_of_order) >= over_holes);
    assert_eq!(receiver.dropped().get("NETFILTER_DROP").copied().unwrap_or(0), pair.nft(1));
    let rtt: Vec<&TcpRow> = sender.tcp.iter().filter(|r| r.rtt_samples > 0).collect();
    assert!(
        !rtt.is_empty() && rtt.iter().all(|r| r.rtt_min_us <= r.rtt_p50_us && r.rtt_p50_us <= r.rtt_max_us)
    );
    let row = sender.tcp.iter().rev().find(|r| r.remote_port == 5_001).unwrap();
    assert_eq!((row.pid, row.state), (std::process::id(), 1), "{row:?}");
    drop((out, into));
}

#[test]
fn connections_that_end_between_two_readings_are_not_missed() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("short");
    let mut a = pair.watch(0);
    let listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:5002")).unwrap().unwrap();
    let taker = std::thread::spawn(move || {
        for _ in 0..300 {
            let (mut s, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            s.read_to_end(&mut all).unwrap();
        }
    });
    let inside = pair.inside(0);
    for _ in 0..300 {
        let mut s = inside.run(|| TcpStream::connect("10.9.0.2:5002")).unwrap().unwrap();
        s.write_all(&[5; 10]).unwrap();
    }
    taker.join().unwrap();
    // A port nobody listens at: such connections end too.
    for _ in 0..7 {
        assert!(inside.run(|| TcpStream::connect("10.9.0.2:5999")).unwrap().is_err());
    }
    let ended = |w: &Watch, port: u32| -> (u32, u32) {
        let rows = w.tcp.iter().filter(|r| r.connections > 0 && r.remote_port == port);
        rows.fold((0, 0), |sum, r| (sum.0 + r.connections, sum.1 + r.failed))
    };
    a.until(|w| ended(w, 5_002).0 >= 300 && ended(w, 5_999).0 >= 7);
    assert_eq!((ended(&a, 5_002), ended(&a, 5_999)), ((300, 0), (7, 7)));
}

/// Writes until nothing goes any more.
fn fill(out: &mut TcpStream) -> usize {
    out.set_nonblocking(true).unwrap();
    let (mut sent, piece) = (0, [7; 1 << 14]);
    while let Ok(n) = out.write(&piece) {
        sent += n;
    }
    out.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn closed_windows_are_seen_at_both_ends_as_often_as_the_kernel_closes_them() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("zero");
    // Whatever is sent with a closed window, by somebody who looks at packets.
    sh(&format!(
        "ip netns exec {} nft 'add table t; add chain t o {{ type filter hook output priority 0; }};
         add rule t o tcp sport 5001 tcp window 0 tcp flags & (syn|rst) == 0 counter'",
        pair.names[1]
    ));
    let (mut a, mut b) = (pair.watch(0), pair.watch(1));
    let (mut out, mut into) = connection(&pair);
    let closed = |w: &Watch, bit: u32| w.tcp.iter().filter(|r| r.zero_window & bit != 0).count();
    for turn in 1..=3 {
        a.tcp.clear();
        b.tcp.clear();
        let mut sent = 0;
        // What was sent makes room for more, until the window closes.
        a.until(|w| {
            closed(w, 1) > 0 || {
                sent += fill(&mut out.try_clone().unwrap());
                false
            }
        });
        b.until(|w| closed(w, 2) > 0);
        assert!(closed(&a, 1) > 0 && closed(&b, 2) > 0, "turn {turn}");
        let mut left = sent;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            left -= into.read(&mut buffer).unwrap();
        }
        a.tcp.clear();
        b.tcp.clear();
        a.until(|w| w.tcp.iter().any(|r| r.remote_port == 5_001 && r.zero_window == 0));
    }
    out.write_all(&[1]).unwrap();
    into.read_exact(&mut [0]).unwrap();
    b.next();
    b.next();
    let kernel = pair.counter(1, "netstat", "TcpExt", "TCPToZeroWindowAdv");
    assert!(kernel >= 3, "{kernel}");
    assert_eq!(b.grew("", "tcp_zero_windows_sent") as u64, kernel);
    assert!(pair.nft(1) >= kernel, "each is in a packet at least");
    assert_eq!(pair.counter(0, "netstat", "TcpExt", "TCPToZeroWindowAdv"), 0);
}

#[test]
fn marks_on_the_way_are_counted_where_they_arrive_and_the_sender_learns_of_them() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("ecn");
    // Marked where bursts are not cut yet, counted where they are.
    sh(&format!(
        "for n in {} {}; do ip netns exec $n sysctl -qw net.ipv4.tcp_ecn=1; done
         ip netns exec {} nft 'add table t; add chain t p {{ type filter hook postrouting priority 0; }};
         add rule t p tcp dport 5001 ip ecn ect0 numgen inc mod 4 == 0 ip ecn set ce'
         ip netns exec {} nft 'add table netdev t;
         add chain netdev t c {{ type filter hook ingress device \"eth0\" priority 0; }};
         add rule netdev t c ip ecn ce counter'",
        pair.names[0], pair.names[1], pair.names[0], pair.names[1]
    ));
    let (mut a, mut b) = (pair.watch(0), pair.watch(1));
    let (mut out, mut into) = connection(&pair);
    let taker = std::thread::spawn(move || {
        into.read_exact(&mut vec![0; 1 << 20]).unwrap();
        into
    });
    out.write_all(&vec![7; 1 << 20]).unwrap();
    let _into = taker.join().unwrap();
    let marked = |w: &Watch| -> u64 { w.flows.iter().map(|f| f.marked).sum() };
    b.until(|w| marked(w) >= pair.nft(1) && w.grew("", "ip_in_ecn_marked") as u64 >= pair.nft(1));
    a.until(|w| w.tcp.iter().any(|r| r.remote_port == 5_001 && r.delivered_ce > 0));
    let witness = pair.nft(1);
    assert!(witness >= 20, "{witness}");
    assert_eq!(marked(&b), witness, "by five-tuple");
    assert_eq!(b.grew("", "ip_in_ecn_marked") as u64, witness, "by the namespace's counters");
    let learnt: u64 = a.tcp.iter().filter(|r| r.remote_port == 5_001).map(|r| r.delivered_ce).sum();
    assert!(learnt > 0, "the sender was told");
}
