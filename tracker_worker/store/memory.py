# SPDX-License-Identifier: Apache-2.0
"""The store in memory, which ends with its process: the library's default, and the model of every other store in the tests."""

from __future__ import annotations

import heapq
import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter

from msgspec.structs import replace

from tracker_worker import threads
from tracker_worker.domain.allocation import INCOMING, Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import KEPT, Move
from tracker_worker.domain.segments import InstanceUsage
from tracker_worker.ids import NewIds
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import (
    CARETAKER,
    NOT_CONFIGURED,
    Commit,
    DeadLetterRow,
    History,
    HostRecord,
    LockedHost,
    LockedStore,
    OutboxBacklog,
    Progress,
    Store,
    Stream,
    StreamPage,
)
from tracker_worker.store.memory_commit import Rows, check, write
from tracker_worker.store.memory_hosts import Cursor, usage_of
from tracker_worker.store.memory_outcomes import DeadLetters, MemoryHistory, Refusals

LOG = logging.getLogger(__name__)


class MemoryStore(MemoryHistory, Store):
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
        begun = History(ledger_id=first, since=began_at, reason="a new database", predecessor=None)
        self._rows = Rows([begun])
        self._attempts: dict[str, tuple[int, int]] = {}
        self._dead_letters = DeadLetters()
        self._refusals = Refusals()

    def start(self) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def time(self) -> int:
        return self._now()

    def histories(self) -> list[History]:
        with self._lock:
            return list(self._rows.histories)

    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        with self._lock:
            host = self._rows.registered(name)
            host.version, host.started_at, host.last_seen_at = version, now, now
            return host.id

    def host_names(self) -> list[str]:
        with self._lock:
            return sorted(self._rows.hosts)

    def hosts(self) -> list[HostRecord]:
        with self._lock:
            return sorted((host.record() for host in self._rows.hosts.values()), key=attrgetter("name"))

    def host(self, name: str) -> HostRecord | None:
        with self._lock:
            host = self._rows.hosts.get(name)
            return None if host is None else host.record()

    def renew_token(self, host_id: int, token: str) -> None:
        with self._lock:
            host = self._rows.host(host_id)
            if host.token != token:
                host.token, host.previous_token = token, host.token

    def forget_host(self, host_id: int) -> None:
        with self._lock:
            self._rows.forget_host(host_id)

    def load_host(self, name: str) -> HostLedger | None:
        with self._lock:
            host = self._rows.hosts.get(name)
            return None if host is None else host.loaded(self._rows.ledger_id)

    def refreshed(
        self, known: Mapping[str, Mapping[int, int]], *, ledger_id: str | None = None
    ) -> dict[str, HostLedger]:
        with self._lock:
            hosts = {name: self._rows.hosts[name] for name in known if name in self._rows.hosts}
            return {
                name: host.loaded(self._rows.ledger_id)
                for name, host in hosts.items()
                if not known[name] or known[name] != host.generations() or ledger_id not in (None, self._rows.ledger_id)
            }

    @contextmanager
    def locked(self, host_id: int) -> Iterator[LockedHost]:
        with self._lock:
            yield _LockedHost(self, self._rows.host(host_id).loaded(self._rows.ledger_id))

    @contextmanager
    def all_locked(self) -> Iterator[LockedStore]:
        with self._lock:
            names = sorted(self._rows.hosts)
            yield _LockedStore(self, [self._rows.hosts[name].loaded(self._rows.ledger_id) for name in names])

    def create_node(self, host_id: int, name: str) -> None:
        with self._lock:
            self._rows.create_node(self._rows.host(host_id), name)

    def stream_id(self, host: str, node: str) -> int:
        with self._lock:
            return self._rows.stream(host, node).id

    def allocations(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        project_id: str | None = None,
        role: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int,
    ) -> list[tuple[str, str, Allocation]]:
        with self._lock:
            places = [each for each in self._rows.nodes.values() if host in (None, each.host.name)]
            found = [
                (each.host.name, each.name, allocation)
                for each in places
                if node in (None, each.name)
                for allocation in each.allocations.values()
                if project_id in (None, allocation.instance.project_id)
                and role in (None, allocation.role)
                and (after is None or (allocation.uuid, allocation.id) > after)
            ]
            return heapq.nsmallest(limit, found, key=lambda row: (row[2].uuid, row[2].id))

    def incoming(self, uuids: Collection[str]) -> dict[str, tuple[str, str]]:
        with self._lock:
            return {
                uuid: (node.host.name, node.name)
                for node in self._rows.nodes.values()
                for uuid in uuids
                if (uuid, INCOMING) in node.charged
            }

    def moves(self, *, move_id: str | None = None, open: bool | None = None, limit: int) -> list[tuple[str, Move]]:
        with self._lock:
            found = [
                (node.host.name, move)
                for node in self._rows.nodes.values()
                for move in node.moves.values()
                if move_id in (None, move.id) and open in (None, move.open)
            ]
            return sorted(found, key=lambda each: (each[1].id, each[0]))[:limit]

    def untold_moves(
        self, *, kind: str | None = None, from_host: str | None = None, after: str = "", limit: int
    ) -> list[Move]:
        with self._lock:
            records: dict[str, set[str]] = {}
            for node in self._rows.nodes.values():
                records.setdefault(node.host.name, set()).update(node.moves)
            found = [
                move
                for node in self._rows.nodes.values()
                for move in node.moves.values()
                if move.state in KEPT
                and move.id > after
                and kind in (None, move.kind)
                and from_host in (None, move.from_host)
                and move.from_host not in (None, node.host.name)
                and move.id not in records.get(move.from_host, {move.id})
            ]
            return sorted(found, key=lambda move: move.id)[:limit]

    def missing_nodes(self) -> list[tuple[str, str]]:
        with self._lock:
            nodes = self._rows.nodes.values()
            return sorted((node.host.name, node.name) for node in nodes if node.allocations and not node.life.listed)

    def billed(self, node_id: int, *, beginning: int, ending: int) -> dict[str, int]:
        with self._lock:
            return {} if (node := self._rows.nodes.get(node_id)) is None else node.billed(beginning, ending)

    def usage(self, node_id: int, uuids: Collection[str], *, beginning: int, ending: int) -> list[InstanceUsage]:
        with self._lock:
            return usage_of(self._rows.nodes.get(node_id), uuids, beginning, ending)

    def closed_periods(self, node_id: int, *, since: int, until: int) -> list[tuple[int, int]]:
        with self._lock:
            node = self._rows.nodes.get(node_id)
            return [each for each in (() if node is None else node.closed) if each[1] > since and each[0] < until]

    def progress(self, hosts: Collection[str]) -> Progress:
        with self._lock:
            return self._rows.progress(hosts)

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        with self._lock:
            return self._answered_locked(unique_ids)

    def _answered_locked(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        return {uid: self._rows.inbox[uid].reply for uid in unique_ids if uid in self._rows.inbox}

    def count_attempt(self, unique_id: str, now: int) -> int:
        with self._lock:
            count, _ = self._attempts.get(unique_id, (0, 0))
            self._attempts[unique_id] = (count + 1, now)
            return count + 1

    def commit(self, commit: Commit) -> None:
        with self._lock:
            self._commit_locked(commit)

    def _commit_locked(self, commit: Commit) -> None:
        check(self._rows, commit)
        write(self._rows, commit)

    def probe(self, host_id: int, now: int) -> None:
        with self._lock:
            self._rows.host(host_id).last_seen_at = now

    def streams(self, host: str) -> list[Stream]:
        with self._lock:
            return self._streams_locked(host)

    def streams_without_host(self) -> list[str]:
        with self._lock:
            return sorted({s.host for s in self._rows.streams.values() if s.waits and s.host not in self._rows.hosts})

    def left_streams(self) -> list[Stream]:
        with self._lock:
            taken = {node.stream.id for node in self._rows.nodes.values()}
            left = [replace(s.seen(), cursors={}) for s in self._rows.streams.values() if s.id not in taken]
            return sorted(left, key=attrgetter("host", "node"))

    def _streams_locked(self, host: str) -> list[Stream]:
        return sorted((s.seen() for s in self._rows.streams.values() if s.host == host), key=attrgetter("node"))

    def open_cursors(self, host: str, topics: Sequence[str]) -> list[Stream]:
        with self._lock:
            for stream in (stream for stream in self._rows.streams.values() if stream.host == host):
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
            cursor = self._rows.streams[stream_id].cursors.get(topic)
            if cursor is not None:
                cursor.refused_sequence = None if reason is None else sequence
                cursor.refused_reason = reason

    def outbox(self, stream_id: int, *, after: int, limit: int, max_bytes: int = sys.maxsize) -> list[Notification]:
        with self._lock:
            return self._rows.streams[stream_id].following(after=after, limit=limit, max_bytes=max_bytes)

    def stream_page(self, host: str, node: str, *, after: int, limit: int, max_bytes: int) -> StreamPage | None:
        with self._lock:
            stream = self._rows.find_stream(host, node)
            if stream is None:
                return None
            found = stream.following(after=after, limit=limit, max_bytes=max_bytes)
            ledger_id = self._rows.ledger_id
            return StreamPage(ledger_id=ledger_id, first=stream.first, last=stream.sequence, notifications=found)

    def backlog(self) -> list[OutboxBacklog]:
        with self._lock:
            streams = sorted(self._rows.streams.values(), key=attrgetter("host", "node"))
            blocked = {name: host.blocked_since for name, host in self._rows.hosts.items()}
            return [s.backlog(topic, blocked.get(s.host)) for s in streams for topic in sorted(s.cursors)]

    def keep_dead_letters(self, rows: Sequence[DeadLetterRow]) -> int:
        with self._lock:
            return self._dead_letters.keep(rows)

    def dead_letters(self, limit: int) -> list[tuple[int, DeadLetterRow]]:
        with self._lock:
            return self._dead_letters.oldest(limit)

    def drop_dead_letters(self, ids: Collection[int]) -> None:
        with self._lock:
            self._dead_letters.drop(ids)

    def take_lease(
        self,
        host_ids: Iterable[int],
        owner: str,
        *,
        now: int,
        until: int,
        force: bool = False,
        blocked_since: int | None = None,
        serves: Collection[int] | None = None,
    ) -> set[int]:
        with self._lock:
            wanted, held, latest = set(host_ids), set(), until + (until - now) // 2
            for host in self._rows.hosts.values():
                expired = host.lease_expires_at < now or host.lease_expires_at > latest
                cared_for = not owner.endswith(CARETAKER) and (host.lease_owner or "").endswith(CARETAKER)
                free = force or expired or cared_for or host.lease_owner in (None, owner)
                if host.id in wanted and free:
                    host.lease_owner, host.lease_expires_at = owner, until
                    host.last_seen_at, host.blocked_since = now, blocked_since
                    held.add(host.id)
                if serves is not None:
                    others = {name: at for name, at in host.workers.items() if now <= at <= latest and name != owner}
                    host.workers = {**others, owner: until} if host.id in serves else others
            return held

    def release_lease(self, owner: str) -> None:
        with self._lock:
            for host in self._rows.hosts.values():
                host.workers.pop(owner, None)
                if host.lease_owner == owner:
                    host.lease_owner = host.blocked_since = None

    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        with self._lock:
            of_host = [message for message in self._rows.inbox.values() if message.host_id == host_id]
            old = [message.unique_id for message in of_host if message.received_at < answered_before][:limit]
            for uid in old:
                del self._rows.inbox[uid]
            dropped = len(old)
            self._attempts = {uid: kept for uid, kept in self._attempts.items() if kept[1] >= answered_before}
            host = self._rows.host(host_id).name
            own = [s for s in self._rows.streams.values() if s.host == host or s.host not in self._rows.hosts]
            dropped += sum(node.forget_usage(limit) for node in self._rows.host(host_id).nodes.values())
            return dropped + sum(stream.prune(occurred_before, limit) for stream in own)


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


class _LockedStore(LockedStore):
    """Used while the store's lock is held."""

    def __init__(self, store: MemoryStore, hosts: list[HostLedger]) -> None:
        self.hosts = hosts
        self._store = store

    def commit(self, commit: Commit) -> None:
        self._store._commit_locked(commit)
