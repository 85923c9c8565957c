//! Why an agent ends.

use wire::Epoch;

/// Why an agent ends other than by being told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The certificate does not say which host this is.
    #[error("the certificate cannot be used: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The hub's address is not one.
    #[error("{hub:?} is no address of a hub, expected one such as https://hub.example:7443")]
    Address {
        /// What was given.
        hub: String,
    },
    /// Certificate, key or authority do not fit.
    #[error("TLS cannot be set up: {reason}")]
    Tls {
        /// What the library said.
        reason: String,
    },
    /// The recording cannot be begun.
    #[error("cannot record to {path}: {reason} (expected a new file in a directory that exists)")]
    Record {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The probe sockets cannot be opened.
    #[error("cannot probe: {reason}")]
    Probe {
        /// Why, and what is needed.
        reason: String,
    },
    /// The prober has ended by itself.
    #[error("the prober ended by itself")]
    ProberEnded,
    /// Privileges could not be given up.
    #[error("cannot give up capabilities: {reason}")]
    Capabilities {
        /// What the system said.
        reason: String,
    },
    /// The hub has a new fabric, whose addresses need new sockets, for which this process has no privileges any more.
    #[error("the hub's fabric changed from {from} to {to}: start the agent again")]
    FabricChanged {
        /// The fabric the sockets were opened for.
        from: Epoch,
        /// The hub's.
        to: Epoch,
    },
}
