//! The packet-level simulator: the transport at every host of a fat tree or leaf-spine fabric, packet by packet.
//!
//! [`matrix`] says who sends what to whom, [`topology`] what the fabric looks like, [`network`] is its links and queues,
//! and [`run`] puts the transport's connections on it and lets them finish. [`answer_key`] reads the published
//! experiments and judges ours against them.
//!
//! Invariants: the same matrix, topology, setup and seed give the same trace hash.
//! Absent on purpose: the probes and the diagnosis; the other simulator, [`crate::net`], drives those.

pub mod answer_key;
mod calendar;
pub mod matrix;
pub mod network;
pub mod run;
pub mod topology;
