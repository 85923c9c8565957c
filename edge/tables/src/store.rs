//! Where everything is kept: a directory, or a bucket in the cloud.
//!
//! How: every object of the log is created, never replaced ([`Store::create`]): a bucket answers `If-None-Match: *`, a
//! directory's files and the directory itself are synced before that returns. A directory has a lock file besides:
//! whoever holds it knows that an earlier holder on this machine is dead. Credentials and endpoints of a bucket come from
//! the environment, under the names its own tools use; the command line reads it.
//! Absent on purpose: a cache.

use crate::backup;
use crate::error::TablesError;
use bytes::Bytes;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore, logstore_for};
use futures_util::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use url::Url;

/// A request to a bucket that fails is tried again for so long; then it is said, and whoever asked tries anew.
const GIVE_UP: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(30);

/// Where tables are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A bucket or container, and what its objects' names begin with: `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix`. Credentials and endpoints are in the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`).
    Bucket(Url),
}

fn unknown(place: &str) -> TablesError {
    TablesError::Place {
        place: place.to_owned(),
        reason: "s3://bucket/prefix, gs://bucket/prefix and az://container/prefix are known".to_owned(),
    }
}

impl FromStr for Place {
    type Err = TablesError;

    fn from_str(text: &str) -> Result<Place, TablesError> {
        if !text.contains("://") {
            return Ok(Place::Directory(PathBuf::from(text)));
        }
        let url = Url::parse(text)
            .map_err(|e| TablesError::Place { place: text.to_owned(), reason: e.to_string() })?;
        match ObjectStoreScheme::parse(&url) {
            Ok((
                ObjectStoreScheme::AmazonS3
                | ObjectStoreScheme::GoogleCloudStorage
                | ObjectStoreScheme::MicrosoftAzure,
                _,
            )) => Ok(Place::Bucket(url)),
            _ => Err(unknown(text)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Directory(path) => write!(f, "{}", path.display()),
            Place::Bucket(url) => write!(f, "{url}"),
        }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Place {
        Place::Directory(path.to_owned())
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Place {
        Place::Directory(path)
    }
}

impl Place {
    /// The directory, where it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Place::Directory(path) => Some(path),
            Place::Bucket(_) => None,
        }
    }
}

/// What the environment says of buckets: names and values of variables that begin with one of [`Environment::PREFIXES`].
/// Values may be secrets and are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// How variables of interest begin.
    pub const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

    /// Those that a kind of bucket knows.
    fn known<K: FromStr>(&self) -> impl Iterator<Item = (K, &String)> {
        self.0.iter().filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
    }
}

/// A store of tables.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    place: Place,
    /// Everything below the place.
    objects: Arc<dyn ObjectStore>,
    /// The bucket itself, and where in it the place is; `None` for a directory.
    bucket: Option<(Arc<dyn ObjectStore>, Key)>,
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

