# SPDX-License-Identifier: Apache-2.0
"""The allocation of one instance on a node, and the claim that charged it."""

from __future__ import annotations

import msgspec

from tracker_worker.domain.instance import Instance
from tracker_worker.domain.resources import Resources

BEGUN = "begun"
FINISHED = "finished"
ABORTED = "aborted"
EXPIRED = "expired"

KEEP = "keep"
RELEASE = "release"

INSTANCE = "instance"
"""The role of the allocation that an instance's project is charged for."""
INCOMING = "incoming"
"""The role of what a move's destination is charged before the hand-over."""
HOLD = "hold"
"""The role of what a move's source is charged after the hand-over, for a revert."""
ROLES = (INSTANCE, INCOMING, HOLD)

CALLER = "caller"
CAPACITY = "capacity"
UNLIMITED = "unlimited"


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The resources that a node is charged for one instance.

    ``id`` is unique in a ledger, ``claim_id`` among the claim_ids and uuids of other allocations of the host; they are the
    same unless the caller chose the claim_id. ``resources`` is the vector exactly as it was charged, whatever ``instance`` says
    later. ``claim_state`` is expired if the claim expired and the allocation was kept. ``on_expiry``: what the caller wants to
    happen then; None: what the option says. ``built``: since the claim began, the instance was reported in a state that only a
    built instance has. ``since``: of the role INSTANCE, from when on it is charged as it is now; what it was before is in
    segments. The ledger sets it. Times are in microseconds.
    """

    id: str
    claim_id: str
    instance: Instance
    resources: Resources
    begun_at: int
    expires_at: int
    limit_source: str
    claim_state: str = BEGUN
    role: str = INSTANCE
    on_expiry: str | None = None
    built: bool = False
    since: int = 0

    @property
    def uuid(self) -> str:
        """The uuid of the instance."""
        return self.instance.uuid

    @property
    def is_assumed_built(self) -> bool:
        """Whether the claim expired and nobody has ever said that the instance was built."""
        return self.claim_state == EXPIRED and not self.built

    def is_billed_like(self, other: Allocation) -> bool:
        """Whether a bill shows no difference between the two."""
        one, two = self.instance, other.instance
        return (
            self.resources == other.resources
            and self.claim_state == other.claim_state
            and one.vm_state == two.vm_state
            and one.project_id == two.project_id
            and one.user_id == two.user_id
        )
