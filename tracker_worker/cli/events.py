# SPDX-License-Identifier: Apache-2.0
"""What the main thread of a process waits for: signals, and what other threads tell it.

A lock or a queue does not do. A signal that comes between the interpreter's last look for one and the system call that waits
has its Python handler run only when the wait ends, which may be never. The interpreter writes a byte for each signal into the
file descriptor of ``signal.set_wakeup_fd``, from the C handler: whoever waits for that byte hears every signal.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Generic, TypeVar

_Event = TypeVar("_Event")

_MOST_BYTES = 4096


class Events(Generic[_Event]):
    """Events in the order in which they were put. One for a process: its signals wake the thread that waits here."""

    def __init__(self) -> None:
        self._events: deque[_Event] = deque()
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)

    def close(self) -> None:
        """Harmless at the end of a process, which does it too. No signal may come afterwards."""
        self._reading.close()
        self._writing.close()

    def on_signals(self, numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> None:
        """Have ``handler``, which puts events, called for the signals with these numbers. Belongs to the main thread."""
        # A full socket wakes the waiting thread too.
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, handler)

    def put(self, event: _Event) -> None:
        """Add an event. Any thread and any signal handler may call this; it never waits."""
        self._events.append(event)
        with contextlib.suppress(BlockingIOError):  # as full as it is, it wakes the waiting thread
            self._writing.send(b"\0")

    def get(self, timeout_seconds: float | None = None) -> _Event | None:
        """Wait for the next event, for at most so long (None: without end), and take it. None: there was none in this time, or
        something else has ended the wait."""
        if not self._events:
            select.select([self._reading], [], [], timeout_seconds)
            with contextlib.suppress(BlockingIOError):
                self._reading.recv(_MOST_BYTES)
        return self._events.popleft() if self._events else None
