# SPDX-License-Identifier: Apache-2.0
"""Workers, a broker, a database, clients and billing, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial

from oslo_config import cfg

from tests.invariants.check import check
from tests.invariants.record import Evidence, Parked
from tests.invariants.stored import books, recorded
from tests.simulation.broker import Broker, Message
from tests.simulation.bus import SimulatedBus
from tests.simulation.client import Client
from tests.simulation.database import Database, MemoryDatabase
from tests.simulation.machine import Machine
from tests.simulation.set_backs import SetBack, judged
from tests.simulation.sqlite import SQLiteDatabase
from tests.simulation.stage import Due, Stage
from tests.simulation.store import Link, linked
from tests.simulation.watch import Watch
from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.first_audit import StartCancelled
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Store, StoreReplaced
from tracker_worker.wire.message import begin_series

STORES: dict[str, type[Database]] = {"memory": MemoryDatabase, "sqlite": SQLiteDatabase}
"""The name of a store in a plan -> what it is."""
_RESTART_SECONDS = 2.0


class Site:
    """One worker on its machine. ``worker`` None: it does not run."""

    def __init__(self, world: World, name: str, hosts: Sequence[str]) -> None:
        self.world = world
        self.name = name
        self.hosts = hosts
        self.machine = Machine(world.stage, name)
        self.bus: SimulatedBus | None = None
        self.worker: Worker | None = None
        self.link = Link()
        self.starts = False
        """Whether it is about to start."""

    def start(self) -> None:
        world = self.world
        self.starts = False
        self.machine = Machine(world.stage, self.name)
        self.bus = SimulatedBus(world.broker, self.machine)
        self.worker = Worker(
            configured(self.hosts),
            bus=self.bus,
            store=linked(world.database, self.machine, self.link, world.watch.committed),
            clock=self.machine.clock,
            runtime=self.machine,
            died=self._died,
            stalled=lambda sentence: self.restart(_RESTART_SECONDS),
        )
        self.machine.spawn(partial(self._run, self.worker))

    def _run(self, worker: Worker) -> None:
        try:
            worker.start()
        except (ConfigurationError, StartCancelled, StoreReplaced):
            self.restart(_RESTART_SECONDS)

    def _died(self, error: BaseException) -> None:
        if not isinstance(error, StoreReplaced):
            self.world.deaths.append(error)
        self.restart(_RESTART_SECONDS)

    def restart(self, seconds: float) -> None:
        """Kill the process, and start another one after so many seconds."""
        self.crash()
        self.starts = True
        self.world.stage.later(seconds, self.start)

    def works(self) -> bool:
        """Whether the worker is ready, its process goes on, and its connection is whole."""
        connection = None if self.bus is None else self.bus.connection
        if self.worker is None or self.machine.paused() or connection is None or connection.cut:
            return False
        return connection.open and self.worker.ready()

    def crash(self) -> None:
        """End the process at once."""
        self.machine.crash()
        self.world.database.crashed(self.machine)
        bus, self.bus, self.worker = self.bus, None, None
        if bus is not None and bus.connection is not None:
            self.world.broker.leave(bus.connection)


def configured(hosts: Sequence[str]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], project="tracker-worker", default_config_files=[])
    conf.set_override("hosts", list(hosts), group="tracker")
    conf.set_override("inventory_driver", "fake", group="tracker")
    conf.set_override("connection", "sqlite://", group="database")
    return conf


class World:
    """Hosts h1 ... are served by every worker; the first one that consumes a queue is the active one."""

    def __init__(
        self, seed: object, *, hosts: int = 6, workers: int = 3, clients: int = 4, store: str = "memory"
    ) -> None:
        self.stage = Stage(seed)
        begin_series("0" * 20)
        self.watch = Watch()
        self.broker = Broker(self.stage, heard=self.watch.heard)
        self.hosts = [f"h{number}" for number in range(1, hosts + 1)]
        self.database = STORES[store](self.stage)
        self.set_backs: list[SetBack] = []
        self.noticing = False
        """The database went back, and no worker has noticed it yet: those who can must be left alone."""
        self.clients = [Client(self.stage, self.broker, f"c{number}") for number in range(clients)]
        self.deaths: list[BaseException] = []
        self._ends: dict[Due, Callable[[], object]] = {}
        self.sites = [Site(self, f"w{number}", self.hosts) for number in range(1, workers + 1)]

    @property
    def store(self) -> Store:
        """The database as it is now, for those who only read."""
        return self.database.store

    def start(self) -> None:
        for site in self.sites:
            site.start()

    def close(self) -> None:
        """Release what the world holds outside of this process's memory."""
        self.database.close()

    def calm(self) -> bool:
        """Whether nothing is bad now, every worker is ready, and who did the last work of a host does the next."""
        if self._ends or self.noticing or not all(site.works() for site in self.sites):
            return False
        held = {
            name: site.bus.connection
            for site in self.sites
            if site.bus and site.worker
            for name in site.worker._engine.held
        }
        consumers = {name: self.broker.queue(name).consumers for name in self.hosts}
        return len(self.broker.connections) == len(self.sites) and all(
            consumers[name][:1] == [held.get(name)] for name in self.hosts
        )

    def until_healed(self, seconds: float, end: Callable[[], object]) -> None:
        """Have ``end``, which ends something bad, happen after so many seconds, or when everything is healed."""

        def happen() -> None:
            del self._ends[due]
            end()

        due = self.stage.later(seconds, happen)
        self._ends[due] = end

    def heal(self) -> None:
        """End everything that is bad."""
        ends, self._ends = self._ends, {}
        for due, end in ends.items():
            due.cancelled = True
            end()
        for site in self.sites:
            if site.worker is None and not site.starts:
                site.start()

    def evidence(self) -> Evidence:
        requests = [request for client in self.clients for request in client.requests]
        return Evidence(
            requests=requests,
            heard=self.watch.notifications,
            parked=[_parked(message) for message in self.broker.parked],
            nodes=books(self.store),  # type: ignore[arg-type]
            inbox=recorded(self.store, sorted({request.unique_id for request in requests})),  # type: ignore[arg-type]
        )

    def unsettled(self) -> list[str]:
        """What is not as it should be some time after the last fault."""
        found = [f"{client.name} waits for {client.waiting} answers" for client in self.clients if client.waiting]
        for queue in self.broker.queues.values():
            if queue.ready:
                found.append(f"{len(queue.ready)} messages are ready in {queue.name!r}")
        for connection in self.broker.connections:
            if connection.unacknowledged:
                found.append(f"{len(connection.unacknowledged)} messages are not acknowledged")
        for name in self.store.host_names():
            for stream in self.store.streams(name):
                late = [topic for topic, cursor in stream.cursors.items() if cursor < stream.sequence]
                found += [f"{topic} lacks notifications of {name}/{stream.node}" for topic in late]
        active = []
        for site in self.sites:
            if site.worker is None or not site.worker.ready():
                found.append(f"{site.name} is not ready")
            else:
                active += site.worker._engine.held
        if sorted(active) != sorted(self.hosts):
            found.append(f"the active workers do the chores of {sorted(active)}")
        return found

    def violations(self) -> list[str]:
        """What is wrong when everything is quiet."""
        if self.set_backs:
            return judged(self.evidence(), self.set_backs, present=self.store.histories()[-1].ledger_id)
        return check(self.evidence())


def _parked(message: Message) -> Parked:
    said = json.loads(json.loads(message.body)["oslo.message"])
    return Parked(unique_id=said.get("_unique_id"), reason=str(message.headers["x-tracker-reason"]))
