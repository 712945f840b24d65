# SPDX-License-Identifier: Apache-2.0
"""A fair mutex."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A mutex whose waiters are served in the order of arrival. ``threading.Lock`` makes no such promise."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()  # released by the thread that leaves, which hands the mutex over
        except BaseException:
            # A signal handler raised: give up the place in the queue, or the mutex if it has been handed over already.
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._pass_on_locked()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._pass_on_locked()

    def _pass_on_locked(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._held = False
