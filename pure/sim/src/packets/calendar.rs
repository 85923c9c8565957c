//! When the packet a link is sending leaves it: a calendar with at most one entry a link.
//!
//! How: time is cut into slots of half a nanosecond; each slot has a chain of links, sorted by time, and a bit says whether
//! it has any. Most entries of a slot have the time of its last, so putting one at the end is the common case. What
//! lies beyond the calendar's horizon waits in a heap.
//!
//! Invariants: entries come out by time, equal times in the order they were put in; nothing is allocated a packet.
//! Absent on purpose: removing; a link sends to the end what it began.

use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// log2 of a slot's length in picoseconds.
const SLOT_BITS: u32 = 9;
/// Slots.
const SLOTS: u64 = 1 << 14;
const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    head: Vec<u32>,
    tail: Vec<u32>,
    used: Vec<u64>,
    next: Vec<u32>,
    at: Vec<u64>,
    /// The slot of the entry that came out last.
    slot: u64,
    /// The time of the first entry; [`NEVER`] where it has to be looked for.
    first: u64,
    near: usize,
    far: BinaryHeap<Reverse<(u64, u64, u32)>>,
    order: u64,
}

impl Calendar {
    pub fn new(links: usize) -> Self {
        Self {
            head: vec![NONE; SLOTS as usize],
            tail: vec![NONE; SLOTS as usize],
            used: vec![0; SLOTS as usize / 64],
            next: vec![NONE; links],
            at: vec![0; links],
            slot: 0,
            first: NEVER,
            near: 0,
            far: BinaryHeap::new(),
            order: 0,
        }
    }

    /// Puts a link in. It must not be in already; the time must not lie before what came out last.
    pub fn push(&mut self, at: u64, link: u32) {
        let slot = at >> SLOT_BITS;
        if self.first != NEVER {
            self.first = self.first.min(at);
        }
        if slot >= self.slot + SLOTS {
            self.far.push(Reverse((at, self.order, link)));
            self.order += 1;
            return;
        }
        let i = (slot % SLOTS) as usize;
        self.near += 1;
        self.at[link as usize] = at;
        let tail = self.tail[i];
        if tail == NONE {
            self.next[link as usize] = NONE;
            (self.head[i], self.tail[i]) = (link, link);
            self.used[i / 64] |= 1 << (i % 64);
            return;
        }
        if self.at[tail as usize] <= at {
            self.next[tail as usize] = link;
            self.next[link as usize] = NONE;
            self.tail[i] = link;
            return;
        }
        let mut before = NONE;
        let mut n = self.head[i];
        while n != NONE && self.at[n as usize] <= at {
            (before, n) = (n, self.next[n as usize]);
        }
        self.next[link as usize] = n;
        match before {
            NONE => self.head[i] = link,
            b => self.next[b as usize] = link,
        }
    }

    /// The first slot with an entry, counted from the beginning of time; there must be one.
    fn first_slot(&self) -> u64 {
        let start = (self.slot % SLOTS) as usize;
        let words = self.used.len();
        let mut w = start / 64;
        let mut bits = self.used[w] & (u64::MAX << (start % 64));
        let mut steps = 0;
        while bits == 0 && steps <= words {
            w = (w + 1) % words;
            bits = self.used[w];
            steps += 1;
        }
        let i = w as u64 * 64 + u64::from(bits.trailing_zeros());
        self.slot + (i + SLOTS - start as u64) % SLOTS
    }

    /// The time of the first entry.
    pub fn peek(&mut self) -> Option<u64> {
        if self.first == NEVER {
            if self.near > 0 {
                let slot = self.first_slot();
                self.first = self.at[self.head[(slot % SLOTS) as usize] as usize];
            }
            if let Some(&Reverse((at, _, _))) = self.far.peek() {
                self.first = self.first.min(at);
            }
        }
        (self.first != NEVER).then_some(self.first)
    }

    /// Takes the first entry out. Only after [`Calendar::peek`] gave its time.
    pub fn pop(&mut self) -> u32 {
        self.slot = self.first >> SLOT_BITS;
        // one that was far was put in before any other of its time
        if let Some(&Reverse((at, _, link))) = self.far.peek()
            && at == self.first
        {
            self.far.pop();
            self.first = NEVER;
            return link;
        }
        let i = (self.slot % SLOTS) as usize;
        let link = self.head[i];
        let next = self.next[link as usize];
        self.head[i] = next;
        self.near -= 1;
        if next == NONE {
            self.tail[i] = NONE;
            self.used[i / 64] &= !(1 << (i % 64));
            self.first = NEVER;
        } else {
            self.first = self.at[next as usize];
            if let Some(&Reverse((at, _, _))) = self.far.peek() {
                self.first = self.first.min(at);
            }
        }
        link
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use alloc::collections::BTreeMap;

    /// Against the plain model: a map ordered by time, then by order of pushing.
    #[test]
    fn comes_out_by_time_then_by_order() {
        let mut rng = Rng::new(1, 2);
        let links = 300;
        let mut calendar = Calendar::new(links);
        let mut model = BTreeMap::new();
        let (mut now, mut order) = (0u64, 0u64);
        let mut push =
            |c: &mut Calendar, m: &mut BTreeMap<(u64, u64), u32>, rng: &mut Rng, now: u64, l: u32| {
                let spread = [1, 600, 300_000, 40_000_000][rng.below(4) as usize];
                let at = now + rng.below(spread);
                c.push(at, l);
                m.insert((at, order), l);
                order += 1;
            };
        (0..links as u32).for_each(|l| push(&mut calendar, &mut model, &mut rng, 0, l));
        for _ in 0..50_000 {
            let (&(at, order), &link) = model.first_key_value().unwrap();
            assert_eq!(calendar.peek(), Some(at));
            assert_eq!(calendar.pop(), link);
            assert!(at >= now);
            now = at;
            model.remove(&(at, order));
            push(&mut calendar, &mut model, &mut rng, now, link);
        }
    }
}
