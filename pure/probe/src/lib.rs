//! What to probe, when and on which path; matching the answers; turning them into observations.
//!
//! How: [`plan`] says by formula which paths a host probes. A [`Sender`] paces the probes, matches the answers, says
//! on which of the two ways a probe died, and hands out [`Observation`]s a window at a time. A [`Reflector`] answers
//! and counts. [`packet`] turns what the two say to each other into STAMP bytes and back; a simulator may leave the
//! bytes out and pass the values. Where the network chooses the path, [`trace`] says which one it was.
//!
//! Invariants: `now` is an argument everywhere; every queue and table is bounded; whatever is not counted in an
//! observation is counted in [`Counters`] with its reason; an observation whose path is not known says so.
//! Absent on purpose: sockets, clocks, and any opinion about what is sick.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod baseline;
mod clock;
pub mod collect;
pub mod counters;
pub mod packet;
pub mod plan;
pub mod reflector;
pub mod sender;
mod session;
mod stall;
pub mod survey;
pub mod trace;

pub use collect::Observation;
pub use counters::{Counters, Dropped};
pub use plan::{Plan, PlanConfig, Slot};
pub use reflector::{Answer, Asker, Back, Reflector, ReflectorConfig, Request};
pub use sender::{Probe, Reply, Sender, SenderConfig};

/// What can be wrong with what a caller asks for. Bad packets are no errors: they are [`Dropped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A plan's window is outside 100 ms to 1 s.
    #[error("window of {0}: expected 100 ms to 1 s")]
    Window(wire::Nanos),
    /// A plan has more slots than a sender keeps.
    #[error("{got} slots: at most {most}")]
    TooManySlots {
        /// Slots of the plan.
        got: usize,
        /// The limit.
        most: usize,
    },
    /// A rate or a train of zero.
    #[error(
        "a rate and a train of at least one packet, not {packets_per_second} a second in trains of {train}"
    )]
    Rate {
        /// Packets a second.
        packets_per_second: u32,
        /// Packets of a train.
        train: u32,
    },
    /// A slot's path does not start at this host or does not exist, or its way back does not lead back.
    #[error("slot {slot}: {path} is no path of this host")]
    Path {
        /// Which slot of the plan.
        slot: usize,
        /// The path at fault.
        path: wire::PathId,
    },
    /// A probe of that size cannot hold what it must.
    #[error("slot {slot}: a probe of {size} bytes, expected {least} to 9000")]
    Size {
        /// Which slot of the plan.
        slot: usize,
        /// Bytes asked for.
        size: u16,
        /// Bytes needed.
        least: u16,
    },
}
