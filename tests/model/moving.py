# SPDX-License-Identifier: Apache-2.0
"""Moves between hosts of two databases, whose steps are repeated, come late and overtake one another.

A cloud is three hosts with two nodes each; the third one is in a database of its own. Schedulers move instances; each step
that they send to a host may be sent again later. What the ledgers are charged is compared with what the steps mean, and the
bill from notifications alone with the times that the destinations have answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from tests.support.bill import Bill, Interval, micros, together
from tests.support.builders import NOW, inventory
from tracker_worker.domain import commands
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import read_changes, read_instance
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, KINDS, REVERT
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.resources import ZERO
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, MoveNotFound
from tracker_worker.ids import NewIds
from tracker_worker.service.requests import moves as requests
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork

HOSTS = ("h1", "h2", "h3")
NODES = ("a", "b")
_HOUR = 3600 * SECOND
MEMORY = 168 * _HOUR
_SIZES = ((1, 512, 1), (2, 1024, 2), (4, 2048, 4), (8, 4096, 8))

Place = tuple[str, str]
_POLICY = Policy(claim_timeout=_HOUR, capacity_limits=False, release_expired=False, reserved=ZERO, move_memory=MEMORY)


@dataclass(slots=True)
class Moving:
    """An instance as its scheduler knows it. ``moves``: where it has been, with the times that the destinations have answered
    (microseconds). ``open``: steps to be sent later."""

    uuid: str
    place: Place
    size: tuple[int, int, int]
    began: int
    moves: list[tuple[int, Place, tuple[int, int, int]]] = field(default_factory=list)
    ended: int | None = None
    before: tuple[Place, tuple[int, int, int]] | None = None
    move: dict[str, Any] | None = None
    handed_over: bool = False


class Cloud:
    """``bill`` hears the notifications of both databases."""

    def __init__(self, random: Random, make_store: Callable[[Callable[[], int]], Store]) -> None:
        self.random = random
        self.now = NOW
        self.bill = Bill()
        self.instances: list[Moving] = []
        self.refused = 0
        self.steps = 0
        first, second = (make_store(lambda: self.now) for _ in range(2))
        self.stores = {"h1": first, "h2": first, "h3": second}
        self._ledgers = {id(store): Ledgers(store) for store in (first, second)}
        self._new_id = NewIds(random.randbytes)
        self._late: list[tuple[int, Callable[[], object]]] = []
        for host, store in self.stores.items():
            host_id = store.register_host(host, topic="tracker", version="1", now=self.now)
            for node in NODES:
                store.create_node(host_id, node)
            for node in NODES:
                self.do(host, commands.ReportNode(node=node, inventory=inventory()))

    # --- commands --------------------------------------------------------------------------------------------------------

    def do(self, host: str, command: commands.Command) -> Decision:
        """Decide and commit a command, and have its notifications heard. Sometimes the process ends before or after that."""
        store = self.stores[host]
        ledgers = self._ledgers[id(store)]
        fate = self.random.random()
        for _ in range(3):
            if isinstance(command, commands.BeginMove):
                found = store.incoming([command.begin.instance.uuid]).get(command.begin.instance.uuid)
                elsewhere = None if found is None or found[0] == host else found
                command = msgspec.structs.replace(command, moves_to=elsewhere)
            unit = UnitOfWork(store, ledgers, notify=True, new_id=self._new_id)
            decision = unit.decide(ledgers.get(host), command, self.now)
            try:
                if fate < 0.03:
                    fate = 1.0
                    raise Conflict("the process ends before the commit")
                if unit.changed:
                    unit.commit()
            except Conflict:
                ledgers.forget(HOSTS)
                continue
            unit.committed()
            for notification in unit.notifications:
                self.bill.add(notification.event_type, msgspec.json.decode(notification.payload))
            if fate > 0.97:
                ledgers.forget(HOSTS)
            self.check(host)
            return decision
        raise AssertionError(f"{command} finds no end")

    def step(self, name: str, host: str, move: dict[str, Any], effective_at: str = "") -> Decision:
        """Send a step of a move, as its schedulers do, and perhaps a copy of it some time later."""
        self.steps += 1
        arguments = {"move_id": move["id"], "move": move, **({"effective_at": effective_at} if effective_at else {})}
        command = requests.step(name)(arguments, {}, _POLICY)
        decision = self.do(host, command)
        if self.random.random() < 0.3:
            late = self.now + int(self.random.random() ** 3 * _HOUR)
            self._late.append((late, lambda: self.do(host, command)))
        return decision

    def pass_time(self) -> None:
        """Time passes, and what was late arrives."""
        self.now += self.random.randint(1, 90) * SECOND + self.random.randint(0, SECOND - 1)
        due = [each for each in self._late if each[0] <= self.now]
        self._late = [each for each in self._late if each[0] > self.now]
        for _, arrive in due:
            arrive()

    # --- what is checked -------------------------------------------------------------------------------------------------

    def check(self, host: str) -> None:
        """The store has what the ledgers have, and the usage is the sum."""
        loaded = self.stores[host].load_host(host)
        assert loaded is not None
        known = self._ledgers[id(self.stores[host])].get(host)
        for ledger in loaded:
            mine = known.nodes[ledger.name]
            assert ledger.allocations == mine.allocations
            assert ledger.moving == mine.moving
            assert ledger.moves == mine.moves
            assert ledger.drift is None
            charged = [*ledger.allocations.values(), *ledger.moving.values()]
            assert ledger.charged.to_dict() == {
                name: sum(held.resources[name] for held in charged) for name in ("VCPU", "MEMORY_MB", "DISK_GB")
            }
            assert ledger.stats.num_instances == len(ledger.allocations)

    def charges(self, uuid: str) -> list[tuple[str, str, str]]:
        """(host, node, role) of all that is charged for an instance."""
        return [
            (found.name, ledger.name, held.role)
            for found in (self.stores[host].load_host(host) for host in HOSTS)
            if found is not None
            for ledger, held in found.charges(uuid)
        ]

    def check_settled(self, one: Moving) -> None:
        """Both sides were told everything: the instance is charged once, at its place, and billed without a gap."""
        expected = [] if one.ended is not None else [(*one.place, "instance")]
        if one.move is not None and one.before is not None and one.ended is None:
            expected.append((*one.before[0], "hold") if one.handed_over else (*one.move["place"], "incoming"))
        assert sorted(self.charges(one.uuid)) == sorted(expected), one
        intervals = self.bill.intervals().get(one.uuid, [])
        assert together(intervals) == []
        assert intervals == expected_bill(one), one


def expected_bill(one: Moving) -> list[Interval]:
    """What the scheduler knows that the instance was charged."""
    found = []
    for index, (begin, place, size) in enumerate(one.moves):
        end = one.moves[index + 1][0] if index + 1 < len(one.moves) else one.ended
        vector = (("DISK_GB", size[2]), ("MEMORY_MB", size[1]), ("VCPU", size[0]))
        if begin != end:
            found.append(Interval(one.uuid, place, begin, end, vector))
    return found


class Scheduler:
    """Claims instances, moves them and deletes them."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._random = cloud.random
        self._number = 0

    def act(self) -> None:
        """One thing, whole: with all of its steps at both hosts, in one of the orders that may happen."""
        cloud = self._cloud
        cloud.pass_time()
        living = [one for one in cloud.instances if one.ended is None]
        if len(living) < 12 and self._random.random() < 0.4:
            self._claim()
            return
        if not living:
            return
        one = self._random.choice(living)
        if one.move is None:
            if self._random.random() < 0.1:
                self._delete(one)
            else:
                self._begin(one)
        elif not one.handed_over:
            self._random.choice((self._finish, self._finish, self._finish, self._abort, self._fail, self._delete))(one)
        else:
            self._random.choice((self._confirm, self._confirm, self._revert, self._fail, self._delete))(one)
        cloud.check_settled(one)

    def _claim(self) -> None:
        self._number += 1
        uuid = f"5c0de000-0000-4000-8000-{self._number:012x}"
        place = self._random.choice(HOSTS), self._random.choice(NODES)
        size = self._random.choice(_SIZES)
        claim = commands.BeginClaim(
            instance=read_instance(_described(uuid, size)), limits=read_limits(None), timeout=_HOUR, node=place[1]
        )
        reply = self._cloud.do(place[0], claim).reply
        self._cloud.do(place[0], commands.FinishClaim(claim_id=reply["claim_id"]))
        began = micros(reply["begun_at"])
        self._cloud.instances.append(Moving(uuid, place, size, began, moves=[(began, place, size)]))

    def _begin(self, one: Moving) -> None:
        kind = self._random.choice(KINDS)
        host = one.place[0] if kind == "resize" and self._random.random() < 0.5 else self._random.choice(HOSTS)
        place, size = (host, self._random.choice(NODES)), self._random.choice(_SIZES)
        if kind in ("live_migration", "evacuation"):
            size = one.size
            if host == one.place[0]:
                return
        self._number += 1
        move_id = f"00000000-0000-4000-8000-{self._number:012x}"
        command = commands.BeginMove(
            begin=commands.BeginClaim(
                instance=read_instance(_described(one.uuid, size)),
                limits=read_limits({"vcpu": 40}),
                timeout=_HOUR * 24,
                node=place[1],
            ),
            id=move_id,
            kind=kind,
            from_host=one.place[0],
            from_node=one.place[1],
        )
        decision = self._cloud.do(host, command)
        if decision.error is not None:
            assert isinstance(decision.error, ComputeResourcesUnavailable), decision.error
            self._cloud.refused += 1
            return
        again = self._cloud.do(host, command)
        assert again.reply["state"] == "begun"
        assert not again.events
        other = msgspec.structs.replace(command, id=f"other-{move_id}")
        if self._cloud.stores[host] is self._cloud.stores[HOSTS[self._number % 3]]:
            assert isinstance(self._cloud.do(HOSTS[self._number % 3], other).error, ClaimConflict)
        one.move, one.before, one.handed_over = decision.reply, (one.place, one.size), False
        one.move["place"], one.move["size"] = place, size

    def _told(self, one: Moving) -> dict[str, Any]:
        assert one.move is not None
        return {name: value for name, value in one.move.items() if name not in ("place", "size")}

    def _finish(self, one: Moving) -> None:
        move = one.move
        assert move is not None
        assert one.before is not None
        place, size = move["place"], move["size"]
        reply = self._cloud.step(FINISH, place[0], self._told(one)).reply
        move.update(reply)
        at = micros(reply["finished_at"])
        one.moves.append((at, place, size))
        one.place, one.size = place, size
        if one.before[0][0] != place[0]:
            self._cloud.now += self._random.randint(0, 50) * SECOND
            if self._random.random() < 0.7:  # otherwise the next step brings it
                self._cloud.step(FINISH, one.before[0][0], self._told(one), reply["finished_at"])
            elif move["kind"] in ("live_migration", "evacuation") or self._random.random() < 0.5:
                self._cloud.step(CONFIRM, one.before[0][0], self._told(one))
                one.move = None
                return
            else:
                self._undo(one)
                return
        if move["kind"] in ("live_migration", "evacuation"):
            one.move = None
        else:
            one.handed_over = True

    def _confirm(self, one: Moving) -> None:
        assert one.before is not None
        self._cloud.step(CONFIRM, one.before[0][0], self._told(one))
        one.move = None

    def _revert(self, one: Moving) -> None:
        self._undo(one)

    def _undo(self, one: Moving) -> None:
        assert one.move is not None
        assert one.before is not None
        (host, _), (from_host, _) = one.place, one.before[0]
        reply = self._cloud.step(REVERT, host, self._told(one)).reply
        one.move.update(reply)
        if from_host != host:
            self._cloud.now += self._random.randint(0, 50) * SECOND
            self._cloud.step(REVERT, from_host, self._told(one), reply["ended_at"])
        one.moves.append((micros(reply["ended_at"]), *one.before))
        one.place, one.size = one.before
        one.move = None

    def _abort(self, one: Moving) -> None:
        assert one.move is not None
        name = self._random.choice((ABORT, REVERT))
        assert self._cloud.step(name, one.move["place"][0], self._told(one)).reply["state"] == "aborted"
        one.move = None

    def _fail(self, one: Moving) -> None:
        assert one.move is not None
        assert one.before is not None
        for host in {one.move["place"][0], one.before[0][0]}:
            assert self._cloud.step(FAIL, host, self._told(one)).reply["state"] == "failed"
        if one.handed_over:
            self._confirm(one)
        else:
            self._abort(one)

    def _delete(self, one: Moving) -> None:
        """The caller tells both hosts, in any order."""
        deleted = {"uuid": one.uuid, "vm_state": "deleted"}
        hosts = {one.place[0]}
        if one.move is not None and one.before is not None:
            hosts |= {one.move["place"][0], one.before[0][0]}
        order = sorted(hosts)
        self._random.shuffle(order)
        for host in order:
            update = commands.UpdateUsage(uuid=one.uuid, changes=read_changes(deleted), notes_deletions=True)
            self._cloud.do(host, update)
            if host == one.place[0]:
                one.ended = self._cloud.now
            self._cloud.now += self._random.randint(0, 5) * SECOND
        if one.move is not None:
            late = self._cloud.step(FINISH, one.move["place"][0], self._told(one))
            assert late.error is None or isinstance(late.error, MoveNotFound | ClaimConflict)
        one.move = None


def _described(uuid: str, size: tuple[int, int, int]) -> dict[str, Any]:
    vcpus, memory_mb, root_gb = size
    sizes = {"vcpus": vcpus, "memory_mb": memory_mb, "root_gb": root_gb, "ephemeral_gb": 0}
    return {"uuid": uuid, "project_id": "p1", **sizes}
