//! One Delta table: made, widened, appended to, its files replaced by others.
//!
//! How: an append commits its files together with the position in the log they reach to (a `txn` action of the
//! application [`APP`]), and only on the very version whose position was read. So whoever commits twice, or commits
//! after somebody else did, is refused by the store, and rows of a segment are in the table once: exactly. The same
//! holds for [`Delta::replace`], which besides is done only where every file it replaces still is the table's. A
//! position stays until a later one is committed: commits without one, and checkpoints, keep it.
//! Absent on purpose: the commit protocol, which is the library's; one `txn` for each producer, because the log already
//! is in order and ten thousand actions in each commit would say nothing more.

use crate::error::TablesError;
use crate::schema::{self, DAY, Kind, Table};
use crate::store::{Store, innermost};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::compute::kernels::cast_utils::Parser as _;
use arrow::datatypes::Date32Type;
use datafusion::catalog::TableProvider;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, Add, DataType, PrimitiveType, StructField, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::operations::vacuum::VacuumMode;
use deltalake_core::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake_core::parquet::basic::{Compression, Encoding, ZstdLevel};
use deltalake_core::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake_core::parquet::schema::types::ColumnPath;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::writer::{DeltaWriter, RecordBatchWriter};
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::path::Path as Key;
use std::collections::HashSet;
use std::sync::Arc;

/// Under this name a commit says how far in the log it reaches.
const APP: &str = "selvedge-log";
/// Table property with the version of the columns.
const SCHEMA_VERSION: &str = "selvedge.schema";

/// What every table is told, besides its columns. The hours a reader has that opened before a merge are those of the
/// removed files; entries of its log older than the newest checkpoint of a day ago go with the next commit.
const SETTINGS: [(&str, &str); 4] = [
    ("delta.checkpointInterval", "50"),
    ("delta.logRetentionDuration", "interval 1 days"),
    ("delta.deletedFileRetentionDuration", "interval 1 days"),
    ("delta.dataSkippingNumIndexedCols", "8"),
];
/// Rows that are found or skipped together in a merged file.
pub(crate) const GROUP_ROWS: usize = 1 << 17;

/// A table. A clone is the table as it stood.
#[derive(Clone)]
pub(crate) struct Delta {
    pub about: &'static Table,
    table: DeltaTable,
}

/// One file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Relative to the table.
    pub path: String,
    /// Days since 1970.
    pub day: i32,
    pub bytes: u64,
    pub rows: u64,
    /// When it was written, milliseconds since 1970.
    pub written_ms: i64,
}

/// What a table is made of at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Files.
    pub files: u64,
    /// Rows in them; what is only in the log is not counted.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A table as questions see it.
pub(crate) struct Shown {
    pub provider: Arc<dyn TableProvider>,
    pub size: Size,
}

/// Why files are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The same rows in fewer files.
    Merged,
    /// Too old.
    Forgotten,
}

/// A source of time for the library.
#[derive(Debug)]
struct At(i64);

impl deltalake_core::operations::vacuum::Clock for At {
    fn current_timestamp_millis(&self) -> i64 {
        self.0
    }
}

fn failed(table: &str, e: impl Into<DeltaTableError>) -> TablesError {
    TablesError::Store { what: format!("table {table}"), reason: innermost(&e.into()).to_string() }
}

fn primitive(kind: Kind) -> DataType {
    DataType::Primitive(match kind {
        Kind::Text => PrimitiveType::String,
        Kind::Tiny => PrimitiveType::Byte,
        Kind::Int => PrimitiveType::Integer,
        Kind::Long => PrimitiveType::Long,
        Kind::Float => PrimitiveType::Double,
        Kind::Time => PrimitiveType::Timestamp,
        Kind::Bytes => PrimitiveType::Binary,
    })
}

fn field(c: &schema::Column) -> StructField {
    StructField::new(c.name, primitive(c.kind), c.nullable).with_metadata([("comment", c.text)])
}

/// How much work a file is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// It came in bulk, and the next merge writes it anew: as little as possible. Numbers are split into streams of
    /// their bytes, which costs a third of a dictionary and packs as well, and only the time's smallest and largest
    /// value are noted (figures: docs/figures.md).
    Bulk,
    /// The fold wrote it.
    Folded,
    /// A merge wrote it, sorted.
    Merged,
}

