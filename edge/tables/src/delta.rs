//! One Delta table: made, widened, appended to, kept in shape.
//!
//! How: an append commits its files together with the position in the log they reach to (a `txn` action of the
//! application [`APP`]), and only on the very version whose position was read. So whoever commits twice, or commits
//! after somebody else did, is refused by the store, and rows of a segment are in the table once: exactly.
//! Absent on purpose: the commit protocol, which is the library's; one `txn` for each producer, because the log already
//! is in order and ten thousand actions in each commit would say nothing more.

use crate::error::TablesError;
use crate::schema::{self, DAY, Kind, Table};
use crate::store::Store;
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, DataType, PrimitiveType, StructField, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::parquet::basic::{Compression, Encoding, ZstdLevel};
use deltalake_core::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake_core::parquet::schema::types::ColumnPath;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::writer::{DeltaWriter, RecordBatchWriter};
use deltalake_core::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use std::path::PathBuf;
use std::sync::Arc;

/// Under this name a commit says how far in the log it reaches.
const APP: &str = "selvedge-log";
/// Table property with the version of the columns.
const SCHEMA_VERSION: &str = "selvedge.schema";

pub(crate) struct Delta {
    pub about: &'static Table,
    table: DeltaTable,
}

fn failed(table: &str, e: impl Into<DeltaTableError>) -> TablesError {
    let e = e.into();
    let mut cause: &dyn std::error::Error = &e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    TablesError::Store { what: format!("table {table}"), reason: cause.to_string() }
}

fn primitive(kind: Kind) -> DataType {
    DataType::Primitive(match kind {
        Kind::Text => PrimitiveType::String,
        Kind::Tiny => PrimitiveType::Byte,
        Kind::Int => PrimitiveType::Integer,
        Kind::Long => PrimitiveType::Long,
        Kind::Float => PrimitiveType::Double,
        Kind::Time => PrimitiveType::Timestamp,
    })
}

fn field(c: &schema::Column) -> StructField {
    StructField::new(c.name, primitive(c.kind), c.nullable).with_metadata([("comment", c.text)])
}

/// How files are written. Numbers that are rarely the same twice are written as differences.
fn properties(about: &Table) -> WriterProperties {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    let mut p = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by("selvedge".to_owned());
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
        let url = store.table_url(about.name)?;
        let mut table = DeltaTableBuilder::from_url(url).and_then(DeltaTableBuilder::build).map_err(bad)?;
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
                .with_configuration([
                    (SCHEMA_VERSION.to_owned(), Some(schema::VERSION.to_string())),
                    ("delta.checkpointInterval".to_owned(), Some("50".to_owned())),
                    ("delta.logRetentionDuration".to_owned(), Some("interval 1 days".to_owned())),
                    ("delta.dataSkippingNumIndexedCols".to_owned(), Some("8".to_owned())),
                ])
                .await
                .map_err(bad)?;
        }
        table.load().await.map_err(bad)?;
        let mut delta = Delta { about, table };
        delta.widen().await?;
        Ok(delta)
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

    /// Appends rows of segments up to `upto`. The files are synced. Refused where somebody committed since the last
    /// [`Delta::refresh`].
    pub(crate) async fn append(
        &mut self,
        store: &Store,
        rows: Vec<RecordBatch>,
        upto: u64,
    ) -> Result<(), TablesError> {
        let mut writer = RecordBatchWriter::for_table(&self.table)
            .map_err(|e| self.bad(e))?
            .with_writer_properties(properties(self.about));
        for batch in rows {
            writer.write(batch).await.map_err(|e| self.bad(e))?;
        }
        let adds = writer.flush().await.map_err(|e| self.bad(e))?;
        let directory = store.root().join("tables").join(self.about.name);
        let mut files: Vec<PathBuf> = adds.iter().map(|a| directory.join(&a.path)).collect();
        let at = i64::try_from(upto).unwrap_or(i64::MAX);
        let commit = CommitBuilder::from(
            CommitProperties::default()
                .with_max_retries(0)
                .with_application_transaction(Transaction::new(APP, at)),
        )
        .with_actions(adds.into_iter().map(Action::Add).collect());
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![DAY.to_owned()]),
            predicate: None,
        };
        let snapshot = self.table.snapshot().map_err(|e| self.bad(e))?.snapshot().clone();
        let done = commit.build(Some(&snapshot), self.table.log_store(), operation).await;
        let version = done.map_err(|e| self.bad(e))?.version();
        files.push(directory.join("_delta_log").join(format!("{version:020}.json")));
        files.push(directory.join("_delta_log"));
        sync(files).await?;
        self.refresh().await
    }

    /// What the SQL engine reads: the table as of the last refresh.
    pub(crate) async fn provider(&self) -> Result<Arc<dyn TableProvider>, TablesError> {
        self.table.table_provider().await.map_err(|e| failed(self.about.name, DeltaTableError::from(e)))
    }
}

/// Makes files survive a power cut.
async fn sync(files: Vec<PathBuf>) -> Result<(), TablesError> {
    let all = move || {
        for path in files {
            std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(|e| TablesError::Store {
                what: path.display().to_string(),
                reason: e.to_string(),
            })?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(all).await.map_err(|_| TablesError::Closed)?
}
