# SPDX-License-Identifier: Apache-2.0
"""A link gives up a connection, and other threads write on a connection whose link sleeps."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import amqp
import pytest

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tracker_worker.bus.amqp import connection as module
from tracker_worker.bus.amqp import opening
from tracker_worker.bus.amqp.connection import BrokerConnection
from tracker_worker.bus.settings import ConnectionSettings

_SECONDS = 10


@pytest.fixture(autouse=True)
def _own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connections here have a socket, but nothing else of py-amqp's."""
    inner = SimpleNamespace(
        declare_capabilities=lambda connection, blocked: None,
        when_transport_connects=lambda connection, connected: setattr(connection, "transport_connected", connected),
        intercept_frames=lambda connection: None,
        dismantle=lambda connection: connection.collect(),
    )
    monkeypatch.setattr(opening, "internals", inner)


class _Connection:
    """A connection that is readable immediately. Its read raises, as after the deletion of a queue, and it can still be
    closed.
    """

    connected = True

    def __init__(self, said: list[str], error: BaseException) -> None:
        self.sock, self._peer = socket.socketpair()
        self._peer.send(b"\0")
        self.transport = SimpleNamespace(sock=self.sock)
        self.transport_connected: Callable[[], None]
        self._said = said
        self._error = error

    def connect(self) -> None:
        self.transport_connected()

    def blocking_read(self) -> None:
        raise self._error

    def heartbeat_tick(self) -> None:
        """No heartbeat is due."""

    def close(self) -> None:
        # Until the broker answers, py-amqp reads every frame in transit and passes it to the link's callbacks.
        self._said.append("a late frame")
        self.connected = False

    def collect(self) -> None:
        self.sock.close()
        self._peer.close()


class _Link(BrokerConnection):
    def __init__(self, settings: ConnectionSettings, said: list[str], died: Callable[[BaseException], None]) -> None:
        super().__init__("link", settings, died)
        self._said = said
        self.given_up = threading.Event()

    def opened(self, connection: Any) -> None:
        self._said.append("opened")

    def work(self) -> None:
        """The link has no work."""

    def idle(self) -> bool:
        return True

    def lost(self) -> None:
        self._said.append("lost")
        self.given_up.set()


class _Settings:
    """The settings of a link whose connections are ``_Connection`` objects."""

    urls: Sequence[str] = ("amqp://guest:guest@broker/",)
    heartbeat_seconds = _SECONDS

    def __init__(self, said: list[str], error: BaseException) -> None:
        self._said, self._error = said, error

    def delays(self) -> Iterator[float]:
        while True:
            yield _SECONDS

    def connection(self, _url: str) -> Any:
        return _Connection(self._said, self._error)


@pytest.mark.parametrize("error", [amqp.exceptions.ConsumerCancelled("a queue is gone"), RuntimeError("a defect")])
def test_a_frame_read_while_a_connection_is_closed_belongs_to_that_connection(error: BaseException) -> None:
    said: list[str] = []
    link = _Link(cast(ConnectionSettings, _Settings(said, error)), said, lambda error: None)

    link.start()
    with closing(SimpleNamespace(close=lambda: link.stop(_SECONDS))):
        assert link.given_up.wait(_SECONDS)

    # After a subclass has dropped its state in ``lost``, no frame of the old connection may follow.
    assert said == ["opened", "a late frame", "lost"]


class _Peer:
    """The settings of a connection whose other end is ``end``. Connecting blocks until ``accept`` is set."""

    urls: Sequence[str] = ("amqp://guest:guest@broker/",)
    heartbeat_seconds = _SECONDS

    def __init__(self) -> None:
        self.sock, self.end = socket.socketpair()
        self.end.settimeout(_SECONDS)
        self.accept = threading.Event()
        self.connected = True
        self.transport_connected: Callable[[], None]
        self.transport = SimpleNamespace(sock=self.sock)

    def connection(self, _url: str) -> Any:
        return self

    def connect(self) -> None:
        assert self.accept.wait(_SECONDS)
        self.transport_connected()

    def delays(self) -> Iterator[float]:
        yield _SECONDS

    def blocking_read(self) -> None:
        raise ConnectionResetError("all that is sent is for the link")

    def heartbeat_tick(self) -> None:
        """No heartbeat is due."""

    def close(self) -> None:
        self.connected = False

    def collect(self) -> None:
        self.sock.close()

    def hear(self, size: int) -> bytes:
        heard = bytearray()
        while len(heard) < size:
            heard += self.end.recv(min(65536, size - len(heard)))
        return bytes(heard)


