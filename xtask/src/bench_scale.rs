//! The scale half of `cargo xtask bench localizer`: a fabric of 165,888 directed links (27,648 hosts, 1,152 leaves, 48
//! spines, one plane), the online engine on one core.
//!
//! How: loss-free observations of random paths are taken in as fast as they can be, for the rate; then ten seconds of
//! probing with sick links and a sick switch, where the longest single weighing of the evidence is the time to a
//! verdict once the observations are in.

use anyhow::{Result, ensure};
use diagnose::{Config, Engine, Event};
use fabric::{Fabric, LinkParams, Mode, Shape, Tier};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use wire::{
    Component, Epoch, HostId, Known, Leg, LinkId, Nanos, PathObservation, PathRef, PlaneId, Source, Window,
};

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Scale {
    pub(crate) name: &'static str,
    pub(crate) directed_links: usize,
    /// Loss-free observations taken in a second.
    pub(crate) observations_per_second: f64,
    /// Longest weighing in which a verdict was opened.
    pub(crate) verdict_seconds: f64,
    /// Longest weighing of all.
    pub(crate) longest_seconds: f64,
    /// Faults put in, and of those named.
    pub(crate) faults: usize,
    pub(crate) found: usize,
    pub(crate) false_verdicts: usize,
}

/// Seconds this thread has spent on a core: others share the machine. Wall time where the kernel does not say.
fn on_core() -> f64 {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|s| s.split_ascii_whitespace().next()?.parse::<u64>().ok());
    spent.map_or_else(|| BEGIN.get_or_init(Instant::now).elapsed().as_secs_f64(), |ns| ns as f64 / 1e9)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn big() -> Fabric {
    let cable = LinkParams { rate_bps: 400_000_000_000, latency_ns: 500 };
    Fabric {
        name: "big".to_owned(),
        mode: Mode::Srv6,
        shape: Shape {
            planes: 1,
            leaves: 1_152,
            spines: 48,
            hosts: 27_648,
            hosts_per_leaf: 24,
            rails: 1,
            cables: 1,
        },
        epoch: Epoch(1),
        access: cable,
        trunk: cable,
        parallel: 1,
        removed: Vec::new(),
        added: Vec::new(),
    }
}

fn observation(f: &Fabric, r: &mut Random, sent: u32) -> Option<PathObservation> {
    let plane = PlaneId(0);
    let from = f.nic(plane, HostId(r.below(f.shape.hosts)), 0)?;
    let to = f.nic(plane, HostId(r.below(f.shape.hosts)), 0)?;
    let path = f.path(from, to, r.below(f.lanes()))?;
    f.path_links(path)?;
    Some(PathObservation {
        window: Window { start: Nanos::ZERO, length: Nanos::from_millis(500) },
        producer: f.nic_parts(from).1,
        sequence: r.next(),
        epoch: f.epoch,
        path: PathRef::OneWay(Leg { path, known: Known::Exact }),
        class: 0,
        size_log2: 8,
        entropy: 0,
        sent,
        lost: 0,
        reordered: 0,
        ecn_marked: 0,
        delay: None,
        source: Source::Probe,
    })
}

/// Measures.
pub(crate) fn run() -> Result<Scale> {
    let fabric = Arc::new(big());
    let links = fabric.links().count();
    let mut r = Random(1);

    let some: Vec<PathObservation> =
        std::iter::from_fn(|| Some(observation(&fabric, &mut r, 20))).flatten().take(400_000).collect();
    let mut engine = Engine::new(fabric.clone(), Config::default());
    let mut window = Window { start: Nanos::from_secs(1_000), length: Nanos::from_millis(500) };
    let passes = 20;
    let begin = on_core();
    for _ in 0..passes {
        for o in &some {
            engine.handle_path(window.end(), &PathObservation { window, ..*o });
        }
        window.start += window.length;
    }
    let taken = passes * some.len();
    let observations_per_second = taken as f64 / (on_core() - begin);
    ensure!(engine.counters().paths == taken as u64, "an observation was not taken");

    // Sick: eight links at 0.2 to 2 %, and a spine with all of its ports at 1 %.
    let all: Vec<LinkId> = fabric.links().collect();
    let mut rate = vec![0.0f64; fabric.link_bound() as usize];
    let mut sick = Vec::new();
    for _ in 0..8 {
        let l = all[r.below(all.len() as u32) as usize];
        rate[l.index()] = 0.002 + 0.018 * r.unit();
        sick.push(Component::Link(l));
    }
    if let Some(s) = fabric.switch(PlaneId(0), Tier::Spine, 7) {
        fabric.switch_links(s).iter().for_each(|l| rate[l.index()] = 0.01);
        sick.push(Component::Switch(s));
    }
    let mut engine = Engine::new(fabric.clone(), Config::default());
    let (mut longest, mut opening) = (0.0f64, 0.0f64);
    let mut named = Vec::new();
    window.start = Nanos::from_secs(2_000);
    for step in 0..20u32 {
        for _ in 0..400_000 {
            let Some(mut o) = observation(&fabric, &mut r, 20) else { continue };
            o.window = window;
            if step >= 8
                && let PathRef::OneWay(leg) = o.path
                && let Some(path) = fabric.path_links(leg.path)
            {
                let pass: f64 = path.iter().map(|l| 1.0 - rate[l.index()]).product();
                if pass < 1.0 {
                    o.lost = (0..o.sent).filter(|_| r.unit() >= pass).count() as u32;
                }
            }
            engine.handle_path(window.end(), &o);
        }
        for tick in 1..=5 {
            let now = window.end() + Nanos::from_millis(100 * tick);
            let begin = on_core();
            engine.handle_timeout(now);
            let seconds = on_core() - begin;
            longest = longest.max(seconds);
            while let Some(e) = engine.poll_event() {
                if let Event::Opened(v) = e {
                    opening = opening.max(seconds);
                    named.push(v.id);
                }
            }
        }
        window.start += window.length;
    }
    let verdicts: Vec<_> = engine.verdicts().collect();
    let right = |c: &Component| verdicts.iter().any(|v| v.component == *c || v.alternatives.contains(c));
    let wrong = verdicts
        .iter()
        .filter(|v| !sick.iter().any(|c| v.component == *c || v.alternatives.contains(c)))
        .count();
    Ok(Scale {
        name: "scale",
        directed_links: links,
        observations_per_second,
        verdict_seconds: opening,
        longest_seconds: longest,
        faults: sick.len(),
        found: sick.iter().filter(|c| right(c)).count(),
        false_verdicts: wrong,
    })
}
