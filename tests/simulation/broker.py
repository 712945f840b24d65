# SPDX-License-Identifier: Apache-2.0
"""A broker with what RabbitMQ promises, and nothing more.

A queue gives its messages to its first consumer (single active consumer), at most ``prefetch`` of them before they are
acknowledged. What a connection has received and not acknowledged goes back to the head of its queue, in order, when the broker
notices that the connection is gone. Messages travel both ways on a connection in order; what travels on it when it is lost is
lost too. A publish is confirmed, or returned where no queue takes it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation.machine import Machine
from tests.simulation.stage import Stage
from tracker_worker.bus.base import SHARED, Marker

MOST_TRAVEL_SECONDS = 0.002
APART_SECONDS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    message_id: str = ""


class Queue:
    """``consumers`` in the order of their coming."""

    def __init__(self, name: str, *, exclusive: bool = True) -> None:
        self.name = name
        self.exclusive = exclusive
        self.ready: deque[Message] = deque()
        self.consumers: list[Connection] = []
        self.full = False


class Connection:
    """One connection as the broker knows it. ``deliver`` gets the queue's name, the tag and the message."""

    def __init__(
        self,
        broker: Broker,
        deliver: Callable[[str, int, Message], None],
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self.broker = broker
        self.deliver = deliver
        self.later = later  # on the machine of the other side
        self.open = True  # for the broker
        self.cut = False  # nothing arrives at either side
        self.unacknowledged: OrderedDict[int, tuple[Queue, Message]] = OrderedDict()
        self.held: dict[str, int] = {}
        self._tag = 0
        self._there_at = 0.0
        self._here_at = 0.0

    def to_broker(self, action: Callable[[], object]) -> None:
        """Have ``action`` happen at the broker after everything that was sent before."""
        stage = self.broker.stage
        self._there_at = max(self._there_at + APART_SECONDS, stage.now + stage.random.random() * MOST_TRAVEL_SECONDS)
        stage.later(self._there_at - stage.now, lambda: self._arrive(action))

    def _arrive(self, action: Callable[[], object]) -> None:
        if not self.open or self.cut:
            return
        if self.broker.blocked:
            self.broker.waiting.append(lambda: self._arrive(action))
        else:
            action()

    def to_client(self, action: Callable[[], object]) -> None:
        """Have ``action`` happen at the other side after everything that was sent there before."""
        stage = self.broker.stage
        self._here_at = max(self._here_at + APART_SECONDS, stage.now + stage.random.random() * MOST_TRAVEL_SECONDS)
        self.later(self._here_at - stage.now, lambda: None if self.cut else action())

    def give(self, queue: Queue, message: Message) -> None:
        self._tag += 1
        tag = self._tag
        self.unacknowledged[tag] = (queue, message)
        self.held[queue.name] = self.held.get(queue.name, 0) + 1
        self.to_client(lambda: self.deliver(queue.name, tag, message))

    def acknowledge(self, tag: int) -> None:
        """At the broker."""
        found = self.unacknowledged.pop(tag, None)
        if found is not None:
            self.held[found[0].name] -= 1
            self.broker.pump(found[0])


class Broker:
    """``notifications``: what billing has received, in order, by topic and priority. ``parked``: the dead letters."""

    def __init__(self, stage: Stage, *, heard: Callable[[str, Message], None], prefetch: int = 128) -> None:
        """``heard`` gets each notification, with the name of its queue, as it arrives."""
        self.stage = stage
        self._heard = heard
        self.prefetch = prefetch
        self.up = True
        self.blocked = False
        self.queues: dict[str, Queue] = {}
        self.replies: dict[str, Callable[[bytes], None]] = {}
        self.notifications: list[tuple[str, Message]] = []
        self.parked: list[Message] = []
        self.markers: dict[str, Marker] = {}
        self.locked: dict[str, Machine] = {}
        self.connections: list[Connection] = []
        self.waiting: deque[Callable[[], object]] = deque()
        self.again: set[bytes] = set()
        """The bodies that were delivered more than once, or will be."""
        self.copy_next = 0
        """So many of the next messages come once more."""

    def queue(self, name: str) -> Queue:
        """The queue, which is declared if it is missing."""
        if name not in self.queues:
            self.queues[name] = Queue(name, exclusive=name != SHARED)
        return self.queues[name]

    def connect(self, connection: Connection) -> None:
        self.connections.append(connection)

    def consume(self, connection: Connection, name: str) -> None:
        queue = self.queue(name)
        if connection not in queue.consumers:
            queue.consumers.append(connection)
        self.pump(queue)

    def leave(self, connection: Connection) -> None:
        """The broker notices that a connection is gone."""
        if not connection.open:
            return
        connection.open = False
        self.connections.remove(connection)
        concerned = {queue.name: queue for queue, _ in connection.unacknowledged.values()}
        for queue, message in reversed(connection.unacknowledged.values()):
            self.again.add(message.body)
            queue.ready.appendleft(replace(message, headers={**message.headers, "redelivered": True}))
        connection.unacknowledged.clear()
        for queue in self.queues.values():
            if connection in queue.consumers:
                queue.consumers.remove(connection)
                concerned[queue.name] = queue
        for queue in concerned.values():
            self.pump(queue)

    def publish(self, name: str, message: Message) -> bool:
        """Put a message into a queue. False: there is none."""
        queue = self.queues.get(name)
        if queue is None:
            return False
        queue.ready.append(message)
        if self.copy_next > 0:
            self.copy_next -= 1
            self.again.add(message.body)
            self.stage.later(self.stage.random.random() ** 3 * 60, lambda: self.publish(name, message))
        self.pump(queue)
        return True

    def notify(self, queue: str, message: Message) -> None:
        """A notification arrives."""
        self.notifications.append((queue, message))
        self._heard(queue, message)

    def pump(self, queue: Queue) -> None:
        """Give ready messages to whoever consumes the queue."""
        while queue.ready and queue.consumers:
            if queue.exclusive:
                taker = queue.consumers[0]
            else:
                taker = min(queue.consumers, key=lambda each: each.held.get(queue.name, 0))
            if taker.held.get(queue.name, 0) >= self.prefetch:
                return
            taker.give(queue, queue.ready.popleft())

    def reply(self, name: str, body: bytes) -> bool:
        """Publish a reply. False: no queue has this name."""
        receive = self.replies.get(name)
        if receive is None:
            return False
        self.stage.later(self.stage.random.random() * MOST_TRAVEL_SECONDS, lambda: receive(body))
        return True

    def block(self) -> None:
        """An alarm: nothing that is published is read."""
        self.blocked = True

    def unblock(self) -> None:
        """The end of the alarm."""
        self.blocked = False
        waiting, self.waiting = self.waiting, deque()
        for action in waiting:
            action()
