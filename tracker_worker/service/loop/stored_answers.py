# SPDX-License-Identifier: Apache-2.0
"""Answers that are read from the store, beside the ledgers in memory. Each is an item that is alone in its batch: see
``items.is_alone``."""

from __future__ import annotations

from typing import Any

from tracker_worker.domain import queries
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.closing import sums, within
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.segments import InstanceUsage, segment
from tracker_worker.domain.views import iso, iso_second
from tracker_worker.errors import NodeNotFound
from tracker_worker.notifications.render import Style, present
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.wire.measured import Fitting


class StoredAnswers:
    """Belongs to the engine's thread. Every method raises StoreUnavailable, StoreReplaced and Conflict."""

    def __init__(
        self, *, store: Store, ledgers: Ledgers, calendar: Calendar, style: Style, max_answer_bytes: int
    ) -> None:
        self._store = store
        self._ledgers = ledgers
        self._calendar = calendar
        self._style = style
        self._max_answer_bytes = max_answer_bytes

    def read(self, host: str, action: queries.StoredQuery, now: int) -> Any:
        """The answer of a query about one host at ``now`` (microseconds). Raises NodeNotFound."""
        if isinstance(action, queries.GetNotifications):
            return self._notifications(host, action)
        return self._instances(host, action, now)

    def _notifications(self, host: str, action: queries.GetNotifications) -> Fitting:
        """Raises NodeNotFound: the host has no such stream."""
        page = self._store.stream_page(
            host, action.node, after=action.after, limit=action.limit, max_bytes=self._max_answer_bytes
        )
        self._ledgers.refresh([host])  # after the page: what a store says that has gone back is no answer
        if page is None:
            raise NodeNotFound(host=host, node=action.node)
        return page.told()

    def _instances(self, host: str, action: queries.GetInstances, now: int) -> dict[str, Any]:
        """What was charged before is read after the ledger. A decision of another worker in between is a Conflict: then both
        are read again."""
        self._ledgers.refresh([host])
        ledger = self._ledgers.get(host).any_node(action.node)
        behind = sorted(uuid for uuid in ledger.allocations if uuid > (action.after or ""))
        page = behind[: action.limit]
        # What is being told comes with its exists.
        beginning = ledger.periods.ending or ledger.periods.following(self._calendar)[0]
        found = self._store.usage(ledger.id, page, beginning=beginning, ending=ledger.time(now)) if page else []
        self._ledgers.refresh([host])
        if _version(self._ledgers.get(host).nodes.get(ledger.name)) != _version(ledger):
            raise Conflict(f"node {ledger.name} of host {host} has changed")
        return {
            "ledger_id": ledger.ledger_id,
            "sequence": ledger.sequence,
            "audit_period_beginning": iso_second(beginning) if ledger.periods.until else "",
            "instances": [self._instance(ledger, usage, beginning, now) for usage in found],
            "next": page[-1] if len(behind) > len(page) else None,
        }

    def _instance(self, ledger: NodeLedger, usage: InstanceUsage, beginning: int, now: int) -> dict[str, Any]:
        at = ledger.time(now)
        held = ledger.allocations[usage.uuid]
        parts = [
            within(each, beginning, at)
            for each in (*usage.segments, segment(held, held.since, at))
            if not each.adjusts and each.allocation.instance.project_id == held.instance.project_id
        ]
        _, total = sums(part for part in parts if part.until > part.since)
        return {
            **present(ledger, held, at, style=self._style),
            "since": iso(held.since),
            "period_resource_seconds": total.to_dict(),
        }


def _version(ledger: NodeLedger | None) -> tuple[str, int, int] | None:
    return None if ledger is None else (ledger.ledger_id, ledger.id, ledger.generation)
