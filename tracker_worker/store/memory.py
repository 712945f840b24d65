# SPDX-License-Identifier: Apache-2.0
"""The store in memory, which ends with its process: the library's default, and the model of every other store in the tests."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import (
    MOST_DEAD_LETTER_BYTES,
    MOST_DEAD_LETTERS,
    NOT_CONFIGURED,
    Commit,
    Conflict,
    DeadLetterRow,
    InboxRow,
    LockedHost,
    OutboxBacklog,
    Store,
)
from tracker_worker.store.memory_hosts import Cursor, Host, Node

LOG = logging.getLogger(__name__)


class MemoryStore(Store):
    """Values are immutable, so the store may keep and return the same object. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._nodes: dict[int, Node] = {}
        self._inbox: dict[str, InboxRow] = {}
        self._attempts: dict[str, tuple[int, int]] = {}
        self._dead_letters: dict[int, DeadLetterRow] = {}
        self._letter_ids = itertools.count(1)

    def start(self) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""

    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        with self._lock:
            host = self._hosts.setdefault(name, Host(id=len(self._hosts) + 1, name=name))
            return host.id

    def host_names(self) -> list[str]:
        with self._lock:
            return sorted(self._hosts)

    def load_host(self, name: str) -> HostLedger | None:
        with self._lock:
            host = self._hosts.get(name)
            return None if host is None else host.loaded()

    def refreshed(self, known: Mapping[str, Mapping[int, int]]) -> dict[str, HostLedger]:
        with self._lock:
            hosts = {name: self._hosts[name] for name in known if name in self._hosts}
            return {
                name: host.loaded()
                for name, host in hosts.items()
                if not known[name] or known[name] != host.generations()
            }

    @contextmanager
    def locked(self, host_id: int) -> Iterator[LockedHost]:
        with self._lock:
            yield _LockedHost(self, self._host_locked(host_id).loaded())

    def _host_locked(self, host_id: int) -> Host:
        for host in self._hosts.values():
            if host.id == host_id:
                return host
        raise LookupError(f"no host has the id {host_id}")

    def create_node(self, host_id: int, name: str) -> None:
        with self._lock:
            host = self._host_locked(host_id)
            if name not in host.nodes:
                node = Node(id=len(self._nodes) + 1, host=host, name=name)
                host.nodes[name] = self._nodes[node.id] = node

    def generations(self, host_ids: Collection[int]) -> dict[int, int]:
        with self._lock:
            return {node.id: node.generation for node in self._nodes.values() if node.host.id in host_ids}

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        with self._lock:
            return self._answered_locked(unique_ids)

    def _answered_locked(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        return {uid: self._inbox[uid].reply for uid in unique_ids if uid in self._inbox}

    def count_attempt(self, unique_id: str, now: int) -> int:
        with self._lock:
            count, _ = self._attempts.get(unique_id, (0, 0))
            self._attempts[unique_id] = (count + 1, now)
            return count + 1

    def commit(self, commit: Commit) -> None:
        with self._lock:
            self._commit_locked(commit)

    def _commit_locked(self, commit: Commit) -> None:
        self._check_locked(commit)
        for ledger in commit.ledgers:
            self._write_locked(ledger)
        for notification in commit.notifications:
            self._nodes[notification.node_id].outbox[notification.sequence] = notification
        for message in commit.inbox_rows:
            self._inbox[message.unique_id] = message
        for (node_id, topic), sequence in commit.cursors.items():
            cursor = self._nodes[node_id].cursors.get(topic)
            if cursor is not None:
                cursor.sequence = max(cursor.sequence, sequence)

    def _check_locked(self, commit: Commit) -> None:
        for host_id, generations in commit.verified.items():
            if self._host_locked(host_id).generations() != generations:
                raise Conflict("a host that an answer rests on has changed")
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

    def probe(self, host_id: int, now: int) -> None:
        with self._lock:
            self._host_locked(host_id).last_seen_at = now

    def cursors(self, host_id: int) -> dict[tuple[int, str], int]:
        with self._lock:
            return self._cursors_locked(host_id)

    def _cursors_locked(self, host_id: int) -> dict[tuple[int, str], int]:
        of_host = (node for node in self._nodes.values() if node.host.id == host_id)
        return {(node.id, topic): cursor.sequence for node in of_host for topic, cursor in node.cursors.items()}

    def open_cursors(self, host_id: int, topics: Sequence[str]) -> dict[tuple[int, str], int]:
        with self._lock:
            for node in self._host_locked(host_id).nodes.values():
                start = node.sequence if node.cursors else node.left_at
                if node.cursors and not topics:
                    node.left_at = node.confirmed
                for topic in node.cursors.keys() - set(topics):
                    LOG.warning(NOT_CONFIGURED, node.host.name, node.name, topic, node.cursors.pop(topic).sequence)
                for topic in topics:
                    node.cursors.setdefault(topic, Cursor(start))
            return self._cursors_locked(host_id)

    def mark_refused(self, node_id: int, topic: str, sequence: int, reason: str | None) -> None:
        with self._lock:
            cursor = self._nodes[node_id].cursors.get(topic)
            if cursor is not None:
                cursor.refused_sequence = None if reason is None else sequence
                cursor.refused_reason = reason

    def outbox(self, node_id: int, *, after: int, limit: int, max_bytes: int = sys.maxsize) -> list[Notification]:
        with self._lock:
            rows = self._nodes[node_id].outbox
            following = [rows[sequence] for sequence in sorted(rows) if sequence > after][:limit]
            totals = itertools.accumulate(len(notification.payload) for notification in following)
            fitting = sum(total <= max_bytes for total in totals)
            return following[: max(1, fitting)]

    def backlog(self) -> list[OutboxBacklog]:
        with self._lock:
            nodes = sorted(self._nodes.values(), key=lambda node: (node.host.name, node.name))
            return [node.backlog(topic) for node in nodes for topic in sorted(node.cursors)]

    def keep_dead_letters(self, rows: Sequence[DeadLetterRow]) -> int:
        with self._lock:
            letters = self._dead_letters
            for row in rows:
                letters[next(self._letter_ids)] = row
            dropped = 0
            total = sum(row.size for row in letters.values())
            while len(letters) > 1 and (len(letters) > MOST_DEAD_LETTERS or total > MOST_DEAD_LETTER_BYTES):
                total -= letters.pop(next(iter(letters))).size
                dropped += 1
            return dropped

    def dead_letters(self, limit: int) -> list[tuple[int, DeadLetterRow]]:
        with self._lock:
            return list(itertools.islice(self._dead_letters.items(), limit))

    def drop_dead_letters(self, ids: Collection[int]) -> None:
        with self._lock:
            for id in ids:
                self._dead_letters.pop(id, None)

    def take_lease(
        self,
        host_ids: Iterable[int],
        owner: str,
        *,
        now: int,
        until: int,
        force: bool = False,
        blocked_since: int | None = None,
    ) -> set[int]:
        with self._lock:
            wanted, held = set(host_ids), set()
            for host in self._hosts.values():
                free = force or host.lease_owner in (None, owner) or host.lease_expires_at < now
                if host.id in wanted and free:
                    host.lease_owner, host.lease_expires_at = owner, until
                    host.last_seen_at, host.blocked_since = now, blocked_since
                    held.add(host.id)
            return held

    def release_lease(self, owner: str) -> None:
        with self._lock:
            for host in self._hosts.values():
                if host.lease_owner == owner:
                    host.lease_owner = host.blocked_since = None

    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        with self._lock:
            of_host = [message for message in self._inbox.values() if message.host_id == host_id]
            old = [message.unique_id for message in of_host if message.received_at < answered_before][:limit]
            for uid in old:
                del self._inbox[uid]
            dropped = len(old)
            self._attempts = {uid: kept for uid, kept in self._attempts.items() if kept[1] >= answered_before}
            for node in (node for node in self._nodes.values() if node.host.id == host_id):
                done = [s for s, n in node.outbox.items() if s <= node.confirmed and n.occurred_at < occurred_before]
                for sequence in done[:limit]:
                    del node.outbox[sequence]
                dropped += len(done[:limit])
            return dropped


class _LockedHost(LockedHost):
    """Used while the store's lock is held."""

    def __init__(self, store: MemoryStore, ledger: HostLedger) -> None:
        self.ledger = ledger
        self._store = store
        self._ended = False

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        return self._store._answered_locked(unique_ids)

    def commit(self, commit: Commit) -> None:
        if self._ended:
            raise RuntimeError("a locked host is committed once at most")
        self._ended = True
        self._store._commit_locked(commit)
