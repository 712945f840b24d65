# SPDX-License-Identifier: Apache-2.0
"""One AMQP connection and the thread that owns it.

py-amqp is not thread-safe: everything that touches the connection happens on its thread, which sleeps on the socket and on a
pipe through which other threads wake it. While it sleeps, another thread may have the write turn (see ``stream.WriteTurn``). A
lost connection is replaced by one to the same or another of the broker's addresses, without limit (see ``addresses``); the
subclass's ``opened`` declares and consumes again.
"""

from __future__ import annotations

import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import amqp

from tracker_worker.bus.amqp import internals, opening
from tracker_worker.bus.amqp.addresses import Addresses, shared_addresses
from tracker_worker.bus.amqp.alarm import Alarm
from tracker_worker.bus.amqp.stream import Stream, WriteTurn
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.base import Blocked
from tracker_worker.bus.settings import LOST, ConnectionSettings, address, user_of

LOG = logging.getLogger(__name__)

# Declaring and consuming has a limit, as the other phases of opening a connection have (see ``opening``).
_OPENED_SECONDS = 10
# For so long a connection may finish its work before it is replaced by one with another password.
_RENEW_SECONDS = 2
_HEARTBEAT_CHECK_SECONDS = 1
FOREVER = float("inf")
# A failure is said so often in a row, and then at every sixtieth attempt, which is about once a minute.
_LINES_IN_A_ROW = 5
_QUIET_ATTEMPTS = 60


