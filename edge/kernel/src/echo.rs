//! ICMP echo (RFC 792, RFC 4443): whether an address answers, and whether packets of a size reach it uncut.
//!
//! How: a raw socket of the address's family that must not fragment and does not believe what was learnt of the path's
//! MTU, so that a full-size packet really goes out. Each request carries an identifier and a number; an answer is one that
//! carries both back.
//!
//! Invariants: needs CAP_NET_RAW when it is opened and never again; never waits. A silence says nothing by itself: many
//! networks drop echo requests. What says something is one size that is answered beside one that is not.

use crate::udp::set;
use crate::{Errno, Error, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};

/// `IP_PMTUDISC_PROBE`: do not fragment, and do not look at the path MTU that was learnt.
const PMTUDISC_PROBE: i32 = 3;
const HEADER_V4: u16 = 20;
const HEADER_V6: u16 = 40;
const HEADER_ICMP: u16 = 8;
/// Smallest packet [`Echo::send`] makes, IPv6 headers included.
pub const PACKET_MIN: u16 = HEADER_V6 + HEADER_ICMP + 8;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Asks one address.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    to: SockAddr,
    v6: bool,
    id: u16,
}

impl Echo {
    /// A socket in this thread's namespace.
    pub fn open(to: IpAddr, from: Option<IpAddr>) -> Result<Echo> {
        let v6 = to.is_ipv6();
        let (domain, protocol) =
            if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let call = |call| move |e: std::io::Error| Error::Call { call, errno: e.into() };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(call("socket(ICMP)"))?;
        socket.set_nonblocking(true).map_err(call("fcntl(O_NONBLOCK)"))?;
        let (level, name) = if v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
        };
        set(socket.as_fd(), "setsockopt(MTU_DISCOVER)", level, name, &PMTUDISC_PROBE)?;
        if let Some(from) = from.filter(|f| f.is_ipv6() == v6) {
            socket.bind(&SocketAddr::new(from, 0).into()).map_err(call("bind(ICMP)"))?;
        }
        let id = (std::process::id() as u16) ^ NEXT.fetch_add(1, Ordering::Relaxed).rotate_left(8);
        Ok(Echo { socket, to: SocketAddr::new(to, 0).into(), v6, id })
    }

    /// Sends a request in a packet of so many bytes, its IP header included. EMSGSIZE: larger than the link takes.
    pub fn send(&self, number: u16, packet_bytes: u16) -> Result<()> {
        let payload = packet_bytes.max(PACKET_MIN) - if self.v6 { HEADER_V6 } else { HEADER_V4 };
        let mut message = vec![0x5e; usize::from(payload)];
        let kind = if self.v6 { 128 } else { 8 };
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        message[4..6].copy_from_slice(&self.id.to_be_bytes());
        message[6..8].copy_from_slice(&number.to_be_bytes());
        if !self.v6 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let sent = self.socket.send_to(&message, &self.to);
        sent.map(drop).map_err(|e| Error::Call { call: "sendto(ICMP)", errno: e.into() })
    }

    /// The number of a request that was answered; none where no answer waits.
    pub fn receive(&mut self) -> Result<Option<u16>> {
        let mut buffer = [0; 256];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(n) => {
                    if let Some(number) = answer(buffer.get(..n).unwrap_or(&[]), self.v6, self.id) {
                        return Ok(Some(number));
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => {
                    let errno = Errno::from(e);
                    // what the network said about an earlier request; the next read goes on behind it
                    if [
                        libc::EHOSTUNREACH,
                        libc::ENETUNREACH,
                        libc::EMSGSIZE,
                        libc::EACCES,
                        libc::ECONNREFUSED,
                    ]
                    .contains(&errno.0)
                    {
                        continue;
                    }
                    return Err(Error::Call { call: "recv(ICMP)", errno });
                }
            }
        }
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The number in an answer to us. IPv4 raw sockets see the IP header too.
fn answer(packet: &[u8], v6: bool, id: u16) -> Option<u16> {
    let skip = if v6 { 0 } else { usize::from(packet.first()? & 0x0f) * 4 };
    let icmp = packet.get(skip..skip + usize::from(HEADER_ICMP))?;
    let kind = if v6 { 129 } else { 0 };
    (icmp[0] == kind && icmp[4..6] == id.to_be_bytes()).then(|| u16::from_be_bytes([icmp[6], icmp[7]]))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.fold(0, |sum, w| sum.wrapping_add(w));
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_host_answers_at_any_size() {
        for to in ["127.0.0.1", "::1"] {
            let mut echo = match Echo::open(to.parse().unwrap(), None) {
                Ok(echo) => echo,
                Err(e) => {
                    println!("skipped: {e}");
                    return;
                }
            };
            for (number, size) in [(1, 0), (2, 1_500)] {
                if let Err(e) = echo.send(number, size) {
                    println!("skipped for {to}: {e}");
                    continue;
                }
                let got = loop {
                    match echo.receive().unwrap() {
                        Some(got) => break got,
                        None => crate::poll::readable(&[echo.as_fd()], None).map(drop).unwrap(),
                    }
                };
                assert_eq!(got, number);
            }
        }
    }

    #[test]
    fn what_is_no_answer_to_us_is_left_out() {
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(&[0, 0, 0, 0, 0x12, 0x34, 0, 9]);
        assert_eq!(answer(&packet, false, 0x1234), Some(9));
        assert_eq!(answer(&packet, false, 0x1235), None);
        for len in 0..packet.len() {
            assert_eq!(answer(&packet[..len], false, 0x1234), None);
        }
        assert_eq!(answer(&[129, 0, 0, 0, 0x12, 0x34, 1, 0], true, 0x1234), Some(256));
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
