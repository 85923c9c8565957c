//! The HTTP listener: connections limited in number, requests limited in size and time.
//!
//! Invariants: at most [`Limits::connections`] connections are open; a connection that says nothing for
//! [`IDLE_MAX`] is closed; a body is at most [`BODY_BYTES_MAX`]; a request is answered within [`ANSWER_WITHIN`],
//! a question in SQL within [`QUESTION_WITHIN`].

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

const BODY_BYTES_MAX: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Questions have a limit of their own, and may take this long.
const QUESTION_WITHIN: Duration = Duration::from_secs(70);
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A listener that holds back new connections while too many are open.
pub(crate) struct Limited {
    inner: TcpListener,
    slots: Arc<Semaphore>,
}

impl Limited {
    pub(crate) fn new(inner: TcpListener, connections: usize) -> Self {
        Limited { inner, slots: Arc::new(Semaphore::new(connections.max(1))) }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            let (stream, addr) = Listener::accept(&mut self.inner).await;
            // The semaphore is never closed.
            if let Ok(slot) = slot {
                return (Connection { stream, idle: Box::pin(sleep(IDLE_MAX)), _slot: slot }, addr);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when it is silent, and gives its slot back when it ends.
pub(crate) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn busy(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(done) => {
                self.busy();
                Poll::Ready(done)
            }
            Poll::Pending => self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Ready(done) => {
                self.busy();
                Poll::Ready(done)
            }
            Poll::Pending => self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    let within = if request.uri().path() == crate::ask::QUERY { QUESTION_WITHIN } else { ANSWER_WITHIN };
    match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

/// The limits every request goes through.
pub(crate) fn limited(router: Router) -> Router {
    router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(from_fn(in_time))
}
