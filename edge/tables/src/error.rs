//! What can go wrong with tables, with what to do about it.

use std::path::PathBuf;

/// Why tables cannot be opened, written or asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    /// The place named is none.
    #[error(
        "{place:?} is no place for tables, expected a directory such as /var/lib/selvedge or a bucket such as s3://bucket/selvedge: {reason}"
    )]
    Place {
        /// What was said.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused.
    #[error("the store at {what}: {reason}")]
    Store {
        /// Object or directory.
        what: String,
        /// What it said.
        reason: String,
    },
    /// Another hub writes here now.
    #[error("another hub has taken over these tables (segment {segment} is not ours): this one must stop")]
    Fenced {
        /// Segment of the log that another one wrote.
        segment: u64,
    },
    /// A segment of the log is missing or damaged.
    #[error(
        "segment {segment} of the log is damaged: {reason}. Restore the store from a backup, or move the file away \
         and accept that what was in it is gone"
    )]
    Damaged {
        /// Which.
        segment: u64,
        /// How.
        reason: String,
    },
    /// Tables of a later release.
    #[error("table {table} has schema {got}, this release knows up to {known}: install the newer release")]
    Newer {
        /// Which.
        table: String,
        /// Its version.
        got: u32,
        /// Ours.
        known: u32,
    },
    /// A statement that does more than read, or reaches for a file.
    #[error("only statements that read tables are run: {reason}")]
    Forbidden {
        /// What it wanted.
        reason: String,
    },
    /// A setting for a table that there is not.
    #[error("keep_days names the table {table:?}, which is none: expected one of those in docs/tables.md")]
    NoTable {
        /// What it was called.
        table: String,
    },
    /// Rows that are not the table's.
    #[error("rows for table {table}: {reason}")]
    Rows {
        /// Which.
        table: String,
        /// What is wrong.
        reason: String,
    },
    /// A directory cannot be made or locked.
    #[error("{}: {kind}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// Nothing can be written at the moment; what waits is bounded and full.
    #[error("{waiting} bytes wait to be written, the limit is {limit}: {reason}")]
    Full {
        /// Bytes waiting.
        waiting: usize,
        /// Most allowed.
        limit: usize,
        /// Why they wait.
        reason: String,
    },
    /// The question is wrong or not allowed.
    #[error("{reason}")]
    Question {
        /// What was expected.
        reason: String,
    },
    /// The question took too long or too much.
    #[error("{reason}")]
    Limit {
        /// Which limit, and what to do.
        reason: String,
    },
    /// The tables were closed.
    #[error("the tables are closed")]
    Closed,
}
