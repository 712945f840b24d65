# SPDX-License-Identifier: Apache-2.0
"""The hosts and nodes of the store in memory. The thread that holds the store's lock uses them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter

from tracker_worker.domain.allocation import INSTANCE, Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import RETIRED, Life
from tracker_worker.domain.move import Move
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.segments import InstanceUsage, Segment, in_period
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import EVERY_TOPIC, HostRecord, OutboxBacklog, Stream


@dataclass(slots=True)
class Cursor:
    """The last sequence that is confirmed on a topic, and the notification that the broker refuses there."""

    sequence: int
    refused_sequence: int | None = None
    refused_reason: str | None = None


@dataclass(slots=True)
class Events:
    """A stream. ``cursors``: topic -> cursor. ``left_at``: where its next topics start while it has none. ``generation``: that
    of the last node that has left the name."""

    id: int
    host: str
    node: str
    sequence: int = 0
    last_at: int = 0
    generation: int = 0
    cursors: dict[str, Cursor] = field(default_factory=dict)
    left_at: int = 0
    outbox: dict[int, Notification] = field(default_factory=dict)

    @property
    def confirmed(self) -> int:
        """The sequence up to which no topic waits for notifications."""
        return min((cursor.sequence for cursor in self.cursors.values()), default=self.sequence)

    @property
    def waits(self) -> bool:
        """Whether it has events that are not confirmed."""
        return self.sequence > (self.confirmed if self.cursors else self.left_at)

    def confirm(self, topic: str, sequence: int) -> None:
        """Nothing is left to publish up to ``sequence``, on a topic or on EVERY_TOPIC."""
        if topic == EVERY_TOPIC:
            self.left_at = max(self.left_at, sequence)
        for name, cursor in self.cursors.items():
            if topic in (name, EVERY_TOPIC):
                cursor.sequence = max(cursor.sequence, sequence)

    def prune(self, before: int, limit: int) -> int:
        """Delete at most ``limit`` rows of the outbox that occurred before and are confirmed. Returns how many."""
        done = [s for s, n in self.outbox.items() if s <= self.confirmed and n.occurred_at < before][:limit]
        for sequence in done:
            del self.outbox[sequence]
        if done and not self.cursors:
            self.left_at = max(self.left_at, self.first - 1)
        return len(done)

    @property
    def first(self) -> int:
        """The number of the oldest notification that is still there; without any, that of the next one."""
        return min(self.outbox, default=self.sequence + 1)

    def following(self, *, after: int, limit: int, max_bytes: int) -> list[Notification]:
        """See ``Store.outbox``."""
        following = [self.outbox[sequence] for sequence in sorted(self.outbox) if sequence > after][:limit]
        totals = itertools.accumulate(len(notification.payload) for notification in following)
        return following[: max(1, sum(total <= max_bytes for total in totals))]

    def seen(self) -> Stream:
        """The stream as a store returns it."""
        at = {topic: cursor.sequence for topic, cursor in self.cursors.items()}
        return Stream(
            id=self.id,
            host=self.host,
            node=self.node,
            sequence=self.sequence,
            cursors=at,
            last_at=self.last_at,
            generation=self.generation,
        )

    def lower_cursors(self) -> None:
        """Let no cursor be above the last event."""
        for cursor in self.cursors.values():
            cursor.sequence = min(cursor.sequence, self.sequence)

    def backlog(self, topic: str, blocked_since: int | None) -> OutboxBacklog:
        """What is not confirmed on one of the stream's topics."""
        cursor = self.cursors[topic]
        waiting = [row for sequence, row in sorted(self.outbox.items()) if sequence > cursor.sequence]
        refused = cursor.refused_sequence is not None and cursor.refused_sequence > cursor.sequence
        return OutboxBacklog(
            stream_id=self.id,
            host=self.host,
            node=self.node,
            topic=topic,
            sequence=self.sequence,
            cursor=cursor.sequence,
            rows=len(waiting),
            oldest_at=waiting[0].occurred_at if waiting else None,
            refused_sequence=cursor.refused_sequence if refused else None,
            refused_reason=cursor.refused_reason if refused else None,
            blocked_since=blocked_since,
        )


Charge = tuple[str, str]
"""The instance and the role of an allocation."""


