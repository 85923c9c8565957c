//! Datagrams of strangers in bulk: a UDP socket of either family, many datagrams a system call, and the kernel's own
//! account of what it had no room for.
//!
//! Beside [`udp`](crate::udp), which asks the kernel for time stamps, hop limits and headers of every packet: here a
//! datagram is its bytes and where it came from, which costs a third less.
//! Invariants: a datagram is handed out whole or counted as cut; what the kernel dropped is in [`Intake::dropped`].

use crate::error::check;
use crate::{Errno, Error, Result};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// Datagrams taken by one system call.
const BATCH: usize = 128;
/// Longest datagram: what IPv6 carries without a jumbo payload.
const LONGEST: usize = 65_536;
/// `SO_MEMINFO` and the place of drops in it (linux/sock_diag.h).
const SO_MEMINFO: libc::c_int = 55;
const SK_MEMINFO_DROPS: usize = 8;

/// A socket and room for a batch.
pub struct Intake {
    socket: Socket,
    data: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    lengths: Vec<(usize, bool)>,
    count: usize,
    /// The kernel's 32 bits at the last look, and the sum.
    seen: (u32, u64),
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("socket", &self.socket)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// A socket address of the kernel's as one of ours, for the two families these sockets have.
fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: the storage is as large as every socket address, was zeroed or filled by the kernel, and the family tells
    // which of them it is; both are plain numbers.
    unsafe {
        match i32::from(name.ss_family) {
            libc::AF_INET => {
                let a = *std::ptr::from_ref(name).cast::<libc::sockaddr_in>();
                let ip = IpAddr::from(u32::from_be(a.sin_addr.s_addr).to_be_bytes());
                Some(SocketAddr::new(ip, u16::from_be(a.sin_port)))
            }
            libc::AF_INET6 => {
                let a = *std::ptr::from_ref(name).cast::<libc::sockaddr_in6>();
                Some(SocketAddr::new(IpAddr::from(a.sin6_addr.s6_addr), u16::from_be(a.sin6_port)))
            }
            _ => None,
        }
    }
}

impl Intake {
    /// A socket bound to an address, with a receive buffer of so many bytes where the system allows it (beyond
    /// `net.core.rmem_max` it takes CAP_NET_ADMIN). On `[::]` it takes IPv4 as well.
    pub fn bind(at: SocketAddr, receive_bytes: usize) -> Result<Intake> {
        let call = |call| move |e: std::io::Error| Error::Call { call, errno: e.into() };
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).map_err(call("socket(UDP)"))?;
        if at.is_ipv6() {
            socket.set_only_v6(false).map_err(call("setsockopt(IPV6_V6ONLY)"))?;
        }
        let bytes = i32::try_from(receive_bytes).unwrap_or(i32::MAX);
        let length = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the option is an int that outlives the call.
        let forced = unsafe {
            let value = std::ptr::from_ref(&bytes).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, length)
        };
        if forced < 0 {
            socket.set_recv_buffer_size(receive_bytes).map_err(call("setsockopt(SO_RCVBUF)"))?;
        }
        socket.bind(&SockAddr::from(at)).map_err(call("bind(UDP)"))?;
        // SAFETY: a socket address of zeros is a valid value: family AF_UNSPEC.
        let empty: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Ok(Intake {
            socket,
            data: vec![0; BATCH * LONGEST],
            names: vec![empty; BATCH],
            lengths: Vec::with_capacity(BATCH),
            count: 0,
            seen: (0, 0),
        })
    }

    /// Where it is bound.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Bytes of the receive buffer the kernel granted: its own overhead counts, so about half of it is data.
    pub fn receive_bytes(&self) -> usize {
        self.socket.recv_buffer_size().unwrap_or(0)
    }

    /// How long [`Intake::wait`] waits at most.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        let set = self.socket.set_read_timeout(Some(patience));
        set.map_err(|e| Error::Call { call: "setsockopt(SO_RCVTIMEO)", errno: e.into() })
    }

    /// Waits for a datagram and takes what is there, at most [`BATCH`]. How many; 0 where patience was over.
    pub fn wait(&mut self) -> Result<usize> {
        self.count = 0;
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: a header of zeros is a valid value: no name, no data, no control.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let rooms = self.data.chunks_exact_mut(LONGEST).zip(&mut self.names);
        for ((message, piece), (data, name)) in messages.iter_mut().zip(&mut pieces).zip(rooms) {
            *piece = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            message.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points into buffers of `self` and of this function that outlive the call, with their
        // lengths; headers share no buffer; no time-out is given.
        let n = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            let errno = Errno::last();
            return match errno.0 {
                libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED => Ok(0),
                _ => Err(Error::Call { call: "recvmmsg", errno }),
            };
        }
        self.count = n as usize;
        self.lengths.clear();
        let cut = |m: &libc::mmsghdr| m.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        self.lengths.extend(messages.iter().take(self.count).map(|m| (m.msg_len as usize, cut(m))));
        Ok(self.count)
    }

    /// The datagrams of the last batch, in the order they came; `None` for the bytes of one that was too long.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Option<&[u8]>)> {
        let rooms = self.data.chunks_exact(LONGEST).zip(&self.names).zip(&self.lengths).take(self.count);
        rooms.filter_map(|((data, name), &(length, cut))| {
            Some((address(name)?, data.get(..length).filter(|_| !cut)))
        })
    }

    /// Datagrams the kernel dropped since the socket was made, for want of room in its buffer.
    pub fn dropped(&mut self) -> Result<u64> {
        let mut info = [0u32; 9];
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`, which outlives the call.
        let got = unsafe {
            let value = info.as_mut_ptr().cast();
            libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, value, &mut length)
        };
        check("getsockopt(SO_MEMINFO)", got)?;
        let now = info[SK_MEMINFO_DROPS];
        self.seen = (now, self.seen.1 + u64::from(now.wrapping_sub(self.seen.0)));
        Ok(self.seen.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn datagrams_come_with_their_sender_and_lost_ones_are_counted() {
        for (bind, from) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::]:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")]
        {
            let mut intake = Intake::bind(bind.parse().unwrap(), 64 << 10).unwrap();
            intake.set_patience(Duration::from_secs(5)).unwrap();
            let sender = UdpSocket::bind(from).unwrap();
            let port = intake.local().unwrap().port();
            let to = SocketAddr::new(sender.local_addr().unwrap().ip(), port);
            sender.send_to(b"one", to).unwrap();
            sender.send_to(&[7; 40_000], to).unwrap();
            let mut got = Vec::new();
            while got.len() < 2 {
                assert!(intake.wait().unwrap() > 0, "it came");
                got.extend(intake.iter().map(|(a, b)| (a.port(), a.ip().to_canonical(), b.map(<[u8]>::len))));
            }
            let me = sender.local_addr().unwrap();
            assert_eq!(got, [(me.port(), me.ip(), Some(3)), (me.port(), me.ip(), Some(40_000))]);
            assert_eq!(intake.dropped().unwrap(), 0);
            for _ in 0..200 {
                sender.send_to(&[7; 8_000], to).unwrap();
            }
            intake.set_patience(Duration::from_millis(20)).unwrap();
            let mut taken = 0;
            loop {
                match intake.wait().unwrap() {
                    0 => break,
                    n => taken += n as u64,
                }
            }
            assert!(taken < 200, "the buffer is small");
            assert_eq!(intake.dropped().unwrap(), 200 - taken);
        }
    }
}
