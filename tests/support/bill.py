# SPDX-License-Identifier: Apache-2.0
"""What a customer owes, added up from notifications alone: the integral over the role instance.

Written from the pages for consumers, and shares no code with the worker. Whatever order notifications of different nodes come
in, the bill is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENDS = ("tracker.claim.aborted", "tracker.usage.released")


@dataclass(frozen=True, slots=True)
class Interval:
    """An instance was charged ``resources`` on ``place`` (host and node) from ``begin`` until ``end`` (microseconds; None: it
    still is)."""

    instance: str
    place: tuple[str, str]
    begin: int
    end: int | None
    resources: tuple[tuple[str, int], ...]


class Bill:
    """Takes the payloads of each node in their order."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, tuple[str, str]], tuple[int, tuple[tuple[str, int], ...]]] = {}
        self._closed: list[Interval] = []

    def add(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """One notification."""
        instance = payload.get("instance_id")
        if instance is None:
            return
        at = micros(payload["occurred_at"])
        key = instance, (payload["host"], payload["node"])
        vector = tuple(sorted(payload["resources"].items()))
        family, _, what = event_type.rpartition(".")
        if family == "tracker.move":
            if what not in ("finished", "reverted"):
                return
            at = micros(payload["effective_at"])
            self._end(key, at)
            if payload["role"] == "instance":
                self._open[key] = at, vector
        elif event_type in _ENDS or (event_type == "tracker.claim.expired" and payload["released"]):
            self._end(key, at)
        elif payload["role"] == "instance":
            known = self._open.get(key)
            if known is None or known[1] != vector:
                self._end(key, at)
                self._open[key] = at, vector

    def _end(self, key: tuple[str, tuple[str, str]], at: int) -> None:
        """The charge ends: what was billed after that is taken back, though never more than there was."""
        known = self._open.pop(key, None)
        if known is not None and at > known[0]:
            self._closed.append(Interval(key[0], key[1], known[0], at, known[1]))
            return
        for index, one in enumerate(self._closed):
            if (one.instance, one.place) == key and one.end is not None and at < one.end:
                self._closed[index] = replace(one, end=max(one.begin, at))

    def intervals(self) -> dict[str, list[Interval]]:
        """Of each instance, in the order of time."""
        found: dict[str, list[Interval]] = defaultdict(list)
        still = [Interval(key[0], key[1], at, None, vector) for key, (at, vector) in self._open.items()]
        for one in [*self._closed, *still]:
            if one.begin != one.end:
                found[one.instance].append(one)
        for each in found.values():
            each.sort(key=lambda one: (one.begin, one.end is None, one.end))
        return dict(found)


def micros(text: str) -> int:
    """A time of a payload as microseconds since the epoch."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def together(intervals: Iterable[Interval]) -> list[str]:
    """The contradictions of the intervals of one instance, which must follow one another without a gap."""
    wrong = []
    before: Interval | None = None
    for one in intervals:
        if before is not None and before.end != one.begin:
            wrong.append(f"{before} and then {one}")
        before = one
    return wrong
