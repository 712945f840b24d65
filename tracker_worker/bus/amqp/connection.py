# SPDX-License-Identifier: Apache-2.0
"""One AMQP connection and the thread that owns it.

py-amqp is not thread-safe: everything that touches the connection happens on its thread, which sleeps on the socket and on a
pipe through which other threads wake it. While it sleeps, another thread may have the write turn (see ``stream.WriteTurn``). A
lost connection is replaced by one to the next of the broker's addresses, without limit; the subclass's ``opened`` declares and
consumes again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import amqp

from tracker_worker.bus.amqp import internals
from tracker_worker.bus.amqp.stream import Stream, WriteTurn
from tracker_worker.bus.settings import LOST, ConnectionSettings, address
from tracker_worker.threads import NamedThread

LOG = logging.getLogger(__name__)

# A broker that stalls in the middle of a frame blocks this thread for this long before the connection counts as lost.
_READ_TIMEOUT_SECONDS = 5
_HEARTBEAT_CHECK_SECONDS = 1


class BrokerConnection(ABC):
    """``start``, ``wake``, ``flush_soon``, ``stop`` and ``is_open`` may be called from any thread. The other methods without an
    underscore are hooks for subclasses. They are called on the thread that has the write turn (``stream.WriteTurn``): ``write``
    and ``read_pause`` also on a thread that calls ``flush_soon``, the others on the connection's thread only."""

    def __init__(self, name: str, settings: ConnectionSettings, died: Callable[[BaseException], None]) -> None:
        self.name = name
        self._settings = settings
        self._died = died
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._pipe_lock = threading.Lock()
        self._pipe_open = True
        self._woken = False
        self._turn = WriteTurn(write=self.write, wake=self.wake, reads_in_time=self._reads_in_time)
        self._paused = False  # the thread sleeps without listening to the socket
        self._stopping = threading.Event()
        self._stop_before = 0.0
        self._open = threading.Event()
        self._thread = NamedThread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Cause a call of ``work`` soon."""
        if self._woken:
            return  # the thread has not yet read the last wake-up, and calls ``work`` after it
        with self._pipe_lock, contextlib.suppress(BlockingIOError):
            if self._pipe_open:
                self._woken = True
                os.write(self._wake_writer, b"\0")

    def flush_soon(self) -> None:
        """Call ``write`` now, on this thread, if the connection's thread sleeps; otherwise cause a call of ``work`` soon. Never
        waits."""
        self._turn.flush_soon()

    def stop(self, timeout_seconds: float) -> None:
        """Do what is waiting, for at most so long, and close the connection. Harmless when stopped."""
        self._stop_before = time.monotonic() + timeout_seconds
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds + _READ_TIMEOUT_SECONDS)
        if not self._thread.is_alive():
            self._close_pipe()

    def _close_pipe(self) -> None:
        with self._pipe_lock:
            if self._pipe_open:
                self._pipe_open = False
                os.close(self._wake_reader)
                os.close(self._wake_writer)

    def abandon_wakeups(self) -> None:
        """In a forked child, whose copy of this object has no thread: close its copies of the pipe's ends. Takes no lock, which
        a thread of the parent may have held."""
        if self._pipe_open:
            self._pipe_open = False
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def is_open(self) -> bool:
        """Whether there is a connection and ``opened`` has returned."""
        return self._open.is_set()

    # --- hooks -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def opened(self, connection: Any) -> None:
        """There is a new connection: declare and consume."""

    @abstractmethod
    def work(self) -> None:
        """``wake`` was called, frames were read, or ``due_in`` has passed."""

    def write(self) -> None:  # noqa: B027 most connections write in ``work``
        """Write the waiting messages into the stream."""

    def sent(self) -> None:  # noqa: B027 a hook
        """What ``work`` wrote has gone to the socket."""

    def read(self, data: bytes, position: int) -> int:
        """Use frames in ``data`` without py-amqp, from the beginning of a frame at ``position``. Returns the position after the
        last frame that was used."""
        return position

    def read_pause(self) -> float:
        """Seconds for which nothing needs to be read from the connection. Asked again whenever the thread is woken."""
        return 0.0

    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing is waiting to be done on the connection."""

    @abstractmethod
    def lost(self) -> None:
        """The connection is closed or lost."""

    def due_in(self) -> float:
        """Seconds until ``work`` is wanted even if nothing happens."""
        return _HEARTBEAT_CHECK_SECONDS

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            urls = itertools.cycle(self._settings.urls)
            delays = self._settings.delays()
            while not self._stopping.is_set():
                url, delay = next(urls), 0.0
                connection = None
                try:
                    connection = self._connect(url)
                    stream = Stream(connection)
                    self._turn.serve(stream)
                    self.opened(connection)
                    self._open.set()
                    delays = self._settings.delays()
                    self._serve(connection, stream)
                except LOST as error:
                    delay = next(delays)
                    LOG.warning("%s: no connection to %s (%s); again in %g s", self.name, address(url), error, delay)
                finally:
                    self._open.clear()
                    try:
                        _close(connection)  # before ``lost``: frames may arrive until the broker has closed
                    finally:
                        self.lost()
                if not self._stopping.is_set():
                    self._stopping.wait(delay)
        except BaseException as error:  # the thread's root: half a worker is worse than a restarted one
            LOG.exception("%s: the connection's thread ends", self.name)
            self._died(error)
        finally:
            LOG.debug("%s: stopped", self.name)

    def _connect(self, url: str) -> Any:
        connection = self._settings.connection(url).transport.establish_connection()
        # With this capability py-amqp would read, and deliver, in the middle of every publish.
        connection.client_properties.get("capabilities", {}).pop("connection.blocked", None)
        connection.sock.settimeout(_READ_TIMEOUT_SECONDS)
        internals.tolerate_unreadable_properties(connection)
        LOG.info("%s: connected to %s", self.name, address(url))
        return connection

    def _serve(self, connection: Any, stream: Stream) -> None:
        sock = connection.sock
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(self._wake_reader, select.POLLIN)
        wake_poller = select.poll()
        wake_poller.register(self._wake_reader, select.POLLIN)
        next_check = 0.0
        while True:
            stream.flush()
            self.sent()
            if self._stopping.is_set() and (self.idle() or time.monotonic() > self._stop_before):
                return
            wait = 0.0 if stream.unread() else min(self.due_in(), _HEARTBEAT_CHECK_SECONDS)
            pause = self.read_pause()
            self._paused = pause > 0
            ready = self._sleep(wake_poller, min(wait, pause)) if self._paused else self._sleep(poller, wait)
            if self._wake_reader in ready:
                os.read(self._wake_reader, 65536)
                self._woken = False
            if sock.fileno() in ready or stream.unread():
                self._read(connection, stream)
            self.work()
            now = time.monotonic()
            if now >= next_check:
                connection.heartbeat_tick()
                next_check = now + _HEARTBEAT_CHECK_SECONDS

    def _sleep(self, poller: select.poll, seconds: float) -> set[int]:
        """The file descriptors that can be read, after at most so long."""
        self._turn.begin_sleep()
        try:
            return {fd for fd, _ in poller.poll(seconds * 1000)}
        finally:
            self._turn.end_sleep()

    def _reads_in_time(self) -> bool:
        """Whether the sleeping thread need not be woken to read: it listens, or its pause still holds."""
        return not self._paused or self.read_pause() > 0

    def _read(self, connection: Any, stream: Stream) -> None:
        """Read every frame that has arrived."""
        poller = select.poll()
        poller.register(connection.sock, select.POLLIN)
        while True:
            try:
                if not stream.take(self.read):
                    connection.blocking_read()  # one frame: drain_events would wait for more after a mere heartbeat
            except TimeoutError as error:
                raise amqp.exceptions.RecoverableConnectionError("the broker stalled within a frame") from error
            if not connection.connected:
                raise amqp.exceptions.RecoverableConnectionError("the connection was closed")
            if not stream.unread() and not poller.poll(0):
                return


def _close(connection: Any) -> None:
    if connection is None:
        return
    try:
        if connection.connected:
            connection.sock.settimeout(1)
            connection.close()
    except LOST as error:
        LOG.debug("closing: %s", error)
    finally:
        connection.collect()
