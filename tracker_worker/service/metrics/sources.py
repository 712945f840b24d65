# SPDX-License-Identifier: Apache-2.0
"""The figures of a worker, gathered from its parts for whoever looks from outside: metrics, the page, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from tracker_worker import threads
from tracker_worker.bus.base import Bus
from tracker_worker.counters import Counters
from tracker_worker.history import Entry
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.service.loop.snapshot import Snapshot
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.metrics.outbox import OutboxFigures
from tracker_worker.tally import Tally
from tracker_worker.wire.versions import VERSION

# Within this time one look at the ledgers serves all who look.
_FRESH_SECONDS = 1.0
# An engine that does not turn within this time, because it waits for the database, is seen as it was.
_WAIT_SECONDS = 0.5


class WorkerSources:
    """See ``collector.Sources``. Any thread may call any method."""

    def __init__(
        self,
        *,
        engine: EngineThread,
        ownership: Ownership,
        bus: Bus,
        hosts: Sequence[str],
        counters: Counters,
        tally: Tally,
        outbox: OutboxFigures,
        queues: Callable[[], Mapping[str, tuple[int, int]]],
        schema: str,
        is_ready: Callable[[], bool],
        log_records_dropped: Callable[[], int],
        monotonic: Callable[[], float] = threads.monotonic,
    ) -> None:
        """``schema`` is the revision of the schema that this release has."""
        self._engine = engine
        self._ownership = ownership
        self._bus = bus
        self._hosts = hosts
        self._counters = counters
        self.tally = tally
        self.outbox = outbox.waiting
        self.queues = queues
        self._schema = schema
        self.is_ready = is_ready
        self.log_records_dropped = log_records_dropped
        self.monotonic = monotonic

    def build(self) -> tuple[str, ...]:
        return version("tracker-worker"), VERSION, self._schema

    def roles(self) -> Mapping[str, str]:
        active, served = self._engine.active, frozenset(self._ownership.served())
        return {
            host: "active" if host in active and host in served else "standby" if host in served else "none"
            for host in self._hosts
        }

    def snapshot(self) -> Snapshot:
        snapshots = self._engine.snapshots
        if self.monotonic() - snapshots.last.taken_at >= _FRESH_SECONDS:
            snapshots.look(_WAIT_SECONDS)
        return snapshots.last

    def counted(self) -> Mapping[str, int]:
        return self._counters.snapshot()

    def is_blocked(self) -> bool:
        return self._bus.blocked() is not None

    def recent(self) -> Sequence[Entry]:
        """The last decisions, oldest first."""
        return self._engine.recent()