@dataclass(slots=True)
class Node:
    """A node as it was committed. ``allocations`` by id; ``charged``: their ids, by instance and role; ``deletions``: instance
    uuid -> when; ``moves`` by id; ``closed``: the beginning and the ending of each closed period."""

    id: int
    host: Host
    name: str
    stream: Events
    generation: int = 0
    life: Life = field(default_factory=Life)
    inventory: Inventory | None = None
    allocations: dict[str, Allocation] = field(default_factory=dict)
    charged: dict[Charge, str] = field(default_factory=dict)
    deletions: dict[str, int] = field(default_factory=dict)
    moves: dict[str, Move] = field(default_factory=dict)
    periods: Periods = field(default_factory=Periods)
    segments: list[Segment] = field(default_factory=list)
    closed: list[tuple[int, int]] = field(default_factory=list)

    def charge(self, allocation_id: str, allocation: Allocation | None) -> None:
        """Keep the allocation under its id; None: drop it."""
        before = self.allocations.get(allocation_id)
        if before is not None and self.charged.get((before.uuid, before.role)) == allocation_id:
            del self.charged[before.uuid, before.role]
        if allocation is None:
            self.allocations.pop(allocation_id, None)
        else:
            self.allocations[allocation_id] = allocation
            self.charged[allocation.uuid, allocation.role] = allocation_id

    def billed(self, beginning: int, ending: int) -> dict[str, int]:
        """See ``Store.billed``."""
        return dict(Counter(each.uuid for each in self.segments if in_period(each, beginning, ending)))

    def usage(self, uuids: Collection[str], beginning: int, ending: int) -> list[InstanceUsage]:
        """See ``Store.usage``."""
        of_period = [each for each in self.segments if each.uuid in uuids and in_period(each, beginning, ending)]
        of_period.sort(key=attrgetter("since"))
        charged = {uuid: self.charged.get((uuid, INSTANCE)) for uuid in sorted(uuids)}
        return [
            InstanceUsage(
                uuid=uuid,
                allocation=None if held is None else self.allocations[held],
                segments=tuple(each for each in of_period if each.uuid == uuid),
            )
            for uuid, held in charged.items()
        ]

    def forget_usage(self, limit: int) -> int:
        """Drop what the node no longer keeps, at most ``limit`` segments. Return how many there were."""
        before = self.periods.kept_from
        old = [each for each in self.segments if max(each.until, each.noted_at) < before][:limit]
        self.segments = [each for each in self.segments if each not in old]
        self.closed = [each for each in self.closed if each[1] >= before]
        return len(old)

    def loaded(self, ledger_id: str) -> NodeLedger:
        """A new ledger of the node."""
        ledger = NodeLedger(
            id=self.id,
            host_id=self.host.id,
            host=self.host.name,
            name=self.name,
            stream_id=self.stream.id,
            ledger_id=ledger_id,
            generation=self.generation,
            sequence=self.stream.sequence,
            last_at=self.stream.last_at,
        )
        ledger.life, ledger.inventory, ledger.periods = self.life, self.inventory, self.periods
        ledger.deletions.update(sorted(self.deletions.items(), key=itemgetter(1)))
        for move in self.moves.values():
            ledger.restore_move(move)
        for allocation in self.allocations.values():
            ledger.restore(allocation)
        return ledger


@dataclass(slots=True)
class Host:
    """A host with its nodes by name."""

    id: int
    name: str
    nodes: dict[str, Node] = field(default_factory=dict)
    lease_owner: str | None = None
    lease_expires_at: int = 0
    last_seen_at: int = 0
    blocked_since: int | None = None
    version: str = ""
    started_at: int = 0
    token: str | None = None
    previous_token: str | None = None
    workers: dict[str, int] = field(default_factory=dict)

    def record(self) -> HostRecord:
        """The host as ``Store.hosts`` returns it."""
        return HostRecord(
            id=self.id,
            name=self.name,
            version=self.version,
            started_at=self.started_at,
            last_seen_at=self.last_seen_at,
            lease_owner=self.lease_owner,
            lease_expires_at=self.lease_expires_at,
            token=self.token,
            previous_token=self.previous_token,
            nodes=sum(node.life.state != RETIRED for node in self.nodes.values()),
            instances=sum(len(node.allocations) for node in self.nodes.values()),
            workers=dict(self.workers),
        )

    def generations(self) -> dict[int, int]:
        """Node id -> generation."""
        return {node.id: node.generation for node in self.nodes.values()}

    def loaded(self, ledger_id: str) -> HostLedger:
        """New ledgers of all nodes."""
        host = HostLedger(id=self.id, name=self.name, ledger_id=ledger_id)
        for node in sorted(self.nodes.values(), key=attrgetter("id")):
            host.nodes[node.name] = node.loaded(ledger_id)
        return host


def usage_of(node: Node | None, uuids: Collection[str], beginning: int, ending: int) -> list[InstanceUsage]:
    """See ``Store.usage``; None: a node that is gone."""
    if node is None:
        return [InstanceUsage(uuid=uuid, allocation=None, segments=()) for uuid in sorted(uuids)]
    return node.usage(uuids, beginning, ending)
