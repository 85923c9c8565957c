//! What processes of this host learned of the paths their packets took: a socket of theirs, checked, as observations of
//! this agent's.
//!
//! How: one datagram socket in the file system, for members of its group to write to (mode 0660); a task reads it, checks
//! every row against the fabric, and keeps the good ones until the connection's next turn.
//!
//! Invariants: nothing that comes in is believed: a path begins at this host and exists, a window is now, counts fit it;
//! memory is bounded; rows are bounded by the second; every row is taken or counted by the reason it was not.
//! Absent on purpose: knowing which process said it. Who may write to the socket may say what it likes about the paths
//! from its own host, and nothing about any other.

use fabric::Fabric;
use kernel::timestamp::unix_ns;
use probe::Observation;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use wire::batch::BatchError;
use wire::report::{self, BYTES_MAX, ReportError};
use wire::{HostId, Known, Nanos, PathObservation, PathRef, Source};

/// Who may write: the owner and the group.
const MODE: u32 = 0o660;
/// Rows that wait for the connection's next turn.
const ROWS_MAX: usize = 16_384;
/// Rows a second that are taken, over all processes.
const ROWS_PER_SECOND: u64 = 20_000;
/// Packets a second no port sends: 64 bytes each at 500 Gbit/s.
const PACKETS_PER_SECOND_MAX: u64 = 1_000_000_000;
/// How old a window may be when it is told, and how far ahead of this host's clock.
const OLD_MAX: Nanos = Nanos::from_secs(60);
const AHEAD_MAX: Nanos = Nanos::from_secs(2);
/// Windows from 1 ms to 10 s.
const LENGTH: std::ops::RangeInclusive<u64> = 1_000_000..=10_000_000_000;
/// The first number of these observations: the prober's own begin at 0 and never come so far.
const SEQUENCE_FIRST: u64 = 1 << 48;

/// Why a datagram or a row of one is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refused {
    Unreadable,
    Version,
    TooLong,
    Columns,
    NoPlan,
    Epoch,
    Row,
    Source,
    Path,
    Foreign,
    Window,
    Count,
    TooMany,
    NoRoom,
}

impl Refused {
    const fn name(self) -> &'static str {
        match self {
            Refused::Unreadable => "transport_refused_unreadable",
            Refused::Version => "transport_refused_version",
            Refused::TooLong => "transport_refused_too_long",
            Refused::Columns => "transport_refused_columns",
            Refused::NoPlan => "transport_refused_no_plan",
            Refused::Epoch => "transport_refused_epoch",
            Refused::Row => "transport_refused_row",
            Refused::Source => "transport_refused_source",
            Refused::Path => "transport_refused_path",
            Refused::Foreign => "transport_refused_foreign",
            Refused::Window => "transport_refused_window",
            Refused::Count => "transport_refused_count",
            Refused::TooMany => "transport_refused_too_many",
            Refused::NoRoom => "transport_refused_no_room",
        }
    }
}

impl From<ReportError> for Refused {
    fn from(e: ReportError) -> Refused {
        match e {
            ReportError::Unreadable { .. } => Refused::Unreadable,
            ReportError::Version { .. } => Refused::Version,
            ReportError::TooLong { .. } => Refused::TooLong,
            ReportError::Columns(_) => Refused::Columns,
        }
    }
}

#[derive(Debug, Default)]
struct Inbox {
    place: Option<(Arc<Fabric>, HostId)>,
    rows: VecDeque<PathObservation>,
    sequence: u64,
    /// Rows that may still be taken, in thousand-millionths, and when that was worked out.
    allowance: u64,
    at: Nanos,
    taken: u64,
    /// What senders said they could not hand over.
    lost: u64,
    refused: BTreeMap<Refused, u64>,
}

impl Inbox {
    fn refuse(&mut self, why: Refused, rows: u64) {
        *self.refused.entry(why).or_default() += rows;
    }

