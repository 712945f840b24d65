# SPDX-License-Identifier: Apache-2.0
"""What is seen of a worker from outside: its health, its metrics and its page, on one listener."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from oslo_config import cfg
from prometheus_client import CONTENT_TYPE_LATEST

from tracker_worker import threads
from tracker_worker.bus.base import Bus
from tracker_worker.counters import Counters
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.service.clock import Clock
from tracker_worker.service.health.health import Health
from tracker_worker.service.health.response import Response, as_json
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.metrics.collector import scrape
from tracker_worker.service.metrics.outbox import OutboxFigures
from tracker_worker.service.metrics.sources import WorkerSources
from tracker_worker.service.page.page import page
from tracker_worker.service.page.status import status
from tracker_worker.service.report import sections
from tracker_worker.service.watchdog import Watchdog
from tracker_worker.store.base import Store
from tracker_worker.tally import Tally


class Window:
    """``start`` and ``stop`` belong to one thread."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        store: Store,
        bus: Bus,
        engine: EngineThread,
        ownership: Ownership,
        watchdog: Watchdog,
        hosts: Sequence[str],
        topics: Sequence[str],
        counters: Counters,
        tally: Tally,
        schema: str,
        clock: Clock,
        inventories: Inventories,
        owner: str,
        log_records_dropped: Callable[[], int],
        monotonic: Callable[[], float],
        runtime: threads.Runtime,
        died: Callable[[BaseException], None],
    ) -> None:
        """``schema`` is the revision of the schema that this release has, ``owner`` the name of this worker in leases. Raises
        ConfigurationError: see ``Health``."""
        self.health = Health(
            conf,
            hosts=hosts,
            bus=bus,
            engine=engine,
            ownership=ownership,
            watchdog=watchdog,
            monotonic=monotonic,
            runtime=runtime,
            died=died,
        )
        self._clock = clock
        self._bus = bus
        self._engine = engine
        self._ownership = ownership
        self.sections = partial(
            sections,
            owner=owner,
            hosts=hosts,
            engine=engine,
            ownership=ownership,
            bus=bus,
            store=store,
            inventories=inventories,
            counters=counters,
            queues=self.queues,
            recent_decisions=self.recent_decisions,
            readiness=self.health.readiness,
        )
        """Makes what a report says of this worker. Any thread, at any time from here to the end of the process."""
        self._outbox = OutboxFigures(
            store,
            topics=topics,
            hosts=lambda: engine.held,
            clock=clock,
            died=died,
            monotonic=monotonic,
            runtime=runtime,
        )
        self.sources = WorkerSources(
            engine=engine,
            ownership=ownership,
            bus=bus,
            hosts=hosts,
            counters=counters,
            tally=tally,
            outbox=self._outbox,
            queues=self.queues,
            schema=schema,
            is_ready=lambda: bool(self.health.readiness()["ready"]),
            log_records_dropped=log_records_dropped,
            monotonic=monotonic,
        )
        self._project_series: int = conf.health.project_series
        self.health.routes.update({"/": page, "/status": self._status, "/metrics": self._metrics})

    def recent_decisions(self) -> Sequence[str]:
        """The last decisions, the oldest first, each as one line. Any thread."""
        return [entry.line() for entry in self._engine.recent()]

    def queues(self) -> dict[str, tuple[int, int]]:
        """What waits in this worker: name of the queue -> number of messages and of the bytes of their bodies. Any thread."""
        return {**self._bus.queues(), "unadmitted": self._ownership.unadmitted(), **self._engine.queues()}

    def start(self) -> None:
        """Read, now and then, what can be seen only in the database. Not without a listener: nobody would see it."""
        if self.health.address is not None:
            self._outbox.start()

    def stop(self, seconds: float) -> None:
        """Read no more. Harmless when not started."""
        self._outbox.stop(seconds)

    def _status(self) -> Response:
        return as_json(200, status(self.sources, self.health.readiness, self._clock()))

    def _metrics(self) -> Response:
        return Response(200, CONTENT_TYPE_LATEST, scrape(self.sources, project_series=self._project_series))
