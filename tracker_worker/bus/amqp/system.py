# SPDX-License-Identifier: Apache-2.0
"""What a connection to the broker gets from its system: clock, threads and randomness, and what waits for sockets.

A simulation has its own, whose sockets are none.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from tracker_worker import threads
from tracker_worker.bus.amqp.wake import WakePipe


class System:
    """``sock`` is always the socket of one connection, which has a timeout. Every method raises OSError where the connection is
    lost."""

    def __init__(self, runtime: threads.Runtime = threads.SYSTEM) -> None:
        self.runtime = runtime
        self.monotonic: Callable[[], float] = runtime.monotonic
        # Not the socket object, which would wait for room up to its timeout.
        self.write: Callable[[Any, bytes | bytearray], int] = os.write
        """Write to the ``fileno()`` of a socket as much as it takes at once, and return how much that was. Raises
        BlockingIOError: nothing."""

    def wait(self, sock: Any, seconds: float, *, room: bool) -> tuple[bool, bool]:
        """Wait, for at most so long, until there is something to read, or with ``room``, until the socket takes something.
        Returns whether there is something to read, an error included, and whether there is anything at all."""
        poller = select.poll()
        poller.register(sock, select.POLLIN | (select.POLLOUT if room else 0))
        events = poller.poll(max(0.0, seconds) * 1000)
        return any(event & ~select.POLLOUT for _, event in events), bool(events)

    def sleeper(self) -> Sleeper:
        """What the thread of one connection object sleeps on."""
        return Sleeper()

    def break_off(self, sock: Any) -> None:
        """End whatever another thread waits for on the socket."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which changes the object under the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Sleeper:
    """Sleeps until a socket is ready, or another thread calls ``wake``. ``wake`` may be called from any thread, also after
    ``close``; the others belong to the thread that sleeps."""

    def __init__(self) -> None:
        self._pipe = WakePipe()
        self._alone = select.poll()
        self._alone.register(self._pipe.reader, select.POLLIN)
        self._both = self._alone
        self._sock: Any = None
        self._room = False
        self.wake: Callable[[], None] = self._pipe.wake

    def watch(self, sock: Any) -> None:
        """Sleep on this socket from now on."""
        self._sock, self._room = sock, False
        self._both = select.poll()
        self._both.register(sock, select.POLLIN)
        self._both.register(self._pipe.reader, select.POLLIN)

    def sleep(self, seconds: float, *, reads: bool, room: bool) -> bool:
        """Sleep for at most so long: with ``reads`` until there is something to read, with ``room`` too until the socket takes
        something. Returns whether there is something to read, an error included."""
        if reads and room is not self._room:
            self._room = room
            self._both.modify(self._sock, select.POLLIN | (select.POLLOUT if room else 0))
        readable = False
        for descriptor, event in (self._both if reads else self._alone).poll(seconds * 1000):
            if descriptor == self._pipe.reader:
                self._pipe.drain()
            elif event != select.POLLOUT:
                readable = True
        return readable

    def close(self) -> None:
        """Harmless when closed."""
        self._pipe.close()

    def abandon(self) -> None:
        """The same in a forked child. Takes no lock, which a thread of the parent may have held."""
        self._pipe.abandon()


SYSTEM = System()
