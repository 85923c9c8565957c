//! The daemon of a host: takes its plan from the hub, probes, and reports what it saw.
//!
//! How: one thread runs the connection to the hub (tokio, gRPC over TLS in both directions), another one probes
//! (`prober`). Between them is one bounded queue of observations. What processes of this host learn of the paths they
//! send on comes in by a socket (`reports`) and goes out as the agent's own. The order at start: connect, get the plan and
//! with it the fabric, open the probe sockets (raw ones, in the host's network namespace), give up every
//! capability, probe. So the time with privileges is the time until the hub answers, and before it everything that is
//! not needed for those sockets is given up already.
//!
//! What the host's kernel counts of connections, drops and delays comes from a process of its own with the privileges for it
//! ([`sensors`]). What the hub asks for once (a trace, a capture) is carried out beside the probing ([`tasks`]); what goes into the
//! prober's machines can be recorded and played again ([`record`]).
//!
//! A plan for the same fabric is taken over while probing. A plan for another fabric needs other sockets; the privileges
//! for them are gone by then, so the agent ends with [`AgentError::FabricChanged`] and whoever watches over it starts
//! it again.
//!
//! Invariants: an observation is acknowledged by the hub, held, or counted as lost; after `kill -9` the next start has
//! a new producer epoch, so nothing is taken for something older; memory is bounded.
//! Absent on purpose: any judgement of what is sick, and any file on disk but a recording that was asked for.
#![forbid(unsafe_code)]

pub mod crowd;
pub mod prober;
pub mod record;
pub mod sensors;
pub mod tasks;
pub mod why;

mod config;
mod control;
mod error;
mod identity;
mod machines;
mod outbox;
mod probing;
mod reports;
#[cfg(test)]
mod tests;

pub use config::{Config, RecordTo};
pub use control::run;
pub use error::AgentError;

/// What agent and hub say to each other: the service generated from `wire`'s one file.
pub(crate) mod rpc {
    #![allow(missing_docs, unreachable_pub, dead_code, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/selvedge.v1.rs"));
}
