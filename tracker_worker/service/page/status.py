# SPDX-License-Identifier: Apache-2.0
"""The document behind the page: one worker at one moment, made of JSON types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tracker_worker.domain.life import RETIRED
from tracker_worker.domain.views import iso
from tracker_worker.history import Entry
from tracker_worker.service.loop.snapshot import NodeState
from tracker_worker.service.metrics.collector import Sources

MOST_NODES = 300
"""More nodes than a page can show are counted only; those with the most problems come first."""


class Shown(Sources, Protocol):
    """What the page shows beside the metrics."""

    def recent(self) -> Sequence[Entry]:
        """The last decisions, oldest first."""
        ...


def status(sources: Shown, readiness: Callable[[], Mapping[str, Any]], now: int) -> dict[str, Any]:
    """The document at ``now`` (microseconds): that of /readyz, and under ``nodes``, ``topics``, ``queues`` and ``decisions``
    what there is to look at."""
    snapshot = sources.snapshot()
    nodes = sorted(
        (node for node in snapshot.nodes if node.life.state != RETIRED),
        key=lambda node: (node.life.state == "open", node.host, node.node),
    )
    return {
        **readiness(),
        "at": iso(now),
        "claims_open": sum(node.claims for node in nodes),
        "moving": sum(node.moving for node in nodes),
        "instances": sum(node.instances for node in nodes),
        "nodes": [_node(node) for node in nodes[:MOST_NODES]],
        "nodes_omitted": max(0, len(nodes) - MOST_NODES),
        "topics": [
            {"topic": topic, "waiting": waiting, "oldest_seconds": round(seconds, 1)}
            for topic, (waiting, seconds) in sources.outbox().items()
        ],
        "queues": [
            {"queue": queue, "messages": messages, "bytes": size}
            for queue, (messages, size) in sources.queues().items()
        ],
        "decisions": [entry.view() for entry in reversed(sources.recent())],
    }


def _node(node: NodeState) -> dict[str, Any]:
    capacity = node.capacity()
    return {
        "host": node.host,
        "node": node.node,
        "state": node.life.state,
        "reason": node.life.reason,
        "instances": node.instances,
        "claims_open": node.claims,
        "moving": node.moving,
        "resources": [
            {"resource": name, "used": used, "capacity": capacity.get(name, 0)} for name, used in node.used().items()
        ],
    }
