# SPDX-License-Identifier: Apache-2.0
"""The watchdog of the engine.

A worker whose engine hangs would keep its hosts: the connections' own threads still answer the broker's heartbeats. The
watchdog tells such an engine from a busy one, and has the process end, so that the broker gives the hosts to a standby.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

from tracker_worker import threads

STORE_SECONDS = 10.0
"""The longest wait for the store that is none of the engine's faults: the store's own limits end each wait by then."""
_LOOK_SECONDS = 0.25
# Where more time has passed between two looks, the process was stopped, the machine was suspended, or another thread kept the
# interpreter: that time says nothing about the engine.
_LONGEST_LOOK_SECONDS = 2 * _LOOK_SECONDS
_PACKAGE = os.path.dirname(threads.__file__) + os.sep
_STORE = os.path.join(_PACKAGE, "store", "")
# The ledgers in memory stand between the engine and the store: they may make several calls of the store one after the other.
_LEDGERS = os.path.join(_STORE, "ledgers.py")


class Watched(Protocol):
    """The thread that is watched: ``turns`` changes whenever it begins another pass of its loop. ``ident`` is the thread that
    makes it, perhaps in its place."""

    turns: int

    @property
    def ident(self) -> int | None: ...

    def is_alive(self) -> bool: ...


class Watchdog:
    """Calls ``stalled`` once, on its own thread, when the watched thread has not turned for ``stall_seconds``; it gets a
    sentence that says where the thread stands that makes the pass. A call of the store that takes less than ``STORE_SECONDS``
    counts as turning.

    ``start`` and ``stop`` must be called from one thread. Without ``start``, a test calls ``step`` itself."""

    def __init__(
        self,
        watched: Watched,
        *,
        stall_seconds: float,
        stalled: Callable[[str], None],
        died: Callable[[BaseException], None],
        frame_of: Callable[[int], FrameType | None] = threads.frame_of,
        name_of: Callable[[int], str] = threads.name_of,
        monotonic: Callable[[], float] = threads.monotonic,
        runtime: threads.Runtime = threads.SYSTEM,
    ) -> None:
        self._watched = watched
        self._stall_seconds = stall_seconds
        self._stalled = stalled
        self._frame_of = frame_of
        self._name_of = name_of
        self._thread = runtime.stepped("tracker-watch", self, died, monotonic=monotonic)
        self._looked_at: float | None = None
        self._turns = -1
        self._standing = 0.0
        # The call of the store that was seen at the last look. While it is kept, no other call has the same frame.
        self._store_call: FrameType | None = None
        self._barked = self._stopped = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer. Returns immediately; harmless when stopped."""
        self._barked = self._stopped = True
        self._thread.stop(0)

    def stands(self, turn_seconds: float) -> float | None:
        """For how many seconds the watched thread has not turned, if that is longer than ``turn_seconds``; None: it turns,
        or is not watched. A call of the store may wait within its limit besides. Any thread."""
        standing, in_store = self._standing, self._store_call is not None
        allowed = turn_seconds + (STORE_SECONDS if in_store else 0)
        return standing if standing > allowed and not self._stopped else None

    def step(self, now: float) -> float:
        """Look once. Returns the seconds until the next look."""
        passed = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        self._standing += min(passed, _LONGEST_LOOK_SECONDS)
        turns = self._watched.turns
        if turns != self._turns or not self._watched.is_alive():
            self._turns = turns
            self._standing = 0.0
            self._store_call = None
            return _LOOK_SECONDS
        ident = self._watched.ident
        frame = None if ident is None else self._frame_of(ident)
        call = _call_of_store(frame)
        if (
            call is not self._store_call
        ):  # it is getting on: the last call of the store has returned, or another one began
            self._store_call = call
            self._standing = 0.0
        limit = self._stall_seconds if call is None else max(self._stall_seconds, STORE_SECONDS)
        if self._standing >= limit and not self._barked:
            self._barked = True
            name = "" if ident is None else self._name_of(ident)
            on = f" on the thread {name}" if name else ""
            self._stalled(f"the engine has stood still for {round(self._standing)} s at {place(frame)}{on}")
        return _LOOK_SECONDS


def place(frame: FrameType | None) -> str:
    """``FILE:LINE`` of the innermost frame that belongs to this package, with FILE relative to the package's parent."""
    for outer in _frames(frame):
        file = outer.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{os.path.relpath(file, os.path.dirname(os.path.dirname(_PACKAGE)))}:{outer.f_lineno}"
    return "an unknown place"


def _call_of_store(frame: FrameType | None) -> FrameType | None:
    """The frame of the store's method that the thread is in; None: it is in none."""
    found = None
    for outer in _frames(frame):
        file = outer.f_code.co_filename
        if file.startswith(_STORE) and file != _LEDGERS:
            found = outer
    return found


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """``frame`` and the frames that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back
