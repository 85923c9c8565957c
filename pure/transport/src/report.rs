//! What the sender learns of its paths as a by-product: for each EV the packets whose fate is known.
//!
//! How: a path is first in, first out, and the receiver counts what arrives on each EV. So of the packets up to the
//! highest that arrived exactly those were lost on the way there that were not counted, whatever the sender guessed
//! meanwhile, and whatever happened on the way back. Only where an EV is silent is a guess all there is: what was
//! declared lost on it counts when it is assumed bad and [`PROOF_PROBES`] probes on it were not answered either, and is
//! taken back from later losses should it turn out to have arrived.
//!
//! Invariants: the sums of all reports of an EV are the numbers at the last one; `lost + marked <= sent` in each; an EV
//! without news is not reported; nothing is kept before the first report is asked for.
//! Absent on purpose: packets still on the way (their fate is in a later report), and trimmed packets among the lost: a
//! trim is a full queue and no broken link. A packet that was overtaken on its own EV and arrives after the sender gave
//! it up counts as lost.

use crate::paths::{NONE, Path, PathState, Paths};
use alloc::vec::Vec;
use wire::transport::{Ev, EvFeedback};

/// Probes in a row without an answer that make a guess a fact. Each waits twice as long as the one before, so the path
/// was silent for more than sixty times what is late anywhere else: a path may be slow, but not by so much.
const PROOF_PROBES: u8 = 6;

/// What became known of one EV between two calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Which.
    pub ev: Ev,
    /// Packets sent on it whose fate became known, chunks and probes. At least 1.
    pub sent: u32,
    /// Of them, packets that did not arrive. `0 <= lost <= sent`.
    pub lost: u32,
    /// Packets that arrived with congestion experienced (RFC 3168). `0 <= marked <= sent - lost`.
    pub marked: u32,
}

/// What was reported of an EV so far. Wraps as the counters do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reported {
    sent: u32,
    lost: u32,
    marked: u32,
}

impl Path {
    /// Takes note of the highest sequence number in a receiver's report, which cannot be above what was sent.
    pub(crate) fn reach(&mut self, f: &EvFeedback) {
        let reached = f.highest.wrapping_add(1);
        let ahead = |a: u32, b: u32| a.wrapping_sub(b) as i32 > 0;
        if f.received != f.trimmed && ahead(reached, self.reached) && !ahead(reached, self.seq_next) {
            self.reached = reached;
        }
    }

    /// Was something declared lost at its end, with nothing on the way that could say whether it was?
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.oldest == NONE && self.missed.wrapping_sub(self.reached) as i32 > 0
    }

    /// Packets whose fate is known, and how many of them did not arrive.
    fn known(&self) -> (u32, u32) {
        let proven = self.state == PathState::AssumedBad && self.probes >= PROOF_PROBES;
        let more = self.missed.wrapping_sub(self.reached);
        let sent = if proven && more as i32 > 0 { self.missed } else { self.reached };
        let lost = sent.wrapping_sub(self.received);
        // a trimmed packet arrives ahead of those before it
        (sent, if (lost as i32) < 0 { 0 } else { lost })
    }
}

/// Reports every EV with news.
pub(crate) fn report(paths: &Paths, reported: &mut Vec<Reported>, to: &mut dyn FnMut(PathReport)) {
    if reported.is_empty() {
        reported.resize(paths.len(), Reported::default());
    }
    for (i, (path, before)) in paths.iter().zip(reported.iter_mut()).enumerate() {
        let (sent_so_far, lost_so_far) = path.known();
        let sent = sent_so_far.wrapping_sub(before.sent);
        if sent == 0 || sent as i32 <= 0 {
            continue;
        }
        // fewer than were reported: some arrived after all, and the next losses make up for them
        let lost = lost_so_far.wrapping_sub(before.lost);
        let lost = if (lost as i32) < 0 { 0 } else { lost.min(sent) };
        let marked = path.marked.wrapping_sub(before.marked).min(sent - lost);
        before.sent = sent_so_far;
        before.lost = before.lost.wrapping_add(lost);
        before.marked = before.marked.wrapping_add(marked);
        to(PathReport { ev: Ev(i as u16), sent, lost, marked });
    }
}
