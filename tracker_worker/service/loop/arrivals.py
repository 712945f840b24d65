# SPDX-License-Identifier: Apache-2.0
"""What has come for the engine and was not taken yet, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from tracker_worker.service.requests.items import Chore
from tracker_worker.service.requests.pending import PendingRequest

Task = Callable[[], None]
Arrival = Sequence[PendingRequest] | Chore | Task


class Arrivals:
    """Any thread may call ``submit``, ``run`` and ``run_once``; everything else belongs to the engine's thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake`` causes a pass of the engine soon."""
        self._wake = wake
        self._waiting: deque[Arrival] = deque()
        self._called_soon: set[Task] = set()  # of ``run_once``

    def submit(self, item: Sequence[PendingRequest] | Chore) -> None:
        """Decide ``item`` after every item that was submitted before it."""
        self._waiting.append(item)
        self._wake()

    def run(self, task: Task) -> None:
        """Call ``task`` between two batches. If the task raises StoreUnavailable or Conflict, a warning is logged; the caller
        that runs the task periodically runs it again."""
        self._waiting.append(task)
        self._wake()

    def run_once(self, task: Task) -> None:
        """The same, unless the task waits to be called already: while each call waits for a store that is away, they do not
        become more and more."""
        if task not in self._called_soon:
            self._called_soon.add(task)
            self.run(task)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def copy(self) -> list[Arrival]:
        """What waits. Any thread."""
        return list(self._waiting)

    def take(self) -> list[Arrival]:
        """What has arrived until now."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def put_off(self, tasks: Iterable[Task]) -> None:
        """These tasks, which were taken, wait behind what has come in the meantime."""
        self._waiting.extend(tasks)

    def called(self, task: Task) -> None:
        """The task begins: from now on, it may be asked for again."""
        self._called_soon.discard(task)
