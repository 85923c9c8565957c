//! What once made a connection stand still, each by its name. Found by seeds and by the model.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use selvedge_transport::{Config, Connection, Control, Counters, Event, Pacer};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use wire::Nanos;
use wire::transport::{ConnectionId, Packet, Seen, Target};

/// A packet about to go: on which EV, when.
struct Going<'a> {
    ev: u16,
    at: Nanos,
    packet: &'a Packet,
}

/// Sends a message from end 0 to end 1; `way` says how long a packet takes, or that it is lost. When it was sent, and
/// what end 0 counted; panics where it never is.
fn send(
    config: Config,
    random: u64,
    bytes: u64,
    mut way: impl FnMut(&Going<'_>) -> Option<Nanos>,
) -> (Nanos, Counters) {
    let mut ends = [1, 0].map(|peer| Connection::new(config, ConnectionId(peer), random));
    let mut pacers = [Pacer::new(&config), Pacer::new(&config)];
    let mut heap = BinaryHeap::new();
    let mut store: Vec<Packet> = Vec::new();
    let mut now = Nanos::ZERO;
    ends[0].send(now, Target::Tagged { tag: 0 }, bytes).unwrap();
    loop {
        for from in 0..2 {
            while let Some(slot) = pacers[from].poll_slot(now) {
                pacers[from].grant(now, slot, &mut ends[from]);
            }
            let mut sink = Vec::new();
            while let Some(ev) = ends[from].poll_output(now, 4, &mut sink) {
                for packet in sink.drain(..) {
                    if let Some(takes) = way(&Going { ev: ev.0, at: now, packet: &packet }) {
                        store.push(packet);
                        heap.push(Reverse((now + takes, store.len() - 1, 1 - from)));
                    }
                }
            }
            while let Some(event) = ends[from].poll_event() {
                match event {
                    Event::Sent(_) => return (now, *ends[0].counters()),
                    Event::Closed(reason) => panic!("{reason:?} after {now}: {:?}", ends[0].counters()),
                    _ => {}
                }
            }
        }
        let arrives = heap.peek().map(|Reverse((at, _, _))| *at);
        let timeouts = ends.iter().filter_map(Connection::next_timeout);
        let next = timeouts.chain(pacers.iter().filter_map(Pacer::next_timeout)).chain(arrives).min();
        let counters = ends.each_ref().map(|e| *e.counters());
        now = next.unwrap_or_else(|| panic!("nothing is due any more: {counters:?}")).max(now);
        assert!(now < Nanos::from_secs(3), "it stands still: {counters:?}");
        while let Some(&Reverse((at, i, to))) = heap.peek() {
            if at > now {
                break;
            }
            heap.pop();
            ends[to].handle_input(now, &store[i], Seen::default());
            pacers[to].handle_input(0, &mut ends[to]);
        }
        for e in &mut ends {
            if e.next_timeout().is_some_and(|t| t <= now) {
                e.handle_timeout(now);
            }
        }
    }
}

const SHORT: Nanos = Nanos(6_000);

/// The receiver held what it had granted for lost packets against the sender, which had nothing left to say so with.
#[test]
fn a_grant_spent_on_what_was_lost_comes_back() {
    for control in [Control::Receiver, Control::Both] {
        let config = Config {
            control,
            evs: 1,
            blind_short_bytes: 0,
            window_initial_bytes: Some(1),
            ..Config::default()
        };
        let until = Nanos::from_millis(1);
        let (at, _) = send(config, 1, 40_000, |g| {
            (g.at >= until || !matches!(g.packet, Packet::Data(_))).then_some(SHORT)
        });
        assert!(at < Nanos::from_millis(10), "{control:?}: {at}");
    }
}

/// A receiver that said again and again what it had granted kept the sender from ever asking for the last chunk.
#[test]
fn a_receiver_that_repeats_itself_does_not_keep_its_sender_from_asking() {
    let control = Control::Receiver;
    let config = Config { control, evs: 1, chunk_bytes: 300, blind_short_bytes: 0, ..Config::default() };
    let (at, _) = send(config, 1, 1_501, |g| match g.packet {
        Packet::Data(d) if d.offset == 1_500 && g.at < Nanos::from_millis(4) => None,
        // so long a round trip that what is late is later than any repetition
        Packet::Data(_) | Packet::Probe(_) if g.at < Nanos::from_millis(2) => Some(Nanos::from_millis(2)),
        _ => Some(SHORT),
    });
    assert!(at < Nanos::from_millis(20), "{at}");
}

/// Answers went out on EVs in turn, and on the first of all where nothing was known: always on a dead one.
#[test]
fn an_answer_finds_the_one_way_that_is_alive() {
    for control in [Control::Sender, Control::Receiver] {
        for random in 0..40 {
            let config = Config { control, give_up_rtts: 1 << 16, blind_short_bytes: 0, ..Config::default() };
            let (at, _) =
                send(config, random, 200_000, |g| (g.ev == 37 || g.at < Nanos(3_000)).then_some(SHORT));
            assert!(at < Nanos::from_millis(2_000), "{control:?} {random}: {at}");
        }
    }
}

/// A receiver had no room for the number of a probe above a full window of lost packets, and refused every one.
#[test]
fn a_probe_above_a_full_window_is_taken() {
    let config = Config { packets_max: 64, evs: 2, chunk_bytes: 100, ..Config::default() };
    let (at, c) = send(config, 1, 20_000, |g| (g.at >= Nanos::from_millis(2)).then_some(SHORT));
    assert!(at < Nanos::from_millis(20), "{at} {c:?}");
}
