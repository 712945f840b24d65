# SPDX-License-Identifier: Apache-2.0
"""Schedulers that claim, renew, build, change, delete and read. The answers that they receive are judged afterwards.

Each scheduler works on instances of its own, one request after the other; many schedulers make the load. The same seed gives
the same requests in the same order, as long as the answers are the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.invariants.record import RESULT, Place, Request
from tests.support.builders import instance_dict

# The most instances that a scheduler holds; it deletes the oldest to make room.
_MOST_HELD = 12
# The most instances whose claims it has aborted and may begin again.
_MOST_ABORTED = 4


class Recorder(Protocol):
    """Sends requests and records them, as ``tests.invariants.collect.RecordingClient`` does."""

    def call(self, host: str | None, method: str, /, **arguments: Any) -> Request: ...

    def cast(self, host: str | None, method: str, /, **arguments: Any) -> object: ...

    def insist(self, host: str | None, method: str, /, **arguments: Any) -> Request: ...


@dataclass(slots=True)
class HeldInstance:
    """An instance that a scheduler has claimed; ``building``: it has not finished the claim. ``claim_ids`` are all that it has
    had; ``claim_id`` is that of its present claim, where a call has answered it."""

    place: Place
    fields: dict[str, Any]
    building: bool = True
    updates: int = 0
    claim_ids: list[str] = field(default_factory=list)
    claim_id: str | None = None


class Scheduler:
    """One scheduler. Not thread-safe.

    ``tight`` holds the places where all schedulers together ask for more than the limits in their requests. Hosts in
    ``calls_only`` get no casts. ``moves`` is a list that grows: a node was there and is here now; schedulers follow.
    """

    def __init__(
        self,
        client: Recorder,
        *,
        name: str,
        seed: int,
        places: Sequence[Place],
        tight: Sequence[Place] = (),
        calls_only: Sequence[str] = (),
        shared_topic: bool = True,
        moves: Sequence[tuple[Place, Place]] = (),
    ) -> None:
        self._moves = moves
        self._followed = 0
        self._client = client
        self._name = name
        self._random = random.Random(f"{seed}-{name}")
        self._places = list(places)
        self._tight = frozenset(tight)
        self._calls_only = frozenset(calls_only)
        self._shared_topic = shared_topic
        self._numbers = 0
        self._held: dict[str, HeldInstance] = {}
        self._aborted: dict[str, HeldInstance] = {}

    def step(self) -> None:
        """Send one request."""
        self._follow()
        if len(self._held) >= _MOST_HELD:
            self._delete(next(iter(self._held)))
            return
        choices = self._choices()
        what = self._random.choices([choice for choice, _ in choices], [weight for _, weight in choices])[0]
        what()

    def _follow(self) -> None:
        """Address the nodes that have got another name or host by that from now on."""
        while self._followed < len(self._moves):
            source, target = self._moves[self._followed]
            self._followed += 1
            self._places = [target if place == source else place for place in self._places]
            for held in (*self._held.values(), *self._aborted.values()):
                if held.place == source:
                    held.place = target
                    held.fields = {**held.fields, "node": target[1]}

    def _choices(self) -> list[tuple[Callable[[], None], int]]:
        """What may be done now, and how often."""
        choices: list[tuple[Callable[[], None], int]] = [
            (self._begin, 30),
            (self._begin_deleted, 1),
            (self._read, 6),
            (self._nonsense, 2),
        ]
        if self._aborted:
            choices.append((self._begin_again, 4))
        if self._held:
            choices += [
                (self._change, 30),
                (self._finish, 12),
                (self._abort, 5),
                (self._end_late, 3),
                (self._renew, 4),
                (self._repeat, 4),
                (self._contradict, 2),
                (lambda: self._delete(self._any()), 9),
            ]
        return choices

    def _begin(self) -> None:
        self._claim(*self._new())

    def _begin_again(self) -> None:
        """Begin a claim for an instance whose claim was aborted. Ends of the earlier claim may still come."""
        uuid = self._random.choice(list(self._aborted))
        before = self._aborted.pop(uuid)
        self._claim(before.place, before.fields, before.claim_ids)

    def _begin_deleted(self) -> None:
        """Delete an instance before its claim begins, which is refused."""
        place, fields = self._new()
        self._say(place[0], "update_usage", casts=0.5, instance={"uuid": fields["uuid"], "vm_state": "deleted"})
        self._say(place[0], "begin_resource_claim", casts=0.5, instance=fields)

    def _new(self) -> tuple[Place, dict[str, Any]]:
        self._numbers += 1
        uuid = self._new_uuid()
        place = self._random.choice(self._places)
        return place, instance_dict(
            uuid=uuid,
            node=place[1],
            vcpus=self._random.randint(1, 4),
            memory_mb=self._random.choice((256, 512, 1024)),
            root_gb=self._random.randint(0, 4),
            ephemeral_gb=self._random.randint(0, 2),
            display_name=uuid,
        )

    def _new_uuid(self) -> str:
        return f"{self._name}-{self._numbers}"

    def _claim(self, place: Place, fields: dict[str, Any], claim_ids: Sequence[str] = (), **more: Any) -> None:
        """Begin a claim. ``more`` are further arguments."""
        limits = self._limits(place)
        said = self._say(
            place[0], "begin_resource_claim", casts=0.2, insist=True, instance=fields, limits=limits, **more
        )
        if said is None or said.outcome == RESULT:
            held = self._held[fields["uuid"]] = HeldInstance(place, fields, claim_ids=list(claim_ids))
            if said is not None:
                held.claim_id = said.reply["claim_id"]
                held.claim_ids.append(said.reply["claim_id"])

    def _limits(self, place: Place) -> dict[str, float] | None:
        return {"vcpu": 40.5} if place in self._tight else self._random.choice((None, {"memory_mb": 262144}))

    def _change(self) -> None:
        uuid = self._any()
        held = self._held[uuid]
        held.updates += 1
        fields: dict[str, Any] = {"uuid": uuid, "node": held.place[1], "display_name": f"{uuid}-{held.updates}"}
        if self._random.random() < 0.3:
            fields["memory_mb"] = self._random.choice((256, 512, 1024, 2048))
        if self._random.random() < 0.5:
            fields["task_state"] = self._random.choice(("networking", "spawning", None))
        if self._random.random() < 0.1:
            fields = {"uuid": uuid, "node": held.place[1]}  # nothing changes
        self._say(held.place[0], "update_usage", casts=0.8, instance=fields)

    def _finish(self) -> None:
        uuid = self._any()
        held = self._held[uuid]
        held.building = False
        self._say(held.place[0], "finish_resource_claim", casts=0.3, claim_id=self._named(held))

    def _abort(self) -> None:
        uuid = self._any()
        held = self._held[uuid]
        self._say(held.place[0], "abort_resource_claim", casts=0.3, claim_id=self._named(held))
        if held.building:
            del self._held[uuid]
            self._remember(uuid, held)

    def _remember(self, uuid: str, held: HeldInstance) -> None:
        """Note that the instance may be claimed again."""
        if len(self._aborted) < _MOST_ABORTED:
            self._aborted[uuid] = held

    def _end_late(self) -> None:
        """End the first claim of an instance, which may have ended, and another one may have begun."""
        held = self._held[self._any()]
        method = self._random.choice(("abort_resource_claim", "finish_resource_claim"))
        if len(held.claim_ids) > 1:
            self._say(held.place[0], method, casts=0.5, claim_id=held.claim_ids[0])

    def _renew(self) -> None:
        held = self._held[self._any()]
        timeout = self._random.choice((1, 600, 3600))
        self._say(held.place[0], "renew_resource_claim", casts=0.3, claim_id=self._named(held), timeout=timeout)

    def _named(self, held: HeldInstance) -> str:
        """The last claim of the instance by its id, if it is known, or by the instance's uuid."""
        uuid: str = held.fields["uuid"]
        return uuid if not held.claim_ids or self._random.random() < 0.3 else held.claim_ids[-1]

    def _delete(self, uuid: str) -> None:
        held = self._held.pop(uuid)
        fields = {"uuid": uuid, "node": held.place[1], "vm_state": "deleted", "task_state": None}
        self._say(held.place[0], "update_usage", casts=0.8, instance=fields)

    def _repeat(self) -> None:
        """Repeat a claim, like a scheduler that has forgotten its first request."""
        held = self._held[self._any()]
        self._say(held.place[0], "begin_resource_claim", instance=held.fields)

    def _contradict(self) -> None:
        held = self._held[self._any()]
        fields = {**held.fields, "vcpus": held.fields["vcpus"] + 1}
        self._say(held.place[0], "begin_resource_claim", instance=fields)

    def _nonsense(self) -> None:
        host, node = self._random.choice(self._places)
        fields = {"uuid": f"{self._name}-nonsense", "node": node, "memory_mb": "much"}
        self._say(host, "update_usage", casts=0.7, instance=fields)

    def _read(self) -> None:
        host, node = self._random.choice(self._places)
        if self._random.random() < 0.3:
            self._say(host, "list_nodes")
        else:
            self._say(host, "get_node", node=node)

    def _any(self) -> str:
        return self._random.choice(list(self._held))

    def _say(
        self, host: str, method: str, /, *, casts: float = 0, insist: bool = False, **arguments: Any
    ) -> Request | None:
        """Send a call, or with probability ``casts`` a cast. Returns None for a cast."""
        cast = self._random.random() < casts
        shared = self._random.random() < 0.1
        if cast and host not in self._calls_only:
            self._client.cast(host, method, **arguments)
            return None
        if shared and self._shared_topic:
            return self._client.call(None, method, host=host, **arguments)
        if insist:
            return self._client.insist(host, method, **arguments)
        return self._client.call(host, method, **arguments)
