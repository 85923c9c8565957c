//! What switches, exporters and other programs tell: flows and datagrams that come, and what is asked for.
//!
//! A room of its own below `hub`, as `tables` is, because the hub takes minutes to build and nothing here needs it:
//! what is received becomes plain rows ([`wire::flow`] and the types of this room), and the hub writes them down.
//!
//! How: [`flows`] is by itself. [`gnmi`], [`otlp`], [`scrape`] and [`syslog`] have a `Config` each, are started together by
//! [`Sources`], and hand what they hear to [`Intake`], which
//! knows the names of the fabric ([`names`]), turns numbers into observations ([`observe`], by the words of
//! [`vocabulary`]) and passes [`rows`] on to the hub by one bounded channel.
//! Invariants: whatever comes from the network is bounded in size, rate and number, and every drop is counted by reason.
//! Absent on purpose: tables, SQL and Arrow, which are the hub's, and diagnosis.
#![forbid(unsafe_code)]

pub mod door;
pub mod error;
pub mod flows;
pub mod gnmi;
pub mod intake;
pub mod names;
pub mod observe;
pub mod otlp;
pub mod rows;
pub mod scrape;
mod setting;
pub mod sources;
pub mod syslog;
pub mod vocabulary;

pub use error::{FileError, Problem, ReceiveError};
pub use intake::Intake;
pub use names::Names;
pub use rows::{Dropped, Receiver, Row};
pub use sources::Sources;
