# SPDX-License-Identifier: Apache-2.0
"""The notifications of moves, added up for one node: what is incoming, handed over, and held for a revert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.invariants.record import Heard, StoredAllocation
from tests.invariants.replay import Replay

PREFIX = "tracker.move."
BEGUN, REJECTED, FINISHED, REVERTED = (PREFIX + step for step in ("begun", "rejected", "finished", "reverted"))
DECIDED = (BEGUN, REJECTED)
INCOMING, HOLD = "incoming", "hold"
HOLDING = ("resize", "migration")
"""The kinds of moves after whose hand-over the source holds what it was charged."""
_RANKS = {"begun": 0, "expired": 1, "finished": 2, "confirmed": 3, "reverted": 3, "aborted": 3}
_RELEASED = "expired, released"


def apply(here: str, result: Replay, one: Heard) -> Iterator[str]:
    """Add a notification of a move to ``result``; yield its contradictions to those before it. ``here`` names it."""
    step, payload = one.event_type.removeprefix(PREFIX), one.payload
    uuid, claim_id = str(payload["instance_id"]), str(payload["claim_id"])
    if step != "rejected":
        yield from _order(here, result, str(payload["move_id"]), step)
    match step:
        case "begun":
            if (uuid, INCOMING) in result.moving:
                yield f"Node {here} charges instance {uuid} as incoming, which it is already."
            result.put_moving(uuid, INCOMING, _shown(one, INCOMING))
        case "expired":
            yield from _expire(here, result, one)
        case "aborted":
            yield from _end(here, result, one, INCOMING)
        case "finished" if payload["role"] == "instance":
            yield from _end(here, result, one, INCOMING)
            old = result.held.get(uuid)
            if old is not None and payload["kind"] in HOLDING:
                yield from _hold(here, result, uuid, old)
            result.put(uuid, _shown(one, "instance"))
        case "finished" | "reverted" if payload["role"] != "instance":
            yield from _leave(here, result, one, claim_id)
        case "reverted":
            yield from _end(here, result, one, HOLD)
            result.put(uuid, _shown(one, "instance"))
        case "confirmed":
            held = result.moving.get((uuid, HOLD))
            if held is None or (payload["role"] == "" and held.claim_id != claim_id):
                yield f"Node {here} confirms a move of instance {uuid}, which it does not hold."
            result.put_moving(uuid, HOLD, None)
    yield from _says(here, result, one)


def _shown(one: Heard, role: str) -> StoredAllocation:
    payload = one.payload
    return StoredAllocation(
        claim_id=payload["claim_id"], resources=payload["resources"], claim_state=payload["claim_state"], role=role
    )


def _order(here: str, result: Replay, move_id: str, step: str) -> Iterator[str]:
    """The states of a move on a node follow one another, each comes once, and none comes after an end. A failure may come at
    any time before that."""
    known = result.now.moves.get(move_id, ())
    result.now.moves[move_id] = (*known, step)
    last = max((_RANKS[one] for one in known if one in _RANKS), default=-1)
    wrong = last == 3 or _RANKS.get(step, 3) <= last or (step == "failed" and known[-1:] == ("failed",))
    first = last < 0 and step not in ("begun", "finished", "failed")
    unfinished = step in ("confirmed", "reverted") and "finished" not in known
    if wrong or first or unfinished or (step == "aborted" and "finished" in known):
        yield f"Node {here} says {step} of the move {move_id}, which was {', '.join(known) or 'not known'} before."


def _expire(here: str, result: Replay, one: Heard) -> Iterator[str]:
    uuid, move_id = one.payload["instance_id"], one.payload["move_id"]
    held = result.moving.get((uuid, INCOMING))
    if held is not None and held.claim_state != "begun":
        yield f"Node {here} says that a move of instance {uuid} expires, whose time has ended already."
    yield from _end(here, result, one, INCOMING)
    if one.payload["released"]:
        result.now.moves[move_id] = (*result.now.moves[move_id], _RELEASED)
    else:
        result.put_moving(uuid, INCOMING, _shown(one, INCOMING))


def _end(here: str, result: Replay, one: Heard, role: str) -> Iterator[str]:
    """The charge of a role ends, which is that of the event. What was incoming may have been released by time before."""
    payload = one.payload
    uuid, move_id = payload["instance_id"], payload["move_id"]
    held = result.moving.get((uuid, role))
    if held is not None and held.claim_id == payload["claim_id"]:
        if held.resources != payload["resources"]:
            yield f"Node {here} goes from {payload['resources']} of instance {uuid}; charged are {held.resources}."
        result.put_moving(uuid, role, None)
    elif role != INCOMING or _RELEASED not in result.now.moves[move_id]:
        yield f"Node {here} says {one.event_type} of instance {uuid}, which is not {role} there."


def _hold(here: str, result: Replay, uuid: str, old: StoredAllocation) -> Iterator[str]:
    if (uuid, HOLD) in result.moving:
        yield f"Node {here} holds instance {uuid} for a second move."
    result.put_moving(uuid, HOLD, replace(old, role=HOLD, claim_state="finished"))


def _leave(here: str, result: Replay, one: Heard, claim_id: str) -> Iterator[str]:
    """The node is charged for the instance no more, or only holds it. Without a claim, it was not charged before."""
    uuid, role = one.payload["instance_id"], one.payload["role"]
    if claim_id == "":
        return
    held = result.held.get(uuid)
    if held is None or held.claim_id != claim_id:
        yield f"Node {here} says {one.event_type} of instance {uuid}, which is not charged."
        return
    if held.resources != one.payload["resources"]:
        yield f"Node {here} goes from {one.payload['resources']} of {uuid}; charged are {held.resources}."
    if role == HOLD:
        yield from _hold(here, result, uuid, held)
    result.put(uuid, None)


def _says(here: str, result: Replay, one: Heard) -> Iterator[str]:
    """The notification says by itself what is charged after it: in its role, and for the instance."""
    payload, role = one.payload, one.payload["role"]
    uuid = payload["instance_id"]
    held = result.held.get(uuid)
    expected = {**dict.fromkeys(payload["resources"], 0), **({} if held is None else held.resources)}
    if payload["charged"] != expected:
        yield f"Node {here} says that {payload['charged']} is charged; it is {expected}."
    shown = held if role == "instance" else result.moving.get((uuid, role))
    if role and shown != _shown(one, role):
        yield f"Node {here} says that instance {uuid} is {role} as {_shown(one, role)}; it is {shown}."
