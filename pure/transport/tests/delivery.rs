//! Two ends over a bad network: what a dead path costs, what silence and lies do. Exchanges by the thousand are in the
//! simulator (`sim::seeds`).
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use selvedge_transport::{Config, Connection, Event, Outcome, Pacer};
use std::collections::{BTreeMap, BinaryHeap};
use wire::Nanos;
use wire::transport::{CloseReason, ConnectionId, Ev, Packet, Seen, Target};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn chance(&mut self, p: f64) -> bool {
        (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < p
    }
}

#[derive(Clone, Copy)]
struct Network {
    loss: f64,
    duplicate: f64,
    trim: f64,
    mark: f64,
    /// Packets of one EV stay in order, those of two do not.
    spread_ns: u64,
    /// EVs that swallow everything after `dead_from`.
    dead: u16,
    dead_from: Nanos,
}

struct Result {
    ends: [Connection; 2],
    received: [BTreeMap<u32, u64>; 2],
    sent: [u32; 2],
    placed_bytes: [u64; 2],
    done_at: Nanos,
    closed: bool,
}

/// Sends messages both ways until all are through or `end` is reached.
fn exchange(
    config: Config,
    net: Network,
    seed: u64,
    messages: [&[u64]; 2],
    burst: usize,
    end: Nanos,
) -> Result {
    let mut random = Random(seed);
    let mut ends = [
        Connection::new(config, ConnectionId(1), random.next()),
        Connection::new(config, ConnectionId(0), random.next()),
    ];
    let mut pacers = [Pacer::new(&config), Pacer::new(&config)];
    for (e, list) in ends.iter_mut().zip(messages) {
        for (i, &bytes) in list.iter().enumerate() {
            e.send(Nanos::ZERO, Target::Tagged { tag: i as u64 }, bytes).unwrap();
        }
    }
    let mut received = [BTreeMap::new(), BTreeMap::new()];
    let mut sent = [0u32; 2];
    let mut placed: [BTreeMap<(u32, u64), u16>; 2] = Default::default();
    let mut placed_bytes = [0u64; 2];
    // what is on the way: a heap by time and order, and when each EV's last packet arrives, for order within it
    let mut way: BinaryHeap<std::cmp::Reverse<(Nanos, u64, usize)>> = BinaryHeap::new();
    let mut store: Vec<(Packet, Seen, usize)> = Vec::new();
    let mut last: BTreeMap<(usize, u16, bool), Nanos> = BTreeMap::new();
    let mut free = [Nanos::ZERO; 2];
    let mut now = Nanos::ZERO;
    let mut closed = false;
    let mut sink = Vec::new();
    while now <= end {
        // everything that can go out now
        for from in 0..2 {
            while let Some(slot) = pacers[from].poll_slot(now) {
                pacers[from].grant(now, slot, &mut ends[from]);
            }
            loop {
                sink.clear();
                let control = ends[from].poll_control(now, &mut sink);
                let ev = match control {
                    Some(ev) => Some(ev),
                    None if free[from] <= now => ends[from].poll_data(now, burst, &mut sink),
                    None => None,
                };
                let Some(Ev(ev)) = ev else { break };
                for packet in &sink {
                    let data = matches!(packet, Packet::Data(_));
                    if data {
                        free[from] = free[from].max(now) + config.serialization(config.packet_bytes());
                    }
                    let dead = ev < net.dead && now >= net.dead_from;
                    if dead || random.chance(net.loss) {
                        continue;
                    }
                    let seen =
                        Seen { marked: random.chance(net.mark), trimmed: data && random.chance(net.trim) };
                    let copies = 1 + usize::from(random.chance(net.duplicate));
                    for _ in 0..copies {
                        let class = last.entry((from, ev, data && !seen.trimmed)).or_default();
                        let at = (now + Nanos(6_000 + random.below(net.spread_ns))).max(*class);
                        *class = at;
                        store.push((*packet, seen, 1 - from));
                        way.push(std::cmp::Reverse((at, store.len() as u64, store.len() - 1)));
                    }
                }
            }
            while let Some(event) = ends[from].poll_event() {
                match event {
                    Event::Received { message, bytes, .. } => {
                        assert_eq!(
                            received[from].insert(message.0, bytes),
                            None,
                            "seed {seed}: a message twice"
                        );
                    }
                    Event::Sent(_) => sent[from] += 1,
                    Event::Closed(reason) => {
                        assert_eq!(reason, CloseReason::TimedOut, "seed {seed}");
                        closed = true;
                    }
                    Event::PathDown(_) | Event::PathUp(_) => {}
                }
            }
        }
        if sent[0] as usize == messages[0].len() && sent[1] as usize == messages[1].len() || closed {
            break;
        }
        let mut next = way.peek().map_or(Nanos::MAX, |r| r.0.0);
        for i in 0..2 {
            next = next.min(ends[i].next_timeout().unwrap_or(Nanos::MAX));
            next = next.min(pacers[i].next_timeout().unwrap_or(Nanos::MAX));
            if free[i] > now {
                next = next.min(free[i]);
            }
        }
        now = next.max(now + Nanos(1));
        while let Some(&std::cmp::Reverse((at, _, i))) = way.peek() {
            if at > now {
                break;
            }
            way.pop();
            let (packet, seen, to) = store[i];
            if let Outcome::Place { message, offset, bytes, .. } = ends[to].handle_input(now, &packet, seen) {
                assert_eq!(placed[to].insert((message.0, offset), bytes), None, "seed {seed}: a chunk twice");
                placed_bytes[to] += u64::from(bytes);
            }
            pacers[to].handle_input(0, &mut ends[to]);
        }
        for e in &mut ends {
            if e.next_timeout().is_some_and(|t| t <= now) {
                e.handle_timeout(now);
            }
        }
    }
    Result { ends, received, sent, placed_bytes, done_at: now, closed }
}

