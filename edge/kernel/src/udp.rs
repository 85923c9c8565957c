//! UDP over IPv6 in batches, with what the kernel knows of each packet: when it arrived, to which address, with which
//! traffic class, flow label, hop limit and hop-by-hop header.
//!
//! How: one `recvmmsg` or `sendmmsg` moves up to [`BATCH`] packets; buffers are made once. What is wanted for a packet
//! to send (source address, traffic class, flow label) goes along as control messages.
//!
//! Invariants: nothing blocks; a packet longer than its buffer is marked, not silently cut.
//! Absent on purpose: transmit time stamps. Reading them back costs a system call a packet.

use crate::cmsg::{self, Writer};
use crate::error::check;
use crate::{Errno, Error, Result};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Packets moved by one system call.
pub const BATCH: usize = 64;
/// Bytes kept of a packet: a STAMP packet of 9,000 bytes.
const DATA: usize = 9_216;
/// Bytes of control messages of a packet: time stamp, packet info, flow, hop limit, a hop-by-hop header.
const CONTROL: usize = 512;

/// What a socket is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Receive buffer, bytes. More than the system's limit needs CAP_NET_ADMIN and is else cut to it.
    pub receive_bytes: usize,
    /// Send buffer, bytes; likewise.
    pub send_bytes: usize,
    /// Ask for hop-by-hop headers of packets received.
    pub hop_by_hop: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        UdpOptions { receive_bytes: 4 << 20, send_bytes: 1 << 20, hop_by_hop: true }
    }
}

