# SPDX-License-Identifier: Apache-2.0
"""Looking into the dead-letter queue without changing it.

AMQP cannot look at a message without taking it. A message that is not removed goes back when the channel is closed. Three
facts of RabbitMQ (measured with 3.10.8) decide how messages must be taken:

- A quorum queue puts a returned message in front of messages that were never taken, but after messages that were returned
  before. A consumer that takes only some of the returned messages changes their order: all messages are taken, always.
- A quorum queue returns the messages of one consumer in their order, but the messages of several ``basic.get`` in no order:
  one consumer takes all messages.
- A quorum queue ignores a consumer's wish to be exclusive: an exclusive queue of another name is the lock. Returned messages
  are ready only a moment after the channel is closed: the lock is held until then.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from amqp.exceptions import ChannelError, NotFound, ResourceLocked

from tracker_worker.bus.settings import LOST, BrokerSettings
from tracker_worker.cli.broker import connected
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.dead_letters.message import DeadMessage, read_message

# The largest prefetch of a consumer (AMQP 0-9-1, basic.qos). Without a limit RabbitMQ 3.10's quorum queues give 2000.
MAX_MESSAGES = 65535
_LOCK_SECONDS = 5
_IDLE_SECONDS = 5
_RETURN_SECONDS = 5
_CLOSE_SECONDS = 5
_POLL_SECONDS = 0.1
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)

WithBody = Callable[[DeadMessage], bool]


class DeadLetterQueue:
    """The messages that were in the queue when it was opened, oldest first.

    ``not_taken`` counts the messages beyond MAX_MESSAGES, which stayed in the queue and are not in ``messages``.
    """

    def __init__(self, connection: Any, settings: BrokerSettings, max_bytes: int) -> None:
        self.connection = connection
        self.messages: list[DeadMessage] = []
        self.not_taken = 0
        self._name = settings.dead_letter_queue
        self._topic = settings.topic
        self._max_bytes = max_bytes
        self._channel: Any = None
        self._removed = 0

    def open(self, with_body: WithBody | None) -> None:
        """Take the messages. Bodies are kept where ``with_body`` returns true; all of them might not fit into memory."""
        waiting = count_ready(self.connection, self._name)
        wanted = min(waiting, MAX_MESSAGES)
        self.not_taken = waiting - wanted
        if not wanted:
            return
        self._channel = channel = self.connection.channel()
        channel.auto_decode = False  # a body is shown and sent again byte for byte
        channel.basic_qos(0, wanted, False)

        def on_delivery(delivery: Any) -> None:
            # Each removal makes room in the prefetch, and the broker fills it with later messages.
            if len(self.messages) < wanted:
                message = self._read(delivery)
                keep_body = with_body is not None and with_body(message)
                self.messages.append(message if keep_body else replace(message, body=None))

        consumer = channel.basic_consume(self._name, callback=on_delivery)
        with contextlib.suppress(TimeoutError):  # another consumer takes messages too: there are fewer than counted
            while len(self.messages) < wanted:
                self.connection.drain_events(timeout=_IDLE_SECONDS)
        channel.basic_cancel(consumer)  # later messages stay in the queue when a removal makes room in the prefetch
        self.messages = ordered(self.messages)

    def _read(self, delivery: Any) -> DeadMessage:
        properties = dict(delivery.properties)
        headers = properties.pop("application_headers", None) or {}
        body = delivery.body
        return read_message(
            body.encode() if isinstance(body, str) else bytes(body or b""),
            headers,
            properties,
            tag=delivery.delivery_info["delivery_tag"],
            topic=self._topic,
            max_bytes=self._max_bytes,
        )

    def remove(self, message: DeadMessage) -> None:
        """Remove a message. The removal is certain when ``close`` has returned without an error."""
        self._channel.basic_ack(message.tag)
        self._removed += 1

    def close(self) -> None:
        """Give the messages that were not removed back, in their order. Returns when they are ready in the queue again."""
        if self._channel is None:
            return
        self._channel.close()
        left = len(self.messages) - self._removed
        deadline = time.monotonic() + _RETURN_SECONDS
        while count_ready(self.connection, self._name) < left and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def ordered(messages: list[DeadMessage]) -> list[DeadMessage]:
    """Number the messages by time; within a second in the order of the queue, which another tool may have changed.

    A message without a time follows the message that is in front of it in the queue.
    """
    latest = _BEFORE_ALL
    timed = []
    for message in messages:
        latest = message.time or latest
        timed.append((latest, message))
    timed.sort(key=lambda pair: pair[0])
    return [replace(message, number=number) for number, (_, message) in enumerate(timed, 1)]


def count_ready(connection: Any, queue: str) -> int:
    """The number of messages that are ready in a queue; 0 when the queue does not exist."""
    channel = connection.channel()
    try:
        count = int(channel.queue_declare(queue, passive=True).message_count)
    except NotFound:
        return 0
    channel.close()
    return count


@contextmanager
def opened_queue(
    settings: BrokerSettings, max_bytes: int, *, with_body: WithBody | None = None
) -> Iterator[DeadLetterQueue]:
    """The messages of the dead-letter queue; no other subcommand sees them inside the block.

    ``max_bytes`` is the largest body that the worker serves. ``with_body`` says which messages keep their body; None keeps
    no body.

    Raises CommandFailed: no broker answers, the broker refuses, or another subcommand holds the lock for too long.
    """
    with exclusive_connection(settings) as connection:
        queue = DeadLetterQueue(connection, settings, max_bytes)
        try:
            queue.open(with_body)
            yield queue
        except BaseException:
            if connection.connected:
                connection.sock.settimeout(_CLOSE_SECONDS)  # a broker with an alarm does not read
            with contextlib.suppress(*LOST):  # the first error says more than an error of close
                queue.close()
            raise
        queue.close()


@contextmanager
def exclusive_connection(settings: BrokerSettings) -> Iterator[Any]:
    """A connection that holds the lock of the dead-letter queue. Raises CommandFailed as ``opened_queue``."""
    with connected(settings) as connection:
        try:
            _lock(connection, settings.dead_letter_lock)
            yield connection
        except ChannelError as error:
            raise CommandFailed(f"the broker refuses: {error}") from error


def _lock(connection: Any, name: str) -> None:
    """Declare an exclusive queue, which no other connection can declare and which ends with this connection."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            connection.channel().queue_declare(name, exclusive=True, auto_delete=True)
        except ResourceLocked:
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"another operator's command uses the dead-letter queue (it holds the queue {name}); "
                    "try again when that command has ended"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return
