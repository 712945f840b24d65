# SPDX-License-Identifier: Apache-2.0
"""The store on SQL: SQLite (embedded default) and PostgreSQL (production), through SQLAlchemy Core; commits use the driver."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.resources import CLASSES
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Commit, Conflict, OutboxBacklog, Store, Unstorable
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.commit import CommitWriter
from tracker_worker.store.sql.engines import LOCK_TIMEOUT_SECONDS, create_engine
from tracker_worker.store.sql.migration import ensure_schema
from tracker_worker.store.sql.schema import allocations, attempts, hosts, inbox, nodes, outbox, relay_cursor

_DEADLOCK_DETECTED = "40P01"
"""PostgreSQL has rolled this transaction back to let another transaction continue (its manual, appendix A)."""

# DatabaseError itself is among them: psycopg raises it for an error of libpq that has no SQLSTATE.
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.DatabaseError)


class SQLStore(Store):
    """``url`` is an SQLAlchemy URL of SQLite or PostgreSQL (psycopg). Connections are pooled; SQLite is in WAL mode with
    synchronous=FULL, so that what is committed survives a power cut.

    A method that waits longer than ``lock_timeout_seconds`` for another process's transaction raises StoreUnavailable.
    ``write_lock`` is held during each write: threads of this process wait for it instead of polling SQLite, which has one
    writer. The default is a plain ``threading.Lock``, which serves waiting threads in no particular order. A caller whose
    threads write at the same time passes a fair lock (``tracker_worker.library.fairlock.FairLock``). On PostgreSQL the lock
    costs nothing: a process has one engine.

    Raises ConfigurationError: see ``engines.create_engine``.
    """

    def __init__(
        self,
        url: str,
        *,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        write_lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._engine = create_engine(url, lock_timeout_seconds=lock_timeout_seconds, patient=False)
        # The dialect's INSERT, which supports ON CONFLICT.
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._engine.dialect.name]
        self._driver: Any = self._engine.dialect.loaded_dbapi
        self._writer = CommitWriter(self._engine.dialect.name)
        self._write_lock = threading.Lock() if write_lock is None else write_lock

    def start(self) -> None:
        ensure_schema(self._engine)

    def stop(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        """Open a transaction whose reads all see one snapshot."""
        level = {} if self._engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with _translated(), self._engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """Open a transaction that may write, under the write lock."""
        with self._write_lock, _translated():
            connection = self._engine.connect().execution_options(tracker_writes=True)
            with connection, connection.begin():
                yield connection

    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        record = {"topic": topic, "version": version, "started_at": now, "last_seen_at": now}
        with self._write() as connection:
            connection.execute(
                self._insert(hosts)
                .values(name=name, lease_expires_at=0, **record)
                .on_conflict_do_update(index_elements=[hosts.c.name], set_=record)
            )
            return int(connection.execute(sa.select(hosts.c.id).where(hosts.c.name == name)).scalar_one())

    def host_names(self) -> list[str]:
        with self._read() as connection:
            # Sorted in Python because databases differ in the order of text.
            return sorted(connection.execute(sa.select(hosts.c.name)).scalars())

    def load_host(self, name: str) -> HostLedger | None:
        with self._read() as connection:
            host_id = connection.execute(sa.select(hosts.c.id).where(hosts.c.name == name)).scalar_one_or_none()
            if host_id is None:
                return None
            host = HostLedger(id=host_id, name=name)
            read = {}
            by_id = {}
            of_host = sa.select(nodes).where(nodes.c.host_id == host_id).order_by(nodes.c.id)
            for row in connection.execute(of_host).mappings():
                ledger = by_id[row["id"]] = host.nodes[row["name"]] = rows.ledger_from(name, row)
                read[ledger.id] = row
            charged = sa.select(allocations).where(allocations.c.host_id == host_id)
            for row in connection.execute(charged).mappings():
                by_id[row["node_id"]].restore(rows.allocation_from(row))
        for ledger in host:
            ledger.drift = rows.drift(ledger, read[ledger.id])
        return host

    def create_node(self, host_id: int, name: str) -> None:
        counters = ("running_vms", "current_workload", "io_workload")
        zeros = dict.fromkeys((*(klass.used for klass in CLASSES), *counters), 0)
        with self._write() as connection:
            connection.execute(
                self._insert(nodes)
                .values(host_id=host_id, name=name, generation=0, sequence=0, disabled=True, **zeros)
                .on_conflict_do_nothing()
            )
            node = sa.select(nodes.c.id).where(nodes.c.host_id == host_id, nodes.c.name == name)
            node_id = connection.execute(node).scalar_one()
            connection.execute(self._insert(relay_cursor).values(node_id=node_id, sequence=0).on_conflict_do_nothing())

    def generations(self, host_ids: Collection[int]) -> dict[int, int]:
        query = sa.select(nodes.c.id, nodes.c.generation).where(nodes.c.host_id.in_(list(host_ids)))
        with self._read() as connection:
            return {row.id: row.generation for row in connection.execute(query)}

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        query = sa.select(inbox.c.unique_id, inbox.c.reply).where(inbox.c.unique_id.in_(list(unique_ids)))
        with self._read() as connection:
            return {row.unique_id: bytes(row.reply) for row in connection.execute(query)}

    def count_attempt(self, unique_id: str, now: int) -> int:
        again = {"attempts": attempts.c.attempts + 1, "last_at": now}
        with self._write() as connection:
            connection.execute(
                self._insert(attempts)
                .values(unique_id=unique_id, attempts=1, last_at=now)
                .on_conflict_do_update(index_elements=[attempts.c.unique_id], set_=again)
            )
            counted = sa.select(attempts.c.attempts).where(attempts.c.unique_id == unique_id)
            return int(connection.execute(counted).scalar_one())

    def commit(self, commit: Commit) -> None:
        driver = self._driver
        try:
            with self._write_lock, self._transaction() as cursor:
                self._writer.write(cursor, commit)
        except driver.IntegrityError as error:
            raise Conflict(str(error)) from error
        except (driver.DataError, OverflowError, UnicodeError) as error:
            raise Unstorable(str(error)) from error
        except (driver.ProgrammingError, driver.NotSupportedError):
            raise  # a mistake in this package
        except driver.Error as error:
            if getattr(error, "sqlstate", None) == _DEADLOCK_DETECTED:
                raise Conflict("deadlock with another writer") from error
            raise StoreUnavailable(reason=str(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Open a transaction on a connection of the pool and yield a cursor of the driver. The driver's errors pass."""
        with _translated():
            pooled = self._engine.raw_connection()
        try:
            cursor = pooled.cursor()
            if self._engine.dialect.name == "sqlite":
                cursor.execute("BEGIN IMMEDIATE")  # as the engine does; psycopg begins a transaction by itself
            yield cursor
            pooled.commit()
        except BaseException as error:
            try:
                pooled.rollback()
            except self._driver.Error:
                pooled.invalidate(error)
            raise
        finally:
            pooled.close()

    def cursors(self, host_id: int) -> dict[int, int]:
        query = sa.select(relay_cursor).join(nodes).where(nodes.c.host_id == host_id)
        with self._read() as connection:
            return {row.node_id: row.sequence for row in connection.execute(query)}

    def outbox(self, node_id: int, *, after: int, limit: int) -> list[Notification]:
        place = sa.select(hosts.c.name, nodes.c.name.label("node")).join(nodes).where(nodes.c.id == node_id)
        following = (
            sa.select(outbox)
            .where(outbox.c.node_id == node_id, outbox.c.sequence > after)
            .order_by(outbox.c.sequence)
            .limit(limit)
        )
        with self._read() as connection:
            host, node = connection.execute(place).one()
            found = connection.execute(following).mappings()
            return [rows.notification_from(row, host=host, node=node) for row in found]

    def backlog(self) -> list[OutboxBacklog]:
        waiting = sa.and_(outbox.c.node_id == nodes.c.id, outbox.c.sequence > relay_cursor.c.sequence)
        query = (
            sa.select(
                nodes.c.id.label("node_id"),
                hosts.c.name.label("host"),
                nodes.c.name.label("node"),
                nodes.c.sequence,
                relay_cursor.c.sequence.label("cursor"),
                sa.func.count(outbox.c.sequence).label("rows"),
                sa.func.min(outbox.c.occurred_at).label("oldest_at"),
            )
            .select_from(nodes.join(hosts).join(relay_cursor).outerjoin(outbox, waiting))
            .group_by(nodes.c.id, hosts.c.name, nodes.c.name, nodes.c.sequence, relay_cursor.c.sequence)
            .order_by(hosts.c.name, nodes.c.name)
        )
        with self._read() as connection:
            return [OutboxBacklog(**row) for row in connection.execute(query).mappings()]

    def take_lease(self, host_ids: Iterable[int], owner: str, *, now: int, until: int, force: bool = False) -> set[int]:
        wanted = sorted(host_ids)
        free = sa.or_(hosts.c.lease_owner.is_(None), hosts.c.lease_owner == owner, hosts.c.lease_expires_at < now)
        with self._write() as connection:
            connection.execute(
                sa.update(hosts)
                .where(hosts.c.id.in_(wanted), sa.or_(free, sa.literal(force)))
                .values(lease_owner=owner, lease_expires_at=until, last_seen_at=now)
            )
            held = sa.select(hosts.c.id).where(hosts.c.id.in_(wanted), hosts.c.lease_owner == owner)
            return set(connection.execute(held).scalars())

    def release_lease(self, owner: str) -> None:
        with self._write() as connection:
            connection.execute(sa.update(hosts).where(hosts.c.lease_owner == owner).values(lease_owner=None))

    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        of_host = sa.and_(inbox.c.host_id == host_id, inbox.c.received_at < answered_before)
        old = sa.select(inbox.c.unique_id).where(of_host).limit(limit)
        cursors = sa.select(relay_cursor).join(nodes).where(nodes.c.host_id == host_id)
        with self._write() as connection:
            dropped = connection.execute(sa.delete(inbox).where(inbox.c.unique_id.in_(old))).rowcount
            connection.execute(sa.delete(attempts).where(attempts.c.last_at < answered_before))
            for node_id, cursor in connection.execute(cursors).all():
                of_node = sa.and_(outbox.c.node_id == node_id, outbox.c.sequence <= cursor)
                first = (
                    sa.select(outbox.c.sequence, outbox.c.occurred_at)
                    .where(of_node)
                    .order_by(outbox.c.sequence)
                    .limit(limit)
                )
                done = [sequence for sequence, at in connection.execute(first) if at < occurred_before]
                if done:
                    # The time is compared once more: a clock that was set back leaves younger rows between old rows.
                    old_rows = sa.and_(of_node, outbox.c.sequence <= max(done), outbox.c.occurred_at < occurred_before)
                    dropped += connection.execute(sa.delete(outbox).where(old_rows)).rowcount
            return dropped


@contextmanager
def _translated() -> Iterator[None]:
    """Turn driver errors that report the state of the database into StoreUnavailable. IntegrityError and errors that report a
    mistake in this package pass."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        if type(error) in _AWAY:
            raise StoreUnavailable(reason=str(error.orig)) from error
        raise
    except sa.exc.TimeoutError as error:
        raise StoreUnavailable(reason=str(error)) from error
