# SPDX-License-Identifier: Apache-2.0
"""Hosts that come back after their instances were evacuated.

An evacuated host is down, and nobody can tell it that its instances are elsewhere. Where both hosts are in one ledger, the
destination has recorded it: the worker that does the chores of the host that was left reads that, and releases the instances.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tracker_worker.domain import commands
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.move import EVACUATION, FINISH, FINISHED, Move
from tracker_worker.domain.policy import Policy
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

_MOST = 10_000
"""The most moves that one look reads. Those that are released are forgotten after some time, and the others are left then."""


class Evacuations:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        held: Callable[[], Collection[str]],
        policy: Callable[[], Policy],
        submit: Callable[[Chore], None],
    ) -> None:
        """``held`` returns the hosts whose chores this worker does."""
        self._store = store
        self._ledgers = ledgers
        self._held = held
        self._policy = policy
        self._submit = submit

    def look(self) -> None:
        """Have released what was evacuated from the held hosts. Raises StoreUnavailable."""
        held = self._held()
        left: dict[str, list[commands.StepMove]] = {}
        for _, move in self._store.moves(kind=EVACUATION, state=FINISHED, limit=_MOST):
            source = move.from_host
            if source is not None and source in held and _is_news(self._ledgers.get(source), move):
                left.setdefault(source, []).append(
                    commands.StepMove(
                        id=move.id,
                        step=FINISH,
                        effective_at=move.finished_at,
                        told=move,
                        remembers=self._policy().move_memory,
                    )
                )
        for host, steps in sorted(left.items()):
            self._submit(Chore(host=host, commands=steps))


def _is_news(host: HostLedger, move: Move) -> bool:
    """Whether the host was not told of the move. One that has no node any more has nothing to release."""
    return move.arrives and not move.leaves and bool(host.nodes) and host.move(move.id) is None
