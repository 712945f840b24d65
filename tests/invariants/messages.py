# SPDX-License-Identifier: Apache-2.0
"""Requests as messages: copies of one message have one effect and one reply."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import inf
from typing import Any

from tests.invariants.record import ERROR, RESULT, SENT, UNKNOWN, Parked, Request

MOVE_STEPS = ("finish_move", "confirm_move", "revert_move", "abort_move", "fail_move")
MOVES = ("begin_move_claim", *MOVE_STEPS)
COMMANDS = (
    "begin_resource_claim",
    "finish_resource_claim",
    "abort_resource_claim",
    "renew_resource_claim",
    "begin_resource_claims",
    "release_allocation",
    "update_usage",
    "adopt",
    *MOVES,
)
_OF_SEVERAL = ("begin_resource_claims", "adopt")
GROUP_REFUSED = "group_refused"
"""The error of a claim of a group that was refused for another reason than that this claim lacks resources."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was sent once or more. ``request`` has its best known outcome, its first sending and its first end.

    ``instance`` is the uuid of a command's instance, or None. ``others``: more instances that it may be about, because they had
    claims of the same id one after the other. ``definite``: the message is in a queue or settled, so it must
    have had its effect. ``copies``: how often it was sent.
    """

    request: Request
    instance: str | None
    definite: bool
    copies: int
    parked: bool
    others: Sequence[str] = ()

    def precedes(self, other: Message) -> bool:
        """Whether this message must take effect before ``other``: it was answered first, or it was earlier in the same
        queue, and not in the shared one, which several workers read.
        """
        mine, others = self.request, other.request
        if mine.ended_at >= others.sent_at:
            return False
        return mine.outcome in (RESULT, ERROR) or mine.host == others.host is not None

    def __str__(self) -> str:
        request = self.request
        kind = "Call" if request.call else "Cast"
        return f"{kind} {request.unique_id} ({request.method} of instance {self.instance} on {request.about})"


def messages(
    requests: Iterable[Request], parked: Sequence[Parked], claims: Mapping[str, Sequence[str]]
) -> tuple[list[Message], list[str]]:
    """Return every message that was sent, and the violations in its copies or in its place in the dead-letter queue.

    ``claims``: claim_id, or id of a move -> uuid of its instance, and of further ones that had claims of this id later.
    """
    reasons = {one.unique_id: one.reason for one in parked}
    grouped: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        grouped[request.unique_id].append(_settled(request))
    found = list(map(partial(_merge, reasons=reasons, claims=claims), grouped.values()))
    violations = [violation for copies in grouped.values() for violation in _differences(copies)]
    violations += _parked(grouped, reasons)
    return found, violations


def _settled(request: Request) -> Request:
    """Two errors leave the outcome unknown. The store is unavailable: the commit may have reached it. The host is not served by
    this worker: another one may have got a copy from the shared queue."""
    if request.outcome == ERROR and request.error in ("store_unavailable", "host_not_served"):
        return replace(request, outcome=UNKNOWN, error="", facts={})
    return request


def _merge(
    copies: Sequence[Request], *, reasons: Mapping[str | None, str], claims: Mapping[str, Sequence[str]]
) -> Message:
    rank = {RESULT: 0, ERROR: 0, SENT: 1, UNKNOWN: 2}
    best = min(copies, key=lambda copy: rank[copy.outcome])
    known = [copy.ended_at for copy in copies if copy.outcome != UNKNOWN]
    if best.unique_id in reasons and len(copies) > 1:
        known = [inf]  # a cast that was parked had no effect; copies of it are decided afresh, whenever they come
    merged = replace(
        best,
        sent_at=min(copy.sent_at for copy in copies),
        ended_at=min(known) if known else max(copy.ended_at for copy in copies),
    )
    found = _instances(best, claims)
    one = found[0] if found else None
    return Message(merged, one, bool(known), len(copies), merged.unique_id in reasons, others=found[1:])


def _instances(request: Request, claims: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The uuid of a command's instance. In the place of a claim_id, its instance may be named; a step names its move. Groups
    and adoptions have no single one. Of an id that several claims had, the instance is that in the reply, or any of them."""
    if request.method not in COMMANDS or request.method in _OF_SEVERAL:
        return ()
    if isinstance(request.reply, Mapping) and "instance_uuid" in request.reply:
        return (request.reply["instance_uuid"],)
    args = request.args
    if request.method == "release_allocation":
        named = args.get("instance_uuid")
    elif request.method in MOVE_STEPS:
        named = (args.get("move") or {}).get("instance_uuid", args.get("move_id"))
    else:
        named = (args.get("instance") or {}).get("uuid") if "instance" in args else args.get("claim_id")
    return claims.get(canonical(named), (canonical(named),)) if isinstance(named, str) else ()


