//! What sender and reflector say to each other, as STAMP bytes and back.

/// Bytes of the smallest probe that holds all our TLVs.
pub const PROBE_BYTES_MIN: u16 = 128;
