# SPDX-License-Identifier: Apache-2.0
"""The part of the store port that says afterwards what was decided. See ``Store`` for what holds of every method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from tracker_worker.notifications.notification import Notification
from tracker_worker.store.records import RefusalRow


class HistoryStore(ABC):
    @abstractmethod
    def keep_refusals(self, rows: Sequence[RefusalRow], most: int) -> None:
        """Keep these rows, each of them once, and of all rows only the ``most`` with the largest ids. Any thread."""

    @abstractmethod
    def refusals(
        self, *, host: str | None = None, node: str | None = None, instance_uuid: str | None = None, since: int = 0
    ) -> list[RefusalRow]:
        """Return the refusals from ``since`` (microseconds) on, newest first. Each of the other arguments leaves only what has
        it. Any thread."""

    @abstractmethod
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
        """Return at most ``limit`` notifications of the outbox of these types, the latest first, in the order of (time, stream
        id, sequence): those before ``before`` in this order, and from the time ``since`` (microseconds) on. ``containing``:
        bytes that are in the payload, or in what says who asked. ``host`` and ``node``: names of the streams; None: all. The
        whole outbox may have to be read for it. Any thread."""
