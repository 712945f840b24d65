# SPDX-License-Identifier: Apache-2.0
"""The SQL text of a commit: every statement is valid on a migrated database, and looks rows up by an index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import RawCursor
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

from tests.support.builders import begin, node_name, uuid
from tests.support.migrated import migrated
from tests.support.store import settle
from tracker_worker.store.sql import reading, rearranging
from tracker_worker.store.sql.compound import TABLES, columns_of, statement_for
from tracker_worker.store.sql.rows import NODE_COLUMNS
from tracker_worker.store.sql.schema import allocations, deletions, inbox, outbox
from tracker_worker.store.sql.statements import PARAMETER, SQLITE, Statements
from tracker_worker.store.sql.store import SQLStore

NAMES = Statements._fields
LOOK_UPS = {
    "update_node": "nodes",
    "update_stream": "streams",
    "delete_allocation": "allocations",
    "delete_deletion": "deletions",
    "move_cursor": "relay_cursor",
}
INSERTS = {
    "upsert_allocation": allocations,
    "upsert_deletion": deletions,
    "insert_inbox": inbox,
    "insert_outbox": outbox,
}
POSTGRESQL = statement_for(TABLES, single=False).decode()
ALL = {"sqlite": SQLITE, "postgresql": Statements(*[POSTGRESQL] * len(NAMES))}


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "ledger.sqlite"
    migrated(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def parameters(text: str) -> dict[str, str]:
    """A value for each parameter of a statement of one row. The text "1" is a value of every type of the tables."""
    return dict.fromkeys(PARAMETER.findall(text), "1")


def sqlite_plan(connection: sqlite3.Connection, name: str) -> list[str]:
    text = getattr(SQLITE, name)
    return [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters(text))]


@pytest.mark.parametrize("name", NAMES)
def test_sqlite_prepares_every_statement(sqlite: sqlite3.Connection, name: str) -> None:
    text = getattr(SQLITE, name)
    assert sqlite.execute(f"EXPLAIN {text}", parameters(text)).fetchall()


@pytest.mark.parametrize("text", rearranging.STATEMENTS)
def test_sqlite_prepares_the_rare_statements(sqlite: sqlite3.Connection, text: str) -> None:
    assert sqlite.execute(f"EXPLAIN {text}", parameters(text)).fetchall()


def test_a_page_of_allocations_on_sqlite_is_read_in_the_order_of_an_index(sqlite: sqlite3.Connection) -> None:
    query = reading.page_query({}, after=("u", "i"), limit=9)
    text = str(query.compile(dialect=sqlite_dialect(), compile_kwargs={"literal_binds": True}))
    plan = [row[-1] for row in sqlite.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert plan[0].startswith("SEARCH allocations USING INDEX")
    assert "(instance_uuid>?)" in plan[0]
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan  # it sorts what one instance is charged, and no more


@pytest.mark.parametrize(("name", "table"), LOOK_UPS.items())
def test_a_statement_that_looks_rows_up_on_sqlite_uses_an_index(
    sqlite: sqlite3.Connection, name: str, table: str
) -> None:
    plan = sqlite_plan(sqlite, name)
    assert any(re.match(rf"SEARCH {table} USING (INDEX|INTEGER PRIMARY KEY)", step) for step in plan), plan


@pytest.mark.parametrize("name", NAMES)
def test_no_statement_on_sqlite_scans_a_table(sqlite: sqlite3.Connection, name: str) -> None:
    assert [step for step in sqlite_plan(sqlite, name) if step.startswith("SCAN")] == []


def test_the_statement_on_postgresql_looks_the_rows_of_large_tables_up_by_an_index(postgresql_url: str) -> None:
    """The plan that is used from the sixth commit on, which knows nothing of the parameters."""
    store = SQLStore(migrated(postgresql_url))
    store.start()
    writer = settle(store, nodes=40)
    for number in range(3000):
        writer.put(begin(number, node=node_name(number % 40 + 1)))
    writer.commit()
    with store.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        page = reading.page_query({}, after=(uuid(1500), ""), limit=500)
        text = page.compile(connection, compile_kwargs={"literal_binds": True})
        page_plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {text}".replace("%", "%%")).scalars())
        connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
        driver: Any = connection.connection.driver_connection
        nothing = [None, *(column for table in TABLES for column in columns_of(table, []))]
        plans = []
        for scans in ("on", "off"):  # a scan is right for a table of a few rows
            connection.exec_driver_sql(f"SET enable_seqscan = {scans}")
            plans.append("\n".join(row[0] for row in RawCursor(driver).execute(f"EXPLAIN {POSTGRESQL}", nothing)))
    store.stop()
    assert "Index Scan using uq_allocations_instance_uuid_host_id_role" in page_plan, page_plan
    assert "Incremental Sort" in page_plan
    assert "Index Scan using pk_allocations" in plans[0], plans[0]
    assert "Seq Scan on allocations" not in plans[0]
    for table in ("nodes", "allocations", "relay_cursor"):
        assert re.search(rf"(Index Scan using|Bitmap Index Scan on) pk_{table}\b", plans[1]), plans[1]
    assert "Seq Scan on" not in plans[1]


@pytest.mark.parametrize("statements", ALL.values(), ids=ALL)
@pytest.mark.parametrize(("name", "table"), INSERTS.items())
def test_an_insert_writes_every_column_of_its_table(statements: Statements, name: str, table: sa.Table) -> None:
    listed = re.search(rf"INSERT INTO {table.name} \(([^)]*)\)", getattr(statements, name))
    assert listed is not None
    assert re.findall(r"\w+", listed[1]) == table.columns.keys()


@pytest.mark.parametrize("statements", ALL.values(), ids=ALL)
def test_an_upsert_overwrites_every_column_that_changes(statements: Statements) -> None:
    assignments = statements.upsert_allocation.partition("DO UPDATE SET")[2].partition("\n)")[0]
    fixed = {"id", "host_id", "instance_uuid", "claim_id", "on_expiry"}
    expected = [column.name for column in allocations.columns if column.name not in fixed]
    assert re.findall(r"(\w+) = excluded\.\1", assignments) == expected


@pytest.mark.parametrize("statements", ALL.values(), ids=ALL)
def test_an_update_of_a_node_sets_every_column_that_its_ledger_decides(statements: Statements) -> None:
    assignments = statements.update_node.partition("UPDATE nodes SET")[2]
    for statement_end in ("WHERE", "FROM"):
        assignments = assignments.partition(statement_end)[0]
    assert tuple(re.findall(r"^ +(\w+) = ", assignments, re.MULTILINE)) == NODE_COLUMNS
