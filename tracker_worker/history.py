# SPDX-License-Identifier: Apache-2.0
"""What was decided, afterwards: from the outbox, whose rows keep who asked, and from the refusals that made no event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from tracker_worker.domain import events
from tracker_worker.domain.fit import Shortfall
from tracker_worker.domain.views import iso
from tracker_worker.errors import ComputeResourcesUnavailable
from tracker_worker.notifications.asked import Asked, decode_asked
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import RefusalRow, Store

OUTCOMES = (
    "begun",
    "refused",
    "conflict",
    "invalid",
    "not_permitted",
    "finished",
    "aborted",
    "expired",
    "updated",
    "released",
    "parked",
    "moved",
)
_PAGE = 500
# Event type -> outcome. What is not here, the usage of a period and the drift of a node, is no decision about a request.
_OUTCOMES = {
    "tracker.claim.begun": "begun",
    "tracker.claim.untracked": "begun",
    "tracker.claim.finished": "finished",
    "tracker.claim.renewed": "updated",
    "tracker.claim.aborted": "aborted",
    "tracker.claim.expired": "expired",
    "tracker.claim.rejected": "refused",
    "tracker.move.begun": "moved",
    "tracker.move.finished": "moved",
    "tracker.move.confirmed": "moved",
    "tracker.move.reverted": "moved",
    "tracker.move.aborted": "moved",
    "tracker.move.failed": "moved",
    "tracker.move.expired": "expired",
    "tracker.move.rejected": "refused",
    "tracker.usage.updated": "updated",
    "tracker.usage.adopted": "begun",
    "tracker.usage.released": "released",
    "tracker.node.updated": "updated",
}
EVENT_TYPES = frozenset(_OUTCOMES)
"""The types of the notifications that the history shows."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision. ``at`` in microseconds; ``outcome`` is one of OUTCOMES, ``code`` that of the error, if it was one.
    ``figures``: class -> amount that the instance asked for or has; ``shortfalls``: what it lacked. ``reason``: the error's
    text, or an operator's words. ``sequence``: the number of its notification; None: it made none."""

    at: int
    host: str
    outcome: str
    node: str = ""
    instance_uuid: str = ""
    code: str = ""
    figures: Mapping[str, int] = {}
    shortfalls: tuple[Shortfall, ...] = ()
    reason: str = ""
    asked: Asked
    sequence: int | None = None

    def view(self) -> dict[str, Any]:
        """The entry as JSON types, as the command ``history`` shows it."""
        return {
            "at": iso(self.at),
            "host": self.host,
            "node": self.node,
            "instance_uuid": self.instance_uuid,
            "method": self.asked.method,
            "outcome": self.outcome,
            "code": self.code,
            "figures": dict(self.figures),
            "shortfalls": [shortfall.to_dict() for shortfall in self.shortfalls],
            "reason": self.reason,
            "who": self.asked.who,
            "worker": self.asked.worker,
            "duration_ms": self.asked.duration_ms,
            "sequence": self.sequence,
        }

    def line(self) -> str:
        """The entry on one line, for a report."""
        lacks = " ".join(f"{each.resource}={each.requested}/{each.used}/{each.limit}" for each in self.shortfalls)
        who = f"project={self.asked.project_id or '-'} user={self.asked.user_id or '-'}"
        parts = (
            iso(self.at),
            self.outcome,
            self.instance_uuid,
            f"{self.host}/{self.node or '-'}",
            self.asked.method,
            who,
        )
        return " ".join(filter(None, (*parts, self.code, lacks or self.reason)))

    def refusal_row(self, id: str) -> RefusalRow:
        """The entry as the store keeps it under ``id``."""
        return RefusalRow(
            id=id, at=self.at, host=self.host, node=self.node, instance_uuid=self.instance_uuid, record=_encode(self)
        )


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def of_event(event: events.Event, *, host: str, node: str, asked: Asked) -> Entry | None:
    """The entry of an event as it happens; None: it is no decision that the history shows."""
    outcome, instance, figures = "", "", {}
    shortfalls: tuple[Shortfall, ...] = ()
    reason = ""
    match event:
        case events.ClaimBegun(allocation=held) | events.UsageAdopted(allocation=held):
            outcome, instance, figures = "begun", held.uuid, held.resources.to_dict()
        case events.ClaimFinished(allocation=held):
            outcome, instance, figures = "finished", held.uuid, held.resources.to_dict()
        case events.ClaimRenewed(allocation=held) | events.UsageUpdated(allocation=held):
            outcome, instance, figures = "updated", held.uuid, held.resources.to_dict()
        case events.ClaimAborted(allocation=held):
            outcome, instance, figures = "aborted", held.uuid, held.resources.to_dict()
        case events.ClaimExpired(allocation=held):
            outcome, instance, figures = "expired", held.uuid, held.resources.to_dict()
        case events.UsageReleased(allocation=held, reason=reason):
            outcome, instance, figures = "released", held.uuid, held.resources.to_dict()
        case events.ClaimRejected(instance=refused, shortfalls=shortfalls):
            outcome, instance, figures = "refused", refused.uuid, refused.resources.to_dict()
        case events.ClaimUntracked(instance=untracked):
            outcome, instance, figures = "begun", untracked.uuid, untracked.resources.to_dict()
        case events.MoveRejected(instance=refused, shortfalls=shortfalls):
            outcome, instance, figures = "refused", refused.uuid, refused.resources.to_dict()
        case events.MoveChanged(move=move, shown=held):
            outcome = _OUTCOMES[f"tracker.move.{move.state}"]
            instance, figures = move.instance_uuid, held.resources.to_dict()
        case events.NodeUpdated(life=life):
            outcome, reason = "updated", life.reason
        case _:
            return None
    return Entry(
        at=event.at,
        host=host,
        node=node,
        instance_uuid=instance,
        outcome=outcome,
        code=_code(shortfalls),
        figures=figures,
        shortfalls=shortfalls,
        reason=reason,
        asked=asked,
    )


