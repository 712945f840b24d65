# SPDX-License-Identifier: Apache-2.0
"""The demo's billing: it receives only notifications, and adds up what nodes and projects are charged, and owe."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

Totals = dict[str, int]

_NO_CHARGE = ("tracker.claim.rejected", "tracker.claim.untracked", "tracker.move.rejected", "tracker.usage.exists")
"""The event types that say nothing of what is charged from now on."""


class Charge(NamedTuple):
    """From ``at`` (ISO 8601) on, ``project`` is charged ``amounts``, by resource class, until the next charge."""

    at: str
    project: str
    amounts: Mapping[str, int]


class Billing:
    """What is charged according to notifications, which arrive at least once and in order per node.

    Every method may be called from any thread. ``events`` counts notifications by event type, ``duplicates`` counts copies,
    and ``gaps`` describes missing sequence numbers.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: set[str] = set()
        self._sequences: dict[tuple[str, str], int] = {}
        self._charges: dict[tuple[str, str], dict[str, list[Charge]]] = defaultdict(lambda: defaultdict(list))
        self.events: Counter[str] = Counter()
        self.duplicates = 0
        self.gaps: list[str] = []

    def receive(self, message: dict[str, Any]) -> None:
        """Add one notification, given as its decoded message. A copy is only counted."""
        with self._changed:
            if message["message_id"] in self._seen:
                self.duplicates += 1
                return
            self._seen.add(message["message_id"])
            self._add(message["event_type"], message["payload"])
            self._changed.notify_all()

    def _add(self, event_type: str, payload: dict[str, Any]) -> None:
        node = (payload["host"], payload["node"])
        expected = self._sequences.get(node, 0) + 1
        if payload["sequence"] != expected:
            self.gaps.append(f"{'/'.join(node)}: {payload['sequence']} instead of {expected}")
        self._sequences[node] = payload["sequence"]
        self.events[event_type] += 1
        if "instance_id" not in payload or event_type in _NO_CHARGE:
            return
        charges = self._charges[node][payload["instance_id"]]
        effective_at = payload.get("effective_at", "")
        # A hand-over may be told late: what was charged on this node after it is taken back.
        while effective_at and charges and charges[-1].at >= effective_at:
            charges.pop()
        charges.append(Charge(effective_at or payload["occurred_at"], payload["tenant_id"], payload["charged"]))

    def wait_for(self, sequences: dict[tuple[str, str], int], seconds: float) -> bool:
        """Wait until the notifications up to ``sequences``, by (host, node), have arrived; False after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self._sequences.get(node, 0) >= last for node, last in sequences.items()), seconds
            )

    def of_node(self, host: str, node: str) -> Totals:
        """The number of instances on the node, and the sum of each of their resource classes."""
        with self._changed:
            return _sum(_present(self._charges[host, node].values()))

    def of_projects(self) -> dict[str, Totals]:
        """The number of instances and the sum of each resource class, by project, over all nodes."""
        with self._changed:
            by_project: dict[str, list[Charge]] = defaultdict(list)
            for instances in self._charges.values():
                for charge in _present(instances.values()):
                    by_project[charge.project].append(charge)
            return {project: _sum(charges) for project, charges in by_project.items()}

    def bill(self, instances: Collection[str], until: str) -> dict[str, Counter[str]]:
        """What projects owe for these instances until then: see ``bill``."""
        with self._changed:
            return bill((node[uuid] for node in self._charges.values() for uuid in instances if uuid in node), until)


def bill(charged: Iterable[Sequence[Charge]], until: str) -> dict[str, Counter[str]]:
    """What each project owes, as resource class -> amount times microseconds. Each sequence is what was charged at one place,
    one charge after the other, and ends at ``until``, which is not before the last one."""
    owed: dict[str, Counter[str]] = defaultdict(Counter)
    for charges in charged:
        for charge, end in zip(charges, [*(following.at for following in charges[1:]), until], strict=True):
            time = (datetime.fromisoformat(end) - datetime.fromisoformat(charge.at)) // timedelta(microseconds=1)
            for name, amount in charge.amounts.items():
                owed[charge.project][name] += amount * time
    return {project: +sums for project, sums in owed.items() if +sums}


def _present(charged: Iterable[Sequence[Charge]]) -> Iterator[Charge]:
    """What is charged now."""
    return (charges[-1] for charges in charged if any(charges[-1].amounts.values()))


def _sum(charges: Iterable[Charge]) -> Totals:
    total: Counter[str] = Counter(instances=0, VCPU=0, MEMORY_MB=0, DISK_GB=0)
    for charge in charges:
        total["instances"] += 1
        total.update(charge.amounts)
    return dict(total)
