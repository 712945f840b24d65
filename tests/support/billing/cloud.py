# SPDX-License-Identifier: Apache-2.0
"""Two hosts of one database whose schedulers do anything, in virtual time: the worker's own decisions, commits and events.

The file is long because everything that may happen there is a short method of one class, which draws one of them at a time.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec.structs import replace

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.support.asked import asked
from tests.support.bill import micros
from tests.support.billing.tape import Tape
from tests.support.billing.truth import Truth, charged
from tests.support.builders import NOW, inventory
from tests.support.closing import Closer
from tracker_worker.administration import Administration, Refused
from tracker_worker.domain import commands
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.decision import NOTHING, Decision
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.queries import GetInstances
from tracker_worker.domain.resources import ZERO
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.errors import TrackerError
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.notifications.render import PLAIN
from tracker_worker.service.loop.stored_answers import StoredAnswers
from tracker_worker.store.base import Conflict
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.memory import MemoryStore
from tracker_worker.unit_of_work import UnitOfWork

HOSTS = ("h1", "h2")
NODES = ("a", "b")
NAMES = ("a", "b", "c")
_ALL = 10**6
_MINUTE = 60 * SECOND
_HOUR = 60 * _MINUTE
_SIZES = ((1, 512, 1), (2, 1024, 2), (4, 2048, 4))
_POLICY = Policy(claim_timeout=20 * _MINUTE, capacity_limits=False, release_expired=False, reserved=ZERO)
_STEPS = ("finish", "finish", "finish", "abort", "fail")
_LATER = ("revert", "revert", "confirm", "fail", "finish")


class Cloud:
    """``act`` does one thing, which may be refused; ``run`` does many. ``changes_history``: the database is set back now and
    then. ``interrupts``: the sweep of a period is ended in the middle now and then. ``late``: hand-overs are dated back, and
    sources hear of them hours later.

    ``totals``: by project, what the running totals of the ledgers come to over the time: the bill, unless ``late``."""

    def __init__(
        self,
        random: Random,
        *,
        changes_history: bool = False,
        interrupts: bool = True,
        late: bool = True,
    ) -> None:
        self.random = random
        self.now = NOW
        self.truth = Truth()
        new_id = NewIds(random.randbytes)
        self.tape = Tape()
        self.moves: list[dict[str, Any]] = []
        self._changes_history = changes_history
        self._interrupts = interrupts
        self._is_late = late
        self._calendar = Calendar.parse("hour")
        self.totals: dict[str, Counter[str]] = defaultdict(Counter)
        self.summed_until = NOW // SECOND
        self._new_id = new_id
        self._store = MemoryStore(now=lambda: self.now, random_bytes=random.randbytes)
        self._begin_ledgers()
        self._administration = Administration(self._store, notify=True, new_id=new_id)
        self._read: dict[int, int] = {}
        self._late: list[tuple[int, str, str, dict[str, Any]]] = []
        for host in HOSTS:
            host_id = self._store.register_host(host, topic="tracker", version="1", now=self.now)
            for node in NODES:
                self._store.create_node(host_id, node)
            for node in NODES:
                self._decide(host, commands.ReportNode(node=node, inventory=inventory()))
        self._close_periods()
        self.back_up()

    def _begin_ledgers(self) -> None:
        """A worker starts."""
        self._ledgers = Ledgers(self._store)
        self._closer = Closer(
            self._store,
            self._ledgers,
            HOSTS,
            calendar=self._calendar,
            clock=lambda: self.now,
            do=self._decide,
        )

    def change_period(self, text: str) -> None:
        """The worker starts with another ``usage_audit_period``."""
        self._calendar = Calendar.parse(text)
        self._begin_ledgers()

    def be_down(self, microseconds: int) -> None:
        """No worker is there for so long. What was sent meanwhile is decided when one starts."""
        self.now += microseconds
        self._begin_ledgers()
        self._come_due(self.now)
        self._close_periods()

    @property
    def ledger_id(self) -> str:
        return self._store.histories()[-1].ledger_id

    def ledgers(self) -> list[NodeLedger]:
        """The nodes as the store has them."""
        hosts = [self._store.load_host(host) for host in self._store.host_names()]
        return [ledger for host in hosts if host is not None for ledger in host]

    def instances(self, host: str, node: str, *, after: str | None, limit: int) -> dict[str, Any]:
        """The worker's answer to get_instances. Raises NodeNotFound."""
        stored = StoredAnswers(
            store=self._store, ledgers=self._ledgers, calendar=self._calendar, style=PLAIN, max_answer_bytes=2**22
        )
        answer = stored.read(host, GetInstances(node=node, after=after, limit=limit), self.now)
        told: dict[str, Any] = json.loads(json.dumps(answer))
        return told

    def run(self, acts: int) -> None:
        for _ in range(acts):
            self.act()
        self.pass_time(_MINUTE)

    def settle(self) -> None:
        """Let everything that is late arrive, and all be told of closed periods."""
        self._interrupts = False
        self._come_due(self.now + 3 * _HOUR)
        for _ in range(2):
            self.now = self._boundary()
            self._close_periods()

    def closed_until(self) -> int:
        """Up to when all nodes have closed their periods (seconds)."""
        open_nodes = [
            ledger.periods
            for ledger in self.ledgers()
            if ledger.life.retired is None or ledger.periods.until <= ledger.life.retired.since
        ]
        return min((periods.until if periods.first else NOW for periods in open_nodes), default=NOW) // SECOND

    def act(self) -> None:
        """Let time pass, and do one thing."""
        self.pass_time(self.random.choice((0, _MINUTE, 10 * _MINUTE, 40 * _MINUTE)))
        acts: list[tuple[int, Callable[[], None]]] = [
            (8, self._claim),
            (3, self._end_claim),
            (6, self._update),
            (3, self._delete),
            (5, self._begin_move),
            (8, self._step_move),
            (2, self._expire),
            (1, self._adopt),
            (1, self._release),
            (1, self._rearrange),
            (1, self._retire),
            (1 if self._changes_history else 0, self._go_on),
        ]
        act = self.random.choices([each for _, each in acts], [weight for weight, _ in acts])[0]
        act()
        self._check()

    def pass_time(self, most: int) -> None:
        """Let so much time pass, or less."""
        self.pass_until(self.now + self.random.randint(0, most))

    def pass_until(self, end: int) -> None:
        """Let it be that time: late messages arrive, and periods are closed."""
        while (boundary := self._boundary()) <= end:
            self._come_due(boundary)
            self.now = boundary + self.random.randint(0, 5 * SECOND)
            self._close_periods()
        self._come_due(end)
        self.now = max(self.now, end)

    def _come_due(self, until: int) -> None:
        for late in sorted([each for each in self._late if each[0] <= until], key=lambda each: each[0]):
            self._late.remove(late)
            self.now = max(self.now, late[0])
            self.call(late[1], late[2], **late[3])

    def _close_periods(self) -> None:
        """Close what is over, or a part of it."""
        self._closer.close(self.random.choice((1, 5, _ALL)) if self._interrupts else _ALL)

    def _boundary(self) -> int:
        """When the next hour begins."""
        return (self.now // _HOUR + 1) * _HOUR

    # --- what is asked ---------------------------------------------------------------------------------------------------

    def call(self, host: str, method: str, **args: Any) -> Any:
        """The answer of a host, or None: it is refused."""
        return self._decide(host, asked(host, method, args, _POLICY)).reply

    def _decide(self, host: str, command: commands.Command) -> Decision:
        if isinstance(command, commands.BeginMove):
            uuid = command.begin.instance.uuid
            found = self._store.incoming([uuid]).get(uuid)
            command = replace(command, moves_to=None if found is None or found[0] == host else found)
        self._sum_up()
        unit = UnitOfWork(self._store, self._ledgers, notify=True, new_id=self._new_id)
        decision = unit.decide(self._ledgers.get(host), command, self.now)
        try:
            unit.commit()
        except Conflict:  # what schedulers ask for here may contradict itself: two moves of an instance, half of each
            self._ledgers.forget(HOSTS)
            return NOTHING
        unit.committed()
        for ledger, event in decision.events:
            self.truth.note(ledger.id, event)
        self._listen()
        return decision

    def _sum_up(self) -> None:
        seconds = self.now // SECOND - self.summed_until
        if seconds <= 0:
            return
        for ledger in self.ledgers():
            for project, usage in ledger.projects.items():
                for name, amount in usage.resources.items():
                    self.totals[project or ""][name] += amount * seconds
        self.summed_until += seconds

    def _listen(self) -> None:
        hosts = sorted({stream.host for stream in self._store._rows.streams.values()})
        for stream in [stream for host in hosts for stream in self._store.streams(host)]:
            for row in self._store.outbox(stream.id, after=self._read.get(stream.id, 0), limit=10_000):
                self.tape.add(row)
                self._read[stream.id] = row.sequence

    def _check(self) -> None:
        """The truth is what the store has."""
        for ledger in self.ledgers():
            held = {uuid: charged(each, 0) for uuid, each in ledger.allocations.items()}
            kept = {uuid: each.same_since(0) for uuid, each in self.truth.open(ledger.id).items()}
            assert held == kept, f"{ledger.host}/{ledger.name}"

    # --- what happens ----------------------------------------------------------------------------------------------------

    def _node(self) -> NodeLedger:
        return self.random.choice(self.ledgers())

    def _held(self) -> tuple[NodeLedger, str] | None:
        held = [(ledger, uuid) for ledger in self.ledgers() for uuid in ledger.allocations]
        return self.random.choice(held) if held else None

    def _instance(self, node: str) -> dict[str, Any]:
        vcpus, memory_mb, root_gb = self.random.choice(_SIZES)
        return {
            "uuid": f"5c0de000-0000-4000-8000-{self.random.randint(1, 9):012x}",
            "project_id": self.random.choice(("p", "q")),
            "node": node,
            "vm_state": "building",
            "resources": {},
            "vcpus": vcpus,
            "memory_mb": memory_mb,
            "root_gb": root_gb,
            "ephemeral_gb": 0,
        }

    def _claim(self) -> None:
        ledger = self._node()
        begun = self.call(ledger.host, "begin_resource_claim", instance=self._instance(ledger.name), limits={})
        if begun is not None and self.random.random() < 0.5:
            self.pass_time(5 * SECOND)
            self.call(ledger.host, "finish_resource_claim", claim_id=begun["claim_id"])

    def _end_claim(self) -> None:
        if (held := self._held()) is not None:
            method = self.random.choice(("finish_resource_claim", "abort_resource_claim", "renew_resource_claim"))
            self.call(held[0].host, method, claim_id=held[0].allocations[held[1]].claim_id)

    def _update(self) -> None:
        if (held := self._held()) is not None:
            vcpus, memory_mb, root_gb = self.random.choice(_SIZES)
            changes = self.random.choice(
                [
                    {"vm_state": self.random.choice(("active", "stopped", "shelved_offloaded"))},
                    {"project_id": self.random.choice(("p", "q", "r"))},
                    {"vcpus": vcpus, "memory_mb": memory_mb, "root_gb": root_gb, "vm_state": "active"},
                ]
            )
            self.call(held[0].host, "update_usage", instance={"uuid": held[1], **changes})

    def _delete(self) -> None:
        if (held := self._held()) is not None:
            hosts = list(HOSTS)
            self.random.shuffle(hosts)
            for host in hosts[: self.random.randint(1, 2)]:
                self.call(host, "update_usage", instance={"uuid": held[1], "vm_state": "deleted"})

    def _release(self) -> None:
        if (held := self._held()) is not None:
            self.call(held[0].host, "release_allocation", instance_uuid=held[1], reason="test")

    def _adopt(self) -> None:
        ledger = self._node()
        self.call(ledger.host, "adopt", instances=[{**self._instance(ledger.name), "vm_state": "active"}])

    def _expire(self) -> None:
        for ledger in self.ledgers():
            command = commands.ExpireClaims(node=ledger.name, release=self.random.random() < 0.5, confirms_after=_HOUR)
            self._decide(ledger.host, command)

    def _begin_move(self) -> None:
        held = self._held()
        if held is None:
            return
        source, uuid = held
        target = source if self.random.random() < 0.3 else self._node()
        kind = self.random.choice(("resize", "migration", "live_migration", "evacuation"))
        instance = {**self._instance(target.name), "uuid": uuid}
        if target.host == source.host:
            kind = "resize"
        move = {"id": f"m{len(self.moves)}", "kind": kind, "from_host": source.host, "from_node": source.name}
        begun = self.call(target.host, "begin_move_claim", instance=instance, move=move, timeout=3600)
        if begun is not None:
            self.moves.append(begun)

    def _step_move(self) -> None:
        """A step at the destination, dated back now and then; the source hears of it later, perhaps hours later."""
        if not self.moves:
            return
        index = self.random.randrange(max(0, len(self.moves) - 4), len(self.moves))
        move = self.moves[index]
        step = self.random.choice(_LATER if move["finished_at"] else _STEPS)
        args: dict[str, Any] = {"move_id": move["id"], "move": move}
        if step in ("finish", "revert") and self._is_late and self.random.random() < 0.5:
            began = micros(move["finished_at"] or move["begun_at"])
            args["effective_at"] = iso(self.random.randint(began, max(began, self.now)))
        host = move["from_host"] if step == "confirm" else move["to_host"]
        told = self.call(host, f"{step}_move", **args)
        if told is None:
            return
        self.moves[index] = told
        if step in ("finish", "revert") and move["from_host"] != move["to_host"]:
            at = told["finished_at"] if step == "finish" else told["ended_at"]
            due = self.now + int(self.random.random() ** 3 * 3 * _HOUR)
            again = {**args, "move": told, "effective_at": at}
            if self._is_late:
                self._late.append((due, move["from_host"], f"{step}_move", again))
            elif told["state"] in ("finished", "reverted"):
                self.call(move["from_host"], f"{step}_move", **again)

    def _retire(self) -> None:
        ledger = self._node()
        retired = self.random.random() < 0.6
        command: commands.Command = commands.RetireNode(node=ledger.name, reason="old")
        self._decide(ledger.host, command if retired else commands.UndrainNode(node=ledger.name))

    def _rearrange(self) -> None:
        """A node gets another name or another host, or a name is used anew."""
        ledger, host, name = self._node(), self.random.choice(HOSTS), self.random.choice(NAMES)
        if self.random.random() < 0.3:
            self._make(host, name)
            return
        try:
            self._administration.move_node(ledger.name, host=ledger.host, to=host, name=name)
        except (TrackerError, Refused):
            return
        self._begin_ledgers()
        self._listen()

    def _make(self, host: str, name: str) -> None:
        if not any((each.host, each.name) == (host, name) for each in self.ledgers()):
            host_id = next(record.id for record in self._store.hosts() if record.name == host)
            self._store.create_node(host_id, name)
            self._ledgers.forget(HOSTS)
            self._decide(host, commands.ReportNode(node=name, inventory=inventory()))

    # --- the database goes back ------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Make a backup, or begin a new history, mostly from the backup."""
        if self.random.random() < 0.5:
            self.back_up()
            return
        if self.random.random() < 0.8:
            self._restore()
        predecessor = self.ledger_id
        begin_history(self._store, predecessor=predecessor, reason="test", now=self.now, new_id=self._new_id)
        self._begin_ledgers()
        self._listen()
        self.back_up()

    def back_up(self) -> None:
        """Keep the database as it is now, ``image_at``."""
        self.image_at, self._image = self.now, self._copied()

    def _copied(self) -> Any:
        rows = self._store._rows
        frozen: list[Any] = [value for node in rows.nodes.values() for value in (*node.allocations.values(), node.life)]
        frozen += [row for stream in rows.streams.values() for row in stream.outbox.values()]
        memo = {id(value): value for value in frozen}
        image = rows, self._read, self.truth.lines, self.tape.image()
        return copy.deepcopy(image, memo)

    def _restore(self) -> None:
        self._store._rows, self._read, self.truth.lines, kept = copy.deepcopy(self._image)
        self.tape.restore(kept)
