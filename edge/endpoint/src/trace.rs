//! What a connection did, for people who want to look: an event file in the manner of qlog.
//!
//! How: at the end of each interval in which a connection moved, what it counted since is one event, with a row for every
//! EV that moved; what happened between (a path went silent, a message arrived) has events of its own. A thread of its own
//! writes them. The file is one JSON object a line: first a [`Header`], then [`Record`]s, named and grouped as in qlog
//! (draft-ietf-quic-qlog-main-schema), with the transport's own fields.
//!
//! Invariants: nothing here blocks whoever drives the endpoint; a record is written or counted as dropped; an endpoint
//! that is not traced keeps and asks nothing.
//! Absent on purpose: an event for every packet: a path's numbers of a millisecond say as much, at a hundredth of the cost.

use serde::{Deserialize, Serialize};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use transport::{Counters, PathState, PathView};
use wire::Nanos;
use wire::transport::Target;

/// Version of the file.
pub const FORMAT: &str = "selvedge-trace-1";
/// Records that wait to be written.
const QUEUE: usize = 16_384;
/// Events of one connection kept until its interval ends.
const EVENTS_MAX: usize = 1_024;

/// The first line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// The version of qlog whose names are used.
    pub qlog_version: String,
    /// What all times count from, nanoseconds since 1970.
    pub reference_unix_ns: u64,
    /// Length of an interval, nanoseconds.
    pub interval_ns: u64,
}

/// A line after the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since [`Header::reference_unix_ns`].
    pub time: f64,
    /// Which end of which connection: the host's name and its id of the connection.
    pub group_id: String,
    /// What happened.
    #[serde(flatten)]
    pub event: TraceEvent,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", content = "data")]
pub enum TraceEvent {
    /// It was opened.
    #[serde(rename = "connectivity:connection_started")]
    Opened {
        /// The name in the peer's certificate.
        peer: String,
        /// Where it is.
        remote: String,
        /// EVs in use.
        evs: u16,
        /// Payload bytes of a chunk.
        chunk_bytes: u16,
        /// What protects it.
        cipher: String,
    },
    /// It is over.
    #[serde(rename = "connectivity:connection_closed")]
    Closed {
        /// Why.
        reason: String,
    },
    /// Nothing comes back on an EV.
    #[serde(rename = "selvedge:path_down")]
    PathDown {
        /// Which.
        ev: u16,
    },
    /// It answers again.
    #[serde(rename = "selvedge:path_up")]
    PathUp {
        /// Which.
        ev: u16,
    },
    /// All of a message was acknowledged.
    #[serde(rename = "selvedge:message_sent")]
    MessageSent {
        /// Counted from 0 in each direction.
        message: u32,
        /// Its length.
        bytes: u64,
    },
    /// All of a message is here.
    #[serde(rename = "selvedge:message_received")]
    MessageReceived {
        /// Counted from 0 in each direction.
        message: u32,
        /// Its length.
        bytes: u64,
        /// The tag, where it is no write.
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<u64>,
    },
    /// What it counted in an interval.
    #[serde(rename = "recovery:metrics_updated")]
    Sample(Box<Sample>),
    /// So many records of this file were dropped because the disk did not keep up.
    #[serde(rename = "selvedge:records_dropped")]
    Dropped {
        /// How many.
        records: u64,
    },
}

/// What a connection counted in an interval, and how it stood at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The window, bytes.
    pub congestion_window: u64,
    /// Bytes on the wire whose fate is not known.
    pub bytes_in_flight: u64,
    /// Recent round trip, microseconds.
    pub smoothed_rtt_us: f64,
    /// Packets with a number sent.
    pub sent: u64,
    /// Of them, chunks sent again.
    pub again: u64,
    /// Packets acknowledged.
    pub acknowledged: u64,
    /// Packets known lost: a later one of their EV arrived.
    pub lost_gap: u64,
    /// Packets taken for lost: too late.
    pub lost_late: u64,
    /// Packets a switch trimmed.
    pub lost_trimmed: u64,
    /// Chunks that arrived and were placed.
    pub placed: u64,
    /// ACKs sent.
    pub acks: u64,
    /// EVs that moved, or are not well.
    pub paths: Vec<PathSample>,
}

