# SPDX-License-Identifier: Apache-2.0
"""The bus on RabbitMQ: one connection that consumes and one that publishes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tracker_worker.bus.amqp.consumer import Consumer
from tracker_worker.bus.amqp.probes import Probes
from tracker_worker.bus.amqp.sender import AMQPSender
from tracker_worker.bus.base import Bus, Listener
from tracker_worker.bus.settings import BrokerSettings


class AMQPBus(Bus):
    """Stopping it publishes first and acknowledges last: a reply must be safe before its request is acknowledged."""

    receiver: Consumer
    sender: AMQPSender

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._started = False

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        self.receiver = Consumer(
            self._settings, hosts, received=listener.received, lost=listener.lost, died=listener.died
        )
        self.sender = AMQPSender(
            self._settings,
            # A request occupies its place in a queue's prefetch until its reply is confirmed: half of the places may wait.
            confirm_threshold=self._settings.prefetch // max(1, len(hosts)) // 2,
            settle=self.receiver.settle,
            confirmed=listener.confirmed,
            died=listener.died,
        )
        self._probes = Probes(
            self._settings, submit=self.sender.submit, unreachable=self.receiver.repair, monotonic=time.monotonic
        )
        self._started = True
        self.sender.start()
        self.receiver.start()

    def pause(self) -> None:
        if self._started:
            self.receiver.pause()

    def stop(self, timeout_seconds: float) -> None:
        if self._started:
            self.sender.stop(timeout_seconds)
            self.receiver.stop(timeout_seconds)

    def connected(self) -> bool:
        return self._open() and self.receiver.serves_all()

    def probe(self, hosts: Sequence[str]) -> None:
        if self._open():  # otherwise everything is declared when it is open again
            self._probes.probe(hosts)

    def repair(self) -> None:
        if self._started:
            self.sender.repair()
            self.receiver.repair()

    def _open(self) -> bool:
        return self._started and self.receiver.is_open() and self.sender.is_open()
