//! Giving up what a process no longer needs.

use crate::error::check;
use crate::{Error, Result};
pub use caps::Capability;
use caps::{CapSet, CapsHashSet};

fn refused(e: caps::errors::CapsError) -> Error {
    Error::Capabilities { said: e.to_string() }
}

/// Whether this thread has the capability in effect.
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Keeps only these capabilities (of those there are), for this thread and the threads it starts later, and makes
/// sure no program it runs ever gets more. Call it before other threads are started.
pub fn keep_only(keep: &[Capability]) -> Result<()> {
    let there = caps::read(None, CapSet::Permitted).map_err(refused)?;
    let keep: CapsHashSet = keep.iter().copied().filter(|c| there.contains(c)).collect();
    // The bounding set first: shrinking it needs CAP_SETPCAP, which the next steps may take away.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(refused)? {
        for capability in caps::read(None, CapSet::Bounding).map_err(refused)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(refused)?;
        }
    }
    // A kernel without ambient capabilities has none to clear.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::set(None, CapSet::Effective, &keep).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &keep).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    no_new_privileges()
}

/// From here on, running a set-user-id program or one with file capabilities gives nothing more.
pub fn no_new_privileges() -> Result<()> {
    // SAFETY: this prctl takes plain numbers only.
    check("prctl(PR_SET_NO_NEW_PRIVS)", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
        .map(drop)
}
