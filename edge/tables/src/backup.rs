//! Backups of a directory of tables, taken while a hub runs, and their restoration.
//!
//! How: files of the store are created once and never changed, so a backup is a copy of them in the right order: the
//! tables first, each as of a commit, then the log, which from then on has every row the tables' copies lack, then the
//! files that the log names and no commit did. The hub is
//! asked meanwhile to remove nothing of the log by a file in `holds/`. A backup is a directory of its own that a hub
//! could serve; what is the same as in the backup before is a hard link to it.
//! Invariants: a backup that did not end is not there (it is renamed last); everything that was durable when it began is
//! in it, once; a restoration checks every byte and goes to an empty place only.
//! Absent on purpose: packing and sending it elsewhere. It is files that never change: any tool does that well.

use crate::error::TablesError;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What a backup says of itself: a line for each file.
const MANIFEST: &str = "MANIFEST";
const HEAD: &str = "selvedge backup 1";
const PARTIAL: &str = ".partial";
/// A hold is renewed so often, and counts for [`HOLD_MAX`]: that of a backup that was killed ends by itself.
const HOLD_EVERY: Duration = Duration::from_secs(30);
const HOLD_MAX: Duration = Duration::from_secs(600);
/// A removal that was under way when the hold came is over after this.
const SETTLE: Duration = Duration::from_millis(300);

/// What was backed up or restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Where it is.
    pub place: PathBuf,
    /// Files in all.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Of the files, those shared with the backup before.
    pub shared: u64,
    /// Older backups removed.
    pub removed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    crc: u32,
    bytes: u64,
    modified_ns: u128,
}

fn io(path: &Path, e: &std::io::Error) -> TablesError {
    TablesError::Store { what: path.display().to_string(), reason: e.to_string() }
}

fn wrong(path: &Path, reason: impl Into<String>) -> TablesError {
    TablesError::Store { what: path.display().to_string(), reason: reason.into() }
}

/// Whether somebody asks that nothing be removed.
pub(crate) fn is_held(root: &Path) -> bool {
    let Ok(holds) = fs::read_dir(root.join("holds")) else { return false };
    let now = SystemTime::now();
    holds.flatten().any(|h| {
        let at = h.metadata().and_then(|m| m.modified());
        // A clock that went back leaves holds in the future: they count for as long.
        at.is_ok_and(|at| match now.duration_since(at) {
            Ok(age) => age < HOLD_MAX,
            Err(ahead) => ahead.duration() < HOLD_MAX,
        })
    })
}

/// Asks the hub to remove nothing, until it is dropped.
struct Hold {
    path: PathBuf,
    renewed: Instant,
}

impl Hold {
    fn take(root: &Path) -> Result<Hold, TablesError> {
        let dir = root.join("holds");
        let path = dir.join(format!("backup-{}", std::process::id()));
        fs::create_dir_all(&dir).and_then(|()| File::create(&path)).map_err(|e| io(&path, &e))?;
        std::thread::sleep(SETTLE);
        Ok(Hold { path, renewed: Instant::now() })
    }

