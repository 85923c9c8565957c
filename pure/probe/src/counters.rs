//! Why something was not counted in an observation: one enum of reasons, one counter each.
//!
//! Invariant: whatever comes in is either used or counted here exactly once.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a packet was not used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Dropped { $($(#[$doc])* $name,)* }
        impl Dropped {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Dropped] = &[$(Dropped::$name,)*];
            /// The reason as a stable lower-case name.
            pub const fn name(self) -> &'static str {
                match self { $(Dropped::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Not a STAMP packet: too short, or a TLV that is broken where it may not be.
    Malformed = "malformed",
    /// The HMAC is missing or wrong.
    BadHmac = "bad_hmac",
    /// The SSID is of no session of this sender.
    WrongSession = "wrong_session",
    /// The answer comes from an address that was not asked.
    WrongPeer = "wrong_peer",
    /// The answer is to a probe never sent.
    NeverSent = "never_sent",
    /// The echoed time stamp is not the one that was sent.
    Replayed = "replayed",
    /// The probe was answered already.
    Duplicate = "duplicate",
    /// The probe's fate was settled before the answer came.
    Late = "late",
    /// A session left by an older plan or an older flow label.
    OldSession = "old_session",
    /// A way back was asked for that does not lead to who asked.
    HostileReturnPath = "hostile_return_path",
    /// The asker wants no answer (RFC 9503, section 4.1.1).
    NoReplyAsked = "no_reply_asked",
    /// A return path of a kind this reflector cannot follow.
    UnsupportedReturnPath = "unsupported_return_path",
    /// The probe is from no NIC of the fabric, and only those are answered.
    UnknownAsker = "unknown_asker",
    /// The packet was meant for another address (RFC 9503, section 3).
    WrongDestination = "wrong_destination",
    /// The way back that was asked for, or the probe's path, does not exist.
    NoSuchPath = "no_such_path",
    /// The caller did not take what was waiting for it in time.
    Overflow = "overflow",
}

/// Counters by reason, and of what went well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    dropped: [u64; Dropped::ALL.len()],
    /// A few names, in the order first counted.
    others: Vec<(&'static str, u64)>,
}

impl Counters {
    /// Counts a drop and gives it back, so that it can be returned in the same breath.
    pub fn drop(&mut self, reason: Dropped) -> Dropped {
        if let Some(n) = self.dropped.get_mut(reason as usize) {
            *n = n.saturating_add(1);
        }
        reason
    }
    /// Adds to a counter that is no drop.
    pub fn add(&mut self, name: &'static str, n: u64) {
        match self.others.iter_mut().find(|(k, _)| *k == name) {
            Some((_, c)) => *c = c.saturating_add(n),
            None => self.others.push((name, n)),
        }
    }
    /// How many were dropped for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }
    /// A counter that is no drop.
    pub fn get(&self, name: &str) -> u64 {
        self.others.iter().find(|(k, _)| *k == name).map_or(0, |(_, n)| *n)
    }
    /// Every counter that is not zero, by name, added to `into`.
    pub fn snapshot(&self, into: &mut BTreeMap<&'static str, u64>) {
        let drops = Dropped::ALL.iter().map(|&d| (d.name(), self.dropped(d))).filter(|&(_, n)| n > 0);
        for (name, n) in drops.chain(self.others.iter().copied()) {
            *into.entry(name).or_default() += n;
        }
    }
}
