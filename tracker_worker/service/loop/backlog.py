# SPDX-License-Identifier: Apache-2.0
"""The items that are to be decided, in order, and the time of the next attempt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

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
        """Remove the items that ``next`` returned, because they are decided and committed."""
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
    """When the next attempt is due, after failed attempts in a row. Times are in seconds on the monotonic clock.

    ``in_doubt``: an attempt has begun, and its items have been neither committed nor dropped. A commit that failed may have
    reached the store without the worker's knowledge. ``unavailable``: the error of the last access, if the store was
    unavailable. ``attempt_seconds``: how long that access took."""

    def __init__(self, conflict_retries: int) -> None:
        """``conflict_retries``: after every such number of conflicts in a row there is a pause."""
        self._conflict_retries = conflict_retries
        self.reset()

    def reset(self) -> None:
        """Nothing is left to try."""
        self.in_doubt = False
        self.succeeded()

    def succeeded(self) -> None:
        """The attempt succeeded. Other items of its batch may still be in doubt."""
        self.conflicts = 0
        self.resume_at = 0.0
        self.attempt_seconds = 0.0
        self.unavailable: StoreUnavailable | None = None
        self._delay = _FIRST_DELAY_SECONDS

    def begin(self, now: float) -> None:
        """An attempt begins."""
        self._began = now
        self.in_doubt = True
        self.unavailable = None

    def conflict(self, now: float) -> None:
        """Another writer was first: try again immediately; after every ``conflict_retries`` conflicts in a row, pause first."""
        self.conflicts += 1
        if self.conflicts % self._conflict_retries == 0:
            self.pause(now)

    def store_unavailable(self, error: StoreUnavailable, now: float) -> float:
        """The store is unavailable: pause. Returns the seconds of the pause."""
        self.outage(error, now - self._began)
        return self.pause(now)

    def outage(self, error: StoreUnavailable, seconds: float) -> None:
        """An access to the store failed after ``seconds``; the next attempt may take as long."""
        self.unavailable = error
        self.attempt_seconds = seconds

    def pause(self, now: float) -> float:
        """Try again after a pause, which is longer each time. Returns the seconds."""
        delay = self._delay
        self._delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        self.resume_at = now + delay
        return delay
