//! The process with the sensors: reads them once an interval and tells whoever asks on a local socket; captures packets and
//! looks at connections for whoever asks, within limits.
//!
//! How: one thread reads the sensors; every connection has one of its own, because few connect. Who asks says a network
//! namespace by name, or is told of the one it is in, which the kernel knows. Messages have their length before them.
//! Invariants: at most [`ASKERS_MAX`] connections; an asker that is slow loses whole readings, which it is told; a request
//! is at most [`REQUEST_BYTES_MAX`]; a namespace nobody watches any more is let go.
//! Absent on purpose: deciding who may connect. That is the socket's directory: its group may.

use super::{Kind, Readings, Sensors, Span, Watched, usual};
use crate::tasks::capture::Place;
use crate::tasks::{Helper as _, Here};
use kernel::netns::Netns;
use prost::Message as _;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::Nanos;
use wire::proto::sensor_answer::Kind as Answer;
use wire::proto::sensor_request::Kind as Asked;
use wire::proto::{CapturePiece, CaptureTask, LookTask, SensorAnswer, SensorReading, SensorRequest};

/// Connections at a time.
const ASKERS_MAX: usize = 256;
/// Readings on their way to one asker.
const READINGS_MAX: usize = 4;
/// Longest request.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// A request must come within this after the connection.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// How soon a stop is heard.
const HEARS_STOP: Duration = Duration::from_millis(250);
/// An asker that takes nothing for so long is let go.
const STUCK: Duration = Duration::from_secs(30);

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where askers connect. The directory is made where it is not there; its group may connect.
    pub socket: PathBuf,
    /// How often sensors are read, 200 ms to 60 s, default 1 s.
    pub interval: Duration,
    /// Which sensors run, default [`usual`].
    pub sensors: Vec<&'static Kind>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socket: PathBuf::from("/run/selvedge/sensors.sock"),
            interval: Duration::from_secs(1),
            sensors: usual(),
        }
    }
}

/// Why the process cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("cannot listen at {path}: {reason}")]
    Listen {
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// Not one sensor can be had.
    #[error(
        "no sensor can be had on this kernel; it needs root, or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Nothing,
}

struct Asker {
    netns: u32,
    readings: SyncSender<SensorReading>,
    lost: u64,
}

#[derive(Default)]
struct Askers {
    all: Vec<Asker>,
    watched: Watched,
}

type Shared = Arc<Mutex<Askers>>;

