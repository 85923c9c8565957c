//! A real fabric on one machine: a network namespace for every host and switch, a veth pair for every cable, the
//! kernel's own IPv6 and SRv6 forwarding, the real agent on every host and one real hub; and real faults in it.
//!
//! How: [`wiring`] turns a fabric into batches of netlink messages; [`state`] records what is about to be made before
//! it is; [`fault`] hurts links and hosts and heals them; [`members`] starts and ends processes; [`supervise`]
//! starts those again that end by themselves; [`judge`] says whether a verdict was right.
//!
//! Invariants: `down` leaves nothing behind; only processes the lab started are ever signalled; two labs share
//! nothing but the directory their records are in.
//! Absent on purpose: agent and hub themselves. They are processes of the same binary, known only by their command
//! lines.
#![forbid(unsafe_code)]

mod error;
pub mod fault;
pub mod hub;
pub mod judge;
mod lab;
mod members;
pub mod state;
pub mod supervise;
pub mod wiring;

pub use error::{Error, Result};
pub use lab::{HostView, Inspection, Lab, LinkView, Options, PACKETS_PER_SECOND, Step, SwitchView};
