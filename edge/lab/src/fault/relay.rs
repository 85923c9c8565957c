//! The delay line: a small process that holds every frame of a TAP device for its time and gives it back.
//!
//! The fault element sends packets to the TAP device and takes back, behind itself, what comes out of it again (see
//! `fault.bpf.c`). One thread reads, one writes; between them is a heap ordered by when a frame is due.
//!
//! Invariants: frames that are only delayed keep their order, however the jitter falls; a frame that is held back for
//! reordering may be overtaken. At most [`FRAMES_MAX`] frames wait; what comes then is dropped and counted.
//! Absent on purpose: rates. A link's rate is a token bucket in the kernel.

use crate::{Error, Result};
use kernel::netlink::{Batch, Netlink};
use kernel::{link, netns, sysctl, tap};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Frames that may wait at once.
pub const FRAMES_MAX: usize = 16_384;
/// Bytes of the largest frame.
const FRAME_BYTES: usize = 65_536;

/// What a delay line does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Every frame is held for this long, nanoseconds ...
    pub delay_ns: u64,
    /// ... plus up to this much, evenly distributed.
    pub jitter_ns: u64,
    /// This share of frames ...
    pub share: f64,
    /// ... is held for so much longer and overtaken.
    pub hold_ns: u64,
}

/// When frames are due. Pure: time and luck are arguments.
#[derive(Debug)]
pub struct Schedule {
    line: Line,
    dice: u64,
    last_due_ns: u64,
}

impl Schedule {
    /// A line that rolls its dice from a seed.
    pub fn new(line: Line, seed: u64) -> Schedule {
        Schedule { line, dice: seed, last_due_ns: 0 }
    }

    /// SplitMix64, as a number in `0 .. 1`.
    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// When a frame that came at `now_ns` is due.
    pub fn due_ns(&mut self, now_ns: u64) -> u64 {
        let jitter = (self.line.jitter_ns as f64 * self.roll()) as u64;
        let due = (now_ns + self.line.delay_ns + jitter).max(self.last_due_ns);
        if self.line.share > 0.0 && self.roll() < self.line.share {
            return due + self.line.hold_ns;
        }
        self.last_due_ns = due;
        due
    }
}

/// Frames by when they are due; the number keeps frames due at once in order.
type Waiting = BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>;

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// Runs a delay line in a namespace until the process is ended. `ready` is called with the number of the TAP device
/// once frames can be sent to it.
pub fn run(netns: &str, name: &str, line: Line, seed: u64, ready: impl FnOnce(u32)) -> Result<()> {
    let (mut reader, index) = {
        let _inside = netns::enter(netns)?;
        let file = tap::open(name)?;
        // The device must say nothing of its own: it is a pipe, not a node.
        sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), 1)?;
        let index = link::index_of(name)?;
        let mut batch = Batch::new();
        link::set_mtu(&mut batch, index, crate::wiring::MTU);
        link::set_up(&mut batch, index, true);
        Netlink::route()?.apply(batch)?;
        (file, index)
    };
    let gone = |e: std::io::Error| Error::Process {
        what: format!("delay line {name}"),
        why: e.to_string(),
        log: String::new(),
    };
    let writer = reader.try_clone().map_err(gone)?;
    ready(index);
    let shared = Shared { waiting: Mutex::new(BinaryHeap::new()), changed: Condvar::new() };
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| write_when_due(writer, &shared, start));
        let mut schedule = Schedule::new(line, seed);
        let mut frame = vec![0; FRAME_BYTES];
        let (mut number, mut dropped) = (0, 0u64);
        loop {
            let n = reader.read(&mut frame).map_err(gone)?;
            let due = schedule.due_ns(nanos(start.elapsed()));
            let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= FRAMES_MAX {
                dropped += 1;
                if dropped.is_power_of_two() {
                    eprintln!("delay line {name}: {dropped} frames dropped, {FRAMES_MAX} were waiting");
                }
                continue;
            }
            let first = waiting.peek().is_none_or(|Reverse((t, ..))| due < *t);
            waiting.push(Reverse((due, number, frame[..n].to_vec())));
            number += 1;
            drop(waiting);
            if first {
                shared.changed.notify_one();
            }
        }
    })
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn write_when_due(mut writer: File, shared: &Shared, start: Instant) {
    let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let now = nanos(start.elapsed());
        let wait = match waiting.peek() {
            Some(Reverse((due, ..))) => due.saturating_sub(now),
            None => u64::MAX,
        };
        if wait > 0 {
            let (again, _) = shared
                .changed
                .wait_timeout(waiting, Duration::from_nanos(wait.min(1_000_000_000)))
                .unwrap_or_else(PoisonError::into_inner);
            waiting = again;
            continue;
        }
        let Some(Reverse((_, _, frame))) = waiting.pop() else { continue };
        drop(waiting);
        // A frame the device does not take is lost, as on a real link; the element counts what came back.
        let _ = writer.write(&frame);
        waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_keeps_the_order_and_the_bounds() {
        let line = Line { delay_ns: 5_000, jitter_ns: 1_000, ..Line::default() };
        let mut s = Schedule::new(line, 7);
        let mut last = 0;
        for now in (0..100_000).step_by(10) {
            let due = s.due_ns(now);
            assert!(due >= last && due >= now + 5_000 && due <= now + 6_000);
            last = due;
        }
    }

    #[test]
    fn a_share_is_overtaken() {
        let line = Line { delay_ns: 0, jitter_ns: 0, share: 0.1, hold_ns: 500 };
        let mut s = Schedule::new(line, 1);
        let held = (0..10_000u64).filter(|&now| s.due_ns(now * 10) > now * 10).count();
        assert!((900..1_100).contains(&held), "{held}");
    }
}
