//! Kernel settings of a network namespace: files under `/proc/sys`, which show the namespace of the thread that
//! opens them.

use crate::Result;
use crate::netns::file_error;
use std::path::{Path, PathBuf};

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Sets `key` (with slashes: `net/ipv6/conf/all/forwarding`) in this thread's namespace.
pub fn write(key: &str, value: impl std::fmt::Display) -> Result<()> {
    let at = path(key);
    std::fs::write(&at, value.to_string()).map_err(|e| file_error(&at, e))
}

/// Reads `key` in this thread's namespace, without the line end.
pub fn read(key: &str) -> Result<String> {
    let at = path(key);
    std::fs::read_to_string(&at).map(|s| s.trim_end().to_string()).map_err(|e| file_error(&at, e))
}

/// Whether this kernel has the setting.
pub fn exists(key: &str) -> bool {
    path(key).exists()
}
