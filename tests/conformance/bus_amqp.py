# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the suite for the bus on RabbitMQ: the clients' side of the broker, and connections that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import uuid4

import amqp
from oslo_config import cfg

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tests.support.bus import HOSTS, Letter, Outside
from tests.support.deadline import wait_until
from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import FANOUT, SHARED, Bus
from tracker_worker.bus.settings import BrokerSettings, read_settings
from tracker_worker.conf import register_opts
from tracker_worker.wire.message import JSON, ReplyTo


class Lines:
    """The connections of buses. ``cut`` ends them as a broken network does, and refuses new connections until ``mend``."""

    def __init__(self, *, down: bool = False) -> None:
        self._lock = threading.Lock()
        self._down = down
        self._sockets: list[socket.socket] = []
        self.attempts = 0

    def watch(self, connection: amqp.Connection) -> amqp.Connection:
        """Watch ``connection``: record its attempts to connect, and refuse them while the lines are cut."""
        connect = connection.connect

        def watched() -> None:
            with self._lock:
                self.attempts += 1
                if self._down:
                    raise ConnectionRefusedError("the line is cut")
            connect()
            with self._lock:
                self._sockets.append(connection.sock)

        connection.connect = watched
        return connection

    def cut(self) -> None:
        with self._lock:
            self._down = True
            for line in self._sockets:
                with contextlib.suppress(OSError):  # already closed
                    line.shutdown(socket.SHUT_RDWR)
            self._sockets.clear()

    def mend(self) -> None:
        with self._lock:
            self._down = False


@dataclass(frozen=True, kw_only=True)
class LinedSettings(BrokerSettings):
    """Settings whose connections go through ``lines``."""

    lines: Lines

    def connection(self, url: str) -> amqp.Connection:
        return self.lines.watch(super().connection(url))


def broker_settings(url: str, *, lines: Lines, **options: Any) -> LinedSettings:
    """The settings as a worker reads them. ``options`` are named ``group__option``."""
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("transport_url", url)
    for name, value in options.items():
        group, _, option = name.partition("__")
        conf.set_override(option, value, group=group)
    read = read_settings(conf)
    values = {field.name: getattr(read, field.name) for field in fields(BrokerSettings)}
    # The broker is available, so a longer pause before a retry would only slow the tests.
    quick = {"retry_start_seconds": 0.01, "retry_step_seconds": 0.0}
    return LinedSettings(**{**values, **quick}, lines=lines)


class Broker(Outside):
    """One virtual host of RabbitMQ, with a separate connection. Not thread-safe."""

    def __init__(self, url: str, **options: Any) -> None:
        self.lines = Lines()
        self.settings = broker_settings(url, lines=self.lines, **options)
        self._connection = amqp_connection(self.settings)
        self.channel = self._connection.channel()
        self.channel.auto_decode = False
        queues = [
            *(topology.host_queue(self.settings, host) for host in HOSTS),
            topology.shared_queue(self.settings),
        ]
        topology.declare_served(self._connection, self.settings, queues)
        topology.declare_notifications(self._connection, self.settings)

    def close(self) -> None:
        self._connection.close()

    def other_channel(self) -> amqp.Channel:
        """A channel for what may be refused, as a context."""
        return self._connection.channel()

    def bus(self) -> Bus:
        return AMQPBus(self.settings)

    def publish(
        self,
        source: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        expires_seconds: float | None = None,
    ) -> None:
        properties: dict[str, Any] = {"content_type": JSON, "content_encoding": "utf-8", "delivery_mode": 2}
        if headers is not None:
            properties["application_headers"] = dict(headers)
        if expires_seconds is not None:
            properties["expiration"] = str(int(expires_seconds * 1000))
        topic = self.settings.topic
        if source == FANOUT:
            place = {"exchange": f"{topic}_fanout", "routing_key": ""}
        else:
            key = topic if source == SHARED else f"{topic}.{source}"
            place = {"exchange": self.settings.exchange, "routing_key": key}
        self.channel.basic_publish(amqp.Message(body, **properties), **place)

    def open_replies(self, name: str | None = None) -> ReplyTo:
        queue = name or f"reply_{uuid4().hex}"
        self.channel.queue_declare(queue, auto_delete=False, exclusive=True)
        return ReplyTo(queue, uuid4().hex)

    def take(self, queue: str) -> Any:
        """Wait for the next message of a queue and return it."""
        return wait_until(lambda: self.channel.basic_get(queue, no_ack=True), f"a message in {queue}")

    def count(self, queue: str) -> int:
        """The number of ready messages in a queue."""
        return int(self.channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str) -> int:
        """The number of consumers of a queue; 0 if there is no queue."""
        with self.other_channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).consumer_count)
            except amqp.NotFound:
                return 0

    def take_reply(self, reply_to: ReplyTo) -> bytes:
        return bytes(self.take(reply_to.queue).body)

    def take_notification(self) -> bytes:
        return bytes(self.take("notifications.info").body)

    def take_parked(self) -> Letter:
        parked = self.take(self.settings.dead_letter_queue)
        return Letter(bytes(parked.body), parked.headers)

    def take_all(self, queue: str, last: bytes) -> Sequence[bytes]:
        """Wait for ``last`` and return the bodies in a queue up to it."""
        bodies = [bytes(self.take(queue).body)]
        while bodies[-1] != last:
            bodies.append(bytes(self.take(queue).body))
        return bodies


def amqp_connection(settings: BrokerSettings) -> Any:
    """A py-amqp connection that belongs to no bus and that ``cut`` does not end."""
    connection = BrokerSettings.connection(settings, settings.urls[0])
    connection.connect()
    return connection
