# SPDX-License-Identifier: Apache-2.0
"""No claim expires before its time has passed, whatever the clock of the database says, and its end never comes nearer."""

from __future__ import annotations

import json

from tests.simulation.stage import Stage
from tests.simulation.watch import Violation
from tracker_worker.domain.allocation import BEGUN
from tracker_worker.store.base import Commit

_STEP_SECONDS = 2.1
"""A smaller step of the clock is none."""
_EXPIRED = ("tracker.claim.expired", "tracker.move.expired")


class Expiries:
    """Knows of each claim when its time is up, on a clock that is never stepped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._due: dict[str, float] = {}
        self._until: dict[str, int] = {}  # by the id of the allocation
        self._steps = 0
        self._unknown = False

    def stepped(self) -> None:
        """The clock of the database was stepped."""
        self._steps += 1

    def started(self) -> None:
        """A worker has started, which knows of no step before."""
        self._unknown = self._unknown or self._steps > 0

    def went_back(self) -> None:
        """The database is as it was before."""
        self._due.clear()
        self._until.clear()

    def committed(self, commit: Commit) -> None:
        """The store has taken a commit. Raises Violation."""
        now, time = self._stage.now, self._stage.microseconds()
        for one in commit.notifications:
            if one.event_type in _EXPIRED:
                claim_id = json.loads(one.payload)["claim_id"]
                early = self._due.get(claim_id, 0.0) - now
                if early > _STEP_SECONDS * (1 + self._steps) and not self._unknown:
                    raise Violation(f"the claim {claim_id} has expired {early:.1f} s before its time was up")
        for ledger in commit.ledgers:
            for allocation in ledger.touched.values():
                if allocation is not None and allocation.claim_state == BEGUN:
                    if allocation.expires_at < self._until.get(allocation.id, 0):
                        raise Violation(f"the end of the claim {allocation.claim_id} has come nearer")
                    self._until[allocation.id] = allocation.expires_at
                    due = now + (allocation.expires_at - time) / 1_000_000
                    # A worker that has not noticed a step yet has begun it by another clock.
                    lasts = (allocation.expires_at - allocation.begun_at) / 1_000_000
                    self._due.setdefault(allocation.claim_id, min(due, now + lasts))
                    self._due[allocation.claim_id] = min(self._due[allocation.claim_id], due)
