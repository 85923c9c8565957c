//! The seeded simulator: the same machines that run on real hosts, on a fabric that exists only here.
//!
//! How: [`event`] says what happens next, [`net`] is links, switches and what may be wrong with them, and [`run`]
//! drives the probe machines of every host and the engine of the hub over it through a scenario, then judges what
//! was found. Time is a number, so an hour takes seconds.
//!
//! Invariants: a run is replayed from `(scenario, seed)` alone, byte for byte; sent = received + dropped by reason +
//! in flight. Absent on purpose: clocks, threads and IO.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod bound;
pub mod event;
pub mod judge;
pub mod net;
pub mod packets;
pub mod rng;
pub mod run;
pub mod seeds;
