//! A batch of packets received: one `recvmmsg`, and what the kernel says of each packet.
//!
//! Invariants: a packet longer than its buffer is marked, not silently cut; what the kernel handed over together
//! (UDP_GRO) comes apart again; where a kernel has no `recvmmsg`, packets come one by one.
//! Absent on purpose: waiting for anything but packets ([`crate::poll`] can).

use super::{BATCH, Has, sockaddr};
use crate::cmsg;
use crate::{Errno, Error, Result};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes kept of a packet: the longest UDP packet, or everything the kernel hands over together.
const DATA: usize = 65_535;
/// Bytes of control messages of a packet: time stamp, packet info, flow, hop limit, a hop-by-hop header.
const CONTROL: usize = 512;

/// Packets for which fewer headers are made.
const FEW: usize = 4;
const SOME: usize = 16;
const NO_MESSAGE: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

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
    /// Room for [`BATCH`] packets of at most `data_bytes` (up to 65,535).
    pub fn new(data_bytes: usize) -> Self {
        Self::with(BATCH, data_bytes)
    }

    /// Room for `packets` (up to [`BATCH`]) of at most `data_bytes` (up to 65,535). Where the kernel hands over several
    /// together, few rooms of full length stay in the processor's cache and many do not.
    pub fn with(packets: usize, data_bytes: usize) -> Self {
        let data_bytes = data_bytes.clamp(64, DATA);
        let packets = packets.clamp(1, BATCH);
        let empty = sockaddr(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        Received {
            data: vec![0; packets * data_bytes],
            control: vec![0; packets * CONTROL / 8],
            names: vec![empty; packets],
            lengths: vec![(0, 0, 0); packets],
            count: 0,
            data_bytes,
        }
    }

    /// Takes in at most `most` packets; waits for the first one where it may.
    pub(crate) fn fill(
        &mut self,
        fd: BorrowedFd<'_>,
        has: &Has,
        most: usize,
        may_wait: bool,
    ) -> Result<usize> {
        // making headers that are not needed is a good part of what taking in one packet costs
        match most.min(self.names.len()) {
            0..=FEW => self.fill_in::<FEW>(fd, has, most, may_wait),
            5..=SOME => self.fill_in::<SOME>(fd, has, most, may_wait),
            _ => self.fill_in::<BATCH>(fd, has, most, may_wait),
        }
    }

    fn fill_in<const MOST: usize>(
        &mut self,
        fd: BorrowedFd<'_>,
        has: &Has,
        most: usize,
        may_wait: bool,
    ) -> Result<usize> {
        self.count = 0;
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
        let mut messages = [NO_MESSAGE; MOST];
        let mut room = 0;
        let rooms =
            self.control.chunks_exact_mut(CONTROL / 8).zip(self.data.chunks_exact_mut(self.data_bytes));
        let heads = messages.iter_mut().zip(&mut pieces).zip(&mut self.names);
        for (((message, piece), name), (control, data)) in heads.zip(rooms).take(most.max(1)) {
            *piece = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            message.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL;
            room += 1;
        }
        let messages = messages.get_mut(..room).unwrap_or_default();
        let flags = if may_wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let mut n = -1;
        if has.batch() {
            // SAFETY: every header points into buffers of `self` and of this function that outlive the call, with their
            // lengths; headers do not share a buffer; no time-out is given.
            n = unsafe {
                libc::recvmmsg(
                    fd.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as libc::c_uint,
                    flags,
                    std::ptr::null_mut(),
                )
            };
            if n < 0 && Errno::last().0 == libc::ENOSYS {
                has.lacks_batch();
            }
        }
        if !has.batch() {
            n = one_by_one(fd, messages, may_wait);
        }
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

    /// Like [`Received::iter`], with payloads that may be changed where they lie (to decrypt them): the second of each
    /// pair. That of the first is empty.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Datagram<'_>, &mut [u8])> {
        let control = as_bytes(&self.control);
        let rooms = self.data.chunks_exact_mut(self.data_bytes).zip(control.chunks_exact(CONTROL));
        let all = self.lengths.iter().zip(&self.names).zip(rooms).take(self.count);
        all.flat_map(|((&(len, control_len, flags), name), (data, control))| {
            let (d, segment) = describe(&[], control.get(..control_len).unwrap_or(control), flags, name);
            let len = len.min(data.len());
            let data = data.get_mut(..len).unwrap_or_default();
            let whole = if segment == 0 { len } else { segment };
            let (parts, empty) = match data.is_empty() {
                true => (Default::default(), Some(Default::default())),
                false => (data, None),
            };
            parts.chunks_mut(whole.max(1)).chain(empty).map(move |part: &mut [u8]| (d, part))
        })
    }

    /// What each system call's message held, and the length of its datagrams where it held several.
    fn messages(&self) -> impl Iterator<Item = (Datagram<'_>, usize)> {
        let control = as_bytes(&self.control);
        self.lengths.iter().zip(&self.names).take(self.count).enumerate().map(move |(i, (lengths, name))| {
            let &(len, control_len, flags) = lengths;
            let data = self.data.get(i * self.data_bytes..).unwrap_or(&[]);
            let control = control.get(i * CONTROL..).unwrap_or(&[]);
            let data = data.get(..len.min(self.data_bytes)).unwrap_or(&[]);
            describe(data, control.get(..control_len.min(CONTROL)).unwrap_or(&[]), flags, name)
        })
    }
}

/// What is known of a message, and the length of its datagrams where it holds several.
fn describe<'a>(
    payload: &'a [u8],
    control: &'a [u8],
    flags: i32,
    name: &libc::sockaddr_in6,
) -> (Datagram<'a>, usize) {
    let mut d = Datagram {
        payload,
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
    for c in cmsg::walk(control) {
        if (c.level, c.kind) == (libc::SOL_UDP, libc::UDP_GRO) {
            segment = c.i32().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        } else {
            know(&mut d, &c);
        }
    }
    (d, segment)
}

/// What `recvmmsg` does, for kernels without it.
fn one_by_one(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr], may_wait: bool) -> i32 {
    let mut n = 0;
    for m in messages {
        let flags = if may_wait && n == 0 { 0 } else { libc::MSG_DONTWAIT };
        // SAFETY: the header points into buffers that outlive the call, with their lengths; see `fill`.
        let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut m.msg_hdr, flags) };
        if got < 0 {
            return if n == 0 { -1 } else { n };
        }
        m.msg_len = got as u32;
        n += 1;
    }
    n
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
