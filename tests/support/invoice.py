# SPDX-License-Identifier: Apache-2.0
"""Two bills from the notifications of nodes: one from every event alone, one from the periods that were closed. They must be
the same to the second. Written from the pages for consumers, and shares no code with the worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Owed = dict[tuple[str, str, str], int]
"""(project, instance, resource class) -> amount times seconds."""


def second(text: str) -> int:
    """The second of a time of a payload, rounded down."""
    return int(datetime.fromisoformat(text).timestamp())


@dataclass(slots=True)
class NodeBill:
    """Takes the notifications of one node in their order. ``charges``: instance -> from when on which project was charged what;
    the last one goes on. ``periods``: the beginning and the ending of each that is closed."""

    charges: dict[str, list[tuple[int, str, Mapping[str, int]]]] = field(default_factory=lambda: defaultdict(list))
    told: Owed = field(default_factory=lambda: defaultdict(int))
    periods: list[tuple[int, int]] = field(default_factory=list)
    adjustments: int = 0
    exists: list[dict[str, Any]] = field(default_factory=list)

    def add(self, event_type: str, payload: dict[str, Any]) -> None:
        if event_type == "tracker.usage.exists":
            self._exists(payload)
        elif event_type == "tracker.period.closed":
            self._closed(payload)
        elif "instance_id" in payload:
            self._charge(payload)

    def _charge(self, payload: Mapping[str, Any]) -> None:
        """From its time on, what an event says is all that counts."""
        at = second(payload.get("effective_at") or payload["occurred_at"])
        known = self.charges[payload["instance_id"]]
        while known and known[-1][0] >= at:
            known.pop()
        known.append((at, payload["tenant_id"], payload["charged"]))

    def _exists(self, payload: dict[str, Any]) -> None:
        beginning, ending = second(payload["audit_period_beginning"]), second(payload["audit_period_ending"])
        key = payload["tenant_id"], payload["instance_id"]
        total: dict[str, int] = defaultdict(int)
        seconds = 0
        at = beginning
        for segment in payload["segments"]:
            since, until = second(segment["from"]), second(segment["to"])
            assert at <= since < until <= ending, "segments follow one another within their period"
            assert segment["seconds"] == until - since
            at = until
            seconds += segment["seconds"]
            for name, amount in segment["resources"].items():
                total[name] += amount * segment["seconds"]
        for adjustment in payload["adjustments"]:
            period = second(adjustment["audit_period_beginning"]), second(adjustment["audit_period_ending"])
            assert period in self.periods, "an adjustment names a closed period"
            self.adjustments += 1
            seconds += adjustment["seconds"]
            for name, amount in adjustment["resource_seconds"].items():
                total[name] += amount
        assert seconds == payload["seconds"]
        assert {name: amount for name, amount in total.items() if amount} == {
            name: amount for name, amount in payload["resource_seconds"].items() if amount
        }
        assert payload["segments"] or payload["adjustments"]
        for name, amount in total.items():
            self.told[*key, name] += amount
        self.exists.append(payload)

    def _closed(self, payload: Mapping[str, Any]) -> None:
        period = second(payload["audit_period_beginning"]), second(payload["audit_period_ending"])
        assert not self.periods or self.periods[-1][1] == period[0], "a period begins where the one before has ended"
        self.periods.append(period)
        of_period = [one for one in self.exists if second(one["audit_period_ending"]) == period[1]]
        assert len(of_period) == len(self.exists), "no exists of another period comes in between"
        self.exists = []
        numbers = [one["sequence"] for one in of_period]
        assert payload["exists"] == len(of_period)
        assert (payload["first_sequence"], payload["last_sequence"]) == (
            min(numbers, default=0),
            max(numbers, default=0),
        )
        assert payload["seconds"] == sum(one["seconds"] for one in of_period)
        names = {name for one in of_period for name in one["resource_seconds"]} | set(payload["resource_seconds"])
        for name in names:
            total = sum(one["resource_seconds"].get(name, 0) for one in of_period)
            assert payload["resource_seconds"].get(name, 0) == total

    def owed(self) -> Owed:
        """The bill from every event alone, from the first period on to the end of the last one."""
        found: Owed = defaultdict(int)
        first, last = self.periods[0][0], self.periods[-1][1]
        for instance, known in self.charges.items():
            for index, (since, project, charged) in enumerate(known):
                until = known[index + 1][0] if index + 1 < len(known) else last
                seconds = min(until, last) - max(since, first)
                for name, amount in charged.items():
                    if seconds > 0:
                        found[project, instance, name] += amount * seconds
        return {key: amount for key, amount in found.items() if amount}

    def check(self) -> None:
        """Both bills are the same, when no adjustment is still to be told."""
        assert {key: amount for key, amount in self.told.items() if amount} == self.owed()
