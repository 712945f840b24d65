# SPDX-License-Identifier: Apache-2.0
"""What the error of a database means for a transaction. Any thread may call these functions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Conflict, HostLocked, Unstorable
from tracker_worker.store.sql.rights import denied

LOCK_NOT_AVAILABLE = "55P03"
COUNT_DIFFERS = "22012"
"""A commit's statement on PostgreSQL divides by zero where the number of changed rows is not the expected one: see
``statements``."""
# SQLSTATEs of PostgreSQL (its manual, appendix A). None: the server's own words say which row.
_CONFLICTS = {
    "23503": None,
    "23505": None,
    "40001": None,
    "40P01": "deadlock with another writer",
    COUNT_DIFFERS: "a node has another generation, or an instance is charged to another node of the host",
}
# Connection, transaction state, rollback, resources, object state, operator, system.
_AWAY_CLASSES = ("08", "25", "40", "53", "55", "57", "58")
# Of SQLite. PROTOCOL: other processes have held the locks of the write-ahead log for too long.
_AWAY_CODES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_CONFLICT_CODES = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    }
)
# What psycopg raises without an SQLSTATE when it has lost the server, or a class below one of these. DatabaseError itself: an
# error of libpq.
_LOST = {"OperationalError", "InterfaceError", "InternalError"}


def meaning(error: Exception) -> Conflict | StoreUnavailable | Unstorable:
    """Return what a failed transaction means, for an error of a driver, of SQLAlchemy, or of what prepares values for a driver.
    Whatever is neither a conflict nor an absent store is Unstorable."""
    if isinstance(error, Conflict | StoreUnavailable | Unstorable):
        return error
    if isinstance(error, sa.exc.TimeoutError):  # every connection of the pool is in use
        return StoreUnavailable(reason=str(error))
    original: Any = getattr(error, "orig", None) or error
    reason = str(original) or type(original).__name__
    refused = denied(original)
    if refused is not None:  # nothing is wrong with what was to be written: it waits for the right
        return StoreUnavailable(reason=refused)
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", None)
        if code in _CONFLICT_CODES:
            return Conflict(reason)
        away = code is not None and code & 0xFF in _AWAY_CODES
    else:
        state = getattr(original, "sqlstate", None)
        if state in _CONFLICTS:
            return Conflict(_CONFLICTS[state] or reason)
        if state == LOCK_NOT_AVAILABLE:
            return HostLocked(reason=reason)
        away = is_lost(original) if state is None else state[:2] in _AWAY_CLASSES
    return StoreUnavailable(reason=reason) if away else Unstorable(reason)


@contextmanager
def explained() -> Iterator[None]:
    """Turn every exception of a commit into its ``meaning``."""
    try:
        yield
    except Exception as error:
        failure = meaning(error)
        if failure is error:
            raise
        raise failure from error


def is_lost(error: BaseException | None) -> bool:
    """Whether psycopg has lost the server, or never had it."""
    kind = type(error)
    if kind.__module__.partition(".")[0] != "psycopg" or getattr(error, "sqlstate", None) is not None:
        return False
    return kind.__name__ == "DatabaseError" or any(each.__name__ in _LOST for each in kind.__mro__)
