# SPDX-License-Identifier: Apache-2.0
"""What must hold of a history in which the database went back to earlier states.

What was committed between the copy and its return never happened, and was told to clients and to billing. Billing learns that
from the notifications; a client does not. What is left is judged like any other history.
"""

from __future__ import annotations

import math
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

    def applied(self, request: Request, recorded: bool) -> Request:
        """What is known of a request after this. ``recorded``: the database has its reply. What was decided in the meantime
        is lost, and a copy of the message, which the broker may still have, is decided anew, at any later time."""
        if request.sent_at > self.put_back_at or (request.call and request.ended_at < self.backed_up_at):
            return request
        if not request.call and recorded:
            return replace(request, ended_at=math.inf)
        return replace(request, outcome=UNKNOWN, ended_at=math.inf, reply=None, error="", facts={})


def judged(evidence: Evidence, set_backs: Sequence[SetBack], *, present: str) -> list[str]:
    """The violations, one sentence each. ``present``: the ledger_id of the last history."""
    kept, violations = histories.survivors(evidence.heard, present=present)
    others: dict[str, Sequence[Heard]] = {}
    for topic, arrived in evidence.others.items():
        others[topic], more = histories.survivors(arrived, present=present)
        violations += more
    requests = []
    for request in evidence.requests:
        for set_back in set_backs:
            request = set_back.applied(request, request.unique_id in evidence.inbox)
        requests.append(request)
    return violations + check(replace(evidence, heard=kept, others=others, requests=requests))
