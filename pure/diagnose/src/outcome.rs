//! What became of an input, counted by reason.

/// Why an observation was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It belongs to another version of the fabric.
    WrongEpoch = 0,
    /// Its path is not in the fabric.
    UnknownPath = 1,
    /// Its counts contradict each other, such as more lost than sent.
    BadCounts = 2,
    /// Nothing was sent.
    Empty = 3,
    /// It is older than the engine looks back.
    TooOld = 4,
    /// Its window lies further in the future than clocks can differ, or is longer than a minute.
    BadWindow = 5,
    /// Its component, or its producer, is not in the fabric.
    UnknownComponent = 6,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 7] = [
        Reason::WrongEpoch,
        Reason::UnknownPath,
        Reason::BadCounts,
        Reason::Empty,
        Reason::TooOld,
        Reason::BadWindow,
        Reason::UnknownComponent,
    ];
    /// One lower-case word, words joined by underscores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::WrongEpoch => "wrong_epoch",
            Reason::UnknownPath => "unknown_path",
            Reason::BadCounts => "bad_counts",
            Reason::Empty => "empty",
            Reason::TooOld => "too_old",
            Reason::BadWindow => "bad_window",
            Reason::UnknownComponent => "unknown_component",
        }
    }
}

/// What became of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It counts.
    Accepted,
    /// It does not, and why.
    Dropped(Reason),
}

/// Everything the engine has counted since it was made. `accepted + Σ dropped` = inputs, exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Path observations used.
    pub paths: u64,
    /// Packets in them.
    pub packets: u64,
    /// Of those observations, the ones in which something was hurt.
    pub hurt: u64,
    /// Component observations used.
    pub components: u64,
    /// Inputs not used, by [`Reason`].
    pub dropped: [u64; Reason::ALL.len()],
    /// Hurt observations forgotten before their time because too many were kept.
    pub hurt_forgotten: u64,
    /// Events not handed out because nobody fetched them.
    pub events_lost: u64,
    /// Times the evidence was weighed.
    pub evaluations: u64,
}

impl Counters {
    /// Inputs not used for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }
}
