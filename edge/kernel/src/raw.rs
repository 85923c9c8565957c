//! Raw IPv6: whole packets out, ICMPv6 errors in.
//!
//! How: a socket of protocol `IPPROTO_RAW` takes packets with all their headers and routes them by the address given
//! beside them, which here is the destination in their first header. So a prober chooses containers, flow labels and
//! hop limits packet by packet with one socket and no routes of its own.
//!
//! Invariants: both sockets need CAP_NET_RAW when they are opened and never again.

use crate::Result;
use crate::udp::{Has, Outgoing, Received, Route, buffers, set, socket};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Sends whole IPv6 packets.
#[derive(Debug)]
pub struct RawSocket(OwnedFd, Has);

impl RawSocket {
    /// A socket in the network namespace of this thread.
    pub fn open() -> Result<RawSocket> {
        let fd = socket("socket(IPPROTO_RAW)", libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::IPPROTO_RAW)?;
        buffers(fd.as_fd(), 0, 4 << 20)?;
        Ok(RawSocket(fd, Has::new()))
    }
    /// Sends as many of the batch as the kernel takes. How many that were.
    pub fn send(&self, batch: &mut Outgoing) -> Result<usize> {
        batch.send(self.0.as_fd(), &self.1)
    }
}

/// The route of a whole packet: its first header's destination, and the source address where rules look at it.
pub fn whole(first_destination: Ipv6Addr, from: Option<Ipv6Addr>) -> Route {
    Route { to: SocketAddrV6::new(first_destination, 0, 0, 0), from, traffic_class: 0, flow_label: 0 }
}

/// Receives ICMPv6 "time exceeded", and nothing else.
#[derive(Debug)]
pub struct TimeExceededSocket(OwnedFd, Has);

impl TimeExceededSocket {
    /// A socket in the network namespace of this thread.
    pub fn open() -> Result<TimeExceededSocket> {
        let fd = socket("socket(ICMPV6)", libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::IPPROTO_ICMPV6)?;
        // a bit set blocks the type (RFC 3542, section 3.2); 3 is time exceeded
        let mut filter = [u32::MAX; 8];
        filter[0] &= !(1 << 3);
        const ICMP6_FILTER: i32 = 1;
        set(fd.as_fd(), "setsockopt(ICMP6_FILTER)", libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)?;
        Ok(TimeExceededSocket(fd, Has::new()))
    }
    /// Takes in what is waiting, each from its ICMPv6 header on.
    pub fn receive(&self, batch: &mut Received) -> Result<usize> {
        batch.fill(self.0.as_fd(), &self.1, crate::udp::BATCH, false)
    }
}

impl AsFd for TimeExceededSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
