# SPDX-License-Identifier: Apache-2.0
"""Closes the periods of nodes: a small one of its own, that looks at the truth and tells exists and period.closed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.support.billing.tape import Tape
from tests.support.billing.truth import Charged, Truth
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso

_INSTANCE: dict[str, Any] = {
    **dict.fromkeys(("user_id", "display_name", "instance_type", "instance_flavor_id", "availability_zone"), ""),
    **dict.fromkeys(("created_at", "launched_at", "deleted_at", "terminated_at", "state_description"), ""),
    **dict.fromkeys(
        ("old_state", "old_task_state", "claim_id", "begun_at", "expires_at", "limit_source", "region"), ""
    ),
    **dict.fromkeys(("memory_mb", "disk_gb", "root_gb", "ephemeral_gb", "vcpus", "swap"), 0),
    "image_meta": {},
    "metadata": {},
}
_ZERO = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
_PART = 3
"""So many segments are in one message, so that there are several parts."""
Told = dict[tuple[str, str], Counter[str]]
"""(uuid, project) -> seconds and class -> amount times seconds."""


@dataclass(slots=True)
class Audited:
    """``until``: where the last period of a node ended. ``told``: what was told of each of its periods."""

    until: int
    told: dict[tuple[int, int], Told] = field(default_factory=dict)
    retired: bool = False


class Sweep:
    """Times are in seconds."""

    def __init__(self, truth: Truth, tape: Tape, period: int) -> None:
        self.truth = truth
        self.tape = tape
        self.period = period
        self.nodes: dict[int, Audited] = {}

    def boundary(self, at: int) -> int:
        """The last boundary that is not after a time."""
        return at // self.period * self.period

    def run(self, ledgers: list[NodeLedger], now: int) -> None:
        """Close every period that has ended at ``now`` (microseconds)."""
        for ledger in ledgers:
            node = self.nodes.setdefault(ledger.id, Audited(self.boundary(now // SECOND)))
            retired = ledger.life.retired
            if node.retired and retired is None:
                node.until = self.boundary(ledger.life.since // SECOND)  # it is in service again
            node.retired = False
            while node.until + self.period <= now // SECOND:
                if retired is not None and retired.since // SECOND < node.until:
                    node.retired = True
                    break
                self._close(ledger, node, node.until, node.until + self.period, now)
                node.until += self.period

    def owes(self, node: int) -> bool:
        """Whether something is to be told of closed periods."""
        return bool(self._adjustments(node, self.nodes[node]))

    def _close(self, ledger: NodeLedger, node: Audited, begin: int, end: int, now: int) -> None:
        period = {"audit_period_beginning": _text(begin), "audit_period_ending": _text(end)}
        head = {
            "host": ledger.host,
            "node": ledger.name,
            "ledger_id": ledger.ledger_id,
            "generation": ledger.generation,
            "region": "",
            **period,
        }
        segments = self._segments(ledger.id, begin, end)
        adjustments = self._adjustments(ledger.id, node)
        node.told = {period: self._amounts(ledger.id, *period) for period in node.told}
        node.told[begin, end] = self._amounts(ledger.id, begin, end)
        numbers = []
        whole: Counter[str] = Counter()
        for key in sorted({*segments, *adjustments}):
            for part, parts, some, adjusted in _parts(segments.get(key, []), adjustments.get(key, [])):
                payload = self._exists(ledger, head, key, some, adjusted)
                payload.update(part=part, parts=parts)
                whole.update({"seconds": payload["seconds"], **payload["resource_seconds"]})
                numbers.append(self.tape.tell("tracker.usage.exists", max(now, ledger.last_at), payload))
        closed = {
            **head,
            "exists": len(numbers),
            "first_sequence": numbers[0] if numbers else 0,
            "last_sequence": numbers[-1] if numbers else 0,
            "seconds": whole["seconds"],
            "resource_seconds": {**_ZERO, **{name: n for name, n in whole.items() if name != "seconds"}},
        }
        self.tape.tell("tracker.period.closed", max(now, ledger.last_at), closed)

    def _segments(self, node: int, begin: int, end: int) -> dict[tuple[str, str], list[tuple[int, int, Charged]]]:
        found: dict[tuple[str, str], list[tuple[int, int, Charged]]] = {}
        for (of, uuid), line in self.truth.lines.items():
            for each in line if of == node else ():
                since, until = each.seconds(begin, end)
                if since < until:
                    found.setdefault((uuid, each.project), []).append((since, until, each))
        return found

    def _amounts(self, node: int, begin: int, end: int) -> Told:
        amounts: Told = {}
        for key, pieces in self._segments(node, begin, end).items():
            counted = amounts.setdefault(key, Counter())
            for since, until, each in pieces:
                counted.update({"seconds": until - since, **{name: n * (until - since) for name, n in each.amounts}})
        return amounts

    def _adjustments(self, node: int, audited: Audited) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """What the truth says of closed periods now, beside what was told."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for (begin, end), told in audited.told.items():
            now = self._amounts(node, begin, end)
            for key in {*now, *told}:
                more = Counter(now.get(key, Counter()))
                more.subtract(told.get(key, Counter()))
                if any(more.values()):
                    seconds = more.pop("seconds")
                    found.setdefault(key, []).append(
                        {
                            "audit_period_beginning": _text(begin),
                            "audit_period_ending": _text(end),
                            "seconds": seconds,
                            "resource_seconds": {**_ZERO, **more},
                        }
                    )
        return found

    def _exists(
        self,
        ledger: NodeLedger,
        head: dict[str, Any],
        key: tuple[str, str],
        segments: list[tuple[int, int, Charged]],
        adjustments: list[dict[str, Any]],
    ) -> dict[str, Any]:
        uuid, project = key
        held = ledger.allocations.get(uuid)
        last = segments[-1][2] if segments else None
        sums: Counter[str] = Counter(_ZERO)
        seconds = 0
        for since, until, each in segments:
            seconds += until - since
            sums.update({name: n * (until - since) for name, n in each.amounts})
        for each in adjustments:
            seconds += each["seconds"]
            sums.update(each["resource_seconds"])
        return {
            **_INSTANCE,
            **head,
            "instance_id": uuid,
            "tenant_id": project,
            "state": "" if last is None else last.state,
            "claim_state": "" if last is None else last.claim_state,
            "resources": dict(last.amounts) if last is not None else _ZERO,
            "charged": _ZERO if held is None else held.resources.to_dict(),
            "role": "" if held is None else "instance",
            "seconds": seconds,
            "resource_seconds": dict(sums),
            "segments": [
                {
                    "from": _text(since),
                    "to": _text(until),
                    "seconds": until - since,
                    "resources": dict(each.amounts),
                    "state": each.state,
                    "claim_state": each.claim_state,
                }
                for since, until, each in segments
            ],
            "adjustments": adjustments,
        }


def _parts(segments: list[Any], adjustments: list[Any]) -> list[tuple[int, int, list[Any], list[Any]]]:
    pieces = [segments[first : first + _PART] for first in range(0, len(segments), _PART)] or [[]]
    return [
        (number, len(pieces), piece, adjustments if number == 1 else []) for number, piece in enumerate(pieces, start=1)
    ]


def _text(at: int) -> str:
    return iso(at * SECOND)[:19] + "Z"
