//! Packets as they cross a namespace's interfaces: a ring the kernel fills (packet(7), TPACKET_V3).
//!
//! How: the socket is made without a protocol, so that nothing arrives before filter and ring are set; then
//! it is bound. The ring is memory shared with the kernel, cut into blocks. A block belongs to one side at a time, by a word
//! at its beginning: the kernel hands it over full, or after a time-out, and gets it back after it was read. Reading
//! makes no system call.
//!
//! Invariants: a block's bytes are read only while it is ours; any bytes in it give packets or end the walk; what the
//! kernel could not place is counted by it and told by [`PacketRing::statistics`].
//! Absent on purpose: what a filter means, promiscuous mode, and time stamps of network cards: their clocks often count from
//! elsewhere (TAI, or the card's start), and what leaves has none.

use crate::error::check;
use crate::udp::set;
use crate::{Errno, Error, Result};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// One instruction of a classic BPF program, as the kernel takes it (linux/filter.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip where a condition holds.
    pub jt: u8,
    /// And where it does not.
    pub jf: u8,
    /// A constant.
    pub k: u32,
}

/// Instructions of a program at most (BPF_MAXINSNS).
pub const INSTRUCTIONS_MAX: usize = 4_096;
/// Bytes of a block.
const BLOCK_BYTES: usize = 1 << 18;
/// A block that is not full is handed over after this, milliseconds.
const RETIRE_MS: u32 = 20;

/// A packet in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// From its link header on, cut to what the filter keeps.
    pub bytes: &'a [u8],
    /// Bytes it had.
    pub length: u32,
    /// When the kernel received or sent it, Unix nanoseconds.
    pub at_ns: u64,
    /// Interface.
    pub ifindex: u32,
    /// Kind of link (ARPHRD_*): 1 is Ethernet, 772 the loopback interface, 65534 has no header.
    pub hardware: u16,
    /// It left by the interface.
    pub outgoing: bool,
    /// VLAN tag the kernel took out of it: protocol and tag.
    pub vlan: Option<(u16, u16)>,
}

/// What the kernel did with packets that passed the filter, since the ring was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All of them, the dropped ones too.
    pub passed: u64,
    /// Those for which there was no room.
    pub dropped: u64,
}

/// A ring of packets.
#[derive(Debug)]
pub struct PacketRing {
    fd: OwnedFd,
    map: NonNull<u8>,
    blocks: usize,
    next: usize,
    so_far: Statistics,
}

