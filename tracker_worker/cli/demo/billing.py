# SPDX-License-Identifier: Apache-2.0
"""The demo's billing: it receives only notifications, and adds up from them the usage of every node and project."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

Totals = dict[str, int]


class Billing:
    """The usage according to notifications, which arrive at least once and in order per node.

    Every method may be called from any thread. ``events`` counts notifications by event type, ``duplicates`` counts copies,
    and ``gaps`` describes missing sequence numbers.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: set[str] = set()
        self._sequences: dict[tuple[str, str], int] = {}
        self._charged: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
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
        if "instance_id" not in payload:
            return
        if payload["role"] == "instance":
            self._charged[node][payload["instance_id"]] = payload
        else:
            self._charged[node].pop(payload["instance_id"], None)

    def wait_for(self, sequences: dict[tuple[str, str], int], seconds: float) -> bool:
        """Wait until the notifications up to ``sequences``, by (host, node), have arrived; False after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self._sequences.get(node, 0) >= last for node, last in sequences.items()), seconds
            )

    def of_node(self, host: str, node: str) -> Totals:
        """The number of instances on the node, and the sum of each of their resource classes."""
        with self._changed:
            return _sum(self._charged[host, node].values())

    def of_projects(self) -> dict[str, Totals]:
        """The number of instances and the sum of each resource class, by project, over all nodes."""
        with self._changed:
            by_project: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for charged in self._charged.values():
                for payload in charged.values():
                    by_project[payload["tenant_id"]].append(payload)
            return {project: _sum(payloads) for project, payloads in by_project.items()}


def _sum(payloads: Any) -> Totals:
    total: Counter[str] = Counter(instances=0, VCPU=0, MEMORY_MB=0, DISK_GB=0)
    for payload in payloads:
        total["instances"] += 1
        total.update(payload["charged"])
    return dict(total)
