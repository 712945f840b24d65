# SPDX-License-Identifier: Apache-2.0
"""How a commit is written: a few statements, compiled once, each executed for all its rows at a time.

A commit is on the way of every reply. SQLAlchemy's own executemany prepares the parameters of each row again, which took more
time than SQLite itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store import rows
from tracker_worker.store.base import Answered, Commit, Conflict
from tracker_worker.store.schema import allocations, inbox, nodes, outbox, relay_cursor

Row = dict[str, Any]

_KEY = (allocations.c.host_id, allocations.c.instance_uuid)


class _Prepared:
    """One statement in a dialect's SQL, with parameters for these keys."""

    def __init__(self, statement: Any, dialect: sa.Dialect, keys: Iterable[str] | None = None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=None if keys is None else list(keys))
        self._text = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup

    def execute(self, connection: sa.Connection, values: Sequence[Row]) -> int:
        """Execute for each of ``values``. Returns how many rows were changed in all."""
        parameters: Any = values
        if self._order is not None:
            parameters = [tuple([row[name] for name in self._order]) for row in values]
        # Without the option the count of an INSERT is lost where its cursor is closed at once (psycopg).
        result = connection.exec_driver_sql(self._text, parameters, execution_options={"preserve_rowcount": True})
        return result.rowcount


class CommitWriter:
    """Writes commits in one dialect. ``insert`` is that dialect's INSERT, which knows ON CONFLICT. Keeps nothing between
    calls: any thread may use it."""

    def __init__(self, dialect: sa.Dialect, insert: Any) -> None:
        of_node = sa.update(nodes).where(
            nodes.c.id == sa.bindparam("b_id"), nodes.c.generation == sa.bindparam("b_generation")
        )
        gone = sa.delete(allocations).where(
            allocations.c.host_id == sa.bindparam("b_host_id"),
            allocations.c.instance_uuid == sa.bindparam("b_uuid"),
            allocations.c.node_id == sa.bindparam("b_node_id"),
        )
        further = (
            sa.update(relay_cursor)
            .where(relay_cursor.c.node_id == sa.bindparam("b_id"), relay_cursor.c.sequence < sa.bindparam("b_sequence"))
            .values(sequence=sa.bindparam("b_sequence"))
        )
        self._node = _Prepared(of_node, dialect, rows.NODE_COLUMNS)
        self._gone = _Prepared(gone, dialect)
        self._kept = _Prepared(_upsert_allocation(insert), dialect)
        self._answered = _Prepared(sa.insert(inbox), dialect)
        self._notification = _Prepared(sa.insert(outbox), dialect)
        self._cursor = _Prepared(further, dialect)

    def write(self, connection: sa.Connection, commit: Commit) -> None:
        """All of it, in the connection's transaction. Raises Conflict, and the errors of the database."""
        # In order of their keys, so that two workers do not wait for each other's rows crosswise.
        ledgers = sorted(commit.ledgers, key=lambda ledger: ledger.id)
        if ledgers:
            self._write_ledgers(connection, ledgers)
        if commit.answered:
            answered = sorted(commit.answered, key=lambda message: message.unique_id)
            self._answered.execute(connection, [_inbox_row(message) for message in answered])
        if commit.notifications:
            self._notification.execute(connection, [rows.notification_row(row) for row in commit.notifications])
        if commit.cursors:
            moved = [{"b_id": node_id, "b_sequence": sequence} for node_id, sequence in sorted(commit.cursors.items())]
            self._cursor.execute(connection, moved)

    def _write_ledgers(self, connection: sa.Connection, ledgers: Sequence[NodeLedger]) -> None:
        values = [
            {"b_id": ledger.id, "b_generation": ledger.stored_generation, **rows.node_values(ledger)}
            for ledger in ledgers
        ]
        if self._node.execute(connection, values) != len(values):
            raise Conflict("a node has another generation")
        kept, gone = [], []
        for ledger in ledgers:
            for uuid in sorted(ledger.touched):
                allocation = ledger.allocations.get(uuid)
                if allocation is None:
                    gone.append({"b_host_id": ledger.host_id, "b_uuid": uuid, "b_node_id": ledger.id})
                else:
                    kept.append(rows.allocation_row(ledger.host_id, ledger.id, allocation))
        if gone:
            self._gone.execute(connection, gone)
        if kept and self._kept.execute(connection, kept) != len(kept):
            raise Conflict("an instance is charged to another node of the host")


def _upsert_allocation(insert: Any) -> Any:
    statement = insert(allocations)
    written = {
        column.name: statement.excluded[column.name] for column in allocations.columns if column not in set(_KEY)
    }
    # A row of another node is not ours to change: nothing is written then, and the row count tells.
    return statement.on_conflict_do_update(
        index_elements=list(_KEY), set_=written, where=allocations.c.node_id == statement.excluded.node_id
    )


def _inbox_row(message: Answered) -> Row:
    return {"unique_id": message.unique_id, "reply": message.reply, "received_at": message.received_at}
