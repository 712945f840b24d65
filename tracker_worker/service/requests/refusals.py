# SPDX-License-Identifier: Apache-2.0
"""Refusals as the history shows them and as metrics count them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.domain import commands
from tracker_worker.domain.fit import Shortfall
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, InvalidInput, TrackerError
from tracker_worker.history import Entry
from tracker_worker.notifications.asked import Asked
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.service.requests.methods import Action
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.text import printable
from tracker_worker.wire.message import Malformed
from tracker_worker.wire.reply import parks

EXPIRED = "expired"
"""The code of a call whose caller has stopped waiting."""
UNEXPECTED = "unexpected"
"""The code of an error that no request should cause."""
_MOST_NAME_CHARACTERS = 255
_INVALID = (InvalidInput, Malformed, NoSuchMethod, UnsupportedVersion)


class CallExpired(Exception):
    """The caller has stopped waiting before the request was decided."""


def of_refusal(
    error: Exception,
    *,
    at: int,
    host: str = "",
    node: str = "",
    instance_uuid: str = "",
    figures: Mapping[str, int] | None = None,
    asked: Asked,
    parked: bool = False,
) -> Entry:
    """The entry of a request that ended with ``error`` and made no event; ``parked``: it was a cast, which is a dead letter
    now. The text of an unexpected error is in the log only: it may hold anything."""
    facts = error.kwargs if isinstance(error, TrackerError) else {}
    shortfalls = facts.get("shortfalls", ()) if isinstance(error, ComputeResourcesUnavailable) else ()
    is_known = isinstance(error, TrackerError | Malformed | NoSuchMethod | UnsupportedVersion)
    return Entry(
        at=at,
        host=host,
        node=node or _fact(facts, "node"),
        instance_uuid=instance_uuid or _fact(facts, "instance_uuid"),
        outcome="parked" if parked else outcome_of(error),
        code=code_of(error),
        figures=figures or {},
        shortfalls=msgspec.convert(shortfalls, tuple[Shortfall, ...]),
        reason=printable(str(error)) if is_known else type(error).__name__,
        asked=asked,
    )


def _fact(facts: Mapping[str, Any], name: str) -> str:
    """A fact of an error that is a name, or ''."""
    value = facts.get(name)
    return printable(value, _MOST_NAME_CHARACTERS) if isinstance(value, str) else ""


def of_request(request: PendingRequest, error: Exception, *, at: int, now: float) -> Entry:
    """The entry of a request that ended with ``error`` at ``at`` (microseconds), which is ``now`` on the monotonic clock."""
    asked = request.asked
    if asked.duration_ms is None:
        asked.duration_ms = round((now - request.received_at) * 1000, 1)
    operation, source = request.operation, request.delivery.source
    host = "" if source in (SHARED, FANOUT) else source
    if operation is not None and len(operation.hosts) == 1:
        host = operation.hosts[0]
    action = None if operation is None else operation.action
    node = getattr(action, "node", None)
    instance_uuid, figures = _about(action)
    return of_refusal(
        error,
        at=at,
        host=host,
        node=node if isinstance(node, str) else "",
        instance_uuid=instance_uuid or request.instance_uuid,
        figures=figures,
        asked=asked,
        parked=is_parked(request, error),
    )


def is_parked(request: PendingRequest, error: Exception) -> bool:
    """Whether the request, which ended with ``error``, is a dead letter now."""
    return request.reply_to is None and parks(error) and not request.dropped


def _about(action: Action | None) -> tuple[str, Mapping[str, int]]:
    """The instance that a request is about, or '', and the amounts that it asks for."""
    match action:
        case commands.BeginClaim(instance=instance) | commands.BeginMove(begin=commands.BeginClaim(instance=instance)):
            return instance.uuid, instance.resources.to_dict()
        case commands.UpdateUsage(uuid=uuid) | commands.ReleaseAllocation(uuid=uuid):
            return uuid, {}
        case _:
            return "", {}


def outcome_of(error: Exception) -> str:
    """The outcome of a call that ends with ``error``."""
    if isinstance(error, ClaimConflict):
        return "conflict"
    if isinstance(error, _INVALID):
        return "invalid"
    is_permission = isinstance(error, TrackerError) and error.code == "not_permitted"
    return "not_permitted" if is_permission else "refused"


def code_of(error: Exception) -> str:
    """The code of an error: it is one of a fixed number."""
    if isinstance(error, TrackerError):
        return error.code
    if isinstance(error, CallExpired):
        return EXPIRED
    return "invalid_input" if isinstance(error, _INVALID) else UNEXPECTED
