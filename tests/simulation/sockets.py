# SPDX-License-Identifier: Apache-2.0
"""The network between one process and the broker, in virtual time: sockets that are none, under the real bus and py-amqp.

What is sent arrives after a while, and in order; what is sent while something is under way arrives with it. What travels on a
connection when it is lost is lost too, and each side notices at a time of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulation.broker import MOST_TRAVEL_SECONDS, Broker
from tests.simulation.machine import Machine
from tests.simulation.queues import Stored
from tests.simulation.session import Session
from tests.simulation.stage import Due
from tracker_worker.bus.amqp.system import Sleeper, System

CONNECT_SECONDS = 2.0
_NOTICE_SECONDS = 15.0
"""The most that either side takes to notice a silent connection: heartbeats, and TCP's own time limit."""


class Socket:
    """The client's end of one connection, and the way to the broker's end. ``cut``: nothing arrives at either side."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._machine = network.machine
        self._stage = network.machine.stage
        self.cut = False
        self.closed = False
        self.arrived: Callable[[], None] = lambda: None
        """Called when there is something to read."""
        self._to_broker: list[bytes] = []
        self._to_client: list[bytes] = []
        self._inbox: deque[bytes] = deque()
        self._said_goodbye = False  # the broker will close its end
        self._over = False  # nothing more will come
        self._error: OSError | None = None
        self._timeout: float | None = None
        self.session = Session(network.broker, network.machine, self)

    # --- the client's side --------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether there is something to read, an error included."""
        return bool(self._inbox) or self._over or self._error is not None or self.closed

    def wait(self, seconds: float) -> None:
        """Wait on a virtual thread until there is something to read, for at most so long."""
        if not self.ready():
            before = self.arrived
            sleeper = VirtualSleeper(self._machine)
            sleeper.watch(self)
            sleeper.sleep(seconds, reads=True, room=False)
            self.arrived = before

    def recv(self, size: int) -> bytes:
        """Waits, as a socket with a timeout does."""
        if not self._inbox:
            self.wait(1e12 if self._timeout is None else self._timeout)
        if self._inbox:
            data = self._inbox.popleft()
            if len(data) > size:
                self._inbox.appendleft(data[size:])
                data = data[:size]
            return data
        if self.closed:
            raise OSError("the socket is closed")
        if self._error is not None:
            raise self._error
        if self._over:
            return b""
        raise TimeoutError("timed out")

    def sendall(self, data: bytes | bytearray) -> None:
        if self.closed or self._error is not None:
            raise BrokenPipeError("the connection is gone")
        if not self._to_broker:
            self._stage.later(self._stage.random.random() * MOST_TRAVEL_SECONDS, self._at_broker)
        self._to_broker.append(bytes(data))

    def _at_broker(self) -> None:
        data = b"".join(self._to_broker)
        self._to_broker.clear()
        if not self.cut and self.session.open:
            self.session.receive(data)

    def close(self) -> None:
        """Also when the process ends: the system closes what it leaves open."""
        if not self.closed:
            self.closed = True
            self._network.sockets.remove(self)
            self._stage.later(MOST_TRAVEL_SECONDS, self._closed_at_broker)

    def _closed_at_broker(self) -> None:
        if not self.cut:
            self.session.end()

    def fileno(self) -> Socket:
        """What the system writes to."""
        return self

    def shutdown(self, _how: int) -> None:
        """Who waits for the socket goes on."""
        self._over = True
        self.arrived()

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def setsockopt(self, *_: Any) -> None:
        """There are no options."""

    def getsockopt(self, *_: Any) -> int:
        return 0

    # --- the broker's side --------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """The broker sends something."""
        if not self._to_client:
            self._machine.later(self._stage.random.random() * MOST_TRAVEL_SECONDS, self._at_client)
        self._to_client.append(data)

    def _at_client(self) -> None:
        data = b"".join(self._to_client)
        self._to_client.clear()
        if not self.cut:
            self._inbox.append(data)
            self._over = self._over or self._said_goodbye
            self.arrived()

    def goodbye(self) -> None:
        """The broker closes its end, after what it has sent."""
        self._said_goodbye = True
        if not self._to_client:
            self._machine.later(self._stage.random.random() * MOST_TRAVEL_SECONDS, self._at_client)

    def reset(self) -> None:
        """The broker's end is gone without a word."""
        self.cut = True
        self._machine.later(
            self._stage.random.random() * MOST_TRAVEL_SECONDS, lambda: self.fail(ConnectionResetError("reset by peer"))
        )

    # --- what can happen to it ----------------------------------------------------------------------------------------------

    def fail(self, error: OSError) -> None:
        """The client's system notices that the connection is gone."""
        self._error = error
        self.arrived()

    def break_off(self, *, quick: bool) -> None:
        """Nothing arrives at either side any more."""
        if self.cut:
            return
        self.cut = True
        most, random = 0.1 if quick else _NOTICE_SECONDS, self._stage.random
        self._machine.later(random.random() * most, lambda: self.fail(TimeoutError("the connection timed out")))
        self._stage.later(random.random() * most, self.session.end)