fn check(r: &Result, messages: [&[u64]; 2], what: &str) {
    for (i, list) in messages.iter().enumerate() {
        let c = r.ends[i].counters();
        assert_eq!(c.sent, c.acknowledged + c.lost + r.ends[i].in_flight(), "{what}: {c:?}");
        assert_eq!(c.lost, c.lost_trimmed + c.lost_gap + c.lost_late, "{what}");
        assert_eq!(c.sent, c.chunks_new + c.chunks_again + c.probes, "{what}");
        assert_eq!(c.timeouts, 0, "{what} {c:#?} {:#?}", r.ends[1 - i].counters());
        let got: Vec<u64> = r.received[1 - i].values().copied().collect();
        assert_eq!(got, *list, "{what}: {:?} {:?}", r.done_at, r.ends.each_ref().map(|e| *e.counters()));
        assert_eq!(r.sent[i] as usize, list.len(), "{what}");
        assert_eq!(r.placed_bytes[1 - i], list.iter().sum::<u64>(), "{what}");
    }
}

#[test]
fn a_silent_network_ends_the_connection_and_only_that() {
    let config = Config { give_up_rtts: 64, ..Config::default() };
    let net = Network {
        loss: 1.0,
        duplicate: 0.0,
        trim: 0.0,
        mark: 0.0,
        spread_ns: 1,
        dead: 0,
        dead_from: Nanos::ZERO,
    };
    let r = exchange(config, net, 1, [&[50_000], &[]], 1, Nanos::from_secs(2));
    assert!(r.closed);
    let c = r.ends[0].counters();
    assert_eq!(c.timeouts, 1);
    assert!(c.probes <= 20, "probes go out more and more rarely: {}", c.probes);
    assert!(r.received[1].is_empty());
}

#[test]
fn a_dead_path_costs_a_few_round_trips() {
    let config = Config { evs: 8, ..Config::default() };
    let healthy = Network {
        loss: 0.0,
        duplicate: 0.0,
        trim: 0.0,
        mark: 0.0,
        spread_ns: 1,
        dead: 0,
        dead_from: Nanos::MAX,
    };
    let messages: [&[u64]; 2] = [&[2_000_000], &[]];
    let control = exchange(config, healthy, 3, messages, 1, Nanos::from_millis(10));
    let sick = exchange(
        config,
        Network { dead: 1, dead_from: Nanos(50_000), ..healthy },
        3,
        messages,
        1,
        Nanos::from_millis(10),
    );
    check(&sick, messages, "one of eight paths dead");
    let cost = sick.done_at - control.done_at;
    assert!(
        cost <= Nanos(3 * config.rtt_base.0),
        "it cost {cost}, three round trips are {}",
        3 * config.rtt_base.0
    );
}