class BrokerConnection(ABC):
    """``start``, ``wake``, ``flush_soon``, ``renew``, ``stop``, ``is_open``, ``reconnects`` and ``blocked`` may be called from
    any thread. The other methods without an underscore are hooks for subclasses. They are called on the thread that has the
    write turn (``stream.WriteTurn``): ``write`` and ``read_pause`` also on a thread that calls ``flush_soon``, the others on
    the connection's thread only."""

    publishes = False
    """Whether the connection publishes so much that it has to hear of the broker's alarms."""

    def __init__(
        self,
        name: str,
        settings: ConnectionSettings,
        died: Callable[[BaseException], None],
        addresses: Addresses | None = None,
        system: System = SYSTEM,
    ) -> None:
        """``addresses``: those that several connections share; None: the connection has its own."""
        runtime = system.runtime
        self.name = name
        self._settings = settings
        self._addresses = addresses or shared_addresses(settings)
        self._visitor = self._addresses.visitor()
        self._system = system
        self._monotonic = system.monotonic
        self._alarm = Alarm(system.monotonic)
        self._socket: Any = None
        self._sleeper = system.sleeper()
        self._turn = WriteTurn(write=self.write, wake=self._sleeper.wake, reads_in_time=self._reads_in_time)
        self._paused = False  # the thread sleeps without listening to the socket
        self._stopping = runtime.event()
        self._stop_before = 0.0
        self._renewing = runtime.event()
        self._renew_before = 0.0
        self._interrupt = runtime.event()  # set with each of both; ends the wait between two connections
        self._open = runtime.event()
        self._openings = 0
        self._lost_at: float | None = None  # since when there is no connection, once that was said
        self.opened_at: float | None = None
        self.problem = ""
        """Why there was no connection last; empty while there is one."""
        self._thread = runtime.thread(self._run, name, died)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Cause a call of ``work`` soon."""
        self._sleeper.wake()

    def flush_soon(self) -> None:
        """Call ``write`` now, on this thread, if the connection's thread sleeps; otherwise cause a call of ``work`` soon. Never
        waits."""
        self._turn.flush_soon()

    def stop(self, timeout_seconds: float) -> None:
        """Do what is waiting, for at most so long, and close the connection. Harmless when stopped."""
        self._stop_before = self._monotonic() + timeout_seconds
        self._stopping.set()
        self._interrupt.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds + opening.CLOSE_SECONDS)
            if self._thread.is_alive() and (sock := self._socket) is not None:
                # It waits for a broker that is silent while a connection is opened, or in the middle of a frame.
                self._system.break_off(sock)
                self._thread.join(2 * opening.CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._sleeper.close()

    def renew(self) -> None:
        """Connect again, with the present user and password: as soon as nothing waits to be done on the connection, but within
        two seconds."""
        self._renew_before = self._monotonic() + _RENEW_SECONDS
        self._renewing.set()
        self._interrupt.set()
        self.wake()

    def abandon_wakeups(self) -> None:
        """In a forked child, whose copy of this object has no thread: close its copies of the pipe's ends. Takes no lock, which
        a thread of the parent may have held."""
        self._sleeper.abandon()

    def is_open(self) -> bool:
        """Whether there is a connection and ``opened`` has returned."""
        return self._open.is_set()

    def reconnects(self) -> int:
        """How often the connection was opened after the first time."""
        return max(0, self._openings - 1)

    def blocked(self) -> Blocked | None:
        """The broker's alarm, as far as this connection knows; None without one, and if the connection does not publish."""
        return self._alarm.state

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
        """Seconds for which nothing needs to be read from the connection; FOREVER: nothing may be read. Asked again whenever
        the thread is woken, after ``work``, and between reads."""
        return 0.0

    def closing(self) -> None:  # noqa: B027 a hook
        """The connection is about to be closed; frames that are still read concern nobody."""

    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing is waiting to be done on the connection."""

    def failed(self, error: Exception) -> bool:
        """The connection has ended with ``error``, or could not be opened; ``lost`` is called next. Returns whether the cause
        is known, logged, and gone with the connection: then another one is opened at once, and nothing more is said."""
        return False

    @abstractmethod
    def lost(self) -> None:
        """The connection is closed or lost."""

    def due_in(self) -> float:
        """Seconds until ``work`` is wanted even if nothing happens."""
        return _HEARTBEAT_CHECK_SECONDS

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._renewing.is_set():
                self._renewing.clear()
                self._visitor.restart(self._monotonic())
            wait = self._visitor.due_in(self._monotonic())
            if wait > 0:
                self._interrupt.wait(wait)
                if not self._stopping.is_set():
                    self._interrupt.clear()
            else:
                self._connect_and_serve(self._visitor.take(self._monotonic()))
        LOG.debug("%s: stopped", self.name)

    def _connect_and_serve(self, number: int) -> None:
        """Use the address once: open a connection, serve it until it ends, and say why it ended."""
        url = self._addresses.url(number)
        connection = self._settings.connection(url)
        began, opened_at, logging_in = self._monotonic(), None, True
        stream: Stream | None = None
        problem = ""
        refused = unresolved = explained = False
        try:
            # A stall within a frame blocks this thread, and must not end a connection that its heartbeats would keep.
            stream = opening.log_in(
                connection,
                silence_seconds=self._settings.heartbeat_seconds,
                alarm=self._alarm if self.publishes else None,
                connected=self._on_connected,
                system=self._system,
            )
            logging_in = False
            self._log_connected(url)
            self._turn.serve(stream)
            with stream.limit(_OPENED_SECONDS, "declaring and consuming"):
                self.opened(connection)
            opened_at = self._monotonic()
            self._visitor.opened(number)
            self._openings += 1
            self.opened_at, self.problem = opened_at, ""
            self._open.set()
            self._serve(connection, stream)
        except LOST as error:
            explained = self.failed(error)
            # The text alone goes into the log: the exception leads to the connection and its buffers.
            problem = " ".join(str(error).split()) or type(error).__name__
            refused = logging_in and isinstance(error, amqp.exceptions.AccessRefused)
            unresolved = logging_in and isinstance(error, socket.gaierror)
        finally:
            self._open.clear()
            self.opened_at, self.problem = None, problem
            self.closing()
            try:
                # Before ``lost``: frames may arrive until the broker has closed.
                opening.close(connection, stream, blocked=self._alarm.state is not None)
            finally:
                self._socket = None
                self._alarm.forget()
                self.lost()
        now = self._monotonic()
        if explained:
            self._visitor.restart(now)
        elif opened_at is None:
            failures = self._visitor.failed(number, now, seconds=now - began, login_refused=refused)
            if unresolved:
                self._log_unresolved(number, url, problem)
            else:
                quiet = failures > _LINES_IN_A_ROW and failures % _QUIET_ATTEMPTS != 0 and not refused
                self._log_failure(url, problem, logging.DEBUG if quiet else logging.INFO)
        elif problem:
            self._visitor.ended(number, now, seconds=now - opened_at)
            self._log_failure(url, problem, logging.INFO)

    def _on_connected(self, sock: Any) -> None:
        self._socket = sock

    def _log_connected(self, url: str) -> None:
        """The end of an outage says how long it took."""
        lost_at, self._lost_at = self._lost_at, None
        again = "" if lost_at is None else f" again after {self._monotonic() - lost_at:.1f} s"
        LOG.info("%s: connected to %s%s", self.name, address(url), again)

    def _log_failure(self, url: str, problem: str, level: int) -> None:
        """The first failure of an outage is a warning, with what an operator can change."""
        now = self._monotonic()
        wait = self._visitor.due_in(now)
        again = f"again in {wait:.2g} s" if wait > 0 else "connecting again now"
        if self._lost_at is None:
            self._lost_at, level = now, logging.WARNING
            problem = f"user {user_of(url)} of [DEFAULT] transport_url: {problem}"
        LOG.log(level, "%s: no connection to %s (%s); %s", self.name, address(url), problem, again)

    def _log_unresolved(self, number: int, url: str, problem: str) -> None:
        level = logging.WARNING if self._addresses.is_news(number) else logging.DEBUG
        LOG.log(level, "the name of broker %s does not resolve (%s): it is passed over", address(url), problem)

    def _serve(self, connection: Any, stream: Stream) -> None:
        self._sleeper.watch(stream.sock)
        next_check = 0.0
        while True:
            stream.send()
            waits_for_room = bool(stream.written)
            self.sent()
            if self._interrupt.is_set() and self._may_end(stream):
                return
            pause = self.read_pause()
            may_read = pause < FOREVER
            wait = 0.0 if may_read and stream.unread() else min(self.due_in(), _HEARTBEAT_CHECK_SECONDS)
            if waits_for_room and may_read:
                pause = 0.0
            self._paused = pause > 0
            readable = self._sleep(min(wait, pause) if self._paused else wait, room=waits_for_room)
            if may_read and (readable or stream.unread()):
                self._read(connection, stream)
            self.work()
            now = self._monotonic()
            if now >= next_check:
                if not may_read:
                    internals.count_as_alive(connection)
                connection.heartbeat_tick()
                next_check = now + _HEARTBEAT_CHECK_SECONDS

    def _may_end(self, stream: Stream) -> bool:
        """Whether the connection is to be closed, and has nothing left to do or no more time."""
        if self._stopping.is_set():
            before = self._stop_before
        elif self._renewing.is_set():
            before = self._renew_before
        else:
            return False
        return (self.idle() and not stream.written) or self._monotonic() > before

    def _sleep(self, seconds: float, *, room: bool) -> bool:
        """Whether there is something to read, after at most so long, or earlier if the socket takes something."""
        self._turn.begin_sleep()
        try:
            return self._sleeper.sleep(seconds, reads=not self._paused, room=room)
        finally:
            self._turn.end_sleep()

    def _reads_in_time(self) -> bool:
        """Whether the sleeping thread need not be woken to read: it listens, or its pause still holds."""
        return not self._paused or self.read_pause() > 0

    def _read(self, connection: Any, stream: Stream) -> None:
        """Read every frame that has arrived and may be read."""
        while True:
            try:
                if not stream.take(self.read):
                    connection.blocking_read()  # one frame: drain_events would wait for more after a mere heartbeat
            except TimeoutError as error:
                raise amqp.exceptions.RecoverableConnectionError("the broker stalled within a frame") from error
            if not connection.connected:
                raise amqp.exceptions.RecoverableConnectionError("the connection was closed")
            if not stream.readable() or self.read_pause() == FOREVER:
                return
