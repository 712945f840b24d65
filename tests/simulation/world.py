# SPDX-License-Identifier: Apache-2.0
"""Workers, a broker, a database, clients and billing, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from tests.invariants.check import check
from tests.invariants.record import UNKNOWN, Evidence, Heard, Parked, Request
from tests.invariants.stored import books, recorded
from tests.simulation import losses
from tests.simulation.adopting import Adopter
from tests.simulation.broker import Broker, Message
from tests.simulation.client import Client
from tests.simulation.database import Database, MemoryDatabase
from tests.simulation.hardware import Hardware
from tests.simulation.hostile import Hostile
from tests.simulation.judge import Judge
from tests.simulation.machine import Machine
from tests.simulation.operators import Operator
from tests.simulation.set_backs import SetBack, judged
from tests.simulation.site import Site, configured
from tests.simulation.skipping import Skipper
from tests.simulation.sqlite import SQLiteDatabase
from tests.simulation.stage import Due, Stage
from tests.simulation.store import Link, Unstorables, linked
from tests.simulation.traffic import Traffic
from tests.simulation.watch import Watch
from tests.support.builders import instance_dict
from tracker_worker.store.base import Store
from tracker_worker.wire.message import begin_series

STORES: dict[str, type[Database]] = {"memory": MemoryDatabase, "sqlite": SQLiteDatabase}
"""The name of a store in a plan -> what it is."""
TOPICS = ("notifications", "audit")
_PARTIAL = 0.3
"""The part of the workers, but for the first, that serve some of the hosts only."""
_HOSTILE_RATE = 0.4
_CLAIMS = 5
_JOINT = 0.3
"""The part of the histories in which instances move from and to a node that an operator gives to another host."""
_LAST_COMMANDS_SECONDS = 10.0


PERIODS = ("10s", "30s", "60s", "300s", "hour@1", "day")
"""The values of [notifications] usage_audit_period, of which each history has one."""


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
        self.period = Random(f"{seed} period").choice(PERIODS)
        self.unstorable = Unstorables()
        self.copy: MemoryDatabase | None = None
        """An earlier copy of the database."""
        self.judge = Judge(self)
        self.clients = [
            Client(self.stage, self.broker, f"c{number}", until=self.at_the_latest, answers=self.judge.answers)
            for number in range(clients)
        ]
        self.deaths: list[BaseException] = []
        self.happening = ""
        """The fault that happens at this moment."""
        self._ends: dict[Due, Callable[[], object]] = {}
        self._under_way: dict[Due, Callable[[], object]] = {}
        self.hardware = Hardware(self.hosts)
        random = Random(f"{seed} sites")
        self.sites = [Site(self, f"w{number}", self._served(number, random)) for number in range(1, workers + 1)]
        self.newcomers = 0
        self._forgotten: dict[str, Mapping[str, Any] | None] = {}
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
        committed, unheard = partial(self.judge.committed, machine), partial(self.judge.turns.in_doubt, machine)
        return linked(self.database, machine, link, self.unstorable, committed, unheard)

    @property
    def store(self) -> Store:
        """The database as it is now, for those who only read."""
        return self.database.store

    def start(self) -> None:
        for site in self.sites:
            site.start()
        Skipper(self, self.watch.heard)
        Adopter(
            self.stage,
            self.broker,
            lambda: self.store,
            self.hosts,
            configured(self.hosts, self.broker.topics, period=self.period),
        )

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
            apart=() if Random(f"{seed} joint").random() < _JOINT else self.hardware.moved[:1],
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
        """Nobody begins anything new. The operator is the last one, so that nobody else commits after its last command."""
        for one in (self.traffic, self.hostile):
            if one is not None:
                one.stop()
        if self.operator is not None:
            self.stage.later(_LAST_COMMANDS_SECONDS, self.operator.stop)

    def undisturbed(self) -> bool:
        """Whether nothing is bad that would end by itself."""
        return not self._ends and not self.broker.blocked and self.broker.up

    def until_healed(self, seconds: float, end: Callable[[], object], kind: str = "") -> None:
        """Have ``end``, which ends something bad of a kind (see ``Troubles``; the fault that happens), happen after so many
        seconds, or when everything is healed."""
        kind = kind or self.happening
        self.judge.troubles.begun(kind)

        def over() -> None:
            self.judge.troubles.ended(kind)
            end()

        self._schedule(self._ends, seconds, over)

    def at_the_latest(self, seconds: float, action: Callable[[], object]) -> None:
        """Have ``action`` happen after so many seconds, or when everything is healed. Nothing is wrong until then."""
        self._schedule(self._under_way, seconds, action)

    def _schedule(self, to: dict[Due, Callable[[], object]], seconds: float, action: Callable[[], object]) -> None:
        def happen() -> None:
            del to[due]
            action()

        due = self.stage.later(seconds, happen)
        to[due] = action

    def heal(self) -> None:
        """End everything that is bad."""
        if self.operator is not None:
            self.operator.heal()
        while ends := {**self._ends, **self._under_way}:  # what arrives may be copied once more
            self._ends.clear()
            self._under_way.clear()
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
        histories = [history.ledger_id for history in self.store.histories()]
        for one in losses.in_order(self.watch.notifications, self.broker, histories):
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
            inbox={**self._forgotten, **self._recorded(requests)},
        )

    def _recorded(self, requests: Sequence[Request]) -> dict[str, Mapping[str, Any] | None]:
        return recorded(self.store, sorted({request.unique_id for request in requests}))  # type: ignore[arg-type]

    def will_forget_a_host(self) -> None:
        """Remember what the inbox has of the hosts that no worker serves any more."""
        requests = (request for client in self.clients for request in client.requests)
        self._forgotten.update(self._recorded([request for request in requests if request.host not in self.hosts]))

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
        hostile = [] if self.hostile is None else self.hostile.wrong(self.store, went_back=bool(self.set_backs))
        if self.set_backs:
            present = self.store.histories()[-1].ledger_id
            return [*judged(self.evidence(), self.set_backs, present=present), *hostile]
        return [*check(self.evidence()), *hostile]


def _parked(message: Message) -> Parked:
    said = json.loads(json.loads(message.body)["oslo.message"])
    return Parked(unique_id=said.get("_unique_id"), reason=str(message.headers["x-tracker-reason"]))
