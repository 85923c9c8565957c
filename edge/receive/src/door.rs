//! Doors: what runs for a receiver, and connections that are bounded in number and idle time.
//!
//! Invariants: at most so many connections at a time, each more is closed at once and counted; a connection on which
//! nothing comes for [`IDLE_MAX`] is closed; what runs ends with the [`Running`] that holds it.
//! Absent on purpose: encryption, which each receiver does by what its protocol has.

use crate::error::ReceiveError;
use crate::intake::Intake;
use crate::rows::{Dropped, Receiver};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;

/// A connection that says nothing for this long is closed.
pub const IDLE_MAX: Duration = Duration::from_secs(600);

/// A receiver that runs, until this is dropped.
#[derive(Debug, Default)]
pub struct Running {
    /// Where it listens, with a word for each door.
    pub addresses: Vec<(&'static str, SocketAddr)>,
    tasks: Vec<JoinHandle<()>>,
    threads: Vec<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

impl Running {
    /// The address of a door.
    pub fn address(&self, door: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(d, _)| *d == door).map(|(_, a)| *a)
    }
    pub(crate) fn add(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }
}

impl Running {
    /// A thread that ends soon after its flag is set.
    pub(crate) fn add_thread(
        &mut self,
        name: &str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> io::Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&flag))?;
        self.threads.push((stop, thread));
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.threads.iter().for_each(|(stop, _)| stop.store(true, Relaxed));
        for (_, thread) in self.threads.drain(..) {
            // It ended by itself, or a panic in it was reported.
            let _ = thread.join();
        }
    }
}

/// Listens on an address.
pub(crate) async fn listen(
    what: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ReceiveError> {
    let wrong = |e: io::Error| ReceiveError::Listen { what, address, reason: e.to_string() };
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

/// A connection among so many.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// Accepts connections, at most so many at a time, for as long as somebody takes them.
pub(crate) fn connections(
    running: &mut Running,
    listener: TcpListener,
    most: usize,
    intake: Arc<Intake>,
    receiver: Receiver,
) -> ReceiverStream<io::Result<Connection>> {
    let (put, take) = mpsc::channel(16);
    let slots = Arc::new(Semaphore::new(most));
    running.add(async move {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(new) => new,
                Err(e) => {
                    // Out of file descriptors, most likely: a moment later some are free again.
                    tracing::warn!(error = %e, receiver = receiver.name(), "a connection cannot be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&slots).try_acquire_owned() else {
                intake.dropped(receiver, Dropped::TooMany, 1);
                continue;
            };
            let _ = stream.set_nodelay(true);
            let idle = Box::pin(sleep(IDLE_MAX));
            if put.send(Ok(Connection { stream, peer, idle, _permit: permit })).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(take)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(done) => {
                if buf.filled().len() > before {
                    self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
                }
                Poll::Ready(done)
            }
            Poll::Pending => match self.idle.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = SocketAddr;
    fn connect_info(&self) -> SocketAddr {
        self.peer
    }
}
