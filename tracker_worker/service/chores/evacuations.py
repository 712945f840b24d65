# SPDX-License-Identifier: Apache-2.0
"""Hosts that come back after their instances were evacuated.

An evacuated host is down, and nobody can tell it that its instances are elsewhere. Where both hosts are in one ledger, the
destination has recorded it: the worker that does the chores of the host that was left reads that, and releases the instances.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from tracker_worker.domain import commands
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.move import CONFIRMED, EVACUATION, FINISH, FINISHED, Move
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

_MOST = 10_000
"""The most moves in each state that one look reads. Those that are released are forgotten after some time, and the others are
left then."""
_STATES = (FINISHED, CONFIRMED)
"""Of a move that was handed over. A deletion of the instance at the destination confirms the move there."""
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
        memory = self._policy().move_memory
        oldest = self._clock() - memory
        left: dict[str, list[commands.StepMove]] = {}
        for move in self._handed_over():
            source = move.from_host
            if source is None or source not in held or move.begun_at < oldest:
                continue
            if _is_news(self._ledgers.get(source), move):
                left.setdefault(source, []).append(
                    commands.StepMove(
                        id=move.id, step=FINISH, effective_at=move.finished_at, told=move, remembers=memory + _SPARE
                    )
                )
        for host, steps in sorted(left.items()):
            self._submit(Chore(host=host, commands=steps))

    def _handed_over(self) -> Iterator[Move]:
        for state in _STATES:
            yield from (move for _, move in self._store.moves(kind=EVACUATION, state=state, limit=_MOST))


def _is_news(host: HostLedger, move: Move) -> bool:
    """Whether the host was not told of the move. One that has no node any more has nothing to release."""
    return move.arrives and not move.leaves and bool(host.nodes) and host.move(move.id) is None
