# SPDX-License-Identifier: Apache-2.0
"""The store in memory, which ends with its process: the library's default, and the model of every other store in the tests."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Commit, Conflict, InboxRow, OutboxBacklog, Store


@dataclass(slots=True)
class _Node:
    id: int
    host: _Host
    name: str
    generation: int = 0
    sequence: int = 0
    cursor: int = 0
    inventory: Inventory | None = None
    allocations: dict[str, Allocation] = field(default_factory=dict)
    outbox: dict[int, Notification] = field(default_factory=dict)


@dataclass(slots=True)
class _Host:
    id: int
    name: str
    nodes: dict[str, _Node] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)  # instance uuid -> id of the node that is charged
    lease_owner: str | None = None
    lease_expires_at: int = 0


class MemoryStore(Store):
    """Values are immutable, so the store may keep and return the same object. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}
        self._nodes: dict[int, _Node] = {}
        self._inbox: dict[str, InboxRow] = {}
        self._attempts: dict[str, tuple[int, int]] = {}

    def start(self) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""

    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        with self._lock:
            host = self._hosts.setdefault(name, _Host(id=len(self._hosts) + 1, name=name))
            return host.id

    def host_names(self) -> list[str]:
        with self._lock:
            return sorted(self._hosts)

    def load_host(self, name: str) -> HostLedger | None:
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                return None
            loaded = HostLedger(id=host.id, name=name)
            for node in host.nodes.values():
                ledger = NodeLedger(
                    id=node.id,
                    host_id=host.id,
                    host=name,
                    name=node.name,
                    generation=node.generation,
                    sequence=node.sequence,
                )
                ledger.inventory = node.inventory
                for allocation in node.allocations.values():
                    ledger.restore(allocation)
                loaded.nodes[node.name] = ledger
            return loaded

    def create_node(self, host_id: int, name: str) -> None:
        with self._lock:
            host = next(host for host in self._hosts.values() if host.id == host_id)
            if name not in host.nodes:
                node = _Node(id=len(self._nodes) + 1, host=host, name=name)
                host.nodes[name] = self._nodes[node.id] = node

    def generations(self, host_ids: Collection[int]) -> dict[int, int]:
        with self._lock:
            return {node.id: node.generation for node in self._nodes.values() if node.host.id in host_ids}

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        with self._lock:
            return {uid: self._inbox[uid].reply for uid in unique_ids if uid in self._inbox}

    def count_attempt(self, unique_id: str, now: int) -> int:
        with self._lock:
            count, _ = self._attempts.get(unique_id, (0, 0))
            self._attempts[unique_id] = (count + 1, now)
            return count + 1

    def commit(self, commit: Commit) -> None:
        with self._lock:
            self._check_locked(commit)
            for ledger in commit.ledgers:
                self._write_locked(ledger)
            for notification in commit.notifications:
                self._nodes[notification.node_id].outbox[notification.sequence] = notification
            for message in commit.inbox_rows:
                self._inbox[message.unique_id] = message
            for node_id, sequence in commit.cursors.items():
                node = self._nodes[node_id]
                node.cursor = max(node.cursor, sequence)

    def _check_locked(self, commit: Commit) -> None:
        if any(message.unique_id in self._inbox for message in commit.inbox_rows):
            raise Conflict("a message is answered already")
        if len({message.unique_id for message in commit.inbox_rows}) != len(commit.inbox_rows):
            raise Conflict("a message is answered twice")
        released: set[tuple[int, str]] = set()
        for ledger in commit.ledgers:
            node = self._nodes[ledger.id]
            if node.generation != ledger.stored_generation:
                raise Conflict(f"node {node.name} is at generation {node.generation}, not {ledger.stored_generation}")
            released.update((node.id, uuid) for uuid in ledger.touched - ledger.allocations.keys())
        charged: set[tuple[int, str]] = set()
        for ledger in commit.ledgers:
            host = self._nodes[ledger.id].host
            for uuid in ledger.touched & ledger.allocations.keys():
                holder = host.holders.get(uuid, ledger.id)
                elsewhere = holder != ledger.id and (holder, uuid) not in released
                if elsewhere or (host.id, uuid) in charged:
                    raise Conflict("an instance is charged to another node of the host")
                charged.add((host.id, uuid))
        new = {(notification.node_id, notification.sequence) for notification in commit.notifications}
        if len(new) != len(commit.notifications) or any(s in self._nodes[node_id].outbox for node_id, s in new):
            raise Conflict("a sequence number is taken")

    def _write_locked(self, ledger: NodeLedger) -> None:
        node = self._nodes[ledger.id]
        node.generation, node.sequence, node.inventory = ledger.generation, ledger.sequence, ledger.inventory
        holders = node.host.holders
        for uuid in ledger.touched:
            if uuid in ledger.allocations:
                node.allocations[uuid] = ledger.allocations[uuid]
                holders[uuid] = node.id
            else:
                node.allocations.pop(uuid, None)
                # The same commit may have charged another node for this instance.
                if holders.get(uuid) == node.id:
                    del holders[uuid]

    def cursors(self, host_id: int) -> dict[int, int]:
        with self._lock:
            return {node.id: node.cursor for node in self._nodes.values() if node.host.id == host_id}

    def outbox(self, node_id: int, *, after: int, limit: int) -> list[Notification]:
        with self._lock:
            rows = self._nodes[node_id].outbox
            return [rows[sequence] for sequence in sorted(rows) if sequence > after][:limit]

    def backlog(self) -> list[OutboxBacklog]:
        with self._lock:
            return [_backlog(node) for node in self._nodes.values()]

    def take_lease(self, host_ids: Iterable[int], owner: str, *, now: int, until: int, force: bool = False) -> set[int]:
        with self._lock:
            wanted, held = set(host_ids), set()
            for host in self._hosts.values():
                free = force or host.lease_owner in (None, owner) or host.lease_expires_at < now
                if host.id in wanted and free:
                    host.lease_owner, host.lease_expires_at = owner, until
                    held.add(host.id)
            return held

    def release_lease(self, owner: str) -> None:
        with self._lock:
            for host in self._hosts.values():
                if host.lease_owner == owner:
                    host.lease_owner = None

    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        with self._lock:
            of_host = [message for message in self._inbox.values() if message.host_id == host_id]
            old = [message.unique_id for message in of_host if message.received_at < answered_before][:limit]
            for uid in old:
                del self._inbox[uid]
            dropped = len(old)
            self._attempts = {uid: kept for uid, kept in self._attempts.items() if kept[1] >= answered_before}
            for node in (node for node in self._nodes.values() if node.host.id == host_id):
                done = [s for s, n in node.outbox.items() if s <= node.cursor and n.occurred_at < occurred_before]
                for sequence in done[:limit]:
                    del node.outbox[sequence]
                dropped += len(done[:limit])
            return dropped


def _backlog(node: _Node) -> OutboxBacklog:
    waiting = [notification for sequence, notification in sorted(node.outbox.items()) if sequence > node.cursor]
    return OutboxBacklog(
        node_id=node.id,
        host=node.host.name,
        node=node.name,
        sequence=node.sequence,
        cursor=node.cursor,
        rows=len(waiting),
        oldest_at=waiting[0].occurred_at if waiting else None,
    )
