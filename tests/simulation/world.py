# SPDX-License-Identifier: Apache-2.0
"""Workers, a broker, a database, clients and billing, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from oslo_config import cfg

from tests.invariants.check import check
from tests.invariants.record import UNKNOWN, Evidence, Heard, Parked
from tests.invariants.stored import books, recorded
from tests.simulation import losses
from tests.simulation.adopting import Adopter
from tests.simulation.broker import Broker, Message
from tests.simulation.bus import SimulatedBus
from tests.simulation.client import Client
from tests.simulation.database import Database, MemoryDatabase
from tests.simulation.hardware import Hardware, Mood, SimulatedDriver
from tests.simulation.hostile import Hostile
from tests.simulation.judge import Judge
from tests.simulation.machine import Machine
from tests.simulation.operators import Operator
from tests.simulation.set_backs import SetBack, judged
from tests.simulation.sqlite import SQLiteDatabase
from tests.simulation.stage import Due, Stage
from tests.simulation.store import Link, Unstorables, linked
from tests.simulation.traffic import Traffic
from tests.simulation.watch import Violation, Watch
from tests.support.builders import instance_dict
from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.first_audit import StartCancelled
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Store, StoreReplaced
from tracker_worker.store.ledgers import Seen
from tracker_worker.wire.message import begin_series

STORES: dict[str, type[Database]] = {"memory": MemoryDatabase, "sqlite": SQLiteDatabase}
"""The name of a store in a plan -> what it is."""
TOPICS = ("notifications", "audit")
_RESTART_SECONDS = 2.0
_AUDIT_SECONDS = 10
_PARTIAL = 0.3
"""The part of the workers, but for the first, that serve some of the hosts only."""
_HOSTILE_RATE = 0.4
_CLAIMS = 5


class Site:
    """One worker on its machine. ``worker`` None: it does not run."""

    def __init__(self, world: World, name: str, hosts: Sequence[str], *, database: Database | None = None) -> None:
        """``database`` None: that of the world."""
        self.world = world
        self.name = name
        self.hosts = hosts
        self.machine = Machine(world.stage, name)
        self.bus: SimulatedBus | None = None
        self.worker: Worker | None = None
        self.link = Link()
        self.moods: dict[str, Mood] = {}
        """How its drivers behave, by host."""
        self.crashes_at: list[str] = []
        """Where its next processes crash, the last one first."""
        self._database = database
        self._start: Due | None = None
        self.stopping = False
        self.gone = False
        """Whether it never starts again."""

    @property
    def starts(self) -> bool:
        """Whether it is about to start."""
        return self._start is not None

    def start(self) -> None:
        world = self.world
        self._start, self.stopping = None, False
        if self.gone or not self.hosts:
            return
        world.judge.started()
        self.machine = Machine(world.stage, self.name)
        self.machine.crash_there = partial(self.restart, _RESTART_SECONDS)
        self.machine.crashes_at = self.crashes_at.pop() if self.crashes_at else None
        conf = configured(self.hosts, world.broker.topics, world.prefetch)
        self.bus = SimulatedBus(world.broker, self.machine, conf)
        self.worker = Worker(
            conf,
            bus=self.bus,
            store=world.linked(self.machine, self.link, self._database),
            clock=self.machine.clock,
            runtime=self.machine,
            died=self._died,
            stalled=lambda sentence: self.restart(_RESTART_SECONDS),
        )
        for host in self.hosts:
            mood = self.moods.setdefault(host, Mood())
            self.worker._drivers[host] = SimulatedDriver(host, self.machine, world.hardware, mood)
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
        if self._start is not None:
            self._start.cancelled = True
        self._start = self.world.stage.later(seconds, self.start)

    def stop(self, ended: Callable[[], object]) -> None:
        """End the process as SIGTERM does; then ``ended`` is called. It is not called if the process ends in another way.

        Raises Violation on the process's thread: where nothing is in its way, the worker has not sent everything in time.
        """
        worker, bus, stage = self.worker, self.bus, self.world.stage
        assert worker is not None
        assert bus is not None

        self.stopping = True

        def run() -> None:
            began, calm = stage.now, self.world.undisturbed() and bus.is_whole()
            worker.stop()
            passed = stage.now - began
            calls = worker._engine._audits._calls._waiting
            if calm and self.world.undisturbed() and not self.machine.hung and calls:
                raise Violation(f"{self.name} stops, and {len(calls)} calls that wait for an audit are told nothing")
            if calm and self.world.undisturbed() and (bus.unsent() or passed > worker._stop_seconds):
                raise Violation(f"{self.name} stops after {passed:.3f} s with {bus.unsent()} bytes to send")
            self.crash()
            ended()

        self.machine.spawn(run)

    def works(self) -> bool:
        """Whether the worker is ready, its process goes on, and its connection is whole."""
        if self.worker is None or self.bus is None or self.machine.paused() or self.machine.hung:
            return False
        return self.bus.is_whole() and self.worker.ready()

    def seen(self) -> Mapping[int, Seen]:
        """What the worker has seen of the database: node id -> how far it had got."""
        return {} if self.worker is None else self.worker._engine._ledgers.seen

    def crash(self) -> None:
        """End the process at once."""
        self.world.judge.troubles.happened("crash")
        self.machine.crash()
        bus, self.bus, self.worker = self.bus, None, None
        if bus is not None:
            bus.network.end()


def configured(hosts: Sequence[str], topics: Sequence[str], prefetch: int | None = None) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], project="tracker-worker", default_config_files=[])
    conf.set_override("transport_url", "rabbit://guest:guest@broker:5672/")
    conf.set_override("hosts", list(hosts), group="tracker")
    conf.set_override("topics", list(topics), group="notifications")
    conf.set_override("inventory_driver", "fake", group="tracker")
    conf.set_override("audit_interval_seconds", _AUDIT_SECONDS, group="tracker")
    conf.set_override("connection", "sqlite://", group="database")
    if prefetch is not None:
        conf.set_override("prefetch", prefetch, group="bus")
    return conf


class World:
    """Hosts h1 ... are served by the first worker and by most of the others; the first one that consumes a queue is the active
    one."""

    def __init__(
        self,
        seed: object,
        *,
        hosts: int = 6,
        workers: int = 3,
        clients: int = 4,
        prefetch: int | None = None,
        store: str = "memory",
        topics: int = 1,
    ) -> None:
        self.stage = Stage(seed)
        begin_series("0" * 20)
        self.watch = Watch()
        self.broker = Broker(self.stage, heard=self.watch.heard)
        self.broker.topics = TOPICS[:topics]
        self.hosts = [f"h{number}" for number in range(1, hosts + 1)]
        self.database = STORES[store](self.stage)
        self.set_backs: list[SetBack] = []
        self.noticing = False
        """The database went back, and no worker has noticed it yet: those who can must be left alone."""
        self.prefetch = prefetch
        self.unstorable = Unstorables()
        self.copy: MemoryDatabase | None = None
        """An earlier copy of the database."""
        self.judge = Judge(self)
        self.clients = [
            Client(self.stage, self.broker, f"c{number}", until=self.until_healed, answers=self.judge.answers)
            for number in range(clients)
        ]
        self.deaths: list[BaseException] = []
        self._ends: dict[Due, Callable[[], object]] = {}
        self.hardware = Hardware(self.hosts)
        random = Random(f"{seed} sites")
        self.sites = [Site(self, f"w{number}", self._served(number, random)) for number in range(1, workers + 1)]
        self.newcomers = 0
        self.traffic: Traffic | None = None
        self.operator_link = Link()
        self.operator: Operator | None = None
        self.hostile: Hostile | None = None

    def _served(self, number: int, random: Random) -> list[str]:
        if number == 1 or random.random() >= _PARTIAL:
            return self.hosts
        return [host for host in self.hosts if random.random() < 0.5] or self.hosts

    def linked(self, machine: Machine, link: Link, database: Database | None = None) -> Store:
        """The store as a process on the machine sees it; ``database`` None: that of the world."""
        if database is not None:
            return linked(database, machine, link, self.unstorable, lambda commit: None)
        return linked(self.database, machine, link, self.unstorable, self.judge.committed)

    @property
    def store(self) -> Store:
        """The database as it is now, for those who only read."""
        return self.database.store

    def start(self) -> None:
        for site in self.sites:
            site.start()
        Adopter(self.stage, self.broker, lambda: self.store, self.hosts, configured(self.hosts, self.broker.topics))

    def close(self) -> None:
        """Release what the world holds outside of this process's memory."""
        self.database.close()

    def calm(self, alone: Site) -> bool:
        """Whether nothing is bad now, this worker is ready and the only one, and no operator works."""
        return (
            self.undisturbed()
            and not self.noticing
            and alone.works()
            and not any(site.worker for site in self.sites if site is not alone)
            and not (self.operator is not None and self.operator.works)
        )

    def newcomer(self, hosts: Sequence[str]) -> Site:
        """One more worker, which has not started, for these hosts and one of its own, for which there are some claims."""
        self.newcomers += 1
        own = f"extra{self.newcomers}"
        self.hardware.put((own, own))
        site = Site(self, f"n{self.newcomers}", [*hosts, own])
        self.sites.append(site)
        client = self.clients[0]
        for number in range(_CLAIMS):
            instance = instance_dict(uuid=f"{own}-{number}", node=own)
            self.stage.later(number, partial(client.call, own, "begin_resource_claim", instance=instance, timeout=5))
        return site

    def dismiss(self, site: Site) -> None:
        """Stop a newcomer for good. Nothing else happens to it."""
        self.sites.remove(site)
        site.gone = True
        if site.worker is not None and not site.stopping:
            site.stop(lambda: None)

    def act(self, seed: object, *, rate: float, hostile: bool, operator: bool) -> None:
        """Let clients begin, which send ``rate`` requests a second, and, if wanted, a hostile one and an operator."""
        self.operator = Operator(self, Random(f"{seed} operator"))
        self.traffic = Traffic(
            Machine(self.stage, "clients"),
            self.clients,
            seed=seed,
            rate=rate,
            places=self.hardware.places,
            tight=self.hardware.tight,
            moves=self.operator.moves,
        )
        random = Random(f"{seed} hostile")
        self.hostile = Hostile(self.stage, self.broker, random, hosts=self.hosts, rate=_HOSTILE_RATE)
        if hostile:
            self.hostile.start()
        if operator:
            self.operator.start()
        else:
            self.operator.done = True

    def rest(self) -> None:
        """Nobody begins anything new."""
        for one in (self.traffic, self.hostile, self.operator):
            if one is not None:
                one.stop()

    def undisturbed(self) -> bool:
        """Whether nothing is bad that would end by itself."""
        return not self._ends and not self.broker.blocked and self.broker.up

    def until_healed(self, seconds: float, end: Callable[[], object], kind: str = "") -> None:
        """Have ``end``, which ends something bad of a kind (see ``Troubles``), happen after so many seconds, or when everything
        is healed."""
        self.judge.troubles.begun(kind)

        def over() -> None:
            self.judge.troubles.ended(kind)
            end()

        def happen() -> None:
            del self._ends[due]
            over()

        due = self.stage.later(seconds, happen)
        self._ends[due] = over

    def heal(self) -> None:
        """End everything that is bad."""
        if self.operator is not None:
            self.operator.heal()
        ends, self._ends = self._ends, {}
        for due, end in ends.items():
            due.cancelled = True
            end()
        for site in self.sites:
            if site.worker is None and not site.starts:
                site.start()

    def evidence(self) -> Evidence:
        requests = [request for client in self.clients for request in client.requests]
        requests += self.operator.requests if self.operator is not None else []
        requests = list(losses.judged(requests, self.broker))
        hostile = self.hostile.bodies if self.hostile is not None else set()
        heard: dict[str, list[Heard]] = {topic: [] for topic in self.broker.topics}
        for one in losses.in_order(self.watch.notifications, self.broker):
            heard[one.queue.partition(".")[0]].append(one)
        first, *others = self.broker.topics
        by_id = {request.unique_id: request for request in requests if not request.call}
        parked = [message for message in self.broker.parked if message.body not in hostile]
        again = {_parked(message).unique_id or "" for message in parked if message.body in self.broker.again}
        requests += [replace(by_id[unique_id], outcome=UNKNOWN) for unique_id in sorted(again & by_id.keys())]
        return Evidence(
            requests=requests,
            heard=heard[first],
            others={topic: heard[topic] for topic in others},
            parked=[_parked(message) for message in parked],
            nodes=books(self.store),  # type: ignore[arg-type]
            inbox=recorded(self.store, sorted({request.unique_id for request in requests})),  # type: ignore[arg-type]
        )

    def unsettled(self) -> list[str]:
        """What is not as it should be some time after the last fault."""
        found = [] if self.operator is None or self.operator.done else ["the operator is not done"]
        found += [f"{client.name} waits for {client.waiting} answers" for client in self.clients if client.waiting]
        found += self.broker.left(f"extra{number}" for number in range(1, self.newcomers + 1))
        for name in sorted({*self.store.host_names(), *self.store.streams_without_host()}):
            for stream in self.store.streams(name):
                late = [topic for topic, cursor in stream.cursors.items() if cursor < stream.sequence]
                found += [f"{topic} lacks notifications of {name}/{stream.node}" for topic in late]
        unseen = self.hardware.unseen(self.store, self.hosts)
        if self.set_backs:
            # A move that is lost may have left a node that is charged under both of its hosts.
            unseen = [line for line in unseen if f"/{self.hardware.moved[0]} " not in line]
        found += unseen
        active: list[str] = []
        for site in self.sites:
            if site.worker is None or not site.worker.ready():
                found.append(f"{site.name} is not ready")
            else:
                active += site.worker._engine.held
        if sorted(active) != sorted(self.hosts):
            found.append(f"the active workers do the chores of {sorted(active)}")
        return [*found, *self.judge.unsettled()]

    def violations(self) -> list[str]:
        """What is wrong when everything is quiet."""
        hostile = [] if self.hostile is None else self.hostile.wrong(self.store)
        if self.set_backs:
            present = self.store.histories()[-1].ledger_id
            return [*judged(self.evidence(), self.set_backs, present=present), *hostile]
        return [*check(self.evidence()), *hostile]


def _parked(message: Message) -> Parked:
    said = json.loads(json.loads(message.body)["oslo.message"])
    return Parked(unique_id=said.get("_unique_id"), reason=str(message.headers["x-tracker-reason"]))
