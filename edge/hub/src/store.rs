//! Incidents on disk: one redb file, one transaction a change, synced before it returns.
//!
//! Tables: `meta` (format, next number), `incidents` (number -> JSON), `agents` (host -> first heard, so that an
//! agent that never comes back after a restart of the hub is still missed).
//! Invariants: what [`Store::save`] returned from survives a power cut; a number is given out once.

use crate::error::StoreError;
use crate::incident::Incident;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wire::{HostId, Nanos};

/// Newest format this hub knows.
pub(crate) const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const INCIDENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("incidents");
const AGENTS: TableDefinition<'_, u32, u64> = TableDefinition::new("agents");
const CACHE_BYTES: usize = 4 << 20;

pub(crate) struct Store {
    db: Database,
}

fn failed(e: impl std::fmt::Display) -> StoreError {
    StoreError::Database { reason: e.to_string() }
}

/// What was in the store.
pub(crate) struct Loaded {
    pub incidents: Vec<Incident>,
    pub next_number: u64,
    pub agents: Vec<HostId>,
}

impl Store {
    pub(crate) fn file(data: &Path) -> PathBuf {
        data.join("incidents.redb")
    }

    pub(crate) fn open(data: &Path) -> Result<(Store, Loaded), StoreError> {
        std::fs::create_dir_all(data)
            .map_err(|e| StoreError::Directory { path: data.to_owned(), kind: e.kind() })?;
        let path = Store::file(data);
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(&path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.clone() },
            e => failed(e),
        })?;
        let store = Store { db };
        store.prepare(&path)?;
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    fn prepare(&self, path: &Path) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(failed)?;
        {
            let mut meta = write.open_table(META).map_err(failed)?;
            let got = meta.get("format").map_err(failed)?.map(|v| v.value());
            match got {
                Some(got) if got > FORMAT => {
                    return Err(StoreError::Newer { path: path.to_owned(), got, known: FORMAT });
                }
                Some(_) => {}
                None => {
                    meta.insert("format", FORMAT).map_err(failed)?;
                    meta.insert("next_number", 1).map_err(failed)?;
                }
            }
            write.open_table(INCIDENTS).map_err(failed)?;
            write.open_table(AGENTS).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        let read = self.db.begin_read().map_err(failed)?;
        let mut incidents = Vec::new();
        for row in read.open_table(INCIDENTS).map_err(failed)?.iter().map_err(failed)? {
            let (number, json) = row.map_err(failed)?;
            let incident = serde_json::from_slice(json.value())
                .map_err(|e| StoreError::Damaged { number: number.value(), reason: e.to_string() })?;
            incidents.push(incident);
        }
        let mut agents = Vec::new();
        for row in read.open_table(AGENTS).map_err(failed)?.iter().map_err(failed)? {
            agents.push(HostId(row.map_err(failed)?.0.value()));
        }
        let meta = read.open_table(META).map_err(failed)?;
        let next_number = meta.get("next_number").map_err(failed)?.map_or(1, |v| v.value());
        Ok(Loaded { incidents, next_number, agents })
    }

    /// Writes what changed in one transaction, and syncs. An agent's `None` forgets it.
    pub(crate) fn save<'a>(
        &self,
        incidents: impl Iterator<Item = &'a Incident>,
        next_number: Option<u64>,
        forgotten: &[u64],
        agents: &BTreeMap<HostId, Option<Nanos>>,
    ) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(INCIDENTS).map_err(failed)?;
            for incident in incidents {
                let json = serde_json::to_vec(incident).map_err(failed)?;
                table.insert(incident.number, json.as_slice()).map_err(failed)?;
            }
            for number in forgotten {
                table.remove(number).map_err(failed)?;
            }
            let mut table = write.open_table(AGENTS).map_err(failed)?;
            for (host, since) in agents {
                match since {
                    Some(since) => table.insert(host.0, since.0).map_err(failed)?,
                    None => table.remove(host.0).map_err(failed)?,
                };
            }
            if let Some(n) = next_number {
                write.open_table(META).map_err(failed)?.insert("next_number", n).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }
}
