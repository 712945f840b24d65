# SPDX-License-Identifier: Apache-2.0
"""No claim expires before its time has passed, whatever the clock of the database says, and its end never comes nearer. None
expires while its end waits in a queue that a worker has not read yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.simulation.broker import Broker
from tests.simulation.stage import Stage
from tests.simulation.watch import Violation
from tracker_worker.domain.allocation import BEGUN
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Commit

_STEP_SECONDS = 2.1
"""A smaller step of the clock is none."""
_EXPIRED = ("tracker.claim.expired", "tracker.move.expired")
_ENDS = (b"finish_resource_claim", b"abort_resource_claim", b"renew_resource_claim")
_LONG_SECONDS = 600.0
"""A worker that has had a host for this time knows enough."""


class Expiries:
    """Knows of each claim when its time is up, on a clock that is never stepped."""

    def __init__(self, stage: Stage, broker: Broker) -> None:
        self._stage = stage
        self._broker = broker
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

    def committed(self, commit: Commit, worker: Worker | None) -> None:
        """The store has taken a commit of a worker, or of somebody else. Raises Violation."""
        now, time = self._stage.now, self._stage.microseconds()
        for one in commit.notifications:
            if one.event_type in _EXPIRED:
                claim = json.loads(one.payload)
                claim_id = claim["claim_id"]
                if worker is not None and one.event_type == _EXPIRED[0]:
                    self._look_for_its_end(claim, worker)
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

    def _look_for_its_end(self, claim: Mapping[str, Any], worker: Worker) -> None:
        """A worker that starts or takes over a host does not know what waits in its queue, until that was empty once."""
        host, names = claim["host"], (claim["claim_id"].encode(), claim["instance_id"].encode())
        queue, now = self._broker.queue(host), self._stage.now
        since = worker._engine._chores.expiry._since.get(host, now)
        for message in queue.ready if queue is not None and since > now - _LONG_SECONDS else ():
            was_never_read = message.came_at == message.moved_at < since
            in_time = message.came_at < self._due.get(claim["claim_id"], 0.0)
            ends = any(end in message.body for end in _ENDS) and any(name in message.body for name in names)
            if was_never_read and in_time and ends:
                raise Violation(
                    f"the claim {claim['claim_id']} has expired, and its end waits in the queue of {host} since before its "
                    "time was up"
                )
