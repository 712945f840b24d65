# SPDX-License-Identifier: Apache-2.0
"""The allocation of one instance on a node, and the claim that charged it."""

from __future__ import annotations

import msgspec

from tracker_worker.domain.instance import Instance
from tracker_worker.domain.resources import Resources

BEGUN = "begun"
FINISHED = "finished"
ABORTED = "aborted"

CALLER = "caller"
CAPACITY = "capacity"
UNLIMITED = "unlimited"


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The resources that a node is charged for one instance.

    ``resources`` is the vector exactly as it was charged, whatever ``instance`` says later. ``claim_state`` is begun until
    the build is finished, or is assumed to be finished because the claim expired and the allocation was kept. Times are in
    microseconds.
    """

    instance: Instance
    resources: Resources
    begun_at: int
    expires_at: int
    limit_source: str
    claim_state: str = BEGUN

    @property
    def uuid(self) -> str:
        """The uuid of the instance, which is also the claim_id."""
        return self.instance.uuid
