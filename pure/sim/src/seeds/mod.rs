//! Short exchanges over a bad network, one a seed: every message once and bit-equal, or a law is broken and said so.
//!
//! How: [`plan`] draws from the seed what two ends send each other, under which parameters, and all that goes wrong;
//! [`way`] is the network between them, which carries bytes; [`exchange`] drives both ends through the real encoding
//! and protection of `wire` and checks the laws at every step; [`book`] is what the applications at the ends know.
//! Loss, reordering, duplication, corruption, trimming, marks, EVs that die and come back, receivers that take nothing
//! for a while, and ends that restart and forget everything.
//!
//! Invariants: a seed gives the same exchange always; whatever arrives is taken or refused, and counted either way;
//! [`Sabotage`] breaks each law on purpose, so that it is known to be looked at.
//! Absent on purpose: a fabric (that is [`crate::packets`]), real ciphers and sockets (those are the edge's).

mod book;
mod exchange;
mod guard;
pub mod plan;
mod way;

use crate::rng::mix;
use alloc::string::String;
use plan::Plan;
use wire::Nanos;

/// What the seeds run so far came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Exchanges run.
    pub seeds: u64,
    /// Messages delivered, each once and bit-equal.
    pub messages: u64,
    /// Of them, one-sided writes.
    pub writes: u64,
    /// Their payload, bytes.
    pub bytes: u64,
    /// Messages cut short because one end forgot everything.
    pub messages_cut: u64,
    /// Packets with a number sent.
    pub packets: u64,
    /// Of them, chunks sent again.
    pub chunks_again: u64,
    /// Datagrams put on the way, copies included.
    pub datagrams: u64,
    /// Of them, lost by chance.
    pub lost: u64,
    /// Of them, swallowed by a dead EV.
    pub swallowed: u64,
    /// Of them, copies of another.
    pub copies: u64,
    /// Of them, trimmed to their header.
    pub trimmed: u64,
    /// Of them, marked.
    pub marked: u64,
    /// Of them, damaged on the way, or made up by a stranger.
    pub damaged: u64,
    /// Arrived and taken.
    pub taken: u64,
    /// Arrived and refused: damaged.
    pub refused_damaged: u64,
    /// Arrived and refused: taken before.
    pub refused_again: u64,
    /// Arrived and refused: of a connection that is no more.
    pub refused_stale: u64,
    /// Arrived and put aside: the application began no message then.
    pub refused_unready: u64,
    /// Ends that forgot everything.
    pub restarts: u64,
    /// Groups of EVs that died.
    pub deaths: u64,
    /// Times keys were changed.
    pub key_updates: u64,
    /// EVs given up by their sender, and believed again.
    pub paths_down: u64,
    /// Believed again.
    pub paths_up: u64,
    /// Most bytes one end's machine held.
    pub memory_most: u64,
    /// Hash of everything that arrived, when and where; the sum over the seeds.
    pub trace: u64,
}

impl Tally {
    /// Adds another's.
    pub fn add(&mut self, o: &Tally) {
        let Tally { memory_most, trace, .. } = *self;
        let pairs: [(&mut u64, u64); 23] = [
            (&mut self.seeds, o.seeds),
            (&mut self.messages, o.messages),
            (&mut self.writes, o.writes),
            (&mut self.bytes, o.bytes),
            (&mut self.messages_cut, o.messages_cut),
            (&mut self.packets, o.packets),
            (&mut self.chunks_again, o.chunks_again),
            (&mut self.datagrams, o.datagrams),
            (&mut self.lost, o.lost),
            (&mut self.swallowed, o.swallowed),
            (&mut self.copies, o.copies),
            (&mut self.trimmed, o.trimmed),
            (&mut self.marked, o.marked),
            (&mut self.damaged, o.damaged),
            (&mut self.taken, o.taken),
            (&mut self.refused_damaged, o.refused_damaged),
            (&mut self.refused_again, o.refused_again),
            (&mut self.refused_stale, o.refused_stale),
            (&mut self.refused_unready, o.refused_unready),
            (&mut self.restarts, o.restarts),
            (&mut self.deaths, o.deaths),
            (&mut self.key_updates, o.key_updates),
            (&mut self.paths_down, o.paths_down),
        ];
        for (sum, n) in pairs {
            *sum += n;
        }
        self.paths_up += o.paths_up;
        self.memory_most = memory_most.max(o.memory_most);
        self.trace = trace.wrapping_add(o.trace);
    }
}

/// What must hold in every exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// Every message arrives, and its sender is told.
    Delivered,
    /// A chunk is placed once.
    ChunkOnce,
    /// A message is completed once, and its sender told once.
    MessageOnce,
    /// What arrives is what was sent, bit by bit, where it belongs.
    BitEqual,
    /// A message is said to be sent only after it was received whole.
    SentIsReceived,
    /// A damaged datagram is refused.
    DamagedRefused,
    /// A datagram of a connection that is no more is refused.
    StaleRefused,
    /// An honest datagram is taken the first time.
    HonestTaken,
    /// Sent = acknowledged + lost + in flight, and what belongs to it.
    Counters,
    /// Memory stays below what the parameters say.
    Memory,
    /// A timeout lies ahead once all is done that is due.
    NotBusy,
    /// A connection ends only when it is asked to.
    EndsWhenAsked,
    /// What cannot be sealed is never sent.
    Sealed,
}

/// A broken law.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {law:?} is broken at end {end} after {at}: {detail}")]
pub struct Broken {
    /// Which seed.
    pub seed: u64,
    /// Which law.
    pub law: Law,
    /// At which end, 0 or 1.
    pub end: usize,
    /// When, since the exchange began.
    pub at: Nanos,
    /// What was seen.
    pub detail: String,
}

/// A fault that the checks have to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A payload is changed after its tag was checked.
    PayloadBehindTheCheck,
    /// Tags are not checked.
    NoCheck,
    /// Keys outlive a restart: what the end sent before is taken after.
    OldKeys,
    /// An end's machine forgets everything while its keys and its peer do not.
    Amnesia,
    /// The application is told of one message less.
    SwallowedEvent,
    /// From some moment on nothing arrives.
    Silence,
    /// A packet that arrived is counted as sent again.
    Miscount,
}

/// Runs one seed.
pub fn run(seed: u64) -> Result<Tally, Broken> {
    exchange::run(seed, &Plan::draw(seed), None)
}

/// Runs one seed with a fault in the checked code itself.
pub fn run_sabotaged(seed: u64, sabotage: Sabotage) -> Result<Tally, Broken> {
    exchange::run(seed, &Plan::draw(seed), Some(sabotage))
}

/// A seed's plan, in words.
pub fn describe(seed: u64) -> String {
    alloc::format!("{:#?}", Plan::draw(seed))
}

/// The byte of a message at an offset: a function of who sent which message, so that no two look alike.
fn pattern(key: u64, out: &mut [u8]) {
    for (i, chunk) in out.chunks_mut(8).enumerate() {
        let word = mix(key ^ (i as u64) << 32).to_le_bytes();
        chunk.iter_mut().zip(word).for_each(|(b, w)| *b = w);
    }
}
