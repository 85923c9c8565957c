//! The tables room: what the hub remembers, and SQL over it.
//!
//! Rows come in ([`Tables::append`]), go into a write-ahead log on the store (`log`), are held in memory, and every few
//! seconds are folded into Delta Lake tables of Parquet (`fold`, `delta`). A question ([`Tables::ask`]) sees memory and
//! tables as one. [`schema`] says what tables there are. Beside the fold, files are merged and what is old is removed
//! (`upkeep`), and what is kept longest is summed by the minute (`rollup`, `sketch`).
//!
//! Invariants: rows are durable before a [`Ticket`] is done; a batch of a producer is taken once, whoever dies when; of
//! two writers at most one can add to the log, and the other finds out at its next try; memory is bounded, and what
//! finds no room is refused.
//! A room of its own, and not part of the hub, because its libraries (DataFusion, Delta) take longer to build than all
//! the rest: nothing that changes every day stands above it but the hub and the command line.

pub mod backup;
mod delta;
mod error;
pub mod export;
mod fold;
pub mod functions;
mod log;
mod query;
mod rollup;
pub mod schema;
mod segment;
mod sketch;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;

pub use delta::Size;
pub use error::TablesError;
pub use query::{Answer, Limits, Sight};
pub use segment::{Mark, Marks};
pub use store::{Environment, Place};
pub use tables::{Config, Filed, Rows, Tables, Ticket};
pub use upkeep::Upkept;

pub use arrow;
