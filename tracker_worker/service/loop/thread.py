# SPDX-License-Identifier: Apache-2.0
"""The engine with its parts, on a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tracker_worker import threads
from tracker_worker.bus.base import Bus
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.audits import Audits
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.chores.pruning import Pruning
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.loop.backlog import Retry
from tracker_worker.service.loop.batch import Decider
from tracker_worker.service.loop.engine import Engine
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.requests.items import Chore
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork

LOG = logging.getLogger(__name__)


class EngineThread:
    """``start``, ``stop`` and ``release`` must be called from one thread, and ``step`` only from the engine's thread. Any
    thread may call the other methods."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        inventories: Inventories,
        policy: Callable[[], Policy],
        hosts: Sequence[str],
        owner: str,
        notify: bool,
        topics: Sequence[str],
        conflict_retries: int,
        clock: Callable[[], int],
        died: Callable[[BaseException], None],
        monotonic: Callable[[], float] = threads.monotonic,
    ) -> None:
        """``owner`` names this worker in leases. ``notify`` False: notifications are neither kept nor published. ``topics`` are
        those that notifications are published to."""
        self._hosts = hosts
        self._thread = threads.StepThread("tracker-engine", self, died, monotonic=monotonic)
        wake = self._thread.wake
        ledgers = Ledgers(store)
        inbox = Inbox(store)
        self._relay = Relay(store, bus, topics=topics, monotonic=monotonic, wake=wake) if notify else None
        self._leases = Leases(store=store, ledgers=ledgers, relay=self._relay, hosts=hosts, owner=owner, clock=clock)
        self._pruning = Pruning(store=store, ledgers=ledgers, leases=self._leases, clock=clock)
        self._audits = Audits(
            inventories=inventories,
            bus=bus,
            ledgers=ledgers,
            leases=self._leases,
            policy=policy,
            submit=self.submit,
        )
        self._engine = Engine(
            store=store,
            bus=bus,
            ledgers=ledgers,
            inbox=inbox,
            decider=Decider(
                ledgers=ledgers,
                inbox=inbox,
                policy=policy,
                clock=clock,
                monotonic=monotonic,
                new_unit=partial(UnitOfWork, store, ledgers, notify=notify),
            ),
            relay=self._relay,
            leases=self._leases,
            audits=self._audits,
            retry=Retry(conflict_retries),
            clock=clock,
            monotonic=monotonic,
            wake=wake,
        )

    def start(self) -> None:
        """Begin to work. The hosts must be registered in the store."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the attempt in hand and return; what is not decided stays unsettled. Harmless when stopped."""
        self._thread.stop()

    def release(self) -> None:
        """Write the cursors and give up the leases, so that a successor publishes nothing twice and need not wait. Call it
        after ``stop``, when no further confirms will arrive. If the store is unavailable, the successor publishes some
        notifications again and waits until the leases expire."""
        try:
            if self._relay is not None:
                self._relay.flush()
            self._leases.release()
        except (StoreUnavailable, Conflict) as error:
            LOG.warning("the cursors or the leases are left to the successor: %s", error)

    def submit(self, item: Sequence[PendingRequest] | Chore) -> None:
        """Decide ``item`` after every item that was submitted before it."""
        self._engine.submit(item)

    def step(self, now: float) -> float | None:
        """See ``Engine.step``. The engine's thread calls this method; a test that does not call ``start`` calls it itself."""
        return self._engine.step(now)

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has these notifications."""
        if self._relay is not None:
            self._relay.confirmed(keys)

    def renew_leases(self) -> None:
        """Take or renew the leases of all hosts, and relay the hosts that are held. No notification is published before
        the first call of this method."""
        self._engine.run(self._leases.renew)

    def audit(self, host: str) -> None:
        """Expire claims of a host that are due and read its inventories, if this worker holds the host's lease."""
        self._engine.run(lambda: self._audits.periodic(host))

    def prune(self, *, inbox_seconds: int, outbox_seconds: int) -> None:
        """Drop older rows of the inbox and of the confirmed part of the outbox, for the hosts whose leases this worker
        holds."""
        step = self._pruning.begin(inbox_seconds=inbox_seconds, outbox_seconds=outbox_seconds)

        def task() -> None:
            # A waiting batch may be committed already without the worker's knowledge. Its inbox rows must not be pruned.
            if not self._engine.waiting and step():
                self._engine.run(task)  # after the requests that have arrived in the meantime

        self._engine.run(task)
