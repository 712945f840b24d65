# SPDX-License-Identifier: Apache-2.0
"""Notifications made by hand, with the keys that books read and no others."""

from __future__ import annotations

from typing import Any

from tests.support.builders import uuid

LEDGER = "019bc0de-0000-7000-8000-000000000001"
LATER_LEDGER = "019bc0de-0000-7000-8000-000000000002"
PLACE = ("h1", "a")
SMALL = {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}
LARGE = {"VCPU": 4, "MEMORY_MB": 2048, "DISK_GB": 4}
NOTHING = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
Message = dict[str, Any]


def at(minutes: float) -> str:
    """So many minutes after 2026-01-01T00:00:00Z, with microseconds."""
    microseconds = round(minutes * 60_000_000)
    seconds, rest = divmod(microseconds, 1_000_000)
    hours, seconds = divmod(seconds, 3600)
    days, hours = divmod(hours, 24)
    return f"2026-01-{1 + days:02}T{hours:02}:{seconds // 60:02}:{seconds % 60:02}.{rest:06}Z"


def told(
    sequence: int,
    event_type: str,
    minutes: float,
    *,
    place: tuple[str, str] = PLACE,
    ledger: str = LEDGER,
    generation: int | None = None,
    **payload: Any,
) -> Message:
    """A notification that occurred so many minutes after the year began."""
    return {
        "message_id": f"{ledger[-2:]}-{'-'.join(place)}-{sequence}",
        "event_type": event_type,
        "payload": {
            "host": place[0],
            "node": place[1],
            "sequence": sequence,
            "generation": sequence if generation is None else generation,
            "ledger_id": ledger,
            "occurred_at": at(minutes),
            **payload,
        },
    }


def charged(sequence: int, minutes: float, resources: dict[str, int] | None = None, **fields: Any) -> Message:
    """An update of the first instance: it is charged this; None: its charge has ended. ``event_type`` and the fields of a
    payload may be given, and ``number``: of the instance."""
    event_type = fields.pop("event_type", "tracker.usage.updated")
    payload = {
        "instance_id": uuid(fields.pop("number", 1)),
        "tenant_id": "p",
        "state": "active",
        "claim_state": "finished",
        "charged": NOTHING if resources is None else resources,
        "role": "" if resources is None else "instance",
    }
    return told(sequence, event_type, minutes, **{**payload, **fields})


def moved(sequence: int, minutes: float, effective: float, resources: dict[str, int] | None, **fields: Any) -> Message:
    """The hand-over of the first instance, which happened at another time."""
    fields = {"event_type": "tracker.move.finished", "effective_at": at(effective), **fields}
    return charged(sequence, minutes, resources, **fields)


def node(sequence: int, minutes: float, *, state: str = "open", id: int = 1, **fields: Any) -> Message:
    """A node's state has changed, or its name, or its history."""
    return told(sequence, "tracker.node.updated", minutes, state=state, id=id, **fields)


def exists(sequence: int, minutes: float, begin: float, end: float, *segments: Any, **fields: Any) -> Message:
    """The usage of the first instance in a period; a segment is (from, to, resources), in minutes."""
    adjustments = fields.pop("adjustments", [])
    seconds = 0
    sums = dict(NOTHING)
    for since, until, resources in segments:
        lasted = round((until - since) * 60)
        seconds += lasted
        for name, amount in resources.items():
            sums[name] += amount * lasted
    for each in adjustments:
        seconds += each["seconds"]
        for name, amount in each["resource_seconds"].items():
            sums[name] += amount
    payload = {
        "instance_id": uuid(fields.pop("number", 1)),
        "tenant_id": "p",
        **_period(begin, end),
        "seconds": seconds,
        "resource_seconds": sums,
        "segments": [
            {
                "from": _whole(since),
                "to": _whole(until),
                "resources": resources,
                "state": "active",
                "claim_state": "finished",
            }
            for since, until, resources in segments
        ],
        "adjustments": adjustments,
    }
    return told(sequence, "tracker.usage.exists", minutes, **{**payload, **fields})


def adjustment(begin: float, end: float, seconds: int, resources: dict[str, int]) -> dict[str, Any]:
    sums = {name: amount * seconds for name, amount in resources.items()}
    return {**_period(begin, end), "seconds": seconds, "resource_seconds": sums}


def closed(sequence: int, minutes: float, begin: float, end: float, *told_before: Message, **fields: Any) -> Message:
    """A period is closed; its exists notifications are ``told_before``."""
    sums = dict(NOTHING)
    for each in told_before:
        for name, amount in each["payload"]["resource_seconds"].items():
            sums[name] += amount
    payload = {
        **_period(begin, end),
        "exists": len(told_before),
        "first_sequence": told_before[0]["payload"]["sequence"] if told_before else 0,
        "last_sequence": told_before[-1]["payload"]["sequence"] if told_before else 0,
        "seconds": sum(each["payload"]["seconds"] for each in told_before),
        "resource_seconds": sums,
    }
    return told(sequence, "tracker.period.closed", minutes, **{**payload, **fields})


def _period(begin: float, end: float) -> dict[str, str]:
    return {"audit_period_beginning": _whole(begin), "audit_period_ending": _whole(end)}


def _whole(minutes: float) -> str:
    return at(minutes)[:19] + "Z"
