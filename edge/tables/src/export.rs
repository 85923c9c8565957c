//! Answers as people and programs want them: JSON, CSV, Arrow, Parquet.
//!
//! Invariants: a whole number that a double cannot hold exactly goes into JSON as text, because half of all readers
//! would change it silently; times are RFC 3339 in UTC with microseconds.

use crate::error::TablesError;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, SchemaRef, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use deltalake_core::parquet::arrow::ArrowWriter;
use serde_json::Value;
use std::io::Write;

/// Largest whole number every reader of JSON keeps.
const EXACT: u64 = 1 << 53;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns and rows, JSON.
    #[default]
    Json,
    /// Comma separated, with a header.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl Format {
    /// The format of that name.
    pub fn by_name(name: &str) -> Option<Format> {
        Some(match name {
            "json" => Format::Json,
            "csv" => Format::Csv,
            "arrow" => Format::Arrow,
            "parquet" => Format::Parquet,
            _ => return None,
        })
    }

    /// As HTTP says it.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }
}

fn failed(e: impl std::fmt::Display) -> TablesError {
    TablesError::Question { reason: e.to_string() }
}

/// A file of an answer. As JSON it is the rows alone ([`rows_json`]).
pub fn file(format: Format, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, TablesError> {
    let mut out = Vec::new();
    match format {
        Format::Json => {
            let rows: Vec<Value> = batches.iter().flat_map(rows_json).collect();
            out.write_all(&serde_json::to_vec(&rows).map_err(failed)?).map_err(failed)?;
        }
        Format::Csv => {
            let nested = |f: &std::sync::Arc<Field>| f.data_type().is_nested();
            if let Some(f) = schema.fields().iter().find(|f| nested(f)) {
                return Err(failed(format!("column {} is a list, which CSV has not: unnest() it", f.name())));
            }
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            if batches.is_empty() {
                writer.write(&RecordBatch::new_empty(schema.clone())).map_err(failed)?;
            }
            for batch in batches {
                writer.write(batch).map_err(failed)?;
            }
        }
        Format::Arrow => {
            let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut out, schema).map_err(failed)?;
            for batch in batches {
                writer.write(batch).map_err(failed)?;
            }
            writer.finish().map_err(failed)?;
        }
        Format::Parquet => {
            let mut writer = ArrowWriter::try_new(&mut out, schema.clone(), None).map_err(failed)?;
            for batch in batches {
                writer.write(batch).map_err(failed)?;
            }
            writer.close().map_err(failed)?;
        }
    }
    Ok(out)
}

/// What a column holds, in one word: int, float, text, time, bool, bytes or json.
pub fn kind_word(kind: &DataType) -> &'static str {
    match kind {
        k if k.is_integer() => "int",
        k if k.is_floating() || k.is_decimal() => "float",
        DataType::Boolean => "bool",
        k if k.is_temporal() => "time",
        DataType::Binary | DataType::FixedSizeBinary(_) => "bytes",
        k if k.is_nested() => "json",
        _ => "text",
    }
}

/// Rows, each an array of its values.
pub fn rows_json(batch: &RecordBatch) -> Vec<Value> {
    let columns: Vec<Vec<Value>> = batch.columns().iter().map(values).collect();
    (0..batch.num_rows())
        .map(|row| Value::Array(columns.iter().map(|c| c.get(row).cloned().unwrap_or_default()).collect()))
        .collect()
}

fn values(column: &ArrayRef) -> Vec<Value> {
    let each = |f: &dyn Fn(usize) -> Value| -> Vec<Value> {
        (0..column.len()).map(|row| if column.is_null(row) { Value::Null } else { f(row) }).collect()
    };
    match column.data_type() {
        DataType::Boolean => each(&|row| column.as_boolean().value(row).into()),
        DataType::Float64 => each(&|row| number(column.as_primitive::<Float64Type>().value(row))),
        DataType::Float32 => each(&|row| number(column.as_primitive::<Float32Type>().value(row).into())),
        DataType::UInt64 => each(&|row| {
            let n = column.as_primitive::<UInt64Type>().value(row);
            if n <= EXACT { n.into() } else { n.to_string().into() }
        }),
        k if k.is_integer() => {
            let Ok(wide) = arrow::compute::cast(column, &DataType::Int64) else {
                return each(&|_| Value::Null);
            };
            each(&|row| {
                let n = wide.as_primitive::<Int64Type>().value(row);
                if n.unsigned_abs() <= EXACT { n.into() } else { n.to_string().into() }
            })
        }
        DataType::List(_) => each(&|row| Value::Array(values(&column.as_list::<i32>().value(row)))),
        _ => {
            let options = FormatOptions::default();
            let Ok(format) = ArrayFormatter::try_new(column.as_ref(), &options) else {
                return each(&|_| Value::Null);
            };
            let text = |row| format.value(row).to_string();
            each(&|row| text(row).into())
        }
    }
}

fn number(n: f64) -> Value {
    // JSON has no word for these.
    serde_json::Number::from_f64(n).map_or_else(|| n.to_string().into(), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
    use std::sync::Arc;

    fn a_batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int64Array::from(vec![Some(-7), None, Some(i64::MIN)])) as ArrayRef, true),
            ("u", Arc::new(UInt64Array::from(vec![1, EXACT, u64::MAX])) as _, true),
            ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, -1e300])) as _, true),
            ("s", Arc::new(StringArray::from(vec!["a,\"b\"", "", "ü"])) as _, true),
            (
                "t",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![0, 1_769_829_128_000_001, -1]).with_timezone("UTC"),
                ) as _,
                true,
            ),
        ])
        .unwrap()
    }

    #[test]
    fn every_value_is_said_exactly() {
        let batch = a_batch();
        let rows: Vec<String> = rows_json(&batch).iter().map(Value::to_string).collect();
        insta::assert_snapshot!(rows.join("\n"), @r#"
        [-7,1,0.5,"a,\"b\"","1970-01-01T00:00:00Z"]
        [null,9007199254740992,"NaN","","2026-01-31T03:12:08.000001Z"]
        ["-9223372036854775808","18446744073709551615",-1e+300,"ü","1969-12-31T23:59:59.999999Z"]
        "#);
        let csv = file(Format::Csv, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
        insta::assert_snapshot!(String::from_utf8(csv).unwrap(), @r#"
        n,u,f,s,t
        -7,1,0.5,"a,""b""",1970-01-01T00:00:00Z
        ,9007199254740992,NaN,,2026-01-31T03:12:08.000001Z
        -9223372036854775808,18446744073709551615,-1e300,ü,1969-12-31T23:59:59.999999Z
        "#);
        let arrow = file(Format::Arrow, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
        let mut back = arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap();
        // NaN is not equal to itself.
        assert_eq!(format!("{:?}", back.next().unwrap().unwrap()), format!("{batch:?}"));
        let parquet = file(Format::Parquet, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
        assert_eq!((&parquet[..4], &parquet[parquet.len() - 4..]), (&b"PAR1"[..], &b"PAR1"[..]));
        let words: Vec<&str> = batch.schema().fields().iter().map(|f| kind_word(f.data_type())).collect();
        assert_eq!(words, ["int", "int", "float", "text", "time"]);
        let none = file(Format::Csv, &batch.schema(), &[]).unwrap();
        assert_eq!(none, b"n,u,f,s,t\n");
    }
}