class _Writing(BrokerConnection):
    """A link that writes each item of ``waiting`` in two pieces and records the writing threads. ``hold`` blocks it at work."""

    def __init__(self, peer: _Peer) -> None:
        super().__init__("link", cast(ConnectionSettings, peer), self._die)
        self.peer = peer
        self.waiting: deque[bytes] = deque()
        self.writers: list[int] = []
        self.working = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self.heard: list[tuple[bytes, float]] = []
        self.hearing = threading.Event()
        self.paused_until = 0.0
        self.errors: list[BaseException] = []

    def _die(self, error: BaseException) -> None:
        self.errors.append(error)

    def opened(self, connection: Any) -> None:
        """The link declares nothing."""

    def work(self) -> None:
        self.working.set()
        assert self.hold.wait(_SECONDS)
        self.write()

    def write(self) -> None:
        if self.waiting:
            self.writers.append(threading.get_ident())
        while self.waiting:
            data = self.waiting.popleft()
            self.peer.transport._write(data[:7])
            self.peer.transport._write(data[7:])

    def read(self, data: bytes, position: int) -> int:
        self.heard.append((data[position:], time.monotonic()))
        self.hearing.set()
        return len(data)

    def read_pause(self) -> float:
        return self.paused_until - time.monotonic()

    def idle(self) -> bool:
        return True

    def lost(self) -> None:
        """The link has no state of a connection."""

    def send(self, data: bytes) -> None:
        self.waiting.append(data)
        self.flush_soon()

    def rest(self) -> None:
        """Return when the link sleeps; only the test wakes it."""
        assert self._turn._lock.acquire(timeout=_SECONDS)
        self._turn._lock.release()


