# SPDX-License-Identifier: Apache-2.0
"""Who was charged what and when, kept beside the ledgers as intervals: what books must say. Shares no code with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from tracker_worker.domain import events
from tracker_worker.domain.allocation import INSTANCE, Allocation
from tracker_worker.domain.values import SECOND

Amounts = dict[str, int]
Totals = dict[tuple[str, str], Amounts]
"""(project, uuid) -> ``seconds`` and class -> amount times seconds, none of which is 0."""


@dataclass(frozen=True, slots=True)
class Charged:
    """From ``begin`` until ``end`` (microseconds; None: it still is) a project was charged ``amounts`` in these states."""

    begin: int
    end: int | None
    project: str
    amounts: tuple[tuple[str, int], ...]
    state: str
    claim_state: str

    def same_since(self, begin: int) -> Charged:
        """The same, open, from another time on."""
        return replace(self, begin=begin, end=None)

    def seconds(self, begin: int, end: int) -> tuple[int, int]:
        """Its part of a time, in whole seconds: from, to."""
        until = end if self.end is None else min(end, self.end // SECOND)
        return max(begin, self.begin // SECOND), until


@dataclass(slots=True)
class Truth:
    """``lines``: (id of the node, uuid of the instance) -> intervals in their order."""

    lines: dict[tuple[int, str], list[Charged]] = field(default_factory=lambda: defaultdict(list))

    def note(self, node: int, event: events.Event) -> None:
        """What an event of the ledger means."""
        match event:
            case events.MoveChanged(effective_at=at, charged=charged, move=move):
                if at:
                    held = next((each for each in charged if each.role == INSTANCE), None)
                    self._set(node, move.instance_uuid, at, held)
            case events.ClaimAborted(at=at, allocation=held) | events.UsageReleased(at=at, before=held):
                self._set(node, held.uuid, at, None)
            case events.ClaimExpired(at=at, allocation=held, released=released):
                self._set(node, held.uuid, at, None if released else held)
            case (
                events.ClaimBegun(at=at, allocation=held)
                | events.ClaimFinished(at=at, allocation=held)
                | events.ClaimRenewed(at=at, allocation=held)
                | events.UsageUpdated(at=at, allocation=held)
                | events.UsageAdopted(at=at, allocation=held)
            ):
                self._set(node, held.uuid, at, held)

    def _set(self, node: int, uuid: str, at: int, held: Allocation | None) -> None:
        line = self.lines[node, uuid]
        after = None if held is None else charged(held, at)
        last = line[-1] if line else None
        if last is not None and after is not None and replace(last, begin=at) == after and last.begin <= at:
            return
        line[:] = [
            replace(each, end=at) if each.end is None or each.end > at else each for each in line if each.begin < at
        ]
        if after is not None:
            line.append(after)

    def open(self, node: int) -> dict[str, Charged]:
        """What a node is charged now."""
        return {
            uuid: line[-1] for (of, uuid), line in self.lines.items() if of == node and line and line[-1].end is None
        }

    def totals(self, begin: int, end: int) -> Totals:
        """What projects were charged in a time (seconds)."""
        found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for (_, uuid), line in self.lines.items():
            for each in line:
                since, until = each.seconds(begin, end)
                if since < until:
                    found[each.project, uuid] += Counter({name: n * (until - since) for name, n in each.amounts})
                    found[each.project, uuid]["seconds"] += until - since
        return {key: dict(+counter) for key, counter in found.items()}


def charged(held: Allocation, since: int) -> Charged:
    """What an allocation means from a time on."""
    instance = held.instance
    amounts = tuple(sorted(held.resources.to_dict().items()))
    return Charged(since, None, instance.project_id or "", amounts, instance.vm_state or "", held.claim_state)
