//! Numbers made up port by port, and the observations they must become.

use super::*;
use crate::rows::EntityKind;
use proptest::prelude::*;
use wire::LinkId;

const LINK: Component = Component::Link(LinkId(6));

fn metric(at_s: u64, name: &str, value: f64) -> Metric {
    Metric {
        at: Nanos::from_secs(at_s),
        window: None,
        source: Receiver::Gnmi,
        device: "sw".to_owned(),
        entity_kind: EntityKind::Interface,
        entity: "e1".to_owned(),
        name: name.to_owned(),
        value,
        cumulative: true,
        labels: Vec::new(),
        component: Some(LINK),
    }
}

fn with(config: Config) -> Observer {
    let text = "name='t'\nplanes=1\nleaves=2\nspines=2\nhosts=4\naccess={rate='1Gbit/s',latency='1us'}\n\
                trunk={rate='1Gbit/s',latency='1us'}";
    Observer::new(config, Arc::new(Fabric::parse(text).unwrap()))
}

fn observer() -> Observer {
    with(Config::default())
}

/// What batches said: counter, delta, of, length of the window in seconds.
fn said(o: &mut Observer, batches: &[&[Metric]]) -> Vec<(Counter, u64, u64, u64)> {
    let mut out = Vec::new();
    for b in batches {
        o.batch(b, &mut out);
    }
    out.iter().map(|o| (o.counter, o.delta, o.of, o.window.length.0 / 1_000_000_000)).collect()
}

#[test]
fn a_total_says_what_came_between_two_samples_and_of_how_many() {
    let mut o = observer();
    let at = |s: u64, errors: f64, packets: f64| {
        [metric(s, "fcs_errors", errors), metric(s, "in_packets", packets)]
    };
    let batches = [at(10, 500.0, 1e6), at(20, 503.0, 1.1e6), at(30, 503.0, 1.2e6), at(40, 503.0, 1.3e6)];
    let batches: Vec<&[Metric]> = batches.iter().map(|b| &b[..]).collect();
    // A window without an error is said as well: it speaks for the cable.
    let clean = (Counter::FrameError, 0, 100_000, 10);
    let want = [(Counter::FrameError, 3, 100_000, 10), clean, clean];
    assert_eq!(said(&mut o, &batches), want);
}

#[test]
fn totals_that_wrap_or_begin_anew() {
    let near_the_end = f64::from(u32::MAX) - 4.0;
    let mut o = observer();
    let batches: [&[Metric]; 2] =
        [&[metric(1, "out_discards", near_the_end)], &[metric(2, "out_discards", 5.0)]];
    assert_eq!(said(&mut o, &batches), [(Counter::QueueDrop, 10, 0, 1)]);
    assert_eq!((o.tally.wraps, o.tally.restarts), (1, 0));
    let batches: [&[Metric]; 1] = [&[metric(3, "out_discards", 2.0)]];
    assert_eq!(said(&mut o, &batches), [(Counter::QueueDrop, 2, 0, 1)]);
    assert_eq!((o.tally.wraps, o.tally.restarts), (1, 1));
}

#[test]
fn samples_of_the_past_and_long_gaps_are_not_observed() {
    let mut o = observer();
    let batches: [&[Metric]; 3] =
        [&[metric(100, "in_errors", 1.0)], &[metric(100, "in_errors", 9.0)], &[metric(99, "in_errors", 9.0)]];
    assert_eq!(said(&mut o, &batches), []);
    assert_eq!(o.tally.stale, 2);
    assert_eq!(said(&mut o, &[&[metric(1_000, "in_errors", 90.0)]]), []);
    assert_eq!(o.tally.gaps, 1);
    assert_eq!(said(&mut o, &[&[metric(1_010, "in_errors", 95.0)]]), [(Counter::FrameError, 5, 0, 10)]);
}

#[test]
fn the_same_events_under_two_names_count_once() {
    let mut o = observer();
    let at = |s: u64, fcs: f64, errors: f64| [metric(s, "in_errors", errors), metric(s, "fcs_errors", fcs)];
    assert_eq!(said(&mut o, &[&at(1, 0.0, 0.0), &at(2, 4.0, 5.0)]), [(Counter::FrameError, 4, 0, 1)]);
    // A switch whose FCS counter never moves is believed by its input errors.
    let mut o = observer();
    assert_eq!(said(&mut o, &[&at(1, 0.0, 0.0), &at(2, 0.0, 5.0)]), [(Counter::FrameError, 5, 0, 1)]);
}

