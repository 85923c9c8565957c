//! `selvedge query`: SQL over everything the hub remembers; without a statement, a prompt.

use crate::client::{Client, HubArgs};
use crate::out;
use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use hub::{QueryView, SchemaView};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};
use serde_json::Value;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER: &str = "Examples:
  selvedge query \"select name, max(rate) as worst from link_health group by name order by worst desc limit 10\"
  selvedge query --format csv --output losses.csv \"select * from loss_ledger\"
  selvedge query < question.sql
  selvedge query                      a prompt: Tab completes, a statement ends with ;

\\d lists the tables, \\d TABLE its columns, \\f the functions, \\q leaves. Worked questions: docs/questions.md.
Only statements that read are run. Exit codes: 0 answered, 1 the question or the hub failed.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// Columns and rows
    Json,
    /// Comma separated, with a header
    Csv,
    /// An Arrow IPC stream
    Arrow,
    /// A Parquet file
    Parquet,
}

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// One SQL statement; read from standard input where it is left out and that is no terminal
    sql: Option<String>,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write the answer here instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Most rows answered
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    hub: HubArgs,
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn table(view: &QueryView) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(view.columns.iter().map(|c| c.name.as_str()));
    for (i, c) in view.columns.iter().enumerate() {
        if matches!(c.kind.as_str(), "int" | "float")
            && let Some(column) = table.column_mut(i)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &view.rows {
        table.add_row(row.as_array().into_iter().flatten().map(cell));
    }
    let rows = match view.rows.len() {
        1 => "1 row".to_owned(),
        n => format!("{n} rows"),
    };
    let more = if view.truncated { ", and there are more (--limit)" } else { "" };
    format!("{table}\n{rows}{more}, {} ms\n", view.elapsed_ms)
}

fn ask(client: &Client, sql: &str, limit: u32) -> anyhow::Result<QueryView> {
    client.post("/api/v1/query", &serde_json::json!({ "sql": sql, "limit": limit }))
}

fn answer(client: &Client, args: &Args, sql: &str) -> anyhow::Result<()> {
    let format = if args.json { Format::Json } else { args.format };
    let bytes = match format {
        Format::Table => table(&ask(client, sql, args.limit)?).into_bytes(),
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(&ask(client, sql, args.limit)?)?;
            text.push(b'\n');
            text
        }
        Format::Csv | Format::Arrow | Format::Parquet => {
            let name = format!("{format:?}").to_lowercase();
            let body = serde_json::json!({ "sql": sql, "limit": args.limit, "format": name });
            let (bytes, truncated) = client.post_file("/api/v1/query", &body)?;
            if truncated {
                eprintln!("warning: only the first {} rows; --limit takes more", args.limit);
            }
            bytes
        }
    };
    match &args.output {
        Some(path) => std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display())),
        None if matches!(format, Format::Arrow | Format::Parquet) && std::io::stdout().is_terminal() => {
            anyhow::bail!("the answer is binary: say where to with --output FILE, or pipe it")
        }
        None => {
            // Whoever reads may have had enough (`| head`).
            let _ = std::io::stdout().lock().write_all(&bytes);
            Ok(())
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    let sql = match &args.sql {
        Some(sql) => sql.clone(),
        None if std::io::stdin().is_terminal() => return prompt(&client, &args),
        None => {
            let mut sql = String::new();
            std::io::stdin().read_to_string(&mut sql).context("cannot read the statement")?;
            sql
        }
    };
    answer(&client, &args, sql.trim().trim_end_matches(';'))?;
    Ok(ExitCode::SUCCESS)
}

/// What the prompt knows of SQL and of the tables.
struct Knowledge {
    words: Vec<String>,
}

const SQL_WORDS: &[&str] = &[
    "select",
    "from",
    "where",
    "group by",
    "order by",
    "having",
    "limit",
    "join",
    "left join",
    "on",
    "as",
    "and",
    "or",
    "not",
    "in",
    "is null",
    "between",
    "like",
    "case",
    "when",
    "then",
    "else",
    "end",
    "union all",
    "distinct",
    "desc",
    "count(",
    "sum(",
    "avg(",
    "min(",
    "max(",
    "now()",
    "interval",
    "date_bin(",
    "unnest(",
    "filter (where",
    "row_number() over (",
    "approx_percentile_cont(",
    "explain",
    "describe",
    "show tables",
];

impl Knowledge {
    fn new(schema: &SchemaView) -> Self {
        let mut words: Vec<String> = SQL_WORDS.iter().map(|w| (*w).to_owned()).collect();
        for t in &schema.tables {
            words.push(t.name.clone());
            words.extend(t.columns.iter().map(|c| c.name.clone()));
        }
        words.extend(schema.functions.iter().map(|f| format!("{}(", f.name)));
        words.sort();
        words.dedup();
        Knowledge { words }
    }
}

