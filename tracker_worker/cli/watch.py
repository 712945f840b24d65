# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker watch``: notifications as they come."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import click

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import LOST, BrokerSettings, read_settings
from tracker_worker.cli.broker import close, connect
from tracker_worker.cli.context import CommandFailed, Settings, keep_logs_quiet
from tracker_worker.cli.output import JSON, plain
from tracker_worker.domain.resources import CLASSES
from tracker_worker.wire.envelope import Malformed, decode_message

# A watcher that is stopped (Ctrl-S, a pager) must not fill the broker's memory: the oldest are dropped then.
_MOST_WAITING = 100_000
_HEARTBEAT_CHECK_SECONDS = 1


@click.command()
@click.option("--topic", default="notifications", show_default=True, help="One of [notifications] topics.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many.")
@click.option(
    "--format", "style", type=click.Choice(["table", JSON]), default="table", show_default=True, help="Form of a line."
)
@click.pass_obj
def watch(settings: Settings, topic: str, count: int | None, style: str) -> None:
    """Show notifications as they come, until Ctrl-C.

    A line has the time, the event, host and node, the node's sequence number, the instance and the figures; with JSON it
    is the whole message. Watching takes nothing from billing: the messages are copies, in a queue of its own that is gone
    afterwards. What happens while the broker is away is not shown; the sequence numbers tell.
    """
    conf = settings.load()
    keep_logs_quiet(conf)
    line = json.dumps if style == JSON else describe
    feed = Feed(read_settings(conf), topic, lambda text: click.echo(text, err=True))
    try:
        for number, message in enumerate(feed.messages(), 1):
            click.echo(line(message))
            if number == count:
                break
    except KeyboardInterrupt:
        pass
    finally:
        feed.stop()


class Feed:
    """Copies of the notifications on ``topic``. ``tell`` gets a sentence when something is in the way."""

    def __init__(self, settings: BrokerSettings, topic: str, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._topic = topic
        self._tell = tell
        self._connection: Any = None
        self._arrived: deque[bytes] = deque()

    def messages(self) -> Iterator[dict[str, Any]]:
        """For ever. Raises CommandFailed when there is no broker in the beginning; later it is waited for."""
        self._open()
        self._tell(f"watching {self._topic}; end with Ctrl-C")
        while True:
            try:
                self._drain()
            except LOST as error:
                self._tell(f"the connection to the broker was lost ({error}); connecting again")
                self._reopen()
            yield from self._decoded()

    def stop(self) -> None:
        """Harmless when stopped."""
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    def _open(self) -> None:
        self._connection = connection = connect(self._settings)
        try:
            self._consume(connection)
        except LOST as error:
            raise CommandFailed(f"the broker does not let us watch: {error}") from error

    def _consume(self, connection: Any) -> None:
        settings = self._settings
        topology.declare_exchange(connection, settings.exchange, "topic", durable=settings.durable)
        channel = connection.channel()
        queue = f"{settings.topic}.watch.{uuid4().hex}"
        limit = {"x-max-length": _MOST_WAITING}
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=limit)
        for priority in topology.PRIORITIES:
            channel.queue_bind(queue, settings.exchange, f"{self._topic}.{priority.lower()}")
        channel.basic_consume(queue, callback=self._arrive, no_ack=True, exclusive=True)

    def _arrive(self, message: Any) -> None:
        body = message.body
        self._arrived.append(body.encode() if isinstance(body, str) else bytes(body))

    def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):  # nothing came
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
                self._tell("connected again")
                return

    def _decoded(self) -> Iterator[dict[str, Any]]:
        while self._arrived:
            try:
                yield decode_message(self._arrived.popleft())
            except Malformed as error:
                self._tell(f"a message that is no notification: {error}")


def describe(message: dict[str, Any]) -> str:
    """One line. Others may publish on the topic too: whatever is missing is '-'."""
    payload = message.get("payload")
    if not isinstance(payload, dict):
        payload = {}
    words = [
        payload.get("occurred_at") or message.get("timestamp"),
        message.get("event_type"),
        f"{payload.get('host', '-')}/{payload.get('node', '-')}",
        f"#{payload.get('sequence', '-')}",
        payload.get("instance_id"),
        _figures(payload),
    ]
    return " ".join(plain(word) for word in words)


def _figures(payload: dict[str, Any]) -> str:
    if isinstance(payload.get("shortfalls"), list):
        return ", ".join(
            f"{lack.get('resource')} requested={lack.get('requested')} used={lack.get('used')} limit={lack.get('limit')}"
            for lack in payload["shortfalls"]
        )
    if isinstance(payload.get("resources"), dict):
        return " ".join(f"{name}={amount}" for name, amount in payload["resources"].items())
    totals = [(klass.name, payload.get(klass.used), payload.get(klass.total)) for klass in CLASSES]
    return " ".join(
        f"{name}={used}/{'-' if total is None else total}" for name, used, total in totals if used is not None
    )
