//! The sim room.
#![no_std]
#![forbid(unsafe_code)]
