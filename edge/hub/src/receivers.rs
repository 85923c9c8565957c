//! Receivers of what others tell: the file that says which, and the threads that write down what comes.
//!
//! How: each receiver of the room `receive` runs by itself and hands over what it took; here it becomes rows. Flows come
//! by the hundred thousand a second, so from [`BULK_ROWS`] on they are written to files of their table at once
//! ([`tables::Tables::file`]). Templates and exporters' numbers are a row of table `receiver_state`, so that they are
//! there after a start, on this machine or another.
//! What gNMI, OTLP, scrapes and syslog told is gathered for [`GATHER`] and written together; what it means to the diagnosis
//! goes to the desk as agents' batches do.
//! Invariants: sent = stored + ledger: what was not stored stands in `loss_ledger` under stage `receive`, or `exporter`
//! where the exporter itself shows by its numbering that it never came.

use crate::desk::DeskHandle;
use crate::guard::Guard;
use crate::guard::access::AccessError;
use crate::heard::Heard;
use crate::ledger::{Ledger, NOBODY};
use crate::told::{self, Addresses};
use fabric::Fabric;
use receive::flows::{Flows, Taken, Taker, Tally};
use receive::sources::{self, Sources};
use receive::{Dropped, Receiver, Row};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tables::arrow::array::{Array as _, AsArray as _};
use tables::{Limits, Rows, Tables, TablesError};
use tokio::sync::mpsc;
use wire::flow::Exporter;

/// From so many rows on they are worth a file.
const BULK_ROWS: usize = 16_384;
/// Addresses remembered with what stands for them: eight megabytes. Making a pseudonym takes a microsecond, so whoever has
/// more hosts than this pays for it.
const ADDRESSES: usize = 1 << 18;
/// Under this name the state of the flows' receiver is kept.
const FLOWS: &str = "flows";

/// Rows of other receivers are written together after this.
const GATHER: Duration = Duration::from_millis(250);

/// The receivers file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receivers {
    /// IPFIX, NetFlow v9 and v5, sFlow v5.
    pub flows: Option<FlowsSection>,
    /// What devices and ports are called; left out: as in the fabric.
    pub names: Option<sources::NamesSection>,
    /// Devices that are asked by gNMI.
    #[serde(default)]
    pub gnmi: Vec<receive::gnmi::Config>,
    /// OpenTelemetry.
    pub otlp: Option<receive::otlp::Config>,
    /// Exporters that are scraped.
    #[serde(default)]
    pub scrape: Vec<receive::scrape::Config>,
    /// Syslog.
    pub syslog: Option<receive::syslog::Config>,
    /// Where paths of the file begin.
    #[serde(skip)]
    pub base: PathBuf,
}

/// Where flows come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsSection {
    /// Addresses with ports. Every one takes all protocols; customary are 4739, 2055 and 6343.
    pub listen: Vec<SocketAddr>,
    /// Packets one packet stands for, where an exporter does not say, default 1.
    #[serde(default = "one")]
    pub sampling: u32,
    /// Write addresses as they are told, and not pseudonyms. Default false.
    #[serde(default)]
    pub real_addresses: bool,
}

fn one() -> u32 {
    1
}

impl Receivers {
    /// Reads a file. What is wrong in it is said with its place.
    pub fn read(path: &Path) -> Result<Receivers, AccessError> {
        let wrong = |reason: String| AccessError { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let mut read: Receivers = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        read.base = path.parent().map(Path::to_owned).unwrap_or_default();
        if let Some(flows) = &read.flows {
            if flows.listen.is_empty() {
                return Err(wrong(
                    "[flows] listen is empty, expected one such as \"0.0.0.0:4739\"".to_owned(),
                ));
            }
            if flows.sampling == 0 {
                return Err(wrong("[flows] sampling is 0, expected 1 or more".to_owned()));
            }
        }
        Ok(read)
    }

    fn sources(&self) -> Sources {
        Sources {
            names: self.names.clone(),
            gnmi: self.gnmi.clone(),
            otlp: self.otlp.clone(),
            scrape: self.scrape.clone(),
            syslog: self.syslog.clone(),
        }
    }
}

/// Where what is received goes.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) ledger: Ledger,
    pub(crate) guard: Arc<Guard>,
    pub(crate) desk: DeskHandle,
}

