# SPDX-License-Identifier: Apache-2.0
"""The file of an SQLite database: who may read it, and whether it is still the file of its name. A database that is open stays
what it is when its file is deleted or replaced: commits succeed, and the next start finds nothing of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from tracker_worker.errors import StoreUnavailable
from tracker_worker.files import create_private
from tracker_worker.store.base import StoreReplaced
from tracker_worker.store.sql.location import sqlite_path


def ensure_private_file(url: sa.URL) -> None:
    """Create the file of an SQLite URL if a connection to it would, for its user alone. SQLite gives the files that it makes
    beside a database, as ``-wal`` and ``-shm``, the mode of the database. An existing file and its mode stay as they are, and
    what keeps the file from being created, SQLite says too."""
    if url.query.get("mode") in (None, "rwc") and "mode=" not in (url.database or ""):
        with suppress(OSError):
            create_private(sqlite_path(url))


class WatchedFile:
    """Any thread may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """From now on, the file must be the one that has the name now. Raises StoreUnavailable."""
        self._identity = self._look()

    def check(self) -> None:
        """Raises StoreReplaced: another file has the name now, or none. Raises StoreUnavailable: this cannot be seen."""
        if self._identity is not None:
            found = self._look()
            if found != self._identity:
                raise StoreReplaced(str(self.path), deleted=found is None)

    def _look(self) -> tuple[int, int] | None:
        """The device and the inode of the file; None: there is none."""
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnavailable(reason=f"{self.path}: {error.strerror}") from error
        return found.st_dev, found.st_ino


def watched_file(url: sa.URL) -> WatchedFile | None:
    """The file of an SQLite database; None: the database is on a server."""
    return WatchedFile(sqlite_path(url)) if url.get_backend_name() == "sqlite" else None
