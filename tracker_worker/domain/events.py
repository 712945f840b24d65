# SPDX-License-Identifier: Apache-2.0
"""What happened to a node's ledger. Each event is one notification; ``at`` is its time in microseconds."""

from __future__ import annotations

import msgspec

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.fit import Shortfall
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.resources import Resources


class ClaimBegun(msgspec.Struct, frozen=True, kw_only=True):
    at: int
    allocation: Allocation


class ClaimRejected(msgspec.Struct, frozen=True, kw_only=True):
    """Refused for resources: nothing was charged."""

    at: int
    instance: Instance
    shortfalls: tuple[Shortfall, ...]
    limit_source: str


class ClaimFinished(msgspec.Struct, frozen=True, kw_only=True):
    at: int
    allocation: Allocation


class ClaimAborted(msgspec.Struct, frozen=True, kw_only=True):
    """``allocation`` is what was released."""

    at: int
    allocation: Allocation


class ClaimExpired(msgspec.Struct, frozen=True, kw_only=True):
    """``allocation`` stays, the instance is assumed to be built, or is what was ``released``."""

    at: int
    allocation: Allocation
    released: bool


class UsageUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked instance changed its states, its size or a fact that billing reads."""

    at: int
    before: Allocation
    allocation: Allocation


class UsageReleased(msgspec.Struct, frozen=True, kw_only=True):
    """The instance is gone. ``before`` is what was charged, and exactly that is released; ``allocation`` has the last
    states."""

    at: int
    before: Allocation
    allocation: Allocation


class NodeUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """The inventory changed; None: the node is disabled now."""

    at: int
    inventory: Inventory | None


class NodeDrift(msgspec.Struct, frozen=True, kw_only=True):
    """What was stored as the node's usage differs from the sum over its allocations, which holds."""

    at: int
    stored: Resources
    usage: Resources


Event = (
    ClaimBegun
    | ClaimRejected
    | ClaimFinished
    | ClaimAborted
    | ClaimExpired
    | UsageUpdated
    | UsageReleased
    | NodeUpdated
    | NodeDrift
)
