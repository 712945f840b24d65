# SPDX-License-Identifier: Apache-2.0
"""The bus port of one worker on the simulated broker: what it promises of connections, redelivery and confirms."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from oslo_config import cfg

from tests.simulation.broker import Broker, Connection, Message
from tests.simulation.machine import Machine
from tracker_worker.bus.base import (
    PING,
    SHARED,
    Blocked,
    Bus,
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
from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.request import encode_request

_RECONNECT_SECONDS = 1.0
_NOTICE_SECONDS = 15.0
"""The most that either side takes to notice a silent connection."""


class SimulatedBus(Bus, Receiver, Sender):
    """One object is the whole bus of a worker. A token is (connection, tag)."""

    def __init__(self, broker: Broker, machine: Machine) -> None:
        self.receiver = self.sender = self
        self._broker = broker
        self._machine = machine
        self._listener: Listener | None = None
        self._hosts: Sequence[str] = ()
        self._serving: Collection[str] | None = None
        self._consuming: set[str] = set()
        self.connection: Connection | None = None
        self._unconfirmed: OrderedDict[int, tuple[Outgoing, bool]] = OrderedDict()
        self._number = 0
        self._paused = False
        self._stopped = False
        self._empty: Sequence[str] = ()
        self.partitioned = False

    # --- the connection ------------------------------------------------------------------------------------------------

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        self._listener = listener
        self._hosts = hosts
        self._connect()

    def _connect(self) -> None:
        if self._stopped or self.connection is not None or self._listener is None:
            return
        if not self._broker.up or self.partitioned:
            self._machine.later(_RECONNECT_SECONDS * (0.5 + self._machine.stage.random.random()), self._connect)
            return
        self.connection = Connection(self._broker, self._arrived, self._machine.later)
        self._broker.connect(self.connection)
        self._consuming.clear()
        self._listener.opened()
        self._consume()
        for number in list(self._unconfirmed):
            self._publish(number)

    def _consume(self) -> None:
        connection = self.connection
        if connection is None:
            return
        hosts = self._hosts if self._serving is None else self._serving
        for name in (*hosts, SHARED):
            if name not in self._consuming:
                self._consuming.add(name)
                connection.to_broker(lambda name=name: self._broker.consume(connection, name))  # type: ignore[misc]

    def lose(self) -> None:
        """The worker notices that its connection is gone."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        connection.cut = True
        self._unconfirmed = OrderedDict((n, kept) for n, kept in self._unconfirmed.items() if kept[1])
        if self._listener is not None:
            self._listener.lost()
        if not self._stopped:
            self._machine.later(_RECONNECT_SECONDS * self._machine.stage.random.random(), self._connect)

    def break_off(self) -> None:
        """The connection is lost; each side notices it at a time of its own."""
        connection = self.connection
        if connection is None:
            return
        connection.cut = True
        random = self._machine.stage.random
        quick = random.random() < 0.7
        self._machine.later(random.random() * (0.1 if quick else _NOTICE_SECONDS), lambda: self._noticed(connection))
        self._machine.stage.later(
            random.random() * (0.1 if quick else _NOTICE_SECONDS), lambda: self._broker.leave(connection)
        )

    def _noticed(self, connection: Connection) -> None:
        if self.connection is connection:
            self.lose()

    def serve(self, hosts: Collection[str]) -> None:
        self._serving = hosts
        if self._consuming - {SHARED} - set(hosts) and self.connection is not None:
            connection = self.connection
            self.lose()
            connection.cut = False
            self._machine.stage.later(0.001, lambda: self._broker.leave(connection))
        else:
            self._consume()

    def stop(self, timeout_seconds: float) -> None:
        until = self._machine.stage.now + timeout_seconds
        while self._unconfirmed and self._machine.stage.now < until and self.connection is not None:
            self._machine.sleep(0.01)
        self._stopped = True
        connection = self.connection
        self.lose()
        if connection is not None:
            self._broker.leave(connection)

    def pause(self) -> None:
        self._paused = True

    def connected(self) -> bool:
        return self.connection is not None

    def blocked(self) -> Blocked | None:
        return None

    def reload(self, conf: cfg.ConfigOpts) -> None:
        """There is no password."""

    # --- receiving -----------------------------------------------------------------------------------------------------

    def _arrived(self, name: str, tag: int, message: Message) -> None:
        if self._paused or self._listener is None or self.connection is None:
            return
        delivery = Delivery(
            body=message.body,
            source=name,
            content_type=message.content_type,
            headers=message.headers,
            routing_key=name,
            deadline=message.deadline,
            token=(self.connection, tag),
        )
        self._listener.received([delivery])

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            connection, tag = delivery.token
            if connection is self.connection:
                connection.to_broker(lambda c=connection, t=tag: c.acknowledge(t))

    def is_current(self, delivery: Delivery) -> bool:
        return self.connection is not None and delivery.token[0] is self.connection

    def report_empty(self, hosts: Sequence[str]) -> None:
        connection = self.connection
        if connection is None:
            return
        for host in hosts:
            connection.to_broker(lambda host=host: self._look_empty(connection, host))  # type: ignore[misc]

    def _look_empty(self, connection: Connection, host: str) -> None:
        queue = self._broker.queues.get(host)
        if queue is None or not queue.ready:
            connection.to_client(lambda: self._tell_empty(host))

    def _tell_empty(self, host: str) -> None:
        if self._listener is not None and not self._paused:
            self._listener.emptied(host)

    def probe(self, hosts: Sequence[str]) -> None:
        connection = self.connection
        if connection is None:
            return
        for source in (*hosts, SHARED):
            body = encode_request(PING, {}, context={}, unique_id=self._machine.random_bytes(16).hex())
            connection.to_broker(lambda s=source, b=body: self._broker.publish(s, Message(body=b)))  # type: ignore[misc]

    def repair(self) -> None:
        """Queues of this broker stay."""

    # --- sending -------------------------------------------------------------------------------------------------------

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        for item in outgoing:
            match item:
                case Settlement():
                    self.settle([item.delivery])
                    continue
                case Reply(delivery=delivery) if (
                    delivery.deadline is not None and delivery.deadline <= self._machine.stage.now
                ):
                    self.settle([delivery])
                    continue
            self._number += 1
            self._unconfirmed[self._number] = (item, True)
            self._publish(self._number)

    def heartbeat(self, reply_to: ReplyTo, body: bytes) -> None:
        if self.connection is not None:
            self.connection.to_broker(lambda: self._broker.reply(reply_to.queue, body))

    def _publish(self, number: int) -> None:
        connection = self.connection
        if connection is not None:
            item = self._unconfirmed[number][0]
            connection.to_broker(lambda: self._at_broker(connection, number, item))

    def _at_broker(self, connection: Connection, number: int, item: Outgoing) -> None:
        match item:
            case Publication(topic=topic, priority=priority, body=body):
                self._broker.notify(f"{topic}.{priority}", Message(body=body))
            case Reply(reply_to=reply_to, body=body):
                self._broker.reply(reply_to.queue, body)
            case DeadLetter(delivery=delivery, reason=reason):
                headers = {**delivery.headers, "x-tracker-reason": reason}
                self._broker.parked.append(Message(body=delivery.body, headers=headers))
        connection.to_client(lambda: self._confirmed(connection, number))

    def _confirmed(self, connection: Connection, number: int) -> None:
        found = self._unconfirmed.pop(number, None)
        if found is None or self._listener is None:
            return
        item = found[0]
        if isinstance(item, Publication):
            self._listener.confirmed([item.key])
        elif not isinstance(item, Settlement):
            self.settle([item.delivery])

    # --- markers -------------------------------------------------------------------------------------------------------

    @contextmanager
    def markers(self) -> Iterator[Markers]:
        yield SimulatedMarkers(self._broker, self, self._machine)


