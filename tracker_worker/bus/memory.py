# SPDX-License-Identifier: Apache-2.0
"""A bus inside one process, for the demo and for tests: no broker, but the same bytes. Every message is encoded by its
sender and decoded by its receiver, and what is not settled is delivered again."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from tracker_worker.bus.base import FANOUT, SHARED, Bus, Delivery, Listener, Outgoing
from tracker_worker.wire.envelope import JSON, ReplyTo, decode_message, encode_request


@dataclass(frozen=True, slots=True)
class Parked:
    """A dead letter."""

    body: bytes
    headers: Mapping[str, Any]


Consumer = Callable[[Sequence[Delivery]], None]


class MemoryBroker:
    """Queues of one process: of a queue's consumers the first is the active one, the others stand by. ``notifications``
    and ``parked`` hold what nobody has taken yet."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: dict[str, deque[Delivery]] = {}
        self._consumers: dict[str, list[Consumer]] = {}
        self._replies: dict[str, Callable[[bytes], None]] = {}
        self.notifications: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.parked: queue.SimpleQueue[Parked] = queue.SimpleQueue()

    def publish(
        self,
        source: str,
        body: bytes,
        *,
        content_type: str = JSON,
        headers: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        """Put a request into a host's queue or SHARED, or give it to everybody (FANOUT)."""
        delivery = Delivery(
            body=body,
            source=source,
            content_type=content_type,
            headers=headers or {},
            routing_key=source,
            deadline=deadline,
        )
        with self._lock:
            if source == FANOUT:
                for consumer in self._consumers.get(FANOUT, ()):
                    consumer([delivery])
            else:
                self._waiting.setdefault(source, deque()).append(delivery)
                self._hand_over_locked(source)

    def consume(self, source: str, consumer: Consumer) -> None:
        """Give what waits, and from now on all, of a queue to ``consumer``, once it is the active one."""
        with self._lock:
            self._consumers.setdefault(source, []).append(consumer)
            self._hand_over_locked(source)

    def leave(self, sources: Iterable[str], consumer: Consumer, unsettled: Callable[[], Sequence[Delivery]]) -> None:
        """Consume these no more. What is ``unsettled`` goes back to the heads of its queues, in order, before the next
        consumer gets anything."""
        with self._lock:
            for source in sources:
                self._consumers[source].remove(consumer)
            for delivery in reversed(unsettled()):
                if delivery.source != FANOUT:
                    self._waiting.setdefault(delivery.source, deque()).appendleft(delivery)
            for source in sources:
                self._hand_over_locked(source)

    def _hand_over_locked(self, source: str) -> None:
        consumers = self._consumers.get(source)
        if consumers and (waiting := self._waiting.pop(source, None)):
            consumers[0](list(waiting))

    def open_replies(self, name: str, receiver: Callable[[bytes], None]) -> None:
        """A reply queue; ``receiver`` is called on whatever thread answers."""
        with self._lock:
            self._replies[name] = receiver

    def reply(self, name: str, body: bytes) -> None:
        receiver = self._replies.get(name)
        if receiver is not None:
            receiver(body)


class MemoryBus(Bus):
    """The bus port on a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._listener: Listener | None = None
        self._sources: list[str] = []
        self._lock = threading.Lock()
        self._unsettled: OrderedDict[int, Delivery] = OrderedDict()
        self._tags = 0
        self._paused = False

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        self._listener = listener
        self._paused = False
        self._sources = [*hosts, SHARED, FANOUT]
        for source in self._sources:
            self._broker.consume(source, self._receive)

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        assert self._listener is not None
        tagged = []
        with self._lock:
            for delivery in deliveries:
                self._tags += 1
                self._unsettled[self._tags] = replace(delivery, token=self._tags)
                tagged.append(self._unsettled[self._tags])
        if not self._paused:
            self._listener.received(tagged)

    def pause(self) -> None:
        # What comes now is held back like what is unsettled: the order is kept, and a standby does not overtake it.
        self._paused = True

    def stop(self, timeout_seconds: float) -> None:
        sources, self._sources = self._sources, []
        self._broker.leave(sources, self._receive, self._take_unsettled)
        self._listener = None

    def _take_unsettled(self) -> list[Delivery]:
        with self._lock:
            unsettled = list(self._unsettled.values())
            self._unsettled.clear()
            return unsettled

    def connected(self) -> bool:
        return self._listener is not None

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._unsettled.pop(delivery.token, None)

    def answer(self, delivery: Delivery, reply_to: ReplyTo, body: bytes) -> None:
        self._broker.reply(reply_to.queue, body)
        self.settle([delivery])

    def beat(self, reply_to: ReplyTo, body: bytes) -> None:
        self._broker.reply(reply_to.queue, body)

    def park(self, delivery: Delivery, reason: str) -> None:
        self._broker.parked.put(Parked(delivery.body, {**delivery.headers, "x-tracker-reason": reason}))
        self.settle([delivery])

    def notify(self, notifications: Sequence[Outgoing]) -> None:
        for outgoing in notifications:
            self._broker.notifications.put(outgoing.body)
        if self._listener is not None:
            self._listener.confirmed([outgoing.key for outgoing in notifications])


class MemoryClient:
    """Calls and casts over a MemoryBroker. ``call`` may be used from several threads."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._queue = f"reply_{uuid4().hex}"
        self._lock = threading.Lock()
        self._calls: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        broker.open_replies(self._queue, self._receive)

    def _receive(self, body: bytes) -> None:
        reply = decode_message(body)
        with self._lock:
            call = self._calls.get(reply["_msg_id"])
        if call is not None and reply["ending"]:
            call.put(reply)

    def cast(self, source: str, context: Mapping[str, Any], method: str, args: Mapping[str, Any]) -> None:
        self._broker.publish(source, encode_request(method, args, context=context, unique_id=uuid4().hex))

    def call(
        self, source: str, context: Mapping[str, Any], method: str, args: Mapping[str, Any], timeout_seconds: float
    ) -> dict[str, Any]:
        """The reply's message. Raises TimeoutError."""
        reply_to = ReplyTo(self._queue, uuid4().hex)
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            self._calls[reply_to.msg_id] = waiting
        try:
            body = encode_request(method, args, context=context, unique_id=uuid4().hex, reply_to=reply_to)
            self._broker.publish(source, body, deadline=time.monotonic() + timeout_seconds)
            return waiting.get(timeout=timeout_seconds)
        except queue.Empty:
            raise TimeoutError(f"no reply to {method} within {timeout_seconds} s") from None
        finally:
            with self._lock:
                del self._calls[reply_to.msg_id]
