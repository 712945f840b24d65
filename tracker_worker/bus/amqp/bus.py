# SPDX-License-Identifier: Apache-2.0
"""The bus on RabbitMQ: one connection that consumes and one that publishes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from tracker_worker import faults
from tracker_worker.bus.amqp.consumer import Consumer
from tracker_worker.bus.amqp.frames import encode_properties
from tracker_worker.bus.amqp.publisher import FOREVER, Message, Publisher
from tracker_worker.bus.base import FANOUT, SHARED, Bus, Delivery, Listener, Outgoing
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.wire.envelope import JSON, ReplyTo, renewed

_PERSISTENT = 2
# A client that reconnects declares its reply queue again within about a second; then it is gone.
_REPLY_RETRY_SECONDS = 60
# What would make the broker do something with a dead letter: drop it in time, send copies of it to the queue that it came from
# (RabbitMQ's sender-selected distribution), or refuse it as somebody else's (validated user-id).
_NOT_KEPT = {"expiration", "user_id", "CC", "BCC"}
# Of a frame's 128 KiB (RabbitMQ's frame_max), of which properties and headers together may fill one.
_MOST_HEADER_CHARACTERS = 120_000


class AMQPBus(Bus):
    """Stopping it publishes first and acknowledges last: a reply must be safe before its request is gone."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._consumer: Consumer | None = None
        self._publisher: Publisher | None = None
        self._tell_confirmed = lambda keys: None
        self._gathered: list[Message] | None = None
        # What the broker has confirmed since ``_pass_on``; on the publisher's thread.
        self._safe: list[Delivery] = []
        self._confirmed: list[Any] = []

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        self._tell_confirmed = listener.confirmed
        # A request's place in its queue's prefetch is free when its reply is confirmed: half of them must be more than a few.
        few = self._settings.prefetch // max(1, len(hosts)) // 2
        self._publisher = Publisher(self._settings, few=few, confirmed=self._pass_on, died=listener.died)
        self._consumer = Consumer(self._settings, hosts, received=listener.received, died=listener.died)
        self._publisher.start()
        self._consumer.start()

    def pause(self) -> None:
        if self._consumer is not None:
            self._consumer.pause()

    def stop(self, timeout_seconds: float) -> None:
        if self._publisher is not None:
            self._publisher.stop(timeout_seconds)
        if self._consumer is not None:
            self._consumer.stop(timeout_seconds)

    def connected(self) -> bool:
        links = (self._consumer, self._publisher)
        return all(link is not None and link.is_open() for link in links)

    @contextmanager
    def together(self) -> Iterator[None]:
        # Each hand-over wakes the publisher, which then wants the interpreter for itself.
        self._gathered = []
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
            self._publish(*gathered)

    def _publish(self, *messages: Message) -> None:
        if self._gathered is not None:
            self._gathered.extend(messages)
        elif messages:
            self._submit(*messages)

    def _submit(self, *messages: Message) -> None:
        assert self._publisher is not None
        self._publisher.submit(*messages)

    def _pass_on(self) -> None:
        """What has been confirmed, at once."""
        if self._safe:
            safe, self._safe = self._safe, []
            self.settle(safe)
        if self._confirmed:
            confirmed, self._confirmed = self._confirmed, []
            self._tell_confirmed(confirmed)

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        assert self._consumer is not None
        self._consumer.settle(deliveries)

    def answer(self, delivery: Delivery, reply_to: ReplyTo, body: bytes) -> None:
        def replied(routed: bool) -> None:
            faults.reach("after_reply")
            self._safe.append(delivery)

        # When the queue is not there the delivery is settled all the same: the inbox has the reply, should the client
        # ask again, and a dead client must not hold a place in the prefetch.
        self._publish(
            Message(
                exchange="",
                routing_key=reply_to.queue,
                body=body,
                properties=_properties(reply_to.content_type),
                done=replied,
                retry_before=time.monotonic() + _REPLY_RETRY_SECONDS,
                prompt=delivery.source in (SHARED, FANOUT),  # these queues have few places
            )
        )

    def beat(self, reply_to: ReplyTo, body: bytes) -> None:
        self._submit(
            Message(
                exchange="",
                routing_key=reply_to.queue,
                body=body,
                properties=_properties(reply_to.content_type),
                mandatory=False,
            )
        )

    def park(self, delivery: Delivery, reason: str) -> None:
        headers = {
            **_fitting({name: value for name, value in delivery.headers.items() if name not in _NOT_KEPT}),
            "x-tracker-reason": reason,
            "x-tracker-exchange": delivery.exchange,
            "x-tracker-routing-key": delivery.routing_key,
            "x-tracker-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        properties = {name: value for name, value in delivery.properties.items() if name not in _NOT_KEPT}
        self._publish(
            Message(
                exchange="",
                routing_key=self._settings.dead_letter_queue,
                body=delivery.body,
                properties=encode_properties(
                    {**properties, "application_headers": headers, "delivery_mode": _PERSISTENT}
                ),
                done=lambda routed: self._safe.append(delivery),
                retry_before=FOREVER,
            )
        )

    def notify(self, notifications: Sequence[Outgoing]) -> None:
        messages = []
        for outgoing in notifications:
            queues = [f"{topic}.{outgoing.priority.lower()}" for topic in self._settings.notification_topics]
            missing = set(queues)
            for number, queue in enumerate(queues):
                body = outgoing.body if number == 0 else renewed(outgoing.body)
                messages.append(self._notification(outgoing.key, body, queue, missing))
        self._publish(*messages)

    def _notification(self, key: Any, body: bytes, queue: str, missing: set[str]) -> Message:
        def done(routed: bool) -> None:
            missing.discard(queue)
            if not missing:
                faults.reach("after_publish")
                self._confirmed.append(key)

        return Message(
            exchange=self._settings.exchange,
            routing_key=queue,
            body=body,
            properties=_properties(JSON),
            done=done,
            retry_before=FOREVER,
            renewed=renewed,
        )


def _fitting(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Headers that leave room for ours: with those of a message that nearly filled its frame, the broker would close the
    connection, again and again."""
    return headers if len(ascii(dict(headers))) <= _MOST_HEADER_CHARACTERS else {}


@cache
def _properties(content_type: str) -> bytes:
    encoding = "utf-8" if content_type == JSON else "binary"
    return encode_properties(
        {"content_type": content_type, "content_encoding": encoding, "delivery_mode": _PERSISTENT, "priority": 0}
    )