mod hostile {
    use super::*;
    use proptest::prelude::*;
    use wire::transport::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..50u64, 0..20_000u64, any::<u64>()]
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let id = Just(ConnectionId(0));
        let data = (
            number(),
            number(),
            0..3u32,
            number(),
            number(),
            any::<u16>(),
            any::<u16>(),
            any::<(u16, u32, u32, u8)>(),
        )
            .prop_map(
                |(
                    number,
                    floor,
                    message,
                    message_bytes,
                    offset,
                    bytes,
                    chunk_bytes,
                    (ev, ev_seq, demand, flags),
                )| {
                    Packet::Data(Data {
                        connection: ConnectionId(0),
                        number,
                        floor,
                        message: MessageId(message),
                        message_bytes,
                        offset,
                        bytes,
                        chunk_bytes,
                        target: Target::Tagged { tag: 0 },
                        ev: Ev(ev % 70),
                        ev_seq,
                        demand,
                        sent_ns: demand,
                        flags: DataFlags(flags),
                    })
                },
            );
        let plausible = (0..40u64, 0..20u64, 0..64u16).prop_map(|(number, chunk, ev)| {
            Packet::Data(Data {
                connection: ConnectionId(0),
                number,
                floor: 0,
                message: MessageId(0),
                message_bytes: 20 * 4086,
                offset: chunk * 4086,
                bytes: 4086,
                chunk_bytes: 4086,
                target: Target::Tagged { tag: 0 },
                ev: Ev(ev),
                ev_seq: number as u32,
                demand: 100_000,
                sent_ns: 0,
                flags: DataFlags(0),
            })
        });
        let ack = (
            number(),
            (any::<u16>(), any::<[u64; 4]>()),
            any::<[(u16, u32, u32, u32); 8]>(),
            any::<u8>(),
            any::<u32>(),
            any::<bool>(),
        )
            .prop_map(|(cumulative, (ahead, bitmap), feedback, feedback_len, granted, grants)| {
                Packet::Ack(Ack {
                    cumulative,
                    ahead: if ahead & 1 == 0 { ahead >> 8 } else { 0 },
                    bitmap,
                    feedback: feedback.map(|(ev, highest, received, marked)| EvFeedback {
                        ev: Ev(ev % 70),
                        highest: highest % 40,
                        received: received % 40,
                        marked,
                        trimmed: marked / 3,
                        ..EvFeedback::default()
                    }),
                    feedback_len,
                    granted,
                    grants,
                    ..Ack::default()
                })
            });
        let nack = (number(), any::<(u16, u32, bool)>()).prop_map(|(number, (ev, granted, grants))| {
            Packet::Nack(Nack {
                connection: ConnectionId(0),
                number,
                reason: NackReason::Trimmed,
                ev: Ev(ev),
                granted,
                grants,
            })
        });
        let probe = (number(), number(), any::<(u16, u32, u32)>()).prop_map(
            |(number, floor, (ev, ev_seq, demand))| {
                Packet::Probe(Probe {
                    connection: ConnectionId(0),
                    number,
                    floor,
                    ev: Ev(ev % 70),
                    ev_seq,
                    demand,
                    sent_ns: 0,
                })
            },
        );
        prop_oneof![
            data,
            plausible,
            ack,
            nack,
            probe,
            (id, any::<u32>())
                .prop_map(|(connection, granted)| Packet::Credit(Credit { connection, granted })),
            (id, any::<(u32, u32)>()).prop_map(|(connection, (demand, left))| Packet::CreditRequest(
                CreditRequest { connection, demand, left }
            )),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// Whatever a peer says: no panic, counters reconcile, output is bounded.
        #[test]
        fn lies_cost_nothing(packets in proptest::collection::vec((packet(), any::<(bool, bool)>(), 0..30_000u64), 1..200)) {
            let config = Config::default();
            let mut c = Connection::new(config, ConnectionId(1), 5);
            let mut pacer = Pacer::new(&config);
            c.send(Nanos::ZERO, Target::Tagged { tag: 1 }, 3_000_000).unwrap();
            let mut now = Nanos::ZERO;
            let mut sink = Vec::new();
            for (packet, (marked, trimmed), wait) in packets {
                now += Nanos(wait);
                c.handle_input(now, &packet, Seen { marked, trimmed });
                pacer.handle_input(0, &mut c);
                for _ in 0..4 {
                    if let Some(slot) = pacer.poll_slot(now) {
                        pacer.grant(now, slot, &mut c);
                    }
                }
                c.handle_timeout(now);
                sink.clear();
                for _ in 0..8 {
                    c.poll_output(now, 16, &mut sink);
                }
                while c.poll_event().is_some() {}
                let n = c.counters();
                prop_assert_eq!(n.sent, n.acknowledged + n.lost + c.in_flight());
                prop_assert!(c.in_flight() <= u64::from(config.packets_max));
            }
        }
    }
}

#[test]
fn more_packets_in_a_row_lost_than_an_ack_can_name() {
    // A window of some thousand packets in long bursts on two EVs, one of which dies: what an ACK's bitmap shows may be
    // lost to the last bit while everything behind it has arrived.
    let config = Config {
        evs: 2,
        rtt_base: Nanos(200_000),
        queue_target: Nanos(200_000),
        chunk_bytes: 1_400,
        ack_every_bytes: 65_536,
        ..Config::default()
    };
    for seed in 0..40 {
        let messages: [&[u64]; 2] = [&[10_000_000], &[]];
        let dead_from = Nanos(200_000 + seed * 5_000);
        let net =
            Network { loss: 0.0, duplicate: 0.0, trim: 0.0, mark: 0.0, spread_ns: 1, dead: 1, dead_from };
        let r = exchange(config, net, seed, messages, 256, Nanos::from_millis(50));
        check(&r, messages, &format!("seed {seed}"));
        let c = r.ends[0].counters();
        assert!(c.chunks_again < c.chunks_new / 2, "seed {seed}: {c:#?}");
    }
}
