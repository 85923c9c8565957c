//! Netlink messages in batches: many changes, one system call.
//!
//! How: a [`Batch`] is a run of messages laid end to end; [`Netlink::apply`] sends it in as few calls as the socket
//! takes. The kernel works through a batch in order before `sendmsg` returns, so only the last message of each
//! call asks for an acknowledgement, and a refusal names its message by sequence number.
//!
//! Why not the rtnetlink crates: they wait for an answer to each message and do not know the seg6local flavours,
//! IOAM or TBF attributes, which is most of what is sent here.
//!
//! Invariants: messages and attributes are padded to 4 bytes; a batch is applied in the order it was written; after
//! a refusal the messages before and after it have been applied all the same, as with `ip -batch -force`.

use crate::{Errno, Error, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::Read;
use std::mem;

/// `NLM_F_REQUEST`: every message we send has it.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`: fails where it is there already.
pub(crate) const CREATE: u16 = 0x400 | 0x200;
/// `NLM_F_CREATE | NLM_F_REPLACE`: makes or overwrites.
pub(crate) const REPLACE: u16 = 0x400 | 0x100;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Bytes of one `sendmsg`: well under the default socket buffer.
const CHUNK: usize = 64 * 1024;

/// Messages waiting to be sent.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins, and what it does (for the error message).
    starts: Vec<(usize, &'static str, u32)>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Batch {
        Batch::default()
    }
    /// Messages in it.
    pub fn len(&self) -> usize {
        self.starts.len()
    }
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Begins a message; `what` and `index` say in an error what it was about. The message ends when the returned
    /// value is dropped.
    pub(crate) fn message(
        &mut self,
        what: &'static str,
        index: u32,
        kind: u16,
        flags: u16,
        header: &[u8],
    ) -> Message<'_> {
        let start = self.bytes.len();
        let sequence = self.starts.len() as u32;
        self.starts.push((start, what, index));
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        let mut message = Message { bytes: &mut self.bytes, start };
        message.raw(header);
        message
    }
}

/// A message being written.
pub(crate) struct Message<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Message<'_> {
    /// Bytes that are no attribute (a header, a structure).
    pub(crate) fn raw(&mut self, data: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
    /// An attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }
    /// A text attribute, NUL-terminated.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }
    /// An attribute made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.attr(kind, &[]);
        inside(&mut Message { bytes: self.bytes, start: usize::MAX });
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        if self.start != usize::MAX {
            let len = (self.bytes.len() - self.start) as u32;
            self.bytes[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
        }
    }
}

/// A netlink socket. It belongs to the namespace the thread was in when it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// For links, addresses, routes and queueing disciplines.
    pub fn route() -> Result<Netlink> {
        Netlink::open(libc::NETLINK_ROUTE)
    }

    pub(crate) fn open(protocol: i32) -> Result<Netlink> {
        let call = |call| move |e: std::io::Error| Error::Call { call, errno: e.into() };
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))
            .map_err(call("socket(AF_NETLINK)"))?;
        // Explanations beside error numbers. Old kernels lack them, which costs only the explanation.
        let _ = set_option(&socket, libc::NETLINK_EXT_ACK);
        // Do not send our own message back inside each error.
        let _ = set_option(&socket, libc::NETLINK_CAP_ACK);
        socket.bind(&kernel_address()?).map_err(call("bind(AF_NETLINK)"))?;
        Ok(Netlink { socket })
    }

    /// Sends every message of the batch and waits until the kernel has worked through all of them. The first refusal
    /// is the error; the others have been carried out nevertheless.
    pub fn apply(&mut self, mut batch: Batch) -> Result<()> {
        let mut refused = None;
        let mut first = 0;
        while first < batch.starts.len() {
            let begin = batch.starts[first].0;
            // as many whole messages as fit, at least one
            let mut next = first + 1;
            let end_of = |i: usize| batch.starts.get(i).map_or(batch.bytes.len(), |s| s.0);
            while next < batch.starts.len() && end_of(next + 1) - begin <= CHUNK {
                next += 1;
            }
            let end = end_of(next);
            let last = batch.starts[next - 1].0;
            let flags = u16::from_ne_bytes([batch.bytes[last + 6], batch.bytes[last + 7]]) | ACK;
            batch.bytes[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
            self.send(&batch.bytes[begin..end])?;
            self.until((next - 1) as u32, &batch, &mut refused, &mut |_, _| {})?;
            first = next;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends one message that asks for data and hands every answer (type, payload) to `answer`.
    pub(crate) fn ask(&mut self, mut batch: Batch, mut answer: impl FnMut(u16, &[u8])) -> Result<()> {
        let flags = u16::from_ne_bytes([batch.bytes[6], batch.bytes[7]]) | ACK;
        batch.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.send(&batch.bytes)?;
        let mut refused = None;
        self.until(0, &batch, &mut refused, &mut answer)?;
        refused.map_or(Ok(()), Err)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self
            .socket
            .send_to(bytes, &kernel_address()?)
            .map_err(|e| Error::Call { call: "sendto(AF_NETLINK)", errno: e.into() })?;
        if sent == bytes.len() { Ok(()) } else { Err(Error::Answer { bytes: sent }) }
    }

    /// Reads answers until the one for sequence number `last` has come.
    fn until(
        &mut self,
        last: u32,
        batch: &Batch,
        refused: &mut Option<Error>,
        answer: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = loop {
                match self.socket.read(&mut buffer) {
                    Ok(n) => break n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Error::Call { call: "recv(AF_NETLINK)", errno: e.into() }),
                }
            };
            let mut rest = &buffer[..n];
            while rest.len() >= HEADER {
                let len = ne32(rest, 0) as usize;
                let (kind, flags, sequence) = (ne16(rest, 4), ne16(rest, 6), ne32(rest, 8));
                if len < HEADER || len > rest.len() {
                    return Err(Error::Answer { bytes: n });
                }
                let body = &rest[HEADER..len];
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
                match kind {
                    NLMSG_ERROR if body.len() >= 4 => {
                        let errno = ne32(body, 0) as i32;
                        if errno != 0 && refused.is_none() {
                            *refused = Some(error_of(batch, sequence, -errno, body, flags));
                        }
                        if sequence == last {
                            return Ok(());
                        }
                    }
                    NLMSG_DONE if sequence == last => return Ok(()),
                    _ => answer(kind, body),
                }
            }
        }
    }
}

