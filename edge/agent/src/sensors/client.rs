//! The agent's end of the sensors' socket: readings of its own network namespace, captures, and looks at connections.
//!
//! How: a thread connects, asks for the namespace, and keeps readings until the connection to the hub takes them; where
//! nobody serves sensors it says so once and tries again now and then.
//! Invariants: at most [`READINGS_MAX`] readings wait, the oldest go first and are counted; a message is at most
//! [`ANSWER_BYTES_MAX`]; what the sensors' process says is not believed to be about the fabric before it is checked.
//! Absent on purpose: any privilege.

use super::serve::{ANSWER_BYTES_MAX, receive, send};
use crate::tasks::Helper;
use crate::tasks::capture::Summary;
use fabric::Fabric;
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::proto::sensor_answer::Kind as Answer;
use wire::proto::sensor_request::Kind as Asked;
use wire::proto::{
    CaptureTask, LookTask, SensorAnswer, SensorFinding, SensorReading, SensorRequest, SensorWatch,
};
use wire::{
    Component, ComponentObservation, Counter, HostId, Known, Leg, Nanos, PathObservation, PathRef, Source,
    Window,
};

/// Readings that wait for the hub.
const READINGS_MAX: usize = 64;
/// After a failure the next try follows in this time, twice as long each time, up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The thread looks around at least so often.
const LOOK: Duration = Duration::from_millis(500);
/// The first number of observations made of flows: see `reports` for the transport's.
const SEQUENCE_FIRST: u64 = 1 << 49;

#[derive(Debug, Default)]
struct Shared {
    readings: Mutex<VecDeque<SensorReading>>,
    lost: AtomicU64,
    taken: AtomicU64,
    connected: AtomicBool,
    stop: AtomicBool,
}

/// Readings of this host.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    sequence: u64,
}

fn request(path: &Path, request: &SensorRequest) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    send(&mut stream, request)?;
    Ok(stream)
}

fn answer(stream: &mut UnixStream) -> std::io::Result<SensorAnswer> {
    let bytes = receive(stream, ANSWER_BYTES_MAX)?;
    let answer = SensorAnswer::decode(bytes.as_slice()).map_err(std::io::Error::other)?;
    if answer.refused.is_empty() { Ok(answer) } else { Err(std::io::Error::other(answer.refused)) }
}

impl Shared {
    /// Reads until the connection breaks or it is to stop.
    fn read(&self, path: &Path, netns: &str) -> std::io::Result<()> {
        let watch = SensorRequest {
            kind: Some(Asked::Watch(SensorWatch {})),
            netns: netns.to_owned(),
            ..SensorRequest::default()
        };
        let mut stream = request(path, &watch)?;
        while !self.stop.load(Relaxed) {
            let ready =
                kernel::poll::readable(&[stream.as_fd()], Some(LOOK)).map_err(std::io::Error::other)?;
            if ready == 0 {
                continue;
            }
            if let Some(Answer::Reading(reading)) = answer(&mut stream)?.kind {
                self.connected.store(true, Relaxed);
                self.take(reading);
            }
        }
        Ok(())
    }

    fn take(&self, reading: SensorReading) {
        self.lost.fetch_add(reading.readings_lost, Relaxed);
        self.taken.fetch_add(1, Relaxed);
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() >= READINGS_MAX {
            readings.pop_front();
            self.lost.fetch_add(1, Relaxed);
        }
        readings.push_back(reading);
    }

