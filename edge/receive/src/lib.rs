//! What switches, exporters and other programs tell: flows and datagrams that come, and what is asked for.
//!
//! A room of its own below `hub`, as `tables` is, because the hub takes minutes to build and nothing here needs it:
//! what is received becomes plain rows ([`wire::flow`] and the types of this room), and the hub writes them down.
#![forbid(unsafe_code)]

pub mod flows;
