# SPDX-License-Identifier: Apache-2.0
"""The store on SQL: SQLite (embedded default) and PostgreSQL (production), through SQLAlchemy Core; commits use the driver."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import sqlalchemy as sa

from tracker_worker import threads
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.move import Move
from tracker_worker.domain.segments import InstanceUsage
from tracker_worker.domain.values import SECOND
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import (
    Commit,
    DeadLetterRow,
    History,
    HostRecord,
    LockedHost,
    LockedStore,
    OutboxBacklog,
    Progress,
    RefusalRow,
    Store,
    Stream,
    StreamPage,
)
from tracker_worker.store.sql import cursors, dead_letters, outcomes, reading, rows, segments, service_records
from tracker_worker.store.sql.commit import Writer
from tracker_worker.store.sql.engines import LOCK_TIMEOUT_SECONDS, create_engine
from tracker_worker.store.sql.failures import explained
from tracker_worker.store.sql.file import watched_file
from tracker_worker.store.sql.locked import SQLLockedHost, SQLLockedStore
from tracker_worker.store.sql.migration import check_rights, ensure_schema
from tracker_worker.store.sql.pruning import Pruning
from tracker_worker.store.sql.schema import allocations, attempts, histories, hosts, inbox, moves, nodes, streams
from tracker_worker.store.sql.sessions import Sessions
from tracker_worker.store.sql.sqlite import SQLiteWriter


class SQLStore(Store):
    """``url`` is an SQLAlchemy URL of SQLite or PostgreSQL (psycopg). Connections are pooled; SQLite is in WAL mode with
    synchronous=FULL, so that what is committed survives a power cut.

    A method that waits longer than ``lock_timeout_seconds`` for another process's transaction raises StoreUnavailable; on
    PostgreSQL this is HostLocked. ``write_lock`` is held during each write: threads of this process wait for it instead of
    polling SQLite, which has one writer. The default is a plain ``threading.Lock``, which serves waiting threads in no
    particular order. A caller whose threads write at the same time passes a fair lock
    (``tracker_worker.library.fairlock.FairLock``). On PostgreSQL the lock costs nothing: a process has one engine.
    ``patient``: a PostgreSQL server may be silent for longer than ``read_timeout`` allows, for a command that reads much.
    ``monotonic``, ``wall_clock`` and ``sleep`` use seconds; ``now`` is the time of SQLite's machine in microseconds. ``engine``
    is SQLAlchemy's, for listeners; they are added before ``start``.

    Raises ConfigurationError: see ``engines.create_engine``.
    """

    def __init__(
        self,
        url: str,
        *,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        patient: bool = False,
        write_lock: AbstractContextManager[Any] | None = None,
        monotonic: Callable[[], float] = threads.monotonic,
        wall_clock: Callable[[], float] = threads.wall_clock,
        sleep: Callable[[float], None] = threads.sleep,
        now: Callable[[], int] = threads.now_microseconds,
    ) -> None:
        self.engine = create_engine(
            url,
            lock_timeout_seconds=lock_timeout_seconds,
            patient=patient,
            monotonic=monotonic,
            wall_clock=wall_clock,
            sleep=sleep,
        )
        self._sessions = Sessions(self.engine, threading.Lock() if write_lock is None else write_lock)
        self._writer = _writer(self._sessions.dialect)
        self._pruning = Pruning()
        self._now = now
        self._file = watched_file(self.engine.url)

    def start(self) -> None:
        check_rights(self.engine)
        ensure_schema(self.engine)
        if self._file is not None:
            self._file.remember()

    def stop(self) -> None:
        self._sessions.close()

    def pool(self) -> str:
        return self.engine.pool.status()

    def check(self) -> None:
        if self._file is not None:
            self._file.check()

    def time(self) -> int:
        if self._sessions.dialect == "sqlite":
            return self._now()  # the database is on this machine
        with self._sessions.read() as connection:
            now = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            return int(now * SECOND)

    def histories(self) -> list[History]:
        with self._sessions.read() as connection:
            found = connection.execute(sa.select(histories).order_by(histories.c.number))
            return [
                History(ledger_id=row.ledger_id, since=row.since, reason=row.reason, predecessor=row.predecessor)
                for row in found
            ]

    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        record = {"topic": topic, "version": version, "started_at": now, "last_seen_at": now}
        with self._sessions.write() as connection:
            connection.execute(
                self._sessions.insert(hosts)
                .values(name=name, lease_expires_at=0, **record)
                .on_conflict_do_update(index_elements=[hosts.c.name], set_=record)
            )
            return int(connection.execute(sa.select(hosts.c.id).where(hosts.c.name == name)).scalar_one())

    def host_names(self) -> list[str]:
        with self._sessions.read() as connection:
            # Sorted in Python because databases differ in the order of text.
            return sorted(connection.execute(sa.select(hosts.c.name)).scalars())

    def hosts(self) -> list[HostRecord]:
        with self._sessions.read() as connection:
            return service_records.read(connection)

    def host(self, name: str) -> HostRecord | None:
        with self._sessions.read() as connection:
            return next(iter(service_records.read(connection, name)), None)

    def renew_token(self, host_id: int, token: str) -> None:
        with self._sessions.write() as connection:
            service_records.renew_token(connection, host_id, token)

    def forget_host(self, host_id: int) -> None:
        with self._sessions.write() as connection:
            service_records.forget(connection, host_id)

    def load_host(self, name: str) -> HostLedger | None:
        with self._sessions.read() as connection:
            return reading.load_host(connection, name)

    def refreshed(
        self, known: Mapping[str, Mapping[int, int]], *, ledger_id: str | None = None
    ) -> dict[str, HostLedger]:
        with self._sessions.read() as connection:
            found = reading.refreshed(connection, known, ledger_id)
        self.check()  # what is read from a file that is gone is no answer
        return found

    @contextmanager
    def locked(self, host_id: int) -> Iterator[LockedHost]:
        with ExitStack() as stack:
            with explained():
                connection = stack.enter_context(self._sessions.driver(urgent=True))
                ledger = self._writer.lock(connection, host_id)
            if ledger is None:
                raise LookupError(f"no host has the id {host_id}")
            yield SQLLockedHost(connection, self._writer, ledger, self.check)

    @contextmanager
    def all_locked(self) -> Iterator[LockedStore]:
        with ExitStack() as stack:
            with explained():
                connection = stack.enter_context(self._sessions.driver(urgent=True))
                found = self._writer.lock_all(connection)
            yield SQLLockedStore(connection, self._writer, found, self.check)

    def together(self) -> AbstractContextManager[None]:
        return self._sessions.together()

    def create_node(self, host_id: int, name: str) -> None:
        with self._sessions.write() as connection:
            # A locked host gets no new node; and a host that does not exist none at all.
            host = sa.select(hosts.c.name).where(hosts.c.id == host_id).with_for_update(key_share=True)
            host_name = connection.execute(host).scalar_one()
            stream_id = cursors.stream(connection, self._sessions.insert, host_name, name)
            left_at = sa.select(streams.c.generation).where(streams.c.id == stream_id)
            generation = connection.execute(left_at).scalar_one()
            empty = NodeLedger(id=0, host=host_name, name=name, generation=generation)
            connection.execute(
                self._sessions.insert(nodes)
                .values(host_id=host_id, name=name, stream_id=stream_id, **rows.node_values(empty))
                .on_conflict_do_nothing()
            )

    def missing_nodes(self) -> list[tuple[str, str]]:
        with self._sessions.read() as connection:
            return reading.missing_nodes(connection)

    def stream_id(self, host: str, node: str) -> int:
        with self._sessions.write() as connection:
            return cursors.stream(connection, self._sessions.insert, host, node)

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
        having = {
            hosts.c.name: host,
            nodes.c.name: node,
            allocations.c.project_id: project_id,
            allocations.c.role: role,
        }
        with self._sessions.read() as connection:
            return reading.page(connection, having, after=after, limit=limit)

    def incoming(self, uuids: Collection[str]) -> dict[str, tuple[str, str]]:
        with self._sessions.read() as connection:
            return reading.incoming(connection, uuids)

    def moves(self, *, move_id: str | None = None, open: bool | None = None, limit: int) -> list[tuple[str, Move]]:
        with self._sessions.read() as connection:
            return reading.known_moves(connection, {moves.c.id: move_id, moves.c.open: open}, limit)

    def untold_moves(
        self, *, kind: str | None = None, from_host: str | None = None, after: str = "", limit: int
    ) -> list[Move]:
        having: dict[sa.Column[Any], object] = {moves.c.kind: kind, moves.c.from_host: from_host}
        with self._sessions.read() as connection:
            return reading.untold_moves(connection, having, after=after, limit=limit)

    def billed(self, node_id: int, *, beginning: int, ending: int) -> dict[str, int]:
        with self._sessions.read() as connection:
            return segments.billed(connection, node_id, beginning=beginning, ending=ending)

    def usage(self, node_id: int, uuids: Collection[str], *, beginning: int, ending: int) -> list[InstanceUsage]:
        with self._sessions.read() as connection:
            return segments.usage(connection, node_id, uuids, beginning=beginning, ending=ending)

    def closed_periods(self, node_id: int, *, since: int, until: int) -> list[tuple[int, int]]:
        with self._sessions.read() as connection:
            return segments.periods(connection, node_id, since=since, until=until)

    def progress(self, hosts: Collection[str]) -> Progress:
        with self._sessions.read() as connection:
            return reading.progress(connection, hosts)

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        query = sa.select(inbox.c.unique_id, inbox.c.reply).where(inbox.c.unique_id.in_(list(unique_ids)))
        with self._sessions.read() as connection:
            return {row.unique_id: bytes(row.reply) for row in connection.execute(query)}

    def count_attempt(self, unique_id: str, now: int) -> int:
        again = {"attempts": attempts.c.attempts + 1, "last_at": now}
        with self._sessions.write() as connection:
            connection.execute(
                self._sessions.insert(attempts)
                .values(unique_id=unique_id, attempts=1, last_at=now)
                .on_conflict_do_update(index_elements=[attempts.c.unique_id], set_=again)
            )
            counted = sa.select(attempts.c.attempts).where(attempts.c.unique_id == unique_id)
            return int(connection.execute(counted).scalar_one())

    def commit(self, commit: Commit) -> None:
        try:
            with explained(), self._sessions.driver() as connection:
                self._writer.commit(connection, commit)
        finally:
            self.check()  # whatever came of it, in another file it is worth nothing

    def probe(self, host_id: int, now: int) -> None:
        with self._sessions.write() as connection:
            connection.execute(sa.update(hosts).where(hosts.c.id == host_id).values(last_seen_at=now))

    def streams(self, host: str) -> list[Stream]:
        with self._sessions.read() as connection:
            return cursors.read(connection, host)

    def streams_without_host(self) -> list[str]:
        with self._sessions.read() as connection:
            return cursors.without_host(connection)

    def left_streams(self) -> list[Stream]:
        with self._sessions.read() as connection:
            return cursors.left(connection)

    def open_cursors(self, host: str, topics: Sequence[str]) -> list[Stream]:
        with self._sessions.write() as connection:
            return cursors.open_cursors(connection, self._sessions.insert, host, topics)

    def mark_refused(self, stream_id: int, topic: str, sequence: int, reason: str | None) -> None:
        with self._sessions.write() as connection:
            cursors.mark_refused(connection, stream_id, topic, sequence, reason)

    def outbox(self, stream_id: int, *, after: int, limit: int, max_bytes: int = sys.maxsize) -> list[Notification]:
        with self._sessions.read() as connection:
            return cursors.following(connection, stream_id, after=after, limit=limit, max_bytes=max_bytes)

    def stream_page(self, host: str, node: str, *, after: int, limit: int, max_bytes: int) -> StreamPage | None:
        with self._sessions.read() as connection:
            return cursors.page(connection, host, node, after=after, limit=limit, max_bytes=max_bytes)

    def backlog(self) -> list[OutboxBacklog]:
        with self._sessions.read() as connection:
            return cursors.backlog(connection)

    def keep_dead_letters(self, rows: Sequence[DeadLetterRow]) -> int:
        with self._sessions.write() as connection:
            return dead_letters.keep(connection, rows)

    def dead_letters(self, limit: int) -> list[tuple[int, DeadLetterRow]]:
        with self._sessions.read() as connection:
            return dead_letters.read(connection, limit)

    def drop_dead_letters(self, ids: Collection[int]) -> None:
        with self._sessions.write() as connection:
            dead_letters.drop(connection, ids)

    def keep_refusals(self, rows: Sequence[RefusalRow], most: int) -> None:
        with self._sessions.write() as connection:
            outcomes.keep_refusals(connection, self._sessions.insert, rows, most)

    def refusals(
        self, *, host: str | None = None, node: str | None = None, instance_uuid: str | None = None, since: int = 0
    ) -> list[RefusalRow]:
        with self._sessions.read() as connection:
            return outcomes.refused(connection, host=host, node=node, instance_uuid=instance_uuid, since=since)

    def told(
        self,
        *,
        event_types: Collection[str],
        host: str | None = None,
        node: str | None = None,
        since: int = 0,
        containing: bytes = b"",
        before: tuple[int, int, int] | None = None,
        limit: int,
    ) -> list[Notification]:
        names = {"host": host, "node": node}
        with self._sessions.read() as connection:
            return outcomes.told(
                connection, names, event_types, since=since, containing=containing, before=before, limit=limit
            )

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
        with self._sessions.write() as connection:
            held = service_records.take_lease(
                connection, sorted(host_ids), owner, now=now, until=until, force=force, blocked_since=blocked_since
            )
            if serves is not None:
                service_records.note_worker(connection, self._sessions.insert, owner, serves, now=now, until=until)
            return held

    def release_lease(self, owner: str) -> None:
        with self._sessions.write() as connection:
            service_records.release_lease(connection, owner)

    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        with self._sessions.write() as connection:
            return self._pruning.prune(
                connection,
                host_id,
                answered_before=answered_before,
                occurred_before=occurred_before,
                limit=limit,
            )


def _writer(dialect: str) -> Writer:
    if dialect == "sqlite":
        return SQLiteWriter()
    # Imported here because psycopg is installed only where PostgreSQL is used.
    from tracker_worker.store.sql.postgresql import PostgreSQLWriter

    return PostgreSQLWriter()
