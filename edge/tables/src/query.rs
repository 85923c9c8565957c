//! Questions: SQL over memory and tables as one, read only, within limits.
//!
//! How: a question gets a session of its own whose tables were taken under one lock: the Delta table as of its last
//! commit, and the rows that are only in the log. DataFusion plans and runs it on the room's own threads.
//! Invariants: nothing but `SELECT`, `EXPLAIN`, `SHOW` and `DESCRIBE` is run; no statement reaches a file; an answer
//! stops at its row and time limits and says so; dropping an answer ends its work; a question sees no row its
//! [`Sight`] does not show.

use crate::error::TablesError;
use crate::functions;
use crate::schema::{DAY, TABLES, Table};
use crate::sketch;
use crate::tables::{Config, Shared};
use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{
    CatalogProvider as _, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider as _, Session, TableProvider,
};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, cast, col, lit};
use datafusion::physical_expr::{PhysicalExpr, expressions as physical};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext};
use fabric::{Fabric, Node};
use futures_util::StreamExt as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use wire::{Component, HostId, PathId};

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

/// Whose question it is: what it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Also the tables that are for administrators.
    pub sensitive: bool,
    /// Only what is of these hosts, or of nobody: their paths, themselves, switches and the links between them. `None`:
    /// everything.
    pub hosts: Option<Arc<BTreeSet<HostId>>>,
}

impl Sight {
    /// Everything.
    pub const ALL: Sight = Sight { sensitive: true, hosts: None };

    /// Whether a component of the fabric may be seen.
    pub fn sees(&self, fabric: &Fabric, component: Component) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let mine = |node: Node| match node {
            Node::Nic(nic) => hosts.contains(&fabric.nic_parts(nic).1),
            Node::Switch(_) => true,
        };
        match component {
            Component::Host(host) => hosts.contains(&host),
            Component::Nic(nic) => mine(Node::Nic(nic)),
            Component::Switch(_) => true,
            Component::Link(link) => fabric.link_ends(link).is_some_and(|(a, b)| mine(a) && mine(b)),
        }
    }

    /// Whether both ends of a path may be seen.
    pub fn sees_path(&self, fabric: &Fabric, path: PathId) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let ends = fabric.path_parts(path);
        ends.is_some_and(|(a, b, _)| [a, b].into_iter().all(|n| hosts.contains(&fabric.nic_parts(n).1)))
    }

    /// The rows of a table that may be seen; `None` where that is all.
    fn filter(&self, fabric: &Arc<Fabric>, table: &str) -> Option<Expr> {
        self.hosts.as_ref()?;
        let named = |column: &str| functions::sees_name(self, fabric).call(vec![col(column)]);
        let producer =
            || functions::sees_host(self, fabric).call(vec![cast(col("producer"), DataType::Int64)]);
        Some(match table {
            "path_observation" | "path_minute" => functions::sees_path(self, fabric).call(vec![col("path")]),
            "counter" => producer().and(named("component")),
            "loss_ledger" | "drop_event" | "tcp_interval" | "sensor" => producer(),
            "incident" => named("component"),
            "link_health" | "entity" | "link" => named("name"),
            "change" => col("kind").not_eq(lit("agent")).or(named("subject")),
            // A table nobody thought of is not shown.
            _ => lit(false),
        })
    }
}

/// What all questions share.
pub(crate) struct Base {
    env: Arc<RuntimeEnv>,
    state: SessionState,
    fabric: Arc<Fabric>,
}

/// A session for one question.
pub(crate) struct Asking {
    context: SessionContext,
    /// Set once a table for administrators is read.
    sensitive: Arc<AtomicBool>,
}

pub(crate) fn refused(e: &DataFusionError) -> TablesError {
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
        context.register_udf(sketch::percentile());
        context.register_udaf(sketch::merge());
        Ok(Base { env, state: context.state(), fabric: Arc::clone(&config.fabric) })
    }

    /// A session that sees what it may, as of now.
    pub(crate) fn session(&self, shared: &Shared, sight: &Sight) -> Result<Asking, TablesError> {
        let schema = MemorySchemaProvider::new();
        let sensitive = Arc::new(AtomicBool::new(false));
        let mut tables: Vec<(&'static Table, Arc<dyn TableProvider>)> = Vec::with_capacity(TABLES.len());
        {
            let state = shared.lock();
            for ((about, shown), recent) in TABLES.iter().zip(&state.shown).zip(&state.recent) {
                if about.is_sensitive() && !sight.sensitive {
                    continue;
                }
                let rows = recent.iter().map(|r| r.batch.clone()).collect();
                let touched = about.is_sensitive().then(|| Arc::clone(&sensitive));
                tables.push((about, Arc::new(Whole { table: Arc::clone(&shown.provider), rows, touched })));
            }
        }
        for (about, mut table) in tables {
            if let Some(filter) = sight.filter(&self.fabric, about.name) {
                // What is in it names the paths of others.
                let blank = (about.name == "incident").then_some("detail");
                table = Arc::new(Seen { table, filter, blank });
            }
            schema.register_table(about.name.to_owned(), table).map_err(|e| refused(&e))?;
        }
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema("public", Arc::new(schema)).map_err(|e| refused(&e))?;
        let catalogs = MemoryCatalogProviderList::new();
        use datafusion::catalog::CatalogProviderList as _;
        catalogs.register_catalog("selvedge".to_owned(), Arc::new(catalog));
        let mut state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(Arc::new(catalogs))
            .with_runtime_env(Arc::clone(&self.env));
        if sight.hosts.is_some() {
            // The asker's conditions stay above the ones of their sight: see Seen.
            let rules = PhysicalOptimizer::new().rules.into_iter();
            let rules = rules.filter(|r| !r.name().starts_with("FilterPushdown"));
            state = state.with_physical_optimizer_rules(rules.collect());
        }
        Ok(Asking { context: SessionContext::new_with_state(state.build()), sensitive })
    }
}

