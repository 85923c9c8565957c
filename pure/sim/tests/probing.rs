//! What the probe machines say against what the simulated fabric knows: losses, damage, marks, lateness and order are
//! put on the links that are sick, in the right direction, at the right rate, and on no others.
#![allow(clippy::unwrap_used)] // a panic in a test is the report

use fabric::{Fabric, Scenario};
use probe::Observation;
use selvedge_sim::run::{Config, Run};
use wire::{Counter, Known, LinkId, PathObservation, PathRef};

#[derive(Debug, Default)]
struct Sum {
    sent: u64,
    lost: u64,
    reordered: u64,
    marked: u64,
    timed: u64,
    over: u64,
    observations: u64,
}

impl Sum {
    fn add(&mut self, o: &PathObservation) {
        self.sent += u64::from(o.sent);
        self.lost += u64::from(o.lost);
        self.reordered += u64::from(o.reordered);
        self.marked += u64::from(o.ecn_marked);
        self.timed += u64::from(o.delay.map_or(0, |d| d.count));
        self.over += u64::from(o.delay.map_or(0, |d| d.over));
        self.observations += 1;
    }
}

/// What a run's observations come to from the third second of the fault on.
struct Seen {
    /// One way, across the sick link; and one way, elsewhere.
    across: Sum,
    elsewhere: Sum,
    /// Round trips across it, and elsewhere.
    undecided_across: u64,
    undecided_elsewhere: u64,
    /// One way, path not known.
    mixture: Sum,
    stalls: u64,
    checksum_errors: u64,
}

fn see(mode: &str, target: &str, kind: &str, more: &str) -> (Seen, Fabric) {
    let text = format!(
        "name = \"probing\"\nduration = \"30s\"\n[fabric]\nmode = \"{mode}\"\nplanes = 2\nleaves = 4\nspines = 4\nhosts = 16\n\
         [probe]\n{more}\n[[fault]]\ntarget = \"{target}\"\nkind = \"{kind}\"\nat = \"12s\"\n"
    );
    let scenario = Scenario::parse(&text).unwrap().resolve(3);
    let fabric = scenario.fabric.clone();
    let (links, from) =
        (scenario.faults[0].links(&fabric), scenario.faults[0].at + wire::Nanos::from_secs(3));
    let mut config = Config::default();
    config.net.background_loss = 0.0;
    let mut run = Run::new(scenario, config);
    run.tap();
    while run.next_event().is_some() {}
    let mut seen = Seen {
        across: Sum::default(),
        elsewhere: Sum::default(),
        undecided_across: 0,
        undecided_elsewhere: 0,
        mixture: Sum::default(),
        stalls: 0,
        checksum_errors: 0,
    };
    let crosses = |path| fabric.path_links(path).unwrap().iter().any(|l: &LinkId| links.contains(l));
    for (_, o) in run.tap() {
        match o {
            Observation::Path(o) if o.window.start < from => {
                if o.window.start.0 > 2_000_000_000 && o.window.start.0 + 4_000_000_000 < from.0 {
                    assert_eq!(
                        (o.lost, o.reordered, o.ecn_marked),
                        (0, 0, 0),
                        "before the fault, all hosts up: {o:?}"
                    );
                }
            }
            Observation::Path(o) => match o.path {
                PathRef::OneWay(leg) if leg.known == Known::Mixture => seen.mixture.add(&o),
                PathRef::OneWay(leg) if crosses(leg.path) => seen.across.add(&o),
                PathRef::OneWay(_) => seen.elsewhere.add(&o),
                PathRef::RoundTrip { forward, backward } => {
                    let known = forward.known != Known::Mixture && backward.known != Known::Mixture;
                    if crosses(forward.path) || crosses(backward.path) || !known {
                        seen.undecided_across += u64::from(o.sent);
                    } else {
                        seen.undecided_elsewhere += u64::from(o.sent);
                    }
                }
            },
            Observation::Component(o) => match o.counter {
                Counter::ChecksumError => seen.checksum_errors += o.delta,
                _ => seen.stalls += o.delta,
            },
        }
    }
    (seen, fabric)
}

