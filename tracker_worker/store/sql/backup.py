# SPDX-License-Identifier: Apache-2.0
"""Copies of an SQLite database, and a database that becomes what a copy is. PostgreSQL has programs of its own for both.

Each function is one step of ``db backup`` or ``db restore``, and belongs to one thread. Paths are those of files; a step that
needs a directory gets one on the same file system. Each raises BackupError, whose text is one sentence for the operator.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tracker_worker.errors import ConfigurationError
from tracker_worker.files import create_private
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.location import sqlite_url

_HEADER = b"SQLite format 3\0"
_SIDE_FILES = ("-wal", "-shm", "-journal")
# So many pages are copied between two calls of ``progress``: 4 MiB with SQLite's usual page.
_STEP_PAGES = 1024

Progress = Callable[[int, int, int], None]
"""Called between two steps with the result of the last one, the number of pages that are left, and the number of all."""


class BackupError(Exception):
    """A copy cannot be made or used."""


class DatabaseInUse(BackupError):
    """Another process has the database open."""


def copy_database(source: Path, target: Path) -> None:
    """Make ``target``, a new file that only its user can read, a copy of the database ``source`` as of one commit, in one file.
    Whoever uses the source goes on, also with writing.

    Raises BackupError: ``source`` is no usable SQLite database, or ``target`` cannot be written.
    """
    try:
        with source.open("rb") as file:
            header = file.read(len(_HEADER))
        create_private(target)
    except OSError as error:
        raise BackupError(f"{error.filename} cannot be used: {error.strerror}") from error
    if header != _HEADER:
        raise BackupError(f"{source} is no SQLite database")
    try:
        with closing(_opened_for_reading(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            # One file: the copy may be moved, and read where nothing can be written beside it.
            new.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = new.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied to {target}: {error}") from error
    if verdict != "ok":
        raise BackupError(f"the database {source} is damaged: {' '.join(verdict.split())}")
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _opened_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that leaves no file beside ``path``, unless there is one."""
    in_use = any(_size(path.with_name(path.name + suffix)) for suffix in _SIDE_FILES)
    return sqlite3.connect(f"{path.absolute().as_uri()}?{'mode=ro' if in_use else 'immutable=1'}", uri=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def bring_up_to_date(copy: Path, *, named: Path) -> None:
    """Upgrade the schema of ``copy``, which is a copy of ``named``, to that of this release.

    Raises BackupError: it is no database of this program, or one of a newer release.
    """
    engine = engines.create_engine(sqlite_url(copy))
    try:
        if migration.current(engine) is None:
            raise BackupError(f"{named} is no database of tracker-worker: it has no schema")
        migration.ensure_schema(engine)
    except ConfigurationError as error:
        raise BackupError(f"{named} cannot be restored: {error}") from error
    finally:
        engine.dispose()


class LockedDatabase:
    """An SQLite database that no other process can use. ``ledger_id``: that of its present history, as far as it has one."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @property
    def ledger_id(self) -> str | None:
        try:
            found = self._connection.execute("SELECT ledger_id FROM histories ORDER BY number DESC LIMIT 1").fetchone()
        except sqlite3.Error:  # a schema without histories
            return None
        return None if found is None else str(found[0])

    def become(self, copy: Path, progress: Progress | None = None) -> None:
        """Take the content of the database ``copy``, in one transaction: a process that dies meanwhile leaves a database which
        the next one that opens it finds as it was before.

        Raises BackupError: the content cannot be written; the database is as it was.
        """
        try:
            with closing(_opened_for_reading(copy)) as source:
                source.backup(self._connection, pages=_STEP_PAGES, progress=progress)
        except sqlite3.Error as error:
            raise BackupError(f"the database {self._path} stays as it is: {error}") from error


@contextmanager
def locked_database(path: Path) -> Iterator[LockedDatabase]:
    """Keep every other process from the existing database ``path`` until the end of the block. A process that has it open, also
    an idle or a stopped one, holds a lock on the file by which it is found.

    Raises DatabaseInUse. Raises BackupError: the file is no SQLite database, or is damaged.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # Whoever has the database open keeps the write-ahead log from being given up. The lock of this statement is shared.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # the lock stays
            yield LockedDatabase(path, connection)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DatabaseInUse(f"another process has the database {path} open") from error
        raise BackupError(
            f"{path} is no usable database ({error}): move it away, with {_beside(path)} if they are there, and restore again"
        ) from error


def put_in_place(copy: Path, target: Path) -> None:
    """Give ``copy`` the name ``target`` of a database that does not exist.

    Raises BackupError: there is one, or files are there that belong to one.
    """
    left = [str(path) for path in _side_files(target) if path.exists()]
    if left:
        raise BackupError(f"{', '.join(left)}: this belongs to another database {target}; move it away")
    try:
        os.link(copy, target)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BackupError(f"the database {target} cannot be made: {error.strerror}") from error
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES]


def _beside(path: Path) -> str:
    *first, last = (file.name for file in _side_files(path))
    return f"{', '.join(first)} and {last}"
