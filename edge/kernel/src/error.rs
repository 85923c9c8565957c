//! What the kernel refused, and why.

use std::fmt;

/// An errno, shown with its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The errno of the last system call of this thread.
    pub fn last() -> Errno {
        std::io::Error::last_os_error().into()
    }
}

impl From<std::io::Error> for Errno {
    /// An error without an errno (there is hardly one at this floor) becomes `EIO`.
    fn from(e: std::io::Error) -> Errno {
        Errno(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why something at the kernel's door did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// What was called, and on what.
        call: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// A file of the kernel's (`/proc`, `/sys`, `/run/netns`) could not be used.
    #[error("{path}: {errno}")]
    File {
        /// The file.
        path: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The kernel refused one message of a netlink batch.
    #[error("netlink: {what}: {errno}{}{said}", if .said.is_empty() { "" } else { ": " })]
    Netlink {
        /// What the message was to do.
        what: String,
        /// The kernel's answer.
        errno: Errno,
        /// The kernel's explanation (extended acknowledgement), often empty.
        said: String,
    },
    /// A netlink answer made no sense.
    #[error("netlink: an answer of {bytes} bytes could not be read")]
    Answer {
        /// Its length.
        bytes: usize,
    },
    /// The kernel has no such generic netlink family.
    #[error("the kernel has no generic netlink family {name}")]
    NoFamily {
        /// The family.
        name: &'static str,
    },
    /// A network interface name is longer than the kernel takes (15 bytes) or empty.
    #[error("{name:?} cannot be the name of a network interface (1 to 15 bytes)")]
    Name {
        /// The name.
        name: String,
    },
    /// A BPF program or map was refused.
    #[error("BPF: {what}: {said}")]
    Bpf {
        /// What was tried.
        what: &'static str,
        /// The verifier's or loader's words.
        said: String,
    },
    /// The capabilities of this thread could not be read or changed.
    #[error("capabilities: {said}")]
    Capabilities {
        /// Why.
        said: String,
    },
    /// The process is gone, or its number now belongs to another.
    #[error("process {pid} is not the one that was started")]
    Gone {
        /// The process id.
        pid: u32,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns the -1 of a system call into the error it stands for.
pub(crate) fn check(call: &'static str, returned: libc::c_int) -> Result<libc::c_int> {
    if returned < 0 { Err(Error::Call { call, errno: Errno::last() }) } else { Ok(returned) }
}
