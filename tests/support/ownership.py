# SPDX-License-Identifier: Apache-2.0
"""The part of a worker that decides which hosts it serves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import pytest

from tests.support.builders import HOST, NOW
from tests.support.scripted import ScriptedStore
from tracker_worker import new_history
from tracker_worker.bus.base import Delivery, Listener, Marker, Markers, MarkerUnavailable
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.domain.values import SECOND
from tracker_worker.ids import NewIds
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.store.base import HostRecord, Store
from tracker_worker.store.memory import MemoryStore

OTHER = Marker(ledger_id="0192f0c1-0000-7000-8000-00000000000f", token="theirs")


class BrokenBus(MemoryBus):
    """A bus whose markers can be out of reach."""

    down = False
    look_first: Callable[[], None] = staticmethod(lambda: None)

    def markers(self) -> AbstractContextManager[Markers]:
        self.look_first()
        if self.down:
            raise MarkerUnavailable("no broker can be reached")
        return super().markers()


class Worker:
    """The part of a worker that decides which hosts it serves, on virtual time and without a thread."""

    def __init__(
        self, broker: MemoryBroker, store: Store, name: str = "worker-1", hosts: Sequence[str] = (HOST,)
    ) -> None:
        self.now = 1000.0
        self.wall = NOW
        self.broker = broker
        self.store = ScriptedStore(store)
        self.name = name
        self.bus = BrokenBus(broker)
        self.passed: list[Delivery] = []
        self.emptied: list[str] = []
        self.looked_again = False
        self.allowed: frozenset[str] = frozenset()
        self.hosts = hosts
        tokens = itertools.count(1)
        for host in hosts:
            self.store.register_host(host, topic="tracker", version="1", now=NOW)
        self.ownership = Ownership(
            store=self.store,
            bus=self.bus,
            hosts=hosts,
            worker=name,
            received=self.passed.extend,
            waited=self.passed.extend,
            changed=self._changed,
            emptied=self.emptied.append,
            clock=lambda: self.wall,
            died=lambda error: pytest.fail(str(error)),
            monotonic=lambda: self.now,
            new_token=lambda: f"{name} {next(tokens)}",
        )
        self.bus.serve(())

    def _changed(self, hosts: frozenset[str]) -> None:
        self.allowed = hosts

    def begin(self) -> Worker:
        self.ownership.step(self.now)
        return self

    def connect(self) -> Worker:
        self.bus.start(
            self.hosts,
            Listener(
                received=self.ownership.received,
                lost=self.ownership.lost,
                opened=self.ownership.opened,
                emptied=self.ownership.emptied,
                confirmed=lambda keys: None,
                refused=lambda refusals: None,
                died=lambda error: None,
            ),
        )
        return self.step()

    def start(self) -> Worker:
        return self.begin().connect()

    def step(self, seconds: float = 0.0) -> Worker:
        self.now += seconds
        self.wall += int(seconds * SECOND)
        self.ownership.step(self.now)
        return self

    def lose_connection(self) -> None:
        self.bus.stop(0)
        self.passed.clear()

    def renew_lease(self) -> None:
        host_ids = [record.id for record in self.store.hosts()]
        self.store.take_lease(host_ids, self.name, now=self.wall, until=self.wall + 15 * SECOND, force=True)

    @property
    def record(self) -> HostRecord:
        return self.store.hosts()[0]

    @property
    def ledger_id(self) -> str:
        return self.store.histories()[-1].ledger_id


MakeWorker = Callable[..., Worker]


class OwnershipCase:
    """Workers of one broker, which end with their test."""

    @pytest.fixture
    def broker(self) -> MemoryBroker:
        return MemoryBroker()

    @pytest.fixture
    def make_worker(self, broker: MemoryBroker) -> Iterator[Callable[..., Worker]]:
        made: list[Worker] = []

        def make(store: Store | None = None, **options: object) -> Worker:
            made.append(Worker(broker, store or MemoryStore(), **options))  # type: ignore[arg-type]
            return made[-1]

        yield make
        for worker in made:
            worker.bus.stop(0)


def fixed() -> MemoryStore:
    """A store whose ledger_id is always the same."""
    return MemoryStore(now=lambda: NOW, random_bytes=bytes)


def copy_of(worker: Worker) -> MemoryStore:
    """A store with the same ledger_id and tokens."""
    copied = fixed()
    assert copied.histories()[-1].ledger_id == worker.ledger_id
    host_id = copied.register_host(HOST, topic="tracker", version="1", now=NOW)
    for token in (worker.record.previous_token, worker.record.token):
        if token is not None:
            copied.renew_token(host_id, token)
    return copied


def begin_history(store: Store, predecessor: str) -> None:
    new_history.begin_history(store, predecessor=predecessor, reason="restored", now=NOW, new_id=NewIds())
