# SPDX-License-Identifier: Apache-2.0
"""The worker's chore that closes periods, without its loop: each of its steps is decided at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.commands import Command
from tracker_worker.domain.decision import Decision
from tracker_worker.service.chores.periods import PeriodChores
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers


class Closer:
    """Closes what is over of some hosts of a store, whenever it is called."""

    def __init__(
        self,
        store: Store,
        ledgers: Ledgers,
        hosts: Collection[str],
        *,
        calendar: Calendar,
        clock: Callable[[], int],
        do: Callable[[str, Command], Decision],
    ) -> None:
        self._do = do
        self._ledgers = ledgers
        self._chores: deque[Chore] = deque()
        self._tasks: deque[Callable[[], None]] = deque()
        self._periods = PeriodChores(
            store=store,
            ledgers=ledgers,
            calendar=calendar,
            hosts=lambda: hosts,
            submit=self._chores.append,
            soon=self._tasks.append,
            clock=clock,
        )

    def close(self, most: int = 10**9) -> None:
        """Take at most so many steps."""
        self._tasks.append(self._periods.look)
        while (self._tasks or self._chores) and most > 0:
            if self._chores:
                chore = self._chores.popleft()
                for command in chore.commands:
                    most -= 1
                    decision = self._do(chore.host, command)
                    assert decision.error is None
                assert chore.done is not None
                chore.done(self._ledgers.get(chore.host))
            else:
                self._tasks.popleft()()
