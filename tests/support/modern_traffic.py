# SPDX-License-Identifier: Apache-2.0
"""Schedulers that use version 1.1 of the RPC API: claims with ids, groups, expiry, ends that come early, releases, listings."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from tests.invariants.record import RESULT, Place, Request
from tests.support.traffic import HeldInstance, Scheduler

# How often a uuid is spelled in another way than the worker keeps it.
_RESPELLED = 0.15
# How often an instance fails soon after it was built.
_FAILED = 0.25
# Beyond which number no notifications are asked for.
_MOST_HEARD = 100
_SHORT_TIMEOUTS = (1, 2, 4)


class ModernScheduler(Scheduler):
    """A scheduler whose instances have UUIDs and whose claims mostly have ids of its choice. Not thread-safe."""

    def _choices(self) -> list[tuple[Callable[[], None], int]]:
        choices = [
            *super()._choices(),
            (self._begin_together, 6),
            (self._end_early, 4),
            (self._ask, 2),
            (self._list, 3),
        ]
        if self._held:
            choices += [
                (self._report_built, 8),
                (self._report_elsewhere, 1),
                (self._shelve, 2),
                (self._take_claim_id, 2),
                (self._release, 3),
                (self._compare, 1),
            ]
        return choices

    def _new_uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _claim(self, place: Place, fields: dict[str, Any], claim_ids: Sequence[str] = (), **more: Any) -> None:
        if "claim_id" not in more and self._random.random() < 0.6:
            more["claim_id"] = self._new_uuid()
        super()._claim(place, fields, claim_ids, **self._expiry(), **more)

    def _expiry(self) -> dict[str, Any]:
        """How a claim expires: some soon, some with a policy of their own."""
        chosen: dict[str, Any] = {}
        if self._random.random() < 0.3:
            chosen["timeout"] = self._random.choice(_SHORT_TIMEOUTS)
        if self._random.random() < 0.7:
            chosen["on_expiry"] = self._random.choice(("keep", "release"))
        return chosen

    def _end_early(self) -> None:
        """End a claim that has not begun, which ends nothing, and begin it then."""
        place, fields = self._new()
        claim_id = self._new_uuid()
        method = self._random.choice(("abort_resource_claim", "finish_resource_claim", "renew_resource_claim"))
        self._say(place[0], method, casts=0.5, claim_id=claim_id)
        self._claim(place, fields, claim_id=claim_id)

    def _begin_together(self) -> None:
        """Begin claims for several new instances of one host as a whole."""
        first, fields = self._new()
        members = [(first, fields)]
        for _ in range(self._random.randint(1, 3)):
            place, fields = self._new()
            if place[0] == first[0]:
                members.append((place, fields))
        claims: list[dict[str, Any]] = [
            {"instance": fields, "limits": self._limits(place), "claim_id": self._new_uuid()}
            for place, fields in members
        ]
        said = self._say(first[0], "begin_resource_claims", insist=True, claims=claims, **self._expiry())
        if said is not None and said.outcome == RESULT:
            for (place, fields), claim in zip(members, claims, strict=True):
                self._held[fields["uuid"]] = HeldInstance(
                    place, fields, claim_ids=[claim["claim_id"]], claim_id=claim["claim_id"]
                )

    def _report_built(self) -> None:
        uuid = self._any()
        fields: dict[str, Any] = {"uuid": uuid, "vm_state": "active", "task_state": None}
        if self._random.random() < 0.2:
            fields["project_id"] = self._random.choice(("another-project", None))
        host = self._held[uuid].place[0]
        self._say(host, "update_usage", casts=0.5, instance=fields)
        if self._random.random() < _FAILED:  # what was built once stays charged
            self._say(host, "update_usage", casts=0.5, instance={"uuid": uuid, "vm_state": "error"})

    def _report_elsewhere(self) -> None:
        """Report an instance from another node of its host, which is refused."""
        uuid = self._any()
        host, node = self._held[uuid].place
        others = [place[1] for place in self._places if place[0] == host and place[1] != node]
        if others and self._stays((host, node)):
            fields = {"uuid": uuid, "node": self._random.choice(others), "display_name": f"{uuid}-elsewhere"}
            self._say(host, "update_usage", casts=0.3, instance=fields)

    def _shelve(self) -> None:
        """Report that an instance is offloaded, which ends its charge. It may be claimed again."""
        uuid = self._any()
        held = self._held.pop(uuid)
        fields = {"uuid": uuid, "vm_state": "shelved_offloaded"}
        self._say(held.place[0], "update_usage", casts=0.5, instance=fields)
        held.building = True
        self._remember(uuid, held)

    def _take_claim_id(self) -> None:
        """Begin a claim with the id of another one, whose instance is charged."""
        held = self._held[self._any()]
        if held.building or held.claim_id is None or not self._stays(held.place):
            return
        _, fields = self._new()
        fields["node"] = held.place[1]
        self._say(held.place[0], "begin_resource_claim", casts=0.3, instance=fields, claim_id=held.claim_id)

    def _stays(self, place: Place) -> bool:
        """Whether the node has never got another name or host."""
        return all(place not in move for move in self._moves)

    def _release(self) -> None:
        uuid = self._any()
        held = self._held.pop(uuid)
        self._say(held.place[0], "release_allocation", casts=0.3, instance_uuid=uuid, reason="the machine is gone")

    def _compare(self) -> None:
        held = self._held[self._any()]
        self._say(held.place[0], "report_instances", node=held.place[1], uuids=list(self._held))

    def _ask(self) -> None:
        place, fields = self._new()
        self._say(place[0], "would_fit", instance=fields, limits=self._limits(place))

    def _list(self) -> None:
        host, node = self._random.choice(self._places)
        dice = self._random.random()
        if dice > 0.8:
            self._say(host, "get_instances", node=node)
        elif dice > 0.6:
            after = self._random.randrange(_MOST_HEARD)
            self._say(host, "get_notifications", node=node, after_sequence=after, limit=self._random.randint(1, 5))
        elif self._held and dice < 0.3:
            uuid = self._any()
            self._say(self._held[uuid].place[0], "get_allocation", instance_uuid=uuid)
        else:
            self._say(host, "list_allocations", node=node, limit=1000)

    def _say(
        self, host: str, method: str, /, *, casts: float = 0, insist: bool = False, **arguments: Any
    ) -> Request | None:
        return super()._say(host, method, casts=casts, insist=insist, **self._respelled(arguments))

    def _respelled(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with some uuids in another spelling."""
        spelled = dict(arguments)
        for name in ("claim_id", "instance_uuid", "move_id"):
            if isinstance(spelled.get(name), str):
                spelled[name] = self._spelled(spelled[name])
        if "instance" in spelled:
            spelled["instance"] = {**spelled["instance"], "uuid": self._spelled(spelled["instance"]["uuid"])}
        return spelled

    def _spelled(self, name: str) -> str:
        if len(name) != 36 or self._random.random() >= _RESPELLED:
            return name
        return self._random.choice((name.upper(), name.replace("-", ""), f"urn:uuid:{name}", f"{{{name}}}"))
