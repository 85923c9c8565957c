//! Two real probers over a fabric of two leaves and two spines in network namespaces, made here by hand, with the
//! kernel's own forwarding; nftables breaks a link and counts what it took.
//!
//! Needs root, `ip`, `sysctl` and `nft`; says so and passes where one is missing.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use agent::prober::ProberHandle;
use agent::record::{Ended, Recorder, bytes_of, replay};
use probe::Observation;
use selvedge_agent as agent;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::{Known, LinkId, PathRef};

mod world;
use world::{World, can_run};

#[derive(Debug, Default)]
struct Seen {
    /// Packets and losses by link, of ways that are known.
    by_link: BTreeMap<LinkId, (u64, u64)>,
    sent: u64,
    lost: u64,
    undecided: u64,
    mixtures: u64,
    discovered: u64,
    over: u64,
    delays: u64,
    delay_p50_ns_max: i64,
}

/// Takes in observations until `enough` of what was seen, or a minute is over.
fn watch(w: &World, handles: &[&ProberHandle], mut enough: impl FnMut(&Seen) -> bool) -> Seen {
    let (mut seen, start) = (Seen::default(), Instant::now());
    while !enough(&seen) {
        assert!(start.elapsed() < Duration::from_secs(60), "{seen:?} {:?}", handles[0].counters());
        for h in handles {
            let Ok(o) = h.observations.recv_timeout(Duration::from_millis(100)) else { continue };
            let Observation::Path(o) = o else { continue };
            if let PathRef::OneWay(leg) = o.path {
                seen.sent += u64::from(o.sent);
                seen.lost += u64::from(o.lost);
                seen.mixtures += u64::from(leg.known == Known::Mixture);
                seen.discovered += u64::from(leg.known == Known::Discovered);
                if let Some(d) = o.delay {
                    seen.delays += u64::from(d.count);
                    seen.over += u64::from(d.over);
                    seen.delay_p50_ns_max = seen.delay_p50_ns_max.max(d.p50_ns);
                }
                if leg.known != Known::Mixture {
                    for l in w.fabric.path_links(leg.path).unwrap().iter() {
                        let e = seen.by_link.entry(*l).or_default();
                        *e = (e.0 + u64::from(o.sent), e.1 + u64::from(o.lost));
                    }
                }
            } else {
                seen.undecided += u64::from(o.lost);
            }
        }
    }
    seen
}

#[test]
fn source_routed_probes_see_the_loss_of_one_direction_exactly() {
    if !can_run() {
        return;
    }
    let w = World::up("sr", "srv6", true);
    let (a, b) = (w.prober(0), w.prober(1));
    a.set_plan(w.plan(0, 1_000)).unwrap();
    b.set_plan(w.plan(1, 1_000)).unwrap();
    let seen = watch(&w, &[&a, &b], |s| s.sent > 8_000);
    assert_eq!((seen.lost, seen.undecided), (0, 0), "{seen:?}");
    assert_eq!(seen.by_link.len(), w.fabric.links().count(), "every link is crossed");
    println!("healthy: {seen:?}");

    let sick = w.fabric.link_by_name("p0-leaf0:p0-spine1").unwrap();
    w.drop_on(sick, 10);
    let mut seen = watch(&w, &[&a, &b], |s| s.sent > 8_000);
    w.heal(sick);
    let dropped = w.dropped_on(sick);
    // what was dropped before the healing is told within the time-out and a window
    let rest = watch(&w, &[&a, &b], |s| s.sent > 6_000);
    seen.lost += rest.lost;
    seen.undecided += rest.undecided;
    for (l, (_, lost)) in rest.by_link {
        seen.by_link.entry(l).or_default().1 += lost;
    }
    println!("dropped {dropped}, seen {seen:?}");
    assert_eq!(seen.lost + seen.undecided, dropped);
    assert!(seen.undecided * 20 <= dropped, "{} of {dropped} undecided", seen.undecided);
    assert_eq!(seen.by_link[&sick].1, seen.lost, "every loss is on a path over the sick link");
    assert_eq!(seen.by_link[&sick.reverse()].1, 0, "and none on a path over its other direction");
    println!("counters: {:?}", a.counters());
    a.stop();
    b.stop();
}

