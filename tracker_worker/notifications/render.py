# SPDX-License-Identifier: Apache-2.0
"""Rendering: an event of the ledger -> its notification with event type, priority and payload.

The payload is flat; numbers are numbers, and a text that is not known is ''. This module checks the payload against its
published schema before the payload is stored, because a value of a wrong type can crash a consumer.
"""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import msgspec

from tracker_worker.domain import events
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.resources import Resources
from tracker_worker.domain.stats import TOTALS, VM_STATE
from tracker_worker.domain.views import iso, node_view
from tracker_worker.notifications.notification import INFO, WARN, Notification
from tracker_worker.notifications.schema import InvalidPayload, ValidationError, validator

_TEXTS = ("display_name", "instance_type", "instance_flavor_id", "availability_zone")
_SAME = ("memory_mb", "root_gb", "ephemeral_gb", "vcpus", "created_at", "launched_at", "deleted_at", "terminated_at")

_NAMESPACE = UUID("5c0d1b0e-6f0c-5b52-9f9b-3d6f0f3c7f11").bytes
# A name has at most 270 characters, each of at most six bytes in JSON.
_LONGEST_COUNTER_BYTES = 1700
_MOST_STATS_BYTES = 65536
_encode = msgspec.json.Encoder().encode


def render(event: events.Event, ledger: NodeLedger) -> Notification:
    """The notification of ``event``, which ``ledger`` has just applied. The notification carries the ledger's sequence.

    Raises InvalidPayload: the payload does not match its schema.
    """
    event_type, priority, payload = _describe(event, ledger)
    payload["occurred_at"] = iso(event.at)
    try:
        validator(event_type)(payload)
    except ValidationError as error:
        raise InvalidPayload(f"{event_type}: {error.message}") from error
    return Notification(
        node_id=ledger.id,
        host=ledger.host,
        node=ledger.name,
        sequence=ledger.sequence,
        event_type=event_type,
        priority=priority,
        payload=_encode(payload),
        occurred_at=event.at,
        message_id=message_id(ledger.host, ledger.name, ledger.sequence),
    )


def message_id(host: str, node: str, sequence: int) -> str:
    """The message_id of the notification with this number of this node, as the text of a UUID of version 5.

    It is what ``uuid.uuid5`` returns, made without UUID objects, which cost more than the hash. The version's digit is 5, the
    variant's two bits are 10: RFC 9562, sections 4 and 5.5.
    """
    name = f"{host}\0{node}\0{sequence}".encode()
    digest = hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def _describe(event: events.Event, ledger: NodeLedger) -> tuple[str, str, dict[str, Any]]:
    match event:
        case events.ClaimBegun(allocation=held):
            return "tracker.claim.begun", INFO, _charged(ledger, held)
        case events.ClaimFinished(allocation=held):
            return "tracker.claim.finished", INFO, _charged(ledger, held)
        case events.ClaimAborted(allocation=held):
            return "tracker.claim.aborted", INFO, _charged(ledger, held)
        case events.ClaimExpired(allocation=held, released=released):
            return "tracker.claim.expired", INFO, {**_charged(ledger, held), "released": released}
        case events.ClaimRejected():
            return "tracker.claim.rejected", WARN, _rejected(event, ledger)
        case events.UsageUpdated(before=before, allocation=held):
            changed = {**_charged(ledger, held), **_old(before), "old_resources": before.resources.to_dict()}
            return "tracker.usage.updated", INFO, changed
        case events.UsageReleased(before=before, allocation=held):
            return "tracker.usage.released", INFO, {**_charged(ledger, held), **_old(before)}
        case events.NodeUpdated():
            return "tracker.node.updated", INFO, _node(ledger)
        case events.NodeDrift(stored=stored, usage=usage):
            drift = {"stored_usage": stored.to_dict(), "usage": usage.to_dict()}
            return "tracker.node.drift", WARN, {**_node(ledger), **drift}


def _node(ledger: NodeLedger) -> dict[str, Any]:
    """The node view. There can be a counter for each instance: if they are too many, only those of a fixed number are kept."""
    view = node_view(ledger)
    stats = view["stats"]
    if len(stats) * _LONGEST_COUNTER_BYTES > _MOST_STATS_BYTES and len(_encode(stats)) > _MOST_STATS_BYTES:
        kept = {name: count for name, count in stats.items() if name in TOTALS or name.startswith(VM_STATE)}
        view.update(stats=kept, stats_omitted=len(stats) - len(kept))
    return view


def _charged(ledger: NodeLedger, held: Allocation) -> dict[str, Any]:
    return {
        **_instance(ledger, held.instance, held.resources),
        "begun_at": iso(held.begun_at),
        "expires_at": iso(held.expires_at),
        "limit_source": held.limit_source,
    }


def _rejected(event: events.ClaimRejected, ledger: NodeLedger) -> dict[str, Any]:
    return {
        **_instance(ledger, event.instance, event.instance.resources),
        "begun_at": "",
        "expires_at": "",
        "limit_source": event.limit_source,
        "shortfalls": [shortfall.to_dict() for shortfall in event.shortfalls],
    }


def _old(before: Allocation) -> dict[str, str]:
    return {"old_state": before.instance.vm_state or "", "old_task_state": before.instance.task_state or ""}


def _instance(ledger: NodeLedger, instance: Instance, resources: Resources) -> dict[str, Any]:
    payload: dict[str, Any] = {name: getattr(instance, name) for name in _SAME}
    payload.update({name: getattr(instance, name) or "" for name in _TEXTS})
    payload.update(
        tenant_id=instance.project_id or "",
        user_id=instance.user_id or "",
        instance_id=instance.uuid,
        claim_id=instance.uuid,
        disk_gb=instance.root_gb + instance.ephemeral_gb,
        resources=resources.to_dict(),
        host=ledger.host,
        node=ledger.name,
        state=instance.vm_state or "",
        state_description=instance.task_state or "",
        old_state="",
        old_task_state="",
        image_meta=instance.image_meta,
        metadata=instance.metadata,
        sequence=ledger.sequence,
        generation=ledger.generation,
    )
    return payload
