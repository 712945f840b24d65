# SPDX-License-Identifier: Apache-2.0
"""Rows of the outbox: what commands lead to, and one of every event type."""

from __future__ import annotations

import itertools
import json
from typing import Any

from tests.support import doc_story
from tests.support.builders import NOW, planned
from tracker_worker.domain.commands import Command
from tracker_worker.domain.events import UNPUBLISHED
from tracker_worker.domain.host import HostLedger
from tracker_worker.ids import uuid7
from tracker_worker.notifications import schema
from tracker_worker.notifications.notification import INFO, Notification
from tracker_worker.notifications.render import render

_numbers = itertools.count(1)

JANUARY = {"audit_period_beginning": "2026-01-01T00:00:00Z", "audit_period_ending": "2026-02-01T00:00:00Z"}
_SIZE = {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}
SEGMENT = {
    "from": "2026-01-15T12:00:40Z",
    "to": "2026-01-15T12:00:50Z",
    "seconds": 10,
    "resources": _SIZE,
    "state": "active",
    "claim_state": "finished",
}


def rows(host: HostLedger, command: Command, now: int = NOW) -> list[Notification]:
    """Decide and apply ``command``, and return its notifications."""
    made = []
    for ledger, event in planned(host, command, now).events:
        ledger.apply(event)
        if not isinstance(event, UNPUBLISHED):
            made.append(render(event, ledger, message_id=uuid7(event.at, next(_numbers))))
    for ledger in host:
        ledger.committed()
    return made


def row(event_type: str, payload: dict[str, Any], *, priority: str = INFO) -> Notification:
    """A row of this type, whose payload is valid."""
    schema.validator(event_type)(payload)
    return Notification(
        stream_id=1,
        host=payload["host"],
        node=payload["node"],
        sequence=payload.get("sequence", 1),
        event_type=event_type,
        priority=priority,
        payload=json.dumps(payload).encode(),
        occurred_at=NOW,
        message_id=uuid7(NOW, next(_numbers)),
    )


def exists(**changes: Any) -> Notification:
    """What an instance was charged in January, in ten seconds of it."""
    instance = doc_story.samples()["tracker.claim.finished"]["payload"]
    seconds = {"seconds": 10, "resource_seconds": {name: 10 * amount for name, amount in _SIZE.items()}}
    period = {**JANUARY, **seconds, "segments": [SEGMENT], "adjustments": [], "part": 1, "parts": 1}
    return row("tracker.usage.exists", {**instance, **period, **changes})


def closed() -> Notification:
    """The end of January on a node."""
    payload = exists()
    said = json.loads(payload.payload)
    names = schema.load("tracker.period.closed.json")["required"]
    sums = {"exists": 1, "first_sequence": 8, "last_sequence": 8}
    return row("tracker.period.closed", {name: {**said, **sums}[name] for name in names})


def every_type() -> dict[str, Notification]:
    """Event type -> a row of it, as the story of the documents has it."""
    made = {event_type: row(event_type, said["payload"]) for event_type, said in doc_story.samples().items()}
    assert made.keys() == schema.event_types()
    return made
