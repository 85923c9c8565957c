//! A segment of the write-ahead log: what was acknowledged and is not in the tables yet, as bytes.
//!
//! How: a header (who wrote it: the segment's number and the writer's epoch), the producers' marks, and for each table
//! one Arrow IPC stream with one batch, then the files that were written beside it; all of it under one CRC32C.
//! Invariants: what was encoded comes out equal; bytes whose checksum is wrong are refused before anything in them is believed.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use std::collections::BTreeMap;

const MAGIC: &[u8; 8] = b"SLVLOG1\n";

/// How far a producer has come: a batch of that epoch with this sequence, or a lower one, was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The producer's life.
    pub epoch: u64,
    /// Its newest batch.
    pub sequence: u64,
    /// Observations it had lost by its own account when it made that batch.
    pub lost: u64,
}

/// Producers, by number.
pub type Marks = BTreeMap<u32, Mark>;

/// What a segment says about who writes the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Say {
    /// Nothing: rows, or only a sign of life.
    #[default]
    Alive = 0,
    /// The writer has taken over.
    Claim = 1,
    /// The writer has stopped in order; nobody need wait.
    Release = 2,
}

/// One segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segment {
    pub number: u64,
    /// Of the writer: one more at each claim.
    pub epoch: u64,
    pub say: Say,
    /// The marks are all there are, not only those that changed.
    pub whole: bool,
    pub marks: Marks,
    /// Name of the table and its rows.
    pub rows: Vec<(String, RecordBatch)>,
    /// Name of the table, and a file of it whose rows came with this segment: the `add` action that makes it part of the
    /// table, as JSON.
    pub files: Vec<(String, String)>,
}

impl Segment {
    pub(crate) fn encode(&self) -> Result<Bytes, String> {
        let mut out = Vec::with_capacity(1 << 16);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(self.say as u8);
        out.push(u8::from(self.whole));
        out.extend_from_slice(&length(self.marks.len())?);
        for (producer, mark) in &self.marks {
            out.extend_from_slice(&producer.to_le_bytes());
            out.extend_from_slice(&mark.epoch.to_le_bytes());
            out.extend_from_slice(&mark.sequence.to_le_bytes());
            out.extend_from_slice(&mark.lost.to_le_bytes());
        }
        out.extend_from_slice(&length(self.rows.len())?);
        for (table, batch) in &self.rows {
            out.extend_from_slice(&length(table.len())?);
            out.extend_from_slice(table.as_bytes());
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            let mut writer = StreamWriter::try_new(&mut out, &batch.schema()).map_err(|e| e.to_string())?;
            writer.write(batch).and_then(|()| writer.finish()).map_err(|e| e.to_string())?;
            drop(writer);
            let bytes = length(out.len() - at - 4)?;
            if let Some(place) = out.get_mut(at..at + 4) {
                place.copy_from_slice(&bytes);
            }
        }
        if !self.files.is_empty() {
            out.extend_from_slice(&length(self.files.len())?);
            for text in self.files.iter().flat_map(|(table, add)| [table, add]) {
                out.extend_from_slice(&length(text.len())?);
                out.extend_from_slice(text.as_bytes());
            }
        }
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        Ok(out.into())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Segment, String> {
        let split = bytes.len().checked_sub(4).ok_or("it is empty")?;
        let (body, sum) = bytes.split_at(split);
        if crc32c::crc32c(body).to_le_bytes() != sum {
            return Err("its checksum is wrong".to_owned());
        }
        let mut r = Reader(body);
        if r.take(8)? != MAGIC {
            return Err("it is no segment of a log this release knows".to_owned());
        }
        let (number, epoch) = (r.u64()?, r.u64()?);
        let say = match r.u8()? {
            0 => Say::Alive,
            1 => Say::Claim,
            2 => Say::Release,
            other => return Err(format!("it says {other}, expected 0 to 2")),
        };
        let whole = r.u8()? != 0;
        let mut segment = Segment { number, epoch, say, whole, ..Segment::default() };
        for _ in 0..r.u32()? {
            let producer = r.u32()?;
            segment.marks.insert(producer, Mark { epoch: r.u64()?, sequence: r.u64()?, lost: r.u64()? });
        }
        for _ in 0..r.u32()? {
            let table = r.text()?;
            let len = r.u32()?;
            let stream = r.take(len as usize)?;
            let mut reader = StreamReader::try_new(stream, None).map_err(|e| e.to_string())?;
            let batch = reader.next().ok_or("a table without rows")?.map_err(|e| e.to_string())?;
            segment.rows.push((table, batch));
        }
        // A segment without any, and one of before there were files, ends here.
        if !r.0.is_empty() {
            for _ in 0..r.u32()? {
                segment.files.push((r.text()?, r.text()?));
            }
        }
        if r.0.is_empty() { Ok(segment) } else { Err(format!("{} bytes too many", r.0.len())) }
    }
}

fn length(n: usize) -> Result<[u8; 4], String> {
    u32::try_from(n).map(u32::to_le_bytes).map_err(|_| format!("{n} is too much for one segment"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(n).ok_or("it ends too early")?;
        self.0 = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".to_owned())
    }
    fn text(&mut self) -> Result<String, String> {
        let len = self.u32()?;
        Ok(String::from_utf8_lossy(self.take(len as usize)?).into_owned())
    }
    fn u8(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[b]| b)
    }
    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    fn a_segment() -> Segment {
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])) as _),
            ("s", Arc::new(StringArray::from(vec!["a", "", "ccc"])) as _),
        ])
        .unwrap();
        Segment {
            number: 7,
            epoch: 3,
            say: Say::Claim,
            whole: true,
            marks: [(4, Mark { epoch: 9, sequence: u64::MAX, lost: 5 })].into(),
            rows: vec![("counter".to_owned(), batch)],
            files: vec![("flow".to_owned(), "{}".to_owned())],
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        for s in [a_segment(), Segment { files: Vec::new(), ..a_segment() }, Segment::default()] {
            assert_eq!(Segment::decode(&s.encode().unwrap()).unwrap(), s);
        }
    }

    #[test]
    fn damage_is_told_and_never_panics() {
        let whole = a_segment().encode().unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x40;
            assert!(Segment::decode(&bytes).is_err());
            assert!(Segment::decode(&whole[..at]).is_err());
        }
    }
}
