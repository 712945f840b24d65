# SPDX-License-Identifier: Apache-2.0
"""The markers of hosts on RabbitMQ: for each host a durable queue ``<topic>_ledger.<host>`` with one message.

Only a queue that does not exist says that nobody owns the host. One that is empty is held by somebody who looks at it at this
moment, and one whose node is down, which RabbitMQ answers with 404 as well, is out of sight: both mean to look again.

A look takes the message without acknowledging it and gives it back. Quorum queues count such deliveries and drop a message
over a limit, which a policy may set lower than this module does: a message that was looked at a few times is written anew.
Writers exclude each other by an exclusive queue, ``<topic>_ledger_lock.<host>``, which ends with their connection. The queue
keeps the newest message only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import amqp
import msgspec
from amqp.exceptions import ChannelError, MessageNacked, NotFound, PreconditionFailed, ResourceLocked

from tracker_worker.bus.amqp import opening, topology
from tracker_worker.bus.amqp.stream import Stream
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.bus.base import PING, Marker, Markers, MarkerUnavailable
from tracker_worker.bus.settings import LOST, BrokerSettings, address
from tracker_worker.text import printable
from tracker_worker.wire.message import JSON, ReplyTo
from tracker_worker.wire.request import encode_request

# After so many looks the message is written anew.
_MOST_LOOKS = 5
# How often something is tried that another program holds for a moment, and how long to wait in between.
_ATTEMPTS = 20
_ATTEMPT_SECONDS = 0.05
_PING_SECONDS = 2
# For so long the broker may leave a request of this module without an answer; a writer that it blocks gives up, too.
_SILENCE_SECONDS = 5
# What RabbitMQ says of a durable queue whose node is down, under the number of a queue that does not exist.
_NODE_DOWN = "down or inaccessible"
_LONGEST_NAME = 255


@contextmanager
def opened(settings: BrokerSettings, urls: Sequence[str]) -> Iterator[AMQPMarkers]:
    """Markers over a connection of their own, for a block.

    Raises MarkerUnavailable: no broker of ``urls`` can be reached, or the connection was lost."""
    problems = []
    for url in urls:
        connection = settings.connection(url)
        try:
            stream = opening.log_in(connection, silence_seconds=_SILENCE_SECONDS, alarm=None, connected=lambda _: None)
        except LOST as error:
            opening.close(connection, None, blocked=False)
            problems.append(f"{address(url)} ({one_line(error)})")
            continue
        try:
            yield AMQPMarkers(settings, connection, stream)
        except LOST as error:
            raise MarkerUnavailable(f"the connection to {address(url)} was lost: {one_line(error)}") from error
        finally:
            opening.close(connection, stream, blocked=False)
        return
    raise MarkerUnavailable(f"no broker can be reached: {', '.join(problems)}")


class AMQPMarkers(Markers):
    """The markers over one connection, which belongs to the thread that uses this object."""

    def __init__(self, settings: BrokerSettings, connection: Any, stream: Stream) -> None:
        self._settings = settings
        self._connection = connection
        self._stream = stream
        self._channel: Any = None
        self._locked: set[str] = set()

    def look(self, host: str) -> Marker | None:
        found = self._seen(host)
        if found is None:
            return None
        marker, looks = found
        if looks >= _MOST_LOOKS and host not in self._locked:
            self._renew(host, marker)
        return marker

    def write(self, host: str, marker: Marker) -> None:
        queue = topology.ledger_queue(self._settings, host)
        with (
            suppress(PreconditionFailed),
            self._on_channel() as channel,
        ):  # made for another [bus] queue_type: it serves as well
            channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.arguments)
        self._publish(queue.name, marker)
        found = self._seen(host)
        if found is None or found[0] != marker:
            raise MarkerUnavailable(f"the queue {queue.name} does not have what was published to it")

    @contextmanager
    def locked(self, host: str) -> Iterator[None]:
        queue = topology.ledger_lock_queue(self._settings, host)
        self._lock(queue)
        self._locked.add(host)
        try:
            yield
        finally:
            self._locked.discard(host)
            # Over a connection that is lost the queue is gone with it.
            with suppress(*LOST), self._on_channel() as channel:
                channel.queue_delete(queue.name)

    def consumers(self, host: str) -> int:
        try:
            with self._on_channel() as channel:
                name = topology.host_queue(self._settings, host).name
                return int(channel.queue_declare(name, passive=True).consumer_count)
        except NotFound as error:
            _check_gone(error)
            return 0

    def answers(self, host: str) -> bool:
        queue = topology.host_queue(self._settings, host)
        replies = f"reply_ledger_{uuid4().hex}"
        body = encode_request(
            PING, {}, context={}, unique_id=uuid4().hex, reply_to=ReplyTo(replies, msg_id := uuid4().hex)
        )
        message = amqp.Message(body, content_type=JSON, content_encoding="utf-8", expiration=str(1000 * _PING_SECONDS))
        until = time.monotonic() + _PING_SECONDS
        try:
            with self._on_channel() as channel:
                channel.queue_declare(replies, durable=False, exclusive=True, auto_delete=True)
                channel.basic_publish(message, exchange=queue.exchange, routing_key=queue.routing_key)
                while time.monotonic() < until:
                    reply = channel.basic_get(replies, no_ack=True)
                    if reply is not None:
                        return msg_id.encode() in _bytes(reply)
                    time.sleep(_ATTEMPT_SECONDS)
        except ChannelError:
            return False  # this user may not declare the queue, or nobody has declared the exchange
        return False

    def _seen(self, host: str) -> tuple[Marker, int] | None:
        """The marker, and how often it was looked at as far as the broker counts. Raises MarkerUnavailable."""
        name = topology.ledger_queue(self._settings, host).name
        for _ in range(_ATTEMPTS):
            try:
                with self._on_channel() as channel:
                    message = self._newest(channel, name)
            except NotFound as error:
                _check_gone(error)
                return None
            if message is not None:
                headers = message.properties.get("application_headers") or {}
                return _decode(_bytes(message)), int(headers.get("x-delivery-count", 0))
            time.sleep(_ATTEMPT_SECONDS)
        raise MarkerUnavailable(f"the queue {name} is empty")

    def _newest(self, channel: Any, name: str) -> Any:
        """The last message of the queue, which is given back; None: the queue is empty. The limit of the queue is one message,
        but somebody else may have made the queue."""
        newest = None
        while (message := channel.basic_get(name)) is not None:
            if newest is not None:
                channel.basic_ack(newest.delivery_tag)
            newest = message
            if not message.delivery_info["message_count"]:
                break
        if newest is not None:
            channel.basic_reject(newest.delivery_tag, requeue=True)
            self._stream.send()  # nothing may be held while this thread does something else
        return newest

    def _renew(self, host: str, marker: Marker) -> None:
        """Write the same message anew, unless somebody else writes at this moment."""
        with suppress(MarkerUnavailable), self.locked(host):
            found = self._seen(host)
            if found is not None and found[0] == marker:
                self._publish(topology.ledger_queue(self._settings, host).name, marker)

    def _publish(self, name: str, marker: Marker) -> None:
        message = amqp.Message(msgspec.json.encode(marker), content_type=JSON, delivery_mode=2)
        try:
            with self._on_channel() as channel:
                channel.basic_publish_confirm(message, routing_key=name, mandatory=True)
        except MessageNacked:
            raise MarkerUnavailable(f"the broker does not take a message for the queue {name}") from None

    def _lock(self, queue: Queue) -> None:
        for _ in range(_ATTEMPTS):
            try:
                with self._on_channel() as channel:
                    channel.queue_declare(queue.name, durable=False, exclusive=True, auto_delete=True)
                return
            except ResourceLocked:
                time.sleep(_ATTEMPT_SECONDS)
        raise MarkerUnavailable(f"another program holds the queue {queue.name}")

    @contextmanager
    def _on_channel(self) -> Iterator[Any]:
        """The channel that this object uses, until the broker closes it because of an error."""
        if self._channel is None:
            self._channel = self._connection.channel()
        try:
            yield self._channel
        except ChannelError:
            self._channel.close()  # the broker has closed it, and py-amqp has opened another one under its number
            self._channel = None
            raise


def _check_gone(error: NotFound) -> None:
    """Raises MarkerUnavailable: the queue exists, but not on a node that is up."""
    if _NODE_DOWN in str(error):
        raise MarkerUnavailable(one_line(error)) from error


def _decode(body: bytes) -> Marker:
    """The marker of a message. One that nothing of this release has written is the marker of some other ledger."""
    try:
        return msgspec.json.decode(body, type=Marker)
    except msgspec.DecodeError:
        return Marker(ledger_id=printable(body.decode(errors="replace"), _LONGEST_NAME), token="")


def _bytes(message: Any) -> bytes:
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def one_line(error: Exception) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
