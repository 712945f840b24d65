# SPDX-License-Identifier: Apache-2.0
"""The demo's billing: hears notifications and nothing else, and adds up from them what every node and project holds."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

Holdings = dict[str, int]
_RELEASED = {"tracker.claim.aborted", "tracker.usage.released"}
_HELD = {"tracker.claim.begun", "tracker.claim.finished", "tracker.usage.updated"}


class Billing:
    """``hear`` may be called from any thread. Notifications come at least once and in order per node."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: set[str] = set()
        self._sequences: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
        self.events: Counter[str] = Counter()
        self.duplicates = 0
        self.gaps: list[str] = []

    def hear(self, message: dict[str, Any]) -> None:
        """One notification, as its decoded message."""
        with self._changed:
            if message["message_id"] in self._seen:
                self.duplicates += 1
                return
            self._seen.add(message["message_id"])
            self._book(message["event_type"], message["payload"])
            self._changed.notify_all()

    def _book(self, event_type: str, payload: dict[str, Any]) -> None:
        node = (payload["host"], payload["node"])
        expected = self._sequences.get(node, 0) + 1
        if payload["sequence"] != expected:
            self.gaps.append(f"{'/'.join(node)}: {payload['sequence']} instead of {expected}")
        self._sequences[node] = payload["sequence"]
        self.events[event_type] += 1
        if event_type in _HELD or (event_type == "tracker.claim.expired" and not payload["released"]):
            self._held[node][payload["instance_id"]] = payload
        elif event_type in _RELEASED or event_type == "tracker.claim.expired":
            del self._held[node][payload["instance_id"]]

    def wait_for(self, sequences: dict[tuple[str, str], int], seconds: float) -> bool:
        """Whether everything up to these sequences, per (host, node), is heard within so many seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self._sequences.get(node, 0) >= last for node, last in sequences.items()), seconds
            )

    def of_node(self, host: str, node: str) -> Holdings:
        """Instances and the sum of each resource class that the node holds."""
        with self._changed:
            return _sum(self._held[host, node].values())

    def of_projects(self) -> dict[str, Holdings]:
        """The same per project, over all nodes."""
        with self._changed:
            payloads: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for held in self._held.values():
                for payload in held.values():
                    payloads[payload["tenant_id"]].append(payload)
            return {project: _sum(held) for project, held in payloads.items()}


def _sum(payloads: Any) -> Holdings:
    total: Counter[str] = Counter(instances=0, VCPU=0, MEMORY_MB=0, DISK_GB=0)
    for payload in payloads:
        total["instances"] += 1
        total.update(payload["resources"])
    return dict(total)
