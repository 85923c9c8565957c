//! The receiver on real sockets: everything sent is handed over or counted.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use selvedge_receive::flows::{Config, Flows, Taker};
use std::net::UdpSocket;
use std::time::Duration;
use wire::flow::Limits;

/// A NetFlow v5 datagram of so many records, each with one packet.
fn v5(sequence: u32, records: u16) -> Vec<u8> {
    let mut d = Vec::new();
    d.extend(5u16.to_be_bytes());
    d.extend(records.to_be_bytes());
    d.extend(60_000u32.to_be_bytes());
    d.extend(1_770_000_000u32.to_be_bytes());
    d.extend(0u32.to_be_bytes());
    d.extend(sequence.to_be_bytes());
    d.extend([1, 2, 0, 0]);
    for _ in 0..records {
        let mut r = [0u8; 48];
        r[19] = 1;
        r[23] = 64;
        d.extend(r);
    }
    d
}

fn start(queue: usize) -> (Flows, Taker, UdpSocket) {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::]:0".parse().unwrap()],
        rows: 300,
        every: Duration::from_millis(20),
        queue,
        ..Config::default()
    };
    let (flows, taker) = Flows::start(&config, None).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    (flows, taker, sender)
}

#[test]
fn what_is_sent_is_handed_over_and_what_never_came_is_counted() {
    let (flows, taker, sender) = start(64);
    let port = flows.bound[0].port();
    for n in 0..20u32 {
        if n != 7 {
            sender.send_to(&v5(30 * n, 30), ("127.0.0.1", port)).unwrap();
        }
    }
    sender.send_to(b"no flows", ("127.0.0.1", flows.bound[1].port())).unwrap();
    let (mut rows, mut packets, mut met) = (0, 0, 0);
    while rows < 19 * 30 {
        let taken = taker.next_within(Duration::from_secs(10)).expect("they come");
        rows += taken.flows.rows();
        packets += taken.flows.packets.iter().sum::<i64>();
        met += taken.met.len();
        taker.give_back(taken);
    }
    flows.stop();
    while let Some(taken) = taker.next() {
        rows += taken.flows.rows();
    }
    let tally = flows.tally();
    assert_eq!((rows, packets, met), (570, 570, 1));
    assert_eq!((tally.decoded.records, tally.decoded.missing, tally.decoded.refused), (570, 30, 1));
    assert_eq!((tally.kernel_dropped, tally.records_dropped, tally.too_long), (0, 0, 0));
}

#[test]
fn a_slow_taker_loses_rows_that_are_counted() {
    let (flows, taker, sender) = start(1);
    let port = flows.bound[0].port();
    let mut sent = 0;
    while flows.tally().records_dropped == 0 {
        assert!(sent < 1_000_000, "nothing is dropped");
        sender.send_to(&v5(sent, 30), ("127.0.0.1", port)).unwrap();
        sent += 30;
    }
    let mut rows = 0;
    // It ends by itself: what waits is taken while it does.
    std::thread::scope(|s| {
        s.spawn(|| flows.stop());
        while let Some(taken) = taker.next() {
            rows += taken.flows.rows() as u64;
        }
    });
    let tally = flows.tally();
    assert_eq!(rows + tally.records_dropped, tally.decoded.records);
    assert_eq!(tally.decoded.records + 30 * tally.kernel_dropped, u64::from(sent), "{tally:?}");
    assert!(tally.decoded.missing <= 30 * tally.kernel_dropped, "{tally:?}");
}

#[test]
fn what_is_known_of_exporters_is_handed_out_and_taken_up() {
    let (flows, taker, sender) = start(4);
    // A template of one field, of NetFlow v9.
    let mut t = vec![0, 9, 0, 1];
    t.extend([0; 16]);
    t.extend([0, 0, 0, 12, 1, 4, 0, 1, 0, 2, 0, 4]);
    sender.send_to(&t, ("127.0.0.1", flows.bound[0].port())).unwrap();
    let state = loop {
        let taken = taker.next_within(Duration::from_secs(10)).expect("it comes");
        if let Some(state) = taken.state {
            break state;
        }
    };
    flows.stop();
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let (again, taker) = Flows::start(&config, Some(&state)).unwrap();
    let mut d = vec![0, 9, 0, 1];
    d.extend([0; 11]);
    d.push(1);
    d.extend([0; 4]);
    d.extend([1, 4, 0, 8, 0, 0, 0, 5]);
    sender.send_to(&d, ("127.0.0.1", again.bound[0].port())).unwrap();
    let taken = loop {
        let taken = taker.next_within(Duration::from_secs(10)).expect("it comes");
        if taken.flows.rows() > 0 {
            break taken;
        }
    };
    assert_eq!(taken.flows.packets, [5], "no template had to come first");
    let cut = &state[..state.len() - 1];
    assert!(Flows::start(&Config { limits: Limits::default(), ..config }, Some(cut)).is_err());
}

/// What decoding costs a record of 18 fields: `cargo test -p selvedge-receive --release speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_eighteen_fields() {
    use wire::flow::{Beside, Decoder, FlowColumns};
    let fields: [(u16, u16); 18] = [
        (8, 4),
        (12, 4),
        (7, 2),
        (11, 2),
        (4, 1),
        (5, 1),
        (6, 1),
        (9, 1),
        (13, 1),
        (10, 4),
        (14, 4),
        (2, 8),
        (1, 8),
        (152, 8),
        (153, 8),
        (16, 4),
        (17, 4),
        (15, 4),
    ];
    let message = |set: &[u8]| {
        let mut m = vec![0, 10];
        m.extend((16 + set.len() as u16).to_be_bytes());
        m.extend([0; 12]);
        m.extend(set);
        m
    };
    let mut template = vec![0, 2, 0, 8 + 4 * 18, 1, 0, 0, 18];
    fields.iter().for_each(|(e, l)| template.extend([e.to_be_bytes(), l.to_be_bytes()].concat()));
    let mut data = vec![1, 0];
    data.extend((4 + 69 * 20u16).to_be_bytes());
    data.extend([3; 69 * 20]);
    let (mut decoder, mut flows, mut beside) =
        (Decoder::new(Limits::default()), FlowColumns::default(), Beside::default());
    let mut take = |m: &[u8], flows: &mut FlowColumns| {
        decoder.datagram(wire::Nanos(0), [1; 16], m, flows, &mut beside).unwrap();
    };
    take(&message(&template), &mut flows);
    let m = message(&data);
    let mut best = f64::MAX;
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        (0..3_000).for_each(|_| take(&m, &mut flows));
        best = best.min(begun.elapsed().as_nanos() as f64 / 60_000.0);
        assert_eq!(flows.rows(), 60_000);
        flows.clear();
    }
    println!("{best:.1} ns a record");
}
