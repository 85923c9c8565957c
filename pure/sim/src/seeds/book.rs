//! What the application at one end knows: what it sends, what it got, and whether that is right.
//!
//! Invariants: payload is compared where it is placed and once more when its message is whole; nothing outside the places
//! of writes is ever touched.
//! Absent on purpose: time.

use super::{Law, pattern};
use crate::rng::mix;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use wire::transport::{MessageId, RegionId, Target};

/// Between the places of two writes, and before the first.
const GAP: u64 = 5;
/// What nobody wrote to.
const BLANK: u8 = 0xa5;

pub(super) type Wrong = (Law, String);

fn wrong<T>(law: Law, detail: String) -> Result<T, Wrong> {
    Err((law, detail))
}

/// A message of this end.
pub(super) struct Message {
    pub target: Target,
    pub bytes: Vec<u8>,
    pub sent: bool,
}

/// A message of the peer that has begun to arrive.
struct Incoming {
    whole: Vec<u8>,
    have: Vec<bool>,
    placed: u64,
    done: bool,
}

/// The application's books of one end of one connection.
#[derive(Default)]
pub(super) struct Book {
    pub messages: Vec<Message>,
    /// Of them, given to the machine.
    pub started: usize,
    /// Of them, said to be sent.
    pub sent: usize,
    incoming: Vec<Option<Incoming>>,
    /// Messages of the peer that are whole.
    pub received: usize,
    /// Chunks placed.
    pub placed: u64,
    region: Vec<u8>,
}

impl Book {
    /// Books for these messages, `(bytes, write)` each; `key` makes their bytes.
    pub fn new(orders: impl Iterator<Item = (u64, bool)>, key: u64) -> Self {
        let mut offset = GAP;
        let messages = orders
            .enumerate()
            .map(|(i, (len, write))| {
                let key = mix(key ^ i as u64);
                let mut bytes = vec![0; len as usize];
                pattern(key, &mut bytes);
                let target = if write {
                    offset += len + GAP;
                    let offset = offset - len - GAP;
                    Target::Write { region: RegionId((key >> 8) as u32 % 3), offset, immediate: key as u32 }
                } else {
                    Target::Tagged { tag: if key & 1 == 0 { key } else { i as u64 } }
                };
                Message { target, bytes, sent: false }
            })
            .collect();
        Self { messages, ..Self::default() }
    }

    /// Makes the place for the peer's writes.
    pub fn register(&mut self, theirs: &[Message]) {
        let end = |m: &Message| match m.target {
            Target::Write { offset, .. } => offset + m.bytes.len() as u64 + GAP,
            Target::Tagged { .. } => 0,
        };
        self.region = vec![BLANK; theirs.iter().map(end).max().unwrap_or(GAP) as usize];
        self.incoming = theirs.iter().map(|_| None).collect();
    }

    /// Has any of this message arrived?
    pub fn is_begun(&self, id: MessageId) -> bool {
        self.incoming.get(id.0 as usize).is_some_and(Option::is_some)
    }

    /// A chunk is to be placed.
    pub fn place(
        &mut self,
        theirs: &[Message],
        (id, offset, bytes, target): (MessageId, u64, u16, Target),
        payload: &[u8],
        chunk_bytes: u16,
    ) -> Result<(), Wrong> {
        let Some((m, slot)) = theirs.get(id.0 as usize).zip(self.incoming.get_mut(id.0 as usize)) else {
            return wrong(Law::BitEqual, format!("a chunk of message {} which was never sent", id.0));
        };
        if m.target != target || usize::from(bytes) != payload.len() {
            return wrong(
                Law::BitEqual,
                format!("message {}: {target:?}, {bytes} bytes; sent {:?}", id.0, m.target),
            );
        }
        let chunk = u64::from(chunk_bytes.max(1));
        let n = slot.get_or_insert_with(|| Incoming {
            whole: match target {
                Target::Tagged { .. } => vec![0; m.bytes.len()],
                Target::Write { .. } => Vec::new(),
            },
            have: vec![false; (m.bytes.len() as u64).div_ceil(chunk) as usize],
            placed: 0,
            done: false,
        });
        let range = offset as usize..offset as usize + payload.len();
        if m.bytes.get(range.clone()) != Some(payload) {
            return wrong(
                Law::BitEqual,
                format!("message {} at {offset}: {bytes} bytes are not those sent", id.0),
            );
        }
        match n.have.get_mut((offset / chunk) as usize) {
            Some(have) if !*have => *have = true,
            _ => return wrong(Law::ChunkOnce, format!("message {} at {offset}: placed a second time", id.0)),
        }
        n.placed += payload.len() as u64;
        self.placed += 1;
        let to = match target {
            Target::Tagged { .. } => n.whole.get_mut(range),
            Target::Write { offset: at, .. } => {
                let at = at as usize;
                self.region.get_mut(at + range.start..at + range.end)
            }
        };
        match to {
            Some(to) => to.copy_from_slice(payload),
            None => return wrong(Law::BitEqual, format!("message {} at {offset}: outside its place", id.0)),
        }
        Ok(())
    }

