# SPDX-License-Identifier: Apache-2.0
"""Groups of claims are granted as a whole; nodes take no claims only while an operator says so; listings and pages of instances
are the ledger, and notifications that are asked for are those that were published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.invariants.books import BEGUN, NODE_UPDATED, Replay, total
from tests.invariants.messages import Message, canonical
from tests.invariants.record import ERROR, RESULT, Heard, Place
from tests.invariants.stream import Streams


def groups(sent: Sequence[Message], told: Streams) -> Iterator[str]:
    """Of the claims of a group, all or none have begun, and those of a node in one commit. They are known by their ids
    and instances, and repetitions of a group name the same ones: each may begin again once it has ended."""
    begun: dict[tuple[str, str], list[Heard]] = defaultdict(list)
    for story in told.values():
        for one in story:
            if one.event_type == BEGUN:
                begun[one.payload["claim_id"], one.payload["instance_id"]].append(one)
    for message in sent:
        if message.request.method != "begin_resource_claims":
            continue
        ids = [
            (canonical(entry["claim_id"]), canonical(entry["instance"]["uuid"]))
            for entry in message.request.args["claims"]
            if "claim_id" in entry
        ]
        times = {key: len(begun.get(key, ())) for key in ids}
        if any(times.values()) and not all(times.values()):
            yield (
                f"Of the {len(ids)} claims of the group {message.request.unique_id}, "
                f"{sum(map(bool, times.values()))} have begun: {list(times.values())} times."
            )
        found = [one for key in ids for one in begun.get(key, ())]
        for place in {one.place for one in found}:
            here = [one for one in found if one.place == place]
            if len({one.generation for one in here}) > max(times.values()):
                yield f"The claims of the group {message.request.unique_id} on {place[0]}/{place[1]} are several commits."


def drains(sent: Sequence[Message], told: Streams) -> Iterator[str]:
    """An operator's drain is told, and claims are refused for it only from its command to the end of the undrain.

    Each drain has a reason of its own.
    """
    reasons = {
        one.payload["state_reason"]
        for story in told.values()
        for one in story
        if one.event_type == NODE_UPDATED and one.payload["state"] == "draining"
    }
    drained = {one.request.args["reason"]: one.request for one in sent if one.request.method == "node drain"}
    undrained = {one.request.args["reason"]: one.request for one in sent if one.request.method == "node undrain"}
    for reason, request in drained.items():
        if request.outcome == RESULT and reason not in reasons:
            yield f"No notification tells of the drain with the reason {reason!r}, which was done."
    for message in sent:
        request = message.request
        if request.outcome != ERROR or request.error != "node_draining":
            continue
        reason = request.facts["reason"]
        drain, undrain = drained.get(reason), undrained.get(reason)
        late = undrain is not None and undrain.outcome == RESULT and undrain.ended_at < request.sent_at
        if reason not in reasons or drain is None or drain.sent_at > request.ended_at or late:
            yield f"{message} was refused because of the drain {reason!r}, which was not in force."


def listings(sent: Sequence[Message], replays: Mapping[Place, Replay]) -> Iterator[str]:
    """A whole listing of a node's allocations comes to its usage at the sequence number that the listing names."""
    for message in sent:
        request = message.request
        if request.method != "list_allocations" or request.outcome != RESULT or request.reply["next"] is not None:
            continue
        ((node, sequence),) = request.reply["sequences"].items()
        replay = replays.get((message.request.about or "", node))
        what = f"Listing {request.unique_id} of {message.request.about}/{node} at sequence {sequence}"
        if replay is None or sequence not in replay.usage:
            yield f"{what} is of a number that was never issued."
            continue
        allocations = request.reply["allocations"]
        if sequence in replay.left and not allocations:
            continue  # another node, of which nothing was told yet, has the name now
        charged = total(*(one["resources"] for one in allocations))
        expected = dict(replay.charges[sequence])
        number = replay.instances[sequence] + replay.others[sequence]
        if charged != expected or len(allocations) != number:
            yield (
                f"{what} has {len(allocations)} allocations of {charged}; the notifications come to {number} of {expected}."
            )


def pages(sent: Sequence[Message], replays: Mapping[Place, Replay]) -> Iterator[str]:
    """A page of a node's instances is as of the number that it names. (The pages of a run are whole.)"""
    for message in sent:
        request = message.request
        if request.method != "get_instances" or request.outcome != RESULT:
            continue
        sequence, instances = request.reply["sequence"], request.reply["instances"]
        replay = replays.get((message.request.about or "", request.args["node"]))
        what = f"Page {request.unique_id} of {message.request.about}/{request.args['node']} at sequence {sequence}"
        if replay is None or sequence not in replay.usage:
            yield f"{what} is of a number that was never issued."
            continue
        if sequence in replay.left and not instances:
            continue  # another node, of which nothing was told yet, has the name now
        uuids = [one["instance_id"] for one in instances]
        if uuids != sorted(set(uuids)) or request.reply["next"] is not None:
            yield f"{what} is not whole and in order: {uuids}."
        if len(instances) != replay.instances[sequence]:
            yield f"{what} has {len(instances)} instances; the notifications come to {replay.instances[sequence]}."
        charged = total(*(one["charged"] for one in instances))
        if not replay.others[sequence] and charged != dict(replay.charges[sequence]):
            yield f"{what} is charged {charged}; the notifications come to {dict(replay.charges[sequence])}."
        if any(one["sequence"] != sequence or one["since"] > one["occurred_at"] for one in instances):
            yield f"{what} has an instance of another number, or of a later time."


def fetched(sent: Sequence[Message], told: Streams) -> Iterator[str]:
    """Notifications that were asked for by their numbers are those that consumers have heard, without a gap, and as many as
    there were. (The outbox of a run keeps everything, and no answer is too large.)"""
    for message in sent:
        request = message.request
        if request.method != "get_notifications" or request.outcome != RESULT:
            continue
        node, after, limit = (request.args[name] for name in ("node", "after_sequence", "limit"))
        answer = request.reply
        what = f"The answer {request.unique_id} about {message.request.about}/{node} after {after}"
        heard = {one.sequence: one for one in told.get((message.request.about or "", node), ())}
        numbers = [one["payload"]["sequence"] for one in answer["notifications"]]
        wanted = list(range(after + 1, min(after + limit, answer["last"]) + 1))
        if numbers != wanted or answer["first"] != 1:
            yield f"{what} has {numbers} of {answer['first']} to {answer['last']}, not {wanted}."
        for number, one in zip(numbers, answer["notifications"], strict=True):
            known = heard.get(number)
            if known is None or one != {name: getattr(known, name) for name in one}:
                yield f"{what} has a notification {number} that was published otherwise or never: {one['message_id']}."
