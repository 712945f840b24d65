# SPDX-License-Identifier: Apache-2.0
"""One AMQP connection and the thread that owns it.

py-amqp is not thread-safe: what touches the connection happens on this thread, which sleeps on the socket and on a pipe by
which other threads wake it. While it sleeps, another thread may have its turn and write, which saves waking it. A lost
connection is made again, on the next of the broker's addresses, for ever; what the subclass does then is its ``opened``.
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

from tracker_worker.bus.amqp.stream import Stream
from tracker_worker.bus.settings import ConnectionSettings

LOG = logging.getLogger(__name__)

LOST = (*amqp.Connection.connection_errors, *amqp.Connection.channel_errors)
# A peer that stalls in the middle of a frame holds this thread for so long before the connection counts as lost.
_READ_TIMEOUT_SECONDS = 5
_HEARTBEAT_CHECK_SECONDS = 1


class Link(ABC):
    """Methods in lower case without underscore may be called from any thread; hooks are called on the link's own."""

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
        self._turn = threading.Lock()
        self._turn.acquire()  # the link's thread has it, but while it sleeps with a connection
        self._stream: Stream | None = None
        self._deaf = False  # it sleeps so
        self._stopping = threading.Event()
        self._stop_before = 0.0
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have ``work`` called soon."""
        if self._woken:
            return  # it will look once more in any case
        with self._pipe_lock, contextlib.suppress(BlockingIOError):
            if self._pipe_open:
                self._woken = True
                os.write(self._wake_writer, b"\0")

    def hasten(self) -> None:
        """Have ``write`` called: at once, if the connection is at rest, or ``work`` soon. Never waits."""
        if self._turn.acquire(blocking=False):
            try:
                assert self._stream is not None
                self.write()
                at_rest = not self._deaf or self.deaf_for() > 0
                if self._stream.push() and at_rest:
                    return
            finally:
                self._turn.release()
        self.wake()

    def stop(self, timeout_seconds: float) -> None:
        """Do what is waiting, for at most so long, and close. Harmless when stopped."""
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

    def is_open(self) -> bool:
        """Connected, and ``opened`` is done."""
        return self._open.is_set()

    @abstractmethod
    def opened(self, connection: Any) -> None:
        """A new connection: declare, consume."""

    @abstractmethod
    def work(self) -> None:
        """Somebody called ``wake``, or frames were read."""

    def write(self) -> None:  # noqa: B027 most links write in ``work``
        """``hasten`` was called and the connection is at rest: write what waits. It may be the caller's thread."""

    def sent(self) -> None:  # noqa: B027 most links do not care
        """What ``work`` wrote has gone to the socket."""

    def read(self, data: bytes, position: int) -> int:
        """Use up what of ``data``, from a frame's beginning at ``position``, needs no library. Returns where that ends."""
        return position

    def deaf_for(self) -> float:
        """Seconds for which nothing is read from the connection. Asked again whenever the link is woken or hastened."""
        return 0.0

    @abstractmethod
    def idle(self) -> bool:
        """Nothing is waiting to be done on the connection."""

    @abstractmethod
    def lost(self) -> None:
        """The connection is gone."""

    def due_in(self) -> float:
        """Seconds until ``work`` is wanted even without a reason."""
        return _HEARTBEAT_CHECK_SECONDS

    def _run(self) -> None:
        try:
            urls = itertools.cycle(self._settings.urls)
            delays = self._settings.delays()
            while not self._stopping.is_set():
                url, delay = next(urls), 0.0
                connection = None
                try:
                    connection = self._connect(url)
                    self._stream = stream = Stream(connection)
                    self.opened(connection)
                    self._open.set()
                    delays = self._settings.delays()
                    self._serve(connection, stream)
                except LOST as error:
                    delay = next(delays)
                    LOG.warning("%s: no connection to %s (%s); again in %g s", self.name, _host(url), error, delay)
                finally:
                    self._open.clear()
                    try:
                        # What the broker says until it has closed is still about this connection.
                        _close(connection)
                    finally:
                        self.lost()
                if not self._stopping.is_set():
                    self._stopping.wait(delay)
        except BaseException as error:  # the thread's root: half alive is worse than restarted
            LOG.exception("%s: the connection's thread ends", self.name)
            self._died(error)
        finally:
            LOG.debug("%s: stopped", self.name)

    def _connect(self, url: str) -> Any:
        connection = self._settings.connection(url).transport.establish_connection()
        # With it py-amqp would read, and deliver, in the middle of every publish.
        connection.client_properties.get("capabilities", {}).pop("connection.blocked", None)
        connection.sock.settimeout(_READ_TIMEOUT_SECONDS)
        LOG.info("%s: connected to %s", self.name, _host(url))
        return connection

    def _serve(self, connection: Any, stream: Stream) -> None:
        sock = connection.sock
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(self._wake_reader, select.POLLIN)
        pipe = select.poll()
        pipe.register(self._wake_reader, select.POLLIN)
        next_check = 0.0
        while True:
            stream.flush()
            self.sent()
            if self._stopping.is_set() and (self.idle() or time.monotonic() > self._stop_before):
                return
            wait = 0.0 if stream.unread() else min(self.due_in(), _HEARTBEAT_CHECK_SECONDS)
            deaf = self.deaf_for()
            self._deaf = deaf > 0
            ready = self._sleep(pipe, min(wait, deaf)) if self._deaf else self._sleep(poller, wait)
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
        """Returns what there is to read from."""
        self._turn.release()
        try:
            return {fd for fd, _ in poller.poll(seconds * 1000)}
        finally:
            self._turn.acquire()

    def _read(self, connection: Any, stream: Stream) -> None:
        """Everything that has arrived."""
        poller = select.poll()
        poller.register(connection.sock, select.POLLIN)
        while True:
            try:
                if not stream.take(self.read):
                    connection.blocking_read()  # one frame: a heartbeat alone would keep drain_events waiting
            except TimeoutError as error:
                raise amqp.exceptions.RecoverableConnectionError("the broker stalled within a frame") from error
            if not connection.connected:
                raise amqp.exceptions.RecoverableConnectionError("the connection was closed")
            if not stream.unread() and not poller.poll(0):
                return


def _host(url: str) -> str:
    return url.rpartition("@")[2]


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
