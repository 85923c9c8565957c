//! Flows from UDP: a thread that takes datagrams in bulk, decodes them into columns, and hands the columns on.
//!
//! How: the thread waits for datagrams, decodes each straight into the columns at hand ([`wire::flow`]), and hands these
//! over when they are full or old, by a bounded channel; who takes them gives the emptied columns back. Nothing here
//! waits for a disk: where the taker is slow the columns are dropped and counted.
//! Invariants: sent = handed over + counted, where every datagram the kernel dropped, every record and every exporter's
//! gap stands in [`Tally`]; memory is bounded by the channel and [`wire::flow::Limits`].
//! Absent on purpose: who an exporter is in the fabric, and tables.

use kernel::intake::Intake;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::Nanos;
use wire::flow::{Beside, Counts, Decoder, Exporter, FlowColumns, Limits};

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where datagrams come. Each takes all protocols.
    pub listen: Vec<SocketAddr>,
    /// Receive buffer of each socket, bytes, default 32 MiB; less where the system does not allow it.
    pub receive_bytes: usize,
    /// Records handed over together at most, default 262,144.
    pub rows: usize,
    /// And at least so often, default 2 s.
    pub every: Duration,
    /// Columns on their way, default 4.
    pub queue: usize,
    /// What may be held of exporters.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: Vec::new(),
            receive_bytes: 32 << 20,
            rows: 262_144,
            every: Duration::from_secs(2),
            queue: 4,
            limits: Limits::default(),
        }
    }
}

/// At a stop, how long what waits in the sockets is still taken.
const DRAIN: Duration = Duration::from_secs(2);

/// What is handed over.
#[derive(Debug, Default)]
pub struct Taken {
    /// Flow records.
    pub flows: FlowColumns,
    /// Counters and drops.
    pub beside: Beside,
    /// Exporters met for the first time.
    pub met: Vec<Exporter>,
    /// What is known of exporters, where it changed: to be kept, for the next start.
    pub state: Option<Vec<u8>>,
}

/// What was counted since the start, whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of the decoder.
    pub decoded: Counts,
    /// Datagrams that were too long to be taken.
    pub too_long: u64,
    /// Datagrams the kernel had no room for.
    pub kernel_dropped: u64,
    /// Records that were dropped because the taker was slow.
    pub records_dropped: u64,
}

/// Counts of one thread, shared.
#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    too_long: AtomicU64,
    kernel_dropped: AtomicU64,
    records_dropped: AtomicU64,
    stop: AtomicBool,
}

/// Why there is no receiver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The socket cannot be had.
    #[error("cannot receive flows at {at}: {error}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// What the kernel said.
        error: kernel::Error,
    },
    /// A thread cannot be had.
    #[error("cannot start a thread for flows: {0}")]
    Thread(String),
    /// What was kept of exporters is none.
    #[error("what was kept of exporters cannot be read: {0}")]
    State(wire::flow::Refused),
}

/// Receives until it is dropped.
#[derive(Debug)]
pub struct Flows {
    /// Where it listens, in the order of the settings.
    pub bound: Vec<SocketAddr>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The other end of a receiver: columns in, emptied columns back.
#[derive(Debug)]
pub struct Taker {
    taken: Receiver<Taken>,
    back: Sender<Taken>,
}

impl Taker {
    /// The next columns; `None` once the receiver has ended.
    pub fn next(&self) -> Option<Taken> {
        self.taken.recv().ok()
    }

    /// The next columns, if they come in time.
    pub fn next_within(&self, wait: Duration) -> Option<Taken> {
        self.taken.recv_timeout(wait).ok()
    }

    /// Gives columns back to be filled again.
    pub fn give_back(&self, taken: Taken) {
        let _ = self.back.send(taken);
    }
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

impl Flows {
    /// Binds every socket and starts the thread. `state`: what was kept of exporters.
    pub fn start(config: &Config, state: Option<&[u8]>) -> Result<(Flows, Taker), FlowError> {
        let decoder = match state {
            Some(bytes) => Decoder::from_bytes(config.limits, bytes).map_err(FlowError::State)?,
            None => Decoder::new(config.limits),
        };
        let mut sockets = Vec::with_capacity(config.listen.len());
        for &at in &config.listen {
            let listen = |error| FlowError::Listen { at, error };
            let socket = Intake::bind(at, config.receive_bytes).map_err(listen)?;
            // With several sockets each is looked at in turn, so none may hold up the others for long.
            let patience = Duration::from_millis(if config.listen.len() == 1 { 100 } else { 5 });
            socket.set_patience(patience).map_err(listen)?;
            if socket.receive_bytes() < config.receive_bytes {
                tracing::warn!(
                    %at,
                    bytes = socket.receive_bytes(),
                    wanted = config.receive_bytes,
                    "the receive buffer is smaller than wanted: bursts of flows may be lost (net.core.rmem_max)"
                );
            }
            sockets.push(socket);
        }
        let bound = sockets.iter().filter_map(Intake::local).collect();
        let shared = Arc::new(Shared::default());
        let (out, taken) = sync_channel(config.queue.max(1));
        let (back, emptied) = channel();
        let worker = Worker {
            config: config.clone(),
            sockets,
            decoder,
            shared: Arc::clone(&shared),
            out,
            emptied,
            failing: false,
        };
        let thread = std::thread::Builder::new().name("flows".to_owned()).spawn(move || worker.run());
        let thread = thread.map_err(|e| FlowError::Thread(e.to_string()))?;
        Ok((Flows { bound, shared, thread: Mutex::new(Some(thread)) }, Taker { taken, back }))
    }

