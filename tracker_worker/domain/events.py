# SPDX-License-Identifier: Apache-2.0
"""The events of a node's ledger. Each event becomes one notification; ``at`` is the time of the event in microseconds."""

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
    """A claim was refused because resources were insufficient. Nothing was charged."""

    at: int
    instance: Instance
    shortfalls: tuple[Shortfall, ...]
    limit_source: str


class ClaimFinished(msgspec.Struct, frozen=True, kw_only=True):
    at: int
    allocation: Allocation


class ClaimAborted(msgspec.Struct, frozen=True, kw_only=True):
    """A claim was aborted. ``allocation`` was released."""

    at: int
    allocation: Allocation


class ClaimExpired(msgspec.Struct, frozen=True, kw_only=True):
    """A claim expired. ``allocation`` was ``released``, or it stays and the instance is assumed to be built."""

    at: int
    allocation: Allocation
    released: bool


class UsageUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked instance changed its states, its size or a fact that billing reads."""

    at: int
    before: Allocation
    allocation: Allocation


class UsageReleased(msgspec.Struct, frozen=True, kw_only=True):
    """An instance released its resources. ``before`` is the allocation that was charged, and exactly its resources are
    released; ``allocation`` has the instance's last states."""

    at: int
    before: Allocation
    allocation: Allocation


class NodeUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """The inventory of a node changed. None means that the node is disabled now."""

    at: int
    inventory: Inventory | None


class NodeDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The stored usage of a node differs from the sum over its allocations. The ledger uses the sum."""

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
