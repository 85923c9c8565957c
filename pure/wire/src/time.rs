//! Time as a number. The pure floor never asks what time it is: `now` is an argument everywhere.
//!
//! A [`Nanos`] is nanoseconds since the epoch of the clock that made it: the Unix epoch on an edge, the
//! start of the run in a simulation. Which clock it was is said by whoever carries the value.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A point in time, or a length of time, in nanoseconds. Arithmetic saturates: hostile input cannot wrap it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The beginning of the clock.
    pub const ZERO: Nanos = Nanos(0);
    /// Further away than anything that will happen.
    pub const MAX: Nanos = Nanos(u64::MAX);

    /// `s` seconds.
    pub const fn from_secs(s: u64) -> Self {
        Nanos(s.saturating_mul(1_000_000_000))
    }
    /// `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Nanos(ms.saturating_mul(1_000_000))
    }
    /// `us` microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Nanos(us.saturating_mul(1_000))
    }
    /// `s` seconds, fractions kept; negative or not a number becomes zero.
    pub fn from_secs_f64(s: f64) -> Self {
        Nanos((s * 1e9) as u64)
    }
    /// As seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
    /// As whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
    /// `self − other`, zero where that would be negative.
    pub const fn since(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, o: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(o.0))
    }
}
impl AddAssign for Nanos {
    fn add_assign(&mut self, o: Nanos) {
        *self = *self + o;
    }
}
impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, o: Nanos) -> Nanos {
        self.since(o)
    }
}
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 1_000 => write!(f, "{n} ns"),
            n if n < 1_000_000 => write!(f, "{:.1} µs", n as f64 / 1e3),
            n if n < 1_000_000_000 => write!(f, "{:.1} ms", n as f64 / 1e6),
            n => write!(f, "{:.1} s", n as f64 / 1e9),
        }
    }
}
