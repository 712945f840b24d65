# SPDX-License-Identifier: Apache-2.0
"""What a tracker shows of its node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracker_worker import threads
from tracker_worker.domain import views
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.stats import Stats
from tracker_worker.domain.values import SECOND
from tracker_worker.library.claim import Claim, copied
from tracker_worker.library.decisions import Decisions
from tracker_worker.library.fairlock import FairLock
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore


class TrackedNode:
    """The ledger of one node, and what may be read of it. Any thread may read."""

    def __init__(
        self, host: str, *, node: str | None, store: Store | None, topic: str, clock: Callable[[], float] | None
    ) -> None:
        self.host = host
        self._node = node
        self._clock = clock or threads.wall_clock
        self._lock = FairLock()
        self._audited = False
        self._ignored_updates = 0
        kept = MemoryStore() if store is None else store
        kept.register_host(host, topic=topic, version="library", now=self._now())
        self._store = kept
        self._decisions = Decisions(kept, host, now=self._now, notify=store is not None)

    @property
    def disabled(self) -> bool:
        """Whether claims are not tracked: until the first successful audit, and after an audit whose driver reports nothing."""
        with self._lock:
            return self._ledger_locked() is None

    @property
    def compute_node(self) -> dict[str, Any] | None:
        """A copy of the node view; None while the tracker is disabled."""
        with self._lock:
            ledger = self._ledger_locked()
            return None if ledger is None else views.node_view(ledger)

    @property
    def claims(self) -> dict[str, Claim]:
        """The claims that are begun and not ended, by instance uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            return (
                {}
                if ledger is None
                else {uuid: Claim.of(ledger.allocations[uuid], self._clock) for uuid in ledger.begun}
            )

    @property
    def tracked_instances(self) -> dict[str, Instance]:
        """Copies of the instances that are charged to the node, by uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            return {} if ledger is None else {uuid: copied(held.instance) for uuid, held in ledger.allocations.items()}

    @property
    def stats(self) -> Stats:
        """A copy of the node's counters."""
        with self._lock:
            counted = Stats()
            ledger = self._ledger_locked()
            for held in [] if ledger is None else ledger.allocations.values():
                counted.add(held.instance)
            return counted

    @property
    def ignored_updates(self) -> int:
        """The number of updates for instances that are not tracked."""
        with self._lock:
            return self._ignored_updates

    def _ledger_locked(self) -> NodeLedger | None:
        """The node's ledger; None while the tracker is disabled."""
        if not self._audited or self._node is None:
            return None
        ledger = self._decisions.ledger(self._node)
        return None if ledger is None or ledger.disabled else ledger

    def _now(self) -> int:
        return round(self._clock() * SECOND)
