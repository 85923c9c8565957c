//! Collectives: in which round a rank sends which part of its data to whom, and what it does with what arrives.
//!
//! How: a [`Plan`] is a closed formula, `(collective, ranks, rank, round) -> Round`, never a stored list. In each round
//! a rank sends at most one message and receives at most one, and begins the next round when both are done. The
//! message of a round carries its number as (part of) its tag, so ranks need not be in the same round.
//!
//! Sums are made in an order that the plan alone decides, one addition after the other, each rounded to the element's
//! own format. So every rank gets the same bits, in every run, whatever paths the packets took and whatever was lost
//! on the way.
//!
//! Invariants: what one rank sends in a round, its peer receives in that round, with the same length; nobody waits in
//! a circle, since a round's send does not wait for its receive.
//! Absent on purpose: messages and buffers (the endpoint's), and choosing between ring and tree, which the caller's
//! size and the number of ranks decide.

use core::ops::Range;
use half::{bf16, f16};

/// One of the ranks of a collective: `0 <= rank < ranks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(pub u32);

/// What is to happen to the data of all ranks. "Part p" is the p-th of as many about equal parts as there are ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// Every rank gets the sum over all ranks. In place.
    AllReduce(Shape),
    /// Rank p gets part p of the sum over all ranks; its other parts hold nothing of use afterwards. In place.
    ReduceScatter,
    /// Part p of rank p goes to every rank. In place.
    AllGather,
    /// Part p of what rank q sends becomes part q of what rank p receives. All parts have one length.
    AllToAll,
    /// Every rank gets the root's data. In place.
    Broadcast {
        /// Whose data.
        root: Rank,
        /// A tree sends all of it at once (few rounds), a ring passes it on part by part (each byte once a rank).
        shape: Shape,
    },
    /// Nobody leaves before everybody came. Moves no data.
    Barrier,
}

/// How the ranks are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each to the next: most bytes a second, as many rounds as ranks.
    Ring,
    /// Binomial tree: rounds grow with the logarithm of the ranks.
    Tree,
}

/// What is done with what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It replaces what was there.
    Place,
    /// It is added to what was there, element by element.
    Sum,
}

/// A message of a round that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub to: Rank,
    /// Which elements of what this rank sends. May be empty: the message is still sent.
    pub elements: Range<usize>,
}

/// A message of a round that is to be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// From whom.
    pub from: Rank,
    /// Where its elements go in what this rank receives.
    pub elements: Range<usize>,
    /// How.
    pub take: Take,
}

/// What one rank does in one round. Both at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The message to send, if any.
    pub send: Option<Send>,
    /// The message to wait for, if any.
    pub receive: Option<Receive>,
}

/// Why there is no such collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No ranks, or more than [`Plan::RANKS_MAX`].
    #[error("{ranks} ranks; expected 1 to {}", Plan::RANKS_MAX)]
    Ranks {
        /// How many.
        ranks: u32,
    },
    /// A rank, or the root, that is not there.
    #[error("rank {rank} of {ranks}; expected one below {ranks}")]
    NoRank {
        /// Which.
        rank: u32,
        /// How many there are.
        ranks: u32,
    },
    /// An all-to-all whose parts would not all have one length.
    #[error("{elements} elements among {ranks} ranks; an all-to-all needs a multiple of {ranks}")]
    Uneven {
        /// How many.
        elements: usize,
        /// How many there are.
        ranks: u32,
    },
}

/// What one rank does for one collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    what: Collective,
    ranks: u32,
    rank: u32,
    elements: usize,
}

impl Plan {
    /// Most ranks of a collective.
    pub const RANKS_MAX: u32 = 1 << 20;

