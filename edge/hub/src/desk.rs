//! The desk: the one thread that decides. It owns the diagnosis and the incident book, writes the recording, and
//! answers questions about all three.
//!
//! How: one bounded queue of batches and questions; between them it runs the engine's timeouts, and once a second it
//! looks for silent agents and hands refinements to the keeper.
//! Invariants: inputs are stamped with a clock that never runs backwards; a batch that finds the queue full is
//! counted as lost, a question is refused.

use crate::agents::Agents;
use crate::diagnosis::{Diagnosis, Fed};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::rows::{self, claims_the_hubs};
use diagnose::LinkHealth;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tables::{Rows, Tables};
use tokio::sync::oneshot;
use wire::proto::{Batch, ComponentColumns};
use wire::{Component, ComponentObservation, Counter, HostId, Nanos, Window};

const TICK: Nanos = Nanos::from_secs(1);
/// A tick so late means that the machine stood still.
const LATE: Nanos = Nanos::from_millis(500);
/// How often each link's health is written down.
const HEALTH_EVERY: Nanos = Nanos::from_secs(10);
/// Fabrics with more links are not written link by link.
const HEALTH_LINKS_MAX: u32 = 65_536;
/// Why rows of a batch are refused before they are stored.
const AT_INGEST: [&str; 5] =
    ["unequal_columns", "bad_row", "not_its_path", "not_its_component", "wrong_time"];
/// A question unanswered so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) type Question = Box<dyn FnOnce(&mut Desk) + Send>;

pub(crate) enum Input {
    Batch { host: HostId, batch: Box<Batch> },
    Ask(Question),
    Stop,
}

/// The desk had no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// How the rest of the hub reaches the desk.
#[derive(Clone)]
pub(crate) struct DeskHandle {
    inputs: SyncSender<Input>,
    metrics: Arc<Metrics>,
    ledger: Ledger,
}

impl DeskHandle {
    pub(crate) fn new(inputs: SyncSender<Input>, metrics: Arc<Metrics>, ledger: Ledger) -> Self {
        DeskHandle { inputs, metrics, ledger }
    }

    /// Hands over a batch; its observations are counted as lost where there is no room.
    pub(crate) fn batch(&self, host: HostId, batch: Batch) {
        let rows = wire::batch::rows(&batch);
        let refused = match self.inputs.try_send(Input::Batch { host, batch: Box::new(batch) }) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "queue_full",
            Err(TrySendError::Disconnected(_)) => "stopping",
        };
        self.metrics.lose(refused, rows);
        self.ledger.add(host, "diagnosis", refused, rows);
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Desk) -> R + Send + 'static,
    ) -> Result<R, Busy> {
        let (answer, answered) = oneshot::channel();
        let ask = Input::Ask(Box::new(move |desk| {
            // Whoever asked may have gone.
            let _ = answer.send(question(desk));
        }));
        let got = match self.inputs.try_send(ask) {
            Ok(()) => tokio::time::timeout(PATIENCE, answered).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        got.ok_or_else(|| {
            self.metrics.questions_refused.inc();
            Busy
        })
    }

    /// Asks the desk to end after what is in the queue. Blocks while the queue is full.
    pub(crate) fn stop(&self) {
        let _ = self.inputs.send(Input::Stop);
    }
}

/// The recording being written.
pub(crate) struct Recorder {
    file: BufWriter<File>,
    bytes: Vec<u8>,
}

impl Recorder {
    pub(crate) fn begin(file: File, fabric_toml: &str, context: &str) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        wire::record::write_header(&mut bytes, fabric_toml, context);
        let mut file = BufWriter::with_capacity(1 << 16, file);
        file.write_all(&bytes)?;
        file.flush()?;
        Ok(Recorder { file, bytes })
    }

    fn write(&mut self, now: Nanos, host: HostId, batch: &Batch) -> std::io::Result<u64> {
        self.bytes.clear();
        wire::record::write_record(&mut self.bytes, now, host, batch);
        self.file.write_all(&self.bytes)?;
        Ok(self.bytes.len() as u64)
    }
}

