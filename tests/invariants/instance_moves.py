# SPDX-License-Identifier: Apache-2.0
"""Instances that move: both sides of a move say the same, and every answer agrees with what the notifications say.

What each node says of a move is added up by ``move_events``. An order of requests is not searched for these instances.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.invariants import books, move_events
from tests.invariants.asked import shortfalls, vector
from tests.invariants.messages import MOVES, Message, canonical
from tests.invariants.move_events import FINISHED, HOLD, HOLDING, INCOMING, PREFIX, REVERTED
from tests.invariants.moves import Move
from tests.invariants.record import ERROR, RESULT, SENT, Heard, Place
from tests.invariants.replay import Replay
from tests.invariants.stream import Streams
from tests.support.bill import Bill, micros

_NEVER_REFUSED = ("finish_move", "confirm_move", "revert_move")
_MOVES_ON = (FINISHED, books.BEGUN, books.RELEASED)
_CAUSES = {
    "begun": ("begin_move_claim",),
    "rejected": ("begin_move_claim",),
    "finished": ("finish_move", "confirm_move", "revert_move"),
    "confirmed": ("confirm_move",),
    "reverted": ("revert_move",),
    "aborted": ("abort_move", "revert_move"),
    "failed": ("fail_move",),
}
"""The methods that have each step taken."""
_GONE = ("deleted", "shelved_offloaded")
_UNTOLD = ("aborted", "confirmed")
"""The ends that a host only notes where it is charged for nothing."""


@dataclass(slots=True)
class _Story:
    """The notifications of one instance, those of each node in their order; ``steps``: those of each move."""

    whole: list[Heard] = field(default_factory=list)
    steps: dict[str, list[Heard]] = field(default_factory=lambda: defaultdict(list))


def travellers(sent: Sequence[Message], told: Streams) -> set[str]:
    """The instances of which a move was asked for, or told."""
    found = {message.instance for message in sent if message.request.method in MOVES and message.instance is not None}
    return found | {
        str(one.payload["instance_id"]) for story in told.values() for one in story if "move_id" in one.payload
    }


def check(
    sent: Sequence[Message], told: Streams, replays: Mapping[Place, Replay], moves: Sequence[Move]
) -> Iterator[str]:
    """Yield the violations, one sentence each. ``moves`` are those of nodes."""
    stories: dict[str, _Story] = defaultdict(_Story)
    known = travellers(sent, told)
    for story in told.values():
        for one in story:
            if (uuid := one.payload.get("instance_id")) in known:
                stories[uuid].whole.append(one)
                if "move_id" in one.payload:
                    stories[uuid].steps[one.payload["move_id"]].append(one)
    carried = {uuid for move in moves for uuid in (*move.charges.held, *(uuid for uuid, _ in move.charges.moving))}
    moved_hosts = {host for move in moves for host in (move.source[0], move.target[0])}
    # What one side was told may be lost with the database, while the other side is told it.
    went_back = any("previous_ledger_id" in one.payload for story in told.values() for one in story)
    for uuid, one_story in sorted(stories.items()) if not went_back else ():
        for move_id, steps in one_story.steps.items():
            yield from _one_time(uuid, move_id, steps)
        if uuid not in carried and all(map(_both_told, one_story.steps.values())):
            yield from _bill(uuid, one_story.whole)
    steps_of = {move_id: steps for story in stories.values() for move_id, steps in story.steps.items()}
    yield from _answers(sent, stories, steps_of, replays)
    yield from _effects(sent, steps_of, moved_hosts)
    yield from _causes(sent, stories)


def _one_time(uuid: str, move_id: str, steps: Sequence[Heard]) -> Iterator[str]:
    """Both sides tell one time for the hand-over, and for its revert, and none that has not come yet."""
    for kind in (FINISHED, REVERTED):
        told = [one.payload for one in steps if one.event_type == kind]
        times = {payload["effective_at"] for payload in told}
        for payload in told:
            if micros(payload["effective_at"]) > micros(payload["occurred_at"]):
                at = f"{payload['effective_at']}, after the event, at {payload['occurred_at']}"
                yield f"{kind} of instance {uuid} by the move {move_id} counts from {at}."
        if len(times) > 1:
            yield f"{kind} of instance {uuid} by the move {move_id} is told at different times: {', '.join(sorted(times))}."


def _both_told(steps: Sequence[Heard]) -> bool:
    """Whether both sides of a move were told of its hand-over, while both had what they handed over."""
    for kind in (FINISHED, REVERTED):
        told = [one for one in steps if one.event_type == kind]
        inside = any((one.payload["peer_host"], one.payload["peer_node"]) == one.place for one in told)
        sides = {one.payload["role"] == "instance" for one in told}
        nothing = any(not one.payload["claim_id"] for one in told)
        if told and (nothing or not (inside or len(sides) == 2)):
            return False
    return True


def _bill(uuid: str, story: Sequence[Heard]) -> Iterator[str]:
    """What is billed follows one another without overlap, and without a gap where it is handed over. A revert gives nothing
    back where nothing was handed over, because the claim at the source had expired."""
    bill = Bill()
    for one in story:
        bill.add(one.event_type, one.payload)
    intervals = bill.intervals().get(uuid, [])
    finished = {
        one.payload["move_id"]: micros(one.payload["effective_at"]) for one in story if one.event_type == FINISHED
    }
    left = {one.end for one in intervals}
    handed_over = {
        micros(one.payload["effective_at"])
        for one in story
        if one.event_type == FINISHED or (one.event_type == REVERTED and finished.get(one.payload["move_id"]) in left)
    }
    for before, after in itertools.pairwise(intervals):
        if before.end is None or before.end > after.begin:
            yield f"Instance {uuid} is billed twice at a time: {before}, and {after}."
        elif before.end < after.begin and before.end in handed_over:
            yield f"Instance {uuid} is billed to nobody between {before} and {after}."


def _answers(
    sent: Sequence[Message],
    stories: Mapping[str, _Story],
    steps_of: Mapping[str, Sequence[Heard]],
    replays: Mapping[Place, Replay],
) -> Iterator[str]:
    """A move that is answered is what was told, and never one of an older state than was answered before."""
    shown = []
    for message in sent:
        request = message.request
        if request.method == "begin_move_claim":
            yield from _begin(message, steps_of, replays)
        if request.method in MOVES and request.outcome == RESULT:
            shown.append(message)
            yield from _answer(message, request.reply, steps_of.get(request.reply["id"], ()))
        if request.method in _NEVER_REFUSED and request.error == "claim_conflict":
            steps = steps_of.get(canonical(request.args["move_id"]), ())
            yield from _refusal(message, steps, stories[message.instance].whole if message.instance in stories else ())
    ended = sorted(shown, key=lambda message: message.request.ended_at)
    latest: dict[tuple[str, str], Message] = {}
    seen = 0
    for message in sorted(shown, key=lambda message: message.request.sent_at):
        while seen < len(ended) and ended[seen].request.ended_at < message.request.sent_at:
            one = ended[seen]
            latest[_move_of(one)] = max(latest.get(_move_of(one), one), one, key=_progress)
            seen += 1
        newest = latest.get(_move_of(message), message)
        if _progress(message) < _progress(newest):
            state, newer = message.request.reply["state"], newest.request.reply["state"]
            yield f"{message} was told that the move is {state}, after {newest} was told that it is {newer}."


def _move_of(message: Message) -> tuple[str, str]:
    return message.request.about or "", message.request.reply["id"]


def _progress(message: Message) -> int:
    """How far the answered move has got."""
    reply = message.request.reply
    return bool(reply["finished_at"]) + 2 * bool(reply["ended_at"])


def _answer(message: Message, reply: Mapping[str, Any], steps: Sequence[Heard]) -> Iterator[str]:
    state = reply["state"]
    told = {one.event_type.removeprefix(PREFIX) for one in steps}
    if state not in told and state not in _UNTOLD:
        yield f"{message} was told that the move {reply['id']} is {state}, which no notification says."
    for name, kind in (("finished_at", FINISHED), ("ended_at", REVERTED)):
        times = {one.payload["effective_at"] for one in steps if one.event_type == kind}
        if (name == "finished_at" or state == "reverted") and reply[name] and reply[name] not in times:
            yield f"{message} was told {name} {reply[name]}; of the move {reply['id']} is told {sorted(times)}."
    done = {
        "finish_move": bool(reply["finished_at"] or reply["ended_at"]),
        "fail_move": state == "failed" or bool(reply["ended_at"]),
        "begin_move_claim": True,
    }
    if not done.get(message.request.method, bool(reply["ended_at"])):
        yield f"{message} was told that the move {reply['id']} is {state}, although it was to take that step."


def _refusal(message: Message, steps: Sequence[Heard], story: Sequence[Heard]) -> Iterator[str]:
    """A source takes every step, and so does a destination that has the instance still: a revert asks neither for room nor for
    a node that takes claims."""
    destinations = {one.place[0] for one in steps if one.event_type == move_events.BEGUN}
    held_nothing = message.request.method == "revert_move" and not any(one.payload["kind"] in HOLDING for one in steps)
    story = sorted(story, key=lambda one: str(one.payload["occurred_at"]))
    handed_over = next((index for index, one in enumerate(story) if one.event_type == FINISHED and one in steps), 0)
    moved_on = any(one.event_type in _MOVES_ON and one not in steps for one in story[handed_over:])
    if steps and not held_nothing and not (message.request.about in destinations and moved_on):
        yield f"{message} was refused, although nothing else has happened to the instance: {message.request.facts}."


def _begin(message: Message, steps_of: Mapping[str, Sequence[Heard]], replays: Mapping[Place, Replay]) -> Iterator[str]:
    """A move is granted or refused by its limits on what the destination uses. An id is that of one begin and its copies."""
    request = message.request
    try:
        asked, move_id = vector(request.args["instance"]), canonical(request.args["move"]["id"])
    except (KeyError, TypeError):
        return
    steps = steps_of.get(move_id, ())
    if request.outcome == RESULT and dict(request.reply["resources"]) != asked:
        yield f"{message} has asked for {asked}, and was told {request.reply['resources']}."
    for one in steps:
        if one.event_type in move_events.DECIDED and one.place in replays:
            used = replays[one.place].usage.get(one.sequence - 1, {})
            offers = replays[one.place].offers.get(one.sequence - 1, {})
            lacks = shortfalls(asked, used, request.args.get("limits"), offers)
            if lacks != one.payload.get("shortfalls", []):
                yield f"{message} was decided by {one.event_type} against its limits: {lacks} are lacking."
    rejected = [one.payload["shortfalls"] for one in steps if one.event_type == move_events.REJECTED]
    refused = request.outcome == ERROR and request.error == "insufficient_resources"
    if refused and request.facts["shortfalls"] not in rejected:
        yield f"{message} was refused for {request.facts['shortfalls']}, which no notification says."


def _effects(
    sent: Sequence[Message],
    steps_of: Mapping[str, Sequence[Heard]],
    moved_hosts: set[str],
) -> Iterator[str]:
    """What an end was sent for, and is not parked or refused, is charged no more; a hand-over that was sent is told."""
    for message in sent:
        request = message.request
        host = request.about or ""
        if request.outcome not in (RESULT, SENT) or message.parked or not message.definite or host in moved_hosts:
            continue
        steps = steps_of.get(canonical(str(request.args.get("move_id", ""))), ())
        here = {one.place: one for one in steps if one.place[0] == host}  # the last one of each node
        if request.method in ("confirm_move", "revert_move", "abort_move"):
            for place, one in here.items():
                if one.payload["role"] in (INCOMING, HOLD):
                    role = one.payload["role"]
                    yield f"{message} has ended the move, and {place[0]}/{place[1]} is charged for what is {role}."
        elif request.method == "finish_move" and any(one.event_type == move_events.BEGUN for one in here.values()):
            yield f"{message} has had no effect and is not in the dead-letter queue."


def _causes(sent: Sequence[Message], stories: Mapping[str, _Story]) -> Iterator[str]:
    """Each step was asked for; the source of an evacuation finds out by itself. What moves ends with its instance, and what is
    on hold is confirmed where the instance moves on."""
    asked: dict[str, set[str]] = defaultdict(set)
    gone: set[str | None] = set()
    for message in sent:
        args, method = message.request.args, message.request.method
        if method in MOVES:
            named = args["move"].get("id") if method == "begin_move_claim" else args.get("move_id")
            asked[canonical(str(named))].add(method)
        elif method == "release_allocation" or (args.get("instance") or {}).get("vm_state") in _GONE:
            gone.add(message.instance)
    for uuid, story in stories.items():
        for move_id, steps in story.steps.items():
            for one in steps:
                step = one.event_type.removeprefix(PREFIX)
                ends = step in _UNTOLD and (uuid in gone or len(story.steps) > 1)
                found_out = step == "finished" and one.payload["kind"] == "evacuation"
                if step in _CAUSES and not asked[move_id].intersection(_CAUSES[step]) and not ends and not found_out:
                    yield f"{step} of instance {uuid} by the move {move_id} is the effect of no request."
