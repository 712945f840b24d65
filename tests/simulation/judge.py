# SPDX-License-Identifier: Apache-2.0
"""What is looked at while a history is played: every commit, every answer, and every now and then everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.simulation import bounds, states
from tests.simulation.answers import Answers
from tests.simulation.cursors import Cursors
from tests.simulation.expiries import Expiries
from tests.simulation.machine import Machine
from tests.simulation.queues import Queue, Stored
from tests.simulation.session import Session
from tests.simulation.troubles import HINDERS_NOTES, Troubles
from tests.simulation.turns import Turns
from tests.simulation.watch import Violation, stored
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Commit

if TYPE_CHECKING:
    from tests.simulation.world import World

_AT_ONCE_SECONDS = 0.3
"""A call that a worker has so soon after it came has its deadline there when it has it here."""
_MOST_LETTERS = 1000
_LOOKS, _REST_SECONDS = 20, 0.02
"""So many looks take longer, however much there is to do."""


class Judge:
    """Every method raises Violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.troubles = Troubles(world.stage, self._is_well)
        self.answers = Answers(
            world.stage,
            self.troubles,
            lambda: world.store,
            self._is_parked,
            self._is_there,
            every=1 if world.database.shared else 8,
        )
        self._looks: deque[float] = deque(maxlen=_LOOKS)
        self._hanging: dict[tuple[str, str, str], tuple[Worker, float]] = {}
        self.expiries = Expiries(world.stage, world.broker)
        self.turns = Turns()
        self.cursors = Cursors(lambda: world.store, world.watch.notifications, world.broker.topics)
        world.broker.published = self.answers.published
        world.broker.acknowledged = self._acknowledged
        world.broker.given = self._given

    def _is_well(self) -> bool:
        world = self._world
        return not world.broker.blocked and world.broker.up and all(site.works() for site in world.sites)

    def _is_parked(self, unique_id: str) -> bool:
        name = unique_id.encode()
        if any(name in message.body for message in self._world.broker.parked):
            return True
        return any(name in row.body for _, row in self._world.store.dead_letters(_MOST_LETTERS))

    def _is_there(self, unique_id: str) -> bool:
        """Whether a worker has had the call since it came."""
        return any(
            one.message_id == unique_id and one.moved_at < one.came_at + _AT_ONCE_SECONDS for one in self._delivered()
        )

    def _given(self, queue: Queue, message: Stored, session: Session) -> None:
        self.answers.given(message)
        self.turns.given(queue, message, session)

    def _acknowledged(self, message: Stored) -> None:
        self.answers.acknowledged(message)
        self.turns.acknowledged(message)

    def _delivered(self) -> Iterator[Stored]:
        for session in self._world.broker.sessions:
            for _, one in session.unacknowledged():
                yield one

    def went_back(self) -> None:
        """The database is as it was before."""
        self.answers.went_back()
        self.expiries.went_back()
        self.cursors.went_back()
        self.turns.went_back()
        self._world.watch.went_back()

    def clock_stepped(self) -> None:
        """The clock of the database was stepped."""
        self.troubles.stepped = True
        self.expiries.stepped()

    def started(self) -> None:
        """A worker has started."""
        self.troubles.happened("start")
        self.expiries.started()

    def committed(self, machine: Machine, commit: Commit) -> None:
        """The store has taken a commit of a process on the machine."""
        self._world.watch.committed(commit)
        self.answers.committed(machine, commit)
        worker = next((site.worker for site in self._world.sites if site.machine is machine), None)
        self.expiries.committed(commit, worker)
        self.turns.committed(machine, commit)
        self.cursors.committed(commit)
        for found in bounds.too_large(commit):
            raise Violation(found)

    def look(self) -> None:
        """Look at everything. Called after a fixed number of steps."""
        world = self._world
        self._looks.append(world.stage.now)
        if len(self._looks) == _LOOKS and self._looks[-1] - self._looks[0] < _REST_SECONDS:
            raise Violation("somebody never rests: time hardly passes")
        # A new history lowers the cursors that are written between a set-back and its beginning.
        stored(world.database.ledgers(), [] if world.noticing else world.database.cursors_ahead())
        for site in world.sites:
            for found in bounds.exceeded(site.worker) if site.worker is not None else ():
                raise Violation(f"{site.name}: {found}")
        now = world.stage.now
        unnoted = list(states.unnoted(world, self._hanging))
        if unnoted and self.troubles.none_of(HINDERS_NOTES, now - states.HANGS_SECONDS):
            raise Violation(unnoted[0])
        if self.troubles.none(now):
            for found in states.wrong(world):
                raise Violation(f"although nothing is wrong, {found}")

    def unsettled(self) -> Iterator[str]:
        """What is not as it should be some time after the last fault."""
        world = self._world
        yield from states.wrong(world)
        if not self.troubles.stepped:
            yield from states.open_periods(world)
            yield from states.overdue(world.database.ledgers(), world.stage.microseconds(), world.hosts)
        for site in world.sites:
            if site.worker is not None and site.bus is not None and site.bus.is_whole():
                yield from (f"{site.name}: {found}" for found in bounds.left(site.worker, site.bus))
