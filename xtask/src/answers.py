"""The same questions to a hub by its command line and by Flight SQL, and to its tables without it by two other engines.

Called by `cargo xtask answers`: selvedge program, address of the hub, address of Flight SQL, directory of the tables.
Prints a line a question; exits with 1 where two answers differ.
"""

import json
import subprocess
import sys

import adbc_driver_flightsql.dbapi
import deltalake
import duckdb
import polars

QUESTIONS = [
    ("path_observation", "select path, sum(lost) as lost, sum(sent) as sent from path_observation "
                         "group by path order by lost desc, path limit 50"),
    ("path_observation", "select source, count(*) as n, min(delay_min_ns) as low, max(delay_max_ns) as high "
                         "from path_observation group by source order by source"),
    ("path_minute", "select path, sum(windows) as windows, sum(lost) as lost from path_minute "
                    "group by path order by lost desc, path limit 50"),
]


def plain(rows):
    """Rows with whole numbers as such: engines differ in which of their types a sum has."""
    whole = lambda v: v if isinstance(v, str) and not v.lstrip("-").isdigit() else int(v)
    return [tuple(whole(v) for v in row) for row in rows]


def cli(selvedge, hub, sql):
    done = subprocess.run([selvedge, "query", "--json", "--hub", hub, sql], capture_output=True, check=True)
    return plain(json.loads(done.stdout)["rows"])


def flight(at, sql):
    with adbc_driver_flightsql.dbapi.connect(at) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return plain(cursor.fetchall())


def main():
    selvedge, hub, at, tables = sys.argv[1:]
    same = True
    for table, sql in QUESTIONS:
        delta = deltalake.DeltaTable(f"{tables}/{table}")
        with duckdb.connect() as connection:
            connection.register(table, delta.to_pyarrow_dataset())
            by_duckdb = plain(connection.sql(sql).fetchall())
        frames = polars.SQLContext({table: polars.scan_delta(f"{tables}/{table}")})
        answers = {
            "selvedge query": cli(selvedge, hub, sql),
            "Flight SQL (adbc-driver-flightsql)": flight(at, sql),
            "deltalake and DuckDB": by_duckdb,
            "Polars": plain(frames.execute(sql).collect().rows()),
        }
        first = answers["selvedge query"]
        differ = [who for who, rows in answers.items() if rows != first]
        same = same and not differ and bool(first)
        print(f"{len(first)} rows, {'equal' if not differ else 'different: ' + ', '.join(differ)}: {sql}")
    for statement in ["drop table path_observation", "copy path_observation to '/tmp/selvedge-answers.csv'"]:
        try:
            flight(at, statement)
            print(f"NOT refused: {statement}")
            same = False
        except Exception as refused:  # whatever kind it is, it is a refusal
            print(f"refused: {statement}: {str(refused).splitlines()[0][:120]}")
    sys.exit(0 if same else 1)


main()