/// Other receivers than the flows', and the thread that writes what they hear.
struct Hearing {
    running: sources::Receiving,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Receivers at work. Dropping it stops them, as [`Receiving::stop`] does; what they took is written first.
pub(crate) struct Receiving {
    flows: Option<(Arc<Flows>, JoinHandle<()>)>,
    hearing: Option<Hearing>,
}

impl Receiving {
    /// Starts what the file says.
    pub(crate) async fn start(settings: &Receivers, room: &Room) -> Result<Receiving, String> {
        let flows = match &settings.flows {
            None => None,
            Some(section) => {
                let (section, room) = (section.clone(), room.clone());
                let begun = tokio::task::spawn_blocking(move || Receiving::flows(&section, &room));
                Some(begun.await.map_err(|e| e.to_string())??)
            }
        };
        let sources = settings.sources();
        let hearing =
            if sources.is_empty() { None } else { Some(hear(&sources, &settings.base, room).await?) };
        Ok(Receiving { flows, hearing })
    }

    fn flows(section: &FlowsSection, room: &Room) -> Result<(Arc<Flows>, JoinHandle<()>), String> {
        let Room { fabric, tables, ledger, guard, .. } = room;
        let config = receive::flows::Config {
            listen: section.listen.clone(),
            limits: wire::flow::Limits { sampling: section.sampling, ..wire::flow::Limits::default() },
            ..receive::flows::Config::default()
        };
        let kept = kept(tables).map_err(|e| e.to_string())?;
        let (flows, taker) = match Flows::start(&config, kept.as_deref()) {
            Err(receive::flows::FlowError::State(why)) => {
                // Templates come again; numbers of exporters begin anew, which is better than no flows.
                tracing::error!(%why, "what was kept of exporters is not used");
                Flows::start(&config, None)
            }
            other => other,
        }
        .map_err(|e| e.to_string())?;
        tracing::info!(at = ?flows.bound, "flows are received");
        let flows = Arc::new(flows);
        let writer = Writer {
            flows: Arc::clone(&flows),
            fabric: Arc::clone(fabric),
            tables: Arc::clone(tables),
            ledger: ledger.clone(),
            guard: Arc::clone(guard),
            real: section.real_addresses,
            names: BTreeMap::new(),
            told: Tally::default(),
        };
        let thread =
            std::thread::Builder::new().name("flows-rows".to_owned()).spawn(move || writer.run(&taker));
        Ok((flows, thread.map_err(|e| e.to_string())?))
    }

