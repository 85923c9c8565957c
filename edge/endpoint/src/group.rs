//! Ranks that do collectives together, for real: a connection between every two of them, and the plan of
//! [`transport::collective`] carried out message by message.
//!
//! How: rank p connects to those above it and is connected to by those below. Each round of a collective is at most one
//! message out and one in, at the same time; its tag is the number of the collective and of the round, so that ranks
//! need not be in step. What a path loses, its connection sends again over others: the sums never see it, and have the
//! same bits as without.
//!
//! Invariants: every rank does the same collectives with the same lengths in the same order, or is told by an error;
//! after an error the group is of no more use.
//! Absent on purpose: who is which rank and where (the caller's); ranks that come and go.

use crate::endpoint::{Connection, Endpoint};
use crate::error::EndpointError;
use crate::slot::ConnectionCounters;
use std::net::SocketAddrV6;
use transport::collective::{Collective, Element, Plan, PlanError, Rank, Shape, Take};

/// One rank, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its endpoint is.
    pub addr: SocketAddrV6,
    /// The name in its certificate, which no other member has.
    pub name: String,
}

/// Why a collective did not come to its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GroupError {
    /// There is no such collective, or no such rank.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Two members have one name.
    #[error("two members have the name {name:?}")]
    SameName {
        /// Which.
        name: String,
    },
    /// The connection to a rank.
    #[error("rank {rank}: {error}")]
    Connection {
        /// Which.
        rank: u32,
        /// Why.
        error: EndpointError,
    },
    /// A rank sent another length than this one waits for: it does another collective, or with other data.
    #[error("rank {rank} sent {got} bytes where {want} were expected: does it do the same collective?")]
    Length {
        /// Which.
        rank: u32,
        /// Bytes that came.
        got: usize,
        /// Bytes that were waited for.
        want: usize,
    },
    /// Data that is no whole number of elements.
    #[error("{bytes} bytes are no whole number of elements of {element} bytes")]
    Elements {
        /// How long it is.
        bytes: usize,
        /// Bytes of an element.
        element: usize,
    },
    /// What is sent and what is received differ in length.
    #[error("{sent} bytes to send and {received} to receive; an all-to-all needs as many of each")]
    Unequal {
        /// Bytes to send.
        sent: usize,
        /// Bytes to receive.
        received: usize,
    },
}

/// One rank of a group.
#[derive(Debug)]
pub struct Group {
    rank: Rank,
    /// By rank; none with itself.
    with: Vec<Option<Connection>>,
    /// Collectives done.
    turn: u32,
}

impl Group {
    /// Joins as member `rank`. Every member has to, with the same list; done when this one is connected to all. Meanwhile
    /// the endpoint's [`Endpoint::accept`] belongs to the group: who comes and is no member is turned away.
    pub async fn join(endpoint: &Endpoint, members: &[Member], rank: Rank) -> Result<Group, GroupError> {
        let ranks = u32::try_from(members.len()).unwrap_or(u32::MAX);
        Plan::new(Collective::Barrier, ranks, rank, 0)?;
        let mut names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
        names.sort_unstable();
        if let Some(w) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(GroupError::SameName { name: w[0].to_owned() });
        }
        let of = |rank: u32| move |error| GroupError::Connection { rank, error };
        let mut with: Vec<Option<Connection>> = members.iter().map(|_| None).collect();
        let own = rank.0 as usize;
        let (below, above) = with.split_at_mut(own);
        let accept = async {
            while below.iter().any(Option::is_none) {
                let connection = endpoint.accept().await.map_err(of(rank.0))?;
                let who = members.iter().take(own).position(|m| m.name == connection.peer());
                if let Some(place) = who.and_then(|w| below.get_mut(w)).filter(|p| p.is_none()) {
                    *place = Some(connection);
                }
            }
            Ok(())
        };
        let connect = async {
            for (i, (place, member)) in above.iter_mut().zip(members.iter().skip(own)).enumerate().skip(1) {
                let at = rank.0 + i as u32;
                *place = Some(endpoint.connect(member.addr, &member.name).await.map_err(of(at))?);
            }
            Ok::<_, GroupError>(())
        };
        tokio::try_join!(accept, connect)?;
        Ok(Group { rank, with, turn: 0 })
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Number of ranks.
    pub fn ranks(&self) -> u32 {
        self.with.len() as u32
    }

    /// Every rank's `data` becomes the sum of all. For less than about a megabyte a tree is faster, else a ring.
    pub async fn all_reduce(
        &mut self,
        element: Element,
        shape: Shape,
        data: &mut [u8],
    ) -> Result<(), GroupError> {
        self.run(Collective::AllReduce(shape), element, None, data).await
    }

