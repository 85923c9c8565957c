//! The map: a specification becomes planes, switches, NICs, directed links, paths, addresses, routes and
//! rendered device configuration.
//!
//! A fabric is a two-tier Clos network in several disjoint planes: in every plane each host has one NIC per rail
//! on a leaf (T0), and each leaf has one cable (or several, in parallel) to every spine (T1).
//!
//! How: nothing is stored a link or a path at a time. An id is a number from which the thing is computed, so a
//! fabric of four million directed links costs a few hundred bytes plus its exceptions. Only what differs from
//! the regular shape (a cable left out or added) is kept in a list.
//!
//! Where to look: [`spec`] (text to fabric and back), [`shape`] (counts and ids), [`name`], [`addr`] (IPv6 and uSIDs),
//! [`path`], [`route`] (what devices forward by), [`render`] (the same for Linux), [`plan`] (counts, digest, what is
//! amiss), [`scenario`] and [`fault`] (what breaks and what must be found), [`error`], [`unit`].
//!
//! Invariants: the same specification gives the same ids, names and addresses; `reverse(link) = link ^ 1`;
//! every path of a pair of NICs has `lane < lanes()`; what does not exist is `None`, never a wrong answer.
//! Absent on purpose: three tiers, and any IO.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod addr;
pub mod error;
pub mod fault;
pub mod name;
pub mod path;
pub mod plan;
mod read;
pub mod render;
pub mod route;
pub mod scenario;
pub mod shape;
pub mod spec;
pub mod unit;

pub use error::{Problem, SpecError};
pub use fault::{Direction, Fault, FaultKind, Ports, Target};
pub use path::{MAX_PATH_LINKS, PathLinks};
pub use plan::{Finding, Plan};
pub use route::{Action, Device, Prefix, Route, Rule};
pub use scenario::{Expect, Expected, ProbeSpec, Scenario};
pub use shape::{Fabric, LinkParams, Mode, Node, Shape, Tier};
