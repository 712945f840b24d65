# SPDX-License-Identifier: Apache-2.0
"""Things to do later or again and again, on one thread that never touches a ledger: each submits a command or a message."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

LOG = logging.getLogger(__name__)


class Timer:
    """A handle to stop it."""

    def __init__(self, interval_seconds: float, action: Callable[[], None]) -> None:
        self.interval_seconds = interval_seconds
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """It is not begun again; one that is just running ends."""
        self.cancelled = True


class Timers:
    """``every`` may be called from any thread, before and after the start. Actions must be short; one that raises ends the
    process (``died``), because chores that stop unnoticed are worse than a restart."""

    def __init__(self, died: Callable[[BaseException], None]) -> None:
        self._died = died
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def every(self, interval_seconds: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` each ``interval_seconds``, first after one interval."""
        timer = Timer(interval_seconds, action)
        with self._condition:
            self._push_locked(timer)
        return timer

    def _push_locked(self, timer: Timer) -> None:
        heapq.heappush(self._heap, (time.monotonic() + timer.interval_seconds, next(self._numbers), timer))
        self._condition.notify()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tracker-timers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no action runs any more. Harmless when not started or stopped."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while (timer := self._next()) is not None:
                timer.action()
                with self._condition:
                    if not timer.cancelled:
                        self._push_locked(timer)
        except BaseException as error:  # the thread's root
            LOG.exception("the timers' thread ends")
            self._died(error)

    def _next(self) -> Timer | None:
        with self._condition:
            while not self._stopping:
                while self._heap and self._heap[0][2].cancelled:
                    heapq.heappop(self._heap)
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._heap)[2]
                self._condition.wait(wait)
            return None
