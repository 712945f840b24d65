# SPDX-License-Identifier: Apache-2.0
"""A connection that only remembers, in place of a broker that answers when the test says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import tests.messaging  # noqa: F401 before oslo.messaging
from tracker_worker.bus.settings import BrokerSettings

SETTINGS = BrokerSettings(
    urls=("pyamqp://guest:guest@127.0.0.1:5672/%2F",),
    exchange="openstack",
    topic="tracker",
    queue_type="quorum",
    prefetch=256,
    dead_letter_queue="tracker.dead",
    notification_topics=("notifications",),
    durable=False,
    auto_delete=False,
    quorum=False,
    durable_fanout=False,
    quorum_limits={},
    login_method="PLAIN",
    heartbeat_seconds=15,
    retry_start_seconds=1.0,
    retry_step_seconds=2.0,
    retry_max_seconds=30.0,
    tls=None,
)


class RecordingChannel:
    """Declares nothing, delivers nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.auto_decode = True
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self.declared: list[str] = []
        self.qos: list[tuple[int, int, bool]] = []
        self.consumers: dict[str, Callable[[Any], None]] = {}
        self.limits: dict[str, int] = {}
        self.acks: list[tuple[int, bool]] = []
        self.published: list[SimpleNamespace] = []
        self.confirms = False

    def exchange_declare(self, name: str, type: str, **_options: Any) -> None:
        self.declared.append(name)

    def queue_declare(self, name: str, **_options: Any) -> None:
        self.declared.append(name)

    def queue_bind(self, *_arguments: Any, **_options: Any) -> None:
        """Nothing to remember."""

    def close(self) -> None:
        """Nothing to do."""

    def basic_qos(self, size: int, count: int, a_global: bool) -> None:
        self.qos.append((size, count, a_global))

    def basic_consume(self, queue: str, *, callback: Callable[[Any], None], **_options: Any) -> None:
        self.consumers[queue] = callback
        self.limits[queue] = self.qos[-1][1]

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.acks.append((tag, multiple))

    def confirm_select(self) -> None:
        self.confirms = True

    def basic_publish(self, message: Any, *, exchange: str, routing_key: str, mandatory: bool) -> None:
        self.published.append(
            SimpleNamespace(body=message.body, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        )

    def tell(self, event: str, *arguments: Any) -> None:
        """What the broker says."""
        for handler in self.events[event]:
            handler(*arguments)

    def deliver(self, queue: str, tag: int, body: bytes, properties: Mapping[str, Any] | None = None) -> None:
        message = SimpleNamespace(
            body=body,
            properties=dict(properties or {}),
            delivery_info={"exchange": "openstack", "routing_key": queue, "delivery_tag": tag},
        )
        self.consumers[queue](message)


class RecordingConnection:
    """Gives recording channels. ``last`` is the one that was opened last: the one that is not for declarations."""

    def __init__(self) -> None:
        self.channels: list[RecordingChannel] = []

    def channel(self) -> RecordingChannel:
        self.channels.append(RecordingChannel())
        return self.channels[-1]

    @property
    def last(self) -> RecordingChannel:
        return self.channels[-1]

    def declared(self) -> list[str]:
        return [name for channel in self.channels for name in channel.declared]
