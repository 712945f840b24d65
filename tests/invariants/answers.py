# SPDX-License-Identifier: Apache-2.0
"""Replies agree with the notifications, with the inbox, and with the order of the replies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.invariants.books import Replay, used_in
from tests.invariants.messages import COMMANDS, Message
from tests.invariants.record import ERROR, RESULT, Place
from tests.invariants.stream import Streams


def views(sent: Sequence[Message], told: Streams, replays: Mapping[Place, Replay]) -> Iterator[str]:
    """A node's view shows exactly the state after its sequence number."""
    generations = {place: {one.sequence: one.generation for one in story} for place, story in told.items()}
    for message in sent:
        for view in _views(message):
            place = (view["host"], view["node"])
            sequence, replayed = view["sequence"], replays.get(place)
            what = f"Reply {message.request.unique_id} ({message.request.method}) shows {place[0]}/{place[1]}"
            if replayed is None or sequence not in replayed.usage:
                yield f"{what} at sequence {sequence}, which was never issued."
                continue
            if (sequence in replayed.left or sequence == 0) and view["running_vms"] == 0:
                continue  # a node of which nothing was told yet; perhaps another one that has the name now
            if used_in(view) != replayed.usage[sequence] or view["running_vms"] != replayed.instances[sequence]:
                yield (
                    f"{what} at sequence {sequence} with usage {used_in(view)} of {view['running_vms']} instances; "
                    f"the notifications come to {replayed.usage[sequence]} of {replayed.instances[sequence]}."
                )
            # What nobody is told of, such as a deletion that is remembered, raises the generation and not the sequence.
            last, following = generations[place].get(sequence, 0), generations[place].get(sequence + 1)
            if not last <= view["generation"] <= (view["generation"] if following is None else following):
                yield f"{what} at generation {view['generation']}, which is not that of sequence {sequence}."


def _views(message: Message) -> list[Mapping[str, Any]]:
    request = message.request
    if request.outcome != RESULT or request.method not in ("get_node", "list_nodes", "update_available_resource"):
        return []
    found = request.reply if isinstance(request.reply, list) else [request.reply]
    return [view for view in found if isinstance(view, Mapping) and not view.get("disabled")]


def order(sent: Sequence[Message]) -> Iterator[str]:
    """A request that was sent after another request was answered is not answered from an older state."""
    shown = [
        (message, (view["host"], view["node"]), int(view["generation"]))
        for message in sent
        for view in (*_views(message), *_claim(message))
    ]
    for place in sorted({place for _, place, _ in shown}):
        here = [(message, generation) for message, at, generation in shown if at == place]
        ended = sorted(here, key=lambda pair: pair[0].request.ended_at)
        newest, seen = (None, 0), 0
        for message, generation in sorted(here, key=lambda pair: pair[0].request.sent_at):
            while seen < len(ended) and ended[seen][0].request.ended_at < message.request.sent_at:
                newest = max(newest, (ended[seen][0].request.unique_id, ended[seen][1]), key=lambda pair: pair[1])
                seen += 1
            if generation < newest[1]:
                yield (
                    f"Reply {message.request.unique_id} ({message.request.method}) is of generation {generation} of "
                    f"{place[0]}/{place[1]}, but was asked for after reply {newest[0]} of generation {newest[1]}."
                )


def _claim(message: Message) -> list[Mapping[str, Any]]:
    request = message.request
    if request.outcome != RESULT or request.method not in COMMANDS:
        return []
    return _claims(request.reply)


def _claims(reply: Any) -> list[Mapping[str, Any]]:
    """The claims in a reply. An allocation, which a release answers, has no generation and is none."""
    found = reply if isinstance(reply, list) else [reply]
    return [claim for claim in found if isinstance(claim, Mapping) and "claim_id" in claim and "generation" in claim]


def _place(claim: Mapping[str, Any]) -> tuple[Any, ...]:
    return claim["host"], claim["node"], claim["instance_uuid"], claim["generation"]


def inbox(sent: Sequence[Message], recorded: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    """The inbox holds the reply that the call received, so a copy of the call would receive the same reply."""
    for message in sent:
        request = message.request
        if request.method not in COMMANDS or not request.call or request.unique_id not in recorded:
            continue
        kept = recorded[request.unique_id]
        if request.outcome == RESULT and (kept is None or kept["failure"] or kept["result"] != request.reply):
            yield f"Call {request.unique_id} ({request.method}) was told {request.reply}; recorded is {kept}."
        if request.outcome == ERROR and _failed(kept) != dict(request.facts):
            yield f"Call {request.unique_id} ({request.method}) was told {request.error}; recorded is {kept}."


def unrecorded(
    sent: Sequence[Message], told: Streams, recorded: Mapping[str, Mapping[str, Any] | None]
) -> Iterator[str]:
    """A call that has changed something is in the inbox, so that no copy of it changes anything again."""
    changes = {
        (*place, one.payload["instance_id"], one.generation)
        for place, story in told.items()
        for one in story
        if "instance_id" in one.payload
    }
    # A repetition that changed nothing is recorded with a later commit, and the worker may lose its record. The
    # repetition's reply is the claim as another request began it, and that request is recorded.
    begun = {_place(claim) for kept in recorded.values() if kept is not None for claim in _claims(kept["result"])}
    cast = {
        message.instance
        for message in sent
        if not message.request.call
        and message.request.method == "begin_resource_claim"
        and message.request.unique_id in recorded
    }
    for message in sent:
        request = message.request
        if request.outcome != RESULT or request.method not in COMMANDS or request.unique_id in recorded:
            continue
        changed = any(
            _place(claim) in changes - begun and claim["instance_uuid"] not in cast for claim in _claim(message)
        )
        if changed or (isinstance(request.reply, Mapping) and request.reply.get("changed")):
            yield f"Call {request.unique_id} ({request.method}) has had its effect and is not recorded in the inbox."


def _failed(kept: Mapping[str, Any] | None) -> Any:
    failure = kept["failure"] if kept is not None else None
    return json.loads(failure)["kwargs"] if failure else None
