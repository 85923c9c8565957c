//! Two ends and what lies between them.

mod certificates;
mod handshake;
mod vectors;
