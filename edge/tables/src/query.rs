//! Questions: SQL over memory and tables as one, read only, within limits.
//!
//! How: a question gets a session of its own whose tables were taken under one lock: the Delta table as of its last
//! commit, and the rows that are only in the log. DataFusion plans and runs it on the room's own threads.
//! Invariants: nothing but `SELECT`, `EXPLAIN`, `SHOW` and `DESCRIBE` is run; no statement reaches a file; an answer
//! stops at its row and time limits and says so; dropping an answer ends its work.

use crate::error::TablesError;
use crate::functions;
use crate::schema::TABLES;
use crate::tables::{Config, Shared};
use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{
    CatalogProvider as _, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider as _, Session, TableProvider,
};
use datafusion::common::DataFusionError;
use datafusion::datasource::TableType;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How much a question may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows answered; what is beyond is left out and said.
    pub rows: usize,
    /// Time to the last row.
    pub within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { rows: 100_000, within: Duration::from_secs(60) }
    }
}

/// What all questions share.
pub(crate) struct Base {
    env: Arc<RuntimeEnv>,
    state: SessionState,
}

fn refused(e: &DataFusionError) -> TablesError {
    TablesError::Question { reason: e.strip_backtrace() }
}

impl Base {
    pub(crate) fn new(config: &Config) -> Result<Base, TablesError> {
        let env = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(config.query_bytes)))
            .build_arc()
            .map_err(|e| refused(&e))?;
        let settings = SessionConfig::new()
            .with_information_schema(true)
            .with_target_partitions(std::thread::available_parallelism().map_or(2, usize::from))
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            .set_bool("datafusion.execution.parquet.reorder_filters", true)
            .with_default_catalog_and_schema("selvedge", "public");
        let state = SessionStateBuilder::new()
            .with_config(settings)
            .with_runtime_env(Arc::clone(&env))
            .with_default_features()
            .build();
        let context = SessionContext::new_with_state(state);
        for f in functions::all(&config.fabric) {
            context.register_udf(f);
        }
        Ok(Base { env, state: context.state() })
    }

    /// A session that sees everything as of now.
    pub(crate) fn session(&self, shared: &Shared) -> Result<SessionContext, TablesError> {
        let schema = MemorySchemaProvider::new();
        {
            let state = shared.lock();
            for ((about, table), recent) in TABLES.iter().zip(&state.providers).zip(&state.recent) {
                let rows = recent.iter().map(|r| r.batch.clone()).collect();
                let whole = Whole { table: Arc::clone(table), rows };
                schema.register_table(about.name.to_owned(), Arc::new(whole)).map_err(|e| refused(&e))?;
            }
        }
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema("public", Arc::new(schema)).map_err(|e| refused(&e))?;
        let catalogs = MemoryCatalogProviderList::new();
        use datafusion::catalog::CatalogProviderList as _;
        catalogs.register_catalog("selvedge".to_owned(), Arc::new(catalog));
        let state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(Arc::new(catalogs))
            .with_runtime_env(Arc::clone(&self.env))
            .build();
        Ok(SessionContext::new_with_state(state))
    }
}

/// A table and the rows of it that are only in the log.
#[derive(Debug)]
struct Whole {
    table: Arc<dyn TableProvider>,
    rows: Vec<RecordBatch>,
}

#[async_trait::async_trait]
impl TableProvider for Whole {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    // The rows in memory are not filtered, so every filter is applied again above.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let of_table = self.table.supports_filters_pushdown(filters)?;
        Ok(of_table
            .into_iter()
            .map(|f| match f {
                TableProviderFilterPushDown::Exact => TableProviderFilterPushDown::Inexact,
                other => other,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        // A limit is pushed down only where no filter stands above it.
        let stored = self.table.scan(state, projection, filters, limit).await?;
        if self.rows.is_empty() {
            return Ok(stored);
        }
        let schema = stored.schema();
        let mut rows = Vec::with_capacity(self.rows.len());
        for batch in &self.rows {
            let batch = match projection {
                Some(columns) => batch.project(columns)?,
                None => batch.clone(),
            };
            rows.push(cast_to(&batch, &schema)?);
        }
        let memory = MemTable::try_new(Arc::clone(&schema), vec![rows])?;
        let recent = memory.scan(state, None, &[], limit).await?;
        UnionExec::try_new(vec![stored, recent])
    }
}

fn cast_to(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let columns: Result<Vec<_>, _> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(c, f)| cast_with_options(c, f.data_type(), &CastOptions::default()))
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options)?)
}

