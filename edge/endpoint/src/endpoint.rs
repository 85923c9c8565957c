//! The facade: an [`Endpoint`] on a socket, [`Connection`]s to other hosts, messages and regions.
//!
//! How: what is asked is done at once by who asks, or by whoever drives the endpoint at the moment ([`crate::driver`]);
//! the answer comes back to whoever awaits it, on tokio or any other executor. Who blocks instead of awaiting drives the
//! endpoint itself while it waits, so that no other thread stands between a packet and the caller.
//!
//! Invariants: a connection that is dropped is closed; an endpoint that is dropped ends its thread, and everybody who
//! waits is told.
//! Absent on purpose: streams. Messages are whole, and of any order.

use crate::config::Config;
use crate::driver::{PATIENCE, Shared};
use crate::engine::{DoorCounters, Engine};
use crate::error::EndpointError;
use crate::identity::Identity;
use crate::slot::{ConnectionCounters, Reply, Slot, Written, answer};
use kernel::udp::{Offered, PathMtu, UdpOptions, UdpSocket};
use ring::rand::{SecureRandom, SystemRandom};
use std::net::SocketAddrV6;
use std::sync::Arc;
use wire::Nanos;
use wire::transport::protection::Cipher;
use wire::transport::{ConnectionId, RegionId, Target};

/// What an endpoint counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received.
    pub datagrams: u64,
    /// Of them, what nobody could read, or nobody waited for.
    pub rejected: u64,
    /// Of them, of connections nobody here knows.
    pub unknown: u64,
    /// Bursts and single packets the kernel took.
    pub bursts: u64,
    /// Of those, refused by the kernel for good.
    pub refused: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections closed and forgotten.
    pub forgotten: u64,
    /// EVs are exact paths.
    pub exact_paths: bool,
    /// Observations of paths the agent was told.
    pub observations: u64,
    /// Observations it did not take.
    pub observations_dropped: u64,
    /// Handshakes of others.
    pub door: DoorCounters,
    /// What the kernel offers.
    pub offered: Offered,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            datagrams: 0,
            rejected: 0,
            unknown: 0,
            bursts: 0,
            refused: 0,
            opened: 0,
            forgotten: 0,
            exact_paths: false,
            observations: 0,
            observations_dropped: 0,
            door: DoorCounters::default(),
            offered: Offered::ALL,
        }
    }
}

/// A connection that was made.
#[derive(Debug)]
pub(crate) struct Connected {
    pub connection: ConnectionId,
    pub to: SocketAddrV6,
    pub peer: String,
    pub cipher: Cipher,
}

/// A wish about one connection.
pub(crate) enum Wish {
    Send { target: Target, bytes: Vec<u8>, reply: Reply<()> },
    Receive { tag: u64, reply: Reply<Vec<u8>> },
    Register { region: RegionId, bytes: Vec<u8>, reply: Reply<()> },
    Unregister { region: RegionId, reply: Reply<Vec<u8>> },
    Watch { reply: Reply<Written> },
    Counters { reply: Reply<ConnectionCounters> },
    UpdateKeys { reply: Reply<bool> },
    Close { reply: Reply<()> },
    Abandon,
}

impl Wish {
    /// Carries it out. True where the state machine may have something to say now.
    pub fn apply(self, now: Nanos, slot: &mut Slot) -> bool {
        if let Wish::Receive { tag, reply } = self {
            slot.receive(tag, reply);
            return false;
        }
        match self {
            Wish::Receive { .. } => {}
            Wish::Send { target, bytes, reply } => slot.send(now, target, bytes, reply),
            Wish::Register { region, bytes, reply } => answer(reply, slot.register(region, bytes)),
            Wish::Unregister { region, reply } => answer(reply, slot.unregister(region)),
            Wish::Watch { reply } => slot.watch(reply),
            Wish::Counters { reply } => answer(reply, Ok(slot.counters())),
            Wish::UpdateKeys { reply } => answer(reply, Ok(slot.update_keys(now))),
            Wish::Close { reply } => slot.close(reply),
            Wish::Abandon => slot.abort(),
        }
        true
    }