#[test]
fn queues_and_priorities_of_a_port_are_summed_and_pauses_are_not() {
    let queue = |s: u64, n: u32, name: &str, value: f64| Metric {
        entity: format!("e1/queue{n}"),
        entity_kind: EntityKind::Queue,
        ..metric(s, name, value)
    };
    let mut o = observer();
    let at = |s: u64, drops: f64, paused: f64| {
        vec![
            queue(s, 0, "queue_drop_packets", drops),
            queue(s, 3, "queue_drop_packets", 2.0 * drops),
            metric(s, "pfc_paused_ns_3", paused),
            metric(s, "pfc_paused_ns_4", paused * 2.0),
            metric(s, "pfc_in_frames_3", drops),
        ]
    };
    let mut got = said(&mut o, &[&at(1, 0.0, 0.0), &at(2, 10.0, 4e8)]);
    got.sort();
    let want = [
        (Counter::QueueDrop, 30, 0, 1),
        (Counter::PauseReceived, 10, 0, 1),
        (Counter::PausedTime, 800_000_000, 1_000_000_000, 1),
    ];
    assert_eq!(got, want);
}

#[test]
fn a_deep_queue_is_said_above_its_mark() {
    let depth = |s: u64, bytes: f64| [Metric { cumulative: false, ..metric(s, "queue_depth_bytes", bytes) }];
    let mut o = observer();
    let mark = Config::default().queue_mark_bytes as f64;
    let got = said(&mut o, &[&depth(1, 10.0), &depth(2, mark + 7.0), &depth(3, 1.0)]);
    let want =
        [(Counter::QueueDepth, 0, 0, 0), (Counter::QueueDepth, 7, 0, 1), (Counter::QueueDepth, 0, 0, 1)];
    assert_eq!(got, want);
}

#[test]
fn a_second_receiver_of_a_port_is_believed_when_the_first_is_silent() {
    let other = |s: u64, v: f64| [Metric { source: Receiver::Scrape, ..metric(s, "fcs_errors", v) }];
    let mut o = observer();
    let first: [&[Metric]; 2] = [&[metric(1, "fcs_errors", 0.0)], &[metric(2, "fcs_errors", 1.0)]];
    assert_eq!(said(&mut o, &first).len(), 1);
    assert_eq!(said(&mut o, &[&other(1, 0.0), &other(3, 1.0), &other(100, 1.0)]), []);
    assert_eq!(said(&mut o, &[&other(150, 3.0)]), [(Counter::FrameError, 2, 0, 50)]);
}

fn event(at_s: u64, up: bool) -> LinkEvent {
    LinkEvent {
        at: Nanos::from_secs(at_s),
        source: Receiver::Syslog,
        device: "sw".to_owned(),
        interface: "e1".to_owned(),
        up,
        text: String::new(),
        component: Some(LINK),
    }
}

#[test]
fn a_port_that_goes_down_is_counted_once_whoever_says_so() {
    let mut o = observer();
    let status = |s: u64, up: f64| [Metric { cumulative: false, ..metric(s, "oper_status", up) }];
    let losses = |s: u64, n: f64| [metric(s, "carrier_lost", n)];
    assert_eq!(said(&mut o, &[&status(1, 1.0), &losses(1, 7.0)]), []);
    // Two messages and a state tell of one loss.
    assert_eq!(o.link(&event(5, false)).map(|o| (o.counter, o.delta)), Some((Counter::CarrierLost, 1)));
    assert_eq!(o.link(&event(5, false)), None);
    assert_eq!(said(&mut o, &[&status(6, 0.0)]), []);
    assert_eq!(o.link(&event(8, true)), None);
    // The counter says two: one of them nobody told.
    assert_eq!(said(&mut o, &[&losses(10, 9.0)]), [(Counter::CarrierLost, 1, 0, 9)]);
    // A first state of down is no loss, a message of it is.
    let mut o = observer();
    assert_eq!(said(&mut o, &[&status(1, 0.0)]), []);
    let mut o = observer();
    assert!(o.link(&event(1, false)).is_some());
}

#[test]
fn carrier_changes_are_two_a_loss() {
    let at = |s: u64, n: f64| [metric(s, "carrier_changes", n)];
    let mut o = observer();
    let got = said(&mut o, &[&at(1, 4.0), &at(2, 5.0), &at(3, 6.0), &at(4, 10.0)]);
    let got: Vec<u64> = got.iter().map(|o| o.1).collect();
    assert_eq!(got, [0, 1, 2]);
}

#[test]
fn differences_are_taken_as_told() {
    let delta =
        Metric { window: Some(Nanos::from_secs(5)), cumulative: false, ..metric(20, "fcs_errors", 3.0) };
    assert_eq!(said(&mut observer(), &[std::slice::from_ref(&delta)]), [(Counter::FrameError, 3, 0, 5)]);
    let mut o = observer();
    let of_a_day = Metric { window: Some(Nanos::from_secs(86_400)), ..delta };
    assert_eq!((said(&mut o, &[&[of_a_day]]), o.tally.gaps), (vec![], 1));
}

