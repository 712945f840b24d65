# SPDX-License-Identifier: Apache-2.0
"""Transactions on the pool of an engine: through SQLAlchemy for what is not urgent, through the driver for commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
        self._turns: WriteTurns | None = engine.get_execution_options().get("tracker_turns")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction whose reads all see one snapshot. Raises StoreUnavailable."""
        level = {} if self._turns is not None else {"isolation_level": "REPEATABLE READ"}
        with _translated(), self.engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that may write. Raises StoreUnavailable, and Unstorable for a value that the database cannot
        keep."""
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
        with self._write_lock:
            pooled = self.engine.raw_connection()
            try:
                connection: Any = pooled.driver_connection
                if self._turns is not None:
                    self._turns.begin(connection.execute, pooled.info, urgent=urgent)
                    yield connection
                else:
                    # A statement by itself is a transaction by itself, without a round trip for its begin and its end.
                    connection.autocommit = True
                    yield connection
            finally:
                try:
                    connection.rollback()
                    if self._turns is None:
                        connection.autocommit = False
                except self._driver.Error as error:
                    pooled.invalidate(error)
                pooled.close()
        if self._turns is not None:
            self._turns.ended()


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