    pub fn refuse(self, error: EndpointError) {
        match self {
            Wish::Send { reply, .. } | Wish::Register { reply, .. } | Wish::Close { reply } => {
                answer(reply, Err(error));
            }
            Wish::Receive { reply, .. } | Wish::Unregister { reply, .. } => answer(reply, Err(error)),
            Wish::Watch { reply } => answer(reply, Err(error)),
            Wish::Counters { reply } => answer(reply, Err(error)),
            Wish::UpdateKeys { reply } => answer(reply, Err(error)),
            Wish::Abandon => {}
        }
    }
}

/// What the engine is asked.
pub(crate) enum Command {
    Connect { to: SocketAddrV6, peer: String, reply: Reply<Connected> },
    Accept { reply: Reply<Connected> },
    Counters { reply: Reply<Counters> },
    Of { connection: ConnectionId, wish: Wish },
    Stop,
}

impl Command {
    /// Does it end something?
    pub fn ends(&self) -> bool {
        matches!(self, Command::Stop | Command::Of { wish: Wish::Abandon, .. })
    }

    pub fn refuse(self) {
        match self {
            Command::Connect { reply, .. } | Command::Accept { reply } => {
                answer(reply, Err(EndpointError::Ended))
            }
            Command::Counters { reply } => answer(reply, Err(EndpointError::Ended)),
            Command::Of { wish, .. } => wish.refuse(EndpointError::Ended),
            Command::Stop => {}
        }
    }
}

/// A host's end of the transport: one socket, any number of connections.
pub struct Endpoint {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
    local: SocketAddrV6,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint on an address of the calling thread's network namespace; port 0 chooses one.
    pub fn bind(addr: SocketAddrV6, identity: Identity, config: Config) -> Result<Endpoint, EndpointError> {
        SystemRandom::new().fill(&mut [0; 8]).map_err(|_| EndpointError::NoRandom)?;
        let options = UdpOptions {
            receive_bytes: config.buffer_bytes,
            send_bytes: config.buffer_bytes,
            hop_by_hop: false,
            hop_limit: false,
            timestamps: false,
        };
        let socket = UdpSocket::bind(addr, options)?;
        socket.use_everything();
        let local = SocketAddrV6::new(*addr.ip(), socket.port()?, 0, addr.scope_id());
        socket.set_patience(PATIENCE)?;
        let shared = Arc::new(Shared::new(Engine::new(socket, PathMtu::new()?, identity, config))?);
        let tended = shared.clone();
        let thread = std::thread::Builder::new()
            .name("selvedge-endpoint".to_owned())
            .spawn(move || tended.tend())
            .map_err(|e| EndpointError::Thread { errno: e.into() })?;
        Ok(Endpoint { shared, thread: Some(thread), local })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddrV6 {
        self.local
    }

    /// Connects to the host whose certificate says `peer`.
    pub async fn connect(&self, to: SocketAddrV6, peer: &str) -> Result<Connection, EndpointError> {
        let peer = peer.to_owned();
        let connected = self.shared.request(|reply| Command::Connect { to, peer, reply }).await?;
        Ok(Connection { shared: self.shared.clone(), connected })
    }

    /// The next connection somebody made to this host.
    pub async fn accept(&self) -> Result<Connection, EndpointError> {
        let connected = self.shared.request(|reply| Command::Accept { reply }).await?;
        Ok(Connection { shared: self.shared.clone(), connected })
    }

    /// What was counted.
    pub async fn counters(&self) -> Result<Counters, EndpointError> {
        self.shared.request(|reply| Command::Counters { reply }).await
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.ask(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // it ends within one turn of its loop; a panic in it was reported by its own hook
            let _ = thread.join();
        }
    }
}

/// A connection to another host.
pub struct Connection {
    shared: Arc<Shared>,
    connected: Connected,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.connected.fmt(f)
    }
}

impl Connection {
    /// The name in the peer's certificate.
    pub fn peer(&self) -> &str {
        &self.connected.peer
    }
    /// Where the peer is.
    pub fn peer_addr(&self) -> SocketAddrV6 {
        self.connected.to
    }
    /// How packets are protected.
    pub fn cipher(&self) -> Cipher {
        self.connected.cipher
    }

