//! What can be wrong with this room's files and doors.
//!
//! Invariants: a message says what was found, where, and what was expected; places count from 1, in characters.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

/// What is wrong with a file of settings or of names, and its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct FileError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub problem: Problem,
}

impl FileError {
    pub(crate) fn new(text: &str, span: Range<usize>, problem: Problem) -> FileError {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before.get(line_start..).map_or(0, |l| l.chars().count());
        FileError { line: 1 + before.matches('\n').count() as u32, column: 1 + column as u32, problem }
    }
    /// `file:line:column: what is wrong`, as compilers say it.
    pub fn located(&self, file: &str) -> String {
        format!("{file}:{}:{}: {}", self.line, self.column, self.problem)
    }
}

/// What is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No TOML, an unknown key, a missing key or a value of another type; the words are the parser's.
    #[error("{0}")]
    Toml(String),
    /// A name the fabric does not have.
    #[error("there is no device \"{name}\" in this fabric; expected a switch or host such as \"{example}\"")]
    NoDevice {
        /// The name found.
        name: String,
        /// A name that would do.
        example: String,
    },
    /// A pattern with a star that fits no device.
    #[error(
        "\"{name}\" fits no device of this fabric; expected names such as \"{example}\" with a `*` in them"
    )]
    FitsNone {
        /// The pattern found.
        name: String,
        /// A name that would do.
        example: String,
    },
    /// A device's other end that it has no cable to.
    #[error("{device} has no cable to \"{name}\"; expected one of {known}")]
    NoNeighbour {
        /// The device.
        device: String,
        /// The name found.
        name: String,
        /// Neighbours there are, the first of them.
        known: String,
    },
    /// A port the device does not have.
    #[error("{device} has no port {port}; expected 0 to {most}")]
    NoPort {
        /// The device.
        device: String,
        /// The port found.
        port: u64,
        /// Its last port.
        most: u64,
    },
    /// Two interfaces on one port.
    #[error("interface {second} is on the port of {first}, to {neighbour}; expected a port for each")]
    PortTwice {
        /// The interface named first.
        first: String,
        /// The interface named second.
        second: String,
        /// What the port leads to.
        neighbour: String,
    },
    /// The same name or pattern for two devices.
    #[error("\"{0}\" is matched twice; expected each name once")]
    MatchTwice(String),
    /// Ports without an interface.
    #[error(
        "{device}: no interface is named for {count} of its ports, the first to {neighbour}; expected one for each"
    )]
    PortsLeft {
        /// The device.
        device: String,
        /// How many.
        count: usize,
        /// What the first of them leads to.
        neighbour: String,
    },
    /// Keys of one table that do not go together.
    #[error("{found}; expected {expected}")]
    Expected {
        /// What was found, in words.
        found: String,
        /// What was expected, in words.
        expected: &'static str,
    },
}

/// Why a receiver cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// An address that cannot be listened on.
    #[error("{what}: cannot listen on {address}: {reason}; expected an address of this machine that is free")]
    Listen {
        /// Which receiver.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// A file that cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// Settings that cannot be used.
    #[error("{what}: {reason}")]
    Setting {
        /// Which receiver and setting.
        what: String,
        /// What is wrong, and what was expected.
        reason: String,
    },
}