// SAFETY: the mapping belongs to this value alone and is reached only through it, from one thread at a time.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// A ring of about `bytes` (at least two blocks) over the interfaces of this thread's namespace: one, or all where
    /// `ifindex` is 0. Only what the program lets through arrives. Needs CAP_NET_RAW.
    pub fn open(ifindex: u32, program: &[Instruction], bytes: usize) -> Result<PacketRing> {
        // SAFETY: socket takes plain numbers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check("socket(AF_PACKET)", fd)?;
        // SAFETY: the descriptor was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        attach(fd.as_fd(), program)?;
        let version = libc::tpacket_versions::TPACKET_V3 as i32;
        set(fd.as_fd(), "setsockopt(PACKET_VERSION)", libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let blocks = (bytes / BLOCK_BYTES).clamp(2, 1_024);
        // block size, blocks, frame size, frames, time-out, private bytes, features
        let frame = 2_048u32;
        let frames = (blocks * BLOCK_BYTES) as u32 / frame;
        let request = [BLOCK_BYTES as u32, blocks as u32, frame, frames, RETIRE_MS, 0, 0];
        set(fd.as_fd(), "setsockopt(PACKET_RX_RING)", libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: maps the ring just made, of exactly this length, wherever the kernel likes; the result is checked.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                blocks * BLOCK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        let map = match NonNull::new(map.cast::<u8>()) {
            Some(map) if map.as_ptr().cast() != libc::MAP_FAILED => map,
            _ => return Err(Error::Call { call: "mmap(PACKET_RX_RING)", errno: Errno::last() }),
        };
        let ring = PacketRing { fd, map, blocks, next: 0, so_far: Statistics::default() };
        ring.bind(ifindex)?;
        Ok(ring)
    }

    fn bind(&self, ifindex: u32) -> Result<()> {
        let addr = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: ifindex as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of_val(&addr) as libc::socklen_t;
        // SAFETY: `addr` is a link-layer address of `len` bytes that outlives the call.
        let bound = unsafe { libc::bind(self.fd.as_raw_fd(), std::ptr::from_ref(&addr).cast(), len) };
        check("bind(AF_PACKET)", bound).map(drop)
    }

    /// The word that says whose a block is.
    fn owner(&self, block: usize) -> &AtomicU32 {
        // SAFETY: `block` is less than `blocks`, so the word lies in the mapping, aligned since blocks are; the mapping
        // lives as long as `self`, and both sides use it as one word.
        unsafe { AtomicU32::from_ptr(self.map.as_ptr().add(block * BLOCK_BYTES + STATUS).cast()) }
    }

    /// Hands over the packets of the next block that is full, as long as `each` wants more of them, and gives the block
    /// back. Whether there was one; wait for more with [`crate::poll::readable`].
    pub fn next_block(&mut self, each: &mut dyn FnMut(Packet<'_>) -> bool) -> bool {
        let block = self.next;
        if self.owner(block).load(Ordering::Acquire) & OURS == 0 {
            return false;
        }
        // SAFETY: the block lies in the mapping and is ours until its word says otherwise, which happens below, after
        // the last use of the slice; the kernel does not write to it meanwhile.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(block * BLOCK_BYTES), BLOCK_BYTES) };
        walk(bytes, each);
        self.owner(block).store(0, Ordering::Release);
        self.next = (block + 1) % self.blocks;
        true
    }

    /// What passed the filter and what was dropped.
    pub fn statistics(&mut self) -> Result<Statistics> {
        let mut got = [0u32; 3];
        let mut len = size_of_val(&got) as libc::socklen_t;
        // SAFETY: `got` is `len` writable bytes and `len` is writable, both for the length of the call.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                got.as_mut_ptr().cast(),
                &mut len,
            )
        };
        check("getsockopt(PACKET_STATISTICS)", done)?;
        // the kernel begins anew with every reading
        self.so_far.passed += u64::from(got[0]);
        self.so_far.dropped += u64::from(got[1]);
        Ok(self.so_far)
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `open` mapped; nothing borrowed from it outlives `self`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.blocks * BLOCK_BYTES) };
    }
}