@lru_cache(maxsize=65536)
def canonical(name: str) -> str:
    """The name as the worker keeps it: a UUID in any spelling in lower case with hyphens, every other name as it is."""
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return name


def parts(message: Message) -> list[Message]:
    """The message itself; of a group, one message for each of its claims, which are decided in order; of an adoption, one for
    each of its instances, whose reply is what the answer says of the instance.

    A part has the claims of the group before it as ``before``. A claim of a refused group that lacks nothing has the error
    GROUP_REFUSED.
    """
    request = message.request
    if request.method == "adopt":
        return list(_adopted(message)) if request.outcome != ERROR else []
    if request.method != "begin_resource_claims":
        return [message]
    shared = {name: request.args[name] for name in ("timeout", "on_expiry", "host") if name in request.args}
    entries = request.args["claims"]
    found = []
    for index, entry in enumerate(entries):
        named = canonical(entry["instance"]["uuid"])
        part = replace(
            request,
            method="begin_resource_claim",
            args={**entry, **shared, "before": entries[:index]},
            reply=request.reply[index] if request.outcome == RESULT else None,
            **_refusal(request, named),
        )
        found.append(replace(message, request=part, instance=named))
    return found


def _adopted(message: Message) -> Iterator[Message]:
    request = message.request
    reply = request.reply if request.outcome == RESULT else {"adopted": (), "already": (), "refused": ()}
    said = {one["instance_uuid"]: one["code"] for one in reply["refused"]}
    said |= dict.fromkeys(reply["already"], "already") | dict.fromkeys(reply["adopted"], "adopted")
    for instance in request.args["instances"]:
        named = canonical(instance["uuid"])
        part = replace(request, args={**request.args, "instance": instance}, reply=said.get(named))
        yield replace(message, request=part, instance=named)


def _refusal(request: Request, uuid: str) -> dict[str, Any]:
    if request.outcome != ERROR:
        return {}
    lacks = [
        {key: value for key, value in one.items() if key not in ("instance_uuid", "node")}
        for one in request.facts.get("shortfalls", ())
        if one["instance_uuid"] == uuid
    ]
    return {"facts": {"shortfalls": lacks}} if lacks else {"error": GROUP_REFUSED, "facts": {}}


def _differences(copies: Sequence[Request]) -> Iterator[str]:
    told = [copy for copy in copies if copy.outcome in (RESULT, ERROR)]
    for copy in told[1:]:
        if (copy.outcome, copy.reply, copy.error) != (told[0].outcome, told[0].reply, told[0].error):
            yield (
                f"Copies of message {copy.unique_id} were told different things: {_told(told[0])}, and {_told(copy)}."
            )


def _told(request: Request) -> str:
    return f"{request.error} {dict(request.facts)}" if request.outcome == ERROR else f"{request.reply}"


def _parked(grouped: Mapping[str, Sequence[Request]], reasons: Mapping[str | None, str]) -> Iterator[str]:
    for unique_id, reason in reasons.items():
        sent = grouped.get(unique_id or "")
        if sent is None:
            yield f"The dead-letter queue holds message {unique_id} ({reason}), which nobody sent."
        elif sent[0].call:
            yield f"The dead-letter queue holds call {unique_id} ({reason}); calls are answered, never parked."
        elif not reason:
            yield f"The dead-letter queue holds cast {unique_id} without a reason."
