//! The probe room.
#![no_std]
#![forbid(unsafe_code)]
