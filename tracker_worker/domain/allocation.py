# SPDX-License-Identifier: Apache-2.0
"""What a node is charged for one instance, and the claim it was charged by."""

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
    """``resources`` is the vector exactly as charged, whatever ``instance`` says later.

    ``claim_state`` is begun until the build is finished or assumed to be (expired and kept). Times in microseconds.
    """

    instance: Instance
    resources: Resources
    begun_at: int
    expires_at: int
    limit_source: str
    claim_state: str = BEGUN

    @property
    def uuid(self) -> str:
        """The instance's, which is also the claim_id."""
        return self.instance.uuid
