# SPDX-License-Identifier: Apache-2.0
"""Refusals as the history shows them and as metrics count them."""

from __future__ import annotations

import msgspec

from tracker_worker.domain.fit import Shortfall
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, InvalidInput, TrackerError
from tracker_worker.history import Entry
from tracker_worker.notifications.asked import Asked
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.wire.message import Malformed
from tracker_worker.wire.reply import parking_reason

_INVALID = (InvalidInput, Malformed, NoSuchMethod, UnsupportedVersion)


def of_refusal(
    error: Exception, *, at: int, host: str, node: str = "", instance_uuid: str = "", asked: Asked, parked: bool = False
) -> Entry:
    """The entry of a request that ended with ``error`` and made no event; ``parked``: it was a cast, which is a dead letter
    now."""
    shortfalls = error.kwargs.get("shortfalls", ()) if isinstance(error, ComputeResourcesUnavailable) else ()
    code, _, reason = parking_reason(error).partition(": ")
    return Entry(
        at=at,
        host=host,
        node=node,
        instance_uuid=instance_uuid,
        outcome="parked" if parked else outcome_of(error),
        code=code,
        shortfalls=msgspec.convert(shortfalls, tuple[Shortfall, ...]),
        reason=reason,
        asked=asked,
    )


def outcome_of(error: Exception) -> str:
    """The outcome of a call that ends with ``error``."""
    if isinstance(error, ClaimConflict):
        return "conflict"
    if isinstance(error, _INVALID):
        return "invalid"
    is_permission = isinstance(error, TrackerError) and error.code == "not_permitted"
    return "not_permitted" if is_permission else "refused"


def code_of(error: Exception) -> str:
    """The code of an error for metrics: it is one of a fixed number."""
    if isinstance(error, TrackerError):
        return error.code
    return "invalid_input" if outcome_of(error) == "invalid" else "unexpected"
