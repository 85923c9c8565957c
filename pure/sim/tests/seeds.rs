//! Exchanges by seed: the laws hold, the same seed gives the same exchange, and every check can fail.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use selvedge_sim::seeds::{Law, Sabotage, Tally, run, run_sabotaged};

fn all(from: u64, count: u64) -> Tally {
    let mut sum = Tally::default();
    for seed in from..from + count {
        match run(seed) {
            Ok(one) => sum.add(&one),
            Err(broken) => panic!("{broken}\nagain: selvedge sim seeds --from {seed} --count 1 --plan"),
        }
    }
    sum
}

#[test]
fn every_message_once_and_bit_equal_whatever_goes_wrong() {
    let t = all(0, 3_000);
    // and everything that can go wrong did
    let seen = [
        ("messages", t.messages),
        ("writes", t.writes),
        ("lost", t.lost),
        ("swallowed", t.swallowed),
        ("copies refused", t.refused_again),
        ("damaged refused", t.refused_damaged),
        ("stale refused", t.refused_stale),
        ("not ready", t.refused_unready),
        ("trimmed", t.trimmed),
        ("marked", t.marked),
        ("restarts", t.restarts),
        ("messages cut", t.messages_cut),
        ("key updates", t.key_updates),
        ("paths down", t.paths_down),
        ("paths up", t.paths_up),
    ];
    for (what, n) in seen {
        assert!(n > 100, "{what}: {n} in {t:#?}");
    }
}

/// A message that arrives in the very moment the other end comes back as another.
#[test]
fn what_arrives_at_the_moment_of_a_restart_is_counted() {
    all(571_007, 1);
}

#[test]
fn the_same_seed_gives_the_same_exchange() {
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(1).unwrap().trace, run(2).unwrap().trace);
}

/// Which laws a fault breaks, over enough seeds that it matters in some.
fn broken_by(sabotage: Sabotage) -> Vec<Law> {
    let mut laws: Vec<Law> =
        (0..400).filter_map(|seed| run_sabotaged(seed, sabotage).err()).map(|b| b.law).collect();
    laws.sort();
    laws.dedup();
    laws
}

#[test]
fn a_payload_changed_behind_the_check_is_found() {
    assert_eq!(broken_by(Sabotage::PayloadBehindTheCheck), [Law::BitEqual]);
}

#[test]
fn damage_that_is_let_through_is_found() {
    assert!(broken_by(Sabotage::NoCheck).contains(&Law::DamagedRefused));
}

#[test]
fn keys_that_outlive_a_restart_are_found() {
    assert!(broken_by(Sabotage::OldKeys).contains(&Law::StaleRefused));
}

#[test]
fn an_end_that_forgets_without_saying_so_is_found() {
    let laws = broken_by(Sabotage::Amnesia);
    assert!(laws.contains(&Law::Counters) || laws.contains(&Law::ChunkOnce), "{laws:?}");
}

#[test]
fn a_message_nobody_is_told_of_is_found() {
    let laws = broken_by(Sabotage::SwallowedEvent);
    assert!(laws.contains(&Law::SentIsReceived) || laws.contains(&Law::Counters), "{laws:?}");
}

#[test]
fn silence_is_found() {
    let laws = broken_by(Sabotage::Silence);
    assert!(
        laws.iter().all(|l| matches!(l, Law::EndsWhenAsked | Law::Delivered)) && !laws.is_empty(),
        "{laws:?}"
    );
}

#[test]
fn a_packet_counted_twice_is_found() {
    assert_eq!(broken_by(Sabotage::Miscount), [Law::Counters]);
}
