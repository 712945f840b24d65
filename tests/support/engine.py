# SPDX-License-Identifier: Apache-2.0
"""An engine and its surroundings in one process: a store with scripted failures, a bus in memory, drivers with set answers, and
a clock that stands still.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.support.builders import HOST, NOW, RESERVED_MEMORY_MB, TIMEOUT, driver_resource_dict, node_name
from tests.support.caller import Caller, drained
from tests.support.deadline import SECONDS
from tests.support.scripted import Clock, ManualTimer, ScriptedStore
from tests.support.store import settle
from tracker_worker.bus.base import Listener, Refusal
from tracker_worker.bus.memory import MemoryBroker, MemoryBus, Parked
from tracker_worker.counters import Counters
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.inventory import reserve
from tracker_worker.domain.policy import Policy
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.notifications.dialects.table import PLAIN
from tracker_worker.service import clock as service_clock
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.loop.reporting import Reporting
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.requests.items import Chore
from tracker_worker.service.requests.reader import RequestReader
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.tally import Tally
from tracker_worker.threads import Pool
from tracker_worker.wire.message import decode_message
from tracker_worker.wire.reply import MAX_ANSWER_BYTES

STEPS_TO_SETTLE = 3
"""So many steps after a start the engine has renewed its leases, heard that the queues are empty, and decided what came before
that."""
RESERVED = reserve(memory_mb=RESERVED_MEMORY_MB, disk_mb=0)
POLICY = Policy(claim_timeout=TIMEOUT, capacity_limits=False, release_expired=False, reserved=RESERVED)


class EngineHarness:
    """One worker without its timers.

    Several harnesses may share a store or a broker. Hosts have nodes ``node-1`` ..., whose inventory is in the store
    before the start unless ``settled`` is False.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        broker: MemoryBroker | None = None,
        hosts: Sequence[str] = (HOST,),
        nodes: int = 1,
        owner: str = "worker-1",
        notify: bool = True,
        clock: Clock | None = None,
        settled: bool = True,
        topics: Sequence[str] = ("notifications",),
        monotonic: Callable[[], float] = time.monotonic,
        pool: Pool | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """``pool`` None: drivers are asked on threads."""
        self.clock = clock or Clock()
        self.store = ScriptedStore(store or MemoryStore(now=self.clock))
        self.broker = broker or MemoryBroker()
        self.hosts = hosts
        self.topics = topics
        self.counters = Counters()
        self.tally = Tally()
        self.caller = Caller(self.broker)
        self.bus = MemoryBus(self.broker, monotonic=monotonic)
        names = [node_name(number) for number in range(1, nodes + 1)]
        self.drivers = {host: FakeDriver(host, nodes={n: driver_resource_dict() for n in names}) for host in hosts}
        self.inventories = Inventories(self.drivers, RESERVED, pool=pool)
        self.policy = POLICY
        self.monitors: list[ManualTimer] = []
        self.refused: list[Refusal] = []
        self.deaths: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.engine = EngineThread(
            store=self.store,
            bus=self.bus,
            inventories=self.inventories,
            policy=lambda: self.policy,
            hosts=hosts,
            owner=owner,
            notify=notify,
            topics=dict.fromkeys(topics, PLAIN),
            counters=self.counters,
            reporting=Reporting(tally=self.tally, refusals_kept=lambda: 100),
            clock=service_clock.Clock(self.store.time, monotonic=self.clock.monotonic),
            died=self.deaths.put,
            monotonic=monotonic,
            max_answer_bytes=max_answer_bytes,
        )
        self.running = False
        for host in hosts:
            if settled and self.store.inner.load_host(host) is None:
                settle(self.store.inner, host=host, nodes=nodes)
                self._relayed(host)
            elif not settled:
                self.store.inner.register_host(host, topic="tracker", version="1.0", now=NOW)

    def _relayed(self, host: str) -> None:
        """Mark all notifications so far as published."""
        loaded = self.store.inner.load_host(host)
        assert loaded is not None
        streams = self.store.inner.open_cursors(host, self.topics)
        self.store.inner.commit(
            Commit(cursors={(stream.id, topic): stream.sequence for stream in streams for topic in stream.cursors})
        )

    def start(self, *, relaying: bool = True) -> EngineHarness:
        if relaying:
            self.engine.acquire_leases()
        self.engine.start()
        self.running = True
        self.inventories.start()
        self.connect()
        if relaying:
            self.engine.renew_leases()
            self.bus.probe(sorted(self.engine.held))  # as a worker does: its active consumer hears of it
            for _ in range(STEPS_TO_SETTLE):
                self.finish()
        return self

    def connect(self) -> None:
        reader = RequestReader(
            bus=self.bus,
            served=self.hosts,
            policy=lambda: self.policy,
            max_body_bytes=1 << 20,
            every=self._every,
            submit=self.engine.receive,
        )
        self.bus.start(
            self.hosts,
            Listener(
                received=reader.received,
                confirmed=self.engine.confirmed,
                lost=self.engine.lost,
                refused=self.engine.refused,
                emptied=self.engine.emptied,
                died=self.deaths.put,
            ),
        )

    def _every(self, interval_seconds: float, action: Callable[[], None], until: float) -> ManualTimer:
        self.monitors.append(ManualTimer(interval_seconds, action, until))
        return self.monitors[-1]

    def stop(self, *, release: bool = True) -> None:
        """Stop as the worker does. Without ``release``, keep the leases as a killed worker does; the threads end anyway."""
        self.inventories.stop()
        self.bus.pause()
        self.engine.stop()
        self.running = False
        self.bus.stop(0)
        if release:
            self.engine.release()
        for driver in self.drivers.values():
            for node in driver.nodes:
                driver.hang(node).release()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the engine busy during the body, so that all requests sent in it become one batch."""
        entered, release = threading.Event(), threading.Event()

        def wait(_ledgers: HostLedger) -> None:
            entered.set()
            release.wait(SECONDS)

        self.engine.submit(Chore(host=self.hosts[0], commands=(), done=wait))
        assert entered.wait(SECONDS)
        try:
            yield
        finally:
            release.set()

    def finish(self) -> None:
        """Wait until the engine has processed everything submitted so far. Returns immediately if the engine is stopped."""
        if not self.running:
            return
        done = threading.Event()
        self.engine.submit(Chore(host=self.hosts[0], commands=(), done=lambda _ledgers: done.set()))
        assert done.wait(SECONDS)

    def ledger(self, host: str = HOST) -> HostLedger:
        """The host's ledger as the store holds it."""
        loaded = self.store.inner.load_host(host)
        assert loaded is not None
        return loaded

    def charged(self, host: str = HOST) -> list[str]:
        """The sorted uuids of the instances that have an allocation."""
        return sorted(uuid for ledger in self.ledger(host) for uuid in ledger.allocations)

    def unsettled(self) -> int:
        """The number of deliveries that are not settled."""
        return len(self.bus._unsettled)

    def parked(self) -> list[Parked]:
        """The messages parked since the last call."""
        self.finish()
        return drained(self.broker.parked)

    def notified(self) -> list[tuple[str, int]]:
        """(event type, sequence) of the notifications published since the last call."""
        self.finish()
        return [_event(body) for body in drained(self.broker.notifications)]

    def hear(self, count: int) -> list[tuple[str, int]]:
        """Wait for the next ``count`` notifications and return (event type, sequence) of each."""
        return [_event(self.broker.notifications.get(timeout=SECONDS)) for _ in range(count)]


def _event(body: bytes) -> tuple[str, int]:
    message = decode_message(body)
    return message["event_type"].removeprefix("tracker."), message["payload"]["sequence"]
