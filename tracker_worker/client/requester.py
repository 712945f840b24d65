# SPDX-License-Identifier: Apache-2.0
"""The client's connection: requests out, replies in, all under way at once."""

from __future__ import annotations

import enum
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import amqp

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.connection import LOG, Link
from tracker_worker.bus.settings import ConnectionSettings
from tracker_worker.wire.envelope import MSGPACK, Malformed, decode_message

# A reply queue that nobody uses any more is removed by the broker after so long.
_REPLY_QUEUE_MILLISECONDS = 600_000


class Gone(enum.Enum):
    """How a request ended that has no answer."""

    ACCEPTED = "a cast that the broker has"
    UNROUTABLE = "the broker has no queue for it"
    LATE = "not in time, or the client was closed"


@dataclass(slots=True, eq=False)
class Sent:
    """One request for a host. ``done`` is called once, on the requester's thread: with the reply's message, or with how it
    ended without one. A request without ``msg_id`` is a cast."""

    host: str
    body: bytes
    timeout_seconds: float
    done: Callable[[dict[str, Any] | Gone], None]
    msg_id: str | None = None
    deadline: float = field(default=0.0, init=False)


class Requester(Link):
    """``send`` may be called from any thread."""

    def __init__(self, settings: ConnectionSettings) -> None:
        super().__init__("tracker-client", settings, self._died_alone)
        self.reply_queue = f"reply_{uuid4().hex}"
        self._waiting: deque[Sent] = deque()
        self._published: dict[int, Sent] = {}  # by delivery tag, until the broker has it
        self._called: dict[str, Sent] = {}  # by msg_id, until it is answered
        self._deadlines: list[tuple[float, int, Sent]] = []
        self._numbers = itertools.count()
        self._channel: Any = None
        self._next_tag = 1

    def send(self, *requests: Sent) -> None:
        """In this order."""
        now = time.monotonic()
        for request in requests:
            request.deadline = now + request.timeout_seconds
        self._waiting.extend(requests)
        self.wake()

    def stop(self, timeout_seconds: float) -> None:
        super().stop(timeout_seconds)
        self._end([*self._called.values(), *self._published.values(), *self._waiting], Gone.LATE)
        self._waiting.clear()

    def _died_alone(self, error: BaseException) -> None:
        self._end([*self._called.values(), *self._published.values(), *self._waiting], Gone.LATE)

    def opened(self, connection: Any) -> None:
        topology.declare_exchange(connection, self._settings.exchange, "topic", durable=self._settings.durable)
        self._channel = channel = connection.channel()
        channel.auto_decode = False
        channel.queue_declare(
            self.reply_queue,
            durable=True,
            auto_delete=False,
            arguments={"x-expires": _REPLY_QUEUE_MILLISECONDS},
        )
        channel.basic_consume(self.reply_queue, no_ack=True, callback=self._replied)
        channel.confirm_select()
        channel.events["basic_ack"].add(self._accepted)
        channel.events["basic_nack"].add(self._refused)
        channel.events["basic_return"].add(self._returned)
        self._next_tag = 1
        self.wake()

    def work(self) -> None:
        now = time.monotonic()
        while self._waiting:
            request = self._waiting.popleft()
            if request.deadline <= now:
                self._end([request], Gone.LATE)
                continue
            if request.msg_id is not None and request.msg_id not in self._called:
                self._called[request.msg_id] = request
                heapq.heappush(self._deadlines, (request.deadline, next(self._numbers), request))
            self._publish(request, now)
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if request.msg_id in self._called:
                self._end([request], Gone.LATE)

    def _publish(self, request: Sent, now: float) -> None:
        properties: dict[str, Any] = {"content_type": MSGPACK, "content_encoding": "binary", "delivery_mode": 2}
        if request.msg_id is not None:
            properties["expiration"] = str(max(1, round((request.deadline - now) * 1000)))
        self._published[self._next_tag] = request
        self._next_tag += 1
        self._channel.basic_publish(
            amqp.Message(request.body, **properties),
            exchange=self._settings.exchange,
            routing_key=f"{self._settings.topic}.{request.host}",
            mandatory=True,
        )

    def due_in(self) -> float:
        if not self._deadlines:
            return super().due_in()
        return min(super().due_in(), max(0.0, self._deadlines[0][0] - time.monotonic()))

    def idle(self) -> bool:
        return True

    def lost(self) -> None:
        """Whatever is not answered goes again: a request that is done already is only answered again."""
        self._channel = None
        casts = [request for request in self._published.values() if request.msg_id is None]
        self._waiting.extendleft(reversed([*self._called.values(), *casts]))
        self._published.clear()

    # --- what the broker says ----------------------------------------------------------------------------------------

    def _replied(self, message: Any) -> None:
        content_type = message.properties.get("content_type")
        try:
            reply = decode_message(bytes(message.body), MSGPACK if content_type == MSGPACK else "application/json")
        except Malformed as error:
            LOG.warning("a reply that is none: %s", error)
            return
        request = self._called.get(reply.get("_msg_id", "")) if reply.get("ending") else None
        if request is not None:
            assert request.msg_id is not None
            del self._called[request.msg_id]
            request.done(reply)

    def _accepted(self, tag: int, multiple: bool) -> None:
        tags = list(itertools.takewhile(lambda t: t <= tag, self._published)) if multiple else [tag]
        for accepted in tags:
            request = self._published.pop(accepted)
            if request.msg_id is None:
                request.done(Gone.ACCEPTED)

    def _refused(self, _tag: int, _multiple: bool) -> None:
        # All that is not answered is sent again, on a new connection.
        raise amqp.exceptions.RecoverableConnectionError("the broker refused a request")

    def _returned(self, _error: Any, _exchange: str, _routing_key: str, returned: Any) -> None:
        body = bytes(returned.body)
        for tag, request in self._published.items():
            if request.body == body:
                self._published[tag] = Sent("", b"", 0, lambda answer: None)  # its confirm is still to come
                self._end([request], Gone.UNROUTABLE)
                return

    def _end(self, requests: list[Sent], why: Gone) -> None:
        for request in dict.fromkeys(requests):
            if request.msg_id is not None:
                self._called.pop(request.msg_id, None)
            request.done(why)
