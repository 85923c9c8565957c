//! The ends of the transport: who may speak (certificates, handshake), under which keys, and over which sockets.
//!
//! How: the state machine is `transport`, bytes and protection are `wire::transport`, system calls are `kernel`. Here
//! they meet: [`Identity`] is a host's certificate, [`Handshake`] and [`Door`] make two hosts known to each other
//! (both driven with time as an argument, so that they are tested on a link made of seeds), [`Ring`] has the ciphers,
//! [`Endpoint`] and [`Connection`] are what an application uses, and [`Group`] where many do one thing together.
//! With a [`PathTable`] its EVs are exact paths, and what it learns of them goes to the host's agent.
//!
//! ```no_run
//! # async fn example(ca: &str, cert: &str, key: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use selvedge_endpoint::{Config, Endpoint, Identity};
//!
//! let identity = Identity::from_pem(ca, cert, key)?;
//! let endpoint = Endpoint::bind("[::]:7440".parse()?, identity, Config::default())?;
//! let peer = endpoint.connect("[fd00::2]:7440".parse()?, "host2").await?;
//! peer.send(1, b"to whoever receives with tag 1".to_vec()).await?;
//! let answer = peer.receive(2).await?;
//! peer.close().await?;
//! # drop(answer);
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: nothing is kept for an address that has not shown that it receives there; every queue is bounded; every
//! datagram has an outcome.
//! Absent on purpose: reading files and configuration (that is `app`).

mod cipher;
mod config;
mod cookie;
mod door;
mod driver;
mod endpoint;
mod engine;
mod error;
mod group;
mod handshake;
mod identity;
mod observer;
mod slot;
mod steer;
mod stream;
#[cfg(test)]
mod tests;
pub mod trace;

pub use cipher::{Key, Ring, preferred};
pub use config::Config;
pub use cookie::{COOKIE_BYTES, COOKIE_LIFE};
pub use door::{
    Counters as DoorCounters, Door, Event as DoorEvent, Outcome as DoorOutcome, Refused as DoorRefused,
};
pub use endpoint::{Connection, Counters, Endpoint};
pub use error::{EndpointError, HandshakeError, IdentityError};
pub use group::{Group, GroupError, Member};
pub use handshake::{Dropped, Established, Handshake, Timing};
pub use identity::Identity;
pub use slot::{ConnectionCounters, Written};
pub use steer::{FabricPath, OUTER_BYTES, PATHS_MAX, PathTable};
