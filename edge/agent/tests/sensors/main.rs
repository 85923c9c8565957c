//! Sensors against independent witnesses: what they count in a network namespace must be what the kernel's own tables,
//! and nftables, count there, exactly.
//!
//! Needs root, BTF, `ip`, `tc`, `ethtool`, `nft`, `taskset` and `python3`; says so and passes where one is missing.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

mod connections;
mod cost;
mod drops;
mod frames;
mod host;
mod lateness;
mod packets;
mod pair;
mod reasons;
