# SPDX-License-Identifier: Apache-2.0
"""The sending side of the bus: replies, dead letters and notifications as messages of the publishing connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import msgspec

from tracker_worker import faults
from tracker_worker.bus.amqp import dead_letter
from tracker_worker.bus.amqp.addresses import Addresses
from tracker_worker.bus.amqp.durability import Durability
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.outgoing import FOREVER, Message
from tracker_worker.bus.amqp.publisher import Publisher
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.base import (
    FANOUT,
    SHARED,
    DeadLetter,
    Delivery,
    Outgoing,
    Publication,
    Refusal,
    RefusedDeadLetter,
    RefusedPublication,
    Reply,
    Sender,
    Settlement,
)
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.errors import AnswerTooLarge
from tracker_worker.wire.message import JSON, MSGPACK, ReplyTo
from tracker_worker.wire.notification import renewed
from tracker_worker.wire.reply import answer, encode_reply, smaller

LOG = logging.getLogger(__name__)

_PERSISTENT = 2
# A client that reconnects declares its reply queue again within about a second; after this time the client is gone.
_REPLY_RETRY_SECONDS = 60


class _Publishing(msgspec.Struct, eq=False):
    """A publication whose messages are on their way. It is safe when none of them is ``unconfirmed``, which never happens once
    one of them was ``refused``."""

    key: Any
    unconfirmed: int
    refused: bool = False


class AMQPSender(Publisher, Sender):
    """``settle`` gets the deliveries whose messages are safe, ``confirmed`` the keys of notifications that their topics have;
    both are called on the publisher's thread, or, for deliveries that need no message, on the thread that sends. ``refused``
    gets, on the publisher's thread, the dead letters and notifications that the broker does not take."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        confirm_threshold: int,
        settle: Callable[[Iterable[Delivery]], None],
        confirmed: Callable[[Sequence[Any]], None],
        refused: Callable[[Sequence[Refusal]], None],
        died: Callable[[BaseException], None],
        addresses: Addresses | None = None,
        system: System = SYSTEM,
        durability: Durability | None = None,
    ) -> None:
        super().__init__(
            settings,
            confirm_threshold=confirm_threshold,
            confirmed=self._report,
            died=died,
            addresses=addresses,
            system=system,
            durability=durability,
        )
        self._settle = settle
        self._report_confirmed = confirmed
        self._report_refused = refused
        # What the broker has answered since ``_report``; under the write turn.
        self._safe: list[Delivery] = []
        self._published: list[Any] = []
        self._refused: deque[Refusal] = deque()

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        now = self._monotonic()
        waiting = self._waiting
        settled = []
        for item in outgoing:
            if isinstance(item, Publication):
                self._add(item)
                continue
            delivery = item.delivery
            late = delivery.deadline is not None and delivery.deadline <= now
            if isinstance(item, DeadLetter):
                waiting.append(self._dead_letter(item))
            elif isinstance(item, Settlement) or late:
                settled.append(delivery)
            else:
                waiting.append(
                    Message(
                        exchange="",
                        routing_key=item.reply_to.queue,
                        body=item.body,
                        properties=_properties(item.reply_to.content_type),
                        # The delivery of a reply that is returned or refused is settled too: the inbox has the answer, should
                        # the client ask again, and a dead client must not hold a place in the prefetch.
                        done=partial(self._replied, delivery),
                        retry_before=now + _REPLY_RETRY_SECONDS,
                        urgent=delivery.source in (SHARED, FANOUT),  # these queues have a small prefetch
                        deadline=FOREVER if delivery.deadline is None else delivery.deadline,
                        item=item,
                    )
                )
        if settled:
            self._settle(settled)
        self._turn.flush_soon()

    @property
    def dropped_replies(self) -> int:
        """How many replies were dropped because nobody takes them. Any thread."""
        return self._destinations.unclaimed.dropped_in_all

    def heartbeat(self, reply_to: ReplyTo, body: bytes) -> None:
        properties = _properties(reply_to.content_type)
        self.submit(Message(exchange="", routing_key=reply_to.queue, body=body, properties=properties, mandatory=False))

    def _add(self, item: Publication) -> None:
        publishing = _Publishing(item.key, len(item.bodies))
        for body in item.bodies:
            self._waiting.append(
                Message(
                    exchange=self._settings.exchange,
                    routing_key=_notification_key(item.topic, item.priority),
                    body=body,
                    properties=_properties(item.content_type),
                    done=partial(self._notified, publishing),
                    retry_before=FOREVER,
                    # Only a message in oslo.messaging's envelope has an id that each attempt renews.
                    renewed=renewed if item.content_type == JSON else None,
                    item=publishing,
                )
            )

    def _replied(self, delivery: Delivery, routed: bool) -> None:
        if faults.hook is not None:
            faults.hook("after_reply")
        self._safe.append(delivery)

    def _dead_letter(self, item: DeadLetter) -> Message:
        delivery, parked_at = item.delivery, self._time_of_day()
        return Message(
            exchange="",
            routing_key=self._settings.dead_letter_queue,
            body=delivery.body,
            properties=dead_letter.encode(item, parked_at).together(),
            done=lambda routed: self._safe.append(delivery),
            retry_before=FOREVER,
            fitted=partial(dead_letter.fitted, item, parked_at),
            item=item,
        )

    def _time_of_day(self) -> float:
        return self._system.runtime.microseconds() / 1_000_000

    def _notified(self, publishing: _Publishing, routed: bool) -> None:
        if faults.hook is not None:
            faults.hook("after_publish")
        publishing.unconfirmed -= 1
        if not publishing.unconfirmed:
            self._published.append(publishing.key)

    def given_up(self, message: Message, error: str, limit: int | None) -> Message | None:
        item = message.item
        if isinstance(item, _Publishing):
            if not item.refused:  # by another message of it
                item.refused = True
                self._refused.append(RefusedPublication(key=item.key, reason=error))
        elif isinstance(item, DeadLetter):
            properties, headers = dead_letter.encode(item, self._time_of_day())
            refused = RefusedDeadLetter(
                delivery=item.delivery,
                reason=item.reason,
                exchange=item.delivery.exchange,
                routing_key=item.delivery.routing_key,
                properties=properties,
                headers=headers,
                broker_error=error,
            )
            self._refused.append(refused)
        elif isinstance(item, Reply):
            return self._too_large(message, item, limit)
        elif isinstance(item, Delivery):  # that reply: nothing else can be said to the caller
            message.notify_unrouted()
        return None

    def _too_large(self, message: Message, item: Reply, limit: int | None) -> Message:
        """The reply that says that the answer is too large for the broker."""
        error = AnswerTooLarge(method=item.method, bytes=message.size, limit=limit or 0, how=smaller(item.method))
        return Message(
            exchange="",
            routing_key=message.routing_key,
            body=encode_reply(answer(item.reply_to, error=error), item.reply_to),
            properties=message.properties,
            done=message.done,
            retry_before=message.retry_before,
            urgent=message.urgent,
            deadline=message.deadline,
            item=item.delivery,
        )

    def _report(self) -> None:
        """Report everything that was answered since the last time, in one call each."""
        if self._safe:
            safe, self._safe = self._safe, []
            self._settle(safe)
        if self._published:
            published, self._published = self._published, []
            self._report_confirmed(published)
        if self._refused:
            refused = [self._refused.popleft() for _ in range(len(self._refused))]
            self._report_refused(refused)


@cache
def _notification_key(topic: str, priority: str) -> str:
    return f"{topic}.{priority.lower()}"


@cache
def _properties(content_type: str) -> bytes:
    encoding = "binary" if content_type == MSGPACK else "utf-8"
    return encode_properties(
        {"content_type": content_type, "content_encoding": encoding, "delivery_mode": _PERSISTENT, "priority": 0}
    )
