//! A driver's own counters and its name, by the old ethtool call: there is no other way to their values.
//!
//! How: the kernel writes as many names or values as the driver has at that moment, whatever number it was asked for
//! before, so the answer goes into memory of our own with a wide stretch behind it that cannot be written: a driver that
//! grew in between gets `EFAULT` and not our heap.
//!
//! Invariants: names and values of one reading have the same number, or the reading is refused; nothing needs a
//! privilege.
//! Absent on purpose: changing anything.

use crate::error::check;
use crate::{Errno, Error, Result, link};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
const NAME_BYTES: usize = 32;
/// Memory the kernel may write: names of 32,767 counters.
const ROOM: usize = 1 << 20;
/// Memory behind it that stays closed: 32 times that.
const CLOSED: usize = 32 << 20;

/// Memory for answers whose length the kernel alone decides.
#[derive(Debug)]
struct Answer {
    memory: NonNull<u8>,
}

// SAFETY: the memory belongs to this value alone and has no tie to the thread that mapped it.
unsafe impl Send for Answer {}

impl Answer {
    fn new() -> Result<Answer> {
        // SAFETY: a new private mapping at an address the kernel chooses touches nothing that is there.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                ROOM + CLOSED,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(Error::Call { call: "mmap", errno: Errno::last() });
        }
        let memory =
            NonNull::new(mapped.cast()).ok_or(Error::Call { call: "mmap", errno: Errno(libc::ENOMEM) })?;
        let answer = Answer { memory };
        // SAFETY: the range is the first part of the mapping just made, and nobody else knows it.
        check("mprotect", unsafe {
            libc::mprotect(answer.memory.as_ptr().cast(), ROOM, libc::PROT_READ | libc::PROT_WRITE)
        })?;
        Ok(answer)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the first ROOM bytes are mapped readable and writable and zero-filled, live as long as `self`, and are
        // reached through `&mut self` only.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), ROOM) }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing borrows it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), ROOM + CLOSED) };
    }
}

/// What a driver says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Its name, such as `mlx5_core`.
    pub name: String,
    /// Firmware of the device; empty where there is none.
    pub firmware: String,
    /// The device's place, such as `0000:65:00.0`; empty where it has none.
    pub bus: String,
}

/// A socket for questions to drivers. It belongs to the namespace the thread was in when it was opened.
#[derive(Debug)]
pub struct Drivers {
    socket: OwnedFd,
    answer: Answer,
}

impl Drivers {
    /// Opens a socket in this thread's namespace.
    pub fn open() -> Result<Drivers> {
        // SAFETY: socket takes plain numbers.
        let fd = check("socket(AF_INET)", unsafe {
            libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Drivers { socket, answer: Answer::new()? })
    }

    /// Which driver an interface has. `None` where it does not say.
    pub fn driver(&mut self, interface: &str) -> Result<Option<Driver>> {
        const BYTES: usize = 196;
        if !self.call(interface, &[GDRVINFO], BYTES)? {
            return Ok(None);
        }
        let bytes = self.answer.bytes();
        let text = |at: usize| {
            let field = bytes.get(at..at + NAME_BYTES).unwrap_or(&[]);
            String::from_utf8_lossy(field.split(|b| *b == 0).next().unwrap_or(&[])).into_owned()
        };
        Ok(Some(Driver { name: text(4), firmware: text(4 + 2 * NAME_BYTES), bus: text(4 + 3 * NAME_BYTES) }))
    }

    /// The names of the driver's counters in their order. They change when its queues do.
    pub fn names(&mut self, interface: &str) -> Result<Vec<String>> {
        let n = self.count(interface)?;
        if n == 0 || !self.call(interface, &[GSTRINGS, ETH_SS_STATS, n as u32], 12)? {
            return Ok(Vec::new());
        }
        let bytes = self.answer.bytes();
        let n = number(bytes, 8);
        let names = bytes.get(12..12 + n.saturating_mul(NAME_BYTES)).unwrap_or(&[]);
        let text = |name: &[u8]| {
            String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or(&[])).trim().to_owned()
        };
        Ok(names.chunks_exact(NAME_BYTES).map(text).collect())
    }

    /// The values of the driver's counters, in the order of their names.
    pub fn values(&mut self, interface: &str, into: &mut Vec<u64>) -> Result<()> {
        into.clear();
        let n = self.count(interface)?;
        if n == 0 || !self.call(interface, &[GSTATS, n as u32], 8)? {
            return Ok(());
        }
        let bytes = self.answer.bytes();
        let n = number(bytes, 4);
        let values = bytes.get(8..8 + n.saturating_mul(8)).unwrap_or(&[]);
        into.extend(values.as_chunks::<8>().0.iter().map(|v| u64::from_ne_bytes(*v)));
        Ok(())
    }

    /// Counters the driver has now.
    fn count(&mut self, interface: &str) -> Result<usize> {
        const MASK: u32 = 1 << ETH_SS_STATS;
        if !self.call(interface, &[GSSET_INFO, 0, MASK, 0, 0], 20)? {
            return Ok(0);
        }
        let bytes = self.answer.bytes();
        // the mask comes back without the sets the driver does not have
        Ok(if number(bytes, 8) & MASK as usize == 0 { 0 } else { number(bytes, 16) })
    }

    /// Calls with `request` at the start of the answer's memory. `false` where the driver does not know the request.
    fn call(&mut self, interface: &str, request: &[u32], clear: usize) -> Result<bool> {
        link::check_name(interface)?;
        let bytes = self.answer.bytes();
        bytes[..clear].fill(0);
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(request) {
            *place = word.to_ne_bytes();
        }
        // SAFETY: all-zero is a valid ifreq.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.as_bytes()) {
            *to = *from as libc::c_char;
        }
        ifreq.ifr_ifru.ifru_data = self.answer.memory.as_ptr().cast();
        // SAFETY: `ifreq` outlives the call. The kernel reads the request from, and writes the answer to, the memory from
        // `ifru_data` on in rising order, and never jumps: what is beyond ROOM is closed for CLOSED bytes, and there the
        // write fails. No driver has counters for more than that.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
        match check("ioctl(SIOCETHTOOL)", done) {
            Ok(_) => Ok(true),
            Err(Error::Call { errno, .. })
                if [libc::EOPNOTSUPP, libc::EINVAL, libc::EFAULT].contains(&errno.0) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    crate::netlink::ne32(bytes, at) as usize
}