/// Attaches a program; the kernel checks it first.
fn attach(fd: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    let len = u16::try_from(program.len()).ok().filter(|n| usize::from(*n) <= INSTRUCTIONS_MAX);
    let Some(len) = len else {
        return Err(Error::Call { call: "setsockopt(SO_ATTACH_FILTER)", errno: Errno(libc::E2BIG) });
    };
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // the kernel copies the instructions `program` points to, and only reads them
    set(fd, "setsockopt(SO_ATTACH_FILTER)", libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Where a block's status word is, and the number of its packets, and where the first of them is
/// (linux/if_packet.h, tpacket_hdr_v1).
const STATUS: usize = 8;
const COUNT: usize = 12;
const FIRST: usize = 16;
/// The block is ours (TP_STATUS_USER).
const OURS: u32 = 1;
/// Bytes of a packet's header; the link-layer address follows it.
const HEADER: usize = 48;
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;
/// sll_pkttype of what leaves (PACKET_OUTGOING).
const OUTGOING: u8 = 4;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The packets of a block, until one makes no sense or is the last one wanted.
fn walk(block: &[u8], each: &mut dyn FnMut(Packet<'_>) -> bool) {
    let (Some(count), Some(first)) = (word(block, COUNT), word(block, FIRST)) else { return };
    let mut at = first as usize;
    for _ in 0..count {
        let Some((packet, next)) = block.get(at..).and_then(one) else { return };
        if !each(packet) || next == 0 {
            return;
        }
        at = at.saturating_add(next as usize);
    }
}

/// A packet, and how far away the next one is.
fn one(bytes: &[u8]) -> Option<(Packet<'_>, u32)> {
    let (seconds, nanoseconds) = (word(bytes, 4)?, word(bytes, 8)?);
    let (kept, length, status) = (word(bytes, 12)? as usize, word(bytes, 16)?, word(bytes, 20)?);
    let start = usize::from(half(bytes, 24)?);
    let vlan = (status & VLAN_VALID != 0).then(|| {
        // 0x8100 is what a kernel means that does not say
        let tpid = if status & VLAN_TPID_VALID != 0 { half(bytes, 36) } else { None };
        (tpid.unwrap_or(0x8100), word(bytes, 32).unwrap_or(0) as u16)
    });
    let packet = Packet {
        bytes: bytes.get(start..start.checked_add(kept)?)?,
        length,
        at_ns: u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds),
        ifindex: word(bytes, HEADER + 4)?,
        hardware: half(bytes, HEADER + 8)?,
        outgoing: *bytes.get(HEADER + 10)? == OUTGOING,
        vlan,
    };
    Some((packet, word(bytes, 0)?))
}

/// The name of an interface of this thread's namespace.
pub fn interface_name(ifindex: u32) -> Option<String> {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: `name` has the IF_NAMESIZE bytes the call may write.
    let got = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    if got.is_null() {
        return None;
    }
    // SAFETY: the call succeeded and so wrote a NUL-terminated name into `name`, which lives here.
    Some(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

/// The number of an interface of this thread's namespace, by its name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    const ACCEPT: Instruction = Instruction { code: 0x06, jt: 0, jf: 0, k: 96 };

    #[test]
    fn any_block_is_an_outcome() {
        let mut block = vec![0u8; 256];
        for value in [0, 1, 16, 48, 200, 255, u32::MAX] {
            for at in (0..252).step_by(4) {
                block[COUNT..COUNT + 4].copy_from_slice(&7u32.to_ne_bytes());
                block[at..at + 4].copy_from_slice(&value.to_ne_bytes());
                walk(&block, &mut |p| p.bytes.len() <= block.len());
            }
        }
        walk(&[], &mut |_| true);
    }

    /// Every datagram over the loopback interface of an own namespace is in the ring, once for each direction, cut as asked.
    #[test]
    fn what_crosses_an_interface_is_in_the_ring() {
        if !crate::caps::has(crate::caps::Capability::CAP_SYS_ADMIN) {
            println!("skipped: needs CAP_SYS_ADMIN for a namespace");
            return;
        }
        let ns = crate::netns::anonymous().unwrap();
        let _inside = ns.enter().unwrap();
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        if !up.is_ok_and(|s| s.success()) {
            println!("skipped: needs ip");
            return;
        }
        let lo = interface_index("lo").unwrap();
        assert_eq!(interface_name(lo).as_deref(), Some("lo"));
        let mut ring = PacketRing::open(lo, &[ACCEPT], 1 << 20).unwrap();
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = crate::timestamp::unix_ns();
        for _ in 0..100 {
            from.send_to(&[7; 400], to.local_addr().unwrap()).unwrap();
        }
        let (mut outgoing, mut incoming) = (0, 0);
        while outgoing + incoming < 200 {
            crate::poll::readable(&[ring.as_fd()], Some(Duration::from_secs(5))).unwrap();
            let there = ring.next_block(&mut |p| {
                assert_eq!((p.bytes.len(), p.length, p.ifindex, p.hardware), (96, 442, lo, 772));
                assert!(p.at_ns >= before && p.at_ns < before + 10_000_000_000);
                if p.outgoing {
                    outgoing += 1
                } else {
                    incoming += 1
                }
                true
            });
            assert!(there, "{outgoing} {incoming}");
        }
        assert_eq!((outgoing, incoming), (100, 100));
        assert_eq!(ring.statistics().unwrap(), Statistics { passed: 200, dropped: 0 });
    }

    #[test]
    fn a_program_the_kernel_does_not_like_is_refused() {
        let jump_out = Instruction { code: 0x05, jt: 0, jf: 0, k: 9 };
        if crate::caps::has(crate::caps::Capability::CAP_NET_RAW) {
            assert!(PacketRing::open(0, &[jump_out], 1 << 20).is_err());
            assert!(PacketRing::open(0, &[ACCEPT; 5_000], 1 << 20).is_err());
        } else {
            println!("skipped: needs CAP_NET_RAW");
        }
    }
}
