# SPDX-License-Identifier: Apache-2.0
"""What the errors of the drivers mean for a commit."""

from __future__ import annotations

import sqlite3
from functools import partial

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors

from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Conflict, HostLocked, Unstorable
from tracker_worker.store.sql.failures import explained, meaning


def of_sqlite(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, f"SQLITE_{name}"), name
    return error


def of_postgresql(state: str) -> psycopg.Error:
    return errors.lookup(state)("the server says no")


SQLITE_AWAY = ["FULL", "IOERR", "READONLY", "BUSY", "LOCKED", "CORRUPT", "NOTADB", "CANTOPEN", "PROTOCOL"]
SQLITE_EXTENDED = ["IOERR_FSYNC", "READONLY_DBMOVED", "BUSY_SNAPSHOT", "CANTOPEN_ISDIR", "CORRUPT_INDEX"]


@pytest.mark.parametrize("name", SQLITE_AWAY + SQLITE_EXTENDED)
def test_an_sqlite_file_that_cannot_be_used_is_an_absent_store(name: str) -> None:
    assert type(meaning(of_sqlite(name))) is StoreUnavailable


@pytest.mark.parametrize(
    "state", ["08006", "25006", "25P02", "40000", "40003", "53100", "53300", "55000", "57014", "57P01", "58030"]
)
def test_a_server_that_cannot_serve_is_an_absent_store(state: str) -> None:
    found = meaning(of_postgresql(state))
    assert type(found) is StoreUnavailable
    assert found.kwargs == {"reason": "the server says no"}


@pytest.mark.parametrize(
    ("said", "grant"),
    [
        ("permission denied for table nodes", "GRANT SELECT, INSERT, UPDATE, DELETE ON nodes TO "),
        ("permission denied for table alembic_version", "GRANT SELECT ON alembic_version TO "),
        ("permission denied for sequence nodes_id_seq", "GRANT USAGE ON SEQUENCE nodes_id_seq TO "),
        ("permission denied for schema public\nLINE 1: SELECT", "GRANT USAGE ON SCHEMA public TO "),
        ("must be owner of table nodes", ""),
    ],
)
def test_a_missing_right_is_an_absent_store_and_says_what_to_grant(said: str, grant: str) -> None:
    found = meaning(errors.InsufficientPrivilege(said))
    assert type(found) is StoreUnavailable
    reason = found.kwargs["reason"]
    assert reason.startswith(said.partition("\n")[0])
    assert grant in reason
    assert reason.isprintable()


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("consuming input failed"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.DatabaseError("an error of libpq"),
        errors.ConnectionTimeout("timeout"),
        sa.exc.TimeoutError("the pool is empty"),
    ],
)
def test_a_lost_connection_is_an_absent_store(error: Exception) -> None:
    assert type(meaning(error)) is StoreUnavailable


@pytest.mark.parametrize(
    "error",
    [
        of_postgresql("40001"),
        of_postgresql("40P01"),
        of_postgresql("23503"),
        of_postgresql("23505"),
        of_postgresql("22012"),
        of_sqlite("CONSTRAINT_PRIMARYKEY"),
        of_sqlite("CONSTRAINT_UNIQUE"),
        of_sqlite("CONSTRAINT_FOREIGNKEY"),
    ],
)
def test_a_lost_race_is_a_conflict(error: Exception) -> None:
    assert isinstance(meaning(error), Conflict)


def test_a_row_that_is_locked_for_too_long_says_that_the_store_works() -> None:
    assert type(meaning(of_postgresql("55P03"))) is HostLocked


@pytest.mark.parametrize(
    "error",
    [
        *map(of_sqlite, ["ERROR", "TOOBIG", "CONSTRAINT_NOTNULL", "MISMATCH"]),
        *map(of_postgresql, ["22001", "22P05", "23502", "42P01", "42601", "54000"]),
        sqlite3.ProgrammingError("cannot operate"),
        psycopg.ProgrammingError("the query has 0 placeholders"),
        psycopg.DataError("text fields cannot contain NUL"),
        psycopg.NotSupportedError("no"),
        MemoryError(),
        RecursionError("too deep"),
        OverflowError("int too large"),
        ValueError("cannot encode"),
        TypeError("cannot encode"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}",
)
def test_everything_else_is_unstorable(error: Exception) -> None:
    assert isinstance(meaning(error), Unstorable)
    assert str(meaning(error))


def test_the_error_behind_sqlalchemy_s_error_counts() -> None:
    wrapped = partial(sa.exc.OperationalError, "SELECT 1", {})
    assert type(meaning(wrapped(of_postgresql("57P01")))) is StoreUnavailable
    assert isinstance(meaning(wrapped(of_sqlite("ERROR"))), Unstorable)


def test_an_error_that_has_its_meaning_passes_and_others_keep_their_cause() -> None:
    for error in (Conflict("first"), HostLocked(reason="x"), Unstorable("y")):
        with pytest.raises(type(error)) as caught, explained():
            raise error
        assert caught.value is error
    cause = of_sqlite("FULL")
    with pytest.raises(StoreUnavailable) as caught, explained():
        raise cause
    assert caught.value.__cause__ is cause
