//! UDP over IPv6 in batches, with what the kernel knows of each packet: when it arrived, to which address, with which
//! traffic class, flow label, hop limit and hop-by-hop header.
//!
//! How: one `recvmmsg` or `sendmmsg` moves up to [`BATCH`] packets; buffers are made once. What is wanted for a packet
//! to send (source address, traffic class, flow label) goes along as control messages.
//!
//! Kernels lack some of it: [`UdpSocket::offered`] says what there is, and whatever is missing is done without it.
//!
//! Invariants: nothing blocks but [`UdpSocket::wait`]; a packet longer than its buffer is marked, not silently cut.
//! Absent on purpose: transmit time stamps. Reading them back costs a system call a packet.

mod outgoing;
mod received;
#[cfg(test)]
mod tests;

pub use outgoing::{Outgoing, Route};
pub use received::{Datagram, Received};

use crate::Result;
use crate::error::check;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Packets moved by one system call.
pub const BATCH: usize = 64;
/// Datagrams every kernel with UDP_SEGMENT takes together (UDP_MAX_SEGMENTS; twice as many since Linux 6.9).
pub const SEGMENTS_MAX: usize = 64;
/// Bytes the kernel takes together at most: an IPv6 payload less the UDP header.
pub const BURST_BYTES_MAX: usize = 65_527;

/// What a socket is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Receive buffer, bytes. More than the system's limit needs CAP_NET_ADMIN and is else cut to it.
    pub receive_bytes: usize,
    /// Send buffer, bytes; likewise.
    pub send_bytes: usize,
    /// Ask for hop-by-hop headers of packets received.
    pub hop_by_hop: bool,
    /// Ask for hop limits of packets received.
    pub hop_limit: bool,
    /// Ask when packets were received.
    pub timestamps: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        UdpOptions {
            receive_bytes: 4 << 20,
            send_bytes: 1 << 20,
            hop_by_hop: true,
            hop_limit: true,
            timestamps: true,
        }
    }
}

