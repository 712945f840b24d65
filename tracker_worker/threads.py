# SPDX-License-Identifier: Apache-2.0
"""The clock and the threads of a real process. What decides gets these as arguments, so that it can be run step by step."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
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
Lock = threading.Lock
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


def name_of(thread_id: int) -> str:
    """The name of a thread of this process; empty: there is no such thread."""
    return next((thread.name for thread in threading.enumerate() if thread.ident == thread_id), "")


def frames() -> list[tuple[str, FrameType | None]]:
    """The name of each thread of this process, and its innermost frame; None: it has just ended."""
    found = sys._current_frames()
    return [(thread.name, found.get(thread.ident or 0)) for thread in threading.enumerate()]


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


class Thread(Protocol):
    """A thread that runs one function. It is started once."""

    def start(self) -> None: ...

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


def start_thread(target: Callable[[], object], name: str) -> None:
    """Run ``target`` on a daemon thread of its own."""
    NamedThread(target=target, name=name).start()


class Stepped(Protocol):
    """A part of the program that works in steps and never waits inside one."""

    def step(self, now: float) -> float | None:
        """Do what is due at ``now`` (seconds on the monotonic clock). Return after how many seconds the next step is due at the
        latest, or None: when somebody wakes the thread."""


def soonest(*waits: float | None) -> float | None:
    """The shortest of some waits; None is a wait without an end."""
    return min((wait for wait in waits if wait is not None), default=None)


class StepThread:
    """Runs a stepped part on a daemon thread of its own, from ``start`` to ``stop``. While that thread sleeps, another one may
    make a step in its place (``instead``).

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
        # Held while nobody has called ``wake``. Not a SimpleQueue: CPython 3.11 waits for ever in its ``get`` if a signal comes
        # to the thread when the timeout is over already, as after SIGSTOP and SIGCONT.
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._stopping = False
        self._thread = NamedThread(target=self._run, name=name)
        # Held by the thread that makes a step. Under it, who that is, and when the thread of the part goes on by itself.
        self._turn = threading.Lock()
        self._in_place: int | None = None
        self._wakes_at = 0.0
        # The number of steps that have begun. Without work it rises once a second.
        self.turns = 0

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have the next step done soon. Any thread may call this."""
        if self._asleep.locked():
            with contextlib.suppress(RuntimeError):  # another thread has done so in between
                self._asleep.release()

    def instead(self, step: Callable[[], float | None]) -> bool:
        """Make a step of the part on this thread, if the part's own thread sleeps. ``step`` does and returns what the part's
        ``step`` would. Any thread may call this; it waits for nothing but the step. Returns whether ``step`` was called."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if self._stopping or not self._wakes_at:
                return False
            self.turns += 1
            self._in_place = threading.get_ident()
            wait = step()
            if wait is not None and self._monotonic() + wait < self._wakes_at:
                self.wake()
        except BaseException as error:
            LOG.exception("the thread %s ends", self._thread.name)
            self._end(error)
        finally:
            self._in_place = None
            self._turn.release()
        return True

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Let the step in hand end, for at most so long (None: however long it takes). Returns whether the thread has ended.
        Harmless when stopped, not started, or called on the thread itself."""
        until = None if timeout_seconds is None else self._monotonic() + timeout_seconds
        self._stopping = True
        self.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(None if timeout_seconds is None else max(0.0, timeout_seconds))
        if self._thread.is_alive() or self._in_place == threading.get_ident():
            return not self._thread.is_alive()
        # No step in its place begins any more; one may not have ended.
        if not self._turn.acquire(timeout=-1 if until is None else max(0.0, until - self._monotonic())):
            return False
        self._turn.release()
        return True

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        """The number in this process of the thread that makes a step, or makes the next one; None: it was not started."""
        return self._in_place or self._thread.ident

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self._turn:
                    self.turns += 1
                    wait = self._part.step(self._monotonic())
                    pause = _IDLE_SECONDS if wait is None else max(0.0, min(wait, _IDLE_SECONDS))
                    self._wakes_at = self._monotonic() + pause
                # The next step sees everything that was handed over before it.
                self._asleep.acquire(timeout=pause)
        except BaseException as error:
            LOG.exception("the thread %s ends", self._thread.name)
            self._end(error)

    def _end(self, error: BaseException) -> None:
        self._stopping = True
        self.wake()
        self._died(error)


class Pool(Protocol):
    """Threads that run functions. One that hangs must not keep others from being run for ever."""

    def start(self) -> None: ...

    def submit(self, function: Callable[[], None]) -> None: ...

    def stop(self) -> None: ...


class DaemonPool:
    """Runs functions on daemon threads, first come, first served.

    ``size`` functions run at a time, and those that hang do not count: a function that has run for ``patience_seconds`` leaves
    its place to another one, on a thread that is made for it. The caller bounds the number of threads by the number of
    functions that can hang. Threads are made when they are needed; ``size`` of them stay.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        patience_seconds: float,
        monotonic: Callable[[], float] = monotonic,
        condition: Callable[[], Condition] = Condition,
        start_thread: Callable[[Callable[[], None], str], None] = start_thread,
    ) -> None:
        """``start_thread`` gets what a thread is to run, and its name."""
        self._name = name
        self._size = size
        self._patience = patience_seconds
        self._monotonic = monotonic
        self._start_thread = start_thread
        self._changed = condition()
        self._functions: deque[Callable[[], None]] = deque()
        self._running: dict[object, float] = {}  # when each function began; the longest first
        self._idle = 0
        self._made = 0
        self._open = False

    def start(self) -> None:
        with self._changed:
            self._open = True
            self._watch_locked()

    def submit(self, function: Callable[[], None]) -> None:
        """Run ``function``, which must not raise, on one of the threads. Any thread may call this."""
        with self._changed:
            self._functions.append(function)
            self._watch_locked()

    def stop(self) -> None:
        """Begin no further function. A thread whose function hangs is left to end with the process."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _watch_locked(self) -> None:
        """While functions wait, one thread is idle and watches for a place."""
        if not self._open or not self._functions:
            return
        if self._idle:
            self._changed.notify()
            return
        self._idle += 1
        self._made += 1
        self._start_thread(self._run, f"{self._name}-{self._made}")

    def _run(self) -> None:
        """The life of a thread, which is counted as idle when it begins."""
        while True:
            with self._changed:
                while self._open and (wait := self._wait_locked()) != 0:
                    self._changed.wait(wait)
                self._idle -= 1
                if not self._open:
                    return
                function = self._functions.popleft()
                running = object()
                self._running[running] = self._monotonic()
                self._watch_locked()
            function()
            with self._changed:
                del self._running[running]
                if self._idle >= self._size or not self._open:
                    self._watch_locked()
                    return
                self._idle += 1

    def _wait_locked(self) -> float | None:
        """After how many seconds the next function may begin, as far as is known now; None: there is none."""
        if not self._functions:
            return None
        places = self._size
        now = self._monotonic()
        soonest = 0.0
        for began in self._running.values():
            left = began + self._patience - now
            if left > 0:
                places -= 1
                soonest = soonest or left
        return 0.0 if places > 0 else soonest


class Runtime:
    """What a worker gets from its system: threads, what they wait for, a clock, and randomness. A simulation has its own, whose
    threads take turns in virtual time."""

    # Not a method around it: the clock is read several times for every request.
    monotonic = staticmethod(monotonic)
    """Seconds that no step of the time of day changes."""

    def stepped(
        self, name: str, part: Stepped, died: Callable[[BaseException], None], *, monotonic: Callable[[], float]
    ) -> StepThread:
        """A thread for a stepped part."""
        return StepThread(name, part, died, monotonic=monotonic)

    def pool(self, name: str, size: int, *, patience_seconds: float) -> Pool:
        """Threads for functions that may hang (see ``DaemonPool``)."""
        return DaemonPool(name, size, patience_seconds=patience_seconds)

    def condition(self) -> Condition:
        """What one thread waits for and another one notifies."""
        return Condition()

    def lock(self) -> Lock:
        """A lock that may be held while its owner waits."""
        return Lock()

    def thread(self, target: Callable[[], object], name: str, died: Callable[[BaseException], None]) -> Thread:
        """A thread that runs ``target`` once. ``died`` gets what it raises."""

        def run() -> None:
            try:
                target()
            except BaseException as error:
                LOG.exception("the thread %s ends", name)
                died(error)

        return NamedThread(target=run, name=name)

    def event(self) -> Event:
        """What threads wait for until another one sets it."""
        return Event()

    def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""
        sleep(seconds)

    def microseconds(self) -> int:
        """The time of day of this machine."""
        return now_microseconds()

    def random_bytes(self, count: int) -> bytes:
        """So many bytes that nobody can guess."""
        return random_bytes(count)

    def process(self) -> str:
        """A name of this process that no other one has at the same time: that of its machine, and its number there."""
        return f"{socket.gethostname()}:{os.getpid()}"


SYSTEM = Runtime()