class SimulatedMarkers(Markers):
    """The markers over a connection of their own."""

    def __init__(self, broker: Broker, bus: SimulatedBus, machine: Machine) -> None:
        self._broker = broker
        self._bus = bus
        self._machine = machine

    def _travel(self) -> None:
        self._machine.sleep(0.001)
        if not self._broker.up or self._bus.partitioned:
            raise MarkerUnavailable("no broker can be reached")

    def look(self, host: str) -> Marker | None:
        self._travel()
        return self._broker.markers.get(host)

    def write(self, host: str, marker: Marker) -> None:
        self._travel()
        self._broker.markers[host] = marker
        self._machine.reach("after marker")
        self._travel()

    @contextmanager
    def locked(self, host: str) -> Iterator[None]:
        self._travel()
        holder = self._broker.locked.get(host)
        if holder is not None and not holder.crashed:
            raise MarkerUnavailable(f"another worker writes the marker of host {host}")
        self._broker.locked[host] = self._machine
        try:
            yield
        finally:
            self._broker.locked.pop(host, None)

    def consumers(self, host: str) -> int:
        self._travel()
        queue = self._broker.queues.get(host)
        return 0 if queue is None else len(queue.consumers)

    def answers(self, host: str) -> bool:
        self._travel()
        queue = self._broker.queues.get(host)
        return bool(queue is not None and queue.consumers and not queue.consumers[0].cut)
