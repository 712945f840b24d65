# SPDX-License-Identifier: Apache-2.0
"""The broker's side of one channel: what is published over it, and what it delivers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.simulation import wire
from tests.simulation.queues import Consumer, Queue, Stored
from tracker_worker.bus.amqp.internals import decode_content, encode_properties

if TYPE_CHECKING:
    from tests.simulation.session import Session


class ChannelProblem(Exception):
    """The broker closes the channel with this code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class ServerChannel:
    """``limit``: how many messages a consumer that follows may hold. ``consumers`` by tag, with their queues. ``closed``: the
    channel is gone; after a problem the client has yet to say that it knows."""

    def __init__(self, session: Session, number: int) -> None:
        self.limit = 0
        self.confirms = False
        self.consumers: dict[str, tuple[Queue, Consumer]] = {}
        self.unacknowledged: dict[int, tuple[Queue, Stored, Consumer | None]] = {}
        """By tag: queue, message and consumer; None: the client has asked for it."""
        self.closed = False
        self._session = session
        self._broker = session.broker
        self._number = number
        self._tag = 0
        self._count = 0
        self._undecided: set[int] = set()  # numbers of messages that no queue has taken or refused yet
        self._answers: dict[int, bool] = {}  # by number: taken, or refused; the client has yet to be told
        self._publish: tuple[str, str, bool] | None = None
        self._properties: bytes | None = None
        self._left = 0
        self._parts: list[bytes] = []

    # --- publishing ---------------------------------------------------------------------------------------------------------

    def take(self, kind: int, payload: bytes) -> None:
        """A frame of a message that is published. Raises ChannelProblem."""
        if kind == wire.METHOD:
            self._publish = wire.published(payload)
            return
        if kind == wire.HEADER:
            _, _, self._left = wire.CONTENT.unpack_from(payload)
            self._properties = payload[wire.CONTENT.size :]
        else:
            self._parts.append(payload)
            self._left -= len(payload)
        if self._left == 0:
            assert self._publish is not None
            assert self._properties is not None
            parts, self._parts = self._parts, []
            self._decide(*self._publish, self._properties, parts[0] if len(parts) == 1 else b"".join(parts))

    def _decide(self, exchange: str, key: str, mandatory: bool, properties: bytes, body: bytes) -> None:
        """Put a message into its queues, or not, and say so later."""
        broker = self._broker
        if broker.is_poison(key, body):
            self._session.close(501, "FRAME_ERROR")
            return
        if len(body) > broker.most_bytes:
            broker.untaken.append((key, body))
            text = f"message size {len(body)} is larger than configured max size {broker.most_bytes}"
            raise ChannelProblem(406, f"PRECONDITION_FAILED - {text}")
        if exchange and exchange not in broker.exchanges:
            raise ChannelProblem(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'")
        self._count += 1
        if not exchange and key in broker.replies:
            routed, taken = broker.reply(key, body)
        else:
            stored = Stored(exchange, key, properties, body, broker.stage.now)
            queues = broker.route(exchange, key)
            routed, taken = bool(queues), not any(queue.refuses() for queue in queues)
            for queue in queues:
                if queue.stuck:
                    self._undecided.add(self._count)
                    queue.undecided.append((stored, self._session, partial(self._taken, self._count)))
                    return
                if not queue.refuses():
                    broker.put(queue, stored)
        if not (routed and taken):
            broker.untaken.append((key, body))
        if not routed and mandatory:
            head = wire.head((60, 50), "Bsss", (312, "NO_ROUTE", exchange, key))
            self._session.write(wire.content(self._number, head, properties, body))
        if self.confirms:
            self._answers[self._count] = taken

    def _taken(self, number: int) -> None:
        """A queue has taken a message after some time."""
        self._undecided.discard(number)
        if self.confirms and not self.closed:
            self._answers[number] = True
            self._answer()

    def answer_soon(self) -> None:
        """Tell the client about what it has published."""
        if not self._answers:
            return
        most, stage = self._broker.confirm_seconds, self._broker.stage
        if most:
            answers, self._answers = self._answers, {}
            self._undecided.update(answers)
            stage.later(most * stage.random.random(), partial(self._answer_late, answers))
        else:
            self._answer()

    def _answer_late(self, answers: dict[int, bool]) -> None:
        self._undecided.difference_update(answers)
        self._answers.update(answers)
        self._answer()

    def _answer(self) -> None:
        """Confirm and refuse; all messages before the first one that is refused or not decided are confirmed together."""
        answers, self._answers = self._answers, {}
        if self.closed or not answers:
            return
        write, number = self._session.write, self._number
        refused = [count for count, taken in answers.items() if not taken]
        taken = sorted(count for count, taken in answers.items() if taken)
        first = min([*self._undecided, *refused], default=self._count + 1)
        together = [count for count in taken if count < first]
        if together:
            write(wire.acknowledged(number, together[-1], multiple=len(together) > 1))
        for count in taken[len(together) :]:
            write(wire.acknowledged(number, count, multiple=False))
        for count in refused:
            write(wire.method(number, (60, 120), "Lbb", (count, False, False)))

    # --- consuming ----------------------------------------------------------------------------------------------------------

    def consume(self, queue: Queue, tag: str) -> None:
        consumer = Consumer(self._session, tag, self.limit, self._give)
        self.consumers[tag] = (queue, consumer)
        queue.consumers.append(consumer)
        self._broker.pump(queue)

    def _give(self, consumer: Consumer, queue: Queue, stored: Stored) -> None:
        tag = self._next(queue, stored, consumer)
        place = stored.exchange, stored.routing_key, _properties(queue, stored), stored.body
        self._session.write(wire.delivery(self._number, consumer.tag, tag, stored.returns > 0, *place))

    def hand_out(self, queue: Queue, stored: Stored, *, no_ack: bool) -> None:
        """The client has asked for a message."""
        tag = self._next(queue, stored, None)
        if no_ack:
            del self.unacknowledged[tag]
        arguments = tag, stored.returns > 0, stored.exchange, stored.routing_key, len(queue.ready)
        head = wire.head((60, 71), "Lbssl", arguments)
        self._session.write(wire.content(self._number, head, _properties(queue, stored), stored.body))

    def _next(self, queue: Queue, stored: Stored, consumer: Consumer | None) -> int:
        self._tag += 1
        stored.moved_at = self._broker.stage.now
        self.unacknowledged[self._tag] = (queue, stored, consumer)
        return self._tag

    def acknowledge(self, tag: int, multiple: bool) -> None:
        settled = self._settled(tag, multiple)
        for _, stored in settled:
            self._broker.acknowledged(stored)
        for queue in {queue.name: queue for queue, _ in settled}.values():
            self._broker.pump(queue)

    def reject(self, tag: int, requeue: bool) -> None:
        [(queue, stored)] = self._settled(tag, False)
        if requeue:
            self._broker.put_back(queue, [stored])
            self._broker.pump(queue)

    def _settled(self, tag: int, multiple: bool) -> list[tuple[Queue, Stored]]:
        """Forget what was delivered. Raises ChannelProblem."""
        tags = [number for number in self.unacknowledged if number <= tag] if multiple else [tag]
        if tag not in self.unacknowledged:
            raise ChannelProblem(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        found = []
        for number in tags:
            queue, stored, consumer = self.unacknowledged.pop(number)
            if consumer is not None:
                consumer.held -= 1
            found.append((queue, stored))
        return found

    def drop(self) -> None:
        """The channel is gone: what it has delivered goes back to its queues."""
        self.closed = True
        back: dict[str, tuple[Queue, list[Stored]]] = {}
        for queue, stored, _ in self.unacknowledged.values():
            back.setdefault(queue.name, (queue, []))[1].append(stored)
        self.unacknowledged.clear()
        for queue, consumer in self.consumers.values():
            back.setdefault(queue.name, (queue, []))
            self._broker.leave(queue, consumer)
        self.consumers.clear()
        for queue, messages in back.values():
            self._broker.put_back(queue, messages)
            self._broker.pump(queue)


def _properties(queue: Queue, stored: Stored) -> bytes:
    """A quorum queue counts how often a message has come back."""
    if not stored.returns or not queue.quorum:
        return stored.properties
    found = decode_content(stored.properties)
    headers = {**found.headers, "x-delivery-count": stored.returns}
    return encode_properties({**found.properties, "application_headers": headers})
