# SPDX-License-Identifier: Apache-2.0
"""The demo's invoice: from closed periods, from events, and once more by a consumer that has lost notifications."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console

from tracker_worker.billing import Books
from tracker_worker.cli.demo.billing import Billing, Place
from tracker_worker.cli.demo.tables import DemoTable
from tracker_worker.client.api import TrackerAPI
from tracker_worker.domain.resources import CLASSES

PERIOD_SECONDS = 2
"""The workers of the demo close periods of this length."""
_CLOSED_SECONDS = 30
_LOST = 0.3, 0.6
"""The part of the notifications that is lost."""
_CONTEXT = {"project_id": "admin", "user_id": "demo"}
_HOUR = 3600
_MOST_SHOWN = 4


class Invoice:
    """What every project owes for all whole periods in which something happened. ``difference``: the sum of what events and
    exists notifications do not say alike, of what a consumer that had lost notifications has wrong, and of nodes that have not
    closed their periods."""

    def __init__(self, console: Console, billing: Billing, api: TrackerAPI) -> None:
        self._console = console
        self._billing = billing
        self._api = api
        self.hours: dict[str, dict[str, float]] = {}
        self.difference = 0

    def show(self) -> None:
        """Print the invoice, lose notifications, catch up, and print it again."""
        begin = _boundary(self._billing.first_at)
        end = _boundary(self._billing.last_at) + timedelta(seconds=PERIOD_SECONDS)
        if not self._billing.wait_until_closed(begin, end, _CLOSED_SECONDS):
            open_nodes = self._billing.read(lambda books: books.closed(begin, end))
            self.difference += len(open_nodes)
            self._console.print(f"[red]Not closed: {', '.join(map('/'.join, open_nodes))}[/red]")
        invoice = self._billing.read(lambda books: self._print(books, begin, end))
        self.hours = {
            project: {name: amount / _HOUR for name, amount in owed["resource_seconds"].items()}
            for project, owed in invoice.items()
        }
        books = self._billing.without(*_LOST)
        lost = books.missing()
        count = sum(last - first + 1 for ranges in lost.values() for first, last in ranges)
        self._console.print(f"A consumer has lost {count} notifications: missing are {_shown(lost)}", highlight=False)
        left = books.catch_up(self._api, _CONTEXT)
        self.difference += len(left) + len(books.missing())
        self._console.print(f"It has caught up from the workers: missing are {_shown(books.missing()) or 'none'}")
        again = self._print(books, begin, end)
        self.difference += again != invoice

    def _print(self, books: Books, begin: datetime, end: datetime) -> Mapping[str, Any]:
        """Print the invoice of the exists notifications, and how it differs from that of the events; return the former."""
        usage = books.usage(begin, end, "exists")
        difference = sum(abs(one.events - one.exists) for one in books.differences(begin, end))
        self.difference += difference
        shown = DemoTable("Invoice: resource-hours", "project", [f"{klass.name} h" for klass in CLASSES])
        for project, owed in sorted(usage.items()):
            sums = owed["resource_seconds"]
            shown.add_row(project, *(f"{sums.get(klass.name, 0) / _HOUR:.4f}" for klass in CLASSES))
        shown.show(self._console)
        said = f"By {_count(usage)} in closed periods and by the events alone: difference {difference}"
        self._console.print(said if difference else f"[green]{said}[/green]", highlight=False)
        return usage


def _boundary(at: datetime) -> datetime:
    """The beginning of the period."""
    return datetime.fromtimestamp(int(at.timestamp()) // PERIOD_SECONDS * PERIOD_SECONDS, at.tzinfo)


def _count(usage: Mapping[str, Any]) -> str:
    return f"{sum(len(owed['instances']) for owed in usage.values())} instances"


def _shown(missing: Mapping[Place, list[Any]]) -> str:
    ranges = [f"{'/'.join(place)} {first}-{last}" for place, some in sorted(missing.items()) for first, last in some]
    more = len(ranges) - _MOST_SHOWN
    return ", ".join(ranges[:_MOST_SHOWN]) + (f" and {more} more ranges" if more > 0 else "")
