//! Other processes: started so that they outlive a terminal, and ended only when they are the ones that were
//! started.
//!
//! A process id alone is no identity: it is given again after the process ends. [`Process`] pairs it with the start
//! time of the process, and signals go through a pidfd opened before that pair is checked, so a signal never hits
//! a stranger.

use crate::error::check;
use crate::{Errno, Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A process by number and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Clock ticks between boot and its start (`/proc/PID/stat`, field 22).
    pub started_ticks: u64,
}

/// What can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Terminate,
    /// End now.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Continue,
}

impl Process {
    /// The process with this number now. `None` where there is none, or only its unburied remains.
    pub fn find(pid: u32) -> Option<Process> {
        let (state, started_ticks) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Process { pid, started_ticks })
    }

    /// This process.
    pub fn own() -> Option<Process> {
        Process::find(std::process::id())
    }

    /// Whether it still runs (or stands still).
    pub fn alive(&self) -> bool {
        Process::find(self.pid) == Some(*self)
    }

    /// Whether it is stopped by a signal.
    pub fn stopped(&self) -> bool {
        self.alive() && matches!(stat(self.pid), Some(('T', _)))
    }

    /// Sends a signal to this process and to no other.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // SAFETY: pidfd_open takes numbers only and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid as libc::pid_t, 0) };
        if fd < 0 {
            let errno = Errno::last();
            return Err(if errno.0 == libc::ESRCH {
                Error::Gone { pid: self.pid }
            } else {
                Error::Call { call: "pidfd_open", errno }
            });
        }
        // SAFETY: the call above just returned this descriptor and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // The descriptor pins whoever has the number now; only then is it worth asking whether it is the right one.
        if !self.alive() {
            return Err(Error::Gone { pid: self.pid });
        }
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        // SAFETY: `fd` is an open pidfd; a null siginfo asks the kernel to fill it in; flags are zero.
        let returned = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        check("pidfd_send_signal", returned as libc::c_int).map(drop)
    }

    /// Sets how willingly it lets others run: -20 hardly, 19 very. Where the kernel schedules sessions as groups, the
    /// group of its session is set too, without which the number means nothing beyond that session.
    pub fn set_nice(&self, nice: i32) -> Result<()> {
        // SAFETY: setpriority takes numbers only. A number given to another process since would at worst change how
        // that one is scheduled; callers do this right after the start.
        let returned = unsafe { libc::setpriority(libc::PRIO_PROCESS, self.pid, nice) };
        check("setpriority", returned)?;
        let at = format!("/proc/{}/autogroup", self.pid);
        match std::fs::write(&at, nice.to_string()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { path: at, errno: e.into() })
            }
            _ => Ok(()),
        }
    }

    /// Waits until it has ended, at most so many milliseconds. Whether it has.
    pub fn wait_end(&self, timeout_ms: u32) -> bool {
        // SAFETY: as in `signal`.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid as libc::pid_t, 0) };
        if fd < 0 || !self.alive() {
            if fd >= 0 {
                // SAFETY: just opened, owned by nobody else.
                drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            }
            reap(self.pid);
            return !self.alive();
        }
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as the count says, that outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms as libc::c_int) };
        let ended = ready == 1 || !self.alive();
        // after the look, not before: what ends in between would be said to have ended and left unburied
        if ended {
            reap(self.pid);
        }
        ended
    }
}

/// Waits until one of these has ended, at most so many milliseconds. Which have, by their place in the list.
pub fn wait_any(processes: &[Process], timeout_ms: u32) -> Vec<usize> {
    let open = |p: &Process| {
        // SAFETY: as in `signal`.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, p.pid as libc::pid_t, 0) };
        // SAFETY: just opened, owned by nobody else.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
    };
    let ended = |processes: &[Process]| -> Vec<usize> {
        // looked at first and buried then, as above
        let gone = processes.iter().enumerate().filter(|(_, p)| !p.alive());
        gone.inspect(|(_, p)| reap(p.pid)).map(|(at, _)| at).collect()
    };
    // One that has no descriptor is noticed when the time is over.
    let fds: Vec<OwnedFd> = processes.iter().filter_map(open).collect();
    let already = ended(processes);
    if !already.is_empty() {
        return already;
    }
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: an array of as many pollfd as said, that outlives the call.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms as libc::c_int) };
    ended(processes)
}

/// State letter and start time from `/proc/PID/stat`. The second field is a name in brackets that may itself hold
/// spaces and brackets, so the fields are counted from the last closing one.
fn stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // state is field 3, the start time field 22
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Buries a child of ours that has ended; harmless for anybody else's.
fn reap(pid: u32) {
    let mut status = 0;
    // SAFETY: the status pointer is valid for the call; WNOHANG never waits.
    unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, libc::WNOHANG) };
}

/// Makes the command's process the head of a session of its own, so that neither Ctrl-C nor the end of the terminal
/// reaches it.
pub fn detach(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
    }
}

/// From now on a write that nobody will read ends this process silently, as people expect of what they pipe into `head`.
/// (Rust's runtime asks for an error instead, which a program that prints has no use for.)
pub fn end_when_nobody_reads() {
    // SAFETY: only sets the disposition of one signal back to the system's default; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The monotonic clock BPF programs read too, nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time this process has used so far, all threads, nanoseconds.
pub fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The process at the other end of a local socket, as it was when it connected.
pub fn peer(stream: &std::os::unix::net::UnixStream) -> Result<u32> {
    use std::os::fd::AsRawFd as _;
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_val(&cred) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cred`, which outlives the call.
    let got = unsafe {
        let to = std::ptr::from_mut(&mut cred).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut length)
    };
    crate::error::check("getsockopt(SO_PEERCRED)", got)?;
    Ok(u32::try_from(cred.pid).unwrap_or(0))
}

/// Processor time this thread has used so far.
pub fn thread_cpu() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ticks a second of this kernel (CONFIG_HZ): by what its coarse clocks move.
pub fn kernel_ticks() -> u64 {
    let mut step = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `step` is a timespec that outlives the call; this clock always exists.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut step) };
    match step.tv_nsec {
        1.. => 1_000_000_000 / step.tv_nsec as u64,
        _ => 1,
    }
}

/// Whether this process is run by root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        let line = "12 (a ) b) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 100";
        assert_eq!(parse_stat(line), Some(('S', 4242)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn a_recycled_number_is_not_the_same_process() {
        let own = Process::own().unwrap();
        assert!(own.alive());
        let other = Process { started_ticks: own.started_ticks + 1, ..own };
        assert!(!other.alive());
        assert_eq!(other.signal(Signal::Terminate), Err(Error::Gone { pid: own.pid }));
    }

    #[test]
    fn a_child_is_stopped_continued_and_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        process.signal(Signal::Stop).unwrap();
        while !process.stopped() {
            std::thread::yield_now();
        }
        process.signal(Signal::Continue).unwrap();
        process.signal(Signal::Kill).unwrap();
        assert_eq!(wait_any(&[Process::own().unwrap(), process], 10_000), [1]);
        assert!(child.wait().is_err(), "it is buried already");
        assert!(process.wait_end(10_000));
        assert!(!process.alive());
    }
}
