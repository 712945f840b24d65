# SPDX-License-Identifier: Apache-2.0
"""Database engines as the store wants them, and their schema's migrations."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tracker_worker.errors import ConfigurationError

# Behind somebody else's lock a commit gives up after this long and is made again: meanwhile nothing else is done, and a call
# that would expire is not told so. Longer than PostgreSQL waits before it looks for a deadlock (1 s). The session of a writer
# that is stalled (a stopped process that holds a lock) is ended by the server a little later, so that a successor can go on.
LOCK_TIMEOUT_SECONDS = 1.5
IDLE_TRANSACTION_TIMEOUT_SECONDS = 20
CONNECT_TIMEOUT_SECONDS = 3
# How often a lock is asked for that SQLite does not wait for.
_LOCK_POLL_SECONDS = 0.01


def create_engine(url: str, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS, patient: bool = True) -> sa.Engine:
    """An engine for a file of SQLite or for PostgreSQL with psycopg. Connects to nothing yet. Where it is not ``patient``, a
    PostgreSQL that says nothing counts as lost, also one that is busy: a migration wants patience.

    Raises ConfigurationError: any other database or driver, a malformed URL, a driver that is not installed.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
            return _sqlite(parsed, lock_timeout_seconds)
        if parsed.drivername in ("postgresql", "postgresql+psycopg"):
            return _postgresql(parsed, lock_timeout_seconds, patient)
    except ArgumentError as error:
        raise ConfigurationError(f"[database] connection is not a usable URL: {error}") from error
    except ValueError:
        # What it could not read is quoted in the error, and may be a password.
        raise ConfigurationError("[database] connection is not a usable URL: a number was expected") from None
    except ImportError as error:
        raise ConfigurationError(
            f"[database] connection needs a driver that is not installed ({error.name}): "
            "pip install 'tracker-worker[postgresql]'"
        ) from error
    raise ConfigurationError(
        f"[database] connection is for {parsed.drivername}; sqlite and postgresql+psycopg are supported"
    )


def _sqlite(url: sa.URL, lock_timeout_seconds: float) -> sa.Engine:
    if url.database in (None, "", ":memory:") or url.query.get("mode") == "memory":
        # Every connection would have a database of its own.
        raise ConfigurationError("[database] connection names no file: give it as sqlite:////path/to/file")
    engine = sa.create_engine(url, connect_args={"timeout": lock_timeout_seconds, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guesses
        _write_ahead(connection, lock_timeout_seconds)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock first: one that upgraded later could find its snapshot stale and fail at once.
        writes = connection.get_execution_options().get("tracker_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(connection: sqlite3.Connection, lock_timeout_seconds: float) -> None:
    """The journal mode of the file, which the first connection to a new one changes. SQLite does not wait for the lock that
    this takes: of several first connections all but one may be told at once that the file is locked.

    Raises sqlite3.OperationalError: it is still locked after so many seconds, or the file cannot be used.
    """
    until = time.monotonic() + lock_timeout_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(_LOCK_POLL_SECONDS)


def _postgresql(url: sa.URL, lock_timeout_seconds: float, patient: bool) -> sa.Engine:
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
        # Without an SQLSTATE it is not the server that speaks, but the driver that has lost it. Where the socket fails while
        # it waits, it says so before libpq knows, and the connection would be taken for usable: rolled back, which fails
        # with a traceback in the log, and the pool's others would be kept.
        error = context.original_exception
        if isinstance(error, engine.dialect.loaded_dbapi.OperationalError) and getattr(error, "sqlstate", None) is None:
            context.is_disconnect = True

    if patient:
        return engine
    from tracker_worker.store.sql.read_timeout import (
        ImpatientConnection,  # psycopg is installed only where it is wanted
    )

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> ImpatientConnection:
        return ImpatientConnection.connect(*arguments, **options)

    return engine


def _alembic(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _migrating(engine: sa.Engine) -> Iterator[Config]:
    """One transaction that no other migration runs beside. Raises ConfigurationError for whatever goes wrong in it."""
    with _explained(engine), engine.connect().execution_options(tracker_writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7214021)"))
        yield _alembic(connection)


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the schema to ``revision``, all the way or not at all. Concurrent callers queue."""
    with _migrating(engine) as config:
        command.upgrade(config, revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Take the schema back to ``revision``, all the way or not at all. Concurrent callers queue."""
    with _migrating(engine) as config:
        command.downgrade(config, revision)


def current(engine: sa.Engine) -> str | None:
    """The revision that the database is at; None: no schema."""
    with _explained(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision that this release needs."""
    revision = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert revision is not None
    return revision


def ensure_schema(engine: sa.Engine) -> None:
    """SQLite is created and upgraded; any other database must be at the head already.

    Raises ConfigurationError: behind, ahead, or out of reach.
    """
    found = current(engine)
    if found == head():
        return
    if found is not None and found not in {
        script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()
    }:
        raise ConfigurationError(f"the database schema is at revision {found}, which this release does not know")
    if engine.dialect.name == "sqlite":
        upgrade(engine)
    else:
        at = f"at revision {found}" if found else "missing"
        raise ConfigurationError(f"the database schema is {at}, not at {head()}: run 'tracker-worker db upgrade'")


class _explained:
    """Errors of drivers and of alembic become one sentence for the operator; passwords stay out of it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._url = engine.url.render_as_string(hide_password=True)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, SQLAlchemyError | CommandError):
            why = " ".join(str(getattr(error, "orig", None) or error).split())
            raise ConfigurationError(f"the database {self._url} cannot be used: {why}") from error
