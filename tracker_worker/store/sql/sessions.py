# SPDX-License-Identifier: Apache-2.0
"""Transactions on the pool of an engine: through SQLAlchemy for what is not urgent, through the driver for commits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Conflict, Unstorable
from tracker_worker.store.sql.failures import meaning
from tracker_worker.store.sql.waiting import WriteTurns

# DatabaseError itself is among them: psycopg raises it for an error of libpq that has no SQLSTATE.
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.DatabaseError)


class Sessions:
    """Any thread may use it. ``write_lock`` is held during each transaction that may write."""

    def __init__(self, engine: sa.Engine, write_lock: AbstractContextManager[Any]) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        # The dialect's INSERT, which supports ON CONFLICT.
        self.insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self.dialect]
        self._driver: Any = engine.dialect.loaded_dbapi
        self._write_lock = write_lock
        self._joined = threading.local()  # of ``together``
        self._turns: WriteTurns | None = engine.get_execution_options().get("tracker_turns")
        # The connection of commits, which holds the write lock. To take one from the pool and to give it back takes a tenth of
        # the time of a commit.
        self._kept: Any = None
        self._is_stale = False  # another connection was lost since: most likely, so was this one
        sa.event.listen(engine, "handle_error", self._note_lost)

    def close(self) -> None:
        """Close all connections."""
        with self._write_lock:
            self._drop()
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction whose reads all see one snapshot. Raises StoreUnavailable."""
        level = {} if self._turns is not None else {"isolation_level": "REPEATABLE READ"}
        with _translated(), self.engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the transactions that this thread opens to write in the block be one, which is opened with the first of them."""
        self._check_alone()
        self._joined.stack = stack = ExitStack()
        self._joined.connection = None
        try:
            with stack:
                yield
        finally:
            self._joined.stack = self._joined.connection = None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that may write. Raises StoreUnavailable, and Unstorable for a value that the database cannot
        keep."""
        if (stack := getattr(self._joined, "stack", None)) is None:
            with self._transaction() as connection:
                yield connection
            return
        if self._joined.connection is None:
            self._joined.connection = stack.enter_context(self._transaction())
        with _translated():
            yield self._joined.connection

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._write_lock, _translated():
            connection = self.engine.connect().execution_options(tracker_writes=True)
            try:
                with connection, connection.begin():
                    yield connection
            except (sa.exc.DataError, OverflowError, UnicodeError) as error:
                raise Unstorable(str(error)) from error
        if self._turns is not None:
            self._turns.ended()

    @contextmanager
    def driver(self, *, urgent: bool = False) -> Iterator[Any]:
        """Yield a connection of the driver for a commit: on SQLite in a transaction that may write, on PostgreSQL outside of
        any, in autocommit mode. What the block has not committed is rolled back. ``urgent``: other processes are to leave
        SQLite's lock to this one.

        Raises the errors of SQLAlchemy and of the driver.
        """
        self._check_alone()
        with self._write_lock:
            pooled = self._connection()
            connection: Any = pooled.driver_connection
            try:
                if self._turns is not None:
                    self._turns.begin(connection.execute, pooled.info, urgent=urgent)
                yield connection
            finally:
                try:
                    connection.rollback()
                except self._driver.Error as error:
                    self._drop(error)
                    self.engine.dispose()  # most likely, the server has ended the other connections too
        if self._turns is not None:
            self._turns.ended()

    def _check_alone(self) -> None:
        """Whoever would wait here for the write lock of this thread's own ``together`` would wait for ever."""
        if getattr(self._joined, "stack", None) is not None:
            raise RuntimeError("this thread writes together already")

    def _connection(self) -> Any:
        if self._is_stale:
            self._is_stale = False
            self._drop()
        if self._kept is None:
            pooled: Any = self.engine.raw_connection()
            if self._turns is None:
                try:
                    # A statement by itself is a transaction by itself, without a round trip for its begin and its end.
                    pooled.driver_connection.autocommit = True
                except BaseException as error:
                    pooled.invalidate(error)
                    pooled.close()
                    raise
            self._kept = pooled
        return self._kept

    def _drop(self, error: BaseException | None = None) -> None:
        """Close the connection of commits, which ``error`` has ended."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.invalidate(error)
            kept.close()

    def _note_lost(self, context: sa.engine.ExceptionContext) -> None:
        self._is_stale = self._is_stale or context.is_disconnect


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors that report the state of the database into StoreUnavailable. IntegrityError and errors that report a mistake
    in this package pass."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, sa.exc.TimeoutError) as error:
        failure = meaning(error)
        if isinstance(failure, StoreUnavailable):
            raise failure from error
        if isinstance(failure, Conflict) or type(error) in _AWAY:
            raise StoreUnavailable(reason=str(failure)) from error
        raise
