# SPDX-License-Identifier: Apache-2.0
"""The SQL text of a commit: every statement is valid on a migrated database, and looks rows up by an index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.migrated import migrated
from tracker_worker.store.sql.rows import NODE_COLUMNS
from tracker_worker.store.sql.schema import allocations, inbox, outbox
from tracker_worker.store.sql.statements import PARAMETER, POSTGRESQL_MANY, POSTGRESQL_ONE, SQLITE, Statements

NAMES = Statements._fields
LOOK_UPS = {
    "update_node": "nodes",
    "delete_allocation": "allocations",
    "move_cursor": "relay_cursor",
}
INSERTS = {"upsert_allocation": allocations, "insert_inbox": inbox, "insert_outbox": outbox}
ALL = {"sqlite": SQLITE, "postgresql, one row": POSTGRESQL_ONE, "postgresql, many rows": POSTGRESQL_MANY}


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "ledger.sqlite"
    migrated(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.fixture
def postgresql_session(postgresql_url: str) -> Iterator[psycopg.Connection]:
    """A session whose planner scans a table only if no index serves: for tables without rows a scan would be cheaper."""
    with psycopg.connect(migrated(postgresql_url).replace("+psycopg", "", 1)) as connection:
        connection.execute("SET enable_seqscan = off")
        yield connection


def parameters(text: str) -> dict[str, str]:
    """A value for each parameter of a statement of one row. The text "1" is a value of every type of the tables."""
    return dict.fromkeys(PARAMETER.findall(text), "1")


def sqlite_plan(connection: sqlite3.Connection, name: str) -> list[str]:
    text = getattr(SQLITE, name)
    return [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters(text))]


def postgresql_plans(connection: psycopg.Connection, name: str) -> list[str]:
    """The plan of the statement for one row, and the plan of the statement for many rows."""
    plans = []
    for statements, values in (
        (POSTGRESQL_ONE, parameters(getattr(SQLITE, name))),
        (POSTGRESQL_MANY, {"rows": "[]"}),
    ):
        found = connection.execute(f"EXPLAIN {getattr(statements, name)}", values)  # type: ignore[arg-type]
        plans.append("\n".join(row[0] for row in found))
    return plans


@pytest.mark.parametrize("name", NAMES)
def test_sqlite_prepares_every_statement(sqlite: sqlite3.Connection, name: str) -> None:
    text = getattr(SQLITE, name)
    assert sqlite.execute(f"EXPLAIN {text}", parameters(text)).fetchall()


@pytest.mark.parametrize(("name", "table"), LOOK_UPS.items())
def test_a_statement_that_looks_rows_up_on_sqlite_uses_an_index(
    sqlite: sqlite3.Connection, name: str, table: str
) -> None:
    plan = sqlite_plan(sqlite, name)
    assert any(re.match(rf"SEARCH {table} USING (INDEX|INTEGER PRIMARY KEY)", step) for step in plan), plan


@pytest.mark.parametrize("name", NAMES)
def test_no_statement_on_sqlite_scans_a_table(sqlite: sqlite3.Connection, name: str) -> None:
    assert [step for step in sqlite_plan(sqlite, name) if step.startswith("SCAN")] == []


@pytest.mark.parametrize("name", NAMES)
def test_postgresql_explains_every_statement(postgresql_session: psycopg.Connection, name: str) -> None:
    for plan in postgresql_plans(postgresql_session, name):
        assert plan.startswith(("Insert on", "Update on", "Delete on"))
        assert "Seq Scan on" not in plan


@pytest.mark.parametrize(("name", "table"), LOOK_UPS.items())
def test_a_statement_that_looks_rows_up_on_postgresql_uses_an_index(
    postgresql_session: psycopg.Connection, name: str, table: str
) -> None:
    for plan in postgresql_plans(postgresql_session, name):
        assert re.search(rf"(Index Scan using|Bitmap Index Scan on) pk_{table}\b", plan), plan


@pytest.mark.parametrize("statements", ALL.values(), ids=ALL)
@pytest.mark.parametrize(("name", "table"), INSERTS.items())
def test_an_insert_writes_every_column_of_its_table(statements: Statements, name: str, table: sa.Table) -> None:
    listed = re.search(r"INSERT INTO \w+ \(([^)]*)\)", getattr(statements, name))
    assert listed is not None
    assert re.findall(r"\w+", listed[1]) == table.columns.keys()


@pytest.mark.parametrize("statements", ALL.values(), ids=ALL)
def test_an_upsert_overwrites_every_column_but_the_key(statements: Statements) -> None:
    key = {column.name for column in allocations.primary_key}
    overwritten = re.findall(r"(\w+) = excluded\.\1,?\n", statements.upsert_allocation.partition("DO UPDATE SET")[2])
    assert overwritten == [name for name in allocations.columns.keys() if name not in key]  # noqa: SIM118


@pytest.mark.parametrize("statements", ALL.values(), ids=ALL)
def test_an_update_of_a_node_sets_every_column_that_its_ledger_decides(statements: Statements) -> None:
    assignments = statements.update_node.partition("SET")[2]
    for statement_end in ("WHERE", "FROM"):
        assignments = assignments.partition(statement_end)[0]
    assert tuple(re.findall(r"^ +(\w+) = ", assignments, re.MULTILINE)) == NODE_COLUMNS
