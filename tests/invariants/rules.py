# SPDX-License-Identifier: Apache-2.0
"""The possible effects of a request on an instance in a given state, with the reply to each (interfaces, section 1).

Written from the description of the interfaces alone; no code comes from the worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.invariants import books
from tests.invariants.asked import (
    CUSTOM,
    MAPPINGS,
    OWNER,
    SIZES,
    TEXTS,
    UNSEEN,
    agrees,
    facts_of,
    said,
    shortfalls,
    vector,
)
from tests.invariants.books import Replay
from tests.invariants.messages import Message, canonical
from tests.invariants.record import ERROR, RESULT, Heard, Request, Vector

# The states ('' for None) that a report of an instance that is not built yet has.
_UNBUILT = ("", "building", "error", "shelved", "shelved_offloaded")
_DECIDED = ("insufficient_resources", "claim_conflict", "instance_elsewhere")


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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Allocation:
    """An instance that has an allocation. ``claim_state`` is begun, finished or expired. ``built``: the instance was reported
    in a state that only a built instance has. ``releases``: it is released when its claim expires, unless it is built.
    ``facts`` are the fields that billing reads, by payload key."""

    node: str
    resources: Vector
    claim_id: str
    claim_state: str
    built: bool
    releases: bool
    begun_at: str
    expires_at: str
    facts: Mapping[str, Any]

    @property
    def begun(self) -> bool:
        return self.claim_state == "begun"


@dataclass(frozen=True, slots=True, eq=False)
class Deleted:
    """An instance that is not charged and was reported deleted: its claim, which may still come, is refused."""


State = Allocation | Deleted | None

Effect = tuple[Heard | None, State]
"""The notification that a request caused, and the state of the instance after it."""


def node_of(message: Message, nodes: Collection[str]) -> str | None:
    """The node that a request names, or the only node of its host."""
    named = (message.request.args.get("instance") or {}).get("node")
    if named is not None:
        return str(named)
    return next(iter(nodes)) if len(nodes) == 1 else None


def after(event: Heard, held: State, unseen: Any = None, *, releases: bool = False) -> State:
    """The state after ``event``. ``unseen`` and ``releases`` are those of a claim that begins."""
    kind, payload = event.event_type, event.payload
    if kind == books.REJECTED:
        return held
    if kind in (books.ABORTED, books.RELEASED) or (kind == books.EXPIRED and payload["released"]):
        return None
    before = held if isinstance(held, Allocation) else None
    states = {books.BEGUN: "begun", books.FINISHED: "finished", books.ADOPTED: "finished", books.EXPIRED: "expired"}
    keys = (*SIZES, *TEXTS.values(), *MAPPINGS, CUSTOM)
    return Allocation(
        node=str(payload["node"]),
        resources=payload["resources"],
        claim_id=str(payload["claim_id"]),
        claim_state=states.get(kind, "begun" if before is None else before.claim_state),
        built=kind == books.ADOPTED or (before is not None and before.built),
        releases=releases if before is None else before.releases,
        begun_at=payload["begun_at"],
        expires_at=payload["expires_at"],
        facts={key: said(payload, key) for key in keys} | {UNSEEN: unseen if before is None else before.facts[UNSEEN]},
    )


def expires(event: Heard, held: State) -> bool:
    """Whether the claim of ``held`` may have expired like this: after its end, and released only if that was wanted."""
    if not isinstance(held, Allocation) or not held.begun or event.payload["occurred_at"] <= held.expires_at:
        return False
    return bool(event.payload["released"]) == (held.releases and not held.built)


def effects(
    message: Message,
    held: State,
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
    if request.outcome == ERROR and request.error not in _DECIDED:
        yield None, held  # refused as invalid, or could not be handled
        return
    match request.method:
        case "begin_resource_claim":
            yield from _begin(request, told, held, node, waiting.get(node or ""), replayed, overlooked)
        case "finish_resource_claim":
            yield from _end(message, told, held, waiting, books.FINISHED, "finished")
        case "abort_resource_claim":
            yield from _end(message, told, held, waiting, books.ABORTED, "aborted")
        case "renew_resource_claim":
            yield from _renew(message, told, held, waiting)
        case "release_allocation":
            yield from _release(told, held, waiting)
        case "adopt":
            yield from _adopt(request, held, node, waiting.get(node or ""))
        case "update_usage":
            yield from _update(request, told, held, node, waiting)


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
    if isinstance(held, Allocation):
        if node in (None, held.node) and dict(held.resources) == resources:
            claim = {"begun_at": held.begun_at, "resources": resources, "claim_id": held.claim_id}
            if told.result(**claim, state=held.claim_state):
                yield None, held
        elif told.error("claim_conflict"):
            yield None, held
        return
    if isinstance(held, Deleted):
        if told.error("claim_conflict"):
            yield None, held
        return
    claim_id = request.args.get("claim_id")
    if claim_id is not None and told.error("claim_conflict") and _is_of_another_claim(request):
        yield None, held
    if event is None or replayed is None or dict(event.payload["resources"]) != resources:
        return
    used = replayed.usage.get(event.sequence - 1, {})
    if event.event_type == books.REJECTED:
        used = _with_group(request, used, replayed.offers.get(event.sequence - 1, {}))
    offers = replayed.offers.get(event.sequence - 1, {})
    lacks = shortfalls(resources, used, request.args.get("limits"), offers)
    if event.event_type == books.BEGUN and (overlooked.limits or not lacks):
        claim = {
            "begun_at": event.payload["begun_at"],
            "generation": event.generation,
            "resources": resources,
            "claim_id": event.payload["claim_id"],
            "instance_uuid": canonical(instance["uuid"]),
        }
        named = claim_id is None or canonical(claim_id) == event.payload["claim_id"]
        if named and agrees(event, instance) and told.result(**claim, state="begun", node=node):
            releases = request.args.get("on_expiry") == "release"
            yield event, after(event, None, instance.get(UNSEEN), releases=releases)
    if event.event_type == books.REJECTED and (overlooked.limits or event.payload["shortfalls"] == lacks):
        listed = event.payload["shortfalls"]
        if listed and told.error("insufficient_resources", shortfalls=listed):
            yield event, None


def _is_of_another_claim(request: Request) -> bool:
    """Whether the refusal says that the claim_id is that of another claim, as the load knows by its name."""
    return "claim_id" in str(request.facts.get("reason", "")) or request.outcome not in (RESULT, ERROR)


def _with_group(request: Request, used: Vector, offers: Mapping[str, Mapping[str, Any]]) -> Vector:
    """The usage that a claim of a refused group sees: with the claims of the group before it that fit on its node."""
    node = request.args["instance"]["node"]
    seen = dict(used)
    for entry in request.args.get("before", ()):
        asked = vector(entry["instance"])
        if entry["instance"]["node"] == node and not shortfalls(asked, seen, entry.get("limits"), offers):
            seen = books.total(seen, asked)
    return seen


def _end(
    message: Message, told: _Told, held: State, waiting: Mapping[str, Heard], kind: str, state: str
) -> Iterator[Effect]:
    if not isinstance(held, Allocation) or not _ends(message, held, kind):
        if told.null():
            yield None, held
        return
    event = waiting.get(held.node)
    if event is not None and event.event_type == kind:
        claim = {"generation": event.generation, "resources": dict(held.resources), "begun_at": held.begun_at}
        if told.result(**claim, state=state, claim_id=held.claim_id):
            yield event, after(event, held)


def _ends(message: Message, held: Allocation, kind: str) -> bool:
    """Whether a message of this effect concerns the claim of ``held``: it names the claim, or the instance in its place."""
    if canonical(message.request.args["claim_id"]) not in (held.claim_id, message.instance):
        return False
    return held.begun or (kind == books.ABORTED and held.claim_state == "expired" and not held.built)


def _renew(message: Message, told: _Told, held: State, waiting: Mapping[str, Heard]) -> Iterator[Effect]:
    if not isinstance(held, Allocation) or not _ends(message, held, books.RENEWED):
        if told.null():
            yield None, held
        return
    claim = {"resources": dict(held.resources), "begun_at": held.begun_at, "claim_id": held.claim_id, "state": "begun"}
    if told.result(**claim):
        yield None, held  # it would expire later in any case
    event = waiting.get(held.node)
    if event is None or event.event_type != books.RENEWED:
        return
    if told.result(**claim, generation=event.generation, expires_at=event.payload["expires_at"]):
        yield event, after(event, held)


def _adopt(request: Request, held: State, node: str | None, event: Heard | None) -> Iterator[Effect]:
    """``request.reply`` is what the answer says of the instance: adopted, already, or the code of a refusal; None: unknown, and
    its node may have refused the instance."""
    reply, instance = request.reply, request.args["instance"]
    if reply in (None, "invalid_input", "node_not_found", "node_unavailable"):
        yield None, held
    if reply in ("invalid_input", "node_not_found", "node_unavailable"):
        return
    if isinstance(held, Allocation):
        same = node in (None, held.node) and dict(held.resources) == vector(instance)
        if reply == ("already" if same else "claim_conflict"):
            yield None, held
        return
    if reply == "claim_conflict":
        yield None, held
    if reply not in (None, "adopted") or isinstance(held, Deleted):
        return
    if event is not None and event.event_type == books.ADOPTED and agrees(event, instance):
        yield event, after(event, None, instance.get(UNSEEN))


def _release(told: _Told, held: State, waiting: Mapping[str, Heard]) -> Iterator[Effect]:
    if not isinstance(held, Allocation):
        if told.null():
            yield None, held
        return
    event = waiting.get(held.node)
    if event is None or event.event_type != books.RELEASED or not event.payload["reason"]:
        return
    if told.result(claim_id=held.claim_id, resources=dict(held.resources), node=held.node):
        yield event, None


def _update(
    request: Request, told: _Told, held: State, node: str | None, waiting: Mapping[str, Heard]
) -> Iterator[Effect]:
    instance = request.args["instance"]
    deleted = instance.get("vm_state") == "deleted"
    if not isinstance(held, Allocation):
        if told.result(tracked=False, changed=False):
            yield None, Deleted() if deleted else held
        return
    if node not in (None, held.node):
        if told.error("instance_elsewhere", node=held.node):
            yield None, held
        return
    fields = facts_of(instance)
    gone = deleted or (fields.get("state") == "shelved_offloaded" and held.facts["state"] != "shelved_offloaded")
    for owner in OWNER:
        if gone or not fields.get(owner):
            fields.pop(owner, None)  # a deletion changes no owner, and null says nothing of it
    built = held.built or ("state" in fields and fields["state"] not in _UNBUILT)
    if all(held.facts[key] == value for key, value in fields.items()):
        if told.result(tracked=True, changed=False):
            yield None, replace(held, built=built)
        return
    new = {**held.facts, **fields}
    if gone:
        new |= {size: held.facts[size] for size in (*SIZES, CUSTOM)}  # the last figures are those of the charge
    event = waiting.get(held.node)
    if event is None or event.event_type != (books.RELEASED if gone else books.UPDATED):
        return
    if any(said(event.payload, key) != value for key, value in new.items() if key != UNSEEN):
        return
    if told.result(tracked=True, changed=True):
        following = after(event, held)
        if isinstance(following, Allocation):
            following = replace(following, built=built, facts=new)
        yield event, following
