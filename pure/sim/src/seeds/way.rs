//! The network between two ends: it carries bytes, and does to them what the plan says.
//!
//! Invariants: put = lost + swallowed + arrived + under way; a damaged datagram differs from what was sent, and says so
//! to nobody but the judge.
//! Absent on purpose: queues and links; delays are drawn.

use super::Tally;
use super::plan::Trouble;
use crate::rng::Rng;
use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use wire::Nanos;
use wire::transport::Seen;

/// A datagram on its way, and what only the judge may know of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Datagram {
    pub bytes: Vec<u8>,
    pub seen: Seen,
    /// Which end it goes to.
    pub to: usize,
    /// Which connection it belongs to, counted from 0.
    pub life: usize,
    /// It is not what was sent.
    pub damaged: bool,
    /// There is another like it.
    pub twin: bool,
}

/// What an end puts on the way.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    pub from: usize,
    pub ev: u16,
    /// Which connection it belongs to.
    pub life: usize,
    pub bytes: &'a [u8],
    /// Of a chunk, the length of what a switch leaves of it.
    pub header: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Like {
    Sent,
    Another,
    Nothing,
}

/// The network.
pub(super) struct Way<'a> {
    trouble: &'a Trouble,
    rng: Rng,
    heap: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    store: Vec<Datagram>,
    free: Vec<u32>,
    /// When the last of each EV arrives, by direction, EV and whether it is a whole chunk: those stay in order.
    last: Vec<Nanos>,
    evs: usize,
    order: u64,
}

impl<'a> Way<'a> {
    pub fn new(trouble: &'a Trouble, evs: u16, seed: u64) -> Self {
        let evs = usize::from(evs.max(1));
        Self {
            trouble,
            rng: Rng::new(seed, 2),
            heap: BinaryHeap::new(),
            store: Vec::new(),
            free: Vec::new(),
            last: vec![Nanos::ZERO; evs * 4],
            evs,
            order: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    pub fn next(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// The next datagram that arrives at `now` or before. It has to be given back.
    pub fn take(&mut self, now: Nanos) -> Option<(u32, Datagram)> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, _, i)) = self.heap.pop()?;
        Some((i, core::mem::take(self.store.get_mut(i as usize)?)))
    }

    pub fn give_back(&mut self, place: u32, datagram: Datagram) {
        if let Some(d) = self.store.get_mut(place as usize) {
            *d = datagram;
        }
        self.free.push(place);
    }

    /// Puts a datagram on the way.
    pub fn put(&mut self, now: Nanos, sent: Sent<'_>, tally: &mut Tally) {
        let t = self.trouble;
        let Sent { from, ev, bytes, .. } = sent;
        tally.datagrams += 1;
        let dies = |d: &&super::plan::Death| {
            ev < d.evs && d.from <= now && now < d.until && d.ways.get(from).is_some_and(|w| *w)
        };
        if t.deaths.iter().find(dies).is_some() {
            tally.swallowed += 1;
            return;
        }
        if self.rng.chance(t.loss) {
            tally.lost += 1;
            return;
        }
        if self.rng.chance(t.damage / 4.0) {
            // a stranger who knows the connection and makes up the rest
            tally.datagrams += 1;
            let mut made: Vec<u8> = bytes.iter().take(6).copied().collect();
            made.extend((0..self.rng.below(120)).map(|_| self.rng.next_u64() as u8));
            self.carry(now, Sent { bytes: &made, header: None, ..sent }, Like::Nothing, tally);
        }
        if self.rng.chance(t.duplicate) {
            tally.datagrams += 1;
            tally.copies += 1;
            self.carry(now, sent, Like::Another, tally);
            self.carry(now, sent, Like::Another, tally);
        } else {
            self.carry(now, sent, Like::Sent, tally);
        }
    }

    fn carry(&mut self, now: Nanos, sent: Sent<'_>, like: Like, tally: &mut Tally) {
        let t = self.trouble;
        let rng = &mut self.rng;
        let Sent { from, ev, life, bytes, header } = sent;
        let place = self.free.pop().unwrap_or(self.store.len() as u32);
        if place as usize == self.store.len() {
            self.store.push(Datagram::default());
        }
        let Some(d) = self.store.get_mut(place as usize) else { return };
        let marked = rng.chance(t.mark);
        let trimmed = header.is_some() && rng.chance(t.trim);
        d.bytes.clear();
        let kept = header.filter(|_| trimmed).unwrap_or(bytes.len());
        d.bytes.extend_from_slice(bytes.get(..kept).unwrap_or(bytes));
        // a switch has checked what it trims
        d.damaged = !trimmed && rng.chance(t.damage);
        if d.damaged {
            damage(rng, &mut d.bytes);
        }
        d.damaged |= like == Like::Nothing;
        d.twin = like == Like::Another;
        (d.seen, d.to, d.life) = (Seen { marked, trimmed }, 1 - from, life);
        tally.marked += u64::from(marked);
        tally.trimmed += u64::from(trimmed);
        tally.damaged += u64::from(d.damaged);
        let mut at = now + t.delay + Nanos(rng.below(t.spread.0));
        if rng.chance(t.disorder) {
            at += Nanos(rng.below(t.spread.0 * 2));
        } else {
            let class = (from * 2 + usize::from(header.is_some() && !trimmed)) * self.evs + usize::from(ev);
            if let Some(last) = self.last.get_mut(class) {
                at = at.max(*last);
                *last = at;
            }
        }
        self.order += 1;
        self.heap.push(Reverse((at, self.order, place)));
    }
}

/// Makes bytes differ from what they were.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let n = bytes.len() as u64;
    match rng.below(8) {
        0 => bytes.truncate(rng.below(n) as usize),
        1 => bytes.extend((0..=rng.below(20)).map(|i| i as u8)),
        2 => {
            // a run of bytes
            let from = rng.below(n) as usize;
            let run = 1 + rng.below(16) as usize;
            for b in bytes.iter_mut().skip(from).take(run) {
                *b ^= 1 + rng.below(255) as u8;
            }
        }
        _ => {
            let bit = rng.below(n * 8);
            if let Some(b) = bytes.get_mut((bit / 8) as usize) {
                *b ^= 1 << (bit % 8);
            }
        }
    }
}