    /// A datagram.
    fn input(&mut self, now: Nanos, datagram: &[u8]) {
        let Some((fabric, host)) = self.place.clone() else { return self.refuse(Refused::NoPlan, 1) };
        let read = match report::read(datagram, host) {
            Ok(read) => read,
            Err(e) => return self.refuse(e.into(), 1),
        };
        self.lost = self.lost.saturating_add(read.lost);
        if read.epoch != fabric.epoch {
            return self.refuse(Refused::Epoch, read.rows.len() as u64);
        }
        let all = ROWS_PER_SECOND * 1_000_000_000;
        let more = now.since(self.at).0.min(1_000_000_000) * ROWS_PER_SECOND;
        self.allowance = (self.allowance + more).min(all);
        self.at = self.at.max(now);
        for row in read.rows {
            match self.check(now, &fabric, host, row) {
                Ok(row) => {
                    self.allowance -= 1_000_000_000;
                    self.taken += 1;
                    self.sequence += 1;
                    self.rows.push_back(PathObservation { sequence: SEQUENCE_FIRST + self.sequence, ..row });
                }
                Err(why) => self.refuse(why, 1),
            }
        }
    }

    fn check(
        &self,
        now: Nanos,
        fabric: &Fabric,
        host: HostId,
        row: Result<PathObservation, BatchError>,
    ) -> Result<PathObservation, Refused> {
        let row = row.map_err(|_| Refused::Row)?;
        if row.source != Source::Transport {
            return Err(Refused::Source);
        }
        let PathRef::OneWay(leg) = row.path else { return Err(Refused::Path) };
        let (from, to, _) = fabric.path_parts(leg.path).ok_or(Refused::Path)?;
        let exists = match leg.known {
            Known::Exact | Known::Discovered => fabric.path_links(leg.path).is_some(),
            Known::Mixture => fabric.paths(from, to).next().is_some(),
        };
        if !exists {
            return Err(Refused::Path);
        }
        if fabric.nic_parts(from).1 != host {
            return Err(Refused::Foreign);
        }
        let length = row.window.length.0;
        let timely = row.window.start <= now + AHEAD_MAX && now.since(row.window.start) <= OLD_MAX;
        if !timely || !LENGTH.contains(&length) {
            return Err(Refused::Window);
        }
        let most = u128::from(PACKETS_PER_SECOND_MAX) * u128::from(length) / 1_000_000_000;
        if row.sent == 0 || u128::from(row.sent) > most {
            return Err(Refused::Count);
        }
        if self.allowance < 1_000_000_000 {
            return Err(Refused::TooMany);
        }
        if self.rows.len() >= ROWS_MAX {
            return Err(Refused::NoRoom);
        }
        Ok(row)
    }
}

/// The socket, and what came in.
#[derive(Debug)]
pub(crate) struct Reports {
    inbox: Arc<Mutex<Inbox>>,
    path: PathBuf,
    task: JoinHandle<()>,
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reports {
    /// Makes the socket and listens. What is said before [`Reports::know`] is refused.
    pub(crate) fn open(path: &Path) -> Result<Arc<Reports>, String> {
        let said = |what: &str, e: std::io::Error| format!("{what}: {e}");
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| said("its directory cannot be made", e))?;
        }
        clear(path)?;
        // it gets its name only when nobody else can write to it
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(".new");
        let hidden = PathBuf::from(hidden);
        clear(&hidden)?;
        let socket = UnixDatagram::bind(&hidden).map_err(|e| said("it cannot be made", e))?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(MODE))
            .and_then(|()| fs::rename(&hidden, path))
            .map_err(|e| said("it cannot be named", e))?;
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let task = tokio::spawn(listen(socket, inbox.clone()));
        Ok(Arc::new(Reports { inbox, path: path.to_owned(), task }))
    }

    /// From now on rows can be checked.
    pub(crate) fn know(&self, fabric: Arc<Fabric>, host: HostId) {
        lock(&self.inbox).place = Some((fabric, host));
    }

    /// Hands over what was taken.
    pub(crate) fn take(&self, to: &mut dyn FnMut(Observation)) {
        let rows = std::mem::take(&mut lock(&self.inbox).rows);
        rows.into_iter().for_each(|row| to(Observation::Path(row)));
    }

    pub(crate) fn count_into(&self, counters: &mut BTreeMap<String, u64>) {
        let inbox = lock(&self.inbox);
        counters.insert("transport_taken".to_owned(), inbox.taken);
        counters.insert("transport_lost_by_senders".to_owned(), inbox.lost);
        for (why, n) in &inbox.refused {
            counters.insert(why.name().to_owned(), *n);
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.task.abort();
        // left behind it would be cleared at the next start
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket of an agent that is gone. Anything else is left alone, and is an error.
fn clear(path: &Path) -> Result<(), String> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err("something that is no socket has its name: remove it, or choose another".to_owned());
    }
    let there = std::os::unix::net::UnixDatagram::unbound().and_then(|s| s.connect(path));
    if there.is_ok() {
        return Err("another agent listens there: stop it, or choose another name".to_owned());
    }
    fs::remove_file(path).map_err(|e| format!("an old one cannot be removed: {e}"))
}

