# SPDX-License-Identifier: Apache-2.0
"""What is to be decided, in order, and when the next attempt at it is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.requests.items import Item

_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 2.0


class Backlog:
    """The items that are not finished. They are decided as one batch, or one by one once their batch could not be stored.

             add                 next, finish
    nothing -----> one batch --------------------> nothing
                       |  split               next, finish
                       +--------> one by one --------------> nothing
    """

    def __init__(self) -> None:
        self._batch: list[Item] = []
        self._singly: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._batch) + len(self._singly)

    def add(self, items: Iterable[Item]) -> None:
        self._batch.extend(items)

    def next(self) -> list[Item]:
        """The items of the next attempt; empty: there is nothing to do."""
        return [self._singly[0]] if self._singly else self._batch

    def finish(self) -> None:
        """What ``next`` returned is decided."""
        if self._singly:
            self._singly.popleft()
        else:
            self._batch = []

    def split(self) -> None:
        """Decide the items of the batch one by one."""
        self._singly.extend(self._batch)
        self._batch = []

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Drop the items that are not ``wanted``."""
        self._singly = deque([item for item in self._singly if wanted(item)])
        self._batch = [item for item in self._batch if wanted(item)]


class Retry:
    """When the next attempt is due, after failures in a row. Times in seconds on the monotonic clock."""

    def __init__(self, conflict_retries: int) -> None:
        """After so many conflicts in a row there is a pause."""
        self._conflict_retries = conflict_retries
        self.succeeded()

    def succeeded(self) -> None:
        self.conflicts = 0
        self.resume_at = 0.0
        self.attempt_seconds = 0.0
        self.away: StoreUnavailable | None = None
        self._delays = _delays()

    def conflict(self, now: float) -> None:
        """Another writer was first: try again immediately, but for a pause now and then."""
        self.conflicts += 1
        self.away = None
        if self.conflicts % self._conflict_retries == 0:
            self.pause(now)

    def store_away(self, error: StoreUnavailable, *, began: float, now: float) -> float:
        """The store is unavailable: pause. The next attempt may take as long as this one has. Returns the seconds."""
        self.away = error
        self.attempt_seconds = now - began
        return self.pause(now)

    def pause(self, now: float) -> float:
        """Try again after a moment, longer each time. Returns the seconds."""
        delay = next(self._delays)
        self.resume_at = now + delay
        return delay


def _delays() -> Iterator[float]:
    delay = _FIRST_DELAY_SECONDS
    while True:
        yield delay
        delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