#[test]
fn hashed_probes_learn_their_paths_in_band() {
    learn_paths("ib", true);
}

#[test]
fn hashed_probes_learn_their_paths_hop_by_hop() {
    learn_paths("hh", false);
}

fn learn_paths(tag: &str, ioam: bool) {
    if !can_run() {
        return;
    }
    let w = World::up(tag, "ecmp", ioam);
    let (a, b) = (w.prober(0), w.prober(1));
    a.set_plan(w.plan(0, 400)).unwrap();
    b.set_plan(w.plan(1, 400)).unwrap();
    let ways: usize = if ioam { w.fabric.links().count() } else { 8 };
    watch(&w, &[&a, &b], |s| s.by_link.len() >= ways && s.discovered > 200);
    // from here on nearly nothing is a mixture, but the ways back of those who trace by hops
    let seen = watch(&w, &[&a, &b], |s| s.discovered > 400);
    println!("{tag}: {seen:?}\n{:?}", a.counters());
    assert_eq!((seen.lost, seen.undecided), (0, 0));
    assert!(!ioam || seen.mixtures * 20 < seen.discovered, "{seen:?}");
    let sick = w.fabric.link_by_name("p0-spine1:p0-leaf1").unwrap();
    w.drop_on(sick, 4);
    let named = |s: &Seen| s.by_link.get(&sick).is_some_and(|l| l.1 > 0);
    let seen = watch(&w, &[&a, &b], |s| s.lost >= 40 && named(s));
    println!("{tag} with loss: {seen:?}\n{:?}", a.counters());
    let of = |l: LinkId| seen.by_link.get(&l).copied().unwrap_or_default();
    assert!(of(sick).1 > 0 && of(sick).1 + seen.undecided + seen.mixtures >= seen.lost.min(of(sick).1));
    let other = w.fabric.link_by_name("p0-spine0:p0-leaf1").unwrap();
    assert_eq!(of(other).1, 0, "no loss on the other spine: {seen:?}");
}

/// A file in memory.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_recorded_run_gives_the_same_observations_when_it_is_played_again() {
    if !can_run() {
        return;
    }
    for (tag, mode, ioam) in [("rs", "srv6", true), ("re", "ecmp", true), ("rh", "ecmp", false)] {
        let w = World::up(tag, mode, ioam);
        let tape = Tape::default();
        let a = w.prober_with(0, |c| c.recorder = Some(Recorder::new(tape.clone(), 64 << 20)));
        let b = w.prober(1);
        a.set_plan(w.plan(0, 800)).unwrap();
        b.set_plan(w.plan(1, 800)).unwrap();
        let mut live = Vec::new();
        let mut lossy = 0;
        let sick = w.fabric.link_by_name("p0-leaf0:p0-spine1").unwrap();
        let start = Instant::now();
        while live.len() < 150 || lossy < 5 {
            assert!(start.elapsed() < Duration::from_secs(60), "{} {lossy}", live.len());
            if let Ok(o) = a.observations.recv_timeout(Duration::from_millis(100)) {
                lossy += u32::from(matches!(&o, Observation::Path(p) if p.lost > 0));
                live.push(bytes_of(&o));
            }
            // a plan in between is part of the record too
            if live.len() == 40 {
                a.set_plan(w.plan(0, 600)).unwrap();
                w.drop_on(sick, 5);
                while let Ok(o) = a.observations.recv_timeout(Duration::from_millis(1)) {
                    live.push(bytes_of(&o));
                }
            }
        }
        let rest = a.stop_and_take();
        live.extend(rest.iter().map(bytes_of));
        let bytes = tape.0.lock().unwrap().clone();
        println!("{tag}: {} observations, {} bytes in {:?}", live.len(), bytes.len(), start.elapsed());
        for _ in 0..2 {
            let mut again = Vec::new();
            let replayed = replay(&bytes, None, &mut |o| again.push(bytes_of(&o))).unwrap();
            assert_eq!((replayed.ended, replayed.diverged), (Ended::WithTheAgent, None));
            assert_eq!(again, live, "{tag}: byte for byte");
        }
        b.stop();
    }
}
