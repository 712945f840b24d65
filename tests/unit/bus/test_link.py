# SPDX-License-Identifier: Apache-2.0
"""What a link does with a connection that it gives up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import amqp
import pytest

import tests.messaging  # noqa: F401 before oslo.messaging
from tracker_worker.bus.link import Link
from tracker_worker.bus.settings import ConnectionSettings

_SECONDS = 10


class _Connection:
    """Readable at once; reading fails as it does when a queue is deleted, and the connection is still there to be closed."""

    connected = True

    def __init__(self, said: list[str], error: BaseException) -> None:
        self.sock, self._peer = socket.socketpair()
        self._peer.send(b"\0")
        self.transport = SimpleNamespace(sock=self.sock)
        self.client_properties: dict[str, Any] = {}
        self._said = said
        self._error = error

    def blocking_read(self) -> None:
        raise self._error

    def heartbeat_tick(self) -> None:
        """None is due."""

    def close(self) -> None:
        # Until the broker's answer everything is read that was on the way, and handed to the link's callbacks.
        self._said.append("a late frame")
        self.connected = False

    def collect(self) -> None:
        self.sock.close()
        self._peer.close()


class _Link(Link):
    def __init__(self, settings: ConnectionSettings, said: list[str], died: Callable[[BaseException], None]) -> None:
        super().__init__("link", settings, died)
        self._said = said
        self.given_up = threading.Event()

    def opened(self, connection: Any) -> None:
        self._said.append("opened")

    def work(self) -> None:
        """There is none."""

    def idle(self) -> bool:
        return True

    def lost(self) -> None:
        self._said.append("lost")
        self.given_up.set()


class _Settings:
    """Each connection is a ``_Connection``."""

    urls: Sequence[str] = ("amqp://guest:guest@broker/",)

    def __init__(self, said: list[str], error: BaseException) -> None:
        self._said, self._error = said, error

    def delays(self) -> Iterator[float]:
        while True:
            yield _SECONDS

    def connection(self, _url: str) -> Any:
        made = _Connection(self._said, self._error)
        return SimpleNamespace(transport=SimpleNamespace(establish_connection=lambda: made))


@pytest.mark.parametrize("error", [amqp.exceptions.ConsumerCancelled("a queue is gone"), RuntimeError("a defect")])
def test_what_is_said_while_a_connection_is_closed_belongs_to_that_connection(error: BaseException) -> None:
    said: list[str] = []
    link = _Link(cast(ConnectionSettings, _Settings(said, error)), said, lambda error: None)

    link.start()
    with closing(SimpleNamespace(close=lambda: link.stop(_SECONDS))):
        assert link.given_up.wait(_SECONDS)

    # What a subclass forgets when it is lost must not be followed by more of it.
    assert said == ["opened", "a late frame", "lost"]
