//! Questions in SQL over HTTP, and what may be asked about.
//!
//! How: the tables' room plans, runs and limits; here a question gets its limits and its answer a form.
//! Invariants: an answer has at most [`ROWS_MAX`] rows and [`BYTES_MAX`] bytes, and says where it was cut; a client
//! that goes away ends its question.

use crate::api::{Api, Problem};
use crate::guard::Principal;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tables::arrow::array::RecordBatch;
use tables::export::{self, Format};
use tables::{Limits, TablesError};
use utoipa::ToSchema;

/// Where it is asked.
pub(crate) const QUERY: &str = "/api/v1/query";
const ROWS_DEFAULT: usize = 10_000;
const ROWS_MAX: usize = 1_000_000;
const BYTES_MAX: usize = 256 << 20;
const SQL_MAX: usize = 32 << 10;
const WITHIN_MAX: Duration = Duration::from_secs(60);
/// Worked questions, also a page of the documentation.
const QUESTIONS: &str = include_str!("../../../docs/questions.md");

impl From<TablesError> for Problem {
    fn from(e: TablesError) -> Self {
        let status = match &e {
            TablesError::Question { .. } | TablesError::Forbidden { .. } => StatusCode::BAD_REQUEST,
            TablesError::Limit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, e.to_string())
    }
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct QueryRequest {
    /// One statement that reads.
    sql: String,
    /// `json` (the default), `csv`, `arrow` or `parquet`.
    #[serde(default)]
    format: Option<String>,
    /// Most rows answered, default 10,000, at most 1,000,000.
    #[serde(default)]
    limit: Option<usize>,
    /// Seconds to the last row, default and at most 60.
    #[serde(default)]
    within_s: Option<u64>,
}

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ColumnView {
    /// Its name.
    pub name: String,
    /// `int`, `float`, `text`, `time`, `bool`, `bytes` or `json`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An answer in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueryView {
    /// Columns in order.
    pub columns: Vec<ColumnView>,
    /// Rows, each an array of its values. A whole number beyond 2^53 is text.
    pub rows: Vec<serde_json::Value>,
    /// Rows were left out because there were too many.
    pub truncated: bool,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
}

/// Ask in SQL. Only statements that read are run.
#[utoipa::path(post, path = "/api/v1/query", request_body = QueryRequest,
    responses((status = 200, body = QueryView, description = "or a file, where `format` says so"),
        (status = 400, description = "the statement is wrong, or does more than read"),
        (status = 422, description = "it took too long or too much")))]
pub(crate) async fn query(
    State(api): State<Api>,
    who: Principal,
    body: Result<Json<QueryRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let Json(asked) = body?;
    let bad = |text: String| Problem::new(StatusCode::BAD_REQUEST, text);
    if asked.sql.len() > SQL_MAX {
        return Err(bad(format!("the statement has more than {SQL_MAX} bytes")));
    }
    let name = asked.format.as_deref().unwrap_or("json");
    let format = Format::by_name(name)
        .ok_or_else(|| bad(format!("format is {name:?}, expected json, csv, arrow or parquet")))?;
    let limits = Limits {
        rows: asked.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX),
        within: asked.within_s.map_or(WITHIN_MAX, Duration::from_secs).min(WITHIN_MAX),
    };
    let begun = Instant::now();
    let answer = api.tables.ask_as(&who.sight, &asked.sql, limits).await;
    if let Err(TablesError::Forbidden { .. }) = &answer {
        api.guard.audit.refused(who.by(), "query", &asked.sql, "statement");
    }
    let mut answer = answer.map_err(|e| explained(&who, e))?;
    if answer.is_sensitive() {
        api.guard.audit.done(&who.by(), "query", &asked.sql, "").await?;
    }
    let (mut batches, mut bytes, mut cut) = (Vec::<RecordBatch>::new(), 0, false);
    while let Some(batch) = answer.next().await {
        let batch = batch?;
        bytes += batch.get_array_memory_size();
        if bytes > BYTES_MAX {
            cut = true;
            break;
        }
        batches.push(batch);
    }
    let (schema, truncated) = (answer.schema(), cut || answer.truncated());
    drop(answer);
    if format == Format::Json {
        let view = QueryView {
            columns: schema
                .fields()
                .iter()
                .map(|f| ColumnView {
                    name: f.name().clone(),
                    kind: export::kind_word(f.data_type()).to_owned(),
                })
                .collect(),
            rows: batches.iter().flat_map(export::rows_json).collect(),
            truncated,
            elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        return Ok(Json(view).into_response());
    }
    let file = export::file(format, &schema, &batches)?;
    let headers = [
        (header::CONTENT_TYPE, format.media_type()),
        (header::HeaderName::from_static("x-selvedge-truncated"), if truncated { "true" } else { "false" }),
    ];
    Ok((headers, file).into_response())
}

