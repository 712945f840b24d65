# SPDX-License-Identifier: Apache-2.0
"""A broker with what RabbitMQ promises, and nothing more: exchanges, queues, and who consumes them.

A queue gives its messages to its consumers, to each at most as many as it may hold; a queue with a single active consumer gives
them to its first one. What a consumer has received and not acknowledged goes back to the head of its queue, in order, when its
channel is gone. What is published is taken, or returned where no queue takes it, or refused by a queue that is full.

What the clients of other programs do, the broker does for them: they publish, their reply queues take what comes, and billing
takes every notification as soon as it may.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from tests.simulation.queues import Consumer, Exchange, Message, Queue, Stored
from tests.simulation.stage import Stage
from tracker_worker.bus.amqp.internals import decode_content, encode_properties
from tracker_worker.bus.base import SHARED

if TYPE_CHECKING:
    from tests.simulation.session import Session

MOST_TRAVEL_SECONDS = 0.002
APART_SECONDS = 1e-6
EXCHANGE, TOPIC, DEAD_LETTERS = "openstack", "tracker", "tracker.dead"
_MESSAGE_ID = re.compile(rb'message_id\\": *\\"([^"\\]+)')
_MOMENT_SECONDS = 1.0
_CANCEL_SECONDS = 0.5
"""The most that the broker takes to tell the consumers of a deleted queue."""
_REPLY_SECONDS = 1.0
"""A client has its reply queue again so soon after it has found the broker."""


class Broker:
    """``parked``: the dead letters that have come, ``lost``: the messages of clients that are gone with their queue. ``heard``
    gets each notification, with the name of its queue, as it arrives."""

    def __init__(self, stage: Stage, *, heard: Callable[[str, Message], None]) -> None:
        self.stage = stage
        self.heard = heard
        self.up = True
        self.blocked = False
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.sessions: list[Session] = []
        self.replies: dict[str, Callable[[bytes], None]] = {}
        self.missing_replies: dict[str, bool] = {}
        """The reply queues that take nothing: True where they are full, False where they do not exist."""
        self.unheard: Counter[str] = Counter()
        """How many replies each of them has missed."""
        self.topics: tuple[str, ...] = ("notifications",)
        self.most_bytes = 16 * 1024 * 1024
        """Of one message."""
        self.confirm_seconds = 0.0
        """Confirms come at most so late."""
        self.parked: list[Message] = []
        self.lost: list[Stored] = []
        self.untaken: list[tuple[str, bytes]] = []
        """By routing key, the messages of workers that were refused or returned."""
        self.poison: bytes | None = None
        """The message_id of the notification for which it closes each connection."""
        self.poison_next = False
        """The next notification is the one."""
        self.refused: list[bytes] = []
        """The bodies of the dead letters that workers have made."""
        self.disordered: list[Stored] = []
        """Messages that may be decided in another order than that in which they came."""
        self.disorder_next = False
        self.closed_at = -1e9
        """When it last closed something of a worker without a reason."""
        self.waiting: deque[Callable[[], object]] = deque()
        self.published: Callable[[Stored], object] = lambda message: None
        self.acknowledged: Callable[[Stored], object] = lambda message: None
        """Called with each message that comes to a queue, and that leaves one because it is acknowledged."""
        self.given: Callable[[Queue, Stored, Session], object] = lambda queue, message, session: None
        """Called when a queue gives a message to whoever has this connection."""
        self.forgets: list[Callable[[], object]] = []
        """Called when it may forget from which ledger hosts are served."""
        self.again: set[bytes] = set()
        """The bodies that were delivered more than once, or will be."""
        self.copy_next = 0
        """So many of the next messages of clients come once more."""

    # --- what clients do ---------------------------------------------------------------------------------------------------

    def queue(self, host: str) -> Queue | None:
        """The queue of requests of a host, or the SHARED one."""
        return self.queues.get(_key(host))

    def publish(self, host: str, message: Message) -> bool:
        """Publish a request of a client to a host, or to SHARED. False: no queue takes it."""
        now = self.stage.now
        left = None if message.deadline is None else max(1, round((message.deadline - now) * 1000))
        properties = _properties(message.content_type, left) if not message.headers else _encoded(message, left)
        stored = Stored(EXCHANGE, _key(host), properties, message.body, now, message.message_id)
        if not self.take(stored):
            return False
        if self.copy_next > 0:
            self.copy_next -= 1
            self.again.add(message.body)
            self.stage.later(self.stage.random.random() ** 3 * 60, lambda: self.publish(host, message))
        return True

    def reply(self, name: str, body: bytes) -> tuple[bool, bool]:
        """A message for the reply queue of a client. Returns whether there is such a queue, and whether it has not refused."""
        missing = self.missing_replies.get(name)
        if missing is not None:
            self.unheard[name] += 1
            return missing, not missing
        receive = self.replies[name]
        self.stage.later(self.stage.random.random() * MOST_TRAVEL_SECONDS, lambda: receive(body))
        return True, True

    # --- messages -----------------------------------------------------------------------------------------------------------

    def take(self, stored: Stored) -> bool:
        """Put a message of nobody in particular into the queues that it is for. False: there is none."""
        queues = self.route(stored.exchange, stored.routing_key)
        for queue in queues:
            self.put(queue, stored)
        return bool(queues)

    def is_poison(self, key: str, body: bytes) -> bool:
        """Whether this message, which a worker publishes, is one that the broker cannot read."""
        if key.partition(".")[0] not in self.topics:
            return False
        if self.poison_next:
            self.poison_next = False
            self.poison = _MESSAGE_ID.findall(body)[0]
        if self.poison is None or self.poison not in body:
            return False
        self.untaken.append((key, body))
        self.closed_at = self.stage.now
        return True

    def route(self, exchange: str, key: str) -> list[Queue]:
        """The queues of a message; those of ``replies`` are none of them."""
        if not exchange:
            queue = self.queues.get(key)
            return [] if queue is None else [queue]
        found = self.exchanges.get(exchange)
        return [] if found is None else list(found.route(key))

    def put(self, queue: Queue, stored: Stored) -> None:
        if queue.name.partition(".")[0] in self.topics:
            self.heard(queue.name, Message(body=stored.body))
            return
        if queue.name == DEAD_LETTERS:
            self.parked.append(Message(body=stored.body, headers=decode_content(stored.properties).headers))
        self.published(stored)
        queue.ready.append(stored)
        self.pump(queue)
        if stored.expires_at == self.stage.now and queue.ready and queue.ready[-1] is stored:
            queue.ready.pop()  # with an expiration of 0 it stays nowhere

    def pump(self, queue: Queue) -> None:
        """Give ready messages to whoever consumes the queue."""
        ready, consumers = queue.ready, queue.consumers
        if not ready or not consumers:
            return
        while ready:
            taker = consumers[0] if queue.single else min(consumers, key=_held)
            if taker.limit and taker.held >= taker.limit:
                return
            stored = ready.popleft()
            if stored.expires_at is None or stored.expires_at >= self.stage.now:
                taker.held += 1
                self.given(queue, stored, taker.session)
                taker.give(taker, queue, stored)

    def put_back(self, queue: Queue, messages: list[Stored]) -> None:
        """Messages, in order, come back to the head of their queue."""
        if queue.deleted:
            self.lost += messages
            return
        for stored in messages:
            stored.returns += 1
            self.again.add(stored.body)
        if self.disorder_next and len(messages) > 1:
            self.disorder_next = False
            self.stage.random.shuffle(messages)
            self.disordered += [*messages, *queue.ready]
        queue.ready.extendleft(reversed(messages))

    # --- queues -------------------------------------------------------------------------------------------------------------

    def bind(self, queue: Queue, exchange: Exchange, key: str) -> None:
        exchange.bindings.setdefault(key, {})[queue.name] = queue

    def delete(self, queue: Queue) -> None:
        """The queue is deleted: its consumers are told, and its messages are gone."""
        if queue.name.startswith(f"{TOPIC}_ledger."):
            self._forget()
        del self.queues[queue.name]
        queue.deleted = True
        self.lost += queue.ready
        queue.ready.clear()
        # What was given out may be decided yet, after what comes to another worker over a new queue of this name.
        given_out = (pair for session in self.sessions for pair in session.unacknowledged())
        self.disordered += [stored for source, stored in given_out if source is queue]
        for exchange in list(self.exchanges.values()):
            exchange.unbind(queue)
            if exchange.auto_delete and not exchange.bindings:
                del self.exchanges[exchange.name]
        consumers, queue.consumers = queue.consumers, []
        for consumer in consumers:
            self.stage.later(self.stage.random.random() * _CANCEL_SECONDS, partial(consumer.session.cancel, consumer))

    def leave(self, queue: Queue, consumer: Consumer) -> None:
        """A consumer of the queue is gone."""
        if consumer in queue.consumers:
            queue.consumers.remove(consumer)
        if queue.auto_delete and not queue.consumers and not queue.deleted:
            self.delete(queue)

    def unstick(self, queue: Queue) -> None:
        """The queue has its majority again. Of what came over a connection that is gone, the end may have been forgotten."""
        queue.stuck = False
        undecided, queue.undecided = queue.undecided, []
        forgotten: list[Session] = []
        for stored, session, taken in undecided:
            if not session.open and session not in forgotten and self.stage.random.random() < 0.1:
                forgotten.append(session)
            if session in forgotten:
                self.untaken.append((queue.name, stored.body))
            else:
                self.put(queue, stored)
                taken()

    # --- what is wrong with it ----------------------------------------------------------------------------------------------

    def block(self) -> None:
        """An alarm: nothing that is published is read."""
        self.blocked = True

    def unblock(self) -> None:
        """The end of the alarm."""
        self.blocked = False
        for session in list(self.sessions):
            session.unblock()
        waiting, self.waiting = self.waiting, deque()
        for action in waiting:
            action()

    def go_down(self, *, keeps: bool) -> None:
        """The broker stops, and keeps what is durable, or nothing."""
        self.up = False
        self._forget()
        for session in list(self.sessions):
            session.reset()
        for queue in list(self.queues.values()):
            if not (keeps and queue.durable):
                del self.queues[queue.name]
                queue.deleted = True
                self.lost += queue.ready
            elif not queue.quorum:  # a quorum queue keeps everything
                self.lost += [stored for stored in queue.ready if not stored.persistent]
                queue.ready = deque(stored for stored in queue.ready if stored.persistent)
        for exchange in list(self.exchanges.values()):
            if not (keeps and exchange.durable):
                del self.exchanges[exchange.name]
            for queues in exchange.bindings.values():
                for name in [name for name in queues if name not in self.queues]:
                    del queues[name]
        self.missing_replies = dict.fromkeys(self.replies, False)

    def _forget(self) -> None:
        forgets, self.forgets = self.forgets, []
        for each in forgets:
            each()

    def come_up(self) -> None:
        self.up = True
        for name in self.replies:
            self.stage.later(_REPLY_SECONDS * self.stage.random.random(), partial(self.missing_replies.pop, name, None))

    # --- what is to be seen of it -------------------------------------------------------------------------------------------

    def left(self, unserved: Iterable[str] = ()) -> list[str]:
        """What is left that should not be when everything is done, but for what has just come: workers send probes.
        ``unserved``: hosts whose queues nobody reads any more."""
        kept = (DEAD_LETTERS, f"{TOPIC}_ledger", *map(_key, unserved))
        long_ago = self.stage.now - _MOMENT_SECONDS
        for queue in self.queues.values():
            queue.expire(self.stage.now)
        found = [
            f"{len(queue.ready)} messages are ready in {queue.name!r}"
            for queue in self.queues.values()
            if queue.ready and queue.ready[0].moved_at < long_ago and not queue.name.startswith(kept)
        ]
        given_out = (stored for session in self.sessions for _, stored in session.unacknowledged())
        count = sum(stored.moved_at < long_ago for stored in given_out)
        return [*found, f"{count} messages are not acknowledged"] if count else found


def _held(consumer: Consumer) -> int:
    return consumer.held


@lru_cache(maxsize=1024)
def _key(host: str) -> str:
    return TOPIC if host == SHARED else f"{TOPIC}.{host}"


@lru_cache(maxsize=4096)
def _properties(content_type: str, left: int | None) -> bytes:
    return _encoded(Message(body=b"", content_type=content_type), left)


def _encoded(message: Message, left: int | None) -> bytes:
    properties: dict[str, Any] = {"content_type": message.content_type, "content_encoding": "utf-8", "delivery_mode": 2}
    if message.headers:
        properties["application_headers"] = dict(message.headers)
    if left is not None:
        properties["expiration"] = str(left)
    return encode_properties(properties)