/// The innermost cause is the one a person can act on: "No space left on device".
pub(crate) fn innermost<'a>(e: &'a (dyn std::error::Error + 'static)) -> &'a dyn std::error::Error {
    let mut cause = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

impl Store {
    pub(crate) fn open(place: &Place, environment: &Environment) -> Result<Store, TablesError> {
        let bad = |e: object_store::Error| TablesError::Place {
            place: place.to_string(),
            reason: innermost(&e).to_string(),
        };
        match place {
            Place::Directory(root) => {
                let made = std::fs::create_dir_all(root).and_then(|()| root.canonicalize());
                let root =
                    made.map_err(|e| TablesError::Directory { path: root.to_owned(), kind: e.kind() })?;
                let objects = Arc::new(LocalFileSystem::new_with_prefix(&root).map_err(bad)?);
                Ok(Store { place: Place::Directory(root), objects, bucket: None, _lock: None })
            }
            Place::Bucket(url) => {
                let (scheme, path) =
                    ObjectStoreScheme::parse(url).map_err(|e| bad(object_store::Error::from(e)))?;
                let retry = RetryConfig { max_retries: 4, retry_timeout: GIVE_UP, ..RetryConfig::default() };
                // Without encryption only where that is asked for.
                let in_clear =
                    environment.0.get("AWS_ALLOW_HTTP").is_some_and(|v| v.eq_ignore_ascii_case("true"));
                let client = ClientOptions::new()
                    .with_connect_timeout(CONNECT)
                    .with_timeout(REQUEST)
                    .with_allow_http(in_clear);
                let url = url.as_str();
                let bucket: Arc<dyn ObjectStore> = match scheme {
                    ObjectStoreScheme::AmazonS3 => {
                        let s3 = AmazonS3Builder::new()
                            .with_client_options(client)
                            .with_retry(retry)
                            .with_url(url);
                        let s3 = environment.known().fold(s3, |b, (k, v)| b.with_config(k, v));
                        Arc::new(s3.build().map_err(bad)?)
                    }
                    ObjectStoreScheme::GoogleCloudStorage => {
                        let gcs =
                            GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retry);
                        let gcs =
                            environment.known().fold(gcs.with_url(url), |b, (k, v)| b.with_config(k, v));
                        Arc::new(gcs.build().map_err(bad)?)
                    }
                    ObjectStoreScheme::MicrosoftAzure => {
                        let azure =
                            MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retry);
                        let azure =
                            environment.known().fold(azure.with_url(url), |b, (k, v)| b.with_config(k, v));
                        Arc::new(azure.build().map_err(bad)?)
                    }
                    _ => return Err(unknown(url)),
                };
                Ok(Store::within(place.clone(), bucket, path))
            }
        }
    }

    fn within(place: Place, bucket: Arc<dyn ObjectStore>, path: Key) -> Store {
        let objects = Arc::new(PrefixStore::new(Arc::clone(&bucket), path.clone()));
        Store { place, objects, bucket: Some((bucket, path)), _lock: None }
    }

    fn failed(&self, key: &Key, e: &object_store::Error) -> TablesError {
        TablesError::Store {
            what: format!("{}/{key}", self.place.to_string().trim_end_matches('/')),
            reason: innermost(e).to_string(),
        }
    }

    /// Takes the lock, where nobody has it. A bucket has none.
    pub(crate) fn lock(&mut self) -> Result<bool, TablesError> {
        let Some(path) = self.directory().map(|d| d.join("lock")) else { return Ok(false) };
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

    /// Where a table is and how it is reached.
    pub(crate) fn table(&self, table: &str) -> Result<LogStoreRef, TablesError> {
        let bad = |reason: String| TablesError::Place { place: self.place.to_string(), reason };
        match (&self.place, &self.bucket) {
            (Place::Bucket(url), Some((bucket, path))) => {
                let mut url = url.clone();
                let mut names =
                    url.path_segments_mut().map_err(|()| bad("expected a bucket's name".to_owned()))?;
                names.pop_if_empty().extend(["tables", table, ""]);
                drop(names);
                let path = Key::from_iter(path.parts().chain(["tables".into(), table.into()]));
                let objects = Arc::new(PrefixStore::new(Arc::clone(bucket), path));
                Ok(default_logstore(objects, Arc::clone(bucket), &url, &StorageConfig::default()))
            }
            (place, _) => {
                let root = place.directory().unwrap_or(Path::new("/"));
                let path = root.join("tables").join(table);
                std::fs::create_dir_all(&path).map_err(|e| io(&path, &e))?;
                let url = Url::from_directory_path(&path)
                    .map_err(|()| bad("expected an absolute path".to_owned()))?;
                logstore_for(&url, StorageConfig::default()).map_err(|e| bad(e.to_string()))
            }
        }
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
            Err(e) => return Err(self.failed(key, &e)),
        }
        self.sync(vec![key.clone()]).await?;
        Ok(Created::Ours)
    }

    /// Makes objects of a directory survive a power cut; in a bucket they do.
    pub(crate) async fn sync(&self, keys: Vec<Key>) -> Result<(), TablesError> {
        let Some(root) = self.directory().map(Path::to_owned) else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || {
            let mut directories = BTreeSet::new();
            for key in keys {
                let path = root.join(key.as_ref());
                File::open(&path).and_then(|f| f.sync_all()).map_err(|e| io(&path, &e))?;
                // A day's first file makes a directory, which must survive as well.
                let above = path.ancestors().skip(1).take_while(|p| *p != root);
                directories.extend(above.map(Path::to_owned));
            }
            for path in directories {
                File::open(&path).and_then(|f| f.sync_all()).map_err(|e| io(&path, &e))?;
            }
            Ok(())
        });
        synced.await.map_err(|_| TablesError::Closed)?
    }

    pub(crate) async fn read(&self, key: &Key) -> Result<Bytes, TablesError> {
        let got = self.objects.get(key).await.map_err(|e| self.failed(key, &e))?;
        got.bytes().await.map_err(|e| self.failed(key, &e))
    }

    /// Keys under a prefix, sorted.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Key>, TablesError> {
        let prefix = Key::from(prefix);
        let listed: Result<Vec<_>, _> = self.objects.list(Some(&prefix)).try_collect().await;
        let mut keys: Vec<Key> =
            listed.map_err(|e| self.failed(&prefix, &e))?.into_iter().map(|o| o.location).collect();
        keys.sort();
        Ok(keys)
    }

    /// Removes an object; one that is not there is fine.
    pub(crate) async fn remove(&self, key: &Key) -> Result<(), TablesError> {
        match self.objects.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed(key, &e)),
        }
    }

    /// Removes what writes that were cut off left under a prefix before a moment, and empty directories; says how many
    /// files. A bucket shows nothing of such writes. A directory holds a file under a name with `#` until it is whole,
    /// and does not list it.
    pub(crate) async fn sweep(&self, prefix: &str, before: SystemTime) -> Result<u64, TablesError> {
        let Some(top) = self.directory().map(|d| d.join(prefix)) else { return Ok(0) };
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

    /// The directory, where it is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.place.directory()
    }

    /// Whether a backup asks that nothing be removed.
    pub(crate) fn is_held(&self) -> bool {
        self.directory().is_some_and(backup::is_held)
    }
}
