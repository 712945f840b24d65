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
from tests.simulation import bounds, states
from tests.simulation.answers import Answers
from tests.simulation.broker import Broker, Message
from tests.simulation.bus import SimulatedBus
from tests.simulation.client import Client
from tests.simulation.machine import Machine
from tests.simulation.stage import Due, Stage
from tests.simulation.store import Link, Unstorables, linked
from tests.simulation.troubles import Troubles
from tests.simulation.watch import Violation, Watch, stored
from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.first_audit import StartCancelled
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import begin_series

_RESTART_SECONDS = 2.0


class Site:
    """One worker on its machine. ``worker`` None: it does not run."""

    def __init__(self, world: World, name: str, hosts: Sequence[str], *, store: Store | None = None) -> None:
        """``store`` None: the database of the world."""
        self.world = world
        self.name = name
        self.hosts = hosts
        self.machine = Machine(world.stage, name)
        self.bus: SimulatedBus | None = None
        self.worker: Worker | None = None
        self.link = Link()
        self.starts = False
        """Whether it is about to start."""
        self.crashes_at: list[str] = []
        """Where its next processes crash, the last one first."""
        self.ended = False
        """Whether it is never started again."""
        self._store = store
        self._start: Due | None = None

    def start(self) -> None:
        world = self.world
        self.starts = False
        if self.ended:
            return
        world.troubles.happened("start")
        self.machine = Machine(world.stage, self.name)
        self.machine.crash_there = lambda: self.restart(_RESTART_SECONDS)
        self.machine.crashes_at = self.crashes_at.pop() if self.crashes_at else None
        self.bus = SimulatedBus(world.broker, self.machine)
        self.worker = Worker(
            configured(self.hosts),
            bus=self.bus,
            store=linked(
                world.store if self._store is None else self._store,
                self.machine,
                self.link,
                world.unstorable,
                world.committed if self._store is None else lambda commit: None,
            ),
            clock=self.machine.clock,
            runtime=self.machine,
            died=self._died,
            stalled=lambda sentence: self.restart(_RESTART_SECONDS),
        )
        self.machine.spawn(partial(self._run, self.worker))

    def _run(self, worker: Worker) -> None:
        try:
            worker.start()
        except (ConfigurationError, StartCancelled):
            self.restart(_RESTART_SECONDS)

    def _died(self, error: BaseException) -> None:
        self.world.deaths.append(error)
        self.restart(_RESTART_SECONDS)

    def restart(self, seconds: float) -> None:
        """Kill the process, and start another one after so many seconds, also where another start was due."""
        self.crash()
        if self._start is not None:
            self._start.cancelled = True
        self.starts = True
        self._start = self.world.stage.later(seconds, self.start)

    def crash(self) -> None:
        """End the process at once."""
        self.world.troubles.happened("crash")
        self.machine.crash()
        bus, self.bus, self.worker = self.bus, None, None
        if bus is not None and bus.connection is not None:
            self.world.broker.leave(bus.connection)

    def is_well(self) -> bool:
        """Whether it runs, goes on and is connected, as far as can be seen."""
        connection = None if self.bus is None else self.bus.connection
        if self.worker is None or connection is None or connection.cut or not connection.open:
            return False
        return not self.machine.hung and not self.machine.was_paused_since(self.world.stage.now)


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
        self, seed: object, *, hosts: int = 6, workers: int = 3, clients: int = 4, prefetch: int = 128
    ) -> None:
        self.stage = Stage(seed)
        begin_series("0" * 20)
        self.watch = Watch()
        self.broker = Broker(self.stage, heard=self.watch.heard, prefetch=prefetch)
        self.hosts = [f"h{number}" for number in range(1, hosts + 1)]
        self.store: Store = MemoryStore(now=self.stage.microseconds, random_bytes=self.stage.random.randbytes)
        self.troubles = Troubles(self.stage, self._is_well)
        self.answers = Answers(self.stage, self.troubles, lambda: self.store, self._is_parked, self._is_undelivered)
        self.broker.published = self.answers.published
        self.broker.acknowledged = self.answers.acknowledged
        self.clients = [
            Client(self.stage, self.broker, f"c{number}", answers=self.answers) for number in range(clients)
        ]
        self.unstorable = Unstorables()
        self.copy: MemoryStore | None = None
        """An earlier copy of the database."""
        self.deaths: list[BaseException] = []
        self._ends: dict[Due, Callable[[], object]] = {}
        self.sites = [Site(self, f"w{number}", self.hosts) for number in range(1, workers + 1)]

    def start(self) -> None:
        for site in self.sites:
            site.start()

    def _is_well(self) -> bool:
        return not self.broker.blocked and self.broker.up and all(site.is_well() for site in self.sites)

    def _is_parked(self, unique_id: str) -> bool:
        return any(unique_id.encode() in message.body for message in self.broker.parked)

    def _is_undelivered(self, unique_id: str) -> bool:
        return not any(
            message.message_id == unique_id
            for site in self.sites
            if site.is_well() and site.bus is not None and site.bus.connection is not None
            for _, message in site.bus.connection.unacknowledged.values()
        )

    def committed(self, commit: Commit) -> None:
        """The store has taken a commit."""
        self.watch.committed(commit)
        self.answers.committed(commit)
        for found in bounds.too_large(commit):
            raise Violation(found)

    def look(self) -> None:
        """Look at everything. Raises Violation."""
        stored(self.store)
        for site in self.sites:
            for found in bounds.exceeded(site.worker) if site.worker is not None else ():
                raise Violation(f"{site.name}: {found}")
        if self.troubles.none(self.stage.now):
            for found in states.wrong(self):
                raise Violation(f"although nothing is wrong, {found}")

    def until_healed(self, seconds: float, end: Callable[[], object], kind: str = "") -> None:
        """Have ``end``, which ends something bad of a kind (see ``Troubles``), happen after so many seconds, or when everything
        is healed."""
        self.troubles.begun(kind)

        def over() -> None:
            self.troubles.ended(kind)
            end()

        def happen() -> None:
            del self._ends[due]
            over()

        due = self.stage.later(seconds, happen)
        self._ends[due] = over

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
        found += states.wrong(self)
        if not self.troubles.stepped:
            found += states.overdue(self.store, self.stage.microseconds(), self.hosts)
        return found

    def violations(self) -> list[str]:
        """What is wrong when everything is quiet."""
        return check(self.evidence())


def _parked(message: Message) -> Parked:
    said = json.loads(json.loads(message.body)["oslo.message"])
    return Parked(unique_id=said.get("_unique_id"), reason=str(message.headers["x-tracker-reason"]))