    /// This rank's part of `data` becomes the sum of all; the rest of it holds nothing of use afterwards. Gives where it
    /// is, in bytes.
    pub async fn reduce_scatter(
        &mut self,
        element: Element,
        data: &mut [u8],
    ) -> Result<std::ops::Range<usize>, GroupError> {
        self.run(Collective::ReduceScatter, element, None, data).await?;
        let part = self.plan(Collective::ReduceScatter, element, data.len())?.own_part();
        Ok(part.start * element.bytes()..part.end * element.bytes())
    }

    /// Part p of every rank's `data` becomes that of rank p.
    pub async fn all_gather(&mut self, element: Element, data: &mut [u8]) -> Result<(), GroupError> {
        self.run(Collective::AllGather, element, None, data).await
    }

    /// Part q of `received` becomes part `rank` of what rank q sends.
    pub async fn all_to_all(
        &mut self,
        element: Element,
        sent: &[u8],
        received: &mut [u8],
    ) -> Result<(), GroupError> {
        if sent.len() != received.len() {
            return Err(GroupError::Unequal { sent: sent.len(), received: received.len() });
        }
        let part = self.plan(Collective::AllToAll, element, sent.len())?.own_part();
        let own = part.start * element.bytes()..part.end * element.bytes();
        if let (Some(to), Some(from)) = (received.get_mut(own.clone()), sent.get(own)) {
            to.copy_from_slice(from);
        }
        self.run(Collective::AllToAll, element, Some(sent), received).await
    }

    /// Every rank's `data` becomes the root's.
    pub async fn broadcast(&mut self, root: Rank, shape: Shape, data: &mut [u8]) -> Result<(), GroupError> {
        // what it is made of does not matter: nothing is added
        self.run(Collective::Broadcast { root, shape }, Element::U8, None, data).await
    }

    /// Done when every rank has come here.
    pub async fn barrier(&mut self) -> Result<(), GroupError> {
        self.run(Collective::Barrier, Element::U8, None, &mut []).await
    }

    /// What the connections counted, by rank; none with itself.
    pub async fn counters(&self) -> Result<Vec<Option<ConnectionCounters>>, GroupError> {
        let mut all = Vec::with_capacity(self.with.len());
        for (rank, connection) in self.with.iter().enumerate() {
            all.push(match connection {
                Some(c) => {
                    let rank = rank as u32;
                    Some(c.counters().await.map_err(|error| GroupError::Connection { rank, error })?)
                }
                None => None,
            });
        }
        Ok(all)
    }

    fn plan(&self, what: Collective, element: Element, bytes: usize) -> Result<Plan, GroupError> {
        if !bytes.is_multiple_of(element.bytes()) {
            return Err(GroupError::Elements { bytes, element: element.bytes() });
        }
        Ok(Plan::new(what, self.ranks(), self.rank, bytes / element.bytes())?)
    }

    fn with(&self, rank: Rank) -> Result<&Connection, GroupError> {
        let connection = self.with.get(rank.0 as usize).and_then(Option::as_ref);
        connection.ok_or(GroupError::Plan(PlanError::NoRank { rank: rank.0, ranks: self.ranks() }))
    }

    async fn run(
        &mut self,
        what: Collective,
        element: Element,
        sent: Option<&[u8]>,
        data: &mut [u8],
    ) -> Result<(), GroupError> {
        let plan = self.plan(what, element, data.len())?;
        self.turn = self.turn.wrapping_add(1);
        let size = element.bytes();
        for number in 0..plan.rounds() {
            let tag = u64::from(self.turn) << 32 | u64::from(number);
            let round = plan.round(number);
            let message = round.send.map(|s| {
                let bytes = sent.unwrap_or(data).get(s.elements.start * size..s.elements.end * size);
                // a message has at least one byte
                let bytes = bytes.filter(|b| !b.is_empty()).map_or_else(|| vec![0], <[u8]>::to_vec);
                (s.to, bytes)
            });
            let send = async {
                let Some((to, bytes)) = message else { return Ok(()) };
                let done = self.with(to)?.send(tag, bytes).await;
                done.map_err(|error| GroupError::Connection { rank: to.0, error })
            };
            let receive = async {
                let Some(r) = round.receive else { return Ok(None) };
                let got = self.with(r.from)?.receive(tag).await;
                let got = got.map_err(|error| GroupError::Connection { rank: r.from.0, error })?;
                Ok(Some((r, got)))
            };
            let ((), received) = tokio::try_join!(send, receive)?;
            let Some((r, got)) = received else { continue };
            let want = r.elements.len() * size;
            let place = data.get_mut(r.elements.start * size..r.elements.end * size);
            let (Some(place), true) = (place, got.len() == want.max(1)) else {
                return Err(GroupError::Length { rank: r.from.0, got: got.len(), want });
            };
            match r.take {
                Take::Place => place.copy_from_slice(got.get(..want).unwrap_or(&[])),
                Take::Sum => element.add(place, &got),
            }
        }
        Ok(())
    }
}
