# SPDX-License-Identifier: Apache-2.0
"""A node's notifications, added up as a billing consumer would, must give the state that the store holds.

The reserve comes from the store and does not change during a run, but for a node whose inventory is not known: it has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.invariants import move_events, periods
from tests.invariants.record import Heard, Place, StoredAllocation, StoredNode, Vector
from tests.invariants.replay import CLASSES, Replay, total

BEGUN = "tracker.claim.begun"
REJECTED = "tracker.claim.rejected"
UNTRACKED = "tracker.claim.untracked"
FINISHED = "tracker.claim.finished"
RENEWED = "tracker.claim.renewed"
ABORTED = "tracker.claim.aborted"
EXPIRED = "tracker.claim.expired"
UPDATED = "tracker.usage.updated"
ADOPTED = "tracker.usage.adopted"
RELEASED = "tracker.usage.released"
NODE_UPDATED = "tracker.node.updated"
NODE_DRIFT = "tracker.node.drift"
TAKING = ("open", "stale")
"""The states in which a node decides on claims."""


# Event type -> the states of a claim before it; what is not here keeps the state.
_FROM = {
    FINISHED: ("begun",),
    RENEWED: ("begun",),
    EXPIRED: ("begun",),
    ABORTED: ("begun", "expired"),
}
_TO = {FINISHED: "finished", EXPIRED: "expired"}


def start(reserved: Vector) -> Replay:
    """The state before the first notification of a node with this reserve."""
    result = Replay()
    _note(result, 0, reserved)
    return result


def apply(place: Place, result: Replay, one: Heard, reserved: Vector) -> list[str]:
    """Add one notification to ``result``; return its contradictions to those before it."""
    violations = [*_apply(place, result, one)]
    if one.event_type == NODE_UPDATED:
        result.bare = one.payload["vcpus"] is None
        result.offered = one.payload["resources"]
    _note(result, one.sequence, reserved)
    if one.event_type == NODE_UPDATED and one.payload["id"] == 0:
        result.state = ""  # no node has the name; a new history is told
    elif one.event_type == NODE_UPDATED:
        result.state = one.payload["state"]
        violations += _view(place, one, result.usage[one.sequence])
    elif one.event_type == NODE_DRIFT and one.payload["kind"] == "usage":
        violations.append(
            f"Node {_at(place, one)} reports drift: its columns said {one.payload['stored_usage']}, "
            f"its allocations {one.payload['usage']}."
        )
    elif one.event_type in (BEGUN, REJECTED, *move_events.DECIDED) and result.state not in TAKING:
        violations.append(f"Node {_at(place, one)} says {one.event_type} while it is {result.state}.")
    return violations


def compare(place: Place, replayed: Replay, books: StoredNode) -> Iterator[str]:
    """The store holds the sum of the notifications, and its usage columns are the sum of its allocations."""
    name = f"Node {place[0]}/{place[1]}"
    for told, kept, uuid in _pairs(replayed, books):
        if told is None:
            yield f"{name} is charged for instance {uuid}, of which the notifications know nothing."
        elif kept is None:
            yield f"{name} is not charged for instance {uuid}, which the notifications say it holds."
        elif told != kept:
            yield f"{name} holds instance {uuid} as {kept}, the notifications say {told}."
    usage = total(books.reserved, *(held.resources for held in (*books.held.values(), *books.moving.values())))
    if dict(books.usage) != usage:
        yield f"{name} has usage columns {dict(books.usage)}; reserve and allocations come to {usage}."


def _pairs(
    replayed: Replay, books: StoredNode
) -> Iterator[tuple[StoredAllocation | None, StoredAllocation | None, str]]:
    """What the notifications say and what the store has of each charge, and its name."""
    for uuid in sorted(replayed.held.keys() | books.held.keys()):
        yield replayed.held.get(uuid), books.held.get(uuid), uuid
    for uuid, role in sorted(replayed.moving.keys() | books.moving.keys()):
        yield replayed.moving.get((uuid, role)), books.moving.get((uuid, role)), f"{uuid} ({role})"


def _note(result: Replay, sequence: int, reserved: Vector) -> None:
    result.charges[sequence] = dict(result.charged)
    result.usage[sequence] = total({} if result.bare else reserved, result.charged)
    result.offers[sequence] = result.offered
    result.instances[sequence] = len(result.held)
    result.others[sequence] = len(result.moving)


def _apply(place: Place, result: Replay, one: Heard) -> Iterator[str]:
    kind, payload = one.event_type, one.payload
    if kind in (NODE_UPDATED, NODE_DRIFT, periods.CLOSED):
        return
    if kind == periods.EXISTS:
        yield from _exists(place, result, one)
        return
    if kind in (REJECTED, UNTRACKED):
        yield from _says(place, one, None)
        return
    if kind.startswith(move_events.PREFIX):
        yield from move_events.apply(_at(place, one), result, one)
        return
    uuid, resources = str(payload["instance_id"]), payload["resources"]
    before = result.held.get(uuid)
    if kind in (BEGUN, ADOPTED):
        if before is not None:
            yield f"Node {_at(place, one)} charges instance {uuid}, which is charged already."
        state = "begun" if kind == BEGUN else "finished"
        begun = StoredAllocation(claim_id=payload["claim_id"], resources=resources, claim_state=state)
        result.put(uuid, begun)
        yield from _says(place, one, begun)
        return
    if before is None:
        yield f"Node {_at(place, one)} says {kind} of instance {uuid}, which is not charged."
        return
    expected = payload["old_resources"] if kind == UPDATED else resources
    if before.resources != expected:
        yield f"Node {_at(place, one)} ({kind}, {uuid}) goes from {expected}; charged are {before.resources}."
    if before.claim_id != payload["claim_id"]:
        yield f"Node {_at(place, one)} says {kind} of claim {payload['claim_id']}; charged is {before.claim_id}."
    if before.claim_state not in _FROM.get(kind, (before.claim_state,)):
        yield f"Node {_at(place, one)} says {kind} of instance {uuid}, whose claim has ended already."
    after = None
    if kind not in (ABORTED, RELEASED) and not (kind == EXPIRED and payload["released"]):
        state = _TO.get(kind, before.claim_state)
        after = StoredAllocation(claim_id=before.claim_id, resources=resources, claim_state=state)
    result.put(uuid, after)
    yield from _says(place, one, after)


def _exists(place: Place, result: Replay, one: Heard) -> Iterator[str]:
    """What is charged now is so whatever the period says; to another project, nothing is."""
    payload = one.payload
    held = result.held.get(str(payload["instance_id"]))
    if payload["role"] == "instance":
        yield from _says(place, one, held)
    elif any(payload["charged"].values()) or payload["role"]:
        yield f"Node {_at(place, one)} says that {payload['charged']} is charged in the role {payload['role']!r}."


def _says(place: Place, one: Heard, held: StoredAllocation | None) -> Iterator[str]:
    """An instance's notification says by itself what is charged after it, and the state of the claim."""
    payload = one.payload
    expected = dict.fromkeys(payload["resources"], 0) if held is None else held.resources
    if payload["charged"] != expected or payload["role"] != ("" if held is None else "instance"):
        yield f"Node {_at(place, one)} says that {payload['charged']} is charged; it is {dict(expected)}."
    if held is not None and payload["claim_state"] != held.claim_state:
        yield f"Node {_at(place, one)} says that the claim is {payload['claim_state']}; it is {held.claim_state}."


def _view(place: Place, one: Heard, usage: Vector) -> Iterator[str]:
    if (shown := used_in(one.payload)) != usage:
        yield f"Node {_at(place, one)} shows usage {shown}; its notifications come to {usage}."


def used_in(view: Mapping[str, Any]) -> Vector:
    """The usage in a node's view. That of a class by itself is without the reserve."""
    classes = {name: each for name, each in view["resources"].items() if name not in CLASSES}
    custom = {name: each["reserved"] + each["used"] for name, each in classes.items()}
    return total({name: view[key] for name, key in CLASSES.items()}, custom)


def _at(place: Place, one: Heard) -> str:
    return f"{place[0]}/{place[1]} sequence {one.sequence}"
