# SPDX-License-Identifier: Apache-2.0
"""The markers of hosts on RabbitMQ: for each host a durable queue ``<topic>_ledger.<host>`` with one message.

Only a queue that does not exist says that nobody owns the host. One that is empty is held by somebody who looks at it at this
moment, and one whose node is down, which RabbitMQ answers with 404 as well, is out of sight: both mean to look again.

A look takes the message without acknowledging it and gives it back. Quorum queues count such deliveries and drop a message
over a limit, which a policy may set lower than this module does: a message that was looked at a few times is written anew.
Writers exclude each other by an exclusive queue, ``<topic>_ledger_lock.<host>``, which ends with their connection. A writer
removes the message before its own; one that somebody holds meanwhile comes back later, in whatever order (measured with
RabbitMQ 3.10), so that messages are numbered and the highest number counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import amqp
import msgspec
from amqp.exceptions import AccessRefused, ChannelError, MessageNacked, NotFound, PreconditionFailed, ResourceLocked

from tracker_worker.bus.amqp import opening, topology
from tracker_worker.bus.amqp.stream import Stream
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.bus.base import PING, Marker, Markers, MarkerUnavailable, MarkerUnwritten
from tracker_worker.bus.settings import LOST, BrokerSettings, address
from tracker_worker.text import printable
from tracker_worker.threads import Runtime
from tracker_worker.wire.message import JSON, ReplyTo
from tracker_worker.wire.request import encode_request

MOST_LOOKS = 5
"""After so many looks the message is written anew."""
# How often something is tried that another program holds for a moment, and how long to wait in between.
_ATTEMPTS = 20
_ATTEMPT_SECONDS = 0.05
# The same for somebody who only wants to know.
_PEEKS = 4
_PING_SECONDS = 2
# For so long the broker may leave a request of this module without an answer; a writer that it blocks gives up, too.
_SILENCE_SECONDS = 5
# What RabbitMQ says of a durable queue whose node is down, under the number of a queue that does not exist.
_NODE_DOWN = "down or inaccessible"
_LONGEST_NAME = 255
# There is one message, and for a moment those before it.
_MOST_MESSAGES = 20


@contextmanager
def opened(settings: BrokerSettings, urls: Sequence[str], system: System = SYSTEM) -> Iterator[AMQPMarkers]:
    """Markers over a connection of their own, for a block.

    Raises MarkerUnavailable: no broker of ``urls`` can be reached, or the connection was lost."""
    problems = []
    for url in urls:
        connection = settings.connection(url)
        try:
            stream = opening.log_in(
                connection, silence_seconds=_SILENCE_SECONDS, alarm=None, connected=lambda _: None, system=system
            )
        except LOST as error:
            opening.close(connection, None, blocked=False)
            problems.append(f"{address(url)} ({one_line(error)})")
            continue
        try:
            yield (markers := AMQPMarkers(settings, connection, stream, system.runtime))
            with suppress(*LOST):
                markers.rewrite_worn()
        except LOST as error:
            raise MarkerUnavailable(f"the connection to {address(url)} was lost: {one_line(error)}") from error
        finally:
            opening.close(connection, stream, blocked=False)
        return
    raise MarkerUnavailable(f"no broker can be reached: {', '.join(problems)}")


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is on the broker: JSON."""

    ledger_id: str
    token: str
    number: int = 0


@dataclass(slots=True, kw_only=True)
class Seen:
    """A message that was taken from a queue and is not acknowledged. ``looks``: how often it was taken before, as far as the
    broker counts."""

    written: Written
    tag: int
    looks: int

    @property
    def marker(self) -> Marker:
        return Marker(ledger_id=self.written.ledger_id, token=self.written.token)


