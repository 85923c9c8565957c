//! The hub room.
#![forbid(unsafe_code)]
