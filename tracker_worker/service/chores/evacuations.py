# SPDX-License-Identifier: Apache-2.0
"""Hosts that come back after their instances were evacuated.

An evacuated host is down, and nobody can tell it that its instances are elsewhere. Where both hosts are in one ledger, the
destination has recorded it: the worker that does the chores of the host that was left reads that, and releases the instances.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from tracker_worker.domain import commands
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import EVACUATION, FINISH, Move
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

_PAGE = 1000
"""The moves that one read brings."""
_AT_ONCE = 200
"""The releases of a host in one commit. The next look finds those that are left."""
_SPARE = 60 * SECOND
"""A step that is submitted while the move is remembered may be decided so much later."""


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
        clock: Callable[[], int],
    ) -> None:
        """``held`` returns the hosts whose chores this worker does; ``clock`` gives microseconds."""
        self._store = store
        self._ledgers = ledgers
        self._held = held
        self._policy = policy
        self._submit = submit
        self._clock = clock

    def look(self) -> None:
        """Have released what was evacuated from the held hosts, as long as the moves are remembered. Raises
        StoreUnavailable."""
        held = self._held()
        remembers = self._policy().move_memory
        oldest = self._clock() - remembers
        left: dict[str, list[commands.StepMove]] = {}
        for move in self._untold():
            source = move.from_host
            if source is None or source not in held or move.begun_at < oldest:
                continue
            steps = left.setdefault(source, [])
            if len(steps) < _AT_ONCE and _is_news(self._ledgers.get(source), move):
                steps.append(_released(move, remembers))
        for host, steps in sorted(left.items()):
            if steps:
                self._submit(Chore(host=host, commands=steps))

    def _untold(self) -> Iterator[Move]:
        after = ""
        while page := self._store.untold_moves(kind=EVACUATION, after=after, limit=_PAGE):
            yield from (move for move in page if move.handed_over)
            after = page[-1].id


def _released(move: Move, remembers: int) -> commands.StepMove:
    return commands.StepMove(
        id=move.id, step=FINISH, effective_at=move.finished_at, told=move, remembers=remembers + _SPARE
    )


def _is_news(host: HostLedger, move: Move) -> bool:
    """Whether the host was not told of the move. One that has no node any more has nothing to release."""
    return move.arrives and not move.leaves and bool(host.nodes) and host.move(move.id) is None