pub(crate) struct Desk {
    pub(crate) diagnosis: Diagnosis,
    pub(crate) agents: Arc<Mutex<Agents>>,
    metrics: Arc<Metrics>,
    recorder: Option<Recorder>,
    silent_after: Duration,
    pub(crate) silent: Vec<HostId>,
    next_tick: Nanos,
    next_health: Nanos,
    /// Observations taken at the last look, and when that was.
    looked: (u64, Nanos),
    ledger: Ledger,
    tables: Arc<Tables>,
    clock: fn() -> Nanos,
}

impl Desk {
    pub(crate) fn new(
        diagnosis: Diagnosis,
        agents: Arc<Mutex<Agents>>,
        metrics: Arc<Metrics>,
        recorder: Option<Recorder>,
        silent_after: Duration,
        (tables, ledger): (Arc<Tables>, Ledger),
        clock: fn() -> Nanos,
    ) -> Self {
        let now = clock();
        Desk {
            diagnosis,
            agents,
            metrics,
            recorder,
            silent_after,
            silent: Vec::new(),
            next_tick: now + TICK,
            next_health: now + HEALTH_EVERY,
            looked: (0, now),
            ledger,
            tables,
            clock,
        }
    }

    /// Observations not taken since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.metrics.observations_sent.get().saturating_sub(self.metrics.observations_stored.get())
    }

    /// Observations a second, given how many were taken so far. Looks are at least a second apart.
    pub(crate) fn rate(&self, stored: u64) -> f64 {
        let (before, at) = self.looked;
        let seconds = self.diagnosis.now.since(at).0 as f64 / 1e9;
        if seconds > 0.0 { stored.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }

    /// Works until told to stop or nobody is left to ask.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let now = (self.clock)();
            let due = self.diagnosis.engine.next_timeout().map_or(self.next_tick, |t| t.min(self.next_tick));
            let input = match inputs.recv_timeout(Duration::from_nanos(due.since(now).0)) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let now = (self.clock)().max(self.diagnosis.now);
            self.diagnosis.advance(now);
            if now >= self.next_tick {
                // Where this machine stood still, so did the reading of streams: nobody is silent for that.
                let stood_still = now.since(self.next_tick) > LATE;
                self.tick(now, stood_still);
                self.next_tick = now + TICK;
            }
            self.tell_presence(now);
            match input {
                Some(Input::Batch { host, mut batch }) => {
                    self.keep_to_its_own(&mut batch);
                    self.take(now, host, &batch);
                }
                Some(Input::Ask(question)) => question(&mut self),
                Some(Input::Stop) => break,
                None => {}
            }
        }
        self.end();
    }

    /// Counters that are the hub's are not taken from agents.
    fn keep_to_its_own(&self, batch: &mut Batch) {
        if let Some(refused) = batch.components.take_if(|c| claims_the_hubs(c)) {
            self.metrics.lose("not_its_component", refused.window_start_ns.len() as u64);
        }
    }

    fn take(&mut self, now: Nanos, host: HostId, batch: &Batch) {
        self.record(now, host, batch);
        let fed: Fed = self.diagnosis.feed(now, host, batch);
        self.metrics.observations_stored.inc_by(fed.stored);
        for (reason, rows) in fed.dropped {
            self.metrics.lose(reason, rows);
            // The others were refused by the tables as well, and stand there with their batch.
            if !AT_INGEST.contains(&reason) {
                self.ledger.add(host, "diagnosis", reason, rows);
            }
        }
    }

    fn record(&mut self, now: Nanos, host: HostId, batch: &Batch) {
        let Some(recorder) = &mut self.recorder else { return };
        match recorder.write(now, host, batch) {
            Ok(bytes) => {
                self.metrics.record_bytes.inc_by(bytes);
            }
            Err(e) => {
                tracing::error!(error = %e, "the recording ends here");
                self.metrics.record_failures.inc();
                self.recorder = None;
            }
        }
    }

    /// Tells the diagnosis of agents that came or went, before anything that came after.
    fn tell_presence(&mut self, now: Nanos) {
        let changes = self.agents.lock().unwrap_or_else(PoisonError::into_inner).take_presence();
        for (host, p) in changes {
            let window = Window { start: p.since, length: p.until.since(p.since) };
            self.say_of(now, host, window, Counter::AgentAway, (u64::from(p.away), 1));
        }
    }

    /// Something the hub itself saw of a host: a batch like any other, so that a recording holds it too, but none of
    /// the observations agents sent.
    fn say_of(
        &mut self,
        now: Nanos,
        host: HostId,
        window: Window,
        counter: Counter,
        (delta, of): (u64, u64),
    ) {
        let epoch = self.diagnosis.engine.fabric().epoch;
        let component = Component::Host(host);
        let seen =
            ComponentObservation { window, producer: host, epoch, component, counter, delta, of, size_ns: 0 };
        let mut columns = ComponentColumns::default();
        wire::batch::push_component(&mut columns, &seen);
        let batch = Batch {
            version: wire::batch::PROTOCOL_VERSION,
            fabric_epoch: epoch.0,
            components: Some(columns),
            ..Batch::default()
        };
        self.record(now, host, &batch);
        for (reason, rows) in self.diagnosis.feed(now, host, &batch).dropped {
            tracing::warn!(%host, ?counter, reason, rows, "the diagnosis does not take what the hub saw");
        }
    }

    /// What is done once a second.
    fn tick(&mut self, now: Nanos, stood_still: bool) {
        let mut silent =
            self.agents.lock().unwrap_or_else(PoisonError::into_inner).silent(now, self.silent_after);
        if stood_still {
            silent.clear();
        }
        self.silent = silent.iter().map(|s| s.0).collect();
        let window = Window { start: now.since(TICK), length: TICK };
        for (host, seconds) in silent {
            self.say_of(now, host, window, Counter::AgentSilent, (seconds, 0));
        }
        self.diagnosis.book.flush();
        self.ledger.write(now, &self.tables);
        if now >= self.next_health {
            self.looked = (self.metrics.observations_stored.get(), now);
            self.next_health = now + HEALTH_EVERY;
            self.write_health(now);
        }
        if let Some(recorder) = &mut self.recorder
            && let Err(e) = recorder.file.flush()
        {
            tracing::error!(error = %e, "the recording ends here");
            self.metrics.record_failures.inc();
            self.recorder = None;
        }
    }

    /// Writes down how the links do. Where there is no room, the next ten seconds have their turn.
    fn write_health(&self, now: Nanos) {
        let engine = &self.diagnosis.engine;
        let fabric = engine.fabric();
        if fabric.link_bound() > HEALTH_LINKS_MAX {
            return;
        }
        let crossed: Vec<LinkHealth> =
            fabric.links().filter_map(|l| engine.link_health(l)).filter(|h| h.sent_10s > 0).collect();
        if !crossed.is_empty() {
            let parts = vec![rows::link_health(fabric, now, &crossed)];
            if let Err(e) = self.tables.append(Rows { producer: None, parts }) {
                tracing::warn!(error = %e, "the links' health of these ten seconds is not kept");
            }
        }
    }

    fn end(&mut self) {
        // An empty batch says how far time had gone, so that a replay runs the same timeouts.
        let now = self.diagnosis.now;
        self.record(now, HostId(0), &Batch::default());
        if let Some(recorder) = &mut self.recorder
            && let Err(e) = recorder.file.flush()
        {
            tracing::error!(error = %e, "the end of the recording is not on disk");
        }
        self.diagnosis.book.flush();
        self.ledger.write(now, &self.tables);
    }
}
