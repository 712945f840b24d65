# SPDX-License-Identifier: Apache-2.0
"""A host under lock, in an open transaction of the driver."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tracker_worker.domain.ledger import HostLedger
from tracker_worker.store.base import Commit, LockedHost
from tracker_worker.store.sql import statements
from tracker_worker.store.sql.commit import CommitWriter
from tracker_worker.store.sql.failures import explained
from tracker_worker.store.sql.reading import host_from


class SQLLockedHost(LockedHost):
    """Belongs to the thread that made it. ``connection`` is the driver's, ``writer`` writes in its dialect; ``ledger`` is what
    ``lock`` has returned."""

    def __init__(self, connection: Any, writer: CommitWriter, ledger: HostLedger) -> None:
        self.ledger = ledger
        self._connection = connection
        self._writer = writer
        self._ended = False

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        with explained():
            return self._writer.answered(self._connection.cursor(), unique_ids)

    def commit(self, commit: Commit) -> None:
        if self._ended:
            raise RuntimeError("a locked host is committed once at most")
        self._ended = True
        with explained():
            self._writer.write(self._connection.cursor(), commit)
            self._connection.commit()


Row = Mapping[str, Any]


def lock(cursor: Any, dialect: str, host_id: int) -> HostLedger | None:
    """Lock a host in the cursor's transaction and return its ledgers; None: there is no such host. Raises the driver's
    errors."""
    if dialect == "sqlite":  # its transaction keeps out every writer
        texts = (statements.HOST, statements.NODES, statements.ALLOCATIONS)
        host, nodes, allocations = (_fetched(cursor.execute(text.format(host_id=host_id))) for text in texts)
    else:
        # PostgreSQL takes several statements at once. Each sees what was committed before it began, and the reading ones begin
        # when the locks are taken.
        together = (statements.LOCK_HOST, statements.LOCK_NODES, statements.NODES, statements.ALLOCATIONS)
        cursor.execute("; ".join(text.format(host_id=host_id) for text in together), prepare=False)
        host = _fetched(cursor)
        cursor.nextset()  # the ids of the locked nodes
        cursor.nextset()
        nodes = _fetched(cursor)
        cursor.nextset()
        allocations = _fetched(cursor)
    return host_from(host_id, host[0]["name"], nodes, allocations) if host else None


def _fetched(cursor: Any) -> list[Row]:
    """The rows of the cursor's result, by column name."""
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
