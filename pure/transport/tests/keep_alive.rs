//! An idle connection hears whether its peer is there.
#![allow(clippy::unwrap_used)]

use selvedge_transport::{Config, Connection, Event};
use wire::Nanos;
use wire::transport::{CloseReason, ConnectionId, Packet, Seen, Target};

const RTT: u64 = 200_000;

/// Lets both ends run until `end` over a link of half a round trip; `up` says whether packets arrive. Gives the events.
fn run(ends: &mut [Connection; 2], from: Nanos, end: Nanos, up: bool) -> Vec<(usize, Nanos, Event)> {
    let mut wire: Vec<(Nanos, usize, Packet)> = Vec::new();
    let (mut now, mut events) = (from, Vec::new());
    loop {
        for (i, end) in ends.iter_mut().enumerate() {
            let mut sink = Vec::new();
            while end.poll_output(now, 1, &mut sink).is_some() {}
            if up {
                wire.extend(sink.into_iter().map(|p| (now + Nanos(RTT / 2), 1 - i, p)));
            }
            events.extend(std::iter::from_fn(|| end.poll_event()).map(|e| (i, now, e)));
        }
        let arrival = wire.iter().map(|w| w.0).min();
        let due = ends.iter().filter_map(Connection::next_timeout).min();
        let Some(next) = arrival.into_iter().chain(due).min().filter(|&t| t <= end) else { return events };
        now = now.max(next);
        while let Some(i) = wire.iter().position(|w| w.0 <= now) {
            let (_, to, packet) = wire.remove(i);
            ends[to].handle_input(now, &packet, Seen::default());
        }
        ends.iter_mut().for_each(|e| e.handle_timeout(now));
    }
}

fn pair(keep_alive: Option<Nanos>) -> [Connection; 2] {
    let config = Config { rtt_base: Nanos(RTT), keep_alive, ..Config::default() };
    [1, 0].map(|peer| Connection::new(config, ConnectionId(peer), 7))
}

#[test]
fn a_quiet_connection_asks_and_stays() {
    let mut ends = pair(Some(Nanos::from_secs(1)));
    ends[0].send(Nanos(1), Target::Tagged { tag: 1 }, 10_000).unwrap();
    let events = run(&mut ends, Nanos(1), Nanos::from_secs(10), true);
    assert_eq!(events.len(), 2, "sent and received, and nothing else: {events:?}");
    let c = ends[0].counters();
    assert!((8..=10).contains(&c.keep_alives), "{c:?}");
    assert_eq!((c.silences, c.sent, c.acknowledged), (0, 3 + c.keep_alives, 3 + c.keep_alives));
}

#[test]
fn a_dead_peer_is_noticed_by_both_kinds_of_ends() {
    let mut ends = pair(Some(Nanos::from_secs(1)));
    ends[0].send(Nanos(1), Target::Tagged { tag: 1 }, 10_000).unwrap();
    run(&mut ends, Nanos(1), Nanos::from_millis(2_500), true);
    let events = run(&mut ends, Nanos::from_millis(2_500), Nanos::from_secs(60), false);
    let closed =
        |i| events.iter().find(|e| e.0 == i && e.2 == Event::Closed(CloseReason::TimedOut)).map(|e| e.1);
    // the one that asks: after its next question, and the silence of all EVs
    assert!(closed(0).is_some_and(|at| at < Nanos::from_secs(10)), "{events:?}");
    // the one that only received: four questions that did not come
    assert!(
        closed(1).is_some_and(|at| (Nanos::from_secs(5)..Nanos::from_secs(7)).contains(&at)),
        "{events:?}"
    );
}

#[test]
fn without_keep_alive_an_idle_connection_costs_nothing() {
    let mut ends = pair(None);
    ends[0].send(Nanos(1), Target::Tagged { tag: 1 }, 10_000).unwrap();
    run(&mut ends, Nanos(1), Nanos::from_secs(1), true);
    assert_eq!(ends.iter().filter_map(Connection::next_timeout).next(), None);
    // and one that never sent has nothing to ask
    let mut ends = pair(Some(Nanos::from_secs(1)));
    assert!(run(&mut ends, Nanos(1), Nanos::from_secs(60), true).is_empty());
    assert_eq!(ends.iter().filter_map(Connection::next_timeout).next(), None);
}
