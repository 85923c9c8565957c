//! The diagnose room.
#![no_std]
#![forbid(unsafe_code)]