    /// The plan of `rank`, each rank having `elements` elements.
    pub fn new(what: Collective, ranks: u32, rank: Rank, elements: usize) -> Result<Plan, PlanError> {
        if ranks == 0 || ranks > Plan::RANKS_MAX {
            return Err(PlanError::Ranks { ranks });
        }
        let root = match what {
            Collective::Broadcast { root, .. } => root,
            _ => Rank(0),
        };
        if what == Collective::AllToAll && !elements.is_multiple_of(ranks as usize) {
            return Err(PlanError::Uneven { elements, ranks });
        }
        match [rank, root].into_iter().find(|r| r.0 >= ranks) {
            Some(r) => Err(PlanError::NoRank { rank: r.0, ranks }),
            None => Ok(Plan { what, ranks, rank: rank.0, elements }),
        }
    }

    /// Number of rounds, the same for all ranks.
    pub fn rounds(&self) -> u32 {
        let n = self.ranks;
        match self.what {
            _ if n == 1 => 0,
            Collective::AllReduce(Shape::Ring) => 2 * (n - 1),
            Collective::AllReduce(Shape::Tree) => 2 * log2_up(n),
            Collective::ReduceScatter | Collective::AllGather | Collective::AllToAll => n - 1,
            Collective::Broadcast { shape: Shape::Tree, .. } | Collective::Barrier => log2_up(n),
            // the last part leaves the root in round n - 1 and passes n - 1 ranks
            Collective::Broadcast { shape: Shape::Ring, .. } => 2 * n - 2,
        }
    }

    /// The elements of part `p`, `0 <= p < ranks`.
    pub fn part(&self, p: u32) -> Range<usize> {
        let at = |p: u32| (self.elements as u128 * u128::from(p) / u128::from(self.ranks)) as usize;
        at(p)..at(p + 1)
    }

    /// What the rank does in a round, `0 <= round < rounds()`; nothing in any other.
    pub fn round(&self, round: u32) -> Round {
        if round >= self.rounds() {
            return Round::default();
        }
        let n = self.ranks;
        match self.what {
            Collective::AllReduce(Shape::Ring) if round < n - 1 => self.pass(round, 1, Take::Sum),
            Collective::AllReduce(Shape::Ring) => self.pass(round - (n - 1), 0, Take::Place),
            Collective::AllReduce(Shape::Tree) => {
                let up = log2_up(n);
                if round < up { self.tree_up(round) } else { self.tree_down(round - up, Rank(0)) }
            }
            Collective::ReduceScatter => self.pass(round, 1, Take::Sum),
            Collective::AllGather => self.pass(round, 0, Take::Place),
            Collective::AllToAll => {
                let (to, from) = (self.rank_at(round + 1), self.rank_at(n - round - 1));
                Round {
                    send: Some(Send { to: Rank(to), elements: self.part(to) }),
                    receive: Some(Receive { from: Rank(from), elements: self.part(from), take: Take::Place }),
                }
            }
            Collective::Broadcast { root, shape: Shape::Tree } => self.tree_down(round, root),
            Collective::Broadcast { root, shape: Shape::Ring } => self.chain(round, root),
            Collective::Barrier => {
                let step = 1 << round;
                let (to, from) = (self.rank_at(step), self.rank_at(n - step));
                Round {
                    send: Some(Send { to: Rank(to), elements: 0..0 }),
                    receive: Some(Receive { from: Rank(from), elements: 0..0, take: Take::Place }),
                }
            }
        }
    }

    /// The part that does not move in an all-to-all: the caller copies it from what is sent to what is received.
    pub fn own_part(&self) -> Range<usize> {
        self.part(self.rank)
    }

    /// `ahead` ranks after this one, around the ring. `ahead <= ranks`.
    fn rank_at(&self, ahead: u32) -> u32 {
        (self.rank + ahead) % self.ranks
    }

    /// Ring: part `rank - round - behind` goes to the next rank, and the one before it comes from the previous.
    fn pass(&self, round: u32, behind: u32, take: Take) -> Round {
        let n = self.ranks;
        // 1 <= back + 1 <= n
        let back = round + behind;
        let (sent, got) = (self.rank_at(n - back), self.rank_at(n - back - 1));
        Round {
            send: Some(Send { to: Rank(self.rank_at(1)), elements: self.part(sent) }),
            receive: Some(Receive { from: Rank(self.rank_at(n - 1)), elements: self.part(got), take }),
        }
    }