/// The engine's own types as ones every client knows.
fn plain(schema: &Schema) -> SchemaRef {
    let of = |f: &Arc<Field>| {
        let kind = match f.data_type() {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
            DataType::Dictionary(_, value) => match value.as_ref() {
                DataType::Utf8View => DataType::Utf8,
                other => other.clone(),
            },
            other => other.clone(),
        };
        Field::new(f.name(), kind, f.is_nullable())
    };
    Arc::new(Schema::new(schema.fields().iter().map(of).collect::<Vec<_>>()))
}

/// An answer, as it comes.
pub struct Answer {
    schema: SchemaRef,
    stream: Option<SendableRecordBatchStream>,
    batches: Option<mpsc::Receiver<Result<RecordBatch, TablesError>>>,
    limits: Limits,
    left: usize,
    truncated: bool,
}

/// The only statements there are: those that read.
fn reading() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

pub(crate) async fn columns(session: &SessionContext, sql: &str) -> Result<SchemaRef, TablesError> {
    let frame = session.sql_with_options(sql, reading()).await.map_err(|e| refused(&e))?;
    let plan = frame.create_physical_plan().await.map_err(|e| refused(&e))?;
    Ok(plain(&plan.schema()))
}

pub(crate) async fn ask(session: &SessionContext, sql: &str, limits: Limits) -> Result<Answer, TablesError> {
    let planned = async {
        let frame = session.sql_with_options(sql, reading()).await?;
        frame.execute_stream().await
    };
    let stream = match tokio::time::timeout(limits.within, planned).await {
        Ok(stream) => stream.map_err(|e| refused(&e))?,
        Err(_) => return Err(late(limits)),
    };
    Ok(Answer {
        schema: plain(&stream.schema()),
        stream: Some(stream),
        batches: None,
        limits,
        left: limits.rows,
        truncated: false,
    })
}

fn late(limits: Limits) -> TablesError {
    TablesError::Limit {
        reason: format!(
            "the answer took longer than {} s: ask for less time or fewer columns, or group first",
            limits.within.as_secs()
        ),
    }
}

impl Answer {
    /// Lets the work go on on the room's threads, a few batches ahead of whoever reads.
    pub(crate) fn on(mut self, runtime: &tokio::runtime::Handle) -> Answer {
        let Some(mut stream) = self.stream.take() else { return self };
        let (to, batches) = mpsc::channel(2);
        let (limits, schema) = (self.limits, Arc::clone(&self.schema));
        runtime.spawn(async move {
            let until = tokio::time::Instant::now() + limits.within;
            loop {
                let next = tokio::select! {
                    next = tokio::time::timeout_at(until, stream.next()) => next,
                    () = to.closed() => return,
                };
                let batch = match next {
                    Err(_) => Err(late(limits)),
                    Ok(None) => return,
                    Ok(Some(batch)) => batch.and_then(|b| cast_to(&b, &schema)).map_err(|e| match e {
                        DataFusionError::ResourcesExhausted(_) => TablesError::Limit {
                            reason: "the question needs more memory than questions may use: ask for less \
                                         time, or group by fewer things"
                                .to_owned(),
                        },
                        e => refused(&e),
                    }),
                };
                let over = batch.is_err();
                if to.send(batch).await.is_err() || over {
                    return;
                }
            }
        });
        self.batches = Some(batches);
        self
    }

    /// Columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Whether rows were left out because there were too many.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// The next batch.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, TablesError>> {
        loop {
            let batch = self.batches.as_mut()?.recv().await?;
            let batch = match batch {
                Ok(batch) if batch.num_rows() == 0 => continue,
                Ok(batch) => batch,
                Err(e) => return Some(Err(e)),
            };
            if self.left == 0 {
                self.truncated = true;
                self.batches = None;
                return None;
            }
            let batch = if batch.num_rows() > self.left {
                self.truncated = true;
                let cut = batch.slice(0, self.left);
                self.batches = None;
                cut
            } else {
                batch
            };
            self.left -= batch.num_rows();
            return Some(Ok(batch));
        }
    }

    /// All batches.
    pub async fn all(&mut self) -> Result<Vec<RecordBatch>, TablesError> {
        let mut out = Vec::new();
        while let Some(batch) = self.next().await {
            out.push(batch?);
        }
        Ok(out)
    }
}
