# SPDX-License-Identifier: Apache-2.0
"""The possible effects of a request on an instance in a given state, with the reply to each (interfaces, section 1).

Written from the description of the interfaces alone; no code comes from the worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.invariants import books
from tests.invariants.books import Replay
from tests.invariants.messages import Message
from tests.invariants.record import ERROR, RESULT, Heard, Request, Vector

LIMITS = {"VCPU": "vcpu", "MEMORY_MB": "memory_mb", "DISK_GB": "disk_gb"}
SIZES = ("vcpus", "memory_mb", "root_gb", "ephemeral_gb")
# Instance field -> payload key. The payload has '' for None.
_TEXTS = {
    "display_name": "display_name",
    "instance_type": "instance_type",
    "instance_flavor_id": "instance_flavor_id",
    "availability_zone": "availability_zone",
    "created_at": "created_at",
    "launched_at": "launched_at",
    "deleted_at": "deleted_at",
    "terminated_at": "terminated_at",
    "vm_state": "state",
    "task_state": "state_description",
    "project_id": "tenant_id",
    "user_id": "user_id",
}
_MAPPINGS = ("image_meta", "metadata")
# This field is in no payload, but its change is a change of the instance.
_UNSEEN = "os_type"


@dataclass(frozen=True, slots=True)
class Overlooked:
    """The single violation that a search ignores: the limits, the time of a message (``place``), the reply to a message, a
    message without an effect (``loss``), or an event without a cause.
    """

    limits: bool = False
    place: str | None = None
    reply: str | None = None
    loss: str | None = None
    event: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """An instance that has an allocation. ``facts`` are the fields that billing reads, by payload key."""

    node: str
    resources: Vector
    begun: bool
    begun_at: str
    facts: Mapping[str, Any]


Effect = tuple[Heard | None, Allocation | None]
"""The notification that a request caused, and the allocation after it."""


def node_of(message: Message, nodes: Collection[str]) -> str | None:
    """The node that a request names, or the only node of its host."""
    named = (message.request.args.get("instance") or {}).get("node")
    if named is not None:
        return str(named)
    return next(iter(nodes)) if len(nodes) == 1 else None


def after(event: Heard, held: Allocation | None, unseen: Any = None) -> Allocation | None:
    """The allocation after ``event``."""
    kind, payload = event.event_type, event.payload
    if kind == books.REJECTED:
        return held
    if kind in (books.ABORTED, books.RELEASED) or (kind == books.EXPIRED and payload["released"]):
        return None
    begun = kind == books.BEGUN or (kind == books.UPDATED and held is not None and held.begun)
    keys = (*SIZES, *_TEXTS.values(), *_MAPPINGS)
    facts = {key: payload[key] for key in keys} | {_UNSEEN: unseen if held is None else held.facts[_UNSEEN]}
    return Allocation(str(payload["node"]), payload["resources"], begun, payload["begun_at"], facts)


def effects(
    message: Message,
    held: Allocation | None,
    node: str | None,
    waiting: Mapping[str, Heard],
    replayed: Replay | None,
    overlooked: Overlooked,
) -> Iterator[Effect]:
    """Yield the possible effects of ``message`` that agree with its reply. ``waiting``: node -> the instance's next
    notification.
    """
    request = message.request
    told = _Told(request, overlooked)
    if request.outcome == ERROR and request.error not in ("insufficient_resources", "claim_conflict"):
        yield None, held  # refused as invalid, or could not be handled
        return
    match request.method:
        case "begin_resource_claim":
            yield from _begin(request, told, held, node, waiting.get(node or ""), replayed, overlooked)
        case "finish_resource_claim":
            yield from _end(told, held, waiting, books.FINISHED, "finished")
        case "abort_resource_claim":
            yield from _end(told, held, waiting, books.ABORTED, "aborted")
        case "update_usage":
            yield from _update(request, told, held, node, waiting.get(node or ""))


class _Told:
    """The reply that the caller received, if it received one and the search does not ignore it."""

    def __init__(self, request: Request, overlooked: Overlooked) -> None:
        self._request = request
        self._open = request.outcome not in (RESULT, ERROR) or overlooked.reply == request.unique_id

    def result(self, **expected: Any) -> bool:
        """Whether the reply may be an object with these values."""
        reply = self._request.reply
        if self._open:
            return True
        return isinstance(reply, Mapping) and all(reply.get(name) == value for name, value in expected.items())

    def null(self) -> bool:
        return self._open or (self._request.outcome == RESULT and self._request.reply is None)

    def error(self, code: str, **facts: Any) -> bool:
        """Whether a call may have received this error. A cast with it would be parked, except for insufficient resources."""
        if self._open:
            return self._request.call or code == "insufficient_resources"
        told = self._request.facts
        return self._request.error == code and all(told.get(name) == value for name, value in facts.items())


def _begin(
    request: Request,
    told: _Told,
    held: Allocation | None,
    node: str | None,
    event: Heard | None,
    replayed: Replay | None,
    overlooked: Overlooked,
) -> Iterator[Effect]:
    instance = request.args["instance"]
    resources = vector(instance)
    if held is not None:
        if held.node == node and dict(held.resources) == resources:
            state = "begun" if held.begun else "finished"
            if told.result(begun_at=held.begun_at, resources=resources, state=state):
                yield None, held
        elif told.error("claim_conflict"):
            yield None, held
        return
    if event is None or replayed is None or dict(event.payload["resources"]) != resources:
        return
    lacks = shortfalls(resources, replayed.usage.get(event.sequence - 1, {}), request.args.get("limits"))
    if event.event_type == books.BEGUN and (overlooked.limits or not lacks):
        claim = {"begun_at": event.payload["begun_at"], "generation": event.generation, "resources": resources}
        if _agrees(event, instance) and told.result(**claim, state="begun", node=node, claim_id=instance["uuid"]):
            yield event, after(event, None, instance.get(_UNSEEN))
    if event.event_type == books.REJECTED and (overlooked.limits or event.payload["shortfalls"] == lacks):
        said = event.payload["shortfalls"]
        if said and told.error("insufficient_resources", shortfalls=said):
            yield event, None


def _end(told: _Told, held: Allocation | None, waiting: Mapping[str, Heard], kind: str, state: str) -> Iterator[Effect]:
    if held is None or not held.begun:
        if told.null():
            yield None, held
        return
    event = waiting.get(held.node)
    if event is not None and event.event_type == kind:
        claim = {"generation": event.generation, "resources": dict(held.resources), "begun_at": held.begun_at}
        if told.result(**claim, state=state):
            yield event, after(event, held)


def _update(
    request: Request, told: _Told, held: Allocation | None, node: str | None, event: Heard | None
) -> Iterator[Effect]:
    if held is None or held.node != node:
        if told.result(tracked=False, changed=False):
            yield None, held
        return
    fields = _facts(request.args["instance"])
    if all(held.facts[key] == value for key, value in fields.items()):
        if told.result(tracked=True, changed=False):
            yield None, held
        return
    new = {**held.facts, **fields}
    gone = new["state"] == "deleted" or (new["state"] == "shelved_offloaded" and new["state_description"] != "spawning")
    if gone:
        new |= {size: held.facts[size] for size in SIZES}  # the last figures are those of the charge
    if event is None or event.event_type != (books.RELEASED if gone else books.UPDATED):
        return
    if any(event.payload[key] != value for key, value in new.items() if key != _UNSEEN):
        return
    if told.result(tracked=True, changed=True):
        following = after(event, held)
        if following is not None:
            following = Allocation(following.node, following.resources, following.begun, following.begun_at, new)
        yield event, following


def _agrees(event: Heard, instance: Mapping[str, Any]) -> bool:
    """Whether a notification charges for the requested instance. Its project and user may come from the request's context."""
    fields = _facts(instance)
    fields.pop(_UNSEEN, None)
    for owner in ("tenant_id", "user_id"):
        if not fields.get(owner):
            fields.pop(owner, None)
    return all(event.payload[key] == value for key, value in fields.items())


def _facts(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields of ``instance``, by payload key."""
    facts = {size: instance[size] for size in SIZES if size in instance}
    facts |= {key: instance[name] or "" for name, key in _TEXTS.items() if name in instance}
    facts |= {name: instance[name] or {} for name in _MAPPINGS if name in instance}
    if _UNSEEN in instance:
        facts[_UNSEEN] = instance[_UNSEEN]
    return facts


def vector(instance: Mapping[str, Any]) -> dict[str, int]:
    """The resources that a claim for this instance reserves."""
    return {
        "VCPU": instance["vcpus"],
        "MEMORY_MB": instance["memory_mb"],
        "DISK_GB": instance["root_gb"] + instance["ephemeral_gb"],
    }


def shortfalls(requested: Vector, used: Vector, limits: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """The resources whose requested amount exceeds the limits' remainder."""
    lacks = []
    for name, key in LIMITS.items():
        limit = (limits or {}).get(key)
        if limit is not None and 0 < requested[name] > int(limit) - used.get(name, 0):
            lacks.append(
                {"resource": name, "requested": requested[name], "used": used.get(name, 0), "limit": int(limit)}
            )
    return lacks
