# SPDX-License-Identifier: Apache-2.0
"""The demo's billing: it receives only notifications, and keeps books of them with ``tracker_worker.billing``."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tracker_worker.billing import Books

Place = tuple[str, str]
Totals = dict[str, int]

_LOOK_SECONDS = 0.2


class Charge(NamedTuple):
    """From ``at`` (ISO 8601) on, ``project`` is charged ``amounts``, by resource class, until the next charge."""

    at: str
    project: str
    amounts: Mapping[str, int]


class Charged(NamedTuple):
    """What a project is charged now for one instance on a node (host, node)."""

    project: str
    place: Place
    amounts: Mapping[str, int]


class Billing:
    """Books of what arrives, at least once, on any thread. Every method may be called from any thread.

    ``events`` counts notifications by event type; ``first_at`` and ``last_at`` are when the first and the last one occurred.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._books = Books({})
        self._messages: list[dict[str, Any]] = []
        self._sequences: dict[Place, int] = {}
        self.events: Counter[str] = Counter()
        self.first_at = datetime.max.replace(tzinfo=UTC)
        self.last_at = datetime.min.replace(tzinfo=UTC)

    def receive(self, message: dict[str, Any]) -> None:
        """Hear one notification, given as its decoded message. A copy is left out."""
        with self._changed:
            if self._books.hear(message) == "copy":
                return
            self._messages.append(message)
            self.events[message["event_type"]] += 1
            payload = message["payload"]
            place = payload["host"], payload["node"]
            self._sequences[place] = max(payload["sequence"], self._sequences.get(place, 0))
            at = datetime.fromisoformat(payload["occurred_at"])
            self.first_at, self.last_at = min(self.first_at, at), max(self.last_at, at)
            self._changed.notify_all()

    def wait_for(self, sequences: Mapping[Place, int], seconds: float) -> bool:
        """Wait until the notifications up to ``sequences`` have arrived; False after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self._sequences.get(node, 0) >= last for node, last in sequences.items()), seconds
            )

    def wait_until_closed(self, begin: datetime, end: datetime, seconds: float) -> bool:
        """Wait until every node has closed all of this time; False after ``seconds``."""
        until = time.monotonic() + seconds
        while self.read(lambda books: books.closed(begin, end)):
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def read(self, ask: Callable[[Books], Any]) -> Any:
        """What ``ask`` returns of the books, while nothing arrives."""
        with self._changed:
            return ask(self._books)

    def without(self, first: float, last: float) -> Books:
        """New books that have heard the same messages, but not those between these parts of all (0 to 1)."""
        with self._changed:
            messages = list(self._messages)
        books = Books({})
        books.hear_all(messages[: round(first * len(messages))] + messages[round(last * len(messages)) :])
        return books

    def charged(self) -> list[Charged]:
        """What is charged now, in the second after the last notification."""
        at = self.last_at.replace(microsecond=0) + timedelta(seconds=1)
        usage = self.read(lambda books: books.usage(at, at + timedelta(seconds=1)))
        return [
            Charged(project, (segment["host"], segment["node"]), segment["resources"])
            for project, owed in usage.items()
            for instance in owed["instances"].values()
            for segment in instance["segments"]
        ]


def totals(charged: Iterable[Charged]) -> Totals:
    """The number of instances, and the sum of each of their resource classes."""
    total: Counter[str] = Counter(instances=0, VCPU=0, MEMORY_MB=0, DISK_GB=0)
    for charge in charged:
        total["instances"] += 1
        total.update(charge.amounts)
    return dict(total)


def owed_seconds(charged: Iterable[Sequence[Charge]], until: datetime) -> dict[str, Counter[str]]:
    """What each project owes, as resource class -> amount times whole seconds. Each sequence is what was charged for one
    instance, one charge after the other, and ends at ``until``, which is not before the last one."""
    owed: dict[str, Counter[str]] = defaultdict(Counter)
    for charges in charged:
        times = [*(_second(datetime.fromisoformat(charge.at)) for charge in charges), _second(until)]
        for charge, begin, end in zip(charges, times[:-1], times[1:], strict=True):
            for name, amount in charge.amounts.items():
                owed[charge.project][name] += amount * (end - begin)
    return {project: +sums for project, sums in owed.items() if +sums}


def used_seconds(usage: Mapping[str, Any], uuids: Iterable[str]) -> dict[str, Counter[str]]:
    """What each project owes for these instances, likewise, by ``Books.usage``."""
    owed: dict[str, Counter[str]] = defaultdict(Counter)
    for project, name, amount in _amounts(usage, set(uuids)):
        owed[project][name] += amount
    return {project: +sums for project, sums in owed.items() if +sums}


def _amounts(usage: Mapping[str, Any], uuids: set[str]) -> Iterator[tuple[str, str, int]]:
    for project, owed in usage.items():
        for uuid, instance in owed["instances"].items():
            if uuid in uuids:
                for name, amount in instance["resource_seconds"].items():
                    yield project, name, amount


def _second(at: datetime) -> int:
    return int(at.timestamp())
