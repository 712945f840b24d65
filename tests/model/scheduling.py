# SPDX-License-Identifier: Apache-2.0
"""Schedulers that claim, move and delete instances on hosts of two databases, and what they know by then.

Each step is sent whole, to both hosts, in one of the orders that may happen; a copy of it may come again later. What the
ledgers are charged is compared with what the steps mean, and the bill from notifications alone with the times that the
destinations have answered.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.support.bill import Bill, Interval, micros, together
from tracker_worker.domain.move import KINDS
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, MoveNotFound

HOSTS = ("h1", "h2", "h3")
"""The last one is in another database than the others."""
NODES = ("a", "b")
_SIZES = ((1, 512, 1), (2, 1024, 2), (4, 2048, 4), (8, 4096, 8))
_HOUR = 3600

Place = tuple[str, str]


@dataclass(slots=True)
class Moving:
    """An instance as its scheduler knows it. ``moves``: where it has been, with the times that the destinations have answered
    (microseconds). ``before``: its place and size before the ``move`` that is under way. ``ended``: when it was deleted; 0: it
    was, and only its notification says when."""

    uuid: str
    place: Place
    size: tuple[int, int, int]
    moves: list[tuple[int, Place, tuple[int, int, int]]] = field(default_factory=list)
    ended: int | None = None
    before: tuple[Place, tuple[int, int, int]] | None = None
    move: dict[str, Any] | None = None
    handed_over: bool = False


class Cloud(ABC):
    """Hosts that are asked. ``bill`` hears the notifications of both databases; ``steps`` counts the steps of moves that were
    sent."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.bill = Bill()
        self.instances: list[Moving] = []
        self.steps = 0

    @abstractmethod
    def call(self, host: str, method: str, **args: Any) -> Any:
        """The answer of a host. Raises TrackerError."""

    @abstractmethod
    def repeat_later(self, host: str, method: str, args: dict[str, Any]) -> None:
        """Have a copy of a request arrive later."""

    @abstractmethod
    def pass_time(self, seconds: int) -> None:
        """Let so much time pass, or less, and perhaps a copy of a request arrive."""

    @abstractmethod
    def charges(self, uuid: str) -> list[tuple[str, str, str]]:
        """(host, node, role) of all that is charged for an instance."""

    def step(self, step: str, host: str, move: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Send a step of a move, and perhaps a copy of it some time later."""
        self.steps += 1
        args = {"move_id": move["id"], "move": move, **more}
        answer: dict[str, Any] = self.call(host, f"{step}_move", **args)
        if self.random.random() < 0.3:
            self.repeat_later(host, f"{step}_move", args)
        return answer

    def check_charges(self, one: Moving) -> None:
        """Both sides were told everything: the instance is charged once, at its place."""
        expected = [] if one.ended is not None else [(*one.place, "instance")]
        if one.move is not None and one.before is not None and one.ended is None:
            expected.append((*one.before[0], "hold") if one.handed_over else (*one.move["place"], "incoming"))
        assert sorted(self.charges(one.uuid)) == sorted(expected), one

    def check_bill(self, one: Moving) -> None:
        """The instance is billed without a gap, and for what its scheduler knows."""
        intervals = self.bill.intervals().get(one.uuid, [])
        assert together(intervals) == []
        if one.ended == 0 and intervals:
            one.ended = intervals[-1].end
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
        cloud.pass_time(90)
        living = [one for one in cloud.instances if one.ended is None]
        if len(living) < 12 and self._random.random() < 0.4:
            self._claim()
            return
        if not living:
            return
        one = self._random.choice(living)
        if self._random.random() < 0.2:
            self._update(one)
        elif one.move is None:
            if self._random.random() < 0.1:
                self._delete(one)
            else:
                self._begin(one)
        elif not one.handed_over:
            self._random.choice((self._finish, self._finish, self._finish, self._abort, self._fail, self._delete))(one)
        else:
            self._random.choice((self._confirm, self._confirm, self._revert, self._fail, self._delete))(one)
        cloud.check_charges(one)

    def _claim(self) -> None:
        self._number += 1
        uuid = f"5c0de000-0000-4000-8000-{self._number:012x}"
        place = self._random.choice(HOSTS), self._random.choice(NODES)
        size = self._random.choice(_SIZES)
        instance = {**_described(uuid, size), "node": place[1]}
        claim = self._cloud.call(place[0], "begin_resource_claim", instance=instance, timeout=_HOUR)
        self._cloud.call(place[0], "finish_resource_claim", claim_id=claim["claim_id"])
        began = micros(claim["begun_at"])
        self._cloud.instances.append(Moving(uuid, place, size, moves=[(began, place, size)]))

    def _update(self, one: Moving) -> None:
        """The instance gets another state or another owner, which its bill does not show to its scheduler."""
        said = {"vm_state": self._random.choice(("active", "stopped", "error"))}
        if self._random.random() < 0.3:
            said = {"project_id": self._random.choice(("p1", "p2")), "user_id": self._random.choice(("u1", "u2"))}
        self._cloud.call(one.place[0], "update_usage", instance={"uuid": one.uuid, **said})

    def _begin(self, one: Moving) -> None:
        kind = self._random.choice(KINDS)
        host = one.place[0] if kind == "resize" and self._random.random() < 0.5 else self._random.choice(HOSTS)
        place, size = (host, self._random.choice(NODES)), self._random.choice(_SIZES)
        if kind in ("live_migration", "evacuation"):
            size = one.size
            if host == one.place[0]:
                return
        self._number += 1
        move = {
            "id": f"00000000-0000-4000-8000-{self._number:012x}",
            "kind": kind,
            "from_host": one.place[0],
            "from_node": one.place[1],
        }
        args = {
            "instance": {**_described(one.uuid, size), "node": place[1]},
            "limits": {"vcpu": 40},
            "timeout": 24 * _HOUR,
        }
        try:
            begun = self._cloud.call(host, "begin_move_claim", **args, move=move)
        except ComputeResourcesUnavailable:
            return
        assert self._cloud.call(host, "begin_move_claim", **args, move=move)["state"] == "begun"
        other = self._random.choice([each for each in HOSTS if (each == HOSTS[-1]) == (host == HOSTS[-1])])
        try:
            self._cloud.call(other, "begin_move_claim", **args, move={**move, "id": f"other-{self._number}"})
            raise AssertionError(f"two moves of {one.uuid} begin in one ledger")
        except ClaimConflict:
            pass
        one.move, one.before, one.handed_over = begun, (one.place, one.size), False
        begun["place"], begun["size"] = place, size

    def _told(self, one: Moving) -> dict[str, Any]:
        assert one.move is not None
        return {name: value for name, value in one.move.items() if name not in ("place", "size")}

    def _finish(self, one: Moving) -> None:
        move = one.move
        assert move is not None
        assert one.before is not None
        place, size = move["place"], move["size"]
        reply = self._cloud.step("finish", place[0], self._told(one))
        move.update(reply)
        at = micros(reply["finished_at"])
        one.moves.append((at, place, size))
        one.place, one.size = place, size
        if one.before[0][0] != place[0]:
            self._cloud.pass_time(50)
            if self._random.random() < 0.7:  # otherwise the next step brings it
                self._cloud.step("finish", one.before[0][0], self._told(one), effective_at=reply["finished_at"])
            elif move["kind"] in ("live_migration", "evacuation") or self._random.random() < 0.5:
                self._cloud.step("confirm", one.before[0][0], self._told(one))
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
        self._cloud.step("confirm", one.before[0][0], self._told(one))
        one.move = None

    def _revert(self, one: Moving) -> None:
        self._undo(one)

    def _undo(self, one: Moving) -> None:
        assert one.move is not None
        assert one.before is not None
        (host, _), (from_host, _) = one.place, one.before[0]
        reply = self._cloud.step("revert", host, self._told(one))
        one.move.update(reply)
        if from_host != host:
            self._cloud.pass_time(50)
            self._cloud.step("revert", from_host, self._told(one), effective_at=reply["ended_at"])
        one.moves.append((micros(reply["ended_at"]), *one.before))
        one.place, one.size = one.before
        one.move = None

    def _abort(self, one: Moving) -> None:
        assert one.move is not None
        name = self._random.choice(("abort", "revert"))
        assert self._cloud.step(name, one.move["place"][0], self._told(one))["state"] == "aborted"
        one.move = None

    def _fail(self, one: Moving) -> None:
        assert one.move is not None
        assert one.before is not None
        for host in sorted({one.move["place"][0], one.before[0][0]}):
            assert self._cloud.step("fail", host, self._told(one))["state"] == "failed"
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
        one.ended = 0  # its notification says when
        for host in order:
            self._cloud.call(host, "update_usage", instance=deleted)
            self._cloud.pass_time(5)
        if one.move is not None:
            with contextlib.suppress(MoveNotFound, ClaimConflict):
                self._cloud.step("finish", one.move["place"][0], self._told(one))
        one.move = None


def _described(uuid: str, size: tuple[int, int, int]) -> dict[str, Any]:
    vcpus, memory_mb, root_gb = size
    sizes = {"vcpus": vcpus, "memory_mb": memory_mb, "root_gb": root_gb, "ephemeral_gb": 0}
    return {"uuid": uuid, "project_id": "p1", **sizes}