/// Where the word before the cursor begins.
fn word_start(line: &str) -> usize {
    line.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |i| i + 1)
}

impl Completer for Knowledge {
    type Candidate = Pair;
    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..at).unwrap_or(line);
        let start = word_start(before);
        let word = before.get(start..).unwrap_or("").to_lowercase();
        let found = self.words.iter().filter(|w| !word.is_empty() && w.starts_with(&word));
        Ok((start, found.map(|w| Pair { display: w.clone(), replacement: w.clone() }).collect()))
    }
}
impl Hinter for Knowledge {
    type Hint = String;
}
impl Highlighter for Knowledge {}
impl Validator for Knowledge {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let whole = text.is_empty() || text.starts_with('\\') || text.ends_with(';');
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}
impl Helper for Knowledge {}

/// Where the prompt keeps what was asked.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|h| h.join(".local/state")))?;
    let dir = state.join("selvedge");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("query-history"))
}

fn prompt(client: &Client, args: &Args) -> anyhow::Result<ExitCode> {
    let schema: SchemaView = client.get("/api/v1/schema")?;
    let mut editor: Editor<Knowledge, DefaultHistory> =
        Editor::new().context("no prompt on this terminal")?;
    editor.set_helper(Some(Knowledge::new(&schema)));
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        let _ = editor.load_history(file);
    }
    println!("Ask in SQL, end with ;   \\d lists the tables, \\f the functions, \\q leaves. Tab completes.");
    loop {
        let line = match editor.readline("selvedge> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(e) => return Err(e).context("the prompt ended"),
        };
        let asked = line.trim();
        if asked.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(asked);
        if let Some(file) = &history {
            let _ = editor.save_history(file);
        }
        match asked.strip_prefix('\\') {
            Some("q") => break,
            Some(command) => print!("{}", described(&schema, command)),
            None => {
                if let Err(e) = answer(client, args, asked.trim_end_matches(';')) {
                    let _ = out::fail(&e);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a command of the prompt prints.
fn described(schema: &SchemaView, command: &str) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut words = command.split_whitespace();
    match (words.next(), words.next()) {
        (Some("d"), None) => {
            table.set_header(["table", "a row is"]);
            for t in &schema.tables {
                table.add_row([&t.name, &t.text]);
            }
        }
        (Some("d"), Some(name)) => match schema.tables.iter().find(|t| t.name == name) {
            None => return format!("there is no table {name:?}; \\d lists them\n"),
            Some(t) => {
                table.set_header(["column", "type", "meaning"]);
                for c in &t.columns {
                    table.add_row([&c.name, &c.kind, &c.text]);
                }
            }
        },
        (Some("f"), None) => {
            table.set_header(["function", "gives", "example"]);
            for f in &schema.functions {
                table.add_row([&f.signature, &f.text, &f.example]);
            }
        }
        _ => return format!("\\{command} is no command: \\d, \\d TABLE, \\f, \\q\n"),
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub::{ColumnView, SchemaColumn, SchemaTable};

    #[test]
    fn an_answer_is_a_table_people_can_read() {
        let column = |name: &str, kind: &str| ColumnView { name: name.to_owned(), kind: kind.to_owned() };
        let view = QueryView {
            columns: vec![column("name", "text"), column("lost", "int")],
            rows: vec![serde_json::json!(["p0-leaf0:p0-spine1", 7]), serde_json::json!([null, 1200])],
            truncated: true,
            elapsed_ms: 3,
        };
        insta::assert_snapshot!(table(&view), @r#"
         name                lost 
         p0-leaf0:p0-spine1     7 
                             1200 
        2 rows, and there are more (--limit), 3 ms
        "#);
    }

    #[test]
    fn the_prompt_completes_words_and_waits_for_the_semicolon() {
        let schema = SchemaView {
            tables: vec![SchemaTable {
                name: "link_health".to_owned(),
                text: "How links did.".to_owned(),
                columns: vec![SchemaColumn {
                    name: "rate".into(),
                    kind: "float".into(),
                    text: "loss".into(),
                }],
            }],
            functions: Vec::new(),
            examples: Vec::new(),
        };
        let known = Knowledge::new(&schema);
        let history = DefaultHistory::new();
        let complete = |line: &str| {
            let (at, found) = known.complete(line, line.len(), &Context::new(&history)).unwrap();
            (at, found.into_iter().map(|p| p.replacement).collect::<Vec<_>>())
        };
        assert_eq!(complete("select * from link_"), (14, vec!["link_health".to_owned()]));
        assert_eq!(complete("select max(ra"), (11, vec!["rate".to_owned()]));
        assert_eq!(complete("select "), (7, Vec::new()));
        assert!(described(&schema, "d link_health").contains("float"));
        assert!(described(&schema, "d none").contains("lists them"));
        assert!(described(&schema, "x").contains("is no command"));
    }
}
