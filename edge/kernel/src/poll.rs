//! Waiting for sockets, with a time-out in nanoseconds, and waking a thread that waits.

use crate::error::check;
use crate::{Errno, Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Descriptors one wait can watch.
pub const WAIT_MAX: usize = 64;

/// Waits until one of at most [`WAIT_MAX`] descriptors can be read, or the time is over. Bit `i` of the result says that
/// `fds[i]` can be read (or has an error to be read). A signal ends the wait early with no bit set.
pub fn readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<u64> {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; WAIT_MAX];
    polled.iter_mut().zip(fds).for_each(|(p, fd)| p.fd = fd.as_raw_fd());
    let polled = polled.get_mut(..fds.len().min(WAIT_MAX)).unwrap_or_default();
    let time = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` is an array of as many pollfd as said, `time` is null or a timespec that outlives the call, and
    // no signal mask is given.
    let n = unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, time, std::ptr::null()) };
    if n < 0 {
        let errno = Errno::last();
        return if errno.0 == libc::EINTR { Ok(0) } else { Err(Error::Call { call: "ppoll", errno }) };
    }
    Ok(polled.iter().enumerate().filter(|(_, p)| p.revents != 0).fold(0, |bits, (i, _)| bits | 1 << i))
}

/// Wakes a thread that waits in [`readable`] on it.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// A waker nobody has woken yet.
    pub fn new() -> Result<Waker> {
        // SAFETY: eventfd takes plain numbers only.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check("eventfd", fd)?;
        // SAFETY: the descriptor was just made and nobody else has it.
        Ok(Waker(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
    /// Makes the waiting end readable.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: writes eight bytes from a number that lives here. It fails only when the counter is full, and then
        // the other end is readable anyway.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }
    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut n = 0u64;
        // SAFETY: reads eight bytes into a number that lives here. It fails only when nothing is there to clear.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), std::ptr::from_mut(&mut n).cast(), 8) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_is_readable_until_cleared() {
        let (a, b) = (Waker::new().unwrap(), Waker::new().unwrap());
        let none = Some(Duration::ZERO);
        assert_eq!(readable(&[a.as_fd(), b.as_fd()], none), Ok(0));
        b.wake();
        assert_eq!(readable(&[a.as_fd(), b.as_fd()], None), Ok(2));
        b.clear();
        assert_eq!(readable(&[a.as_fd(), b.as_fd()], none), Ok(0));
    }
}
