//! What can go wrong at a transport's end.

use rustls::AlertDescription;
use wire::transport::hello::STREAM_MAX;
use wire::transport::packet::Reject;
use wire::transport::{CloseReason, RegionId};

/// Why certificates cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// A text that should be PEM is not, or holds nothing.
    #[error("the {what} is no PEM file with a {what} in it")]
    Pem {
        /// Which one.
        what: &'static str,
    },
    /// The certificate says no name.
    #[error("the certificate's subject has no common name, expected one such as host12")]
    Nameless,
    /// TLS does not accept them.
    #[error("TLS cannot use certificate and key: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// What the peer said or showed is not accepted.
    #[error("the peer is not accepted: {0}")]
    Tls(rustls::Error),
    /// The peer does not accept us.
    #[error("the peer refuses: {alert:?}")]
    Refused {
        /// What it said.
        alert: AlertDescription,
    },
    /// Nothing useful came back in time.
    #[error("no answer{}", .hint.map(|a| format!("; somebody said {a:?}")).unwrap_or_default())]
    TimedOut {
        /// A refusal nobody vouches for.
        hint: Option<AlertDescription>,
    },
    /// The peer's parameters are none.
    #[error("the peer's parameters cannot be read: {0}")]
    Parameters(Reject),
    /// Neither end's ciphers are the other's.
    #[error("no cipher both ends are willing to use")]
    NoCipher,
    /// Our own certificates do not fit the handshake.
    #[error("{bytes} bytes of handshake messages, at most {STREAM_MAX}: shorten the certificate's chain")]
    Oversize {
        /// Length of the flight.
        bytes: usize,
    },
    /// The name is no host's name.
    #[error("{name:?} is no name of a host")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The peer's certificate says no name.
    #[error("the peer's certificate has no common name")]
    Nameless,
}

/// Why something asked of an endpoint or a connection did not work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EndpointError {
    /// The socket could not be made.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The system gives no random bytes, without which nothing is secure.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// The thread could not be started.
    #[error("cannot start a thread: {errno}")]
    Thread {
        /// Why.
        errno: kernel::Errno,
    },
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection is over.
    #[error("the connection is closed: {reason:?}")]
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// The endpoint is over, or has so much to do that it takes nothing more.
    #[error("the endpoint has ended, or is asked too much at once")]
    Ended,
    /// The state machine did not take the message.
    #[error(transparent)]
    Refused(#[from] transport::Refused),
    /// Too many messages wait to be sent.
    #[error("{open} messages wait to be sent: wait until one is")]
    TooManyMessages {
        /// How many.
        open: usize,
    },
    /// Too many connections.
    #[error("{open} connections are open, as many as allowed")]
    TooManyConnections {
        /// How many.
        open: usize,
    },
    /// A region that is registered already, or is not.
    #[error("region {} is registered already, or is not", .region.0)]
    Region {
        /// Which.
        region: RegionId,
    },
}