class AMQPMarkers(Markers):
    """The markers over one connection, which belongs to the thread that uses this object."""

    def __init__(self, settings: BrokerSettings, connection: Any, stream: Stream, runtime: Runtime) -> None:
        self._settings = settings
        self._connection = connection
        self._stream = stream
        self._runtime = runtime
        self._channel: Any = None
        self._worn: set[str] = set()

    def look(self, host: str) -> Marker | None:
        seen = self._look(host)
        if seen is None:
            return None
        if seen.looks >= MOST_LOOKS:
            self._worn.add(host)
        return seen.marker

    def peek(self, host: str) -> Seen | None:
        """See the message and change nothing: it is not written anew however often it was looked at, and what a writer has left
        beside it stays. None: there is no queue. Raises MarkerUnavailable."""
        name = topology.ledger_queue(self._settings, host).name
        for _ in range(_PEEKS):
            try:
                with self._on_channel() as channel:
                    found = self._take_all(channel, name)
                    for seen in found:
                        channel.basic_reject(seen.tag, requeue=True)
                    self._stream.send()
            except NotFound as error:
                _check_gone(error)
                return None
            if found:
                return max(found, key=lambda seen: seen.written.number)
            self._runtime.sleep(_ATTEMPT_SECONDS)
        raise MarkerUnavailable(f"the queue {name} is empty")

    def rewrite_worn(self) -> None:
        """Write the messages anew that were looked at often, unless somebody else writes at this moment. The last use of the
        connection: a broker that takes no messages at the moment does not answer any more."""
        for host in sorted(self._worn):
            with suppress(MarkerUnavailable), self.locked(host):
                seen = self._look(host)
                if seen is not None and seen.looks >= MOST_LOOKS:
                    self.write(host, seen.marker)

    def write(self, host: str, marker: Marker) -> None:
        queue = topology.ledger_queue(self._settings, host)
        may_not_declare: AccessRefused | None = None
        try:
            with self._on_channel() as channel:
                channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.arguments)
        except PreconditionFailed:
            pass  # of another [bus] queue_type: it serves as well
        except AccessRefused as error:
            may_not_declare = error  # somebody else may have declared it
        before: list[Seen] = []
        try:
            with self._on_channel() as channel:
                before = self._take_all(channel, queue.name)
                number = max([self._now(), *(1 + seen.written.number for seen in before)])
                self._publish(
                    channel, queue.name, Written(ledger_id=marker.ledger_id, token=marker.token, number=number)
                )
                for seen in before:
                    channel.basic_ack(seen.tag)
        except NotFound as error:
            raise (_without_right(may_not_declare) if may_not_declare else MarkerUnavailable(one_line(error))) from None
        except (MarkerUnavailable, *amqp.Connection.connection_errors) as error:
            if before or isinstance(error, MarkerUnwritten):
                raise
            # Who does not learn of it would take the empty queue for that of another program.
            raise MarkerUnwritten(f"the queue {queue.name} may be empty: {one_line(error)}") from error
        found = self._look(host)
        if found is None or found.marker != marker:
            raise MarkerUnavailable(f"the queue {queue.name} does not have what was published to it")

    @contextmanager
    def locked(self, host: str) -> Iterator[None]:
        queue = topology.ledger_lock_queue(self._settings, host)
        self._lock(queue)
        try:
            yield
        finally:
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
        replies = f"{topology.PING_REPLIES}{self._runtime.random_bytes(16).hex()}"
        body = encode_request(
            PING,
            {},
            context={},
            unique_id=self._runtime.random_bytes(16).hex(),
            reply_to=ReplyTo(replies, msg_id := self._runtime.random_bytes(16).hex()),
        )
        message = amqp.Message(body, content_type=JSON, content_encoding="utf-8", expiration=str(1000 * _PING_SECONDS))
        until = self._runtime.monotonic() + _PING_SECONDS
        try:
            with self._on_channel() as channel:
                channel.queue_declare(replies, durable=False, exclusive=True, auto_delete=True)
                channel.basic_publish(message, exchange=queue.exchange, routing_key=queue.routing_key)
                while self._runtime.monotonic() < until:
                    reply = channel.basic_get(replies, no_ack=True)
                    if reply is not None:
                        return msg_id.encode() in _bytes(reply)
                    self._runtime.sleep(_ATTEMPT_SECONDS)
        except ChannelError:
            return False  # this user may not declare the queue, or nobody has declared the exchange
        return False

    def _now(self) -> int:
        """The number of a message that is written now: nanoseconds of the time of day."""
        return 1000 * self._runtime.microseconds()

    def _look(self, host: str) -> Seen | None:
        """See the message and give it back; None: there is no queue. Raises MarkerUnavailable."""
        name = topology.ledger_queue(self._settings, host).name
        for _ in range(_ATTEMPTS):
            try:
                with self._on_channel() as channel:
                    found = self._take_all(channel, name)
                    newest = max(found, key=lambda seen: seen.written.number, default=None)
                    for seen in found:
                        if seen is newest:
                            channel.basic_reject(seen.tag, requeue=True)
                        else:
                            channel.basic_ack(seen.tag)
                    self._stream.send()  # nothing may be held while this thread does something else
            except NotFound as error:
                _check_gone(error)
                return None
            except AccessRefused as error:  # of this host: others may be looked at
                raise _without_right(error) from error
            if newest is not None:
                return newest
            self._runtime.sleep(_ATTEMPT_SECONDS)
        raise MarkerUnavailable(f"the queue {name} is empty")

    def _take_all(self, channel: Any, name: str) -> list[Seen]:
        """Take what the queue has, without acknowledging it."""
        found: list[Seen] = []
        while len(found) < _MOST_MESSAGES and (message := channel.basic_get(name)) is not None:
            headers = message.properties.get("application_headers") or {}
            looks = int(headers.get("x-delivery-count", 0))
            found.append(Seen(written=_decode(_bytes(message), self._now()), tag=message.delivery_tag, looks=looks))
            if not message.delivery_info["message_count"]:
                break
        return found

    def _publish(self, channel: Any, name: str, written: Written) -> None:
        message = amqp.Message(msgspec.json.encode(written), content_type=JSON, delivery_mode=2)
        try:
            channel.basic_publish_confirm(message, routing_key=name, mandatory=True)
        except TimeoutError as error:  # the connection is of no use any more
            raise MarkerUnwritten(f"the broker takes no message for the queue {name}") from error
        except MessageNacked:
            raise MarkerUnavailable(f"the broker does not take a message for the queue {name}") from None

    def _lock(self, queue: Queue) -> None:
        for _ in range(_ATTEMPTS):
            try:
                with self._on_channel() as channel:
                    channel.queue_declare(queue.name, durable=False, exclusive=True, auto_delete=True)
                return
            except ResourceLocked:
                self._runtime.sleep(_ATTEMPT_SECONDS)
            except AccessRefused as error:
                raise _without_right(error) from error
        raise MarkerUnavailable(f"another program holds the queue {queue.name}")

    @contextmanager
    def _on_channel(self) -> Iterator[Any]:
        """The channel that this object uses. Where the broker closes it because of an error, py-amqp opens another one under
        its number before it raises the error: the next block may use that."""
        if self._channel is None:
            self._channel = self._connection.channel()
        yield self._channel


def _without_right(error: AccessRefused) -> MarkerUnavailable:
    return MarkerUnavailable(f"{one_line(error)} (the rights: tracker-worker rabbitmq permissions --role worker)")


def _check_gone(error: NotFound) -> None:
    """Raises MarkerUnavailable: the queue exists, but not on a node that is up."""
    if _NODE_DOWN in str(error):
        raise MarkerUnavailable(one_line(error)) from error


def _decode(body: bytes, now: int) -> Written:
    """The content of a message. One that nothing of this release has written is the marker of some other ledger, and counts as
    written ``now``."""
    try:
        return msgspec.json.decode(body, type=Written)
    except msgspec.DecodeError:
        shown = printable(body.decode(errors="replace"), _LONGEST_NAME)
        return Written(ledger_id=shown, token="", number=now)


def _bytes(message: Any) -> bytes:
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def one_line(error: Exception) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
