# SPDX-License-Identifier: Apache-2.0
"""All invariants in one function."""

from __future__ import annotations

from tests.invariants import answers, books, instance_moves, life, moves, periods, stream
from tests.invariants.explain import explain
from tests.invariants.messages import messages
from tests.invariants.record import Evidence


def check(evidence: Evidence) -> list[str]:
    """Return the violations of the promise that nothing is lost and nothing is done twice, one sentence each."""
    told, violations = stream.streams(evidence)
    violations += stream.others(evidence)
    replays, moved, contradictions = moves.replays(told, evidence.nodes)
    violations += contradictions
    for place, replay in replays.items():
        violations += books.compare(place, replay, evidence.nodes[place])
    violations += moves.charged_twice(evidence.nodes)
    # Of a claim_id that was used again after its claim had ended, all instances in turn; and the instances of moves.
    claims: dict[str, list[str]] = {}
    for one in sorted(
        (one for story in told.values() for one in story), key=lambda one: str(one.payload["occurred_at"])
    ):
        for name in filter(None, (one.payload.get("claim_id"), one.payload.get("move_id"))):
            instances = claims.setdefault(name, [])
            if one.payload["instance_id"] not in instances:
                instances.append(one.payload["instance_id"])
    sent, about_copies = messages(evidence.requests, evidence.parked, claims)
    violations += about_copies
    travellers = instance_moves.travellers(sent, told)
    violations += explain(sent, told, replays, moved, besides=travellers)
    violations += instance_moves.check(sent, told, replays, moved)
    violations += answers.views(sent, told, replays)
    violations += answers.order(sent)
    violations += answers.inbox(sent, evidence.inbox)
    violations += answers.unrecorded(sent, told, evidence.inbox)
    violations += life.groups(sent, told)
    violations += life.drains(sent, told)
    violations += life.listings(sent, replays)
    violations += life.pages(sent, replays)
    violations += life.fetched(sent, told)
    violations += periods.check(told)
    return violations


def proved(evidence: Evidence) -> None:
    """Check in a test. Raises AssertionError with every violation."""
    violations = check(evidence)
    assert not violations, f"{len(violations)} violations:\n" + "\n".join(violations)
