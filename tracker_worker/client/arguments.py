# SPDX-License-Identifier: Apache-2.0
"""The arguments of requests, as JSON types. What an older worker does not know is left out where it is not given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracker_worker.client.types import GroupEntry, InstanceLike, LimitsLike


def given(**args: Any) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in args.items() if value is not None}


def claim_arguments(
    instance: InstanceLike, limits: LimitsLike | None, timeout: float | None, **newer: Any
) -> dict[str, Any]:
    """The arguments of ``begin_resource_claim``; ``newer`` are those that came after version 1.0."""
    return {
        "instance": dict(instance),
        "limits": None if limits is None else dict(limits),
        "timeout": timeout,
        **given(**newer),
    }


def group_arguments(claims: Iterable[GroupEntry], timeout: float | None, on_expiry: str | None) -> dict[str, Any]:
    """The arguments of ``begin_resource_claims``."""
    entries: list[dict[str, Any]] = []
    for claim in claims:
        limits = claim.get("limits")
        entry = given(claim_id=claim.get("claim_id"), limits=None if limits is None else dict(limits))
        entries.append({"instance": dict(claim["instance"]), **entry})
    return {"claims": entries, **given(timeout=timeout, on_expiry=on_expiry)}