    /// Stops receiving; returns once what was taken is handed to the tables. Blocks.
    pub(crate) fn stop(&mut self) {
        if let Some((flows, thread)) = self.flows.take() {
            flows.stop();
            let _ = thread.join();
        }
        if let Some(Hearing { running, over, thread }) = self.hearing.take() {
            drop(running);
            over.store(true, Relaxed);
            let _ = thread.join();
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn hear(sources: &Sources, base: &Path, room: &Room) -> Result<Hearing, String> {
    let started = sources.start(base, Arc::clone(&room.fabric), sources::ROOM).await;
    let (running, rows) = started.map_err(|e| e.to_string())?;
    for (receiver, door, at) in &running.bound {
        tracing::info!(receiver, door, %at, "received");
    }
    let over = Arc::new(AtomicBool::new(false));
    let listener = Listener {
        room: room.clone(),
        intake: Arc::clone(&running.intake),
        told: BTreeMap::new(),
        unheard: 0,
    };
    let thread = std::thread::Builder::new().name("heard-rows".to_owned()).spawn({
        let (runtime, over) = (tokio::runtime::Handle::current(), Arc::clone(&over));
        move || listener.run(&runtime, rows, &over)
    });
    Ok(Hearing { running, over, thread: thread.map_err(|e| e.to_string())? })
}

/// Writes down what receivers other than the flows' heard.
struct Listener {
    room: Room,
    intake: Arc<receive::Intake>,
    /// What of its drops stands in the ledger.
    told: BTreeMap<(Receiver, Dropped), u64>,
    unheard: u64,
}

impl Listener {
    fn run(mut self, runtime: &tokio::runtime::Handle, mut rows: mpsc::Receiver<Row>, over: &AtomicBool) {
        let mut gathered = Vec::new();
        loop {
            let last = over.load(Relaxed);
            // Gather first: rows that come one by one would otherwise be written one by one.
            std::thread::sleep(GATHER);
            let got = runtime.block_on(async {
                tokio::time::timeout(GATHER, rows.recv_many(&mut gathered, sources::ROOM)).await
            });
            if !gathered.is_empty() {
                let mut heard = Heard::default();
                gathered.drain(..).for_each(|row| heard.push(row));
                self.write(&heard);
            }
            self.account();
            if last || matches!(got, Ok(0)) {
                return;
            }
        }
    }

    fn write(&self, heard: &Heard) {
        if let Some((host, batch)) = heard.batch(&self.room.fabric) {
            self.room.desk.batch(host, batch);
        }
        let parts = heard.parts(&self.room.fabric);
        if let Err(e) = self.room.tables.append(Rows { producer: None, parts }) {
            let rows = heard.rows();
            tracing::warn!(error = %e, rows, "what receivers heard is not kept");
            self.room.ledger.add(NOBODY, "receive", "tables_refused", rows);
        }
    }

    /// Brings what was dropped into the ledger. What the settings left out is no loss.
    fn account(&mut self) {
        for (receiver, why, now) in self.intake.drops().filter(|d| !d.1.is_chosen()) {
            let before = self.told.insert((receiver, why), now).unwrap_or(0);
            self.room.ledger.add(NOBODY, "receive", why.name(), now.saturating_sub(before));
        }
        let unheard = self.intake.sums().observations_dropped;
        let before = std::mem::replace(&mut self.unheard, unheard);
        self.room.ledger.add(NOBODY, "diagnosis", "queue_full", unheard.saturating_sub(before));
    }
}

/// What was kept of exporters when the hub last ran.
fn kept(tables: &Tables) -> Result<Option<Vec<u8>>, TablesError> {
    let sql = format!("select state from receiver_state where receiver = '{FLOWS}' order by ts desc limit 1");
    let found = tables.ask_blocking(&sql, Limits::default())?;
    let Some(batch) = found.iter().find(|b| b.num_rows() > 0) else { return Ok(None) };
    let column = tables::arrow::compute::cast(batch.column(0), &tables::arrow::datatypes::DataType::Binary);
    let column = column.map_err(|e| TablesError::Question { reason: e.to_string() })?;
    let bytes = column.as_binary_opt::<i32>().filter(|b| b.is_valid(0));
    Ok(bytes.map(|b| b.value(0).to_vec()))
}

/// Writes down what the flows' receiver took.
struct Writer {
    flows: Arc<Flows>,
    fabric: Arc<Fabric>,
    tables: Arc<Tables>,
    ledger: Ledger,
    guard: Arc<Guard>,
    real: bool,
    /// Exporters' addresses, by number.
    names: BTreeMap<u32, String>,
    /// What of the tally stands in the ledger.
    told: Tally,
}

impl Writer {
    fn run(mut self, taker: &Taker) {
        let guard = (!self.real).then(|| Arc::clone(&self.guard));
        let mut addresses = Addresses::new(Arc::clone(&self.fabric), guard, ADDRESSES);
        while let Some(taken) = taker.next() {
            let taken = self.write(taken, &mut addresses);
            taker.give_back(taken);
            self.account();
        }
        self.account();
    }

    fn lose(&self, reason: &'static str, rows: u64) {
        self.ledger.add(NOBODY, "receive", reason, rows);
    }

    fn write(&mut self, mut taken: Taken, addresses: &mut Addresses) -> Taken {
        let now_us = i64::try_from(crate::wall().0 / 1_000).unwrap_or(i64::MAX);
        let mut parts = Vec::new();
        if !taken.met.is_empty() {
            let text = |e: &Exporter| Ipv6Addr::from(e.key.address).to_canonical().to_string();
            self.names.extend(taken.met.iter().map(|e| (e.number, text(e))));
            parts.push(told::exporters(&self.fabric, now_us, &taken.met));
        }
        if let Some(state) = &taken.state {
            parts.push(told::state(now_us, FLOWS, state));
        }
        if !taken.beside.drops.is_empty() {
            parts.push(told::drops(&taken.beside.drops, addresses));
        }
        if !taken.beside.counters.is_empty() {
            let name = |number| self.names.get(&number).cloned().unwrap_or_default();
            parts.push(told::counters(&taken.beside.counters, name));
        }
        let beside = (taken.beside.drops.len() + taken.beside.counters.len()) as u64;
        let rows = taken.flows.rows();
        let mut in_bulk = None;
        if rows > 0 {
            let part = told::flows(&mut taken.flows, addresses);
            if rows >= BULK_ROWS { in_bulk = Some(part) } else { parts.push(part) }
        }
        let with_parts = if in_bulk.is_some() { 0 } else { rows as u64 };
        if !parts.is_empty()
            && let Err(e) = self.tables.append(Rows { producer: None, parts })
        {
            self.refused(&e, beside + with_parts);
        }
        if let Some((table, batch)) = in_bulk {
            let filed = self.tables.file(table, batch).and_then(|f| self.tables.append_filed(f));
            if let Err(e) = filed {
                self.refused(&e, rows as u64);
            }
        }
        taken
    }

    fn refused(&self, e: &TablesError, rows: u64) {
        tracing::warn!(error = %e, rows, "what exporters told is not kept");
        self.lose("tables_refused", rows);
    }

    /// Brings what the receiver counted as lost into the ledger.
    fn account(&mut self) {
        let (now, before) = (self.flows.tally(), self.told);
        // Records of IPFIX and NetFlow v5, datagrams of NetFlow v9 and sFlow. It goes down again where one was only late.
        let missing = now.decoded.missing.saturating_sub(before.decoded.missing);
        self.ledger.add(NOBODY, "exporter", "sequence_gap", missing);
        for (reason, now, before) in [
            ("queue_full", now.records_dropped, before.records_dropped),
            ("socket_buffer", now.kernel_dropped, before.kernel_dropped),
            ("too_long", now.too_long, before.too_long),
            ("unknown_or_too_many", now.decoded.refused, before.decoded.refused),
            ("cut", now.decoded.cut, before.decoded.cut),
            ("bad_set", now.decoded.bad_sets, before.decoded.bad_sets),
            ("parked_dropped", now.decoded.parked_dropped, before.decoded.parked_dropped),
        ] {
            self.lose(reason, now.saturating_sub(before));
        }
        let mut told = now;
        told.decoded.missing = now.decoded.missing.max(before.decoded.missing);
        self.told = told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_the_file_is_said_with_its_place() {
        let dir = crate::tests::a_directory("receivers");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("receivers.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Receivers::read(&path).map_err(|e| e.reason)
        };
        assert!(read("").unwrap().flows.is_none());
        let flows = read("[flows]\nlisten = [\"0.0.0.0:4739\", \"[::]:2055\"]\n").unwrap().flows.unwrap();
        assert_eq!((flows.sampling, flows.real_addresses, flows.listen.len()), (1, false, 2));
        assert!(read("[flows]\nlisten = []\n").unwrap_err().contains("listen is empty"));
        assert!(read("[flows]\nlisten = [\"x\"]\n").unwrap_err().contains("line 2"));
        assert!(
            read("[flows]\nlisten = [\"0.0.0.0:1\"]\nsampeling = 3\n").unwrap_err().contains("sampeling")
        );
    }
}
