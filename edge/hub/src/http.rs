//! The HTTP listener: TLS, connections limited in number, requests limited in size and time.
//!
//! How: a task accepts; each connection does its TLS handshake in a task of its own and is then handed to the server,
//! so that one that is slow holds up no other. The certificate is read again when its file changes.
//! Invariants: at most `connections` are open, of which one address has at most half, and each more is refused and
//! counted; a handshake takes at most [`HANDSHAKE_WITHIN`]; a connection that says nothing for [`IDLE_MAX`] is closed;
//! a body is at most [`BODY_BYTES_MAX`]; a request is answered within [`ANSWER_WITHIN`], a question in SQL within
//! [`QUESTION_WITHIN`].

use crate::config::WebTls;
use crate::error::HubError;
use crate::guard::{By, Guard, stamp};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const BODY_BYTES_MAX: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Questions have a limit of their own, and may take this long.
const QUESTION_WITHIN: Duration = Duration::from_secs(70);
const IDLE_MAX: Duration = Duration::from_secs(60);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// A certificate and its key, read from their files.
fn identity(files: &WebTls) -> Result<rustls::ServerConfig, HubError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|e| HubError::Tls { reason: format!("cannot read {}: {e}", path.display()) })
    };
    let wrong = |path: &std::path::Path, e: &dyn std::fmt::Display| HubError::Tls {
        reason: format!("{}: {e}", path.display()),
    };
    let pem = read(&files.cert)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| wrong(&files.cert, &e))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|e| wrong(&files.key, &e))?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|e| wrong(&files.cert, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificate in force.
#[derive(Clone)]
pub(crate) struct Tls {
    files: WebTls,
    config: Arc<RwLock<Arc<rustls::ServerConfig>>>,
}

impl Tls {
    pub(crate) fn open(files: &WebTls) -> Result<Tls, HubError> {
        let config = Arc::new(RwLock::new(Arc::new(identity(files)?)));
        Ok(Tls { files: files.clone(), config })
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes a renewed certificate when its file changes.
    pub(crate) async fn keep(self) {
        let look = |files: &WebTls| (stamp(&files.cert), stamp(&files.key));
        let mut seen = look(&self.files);
        let mut every = tokio::time::interval(Duration::from_secs(2));
        loop {
            every.tick().await;
            let now = look(&self.files);
            if now == seen {
                continue;
            }
            match identity(&self.files) {
                Ok(config) => {
                    tracing::info!(cert = %self.files.cert.display(), "the certificate is read again");
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    seen = now;
                }
                // Certificate and key are two files: half way between them they do not fit, which is tried again.
                Err(e) => {
                    tracing::warn!(error = %e, "the new certificate cannot be used yet; the old one stays")
                }
            }
        }
    }
}

/// Open connections by address.
type PerAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A place among the open connections, given back when it is dropped.
struct Slot {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    per_address: PerAddress,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = open.get_mut(&self.address) {
            *n -= 1;
            if *n == 0 {
                open.remove(&self.address);
            }
        }
    }
}

fn slot(slots: &Arc<Semaphore>, per_address: &PerAddress, address: IpAddr, most: usize) -> Option<Slot> {
    let permit = Arc::clone(slots).try_acquire_owned().ok()?;
    let mut open = per_address.lock().unwrap_or_else(PoisonError::into_inner);
    let n = open.entry(address).or_default();
    if *n >= most {
        return None;
    }
    *n += 1;
    drop(open);
    Some(Slot { _permit: permit, address, per_address: Arc::clone(per_address) })
}

/// A listener that refuses connections while too many are open.
pub(crate) struct Limited {
    addr: SocketAddr,
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    accepting: JoinHandle<()>,
}

impl Limited {
    pub(crate) fn new(
        mut inner: TcpListener,
        connections: usize,
        tls: Option<Tls>,
        guard: Arc<Guard>,
    ) -> io::Result<Self> {
        let addr = inner.local_addr()?;
        let connections = connections.max(2);
        let slots = Arc::new(Semaphore::new(connections));
        let per_address = PerAddress::default();
        let (to, ready) = mpsc::channel(connections);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, from) = Listener::accept(&mut inner).await;
                let address = from.ip().to_canonical();
                let Some(slot) = slot(&slots, &per_address, address, connections / 2) else {
                    let by = By { address: Some(address), ..By::default() };
                    guard.audit.refused(by, "connect", "HTTP", "too_many_connections");
                    continue;
                };
                let acceptor = tls.as_ref().map(Tls::acceptor);
                let to = to.clone();
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let stream = match acceptor {
                        None => Stream::Plain(stream),
                        Some(acceptor) => {
                            match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                                Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                                // Scanners, plain HTTP, and browsers that do not trust the certificate: every day.
                                Ok(Err(_)) | Err(_) => return,
                            }
                        }
                    };
                    let connection = Connection { stream, idle: Box::pin(sleep(IDLE_MAX)), _slot: slot };
                    // The server has ended.
                    let _ = to.send((connection, from)).await;
                });
            }
        });
        Ok(Limited { addr, ready, accepting })
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The accepting task ends only when this is dropped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From(pub SocketAddr);

impl Connected<IncomingStream<'_, Limited>> for From {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Self {
        From(*stream.remote_addr())
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that ends when it is silent, and gives its slot back when it ends.
pub(crate) struct Connection {
    stream: Stream,
    idle: Pin<Box<Sleep>>,
    _slot: Slot,
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
        let polled = match &mut self.stream {
            Stream::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        };
        match polled {
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
        let polled = match &mut self.stream {
            Stream::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        };
        match polled {
            Poll::Ready(done) => {
                self.busy();
                Poll::Ready(done)
            }
            Poll::Pending => self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
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