    /// A message is said to be whole.
    pub fn complete(
        &mut self,
        theirs: &[Message],
        id: MessageId,
        bytes: u64,
        target: Target,
    ) -> Result<(), Wrong> {
        let m = theirs.get(id.0 as usize);
        let Some((m, n)) = m.zip(self.incoming.get_mut(id.0 as usize).and_then(Option::as_mut)) else {
            return wrong(Law::BitEqual, format!("message {} is whole and nothing of it came", id.0));
        };
        if n.done {
            return wrong(Law::MessageOnce, format!("message {} is whole a second time", id.0));
        }
        n.done = true;
        let got = match target {
            Target::Tagged { .. } => Some(&n.whole[..]),
            Target::Write { offset, .. } => self.region.get(offset as usize..offset as usize + m.bytes.len()),
        };
        if m.target != target
            || bytes != m.bytes.len() as u64
            || n.placed != bytes
            || got != Some(&m.bytes[..])
        {
            return wrong(
                Law::BitEqual,
                format!("message {}: {bytes} bytes whole, {} placed, {} sent", id.0, n.placed, m.bytes.len()),
            );
        }
        self.received += 1;
        Ok(())
    }

    /// A message of this end is said to be sent; `peer` is the book of who received it.
    pub fn told_sent(&mut self, id: MessageId, peer: &Book) -> Result<(), Wrong> {
        let Some(m) = self.messages.get_mut(id.0 as usize) else {
            return wrong(Law::MessageOnce, format!("message {} is sent and nobody sent it", id.0));
        };
        if m.sent {
            return wrong(Law::MessageOnce, format!("message {} is sent a second time", id.0));
        }
        if !peer.incoming.get(id.0 as usize).is_some_and(|n| n.as_ref().is_some_and(|n| n.done)) {
            return wrong(
                Law::SentIsReceived,
                format!("message {} is sent, and its receiver does not have it", id.0),
            );
        }
        m.sent = true;
        self.sent += 1;
        Ok(())
    }

    /// At the end: nothing lies where nothing was written.
    pub fn region_is_clean(&self, theirs: &[Message], chunk_bytes: u16) -> Result<(), Wrong> {
        let mut want = vec![BLANK; self.region.len()];
        for (m, n) in theirs.iter().zip(&self.incoming) {
            let (Target::Write { offset, .. }, Some(n)) = (m.target, n) else { continue };
            let chunks = m.bytes.chunks(usize::from(chunk_bytes.max(1)));
            for (i, (chunk, _)) in chunks.zip(&n.have).enumerate().filter(|(_, (_, have))| **have) {
                let at = offset as usize + i * usize::from(chunk_bytes);
                if let Some(to) = want.get_mut(at..at + chunk.len()) {
                    to.copy_from_slice(chunk);
                }
            }
        }
        if want == self.region {
            Ok(())
        } else {
            wrong(Law::BitEqual, "a region holds what no write put there".into())
        }
    }

    /// Writes of the peer that are whole, and bytes of all messages that are.
    pub fn whole(&self, theirs: &[Message]) -> (u64, u64) {
        let done = theirs.iter().zip(&self.incoming).filter(|(_, n)| n.as_ref().is_some_and(|n| n.done));
        done.fold((0, 0), |(writes, bytes), (m, _)| {
            (writes + u64::from(matches!(m.target, Target::Write { .. })), bytes + m.bytes.len() as u64)
        })
    }
}