    fn run(&self, path: &Path, netns: &str) {
        let (mut wait, mut said) = (RETRY, false);
        while !self.stop.load(Relaxed) {
            let outcome = self.read(path, netns);
            if self.connected.swap(false, Relaxed) {
                (wait, said) = (RETRY, false);
            }
            if let Err(e) = outcome
                && !said
            {
                said = true;
                tracing::warn!(
                    path = %path.display(),
                    reason = %e,
                    "nobody serves sensors: connections, drops and this host's own delays are not seen; start \
                     `selvedge sensors` as root beside the agent"
                );
            }
            let mut slept = Duration::ZERO;
            while slept < wait && !self.stop.load(Relaxed) {
                std::thread::sleep(LOOK.min(wait));
                slept += LOOK.min(wait);
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}

impl Client {
    /// Starts asking for readings of a namespace; `None`: the one this process is in.
    pub fn start(path: PathBuf, netns: Option<String>) -> std::io::Result<Client> {
        let shared = Arc::new(Shared::default());
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sensors".to_owned())
            .stack_size(512 << 10)
            .spawn(move || thread.run(&path, netns.as_deref().unwrap_or_default()))?;
        Ok(Client { shared, sequence: SEQUENCE_FIRST })
    }

    /// The readings that came, oldest first.
    pub fn take(&self) -> Vec<SensorReading> {
        self.shared.readings.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Adds what was counted.
    pub fn count_into(&self, counters: &mut BTreeMap<String, u64>) {
        counters.insert("sensor_readings".to_owned(), self.shared.taken.load(Relaxed));
        counters.insert("sensor_readings_lost".to_owned(), self.shared.lost.load(Relaxed));
    }

    /// What a reading says in the diagnosis' own words: how the packets of each connection to another host of the fabric
    /// fared on a path nobody knows, how often this host had to send again, and what was counted at its NICs and in it.
    pub fn observations(
        &mut self,
        fabric: &Fabric,
        host: HostId,
        reading: &SensorReading,
    ) -> (Vec<PathObservation>, Vec<ComponentObservation>) {
        let mut paths = Vec::new();
        let mut components: Vec<ComponentObservation> =
            reading.findings.iter().filter_map(|f| found(fabric, host, f)).collect();
        let Some(Ok(rows)) = reading.tcp.as_ref().map(wire::sensor::tcp) else { return (paths, components) };
        let nic = |bytes: &[u8]| -> Option<wire::NicId> {
            let octets: [u8; 16] = bytes.try_into().ok()?;
            fabric.nic_by_addr(Ipv6Addr::from(octets))
        };
        let (mut sent_all, mut again_all, mut window) = (0u64, 0u64, Window::default());
        for row in rows {
            window = Window {
                start: Nanos(row.window_start_ns),
                length: Nanos(u64::from(row.window_length_us) * 1_000),
            };
            sent_all = sent_all.saturating_add(row.segs_out);
            again_all = again_all.saturating_add(row.retrans);
            if row.connections > 0 || row.segs_out == 0 {
                continue;
            }
            let (Some(from), Some(to)) = (nic(&row.local), nic(&row.remote)) else { continue };
            if fabric.nic_parts(from).1 != host {
                continue;
            }
            let Some(path) = fabric.path(from, to, 0) else { continue };
            // Segments sent for nothing are not lost; of the others each that was sent again was, as far as one knows.
            let lost = row.retrans.saturating_sub(row.retrans_spurious).min(row.segs_out);
            let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            self.sequence += 1;
            paths.push(PathObservation {
                window,
                producer: host,
                sequence: self.sequence,
                epoch: fabric.epoch,
                path: PathRef::OneWay(Leg { path, known: Known::Mixture }),
                class: 0,
                size_log2: 11,
                entropy: (row.local_port ^ row.remote_port) as u16,
                sent: number(row.segs_out),
                lost: number(lost),
                reordered: 0,
                ecn_marked: number(row.delivered_ce.min(row.segs_out.saturating_sub(lost))),
                delay: None,
                source: Source::Flow,
            });
        }
        if sent_all > 0 {
            components.push(ComponentObservation {
                window,
                producer: host,
                epoch: fabric.epoch,
                component: Component::Host(host),
                counter: Counter::TcpRetransmit,
                delta: again_all,
                of: sent_all,
                size_ns: 0,
            });
        }
        (paths, components)
    }
}

/// A finding as an observation. `None` where it is about an interface that is no NIC of this host in the fabric.
fn found(fabric: &Fabric, host: HostId, f: &SensorFinding) -> Option<ComponentObservation> {
    let counter = Counter::ALL.get(f.counter as usize).copied()?;
    let component = if f.address.is_empty() {
        Component::Host(host)
    } else {
        let octets: [u8; 16] = f.address.as_slice().try_into().ok()?;
        let nic = fabric.nic_by_addr(Ipv6Addr::from(octets)).filter(|&n| fabric.nic_parts(n).1 == host)?;
        let leaves = fabric.access_link(nic);
        match counter {
            // What arrives stands under the link that enters the port, what is sent or held back under the other.
            Counter::FrameError | Counter::FrameCorrected | Counter::CarrierLost => {
                Component::Link(leaves.reverse())
            }
            Counter::QueueDrop
            | Counter::QueueMarked
            | Counter::QueueDepth
            | Counter::PauseSent
            | Counter::PauseReceived
            | Counter::PausedTime => Component::Link(leaves),
            _ => Component::Nic(nic),
        }
    };
    let window =
        Window { start: Nanos(f.window_start_ns), length: Nanos(u64::from(f.window_length_us) * 1_000) };
    let delta = if f.of > 0 { f.delta.min(f.of) } else { f.delta };
    let (epoch, of, size_ns) = (fabric.epoch, f.of, f.size_ns);
    Some(ComponentObservation { window, producer: host, epoch, component, counter, delta, of, size_ns })
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

/// Captures and looks by the sensors' process, which has the privileges.
#[derive(Clone, Debug)]
pub struct AskSensors {
    /// Its socket.
    pub socket: PathBuf,
    /// What the host is called in the file.
    pub host: String,
    /// The namespace; `None`: the one this process is in.
    pub netns: Option<String>,
}

impl Helper for AskSensors {
    fn capture(
        &self,
        task: &CaptureTask,
        stop: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Result<Summary, String> {
        let failed = |e: std::io::Error| {
            format!("the sensors' process does not capture: {e}; is `selvedge sensors` running on this host?")
        };
        let asked = SensorRequest {
            kind: Some(Asked::Capture(task.clone())),
            host: self.host.clone(),
            netns: self.netns.clone().unwrap_or_default(),
        };
        let mut stream = request(&self.socket, &asked).map_err(failed)?;
        let mut bytes = 0;
        loop {
            let Some(Answer::Piece(piece)) = answer(&mut stream).map_err(failed)?.kind else {
                return Err(
                    "the sensors' process answers something else: install the same release".to_owned()
                );
            };
            bytes += piece.chunk.len() as u64;
            // Closing the connection is what stops it.
            if !piece.chunk.is_empty() && (!sink(piece.chunk) || stop()) {
                return Ok(Summary { bytes, ..Summary::default() });
            }
            if piece.done {
                return match piece.error.as_str() {
                    "" => {
                        Ok(Summary { packets: piece.packets, bytes, lost: piece.lost, ..Summary::default() })
                    }
                    error => Err(error.to_owned()),
                };
            }
        }
    }

    fn look(&self, task: &LookTask) -> Result<Vec<u8>, String> {
        let failed = |e: std::io::Error| {
            format!(
                "the sensors' process does not look at connections: {e}; is `selvedge sensors` running on this host?"
            )
        };
        let asked = SensorRequest {
            kind: Some(Asked::Look(task.clone())),
            host: self.host.clone(),
            netns: self.netns.clone().unwrap_or_default(),
        };
        let mut stream = request(&self.socket, &asked).map_err(failed)?;
        match answer(&mut stream).map_err(failed)?.kind {
            Some(Answer::Piece(piece)) if piece.error.is_empty() => Ok(piece.chunk),
            Some(Answer::Piece(piece)) => Err(piece.error),
            _ => Err("the sensors' process answers something else: install the same release".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_nic_counted_stands_under_the_link_it_concerns() {
        let fabric = Fabric::parse(
            "name = \"m\"\nplanes = 2\nleaves = 2\nspines = 1\nhosts = 2\nhosts_per_leaf = 1\n\
             access = { rate = \"10Gbit/s\", latency = \"1us\" }\ntrunk = { rate = \"10Gbit/s\", latency = \"1us\" }\n",
        )
        .unwrap();
        let host = HostId(1);
        let mine = fabric.host_nics(host).nth(1).unwrap();
        let other = fabric.host_nics(HostId(0)).next().unwrap();
        let link = fabric.access_link(mine);
        let of = |counter: Counter, address: Vec<u8>, delta, of| {
            let f = SensorFinding { address, counter: counter as u32, delta, of, ..SensorFinding::default() };
            found(&fabric, host, &f).map(|o| (o.component, o.delta, o.of))
        };
        let at = |nic| fabric.nic_addr(nic).octets().to_vec();
        let entering = Component::Link(link.reverse());
        assert_eq!(of(Counter::FrameError, at(mine), 3, 9), Some((entering, 3, 9)));
        assert_eq!(of(Counter::CarrierLost, at(mine), 1, 0), Some((entering, 1, 0)));
        assert_eq!(of(Counter::PauseSent, at(mine), 7, 0), Some((Component::Link(link), 7, 0)));
        assert_eq!(of(Counter::QueueDrop, at(mine), 0, 5), Some((Component::Link(link), 0, 5)));
        assert_eq!(of(Counter::NicOverrun, at(mine), 9, 5), Some((Component::Nic(mine), 5, 5)));
        assert_eq!(of(Counter::CpuPressure, Vec::new(), 1, 5), Some((Component::Host(host), 1, 5)));
        assert_eq!(of(Counter::FrameError, at(other), 3, 9), None, "another host's");
        assert_eq!(of(Counter::FrameError, vec![1, 2], 3, 9), None);
        let unknown = SensorFinding { counter: 999, ..SensorFinding::default() };
        assert_eq!(found(&fabric, host, &unknown), None);
    }
}
