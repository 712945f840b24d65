# SPDX-License-Identifier: Apache-2.0
"""Fewer system calls on an AMQP connection, and which thread makes them.

py-amqp 5.4 asks the socket three times for every frame that it reads, and writes every frame by itself. Each of these calls
also hands the interpreter to another thread. Here bytes are read in large pieces, and written when the connection's loop
has nothing more to say or waits for an answer."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from typing import Any

from tracker_worker.bus.amqp import internals

_PIECE_BYTES = 65536


class Stream:
    """Stands between a connected py-amqp connection and its socket. Only the thread that has the write turn may use it."""

    def __init__(self, connection: Any) -> None:
        transport = connection.transport
        self.sock = transport.sock
        self.written = bytearray()
        self._read = b""
        self._position = 0
        internals.replace_socket_calls(transport, read=self._receive, write=self.written.extend)

    def _receive(self, size: int) -> bytes:
        """At most ``size`` bytes, from the socket where no bytes are left. Raises TimeoutError, OSError."""
        self._fill()
        piece = self._read[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def _fill(self) -> None:
        if self._position >= len(self._read):
            self.flush()  # the bytes to come may be the answer to what was written
            self._read, self._position = self.sock.recv(_PIECE_BYTES), 0

    def take(self, read: Callable[[bytes, int], int]) -> bool:
        """Offer ``read`` the bytes that the connection has not seen, from the socket where none are left.

        ``read`` gets bytes and a position, and returns the position up to which it used them. Returns whether it used any. Only
        where no frame has been begun. Raises TimeoutError, OSError.
        """
        self._fill()
        began, self._position = self._position, read(self._read, self._position)
        return self._position > began

    def unread(self) -> bool:
        """Whether bytes were read that the connection has not seen, or TLS holds bytes that the socket does not show."""
        if self._position < len(self._read):
            return True
        pending = getattr(self.sock, "pending", None)
        return pending is not None and pending() > 0

    def flush(self) -> None:
        """Send what was written. Raises TimeoutError when the peer takes nothing, OSError."""
        if self.written:
            out = bytes(self.written)
            self.written.clear()
            self.sock.sendall(out)


class WriteTurn:
    """Which thread may write to a connection: the connection's own, or, while that one sleeps, a thread that submits.

    Waking the connection's thread costs a hand-over of the interpreter for each submission. A thread that submits while the
    connection's thread sleeps writes to the socket itself; nobody ever waits for the turn.

                          begin_sleep                     flush_soon
        own thread works -------------> own thread sleeps ----------> submitting thread writes
               ^                          |          ^                          |
               +------- end_sleep --------+          +------ all was sent ------+
               ^                                                                |
               +------- woken: the socket, TLS or a full window left a rest ----+

    While the own thread works, ``flush_soon`` only wakes it: it looks for submissions once more before it sleeps.
    """

    def __init__(
        self, *, write: Callable[[], None], wake: Callable[[], None], reads_in_time: Callable[[], bool]
    ) -> None:
        """``write`` puts what waits into the stream. ``reads_in_time``: whether the own thread will read soon enough without
        being woken."""
        self._write = write
        self._wake = wake
        self._reads_in_time = reads_in_time
        self._lock = threading.Lock()
        self._lock.acquire()  # the own thread has the turn until it sleeps with a connection
        self._stream: Stream | None = None

    def serve(self, stream: Stream) -> None:
        """The own thread writes to this stream from now on."""
        self._stream = stream

    def begin_sleep(self) -> None:
        self._lock.release()

    def end_sleep(self) -> None:
        self._lock.acquire()

    def flush_soon(self) -> None:
        """Have what waits written: immediately if the own thread sleeps, or by the own thread soon. Any thread; never waits."""
        if self._lock.acquire(blocking=False):
            try:
                stream = self._stream
                assert stream is not None
                self._write()
                # TLS cannot say what it takes without waiting. Errors are raised where the own thread flushes.
                if not isinstance(stream.sock, ssl.SSLSocket):
                    with contextlib.suppress(OSError):
                        # Past the socket object, whose timeout would make it wait for room.
                        del stream.written[: os.write(stream.sock.fileno(), stream.written)]
                    if not stream.written and self._reads_in_time():
                        return
            finally:
                self._lock.release()
        self._wake()
