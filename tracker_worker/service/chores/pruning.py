# SPDX-License-Identifier: Apache-2.0
"""Dropping old rows of inbox and outbox, a limited number at a time, so that no request waits for it."""

from __future__ import annotations

from collections.abc import Callable

from tracker_worker.domain.values import SECOND
from tracker_worker.service.chores.leases import Leases
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

_ROWS = 1000


class Pruning:
    """Belongs to the engine's thread. Prunes the hosts whose leases this worker holds: copies of a message about another
    host may still wait for that host's worker."""

    def __init__(self, *, store: Store, ledgers: Ledgers, leases: Leases, clock: Callable[[], int]) -> None:
        self._store = store
        self._ledgers = ledgers
        self._leases = leases
        self._clock = clock

    def begin(self, *, inbox_seconds: int, outbox_seconds: int) -> Callable[[], bool]:
        """One round. Each call of the returned function drops some rows that are older than this, and returns whether more are
        left. It raises StoreUnavailable."""
        left: list[str] | None = None

        def step() -> bool:
            nonlocal left
            if left is None:
                left = sorted(self._leases.held, reverse=True)
            if not left:
                return False
            now = self._clock()
            dropped = self._store.prune(
                self._ledgers.get(left[-1]).id,
                answered_before=now - inbox_seconds * SECOND,
                occurred_before=now - outbox_seconds * SECOND,
                limit=_ROWS,
            )
            if dropped < _ROWS:
                left.pop()
            return bool(left)

        return step
