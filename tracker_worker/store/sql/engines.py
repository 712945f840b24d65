# SPDX-License-Identifier: Apache-2.0
"""Database engines with the settings that the store needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from tracker_worker import threads
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.sql.file import ensure_private_file
from tracker_worker.store.sql.location import sqlite_path
from tracker_worker.store.sql.waiting import WriteTurns

LOCK_TIMEOUT_SECONDS = 1.5
"""A commit that waits so long for another writer's lock gives up, and the worker retries it. While a commit waits, the worker
does nothing else, and does not answer calls that are about to expire. The timeout is longer than PostgreSQL waits before it
looks for a deadlock (1 s)."""
IDLE_TRANSACTION_TIMEOUT_SECONDS = 20
"""PostgreSQL ends the session of a stalled writer (a stopped process that holds a lock) after this time, so that a successor
can continue."""
CONNECT_TIMEOUT_SECONDS = 3
_LOCK_POLL_SECONDS = 0.01
"""The interval of the attempts to take a lock for which SQLite does not wait."""


def create_engine(
    url: str,
    *,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    patient: bool = True,
    monotonic: Callable[[], float] = threads.monotonic,
    wall_clock: Callable[[], float] = threads.wall_clock,
    sleep: Callable[[float], None] = threads.sleep,
) -> sa.Engine:
    """Return an engine for an SQLite file or for PostgreSQL with psycopg, without connecting.

    Unless ``patient``, the engine treats a silent PostgreSQL server as lost (see ``read_timeout``), even one that is only
    busy; a migration needs a patient engine. ``monotonic``, ``wall_clock`` and ``sleep`` use seconds. Any thread may use the
    engine. An engine for SQLite has its ``WriteTurns`` as the execution option ``tracker_turns``.

    Raises ConfigurationError: the URL is malformed or names another database or driver, or the driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
            turns = WriteTurns(
                sqlite_path(parsed),
                lock_timeout_seconds=lock_timeout_seconds,
                monotonic=monotonic,
                wall_clock=wall_clock,
                sleep=sleep,
            )
            return _sqlite(parsed, lock_timeout_seconds, turns, monotonic, sleep)
        if parsed.drivername in ("postgresql", "postgresql+psycopg"):
            return _postgresql(parsed, lock_timeout_seconds, None if patient else monotonic)
    except ArgumentError as error:
        raise ConfigurationError(f"[database] connection is not a usable URL: {error}") from error
    except ValueError:
        # The error quotes the text that is not a number, which may be a password.
        raise ConfigurationError("[database] connection is not a usable URL: a number was expected") from None
    except ImportError as error:
        raise ConfigurationError(
            f"[database] connection needs a driver that is not installed ({error.name}): "
            "install the package with its extra postgresql, in its source tree: pip install '.[postgresql]'"
        ) from error
    raise ConfigurationError(
        f"[database] connection is for {parsed.drivername}; sqlite and postgresql+psycopg are supported"
    )


def _sqlite(
    url: sa.URL,
    lock_timeout_seconds: float,
    turns: WriteTurns,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": lock_timeout_seconds, "check_same_thread": False},
        execution_options={"tracker_turns": turns},
    )

    @sa.event.listens_for(engine, "do_connect")
    def create(_dialect: Any, _record: Any, _arguments: Any, _options: Any) -> None:
        ensure_private_file(url)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the listener below begins transactions, not the driver
        _use_write_ahead_log(connection, lock_timeout_seconds, monotonic, sleep)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock first: a reader that becomes a writer fails immediately if its snapshot is stale.
        if connection.get_execution_options().get("tracker_writes"):
            turns.begin(connection.exec_driver_sql, connection.info)
        else:
            turns.begin_reading(connection.exec_driver_sql, connection.info)

    return engine


def _use_write_ahead_log(
    connection: sqlite3.Connection,
    lock_timeout_seconds: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Set the journal mode of the file to WAL. Only the first connection to a new file changes the mode, which takes a lock for
    which SQLite does not wait: of several first connections, all but one may fail immediately because the file is locked.

    Raises sqlite3.OperationalError: the file is still locked after ``lock_timeout_seconds``, or the file cannot be used.
    """
    until = monotonic() + lock_timeout_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
        sleep(_LOCK_POLL_SECONDS)


def _postgresql(url: sa.URL, lock_timeout_seconds: float, silence_clock: Callable[[], float] | None) -> sa.Engine:
    """Return an engine that limits the silence of the server by ``silence_clock``; None: no limit."""
    if "@" in (url.host or "") or "@" in (url.database or ""):
        # What SQLAlchemy takes for the host or the database is then a piece of the password, and must not be quoted.
        raise ConfigurationError(
            "[database] connection cannot be read: in user and password write %40 for @, %2F for /, and %3A for :"
        )
    settings = {
        "lock_timeout": f"{round(lock_timeout_seconds * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_TIMEOUT_SECONDS}s",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=False,
        connect_args={
            "options": options,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "tracker-worker",
        },
    )

    @sa.event.listens_for(engine, "handle_error")
    def lost(context: sa.engine.ExceptionContext) -> None:
        # An error without an SQLSTATE comes from the driver, which has lost the server. If the socket fails while the driver
        # waits, the driver raises before libpq knows. SQLAlchemy would then take the connection for usable: its rollback
        # would fail with a traceback in the log, and the pool would keep its other connections.
        error = context.original_exception
        if isinstance(error, engine.dialect.loaded_dbapi.OperationalError) and getattr(error, "sqlstate", None) is None:
            context.is_disconnect = True

    # Imported here because psycopg is installed only where PostgreSQL is used.
    from tracker_worker.store.sql import arrays, read_timeout

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.adapters.register_dumper(arrays.Binary, arrays.BinaryDumper)

    if silence_clock is None:
        return engine

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return read_timeout.connect(*arguments, monotonic=silence_clock, **options)

    return engine
