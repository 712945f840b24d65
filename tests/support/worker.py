# SPDX-License-Identifier: Apache-2.0
"""A worker in this process, on a bus in memory, with a driver whose answers a test sets."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from tests.support.builders import HOST
from tests.support.caller import Caller
from tests.support.scripted import Clock, ScriptedStore
from tracker_worker.bus.base import Listener
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.service.worker import Worker
from tracker_worker.store.memory import MemoryStore


class RecordingBus(MemoryBus):
    """Records its start, pause and stop in the store's log."""

    def __init__(self, broker: MemoryBroker, log: list[str]) -> None:
        super().__init__(broker)
        self._log = log
        self.started = threading.Event()

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        self._log.append("bus.start")
        super().start(hosts, listener)
        self.started.set()

    def pause(self) -> None:
        self._log.append("bus.pause")
        super().pause()

    def stop(self, timeout_seconds: float) -> None:
        self._log.append("bus.stop")
        super().stop(timeout_seconds)


class WorkerHarness:
    """A worker of one host with a driver whose answers a test sets."""

    def __init__(self, conf: cfg.ConfigOpts, drivers: dict[str, FakeDriver], **arguments: Any) -> None:
        """``arguments`` are further ones of ``Worker``."""
        self.conf = conf
        self.drivers = drivers
        self.clock = Clock()
        self.store = ScriptedStore(MemoryStore(now=self.clock))
        self.broker = MemoryBroker()
        self.bus = RecordingBus(self.broker, self.store.calls)
        self.caller = Caller(self.broker)
        self.deaths: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.worker = Worker(
            conf,
            bus=self.bus,
            store=self.store,
            monotonic=self.clock.monotonic,
            died=self.deaths.put,
            **arguments,
        )

    @property
    def driver(self) -> FakeDriver:
        return self.drivers[HOST]
