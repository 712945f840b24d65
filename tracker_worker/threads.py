# SPDX-License-Identifier: Apache-2.0
"""The clock and the threads of a real process. What decides gets these as arguments, so that it can be run step by step."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol
from uuid import uuid4

LOG = logging.getLogger(__name__)

monotonic: Callable[[], float] = time.monotonic
"""Seconds that no step of the time of day changes."""
wall_clock: Callable[[], float] = time.time
"""The time of day, in seconds since 1970-01-01T00:00:00Z."""
sleep = time.sleep
random_bytes = os.urandom
new_uuid = uuid4
Event = threading.Event
Condition = threading.Condition
SimpleQueue = queue.SimpleQueue
Empty = queue.Empty


def now_microseconds() -> int:
    """The time of day, in whole microseconds."""
    return time.time_ns() // 1000


class Stepped(Protocol):
    """A part of the program that works in steps and never waits inside one."""

    def step(self, now: float) -> float | None:
        """Do what is due at ``now`` (seconds on the monotonic clock). Return after how many seconds the next step is due at the
        latest, or None: when somebody wakes the thread."""


class StepThread:
    """Runs a stepped part on a daemon thread of its own, from ``start`` to ``stop``.

    A step that raises ends the thread and is reported to ``died``: a part that stopped unnoticed is worse than a restart.
    """

    def __init__(
        self,
        name: str,
        part: Stepped,
        died: Callable[[BaseException], None],
        *,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._part = part
        self._died = died
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Have the next step done soon. Any thread may call this; it costs no Python function.
        self.wake: Callable[[], None] = partial(self._wakeups.put, None)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the step in hand end, and return then. Harmless when stopped, not started, or called on the thread itself."""
        self._stopping = True
        self._wakeups.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        wakeups = self._wakeups
        try:
            while not self._stopping:
                wait = self._part.step(self._monotonic())
                try:
                    wakeups.get(timeout=wait)
                    while not wakeups.empty():  # the next step sees everything that was handed over before it
                        wakeups.get_nowait()
                except queue.Empty:
                    continue
        except BaseException as error:
            LOG.exception("the thread %s ends", self._thread.name)
            self._died(error)


class DaemonPool:
    """Runs functions on a fixed number of daemon threads, first come, first served. A function that hangs holds its thread."""

    def __init__(self, name: str, threads: int) -> None:
        self._functions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._names = [f"{name}-{number}" for number in range(threads)]
        self._started = 0

    def start(self) -> None:
        for name in self._names:
            threading.Thread(target=self._run, name=name, daemon=True).start()
            self._started += 1

    def submit(self, function: Callable[[], None]) -> None:
        """Run ``function``, which must not raise, on one of the threads. Any thread may call this."""
        self._functions.put(function)

    def stop(self) -> None:
        """Begin no further function. A thread whose function hangs is left to end with the process."""
        while self._started:
            self._functions.put(None)
            self._started -= 1

    def _run(self) -> None:
        while (function := self._functions.get()) is not None:
            function()