def of_notification(notification: Notification) -> Entry:
    """The entry of a row of the outbox, whose event type is one of EVENT_TYPES."""
    payload: dict[str, Any] = msgspec.json.decode(notification.payload)
    shortfalls = msgspec.convert(payload.get("shortfalls", ()), tuple[Shortfall, ...])
    return Entry(
        at=notification.occurred_at,
        host=notification.host,
        node=notification.node,
        instance_uuid=payload.get("instance_id", ""),
        outcome=_OUTCOMES[notification.event_type],
        code=_code(shortfalls),
        # A node has resources too, with more than an amount of each.
        figures=payload.get("resources", {}) if "instance_id" in payload else {},
        shortfalls=shortfalls,
        reason=payload.get("reason") or payload.get("state_reason", ""),
        asked=decode_asked(notification.asked),
        sequence=notification.sequence,
    )


def _code(shortfalls: tuple[Shortfall, ...]) -> str:
    return ComputeResourcesUnavailable.code if shortfalls else ""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are wanted: None stands for all, ``since`` is in microseconds. ``project``: of the instance, or of who
    asked."""

    instance_uuid: str | None = None
    host: str | None = None
    node: str | None = None
    project: str | None = None
    since: int = 0
    limit: int = 500


def read_history(store: Store, wanted: Wanted) -> list[Entry]:
    """The last ``limit`` decisions that are wanted, oldest first: of events as far as the outbox goes back, and of refusals as
    far as the store keeps them. Raises StoreUnavailable."""
    told = islice(_told(store, wanted), wanted.limit)
    refused = islice(_refused(store, wanted), wanted.limit)
    found = sorted((*told, *refused), key=_order)
    return found[-wanted.limit :]


def _order(entry: Entry) -> tuple[int, bool, str, str, int]:
    """Of one batch, whose decisions have one time, the events come first: a refusal most often follows from one of them."""
    return entry.at, entry.sequence is None, entry.host, entry.node, entry.sequence or 0


def _told(store: Store, wanted: Wanted) -> Iterator[Entry]:
    """Newest first."""
    text = wanted.instance_uuid if wanted.instance_uuid is not None else wanted.project
    before = None
    while True:
        page = store.told(
            host=wanted.host,
            node=wanted.node,
            event_types=sorted(EVENT_TYPES),
            since=wanted.since,
            containing=msgspec.json.encode(text) if text else b"",
            before=before,
            limit=_PAGE,
        )
        for notification in page:
            entry = of_notification(notification)
            if _is_wanted(entry, wanted, _owner(notification)):
                yield entry
        if len(page) < _PAGE:
            return
        before = (page[-1].occurred_at, page[-1].stream_id, page[-1].sequence)


def _refused(store: Store, wanted: Wanted) -> Iterator[Entry]:
    """Newest first."""
    for row in store.refusals(
        host=wanted.host, node=wanted.node, instance_uuid=wanted.instance_uuid, since=wanted.since
    ):
        entry = _decode(row.record)
        if _is_wanted(entry, wanted, ""):
            yield entry


def _owner(notification: Notification) -> str:
    return str(msgspec.json.decode(notification.payload).get("tenant_id", ""))


def _is_wanted(entry: Entry, wanted: Wanted, owner: str) -> bool:
    if wanted.instance_uuid is not None and entry.instance_uuid != wanted.instance_uuid:
        return False
    return wanted.project is None or wanted.project in (owner, entry.asked.project_id)
