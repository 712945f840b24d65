# SPDX-License-Identifier: Apache-2.0
"""Rendering: an event of the ledger -> its notification with event type, priority and payload.

The payload is flat; numbers are numbers, and a text that is not known is ''. The payload is checked against its published
schema before it is stored, because a value of a wrong type can crash a consumer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import msgspec

from tracker_worker.domain import events
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.fit import OverCapacity
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.move import Move
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.resources import ZERO, Resources
from tracker_worker.domain.stats import TOTALS, VM_STATE
from tracker_worker.domain.views import iso, iso_second, node_view, segment_view
from tracker_worker.notifications.notification import INFO, WARN, Notification
from tracker_worker.notifications.schema import check

_TEXTS = ("display_name", "instance_type", "instance_flavor_id", "availability_zone")
_SAME = (
    "memory_mb",
    "root_gb",
    "ephemeral_gb",
    "swap",
    "vcpus",
    "created_at",
    "launched_at",
    "deleted_at",
    "terminated_at",
)
_texts: Callable[[Instance], tuple[str | None, ...]] = attrgetter(*_TEXTS)
_same: Callable[[Instance], tuple[Any, ...]] = attrgetter(*_SAME)
# A name has at most 270 characters, each of at most six bytes in JSON.
_LONGEST_COUNTER_BYTES = 1700
_MOST_STATS_BYTES = 65536
_MOST_LISTED_BYTES = 262144
_encode = msgspec.json.Encoder().encode


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """What every notification of this installation has in common. ``region`` is in every payload; the event types of
    ``warn_events`` have the priority WARN, all others INFO."""

    region: str = ""
    warn_events: frozenset[str] = frozenset()


PLAIN = Style()


def render(
    event: events.Event, ledger: NodeLedger, *, message_id: str, asked: bytes = b"{}", style: Style = PLAIN
) -> Notification:
    """The notification of ``event``, which ``ledger`` has just applied. The notification carries the ledger's sequence;
    ``asked`` is who asked for it (see ``Notification``).

    Raises InvalidPayload: the payload does not match its schema.
    """
    event_type, payload = _describe(event, ledger)
    payload.update(occurred_at=iso(event.at), ledger_id=ledger.ledger_id, region=style.region)
    check(event_type, payload)
    return Notification(
        stream_id=ledger.stream_id,
        host=ledger.host,
        node=ledger.name,
        sequence=ledger.sequence,
        event_type=event_type,
        priority=WARN if event_type in style.warn_events else INFO,
        payload=_encode(payload),
        occurred_at=event.at,
        message_id=message_id,
        asked=asked,
    )


def present(ledger: NodeLedger, held: Allocation, at: int, *, style: Style = PLAIN) -> dict[str, Any]:
    """What an event at ``at`` (microseconds) would say of an allocation that is charged now."""
    payload = _charged(ledger, held)
    payload.update(occurred_at=iso(at), ledger_id=ledger.ledger_id, region=style.region)
    return payload


def _describe(event: events.Event, ledger: NodeLedger) -> tuple[str, dict[str, Any]]:
    match event:
        case events.ClaimBegun(allocation=held):
            return "tracker.claim.begun", _charged(ledger, held)
        case events.ClaimFinished(allocation=held):
            return "tracker.claim.finished", _charged(ledger, held)
        case events.ClaimRenewed(allocation=held):
            return "tracker.claim.renewed", _charged(ledger, held)
        case events.ClaimAborted(before=before, allocation=held):
            return "tracker.claim.aborted", {**_ended(ledger, held), "old_claim_state": before.claim_state}
        case events.ClaimExpired(allocation=held, released=released):
            described = _ended(ledger, held) if released else _charged(ledger, held)
            return "tracker.claim.expired", {**described, "released": released}
        case events.ClaimRejected(instance=instance, limit_source=limit_source):
            shortfalls = [shortfall.to_dict() for shortfall in event.shortfalls]
            return "tracker.claim.rejected", {**_refused(ledger, instance, limit_source), "shortfalls": shortfalls}
        case events.ClaimUntracked(instance=instance):
            return "tracker.claim.untracked", _refused(ledger, instance, "")
        case events.MoveRejected(move=move, instance=instance):
            shortfalls = [shortfall.to_dict() for shortfall in event.shortfalls]
            refused = _refused(ledger, instance, move.limit_source)
            moved = _move(ledger, move, refused["resources"], "")
            return "tracker.move.rejected", {**refused, **moved, "shortfalls": shortfalls}
        case events.MoveChanged(move=move, shown=held, role=role, effective_at=effective_at):
            more = {} if event.released is None else {"released": event.released}
            payload = _held(ledger, held)
            moved = _move(ledger, move, payload["resources"], iso(effective_at) if effective_at else "")
            return f"tracker.move.{move.state}", {**payload, **moved, "role": role, **more}
        case events.UsageUpdated(before=before, allocation=held):
            return "tracker.usage.updated", {**_charged(ledger, held), **_old(before), **_grown(event)}
        case events.UsageAdopted(allocation=held):
            return "tracker.usage.adopted", {**_charged(ledger, held), "over_capacity": _over(event.over_capacity)}
        case events.UsageReleased(before=before, allocation=held):
            why = {"released_by": event.released_by, "reason": event.reason}
            return "tracker.usage.released", {**_ended(ledger, held), **_old(before), **why}
        case events.UsageExists():
            return "tracker.usage.exists", _exists(ledger, event)
        case events.PeriodClosed(periods=periods):
            return "tracker.period.closed", _closed(ledger, periods)
        case events.NodeUpdated(more=more):
            return "tracker.node.updated", {**_node(ledger), **more}
        case events.UsageDrift(stored=stored, usage=usage):
            drift = {"kind": "usage", "stored_usage": stored.to_dict(), "usage": usage.to_dict()}
            return "tracker.node.drift", {**_node(ledger), **drift}
        case events.InstancesDrift(comparison=comparison):
            return "tracker.node.drift", {**_node(ledger), "kind": "instances", **_compared(comparison)}
        case _:
            raise AssertionError(f"{type(event).__name__} is not published")


def _exists(ledger: NodeLedger, event: events.UsageExists) -> dict[str, Any]:
    present = ledger.allocations.get(event.shown.uuid)
    goes_on = present is not None and present.instance.project_id == event.shown.instance.project_id
    return {
        **(_charged if goes_on else _ended)(ledger, event.shown),
        **_period(event.beginning, event.ending),
        "seconds": event.seconds,
        "resource_seconds": event.resource_seconds,
        "segments": [segment_view(segment) for segment in event.segments],
        "adjustments": [
            {
                **_period(each.beginning, each.ending),
                "seconds": each.seconds,
                "resource_seconds": each.resource_seconds,
            }
            for each in event.adjustments
        ],
        "part": event.part,
        "parts": event.parts,
    }


def _closed(ledger: NodeLedger, periods: Periods) -> dict[str, Any]:
    return {
        "host": ledger.host,
        "node": ledger.name,
        "sequence": ledger.sequence,
        "generation": ledger.generation,
        **_period(periods.until, periods.ending),
        "exists": periods.exists,
        "first_sequence": periods.first_sequence,
        "last_sequence": periods.last_sequence,
        "seconds": periods.seconds,
        "resource_seconds": periods.resource_seconds or _nothing(ZERO.to_dict()),
    }


def _period(beginning: int, ending: int) -> dict[str, str]:
    return {"audit_period_beginning": iso_second(beginning), "audit_period_ending": iso_second(ending)}


def _node(ledger: NodeLedger) -> dict[str, Any]:
    """The node view. There can be a counter for each instance: if they are too many, only those of a fixed number are kept."""
    view = node_view(ledger)
    stats = view["stats"]
    if len(stats) * _LONGEST_COUNTER_BYTES > _MOST_STATS_BYTES and len(_encode(stats)) > _MOST_STATS_BYTES:
        kept = {name: count for name, count in stats.items() if name in TOTALS or name.startswith(VM_STATE)}
        view.update(stats=kept, stats_omitted=len(stats) - len(kept))
    return view


def _compared(comparison: events.Comparison) -> dict[str, Any]:
    """The lists of uuids, each up to a limit in bytes; ``uuids_omitted`` are left out, if there are more."""
    said: dict[str, Any] = {}
    omitted = 0
    for name, uuids in msgspec.structs.asdict(comparison).items():
        sizes = itertools.accumulate(len(_encode(uuid)) + 1 for uuid in uuids)  # with a comma
        room = sum(1 for _ in itertools.takewhile(_MOST_LISTED_BYTES.__ge__, sizes))
        said[name] = list(uuids[:room])
        omitted += len(uuids) - room
    return {**said, "uuids_omitted": omitted} if omitted else said


def _charged(ledger: NodeLedger, held: Allocation) -> dict[str, Any]:
    """An allocation that is charged after the event."""
    payload = _held(ledger, held)
    payload.update(charged=payload["resources"], role=held.role)
    return payload


def _ended(ledger: NodeLedger, held: Allocation) -> dict[str, Any]:
    """An allocation that the event has ended."""
    payload = _held(ledger, held)
    payload.update(charged=_nothing(payload["resources"]), role="")
    return payload


def _held(ledger: NodeLedger, held: Allocation) -> dict[str, Any]:
    payload = _instance(ledger, held.instance, held.resources)
    payload.update(
        claim_id=held.claim_id,
        claim_state=held.claim_state,
        begun_at=iso(held.begun_at),
        expires_at=iso(held.expires_at),
        limit_source=held.limit_source,
    )
    return payload


def _nothing(resources: Mapping[str, int]) -> dict[str, int]:
    """No charge, in the classes of ``resources``."""
    return dict.fromkeys(resources, 0)


def _move(ledger: NodeLedger, move: Move, resources: Mapping[str, int], effective_at: str) -> dict[str, Any]:
    """What the payload says of a move beside the allocation, whose ``resources`` it shows. The charge and its owner are those
    of the instance here, now: what is incoming for the move may have had another owner when the move began."""
    here, there = (move.to_host, move.to_node), (move.from_host or "", move.from_node or "")
    peer = there if here == (ledger.host, ledger.name) else here
    charged = ledger.allocations.get(move.instance_uuid)
    owner = {} if charged is None else _owner(charged.instance)
    return {
        **owner,
        "move_id": move.id,
        "kind": move.kind,
        "peer_host": peer[0],
        "peer_node": peer[1],
        "old_resources": {} if move.old_resources is None else move.old_resources.to_dict(),
        "new_resources": move.resources.to_dict(),
        "effective_at": effective_at,
        "charged": {**_nothing(resources), **({} if charged is None else charged.resources.to_dict())},
    }


def _refused(ledger: NodeLedger, instance: Instance, limit_source: str) -> dict[str, Any]:
    """An instance that is not charged."""
    payload = _instance(ledger, instance, instance.resources)
    return {
        **payload,
        "claim_id": "",
        "claim_state": "",
        "begun_at": "",
        "expires_at": "",
        "limit_source": limit_source,
        "charged": _nothing(payload["resources"]),
        "role": "",
    }


def _old(before: Allocation) -> dict[str, str]:
    return {"old_state": before.instance.vm_state or "", "old_task_state": before.instance.task_state or ""}


def _grown(event: events.UsageUpdated) -> Mapping[str, Any]:
    owner = _owner(event.before.instance)
    return {
        "old_resources": event.before.resources.to_dict(),
        **{f"old_{name}": value for name, value in owner.items()},
        "over_capacity": _over(event.over_capacity),
    }


def _over(classes: tuple[OverCapacity, ...]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(each) for each in classes]


def _owner(instance: Instance) -> dict[str, str]:
    return {"tenant_id": instance.project_id or "", "user_id": instance.user_id or ""}


def _instance(ledger: NodeLedger, instance: Instance, resources: Resources) -> dict[str, Any]:
    payload: dict[str, Any] = dict(zip(_SAME, _same(instance), strict=True))
    payload.update(zip(_TEXTS, [text or "" for text in _texts(instance)], strict=True))
    payload.update(
        **_owner(instance),
        instance_id=instance.uuid,
        disk_gb=instance.root_gb + instance.ephemeral_gb + instance.swap_gb,
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
