# SPDX-License-Identifier: Apache-2.0
"""Notifications of the event types that have a schema and that no worker publishes yet.

They match their schemas, and are published as a worker publishes its own. An event type of which the story of the documents has
a notification comes from the worker: then nothing here stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tests.billing.scene import EMPTY, HOST
from tests.support import doc_story, raw
from tests.support.builders import NOW
from tracker_worker.ids import uuid7
from tracker_worker.notifications import schema
from tracker_worker.notifications.dialects.dialect import Dialect
from tracker_worker.notifications.notification import INFO, Notification

_BEGIN, _MIDDLE, _END = "2026-01-15T12:00:00Z", "2026-01-15T12:20:00Z", "2026-01-15T13:00:00Z"
_PERIOD = {"audit_period_beginning": _BEGIN, "audit_period_ending": _END}
_EARLIER = {"audit_period_beginning": "2026-01-15T11:00:00Z", "audit_period_ending": _BEGIN}
_OF_UPDATES = ("old_resources", "old_tenant_id", "old_user_id", "over_capacity")


def publish(connection: raw.RawConnection, topics: Mapping[str, Dialect]) -> list[dict[str, Any]]:
    """Publish the notifications that lack to every topic, in its dialect, and return them, decoded."""
    lacking = schema.event_types() - doc_story.samples().keys()
    notifications = [one for one in _notifications() if one.event_type in lacking]
    for notification in notifications:
        for topic, dialect in topics.items():
            for body in dialect.bodies(notification):
                connection.publish(f"{topic}.{INFO.lower()}", body, content_type=dialect.content_type)
    return [raw.unpacked(notification.encode()) for notification in notifications]


def _notifications() -> Iterator[Notification]:
    described = doc_story.samples()["tracker.usage.updated"]["payload"]
    for sequence, (event_type, payload) in enumerate([
        ("tracker.usage.exists", _exists(described, [(_BEGIN, _MIDDLE, 1200, 2), (_MIDDLE, _END, 2400, 4)])),
        ("tracker.usage.exists", _exists({**described, "instance_id": "moved"}, [(_BEGIN, _MIDDLE, 1200, 1)], 60)),
        ("tracker.usage.exists", _exists({**described, "instance_id": "left"}, [], -60)),
        ("tracker.period.closed", _closed(described, described["node"], 3)),
        ("tracker.period.closed", _closed(described, EMPTY, 0)),
    ], 1):  # fmt: skip
        payload = {**payload, "host": HOST, "sequence": sequence, "generation": sequence}
        schema.validator(event_type)(payload)
        yield Notification(
            stream_id=1,
            host=HOST,
            node=payload["node"],
            sequence=sequence,
            event_type=event_type,
            priority=INFO,
            payload=msgspec.json.encode(payload),
            occurred_at=NOW,
            message_id=uuid7(NOW, sequence),
        )


def _exists(described: dict[str, Any], segments: list[tuple[str, str, int, int]], adjusted: int = 0) -> dict[str, Any]:
    """An instance with a number of VCPU in each segment (from, to, seconds, VCPU), and so many seconds too much before."""
    sizes = [_sizes(vcpu) for _, _, _, vcpu in segments]
    amounts = [(seconds, size) for (_, _, seconds, _), size in zip(segments, sizes, strict=True)]
    corrections = [(adjusted, _sizes(1))] if adjusted else []
    return {
        **{key: value for key, value in described.items() if key not in _OF_UPDATES},
        "old_state": "",
        "old_task_state": "",
        **_PERIOD,
        "seconds": sum(seconds for seconds, _ in [*amounts, *corrections]),
        "resource_seconds": _summed([*amounts, *corrections]),
        "segments": [
            {"from": begin, "to": end, "seconds": seconds, "resources": size, "state": "active", "claim_state": "finished"}
            for (begin, end, seconds, _), size in zip(segments, sizes, strict=True)
        ],
        "adjustments": [
            {**_EARLIER, "seconds": seconds, "resource_seconds": _summed([(seconds, size)])}
            for seconds, size in corrections
        ],
        "part": 1,
        "parts": 1,
    }  # fmt: skip


def _closed(described: dict[str, Any], node: str, exists: int) -> dict[str, Any]:
    seconds = 4800 if exists else 0
    return {
        **{name: described[name] for name in ("ledger_id", "region", "occurred_at")},
        "node": node,
        **_PERIOD,
        "exists": exists,
        "first_sequence": 1 if exists else 0,
        "last_sequence": exists,
        "seconds": seconds,
        "resource_seconds": _summed([(seconds, _sizes(1))]),
    }


def _sizes(vcpu: int) -> dict[str, int]:
    return {"VCPU": vcpu, "MEMORY_MB": vcpu * 1024, "DISK_GB": vcpu * 10}


def _summed(amounts: list[tuple[int, dict[str, int]]]) -> dict[str, int]:
    return {name: sum(seconds * size[name] for seconds, size in amounts) for name in _sizes(0)}
