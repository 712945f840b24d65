# SPDX-License-Identifier: Apache-2.0
"""A run in which the database went back: what a consumer keeps of its notifications, as doc/user/notifications.md says, must
give the state that the store holds. Which requests are lost is not known, so that answers are not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tests.invariants import books, moves, stream
from tests.invariants.record import Evidence, Heard, Place


def check(evidence: Evidence) -> list[str]:
    """Return the violations in the transmission and in the sum of what has not been taken back, one sentence each."""
    kept, violations = survivors(evidence.heard)
    others: dict[str, Sequence[Heard]] = {}
    for topic, arrived in evidence.others.items():
        others[topic], more = survivors(arrived)
        violations += (f"{topic}: {violation}" for violation in more)
    left = replace(evidence, heard=kept, others=others)
    told, more = stream.streams(left)
    violations += more
    violations += stream.others(left)
    replays, _, contradictions = moves.replays(told, left.nodes)
    violations += contradictions
    for place, replay in replays.items():
        violations += books.compare(place, replay, left.nodes[place])
    violations += moves.charged_twice(left.nodes)
    return violations


def survivors(heard: Iterable[Heard], *, present: str | None = None) -> tuple[list[Heard], list[str]]:
    """The notifications that have not been taken back, in order of arrival; and a sentence for each number that a ledger has
    used twice, and for each node whose ledgers are no chain. ``present``: the ledger_id of the last history, where some
    histories are not among its predecessors, so that all of them is taken back; None: there are none."""
    of_place: dict[Place, list[Heard]] = defaultdict(list)
    for one in heard:
        of_place[one.place].append(one)
    kept: list[Heard] = []
    violations: list[str] = []
    for (host, node), story in of_place.items():
        first: dict[tuple[str, int], Heard] = {}
        for one in story:
            ledger_id = one.payload["ledger_id"]
            if first.setdefault((ledger_id, one.sequence), one).message_id != one.message_id:
                violations.append(f"Node {host}/{node} has used {one.sequence} twice in the ledger {ledger_id}.")
        limits = _limits(story, present)
        if limits is None:
            violations.append(f"The ledgers of node {host}/{node} are no chain.")
            continue
        kept += (one for one in story if one.sequence <= limits.get(one.payload["ledger_id"], 0))
    return kept, violations


def _limits(story: Sequence[Heard], present: str | None) -> dict[str, float] | None:
    """ledger_id -> the last number that has not been taken back; None: the ledgers are no chain that ends at ``present``."""
    previous = {
        one.payload["ledger_id"]: (one.payload["previous_ledger_id"], one.payload["previous_sequence"])
        for one in story
        if "previous_ledger_id" in one.payload
    }
    ids = {one.payload["ledger_id"] for one in story}
    ends = ids - {ledger_id for ledger_id, _ in previous.values()}
    if present is not None and present not in ids:
        return {}  # the name was made in what is lost
    if present not in ends if present is not None else len(ends) != 1:
        return None
    limits = {}
    ledger_id, limit = present or next(iter(ends)), float("inf")
    while ledger_id not in limits:
        limits[ledger_id] = limit
        ledger_id, last = previous.get(ledger_id, (ledger_id, limit))
        limit = min(limit, last)
    return limits if present is not None or ids <= limits.keys() else None
