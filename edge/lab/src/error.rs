//! What can go wrong with a lab.

use std::path::PathBuf;

/// Why the lab could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// This machine or this user lacks something the lab needs.
    #[error("the lab needs {}", .needs.join(", and "))]
    Missing {
        /// What, in words.
        needs: Vec<&'static str>,
    },
    /// A lab with this name runs.
    #[error("lab {name} is up already (`selvedge lab down --name {name}` takes it down)")]
    Running {
        /// The lab.
        name: String,
    },
    /// No such lab.
    #[error("no lab named {name} is up")]
    NoLab {
        /// The lab.
        name: String,
    },
    /// Which lab is meant is not clear.
    #[error("{}", if .names.is_empty() { "no lab is up (`selvedge lab up FILE` starts one)".to_string() } else { format!("several labs are up, say which with --name: {}", .names.join(", ")) })]
    WhichLab {
        /// The labs that are up.
        names: Vec<String>,
    },
    /// A name cannot be a lab's.
    #[error("{name:?} cannot name a lab: 1 to 40 letters, digits, `-` or `_`")]
    LabName {
        /// The name.
        name: String,
    },
    /// The fabric does not fit on one machine.
    #[error("{switches} switches and {hosts} hosts are more than a lab takes ({limit} in all)")]
    TooLarge {
        /// Hosts of the fabric.
        hosts: u32,
        /// Switches of the fabric.
        switches: u32,
        /// The most nodes.
        limit: u32,
    },
    /// A cable does not come up.
    #[error("{ifname} in {netns} does not come up")]
    NoCarrier {
        /// The namespace.
        netns: String,
        /// The interface in it.
        ifname: String,
    },
    /// A file of the lab's could not be used.
    #[error("{}: {kind}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// A file of the lab's does not say what it should.
    #[error("{}: {said}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        said: String,
    },
    /// The target of a fault, or a node, does not exist.
    #[error("there is no {what} named {name:?} in this fabric")]
    NoTarget {
        /// What was looked for.
        what: &'static str,
        /// The name given.
        name: String,
    },
    /// The fault cannot act on that target.
    #[error("{kind} cannot act on {target}: {why}")]
    BadFault {
        /// The kind of fault.
        kind: String,
        /// What it was to act on.
        target: String,
        /// Why not.
        why: &'static str,
    },
    /// A process of the lab ended or did not get ready.
    #[error("{what} {why}{}", if .log.is_empty() { String::new() } else { format!("; the end of its log:\n{}", .log) })]
    Process {
        /// Which.
        what: String,
        /// What happened.
        why: String,
        /// The last lines it wrote.
        log: String,
    },
    /// Whoever waited for it wants no more.
    #[error("interrupted")]
    Interrupted,
    /// The hub did not answer as it should.
    #[error("hub at {url}: {said}")]
    Hub {
        /// Where.
        url: String,
        /// What was wrong.
        said: String,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file_error(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::File { path: path.to_path_buf(), kind: e.kind() }
}
