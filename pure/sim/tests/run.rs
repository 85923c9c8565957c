//! Whole runs: every packet accounted for, the same again is the same, and nothing panics whatever the fabric.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use fabric::Scenario;
use proptest::prelude::*;
use selvedge_sim::run::{Config, Run};

fn scenario(text: &str, seed: u64) -> Scenario {
    Scenario::parse(text).unwrap().resolve(seed)
}

/// Runs to the end; every event it told.
fn finish(run: &mut Run) -> Vec<(wire::Nanos, diagnose::Event)> {
    let events = std::iter::from_fn(|| run.next_event()).collect();
    assert!(run.ledger().balanced(), "{:?}", run.ledger());
    assert_eq!(run.refused(), 0, "{:?}", run.engine().counters());
    events
}

const EVERYTHING: &str = r#"
name = "everything"
duration = "12s"
[fabric]
mode = "MODE"
planes = 2
leaves = 2
spines = 2
hosts = 4
[[fault]]
target = "random-link"
kind = "drop 20%"
at = "1s"
[[fault]]
target = "random-link"
kind = "blackhole 30%"
at = "2s"
until = "8s"
[[fault]]
target = "random-nic"
kind = "corrupt 20%"
at = "1s"
[[fault]]
target = "random-trunk"
kind = "reorder 20% delay 2ms"
at = "1s"
[[fault]]
target = "random-trunk"
kind = "ecn 20%"
at = "1s"
[[fault]]
target = "random-link"
kind = "rate-limit 100kbit/s"
at = "1s"
[[fault]]
target = "random-link"
kind = "delay 2ms jitter 1ms"
at = "1s"
[[fault]]
target = "random-link"
kind = "flap period 2s duty 30%"
at = "1s"
[[fault]]
target = "random-switch"
kind = "down"
at = "5s"
until = "7s"
[[fault]]
target = "random-host"
kind = "cpu-stall stopped 150ms period 1s"
at = "1s"
until = "9s"
[[fault]]
target = "random-host"
kind = "agent-stop"
at = "3s"
until = "6s"
"#;

#[test]
fn every_packet_is_accounted_for_whatever_breaks() {
    for mode in ["srv6", "ecmp"] {
        for seed in 0..4 {
            let mut run = Run::new(scenario(&EVERYTHING.replace("MODE", mode), seed), Config::default());
            finish(&mut run);
            let l = run.ledger();
            for (reason, n) in selvedge_sim::net::Dropped::ALL.iter().zip(l.net.dropped).skip(3) {
                assert!(n > 0, "{mode} {seed}: nothing dropped by {reason:?}: {l:?}");
            }
            assert!(l.hosts.corrupt > 0 && l.hosts.nobody > 0 && l.hosts.unanswered == 0, "{l:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let go = |seed| {
        let mut run = Run::new(scenario(&EVERYTHING.replace("MODE", "ecmp"), seed), Config::default());
        let events = finish(&mut run);
        (run.trace(), format!("{events:?}"), run.ledger())
    };
    assert_eq!(go(5), go(5));
    assert_ne!(go(5).0, go(6).0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    /// Random small fabrics, exceptions and all, with a random fault.
    #[test]
    fn nothing_panics(
        (planes, leaves, spines, per_leaf, parallel) in (1u32..3, 1u32..4, 1u32..4, 1u32..4, 1u32..3),
        ecmp: bool,
        seed in 0u64..1_000_000,
        target in proptest::sample::select(vec!["link", "trunk", "switch", "nic", "host"]),
        kind in proptest::sample::select(vec![
            "drop 1%", "drop 100%", "blackhole 50%", "corrupt 10%", "reorder 10%", "ecn 50%", "rate-limit 50kbit/s",
            "delay 1ms jitter 1ms", "down", "flap period 1s duty 50%", "cpu-stall stopped 1s period 1100ms", "agent-stop",
        ]),
        remove: bool,
    ) {
        let target = if kind.starts_with("cpu") || kind.starts_with("agent") { "host" } else { target };
        let mode = if ecmp { "ecmp" } else { "srv6" };
        let remove = if remove && leaves > 1 { "[[fabric.remove]]\nlink = \"p0-leaf0:p0-spine0\"" } else { "" };
        let text = format!(
            "name = \"small\"\nduration = \"4s\"\n[fabric]\nmode = \"{mode}\"\nplanes = {planes}\nleaves = {leaves}\n\
             spines = {spines}\nhosts_per_leaf = {per_leaf}\nparallel = {parallel}\n{remove}\n\
             [[fault]]\ntarget = \"random-{target}\"\nkind = \"{kind}\"\nat = \"1500ms\"\nuntil = \"3s\"\n"
        );
        if let Ok(s) = Scenario::parse(&text) {
            let mut run = Run::new(s.resolve(seed), Config::default());
            finish(&mut run);
        }
    }
}

/// Events a second of a whole run. Run with
/// `cargo test --release -p selvedge-sim --test run -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let text =
        "name = \"speed\"\nduration = \"60s\"\n[fabric]\nplanes = 2\nleaves = 4\nspines = 4\nhosts = 16\n";
    let mut run = Run::new(scenario(text, 1), Config::default());
    let start = std::time::Instant::now();
    finish(&mut run);
    let s = start.elapsed().as_secs_f64();
    println!(
        "60 s of 16 hosts in {s:.2} s: {} events, {:.1} M/s, {} packets, {} observations",
        run.events(),
        run.events() as f64 / s / 1e6,
        run.ledger().net.sent,
        run.observations()
    );
}
