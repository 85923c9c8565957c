//! Rows that are written to their files at once, the log naming them only.

use super::{Dir, ask, count, ledger, open, rows, runtime};
use crate::backup::{backup, restore};
use crate::{Tables, Ticket};
use arrow::datatypes::DataType;

fn files_below(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let parquet = |p: &std::path::Path| p.extension().is_some_and(|e| e == "parquet");
    entries.map(|e| if e.path().is_dir() { files_below(&e.path()) } else { parquet(&e.path()).into() }).sum()
}

fn filed(tables: &Tables, from: i64, n: i64) -> Ticket {
    let (table, batch) = ledger(from, n);
    tables.append_filed(tables.file(table, batch).unwrap()).unwrap()
}

#[test]
fn rows_in_files_are_seen_at_once_and_written_once() {
    let dir = Dir::new("bulk");
    let rt = runtime();
    let tables = open(&dir.0);
    let data = dir.0.join("tables/loss_ledger");
    let sql =
        "select day, reason, count(*) as n, sum(rows) as rows from loss_ledger group by all order by day";
    let ticket = filed(&tables, 0, 100_000);
    rt.block_on(tables.durable(ticket)).unwrap();
    let in_memory = rt.block_on(ask(&tables, sql));
    assert!(in_memory.contains("2026-01-31") && in_memory.contains("2026-02-01"), "{in_memory}");
    assert_eq!(files_below(&data), 2, "one a day");
    rt.block_on(tables.fold()).unwrap();
    assert_eq!(rt.block_on(ask(&tables, sql)), in_memory, "in the table");
    assert_eq!((files_below(&data), tables.bytes_held()), (2, 0), "the fold writes nothing");
    // Both kinds in one commit.
    tables.append(rows(100_000, 10)).unwrap();
    let ticket = filed(&tables, 100_010, 10);
    rt.block_on(tables.durable(ticket)).unwrap();
    rt.block_on(tables.fold()).unwrap();
    assert_eq!(rt.block_on(count(&tables)), (100_020, 100_020));
    // A file nobody names is no part of it.
    let (table, batch) = ledger(200_000, 5);
    drop(tables.file(table, batch).unwrap());
    tables.close();
    assert_eq!(rt.block_on(count(&open(&dir.0))), (100_020, 100_020));
}

#[test]
fn whatever_the_moment_of_death_rows_in_files_are_there_once() {
    let dir = Dir::new("bulk-death");
    let rt = runtime();
    let tables = open(&dir.0.join("live"));
    let mut durable = 0;
    for round in 0..8 {
        let ticket = if round % 2 == 0 {
            filed(&tables, round * 50, 50)
        } else {
            tables.append(rows(round * 50, 50)).unwrap()
        };
        if round % 3 != 2 {
            rt.block_on(tables.durable(ticket)).unwrap();
            durable = (round + 1) * 50;
        }
        if round % 4 == 1 {
            rt.block_on(tables.fold()).unwrap();
        }
        let image = dir.0.join(format!("image{round}"));
        let taken = backup(&dir.0.join("live"), &dir.0.join("backups"), 2, |_, _| {}).unwrap();
        restore(&taken.place, &image, |_, _| {}).unwrap();
        let again = open(&image);
        let (n, distinct) = rt.block_on(count(&again));
        assert!(n >= durable && n == distinct && n % 50 == 0, "round {round}: {n}, {distinct}, {durable}");
        rt.block_on(again.fold()).unwrap();
        assert_eq!(rt.block_on(count(&again)), (n, n), "after the fold");
        again.close();
        assert_eq!(rt.block_on(count(&open(&image))), (n, n), "after another start");
    }
}

#[test]
fn other_programs_read_the_files() {
    // What is written quickly is ordinary Parquet: every kind of column comes back as it was.
    let dir = Dir::new("bulk-kinds");
    let rt = runtime();
    let tables = open(&dir.0);
    for table in crate::schema::TABLES.iter().filter(|t| t.name != "path_minute") {
        let columns = table.row_schema();
        let one = columns.fields().iter().map(|f| match f.data_type() {
            DataType::Timestamp(..) => "2026-01-31T03:12:08Z".to_owned(),
            DataType::Utf8 | DataType::Binary => "ab".to_owned(),
            _ => "7".to_owned(),
        });
        let values: Vec<String> = one.collect();
        let batch = crate::tests::a_row(table, &values);
        let ticket = tables.append_filed(tables.file(table, batch).unwrap()).unwrap();
        rt.block_on(tables.durable(ticket)).unwrap();
        let sql = format!("select * from {}", table.name);
        let in_memory = rt.block_on(ask(&tables, &sql));
        rt.block_on(tables.fold()).unwrap();
        assert_eq!(rt.block_on(ask(&tables, &sql)), in_memory, "{}", table.name);
    }
}
