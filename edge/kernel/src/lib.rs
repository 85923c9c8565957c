//! The only room that knows system calls, and the only one with `unsafe`.
//!
//! How: one module per noun of the kernel (a namespace, a link, a route, a socket). Each gives a safe function or
//! type; every `unsafe` block says why it is sound. Configuration goes through netlink in batches
//! ([`netlink::Batch`]), because a fabric is thousands of small changes and one system call for each would be most
//! of the time.
//!
//! Invariants: nothing here keeps global state; a thread that enters a network namespace comes back when the guard
//! is dropped; every failure carries the errno the kernel gave.
//! Absent on purpose: any knowledge of fabrics, probes or verdicts.

pub mod bpf;
pub mod capabilities;
pub mod caps;
mod cmsg;
pub mod drivers;
pub mod echo;
mod error;
pub mod ethtool;
pub mod genl;
pub mod intake;
pub mod interface;
pub mod link;
pub mod net_state;
pub mod netlink;
pub mod netns;
pub mod offload;
pub mod packet;
pub mod poll;
pub mod process;
pub mod raw;
pub mod route;
pub mod sock_diag;
pub mod sysctl;
pub mod tap;
pub mod tc;
pub mod timestamp;
pub mod udp;

pub use error::{Errno, Error, Result};
