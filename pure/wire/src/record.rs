//! A recording: what a hub was told, and when, so that the same verdicts can be reached again from the file alone.
//!
//! Format: the eight bytes `SELVREC\n`, a version (u16), the length of the fabric's TOML (u32) and the TOML, the
//! length of the context (u32) and the context (JSON of the hub: its settings and what it knew at the start), then
//! records. A record is its length (u32, of what follows), the moment the hub took the batch (u64, Unix
//! nanoseconds), the producing host (u32) and a [`Batch`] in protobuf. All numbers are big-endian.
//!
//! Invariants: any bytes are answered with records or a [`RecordError`]; a file that was cut in the middle of a record
//! (the hub was killed) yields all whole records and then [`RecordError::Truncated`].
//! Absent on purpose: reading and writing files.

use crate::id::HostId;
use crate::proto::Batch;
use crate::time::Nanos;
use alloc::vec::Vec;
use prost::Message;

/// First bytes of every recording.
pub const MAGIC: &[u8; 8] = b"SELVREC\n";
/// Version of the format.
pub const VERSION: u16 = 1;
/// Largest record that is believed, bytes.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

const HEAD: usize = 12;

/// Why a recording cannot be read, or not further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It does not begin like one.
    #[error("not a recording: expected it to begin with the eight bytes SELVREC and a newline")]
    NotARecording,
    /// Written by a newer program.
    #[error("the recording has format version {got}, this program reads up to {VERSION}")]
    Version {
        /// Version of the file.
        got: u16,
    },
    /// A text of the header is not UTF-8.
    #[error("the header of the recording is not UTF-8")]
    Header,
    /// The file ends in the middle of a record, as after a crash of the writer.
    #[error("the recording ends in the middle of a record: {bytes} bytes are left over")]
    Truncated {
        /// Bytes after the last whole record.
        bytes: usize,
    },
    /// A record whose content is not a batch.
    #[error("record at byte {offset} is damaged")]
    Damaged {
        /// Where in the file.
        offset: usize,
    },
}

/// One batch, when the hub took it and from whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The hub's clock when the diagnosis took it.
    pub now: Nanos,
    /// The host that produced it.
    pub producer: HostId,
    /// What it said.
    pub batch: Batch,
}

/// The beginning of a recording.
pub fn write_header(out: &mut Vec<u8>, fabric_toml: &str, context: &str) {
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    for text in [fabric_toml, context] {
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends one record.
pub fn write_record(out: &mut Vec<u8>, now: Nanos, producer: HostId, batch: &Batch) {
    let length = HEAD.saturating_add(batch.encoded_len());
    out.reserve(length.saturating_add(4));
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&now.0.to_be_bytes());
    out.extend_from_slice(&producer.0.to_be_bytes());
    // Writing to a vector cannot fail for want of room.
    let _ = batch.encode(out);
}

/// Reads a recording held in memory.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    fabric_toml: &'a str,
    context: &'a str,
}

fn text(bytes: &[u8], offset: usize) -> Result<(&str, usize), RecordError> {
    let cut = RecordError::Truncated { bytes: bytes.len().saturating_sub(offset) };
    let length = u32::from_be_bytes(take(bytes, offset).ok_or(cut)?) as usize;
    let start = offset.checked_add(4).ok_or(cut)?;
    let end = start.checked_add(length).ok_or(cut)?;
    let text = bytes.get(start..end).ok_or(cut)?;
    Ok((core::str::from_utf8(text).map_err(|_| RecordError::Header)?, end))
}

fn take<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

impl<'a> Reader<'a> {
    /// Checks the header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.get(..MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(RecordError::NotARecording);
        }
        let cut = RecordError::Truncated { bytes: bytes.len() };
        let got = u16::from_be_bytes(take(bytes, 8).ok_or(cut)?);
        if got == 0 || got > VERSION {
            return Err(RecordError::Version { got });
        }
        let (fabric_toml, offset) = text(bytes, 10)?;
        let (context, offset) = text(bytes, offset)?;
        Ok(Reader { bytes, offset, fabric_toml, context })
    }

    /// The fabric all ids in the recording belong to.
    pub fn fabric_toml(&self) -> &'a str {
        self.fabric_toml
    }

    /// What the hub wrote about itself.
    pub fn context(&self) -> &'a str {
        self.context
    }

    fn read(&mut self) -> Result<Option<Record>, RecordError> {
        let left = self.bytes.len().saturating_sub(self.offset);
        if left == 0 {
            return Ok(None);
        }
        let cut = RecordError::Truncated { bytes: left };
        let damaged = RecordError::Damaged { offset: self.offset };
        let length = u32::from_be_bytes(take(self.bytes, self.offset).ok_or(cut)?) as usize;
        if !(HEAD..=RECORD_BYTES_MAX).contains(&length) {
            return Err(damaged);
        }
        let start = self.offset.checked_add(4).ok_or(cut)?;
        let end = start.checked_add(length).ok_or(cut)?;
        let body = self.bytes.get(start..end).ok_or(cut)?;
        let now = Nanos(u64::from_be_bytes(take(body, 0).ok_or(damaged)?));
        let producer = HostId(u32::from_be_bytes(take(body, 8).ok_or(damaged)?));
        let batch = Batch::decode(body.get(HEAD..).ok_or(damaged)?).map_err(|_| damaged)?;
        self.offset = end;
        Ok(Some(Record { now, producer, batch }))
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Record, RecordError>;
    fn next(&mut self) -> Option<Self::Item> {
        match self.read() {
            Ok(record) => record.map(Ok),
            Err(e) => {
                // Nothing after damage can be trusted to begin where it seems to.
                self.offset = self.bytes.len();
                Some(Err(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_recording(n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_header(&mut out, "name = \"demo\"\n", "{}");
        for i in 0..n {
            let batch = Batch { version: 1, sequence: i, ..Batch::default() };
            write_record(&mut out, Nanos(100 + i), HostId(i as u32), &batch);
        }
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = a_recording(3);
        let reader = Reader::new(&bytes).unwrap();
        assert_eq!((reader.fabric_toml(), reader.context()), ("name = \"demo\"\n", "{}"));
        let records: Vec<_> = reader.map(|r| r.unwrap()).collect();
        assert_eq!(records.len(), 3);
        assert_eq!(
            (records[2].now, records[2].producer, records[2].batch.sequence),
            (Nanos(102), HostId(2), 2)
        );
    }

    #[test]
    fn a_cut_tail_yields_the_whole_records_and_says_so() {
        let bytes = a_recording(3);
        let whole = a_recording(2).len();
        for end in whole + 1..bytes.len() {
            let got: Vec<_> = Reader::new(&bytes[..end]).unwrap().collect();
            assert_eq!(got.len(), 3);
            assert!(got[1].is_ok());
            assert_eq!(got[2], Err(RecordError::Truncated { bytes: end - whole }));
        }
    }

    #[test]
    fn another_file_or_a_newer_version_is_refused() {
        assert_eq!(Reader::new(b"hello").err(), Some(RecordError::NotARecording));
        let mut bytes = a_recording(0);
        bytes[9] = 2;
        assert_eq!(Reader::new(&bytes).err(), Some(RecordError::Version { got: 2 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_outcome(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = a_recording(1);
            bytes.extend_from_slice(&tail);
            if let Ok(reader) = Reader::new(&bytes) {
                prop_assert!(reader.count() >= 1);
            }
            let _ = Reader::new(&tail).map(|r| r.count());
        }
    }
}
