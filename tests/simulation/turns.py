# SPDX-License-Identifier: Apache-2.0
"""A worker decides the commands that a queue gives it in the order in which it was given them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from tests.simulation.machine import Machine
from tests.simulation.queues import Queue, Stored
from tests.simulation.session import Session
from tests.simulation.watch import Violation
from tracker_worker.store.base import Commit


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    session: Session
    queue: str
    number: int | None


class Turns:
    """Counts what is given out. Which copy of a message was decided that a worker has more than once is not known."""

    def __init__(self) -> None:
        self._turns: dict[str, dict[Machine, _Turn]] = defaultdict(dict)
        self._last: dict[tuple[Session, str], int] = {}
        self._count = 0

    def went_back(self) -> None:
        """The database is as it was before: what is not acknowledged is decided once more, each copy where it stands."""
        for turns in self._turns.values():
            for machine, turn in turns.items():
                turns[machine] = replace(turn, number=None)

    def given(self, queue: Queue, message: Stored, session: Session) -> None:
        """A queue has given a message to a worker."""
        if not message.message_id or not queue.single:
            return  # the queue of all hosts together has no order
        turns, machine = self._turns[message.message_id], session.client
        before = turns.get(machine)
        self._count += 1
        is_copy = before is not None and before.session is session
        turns[machine] = _Turn(session, queue.name, None if is_copy else self._count)

    def acknowledged(self, message: Stored) -> None:
        """The broker forgets a message."""
        self._turns.pop(message.message_id, None)

    def committed(self, machine: Machine, commit: Commit) -> None:
        """The store has taken a commit of a worker. Raises Violation. What changes no node has no turn."""
        if not commit.ledgers:
            return
        for row in commit.inbox_rows:
            turn = self._turns.get(row.unique_id, {}).get(machine)
            if turn is None or turn.number is None:
                continue
            last = self._last.get((turn.session, turn.queue), 0)
            if turn.number < last:
                raise Violation(
                    f"message {row.unique_id} of {turn.queue} was decided after another one that came behind it"
                )
            self._last[turn.session, turn.queue] = turn.number

    def in_doubt(self, machine: Machine) -> None:
        """A worker does not learn that its last commit has happened. A cast that it would have parked after it is not in it,
        and is decided once more, behind what was."""
        for turns in self._turns.values():
            turn = turns.get(machine)
            if turn is None or turn.number is None:
                continue
            if turn.number < self._last.get((turn.session, turn.queue), 0):
                turns[machine] = replace(turn, number=None)