/// A table and the rows of it that are only in the log.
#[derive(Debug)]
struct Whole {
    table: Arc<dyn TableProvider>,
    rows: Vec<RecordBatch>,
    /// Set when it is read.
    touched: Option<Arc<AtomicBool>>,
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
        if let Some(touched) = &self.touched {
            touched.store(true, Ordering::Relaxed);
        }
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

/// The rows of a table that somebody may see.
///
/// A condition of theirs is judged only on rows they may see: one that fails on a row would tell of it in its error.
/// So none of it is handed down, except comparisons of times with constants, which cannot fail.
#[derive(Debug)]
struct Seen {
    table: Arc<dyn TableProvider>,
    filter: Expr,
    /// A column that is shown empty.
    blank: Option<&'static str>,
}

/// Whether a condition compares the time of a row with a constant.
fn is_about_time(filter: &Expr) -> bool {
    let Expr::BinaryExpr(e) = filter else { return false };
    let time = |e: &Expr| matches!(e, Expr::Column(c) if c.name == "ts" || c.name == DAY);
    let constant = |e: &Expr| matches!(e, Expr::Literal(..));
    let compares =
        matches!(e.op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
    compares && (time(&e.left) && constant(&e.right) || constant(&e.left) && time(&e.right))
}

#[async_trait::async_trait]
impl TableProvider for Seen {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let of = |f: &&Expr| match is_about_time(f) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = self.schema();
        let wanted = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let mut read = wanted.clone();
        for column in self.filter.column_refs() {
            let index = schema.index_of(&column.name)?;
            if !read.contains(&index) {
                read.push(index);
            }
        }
        let all = self.table.scan(state, Some(&read), filters, None).await?;
        let condition =
            state.create_physical_expr(self.filter.clone(), &DFSchema::try_from(all.schema())?)?;
        let seen = Arc::new(FilterExec::try_new(condition, all)?);
        let shown = seen.schema();
        let mut columns: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(wanted.len());
        for at in 0..wanted.len() {
            let field = shown.field(at);
            let column: Arc<dyn PhysicalExpr> = match self.blank {
                Some(blank) if blank == field.name() => {
                    physical::lit(ScalarValue::try_from_string(String::new(), field.data_type())?)
                }
                _ => Arc::new(physical::Column::new(field.name(), at)),
            };
            columns.push((column, field.name().clone()));
        }
        Ok(Arc::new(ProjectionExec::try_new(columns, seen)?))
    }
}

pub(crate) fn cast_to(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
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
    sensitive: bool,
}

/// The only statements there are: those that read.
fn reading() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// Plans a statement that reads.
async fn planned(session: &Asking, sql: &str) -> Result<DataFrame, TablesError> {
    let forbidden = |reason: String| TablesError::Forbidden { reason };
    let plan =
        session.context.state().create_logical_plan(sql).await.map_err(|e| match e.strip_backtrace() {
            // What is asked for as a table and looks like a file is one that somebody tried to read.
            said if said.contains("not found") && said.contains('/') => {
                forbidden("files are not tables".to_owned())
            }
            reason => TablesError::Question { reason },
        })?;
    reading().verify_plan(&plan).map_err(|e| forbidden(e.strip_backtrace()))?;
    session.context.execute_logical_plan(plan).await.map_err(|e| refused(&e))
}

pub(crate) async fn columns(session: &Asking, sql: &str) -> Result<SchemaRef, TablesError> {
    let frame = planned(session, sql).await?;
    let plan = frame.create_physical_plan().await.map_err(|e| refused(&e))?;
    Ok(plain(&plan.schema()))
}

pub(crate) async fn ask(session: &Asking, sql: &str, limits: Limits) -> Result<Answer, TablesError> {
    let planned = async {
        let frame = planned(session, sql).await?;
        frame.execute_stream().await.map_err(|e| refused(&e))
    };
    let stream = match tokio::time::timeout(limits.within, planned).await {
        Ok(stream) => stream?,
        Err(_) => return Err(late(limits)),
    };
    Ok(Answer {
        schema: plain(&stream.schema()),
        stream: Some(stream),
        batches: None,
        limits,
        left: limits.rows,
        truncated: false,
        sensitive: session.sensitive.load(Ordering::Relaxed),
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

    /// Whether a table for administrators is read.
    pub fn is_sensitive(&self) -> bool {
        self.sensitive
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
