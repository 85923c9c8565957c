//! Reading and writing numbers in network byte order, one after the other.
//!
//! Invariants: a read past the end is `None` and never a panic; a width is 0 to 8 bytes.
//! Absent on purpose: anything that knows what the numbers mean.

use alloc::vec::Vec;

/// Takes numbers from the front of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, taken: 0 }
    }
    /// Bytes taken so far.
    pub fn taken(&self) -> usize {
        self.taken
    }
    pub fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        self.taken += bytes;
        Some(front)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    pub fn u48(&mut self) -> Option<u64> {
        let [a, b, c, d, e, f] = self.array()?;
        Some(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    /// A number of so many bytes, `0 ..= 8`.
    pub fn wide(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }
}

/// Appends the low `bytes` bytes of a number, `0 ..= 8`.
pub(super) fn put(out: &mut Vec<u8>, bytes: usize, value: u64) {
    let all = value.to_be_bytes();
    out.extend_from_slice(all.get(8 - bytes.min(8)..).unwrap_or(&[]));
}

/// The code of the least of four widths that holds a number, and that width. A width of 0 holds nothing but 0.
pub(super) fn least(widths: [usize; 4], value: u64) -> (u8, usize) {
    let fits = |w: usize| w >= 8 || value < 1 << (8 * w);
    let code = widths.iter().position(|w| fits(*w)).unwrap_or(3);
    (code as u8, widths.get(code).copied().unwrap_or(8))
}
