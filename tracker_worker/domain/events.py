# SPDX-License-Identifier: Apache-2.0
"""What happened to a node's ledger. Each event is one notification; ``at`` is its time in microseconds."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.fit import Shortfall
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBegun:
    at: int
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRejected:
    """Refused for resources: nothing was charged."""

    at: int
    instance: Instance
    shortfalls: tuple[Shortfall, ...]
    limit_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFinished:
    at: int
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAborted:
    """``allocation`` is what was released."""

    at: int
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimExpired:
    """``allocation`` stays, the instance is assumed to be built, or is what was ``released``."""

    at: int
    allocation: Allocation
    released: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageUpdated:
    """A tracked instance changed its states, its size or a fact that billing reads."""

    at: int
    before: Allocation
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReleased:
    """The instance is gone. ``before`` is what was charged, and exactly that is released; ``allocation`` has the last
    states."""

    at: int
    before: Allocation
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUpdated:
    """The inventory changed; None: the node is disabled now."""

    at: int
    inventory: Inventory | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDrift:
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
