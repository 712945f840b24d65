# SPDX-License-Identifier: Apache-2.0
"""What must hold of a history in which the database went back to earlier states.

What was committed between the copy and its return never happened, and was told to clients and to billing. Billing learns that
from the notifications; a client does not. What is left is judged like any other history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.invariants import histories
from tests.invariants.check import check
from tests.invariants.record import UNKNOWN, Evidence, Heard, Request


@dataclass(frozen=True, slots=True)
class SetBack:
    """At the time ``put_back_at`` the database became what it had been at ``backed_up_at``."""

    backed_up_at: float
    put_back_at: float

    def voids(self, request: Request, recorded: bool) -> bool:
        """Whether what was told of a request may be lost. ``recorded``: the database knows the request."""
        if request.sent_at > self.put_back_at:
            return False
        return request.ended_at >= self.backed_up_at if request.call else not recorded


def judged(evidence: Evidence, set_backs: Sequence[SetBack], *, present: str) -> list[str]:
    """The violations, one sentence each. ``present``: the ledger_id of the last history."""
    kept, violations = histories.survivors(evidence.heard, present=present)
    others: dict[str, Sequence[Heard]] = {}
    for topic, arrived in evidence.others.items():
        others[topic], more = histories.survivors(arrived, present=present)
        violations += more
    requests = []
    for request in evidence.requests:
        recorded = request.unique_id in evidence.inbox
        if any(each.voids(request, recorded) for each in set_backs):
            request = replace(request, outcome=UNKNOWN, reply=None, error="", facts={})
        requests.append(request)
    return violations + check(replace(evidence, heard=kept, others=others, requests=requests))
