# SPDX-License-Identifier: Apache-2.0
"""The health of a worker: it is looked at, kept, and said to whoever asks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.base import Bus
from tracker_worker.conf.health import read_listen
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.service.health.announcing import Announcer
from tracker_worker.service.health.figures import Figures
from tracker_worker.service.health.hearing import Hearing
from tracker_worker.service.health.problems import problems
from tracker_worker.service.health.readiness import Document, Readiness
from tracker_worker.service.health.response import Response, Route, as_json
from tracker_worker.service.health.server import HealthServer
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.watchdog import Watchdog

LOG = logging.getLogger(__name__)


class Health:
    """``listen`` and ``close`` belong to one thread; any thread may call the other methods. Nothing here waits for broker,
    database or engine."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        hosts: Sequence[str],
        bus: Bus,
        engine: EngineThread,
        ownership: Ownership,
        watchdog: Watchdog,
        monotonic: Callable[[], float],
        runtime: threads.Runtime,
        died: Callable[[BaseException], None],
    ) -> None:
        """Raises ConfigurationError: ``[health] listen`` is no address."""
        self._hosts = hosts
        self._bus = bus
        self._engine = engine
        self._ownership = ownership
        self._watchdog = watchdog
        self._monotonic = monotonic
        self._turn_seconds: int = conf.health.turn_seconds
        self._interval_seconds: int = conf.health.probe_interval_seconds
        self._hearing = Hearing(bus, hosts, interval_seconds=self._interval_seconds, monotonic=monotonic)
        self._readiness = Readiness(
            hosts=hosts,
            figures=self.figures,
            turn_seconds=self._turn_seconds,
            version=version("tracker-worker"),
            pid=os.getpid(),
            monotonic=monotonic,
            microseconds=runtime.microseconds,
        )
        self._announcer = Announcer(monotonic)
        self.routes: dict[str, Route] = {"/livez": self._livez, "/readyz": self._readyz}
        """The paths of the listener. Others may add theirs before ``listen``."""
        address = read_listen(conf)
        self._said: str = conf.health.listen
        self._server = None if address is None else HealthServer(address, self.routes, runtime=runtime, died=died)
        self._waits_for = "it has just begun"
        self._started_at: float | None = None
        self._settled = False
        self._stopping = False
        self._store_read_at = monotonic()

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the listener is reached, from ``listen`` on; None: there is none."""
        return None if self._server is None else self._server.address

    def listen(self) -> None:
        """Answer from now on. Raises ConfigurationError: the address cannot be used."""
        if self._server is None:
            return
        try:
            self._server.start()
        except OSError as error:
            raise ConfigurationError(
                f"[health] listen {self._said} cannot be used: {error.strerror or error}; give this worker another address, or "
                "leave the option empty"
            ) from error
        LOG.info("health: listening on %s port %d", *self._server.address)

    def close(self) -> None:
        """Answer no longer. Harmless when it does not listen."""
        if self._server is not None:
            self._server.stop()

    # --- what the worker says ----------------------------------------------------------------------------------------

    def starting(self, waits_for: str) -> None:
        """The start waits for this: a sentence's end, for people."""
        self._waits_for = waits_for

    def started(self) -> None:
        """The start is over; the bus may still have no connection."""
        self._started_at = self._monotonic()

    def stopping(self) -> None:
        """A stop has begun."""
        self._stopping = True

    # --- probes ------------------------------------------------------------------------------------------------------

    @property
    def period_seconds(self) -> float:
        """How often ``look`` is to be called."""
        return self._hearing.period_seconds

    def look(self) -> None:
        """Send the probes that are due, and keep since when things are as they are."""
        self._hearing.probe(self._engine.held)
        now = self._monotonic()
        if now - self._store_read_at >= self._interval_seconds:
            self._store_read_at = now
            self._engine.probe_store()
        self.readiness()
        self._announcer.note(problems(self.figures(), turn_seconds=self._turn_seconds))

    # --- what is known -----------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """Whether the engine has turned within ``[health] turn_seconds``, or is not watched: before it is started, and once it
        is stopped."""
        return self._watchdog.stands(self._turn_seconds) is None

    def readiness(self) -> Document:
        """The document of /readyz."""
        return self._readiness.document()

    def figures(self) -> Figures:
        """What the document is made of."""
        served = frozenset(self._ownership.served())
        refused = self._ownership.refused()
        unserved = self._ownership.unserved()
        held, active = self._engine.held, self._engine.active
        contact = None if self._started_at is None else self._bus.contact()
        consumed = frozenset() if contact is None else contact.consumed & served
        error = self._engine.store_error
        now = self._monotonic()
        locked = {host: now - since for host, since in self._engine.locked.items()}
        return Figures(
            starting=self._starting(held <= active),
            stopping=self._stopping,
            ledger_id=self._engine.ledger_id,
            served=served,
            active=active & served,
            held=held,
            refused={host: unserved.get(host, "") for host in refused},
            pending={host: reason for host, reason in unserved.items() if host not in refused},
            contact=contact,
            blocked=self._bus.blocked(),
            unheard={}
            if contact is None
            else self._hearing.unheard(contact, active=consumed & held, standby=consumed - held),
            unanswered=None if contact is None else self._hearing.unanswered(contact),
            store_error="" if error is None else " ".join(str(error).split()),
            locked={host: s for host, s in locked.items() if s > self._hearing.patience_seconds},
            stands=self._watchdog.stands(self._turn_seconds),
        )

    def _starting(self, settled: bool) -> str:
        """What the start waits for. It is over when something has come from the queue of each host that this worker does the
        chores of, or when that would be a problem of its own."""
        if self._started_at is None:
            return self._waits_for
        if not self._settled:
            late = self._monotonic() - self._started_at > self._hearing.patience_seconds
            self._settled = late or (settled and self._bus.connected())
        return "" if self._settled or not self._bus.connected() else "its first messages have yet to come"

    def _livez(self) -> Response:
        alive = self.alive()
        return as_json(200 if alive else 503, {"alive": alive})

    def _readyz(self) -> Response:
        document = self.readiness()
        return as_json(200 if document["ready"] else 503, document)
