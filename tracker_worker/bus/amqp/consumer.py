# SPDX-License-Identifier: Apache-2.0
"""The consuming connection: deliveries in, acknowledgements out."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tracker_worker import faults
from tracker_worker.bus.amqp import internals, topology
from tracker_worker.bus.amqp.addresses import Addresses
from tracker_worker.bus.amqp.connection import BrokerConnection
from tracker_worker.bus.amqp.frames import Delivered, delivered, read_delivery
from tracker_worker.bus.base import Delivery, Receiver
from tracker_worker.bus.settings import BrokerSettings

# The prefetch is shared out over the hosts; the shared and the fanout queue have a small one of their own.
_SIDE_PREFETCH = 16
# For so long after a delivery an acknowledgement waits for other work to share a write with, unless a quarter of a queue's
# prefetch is waiting for it. A message that is settled and not acknowledged is redelivered after a crash, and answered as
# before.
_ACK_SECONDS = 0.02
# One number for each connection of this process: a bus that is started again makes another consumer.
_epochs = itertools.count(1)


class Consumer(BrokerConnection, Receiver):
    """A delivery's ``token`` is (epoch, tag): a tag of a lost connection is never acknowledged on another one."""

    _settings: BrokerSettings

    def __init__(
        self,
        settings: BrokerSettings,
        hosts: Sequence[str],
        *,
        received: Callable[[Sequence[Delivery]], None],
        died: Callable[[BaseException], None],
        addresses: Addresses | None = None,
    ) -> None:
        super().__init__("tracker-consumer", settings, died, addresses)
        self._hosts = hosts
        self._received = received
        self._handing_over = True
        self._share = max(1, settings.prefetch // max(1, len(hosts)))
        self._ack_threshold = max(1, min(self._share, _SIDE_PREFETCH) // 4)
        self._ack_before = 0.0
        self._channel: Any = None
        self._sources: dict[str, str] = {}  # by consumer tag
        self._epoch = 0
        self._arrived: list[Delivery] = []
        self._settled: deque[Delivery] = deque()
        self._unsettled: dict[int, None] = {}  # tags in the order of delivery
        self._unacked: set[int] = set()
        self._acknowledged = False

    def pause(self) -> None:
        """Hand over nothing more; what still arrives stays unacknowledged and returns to its queue when the connection
        closes."""
        self._handing_over = False

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge these deliveries soon, on the connection's thread."""
        self._settled.extend(deliveries)
        if len(self._settled) >= self._ack_threshold or time.monotonic() >= self._ack_before:
            self.wake()

    def opened(self, connection: Any) -> None:
        self._epoch = next(_epochs)
        queues = topology.served(self._settings, self._hosts)
        topology.declare_served(connection, self._settings, queues)
        self._channel = channel = connection.channel()
        channel.auto_decode = False  # the bytes as they came, whatever content_encoding says
        internals.take_deliveries(channel, self._library_delivery)
        self._sources = {queue.name: queue.source for queue in queues}
        own = set(self._hosts)
        limit = None
        for queue in queues:
            if limit != (limit := self._share if queue.source in own else _SIDE_PREFETCH):
                # Quorum queues refuse a limit for the whole channel. This one is per consumer, and holds for those that follow.
                channel.basic_qos(0, limit, False)
            # Only the last answer is waited for: the broker answers in order.
            channel.basic_consume(queue.name, consumer_tag=queue.name, nowait=queue is not queues[-1])
        self.wake()  # deliveries may have arrived on the way

    def read(self, data: bytes, position: int) -> int:
        while found := read_delivery(data, position, self._channel.channel_id):
            self._arrived.append(self._delivery(found))
            # py-amqp counts frames here, whatever the name says; its heartbeat check then knows that the broker is alive.
            self._channel.connection.bytes_recv += found.frames
            position = found.end
        return position

    def _library_delivery(self, payload: bytes, content: Any) -> None:
        """py-amqp has read a delivery, which did not arrive whole."""
        body = content.body
        body = body.encode() if isinstance(body, str) else bytes(body)
        self._arrived.append(self._delivery(delivered(bytes(payload), content.properties, body)))

    def _delivery(self, found: Delivered) -> Delivery:
        properties = dict(found.properties)
        headers = dict(properties.pop("application_headers", None) or {})
        return Delivery(
            body=found.body,
            source=self._sources[found.consumer_tag],
            content_type=properties.get("content_type"),
            headers=headers,
            properties=properties,
            exchange=found.exchange,
            routing_key=found.routing_key,
            deadline=_deadline(properties.get("expiration")),
            token=(self._epoch, found.tag),
        )

    def work(self) -> None:
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            self._ack_before = time.monotonic() + _ACK_SECONDS
            for delivery in arrived:
                self._unsettled[delivery.token[1]] = None
            if self._handing_over:
                self._received(arrived)
        if self._settled:
            self._acknowledge()

    def _acknowledge(self) -> None:
        while self._settled:
            epoch, tag = self._settled.popleft().token
            if epoch == self._epoch and tag in self._unsettled:
                del self._unsettled[tag]
                self._unacked.add(tag)
        if not self._unacked:
            return
        # One acknowledgement for everything before the first unsettled delivery, and one for each delivery after it.
        first = next(iter(self._unsettled), None)
        prefix = [tag for tag in self._unacked if first is None or tag < first]
        if prefix:
            self._channel.basic_ack(max(prefix), multiple=True)
            self._unacked.difference_update(prefix)
        for tag in sorted(self._unacked):
            self._channel.basic_ack(tag)
        self._unacked.clear()
        self._acknowledged = True

    def sent(self) -> None:
        if self._acknowledged:
            self._acknowledged = False
            if faults.hook is not None:
                faults.hook("after_ack")

    def due_in(self) -> float:
        left = self._ack_before - time.monotonic()
        return max(0.0, left) if left > 0 or self._settled else super().due_in()

    def idle(self) -> bool:
        return not self._settled

    def lost(self) -> None:
        # Unacknowledged messages are redelivered, on the next connection or to another worker.
        self._epoch = 0
        self._channel = None
        self._arrived.clear()
        self._unsettled.clear()
        self._unacked.clear()


def _deadline(expiration: str | None) -> float | None:
    """``expiration`` is in milliseconds, as text (AMQP 0-9-1, basic properties; RabbitMQ's per-message TTL)."""
    try:
        return None if expiration is None else time.monotonic() + int(expiration) / 1000
    except ValueError:
        return None
