# SPDX-License-Identifier: Apache-2.0
"""Commits on PostgreSQL: one round trip for a commit, four at most for a host under lock. Only one that is large takes more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from tracker_worker.domain.host import HostLedger
from tracker_worker.store.base import Commit
from tracker_worker.store.sql import statements
from tracker_worker.store.sql.commit import Row, Tables, Writer, fetched, host_of, hosts_of, tables_of
from tracker_worker.store.sql.rearranging import LOCK_NODES, in_psycopg, nodes_of, rearrange

MOST_ROWS = 1000
"""The most rows of a table in one statement."""
MOST_BYTES = 4_000_000
"""The most bytes of one statement's parameters, unless a single row is larger."""

_to_json = msgspec.json.Encoder().encode
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_NOTHING = {**dict.fromkeys((*Tables._fields, "verified"), "[]"), "ledger_id": None}

Parameters = Mapping[str, str | None]
"""The parameters of ``statements.POSTGRESQL``."""


class PostgreSQLWriter(Writer):
    """The connection is in no transaction, and in autocommit mode."""

    def commit(self, connection: Any, commit: Commit) -> None:
        parameters = list(parameters_of(commit))
        if len(parameters) == 1 and not _is_rare(commit):
            self._write(connection, parameters)
            return
        connection.execute(_BEGIN)
        self.finish(connection, commit)

    def finish(self, connection: Any, commit: Commit) -> None:
        if _is_rare(commit):
            connection.execute(LOCK_NODES, nodes_of(commit))
            # Before everything else, because the hosts are verified as they were before this commit.
            self._write(connection, [{**_NOTHING, "verified": _array(map(_to_json, _verified(commit)))}])
            rearrange(lambda text, row: connection.execute(in_psycopg(text), row).rowcount, commit)
            commit = msgspec.structs.replace(commit, verified={})
        self._write(connection, parameters_of(commit))
        connection.commit()

    def _write(self, connection: Any, parameters: Iterable[Parameters]) -> None:
        for each in parameters:
            # Prepared when it is used for the first time: to plan the statement takes longer than to execute it.
            connection.execute(statements.POSTGRESQL, each, prepare=True)

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


def parameters_of(commit: Commit) -> Iterator[Parameters]:
    """The parameters of the statements that write a commit: of one statement where its rows are within the limits, otherwise of
    several, each with rows of one table, in the order in which they must be executed."""
    nothing = {**_NOTHING, "ledger_id": commit.ledger_id}
    # The hosts come first: they are verified as they were before this commit.
    tables = {"verified": _verified(commit), **tables_of(commit)._asdict()}
    encoded = {name: [_to_json(row) for row in table] for name, table in tables.items() if table}
    size = sum(len(row) for table in encoded.values() for row in table)
    if size <= MOST_BYTES and all(len(table) <= MOST_ROWS for table in encoded.values()):
        yield {**nothing, **{name: _array(table) for name, table in encoded.items()}}
        return
    for name, table in encoded.items():
        for part in _parts(table):
            yield {**nothing, name: _array(part)}


def _verified(commit: Commit) -> list[Row]:
    return [{"host_id": host_id, "generations": dict(known)} for host_id, known in commit.verified.items()]


def _parts(table: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The encoded rows of a table in pieces that are within the limits."""
    part: list[bytes] = []
    size = 0
    for row in table:
        if part and (len(part) == MOST_ROWS or size + len(row) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row)
    if part:
        yield part


def _array(table: Iterable[bytes]) -> str:
    return f"[{b','.join(table).decode()}]"
