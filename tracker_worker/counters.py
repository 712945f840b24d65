# SPDX-License-Identifier: Apache-2.0
"""What the worker counts, in one place. The figures have no effect; they are read by tests, logs and metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

NAMES = {
    "conflicts": "commits of this worker that another worker's commit made worthless",
    "locked_decisions": "batches that were decided under the lock of their host",
    "most_lost_races": "the most conflicts in a row that one host's batch has met",
    "outages": "accesses of the engine to a store that was unavailable",
    "histories": "times that the database had gone back, or was in another history, and the worker went on there",
    "halved_batches": "batches that could not be stored as a whole, although the store can write",
    "dropped_deliveries": "deliveries that were dropped undecided because their connection was lost; they come again",
    "audits_dropped": "called audits that were dropped because too many waited",
    "dropped_replies": "replies that were dropped because nobody takes them",
    "dropped_dead_letters": "dead letters that the store's table had no room for",
    "refused_messages": "messages that the broker does not take",
    "consuming_connected": "1 while the consuming connection is open, else 0",
    "publishing_connected": "1 while the publishing connection is open, else 0",
    "consuming_reconnects": "times that the consuming connection was opened again",
    "publishing_reconnects": "times that the publishing connection was opened again",
    "unsettled_bytes": "bytes of the deliveries in the worker that are not settled",
    "publishing_bytes": "bytes of the messages that wait for the broker or for its confirm",
}
"""Every counter, with what it counts."""


class Counters:
    """Whole numbers by the names in NAMES, which start at 0. Any thread may call any method.

    Raises KeyError: the name is not in NAMES.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(NAMES, 0)
        self._sources: list[Callable[[], Mapping[str, int]]] = []

    def watch(self, figures: Callable[[], Mapping[str, int]]) -> None:
        """Ask ``figures`` for the present values of some of the names at each snapshot."""
        with self._lock:
            self._sources.append(figures)

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._values[name] += number

    def raise_to(self, name: str, value: int) -> None:
        """Keep the largest value that was ever given."""
        with self._lock:
            self._values[name] = max(self._values[name], value)

    def snapshot(self) -> dict[str, int]:
        """A copy of all values."""
        with self._lock:
            values, sources = dict(self._values), list(self._sources)
        for figures in sources:
            for name, value in figures().items():
                values[name] += value
        return values
