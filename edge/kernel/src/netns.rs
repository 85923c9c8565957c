//! Network namespaces with names, the way `ip netns` makes them: a bind mount under `/run/netns`.
//!
//! Invariants: [`Entered`] puts the thread back where it was when dropped, and is not `Send`, since a namespace
//! belongs to a thread. A namespace that was made here can be used by `ip netns exec`, and the other way round.

use crate::error::check;
use crate::{Errno, Error, Result};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Where names of namespaces live.
pub const DIR: &str = "/run/netns";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// The namespace this thread is in.
    pub fn current() -> Result<Netns> {
        open(Path::new("/proc/thread-self/ns/net")).map(Netns)
    }

    /// The namespace with this name.
    pub fn open(name: &str) -> Result<Netns> {
        open(&path(name)).map(Netns)
    }

    /// The namespace a process is in.
    pub fn of_process(pid: u32) -> Result<Netns> {
        open(Path::new(&format!("/proc/{pid}/ns/net"))).map(Netns)
    }

    /// The kernel's number of it, the same wherever it is opened: what `readlink /proc/self/ns/net` shows.
    pub fn number(&self) -> Result<u32> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = self.0.metadata().map_err(|e| Error::Call { call: "fstat", errno: e.into() })?;
        Ok(u32::try_from(meta.ino()).unwrap_or(u32::MAX))
    }

    /// Moves this thread into the namespace until the guard is dropped. Sockets opened meanwhile stay in it.
    pub fn enter(&self) -> Result<Entered> {
        let before = Netns::current()?;
        set(&self.0)?;
        Ok(Entered { before, thread_bound: PhantomData })
    }

    /// Runs something inside the namespace, on this thread.
    pub fn run<T>(&self, inside: impl FnOnce() -> T) -> Result<T> {
        let _back = self.enter()?;
        Ok(inside())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The thread is in another namespace as long as this lives.
#[derive(Debug)]
pub struct Entered {
    before: Netns,
    thread_bound: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Cannot fail for a descriptor that was just this thread's namespace; there is nobody to tell if it did.
        let _ = set(&self.before.0);
    }
}

/// Moves this thread into a namespace by name until the guard is dropped.
pub fn enter(name: &str) -> Result<Entered> {
    Netns::open(name)?.enter()
}

/// Makes a namespace and gives it a name. It starts empty: one loopback interface, down.
pub fn create(name: &str) -> Result<Netns> {
    prepare_dir()?;
    let at = path(name);
    OpenOptions::new().write(true).create_new(true).open(&at).map_err(|e| file_error(&at, e))?;
    let made = (|| {
        let _back = Entered { before: Netns::current()?, thread_bound: PhantomData };
        unshare()?;
        mount(Path::new("/proc/thread-self/ns/net"), &at, libc::MS_BIND)?;
        Netns::current()
    })();
    if made.is_err() {
        // Leave no half-made name behind; the first error is the one worth reporting.
        let _ = fs::remove_file(&at);
    }
    made
}

/// Makes a namespace without a name. It ends when the last descriptor, socket and process in it are gone.
pub fn anonymous() -> Result<Netns> {
    let _back = Entered { before: Netns::current()?, thread_bound: PhantomData };
    unshare()?;
    Netns::current()
}

/// Takes the name away. The namespace ends when its last process and socket are gone. No such name: nothing to do.
pub fn delete(name: &str) -> Result<()> {
    let at = path(name);
    let c = cstring(&at)?;
    // SAFETY: `c` is a NUL-terminated string that outlives the call.
    let unmounted = unsafe { libc::umount2(c.as_ptr(), libc::MNT_DETACH) };
    if unmounted < 0 {
        let errno = Errno::last();
        // EINVAL: a name without a mount, left by a crash between the two steps of `create`
        if errno.0 != libc::EINVAL && errno.0 != libc::ENOENT {
            return Err(Error::File { path: at.display().to_string(), errno });
        }
    }
    match fs::remove_file(&at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_error(&at, e)),
        _ => Ok(()),
    }
}

/// The names that exist, sorted.
pub fn list() -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(file_error(Path::new(DIR), e)),
    };
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn open(at: &Path) -> Result<File> {
    File::open(at).map_err(|e| file_error(at, e))
}

/// Leaves this thread in a new namespace; the callers hold a guard that takes it back.
fn unshare() -> Result<()> {
    // SAFETY: unshare takes no pointers and changes only this thread.
    check("unshare(CLONE_NEWNET)", unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

fn set(ns: &File) -> Result<()> {
    // SAFETY: setns takes a descriptor that is open for as long as `ns` is borrowed, and no pointers.
    check("setns(CLONE_NEWNET)", unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// As `ip netns` does: the directory must be a shared mount, so that names made in one mount namespace are seen in
/// the others.
fn prepare_dir() -> Result<()> {
    let dir = Path::new(DIR);
    fs::create_dir_all(dir).map_err(|e| file_error(dir, e))?;
    if mount(Path::new(""), dir, libc::MS_SHARED | libc::MS_REC).is_err() {
        mount(dir, dir, libc::MS_BIND | libc::MS_REC)?;
        mount(Path::new(""), dir, libc::MS_SHARED | libc::MS_REC)?;
    }
    Ok(())
}

fn mount(from: &Path, to: &Path, flags: libc::c_ulong) -> Result<()> {
    let (from, to) = (cstring(from)?, cstring(to)?);
    // SAFETY: both are NUL-terminated strings that outlive the call; a null data pointer and type are allowed for
    // bind and propagation mounts.
    let returned =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    check("mount", returned).map(drop)
}

fn cstring(at: &Path) -> Result<CString> {
    CString::new(at.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::File { path: at.display().to_string(), errno: Errno(libc::EINVAL) })
}

pub(crate) fn file_error(at: &Path, e: std::io::Error) -> Error {
    Error::File { path: at.display().to_string(), errno: e.into() }
}
