//! Which packet numbers were seen, so that none is taken twice.
//!
//! How: one bit a number over a window that moves up with the highest; the words are a ring, and a word is cleared when
//! the window moves over it.
//!
//! Invariants: a number is taken at most once; memory is the window's bits and nothing before the first number.
//! Absent on purpose: judging numbers of packets that were not authentic; ask first, take after.

use alloc::vec::Vec;

/// Why a number is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was taken before.
    Again,
    /// It is below the window, so nobody knows.
    TooOld,
}

/// A window of packet numbers.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    words: Vec<u64>,
    size: u64,
    /// One above the highest taken.
    end: u64,
}

impl ReplayWindow {
    /// A window over `words * 64` numbers, at least 64; a bit is lost to the word that is being cleared.
    pub const fn new(words: usize) -> Self {
        Self { words: Vec::new(), size: if words == 0 { 1 } else { words as u64 }, end: 0 }
    }

    fn at(&self, number: u64) -> (usize, u64) {
        ((number / 64 % self.size) as usize, 1 << (number % 64))
    }

    /// May this number still be taken?
    pub fn check(&self, number: u64) -> Result<(), Seen> {
        if number >= self.end {
            return Ok(());
        }
        // the newest word may be partly filled, so the oldest one kept is `size - 1` before it
        if number / 64 + self.size <= (self.end - 1) / 64 {
            return Err(Seen::TooOld);
        }
        let (word, bit) = self.at(number);
        if self.words.get(word).is_some_and(|w| w & bit != 0) { Err(Seen::Again) } else { Ok(()) }
    }

    /// Takes a number.
    pub fn take(&mut self, number: u64) -> Result<(), Seen> {
        self.check(number)?;
        if self.words.is_empty() {
            self.words.resize(self.size as usize, 0);
        }
        if number >= self.end {
            let first = if self.end == 0 { 0 } else { (self.end - 1) / 64 + 1 };
            let last = number / 64;
            // no need to clear a word twice
            for word in first.max(last.saturating_sub(self.size - 1))..=last {
                let at = (word % self.size) as usize;
                if let Some(w) = self.words.get_mut(at) {
                    *w = 0;
                }
            }
            self.end = number + 1;
        }
        let (word, bit) = self.at(number);
        if let Some(w) = self.words.get_mut(word) {
            *w |= bit;
        }
        Ok(())
    }

    /// One above the highest number taken.
    pub const fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        /// Against a set that forgets nothing: what is taken was never taken, what is refused was taken or is old.
        #[test]
        fn a_number_is_taken_once(jumps in proptest::collection::vec((any::<bool>(), 0u64..300), 1..400)) {
            let mut window = ReplayWindow::new(4);
            let mut taken = BTreeSet::new();
            for (up, jump) in jumps {
                let number = if up { window.end() + jump } else { window.end().saturating_sub(jump) };
                match window.take(number) {
                    Ok(()) => prop_assert!(taken.insert(number)),
                    Err(Seen::Again) => prop_assert!(taken.contains(&number)),
                    Err(Seen::TooOld) => prop_assert!(number + 3 * 64 < window.end()),
                }
            }
        }
    }

    #[test]
    fn the_window_is_as_long_as_said_and_far_jumps_are_cheap() {
        let mut w = ReplayWindow::new(4);
        assert_eq!(w.take(0), Ok(()));
        assert_eq!(w.take(0), Err(Seen::Again));
        assert_eq!(w.take(255), Ok(()));
        assert_eq!(w.take(1), Ok(()));
        assert_eq!(w.take(256), Ok(()));
        assert_eq!(w.check(63), Err(Seen::TooOld));
        assert_eq!(w.check(64), Ok(()));
        assert_eq!(w.take((1 << 48) - 1), Ok(()));
        assert_eq!(w.check(255), Err(Seen::TooOld));
        assert_eq!(w.take((1 << 48) - 2), Ok(()));
    }
}