    fn renew(&mut self) -> Result<(), TablesError> {
        if self.renewed.elapsed() >= HOLD_EVERY {
            let set =
                File::options().write(true).open(&self.path).and_then(|f| f.set_modified(SystemTime::now()));
            set.map_err(|e| io(&self.path, &e))?;
            self.renewed = Instant::now();
        }
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Files below a directory, as paths from `root`, sorted.
fn files(root: &Path, below: &str) -> Result<Vec<String>, TablesError> {
    let mut out = Vec::new();
    let mut dirs = vec![below.to_owned()];
    while let Some(dir) = dirs.pop() {
        let path = root.join(&dir);
        let entries = match fs::read_dir(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(|e| io(&path, &e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| io(&path, &e))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = format!("{dir}/{name}");
            if entry.file_type().map_err(|e| io(&path, &e))?.is_dir() {
                dirs.push(name);
            } else {
                out.push(name);
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Copies one file and syncs it; its checksum and size.
fn copy(from: &Path, to: &Path) -> std::io::Result<(u32, u64)> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut source = File::open(from)?;
    let meta = source.metadata()?;
    let mut target = File::options().write(true).create_new(true).open(to)?;
    target.set_permissions(meta.permissions())?;
    let (mut crc, mut bytes) = (0, 0);
    let mut buf = vec![0u8; 1 << 20];
    loop {
        let n = source.read(&mut buf)?;
        let Some(read) = buf.get(..n).filter(|r| !r.is_empty()) else { break };
        crc = crc32c::crc32c_append(crc, read);
        bytes += n as u64;
        target.write_all(read)?;
    }
    target.set_modified(meta.modified()?)?;
    target.sync_all()?;
    Ok((crc, bytes))
}

fn modified_ns(path: &Path) -> std::io::Result<(u64, u128)> {
    let meta = fs::metadata(path)?;
    let since = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok((meta.len(), since.as_nanos()))
}

fn manifest(path: &Path) -> Result<BTreeMap<String, Entry>, TablesError> {
    let file = path.join(MANIFEST);
    let text = fs::read_to_string(&file).map_err(|e| io(&file, &e))?;
    let (head, rest) = text.split_once('\n').unwrap_or_default();
    if head != HEAD {
        return Err(wrong(&file, format!("expected {HEAD:?} as its first line, a backup of this release")));
    }
    let mut out = BTreeMap::new();
    for line in rest.lines() {
        let entry = || {
            let mut words = line.splitn(4, ' ');
            let crc = u32::from_str_radix(words.next()?, 16).ok()?;
            let bytes = words.next()?.parse().ok()?;
            let modified_ns = words.next()?.parse().ok()?;
            let name = words.next()?;
            let plain = !name.starts_with('/') && !name.split('/').any(|p| p == ".." || p.is_empty());
            plain.then(|| (name.to_owned(), Entry { crc, bytes, modified_ns }))
        };
        let (name, entry) = entry().ok_or_else(|| wrong(&file, format!("the line {line:?} is damaged")))?;
        out.insert(name, entry);
    }
    Ok(out)
}

fn sync_dirs(root: &Path) -> Result<(), TablesError> {
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| io(&dir, &e))?.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                dirs.push(entry.path());
            }
        }
        File::open(&dir).and_then(|d| d.sync_all()).map_err(|e| io(&dir, &e))?;
    }
    Ok(())
}

/// Backups in a directory, oldest first.
fn backups(place: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(place).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.retain(|p| p.join(MANIFEST).is_file() && p.extension().is_none());
    all.sort();
    all
}

/// A backup that is being made.
struct Making<'a> {
    data: &'a Path,
    to: PathBuf,
    before: Option<(PathBuf, BTreeMap<String, Entry>)>,
    manifest: BTreeMap<String, Entry>,
    hold: Hold,
    copied: Copied,
}

impl Making<'_> {
    /// Takes a file into the backup. `false` where it is not there any more.
    fn take(&mut self, name: &str) -> Result<bool, TablesError> {
        self.hold.renew()?;
        let (from, to) = (self.data.join(name), self.to.join(name));
        let (bytes, modified_ns) = match modified_ns(&from) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            found => found.map_err(|e| io(&from, &e))?,
        };
        let same = self.before.as_ref().and_then(|(place, entries)| {
            let entry = *entries.get(name)?;
            (entry.bytes == bytes && entry.modified_ns == modified_ns).then(|| (place.join(name), entry))
        });
        if let Some((old, entry)) = same {
            let linked =
                to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::hard_link(&old, &to));
            if linked.is_ok() {
                self.copied.shared += 1;
                self.put(name, entry);
                return Ok(true);
            }
        }
        match copy(&from, &to) {
            Ok((crc, bytes)) => {
                self.put(name, Entry { crc, bytes, modified_ns });
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io(&to, &e)),
        }
    }

    /// Takes the files of a table's rows that are not taken yet; how many there were.
    fn take_rows(&mut self, table: &str) -> Result<u64, TablesError> {
        let log = format!("tables/{table}/_delta_log");
        let mut all = files(self.data, &format!("tables/{table}"))?;
        all.retain(|name| !name.starts_with(&log) && !self.manifest.contains_key(name));
        for name in &all {
            self.take(name)?;
        }
        Ok(all.len() as u64)
    }

    fn put(&mut self, name: &str, entry: Entry) {
        self.copied.files += 1;
        self.copied.bytes += entry.bytes;
        self.manifest.insert(name.to_owned(), entry);
    }
}