/// An error of a question; where it named a table that the asker may not see, that is what it says.
fn explained(who: &Principal, e: TablesError) -> Problem {
    let said = e.to_string();
    let hidden = tables::schema::TABLES.iter().filter(|t| t.is_sensitive() && !who.sight.sensitive);
    for t in hidden {
        if said.contains(&format!("{}' not found", t.name)) {
            let error = format!("the table {} is for administrators of the whole fabric", t.name);
            return Problem::new(StatusCode::FORBIDDEN, error);
        }
    }
    e.into()
}

/// One column, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchemaColumn {
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: String,
    /// Meaning, unit and range.
    pub text: String,
}

/// One table, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchemaTable {
    /// Its name.
    pub name: String,
    /// What a row is.
    pub text: String,
    /// Its columns.
    pub columns: Vec<SchemaColumn>,
}

/// One function, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchemaFunction {
    /// Its name.
    pub name: String,
    /// Arguments and result.
    pub signature: String,
    /// What it gives.
    pub text: String,
    /// A call that works.
    pub example: String,
}

/// A worked question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Question {
    /// In words.
    pub title: String,
    /// In SQL.
    pub sql: String,
}

/// What may be asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchemaView {
    /// Tables.
    pub tables: Vec<SchemaTable>,
    /// Functions besides SQL's own.
    pub functions: Vec<SchemaFunction>,
    /// Worked questions.
    pub examples: Vec<Question>,
}

/// The worked questions: each heading of the page that is followed by SQL.
pub(crate) fn questions() -> Vec<Question> {
    let mut out = Vec::new();
    let mut title = "";
    let mut lines = QUESTIONS.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            title = heading;
        } else if line == "```sql" {
            let sql: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
            out.push(Question { title: title.to_owned(), sql: sql.join("\n") });
        }
    }
    out
}

pub(crate) fn schema_view() -> SchemaView {
    let tables = tables::schema::TABLES.iter().map(|t| {
        let day = SchemaColumn {
            name: tables::schema::DAY.to_owned(),
            kind: "time".to_owned(),
            text: "UTC day of ts; files are partitioned by it".to_owned(),
        };
        let columns = t.columns.iter().map(|c| SchemaColumn {
            name: c.name.to_owned(),
            kind: export::kind_word(&c.kind.arrow()).to_owned(),
            text: c.text.to_owned(),
        });
        SchemaTable {
            name: t.name.to_owned(),
            text: t.text.to_owned(),
            columns: columns.chain([day]).collect(),
        }
    });
    let functions = tables::functions::LIST.iter().map(|f| SchemaFunction {
        name: f.name.to_owned(),
        signature: f.signature.to_owned(),
        text: f.text.to_owned(),
        example: f.example.to_owned(),
    });
    SchemaView { tables: tables.collect(), functions: functions.collect(), examples: questions() }
}

/// What may be asked about: tables, columns, functions, and worked questions.
#[utoipa::path(get, path = "/api/v1/schema", responses((status = 200, body = SchemaView)))]
pub(crate) async fn schema(State(api): State<Api>, who: Principal) -> Json<SchemaView> {
    api.metrics.requests.inc();
    let mut view = schema_view();
    if !who.sight.sensitive {
        let hidden = |name: &str| tables::schema::Table::by_name(name).is_some_and(|t| t.is_sensitive());
        view.tables.retain(|t| !hidden(&t.name));
        view.examples.retain(|q| !q.sql.contains("from audit"));
    }
    Json(view)
}