pub(crate) fn set<T>(fd: BorrowedFd<'_>, call: &'static str, level: i32, name: i32, value: &T) -> Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` readable bytes for the length of the call; the kernel copies them.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    check(call, done).map(drop)
}

/// A new socket in the network namespace of this thread, closed on exec.
pub(crate) fn socket(call: &'static str, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: socket takes plain numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET6, kind | libc::SOCK_CLOEXEC, protocol) };
    check(call, fd)?;
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets buffer sizes, past the system's limit where allowed.
pub(crate) fn buffers(fd: BorrowedFd<'_>, receive: usize, send: usize) -> Result<()> {
    let sides =
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send)];
    for (force, plain, bytes) in sides {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        if set(fd, "setsockopt(SO_*BUFFORCE)", libc::SOL_SOCKET, force, &bytes).is_err() {
            set(fd, "setsockopt(SO_*BUF)", libc::SOL_SOCKET, plain, &bytes)?;
        }
    }
    Ok(())
}

/// Asks for everything there is to know of packets received.
pub(crate) fn ask(fd: BorrowedFd<'_>, options: UdpOptions) -> Result<()> {
    if options.timestamps {
        set(fd, "setsockopt(SO_TIMESTAMPNS)", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)?;
    }
    let v6 = libc::IPPROTO_IPV6;
    set(fd, "setsockopt(IPV6_RECVPKTINFO)", v6, libc::IPV6_RECVPKTINFO, &1i32)?;
    // traffic class and flow label in one
    set(fd, "setsockopt(IPV6_FLOWINFO)", v6, libc::IPV6_FLOWINFO, &1i32)?;
    if options.hop_limit {
        set(fd, "setsockopt(IPV6_RECVHOPLIMIT)", v6, libc::IPV6_RECVHOPLIMIT, &1i32)?;
    }
    if options.hop_by_hop {
        set(fd, "setsockopt(IPV6_RECVHOPOPTS)", v6, libc::IPV6_RECVHOPOPTS, &1i32)?;
    }
    Ok(())
}

/// Asks the kernel how long packets to somewhere may be: the route's MTU, or less where a router on the way said so
/// (Packet Too Big, RFC 8201).
#[derive(Debug)]
pub struct PathMtu {
    fd: OwnedFd,
}

impl PathMtu {
    /// For destinations as seen from the network namespace of this thread. Nothing is ever sent or received.
    pub fn new() -> Result<PathMtu> {
        Ok(PathMtu { fd: socket("socket(UDP)", libc::SOCK_DGRAM, 0)? })
    }

    /// Bytes of an IPv6 packet that reach `to`, as far as the kernel knows. An error where there is no route.
    pub fn to(&self, to: &SocketAddrV6) -> Result<u32> {
        let addr = sockaddr(to);
        let len = size_of_val(&addr) as libc::socklen_t;
        // SAFETY: `addr` is an IPv6 socket address of `len` bytes that outlives the call.
        let done = unsafe { libc::connect(self.fd.as_raw_fd(), std::ptr::from_ref(&addr).cast(), len) };
        check("connect(UDP)", done)?;
        let (mut mtu, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: `mtu` is `len` writable bytes, `len` is writable, both for the length of the call.
        let done = unsafe {
            let (mtu, len) = (std::ptr::from_mut(&mut mtu), std::ptr::from_mut(&mut len));
            libc::getsockopt(self.fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU, mtu.cast(), len)
        };
        check("getsockopt(IPV6_MTU)", done)?;
        Ok(mtu.unsigned_abs())
    }
}

/// What a kernel offers a socket beyond the plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Several datagrams in one send (UDP_SEGMENT, Linux 4.18). Else each goes by itself.
    pub segment: bool,
    /// Several datagrams in one receive (UDP_GRO, Linux 5.0). Else each comes by itself.
    pub coalesce: bool,
    /// A flow label for each packet. Else the kernel chooses one for the socket, and paths cannot be told apart by it.
    pub flow_label: bool,
    /// Several packets in one system call (`sendmmsg`, `recvmmsg`). Else one each.
    pub batch: bool,
}

impl Offered {
    /// Everything.
    pub const ALL: Offered = Offered { segment: true, coalesce: true, flow_label: true, batch: true };
}

/// What a socket's kernel has, as far as is known: it is believed to have everything until it refuses.
#[derive(Debug)]
pub(crate) struct Has(AtomicU8);

const SEGMENT: u8 = 1;
const COALESCE: u8 = 2;
const FLOW_LABEL: u8 = 4;
const BATCHES: u8 = 8;

impl Has {
    /// Everything but what must be switched on first.
    pub(crate) const fn new() -> Has {
        Has(AtomicU8::new(SEGMENT | FLOW_LABEL | BATCHES))
    }
    fn has(&self, bit: u8) -> bool {
        self.0.load(Ordering::Relaxed) & bit != 0
    }
    fn lacks(&self, bit: u8, what: &'static str) {
        if self.0.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
            tracing::warn!(what, "this kernel does not offer it, going on without");
        }
    }
    fn segment(&self) -> bool {
        self.has(SEGMENT)
    }
    fn flow_label(&self) -> bool {
        self.has(FLOW_LABEL)
    }
    fn batch(&self) -> bool {
        self.has(BATCHES)
    }
    fn lacks_segment(&self) {
        self.lacks(SEGMENT, "UDP_SEGMENT: several datagrams in one send");
    }
    fn lacks_flow_label(&self) {
        self.lacks(FLOW_LABEL, "IPV6_FLOWINFO: a flow label for each packet");
    }
    fn lacks_batch(&self) {
        self.lacks(BATCHES, "sendmmsg and recvmmsg: several packets in one system call");
    }
}

pub(crate) fn sockaddr(addr: &SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: addr.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
        sin6_scope_id: addr.scope_id(),
    }
}

/// A UDP socket over IPv6.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    has: Has,
}

impl UdpSocket {
    /// A socket bound to an address, in the network namespace of this thread. Ports below 1,024 need
    /// CAP_NET_BIND_SERVICE.
    pub fn bind(addr: SocketAddrV6, options: UdpOptions) -> Result<UdpSocket> {
        // every call says itself whether it may wait
        let fd = socket("socket(UDP)", libc::SOCK_DGRAM, 0)?;
        set(fd.as_fd(), "setsockopt(IPV6_V6ONLY)", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32)?;
        buffers(fd.as_fd(), options.receive_bytes, options.send_bytes)?;
        ask(fd.as_fd(), options)?;
        let to = sockaddr(&addr);
        let len = size_of_val(&to) as libc::socklen_t;
        // SAFETY: `to` is an IPv6 socket address of `len` bytes that outlives the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&to).cast(), len) };
        check("bind(UDP)", bound)?;
        Ok(UdpSocket { fd, has: Has::new() })
    }

    /// Lets the kernel hand over datagrams of one flow together (UDP_GRO). [`Received`] takes them apart again.
    pub fn coalesce(&self) -> Result<()> {
        set(self.fd.as_fd(), "setsockopt(UDP_GRO)", libc::SOL_UDP, libc::UDP_GRO, &1i32)?;
        self.has.0.fetch_or(COALESCE, Ordering::Relaxed);
        Ok(())
    }

    /// Switches on what the kernel offers for moving much, and gives what that is. Sending a burst or a flow label shows
    /// only then whether the kernel takes it, so ask again later.
    pub fn use_everything(&self) -> Offered {
        if self.coalesce().is_err() {
            tracing::warn!("this kernel does not offer UDP_GRO, going on without");
        }
        // 0 changes nothing and is refused where the option is not known
        if set(self.fd.as_fd(), "setsockopt(UDP_SEGMENT)", libc::SOL_UDP, libc::UDP_SEGMENT, &0i32).is_err() {
            self.has.lacks_segment();
        }
        self.offered()
    }

    /// What the kernel offers, as far as is known by now.
    pub fn offered(&self) -> Offered {
        Offered {
            segment: self.has.segment(),
            coalesce: self.has.has(COALESCE),
            flow_label: self.has.flow_label(),
            batch: self.has.batch(),
        }
    }

    /// Does without whatever is not in `only`, as if the kernel lacked it. Coalescing is left as it is.
    pub fn forgo(&self, only: Offered) {
        let bits = [(only.segment, SEGMENT), (only.flow_label, FLOW_LABEL), (only.batch, BATCHES)];
        let keep = bits.iter().fold(COALESCE, |all, (keep, bit)| if *keep { all | bit } else { all });
        self.has.0.fetch_and(keep, Ordering::Relaxed);
    }

    /// The port it is bound to.
    pub fn port(&self) -> Result<u16> {
        let mut addr = sockaddr(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        let mut len = size_of_val(&addr) as libc::socklen_t;
        // SAFETY: `addr` is writable and of `len` bytes; the kernel writes at most that many.
        let got =
            unsafe { libc::getsockname(self.fd.as_raw_fd(), std::ptr::from_mut(&mut addr).cast(), &mut len) };
        check("getsockname", got)?;
        Ok(u16::from_be(addr.sin6_port))
    }

    /// Takes in what is waiting, at most [`BATCH`] packets. How many; 0 where nothing waits.
    pub fn receive(&self, batch: &mut Received) -> Result<usize> {
        batch.fill(self.fd.as_fd(), &self.has, BATCH, false)
    }

    /// How long [`UdpSocket::wait`] waits at most. The kernel rounds it up to its ticks of 1 to 10 ms. Without it, without
    /// end.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        let time = libc::timeval {
            tv_sec: patience.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: patience.subsec_micros().max(1).into(),
        };
        set(self.fd.as_fd(), "setsockopt(SO_RCVTIMEO)", libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
    }

    /// Waits for a packet and takes it in, and up to `most` where more are there. How many; 0 where patience was over or a
    /// signal came. One system call less than waiting in [`readable`](crate::poll::readable) first, but nothing else can
    /// end it.
    pub fn wait(&self, batch: &mut Received, most: usize) -> Result<usize> {
        batch.fill(self.fd.as_fd(), &self.has, most, true)
    }

    /// Sends as many of the batch as the kernel takes, from where the last send of it stopped. How many that were.
    pub fn send(&self, batch: &mut Outgoing) -> Result<usize> {
        batch.send(self.fd.as_fd(), &self.has)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
