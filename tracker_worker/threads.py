# SPDX-License-Identifier: Apache-2.0
"""The clock and the threads of a real process. What decides gets these as arguments, so that it can be run step by step."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
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


# The kernel keeps 15 bytes of a thread's name (prctl(2), PR_SET_NAME).
_SYSTEM_NAME_BYTES = 15
# A thread without work makes a pass this often, so that a watchdog can tell it from one that hangs.
_IDLE_SECONDS = 1.0


def now_microseconds() -> int:
    """The time of day, in whole microseconds."""
    return time.time_ns() // 1000


def system_name(name: str) -> str:
    """The thread's name as the system keeps it: shortened, but for the number at its end."""
    head, dash, number = name.rpartition("-")
    if not number.isdigit():
        return name[:_SYSTEM_NAME_BYTES]
    return head[: _SYSTEM_NAME_BYTES - len(dash + number)] + dash + number


def frame_of(thread_id: int) -> FrameType | None:
    """The innermost frame of the thread; None: there is no such thread."""
    return sys._current_frames().get(thread_id)


class NamedThread(threading.Thread):
    """A daemon thread whose name the system knows too, for ``ps -L`` and ``top -H``: Python 3.11 keeps it to itself."""

    def __init__(self, *, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)

    def run(self) -> None:
        # Nothing depends on the name, and a system without /proc has other means to show threads.
        with (
            contextlib.suppress(OSError),
            open(f"/proc/self/task/{self.native_id}/comm", "w", encoding="utf-8") as comm,
        ):
            comm.write(system_name(self.name))
        super().run()


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
        self._thread = NamedThread(target=self._run, name=name)
        # The number of steps that have begun. Without work it rises once a second.
        self.turns = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Let the step in hand end, for at most so long (None: however long it takes). Returns whether the thread has ended.
        Harmless when stopped, not started, or called on the thread itself."""
        self._stopping = True
        self._wakeups.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(None if timeout_seconds is None else max(0.0, timeout_seconds))
        return not self._thread.is_alive()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        """The thread's number in this process; None: it was not started."""
        return self._thread.ident

    def _run(self) -> None:
        wakeups = self._wakeups
        try:
            while not self._stopping:
                self.turns += 1
                wait = self._part.step(self._monotonic())
                try:
                    wakeups.get(timeout=_IDLE_SECONDS if wait is None else min(wait, _IDLE_SECONDS))
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
            NamedThread(target=self._run, name=name).start()
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