fn near(got: u64, of: u64, share: f64) {
    let expected = of as f64 * share;
    let spread = 5.0 * (expected * (1.0 - share)).sqrt() + 2.0;
    assert!((got as f64 - expected).abs() <= spread, "{got} of {of}, expected {expected:.0} ± {spread:.0}");
}

#[test]
fn losses_are_put_on_the_link_and_direction_that_loses() {
    for mode in ["srv6", "ecmp"] {
        for target in ["p0-leaf1:p0-spine2", "p1-spine0:p1-leaf3", "host5:p0-leaf1", "p1-leaf2:host9"] {
            let (seen, _) = see(mode, target, "drop 5%", "");
            assert_eq!(seen.elsewhere.lost, 0, "{mode} {target}");
            assert_eq!(seen.undecided_elsewhere, 0, "{mode} {target}");
            let lost = seen.across.lost + seen.undecided_across + seen.mixture.lost;
            near(lost, seen.across.sent + seen.undecided_across, 0.05);
            let unsure = seen.undecided_across + seen.mixture.lost;
            assert!(unsure * 5 < lost, "{mode} {target}: {unsure} of {lost} losses without a direction");
            assert!(seen.mixture.sent * 20 < seen.elsewhere.sent, "{mode}: {:?}", seen.mixture);
            assert_eq!(seen.stalls, 0);
        }
    }
}

#[test]
fn a_dead_link_is_seen_on_every_packet() {
    for mode in ["srv6", "ecmp"] {
        let (seen, _) = see(mode, "p0-leaf1:p0-spine2", "drop 100%", "");
        assert_eq!((seen.elsewhere.lost, seen.undecided_elsewhere), (0, 0), "{mode}");
        assert_eq!(seen.across.lost, seen.across.sent, "{mode}");
        let dead = seen.across.sent + seen.undecided_across + seen.mixture.lost;
        assert!(dead > 2_000, "{mode}: {dead} packets in 15 s");
    }
}

#[test]
fn damage_is_counted_where_it_is_noticed() {
    let (seen, _) = see("srv6", "p0-leaf1:p0-spine2", "corrupt 5%", "");
    assert_eq!(seen.elsewhere.lost, 0);
    near(seen.across.lost + seen.undecided_across, seen.across.sent + seen.undecided_across, 0.05);
    // all of the fault's 18 s, not only from its third on
    assert!(seen.checksum_errors >= seen.across.lost, "{} {}", seen.checksum_errors, seen.across.lost);
}

#[test]
fn marks_lateness_and_overtaking_are_put_on_the_link() {
    let (seen, _) = see("srv6", "p0-leaf1:p0-spine2", "ecn 20%", "");
    assert_eq!((seen.elsewhere.marked, seen.elsewhere.lost, seen.across.lost), (0, 0, 0));
    near(seen.across.marked, seen.across.sent, 0.2);

    let (seen, _) = see("srv6", "p1-spine0:p1-leaf3", "delay 5ms jitter 1ms", "");
    assert_eq!((seen.elsewhere.lost, seen.across.lost), (0, 0));
    assert!(seen.across.over * 100 > seen.across.timed * 95, "{:?}", seen.across);
    assert!(seen.elsewhere.over * 200 < seen.elsewhere.timed, "{:?}", seen.elsewhere);

    let (seen, _) = see("srv6", "p0-leaf1:p0-spine2", "reorder 5% delay 2ms", "train = 8");
    assert_eq!((seen.elsewhere.reordered, seen.elsewhere.lost, seen.across.lost), (0, 0, 0));
    assert!(seen.across.reordered > 0, "{:?}", seen.across);
}

#[test]
fn a_stalled_host_is_no_slow_network() {
    let (seen, _) = see("srv6", "host3", "cpu-stall stopped 50ms period 200ms", "");
    assert_eq!((seen.elsewhere.lost, seen.undecided_elsewhere), (0, 0));
    assert!(seen.elsewhere.over * 200 < seen.elsewhere.timed, "{:?}", seen.elsewhere);
    assert!(seen.stalls > 500, "{}", seen.stalls);
}
