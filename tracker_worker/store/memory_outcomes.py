# SPDX-License-Identifier: Apache-2.0
"""Dead letters, refusals and what was told, in memory. The caller holds the store's lock."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterable, Sequence

from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import MOST_DEAD_LETTER_BYTES, MOST_DEAD_LETTERS, DeadLetterRow, RefusalRow
from tracker_worker.store.history import HistoryStore
from tracker_worker.store.memory_commit import Rows
from tracker_worker.store.memory_hosts import Events


class DeadLetters:
    def __init__(self) -> None:
        self._rows: dict[int, DeadLetterRow] = {}
        self._ids = itertools.count(1)

    def keep(self, rows: Sequence[DeadLetterRow]) -> int:
        """See ``Store.keep_dead_letters``."""
        for row in rows:
            self._rows[next(self._ids)] = row
        dropped = 0
        total = sum(row.size for row in self._rows.values())
        while len(self._rows) > 1 and (len(self._rows) > MOST_DEAD_LETTERS or total > MOST_DEAD_LETTER_BYTES):
            total -= self._rows.pop(next(iter(self._rows))).size
            dropped += 1
        return dropped

    def oldest(self, limit: int) -> list[tuple[int, DeadLetterRow]]:
        """See ``Store.dead_letters``."""
        return list(itertools.islice(self._rows.items(), limit))

    def drop(self, ids: Collection[int]) -> None:
        """See ``Store.drop_dead_letters``."""
        for id in ids:
            self._rows.pop(id, None)


class Refusals:
    def __init__(self) -> None:
        self._rows: dict[str, RefusalRow] = {}

    def keep(self, rows: Sequence[RefusalRow], most: int) -> None:
        """See ``Store.keep_refusals``."""
        for row in rows:
            self._rows.setdefault(row.id, row)
        kept = sorted(self._rows)[-most:] if most else []
        self._rows = {id: self._rows[id] for id in kept}

    def found(self, *, host: str | None, node: str | None, instance_uuid: str | None, since: int) -> list[RefusalRow]:
        """See ``Store.refusals``."""
        wanted = [
            row
            for row in self._rows.values()
            if host in (None, row.host)
            and node in (None, row.node)
            and instance_uuid in (None, row.instance_uuid)
            and row.at >= since
        ]
        return sorted(wanted, key=lambda row: (row.at, row.id), reverse=True)


def told(
    streams: Iterable[Events],
    event_types: Collection[str],
    *,
    since: int,
    containing: bytes,
    before: tuple[int, int, int] | None,
    limit: int,
) -> list[Notification]:
    """See ``Store.told``."""
    found = [
        row
        for stream in streams
        for row in stream.outbox.values()
        if row.event_type in event_types
        and row.occurred_at >= since
        and (before is None or _place(row) < before)
        and (containing in row.payload or containing in row.asked)
    ]
    return sorted(found, key=_place, reverse=True)[:limit]


def _place(row: Notification) -> tuple[int, int, int]:
    return row.occurred_at, row.stream_id, row.sequence


class MemoryHistory(HistoryStore):
    """The history of a store in memory, which has ``_lock``, ``_rows`` and ``_refusals``."""

    _lock: threading.Lock
    _rows: Rows
    _refusals: Refusals

    def keep_refusals(self, rows: Sequence[RefusalRow], most: int) -> None:
        with self._lock:
            self._refusals.keep(rows, most)

    def refusals(
        self, *, host: str | None = None, node: str | None = None, instance_uuid: str | None = None, since: int = 0
    ) -> list[RefusalRow]:
        with self._lock:
            return self._refusals.found(host=host, node=node, instance_uuid=instance_uuid, since=since)

    def told(
        self,
        *,
        event_types: Collection[str],
        host: str | None = None,
        node: str | None = None,
        since: int = 0,
        containing: bytes = b"",
        before: tuple[int, int, int] | None = None,
        limit: int,
    ) -> list[Notification]:
        with self._lock:
            streams = [
                each for each in self._rows.streams.values() if host in (None, each.host) and node in (None, each.node)
            ]
            return told(streams, event_types, since=since, containing=containing, before=before, limit=limit)