/// How files are written. Numbers that are rarely the same twice are written as differences. Merged files are sorted,
/// so it pays to say of every page what it holds.
fn properties(about: &Table, care: Care) -> WriterProperties {
    if care == Care::Bulk {
        let mut p = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true)
            .set_column_statistics_enabled(ColumnPath::from("ts"), EnabledStatistics::Chunk)
            .set_created_by("selvedge".to_owned());
        for c in about.columns {
            let encoding = match c.kind {
                Kind::Time => Encoding::DELTA_BINARY_PACKED,
                Kind::Text | Kind::Bytes => Encoding::DELTA_BYTE_ARRAY,
                Kind::Tiny => Encoding::PLAIN,
                Kind::Int | Kind::Long | Kind::Float => Encoding::BYTE_STREAM_SPLIT,
            };
            p = p.set_column_encoding(ColumnPath::from(c.name), encoding);
        }
        return p.build();
    }
    let sorted = care == Care::Merged;
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    let mut p = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by("selvedge".to_owned());
    if sorted {
        p = p.set_max_row_group_row_count(Some(GROUP_ROWS));
        for c in about.cluster {
            p = p.set_column_statistics_enabled(ColumnPath::from(*c), EnabledStatistics::Page);
        }
    }
    for c in about.columns {
        let runs =
            matches!(c.name, "ts" | "sequence") || c.name.starts_with("delay_") && c.kind == Kind::Long;
        if runs {
            let path = ColumnPath::from(c.name);
            p = p
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    p.build()
}

impl Delta {
    /// Opens a table, making or widening it first where that is needed.
    pub(crate) async fn open(store: &Store, about: &'static Table) -> Result<Delta, TablesError> {
        let bad = |e: DeltaTableError| failed(about.name, e);
        let mut table = DeltaTable::new(store.table(about.name)?);
        if !table.verify_deltatable_existence().await.map_err(bad)? {
            let mut columns: Vec<StructField> = about.columns.iter().map(field).collect();
            columns.push(StructField::new(DAY, DataType::Primitive(PrimitiveType::Date), true));
            table = CreateBuilder::new()
                .with_log_store(table.log_store())
                .with_table_name(about.name)
                .with_comment(about.text)
                .with_columns(columns)
                .with_partition_columns([DAY])
                .with_save_mode(SaveMode::Ignore)
                .with_raise_if_key_not_exists(false)
                .with_configuration(
                    SETTINGS
                        .map(|(k, v)| (k.to_owned(), Some(v.to_owned())))
                        .into_iter()
                        .chain([(SCHEMA_VERSION.to_owned(), Some(schema::VERSION.to_string()))]),
                )
                .await
                .map_err(bad)?;
        }
        table.load().await.map_err(bad)?;
        let mut delta = Delta { about, table };
        delta.widen().await?;
        delta.set().await?;
        Ok(delta)
    }

    /// Tells the table what came to [`SETTINGS`] since it was made.
    async fn set(&mut self) -> Result<(), TablesError> {
        let metadata = self.table.snapshot().map_err(|e| self.bad(e))?.metadata().clone();
        let there = metadata.configuration();
        let missing = SETTINGS.into_iter().filter(|(k, v)| there.get(*k).map(String::as_str) != Some(*v));
        let missing: std::collections::HashMap<String, String> =
            missing.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        if !missing.is_empty() {
            let set = self.table.clone().set_tbl_properties().with_properties(missing);
            self.table = set.with_raise_if_not_exists(false).await.map_err(|e| self.bad(e))?;
        }
        Ok(())
    }

    /// Adds the columns that came since the table was made.
    async fn widen(&mut self) -> Result<(), TablesError> {
        let about = self.about;
        let bad = |e: DeltaTableError| failed(about.name, e);
        let metadata = self.table.snapshot().map_err(bad)?.metadata().clone();
        let got = metadata.configuration().get(SCHEMA_VERSION).and_then(|v| v.parse().ok()).unwrap_or(1);
        if got > schema::VERSION {
            return Err(TablesError::Newer { table: about.name.to_owned(), got, known: schema::VERSION });
        }
        if got == schema::VERSION {
            return Ok(());
        }
        let added: Vec<StructField> = about.since(got).map(field).collect();
        if !added.is_empty() {
            let widened = self.table.clone().add_columns().with_fields(added).await;
            self.table = widened.map_err(bad)?;
        }
        let version = [(SCHEMA_VERSION.to_owned(), schema::VERSION.to_string())].into();
        let set = self.table.clone().set_tbl_properties().with_properties(version);
        self.table = set.with_raise_if_not_exists(false).await.map_err(bad)?;
        Ok(())
    }

    fn bad(&self, e: impl Into<DeltaTableError>) -> TablesError {
        failed(self.about.name, e)
    }

    /// Reads what others committed.
    pub(crate) async fn refresh(&mut self) -> Result<(), TablesError> {
        self.table.update_state().await.map_err(|e| failed(self.about.name, e))
    }

    /// Segments of the log up to this one are in the table.
    pub(crate) async fn position(&self) -> Result<Option<u64>, TablesError> {
        let state = self.table.snapshot().map_err(|e| self.bad(e))?;
        let at = state.transaction_version(self.table.log_store().as_ref(), APP).await;
        Ok(at.map_err(|e| self.bad(e))?.and_then(|v| u64::try_from(v).ok()))
    }

    /// Appends rows of segments up to `upto`, and files that hold such. The files are synced. Refused where somebody
    /// committed since the last [`Delta::refresh`].
    pub(crate) async fn append(
        &mut self,
        store: &Store,
        rows: impl Iterator<Item = Result<RecordBatch, TablesError>> + Send,
        files: Vec<Add>,
        upto: u64,
    ) -> Result<(), TablesError> {
        let mut writer = self.writer(Care::Folded)?;
        for batch in rows {
            writer.write(batch?).await.map_err(|e| self.bad(e))?;
        }
        let mut adds = writer.flush().await.map_err(|e| self.bad(e))?;
        adds.extend(files);
        let at = i64::try_from(upto).unwrap_or(i64::MAX);
        let properties = CommitProperties::default().with_application_transaction(Transaction::new(APP, at));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![DAY.to_owned()]),
            predicate: None,
        };
        self.commit(store, Vec::new(), adds, properties, operation).await
    }

    /// Writes files for this table; [`Delta::append`] and [`Delta::replace`] make them part of it.
    pub(crate) fn writer(&self, care: Care) -> Result<RecordBatchWriter, TablesError> {
        let writer = RecordBatchWriter::for_table(&self.table).map_err(|e| self.bad(e))?;
        Ok(writer.with_writer_properties(properties(self.about, care)))
    }

    /// Rows as files of this table, one a day, synced and not part of it yet.
    pub(crate) async fn file(&self, store: &Store, batch: RecordBatch) -> Result<Vec<Add>, TablesError> {
        let mut writer = self.writer(Care::Bulk)?;
        writer.write(batch).await.map_err(|e| self.bad(e))?;
        let adds = writer.flush().await.map_err(|e| self.bad(e))?;
        store.sync(adds.iter().map(|a| self.key(&a.path)).collect()).await?;
        Ok(adds)
    }

    /// The rows of such a file, without their day.
    pub(crate) async fn read(&self, store: &Store, add: &Add) -> Result<RecordBatch, TablesError> {
        let bytes = store.read(&self.key(&add.path)).await?;
        let bad = |e: &dyn std::fmt::Display| TablesError::Store {
            what: format!("{} of table {}", add.path, self.about.name),
            reason: e.to_string(),
        };
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build());
        let batches: Result<Vec<RecordBatch>, _> = reader.map_err(|e| bad(&e))?.collect();
        let schema = self.about.row_schema();
        let batch = concat_batches(&schema, &batches.map_err(|e| bad(&e))?);
        batch.map_err(|e| bad(&e))
    }

    fn key(&self, path: &str) -> Key {
        Key::from(format!("tables/{}/{path}", self.about.name))
    }

    /// The files it consists of, as of the last refresh.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece>, TablesError> {
        let state = self.table.snapshot().map_err(|e| self.bad(e))?;
        let piece = |f: deltalake_core::kernel::LogicalFileView| {
            let day = f.partition_values_map().remove(DAY)??;
            Some(Piece {
                path: f.path().into_owned(),
                day: Date32Type::parse(&day)?,
                bytes: u64::try_from(f.size()).unwrap_or(0),
                rows: f.num_records().and_then(|n| u64::try_from(n).ok())?,
                written_ms: f.modification_time(),
            })
        };
        Ok(state.log_data().iter().filter_map(piece).collect())
    }

    /// Some of its files, to be read as a table.
    pub(crate) async fn some(&self, paths: &[String]) -> Result<Arc<dyn TableProvider>, TablesError> {
        let some = self.table.table_provider().with_file_paths(paths.iter().cloned());
        some.await.map_err(|e| self.bad(DeltaTableError::from(e)))
    }

    /// Replaces files by others, or by none. Nothing is done, and `false` said, where one of them is not the table's any
    /// more.
    pub(crate) async fn replace(
        &mut self,
        store: &Store,
        old: &[String],
        new: Vec<Add>,
        why: Why,
    ) -> Result<bool, TablesError> {
        self.refresh().await?;
        let wanted: HashSet<&str> = old.iter().map(String::as_str).collect();
        let changed = why == Why::Forgotten;
        let state = self.table.snapshot().map_err(|e| self.bad(e))?;
        let removed: Vec<Action> = state
            .log_data()
            .iter()
            .filter(|f| wanted.contains(f.path().as_ref()))
            .map(|f| Action::Remove(f.remove_action(changed)))
            .collect();
        if removed.len() != wanted.len() {
            return Ok(false);
        }
        let new: Vec<Add> = new.into_iter().map(|a| Add { data_change: changed, ..a }).collect();
        let bytes = new.iter().map(|a| a.size).max().unwrap_or(0);
        let operation = match why {
            Why::Merged => DeltaOperation::Optimize { predicate: None, target_size: bytes },
            Why::Forgotten => DeltaOperation::Delete { predicate: None },
        };
        self.commit(store, removed, new, CommitProperties::default(), operation).await?;
        Ok(true)
    }

    /// One commit on the version of the last refresh, or none. Its files are synced.
    async fn commit(
        &mut self,
        store: &Store,
        mut actions: Vec<Action>,
        adds: Vec<Add>,
        properties: CommitProperties,
        operation: DeltaOperation,
    ) -> Result<(), TablesError> {
        let mut files: Vec<Key> = adds.iter().map(|a| self.key(&a.path)).collect();
        actions.extend(adds.into_iter().map(Action::Add));
        let commit = CommitBuilder::from(properties.with_max_retries(0)).with_actions(actions);
        let snapshot = self.table.snapshot().map_err(|e| self.bad(e))?.snapshot().clone();
        let done = commit.build(Some(&snapshot), self.table.log_store(), operation).await;
        let version = done.map_err(|e| self.bad(e))?.version();
        files.push(self.key(&format!("_delta_log/{version:020}.json")));
        store.sync(files).await?;
        self.refresh().await
    }

    /// Files on the store that are not the table's and have not been for [`SETTINGS`]' day: what merges and retention
    /// left, and what was written and never committed. Relative to the table.
    pub(crate) async fn unused(&self, now_ms: i64) -> Result<Vec<String>, TablesError> {
        // Only said, and removed by the caller: the library's own removal adds two entries to the log for each, which
        // would race with the next fold.
        let vacuum = self.table.clone().vacuum().with_mode(VacuumMode::Full).with_dry_run(true);
        let (_, found) = vacuum.with_clock(Arc::new(At(now_ms))).await.map_err(|e| self.bad(e))?;
        Ok(found.files_deleted)
    }

    /// The table as of the last refresh.
    pub(crate) async fn shown(&self) -> Result<Shown, TablesError> {
        let provider = self.table.table_provider().await;
        let provider = provider.map_err(|e| failed(self.about.name, DeltaTableError::from(e)))?;
        let mut size = Size::default();
        for piece in self.pieces()? {
            size.files += 1;
            size.rows += piece.rows;
            size.bytes += piece.bytes;
        }
        Ok(Shown { provider, size })
    }
}
