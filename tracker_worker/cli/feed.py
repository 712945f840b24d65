# SPDX-License-Identifier: Apache-2.0
"""The notifications that ``tracker-worker watch`` shows, as they are published."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import LOST, BrokerSettings
from tracker_worker.cli.broker import close, connect
from tracker_worker.cli.failures import CommandFailed
from tracker_worker.cli.output import plain
from tracker_worker.domain.resources import CLASSES
from tracker_worker.notifications.notification import PRIORITIES
from tracker_worker.wire.message import Malformed, decode_message

# A watcher whose output is paused (Ctrl-S, a pager) must not fill the broker's memory: beyond this many messages the broker
# drops the oldest ones from the watcher's queue.
_MAX_QUEUED = 100_000
_HEARTBEAT_CHECK_SECONDS = 1


class Feed:
    """Copies of the notifications on ``topic``. ``report`` is called with a sentence about each change of the connection
    and about each message that is not a notification. Belongs to one thread."""

    def __init__(self, settings: BrokerSettings, topic: str, report: Callable[[str], None]) -> None:
        self._settings = settings
        self._topic = topic
        self._report = report
        self._connection: Any = None
        self._arrived: deque[bytes] = deque()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield decoded notifications without end. A lost connection is made again.

        Raises CommandFailed: the first connection fails, or the broker refuses to let it consume.
        """
        self._open()
        self._report(f"watching {self._topic}; end with Ctrl-C")
        while True:
            try:
                self._drain()
            except LOST as error:
                self._report(f"the connection to the broker was lost ({error}); connecting again")
                self._reopen()
            yield from self._decoded()

    def stop(self) -> None:
        """Close the connection. May be called again."""
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    def _open(self) -> None:
        self._connection = connection = connect(self._settings)
        try:
            self._consume(connection)
        except LOST as error:
            raise CommandFailed(f"the broker refuses to let this command watch: {error}") from error

    def _consume(self, connection: Any) -> None:
        settings = self._settings
        topology.declare_exchange(connection, settings.exchange, "topic", durable=settings.durable)
        channel = connection.channel()
        queue = topology.watch_queue(settings, uuid4().hex)
        arguments = {"x-max-length": _MAX_QUEUED}
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=arguments)
        for priority in PRIORITIES:
            channel.queue_bind(queue, settings.exchange, f"{self._topic}.{priority.lower()}")
        channel.basic_consume(queue, callback=self._on_message, no_ack=True, exclusive=True)

    def _on_message(self, message: Any) -> None:
        body = message.body
        self._arrived.append(body.encode() if isinstance(body, str) else bytes(body))

    def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):  # no message arrived
            self._connection.drain_events(timeout=_HEARTBEAT_CHECK_SECONDS)
        self._connection.heartbeat_tick()

    def _reopen(self) -> None:
        self.stop()
        for delay in self._settings.delays():
            try:
                self._open()
            except CommandFailed:
                time.sleep(delay)
            else:
                self._report("connected again")
                return

    def _decoded(self) -> Iterator[dict[str, Any]]:
        while self._arrived:
            try:
                yield decode_message(self._arrived.popleft())
            except Malformed as error:
                self._report(f"a message on the topic is not a notification: {error}")


def describe(message: dict[str, Any]) -> str:
    """Return the line for one message. Other programs may publish on the topic too: a value that is missing is '-'."""
    payload = message.get("payload", message.get("data"))  # a CloudEvent has it as its data
    if not isinstance(payload, dict):
        payload = {}
    words = [
        payload.get("occurred_at") or message.get("timestamp"),
        message.get("event_type", message.get("type")),
        f"{payload.get('host', '-')}/{payload.get('node', '-')}",
        f"#{payload.get('sequence', '-')}",
        payload.get("instance_id"),
        _figures(payload),
    ]
    return " ".join(plain(word) for word in words)


def _figures(payload: dict[str, Any]) -> str:
    if isinstance(payload.get("shortfalls"), list):
        return ", ".join(
            f"{shortfall.get('resource')} requested={shortfall.get('requested')} used={shortfall.get('used')} "
            f"limit={shortfall.get('limit')}" + (f" ({shortfall['reason']})" if "reason" in shortfall else "")
            for shortfall in payload["shortfalls"]
        )
    if isinstance(payload.get("resources"), dict):
        return " ".join(f"{name}={amount}" for name, amount in payload["resources"].items())
    amounts = [(klass.name, payload.get(klass.used), payload.get(klass.total)) for klass in CLASSES]
    return " ".join(
        f"{name}={used}/{'-' if total is None else total}" for name, used, total in amounts if used is not None
    )
