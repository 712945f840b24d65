# SPDX-License-Identifier: Apache-2.0
"""Fewer system calls on an AMQP connection, and which thread makes them.

py-amqp 5.4 reads each frame with three system calls, and writes each frame with one. Each system call also lets another thread
take the interpreter. A Stream reads bytes in large pieces, and collects what is written until the connection's loop is done or
waits for an answer.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tracker_worker.bus.amqp import internals
from tracker_worker.bus.amqp.system import SYSTEM, System

_PIECE_BYTES = 65536
_TLS_RECORD_BYTES = 16384


class Stream:
    """Reads and writes the socket of a py-amqp connection whose transport has connected. Only the thread that has the write
    turn may use it.

    Whoever waits for bytes goes on sending, and nobody waits for room to send: a broker that reads nothing may have something
    to say."""

    def __init__(self, connection: Any, system: System = SYSTEM) -> None:
        transport = connection.transport
        self._system = system
        self.sock = transport.sock
        self.written = bytearray()
        self.put = system.write
        self.tls = isinstance(self.sock, ssl.SSLSocket)
        self._read = b""
        self._position = 0
        self._wait_until: float | None = None
        self._phase = ""
        internals.replace_socket_calls(transport, read=self._receive, write=self.written.extend)

    @contextmanager
    def limit(self, seconds: float, phase: str) -> Iterator[None]:
        """Let all waits in the block end after ``seconds`` together, with a TimeoutError that names the phase."""
        self._wait_until, self._phase = self._system.monotonic() + seconds, phase
        try:
            yield
        finally:
            self._wait_until = None

    def _receive(self, size: int) -> bytes:
        """Return at most ``size`` bytes; read from the socket if no bytes are left. Raises TimeoutError, OSError."""
        self._fill()
        piece = self._read[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def _fill(self) -> None:
        if self._position >= len(self._read):
            self.send()  # the bytes to come may be the answer to what was written
            if self.written or self._wait_until is not None:
                self._await_bytes()
            self._read, self._position = self.sock.recv(_PIECE_BYTES), 0

    def _await_bytes(self) -> None:
        """Wait until there are bytes to read, and send what was written. Raises TimeoutError, OSError."""
        system = self._system
        until = system.monotonic() + self.sock.gettimeout()
        if self._wait_until is not None:
            until = min(until, self._wait_until)
        while not self._pending():
            left = until - system.monotonic()
            if left <= 0:
                raise TimeoutError(f"the broker was silent for too long{self._phase and ': '}{self._phase}")
            readable, ready = system.wait(self.sock, left, room=bool(self.written))
            if readable:
                return
            if ready:
                self.send()

    def take(self, read: Callable[[bytes, int], int]) -> bool:
        """Offer ``read`` the bytes that py-amqp has not seen; read from the socket if there are none.

        ``read`` gets bytes and a position, and returns the position up to which it used them. Returns whether it used any. May
        only be called at the beginning of a frame. Raises TimeoutError, OSError.
        """
        self._fill()
        began, self._position = self._position, read(self._read, self._position)
        return self._position > began

    def unread(self) -> bool:
        """Whether bytes were read that py-amqp has not seen, or TLS holds bytes that ``poll`` does not report."""
        return self._position < len(self._read) or self._pending()

    def readable(self) -> bool:
        """Whether there is something to read, here or at the socket. Does not wait."""
        return self.unread() or self._system.wait(self.sock, 0.0, room=False)[0]

    def _pending(self) -> bool:
        return self.tls and self.sock.pending() > 0

    def send(self) -> None:
        """Send as much of what was written as the socket takes at once; the rest stays in ``written``. Raises OSError."""
        if not self.written:
            return
        if self.tls:
            self._send_records()
            return
        with contextlib.suppress(BlockingIOError):
            del self.written[: self.put(self.sock.fileno(), self.written)]

    def _send_records(self) -> None:
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            # A record that did not go out whole is tried again with the same bytes: they stay in front.
            with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                while self.written:
                    del self.written[: self.sock.send(self.written[:_TLS_RECORD_BYTES])]
        finally:
            self.sock.settimeout(timeout)


class WriteTurn:
    """Decides which thread may write to a connection: the connection's own thread, or, while that thread sleeps, a thread that
    submits.

    Waking the connection's thread is slow, because the submitting thread then gives the interpreter to it. A thread that
    submits while the connection's thread sleeps therefore writes to the socket itself. No thread waits for the turn.

                           begin_sleep                        flush_soon
    connection's thread works -------> connection's thread sleeps -------> submitting thread writes
           ^                              |              ^                           |
           +---------- end_sleep ---------+              +------ all was sent -------+
           ^                                                                         |
           +------------ wake: some bytes or messages are left, or TLS --------------+

    While the connection's thread works, ``flush_soon`` only calls ``wake``; that thread looks for submissions again before
    it sleeps."""

    def __init__(
        self, *, write: Callable[[], None], wake: Callable[[], None], reads_in_time: Callable[[], bool]
    ) -> None:
        """``write`` writes the waiting messages into the stream. ``reads_in_time`` returns whether the connection's thread
        reads soon enough without being woken."""
        self._write = write
        self._wake = wake
        self._reads_in_time = reads_in_time
        self._lock = threading.Lock()
        self._lock.acquire()  # the connection's thread has the turn until it sleeps with a connection
        self._stream: Stream | None = None

    def serve(self, stream: Stream) -> None:
        """The connection's thread writes to this stream from now on."""
        self._stream = stream

    def unsent(self) -> int:
        """The bytes that were written and have not gone to the socket. Only the thread that has the turn."""
        return 0 if self._stream is None else len(self._stream.written)

    def begin_sleep(self) -> None:
        self._lock.release()

    def end_sleep(self) -> None:
        self._lock.acquire()

    def flush_soon(self) -> None:
        """Write the waiting messages now if the connection's thread sleeps; otherwise wake that thread, which writes them. Any
        thread; never waits."""
        if self._lock.acquire(blocking=False):
            try:
                stream = self._stream
                assert stream is not None
                self._write()
                # A TLS socket cannot be written without waiting. An error here is raised again when the connection's thread
                # sends.
                if not stream.tls:
                    with contextlib.suppress(OSError):
                        del stream.written[: stream.put(stream.sock.fileno(), stream.written)]
                    if not stream.written and self._reads_in_time():
                        return
            finally:
                self._lock.release()
        self._wake()
