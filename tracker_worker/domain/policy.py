# SPDX-License-Identifier: Apache-2.0
"""The options that decisions depend on, as values."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_worker.domain.commands import ExpireClaims
from tracker_worker.domain.resources import Resources
from tracker_worker.domain.values import MAX_FIELD_BYTES, SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How claims are decided.

    ``claim_timeout`` in microseconds, for claims that give no timeout. ``capacity_limits``: a resource without a limit is
    limited by the node's capacity. ``release_expired``: an expired claim releases its allocation. ``reserved``: the part of
    each node that is kept for the host itself. ``stale_after``, in microseconds: how long a node takes claims whose driver is
    silent. ``deletion_memory``, in microseconds: how long the deletion of an instance that is not charged stands against its
    claim; 0: it is not remembered. ``owner_required``: a claim must say who is charged. ``max_field_bytes``: the most bytes of
    one field of an instance, as UTF-8 JSON. ``move_memory``, in microseconds: how long a move is known of which nothing is
    charged. ``move_confirm``, in microseconds: after which time a move that is handed over confirms by itself; 0: never.
    """

    claim_timeout: int
    capacity_limits: bool
    release_expired: bool
    reserved: Resources
    stale_after: int = 600 * SECOND
    deletion_memory: int = 600 * SECOND
    owner_required: bool = False
    max_field_bytes: int = MAX_FIELD_BYTES
    move_memory: int = 168 * 3600 * SECOND
    move_confirm: int = 0

    def expire(self, node: str) -> ExpireClaims:
        """The command that ends what is overdue on a node."""
        return ExpireClaims(node=node, release=self.release_expired, confirms_after=self.move_confirm)
