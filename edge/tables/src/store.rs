//! Where everything is kept: an object store, by default a directory.
//!
//! How: every object of the log is created, never replaced ([`Store::create`]), and a directory's files and the
//! directory itself are synced before that returns. A directory has a lock file besides: whoever holds it knows that an
//! earlier holder on this machine is dead.
//! Absent on purpose: a cache, and stores in the cloud (their crates double the build; the code beyond this file knows
//! only [`ObjectStore`]).

use crate::error::TablesError;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use url::Url;

/// A place for tables.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    objects: Arc<LocalFileSystem>,
    root: PathBuf,
    _lock: Option<Arc<File>>,
}

/// What became of an object that was to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is there, with these bytes.
    Ours,
    /// Another one is there.
    Theirs,
}

fn io(path: &Path, e: &std::io::Error) -> TablesError {
    TablesError::Store { what: path.display().to_string(), reason: e.to_string() }
}

fn failed(key: &Key, e: &object_store::Error) -> TablesError {
    // The innermost cause is the one a person can act on: "No space left on device".
    let mut cause: &dyn std::error::Error = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    TablesError::Store { what: key.to_string(), reason: cause.to_string() }
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Store, TablesError> {
        let made = std::fs::create_dir_all(root).and_then(|()| root.canonicalize());
        let root = made.map_err(|e| TablesError::Directory { path: root.to_owned(), kind: e.kind() })?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| TablesError::Place { place: root.display().to_string(), reason: e.to_string() })?;
        Ok(Store { objects: Arc::new(objects), root, _lock: None })
    }

    /// Takes the lock, where nobody has it.
    pub(crate) fn lock(&mut self) -> Result<bool, TablesError> {
        let path = self.root.join("lock");
        // Held open for reading only, so that the file system can be made read-only under a running hub.
        let made = File::options().create(true).truncate(false).write(true).open(&path).map(drop);
        let file = made.and_then(|()| File::open(&path));
        let file = file.map_err(|e| TablesError::Directory { path: path.clone(), kind: e.kind() })?;
        match file.try_lock() {
            Ok(()) => {
                self._lock = Some(Arc::new(file));
                Ok(true)
            }
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(e)) => Err(io(&path, &e)),
        }
    }

    /// Where a table is.
    pub(crate) fn table_url(&self, table: &str) -> Result<Url, TablesError> {
        let path = self.root.join("tables").join(table);
        std::fs::create_dir_all(&path).map_err(|e| io(&path, &e))?;
        Url::from_directory_path(&path).map_err(|()| TablesError::Place {
            place: path.display().to_string(),
            reason: "expected an absolute path".to_owned(),
        })
    }

    /// Creates an object and syncs it. One that is there already is compared: a try that failed half way may have
    /// succeeded after all.
    pub(crate) async fn create(&self, key: &Key, bytes: Bytes) -> Result<Created, TablesError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(key, PutPayload::from(bytes.clone()), options).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => {
                if self.read(key).await? != bytes {
                    return Ok(Created::Theirs);
                }
            }
            Err(e) => return Err(failed(key, &e)),
        }
        let path = self.objects.path_to_filesystem(key).map_err(|e| failed(key, &e))?;
        let synced = tokio::task::spawn_blocking(move || {
            File::open(&path).and_then(|f| f.sync_all()).map_err(|e| io(&path, &e))?;
            let Some(parent) = path.parent() else { return Ok(()) };
            File::open(parent).and_then(|f| f.sync_all()).map_err(|e| io(parent, &e))
        });
        synced.await.map_err(|_| TablesError::Closed)??;
        Ok(Created::Ours)
    }

    pub(crate) async fn read(&self, key: &Key) -> Result<Bytes, TablesError> {
        let got = self.objects.get(key).await.map_err(|e| failed(key, &e))?;
        got.bytes().await.map_err(|e| failed(key, &e))
    }

    /// Keys under a prefix, sorted.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Key>, TablesError> {
        let prefix = Key::from(prefix);
        let listed: Result<Vec<_>, _> = self.objects.list(Some(&prefix)).try_collect().await;
        let mut keys: Vec<Key> =
            listed.map_err(|e| failed(&prefix, &e))?.into_iter().map(|o| o.location).collect();
        keys.sort();
        Ok(keys)
    }

    /// Removes an object; one that is not there is fine.
    pub(crate) async fn remove(&self, key: &Key) -> Result<(), TablesError> {
        match self.objects.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failed(key, &e)),
        }
    }

    /// Removes what writes that were cut off left under a prefix before a moment, and empty directories; says how many
    /// files. A directory holds a file under a name with `#` until it is whole, and does not list it.
    pub(crate) async fn sweep(&self, prefix: &str, before: SystemTime) -> Result<u64, TablesError> {
        let top = self.root.join(prefix);
        let swept = tokio::task::spawn_blocking(move || {
            let old =
                |e: &std::fs::DirEntry| e.metadata().and_then(|m| m.modified()).is_ok_and(|t| t < before);
            let mut files = 0;
            for day in std::fs::read_dir(&top).map_err(|e| io(&top, &e))?.flatten() {
                let path = day.path();
                let hidden = day.file_name().to_string_lossy().starts_with('_');
                if hidden || !day.file_type().is_ok_and(|t| t.is_dir()) {
                    continue;
                }
                let aged = old(&day);
                for file in std::fs::read_dir(&path).map_err(|e| io(&path, &e))?.flatten() {
                    let half = file.file_name().to_string_lossy().contains('#');
                    if half && old(&file) && std::fs::remove_file(file.path()).is_ok() {
                        files += 1;
                    }
                }
                if aged {
                    // Refused unless it is empty.
                    let _ = std::fs::remove_dir(&path);
                }
            }
            Ok(files)
        });
        swept.await.map_err(|_| TablesError::Closed)?
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}
