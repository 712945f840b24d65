# SPDX-License-Identifier: Apache-2.0
"""The hosts and nodes of the store in memory. The thread that holds the store's lock uses them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import OutboxBacklog


@dataclass(slots=True)
class Cursor:
    """The last sequence that is confirmed on a topic, and the notification that the broker refuses there."""

    sequence: int
    refused_sequence: int | None = None
    refused_reason: str | None = None


@dataclass(slots=True)
class Node:
    """A node as it was committed. ``cursors``: topic -> cursor. ``left_at``: the confirmed sequence at which the last topic
    was removed."""

    id: int
    host: Host
    name: str
    generation: int = 0
    sequence: int = 0
    cursors: dict[str, Cursor] = field(default_factory=dict)
    left_at: int = 0
    inventory: Inventory | None = None
    allocations: dict[str, Allocation] = field(default_factory=dict)
    outbox: dict[int, Notification] = field(default_factory=dict)

    @property
    def confirmed(self) -> int:
        """The sequence up to which no topic waits for notifications."""
        return min((cursor.sequence for cursor in self.cursors.values()), default=self.sequence)

    def loaded(self) -> NodeLedger:
        """A new ledger of the node."""
        ledger = NodeLedger(
            id=self.id,
            host_id=self.host.id,
            host=self.host.name,
            name=self.name,
            generation=self.generation,
            sequence=self.sequence,
        )
        ledger.inventory = self.inventory
        for allocation in self.allocations.values():
            ledger.restore(allocation)
        return ledger

    def backlog(self, topic: str) -> OutboxBacklog:
        """What is not confirmed on one of the node's topics."""
        cursor = self.cursors[topic]
        waiting = [row for sequence, row in sorted(self.outbox.items()) if sequence > cursor.sequence]
        refused = cursor.refused_sequence is not None and cursor.refused_sequence > cursor.sequence
        return OutboxBacklog(
            node_id=self.id,
            host=self.host.name,
            node=self.name,
            topic=topic,
            sequence=self.sequence,
            cursor=cursor.sequence,
            rows=len(waiting),
            oldest_at=waiting[0].occurred_at if waiting else None,
            refused_sequence=cursor.refused_sequence if refused else None,
            refused_reason=cursor.refused_reason if refused else None,
            blocked_since=self.host.blocked_since,
        )


@dataclass(slots=True)
class Host:
    """A host with its nodes by name. ``holders``: instance uuid -> id of the node that is charged."""

    id: int
    name: str
    nodes: dict[str, Node] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)
    lease_owner: str | None = None
    lease_expires_at: int = 0
    last_seen_at: int = 0
    blocked_since: int | None = None

    def generations(self) -> dict[int, int]:
        """Node id -> generation."""
        return {node.id: node.generation for node in self.nodes.values()}

    def loaded(self) -> HostLedger:
        """New ledgers of all nodes."""
        host = HostLedger(id=self.id, name=self.name)
        host.nodes.update((name, node.loaded()) for name, node in self.nodes.items())
        return host
