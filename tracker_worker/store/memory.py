# SPDX-License-Identifier: Apache-2.0
"""The store in memory, which ends with its process: the library's default, and the model of every other store in the tests."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter

from tracker_worker import threads
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.ids import NewIds
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import (
    MOST_DEAD_LETTER_BYTES,
    MOST_DEAD_LETTERS,
    NOT_CONFIGURED,
    Commit,
    Conflict,
    DeadLetterRow,
    History,
    InboxRow,
    LockedHost,
    OutboxBacklog,
    Progress,
    Store,
    Stream,
)
from tracker_worker.store.memory_hosts import Cursor, Events, Host, Node

LOG = logging.getLogger(__name__)


class MemoryStore(Store):
    """Values are immutable, so the store may keep and return the same object. Any thread may call any method."""

    def __init__(
        self,
        *,
        now: Callable[[], int] = threads.now_microseconds,
        random_bytes: Callable[[int], bytes] = threads.random_bytes,
    ) -> None:
        """``now`` is the time of the store in microseconds."""
        self._lock = threading.Lock()
        self._now = now
        began_at = now()
        first = NewIds(random_bytes)(began_at)
        self._histories = [History(ledger_id=first, since=began_at, reason="a new database", predecessor=None)]
        self._hosts: dict[str, Host] = {}
        self._nodes: dict[int, Node] = {}
        self._streams: dict[int, Events] = {}
        self._inbox: dict[str, InboxRow] = {}
        self._attempts: dict[str, tuple[int, int]] = {}
        self._dead_letters: dict[int, DeadLetterRow] = {}
        self._letter_ids = itertools.count(1)

    def start(self) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""

    def time(self) -> int:
        return self._now()

    def histories(self) -> list[History]:
        with self._lock:
            return list(self._histories)

    @property
    def _ledger_id(self) -> str:
        return self._histories[-1].ledger_id

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
            return None if host is None else host.loaded(self._ledger_id)

    def refreshed(self, known: Mapping[str, Mapping[int, int]]) -> dict[str, HostLedger]:
        with self._lock:
            hosts = {name: self._hosts[name] for name in known if name in self._hosts}
            return {
                name: host.loaded(self._ledger_id)
                for name, host in hosts.items()
                if not known[name] or known[name] != host.generations()
            }

    @contextmanager
    def locked(self, host_id: int) -> Iterator[LockedHost]:
        with self._lock:
            yield _LockedHost(self, self._host_locked(host_id).loaded(self._ledger_id))

    def _host_locked(self, host_id: int) -> Host:
        for host in self._hosts.values():
            if host.id == host_id:
                return host
        raise LookupError(f"no host has the id {host_id}")

    def create_node(self, host_id: int, name: str) -> None:
        with self._lock:
            host = self._host_locked(host_id)
            if name not in host.nodes:
                stream = self._stream_locked(host.name, name)
                node = Node(id=len(self._nodes) + 1, host=host, name=name, stream=stream)
                host.nodes[name] = self._nodes[node.id] = node

    def _stream_locked(self, host: str, node: str) -> Events:
        for stream in self._streams.values():
            if (stream.host, stream.node) == (host, node):
                return stream
        stream = Events(id=len(self._streams) + 1, host=host, node=node)
        self._streams[stream.id] = stream
        return stream

    def generations(self, host_ids: Collection[int]) -> dict[int, int]:
        with self._lock:
            return {node.id: node.generation for node in self._nodes.values() if node.host.id in host_ids}

    def progress(self, hosts: Collection[str]) -> Progress:
        with self._lock:
            streams = [stream for stream in self._streams.values() if stream.host in hosts]
            return Progress(
                ledger_id=self._ledger_id,
                generations={node.id: node.generation for node in self._nodes.values() if node.host.name in hosts},
                sequences={stream.id: stream.sequence for stream in streams},
                cursors={(s.id, topic): cursor.sequence for s in streams for topic, cursor in s.cursors.items()},
            )

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
        if commit.history is not None:
            self._histories.append(commit.history)
            for stream in self._streams.values():
                stream.lower_cursors()
        for ledger in commit.ledgers:
            self._write_locked(ledger)
        for notification in commit.notifications:
            self._streams[notification.stream_id].outbox[notification.sequence] = notification
        for message in commit.inbox_rows:
            self._inbox[message.unique_id] = message
        for (stream_id, topic), sequence in commit.cursors.items():
            cursor = self._streams[stream_id].cursors.get(topic)
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
        if commit.history is not None and commit.history.predecessor != self._ledger_id:
            raise Conflict("the history has a successor already")
        present = self._ledger_id if commit.history is None else commit.history.ledger_id
        if commit.ledger_id not in (None, present):
            raise Conflict("the present history is another one")
        for ledger in commit.ledgers:
            node = self._nodes[ledger.id]
            if node.generation != ledger.stored_generation:
                raise Conflict(f"node {node.name} is at generation {node.generation}, not {ledger.stored_generation}")
        self._check_charges_locked(commit)
        new = {(notification.stream_id, notification.sequence) for notification in commit.notifications}
        if len(new) != len(commit.notifications) or any(s in self._streams[stream_id].outbox for stream_id, s in new):
            raise Conflict("a sequence number is taken")

    def _check_charges_locked(self, commit: Commit) -> None:
        touched = {allocation_id for ledger in commit.ledgers for allocation_id in ledger.touched}
        for host in {self._nodes[ledger.id].host.id: self._nodes[ledger.id].host for ledger in commit.ledgers}.values():
            left = (a for node in host.nodes.values() for a in node.allocations.values() if a.id not in touched)
            of_host = (ledger for ledger in commit.ledgers if self._nodes[ledger.id].host is host)
            new = (a for ledger in of_host for a in ledger.touched.values() if a is not None)
            charged = Counter((a.uuid, a.role) for a in (*left, *new))
            if any(count > 1 for count in charged.values()):
                raise Conflict("an instance is charged to another node of the host")

    def _write_locked(self, ledger: NodeLedger) -> None:
        node = self._nodes[ledger.id]
        node.generation, node.life, node.inventory = ledger.generation, ledger.life, ledger.inventory
        node.stream.sequence, node.stream.last_at = ledger.sequence, ledger.last_at
        for allocation_id, allocation in ledger.touched.items():
            if allocation is None:
                node.allocations.pop(allocation_id, None)
            else:
                node.allocations[allocation_id] = allocation
        for uuid in ledger.noted:
            for other in node.host.nodes.values():
                other.deletions.pop(uuid, None)
            if uuid in ledger.deletions:
                node.deletions[uuid] = ledger.deletions[uuid]

    def probe(self, host_id: int, now: int) -> None:
        with self._lock:
            self._host_locked(host_id).last_seen_at = now

    def streams(self, host: str) -> list[Stream]:
        with self._lock:
            return self._streams_locked(host)

    def _streams_locked(self, host: str) -> list[Stream]:
        return sorted((s.seen() for s in self._streams.values() if s.host == host), key=attrgetter("node"))

    def open_cursors(self, host: str, topics: Sequence[str]) -> list[Stream]:
        with self._lock:
            for stream in (stream for stream in self._streams.values() if stream.host == host):
                start = stream.sequence if stream.cursors else stream.left_at
                if stream.cursors and not topics:
                    stream.left_at = stream.confirmed
                for topic in stream.cursors.keys() - set(topics):
                    LOG.warning(NOT_CONFIGURED, host, stream.node, topic, stream.cursors.pop(topic).sequence)
                for topic in topics:
                    stream.cursors.setdefault(topic, Cursor(start))
            return self._streams_locked(host)

    def mark_refused(self, stream_id: int, topic: str, sequence: int, reason: str | None) -> None:
        with self._lock:
            cursor = self._streams[stream_id].cursors.get(topic)
            if cursor is not None:
                cursor.refused_sequence = None if reason is None else sequence
                cursor.refused_reason = reason

    def outbox(self, stream_id: int, *, after: int, limit: int, max_bytes: int = sys.maxsize) -> list[Notification]:
        with self._lock:
            rows = self._streams[stream_id].outbox
            following = [rows[sequence] for sequence in sorted(rows) if sequence > after][:limit]
            totals = itertools.accumulate(len(notification.payload) for notification in following)
            fitting = sum(total <= max_bytes for total in totals)
            return following[: max(1, fitting)]

    def backlog(self) -> list[OutboxBacklog]:
        with self._lock:
            streams = sorted(self._streams.values(), key=attrgetter("host", "node"))
            blocked = {name: host.blocked_since for name, host in self._hosts.items()}
            return [s.backlog(topic, blocked.get(s.host)) for s in streams for topic in sorted(s.cursors)]

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
            host = self._host_locked(host_id).name
            for stream in (stream for stream in self._streams.values() if stream.host == host):
                done = [
                    s for s, n in stream.outbox.items() if s <= stream.confirmed and n.occurred_at < occurred_before
                ]
                for sequence in done[:limit]:
                    del stream.outbox[sequence]
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
