# SPDX-License-Identifier: Apache-2.0
"""The dialect of Nova's unversioned notifications, ``compute.instance.*``, for consumers that know only these.

Everything is decided by the row itself: doc/contributor/decisions.md, "What a dialect says of a row, the row says".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid5

import msgspec

from tracker_worker.domain.allocation import EXPIRED, INSTANCE
from tracker_worker.notifications.dialects.dialect import Bodies
from tracker_worker.notifications.notification import INFO, Notification
from tracker_worker.wire.notification import encode_notification

Payload = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Payload).decode


class Equivalent(msgspec.Struct, frozen=True, kw_only=True):
    """What an event of ours is in this dialect: ``compute.instance.<name>`` for each of ``names``, in this order, if the
    payload ``applies`` (None: always). ``rewritten`` makes the payload of these; None: it is that of the event."""

    names: tuple[str, ...]
    applies: Callable[[Payload], bool] | None = None
    rewritten: Callable[[Payload], Payload] | None = None


def _is_kept(payload: Payload) -> bool:
    return not payload["released"]


def _was_assumed_built(payload: Payload) -> bool:
    """Whether the claim had expired and was kept, which was told as create.end. A claim that is finished is never aborted."""
    return payload.get("old_claim_state") == EXPIRED


def _is_here(payload: Payload) -> bool:
    """Whether the instance is on this node after the step of its move: of the two sides, one tells the step."""
    return bool(payload["role"] == INSTANCE)


def _existed(payload: Payload) -> bool:
    """Whether the instance was charged in this period; otherwise only earlier ones are corrected."""
    return bool(payload["segments"])


def _with_stock_period(payload: Payload) -> Payload:
    """The bounds of the period as Nova writes them: ``YYYY-MM-DD HH:MM:SS``, UTC."""
    bounds = ("audit_period_beginning", "audit_period_ending")
    return {**payload, **{name: payload[name].replace("T", " ").removesuffix("Z") for name in bounds}}


def _at_destination(payload: Payload) -> Payload:
    """The instance as it is: where it has moved to, in its new size. The source, which tells the end of its hold, knows the
    amounts and not the flavor: what is not root disk is taken to be as before."""
    if _is_here(payload):
        return payload
    new = payload["new_resources"] if "new_resources" in payload else payload["resources"]
    other_disk_gb = payload["disk_gb"] - payload["root_gb"]
    return {
        **payload,
        "host": payload["peer_host"],
        "node": payload["peer_node"],
        "vcpus": new["VCPU"],
        "memory_mb": new["MEMORY_MB"],
        "disk_gb": new["DISK_GB"],
        "root_gb": max(0, new["DISK_GB"] - other_disk_gb),
        "resources": new,
        "instance_type": "",
        "instance_flavor_id": "",
    }


_DELETE = ("delete.start", "delete.end")

EQUIVALENTS: Mapping[str, Equivalent] = {
    "tracker.claim.finished": Equivalent(names=("create.end",)),
    "tracker.claim.expired": Equivalent(names=("create.end",), applies=_is_kept),
    "tracker.claim.aborted": Equivalent(names=_DELETE, applies=_was_assumed_built),
    "tracker.usage.adopted": Equivalent(names=("create.end",)),
    "tracker.usage.updated": Equivalent(names=("update",)),
    "tracker.usage.released": Equivalent(names=_DELETE),
    "tracker.usage.exists": Equivalent(names=("exists",), applies=_existed, rewritten=_with_stock_period),
    "tracker.move.finished": Equivalent(names=("finish_resize.end",), applies=_is_here),
    "tracker.move.reverted": Equivalent(names=("resize.revert.end",), applies=_is_here),
    "tracker.move.confirmed": Equivalent(names=("resize.confirm.end",), rewritten=_at_destination),
}
"""By event type. What is not here has no equivalent."""


def write(notification: Notification) -> Bodies:
    """The messages of a row; see ``Dialect``. The ids follow from that of the row and the position of the message."""
    equivalent = EQUIVALENTS.get(notification.event_type)
    if equivalent is None:
        return ()
    payload = notification.payload
    if equivalent.applies is not None or equivalent.rewritten is not None:
        said = _decode(payload)
        if equivalent.applies is not None and not equivalent.applies(said):
            return ()
        if equivalent.rewritten is not None:
            payload = _encode(equivalent.rewritten(said))
    row_id = UUID(notification.message_id)
    return tuple(
        encode_notification(
            message_id=str(uuid5(row_id, f"compute:{index}")),
            publisher_id=f"compute.{notification.host}",
            event_type=f"compute.instance.{name}",
            priority=INFO,
            payload=payload,
            occurred_at=notification.occurred_at,
        )
        for index, name in enumerate(equivalent.names)
    )
