//! Why a hub cannot start or go on.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a hub cannot start or go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// A listener cannot be opened.
    #[error("cannot listen for {what} on {addr}: {kind}")]
    Listen {
        /// `agents` or `HTTP`.
        what: &'static str,
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        kind: ErrorKind,
    },
    /// HTTP would be open to others.
    #[error(
        "HTTP on {addr} could be reached from other machines, and it has neither encryption nor passwords; \
         use a loopback address behind a proxy, or say --http-insecure"
    )]
    NotLoopback {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// Certificate, key or authority do not work.
    #[error("the certificates cannot be used: {reason}")]
    Tls {
        /// What the TLS library said.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {kind}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
    /// The incident store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A server ended by itself.
    #[error("the {what} server ended: {reason}")]
    Ended {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// Why the incident store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made.
    #[error("cannot make the data directory {}: {kind}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
    /// Another hub has it open.
    #[error("{} is in use by another hub; stop that one or use another --data directory", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// Written by a newer hub.
    #[error(
        "{} was written by a newer hub (format {got}, this one knows up to {known}); start that version, \
         or move the file away to begin with no incidents", path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        got: u64,
        /// Newest format this hub knows.
        known: u64,
    },
    /// The database refuses.
    #[error("the incident store failed: {reason}")]
    Database {
        /// What it said.
        reason: String,
    },
    /// An incident in it cannot be read.
    #[error("incident {number} in the store cannot be read: {reason}")]
    Damaged {
        /// Which.
        number: u64,
        /// Why.
        reason: String,
    },
}
