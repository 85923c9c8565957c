//! Telemetry as a by-product: what the connections learned of their paths, told to the host's agent.
//!
//! How: connections that moved in a window are asked at its end what became known of each path
//! ([`transport::Connection::report_paths`]); the rows go to the agent's socket, a datagram of many at a time, without
//! waiting. An endpoint that nobody listens to asks nothing and keeps nothing.
//!
//! Invariants: nothing here blocks; a row is handed over or counted as dropped; a quiet endpoint is not woken.
//! Absent on purpose: delays. What "late" is takes a baseline of each path, which a window of a few EVs does not give.

use crate::config::Config;
use crate::steer::{Steering, Way};
use kernel::timestamp::unix_ns;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use transport::PathReport;
use wire::report::Report;
use wire::{HostId, Known, Leg, Nanos, PathObservation, PathRef, Source, Window};

/// The rows of one endpoint.
pub(crate) struct Observer {
    pub steering: Steering,
    to: Option<PathBuf>,
    socket: Option<UnixDatagram>,
    every: Nanos,
    report: Report,
    moved: Vec<u16>,
    /// Begin of the open window by the wall clock, and its end by the engine's.
    open: Option<(Nanos, Nanos)>,
    /// The window being told, and whether all of it took the paths it was to take.
    telling: (Window, bool),
    /// Rows the agent's socket took.
    pub told: u64,
    /// Rows it did not take.
    pub dropped: u64,
}

/// A folded flow label: the bucket of a hash that goes by it.
fn entropy_of(flow_label: u32) -> u16 {
    (flow_label ^ (flow_label >> 16)) as u16
}

impl Observer {
    /// None where there is no table of paths.
    pub fn new(config: &Config) -> Option<Observer> {
        let table = config.paths.as_ref()?;
        let steering = Steering::new(table);
        Some(Observer {
            report: Report::new(table.epoch),
            steering,
            to: config.report_to.clone(),
            socket: None,
            every: Nanos(config.report_every.0.max(1_000_000)),
            moved: Vec::new(),
            open: None,
            telling: (Window::default(), false),
            told: 0,
            dropped: 0,
        })
    }

    /// Something happened on a connection that is not on the list yet. True where it is now.
    pub fn note(&mut self, now: Nanos, index: u16) -> bool {
        if self.to.is_none() {
            return false;
        }
        if self.open.is_none() {
            // windows begin at multiples of their length, the same on all hosts
            let wall = unix_ns();
            let into = wall % self.every.0;
            self.open = Some((Nanos(wall - into), now + Nanos(self.every.0 - into)));
        }
        self.moved.push(index);
        true
    }

    /// When the open window ends.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.open.map(|(_, end)| end)
    }

    /// Ends the window where it is over, or `now` is the last moment there is: whom to ask.
    pub fn cut(&mut self, now: Nanos, last: bool) -> Vec<u16> {
        match self.open {
            Some((start, end)) if end <= now || last => {
                let length = Nanos(unix_ns().saturating_sub(start.0).max(1_000));
                self.telling = (Window { start, length }, self.steering.holds());
                self.open = None;
                std::mem::take(&mut self.moved)
            }
            _ => Vec::new(),
        }
    }

    /// What one connection learned of one EV.
    pub fn push(&mut self, way: Way, class: u8, size_log2: u8, r: PathReport) {
        let (window, holds) = self.telling;
        let known = if holds { way.leg.known } else { Known::Mixture };
        let full = self.report.push(&PathObservation {
            window,
            // the agent reports it as its own
            producer: HostId(0),
            sequence: 0,
            epoch: self.steering.epoch,
            path: PathRef::OneWay(Leg { known, ..way.leg }),
            class,
            size_log2,
            entropy: entropy_of(way.flow_label),
            sent: r.sent,
            lost: r.lost,
            reordered: 0,
            ecn_marked: r.marked,
            delay: None,
            source: Source::Transport,
        });
        if full {
            self.flush();
        }
    }

    /// Hands over what was pushed.
    pub fn flush(&mut self) {
        let rows = self.report.rows() as u64;
        if rows == 0 {
            return;
        }
        let went = self.send(&self.report.write());
        let lost = self.report.done(went);
        self.dropped += lost;
        self.told += rows - lost;
    }

    fn send(&mut self, datagram: &[u8]) -> bool {
        if self.socket.is_none() {
            self.socket = self.to.as_ref().and_then(|to| {
                let socket = UnixDatagram::unbound().ok()?;
                socket.set_nonblocking(true).ok()?;
                socket.connect(to).ok()?;
                Some(socket)
            });
        }
        let Some(socket) = &self.socket else { return false };
        match socket.send(datagram) {
            Ok(_) => true,
            // it is busy: that costs this datagram
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => false,
            // it is gone, or another one has come
            Err(_) => {
                self.socket = None;
                false
            }
        }
    }
}
