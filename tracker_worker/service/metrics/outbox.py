# SPDX-License-Identifier: Apache-2.0
"""How many notifications wait for each topic, read from the database now and then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from tracker_worker import threads
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Store

LOG = logging.getLogger(__name__)

_READ_SECONDS = 5.0
# Reading takes at most this share of the time, however many notifications wait.
_MOST_SHARE = 0.05


class OutboxFigures:
    """Reads on a thread of its own, so that a database that is silent holds up nobody who looks. ``start`` and ``stop`` belong
    to one thread; any thread may call ``waiting``. Without ``start``, a test calls ``step`` itself."""

    def __init__(
        self,
        store: Store,
        *,
        topics: Sequence[str],
        hosts: Callable[[], Collection[str]],
        clock: Callable[[], int],
        died: Callable[[BaseException], None],
        monotonic: Callable[[], float],
        runtime: threads.Runtime,
    ) -> None:
        """``hosts``: those that count. ``clock`` is the time of the store in microseconds."""
        self._store = store
        self._topics = topics
        self._hosts = hosts
        self._clock = clock
        self._monotonic = monotonic
        self._thread = runtime.stepped("tracker-figures", self, died, monotonic=monotonic)
        self._known: Mapping[str, tuple[int, int | None]] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Read no more; wait for the end of a read for at most so long. Harmless when stopped."""
        self._thread.stop(seconds)

    def step(self, now: float) -> float:
        """Read. Returns the seconds until the next time. While the database is away, what was read last holds, and grows
        older."""
        try:
            self._read()
        except StoreUnavailable as error:
            LOG.debug("the outbox cannot be read for its figures: %s", error)
        return max(_READ_SECONDS, (self._monotonic() - now) / _MOST_SHARE)

    def _read(self) -> None:
        hosts = self._hosts()
        known: dict[str, tuple[int, int | None]] = {}
        for row in self._store.backlog():
            if row.host in hosts:
                waiting, oldest = known.get(row.topic, (0, None))
                times = [at for at in (oldest, row.oldest_at) if at is not None]
                known[row.topic] = waiting + row.rows, min(times, default=None)
        self._known = known

    def waiting(self) -> dict[str, tuple[int, float]]:
        """Topic -> the notifications that it has not confirmed, and the age of the oldest in seconds; of every topic."""
        now, known = self._clock(), self._known
        found = {}
        for topic in sorted({*self._topics, *known}):
            number, oldest = known.get(topic, (0, None))
            found[topic] = number, 0.0 if oldest is None else max(0.0, (now - oldest) / SECOND)
        return found
