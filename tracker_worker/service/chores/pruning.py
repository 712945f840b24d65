# SPDX-License-Identifier: Apache-2.0
"""Dropping old rows of inbox and outbox, and remembered deletions, a limited number at a time, so that no request waits for
it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from tracker_worker.domain import commands, usage
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.clock import Clock
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

LOG = logging.getLogger(__name__)

_ROWS = 1000
_HOUR = 3600 * SECOND


class Pruning:
    """Belongs to the engine's thread. Prunes the hosts whose leases this worker holds, and of those that nobody serves and that
    it cares for not the inbox: copies of a message about such a host may still wait for its worker."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        leases: Leases,
        cared_for: Callable[[], Collection[str]],
        clock: Clock,
        policy: Callable[[], Policy],
        submit: Callable[[Chore], None],
    ) -> None:
        """``submit`` has a chore decided."""
        self._store = store
        self._ledgers = ledgers
        self._leases = leases
        self._cared_for = cared_for
        self._clock = clock
        self._policy = policy
        self._submit = submit
        self._warned: set[str] = set()

    def begin(self, *, inbox_seconds: int, outbox_seconds: int, keeps_inbox: bool = False) -> Callable[[], bool]:
        """One round. Each call of the returned function drops some rows that are older than this, and returns whether more are
        left. It raises StoreUnavailable. ``keeps_inbox``: no row of the inbox is dropped. For ``inbox_seconds`` after a step of
        the clock forward, no row is."""
        left: list[str] | None = None

        def step() -> bool:
            nonlocal left
            self._clock.sync()
            jumped = self._clock.jumped_within(inbox_seconds)
            if left is None:
                left = sorted({*self._leases.held, *self._cared_for()}, reverse=True)
                for name in left:
                    host = self._ledgers.find(name)
                    if host is not None:
                        self._forget(host, outbox_seconds, jumped=jumped)
            if not left or jumped:
                return False
            now = self._clock()
            host = self._ledgers.find(left[-1])
            if host is None:
                left.pop()
                return bool(left)
            dropped = self._store.prune(
                host.id,
                answered_before=(
                    0 if keeps_inbox or host.name not in self._leases.held else now - inbox_seconds * SECOND
                ),
                occurred_before=now - outbox_seconds * SECOND,
                limit=_ROWS,
            )
            if dropped < _ROWS:
                left.pop()
            return bool(left)

        return step

    def _forget(self, host: HostLedger, outbox_seconds: int, *, jumped: bool) -> None:
        if host.name in self._leases.held:
            self._forget_deletions(host, jumped=jumped)
        if not jumped:
            self._forget_moves(host)
            self._forget_usage(host, outbox_seconds)

    def _forget_moves(self, host: HostLedger) -> None:
        """Have those moves forgotten that were remembered for long enough."""
        before = self._clock() - self._policy().move_memory
        if any(move.begun_at < before and not move.open for ledger in host for move in ledger.moves.values()):
            self._submit(Chore(host=host.name, commands=[commands.ForgetMoves(begun_before=before)]))

    def _forget_usage(self, host: HostLedger, outbox_seconds: int) -> None:
        """Have the usage forgotten that is told, older than the outbox keeps, and so old that no move that is known can change
        it; not more often than once in an hour, as it costs a commit."""
        before = self._clock() - max(outbox_seconds * SECOND, self._policy().move_memory + _HOUR)
        old = [
            commands.ForgetUsage(node=ledger.name, node_id=ledger.id, ended_before=before)
            for ledger in host
            if ledger.periods.first and min(before, ledger.periods.until) >= ledger.periods.kept_from + _HOUR
        ]
        if old:
            self._submit(Chore(host=host.name, commands=old))

    def _forget_deletions(self, host: HostLedger, *, jumped: bool) -> None:
        """Have those deletions forgotten that were remembered for long enough, or are the oldest of too many. There are
        too many only where a node has come from another host: each deletion that is remembered makes room for itself."""
        memory = self._policy().deletion_memory
        before = 0 if jumped or self._clock.unsure_within(memory / SECOND) else self._clock() - memory
        times = [at for ledger in host for at in ledger.deletions.values()]
        old = sum(at < before for at in times)
        gone = max(old, len(times) - usage.MOST_DELETIONS)
        if len(times) - old >= usage.MOST_DELETIONS and host.name not in self._warned:
            self._warned.add(host.name)
            LOG.warning(
                "host %s: %d deletions of instances that were not charged are remembered, as many as are kept; for each "
                "further one the oldest is forgotten",
                host.name,
                usage.MOST_DELETIONS,
            )
        if gone <= 0:
            return
        # Of many, the oldest ones first; the others have their turn when these are forgotten.
        before, most = (before, usage.MOST_DELETIONS) if gone <= _ROWS else (0, len(times) - _ROWS)
        self._submit(
            Chore(
                host=host.name,
                commands=[commands.ForgetDeletions(reported_before=before, most=most)],
                done=lambda ledgers: self._forget_deletions(ledgers, jumped=jumped),
            )
        )
