# SPDX-License-Identifier: Apache-2.0
"""Schedulers that move instances as well: on their node, on their host and to other hosts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from tests.invariants.record import ERROR, RESULT, Place, Request
from tests.support.sized_traffic import SizedScheduler
from tests.support.traffic import HeldInstance

_MOST_TRAVELS = 4
_CASTS = 0.15
_REPEATED = 0.15
_CONTENDED = 0.2
_KINDS = ("resize", "migration", "live_migration", "evacuation")
_HOLDING = ("resize", "migration")


@dataclass(slots=True)
class Travel:
    """An instance that moves. ``held`` is what it was before, ``place`` and ``fields`` say what it becomes. ``move``: what the
    destination has answered; ``wanted``: a step that was sent, and of which nobody knows whether it was taken."""

    held: HeldInstance
    place: Place
    fields: dict[str, Any]
    kind: str
    move_id: str
    begin: dict[str, Any]
    move: dict[str, Any] | None = None
    wanted: str = ""

    @property
    def handed_over(self) -> bool:
        return self.move is not None and bool(self.move["finished_at"])

    @property
    def hosts(self) -> list[str]:
        """The source, and the destination."""
        return list(dict.fromkeys((self.held.place[0], self.place[0])))


class MovingScheduler(SizedScheduler):
    """A scheduler that takes each move to its end, deletes the instance in between, or forgets it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._travels: dict[str, Travel] = {}
        self.apart: Collection[str] = ()
        """The names of nodes from and to which no instance moves: an operator gives them to other hosts."""

    def _choices(self) -> list[tuple[Callable[[], None], int]]:
        choices = super()._choices()
        if self._held and len(self._travels) < _MOST_TRAVELS:
            choices.append((self._set_out, 12))
        if self._travels:
            choices.append((self._travel, 50))
        return choices

    def _follow(self) -> None:
        for source, target in list(self._moves)[self._followed :]:
            for travel in self._travels.values():
                if travel.held.place == source:
                    travel.held.place = target
                if travel.place == source:
                    travel.place, travel.fields = target, {**travel.fields, "node": target[1]}
        super()._follow()

    # --- the beginning -------------------------------------------------------------------------------------------------

    def _set_out(self) -> None:
        """Begin a move, sometimes while another one is asked for elsewhere."""
        uuid = self._any()
        held = self._held[uuid]
        if (held.building and self._random.random() < 0.7) or held.place[1] in self.apart:
            return
        kind, place = self._aim(held)
        fields = {**held.fields, "node": place[1]}
        if kind in _HOLDING:
            fields |= {"vcpus": self._random.randint(1, 4), "memory_mb": self._random.choice((256, 512, 1024))}
        if self._random.random() < _CONTENDED:
            self._contend(held, place)
        move_id = self._new_uuid()
        begin = {
            "instance": fields,
            "move": self._beginning(move_id, kind, held),
            "limits": self._limits(place),
            **self._expiry(),
        }
        said = self._say(place[0], "begin_move_claim", casts=0.1, insist=True, **begin)
        if said is None or said.outcome != ERROR:
            move = said.reply if said is not None and said.outcome == RESULT else None
            self._travels[uuid] = Travel(self._held.pop(uuid), place, fields, kind, move_id, begin, move)

    def _targets(self) -> list[Place]:
        return [place for place in self._places if place[1] not in self.apart]

    def _aim(self, held: HeldInstance) -> tuple[str, Place]:
        kind = self._random.choice(_KINDS)
        near = [place for place in self._targets() if place[0] == held.place[0]]
        far = [place for place in self._targets() if place[0] != held.place[0]]
        if not far or (kind == "resize" and self._random.random() < 0.6):
            return "resize", self._random.choice((held.place, *near))
        return kind, self._random.choice(far)

    def _beginning(self, move_id: str, kind: str, held: HeldInstance) -> dict[str, Any]:
        node = held.place[1] if self._random.random() < 0.8 else None
        return {"id": move_id, "kind": kind, "from_host": held.place[0], "from_node": node}

    def _contend(self, held: HeldInstance, wanted: Place) -> None:
        """Ask for a move to another host at the same time, of which nobody wants to hear again."""
        others = [place for place in self._targets() if place[0] not in (wanted[0], held.place[0])]
        place = self._random.choice(others or self._targets())
        self._say(
            place[0],
            "begin_move_claim",
            casts=1,
            instance={**held.fields, "node": place[1]},
            move=self._beginning(self._new_uuid(), "migration", held),
            timeout=2,
            on_expiry="release",
        )

    # --- the steps -----------------------------------------------------------------------------------------------------

    def _travel(self) -> None:
        """Take one step of a move at both hosts, or do something else to the instance."""
        uuid = self._random.choice(list(self._travels))
        travel = self._travels[uuid]
        choices: list[tuple[Callable[[str, Travel], None], int]] = [(self._delete_moving, 1), (self._forget, 1)]
        if travel.wanted == "revert":
            choices.append((self._revert, 12))
        elif travel.wanted == "confirm":
            choices.append((self._confirm, 12))
        elif travel.wanted == "abort":
            choices.append((self._abort_move, 12))
        elif not travel.handed_over:
            choices += [(self._hand_over, 8), (self._abort_move, 2), (self._fail, 1)]
            choices += [(self._begin_move_again, 2), (self._start_over, 3)]
        else:
            choices += [(self._confirm, 6), (self._fail, 1)]
            choices += [(self._revert, 4)] if travel.kind in _HOLDING else []
        what = self._random.choices([choice for choice, _ in choices], [weight for _, weight in choices])[0]
        what(uuid, travel)

    def _begin_move_again(self, uuid: str, travel: Travel) -> None:
        place = travel.begin["instance"]["node"]
        if place == travel.place[1]:
            said = self._say(travel.place[0], "begin_move_claim", **travel.begin)
            if said is not None and said.outcome == RESULT:
                travel.move = said.reply

    def _start_over(self, uuid: str, travel: Travel) -> None:
        """Begin another move to the same place, since the first one may have expired, and then abort the first one."""
        before = travel.move_id
        if travel.begin["instance"]["node"] != travel.place[1]:
            return
        move_id = self._new_uuid()
        begin = {**travel.begin, "move": {**travel.begin["move"], "id": move_id}}
        said = self._say(travel.place[0], "begin_move_claim", insist=True, **begin)
        if said is not None and said.outcome == RESULT:
            travel.move_id, travel.begin, travel.move = move_id, begin, said.reply
            self._say(travel.place[0], "abort_move", casts=0.5, move_id=before)

    def _hand_over(self, uuid: str, travel: Travel) -> None:
        said = self._step("finish", travel, travel.place[0])
        if not self._answered(uuid, travel, said):
            return
        if not travel.handed_over:
            self._arrive(uuid, travel.held)  # it had ended
        elif len(travel.hosts) > 1 and self._random.random() < (0.4 if travel.kind == "evacuation" else 0.75):
            self._tell_source(uuid, travel)  # otherwise the next step brings it
        elif travel.kind == "evacuation" or (len(travel.hosts) == 1 and travel.kind not in _HOLDING):
            self._arrive(uuid, self._moved(travel))

    def _tell_source(self, uuid: str, travel: Travel) -> None:
        assert travel.move is not None
        said = self._step("finish", travel, travel.held.place[0], effective_at=travel.move["finished_at"])
        if said is not None and said.outcome == ERROR:
            self._give_up(uuid, travel)
        elif travel.kind not in _HOLDING:
            self._arrive(uuid, self._moved(travel))

    def _confirm(self, uuid: str, travel: Travel) -> None:
        travel.wanted = "confirm"
        said = self._step("confirm", travel, travel.held.place[0])
        if said is not None and said.outcome == ERROR:
            self._give_up(uuid, travel)
        elif said is None or said.outcome == RESULT:
            self._arrive(uuid, self._moved(travel))

    def _revert(self, uuid: str, travel: Travel) -> None:
        travel.wanted = "revert"
        if not self._answered(uuid, travel, self._step("revert", travel, travel.place[0])):
            return
        assert travel.move is not None
        if len(travel.hosts) > 1 and travel.handed_over:
            more = {"effective_at": travel.move["ended_at"]}
            said = self._step("revert", travel, travel.held.place[0], **more)
            if said is not None and said.outcome == ERROR:
                self._give_up(uuid, travel)
                return
        self._arrive(uuid, travel.held)

    def _abort_move(self, uuid: str, travel: Travel) -> None:
        travel.wanted = "abort"
        if self._answered(uuid, travel, self._step("abort", travel, travel.place[0])):
            self._arrive(uuid, travel.held)

    def _fail(self, uuid: str, travel: Travel) -> None:
        if travel.move is not None:
            for host in travel.hosts:
                self._step("fail", travel, host)

    def _delete_moving(self, uuid: str, travel: Travel) -> None:
        """The caller tells both hosts, in any order."""
        del self._travels[uuid]
        hosts = travel.hosts
        self._random.shuffle(hosts)
        for host in hosts:
            deleted = {"uuid": uuid, "vm_state": "deleted"}
            self._say(host, "update_usage", casts=0.5, insist=True, instance=deleted)

    def _forget(self, uuid: str, travel: Travel) -> None:
        """As a scheduler that has lost its own database."""
        del self._travels[uuid]

    def _give_up(self, uuid: str, travel: Travel) -> None:
        """A step is refused: a node has got another host, or the other side knows better."""
        if uuid in self._travels:
            self._delete_moving(uuid, travel)

    # --- what they have in common --------------------------------------------------------------------------------------

    def _step(self, step: str, travel: Travel, host: str, **more: Any) -> Request | None:
        """Send a step, and sometimes once more."""
        told = {} if travel.move is None else {"move": travel.move}
        arguments = {"move_id": travel.move_id, **told, **more}
        said = self._say(host, f"{step}_move", casts=_CASTS, insist=True, **arguments)
        if self._random.random() < _REPEATED:
            self._say(host, f"{step}_move", casts=0.5, **arguments)
        return said

    def _answered(self, uuid: str, travel: Travel, said: Request | None) -> bool:
        """Whether the destination has answered a step; what it has refused is given up."""
        if said is not None and said.outcome == ERROR:
            self._give_up(uuid, travel)
        if said is None or said.outcome != RESULT:
            return False
        travel.move = said.reply
        return True

    def _moved(self, travel: Travel) -> HeldInstance:
        return replace(
            travel.held, place=travel.place, fields=travel.fields, building=False, claim_ids=[], claim_id=None
        )

    def _arrive(self, uuid: str, held: HeldInstance) -> None:
        """The move has ended."""
        self._travels.pop(uuid, None)
        self._held[uuid] = held