/// One EV in an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathSample {
    /// Which.
    pub ev: u16,
    /// Packets sent on it.
    pub sent: u32,
    /// Packets of it the receiver reported.
    pub arrived: u32,
    /// Packets of it declared lost.
    pub lost: u32,
    /// Packets that arrived with congestion experienced (RFC 3168).
    pub marked: u32,
    /// Its queue at the last report, microseconds above the shortest way ever seen on any EV.
    pub queue_us: f64,
    /// `good`, `suspect`, `assumed_bad` or `denied`.
    pub state: PathName,
}

/// What is believed of an EV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathName {
    /// In use.
    #[default]
    Good,
    /// Lost a packet; used less.
    Suspect,
    /// Nothing comes back: probed, not used.
    AssumedBad,
    /// Not to be used.
    Denied,
}

impl From<PathState> for PathName {
    fn from(state: PathState) -> Self {
        match state {
            PathState::Good => PathName::Good,
            PathState::Suspect => PathName::Suspect,
            PathState::AssumedBad => PathName::AssumedBad,
            PathState::Denied => PathName::Denied,
        }
    }
}

/// An event file being written, of one endpoint or several. It is whole when the last of them is gone.
#[derive(Clone)]
pub struct Tracer(Arc<File>);

struct File {
    /// None at the end.
    queue: Option<SyncSender<Record>>,
    writer: Option<JoinHandle<std::io::Result<()>>>,
    dropped: Arc<AtomicU64>,
    /// The engine's clock at the reference.
    reference: Nanos,
    interval: Nanos,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("interval", &self.0.interval).finish_non_exhaustive()
    }
}

impl Drop for File {
    /// Writes what is left.
    fn drop(&mut self) {
        drop(self.queue.take());
        // a panic was reported by its own hook
        if let Some(Ok(Err(error))) = self.writer.take().map(JoinHandle::join) {
            tracing::error!(%error, "a trace could not be written to its end");
        }
    }
}