fn error_of(batch: &Batch, sequence: u32, errno: i32, body: &[u8], flags: u16) -> Error {
    const ACK_TLVS: u16 = 0x200;
    let what = match batch.starts.get(sequence as usize) {
        Some((_, what, index)) => format!("{what} {index}"),
        None => format!("message {sequence}"),
    };
    let mut said = String::new();
    if flags & ACK_TLVS != 0 {
        for (kind, value) in attributes(body.get(4 + HEADER..).unwrap_or(&[])) {
            if kind == NLMSGERR_ATTR_MSG {
                said = String::from_utf8_lossy(value).trim_end_matches('\0').to_string();
            }
        }
    }
    Error::Netlink { what, errno: Errno(errno), said }
}

/// The attributes in a run of bytes, as (kind, value). Stops at the first that makes no sense.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(ne16(bytes.get(..4)?, 0));
        // the two high bits are flags (nested, network byte order)
        let kind = ne16(bytes, 2) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn ne16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}
pub(crate) fn ne32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

fn kernel_address() -> Result<SockAddr> {
    // SAFETY: the closure fills in a whole sockaddr_nl and its length, as try_init asks. All-zero but for the family
    // is the kernel's address, and as a bind address lets the kernel choose.
    let made = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_nl>();
            address.write(mem::zeroed());
            (*address).nl_family = libc::AF_NETLINK as libc::sa_family_t;
            *len = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            Ok(())
        })
    };
    made.map(|((), address)| address).map_err(|e| Error::Call { call: "sockaddr_nl", errno: e.into() })
}

fn set_option(socket: &Socket, option: libc::c_int) -> Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length describe `on`, which outlives the call.
    let returned = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    crate::error::check("setsockopt(SOL_NETLINK)", returned).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_padding() {
        let mut batch = Batch::new();
        batch.message("test", 0, 7, 0, &[1, 2]).attr(1, &[9; 5]).nest(2, |m| {
            m.text(3, "ab");
        });
        let b = &batch.bytes;
        assert_eq!(ne32(b, 0) as usize, b.len());
        // header 16 + structure 2 padded to 4 + attribute 4+5 padded to 12 + nest 4 + (4+3 padded to 8)
        assert_eq!(b.len(), 16 + 4 + 12 + 4 + 8);
        let attributes: Vec<_> = attributes(&b[20..]).collect();
        assert_eq!(attributes[0], (1, &[9u8; 5][..]));
        assert_eq!(attributes[1], (2, &[7, 0, 3, 0, b'a', b'b', 0, 0][..]));
    }

    #[test]
    fn hostile_attributes_end_the_walk() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its header");
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0, "longer than what is there");
        assert_eq!(attributes(&[1]).count(), 0);
    }
}
