//! What went into an agent's machines, in a file, and the same observations from it again: for a report of a fault, where
//! saying what the agent saw is not enough.
//!
//! How: a [`Recorder`] given to a prober at its start ([`crate::prober::ProberConfig::recorder`]) writes every input of the
//! machines ([`crate::machines`]). [`replay`] makes the same machines and gives them the same inputs. Now and then the
//! recording says how many observations had come out and their digest, so that a replay notices by itself where it went
//! another way, as with a program of another version.
//!
//! Format: the eight bytes `SELVAGR\n`, a version (u16), the length of the fabric's TOML (u32) and the TOML, the
//! length of the context (u32) and the context (see `write_context`), then records. A record is its length (u32, of
//! what follows), a tag (u8) and what belongs to it. All numbers are big-endian.
//!
//! Invariants: a file is never longer than asked for; a recorder that cannot write stops recording and nothing else; any
//! bytes are answered with observations or a [`RecordError`]; the key that authenticates probes is not in the file, and
//! whoever replays such a recording must have it.
//! Absent on purpose: beginning in the middle of an agent's life. What the machines had learned is not in any input.

mod format;
mod replay;
#[cfg(test)]
mod tests;

pub use replay::{Ended, Replayed, replay};

use crate::machines::{Head, Input};
use format::{Out, tag};
use probe::Observation;
use prost::Message;
use std::io::Write;
use wire::batch::{push_component, push_path};
use wire::proto::{ComponentColumns, PathColumns};

/// First bytes of every recording.
pub const MAGIC: &[u8; 8] = b"SELVAGR\n";
/// Version of the format.
pub const VERSION: u16 = 1;
/// Largest record that is believed, bytes: a plan of all slots there can be.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Bytes gathered before they are written.
const GATHER: usize = 64 << 10;
/// Observations after which their digest is written.
const CHECK_EVERY: u64 = 64;
/// Bytes kept for the last record.
const TAIL: u64 = 64;

/// Why a recording cannot be read, or not further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It does not begin like one.
    #[error("not an agent's recording: expected it to begin with the eight bytes SELVAGR and a newline")]
    NotARecording,
    /// Written by a newer program.
    #[error("the recording has format version {got}, this program reads up to {VERSION}")]
    Version {
        /// Version of the file.
        got: u16,
    },
    /// The head makes no sense.
    #[error("the head of the recording is damaged: {reason}")]
    Head {
        /// What is wrong with it.
        reason: String,
    },
    /// The probes were authenticated, and the key is not the one or not there.
    #[error(
        "the recording is of authenticated probes: give the key they were made with (it is not in the file)"
    )]
    Key,
    /// A record whose content is none.
    #[error("record at byte {offset} is damaged")]
    Damaged {
        /// Where in the file.
        offset: usize,
    },
}

/// Digest of observations (FNV-1a, 64 bits): no secret, it only tells two runs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    pub(crate) value: u64,
}

impl Digest {
    pub(crate) const NONE: Digest = Digest { count: 0, value: 0xcbf2_9ce4_8422_2325 };

    /// One more observation, as the bytes it has on its way to the hub.
    pub(crate) fn add(&mut self, observation: &Observation) {
        let bytes = bytes_of(observation);
        for byte in bytes {
            self.value = (self.value ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.count += 1;
    }
}

/// An observation as it goes to the hub.
pub fn bytes_of(observation: &Observation) -> Vec<u8> {
    match observation {
        Observation::Path(o) => {
            let mut columns = PathColumns::default();
            push_path(&mut columns, o);
            columns.encode_to_vec()
        }
        Observation::Component(o) => {
            let mut columns = ComponentColumns::default();
            push_component(&mut columns, o);
            columns.encode_to_vec()
        }
    }
}

/// Writes a recording. A slow file slows the probing down: give it one that is not.
pub struct Recorder {
    out: Box<dyn Write + Send>,
    buffer: Out,
    left: u64,
    bytes: u64,
    digest: Digest,
    checked: u64,
    open: bool,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("left", &self.left).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder that writes at most so many bytes, and then says in the file that it stopped. With 800 probes
    /// of 128 bytes a second, and as many of others answered, a recording grows by about 300 kB a second.
    pub fn new(out: impl Write + Send + 'static, bytes_max: u64) -> Recorder {
        Recorder {
            out: Box::new(out),
            buffer: Out::default(),
            left: bytes_max,
            bytes: 0,
            digest: Digest::NONE,
            checked: 0,
            open: true,
        }
    }

    /// Bytes recorded so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn begin(&mut self, head: &Head) {
        self.buffer.head(head);
        self.account(0);
    }

    pub(crate) fn write(&mut self, input: &Input<'_>) {
        if !self.open {
            return;
        }
        let start = self.buffer.len();
        self.buffer.input(input);
        self.account(start);
    }

    pub(crate) fn observed(&mut self, observation: &Observation) {
        if self.open {
            self.digest.add(observation);
        }
    }

    /// All that waited was taken out.
    pub(crate) fn drained(&mut self) {
        if self.open && self.digest.count >= self.checked + CHECK_EVERY {
            self.checked = self.digest.count;
            let start = self.buffer.len();
            self.buffer.digest(tag::CHECK, self.digest);
            self.account(start);
        }
    }

    /// What is in the buffer from `start` on is new: counts it, or takes it out again and ends.
    fn account(&mut self, start: usize) {
        let new = (self.buffer.len() - start) as u64;
        if new + TAIL > self.left {
            self.buffer.cut(start);
            self.close(tag::FULL);
            return;
        }
        self.left -= new;
        self.bytes += new;
        if self.buffer.len() >= GATHER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.out.write_all(self.buffer.bytes()) {
            tracing::error!(%error, "the recording cannot be written any more");
            self.open = false;
        }
        self.buffer.cut(0);
    }

    fn close(&mut self, how: u8) {
        self.buffer.digest(how, self.digest);
        self.flush();
        self.open = false;
        if let Err(error) = self.out.flush() {
            tracing::error!(%error, "the recording's end cannot be written");
        }
    }

    /// Writes what is left, and that the agent ended.
    pub(crate) fn end(mut self) {
        if self.open {
            self.close(tag::END);
        }
    }
}
