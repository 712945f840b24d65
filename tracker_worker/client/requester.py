# SPDX-License-Identifier: Apache-2.0
"""The pipelined client's connection: requests out, replies in, all under way at once."""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import amqp

from tracker_worker import threads
from tracker_worker.agenda import Agenda, Entry
from tracker_worker.bus.amqp import internals, topology
from tracker_worker.bus.amqp.confirms import Confirms
from tracker_worker.bus.amqp.connection import BrokerConnection
from tracker_worker.bus.settings import ConnectionSettings
from tracker_worker.wire.message import JSON, MSGPACK, Malformed, decode_message

LOG = logging.getLogger(__name__)

# The broker removes a reply queue that nobody has used for so long.
_REPLY_QUEUE_MILLISECONDS = 600_000


class NoReply(enum.Enum):
    """How a request ended that got no reply."""

    ACCEPTED = "a cast that the broker has"
    UNROUTABLE = "the broker has no queue for it"
    LATE = "not in time, or the client was closed"
    FORKED = "the parent of this process gets the reply"


@dataclass(slots=True, eq=False, kw_only=True)
class OutgoingRequest:
    """One request for a host. ``done`` is called once, on the requester's thread, with the reply's message or with how the
    request ended without one. A request without ``msg_id`` is a cast."""

    host: str
    body: bytes
    timeout_seconds: float
    done: Callable[[dict[str, Any] | NoReply], None]
    msg_id: str | None = None
    deadline: float = field(default=0.0, init=False)
    waits: Entry[OutgoingRequest] | None = field(default=None, init=False)
    ended: bool = field(default=False, init=False)


class Requester(BrokerConnection):
    """``send`` may be called from any thread."""

    def __init__(self, settings: ConnectionSettings, *, monotonic: Callable[[], float] = threads.monotonic) -> None:
        super().__init__("tracker-client", settings, self._end_all)
        self._monotonic = monotonic
        self.reply_queue = f"reply_{threads.new_uuid().hex}"
        self._waiting: deque[OutgoingRequest] = deque()
        self._confirms: Confirms[OutgoingRequest] = Confirms(
            confirmed=self._on_confirmed, refused=self._on_refused, returned=self._on_returned
        )
        self._called: dict[str, OutgoingRequest] = {}  # by msg_id, until the reply
        self._deadlines: Agenda[OutgoingRequest] = Agenda()  # of the requests in ``_called``
        self._connection: Any = None
        self._channel: Any = None

    def send(self, *requests: OutgoingRequest) -> None:
        """Send these requests in this order. Returns immediately."""
        now = self._monotonic()
        for request in requests:
            request.deadline = now + request.timeout_seconds
        self._waiting.extend(requests)
        self.wake()

    def stop(self, timeout_seconds: float) -> None:
        super().stop(timeout_seconds)
        self._end_all(None)
        self._waiting.clear()

    def abandon(self) -> None:
        """In a forked child: give up the connection, which the parent goes on using, without a word to the broker. The requests
        under way end with FORKED. Only the calling thread exists, and takes no lock that another one may have held."""
        connection, self._connection = self._connection, None
        if connection is not None:
            internals.abandon_socket(connection)
        self.abandon_wakeups()
        self._end([*self._called.values(), *self._confirms.pending.values(), *self._waiting], NoReply.FORKED)

    def _end_all(self, _error: BaseException | None) -> None:
        """The thread has ended: no request gets a reply any more."""
        self._end([*self._called.values(), *self._confirms.pending.values(), *self._waiting], NoReply.LATE)

    def opened(self, connection: Any) -> None:
        self._connection = connection
        topology.declare_exchange(connection, self._settings.exchange, "topic", durable=self._settings.durable)
        self._channel = channel = connection.channel()
        channel.queue_declare(
            self.reply_queue,
            durable=True,
            auto_delete=False,
            arguments={"x-expires": _REPLY_QUEUE_MILLISECONDS},
        )
        self._confirms.watch(channel)
        channel.basic_consume(self.reply_queue, no_ack=True, callback=self._replied)
        self.wake()

    def work(self) -> None:
        now = self._monotonic()
        while self._waiting:
            request = self._waiting.popleft()
            if request.ended:
                continue  # its reply waited in the reply queue while the connection was lost
            if request.deadline <= now:
                self._end([request], NoReply.LATE)
                continue
            if request.msg_id is not None and request.msg_id not in self._called:
                self._called[request.msg_id] = request
                request.waits = self._deadlines.add(request.deadline, request)
            self._publish(request, now)
        while (late := self._deadlines.take(now)) is not None:
            self._end([late], NoReply.LATE)

    def _publish(self, request: OutgoingRequest, now: float) -> None:
        properties: dict[str, Any] = {"content_type": MSGPACK, "content_encoding": "binary", "delivery_mode": 2}
        if request.msg_id is not None:
            properties["expiration"] = str(max(1, round((request.deadline - now) * 1000)))
        self._confirms.add(request)
        self._channel.basic_publish(
            amqp.Message(request.body, **properties),
            exchange=self._settings.exchange,
            routing_key=f"{self._settings.topic}.{request.host}",
            mandatory=True,
        )

    def due_in(self) -> float:
        due = self._deadlines.next_due()
        if due is None:
            return super().due_in()
        return min(super().due_in(), max(0.0, due - self._monotonic()))

    def idle(self) -> bool:
        return True

    def lost(self) -> None:
        """Requests without an answer are sent again: one that was done already is only answered again."""
        self._channel = self._connection = None
        casts = [request for request in self._confirms.forget() if request.msg_id is None and not request.ended]
        self._waiting.extendleft(reversed([*self._called.values(), *casts]))

    # --- what the broker answers -------------------------------------------------------------------------------------

    def _replied(self, message: Any) -> None:
        content_type = message.properties.get("content_type")
        try:
            reply = decode_message(bytes(message.body), MSGPACK if content_type == MSGPACK else JSON)
        except Malformed as error:
            LOG.warning("a message in the reply queue is no reply: %s", error)
            return
        request = self._called.get(reply.get("_msg_id", "")) if reply.get("ending") else None
        if request is not None:
            self._forget(request)
            request.ended = True
            request.done(reply)

    def _on_confirmed(self, requests: list[OutgoingRequest]) -> None:
        for request in requests:
            if request.msg_id is None:
                self._end([request], NoReply.ACCEPTED)

    def _on_refused(self, _requests: list[OutgoingRequest]) -> None:
        # Every request without an answer is sent again, on a new connection.
        raise amqp.exceptions.RecoverableConnectionError("the broker refused a request")

    def _on_returned(self, _exchange: str, _routing_key: str, body: bytes) -> None:
        for request in self._confirms.pending.values():
            if request.body == body and not request.ended:
                self._end([request], NoReply.UNROUTABLE)  # its confirm is still to come
                return

    def _end(self, requests: list[OutgoingRequest], why: NoReply) -> None:
        for request in dict.fromkeys(requests):
            self._forget(request)
            if not request.ended:
                request.ended = True
                request.done(why)

    def _forget(self, request: OutgoingRequest) -> None:
        """The request waits for no reply any more; nothing is kept of it until its deadline."""
        if request.msg_id is not None:
            self._called.pop(request.msg_id, None)
        if request.waits is not None:
            self._deadlines.remove(request.waits)
