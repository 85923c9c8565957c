//! The multipath transport, as a state machine.
//!
//! A [`Connection`] carries messages and one-sided writes in both directions. Every packet stands alone: any order of
//! arrival will do, and every packet may take another path. [`Config`] is its parameters, [`Pacer`] the grants all
//! connections of a receiving host share.
//!
//! How to drive it: hand in what arrives ([`Connection::handle_input`]), then tell the host's pacer
//! ([`Pacer::handle_input`]); ask for output until there is none ([`Connection::poll_output`]) and for events
//! ([`Connection::poll_event`]); call [`Connection::handle_timeout`] when [`Connection::next_timeout`] is due, and
//! [`Pacer::grant`] when [`Pacer::next_timeout`] is.
//!
//! Invariants: no clock, no sockets, no hash maps; randomness is an argument; memory is bounded by the configuration;
//! every packet is counted once: sent = acknowledged + lost + in flight.
//! Absent on purpose: bytes on the wire, keys, handshake, and what an EV means: the owner maps it to a path.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod bits;
pub mod collective;
mod config;
mod connection;
mod event;
mod pacer;
mod paths;
mod receive;
mod report;
mod send;
mod window;

pub use config::{Balancing, Config, Control};
pub use connection::Connection;
pub use event::{Counters, Event, Outcome, Reason, Refused};
pub use pacer::Pacer;
pub use paths::{PathState, PathView};
pub use report::PathReport;
