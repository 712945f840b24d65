# SPDX-License-Identifier: Apache-2.0
"""Plain connections of py-amqp to the simulated broker or to a real one, for tests that hold for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import amqp

from tests.simulation.broker import Broker
from tests.simulation.bus import SimulatedConnection
from tests.simulation.machine import Machine
from tests.simulation.sockets import Network
from tests.simulation.stage import Stage

_HEARTBEAT_SECONDS = 60
_PATIENCE_SECONDS = 20.0
_QUIET_SECONDS = 0.5


class Desk(Protocol):
    """What a story gets."""

    def connect(self) -> amqp.Connection: ...

    def now(self) -> float: ...


Story = Callable[[Desk], None]


class RealDesk:
    """Connections to a virtual host of RabbitMQ."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url.partition("?")[0])
        self._made: list[amqp.Connection] = []

    def connect(self) -> amqp.Connection:
        parts = self._parts
        connection = amqp.Connection(
            host=f"{parts.hostname}:{parts.port}",
            userid=parts.username,
            password=parts.password,
            virtual_host=unquote(parts.path[1:]),
            heartbeat=_HEARTBEAT_SECONDS,
        )
        connection.connect()
        self._made.append(connection)
        return connection

    def now(self) -> float:
        return time.monotonic()

    def play(self, story: Story) -> None:
        try:
            story(self)
        finally:
            for connection in self._made:
                connection.collect()


class SimulatedDesk:
    """Connections to a simulated broker, on a virtual thread."""

    def __init__(self) -> None:
        self._stage = Stage(1)
        self._machine = Machine(self._stage, "desk")
        broker = Broker(self._stage, heard=lambda queue, message: None)
        broker.topics = ()
        self._network = Network(broker, self._machine)

    def connect(self) -> amqp.Connection:
        connection = SimulatedConnection(self._network, _HEARTBEAT_SECONDS)
        connection.connect()
        return connection

    def now(self) -> float:
        return self._stage.now

    def play(self, story: Story) -> None:
        failures: list[BaseException] = []
        ended: list[bool] = []

        def run() -> None:
            try:
                story(self)
                ended.append(True)
            except Exception as error:  # noqa: BLE001 it is raised below
                failures.append(error)

        self._machine.spawn(run)
        self._stage.run(600)
        self._stage.close()
        if failures:
            raise failures[0]
        assert ended


class Ear:
    """Keeps what a broker says on one channel."""

    def __init__(self, desk: Desk, channel: Any) -> None:
        self._desk = desk
        self._channel = channel
        self.delivered: list[tuple[str, bytes, bool, int]] = []
        """Queue, body, whether it was delivered before, tag."""
        self.said: list[tuple[Any, ...]] = []
        self.cancelled: list[str] = []
        channel.auto_decode = False
        channel.events["basic_return"].add(lambda error, exchange, key, message: self.said.append(("return", key)))

    def confirm(self) -> None:
        """Keep what is said about published messages."""
        self._channel.confirm_select()
        for event, name in (("basic_ack", "ack"), ("basic_nack", "nack")):
            self._channel.events[event].add(lambda tag, multiple, name=name: self.said.append((name, tag, multiple)))

    def consume(self, queue: str, limit: int = 0) -> None:
        self._channel.basic_qos(0, limit, False)
        self._channel.basic_consume(queue, consumer_tag=queue, callback=self._hear, on_cancel=self.cancelled.append)

    def _hear(self, message: Any) -> None:
        info = message.delivery_info
        self.delivered.append((info["consumer_tag"], bytes(message.body), info["redelivered"], info["delivery_tag"]))

    def bodies(self) -> list[bytes]:
        return [body for _, body, _, _ in self.delivered]

    def until(self, done: Callable[[], object]) -> None:
        """Read until ``done``."""
        before = self._desk.now() + _PATIENCE_SECONDS
        while not done():
            assert self._desk.now() < before, (self.delivered, self.said, self.cancelled)
            with suppress(TimeoutError):
                self._channel.connection.drain_events(timeout=0.1)

    def quiet(self) -> None:
        """Read what comes within a moment."""
        until = self._desk.now() + _QUIET_SECONDS
        self.until(lambda: self._desk.now() > until)


def new_name() -> str:
    return f"q-{uuid4().hex}"


def publish(channel: Any, body: bytes, *, exchange: str = "", key: str, **options: Any) -> None:
    mandatory = options.pop("mandatory", False)
    channel.basic_publish(amqp.Message(body, **options), exchange=exchange, routing_key=key, mandatory=mandatory)
