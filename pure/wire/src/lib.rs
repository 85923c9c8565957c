//! Every byte that crosses a door, and the few types every room shares.
//!
//! The shared types are here so that no room defines them twice: [`Nanos`], the ids of [`id`], and the
//! one contract in the middle, [`PathObservation`] and [`ComponentObservation`].
//!
//! Invariants: `no_std`, no clock, no IO; a decoder returns an outcome for any bytes and never panics.
//! Absent on purpose: anything that knows what a fabric looks like (that is `fabric`), and sockets.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod batch;
pub mod flow;
pub mod id;
pub mod ioam;
pub mod ipv6;
pub mod observation;
pub mod record;
pub mod report;
pub mod sensor;
pub mod stamp;
pub mod task;
pub mod time;
pub mod transport;

/// Messages between agent and hub, generated from `proto/selvedge.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/selvedge.v1.rs"));
}

pub use id::{Component, Epoch, HostId, LinkId, NicId, PathId, PlaneId, SwitchId};
pub use observation::{
    ClockQuality, ComponentObservation, Counter, DelaySummary, Known, Leg, PathObservation, PathRef, Source,
    Window,
};
pub use time::Nanos;
