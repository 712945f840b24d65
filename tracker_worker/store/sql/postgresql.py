# SPDX-License-Identifier: Apache-2.0
"""Commits on PostgreSQL: one round trip for a commit, four at most for a host under lock. Only one that is large takes more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg

from tracker_worker.domain.host import HostLedger
from tracker_worker.store.base import Commit
from tracker_worker.store.sql import statements
from tracker_worker.store.sql.arrays import Binary
from tracker_worker.store.sql.commit import Row, Writer, fetched, host_of, hosts_of, tables_of
from tracker_worker.store.sql.compound import TABLES, columns_of, statement_for, values_of
from tracker_worker.store.sql.parts import parts
from tracker_worker.store.sql.rearranging import LOCK_NODES, in_psycopg, nodes_of, rearrange

MOST_ROWS = 1000
"""The most rows of a table in one statement."""
MOST_BYTES = 4_000_000
"""The most bytes of one statement's parameters, unless a single row is larger."""

# Of an element that is a number, with its length.
_OTHER_BYTES = 12
_to_json = msgspec.json.Encoder().encode
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class Filled(NamedTuple):
    """A statement (see ``statement_for``), with its parameters but the first."""

    tables: tuple[str, ...]
    single: bool
    parameters: Sequence[Binary | None]


class PostgreSQLWriter(Writer):
    """The connection is in no transaction, and in autocommit mode."""

    def commit(self, connection: Any, commit: Commit) -> None:
        filled = list(filled_of(commit))
        if len(filled) == 1 and not _is_rare(commit):
            self._write(connection, commit, filled)
            return
        connection.execute(_BEGIN)
        self.finish(connection, commit)

    def finish(self, connection: Any, commit: Commit) -> None:
        if _is_rare(commit):
            connection.execute(LOCK_NODES, nodes_of(commit))
            # Before everything else, because the hosts are verified as they were before this commit.
            verified = Commit(verified=commit.verified)
            self._write(connection, verified, filled_of(verified))
            rearrange(lambda text, row: connection.execute(in_psycopg(text), row).rowcount, commit)
            commit = msgspec.structs.replace(commit, verified={})
        self._write(connection, commit, filled_of(commit))
        connection.commit()

    def _write(self, connection: Any, commit: Commit, statements: Iterable[Filled]) -> None:
        # It takes the statement as it is. psycopg's usual cursor would look for parameters in it, which takes longer than the
        # server needs for a claim.
        cursor = psycopg.RawCursor(connection)
        for tables, single, parameters in statements:
            # Prepared when it is used for the first time: to plan the statement takes longer than to execute it.
            cursor.execute(statement_for(tables, single=single), [commit.ledger_id, *parameters], prepare=True)

    def lock(self, connection: Any, host_id: int) -> HostLedger | None:
        # PostgreSQL takes several statements at once. Each sees what was committed before it began, and the reading ones begin
        # when the locks are taken.
        texts = (
            _BEGIN,
            statements.LOCK_HOST,
            statements.LOCK_NODES,
            *statements.OF_HOST,
        )
        cursor = connection.execute("; ".join(text.format(host_id=host_id) for text in texts), prepare=False)
        cursor.nextset()
        host = fetched(cursor)
        cursor.nextset()  # the ids of the locked nodes
        of_host = []
        for _ in statements.OF_HOST:
            cursor.nextset()
            of_host.append(fetched(cursor))
        return host_of(host_id, host, *of_host)

    def lock_all(self, connection: Any) -> list[HostLedger]:
        connection.execute(_BEGIN)
        connection.execute(statements.LOCK_ALL_NODES)
        return hosts_of(connection)

    def answered(self, connection: Any, unique_ids: Collection[str]) -> dict[str, bytes]:
        return dict(connection.execute(statements.ANSWERED_POSTGRESQL, [list(unique_ids)]).fetchall())


def _is_rare(commit: Commit) -> bool:
    """Whether the commit has rows that the one statement does not write."""
    return commit.history is not None or commit.rearranges or any(each.segments.cuts for each in commit.ledgers)


def filled_of(commit: Commit) -> Iterator[Filled]:
    """The statements that write a commit: one where its rows are within the limits, otherwise several, each with rows of one
    table, in the order in which they must be executed."""
    rows = {"verified": _verified(commit), **tables_of(commit)._asdict()}
    present = tuple(table for table in TABLES if rows[table])
    if all(len(rows[table]) == 1 for table in present):
        values = [value for table in present for value in values_of(table, rows[table][0])]
        if sum(len(value) for value in values if value is not None) <= MOST_BYTES:
            yield Filled(present, True, values)
            return
    elif all(len(rows[table]) <= MOST_ROWS for table in present):
        columns = [column for table in present for column in columns_of(table, rows[table])]
        if sum(map(len, columns)) <= MOST_BYTES:
            yield Filled(present, False, columns)
            return
    for table in present:
        for part in parts(rows[table], _bytes_of, most_items=MOST_ROWS, most_size=MOST_BYTES):
            yield Filled((table,), False, columns_of(table, part))


def _verified(commit: Commit) -> list[Row]:
    return [
        {"host_id": host_id, "generations": _to_json(dict(known)).decode()}
        for host_id, known in commit.verified.items()
    ]


def _bytes_of(row: Row) -> int:
    return sum(len(value) if isinstance(value, bytes | str) else _OTHER_BYTES for value in row.values())
