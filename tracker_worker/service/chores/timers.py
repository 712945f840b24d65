# SPDX-License-Identifier: Apache-2.0
"""Periodic actions, on one thread that never touches a ledger: each action submits a command, runs a task, or sends a
message."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

from tracker_worker import threads


class Timer:
    """One periodic action, until ``cancel``."""

    def __init__(self, interval_seconds: float, action: Callable[[], None]) -> None:
        self.interval_seconds = interval_seconds
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """The action is not begun again; a call that is running ends."""
        self.cancelled = True


class Timers:
    """``every`` may be called from any thread, before and after the start. Actions must be short. An action that raises
    ends the process (``died``), because chores that stop unnoticed are worse than a restart."""

    def __init__(
        self, died: Callable[[BaseException], None], *, monotonic: Callable[[], float] = threads.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._thread = threads.StepThread("tracker-timers", self, died, monotonic=monotonic)

    def every(self, interval_seconds: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` each ``interval_seconds``, first after one interval."""
        timer = Timer(interval_seconds, action)
        self._push(timer)
        self._thread.wake()
        return timer

    def _push(self, timer: Timer) -> None:
        with self._lock:
            heapq.heappush(self._heap, (self._monotonic() + timer.interval_seconds, next(self._numbers), timer))

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> None:
        """Returns when no action is running, or after so many seconds. Harmless when not started or stopped."""
        self._thread.stop(timeout_seconds)

    def step(self, now: float) -> float | None:
        """Call one action that is due. Returns the seconds until the next one is due; None: there is none."""
        timer = self._due(now)
        if timer is not None:
            timer.action()
            if not timer.cancelled:
                self._push(timer)
        with self._lock:
            return max(0.0, self._heap[0][0] - self._monotonic()) if self._heap else None

    def _due(self, now: float) -> Timer | None:
        with self._lock:
            while self._heap and self._heap[0][2].cancelled:
                heapq.heappop(self._heap)
            if self._heap and self._heap[0][0] <= now:
                return heapq.heappop(self._heap)[2]
            return None