class TestFlushSoon:
    @pytest.fixture
    def link(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Writing]:
        monkeypatch.setattr(module, "_HEARTBEAT_CHECK_SECONDS", 3600)
        peer = _Peer()
        link = _Writing(peer)
        yield link
        link.hold.set()
        peer.accept.set()
        link.stop(_SECONDS)
        peer.end.close()
        peer.sock.close()
        assert link.errors == []

    @pytest.fixture
    def resting(self, link: _Writing) -> _Writing:
        link.peer.accept.set()
        link.start()
        link.rest()
        return link

    @pytest.mark.parametrize("pause_seconds", [0, 3600])
    def test_the_calling_thread_writes_while_the_link_sleeps_and_does_not_wake_it(
        self, link: _Writing, monkeypatch: pytest.MonkeyPatch, pause_seconds: float
    ) -> None:
        link.paused_until = time.monotonic() + pause_seconds
        link.peer.accept.set()
        link.start()
        link.rest()
        with monkeypatch.context() as patch:
            patch.setattr(link, "wake", lambda: link.errors.append(AssertionError("woken")))
            link.send(b"written by the caller")
            assert link.peer.hear(21) == b"written by the caller"
        assert link.writers == [threading.get_ident()]
        assert not link.working.is_set()

    def test_a_caller_does_not_wait_for_a_link_at_work(self, resting: _Writing) -> None:
        resting.hold.clear()
        resting.wake()
        assert resting.working.wait(_SECONDS)
        resting.send(b"written by the link")
        assert resting.writers == []
        resting.hold.set()
        assert resting.peer.hear(19) == b"written by the link"
        assert resting.writers == [resting._thread.ident]

    def test_a_message_submitted_after_the_last_check_of_the_link_is_written(
        self, resting: _Writing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked, go_on = threading.Event(), threading.Event()

        def sent() -> None:
            if resting.working.is_set() and not looked.is_set():
                looked.set()
                assert go_on.wait(_SECONDS)

        monkeypatch.setattr(resting, "sent", sent)
        resting.wake()
        assert looked.wait(_SECONDS)
        resting.send(b"just too late")
        assert resting.writers == []
        go_on.set()
        assert resting.peer.hear(13) == b"just too late"

    def test_messages_without_a_connection_are_written_as_soon_as_it_exists(self, link: _Writing) -> None:
        link.send(b"first")
        link.start()
        link.send(b"second")
        assert link.writers == []
        link.peer.accept.set()
        assert link.peer.hear(11) == b"firstsecond"
        assert link.writers == [link._thread.ident]

    def test_the_link_sends_the_bytes_that_the_socket_does_not_take(self, resting: _Writing) -> None:
        much = bytes(number % 251 for number in range(4_000_000))
        resting.send(much)
        assert resting.writers == [threading.get_ident()]
        assert resting.peer.hear(len(much)) == much

    def test_neither_a_caller_nor_the_link_waits_for_the_peer(self, resting: _Writing) -> None:
        much = bytes(4_000_000)
        resting.send(much)
        assert resting.working.wait(_SECONDS)
        resting.send(b"behind it")
        # The link goes on reading meanwhile: the peer may say why it takes nothing.
        resting.peer.end.sendall(b"said")
        assert resting.hearing.wait(_SECONDS)
        assert resting.peer.hear(len(much)) == much
        assert resting.peer.hear(9) == b"behind it"

    def test_a_link_that_has_stopped_writes_nothing(self, resting: _Writing) -> None:
        resting.stop(_SECONDS)
        resting.send(b"too late")
        assert resting.writers == []

    def test_messages_of_many_threads_are_not_interleaved(self, resting: _Writing) -> None:
        count, each = 4, 500

        def submit(number: int, most: int = each) -> None:
            for index in range(most):
                body = struct.pack(">HI", number, index) + bytes([number]) * (index % 300)
                resting.send(struct.pack(">I", len(body)) + body)

        def read() -> list[list[int]]:
            found: list[list[int]] = [[] for _ in range(count + 1)]
            # The reader reads large pieces: if it waited for the interpreter too often, it would look like a stalled peer.
            with resting.peer.end.makefile("rb", 1 << 18) as heard:
                for total in range(count * each + 1):
                    (size,) = struct.unpack(">I", heard.read(4))
                    number, index = struct.unpack(">HI", (body := heard.read(size))[:6])
                    assert body[6:] == bytes([number]) * (index % 300)
                    found[number].append(index)
                    if total % 400 == 0:
                        resting.peer.end.send(b".")  # wakes the link and gives it work
            return found

        submit(count, most=1)  # written by this thread, because the link sleeps; this thread writes nothing more
        with ThreadPoolExecutor(count + 1) as pool:
            found = pool.submit(read)
            for submitted in [pool.submit(submit, number) for number in range(count)]:
                submitted.result()
            assert found.result(6 * _SECONDS) == [list(range(each))] * count + [[0]]
        assert len(set(resting.writers)) > 1

    def test_the_link_reads_arriving_bytes_without_py_amqp(self, resting: _Writing) -> None:
        resting.peer.end.sendall(b"a delivery")
        assert resting.hearing.wait(_SECONDS)
        assert resting.working.wait(_SECONDS)
        assert [data for data, _ in resting.heard] == [b"a delivery"]

    def test_a_send_after_the_end_of_the_read_pause_makes_a_sleeping_link_read(self, link: _Writing) -> None:
        link.paused_until = time.monotonic() + 3600
        link.peer.accept.set()
        link.start()
        link.peer.end.sendall(b"news")
        link.rest()
        link.send(b"some")
        assert not link.working.is_set()
        link.paused_until = 0.0
        link.send(b"more")
        assert link.hearing.wait(_SECONDS)
        assert link.peer.hear(8) == b"somemore"
        assert link.writers == [threading.get_ident()] * 2

    def test_a_link_reads_at_the_end_of_its_read_pause_and_not_before(self, link: _Writing) -> None:
        link.paused_until = time.monotonic() + 0.3
        link.peer.end.sendall(b"news")
        link.peer.accept.set()
        link.start()
        assert link.hearing.wait(_SECONDS)
        ((data, at),) = link.heard
        assert data == b"news"
        assert at >= link.paused_until

    def test_a_link_whose_read_pause_was_ended_reads_when_it_is_woken(self, link: _Writing) -> None:
        link.paused_until = time.monotonic() + 3600
        link.peer.accept.set()
        link.start()
        link.peer.end.sendall(b"news")
        link.rest()
        assert not link.hearing.is_set()
        link.paused_until = 0.0
        link.wake()
        assert link.hearing.wait(_SECONDS)
        assert [data for data, _ in link.heard] == [b"news"]
