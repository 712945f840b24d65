# SPDX-License-Identifier: Apache-2.0
"""Workers, a broker, a database, clients and billing, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial

from oslo_config import cfg

from tests.invariants.check import check
from tests.invariants.record import Evidence, Heard, Parked
from tests.invariants.stored import books, recorded
from tests.simulation import losses
from tests.simulation.adopting import Adopter
from tests.simulation.broker import Broker, Message
from tests.simulation.bus import SimulatedBus
from tests.simulation.client import Client
from tests.simulation.machine import Machine
from tests.simulation.stage import Due, Stage
from tests.simulation.store import Link, linked
from tests.simulation.watch import Watch
from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.first_audit import StartCancelled
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import begin_series

TOPICS = ("notifications", "audit")
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
        conf = configured(self.hosts, world.broker.topics)
        self.bus = SimulatedBus(world.broker, self.machine, conf)
        self.worker = Worker(
            conf,
            bus=self.bus,
            store=linked(world.store, self.machine, self.link, world.watch.committed),
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
        """Kill the process, and start another one after so many seconds."""
        self.crash()
        self.starts = True
        self.world.stage.later(seconds, self.start)

    def crash(self) -> None:
        """End the process at once."""
        self.machine.crash()
        bus, self.bus, self.worker = self.bus, None, None
        if bus is not None:
            bus.network.end()


def configured(hosts: Sequence[str], topics: Sequence[str]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], project="tracker-worker", default_config_files=[])
    conf.set_override("transport_url", "rabbit://guest:guest@broker:5672/")
    conf.set_override("hosts", list(hosts), group="tracker")
    conf.set_override("topics", list(topics), group="notifications")
    conf.set_override("inventory_driver", "fake", group="tracker")
    conf.set_override("connection", "sqlite://", group="database")
    return conf


class World:
    """Hosts h1 ... are served by every worker; the first one that consumes a queue is the active one."""

    def __init__(self, seed: object, *, hosts: int = 6, workers: int = 3, clients: int = 4, topics: int = 1) -> None:
        self.stage = Stage(seed)
        begin_series("0" * 20)
        self.watch = Watch()
        self.broker = Broker(self.stage, heard=self.watch.heard)
        self.broker.topics = TOPICS[:topics]
        self.hosts = [f"h{number}" for number in range(1, hosts + 1)]
        self.store: Store = MemoryStore(now=self.stage.microseconds, random_bytes=self.stage.random.randbytes)
        self.clients = [Client(self.stage, self.broker, f"c{number}") for number in range(clients)]
        self.deaths: list[BaseException] = []
        self._ends: dict[Due, Callable[[], object]] = {}
        self.sites = [Site(self, f"w{number}", self.hosts) for number in range(1, workers + 1)]

    def start(self) -> None:
        for site in self.sites:
            site.start()
        Adopter(self.stage, self.broker, lambda: self.store, self.hosts, configured(self.hosts, self.broker.topics))

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
        requests = list(losses.judged(requests, self.broker))
        heard: dict[str, list[Heard]] = {topic: [] for topic in self.broker.topics}
        for one in losses.in_order(self.watch.notifications, self.broker):
            heard[one.queue.partition(".")[0]].append(one)
        first, *others = self.broker.topics
        return Evidence(
            requests=requests,
            heard=heard[first],
            others={topic: heard[topic] for topic in others},
            parked=[_parked(message) for message in self.broker.parked],
            nodes=books(self.store),  # type: ignore[arg-type]
            inbox=recorded(self.store, sorted({request.unique_id for request in requests})),  # type: ignore[arg-type]
        )

    def unsettled(self) -> list[str]:
        """What is not as it should be some time after the last fault."""
        found = [f"{client.name} waits for {client.waiting} answers" for client in self.clients if client.waiting]
        found += self.broker.left()
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
        return check(self.evidence())


def _parked(message: Message) -> Parked:
    said = json.loads(json.loads(message.body)["oslo.message"])
    return Parked(unique_id=said.get("_unique_id"), reason=str(message.headers["x-tracker-reason"]))
