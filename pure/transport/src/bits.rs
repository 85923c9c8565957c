//! A ring of bits, one a packet number, for a window that moves up.
//!
//! Invariants: a number and the one [`Bits::len`] above it share a bit, so whoever moves the window up clears what it
//! leaves. Absent on purpose: the window's ends.

use alloc::vec;
use alloc::vec::Vec;

/// One bit a packet number, for a window that moves up.
#[derive(Clone, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Room for at least this many numbers.
    pub fn new(numbers: u64) -> Self {
        Self { words: vec![0; (Self::memory_bytes(numbers) / 8) as usize] }
    }
    /// Bytes a set for this many numbers takes.
    pub const fn memory_bytes(numbers: u64) -> u64 {
        let words = numbers / 64;
        (if words < 1 { 1 } else { words }).next_power_of_two() * 8
    }
    pub fn len(&self) -> u64 {
        self.words.len() as u64 * 64
    }
    fn at(&self, n: u64) -> (usize, u64) {
        ((n / 64) as usize & (self.words.len() - 1), 1 << (n % 64))
    }
    pub fn get(&self, n: u64) -> bool {
        let (w, bit) = self.at(n);
        self.words[w] & bit != 0
    }
    pub fn set(&mut self, n: u64) {
        let (w, bit) = self.at(n);
        self.words[w] |= bit;
    }
    pub fn clear(&mut self, n: u64) {
        let (w, bit) = self.at(n);
        self.words[w] &= !bit;
    }
    /// The 64 bits from `n` on.
    pub fn word(&self, n: u64) -> u64 {
        let (w, _) = self.at(n);
        let shift = n % 64;
        let low = self.words[w] >> shift;
        if shift == 0 { low } else { low | self.words[(w + 1) & (self.words.len() - 1)] << (64 - shift) }
    }
}
