//! How connections come to be: ids, handshakes begun here and answered here, and who gets the connection.
//!
//! Invariants: an id is promised once and given back when nothing came of it.
//! Absent on purpose: what a handshake says ([`crate::handshake`], [`crate::door`]).

use super::{ACCEPTS_MAX, Engine, Entry, Initiating, bytes, index_of, now, plain};
use crate::cipher;
use crate::config::AROUND;
use crate::door::Event as DoorEvent;
use crate::endpoint::Connected;
use crate::error::EndpointError;
use crate::handshake::{Established, Handshake};
use crate::slot::{Reply, Slot, answer, planes};
use crate::steer::OUTER_BYTES;
use crate::trace::{TraceEvent, Traced};
use std::net::SocketAddrV6;
use wire::Nanos;
use wire::transport::ConnectionId;
use wire::transport::hello::{Hello, Parameters};

impl Engine {
    pub(super) fn reserve(&mut self) -> Option<(u16, ConnectionId)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.config.connections_max.min(1 << 16) => {
                self.slots.push(Entry::Free);
                (self.slots.len() - 1) as u16
            }
            None => return None,
        };
        let [a, b] = bytes(&self.random);
        let id = ConnectionId(u32::from_be_bytes([a, b, (index >> 8) as u8, index as u8]));
        if let Some(entry) = self.slots.get_mut(usize::from(index)) {
            *entry = Entry::Reserved(id);
        }
        Some((index, id))
    }

    pub(super) fn release(&mut self, index: u16) {
        if let Some(entry) = self.slots.get_mut(usize::from(index))
            && !matches!(entry, Entry::Free)
        {
            *entry = Entry::Free;
            self.free.push(index);
        }
    }

    pub(super) fn parameters(&self, connection: ConnectionId) -> Parameters {
        Parameters {
            connection,
            datagram_bytes_max: self.config.datagram_bytes_max,
            evs: self.config.transport.evs.max(1),
            ciphers: cipher::preferred(self.config.trusted),
            addresses: self.config.addresses.clone(),
        }
    }

    pub(super) fn connect(&mut self, now: Nanos, to: SocketAddrV6, peer: &str, reply: Reply<Connected>) {
        let Some((index, connection)) = self.reserve() else {
            return answer(reply, Err(EndpointError::TooManyConnections { open: self.slots.len() }));
        };
        let id = u64::from_be_bytes(bytes(&self.random));
        let ours = self.parameters(connection);
        match Handshake::initiate(now, &self.identity, peer, ours, id, self.config.timing) {
            Ok(handshake) => {
                self.stirred = true;
                self.initiating.insert(id, Initiating { handshake, to, index, reply: Some(reply) });
            }
            Err(error) => {
                self.release(index);
                answer(reply, Err(EndpointError::Handshake(error)));
            }
        }
    }

    pub(super) fn open(&mut self, to: SocketAddrV6, established: &Established) -> Option<Connected> {
        let id = established.ours.connection;
        let fits = self.fits(to, established);
        let entry = self.slots.get_mut(index_of(id) as usize)?;
        if !matches!(entry, Entry::Reserved(reserved) if *reserved == id) {
            return None;
        }
        let random = u64::from_be_bytes(bytes(&self.random));
        let mut slot = Slot::new(id, to, established, &self.config, random, fits);
        if let Some(observer) = &self.observer {
            slot.steer(&observer.steering, random as u32);
        }
        if self.trace.is_some() {
            let opened = TraceEvent::Opened {
                peer: slot.peer.clone(),
                remote: to.to_string(),
                evs: slot.machine.evs(),
                chunk_bytes: slot.machine.config().chunk_bytes,
                cipher: format!("{:?}", established.cipher),
            };
            let group = format!("{}/{:08x}", self.identity.name(), id.0);
            slot.traced = Some(Box::new(Traced::new(now(), group, opened)));
        }
        let connected = Connected { connection: id, to, peer: slot.peer.clone(), cipher: established.cipher };
        *entry = Entry::Open(Box::new(slot));
        self.counters.opened += 1;
        Some(connected)
    }

    /// The longest datagram there is room for on the way to every address of the peer.
    fn fits(&self, to: SocketAddrV6, established: &Established) -> u16 {
        let outer =
            self.observer.as_ref().filter(|o| o.steering.is_exact()).map_or(0, |_| OUTER_BYTES as u32);
        let mut least = u32::from(u16::MAX);
        for (_, to) in planes(to, established) {
            match self.path_mtu.to(&to) {
                Ok(mtu) => least = least.min(mtu.saturating_sub(u32::from(AROUND) + outer)),
                // a plane without a route is dead, whatever fits it
                Err(error) => tracing::debug!(%error, %to, "no route to a peer's address"),
            }
        }
        let fits = u16::try_from(least).unwrap_or(u16::MAX);
        if fits < self.config.datagram_bytes_max {
            let (wanted, peer) = (self.config.datagram_bytes_max, &established.peer);
            tracing::info!(peer, fits, wanted, "the path's MTU makes for shorter datagrams than configured");
        }
        fits
    }

    pub(super) fn hand_out(&mut self) {
        while !self.accepts.is_empty() {
            let Some(reply) = self.accepters.pop_front() else { return };
            if reply.is_closed() {
                continue;
            }
            if let Some(connected) = self.accepts.pop_front() {
                answer(reply, Ok(connected));
            }
        }
    }

    pub(super) fn hello(&mut self, now: Nanos, from: SocketAddrV6, datagram: &[u8]) {
        if let Ok((hello, _)) = Hello::read(datagram)
            && hello.answer
        {
            match self.initiating.get_mut(&hello.id).filter(|i| i.to == from) {
                Some(i) => {
                    let _ = i.handshake.handle_input(now, datagram);
                    self.look_at(hello.id);
                }
                None => self.counters.rejected += 1,
            }
            return;
        }
        // an id is promised only where the door opens a handshake
        let reserved = self.reserve();
        let ours = reserved.map(|(_, connection)| self.parameters(connection));
        let opened = self.door.counters().opened;
        self.door.handle_input(now, from, datagram, || ours);
        if let Some((index, _)) = reserved
            && self.door.counters().opened == opened
        {
            self.release(index);
        }
        self.listen();
    }

    /// Takes a look at a handshake we began.
    pub(super) fn look_at(&mut self, id: u64) {
        let Some(i) = self.initiating.get_mut(&id) else { return };
        let result = match (i.handshake.take(), i.handshake.failure()) {
            (Some(established), _) => Ok(established),
            (None, Some(error)) => Err(error),
            (None, None) => return,
        };
        // its last words
        while i.handshake.poll_output(self.out.buffer()) {
            let end = self.out.buffer().len();
            self.out.close(plain(i.to, &mut self.turn), 0, end);
        }
        let Some(i) = self.initiating.remove(&id) else { return };
        let connected = match result {
            Ok(established) => self.open(i.to, &established).ok_or(EndpointError::Ended),
            Err(error) => {
                self.release(i.index);
                Err(EndpointError::Handshake(error))
            }
        };
        if let Some(reply) = i.reply {
            let id = connected.as_ref().ok().map(|c| c.connection);
            if reply.send(connected).is_err()
                && let Some(slot) = id.and_then(|id| self.slot(id))
            {
                slot.abort();
            }
        }
    }

    /// Hears what happened at the door.
    pub(super) fn listen(&mut self) {
        while let Some(event) = self.door.poll_event() {
            match event {
                DoorEvent::Established { from, established } => {
                    if let Some(connected) = self.open(from, &established) {
                        if self.accepts.len() >= ACCEPTS_MAX {
                            if let Some(slot) = self.slot(connected.connection) {
                                slot.abort();
                            }
                            self.touched.push(index_of(connected.connection));
                            continue;
                        }
                        self.accepts.push_back(connected);
                        self.hand_out();
                    }
                }
                DoorEvent::Failed { from, connection, error } => {
                    tracing::info!(%from, %error, "a handshake failed");
                    self.release(index_of(connection));
                }
            }
        }
    }
}