class Network:
    """All connections of one process. ``partitioned``: the broker cannot be reached."""

    def __init__(self, broker: Broker, machine: Machine) -> None:
        self.broker = broker
        self.machine = machine
        self.sockets: list[Socket] = []
        self.partitioned = False

    def connect(self) -> Socket:
        """Wait on a virtual thread until there is a connection. Raises OSError."""
        stage = self.machine.stage
        self.machine.sleep(CONNECT_SECONDS if self.partitioned else stage.random.random() * MOST_TRAVEL_SECONDS)
        if self.partitioned:
            raise TimeoutError("timed out")
        if not self.broker.up:
            raise ConnectionRefusedError("connection refused")
        sock = Socket(self)
        self.sockets.append(sock)
        return sock

    def break_off(self) -> None:
        """All connections are lost; each side of each notices it at a time of its own."""
        quick = self.machine.stage.random.random() < 0.7
        for sock in self.sockets:
            sock.break_off(quick=quick)

    def end(self) -> None:
        """The process has ended."""
        for sock in list(self.sockets):
            sock.close()

    def unacknowledged(self) -> list[Stored]:
        """What this process has received, or will, and not acknowledged."""
        return [stored for sock in self.sockets for _, stored in sock.session.unacknowledged()]


class VirtualSystem(System):
    """The clock, the threads and the sockets of a machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._machine = machine
        self.write = _write

    def wait(self, sock: Socket, seconds: float, *, room: bool) -> tuple[bool, bool]:
        if seconds > 0:
            sock.wait(seconds)
        ready = sock.ready()
        return ready, ready

    def sleeper(self) -> Sleeper:
        return VirtualSleeper(self._machine)

    def break_off(self, sock: Socket) -> None:
        sock.shutdown(0)


def _write(sock: Socket, data: bytes | bytearray) -> int:
    sock.sendall(data)
    return len(data)


class VirtualSleeper(Sleeper):
    """What one virtual thread sleeps on. A socket always has room."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._socket: Socket | None = None
        self._thread: Any = None  # while it sleeps
        self._due: Due | None = None
        self._reads = False
        self._woken = False
        self._stirred = False
        self.wake = self._wake

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._stir()

    def _arrived(self) -> None:
        if self._reads:
            self._stir()

    def _stir(self) -> None:
        if self._thread is not None and not self._stirred:
            assert self._due is not None
            self._stirred = True
            self._due.cancelled = True
            self._due = self._machine.soon(self._go_on)

    def _go_on(self) -> None:
        self._machine.stage.go_on(self._thread)

    def watch(self, sock: Socket) -> None:
        self._socket = sock
        sock.arrived = self._arrived

    def sleep(self, seconds: float, *, reads: bool, room: bool) -> bool:
        machine, sock = self._machine, self._socket
        assert sock is not None
        self._reads = reads
        self._stirred = self._woken or (reads and sock.ready())
        self._due = machine.soon(self._go_on) if self._stirred else machine.later(seconds, self._go_on)
        self._thread = machine.stage.current()
        machine.stage.wait()
        self._thread = None
        self._woken = False
        return reads and sock.ready()

    def close(self) -> None:
        """There is nothing to close."""

    def abandon(self) -> None:
        """There is nothing to close."""
