# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a host's ledgers. ``node`` None stands for the host's only node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.fit import Limits
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory


class BeginClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Charge ``instance`` within ``limits``. ``timeout`` in microseconds. With ``capacity_limits`` a resource without a
    limit is limited by the node's total."""

    instance: Instance
    limits: Limits
    timeout: int
    node: str | None = None
    capacity_limits: bool = False


class FinishClaim(msgspec.Struct, frozen=True, kw_only=True):
    """The build is done: the claim ends, the allocation stays."""

    claim_id: str


class AbortClaim(msgspec.Struct, frozen=True, kw_only=True):
    """The build failed: release what the claim was charged."""

    claim_id: str


class ExpireClaims(msgspec.Struct, frozen=True, kw_only=True):
    """End the claims of a node that are past their time; with ``release`` their allocations too."""

    node: str
    release: bool = False


class UpdateUsage(msgspec.Struct, frozen=True, kw_only=True):
    """New facts of a tracked instance: ``changes`` holds the checked fields that the caller sent."""

    uuid: str
    changes: Mapping[str, Any]
    node: str | None = None


class ReportInventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's driver says it has; None: it cannot say, the node is disabled."""

    node: str
    inventory: Inventory | None


Command = BeginClaim | FinishClaim | AbortClaim | ExpireClaims | UpdateUsage | ReportInventory