impl Tracer {
    /// Makes the file, or empties it. Intervals of `interval`, at least 100 microseconds.
    pub fn create(path: &Path, interval: Nanos) -> std::io::Result<Tracer> {
        let interval = Nanos(interval.0.max(100_000));
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        let header = Header {
            format: FORMAT.into(),
            qlog_version: "0.4".into(),
            reference_unix_ns: kernel::timestamp::unix_ns(),
            interval_ns: interval.0,
        };
        let reference = crate::engine::now();
        line(&mut file, &header)?;
        let (queue, records) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        let writer = std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || write(&records, &mut file, &count))?;
        Ok(Tracer(Arc::new(File { queue: Some(queue), writer: Some(writer), dropped, reference, interval })))
    }

    pub(crate) fn interval(&self) -> Nanos {
        self.0.interval
    }

    fn put(&self, now: Nanos, group_id: &str, event: TraceEvent) {
        let time = now.since(self.0.reference).0 as f64 / 1e6;
        let record = Record { time, group_id: group_id.to_owned(), event };
        let full = match self.0.queue.as_ref().map(|q| q.try_send(record)) {
            Some(Ok(())) => false,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => true,
        };
        if full {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn line(to: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}

fn write(
    records: &Receiver<Record>,
    file: &mut BufWriter<std::fs::File>,
    dropped: &AtomicU64,
) -> std::io::Result<()> {
    let mut last = 0.0;
    for record in records {
        last = record.time;
        line(file, &record)?;
    }
    let records = dropped.load(Ordering::Relaxed);
    if records > 0 {
        line(file, &Record { time: last, group_id: String::new(), event: TraceEvent::Dropped { records } })?;
    }
    file.flush()
}

/// What is kept of one connection for the next event.
pub(crate) struct Traced {
    group_id: String,
    before: Counters,
    paths: Vec<PathView>,
    events: Vec<(Nanos, TraceEvent)>,
    /// Events beyond what is kept.
    over: u64,
    /// On the list of those that moved in this interval.
    pub noted: bool,
}

impl Traced {
    pub fn new(now: Nanos, group_id: String, opened: TraceEvent) -> Traced {
        let events = vec![(now, opened)];
        Traced { group_id, before: Counters::default(), paths: Vec::new(), events, over: 0, noted: false }
    }

    pub fn happened(&mut self, now: Nanos, event: TraceEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push((now, event));
        } else {
            self.over += 1;
        }
    }

    /// Gives what happened and what was counted since the last call.
    pub fn tell(&mut self, now: Nanos, machine: &transport::Connection, to: &Tracer) {
        self.noted = false;
        for (at, event) in self.events.drain(..) {
            to.put(at, &self.group_id, event);
        }
        to.0.dropped.fetch_add(std::mem::take(&mut self.over), Ordering::Relaxed);
        let (new, old) = (*machine.counters(), self.before);
        let mut sample = Sample {
            congestion_window: machine.window_bytes(),
            bytes_in_flight: machine.in_flight_bytes(),
            smoothed_rtt_us: machine.rtt().0 as f64 / 1e3,
            sent: new.sent - old.sent,
            again: new.chunks_again - old.chunks_again,
            acknowledged: new.acknowledged - old.acknowledged,
            lost_gap: new.lost_gap - old.lost_gap,
            lost_late: new.lost_late - old.lost_late,
            lost_trimmed: new.lost_trimmed - old.lost_trimmed,
            placed: new.placed - old.placed,
            acks: new.acks - old.acks,
            paths: Vec::new(),
        };
        for (i, path) in machine.paths().enumerate() {
            if self.paths.len() <= i {
                self.paths.push(PathView { ev: path.ev, ..PathView::default() });
            }
            let Some(before) = self.paths.get_mut(i) else { break };
            let row = PathSample {
                ev: path.ev.0,
                sent: path.sent.wrapping_sub(before.sent),
                arrived: path.arrived.wrapping_sub(before.arrived),
                lost: path.lost.wrapping_sub(before.lost),
                marked: path.marked.wrapping_sub(before.marked),
                queue_us: path.queue.0 as f64 / 1e3,
                state: path.state.into(),
            };
            let unwell = matches!(path.state, PathState::AssumedBad | PathState::Denied);
            if row.sent > 0 || row.arrived > 0 || row.lost > 0 || unwell {
                sample.paths.push(row);
            }
            *before = path;
        }
        self.before = new;
        let moved = new.sent != old.sent
            || new.acknowledged != old.acknowledged
            || new.lost != old.lost
            || new.placed != old.placed
            || new.acks != old.acks;
        if moved {
            to.put(now, &self.group_id, TraceEvent::Sample(Box::new(sample)));
        }
    }
}

/// The tag of a message, where it is no write.
pub(crate) fn tag(target: &Target) -> Option<u64> {
    match target {
        Target::Tagged { tag } => Some(*tag),
        Target::Write { .. } => None,
    }
}

/// Which connections moved in the open interval.
pub(crate) struct Tracing {
    pub tracer: Tracer,
    moved: Vec<u16>,
    ends: Option<Nanos>,
}

impl Tracing {
    pub fn new(tracer: Tracer) -> Tracing {
        Tracing { tracer, moved: Vec::new(), ends: None }
    }

    /// A connection moved that is not on the list yet.
    pub fn note(&mut self, now: Nanos, index: u16) {
        self.ends.get_or_insert(now + self.tracer.interval());
        self.moved.push(index);
    }

    pub fn next_timeout(&self) -> Option<Nanos> {
        self.ends
    }

    /// Who is to be asked now: those that moved, where the interval is over.
    pub fn cut(&mut self, now: Nanos) -> Vec<u16> {
        if self.ends.is_none_or(|end| end > now) {
            return Vec::new();
        }
        self.ends = None;
        std::mem::take(&mut self.moved)
    }
}