    async fn wish<T>(&self, wish: impl FnOnce(Reply<T>) -> Wish) -> Result<T, EndpointError> {
        let connection = self.connected.connection;
        self.shared.request(|reply| Command::Of { connection, wish: wish(reply) }).await
    }

    fn block<T>(&self, wish: impl FnOnce(Reply<T>) -> Wish) -> Result<T, EndpointError> {
        let connection = self.connected.connection;
        self.shared.block(|reply| Command::Of { connection, wish: wish(reply) })
    }

    /// Sends a message of at least one byte to whoever receives with this tag, and waits for nothing: it arrives unless
    /// the connection ends before ([`Connection::close`] waits for it, dropping does not). What is refused at once is said.
    pub fn post(&self, tag: u64, bytes: Vec<u8>) -> Result<(), EndpointError> {
        let connection = self.connected.connection;
        self.shared.with(|engine, now| engine.post(now, connection, Target::Tagged { tag }, bytes))?
    }

    /// [`Connection::send`] for threads that block. Meanwhile this thread drives the endpoint, if no other one does.
    pub fn send_blocking(&self, tag: u64, bytes: Vec<u8>) -> Result<(), EndpointError> {
        self.block(|reply| Wish::Send { target: Target::Tagged { tag }, bytes, reply })
    }

    /// [`Connection::receive`] for threads that block; likewise. With [`Connection::post`] it is the fastest way to talk:
    /// no other thread stands between a packet and the caller.
    pub fn receive_blocking(&self, tag: u64) -> Result<Vec<u8>, EndpointError> {
        self.block(|reply| Wish::Receive { tag, reply })
    }

    /// Sends a message of at least one byte to whoever receives with this tag. Done when the peer has all of it.
    pub async fn send(&self, tag: u64, bytes: Vec<u8>) -> Result<(), EndpointError> {
        self.wish(|reply| Wish::Send { target: Target::Tagged { tag }, bytes, reply }).await
    }

    /// The next message with this tag. Messages of one tag come in the order they are complete. Who gives up waiting may
    /// lose a message that is being handed over.
    pub async fn receive(&self, tag: u64) -> Result<Vec<u8>, EndpointError> {
        self.wish(|reply| Wish::Receive { tag, reply }).await
    }

    /// Lets the peer write into `bytes` under this number.
    pub async fn register(&self, region: RegionId, bytes: Vec<u8>) -> Result<(), EndpointError> {
        self.wish(|reply| Wish::Register { region, bytes, reply }).await
    }

    /// Takes a region back, with what was written into it.
    pub async fn unregister(&self, region: RegionId) -> Result<Vec<u8>, EndpointError> {
        self.wish(|reply| Wish::Unregister { region, reply }).await
    }

    /// Writes at least one byte into a region of the peer's. Done when all of it is there.
    pub async fn write(
        &self,
        region: RegionId,
        offset: u64,
        bytes: Vec<u8>,
        immediate: u32,
    ) -> Result<(), EndpointError> {
        let target = Target::Write { region, offset, immediate };
        self.wish(|reply| Wish::Send { target, bytes, reply }).await
    }

    /// The next write of the peer's that is complete. Likewise.
    pub async fn written(&self) -> Result<Written, EndpointError> {
        self.wish(|reply| Wish::Watch { reply }).await
    }

    /// Changes to new keys now, which happens by itself after so many packets. False where the peer has not confirmed
    /// the ones in use yet, or they are younger than two seconds.
    pub async fn update_keys(&self) -> Result<bool, EndpointError> {
        self.wish(|reply| Wish::UpdateKeys { reply }).await
    }

    /// What was counted.
    pub async fn counters(&self) -> Result<ConnectionCounters, EndpointError> {
        self.wish(|reply| Wish::Counters { reply }).await
    }

    /// Closes it when everything sent has arrived.
    pub async fn close(self) -> Result<(), EndpointError> {
        self.wish(|reply| Wish::Close { reply }).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let connection = self.connected.connection;
        self.shared.ask(Command::Of { connection, wish: Wish::Abandon });
    }
}