    /// Binomial tree towards rank 0: in round `r` the ranks that are odd multiples of `2^r` send what they have.
    fn tree_up(&self, round: u32) -> Round {
        let (bit, all) = (1u32 << round, 0..self.elements);
        let below = self.rank & (bit - 1);
        if below != 0 {
            return Round::default();
        }
        if self.rank & bit != 0 {
            let send = Send { to: Rank(self.rank - bit), elements: all };
            return Round { send: Some(send), receive: None };
        }
        let from = self.rank + bit;
        let receive =
            (from < self.ranks).then_some(Receive { from: Rank(from), elements: all, take: Take::Sum });
        Round { send: None, receive }
    }

    /// Binomial tree away from the root: in round `r` the first `2^r` ranks after it send to the next `2^r`.
    fn tree_down(&self, round: u32, root: Rank) -> Round {
        let (bit, all) = (1u32 << round, 0..self.elements);
        let place = (self.rank + self.ranks - root.0) % self.ranks;
        let named = |place: u32| Rank((place + root.0) % self.ranks);
        if place < bit {
            let to = place + bit;
            let send = (to < self.ranks).then(|| Send { to: named(to), elements: all });
            return Round { send, receive: None };
        }
        let receive =
            (place < 2 * bit).then(|| Receive { from: named(place - bit), elements: all, take: Take::Place });
        Round { send: None, receive }
    }

    /// A chain from the root: part p leaves the root in round p and is passed on once a round.
    fn chain(&self, round: u32, root: Rank) -> Round {
        let place = (self.rank + self.ranks - root.0) % self.ranks;
        let part = |p: Option<u32>| p.filter(|&p| p < self.ranks).map(|p| self.part(p));
        let sent = if place + 1 < self.ranks { part(round.checked_sub(place)) } else { None };
        let got = if place > 0 { part((round + 1).checked_sub(place)) } else { None };
        Round {
            send: sent.map(|elements| Send { to: Rank(self.rank_at(1)), elements }),
            receive: got.map(|elements| Receive {
                from: Rank(self.rank_at(self.ranks - 1)),
                elements,
                take: Take::Place,
            }),
        }
    }
}

/// Smallest `k` with `2^k >= n`.
fn log2_up(n: u32) -> u32 {
    n.next_power_of_two().trailing_zeros()
}

/// What the data is made of. Little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// A byte; sums wrap.
    U8,
}

impl Element {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::U8 => 1,
        }
    }

    /// Adds `from` to `to`, element by element, rounding to nearest even each time. What is longer in one of them, and
    /// an element cut short, is left alone.
    pub fn add(self, to: &mut [u8], from: &[u8]) {
        match self {
            Element::F32 => {
                each(to, from, |a, b| (f32::from_le_bytes(a) + f32::from_le_bytes(b)).to_le_bytes())
            }
            Element::U8 => each(to, from, |[a], [b]| [a.wrapping_add(b)]),
            Element::F16 => each(to, from, |a, b| {
                f16::from_f32(f16::from_le_bytes(a).to_f32() + f16::from_le_bytes(b).to_f32()).to_le_bytes()
            }),
            Element::Bf16 => each(to, from, |a, b| {
                bf16::from_f32(bf16::from_le_bytes(a).to_f32() + bf16::from_le_bytes(b).to_f32())
                    .to_le_bytes()
            }),
        }
    }
}

fn each<const N: usize>(to: &mut [u8], from: &[u8], sum: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    let (to, _) = to.as_chunks_mut::<N>();
    let (from, _) = from.as_chunks::<N>();
    for (t, f) in to.iter_mut().zip(from) {
        *t = sum(*t, *f);
    }
}