/// Backs up a hub's directory, whether or not a hub uses it, as a new directory in `place`. At most `keep` backups stay.
/// `progress` is told how many files are done and how many are known of.
pub fn backup(
    data: &Path,
    place: &Path,
    keep: usize,
    mut progress: impl FnMut(u64, u64),
) -> Result<Copied, TablesError> {
    if !data.join("log").is_dir() {
        return Err(wrong(data, "expected a hub's --data directory: there is no log in it"));
    }
    fs::create_dir_all(place).map_err(|e| io(place, &e))?;
    let (data, place) =
        (&data.canonicalize().map_err(|e| io(data, &e))?, &place.canonicalize().map_err(|e| io(place, &e))?);
    if place.starts_with(data) {
        return Err(wrong(place, "a backup inside the directory it is of would be lost with it"));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let name = format!("backup-{:013}", now.as_millis());
    let before = backups(place).pop();
    let before = before.map(|b| manifest(&b).map(|m| (b, m))).transpose()?;
    let to = place.join(format!("{name}{PARTIAL}"));
    fs::create_dir(&to).map_err(|e| io(&to, &e))?;
    let mut making = Making {
        data,
        to: to.clone(),
        before,
        manifest: BTreeMap::new(),
        hold: Hold::take(data)?,
        copied: Copied::default(),
    };
    let outcome = fill(&mut making, &mut progress);
    if let Err(e) = outcome {
        let _ = fs::remove_dir_all(&to);
        return Err(e);
    }
    let done = place.join(&name);
    fs::rename(&to, &done).map_err(|e| io(&done, &e))?;
    File::open(place).and_then(|d| d.sync_all()).map_err(|e| io(place, &e))?;
    let mut copied = Copied { place: done, ..making.copied };
    let all = backups(place);
    for old in all.iter().take(all.len().saturating_sub(keep.max(1))) {
        fs::remove_dir_all(old).map_err(|e| io(old, &e))?;
        copied.removed += 1;
    }
    Ok(copied)
}

fn fill(making: &mut Making<'_>, progress: &mut impl FnMut(u64, u64)) -> Result<(), TablesError> {
    let data = making.data.to_owned();
    let mut known = 0;
    let tables = data.join("tables");
    let mut named = Vec::new();
    let entries: Vec<_> = fs::read_dir(&tables).map_err(|e| io(&tables, &e))?.flatten().collect();
    for table in entries {
        let Ok(table) = table.file_name().into_string() else { continue };
        let log = format!("tables/{table}/_delta_log");
        // It is replaced as time goes by: before the list, so that what it points to is in the list.
        making.take(&format!("{log}/_last_checkpoint"))?;
        let commits = files(&data, &log)?;
        known += commits.len() as u64;
        for name in commits.iter().filter(|n| !n.ends_with("/_last_checkpoint")) {
            // A commit that a checkpoint holds may go at any time.
            making.take(name)?;
            progress(making.copied.files, known);
        }
        // After the commits: whatever they name is there by now.
        known += making.take_rows(&table)?;
        progress(making.copied.files, known);
        named.push(table);
    }
    // After the tables: what they lack of the log is there, since nothing of it is removed meanwhile.
    let segments = files(&data, "log")?;
    known += segments.len() as u64;
    for name in &segments {
        making.take(name)?;
        progress(making.copied.files, known);
    }
    // After the log: files it names were there before their segment.
    for table in &named {
        known += making.take_rows(table)?;
        progress(making.copied.files, known);
    }
    making.take("address.key")?;
    let mut text = format!("{HEAD}\n");
    for (name, e) in &making.manifest {
        text.push_str(&format!("{:08x} {} {} {name}\n", e.crc, e.bytes, e.modified_ns));
    }
    let path = making.to.join(MANIFEST);
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| io(&path, &e))?;
    sync_dirs(&making.to)
}

/// Restores a backup into a directory that is empty or not there, checking every file.
pub fn restore(
    backup: &Path,
    data: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Copied, TablesError> {
    let entries = manifest(backup)?;
    if fs::read_dir(data).is_ok_and(|mut d| d.next().is_some()) {
        return Err(wrong(data, "it is not empty; restore into a new directory, and give the hub that one"));
    }
    let mut name = data.as_os_str().to_owned();
    name.push(PARTIAL);
    let to = PathBuf::from(name);
    fs::create_dir_all(&to).map_err(|e| io(&to, &e))?;
    let mut copied = Copied { place: data.to_owned(), ..Copied::default() };
    let outcome = (|| {
        for (name, entry) in &entries {
            let (from, target) = (backup.join(name), to.join(name));
            let (crc, bytes) = copy(&from, &target).map_err(|e| io(&from, &e))?;
            if (crc, bytes) != (entry.crc, entry.bytes) {
                return Err(wrong(&from, "it is not what was backed up: take another backup"));
            }
            copied.files += 1;
            copied.bytes += bytes;
            progress(copied.files, entries.len() as u64);
        }
        sync_dirs(&to)
    })();
    if let Err(e) = outcome {
        let _ = fs::remove_dir_all(&to);
        return Err(e);
    }
    // An empty directory gives way to the whole one.
    let _ = fs::remove_dir(data);
    fs::rename(&to, data).map_err(|e| io(data, &e))?;
    Ok(copied)
}
