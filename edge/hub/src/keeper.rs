//! The keeper: the thread that writes incidents, so that a slow disk never holds up the diagnosis.
//!
//! How: the desk hands over changed incidents; what waits is merged by incident, written together and made
//! durable, and only then published. Everything the API says about incidents comes from what is published.
//! Invariants: what anybody is told is on disk; what waits is at most one version of each incident; a failed write
//! is tried again every second and said in the meantime ([`Keeper::error`]).

use crate::error::StoreError;
use crate::incident::Incident;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use wire::{HostId, Nanos};

/// Changes a slow listener may be behind before it is told that it missed some.
const CHANGES_WAITING: usize = 256;
const RETRY: Duration = Duration::from_secs(1);

/// One piece of work: what has changed since the last one.
#[derive(Debug, Default)]
struct Work {
    incidents: BTreeMap<u64, Incident>,
    forgotten: Vec<u64>,
    /// Known since, or no longer known.
    agents: BTreeMap<HostId, Option<Nanos>>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.forgotten.is_empty() && self.agents.is_empty()
    }
    /// Puts back what could not be written, under what came since.
    fn put_back(&mut self, failed: Work) {
        for (number, incident) in failed.incidents {
            if !self.forgotten.contains(&number) {
                self.incidents.entry(number).or_insert(incident);
            }
        }
        self.forgotten.extend(failed.forgotten);
        for (host, known) in failed.agents {
            self.agents.entry(host).or_insert(known);
        }
    }
}

#[derive(Default)]
struct Desk {
    work: Work,
    ticket: u64,
    stopping: bool,
    error: Option<StoreError>,
}

struct Shared {
    desk: Mutex<Desk>,
    wake: Condvar,
    published: RwLock<BTreeMap<u64, Incident>>,
    written: watch::Sender<u64>,
    /// Numbers of incidents, as they are published.
    changed: broadcast::Sender<u64>,
}

/// How the rest of the hub reaches the keeper.
#[derive(Clone)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
}

impl Keeper {
    /// Starts the thread. `incidents` are those on disk.
    pub(crate) fn start(
        store: Store,
        incidents: BTreeMap<u64, Incident>,
    ) -> Result<(Keeper, JoinHandle<()>), StoreError> {
        let shared = Arc::new(Shared {
            desk: Mutex::default(),
            wake: Condvar::new(),
            published: RwLock::new(incidents),
            written: watch::Sender::new(0),
            changed: broadcast::Sender::new(CHANGES_WAITING),
        });
        let keeper = Keeper { shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || shared.run(&store))
            .map_err(|e| StoreError::Thread { reason: e.to_string() })?;
        Ok((keeper, thread))
    }

    /// Hands over changed incidents. The ticket is done ([`Keeper::done`]) once they are on disk and published.
    pub(crate) fn write(&self, incidents: impl Iterator<Item = Incident>, forgotten: Vec<u64>) -> u64 {
        let mut desk = self.shared.lock();
        for incident in incidents {
            desk.work.incidents.insert(incident.number, incident);
        }
        for number in &forgotten {
            desk.work.incidents.remove(number);
        }
        desk.work.forgotten.extend(forgotten);
        desk.ticket += 1;
        self.shared.wake.notify_one();
        desk.ticket
    }

    /// Remembers that a host's agent exists, or forgets it (`None`).
    pub(crate) fn agent(&self, host: HostId, since: Option<Nanos>) {
        let mut desk = self.shared.lock();
        desk.work.agents.insert(host, since);
        desk.ticket += 1;
        self.shared.wake.notify_one();
    }

    /// Waits until a ticket is done.
    pub(crate) async fn done(&self, ticket: u64) {
        // The sender lives as long as this keeper.
        let _ = self.shared.written.subscribe().wait_for(|&w| w >= ticket).await;
    }

    /// Numbers of incidents from now on, each time one is published.
    pub(crate) fn changes(&self) -> broadcast::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// What may be told.
    pub(crate) fn published(&self) -> RwLockReadGuard<'_, BTreeMap<u64, Incident>> {
        self.shared.published.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be written at the moment.
    pub(crate) fn error(&self) -> Option<StoreError> {
        self.shared.lock().error.clone()
    }

    /// Asks the thread to write what waits and to end.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, store: &Store) {
        let mut last_failed = false;
        loop {
            let mut desk = self.lock();
            if last_failed && !desk.stopping {
                desk = self.wake.wait_timeout(desk, RETRY).map_or_else(|e| e.into_inner().0, |w| w.0);
            }
            while desk.work.is_empty() && !desk.stopping {
                desk = self.wake.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
            let work = std::mem::take(&mut desk.work);
            let (ticket, stopping) = (desk.ticket, desk.stopping);
            drop(desk);
            if work.is_empty() {
                return;
            }
            let forgotten: Vec<Incident> = {
                let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
                work.forgotten.iter().filter_map(|n| published.get(n).cloned()).collect()
            };
            let saved = store.save(work.incidents.values(), &forgotten, &work.agents);
            match saved {
                Ok(()) => {
                    last_failed = false;
                    self.lock().error = None;
                    self.publish(work);
                    self.written.send_replace(ticket);
                }
                Err(e) => {
                    tracing::error!(error = %e, "incidents are not on disk; trying again every second");
                    last_failed = true;
                    let mut desk = self.lock();
                    desk.error = Some(e);
                    desk.work.put_back(work);
                    if stopping {
                        return;
                    }
                }
            }
        }
    }

    fn publish(&self, work: Work) {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        for incident in work.incidents.values() {
            if let Some(text) = news(published.get(&incident.number), incident) {
                tracing::info!(
                    incident = incident.id(),
                    confidence = format_args!("{:.2}", incident.confidence),
                    "{text}: {}",
                    incident.sentence()
                );
            }
        }
        let changed: Vec<u64> = work.incidents.keys().copied().collect();
        published.extend(work.incidents);
        for number in work.forgotten {
            published.remove(&number);
        }
        drop(published);
        for number in changed {
            // Nobody may be listening.
            let _ = self.changed.send(number);
        }
    }
}

/// What is worth a line of log.
fn news(before: Option<&Incident>, now: &Incident) -> Option<&'static str> {
    match (before.map(Incident::is_open), now.is_open()) {
        (None, true) => Some("opened"),
        (Some(false), true) => Some("open again"),
        (None | Some(true), false) => Some("closed"),
        (Some(true), true) | (Some(false), false) => None,
    }
}
