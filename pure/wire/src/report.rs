//! What a process whose packets cross the fabric tells the agent of its host: its path observations, a datagram of
//! columns at a time.
//!
//! How: the columns are those of the [`batch`](crate::batch) between agent and hub, so that a row is one thing
//! everywhere. [`Report`] gathers rows and writes datagrams; [`read`] is the other end, which believes nothing.
//!
//! Invariants: a datagram has at most [`ROWS_MAX`] rows and [`BYTES_MAX`] bytes; what was pushed and what was lost
//! before comes out; any bytes at all are an outcome.
//! Absent on purpose: sockets, and whether a path exists (whoever reads it knows the fabric).

use crate::batch::{self, BatchError};
use crate::id::{Epoch, HostId};
use crate::observation::PathObservation;
use crate::proto::{PathColumns, TransportReport};
use alloc::vec::Vec;
use prost::Message;

/// Version of the datagram this code writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Rows of one datagram.
pub const ROWS_MAX: usize = 256;
/// Longest datagram: more than [`ROWS_MAX`] rows with the largest numbers need.
pub const BYTES_MAX: usize = 64 << 10;

/// Why a datagram is refused, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It is no report.
    #[error("{bytes} bytes that are no report, expected a TransportReport of at most {BYTES_MAX} bytes")]
    Unreadable {
        /// Its length.
        bytes: usize,
    },
    /// It is of another version.
    #[error("version {got}, expected {VERSION}: install the same release on both ends")]
    Version {
        /// Which.
        got: u32,
    },
    /// It has too many rows.
    #[error("{got} rows, expected at most {ROWS_MAX}")]
    TooLong {
        /// How many.
        got: usize,
    },
    /// Its columns do not fit together.
    #[error(transparent)]
    Columns(#[from] BatchError),
}

/// Rows on their way into datagrams.
#[derive(Clone, Debug, Default)]
pub struct Report {
    epoch: Epoch,
    columns: PathColumns,
    lost: u64,
}

impl Report {
    /// An empty one, for paths of this fabric.
    pub fn new(epoch: Epoch) -> Report {
        Report { epoch, ..Report::default() }
    }

    /// Rows in it.
    pub fn rows(&self) -> usize {
        self.columns.window_start_ns.len()
    }

    /// Appends a row. True where the datagram is full and has to be written first.
    pub fn push(&mut self, o: &PathObservation) -> bool {
        batch::push_path(&mut self.columns, o);
        self.rows() >= ROWS_MAX
    }

    /// Writes the datagram of what was pushed; it stays until [`Report::done`].
    pub fn write(&self) -> Vec<u8> {
        let (paths, fabric_epoch) = (Some(self.columns.clone()), self.epoch.0);
        TransportReport { version: VERSION, fabric_epoch, rows_lost: self.lost, paths }.encode_to_vec()
    }

    /// The datagram went, or did not: then its rows are lost and the next one says so. Rows lost by that.
    pub fn done(&mut self, went: bool) -> u64 {
        let rows = self.rows() as u64;
        self.columns = PathColumns::default();
        self.lost = if went { 0 } else { self.lost.saturating_add(rows) };
        if went { 0 } else { rows }
    }
}

/// A datagram that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The fabric its path ids belong to.
    pub epoch: Epoch,
    /// Rows its sender could not hand over before it.
    pub lost: u64,
    /// Each row, or why it is refused.
    pub rows: Vec<Result<PathObservation, BatchError>>,
}

/// Reads a datagram of a process on `host`.
pub fn read(bytes: &[u8], host: HostId) -> Result<Read, ReportError> {
    let unreadable = ReportError::Unreadable { bytes: bytes.len() };
    if bytes.len() > BYTES_MAX {
        return Err(unreadable);
    }
    let report = TransportReport::decode(bytes).map_err(|_| unreadable)?;
    if report.version != VERSION {
        return Err(ReportError::Version { got: report.version });
    }
    let columns = report.paths.unwrap_or_default();
    let got = columns.window_start_ns.len();
    if got > ROWS_MAX {
        return Err(ReportError::TooLong { got });
    }
    let epoch = Epoch(report.fabric_epoch);
    let rows = batch::paths(&columns, host, epoch)?.collect();
    Ok(Read { epoch, lost: report.rows_lost, rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PathId;
    use crate::observation::{Known, Leg, PathRef, Source, Window};
    use crate::time::Nanos;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn row(lost: u32) -> PathObservation {
        PathObservation {
            window: Window { start: Nanos(1), length: Nanos::from_millis(200) },
            producer: HostId(7),
            sequence: 0,
            epoch: Epoch(9),
            path: PathRef::OneWay(Leg { path: PathId(3), known: Known::Exact }),
            class: 0,
            size_log2: 11,
            entropy: 5,
            sent: 100,
            lost,
            reordered: 0,
            ecn_marked: 1,
            delay: None,
            source: Source::Transport,
        }
    }

    #[test]
    fn what_is_pushed_is_read_and_what_could_not_go_is_counted() {
        let mut report = Report::new(Epoch(9));
        assert!((0..ROWS_MAX - 1).all(|_| !report.push(&row(1))));
        assert!(report.push(&row(2)), "it is full now");
        assert!(report.write().len() < BYTES_MAX / 2, "{}", report.write().len());
        assert_eq!(report.done(false), 256);
        report.push(&row(3));
        let got = read(&report.write(), HostId(7));
        assert_eq!(got, Ok(Read { epoch: Epoch(9), lost: 256, rows: vec![Ok(row(3))] }));
        assert_eq!(report.done(true), 0);
        report.push(&row(4));
        assert_eq!(read(&report.write(), HostId(7)).map(|r| r.lost), Ok(0), "it is said once");
    }

    #[test]
    fn what_is_refused_says_why() {
        let report = |change: &dyn Fn(&mut TransportReport)| {
            let mut r = Report::new(Epoch(9));
            r.push(&row(1));
            let mut m = TransportReport::decode(r.write().as_slice()).unwrap_or_default();
            change(&mut m);
            read(&m.encode_to_vec(), HostId(7))
                .map_or_else(|e| e.to_string(), |r| alloc::format!("{:?}", r.rows[0]))
        };
        let said = [
            report(&|m| m.version = 2),
            report(&|m| m.paths.iter_mut().for_each(|p| p.sent.clear())),
            report(&|m| m.paths.iter_mut().for_each(|p| p.lost[0] = 101)),
            report(&|m| {
                let row = m.paths.clone().unwrap_or_default();
                m.paths = Some(PathColumns { window_start_ns: vec![0; 257], ..row });
            }),
            read(&[255; 40], HostId(7)).map_or_else(|e| e.to_string(), |_| "read".to_string()),
        ];
        let expected = [
            "version 2, expected 1",
            "column sent has 0 rows, expected 1",
            "Exceeds { column: \"lost\", row: 0, limit: 100",
            "257 rows, expected at most 256",
            "40 bytes that are no report",
        ];
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, HostId(1));
        }
    }
}
