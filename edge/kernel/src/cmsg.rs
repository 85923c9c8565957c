//! Control messages of sockets, read and written as bytes.
//!
//! A control message is a header of 16 bytes (length, level, type, in native byte order) and data, padded to eight
//! bytes (cmsg(3), on 64-bit Linux). Reading them from a slice needs no `unsafe`, and a broken one ends the walk.

/// Bytes of a header.
const HEADER: usize = 16;

/// One control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control<'a> {
    pub(crate) level: i32,
    pub(crate) kind: i32,
    pub(crate) data: &'a [u8],
}

impl Control<'_> {
    /// The first bytes of the data as a native number.
    pub(crate) fn i32(&self) -> Option<i32> {
        Some(i32::from_ne_bytes(self.data.get(..4)?.try_into().ok()?))
    }
    /// The first bytes of the data as a number in network byte order.
    pub(crate) fn be32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.data.get(..4)?.try_into().ok()?))
    }
}

/// The control messages in a buffer.
pub(crate) fn walk(mut buf: &[u8]) -> impl Iterator<Item = Control<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(buf.get(..8)?.try_into().ok()?);
        let level = i32::from_ne_bytes(buf.get(8..12)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(buf.get(12..16)?.try_into().ok()?);
        let data = buf.get(HEADER..len)?;
        buf = buf.get(len.next_multiple_of(8)..).unwrap_or(&[]);
        Some(Control { level, kind, data })
    })
}

/// Writes control messages one after the other into an aligned buffer.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    buf: [u64; 16],
    len: usize,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Writer { buf: [0; 16], len: 0 }
    }
    /// Appends a message; one that does not fit is left out, which a debug build notices.
    pub(crate) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let words = (HEADER + data.len()).div_ceil(8);
        let Some([length, kinds, room @ ..]) = self.buf.get_mut(self.len..self.len + words) else {
            debug_assert!(false, "no room for a control message");
            return;
        };
        *length = (HEADER + data.len()) as u64;
        let ([a, b, c, d], [e, f, g, h]) = (level.to_ne_bytes(), kind.to_ne_bytes());
        *kinds = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        for (word, chunk) in room.iter_mut().zip(data.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(bytes);
        }
        self.len += words;
    }
    /// The words written.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        &mut self.buf[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut w = Writer::new();
        w.push(41, 50, &[7; 20]);
        w.push(41, 67, &3i32.to_ne_bytes());
        let bytes: Vec<u8> = w.words().iter().flat_map(|w| w.to_ne_bytes()).collect();
        let got: Vec<Control<'_>> = walk(&bytes).collect();
        assert_eq!(got[0], Control { level: 41, kind: 50, data: &[7; 20] });
        assert_eq!((got[1].level, got[1].kind, got[1].i32()), (41, 67, Some(3)));
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn a_broken_message_ends_the_walk() {
        for broken in [&[0u8; 16][..], &[255; 24], &[1, 2, 3], &[]] {
            assert!(walk(broken).count() <= 1);
        }
    }
}
