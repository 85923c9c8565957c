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
        "{addr} could be reached from other machines, and the hub has no {missing}; give it --access and \
         --http-cert, use a loopback address behind a proxy, or say --http-insecure"
    )]
    NotLoopback {
        /// The address asked for.
        addr: SocketAddr,
        /// `users` or `certificate for HTTP`.
        missing: &'static str,
    },
    /// The access file, the alerts file or the exports file cannot be used.
    #[error(transparent)]
    Access(#[from] crate::guard::access::AccessError),
    /// Certificate, key or authority do not work.
    #[error("the certificates cannot be used: {reason}")]
    Tls {
        /// What the TLS library said.
        reason: String,
    },
    /// A file cannot be written, or read.
    #[error("cannot use {}: {kind}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
    /// The incident store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another hub has taken over.
    #[error("{0}")]
    TakenOver(tables::TablesError),
    /// A server ended by itself.
    #[error(
        "with --data in a bucket the key of the addresses' pseudonyms has no place: say --address-key FILE"
    )]
    NoAddressKey,
    /// A server ended.
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
    /// Another hub writes there.
    #[error(
        "{place} is in use by another hub; stop that one, use another --data, or wait for it to end with --standby"
    )]
    InUse {
        /// Where.
        place: String,
    },
    /// The tables.
    #[error(transparent)]
    Tables(#[from] tables::TablesError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
    /// An incident cannot be read.
    #[error("incident {id} in the tables cannot be read: {reason}")]
    Damaged {
        /// Which.
        id: String,
        /// Why.
        reason: String,
    },
}
