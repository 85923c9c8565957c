//! The lab room.
#![forbid(unsafe_code)]
