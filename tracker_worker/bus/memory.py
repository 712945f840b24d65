# SPDX-License-Identifier: Apache-2.0
"""A bus inside one process, for the demo and for tests: no broker, but the same bytes.

Every message is encoded by its sender and decoded by its receiver, and an unsettled delivery is delivered again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.base import (
    FANOUT,
    PING,
    SHARED,
    Blocked,
    Bus,
    Contact,
    DeadLetter,
    Delivery,
    Listener,
    Marker,
    Markers,
    MarkerUnavailable,
    Outgoing,
    Publication,
    Receiver,
    Reply,
    Sender,
    Settlement,
)
from tracker_worker.wire.message import JSON, ReplyTo, decode_message
from tracker_worker.wire.request import encode_request


@dataclass(frozen=True, slots=True)
class Parked:
    """A message in the dead-letter queue."""

    body: bytes
    headers: Mapping[str, Any]


Consumer = Callable[[Sequence[Delivery]], None]


class MemoryBroker:
    """Queues of one process. The first consumer of a queue is its active one, the others are standbys. ``notifications`` and
    ``parked`` hold messages that nobody has taken yet; ``markers`` has the markers of hosts. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: dict[str, deque[Delivery]] = {}
        self._consumers: dict[str, list[Consumer]] = {}
        self._replies: dict[str, Callable[[bytes], None]] = {}
        self._locked: set[str] = set()
        self.markers: dict[str, Marker] = {}
        self.notifications: threads.SimpleQueue[bytes] = threads.SimpleQueue()
        self.parked: threads.SimpleQueue[Parked] = threads.SimpleQueue()

    def publish(
        self,
        source: str,
        body: bytes,
        *,
        content_type: str = JSON,
        headers: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        """Put a request into a host's queue or into SHARED, or hand it to every consumer (FANOUT)."""
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

    def offer(self, source: str, body: bytes) -> None:
        """Hand a request to the active consumer of a queue; without one, nothing is left behind."""
        with self._lock:
            if self._consumers.get(source):
                self.publish(source, body)

    def consume(self, source: str, consumer: Consumer) -> None:
        """Hand all messages of a queue to ``consumer``, from the moment when it is the active consumer."""
        with self._lock:
            self._consumers.setdefault(source, []).append(consumer)
            self._hand_over_locked(source)

    def leave(self, sources: Iterable[str], consumer: Consumer, unsettled: Callable[[], Sequence[Delivery]]) -> None:
        """End the consumption of these sources. The ``unsettled`` deliveries go back to the heads of their queues, in order,
        before the next consumer gets a message."""
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

    def is_empty(self, source: str) -> bool:
        """Whether no message waits in a queue."""
        with self._lock:
            return not self._waiting.get(source)

    def consumers(self, source: str) -> int:
        """How many consumers a queue has."""
        with self._lock:
            return len(self._consumers.get(source, ()))

    @contextmanager
    def locked(self, host: str) -> Iterator[None]:
        """Nobody else locks the marker of the host during the block. Raises MarkerUnavailable: somebody has."""
        with self._lock:
            if host in self._locked:
                raise MarkerUnavailable(f"another thread writes the marker of host {host}")
            self._locked.add(host)
        try:
            yield
        finally:
            with self._lock:
                self._locked.remove(host)

    def open_replies(self, name: str, receiver: Callable[[bytes], None]) -> None:
        """Make a reply queue; ``receiver`` is called on the thread that publishes the reply."""
        with self._lock:
            self._replies[name] = receiver

    def reply(self, name: str, body: bytes) -> None:
        receiver = self._replies.get(name)
        if receiver is not None:
            receiver(body)


class MemoryMarkers(Markers):
    """The markers of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def locked(self, host: str) -> AbstractContextManager[None]:
        return self._broker.locked(host)

    def consumers(self, host: str) -> int:
        return self._broker.consumers(host)

    def look(self, host: str) -> Marker | None:
        return self._broker.markers.get(host)

    def write(self, host: str, marker: Marker) -> None:
        self._broker.markers[host] = marker

    def answers(self, host: str) -> bool:
        return self._broker.consumers(host) > 0  # whoever consumes runs in this process


class MemoryBus(Bus, Receiver, Sender):
    """The bus port on a MemoryBroker: one object is both sides. ``monotonic`` gives seconds."""

    def __init__(self, broker: MemoryBroker, *, monotonic: Callable[[], float] = threads.monotonic) -> None:
        self.receiver = self.sender = self
        self._broker = broker
        self._monotonic = monotonic
        self._listener: Listener | None = None
        self._serving: Collection[str] | None = None
        self._sources: list[str] = []
        self._lock = threading.Lock()
        self._unsettled: OrderedDict[int, Delivery] = OrderedDict()
        self._tags = 0
        self._last_start = 0  # the tag of the last delivery before it
        self._connected_at: float | None = None
        self._heard: dict[str, float] = {}
        self._paused = False

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        self._listener = listener
        self._paused = False
        self._connect(hosts if self._serving is None else self._serving)

    def _connect(self, hosts: Collection[str]) -> None:
        assert self._listener is not None
        self._last_start = self._tags
        self._connected_at, self._heard = self._monotonic(), {}
        self._listener.opened()
        self._consume([*hosts, SHARED, FANOUT])

    def _consume(self, sources: Sequence[str]) -> None:
        self._sources += sources
        for source in sources:
            self._broker.consume(source, self._receive)

    def serve(self, hosts: Collection[str]) -> None:
        self._serving = hosts
        if self._listener is None or not self._sources:
            return  # also while the connection is replaced
        if set(self._sources) <= {*hosts, SHARED, FANOUT}:
            self._consume([host for host in hosts if host not in self._sources])
            return
        self._disconnect()
        self._listener.lost()
        self._connect(self._serving)  # ``lost`` may have called this method

    def markers(self) -> AbstractContextManager[Markers]:
        return nullcontext(MemoryMarkers(self._broker))

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        assert self._listener is not None
        tagged = []
        with self._lock:
            for delivery in deliveries:
                self._tags += 1
                self._unsettled[self._tags] = replace(delivery, token=self._tags)
                self._heard[delivery.source] = self._monotonic()
                tagged.append(self._unsettled[self._tags])
        if not self._paused:
            self._listener.received(tagged)

    def pause(self) -> None:
        # A delivery that comes now is held back as an unsettled one: the order is kept, and no standby overtakes it.
        self._paused = True

    def stop(self, timeout_seconds: float) -> None:
        self._disconnect()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost()

    def _disconnect(self) -> None:
        sources, self._sources = self._sources, []
        self._broker.leave(sources, self._receive, self._take_unsettled)
        self._connected_at = None

    def _take_unsettled(self) -> list[Delivery]:
        with self._lock:
            unsettled = list(self._unsettled.values())
            self._unsettled.clear()
            return unsettled

    def connected(self) -> bool:
        return self._listener is not None

    def contact(self) -> Contact:
        connected = self.connected()
        return Contact(
            consuming=connected,
            publishing=connected,
            consumed=frozenset(self._sources),
            heard=dict(self._heard),
            probed_since=self._connected_at,
        )

    def is_current(self, delivery: Delivery) -> bool:
        return self._listener is not None and delivery.token > self._last_start

    def blocked(self) -> Blocked | None:
        return None

    def reload(self, conf: cfg.ConfigOpts) -> None:
        """There is no broker to log in to."""

    def probe(self, hosts: Sequence[str]) -> None:
        if self.connected():
            self._heard[FANOUT] = self._monotonic()
        for source in (*hosts, SHARED):
            self._broker.offer(source, encode_request(PING, {}, context={}, unique_id=threads.new_uuid().hex))

    def repair(self) -> None:
        """Nothing of a MemoryBroker can be gone."""

    def report_empty(self, hosts: Sequence[str]) -> None:
        listener = self._listener
        for host in hosts:
            # What is not waiting was handed over, on the thread that published it.
            if listener is not None and not self._paused and self._broker.is_empty(host):
                listener.emptied(host)

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._unsettled.pop(delivery.token, None)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        published = []
        for item in outgoing:
            match item:
                case Publication():
                    for body in item.bodies:
                        self._broker.notifications.put(body)
                    published.append(item.key)
                    continue
                case Reply(delivery=delivery, reply_to=reply_to):
                    if delivery.deadline is None or delivery.deadline > self._monotonic():
                        self._broker.reply(reply_to.queue, item.body)
                case DeadLetter(delivery=delivery):
                    headers = {**delivery.headers, "x-tracker-reason": item.reason}
                    self._broker.parked.put(Parked(delivery.body, headers))
                case Settlement():
                    pass
            self.settle([item.delivery])
        if published and self._listener is not None:
            self._listener.confirmed(published)

    def heartbeat(self, reply_to: ReplyTo, body: bytes) -> None:
        self._broker.reply(reply_to.queue, body)


class MemoryClient:
    """Calls and casts over a MemoryBroker. ``call`` may be used from several threads."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._queue = f"reply_{threads.new_uuid().hex}"
        self._lock = threading.Lock()
        self._calls: dict[str, threads.SimpleQueue[dict[str, Any]]] = {}
        broker.open_replies(self._queue, self._receive)

    def _receive(self, body: bytes) -> None:
        reply = decode_message(body)
        with self._lock:
            call = self._calls.get(reply["_msg_id"])
        if call is not None and reply["ending"]:
            call.put(reply)

    def cast(self, source: str, context: Mapping[str, Any], method: str, args: Mapping[str, Any]) -> None:
        self._broker.publish(source, encode_request(method, args, context=context, unique_id=threads.new_uuid().hex))

    def call(
        self, source: str, context: Mapping[str, Any], method: str, args: Mapping[str, Any], timeout_seconds: float
    ) -> dict[str, Any]:
        """The reply's message. Raises TimeoutError."""
        reply_to = ReplyTo(self._queue, threads.new_uuid().hex)
        waiting: threads.SimpleQueue[dict[str, Any]] = threads.SimpleQueue()
        with self._lock:
            self._calls[reply_to.msg_id] = waiting
        try:
            body = encode_request(method, args, context=context, unique_id=threads.new_uuid().hex, reply_to=reply_to)
            self._broker.publish(source, body, deadline=threads.monotonic() + timeout_seconds)
            return waiting.get(timeout=timeout_seconds)
        except threads.Empty:
            raise TimeoutError(f"no reply to {method} within {timeout_seconds} s") from None
        finally:
            with self._lock:
                del self._calls[reply_to.msg_id]
