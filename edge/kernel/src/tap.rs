//! TAP devices: an interface whose other end is a file of whole Ethernet frames.

use crate::error::check;
use crate::netns::file_error;
use crate::{Result, link};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Opens a TAP device of this name in this thread's namespace. It is gone when the file is closed.
pub fn open(name: &str) -> Result<File> {
    link::check_name(name)?;
    let at = Path::new("/dev/net/tun");
    let file = OpenOptions::new().read(true).write(true).open(at).map_err(|e| file_error(at, e))?;
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is; the name is NUL-terminated since it is
    // shorter than the zeroed array.
    check("ioctl(TUNSETIFF)", unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}