    /// What was counted.
    pub fn tally(&self) -> Tally {
        Tally {
            decoded: *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner),
            too_long: self.shared.too_long.load(Relaxed),
            kernel_dropped: self.shared.kernel_dropped.load(Relaxed),
            records_dropped: self.shared.records_dropped.load(Relaxed),
        }
    }

    /// Stops receiving; what was taken is handed over, after which the taker's [`Taker::next`] ends.
    pub fn stop(&self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    config: Config,
    sockets: Vec<Intake>,
    decoder: Decoder,
    shared: Arc<Shared>,
    out: SyncSender<Taken>,
    emptied: Receiver<Taken>,
    /// The last receive failed, and it was said.
    failing: bool,
}

impl Worker {
    fn run(mut self) {
        let mut taken = Taken::default();
        let mut handed = Instant::now();
        while !self.shared.stop.load(Relaxed) {
            self.receive(&mut taken);
            if self.is_full(&taken) || handed.elapsed() >= self.config.every {
                handed = Instant::now();
                taken = self.hand_over(taken);
            }
        }
        // What came before the stop still waits in the sockets.
        let stopping = Instant::now();
        while self.receive(&mut taken) > 0 && stopping.elapsed() < DRAIN {
            if self.is_full(&taken) {
                taken = self.hand_over(taken);
            }
        }
        self.hand_over(taken);
    }

    fn is_full(&self, taken: &Taken) -> bool {
        let beside = taken.beside.counters.len() + taken.beside.drops.len();
        taken.flows.rows() >= self.config.rows || beside >= self.config.rows
    }

    /// Takes a batch from each socket; how many datagrams.
    fn receive(&mut self, taken: &mut Taken) -> usize {
        let mut all = 0;
        for socket in &mut self.sockets {
            match socket.wait() {
                Ok(n) => all += n,
                Err(error) => {
                    if !self.failing {
                        tracing::error!(%error, "flows cannot be received at the moment");
                    }
                    self.failing = true;
                    // Not a busy loop over a socket that is broken.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            }
            self.failing = false;
            let now = now();
            for (from, bytes) in socket.iter() {
                let Some(bytes) = bytes else {
                    self.shared.too_long.fetch_add(1, Relaxed);
                    continue;
                };
                let address = match from.ip() {
                    IpAddr::V4(a) => a.to_ipv6_mapped(),
                    IpAddr::V6(a) => a,
                };
                // What it is counted as stands in the decoder's counts.
                let _ =
                    self.decoder.datagram(now, address.octets(), bytes, &mut taken.flows, &mut taken.beside);
            }
        }
        all
    }

    fn hand_over(&mut self, mut taken: Taken) -> Taken {
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.decoder.counts();
        let dropped = self.sockets.iter_mut().filter_map(|s| s.dropped().ok()).sum();
        self.shared.kernel_dropped.store(dropped, Relaxed);
        taken.met.extend(self.decoder.met());
        if self.decoder.has_changed() {
            taken.state = Some(self.decoder.to_bytes());
        }
        let empty = taken.flows.rows() == 0 && taken.beside == Beside::default();
        if empty && taken.met.is_empty() && taken.state.is_none() {
            return taken;
        }
        match self.out.try_send(taken) {
            Ok(()) => {}
            Err(TrySendError::Full(mut back) | TrySendError::Disconnected(mut back)) => {
                let lost = back.flows.rows() + back.beside.counters.len() + back.beside.drops.len();
                self.shared.records_dropped.fetch_add(lost as u64, Relaxed);
                back.flows.clear();
                back.beside = Beside::default();
                // Who was met and what is known go with the next.
                return back;
            }
        }
        let mut fresh = self.emptied.try_recv().unwrap_or_default();
        fresh.flows.clear();
        fresh.beside = Beside::default();
        fresh.met.clear();
        fresh.state = None;
        fresh
    }
}
