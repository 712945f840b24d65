# SPDX-License-Identifier: Apache-2.0
"""The rows of a commit, by table, and what writes them in each dialect.

Every reply waits for a commit, so the writers use the driver itself: SQLAlchemy's work around each statement, and around the
parameters of each row, took several times as long as SQLite.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from tracker_worker.domain.allocation import HOLD, INCOMING, INSTANCE
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import Commit, Conflict
from tracker_worker.store.sql import rows, statements
from tracker_worker.store.sql.reading import host_from

Row = dict[str, Any]
"""The parameters of one row, by name."""


class Writer(Protocol):
    """Writes commits over a connection of the driver, as ``Sessions.driver`` opens it. Keeps nothing between calls: any thread
    may use a writer. Every method raises Conflict and the driver's errors."""

    def commit(self, connection: Any, commit: Commit) -> None:
        """Write all of the commit in one transaction, and commit it."""

    def lock(self, connection: Any, host_id: int) -> HostLedger | None:
        """Open a transaction in which nobody else changes the host, and return its ledgers; None: there is no such host."""

    def lock_all(self, connection: Any) -> list[HostLedger]:
        """Open a transaction in which nobody else changes a node, and return the ledgers of all hosts, by name."""

    def answered(self, connection: Any, unique_ids: Collection[str]) -> dict[str, bytes]:
        """Return unique_id -> reply, of those messages that have an inbox row. Call it after ``lock``."""

    def finish(self, connection: Any, commit: Commit) -> None:
        """Write all of the commit in the transaction that ``lock`` or ``lock_all`` has opened, and commit it."""


class Tables(NamedTuple):
    """The rows of a commit in the order in which they are written. Within a table they are in the order of their keys, so that
    two workers do not wait for each other's rows crosswise."""

    nodes: list[Row]
    released: list[Row]
    """Allocations to delete."""
    kept: list[Row]
    """Allocations to insert or to overwrite."""
    forgotten: list[Row]
    """Deletions to delete."""
    noted: list[Row]
    """Deletions to insert or to overwrite."""
    ended_moves: list[Row]
    """Records of moves to delete."""
    moves: list[Row]
    """Records of moves to insert or to overwrite."""
    segments: list[Row]
    """Segments to add."""
    periods: list[Row]
    """Periods that are closed."""
    inbox: list[Row]
    outbox: list[Row]
    cursors: list[Row]


def tables_of(commit: Commit) -> Tables:
    """Raises Conflict: the commit charges two nodes for one instance."""
    ledgers = sorted(commit.ledgers, key=lambda ledger: ledger.id)
    kept, released = _allocations(ledgers)
    noted, forgotten = _deletions(ledgers)
    moves, ended_moves = _moves(ledgers)
    return Tables(
        nodes=[
            {
                "id": ledger.id,
                "stored_generation": ledger.stored_generation,
                "stream_id": ledger.stream_id,
                "sequence": ledger.sequence,
                "occurred_at": ledger.last_at,
                **rows.node_values(ledger),
            }
            for ledger in ledgers
        ],
        released=released,
        kept=kept,
        forgotten=forgotten,
        noted=noted,
        ended_moves=ended_moves,
        moves=moves,
        segments=[
            rows.segment_row(ledger.host_id, ledger.id, segment)
            for ledger in ledgers
            for segment in ledger.segments.added
        ],
        periods=[
            {"node_id": ledger.id, "beginning": beginning, "ending": ending}
            for ledger in ledgers
            for beginning, ending in ledger.closed
        ],
        inbox=[rows.inbox_row(message) for message in sorted(commit.inbox_rows, key=lambda message: message.unique_id)],
        outbox=[rows.notification_row(notification) for notification in commit.notifications],
        cursors=[
            {"stream_id": stream_id, "topic": topic, "sequence": sequence}
            for (stream_id, topic), sequence in sorted(commit.cursors.items())
        ],
    )


def _allocations(ledgers: Iterable[NodeLedger]) -> tuple[list[Row], list[Row]]:
    """The touched allocations that these ledgers have, and those that they do not have any more."""
    kept: list[Row] = []
    released: list[Row] = []
    for ledger in ledgers:
        for allocation_id, allocation in ledger.touched.items():
            if allocation is None:
                released.append({"id": allocation_id})
            else:
                kept.append(rows.allocation_row(ledger.host_id, ledger.id, allocation))
    # What an instance was charged is on hold before what it is charged now is there, and both before another move begins.
    kept.sort(key=lambda row: (row["host_id"], row["instance_uuid"], _ROLES[row["role"]]))
    if any(_key(one) == _key(other) for one, other in pairwise(kept)):
        raise Conflict("an instance is charged to two nodes of the host")
    return kept, sorted(released, key=itemgetter("id"))


_key = itemgetter("host_id", "instance_uuid", "role")
_ROLES = {HOLD: 0, INSTANCE: 1, INCOMING: 2}


def _deletions(ledgers: Iterable[NodeLedger]) -> tuple[list[Row], list[Row]]:
    """The deletions that are new in these ledgers, and those that are gone."""
    noted: list[Row] = []
    forgotten: list[Row] = []
    for ledger in ledgers:
        for uuid in sorted(ledger.noted):
            row: Row = {"host_id": ledger.host_id, "instance_uuid": uuid, "node_id": ledger.id}
            reported_at = ledger.deletions.get(uuid)
            if reported_at is None:
                forgotten.append(row)
            else:
                noted.append({**row, "reported_at": reported_at})
    return noted, forgotten


def _moves(ledgers: Iterable[NodeLedger]) -> tuple[list[Row], list[Row]]:
    """The records of moves that are new in these ledgers, and those that are gone."""
    kept: list[Row] = []
    gone: list[Row] = []
    for ledger in ledgers:
        for move_id in ledger.recorded:
            move = ledger.moves.get(move_id)
            if move is None:
                gone.append({"id": move_id, "host_id": ledger.host_id})
            else:
                kept.append(rows.move_row(ledger.host_id, ledger.id, move))
    key = itemgetter("host_id", "id")
    return sorted(kept, key=key), sorted(gone, key=key)


def fetched(cursor: Any) -> list[Mapping[str, Any]]:
    """The rows of a cursor's result, by column name."""
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def hosts_of(connection: Any) -> list[HostLedger]:
    """The ledgers of all hosts, by name, in the transaction of a connection of the driver."""
    found = fetched(connection.execute(statements.HOSTS))
    texts = (statements.HOST, *statements.OF_HOST)
    hosts = []
    for row in sorted(found, key=itemgetter("name")):
        read = (fetched(connection.execute(text.format(host_id=row["id"]))) for text in texts)
        host = host_of(row["id"], *read)
        assert host is not None
        hosts.append(host)
    return hosts


def host_of(
    host_id: int,
    host: list[Mapping[str, Any]],
    *of_host: list[Mapping[str, Any]],
) -> HostLedger | None:
    """The ledgers of a host from the rows of HOST and OF_HOST; None: there is no such host."""
    if not host:
        return None
    return host_from(host_id, host[0]["name"], host[0]["ledger_id"], *of_host)