pub(crate) fn set<T>(fd: BorrowedFd<'_>, call: &'static str, level: i32, name: i32, value: &T) -> Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` readable bytes for the length of the call; the kernel copies them.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    check(call, done).map(drop)
}

/// A new socket in the network namespace of this thread, not blocking, closed on exec.
pub(crate) fn socket(call: &'static str, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: socket takes plain numbers only.
    let fd =
        unsafe { libc::socket(libc::AF_INET6, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
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
pub(crate) fn ask(fd: BorrowedFd<'_>, hop_by_hop: bool) -> Result<()> {
    set(fd, "setsockopt(SO_TIMESTAMPNS)", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)?;
    let v6 = libc::IPPROTO_IPV6;
    set(fd, "setsockopt(IPV6_RECVPKTINFO)", v6, libc::IPV6_RECVPKTINFO, &1i32)?;
    // traffic class and flow label in one
    set(fd, "setsockopt(IPV6_FLOWINFO)", v6, libc::IPV6_FLOWINFO, &1i32)?;
    set(fd, "setsockopt(IPV6_RECVHOPLIMIT)", v6, libc::IPV6_RECVHOPLIMIT, &1i32)?;
    if hop_by_hop {
        set(fd, "setsockopt(IPV6_RECVHOPOPTS)", v6, libc::IPV6_RECVHOPOPTS, &1i32)?;
    }
    Ok(())
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
pub struct UdpSocket(OwnedFd);

impl UdpSocket {
    /// A socket bound to an address, in the network namespace of this thread. Ports below 1,024 need
    /// CAP_NET_BIND_SERVICE.
    pub fn bind(addr: SocketAddrV6, options: UdpOptions) -> Result<UdpSocket> {
        let fd = socket("socket(UDP)", libc::SOCK_DGRAM, 0)?;
        set(fd.as_fd(), "setsockopt(IPV6_V6ONLY)", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32)?;
        buffers(fd.as_fd(), options.receive_bytes, options.send_bytes)?;
        ask(fd.as_fd(), options.hop_by_hop)?;
        let to = sockaddr(&addr);
        let len = size_of_val(&to) as libc::socklen_t;
        // SAFETY: `to` is an IPv6 socket address of `len` bytes that outlives the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&to).cast(), len) };
        check("bind(UDP)", bound)?;
        Ok(UdpSocket(fd))
    }

    /// Lets the kernel hand over datagrams of one flow together (UDP_GRO). [`Received`] takes them apart again.
    pub fn coalesce(&self) -> Result<()> {
        set(self.0.as_fd(), "setsockopt(UDP_GRO)", libc::SOL_UDP, libc::UDP_GRO, &1i32)
    }

    /// The port it is bound to.
    pub fn port(&self) -> Result<u16> {
        let mut addr = sockaddr(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        let mut len = size_of_val(&addr) as libc::socklen_t;
        // SAFETY: `addr` is writable and of `len` bytes; the kernel writes at most that many.
        let got =
            unsafe { libc::getsockname(self.0.as_raw_fd(), std::ptr::from_mut(&mut addr).cast(), &mut len) };
        check("getsockname", got)?;
        Ok(u16::from_be(addr.sin6_port))
    }

    /// Takes in what is waiting, at most [`BATCH`] packets. How many; 0 where nothing waits.
    pub fn receive(&self, batch: &mut Received) -> Result<usize> {
        batch.fill(self.0.as_fd())
    }

    /// Sends as many of the batch as the kernel takes. How many that were.
    pub fn send(&self, batch: &mut Outgoing) -> Result<usize> {
        batch.send(self.0.as_fd())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A packet received and what the kernel knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its payload.
    pub payload: &'a [u8],
    /// Source address.
    pub from: Ipv6Addr,
    /// Source port.
    pub port: u16,
    /// Destination address, unspecified where not known.
    pub to: Ipv6Addr,
    /// Interface it came in by.
    pub ifindex: u32,
    /// When the kernel received it, Unix nanoseconds; 0 where it did not say.
    pub at_ns: u64,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// 20 bits.
    pub flow_label: u32,
    /// Hop limit left; 255 where not known.
    pub hop_limit: u8,
    /// Hop-by-hop header, empty where there was none.
    pub hop_by_hop: &'a [u8],
    /// The packet or what is known of it did not fit.
    pub truncated: bool,
}

/// Room for one batch of packets to receive.
pub struct Received {
    data: Vec<u8>,
    control: Vec<u64>,
    names: Vec<libc::sockaddr_in6>,
    /// Length of data, length of control, flags.
    lengths: Vec<(usize, usize, i32)>,
    count: usize,
    data_bytes: usize,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Default for Received {
    fn default() -> Self {
        Received::new(2_048)
    }
}

impl Received {
    /// Room for packets of at most `data_bytes` (up to 9,216).
    pub fn new(data_bytes: usize) -> Self {
        let data_bytes = data_bytes.clamp(64, DATA);
        let empty = sockaddr(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        Received {
            data: vec![0; BATCH * data_bytes],
            control: vec![0; BATCH * CONTROL / 8],
            names: vec![empty; BATCH],
            lengths: vec![(0, 0, 0); BATCH],
            count: 0,
            data_bytes,
        }
    }

    pub(crate) fn fill(&mut self, fd: BorrowedFd<'_>) -> Result<usize> {
        self.count = 0;
        let mut pieces: Vec<libc::iovec> = self
            .data
            .chunks_exact_mut(self.data_bytes)
            .map(|c| libc::iovec { iov_base: c.as_mut_ptr().cast(), iov_len: c.len() })
            .collect();
        let rooms = self.control.chunks_exact_mut(CONTROL / 8);
        let mut messages: Vec<libc::mmsghdr> = pieces
            .iter_mut()
            .zip(&mut self.names)
            .zip(rooms)
            .map(|((piece, name), control)| libc::mmsghdr {
                msg_hdr: libc::msghdr {
                    msg_name: std::ptr::from_mut(name).cast(),
                    msg_namelen: size_of::<libc::sockaddr_in6>() as libc::socklen_t,
                    msg_iov: piece,
                    msg_iovlen: 1,
                    msg_control: control.as_mut_ptr().cast(),
                    msg_controllen: CONTROL,
                    msg_flags: 0,
                },
                msg_len: 0,
            })
            .collect();
        // SAFETY: every header points into buffers of `self` and of this function that outlive the call, with their
        // lengths; headers do not share a buffer; no time-out is given.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            let errno = Errno::last();
            return match errno.0 {
                libc::EAGAIN | libc::EINTR => Ok(0),
                // an ICMP error about an earlier packet: nothing received, nothing wrong with the socket
                libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH => Ok(0),
                _ => Err(Error::Call { call: "recvmmsg", errno }),
            };
        }
        self.count = n as usize;
        for (m, lengths) in messages.iter().take(self.count).zip(&mut self.lengths) {
            *lengths = (m.msg_len as usize, m.msg_hdr.msg_controllen, m.msg_hdr.msg_flags);
        }
        Ok(self.count)
    }

    /// The packets of the last batch, in the order received. What the kernel handed over together comes one by one.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.messages().flat_map(|(d, segment)| {
            let whole = if segment == 0 { d.payload.len() } else { segment };
            let empty = d.payload.is_empty().then_some(d);
            let parts = d.payload.chunks(whole.max(1)).map(move |payload| Datagram { payload, ..d });
            empty.into_iter().chain(parts)
        })
    }

    /// What each system call's message held, and the length of its datagrams where it held several.
    fn messages(&self) -> impl Iterator<Item = (Datagram<'_>, usize)> {
        let control = as_bytes(&self.control);
        self.lengths.iter().zip(&self.names).take(self.count).enumerate().map(move |(i, (lengths, name))| {
            let &(len, control_len, flags) = lengths;
            let data = self.data.get(i * self.data_bytes..).unwrap_or(&[]);
            let control = control.get(i * CONTROL..).unwrap_or(&[]);
            let mut d = Datagram {
                payload: data.get(..len.min(self.data_bytes)).unwrap_or(&[]),
                from: Ipv6Addr::from(name.sin6_addr.s6_addr),
                port: u16::from_be(name.sin6_port),
                to: Ipv6Addr::UNSPECIFIED,
                ifindex: 0,
                at_ns: 0,
                traffic_class: 0,
                flow_label: 0,
                hop_limit: 255,
                hop_by_hop: &[],
                truncated: flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
            };
            let mut segment = 0;
            for c in cmsg::walk(control.get(..control_len.min(CONTROL)).unwrap_or(&[])) {
                if (c.level, c.kind) == (libc::SOL_UDP, libc::UDP_GRO) {
                    segment = c.i32().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
                } else {
                    know(&mut d, &c);
                }
            }
            (d, segment)
        })
    }
}

/// Words as the bytes the kernel wrote into them.
fn as_bytes(words: &[u64]) -> &[u8] {
    // SAFETY: the bytes of initialised numbers are initialised, the length is theirs, and u8 has no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

fn know<'a>(d: &mut Datagram<'a>, c: &cmsg::Control<'a>) {
    match (c.level, c.kind) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
            let part = |at: usize| {
                c.data.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, i64::from_ne_bytes)
            };
            d.at_ns = (part(0).max(0) as u64).saturating_mul(1_000_000_000) + part(8).max(0) as u64;
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            if let Some(addr) = c.data.get(..16).and_then(|b| <[u8; 16]>::try_from(b).ok()) {
                d.to = Ipv6Addr::from(addr);
            }
            d.ifindex = c.data.get(16..20).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        }
        (libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO) => {
            let info = c.be32().unwrap_or(0);
            (d.traffic_class, d.flow_label) = ((info >> 20) as u8, info & 0xf_ffff);
        }
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => d.hop_limit = c.i32().unwrap_or(255) as u8,
        (libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS) => d.hop_by_hop = c.data,
        _ => {}
    }
}

/// Where a packet goes and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: SocketAddrV6,
    /// Source address, where it matters which.
    pub from: Option<Ipv6Addr>,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// 20 bits; 0 lets the kernel choose.
    pub flow_label: u32,
}

/// A batch of packets to send. Every packet is one datagram on the wire, unless it was added as several.
#[derive(Debug, Default)]
pub struct Outgoing {
    data: Vec<u8>,
    ends: Vec<usize>,
    /// For each packet the length of its datagrams, 0 where it is one.
    segments: Vec<u16>,
    routes: Vec<Route>,
}

impl Outgoing {
    /// No packets.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.segments.clear();
        self.routes.clear();
    }
    /// Packets in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Adds a packet whose bytes `write` appends.
    pub fn push(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        self.push_segments(route, 0, write);
    }
    /// Adds several datagrams of `segment` bytes each (the last may be shorter), which the kernel carries as one for as
    /// long as it can (UDP_SEGMENT). On links without that offload each is a packet of its own.
    pub fn push_segments(&mut self, route: Route, segment: u16, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.ends.push(self.data.len());
        self.segments.push(segment);
        self.routes.push(route);
    }

    /// Sends from the front until all are gone or the kernel takes no more; what is left is dropped by
    /// [`Outgoing::clear`].
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>) -> Result<usize> {
        let count = self.ends.len();
        let mut sent = 0;
        let mut names: Vec<libc::sockaddr_in6> = Vec::with_capacity(BATCH);
        let mut controls: Vec<Writer> = Vec::with_capacity(BATCH);
        let mut pieces: Vec<libc::iovec> = Vec::with_capacity(BATCH);
        let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(BATCH);
        while sent < count {
            names.clear();
            controls.clear();
            pieces.clear();
            messages.clear();
            let some = sent..count.min(sent + BATCH);
            for i in some.clone() {
                let route = &self.routes[i];
                names.push(sockaddr(&route.to));
                controls.push(control(route, self.segments[i]));
                let start = if i == 0 { 0 } else { self.ends[i - 1] };
                let packet = &mut self.data[start..self.ends[i]];
                pieces.push(libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() });
            }
            for ((name, control), piece) in names.iter_mut().zip(&mut controls).zip(&mut pieces) {
                let words = control.words();
                let bytes = size_of_val(words);
                messages.push(libc::mmsghdr {
                    msg_hdr: libc::msghdr {
                        msg_name: std::ptr::from_mut(name).cast(),
                        msg_namelen: size_of::<libc::sockaddr_in6>() as libc::socklen_t,
                        msg_iov: piece,
                        msg_iovlen: 1,
                        msg_control: if bytes == 0 {
                            std::ptr::null_mut()
                        } else {
                            words.as_mut_ptr().cast()
                        },
                        msg_controllen: bytes,
                        msg_flags: 0,
                    },
                    msg_len: 0,
                });
            }
            // SAFETY: every header points to a name, a piece and control words that live in the vectors above, which
            // are not touched until the call is over, with their lengths.
            let n = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if n < 0 {
                let errno = Errno::last();
                match errno.0 {
                    libc::EINTR => continue,
                    libc::EAGAIN | libc::ENOBUFS => break,
                    _ => {}
                }
                // one packet that cannot go (no route, link down) must not hold up the others
                if errno.0 == libc::EBADF || errno.0 == libc::ENOTSOCK {
                    return Err(Error::Call { call: "sendmmsg", errno });
                }
                self.routes[sent].flow_label |= REFUSED;
                sent += 1;
                continue;
            }
            sent += n as usize;
        }
        Ok(sent - self.routes.iter().take(sent).filter(|r| r.flow_label & REFUSED != 0).count())
    }
}

/// Marks a packet the kernel refused, in a bit no flow label has.
const REFUSED: u32 = 1 << 31;

fn control(route: &Route, segment: u16) -> Writer {
    let mut w = Writer::new();
    if let Some(from) = route.from {
        let mut info = [0; 20];
        info[..16].copy_from_slice(&from.octets());
        w.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }
    if route.traffic_class != 0 {
        w.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &i32::from(route.traffic_class).to_ne_bytes());
    }
    if route.flow_label & 0xf_ffff != 0 {
        w.push(libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO, &(route.flow_label & 0xf_ffff).to_be_bytes());
    }
    if segment != 0 {
        w.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::readable;

    #[test]
    fn a_batch_arrives_with_all_that_is_known_of_it() {
        let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let a = UdpSocket::bind(any, UdpOptions::default()).unwrap();
        let b = UdpSocket::bind(any, UdpOptions::default()).unwrap();
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port().unwrap(), 0, 0);
        let mut out = Outgoing::default();
        for i in 0..100u8 {
            let route = Route {
                to,
                from: Some(Ipv6Addr::LOCALHOST),
                traffic_class: 0xba,
                flow_label: 0x12300 + u32::from(i),
            };
            out.push(route, |buf| buf.extend_from_slice(&[i; 100]));
        }
        let before = crate::timestamp::unix_ns();
        assert_eq!(a.send(&mut out), Ok(100));
        let mut batch = Received::default();
        let mut got = 0;
        while got < 100 {
            assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
            b.receive(&mut batch).unwrap();
            for d in batch.iter() {
                assert_eq!(d.payload, [got as u8; 100]);
                assert_eq!(
                    (d.from, d.port, d.to),
                    (Ipv6Addr::LOCALHOST, a.port().unwrap(), Ipv6Addr::LOCALHOST)
                );
                assert_eq!((d.traffic_class, d.flow_label, d.hop_limit), (0xba, 0x12300 + got, 64));
                assert!(d.at_ns >= before && d.at_ns <= crate::timestamp::unix_ns());
                assert!(!d.truncated && d.hop_by_hop.is_empty());
                got += 1;
            }
        }
        assert_eq!(b.receive(&mut batch), Ok(0));
    }

    #[test]
    fn what_is_sent_together_arrives_one_by_one() {
        let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let a = UdpSocket::bind(any, UdpOptions::default()).unwrap();
        let b = UdpSocket::bind(any, UdpOptions::default()).unwrap();
        b.coalesce().unwrap();
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port().unwrap(), 0, 0);
        let route = Route { to, from: None, traffic_class: 2, flow_label: 7 };
        let mut out = Outgoing::default();
        out.push_segments(route, 100, |buf| {
            for i in 0..5u8 {
                buf.extend_from_slice(&[i; 100][..if i == 4 { 30 } else { 100 }]);
            }
        });
        out.push(route, |buf| buf.push(9));
        assert_eq!(a.send(&mut out), Ok(2));
        let (mut batch, mut got) = (Received::default(), Vec::new());
        while got.len() < 6 {
            assert_ne!(readable(&[b.as_fd()], None).unwrap(), 0);
            b.receive(&mut batch).unwrap();
            got.extend(batch.iter().map(|d| (d.payload.to_vec(), d.flow_label, d.at_ns > 0)));
        }
        let want = [(0, 100), (1, 100), (2, 100), (3, 100), (4, 30), (9, 1)];
        assert_eq!(got, want.map(|(byte, len)| (vec![byte; len], 7, true)));
    }
}
