# SPDX-License-Identifier: Apache-2.0
"""A listener that keeps every notification of a topic, and the messages of the dead-letter queue."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
import kombu
from kombu.exceptions import OperationalError

from tests.invariants.record import Heard, Parked

DEAD_LETTERS = "tracker.dead"
TOPIC = "notifications"
PRIORITIES = ("info", "warn")
LOST = (*amqp.Connection.connection_errors, *amqp.Connection.channel_errors, OperationalError)
# The broker gives up a connection with a heartbeat of 10 s after 20 s.
_SILENT_NETWORK_MS = 40_000


class Listener:
    """A consumer of a topic's notification queues that keeps every notification and continues after a lost connection.

    ``heard`` is in order of arrival. A second stop has no effect.
    """

    def __init__(self, transport_url: str, *, durable: bool = False, topic: str = TOPIC) -> None:
        self._url = _amqp_url(transport_url)
        self._durable = durable
        self._queues = [f"{topic}.{priority}" for priority in PRIORITIES]
        self._heard: list[Heard] = []
        self._stopping = threading.Event()
        self._paused = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    def pause(self) -> None:
        """Consume nothing until ``resume``. Returns immediately; for a moment, notifications may still arrive."""
        self._paused.set()

    def resume(self) -> None:
        self._paused.clear()

    @property
    def heard(self) -> list[Heard]:
        return list(self._heard)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._paused.is_set():
                with contextlib.suppress(*LOST), self._connected() as connection:
                    self._consume(connection)
            self._stopping.wait(0.2)

    def _connected(self) -> Any:
        # A connection that only this side has given up keeps its notifications at the broker for a while, and the next
        # connection receives later ones first. py-amqp gives up after a second in which the network drops everything.
        options = {"socket_settings": {socket.TCP_USER_TIMEOUT: _SILENT_NETWORK_MS}}
        return kombu.Connection(self._url, connect_timeout=5, heartbeat=10, transport_options=options)

    def _consume(self, connection: Any) -> None:
        channel = connection.default_channel
        exchange = kombu.Exchange("openstack", "topic", durable=self._durable, auto_delete=False)
        channel.basic_qos(0, 500, False)
        for name in self._queues:
            queue = kombu.Queue(name, exchange, routing_key=name, durable=self._durable, auto_delete=False)
            queue(channel).declare()
            channel.basic_consume(name, callback=lambda message, name=name: self._hear(channel, name, message))
        while not self._stopping.is_set() and not self._paused.is_set():
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
            connection.heartbeat_check()

    def _hear(self, channel: Any, queue: str, message: Any) -> None:
        said = json.loads(json.loads(message.body)["oslo.message"])
        self._heard.append(
            Heard(
                queue=queue,
                message_id=said["message_id"],
                event_type=said["event_type"],
                priority=said["priority"],
                publisher_id=said["publisher_id"],
                timestamp=said["timestamp"],
                payload=said["payload"],
            )
        )
        channel.basic_ack(message.delivery_tag)


@contextmanager
def listener(transport_url: str, *, durable: bool = False, topic: str = TOPIC) -> Iterator[Listener]:
    """Run a listener. ``durable`` is the clients' ``amqp_durable_queues``."""
    listening = Listener(transport_url, durable=durable, topic=topic)
    listening.start()
    try:
        yield listening
    finally:
        listening.stop()


def dead_letters(transport_url: str) -> list[Parked]:
    """All messages in the dead-letter queue; they stay in the queue."""
    parked = []
    with kombu.Connection(_amqp_url(transport_url), connect_timeout=5) as connection:
        channel = connection.default_channel
        while (message := channel.basic_get(DEAD_LETTERS)) is not None:
            headers = message.headers or {}
            parked.append(Parked(unique_id=_unique_id(message.body), reason=str(headers.get("x-tracker-reason", ""))))
    return parked


def _unique_id(body: bytes | str) -> str | None:
    try:
        unique_id = json.loads(json.loads(body)["oslo.message"])["_unique_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(unique_id)


def _amqp_url(transport_url: str) -> str:
    return transport_url.partition("?")[0].replace("rabbit://", "amqp://", 1)
