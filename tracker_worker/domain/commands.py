# SPDX-License-Identifier: Apache-2.0
"""The commands that change a host's ledgers. ``node`` None stands for the host's only node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.fit import Limits
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory


class BeginClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Charge ``instance`` to the node if it fits within ``limits``. ``timeout`` is in microseconds. With
    ``capacity_limits`` a resource without a limit is limited by the node's total."""

    instance: Instance
    limits: Limits
    timeout: int
    node: str | None = None
    capacity_limits: bool = False


class FinishClaim(msgspec.Struct, frozen=True, kw_only=True):
    """End a claim after the build is done; the allocation stays."""

    claim_id: str


class AbortClaim(msgspec.Struct, frozen=True, kw_only=True):
    """End a claim after the build failed, and release its allocation."""

    claim_id: str


class ExpireClaims(msgspec.Struct, frozen=True, kw_only=True):
    """End the claims of a node that are overdue. With ``release`` their allocations are released too."""

    node: str
    release: bool = False


class UpdateUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Change the facts of a tracked instance. ``changes`` holds the checked fields that the caller sent."""

    uuid: str
    changes: Mapping[str, Any]
    node: str | None = None


class ReportInventory(msgspec.Struct, frozen=True, kw_only=True):
    """Replace a node's inventory with the one that its driver reports. None disables the node: the driver reports none."""

    node: str
    inventory: Inventory | None


Command = BeginClaim | FinishClaim | AbortClaim | ExpireClaims | UpdateUsage | ReportInventory
