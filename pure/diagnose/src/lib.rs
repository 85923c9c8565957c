//! Observations in, verdicts with evidence out.
//!
//! Two layers. [`localize`] is the method on an abstract map: links, devices, paths as lists of links, counts; it
//! knows no time and no fabric, and is what the trace bench judges. [`Engine`] runs it online over a fabric: it
//! keeps what crossed each link in rings of time buckets and the hurt observations one by one, weighs several spans
//! of time, and turns findings into [`Verdict`]s that open, change, close and come back.
//!
//! Invariants: the same inputs in the same order give the same verdicts; memory is bounded by the fabric's size and
//! [`Config`]; bad input is an [`Outcome`], never a panic.
//! Absent on purpose: any clock, any IO, and any knowledge of who produces observations.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod claim;
mod config;
mod engine;
mod evaluate;
mod fan;
mod fit;
mod flows;
mod health;
mod host_verdict;
mod hosts;
mod kind;
mod likelihood;
pub mod localize;
mod map;
mod measure;
mod moments;
mod noise;
mod outcome;
mod pause;
mod places;
mod ring;
mod search;
mod signal;
mod split;
mod track;
mod verdict;
mod wear;

pub use config::Config;
pub use engine::Engine;
pub use health::{LinkHealth, PathHealth};
pub use outcome::{Counters, Outcome, Reason};
pub use verdict::{Counted, Event, Evidence, Exemplar, FaultKind, Flap, Tally, Verdict, VerdictId};
