# SPDX-License-Identifier: Apache-2.0
"""Virtual time, and the order in which everything happens.

An action is due at a virtual time. Of those that are due at the same time, the seed draws which comes first. A virtual thread
is a greenlet: it runs until it waits, and only the stage lets it go on. Nothing here reads a real clock or real randomness, so
that one seed always gives one history.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable
from random import Random
from typing import Any

import greenlet

START_MICROSECONDS = 1_800_000_000_000_000
"""The time of day at virtual time 0."""
_MANY_THREADS = 256


class Due:
    """An action that happens at a time, unless it is cancelled."""

    __slots__ = ("action", "cancelled")

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.cancelled = False


class Stage:
    """``now`` is in seconds from the beginning. Actions must not wait; what waits runs as a ``thread``."""

    def __init__(self, seed: object) -> None:
        self.random = Random(f"{seed}")
        self.now = 0.0
        self.ahead = 0.0
        """By how many seconds the time of day is wrong."""
        self.steps = 0
        self.left: list[Callable[[], object]] = []
        """What never happens, because its machine has crashed."""
        self._over = False
        self._threads: list[greenlet.greenlet] = []
        self._look_above = _MANY_THREADS
        self._due: list[tuple[float, float, int, Due]] = []
        self._number = 0
        self._hub = greenlet.getcurrent()

    def microseconds(self) -> int:
        """The time of day of the database."""
        return START_MICROSECONDS + round((self.now + self.ahead) * 1_000_000)

    def later(self, seconds: float, action: Callable[[], object]) -> Due:
        """Have ``action`` happen after so many seconds."""
        due = Due(action)
        self._put(self.now + seconds, self.random.random(), due)
        return due

    def put_off(self, due: Due, until: float) -> None:
        """Have an action that would happen now happen at ``until``. What is put off stays in order."""
        self._put(until, 0.0, due)

    def _put(self, at: float, tie: float, due: Due) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, tie, self._number, due))

    def run(self, until: float, after: Callable[[], object] = lambda: None) -> None:
        """Let time pass until ``until``; ``after`` is called after every action."""
        due = self._due
        while due and due[0][0] <= until:
            at, _, _, one = heapq.heappop(due)
            if one.cancelled:
                continue
            if at > self.now:
                self.now = at
            self.steps += 1
            one.action()
            after()
        self.now = max(self.now, until)

    def thread(self, target: Callable[[], object]) -> greenlet.greenlet:
        """A virtual thread that has not begun. Let it run with ``go_on``."""
        threads = self._threads
        if len(threads) > self._look_above:
            threads[:] = [thread for thread in threads if not thread.dead]
            self._look_above = max(_MANY_THREADS, 2 * len(threads))
        threads.append(thread := greenlet.greenlet(target, self._hub))
        return thread

    def current(self) -> greenlet.greenlet:
        """The virtual thread that runs now."""
        return greenlet.getcurrent()

    def wait(self) -> Any:
        """Wait on the calling virtual thread, until somebody calls ``go_on`` with it."""
        if self._over:
            raise greenlet.GreenletExit
        return self._hub.switch()

    def close(self) -> None:
        """Nothing happens any more. What has not ended is thrown away, and waits for nothing in its clean-up: nobody else would
        ever release its memory, because its stack refers to itself."""
        self._over = True
        for thread in self._threads:
            with contextlib.suppress(Exception):
                thread.throw()
        for kept in (self._due, self._threads, self.left):
            kept.clear()

    def go_on(self, thread: greenlet.greenlet, value: Any = None) -> None:
        """Let a virtual thread run until it waits or ends. Only as an action of the stage."""
        if thread:
            thread.switch(value)
        elif not thread.dead:
            thread.switch()