fn lock(shared: &Mutex<Askers>) -> MutexGuard<'_, Askers> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wall() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Makes the socket. One that a process before left behind is replaced; one that somebody listens at is not.
fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let failed =
        |e: std::io::Error| ServeError::Listen { path: path.display().to_string(), reason: e.to_string() };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    if UnixStream::connect(path).is_ok() {
        let reason = "another process serves sensors there; one a kernel is enough".to_owned();
        return Err(ServeError::Listen { path: path.display().to_string(), reason });
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stop` says so. `ready` is called with the names of the sensors that run once somebody can connect. Blocks.
pub fn serve(
    config: &Config,
    ready: impl FnOnce(&[&'static str]),
    stop: &dyn Fn() -> bool,
) -> Result<(), ServeError> {
    let listener = listen(&config.socket)?;
    let mut sensors = Sensors::load(&config.sensors);
    let running = sensors.running();
    if running.is_empty() {
        let _ = std::fs::remove_file(&config.socket);
        return Err(ServeError::Nothing);
    }
    ready(&running);
    let shared = Shared::default();
    let (connections, ending) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let interval = config.interval.clamp(Duration::from_millis(200), Duration::from_secs(60));
    let mut due = Instant::now() + interval;
    let mut begun = wall();
    let mut measuring = None;
    while !stop() {
        accept(&listener, &shared, &connections, &ending);
        let now = Instant::now();
        if now < due {
            kernel::poll::readable(&[listener.as_fd()], Some((due - now).min(HEARS_STOP)))?;
            continue;
        }
        due = (due + interval).max(now);
        let end = wall();
        let watched = {
            let mut askers = lock(&shared);
            std::mem::take(&mut askers.watched)
        };
        let readings = sensors.read(Span { start: begun, length: end.since(begun) }, &watched);
        begun = end;
        // Held for one interval in some: measuring costs every program a little.
        measuring = if sensors.measures_next() { kernel::bpf::measure_programs().ok() } else { None };
        hand_out(&shared, watched, readings);
    }
    drop(measuring);
    ending.store(true, Relaxed);
    let _ = std::fs::remove_file(&config.socket);
    Ok(())
}

/// Gives each asker its reading, and keeps the namespaces that are still watched.
fn hand_out(shared: &Shared, watched: Watched, mut readings: Readings) {
    let mut askers = lock(shared);
    for (number, netns) in watched {
        askers.watched.entry(number).or_insert(netns);
    }
    askers.all.retain_mut(|a| {
        let Some(reading) = readings.get_mut(&a.netns) else { return true };
        let reading = SensorReading { readings_lost: a.lost, ..reading.clone() };
        match a.readings.try_send(reading) {
            Ok(()) => a.lost = 0,
            Err(TrySendError::Full(_)) => a.lost += 1,
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    });
    let in_use: Vec<u32> = askers.all.iter().map(|a| a.netns).collect();
    askers.watched.retain(|number, _| in_use.contains(number));
}

fn accept(
    listener: &UnixListener,
    shared: &Shared,
    connections: &Arc<AtomicUsize>,
    ending: &Arc<AtomicBool>,
) {
    while let Ok((stream, _)) = listener.accept() {
        if connections.fetch_add(1, Relaxed) >= ASKERS_MAX {
            connections.fetch_sub(1, Relaxed);
            tracing::warn!("more than {ASKERS_MAX} processes ask the sensors; one is turned away");
            continue;
        }
        let (shared, connections, ending) = (Arc::clone(shared), Arc::clone(connections), Arc::clone(ending));
        let counted = Arc::clone(&connections);
        let spawned =
            std::thread::Builder::new().name("asker".to_owned()).stack_size(512 << 10).spawn(move || {
                if let Err(reason) = talk(stream, &shared, &ending) {
                    tracing::info!(%reason, "a process that asked the sensors is gone");
                }
                connections.fetch_sub(1, Relaxed);
            });
        if spawned.is_err() {
            counted.fetch_sub(1, Relaxed);
        }
    }
}

/// Reads one message.
pub(crate) fn receive(stream: &mut impl Read, most: usize) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(std::io::Error::new(
            ErrorKind::InvalidData,
            format!("a message of {length} bytes, at most {most}"),
        ));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Writes one message.
pub(crate) fn send(stream: &mut impl Write, message: &impl prost::Message) -> std::io::Result<()> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).map_err(|_| std::io::Error::from(ErrorKind::InvalidData))?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&body)?;
    stream.flush()
}

fn netns(name: &str, stream: &UnixStream) -> Result<Netns, String> {
    let found = if name.is_empty() {
        let pid = kernel::process::peer(stream).map_err(|e| e.to_string())?;
        Netns::of_process(pid)
    } else if name.contains('/') || name.starts_with('.') || name.len() > 255 {
        return Err(format!("{name:?} is no name of a network namespace"));
    } else {
        Netns::open(name)
    };
    found.map_err(|e| format!("the network namespace cannot be had: {e}"))
}

fn talk(mut stream: UnixStream, shared: &Shared, ending: &AtomicBool) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    stream.set_nonblocking(false).map_err(io)?;
    stream.set_read_timeout(Some(REQUEST_WITHIN)).map_err(io)?;
    stream.set_write_timeout(Some(STUCK)).map_err(io)?;
    let bytes = receive(&mut stream, REQUEST_BYTES_MAX).map_err(io)?;
    let request = SensorRequest::decode(bytes.as_slice()).map_err(|e| e.to_string())?;
    let refuse = |stream: &mut UnixStream, why: String| {
        let answer = SensorAnswer { refused: why.clone(), ..SensorAnswer::default() };
        let _ = send(stream, &answer);
        Err(why)
    };
    let at = match netns(&request.netns, &stream) {
        Ok(at) => at,
        Err(why) => return refuse(&mut stream, why),
    };
    match request.kind {
        Some(Asked::Watch(_)) => {
            let readings = match watch(at, shared) {
                Ok(readings) => readings,
                Err(why) => return refuse(&mut stream, why),
            };
            while let Some(reading) = next(&readings, ending) {
                let answer = SensorAnswer { kind: Some(Answer::Reading(reading)), ..SensorAnswer::default() };
                send(&mut stream, &answer).map_err(io)?;
            }
            Ok(())
        }
        Some(Asked::Capture(task)) => capture(&mut stream, &task, request.host, &request.netns, ending),
        Some(Asked::Look(task)) => look(&mut stream, &task, request.host, &at),
        None => refuse(
            &mut stream,
            "expected a watch, a capture or a look; this is of a later release".to_owned(),
        ),
    }
}

fn next(readings: &Receiver<SensorReading>, ending: &AtomicBool) -> Option<SensorReading> {
    loop {
        match readings.recv_timeout(Duration::from_secs(1)) {
            Ok(reading) => return Some(reading),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !ending.load(Relaxed) => {}
            Err(_) => return None,
        }
    }
}

fn watch(at: Netns, shared: &Shared) -> Result<Receiver<SensorReading>, String> {
    let number = at.number().map_err(|e| e.to_string())?;
    let (readings, taken) = sync_channel(READINGS_MAX);
    let mut askers = lock(shared);
    askers.watched.insert(number, at);
    askers.all.push(Asker { netns: number, readings, lost: 0 });
    Ok(taken)
}

/// A name as an asker says it, fit to be shown.
fn shown(host: &str) -> String {
    host.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn look(stream: &mut UnixStream, task: &LookTask, host: String, at: &Netns) -> Result<(), String> {
    let done = wire::task::check_look(task)
        .map_err(|e| e.to_string())
        .and_then(|task| at.run(|| crate::why::look(&task, &shown(&host))).map_err(|e| e.to_string())?);
    let piece = match done {
        Ok(chunk) => CapturePiece { chunk, done: true, ..CapturePiece::default() },
        Err(error) => CapturePiece { error, done: true, ..CapturePiece::default() },
    };
    let answer = SensorAnswer { kind: Some(Answer::Piece(piece)), ..SensorAnswer::default() };
    send(stream, &answer).map_err(|e| e.to_string())
}

fn capture(
    stream: &mut UnixStream,
    task: &CaptureTask,
    host: String,
    netns: &str,
    ending: &AtomicBool,
) -> Result<(), String> {
    let host = shown(&host);
    let place = Place { host, netns: (!netns.is_empty()).then(|| netns.to_owned()) };
    let mut broken = None;
    let piece = |stream: &mut UnixStream, piece: CapturePiece| {
        let answer = SensorAnswer { kind: Some(Answer::Piece(piece)), ..SensorAnswer::default() };
        send(stream, &answer)
    };
    let outcome = Here(place).capture(task, &|| ending.load(Relaxed), &mut |chunk| {
        let sent = piece(stream, CapturePiece { chunk, ..CapturePiece::default() });
        broken = sent.err().map(|e| e.to_string());
        broken.is_none()
    });
    if let Some(why) = broken {
        return Err(why);
    }
    let last = match outcome {
        Ok(s) => CapturePiece { done: true, packets: s.packets, lost: s.lost, ..CapturePiece::default() },
        Err(error) => CapturePiece { done: true, error, ..CapturePiece::default() },
    };
    piece(stream, last).map_err(|e| e.to_string())
}
