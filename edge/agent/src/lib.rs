//! The agent room.
#![forbid(unsafe_code)]