#[test]
fn parts_of_a_total_stand_for_it() {
    let at = |s: u64, n: f64| {
        [
            metric(s, "fcs_errors", n),
            metric(s, "in_unicast_packets", 100.0 * n),
            metric(s, "in_multicast_packets", 10.0 * n),
            metric(s, "in_broadcast_packets", n),
        ]
    };
    let want = [(Counter::FrameError, 1, 111, 1), (Counter::FrameError, 1, 111, 1)];
    assert_eq!(said(&mut observer(), &[&at(1, 1.0), &at(2, 2.0), &at(3, 3.0)]), want);
}

#[test]
fn what_was_thrown_away_is_among_what_was_to_be_sent() {
    let mut o = observer();
    let at =
        |s: u64, drops: f64, sent: f64| [metric(s, "out_discards", drops), metric(s, "out_packets", sent)];
    let got = said(&mut o, &[&at(1, 0.0, 0.0), &at(2, 5.0, 3.0), &at(3, 9.0, 3.0)]);
    assert_eq!(got, [(Counter::QueueDrop, 5, 8, 1), (Counter::QueueDrop, 4, 4, 1)]);
}

#[test]
fn a_nics_overruns_are_of_the_packets_of_its_link() {
    let mut o = observer();
    let nic = wire::NicId(1);
    let link = Component::Link(o.fabric.access_link(nic).reverse());
    let at = |s: u64, n: f64| {
        let overruns = Metric { component: Some(Component::Nic(nic)), ..metric(s, "in_overruns", n) };
        [overruns, Metric { component: Some(link), ..metric(s, "in_packets", 100.0 * n) }]
    };
    assert_eq!(said(&mut o, &[&at(1, 0.0), &at(2, 2.0)]), [(Counter::NicOverrun, 2, 200, 1)]);
}

#[test]
fn a_state_that_turns_is_an_event_once() {
    let mut o = observer();
    let status = |s: u64, up: f64| Metric { cumulative: false, ..metric(s, "oper_status", up) };
    let mut turned =
        |m: Metric| -> Vec<bool> { o.batch(&[m], &mut Vec::new()).iter().map(|e| e.up).collect() };
    assert!(turned(status(1, 1.0)).is_empty());
    assert_eq!(turned(status(2, 0.0)), [false]);
    assert!(turned(status(3, 0.0)).is_empty());
    assert_eq!(turned(status(4, 1.0)), [true]);
    assert!(turned(status(3, 0.0)).is_empty());
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let mut o = with(Config { series_max: 3, ..Config::default() });
    let many: Vec<Metric> =
        (0..9).map(|n| Metric { entity: format!("e{n}"), ..metric(1, "in_errors", 0.0) }).collect();
    o.batch(&many, &mut Vec::new());
    assert_eq!((o.series.len(), o.tally.untracked), (3, 6));
    // What fell silent makes room.
    let later = Metric { entity: "new".to_owned(), ..metric(5_000, "in_errors", 0.0) };
    o.batch(&[later], &mut Vec::new());
    assert_eq!(o.series.len(), 1);
}

proptest! {
    #[test]
    fn any_samples_are_an_outcome(samples in proptest::collection::vec((0u64..50, 0usize..vocabulary::WORDS.len(), any::<f64>(), any::<bool>()), 0..80)) {
        let mut o = observer();
        let mut out = Vec::new();
        for (s, word, value, cumulative) in samples {
            let name = vocabulary::WORDS[word].name.replace('*', "3");
            let m = Metric { cumulative, ..metric(s, &name, value) };
            o.batch(&[m], &mut out);
        }
        for o in out {
            prop_assert!(o.of == 0 || o.delta <= o.of);
        }
    }

    /// Whatever the way a growing total is sampled, the deltas sum to its growth.
    #[test]
    fn deltas_sum_to_the_growth(steps in proptest::collection::vec((1u64..60, 0u32..1_000), 1..50)) {
        let (mut at, mut total) = (1, 5.0);
        let mut o = observer();
        let mut out = Vec::new();
        o.batch(&[metric(at, "fcs_errors", total)], &mut out);
        for (s, n) in &steps {
            at += s;
            total += f64::from(*n);
            o.batch(&[metric(at, "fcs_errors", total)], &mut out);
        }
        let sum: u64 = out.iter().map(|o| o.delta).sum();
        prop_assert_eq!(sum, steps.iter().map(|(_, n)| u64::from(*n)).sum::<u64>());
    }
}
