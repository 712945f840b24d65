# SPDX-License-Identifier: Apache-2.0
"""The sending side of the bus: replies, dead letters and notifications as messages of the publishing connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

from tracker_worker import faults
from tracker_worker.bus.amqp.addresses import Addresses
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.publisher import FOREVER, Message, Publisher
from tracker_worker.bus.base import (
    FANOUT,
    SHARED,
    DeadLetter,
    Delivery,
    Outgoing,
    Publication,
    Sender,
    Settlement,
)
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.wire.message import JSON, ReplyTo
from tracker_worker.wire.notification import renewed

_PERSISTENT = 2
# A client that reconnects declares its reply queue again within about a second; after this time the client is gone.
_REPLY_RETRY_SECONDS = 60
# Properties and headers that would make the broker act on a dead letter: expire it, send copies of it to the queue that it came
# from (RabbitMQ's sender-selected distribution), or refuse it as another user's (validated user-id).
_NOT_KEPT = {"expiration", "user_id", "CC", "BCC"}
# Of RabbitMQ's default frame_max of 128 KiB; properties and headers together have to fit into one frame.
_MOST_HEADER_CHARACTERS = 120_000


class AMQPSender(Publisher, Sender):
    """``settle`` gets the deliveries whose messages are safe, ``confirmed`` the keys of notifications that every topic has;
    both are called on the publisher's thread, or, for deliveries that need no message, on the thread that sends."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        confirm_threshold: int,
        settle: Callable[[Iterable[Delivery]], None],
        confirmed: Callable[[Sequence[Any]], None],
        died: Callable[[BaseException], None],
        addresses: Addresses | None = None,
    ) -> None:
        super().__init__(
            settings, confirm_threshold=confirm_threshold, confirmed=self._report, died=died, addresses=addresses
        )
        self._settle = settle
        self._report_confirmed = confirmed
        # What the broker has confirmed since ``_report``; on the publisher's thread.
        self._safe: list[Delivery] = []
        self._published: list[Any] = []

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        now = time.monotonic()
        waiting = self._waiting
        settled = []
        for item in outgoing:
            if isinstance(item, Publication):
                waiting.extend(self._notifications(item))
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
                        # The delivery of a returned reply is settled too: the inbox has the answer, should the client ask
                        # again, and a dead client must not hold a place in the prefetch.
                        done=partial(self._replied, delivery),
                        retry_before=now + _REPLY_RETRY_SECONDS,
                        urgent=delivery.source in (SHARED, FANOUT),  # these queues have a small prefetch
                    )
                )
        if settled:
            self._settle(settled)
        self._turn.flush_soon()

    def heartbeat(self, reply_to: ReplyTo, body: bytes) -> None:
        properties = _properties(reply_to.content_type)
        self.submit(Message(exchange="", routing_key=reply_to.queue, body=body, properties=properties, mandatory=False))

    def _replied(self, delivery: Delivery, routed: bool) -> None:
        if faults.hook is not None:
            faults.hook("after_reply")
        self._safe.append(delivery)

    def _dead_letter(self, item: DeadLetter) -> Message:
        delivery = item.delivery
        headers = {
            **_fitting({name: value for name, value in delivery.headers.items() if name not in _NOT_KEPT}),
            "x-tracker-reason": item.reason,
            "x-tracker-exchange": delivery.exchange,
            "x-tracker-routing-key": delivery.routing_key,
            "x-tracker-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        properties = {name: value for name, value in delivery.properties.items() if name not in _NOT_KEPT}
        return Message(
            exchange="",
            routing_key=self._settings.dead_letter_queue,
            body=delivery.body,
            properties=encode_properties({**properties, "application_headers": headers, "delivery_mode": _PERSISTENT}),
            done=lambda routed: self._safe.append(delivery),
            retry_before=FOREVER,
        )

    def _notifications(self, item: Publication) -> Iterator[Message]:
        """One message for each topic; the notification is confirmed when all of them are."""
        queues = [f"{topic}.{item.priority.lower()}" for topic in self._settings.notification_topics]
        missing = set(queues)
        for number, queue in enumerate(queues):
            yield Message(
                exchange=self._settings.exchange,
                routing_key=queue,
                body=item.body if number == 0 else renewed(item.body),
                properties=_properties(JSON),
                done=partial(self._notified, item.key, queue, missing),
                retry_before=FOREVER,
                renewed=renewed,
            )

    def _notified(self, key: Any, queue: str, missing: set[str], routed: bool) -> None:
        missing.discard(queue)
        if not missing:
            if faults.hook is not None:
                faults.hook("after_publish")
            self._published.append(key)

    def _report(self) -> None:
        """Report everything that was confirmed since the last time, in one call each."""
        if self._safe:
            safe, self._safe = self._safe, []
            self._settle(safe)
        if self._published:
            published, self._published = self._published, []
            self._report_confirmed(published)


def _fitting(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headers, unless they leave no room for ours: with the headers of a message that nearly filled its frame, the broker
    would close the connection again and again."""
    return headers if len(ascii(dict(headers))) <= _MOST_HEADER_CHARACTERS else {}


@cache
def _properties(content_type: str) -> bytes:
    encoding = "utf-8" if content_type == JSON else "binary"
    return encode_properties(
        {"content_type": content_type, "content_encoding": encoding, "delivery_mode": _PERSISTENT, "priority": 0}
    )
