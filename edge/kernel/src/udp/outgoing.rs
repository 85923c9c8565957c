//! A batch of packets to send: `sendmmsg`, with what is wanted for each packet as control messages.
//!
//! How: where the kernel refuses a burst or a flow label, the packet is tried again in the ways that are left (each
//! datagram by itself, no flow label), and what worked only so is remembered as lacking, and said once.
//!
//! Invariants: one packet that cannot go holds up no other; nothing is sent twice by one batch.
//! Absent on purpose: waiting until the kernel takes more.

use super::{BATCH, Has, sockaddr};
use crate::cmsg::Writer;
use crate::{Errno, Error, Result};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

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
    /// The first packet not tried yet.
    next: usize,
    refused: usize,
}

impl Outgoing {
    /// No packets.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.segments.clear();
        self.routes.clear();
        (self.next, self.refused) = (0, 0);
    }
    /// Packets in it, those sent already too.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Packets the kernel has not been offered, or had no room for: the next send goes on with them.
    pub fn left(&self) -> usize {
        self.ends.len() - self.next
    }
    /// Packets the kernel refused for good.
    pub fn refused(&self) -> usize {
        self.refused
    }
    /// Bytes in it.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
    /// Adds a packet whose bytes `write` appends.
    pub fn push(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        self.push_segments(route, 0, write);
    }
    /// Adds several datagrams of `segment` bytes each (the last may be shorter), which the kernel carries as one for as
    /// long as it can (UDP_SEGMENT). On links without that offload each is a packet of its own. At most
    /// [`SEGMENTS_MAX`](super::SEGMENTS_MAX) datagrams and [`BURST_BYTES_MAX`](super::BURST_BYTES_MAX) bytes.
    pub fn push_segments(&mut self, route: Route, segment: u16, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.close(route, segment, self.data.len());
    }
    /// Where the next packet's bytes may be appended, for whoever learns where it ends only by writing it:
    /// [`Outgoing::close`] says where. What is there already must be left as it is.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }
    /// Makes the bytes from the last packet's end to `end` of [`Outgoing::buffer`] a packet, in datagrams of `segment`
    /// bytes, or one where that is 0.
    pub fn close(&mut self, route: Route, segment: u16, end: usize) {
        let least = self.ends.last().copied().unwrap_or(0);
        self.ends.push(end.clamp(least, self.data.len()));
        self.segments.push(segment);
        self.routes.push(route);
    }

    fn range(&self, i: usize) -> std::ops::Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start..self.ends[i]
    }

    /// Sends on from where the last send stopped, until all are gone or the kernel takes no more. How many packets went.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>, has: &Has) -> Result<usize> {
        let count = self.ends.len();
        let (from, refused) = (self.next, self.refused);
        if count - from == 1 && (self.segments[from] == 0 || has.segment()) {
            // most often it goes at once; if not, the way below finds out why
            let range = self.range(from);
            let label = has.flow_label();
            if send_one(fd, &self.routes[from], self.segments[from], label, &mut self.data[range]).is_ok() {
                self.next = count;
                return Ok(1);
            }
        }
        let mut names: Vec<libc::sockaddr_in6> = Vec::with_capacity(BATCH);
        let mut controls: Vec<Writer> = Vec::with_capacity(BATCH);
        let mut pieces: Vec<libc::iovec> = Vec::with_capacity(BATCH);
        let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(BATCH);
        while self.next < count {
            names.clear();
            controls.clear();
            pieces.clear();
            messages.clear();
            for i in self.next..count.min(self.next + BATCH) {
                if self.segments[i] != 0 && !has.segment() {
                    // it goes by another way, below
                    break;
                }
                let route = &self.routes[i];
                names.push(sockaddr(&route.to));
                controls.push(control(route, self.segments[i], has.flow_label()));
                let range = self.range(i);
                let packet = &mut self.data[range];
                pieces.push(libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() });
            }
            for ((name, control), piece) in names.iter_mut().zip(&mut controls).zip(&mut pieces) {
                messages.push(message(name, control, piece));
            }
            match send_batch(fd, &mut messages, has) {
                Ok(0) => {}
                Ok(n) => {
                    self.next += n;
                    continue;
                }
                Err(Errno(libc::EINTR)) => continue,
                Err(Errno(libc::EAGAIN | libc::ENOBUFS)) => break,
                Err(errno @ Errno(libc::EBADF | libc::ENOTSOCK)) => {
                    return Err(Error::Call { call: "sendmmsg", errno });
                }
                // what a kernel says to something it does not know, or does not want
                Err(Errno(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::EPERM)) => {
                }
                Err(_) => {
                    self.refused += 1;
                    self.next += 1;
                    continue;
                }
            }
            // one packet that cannot go (no route, link down) must not hold up the others
            match self.other_ways(fd, self.next, has) {
                Ok(true) => {}
                Ok(false) => self.refused += 1,
                Err(Errno(libc::EAGAIN | libc::ENOBUFS)) => break,
                Err(_) => self.refused += 1,
            }
            self.next += 1;
        }
        Ok(self.next - from - (self.refused - refused))
    }

    /// Tries a packet the kernel refused without what kernels may lack. True where all of it went.
    fn other_ways(&mut self, fd: BorrowedFd<'_>, i: usize, has: &Has) -> std::result::Result<bool, Errno> {
        let (route, segment) = (self.routes[i], self.segments[i]);
        let range = self.range(i);
        let labelled = route.flow_label & FLOW_LABEL != 0 && has.flow_label();
        let could = segment != 0 && has.segment();
        let tried = segment == 0 || could;
        let bursts: &[bool] = if could { &[true, false] } else { &[false] };
        let labels: &[bool] = if labelled { &[true, false] } else { &[false] };
        let ways = bursts.iter().flat_map(|b| labels.iter().map(|l| (*b, *l)));
        for (burst, label) in ways.skip(usize::from(tried)) {
            let datagram = if burst || segment == 0 { range.len() } else { usize::from(segment) };
            let packet = &mut self.data[range.clone()];
            let mut first = true;
            let mut went = true;
            for part in packet.chunks_mut(datagram.max(1)) {
                match send_one(fd, &route, if burst { segment } else { 0 }, label, part) {
                    Ok(()) => first = false,
                    // nothing went yet: all of it can be tried later
                    Err(errno @ Errno(libc::EAGAIN | libc::ENOBUFS)) if first => return Err(errno),
                    Err(_) => {
                        went = false;
                        break;
                    }
                }
            }
            if went {
                if segment != 0 && !burst {
                    has.lacks_segment();
                }
                if labelled && !label {
                    has.lacks_flow_label();
                }
                return Ok(true);
            }
            if !first {
                // a part of it went: what is left of the burst is lost, and not sent twice
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The bits of a flow label (RFC 8200, section 3).
const FLOW_LABEL: u32 = 0xf_ffff;

fn message(name: &mut libc::sockaddr_in6, control: &mut Writer, piece: &mut libc::iovec) -> libc::mmsghdr {
    let words = control.words();
    let bytes = size_of_val(words);
    libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: std::ptr::from_mut(name).cast(),
            msg_namelen: size_of::<libc::sockaddr_in6>() as libc::socklen_t,
            msg_iov: piece,
            msg_iovlen: 1,
            msg_control: if bytes == 0 { std::ptr::null_mut() } else { words.as_mut_ptr().cast() },
            msg_controllen: bytes,
            msg_flags: 0,
        },
        msg_len: 0,
    }
}

/// How many of the messages went: at least one, unless there are none. The headers point to names, control words and
/// pieces that the caller keeps as they are until this returns.
fn send_batch(
    fd: BorrowedFd<'_>,
    messages: &mut [libc::mmsghdr],
    has: &Has,
) -> std::result::Result<usize, Errno> {
    if has.batch() && !messages.is_empty() {
        let count = messages.len() as libc::c_uint;
        // SAFETY: as said above, everything the headers point to lives and is not touched until the call is over, with
        // the lengths given.
        let n = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        if n >= 0 {
            return Ok(n as usize);
        }
        let errno = Errno::last();
        if errno.0 != libc::ENOSYS {
            return Err(errno);
        }
        has.lacks_batch();
    }
    let Some(first) = messages.first() else { return Ok(0) };
    // SAFETY: likewise.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &first.msg_hdr, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(Errno::last()) } else { Ok(1) }
}

fn send_one(
    fd: BorrowedFd<'_>,
    route: &Route,
    segment: u16,
    label: bool,
    packet: &mut [u8],
) -> std::result::Result<(), Errno> {
    let mut name = sockaddr(&route.to);
    let mut control = control(route, segment, label);
    let mut piece = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    let header = message(&mut name, &mut control, &mut piece).msg_hdr;
    // SAFETY: the header points to a name, control words and a piece that live here until the call is over.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(Errno::last()) } else { Ok(()) }
}

fn control(route: &Route, segment: u16, label: bool) -> Writer {
    let mut w = Writer::new();
    if let Some(from) = route.from {
        let mut info = [0; 20];
        info[..16].copy_from_slice(&from.octets());
        w.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }
    if route.traffic_class != 0 {
        w.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &i32::from(route.traffic_class).to_ne_bytes());
    }
    if label && route.flow_label & FLOW_LABEL != 0 {
        w.push(libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO, &(route.flow_label & FLOW_LABEL).to_be_bytes());
    }
    if segment != 0 {
        w.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    w
}
