//! The byte streams of a handshake: one direction of one level, as it is sent and as it is put in order.
//!
//! Invariants: no stream is longer than [`STREAM_MAX`](wire::transport::hello::STREAM_MAX); what arrives out of order is
//! kept in at most [`PARTS_MAX`] parts.
//! Absent on purpose: windows and round trips. A flight is a few datagrams.

use crate::handshake::STREAM_BYTES_MAX;

/// Parts with gaps between them that are kept.
const PARTS_MAX: usize = 32;

/// A stream to send.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// The other end has everything below. `confirmed <= bytes.len()`
    confirmed: usize,
    /// What is to be sent next. `confirmed <= next`
    next: usize,
}

impl Outgoing {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// False where the stream would become too long.
    pub fn append(&mut self, flight: &[u8]) -> bool {
        let fits = self.bytes.len() + flight.len() <= STREAM_BYTES_MAX;
        if fits {
            self.bytes.extend_from_slice(flight);
        }
        fits
    }
    /// The other end has everything below `arrived`; more than was said is not believed.
    pub fn acknowledge(&mut self, arrived: u16) {
        let arrived = usize::from(arrived);
        if arrived <= self.bytes.len() {
            self.confirmed = self.confirmed.max(arrived);
            self.next = self.next.max(self.confirmed);
        }
    }
    pub fn is_confirmed(&self) -> bool {
        self.confirmed == self.bytes.len()
    }
    /// Everything not confirmed is to be sent again.
    pub fn again(&mut self) {
        self.next = self.confirmed;
    }
    /// The next piece and where it begins.
    pub fn poll(&mut self, most: usize) -> Option<(u16, Vec<u8>)> {
        let rest = self.bytes.get(self.next..).filter(|r| !r.is_empty())?;
        let piece = rest.get(..most).unwrap_or(rest).to_vec();
        let offset = u16::try_from(self.next).ok()?;
        self.next += piece.len();
        Some((offset, piece))
    }
}

/// A stream that arrives.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    /// Parts that arrived: sorted, apart from each other, not empty.
    parts: Vec<(usize, usize)>,
    taken: usize,
}

impl Incoming {
    /// Bytes from the beginning without a gap.
    pub fn arrived(&self) -> u16 {
        match self.parts.first() {
            // no stream is longer than STREAM_MAX
            Some(&(0, end)) => end as u16,
            _ => 0,
        }
    }

    /// Puts a piece in its place. False where it is not kept. What arrived before stays as it is.
    pub fn insert(&mut self, offset: u16, piece: &[u8]) -> bool {
        let from = usize::from(offset);
        let to = from + piece.len();
        if to > STREAM_BYTES_MAX {
            return false;
        }
        if piece.is_empty() {
            return true;
        }
        // parts that touch the piece become one with it
        let first = self.parts.partition_point(|p| p.1 < from);
        let last = self.parts.partition_point(|p| p.0 <= to);
        if first == last && self.parts.len() >= PARTS_MAX {
            return false;
        }
        if self.bytes.len() < to {
            self.bytes.resize(to, 0);
        }
        let mut at = from;
        let mut merged = (from, to);
        for &(start, end) in self.parts.get(first..last).unwrap_or(&[]) {
            copy(&mut self.bytes, at, start, from, piece);
            at = at.max(end);
            merged = (merged.0.min(start), merged.1.max(end));
        }
        copy(&mut self.bytes, at, to, from, piece);
        self.parts.splice(first..last, [merged]);
        true
    }

    /// What is in order and was not taken.
    pub fn take(&mut self) -> Vec<u8> {
        let end = usize::from(self.arrived());
        let ready = self.bytes.get(self.taken..end).unwrap_or(&[]).to_vec();
        self.taken = self.taken.max(end);
        ready
    }
}

/// Copies the part of a piece that belongs to `at..to`, where the piece begins at `from`.
fn copy(bytes: &mut [u8], at: usize, to: usize, from: usize, piece: &[u8]) {
    let to = to.min(from + piece.len());
    if at < to
        && let (Some(room), Some(part)) = (bytes.get_mut(at..to), piece.get(at - from..to - from))
    {
        room.copy_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against an array of options: first come, first kept; taken in order and once.
        #[test]
        fn pieces_are_put_in_order(pieces in proptest::collection::vec((0usize..200, 0usize..60, any::<u8>()), 0..60)) {
            let mut stream = Incoming::default();
            let mut want: Vec<Option<u8>> = vec![None; 300];
            let mut taken = Vec::new();
            for (offset, len, seed) in pieces {
                let piece: Vec<u8> = (0..len).map(|i| seed.wrapping_add(i as u8)).collect();
                if stream.insert(offset as u16, &piece) {
                    for (i, b) in piece.iter().enumerate() {
                        want[offset + i].get_or_insert(*b);
                    }
                }
                taken.extend(stream.take());
                let ready: Vec<u8> = want.iter().map_while(|b| *b).collect();
                prop_assert_eq!(&taken, &ready);
                prop_assert_eq!(usize::from(stream.arrived()), ready.len());
                prop_assert!(stream.parts.len() <= PARTS_MAX);
            }
        }
    }

    #[test]
    fn a_stream_has_an_end_and_few_gaps() {
        let mut s = Incoming::default();
        assert!(!s.insert(16_380, &[0; 5]));
        assert!(s.insert(16_380, &[0; 4]));
        let kept = (0..100).filter(|i| s.insert(i * 10 + 1, &[1])).count();
        assert_eq!(kept, PARTS_MAX - 1);
        let mut o = Outgoing::default();
        assert!(o.append(&[0; STREAM_BYTES_MAX]) && !o.append(&[0]));
        o.acknowledge(u16::MAX);
        assert_eq!(o.confirmed, 0, "more than was said");
    }
}
