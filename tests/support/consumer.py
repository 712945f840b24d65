# SPDX-License-Identifier: Apache-2.0
"""A consumer without its thread."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import replace

from amqp import spec
from amqp.serialization import dumps

from tests.support.channels import SETTINGS, RecordingChannel, RecordingConnection
from tests.support.clocked import clocked_system
from tracker_worker.bus.amqp.consumer import Consumer
from tracker_worker.bus.base import Delivery

QUEUE = "tracker.host-1"
DELIVER = struct.pack(">HH", *spec.Basic.Deliver) + dumps("sLbss", (QUEUE, 300, False, "openstack", QUEUE))


class Case:
    """A consumer without its thread, on a recording connection. ``now`` None: its clock goes on."""

    def __init__(self, hosts: Sequence[str] = ("host-1",), prefetch: int = 256, **options: int) -> None:
        self.now: float | None = None
        self.received: list[Delivery] = []
        self.batches: list[int] = []
        settings = replace(SETTINGS, prefetch=prefetch, **options)
        self.consumer = Consumer(
            settings,
            hosts,
            received=self._receive,
            lost=self._lost,
            died=self._died,
            system=clocked_system(lambda: time.monotonic() if self.now is None else self.now),
        )
        self.losses = 0
        self.tags = 0
        self.connect()

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        self.received.extend(deliveries)
        self.batches.append(len(deliveries))

    def _lost(self) -> None:
        self.losses += 1
        self.consumer.work()  # nothing is handed over after this call
        assert not any(self.consumer.is_current(delivery) for delivery in self.received)

    def _died(self, error: BaseException) -> None:
        raise AssertionError from error

    def connect(self) -> RecordingChannel:
        self.connection = RecordingConnection()
        self.consumer.opened(self.connection)
        self.tags = 0
        return self.channel

    @property
    def channel(self) -> RecordingChannel:
        return self.connection.last

    def arrive(self, count: int, queue: str = QUEUE) -> None:
        """Deliver ``count`` more messages with consecutive tags."""
        for _ in range(count):
            self.tags += 1
            self.channel.deliver(queue, self.tags, b"%d" % self.tags)
        self.consumer.work()

    def settle(self, *tags: int) -> list[tuple[int, bool]]:
        """Settle deliveries of the last connection by tag. Return the acknowledgements sent for them."""
        last = self.received[-self.tags :]
        before = len(self.channel.acks)
        self.consumer.settle([last[tag - 1] for tag in tags])
        self.consumer.work()
        return self.channel.acks[before:]