async fn listen(socket: UnixDatagram, inbox: Arc<Mutex<Inbox>>) {
    let mut datagram = vec![0; BYTES_MAX + 1];
    loop {
        match socket.recv(&mut datagram).await {
            Ok(n) => lock(&inbox).input(Nanos(unix_ns()), datagram.get(..n).unwrap_or(&[])),
            Err(error) => {
                tracing::error!(%error, "processes of this host are heard no more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::report::Report;
    use wire::{Epoch, Leg, NicId, PathId, Window};

    const NOW: Nanos = Nanos::from_secs(1_000);

    fn fabric() -> Arc<Fabric> {
        let text = "name = 't'\nmode = 'srv6'\nplanes = 2\nleaves = 2\nspines = 2\nhosts = 4\n\
            access = { rate = '100Gbit/s', latency = '1us' }\ntrunk = { rate = '100Gbit/s', latency = '1us' }\n";
        Arc::new(Fabric::parse(text).unwrap())
    }

    fn inbox() -> (Inbox, Arc<Fabric>) {
        let fabric = fabric();
        (Inbox { place: Some((fabric.clone(), HostId(1))), ..Inbox::default() }, fabric)
    }

    /// A row of host 1's that is in order.
    fn row(fabric: &Fabric) -> PathObservation {
        let path = fabric.paths(NicId(1), NicId(3)).next().unwrap();
        PathObservation {
            window: Window { start: NOW.since(Nanos::from_millis(200)), length: Nanos::from_millis(200) },
            producer: HostId(0),
            sequence: 0,
            epoch: fabric.epoch,
            path: PathRef::OneWay(Leg { path, known: Known::Exact }),
            class: 0,
            size_log2: 11,
            entropy: 1,
            sent: 100,
            lost: 1,
            reordered: 0,
            ecn_marked: 0,
            delay: None,
            source: Source::Transport,
        }
    }

    fn datagram(epoch: Epoch, rows: &[PathObservation]) -> Vec<u8> {
        let mut report = Report::new(epoch);
        for row in rows {
            report.push(row);
        }
        report.write()
    }

    #[test]
    fn what_is_in_order_becomes_the_agents_own() {
        let (mut inbox, fabric) = inbox();
        inbox.input(NOW, &datagram(fabric.epoch, &[row(&fabric), row(&fabric)]));
        let got: Vec<_> =
            inbox.rows.iter().map(|r| (r.producer, r.sequence - SEQUENCE_FIRST, r.lost)).collect();
        assert_eq!(got, [(HostId(1), 1, 1), (HostId(1), 2, 1)]);
        assert_eq!((inbox.taken, inbox.refused.len()), (2, 0));
    }

    #[test]
    fn everything_else_is_refused_and_counted_by_its_reason() {
        let (mut inbox, fabric) = inbox();
        let good = row(&fabric);
        let lane = |from, to, lane| fabric.path(NicId(from), NicId(to), lane).unwrap();
        let on = |path, known| PathRef::OneWay(Leg { path, known });
        let window = |start, length| PathObservation { window: Window { start, length }, ..good };
        let with = |path| PathObservation { path, ..good };
        let leg = Leg { path: lane(1, 3, 0), known: Known::Exact };
        let bad = [
            (with(on(lane(2, 0, 0), Known::Exact)), Refused::Foreign),
            (with(on(lane(2, 0, 0), Known::Mixture)), Refused::Foreign),
            // both on one leaf: there is one path and no second
            (with(on(lane(1, 0, 1), Known::Exact)), Refused::Path),
            (with(on(PathId(u64::MAX), Known::Mixture)), Refused::Path),
            (with(PathRef::RoundTrip { forward: leg, backward: leg }), Refused::Path),
            (PathObservation { source: Source::Probe, ..good }, Refused::Source),
            (window(NOW + Nanos::from_secs(3), Nanos::from_millis(200)), Refused::Window),
            (window(Nanos::from_secs(900), Nanos::from_millis(200)), Refused::Window),
            (window(NOW, Nanos::from_secs(11)), Refused::Window),
            (window(NOW, Nanos(1_000)), Refused::Window),
            (PathObservation { sent: 0, lost: 0, ..good }, Refused::Count),
            (PathObservation { sent: u32::MAX, ..good }, Refused::Count),
            (PathObservation { lost: 101, ..good }, Refused::Row),
        ];
        for (row, why) in bad {
            let before = inbox.refused.get(&why).copied().unwrap_or(0);
            inbox.input(NOW, &datagram(fabric.epoch, &[row]));
            assert_eq!(inbox.refused.get(&why), Some(&(before + 1)), "{why:?}: {row:?}");
        }
        inbox.input(NOW, &datagram(Epoch(1), &[good]));
        inbox.input(NOW, b"\xff\xff");
        inbox.input(NOW, &vec![0; BYTES_MAX + 1]);
        assert_eq!((inbox.refused[&Refused::Epoch], inbox.refused[&Refused::Unreadable]), (1, 2));
        assert_eq!((inbox.taken, inbox.rows.len()), (0, 0));
    }

    #[test]
    fn a_flood_costs_bounded_memory_and_is_counted() {
        let (mut inbox, fabric) = inbox();
        let full = datagram(fabric.epoch, &[row(&fabric); 256]);
        let sent = 200u64;
        (0..sent).for_each(|_| inbox.input(NOW, &full));
        assert_eq!(inbox.rows.len(), ROWS_MAX);
        inbox.rows.clear();
        (0..sent).for_each(|_| inbox.input(NOW, &full));
        assert_eq!(inbox.taken, ROWS_PER_SECOND, "in one moment no more than a second's");
        let refused: u64 = inbox.refused.values().sum();
        assert_eq!(inbox.taken + refused, 2 * sent * 256);
        assert!(inbox.refused[&Refused::NoRoom] > 0 && inbox.refused[&Refused::TooMany] > 0);
        inbox.rows.clear();
        inbox.input(NOW + Nanos::from_millis(100), &full);
        assert_eq!(inbox.taken, ROWS_PER_SECOND + 256);
    }

    #[tokio::test]
    async fn the_socket_is_the_groups_and_an_old_one_is_replaced() {
        let dir = std::env::temp_dir().join(format!("selvedge-reports-{}", std::process::id()));
        let path = dir.join("transport.sock");
        fs::create_dir_all(&dir).unwrap();
        // one that a crash left behind
        drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
        let reports = Reports::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(Reports::open(&path).unwrap_err().contains("another agent"));
        let fabric = fabric();
        let client = UnixDatagram::unbound().unwrap();
        client.connect(&path).unwrap();
        let counted = |name: &str| {
            let mut all = BTreeMap::new();
            reports.count_into(&mut all);
            all.get(name).copied().unwrap_or(0)
        };
        client.send(b"too early").await.unwrap();
        while counted("transport_refused_no_plan") == 0 {
            tokio::task::yield_now().await;
        }
        reports.know(fabric.clone(), HostId(1));
        let start = Nanos(unix_ns());
        let now =
            PathObservation { window: Window { start, length: Nanos::from_millis(200) }, ..row(&fabric) };
        client.send(&datagram(fabric.epoch, &[now])).await.unwrap();
        client.send(b"\xff").await.unwrap();
        while counted("transport_refused_unreadable") == 0 {
            tokio::task::yield_now().await;
        }
        let mut got = Vec::new();
        reports.take(&mut |o| got.push(o));
        assert!(matches!(&got[..], [Observation::Path(o)] if o.sent == 100), "{got:?}");
        drop(reports);
        assert!(!path.exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
