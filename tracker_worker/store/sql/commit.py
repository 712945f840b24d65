# SPDX-License-Identifier: Apache-2.0
"""The writer of commits: six statements, each with all rows of its table.

Every reply waits for a commit, so the writer uses the driver itself: SQLAlchemy's work around each statement, and around the
parameters of each row, took several times as long as SQLite.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import Commit, Conflict
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.statements import (
    ANSWERED_POSTGRESQL,
    ANSWERED_SQLITE,
    GENERATIONS,
    PARAMETER,
    POSTGRESQL_MANY,
    POSTGRESQL_ONE,
    SQLITE,
)

Row = dict[str, Any]
"""The parameters of one row, by name."""
Cursor = Any
"""A cursor of the driver (PEP 249)."""

_to_json = msgspec.json.Encoder().encode


class _OnSQLite:
    """A statement that is executed once for each row. Its parameters go by position: for a row of 13 parameters sqlite3 needs
    2 microseconds by position, and 3 by name."""

    def __init__(self, text: str) -> None:
        self._text = re.sub(PARAMETER, "?", text)
        self._in_order = itemgetter(*re.findall(PARAMETER, text))

    def execute(self, cursor: Cursor, values: Sequence[Row]) -> int:
        """Execute for each of ``values``. Return the number of rows that were changed in all."""
        if len(values) == 1:
            cursor.execute(self._text, self._in_order(values[0]))
        else:
            cursor.executemany(self._text, [self._in_order(row) for row in values])
        return int(cursor.rowcount)


class _OnPostgreSQL:
    """A statement that is executed once for all rows: several rows go as one JSON parameter (see ``statements``). A single row
    costs less without JSON."""

    def __init__(self, one: str, many: str) -> None:
        self._one = one
        self._many = many

    def execute(self, cursor: Cursor, values: Sequence[Row]) -> int:
        """Execute for all of ``values``. Return the number of rows that were changed."""
        if len(values) == 1:
            cursor.execute(self._one, values[0])
        else:
            cursor.execute(self._many, {"rows": _to_json(values).decode()})
        return int(cursor.rowcount)


class CommitWriter:
    """Writes commits in one dialect. Keeps nothing between calls: any thread may use a writer."""

    def __init__(self, dialect: str) -> None:
        """``dialect`` is "sqlite" or "postgresql"."""
        self.dialect = dialect
        statements: Sequence[_OnSQLite | _OnPostgreSQL]
        if dialect == "sqlite":
            statements = [_OnSQLite(text) for text in SQLITE]
        else:
            statements = [_OnPostgreSQL(one, many) for one, many in zip(POSTGRESQL_ONE, POSTGRESQL_MANY, strict=True)]
        self._node, self._released, self._kept, self._answered, self._notification, self._cursor = statements

    def answered(self, cursor: Cursor, unique_ids: Collection[str]) -> dict[str, bytes]:
        """Return unique_id -> reply, of those messages that have an inbox row."""
        if self.dialect == "sqlite":
            cursor.execute(ANSWERED_SQLITE, [_to_json(list(unique_ids)).decode()])
        else:
            cursor.execute(ANSWERED_POSTGRESQL, [list(unique_ids)])
        return {unique_id: bytes(reply) for unique_id, reply in cursor.fetchall()}

    def write(self, cursor: Cursor, commit: Commit) -> None:
        """Write all of the commit in the cursor's transaction.

        Raises Conflict, and the driver's errors.
        """
        for host_id, generations in commit.verified.items():
            cursor.execute(GENERATIONS.format(host_id=host_id))
            if dict(cursor.fetchall()) != generations:
                raise Conflict("a host that an answer rests on has changed")
        # In the order of their keys, so that two workers do not wait for each other's rows crosswise.
        ledgers = sorted(commit.ledgers, key=lambda ledger: ledger.id)
        if ledgers:
            self._write_ledgers(cursor, ledgers)
        if commit.inbox_rows:
            answered = sorted(commit.inbox_rows, key=lambda message: message.unique_id)
            self._answered.execute(cursor, [rows.inbox_row(message) for message in answered])
        if commit.notifications:
            notifications = [rows.notification_row(notification) for notification in commit.notifications]
            self._notification.execute(cursor, notifications)
        if commit.cursors:
            moved = [
                {"node_id": node_id, "topic": topic, "sequence": sequence}
                for (node_id, topic), sequence in sorted(commit.cursors.items())
            ]
            self._cursor.execute(cursor, moved)

    def _write_ledgers(self, cursor: Cursor, ledgers: Sequence[NodeLedger]) -> None:
        """Write the nodes and the touched allocations of these ledgers, which are in the order of their ids."""
        nodes = [
            {"id": ledger.id, "stored_generation": ledger.stored_generation, **rows.node_values(ledger)}
            for ledger in ledgers
        ]
        if self._node.execute(cursor, nodes) != len(nodes):
            raise Conflict("a node has another generation")
        kept, released = [], []
        for ledger in ledgers:
            for uuid in sorted(ledger.touched):
                allocation = ledger.allocations.get(uuid)
                if allocation is None:
                    released.append({"host_id": ledger.host_id, "instance_uuid": uuid, "node_id": ledger.id})
                else:
                    kept.append(rows.allocation_row(ledger.host_id, ledger.id, allocation))
        if released:
            self._released.execute(cursor, released)
        if len({(row["host_id"], row["instance_uuid"]) for row in kept}) != len(kept):
            raise Conflict("an instance is charged to two nodes of the host")
        if kept and self._kept.execute(cursor, kept) != len(kept):
            raise Conflict("an instance is charged to another node of the host")
