# SPDX-License-Identifier: Apache-2.0
"""Commits on SQLite: one execution for each row."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Sequence
from operator import itemgetter

import msgspec

from tracker_worker.domain.host import HostLedger
from tracker_worker.store.base import Commit, Conflict
from tracker_worker.store.sql import statements
from tracker_worker.store.sql.commit import Row, Writer, fetched, host_of, hosts_of, tables_of
from tracker_worker.store.sql.rearranging import rearrange
from tracker_worker.store.sql.statements import PARAMETER, SQLITE


class _Statement:
    """Its parameters go by position: for a row of 13 parameters sqlite3 needs 2 microseconds by position, and 3 by name."""

    def __init__(self, text: str) -> None:
        self._text = re.sub(PARAMETER, "?", text)
        names = re.findall(PARAMETER, text)
        # Of a single name, itemgetter would return the value itself.
        self._in_order = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)

    def execute(self, cursor: sqlite3.Cursor, values: Sequence[Row]) -> int:
        """Execute for each of ``values``. Return the number of rows that were changed in all."""
        if len(values) == 1:
            cursor.execute(self._text, self._in_order(values[0]))
        elif values:
            cursor.executemany(self._text, map(self._in_order, values))
        return cursor.rowcount if values else 0


(
    _NODE,
    _STREAM,
    _RELEASED,
    _KEPT,
    _FORGOTTEN,
    _NOTED,
    _ENDED_MOVES,
    _MOVES,
    _SEGMENTS,
    _PERIODS,
    _ANSWERED,
    _NOTIFICATION,
    _CURSOR,
) = map(_Statement, SQLITE)


class SQLiteWriter(Writer):
    """The connection is in a transaction that keeps out every other writer."""

    def commit(self, connection: sqlite3.Connection, commit: Commit) -> None:
        cursor = connection.cursor()
        for host_id, generations in commit.verified.items():
            stored = cursor.execute(statements.GENERATIONS.format(host_id=host_id))
            if dict(stored.fetchall()) != generations:
                raise Conflict("a host that an answer rests on has changed")
        rearrange(lambda text, row: cursor.execute(text, row).rowcount, commit)
        if commit.ledger_id is not None and cursor.execute(statements.HISTORY).fetchone() != (commit.ledger_id,):
            raise Conflict("the present history is another one")
        tables = tables_of(commit)
        if _NODE.execute(cursor, tables.nodes) != len(tables.nodes):
            raise Conflict("a node has another generation")
        _STREAM.execute(cursor, tables.nodes)
        _RELEASED.execute(cursor, tables.released)
        _KEPT.execute(cursor, tables.kept)
        _FORGOTTEN.execute(cursor, tables.forgotten)
        _NOTED.execute(cursor, tables.noted)
        _ENDED_MOVES.execute(cursor, tables.ended_moves)
        _MOVES.execute(cursor, tables.moves)
        _SEGMENTS.execute(cursor, tables.segments)
        _PERIODS.execute(cursor, tables.periods)
        _ANSWERED.execute(cursor, tables.inbox)
        _NOTIFICATION.execute(cursor, tables.outbox)
        _CURSOR.execute(cursor, tables.cursors)
        connection.commit()

    finish = commit

    def lock(self, connection: sqlite3.Connection, host_id: int) -> HostLedger | None:
        texts = (statements.HOST, *statements.OF_HOST)
        return host_of(host_id, *(fetched(connection.execute(text.format(host_id=host_id))) for text in texts))

    def lock_all(self, connection: sqlite3.Connection) -> list[HostLedger]:
        return hosts_of(connection)

    def answered(self, connection: sqlite3.Connection, unique_ids: Collection[str]) -> dict[str, bytes]:
        wanted = msgspec.json.encode(list(unique_ids)).decode()
        return dict(connection.execute(statements.ANSWERED_SQLITE, [wanted]).fetchall())
