# SPDX-License-Identifier: Apache-2.0
"""The consuming connection: deliveries in, acknowledgements out."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from amqp.exceptions import FrameSyntaxError

from tracker_worker import faults
from tracker_worker.bus.amqp import internals
from tracker_worker.bus.amqp.addresses import Addresses
from tracker_worker.bus.amqp.connection import FOREVER, BrokerConnection
from tracker_worker.bus.amqp.durability import Durability
from tracker_worker.bus.amqp.emptiness import Emptiness
from tracker_worker.bus.amqp.fanout_look import FanoutLook
from tracker_worker.bus.amqp.frames import Delivered, Pieces, read_delivery
from tracker_worker.bus.amqp.served import SIDE_PREFETCH, Served
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.base import FANOUT, Delivery, Receiver
from tracker_worker.bus.settings import BrokerSettings

# For so long after a delivery an acknowledgement waits for other work to share a write with, unless a quarter of a queue's
# prefetch is waiting for it. A message that is settled and not acknowledged is redelivered after a crash, and answered as
# before.
_ACK_SECONDS = 0.02
# One number for each connection of this process: a bus that is started again makes another consumer.
_epochs = itertools.count(1)


class Consumer(BrokerConnection, Receiver):
    """A delivery's ``token`` is (epoch, tag): a tag of a lost connection is never acknowledged on another one.

    Over ``max_unsettled_bytes`` of unsettled deliveries, with what has arrived of the next one, nothing is read until half of
    it is settled. Where nothing is unsettled, everything is read: the only delivery may be larger.
    """

    _settings: BrokerSettings

    def __init__(
        self,
        settings: BrokerSettings,
        hosts: Sequence[str],
        *,
        received: Callable[[Sequence[Delivery]], None],
        lost: Callable[[], None],
        emptied: Callable[[str], None] = lambda host: None,
        opened: Callable[[], None] = lambda: None,
        died: Callable[[BaseException], None],
        addresses: Addresses | None = None,
        system: System = SYSTEM,
        durability: Durability | None = None,
    ) -> None:
        super().__init__("tracker-consumer", settings, died, addresses, system)
        self._received = received
        self._report_opened = opened
        self._report_lost = lost
        self._handing_over = True
        self._served = Served(durability or Durability(settings), hosts, random_bytes=system.runtime.random_bytes)
        self._emptiness = Emptiness(settings, emptied)
        self._fanout_look = FanoutLook(self._fanout_is_there)
        self.heard: dict[str, float] = {}
        """By source, when something last came from its queue on the present connection."""
        self._ack_threshold = max(1, min(self._served.share, SIDE_PREFETCH) // 4)
        self._ack_before = 0.0
        self._channel: Any = None
        self._epoch = 0
        self._arrived: list[Delivery] = []
        self._pieces = Pieces(self._arrive)
        self._settled: deque[tuple[int, int]] = deque()  # tokens, so that no body is held until they are acknowledged
        self._unsettled: dict[int, int] = {}  # tags in the order of delivery, and the bytes of each
        self._unsettled_bytes = 0
        self._most_bytes = settings.max_unsettled_bytes
        self._full = False
        self._closing = False
        self._waiting_for_broker = False
        self._unacked: set[int] = set()
        self._acknowledged = False

    def pause(self) -> None:
        """Hand over nothing more; what still arrives stays unacknowledged and returns to its queue when the connection
        closes."""
        self._handing_over = False

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge these deliveries soon, on the connection's thread."""
        self._settled.extend([delivery.token for delivery in deliveries])
        if len(self._settled) >= self._ack_threshold or self._monotonic() >= self._ack_before:
            self.wake()

    def unsettled(self) -> int:
        """The number of deliveries that are not settled. Any thread."""
        return len(self._unsettled)

    def unsettled_bytes(self) -> int:
        """The bytes of all deliveries that are not settled, and of the one that is arriving. Any thread."""
        return self._unsettled_bytes + self._pieces.size

    def is_current(self, delivery: Delivery) -> bool:
        return bool(delivery.token[0] == self._epoch)

    def opened(self, connection: Any) -> None:
        self._epoch = next(_epochs)
        self._closing = self._full = False
        self._served.declare(connection)
        self._fanout_look.opened(connection, self._served.fanout_queue())
        self._channel = channel = connection.channel()
        channel.auto_decode = False  # the bytes as they came, whatever content_encoding says
        internals.take_frames(connection, channel.channel_id, self._take)
        self._served.consume(channel, self._monotonic())
        self._emptiness.opened(connection)
        self._report_opened()

    def failed(self, error: Exception) -> bool:
        return self._served.adapt(error)

    def is_open(self) -> bool:
        """Whether the broker delivers over a connection; perhaps not from every queue."""
        return self._served.consuming() and super().is_open()

    def serves_all(self) -> bool:
        """Whether the broker delivers from every queue. Any thread."""
        return self._served.complete()

    def consumed(self) -> frozenset[str]:
        """The sources from whose queues the broker delivers. Any thread."""
        return self._served.consumed() if self.is_open() else frozenset()

    def holds_back(self) -> bool:
        """Whether so much is unsettled that no further delivery may come. Any thread."""
        return self._full or len(self._unsettled) >= self._served.share

    def look_at_fanout(self) -> None:
        """Ask the broker whether the queue of fanouts is there: ``heard`` has the answer. Any thread; returns immediately."""
        self._fanout_look.want()
        self.wake()

    def _fanout_is_there(self) -> None:
        self.heard[FANOUT] = self._monotonic()

    def serve(self, hosts: Collection[str]) -> None:
        """See ``Bus.serve``."""
        if self._served.serve(hosts):
            self.renew()
        self.wake()

    def repair(self) -> None:
        """Declare, bind and consume everything again soon. Any thread; returns immediately."""
        self._served.repair()
        self.wake()

    def report_empty(self, hosts: Sequence[str]) -> None:
        """See ``Bus.report_empty``."""
        self._emptiness.want(hosts)
        self.wake()

    def read_pause(self) -> float:
        most = self._most_bytes // 2 if self._full else self._most_bytes
        self._full = self._unsettled_bytes > 0 and self.unsettled_bytes() > most
        return FOREVER if self._full else 0.0

    def closing(self) -> None:
        self._closing = True

    def _take(self, kind: int, payload: bytes) -> bool:
        if self._closing or self._pieces.take(kind, payload):
            return True
        if payload.startswith(internals.ANSWER):
            self._served.answered()
        return False

    def read(self, data: bytes, position: int) -> int:
        if self._pieces.size:
            return position
        while found := read_delivery(data, position, self._channel.channel_id):
            self._arrive(found)
            # py-amqp counts frames here, whatever the name says; its heartbeat check then knows that the broker is alive.
            self._channel.connection.bytes_recv += found.frames
            position = found.end
        return position

    def _arrive(self, found: Delivered) -> None:
        source = self._served.sources.get(found.consumer_tag)
        if source is None:
            raise FrameSyntaxError(f"a delivery to {found.consumer_tag!r}, which is no consumer")
        content = found.content
        properties = content.properties
        self._unsettled[found.tag] = size = len(found.body) + found.header_bytes
        self._unsettled_bytes += size
        self.heard[source] = now = self._monotonic()
        self._arrived.append(
            Delivery(
                body=found.body,
                source=source,
                content_type=properties.get("content_type"),
                headers=content.headers,
                header_table=content.header_table,
                properties=properties,
                exchange=found.exchange,
                routing_key=found.routing_key,
                deadline=_deadline(properties.get("expiration"), now),
                token=(self._epoch, found.tag),
            )
        )
        if self._waiting_for_broker:
            self._hand_over()

    def work(self) -> None:
        self._hand_over()
        if self._handing_over:
            self._emptiness.report()
        if self._settled:
            self._acknowledge()
        if self._fanout_look.due():
            self._fanout_look.ask()
        now = self._monotonic()
        serves, looks = self._served.due(now), self._emptiness.due(now)
        # With the answers that are waited for, deliveries are read that have to have room.
        has_room = 2 * self._unsettled_bytes <= self._most_bytes and not self._stopping.is_set()
        if (serves or looks) and has_room:
            self._waiting_for_broker = True
            try:
                if serves:
                    self._served.work(now)
                if looks and self._emptiness.look(now):
                    self._served.ask(self._emptiness.answered)
            finally:
                self._waiting_for_broker = False

    def _hand_over(self) -> None:
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            self._ack_before = self._monotonic() + _ACK_SECONDS
            if self._handing_over:
                self._received(arrived)

    def _acknowledge(self) -> None:
        while self._settled:
            epoch, tag = self._settled.popleft()
            if epoch == self._epoch and tag in self._unsettled:
                self._unsettled_bytes -= self._unsettled.pop(tag)
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
        left = self._ack_before - self._monotonic()
        return max(0.0, left) if left > 0 or self._settled else super().due_in()

    def idle(self) -> bool:
        return not self._settled

    def lost(self) -> None:
        # Unacknowledged messages are redelivered, on the next connection or to another worker.
        was_open, self._epoch = self._epoch > 0, 0
        self._channel = None
        self._arrived.clear()
        self._pieces.forget()
        self._served.forget()
        self._emptiness.forget()
        self._fanout_look.forget()
        self.heard = {}
        self._settled.clear()
        self._unsettled.clear()
        self._unsettled_bytes = 0
        self._unacked.clear()
        if was_open:
            self._report_lost()


def _deadline(expiration: str | None, now: float) -> float | None:
    """``expiration`` is in milliseconds, as text (AMQP 0-9-1, basic properties; RabbitMQ's per-message TTL)."""
    try:
        return None if expiration is None else now + int(expiration) / 1000
    except ValueError:
        return None
